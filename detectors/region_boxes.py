"""Which clips of a tube are looked at, which box in each of their frames, and how what is inside is cut out.

T^r of J. Wu et al. 2021, section 4, is the inside of a tube: "each 16-frame image sequence within the instance". The
paper does not say how the boxes of a sequence are cut, nor what becomes of frames that fill no clip: both are settings,
and recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import roi_align

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .tubes import Tube

SAMPLING = "roi_align/adaptive"
"""Names how pixels are sampled; it changes when the same settings give other pixels."""


class Crop(NamedTuple):
    """A row of `CROPS`. ``choose`` maps the boxes of a tube ``(frame, 4)`` and its clips to boxes ``(row, 4)``, one for
    every frame of every clip.
    """

    meaning: str
    choose: Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]


class Remainder(NamedTuple):
    """A row of `REMAINDERS`. ``last`` gives the span of the clip after the full ones, None for no such clip, of a tube
    that is no shorter than a clip and leaves frames over: from its length and a clip's.
    """

    meaning: str
    last: Callable[[int, int], tuple[int, int] | None]


class GlobalAlignment(NamedTuple):
    """A row of `GLOBAL_ALIGNMENTS`. ``spans`` maps frames ``start, stop`` of a clip, the clip length and the number of
    frames of the video to the whole-frame clips that stand for it, in order.
    """

    meaning: str
    spans: Callable[[int, int, int, int], tuple[tuple[int, int], ...]]


def _rows(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the frames of each span, one span after the other."""
    lengths = spans[:, 1] - spans[:, 0]
    ends = np.cumsum(lengths)
    rows: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(spans[:, 0] - (ends - lengths), lengths)
    return rows


def _frame_boxes(boxes: NDArray[np.float64], spans: NDArray[np.int64]) -> NDArray[np.float64]:
    return boxes[_rows(spans)]


def _clip_unions(boxes: NDArray[np.float64], spans: NDArray[np.int64]) -> NDArray[np.float64]:
    lengths = spans[:, 1] - spans[:, 0]
    starts, chosen = np.cumsum(lengths) - lengths, boxes[_rows(spans)]
    low = np.minimum.reduceat(chosen[:, :2], starts)
    high = np.maximum.reduceat(chosen[:, 2:], starts)
    return np.repeat(np.concatenate([low, high], axis=1), lengths, axis=0)


def _tube_union(boxes: NDArray[np.float64], spans: NDArray[np.int64]) -> NDArray[np.float64]:
    union = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return np.tile(union, (int((spans[:, 1] - spans[:, 0]).sum()), 1))


CROPS: Mapping[str, Crop] = MappingProxyType(
    {
        "frame": Crop("the box of each frame: the literal reading", _frame_boxes),
        "clip-union": Crop("one box a clip, which encloses those of its frames: motion is kept", _clip_unions),
        "tube-union": Crop("one box a tube, which encloses those of all its frames", _tube_union),
    }
)
"""Name -> which box is cut out of a frame."""

