"""Models that cannot be used, and disks that take none: what is said, with which exit code, and what to type next."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support import Ran
from vadx.features import publish
from vadx.features.store import FeatureSet
from vadx.pipelines import model_folder
from vadx.pipelines.model_folder import METRICS, STATE, read_tensors, write_tensors

from .training_store import command, ran_well

Vadx = Callable[..., Ran]

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_loss")


@pytest.fixture
def model(tiny: FeatureSet, tmp_path: Path, vadx_here: Vadx) -> Path:
    """Train a model of which a best network was chosen too."""
    ran_well(vadx_here(*command("svm")))
    assert (tmp_path / "model" / "best.safetensors").is_file()
    return tmp_path / "model"


def spoil(path: Path, value: float) -> None:
    tensors, header = read_tensors(path)
    next(iter(tensors.values())).view(-1)[0] = value
    write_tensors(path, tensors, header)


USES = {
    "eval": ("eval", "model", "--manifest", "labels.csv", "--bootstrap", "0"),
    "score": ("score", "model", "--set", "tiny"),
    "report": ("report", "model", "--manifest", "labels.csv", "--bootstrap", "0"),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_of_nan_scores_nothing_and_the_other_one_is_named(
    name: str, value: float, model: Path, vadx_here: Vadx
) -> None:
    spoil(model / "last.safetensors", value)
    ran = vadx_here(*USES[name])
    assert (ran.code, ran.out) == (1, ""), ran.err
    assert "last.safetensors: 1 of its " in ran.err
    assert "tensors hold NaN or infinity" in ran.err
    assert "try the other network, --which best; or train again, into another folder: vadx train --to" in ran.err
    assert vadx_here(*USES[name], "--which", "best").code == 0


def test_scores_that_are_no_numbers_are_no_lack_of_input(
    model: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of finite weights so large that float32 does not hold what they give.
    monkeypatch.setattr(model_folder, "_check_finite", lambda path, tensors: None)
    for which in ("last", "best"):
        spoil(model / f"{which}.safetensors", float("nan"))
    ran = vadx_here(*USES["eval"])
    assert (ran.code, ran.out) == (1, ""), ran.err
    assert "none of the 4 videos could be scored" in ran.err
    assert "scores are NaN or infinite; train the model again" in ran.err


@pytest.mark.parametrize("name", USES)
def test_a_damaged_network_names_the_other_one(name: str, model: Path, vadx_here: Vadx) -> None:
    path = model / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    ran = vadx_here(*USES[name])
    assert ran.code == 1
    assert "try the other network, --which best; or train again, into another folder" in ran.err
    (model / "best.safetensors").unlink()
    assert "--which" not in vadx_here(*USES[name]).err


def test_a_training_that_came_to_no_checkpoint_is_told_as_one(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran = vadx_here(*command("deepmil", "--learning-rate", "1e38"))
    assert (ran.code, "the loss is" in ran.err) == (2, True), ran.err
    ran = vadx_here(*USES["eval"])
    assert ran.code == 1
    assert "model has no last.safetensors: its training came to no checkpoint yet; repeat the command" in ran.err


def test_a_damaged_state_says_how_the_training_begins_anew(model: Path, vadx_here: Vadx) -> None:
    whole = load_file(model / "last.safetensors")
    (model / STATE).write_bytes(b"cut off")
    refused = vadx_here(*command("svm"))
    assert refused.code == 1
    assert f"{STATE}: not a file of a vadx model" in refused.err
    assert "remove it, and the same command trains from the beginning" in refused.err
    (model / STATE).unlink()
    ran_well(vadx_here(*command("svm")))
    again = load_file(model / "last.safetensors")
    assert all(torch.equal(one, again[name]) for name, one in whole.items())


# ---- disks ----


def full_disk(monkeypatch: pytest.MonkeyPatch, needle: str) -> None:
    """Let no file be written below a folder of this name."""
    write = publish._write_temporary

    def refuse(data: Any, tmp: Path, name: str) -> Path:
        if needle in tmp.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(data, tmp, name)

    monkeypatch.setattr(publish, "_write_temporary", refuse)


def test_a_full_disk_is_answered_with_the_option_that_train_has(
    tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch, "model")
        ran = vadx_here(*command("svm"))
    assert ran.code == 6
    assert "Free space there, or give another --to; the same command resumes." in ran.err
    assert "--out" not in ran.err
    ran_well(vadx_here(*command("svm")))


def test_a_line_of_metrics_that_the_disk_refuses_ends_a_training_which_goes_on(
    tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == METRICS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return really(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        ran = vadx_here(*command("svm", "--log-every", "1"))
    assert ran.code == 6
    assert "metrics.jsonl: No space left on device" in ran.err
    assert "give another --to; the same command resumes." in ran.err
    ran_well(vadx_here(*command("svm", "--log-every", "1")))


def test_a_full_disk_is_answered_with_the_option_of_scores(
    model: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, "scores")
    ran = vadx_here(*USES["eval"], "--scores-out", "scores")
    assert ran.code == 6
    assert "give another --scores-out" in ran.err


# ---- lists ----


@pytest.mark.parametrize("name", ["train", "eval", "report"])
@pytest.mark.parametrize("content", ["", "id,label,class,split,spans\n"])
def test_a_list_of_nothing_is_no_input(name: str, content: str, model: Path, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(content)
    ran = vadx_here(*(command("svm") if name == "train" else USES[name]))
    assert (ran.code, ran.out) == (5, ""), ran.err
    assert "labels.csv is empty, it lists no video: make it anew with `vadx manifest`" in ran.err
