from __future__ import annotations

import ast
import errno
import hashlib
import itertools
import json
import os
import pickle
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import NoInputError, ShardError, StoreError, StoreWriteError, UsageError
from vadx.features import Store
from vadx.features import pack as pack_module
from vadx.features import packed_set as packed_module
from vadx.features.keys import key_of
from vadx.features.pack import default_path, differences, pack_set, unpack, unpack_set
from vadx.features.pack_writer import write_in_child
from vadx.features.packed_set import PACKED_VERSION, PackedSet, group_parts, means_packed
from vadx.features.shard import HEADER_BYTES, open_shard
from vadx.features.shard_set import FailureRecord
from vadx.features.spool import ClipSpool
from vadx.features.store import FeatureSet
from vadx.features.timeline import ClipTable, VideoFacts

from .samples import IDS, RECIPE, SOURCE, make_features, make_recipe, make_shard, publish

SEED = 20261122
ODD_IDS = (
    "a/features",
    "a/features/frames",
    "features",
    "%videos",
    "%a",
    "x//y",
    "x/./y",
    "x/../y",
    "x/y",
    "/x",
    "é\n",
)
FAILURES = (
    FailureRecord("broken", "VIDEO_TRUNCATED", "/videos/broken.mp4", "36 of 120 frames", SOURCE),
    FailureRecord("Abuse/影片", "VIDEO_EMPTY", "/videos/影片.mp4", "no bytes", None, strict=True),
    FailureRecord("a", "VIDEO_DAMAGED", "/videos/a.mp4", "a newer file", "f" * 64),
)


@pytest.fixture
def rich(full: FeatureSet) -> FeatureSet:
    """Make a set with ids that are hard to name, ten crops, float16, an empty text, and failures."""
    for identifier in ODD_IDS:
        publish(full, identifier)
    for identifier, features in {
        "crops": make_features(40, 10, 8),
        "half": make_features(5, dtype="float16"),
        "untold": replace(make_features(), facts=VideoFacts(25.0, 48, 320, 240), provenance={}),
    }.items():
        full.publish(identifier, make_shard(identifier, features, recipe_digest=RECIPE.digest), replace=False)
    for record in FAILURES:
        full.record_failure(record)
    return full


