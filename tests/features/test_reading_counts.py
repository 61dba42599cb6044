"""How much of a disk reading touches: file opens and stats, counted. Time is for the benchmarks."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vadx.features import Store, index
from vadx.features.index import Index, Listing, load_index, write_index
from vadx.features.keys import folder_of, key_of
from vadx.features.recipe import Imported
from vadx.features.shard import build_shard
from vadx.features.stage_set import StageRecipe, StageSet
from vadx.features.stage_shard import build_stage_shard
from vadx.features.store import FeatureSet

from .samples import SOURCE, make_features, make_recipe, publish

LONG_AGO = 10**18
NUM_FOLDERS = 256


@dataclass
class Touched:
    """Names of the files opened, of the folders listed, and how many stats there were."""

    opened: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    num_stats: int = 0


_watching: list[tuple[Path, Touched]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir"):
        root, touched = _watching[-1]
        if not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        path = Path(os.fsdecode(arguments[0]))
        if path.is_relative_to(root):
            (touched.opened if event == "open" else touched.listed).append(path.name)


sys.addaudithook(_audit)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    really_stat, really_file = os.stat, h5py.File

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if _watching and not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(tmp_path):
            _watching[-1][1].num_stats += 1
        return really_stat(path, *arguments, **options)

    def file(path: Any, *arguments: Any, **options: Any) -> h5py.File:
        if _watching:
            _watching[-1][1].images.append(Path(getattr(path, "name", path)).name)
        return really_file(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(h5py, "File", file)

    @contextmanager
    def watching() -> Any:
        touched = Touched()
        _watching.append((tmp_path, touched))
        try:
            yield touched
        finally:
            _watching.pop()

    return watching


class Video:
    def sha256(self) -> str:
        return SOURCE


def settled(feature_set: FeatureSet, num_videos: int) -> list[str]:
    """Put videos into the index, of which the folders look unchanged and hold no file."""
    ids = sorted(f"Abuse/{number:06d}" for number in range(num_videos))
    rows = np.zeros(num_videos, index._ROW)
    rows["folder"] = [int(folder_of(key_of(identifier)), 16) for identifier in ids]
    rows["num_clips"] = np.arange(num_videos)
    rows["written_ns"] = LONG_AGO
    folders = {}
    for number in range(NUM_FOLDERS):
        folder = feature_set.path / "shards" / f"{number:02x}"
        folder.mkdir(exist_ok=True)
        os.utime(folder, ns=(LONG_AGO, LONG_AGO))
        folders[folder.name] = LONG_AGO
    hints = {f"/v/{identifier}.mp4": (1, 2, SOURCE) for identifier in ids}
    write_index(Index(folders, Listing(ids, rows)), feature_set.index_path, feature_set.tmp, hints=hints)
    return ids


@pytest.mark.parametrize("num_videos", [10, 3000])
def test_a_settled_set_is_listed_from_two_files(feature_set: FeatureSet, watch: Any, num_videos: int) -> None:
    ids = settled(feature_set, num_videos)
    with watch() as touched:
        opened = Store(feature_set.path.parent)["i3d"]
        summaries = opened.summaries()
        assert list(summaries) == ids
        assert [s.num_clips for s in summaries.values()] == list(range(num_videos))
    assert touched.opened == ["recipe.json", "index.json"]
    assert touched.images == []
    assert touched.num_stats <= NUM_FOLDERS + 8
    assert len(touched.listed) <= 4


@pytest.mark.parametrize("num_videos", [10, 3000])
def test_listing_again_opens_nothing(feature_set: FeatureSet, watch: Any, num_videos: int) -> None:
    settled(feature_set, num_videos)
    assert len(feature_set) == num_videos
    with watch() as touched:
        assert sum(1 for _ in feature_set) == len(feature_set)
    assert (touched.opened, touched.images) == ([], [])
    assert touched.num_stats <= 2 * (NUM_FOLDERS + 1)


def test_what_is_said_of_imported_videos_is_listed_from_two_files(tmp_path: Path, watch: Any) -> None:
    known = Imported(layout="rtfm", release="x", known=())
    made = Store(tmp_path / "store").create(replace(make_recipe(), imported=known), slug="imported-rtfm-x")
    ways = ("rows", "counts", "export", "rows")
    for number, way in enumerate(ways):
        clips = make_features()
        facts = replace(clips.facts, frames_from=way)
        shard = build_shard(f"v{number}", key_of(f"v{number}"), replace(clips, facts=facts), made.digest, SOURCE)
        path = made.publish(f"v{number}", shard, replace=False).path
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        os.utime(path.parent, ns=(LONG_AGO, LONG_AGO))
    said = {"rows": 2, "counts": 1, "export": 1}
    assert FeatureSet(made.path).frames_from() == said
    made.save_index({})
    with watch() as touched:
        assert FeatureSet(made.path).frames_from() == said
    assert (touched.opened, touched.images) == (["recipe.json", "index.json"], [])
    # Of an index of an older vadx, which did not say it.
    listing = load_index(made.index_path).listing
    write_index(
        Index(load_index(made.index_path).folders, Listing(listing.ids, listing.rows)), made.index_path, made.tmp
    )
    assert b"frames_from" not in made.index_path.read_bytes()
    assert FeatureSet(made.path).frames_from() == said


def test_a_stage_is_listed_from_two_files(tmp_path: Path, watch: Any) -> None:
    stage = Store(tmp_path / "store").create_stage(StageRecipe("detections", {}), slug="boxes")
    for number in range(1, 5):
        data = stage_shard(f"v{number}", number, stage.digest)
        path = stage.publish(f"v{number}", data, replace=False).path
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
        os.utime(path.parent, ns=(LONG_AGO, LONG_AGO))
    stage.save_index({"/v/v1.mp4": (1, 2, SOURCE)})
    outlines = [(one.id, one.lengths["box"], one.bytes) for one in stage.outlines()]
    with watch() as touched:
        listed = StageSet(stage.path).summaries()
        assert [(one.id, one.num_clips, one.bytes) for one in listed.values()] == outlines
        assert {one.num_frames for one in listed.values()} == {40}
    assert (touched.opened, touched.images) == (["recipe.json", "index.json"], [])
    path.unlink()
    assert len(StageSet(stage.path).summaries()) == 3


def stage_shard(identifier: str, num_boxes: int, digest: str) -> bytes:
    arrays = {
        "frame": np.arange(1),
        "offset": np.array([0, num_boxes]),
        "box": np.zeros((num_boxes, 4), np.float32),
        "score": np.ones(num_boxes, np.float32),
        "label": np.ones(num_boxes, np.int64),
    }
    facts = {"video": {"num_frames_decoded": 40}, "categories": {}}
    return build_stage_shard(identifier, key_of(identifier), "detections", arrays, facts, digest, SOURCE)


def test_opening_a_set_does_not_read_its_index(feature_set: FeatureSet, watch: Any) -> None:
    settled(feature_set, 10)
    with watch() as touched:
        FeatureSet(feature_set.path)
    assert (touched.opened, touched.num_stats) == (["recipe.json"], 0)


def test_membership_is_one_stat(feature_set: FeatureSet, watch: Any) -> None:
    publish(feature_set, "a")
    settled(feature_set, 10)
    with watch() as touched:
        assert "a" in feature_set
        assert "b" not in feature_set
    assert (touched.opened, touched.listed) == ([], [])
    assert touched.num_stats <= 2


def test_deciding_what_a_video_needs_opens_one_shard_and_no_index(feature_set: FeatureSet, watch: Any) -> None:
    publish(feature_set, "a")
    settled(feature_set, 10)
    for identifier, verb in (("a", "current"), ("new", "extract")):
        with watch() as touched:
            assert feature_set.action(identifier, Video()).verb == verb
        assert touched.opened.count(f"{identifier}.h5") == 1
        assert set(touched.opened) <= {f"{identifier}.h5", f"{identifier}.json"}
        assert (touched.images, touched.listed, touched.num_stats) == ([], [], 0)


def test_reading_a_video_opens_its_shard_alone(feature_set: FeatureSet, watch: Any) -> None:
    publish(feature_set, "a")
    settled(feature_set, 10)
    with watch() as touched:
        assert len(feature_set["a"]) == 3
    assert (set(touched.opened), touched.images) == ({"a.h5"}, ["a.h5"])
    assert touched.listed == []


def test_hints_are_read_without_a_look_at_the_shards(feature_set: FeatureSet, watch: Any) -> None:
    settled(feature_set, 10)
    with watch() as touched:
        assert len(load_index(feature_set.index_path).sources) == 10
    assert set(touched.opened) == {"index.json"}
    assert (touched.listed, touched.num_stats) == ([], 0)


def test_saving_the_index_opens_the_shards_that_are_new(feature_set: FeatureSet, watch: Any) -> None:
    names = [f"n{number}" for number in range(40)]
    for name in names:
        os.utime(publish(feature_set, name), ns=(LONG_AGO, LONG_AGO))
    for folder in (feature_set.path / "shards").iterdir():
        os.utime(folder, ns=(LONG_AGO, LONG_AGO))
    feature_set.save_index({})
    folder = folder_of("n0")
    new = next(f"m{number}" for number in range(10**5) if folder_of(f"m{number}") == folder)
    publish(feature_set, new)
    with watch() as touched:
        feature_set.save_index({})
    assert touched.images == [f"{new}.h5"]
    assert {name for name in touched.opened if name.endswith(".h5")} == {f"{new}.h5"}
    assert [name for name in touched.listed if name != "shards"] == [folder]


def test_a_missing_video_is_compared_with_few_of_many(
    feature_set: FeatureSet, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(feature_set, 5000)
    compared: list[int] = []
    really = difflib.get_close_matches
    monkeypatch.setattr(
        difflib, "get_close_matches", lambda word, ids, n: (compared.append(len(ids)), really(word, ids, n))[1]
    )
    with watch() as touched, pytest.raises(KeyError, match=r"similar: .*Abuse/002500"):
        feature_set["Abuse/002500x"]
    assert 0 < compared[0] <= 2000
    assert [name for name in touched.opened if name != "index.json"] == [f"{key_of('Abuse/002500x')}.h5"]
