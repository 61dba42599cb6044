"""``vadx import``: exports come back, releases come in with what is unknown of them, and a bad file costs itself."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support import Ran, make_video
from vadx.errors import UsageError
from vadx.extract.library import load_backbone, make_engine
from vadx.features.bags import cut_segments, segment_spans
from vadx.features.layouts import LAYOUTS, OWN
from vadx.features.layouts.marker import MARKER
from vadx.features.manifest import read_manifest
from vadx.features.recipe import RECIPE_FACTS
from vadx.features.store import FeatureSet, Store

from .import_samples import DIM, UCF, XD, Row, make_set

Vadx = Callable[..., Ran]

ONE_A_FAMILY = ("npy", "sultani", "ekosman", "rtfm", "xdviodet", "wsal", "gcn", "arnet", "mist")
"""A layout for each way in which releases are read."""


@pytest.fixture(autouse=True)
def _no_power_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only a loss of power could tell."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def setting(layout: str) -> tuple[str, Sequence[Row], dict[str, Any]]:
    """Give a data set that a layout has lists for, videos whose names fit it, and features that do."""
    data_set = OWN if OWN in LAYOUTS[layout].data_sets else next(iter(LAYOUTS[layout].data_sets))
    files, crops = LAYOUTS[layout].data_sets[data_set], LAYOUTS[layout].family.crops[OWN]
    tail = "minus_one" if data_set == "xd-violence" else "drop" if files.at_most else "repeat_last"
    num_crops = crops.nums[0] if crops.nums else 10
    return (
        data_set,
        XD if data_set == "xd-violence" else UCF,
        {
            "tail": tail,
            "num_crops": num_crops,
            "order": crops.order or "tv",
        },
    )


def export(vadx_here: Vadx, tmp_path: Path, layout: str, **more: Any) -> FeatureSet:
    """Make a set and export it to ``out``."""
    data_set, rows, made_with = setting(layout)
    made = make_set(tmp_path / "store", rows, **{**made_with, **more})
    arguments = ("--manifest", "labels.csv", "--counts", "labels.csv", "--data-set", data_set)
    ran = vadx_here("export", "made", "-o", "store", "--format", layout, "--to", "out", *arguments)
    assert ran.code == 0, ran.err
    return made


def imported_set(ran: Ran) -> FeatureSet:
    """Open the set whose folder an import printed."""
    return FeatureSet(Path(ran.out.splitlines()[-1]))


# ---- every layout ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_comes_back(layout: str, tmp_path: Path, vadx_here: Vadx) -> None:
    made = export(vadx_here, tmp_path, layout)
    ran = vadx_here("import", "--format", layout, "out", "--to", "store", "--manifest-out", "back.csv")
    assert ran.code == 0, ran.err
    back = imported_set(ran)
    assert back.digest != made.digest
    assert back.recipe.imported is not None
    assert (back.recipe.imported.layout, back.recipe.imported.release) == (layout, "out")
    assert back.recipe.unknown == ()
    assert back.recipe.computed() == made.recipe
    assert [entry.row() for entry in sorted(read_manifest(tmp_path / "back.csv"), key=lambda one: one.id)] == [
        entry.row() for entry in sorted(read_manifest(tmp_path / "labels.csv"), key=lambda one: one.id)
    ]
    entry = LAYOUTS[layout]
    assert f"not kept by {layout}: {entry.loses}" in ran.err
    differs = vadx_here("diff", "made", back.path, "-o", "store", "--json")
    assert differs.code == (0 if entry.is_lossless else 4), differs.err
    for identifier, clips in made.items():
        found = back[identifier]
        if entry.is_lossless:
            np.testing.assert_array_equal(found.values, clips.values)
            np.testing.assert_array_equal(found.frames, clips.frames)
            assert found.num_padded_frames == clips.num_padded_frames
        else:
            bag = cut_segments(clips.values, clips.frames, entry.segmentation)
            # Half of the sixth decimal, and what float32 adds to it.
            np.testing.assert_allclose(found.values, bag.features, rtol=0, atol=6e-7 if layout == "sultani" else 0)
            np.testing.assert_array_equal(found.frames, bag.frames)
        assert found.facts.num_frames_decoded == clips.facts.num_frames_decoded
        assert found.facts.frames_from == "export"
        assert np.isnan(found.seconds).all()
    if not entry.is_lossless:
        # What is stated is what differs: 32 rows where there were clips.
        report = json.loads(differs.out)
        assert "32 rows" in entry.loses
        assert (report["only_a"], report["only_b"]) == ([], [])
        assert any("32" in finding["sentence"] for finding in report["findings"]), report["findings"]


def test_releases_of_every_family_are_tried() -> None:
    families = {type(layout.family) for layout in LAYOUTS.values()}
    assert {type(LAYOUTS[name].family) for name in ONE_A_FAMILY} == families


@pytest.mark.parametrize("layout", ONE_A_FAMILY)
def test_a_release_comes_in_with_what_is_unknown_of_it(layout: str, tmp_path: Path, vadx_here: Vadx) -> None:
    made = export(vadx_here, tmp_path, layout)
    (tmp_path / "out" / MARKER).unlink()
    entry = LAYOUTS[layout]
    told = ["--counts", "labels.csv", "--fps", "25", "--name", "as published"]
    if "sampling.clip_length" not in entry.knows:
        ran = vadx_here("import", "--format", layout, "out", "--to", "store", *told)
        assert ran.code == 2
        assert "--known sampling.clip_length=16 --known sampling.clip_stride=16" in ran.err
        told += ["--known", "sampling.clip_length=16", "--known", "sampling.clip_stride=16"]
    ran = vadx_here("import", "--format", layout, "out", "--to", "store", *told)
    assert ran.code == 0, ran.err
    assert "the rest is unknown" in ran.err
    back = imported_set(ran)
    assert back.name.startswith(f"imported-{layout}-as-published-")
    known = set(RECIPE_FACTS) - set(back.recipe.unknown)
    assert known == {*entry.knows, "dtype", "sampling.clip_length", "sampling.clip_stride"}
    assert {"weights", "transform.kernel", "network.layer"} <= set(back.recipe.unknown)
    own = {identifier.split("/")[-1]: clips for identifier, clips in made.items()}
    assert {identifier.split("/")[-1] for identifier in back} == set(own)
    for identifier, found in back.items():
        clips = own[identifier.split("/")[-1]]
        assert found.facts.num_frames_decoded == clips.facts.num_frames_decoded
        assert (found.facts.frames_from, found.facts.time_source) == ("counts", "fps")
        np.testing.assert_array_equal(found.seconds, found.frames / 25)
        if entry.is_lossless:
            np.testing.assert_array_equal(found.values, clips.values)
            np.testing.assert_array_equal(found.frames, clips.frames)
    shown = vadx_here("info", back.path, "--json")
    stated = json.loads(shown.out)["recipe"]
    assert (stated["weights"], stated["transform"]["kernel"]) == ("unknown", "unknown")


# ---- releases as they are published ----


def save(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values, np.float32))


def random_values(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rtfm_release(folder: Path) -> None:
    """Two videos as RTFM's links have them: <video>_i3d.npy (clip, 10, feature), in one folder."""
    save(folder / "Abuse001_x264_i3d.npy", random_values(5, 10, DIM))
    save(folder / "Normal_Videos001_x264_i3d.npy", random_values(3, 10, DIM, seed=1))


