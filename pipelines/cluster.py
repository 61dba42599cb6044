"""Videos worked on by the workers of a Dask scheduler: processes of this machine, or of any cluster.

A worker is given a share of the videos at a time and does what `extraction.process_videos` does. Only paths, ids,
recipes and small records cross the wire; shards are written where the work is done, so every worker must see the store
and the videos under the same paths. A share that was cut short is simply given out again: work is idempotent.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import CODES, ClusterError, Stopped, UsageError, VadxError
from .job import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

    from ..extract.decode_limits import DecodeLimits
    from .extraction import Effort, Hint, Ticker
    from .inputs import Entry

MAX_SHARE_VIDEOS = 32
_SHARES_A_WORKER = 16
"""So many shares for each worker, at least: the smaller the last ones are, the sooner all workers are done."""

_ALLOWED_FAILURES = 1
"""How often the worker of a share may end before its videos are tried one by one, and then each of them."""

_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
_LOST_SECONDS = 30.0
"""How long a scheduler may be silent before it is given up."""

_scratch: list[TemporaryDirectory[str]] = []

Hints = Callable[["Entry"], "Hint | None"]
Unit = Callable[..., "Iterator[list[Outcome]]"]
"""What a worker does with its share: `extraction.process_videos`, or `tubing.process_tubes`."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker is given at once: videos, and what is known of their sources."""

    entries: tuple[Entry, ...]
    hints: tuple[Hint | None, ...]

    def split(self, at: int) -> tuple[Share, Share]:
        """Give the first ``at`` videos and the others."""
        return Share(self.entries[:at], self.hints[:at]), Share(self.entries[at:], self.hints[at:])

    def alone(self) -> list[Share]:
        """Give a share for each of the videos."""
        return [Share((entry,), (hint,)) for entry, hint in zip(self.entries, self.hints, strict=True)]


def shares_of(entries: Sequence[Entry], num_workers: int, hint_of: Hints = lambda _entry: None) -> list[Share]:
    """Cut videos into shares: the longest first, by the sizes of their files, and small ones together.

    A share is one video, or at most `MAX_SHARE_VIDEOS` of together a sixteenth of what falls to a worker.
    """
    sizes = {entry: _size(entry) for entry in entries}
    enough = sum(sizes.values()) / (max(1, num_workers) * _SHARES_A_WORKER)
    shares: list[list[Entry]] = []
    filled = 0.0
    for entry in sorted(entries, key=lambda one: (-sizes[one], one.id)):
        if not shares or filled + sizes[entry] > enough or len(shares[-1]) == MAX_SHARE_VIDEOS:
            shares.append([])
            filled = 0.0
        shares[-1].append(entry)
        filled += sizes[entry]
    return [Share(tuple(share), tuple(map(hint_of, share))) for share in shares]


def _size(entry: Entry) -> int:
    try:
        return entry.path.stat().st_size
    except OSError:
        return 0


def work_on(
    unit: Unit,
    share: Share,
    jobs: Sequence[Any],
    num_decoders: int,
    decode_limits: DecodeLimits | None,
    num_threads: int | None,
) -> list[list[Outcome]]:
    """Do a share, in a worker, on ``num_threads``: Dask gives its processes one thread for arithmetic.

    Raises
    ------
    Stopped
        soon after the share was cancelled, which Dask itself tells nobody who is at work.
    """
    import torch
    from distributed import get_worker
    from distributed.worker import thread_state

    tasks, key = get_worker().state.tasks, thread_state.key

    def check() -> None:
        task = tasks.get(key)
        if task is None or task.state != "executing":
            raise Stopped(signal.SIGTERM, "because nobody waits for it")

    torch.set_num_threads(num_threads or _usable_cores())
    hints = dict(zip(share.entries, share.hints, strict=True))
    options = {"num_decoders": num_decoders, "decode_limits": decode_limits, "hint_of": hints.get, "check": check}
    return list(unit(share.entries, jobs, **options))


def _usable_cores() -> int:
    from .capacity import usable_cores

    return usable_cores()


