"""Layouts: loaders written from what is published read exports; values come back; what does not fit is refused."""

from __future__ import annotations

import ast
import csv
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from vadx.errors import NoInputError, UsageError
from vadx.features.annotations import read_annotations
from vadx.features.bags import cut_segments
from vadx.features.frame_truth import CLIP_COUNTS, TARGETS, frame_truth
from vadx.features.layouts import LAYOUTS, OWN, check_layout, export_layout, find_layout, import_layout
from vadx.features.layouts import hdf5 as hdf5_module
from vadx.features.layouts.crop_arrays import CROP_SUFFIXES
from vadx.features.layouts.crops import CROP_PLACES
from vadx.features.layouts.export import count_labels
from vadx.features.layouts.marker import MARKER
from vadx.features.layouts.plan import Wishes, plan_export
from vadx.features.manifest import Manifest, ManifestEntry, read_manifest
from vadx.features.recipe import RECIPE_FACTS
from vadx.features.store import FeatureSet
from vadx.features.timeline import ClipFeatures

from .layout_samples import SHT, UCF, XD, Row, features_of, manifest_of
from .samples import make_recipe

ROWS: Mapping[str, Sequence[Row]] = {"ucf-crime": UCF, "xd-violence": XD, "shanghaitech": SHT, "lad": UCF, OWN: UCF}

EVERY = [(name, data_set) for name, layout in LAYOUTS.items() for data_set in layout.data_sets]
POSSIBLE = [pair for pair in EVERY if pair != ("pel4vad", "shanghaitech")]


@pytest.fixture(autouse=True)
def _no_power_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only a loss of power could tell: these tests write thousands of files."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def setting(name: str, data_set: str, *, tail: str = "") -> tuple[Manifest, Mapping[str, ClipFeatures], dict[str, Any]]:
    """Give a data set whose features fit a target, and what its export needs beside them."""
    layout, files = find_layout(name, data_set)
    rows = ROWS[data_set]
    target = TARGETS.get(files.target or "")
    rule = tail or (target.clip_count if target else None) or files.at_most or "ceil"
    nums = layout.family.crops.get(data_set, layout.family.crops[OWN]).nums
    features = features_of(rows, tail=rule, num_crops=nums[0] if nums else 3)
    # As OpenCV would count them, were every header right.
    counts = {row[0]: row[4] for row in rows} if target and target.frames != "decoded" else None
    return manifest_of(rows), features, {"data_set": data_set, "counts": counts}


def exported(folder: Path, name: str, data_set: str = OWN, **more: Any) -> Mapping[str, ClipFeatures]:
    manifest, features, options = setting(name, data_set)
    export_layout(name, manifest, features, folder, **{**options, **more})
    return features


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def unpickled(path: Path) -> Any:
    """Load a pickle as the repositories do, which trust it."""
    return pickle.loads(path.read_bytes())  # noqa: S301  # written by this test


# ---- loaders as the repositories have them ----


def floor_segments(clips: NDArray[np.float32], num_segments: int) -> NDArray[np.float32]:
    edges = np.linspace(0, len(clips), num_segments + 1, dtype=int)
    return np.stack([clips[a:b].mean(axis=0) if a != b else clips[a] for a, b in pairwise(edges)])


def test_rtfm_reads_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "rtfm", "ucf-crime")
    train = lines_of(tmp_path / "list/ucf-i3d.list")
    abnormal, normal = train[:2], train[2:]
    assert [Path(line).name for line in abnormal] == ["Abuse001_x264_i3d.npy", "Arson002_x264_i3d.npy"]
    assert [Path(line).name for line in normal] == ["Normal_Videos001_x264_i3d.npy"]
    for line in train:
        clips = np.load(line).transpose(1, 0, 2)
        assert np.stack([floor_segments(crop, 32) for crop in clips]).shape == (10, 32, 6)
    np.testing.assert_array_equal(np.load(abnormal[0]), features["Abuse/Abuse001_x264"].values)
    test = [np.load(line) for line in lines_of(tmp_path / "list/ucf-i3d-test.list")]
    gt = np.load(tmp_path / "list/gt-ucf.npy")
    scores = np.concatenate([np.repeat(clips.mean(axis=(1, 2)), 16) for clips in test])
    assert [clips.shape for clips in test] == [(6, 10, 6), (3, 10, 6), (3, 10, 6)]
    assert len(gt) == len(scores) == 12 * 16
    # The order of the list: Abuse028, Arson007, and the normal one last; RTFM takes both ends of a span.
    assert np.flatnonzero(gt).tolist() == [*range(20, 41), *range(50, 61), *range(96 + 5, 96 + 37)]


