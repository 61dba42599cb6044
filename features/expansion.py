"""Scores of segments or clips become scores of frames, by vadx's own rule or by that of a published repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ..errors import UsageError
from .bags import segment_spans

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CLIP_FRAMES = 16
"""Frames in a clip, in every repository of `EXPANSIONS`."""

Scores: TypeAlias = "NDArray[np.float64]"


def expand_scores(scores: ArrayLike, bag_spans: ArrayLike, num_frames: int) -> Scores:
    """Give every decoded frame a score, ``(num_frames,)`` float64.

    Shapes: ``scores (row,)``; ``bag_spans (row, 2)``, half-open source frames as in `Bag.frames`, in any order. A frame
    gets the mean score of the rows that cover it, and where none does, as in the clip that ``sultani`` drops, between
    picked clips and in the tail, the score of the nearest frame that has one, the earlier of two. Rows of padding,
    whose spans are empty, count nowhere. Equal scores stay exactly equal.

    Raises
    ------
    UsageError
        if shapes disagree, a score is not finite, a span lies outside the video, or no span holds a frame.
    """
    values = _checked(scores, num_frames)
    spans = np.asarray(bag_spans, np.int64)
    if spans.shape != (len(values), 2):
        msg = f"expected a span [start, stop) for each of {len(values)} scores, got {spans.shape}: give Bag.frames"
        raise UsageError(msg)
    if (spans[:, 0] > spans[:, 1]).any() or spans.min() < 0 or spans.max() > num_frames:
        msg = f"spans of frames must lie in the video's {num_frames} frames: give Bag.frames and Bag.num_frames"
        raise UsageError(msg)
    count = np.zeros(num_frames, np.int64)
    least = np.full(num_frames, np.inf)
    for score, (start, stop) in zip(values, spans, strict=True):
        count[start:stop] += 1
        np.minimum(least[start:stop], score, out=least[start:stop])
    # The mean as the least plus the mean of what lies above it: sums of equal scores would not divide exactly.
    above = np.zeros(num_frames)
    for score, (start, stop) in zip(values, spans, strict=True):
        above[start:stop] += score - least[start:stop]
    covered = np.flatnonzero(count)
    if not len(covered):
        msg = "no span holds a frame, so no frame can have a score: give Bag.frames of a bag that is not all padding"
        raise UsageError(msg)
    return (least[covered] + above[covered] / count[covered])[_nearest(covered, num_frames)]


def _nearest(covered: NDArray[np.int64], num_frames: int) -> NDArray[np.int64]:
    """Give for each frame the place in ``covered``, which ascends, of the nearest, the earlier of two."""
    frames = np.arange(num_frames)
    after = np.minimum(np.searchsorted(covered, frames), len(covered) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(frames - covered[before]) <= np.abs(covered[after] - frames), before, after)


def _checked(scores: ArrayLike, num_frames: int) -> Scores:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values) or num_frames < 1:
        msg = (
            f"expected one score a row and 1 frame or more, got scores {values.shape} and {num_frames} frames: "
            f"average the scores of several crops first, as scores.mean(axis=1)"
        )
        raise UsageError(msg)
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        msg = f"score {at} of {len(values)} is {values[at]}: train with a lower learning rate, or score the video again"
        raise UsageError(msg)
    return values


def _sultani(scores: Scores, num_frames: int) -> Scores:
    num_clips = num_frames // CLIP_FRAMES
    frames = np.zeros(num_frames)
    for score, (start, stop) in zip(scores, segment_spans("sultani", num_clips, len(scores)), strict=True):
        frames[start * CLIP_FRAMES : stop * CLIP_FRAMES] = score
    # The dropped last clip holds 0, and its last frame is repeated to the end.
    frames[num_clips * CLIP_FRAMES :] = frames[num_clips * CLIP_FRAMES - 1]
    return frames


def _ekosman(scores: Scores, num_frames: int) -> Scores:
    frames = np.zeros(num_frames)
    per_segment = num_frames // len(scores)
    frames[: per_segment * len(scores)] = np.repeat(scores, per_segment)
    return frames


def _wsal(scores: Scores, num_frames: int) -> Scores:
    frames = np.zeros(num_frames)
    ratio = num_frames / len(scores)
    for i, score in enumerate(scores):
        frames[int(i * ratio + 0.5) : int((i + 1) * ratio + 0.5)] = score
    return frames


def _seo(scores: Scores, num_frames: int) -> Scores:
    frames = np.zeros(num_frames)
    edges = np.round(np.linspace(0, num_frames // CLIP_FRAMES, len(scores) + 1)).astype(np.int64) * CLIP_FRAMES
    for score, start, stop in zip(scores, edges[:-1], edges[1:], strict=True):
        frames[start:stop] = score
    return frames


def _repeat(scores: Scores, _: int) -> Scores:
    return np.repeat(scores, CLIP_FRAMES)


def _slide_smoothed(scores: Scores, num_frames: int, *, window: int) -> Scores:
    padded = np.concatenate([scores, np.zeros(window - 1)])
    means = np.lib.stride_tricks.sliding_window_view(padded, window).mean(axis=1)
    return _repeat(means, num_frames)


def _block_smoothed(scores: Scores, num_frames: int, *, window: int) -> Scores:
    padded = np.concatenate([scores, np.zeros(-len(scores) % window)])
    means = np.repeat(padded.reshape(-1, window).mean(axis=1), window)
    return _repeat(means[: len(scores)], num_frames)


def _csltal(scores: Scores, _: int) -> Scores:
    frames = spline_places(scores, len(scores) * CLIP_FRAMES)
    frames[frames < 0.05] = 0
    return np.minimum(frames, 1)


def spline_places(values: Scores, num_places: int) -> Scores:
    """Give the cubic spline through ``values (n,)`` at ``num_places``, evenly from the first value to the last.

    That is ``scipy.ndimage.zoom(values, num_places / n, order=3)``; the spline is mirrored about both ends.
    """
    # Nothing else of this room needs SciPy.
    from scipy.ndimage import map_coordinates

    if len(values) == 1:
        return np.repeat(values, num_places)
    places = np.linspace(0, len(values) - 1, num_places)
    found: Scores = map_coordinates(values, [places], order=3, mode="mirror")
    return found


@dataclass(frozen=True, slots=True)
class Expansion:
    """How a published repository gives scores to frames: ``expand`` maps (scores, decoded frames) to frame scores.

    ``takes`` says whose scores: of a bag's ``segments``, of all ``clips``, or of every third clip (``thirds``). The
    result of ``segments`` is as long as the video, that of ``clips`` 16 frames a clip whatever the video's length.
    """

    meaning: str
    source: str
    expand: Callable[[Scores, int], Scores]
    takes: Literal["segments", "clips", "thirds"] = "clips"


def _repeats(source: str) -> Expansion:
    return Expansion("each clip's score 16 times", source, _repeat)


EXPANSIONS: Mapping[str, Expansion] = MappingProxyType(
    {
        "sultani": Expansion(
            "edges of clips rounded half away from zero, later segments over earlier; the last clip and the tail get 0",
            "WaqasSultani/AnomalyDetectionCVPR2018, Evaluate_Anomaly_Detector.m",
            _sultani,
            "segments",
        ),
        "ekosman": Expansion(
            "N // 32 frames a segment; the N % 32 frames that remain get 0",
            "ekosman/AnomalyDetectionCVPR2018-Pytorch, generate_ROC.py",
            _ekosman,
            "segments",
        ),
        "wsal": Expansion(
            "segment i covers frames int(i N / 32 + 0.5) to int((i + 1) N / 32 + 0.5)",
            "ktr-hubrt/WSAL, Test.py",
            _wsal,
            "segments",
        ),
        "seo": Expansion(
            "edges of the N // 16 clips rounded half to even, 16 frames a clip; the tail gets 0",
            "seominseok0429/Real-world-Anomaly-Detection-in-Surveillance-Videos-pytorch, main.py",
            _seo,
            "segments",
        ),
        "rtfm": _repeats("tianyu0207/RTFM, test_10crop.py"),
        "mgfn": _repeats("carolchenyx/MGFN, test.py"),
        "clip-tsa": _repeats("joos2010kj/CLIP-TSA"),
        "s3r": _repeats("louisYen/S3R, anomaly/engine/inference.py"),
        "xdviolence": _repeats("Roc-Ng/XDVioDet, test.py"),
        "urdmu": _repeats("henrryzh1/UR-DMU"),
        "vadclip": _repeats("nwpu-zxr/VadCLIP, src/ucf_test.py"),
        "mist": _repeats("fjchange/MIST_VAD, stage1training/train_MIL_Generator.py"),
        "pel4vad": _repeats("yujiangpu20/PEL4VAD, test.py"),
        "pel4vad-ucf": Expansion(
            "mean of a clip's score and the 6 that follow, zeros beyond the end, 16 times",
            "yujiangpu20/PEL4VAD, infer.py, utils.py slide_smooth, configs.py ucf",
            partial(_slide_smoothed, window=7),
        ),
        "pel4vad-sht": Expansion(
            "mean of a clip's score and the 2 that follow, zeros beyond the end, 16 times",
            "yujiangpu20/PEL4VAD, infer.py, utils.py slide_smooth, configs.py sh",
            partial(_slide_smoothed, window=3),
        ),
        "pel4vad-xd": Expansion(
            "mean of each 8 clips, zeros beyond the end, 16 times",
            "yujiangpu20/PEL4VAD, infer.py, utils.py fixed_smooth, configs.py xd",
            partial(_block_smoothed, window=8),
        ),
        "csltal": Expansion(
            "cubic spline through the scores, 16 values each; below 0.05 is 0, above 1 is 1",
            "aimagelab/CSL-TAL, main.py interp",
            _csltal,
            "thirds",
        ),
    }
)
"""Name -> a repository's own way from scores to frames, for comparison with its published numbers."""


def expand_like(name: str, scores: ArrayLike, num_frames: int) -> Scores:
    """Give frames the scores that a published repository gives them, float64.

    ``name`` is one of `EXPANSIONS`; ``scores (row,)`` are those of what it takes. The result is as long as the
    repository's own, which for scores of clips is 16 frames a clip and need not be ``num_frames``.

    Raises
    ------
    UsageError
        for an unknown name, for scores that are not finite, or for a video of too few frames.
    """
    if name not in EXPANSIONS:
        msg = f"no repository's expansion is named {name!r}: give one of {', '.join(EXPANSIONS)}"
        raise UsageError(msg)
    values = _checked(scores, num_frames)
    if name == "sultani" and num_frames < CLIP_FRAMES:
        msg = f"sultani counts clips of {CLIP_FRAMES} frames, and the video has {num_frames} frames: use expand_scores"
        raise UsageError(msg)
    return EXPANSIONS[name].expand(values, num_frames)
