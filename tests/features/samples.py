"""Recipes, features and shards for the tests of this room."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from vadx.features.keys import key_of
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.shard import HEADER_BYTES, build_shard, make_header
from vadx.features.store import FeatureSet
from vadx.features.timeline import ClipFeatures, VideoFacts

SOURCE = hashlib.sha256(b"the video's bytes").hexdigest()
RECIPE_DIGEST = hashlib.sha256(b"a recipe").hexdigest()
VIDEO = "Abuse/Abuse001_x264"


def make_recipe(*, clip_length: int = 16, weights: str = "random:0", crops: str = "center") -> Recipe:
    return Recipe(
        sampling=Sampling(clip_length=clip_length, clip_stride=16, tail="drop"),
        transform=Transform(
            kernel="pil",
            resize=256,
            crop=224,
            crops=crops,  # type: ignore[arg-type]
            crop_order=None if crops == "center" else "tv",
            center_rounding="round",
            scale=1 / 127.5,
            offset=-1,
        ),
        network=Network(name="i3d", layer="mixed_5c", switches={"pool": "avg", "dilated": False, "depth": 3}),
        weights=weights,
    )


def make_features(
    num_clips: int = 3, num_crops: int = 1, dim: int = 8, *, dtype: str = "float32", seed: int = 0, codec: str = "h264"
) -> ClipFeatures:
    random = np.random.default_rng(seed)
    starts = np.arange(num_clips, dtype=np.int64) * 16
    frames = np.stack([starts, starts + 16], axis=1)
    return ClipFeatures(
        values=random.standard_normal((num_clips, num_crops, dim)).astype(dtype),
        frames=frames,
        seconds=frames / 25.0,
        damaged=random.random(num_clips) < 0.3,
        facts=VideoFacts(
            fps=25.0,
            num_frames_decoded=16 * num_clips,
            width=320,
            height=240,
            num_frames_declared=16 * num_clips,
            rotation_degrees=90,
            codec=codec,
            container="mov,mp4",
            coverage=0.5,
        ),
        num_padded_frames=2,
        provenance={"engine": "torch", "torch": "2.10.0", "threads": 2},
    )


def make_shard(
    identifier: str = VIDEO,
    features: ClipFeatures | None = None,
    *,
    recipe_digest: str = RECIPE_DIGEST,
    source: str = SOURCE,
) -> bytes:
    if features is None:
        features = make_features()
    return build_shard(identifier, key_of(identifier), features, recipe_digest, source)


def forge(shard: bytes, change: Callable[[h5py.File], None], *, identifier: str = VIDEO) -> bytes:
    """Change a shard's image as a forger would, header and all."""
    image = io.BytesIO(shard)
    with h5py.File(image, "r+") as file:
        change(file)
    body = image.getvalue()[HEADER_BYTES:]
    digest = hashlib.sha256(body).hexdigest()
    return make_header(len(body), digest, key_of(identifier), RECIPE_DIGEST, SOURCE).to_bytes() + body


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


RECIPE = make_recipe()
IDS = ("Abuse/Abuse001_x264", "Normal/Normal_001", "b", "a", "影片 1", "z.y.x")


def shard_of(identifier: str, *, num_clips: int = 3, recipe: Recipe = RECIPE, source: str = SOURCE) -> bytes:
    features = make_features(num_clips, seed=len(identifier))
    return make_shard(identifier, features, recipe_digest=recipe.digest, source=source)


def publish(feature_set: FeatureSet, identifier: str, *, num_clips: int = 3, source: str = SOURCE) -> Path:
    shard = shard_of(identifier, num_clips=num_clips, source=source)
    return feature_set.publish(identifier, shard, replace=False).path
