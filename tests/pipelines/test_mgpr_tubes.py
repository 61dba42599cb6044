"""WSSTAD on what is stored: tubes cut into parts, scores of tubes and of segments, and settings."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from vadx.detectors.regions import InstanceFeatures
from vadx.detectors.tubes import Tube, nested_parts, part_frames
from vadx.errors import UsageError
from vadx.pipelines.evaluate import VideoTubes
from vadx.pipelines.methods.mgpr import CHOICES, MgprSettings, cut_tubes, tube_tensors
from vadx.pipelines.tube_shards import instance_arrays

from .mgpr_samples import CLOSE, DIM, mgpr, network_of, numpy_logits, sigmoid, video_batch, waves

# ---- tubes ----


def tube(num_frames: int, first: int) -> Tube:
    boxes = np.arange(4 * num_frames, dtype=np.float64).reshape(-1, 4)
    rows = np.arange(num_frames)
    rows[1::3] = -1
    return Tube(np.arange(first, first + num_frames), boxes, np.full(num_frames, 0.5), 1, rows, seed_frame=first)


def stored(tubes: list[Tube], clips: list[NDArray[np.float32]], clip_length: int = 16) -> dict[str, NDArray[Any]]:
    """Arrays of a shard, best tube first, as the extraction makes them; the whole frames' features are the negative."""
    instances = []
    for one, rows in zip(tubes, clips, strict=True):
        spans = nested_parts(len(rows))
        parts = np.array([rows[start:stop].mean(axis=0, dtype=np.float64) for start, stop in spans], np.float32)
        starts = int(one.frames[0]) + clip_length * np.arange(len(rows))
        frames = np.stack([starts, np.minimum(starts + clip_length, one.frames[-1] + 1)], axis=1)
        mean = rows.mean(axis=0)
        instances.append(InstanceFeatures(frames, mean, -mean, parts, -parts, np.diff(spans, axis=1).ravel()))
    return instance_arrays(np.arange(len(tubes)), instances)


LENGTHS = (16 * 70 + 5, 16 * 3 + 15, 9, 16 * 32)


