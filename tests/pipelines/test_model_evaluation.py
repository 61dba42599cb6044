"""What a model's own settings say of its evaluation: its kinds of anomaly, and the threshold of its proposals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import NoInputError, UsageError
from vadx.extract.backbones import find_backbone
from vadx.features import FeatureSet, Store
from vadx.features.manifest import Manifest, ManifestEntry
from vadx.features.shard import build_shard
from vadx.pipelines.evaluation import TestVideo, evaluate_videos
from vadx.pipelines.frame_comparison import PROPOSAL_THRESHOLD
from vadx.pipelines.methods import METHODS
from vadx.pipelines.model_evaluation import (
    EvaluationChoice,
    choose_videos,
    class_of,
    evaluate_model,
    proposal_threshold,
    set_of_model,
)
from vadx.pipelines.plan import Overrides, make_plan
from vadx.pipelines.scoring import score_set

from .scoring_samples import SMALL, make_clips, random_model, write_tiny_model

ENTRIES = (
    ManifestEntry("Fighting/a", label=1, class_name="Fighting", split="test", spans=np.array([[40, 90]])),
    ManifestEntry("Fire/b", label=1, class_name="Fire", split="test", spans=np.array([[10, 60]])),
    ManifestEntry("Fire/n", label=0, split="test"),
    ManifestEntry("Other/o", label=0, split="test"),
)


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    plan = make_plan(find_backbone("tiny").default_preset, Overrides(), "random:5")
    made = Store(tmp_path / "store").create(plan.recipe, slug=plan.slug)
    for seed, entry in enumerate(ENTRIES):
        clips = make_clips(160, np.random.default_rng(seed).normal(size=(10, 1, 8)))
        shard = made.shard_path(entry.id)
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.write_bytes(build_shard(entry.id, shard.stem, clips, made.digest, "ab" * 32))
    return made


def test_lad_s_normal_videos_are_of_the_kind_whose_folder_they_lie_in(tmp_path: Path, features: FeatureSet) -> None:
    model = write_tiny_model(tmp_path / "model", "lad")
    of = class_of(model)
    assert of is not None
    assert [of(entry) for entry in ENTRIES] == ["Fighting", "Fire", "Fire", None]
    assert of(ManifestEntry("x", label=1, class_name="Flood")) is None
    chosen = choose_videos(Manifest(ENTRIES), list(features))
    found = evaluate_model(tmp_path / "model", "last", features, chosen, EvaluationChoice(bootstrap=0))
    assert found.evaluation.confusion is not None
    assert found.evaluation.confusion.left_out == 1
    assert sum(map(sum, found.evaluation.confusion.counts)) == 3
    right = sum(row.top_class == of(entry) for row, entry in zip(found.evaluation.videos, ENTRIES, strict=True))
    assert found.evaluation.metrics["class_accuracy"].value == right / 3
    clips = make_clips(160)
    assert class_of(random_model("deepmil", clips, "rtfm", 4)) is None


def test_proposals_have_the_threshold_of_the_model(tmp_path: Path, features: FeatureSet) -> None:
    first = write_tiny_model(tmp_path / "model", "align")
    assert proposal_threshold(first) == PROPOSAL_THRESHOLD
    assert proposal_threshold(random_model("deepmil", make_clips(160), "rtfm", 4)) == PROPOSAL_THRESHOLD
    scored = [one.more["frame_activation"] for one in score_set(first, features, list(features))]
    middle = float(np.median(np.concatenate(scored)))
    settings = METHODS["align"].make(**SMALL["align"], threshold=middle).settings
    model = write_tiny_model(tmp_path / "model", "align", settings=dataclasses.asdict(settings))
    assert proposal_threshold(model) == middle
    chosen = choose_videos(Manifest(ENTRIES), list(features))
    found = evaluate_model(tmp_path / "model", "last", features, chosen, EvaluationChoice(bootstrap=0))
    tests = [TestVideo(one, chosen.entries[one.id]) for one in found.scored]
    own, paper = (evaluate_videos(tests, bootstrap=0, threshold=one) for one in (middle, PROPOSAL_THRESHOLD))
    assert found.evaluation.metrics["proposal_auc"] == own.metrics["proposal_auc"]
    assert own.metrics["proposal_auc"] != paper.metrics["proposal_auc"]


def test_videos_are_chosen_by_split_and_what_is_left_out_is_named() -> None:
    entries = [*ENTRIES, ManifestEntry("t", split="train"), ManifestEntry("gone", split="test")]
    chosen = choose_videos(Manifest(tuple(entries)), ["Fire/n", "Fighting/a", "t", "lone"])
    assert list(chosen.entries) == ["Fighting/a", "Fire/n"]
    assert (chosen.split, chosen.not_listed) == ("test", ("lone",))
    assert chosen.not_stored == ("Fire/b", "Other/o", "gone")
    train = choose_videos(Manifest(tuple(entries)), ["t"], "train")
    assert (list(train.entries), train.not_stored) == (["t"], ())
    assert any("the split train is evaluated, not test" in note for note in train.notes())
    every = choose_videos(Manifest((ManifestEntry("a"), ManifestEntry("b"))), ["a", "b"])
    assert (list(every.entries), every.split) == (["a", "b"], "")
    with pytest.raises(NoInputError, match="no video of split val is left"):
        choose_videos(Manifest(tuple(entries)), ["t"], "val")


def test_the_set_of_a_model_is_that_of_its_recipe(tmp_path: Path, features: FeatureSet) -> None:
    ruined = features.path.parent / "a-ruined-set"
    ruined.mkdir()
    (ruined / "recipe.json").write_text("{}")
    model = write_tiny_model(tmp_path / "model")
    assert set_of_model(model, tmp_path / "store").digest == features.digest
    for store in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="no feature set of the model's recipe, tiny"):
            set_of_model(model, store)
