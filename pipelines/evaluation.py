"""A method's scores of test videos against what is true of them, measured as a publication measures.

What cannot be measured is None with a reason, and what was compared otherwise than the protocol says is noted: neither
raises. All shares are fractions, 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .frame_comparison import PROPOSAL_THRESHOLD, ComparedVideo, TestVideo, compare
from .frame_metrics import (
    AREAS,
    Curve,
    Draws,
    Estimate,
    Pool,
    estimates,
    paired_difference,
    pool,
    pr_curve,
    roc_curve,
    share,
)
from .protocol_choices import FALSE_ALARMS, LEVELS, FalseAlarms, Protocol
from .protocols import PROTOCOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.manifest import ManifestEntry
    from .evaluate import TubeReport

__all__ = [
    "NUM_DRAWS",
    "ClassRow",
    "Confusion",
    "Evaluation",
    "EvaluationCounts",
    "TestVideo",
    "VideoRow",
    "bootstrap_difference",
    "evaluate_videos",
]

NORMAL_CLASS = "Normal"
"""The class of normal videos, where a method has one for them."""

NUM_DRAWS = 1000
"""Draws of videos that an interval is of."""

ClassOf = Callable[["ManifestEntry"], str | None]
"""Gives a video's own class by the names that a method uses; None where it has none of them."""


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """What was measured on.

    ``unlabelled`` videos are left out. Those ``without_spans`` are anomalous, nobody said where, and are compared as
    videos only. Of the frames compared, ``anomalous_frames`` and ``normal_frames``, ``frames_beyond`` are labels past a
    video's end; ``frames_dropped`` were decoded and are not compared. ``spans_cut`` and ``spans_outside`` reach past
    the labels, in part or altogether. ``other_lengths`` counts videos of which the manifest counts other frames.
    """

    videos: int
    anomalous: int
    normal: int
    unlabelled: int
    without_spans: int
    frames_compared: int
    anomalous_frames: int
    normal_frames: int
    frames_dropped: int
    frames_beyond: int
    spans_cut: int
    spans_outside: int
    other_lengths: int
    segments: int


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One kind of anomaly: its videos against all normal ones, and ``subset_auc`` within its own."""

    name: str
    videos: int
    frames: int
    anomalous_frames: int
    auc: Estimate
    average_precision: Estimate
    pr_area: Estimate
    subset_auc: Estimate


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One video: ``score`` is what the video level ranks, ``max_score`` the highest of its frames that are compared,
    None where none are; ``auc`` that within the video. ``top_class`` is what a method takes it for.
    """

    id: str
    label: int
    class_name: str
    score: float
    max_score: float | None
    auc: Estimate
    num_frames: int
    num_compared: int
    num_dropped: int
    anomalous_frames: int
    top_class: str = ""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many videos of each class, a row, were taken for which, a column, of ``names``. ``left_out`` videos are of
    no class that the method knows.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured. ``metrics`` has every number of `protocol_choices.METRICS`; the intervals are of ``draws``
    draws of videos with ``seed``. ``confusion`` and ``tubes`` are None where a method has no classes or tubes.
    """

    protocol: str
    headline: str
    published: float | None
    metrics: Mapping[str, Estimate]
    counts: EvaluationCounts
    roc: Curve
    pr: Curve
    classes: tuple[ClassRow, ...]
    videos: tuple[VideoRow, ...]
    draws: int
    seed: int
    notes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    tubes: TubeReport | None = field(default=None)

    def as_mapping(self) -> dict[str, Any]:
        """Give plain dicts, lists and numbers, as JSON has them."""
        plain = dataclasses.asdict(dataclasses.replace(self, tubes=None))
        plain["tubes"] = None if self.tubes is None else self.tubes.as_mapping()
        listed: dict[str, Any] = _lists(plain)
        return listed


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, (tuple, list)) else value


def evaluate_videos(
    videos: Sequence[TestVideo],
    protocol: Protocol = PROTOCOLS["vadx"],
    *,
    bootstrap: int = NUM_DRAWS,
    seed: int = 0,
    threshold: float = PROPOSAL_THRESHOLD,
    class_of: ClassOf | None = None,
    tubes: TubeReport | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Measure a test set, in the order of its ids.

    ``bootstrap`` draws of videos give the intervals, 0 none. ``threshold`` is that of proposals. ``class_of`` gives a
    video's own class, by default that of the manifest, and `NORMAL_CLASS` of normal ones. ``tubes`` is what
    `evaluate.evaluate_tubes` gives of the same videos. ``notes`` are told with those of the comparison.

    Raises
    ------
    UsageError
        if two videos have one id.
    """
    _check_ids(videos)
    labelled = sorted((one for one in videos if one.entry.label in (0, 1)), key=lambda one: one.scored.id)
    compared = [compare(one, protocol, threshold=threshold) for one in labelled]
    levels = {level: _level(compared, level) for level in LEVELS}
    metrics: dict[str, Estimate] = {}
    for name, level in levels.items():
        metrics |= {f"{name}_{area}": one for area, one in level.estimates(bootstrap, seed).items()}
    for name, rate in FALSE_ALARMS.items():
        metrics[f"false_alarm_{name}"] = _false_alarms(compared, rate, bootstrap, seed)
    top_classes, confusion, accuracy = _classification(labelled, class_of, bootstrap, seed)
    metrics["class_accuracy"] = accuracy
    metrics["vauc"] = _vauc(labelled, tubes, bootstrap, seed)
    frames = levels["frame"].pool.ranking()
    return Evaluation(
        protocol=protocol.name,
        headline=protocol.headline,
        published=protocol.published,
        metrics=metrics,
        counts=_counts(videos, compared),
        roc=roc_curve(frames),
        pr=pr_curve(frames),
        classes=_class_rows(compared),
        videos=tuple(map(_video_row, compared, top_classes)),
        draws=bootstrap,
        seed=seed,
        notes=(*notes, *_notes(videos, compared)),
        confusion=confusion,
        tubes=tubes,
    )


