"""Areas under ROC and precision-recall curves of the frames, segments or videos of a whole test set.

Videos are pooled, not averaged: one ranking of all their frames. Equal scores are one point of a curve, so that no area
depends on the order of files. A pool is sorted once and holds one row for each score of each video, which makes drawing
its videos again a matter of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .evaluate import Measured

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_POINTS = 500
"""Points of a curve that is drawn. Areas are of all points."""

CONFIDENCE = 0.95
"""Of an interval: its ends are percentiles 2.5 and 97.5 of what is measured on drawn videos."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """How many things that are anomalous, and that are not, score at least as high as each distinct score.

    Shapes: ``thresholds (level,)``, highest first; ``positives`` and ``negatives (level,)`` int64, which do not fall.
    """

    thresholds: NDArray[np.float64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def num_positives(self) -> int:
        return int(self.positives[-1]) if len(self.positives) else 0

    @property
    def num_negatives(self) -> int:
        return int(self.negatives[-1]) if len(self.negatives) else 0

    def missing(self, unit: str = "frame") -> str:
        """Say why there is no curve; "" if there is one."""
        if not self.num_positives and not self.num_negatives:
            return f"there is no {unit}"
        if not self.num_positives:
            return f"no anomalous {unit}: a curve needs both kinds"
        return "" if self.num_negatives else f"no normal {unit}: a curve needs both kinds"


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Scores and truth of the videos of a test set, as counts.

    Shapes: ``scores (row,)``, highest first, a row for each score of each video; ``video (row,)``, whose; ``positives``
    and ``negatives (row,)``, how often; ``ends (level,)``, the last row of each distinct score, of ``thresholds``.
    """

    scores: NDArray[np.float64]
    video: NDArray[np.int64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    ends: NDArray[np.int64] = field(init=False)
    thresholds: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        ends = np.flatnonzero(np.append(self.scores[1:] != self.scores[:-1], True)[: len(self.scores)])
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "thresholds", self.scores[ends])

    def ranking(self, weights: NDArray[np.int64] | None = None) -> Ranking:
        """Rank; ``weights (video,)`` say how often each video was drawn, once each by default."""
        positives, negatives = self.positives, self.negatives
        if weights is not None:
            drawn = weights[self.video]
            positives, negatives = positives * drawn, negatives * drawn
        sums = [positives.cumsum(), negatives.cumsum()]
        if len(self.ends) < len(self.scores):
            sums = [one[self.ends] for one in sums]
        return Ranking(self.thresholds, *sums)

    def of(self, chosen: NDArray[np.bool_]) -> Pool:
        """Give the pool of some of the videos, ``chosen (video,)``, which keep their numbers."""
        rows = chosen[self.video]
        return Pool(self.scores[rows], self.video[rows], self.positives[rows], self.negatives[rows])


def pool(videos: Sequence[tuple[ArrayLike, ArrayLike]]) -> Pool:
    """Pool each video's scores and truth, ``(frame,)`` both; truth is 1 or True where something is anomalous.

    Raises
    ------
    UsageError
        if a video has another number of scores than of truths, or a score is not finite.
    """
    none = np.zeros(0, np.int64)
    scores, owners, positives, negatives = [np.zeros(0)], [none], [none], [none]
    for number, (given, truth) in enumerate(videos):
        values, labels = np.asarray(given, np.float64), np.asarray(truth, bool)
        if values.shape != labels.shape or values.ndim != 1 or not np.isfinite(values).all():
            msg = (
                f"video {number}: expected finite scores (frame,) and as many labels, got {values.shape} and "
                f"{labels.shape}: cut both to the frames that are compared"
            )
            raise UsageError(msg)
        found, which = np.unique(values, return_inverse=True)
        scores.append(found)
        owners.append(np.full(len(found), number))
        positives.append(np.bincount(which[labels], minlength=len(found)))
        negatives.append(np.bincount(which[~labels], minlength=len(found)))
    joined = np.concatenate(scores)
    order = np.argsort(-joined, kind="stable")
    owner, positive, negative = (np.concatenate(one).astype(np.int64)[order] for one in (owners, positives, negatives))
    return Pool(joined[order], owner, positive, negative)


