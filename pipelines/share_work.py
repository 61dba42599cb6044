"""What a worker does with its share of a run's videos."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Stopped
from .job import Outcome
from .retrying import retrying
from .worker_places import usable_cores
from .worker_reports import Reporter

if TYPE_CHECKING:
    from ..extract.decode_limits import DecodeLimits
    from .cluster import Share
    from .extraction import Effort

_J = TypeVar("_J")

Unit = Callable[..., "Iterator[list[Outcome]]"]
"""What a worker does with its share: `extraction.process_videos`, or `tubing.process_tubes`."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is done with every share of a run.

    ``num_decoders`` of None is as many as suit the worker's device and cores, of which it has ``num_cores``, or what it
    knows itself. How far it is, it tells under ``topic``, if there is one, as often as one of ``num_workers`` should.
    """

    unit: Unit
    jobs: tuple[Any, ...]
    num_decoders: int | None = 0
    decode_limits: DecodeLimits | None = None
    num_cores: int | None = None
    topic: str | None = None
    num_workers: int = 1


@dataclass(frozen=True, slots=True)
class ShareDone:
    """What became of a share, and where the worker's time went."""

    outcomes: list[list[Outcome]]
    effort: Effort


def work_on(order: Order, share: Share) -> ShareDone:
    """Do a share, in a worker.

    Raises
    ------
    Stopped
        soon after the share was cancelled, which Dask itself tells nobody who is at work.
    """
    import torch
    from distributed import get_worker
    from distributed.worker import thread_state

    from .extraction import Effort

    worker = get_worker()
    tasks, key = worker.state.tasks, thread_state.key

    def check() -> None:
        task = tasks.get(key)
        if task is None or task.state != "executing":
            raise Stopped(signal.SIGTERM, "because nobody waits for it")

    num_cores = order.num_cores or usable_cores()
    # Dask gives its processes one thread for arithmetic.
    torch.set_num_threads(num_cores)
    effort = Effort()
    hints = dict(zip(share.entries, share.hints, strict=True))
    options: dict[str, Any] = {"decode_limits": order.decode_limits, "hint_of": hints.get, "effort": effort}
    if order.topic is not None:
        send = partial(worker.log_event, order.topic)
        waited = partial(getattr, effort, "waited_for_frames")
        options["on_frames"] = Reporter(send, str(worker.name), waited, num_workers=order.num_workers)
    num_decoders = order.num_decoders
    if num_decoders is None:
        num_decoders = _suitable_decoders(order.jobs, num_cores)
    work = retrying(order.unit)
    outcomes = list(work(share.entries, order.jobs, num_decoders=num_decoders, check=check, **options))
    return ShareDone(outcomes, effort)


def _suitable_decoders(jobs: Sequence[Any], num_cores: int) -> int:
    from .capacity import default_decoders

    return default_decoders(jobs[0].device.partition(":")[0], num_cores)


def far(job: _J) -> _J:
    """Give a job as it is meant by a worker in another working directory, which sees one GPU.

    Every path in it, also of the jobs in it, becomes absolute.
    """
    if not dataclasses.is_dataclass(job) or isinstance(job, type):
        return job
    changed = {}
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        meant = _meant(field.name, value)
        if meant is not value:
            changed[field.name] = meant
    return dataclasses.replace(job, **changed) if changed else job


def _meant(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else value.absolute()
    if name == "device" and isinstance(value, str) and value.startswith("cuda:"):
        return "cuda"
    if name == "weights" and isinstance(value, str) and _is_file(value):
        return str(Path(value).absolute())
    # What is in a recipe makes its digest.
    return value if name == "recipe" else far(value)


def _is_file(weights: str) -> bool:
    from ..extract.weights import WEIGHTS

    is_name = weights in WEIGHTS or weights.partition(":")[0] == "random"
    return not is_name and not Path(weights).is_absolute() and Path(weights).is_file()
