"""What each worker of a machine is given: a GPU of its own where there are some, and its share of the cores."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..extract.memory import KEEPING

CORES = "VADX_CORES_OF_WORKER"
"""Variable of a worker's environment: how many cores it may use. Dask gives its processes one thread."""

WORKER_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "distributed.worker.profile.enabled": False,
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in KEEPING.items()},
    }
)
"""Dask's settings of a worker. Its profiler holds what a call that it sees has open, so that HDF5 closes it later than
without, and lays a file of the same content out in another way. And by itself Dask has a worker give memory back to the
system whenever it can: see `keep_freed_memory`."""

SHELL_LINES = (
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
    *(f"export {name}={value}" for name, value in KEEPING.items()),
)
"""What `WORKER_SETTINGS` are where a shell starts a worker."""

_GPU_NAME = re.compile(r"\d+|(?:GPU|MIG)-[0-9A-Za-z/-]+")
"""As CUDA_VISIBLE_DEVICES names one: its number, or a UUID of it or of a part of it."""


def gpus_named(text: str | None, num_gpus: int) -> list[str]:
    """Give the GPUs of a process as CUDA_VISIBLE_DEVICES, which is ``text``, names them; CUDA sees ``num_gpus`` there.

    As for CUDA, the first name that means none hides all that come after it, so that an empty text and -1 hide all.
    """
    if text is None:
        return [str(number) for number in range(num_gpus)]
    names = []
    for name in (part.strip() for part in text.split(",")):
        if not _GPU_NAME.fullmatch(name):
            break
        names.append(name)
    # Numbers of GPUs that are not there.
    return names[:num_gpus]


def visible_gpus() -> list[str]:
    """Give the GPUs of this process, each as CUDA_VISIBLE_DEVICES names it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not gpus_named(named, 1):
        # Torch takes seconds to load.
        return []
    import torch

    return gpus_named(named, torch.cuda.device_count())


def gpus_of(device: str) -> list[str]:
    """Give the GPUs that workers of a device share: the one of ``cuda:N``, all of ``cuda``, none of ``cpu``."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return []
    return visible_gpus() if not number else [visible_gpus()[int(number)]]


def usable_cores() -> int:
    """Give the cores of this process: a worker has its share of a machine's."""
    from .capacity import usable_cores

    return int(os.environ.get(CORES, 0)) or usable_cores()


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What one worker is given: so many cores, and a GPU, as CUDA_VISIBLE_DEVICES names it, or none."""

    num_cores: int
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What its process finds in its environment."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {CORES: str(self.num_cores), **gpu}

    def __str__(self) -> str:
        return f"{self.num_cores} core{'s'[: self.num_cores > 1]}" if self.gpu is None else f"GPU {self.gpu}"


def places_of(num_workers: int, gpus: Sequence[str], num_cores: int) -> list[WorkerPlace]:
    """Give each worker of a machine a GPU in turn, if there are any, and its share of the cores, one at least."""
    cores = max(1, num_cores // num_workers)
    return [WorkerPlace(cores, gpus[number % len(gpus)] if gpus else None) for number in range(num_workers)]