def test_rtfms_files_are_as_long_as_their_rows_where_nobody_counted(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "UCF_Train_ten_crop_i3d")
    ran = vadx_here("import", "--format", "rtfm", "UCF_Train_ten_crop_i3d", "--to", "store")
    assert ran.code == 0, ran.err
    assert "nobody counted the frames of 2 videos: as many as their rows imply (--counts FILE)" in ran.err
    assert "seconds are unknown (--fps RATE)" in ran.err
    back = imported_set(ran)
    assert back.name.startswith("imported-rtfm-ucf_train_ten_crop_i3d-")
    video = back["Abuse001_x264"]
    assert video.frames.tolist() == [[0, 16], [16, 32], [32, 48], [48, 64], [64, 80]]
    assert (video.facts.num_frames_decoded, video.facts.frames_from) == (80, "rows")
    assert np.isnan(video.seconds).all()
    shown = vadx_here("info", "imported-rtfm", "-o", "store").out
    assert "of 2 videos as many as the rows of the features imply; nobody counted them" in shown
    assert "seconds  unknown" in shown
    assert "weights" in next(line for line in shown.splitlines() if line.startswith("  unknown"))
    video_shown = vadx_here("info", "imported-rtfm", "Abuse001_x264", "-o", "store").out
    assert "80, as many as the rows of the features imply" in video_shown
    assert "time      unknown" in video_shown
    for arguments in (("ls",), ("ls", "imported-rtfm")):
        assert "unknown" in vadx_here(*arguments, "-o", "store").out
        # NaN is no JSON.
        json.loads(vadx_here(*arguments, "-o", "store", "--json").out, parse_constant=pytest.fail)


