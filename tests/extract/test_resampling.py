from __future__ import annotations

import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import make_video, picture
from vadx.errors import VideoError
from vadx.extract.sampling import MAX_GAP_SECONDS, ClipSampler, Resampler, source_clip
from vadx.features.recipe import Sampling
from vadx.features.timeline import Clip, end_after_last

from .clips import read


def end_of(pts: Sequence[float]) -> float:
    """Give the end as extraction does; a frame alone lasts as long as 25 of them a second do."""
    return end_after_last(pts[-1], pts[-1] - pts[-2] if len(pts) > 1 else None, 25.0)


def resample(pts: Sequence[float], fps: float, end: float | None = None) -> list[int]:
    """Give the source indices; the frames are strings that name them."""
    resampler: Resampler[str] = Resampler(fps)
    chosen = [pair for index, seconds in enumerate(pts) for pair in resampler.push(f"frame {index}", seconds)]
    if pts:
        chosen += resampler.flush(end_of(pts) if end is None else end)
    assert all(frame == f"frame {index}" for index, frame in chosen)
    return [index for index, _ in chosen]


# Recorded at about 30 frames/s, in milliseconds: frames 4, 5 and 11 jitter, two are lost after 5 and six after 12.
PTS_MS = (0, 33, 67, 100, 140, 160, 267, 300, 333, 367, 400, 410, 467, 700, 733)
# At 25 frames/s there is a tick every 40 ms; the video ends at 733 + 33 = 766 ms. By hand, tick -> distances:
AT_25 = (
    0,  # 0
    1,  # 40: 7 from 33, 27 from 67
    2,  # 80: 13 from 67, 20 from 100
    3,  # 120: 20 from 100, 20 from 140: the earlier
    5,  # 160
    5,  # 200: 40 from 160, 67 from 267
    6,  # 240: 80 from 160, 27 from 267
    6,  # 280: 13 from 267, 20 from 300
    8,  # 320: 20 from 300, 13 from 333
    9,  # 360
    10,  # 400
    12,  # 440: 30 from 410, 27 from 467
    12,  # 480
    12,  # 520: 53 from 467, 180 from 700
    12,  # 560: 93 from 467, 140 from 700
    13,  # 600: 133 from 467, 100 from 700
    13,  # 640
    13,  # 680
    14,  # 720: 20 from 700, 13 from 733
    14,  # 760
)


