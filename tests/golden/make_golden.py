"""Make a file of every kind that vadx writes, from seeded numbers.

Run from the repository root::

    python tests/golden/make_golden.py tests/golden/format-N

The folders beside this script are kept in git, and are read and verified for ever by ``test_golden.py``. They are never
made again: where what is written changes, what this script then makes is put beside them under a name of its own.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vadx.features.keys import key_of
from vadx.features.pack import pack_set
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.shard_set import FailureRecord
from vadx.features.stage_set import StageRecipe
from vadx.features.stage_shard import build_stage_shard
from vadx.features.store import FeatureSet, Store
from vadx.features.timeline import ClipFeatures, VideoFacts

VIDEOS = {"Abuse/Abuse001_x264": 6, "Normal/Normal 影片": 4}
"""Id -> number of clips."""
MANIFEST = "id,label,class,split,spans\nAbuse/Abuse001_x264,1,Abuse,train,32:64\nNormal/Normal 影片,0,,train,\n"
DIM, CROPS, CLIP = 8, 2, 16

RECIPE = Recipe(
    sampling=Sampling(clip_length=CLIP, clip_stride=CLIP, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="round", scale=1 / 127.5, offset=-1),
    network=Network(name="tiny", layer="mean"),
    weights="random:0",
    numerics=2,
)
DETECTIONS = StageRecipe("detections", {"detector": "golden", "stride": 1, "score_threshold": 0.05})
TUBES = StageRecipe("tubes", {"link_score": 0.2}, after=DETECTIONS.digest)
TUBE_FEATURES = StageRecipe("tube-features", {"recipe": RECIPE.digest}, after=TUBES.digest)


def source_of(identifier: str) -> str:
    return hashlib.sha256(identifier.encode()).hexdigest()


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Give float32 values that are exact and the same on every machine: small integers over 64."""
    return (np.random.default_rng(seed).integers(-256, 256, shape) / 64).astype(np.float32)


def features_of(num_clips: int, seed: int) -> ClipFeatures:
    starts = np.arange(num_clips, dtype=np.int64) * CLIP
    frames = np.stack([starts, starts + CLIP], axis=1)
    return ClipFeatures(
        values=numbers((num_clips, CROPS, DIM), seed),
        frames=frames,
        seconds=frames / 25.0,
        damaged=starts == CLIP,
        facts=VideoFacts(
            fps=25.0,
            num_frames_decoded=CLIP * num_clips,
            width=64,
            height=48,
            num_frames_declared=CLIP * num_clips + 1,
            rotation_degrees=90,
            codec="h264",
            container="mov",
            num_damaged_frames=1,
            coverage=1.0,
        ),
        num_padded_frames=3,
        provenance={"engine": "golden", "threads": 1},
    )


def make_set(store: Store) -> FeatureSet:
    feature_set = store.create(RECIPE, slug="golden", preset="tiny-default", weights_name=None)
    hints = {}
    for seed, (identifier, num_clips) in enumerate(VIDEOS.items()):
        source = source_of(identifier)
        features = features_of(num_clips, seed)
        shard = build_shard(identifier, key_of(identifier), features, feature_set.digest, source)
        feature_set.publish(identifier, shard, replace=True)
        hints[f"/videos/{identifier}.mp4"] = (1000 + seed, 10**18 + seed, source)
    failure = FailureRecord(
        "Abuse/Abuse002_x264", "VIDEO_TRUNCATED", "/videos/Abuse/Abuse002_x264.mp4", "decoded 1 frame", source_of("x")
    )
    feature_set.record_failure(failure)
    # An index leaves out what was written a moment ago: the next run would look there again.
    for path in sorted(feature_set.path.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18))
    feature_set.save_index(hints)
    return feature_set


def stage_arrays() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Give the arrays of each stage: three boxes in two frames, a tube of two of them, an instance of it."""
    return {
        "detections": {
            "frame": np.array([0, 1], np.int32),
            "offset": np.array([0, 2, 3], np.int64),
            "box": numbers((3, 4), 10),
            "score": numbers((3,), 11),
            "label": np.array([1, 2, 1], np.int32),
        },
        "tubes": {
            "kind": np.array([0], np.int8),
            "label": np.array([1], np.int32),
            "start": np.array([0], np.int32),
            "rank": np.array([0], np.int32),
            "seed": np.array([0], np.int64),
            "seed_frame": np.array([0], np.int32),
            "seed_rank": np.array([0], np.int32),
            "box_offset": np.array([0, 2], np.int64),
            "box": numbers((2, 4), 12),
            "score": numbers((2,), 13),
            "member_offset": np.array([0, 1, 2], np.int64),
            "member": np.array([0, 2], np.int64),
        },
        "tube-features": {
            "tube": np.array([0], np.int64),
            "region": numbers((1, DIM), 14),
            "whole_frame": numbers((1, DIM), 15),
            "part_offset": np.array([0, 1], np.int64),
            "part_clips": np.array([1], np.int64),
            "region_parts": numbers((1, DIM), 16),
            "whole_frame_parts": numbers((1, DIM), 17),
            "clip_offset": np.array([0, 1], np.int64),
            "clip_frames": np.array([[0, 2]], np.int64),
            "region_clips": numbers((1, DIM), 18),
            "whole_frame_clips": numbers((1, DIM), 19),
        },
    }


def make_stages(store: Store) -> None:
    identifier = next(iter(VIDEOS))
    source = source_of(identifier)
    facts = {"video": {"fps": 25.0, "num_frames_decoded": 2, "width": 64, "height": 48}, "source_sha256": source}
    for recipe in (DETECTIONS, TUBES, TUBE_FEATURES):
        stage = store.create_stage(recipe, slug=f"golden-{recipe.kind}")
        arrays = stage_arrays()[recipe.kind]
        shard = build_stage_shard(
            identifier, key_of(identifier), recipe.kind, arrays, facts, stage.digest, source_of(source)
        )
        stage.publish(identifier, shard, replace=True)


def commands(folder: Path, feature_set: FeatureSet) -> Iterable[list[str]]:
    """Give the commands that make what is made of a feature set."""
    name = str(feature_set.path)
    labels = ["--manifest", str(folder / "labels.csv")]
    yield ["bags", name, "--rule", "sultani", "--segments", "4", *labels, "--to", str(folder / "bags.h5")]
    small = ["--first-units", "4", "--normal-bags", "1", "--anomalous-bags", "1", "--iterations", "2"]
    bags = ["--rule", "sultani", "--segments", "4", "--device", "cpu"]
    yield ["train", name, "--method", "deepmil", *labels, *bags, *small, "--to", str(folder / "model")]


def main(folder: Path) -> None:
    from vadx.pipelines.cli import run

    folder.mkdir(parents=True)
    (folder / "labels.csv").write_text(MANIFEST)
    store = Store(folder / "store")
    feature_set = make_set(store)
    make_stages(store)
    pack_set(feature_set, folder / "packed.h5")
    for command in commands(folder, feature_set):
        code = run(command)
        if code:
            raise SystemExit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
