"""Boxes found in the frames of one video, as a structure of arrays."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FRAMES = 2**31 - 1
"""Frames are kept as 32-bit numbers while boxes are linked: 2.2 years at 30 frames/s."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The boxes that a detector found in every ``stride``-th frame of one video, beginning with frame 0.

    Shapes: ``frame_index (box,)`` int64, the decoded source frame, a multiple of ``stride``; ``boxes (box, 4)``
    float32 or float64, half-open ``x1, y1, x2, y2`` in source pixels; ``scores (box,)`` float32 or float64; ``labels
    (box,)`` int64, which for vadx's own detectors are COCO's numbers, 1 to 90. The video has ``num_frames`` frames.

    Rows may stand in any order, and a row's number names that box for good. Boxes that cannot be linked (a value that
    is not finite, ``x2 <= x1`` or ``y2 <= y1``) may stand here and keep their numbers: `valid` tells them apart.
    Lists are taken too. The arrays cannot be written through this object.

    Raises
    ------
    UsageError
        if shapes disagree, numbers of frames or labels are not integers, or a frame does not exist or was not
        looked at.
    """

    frame_index: NDArray[np.int64]
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    num_frames: int
    stride: int = 1

    def __post_init__(self) -> None:
        frames = _integers("frame_index", self.frame_index)
        boxes, scores = _floats("boxes", self.boxes), _floats("scores", self.scores)
        labels = _integers("labels", self.labels)
        if not boxes.size:
            boxes = boxes.reshape(0, 4)
        num = len(frames) if frames.ndim == 1 else -1
        if boxes.shape != (num, 4) or scores.shape != (num,) or labels.shape != (num,):
            msg = (
                f"expected frame_index (box,), boxes (box, 4), scores (box,), labels (box,); got "
                f"{frames.shape}, {boxes.shape}, {scores.shape}, {labels.shape}: give one row of each per box"
            )
            raise UsageError(msg)
        num_frames, stride = _whole("num_frames", self.num_frames), _whole("stride", self.stride)
        _check_frames(frames, num_frames, stride)
        for name, value in {"frame_index": frames, "boxes": boxes, "scores": scores, "labels": labels}.items():
            view = value.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        object.__setattr__(self, "num_frames", num_frames)
        object.__setattr__(self, "stride", stride)

    def __len__(self) -> int:
        return len(self.frame_index)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which boxes can be linked, ``(box,)``: all values finite, and an area above zero."""
        x1, y1, x2, y2 = self.boxes.T
        found: NDArray[np.bool_] = (
            np.isfinite(self.boxes).all(axis=1) & np.isfinite(self.scores) & (x2 > x1) & (y2 > y1)
        )
        return found


def _check_frames(frames: NDArray[np.int64], num_frames: int, stride: int) -> None:
    if not 0 <= num_frames <= MAX_FRAMES or not 1 <= stride <= MAX_FRAMES:
        msg = (
            f"a video has 0 to {MAX_FRAMES} frames and a stride of 1 or more; got num_frames={num_frames}, "
            f"stride={stride}: give the number of decoded frames of the whole video, and stride=1 for every frame"
        )
        raise UsageError(msg)
    outside = np.flatnonzero((frames < 0) | (frames >= num_frames))
    if outside.size:
        row = int(outside[0])
        msg = (
            f"row {row} lies in frame {frames[row]}, but the video has the frames [0, {num_frames}): count frames "
            f"from 0 and give num_frames={max(int(frames.max()) + 1, 0)} or more"
        )
        raise UsageError(msg)
    between = np.flatnonzero(frames % stride)
    if between.size:
        row = int(between[0])
        msg = (
            f"row {row} lies in frame {frames[row]}, which is no multiple of the stride {stride}: give source frames "
            f"(sample number times stride), or stride=1"
        )
        raise UsageError(msg)


def _integers(name: str, values: Any) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        msg = f"{name} must hold integers, got {array.dtype}: give {name}.astype(int)"
        raise UsageError(msg)
    return array.astype(np.int64, copy=False)


def _floats(name: str, values: Any) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" and array.size:
        msg = f"{name} must hold real numbers, got {array.dtype}: give {name}.astype(float)"
        raise UsageError(msg)
    if array.dtype in (np.float32, np.float64):
        return array
    # 16 bits fit into 32 without a change; integers of any size need 64.
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        msg = f"{name} must be a whole number, got {value!r}: give {name}=int(...)"
        raise UsageError(msg) from error
