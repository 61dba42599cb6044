"""``vadx import`` of what cannot be read: a bad file costs its own video, and what cannot be meant is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from .import_samples import DIM, Vadx, imported_set, random_values, rtfm_release, save

pytestmark = pytest.mark.usefixtures("no_power_loss")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def with_nan(path: Path) -> None:
    values = np.load(path)
    values[1, 2, 3] = np.nan
    np.save(path, values)


BAD: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (cut_off, "bytes of values"),
    "empty": (lambda path: path.write_bytes(b""), "it holds 0 bytes"),
    "text": (lambda path: path.write_text("hello"), "is no array of numpy"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "is no array of numpy"),
    "objects": (lambda path: np.save(path, np.array([Bomb()]), allow_pickle=True), "features are numbers"),
    "whole numbers": (lambda path: np.save(path, np.zeros((3, 10, DIM), np.int64)), "features are floating"),
    "NaN": (with_nan, "1 of its 400 values are NaN or infinite"),
    "no rows": (lambda path: save(path, np.zeros((0, DIM))), "holds no clips: its array has the shape (0, 8)"),
    "no features": (lambda path: save(path, np.zeros((5, 0))), "holds no features: its array has the shape (5, 0)"),
    "other width": (
        lambda path: save(path, np.zeros((5, 10, 3))),
        "it has 10 x 3 (crop, feature), and the set's",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_costs_its_video_alone(kind: str, tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    save(tmp_path / "ucf/Aaa_i3d.npy", random_values(2, 10, DIM))
    victim = tmp_path / "ucf/Abuse001_x264_i3d.npy"
    good = victim.read_bytes()
    change, words = BAD[kind]
    change(victim)
    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    ran = vadx_here(*command)
    assert ran.code == 3
    assert words in ran.err
    assert "1 failed:" in ran.err
    # Once, and last: what to do about it.
    told = next(line for line in ran.err.splitlines() if line.startswith("  error["))
    assert told.lower().count("copy ") == 1
    assert "2 stored, 0 current, 1 failed" in ran.err
    back = imported_set(ran)
    assert set(back) == {"Aaa", "Normal_Videos001_x264"}
    assert not (tmp_path / "ran").exists()
    again = vadx_here(*command, "--json")
    assert again.code == 3
    event = next(one for one in map(json.loads, again.out.splitlines()) if one.get("status") == "failed")
    assert event["code"] in {"FEATURES_UNREADABLE", "VIDEO_EMPTY"}
    victim.write_bytes(good)
    mended = vadx_here(*command)
    assert mended.code == 0, mended.err
    assert len(imported_set(mended)) == 3


def test_a_folder_of_bad_files_is_given_up(tmp_path: Path, vadx_here: Vadx) -> None:
    (tmp_path / "x").mkdir()
    for number in range(30):
        (tmp_path / f"x/{number:02d}_C.txt").write_text("no numbers\n")
    (tmp_path / "counts.txt").write_text("".join(f"{number:02d} 347\n" for number in range(30)))
    command = ("import", "--format", "sultani", "x", "--to", "store", "--counts", "counts.txt")
    ran = vadx_here(*command)
    assert ran.code == 3
    assert "stopped: 20 of the 20 videos that were tried failed" in ran.err
    assert "0 stored, 0 current, 20 failed, 10 left" in ran.err
    assert "Nothing of this folder was read further" not in ran.err
    assert "0 current, 3 failed" in vadx_here(*command, "--retry-failed", "--max-failures", "3").err


def test_a_missing_crop_costs_its_video_alone(tmp_path: Path, vadx_here: Vadx) -> None:
    for name in ("a", "b"):
        for crop in range(5):
            save(tmp_path / f"xd/{name}__{crop}.npy", random_values(2, DIM))
    (tmp_path / "xd/a__2.npy").unlink()
    save(tmp_path / "xd/c__0.npy", random_values(2, DIM))
    save(tmp_path / "xd/c__1.npy", random_values(3, DIM))
    ran = vadx_here("import", "--format", "xdviodet", "xd", "--to", "store")
    assert ran.code == 3
    assert "a crop between the first and the last is missing" in ran.err
    assert "the crops of this video differ in shape" in ran.err
    assert set(imported_set(ran)) == {"b"}


def test_a_file_of_all_videos_that_cannot_be_opened_stands_for_them(tmp_path: Path, vadx_here: Vadx) -> None:
    (tmp_path / "x").mkdir()
    with h5py.File(tmp_path / "x/train.h5", "w") as file:
        file["Abuse001_x264"] = random_values(3, DIM)
        file["Normal001"] = h5py.ExternalLink("/etc/passwd", "/")
        file["Normal002"] = np.zeros(3, np.int64)
    (tmp_path / "x/test.h5").write_bytes(b"\x89HDF\r\n\x1a\nno more of it")
    os.mkfifo(tmp_path / "x/pipe.h5")
    ran = vadx_here("import", "--format", "wsal", "x", "--to", "store", "--json")
    assert ran.code == 3
    events = {one["id"]: one for one in map(json.loads, ran.out.splitlines()) if one["event"] == "video"}
    assert {name: event["status"] for name, event in events.items()} == {
        "Abuse001_x264": "done",
        "Normal001": "failed",
        "Normal002": "failed",
        "pipe": "failed",
        "test": "failed",
    }
    assert "is missing or a link to somewhere else" in events["Normal001"]["message"]
    assert {event.get("code") for event in events.values()} == {None, "FEATURES_UNREADABLE", "VIDEO_NOT_REGULAR"}


def test_counts_that_do_not_fit_the_rows_cost_the_video(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    (tmp_path / "counts.txt").write_text("Abuse001_x264 400\nNormal_Videos001_x264 49\n")
    ran = vadx_here("import", "--format", "rtfm", "ucf", "--to", "store", "--counts", "counts.txt")
    assert ran.code == 3
    assert "it has 5 rows, and 400 frames make 24 to 26 clips of 16 frames, 16 apart" in ran.err
    assert set(imported_set(ran)) == {"Normal_Videos001_x264"}


def test_names_that_are_one_are_told_apart_by_nobody(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "x/train")
    save(tmp_path / "x/test/Abuse001_x264_i3d.npy", random_values(2, 10, DIM))
    ran = vadx_here("import", "--format", "rtfm", "x", "--to", "store")
    assert ran.code == 3
    assert ran.err.count("KEY_COLLISION") >= 2
    assert set(imported_set(ran)) == {"Normal_Videos001_x264"}


def test_names_of_other_alphabets_and_bytes_come_in(tmp_path: Path, vadx_here: Vadx) -> None:
    save(tmp_path / "x/影片 1_i3d.npy", random_values(2, 10, DIM))
    shutil.copy(tmp_path / "x/影片 1_i3d.npy", bytes(tmp_path / "x") + b"/caf\xe9_i3d.npy")
    ran = vadx_here("import", "--format", "rtfm", "x", "--to", "store")
    assert ran.code == 0, ran.err
    assert set(imported_set(ran)) == {"影片 1", "caf\\xe9"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--format", "rtfn", "ucf"), 2, "there is no layout 'rtfn'"),
        (("--format", "rtfm", "nowhere"), 5, "there is no folder"),
        (("--format", "wsal", "ucf"), 5, "holds no file of the layout wsal"),
        (("--format", "rtfm", "ucf", "--known", "sampling.clip_lenght=16"), 2, "did you mean sampling.clip_length?"),
        (("--format", "rtfm", "ucf", "--known", "sampling.tail=dropped"), 2, "'dropped'"),
        (("--format", "rtfm", "ucf", "--known", "ucf.json"), 5, "no such file"),
        (("--format", "rtfm", "ucf", "--preset", "rtfm"), 2, "there is no preset 'rtfm'"),
        (("--format", "rtfm", "ucf", "--name", " "), 2, "give it a name with --name NAME"),
        (("--format", "rtfm", "ucf", "--known", "sampling.fps=25"), 2, "give it as --fps RATE"),
        (("--format", "rtfm", "ucf", "--manifest-out", "m.csv"), 2, "`vadx manifest`"),
        (("--format", "rtfm", "ucf", "--counts", "none.txt"), 5, "none.txt: no such file"),
        (("--format", "rtfm", "ucf", "--max-failures", "some"), 2, "--max-failures is a number"),
        (("--format", "rtfm", "ucf", "--fps", "nan"), 2, "nan is no number that can be meant here"),
        (("--format", "sultani", "bags"), 2, "give --counts FILE, with lines NAME,FRAMES"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    tmp_path: Path, vadx_here: Vadx, arguments: tuple[str, ...], code: int, words: str
) -> None:
    rtfm_release(tmp_path / "ucf")
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags/a_C.txt").write_text("0.6 0.8\n" * 32)
    ran = vadx_here("import", *arguments, "--to", "store")
    assert ran.code == code, ran.err
    assert words in ran.err
    assert not (tmp_path / "store").exists()
