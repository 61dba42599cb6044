"""The index: derived, made again when it is gone or damaged, and read no more than it must be."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import ShardError, StoreWriteError
from vadx.features import index as index_module
from vadx.features import listed_set
from vadx.features.index import FRAMES_FROM_CODES, Index, Listing, load_index, write_index
from vadx.features.keys import folder_of, key_of
from vadx.features.shard import ShardOutline
from vadx.features.store import FeatureSet

from .samples import IDS, SOURCE, make_features, make_shard, publish, write

SEED = 20261122
OTHER_SOURCE = "f" * 64


def settle(feature_set: FeatureSet) -> None:
    for number, path in enumerate(sorted((feature_set.path / "shards").rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number))


def forged(names: str, rows: str = "", hints: str = "{}") -> bytes:
    """Give an index that is whole by its sha256, whatever it holds."""
    lines = [f'"listing":{names},\n'.encode(), f'"rows":"{rows}",\n'.encode(), f'"sources":{hints},\n'.encode()]
    listing_check, check = index_module._check("listing", *lines[:2]), index_module._check("sources", lines[2])
    return b"".join([index_module._head(), *lines[:2], listing_check, lines[2], check])


EMPTY = '{"folders":{},"ids":[]}'


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    really = index_module.read_outline

    def count(path: Path) -> ShardOutline:
        names.append(path.stem)
        return really(path)

    monkeypatch.setattr(index_module, "read_outline", count)
    return names


def test_only_folders_that_changed_are_read_again(full: FeatureSet, read_again: list[str]) -> None:
    settle(full)
    full.save_index({})
    truth = full.summaries()
    assert sorted(read_again) == sorted(map(key_of, IDS))
    assert list(truth) == sorted(IDS)
    read_again.clear()
    publish(full, "new")
    assert list(full.summaries()) == sorted([*IDS, "new"])
    assert read_again == ["new"]
    read_again.clear()
    full.shard_path("a").unlink()
    assert list(full.summaries()) == sorted({*IDS, "new"} - {"a"})
    assert read_again == ["new"]


def neighbour_of(identifier: str) -> str:
    """Give another id whose shard lies in the same folder."""
    numbers = (f"n{number}" for number in range(100_000))
    return next(n for n in numbers if folder_of(key_of(n)) == folder_of(key_of(identifier)))


def test_in_a_folder_that_changed_only_the_shards_that_are_new_are_read(
    full: FeatureSet, read_again: list[str]
) -> None:
    settle(full)
    full.save_index({})
    read_again.clear()
    new = neighbour_of("a")
    publish(full, new)
    assert list(full.summaries()) == sorted([*IDS, new])
    assert read_again == [new]


def test_a_shard_that_was_replaced_by_one_of_the_same_size_is_read_again(
    full: FeatureSet, read_again: list[str]
) -> None:
    settle(full)
    full.save_index({})
    size, before = full.shard_path("a").stat().st_size, full.summaries()["a"]
    path = full.shard_path("a")
    shard = make_shard("a", make_features(before.num_clips, seed=9, codec="hevc"), recipe_digest=full.digest)
    assert len(shard) == size
    read_again.clear()
    full.publish("a", shard, replace=True)
    assert full.summaries()["a"] == before
    assert read_again == [path.stem]


def test_a_shard_that_changed_just_now_is_not_recorded(full: FeatureSet, read_again: list[str]) -> None:
    settle(full)
    new = neighbour_of("a")
    publish(full, new)
    full.save_index({})
    index = load_index(full.index_path)
    assert set(index.folders) == {folder_of(key_of(i)) for i in IDS} - {folder_of(new)}
    assert index.listing.ids == sorted(IDS)
    read_again.clear()
    assert list(full.summaries()) == sorted([*IDS, new])
    assert read_again == [new]


def test_what_changes_while_the_index_is_made_is_not_recorded(
    full: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading many shards takes longer than a tick: the clock counts from before the first."""
    settle(full)
    looked_ns = 10**18 + 10**12
    monkeypatch.setattr(listed_set, "clock_ns", lambda *_: looked_ns)
    os.utime(full.shard_path("a"), ns=(0, looked_ns - 10**9))
    full.save_index({})
    assert sorted({*IDS} - set(load_index(full.index_path).listing)) == ["a"]
    os.utime(full.shard_path("a"), ns=(0, looked_ns - 3 * 10**9))
    full.save_index({})
    assert load_index(full.index_path).listing.ids == sorted(IDS)


