"""Unary and multivariate tubes: hand-made cases, the slow algorithms box for box, and what must hold for any input."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vadx.detectors import Detections, Tube, multivariate_tubes, unary_tubes
from vadx.detectors.linking import link_tubes, without_copies
from vadx.detectors.settings import CLOSURES, LinkSettings
from vadx.errors import UsageError

from . import oracle
from .samples import content, detections, moving_detections, random_detections

BOX = (0.0, 0.0, 10.0, 10.0)


def moved(dx: float, dy: float = 0.0) -> tuple[float, float, float, float]:
    return (dx, dy, 10.0 + dx, 10.0 + dy)


def rows_of(tube: Tube) -> list[Any]:
    if isinstance(tube.members, np.ndarray):
        return tube.members.tolist()
    return [members.tolist() for members in tube.members]


def detected(tube: Tube) -> list[Any]:
    return [rows for rows in rows_of(tube) if rows not in (-1, [-1])]


# ---- equality with the slow algorithms ----


def assert_unary_equals_the_oracle(found: Detections, **options: Any) -> None:
    tubes = unary_tubes(found, **options)
    expected = oracle.unary(found, **{"eta": 2.0, "iou_threshold": 0.1, "min_length": 100, **options})
    assert [(tube.label, detected(tube)) for tube in tubes] == [(c, [b.row for b in path]) for c, path in expected]
    for tube, (_, path) in zip(tubes, expected, strict=True):
        rows = [box.row for box in path]
        assert np.array_equal(tube.boxes[~tube.interpolated], found.boxes[rows])
        assert np.array_equal(tube.scores[~tube.interpolated], found.scores[rows])
        assert tube.frames[~tube.interpolated].tolist() == [box.sample * found.stride for box in path]
        assert tube.boxes.dtype == found.boxes.dtype


def assert_multivariate_equals_the_oracle(found: Detections, **options: Any) -> None:
    tubes = multivariate_tubes(found, **options)
    expected = oracle.multivariate(found, **{"iou_threshold": 0.1, "min_length": 50, **options})
    assert [(tube.seed, detected(tube)) for tube in tubes] == [
        (seed, [sorted(box.row for box in members) for members in cluster]) for seed, cluster in expected
    ]
    for tube, (_, cluster) in zip(tubes, expected, strict=True):
        union = [
            (min(b.x1 for b in m), min(b.y1 for b in m), max(b.x2 for b in m), max(b.y2 for b in m)) for m in cluster
        ]
        assert tube.boxes[~tube.interpolated].tolist() == [list(corners) for corners in union]
        assert tube.scores[~tube.interpolated].tolist() == [max(box.score for box in members) for members in cluster]
        assert tube.label == -1


@pytest.mark.parametrize("seed", range(10))
def test_random_inputs_give_the_tubes_of_the_slow_algorithms(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(200):
        found = random_detections(
            random,
            num_frames=int(random.integers(0, 12)),
            stride=int(random.choice([1, 1, 3])),
            levels=int(random.choice([1, 4, 100])),
            dtype=random.choice([np.float32, np.float64]),
            num_labels=int(random.integers(1, 4)),
        )
        threshold = float(random.choice([0.0, 0.1, 0.3, 0.5]))
        least = int(random.choice([1, 1, 2, 5]))
        assert_unary_equals_the_oracle(
            found,
            iou_threshold=threshold,
            min_length=least,
            eta=float(random.choice([0.0, 0.5, 2.0])),
            max_gap=int(random.choice([0, 0, 1, 3])),
        )
        closure = str(random.choice(list(CLOSURES)))
        assert_multivariate_equals_the_oracle(found, iou_threshold=threshold, min_length=least, closure=closure)


@pytest.mark.parametrize("seed", range(3))
def test_crossing_objects_give_the_tubes_of_the_slow_algorithms(seed: int) -> None:
    found = moving_detections(np.random.default_rng(seed))
    assert_unary_equals_the_oracle(found, min_length=10)
    assert_unary_equals_the_oracle(found, min_length=20, max_gap=1)
    for closure in CLOSURES:
        assert_multivariate_equals_the_oracle(found, min_length=10, closure=closure)


def test_many_boxes_at_once_are_compared_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = moving_detections(np.random.default_rng(5))
    whole = [*unary_tubes(found, min_length=1), *multivariate_tubes(found, min_length=1)]
    for at_once in (1, 7):
        monkeypatch.setattr("vadx.detectors.boxes.PAIRS_AT_ONCE", at_once)
        again = [*unary_tubes(found, min_length=1), *multivariate_tubes(found, min_length=1)]
        assert [content(tube) for tube in again] == [content(tube) for tube in whole]


# ---- hand-made ----


def test_one_object_is_one_tube_of_its_own_values() -> None:
    found = detections([(t, moved(t), 0.5 + t / 100, 3) for t in range(5)])
    (tube,) = unary_tubes(found, min_length=5)
    assert (tube.kind, tube.label, tube.seed, tube.seed_frame) == ("unary", 3, 4, 4)
    assert tube.frames.tolist() == [0, 1, 2, 3, 4]
    assert rows_of(tube) == [0, 1, 2, 3, 4]
    assert np.array_equal(tube.boxes, found.boxes)
    assert not tube.interpolated.any()
    assert unary_tubes(found, min_length=6) == []


def test_the_defaults_are_the_papers() -> None:
    found = detections([(t, BOX, 0.5, 1) for t in range(100)])
    assert [len(tube) for tube in unary_tubes(found)] == [100]
    assert [len(tube) for tube in multivariate_tubes(found)] == [100]
    fewer = detections([(t, BOX, 0.5, 1) for t in range(99)])
    assert unary_tubes(fewer) == []
    assert len(multivariate_tubes(detections([(t, BOX, 0.5, 1) for t in range(50)]))) == 1
    assert multivariate_tubes(detections([(t, BOX, 0.5, 1) for t in range(49)])) == []
    settings = LinkSettings()
    assert (settings.eta, settings.iou_threshold, settings.max_gap, settings.closure) == (2.0, 0.1, 0, "direct")
    assert (settings.min_length_unary, settings.min_length_multivariate) == (100, 50)
    assert (settings.max_tubes, settings.min_members, settings.dedupe, settings.agnostic_nms) == (200, 1, False, None)


def test_the_overlap_must_be_greater_than_the_threshold() -> None:
    found = detections([(0, (0, 0, 2, 1), 0.5, 1), (1, (1, 0, 3, 1), 0.4, 1)])
    third = 1 / 3
    assert [len(tube) for tube in unary_tubes(found, iou_threshold=third, min_length=1)] == [1, 1]
    assert [len(tube) for tube in unary_tubes(found, iou_threshold=np.nextafter(third, 0), min_length=1)] == [2]
    assert [len(tube) for tube in multivariate_tubes(found, iou_threshold=third, min_length=1)] == [1, 1]


def test_boxes_that_only_touch_or_lie_apart_on_both_axes_do_not_overlap() -> None:
    for other in ((10, 0, 20, 10), (10, 10, 20, 20), (50, 50, 60, 60)):
        found = detections([(0, BOX, 0.5, 1), (1, other, 0.4, 1)])
        assert [len(tube) for tube in unary_tubes(found, iou_threshold=0, min_length=1)] == [1, 1]


def test_scores_below_zero_link_like_any_other() -> None:
    found = detections([(0, BOX, -1, 1), (0, (90, 0, 99, 9), 5, 1), (1, moved(2), -1, 1), (1, (70, 70, 80, 80), 9, 1)])
    assert sorted(map(rows_of, unary_tubes(found, min_length=1))) == [[0, 2], [1], [3]]


def test_a_better_score_can_win_over_a_better_overlap() -> None:
    rows = [(0, BOX, 0.9, 1), (1, moved(1), 0.1, 1), (1, moved(4), 0.85, 1)]
    assert rows_of(unary_tubes(detections(rows), min_length=2, eta=0.5)[0]) == [0, 2]
    assert rows_of(unary_tubes(detections(rows), min_length=2, eta=2.0)[0]) == [0, 1]


def test_ties_go_to_the_first_by_corners_and_seeds_to_the_first_frame() -> None:
    found = detections([(1, moved(3), 0.5, 1), (1, moved(-3), 0.5, 1), (0, BOX, 0.5, 1)])
    first, second = unary_tubes(found, min_length=1)
    assert (first.seed, rows_of(first)) == (2, [2, 1])
    assert rows_of(second) == [0]


def test_a_box_is_used_up_by_a_tube_that_is_too_short() -> None:
    # Box 2 is the best and takes box 3, without which the first two are too few as well.
    found = detections([(0, BOX, 0.5, 1), (1, BOX, 0.5, 1), (1, moved(10), 0.9, 1), (2, moved(5), 0.3, 1)])
    assert sorted(map(rows_of, unary_tubes(found, min_length=2))) == [[0, 1], [2, 3]]
    assert unary_tubes(found, min_length=3) == []
    without = permuted(found, [0, 1, 3])
    assert list(map(rows_of, unary_tubes(without, min_length=3))) == [[0, 1, 2]]


def test_a_cluster_seed_takes_what_overlaps_it_and_not_what_overlaps_that() -> None:
    found = detections([(0, moved(0), 0.9, 1), (0, moved(6), 0.5, 2), (0, moved(12), 0.4, 3)])
    direct = multivariate_tubes(found, min_length=1)
    assert [rows_of(tube) for tube in direct] == [[[0, 1]], [[2]]]
    assert direct[0].boxes.tolist() == [[0, 0, 16, 10]]
    (component,) = multivariate_tubes(found, min_length=1, closure="component")
    assert rows_of(component) == [[0, 1, 2]]


def test_a_cluster_goes_on_over_its_members_and_not_over_its_enclosing_box() -> None:
    # The third box lies inside the enclosing box of frame 0, in the corner that no member covers.
    first = [(0, (0, 0, 10, 10), 0.9, 1), (0, (5, 5, 40, 40), 0.5, 1)]
    found = detections([*first, (1, (0, 0, 10, 10), 0.4, 1), (1, (30, 0, 38, 4), 0.3, 1)])
    assert [rows_of(tube) for tube in multivariate_tubes(found, iou_threshold=0.01, min_length=1)] == [
        [[0, 1], [2]],
        [[3]],
    ]


def test_a_cluster_does_not_turn_back() -> None:
    # Box 2 touches box 1, which touches the seed 0: a zig-zag in time, and no part of the seed's cluster.
    found = detections([(0, moved(0), 0.9, 1), (1, moved(7), 0.5, 1), (0, moved(14), 0.4, 1)])
    assert [rows_of(tube) for tube in multivariate_tubes(found, min_length=1)] == [[[0], [1]], [[2]]]


def test_two_objects_that_meet_stay_together() -> None:
    rows = [(t, moved(-20 + 4 * t), 0.5, 1) for t in range(9)] + [(t, moved(20 - 4 * t), 0.6, 2) for t in range(9)]
    tubes = multivariate_tubes(detections(rows), min_length=1)
    assert max(tube.max_members for tube in tubes) == 2
    assert sum(len(np.concatenate(tube.members)) for tube in tubes) == len(rows)


def test_categories_are_linked_apart_in_unary_tubes_and_together_in_multivariate_ones() -> None:
    found = detections([(0, BOX, 0.5, 3), (1, BOX, 0.6, 1)])
    assert [(tube.label, len(tube)) for tube in unary_tubes(found, min_length=1)] == [(1, 1), (3, 1)]
    assert [(tube.label, len(tube)) for tube in multivariate_tubes(found, min_length=1)] == [(-1, 2)]


def test_invalid_boxes_are_left_out_and_rows_keep_their_numbers() -> None:
    nan, inf = float("nan"), float("inf")
    bad = [(0, 0, nan, 10), (0, 0, inf, 10), (10, 0, 10, 10), (10, 0, 0, 10), (0, 10, 10, 0), (0, 5, 10, 5)]
    rows = [(0, box, 0.9, 1) for box in bad] + [(0, BOX, nan, 1), (0, BOX, 0.5, 1), (1, BOX, inf, 1), (1, BOX, 0.5, 1)]
    found = detections(rows)
    assert found.valid.tolist() == [False] * 7 + [True, False, True]
    (tube,) = unary_tubes(found, min_length=1)
    assert rows_of(tube) == [7, 9]
    (tube,) = multivariate_tubes(found, min_length=1)
    assert rows_of(tube) == [[7], [9]]


def test_numbers_at_the_ends_of_float64_link_nothing_and_warn_of_nothing() -> None:
    huge, tiny = 1e300, 1e-200
    rows = [(t, box, 0.5, 1) for t in (0, 1) for box in ((-huge, -huge, huge, huge), (0, 0, tiny, tiny))]
    rows += [(t, (-1.7e308, 0, 1.7e308, 1), 0.5, 1) for t in (0, 1)]
    assert len(unary_tubes(detections(rows), min_length=1)) == len(rows)
    assert len(multivariate_tubes(detections(rows), min_length=1)) == len(rows)


def test_nothing_gives_no_tubes() -> None:
    empty = Detections([], [], [], [], 0)  # type: ignore[arg-type]  # lists are taken too
    assert unary_tubes(empty) == multivariate_tubes(empty) == []
    assert unary_tubes(detections([], num_frames=100), min_length=1) == []


# ---- stride and gaps ----


def test_a_stride_counts_source_frames_and_interpolates_between_samples() -> None:
    found = detections([(0, moved(0), 0.5, 1), (4, moved(2), 0.9, 1)], stride=4, num_frames=8)
    assert unary_tubes(found, min_length=6) == []
    (tube,) = unary_tubes(found, min_length=5)
    assert tube.frames.tolist() == [0, 1, 2, 3, 4]
    assert tube.boxes[:, 0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert tube.scores.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert rows_of(tube) == [0, -1, -1, -1, 1]
    assert tube.interpolated.tolist() == [False, True, True, True, False]
    assert tube.score_mean == pytest.approx(0.7)
    (cluster,) = multivariate_tubes(found, min_length=5)
    assert rows_of(cluster) == [[0], [-1], [-1], [-1], [1]]
    assert cluster.boxes.tolist() == tube.boxes.tolist()


def test_a_gap_is_bridged_by_the_nearest_frame_that_can_be_linked() -> None:
    rows = [(0, moved(0), 0.5, 1), (2, moved(1), 0.4, 1), (3, moved(0), 0.9, 1), (4, moved(1), 0.3, 1)]
    found = detections(rows)
    assert sorted(map(rows_of, unary_tubes(found, min_length=1))) == [[0], [1, 2, 3]]
    (tube,) = unary_tubes(found, min_length=1, max_gap=1)
    assert rows_of(tube) == [0, -1, 1, 2, 3]
    assert tube.boxes[1].tolist() == [0.5, 0, 10.5, 10]
    apart = detections([(0, BOX, 0.5, 1), (3, BOX, 0.5, 1)])
    assert len(unary_tubes(apart, min_length=1, max_gap=1)) == 2
    assert rows_of(unary_tubes(apart, min_length=1, max_gap=2)[0]) == [0, -1, -1, 1]


def test_a_gap_does_not_jump_to_another_category() -> None:
    found = detections([(0, BOX, 0.5, 1), (9, BOX, 0.5, 1), (1, BOX, 0.5, 2), (2, BOX, 0.4, 2)])
    assert [(tube.label, len(tube)) for tube in unary_tubes(found, min_length=1, max_gap=3)] == [(1, 1), (1, 1), (2, 2)]


# ---- what holds for any input ----


def inputs(seed: int, number: int = 40) -> list[Detections]:
    random = np.random.default_rng(seed)
    made = [
        random_detections(random, num_frames=12, per_frame=5, levels=int(random.choice([2, 100])))
        for _ in range(number)
    ]
    return [*made, *(moving_detections(random, num_frames=40) for _ in range(3))]


def permuted(found: Detections, order: Any) -> Detections:
    return Detections(
        found.frame_index[order], found.boxes[order], found.scores[order], found.labels[order], found.num_frames
    )


def geometry(tubes: list[Tube]) -> list[object]:
    return [(tube.label, tube.frames.tolist(), tube.boxes.tolist(), tube.scores.tolist()) for tube in tubes]


@pytest.mark.parametrize("seed", range(4))
def test_unary_tubes_partition_the_valid_boxes_and_follow_the_rules(seed: int) -> None:
    for found in inputs(seed):
        tubes = unary_tubes(found, min_length=1)
        used = Counter(row for tube in tubes for row in rows_of(tube))
        assert used == Counter(np.flatnonzero(found.valid).tolist())
        for tube in tubes:
            rows = tube.members
            assert isinstance(rows, np.ndarray)
            assert set(found.labels[rows].tolist()) == {tube.label}
            assert found.frame_index[rows].tolist() == tube.frames.tolist()
            assert np.array_equal(found.boxes[rows], tube.boxes)
            assert np.array_equal(found.scores[rows], tube.scores)
            assert tube.scores.max() == found.scores[tube.seed] == -tube.seed_key[1]
            by_row = {box.row: box for box in oracle.valid_boxes(found)}
            assert all(oracle.iou(by_row[a], by_row[b]) > 0.1 for a, b in pairwise(rows.tolist()))
        assert [tube.seed_key for tube in tubes] == sorted(tube.seed_key for tube in tubes)


@pytest.mark.parametrize("seed", range(4))
def test_multivariate_tubes_partition_the_valid_boxes_and_follow_the_rules(seed: int) -> None:
    for found in inputs(seed):
        tubes = multivariate_tubes(found, min_length=1)
        used = Counter(row for tube in tubes for members in rows_of(tube) for row in members)
        assert used == Counter(np.flatnonzero(found.valid).tolist())
        by_row = {box.row: box for box in oracle.valid_boxes(found)}
        for tube in tubes:
            clusters = rows_of(tube)
            for frame, corners, members in zip(tube.frames, tube.boxes, clusters, strict=True):
                assert members == sorted(members)
                assert set(found.frame_index[members]) == {frame}
                own = found.boxes[members]
                assert corners.tolist() == [*own[:, :2].min(axis=0).tolist(), *own[:, 2:].max(axis=0).tolist()]
            middle = tube.seed_frame - int(tube.frames[0])
            reached = [([tube.seed], clusters[middle])]
            reached += [(clusters[t], clusters[t + 1]) for t in range(middle, len(clusters) - 1)]
            reached += [(clusters[t], clusters[t - 1]) for t in range(1, middle + 1)]
            for before, after in reached:
                for row in after:
                    assert any(row == b or oracle.iou(by_row[b], by_row[row]) > 0.1 for b in before)
            assert tube.scores.max() == found.scores[tube.seed]
        assert [tube.seed_key for tube in tubes] == sorted(tube.seed_key for tube in tubes)


@pytest.mark.parametrize("seed", range(3))
def test_a_least_length_only_leaves_tubes_out(seed: int) -> None:
    for found in inputs(seed, 20):
        for link in (unary_tubes, multivariate_tubes):
            every = link(found, min_length=1)  # type: ignore[operator]  # two functions with unlike options
            for least in (2, 4):
                kept = [content(tube) for tube in every if len(tube) >= least]
                assert [content(t) for t in link(found, min_length=least)] == kept  # type: ignore[operator]  # as above


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    for found in inputs(seed, 20):
        shuffled = permuted(found, random.permutation(len(found)))
        assert geometry(unary_tubes(shuffled, min_length=1)) == geometry(unary_tubes(found, min_length=1))
        assert geometry(multivariate_tubes(shuffled, min_length=1)) == geometry(multivariate_tubes(found, min_length=1))


def test_categories_do_not_see_each_other() -> None:
    for found in inputs(7):
        tubes = unary_tubes(found, min_length=1)
        for label in np.unique(found.labels):
            alone = permuted(found, np.flatnonzero(found.labels == label))
            assert geometry(unary_tubes(alone, min_length=1)) == geometry([t for t in tubes if t.label == label])


def test_other_labels_do_not_change_multivariate_tubes() -> None:
    for found in inputs(8):
        other = dataclasses.replace(found, labels=(found.labels * 7 + np.arange(len(found))) % 90)
        expected = [rows_of(tube) for tube in multivariate_tubes(found, min_length=1)]
        assert [rows_of(tube) for tube in multivariate_tubes(other, min_length=1)] == expected


def test_coordinates_times_a_power_of_two_change_nothing() -> None:
    for found in inputs(9):
        for factor in (0.125, 64.0):
            scaled = dataclasses.replace(found, boxes=found.boxes * np.float32(factor))
            for link in (unary_tubes, multivariate_tubes):
                expected = [rows_of(t) for t in link(found, min_length=1)]  # type: ignore[operator]  # as above
                assert [rows_of(t) for t in link(scaled, min_length=1)] == expected  # type: ignore[operator]  # as above


@pytest.mark.parametrize("max_gap", [0, 1])
def test_a_video_played_backward_gives_the_tubes_backward(max_gap: int) -> None:
    random = np.random.default_rng(11)
    for _ in range(40):
        found = random_detections(random, levels=1000, invalid=0, num_frames=12, dtype=np.float64)
        found = dataclasses.replace(found, scores=random.permutation(len(found)) / 1000)
        backward = dataclasses.replace(found, frame_index=found.num_frames - 1 - found.frame_index)
        expected = [
            (rows_of(t)[::-1], t.boxes[::-1].tolist()) for t in unary_tubes(found, min_length=1, max_gap=max_gap)
        ]
        tubes = unary_tubes(backward, min_length=1, max_gap=max_gap)
        assert [(rows_of(t), t.boxes.tolist()) for t in tubes] == expected
        clusters = [rows_of(tube)[::-1] for tube in multivariate_tubes(found, min_length=1)]
        assert [rows_of(tube) for tube in multivariate_tubes(backward, min_length=1)] == clusters


# ---- options beyond the paper ----


def test_agnostic_nms_keeps_the_best_of_boxes_that_overlap() -> None:
    rows = [(0, moved(0), 0.9, 1), (0, moved(1), 0.8, 2), (0, moved(8), 0.7, 1), (1, moved(1), 0.5, 2)]
    linked = link_tubes(detections(rows), LinkSettings(agnostic_nms=0.5, min_length_unary=1, min_length_multivariate=1))
    assert sorted(map(rows_of, linked.unary)) == [[0], [2], [3]]
    # A box that is gone removes nothing: 0 removes 1, so 2, which overlaps only 1, stays.
    chain = [(0, moved(0), 0.9, 1), (0, moved(3), 0.8, 1), (0, moved(6), 0.7, 1)]
    linked = link_tubes(detections(chain), LinkSettings(agnostic_nms=0.5, min_length_unary=1))
    assert sorted(map(rows_of, linked.unary)) == [[0], [2]]
    assert [tube.seed_rank for tube in linked.unary] == [0, 1]


def test_a_least_score_and_a_least_number_of_members() -> None:
    rows = [(0, moved(0), 0.9, 1), (0, moved(3), 0.5, 1), (0, moved(50), 0.3, 1)]
    settings = LinkSettings(min_score=0.5, min_members=2, min_length_unary=1, min_length_multivariate=1)
    linked = link_tubes(detections(rows), settings)
    assert sorted(map(rows_of, linked.unary)) == [[0], [1]]
    assert [rows_of(tube) for tube in linked.multivariate] == [[[0, 1]]]
    lonely = link_tubes(detections(rows[2:]), dataclasses.replace(settings, min_score=None))
    assert lonely.multivariate == []


def test_classes_can_be_chosen_and_linked_as_one() -> None:
    found = detections([(t, BOX, 0.5, 3 if t % 2 else 8) for t in range(4)] + [(t, BOX, 0.5, 1) for t in range(4)])
    settings = LinkSettings(min_length_unary=1, groups=((3, 8), (2, 4)))
    assert [(tube.label, rows_of(tube)) for tube in link_tubes(found, settings).unary] == [
        (1, [4, 5, 6, 7]),
        (3, [0, 1, 2, 3]),
    ]
    chosen = dataclasses.replace(settings, classes=(3,), min_length_multivariate=1)
    linked = link_tubes(found, chosen)
    assert [rows_of(tube) for tube in linked.unary] == [[1], [3]]
    assert [rows_of(tube) for tube in linked.multivariate] == [[[1]], [[3]]]
    assert link_tubes(found, dataclasses.replace(settings, classes=())).unary == []
    assert found.labels.tolist() == [8, 3, 8, 3, 1, 1, 1, 1]


def test_copies_of_unary_tubes_can_be_left_out() -> None:
    rows = [(t, moved(0), 0.5, 1) for t in range(3)] + [(t, moved(50), 0.5, 1 + t) for t in range(3)]
    settings = LinkSettings(min_length_unary=2, min_length_multivariate=2)
    linked = link_tubes(detections(rows), settings)
    assert (len(linked.unary), len(linked.multivariate)) == (1, 2)
    kept = link_tubes(detections(rows), dataclasses.replace(settings, dedupe=True)).multivariate
    assert [rows_of(tube) for tube in kept] == [[[3], [4], [5]]]
    assert without_copies(linked.multivariate, []) == linked.multivariate
    # Two unary tubes one after the other are one multivariate tube, and no copy of either.
    changing = link_tubes(detections([(t, BOX, 0.5, 1 + t // 2) for t in range(4)]), settings)
    assert (len(changing.unary), len(without_copies(changing.multivariate, changing.unary))) == (2, 1)


REFUSED: list[dict[str, Any]] = [
    {"eta": -1.0},
    {"eta": float("nan")},
    {"iou_threshold": 1.0},
    {"iou_threshold": -0.1},
    {"iou_threshold": None},
    {"iou_threshold": float("nan")},
    {"min_length_unary": 0},
    {"min_length_unary": 2.5},
    {"min_length_multivariate": 0},
    {"min_length_multivariate": True},
    {"max_gap": -1},
    {"closure": "transitive"},
    {"min_members": 0},
    {"min_score": float("nan")},
    {"agnostic_nms": 1.0},
    {"groups": ((3, 6), (6, 8))},
    {"groups": ((),)},
    {"max_tubes": -1},
    {"ranking": "best"},
    {"ranking": "random"},
    {"max_open_boxes": 0},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_a_setting_outside_its_range_is_refused_with_an_example(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r": give ") as caught:
        LinkSettings(**options)
    assert str(next(iter(options.values()))) in str(caught.value)


def test_the_record_holds_every_setting_that_changes_a_tube() -> None:
    record = LinkSettings(max_gap=np.int64(1)).record(stride=5)  # type: ignore[arg-type]  # taken like an int
    assert json.loads(json.dumps(record)) == {**record, "groups": []}
    names = {field.name for field in dataclasses.fields(LinkSettings)} - {"max_open_boxes"}
    assert set(record) == names | {"semantics", "stride"}
    assert (record["semantics"], record["stride"], record["max_gap"]) == ("wsstad-a1a2/1", 5, 1)


def test_tubes_are_the_same_in_every_run() -> None:
    found = moving_detections(np.random.default_rng(3))
    assert [content(t) for t in unary_tubes(found)] == [content(t) for t in unary_tubes(found)]


@pytest.mark.parametrize("least", [0.2, 0.5, 0.8])
def test_tubes_begin_at_a_box_with_the_seed_score(least: float) -> None:
    settings = LinkSettings(min_length_unary=1, min_length_multivariate=1, seed_score=least)
    free = LinkSettings(min_length_unary=1, min_length_multivariate=1)
    num_kept = num_all = 0
    for found in inputs(11):
        kept, everything = link_tubes(found, settings), link_tubes(found, free)
        for some, every in ((kept.unary, everything.unary), (kept.multivariate, everything.multivariate)):
            # Seeds come best first within a category, so those that are left out come after all that are kept.
            wanted = [tube.member_rows.tolist() for tube in every if found.scores[tube.seed] >= least]
            assert [tube.member_rows.tolist() for tube in some] == wanted
            num_kept, num_all = num_kept + len(wanted), num_all + len(every)
    assert 0 < num_kept < num_all
