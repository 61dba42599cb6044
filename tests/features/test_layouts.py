"""Layouts: what is exported is checked and read back, crops find their places, and what a report says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vadx.errors import UsageError
from vadx.features.annotations import read_annotations
from vadx.features.bags import cut_segments
from vadx.features.frame_truth import TARGETS, frame_truth
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

from .layout_samples import UCF, XD, changed, exported, features_of, lines_of, manifest_of, setting
from .samples import make_recipe

pytestmark = pytest.mark.usefixtures("no_power_loss")

EVERY = [(name, data_set) for name, layout in LAYOUTS.items() for data_set in layout.data_sets]
POSSIBLE = [pair for pair in EVERY if pair != ("pel4vad", "shanghaitech")]


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
