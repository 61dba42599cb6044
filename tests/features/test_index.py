"""The index: derived, made again when it is gone or damaged, and read no more than it must be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import StoreWriteError
from vadx.features import index as index_module
from vadx.features.index import Index, ShardSummary, load_index, write_index
from vadx.features.keys import folder_of, key_of
from vadx.features.store import FeatureSet

from .samples import IDS, SOURCE, publish, write

SEED = 20261122
OTHER_SOURCE = "f" * 64


def settle(feature_set: FeatureSet) -> None:
    for number, folder in enumerate(sorted((feature_set.path / "shards").iterdir())):
        os.utime(folder, ns=(0, 10**18 + number))


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    really = index_module.summarize

    def count(path: Path) -> ShardSummary:
        names.append(path.stem)
        return really(path)

    monkeypatch.setattr(index_module, "summarize", count)
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


def test_a_folder_that_changed_just_now_is_not_recorded_as_settled(full: FeatureSet, read_again: list[str]) -> None:
    settle(full)
    publish(full, "new")
    full.save_index({})
    assert set(load_index(full.index_path).folders) == {folder_of(key_of(i)) for i in IDS}
    read_again.clear()
    assert "new" in full.summaries()
    assert read_again == ["new"]


def test_an_index_that_is_gone_is_made_again(full: FeatureSet) -> None:
    settle(full)
    truth = full.summaries()
    full.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    full.index_path.unlink()
    assert full.summaries() == truth
    full.save_index({})
    assert load_index(full.index_path) == Index(full.index().folders, {})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"[" * 100_000, b"\xff", b'{"vadx": 1}', b'{"vadx": 1, "folders": [], "sources": {}}'],
)
def test_an_index_that_is_damaged_is_made_again(full: FeatureSet, content: bytes) -> None:
    settle(full)
    truth = full.summaries()
    full.index_path.write_bytes(content)
    assert full.summaries() == truth
    full.save_index({})
    assert load_index(full.index_path).summaries() == truth


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
        assert index.summaries() == truth, at
        assert index.sources in ({}, hints), at


def test_an_index_of_another_version_is_not_believed(full: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(full)
    monkeypatch.setattr(index_module, "INDEX_VERSION", 2)
    full.save_index({"/v/a.mp4": (1, 2, SOURCE)})
    assert load_index(full.index_path).folders
    monkeypatch.undo()
    assert load_index(full.index_path) == Index()


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
