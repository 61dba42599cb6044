"""Files at rest, what a reader gets of each and what `verify` says of it, and how a disk ruins them.

Every kind of file that vadx keeps stands in `FILES`. A `Subject` reads all that a reader can get of its file as one
digest, so that two readings can be compared, and names what `verify` finds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vadx.errors import VadxError
from vadx.features.bag_file import Bag, BagFile, write_bags
from vadx.features.index import load_index
from vadx.features.keys import key_of
from vadx.features.pack import pack_set
from vadx.features.packed_set import PackedSet
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.shard_set import FailureRecord
from vadx.features.stage_set import StageRecipe, StageSet
from vadx.features.stage_shard import build_stage_shard, open_stage_shard
from vadx.features.store import FeatureSet, Store
from vadx.features.timeline import ClipFeatures, VideoFacts
from vadx.pipelines.verifying import files_to_verify

PAGE = 4096
SOURCE = hashlib.sha256(b"the video's bytes").hexdigest()
FAILED = FailureRecord("cam/9", "VIDEO_EMPTY", "/videos/cam/9.mp4", "it holds 0 bytes", SOURCE)

RECIPE = Recipe(
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(
        kernel="pil",
        resize=256,
        crop=224,
        crops="center",
        crop_order=None,
        center_rounding="round",
        scale=1 / 127.5,
        offset=-1,
    ),
    network=Network(name="i3d", layer="mixed_5c", switches={}),
    weights="random:0",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One file at rest. ``read`` digests all that a reader gets; ``verify`` names the paths that it finds wrong."""

    path: Path
    read: Callable[[], str]
    verify: Callable[[], set[Path]]


def digest(*parts: Any) -> str:
    """Digest arrays and plain values."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype.str} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def of_features(features: ClipFeatures) -> str:
    arrays = (features.values, features.frames, features.seconds, features.damaged)
    return digest(*arrays, features.facts, features.num_padded_frames, sorted(features.provenance.items()))


def make_features(num_clips: int, num_crops: int, dim: int, seed: int) -> ClipFeatures:
    random = np.random.default_rng(seed)
    starts = np.arange(num_clips, dtype=np.int64) * 16
    frames = np.stack([starts, starts + 16], axis=1)
    facts = VideoFacts(
        fps=25.0, num_frames_decoded=16 * num_clips, width=320, height=240, codec="h264", container="mp4"
    )
    return ClipFeatures(
        random.standard_normal((num_clips, num_crops, dim)).astype(np.float32),
        frames,
        frames / 25.0,
        random.random(num_clips) < 0.3,
        facts,
        2,
        {"engine": "torch", "threads": 2},
    )


def shard_of(identifier: str, recipe_digest: str, *, shape: tuple[int, int, int] = (40, 2, 64)) -> bytes:
    """Fabricate a video's shard: what extraction would publish, without a video."""
    features = make_features(*shape, seed=len(identifier))
    return build_shard(identifier, key_of(identifier), features, recipe_digest, SOURCE)


def stage_arrays(kind: str) -> dict[str, Any]:
    random = np.random.default_rng(3)
    offset = np.arange(0, 61, 3, dtype=np.int64)
    boxes = np.sort(random.random((60, 4)).astype(np.float32), axis=1)
    if kind == "detections":
        frame = np.arange(20, dtype=np.int64)
        return {"frame": frame, "offset": offset, "box": boxes, "score": boxes[:, 0], "label": np.ones(60, np.int16)}
    if kind == "tubes":
        whole = {name: np.arange(20, dtype=np.int32) for name in ("kind", "label", "start", "rank", "seed")}
        seeds = {name: np.arange(20, dtype=np.int32) for name in ("seed_frame", "seed_rank")}
        boxed = {"box_offset": offset, "box": boxes, "score": boxes[:, 1]}
        return {**whole, **seeds, **boxed, "member_offset": np.arange(61), "member": np.arange(60, dtype=np.int32)}
    values = {name: random.random((20, 32)).astype(np.float32) for name in ("region", "whole_frame")}
    parts = {f"{name}_parts": random.random((60, 32)).astype(np.float32) for name in ("region", "whole_frame")}
    clips = {"clip_offset": np.arange(21), "clip_frames": np.arange(40).reshape(20, 2)}
    return {"tube": np.arange(20), **values, "part_offset": offset, "part_clips": np.arange(60), **parts, **clips}


