"""What a person, a script and a log see of a run: a live display on a terminal, JSON lines or plain lines off it."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..features.keys import as_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import TaskID

    from .inputs import Entry
    from .job import Outcome

PLAIN_LINE_SECONDS = 30.0
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class StartEvent(msgspec.Struct, tag_field="event", tag="start", frozen=True, omit_defaults=True):
    """A run begins. ``run`` is its name; ``feature_set`` the folder it writes to."""

    run: str
    feature_set: str
    recipe_digest: str
    num_videos: int
    batch: int
    device: str


class VideoEvent(msgspec.Struct, tag_field="event", tag="video", frozen=True, omit_defaults=True):
    """One video is settled. ``status`` is done, current, degraded or failed; ``code`` is stable when failed.

    ``feature_set`` is the name of the set that this is about, where a run writes to several.
    """

    id: str
    path: str
    status: str
    reason: str
    code: str | None = None
    message: str | None = None
    num_frames: int = 0
    num_clips: int = 0
    video_seconds: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    retriable: bool = False
    feature_set: str | None = None
    counts: dict[str, int] = {}


class SummaryEvent(msgspec.Struct, tag_field="event", tag="summary", frozen=True):
    """A run ended with ``exit_code``.

    ``network_seconds`` is how long networks ran, ``waited_for_frames_seconds`` how long nothing was left to do but to
    wait for decoders; ``limited_by`` decode, network or preprocess, None for a run too short to tell.
    """

    run: str
    done: int
    degraded: int
    current: int
    failed: int
    left: int
    num_frames: int
    seconds: float
    network_seconds: float
    waited_for_frames_seconds: float
    limited_by: str | None
    exit_code: int


def video_event(outcome: Outcome, *, feature_set: str | None = None) -> VideoEvent:
    """Give the event of an outcome, as text that JSON can hold."""
    values = {name: getattr(outcome, name) for name in VideoEvent.__struct_fields__ if name != "feature_set"}
    message = None if outcome.message is None else as_text(outcome.message)
    told = {**values, "path": as_text(outcome.path), "message": message, "feature_set": feature_set}
    return VideoEvent(**told)


@dataclass(slots=True)
class Tally:
    """Counts of a run as it goes on."""

    num_videos: int
    outcomes: list[Outcome] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def count(self, *statuses: str) -> int:
        return sum(outcome.status in statuses for outcome in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def num_frames(self) -> int:
        return sum(outcome.num_frames for outcome in self.outcomes)

    @property
    def video_seconds(self) -> float:
        return sum(outcome.video_seconds for outcome in self.outcomes)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class Display(Protocol):
    """What a run tells while it goes on."""

    def start(self, entries: Sequence[Entry]) -> None: ...
    def frames(self, entry: Entry, num_frames: int) -> None: ...
    def end(self, outcome: Outcome, tally: Tally) -> None: ...
    def stop(self) -> None: ...


class QuietDisplay:
    """Says nothing."""

    def start(self, entries: Sequence[Entry]) -> None: ...
    def frames(self, entry: Entry, num_frames: int) -> None: ...
    def end(self, outcome: Outcome, tally: Tally) -> None: ...
    def stop(self) -> None: ...


class PlainDisplay(QuietDisplay):
    """A line now and then, for logs. With ``verbose`` a line for every video."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._last = time.perf_counter()
        self._frames_before = 0
        self._running: dict[str, int] = {}
        self._num_videos = 0
        self._started = self._last

    def start(self, entries: Sequence[Entry]) -> None:
        self._num_videos = len(entries)
        self._started = self._last = time.perf_counter()

    def frames(self, entry: Entry, num_frames: int) -> None:
        self._running[entry.id] = num_frames
        now = time.perf_counter()
        if now - self._last >= PLAIN_LINE_SECONDS:
            self._last = now
            total = self._frames_before + sum(self._running.values())
            print(
                f"{entry.id}: frame {num_frames}; {total} frames in all, {total / (now - self._started):.0f} frames/s",
                file=sys.stderr,
            )

    def end(self, outcome: Outcome, tally: Tally) -> None:
        self._frames_before += self._running.pop(outcome.id, 0)
        if self._verbose or outcome.status == "failed":
            print(f"[{len(tally.outcomes)}/{self._num_videos}] {describe(outcome)}", file=sys.stderr)


