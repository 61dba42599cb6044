"""Times and curves as every picture shows them: a clock's text, round times for an axis, and lines that keep peaks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)


def clock_text(seconds: float) -> str:
    """Write a time as ``1:02:03.4``, hours only if there are any."""
    tenths = round(abs(seconds) * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    sign = "-" if seconds < 0 and tenths else ""
    return sign + (f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}")


def time_ticks(begin: float, end: float, max_ticks: int) -> list[tuple[float, str]]:
    """Give round times in ``[begin, end]`` for an axis, with what stands there."""
    step = next((step for step in _STEPS_SECONDS if (end - begin) / step <= max_ticks - 1), 86400.0)
    first, last = int(np.ceil(begin / step - 1e-9)), int(np.floor(end / step + 1e-9))
    stride = max(1, -(-(last - first + 1) // max_ticks))
    times = [number * step for number in range(first, last + 1, stride)]
    return [(time, clock_text(time) if step < 1 else clock_text(time).removesuffix(".0")) for time in times]


def step_curve(
    values: NDArray[np.floating], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give times and values of the corners of the line that stays at a frame's value until the next frame.

    ``edges (frame + 1,)`` are when each frame begins, and the last ends.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    stops = np.concatenate([starts[1:], [len(values)]])
    times = np.stack([edges[starts], edges[stops]], axis=1).reshape(-1)
    return times, np.repeat(values[starts].astype(np.float64), 2)


def downsample(
    times: NDArray[np.float64], values: NDArray[np.float64], max_points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep of equal parts the lowest and the highest point, in order, and both ends: no peak is lost or moved.

    Raises
    ------
    ValueError
        if fewer than four points are asked for.
    """
    if max_points < 4:
        msg = f"a curve is made of 4 points or more; got {max_points}"
        raise ValueError(msg)
    if len(times) <= max_points:
        return times, values
    keep = {0, len(times) - 1}
    edges = np.linspace(0, len(times), (max_points - 2) // 2 + 1).astype(np.int64)
    for start, stop in itertools.pairwise(edges):
        part = values[start:stop]
        keep |= {int(start + part.argmin()), int(start + part.argmax())}
    places = sorted(keep)
    return times[places], values[places]