def roc_auc(ranking: Ranking) -> float:
    """Give the area under the ROC curve: the share of pairs of an anomalous and a normal frame of which the anomalous
    one scores higher, ties 1/2. In whole numbers until the one division.
    """
    twice = (_steps(ranking.negatives) * (ranking.positives + _before(ranking.positives))).sum()
    return int(twice) / (2 * ranking.num_positives * ranking.num_negatives)


def average_precision(ranking: Ranking) -> float:
    """Give the sum over thresholds of the recall that each adds times the precision at it: steps, no interpolation."""
    return float((_steps(ranking.positives) * _precision(ranking)).sum() / ranking.num_positives)


def pr_area(ranking: Ranking) -> float:
    """Give the area of trapezoids under recall and precision, from recall 0 at precision 1: ``auc(recall, precision)``.

    The straight lines promise what no threshold gives: constant scores have (1 + p) / 2 for a share p of anomalous
    frames, where `average_precision` has p.
    """
    precision = np.concatenate([[1.0], _precision(ranking)])
    recall_steps = _steps(ranking.positives) / ranking.num_positives
    return float((recall_steps * (precision[1:] + precision[:-1]) / 2).sum())


def _before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], counts[:-1]])


def _steps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(counts, prepend=0)


def _precision(ranking: Ranking) -> NDArray[np.float64]:
    above = ranking.positives + ranking.negatives
    # 1 where nothing that was drawn scores so high: that is where the curve begins.
    precision: NDArray[np.float64] = np.divide(ranking.positives, above, out=np.ones(len(above)), where=above > 0)
    return precision


@dataclass(frozen=True, slots=True)
class Area:
    """A way to sum a ranking up. ``label`` heads a column, ``meaning`` says what it is, ``source`` who means it so."""

    label: str
    meaning: str
    source: str
    of: Callable[[Ranking], float]

    def measured(self, ranking: Ranking, unit: str = "frame") -> Measured:
        """Measure, or say why not: a ranking without both kinds has no curve."""
        reason = ranking.missing(unit)
        return Measured(None, reason) if reason else Measured(self.of(ranking))


