"""What a detector's network runs in: its device, its precision, and who is told when memory ends.

Only convolutions and matrix products run in fewer bits. Anchors, the decoding of boxes, RoIAlign, softmax and NMS stay
in float32: under autocast as a whole anchors were seen to be off by 7 pixels, and scores come back with 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ResourceError, UsageError


@dataclass(frozen=True, slots=True)
class Precision:
    """``dtype`` of the autocast parts, None for float32; ``tf32`` allows TensorFloat-32 in them on GPUs."""

    dtype: torch.dtype | None = None
    tf32: bool = False
    on_cpu: bool = True


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": Precision(),
        "tf32": Precision(tf32=True, on_cpu=False),
        "bf16": Precision(torch.bfloat16),
        "fp16": Precision(torch.float16, on_cpu=False),
    }
)

DEFAULT_BATCH: Mapping[str, int] = MappingProxyType({"cpu": 1, "cuda": 8})
"""Device kind -> frames that run at once. More gain nothing on CPUs, where one frame fills every core."""


def check_device(name: str, precision: str) -> torch.device:
    """Give the device of this name, once it is there and has this precision.

    Raises
    ------
    UsageError
        if not.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device {name!r}; use cpu, cuda or cuda:N"
        raise UsageError(msg) from error
    if device.type not in DEFAULT_BATCH:
        msg = f"device {name!r} is not supported; use cpu, cuda or cuda:N"
        raise UsageError(msg)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs; use cpu"
        raise UsageError(msg)
    if precision not in PRECISIONS or (device.type == "cpu" and not PRECISIONS[precision].on_cpu):
        can = ", ".join(name for name, mode in PRECISIONS.items() if device.type != "cpu" or mode.on_cpu)
        msg = f"precision {precision!r} is not one that {device.type} has; use {can}"
        raise UsageError(msg)
    return device


class InPrecision(nn.Module):
    """Runs a part of a network in its precision, and gives its tensors back as float32."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.part = part
        self._dtype = dtype

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(_device_type(inputs), dtype=self._dtype):
            outputs = self.part(*inputs)
        return _floats(outputs)


def reduce_precision(network: nn.Module, parts: tuple[str, ...], precision: str) -> None:
    """Have the named parts of a network run in this precision, in place."""
    dtype = PRECISIONS[precision].dtype
    if dtype is None:
        return
    for path in parts:
        owner, _, name = path.rpartition(".")
        module = network.get_submodule(owner)
        setattr(module, name, InPrecision(network.get_submodule(path), dtype))


def _device_type(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return tree.device.type
    return _device_type(next(iter(tree.values() if isinstance(tree, Mapping) else tree)))


def _floats(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.float()
    if isinstance(tree, Mapping):
        return {key: _floats(value) for key, value in tree.items()}
    return type(tree)(map(_floats, tree))


@contextmanager
def ready_to_run(precision: str, device: torch.device, batch: int) -> Iterator[None]:
    """Run what is inside without gradients and, unless the precision allows it, without TensorFloat-32.

    Raises
    ------
    ResourceError
        if memory does not suffice.
    """
    allowed = "tf32" if PRECISIONS[precision].tf32 else "ieee"
    settings: tuple[Any, ...] = (
        torch.backends.cuda.matmul,
        getattr(torch.backends.cudnn, "conv"),  # noqa: B009  # torch makes it at run time: type checkers see none
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = allowed
        with torch.inference_mode():
            yield
    except (RuntimeError, MemoryError) as error:
        told = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(w in told for w in _OUT_OF_MEMORY):
            raise
        cure = f"give batch={batch // 2}" if batch > 1 else "free memory there, or give a smaller min_size"
        msg = f"{device} has too little memory for {batch} frames at once; {cure}"
        raise ResourceError(msg) from error
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


# How torch says it, in lower case, where it has no class of error for it.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")
