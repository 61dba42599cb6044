"""What does not fit a layout, or would be misread, is refused before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import NoInputError, UsageError
from vadx.features.frame_truth import CLIP_COUNTS
from vadx.features.layouts import OWN, check_layout, export_layout, find_layout, import_layout
from vadx.features.manifest import Manifest
from vadx.features.timeline import ClipFeatures

from .layout_samples import UCF, Row, changed, exported, features_of, lines_of, manifest_of, setting

pytestmark = pytest.mark.usefixtures("no_power_loss")


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