def test_rtfm_reads_an_export_of_shanghaitech(tmp_path: Path) -> None:
    exported(tmp_path, "rtfm", "shanghaitech")
    test = [np.load(line) for line in lines_of(tmp_path / "list/shanghai-i3d-test-10crop.list")]
    gt = np.load(tmp_path / "list/gt-sh.npy")
    # 64 // 16 + 1 and 40 // 16 + 1 clips; the last label is repeated, so the anomaly of 30 to 64 goes on to 80.
    assert [len(clips) for clips in test] == [5, 3]
    assert gt.dtype == np.float64
    assert np.flatnonzero(gt).tolist() == list(range(30, 80))
    assert len(gt) == 128


def test_xdviodet_reads_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "xdviodet", "xd-violence")
    train = lines_of(tmp_path / "list/rgb.list")
    assert len(train) == 3 * 5
    assert [int("_label_A" not in line) for line in train] == [1] * 10 + [0] * 5
    assert [Path(line).stem[-3:] for line in train] == [f"__{crop}" for crop in range(5)] * 3
    names = [Path(line).stem.rpartition("__")[0] for line in train]
    assert names[::5] == ["v=abc__#1_label_B1-0-0", "Bad.Boys__#2_label_G-B2-B6", "Black.Hawk__#00-01_label_A"]
    np.testing.assert_array_equal(np.load(train[3]), features["v=abc__#1_label_B1-0-0"].values[:, 3])
    test = lines_of(tmp_path / "list/rgb_test.list")
    assert {Path(line).parent.name for line in train + test} == {"RGB", "RGBTest"}
    clips = [np.stack([np.load(line) for line in test[at : at + 5]]) for at in range(0, len(test), 5)]
    gt = np.load(tmp_path / "list/gt.npy")
    assert [one.shape for one in clips] == [(5, 6, 6), (5, 2, 6)]
    assert len(gt) == sum(16 * one.shape[1] for one in clips)
    assert np.flatnonzero(gt).tolist() == list(range(10, 30))


def test_ur_dmu_reads_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "urdmu", "ucf-crime")
    train = [line.split()[0] for line in lines_of(tmp_path / "list/UCF_Train.list")]
    abnormal, normal = train[:20], train[20:]
    assert ["Normal" in Path(line).name for line in abnormal + normal] == [False] * 20 + [True] * 10
    for line in train[:1]:
        clips = np.load(line).astype(np.float32)
        assert floor_segments(clips, 200).shape == (200, 6)
    test = [line.split()[0] for line in lines_of(tmp_path / "list/UCF_Test.list")]
    videos = [np.stack([np.load(line) for line in test[at : at + 10]], axis=1) for at in range(0, len(test), 10)]
    np.testing.assert_array_equal(videos[0], features["Abuse/Abuse028_x264"].values)
    gt = np.load(tmp_path / "frame_label/gt-ucf.npy")
    # 96 frames are five clips here: (96 - 1) // 16.
    assert [len(video) for video in videos] == [5, 2, 2]
    assert len(gt) == 16 * 9
    assert gt.dtype == np.float32
    assert np.flatnonzero(gt).tolist() == [*range(20, 40), *range(50, 60), *range(80 + 5, 80 + 32)]


def test_wsal_reads_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "wsal", "ucf-crime", crop=None)
    names = [line.strip().split("/")[-1][:-4] for line in lines_of(tmp_path / "Anomaly_Train.txt")]
    normal = [name for name in names if "Normal" in name]
    abnormal = [name for name in names if "Normal" not in name]
    assert (abnormal, normal) == (["Abuse001_x264", "Arson002_x264"], ["Normal_Videos001_x264"])
    with h5py.File(tmp_path / "gcn_feas.hdf5", "r") as file, h5py.File(tmp_path / "gcn_mask.hdf5", "r"):
        assert set(file) == set(names)
        for name in names:
            clips = np.resize(file[name], file[name].shape)
            padded = np.concatenate([clips, np.tile(clips[-1], (-len(clips) % 32, 1))])
            assert padded.reshape(32, -1, 6).mean(axis=1).shape == (32, 6)
        np.testing.assert_array_equal(file["Abuse001_x264"], features["Abuse/Abuse001_x264"].values[:, 0])
    with h5py.File(tmp_path / "gcn_test.hdf5", "r") as file:
        for line in lines_of(tmp_path / "variables.txt"):
            name, num_frames = line.strip().split("/")[-1].split(" ")
            assert len(file[name]) == -(-int(num_frames) // 16)
    truth = {}
    for line in lines_of(tmp_path / "Temporal_Anomaly_Annotation.txt"):
        fields = line.split(" ")
        truth[fields[0][:-4]] = [int(fields[at]) for at in (4, 6, 8, 10)]
    assert truth == {
        "Abuse028_x264": [20, 40, 50, 60],
        "Arson007_x264": [5, 36, -1, -1],
        "Normal_Videos_003_x264": [-1, -1, -1, -1],
    }


def test_sultanis_scripts_read_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "sultani", "ucf-crime")
    folders = sorted(path for path in (tmp_path / "train").iterdir())
    abnormal, normal = (sorted(folder.glob("*_C.txt")) for folder in folders)
    assert [path.name for path in abnormal] == ["Abuse001_x264_C.txt", "Arson002_x264_C.txt"]
    assert [path.name for path in normal] == ["Normal_Videos001_x264_C.txt"]
    text = abnormal[0].read_bytes()
    assert text.endswith(b" \n")
    rows = [line.split(b" ") for line in text.removesuffix(b"\n").split(b"\n")]
    assert len(rows) == 32
    assert {len(row) for row in rows} == {6 + 1}
    assert {len(number.partition(b".")[2]) for row in rows for number in row[:-1]} == {6}
    clips = features["Abuse/Abuse001_x264"]
    bag = cut_segments(clips.values, clips.frames, "sultani").features[:, 0]
    # Half of the sixth decimal, and what float32 adds to it.
    assert np.abs(np.array([row[:-1] for row in rows], float) - bag).max() <= 5e-7 + 1e-7