def test_a_folder_that_changed_just_now_is_looked_at_again(full: FeatureSet, read_again: list[str]) -> None:
    settle(full)
    gone = full.shard_path("a")
    gone.rename(gone.with_suffix(".away"))
    full.save_index({})
    assert folder_of("a") not in load_index(full.index_path).folders
    gone.with_suffix(".away").rename(gone)
    assert list(full.summaries()) == sorted(IDS)


def test_the_clock_is_read_before_the_shards_are(full: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("clock_ns", "refresh"):
        really = getattr(listed_set, name)
        monkeypatch.setattr(listed_set, name, lambda *a, n=name, r=really: (order.append(n), r(*a))[1])
    full.save_index({})
    assert order == ["clock_ns", "refresh"]


def age(feature_set: FeatureSet, seconds: float) -> None:
    """Make every shard so much older than the newest folder."""
    newest = max(folder.stat().st_mtime_ns for folder in (feature_set.path / "shards").iterdir())
    for path in feature_set.shard_paths():
        os.utime(path, ns=(0, newest - round(seconds * 1e9)))


def test_without_an_index_a_shard_is_read_once_however_often_it_is_listed(
    full: FeatureSet, read_again: list[str]
) -> None:
    age(full, 3)
    assert list(full) == sorted(IDS)
    assert sorted(read_again) == sorted(map(key_of, IDS))
    publish(full, "new")
    read_again.clear()
    assert list(full.summaries()) == sorted([*IDS, "new"])
    assert read_again == ["new"]
    full.shard_path("a").unlink()
    assert list(full) == sorted({*IDS, "new"} - {"a"})
    assert set(read_again) == {"new"}


def test_a_shard_as_young_as_the_folders_is_read_again(full: FeatureSet, read_again: list[str]) -> None:
    """It may be replaced by one of its size within the clock's tick, and would then look unchanged."""
    age(full, 1)
    assert len(full.summaries()) == len(IDS)
    read_again.clear()
    assert len(full.summaries()) == len(IDS)
    assert sorted(read_again) == sorted(map(key_of, IDS))


def test_folders_from_the_future_vouch_for_nothing(full: FeatureSet, read_again: list[str]) -> None:
    folder = full.shard_path("a").parent
    os.utime(folder, ns=(0, 2**62))
    assert len(full.summaries()) == len(IDS)
    read_again.clear()
    assert len(full.summaries()) == len(IDS)
    assert sorted(read_again) == sorted(map(key_of, IDS))


def test_a_shard_that_was_replaced_since_is_read_again_without_an_index(
    full: FeatureSet, read_again: list[str]
) -> None:
    age(full, 3)
    before = full.summaries()["a"]
    shard = make_shard("a", make_features(before.num_clips + 1, seed=9), recipe_digest=full.digest)
    full.publish("a", shard, replace=True)
    read_again.clear()
    assert full.summaries()["a"].num_clips == before.num_clips + 1
    assert read_again == [key_of("a")]


def test_a_folder_that_changes_twice_within_a_tick_is_read_twice(full: FeatureSet) -> None:
    folder = full.shard_path("a").parent
    before = folder.stat()
    assert list(full) == sorted(IDS)
    new = neighbour_of("a")
    publish(full, new)
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(full) == sorted([*IDS, new])


def test_a_shard_from_the_future_is_listed(full: FeatureSet) -> None:
    settle(full)
    os.utime(full.shard_path("a"), ns=(0, 2**62))
    full.save_index({})
    assert list(full.summaries()) == sorted(IDS)
    assert folder_of("a") not in load_index(full.index_path).folders


def test_an_index_that_is_gone_is_made_again(full: FeatureSet) -> None:
    settle(full)
    truth = full.summaries()
    full.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    full.index_path.unlink()
    assert full.summaries() == truth
    full.save_index({})
    again = load_index(full.index_path)
    assert again.folders == full.index().folders
    assert again.listing == truth
    assert again.sources == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b'{"vadx": 1, "folders": [], "sources": {}}',
        forged("[]"),
        forged("[" * 100_000),
        forged('{"folders":{},"ids":["a"]}'),
        forged('{"folders":3,"ids":[]}'),
        forged(EMPTY, rows="AAA"),
        forged(EMPTY, rows="AAAA"),
    ],
)
def test_an_index_that_is_damaged_is_made_again(full: FeatureSet, content: bytes) -> None:
    settle(full)
    truth = full.summaries()
    full.index_path.write_bytes(content)
    assert full.summaries() == truth
    full.save_index({})
    assert load_index(full.index_path).listing == truth


