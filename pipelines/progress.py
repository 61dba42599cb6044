"""What a person, a script and a log see of a run: a live display on a terminal, JSON lines or plain lines off it."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..features.keys import as_text
from .run_view import RunView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .inputs import Entry
    from .job import Outcome
    from .worker_reports import Length, Place

PLAIN_LINE_SECONDS = 30.0
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_OBEYED_IN_JSON = re.compile(r"[\x7f-\x9f]")


class StartEvent(msgspec.Struct, tag_field="event", tag="start", frozen=True, omit_defaults=True):
    """A run begins. ``run`` is its name; ``feature_set`` the folder it writes to; ``dashboard`` where Dask shows its
    workers, if it does.
    """

    run: str
    feature_set: str
    recipe_digest: str
    num_videos: int
    batch: int
    device: str
    dashboard: str | None = None


class VideoEvent(msgspec.Struct, tag_field="event", tag="video", frozen=True, omit_defaults=True):
    """One video is settled. ``status`` is done, current, degraded or failed; ``code`` is stable when failed, and
    ``attempts`` is how often it was tried.

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
    attempts: int = 1


class SummaryEvent(msgspec.Struct, tag_field="event", tag="summary", frozen=True):
    """A run ended with ``exit_code``.

    ``network_seconds`` is how long networks ran, ``waited_for_frames_seconds`` how long nothing was left to do but to
    wait for decoders, both summed over all workers; ``limited_by`` decode, network or preprocess, None for a run too
    short to tell.
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
    """What a run tells while it goes on. What is told of frames is for those alone that ``shows_frames``."""

    @property
    def shows_frames(self) -> bool: ...

    def start(self, entries: Sequence[Entry]) -> None: ...
    def frames(self, entry: Entry, num_frames: int, length: Length, place: Place | None = None) -> None: ...
    def end(self, outcome: Outcome, tally: Tally) -> None: ...
    def stop(self) -> None: ...


class QuietDisplay:
    """Says nothing."""

    shows_frames = False

    def start(self, entries: Sequence[Entry]) -> None: ...
    def frames(self, entry: Entry, num_frames: int, length: Length, place: Place | None = None) -> None: ...
    def end(self, outcome: Outcome, tally: Tally) -> None: ...
    def stop(self) -> None: ...


class PlainDisplay(QuietDisplay):
    """A line now and then, for logs. With ``verbose`` a line for every video."""

    shows_frames = True

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._last = time.perf_counter()
        self._view = RunView()
        self._num_videos = 0

    def start(self, entries: Sequence[Entry]) -> None:
        self._num_videos = len(entries)
        self._last = time.perf_counter()
        self._view.start(entries, self._last)

    def frames(self, entry: Entry, num_frames: int, length: Length, place: Place | None = None) -> None:
        now = time.perf_counter()
        self._view.frames(entry.id, num_frames, length, place, now)
        if now - self._last >= PLAIN_LINE_SECONDS:
            self._last = now
            where = "" if place is None else f" on {place.worker}"
            line = f"{printable(entry.id)}{where}: frame {num_frames}; {self._view.overall(now).text}"
            print(line, file=sys.stderr)

    def end(self, outcome: Outcome, tally: Tally) -> None:
        self._view.end(outcome, tally.num_videos)
        if self._verbose or outcome.status == "failed":
            print(f"[{len(tally.outcomes)}/{self._num_videos}] {describe(outcome)}", file=sys.stderr)


def make_display(*, json_lines: bool, quiet: bool, verbose: bool) -> Display:
    """Choose what fits where the output goes."""
    if quiet or json_lines:
        return QuietDisplay()
    if sys.stderr.isatty() and not verbose:
        from .live_view import RichDisplay

        return RichDisplay()
    return PlainDisplay(verbose=verbose)


def describe(outcome: Outcome) -> str:
    """Say in one line what became of a video."""
    if outcome.status == "failed":
        tried = f" Tried {outcome.attempts} times." if outcome.attempts > 1 else ""
        return f"error[{outcome.code}] {printable(outcome.message or '')}{tried}"
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


def harmless_json(text: str) -> str:
    """Escape what JSON lets stand in its texts and a terminal obeys: DEL and 8-bit controls."""
    return _OBEYED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(event: object) -> str:
    """Give an event as one line of JSON, harmless on a terminal."""
    return harmless_json(msgspec.json.encode(event).decode())
