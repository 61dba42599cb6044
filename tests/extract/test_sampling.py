from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vadx.extract.sampling import TAIL_POLICIES, ClipSampler, Window, num_frames_past
from vadx.features.recipe import Sampling, Tail
from vadx.features.timeline import Clip

BLACK = None
TAILS: tuple[Tail, ...] = get_args(Tail)
LENGTHS = (0, 1, 8, 15, 16, 17, 31, 32, 33, 48, 355, 1056)
SHAPES = ((16, 16), (16, 8), (16, 32))


def sample(sampling: Sampling, frames: Sequence[int]) -> list[Window[int]]:
    sampler: ClipSampler[int] = ClipSampler(sampling)
    windows = [window for frame in frames for window in sampler.push(frame)]
    return windows + sampler.flush()


def starts_of_whole_clips(num_frames: int, span: int, stride: int) -> list[int]:
    return [start for start in range(0, num_frames, stride) if start + span <= num_frames]


def starts_until_the_last_frame(num_frames: int, span: int, stride: int) -> list[int]:
    starts = []
    for start in range(0, num_frames, stride):
        starts.append(start)
        if start + span >= num_frames:
            break
    return starts


def expected_starts(tail: str, num_frames: int, span: int, stride: int) -> list[int]:
    whole = starts_of_whole_clips(num_frames, span, stride)
    if tail == "drop":
        return whole
    if tail == "minus_one":
        return starts_of_whole_clips(num_frames - 1, span, stride)
    if tail == "plus_one":
        return [*whole, len(whole) * stride] if num_frames else []
    return starts_until_the_last_frame(num_frames, span, stride)


def expected_window(sampling: Sampling, frames: Sequence[int], start: int) -> Window[int]:
    """Index a list that holds the whole video."""
    num_frames = len(frames)
    wanted = [start + position * sampling.frame_step for position in range(sampling.clip_length)]
    own = [frames[index] for index in wanted if index < num_frames]
    missing = wanted[len(own) :]
    stop = min(start + sampling.clip_span, num_frames)
    if sampling.tail == "partial_mean":
        return Window(Clip(start, stop), [*own])
    if sampling.tail == "zero":
        fill: list[int | None] = [BLACK] * len(missing)
    elif sampling.tail == "wrap":
        fill = [frames[index % num_frames] for index in missing]
    elif sampling.tail == "loop":
        fill = [own[position % len(own)] for position in range(len(own), sampling.clip_length)]
    else:
        fill = [frames[-1]] * len(missing)
    return Window(Clip(min(start, num_frames - 1), stop, len(missing)), [*own, *fill])


