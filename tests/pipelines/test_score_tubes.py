"""``vadx score`` with tubes: made for a video never seen as those that a model learned from, scored and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from support import Ran, make_video
from vadx.detectors.class_filter import make_class_filter
from vadx.errors import StoreError, UsageError
from vadx.extract.video import VideoReader
from vadx.features.stage_set import StageSet
from vadx.features.store import Store
from vadx.pipelines.model_folder import Model
from vadx.pipelines.tube_again import parse_classes, plans_again
from vadx.pipelines.tube_scoring import score_tubes, tubes_before

from .scoring_samples import write_tiny_model

Vadx = Callable[..., Ran]
HERE = ("--decoders", "0", "--device", "cpu", "--store", "store")
TUBES = (
    *("tubes", "--detector", "tiny-boxes", "--device", "cpu", "--min-length-unary", "10", "--decoders", "0"),
    *("--min-length-multivariate", "10", "--backbone", "tiny", "--backbone-weights", "random:5", "--out", "store"),
)


@pytest.fixture(autouse=True)
def _tiny_boxes() -> Any:
    from vadx.detectors.detector import detectors
    from vadx.pipelines import tube_detection

    detectors.cache_clear()
    tube_detection._detectors.clear()
    yield
    detectors.cache_clear()
    tube_detection._detectors.clear()


@pytest.fixture
def store(tmp_path: Path, vadx_here: Vadx) -> Store:
    """Give a store with the tubes of one video."""
    make_video(tmp_path / "seen.mp4", num_frames=24)
    ran = vadx_here(*TUBES, "seen.mp4", "--max-gap", "1", "--stride", "2")
    assert ran.code == 0, ran.err
    return Store(tmp_path / "store")


def of_kind(store: Store, kind: str) -> StageSet:
    (found,) = [one for one in store.all_sets() if isinstance(one, StageSet) and one.kind == kind]
    return found


def mgpr(tmp_path: Path, **changes: Any) -> Model:
    return write_tiny_model(tmp_path / "model", "mgpr", **changes)


def test_tubes_of_a_new_video_are_made_scored_and_drawn(tmp_path: Path, vadx_here: Vadx, store: Store) -> None:
    features = of_kind(store, "tube-features")
    model = mgpr(tmp_path, inputs={"tubes": {"digest": features.digest}})
    make_video(tmp_path / "new.mp4", num_frames=30, seed=3, width=160, height=120)
    ran = vadx_here("score", "model", "new.mp4", *HERE, "--overlay", "new.drawn.mp4", "--threshold", "0", "--json")
    assert ran.code == 0, ran.err
    (video,) = json.loads(ran.out)["videos"]
    found = score_tubes(model, features, tubes_before(features), "new")
    assert len(found.scores)
    assert_allclose(video["more"]["tube_scores"], found.scores, atol=1e-6)
    assert video["more"]["tube_frames"] == found.parts.frames.tolist()
    assert video["more"]["tube"] == found.parts.instance.tolist()
    assert len(video["more"]["tube_branch"]) == len(video["scores"])
    assert video["video"] == pytest.approx(found.score)
    assert video["num_frames"] == 30
    with VideoReader(tmp_path / "new.mp4") as blocks, VideoReader(tmp_path / "new.drawn.mp4") as drawn_blocks:
        before, drawn = (np.concatenate([b.frames.copy() for b in one]) for one in (blocks, drawn_blocks))
    assert before.shape == drawn.shape
    box = found.tracks[0].boxes[2]
    column = int(box[0]) - 1
    rows = slice(int(box[1]) + 5, int(box[3]) - 5)
    frame = int(found.tracks[0].frames[2])
    assert np.abs(before[frame, rows, column].astype(int) - drawn[frame, rows, column]).mean() > 15
    assert {one.name for one in store.all_sets() if isinstance(one, StageSet)} == {
        one.name for one in (features, tubes_before(features), tubes_before(tubes_before(features)))
    }


def test_a_named_set_of_tubes_is_used_and_segments_alone_are_said(
    tmp_path: Path, vadx_here: Vadx, store: Store
) -> None:
    mgpr(tmp_path)
    alone = vadx_here("score", "model", "seen.mp4", *HERE)
    assert alone.code == 0, alone.err
    assert "segments alone are scored. mgpr also scores tubes: make them, vadx tubes VIDEO --out store" in alone.err
    ran = vadx_here("score", "model", "seen.mp4", *HERE, "--tubes", "tube-features")
    assert ran.code == 0, ran.err
    assert "segments alone" not in ran.err
    assert ran.out != alone.out
    stored = vadx_here("score", "model", "--set", "tiny", "--store", "store", "--tubes", "tube-features")
    assert stored.out == ran.out
    wrong = vadx_here("score", "model", "seen.mp4", *HERE, "--tubes", "tiny")
    assert wrong.code == 2
    assert "holds clip features, not those of tubes" in wrong.err
    wrong = vadx_here("score", "model", "seen.mp4", *HERE, "--tubes", "tubes")
    assert wrong.code == 2
    assert "holds tubes, not features of tubes" in wrong.err
    write_tiny_model(tmp_path / "other")
    wrong = vadx_here("score", "other", "seen.mp4", *HERE, "--tubes", "tube-features")
    assert wrong.code == 2
    assert "deepmil scores no tubes: leave --tubes out" in wrong.err
    assert of_kind(store, "tubes").path.is_dir()


def test_what_lacks_is_told(tmp_path: Path, store: Store) -> None:
    features, model = of_kind(store, "tube-features"), mgpr(tmp_path)
    with pytest.raises(UsageError, match=r"no video 'none' in tube-features.*; make its tubes: vadx tubes VIDEO --out"):
        score_tubes(model, features, tubes_before(features), "none")
    tubes = tubes_before(features)
    (tubes.path / "recipe.json").rename(tubes.path / "gone.json")
    with pytest.raises(StoreError, match=r"was made from tubes that are not beside it"):
        tubes_before(features)


def test_plans_are_those_that_the_sets_were_made_by(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vadx_here: Vadx
) -> None:
    features = of_kind(store, "tube-features")
    plans = plans_again(features, device=torch.device("cpu"))
    before = tubes_before(features)
    stages = (tubes_before(before), before, features)
    assert [plan.recipe.digest for plan in plans] == [stage.digest for stage in stages]
    from vadx.pipelines import tube_again

    really = tube_again.parse_classes
    monkeypatch.setattr(tube_again, "parse_classes", lambda text: (("person",), really(text)[1]))
    with pytest.raises(UsageError, match=r"cannot be made here: classes would be 'person', not 'all'"):
        plans_again(features, device=torch.device("cpu"))
    (tmp_path / "boxes.csv").write_text(
        "frame,x1,y1,x2,y2,score,label\n" + "".join(f"{n},2,2,30,30,0.9,1\n" for n in range(24))
    )
    ran = vadx_here(*TUBES[:1], *TUBES[3:], "seen.mp4", "--detections", "boxes.csv", "--out", "files")
    assert ran.code == 0, ran.err
    with pytest.raises(UsageError, match=r"boxes of .* are of another program.* --detections FILE"):
        plans_again(of_kind(Store(tmp_path / "files"), "tube-features"), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("classes", "groups"),
    [(None, None), (["person", "car"], None), (["person", "vehicle"], {"vehicle": ["car", "truck"]})],
)
def test_classes_are_read_as_they_are_described(classes: Any, groups: Any) -> None:
    categories = {1: "person", 3: "car", 8: "truck", 9: "boat"}
    described = make_class_filter(categories, classes, groups).describe(categories)
    kept, own = parse_classes(described)
    assert make_class_filter(categories, kept, dict(own)).describe(categories) == described
