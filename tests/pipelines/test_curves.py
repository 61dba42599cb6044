"""Times and lines of every picture: a clock's text, round times for an axis, and points that keep every peak."""

from __future__ import annotations

import numpy as np
import pytest

from vadx.pipelines.curves import clock_text, downsample, step_curve, time_ticks


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00.0"),
        (7.04, "0:07.0"),
        (59.94, "0:59.9"),
        (59.96, "1:00.0"),
        (3599.96, "1:00:00.0"),
        (36000.25, "10:00:00.2"),
        (-1.5, "-0:01.5"),
        (-0.42, "-0:00.4"),
        (-0.01, "0:00.0"),
    ],
)
def test_times_are_minutes_and_tenths_and_hours_if_there_are_any(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize("seconds", [0.3, 1, 8, 59, 61, 3599, 3601, 90_000, 3e6])
@pytest.mark.parametrize("begin", [0.0, 7.3])
def test_an_axis_has_a_few_round_times(seconds: float, begin: float) -> None:
    ticks = time_ticks(begin, begin + seconds, 9)
    assert 2 <= len(ticks) <= 9
    assert begin - 1e-6 <= ticks[0][0] <= ticks[-1][0] <= begin + seconds + 1e-6
    assert len({label for _, label in ticks}) == len(ticks)


def test_an_axis_says_tenths_only_where_it_needs_them() -> None:
    assert time_ticks(0.0, 0.4, 3) == [(0.0, "0:00.0"), (0.2, "0:00.2"), (0.4, "0:00.4")]
    assert time_ticks(1700.0, 4000.0, 4) == [(1800.0, "30:00"), (2700.0, "45:00"), (3600.0, "1:00:00")]


def test_a_step_curve_stays_until_the_next_frame() -> None:
    times, values = step_curve(np.array([0.0, 0.0, 1.0], np.float32), np.array([0.0, 1.0, 2.0, 3.0]))
    assert times.tolist() == [0, 2, 2, 3]
    assert values.tolist() == [0, 0, 1, 1]


def test_downsampling_keeps_every_peak_and_both_ends() -> None:
    values = np.random.default_rng(0).random(54_321)
    values[[7, 30_000]] = 2.0, -1.0
    times = np.arange(54_321) / 25
    kept_times, kept = downsample(times, values, 1000)
    assert len(kept) <= 1000
    assert (kept.max(), kept.min()) == (2.0, -1.0)
    assert (kept_times[0], kept_times[-1]) == (times[0], times[-1])
    assert (np.diff(kept_times) > 0).all()
    assert set(kept) <= set(values)
    # Each of the parts keeps its own highest, so that a line is nowhere lower than the curve within a part.
    for part in np.array_split(np.arange(54_321), 100):
        inside = (kept_times >= times[part[0]]) & (kept_times <= times[part[-1]])
        assert kept[inside].max() >= np.sort(values[part])[-10]
