"""What past runs of a store did, read from the logs that they left: ``runs/<run>.jsonl`` of each set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UsageError

COUNTS = ("done", "degraded", "current", "failed")
"""What can become of a video."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run of a set. Without an ``exit_code`` it was cut short, or is still going on.

    ``num_videos`` is what it was given; ``counts`` says how many of them became what; ``began`` is its clock's UTC.
    """

    name: str
    set_name: str
    path: Path
    began: datetime | None
    num_videos: int
    counts: dict[str, int]
    num_frames: int
    seconds: float | None
    exit_code: int | None

    @property
    def left(self) -> int:
        """How many videos it did not come to."""
        return max(0, self.num_videos - sum(self.counts.values()))


def past_runs(set_paths: Iterable[Path]) -> list[PastRun]:
    """Give the runs of sets, the latest first."""
    found = [_past_run(path) for folder in set_paths for path in (folder / "runs").glob("*.jsonl")]
    return sorted(found, key=lambda run: (run.name, run.set_name), reverse=True)


def find_runs(runs: Iterable[PastRun], name: str) -> list[PastRun]:
    """Give the run of this name, or of this beginning of one: in each set that it wrote to.

    Raises
    ------
    UsageError
        if there is none, or several.
    """
    found = [run for run in runs if run.name.startswith(name)]
    names = sorted({run.name for run in found})
    if not names:
        msg = f"no run is called {name!r}; vadx runs lists them"
        raise UsageError(msg)
    if len(names) > 1:
        msg = f"{name!r} begins the names of {len(names)} runs, {names[0]} and {names[1]} among them; give more of it"
        raise UsageError(msg)
    return found


def video_events(run: PastRun) -> Iterator[dict[str, Any]]:
    """Give the events of a run's videos, as `progress.VideoEvent` has them, in their order."""
    return (event for event in _events(run.path) if event.get("event") == "video")


def _past_run(path: Path) -> PastRun:
    counts = dict.fromkeys(COUNTS, 0)
    num_videos, num_frames = 0, 0
    summary: dict[str, Any] = {}
    for event in _events(path):
        if event.get("event") == "start":
            num_videos = int(event.get("num_videos", 0))
        elif event.get("event") == "summary":
            summary = event
        elif event.get("status") in counts:
            counts[event["status"]] += 1
            num_frames += int(event.get("num_frames", 0))
    return PastRun(
        name=path.stem,
        set_name=path.parent.parent.name,
        path=path,
        began=_began(path.stem),
        num_videos=num_videos,
        counts=counts,
        num_frames=num_frames,
        seconds=summary.get("seconds"),
        exit_code=summary.get("exit_code"),
    )


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Give the events of a log. It is informative: a line that was cut short is passed over."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def _began(name: str) -> datetime | None:
    try:
        return datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
