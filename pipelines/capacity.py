"""What this machine offers a run, what limited one, and what would help."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ..extract.engines import cpu_has

if TYPE_CHECKING:
    from .extraction import Effort
    from .job import Job

Part = Literal["decode", "network", "preprocess", "files"]

_BUSY = 0.75
"""A network that runs for this share of the time limits the run: the rest of the pipeline cannot win more."""

_AMPERE = 8
"""Compute capability of the first GPUs with bf16 and TF32 matrix units."""

_SHORT_SECONDS = 5.0
"""Runs below this are mostly their own beginning and end, and teach nothing."""


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_decoders(device: str, cores: int) -> int:
    """Give the number of processes that decode: ``device`` is a kind, ``cpu`` or ``cuda``.

    On a CPU the network takes the cores, and a decoder makes frames ten times as fast as it eats them. Beside a GPU
    the cores have nothing else to do than to decode; one is left for what feeds it.
    """
    if device == "cpu":
        return max(1, min(4, cores // 4))
    return max(1, min(16, cores - 1))


def bottleneck(effort: Effort) -> Part | None:
    """Say what limited a run; None for one too short to tell."""
    if effort.seconds < _SHORT_SECONDS:
        return None
    if effort.network_busy >= _BUSY * effort.seconds:
        return "network"
    own = effort.seconds - effort.waited_for_network - effort.waited_for_frames - effort.waited_for_files
    shares: dict[Part, float] = {
        "decode": effort.waited_for_frames,
        "network": effort.waited_for_network,
        "preprocess": own,
        "files": effort.waited_for_files,
    }
    return max(shares, key=lambda part: shares[part])


@dataclass(frozen=True, slots=True)
class Gain:
    """What another way to run a network gains: ``times`` the frames a second, ``seen`` where that was measured."""

    options: str
    times: float
    seen: str


GAINS: Mapping[tuple[str, str, str], Gain] = MappingProxyType(
    {
        ("cpu+amx", "torch-eager", "fp32"): Gain(
            "--precision bf16 and pip install 'vadx[cpu]'", 9, "I3D, C3D and R(2+1)D on a CPU with AMX"
        ),
        ("cpu+amx", "torch-eager", "bf16"): Gain(
            "pip install 'vadx[cpu]'", 2, "I3D, C3D and R(2+1)D on a CPU with AMX"
        ),
        ("cpu+amx", "openvino", "fp32"): Gain("--precision bf16", 3.5, "I3D, C3D and R(2+1)D on a CPU with AMX"),
        ("cpu+amx", "torch-winograd", "fp32"): Gain(
            "--precision bf16 and pip install 'vadx[cpu]'", 3.5, "reckoned from C3D under openvino with AMX"
        ),
        ("cpu+bf16", "torch-eager", "fp32"): Gain(
            "--precision bf16 and pip install 'vadx[cpu]'", 2, "I3D, C3D, R(2+1)D and BN-Inception on an AMD EPYC"
        ),
        ("cpu+bf16", "openvino", "fp32"): Gain("--precision bf16", 1.9, "I3D, R(2+1)D and BN-Inception on an AMD EPYC"),
        ("cuda+bf16", "torch-eager", "fp32"): Gain("--precision bf16 or tf32", 4, "by its arithmetic rates"),
    }
)
"""(device, engine, precision) -> what gains more than 1.5 times there. Other precisions are other recipes."""


def device_kind(device: str) -> str:
    """Give ``cpu`` or ``cuda``, with ``+amx`` or ``+bf16`` where it has such instructions to multiply bf16 faster."""
    if device == "cpu":
        return "cpu+amx" if cpu_has("amx_bf16") else "cpu+bf16" if cpu_has("avx512_bf16") else "cpu"
    import torch

    return "cuda+bf16" if torch.cuda.get_device_capability(device)[0] >= _AMPERE else "cuda"


def advice(part: Part, job: Job, num_decoders: int, *, device: str, cores: int) -> str:
    """Say in one line what to change where this part limits a run; ``device`` as `device_kind` gives it."""
    if part == "decode":
        if num_decoders < cores:
            return (
                f"decoding limited the run: try --decoders {min(cores, max(2, 2 * num_decoders))} (now {num_decoders})"
            )
        return f"decoding limited the run, with all {cores} cores at it: more cores would help"
    if part == "files":
        return "reading, hashing and storing files limited the run: a faster disk would help"
    if part == "preprocess":
        if num_decoders == 0:
            return "preprocessing limited the run, and nothing ran beside it: leave --decoders 0 out"
        return "preprocessing limited the run: fewer crops or a larger --clip-stride make less of it"
    gain = GAINS.get((device, job.engine, job.recipe.precision))
    if gain is not None:
        return (
            f"the network limited the run: {gain.options} would be about {gain.times:g} x as fast "
            f"({gain.seen}; another precision is another feature set)"
        )
    return (
        f"the network limited the run ({job.engine}, {job.recipe.precision}, {job.device}): a faster device would help"
    )
