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
from vadx.pipelines import tube_linking
from vadx.pipelines.tube_linking import link_whole
from vadx.pipelines.tube_shards import ranked, tube_arrays, tubes_of

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
