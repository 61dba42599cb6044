"""``vadx eval`` with tubes: where a model's tubes lie, by hand, and which videos are left out of that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import Ran, make_video
from vadx.errors import UsageError
from vadx.features.box_annotations import write_box_csv
from vadx.features.box_truth import BoxTruth
from vadx.features.manifest import read_manifest
from vadx.features.stage_set import StageSet
from vadx.features.store import Store
from vadx.pipelines.cli import run as run_cli
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.tube_evaluation import TubeSets, judge_tubes
from vadx.pipelines.tube_scoring import score_tubes

from .scoring_samples import write_tiny_model

Vadx = Callable[..., Ran]

NUM_FRAMES = 24
BIG, SMALL = (8, 8, 40, 40), (44, 4, 60, 20)
LISTED = """id,label,class,spans
a,1,Abuse,0:16
b,1,Arson,4:20
n,0,,
"""
EVAL = ("eval", "model", "--manifest", "list.csv", "--store", "store", "--bootstrap", "0")


pytestmark = pytest.mark.usefixtures("no_power_loss")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the tubes and features of three videos, a model, a list, and the boxes of ``a``.

    The detector is sure of the big box in frames 0 to 15 and of the small one in 0 to 11, and later guesses.
    """
    home = tmp_path_factory.mktemp("tubes")
    (home / "boxes").mkdir()
    for seed, name in enumerate("abn"):
        make_video(home / "videos" / f"{name}.mp4", num_frames=NUM_FRAMES, seed=seed)
        rows = [f"{n},{','.join(map(str, BIG))},{0.9 if n < 16 else 0.3}" for n in range(NUM_FRAMES)]
        rows += [f"{n},{','.join(map(str, SMALL))},0.8" for n in range(12)]
        (home / "boxes" / f"{name}.csv").write_text("\n".join(["frame,x1,y1,x2,y2,score", *rows]) + "\n")
    linked = ("--detections", str(home / "boxes"), "--format", "csv", "--link-score", "0.5", "--min-length-unary", "8")
    for command in (
        ("extract", "--backbone", "tiny", "--weights", "random:5"),
        ("tubes", *linked, "--backbone", "tiny", "--backbone-weights", "random:5"),
    ):
        assert run_cli([*command, str(home / "videos"), "--device", "cpu", "--out", str(home / "store")]) == 0
    write_tiny_model(home / "model", "mgpr")
    (home / "list.csv").write_text(LISTED)
    truth = BoxTruth.of_rows(np.arange(NUM_FRAMES), np.tile(BIG, (NUM_FRAMES, 1)))
    write_box_csv(home / "truth.csv", {"a": truth})
    return home


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def sets_of(folder: Path) -> TubeSets:
    store = Store(folder / "store")
    return TubeSets.of(
        next(one for one in store.all_sets() if isinstance(one, StageSet) and one.kind == "tube-features")
    )


def test_tubes_are_placed_by_the_frames_that_were_linked(folder: Path, vadx_here: Vadx) -> None:
    sets = sets_of(folder)
    frames, stride = sets.linked_frames("a")
    # Detections below the score of linking are none, though they are stored.
    assert (frames.tolist(), stride) == (list(range(16)), 1)
    assert sets.link_settings().min_score == 0.5
    ran = vadx_here(*EVAL, "--tubes", "tube-features", "--boxes", "truth.csv", "--json")
    assert ran.code == 0, ran.err
    last = json.loads(ran.out)["evaluations"]["last"]
    tubes = last["tubes"]
    assert tubes["counts"] | {"videos": 2, "abnormal": 1, "normal": 1, "without_tubes": 0} == tubes["counts"]
    # Four parts of the big box of 4 frames each, of 16 that are asked about; three of the small one, beside it.
    reading = tubes["localisation"]["detector"]
    assert reading["best"]["miou"] == pytest.approx(Fraction(1, 4), abs=1e-12)
    assert reading["random"]["miou"] == pytest.approx(Fraction(1, 7), abs=1e-12)
    model = read_model(folder / "model")
    scored = {name: score_tubes(model, sets.features, sets.tubes, name) for name in "abn"}
    assert len(scored["a"].scores) == 7
    assert last["metrics"]["vauc"]["value"] == float(scored["a"].score > scored["n"].score)
    assert [row["score"] for row in last["videos"]] == pytest.approx([scored[name].score for name in "abn"])
    assert any("1 videos that are anomalous and have no annotated box: b" in note for note in last["notes"])
    printed = vadx_here(*EVAL, "--tubes", "tube-features", "--boxes", "truth.csv", "-p", "wsstad-st-ucf").out
    assert "VAUC" in printed.splitlines()[3]
    assert "MIoU" in printed
    assert "IoU@0.3" in printed
    assert "0.2500" in printed


def test_without_boxes_tubes_score_videos_and_are_not_placed(folder: Path, vadx_here: Vadx) -> None:
    ran = vadx_here(*EVAL, "--tubes", "tube-features", "--json")
    last = json.loads(ran.out)["evaluations"]["last"]
    assert last["tubes"] is None
    scores = {row["id"]: row["score"] for row in last["videos"]}
    expected = ((scores["a"] > scores["n"]) + (scores["b"] > scores["n"])) / 2
    assert last["metrics"]["vauc"]["value"] == expected
    assert any("--boxes FILE" in note for note in last["notes"])
    without = json.loads(vadx_here(*EVAL, "--json").out)["evaluations"]["last"]
    assert [row["score"] for row in without["videos"]] != [row["score"] for row in last["videos"]]


def test_videos_without_stored_tubes_are_left_out_and_said(folder: Path) -> None:
    sets, model = sets_of(folder), read_model(folder / "model")
    sets.features.shard_path("n").unlink()
    entries = {entry.id: entry for entry in read_manifest(folder / "list.csv")}
    truth: dict[str, Any] = {"a": BoxTruth.of_rows([3], np.array([BIG]))}
    judged = judge_tubes(model, sets, entries, truth)
    assert judged.report is not None
    assert judged.report.counts.videos == 1
    assert judged.report.vauc.value is None
    assert any("1 videos whose tubes are not stored: n" in note for note in judged.notes)
    with pytest.raises(UsageError, match="no video has both tubes and annotated boxes"):
        judge_tubes(model, sets, {"b": entries["b"]}, truth)