def test_ekosmans_loader_reads_an_export(tmp_path: Path) -> None:
    features = exported(tmp_path, "ekosman", "ucf-crime")
    assert lines_of(tmp_path / "Test_Annotation.txt") == [
        "Abuse/Abuse028_x264.mp4 96 Abuse 20 40 50 60",
        "Arson/Arson007_x264.mp4 47 Arson 5 36 -1 -1",
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 40 Normal -1 -1 -1 -1",
    ]
    train = lines_of(tmp_path / "Train_Annotation.txt")
    assert [("Normal" in line) for line in train] == [False, False, True]
    for line in train:
        name = line.split()[0]
        rows = np.loadtxt(tmp_path / "features" / f"{name.split('.')[0]}.txt").astype(np.float32)
        clips = features[name.removesuffix(".mp4")]
        np.testing.assert_array_equal(rows, cut_segments(clips.values, clips.frames, "ekosman").features[:, 0])


def test_s3r_reads_an_export(tmp_path: Path) -> None:
    exported(tmp_path, "s3r", "shanghaitech")
    home = tmp_path / "data/shanghaitech"
    header, *names = lines_of(home / "shanghaitech.testing.csv")
    assert (header, names) == ("video-id", ["01_0015", "02_002"])
    truth = json.loads((home / "shanghaitech_ground_truth.testing.json").read_text())
    for name in names:
        clips = np.load(home / "i3d/test" / f"{name}_i3d.npy")
        assert truth[name]["num_frames"] == len(truth[name]["labels"]) == 16 * len(clips)
    assert sum(truth["01_0015"]["labels"]) == 50


def test_vadclip_reads_an_export(tmp_path: Path) -> None:
    exported(tmp_path, "vadclip", "xd-violence")
    with (tmp_path / "list/xd_CLIP_rgb.csv").open() as file:
        train = list(csv.DictReader(file))
    assert [row["label"] for row in train] == ["B1-0-0"] * 10 + ["G-B2-B6"] * 10 + ["A"] * 10
    with (tmp_path / "list/xd_CLIP_rgbtest.csv").open() as file:
        test = list(csv.DictReader(file))
    assert [Path(row["path"]).stem[-3:] for row in test] == ["__0", "__0"]
    assert len(np.load(tmp_path / "list/gt.npy")) == sum(16 * len(np.load(row["path"])) for row in test)
    exported(tmp_path / "ucf", "vadclip", "ucf-crime")
    with (tmp_path / "ucf/list/ucf_CLIP_rgbtest.csv").open() as file:
        test = list(csv.DictReader(file))
    assert [(Path(row["path"]).stem[-3:], row["label"]) for row in test] == [
        ("__5", "Abuse"),
        ("__5", "Arson"),
        ("__5", "Normal"),
    ]


def test_csl_tal_reads_an_export(tmp_path: Path) -> None:
    exported(tmp_path, "csl-tal", "xd-violence")
    labels = ast.literal_eval((tmp_path / "data/segment_labels.txt").read_text())
    # Frames 10 to 30 touch the first two blocks of 16.
    assert labels == {"v=ghi__#1_label_B4-0-0": [1, 1, 0, 0, 0, 0], "v=def__#1_label_A": [0, 0]}