def test_crops_in_several_files_become_one_video(tmp_path: Path, vadx_here: Vadx) -> None:
    values = random_values(4, 5, DIM)
    for crop in range(5):
        save(tmp_path / f"i3d-features/RGB/v=abc__#1_label_B1-0-0__{crop}.npy", values[:, crop])
    ran = vadx_here("import", "--format", "xdviodet", "i3d-features", "--to", "store")
    assert ran.code == 0, ran.err
    np.testing.assert_array_equal(imported_set(ran)["v=abc__#1_label_B1-0-0"].values, values)
    again = vadx_here("import", "--format", "xdviodet", "i3d-features", "--to", "store", "--json")
    assert json.loads(again.out.splitlines()[1])["status"] == "current"
    save(tmp_path / "i3d-features/RGB/v=abc__#1_label_B1-0-0__3.npy", values[:, 3] + 1)
    ran = vadx_here("import", "--format", "xdviodet", "i3d-features", "--to", "store")
    assert "1 replaced, because their files, or what was said of them, are others than before" in ran.err
    np.testing.assert_array_equal(imported_set(ran)["v=abc__#1_label_B1-0-0"].values[:, 3], values[:, 3] + 1)


def test_sultanis_own_files_lie_where_their_equal_rows_do(field_data: Path, tmp_path: Path, vadx_here: Vadx) -> None:
    counts = field_data / "annotations/ucf_crime/ekosman_Test_Annotation.txt"
    folder = field_data / "features"
    refused = vadx_here("import", "--format", "sultani", folder, "--to", "store")
    assert refused.code == 2
    assert "give --counts FILE" in refused.err
    assert not (tmp_path / "store").exists()
    ran = vadx_here("import", "--format", "sultani", folder, "--to", "store", "--counts", counts, "--name", "c3d")
    assert ran.code == 0, ran.err
    back = imported_set(ran)
    assert set(back) == {"Normal_Videos_024_x264", "RoadAccidents002_x264"}
    video = back["RoadAccidents002_x264"]
    assert video.values.shape == (32, 1, 4096)
    assert video.facts.num_frames_decoded == 347
    # 21 whole clips of 16 frames: rows that repeat are those whose segment is the same clips.
    np.testing.assert_array_equal(video.frames, 16 * segment_spans("sultani", 21))
    repeats = (video.values[1:] == video.values[:-1]).all(axis=(1, 2))
    np.testing.assert_array_equal(repeats, (video.frames[1:] == video.frames[:-1]).all(axis=1))
    np.testing.assert_allclose(np.linalg.norm(video.values, axis=2), 1, atol=1e-4)


