"""The options of ``vadx train``: every setting of every method is one, and what cannot be meant is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import Ran
from vadx.features.store import FeatureSet
from vadx.pipelines import training_display
from vadx.pipelines.cli.method_options import choices_of, setting_options
from vadx.pipelines.methods import METHODS, PAPER, find_method
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.training_display import make_training_display

from .training_store import (
    SMALL,
    clips_of,
    command,
    contents,
    manifest_text,
    put,
    ran_well,
)

Vadx = Callable[..., Ran]

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_loss")


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_a_method_is_an_option(method: str, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    spec = find_method(method)
    for variant in (PAPER, *spec.load().variants):
        shown = ran_well(vadx_here("train", "--method", method, "--variant", variant, "--help")).out
        for setting in dataclasses.fields(spec.load().settings_class):
            assert f"--{setting.name.replace('_', '-')}" in shown
        assert f"─ Settings of {method}{'' if variant == PAPER else f', variant {variant}'} ─" in shown
        defaults = {option.name: option.default for option in setting_options(spec, variant)}
        assert defaults == {name: getattr(spec.make(variant).settings, name) for name in defaults}


def test_no_setting_is_named_as_an_option_of_all() -> None:
    from vadx.pipelines.cli.train import train

    own = {name for option in train.params for name in (option.name, *option.opts)}
    for spec in METHODS.values():
        for option in setting_options(spec, PAPER):
            assert not own & {option.name, *option.opts}, (spec.name, option.name)


def test_choices_are_those_that_the_settings_take() -> None:
    assert choices_of(find_method("deepmil")).keys() == {"ranking", "constraints", "weight_norm"}
    assert [*choices_of(find_method("align"))["attention"]] == ["plain", "gated"]
    assert choices_of(find_method("lad"))["beyond"]["ignore"].startswith("frames beyond a video's end count nowhere")
    for spec in METHODS.values():
        # A class of its own for normal videos has to be among the classes.
        more = {"classes": "ucf-crime"} if spec.name == "lad" else {}
        for name, choices in choices_of(spec).items():
            assert all(spec.make(**more, **{name: choice}) for choice in choices), name


def test_options_reach_the_settings(tiny: FeatureSet, vadx_here: Vadx) -> None:
    changes = ("--no-encoding-dropout", "--semantic-units", "4,2", "--dynamic-units", "none", "--margin", "paired")
    ran_well(vadx_here(*command("wsal", "--variant", "code", *changes)))
    found = read_model(Path("model")).method.settings
    expected: dict[str, Any] = {
        "encoding_dropout": False,
        "semantic_units": (4, 2),
        "dynamic_units": (),
        "margin": "paired",
        "trunk_units": (16, 8),
        "encoding_units": 8,
        "normal_bags": 3,
        "anomalous_bags": 3,
        "iterations": 3,
    }
    assert found == find_method("wsal").make("code", **expected).settings


def test_a_settings_file_holds_settings_of_a_method(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("vadx.toml").write_text('[train]\nmethod = "svm"\nregularisation = 0.5\nmanifest = "labels.csv"\n')
    ran_well(vadx_here("train", "tiny", *SMALL, "--to", "model"))
    found = read_model(Path("model")).method.settings
    assert getattr(found, "regularisation") == 0.5  # noqa: B009  # of this method's settings only
    Path("vadx.toml").write_text('[train]\nmethod = "svm"\nregularization = 0.5\n')
    refused = vadx_here("train", "tiny", *SMALL)
    assert (refused.code, "did you mean train.regularisation?" in refused.err) == (2, True)


def test_the_methods_are_listed(vadx_here: Vadx) -> None:
    told = vadx_here("train", "--methods").out
    for spec in METHODS.values():
        assert f"{spec.meaning}\n" in told
        assert f"{spec.source}; rule {spec.load().rule}; variants paper" in told
    listed = json.loads(vadx_here("train", "--methods", "--json").out)
    assert [row["name"] for row in listed] == [*METHODS]


def test_quiet_prints_the_folder_alone(tiny: FeatureSet, vadx_here: Vadx) -> None:
    arguments = command("svm", "--quiet")
    at = arguments.index("--to")
    ran = ran_well(vadx_here(*arguments[:at], *arguments[at + 2 :]))
    assert (ran.out, ran.err) == (f"vadx-models/svm-{tiny.name}\n", "")


def test_tensorboard_is_written_where_it_is_installed(
    tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name))
    refused = vadx_here(*command("svm", "--tensorboard"))
    assert (refused.code, "pip install tensorboard" in refused.err) == (2, True)
    assert not (Path("model") / "last.safetensors").exists()
    written: list[Any] = []

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            written.append((log_dir, purge_step))

        def add_scalar(self, name: str, value: float, iteration: int) -> None:
            written.append((name, iteration))

        def close(self) -> None:
            written.append("closed")

    fake = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(fake, "SummaryWriter", Writer, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    ran_well(vadx_here(*command("svm", "--tensorboard")))
    assert written[0] == ("model/tensorboard", 1)
    assert ("loss", 3) in written
    assert ("measured", 3) in written
    assert written[-1] == "closed"
    ran_well(vadx_here(*command("svm", "--tensorboard", "--iterations", "4")))
    assert ("model/tensorboard", 4) in written


# ---- what users do wrong ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--method", "wsla"), "there is no method 'wsla'; did you mean wsal?"),
        (("tiny", "--method", "deepmil", "--variant", "paperr"), "has no variant 'paperr'; there are: paper, code"),
        (("tiny", "--method", "deepmil", "--ranking", "pairs"), "'pairs' is not one of"),
        (("tiny", "--method", "deepmil", "--learning-rat", "1"), "--learning-rate"),
        (("tiny", "--method", "deepmil", "--dropout", "1.5"), "give a dropout in [0, 1)"),
        (("tiny", "--method", "deepmil", "--learning-rate", "nan"), "learning_rate is nan: give a number"),
        (("tiny", "--method", "deepmil", "--smoothness", "-inf"), "smoothness is -inf: give a number"),
        (("tiny", "--method", "rtfm", "--weight-decay", "-1"), "weight_decay is -1.0: no optimiser takes it"),
        (("tiny", "--method", "wsal", "--trunk-units", "512;128"), "give some, as 512,128, or none"),
        (("tiny", "--learning-rate", "1"), "settings are a method's: give --method as well"),
        (("tiny",), "name a method: --method deepmil"),
        (("--method", "deepmil"), "name a feature set"),
        (("tiny", "--method", "deepmil"), "give --manifest FILE"),
        (("tony", "--method", "deepmil"), "'tony' fits no feature set in vadx-store; there are: tiny"),
        (("labels.h5", "--method", "deepmil"), "neither a bags file"),
        (("tiny", "--method", "deepmil", "--manifest", "labels.csv", "--rule", "rtfn"), "no segment rule is named"),
        (("tiny", "--method", "deepmil", "--manifest", "labels.csv", "--device", "cuda:9"), "torch sees"),
        (("tiny", "--method", "deepmil", "--manifest", "labels.csv", "--crop-pool", "7"), "there are 1 crops"),
        (("tiny", "--method", "deepmil", "--manifest", "labels.csv", "--stop-after", "soon"), "such as 3h50m"),
        (("tiny", "--method", "lad", "--manifest", "labels.csv", "--noise-set", "tiny"), "give --rule rtfm"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: tuple[str, ...], words: str, tiny: FeatureSet, vadx_here: Vadx
) -> None:
    Path("labels.h5").write_text("no HDF5")
    ran = vadx_here("train", *arguments)
    assert ran.code == 2
    assert words in " ".join(ran.err.split())
    assert not Path("vadx-models").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: re.sub(r"(?<=train/ab\d,)1,\w+,train,.*", "-1,,train,", text), "videos of split train of tiny"),
        (lambda text: re.sub(r",[01],(Fighting)?,(\w+),.*", r",-1,,\2,", text), "tiny-26ce5706 normal, and training"),
        (lambda text: text.replace(",train,", ",test,"), "no stored video into the split train"),
        (lambda text: text.replace("/", "-"), "the manifest knows none of the videos of tiny"),
    ],
)
def test_labels_that_train_nothing_are_refused(
    change: Callable[[str], str], words: str, tiny: FeatureSet, vadx_here: Vadx
) -> None:
    Path("labels.csv").write_text(change(manifest_text()))
    ran = vadx_here(*command())
    assert ran.code == 2
    assert words in ran.err
    assert not Path("model").exists()


def test_another_training_in_the_folder_is_refused(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran_well(vadx_here(*command()))
    before = contents(Path("model"))
    ran = vadx_here(*command("deepmil", "--learning-rate", "0.5"))
    assert ran.code == 2
    assert (
        "model holds another training (settings.learning_rate: 0.001 there, 0.5 here); give another folder" in ran.err
    )
    put(tiny, "train/ab0", clips_of("another", moved=True, num_clips=6))
    err = vadx_here(*command("deepmil", "--learning-rate", "0.5")).err
    # What a person can read comes first, and of a digest there is a beginning.
    assert "another training (settings.learning_rate: 0.001 there, 0.5 here; bags_sha256: " in err
    assert re.search("[0-9a-f]{13}", err) is None
    assert contents(Path("model")) == before


def test_a_loss_that_is_no_number_says_what_to_do(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran = vadx_here(*command("deepmil", "--learning-rate", "1e38"))
    assert ran.code == 2
    assert "the loss is" in ran.err
    assert "--learning-rate, and another folder after --to" in ran.err


# ---- what it tells while it goes on ----


def test_off_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 4.0, 12.0, 13.0])
    monkeypatch.setattr(training_display.time, "perf_counter", lambda: next(clock))
    display = make_training_display(40, quiet=False)
    for iteration in (10, 20, 30, 40):
        display.tell({"event": "iteration", "iteration": iteration, "loss": 0.25, "hinge": 0.2})
    display.tell({"event": "measured", "iteration": 40, "measured": 0.5, "best": True})
    display.stop()
    assert capsys.readouterr().err.splitlines() == [
        "iteration 30 of 40: loss 0.25, 1.7 iterations/s",
        "iteration 40 of 40: loss 0.25, 10.0 iterations/s",
        "iteration 40: measured 0.5000, the best so far",
    ]


def test_on_a_terminal_a_bar_shows_loss_and_measurement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    display = make_training_display(40, quiet=False)
    display.tell({"event": "iteration", "iteration": 10, "tube.loss": 0.25, "temporal.loss": 0.5})
    display.tell({"event": "measured", "iteration": 10, "measured": 0.75, "best": True})
    display.stop()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "10/40 tube.loss 0.25, temporal.loss 0.5 measured 0.7500" in shown