@dataclass(slots=True)
class DaskWorkers:
    """Gives a run's videos to the workers of a scheduler; called as `extraction.process_videos` is.

    At most two shares a worker are on their way, however many videos there are.

    Parameters
    ----------
    client
        of the scheduler.
    unit
        what a worker does with its share.
    num_workers
        how many workers there will be; more may come.
    num_threads
        threads of a worker's arithmetic on CPUs, None for all cores that it may use.
    no_workers_seconds
        how long to wait while there is none.

    Raises
    ------
    ClusterError
        from a call, if the scheduler or all workers are gone.
    """

    client: Client
    unit: Unit
    num_workers: int
    num_threads: int | None = None
    no_workers_seconds: float = 120.0
    _flying: dict[Future, Share] = field(default_factory=dict)
    _ended: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __call__(
        self,
        entries: Sequence[Entry],
        jobs: Sequence[Any],
        *,
        num_decoders: int = 0,
        decode_limits: DecodeLimits | None = None,
        hint_of: Hints = lambda _entry: None,
        on_frames: Ticker | None = None,
        check: Callable[[], None] = lambda: None,
        may_start: Callable[[int], bool] = lambda _num_started: True,
        effort: Effort | None = None,
    ) -> Iterator[list[Outcome]]:
        """Do what each video still needs; outcomes as they come. Workers do not say how far they are in a video."""
        del on_frames
        began = time.perf_counter()
        # Workers may have another working directory.
        far = {entry.id: replace(entry, path=entry.path.absolute()) for entry in entries}
        near = {entry.id: entry for entry in entries}
        waiting = deque(shares_of(list(far.values()), self.num_workers, lambda entry: hint_of(near[entry.id])))
        order = (tuple(map(_far, jobs)), num_decoders, decode_limits, self.num_threads)
        # What was cancelled in a call before may still be told of.
        self._ended = SimpleQueue()
        watch = _Watch(self.client, self.no_workers_seconds)
        try:
            while waiting or self._flying:
                check()
                self._send(waiting, order, may_start)
                if not self._flying:
                    return
                try:
                    future = self._ended.get(timeout=_POLL_SECONDS)
                except Empty:
                    watch.look()
                    continue
                share = self._flying.pop(future)
                for outcomes in self._settle(future, share, jobs, waiting):
                    yield [replace(one, path=str(near[one.id].path)) for one in outcomes]
        finally:
            # Where the scheduler is gone there is nothing to cancel.
            with suppress(Exception):
                self.client.cancel(list(self._flying), force=True)
            self._flying.clear()
            if effort is not None:
                effort.seconds += time.perf_counter() - began

    def _send(self, waiting: deque[Share], order: tuple[Any, ...], may_start: Callable[[int], bool]) -> None:
        while waiting and len(self._flying) < 2 * max(1, self.num_workers):
            begun = sum(len(share.entries) for share in self._flying.values())
            share = waiting[0]
            size = len(share.entries)
            allowed = next((number for number in range(size) if not may_start(begun + number)), size)
            if not allowed:
                return
            waiting.popleft()
            share, rest = share.split(allowed)
            if rest.entries:
                waiting.appendleft(rest)
            jobs, *others = order
            # Named anew each time: Dask would take the result of a task of the same name.
            key = f"vadx-{os.getpid()}-{id(self)}-{next(self._numbers)}"
            future = self.client.submit(work_on, self.unit, share, jobs, *others, key=key, pure=False)
            self._flying[future] = share
            future.add_done_callback(self._ended.put)

    def _settle(
        self, future: Future, share: Share, jobs: Sequence[Any], waiting: deque[Share]
    ) -> Iterator[list[Outcome]]:
        from distributed import KilledWorker

        if future.status not in ("finished", "error"):
            raise ClusterError(_GONE.format(where=self.client.scheduler.address if self.client.scheduler else "?"))
        try:
            # A worker may end between its work and the telling: then it is done again, or ends another in turn.
            outcomes = future.result()
        except KilledWorker:
            if len(share.entries) == 1:
                yield [_lost(share.entries[0]) for _ in jobs]
            else:
                # One of them may have been fatal to the others.
                waiting.extendleft(share.alone())
        except VadxError:
            raise
        except Exception as error:  # whatever a worker's code raised is raised here
            msg = f"a worker failed: {error!r}"
            raise RuntimeError(msg) from error
        else:
            yield from outcomes


_GONE = "the scheduler {where} is gone; what was stored is safe: start it, then the same command resumes"


def _far(job: Any) -> Any:
    """Give a job as a worker with another working directory understands it."""
    return replace(job, set_path=job.set_path.absolute()) if hasattr(job, "set_path") else job


def _lost(entry: Entry) -> Outcome:
    info = CODES["WORKER_LOST"]
    message = f"{entry.path}: {info.cause}. No features were written. {info.cure[0].upper()}{info.cure[1:]}."
    return Outcome(entry.id, str(entry.path), "failed", "tried", "WORKER_LOST", message, retriable=info.retriable)