def bootstrap_difference(
    first: Sequence[TestVideo],
    second: Sequence[TestVideo],
    protocol: Protocol = PROTOCOLS["vadx"],
    *,
    metric: str | None = None,
    bootstrap: int = NUM_DRAWS,
    seed: int = 0,
) -> Estimate:
    """Measure how much more of a metric ``first`` has than ``second``, two methods' scores of the same videos.

    ``metric`` is one that has a ranking, ``frame_auc`` say; the protocol's headline by default. Each draw takes the
    same videos of both.

    Raises
    ------
    UsageError
        if the videos are not the same, or the metric has no ranking.
    """
    name = metric or protocol.headline
    level, _, area = name.partition("_")
    if level not in LEVELS or area not in AREAS:
        rankings = [f"{one}_{other}" for one in LEVELS for other in AREAS]
        msg = f"no difference can be drawn of {name!r}; give metric= one of {', '.join(rankings)}"
        raise UsageError(msg)
    sides = []
    for videos in (first, second):
        _check_ids(videos)
        labelled = sorted((one for one in videos if one.entry.label in (0, 1)), key=lambda one: one.scored.id)
        sides.append(_level([compare(one, protocol) for one in labelled], level))
    if sides[0].ids != sides[1].ids:
        lone = sorted(set(sides[0].ids) ^ set(sides[1].ids))
        msg = f"two methods are compared on the same videos, and {lone[0]!r} is of one only: score it with both"
        raise UsageError(msg)
    reason = sides[0].reason or sides[1].reason
    if reason:
        return Estimate(None, reason)
    return paired_difference(sides[0].pool, sides[1].pool, area, Draws.of(sides[0].kinds, bootstrap, seed))


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """What a level ranks: a pool, and the ids and labels of its videos. ``reason`` says why there is no such level."""

    pool: Pool
    ids: tuple[str, ...]
    kinds: tuple[int, ...]
    unit: str
    reason: str = ""

    def estimates(self, bootstrap: int, seed: int) -> dict[str, Estimate]:
        if self.reason:
            return {area: Estimate(None, self.reason) for area in AREAS}
        return estimates(self.pool, Draws.of(self.kinds, bootstrap, seed), self.unit)