REMAINDERS: Mapping[str, Remainder] = MappingProxyType(
    {
        "drop": Remainder("they are left out: full clips from the tube's start", lambda length, clip: None),
        "pad": Remainder(
            "they are one more clip, filled up with the tube's last frame",
            lambda length, clip: (length // clip * clip, length),
        ),
        "overlap": Remainder(
            "the tube's last frames are one more clip, which overlaps the one before",
            lambda length, clip: (length - clip, length),
        ),
    }
)
"""Name -> what becomes of the last frames of a tube, which fill no clip. A tube that is shorter than a clip is one clip
always, filled up with its last frame."""


def _grid_spans(start: int, stop: int, clip_length: int, num_frames: int) -> tuple[tuple[int, int], ...]:
    first, last = start // clip_length, (stop - 1) // clip_length
    grid = [(i * clip_length, min((i + 1) * clip_length, num_frames)) for i in range(first, last + 1)]
    shared = [min(stop, end) - max(start, begin) for begin, end in grid]
    enough = [span for span, frames in zip(grid, shared, strict=True) if 2 * frames >= clip_length]
    return tuple(enough or [grid[shared.index(max(shared))]])


GLOBAL_ALIGNMENTS: Mapping[str, GlobalAlignment] = MappingProxyType(
    {
        "tube": GlobalAlignment(
            "the whole frames of the tube's own clips", lambda start, stop, clip_length, num_frames: ((start, stop),)
        ),
        "grid": GlobalAlignment(
            "the clips of one grid over the video that share half a clip or more with the tube's clip, or else the "
            "first of those that share most: computed once for all tubes",
            _grid_spans,
        ),
    }
)
"""Name -> which whole-frame clips stand for a clip of a tube, T^g of the paper; of several the mean. They stand for a
clip and not for the tube, so that its parts stay exact. A grid clip that the end of the video cuts is filled up with
its last frame."""


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What of a tube is shown to a network; recorded whole beside the features.

    Parameters
    ----------
    crop
        One of `CROPS`.
    pad
        Fraction by which the width and the height of a box grow, around its centre: 0.1 makes 100 pixels 110.
    square
        Whether the shorter side grows to the longer one, after ``pad``. At the edge of the picture what lies outside is
        cut off, and the box is not square.
    remainder
        One of `REMAINDERS`.
    global_align
        One of `GLOBAL_ALIGNMENTS`.
    keep_clips
        Whether the features of every clip are given, beside the means.

    Raises
    ------
    UsageError
        for a value outside its range.
    """

    crop: str = "frame"
    pad: float = 0.0
    square: bool = False
    remainder: str = "drop"
    global_align: str = "tube"
    keep_clips: bool = False

    def __post_init__(self) -> None:
        for name, table in _TABLES.items():
            value = getattr(self, name)
            if value not in table:
                msg = f"{name} must be one of {', '.join(table)}, got {value!r}: give {name}={next(iter(table))!r}"
                raise UsageError(msg)
        if not (math.isfinite(self.pad) and self.pad >= 0):
            msg = f"pad must be a fraction of the box's sides, 0 or more, got {self.pad!r}: give pad=0.1"
            raise UsageError(msg)

    def record(self) -> dict[str, Any]:
        """Give what changes a value. Whether clips are kept does not."""
        return {
            "crop": self.crop,
            "pad": float(self.pad),
            "square": bool(self.square),
            "remainder": self.remainder,
            "global_align": self.global_align,
            "sampling": SAMPLING,
        }


_TABLES: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"crop": CROPS, "remainder": REMAINDERS, "global_align": GLOBAL_ALIGNMENTS}
)


def clip_spans(tube_length: int, clip_length: int, remainder: str = "drop") -> NDArray[np.int64]:
    """Give the clips of a tube as half-open spans ``(clip, 2)``, counted from the tube's first frame.

    All are within the tube. One that is shorter than ``clip_length`` is to be filled up with its last frame.

    Raises
    ------
    UsageError
        for lengths below 1, or a remainder that is none of `REMAINDERS`.
    """
    if tube_length < 1 or clip_length < 1:
        msg = f"a tube and a clip have 1 frame or more, got {tube_length} and {clip_length}: give positive numbers"
        raise UsageError(msg)
    if remainder not in REMAINDERS:
        msg = f"remainder must be one of {', '.join(REMAINDERS)}, got {remainder!r}: give remainder='drop'"
        raise UsageError(msg)
    if tube_length < clip_length:
        return np.array([[0, tube_length]], np.int64)
    starts = np.arange(tube_length // clip_length, dtype=np.int64) * clip_length
    spans = np.stack([starts, starts + clip_length], axis=1)
    last = REMAINDERS[remainder].last(tube_length, clip_length) if tube_length % clip_length else None
    return spans if last is None else np.concatenate([spans, np.array([last], np.int64)])


def region_boxes(
    tube: Tube, spans: NDArray[np.int64], settings: RegionSettings, width: int, height: int
) -> NDArray[np.float32]:
    """Give the box that is cut out of every frame of every clip, float32 ``(row, 4)``, clip by clip.

    Boxes are chosen, grown, and then clipped to the picture of ``width`` times ``height`` pixels: RoIAlign reads zeros
    outside it. None is empty: a side that is shorter than a pixel after clipping becomes one pixel around its middle,
    within the picture. So a box outside the picture becomes a strip at the nearest edge, one pixel wide.

    Raises
    ------
    UsageError
        if a box of the tube is not finite.
    """
    given = np.asarray(tube.boxes, np.float64)
    if not np.isfinite(given).all():
        frame = int(tube.frames[np.flatnonzero(~np.isfinite(given).all(axis=1))[0]])
        msg = f"the tube's box in frame {frame} is not finite, and nothing can be cut out there: link the boxes again"
        raise UsageError(msg)
    boxes = CROPS[settings.crop].choose(given, spans)
    sides = boxes[:, 2:] - boxes[:, :2]
    wanted = sides * (1 + settings.pad)
    if settings.square:
        wanted = np.broadcast_to(wanted.max(axis=1, keepdims=True), wanted.shape)
    # Where nothing grows this adds zeros, and boxes stay bit for bit.
    growth = (wanted - sides) / 2
    picture = np.array([width, height], np.float64)
    low, high = np.clip(boxes[:, :2] - growth, 0, picture), np.clip(boxes[:, 2:] + growth, 0, picture)
    thin = high - low < 1
    start = np.clip((low + high) / 2 - 0.5, 0, picture - 1)
    low, high = np.where(thin, start, low), np.where(thin, start + 1, high)
    return np.concatenate([low, high], axis=1).astype(np.float32)


def as_pictures(frames: NDArray[np.generic] | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Give frames, numpy ``(n, H, W, 3)`` or a tensor ``(n, 3, H, W)``, as a tensor of float32 ``(n, 3, H, W)``, on the
    device where they are unless another is named.
    """
    if isinstance(frames, np.ndarray):
        # torch warns of memory that must not be written to.
        whole = np.ascontiguousarray(frames) if frames.flags.writeable else frames.copy()
        frames = torch.from_numpy(whole).permute(0, 3, 1, 2)
    # Bytes cross to a device, a quarter of what floats would be.
    placed = frames if device is None else frames.to(device)
    return placed.to(torch.float32, memory_format=torch.contiguous_format)


def align_regions(
    frames: NDArray[np.generic] | Tensor,
    frame_index: NDArray[np.int64],
    boxes: NDArray[np.float32],
    size: int,
) -> Tensor:
    """Cut boxes out and stretch them to ``size`` squared: float32 ``(box, 3, size, size)``, on the frames' device.

    RoIAlign (He et al., Mask R-CNN, ICCV 2017) as in `torchvision.ops.roi_align`, ``aligned=True`` and
    ``sampling_ratio=0``: as many samples a pixel as the box has pixels there, so that large boxes do not alias. A box
    of whole pixels that is enlarged is a crop and bilinear resize, except within half a pixel of its edge, where the
    real neighbours are read. It runs in float32: boxes in half precision move by whole pixels.

    Parameters
    ----------
    frames
        numpy ``(n, H, W, 3)`` as decoders give them, or a tensor ``(n, 3, H, W)``, of any number type.
    frame_index
        ``(box,)``: which of the frames a box is in.
    boxes
        ``(box, 4)``, within the picture, not empty: as `region_boxes` gives them.
    """
    pictures = as_pictures(frames)
    rois = np.concatenate([np.asarray(frame_index, np.float32)[:, None], np.asarray(boxes, np.float32)], axis=1)
    placed = torch.from_numpy(rois).to(pictures.device)
    aligned: Tensor = roi_align(pictures, placed, (size, size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
    return aligned


def crop_regions(
    frames: NDArray[np.generic] | Tensor,
    frame_index: NDArray[np.int64],
    boxes: NDArray[np.float32],
    size: int,
) -> Tensor:
    """Give `align_regions` as uint8: rounded to the nearest, halves to the even number, as OpenCV and torch round."""
    return align_regions(frames, frame_index, boxes, size).round_().clamp_(0, 255).to(torch.uint8)
