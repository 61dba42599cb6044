"""Scores as pictures: a curve over time, and a video with the curve in its frames."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support import make_video
from vadx.errors import UsageError
from vadx.extract.video import VideoReader
from vadx.pipelines.drawing import PALETTE
from vadx.pipelines.localisation import PredictedTrack
from vadx.pipelines.methods.mgpr import ScoredTubes, TubeParts
from vadx.pipelines.score_overlay import ScoreStrip, score_boxes, write_score_overlay
from vadx.pipelines.score_plot import HEIGHT, WIDTH, curve_points, frame_ticks, write_plot
from vadx.pipelines.score_video import find_intervals

from .test_score_video import scored

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_has_a_step_where_scores_change() -> None:
    points = curve_points(np.array([0.25, 0.25, 1, 0]), np.array([2.0, 3, 4, 5, 6]), 100)
    assert points.tolist() == [[0, 0.25], [0.5, 0.25], [0.5, 1], [0.75, 1], [0.75, 0], [1, 0]]
    assert curve_points(np.array([0.5]), np.array([3.0, 3]), 100)[:, 1].tolist() == [0.5, 0.5]


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 3000), columns=st.integers(1, 50), at=st.integers(0, 2999))
def test_no_peak_is_lost_however_long_the_video(num: int, columns: int, at: int) -> None:
    scores = np.random.default_rng(num).uniform(0.2, 0.6, num)
    scores[at % num] = 1
    points = curve_points(scores, np.arange(num + 1) / 25, columns)
    assert len(points) <= 4 * columns + 4
    assert points[:, 1].max() == 1
    assert points[:, 1].min() == scores.min()
    assert (np.diff(points[:, 0]) >= 0).all()
    assert points[:, 0].min() >= 0
    assert points[:, 0].max() <= 1


def near(pixel: tuple[int, ...], colour: tuple[int, int, int]) -> bool:
    return max(abs(int(a) - b) for a, b in zip(pixel, colour, strict=True)) < 40


def test_a_plot_shows_the_curve_the_threshold_and_what_was_found(tmp_path: Path) -> None:
    video = scored(*[0.0] * 10, *[1.0] * 10, *[0.25] * 20)
    write_plot(tmp_path / "a.png", video, find_intervals(video, 0.6), 0.6, caption="model")
    image = np.asarray(Image.open(tmp_path / "a.png"))
    assert image.shape == (HEIGHT, WIDTH, 3)
    left, right, top, bottom = 44, 972, 44, 262

    def pixel(share: float, score: float) -> tuple[int, ...]:
        return tuple(image[round(bottom - score * (bottom - top)), round(left + share * (right - left))].tolist())

    for share, score in ((0.1, 0.0), (0.375, 1.0), (0.75, 0.25), (0.25, 0.4)):
        assert near(pixel(share, score), PALETTE["blue"]), (share, score, pixel(share, score))
    assert pixel(0.375, 0.85) == (252, 226, 210)
    assert pixel(0.75, 0.85) == (255, 255, 255)
    row = image[round(bottom - 0.6 * (bottom - top)), left:right].tolist()
    assert sum(near(tuple(one), PALETTE["vermilion"]) for one in row) > 100


def test_a_plot_as_svg_says_the_same_as_text(tmp_path: Path) -> None:
    video = scored(*[0.0] * 10, *[1.0] * 10, *[0.25] * 20, identifier="<a & b>")
    more = {"frame_activation": np.linspace(0, 1, 40, dtype=np.float32)}
    with_curve = scored(*video.frame_scores.tolist(), identifier="<a & b>", more=more)
    write_plot(tmp_path / "a.svg", video, find_intervals(video, 0.6), 0.6)
    write_plot(tmp_path / "b.svg", with_curve, find_intervals(video, 0.6), 0.6)
    root, other = (ET.parse(tmp_path / name).getroot() for name in ("a.svg", "b.svg"))
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"<a & b>", "score", "threshold 0.6", "highest 1.000 at 0:15.0"} <= set(texts)
    curve = next(one for one in root.iter(f"{SVG}polyline") if one.get("stroke-width") == "2")
    assert curve.get("points") == "44.00,262.00 276.00,262.00 276.00,44.00 508.00,44.00 508.00,207.50 972.00,207.50"
    assert "T-CAM" in [one.text for one in other.iter(f"{SVG}text")]
    assert "T-CAM" not in texts


@pytest.mark.parametrize(("num_frames", "last"), [(1, "1"), (8, "8"), (9, "8"), (795, "700"), (100_000, "100000")])
def test_where_times_are_unknown_the_axis_counts_frames(tmp_path: Path, num_frames: int, last: str) -> None:
    ticks = frame_ticks(num_frames)
    assert ticks[0] == (0, "0")
    assert ticks[-1][1] == last
    assert 2 <= len(ticks) <= 9
    video = scored(*[0.0] * 5, *[1.0] * 5, fps=float("nan"))
    write_plot(tmp_path / "a.svg", video, find_intervals(video, 0.6), 0.6)
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert {"highest 1.000 at frame 5", "10"} <= {one.text for one in root.iter(f"{SVG}text")}
    assert "nan" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png or \.svg"):
        write_plot(tmp_path / name, scored(0.5), (), 0.5)


# ---- in the video ----


def frames_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with VideoReader(path) as reader:
        return np.concatenate([block.frames.copy() for block in reader])


@pytest.mark.parametrize(("width", "height"), [(160, 120), (120, 200)])
def test_a_drawn_video_has_as_many_frames_and_shows_the_curve(tmp_path: Path, width: int, height: int) -> None:
    source = make_video(tmp_path / "a.mp4", num_frames=40, width=width, height=height)
    video = scored(*[0.0] * 20, *[1.0] * 20, fps=25)
    with VideoReader(source) as blocks:
        write_score_overlay(tmp_path / "b.mp4", blocks, video, fps=25, threshold=0.5)
    before, after = frames_of(source).astype(int), frames_of(tmp_path / "b.mp4").astype(int)
    assert before.shape == after.shape
    strip = ScoreStrip(video, before.shape[1], before.shape[2], 0.5).height
    changed = np.abs(after - before).mean(axis=(2, 3))
    assert changed[:, -strip:].mean() > 20
    middle = slice(before.shape[1] // 3, -strip - 2)
    assert changed[:, middle].mean() < 6
    # What reaches the threshold has an edge.
    edge = np.abs(after - before)[:, before.shape[1] // 2, 0].mean(axis=1)
    assert edge[30] > edge[10] + 20


def test_the_strip_is_bright_up_to_the_frame_and_marks_it() -> None:
    # The first half is 0 and the second 1, of 40 frames at 25 a second from 10 s on.
    video = scored(*[0.0] * 20, *[1.0] * 20, fps=25)
    strip = ScoreStrip(video, 240, 320, 0.5)
    early, late = (np.full((240, 320, 3), 100, np.uint8) for _ in range(2))
    strip.draw(early, 10.0)
    strip.draw(late, 10 + 39 / 25)
    assert strip.height == 48
    assert (early[:191] == 100).all()
    row = 240 - 40
    assert (early[row, 80] < 100).all()
    assert (late[row, 80] < early[row, 80]).all()
    orange = np.array(PALETTE["vermilion"])
    assert np.abs(late[row, 240].astype(int) - 0.65 * orange - 35).max() <= 3
    assert late[row, 240, 0] > early[row, 240, 0]
    heads = [int(np.flatnonzero((picture[row] == 255).all(axis=1))[-1]) for picture in (early[:, :100], late[:, 250:])]
    assert heads[0] <= 1
    assert heads[1] == round(39 / 40 * 319) - 250


def test_boxes_of_tubes_are_those_that_reach_the_threshold_and_the_best() -> None:
    parts = TubeParts(
        np.zeros((3, 2), np.float32),
        np.zeros((3, 2), np.float32),
        np.array([0, 0, 1]),
        np.array([[0, 4], [4, 8], [2, 6]]),
    )
    tracks = tuple(
        PredictedTrack(np.arange(a, b), np.full((b - a, 4), 10.0 * n + 1), np.arange(b - a) == 1)
        for n, (a, b) in enumerate(parts.frames.tolist())
    )
    found = ScoredTubes(parts, tracks, np.array([0.9, 0.2, 0.6]))
    assert [(one.tag, one.box[0], one.dashed) for one in score_boxes(found, 3, 0.5)] == [
        ("1: 0.90", 1.0, False),
        ("2: 0.60", 21.0, True),
    ]
    assert [one.tag for one in score_boxes(found, 3, 0.95)] == ["1: 0.90"]
    assert [one.tag for one in score_boxes(found, 5, 0.5)] == ["2: 0.60"]
    assert score_boxes(found, 8, 0.1) == []