@dataclass(slots=True)
class _Watch:
    """Notices that a scheduler, or its last worker, is gone. Both may come back in time."""

    client: Client
    no_workers_seconds: float
    heard: float = field(default_factory=time.monotonic)
    had_workers: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Raise `ClusterError` if it has been too long."""
        now = time.monotonic()
        if self.client.status == "running":
            self.heard = now
        elif self.client.status == "closed" or now - self.heard > _LOST_SECONDS:
            raise ClusterError(_GONE.format(where=self.client._start_arg or ""))
        if self.client.status != "running" or self.client.scheduler_info(n_workers=-1)["workers"]:
            self.had_workers = now
        elif now - self.had_workers > self.no_workers_seconds:
            msg = (
                f"no worker has come for {self.no_workers_seconds:g} s; what was stored is safe: look at the workers' "
                "logs, then the same command resumes"
            )
            raise ClusterError(msg)


def visible_gpus() -> list[str]:
    """Give the GPUs of this process, each as CUDA_VISIBLE_DEVICES names it."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def local_workers(num_workers: int, unit: Unit, *, gpus: Sequence[str] = ()) -> Iterator[DaskWorkers]:
    """Give workers of this machine, a process each, which end with the block.

    With ``gpus``, as CUDA_VISIBLE_DEVICES names them, each worker sees one of them, in turn; without, the cores are
    divided. Everything listens on the loopback interface alone.

    Raises
    ------
    UsageError
        for less than one worker.
    ClusterError
        if the system refuses to start them.
    """
    if num_workers < 1:
        msg = f"--workers is 1 or more, got {num_workers}"
        raise UsageError(msg)
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    cores = max(1, _usable_cores() // num_workers)
    with ExitStack() as stack:
        # Left to the end of the process: Dask puts locks into it once more when its scheduler is collected.
        _scratch.append(TemporaryDirectory(prefix="vadx-workers-", ignore_cleanup_errors=True))
        scratch = _scratch[-1].name
        settings = {"temporary-directory": scratch, "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES}
        stack.enter_context(dask.config.set(settings))
        options = {
            "nthreads": 1,
            "host": "127.0.0.1",
            # Named, or it would be every interface of the machine.
            "dashboard_address": "127.0.0.1:0",
            # What a worker needs is stated for its batch: Dask would pause it half-way, or end it.
            "memory_limit": 0,
            "silence_logs": logging.CRITICAL,
            "local_directory": scratch,
        }
        seen = [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(num_workers)]
        workers = {
            f"worker{number}": {"cls": Nanny, "options": {**options, "env": environment}}
            for number, environment in enumerate(seen)
        }
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
        try:
            cluster = stack.enter_context(SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (OSError, RuntimeError, TimeoutError) as error:
            msg = f"workers cannot be started here ({error}); close other programs, or leave --workers out"
            raise ClusterError(msg) from error
        yield DaskWorkers(client, unit, num_workers, None if gpus else cores)


@contextmanager
def scheduler_workers(address: str, unit: Unit, *, insecure: bool = False) -> Iterator[DaskWorkers]:
    """Give the workers of a scheduler that runs already. TLS is set up as Dask's own configuration says.

    Raises
    ------
    UsageError
        for an address that is none, or one through which strangers could run code.
    ClusterError
        if nobody answers.
    """
    check_address(address, insecure=insecure)
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        msg = f"no Dask scheduler answers at {address} ({error}); start one: dask scheduler --host 127.0.0.1"
        raise ClusterError(msg) from error
    with client:
        num_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        yield DaskWorkers(client, unit, max(1, num_workers))


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse a scheduler that others could reach: whoever reaches it runs code as its workers' user.

    Raises
    ------
    UsageError
        for an address that is none, or, unless ``insecure``, one beyond this machine without TLS.
    """
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("tcp", "tls") or not host or port is None:
        msg = f"--scheduler is the address of a Dask scheduler, such as tcp://127.0.0.1:8786; got {address!r}"
        raise UsageError(msg)
    if parts.scheme == "tcp" and not insecure and not _is_loopback(host):
        msg = (
            f"{address} is not encrypted, and whoever reaches it can run code as you: set up TLS for Dask and give "
            f"tls://{parts.netloc}, or, in a network that you trust, --insecure-scheduler"
        )
        raise UsageError(msg)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
