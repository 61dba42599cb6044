"""Scores of a video: of the segments that a model was trained on, and of every decoded frame."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from vadx.errors import StoreError, UsageError
from vadx.features.bag_rules import SEGMENTATIONS
from vadx.pipelines.methods import METHODS
from vadx.pipelines.methods.align import Align, frame_activation
from vadx.pipelines.scoring import ScoredVideo, as_mapping, from_mapping, score_clips, spread_seconds

from .scoring_samples import FPS, first_number_model, make_clips, random_model


def clips_scored(*scores: float, num_frames: int | None = None) -> Any:
    """Make features whose first number is a clip's score."""
    values = np.zeros((len(scores), 1, 16), np.float32)
    values[:, 0, 0] = scores
    return make_clips(num_frames or 16 * len(scores), values)


def test_segments_and_frames_get_the_scores_that_a_person_computes() -> None:
    # Four segments of eight clips are means of two; the last clip has 8 of its 16 frames.
    clips = clips_scored(0, 0.5, 1, 1, 0.25, 0.75, 0.125, 0.375, num_frames=120)
    video = score_clips(first_number_model(clips), clips, "a/b")
    assert video.id == "a/b"
    assert video.scores.tolist() == [0.25, 1, 0.5, 0.25]
    assert video.frames.tolist() == [[0, 32], [32, 64], [64, 96], [96, 120]]
    assert video.frame_scores.tolist() == [0.25] * 32 + [1] * 32 + [0.5] * 32 + [0.25] * 24
    np.testing.assert_allclose(video.seconds, [[0, 1.28], [1.28, 2.56], [2.56, 3.84], [3.84, 4.8]])
    np.testing.assert_allclose(video.frame_seconds, np.arange(120) / FPS)
    assert (video.video, video.classes, video.more) == (None, {}, {})


def test_the_rule_the_crops_and_the_draw_are_those_of_the_training() -> None:
    values = np.zeros((40, 3, 16), np.float32)
    values[:, :, 0] = np.linspace(0, 1, 40)[:, None] * [0, 0.5, 1]
    clips = make_clips(640, values)
    pooled = score_clips(first_number_model(clips, crop_pool="mean"), clips, "v")
    last = score_clips(first_number_model(clips, crop_pool=2), clips, "v")
    np.testing.assert_allclose(last.scores, 2 * pooled.scores, rtol=1e-6)
    draws = [
        score_clips(first_number_model(clips, "csltal-pairs", 60, crop_pool="mean", bags_seed=seed), clips, "v")
        for seed in (0, 0, 1)
    ]
    assert_array_equal(draws[0].frames, draws[1].frames)
    assert (draws[0].frames != draws[2].frames).any()
    # As many as this video's clips give, not as the longest training video's.
    assert len(draws[0].scores) == 2 * (40 // 3)
    assert len(score_clips(first_number_model(clips, "clips", 30, crop_pool=0), clips, "v").scores) == 40


def test_padding_is_no_segment() -> None:
    clips = clips_scored(0.5, 1, 0.25)
    video = score_clips(first_number_model(clips, "xdviolence-200", 200), clips, "v")
    assert video.scores.tolist() == [0.5, 1, 0.25]
    assert video.frame_scores.tolist() == [0.5] * 16 + [1] * 16 + [0.25] * 16


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 700), rule=st.sampled_from(sorted(SEGMENTATIONS)), declared=st.integers(0, 900))
def test_there_is_a_score_for_each_decoded_frame(num_frames: int, rule: str, declared: int) -> None:
    known = SEGMENTATIONS[rule]
    clips = make_clips(max(num_frames, 16 * known.min_clips), num_frames_declared=declared)
    num_rows = 224 if rule == "mist" else known.num_segments or 40
    video = score_clips(first_number_model(clips, rule, num_rows), clips, "v")
    assert video.num_frames == clips.facts.num_frames_decoded
    assert len(video.scores) <= max(num_rows, 2 * len(clips))
    np.testing.assert_allclose(video.frame_seconds, np.arange(video.num_frames) / FPS, atol=1e-9)


@pytest.mark.parametrize("num_clips", [1, 3, 50])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_every_frame(name: str, num_clips: int) -> None:
    clips = make_clips(16 * num_clips - 5)
    video = score_clips(random_model(name, clips, "rtfm", 32), clips, "v")
    assert video.num_frames == 16 * num_clips - 5
    again = from_mapping(json.loads(json.dumps(as_mapping(video))))
    for one in ("frames", "scores", "frame_scores", "seconds", "frame_seconds"):
        assert_array_equal(getattr(again, one), getattr(video, one))
    assert (again.id, again.video, again.classes) == (video.id, video.video, video.classes)
    for key, values in video.more.items():
        assert_array_equal(again.more[key].astype(values.dtype), values)


