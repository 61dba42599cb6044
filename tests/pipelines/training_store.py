"""A small store for training: features of numpy, where a few clips of each anomalous video are moved away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from support import Ran
from vadx.features.keys import key_of
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.store import FeatureSet, Store
from vadx.features.timeline import ClipFeatures, VideoFacts

DIM, CLIP = 16, 16
MOVED = slice(2, 5)
"""Clips of an anomalous video that are abnormal."""
SPAN = f"{MOVED.start * CLIP}:{MOVED.stop * CLIP}"


def recipe(weights: str = "random:0") -> Recipe:
    return Recipe(
        sampling=Sampling(clip_length=CLIP, clip_stride=CLIP, tail="drop"),
        transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="round", scale=1 / 127.5, offset=-1),
        network=Network(name="tiny", layer="mean"),
        weights=weights,
    )


def clips_of(identifier: str, *, moved: bool, num_clips: int, crops: int = 1, dim: int = DIM) -> ClipFeatures:
    random = np.random.default_rng(list(identifier.encode()))
    values = 0.3 * random.standard_normal((num_clips, crops, dim)).astype(np.float32)
    if moved:
        values[MOVED] += 1
    starts = np.arange(num_clips, dtype=np.int64) * CLIP
    frames = np.stack([starts, starts + CLIP], axis=1)
    return ClipFeatures(
        values=values,
        frames=frames,
        seconds=frames / 25.0,
        damaged=np.zeros(num_clips, np.bool_),
        facts=VideoFacts(fps=25.0, num_frames_decoded=CLIP * num_clips + 3, width=32, height=24),
    )


def put(feature_set: FeatureSet, identifier: str, features: ClipFeatures) -> None:
    source = hashlib.sha256(identifier.encode()).hexdigest()
    shard = build_shard(identifier, key_of(identifier), features, feature_set.digest, source)
    feature_set.publish(identifier, shard, replace=True)


VIDEOS = [
    (f"{split}/{'ab' if label else 'no'}{number}", label, split, 6 + 2 * number)
    for split, count in (("train", 4), ("val", 2), ("test", 2))
    for number in range(count)
    for label in (0, 1)
]
"""Id, label, split and number of clips of each video."""


def make_store(path: Path, *, crops: int = 1, dim: int = DIM) -> FeatureSet:
    """Make a store of one feature set, ``tiny``."""
    feature_set = Store(path).create(recipe(), slug="tiny", preset="tiny-default")
    for identifier, label, _, num_clips in VIDEOS:
        features = clips_of(identifier, moved=bool(label), num_clips=num_clips, crops=crops, dim=dim)
        put(feature_set, identifier, features)
    feature_set.save_index({})
    return feature_set


def manifest_text(*, spans: bool = True, splits: bool = True, class_name: str = "Fighting") -> str:
    lines = ["id,label,class,split,spans"]
    for identifier, label, split, _ in VIDEOS:
        cells = [identifier, str(label), class_name if label else "", split if splits else ""]
        lines.append(",".join([*cells, SPAN if label and spans else ""]))
    return "\n".join(lines) + "\n"


SMALL = ("--normal-bags", "3", "--anomalous-bags", "3", "--iterations", "3", "--device", "cpu")
"""A few iterations of a few bags, for every method."""

OWN = {
    "deepmil": ("--first-units", "16"),
    "cibl": ("--first-units", "16"),
    "wsal": ("--trunk-units", "16,8", "--encoding-units", "8"),
    "align": ("--attention-units", "8", "--classifier-units", "8"),
    "rtfm": ("--units", "16"),
    "urdmu": ("--units", "16", "--head-units", "4", "--forward-units", "8", "--num-slots", "4"),
    "lad": ("--hidden-channels", "4", "--shared-widths", "8", "--head-width", "8"),
    "mgpr": ("--tubes", "none"),
}
"""What makes a method's network small, or is needed."""


def command(method: str = "deepmil", *more: str, to: str = "model") -> list[str]:
    manifest = () if "--manifest" in more else ("--manifest", "labels.csv")
    return ["train", "tiny", "--method", method, "--to", to, *manifest, *SMALL, *OWN.get(method, ()), *more]


def ran_well(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