def test_ar_net_and_lad_read_an_export(tmp_path: Path) -> None:
    exported(tmp_path / "arnet", "arnet", "shanghaitech")
    home = tmp_path / "arnet/shanghaitech"
    frames = unpickled(home / "GT/frame_label.pickle")
    videos = unpickled(home / "GT/video_label.pickle")
    for name in lines_of(home / "test_split.txt"):
        clips = np.load(home / f"features_video/i3d/rgb/{name}/feature.npy")
        assert len(frames[name][: 16 * len(clips)]) == 16 * len(clips)
        assert (videos[name] == [1.0]) == bool(frames[name].sum())
    exported(tmp_path / "lad", "lad", "lad")
    home = tmp_path / "lad/LAD2000"
    frames = unpickled(home / "GT/frame_label_IET.pickle")
    videos = unpickled(home / "GT/video_label_IET.pickle")
    assert frames["Abuse028_x264"].shape == (1, 96)
    assert bool(frames["Abuse001_x264"].all())
    assert videos == {
        "Abuse001_x264": 0,
        "Abuse028_x264": 0,
        "Arson002_x264": 1,
        "Arson007_x264": 1,
        "Normal_Videos001_x264": 2,
        "Normal_Videos_003_x264": 2,
    }


def test_mist_reads_an_export(tmp_path: Path) -> None:
    exported(tmp_path, "mist", "shanghaitech")
    assert lines_of(tmp_path / "SH_Train_new.txt") == ["01_001,0", "01_0014,1"]
    assert lines_of(tmp_path / "SH_Test_NEW.txt") == ["02_002,0,40", "01_0015,1,-1"]
    with h5py.File(tmp_path / "SHT_I3D.h5", "r") as file:
        assert {name: file[name].shape for name in file}["01_0015.npy"] == (4, 6)
    assert np.load(tmp_path / "test_frame_mask/01_0015.npy").sum() == 34


def test_gcn_reads_an_export(tmp_path: Path) -> None:
    exported(tmp_path, "gcn", "ucf-crime")
    names = unpickled(tmp_path / "pygcn/ucf_crime_train.pkl")
    assert names == ["Abuse001_x264", "Arson002_x264", "Normal_Videos001_x264"]
    with np.load(tmp_path / "features/Abuse001_x264_rgb.npz") as file:
        assert file["scores"].shape == (6, 10, 6)
        assert file["begin_idx"].tolist() == [0, 16, 32, 48, 64, 80]


# ---- every layout ----


@pytest.mark.parametrize(("name", "data_set"), POSSIBLE)
def test_what_is_exported_is_checked_and_read_back(name: str, data_set: str, tmp_path: Path) -> None:
    layout, _ = find_layout(name, data_set)
    manifest, features, options = setting(name, data_set)
    report = export_layout(name, manifest, features, tmp_path / "out", **options)
    checked = check_layout(name, tmp_path / "out")
    assert checked.problems == ()
    assert checked.num_labels == report.num_labels
    assert checked.fits_scripts == (data_set == OWN or not layout.data_sets[data_set].relies_on)
    assert not (tmp_path / "out/.vadx-tmp").exists()
    imported = {found.id: found for found in import_layout(name, tmp_path / "out")}
    assert imported.keys() == features.keys()
    for identifier, found in imported.items():
        clips = features[identifier]
        expected = clips.values
        if not layout.is_lossless:
            expected = cut_segments(expected, clips.frames, layout.segmentation).features
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=6e-7 if name == "sultani" else 0)
        assert found.label == manifest[identifier].label
        assert found.split == manifest[identifier].split


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_release_that_vadx_did_not_make_is_read_by_its_names(name: str, tmp_path: Path) -> None:
    data_set = next(iter(LAYOUTS[name].data_sets))
    features = exported(tmp_path, name, data_set)
    (tmp_path / MARKER).unlink()
    release = import_layout(name, tmp_path)
    found = {one.id.split("/")[-1]: one.values for one in release}
    assert found.keys() == {identifier.split("/")[-1] for identifier in features}
    if LAYOUTS[name].is_lossless:
        for identifier, clips in features.items():
            np.testing.assert_array_equal(found[identifier.split("/")[-1]], clips.values)
    assert release.known == LAYOUTS[name].knows
    assert release.known.keys() | set(release.unknown) == set(RECIPE_FACTS)
    assert "weights" in release.unknown


def test_the_recipe_of_an_export_is_known(tmp_path: Path) -> None:
    recipe = make_recipe()
    exported(tmp_path, "npy", recipe=recipe)
    release = import_layout("npy", tmp_path)
    assert release.unknown == ()
    assert release.known["sampling.clip_length"] == 16
    assert release.known["weights"] == "random:0"


def test_a_manifest_stands_beside_plain_arrays(tmp_path: Path) -> None:
    exported(tmp_path, "npy")
    listed = read_manifest(tmp_path / "videos.csv")
    assert {entry.id: entry.row() for entry in listed} == {entry.id: entry.row() for entry in manifest_of(UCF)}


