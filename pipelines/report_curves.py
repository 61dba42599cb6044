"""A curve over a video's time as a page shows it: the points of a line, and the same as a table."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .curves import clock_text

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawn line: ``points`` as SVG writes them, x in per mille of the duration, y in per cent from the top."""

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class TimeRow:
    """Times and scores of a part of a video, as texts. ``truth`` is what of it is marked anomalous."""

    start: str
    stop: str
    highest: str
    mean: str
    truth: str


@dataclass(frozen=True, slots=True)
class TimeTable:
    """A curve in words. ``whole`` is whether each row is one stretch of equal scores, so that nothing is left out."""

    rows: tuple[TimeRow, ...]
    whole: bool


def frame_edges(starts: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """Give when each frame begins and the last ends, ``(frame + 1,)`` seconds.

    ``starts (frame,)`` are timestamps; where one falls behind those before it, it is taken as the latest of them, as a
    player shows it. ``end`` is when the last frame ends, and is moved behind its beginning if it is not.

    Raises
    ------
    ValueError
        if there is no frame or a time is not finite.
    """
    if not len(starts) or not (np.isfinite(starts).all() and np.isfinite(end)):
        msg = f"{len(starts)} frames that end at {end} have no time axis"
        raise ValueError(msg)
    rising = np.maximum.accumulate(starts)
    gap = (rising[-1] - rising[0]) / (len(starts) - 1) if len(starts) > 1 else 0.0
    edges: NDArray[np.float64] = np.append(rising, end if end > rising[-1] else rising[-1] + (gap or 1.0))
    return edges


def points_text(times: NDArray[np.float64], values: NDArray[np.float64], duration: float) -> str:
    """Write points for SVG: x in per mille of the duration, y in per cent from the top."""
    return " ".join(
        f"{_short(1000 * t / duration)},{_short(100 * (1 - v))}" for t, v in zip(times, values, strict=True)
    )


def _short(number: float) -> str:
    text = f"{number:.1f}"
    return text.removesuffix(".0")


def time_table(
    values: NDArray[np.float32], seconds: NDArray[np.float64], truth: NDArray[np.int64] | None, max_rows: int
) -> TimeTable:
    """Say what a curve shows: a row for each stretch of equal values, or for equal parts if there are too many."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    whole = len(edges) - 1 <= max_rows
    if not whole:
        edges = np.linspace(0, len(values), max_rows + 1).astype(np.int64)
    marked = np.zeros(len(values), bool)
    for start, stop in truth if truth is not None else ():
        marked[start:stop] = True
    rows = []
    for start, stop in itertools.pairwise(edges):
        share = float(marked[start:stop].mean())
        word = "not known" if truth is None else {0.0: "none", 1.0: "all"}.get(share, f"{share:.0%}")
        part = values[start:stop]
        rows.append(
            TimeRow(
                clock_text(float(seconds[start])),
                clock_text(float(seconds[stop])),
                f"{float(part.max()):.3f}",
                f"{float(part.mean()):.3f}",
                word,
            )
        )
    return TimeTable(tuple(rows), whole)


def seconds_text(seconds: float) -> str:
    """Write a duration for reading: 4.5 s, 2 min 30 s, 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60:02d} min"
