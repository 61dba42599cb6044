"""Flipped bits, zeroed pages and cut files, of every kind that vadx keeps: `verify` finds them, no reader is fooled.

`tests/fuzz/run.py` does the same for hours, and `tests/features/test_shard.py` for every page of a large shard.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vadx.features.shard_set import ShardSet

from . import rotten
from .rotten import FILES, Rotten, ruin

SEED = 20261122
COUNTS = {"flip": 155, "page": 39, "cut": 16}


def noticed(one: Rotten) -> bool:
    return one.found or not one.is_changed


@pytest.mark.parametrize("kind", FILES)
def test_rot_is_found_by_verify_and_never_read(kind: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    found = list(ruin(FILES[kind](tmp_path), COUNTS, SEED))
    assert len(found) == sum(COUNTS.values())
    assert [one for one in found if one.read == "wrong"] == []
    assert [one for one in found if one.strangers] == []
    # What lies between the data sets of a plain HDF5 file is read by nobody, and no digest covers it.
    missed = [one for one in found if not noticed(one) and not (is_plain_hdf5(kind) and one.read == "same")]
    assert missed == []


def is_plain_hdf5(kind: str) -> bool:
    return kind in ("packed file", "bags file")


@pytest.mark.parametrize("kind", ["shard", "bags file"])
def test_a_verify_that_finds_nothing_is_found_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = FILES[kind](tmp_path)
    monkeypatch.setattr(ShardSet, "verify", lambda self: iter(()))
    monkeypatch.setattr(rotten, "files_to_verify", lambda path: iter(()))
    blind = ruin(subject, {"flip": 20}, SEED)
    assert not all(noticed(one) or one.read == "same" for one in blind)