def test_align_gives_its_t_cam_at_the_frame_level() -> None:
    clips = make_clips(16 * 20 + 3)
    model = random_model("align", clips, "xdviolence-200", 200)
    video = score_clips(model, clips, "v")
    assert isinstance(model.method, Align)
    expected = frame_activation(video.more["weighted"], video.num_frames, model.method.settings)
    np.testing.assert_allclose(video.more["frame_activation"], expected, atol=1e-7)
    assert_array_equal(video.scores, video.more["attention"])
    pairs = random_model("align", clips, "csltal-pairs", 40)
    both = score_clips(pairs, clips, "v")
    order = np.argsort(both.frames[:, 0], kind="stable")
    assert (np.diff(order) != 1).any()
    expected = frame_activation(both.more["weighted"][order], both.num_frames)
    np.testing.assert_allclose(both.more["frame_activation"], expected, atol=1e-7)


def test_lad_gives_every_frame_its_own_score_and_names_its_classes() -> None:
    clips = make_clips(16 * 7 - 4)
    model = random_model("lad", clips, "rtfm", 7)
    video = score_clips(model, clips, "v")
    raw = model.method.score(model.network, _tensor(clips.values)).more["frames"].detach().numpy()
    assert_array_equal(video.frame_scores, raw.ravel()[: 16 * 7 - 4])
    assert video.classes
    assert abs(sum(video.classes.values()) - 1) < 1e-5
    assert list(video.classes)[:2] == ["Crash", "Crowd"]
    renamed = dataclasses.replace(model, facts={**model.facts, "classes": [f"kind {n}" for n in range(14)]})
    assert list(score_clips(renamed, clips, "v").classes)[13] == "kind 13"
    with pytest.raises(StoreError, match=r"names 1 classes, and the network scores 14"):
        score_clips(dataclasses.replace(model, facts={**model.facts, "classes": ["one"]}), clips, "v")


def test_branches_of_mgpr_are_told_apart_from_tubes() -> None:
    clips = make_clips(16 * 40)
    video = score_clips(random_model("mgpr", clips, "rtfm", 32), clips, "v")
    assert set(video.more) == {"tube_branch", "temporal_branch"}
    np.testing.assert_allclose(video.scores, (video.more["tube_branch"] + video.more["temporal_branch"]) / 2, atol=1e-6)
    assert video.video == pytest.approx(float(video.scores.max()))


def _tensor(values: np.ndarray[Any, Any]) -> Any:
    import torch

    return torch.from_numpy(values)


def test_features_of_another_shape_are_refused() -> None:
    clips = make_clips(64)
    model = first_number_model(clips)
    with pytest.raises(UsageError, match=r"v: its features have 8 numbers, the model learned from 16"):
        score_clips(model, make_clips(64, np.zeros((4, 1, 8))), "v")
    with pytest.raises(UsageError, match=r"v: its features have 10 crops, the model learned from 1"):
        score_clips(model, make_clips(64, np.zeros((4, 10, 16))), "v")


@pytest.mark.parametrize("bad", [1.5, -0.01, float("nan")])
def test_a_score_that_is_none_is_refused(bad: float) -> None:
    good = ScoredVideo(
        "v", np.array([[0, 2]]), np.array([0.5], np.float32), np.array([0.5, 0.5], np.float32), np.zeros((1, 2))
    )
    with pytest.raises(UsageError, match=r"v: scores lie between"):
        dataclasses.replace(good, scores=np.array([bad], np.float32))
    with pytest.raises(UsageError, match=r"v: frame_scores lie between"):
        dataclasses.replace(good, frame_scores=np.array([0.5, bad], np.float32))
    if bad == bad:  # features that are not numbers cannot be made
        clips = clips_scored(bad)
        with pytest.raises(UsageError, match=r"v: scores lie between"):
            score_clips(first_number_model(clips), clips, "v")
    with pytest.raises(UsageError, match=r"no span of the video's 2 frames"):
        dataclasses.replace(good, frames=np.array([[0, 3]]))
    with pytest.raises(UsageError, match=r"no span of the video's 2 frames"):
        dataclasses.replace(good, frames=np.array([[1, 1]]))
    with pytest.raises(UsageError, match=r"expected frames and seconds"):
        dataclasses.replace(good, seconds=np.zeros((2, 2)))


def test_times_between_known_ones_are_spread_evenly() -> None:
    frames = np.array([[2, 4], [4, 8]])
    seconds = np.array([[1.0, 2.0], [2.0, 6.0]])
    assert spread_seconds(frames, seconds, 10).tolist() == pytest.approx(
        [1 - 10 / 6, 1 - 5 / 6, 1, 1.5, 2, 3, 4, 5, 6, 6 + 5 / 6]
    )
    assert spread_seconds(frames, seconds, 10, fps=2)[[0, 9]].tolist() == [0, 6.5]


def test_times_that_nobody_knows_stay_unknown() -> None:
    clips = make_clips(100, time_source="unknown")
    video = score_clips(first_number_model(clips), dataclasses.replace(clips, seconds=clips.seconds * np.nan), "v")
    assert np.isnan(video.frame_seconds).all()
    assert np.isnan(video.seconds).all()
    assert not video.is_timed
    assert score_clips(first_number_model(clips), clips, "v").is_timed


def test_what_is_no_scored_video_is_named() -> None:
    with pytest.raises(UsageError, match=r"no scored video \('id'\)"):
        from_mapping({})
