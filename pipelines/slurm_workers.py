"""Workers that SLURM starts: a job each, on however many nodes, which end with the run."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ClusterError, UsageError
from .cluster import DaskWorkers, dashboard_of, hush_dask
from .share_work import Unit
from .worker_places import SHELL_LINES

_NEEDS = "pip install 'vadx[slurm]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """A table ``[cluster.NAME]`` of the settings file: what each worker asks SLURM for.

    ``workers`` is how many jobs there are at most. ``memory`` and ``time`` are as sbatch takes them. ``scratch`` is a
    folder of each node for Dask's own files, ``interface`` the network by which nodes reach this machine, such as
    ``ib0``; ``directives`` are further options of sbatch.

    Raises
    ------
    UsageError
        for less than one worker or core, or fewer GPUs than none.
    """

    workers: int = 4
    time: str = "24:00:00"
    gpus: int = 1
    cpus: int = 8
    memory: str = "32G"
    partition: str | None = None
    account: str | None = None
    scratch: str | None = None
    interface: str | None = None
    directives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.workers, self.cpus, self.gpus + 1) < 1:
            msg = f"a cluster has workers and cpus, and no fewer gpus than none; got {self}"
            raise UsageError(msg)


def cluster_settings(path: Path, name: str, tables: Mapping[str, Any]) -> ClusterSettings:
    """Read the table of a cluster.

    Raises
    ------
    UsageError
        for an unknown cluster or key, naming the nearest, or a value of another type.
    """
    if name not in tables or not isinstance(tables[name], dict):
        there = f"there are {', '.join(tables)}" if tables else "it has no [cluster.NAME]"
        msg = f"{path} describes no cluster {name!r}: {there}. Add [cluster.{name}] with partition, gpus, time ..."
        raise UsageError(msg)
    fields = {field.name: field for field in dataclasses.fields(ClusterSettings)}
    values: dict[str, Any] = {}
    for key, value in tables[name].items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.0)[0]
            msg = f"{path}: [cluster.{name}] has no setting {key!r}; did you mean {near}?"
            raise UsageError(msg)
        wanted = _TYPES[key]
        as_given = tuple(value) if isinstance(value, list) else value
        if not isinstance(as_given, wanted) or isinstance(value, bool):
            msg = f"{path}: {key} of [cluster.{name}] is {_WORDS[wanted]}, got {value!r}"
            raise UsageError(msg)
        values[key] = as_given
    return ClusterSettings(**values)


_WORDS = {int: "a whole number", str: "a text", tuple: "a list of texts"}
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("workers", "gpus", "cpus"), int),
    **dict.fromkeys(("time", "memory", "partition", "account", "scratch", "interface"), str),
    "directives": tuple,
}


@contextmanager
def slurm_workers(
    settings: ClusterSettings, unit: Unit, num_videos: int, *, no_workers_seconds: float = math.inf
) -> Iterator[DaskWorkers]:
    """Give workers that SLURM starts; a job that is lost is replaced, and all end with the block.

    What they say to each other is encrypted, with keys made for this run, which lie in a folder of this user that the
    nodes see. A job may wait for days in its queue, so that by default a run waits for ever while there is no worker.

    Raises
    ------
    ClusterError
        where dask-jobqueue or SLURM is missing, or refuses.
    """
    try:
        from dask_jobqueue import SLURMCluster
        from distributed import Client
        from distributed.security import Security

        security = Security.temporary()
    except ImportError as error:
        msg = f"--cluster needs {error.name or 'dask-jobqueue'}: {_NEEDS}"
        raise ClusterError(msg) from error
    hush_dask()
    num_jobs = max(1, min(settings.workers, num_videos))
    with ExitStack() as stack:
        shared = Path(stack.enter_context(TemporaryDirectory(prefix=".vadx-", dir=Path.home())))
        shared.chmod(0o700)
        try:
            cluster = stack.enter_context(
                SLURMCluster(
                    queue=settings.partition,
                    account=settings.account,
                    walltime=settings.time,
                    cores=1,
                    processes=1,
                    memory=settings.memory,
                    job_cpu=settings.cpus,
                    job_mem=settings.memory,
                    interface=settings.interface,
                    local_directory=settings.scratch or str(shared),
                    log_directory=str(shared),
                    shared_temp_directory=str(shared),
                    security=security,
                    protocol="tls://",
                    python=sys.executable,
                    death_timeout=60,
                    worker_extra_args=["--no-dashboard"],
                    job_script_prologue=list(SHELL_LINES),
                    scheduler_options={"dashboard_address": "127.0.0.1:0"},
                    # A requeued worker would be taken for a lost one, and cancelled.
                    job_extra_directives=[
                        *([f"--gres=gpu:{settings.gpus}"] if settings.gpus else []),
                        "--no-requeue",
                        *settings.directives,
                    ],
                )
            )
            # Not `scale`, which does not replace a job that is lost.
            cluster.adapt(minimum_jobs=num_jobs, maximum_jobs=num_jobs)
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            msg = f"SLURM starts no workers ({error}); see whether sbatch works here, or leave --cluster out"
            raise ClusterError(msg) from error
        yield DaskWorkers(client, unit, num_jobs, settings.cpus, no_workers_seconds, dashboard_of(client))
