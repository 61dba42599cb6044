"""Reading checkpoint files of foreign layouts without running anything that stands in them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from ..errors import WeightsError
from ..features.plain_pickle import pickle_opcodes
from .key_maps import KeyMap, to_own_names, unwrap

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
        if isinstance(data, str):
            # Python 2 kept bytes as text, which is read as Latin-1: one character a byte.
            data = data.encode("latin1")
        if not isinstance(kind, _PickledType) or not isinstance(data, bytes):
            msg = "a pickle of arrays of numbers has no use for arrays of objects"
            raise WeightsError(msg)
        flat = np.frombuffer(data, kind.dtype).astype(kind.dtype.newbyteorder("="))
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _latin1_bytes(text: object, encoding: object) -> bytes:
    """Stand in for `_codecs.encode`, with which old pickle protocols spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        msg = "a pickle of arrays of numbers has no use for text codecs"
        raise WeightsError(msg)
    return text.encode("latin1")


# numpy 1 and 2 keep the function that rebuilds an array under different private names.
_ARRAY_PARTS: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _latin1_bytes,
    ("collections", "OrderedDict"): dict,
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
        for _ in pickle_opcodes(data):
            pass  # Looking at them is the check.
        return _unwrap(_ArrayUnpickler(io.BytesIO(data), encoding="latin1").load())
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


def read_checkpoint(path: Path, *, maps: Sequence[KeyMap] = (), trusted_torchscript: bool = False) -> dict[str, Tensor]:
    """Read a checkpoint file of any known format as a state dict of our names.

    ``maps`` are the network's published layouts, recognised from the keys. A TorchScript archive is a program, and read
    only where its hash was checked against a known one (``trusted_torchscript``).

    Raises
    ------
    WeightsError
        if the format is unknown, the file is broken, or it is refused as unsafe.
    """
    try:
        tree = unwrap(_read_tree(path, trusted_torchscript=trusted_torchscript))
        if not isinstance(tree, Mapping) or not all(isinstance(key, str) for key in tree):
            msg = "no mapping of names"
            raise TypeError(msg)
        return {key: _as_tensor(value) for key, value in to_own_names(tree, maps).items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        msg = f"{path}: its layout is not one that vadx knows; download it again, or name another checkpoint"
        raise WeightsError(msg) from error


_NO_CHECKPOINT: Mapping[bytes, str] = MappingProxyType(
    {b"<!doctype": "a web page", b"<html": "a web page", b"version https://git-lfs": "a git-lfs pointer"}
)
# The number with which torch's format before its zip archives begins, as a pickle of its own.
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_NPZ_SUFFIX = ".npz"

MAX_HEADER_BYTES = 10 << 20
"""Longest header of a safetensors file: the largest network here has 60 KB of it."""

MAX_RATIO = 4
MAX_SMALL_BYTES = 16 << 20
"""Weights hardly shrink: what unpacks to over 16 MiB and 4 times its size is none."""


def _read_tree(path: Path, *, trusted_torchscript: bool) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    for begins, what in _NO_CHECKPOINT.items():
        if head.lstrip().lower().startswith(begins):
            msg = f"{path} is {what}, not a checkpoint; download the file itself"
            raise WeightsError(msg)
    if path.suffix == ".safetensors":
        check_header_length(path)
        return safetensors.torch.load_file(path)
    if path.suffix == _NPZ_SUFFIX:
        return _read_npz(path)
    if head.startswith(b"PK"):
        if not _is_torchscript(path):
            return read_torch(path)
        if trusted_torchscript:
            return _read_torchscript(path)
        msg = f"{path} is a TorchScript program, which vadx runs only with a hash that it knows; add it by its name"
        raise WeightsError(msg)
    if head.startswith(_LEGACY_TORCH):
        return read_torch(path)
    if head[:1] not in (b"\x80", b"(", b"}", b"]"):
        msg = f"{path} is no checkpoint: not torch's, safetensors, .npz or a pickle; download it again"
        raise WeightsError(msg)
    try:
        return read_array_pickle(path.read_bytes())
    except WeightsError as error:
        msg = f"{path}: {error}, and nothing of it was run; download the file that its authors published"
        raise WeightsError(msg) from error


def check_header_length(path: Path) -> None:
    """Refuse a safetensors file whose header is longer than that of any network: the library takes 100 MB of it.

    Raises
    ------
    WeightsError
        with both lengths. A file that is too short for a header passes; the library refuses it.
    """
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes > MAX_HEADER_BYTES:
        msg = f"{path} claims a header of {num_bytes} bytes, more than {MAX_HEADER_BYTES}: it is no checkpoint"
        raise WeightsError(msg)


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to far more than it is long. torch and numpy.savez store their arrays plainly."""
    claimed = sum(info.file_size for info in archive.infolist())
    if claimed > MAX_RATIO * path.stat().st_size + MAX_SMALL_BYTES:
        msg = f"{path} would unpack to {claimed} bytes, {MAX_RATIO} times its length and more: it is no checkpoint"
        raise WeightsError(msg)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as members:
            _check_members(path, members)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except WeightsError:
        raise
    except (*_BROKEN, OSError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path} is not a file of plain numpy arrays, or it is broken; download it again"
        raise WeightsError(msg) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except WeightsError:
        raise
    except (*_BROKEN, OSError, zipfile.BadZipFile) as error:
        msg = f"{path} is a broken archive; download it again"
        raise WeightsError(msg) from error


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has nothing else that reads these archives
        warnings.simplefilter("ignore", DeprecationWarning)
        archive = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return dict(archive.state_dict())


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def num_classes(state: Mapping[str, Tensor], head: str) -> int | None:
    """Give the number of classes that a checkpoint's classifier tells apart.

    ``head`` is the prefix of its keys. 0 if the checkpoint has none, None if the network itself has none.
    """
    if not head:
        return None
    weights = [v for k, v in state.items() if k.startswith(f"{head}.") and k.endswith("weight")]
    return int(weights[-1].shape[0]) if weights else 0


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
        msg = f"{origin} does not fit {type(network).__name__}: {'; '.join(problems)}; name one of this network"
        raise WeightsError(msg)
    network.load_state_dict(dict(state), strict=False)


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else f"no tensor but {type(value).__name__}"


def _some(keys: list[str]) -> str:
    return ", ".join(map(str, keys[:3])) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