def _level(compared: Sequence[ComparedVideo], level: str) -> _Level:
    if level == "video":
        pairs = [(np.array([one.video_score]), np.array([one.label == 1])) for one in compared]
        return _Level(pool(pairs), tuple(one.id for one in compared), tuple(one.label for one in compared), "video")
    mine = [one for one in compared if one.judged and (level != "subset" or one.label == 1)]
    ids, kinds = tuple(one.id for one in mine), tuple(one.label for one in mine)
    if level == "segment":
        segments = pool([(one.segment_scores, one.segment_truth) for one in mine])
        none = bool(mine) and not len(segments.scores)
        return _Level(segments, ids, kinds, "segment", "scores of frames were given, not of segments" if none else "")
    if level == "proposal":
        if any(one.proposal_scores is None for one in mine):
            return _Level(pool([]), ids, kinds, "frame", "the method makes no proposals")
        rows: list[tuple[NDArray[Any], NDArray[Any]]] = [
            (one.proposal_scores, one.truth) for one in mine if one.proposal_scores is not None
        ]
        return _Level(pool(rows), ids, kinds, "frame")
    return _Level(pool([(one.scores, one.truth) for one in mine]), ids, kinds, "frame")


def _false_alarms(compared: Sequence[ComparedVideo], rate: FalseAlarms, bootstrap: int, seed: int) -> Estimate:
    draws = Draws.of([one.label for one in compared], bootstrap, seed)
    hits, totals = [], []
    for one in compared:
        counted = {
            "normal videos": one.label == 0,
            "videos without an anomalous frame": one.judged and not one.truth.any(),
            "all normal frames": one.judged,
        }[rate.among]
        values = np.array([one.video_score]) if rate.unit == "videos" else one.scores[~one.truth]
        alarms = values >= rate.threshold if rate.inclusive else values > rate.threshold
        hits.append(int(alarms.sum()) if counted else 0)
        totals.append(len(values) if counted else 0)
    unit = "video" if rate.unit == "videos" else "frame"
    return share(hits, totals, draws, f"no normal {unit}: a false alarm needs one")


def _classification(
    videos: Sequence[TestVideo], class_of: ClassOf | None, bootstrap: int, seed: int
) -> tuple[list[str], Confusion | None, Estimate]:
    """Give what each video is taken for, the confusion, and the accuracy."""
    named: dict[str, None] = {name: None for one in videos for name in one.scored.classes}
    names = tuple(named)
    top = [max(one.scored.classes, key=one.scored.classes.__getitem__, default="") for one in videos]
    if not names:
        return top, None, Estimate(None, "the method names no classes")
    own = [(class_of or _own_class)(one.entry) for one in videos]
    counts = np.zeros((len(names), len(names)), np.int64)
    known = [mine is not None and mine in named and bool(found) for mine, found in zip(own, top, strict=True)]
    for mine, found, is_known in zip(own, top, known, strict=True):
        if is_known and mine is not None:
            counts[names.index(mine), names.index(found)] += 1
    right = [is_known and mine == found for mine, found, is_known in zip(own, top, known, strict=True)]
    draws = Draws.of([one.entry.label for one in videos], bootstrap, seed)
    accuracy = share(right, known, draws, "no video is of a class that the method knows")
    confusion = Confusion(names, tuple(tuple(row) for row in counts.tolist()), len(known) - sum(known))
    return top, confusion, accuracy


def _own_class(entry: ManifestEntry) -> str | None:
    return entry.class_name or (NORMAL_CLASS if entry.label == 0 else None)