def wrong_in(feature_set: FeatureSet | StageSet) -> set[Path]:
    return {path for path, error in feature_set.verify() if error is not None}


def wrong_at(path: Path) -> set[Path]:
    checks = files_to_verify(path)
    assert checks is not None
    return {found for found, error in checks if error is not None}


def make_store(folder: Path) -> FeatureSet:
    feature_set = Store(folder / "store").create(RECIPE, slug="i3d", preset="rtfm", weights_name="i3d.safetensors")
    for identifier in ("cam/1", "cam/2"):
        feature_set.publish(identifier, shard_of(identifier, feature_set.digest), replace=False)
    feature_set.record_failure(FAILED)
    feature_set.save_index({"/videos/cam/1.mp4": (1, 2, SOURCE)})
    return feature_set


def shards(folder: Path) -> Subject:
    made = make_store(folder)
    return Subject(
        made.shard_path("cam/1"), lambda: of_features(FeatureSet(made.path)["cam/1"]), lambda: wrong_in(made)
    )


def recipes(folder: Path) -> Subject:
    made = make_store(folder)
    path = made.path / "recipe.json"

    def read() -> str:
        again = FeatureSet(made.path)
        return digest(again.recipe, again.digest, again.preset, again.weights_name)

    def verify() -> set[Path]:
        try:
            return wrong_in(FeatureSet(made.path))
        except VadxError as error:
            return {path} if str(path) in str(error) else set()

    return Subject(path, read, verify)


def failures(folder: Path) -> Subject:
    made = make_store(folder)

    def read() -> str:
        # A record that cannot be read counts as none: the video is tried again.
        found = FeatureSet(made.path).failures()
        if not found:
            raise VadxError
        return digest([asdict(record) for record in found])

    return Subject(made.failure_path(FAILED.id), read, lambda: wrong_in(made))


def indexes(folder: Path) -> Subject:
    made = make_store(folder)

    def read() -> str:
        index = load_index(made.index_path)
        # What cannot be read counts as none, and is made again.
        if not index.sources:
            raise VadxError
        return digest(list(FeatureSet(made.path).summaries().items()), sorted(index.sources.items()))

    return Subject(made.index_path, read, lambda: wrong_in(made))


def stages(kind: str) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        after = None if kind == "detections" else "0" * 64
        made = Store(folder / "store").create_stage(StageRecipe(kind, {"score": 0.5}, after), slug=kind)
        shard = build_stage_shard("cam/1", key_of("cam/1"), kind, stage_arrays(kind), {"fps": 25}, made.digest, SOURCE)
        path = made.publish("cam/1", shard, replace=False).path

        def read() -> str:
            found = open_stage_shard(path, kind)
            return digest(found.id, *(part for item in sorted(found.arrays.items()) for part in item), found.facts)

        return Subject(path, read, lambda: wrong_in(made))

    return make


def packs(folder: Path) -> Subject:
    path = pack_set(make_store(folder), folder / "packed.h5").path

    def read() -> str:
        with PackedSet(path) as packed:
            names = (packed.name, packed.digest, packed.preset, packed.weights_name, packed.failures())
            return digest(*names, *(of_features(packed[one]) for one in packed), list(packed.summaries().items()))

    def verify() -> set[Path]:
        if files_to_verify(path) is not None:
            return wrong_at(path)
        with PackedSet(path) as packed:
            return wrong_in(packed)

    return Subject(path, read, verify)


def make_bags() -> list[Bag]:
    random = np.random.default_rng(5)
    frames = np.stack([np.arange(8), np.arange(8) + 1], axis=1).astype(np.int64)
    return [
        Bag(f"cam/{n}", random.random((8, 2, 40)).astype(np.float32), frames, 9, n % 2, "Arson" if n % 2 else "")
        for n in range(12)
    ]


