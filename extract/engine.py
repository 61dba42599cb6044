"""How a network runs: device, precision, memory layout, and one batch shape for a whole run."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..errors import ResourceError, UsageError
from .convolutions import WINOGRAD_TOLERANCE, with_time_convolutions, with_winograd
from .engines import DEFAULT_ENGINE, ENGINES, choose_engine
from .fold import fold_batchnorm, share_tensors
from .memory import keep_freed_memory
from .transforms import Normalizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Transform
    from .flow import FlowEstimator
    from .openvino_network import ModelCache, OpenvinoNetwork

_log = logging.getLogger(__name__)


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


def check_engine(name: str | None, precision: str, device: torch.device, network: str | None = None) -> str:
    """Give the engine that will run this precision on this device, as far as can be told before a network is there.

    ``name`` and ``network`` are as for `choose_engine`.

    Raises
    ------
    UsageError
        if the device does not have the precision, or the engine that was named cannot run it or is not installed.
    """
    check_precision(precision, device)
    chosen = choose_engine(name, device.type, precision, network=network)
    if chosen == "openvino":
        from .openvino_network import check_openvino

        try:
            check_openvino(precision)
        except UsageError:
            if name is not None:
                raise
            return DEFAULT_ENGINE
    return chosen


class Engine:
    """Runs one network on batches of one shape, so that a value never depends on which clips share its batch.

    ``mean_cube`` is what ``transform.mean_cube`` stands for, ``estimate_flow`` what computes the flow of a recipe
    that has one. ``engine`` is a name of the table ENGINES, None for the table's choice; ``cache`` is where a converted
    network is kept, and without one it is converted anew. Where the engine cannot run this network and ``fall_back``
    is set, which it is by default where no engine is named, torch runs it, with a warning; `name` and `provenance` are
    final from the first batch, or from `probe`. The network that is given stays as it is.

    One thread at a time may call `run`, any thread.

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
        fall_back: bool | None = None,
        cache: ModelCache | None = None,
    ) -> None:
        check_precision(precision, device)
        self.name = choose_engine(engine, device.type, precision)
        if batch < 1:
            msg = f"--batch must be at least 1, got {batch}"
            raise UsageError(msg)
        self.batch = batch
        self.device = device
        self.estimate_flow = estimate_flow
        self._precision = precision
        self._may_fall_back = engine is None if fall_back is None else fall_back
        self._normalize = Normalizer(transform, mean_cube)
        self._given = network.eval()
        if device.type == "cpu":
            keep_freed_memory()
            _hold_threads_to_cores()
        self._runner: EagerNetwork | OpenvinoNetwork
        if self.name == "openvino":
            from .openvino_network import OpenvinoNetwork

            try:
                # OpenVINO rounds inside, and starts from float32.
                converted = _converted(network, device, torch.float32)
                self._runner = OpenvinoNetwork(converted, precision=precision, cache=cache)
            except UsageError as error:
                self._fall_back(error)
        else:
            by_winograd = self.name == "torch-winograd"
            dtype = PRECISIONS[precision].dtype
            self._runner = EagerNetwork(network, device=device, dtype=dtype, by_winograd=by_winograd)

    @property
    def provenance(self) -> dict[str, str | int]:
        """What computed the values, as far as it does not change what they mean."""
        facts: dict[str, str | int] = {"engine": self.name, "device": self.device.type, "batch": self.batch}
        package = ENGINES[self.name].package
        return facts if package is None else {**facts, package: version(package)}

    def probe(self, shape: Sequence[int], *, fixed: bool = False) -> int:
        """Settle the batch, before the first clip, and make the network ready; give the batch, which stays.

        A batch of zeros of the real shape runs. Where memory does not suffice the batch is halved until it does.

        Parameters
        ----------
        shape
            of one input: ``(C, T, H, W)`` of a clip or ``(C, H, W)`` of a frame.
        fixed
            whether somebody asked for this batch, so that another may not be taken.

        Raises
        ------
        ResourceError
            if memory does not suffice for one input, or for a batch that is ``fixed``.
        UsageError
            if the engine was named and cannot run the network.
        """
        wanted = self.batch
        while True:
            try:
                with out_of_memory_is_ours(self.batch, self.device):
                    zeros = torch.zeros((self.batch, *shape), dtype=torch.uint8)
                self.run(zeros)
            except ResourceError:
                if self.batch == 1:
                    raise
                self._forget_memory()
                self.batch = math.ceil(self.batch / 2)
            else:
                break
        if self.batch == wanted:
            return wanted
        if fixed:
            fits, self.batch = self.batch, wanted
            msg = f"{_too_little(wanted, self.device)}; use --batch {fits}"
            raise ResourceError(msg)
        _log.warning("%s: it is %d for this run", _too_little(wanted, self.device), self.batch)
        return self.batch

    def run(self, inputs: Tensor, crops: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Map at most ``batch`` inputs to float32 features ``(n, dim)``.

        ``inputs`` are clips ``(n, C, T, H, W)`` or single frames ``(n, C, H, W)`` on the 0-255 scale, RGB where C is 3;
        ``crops`` says which crop each one is, the first if left out.

        Raises
        ------
        ResourceError
            if memory does not suffice.
        UsageError
            at the first batch, if the engine was named and cannot run the network.
        """
        num_inputs = inputs.shape[0]
        numbers = torch.tensor(crops if crops is not None else [0] * num_inputs)
        with out_of_memory_is_ours(self.batch, self.device):
            if num_inputs < self.batch:
                missing = self.batch - num_inputs
                inputs = torch.cat([inputs, inputs.new_zeros((missing, *inputs.shape[1:]))])
                numbers = torch.cat([numbers, numbers.new_zeros(missing)])
            with torch.inference_mode(), TensorFloat32(PRECISIONS[self._precision].tf32):
                # While they are bytes, which costs a quarter of doing it to floats.
                placed = inputs.to(self.device).contiguous(memory_format=self._runner.layout(inputs.dim()))
                features = self._features(self._normalize(placed, numbers.to(self.device)))
                values: NDArray[np.float32] = features[:num_inputs].float().cpu().numpy()
        return values

    def _features(self, normalized: Tensor) -> Tensor:
        try:
            features = self._runner(normalized)
        except UsageError as error:
            self._fall_back(error)
            features = self._runner(normalized)
        # What has run goes on running: a set is not of two engines.
        self._may_fall_back = False
        return features

    def _fall_back(self, error: UsageError) -> None:
        if not self._may_fall_back or self.name == DEFAULT_ENGINE:
            raise error
        self._may_fall_back = False
        _log.warning("%s runs this network instead of %s: %s", DEFAULT_ENGINE, self.name, error)
        self.name = DEFAULT_ENGINE
        self._runner = EagerNetwork(self._given, device=self.device, dtype=PRECISIONS[self._precision].dtype)

    def _forget_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class EagerNetwork:
    """A network as torch runs it, layer by layer: weights channels last, on CPUs with BatchNorm folded.

    ``by_winograd`` has 3x3 convolutions computed that way. It is made ready at the first call, from a copy of the
    structure: the network that is given stays as it is.
    """

    def __init__(
        self, network: nn.Module, *, device: torch.device, dtype: torch.dtype, by_winograd: bool = False
    ) -> None:
        self._given = network
        self._device, self._dtype, self._by_winograd = device, dtype, by_winograd
        self._ready: Callable[[Tensor], Tensor] | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map float32 ``(B, ...)`` to features ``(B, dim)`` of the network's precision.

        Raises
        ------
        UsageError
            at the first call, if Winograd's way is asked for and is none for this network.
        """
        if self._ready is None:
            self._ready = self._prepared(tuple(inputs.shape[1:]))
        return self._ready(inputs.to(self._dtype).contiguous(memory_format=self.layout(inputs.dim())))

    @staticmethod
    def layout(dimensions: int) -> torch.memory_format:
        """Give the order in memory that inputs of so many dimensions are wanted in."""
        return torch.channels_last_3d if dimensions == 5 else torch.channels_last

    def _prepared(self, shape: tuple[int, ...]) -> nn.Module:
        network = _converted(self._given, self._device, torch.float32)
        if self._device.type == "cpu":
            network = fold_batchnorm(network, (1, *shape))
            if self._dtype == torch.float32:
                network = with_time_convolutions(network, (1, *shape))
            if self._by_winograd:
                network = _by_winograd(network, (1, *shape))
        network = _converted(network, self._device, self._dtype)
        # 1.3 to 1.6 times faster on CPUs.
        return _channels_last_3d(network)


def _by_winograd(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    changed = with_winograd(network, shape)
    if changed is network:
        name = type(network).__name__
        msg = (
            f"{name} has no 3x3 convolutions that gain by Winograd's way, or lies further off with it than a relative "
            f"L2 of {WINOGRAD_TOLERANCE:g}; use --engine {DEFAULT_ENGINE}"
        )
        raise UsageError(msg)
    return changed


def _converted(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Give the network on this device in this precision: itself where it is so already, else a copy."""
    network.eval()
    if all((tensor.dtype, tensor.device) == (dtype, device) for tensor in network.parameters()):
        return network
    return copy.deepcopy(network).to(device=device, dtype=dtype)


def _channels_last_3d(network: nn.Module) -> nn.Module:
    """Give the network with kernels ``(O, I, T, H, W)`` laid out channels last: itself where it has none, else a copy.

    Kernels of two dimensions stay as they are: there it gained nothing (docs/numerics.md).
    """
    if all(parameter.dim() != 5 for parameter in network.parameters()):
        return network
    network = share_tensors(network)
    placed: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 5:
                if id(parameter) not in placed:
                    data = parameter.detach().contiguous(memory_format=torch.channels_last_3d)
                    placed[id(parameter)] = nn.Parameter(data, requires_grad=False)
                module._parameters[name] = placed[id(parameter)]
    return network


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "alloc_failed")
"""How torch and OpenVINO say it, in lower case, where they have no class of error for it."""


@contextmanager
def out_of_memory_is_ours(batch: int, device: torch.device) -> Iterator[None]:
    """Turn what torch raises where memory does not suffice for a batch into `ResourceError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise
        cure = f"use --batch {batch // 2}" if batch > 1 else "free memory there, or use another --device"
        msg = f"{_too_little(batch, device)}; {cure}"
        raise ResourceError(msg) from error


def _too_little(batch: int, device: torch.device) -> str:
    return f"{device} has too little memory for a batch of {batch}"


def _hold_threads_to_cores() -> None:
    """Take no more threads than the process may use cores. torch heeds affinity when it starts, and no quota ever."""
    cores = usable_cores()
    if torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Give the number of cores that affinity and the control group leave to this process, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        # No control group, or "max": no quota.
        return cores


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
