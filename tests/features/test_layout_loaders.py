"""Loaders written from what is published read exports."""

from __future__ import annotations

import ast
import csv
import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from vadx.features.bags import cut_segments

from .layout_samples import exported, lines_of

pytestmark = pytest.mark.usefixtures("no_power_loss")


def unpickled(path: Path) -> Any:
    """Load a pickle as the repositories do, which trust it."""
    return pickle.loads(path.read_bytes())  # noqa: S301  # written by this test


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