def test_every_tail_rule_is_in_the_table() -> None:
    assert set(TAIL_POLICIES) == set(TAILS)
    assert all(policy.meaning for policy in TAIL_POLICIES.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("num_frames", LENGTHS)
def test_counts_spans_and_frames(num_frames: int, tail: Tail, shape: tuple[int, int]) -> None:
    length, stride = shape
    sampling = Sampling(clip_length=length, clip_stride=stride, tail=tail)
    frames = range(1000, 1000 + num_frames)
    windows = sample(sampling, frames)
    starts = expected_starts(tail, num_frames, length, stride)
    assert [w.clip.start for w in windows] == [min(start, num_frames - 1) for start in starts]
    assert windows == [expected_window(sampling, frames, start) for start in starts]
    assert TAIL_POLICIES[tail].count(num_frames, length, stride) == len(windows)


# By hand, for clips of 16 frames. A row: number of frames; clips that are whole; the clip after them, as (start, stop,
# padded frames), under the rules that reach every frame, and under plus_one; number of whole clips under minus_one.
Tailed = tuple[int, int, int]
Row = tuple[int, int, Tailed | None, Tailed, int]
STRIDE_16: tuple[Row, ...] = (
    (1, 0, (0, 1, 15), (0, 1, 15), 0),
    (8, 0, (0, 8, 8), (0, 8, 8), 0),
    (15, 0, (0, 15, 1), (0, 15, 1), 0),
    (16, 1, None, (15, 16, 16), 0),
    (17, 1, (16, 17, 15), (16, 17, 15), 1),
    (31, 1, (16, 31, 1), (16, 31, 1), 1),
    (32, 2, None, (31, 32, 16), 1),
    (33, 2, (32, 33, 15), (32, 33, 15), 2),
    (48, 3, None, (47, 48, 16), 2),
    (355, 22, (352, 355, 13), (352, 355, 13), 22),
    (1056, 66, None, (1055, 1056, 16), 65),
)
STRIDE_8: tuple[Row, ...] = (
    (1, 0, (0, 1, 15), (0, 1, 15), 0),
    (8, 0, (0, 8, 8), (0, 8, 8), 0),
    (15, 0, (0, 15, 1), (0, 15, 1), 0),
    (16, 1, None, (8, 16, 8), 0),
    (17, 1, (8, 17, 7), (8, 17, 7), 1),
    (31, 2, (16, 31, 1), (16, 31, 1), 2),
    (32, 3, None, (24, 32, 8), 2),
    (33, 3, (24, 33, 7), (24, 33, 7), 3),
    (48, 5, None, (40, 48, 8), 4),
    (355, 43, (344, 355, 5), (344, 355, 5), 43),
    (1056, 131, None, (1048, 1056, 8), 130),
)
EVERY_SECOND: tuple[Row, ...] = (
    (1, 0, (0, 1, 15), (0, 1, 15), 0),
    (8, 0, (0, 8, 12), (0, 8, 12), 0),
    (15, 0, (0, 15, 8), (0, 15, 8), 0),
    (16, 0, (0, 16, 8), (0, 16, 8), 0),
    (17, 0, (0, 17, 7), (0, 17, 7), 0),
    (31, 1, None, (16, 31, 8), 0),
    (32, 1, (16, 32, 8), (16, 32, 8), 1),
    (33, 1, (16, 33, 7), (16, 33, 7), 1),
    (48, 2, (32, 48, 8), (32, 48, 8), 2),
    (355, 21, (336, 355, 6), (336, 355, 6), 21),
    (1056, 65, (1040, 1056, 8), (1040, 1056, 8), 65),
)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(
    ("stride", "step", "row"),
    [
        *((16, 1, row) for row in STRIDE_16),
        *((8, 1, row) for row in STRIDE_8),
        *((16, 2, row) for row in EVERY_SECOND),
    ],
)
def test_clips_by_hand(tail: Tail, stride: int, step: int, row: Row) -> None:
    num_frames, num_whole, after, after_plus_one, num_minus_one = row
    span = 31 if step == 2 else 16
    if tail == "minus_one":
        num_whole = num_minus_one
    expected = [(stride * index, stride * index + span, 0) for index in range(num_whole)]
    last = {"drop": None, "minus_one": None, "plus_one": after_plus_one}.get(tail, after)
    if last is not None:
        expected.append((*last[:2], 0) if tail == "partial_mean" else last)
    windows = sample(Sampling(clip_length=16, clip_stride=stride, tail=tail, frame_step=step), range(num_frames))
    assert [(w.clip.start, w.clip.stop, w.clip.num_padded) for w in windows] == expected
    if tail == "partial_mean":
        assert [w.frames for w in windows] == [list(range(start, stop, step)) for start, stop, _ in expected]
    else:
        assert all(len(w.frames) == 16 for w in windows)


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_sixteen_by_sixteen_counts_as_the_releases_do(num_frames: int) -> None:
    counts = {
        tail: len(sample(Sampling(clip_length=16, clip_stride=16, tail=tail), range(num_frames))) for tail in TAILS
    }
    ceil = (num_frames + 15) // 16
    assert counts == {
        "drop": num_frames // 16,
        "minus_one": max(0, (num_frames - 1) // 16),
        "plus_one": num_frames // 16 + 1 if num_frames else 0,
        **dict.fromkeys(("repeat_last", "clamp", "zero", "loop", "wrap", "partial_mean"), ceil),
    }


@pytest.mark.parametrize(
    ("tail", "second"),
    [
        ("drop", None),
        ("minus_one", None),
        ("repeat_last", [5, 6, 6, 6, 6]),
        ("clamp", [5, 6, 6, 6, 6]),
        ("plus_one", [5, 6, 6, 6, 6]),
        ("zero", [5, 6, BLACK, BLACK, BLACK]),
        ("loop", [5, 6, 5, 6, 5]),
        ("wrap", [5, 6, 0, 1, 2]),
        ("partial_mean", [5, 6]),
    ],
)
def test_what_fills_the_last_clip(tail: Tail, second: list[int | None] | None) -> None:
    windows = sample(Sampling(clip_length=5, clip_stride=5, tail=tail), range(7))
    assert [w.frames for w in windows] == [[0, 1, 2, 3, 4], *([second] if second else [])]


@pytest.mark.parametrize(
    ("tail", "num_padded", "last"),
    [
        ("repeat_last", 1, [4, 6, 8, 9]),
        ("zero", 1, [4, 6, 8, BLACK]),
        ("loop", 1, [4, 6, 8, 4]),
        ("wrap", 1, [4, 6, 8, 0]),
        ("partial_mean", 0, [4, 6, 8]),
    ],
)
def test_every_second_frame(tail: Tail, num_padded: int, last: list[int | None]) -> None:
    sampling = Sampling(clip_length=4, clip_stride=4, tail=tail, frame_step=2)
    assert sampling.clip_span == 7
    windows = sample(sampling, range(10))
    assert windows == [Window(Clip(0, 7), [0, 2, 4, 6]), Window(Clip(4, 10, num_padded), last)]


@pytest.mark.parametrize(("tail", "late"), [("drop", 0), ("repeat_last", 0), ("wrap", 0), ("minus_one", 1)])
def test_a_clip_comes_out_as_soon_as_it_is_certain(tail: Tail, late: int) -> None:
    sampler: ClipSampler[int] = ClipSampler(Sampling(clip_length=16, clip_stride=8, tail=tail))
    came = [index for index in range(64) for _ in sampler.push(index)]
    assert came == [start + 15 + late for start in range(0, 49 - late, 8)]


class Frame:
    """Something whose life can be watched."""


@pytest.mark.parametrize("shape", [*SHAPES, (64, 16), (1, 1), (1, 50)])
@pytest.mark.parametrize("tail", TAILS)
def test_few_frames_are_held_however_long_the_video_is(tail: Tail, shape: tuple[int, int]) -> None:
    sampling = Sampling(clip_length=shape[0], clip_stride=shape[1], tail=tail, frame_step=2)
    sampler: ClipSampler[Frame] = ClipSampler(sampling)
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0
    for _ in range(1500):
        frame = Frame()
        alive.add(frame)
        sampler.push(frame)
        most = max(most, len(alive))
    held_from_the_start = sampling.clip_span if tail == "wrap" else 0
    assert most <= sampling.clip_span + sampling.clip_stride + held_from_the_start


@given(
    num_frames=st.integers(0, 150),
    length=st.integers(1, 20),
    stride=st.integers(1, 40),
    step=st.integers(1, 4),
    tail=st.sampled_from(TAILS),
)
def test_streaming_equals_indexing_a_list(num_frames: int, length: int, stride: int, step: int, tail: Tail) -> None:
    sampling = Sampling(clip_length=length, clip_stride=stride, tail=tail, frame_step=step)
    frames = range(1000, 1000 + num_frames)
    starts = expected_starts(tail, num_frames, sampling.clip_span, stride)
    assert sample(sampling, frames) == [expected_window(sampling, frames, start) for start in starts]


@pytest.mark.parametrize("tail", TAILS)
def test_later_clips_look_at_none_of_the_frames_that_are_past(tail: Tail) -> None:
    for num_frames, length, stride, step in product(range(20), (1, 3, 4), (1, 3, 5, 7), (1, 2)):
        sampling = Sampling(clip_length=length, clip_stride=stride, tail=tail, frame_step=step)
        windows = sample(sampling, range(num_frames))
        for num_clips in range(len(windows)):
            later = [frame for window in windows[num_clips:] for frame in window.frames if frame is not BLACK]
            assert num_frames_past(num_clips, sampling) <= min(later), (sampling, num_frames, num_clips)


def test_nearly_all_frames_before_a_clip_are_past() -> None:
    assert [num_frames_past(n, Sampling(clip_length=16, clip_stride=16, tail="drop")) for n in (0, 1, 1000)] == [
        0,
        15,
        15_999,
    ]