def test_a_feature_set_is_exported_as_it_stands(full: FeatureSet, tmp_path: Path) -> None:
    manifest = Manifest(tuple(ManifestEntry(identifier) for identifier in full))
    export_layout("npy", manifest, full, tmp_path / "out", recipe=full.recipe, sizes=full.summaries())
    assert check_layout("npy", tmp_path / "out").is_clean
    imported = import_layout("npy", tmp_path / "out")
    found = {one.id: one.values for one in imported}
    assert found.keys() == set(full)
    for identifier, values in found.items():
        np.testing.assert_array_equal(values, full[identifier].values)
    assert imported.known["network.name"] == full.recipe.network.name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_says_what_it_is(name: str) -> None:
    layout = LAYOUTS[name]
    assert all((layout.meaning, layout.source, layout.keeps, layout.loses))
    assert set(layout.knows) <= set(RECIPE_FACTS)
    for files in layout.data_sets.values():
        assert files.target is None or files.target in TARGETS or name == "pel4vad"


def test_half_precision_comes_back(tmp_path: Path) -> None:
    manifest, features, options = setting("npy", OWN)
    half = {key: replace(clips, values=clips.values.astype(np.float16)) for key, clips in features.items()}
    export_layout("npy", manifest, half, tmp_path, **options)
    for found in import_layout("npy", tmp_path):
        np.testing.assert_array_equal(found.values, half[found.id].values)


def test_large_hdf5_files_are_written_to_reserved_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(tmp_path / "small", "wsal")
    monkeypatch.setattr(hdf5_module, "MEMORY_IMAGE_BYTES", 0)
    features = exported(tmp_path / "large", "wsal")
    assert {one.id: one.values.tobytes() for one in import_layout("wsal", tmp_path / "large")} == {
        key: clips.values.tobytes() for key, clips in features.items()
    }
    sizes = [(tmp_path / which / "gcn_feas.hdf5").stat().st_size for which in ("small", "large")]
    assert sizes[0] == sizes[1]


