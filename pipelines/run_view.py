"""How far a run is, as numbers and short texts: what displays show of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inputs import Entry
    from .job import Outcome
    from .worker_reports import Bound, Length, Place


def expected_frames(seen_frames: float, seen_bytes: float, waiting_bytes: float) -> float | None:
    """Estimate all frames of a run, None before any are seen: files that wait hold as many a byte as those seen."""
    return seen_frames + waiting_bytes * seen_frames / seen_bytes if seen_bytes and seen_frames else None


def seconds_left(num_frames: float, expected: float | None, seconds: float) -> float | None:
    """Give the time that the other frames take at the speed so far, None where nothing tells."""
    if expected is None or num_frames <= 0 or seconds <= 0:
        return None
    return max(0.0, expected - num_frames) * seconds / num_frames


def clock_text(seconds: float | None) -> str:
    """Write a time that is left as ``h:mm:ss``."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a live view: whose it is, how much is done as a share of 1, if that can be told, and the rest."""

    label: str
    done: float | None
    text: str


@dataclass(slots=True)
class _Running:
    """A video under way. Its speed is taken from ``num_before`` frames at ``began`` on, the first that was heard."""

    num_frames: int
    length: Length
    place: Place | None
    num_before: int
    began: float
    heard: float

    @property
    def total(self) -> int:
        """Frames to come in the end, as far as is known."""
        return max(self.length.num_frames or 0, self.num_frames)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.length.fps if self.length.fps else 0.0

    @property
    def speed(self) -> float:
        """Frames a second."""
        return (self.num_frames - self.num_before) / (self.heard - self.began) if self.heard > self.began else 0.0


@dataclass(slots=True)
class RunView:
    """What is known of a run. Times are of one clock, in seconds."""

    num_videos: int = 0
    num_settled: int = 0
    num_failed: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)
    _waiting_bytes: int = 0
    _running: dict[str, _Running] = field(default_factory=dict)
    _seen_bytes: int = 0
    _seen_frames: int = 0
    _seen_seconds: float = 0.0
    _started: float = 0.0

    def start(self, entries: Iterable[Entry], now: float) -> None:
        """Note what the run has before it."""
        self._sizes = {entry.id: _size(entry) for entry in entries}
        self._waiting_bytes = sum(self._sizes.values())
        self.num_videos = len(self._sizes)
        self._started = now

    def frames(self, identifier: str, num_frames: int, length: Length, place: Place | None, now: float) -> None:
        """Note how far a video is."""
        running = self._running.get(identifier)
        if running is None or _worker(running.place) != _worker(place) or num_frames < running.num_frames:
            # Anew where its worker was lost.
            if running is None:
                self._waiting_bytes -= self._sizes.get(identifier, 0)
            self._running[identifier] = _Running(num_frames, length, place, num_frames, now, now)
            return
        running.num_frames, running.length, running.place, running.heard = num_frames, length, place, now

    def end(self, outcome: Outcome, num_videos: int) -> None:
        """Note what became of a video, one of so many."""
        self.num_videos = num_videos
        size = self._sizes.pop(outcome.id, 0)
        if self._running.pop(outcome.id, None) is None:
            self._waiting_bytes -= size
        self._seen_frames += outcome.num_frames
        self._seen_seconds += outcome.video_seconds
        # Only what was decoded says how many frames a byte holds.
        self._seen_bytes += size if outcome.num_frames else 0
        self.num_settled += 1
        self.num_failed += outcome.status == "failed"

    def overall(self, now: float) -> Row:
        """Give the line of the whole run."""
        seconds = max(now - self._started, 1e-9)
        running = self._running.values()
        num_frames = self._seen_frames + sum(one.num_frames for one in running)
        video_seconds = self._seen_seconds + sum(one.seconds for one in running)
        seen_bytes = self._seen_bytes + sum(self._sizes.get(name, 0) for name in self._running)
        in_sight = self._seen_frames + sum(one.total for one in running)
        expected = expected_frames(in_sight, seen_bytes, self._waiting_bytes)
        left = seconds_left(num_frames, expected, seconds)
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return Row(
            f"Overall {self.num_settled}/{self.num_videos}{failed}",
            None if not expected else min(1.0, num_frames / expected),
            f"{num_frames} frames, {num_frames / seconds:.0f} frames/s, {video_seconds / seconds:.1f} x real time, "
            f"{clock_text(left)} left",
        )

    def rows(self, max_rows: int) -> list[Row]:
        """Give a line for each worker, or, where the run itself is at them, for each video; the last may stand for
        more.
        """
        groups: dict[str, list[str]] = {}
        for name, running in self._running.items():
            groups.setdefault(name if running.place is None else running.place.worker, []).append(name)
        labels = sorted(groups, key=_natural)
        shown = labels if len(labels) <= max_rows else labels[: max(0, max_rows - 1)]
        rows = [self._row(label, groups[label]) for label in shown]
        if len(shown) < len(labels):
            rows.append(Row(f"and {len(labels) - len(shown)} more", None, ""))
        return rows

    def _row(self, label: str, names: Sequence[str]) -> Row:
        # The one that will take longest is what a worker is waited for.
        name = max(names, key=lambda one: self._running[one].total - self._running[one].num_frames)
        running = self._running[name]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        bound: Bound | None = None if running.place is None else running.place.bound
        speed = sum(self._running[one].speed for one in names)
        return Row(
            label if running.place is None else f"{label}: {name}{more}",
            running.num_frames / running.length.num_frames if running.length.num_frames else None,
            f"{speed:.0f} frames/s{f', {bound}-bound' if bound else ''}",
        )


def _worker(place: Place | None) -> str | None:
    return None if place is None else place.worker


def _natural(label: str) -> list[tuple[bool, int, str]]:
    """Order by the numbers in a label, so that worker 10 comes after worker 9."""
    parts = re.split(r"(\d+)", label)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _size(entry: Entry) -> int:
    try:
        return entry.path.stat().st_size if entry.path.is_file() else 0
    except OSError:
        return 0
