"""One execution of ``vadx extract`` on a store: every video in turn, and a record of what was done."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..errors import StoreWriteError, VadxError
from ..features.index import keep_hints, load_index
from ..features.keys import as_text
from ..features.store import open_shard_set
from .capacity import bottleneck
from .extraction import Effort, process_videos
from .job import Outcome
from .policy import Allowance, FailureLimit
from .progress import StartEvent, SummaryEvent, Tally, json_line, video_event
from .retrying import Process, retrying
from .source import Source
from .stopping import StopSignals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..extract.decode_limits import DecodeLimits
    from ..features.shard_set import Digested, ShardSet
    from .inputs import Entry
    from .progress import Display

log = logging.getLogger(__name__)

_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

COLLISION = "its id {id!r} is also that of another input (letter case does not count)"


@dataclass(frozen=True, slots=True)
class DryRunLine:
    """What a run would do with one video: the verb of `features.store.Decision`, or ``failed``."""

    id: str
    path: str
    action: str
    reason: str


class RunLog:
    """``runs/<run>.jsonl``: appended to, informative. A disk that refuses it costs the log, not the run."""

    def __init__(self, set_path: Path) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.name = f"{stamp}-{secrets.token_hex(3)}"
        self.path = set_path / "runs" / f"{self.name}.jsonl"
        self._refused = False

    def write(self, event: msgspec.Struct) -> bytes:
        """Append an event; gives its JSON."""
        line = json_line(event).encode()
        if not self._refused:
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _O_NOFOLLOW, 0o666)
                try:
                    os.write(descriptor, line + b"\n")
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._refused = True
                log.warning("%s cannot be written (%s); the run goes on without it", self.path, error.strerror)
        return line


def collision_outcome(entry: Entry) -> Outcome:
    """Give the outcome of a video whose id is not its own."""
    evidence = COLLISION.format(id=entry.id)
    message = f"{entry.path}: {evidence}. No features were written. Rename one of them, or give --root."
    return Outcome(entry.id, str(entry.path), "failed", "tried", "KEY_COLLISION", message)


def dry_run(feature_set: ShardSet | None, entries: Sequence[Entry], options: dict[str, bool]) -> Iterator[DryRunLine]:
    """Say for every video what a run would do, and why. Decodes nothing, writes nothing."""
    from ..errors import VideoError
    from ..extract.files import check_file

    hints = {} if feature_set is None else load_index(feature_set.index_path).sources
    for entry in entries:
        source, path = Source(entry.path, hints.get(str(entry.path.absolute()))), as_text(str(entry.path))
        try:
            check_file(entry.path)
            if feature_set is None:
                yield DryRunLine(entry.id, path, "extract", "new")
                continue
            decision = feature_set.action(entry.id, source, **options)
        except VideoError as error:
            yield DryRunLine(entry.id, path, "failed", f"{error.code}: {error.evidence}")
        else:
            yield DryRunLine(entry.id, path, decision.verb, decision.reason)


class RunJob(Protocol):
    """What a run needs to know of a job, of whatever kind."""

    @property
    def set_path(self) -> Path: ...

    @property
    def recipe(self) -> Digested: ...

    @property
    def batch(self) -> int: ...

    @property
    def device(self) -> str: ...


@dataclass(frozen=True, slots=True)
class JobRun:
    """One set's part in a run: what is to be done, and what became of it."""

    job: RunJob
    tally: Tally
    log: RunLog


def start_runs(jobs: Sequence[RunJob], num_videos: int) -> list[JobRun]:
    """Give the parts of a run, one a feature set."""
    return [JobRun(job, Tally(num_videos), RunLog(job.set_path)) for job in jobs]


