"""Feature sets that vadx computed, as far as their numbers and places go, and what others publish of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from support import Ran
from vadx.extract.sampling import ClipSampler
from vadx.features.keys import key_of
from vadx.features.layouts import LAYOUTS, OWN
from vadx.features.manifest import Manifest, ManifestEntry, write_manifest
from vadx.features.recipe import CropOrder, CropSet, Network, Recipe, Sampling, Tail, Transform
from vadx.features.shard import build_shard
from vadx.features.store import FeatureSet, Store
from vadx.features.timeline import ClipFeatures, VideoFacts

Vadx = Callable[..., Ran]

Row = tuple[str, int, str, list[tuple[int, int]], int]
"""Id, label, split, spans, frames."""

UCF: Sequence[Row] = (
    ("Abuse/Abuse001_x264", 1, "train", [], 83),
    ("Arson/Arson007_x264", 1, "test", [(5, 36)], 47),
    ("Training_Normal_Videos_Anomaly/Normal_Videos001_x264", 0, "train", [], 64),
)
XD: Sequence[Row] = (
    ("v=abc__#1_label_B1-0-0", 1, "train", [], 70),
    ("v=def__#1_label_A", 0, "test", [], 33),
    ("v=ghi__#1_label_B4-0-0", 1, "test", [(10, 30)], 97),
)
DIM = 8


def make_recipe(*, tail: Tail, num_crops: int, order: CropOrder) -> Recipe:
    counts: dict[int, CropSet] = {1: "center", 5: "five", 10: "ten"}
    return Recipe(
        sampling=Sampling(clip_length=16, clip_stride=16, tail=tail),
        transform=Transform(
            kernel="cv2",
            resize=256,
            crop=224,
            crops=counts[num_crops],
            crop_order=None if num_crops == 1 else order,
            center_rounding="round",
            scale=1 / 127.5,
            offset=-1,
        ),
        network=Network(name="i3d", layer="mixed_5c"),
        weights="random:0",
    )


def features_of(recipe: Recipe, num_frames: int, *, num_crops: int, seed: int) -> ClipFeatures:
    """Make features whose clips lie where the sampler of extraction puts them."""
    sampler = ClipSampler[int](recipe.sampling)
    windows = [window for frame in range(num_frames) for window in sampler.push(frame)] + sampler.flush()
    frames = np.array([(window.clip.start, window.clip.stop) for window in windows], np.int64)
    return ClipFeatures(
        values=np.random.default_rng(seed).standard_normal((len(windows), num_crops, DIM)).astype(np.float32),
        frames=frames,
        seconds=frames / 25.0,
        damaged=np.zeros(len(windows), bool),
        facts=VideoFacts(fps=25.0, num_frames_decoded=num_frames, width=320, height=240),
        num_padded_frames=sum(window.clip.num_padded for window in windows),
    )


def make_set(
    store: Path, rows: Sequence[Row] = UCF, *, tail: Tail, num_crops: int, order: CropOrder = "tv"
) -> FeatureSet:
    """Store features of every row, and their manifest and frame counts beside the store."""
    recipe = make_recipe(tail=tail, num_crops=num_crops, order=order)
    made = Store(store).create(recipe, slug="made")
    entries = []
    for seed, (identifier, label, split, spans, num_frames) in enumerate(rows):
        features = features_of(recipe, num_frames, num_crops=num_crops, seed=seed)
        shard = build_shard(identifier, key_of(identifier), features, recipe.digest, f"{seed:064x}")
        made.publish(identifier, shard, replace=False)
        kind = identifier.split("/")[0] if label and "/" in identifier else "Fighting" if label else ""
        array = np.array(spans, np.int64).reshape(-1, 2)
        entries.append(ManifestEntry(identifier, "", label, kind, split, array, num_frames))
    write_manifest(store.parent / "labels.csv", Manifest(tuple(entries)))
    return made


def setting(layout: str) -> tuple[str, Sequence[Row], dict[str, Any]]:
    """Give a data set that a layout has lists for, videos whose names fit it, and features that do."""
    data_set = OWN if OWN in LAYOUTS[layout].data_sets else next(iter(LAYOUTS[layout].data_sets))
    files, crops = LAYOUTS[layout].data_sets[data_set], LAYOUTS[layout].family.crops[OWN]
    tail = "minus_one" if data_set == "xd-violence" else "drop" if files.at_most else "repeat_last"
    num_crops = crops.nums[0] if crops.nums else 10
    return (
        data_set,
        XD if data_set == "xd-violence" else UCF,
        {
            "tail": tail,
            "num_crops": num_crops,
            "order": crops.order or "tv",
        },
    )


def export(vadx_here: Vadx, tmp_path: Path, layout: str, **more: Any) -> FeatureSet:
    """Make a set and export it to ``out``."""
    data_set, rows, made_with = setting(layout)
    made = make_set(tmp_path / "store", rows, **{**made_with, **more})
    arguments = ("--manifest", "labels.csv", "--counts", "labels.csv", "--data-set", data_set)
    ran = vadx_here("export", "made", "-o", "store", "--format", layout, "--to", "out", *arguments)
    assert ran.code == 0, ran.err
    return made


def imported_set(ran: Ran) -> FeatureSet:
    """Open the set whose folder an import printed."""
    return FeatureSet(Path(ran.out.splitlines()[-1]))


def save(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values, np.float32))


def random_values(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rtfm_release(folder: Path) -> None:
    """Two videos as RTFM's links have them: <video>_i3d.npy (clip, 10, feature), in one folder."""
    save(folder / "Abuse001_x264_i3d.npy", random_values(5, 10, DIM))
    save(folder / "Normal_Videos001_x264_i3d.npy", random_values(3, 10, DIM, seed=1))