@pytest.fixture(scope="module")
def packed_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give a packed file of the set `full`, made once."""
    folder = tmp_path_factory.mktemp("packed")
    feature_set = Store(folder).create(RECIPE, slug="i3d-k400", preset="rtfm", weights_name="i3d.safetensors")
    for number, identifier in enumerate(IDS):
        publish(feature_set, identifier, num_clips=number + 1)
    return pack_set(feature_set).path.read_bytes()


@pytest.fixture
def packed(packed_bytes: bytes, tmp_path: Path) -> PackedSet:
    (tmp_path / "packed.h5").write_bytes(packed_bytes)
    return PackedSet(tmp_path / "packed.h5")


def hashes(feature_set: FeatureSet) -> dict[str, str]:
    return {
        path.relative_to(feature_set.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*feature_set.shard_paths(), feature_set.path / "recipe.json")
    }


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_any_h5py_reads_it(rich: FeatureSet, tmp_path: Path) -> None:
    path = pack_set(rich, tmp_path / "i3d.h5").path
    with h5py.File(path, "r") as file:
        assert file.attrs["vadx_packed"] == PACKED_VERSION == 1
        assert file.attrs["digest"].decode() == RECIPE.digest
        assert json.loads(file.attrs["recipe"]) == RECIPE.to_mapping()
        assert (file.attrs["preset"], file.attrs["weights_name"]) == (b"rtfm", b"i3d.safetensors")
        assert file.attrs["num_videos"] == len(rich)
        assert [json.loads(text)["id"] for text in file["%failures"].asstr()[:]] == ["Abuse/影片", "a", "broken"]
        for identifier in ("Abuse/Abuse001_x264", "crops", "half"):
            expected, group = rich[identifier], file[identifier]
            np.testing.assert_array_equal(group["features"][:], expected.values, strict=True)
            np.testing.assert_array_equal(group["frames"][:], expected.frames, strict=True)
            np.testing.assert_array_equal(group["seconds"][:], expected.seconds, strict=True)
            np.testing.assert_array_equal(group["damaged"][:], expected.damaged, strict=True)
            assert [dim.label for dim in group["features"].dims] == ["clip", "crop", "feature"]
            shard = rich.shard_path(identifier).read_bytes()
            assert group.attrs["shard_sha256"].decode() == hashlib.sha256(shard[HEADER_BYTES:]).hexdigest()
            assert group.attrs["id"].decode() == identifier
            assert (group.attrs["source_sha256"].decode(), group.attrs["fps"]) == (SOURCE, 25.0)


def test_the_reading_code_of_the_docstring_runs(
    full: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_set(full, tmp_path / "i3d.h5")
    monkeypatch.chdir(tmp_path)
    text = (packed_module.__doc__ or "").split("::\n")[1].split("\nA video's")[0]
    names: dict[str, Any] = {}
    exec(compile(ast.parse("if True:\n" + text), "docstring", "exec"), names)  # our own docstring
    assert names["ids"] == sorted(IDS)
    np.testing.assert_array_equal(names["features"], full["Abuse/Abuse001_x264"].values)
    assert names["recipe"] == RECIPE.to_mapping()
    assert names["codec"] == "h264"


def test_a_round_trip_gives_the_same_shards_byte_for_byte(rich: FeatureSet, tmp_path: Path) -> None:
    before = hashes(rich)
    report = pack_set(rich, tmp_path / "packed.h5")
    assert (report.status, report.num_videos, report.num_failures) == ("packed", len(before) - 1, 3)
    made = unpack(report.path, Store(tmp_path / "other"))
    assert (made.name, hashes(made), hashes(rich)) == (rich.name, before, before)
    assert made.failures() == rich.failures()
    assert set(made) == {*IDS, *ODD_IDS, "crops", "half", "untold"}
    assert [error for _, error in made.verify() if error] == []
    assert parts(tmp_path) == []


def test_the_same_shards_give_the_same_bytes(packed_bytes: bytes, tmp_path: Path) -> None:
    other = Store(tmp_path / "other").create(RECIPE, slug="i3d-k400", preset="rtfm", weights_name="i3d.safetensors")
    for number, identifier in reversed(list(enumerate(IDS))):
        publish(other, identifier, num_clips=number + 1)
    time.sleep(1.1)  # HDF5 would note whole seconds
    assert pack_set(other, tmp_path / "b.h5").path.read_bytes() == packed_bytes


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("Abuse/Abuse001_x264", ["Abuse", "Abuse001_x264"]),
        ("features", ["features"]),
        ("a/features", ["a", "%features"]),
        ("a/%features", ["a", "%%features"]),
        ("a/frames/seconds/damaged", ["a", "%frames", "%seconds", "%damaged"]),
        ("%videos", ["%%videos"]),
        ("/a//b/", ["%", "a", "%", "b", "%"]),
        ("./a/../b", ["%.", "a", "%..", "b"]),
        ("a.b/100%", ["a.b", "100%"]),
    ],
)
def test_an_id_is_a_path_of_groups(identifier: str, expected: list[str]) -> None:
    assert group_parts(identifier) == expected


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["", ".", "%", "%.", "a", "features", "%features"]), min_size=1, max_size=3)))
def test_no_two_ids_meet_in_a_file(ids: list[list[str]]) -> None:
    distinct = {"/".join(parts_of) for parts_of in ids}
    groups = {tuple(group_parts(identifier)) for identifier in distinct}
    assert len(groups) == len(distinct)
    datasets = {(*group, "features") for group in groups}
    above = {group[:stop] for group in groups for stop in range(1, len(group) + 1)}
    assert not datasets & above
    assert not any(group[0] in ("%videos", "%failures") for group in groups)
    assert all(part not in ("", ".", "..") for group in groups for part in group)


class TestReading:
    def test_it_says_what_the_set_says(self, rich: FeatureSet, tmp_path: Path) -> None:
        with PackedSet(pack_set(rich, tmp_path / "renamed.h5").path) as packed:
            assert (packed.name, packed.digest, packed.recipe) == (rich.name, rich.digest, rich.recipe)
            assert (packed.preset, packed.weights_name) == (rich.preset, rich.weights_name)
            assert list(packed) == list(rich)
            assert len(packed) == len(rich)
            assert list(packed.summaries().values()) == list(rich.summaries().values())
            assert packed.failures() == rich.failures()
            assert packed.failure("broken") == rich.failure("broken") != packed.failure("b")
            for identifier in rich:
                assert packed.header(identifier) == rich.header(identifier)
                ours, theirs = packed[identifier], rich[identifier]
                for name in ("values", "frames", "seconds", "damaged"):
                    np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
                for name in ("facts", "num_padded_frames", "provenance"):
                    assert getattr(ours, name) == getattr(theirs, name)
            assert "a" in packed
            assert "c" not in packed
            assert 3 not in packed
            assert packed.header("c") is None
            assert [found for _, found in packed.verify()] == [None] * len(rich)

    def test_a_missing_id_names_similar_ones(self, packed: PackedSet) -> None:
        with pytest.raises(KeyError, match="similar: Abuse/Abuse001_x264"):
            packed["Abuse/Abuse001"]

    def test_each_process_opens_it_for_itself(self, packed: PackedSet) -> None:
        expected = packed["a"].values
        again = pickle.loads(pickle.dumps(packed))  # noqa: S301  # our own pickle
        np.testing.assert_array_equal(again["a"].values, expected)
        child = os.fork()
        if child == 0:
            shared = packed._file._opened
            same = np.array_equal(packed["a"].values, expected)
            os._exit(0 if same and packed._file._opened != shared else 1)
        assert os.waitpid(child, 0)[1] == 0
        packed.close()
        np.testing.assert_array_equal(packed["a"].values, expected)

    def test_it_cannot_be_changed(self, packed: PackedSet) -> None:
        for change in (
            lambda: packed.publish("x", b"", replace=True),
            lambda: packed.record_failure(FAILURES[0]),
            lambda: packed.save_index({}),
        ):
            with pytest.raises(StoreError, match=r"never changed.*vadx pack --unpack"):
                change()
        with pytest.raises(UsageError, match="packed already"):
            pack_set(packed)

    def test_a_shard_of_a_disk_spool_holds_the_same_again(self, feature_set: FeatureSet, tmp_path: Path) -> None:
        features = make_features(300)
        table = ClipTable(features.frames, features.seconds, features.damaged, features.facts, 2)
        with ClipSpool(feature_set.tmp, "a", "float32", memory_bytes=0) as spool:
            spool.append(features.values)
            shard = spool.finish("a", table, features.provenance, RECIPE.digest, SOURCE)
            assert isinstance(shard, Path)
            feature_set.publish("a", shard, replace=False)
        with PackedSet(pack_set(feature_set, tmp_path / "a.h5").path) as packed:
            report = unpack_set(packed, Store(tmp_path / "other"))
        made = open_shard(report.feature_set.shard_path("a"))
        np.testing.assert_array_equal(made.features.values, features.values, strict=True)
        changed = made.header != feature_set.header("a")
        assert report.rebuilt == (("a",) if changed else ())


class TestNoRisk:
    def test_a_damaged_shard_is_refused(self, full: FeatureSet, tmp_path: Path) -> None:
        target = tmp_path / "packed.h5"
        shard = full.shard_path("b")
        sound = shard.read_bytes()
        flipped = bytearray(sound)
        flipped[sound.index(full["b"].values.tobytes()[:16])] ^= 1
        for content, damage in ((bytes(flipped), "body"), (sound[:-1], "truncated"), (b"", "truncated")):
            shard.write_bytes(content)
            with pytest.raises(ShardError, match=r"vadx verify .*extract command") as caught:
                pack_set(full, target)
            assert (caught.value.damage, Path(caught.value.path).name) == (damage, "b.h5")
            assert not target.exists()
            assert parts(tmp_path) == []

    def test_a_shard_in_anothers_place_is_refused(self, full: FeatureSet, tmp_path: Path) -> None:
        shutil.copy(full.shard_path("a"), full.shard_path("a").with_name("c.h5"))
        with pytest.raises(ShardError, match="stranger"):
            pack_set(full, tmp_path / "packed.h5")

    @pytest.mark.parametrize("what", ["value", "text", "shard", "gone"])
    def test_what_was_written_is_compared_with_the_shards(
        self, full: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        def then(order: dict[str, Any]) -> dict[str, Any] | None:
            result = write_in_child(order)
            if what == "shard":
                full.publish("b", make_shard("b", make_features(9), recipe_digest=RECIPE.digest), replace=True)
            elif what == "gone":
                full.shard_path("b").unlink()
            else:
                with h5py.File(order["image"], "r+") as file:
                    if what == "value":
                        file["b/features"][0, 0, 0] += 1
                    else:
                        file["b"].attrs["codec"] = np.bytes_(b"h265")
            return result

        monkeypatch.setattr(pack_module, "write_in_child", then)
        with pytest.raises(StoreError, match=r"not written, because .*\(b: .*repeat the command"):
            pack_set(full, tmp_path / "packed.h5")
        assert not (tmp_path / "packed.h5").exists()
        assert parts(tmp_path) == []

    @pytest.mark.parametrize("reserved", ["all", "too little"])
    def test_a_disk_that_is_full_leaves_everything_as_it_was(
        self, full: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserved: str
    ) -> None:
        target = pack_set(full, tmp_path / "packed.h5").path
        before = target.read_bytes()
        publish(full, "new", num_clips=2000)
        shards = hashes(full)
        if reserved == "too little":
            monkeypatch.setattr(pack_module, "_room", lambda headers: 4096)
        with file_size_limit(60_000), pytest.raises(StoreWriteError, match=r"Free space there.*--to") as caught:
            pack_set(full, target)
        assert caught.value.errno == errno.EFBIG
        assert "synchronously" not in str(caught.value)
        assert (target.read_bytes(), hashes(full)) == (before, shards)
        assert parts(tmp_path) == []

    def test_the_writer_gives_up_when_its_parent_is_gone(self, full: FeatureSet, tmp_path: Path) -> None:
        order = {"set": str(full.path), "image": str(tmp_path / "x.part"), "bytes": 4096, "parent": 1}
        reason = write_in_child({**order, "ids": ["a"], "failures": [], "attributes": {}})
        assert reason == {"errno": None, "strerror": "the process that writes it ended with status 74"}
        assert not (tmp_path / "x.part").exists()

    def test_only_a_packed_file_of_the_same_set_is_replaced(self, full: FeatureSet, tmp_path: Path) -> None:
        target = pack_set(full).path
        assert target == default_path(full) == full.path.parent / f"{full.name}.h5"
        status = target.stat()
        assert pack_set(full).status == "current"
        assert (target.stat().st_ino, target.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
        publish(full, "new")
        assert (pack_set(full).status, pack_set(full).status) == ("packed", "current")
        assert "new" in PackedSet(target)
        full.record_failure(FAILURES[0])
        assert pack_set(full).status == "packed"
        other = Store(tmp_path / "store").create(make_recipe(clip_length=32), slug="other")
        publish_in(other, "a")
        foreign = tmp_path / "mine.h5"
        foreign.write_bytes(b"my own work")
        for place, what in ((target, "of another recipe"), (foreign, "no packed feature set")):
            content = place.read_bytes()
            with pytest.raises(UsageError, match=f"{what}.*stays as it is"):
                pack_set(other, place)
            assert place.read_bytes() == content

    def test_an_empty_set_is_refused(self, feature_set: FeatureSet) -> None:
        with pytest.raises(NoInputError, match="vadx ls"):
            pack_set(feature_set)


def publish_in(feature_set: FeatureSet, identifier: str) -> None:
    shard = make_shard(identifier, make_features(), recipe_digest=feature_set.digest)
    feature_set.publish(identifier, shard, replace=False)


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Have the system refuse larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_differences_are_named(rich: FeatureSet, tmp_path: Path) -> None:
    with PackedSet(pack_set(rich, tmp_path / "packed.h5").path) as packed:
        assert list(differences(packed, rich)) == []
        publish(rich, "new")
        rich.shard_path("b").unlink()
        rich.publish("z.y.x", make_shard("z.y.x", make_features(9), recipe_digest=RECIPE.digest), replace=True)
        rich.forget_failure("broken")
        assert list(differences(packed, rich)) == [
            ("b", "is not in the set"),
            ("new", "is not in the file"),
            ("z.y.x", "another shard was packed"),
            ("a", "its failure is not in the set")
            if rich.failure("a") is None
            else ("broken", "its failure is not in the set"),
        ]
        other = Store(tmp_path / "store").create(make_recipe(clip_length=32), slug="other")
        assert [what for _, what in differences(packed, other)] == [
            f"it is of recipe {RECIPE.digest[:8]}, the set of {other.digest[:8]}"
        ]


class TestUnpacking:
    def test_what_a_store_has_stays(self, packed: PackedSet, tmp_path: Path) -> None:
        store = Store(tmp_path / "other")
        there = store.create(RECIPE, slug="mine")
        publish(there, "b", num_clips=IDS.index("b") + 1)
        other = publish(there, "a", num_clips=7).read_bytes()
        damaged = publish(there, "z.y.x")
        damaged.write_bytes(damaged.read_bytes()[:-1])
        report = unpack_set(packed, store)
        assert (report.num_new, report.num_current, report.kept, report.rebuilt) == (4, 1, ("a",), ())
        assert report.feature_set.path == there.path
        assert there.shard_path("a").read_bytes() == other
        assert [error for _, error in there.verify() if error] == []

    def test_a_damaged_video_is_not_unpacked(self, packed: PackedSet, tmp_path: Path) -> None:
        packed.close()
        with h5py.File(packed.path, "r+") as file:
            file["b/features"][0, 0, 0] += 1
        with pytest.raises(ShardError, match=r"b: .*copy the file again, or pack its set again"):
            unpack(packed.path, Store(tmp_path / "other"))
        made = Store(tmp_path / "other").sets()[0]
        assert "b" not in made
        assert [error for _, error in made.verify() if error] == []


def set_attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def put(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        made = make(file)
        del file[name]
        file[name] = made

    return change


def virtual(file: h5py.File) -> None:
    del file["b/features"]
    layout = h5py.VirtualLayout((3, 1, 8), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 1, 8))
    file.create_virtual_dataset("b/features", layout)


def outside(file: h5py.File) -> None:
    del file["b/features"]
    file.create_dataset("b/features", (1, 1, 8), "f4", external=[("/etc/passwd", 0, 32)])


def huge(file: h5py.File) -> None:
    del file["b/features"]
    file.create_dataset("b/features", (1 << 30, 1, 1024), "f4", chunks=(64, 1, 1024))


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "group elsewhere": put("b", lambda _: h5py.ExternalLink("/etc/passwd", "/b")),
    "upper group elsewhere": put("Abuse", lambda _: h5py.SoftLink("/Normal")),
    "data elsewhere": put("b/features", lambda _: h5py.ExternalLink("/etc/passwd", "/b")),
    "virtual": virtual,
    "external storage": outside,
    "huge": huge,
    "objects": put("b/features", lambda _: np.array(["x"], h5py.string_dtype())),
    "no data": lambda file: file.__delitem__("b/damaged"),
    "no group": lambda file: file.__delitem__("b"),
    "another id": lambda file: file["b"].attrs.__setitem__("id", np.bytes_(b"c")),
    "another recipe": lambda file: file["b"].attrs.__setitem__("recipe_digest", np.bytes_(b"0" * 64)),
    "a text in a heap": lambda file: file["b"].attrs.__setitem__("codec", "h264"),
    "an array": lambda file: file["b"].attrs.__setitem__("fps", [1.0, 2.0]),
    "no facts": lambda file: file["b"].attrs.__delitem__("fps"),
}
FOREIGN: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no version": (lambda file: file.attrs.__delitem__("vadx_packed"), "not a packed feature set"),
    "newer": (set_attribute("vadx_packed", 2), "newer vadx packed it.*update vadx"),
    "strange version": (set_attribute("vadx_packed", np.bytes_(b"x")), "not a packed feature set"),
    "no digest": (lambda file: file.attrs.__delitem__("digest"), "or a damaged one"),
    "another digest": (set_attribute("digest", np.bytes_(b"0" * 64)), "disagree"),
    "unknown recipe": (set_attribute("recipe", np.bytes_(b'{"new": 1}')), "none that this vadx can read"),
    "no table": (lambda file: file.__delitem__("%videos"), "%videos is missing"),
    "table elsewhere": (put("%videos", lambda _: h5py.ExternalLink("/etc/passwd", "/b")), "link to somewhere else"),
    "short column": (put("%videos/seconds", lambda _: np.zeros(2)), "2 of seconds for 6 videos"),
    "disorder": (put("%videos/id", lambda file: file["%videos/id"][:][::-1]), "not in order"),
}


def change_file(packed: PackedSet, change: Callable[[h5py.File], None]) -> None:
    packed.close()
    with h5py.File(packed.path, "r+") as file:
        change(file)


class TestStrangeFiles:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_video_that_is_not_as_packed_is_refused(self, packed: PackedSet, name: str) -> None:
        change_file(packed, HOSTILE[name])
        broken = "Abuse/Abuse001_x264" if name == "upper group elsewhere" else "b"
        with PackedSet(packed.path) as found:
            with pytest.raises(ShardError, match=f"{broken}: .*vadx pack SET --to"):
                found[broken]
            assert [error is None for _, error in found.verify()] == [i != broken for i in found]
            found["a"]

    @pytest.mark.parametrize("name", FOREIGN)
    def test_a_file_that_is_none_is_refused(self, packed: PackedSet, name: str) -> None:
        change, message = FOREIGN[name]
        change_file(packed, change)
        with pytest.raises(StoreError, match=message):
            PackedSet(packed.path)

    def test_what_is_no_hdf5_file_is_refused(self, packed: PackedSet, tmp_path: Path) -> None:
        content = packed.path.read_bytes()
        for name, data in {
            "empty": b"",
            "text": b"hello",
            "cut": content[:-1],
            "half": content[: len(content) // 2],
        }.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(StoreError, match=r"not a packed feature set, or a damaged one.*vadx pack SET"):
                PackedSet(tmp_path / name)
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(StoreError, match="there is no such file"):
                PackedSet(path)

    def test_damage_is_found_or_does_none(self, packed: PackedSet, tmp_path: Path) -> None:
        """Flip single bits and zero pages: whatever the full check passes must hold what was packed."""
        content = packed.path.read_bytes()
        expected = state(packed)
        random = np.random.default_rng(SEED)
        found = 0
        for number in range(40):
            data = bytearray(content)
            at = int(random.integers(len(data)))
            if number % 3:
                data[at] ^= 1 << int(random.integers(8))
            else:
                data[at : at + 512] = bytes(len(data[at : at + 512]))
            path = tmp_path / "damaged.h5"
            path.write_bytes(data)
            try:
                with PackedSet(path) as damaged:
                    intact = all(error is None for _, error in damaged.verify())
                    if intact:
                        assert state(damaged) == expected, (SEED, number)
            except StoreError:
                intact = False
            found += not intact
        # Most bytes of this small file are data, tables or headers; the rest is room that nobody reads.
        assert found > 20


def test_which_paths_mean_a_packed_file(packed: PackedSet, tmp_path: Path) -> None:
    renamed = shutil.copy(packed.path, tmp_path / "i3d")
    (tmp_path / "notes").write_text("i3d")
    (tmp_path / "broken.h5").write_text("")
    means = {path: means_packed(tmp_path / path) for path in ("packed.h5", "i3d", "broken.h5", "notes", "none.h5", ".")}
    assert [path for path, yes in means.items() if yes] == ["packed.h5", renamed.name, "broken.h5"]


def state(packed: PackedSet) -> object:
    videos = {i: (packed.header(i), packed[i].values.tobytes(), packed[i].facts) for i in packed}
    return packed.name, packed.preset, packed.recipe, packed.failures(), list(packed.summaries().values()), videos


def test_the_table_of_datasets_is_the_shards() -> None:
    assert [f.name for f in fields(packed_module.ShardSummary)] == ["id", *packed_module.COLUMNS]
    assert len(set(map(key_of, itertools.chain(IDS, ODD_IDS)))) == len(IDS) + len(ODD_IDS)


def test_a_file_in_a_folder_s_place_is_told_with_the_option_of_pack(full: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreWriteError, match="A file stands where a folder must: give another --to"):
        pack_set(full, tmp_path / "file" / "packed.h5")
