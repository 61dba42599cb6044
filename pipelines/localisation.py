"""How well one tube is placed: its localisation score against the annotated one, and its spatio-temporal IoU.

The localisation score of J. Wu et al. 2021 (equation 10, after M. Yamaguchi et al. 2017) is the mean IoU of the two
tubes' boxes over the frames Gamma = first set ∩ (frames of either), where a frame in which only one has a box counts as
0. The paper's first set "contains the frames have bounding boxes provided by detector"; `GAMMA_FIRST` has both ways to
read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UsageError
from ..features.box_truth import BoxTruth

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Track(Protocol):
    """One box a frame: what a `vadx.detectors.Tube` is, and `PredictedTrack`."""

    @property
    def frames(self) -> NDArray[np.int64]: ...
    @property
    def boxes(self) -> NDArray[np.floating]: ...
    @property
    def interpolated(self) -> NDArray[np.bool_]: ...


@dataclass(frozen=True, slots=True, eq=False)
class PredictedTrack:
    """A tube that comes as arrays; frames may be missing.

    Shapes: ``frames (frame,)`` int64, ascending, each once; ``boxes (frame, 4)`` half-open ``x1, y1, x2, y2``;
    ``interpolated (frame,)``, which boxes no detection stands behind.

    Raises
    ------
    UsageError
        if shapes disagree, frames do not ascend, or a value is not finite.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.floating]
    interpolated: NDArray[np.bool_]

    def __post_init__(self) -> None:
        check_track(self, "this tube")


def check_track(track: Track, name: str) -> None:
    """Raise `UsageError` unless shapes agree, frames ascend and all boxes are finite; ``name`` is whose tube it is."""
    num = len(track.frames)
    shapes = track.frames.shape, track.boxes.shape, track.interpolated.shape
    if not num or shapes != ((num,), (num, 4), (num,)):
        msg = (
            f"{name}: expected frames (frame,), boxes (frame, 4), interpolated (frame,), 1 frame or more; got "
            f"{', '.join(map(str, shapes))}: give one row of each per frame"
        )
        raise UsageError(msg)
    if track.frames.dtype.kind != "i" or (np.diff(track.frames) <= 0).any():
        msg = f"{name}: frames are whole numbers that ascend, one box each: sort them"
        raise UsageError(msg)
    if not np.isfinite(track.boxes).all():
        msg = f"{name}: a box holds NaN or infinity: leave such boxes out before linking"
        raise UsageError(msg)


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the IoU of the i-th box of one with the i-th of the other, ``(box, 4)`` each, in float64, ``(box,)``.

    Half-open boxes, areas without "+1"; 0 where the union has no area.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    # Cut at 0 before the product: two negative sides would make an overlap of boxes that lie apart both ways.
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0.0)
    overlap = sides[:, 0] * sides[:, 1]
    union = (_area(a) + _area(b)) - overlap
    found: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return found


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    return area


@dataclass(frozen=True, slots=True)
class GammaReading:
    """What the first set of frames is: ``first_set`` of the annotated frames and those that the detector saw something
    in, None standing for every frame of the video.
    """

    first_set: Callable[[NDArray[np.int64] | None, NDArray[np.int64]], NDArray[np.int64] | None]
    meaning: str


def _seen_and_annotated(annotated: NDArray[np.int64] | None, seen: NDArray[np.int64]) -> NDArray[np.int64]:
    return seen if annotated is None else np.intersect1d(seen, annotated, assume_unique=True)


GAMMA_FIRST: Mapping[str, GammaReading] = MappingProxyType(
    {
        "detector": GammaReading(
            _seen_and_annotated,
            "frames in which the detector found a box above the score from which boxes are linked, the words of "
            "J. Wu et al. 2021: annotated frames in which it saw nothing are forgiven. A lower score adds frames and "
            "so lowers S_loc. Frames that nobody annotated are not taken",
        ),
        "annotated": GammaReading(
            lambda annotated, _: annotated,
            'frames that were annotated, which M. Yamaguchi et al. 2017 did "for each second": nothing is forgiven',
        ),
    }
)
"""Name -> reading of the first set of frames."""


@dataclass(frozen=True, slots=True, eq=False)
class _TruthTrack:
    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]


def _enclosing(truth: BoxTruth) -> tuple[_TruthTrack, ...]:
    if not len(truth):
        return (_TruthTrack(truth.frames, truth.boxes),)
    frames, starts = np.unique(truth.frames, return_index=True)
    low = np.minimum.reduceat(truth.boxes[:, :2], starts, axis=0)
    high = np.maximum.reduceat(truth.boxes[:, 2:], starts, axis=0)
    return (_TruthTrack(frames, np.concatenate([low, high], axis=1)),)


def _separate(truth: BoxTruth) -> tuple[_TruthTrack, ...]:
    each = [truth.tracks == track for track in np.unique(truth.tracks)]
    return tuple(_TruthTrack(truth.frames[rows], truth.boxes[rows]) for rows in each) or _enclosing(truth)


SEVERAL_BOXES: Mapping[str, Callable[[BoxTruth], tuple[_TruthTrack, ...]]] = MappingProxyType(
    {"union": _enclosing, "separate": _separate}
)
"""Name -> what several annotated boxes in a frame are: one that encloses them (equation 10 has one box a frame), or
tracks, of which the one counts that the tube meets best."""


