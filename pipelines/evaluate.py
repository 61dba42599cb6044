"""How well a method's scored tubes find and place what is abnormal, as J. Wu et al. 2021, section 5.1, measure it.

All shares are fractions, 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..features.box_truth import BoxTruth
from .localisation import (
    GAMMA_FIRST,
    SEVERAL_BOXES,
    Track,
    check_known,
    check_seen,
    check_track,
    frames_of_samples,
    localisation_scores,
    st_iou,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EPSILONS = (0.1, 0.2, 0.3)
"""The thresholds of J. Wu et al. 2021, table 1."""

FALSE_ALARM_ABOVE = 0.2
"""The threshold of J. Wu et al. 2021, appendix E."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number, or None and the reason why there is none."""

    value: float | None
    reason: str = ""


def vauc(abnormal: ArrayLike, scores: ArrayLike) -> Measured:
    """Give the area under the ROC curve of the videos' top-1 scores, ties 1/2.

    That is the share of pairs of an abnormal and a normal video in which the abnormal one scores higher (J. Hanley,
    B. McNeil 1982).
    """
    from sklearn.metrics import roc_auc_score

    labels = np.asarray(abnormal, bool)
    if labels.all() or not labels.any():
        return Measured(None, f"no {'normal' if labels.any() else 'abnormal'} video: an AUC needs both")
    return Measured(float(roc_auc_score(labels, np.asarray(scores, np.float64))))


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
            check_track(tube, f"{self.id}: tube {number}")
            check_seen(tube, seen, f"{self.id}: tube {number}")
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
    check_known("several", several, SEVERAL_BOXES)
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
        name: found if len(found) else np.zeros(1)
        for name, found in localisation_scores(truth, video.tubes, seen, several).items()
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