def bags(folder: Path) -> Subject:
    path = folder / "bags.h5"
    write_bags(path, make_bags(), rule="rtfm", recipe_digest=RECIPE.digest, provenance={"crops": "keep"})

    def read() -> str:
        with BagFile(path) as file:
            tables = (file.ids, file.labels, file.classes, file.num_frames, file.frames)
            return digest(*tables, file.rule, file.recipe_digest, file.provenance, *(bag.features for bag in file))

    return Subject(path, read, lambda: wrong_at(path))


def model_files(name: str) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        import torch

        from vadx.pipelines.model_folder import read_facts, read_tensors, write_facts, write_tensors

        model = folder / "model"
        model.mkdir(parents=True)
        write_facts(model, {"method": "deepmil", "dim": 8, "settings": {"units": [3, 4], "rate": 0.001}})
        tensors = {"a.weight": torch.arange(3000.0).reshape(30, 100), "a.steps": torch.tensor(7)}
        for which in ("last", "best"):
            write_tensors(model / f"{which}.safetensors", tensors, {"iteration": 3, "measured": 0.5})
        write_tensors(model / "state.safetensors", tensors, {"last": {"iteration": 3, "measured": 0.5}, "best": None})
        path = model / name

        def read() -> str:
            if name == "model.json":
                return digest(json.dumps(read_facts(model), sort_keys=True))
            found, header = read_tensors(path)
            return digest(
                *(part for key in sorted(found) for part in (key, found[key].numpy())), sorted(header.items())
            )

        return Subject(path, read, lambda: wrong_at(model))

    return make


FILES: dict[str, Callable[[Path], Subject]] = {
    "shard": shards,
    "detections": stages("detections"),
    "tubes": stages("tubes"),
    "tube features": stages("tube-features"),
    "packed file": packs,
    "bags file": bags,
    "recipe.json": recipes,
    "failed": failures,
    "index.json": indexes,
    "model.json": model_files("model.json"),
    "last.safetensors": model_files("last.safetensors"),
    "best.safetensors": model_files("best.safetensors"),
    "state.safetensors": model_files("state.safetensors"),
}
"""Kind of a file -> what makes one in an empty folder."""

HARMS = ("flip", "page", "cut")


def rot(content: bytes, harm: str, random: np.random.Generator) -> tuple[bytes, str]:
    """Ruin a file's content as disks do, and say how and where."""
    at = int(random.integers(len(content)))
    if harm == "flip":
        bit = int(random.integers(8))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :], f"bit {bit} of byte {at}"
    if harm == "page":
        start = at // PAGE * PAGE
        stop = min(start + PAGE, len(content))
        return content[:start] + bytes(stop - start) + content[stop:], f"bytes {start} to {stop} zeroed"
    return content[:at], f"cut to {at} bytes"


@dataclass(frozen=True, slots=True)
class Rotten:
    """What became of one ruined file: whether `verify` named it, and what a reader got: same, error or wrong."""

    where: str
    harm: str
    found: bool
    strangers: frozenset[Path]
    read: str
    is_changed: bool


def ruin(subject: Subject, counts: dict[str, int], seed: int) -> Iterator[Rotten]:
    """Ruin a file again and again, each time from its sound content, and see who notices."""
    random = np.random.default_rng(seed)
    right, whole = subject.read(), subject.path.read_bytes()
    assert subject.verify() == set()
    for harm, count in counts.items():
        for _ in range(count):
            content, where = rot(whole, harm, random)
            subject.path.unlink()
            # Another inode each time: HDF5 tells open files apart by it.
            subject.path.write_bytes(content)
            try:
                read = "same" if subject.read() == right else "wrong"
            except VadxError:
                read = "error"
            wrong = subject.verify()
            strangers = frozenset(wrong - {subject.path})
            yield Rotten(where, harm, subject.path in wrong, strangers, read, content != whole)
    subject.path.write_bytes(whole)