def test_a_flipped_bit_in_the_index_never_changes_what_is_listed_or_hinted(full: FeatureSet) -> None:
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    settle(full)
    hints = {"/v/a.mp4": (1, 2, SOURCE)}
    full.save_index(hints)
    truth = full.summaries()
    right = full.index_path.read_bytes()
    for at in random.choice(len(right), size=150, replace=False):
        wrong = bytearray(right)
        wrong[at] ^= 1 << int(random.integers(8))
        full.index_path.write_bytes(wrong)
        index = full.index()
        assert index.listing == truth, at
        assert index.sources in ({}, hints), at


def test_an_index_of_another_version_is_not_believed(full: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(full)
    monkeypatch.setattr(index_module, "INDEX_VERSION", index_module.INDEX_VERSION + 1)
    full.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    assert load_index(full.index_path).folders
    monkeypatch.undo()
    old = load_index(full.index_path)
    assert (old.folders, len(old.listing), old.sources) == ({}, 0, {})


def test_source_hints_are_kept_and_renewed(feature_set: FeatureSet) -> None:
    feature_set.save_index({"/v/a.mp4": (1, 2, SOURCE), "/v/b.mp4": (3, 4, SOURCE)})
    feature_set.save_index({"/v/b.mp4": (5, 6, OTHER_SOURCE)})
    assert feature_set.index().sources == {"/v/a.mp4": (1, 2, SOURCE), "/v/b.mp4": (5, 6, OTHER_SOURCE)}


def test_writing_the_index_leaves_nothing_and_touches_nothing_in_tmp(full: FeatureSet) -> None:
    other = write(full.tmp / "clock", b"another run's")
    full.save_index({})
    assert [path.name for path in full.tmp.iterdir()] == ["clock"]
    assert other.read_bytes() == b"another run's"


def test_an_index_that_cannot_be_written_is_a_write_error(full: FeatureSet) -> None:
    with pytest.raises(StoreWriteError, match="index"):
        write_index(Index(), full.index_path, full.path / "absent")


def test_hints_are_not_parsed_to_list_and_are_kept_as_they_stand(
    full: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(full)
    hints = {"/v/b.mp4": (1, 2, SOURCE), "/v/\udcff.mp4": (2**40, 2**60, OTHER_SOURCE)}
    full.save_index(hints)
    monkeypatch.setattr(index_module, "_parse_hints", lambda *_: pytest.fail("the hints were parsed"))
    assert list(full) == sorted(IDS)
    publish(full, "new")
    full.save_index({})
    monkeypatch.undo()
    assert load_index(full.index_path).sources == hints


@pytest.mark.parametrize("hints", ["[]", '{"paths":["a"],"rows":"","sha256":[]}', '{"rows":3}', "[" * 100_000])
def test_hints_that_are_damaged_count_as_none(feature_set: FeatureSet, hints: str) -> None:
    feature_set.index_path.write_bytes(forged(EMPTY, hints=hints))
    assert load_index(feature_set.index_path).sources == {}
    feature_set.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    assert load_index(feature_set.index_path).sources == {"/v/a.mp4": (1, 2, SOURCE)}


def test_damage_in_the_listing_does_not_cost_the_hints(full: FeatureSet) -> None:
    settle(full)
    full.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    full.index_path.write_bytes(full.index_path.read_bytes().replace(b'"a"', b'"c"'))
    index = load_index(full.index_path)
    assert (index.folders, index.sources) == ({}, {"/v/a.mp4": (1, 2, SOURCE)})


def test_a_listing_is_a_mapping_in_the_order_of_ids(full: FeatureSet) -> None:
    listing = full.summaries()
    assert listing.ids == sorted(IDS)
    assert list(listing.values()) == [listing[identifier] for identifier in sorted(IDS)]
    assert {s.id: s.num_clips for s in listing.values()} == {name: n + 1 for n, name in enumerate(IDS)}
    assert "a" in listing
    assert "a\0" not in listing
    with pytest.raises(KeyError):
        listing["zz"]
    with pytest.raises(ValueError, match="1 ids, 0 rows"):
        Listing(["a"], listing.rows[:0])


def test_a_set_that_was_listed_notices_what_another_did(full: FeatureSet, read_again: list[str]) -> None:
    settle(full)
    other = FeatureSet(full.path)
    assert list(other) == sorted(IDS)
    publish(full, "new")
    assert list(other) == sorted([*IDS, "new"])
    settle(full)
    full.save_index({})
    read_again.clear()
    assert list(other) == sorted([*IDS, "new"])
    assert read_again == []


def test_a_set_travels_without_what_it_loaded(full: FeatureSet) -> None:
    before = pickle.dumps(full)
    list(full)
    assert pickle.dumps(full) == before
    assert list(pickle.loads(before)) == list(full)  # noqa: S301  # its own bytes


def test_how_frames_are_known_is_written_and_read_as_it_was(full: FeatureSet) -> None:
    # The numbers stand in files: a word that is added comes last.
    assert FRAMES_FROM_CODES == ("", "export", "counts", "rows")
    settle(full)
    index = full.index()
    codes = np.arange(len(index.listing), dtype=np.uint8) % len(FRAMES_FROM_CODES)
    write_index(
        Index(index.folders, Listing(index.listing.ids, index.listing.rows, codes)), full.index_path, full.tmp, hints={}
    )
    found = load_index(full.index_path)
    assert found.listing.frames_from.tolist() == codes.tolist()
    assert found.listing == index.listing
    kept = np.arange(len(codes)) % 2 == 0
    assert found.listing.only(kept).frames_from.tolist() == codes[kept].tolist()
    publish(full, "new")
    grown = full.index().listing
    assert dict(zip(grown.ids, grown.frames_from.tolist(), strict=True)) == {
        **dict(zip(found.listing.ids, codes.tolist(), strict=True)),
        "new": 0,
    }


@pytest.mark.parametrize("codes", ["9", "-", "00000000000", "\u1234"])
def test_codes_that_mean_nothing_make_an_index_that_counts_as_none(full: FeatureSet, codes: str) -> None:
    names = json.dumps({"folders": {"00": 1}, "ids": ["a"], "frames_from": codes})
    row = index_module._as_text(np.zeros(1, index_module._ROW))
    full.index_path.write_bytes(forged(names, row))
    assert (load_index(full.index_path).folders, len(load_index(full.index_path).listing)) == ({}, 0)
    full.index_path.write_bytes(forged(names.replace(json.dumps(codes), '"3"'), row))
    assert load_index(full.index_path).listing.frames_from.tolist() == [3]


def test_a_shard_that_the_system_could_not_read_once_is_not_lost_from_the_listing(
    full: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(full)
    really, refused = index_module.read_outline, []

    def read(path: Path) -> ShardOutline:
        if path.stem == "a" and not refused:
            refused.append(path)
            raise ShardError(str(path), "unreadable", "Input/output error")
        return really(path)

    monkeypatch.setattr(index_module, "read_outline", read)
    full.save_index({})
    assert len(refused) == 1
    assert "a" not in load_index(full.index_path).listing
    assert list(FeatureSet(full.path)) == sorted(IDS)