class RichDisplay(QuietDisplay):
    """An overall bar by frames with ETA and speed, and a line for each running video."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._overall = self._progress.add_task("Overall", total=None, speed="")
        self._sizes: dict[str, int] = {}
        self._running: dict[str, _Running] = {}
        self._seen_bytes = 0
        self._seen_frames = 0
        self._seen_seconds = 0.0
        self._started = time.perf_counter()

    def start(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            try:
                self._sizes[entry.id] = entry.path.stat().st_size if entry.path.is_file() else 0
            except OSError:
                self._sizes[entry.id] = 0
        self._started = time.perf_counter()
        self._progress.start()

    def frames(self, entry: Entry, num_frames: int) -> None:
        if entry.id not in self._running:
            declared, fps = _declared(entry)
            task = self._progress.add_task(printable(entry.id), total=declared, speed="")
            self._running[entry.id] = _Running(task, declared, fps, time.perf_counter())
        running = self._running[entry.id]
        running.num_frames = num_frames
        now = time.perf_counter()
        self._progress.update(
            running.task,
            completed=num_frames,
            total=max(running.num_declared, num_frames) if running.num_declared else None,
            speed=f"{num_frames / max(now - running.began, 1e-9):.0f} frames/s",
        )
        elapsed = max(now - self._started, 1e-9)
        frames = self._seen_frames + sum(one.num_frames for one in self._running.values())
        seconds = self._seen_seconds + sum(one.seconds for one in self._running.values())
        self._progress.update(
            self._overall,
            completed=frames,
            total=self._expected_frames(),
            speed=f"{frames / elapsed:.0f} frames/s  ×{seconds / elapsed:.1f} real time",
        )

    def end(self, outcome: Outcome, tally: Tally) -> None:
        if outcome.id in self._running:
            self._progress.remove_task(self._running.pop(outcome.id).task)
        self._seen_frames += outcome.num_frames
        self._seen_seconds += outcome.video_seconds
        size = self._sizes.pop(outcome.id, 0)
        # Only what was decoded says how many frames a byte holds.
        self._seen_bytes += size if outcome.num_frames else 0
        description = f"Overall {len(tally.outcomes)}/{tally.num_videos}"
        self._progress.update(self._overall, description=description, completed=self._seen_frames)
        if outcome.status == "failed":
            self._progress.console.print(describe(outcome), style="red", markup=False, highlight=False)

    def stop(self) -> None:
        self._progress.stop()

    def _expected_frames(self) -> float | None:
        """Estimate all frames of the run: those seen, and for files not yet opened the frames a byte seen so far."""
        seen_bytes = self._seen_bytes + sum(self._sizes.get(name, 0) for name in self._running)
        own_frames = sum(max(one.num_declared or 0, one.num_frames) for one in self._running.values())
        seen_frames = self._seen_frames + own_frames
        waiting = sum(size for name, size in self._sizes.items() if name not in self._running)
        return seen_frames + waiting * seen_frames / seen_bytes if seen_bytes else None


@dataclass(slots=True)
class _Running:
    task: TaskID
    num_declared: int | None
    fps: float
    began: float
    num_frames: int = 0

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps if self.fps else 0.0


def _declared(entry: Entry) -> tuple[int | None, float]:
    """Give a video's declared number of frames, for the length of its bar only, and its frame rate."""
    from ..errors import VideoError
    from ..extract.video import VideoReader

    try:
        with VideoReader(entry.path) as reader:
            info = reader.info
    except VideoError:
        return None, 0.0
    if info.num_frames_declared is None and info.duration_seconds:
        return round(info.duration_seconds * info.fps), info.fps
    return info.num_frames_declared, info.fps


def make_display(*, json_lines: bool, quiet: bool, verbose: bool) -> Display:
    """Choose what fits where the output goes."""
    if quiet or json_lines:
        return QuietDisplay()
    if sys.stderr.isatty() and not verbose:
        return RichDisplay()
    return PlainDisplay(verbose=verbose)


def describe(outcome: Outcome) -> str:
    """Say in one line what became of a video."""
    if outcome.status == "failed":
        return f"error[{outcome.code}] {printable(outcome.message or '')}"
    notes = f" ({'; '.join(outcome.notes)})" if outcome.notes else ""
    if outcome.status == "current":
        return f"current {printable(outcome.id)}"
    counts = outcome.counts or {"clips": outcome.num_clips}
    held = [
        *([f"{outcome.num_frames} frames"] if outcome.num_frames else []),
        *(f"{n} {what}" for what, n in counts.items()),
    ]
    return f"{outcome.status} {printable(outcome.id)}: {', '.join(held)}{notes}"


def printable(text: str) -> str:
    """Make a name harmless on a terminal: control characters and undecodable bytes are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def harmless(text: str) -> str:
    """As `printable`, for lists that scripts read: only what a terminal obeys, and half of a surrogate, is escaped."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
