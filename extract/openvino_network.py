"""A network converted to OpenVINO, which runs it faster on CPUs. The only module that imports openvino."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UsageError
from .engines import DEFAULT_ENGINE, missing_message

if TYPE_CHECKING:
    from torch import Tensor, nn

_log = logging.getLogger(__name__)

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precision -> what OpenVINO calls it. Without a hint it would take bf16 for fp32 on CPUs that are good at bf16."""

_FORMAT = "1"
"""Raise it when a converted network of before must not be used again."""


@dataclass(frozen=True, slots=True)
class ModelCache:
    """Where converted networks are kept. ``identity`` is what tells networks of equal weights apart: name, switches."""

    folder: Path
    identity: str


class OpenvinoNetwork:
    """Maps float32 inputs to float32 features, as the torch network does, by OpenVINO on the CPU.

    It is converted at the first call, for the shape of that call's inputs; another shape converts it again. With a
    cache the converted network is kept there.

    Raises
    ------
    UsageError
        if openvino is missing, or the CPU or openvino lacks the precision; when called, if the network cannot be
        converted.
    """

    def __init__(self, network: nn.Module, *, precision: str, cache: ModelCache | None = None) -> None:
        check_openvino(precision)
        self._network = network
        self._hint = _HINTS[precision]
        self._cache = cache
        self._shape: tuple[int, ...] | None = None
        self._request: Any = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map ``(B, ...)`` float32 on the CPU to ``(B, dim)`` float32."""
        shape = tuple(inputs.shape)
        if shape != self._shape:
            self._request = _compiled(self._converted(shape), self._hint).create_infer_request()
            self._shape = shape
        self._request.infer({0: inputs.contiguous().numpy()}, share_inputs=True)
        # A copy: the next call writes into the same memory.
        return torch.from_numpy(self._request.get_output_tensor(0).data.copy())

    @staticmethod
    def layout(dimensions: int) -> torch.memory_format:
        """Give the order in memory that inputs are wanted in: rows as they come, whatever the ``dimensions``."""
        return torch.contiguous_format

    def _converted(self, shape: tuple[int, ...]) -> Any:
        if self._cache is None:
            return _convert(self._network, shape)
        entry = self._cache.folder / _key(self._network, self._cache.identity, shape)
        model = _read(entry)
        if model is None:
            # As a warning, so that a person sees why nothing happens for so long.
            _log.warning("the network is converted for openvino, once for this batch: this takes up to a minute")
            model = _convert(self._network, shape)
            _keep(model, entry)
        return model


def check_openvino(precision: str) -> None:
    """Raise `UsageError` if openvino cannot be imported, or does not run this precision on this CPU."""
    _openvino()
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        msg = f"this CPU has no bf16 arithmetic that openvino uses; use --precision fp32, or --engine {DEFAULT_ENGINE}"
        raise UsageError(msg)


def _openvino() -> Any:
    try:
        with _no_telemetry(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import openvino
            import openvino.tools.ovc.convert_impl
    except (ImportError, OSError) as error:
        raise UsageError(missing_message("openvino")) from error
    return openvino


@cache
def openvino_core() -> Any:
    """Give this process's one openvino core, which stays.

    Each core gives the thread that makes it a stack for signals, and takes up again the one of before when it goes: two
    that do not go in the order in which they came leave a stack that is no longer there, and the next signal, a Ctrl-C
    say, kills the process (openvino 2026.4.1).
    """
    return _openvino().Core()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep openvino from reporting its use over the network, which it does unasked when imported.

    Where its telemetry package is not to be had, it takes an empty stand-in of its own.
    """
    name = "openvino_telemetry"
    if name in sys.modules or "openvino" in sys.modules:
        # The process imported it before us: its own choice.
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        yield
    finally:
        del sys.modules[name]


def _compiled(model: Any, hint: str) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "EXECUTION_MODE_HINT": "ACCURACY" if hint == "f32" else "PERFORMANCE",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Threads that are nailed to cores lose to whatever else runs there, such as decoders.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino_core().compile_model(model, "CPU", options)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != hint:
        msg = f"openvino would compute in {taken} instead of {hint}; use --engine {DEFAULT_ENGINE}"
        raise UsageError(msg)
    return compiled


def _convert(network: nn.Module, shape: tuple[int, ...]) -> Any:
    openvino = _openvino()
    try:
        with torch.no_grad(), _logging_as_it_was(), warnings.catch_warnings():
            # Of torch's tracer: shapes become constants, which is what is wanted.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(network, example_input=torch.zeros(shape), input=[list(shape)])
    except Exception as error:  # tracing runs the network's code, and openvino has a dozen errors
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"openvino cannot convert {type(network).__name__}: {text}; use --engine {DEFAULT_ENGINE}"
        raise UsageError(msg) from error
    if len(model.outputs) != 1 or model.outputs[0].partial_shape.is_dynamic:
        msg = f"openvino cannot convert {type(network).__name__} for one shape; use --engine {DEFAULT_ENGINE}"
        raise UsageError(msg)
    return model


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a conversion that fails leaves behind: a root logger that lets no warning of the program through."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def _key(network: nn.Module, identity: str, shape: tuple[int, ...]) -> str:
    """Give the sha256 of all that a converted network is made from: weights, structure, code, shape, versions.

    Not the precision: fp32 and bf16 are compiled from one converted network.
    """
    versions = [f"{name} {version(name)}" for name in ("vadx", "torch", "torchvision", "openvino")]
    digest = hashlib.sha256("\n".join([_FORMAT, *versions, identity, repr(shape), repr(network)]).encode())
    own = {type(module).__module__ for module in network.modules()}
    for name in sorted(name for name in own if not name.startswith("torch.")):
        source = getattr(sys.modules.get(name), "__file__", None)
        digest.update(Path(source).read_bytes() if source else name.encode())
    # Buffers by themselves: a state dict leaves some out.
    for name, tensor in sorted([*network.named_parameters(), *network.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(entry: Path) -> Any:
    """Give the converted network kept in a folder; None if there is none, or its bytes are not those written."""
    try:
        record = json.loads((entry / "sha256.json").read_bytes())
        parts = {name: (entry / name).read_bytes() for name in ("model.xml", "model.bin")}
    except FileNotFoundError:
        if entry.exists():
            _log.warning("%s is incomplete: the network is converted again", entry)
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read: %s; the network is converted again", entry, error)
        return None
    if record != _hashes(parts):
        _log.warning("%s is damaged: the network is converted again", entry)
        return None
    try:
        return openvino_core().read_model(parts["model.xml"], parts["model.bin"])
    except RuntimeError as error:
        _log.warning("%s is nothing that openvino reads: %s; the network is converted again", entry, error)
        return None


def _keep(model: Any, entry: Path) -> None:
    """Put a converted network into the cache, whole or not at all. What goes wrong costs the next run a conversion."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".new-") as name:
            folder = Path(name) / entry.name
            folder.mkdir()
            # Not save_model: it would round the weights to 16 bits.
            _openvino().serialize(model, str(folder / "model.xml"), str(folder / "model.bin"))
            parts = {part: (folder / part).read_bytes() for part in ("model.xml", "model.bin")}
            (folder / "sha256.json").write_text(json.dumps(_hashes(parts)))
            if entry.exists():
                shutil.rmtree(entry)
            folder.rename(entry)
    except (OSError, RuntimeError) as error:
        _log.warning("the converted network cannot be kept in %s: %s", entry.parent, error)


def _hashes(parts: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
