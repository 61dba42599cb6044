"""What a person and a script are told of a scored video: where something is, when, and every frame's score."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .curves import clock_text
from .methods.align import connected_spans
from .scoring import as_mapping
from .tube_pictures import disk_errors, publishing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scoring import ScoredVideo


@dataclass(frozen=True, slots=True)
class Interval:
    """Frames ``[start, stop)`` whose scores reach a threshold, and when they are; ``peak`` is the highest of them.

    ``peak_frame`` is its first. ``start_seconds`` is the time of the first frame, ``stop_seconds`` that of the frame
    after the last, or the video's end, ``peak_seconds`` that of the peak; None where times are unknown.
    """

    start: int
    stop: int
    peak_frame: int
    peak: float
    start_seconds: float | None = None
    stop_seconds: float | None = None
    peak_seconds: float | None = None


def find_intervals(video: ScoredVideo, threshold: float) -> tuple[Interval, ...]:
    """Give the runs of frames whose score is ``threshold`` or more, the one of the highest peak first.

    Of equal peaks the earlier comes first.

    Raises
    ------
    UsageError
        unless the threshold lies in [0, 1].
    """
    if not 0 <= threshold <= 1:
        msg = f"scores lie in [0, 1], and the threshold is {threshold}: give --threshold 0.5"
        raise UsageError(msg)
    # Python's number is compared as float32: a score of 0.7 reaches a threshold of 0.7.
    spans = connected_spans(video.frame_scores, float(threshold))
    times = np.append(video.frame_seconds, end_seconds(video)) if video.is_timed else None
    found = []
    for start, stop in spans.tolist():
        top = start + int(video.frame_scores[start:stop].argmax())
        seconds = () if times is None else (float(times[start]), float(times[stop]), float(times[top]))
        found.append(Interval(start, stop, top, float(video.frame_scores[top]), *seconds))
    return tuple(sorted(found, key=lambda one: (-one.peak, one.start)))


def end_seconds(video: ScoredVideo) -> float:
    """Give when a video's last frame ends: a segment's end, or else one frame after the last; NaN if unknown."""
    at_end = video.frames[:, 1] == video.num_frames
    if at_end.any():
        return float(video.seconds[at_end, 1].max())
    times = video.frame_seconds
    return float(times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1))


def _when(frame: int, seconds: float | None) -> str:
    return f"frame {frame}" if seconds is None else clock_text(seconds)


def highest(video: ScoredVideo) -> str:
    """Say how high a video's highest score is, and when."""
    top = int(video.frame_scores.argmax())
    when = _when(top, float(video.frame_seconds[top]) if video.is_timed else None)
    return f"highest {video.frame_scores[top]:.3f} at {when}"


def video_lines(video: ScoredVideo, intervals: Sequence[Interval], threshold: float, top: int) -> list[str]:
    """Say in a few lines what a model found in a video: the intervals ``top`` of highest peak, in time's order."""
    length = f"{video.num_frames} frames"
    if video.is_timed:
        length = clock_text(end_seconds(video) - float(video.frame_seconds[0]))
    head = f"{video.id}: {length} long, {highest(video)}"
    head += "" if video.video is None else f", video {video.video:.3f}"
    if video.classes:
        best = sorted(video.classes.items(), key=lambda item: -item[1])[:3]
        head += ", " + ", ".join(f"{name} {score:.3f}" for name, score in best)
    if not intervals:
        return [head, f"  nothing reaches {threshold:g}"]
    shown = sorted(intervals[:top], key=lambda one: one.start)
    lines = [
        f"  {_when(one.start, one.start_seconds)} to {_when(one.stop, one.stop_seconds)}  "
        f"peak {one.peak:.3f} at {_when(one.peak_frame, one.peak_seconds)}"
        for one in shown
    ]
    left = len(intervals) - len(shown)
    return [head, *lines, *([f"  and {left} more with lower peaks: --top {len(intervals)}"] if left else [])]


def video_mapping(
    video: ScoredVideo,
    intervals: Sequence[Interval],
    *,
    path: str | None = None,
    files: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Give a scored video as plain JSON: that of `as_mapping`, its file and what is wrong with it, its intervals, and
    what was written of it.
    """
    return {
        **as_mapping(video),
        "path": path,
        "notes": list(notes),
        "intervals": [asdict(one) for one in intervals],
        "files": [str(file) for file in files],
    }


def write_csv(target: Path, video: ScoredVideo) -> None:
    """Write every frame's number, time and score as ``frame,pts_seconds,score``.

    Times between edges of clips, which alone are stored, are spread evenly; those that are unknown are left empty.

    Raises
    ------
    UsageError
        if it cannot be written there.
    StoreWriteError
        if the disk is full or fails.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", "pts_seconds", "score"])
    times = [f"{seconds:.6f}" for seconds in video.frame_seconds] if video.is_timed else [""] * video.num_frames
    writer.writerows(zip(range(video.num_frames), times, video.frame_scores.astype(str), strict=True))
    with publishing(target) as temporary, disk_errors(target):
        temporary.write_text(text.getvalue())
