"""Clips become bags: a video's, a tube's or a videolet's clips cut into the segments of a published rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import UsageError
from .bag_file import Bag
from .bag_rules import COMBINATIONS, SegmentRule, segment_rule
from .timeline import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .timeline import ClipFeatures

CropPool = Literal["keep", "mean"] | int
"""``keep`` all crops, their ``mean``, or the number of one of them, from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The rows of a bag: ``features (row, crop, feature)`` float32, and ``frames (row, 2)`` int64, the half-open source
    frames that each was made of, empty for a row of padding.
    """

    features: NDArray[np.float32]
    frames: NDArray[np.int64]


def segment_spans(rule: str, num_clips: int, num_segments: int | None = None, *, seed: int = 0) -> NDArray[np.int64]:
    """Give the clips that each segment is made of, as half-open spans ``(segment, 2)``.

    ``rule`` is one of `SEGMENTATIONS`, ``num_segments`` its own number unless given: 32, or 200 or 256 where the name
    says so. Rules that pick give spans of one clip. Rules that pad with zeros end in empty spans
    ``[num_clips, num_clips)``. ``wsal`` pads with copies of the last clip, whose spans are that clip; ``s3r`` gives the
    clips between which it interpolates.

    ``csltal-pairs`` makes as many segments as clips give, ``2 * (num_clips // 3)``, or ``2 * num_clips`` of 6 clips or
    fewer: first one sequence, then the other. Given a larger even number, each sequence is padded to half of it.
    ``seed`` draws its clips. ``clips`` makes a segment of each clip, and pads to a larger number.

    Raises
    ------
    UsageError
        for an unknown rule, no clip, fewer clips than the rule takes, or an impossible number of segments.
    """
    return _spans(rule, segment_rule(rule), num_clips, num_segments, seed)


def _spans(name: str, rule: SegmentRule, num_clips: int, num_segments: int | None, seed: int) -> NDArray[np.int64]:
    if num_clips < rule.min_clips:
        other = ", give another rule, such as rtfm," if rule.min_clips > 1 else ""
        msg = (
            f"{name} takes {rule.min_clips} clips or more, and there are {num_clips}: extract the video with a tail "
            f"that fills, such as --tail repeat_last{other} or leave it out"
        )
        raise UsageError(msg)
    if seed < 0:
        msg = f"a seed is 0 or more, not {seed}: give seed=0"
        raise UsageError(msg)
    if num_segments is not None and num_segments < 1:
        msg = f"a bag has 1 segment or more, not {num_segments}: give {rule.num_segments or 'no number'}, as published"
        raise UsageError(msg)
    return rule.spans(num_clips, num_segments or rule.num_segments, np.random.default_rng(seed))


def make_bag(
    features: ClipFeatures,
    rule: str,
    *,
    num_segments: int | None = None,
    crop_pool: CropPool = "keep",
    seed: int = 0,
    id: str = "video",
    label: int = -1,
    class_name: str = "",
) -> Bag:
    """Cut a video's features into the segments of ``rule``, one of `SEGMENTATIONS`.

    ``num_segments`` and ``seed`` are as in `segment_spans`, ``crop_pool`` is `CropPool`; ``id``, ``label`` and
    ``class_name`` as in `Bag`. The bag has a row a segment; ``mist`` has one for each of the 7 clips of its parts. A
    segment's frames reach from the first of its first clip to the last of its last.

    Raises
    ------
    UsageError
        as `segment_spans`, for a crop that does not exist, and for zeros that have no direction under a rule that
        makes rows of unit length.
    """
    known = segment_rule(rule)
    try:
        segments = _cut(features.values, features.frames, rule, known, num_segments, crop_pool, seed)
    except UsageError as error:
        msg = f"{id}: {error}"
        raise UsageError(msg) from error
    return Bag(
        id=id,
        features=segments.features,
        frames=segments.frames,
        num_frames=features.facts.num_frames_decoded,
        label=label,
        class_name=class_name,
    )


def cut_segments(
    values: NDArray[np.floating],
    clip_frames: NDArray[np.int64],
    rule: str,
    *,
    num_segments: int | None = None,
    crop_pool: CropPool = "keep",
    seed: int = 0,
) -> Segments:
    """Cut clips of anything, such as a tube or a videolet, as `make_bag` cuts those of a video.

    Shapes: ``values (clip, crop, feature)``; ``clip_frames (clip, 2)``, half-open source frames in ascending order.

    Raises
    ------
    UsageError
        as `make_bag`, and if shapes disagree.
    FeatureError
        with code ``FEATURE_NONFINITE`` if a value is NaN or infinite.
    """
    known = segment_rule(rule)
    if values.ndim != 3 or clip_frames.shape != (len(values), 2) or 0 in values.shape[1:]:
        msg = (
            f"expected values (clip, crop, feature) and frames (clip, 2), got {values.shape} and {clip_frames.shape}: "
            f"give values of one crop as values[:, np.newaxis]"
        )
        raise UsageError(msg)
    check_finite(values)
    return _cut(values, clip_frames, rule, known, num_segments, crop_pool, seed)


def _cut(
    values: NDArray[np.floating],
    clip_frames: NDArray[np.int64],
    name: str,
    rule: SegmentRule,
    num_segments: int | None,
    crop_pool: CropPool,
    seed: int,
) -> Segments:
    spans = rule.row_spans(_spans(name, rule, len(values), num_segments, seed))
    rows = _pooled(values, crop_pool)
    if rule.normalize == "clip":
        rows = _unit_length(rows, name, "clip")
    rows = COMBINATIONS[rule.how](rows, spans, rule.precision)
    if rule.normalize == "segment":
        rows = _unit_length(rows, name, "segment")
    return Segments(rows.astype(np.float32), span_frames(spans, clip_frames))


def _pooled(values: NDArray[np.floating], crop_pool: CropPool) -> NDArray[np.floating]:
    if crop_pool == "keep":
        return values
    if crop_pool == "mean":
        mean: NDArray[np.floating] = values.mean(axis=1, keepdims=True, dtype=np.float64)
        return mean
    num_crops = values.shape[1]
    if not isinstance(crop_pool, int) or not 0 <= crop_pool < num_crops:
        msg = f"there are {num_crops} crops and none is {crop_pool!r}: give keep, mean or a number below {num_crops}"
        raise UsageError(msg)
    return values[:, crop_pool : crop_pool + 1]


def _unit_length(rows: NDArray[np.floating], name: str, what: str) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(wide, axis=2, keepdims=True)
    if (lengths == 0).any():
        row = int(np.argwhere(lengths == 0)[0, 0])
        msg = (
            f"{what} {row} of {len(rows)} is all zeros, which {name} cannot bring to unit length: "
            f"give a rule that does not, such as rtfm, or leave this video out"
        )
        raise UsageError(msg)
    wide /= lengths
    return wide


def span_frames(spans: NDArray[np.int64], clip_frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the half-open source frames ``(row, 2)`` from a span's first clip to its last, empty for an empty span.

    ``spans (row, 2)`` are half-open spans of the clips ``clip_frames (clip, 2)``.
    """
    last = len(clip_frames) - 1
    starts = clip_frames[np.minimum(spans[:, 0], last), 0]
    stops = clip_frames[np.clip(spans[:, 1] - 1, 0, last), 1]
    is_empty = spans[:, 0] == spans[:, 1]
    end = clip_frames[last, 1]
    return np.stack([np.where(is_empty, end, starts), np.where(is_empty, end, stops)], axis=1).astype(np.int64)
