"""How well scored tubes find and place what is abnormal, as J. Wu et al. 2021, section 5.1, measure it.

The localisation score of a tube against the annotated one (equation 10, after M. Yamaguchi et al. 2017) is the mean IoU
of their boxes over the frames Gamma = first set ∩ (frames of either), where a frame in which only one has a box counts
as 0. The paper's first set "contains the frames have bounding boxes provided by detector"; `GAMMA_FIRST` has both ways
to read it. All shares are fractions, 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UsageError
from ..features.box_annotations import BoxTruth

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EPSILONS = (0.1, 0.2, 0.3)
"""The thresholds of J. Wu et al. 2021, table 1."""

FALSE_ALARM_ABOVE = 0.2
"""The threshold of J. Wu et al. 2021, appendix E."""


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
        _check_track(self, "this tube")


def _check_track(track: Track, name: str) -> None:
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
    _known("gamma_first", gamma_first, GAMMA_FIRST)
    seen = frames_of_samples(detector_frames, stride)
    _check_track(track, "this tube")
    _check_seen(track, seen, "this tube")
    return float(_scores(truth, [track], seen, several)[gamma_first][0])


def _known(name: str, value: str, table: Mapping[str, Any]) -> None:
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
    at = np.asarray(samples)
    if stride < 1 or at.ndim != 1 or (at.size and (at.dtype.kind not in "iu" or (np.diff(at) < stride).any())):
        msg = f"detector frames ascend by the stride of {stride} or more: give numpy.unique of them, and their stride"
        raise UsageError(msg)
    return (at.astype(np.int64)[:, None] + np.arange(stride)).ravel()


def _check_seen(track: Track, seen: NDArray[np.int64], name: str) -> None:
    """Raise unless the detector saw something wherever the tube claims a detection."""
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


def _scores(
    truth: BoxTruth, tracks: Sequence[Track], seen: NDArray[np.int64], several: str
) -> dict[str, NDArray[np.float64]]:
    """Give each reading's localisation score of each tube, ``(tube,)``."""
    _known("several", several, SEVERAL_BOXES)
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
    _known("several", several, SEVERAL_BOXES)
    best = 0.0
    for target in SEVERAL_BOXES[several](truth):
        rows, places = _common(target.frames, track.frames)
        if rows.size:
            starts, lasts = zip(*((int(of.frames[0]), int(of.frames[-1])) for of in (target, track)), strict=True)
            temporal = (min(lasts) - max(starts) + 1) / (max(lasts) - min(starts) + 1)
            best = max(best, temporal * float(box_iou(target.boxes[rows], track.boxes[places]).mean()))
    return best


@dataclass(frozen=True, slots=True)
class Measured:
    """A number, or None and the reason why there is none."""

    value: float | None
    reason: str = ""


def vauc(abnormal: ArrayLike, scores: ArrayLike) -> Measured:
    """Give the area under the ROC curve of the videos' top-1 scores, ties 1/2.

    That is the share of pairs of an abnormal and a normal video in which the abnormal one scores higher (J. Hanley,
    B. McNeil 1982), and what scikit-learn's ``roc_auc_score`` gives.
    """
    labels, values = np.asarray(abnormal, bool), np.asarray(scores, np.float64)
    positive, negative = values[labels], np.sort(values[~labels])
    if not len(positive) or not len(negative):
        return Measured(None, f"no {'normal' if len(positive) else 'abnormal'} video: an AUC needs both")
    wins = np.searchsorted(negative, positive, "left").sum() + np.searchsorted(negative, positive, "right").sum()
    return Measured(float(wins / (2 * len(positive) * len(negative))))


def false_alarm_rate(normal_scores: ArrayLike, *, above: float = FALSE_ALARM_ABOVE) -> Measured:
    """Give the share of normal videos whose top-1 score is above ``above``, strictly."""
    values = np.asarray(normal_scores, np.float64)
    return Measured(float((values > above).mean())) if len(values) else Measured(None, "no normal video")


def iou_at(scores: ArrayLike, epsilons: Iterable[float] = EPSILONS) -> dict[str, float]:
    """Give, for each threshold, written as its name, the share of localisation scores above it, strictly."""
    values = np.asarray(scores, np.float64)
    return {repr(float(epsilon)): float((values > epsilon).mean()) for epsilon in epsilons}


