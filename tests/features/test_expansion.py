"""Scores of frames: every decoded frame has one, and published repositories' own ways are their own."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vadx.errors import UsageError
from vadx.features.bag_rules import SEGMENTATIONS
from vadx.features.bags import segment_spans, span_frames
from vadx.features.expansion import EXPANSIONS, expand_like, expand_scores, spline_places

SCORES = np.random.default_rng(0).random(32)


def clip_frames(num_clips: int) -> NDArray[np.int64]:
    starts = 16 * np.arange(num_clips)
    return np.stack([starts, starts + 16], axis=1)


# ---- vadx's own ----


def test_frames_by_hand() -> None:
    assert expand_scores([1, 2], [[0, 2], [2, 5]], 5).tolist() == [1, 1, 2, 2, 2]
    # Both cover frame 2; nobody covers 0, 5, 6, 7 and 10: the nearest gives, and of two the earlier.
    assert expand_scores([1, 2, 4], [[1, 3], [2, 5], [8, 10]], 11).tolist() == [1, 1, 1.5, 2, 2, 2, 2, 4, 4, 4, 4]
    assert expand_scores([1, 2, 4], [[0, 1], [0, 0], [4, 5]], 5).tolist() == [1, 1, 1, 4, 4]
    assert expand_scores([9, 1, 9], [[0, 1], [0, 2], [3, 3]], 4).tolist() == [5, 1, 1, 1]


def test_the_order_of_rows_does_not_matter() -> None:
    spans = np.array([[0, 40], [10, 20], [15, 60], [70, 80]])
    order = [2, 0, 3, 1]
    scores = SCORES[:4]
    forth, back = expand_scores(scores, spans, 100), expand_scores(scores[order], spans[order], 100)
    assert np.abs(forth - back).max() <= 1e-15


def test_equal_scores_stay_exactly_equal() -> None:
    spans = np.array([[0, 10]] * 3 + [[5, 20]] * 7)
    assert set(expand_scores([0.1] * 10, spans, 30).tolist()) == {0.1}


def test_the_dropped_clip_and_the_tail_hold_the_last_score() -> None:
    spans = span_frames(segment_spans("sultani", 65), clip_frames(65))
    frames = expand_scores(SCORES, spans, 65 * 16 + 7)
    assert spans[-1, 1] == 64 * 16
    assert np.array_equal(frames[: 64 * 16], np.repeat(SCORES, 32))
    assert (frames[64 * 16 :] == SCORES[-1]).all()


@pytest.mark.parametrize(
    ("scores", "spans", "num_frames", "says"),
    [
        ([[1.0]], [[0, 1]], 1, r"scores \(1, 1\).*scores.mean\(axis=1\)"),
        ([], np.zeros((0, 2)), 1, "expected one score a row"),
        ([1.0], [[0, 0]], 0, "1 frame or more"),
        ([1.0], [[0, 1], [1, 2]], 2, r"each of 1 scores, got \(2, 2\): give Bag.frames"),
        ([1.0], [[0, 3]], 2, "must lie in the video's 2 frames: give"),
        ([1.0], [[-1, 1]], 2, "must lie in the video's 2 frames: give"),
        ([1.0], [[2, 1]], 2, "must lie in the video's 2 frames: give"),
        ([1.0], [[1, 1]], 2, "no span holds a frame.*give Bag.frames"),
        ([1.0, np.nan], [[0, 1], [1, 2]], 2, "score 1 of 2 is nan"),
        ([np.inf], [[0, 1]], 2, "score 0 of 1 is inf"),
    ],
)
def test_scores_that_fit_no_video_are_refused(
    scores: list[float], spans: list[list[int]], num_frames: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        expand_scores(scores, spans, num_frames)


@settings(max_examples=150)
@given(
    rule=st.sampled_from(sorted(SEGMENTATIONS)),
    num_clips=st.integers(7, 400),
    tail=st.integers(-15, 40),
    seed=st.integers(0, 99),
)
def test_every_decoded_frame_has_a_score(rule: str, num_clips: int, tail: int, seed: int) -> None:
    num_frames = 16 * num_clips + tail
    spans = segment_spans(rule, num_clips, seed=seed)
    frames = span_frames(spans, np.minimum(clip_frames(num_clips), num_frames))
    scores = np.random.default_rng(seed).random(len(spans))
    expanded = expand_scores(scores, frames, num_frames)
    assert expanded.shape == (num_frames,)
    # The mean of scores lies between them, but for the last bit.
    assert scores.min() - 1e-15 <= expanded.min() <= expanded.max() <= scores.max() + 1e-15


@settings(max_examples=100)
@given(
    num_frames=st.integers(1, 60),
    rows=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59), st.integers(0, 9)), min_size=1, max_size=6),
)
def test_frames_are_what_a_walk_over_them_gives(num_frames: int, rows: list[tuple[int, int, int]]) -> None:
    spans = [sorted((min(a, num_frames), min(b, num_frames))) for a, b, _ in rows]
    covering = [[s for (a, b), (_, _, s) in zip(spans, rows, strict=True) if a <= f < b] for f in range(num_frames)]
    covered = [f for f in range(num_frames) if covering[f]]
    if not covered:
        return
    nearest = [min(covered, key=lambda c: (abs(c - f), c)) for f in range(num_frames)]
    expected = [sum(covering[c]) / len(covering[c]) for c in nearest]
    got = expand_scores([float(s) for _, _, s in rows], spans, num_frames)
    assert np.abs(got - expected).max() < 1e-12


# ---- the repositories' ----


def test_the_original_lets_later_segments_win_and_gives_the_last_clip_nothing() -> None:
    num_frames = 21 * 16 + 11
    frames = expand_like("sultani", SCORES, num_frames)
    shots = [int((1 + Decimal(i) * 20 / 32).quantize(Decimal(1), ROUND_HALF_UP)) for i in range(33)]
    expected = [0.0] * num_frames
    for i in range(32):
        first, last = shots[i], max(shots[i], shots[i + 1] - 1)
        expected[(first - 1) * 16 : last * 16] = [SCORES[i]] * 16 * (last - first + 1)
    assert frames.tolist() == expected
    assert not frames[20 * 16 :].any()
    assert frames[19 * 16] == SCORES[31]


def test_the_original_repeats_the_last_score_of_short_videos() -> None:
    frames = expand_like("sultani", SCORES, 40)
    assert frames.tolist() == [SCORES[15]] * 16 + [SCORES[31]] * 24


def test_segments_of_equal_length_leave_a_rest() -> None:
    frames = expand_like("ekosman", SCORES, 347)
    assert np.array_equal(frames[:320], np.repeat(SCORES, 10))
    assert frames[320:].tolist() == [0] * 27
    assert expand_like("ekosman", SCORES, 31).tolist() == [0] * 31


def test_fractions_of_frames_are_rounded_up_from_a_half() -> None:
    assert expand_like("wsal", [1, 2], 5).tolist() == [1, 1, 1, 2, 2]
    assert expand_like("wsal", [1, 2, 3], 4).tolist() == [1, 2, 2, 3]
    assert np.array_equal(expand_like("wsal", SCORES, 64), np.repeat(SCORES, 2))


def test_edges_of_clips_are_rounded_to_even() -> None:
    assert np.array_equal(expand_like("seo", [1, 2], 16 * 5 + 3), [1] * 32 + [2] * 48 + [0] * 3)
    assert np.array_equal(expand_like("seo", [1, 2], 16 * 3), [1] * 32 + [2] * 16)


@pytest.mark.parametrize(
    "name", ["rtfm", "mgfn", "clip-tsa", "s3r", "xdviolence", "urdmu", "vadclip", "mist", "pel4vad"]
)
def test_scores_of_clips_are_repeated(name: str) -> None:
    assert np.array_equal(expand_like(name, SCORES, 500), np.repeat(SCORES, 16))


def test_smoothing_by_hand() -> None:
    ones = np.ones(4)
    assert expand_like("pel4vad-sht", ones, 64)[::16] == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert expand_like("pel4vad-ucf", ones, 64)[::16] == pytest.approx([4 / 7, 3 / 7, 2 / 7, 1 / 7])
    frames = expand_like("pel4vad-xd", np.arange(10.0), 160)
    assert frames.tolist() == [3.5] * 128 + [17 / 8] * 32


def test_the_spline_is_that_of_scipy() -> None:
    # scipy.ndimage.zoom(values, factor, order=3) of SciPy 1.17.1, which prints so many digits.
    assert spline_places(np.array([0.2, 0.9, 0.1, 0.6]), 16) == pytest.approx(
        [0.2, 0.27344, 0.44832, 0.65648, 0.82976, 0.9, 0.82128, 0.63664, 0.41136, 0.21072, 0.1, 0.12384, 0.24432,
         0.40288, 0.54096, 0.6], abs=1e-12,
    )  # fmt: skip
    two = spline_places(np.array([0.25, 0.75]), 6)
    assert two == pytest.approx([0.25, 0.302, 0.426, 0.574, 0.698, 0.75], abs=1e-12)
    assert spline_places(np.array([0.25]), 3).tolist() == [0.25] * 3


def test_splines_are_cut_off() -> None:
    frames = expand_like("csltal", [0.04, 1.0, 1.0, 0.06, 0.04], 80)
    assert len(frames) == 80
    assert (frames[0], frames[-1], frames.max()) == (0, 0, 1)
    assert ((frames == 0) | (frames >= 0.05)).all()


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(EXPANSIONS)), num_frames=st.integers(16, 2000), num_scores=st.integers(1, 40))
def test_a_repositorys_frames_are_as_many_as_its_own(name: str, num_frames: int, num_scores: int) -> None:
    frames = expand_like(name, np.linspace(0, 1, num_scores), num_frames)
    assert frames.shape == (num_frames if EXPANSIONS[name].takes == "segments" else 16 * num_scores,)
    assert np.isfinite(frames).all()


def test_unknown_names_and_too_short_videos_are_refused() -> None:
    with pytest.raises(UsageError, match="no repository's expansion is named 'x': give one of sultani, ekosman"):
        expand_like("x", SCORES, 500)
    with pytest.raises(UsageError, match="the video has 15 frames: use expand_scores"):
        expand_like("sultani", SCORES, 15)
    with pytest.raises(UsageError, match="score 0 of 1 is nan"):
        expand_like("rtfm", [np.nan], 16)
