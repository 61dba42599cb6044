"""Made-up tubes and frames for pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vadx.detectors import Tube
from vadx.detectors.tubes import ANY_LABEL
from vadx.extract.video import FrameBlock

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def tube(
    start: int,
    stop: int,
    box: Sequence[float] = (20, 30, 60, 80),
    *,
    speed: float = 0,
    score: float = 0.5,
    union: bool = False,
    missed: Sequence[int] = (),
) -> Tube:
    """Make a person's tube of frames ``[start, stop)``, or one of two objects that touch; moves to the right."""
    num = stop - start
    boxes = np.tile(np.array([box], np.float64), (num, 1)) + speed * np.arange(num)[:, None] * [1, 0, 1, 0]
    rows = np.where(np.isin(np.arange(start, stop), missed), -1, np.arange(num))
    label, offsets = 1, None
    if union:
        rows, offsets, label = np.repeat(rows, 2), np.arange(0, 2 * num + 1, 2), ANY_LABEL
    return Tube(np.arange(start, stop), boxes, np.full(num, score), label, rows, offsets, 0, start)


def blocks(pictures: Sequence[Picture], pts_seconds: Sequence[float], *, size: int = 4) -> Iterator[FrameBlock]:
    """Give frames in blocks of ``size`` whose memory is used again, as a reader's may be."""
    memory, times = np.empty((size, *pictures[0].shape), np.uint8), np.empty(size)
    for start in range(0, len(pictures), size):
        own = pictures[start : start + size]
        memory[: len(own)], times[: len(own)] = own, pts_seconds[start : start + size]
        yield FrameBlock(start, times[: len(own)], memory[: len(own)], np.zeros(len(own), np.bool_))
        memory[:], times[:] = 0, 0
