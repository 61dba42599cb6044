"""Linking a whole video block by block gives the tubes of linking it at once; a window cuts them and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vadx.detectors import Detections, Tube
from vadx.detectors.linking import link_tubes
from vadx.detectors.settings import LinkSettings
from vadx.errors import ResourceError
from vadx.features.stage_set import StageRecipe
from vadx.features.stage_shard import LAYOUTS, build_stage_shard
from vadx.features.store import Store
from vadx.features.timeline import VideoFacts
from vadx.pipelines import tube_linking
from vadx.pipelines.inputs import Entry
from vadx.pipelines.tube_linking import link_whole
from vadx.pipelines.tube_shards import (
    detection_arrays,
    detections_of,
    facts_mapping,
    ranked,
    tube_arrays,
    tubes_of,
)
from vadx.pipelines.tubing import LinkWork, _link

SETTINGS = LinkSettings(min_length_unary=3, min_length_multivariate=2)


def walkers(seed: int, num_frames: int = 60, stride: int = 1) -> Detections:
    """Make objects that walk, cross and are missed at times, rows in the order of frames."""
    random = np.random.default_rng(seed)
    frames = np.repeat(np.arange(0, num_frames * stride, stride), 6)
    start, speed = random.uniform(0, 100, (6, 2)), random.normal(0, 2, (6, 2))
    centre = start + speed * np.arange(num_frames)[:, None, None]
    boxes = np.concatenate([centre - 12, centre + 12], axis=2).reshape(-1, 4)
    seen = random.random(len(frames)) > 0.1
    labels = np.tile(random.integers(1, 3, 6), num_frames)
    return Detections(
        frames[seen],
        boxes[seen].astype(np.float32),
        random.random(len(frames)).astype(np.float32)[seen],
        labels[seen],
        num_frames * stride,
        stride,
    )


def content(tubes: list[Tube]) -> list[tuple[object, ...]]:
    return [
        (t.kind, t.label, t.frames.tolist(), t.boxes.tolist(), t.scores.tolist(), t.member_rows.tolist(), t.seed)
        for t in tubes
    ]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_give_the_tubes_of_the_whole(
    seed: int, block: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tube_linking, "BLOCK_SAMPLES", block)
    found = walkers(seed, stride=stride)
    linked, expected = link_whole(found, SETTINGS), link_tubes(found, SETTINGS)
    assert expected.unary
    assert expected.multivariate
    assert content(linked.unary) == content(expected.unary)
    assert content(linked.multivariate) == content(expected.multivariate)


@pytest.mark.parametrize("seed", range(5))
def test_a_window_gives_the_tubes_of_each_of_its_parts(seed: int) -> None:
    found = walkers(seed)
    linked = link_whole(found, SETTINGS, window=25)
    parts = []
    for start in (0, 25, 50):
        stop = min(start + 25, 60)
        inside = (found.frame_index >= start) & (found.frame_index < stop)
        rows = np.flatnonzero(inside)
        part = Detections(found.frame_index[rows], found.boxes[rows], found.scores[rows], found.labels[rows], stop)
        parts += [
            (tube.frames.tolist(), rows[tube.member_rows].tolist(), int(rows[tube.seed]))
            for tube in link_tubes(part, SETTINGS).unary
        ]
    assert sorted((t.frames.tolist(), t.member_rows.tolist(), t.seed) for t in linked.unary) == sorted(parts)


def test_a_limit_on_open_boxes_is_kept() -> None:
    found = walkers(0)
    settings = LinkSettings(max_open_boxes=20)
    with pytest.raises(ResourceError, match="--link-score"):
        link_whole(found, settings)


def test_tubes_survive_their_shard(tmp_path: Path) -> None:
    found = walkers(3, stride=2)
    linked = link_whole(found, SETTINGS)
    tubes = [*linked.unary, *linked.multivariate]
    kept = np.array([5, 0, 2])
    arrays = tube_arrays(tubes, kept, found.boxes.dtype)
    assert set(arrays) == set(LAYOUTS["tubes"])
    stage = Store(tmp_path).create_stage(StageRecipe("tubes", {}, "00" * 32), slug="tubes")
    stage.publish("v", build_stage_shard("v", "v", "tubes", arrays, {}, stage.digest, "11" * 32), replace=False)
    shard = stage.open("v")
    assert content(tubes_of(shard)) == content(tubes)
    for ours, theirs in zip(tubes_of(shard), tubes, strict=True):
        np.testing.assert_array_equal(ours.interpolated, theirs.interpolated)
        assert (ours.seed_frame, ours.seed_rank, ours.max_members) == (
            theirs.seed_frame,
            theirs.seed_rank,
            theirs.max_members,
        )
    np.testing.assert_array_equal(ranked(shard), kept)


def test_boxes_that_only_hang_together_over_gaps_cost_a_warning_and_not_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A box at every other frame: with a gap they are one chain, without they are apart.
    frames = np.arange(0, 400, 2)
    boxes = np.tile(np.float32([1, 1, 9, 9]), (len(frames), 1))
    counts = np.zeros(400, np.int64)
    counts[frames] = 1
    stage = Store(tmp_path).create_stage(StageRecipe("detections", {}), slug="d")
    arrays = detection_arrays(np.arange(400), counts, boxes, np.ones(200, np.float32), np.ones(200, np.int64))
    facts = {"video": facts_mapping(VideoFacts(25.0, 400, 16, 16)), "stride": 1}
    stage.publish("v", build_stage_shard("v", "v", "detections", arrays, facts, stage.digest, "11" * 32), replace=False)
    work = LinkWork(LinkSettings(min_length_unary=1, min_length_multivariate=1, max_open_boxes=50))
    found = stage.open("v")
    with monkeypatch.context() as patch:
        # As the command does it, a block at a time: within one block nothing is open.
        patch.setattr(tube_linking, "BLOCK_SAMPLES", 100)
        with pytest.raises(ResourceError):
            link_whole(detections_of(found), work.settings, max_gap=1, kinds=("unary",))
        tubes, _notes = _link(Entry("v", tmp_path / "v.mp4"), work, found)
    assert (tubes["kind"] == 0).sum() == 200