def s_loc(
    truth: BoxTruth,
    track: Track,
    detector_frames: ArrayLike,
    *,
    stride: int = 1,
    gamma_first: str = "detector",
    several: str = "union",
) -> float:
    """Give the localisation score of a tube, 0 to 1; 0 where Gamma is empty.

    Parameters
    ----------
    detector_frames
        Frames in which the detector found a box that could be linked, ascending, each once.
    stride
        The detector looked at every so many frames; one found at t stands for ``[t, t + stride)``.
    gamma_first
        One of `GAMMA_FIRST`.
    several
        One of `SEVERAL_BOXES`.

    Raises
    ------
    UsageError
        for a name in neither table, a tube that is none, detector frames that do not ascend by ``stride`` or more, or
        a detection of the tube in a frame in which the detector found nothing.
    """
    check_known("gamma_first", gamma_first, GAMMA_FIRST)
    seen = frames_of_samples(detector_frames, stride)
    check_track(track, "this tube")
    check_seen(track, seen, "this tube")
    return float(localisation_scores(truth, [track], seen, several)[gamma_first][0])


def check_known(name: str, value: str, table: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless ``value`` is in the table."""
    if value not in table:
        msg = f"{name} is no {value!r}: give {' or '.join(table)}"
        raise UsageError(msg)


def frames_of_samples(samples: ArrayLike, stride: int) -> NDArray[np.int64]:
    """Give the source frames that samples of a detector stand for: ``[t, t + stride)`` each, ascending.

    Raises
    ------
    UsageError
        unless samples are whole numbers that ascend by ``stride`` or more.
    """
    given = np.asarray(samples)
    at = given.astype(np.int64)
    if stride < 1 or at.ndim != 1 or (at.size and given.dtype.kind not in "iu") or (np.diff(at) < stride).any():
        msg = f"detector frames ascend by the stride of {stride} or more: give numpy.unique of them, and their stride"
        raise UsageError(msg)
    return (at[:, None] + np.arange(stride)).ravel()


def check_seen(track: Track, seen: NDArray[np.int64], name: str) -> None:
    """Raise `UsageError` unless the detector saw something, in ``seen``, wherever the tube claims a detection."""
    rows = np.zeros(len(track.frames), bool)
    rows[_common(seen, track.frames)[1]] = True
    wrong = np.flatnonzero(~rows & ~track.interpolated)
    if wrong.size:
        msg = (
            f"{name} has a detection in frame {track.frames[wrong[0]]}, where the detector found nothing: the frames "
            f"are of other detections; give those that were linked, and their stride"
        )
        raise UsageError(msg)


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the places in ``a`` and in ``b`` of what stands in both; both ascend, and ``b`` is not empty."""
    low, high = np.searchsorted(a, (b[0], b[-1] + 1))
    rows = np.arange(low, high)
    if b[-1] - b[0] == len(b) - 1:
        # A run, as tubes are: no search, which for 200 tubes of a long video would take most of the time.
        return rows, a[low:high] - b[0]
    places = np.searchsorted(b, a[low:high])
    hit = b[places] == a[low:high]
    return rows[hit], places[hit]


def localisation_scores(
    truth: BoxTruth, tracks: Sequence[Track], seen: NDArray[np.int64], several: str
) -> dict[str, NDArray[np.float64]]:
    """Give each reading's localisation score of each tube, ``(tube,)``."""
    check_known("several", several, SEVERAL_BOXES)
    targets = SEVERAL_BOXES[several](truth)
    firsts = {name: reading.first_set(truth.annotated, seen) for name, reading in GAMMA_FIRST.items()}
    best = {name: np.zeros(len(tracks)) for name in firsts}
    for target in targets:
        inside = {name: _inside(target.frames, first) for name, first in firsts.items()}
        annotated = {name: int(mask.sum()) for name, mask in inside.items()}
        for number, track in enumerate(tracks):
            rows, places = _common(target.frames, track.frames)
            ious = box_iou(target.boxes[rows], track.boxes[places])
            for name, first in firsts.items():
                both = inside[name][rows]
                predicted = len(track.frames) if first is None else len(_common(first, track.frames)[0])
                gamma = annotated[name] + predicted - int(both.sum())
                score = float(ious[both].sum()) / gamma if gamma else 0.0
                best[name][number] = max(best[name][number], score)
    return best


def _inside(frames: NDArray[np.int64], first: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    return np.ones(len(frames), bool) if first is None else np.isin(frames, first, assume_unique=True)


def st_iou(truth: BoxTruth, track: Track, *, several: str = "union") -> float:
    """Give the spatio-temporal IoU: mean IoU over frames in which both have a box, times the IoU of their spans.

    As action tubes are measured (V. Kalogeiton et al. 2017, ACT-detector). It knows no detector, and frames between
    two annotated ones do not count against a tube. Where every frame is annotated and neither has a gap it equals
    `s_loc` with ``gamma_first="annotated"``.
    """
    check_known("several", several, SEVERAL_BOXES)
    best = 0.0
    for target in SEVERAL_BOXES[several](truth):
        rows, places = _common(target.frames, track.frames)
        if rows.size:
            starts, lasts = zip(*((int(of.frames[0]), int(of.frames[-1])) for of in (target, track)), strict=True)
            temporal = (min(lasts) - max(starts) + 1) / (max(lasts) - min(starts) + 1)
            best = max(best, temporal * float(box_iou(target.boxes[rows], track.boxes[places]).mean()))
    return best
