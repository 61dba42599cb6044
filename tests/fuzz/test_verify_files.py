"""`vadx verify` of what is no set: a trained model's folder and a bags file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Ran

from .rotten import FILES


@pytest.mark.parametrize("kind", ["model.json", "last.safetensors", "bags file"])
def test_a_ruined_file_is_named_with_exit_code_4(kind: str, tmp_path: Path, vadx_here: Callable[..., Ran]) -> None:
    path = FILES[kind](tmp_path / "made").path if kind != "bags file" else FILES[kind](tmp_path).path
    named = path if kind == "bags file" else path.parent
    sound = vadx_here("verify", named)
    assert (sound.code, sound.out.strip()) == (0, ""), sound.err
    assert " checked, 0 damaged" in sound.err
    content = path.read_bytes()
    path.unlink()
    at = content.index(b'"dim"') + 1 if kind == "model.json" else len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    ruined = vadx_here("verify", named)
    assert ruined.code == 4
    assert str(path) in ruined.out
    assert "1 damaged" in ruined.err
    found = json.loads(vadx_here("verify", named, "--json").out)
    assert [one["path"] for one in found["damaged"]] == [str(path)]


def test_records_and_indexes_are_named_and_are_no_shards(tmp_path: Path, vadx_here: Callable[..., Ran]) -> None:
    for kind in ("failed", "index.json"):
        path = FILES[kind](tmp_path / kind).path
        path.write_bytes(path.read_bytes()[:-5] + b"\n")
        ran = vadx_here("verify", "--store", tmp_path / kind / "store")
        assert ran.code == 4
        assert str(path) in ran.out
        assert "2 shards, 1 damaged" in ran.err
