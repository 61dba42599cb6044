"""`vadx demo --train`: from pixels that it draws to numbers, with a network that is as small as can be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support import Ran
from vadx.errors import UsageError
from vadx.features import Store
from vadx.features.manifest import read_manifest
from vadx.pipelines import scene_chain
from vadx.pipelines.cli import run as run_cli
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.scene_chain import ChainSettings, temporal_methods
from vadx.pipelines.scoring import score_set

METHODS = ("svm", "deepmil", "align", "mgpr")
SMALL = ["--size", "96x72", "--seconds", "6", "7", "--backbone", "tiny", "--weights", "random", "--device", "cpu"]
COMMAND = ["demo", "--train", "--videos", "6+4", "--iterations", "3", "--methods", ",".join(METHODS), *SMALL]

pytestmark = pytest.mark.usefixtures("no_power_loss")


def test_six_scenes_train_every_branch_of_the_chain_and_four_measure_it(
    vadx_here: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Intervals are not looked at here: a few draws do.
    monkeypatch.setattr(scene_chain, "ChainSettings", partial(ChainSettings, bootstrap=20))
    ran = vadx_here(*COMMAND, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["iterations"] == 3
        assert row["last_losses"]
        assert all(math.isfinite(loss) for loss in row["last_losses"].values()), row["method"]
        counts = row["evaluation"]["counts"]
        assert counts["videos"] == 4
        assert 0 <= row["evaluation"]["metrics"]["frame_auc"]["value"] <= 1
    home = tmp_path / ".demo" / "train-6-4"
    manifest = read_manifest(home / "scenes" / "manifest.csv")
    store = Store(home / "store")
    (features,) = store.sets()
    assert sorted(features) == sorted(entry.id for entry in manifest)
    for row in rows:
        model = read_model(tmp_path / row["model"])
        for video in score_set(model, features, [entry.id for entry in manifest if entry.split == "test"]):
            assert video.num_frames == manifest[video.id].num_frames
            assert np.isfinite(video.frame_scores).all()
    tubes = rows[-1]["evaluation"]["tubes"]
    assert tubes["counts"]["abnormal"] == 2
    places = tubes["localisation"]["detector"]
    assert 0 <= places["random"]["miou"] <= places["best"]["miou"] <= 1
    again = vadx_here(*COMMAND)
    assert again.code == 0, again.err
    assert "RANDOM WEIGHTS: meaningless" in again.out
    for row in rows:
        (line,) = (line for line in again.out.splitlines() if line.split()[:1] == [row["method"]])
        assert f"{row['evaluation']['metrics']['frame_auc']['value']:.3f}" in line
    assert "MIoU of the tube that mgpr scores highest" in again.out


@pytest.mark.weights
def test_the_real_network_goes_the_same_way(
    real_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del real_weights
    # Two clips a scene: a clip costs the network a second.
    small = ["--size", "96x72", "--seconds", "4", "4.1", "--clip-stride", "32", "--device", "cpu", "--json"]
    trained = ["--quick", "--videos", "2+2", "--iterations", "2", "--methods", "svm,lad"]
    arguments = ["demo", "--train", *trained, *small, "--out", str(tmp_path)]
    assert run_cli(arguments) == 0
    svm, lad = json.loads(capfd.readouterr().out)
    assert math.isfinite(svm["last_losses"]["hinge"])
    # The classes of the scenes' anomalies, and none.
    assert math.isfinite(lad["last_losses"]["class"])
    assert len(read_model(Path(lad["model"])).facts["classes"]) == 6
    (features,) = Store(tmp_path / "train-2-2" / "store").sets()
    assert features.weights_name == "i3d-rgb-k400-tfhub"
    assert {summary.dim for summary in features.summaries().values()} == {1024}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick"], "--quick says how scenes are drawn and trained on: add --train"),
        (["--train", "--videos", "60"], "--videos is two numbers, as in 60+40"),
        (["--train", "--videos", "5+4"], "half of each are anomalous"),
        (["--train", "--methods", "deepmill", "--weights", "random"], "there is no method 'deepmill'"),
        (["--train", "--seconds", "1", "2", "--weights", "random"], "give more seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_drawn(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["demo", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_method_trains_for_the_papers_iterations_at_most() -> None:
    assert ChainSettings(iterations=10**6).iterations_of("wsal") == 3000
    assert ChainSettings(iterations=300).iterations_of("wsal") == 300
    assert temporal_methods()[0] == "svm"
    assert temporal_methods()[-1] == "mgpr"
    with pytest.raises(UsageError, match="give a method"):
        ChainSettings(iterations=0)
