"""Videos worked on by the workers of a Dask scheduler: processes of this machine, or of any cluster.

A worker is given a share of the videos at a time and does what `extraction.process_videos` does. Only paths, ids,
recipes and small records cross the wire; shards are written where the work is done, so every worker must see the store
and the videos under the same paths. A share that was cut short is simply given out again: work is idempotent.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import itertools
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import CODES, ClusterError, UsageError, VadxError
from .job import Outcome
from .share_work import Order, ShareDone, Unit, far, work_on
from .worker_places import WORKER_SETTINGS, places_of, usable_cores
from .worker_reports import Mailbox

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

    from ..extract.decode_limits import DecodeLimits
    from .extraction import Effort, Hint, Ticker
    from .inputs import Entry

MAX_SHARE_VIDEOS = 32
_SHARES_A_WORKER = 16
"""So many shares for each worker, at least: the smaller the last ones are, the sooner all workers are done."""

_ALLOWED_FAILURES = 1
"""How often the worker of a share may end before its videos are tried one by one, and then each of them."""

_TRIES_ALONE = 3
"""How often a video is tried by itself, after all others from the second time on: where workers end by chance, or are
taken away, two ends say little of it."""

_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
_LOST_SECONDS = 30.0
"""How long a scheduler may be silent before it is given up."""

NO_WORKERS_SECONDS = 120.0
"""How long a run waits while there is no worker, if nobody says how long."""

_scratch: list[TemporaryDirectory[str]] = []

Hints = Callable[["Entry"], "Hint | None"]


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker is given at once: videos, and what is known of their sources.

    ``times_alone`` counts how often a video was tried by itself in vain.
    """

    entries: tuple[Entry, ...]
    hints: tuple[Hint | None, ...]
    times_alone: int = 0

    def split(self, at: int) -> tuple[Share, Share]:
        """Give the first ``at`` videos and the others."""
        first = replace(self, entries=self.entries[:at], hints=self.hints[:at])
        return first, replace(self, entries=self.entries[at:], hints=self.hints[at:])

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
    num_cores
        what a worker may use, None for what it knows itself.
    no_workers_seconds
        how long to wait while there is none.
    dashboard
        where Dask shows what its workers do, None if nowhere.

    Raises
    ------
    ClusterError
        from a call, if the scheduler or all workers are gone.
    """

    client: Client
    unit: Unit
    num_workers: int
    num_cores: int | None = None
    no_workers_seconds: float = NO_WORKERS_SECONDS
    dashboard: str | None = None
    _flying: dict[Future, Share] = field(default_factory=dict)
    _ended: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __call__(
        self,
        entries: Iterable[Entry],
        jobs: Sequence[Any],
        *,
        num_decoders: int | None = 0,
        decode_limits: DecodeLimits | None = None,
        hint_of: Hints = lambda _entry: None,
        on_frames: Ticker | None = None,
        check: Callable[[], None] = lambda: None,
        may_start: Callable[[int], bool] = lambda _num_started: True,
        effort: Effort | None = None,
    ) -> Iterator[list[Outcome]]:
        """Do what each video still needs; outcomes as they come.

        ``num_decoders`` is of each worker, None for as many as suit it. Times in ``effort`` are sums of all workers'.
        """
        near = {entry.id: entry for entry in entries}
        # Workers may have another working directory.
        absolute = [replace(entry, path=entry.path.absolute()) for entry in near.values()]
        waiting = deque(shares_of(absolute, self.num_workers, lambda entry: hint_of(near[entry.id])))
        topic = None if on_frames is None else f"vadx-{os.getpid()}-{id(self)}-{next(self._numbers)}"
        order = Order(
            self.unit, tuple(map(far, jobs)), num_decoders, decode_limits, self.num_cores, topic, self.num_workers
        )
        # What was cancelled in a call before may still be told of.
        self._ended = SimpleQueue()
        watch = _Watch(self.client, self.no_workers_seconds)
        with ExitStack() as stack:
            stack.callback(self._forget)
            mailbox = None if topic is None else stack.enter_context(Mailbox(self.client, topic))
            while waiting or self._flying:
                check()
                if mailbox is not None and on_frames is not None:
                    self._tell(mailbox, near, on_frames)
                self._send(waiting, order, may_start)
                if not self._flying:
                    return
                try:
                    future = self._ended.get(timeout=_POLL_SECONDS)
                except Empty:
                    watch.look()
                    continue
                share = self._flying.pop(future)
                for outcomes in self._settle(future, share, jobs, waiting, effort):
                    yield [replace(one, path=str(near[one.id].path)) for one in outcomes]

    def _forget(self) -> None:
        # Where the scheduler is gone there is nothing to cancel.
        with suppress(Exception):
            self.client.cancel(list(self._flying), force=True)
        self._flying.clear()

    def _tell(self, mailbox: Mailbox, near: Mapping[str, Entry], on_frames: Ticker) -> None:
        """Pass on what workers told of the videos that are not settled."""
        reports = mailbox.read()
        if not reports:
            return
        under_way = {entry.id for share in self._flying.values() for entry in share.entries}
        for report in reports:
            for identifier, num_frames, length in report.videos:
                if identifier in under_way:
                    on_frames(near[identifier], num_frames, length, report.place)

    def _send(self, waiting: deque[Share], order: Order, may_start: Callable[[int], bool]) -> None:
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
            # Named anew each time: Dask would take the result of a task of the same name.
            key = f"vadx-{os.getpid()}-{id(self)}-{next(self._numbers)}"
            future = self.client.submit(work_on, order, share, key=key, pure=False)
            self._await(future, share)

    def _await(self, future: Future, share: Share) -> None:
        self._flying[future] = share
        future.add_done_callback(self._ended.put)

    def _settle(
        self, future: Future, share: Share, jobs: Sequence[Any], waiting: deque[Share], effort: Effort | None
    ) -> Iterator[list[Outcome]]:
        from distributed import KilledWorker

        if future.status in ("pending", "lost"):
            # The worker that kept what it had done has ended since: Dask has another one do it again.
            self._await(future, share)
            return
        if future.status not in ("finished", "error"):
            raise ClusterError(_GONE.format(where=self.client.scheduler.address if self.client.scheduler else "?"))
        try:
            # A worker may end between its work and the telling: then it is done again, or ends another in turn.
            done: ShareDone = future.result()
        except KilledWorker:
            if len(share.entries) > 1:
                # One of them may have been fatal to the others.
                waiting.extendleft(share.alone())
            elif share.times_alone + 1 < _TRIES_ALONE:
                waiting.append(replace(share, times_alone=share.times_alone + 1))
            else:
                yield [_lost(share) for _ in jobs]
        except VadxError:
            raise
        except Exception as error:  # whatever a worker's code raised is raised here
            msg = f"a worker failed: {error!r}"
            raise RuntimeError(msg) from error
        else:
            if effort is not None:
                effort.add(done.effort)
            yield from done.outcomes


_GONE = "the scheduler {where} is gone; what was stored is safe: start it, then the same command resumes"


def _lost(share: Share) -> Outcome:
    info, entry, num_tries = CODES["WORKER_LOST"], share.entries[0], (1 + _ALLOWED_FAILURES) * (1 + share.times_alone)
    message = f"{entry.path}: {info.cause}. No features were written. {info.cure[0].upper()}{info.cure[1:]}."
    told = Outcome(entry.id, str(entry.path), "failed", "tried", "WORKER_LOST", message, attempts=num_tries)
    return replace(told, retriable=info.retriable)


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
        if self.client.status != "running" or self.client.scheduler_info(n_workers=1)["workers"]:
            self.had_workers = now
        elif now - self.had_workers > self.no_workers_seconds:
            msg = (
                f"no worker has come for {self.no_workers_seconds:g} s; what was stored is safe: look at the workers' "
                "logs, then the same command resumes"
            )
            raise ClusterError(msg)


@contextmanager
def local_workers(
    num_workers: int, unit: Unit, *, gpus: Sequence[str] = (), no_workers_seconds: float = NO_WORKERS_SECONDS
) -> Iterator[DaskWorkers]:
    """Give workers of this machine, a process each, which end with the block.

    With ``gpus``, as CUDA_VISIBLE_DEVICES names them, each worker sees one of them, in turn; the cores are divided in
    any case. Everything listens on the loopback interface alone.

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

    hush_dask()
    places = places_of(num_workers, gpus, usable_cores())
    with ExitStack() as stack:
        # Left to the end of the process: Dask puts locks into it once more when its scheduler is collected.
        _scratch.append(TemporaryDirectory(prefix="vadx-workers-", ignore_cleanup_errors=True))
        scratch = _scratch[-1].name
        settings = {
            "temporary-directory": scratch,
            "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
            # A worker that ended and is not back by then, as on a busy machine, would be given up for good.
            "distributed.deploy.lost-worker-timeout": "1000 days",
        }
        stack.enter_context(dask.config.set({**settings, **WORKER_SETTINGS}))
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
        workers = {
            f"worker{number}": {"cls": Nanny, "options": {**options, "env": place.environment}}
            for number, place in enumerate(places)
        }
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
        try:
            cluster = stack.enter_context(SpecCluster(workers=workers, scheduler=scheduler, silence_logs=False))
            client = stack.enter_context(Client(cluster, set_as_default=False))
            stack.callback(_wake, cluster)
        except (OSError, RuntimeError, TimeoutError) as error:
            msg = f"workers cannot be started here ({error}); close other programs, or leave --workers out"
            raise ClusterError(msg) from error
        yield DaskWorkers(
            client, unit, num_workers, no_workers_seconds=no_workers_seconds, dashboard=dashboard_of(client)
        )


