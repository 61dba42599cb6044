"""JSON and TOML of strangers, at each place where vadx reads one; and what a store may make vadx write to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from vadx.detectors.detection_files import read_detections
from vadx.errors import RecipeError, StoreError, UsageError
from vadx.features import plain_json
from vadx.features.checkpoint import Checkpoint
from vadx.features.keys import file_of
from vadx.features.layouts.marker import MARKER, read_marker
from vadx.features.manifest import read_manifest
from vadx.features.pack import pack_set, unpack_set
from vadx.features.packed_set import PackedSet
from vadx.features.plain_json import load_json
from vadx.features.shard_set import FailureRecord, read_recipe_file
from vadx.features.store import FeatureSet, Store
from vadx.features.truth_readers import read_counts, read_shares
from vadx.pipelines import config, score_run, tube_drawing
from vadx.pipelines.model_folder import MODEL_JSON, read_facts
from vadx.pipelines.progress import StartEvent
from vadx.pipelines.run import RunLog
from vadx.pipelines.score_files import write_score_folder
from vadx.pipelines.scoring import ScoredVideo
from vadx.pipelines.sweep import find_leftovers, sweep

from ..features.samples import RECIPE, publish, shard_of
from .traps import Canary

pytestmark = [pytest.mark.usefixtures("no_power_loss"), pytest.mark.timeout(60)]

HOSTILE_JSON: Mapping[str, str] = {
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "too large a number": '{"a": 1e999}',
    "a whole number of 5,000 digits": '{"a": ' + "9" * 5000 + "}",
    "a name twice": '{"a": 1, "a": 2}',
    "100,000 deep": "[" * 100_000,
    "100,000 objects deep": '{"a":' * 100_000,
    "100,000 deep in what nobody asks for": '[{"a":' + "[" * 100_000,
    "cut off": '{"a": [1,',
    "half of a surrogate": '{"a": "\\ud800',
    "not UTF-8": "\udcff",
    "empty": "",
    "two of them": "{} {}",
}


def _write(path: Path, kind: str) -> Path:
    path.write_bytes(HOSTILE_JSON[kind].encode("utf-8", "surrogateescape"))
    return path


def _model(path: Path) -> object:
    return read_facts(path.rename(path.with_name(MODEL_JSON)).parent)


def _marker(path: Path) -> object:
    return read_marker(path.rename(path.with_name(MARKER)).parent)


def _recipe(path: Path) -> object:
    return read_recipe_file(path.rename(path.with_name("recipe.json")).parent)


def _manifest(path: Path) -> object:
    return read_manifest(path.rename(path.with_suffix(".jsonl")))


READERS: Mapping[str, Callable[[Path], object]] = {
    "recipe.json": _recipe,
    "model.json": _model,
    "the note of an export": _marker,
    "counts": read_counts,
    "shares": read_shares,
    "manifest": _manifest,
    "detections": lambda path: read_detections(path, format="coco"),
}


@pytest.mark.parametrize("kind", sorted(set(HOSTILE_JSON) - {"empty"}))
@pytest.mark.parametrize("reader", READERS)
def test_hostile_json_is_refused_by_name(reader: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises((StoreError, UsageError)) as caught:
        READERS[reader](_write(tmp_path / "hostile.json", kind))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", sorted(HOSTILE_JSON))
def test_a_record_in_a_store_that_is_hostile_is_none(kind: str, tmp_path: Path) -> None:
    made = Store(tmp_path / "store").create(RECIPE, slug="i3d")
    shard = publish(made, "a")
    made.record_failure(FailureRecord("b", "VIDEO_EMPTY", "b.mp4", "0 bytes", None))
    _write(made.failure_path("b"), kind)
    note = made._damage_path(shard.stem)
    note.parent.mkdir(parents=True)
    _write(note, kind)
    _write(made.index_path, kind)
    assert made.failure("b") is None
    assert made.failures() == []
    assert not isinstance(made.header("a"), Exception)
    assert list(made) == ["a"]


def test_no_reader_waits_for_a_fifo_or_follows_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            load_json(path)
    made = Store(tmp_path / "store").create(RECIPE, slug="i3d")
    made.failure_path("b").parent.mkdir(parents=True)
    os.mkfifo(made.failure_path("b"))
    assert made.failures() == []
    (made.path / "recipe.json").unlink()
    os.mkfifo(made.path / "recipe.json")
    with pytest.raises(StoreError, match="cannot be read as JSON"):
        FeatureSet(made.path)


def test_a_file_far_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.truncate(plain_json.MAX_JSON_BYTES + 1)
    with pytest.raises(ValueError, match="it is longer than 67108864 bytes"):
        load_json(path)
    (tmp_path / "list.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(ValueError, match="it is longer than 50 bytes"):
        load_json(tmp_path / "list.json", max_bytes=50)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = 1\na = 2", "\udcff", "a = " + "9" * 5000])
def test_hostile_settings_are_refused_by_name(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vadx.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"vadx\.toml cannot be read as TOML"):
        config.default_map(["extract"])


HOSTILE_IDS = (
    "../../../../../outside",
    "/tmp/absolute",
    "a/../../../outside",
    "..",
    ".",
    "a//b",
    "dots...",
    "nul\0cut",
    "line\nbreak",
    "\x1b[2J",
    "CON",
    "a" * 5000,
    "\ud800",
    "-rf",
    "Case",
    "case",
)


@pytest.mark.parametrize("identifier", HOSTILE_IDS)
def test_no_id_leads_out_of_a_store(identifier: str, tmp_path: Path) -> None:
    made = Store(tmp_path / "deep" / "store").create(RECIPE, slug="i3d")
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(made.path)}
    for path in (made.shard_path(identifier), made.failure_path(identifier)):
        assert path.resolve().is_relative_to(made.path.resolve())
        assert len(os.fsencode(path.name)) < 200
    try:
        made.record_failure(FailureRecord(identifier, "VIDEO_EMPTY", "x.mp4", "0 bytes", None))
        made.publish(identifier, shard_of(identifier), replace=False)
    except (ValueError, StoreError):
        assert identifier in {"nul\0cut", "\ud800"}
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(made.path)} == before


def test_a_packed_file_unpacks_into_its_store_alone(tmp_path: Path) -> None:
    hostile = [one for one in HOSTILE_IDS if one not in {"nul\0cut", "\ud800"}]
    made = Store(tmp_path / "theirs").create(RECIPE, slug="i3d")
    for identifier in hostile:
        publish(made, identifier)
    packed = pack_set(made, tmp_path / "packed.h5").path
    before = set(tmp_path.rglob("*"))
    with PackedSet(packed) as opened:
        # The name of the folder that it was packed from is theirs to choose.
        opened._name = "../../evil"
        report = unpack_set(opened, Store(tmp_path / "deep" / "ours"))
    assert report.num_new == len(hostile)
    assert report.feature_set.path.parent == tmp_path / "deep" / "ours"
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "deep") for path in new)
    assert sorted(report.feature_set) == sorted(hostile)


def _as_files(folder: Path) -> dict[str, Callable[[str], object]]:
    return {
        "keys": lambda identifier: file_of(folder, identifier, ".npy"),
        "score": lambda identifier: score_run._place(folder, identifier, ".csv"),
        "tubes": lambda identifier: tube_drawing._place(folder, identifier, ".tubes.png"),
    }


@pytest.mark.parametrize("writer", ["keys", "score", "tubes"])
def test_no_id_leads_out_of_a_folder_of_results(writer: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    place = _as_files(folder)[writer]
    for identifier in (
        "../../outside",
        "/tmp/absolute",
        "a/../../../outside",
        "a//b",
        "a/.",
        "nul\0cut",
        "",
        "..\\..\\x",
    ):
        with pytest.raises(UsageError, match="leads out of this folder"):
            place(identifier)
    for identifier in ("Abuse/Abuse001_x264", "..", "dots...", "影片 1", "cam1:08", "a.b/c.d"):
        path = place(identifier)
        assert isinstance(path, Path)
        assert path.resolve().is_relative_to(folder.resolve())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_scores_of_a_hostile_set_stay_in_their_folder(tmp_path: Path) -> None:
    whole = np.array([[0, 4]])
    scores = np.zeros(4, np.float32)
    video = ScoredVideo("../outside", whole, scores[:1], scores, whole.astype(np.float64))
    with pytest.raises(UsageError, match="leads out of this folder"):
        write_score_folder(tmp_path / "scores", [video])
    assert list(tmp_path.rglob("*.npy")) == []


class TestLinksInAStore:
    """Whoever may write to a store must not thereby have others' files read, emptied or written."""

    def made(self, tmp_path: Path) -> FeatureSet:
        return Store(tmp_path / "store").create(RECIPE, slug="i3d")

    def test_a_shard_that_is_a_link_is_not_read(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        path = publish(made, "a")
        with Canary(tmp_path / "elsewhere" / "real.h5", path.read_bytes()) as canary:
            path.unlink()
            path.symlink_to(canary.path)
            with pytest.raises(StoreError):
                made["a"]
            assert [error is not None for _, error in made.verify()] == [True]
            assert not canary.was_touched

    def test_a_shard_that_is_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        path = publish(made, "a")
        with Canary(tmp_path / "elsewhere" / "theirs.h5") as canary:
            path.unlink()
            path.symlink_to(canary.path)
            made.publish("a", shard_of("a"), replace=True)
            assert not path.is_symlink()
            assert canary.is_intact
        assert "a" in made

    def test_a_folder_that_is_a_link_is_not_written_to(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        folder = made.shard_path("a").parent
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match=r"is a link to .*; remove it"):
            made.publish("a", shard_of("a"), replace=False)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_shards_may_lie_on_another_disk(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        (made.path / "shards").rmdir()
        (tmp_path / "large disk").mkdir()
        (made.path / "shards").symlink_to(tmp_path / "large disk")
        publish(made, "a")
        assert list(made) == ["a"]

    def test_unfinished_work_that_is_a_link_is_not_emptied(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        with Canary(tmp_path / "elsewhere" / "diary.txt") as canary:
            (made.tmp / "a.resume").symlink_to(canary.path)
            with pytest.raises(StoreError), Checkpoint(made.tmp, "a", {"recipe": "x"}):
                pass
            assert canary.is_intact

    def test_a_log_that_is_a_link_is_not_appended_to(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        log = RunLog(made.path)
        with Canary(tmp_path / "elsewhere" / "diary.txt") as canary:
            log.path.symlink_to(canary.path)
            log.write(StartEvent(log.name, "x", "y", 1, 1, "cpu"))
            assert canary.is_intact

    def test_what_is_swept_is_the_link_and_not_its_target(self, tmp_path: Path) -> None:
        made = self.made(tmp_path)
        with Canary(tmp_path / "elsewhere" / "diary.txt") as canary:
            (made.tmp / "x.part").symlink_to(canary.path)
            (made.tmp / "folder.part").symlink_to(canary.path.parent)
            for leftover in find_leftovers(made, float("inf")):
                sweep(made, leftover)
            assert canary.is_intact
        assert list(made.tmp.iterdir()) == []


def test_a_recipe_is_not_what_it_says_it_is(tmp_path: Path) -> None:
    made = Store(tmp_path / "store").create(RECIPE, slug="i3d")
    raw = json.loads((made.path / "recipe.json").read_text())
    raw["recipe"]["weights"] = "../../../etc/passwd"
    (made.path / "recipe.json").write_text(json.dumps(raw))
    with pytest.raises((StoreError, RecipeError)):
        FeatureSet(made.path)