@pytest.fixture(scope="module")
def video() -> tuple[list[Tube], list[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    tubes = [tube(length, first=7 * number) for number, length in enumerate(LENGTHS)]
    random = np.random.default_rng(0)
    clips = [random.normal(size=(max(1, len(one) // 16), DIM)).astype(np.float32) for one in tubes]
    return tubes, clips, stored(tubes, clips)


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8, 16, 32])
def test_tubes_are_cut_evenly_from_their_stored_parts(video: Any, num_parts: int) -> None:
    tubes, clips, arrays = video
    parts = cut_tubes(arrays, tubes, num_parts)
    for number, (one, rows) in enumerate(zip(tubes, clips, strict=True)):
        mine = parts.instance == number
        count = min(num_parts, len(rows))
        edges = np.arange(count + 1) * len(rows) // count
        means = [rows[a:b].mean(axis=0, dtype=np.float64) for a, b in pairwise(edges)]
        # Stored parts are float32.
        np.testing.assert_allclose(parts.region[mine], means, atol=1e-6)
        np.testing.assert_array_equal(parts.whole_frame[mine], -parts.region[mine])
        np.testing.assert_array_equal(parts.frames[mine] - one.frames[0], part_frames(len(one), num_parts))
    assert parts.region.dtype == parts.whole_frame.dtype == np.float32


def test_parts_keep_to_the_numbers_of_stored_tubes(video: Any) -> None:
    tubes, _, arrays = video
    # The shard of tubes has its own order: the features' first tube stands last there.
    moved = {**arrays, "tube": np.array([3, 2, 1, 0])}
    parts = cut_tubes(moved, tubes[::-1], 4)
    np.testing.assert_array_equal(parts.frames, cut_tubes(arrays, tubes, 4).frames)
    with pytest.raises(UsageError, match="1, 2, 4, 8, 16 or 32"):
        cut_tubes(arrays, tubes, 3)


def test_tubes_are_scored_in_one_context_and_the_best_is_the_video_s(video: Any) -> None:
    tubes, _, arrays = video
    method = mgpr()
    network = network_of(method).train()
    scored = method.score_tubes(network, arrays, tubes)
    parts = scored.parts
    num_parts = 4 + 3 + 1 + 4
    assert scored.scores.shape == parts.instance.shape == (num_parts,)
    assert ((scored.scores >= 0) & (scored.scores <= 1)).all()
    region, whole = (torch.from_numpy(one).double() for one in (parts.region, parts.whole_frame))
    by_hand = sigmoid(numpy_logits(network.branches["tube"], region))
    by_hand = (by_hand + sigmoid(numpy_logits(network.branches["temporal"], whole))) / 2
    np.testing.assert_allclose(scored.scores, by_hand, atol=CLOSE)
    assert scored.top == by_hand.argmax()
    assert scored.score == scored.scores.max()
    assert network.training
    # Tube by tube, attention would see less and say something else.
    alone = method.score_tubes(network, stored(tubes[:1], [video[1][0]]), tubes[:1]).scores
    assert np.abs(alone - scored.scores[:4]).max() > 1e-3
    for track, (start, stop), owner in zip(scored.tracks, parts.frames, parts.instance, strict=True):
        rows = slice(start - tubes[owner].frames[0], stop - tubes[owner].frames[0])
        assert (track.frames[0], track.frames[-1] + 1) == (start, stop)
        np.testing.assert_array_equal(track.boxes, tubes[owner].boxes[rows])
        np.testing.assert_array_equal(track.interpolated, tubes[owner].interpolated[rows])
    judged = VideoTubes("a", False, scored.tracks, scored.scores, np.arange(2000))
    assert (judged.top, judged.score) == (scored.top, scored.score)


def test_more_parts_are_other_tubes_and_1_is_the_tubes_themselves(video: Any) -> None:
    tubes, _, arrays = video
    whole = mgpr(num_parts=1).score_tubes(network_of(mgpr()), arrays, tubes)
    assert [len(track.frames) for track in whole.tracks] == list(LENGTHS)
    np.testing.assert_allclose(whole.parts.region, arrays["region"], atol=1e-6)


def test_a_video_without_tubes_scores_0() -> None:
    method = mgpr()
    arrays = instance_arrays(np.zeros(0, np.int64), [])
    scored = method.score_tubes(network_of(method), arrays, [])
    assert (scored.tracks, scored.top, scored.score) == ((), None, 0.0)


def test_tubes_of_a_batch_are_padded_and_the_best_are_kept(video: Any) -> None:
    _, _, arrays = video
    none = instance_arrays(np.zeros(0, np.int64), [])
    more = tube_tensors([arrays, none], max_tubes=3)
    assert more["region"].shape == more["whole_frame"].shape == (2, 3, DIM)
    assert more["tube_mask"].tolist() == [[True] * 3, [False] * 3]
    np.testing.assert_array_equal(more["region"][0].numpy(), arrays["region"][:3])
    assert not more["region"][1].any()
    assert tube_tensors([arrays, none])["tube_mask"].sum() == 4
    assert tube_tensors([none, none])["tube_mask"].tolist() == [[False], [False]]


# ---- segments ----


def test_segments_are_scored_by_the_mean_of_both_branches() -> None:
    method = mgpr()
    network = network_of(method).eval()
    features = waves(32, 2, DIM)
    with torch.no_grad():
        scores = method.score(network, features)
    assert scores.segments.shape == (32,)
    assert bool(((scores.segments >= 0) & (scores.segments <= 1)).all())
    bag = features.mean(dim=1)
    each = {name: sigmoid(numpy_logits(branch, bag)) for name, branch in network.branches.items()}
    np.testing.assert_allclose(scores.segments.numpy(), (each["tube"] + each["temporal"]) / 2, atol=CLOSE)
    assert scores.video == scores.segments.max().item()
    for name, expected in each.items():
        with torch.no_grad():
            one = mgpr(branches=name).score(network, features).segments
        np.testing.assert_allclose(one.numpy(), expected, atol=CLOSE)
        np.testing.assert_allclose(scores.more[name].numpy(), expected, atol=CLOSE)


# ---- settings ----


def test_defaults_are_the_paper_s() -> None:
    chosen = MgprSettings()
    assert (chosen.normal_bags, chosen.anomalous_bags, chosen.learning_rate) == (30, 30, 5e-4)
    assert (chosen.num_heads, chosen.hidden_widths, chosen.dropout) == (8, (512, 32), 0.6)
    assert (chosen.max_tubes, chosen.num_parts) == (200, 4)
    assert MgprSettings(**json.loads(json.dumps(dataclasses.asdict(chosen)))) == chosen


@pytest.mark.parametrize(
    "changes",
    [
        {"normal_bags": 20},
        {"num_parts": 3},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"learning_rate": 0.0},
        {"num_heads": 0},
        {"hidden_widths": (512,)},
        {"max_tubes": 0},
        {"ranking": "none", "cross_entropy": False},
        *({name: "nonsense"} for name in CHOICES),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        MgprSettings(**changes)


def test_what_does_not_fit_is_refused() -> None:
    method = mgpr()
    with pytest.raises(UsageError, match="2 heads"):
        method.network(7)
    with pytest.raises(UsageError, match="temporal, tube"):
        method.loss(network_of(method), video_batch(), "all")
    with pytest.raises(TypeError, match=r"Mgpr\.network"):
        method.loss(nn.Linear(1, 1), video_batch(), "tube")