def run_videos(
    entries: Sequence[Entry],
    colliding: Sequence[Entry],
    runs: Sequence[JobRun],
    *,
    display: Display,
    limit: int | None = None,
    failures: FailureLimit | None = None,
    stop_after_seconds: float | None = None,
    num_decoders: int | None = 0,
    decode_limits: DecodeLimits | None = None,
    effort: Effort | None = None,
    dashboard: str | None = None,
    emit: Callable[[bytes], Any] = lambda _line: None,
    process: Process | None = None,
) -> str | None:
    """Do what every video still needs, as ``process``, by default `process_videos`, does it: an outcome a job for each.

    The tallies of ``runs`` hold what became of the videos, also if the run is stopped. ``limit`` ends the run after so
    many videos that had to be worked on, ``failures`` after so many that failed: those under way are still finished,
    and the reason is returned. After ``stop_after_seconds`` it ends as by a signal. ``emit`` is given every event as
    one line of JSON; with several sets a video's events name theirs. What is finished stays finished, however the run
    ends. ``num_decoders``, ``decode_limits`` and ``effort`` as in `process_videos`; what may come back is tried again,
    as `retrying` says. ``dashboard`` is the address of Dask's, where workers have one.

    Raises
    ------
    StoreWriteError, WeightsError, Stopped
        if the run cannot go on; the summary is written all the same.
    """
    hints: dict[str, tuple[int, int, str]] = {}
    for run in runs:
        hints.update(load_index(run.job.set_path / "index.json").sources)
        emit(run.log.write(_start(run, dashboard)))
    new_hints: dict[str, tuple[int, int, str]] = {}
    exit_code = 1
    effort = effort or Effort()
    # A video's line on the display is its worst: how many frames were decoded does not depend on the sets.
    shown = Tally(len(entries) + len(colliding))
    display.start(entries)
    allowance = Allowance(limit, failures or FailureLimit())
    with StopSignals(stop_after_seconds) as stop:
        try:
            jobs = [run.job for run in runs]
            work = retrying(process or process_videos)
            if decode_limits is not None:
                work = partial(work, decode_limits=decode_limits)
            for outcomes in _outcomes(
                entries,
                colliding,
                jobs,
                hints,
                display,
                stop,
                allowance,
                num_decoders,
                effort,
                work,
            ):
                for run, outcome in zip(runs, outcomes, strict=True):
                    run.tally.outcomes.append(outcome)
                    if outcome.hint is not None:
                        new_hints[str(Path(outcome.path).absolute())] = outcome.hint
                shown.outcomes.append(max(outcomes, key=_severity))
                display.end(shown.outcomes[-1], shown)
                for run, outcome in zip(runs, outcomes, strict=True):
                    name = as_text(run.job.set_path.name) if len(runs) > 1 else None
                    emit(run.log.write(video_event(outcome, feature_set=name)))
            exit_code = 3 if shown.failed else 0
        except VadxError as error:
            exit_code = error.exit_code
            raise
        except KeyboardInterrupt:
            exit_code = 130
            raise
        finally:
            display.stop()
            for run in runs:
                # The index is derived: a disk that refuses it must not hide why the run ended.
                with suppress(StoreWriteError):
                    _save_index(run.job.set_path, new_hints, in_haste=stop.exit_code is not None)
                own_code = exit_code if exit_code != 3 else 3 * bool(run.tally.failed)
                emit(run.log.write(_summary(run.tally, run.log.name, effort, stop.exit_code or own_code)))
    return allowance.stop_reason


def _save_index(set_path: Path, hints: dict[str, tuple[int, int, str]], *, in_haste: bool) -> None:
    feature_set = open_shard_set(set_path)
    if in_haste:
        # Of every new shard the header is read for its line, and a run that is told to end has ten seconds. Without
        # hints, the next run would read all videos.
        keep_hints(feature_set.index_path, feature_set.tmp, hints)
    else:
        feature_set.save_index(hints)


_SEVERITY = ("current", "done", "degraded", "failed")


def _severity(outcome: Outcome) -> int:
    return _SEVERITY.index(outcome.status)


def _start(run: JobRun, dashboard: str | None) -> StartEvent:
    job = run.job
    set_path = as_text(str(job.set_path))
    return StartEvent(run.log.name, set_path, job.recipe.digest, run.tally.num_videos, job.batch, job.device, dashboard)


def _outcomes(
    entries: Sequence[Entry],
    colliding: Sequence[Entry],
    jobs: Sequence[RunJob],
    hints: dict[str, tuple[int, int, str]],
    display: Display,
    stop: StopSignals,
    allowance: Allowance,
    num_decoders: int | None,
    effort: Effort,
    process: Process,
) -> Iterator[list[Outcome]]:
    for entry in colliding:
        yield [collision_outcome(entry) for _ in jobs]
    for outcomes in process(
        entries,
        jobs,
        num_decoders=num_decoders,
        hint_of=lambda entry: hints.get(str(entry.path.absolute())),
        on_frames=display.frames if display.shows_frames else None,
        check=stop.check,
        may_start=allowance.covers,
        effort=effort,
    ):
        allowance.note(outcomes)
        yield outcomes


def _summary(tally: Tally, run: str, effort: Effort, exit_code: int) -> SummaryEvent:
    return SummaryEvent(
        run=run,
        done=tally.count("done"),
        degraded=tally.count("degraded"),
        current=tally.count("current"),
        failed=tally.count("failed"),
        left=tally.num_videos - len(tally.outcomes),
        num_frames=tally.num_frames,
        seconds=round(tally.seconds, 3),
        network_seconds=round(effort.network_busy, 3),
        waited_for_frames_seconds=round(effort.waited_for_frames, 3),
        limited_by=bottleneck(effort),
        exit_code=exit_code,
    )
