"""Stages of tubes at rest: what is written is read back, what is damaged or stale is told, digests chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vadx.errors import RecipeError, ShardError, StoreError
from vadx.features.keys import key_of
from vadx.features.shard import read_header
from vadx.features.stage_set import BEFORE, StageRecipe, StageSet
from vadx.features.stage_shard import LAYOUTS, build_stage_shard
from vadx.features.store import FeatureSet, Store

SOURCE = "ab" * 32
DETECTIONS = StageRecipe("detections", {"detector": "frcnn", "stride": 1, "score_threshold": 0.05})


def arrays_of(num_boxes: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """Two samples, all boxes in the first."""
    rng = np.random.default_rng(num_boxes)
    return {
        "frame": np.array([0, 1], np.int32),
        "offset": np.array([0, num_boxes, num_boxes], np.int64),
        "box": rng.random((num_boxes, 4), np.float32),
        "score": rng.random(num_boxes, np.float32),
        "label": np.arange(num_boxes, dtype=np.int16),
    }


def stored(store: Path, identifier: str = "a/b", **changes: np.ndarray[Any, Any]) -> StageSet:
    stage = Store(store).create_stage(DETECTIONS, slug="frcnn")
    shard = build_stage_shard(
        identifier,
        key_of(identifier),
        "detections",
        {**arrays_of(), **changes},
        {"width": 320, "source_sha256": SOURCE},
        stage.digest,
        SOURCE,
    )
    stage.publish(identifier, shard, replace=True)
    return stage


@pytest.mark.parametrize("num_boxes", [0, 1, 70_000])
def test_what_is_stored_is_read_back(tmp_path: Path, num_boxes: int) -> None:
    arrays = arrays_of(num_boxes)
    content = stored(tmp_path, **arrays).open("a/b")
    assert content.id == "a/b"
    assert content.facts == {"width": 320, "source_sha256": SOURCE}
    assert content.header.source_sha256 == SOURCE
    assert set(content.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(content.arrays[name], array)
        assert content.arrays[name].dtype == array.dtype


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    first = stored(tmp_path / "1").shard_path("a/b").read_bytes()
    assert first == stored(tmp_path / "2").shard_path("a/b").read_bytes()


def test_whoever_holds_on_to_a_dataset_does_not_move_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profiler, as Dask's, keeps frames of functions, and so what they called by a name."""
    make, held = h5py.Group.create_dataset, []

    def hold(group: h5py.Group, *arguments: Any, **options: Any) -> h5py.Dataset:
        held.append(make(group, *arguments, **options))
        return held[-1]

    image = build_stage_shard("a", "a", "detections", arrays_of(), {}, DETECTIONS.digest, SOURCE)
    monkeypatch.setattr(h5py.Group, "create_dataset", hold)
    assert build_stage_shard("a", "a", "detections", arrays_of(), {}, DETECTIONS.digest, SOURCE) == image
    assert len(held) == 5


def test_h5py_alone_reads_it(tmp_path: Path) -> None:
    with h5py.File(stored(tmp_path).shard_path("a/b")) as file:
        assert file["box"].shape == (3, 4)
        assert [dim.label for dim in file["box"].dims] == ["box", "x1 y1 x2 y2"]


def test_an_outline_knows_the_lengths(tmp_path: Path) -> None:
    (outline,) = stored(tmp_path).outlines()
    assert (outline.id, outline.lengths["box"], outline.lengths["sample"]) == ("a/b", 3, 2)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("offset", np.array([0, 2, 3], np.int64)[:2]),
        ("offset", np.array([0, 4, 3], np.int64)),
        ("offset", np.array([1, 2, 3], np.int64)),
        ("offset", np.array([0, 2, 2], np.int64)),
        ("box", np.zeros((2, 4), np.float32)),
        ("box", np.zeros((3, 4), np.int32)),
        ("score", np.zeros((3, 1), np.float32)),
        ("stranger", np.zeros(3, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match=name if name != "stranger" else "detections hold"):
        stored(tmp_path, **{name: array})


def test_every_kind_says_what_its_offsets_count() -> None:
    for layout in LAYOUTS.values():
        axes = {axis for spec in layout.values() for axis in spec.axes}
        for spec in layout.values():
            assert (spec.counts is None) == (not spec.axes[0].startswith("edge of"))
            assert spec.counts is None or spec.counts in axes
    assert set(LAYOUTS) == set(BEFORE)


def test_a_flipped_byte_is_found_by_verify_and_the_video_is_done_again(tmp_path: Path) -> None:
    stage = stored(tmp_path)
    path = stage.shard_path("a/b")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ((found, error),) = stage.verify()
    assert found == path
    assert isinstance(error, ShardError)
    assert error.damage == "body"

    class Same:
        def sha256(self) -> str:
            return SOURCE

    assert stage.action("a/b", Same()).verb == "refresh"


def test_a_shard_of_another_kind_is_a_stranger(tmp_path: Path) -> None:
    stage = stored(tmp_path)
    tubes = Store(tmp_path).create_stage(StageRecipe("tubes", {}, stage.digest), slug="tubes")
    target = tubes.shard_path("a/b")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(stage.shard_path("a/b").read_bytes())
    assert [error.damage for _, error in tubes.verify() if error is not None] == ["stranger"]
    with pytest.raises(ShardError, match=r"structure|stranger"):
        tubes.open("a/b")


def test_digests_chain() -> None:
    tubes = StageRecipe("tubes", {"eta": 2.0}, DETECTIONS.digest)
    other = StageRecipe("tubes", {"eta": 2.0}, replace(DETECTIONS, settings={"detector": "fcos"}).digest)
    assert tubes.digest != other.digest
    assert StageRecipe.from_mapping(tubes.to_mapping()).digest == tubes.digest


@pytest.mark.parametrize(("kind", "after"), [("tubes", None), ("detections", "ab"), ("boxes", None)])
def test_a_recipe_names_what_it_is_made_from(kind: str, after: str | None) -> None:
    with pytest.raises(RecipeError):
        StageRecipe(kind, {}, after)


def test_a_store_tells_kinds_apart(tmp_path: Path) -> None:
    stage = stored(tmp_path)
    store = Store(tmp_path)
    assert store.sets() == []
    assert [one.name for one in store.all_sets()] == [stage.name]
    found = store.find_stage(DETECTIONS)
    assert found is not None
    assert found.path == stage.path
    with pytest.raises(StoreError, match="holds detections, not clip features"):
        FeatureSet(stage.path)


def test_the_source_of_the_next_stage_is_the_body_of_the_one_before(tmp_path: Path) -> None:
    stage = stored(tmp_path)
    before = read_header(stage.shard_path("a/b")).body_sha256
    stored(tmp_path, score=np.zeros(3, np.float32))
    assert read_header(stage.shard_path("a/b")).body_sha256 != before


def test_source_hints_are_kept(tmp_path: Path) -> None:
    from vadx.features.index import load_index

    stage = stored(tmp_path)
    stage.save_index({"/videos/b.mp4": (5, 7, SOURCE)})
    assert load_index(stage.index_path).sources == {"/videos/b.mp4": (5, 7, SOURCE)}
