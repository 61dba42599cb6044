"""Areas under curves, by hand, by scikit-learn and by what must not change them; and the intervals of drawn videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from vadx.errors import UsageError
from vadx.pipelines.frame_metrics import (
    AREAS,
    MAX_POINTS,
    Draws,
    Estimate,
    Pool,
    Ranking,
    estimates,
    interval,
    paired_difference,
    pool,
    pr_curve,
    roc_curve,
    share,
    thinned,
)

Video = tuple[list[float], list[int]]

ROUNDING = 1e-12
"""Of float64 sums over at most a few thousand terms in [0, 1], which scikit-learn adds in another order."""


def areas(*videos: Video) -> dict[str, float | None]:
    return {name: found.value for name, found in estimates(pool(videos)).items()}


# ---- by hand ----


def test_a_hand_computed_case_without_ties() -> None:
    # Ranked: + - + - -. Pairs won: 3 + 2 of 6.
    found = areas(([0.9, 0.8, 0.7], [1, 0, 1]), ([0.6, 0.1], [0, 0]))
    assert found["auc"] == pytest.approx(Fraction(5, 6), abs=1e-15)
    assert found["average_precision"] == pytest.approx(Fraction(1, 2) * (1 + Fraction(2, 3)), abs=1e-15)
    # From (0, 1) to (1/2, 1), straight down to (1/2, 1/2), and by a trapezoid to (1, 2/3).
    assert found["pr_area"] == pytest.approx(Fraction(1, 2) + Fraction(1, 2) * Fraction(7, 12), abs=1e-15)


def test_tied_scores_are_one_point_and_tell_both_precisions_apart() -> None:
    found = areas(([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]))
    assert found == {"auc": 1 / 2, "average_precision": 1 / 4, "pr_area": (1 + 1 / 4) / 2}
    # Half the pairs of the tie at 0.5 are won: (2 + 1/2 + 1/2) of 4.
    assert areas(([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]))["auc"] == 7 / 8


def test_five_levels_of_scores_make_the_trapezoid_twice_the_steps() -> None:
    # What publications call AP differs by a factor of two where scores are few, as those of five segments.
    random = np.random.default_rng(0)
    truth = random.random(20_000) < 0.06
    scores = np.round((random.random(20_000) + 0.2 * truth) * 4) / 4
    found = areas((scores.tolist(), truth.tolist()))
    assert found["pr_area"] is not None
    assert found["average_precision"] is not None
    assert found["pr_area"] > 1.5 * found["average_precision"]
    distinct = scores + 1e-9 * random.random(20_000)
    apart = areas((distinct.tolist(), truth.tolist()))
    assert apart["pr_area"] == pytest.approx(apart["average_precision"], abs=2e-3)


def test_the_order_of_files_decides_nothing_where_a_stable_sort_would() -> None:
    # Point by point, with anomalous videos first, constant scores would give 1 instead of 1/2.
    videos: list[Video] = [([0.3] * 5, [1] * 5), ([0.3] * 7, [0] * 7)]
    assert areas(*videos)["auc"] == areas(*videos[::-1])["auc"] == 1 / 2


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ([], "there is no frame"),
        ([([], [])], "there is no frame"),
        ([([0.1, 0.2], [0, 0])], "no anomalous frame"),
        ([([0.1, 0.2], [1, 1]), ([0.5], [1])], "no normal frame"),
    ],
)
def test_sets_without_both_kinds_have_no_area_and_say_why(videos: list[Video], words: str) -> None:
    found = estimates(pool(videos), Draws.of([0] * len(videos), 10))
    assert all(one.value is one.low is one.high is None and words in one.reason for one in found.values())
    assert roc_curve(pool(videos).ranking()).x == pr_curve(pool(videos).ranking()).x == ()
    assert "segment" in estimates(pool(videos), unit="segment")["auc"].reason


@pytest.mark.parametrize("scores", [[0.1], [0.1, np.nan], [0.1, np.inf]])
def test_scores_that_fit_no_labels_are_refused(scores: list[float]) -> None:
    with pytest.raises(UsageError, match="video 1: expected finite scores"):
        pool([([0.5], [1]), (scores, [0, 1])])


# ---- the published evaluation ----


def test_the_published_roc_gives_the_published_auc(field_data: Path) -> None:
    data = scipy.io.loadmat(field_data / "features" / "sultani_paper_roc.mat")
    x, y, published = data["X"].ravel(), data["Y"].ravel(), data["AUC"].item()
    # The curve's steps are whole numbers of frames.
    num_positives, num_negatives = 83_174, 1_029_150
    positives, negatives = (np.round(v * n).astype(np.int64) for v, n in ((y, num_positives), (x, num_negatives)))
    np.testing.assert_allclose(positives / num_positives, y, rtol=0, atol=1e-15)
    np.testing.assert_allclose(negatives / num_negatives, x, rtol=0, atol=1e-15)
    assert smallest_denominator(y) == num_positives
    assert smallest_denominator(x) == num_negatives
    ranking = Ranking(np.arange(len(x), 0.0, -1), positives, negatives)
    found = AREAS["auc"].of(ranking)
    # MATLAB's trapz of 8,444 float64 terms.
    assert found == pytest.approx(published, abs=1e-13)
    assert found == pytest.approx(np.trapezoid(y, x), abs=1e-13)
    assert round(100 * found, 2) == 75.41


def smallest_denominator(shares: NDArray[np.float64]) -> int:
    """Give the least whole number, up to 1.2 million, of which all shares are whole parts."""
    candidates = np.arange(1, 1_200_000)
    for part in np.unique(shares)[1:1500]:
        parts = candidates * part
        candidates = candidates[np.abs(parts - np.round(parts)) < 1e-6]
    return int(candidates[0])


# ---- another implementation ----


levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
frames = st.lists(st.tuples(levels, st.integers(0, 1)), max_size=30)
sets = st.lists(frames, min_size=1, max_size=6)


def both_kinds(videos: list[list[tuple[float, int]]]) -> bool:
    return {label for video in videos for _, label in video} == {0, 1}


def split(videos: list[list[tuple[float, int]]]) -> list[Video]:
    return [([score for score, _ in video], [label for _, label in video]) for video in videos]


@settings(max_examples=60, deadline=None)
@given(sets.filter(both_kinds))
def test_scikit_learn_finds_the_same(videos: list[list[tuple[float, int]]]) -> None:
    scores, truth = zip(*[frame for video in videos for frame in video], strict=True)
    found = areas(*split(videos))
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores), abs=ROUNDING)
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(truth, scores), abs=ROUNDING)
    assert found["pr_area"] == pytest.approx(metrics.auc(recall, precision), abs=ROUNDING)


@settings(max_examples=30, deadline=None)
@given(sets.filter(both_kinds), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_a_video_drawn_twice_counts_twice(videos: list[list[tuple[float, int]]], often: list[int]) -> None:
    weights = np.array(often[: len(videos)])
    repeated = [video for video, times in zip(split(videos), weights, strict=True) for _ in range(times)]
    drawn, expected = pool(split(videos)).ranking(weights), pool(repeated).ranking()
    assert bool(drawn.missing()) == bool(expected.missing())
    if not expected.missing():
        for area in AREAS.values():
            assert area.of(drawn) == pytest.approx(area.of(expected), abs=ROUNDING)


# ---- what must change nothing ----


@settings(max_examples=40, deadline=None)
@given(sets.filter(both_kinds), st.randoms())
def test_areas_know_neither_the_scale_nor_the_order_nor_the_borders_of_videos(
    videos: list[list[tuple[float, int]]], random: object
) -> None:
    found = areas(*split(videos))
    assert areas(*split([[(np.exp(3 * score) - 7, label) for score, label in video] for video in videos])) == found
    assert areas(*split([[frame for video in videos for frame in video]])) == found
    assert areas(*split(videos[::-1])) == found
    shuffled = [frame for video in videos for frame in video]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as object
    assert areas(*split([shuffled])) == found
    flipped = areas(*split([[(-score, label) for score, label in video] for video in videos]))
    assert flipped["auc"] == pytest.approx(1 - (found["auc"] or 0), abs=ROUNDING)


def test_some_of_the_videos_are_a_pool_of_their_own() -> None:
    videos: list[Video] = [([0.9, 0.2], [1, 0]), ([0.5, 0.4], [0, 0]), ([0.3, 0.6], [1, 0])]
    chosen = pool(videos).of(np.array([True, False, True]))
    alone = pool([videos[0], videos[2]])
    for area in AREAS.values():
        assert area.of(chosen.ranking()) == area.of(alone.ranking())
    # Videos keep their numbers, so that the draws of the whole set serve.
    assert chosen.ranking(np.array([2, 5, 1])).num_positives == 3


# ---- curves ----


def many_levels(num: int = 5000) -> Pool:
    random = np.random.default_rng(0)
    truth = random.random(num) < 0.2
    return pool([(random.random(num) + 0.5 * truth, truth)])


def test_curves_are_thinned_and_their_areas_are_not() -> None:
    ranking = many_levels().ranking()
    roc, pr = roc_curve(ranking), pr_curve(ranking)
    for curve in (roc, pr):
        assert len(curve.x) == len(curve.y) == len(curve.thresholds) <= MAX_POINTS
        assert curve.thresholds[0] is None
        assert curve.thresholds[-1] == ranking.thresholds[-1]
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert (pr.x[0], pr.y[0], pr.x[-1]) == (0, 1, 1)
    # No two neighbours are further apart than two of 499 equal parts of the way, which is 2 long.
    assert max(np.abs(np.diff(roc.x)) + np.abs(np.diff(roc.y))) < 2 * 2 / 499
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(AREAS["auc"].of(ranking), abs=1e-3)
    assert np.trapezoid(roc.y, roc.x) != AREAS["auc"].of(ranking)


def test_every_point_of_a_curve_is_one_of_its_threshold() -> None:
    ranking = many_levels().ranking()
    roc = roc_curve(ranking)
    for x, y, threshold in zip(roc.x[1:], roc.y[1:], roc.thresholds[1:], strict=True):
        level = np.flatnonzero(ranking.thresholds == threshold)[0]
        assert x == ranking.negatives[level] / ranking.num_negatives
        assert y == ranking.positives[level] / ranking.num_positives


def test_short_curves_stay_whole_and_long_ones_keep_both_ends() -> None:
    line = np.linspace(0, 1, 40)
    assert thinned(line, line, 40).tolist() == list(range(40))
    kept = thinned(line, line, 7)
    assert (kept[0], kept[-1], len(kept)) == (0, 39, 7)
    # A curve that stands still at its end is drawn to its last point.
    still = np.append(line, [1.0, 1.0, 1.0])
    assert thinned(still, still, 7)[-1] == 42
    # A jump takes most of the way: its points are not chosen twice.
    jump = np.where(line < 0.5, 0.0, 1.0)
    assert len(thinned(line * 1e-6, jump, 10)) <= 10


# ---- drawn videos ----


def noisy(num_videos: int, seed: int, gain: float = 0.3) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    random = np.random.default_rng(seed)
    videos = []
    for number in range(num_videos):
        truth = np.zeros(20, bool)
        if number % 2:
            truth[5:12] = True
        videos.append((random.normal(scale=0.3) + random.normal(size=20) + gain * truth, truth))
    return videos


def test_draws_are_seeded_and_keep_how_many_of_each_kind() -> None:
    kinds = [1, 0, 0, 1, 0]
    draws = Draws.of(kinds, 50, seed=3)
    assert (Draws.of(kinds, 50, seed=3).weights == draws.weights).all()
    assert (Draws.of(kinds, 50, seed=4).weights != draws.weights).any()
    anomalous = np.array(kinds) == 1
    assert (draws.weights[:, anomalous].sum(axis=1) == 2).all()
    assert (draws.weights[:, ~anomalous].sum(axis=1) == 3).all()


def test_intervals_hold_the_number_and_are_the_percentiles() -> None:
    videos = noisy(20, seed=0)
    draws = Draws.of([number % 2 for number in range(20)], 200)
    found = estimates(pool(videos), draws)
    for name, one in found.items():
        assert one.value is not None
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        values = [AREAS[name].of(pool(videos).ranking(weights)) for weights in draws.weights]
        assert (one.low, one.high) == tuple(np.percentile(values, [2.5, 97.5]))
    assert estimates(pool(videos), draws) == found


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # The AUC over all videos that the noise could make, from 4,000 of them.
    truth = AREAS["auc"].of(pool(noisy(4000, seed=99)).ranking())
    held = 0
    for seed in range(60):
        one = estimates(pool(noisy(40, seed)), Draws.of([number % 2 for number in range(40)], 100))["auc"]
        held += one.low is not None and one.high is not None and one.low <= truth <= one.high
    # 95 % of 60 are 57; binomial, 50 or fewer happen once in 1,000 at 95 %.
    assert 50 < held <= 60


def test_too_few_videos_give_a_number_without_an_interval() -> None:
    videos: list[Video] = [([0.9, 0.1], [1, 0]), ([0.2, 0.3], [0, 0])]
    assert Draws.of([1, 0], 100).say_nothing
    assert estimates(pool(videos), Draws.of([1, 0], 100))["auc"] == Estimate(1.0)
    assert Draws.of([0, 0], 1).say_nothing
    assert interval([None, None]) == (None, None)


def test_a_share_is_of_the_sums_of_what_was_drawn() -> None:
    hits, totals = [3, 0, 1, 5], [4, 100, 10, 0]
    draws = Draws.of([0, 0, 0, 0], 40)
    found = share(hits, totals, draws, "nothing")
    assert found.value == 9 / 114
    drawn = [(weights @ hits) / (weights @ totals) for weights in draws.weights if weights @ totals]
    assert len(drawn) < 41
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=ROUNDING)
    assert share(hits, totals, None, "nothing") == Estimate(9 / 114)
    assert share([0], [0], draws, "nothing") == Estimate(None, "nothing")


def test_a_difference_is_paired() -> None:
    hard = noisy(40, seed=1)
    # The same scores, a little better on every anomalous frame: alone, both intervals are wide and overlap.
    better = [(scores + 0.15 * truth, truth) for scores, truth in hard]
    draws = Draws.of([number % 2 for number in range(40)], 300)
    first, second = pool(better), pool(hard)
    found = paired_difference(first, second, "auc", draws)
    alone = [estimates(one, draws)["auc"] for one in (first, second)]
    assert found.value == pytest.approx((alone[0].value or 0) - (alone[1].value or 0), abs=1e-15)
    assert found.low is not None
    assert found.low > 0
    assert (alone[0].low or 0) < (alone[1].high or 0)
    back = paired_difference(second, first, "auc", draws)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -(found.high or 0), -found.low), abs=1e-15)
    assert paired_difference(first, first, "auc", draws) == Estimate(0.0, "", 0.0, 0.0)


def test_a_difference_of_what_has_no_area_says_so() -> None:
    normal = pool([([0.1, 0.2], [0, 0])])
    found = paired_difference(normal, normal, "pr_area", Draws.of([0], 10))
    assert (found.value, "no anomalous frame" in found.reason) == (None, True)
