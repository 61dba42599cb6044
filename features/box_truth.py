"""The boxes that people drew around what is abnormal in a video, and which of its frames they looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_FRAMES = 2**31 - 1
"""No frame has a larger number, as in `vadx.detectors.Detections`."""

GRID_STEP = 16
"""Frames between two annotated frames in UCFCrime_BoundingBox_Annotation."""

MAX_GAP = 16 * GRID_STEP
"""Frames without a box after which `annotated_frames` takes the next box for the start of another segment."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxTruth:
    """The annotated boxes of one video.

    Shapes: ``frames (box,)`` int64, source frames from 0, ascending; ``boxes (box, 4)`` float64, half-open ``x1, y1,
    x2, y2`` in source pixels; ``tracks (box,)`` int64, which of several things in a frame a box is of. ``annotated
    (frame,)`` are the frames that somebody looked at, ascending, those without a box too; None where it was every
    frame. The arrays cannot be written through this object.

    Raises
    ------
    UsageError
        if shapes disagree, frames do not ascend, a box is empty or not finite, a track has two boxes in one frame, or
        a box stands in a frame that nobody looked at.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    tracks: NDArray[np.int64]
    annotated: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        frames, tracks = _whole_numbers("frames", self.frames), _whole_numbers("tracks", self.tracks)
        boxes = np.asarray(self.boxes, np.float64)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        if frames.ndim != 1 or boxes.shape != (len(frames), 4) or tracks.shape != frames.shape:
            msg = (
                f"expected frames (box,), boxes (box, 4), tracks (box,); got {frames.shape}, {boxes.shape}, "
                f"{tracks.shape}: give one row of each per box"
            )
            raise UsageError(msg)
        _check_boxes(frames, boxes, tracks)
        arrays = {"frames": frames, "boxes": boxes, "tracks": tracks}
        if self.annotated is not None:
            arrays["annotated"] = _checked_annotated(self.annotated, frames)
        for name, value in arrays.items():
            view = value.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def of_rows(
        cls, frames: ArrayLike, boxes: ArrayLike, tracks: ArrayLike | None = None, annotated: ArrayLike | None = None
    ) -> BoxTruth:
        """Make the truth of boxes in any order; without ``tracks`` all are of one thing."""
        numbers = _whole_numbers("frames", frames)
        of = np.zeros(numbers.shape, np.int64) if tracks is None else _whole_numbers("tracks", tracks)
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        looked = None if annotated is None else np.unique(_whole_numbers("annotated", annotated))
        if numbers.shape != of.shape or len(corners) != len(numbers):
            return cls(numbers, corners, of, looked)  # which says what is wrong
        order = np.lexsort((of, numbers))
        return cls(numbers[order], corners[order], of[order], looked)


def _whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        msg = f"{name} are whole numbers, not {array.dtype}: give an array of int64"
        raise UsageError(msg)
    return array.astype(np.int64, copy=False)


def _check_boxes(frames: NDArray[np.int64], boxes: NDArray[np.float64], tracks: NDArray[np.int64]) -> None:
    if len(frames) and (frames[0] < 0 or frames.max() > MAX_FRAMES or (np.diff(frames) < 0).any()):
        msg = f"frames ascend from 0 to {MAX_FRAMES} at most: sort the boxes, as BoxTruth.of_rows does"
        raise UsageError(msg)
    # Not `x2 <= x1`, which would let NaN pass.
    fine = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not fine.all():
        row = int(np.argmin(fine))
        msg = (
            f"the box {boxes[row].tolist()} in frame {frames[row]} has no area: give x1, y1, x2, y2 with "
            f"x1 < x2 and y1 < y2, or leave it out"
        )
        raise UsageError(msg)
    order = np.lexsort((tracks, frames))
    twice = np.flatnonzero((np.diff(frames[order]) == 0) & (np.diff(tracks[order]) == 0))
    if twice.size:
        row = int(order[twice[0]])
        msg = f"track {tracks[row]} has two boxes in frame {frames[row]}: give one of them another track"
        raise UsageError(msg)


def _checked_annotated(values: ArrayLike, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    looked = _whole_numbers("annotated", values)
    if looked.ndim != 1 or (np.diff(looked) <= 0).any() or (len(looked) and looked[0] < 0):
        msg = "annotated frames ascend from 0, each once: give numpy.unique of them"
        raise UsageError(msg)
    outside = np.setdiff1d(frames, looked)
    if outside.size:
        msg = f"frame {outside[0]} has a box but is no annotated frame: add it to annotated"
        raise UsageError(msg)
    return looked


def annotated_frames(
    frames: ArrayLike, *, step: int = GRID_STEP, max_gap: int = MAX_GAP, num_frames: int | None = None
) -> NDArray[np.int64]:
    """Give the frames that somebody looked at who drew boxes in every ``step``-th frame, ascending, ``(frame,)``.

    ``frames`` are those with boxes. They are cut into segments: a gap that is no multiple of ``step`` (the grid starts
    anew), or that is longer than ``max_gap`` frames, ends one. The grid runs through each segment from its first frame
    to its last, so that a frame of the grid without a box says "nothing is there", and the frames between two of the
    grid say nothing.

    Outside the segments no frame is given: what a tube does there is not charged. With ``num_frames``, the frames of
    the video, the first segment's grid is carried on to frame 0 and every segment's to the next one or the video's
    end, so that a tube which begins too early or ends too late is charged at the same rate as within.

    Raises
    ------
    UsageError
        for a step or gap below 1, or a frame beyond the video's end.
    """
    found = np.unique(_whole_numbers("frames", frames))
    if step < 1 or max_gap < 1:
        msg = f"boxes in every {step}th frame, segments {max_gap} frames apart: give 1 or more for both"
        raise UsageError(msg)
    if num_frames is not None and len(found) and found[-1] >= num_frames:
        msg = (
            f"frame {found[-1]} has a box but the video has {num_frames} frames: give the annotated video's num_frames"
        )
        raise UsageError(msg)
    if not len(found):
        return np.arange(0, num_frames or 0, step, dtype=np.int64)
    gaps = np.diff(found)
    cuts = np.flatnonzero((gaps % step != 0) | (gaps > max_gap)) + 1
    starts, stops = np.append(found[0], found[cuts]), np.append(found[cuts - 1], found[-1]) + 1
    if num_frames is not None:
        starts, stops = np.append(found[0] % step, found[cuts]), np.append(found[cuts], num_frames)
    return np.concatenate([np.arange(a, b, step, dtype=np.int64) for a, b in zip(starts, stops, strict=True)])
