"""Imported feature sets: what a person states of them, and that they go where others go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support import make_video
from vadx.errors import UsageError
from vadx.extract.library import load_backbone, make_engine
from vadx.features.layouts.marker import MARKER
from vadx.features.store import Store

from .import_samples import DIM, Vadx, export, imported_set, make_set, random_values, rtfm_release, save

pytestmark = pytest.mark.usefixtures("no_power_loss")


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


def test_segments_are_no_clips_however_often_they_travel(tmp_path: Path, vadx_here: Vadx) -> None:
    export(vadx_here, tmp_path, "sultani")
    first = vadx_here("import", "--format", "sultani", "out", "--to", "store", "--name", "c3d")
    there = ("--format", "wsal", "--manifest", "labels.csv", "--to", "again")
    assert vadx_here("export", "imported-sultani", "-o", "store", *there).code == 0
    second = vadx_here("import", "--format", "wsal", "again", "--to", "store")
    assert second.code == 0, second.err
    before, after = imported_set(first), imported_set(second)
    assert after.recipe.imported is not None
    assert after.recipe.imported.segmentation == "sultani"
    for identifier, clips in before.items():
        np.testing.assert_array_equal(after[identifier].values, clips.values)
        np.testing.assert_array_equal(after[identifier].frames, clips.frames)


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
