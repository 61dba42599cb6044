"""Where a run's videos are worked on: options of the commands that give them to workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from ...errors import UsageError
from ..policy import parse_duration

if TYPE_CHECKING:
    import torch

    from ..cluster import DaskWorkers
    from ..retrying import Process
    from ..slurm_workers import ClusterSettings

F = TypeVar("F", bound=Callable[..., Any])

PLACES = ("workers", "scheduler", "cluster")
"""Options that each say where to work."""


def worker_options(function: F) -> F:
    """Add where a run's videos are worked on."""
    for option in (
        click.option(
            "--no-workers-timeout",
            help="End with exit 6 after so long without a worker, as 10m.  [default: 2m; with --cluster never]",
        ),
        insecure_option,
        click.option("--cluster", metavar="NAME", help="Work on SLURM's nodes, as [cluster.NAME] in vadx.toml says."),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Work on the workers of a Dask scheduler, tcp://HOST:PORT."
        ),
        click.option("--workers", type=click.IntRange(1, 256), help="Work in so many processes, each with its GPU."),
    ):
        function = option(function)
    return function


def insecure_option(function: F) -> F:
    """Add ``--insecure-scheduler``."""
    return click.option(
        "--insecure-scheduler", is_flag=True, help="Allow a --scheduler beyond this machine without TLS."
    )(function)


def is_elsewhere(options: dict[str, Any]) -> bool:
    """Whether the videos of a run are given to workers."""
    return any(options.get(name) is not None for name in PLACES)


def device_of(options: dict[str, Any]) -> torch.device:
    """Give the device of a run's networks. Where others work, it is theirs, and need not be here.

    Raises
    ------
    UsageError
        if it is unknown, or is to be here and is not; or for a cluster that nobody describes.
    """
    import torch

    from ...extract.engine import pick_device

    named = options["device"]
    if named == "auto" and options.get("cluster") is not None:
        return torch.device("cuda" if _cluster_settings(options).gpus else "cpu")
    if named == "cuda" and (options.get("cluster") is not None or options.get("scheduler") is not None):
        return torch.device("cuda")
    return pick_device(named)


def device_hint(options: dict[str, Any], device: str) -> str | None:
    """Give what to say of a device that was chosen here for workers of which this command knows nothing."""
    if options["scheduler"] is None or options["device"] != "auto" or device != "cpu":
        return None
    return "there is no GPU here, so the scheduler's workers will use their CPUs; if they have GPUs: --device cuda"


@contextmanager
def opened_workers(
    options: dict[str, Any], unit: Process, device: str, num_videos: int
) -> Iterator[DaskWorkers | None]:
    """Start or reach the workers that `worker_options` ask for; None where all is done in this process.

    Raises
    ------
    UsageError, ClusterError
        as `cluster.local_workers`, `cluster.scheduler_workers` and `slurm_workers.slurm_workers`.
    """
    named = [f"--{name}" for name in PLACES if options[name] is not None]
    if len(named) > 1:
        msg = f"{' and '.join(named)} each say where to work: give one of them"
        raise UsageError(msg)
    patience = options["no_workers_timeout"]
    seconds = {} if patience is None else {"no_workers_seconds": parse_duration("--no-workers-timeout", patience)}
    if not named:
        yield None
        return
    with _workers(options, unit, device, num_videos, seconds) as workers:
        yield workers


def _workers(
    options: dict[str, Any], unit: Process, device: str, num_videos: int, seconds: dict[str, float]
) -> AbstractContextManager[DaskWorkers]:
    from ..cluster import local_workers, scheduler_workers
    from ..worker_places import gpus_of

    if options["workers"] is not None:
        return local_workers(options["workers"], unit, gpus=gpus_of(device), **seconds)
    if options["scheduler"] is not None:
        return scheduler_workers(options["scheduler"], unit, insecure=options["insecure_scheduler"], **seconds)
    from ..slurm_workers import slurm_workers

    return slurm_workers(_cluster_settings(options), unit, num_videos, **seconds)


def _cluster_settings(options: dict[str, Any]) -> ClusterSettings:
    from ..config import cluster_tables
    from ..slurm_workers import cluster_settings

    path, tables = cluster_tables()
    return cluster_settings(path, options["cluster"], tables)
