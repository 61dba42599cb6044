"""The table SEGMENTATIONS: how published methods make equally many segments of videos of any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Spans: TypeAlias = "NDArray[np.int64]"

MIST_PART_CLIPS = 7
"""Clips that follow each other in a part of a MIST bag; the option ``part_len`` of its training script."""

CSLTAL_BLOCK_CLIPS = 3
"""Clips in a block, from which CSL-TAL draws one; the option ``sample-window`` of its training script."""


def _from_edges(edges: Spans) -> Spans:
    """Give ``[edge, next edge)``, and the one clip at the edge where two edges are equal."""
    return np.stack([edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)], axis=1)


def _one_each(clips: Spans) -> Spans:
    return np.stack([clips, clips + 1], axis=1)


def _zero_padded(num_clips: int, num_segments: int) -> Spans:
    clips = np.minimum(np.arange(num_segments, dtype=np.int64), num_clips)
    return np.stack([clips, np.minimum(clips + 1, num_clips)], axis=1)


def _sultani(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    # MATLAB's round(linspace(1, T, 33)), half away from zero, counted from 0. numpy rounds halves to even, which gives
    # other edges for 1437 of T = 1 ... 2000; whole numbers round exactly for any number of segments.
    steps = np.arange(num_segments + 1, dtype=np.int64)
    return _from_edges((2 * steps * (num_clips - 1) + num_segments) // (2 * num_segments))


def _sultani_paper(num_clips: int, num_segments: int, random: np.random.Generator) -> Spans:
    spans = _sultani(num_clips, num_segments, random)
    spans[-1, 1] = num_clips
    return spans


def _ekosman(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    return _from_edges(np.round(np.linspace(0, num_clips - 1, num_segments + 1)).astype(np.int64))


def _floor(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    # numpy's linspace and not i * T // S: with 200 segments the two differ for 116 of T = 1 ... 3000, 58 the first.
    return _from_edges(np.linspace(0, num_clips, num_segments + 1).astype(np.int64))


def _floor_or_padded(num_clips: int, num_segments: int, random: np.random.Generator) -> Spans:
    if num_clips > num_segments:
        return _floor(num_clips, num_segments, random)
    return _zero_padded(num_clips, num_segments)


def _pick_or_padded(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    # The repositories count in uint16, which wraps beyond 65,536 clips; here nothing does.
    if num_clips > num_segments:
        return _one_each(np.linspace(0, num_clips - 1, num_segments).astype(np.int64))
    return _zero_padded(num_clips, num_segments)


def _repeat_padded(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    edges = np.arange(num_segments + 1, dtype=np.int64) * -(-num_clips // num_segments)
    # Beyond the end there are copies of the last clip.
    return np.stack([np.minimum(edges[:-1], num_clips - 1), np.minimum(edges[1:], num_clips)], axis=1)


def _resize_places(num_clips: int, num_segments: int) -> tuple[Spans, Spans, NDArray[np.float64]]:
    """Give for each segment the two clips between which its centre lies, and the weight of the second."""
    twice = (2 * np.arange(num_segments, dtype=np.int64) + 1) * num_clips - num_segments
    place = np.clip(twice, 0, 2 * num_segments * (num_clips - 1))
    before, remainder = np.divmod(place, 2 * num_segments)
    return before, np.minimum(before + 1, num_clips - 1), remainder / (2 * num_segments)


def _resize(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    before, after, weight = _resize_places(num_clips, num_segments)
    return np.stack([before, np.where(weight > 0, after, before) + 1], axis=1)


def _mist(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    starts = np.linspace(0, num_clips - MIST_PART_CLIPS, num_segments + 1).astype(np.int64)[:-1]
    return np.stack([starts, starts + MIST_PART_CLIPS], axis=1)


def _csltal_pairs(num_clips: int, num_segments: int, random: np.random.Generator) -> Spans:
    num_blocks = num_clips // CSLTAL_BLOCK_CLIPS
    if num_clips <= 2 * CSLTAL_BLOCK_CLIPS:
        picked = np.tile(np.arange(num_clips, dtype=np.int64), (2, 1))
    else:
        picked = CSLTAL_BLOCK_CLIPS * np.arange(num_blocks, dtype=np.int64) + random.integers(
            CSLTAL_BLOCK_CLIPS, size=(2, num_blocks)
        )
    num_needed = picked.size
    if num_segments and (num_segments % 2 or num_segments < num_needed):
        msg = (
            f"csltal-pairs makes two sequences of {num_needed // 2} of {num_clips} clips, which are not {num_segments} "
            f"segments: leave the number of segments out, or give an even one from {num_needed} on, which is padded"
        )
        raise UsageError(msg)
    num_padded = (num_segments or num_needed) // 2 - num_needed // 2
    padding = np.full((num_padded, 2), num_clips, np.int64)
    return np.concatenate([part for sequence in picked for part in (_one_each(sequence), padding)])


def _every_clip(num_clips: int, num_segments: int, _: np.random.Generator) -> Spans:
    if num_segments and num_segments < num_clips:
        msg = (
            f"clips makes a row of each of {num_clips} clips, which are more than {num_segments}: leave the number of "
            f"segments out, or give one from {num_clips} on, which is padded"
        )
        raise UsageError(msg)
    return _zero_padded(num_clips, num_segments or num_clips)


Precision = Literal["float32", "float64"]
Combination: TypeAlias = "Callable[[NDArray[np.floating], Spans, Precision], NDArray[np.floating]]"


def _means(values: NDArray[np.floating], spans: Spans, precision: Precision) -> NDArray[np.floating]:
    segments = np.zeros((len(spans), *values.shape[1:]), precision)
    for segment, (start, stop) in zip(segments, spans, strict=True):
        if start < stop:
            values[start:stop].mean(axis=0, dtype=precision, out=segment)
    return segments


def _means_of_repeat_padded(values: NDArray[np.floating], spans: Spans, precision: Precision) -> NDArray[np.floating]:
    # Copies of the last clip count in the mean: it is not the mean of the span.
    per_segment = -(-len(values) // len(spans))
    clips = np.minimum(np.arange(per_segment * len(spans)), len(values) - 1)
    padded = values[clips].reshape(len(spans), per_segment, *values.shape[1:])
    means: NDArray[np.floating] = padded.mean(axis=1, dtype=precision)
    return means


def _interpolated(values: NDArray[np.floating], spans: Spans, precision: Precision) -> NDArray[np.floating]:
    before, after, weight = _resize_places(len(values), len(spans))
    second = weight.astype(precision)[:, np.newaxis, np.newaxis]
    between: NDArray[np.floating] = values[before] * (1 - second) + values[after] * second
    return between


How = Literal["mean", "pick", "clips", "resize", "repeat_pad"]

COMBINATIONS: Mapping[How, Combination] = MappingProxyType(
    {
        "mean": _means,
        "pick": _means,
        "clips": _means,
        "resize": _interpolated,
        "repeat_pad": _means_of_repeat_padded,
    }
)
"""How -> what makes rows ``(row, crop, feature)`` of clips ``(clip, crop, feature)`` and the rows' spans.

