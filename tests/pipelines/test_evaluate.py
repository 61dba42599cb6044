"""Scored tubes against annotated boxes: every number here is computed by hand, by another formula or by a library."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from torchvision.ops import box_iou as torchvision_iou

from vadx.detectors import Detections, Tube, unary_tubes
from vadx.errors import UsageError
from vadx.features.box_truth import BoxTruth, annotated_frames
from vadx.pipelines.evaluate import Measured, VideoTubes, evaluate_tubes, false_alarm_rate, iou_at, miou, vauc
from vadx.pipelines.localisation import GAMMA_FIRST, SEVERAL_BOXES, PredictedTrack, box_iou, s_loc, st_iou

UNIT = (0.0, 0.0, 2.0, 2.0)
HALF = (0.0, 0.0, 2.0, 1.0)  # IoU 1/2 with UNIT
THIRD = (1.0, 0.0, 3.0, 2.0)  # overlap 2, union 6: IoU 1/3 with UNIT
APART = (9.0, 9.0, 10.0, 10.0)


def truth_of(boxes: dict[int, Sequence[float]], annotated: Sequence[int] | None = None) -> BoxTruth:
    return BoxTruth.of_rows(list(boxes), list(boxes.values()), None, annotated)


def track_of(boxes: dict[int, Sequence[float]], interpolated: Sequence[int] = ()) -> PredictedTrack:
    frames = np.array(list(boxes), np.int64)
    return PredictedTrack(frames, np.array(list(boxes.values()), np.float64), np.isin(frames, interpolated))


def both_readings(truth: BoxTruth, track: PredictedTrack, seen: Sequence[int], **options: object) -> list[float]:
    return [s_loc(truth, track, seen, gamma_first=name, **options) for name in ("detector", "annotated")]  # type: ignore[arg-type]  # options are s_loc's own


# ---- IoU ----


def test_iou_equals_torchvision_on_random_boxes() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(-50, 50, (2, 500, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0.1, 60, (2, 500, 2))], axis=2)
    expected = torchvision_iou(*map(torch.from_numpy, boxes)).diagonal().numpy()
    found = box_iou(boxes[0], boxes[1])
    assert 0.2 < (found > 0).mean() < 0.9
    # float64 both, one rounding apart in the union.
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)


def test_iou_of_boxes_apart_is_zero_and_needs_no_area() -> None:
    a = np.array([UNIT, UNIT, UNIT, (1, 1, 1, 1), UNIT])
    # Apart both ways (two negative sides), apart one way, touching, no area at all, the same.
    b = np.array([APART, (0, 5, 2, 6), (2, 0, 4, 2), (1, 1, 1, 1), UNIT])
    assert box_iou(a, b).tolist() == [0, 0, 0, 0, 1]
    assert box_iou(b, a).tolist() == [0, 0, 0, 0, 1]


# ---- the localisation score by hand ----


def test_two_fifths_whether_or_not_the_detector_is_asked() -> None:
    truth = truth_of(dict.fromkeys(range(4), UNIT))
    track = track_of(dict.fromkeys((2, 3, 4), UNIT))
    assert both_readings(truth, track, range(5)) == [2 / 5, 2 / 5]
    assert both_readings(truth, track, range(100)) == [2 / 5, 2 / 5]


def test_seven_eighteenths_where_one_frame_is_forgiven() -> None:
    truth = truth_of(dict.fromkeys(range(4), UNIT))
    track = track_of({1: THIRD, 2: THIRD, 3: HALF})
    found = both_readings(truth, track, [1, 2, 3])
    assert found == pytest.approx([Fraction(7, 18), Fraction(7, 24)], abs=1e-15)


def test_a_sixth_of_a_sparse_truth() -> None:
    # Boxes in every 16th frame; the tube meets one of three with IoU 1/2, and frames between them are not charged.
    truth = truth_of(dict.fromkeys((0, 16, 32), UNIT), annotated=[0, 16, 32])
    track = track_of(dict.fromkeys(range(10, 30), HALF))
    assert both_readings(truth, track, range(40)) == pytest.approx([1 / 6, 1 / 6], abs=1e-15)
    # Taken for a dense one, the 19 other frames of the tube count as errors: 1/2 of 22.
    dense = dataclasses.replace(truth, annotated=None)
    assert both_readings(dense, track, range(40)) == pytest.approx([1 / 44, 1 / 44], abs=1e-15)


def test_a_grid_frame_without_a_box_is_charged_and_the_grid_beyond_only_if_asked() -> None:
    boxes = {frame: UNIT for frame in (16, 48)}
    track = track_of(dict.fromkeys(range(96), UNIT))
    narrow = truth_of(boxes, annotated_frames(list(boxes)).tolist())
    assert both_readings(narrow, track, range(96)) == pytest.approx([2 / 3, 2 / 3])
    wide = truth_of(boxes, annotated_frames(list(boxes), num_frames=96).tolist())
    assert both_readings(wide, track, range(96)) == pytest.approx([2 / 6, 2 / 6])


def test_nothing_to_compare_is_zero() -> None:
    truth = truth_of({5: UNIT}, annotated=[5])
    between = track_of({7: UNIT}, interpolated=[7])
    # No frame is both annotated and of either, so Gamma is empty for the detector that saw nothing in frame 5.
    assert both_readings(truth, between, []) == [0, 0]
    assert both_readings(truth_of({}), track_of({7: UNIT}), [7]) == [0, 0]


def test_an_interpolated_box_is_asked_about_only_where_the_detector_saw_something() -> None:
    truth = truth_of({0: UNIT})
    track = track_of(dict.fromkeys(range(3), UNIT), interpolated=[1])
    assert both_readings(truth, track, [0, 2]) == [1 / 2, 1 / 3]
    assert both_readings(truth, track, [0, 1, 2]) == [1 / 3, 1 / 3]


def test_a_sample_stands_for_the_frames_up_to_the_next() -> None:
    truth = truth_of(dict.fromkeys(range(10), UNIT))
    track = track_of(dict.fromkeys(range(4), UNIT), interpolated=[1, 2])
    # Samples 0 and 3 stand for frames 0 to 5, of which the tube has 0 to 3.
    assert both_readings(truth, track, [0, 3], stride=3) == [4 / 6, 4 / 10]
    assert s_loc(truth, track, [0, 3]) == 1.0  # the frames between are not seen with a stride of 1


def test_several_boxes_in_a_frame_are_enclosed_or_the_best_track_counts() -> None:
    boxes = [(0, 0, 2, 2), (2, 0, 4, 2), (2, 0, 4, 2)]
    truth = BoxTruth.of_rows([0, 0, 1], boxes, [5, 9, 9])
    track = track_of({0: (2, 0, 4, 2), 1: (2, 0, 4, 2)})
    # Enclosed: (0, 0, 4, 2) in frame 0, IoU 1/2, and 1 in frame 1.
    assert both_readings(truth, track, [0, 1], several="union") == [3 / 4, 3 / 4]
    # Track 9 alone is met wholly; track 5 not at all.
    assert both_readings(truth, track, [0, 1], several="separate") == [1, 1]
    assert st_iou(truth, track, several="separate") == 1
    assert st_iou(truth, track) == 3 / 4


def brute(truth: BoxTruth, track: PredictedTrack, seen: set[int], name: str) -> float:
    """Equation 10, a frame at a time."""
    real = dict(zip(truth.frames.tolist(), truth.boxes.tolist(), strict=True))
    predicted = dict(zip(track.frames.tolist(), track.boxes.tolist(), strict=True))
    first = seen if name == "detector" else set(range(100))
    if truth.annotated is not None:
        first &= set(truth.annotated.tolist())
    gamma = first & (set(real) | set(predicted))
    ious = [
        float(torchvision_iou(torch.tensor([real[frame]]), torch.tensor([predicted[frame]])))
        for frame in gamma & set(real) & set(predicted)
    ]
    return sum(ious) / len(gamma) if gamma else 0.0


frame_sets = st.sets(st.integers(0, 30), max_size=12)
sides = st.integers(1, 4)


@st.composite
def box_rows(draw: st.DrawFn, min_size: int = 0) -> dict[int, Sequence[float]]:
    frames = draw(st.sets(st.integers(0, 30), min_size=min_size, max_size=12))
    if draw(st.booleans()) and frames:
        frames = set(range(min(frames), min(frames) + 8))  # a run, as tubes are
    rows: dict[int, Sequence[float]] = {}
    for frame in sorted(frames):
        x, y = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        rows[frame] = (x, y, x + draw(sides), y + draw(sides))
    return rows


@settings(max_examples=100, deadline=None)
@given(box_rows(), box_rows(min_size=1), frame_sets, st.booleans(), frame_sets)
def test_the_score_is_equation_10_frame_by_frame(
    real: dict[int, Sequence[float]], found: dict[int, Sequence[float]], seen: set[int], sparse: bool, more: set[int]
) -> None:
    truth = truth_of(real, sorted(more | set(real)) if sparse else None)
    track = track_of(found, interpolated=sorted(set(found) - seen))
    for name in GAMMA_FIRST:
        value = s_loc(truth, track, sorted(seen), gamma_first=name)
        # torchvision's IoU of these is float32.
        assert value == pytest.approx(brute(truth, track, set(seen), name), abs=1e-6)
        assert 0 <= value <= 1


def test_st_iou_is_the_mean_iou_times_that_of_the_spans() -> None:
    truth = truth_of({0: UNIT, 16: UNIT, 32: UNIT})
    track = track_of(dict.fromkeys(range(16, 49), HALF))
    assert st_iou(truth, track) == pytest.approx(17 / 49 / 2, abs=1e-15)
    assert st_iou(truth, track_of({33: UNIT})) == 0


def test_st_iou_of_dense_tracks_is_the_annotated_reading() -> None:
    truth = truth_of(dict.fromkeys(range(4, 14), UNIT))
    track = track_of({frame: THIRD if frame % 2 else UNIT for frame in range(10, 30)})
    assert st_iou(truth, track) == pytest.approx(both_readings(truth, track, range(30))[1], abs=1e-15)


def test_a_tube_of_the_detectors_room_is_taken_as_it_is() -> None:
    frames = np.arange(0, 12, 2)
    boxes = np.tile(np.array(UNIT, np.float32), (len(frames), 1))
    found = Detections(frames, boxes, np.full(6, 0.5, np.float32), np.ones(6, np.int64), 12, stride=2)
    (tube,) = unary_tubes(found, min_length=1)
    assert tube.interpolated.sum() == 5
    truth = truth_of(dict.fromkeys(range(12), HALF))
    assert s_loc(truth, tube, frames, stride=2) == pytest.approx(11 / 12 / 2)


# ---- the metrics of a test set by hand ----


def test_thresholds_are_strict() -> None:
    assert iou_at([0.1, 0.2, 0.3, 0.0], (0.1, 0.2, 0.05)) == {"0.1": 0.5, "0.2": 0.25, "0.05": 0.75}
    assert miou([0.1, 0.2, 0.3, 0.0]) == pytest.approx(0.15)
    assert false_alarm_rate([0.2, 0.2000001, 0.9, 0.0]) == Measured(0.5)
    assert false_alarm_rate([0.2, 0.5], above=0.5) == Measured(0.0)
    assert false_alarm_rate([]) == Measured(None, "no normal video")


def test_vauc_counts_pairs_and_half_of_ties() -> None:
    # Pairs: .9 beats .5 and .1; .5 ties with .5 and beats .1: (1 + 1 + 1/2 + 1) / 4.
    assert vauc([True, False, True, False], [0.9, 0.5, 0.5, 0.1]) == Measured(3.5 / 4)
    assert vauc([1, 1, 0], [0.3, 0.3, 0.3]) == Measured(0.5)
    assert vauc([1, 1], [0.3, 0.4]) == Measured(None, "no normal video: an AUC needs both")
    assert vauc([0], [0.3]) == Measured(None, "no abnormal video: an AUC needs both")
    assert vauc([], []).value is None


def test_vauc_of_a_textbook_case() -> None:
    # The example of scikit-learn's own page of roc_auc_score: 0.75.
    assert vauc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == Measured(0.75)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_vauc_is_the_share_of_pairs(rows: list[tuple[bool, int]]) -> None:
    pairs = [(a, n) for label, a in rows for other, n in rows if label and not other]
    found = vauc([label for label, _ in rows], [score for _, score in rows])
    assert (found.value is None) == (not pairs)
    if pairs:
        expected = Fraction(sum(2 * (a > n) + (a == n) for a, n in pairs), 2 * len(pairs))
        assert found.value == pytest.approx(float(expected), abs=1e-15)


# ---- a whole test set ----


def video(
    name: str,
    tubes: Sequence[PredictedTrack | Tube],
    scores: Sequence[float],
    truth: BoxTruth | None = None,
    seen: Sequence[int] = range(10),
) -> VideoTubes:
    return VideoTubes(name, truth is not None, tubes, np.array(scores, np.float64), np.array(seen, np.int64), 1, truth)


def five_videos() -> list[VideoTubes]:
    ten = truth_of(dict.fromkeys(range(10), UNIT))
    whole = track_of(dict.fromkeys(range(10), UNIT))
    fifth = track_of({0: UNIT, 1: UNIT})
    away = track_of(dict.fromkeys(range(10), APART))
    return [
        video("one", [away, fifth], [0.3, 0.8], ten, seen=range(10)),
        video("two", [away, whole, fifth, away], [0.9, 0.5, 0.5, 0.9], ten),
        video("three", [], [], ten, seen=range(5)),
        video("calm", [whole, away], [0.2, 0.85]),
        video("still", [], []),
    ]


def test_a_test_set_by_hand() -> None:
    report = evaluate_tubes(five_videos(), epsilons=(0.1, 0.2, 0.5))
    counts = report.counts
    assert (counts.videos, counts.abnormal, counts.normal, counts.without_tubes) == (5, 3, 2, 2)
    assert (counts.tied_tops, counts.truth_frames, counts.truth_frames_forgiven) == (1, 30, 5)
    # Scores .8, .9, 0 against .85, 0: .8 beats 0; .9 both; 0 ties with 0.
    assert report.vauc == Measured(pytest.approx((1 + 2 + 0.5) / 6))
    assert report.false_alarm_rate == Measured(0.5)
    for name in GAMMA_FIRST:
        reading = report.localisation[name]
        # Top-1: 1/5 (fifth), 0 (the first of two that are away), 0 (no tube).
        assert reading.method.miou == pytest.approx(0.2 / 3)
        assert reading.method.iou_at == pytest.approx({"0.1": 1 / 3, "0.2": 0, "0.5": 0})
        # Expected: (0 + 1/5) / 2, (0 + 1 + 1/5 + 0) / 4, 0; above .1: 1/2, 2/4, 0; above .2: 0, 1/4, 0.
        assert reading.random.miou == pytest.approx((0.1 + 0.3) / 3)
        assert reading.random.iou_at == pytest.approx({"0.1": 1 / 3, "0.2": 1 / 12, "0.5": 1 / 12})
        # Best: 1/5, 1, 0.
        assert reading.best.miou == pytest.approx(1.2 / 3)
        assert reading.best.iou_at == pytest.approx({"0.1": 2 / 3, "0.2": 1 / 3, "0.5": 1 / 3})
    assert [one.top for one in report.videos] == [1, 0, None, 1, None]
    assert [one.score for one in report.videos] == [0.8, 0.9, 0, 0.85, 0]
    assert [one.st_iou for one in report.videos] == [pytest.approx(0.2), 0, 0, None, None]
    assert report.st_iou == Measured(pytest.approx(0.2 / 3))


def test_the_readings_differ_where_the_detector_missed_the_anomaly() -> None:
    truth = truth_of(dict.fromkeys(range(10), UNIT))
    report = evaluate_tubes([video("a", [track_of({0: UNIT, 1: UNIT})], [0.5], truth, seen=[0, 1, 2, 3])])
    assert report.localisation["detector"].method.miou == 2 / 4
    assert report.localisation["annotated"].method.miou == 2 / 10
    assert report.counts.truth_frames_forgiven == 6


def test_the_random_tube_is_the_mean_over_draws() -> None:
    videos = five_videos()
    report = evaluate_tubes(videos)
    random = np.random.default_rng(0)
    drawn = [
        [
            s_loc(one.truth, one.tubes[random.integers(len(one.tubes))], one.detector_frames) if one.tubes else 0.0
            for one in videos
            if one.truth is not None
        ]
        for _ in range(1000)
    ]
    # The deviation of a mean over 1,000 draws of a video's score is below .5 / sqrt(1000) = .016.
    assert report.localisation["detector"].random.miou == pytest.approx(np.mean(drawn), abs=0.05)
    above = np.mean([list(iou_at(scores).values()) for scores in drawn], axis=0)
    assert list(report.localisation["detector"].random.iou_at.values()) == pytest.approx(above, abs=0.05)


@pytest.mark.parametrize("several", SEVERAL_BOXES)
def test_the_method_never_exceeds_the_best_tube(several: str) -> None:
    report = evaluate_tubes(five_videos(), several=several)
    for name in GAMMA_FIRST:
        for one in report.videos[:3]:
            assert one.s_loc[name].method <= one.s_loc[name].best
            assert one.s_loc[name].random <= one.s_loc[name].best


def test_the_report_is_plain_json() -> None:
    report = evaluate_tubes(five_videos())
    plain = report.as_mapping()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["localisation"]["annotated"]["best"]["iou_at"]["0.1"] == 2 / 3
    assert plain["videos"][0]["s_loc"]["detector"]["method"] == pytest.approx(0.2)
    assert plain["counts"]["abnormal"] == 3
    assert list(plain["localisation"]) == list(GAMMA_FIRST)


def test_a_set_of_one_class_gives_reasons_instead_of_numbers() -> None:
    only_normal = evaluate_tubes(five_videos()[3:])
    assert only_normal.localisation == {}
    assert only_normal.vauc == Measured(None, "no abnormal video: an AUC needs both")
    assert only_normal.st_iou == Measured(None, "no abnormal video")
    only_abnormal = evaluate_tubes(five_videos()[:3])
    assert only_abnormal.vauc == Measured(None, "no normal video: an AUC needs both")
    assert only_abnormal.false_alarm_rate == Measured(None, "no normal video")
    json.dumps(only_normal.as_mapping(), allow_nan=False)


# ---- what is refused ----


def test_a_set_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="no video: give each test video once"):
        evaluate_tubes([])
    with pytest.raises(UsageError, match="two videos have the id 'one'"):
        evaluate_tubes([*five_videos(), five_videos()[0]])
    with pytest.raises(UsageError, match="several is no 'all': give union or separate"):
        evaluate_tubes(five_videos(), several="all")


@pytest.mark.parametrize("scores", [[], [0.5, 0.5], [float("nan")], [1.5], [-0.1]])
def test_scores_are_one_probability_a_tube(scores: list[float]) -> None:
    with pytest.raises(UsageError, match="calm: 1 tubes want as many scores from 0 to 1"):
        video("calm", [track_of({0: UNIT})], scores)


def test_label_and_boxes_agree() -> None:
    none = np.zeros(0)
    with pytest.raises(UsageError, match="v: an abnormal video without annotated boxes"):
        VideoTubes("v", True, [], none, none.astype(int))
    with pytest.raises(UsageError, match="v: an abnormal video without annotated boxes"):
        VideoTubes("v", True, [], none, none.astype(int), 1, truth_of({}))
    with pytest.raises(UsageError, match="v: a normal video with annotated boxes"):
        VideoTubes("v", False, [], none, none.astype(int), 1, truth_of({0: UNIT}))


def test_detections_of_another_run_are_noticed() -> None:
    with pytest.raises(UsageError, match="v: tube 1 has a detection in frame 7, where the detector found nothing"):
        video("v", [track_of({0: UNIT}), track_of({0: UNIT, 7: UNIT})], [0.1, 0.2], seen=range(5))
    with pytest.raises(UsageError, match="this tube has a detection in frame 3"):
        s_loc(truth_of({0: UNIT}), track_of({3: UNIT}), [0, 2])
    wrong: list[tuple[ArrayLike, int]] = [([3, 1], 1), (np.array([3, 1], np.uint8), 1), ([0, 0], 1), ([0, 1], 2)]
    for seen, stride in [*wrong, ([0], 0), ([0.5], 1), ([[0]], 1)]:
        with pytest.raises(UsageError, match="detector frames ascend by the stride"):
            s_loc(truth_of({0: UNIT}), track_of({0: UNIT}), seen, stride=stride)
    with pytest.raises(UsageError, match=r"^v: detector frames ascend"):
        video("v", [], [], seen=[3, 1])
    with pytest.raises(UsageError, match="gamma_first is no 'both': give detector or annotated"):
        s_loc(truth_of({0: UNIT}), track_of({0: UNIT}), [0], gamma_first="both")


@pytest.mark.parametrize(
    ("frames", "boxes", "interpolated", "complaint"),
    [
        ([], np.zeros((0, 4)), [], "1 frame or more"),
        ([0, 1], [UNIT], [False, False], "give one row of each per frame"),
        ([0], [UNIT], [False, False], "give one row of each per frame"),
        ([1, 0], [UNIT, UNIT], [False, False], "whole numbers that ascend"),
        ([1, 1], [UNIT, UNIT], [False, False], "whole numbers that ascend"),
        ([0.0], [UNIT], [False], "whole numbers that ascend"),
        ([0], [(0, 0, np.nan, 1)], [False], "holds NaN or infinity"),
    ],
)
def test_a_tube_that_is_none_is_refused(
    frames: list[float], boxes: Sequence[Sequence[float]], interpolated: list[bool], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        PredictedTrack(np.array(frames), np.array(boxes, np.float64), np.array(interpolated, bool))  # type: ignore[arg-type]  # wrong types are among what is refused
