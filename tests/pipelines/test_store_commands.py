"""`vadx ls`, `info`, `verify` and `gc`, and what becomes of damaged shards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Ran

from .forking import (
    IDS,
    NUM_FRAMES,
    TINY,
    by_action,
    json_documents,
    only_set,
    shard_hashes,
)

Vadx = Callable[..., Ran]


class TestStoreCommands:
    def test_ls_shows_sets_and_videos(self, store: Path, vadx_here: Vadx) -> None:
        name = only_set(store).name
        assert vadx_here("ls", "--store", store, "-q").out == f"{name}\n"
        header, row = vadx_here("ls", "--store", store).out.splitlines()
        assert header.split()[:2] == ["SET", "PRESET"]
        assert row.split()[0] == name
        assert row.split()[2:5] == ["6", "0", str(sum(-(-n // 4) for n in NUM_FRAMES.values()))]
        _, *rows = vadx_here("ls", "tiny", "--store", store).out.splitlines()
        assert [line.split()[0] for line in rows] == IDS
        listed = json.loads(vadx_here("ls", name, "--store", store, "--json").out)
        assert {v["id"]: v["num_frames"] for v in listed["videos"]} == NUM_FRAMES
        assert listed["failed"] == []
        assert [v["seconds"] for v in listed["videos"]] == pytest.approx([NUM_FRAMES[i] / 25 for i in IDS])

    def test_a_set_may_be_named_by_its_preset_or_folder(self, store: Path, vadx_here: Vadx) -> None:
        for name in ("tiny", "tiny-default+weights=random", str(only_set(store))):
            assert vadx_here("ls", name, "--store", store, "-q").out.split() == IDS

    def test_info_says_the_recipe_as_prose(self, store: Path, vadx_here: Vadx) -> None:
        text = vadx_here("info", "tiny", "--store", store).out
        prose = "frames -> short side 32 (pil) -> centre 24 -> [0, 1] RGB -> Tiny, 4 frames every 4 (tail repeat_last)"
        assert prose in text
        assert "6 videos" in text
        raw = json.loads(vadx_here("info", "tiny", "--store", store, "--json").out)
        assert raw["recipe"] == json.loads((only_set(store) / "recipe.json").read_text())["recipe"]
        assert raw["digest"][:8] == only_set(store).name[-8:]
        video = vadx_here("info", "tiny", IDS[0], "--store", store).out
        assert f"{NUM_FRAMES[IDS[0]]} decoded" in video
        assert "64x48, 25.000 frames/s, h264" in video

    def test_an_unknown_id_names_similar_ones(self, store: Path, vadx_here: Vadx) -> None:
        ran = vadx_here("info", "tiny", "Abuse/clip001", "--store", store)
        assert ran.code == 2
        assert "Abuse/clip001_x264" in ran.err

    def test_verify_is_content(self, store: Path, vadx_here: Vadx) -> None:
        ran = vadx_here("verify", "--store", store)
        assert (ran.code, ran.out) == (0, "")
        assert "6 shards, 0 damaged (full check)" in ran.err
        ran = vadx_here("verify", "--store", store, "--quick", "--json")
        assert json.loads(ran.out) == {"shards": 6, "damaged": [], "check": "quick"}

    def test_gc_keeps_what_is_young_and_sweeps_what_is_old(self, store: Path, vadx_here: Vadx) -> None:
        tmp = only_set(store) / "tmp"
        young, old = tmp / "young.part", tmp / "old.part"
        young.write_bytes(b"1")
        old.write_bytes(b"22")
        two_days_ago = young.stat().st_mtime - 48 * 3600
        os.utime(old, (two_days_ago, two_days_ago))
        ran = vadx_here("gc", "--store", store)
        assert ran.code == 0
        assert f"would sweep: {old} (2 B): a file that a killed run was writing" in ran.out
        assert f"stays: {young} (1 B): young" in ran.out
        assert young.exists()
        assert old.exists()
        rows = {
            Path(row["path"]).name: row for row in json_documents(vadx_here("gc", "--store", store, "--yes", "--json"))
        }
        assert {name: (row["may_go"], row["swept"]) for name, row in rows.items()} == {
            "young.part": (False, False),
            "old.part": (True, True),
        }
        assert young.exists()
        assert not old.exists()
        assert vadx_here("gc", "--store", store, "--older-than", "0", "--yes").code == 0
        assert not young.exists()
        assert len(shard_hashes(store)) == 6

    def test_gc_does_not_mind_files_that_vanish(
        self, store: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp = only_set(store) / "tmp"
        (tmp / "a.part").touch()
        (tmp / "b.part").touch()
        iterdir = Path.iterdir

        def racing(self: Path) -> Iterator[Path]:
            paths = list(iterdir(self))
            (tmp / "a.part").unlink(missing_ok=True)
            return iter(paths)

        monkeypatch.setattr(Path, "iterdir", racing)
        ran = vadx_here("gc", "--store", store, "--older-than", "0", "--json")
        assert ran.code == 0
        assert [Path(row["path"]).name for row in json_documents(ran)] == ["b.part"]


@pytest.fixture
def damage(store: Path) -> Callable[[str], Path]:
    """Damage one shard in a way that has a name."""

    def flip(content: bytes, position: int) -> bytes:
        return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    changes: dict[str, Callable[[bytes], bytes]] = {
        "header": lambda content: flip(content, 30),
        "body": lambda content: flip(content, len(content) // 2),
        "truncated": lambda content: content[:-100],
    }

    def spoil(kind: str) -> Path:
        path = next(iter(sorted(store.glob("*/shards/*/Abuse-clip003*.h5"))))
        path.write_bytes(changes[kind](path.read_bytes()))
        return path

    return spoil


@pytest.mark.parametrize("kind", ["header", "body", "truncated"])
def test_a_damaged_shard_is_named_and_the_same_command_makes_it_again(
    kind: str, damage: Callable[[str], Path], six_videos: Path, store: Path, vadx_here: Vadx, decoded: list[str]
) -> None:
    whole = shard_hashes(store)
    path = damage(kind)
    assert shard_hashes(store) != whole
    ran = vadx_here("verify", "--store", store)
    assert ran.code == 4
    assert ran.out.startswith(f"{path}: {kind} (")
    assert "6 shards, 1 damaged" in ran.err
    found = json.loads(vadx_here("verify", "--store", store, "--json").out)
    assert [(row["path"], row["damage"]) for row in found["damaged"]] == [(str(path), kind)]
    assert vadx_here("verify", "--store", store, "-q").out == f"{path}\n"
    plan = by_action(vadx_here(*TINY, six_videos, "--out", "store", "--dry-run", "--json"))
    assert plan["Abuse/clip003_x264"] == ("refresh", f"its shard is damaged ({kind})")
    ran = vadx_here(*TINY, six_videos, "--out", "store")
    assert ran.code == 0
    assert decoded == ["clip003_x264.mp4"]
    assert shard_hashes(store) == whole
    assert vadx_here("verify", "--store", store).code == 0
    vadx_here(*TINY, six_videos, "--out", "store")
    assert len(decoded) == 1


def test_a_recipe_that_was_edited_is_a_finding_and_the_other_sets_are_checked(
    store: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    own = only_set(store)
    edited = store / "edited-00000000"
    shutil.copytree(own, edited)
    (edited / "recipe.json").write_text(
        (own / "recipe.json").read_text().replace('"clip_length": 4', '"clip_length": 5')
    )
    for arguments, shards in ((("--store", store), 6), ((edited,), 0)):
        ran = vadx_here("verify", *arguments)
        assert ran.code == 4
        assert ran.out == (
            f"{edited / 'recipe.json'}: record (a note beside the shards is not what was written): it was changed "
            f"after it was written; restore the file from a copy\n"
        )
        assert ran.err == f"{shards} shards, 0 damaged (full check); 1 of the sets could not be checked\n"
        told = json.loads(vadx_here("verify", *arguments, "--json").out)
        assert ([one["damage"] for one in told["damaged"]], told["shards"]) == (["record"], shards)
    assert vadx_here("verify", own).code == 0
    assert vadx_here("verify", edited.name, "--store", store).out == ran.out
    for listing in ("ls", "gc", "runs"):
        ran = vadx_here(listing, "--store", store)
        told = f"vadx: {edited / 'recipe.json'}: it was changed after it was written; restore the file from a copy\n"
        # What a run did stands in its log.
        assert (ran.code, told in ran.err) == ((0, False) if listing == "runs" else (1, True)), ran.err
        assert listing == "gc" or own.name in ran.out
    quiet = vadx_here("ls", "--store", store, "-q")
    assert (quiet.code, quiet.out) == (1, f"{own.name}\n")


def test_a_quick_check_sees_headers_only(damage: Callable[[str], Path], store: Path, vadx_here: Vadx) -> None:
    damage("body")
    assert vadx_here("verify", "--store", store, "--quick").code == 0
    damage("header")
    assert vadx_here("verify", "--store", store, "--quick").code == 4