def hush_dask() -> None:
    """Keep Dask's own words from a run's: what is to be known of it, errors say."""
    for name in ("distributed", "distributed.client"):
        # Dask gives the second a level of its own.
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _wake(cluster: SpecCluster) -> None:
    # The end of one that was stopped while it started would be waited for without end.
    for nanny in cluster.workers.values():
        with suppress(ProcessLookupError):
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGCONT)


@contextmanager
def scheduler_workers(
    address: str, unit: Unit, *, insecure: bool = False, no_workers_seconds: float = NO_WORKERS_SECONDS
) -> Iterator[DaskWorkers]:
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

    hush_dask()
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        msg = f"no Dask scheduler answers at {address} ({error}); start one: dask scheduler --host 127.0.0.1"
        raise ClusterError(msg) from error
    with client:
        num_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        dashboard = dashboard_of(client) if _is_loopback(urlsplit(address).hostname or "") else None
        yield DaskWorkers(client, unit, max(1, num_workers), no_workers_seconds=no_workers_seconds, dashboard=dashboard)


def dashboard_of(client: Client) -> str | None:
    """Give the address of the dashboard of a scheduler of this machine; None where Dask cannot show one."""
    if importlib.util.find_spec("bokeh") is None:
        return None
    port = client.scheduler_info(n_workers=0).get("services", {}).get("dashboard")
    return None if port is None else f"http://127.0.0.1:{port}/status"


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse a scheduler that others could reach: whoever reaches it runs code as its workers' user.

    Raises
    ------
    UsageError
        for an address that is none, or, unless ``insecure``, one beyond this machine without TLS.
    """
    parts = urlsplit(address)
    if "@" in address:
        msg = "--scheduler takes no name and no password, which Dask would not use: give tcp://HOST:PORT"
        raise UsageError(msg)
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