def test_a_variable_rate_by_hand() -> None:
    assert resample([ms / 1000 for ms in PTS_MS], 25) == list(AT_25)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_of_variable_rate(suffix: str, tmp_path: Path) -> None:
    path = make_video(
        tmp_path / f"vfr.{suffix}",
        num_frames=len(PTS_MS),
        pts=PTS_MS,
        time_base=Fraction(1, 1000),
        codec_options={"crf": "10"},
    )
    got = read(path)
    assert got.code is None
    assert got.pts == pytest.approx([ms / 1000 for ms in PTS_MS], abs=1e-9)
    resampler: Resampler[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = Resampler(25)
    chosen = [pair for frame, pts in zip(got.frames, got.pts, strict=True) for pair in resampler.push(frame, pts)]
    chosen += resampler.flush(end_of(got.pts))
    assert [index for index, _ in chosen] == list(AT_25)
    drawn = [picture(index, 64, 48).astype(float) for index in range(len(PTS_MS))]
    shown = [int(np.argmin([np.abs(frame - image).mean() for image in drawn])) for _, frame in chosen]
    assert shown == list(AT_25)


@pytest.mark.parametrize("offset", [0.0, 1.4, 95443.7])
def test_thirty_to_twentyfive(offset: float) -> None:
    """Tick k is at frame 1.2 k: 0, 1.2, 2.4, 3.6, 4.8, and 6 more after every five."""
    got = resample([offset + index / 30 for index in range(300)], 25)
    assert got == [6 * cycle + index for cycle in range(50) for index in (0, 1, 2, 4, 5)]


@pytest.mark.parametrize("offset", [0.0, 1.4, 95443.7])
def test_twentyfive_to_thirty(offset: float) -> None:
    """Tick k is at frame 5 / 6 k: 0, 0.83, 1.67, 2.5 (the earlier), 3.33, 4.17, and 5 more after every six."""
    got = resample([offset + index / 25 for index in range(250)], 30)
    assert got == [5 * cycle + index for cycle in range(50) for index in (0, 1, 2, 2, 3, 4)]


@pytest.mark.parametrize(
    ("source", "target", "num_frames", "num_ticks"),
    [
        (30, 25, 300, 250),
        (25, 30, 250, 300),
        (25, 25, 1000, 1000),
        (30000 / 1001, 30000 / 1001, 1000, 1000),
        (50, 25, 999, 500),
        (7, 25, 70, 250),
        (60, 1, 600, 10),
        (60, 0.5, 601, 6),
        (12.5, 100, 5, 40),
        # 10.01 s
        (30000 / 1001, 25, 300, 251),
        (30000 / 1001, 30, 300, 301),
    ],
)
def test_the_result_is_as_long_as_the_video(source: float, target: float, num_frames: int, num_ticks: int) -> None:
    got = resample([index / source for index in range(num_frames)], target)
    assert len(got) == num_ticks
    if source == target:
        assert got == list(range(num_frames))


@pytest.mark.parametrize(
    ("pts", "expected"),
    [
        ([], []),
        ([5.0], [0]),
        # 25 frames/s for one frame alone
        ([0.0, 0.04], [0, 1]),
        # Equal times: the first frame is the nearest, then the next later one.
        ([0.0, 0.0, 0.0, 0.04], [0, 3]),
        ([0.0, 0.04, 0.04, 0.04, 0.08], [0, 1, 4]),
        # No time passes at all.
        ([1.0, 1.0, 1.0], [0]),
        # Back and on: the times are 0, 40, 80, 80, 80, 120 ms.
        ([0.0, 0.04, 0.08, 0.0, 0.04, 0.12], [0, 1, 2, 5, 5]),
        # Back at the end: what was seen until 80 ms stays, and the end is there.
        ([0.0, 0.04, 0.08, 0.04], [0, 1]),
        ([0.04, 0.0], [0]),
    ],
)
def test_broken_clocks(pts: list[float], expected: list[int]) -> None:
    assert resample(pts, 25) == expected


def test_a_video_that_ends_where_it_begins_has_its_first_frame() -> None:
    assert resample([3.0], 25, end=3.0) == [0]
    assert resample([3.0], 25, end=1.0) == [0]


def test_an_hour_without_frames_is_bridged() -> None:
    got = resample([0.0, MAX_GAP_SECONDS, MAX_GAP_SECONDS + 0.04], 25)
    # Ticks until 1800 s, the middle, are nearer to the first.
    assert got == [0] * 45001 + [1] * 45000 + [2]


@pytest.mark.parametrize("jump", [3600.1, 86400.0, 95443.7, 1e12, float("inf")])
def test_more_than_an_hour_without_frames_is_damage(jump: float) -> None:
    resampler: Resampler[int] = Resampler(25)
    resampler.push(0, 10.0)
    resampler.push(1, 10.04)
    with pytest.raises(VideoError, match=r"jump by .* at frame 2; resampling to 25 frames/s") as caught:
        resampler.push(2, 10.04 + jump)
    assert caught.value.code == "VIDEO_BAD_CLOCK"


def test_a_frame_alone_that_lasts_for_hours_is_damage() -> None:
    resampler: Resampler[int] = Resampler(25)
    resampler.push(0, 0.0)
    with pytest.raises(VideoError, match="jump by 7200 s"):
        resampler.flush(7200.0)


@pytest.mark.parametrize(("fps", "hours"), [(10, 28), (60, 3)])
def test_ticks_do_not_drift(fps: int, hours: int) -> None:
    """A sum of a million steps of 0.1 is 1.3e-6 too large, and 1 / 60 has no end in decimals."""
    period = 1 / fps
    last = hours * 3600 - 100.0
    pts = [3600.0 * hour for hour in range(hours)] + [last - period / 2, last + period / 2]
    got = resample(pts, fps)
    # The tick at `last` is in the middle of the last two frames, and the next one is the last before the end.
    assert len(got) == fps * int(last) + 2
    assert got[-2:] == [hours, hours + 1]


def test_frames_come_out_as_soon_as_they_are_certain() -> None:
    resampler: Resampler[int] = Resampler(25)
    assert [len(resampler.push(index, index / 25)) for index in range(5)] == [0, 1, 1, 1, 1]
    assert resampler.flush(0.2) == [(4, 4)]


class Frame:
    """Something whose life can be watched."""


@pytest.mark.parametrize("fps", [10, 25, 60])
def test_two_frames_are_held_at_most(fps: float) -> None:
    resampler: Resampler[Frame] = Resampler(fps)
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0
    for index in range(300):
        frame = Frame()
        alive.add(frame)
        resampler.push(frame, index / 30)
        most = max(most, len(alive))
    assert most <= 2


def by_brute_force(pts_ms: list[int], fps: int) -> list[int]:
    """Apply the rule to fractions: every tick looks at every frame."""
    times = [Fraction(max(pts_ms[: index + 1]), 1000) for index in range(len(pts_ms))]
    gap = Fraction(pts_ms[-1] - pts_ms[-2], 1000) if len(pts_ms) > 1 else Fraction(1, 25)
    end = max(Fraction(pts_ms[-1], 1000) + gap, times[-1])
    chosen: list[int] = []
    while not chosen or times[0] + Fraction(len(chosen), fps) < end:
        tick = times[0] + Fraction(len(chosen), fps)
        chosen.append(min(range(len(times)), key=lambda index: (abs(times[index] - tick), index)))
    return chosen


@given(
    start=st.integers(-1000, 10**8),
    gaps=st.lists(st.integers(1, 300), max_size=40),
    fps=st.integers(1, 120),
)
def test_every_tick_takes_the_nearest_frame(start: int, gaps: list[int], fps: int) -> None:
    pts_ms = [start + sum(gaps[:count]) for count in range(len(gaps) + 1)]
    got = resample([ms / 1000 for ms in pts_ms], fps)
    assert got == by_brute_force(pts_ms, fps)
    assert got == sorted(got)


@given(pts_ms=st.lists(st.integers(0, 2000), min_size=1, max_size=30), fps=st.integers(1, 120))
def test_any_order_of_timestamps_gives_the_nearest_frame_of_running_time(pts_ms: list[int], fps: int) -> None:
    got = resample([ms / 1000 for ms in pts_ms], fps)
    assert got == by_brute_force(pts_ms, fps)
    assert got == sorted(got)


def test_a_clip_of_chosen_frames_covers_source_frames() -> None:
    sampler: ClipSampler[int] = ClipSampler(Sampling(clip_length=8, clip_stride=8, tail="repeat_last", fps=25))
    windows = [window for index in AT_25 for window in sampler.push(index)] + sampler.flush()
    assert [window.clip for window in windows] == [Clip(0, 8), Clip(8, 16), Clip(16, 20, 4)]
    assert [window.frames for window in windows] == [
        [0, 1, 2, 3, 5, 5, 6, 6],
        [8, 9, 10, 12, 12, 12, 12, 13],
        [13, 13, 14, 14, 14, 14, 14, 14],
    ]
    # Frame 7 is in no clip, frames 4 and 11 are covered, frame 13 is in two clips.
    assert [source_clip(window.clip, AT_25) for window in windows] == [Clip(0, 7), Clip(8, 14), Clip(13, 15, 4)]


def test_a_clip_of_one_repeated_frame_covers_that_frame() -> None:
    assert source_clip(Clip(2, 4, 1), [0, 1, 2, 2, 3, 4]) == Clip(2, 3, 1)


def test_without_resampling_a_clip_covers_itself() -> None:
    assert source_clip(Clip(16, 31, 1), range(31)) == Clip(16, 31, 1)