def test_a_full_disk_is_told_before_hdf5_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _num_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5_module, "MEMORY_IMAGE_BYTES", 0)
    monkeypatch.setattr(hdf5_module, "preallocate", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        exported(tmp_path / "out", "wsal")
    assert not list((tmp_path / "out").glob("*.hdf5"))
    assert not list((tmp_path / "out/.vadx-tmp").glob("*"))


# ---- crops ----


def test_crops_are_brought_into_the_targets_order(tmp_path: Path) -> None:
    manifest, features, options = setting("urdmu", OWN)
    recipe = make_recipe(crops="ten")
    assert recipe.transform.crop_order == "tv"
    export_layout("urdmu", manifest, features, tmp_path, recipe=recipe, **options)
    values = features["Abuse/Abuse028_x264"].values
    # torchvision: TL TR BL BR C, then the mirrored frame's, whose TL is the frame's TR. Roc-Ng: C TL TR BL BR, then
    # the same mirrored.
    for crop, source in enumerate((4, 0, 1, 2, 3, 9, 6, 5, 8, 7)):
        written = np.load(tmp_path / f"test/Abuse028_x264__{crop}.npy")
        np.testing.assert_array_equal(written, values[:, source])


def test_five_of_ten_crops_are_taken_where_their_places_are_known(tmp_path: Path) -> None:
    features = features_of(XD, tail="floor_minus_one", num_crops=10)
    counts = {row[0]: row[4] for row in XD}
    options: dict[str, Any] = {"data_set": "xd-violence", "counts": counts}
    export_layout("xdviodet", manifest_of(XD), features, tmp_path, recipe=make_recipe(crops="ten"), **options)
    assert check_layout("xdviodet", tmp_path).is_clean
    values = features["v=abc__#1_label_B1-0-0"].values
    written = [np.load(tmp_path / f"RGB/v=abc__#1_label_B1-0-0__{crop}.npy") for crop in range(5)]
    np.testing.assert_array_equal(np.stack(written, axis=1), values[:, [4, 0, 1, 2, 3]])


@pytest.mark.parametrize("name", CROP_PLACES)
def test_crop_places_are_those_of_the_crops_that_are_cut(name: str) -> None:
    import torch

    from vadx.extract.crops import ten_crop

    image = torch.arange(12 * 16, dtype=torch.float32).reshape(1, 12, 16)
    ours = ten_crop(image, 8, order="roc")
    theirs = ten_crop(image, 8, order=name)
    if not isinstance(ours, torch.Tensor):
        ours, theirs = torch.stack(list(ours)), torch.stack(list(theirs))
    axis = list(ours.shape).index(10)
    picked = theirs.index_select(axis, torch.tensor([CROP_PLACES[name].index(place) for place in CROP_PLACES["roc"]]))
    assert torch.equal(picked, ours)


def test_one_crop_or_their_mean_is_written_on_request(tmp_path: Path) -> None:
    manifest, features = manifest_of(UCF), features_of(UCF)
    export_layout("wsal", manifest, features, tmp_path / "mean", crop="mean")
    export_layout("wsal", manifest, features, tmp_path / "third", crop=3)
    for found in import_layout("wsal", tmp_path / "third"):
        np.testing.assert_array_equal(found.values, features[found.id].values[:, 3:4])
    for found in import_layout("wsal", tmp_path / "mean"):
        # The mean is taken in float64, and rounded once.
        expected = features[found.id].values.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(found.values, expected)
    assert import_layout("wsal", tmp_path / "mean").loses


def test_suffixes_of_crops_are_the_published_ones() -> None:
    assert {name: [one.of(0), one.of(1), one.of(9)] for name, one in CROP_SUFFIXES.items()} == {
        "bare_first": ["", "__1", "__9"],
        "double": ["__0", "__1", "__9"],
        "single": ["_0", "_1", "_9"],
    }


# ---- what does not fit ----


def test_the_first_video_that_does_not_fit_is_named_before_anything_is_written(tmp_path: Path) -> None:
    manifest, features, options = setting("vadclip", "ucf-crime", tail="ceil")
    with pytest.raises(UsageError, match=r"Arson007_x264' would not fit: its features have 3 clips, and .* labels 2"):
        export_layout("vadclip", manifest, features, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_one_clip_too_many_or_too_few_is_trimmed_on_request(tmp_path: Path) -> None:
    for tail in ("ceil", "floor_plus_one"):
        manifest, features, options = setting("vadclip", "ucf-crime", tail=tail)
        folder = tmp_path / tail
        report = export_layout("vadclip", manifest, features, folder, fit="trim", **options)
        assert any("made to fit" in note for note in report.notes)
        assert check_layout("vadclip", folder).is_clean
        for found in import_layout("vadclip", folder):
            if found.split == "test":
                wanted = CLIP_COUNTS["floor"](features[found.id].facts.num_frames_decoded)
                np.testing.assert_array_equal(found.values, features[found.id].values[:wanted])
    manifest, features, options = setting("rtfm", "ucf-crime", tail="floor")
    export_layout("rtfm", manifest, features, tmp_path / "more", fit="trim", **options)
    longer = {found.id: found.values for found in import_layout("rtfm", tmp_path / "more")}
    values = features["Arson/Arson007_x264"].values
    np.testing.assert_array_equal(longer["Arson/Arson007_x264"], np.concatenate([values, values[-1:]]))
    twice = {key: replace_clips(clips, 2) for key, clips in features.items()}
    with pytest.raises(UsageError, match="One clip is trimmed, no more"):
        export_layout("rtfm", manifest, twice, tmp_path / "no", fit="trim", **options)


def replace_clips(clips: ClipFeatures, times: int) -> ClipFeatures:
    names = ("values", "frames", "seconds", "damaged")
    return replace(clips, **{name: np.concatenate([getattr(clips, name)] * times) for name in names})


def test_targets_that_rest_on_opencvs_counts_are_refused_without_them(tmp_path: Path) -> None:
    manifest, features, options = setting("xdviodet", "xd-violence")
    with pytest.raises(UsageError, match="Give a file of those counts"):
        export_layout("xdviodet", manifest, features, tmp_path / "out", **{**options, "counts": None})
    with pytest.raises(UsageError, match="no rule gives that"):
        exported(tmp_path / "sht", "pel4vad", "shanghaitech")


def changed(rows: Sequence[Row], at: int, **values: Any) -> Manifest:
    entries = list(manifest_of(rows))
    entries[at] = replace(entries[at], **values)
    return Manifest(tuple(entries))


NO_SPANS = np.zeros((0, 2), np.int64)
THREE = np.array([[1, 2], [3, 4], [5, 6]])

REFUSED: Mapping[str, tuple[str, Manifest, str]] = {
    "no label": ("rtfm", changed(UCF, 1, label=-1), "Normal_Videos001_x264'.* normal or anomalous by their place"),
    "spans not known": ("rtfm", changed(UCF, 3, spans=NO_SPANS), "Abuse028_x264' is anomalous and its spans are not"),
    "spans not known, as text": ("sultani", changed(UCF, 3, spans=NO_SPANS), "sultani would call all of it normal"),
    "more spans than a line holds": ("ekosman", changed(UCF, 3, spans=THREE), "has 3 spans, and .* has room for 2"),
    "a name that says normal": (
        "wsal",
        changed(UCF, 1, label=1),
        "labelled anomalous, and the target reads the label from the name",
    ),
    "a class that says nothing": ("urdmu", changed(UCF, 0, label=0, class_name=""), "so it would be anomalous"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_target_would_misread_is_refused(case: str, tmp_path: Path) -> None:
    name, manifest, message = REFUSED[case]
    _, features, _ = setting(name, OWN)
    with pytest.raises(UsageError, match=message):
        export_layout(name, manifest, features, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "bad"), [("ekosman", "a.b"), ("wsal", "a b"), ("urdmu", "a b"), ("mist", "a,b")])
def test_names_that_the_target_would_cut_are_refused(name: str, bad: str, tmp_path: Path) -> None:
    layout, _ = find_layout(name)
    crops = layout.family.crops[OWN].nums[0]
    rows: Sequence[Row] = [(f"Abuse/{bad}", 1, "train", [], 40)]
    with pytest.raises(UsageError, match="the target cuts names at"):
        export_layout(name, manifest_of(rows), features_of(rows, num_crops=crops), tmp_path / "out")


def test_names_that_would_be_one_file_are_refused(tmp_path: Path) -> None:
    rows: Sequence[Row] = [("a/x", 1, "train", [], 40), ("b/X", 1, "train", [], 40)]
    with pytest.raises(UsageError, match="'a/x' and 'b/X' would be one file"):
        export_layout("rtfm", manifest_of(rows), features_of(rows), tmp_path / "out")
    export_layout("npy", manifest_of(rows), features_of(rows), tmp_path / "out")


def test_a_folder_whose_path_the_target_would_read_as_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by which the target knows normal videos"):
        exported(tmp_path / "Normal", "pel4vad")
    exported(tmp_path / "Normal", "pel4vad", prefix="feat")
    assert lines_of(tmp_path / "Normal/list/ucf/train.list")[0] == "feat/train/Abuse001_x264.npy"
    assert check_layout("pel4vad", tmp_path / "Normal").is_clean


def test_wrong_numbers_of_crops_are_refused(tmp_path: Path) -> None:
    for name, num_crops, message in (("rtfm", 1, "extract with ten crops"), ("wsal", 10, "give one crop's number")):
        with pytest.raises(UsageError, match=message):
            export_layout(name, manifest_of(UCF), features_of(UCF, num_crops=num_crops), tmp_path / "out")
    with pytest.raises(UsageError, match="has 10 crops and none is 10"):
        export_layout("wsal", manifest_of(UCF), features_of(UCF), tmp_path / "out", crop=10)
    assert not (tmp_path / "out").exists()


def test_labels_as_long_as_the_video_need_as_many_frames_as_clips(tmp_path: Path) -> None:
    manifest, features, options = setting("arnet", OWN, tail="ceil")
    with pytest.raises(UsageError, match=r"Normal_Videos_003_x264' would not fit: its features have 3 clips"):
        export_layout("arnet", manifest, features, tmp_path / "out", **options)
    export_layout("arnet", manifest, features, tmp_path / "out", fit="trim", **options)
    assert check_layout("arnet", tmp_path / "out").is_clean


def test_unknown_names_list_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no layout 'rtmf'; there are npy, sultani"):
        find_layout("rtmf")
    with pytest.raises(UsageError, match="rtfm has no lists for 'lad'; give one of ucf-crime, shanghaitech, own"):
        find_layout("rtfm", "lad")
    with pytest.raises(UsageError, match="fit is one of refuse, trim"):
        exported(tmp_path / "out", "rtfm", fit="cut")
    with pytest.raises(NoInputError, match="there is no folder"):
        import_layout("rtfm", tmp_path / "missing")


# ---- what a report says ----


def test_the_numbers_that_scripts_take_for_granted_are_said(tmp_path: Path) -> None:
    manifest, features, options = setting("rtfm", "ucf-crime")
    report = export_layout("rtfm", manifest, features, tmp_path, **options)
    assert report.counts == {"train": (2, 1), "test": (2, 1)}
    assert not report.fits_scripts
    assert report.relies_on[0].startswith("train: 2 anomalous and 1 normal videos, and the scripts take 810 and 800")
    assert (report.num_labels, report.num_positives) == (192, 21 + 11 + 32)
    assert set(report.files) == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    } - {MARKER}


def test_videos_without_features_labels_or_split_are_told(tmp_path: Path) -> None:
    manifest, features, options = setting("rtfm", OWN)
    fewer = {key: clips for key, clips in features.items() if "Arson002" not in key}
    more = {**fewer, "unlisted": features["Abuse/Abuse001_x264"]}
    aside = changed(UCF, 0, split="val")
    report = export_layout("rtfm", aside, more, tmp_path, **options)
    notes = "\n".join(report.notes)
    assert "1 videos of the feature set are in no list, the first 'unlisted'" in notes
    assert "1 videos of the manifest have no features, the first 'Arson/Arson002_x264'" in notes
    assert "1 videos are neither train nor test, the first 'Abuse/Abuse001_x264'" in notes
    assert report.counts["train"] == (0, 1)
    with pytest.raises(UsageError, match="no video of the feature set stands in"):
        export_layout("rtfm", manifest, {"other": features["Abuse/Abuse001_x264"]}, tmp_path / "none")


def test_frames_count_as_they_were_decoded(tmp_path: Path) -> None:
    _, features, options = setting("rtfm", OWN)
    report = export_layout("rtfm", changed(UCF, 3, num_frames=95), features, tmp_path, **options)
    assert any("1 videos had other numbers of frames" in note for note in report.notes)


def test_sizes_spare_the_first_reading(tmp_path: Path) -> None:
    class Counted(dict[str, ClipFeatures]):
        reads = 0

        def __getitem__(self, key: str) -> ClipFeatures:
            Counted.reads += 1
            return super().__getitem__(key)

    class Size:
        def __init__(self, clips: ClipFeatures) -> None:
            self.num_clips, self.num_crops, self.dim = clips.values.shape
            self.num_frames = clips.facts.num_frames_decoded

    manifest, features, options = setting("rtfm", OWN)
    sizes = {key: Size(clips) for key, clips in features.items()}
    export_layout("rtfm", manifest, Counted(features), tmp_path, sizes=sizes, **options)
    assert Counted.reads == len(features)


def test_truth_of_ones_own_data_set_has_sixteen_labels_a_clip(tmp_path: Path) -> None:
    features = exported(tmp_path, "rtfm")
    gt = np.load(tmp_path / "list/gt.npy")
    rows = [UCF[3], UCF[5], UCF[4]]
    expected = [frame_truth(row[3], 16 * len(features[row[0]])) for row in rows]
    np.testing.assert_array_equal(gt, np.concatenate(expected))


def test_ucf_crime_is_listed_and_labelled_as_published(tmp_path: Path, field_data: Path) -> None:
    folder = field_data / "annotations/ucf_crime"
    names = ("Temporal_Anomaly_Annotation.txt", "mist_Temporal_Anomaly_Annotation_New.txt")
    manifest = read_annotations("ucf-crime", [folder / name for name in names]).manifest()

    class OneNumberAClip(dict[str, int]):
        """Features of every video, made when they are read."""

        def __getitem__(self, key: str) -> Any:
            return features_of([(key, 0, "test", [], super().__getitem__(key))], num_crops=10, dim=1)[key]

    features: Any = OneNumberAClip((entry.id, entry.num_frames or 0) for entry in manifest)
    report = export_layout("rtfm", manifest, features, tmp_path, data_set="ucf-crime")
    published = [line.rpartition("\\")[2] for line in lines_of(folder / "rtfm_ucf-i3d-test.list")]
    assert [Path(line).name for line in lines_of(tmp_path / "list/ucf-i3d-test.list")] == published
    assert report.counts["test"] == (140, 150)
    # 69,634 clips, as RTFM's author counts its own features.
    assert report.num_labels == len(np.load(tmp_path / "list/gt-ucf.npy")) == 16 * 69_634


ORDERS = {
    "rtfm, UCF-Crime": ("rtfm", "ucf-crime", "train", ("Anomaly_Train.txt",), "rtfm_ucf-i3d.list"),
    "rtfm, ShanghaiTech": (
        *("rtfm", "shanghaitech", "train"),
        ("SH_Train_new.txt",),
        "rtfm_shanghai-i3d-train-10crop.list",
    ),
    "xdviodet": ("xdviodet", "xd-violence", "test", ("rgb_test.list", "annotations.txt"), "rgb_test.list"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_lists_made_of_published_ones_have_the_published_order(case: str, field_data: Path) -> None:
    name, data_set, split, lists, published = ORDERS[case]
    folder = field_data / "annotations" / data_set.replace("-", "_")
    manifest = read_annotations(data_set, [folder / one for one in lists]).manifest()
    layout, _ = find_layout(name, data_set)
    num_crops = layout.family.crops.get(data_set, layout.family.crops[OWN]).nums[0]
    one = features_of([("any", 0, split, [], 40)], tail="floor_minus_one", num_crops=num_crops, dim=1)["any"]
    counts = {entry.id: 40 for entry in manifest}
    wishes = Wishes("", None, None, None, None, counts, "refuse")
    plan = plan_export(name, layout, data_set, manifest, dict.fromkeys(counts, one), wishes)
    paths = [line.replace("\\", "/").split("/")[-1] for line in lines_of(folder / published)]
    names = [re.sub(r"(_i3d|__\d)\.npy$", "", path) for path in paths]
    assert [video.name for video in plan.marker.of(split)] == list(dict.fromkeys(names))
    assert count_labels(plan.marker.of(split)) == layout.data_sets[data_set].relies_on[split]
