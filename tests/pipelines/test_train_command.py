"""``vadx train``: from a feature set to a model folder that scores by itself, in one line that also resumes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import Ran
from vadx.detectors.regions import InstanceFeatures
from vadx.errors import Stopped, UsageError
from vadx.features import make_bag
from vadx.features.bag_file import BagFile
from vadx.features.frame_truth import frame_truth
from vadx.features.keys import key_of
from vadx.features.manifest import ManifestEntry, read_manifest
from vadx.features.recipe import Noise
from vadx.features.stage_set import StageRecipe, StageSet
from vadx.features.stage_shard import build_stage_shard
from vadx.features.store import FeatureSet, Store
from vadx.pipelines import train as loop
from vadx.pipelines import training
from vadx.pipelines.clip_bags import ClipBags, entry_truth
from vadx.pipelines.methods import METHODS, find_method
from vadx.pipelines.methods.lad import Lad, LadSettings
from vadx.pipelines.model_folder import read_model
from vadx.pipelines.scoring import score_set
from vadx.pipelines.training import Order, plan_training
from vadx.pipelines.training_inputs import tube_input
from vadx.pipelines.tube_shards import instance_arrays

from .training_store import (
    CLIP,
    DIM,
    MOVED,
    SMALL,
    VIDEOS,
    clips_of,
    command,
    contents,
    lines,
    make_store,
    manifest_text,
    put,
    ran_well,
    recipe,
)

Vadx = Callable[..., Ran]

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_loss")


# ---- every method ----


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_from_the_command_line(method: str, tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran = ran_well(vadx_here(*command(method, "--log-every", "1", "--json")))
    start, *between, summary = lines(ran.out)
    assert (start["event"], summary["event"], ran.err) == ("start", "summary", "")
    assert (start["normal"], start["anomalous"], start["rule"]) == (4, 4, find_method(method).load().rule)
    losses = [value for line in between for name, value in line.items() if name.endswith("loss")]
    # What only remembers videos has no loss.
    assert len(losses) == (0 if method == "nearest" else 3 * len(find_method(method).load().phases))
    assert np.isfinite(losses).all()
    assert summary["last"]["iteration"] == 3
    for which in ("last", "best"):
        model = read_model(Path("model"), which)  # type: ignore[arg-type]  # one of the two it takes
        (video,) = score_set(model, tiny, ["test/ab1"])
        assert video.num_frames == 8 * CLIP + 3


@pytest.mark.parametrize("method", ["deepmil", "lad"])
def test_a_longer_training_goes_on_where_a_shorter_one_ended(method: str, tiny: FeatureSet, vadx_here: Vadx) -> None:
    every = ("--checkpoint-every", "2", "--log-every", "2")
    for to, iterations in (("cut", "2"), ("cut", "4"), ("whole", "4")):
        ran_well(vadx_here(*command(method, *every, "--iterations", iterations, to=to)))
    assert contents(Path("cut")) == contents(Path("whole"))
    again = vadx_here(*command(method, *every, "--iterations", "4", to="cut"))
    assert again.out.splitlines()[0] == "cut"
    assert contents(Path("cut")) == contents(Path("whole"))


@pytest.mark.parametrize("iteration", [3, 4])
def test_a_training_that_is_stopped_loses_nothing(
    iteration: int, tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines import stopping

    arguments = ("--checkpoint-every", "4", "--log-every", "2", "--iterations", "6")
    ran_well(vadx_here(*command("deepmil", *arguments, to="whole")))
    checks: list[int] = []

    class Stopping(stopping.StopSignals):
        def check(self) -> None:
            checks.append(len(checks))
            # At a checkpoint it is asked before each measured video too: the fourth iteration is stopped in there.
            if len(checks) == iteration:
                raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(stopping, "StopSignals", Stopping)
        ran = vadx_here(*command("deepmil", *arguments, to="cut"))
    assert ran.code == 143
    assert "the same command resumes" in ran.err
    assert read_model(Path("cut")).mark == loop.Mark(iteration)
    ran_well(vadx_here(*command("deepmil", *arguments, to="cut")))
    assert contents(Path("cut")) == contents(Path("whole"))


# ---- what is measured, and what best is ----


def test_last_and_best_are_named_with_what_was_measured(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran = ran_well(vadx_here(*command("svm", "--checkpoint-every", "1")))
    folder, last, best, choice = ran.out.splitlines()
    assert folder == "model"
    assert re.fullmatch(r"last: iteration 3, [01]\.\d{4} frame AUC of 4 videos of split val", last)
    assert re.fullmatch(r"best: iteration \d, [01]\.\d{4} frame AUC of 4 videos of split val", best)
    assert choice.startswith("choice: best is the checkpoint that measured highest on held-out videos, of equals")
    assert "4 normal and 4 anomalous videos by sultani, 32 x 1 x 16" in ran.err


def test_the_frame_auc_is_that_of_all_frames_that_the_model_scores(tiny: FeatureSet, vadx_here: Vadx) -> None:
    for method in ("svm", "lad"):
        summary = lines(ran_well(vadx_here(*command(method, "--json", to=method))).out)[-1]
        entries = {entry.id: entry for entry in read_manifest("labels.csv") if entry.split == "val"}
        videos = list(score_set(read_model(Path(method)), tiny, list(entries)))
        truth = np.concatenate([frame_truth(entries[video.id].spans, video.num_frames) for video in videos]) == 1
        scores = np.concatenate([video.frame_scores for video in videos])
        # The share of pairs of an anomalous and a normal frame that are in order; whole numbers until the division.
        order = np.sign(scores[truth][:, np.newaxis] - scores[~truth])
        assert summary["last"]["measured"] == pytest.approx((order.mean() + 1) / 2, abs=1e-12)


def test_without_spans_whole_videos_are_measured(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(manifest_text(spans=False))
    assert "video AUC of 4 videos of split val" in ran_well(vadx_here(*command())).out


def test_videos_of_unknown_spans_are_not_measured_beside_others(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(re.sub(r"(val/ab1,.*,)\S+", r"\1", manifest_text()))
    ran = ran_well(vadx_here(*command()))
    assert "1 anomalous videos of split val have no spans: they are not measured" in ran.err
    assert "frame AUC of 3 videos of split val" in ran.out


def test_choosing_on_test_warns(tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where nobody listens, Python writes warnings of a log to stderr itself.
    monkeypatch.setattr(logging.root, "handlers", [])
    ran = ran_well(vadx_here(*command("svm", "--choose-on", "test")))
    assert ran.err.count("its result is not one on unseen videos") == 1
    assert "of split test" in ran.out
    events = lines(ran_well(vadx_here(*command("svm", "--choose-on", "test", "--json", to="other"))).out)
    assert events[1]["event"] == "warning"


def test_where_nothing_can_be_measured_only_the_last_is_kept(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(manifest_text().replace(",val,", ",test,"))
    ran = ran_well(vadx_here(*command()))
    assert "no video of split val that is stored; there will be no best, only the last" in ran.err
    assert "best: none" in ran.out
    assert "not measured" in ran.out
    refused = vadx_here(*command("deepmil", "--patience", "2", to="other"))
    assert refused.code == 2
    assert "--patience counts measurements" in refused.err


def test_patience_ends_a_training(tiny: FeatureSet, vadx_here: Vadx) -> None:
    arguments = command("deepmil", "--patience", "1", "--checkpoint-every", "1", "--learning-rate", "1e-9")
    ran = ran_well(vadx_here(*arguments, "--iterations", "50", "--json"))
    summary = lines(ran.out)[-1]
    assert summary["stopped_early"]
    assert summary["last"]["iteration"] == summary["best"]["iteration"] + 1


# ---- bags ----


def test_bags_are_made_once_and_again_when_stale(tiny: FeatureSet, vadx_here: Vadx) -> None:
    for to in ("1", "2"):
        ran_well(vadx_here(*command(to=to)))
    (made,) = (tiny.path / "bags").iterdir()
    assert sorted(BagFile(made).ids) == sorted(i for i, _, split, _ in VIDEOS if split == "train")
    Path("labels.csv").write_text(manifest_text().replace("train/ab0,1,Fighting", "train/ab0,1,Crash"))
    ran_well(vadx_here(*command(to="3")))
    assert len(list((tiny.path / "bags").iterdir())) == 2


def test_a_bags_file_trains_as_its_set_does(tiny: FeatureSet, vadx_here: Vadx) -> None:
    made = vadx_here(
        "bags", "tiny", "--rule", "rtfm", "--crop-pool", "mean", "--manifest", "labels.csv", "--to", "b.h5"
    )
    assert made.code == 0, made.err
    ran_well(vadx_here("train", "b.h5", *command("rtfm")[2:]))
    facts = read_model(Path("model")).facts
    assert (facts["set_name"], facts["crop_pool"], facts["rule"]) == (tiny.name, "mean", "rtfm")
    ran_well(vadx_here(*command("rtfm", "--crop-pool", "mean", to="of-set")))
    weights = [read_model(Path(folder)).network.state_dict() for folder in ("model", "of-set")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert read_model(Path("model")).mark == read_model(Path("of-set")).mark
    Path("labels.csv").unlink()
    alone = ran_well(vadx_here("train", "b.h5", "--method", "svm", *SMALL, "--to", "alone"))
    assert "best: none" in alone.out
    refused = vadx_here("train", "b.h5", "--method", "svm", "--rule", "wsal", "--to", "other")
    assert refused.code == 2
    assert "has its bags already; leave --rule out" in refused.err


def test_the_set_of_a_bags_file_may_be_gone(tiny: FeatureSet, vadx_here: Vadx) -> None:
    assert vadx_here("bags", "tiny", "--manifest", "labels.csv", "--to", "b.h5").code == 0
    ran = ran_well(vadx_here("train", "b.h5", "--method", "svm", *SMALL, "--store", "nowhere", "--to", "model"))
    assert "the model scores feature sets, but no videos" in ran.err
    assert read_model(Path("model")).facts["recipe"] is None


def test_any_rule_may_be_given(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran_well(vadx_here(*command("deepmil", "--rule", "rtfm", "--segments", "8", "--crop-pool", "0")))
    facts = read_model(Path("model")).facts
    assert (facts["rule"], facts["num_segments"], facts["crop_pool"]) == ("rtfm", 8, 0)
    ran_well(vadx_here(*command("align", "--rule", "clips", to="clips")))
    model = read_model(Path("clips"))
    assert (model.facts["rule"], model.facts["num_segments"]) == ("clips", None)
    assert [len(video.scores) for video in score_set(model, tiny, ["train/no3", "val/no0"])] == [12, 6]


def test_a_manifest_without_splits_trains_on_all(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(manifest_text(splits=False))
    ran = ran_well(vadx_here(*command()))
    assert "8 normal and 8 anomalous videos" in ran.err
    assert "all its videos are trained on" in ran.err


def test_bags_that_do_not_fit_into_memory_are_told(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(manifest_text())
    manifest = read_manifest(tmp_path / "labels.csv")
    order = Order(method="rtfm", source=make_store(tmp_path / "store", crops=2), manifest=manifest)
    planned = plan_training(order, loop.TrainSettings())
    assert not planned.says
    # 8 bags of 32 x 2 x 16 numbers.
    bags: Any = planned.bags
    assert not [*training._hints(order, planned.method, dataclasses.replace(bags, memory_bytes=32_768))]
    (told,) = training._hints(order, planned.method, dataclasses.replace(bags, memory_bytes=32_767))
    assert told.endswith("read again and again; --crop-pool mean makes them smaller")


# ---- what model.json says ----


def test_a_model_says_how_a_new_video_becomes_what_it_sees(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran_well(vadx_here(*command("lad", "--variant", "code")))
    facts = read_model(Path("model")).facts
    assert facts["recipe"] == tiny.recipe.to_mapping()
    assert (facts["weights_sha256"], facts["preset"], facts["set_name"]) == ("random:0", "tiny-default", tiny.name)
    assert (facts["crop_pool"], facts["bags_seed"], facts["variant"]) == ("keep", 0, "code")
    assert facts["classes"][6] == "Fighting"
    assert facts["measure"] == "frame AUC of 4 videos of split val"


def test_a_model_that_lacks_them_is_read_and_goes_on(tiny: FeatureSet, vadx_here: Vadx) -> None:
    ran_well(vadx_here(*command()))
    path = Path("model") / "model.json"
    facts = json.loads(path.read_text())
    old = {"vadx_model", "method", "settings", "dim", "num_crops", "num_segments", "rule", "recipe_digest", "choice"}
    path.write_text(json.dumps({name: facts[name] for name in (*old, "videos_sha256", "training")}))
    assert read_model(Path("model")).mark.iteration == 3
    ran_well(vadx_here(*command("deepmil", "--iterations", "4")))
    assert json.loads(path.read_text())["recipe"] == facts["recipe"]


# ---- what else bags have ----


def test_lads_kinds_are_those_of_the_manifest(tiny: FeatureSet, vadx_here: Vadx) -> None:
    Path("labels.csv").write_text(manifest_text(class_name="Arson"))
    ran = ran_well(vadx_here(*command("lad", to="ucf")))
    assert "kinds of anomaly: ucf-crime" in ran.err
    Path("labels.csv").write_text(manifest_text(class_name="Jumping"))
    ran_well(vadx_here(*command("lad", to="own")))
    assert read_model(Path("own")).facts["classes"] == ["Jumping"]
    refused = vadx_here(*command("lad", "--classes", "Running", to="other"))
    assert refused.code == 2
    assert "its kind 'Jumping' is none of Running" in refused.err


@pytest.mark.parametrize("redraw", ["together", "labels-restart"])
def test_windows_are_those_that_are_drawn_of_whole_videos(redraw: str, tiny: FeatureSet) -> None:
    settings = LadSettings(window_clips=3, grid=1, redraw=redraw, classes="Fighting")
    entries = {i: e for i, e in read_manifest(tiny.path.parent.parent / "labels.csv").join(tiny)[0].items()}
    whole = ClipBags(tiny, entries)
    drawn = ClipBags(tiny, entries, windows=settings)
    method, numbers = Lad(settings), np.arange(len(entries))
    for seed in range(5):
        full, windows = whole.batch(numbers, seed, "cpu"), drawn.batch(numbers, seed, "cpu")
        labels = torch.full((*full.mask.shape, CLIP), -1, dtype=torch.int8)
        for place, identifier in enumerate(full.ids):
            count = int(full.mask[place].sum())
            labels[place, :count] = 0
            if entries[identifier].label:
                labels[place, MOVED] = 1
        labelled = dataclasses.replace(full, more={"frame_labels": labels})
        assert windows.features.shape == (len(entries), 3, 1, DIM)
        for ours, theirs in zip(method.draw(windows), method.draw(labelled), strict=True):
            assert torch.equal(ours, theirs)


def test_an_anomalous_video_of_unknown_spans_is_anomalous_all_through() -> None:
    known = ManifestEntry("a", label=1, spans=np.array([[1, 3]]))
    assert entry_truth(known, 4).tolist() == [0, 1, 1, 0]
    assert entry_truth(ManifestEntry("a", label=1), 4).tolist() == [1, 1, 1, 1]
    assert entry_truth(ManifestEntry("a", label=0), 4).tolist() == [0, 0, 0, 0]


def test_frames_of_plain_bags_have_their_labels(tiny: FeatureSet) -> None:
    manifest = read_manifest(tiny.path.parent.parent / "labels.csv")
    order = Order(method="lad", source=tiny, manifest=manifest, rule="rtfm", num_segments=6)
    bags: Any = plan_training(order, loop.TrainSettings()).bags
    batch = bags.batch(np.flatnonzero(bags.file.labels == 1)[:1], 0, "cpu")
    (labels,) = batch.more["frame_labels"]
    # ab0 has 6 clips, a segment each.
    assert batch.ids == ("train/ab0",)
    assert [segment.tolist() for segment in labels.unique(dim=1)] == [[0], [0], [1], [1], [1], [0]]


@pytest.fixture
def tubes(tiny: FeatureSet) -> StageSet:
    """Make tube features of every video of training but the last, which has none of them."""
    before = "ab" * 32
    stage = Store(tiny.path.parent).create_stage(StageRecipe("tube-features", {}, before), slug="tube-features-tiny")
    for place, (identifier, _, _, _) in enumerate(trained := [video for video in VIDEOS if video[2] == "train"]):
        instances = [tube_instance(place, number) for number in range(3 if place < len(trained) - 1 else 0)]
        arrays = instance_arrays(np.arange(len(instances)), instances)
        key = key_of(identifier)
        shard = build_stage_shard(identifier, key, "tube-features", arrays, {}, stage.digest, "11" * 32)
        stage.publish(identifier, shard, replace=False)
    return stage


def tube_instance(video: int, number: int, dim: int = DIM) -> InstanceFeatures:
    values = np.random.default_rng((video, number)).standard_normal((2, dim)).astype(np.float32)
    return InstanceFeatures(
        region_mean=values[0],
        global_mean=values[1],
        part_clips=np.array([1], np.int64),
        region_parts=values[:1],
        global_parts=values[1:],
        clip_frames=np.array([[0, CLIP]], np.int64),
    )


def test_mgpr_learns_from_tubes(tiny: FeatureSet, tubes: StageSet, vadx_here: Vadx) -> None:
    arguments = command("mgpr", "--max-tubes", "2")
    arguments[arguments.index("none")] = tubes.name
    ran_well(vadx_here(*arguments, "--to", "tubes"))
    facts = read_model(Path("tubes")).facts
    assert facts["inputs"]["tubes"]["digest"] == tubes.digest
    ran_well(vadx_here(*command("mgpr", "--max-tubes", "2", to="segments")))
    weights = [read_model(Path(folder)).network.state_dict() for folder in ("tubes", "segments")]
    moved = {name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])}
    # The temporal branch sees segments in both.
    assert {name.split(".")[1] for name in moved} >= {"tube"}


def test_mgpr_says_what_it_lacks(tiny: FeatureSet, tubes: StageSet, vadx_here: Vadx) -> None:
    arguments = command("mgpr")
    at = arguments.index("--tubes")
    ran = vadx_here(*arguments[:at], *arguments[at + 2 :])
    assert (ran.code, "make them with vadx tubes VIDEOS, then give --tubes SET" in ran.err) == (2, True)
    arguments[at + 1] = tiny.name
    assert "holds features of clips, not of tubes" in vadx_here(*arguments).err
    arguments[at + 1] = tubes.name
    tubes.shard_path("train/ab0").unlink()
    assert "has no tubes of 1 of 8 videos, the first 'train/ab0'" in vadx_here(*arguments).err
    assert "deepmil learns from no tubes" in vadx_here(*command("deepmil", "--tubes", tubes.name)).err


def test_each_bag_has_its_own_tubes(tubes: StageSet) -> None:
    ids = ["train/ab0", "train/ab3", "train/no2"]
    given = tube_input(tubes, ids, DIM, 2)(ids)
    assert given["tube_mask"].tolist() == [[True, True], [False, False], [True, True]]
    for bag, video in ((0, 1), (2, 4)):
        expected = [tube_instance(video, number).region_mean for number in range(2)]
        np.testing.assert_array_equal(given["region"][bag].numpy(), expected)


def test_tubes_of_another_network_are_refused(tiny: FeatureSet, tubes: StageSet) -> None:
    with pytest.raises(UsageError, match=r"its tubes have 16 numbers in .*, its clips 8; one network sees both"):
        tube_input(tubes, ["train/ab0"], 8, 5)(["train/ab0"])


def test_wsal_learns_from_noise(tiny: FeatureSet, vadx_here: Vadx) -> None:
    noisy = Store(tiny.path.parent).create(dataclasses.replace(recipe(), noise=Noise()), slug="noisy")
    for identifier, label, split, num_clips in VIDEOS:
        if not label and split == "train":
            put(noisy, identifier, clips_of(f"{identifier} noisy", moved=False, num_clips=num_clips))
    ran = ran_well(vadx_here(*command("wsal", "--noise-set", noisy.name, "--log-every", "1", "--json")))
    assert lines(ran.out)[0]["says"] == []
    assert "no term for noise; vadx extract --noise" in ran_well(vadx_here(*command("wsal", to="without"))).err
    noise = [line["noise"] for line in lines(ran.out) if line["event"] == "iteration"]
    assert len(noise) == 3
    assert min(noise) > 0
    assert read_model(Path("model")).facts["inputs"]["noise"]["digest"] == noisy.digest
    order = Order(method="wsal", source=tiny, manifest=read_manifest("labels.csv"), noise=noisy)
    batch = plan_training(order, loop.TrainSettings()).bags.batch(np.arange(8), 0, "cpu")
    for place, identifier in enumerate(batch.ids):
        expected = np.zeros((32, 1, DIM)) if batch.labels[place] else make_bag(noisy[identifier], "wsal").features
        np.testing.assert_array_equal(batch.more["noisy"][place].numpy(), expected)
    refused = vadx_here(*command("wsal", "--noise-set", noisy.name, "--variant", "code", to="other"))
    assert "has no term for noise; leave --noise-set out" in refused.err
    assert "it has no noise on its frames" in vadx_here(*command("wsal", "--noise-set", tiny.name, to="other")).err
    other = Store(tiny.path.parent).create(dataclasses.replace(recipe("random:1"), noise=Noise()), slug="other")
    assert "in more than noise; make one" in vadx_here(*command("wsal", "--noise-set", other.name, to="other")).err
    noisy.shard_path("train/no0").unlink()
    refused = vadx_here(*command("wsal", "--noise-set", noisy.name, to="other"))
    assert refused.code == 2
    assert "no bag with noise of 1 of 4 normal videos, the first 'train/no0'" in refused.err


def test_it_stops_in_time(tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.pipelines import stopping

    # A second passes between two looks at the clock.
    clock = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(stopping.time, "monotonic", lambda: float(next(clock)))
        ran = vadx_here(*command("svm", "--iterations", "40", "--stop-after", "5s"))
    assert (ran.code, "the same command resumes" in ran.err) == (143, True)
    assert read_model(Path("model")).mark.iteration in range(3, 8)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_same_command_resumes(
    number: int, code: int, tiny: FeatureSet, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command("svm", "--iterations", "40", "--log-every", "1")
    ran_well(vadx_here(*command("svm", "--iterations", "40", "--log-every", "1", to="whole")))
    note = loop._Run.note

    def signalling(run: Any, line: Any, tell: Any) -> None:
        note(run, line, tell)
        if line["iteration"] == 7:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "note", signalling)
        ran = vadx_here(*arguments)
    assert (ran.code, "the same command resumes" in ran.err) == (code, True)
    assert read_model(Path("model")).mark.iteration == 7
    ran_well(vadx_here(*arguments))
    assert contents(Path("model")) == contents(Path("whole"))