def _vauc(videos: Sequence[TestVideo], tubes: TubeReport | None, bootstrap: int, seed: int) -> Estimate:
    """Rank videos by their best tube: those whose tubes were placed, or without boxes all that have tubes' scores."""
    scored = [
        (one.scored.more["tube_scores"], one.entry.label == 1) for one in videos if "tube_scores" in one.scored.more
    ]
    pairs = [(float(values.max(initial=0)), anomalous) for values, anomalous in scored]
    if tubes is not None:
        pairs = [(one.score, one.abnormal) for one in tubes.videos]
    if not pairs:
        return Estimate(None, "no tubes were scored: give --tubes SET")
    draws = Draws.of([anomalous for _, anomalous in pairs], bootstrap, seed)
    ranked = pool([(np.array([score]), np.array([anomalous])) for score, anomalous in pairs])
    return estimates(ranked, draws, "video")["auc"]


def _class_rows(compared: Sequence[ComparedVideo]) -> tuple[ClassRow, ...]:
    judged = [one for one in compared if one.judged]
    frames = pool([(one.scores, one.truth) for one in judged])
    normal = np.array([one.label == 0 for one in judged], bool)
    rows = []
    for name in sorted({one.class_name for one in judged if one.class_name}):
        own = np.array([one.class_name == name for one in judged])
        found = estimates(frames.of(own | normal))
        ranking = frames.of(own).ranking()
        rows.append(
            ClassRow(
                name=name,
                videos=int(own.sum()),
                frames=ranking.num_positives + ranking.num_negatives,
                anomalous_frames=ranking.num_positives,
                subset_auc=estimates(frames.of(own))["auc"],
                **found,
            )
        )
    return tuple(rows)


def _video_row(one: ComparedVideo, top_class: str) -> VideoRow:
    reason = "" if one.judged else "its spans are not known"
    return VideoRow(
        id=one.id,
        label=one.label,
        class_name=one.class_name,
        score=one.video_score,
        max_score=float(one.scores.max()) if len(one.scores) else None,
        auc=Estimate(None, reason) if reason else estimates(pool([(one.scores, one.truth)]))["auc"],
        num_frames=one.num_frames,
        num_compared=one.num_compared,
        num_dropped=one.num_dropped,
        anomalous_frames=int(one.truth.sum()),
        top_class=top_class,
    )


def _counts(videos: Sequence[TestVideo], compared: Sequence[ComparedVideo]) -> EvaluationCounts:
    positives = sum(int(one.truth.sum()) for one in compared)
    num_compared = sum(one.num_compared for one in compared)
    return EvaluationCounts(
        videos=len(compared),
        anomalous=sum(one.label == 1 for one in compared),
        normal=sum(one.label == 0 for one in compared),
        unlabelled=len(videos) - len(compared),
        without_spans=sum(not one.judged for one in compared),
        frames_compared=num_compared,
        anomalous_frames=positives,
        normal_frames=num_compared - positives,
        frames_dropped=sum(one.num_dropped for one in compared),
        frames_beyond=sum(one.num_beyond for one in compared),
        spans_cut=sum(one.num_spans_cut for one in compared),
        spans_outside=sum(one.num_spans_outside for one in compared),
        other_lengths=sum(one.entry.num_frames not in (None, one.scored.num_frames) for one in videos),
        segments=sum(len(one.segment_scores) for one in compared),
    )


def _notes(videos: Sequence[TestVideo], compared: Sequence[ComparedVideo]) -> tuple[str, ...]:
    found = Counter(note for one in compared for note in one.notes)
    texts = [f"{note} ({count} of {len(compared)} videos)" for note, count in found.items()]
    unlabelled = sorted(one.scored.id for one in videos if one.entry.label not in (0, 1))
    if unlabelled:
        texts.append(f"no label, left out: {', '.join(unlabelled[:5])}{' ...' if len(unlabelled) > 5 else ''}")
    return tuple(texts)


def _check_ids(videos: Sequence[TestVideo]) -> None:
    twice = [name for name, count in Counter(one.scored.id for one in videos).items() if count > 1]
    if twice:
        msg = f"two videos have the id {twice[0]!r}: give each test video once"
        raise UsageError(msg)