def test_half_precision_and_double_come_in_as_float32(tmp_path: Path, vadx_here: Vadx) -> None:
    (tmp_path / "x").mkdir()
    for name, dtype in (("half", np.float16), ("double", np.float64)):
        np.save(tmp_path / f"x/{name}.npy", random_values(2, 3, DIM).astype(dtype))
    ran = vadx_here("import", "--format", "npy", "x", "--to", "store", "--known", "sampling.clip_length=16",
                    "--known", "sampling.clip_stride=16")  # fmt: skip
    assert ran.code == 0, ran.err
    back = imported_set(ran)
    assert {values.values.dtype for values in back.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(back["half"].values, random_values(2, 3, DIM).astype(np.float16))


# ---- once, again, and in part ----


def test_the_same_command_again_does_nothing(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    planned = vadx_here(*command, "--dry-run")
    assert [line.split()[:2] for line in planned.out.splitlines()] == [
        ["import", "Abuse001_x264"],
        ["import", "Normal_Videos001_x264"],
    ]
    assert not (tmp_path / "store").exists()
    first = vadx_here(*command, "--quiet")
    assert first.out.split() == ["Abuse001_x264", "Normal_Videos001_x264"]
    (back,) = Store(tmp_path / "store").sets()
    before = {path: path.read_bytes() for path in back.shard_paths()}
    again = vadx_here(*command, "--json")
    events = [json.loads(line) for line in again.out.splitlines()]
    assert [event["event"] for event in events] == ["start", "video", "video", "summary"]
    assert [event["status"] for event in events[1:3]] == ["current", "current"]
    assert (events[-1]["current"], events[-1]["exit_code"]) == (2, 0)
    assert vadx_here(*command, "-n").out.split()[::4] == ["current", "current"]
    assert {path: path.read_bytes() for path in back.shard_paths()} == before
    forced = vadx_here(*command, "--force", "-q")
    assert forced.out.split() == ["Abuse001_x264", "Normal_Videos001_x264"]
    assert {path: path.read_bytes() for path in back.shard_paths()} == before


def test_an_import_goes_on_where_it_stopped_and_takes_further_folders_of_its_name(
    tmp_path: Path, vadx_here: Vadx
) -> None:
    rtfm_release(tmp_path / "train")
    save(tmp_path / "test/Abuse028_x264_i3d.npy", random_values(2, 10, DIM, seed=2))
    command = ("import", "--format", "rtfm", "--to", "store", "--name", "ucf")
    assert vadx_here(*command, "train", "--limit", "1", "-q").out.split() == ["Abuse001_x264"]
    assert vadx_here(*command, "train", "-q").out.split() == ["Normal_Videos001_x264"]
    assert vadx_here(*command, "test", "-q").out.split() == ["Abuse028_x264"]
    (back,) = Store(tmp_path / "store").sets()
    assert len(back) == 3


def test_what_is_said_of_frames_is_part_of_what_a_shard_is_made_from(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    assert vadx_here(*command).code == 0
    (tmp_path / "counts.txt").write_text("Abuse001_x264 75\nElsewhere 9\n")
    ran = vadx_here(*command, "--counts", "counts.txt")
    assert "1 videos have no count, the first 'Normal_Videos001_x264'" in ran.err
    assert "1 counts are of no video here, the first of 'Elsewhere'" in ran.err
    back = imported_set(ran)
    assert back["Abuse001_x264"].frames[-1].tolist() == [64, 75]
    assert back["Normal_Videos001_x264"].facts.frames_from == "rows"
    assert vadx_here(*command, "--counts", "counts.txt", "-n").out.count("current") == 2
    assert vadx_here(*command, "--counts", "counts.txt", "--fps", "30", "-n").out.count("what it is made from") == 2


def test_files_that_have_not_changed_are_not_hashed_again(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    for crop in range(5):
        save(tmp_path / f"xd/a__{crop}.npy", random_values(2, DIM))
    hour_ago = time.time() - 3600
    for path in (tmp_path / "xd").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    command = ("import", "--format", "xdviodet", "xd", "--to", "store")
    assert vadx_here(*command).code == 0
    hashed = []
    monkeypatch.setattr("vadx.pipelines.source.Source._hashed", lambda own: hashed.append(own.path) or "0" * 64)
    assert vadx_here(*command, "-n").out.startswith("current")
    assert "0 stored, 1 current" in vadx_here(*command).err
    assert hashed == []
    os.utime(tmp_path / "xd/a__4.npy")
    assert "1 stored, 0 current" in vadx_here(*command).err
    assert len(hashed) == 5


def test_a_file_that_changes_while_it_is_read_is_not_stored(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtfm_release(tmp_path / "ucf")

    def read_and_write(path: Path) -> Any:
        values = np.load(path)
        if path.name.startswith("Abuse"):
            save(path, values[:-1])
        return values

    monkeypatch.setattr("vadx.features.layouts.arrays.read_npy", read_and_write)
    ran = vadx_here("import", "--format", "rtfm", "ucf", "--to", "store")
    assert ran.code == 3
    assert "VIDEO_CHANGED_DURING_READ" in ran.err
    assert set(imported_set(ran)) == {"Normal_Videos001_x264"}


# ---- what cannot be read ----


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
    "no rows": (lambda path: save(path, np.zeros((0, 10, DIM))), "floating with 2 or 3 axes"),
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


# ---- what is stated ----


def test_a_recipe_that_a_person_states_is_known(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    command = ("import", "--format", "rtfm", "ucf", "--to", "store", "--preset", "rtfm-i3d-10crop")
    ran = vadx_here(*command)
    assert ran.code == 0, ran.err
    assert "weights stays unknown: the preset's i3d-resnet50-k400-nonlocal has no published sha256" in ran.err
    assert imported_set(ran).recipe.unknown == ("weights",)
    whole = vadx_here(*command, "--known", f"weights={'1' * 64}")
    back = imported_set(whole)
    assert back.recipe.unknown == ()
    assert "made with: frames -> short side 256 (pil) -> ten crops of 224 (tv order)" in whole.err
    # A person's word is not vadx's work: nothing is extracted into that set.
    assert back.recipe.computed().imported is None
    with pytest.raises(UsageError, match="no video is extracted into their set"):
        make_engine(load_backbone("i3d", "random"), back.recipe, device="cpu")


def test_settings_may_state_a_recipe(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    table = '[import]\npreset = "rtfm-i3d-10crop"\nknown = ["sampling.tail=drop", "weights=x"]\nfps = 25\n'
    (tmp_path / "vadx.toml").write_text(table)
    ran = vadx_here("import", "--format", "rtfm", "ucf", "--to", "store")
    assert ran.code == 0, ran.err
    recipe = imported_set(ran).recipe
    assert (recipe.unknown, recipe.sampling.tail, recipe.weights) == ((), "drop", "x")


def test_facts_may_stand_in_a_file_and_contradict_what_is_published(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    facts = {"sampling": {"clip_length": 32, "tail": "drop"}, "network.layer": "mixed_5c", "weights": "unknown"}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    ran = vadx_here("import", "--format", "rtfm", "ucf", "--to", "store", "--known", "facts.json")
    assert ran.code == 0, ran.err
    assert "sampling.clip_length is stated as 32; published for rtfm is 16" in ran.err
    back = imported_set(ran)
    assert "weights" in back.recipe.unknown
    assert not {"sampling.tail", "network.layer"} & set(back.recipe.unknown)
    assert back["Normal_Videos001_x264"].frames.tolist() == [[0, 32], [16, 48], [32, 64]]


def test_what_an_export_notes_is_not_to_be_contradicted(tmp_path: Path, vadx_here: Vadx) -> None:
    export(vadx_here, tmp_path, "rtfm")
    ran = vadx_here("import", "--format", "rtfm", "out", "--to", "store", "--known", "sampling.clip_length=32")
    assert ran.code == 2
    assert "notes sampling.clip_length 16, and 32 is stated" in ran.err


def test_the_one_crop_that_an_export_kept_is_remembered(tmp_path: Path, vadx_here: Vadx) -> None:
    made = make_set(tmp_path / "store", tail="repeat_last", num_crops=10)
    arguments = ("--manifest", "labels.csv", "--crop", "mean")
    assert vadx_here("export", "made", "-o", "store", "--format", "wsal", "--to", "out", *arguments).code == 0
    ran = vadx_here("import", "--format", "wsal", "out", "--to", "store")
    assert ran.code == 0, ran.err
    back = imported_set(ran)
    assert back.recipe.imported is not None
    assert back.recipe.imported.crop == "mean"
    assert replace(back.recipe, imported=None) == made.recipe
    assert "crop mean alone" in ran.err


# ---- an imported set is a feature set ----


def test_imported_features_go_where_others_go(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    assert vadx_here("import", "--format", "rtfm", "ucf", "--to", "store").code == 0
    (tmp_path / "labels.csv").write_text(
        "id,label,split,spans\nAbuse/Abuse001_x264,1,test,3:9\nNormal/Normal_Videos001_x264,0,test,\n"
    )
    common = ("imported-rtfm", "-o", "store")
    assert vadx_here("verify", *common).code == 0
    assert vadx_here("bags", *common, "--rule", "rtfm", "--manifest", "labels.csv").code == 0
    packed = vadx_here("pack", *common, "--to", "ucf.h5")
    assert packed.code == 0, packed.err
    assert vadx_here("pack", *common, "--to", "ucf.h5", "--check").code == 0
    assert "seconds  unknown" in vadx_here("info", "ucf.h5").out
    assert vadx_here("diff", "imported-rtfm", "ucf.h5", "-o", "store").code == 0
    sent = vadx_here("export", *common, "--format", "urdmu", "--manifest", "labels.csv", "--to", "urdmu")
    assert sent.code == 0, sent.err
    # RTFM's order of crops is published; UR-DMU's is another, and the crops are brought into it.
    (back,) = Store(tmp_path / "store").sets()
    np.testing.assert_array_equal(
        np.load(tmp_path / "urdmu/test/Abuse001_x264__0.npy"), back["Abuse001_x264"].values[:, 4]
    )
    again = vadx_here("import", "--format", "urdmu", "urdmu", "--to", "store", "--name", "again")
    assert again.code == 0, again.err
    assert set(imported_set(again).recipe.unknown) == set(back.recipe.unknown)
    orders = [one.recipe.transform.crop_order for one in (back, imported_set(again))]
    assert orders == ["tv", "roc"]


def test_crops_whose_order_nobody_knows_stay_in_theirs(tmp_path: Path, vadx_here: Vadx) -> None:
    values = random_values(4, 10, DIM)
    for crop in range(10):
        save(tmp_path / f"clip/Abuse/Abuse001_x264__{crop}.npy", values[:, crop])
    ran = vadx_here("import", "--format", "vadclip", "clip", "--to", "store")
    assert ran.code == 0, ran.err
    assert "transform.crop_order" in imported_set(ran).recipe.unknown
    (tmp_path / "labels.csv").write_text("id,label,split\nAbuse/Abuse001_x264,1,train\n")
    sent = vadx_here("export", "imported", "-o", "store", "-f", "urdmu", "--manifest", "labels.csv", "--to", "urdmu")
    assert sent.code == 0, sent.err
    assert "the order of the crops is not known; the target's is roc, and none was changed" in sent.err
    assert "these features were imported from 'clip': videos count as long as was said then" in sent.err
    for crop in range(10):
        written = np.load(tmp_path / f"urdmu/train/Abuse001_x264__{crop}.npy")
        np.testing.assert_array_equal(written, values[:, crop])


def test_a_network_is_named_by_what_vadx_computed(tmp_path: Path, vadx_here: Vadx) -> None:
    made = make_set(tmp_path / "store", tail="drop", num_crops=1)
    save(tmp_path / "x/a/feature.npy", random_values(2, DIM))
    assert vadx_here("import", "--format", "arnet", "x", "--to", "store").code == 0
    assert {one.recipe.network.name for one in Store(tmp_path / "store").sets()} == {"i3d"}
    assert Store(tmp_path / "store")["i3d"].digest == made.digest


def test_diff_takes_no_stand_in_for_a_fact(tmp_path: Path, vadx_here: Vadx) -> None:
    made = export(vadx_here, tmp_path, "rtfm")
    (tmp_path / "out" / MARKER).unlink()
    assert vadx_here("import", "--format", "rtfm", "out", "--to", "store", "--name", "x").code == 0
    for sides in (("made", "imported-rtfm-x"), ("imported-rtfm-x", "made")):
        ran = vadx_here("diff", *sides, "-o", "store", "--json")
        assert ran.code == 0, ran.err
        report = json.loads(ran.out)
        assert {row["field"] for row in report["recipes"]} == {"network.name", "transform.mean", "transform.std"}
        assert any("facts of its recipe are unknown" in note for note in report["notes"])
    assert made.recipe.transform.kernel == "cv2"


def test_no_clip_is_extracted_again_for_features_of_which_something_is_unknown(tmp_path: Path, vadx_here: Vadx) -> None:
    for seed, name in enumerate(("one", "other")):
        save(tmp_path / name / "Abuse001_x264_i3d.npy", random_values(5, 10, DIM, seed=seed))
        assert vadx_here("import", "--format", "rtfm", name, "--to", "store").code == 0
    ran = vadx_here("diff", "imported-rtfm-one", "imported-rtfm-other", "-o", "store", "--videos", "nowhere")
    assert ran.code == 4, ran.err
    assert "neither side has a recipe" in ran.out


def test_what_is_said_of_imported_features_can_be_tried(tmp_path: Path, vadx_here: Vadx) -> None:
    make_video(tmp_path / "videos/a.mp4", num_frames=16)
    command = ("extract", "--backbone", "tiny", "videos", "--weights", "random", "-o", "store", "-q")
    assert vadx_here(*command).code == 0
    (tmp_path / "labels.csv").write_text("id,label\na,0\n")
    sent = vadx_here("export", "tiny", "-o", "store", "-f", "npy", "--manifest", "labels.csv", "--to", "out")
    assert sent.code == 0, sent.err
    assert vadx_here("import", "--format", "npy", "out", "--to", "store").code == 0
    assert vadx_here(*command, "--kernel", "torch").code == 0
    (other,) = (one for one in Store(tmp_path / "store").sets() if one.recipe.transform.kernel == "torch")
    ran = vadx_here("diff", "imported", other.path, "-o", "store", "--videos", "videos", "-q")
    assert ran.code == 4, ran.err
    assert ran.out.startswith("resize kernel: B was made with torch, A with pil")
