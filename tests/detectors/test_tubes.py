"""Tubes: what they refuse, how they are cut, which are kept, and what is found out about them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from vadx.detectors import Tube, multivariate_tubes, unary_tubes
from vadx.detectors.findings import area_fractions, gap_findings, tube_findings
from vadx.detectors.tubes import (
    RANKINGS,
    coarser_parts,
    nested_parts,
    part_frames,
    rank_tubes,
)
from vadx.errors import UsageError

from .samples import detections, moving_detections

BOX = (0.0, 0.0, 10.0, 10.0)


def tube(num_frames: int, *, first: int = 0, score: float = 0.5, **other: Any) -> Tube:
    values: dict[str, Any] = {
        "frames": np.arange(first, first + num_frames),
        "boxes": np.tile(np.array([BOX]), (num_frames, 1)),
        "scores": np.full(num_frames, score),
        "label": 1,
        "member_rows": np.arange(num_frames),
        "seed": 0,
        "seed_frame": first,
    }
    return Tube(**{**values, **other})


@pytest.mark.parametrize(
    "other",
    [
        {"boxes": np.zeros((3, 3))},
        {"boxes": np.zeros((2, 4))},
        {"scores": np.zeros(2)},
        {"member_rows": np.arange(2)},
        {"member_offsets": np.array([0, 1, 2])},
        {"member_offsets": np.array([0, 1, 2, 5])},
        {"frames": np.array([0, 1, 3])},
        {"frames": np.array([0, 0, 2])},
        {"frames": np.zeros(0, np.int64)},
    ],
    ids=str,
)
def test_a_tube_that_contradicts_itself_is_refused(other: dict[str, Any]) -> None:
    assert len(tube(3)) == 3
    with pytest.raises(ValueError, match=r"expected frames|follow each other"):
        tube(3, **other)


# ---- parts ----


def test_nested_parts_by_hand() -> None:
    assert nested_parts(3).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert nested_parts(64).tolist() == [[2 * i, 2 * i + 2] for i in range(32)]
    sizes = np.diff(nested_parts(70), axis=1).ravel()
    assert (len(sizes), sizes.sum(), set(sizes.tolist())) == (32, 70, {2, 3})
    assert coarser_parts(70, 4).tolist() == [[0, 8], [8, 16], [16, 24], [24, 32]]
    assert coarser_parts(3, 2).tolist() == [[0, 1], [1, 3]]
    assert coarser_parts(3, 8).tolist() == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("num_clips", [1, 2, 5, 31, 32, 33, 64, 100, 250, 1000])
@pytest.mark.parametrize("num_parts", [1, 2, 4, 8, 16, 32])
def test_means_of_nested_parts_give_the_means_of_coarser_ones(num_clips: int, num_parts: int) -> None:
    # Whole numbers, so that sums are exact in any order.
    values = np.random.default_rng(num_clips).integers(0, 1000, num_clips)
    nested = nested_parts(num_clips)
    counts = np.diff(nested, axis=1).ravel()
    sums = np.array([values[start:stop].sum() for start, stop in nested])
    even = min(num_parts, num_clips)
    expected = [values[i * num_clips // even : (i + 1) * num_clips // even] for i in range(even)]
    parts = coarser_parts(num_clips, num_parts)
    assert [sums[start:stop].sum() for start, stop in parts] == [own.sum() for own in expected]
    assert [counts[start:stop].sum() for start, stop in parts] == [len(own) for own in expected]


def test_parts_of_frames_follow_the_clips_and_the_last_takes_the_rest() -> None:
    assert part_frames(50, 4).tolist() == [[0, 16], [16, 32], [32, 50]]
    assert part_frames(100, 4).tolist() == [[0, 16], [16, 48], [48, 64], [64, 100]]
    assert part_frames(5, 4).tolist() == [[0, 5]]
    assert part_frames(5, 2, clip_length=2).tolist() == [[0, 2], [2, 5]]


def test_impossible_parts_are_refused() -> None:
    for number in (0, 3, 64, -1):
        with pytest.raises(UsageError, match="1, 2, 4, 8, 16 or 32 parts"):
            coarser_parts(100, number)
    for refused in (lambda: nested_parts(0), lambda: part_frames(10, 0), lambda: part_frames(0, 1)):
        with pytest.raises(UsageError, match="give"):
            refused()


# ---- ranking ----


def test_ranks_by_hand() -> None:
    tubes = [tube(100, score=0.5), tube(400, score=0.2), tube(25, score=0.9)]
    assert rank_tubes(tubes).tolist() == [0, 2, 1]  # 0.5 * 10, 0.2 * 20, 0.9 * 5
    assert rank_tubes(tubes, rule="length").tolist() == [1, 0, 2]
    assert rank_tubes(tubes, max_tubes=2).tolist() == [0, 2]
    assert rank_tubes([]).tolist() == []


def test_the_score_is_that_of_detections_and_not_of_what_lies_between() -> None:
    between = tube(3, score=0.5, member_rows=np.array([0, -1, 2]), scores=np.array([0.5, 100.0, 0.5]))
    assert between.score_mean == 0.5


@pytest.mark.parametrize("rule", [*RANKINGS, "random:0", "random:7"])
def test_ranks_do_not_depend_on_the_order_of_the_tubes(rule: str) -> None:
    found = moving_detections(np.random.default_rng(2))
    tubes = [*unary_tubes(found, min_length=2), *multivariate_tubes(found, min_length=2)]
    best = [tubes[i] for i in rank_tubes(tubes, rule=rule, max_tubes=20)]
    assert len(best) == 20
    order = np.random.default_rng(0).permutation(len(tubes))
    shuffled = [tubes[i] for i in order]
    again = [shuffled[i] for i in rank_tubes(shuffled, rule=rule, max_tubes=20)]
    assert all(a is b for a, b in zip(best, again, strict=True))


def test_random_ranks_differ_by_seed() -> None:
    tubes = [tube(10, first=first) for first in range(50)]
    assert rank_tubes(tubes, rule="random:0").tolist() != rank_tubes(tubes, rule="random:1").tolist()


def test_a_quota_bounds_each_kind() -> None:
    group = {"member_offsets": np.arange(11), "label": -1}
    tubes = [tube(10, first=first) for first in range(5)] + [tube(10, first=first, **group) for first in range(5)]
    kinds = [tubes[i].kind for i in rank_tubes(tubes, max_tubes=6, quota={"unary": 2, "multivariate": 3})]
    assert (kinds.count("unary"), kinds.count("multivariate")) == (2, 3)
    assert [tubes[i].kind for i in rank_tubes(tubes, max_tubes=6)] == ["unary"] * 5 + ["multivariate"]
    assert len(rank_tubes(tubes, max_tubes=6, quota={"unary": 0})) == 5


@pytest.mark.parametrize(
    "options",
    [{"rule": "best"}, {"rule": "random:x"}, {"max_tubes": -1}, {"quota": {"both": 1}}, {"quota": {"unary": -1}}],
)
def test_impossible_ranks_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give "):
        rank_tubes([tube(3)], **options)


# ---- findings ----


def test_boxes_that_swallow_the_picture_are_found() -> None:
    rows = [(t, (0, 0, 60, 100), 0.5, 1) for t in range(3)] + [(t, (40, 0, 95, 120), 0.4, 2) for t in range(3)]
    rows += [(t, (0, 0, 10, 10), 0.1, 1) for t in range(5, 7)]
    found = detections(rows)
    (large, small) = multivariate_tubes(found, min_length=1)
    assert area_fractions(large, width=100, height=100).tolist() == [0.95, 0.95, 0.95]
    findings = tube_findings([large, small], width=100, height=100)
    assert dataclasses.astuple(findings) == (2, 8, 0, 3, 2, 0.95, 1, 1.0)
    (warning,) = findings.warnings()
    assert "1 of 2 tubes" in warning
    assert "(the largest 95%)" in warning
    assert "--iou" in warning
    assert tube_findings([small], width=100, height=100).warnings() == []
    assert tube_findings([], width=100, height=100).num_tubes == 0
    with pytest.raises(UsageError, match="give width and height"):
        tube_findings([small], width=0, height=100)


def test_what_single_missed_detections_cost_is_found() -> None:
    # The first object is missed in the middle and lost; the second is seen throughout; the third is missed twice.
    rows = [(t, BOX, 0.5, 1) for t in range(11) if t != 5] + [(t, (50, 0, 60, 10), 0.5, 1) for t in range(11)]
    rows += [(t, (80, 0, 90, 10), 0.5, 1) for t in range(11) if t not in (5, 6)]
    found = detections(rows)
    plain, bridged = unary_tubes(found, min_length=8), unary_tubes(found, min_length=8, max_gap=1)
    findings = gap_findings(plain, bridged)
    assert dataclasses.astuple(findings) == (1, 2, 11, 21, 1)
    (warning,) = findings.warnings()
    assert "1 tubes were lost" in warning
    assert "--max-gap 1 would keep 2 tubes of 21 boxes, not 1 of 11" in warning
    assert gap_findings(bridged, bridged).warnings() == []
    assert gap_findings([], []).num_lost == 0


def test_boxes_between_samples_are_no_detections_that_two_tubes_share() -> None:
    rows = [(2 * t, BOX, 0.5, 1) for t in range(6)]
    rows += [(2 * t, (50, 0, 60, 10), 0.5, 1) for t in (0, 1, 2, 4, 5)]
    found = detections(rows, stride=2)
    plain, bridged = unary_tubes(found, min_length=11), unary_tubes(found, min_length=11, max_gap=1)
    assert dataclasses.astuple(gap_findings(plain, bridged)) == (1, 2, 6, 11, 1)
