"""Segment rules: boundaries against the published formulas, values against the published means, and a published bag."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vadx.errors import FeatureError, UsageError
from vadx.features.bag_rules import COMBINATIONS, SEGMENTATIONS
from vadx.features.bags import CropPool, cut_segments, make_bag, segment_spans
from vadx.features.timeline import ClipFeatures, VideoFacts

NUMS_CLIPS = (1, 2, 16, 17, 18, 21, 28, 31, 32, 33, 34, 44, 50, 58, 65, 250, 1000, 2999)

ROAD_ACCIDENTS_002 = "RoadAccidents002_x264.txt"
ROAD_ACCIDENTS_002_REPEATS = "0100101001001010010010100100101"
"""Which rows of the published bag equal the row before; the video has 347 frames, so 21 clips."""

Span = tuple[int, int]


# ---- the published formulas, each in its own arithmetic ----


def matlab(num_clips: int, *, keeps_last: bool = False) -> list[Span]:
    """Walk through the loop of Save_C3DFeatures_32Segments.m, counted from 1 as there."""
    exact = [1 + Decimal(i) * (num_clips - 1) / 32 for i in range(33)]
    shots = [int(edge.quantize(Decimal(1), ROUND_HALF_UP)) for edge in exact]
    spans = []
    for i in range(32):
        first, last = shots[i], shots[i + 1] - 1
        if keeps_last and i == 31:
            last = shots[32]
        spans.append((first - 1, first) if last < first else (first - 1, last))
    return spans


def between(edges: Iterable[int]) -> list[Span]:
    return [(a, b) if a != b else (a, a + 1) for a, b in pairwise(edges)]


def padded(num_clips: int, num_segments: int) -> list[Span]:
    return [(i, i + 1) if i < num_clips else (num_clips, num_clips) for i in range(num_segments)]


def picked(num_clips: int) -> list[Span]:
    if num_clips <= 200:
        return padded(num_clips, 200)
    return [(i * (num_clips - 1) // 199, i * (num_clips - 1) // 199 + 1) for i in range(200)]


def repeat_padded(num_clips: int) -> list[Span]:
    clips = list(range(num_clips)) + [num_clips - 1] * (-num_clips % 32)
    size = len(clips) // 32
    return [(min(part), max(part) + 1) for part in (clips[i * size : (i + 1) * size] for i in range(32))]


def neighbours(num_clips: int) -> list[Span]:
    spans = []
    for i in range(32):
        place = (i + Fraction(1, 2)) * Fraction(num_clips, 32) - Fraction(1, 2)
        place = min(max(place, Fraction(0)), Fraction(num_clips - 1))
        spans.append((math.floor(place), math.ceil(place) + 1))
    return spans


PUBLISHED: dict[str, Callable[[int], list[Span]]] = {
    "sultani": matlab,
    "sultani-paper": lambda t: matlab(t, keeps_last=True),
    # Python rounds fractions half to even, as np.round does.
    "ekosman": lambda t: between(round(Fraction(i * (t - 1), 32)) for i in range(33)),
    "rtfm": lambda t: between(i * t // 32 for i in range(33)),
    # Steps of 1/200 are not exact in float64, and the floor is taken of the float.
    "urdmu-200": lambda t: between([math.floor(i * (t / 200)) for i in range(200)] + [t]),
    "xdviolence-200": picked,
    "pel4vad-200": picked,
    "vadclip-256": lambda t: between(i * t // 256 for i in range(257)) if t > 256 else padded(t, 256),
    "wsal": repeat_padded,
    "s3r": neighbours,
    "mist": lambda t: [(i * (t - 7) // 32, i * (t - 7) // 32 + 7) for i in range(32)],
}


@pytest.mark.parametrize("num_clips", NUMS_CLIPS)
@pytest.mark.parametrize("rule", PUBLISHED)
def test_boundaries_are_the_published_ones(rule: str, num_clips: int) -> None:
    if num_clips < SEGMENTATIONS[rule].min_clips:
        with pytest.raises(UsageError, match=f"{rule} takes 7 clips or more, and there are {num_clips}.*such as rtfm"):
            segment_spans(rule, num_clips)
        return
    spans = segment_spans(rule, num_clips)
    assert (spans.dtype, spans.shape[1]) == (np.int64, 2)
    assert [tuple(span) for span in spans.tolist()] == PUBLISHED[rule](num_clips)


def test_every_rule_is_held_to_a_formula() -> None:
    assert set(PUBLISHED) | {"csltal-pairs", "clips"} == set(SEGMENTATIONS)
    assert {rule.how for rule in SEGMENTATIONS.values()} == set(COMBINATIONS)
    assert all(rule.meaning and rule.source for rule in SEGMENTATIONS.values())


# ---- rows written by hand ----


ONE, TWO = (0, 1), (1, 2)
EDGES_OF_50 = {
    "sultani": [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 32, 34, 35, 37, 38, 40,
                41, 43, 44, 46, 47, 49],
    "sultani-paper": [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 32, 34, 35, 37, 38,
                      40, 41, 43, 44, 46, 47, 50],
    "ekosman": [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 26, 28, 29, 31, 32, 34, 35, 37, 38, 40,
                41, 43, 44, 46, 47, 49],
    "rtfm": [0, 1, 3, 4, 6, 7, 9, 10, 12, 14, 15, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 32, 34, 35, 37, 39, 40, 42,
             43, 45, 46, 48, 50],
}  # fmt: skip


@pytest.mark.parametrize("rule", EDGES_OF_50)
def test_fifty_clips_by_hand(rule: str) -> None:
    assert segment_spans(rule, 50).tolist() == [[a, b] for a, b in pairwise(EDGES_OF_50[rule])]


@pytest.mark.parametrize(
    ("rule", "num_clips", "expected"),
    [
        ("sultani", 1, [ONE] * 32),
        ("sultani", 2, [ONE] * 16 + [TWO] * 16),
        ("sultani", 33, [(i, i + 1) for i in range(32)]),
        ("sultani", 65, [(2 * i, 2 * i + 2) for i in range(32)]),
        ("sultani-paper", 33, [*((i, i + 1) for i in range(31)), (31, 33)]),
        ("ekosman", 2, [ONE] * 17 + [TWO] * 15),
        ("ekosman", 65, [(2 * i, 2 * i + 2) for i in range(32)]),
        ("rtfm", 1, [ONE] * 32),
        ("rtfm", 2, [ONE] * 16 + [TWO] * 16),
        ("rtfm", 33, [*((i, i + 1) for i in range(31)), (31, 33)]),
        ("urdmu-200", 400, [(2 * i, 2 * i + 2) for i in range(200)]),
        ("xdviolence-200", 2, [ONE, TWO, *[(2, 2)] * 198]),
        ("xdviolence-200", 399, [(2 * i, 2 * i + 1) for i in range(200)]),
        ("pel4vad-200", 200, [(i, i + 1) for i in range(200)]),
        ("vadclip-256", 2, [ONE, TWO, *[(2, 2)] * 254]),
        ("vadclip-256", 512, [(2 * i, 2 * i + 2) for i in range(256)]),
        ("wsal", 2, [ONE] + [TWO] * 31),
        ("wsal", 33, [*((2 * i, 2 * i + 2) for i in range(16)), *[(32, 33)] * 16]),
        ("wsal", 50, [*((2 * i, 2 * i + 2) for i in range(25)), *[(49, 50)] * 7]),
        ("s3r", 1, [ONE] * 32),
        ("s3r", 2, [ONE] * 8 + [(0, 2)] * 16 + [TWO] * 8),
        ("s3r", 32, [(i, i + 1) for i in range(32)]),
        ("s3r", 64, [(2 * i, 2 * i + 2) for i in range(32)]),
        ("mist", 7, [(0, 7)] * 32),
        ("mist", 39, [(i, i + 7) for i in range(32)]),
    ],
)
def test_boundaries_by_hand(rule: str, num_clips: int, expected: list[Span]) -> None:
    assert [tuple(span) for span in segment_spans(rule, num_clips).tolist()] == expected


def covered(spans: NDArray[np.int64]) -> set[int]:
    return {clip for start, stop in spans.tolist() for clip in range(start, stop)}


@pytest.mark.parametrize(
    ("num_clips", "sultani", "ekosman", "rtfm"),
    [(1, 1, 1, 1), (17, 17, 17, 17), (18, 17, 17, 18), (28, 27, 27, 28), (33, 32, 32, 33), (50, 49, 49, 50),
     (65, 64, 64, 65)],
)  # fmt: skip
def test_so_many_clips_are_used(num_clips: int, sultani: int, ekosman: int, rtfm: int) -> None:
    for rule, expected in (("sultani", sultani), ("ekosman", ekosman), ("rtfm", rtfm), ("sultani-paper", num_clips)):
        assert len(covered(segment_spans(rule, num_clips))) == expected


def test_rounding_halves_is_what_parts_the_two_ports() -> None:
    lengths = range(1, 2001)
    differ = [t for t in lengths if not np.array_equal(segment_spans("sultani", t), segment_spans("ekosman", t))]
    assert len(differ) == 1437


def test_float_steps_of_200_segments_are_not_whole_numbers() -> None:
    def whole(num_clips: int) -> list[int]:
        return [i * num_clips // 200 for i in range(200)]

    differ = [t for t in range(1, 3001) if segment_spans("urdmu-200", t)[:, 0].tolist() != whole(t)]
    assert (len(differ), differ[0]) == (116, 58)
    assert (segment_spans("urdmu-200", 58)[100, 0], whole(58)[100]) == (28, 29)


# ---- pairs ----


def test_pairs_are_two_sequences_of_one_clip_from_each_three() -> None:
    spans = segment_spans("csltal-pairs", 3002, seed=3)
    assert spans.shape == (2000, 2)
    assert (spans[:, 1] - spans[:, 0] == 1).all()
    places = spans[:, 0].reshape(2, 1000) - 3 * np.arange(1000)
    # 1000 draws of three: each comes 333 +- 15 times; 5 standard deviations.
    assert all(abs(int((row == at).sum()) - 333) < 75 for row in places for at in range(3))
    assert ((places[0] == places[1]).sum() - 333) < 75
    assert np.array_equal(spans, segment_spans("csltal-pairs", 3002, seed=3))
    assert not np.array_equal(spans, segment_spans("csltal-pairs", 3002, seed=4))


def test_short_pairs_are_not_sampled_and_longer_bags_are_padded() -> None:
    assert segment_spans("csltal-pairs", 2).tolist() == [[0, 1], [1, 2]] * 2
    assert segment_spans("csltal-pairs", 6).tolist() == [[i, i + 1] for i in range(6)] * 2
    assert len(segment_spans("csltal-pairs", 7)) == len(segment_spans("csltal-pairs", 8)) == 4
    plain, longer = segment_spans("csltal-pairs", 7), segment_spans("csltal-pairs", 7, 8)
    assert longer.tolist() == [*plain[:2].tolist(), [7, 7], [7, 7], *plain[2:].tolist(), [7, 7], [7, 7]]
    for number in (2, 5):
        with pytest.raises(UsageError, match=f"two sequences of 2 of 7 clips.* {number} segments.*even one from 4 on"):
            segment_spans("csltal-pairs", 7, number)


# ---- values ----


def clips(num_clips: int, num_crops: int = 2, dim: int = 5, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((num_clips, num_crops, dim)).astype(np.float32)


def frames_of(num_clips: int) -> NDArray[np.int64]:
    starts = 16 * np.arange(num_clips)
    return np.stack([starts, starts + 16], axis=1)


def cut(values: NDArray[Any], rule: str, **options: Any) -> NDArray[np.float32]:
    return cut_segments(values, frames_of(len(values)), rule, **options).features


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    return vector / math.sqrt(sum(float(x) ** 2 for x in vector))


def one_crop(feat: NDArray[np.float32], rule: str) -> NDArray[Any]:
    """Give what the repository of a rule makes of one crop ``(clip, feature)``, in its own arithmetic."""
    spans = PUBLISHED[rule](len(feat))
    if rule == "sultani":
        return np.stack([unit(feat[a:b].astype(np.float64).sum(axis=0) / (b - a)) for a, b in spans])
    if rule == "sultani-paper":
        directions = np.stack([unit(clip.astype(np.float64)) for clip in feat])
        return np.stack([directions[a:b].sum(axis=0) / (b - a) for a, b in spans])
    if rule == "ekosman":
        means = [feat[a:b].mean(axis=0) for a, b in spans]
        return np.stack([mean / np.linalg.norm(mean) for mean in means])
    if rule == "wsal":
        add = -len(feat) % 32
        return np.concatenate([feat, np.tile(feat[-1], (add, 1))]).reshape(32, -1, feat.shape[1]).mean(axis=1)
    if rule == "s3r":
        return np.asarray(cv2.resize(feat, (feat.shape[1], 32), interpolation=cv2.INTER_LINEAR))
    if rule == "mist":
        return np.concatenate([feat[a:b] for a, b in spans])
    return np.stack([np.mean(feat[a:b], 0) if b > a else np.zeros_like(feat[0]) for a, b in spans])


TOLERANCES = {
    "sultani": 1e-7,  # both in float64, ours rounded to float32
    "sultani-paper": 1e-7,
    "ekosman": 3e-7,  # numpy's norm in float32
    "s3r": 1e-6,  # OpenCV's weights are rounded to float32
}


@pytest.mark.parametrize("num_clips", [7, 21, 32, 58, 250, 600])
@pytest.mark.parametrize("rule", PUBLISHED)
def test_rows_are_what_the_repository_makes_of_each_crop(rule: str, num_clips: int) -> None:
    values = clips(num_clips, 3, seed=num_clips)
    rows = cut(values, rule)
    assert rows.dtype == np.float32
    for crop in range(3):
        expected = one_crop(np.ascontiguousarray(values[:, crop]), rule)
        assert np.abs(rows[:, crop] - expected).max() <= TOLERANCES.get(rule, 0)


def test_rows_of_pairs_are_the_clips_of_their_spans() -> None:
    values = clips(40)
    spans = segment_spans("csltal-pairs", 40, 30, seed=5)
    rows = cut(values, "csltal-pairs", num_segments=30, seed=5)
    assert all(
        np.array_equal(row, values[a] if b > a else 0 * values[0]) for row, (a, b) in zip(rows, spans, strict=True)
    )
    assert (spans[:, 0] == spans[:, 1]).sum() == 4


def repeats(rows: NDArray[Any]) -> str:
    return "".join(str(int(np.array_equal(a, b))) for a, b in pairwise(rows))


def test_the_published_bag_repeats_rows_as_only_the_original_rule_does() -> None:
    values = clips(347 // 16)
    assert repeats(cut(values, "sultani")) == ROAD_ACCIDENTS_002_REPEATS
    for rule in ("ekosman", "rtfm", "wsal", "s3r"):
        assert repeats(cut(values, rule)) != ROAD_ACCIDENTS_002_REPEATS


def test_the_published_bag_itself(field_data: Path) -> None:
    published = np.loadtxt(field_data / "features" / ROAD_ACCIDENTS_002)
    assert published.shape == (32, 4096)
    # Six decimals: each value is off by 5e-7 at most, and so is, about, the length of the row.
    assert np.abs(np.linalg.norm(published, axis=1) - 1).max() < 1e-6
    assert repeats(published) == ROAD_ACCIDENTS_002_REPEATS
    # No segment holds two clips, so the different rows are the first 20 clips, and of them comes the bag again.
    used = published[np.flatnonzero([True, *(mark == "0" for mark in ROAD_ACCIDENTS_002_REPEATS)])]
    values = np.concatenate([used, np.ones((1, 4096))])[:, np.newaxis]
    assert len(values) == 21
    assert np.abs(cut(values, "sultani")[:, 0] - published).max() < 1e-6
    for rule in ("ekosman", "rtfm"):
        assert np.abs(cut(values, rule)[:, 0] - published).max() > 0.01


@pytest.mark.parametrize("rule", [name for name, rule in SEGMENTATIONS.items() if rule.normalize == "segment"])
def test_rows_have_unit_length(rule: str) -> None:
    lengths = np.linalg.norm(cut(clips(250, 4) * 1e30, rule).astype(np.float64), axis=2)
    assert np.abs(lengths - 1).max() < 1e-6


def test_half_precision_is_averaged_in_single() -> None:
    values = clips(100).astype(np.float16)
    assert np.array_equal(cut(values, "rtfm"), cut(values.astype(np.float32), "rtfm"))


# ---- crops, frames, bags ----


def features_of(num_clips: int, num_crops: int = 10, *, num_frames: int | None = None) -> ClipFeatures:
    frames = frames_of(num_clips)
    num_frames = int(frames[-1, 1]) if num_frames is None else num_frames
    frames = np.minimum(frames, num_frames)
    return ClipFeatures(
        values=clips(num_clips, num_crops),
        frames=frames,
        seconds=frames / 30,
        damaged=np.zeros(num_clips, np.bool_),
        facts=VideoFacts(fps=30.0, num_frames_decoded=num_frames, width=320, height=240),
    )


@pytest.mark.parametrize(("pool", "num_crops"), [("keep", 10), ("mean", 1), (0, 1), (9, 1)])
@pytest.mark.parametrize("rule", SEGMENTATIONS)
def test_one_crop_their_mean_or_all(rule: str, pool: CropPool, num_crops: int) -> None:
    features = features_of(300)
    bag = make_bag(features, rule, crop_pool=pool)
    assert bag.features.shape[1:] == (num_crops, 5)
    if isinstance(pool, int):
        assert np.array_equal(bag.features, make_bag(features, rule).features[:, pool : pool + 1])
    if pool == "mean":
        mean = features.values.astype(np.float64).mean(axis=1, keepdims=True)
        assert np.abs(bag.features - cut(mean, rule)).max() <= 1e-7


@pytest.mark.parametrize("pool", [-1, 10, "max", "3"])
def test_a_crop_that_does_not_exist_is_refused(pool: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^Abuse001: there are 10 crops and none is .*keep, mean or a number below 10"
    ):
        make_bag(features_of(50), "rtfm", crop_pool=pool, id="Abuse001")


def test_segments_carry_their_source_frames() -> None:
    # 347 frames: the last clip is cut at the end, as under a tail that fills.
    bag = make_bag(features_of(22, num_frames=347), "rtfm", id="Abuse/a", label=1, class_name="Abuse")
    assert (bag.id, bag.label, bag.class_name, bag.num_frames) == ("Abuse/a", 1, "Abuse", 347)
    spans = segment_spans("rtfm", 22)
    assert bag.frames.tolist() == [[16 * a, min(16 * b, 347)] for a, b in spans.tolist()]
    assert bag.frames[-1].tolist() == [336, 347]
    padded_bag = make_bag(features_of(2), "xdviolence-200")
    assert padded_bag.frames.tolist() == [[0, 16], [16, 32], *[[32, 32]] * 198]
    assert not padded_bag.features[2:].any()


def test_clips_that_overlap_or_start_late_keep_their_frames() -> None:
    frames = np.stack([100 + 8 * np.arange(40), 116 + 8 * np.arange(40)], axis=1)
    segments = cut_segments(clips(40), frames, "rtfm", num_segments=4)
    assert segments.frames.tolist() == [[100, 188], [180, 268], [260, 348], [340, 428]]


def test_parts_of_mist_keep_their_clips() -> None:
    bag = make_bag(features_of(39), "mist")
    assert bag.features.shape == (224, 10, 5)
    assert np.array_equal(bag.features.reshape(32, 7, 10, 5)[3], features_of(39).values[3:10])
    assert bag.frames.reshape(32, 7, 2)[3].tolist() == [[16 * i, 16 * i + 16] for i in range(3, 10)]


@pytest.mark.parametrize("num_segments", [1, 2, 32, 64, 200])
@pytest.mark.parametrize("rule", PUBLISHED)
def test_any_number_of_segments(rule: str, num_segments: int) -> None:
    assert segment_spans(rule, 40, num_segments).shape == (num_segments, 2)
    assert len(cut(clips(40), rule, num_segments=num_segments)) == num_segments * (7 if rule == "mist" else 1)


def test_the_published_number_of_segments_is_the_default() -> None:
    names = {name: len(segment_spans(name, 1000)) for name in PUBLISHED}
    assert {name: number for name, number in names.items() if number != 32} == {
        "urdmu-200": 200,
        "xdviolence-200": 200,
        "pel4vad-200": 200,
        "vadclip-256": 256,
    }


# ---- what is refused ----


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="no segment rule is named 'sultan': give one of sultani, sultani-paper"):
        segment_spans("sultan", 40)
    with pytest.raises(UsageError, match="no segment rule is named 'x': give one of"):
        make_bag(features_of(3), "x")
    for rule in SEGMENTATIONS:
        with pytest.raises(UsageError, match=f"{rule} takes . clips or more, and there are 0.*--tail repeat_last"):
            segment_spans(rule, 0)
        with pytest.raises(UsageError, match="1 segment or more, not 0: give"):
            segment_spans(rule, 40, 0)
    with pytest.raises(UsageError, match="seed=0"):
        segment_spans("csltal-pairs", 40, seed=-1)


def test_every_clip_is_a_row_and_none_is_left_out() -> None:
    assert segment_spans("clips", 3, 5).tolist() == [[0, 1], [1, 2], [2, 3], [3, 3], [3, 3]]
    with pytest.raises(UsageError, match=r"each of 3 clips, which are more than 2: .* one from 3 on"):
        segment_spans("clips", 3, 2)
    features = features_of(4)
    assert np.array_equal(make_bag(features, "clips").features, features.values)


@pytest.mark.parametrize(
    ("values", "frames"),
    [
        (clips(3)[:, 0], frames_of(3)),
        (clips(3), frames_of(4)),
        (clips(3, 0), frames_of(3)),
        (clips(3, 2, 0), frames_of(3)),
    ],
)
def test_arrays_that_disagree_are_refused(values: NDArray[Any], frames: NDArray[np.int64]) -> None:
    with pytest.raises(UsageError, match=r"expected values \(clip, crop, feature\).*give values"):
        cut_segments(values, frames, "rtfm")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_also_in_the_dropped_clip(value: float) -> None:
    values = clips(40)
    values[-1, 0, 0] = value
    with pytest.raises(FeatureError) as caught:
        cut(values, "sultani")
    assert caught.value.code == "FEATURE_NONFINITE"


def test_zeros_have_no_direction() -> None:
    values = clips(64)
    values[10:14, 1] = 0
    for rule, what in (
        ("sultani", "segment 5 of 32"),
        ("ekosman", "segment 5 of 32"),
        ("sultani-paper", "clip 10 of 64"),
    ):
        with pytest.raises(UsageError, match=f"{what} is all zeros, which {rule} cannot .*such as rtfm"):
            cut(values, rule)
    assert not cut(values, "rtfm")[5, 1].any()


# ---- properties ----


COVER_EVERYTHING = ("sultani-paper", "rtfm", "urdmu-200", "vadclip-256", "wsal", "clips")


@settings(max_examples=200)
@given(rule=st.sampled_from(sorted(SEGMENTATIONS)), num_clips=st.integers(7, 3000), num=st.integers(1, 300))
def test_spans_are_ordered_half_open_and_cover_what_the_rule_says(rule: str, num_clips: int, num: int) -> None:
    number = {"csltal-pairs": 2 * num_clips, "clips": max(num, num_clips)}.get(rule, num)
    spans = segment_spans(rule, num_clips, number)
    assert spans.shape == (number, 2)
    starts, stops = spans.T
    assert 0 <= starts.min() <= stops.max() <= num_clips
    assert (starts <= stops).all()
    for sequence in np.split(spans, 2) if rule == "csltal-pairs" else [spans]:
        assert (np.diff(sequence, axis=0) >= 0).all()
    if SEGMENTATIONS[rule].how == "pick":
        assert set((stops - starts).tolist()) <= {0, 1}
    if rule in COVER_EVERYTHING and number <= num_clips:
        assert covered(spans) == set(range(num_clips))
    if rule in ("sultani", "ekosman") and num_clips > num + 1:
        assert covered(spans) == set(range(num_clips - 1))
    if rule == "mist":
        assert (stops - starts == 7).all()
        assert starts[0] == 0


def test_cutting_loads_nothing_but_numpy_and_h5py() -> None:
    script = (
        "import sys, json; from vadx.features.bags import make_bag, segment_spans; "
        "from vadx.features.expansion import expand_scores; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "vadx.features.expansion" in loaded
    assert {"torch", "torchvision", "av", "scipy", "cv2", "msgspec", "click", "dask"} & loaded == set()
