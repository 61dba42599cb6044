"""What a run of ``vadx bench`` reports: speeds, what they say together, and where they were measured."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = {
    "decode": "files to RGB frames, in as many processes as the whole has",
    "preprocess": "resize, flow, crops and stacking of frames that are decoded",
    "network": "batches that are ready to features: copy to the device and back, normalisation, network",
    "write": "features to a shard in a store, forced to disk",
    "end_to_end": "`process_videos`: hash, decode, preprocess, network, write; start-up excluded",
    "with_start_up": "`vadx extract` in a fresh process: imports, weights and first batch included",
}
"""Part -> what it covers. The first four are the whole's parts, each step counted once."""

_BOUNDS = ("decode", "preprocess", "network", "write")

PLAIN_TOLERANCE = 1e-4
"""Largest relative L2 distance at which fp32 features of the plain way count as equal to vadx's."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Frames of the video a second: each repetition in order, their median, lowest and highest."""

    covers: str
    median: float
    lowest: float
    highest: float
    repetitions: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """``load`` is the one-minute load average before the measurement, None where the system has none."""

    device: str
    device_name: str
    cpu: str
    cores: int
    threads: int
    load: float | None


@dataclass(frozen=True, slots=True)
class BenchVideo:
    """What was measured on. ``seed`` is that of a video that vadx made, None for one that was given.

    ``path`` of a video that vadx made is its name in the cache's folder ``bench``.
    """

    path: str
    seed: int | None
    sha256: str
    frames: int
    width: int
    height: int
    fps: float
    codec: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What was run.

    ``decoders`` processes decoded, 0 for none beside this one, and ``videos`` copies of the video were on their way.
    ``frames_held`` is how many decoded frames a repetition of preprocess goes through; ``network_inputs`` are those
    of one copy.
    """

    preset: str
    backbone: str
    recipe_digest: str
    weights: str
    precision: str
    batch: int
    engine: dict[str, str | int]
    decoders: int
    videos: int
    repeat: int
    seconds: float
    frames_held: int
    network_inputs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the speeds say together.

    ``limit`` is the slowest part and ``bound`` its speed, which the whole cannot exceed; ``in_sequence`` is the speed
    of the parts one after another, which only work at the same time exceeds. ``smaller`` is the smaller of decode and
    network, and ``share`` how much of it end to end reaches.
    """

    limit: str
    bound: float
    in_sequence: float
    smaller: str
    share: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """The plain way, and vadx against it.

    ``share`` is how much of its own network's speed the baseline reaches; ``ratio`` is vadx end to end over the
    baseline. ``relative_l2`` is the distance of its features from vadx's, None if they have
    other shapes; ``equal`` says whether it is at most `PLAIN_TOLERANCE`, None where the recipe is not fp32.
    """

    name: str
    speed: Speed
    network: Speed
    share: float
    ratio: float
    clips: int
    relative_l2: float | None
    equal: bool | None


@dataclass(frozen=True, slots=True)
class BenchReport:
    """One run of `vadx bench`. ``speeds`` has the keys of `PARTS`."""

    format: int
    command: str
    versions: dict[str, str]
    machine: Machine
    video: BenchVideo
    settings: Settings
    speeds: dict[str, Speed]
    summary: Summary
    baseline: Baseline | None
    notes: tuple[str, ...]


def summarize(speeds: dict[str, Speed]) -> Summary:
    """Say what limits the whole, from the medians."""
    bounds = {name: speeds[name].median for name in _BOUNDS}
    limit = min(bounds, key=lambda name: bounds[name])
    smaller = min(("decode", "network"), key=lambda name: bounds[name])
    return Summary(
        limit=limit,
        bound=bounds[limit],
        in_sequence=1 / sum(1 / value for value in bounds.values()),
        smaller=smaller,
        share=speeds["end_to_end"].median / bounds[smaller],
    )


def speed_of(repetitions: Sequence[float], covers: str) -> Speed:
    """Give a part's speed from its repetitions, in frames/s."""
    return Speed(covers, median(repetitions), min(repetitions), max(repetitions), tuple(repetitions))


def describe_machine(device: torch.device, load: float | None) -> Machine:
    """Say where this runs; ``load`` as in `Machine`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = _cpu_name()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return Machine(str(device), name, cpu, cores, torch.get_num_threads(), load)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def opencv_version() -> dict[str, str]:
    """Give OpenCV's version where it was used: its packages have several names."""
    module = sys.modules.get("cv2")
    return {} if module is None else {"opencv": str(getattr(module, "__version__", "unknown"))}
