"""``vadx import``: exports come back from every layout, releases come in, and the same command again does nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vadx.errors import RecipeError
from vadx.features.bags import cut_segments, segment_spans
from vadx.features.layouts import LAYOUTS
from vadx.features.layouts.marker import MARKER
from vadx.features.manifest import read_manifest
from vadx.features.recipe import RECIPE_FACTS
from vadx.features.store import Store

from .import_samples import DIM, Vadx, export, imported_set, random_values, rtfm_release, save

ONE_A_FAMILY = ("npy", "sultani", "ekosman", "rtfm", "xdviodet", "wsal", "gcn", "arnet", "mist")
"""A layout for each way in which releases are read."""


pytestmark = pytest.mark.usefixtures("no_power_loss")


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
    assert replace(back.recipe, imported=None) == made.recipe
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
    if entry.is_lossless:
        assert back.recipe.computed() == made.recipe
    else:
        with pytest.raises(RecipeError, match=f"its rows are segments by {entry.segmentation}"):
            back.recipe.computed()
        assert f"rows are segments by {entry.segmentation}" in vadx_here("info", back.path).out
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


def test_parts_of_an_import_are_all_of_it_and_no_video_twice(tmp_path: Path, vadx_here: Vadx) -> None:
    for number in range(8):
        save(tmp_path / f"ucf/v{number}_i3d.npy", random_values(2, 10, DIM, seed=number))
    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    parts = [vadx_here(*command, "--part", f"{number}/3", "-q").out.split() for number in (1, 2, 3)]
    assert sorted(itertools.chain(*parts)) == [f"v{number}" for number in range(8)]
    assert len([part for part in parts if part]) > 1
    planned = vadx_here(*command, "--part", "2/3", "-n").out.splitlines()
    assert [line.split()[:2] for line in planned] == [["current", name] for name in sorted(parts[1])]
    assert vadx_here(*command, "--part", "4/3").code == 2


def test_an_import_is_given_up_at_the_first_failure_where_that_is_asked_for(tmp_path: Path, vadx_here: Vadx) -> None:
    rtfm_release(tmp_path / "ucf")
    (tmp_path / "ucf/Aaa_i3d.npy").write_text("no array")
    ran = vadx_here("import", "--format", "rtfm", "ucf", "--to", "store", "--fail-fast")
    assert ran.code == 3
    assert "0 stored, 0 current, 1 failed, 2 left" in ran.err


def test_an_import_that_runs_out_of_its_time_goes_on_with_the_same_command(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtfm_release(tmp_path / "ucf")
    save(tmp_path / "ucf/Zzz_i3d.npy", random_values(2, 10, DIM))
    clock = [0.0]

    def read_slowly(path: Path) -> Any:
        clock[0] += 1800 * path.name.startswith("Normal") + 1801
        return np.load(path)

    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    with monkeypatch.context() as patch:
        patch.setattr("vadx.pipelines.stopping.time", SimpleNamespace(monotonic=lambda: clock[0]))
        patch.setattr("vadx.features.layouts.arrays.read_npy", read_slowly)
        stopped = vadx_here(*command, "--stop-after", "1h")
    assert stopped.code == 143, stopped.err
    assert "stopped: 2 stored, 0 current, 0 failed, 1 left" in stopped.err
    assert "1 stored, 2 current" in vadx_here(*command).err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_ends_at_a_signal_and_goes_on_with_the_same_command(
    number: signal.Signals, tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtfm_release(tmp_path / "ucf")

    def read_and_stop(path: Path) -> Any:
        os.kill(os.getpid(), number)
        return np.load(path)

    command = ("import", "--format", "rtfm", "ucf", "--to", "store")
    with monkeypatch.context() as patch:
        patch.setattr("vadx.features.layouts.arrays.read_npy", read_and_stop)
        stopped = vadx_here(*command)
    assert stopped.code == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in stopped.err
    assert "stopped: 1 stored, 0 current, 0 failed, 1 left" in stopped.err
    assert "1 stored, 1 current" in vadx_here(*command).err


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