def miou(scores: ArrayLike) -> float:
    """Give the mean of the localisation scores of the abnormal videos."""
    return float(np.mean(np.asarray(scores, np.float64)))


@dataclass(frozen=True, slots=True, eq=False)
class VideoTubes:
    """A test video: its tubes, how abnormal a method finds each, and what is true of it.

    ``scores (tube,)`` are 0 to 1. ``detector_frames`` and ``stride`` as in `s_loc`, of the detections that were linked.
    ``truth`` are the annotated boxes, None for a normal video. A video may have no tube.

    Raises
    ------
    UsageError
        if a tube is none, a score is missing or not between 0 and 1, a tube has a detection where the detector found
        nothing, or label and boxes contradict each other.
    """

    id: str
    abnormal: bool
    tubes: Sequence[Track]
    scores: NDArray[np.float64]
    detector_frames: NDArray[np.int64]
    stride: int = 1
    truth: BoxTruth | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, np.float64)
        # Not `scores > 1`, which would let NaN pass.
        if scores.shape != (len(self.tubes),) or not ((scores >= 0) & (scores <= 1)).all():
            msg = (
                f"{self.id}: {len(self.tubes)} tubes want as many scores from 0 to 1, as a video without tubes has 0; "
                f"got {scores.shape}: give probabilities"
            )
            raise UsageError(msg)
        if self.abnormal and (self.truth is None or not len(self.truth)):
            msg = f"{self.id}: an abnormal video without annotated boxes cannot be localised: leave it out of the test"
            raise UsageError(msg)
        if not self.abnormal and self.truth is not None and len(self.truth):
            msg = f"{self.id}: a normal video with annotated boxes: label it abnormal, or give it none"
            raise UsageError(msg)
        try:
            seen = self.seen_frames
        except UsageError as error:
            msg = f"{self.id}: {error}"
            raise UsageError(msg) from error
        for number, tube in enumerate(self.tubes):
            _check_track(tube, f"{self.id}: tube {number}")
            _check_seen(tube, seen, f"{self.id}: tube {number}")
        object.__setattr__(self, "scores", scores)

    @property
    def seen_frames(self) -> NDArray[np.int64]:
        """Source frames in which the detector found something, or that such a sample stands for."""
        return frames_of_samples(self.detector_frames, self.stride)

    @property
    def top(self) -> int | None:
        """The tube of the highest score, of equal ones the first given; None without tubes."""
        return int(np.argmax(self.scores)) if len(self.tubes) else None

    @property
    def score(self) -> float:
        """The video's score: that of its top-1 tube, 0 without tubes."""
        return float(self.scores.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Localisation:
    """Mean localisation score of the abnormal videos, and for each threshold the share of them above it."""

    miou: float
    iou_at: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ReadingReport:
    """Localisation of the method's top-1 tube; of a tube drawn at random, as its expected value over all tubes of a
    video, so that there is no draw; and of the best tube of each video, which no choice among them can exceed.
    """

    method: Localisation
    random: Localisation
    best: Localisation


@dataclass(frozen=True, slots=True)
class VideoScores:
    """Localisation scores of one abnormal video: of its top-1 tube, their mean over its tubes, the best one."""

    method: float
    random: float
    best: float


@dataclass(frozen=True, slots=True)
class VideoReport:
    """One video: its score, its top-1 tube (None without tubes), and if it is abnormal how well that is placed."""

    id: str
    abnormal: bool
    num_tubes: int
    top: int | None
    score: float
    s_loc: Mapping[str, VideoScores] = field(default_factory=dict)
    st_iou: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What was measured on. ``tied_tops`` counts videos in which several tubes have the highest score. Of the
    ``truth_frames``, annotated with a box, ``truth_frames_forgiven`` are those in which the detector saw nothing.
    """

    videos: int
    abnormal: int
    normal: int
    without_tubes: int
    tied_tops: int
    truth_frames: int
    truth_frames_forgiven: int


@dataclass(frozen=True, slots=True)
class TubeReport:
    """How well a test set's tubes are scored and placed. ``localisation`` has one entry per name of `GAMMA_FIRST`, and
    none without abnormal videos.
    """

    counts: Counts
    vauc: Measured
    false_alarm_rate: Measured
    false_alarm_above: float
    several: str
    localisation: Mapping[str, ReadingReport]
    st_iou: Measured
    videos: tuple[VideoReport, ...]

    def as_mapping(self) -> dict[str, Any]:
        """Give plain dicts, lists and numbers, as JSON has them."""
        plain = dataclasses.asdict(self)
        plain["videos"] = list(plain["videos"])
        return plain


def evaluate_tubes(
    videos: Sequence[VideoTubes],
    *,
    epsilons: Sequence[float] = EPSILONS,
    false_alarm_above: float = FALSE_ALARM_ABOVE,
    several: str = "union",
) -> TubeReport:
    """Measure a whole test set: VAUC and false alarms over its videos, localisation over the abnormal ones.

    A video without tubes has localisation score 0 and score 0.

    Raises
    ------
    UsageError
        for no video, two of one id, or a ``several`` that is none of `SEVERAL_BOXES`.
    """
    _known("several", several, SEVERAL_BOXES)
    ids = [video.id for video in videos]
    if not ids or len(set(ids)) < len(ids):
        twice = next((name for number, name in enumerate(ids) if name in ids[:number]), None)
        msg = f"{'no video' if twice is None else f'two videos have the id {twice!r}'}: give each test video once"
        raise UsageError(msg)
    measured = [_measure(video, epsilons, several) for video in videos]
    reports = tuple(one.report for one in measured)
    abnormal = [one for one in measured if one.report.abnormal]
    st_ious = [one.report.st_iou for one in abnormal if one.report.st_iou is not None]
    return TubeReport(
        counts=Counts(
            videos=len(videos),
            abnormal=len(abnormal),
            normal=len(videos) - len(abnormal),
            without_tubes=sum(not video.tubes for video in videos),
            tied_tops=sum(int((video.scores == video.score).sum()) > 1 for video in videos),
            truth_frames=sum(one.truth_frames for one in abnormal),
            truth_frames_forgiven=sum(one.forgiven for one in abnormal),
        ),
        vauc=vauc([one.abnormal for one in reports], [one.score for one in reports]),
        false_alarm_rate=false_alarm_rate([one.score for one in reports if not one.abnormal], above=false_alarm_above),
        false_alarm_above=false_alarm_above,
        several=several,
        localisation={name: _reading(name, abnormal, epsilons) for name in GAMMA_FIRST} if abnormal else {},
        st_iou=Measured(miou(st_ious)) if st_ious else Measured(None, "no abnormal video"),
        videos=reports,
    )


@dataclass(frozen=True, slots=True)
class _Video:
    """A video's report and what is summed over videos: each reading's share of its tubes above each threshold."""

    report: VideoReport
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    truth_frames: int = 0
    forgiven: int = 0


def _measure(video: VideoTubes, epsilons: Sequence[float], several: str) -> _Video:
    top, truth = video.top, video.truth
    report = VideoReport(video.id, video.abnormal, len(video.tubes), top, video.score)
    if not video.abnormal or truth is None:
        return _Video(report)
    seen = video.seen_frames
    # One tube that meets nothing stands for none at all.
    by_reading = {
        name: found if len(found) else np.zeros(1) for name, found in _scores(truth, video.tubes, seen, several).items()
    }
    scores = {
        name: VideoScores(float(found[top or 0]), float(found.mean()), float(found.max()))
        for name, found in by_reading.items()
    }
    place = 0.0 if top is None else st_iou(truth, video.tubes[top], several=several)
    frames = np.unique(truth.frames)
    return _Video(
        dataclasses.replace(report, s_loc=scores, st_iou=place),
        {name: iou_at(found, epsilons) for name, found in by_reading.items()},
        len(frames),
        len(frames) - int(np.isin(frames, seen).sum()),
    )


def _reading(name: str, abnormal: Sequence[_Video], epsilons: Sequence[float]) -> ReadingReport:
    scores = [one.report.s_loc[name] for one in abnormal]
    method, random, best = ([getattr(one, kind) for one in scores] for kind in ("method", "random", "best"))
    # Above a threshold is not linear: the expectation is that of the draw, not of the mean.
    expected = {key: miou([one.shares[name][key] for one in abnormal]) for key in iou_at([0.0], epsilons)}
    return ReadingReport(
        Localisation(miou(method), iou_at(method, epsilons)),
        Localisation(miou(random), expected),
        Localisation(miou(best), iou_at(best, epsilons)),
    )
