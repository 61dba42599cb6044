"""The life of a feature set, by the command line alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest

from support import Ran, make_video

from .forking import (
    IDS,
    NUM_FRAMES,
    TINY,
    by_action,
    events,
    json_documents,
    json_lines,
    only_set,
    shard_hashes,
    snapshot,
    statuses,
)

Vadx = Callable[..., Ran]


def test_six_videos_become_six_shards(store: Path, vadx_here: Vadx) -> None:
    assert vadx_here("ls", "tiny", "--store", store, "-q").out.split() == IDS
    (listed,) = json_documents(vadx_here("ls", "--store", store, "--json"))
    assert listed["videos"] == 6
    assert listed["clips"] == sum(-(-n // 4) for n in NUM_FRAMES.values())
    assert listed["shape"] == "1 x 8"
    for identifier in IDS:
        shown = json.loads(vadx_here("info", "tiny", identifier, "--store", store, "--json").out)
        num_frames = NUM_FRAMES[identifier]
        assert shown["id"] == identifier
        assert shown["shape"] == [-(-num_frames // 4), 1, 8]
        assert shown["dtype"] == "float32"
        assert shown["num_padded_frames"] == -num_frames % 4
        assert shown["facts"]["num_frames_decoded"] == num_frames
        assert shown["facts"]["fps"] == 25.0


def test_every_clip_knows_its_frames_and_seconds(store: Path) -> None:
    for path in store.glob("*/shards/*/*.h5"):
        with h5py.File(path, "r") as file:
            num_frames = NUM_FRAMES[file.attrs["id"]]
            starts = np.arange(0, num_frames, 4)
            stops = np.minimum(starts + 4, num_frames)
            np.testing.assert_array_equal(file["frames"][()], np.stack([starts, stops], axis=1))
            np.testing.assert_allclose(file["seconds"][()], file["frames"][()] / 25, atol=1e-9)
            assert not file["damaged"][()].any()


VFR_MILLISECONDS = (0, 40, 80, 200, 240, 300, 1000, 1040, 1500)
VFR_FRAMES = [[0, 4], [4, 8], [8, 9]]
VFR_SECONDS = [[0.0, 0.24], [0.24, 1.5], [1.5, 1.96]]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_variable_frame_rate_gives_the_seconds_computed_by_hand(
    container: str, tmp_path: Path, vadx_here: Vadx
) -> None:
    video = make_video(tmp_path / f"vfr.{container}", num_frames=9, pts=VFR_MILLISECONDS, time_base=Fraction(1, 1000))
    assert vadx_here(*TINY, video, "--out", "store").code == 0
    (shard,) = (tmp_path / "store").glob("*/shards/*/*.h5")
    with h5py.File(shard, "r") as file:
        assert file["frames"][()].tolist() == VFR_FRAMES
        np.testing.assert_allclose(file["seconds"][()], VFR_SECONDS, atol=1e-6)


def test_h5py_alone_opens_a_shard(store: Path) -> None:
    for path in store.glob("*/shards/*/*.h5"):
        with h5py.File(path, "r") as file:
            assert set(file) == {"features", "frames", "seconds", "damaged"}
            assert [d.label for d in file["features"].dims] == ["clip", "crop", "feature"]
            values = file["features"][()]
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            assert values.std() > 0
            assert file.attrs["recipe_digest"][:8] == path.parents[2].name[-8:]


def test_the_same_command_again_decodes_nothing(
    six_videos: Path, store: Path, vadx_here: Vadx, decoded: list[str]
) -> None:
    before = shard_hashes(store)
    inodes = {path.stat().st_ino for path in store.glob("*/shards/*/*.h5")}
    ran = vadx_here(*TINY, six_videos, "--out", "store", "--json")
    assert ran.code == 0
    assert decoded == []
    assert statuses(ran) == dict.fromkeys(IDS, "current")
    assert shard_hashes(store) == before
    assert {path.stat().st_ino for path in store.glob("*/shards/*/*.h5")} == inodes


def test_a_changed_source_is_done_again(own_videos: Path, vadx_here: Vadx, tmp_path: Path, decoded: list[str]) -> None:
    assert vadx_here(*TINY, own_videos, "--out", "store").code == 0
    before = shard_hashes(tmp_path / "store")
    make_video(own_videos / "Abuse/clip001_x264.mp4", num_frames=40, seed=99)
    plan = by_action(vadx_here(*TINY, own_videos, "--out", "store", "--dry-run", "--json"))
    assert plan["Abuse/clip001_x264"] == ("refresh", "the video changed")
    decoded.clear()
    ran = vadx_here(*TINY, own_videos, "--out", "store", "--json")
    assert ran.code == 0
    assert decoded == ["clip001_x264.mp4"]
    (done,) = [line for line in events(ran, "video") if line["status"] == "done"]
    assert (done["id"], done["reason"], done["num_frames"]) == ("Abuse/clip001_x264", "the video changed", 40)
    after = shard_hashes(tmp_path / "store")
    changed = [path for path in before if before[path] != after[path]]
    assert [Path(path).name[:18] for path in changed] == ["Abuse-clip001_x264"]
    assert set(after) == set(before)


def test_force_does_every_video_again(six_videos: Path, store: Path, vadx_here: Vadx, decoded: list[str]) -> None:
    before = shard_hashes(store)
    inodes = {path: path.stat().st_ino for path in store.glob("*/shards/*/*.h5")}
    ran = vadx_here(*TINY, six_videos, "--out", "store", "--force", "--json")
    assert ran.code == 0
    assert len(decoded) == 6
    assert {line["reason"] for line in events(ran, "video")} == {"forced"}
    assert all(path.stat().st_ino != inode for path, inode in inodes.items())
    assert shard_hashes(store) == before


def test_another_value_in_a_valid_shard_is_kept_without_force_and_noted(
    six_videos: Path, store: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vadx.features.store import FeatureSet

    absent = FeatureSet.header
    monkeypatch.setattr(FeatureSet, "header", lambda self, identifier: None)
    before = shard_hashes(store)
    ran = vadx_here(
        "extract", "-b", "tiny", "--weights", "random", "--batch", "2", six_videos, "--out", "store", "--json"
    )
    monkeypatch.setattr(FeatureSet, "header", absent)
    assert ran.code == 0
    assert shard_hashes(store) == before
    notes = [line["notes"] for line in events(ran, "video")]
    assert notes == [["another run stored different values first; those were kept"]] * 6


def test_limit_counts_only_videos_still_to_do(six_videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    command = (*TINY, six_videos, "--out", "store", "--json")
    for already in (0, 2, 4):
        ran = vadx_here(*command, "--limit", "2")
        assert ran.code == 0
        done = [line["id"] for line in events(ran, "video") if line["status"] == "done"]
        assert done == IDS[already : already + 2]
        assert events(ran, "summary")[0]["left"] == 4 - already
        assert len(shard_hashes(tmp_path / "store")) == already + 2
    assert events(vadx_here(*command, "--limit", "0"), "video") == []
    assert statuses(vadx_here(*command, "--limit", "2")) == dict.fromkeys(IDS, "current")


@pytest.mark.timeout(60)
def test_limit_gets_past_inputs_that_failed_before(tmp_path: Path, vadx_here: Vadx) -> None:
    os.mkdir(tmp_path / "in")  # noqa: PTH102
    os.mkfifo(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b.mp4").touch()
    (tmp_path / "in" / "c.mp4").symlink_to("c.mp4")
    make_video(tmp_path / "in" / "d.mp4", num_frames=8)
    codes = {"a": "VIDEO_NOT_REGULAR", "b": "VIDEO_EMPTY", "c": "VIDEO_UNREADABLE"}
    reached = []
    for _ in range(3):
        ran = vadx_here(*TINY, "in", "--out", "store", "--limit", "1", "--json")
        assert ran.code == 3
        reached.append(list(statuses(ran)))
        assert {line["id"]: line["code"] for line in events(ran, "video") if "code" in line}.items() <= codes.items()
    assert reached == [["a"], ["a", "b"], ["a", "b", "c", "d"]]


def test_a_dry_run_gives_reasons_and_writes_nothing(
    own_videos: Path, vadx_here: Vadx, tmp_path: Path, decoded: list[str]
) -> None:
    command = (*TINY, own_videos, "--out", "store", "--dry-run", "--json")
    untouched = snapshot(tmp_path)
    new = vadx_here(*command)
    assert new.code == 0
    assert by_action(new) == dict.fromkeys(IDS, ("extract", "new"))
    assert snapshot(tmp_path) == untouched
    (own_videos / "Abuse/text.mp4").write_text("not a video\n")
    (own_videos / "Abuse/void.mp4").touch()
    assert vadx_here(*TINY, own_videos, "--out", "store").code == 3
    make_video(own_videos / "Abuse/clip001_x264.mp4", seed=99)
    make_video(own_videos / "Normal/clip999_x264.mp4", num_frames=8)
    decoded.clear()
    untouched = snapshot(tmp_path)
    later = vadx_here(*command)
    assert snapshot(tmp_path) == untouched
    assert decoded == []
    plan = by_action(later)
    assert plan.pop("Abuse/clip001_x264") == ("refresh", "the video changed")
    assert plan.pop("Normal/clip999_x264") == ("extract", "new")
    assert plan.pop("Abuse/text") == ("failed before", "VIDEO_NOT_VIDEO")
    assert plan.pop("Abuse/void") == ("failed", "VIDEO_EMPTY: it holds 0 bytes")
    assert plan == dict.fromkeys(IDS[1:], ("current", "stored before"))
    forced = by_action(vadx_here(*command, "--force", "--limit", "1"))
    assert forced["Abuse/clip003_x264"] == ("refresh", "forced")
    retried = by_action(vadx_here(*command, "--retry-failed"))
    assert retried["Abuse/text"] == ("extract", "retry of VIDEO_NOT_VIDEO")
    plain = vadx_here(*TINY, own_videos, "--out", "store", "-n")
    assert "refresh       Abuse/clip001_x264  (the video changed)" in plain.out.splitlines()
    assert "nothing was decoded or written" in plain.err


def test_a_quiet_dry_run_prints_ids_only(own_videos: Path, vadx_here: Vadx) -> None:
    (own_videos / "text.mp4").write_text("not a video\n")
    (own_videos / "void.mp4").touch()
    assert vadx_here(*TINY, own_videos, "--out", "store").code == 3
    make_video(own_videos / "Abuse/clip001_x264.mp4", seed=99)
    assert vadx_here(*TINY, own_videos, "--out", "store", "-n", "-q").out == "Abuse/clip001_x264\n"


EVENT_FIELDS = {
    "start": {"event", "run", "feature_set", "recipe_digest", "num_videos", "batch", "device"},
    "summary": {
        "event", "run", "done", "degraded", "current", "failed", "left", "num_frames", "seconds", "network_seconds",
        "waited_for_frames_seconds", "limited_by", "exit_code",
    },
}  # fmt: skip


def test_json_prints_only_events_on_stdout(own_videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    (own_videos / "text.mp4").write_text("not a video\n")
    ran = vadx_here(*TINY, own_videos, "--out", "store", "--json")
    lines = json_lines(ran.out)
    assert [line["event"] for line in lines] == ["start", *["video"] * 7, "summary"]
    start, *videos, summary = lines
    assert set(start) == EVENT_FIELDS["start"]
    assert (start["num_videos"], start["batch"], start["device"]) == (7, 3, "cpu")
    assert start["feature_set"] == f"store/{only_set(tmp_path / 'store').name}"
    assert set(summary) == EVENT_FIELDS["summary"]
    assert {k: summary[k] for k in ("done", "degraded", "current", "failed", "left", "exit_code")} == {
        "done": 6, "degraded": 0, "current": 0, "failed": 1, "left": 0, "exit_code": 3,
    }  # fmt: skip
    assert summary["num_frames"] == sum(NUM_FRAMES.values())
    good = {line["id"]: line for line in videos if line["status"] == "done"}
    assert {identifier: line["num_frames"] for identifier, line in good.items()} == NUM_FRAMES
    assert good[IDS[0]]["video_seconds"] == pytest.approx(NUM_FRAMES[IDS[0]] / 25)
    (bad,) = [line for line in videos if line["status"] == "failed"]
    assert (bad["id"], bad["code"], bad["path"]) == ("text", "VIDEO_NOT_VIDEO", str(own_videos / "text.mp4"))
    assert "Remove it from the inputs" in bad["message"]
    assert ran.code == 3
    log = only_set(tmp_path / "store") / "runs" / f"{start['run']}.jsonl"
    assert log.read_text() == ran.out


def test_stdout_is_the_set_and_stderr_the_rest(six_videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    ran = vadx_here(*TINY, six_videos, "--out", "store")
    assert ran.out == f"store/{only_set(tmp_path / 'store').name}\n"
    assert "done: 6 stored, 0 current, 0 failed" in ran.err
    assert "WARNING: random:0 weights" in ran.err
    assert "frames -> short side 32" in ran.err


def test_quiet_prints_the_ids_that_were_stored(own_videos: Path, vadx_here: Vadx) -> None:
    (own_videos / "text.mp4").write_text("not a video\n")
    ran = vadx_here(*TINY, own_videos, "--out", "store", "-q")
    assert ran.code == 3
    assert ran.out.splitlines() == IDS
    assert vadx_here(*TINY, own_videos, "--out", "store", "-q").out == ""


def test_another_recipe_is_another_set(six_videos: Path, store: Path, vadx_here: Vadx) -> None:
    before = shard_hashes(store)
    variants = [
        ("--clip-stride", "2"),
        ("--crops", "five"),
        ("--dtype", "float16"),
        ("--tail", "drop"),
        ("--weights", "random:1"),
    ]
    for variant in variants:
        ran = vadx_here(*TINY, six_videos, "--out", "store", *variant)
        assert ran.code == 0, ran.err
    names = vadx_here("ls", "--store", store, "-q").out.split()
    assert len(names) == 6
    assert {path: digest for path, digest in shard_hashes(store).items() if path in before} == before
    rows = {row["name"]: row for row in json_documents(vadx_here("ls", "--store", store, "--json"))}
    assert [row["videos"] for row in rows.values()] == [6] * 6
    assert sorted(row["shape"] for row in rows.values()) == ["1 x 8"] * 5 + ["5 x 8"]
    assert vadx_here("ls", "tiny", "--store", store).code == 2
    five = next(name for name in names if "-five-" in name)
    assert "five crops of 24" in vadx_here("info", five, "--store", store).out


class TestInputs:
    """What a person may name, and the ids that come of it."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Make a folder with two videos, and files of other kinds."""
        for name in ("cam/1.mp4", "cam/sub/2.MKV"):
            make_video(tmp_path / "in" / name, num_frames=4)
        make_video(tmp_path / "in" / "cam/.hidden.mp4", num_frames=4)
        make_video(tmp_path / "in" / ".trash/3.mp4", num_frames=4)
        (tmp_path / "in" / "cam/notes.txt").write_text("x")
        (tmp_path / "in" / "cam/sub/labels.csv").write_text("x")
        return tmp_path / "in"

    def ids(self, vadx_here: Vadx, *inputs: str | Path) -> list[str]:
        ran = vadx_here(*TINY, "--out", "store", "--dry-run", "--json", *inputs)
        assert ran.code == 0, ran.err
        return [line["id"] for line in events(ran, "plan")]

    def test_a_folder_is_searched_and_hidden_files_are_passed_over(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, folder) == ["cam/1", "cam/sub/2"]
        assert "2 videos; 3 other files passed over" in vadx_here(*TINY, folder, "--out", "store").err

    def test_a_single_file_is_its_own_name(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, folder / "cam/sub/2.MKV") == ["2"]
        assert self.ids(vadx_here, folder / "cam/.hidden.mp4") == [".hidden"]

    def test_files_are_named_below_their_nearest_common_folder(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, folder / "cam/1.mp4", folder / "cam/sub/2.MKV") == ["1", "sub/2"]

    def test_root_names_them_below_another_folder(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, folder / "cam/sub/2.MKV", "--root", folder) == ["cam/sub/2"]
        assert self.ids(vadx_here, folder / "cam", "--root", folder) == ["cam/1", "cam/sub/2"]
        ran = vadx_here(*TINY, folder / "cam/1.mp4", "--root", folder / "cam/sub", "--dry-run")
        assert ran.code == 2
        assert "does not lie below --root" in ran.err

    def test_a_glob_is_expanded(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, f"{folder}/**/*.MKV") == ["2"]
        assert self.ids(vadx_here, f"{folder}/cam/*.mp4", f"{folder}/cam/sub/*") == ["1", "sub/2", "sub/labels"]

    def test_a_file_whose_name_looks_like_a_glob_is_a_file(self, tmp_path: Path, vadx_here: Vadx) -> None:
        make_video(tmp_path / "clip[1].mp4", num_frames=4)
        assert self.ids(vadx_here, "clip[1].mp4") == ["clip[1]"]

    def test_a_list_is_read(self, folder: Path, tmp_path: Path, vadx_here: Vadx) -> None:
        lines = ["# two videos", "", str(folder / "cam/1.mp4"), "in/cam/sub/2.MKV", "in/cam/1.mp4"]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        assert self.ids(vadx_here, "@list.txt") == ["1", "sub/2"]
        assert vadx_here(*TINY, "@absent.txt").code == 2

    def test_stdin_is_a_list(self, folder: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder}/cam/1.mp4\n{folder}/cam/sub\n"))
        assert self.ids(vadx_here, "-") == ["1", "2"]

    def test_stdin_may_hold_names_that_are_no_text(
        self, tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = b"caf\xe9.mp4"
        make_video(tmp_path / "x.mp4", num_frames=4).rename(tmp_path / os.fsdecode(name))
        stdin = io.TextIOWrapper(io.BytesIO(name + b"\n"), encoding="utf-8", errors="strict")
        monkeypatch.setattr(sys, "stdin", stdin)
        assert self.ids(vadx_here, "-") == ["caf\\xe9"]

    def test_the_same_file_named_twice_is_one_video(self, folder: Path, vadx_here: Vadx) -> None:
        assert self.ids(vadx_here, folder / "cam/1.mp4", folder / "cam/../cam/1.mp4") == ["1"]
        assert self.ids(vadx_here, folder, folder / "cam/1.mp4") == ["cam/1", "cam/sub/2"]
        assert self.ids(vadx_here, folder / "cam/1.mp4", folder) == ["cam/1", "cam/sub/2"]

    @pytest.mark.parametrize("names", [["absent-*.mp4"], ["empty"], ["@nothing.txt"]])
    def test_no_input_is_exit_5(self, names: list[str], tmp_path: Path, vadx_here: Vadx) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").touch()
        (tmp_path / "nothing.txt").touch()
        ran = vadx_here(*TINY, *names, "--out", "store")
        assert ran.code == 5
        assert "no video matched" in ran.err
        assert not (tmp_path / "store").exists()

    def test_a_missing_file_is_a_failed_video(self, tmp_path: Path, vadx_here: Vadx) -> None:
        make_video(tmp_path / "a.mp4", num_frames=4)
        ran = vadx_here(*TINY, "a.mp4", "absent.mp4", "--out", "store", "--json")
        assert ran.code == 3
        assert statuses(ran) == {"a": "done", "absent": "failed"}
        assert {line["id"]: line.get("code") for line in events(ran, "video")} == {"a": None, "absent": "VIDEO_MISSING"}


def test_ids_that_cannot_be_told_apart_fail_and_the_rest_runs(
    tmp_path: Path, vadx_here: Vadx, decoded: list[str]
) -> None:
    for name in ("a/one.mp4", "a/one.mkv", "b/Two.mp4", "b/two.mp4", "b/three.mp4", "four.mp4"):
        make_video(tmp_path / "in" / name, num_frames=4)
    ran = vadx_here(*TINY, "in", "--out", "store", "--json")
    assert ran.code == 3
    failed = [line for line in events(ran, "video") if line["status"] == "failed"]
    assert sorted(line["id"] for line in failed) == ["a/one", "a/one", "b/Two", "b/two"]
    assert {line["code"] for line in failed} == {"KEY_COLLISION"}
    assert all("Rename one of them, or give --root" in line["message"] for line in failed)
    assert sorted(decoded) == ["four.mp4", "three.mp4"]
    again = vadx_here(*TINY, "in", "--out", "store")
    assert again.code == 3
    assert again.err.count("error[KEY_COLLISION]") >= 4
    assert sorted(decoded) == ["four.mp4", "three.mp4"]


STRANGE_NAMES = [
    "two words.mp4",
    "街角 камера é.mp4",
    "line\nbreak.mp4",
    "-dash.mp4",
    "cam1:2024-01-01.mp4",
    "100%.mp4",
    "#hash.mp4",
    "e\u0301.mp4",
    "long" * 55 + ".mp4",
    "\x1b[31mred.mp4",
    os.fsdecode(b"caf\xe9.mp4"),
]


def test_strange_file_names(tmp_path: Path, vadx_here: Vadx, decoded: list[str]) -> None:
    for number, name in enumerate(STRANGE_NAMES):
        make_video(tmp_path / "x.mp4", num_frames=4, seed=number).rename(tmp_path / name)
    names = sorted(STRANGE_NAMES)
    command = (*TINY, "--out", "store", "--", *names)
    ran = vadx_here(*command)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.err
    assert sorted(decoded) == names
    as_json = vadx_here(*TINY, "--out", "store", "--json", "--", *names)
    expected = {
        "two words", "街角 камера é", "line\nbreak", "-dash", "cam1:2024-01-01", "100%", "#hash", "é",
        "long" * 55, "\x1b[31mred", "caf\\xe9",
    }  # fmt: skip
    assert statuses(as_json) == dict.fromkeys(expected, "current")
    assert len(decoded) == len(names)
    assert vadx_here("verify", "--store", "store").code == 0
    listed = vadx_here("ls", "tiny", "--store", "store")
    assert "\x1b" not in listed.out
    assert "line\\nbreak" in listed.out
    assert len(listed.out.splitlines()) == 1 + len(names)
    assert json.loads(vadx_here("info", "tiny", "line\nbreak", "--store", "store", "--json").out)["shape"] == [1, 1, 8]
    assert vadx_here(*TINY, "--out", "store", "--dry-run", "--json", "--", *names).code == 0


def test_a_strange_name_that_fails_is_told_harmlessly(tmp_path: Path, vadx_here: Vadx) -> None:
    for name in ("\x1b[31mred.mp4", os.fsdecode(b"caf\xe9.mp4")):
        (tmp_path / name).write_text("not a video\n")
    for options in ([], ["--json"], ["-v"]):
        ran = vadx_here(*TINY, tmp_path, "--out", "store", *options)
        assert ran.code == 3
        assert "\x1b" not in ran.out + ran.err
    json_lines(vadx_here(*TINY, tmp_path, "--out", "store", "--json").out)


def test_the_sha256_of_the_source_stands_in_the_shard(store: Path, six_videos: Path) -> None:
    for path in store.glob("*/shards/*/*.h5"):
        with h5py.File(path, "r") as file:
            identifier = file.attrs["id"]
        header = json.loads(path.read_bytes()[:512])
        assert header["source"] == hashlib.sha256((six_videos / f"{identifier}.mp4").read_bytes()).hexdigest()