``pick`` takes spans of one clip; ``clips`` makes a row of each clip of a span; an empty span becomes zeros."""


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """How a published method makes segments of clips.

    ``spans`` maps (clips, segments, random numbers) to half-open spans of clips ``(segment, 2)``, empty where a rule
    pads with zeros. ``how`` is one of `COMBINATIONS`. Rows are divided by their Euclidean length before the mean
    (``normalize="clip"``), after it (``"segment"``), or not. ``num_segments`` is the published number, 0 where it
    follows from the clips. ``precision`` is that of the published arithmetic; results are float32.
    """

    meaning: str
    source: str
    spans: Callable[[int, int, np.random.Generator], Spans]
    how: How = "mean"
    normalize: Literal["none", "clip", "segment"] = "none"
    num_segments: int = 32
    min_clips: int = 1
    precision: Precision = "float32"

    def row_spans(self, spans: Spans) -> Spans:
        """Give the spans of the bag's rows: one a segment, or with ``how="clips"`` one a clip of each."""
        if self.how != "clips":
            return spans
        return _one_each(np.concatenate([np.arange(start, stop) for start, stop in spans]))


SEGMENTATIONS: Mapping[str, SegmentRule] = MappingProxyType(
    {
        "sultani": SegmentRule(
            meaning="edges rounded half away from zero, mean, then unit length; the last of over 17 clips is dropped",
            source="WaqasSultani/AnomalyDetectionCVPR2018, Save_C3DFeatures_32Segments.m",
            spans=_sultani,
            normalize="segment",
            precision="float64",
        ),
        # The paper says nothing of rounding: the edges are those of the code, whose last branch, which is never
        # reached, means to take the last clip in, as the paper does that averages all clips of a segment.
        "sultani-paper": SegmentRule(
            meaning="unit length of each clip, then the mean over the same edges, the last clip kept",
            source="Sultani et al. 2018, section 5.1",
            spans=_sultani_paper,
            normalize="clip",
            precision="float64",
        ),
        "ekosman": SegmentRule(
            meaning="edges rounded half to even, mean, then unit length; the last of over 17 clips is dropped",
            source="ekosman/AnomalyDetectionCVPR2018-Pytorch, feature_extractor.py",
            spans=_ekosman,
            normalize="segment",
        ),
        "rtfm": SegmentRule(
            meaning="edges rounded down, mean over all clips; also MGFN, CLIP-TSA, Roc-Ng's DeepMIL",
            source="tianyu0207/RTFM, utils.py process_feat",
            spans=_floor,
        ),
        "urdmu-200": SegmentRule(
            meaning="as rtfm, with 200 segments",
            source="henrryzh1/UR-DMU, dataset_loader.py",
            spans=_floor,
            num_segments=200,
        ),
        "xdviolence-200": SegmentRule(
            meaning="200 single clips, evenly picked; fewer clips are padded with zeros",
            source="Roc-Ng/XDVioDet, utils.py process_feat",
            spans=_pick_or_padded,
            how="pick",
            num_segments=200,
        ),
        "pel4vad-200": SegmentRule(
            meaning="200 single clips, evenly picked; fewer clips are padded with zeros",
            source="yujiangpu20/PEL4VAD, utils.py process_feat",
            spans=_pick_or_padded,
            how="pick",
            num_segments=200,
        ),
        "vadclip-256": SegmentRule(
            meaning="more than 256 clips: as rtfm, with 256 segments; fewer are padded with zeros",
            source="nwpu-zxr/VadCLIP, src/utils/tools.py process_feat",
            spans=_floor_or_padded,
            num_segments=256,
        ),
        "wsal": SegmentRule(
            meaning="the last clip repeated up to a multiple of 32, mean of equally many clips each",
            source="ktr-hubrt/WSAL, dataset.py",
            spans=_repeat_padded,
            how="repeat_pad",
        ),
        "s3r": SegmentRule(
            meaning="linear interpolation between the two clips nearest to a segment's centre, no averaging",
            source="louisYen/S3R, anomaly/datasets/video_dataset.py",
            spans=_resize,
            how="resize",
        ),
        "mist": SegmentRule(
            meaning="32 parts of 7 clips that follow each other; each clip is a row, 224 in all",
            source="fjchange/MIST_VAD, stage1training/SHT_MIL_dataset.py, without its random shift",
            spans=_mist,
            how="clips",
            min_clips=MIST_PART_CLIPS,
        ),
        "csltal-pairs": SegmentRule(
            meaning="two sequences, one after the other, of a random clip from each three; up to 6 clips all stay",
            source="aimagelab/CSL-TAL, XD_Violence.py, first commit",
            spans=_csltal_pairs,
            how="pick",
            num_segments=0,
        ),
        "clips": SegmentRule(
            meaning="each clip is a row, as many as the video has; given a number, zeros up to it",
            source="wanboyang/anomaly_detection_LAD2000; Panariello et al. 2022, whose videos stay as long as they are",
            spans=_every_clip,
            how="pick",
            num_segments=0,
        ),
    }
)
"""Name -> how clips become segments. `vadx.features.segment_spans` and `vadx.features.make_bag` take these names."""


def segment_rule(name: str) -> SegmentRule:
    """Give the rule of a name. Raises `UsageError` that lists `SEGMENTATIONS`."""
    if name not in SEGMENTATIONS:
        msg = f"no segment rule is named {name!r}: give one of {', '.join(SEGMENTATIONS)}"
        raise UsageError(msg)
    return SEGMENTATIONS[name]