AREAS: Mapping[str, Area] = MappingProxyType(
    {
        "auc": Area(
            "AUC",
            "area under the ROC curve, equal scores as one point",
            "scikit-learn roc_auc_score; J. Hanley, B. McNeil 1982",
            roc_auc,
        ),
        "average_precision": Area(
            "average precision",
            "sum of steps, no interpolation between thresholds",
            "scikit-learn average_precision_score; nwpu-zxr/VadCLIP, aimagelab/CSL-TAL",
            average_precision,
        ),
        "pr_area": Area(
            "PR area",
            "trapezoids under recall and precision, which flatter tied scores",
            "scikit-learn auc(recall, precision); XDVioDet, RTFM, UR-DMU, MGFN, PEL4VAD, CLIP-TSA, MACIL_SD",
            pr_area,
        ),
    }
)
"""Name -> what is measured. Publications call both of the latter AP."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points to draw, at most `MAX_POINTS`: ``thresholds`` has None where a curve begins, above every score."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    thresholds: tuple[float | None, ...] = ()


def roc_curve(ranking: Ranking, max_points: int = MAX_POINTS) -> Curve:
    """Give the ROC curve: share of normal frames over share of anomalous ones. Empty without both kinds."""
    if ranking.missing():
        return Curve()
    x = np.concatenate([[0.0], ranking.negatives / ranking.num_negatives])
    return _curve(x, np.concatenate([[0.0], ranking.positives / ranking.num_positives]), ranking, max_points)


def pr_curve(ranking: Ranking, max_points: int = MAX_POINTS) -> Curve:
    """Give recall and precision, from recall 0 and precision 1 on. Empty without both kinds."""
    if ranking.missing():
        return Curve()
    x = np.concatenate([[0.0], ranking.positives / ranking.num_positives])
    return _curve(x, np.concatenate([[1.0], _precision(ranking)]), ranking, max_points)


def _curve(x: NDArray[np.float64], y: NDArray[np.float64], ranking: Ranking, max_points: int) -> Curve:
    kept = thinned(x, y, max_points)
    thresholds: list[float | None] = [None, *ranking.thresholds.tolist()]
    return Curve(tuple(x[kept].tolist()), tuple(y[kept].tolist()), tuple(thresholds[place] for place in kept.tolist()))


def thinned(x: NDArray[np.float64], y: NDArray[np.float64], max_points: int) -> NDArray[np.int64]:
    """Choose points of a curve, evenly along its way, both ends among them: their places, ascending."""
    if len(x) <= max_points:
        return np.arange(len(x))
    way = np.concatenate([[0.0], (np.abs(np.diff(x)) + np.abs(np.diff(y))).cumsum()])
    places = np.searchsorted(way, np.linspace(0, way[-1], max_points))
    return np.unique(np.append(places[:-1], len(x) - 1))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the ends of its interval, None where there is none; ``reason`` says why a number is missing."""

    value: float | None
    reason: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How often each video was drawn, ``weights (draw, video)`` int64.

    Videos are drawn with replacement within their kind, as many of each as there are: how many of a test set are
    anomalous was decided, not found.
    """

    weights: NDArray[np.int64]

    @classmethod
    def of(cls, kinds: ArrayLike, num_draws: int, seed: int = 0) -> Draws:
        """Draw ``num_draws`` times among videos of ``kinds (video,)``."""
        labels = np.asarray(kinds)
        random = np.random.default_rng(seed)
        weights = np.zeros((num_draws, len(labels)), np.int64)
        for kind in np.unique(labels):
            mine = np.flatnonzero(labels == kind)
            weights[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), num_draws)
        return cls(weights)

    @property
    def say_nothing(self) -> bool:
        """Whether all draws are of the same videos: fewer than two of each kind, or fewer than two draws."""
        return len(self.weights) < 2 or bool((self.weights == self.weights[0]).all())

    def rankings(self, pooled: Pool) -> Iterator[Ranking]:
        """Rank what each draw took."""
        return (pooled.ranking(weights) for weights in self.weights)


def interval(values: Iterable[float | None]) -> tuple[float, float] | tuple[None, None]:
    """Give the percentiles of what was measured on draws, of those that could be; None twice if none could."""
    found = [value for value in values if value is not None]
    if not found:
        return None, None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)


def estimates(pooled: Pool, draws: Draws | None = None, unit: str = "frame") -> dict[str, Estimate]:
    """Measure each of `AREAS`, with the intervals that drawn videos give; without ``draws`` there are none.

    ``unit`` is what a score is of, for the reason why a number is missing.
    """
    measured = {name: area.measured(pooled.ranking(), unit) for name, area in AREAS.items()}
    found = {name: Estimate(one.value, one.reason) for name, one in measured.items()}
    if draws is None or draws.say_nothing or pooled.ranking().missing():
        return found
    drawn: dict[str, list[float | None]] = {name: [] for name in AREAS}
    for ranking in draws.rankings(pooled):
        for name, area in AREAS.items():
            drawn[name].append(area.measured(ranking).value)
    return {
        name: replace(one, low=low, high=high) for name, one in found.items() for low, high in [interval(drawn[name])]
    }


def share(hits: ArrayLike, totals: ArrayLike, draws: Draws | None, missing: str) -> Estimate:
    """Give the share of ``hits (video,)`` in ``totals (video,)``, summed over videos; ``missing`` says why of none."""
    top, bottom = np.asarray(hits, np.int64), np.asarray(totals, np.int64)
    if not bottom.sum():
        return Estimate(None, missing)
    low, high = None, None
    if draws is not None and not draws.say_nothing:
        drawn = draws.weights @ bottom
        low, high = interval((draws.weights @ top)[drawn > 0] / drawn[drawn > 0])
    return Estimate(float(top.sum() / bottom.sum()), "", low, high)


def paired_difference(first: Pool, second: Pool, area: str, draws: Draws) -> Estimate:
    """Measure how much more the first pool has than the second, of the same videos in the same order.

    Each draw takes the same videos of both, so that how hard the videos are does not widen the interval.
    """
    chosen = AREAS[area]

    def difference(weights: NDArray[np.int64] | None) -> float | None:
        values = [chosen.measured(one.ranking(weights)).value for one in (first, second)]
        return None if values[0] is None or values[1] is None else values[0] - values[1]

    value = difference(None)
    if value is None:
        return Estimate(None, first.ranking().missing() or second.ranking().missing())
    low, high = (None, None) if draws.say_nothing else interval(map(difference, draws.weights))
    return Estimate(value, "", low, high)
