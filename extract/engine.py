"""How a network runs: device, precision, memory layout, and one batch shape for a whole run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UsageError
from .engines import ENGINES, choose_engine
from .transforms import Normalizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..features.recipe import Transform
    from .flow import FlowEstimator
    from .openvino_network import ModelCache


@dataclass(frozen=True, slots=True)
class PrecisionMode:
    """``dtype`` of weights and input; ``tf32`` allows TensorFloat-32 matrix products on the GPUs that have them."""

    dtype: torch.dtype
    tf32: bool = False
    on_cpu: bool = True


PRECISIONS: Mapping[str, PrecisionMode] = MappingProxyType(
    {
        "fp32": PrecisionMode(torch.float32),
        "tf32": PrecisionMode(torch.float32, tf32=True, on_cpu=False),
        "bf16": PrecisionMode(torch.bfloat16),
        "fp16": PrecisionMode(torch.float16, on_cpu=False),
    }
)

DEFAULT_BATCH: Mapping[tuple[str, bool], int] = MappingProxyType(
    {("cpu", False): 2, ("cpu", True): 16, ("cuda", False): 32, ("cuda", True): 256}
)
"""(device kind, whether the network takes single frames) -> network inputs in a batch. Larger batches of clips gain
nothing on CPUs (docs/numerics.md)."""


def pick_device(name: str) -> torch.device:
    """Give the device of this name; ``auto`` is the first GPU, else the CPU.

    Raises
    ------
    UsageError
        if it is unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device {name!r}; use cpu, cuda or cuda:N"
        raise UsageError(msg) from error
    if (device.type, False) not in DEFAULT_BATCH:
        msg = f"device {name!r} is not supported; use cpu, cuda or cuda:N"
        raise UsageError(msg)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs; `vadx doctor` says why"
        raise UsageError(msg)
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UsageError` if the device does not have this precision."""
    if device.type == "cpu" and not PRECISIONS[precision].on_cpu:
        msg = f"--precision {precision} needs a GPU; on the CPU use fp32 or bf16"
        raise UsageError(msg)


def check_engine(name: str | None, precision: str, device: torch.device) -> None:
    """Raise `UsageError` if this engine cannot run this precision on this device, or is not installed."""
    check_precision(precision, device)
    if choose_engine(name, device.type, precision) == "openvino":
        from .openvino_network import check_openvino

        check_openvino(precision)


class Engine:
    """Runs one network on batches of one shape, so that a value never depends on which clips share its batch.

    ``mean_cube`` is what ``transform.mean_cube`` stands for, ``estimate_flow`` what computes the flow of a recipe
    that has one. ``engine`` is a name of the table ENGINES, ``cache`` where a converted network is kept; without one
    it is converted anew.

    Raises
    ------
    UsageError
        for a precision that the device does not have, or an engine that is not installed or cannot run it.
    """

    def __init__(
        self,
        network: nn.Module,
        transform: Transform,
        *,
        device: torch.device,
        precision: str,
        batch: int,
        mean_cube: Tensor | None = None,
        estimate_flow: FlowEstimator | None = None,
        engine: str | None = None,
        cache: ModelCache | None = None,
    ) -> None:
        check_precision(precision, device)
        self.name = choose_engine(engine, device.type, precision)
        mode = PRECISIONS[precision]
        if batch < 1:
            msg = f"--batch must be at least 1, got {batch}"
            raise UsageError(msg)
        self.batch = batch
        self.device = device
        self._mode = mode
        self.estimate_flow = estimate_flow
        self._normalize = Normalizer(transform, mean_cube)
        # OpenVINO rounds inside, and starts from float32.
        dtype = torch.float32 if self.name == "openvino" else mode.dtype
        if any(parameter.dtype != dtype for parameter in network.parameters()):
            # Rounding cannot be undone: the caller's network keeps its own precision.
            network = copy.deepcopy(network)
        network = network.eval().to(device=device, dtype=dtype)
        self._dtype = dtype
        self._network: Callable[[Tensor], Tensor]
        if self.name == "openvino":
            from .openvino_network import OpenvinoNetwork

            self._network = OpenvinoNetwork(network, precision=precision, cache=cache)
            return
        self._network = network
        for parameter in network.parameters():
            if parameter.dim() == 5:
                # Channels last in memory: 1.3 to 1.6 times faster on CPUs.
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    @property
    def provenance(self) -> dict[str, str | int]:
        """What computed the values, as far as it does not change what they mean."""
        facts: dict[str, str | int] = {"engine": self.name, "device": self.device.type, "batch": self.batch}
        package = ENGINES[self.name].package
        return facts if package is None else {**facts, package: version(package)}

    def run(self, inputs: Tensor, crops: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Map at most ``batch`` inputs to float32 features ``(n, dim)``.

        ``inputs`` are clips ``(n, C, T, H, W)`` or single frames ``(n, C, H, W)`` on the 0-255 scale, RGB where C is 3;
        ``crops`` says which crop each one is, the first if left out.
        """
        num_inputs = inputs.shape[0]
        numbers = torch.tensor(crops if crops is not None else [0] * num_inputs)
        if num_inputs < self.batch:
            missing = self.batch - num_inputs
            inputs = torch.cat([inputs, inputs.new_zeros((missing, *inputs.shape[1:]))])
            numbers = torch.cat([numbers, numbers.new_zeros(missing)])
        layout = torch.channels_last_3d if inputs.dim() == 5 else torch.channels_last
        if self.name == "openvino":
            # It takes rows as they come, and arranges them itself.
            layout = torch.contiguous_format
        with torch.inference_mode(), TensorFloat32(self._mode.tf32):
            normalized = self._normalize(inputs.to(self.device), numbers.to(self.device)).to(self._dtype)
            features = self._network(normalized.contiguous(memory_format=layout))
            values: NDArray[np.float32] = features[:num_inputs].float().cpu().numpy()
            return values


class TensorFloat32:
    """Allows or forbids TF32 while a network runs, and restores what the process had.

    By the newer of torch's two sets of names: the older one raises where a process has used the newer.
    """

    _settings: tuple[Any, Any] = (
        torch.backends.cuda.matmul,
        getattr(torch.backends.cudnn, "conv"),  # noqa: B009  # torch makes it at run time: type checkers see none
    )

    def __init__(self, allowed: bool) -> None:
        self._precision = "tf32" if allowed else "ieee"
        self._before: list[str] = []

    def __enter__(self) -> None:
        self._before = [setting.fp32_precision for setting in self._settings]
        for setting in self._settings:
            setting.fp32_precision = self._precision

    def __exit__(self, *exc_info: object) -> None:
        for setting, before in zip(self._settings, self._before, strict=True):
            setting.fp32_precision = before
