"""A few seconds of what `crowd.py` does for minutes: nobody reads what was not written, whoever is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vadx.features import shard_set
from vadx.features.publish import Published

from .crowd import Crowd, run

SMALL = Crowd(writers=4, readers=2, names=3, seconds=2.0, kills=3, seed=20261122)


@pytest.mark.usefixtures("no_power_loss")
def test_readers_see_only_what_was_written_whole(tmp_path: Path) -> None:
    print(f"seed {SMALL.seed}")
    seen = run(SMALL, tmp_path)
    assert seen["violations"] == []
    assert seen["verified_reads"] > 20


@pytest.mark.usefixtures("no_power_loss")
def test_shards_that_are_written_in_place_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(data: bytes, final: Path, _tmp: Path, *, replace: bool) -> Published:
        del replace
        with final.open("wb", buffering=0) as file:
            for start in range(0, len(data), 512):
                file.write(data[start : start + 512])
        return Published(final, "new")

    monkeypatch.setattr(shard_set, "publish_bytes", in_place)
    assert run(SMALL, tmp_path)["violations"] != []
