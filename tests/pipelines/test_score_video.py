"""What is told of a scored video: intervals, times, and every frame's score as a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vadx.errors import UsageError
from vadx.pipelines.score_video import (
    Interval,
    end_seconds,
    find_intervals,
    video_lines,
    video_mapping,
    write_csv,
)
from vadx.pipelines.scoring import ScoredVideo, from_mapping


def scored(*values: float, fps: float = 2.0, identifier: str = "a/b", **more: Any) -> ScoredVideo:
    """Make a video with these scores of frames, a segment a frame, whose first frame is at 10 seconds."""
    number = len(values)
    frames = np.stack([np.arange(number), np.arange(1, number + 1)], axis=1)
    scores = np.array(values, np.float32)
    return ScoredVideo(identifier, frames, scores, scores, 10 + frames / fps, **more)


def test_intervals_are_runs_of_frames_that_reach_the_threshold() -> None:
    video = scored(0.4, 0.5, 0.7, 0.2, 0.9, 0.9, 0.1, 0.6)
    found = find_intervals(video, 0.5)
    peaks = [float(np.float32(peak)) for peak in (0.9, 0.7, 0.6)]
    assert found == (
        Interval(4, 6, 4, peaks[0], 12.0, 13.0, 12.0),
        Interval(1, 3, 2, peaks[1], 10.5, 11.5, 11.0),
        # It ends with the video, not at its last frame's time.
        Interval(7, 8, 7, peaks[2], 13.5, 14.0, 13.5),
    )
    assert find_intervals(video, 0.91) == ()
    assert [(one.start, one.stop) for one in find_intervals(video, 0)] == [(0, 8)]
    # 0.7 as a score is a float32, a little below the number that a person types.
    for threshold in (0.7, np.float64(0.7)):
        assert [(one.start, one.stop) for one in find_intervals(video, threshold)] == [(4, 6), (2, 3)]
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"give --threshold 0\.5"):
            find_intervals(video, bad)


def test_a_video_ends_with_its_last_segment_or_a_frame_after_its_last() -> None:
    assert end_seconds(scored(0, 0, 0)) == 11.5
    frames, seconds = np.array([[0, 2]]), np.array([[0.0, 1.0]])
    rest = ScoredVideo("v", frames, np.zeros(1, np.float32), np.zeros(4, np.float32), seconds)
    assert end_seconds(rest) == pytest.approx(2.0)


def test_a_person_reads_when_something_is() -> None:
    video = scored(0.4, 0.5, 0.7, 0.2, 0.9, 0.9, 0.1, 0.6)
    intervals = find_intervals(video, 0.5)
    assert video_lines(video, intervals, 0.5, 2) == [
        "a/b: 0:04.0 long, highest 0.900 at 0:12.0",
        "  0:10.5 to 0:11.5  peak 0.700 at 0:11.0",
        "  0:12.0 to 0:13.0  peak 0.900 at 0:12.0",
        "  and 1 more with lower peaks: --top 3",
    ]
    named = scored(0.25, video=0.125, classes={"Fire": 0.2, "Crash": 0.5, "Panic": 0.3, "Hurt": 0.0})
    assert video_lines(named, (), 0.5, 5) == [
        "a/b: 0:00.5 long, highest 0.250 at 0:10.0, video 0.125, Crash 0.500, Panic 0.300, Fire 0.200",
        "  nothing reaches 0.5",
    ]


def test_a_table_has_a_row_a_frame(tmp_path: Path) -> None:
    video = scored(0.1, 1, 0)
    write_csv(tmp_path / "a.csv", video)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["frame", "pts_seconds", "score"],
        ["0", "10.000000", "0.1"],
        ["1", "10.500000", "1.0"],
        ["2", "11.000000", "0.0"],
    ]
    with pytest.raises(UsageError, match=r"there is no folder"):
        write_csv(tmp_path / "none" / "a.csv", video)


def test_a_video_whose_times_nobody_knows_is_told_in_frames(tmp_path: Path) -> None:
    video = scored(0.25, 0.5, 1, fps=float("nan"))
    intervals = find_intervals(video, 0.5)
    assert intervals == (Interval(1, 3, 2, 1.0),)
    assert video_lines(video, intervals, 0.5, 5) == [
        "a/b: 3 frames long, highest 1.000 at frame 2",
        "  frame 1 to frame 3  peak 1.000 at frame 2",
    ]
    write_csv(tmp_path / "a.csv", video)
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "0,,0.25"
    told = json.dumps(video_mapping(video, intervals), allow_nan=False)
    again = from_mapping(json.loads(told))
    assert not again.is_timed
    np.testing.assert_array_equal(again.seconds, video.seconds)
