"""`vadx diff`: one thing is done differently on purpose, and must be named alone and first.

A is a feature set of a tiny network with random weights. B is what the same videos give with one thing changed, as a
folder of ``.npy`` files of which nothing is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn

from support import make_video
from vadx.errors import NoInputError, StoreError, UsageError
from vadx.extract import backbones as table
from vadx.extract.backbones import BackboneSpec
from vadx.extract.backbones.i3d import SamePool3d, Unit3d
from vadx.extract.crops import CROP_ORDERS
from vadx.extract.library import extract_video, load_backbone
from vadx.extract.presets import Preset
from vadx.features import layouts
from vadx.features.keys import key_of
from vadx.features.recipe import Network, Noise, Recipe, Sampling, Transform
from vadx.features.shard import build_shard
from vadx.features.store import Store
from vadx.features.timeline import ClipFeatures
from vadx.pipelines.cli.diff import diff
from vadx.pipelines.differences import Difference, Search, crop_labels, find_difference
from vadx.pipelines.sides import Side, folder_side, set_side
from vadx.pipelines.variants import CAUSES, Origin, centre_only, variants_of

pytestmark = pytest.mark.usefixtures("one_thread", "padded")

Arrays = Mapping[str, NDArray[Any]]

NUM_FRAMES = {"Abuse/v0": 35, "Normal/v1": 48}
"""One fills whole clips and one does not, so that tail rules are told apart."""


class Padded(nn.Module):
    """Two convolutions and a pool of I3D, with its switches, and a BatchNorm that is not at its start."""

    def __init__(self, *, bn_eps: float = 1e-3, same_pad: str = "dynamic") -> None:
        super().__init__()
        options: dict[str, Any] = {"bn_eps": bn_eps, "same_pad": same_pad}
        self.first = Unit3d(3, 8, (3, 3, 3), 2, **options)
        self.pool = SamePool3d((1, 3, 3), (1, 2, 2), same_pad=same_pad)
        self.second = Unit3d(8, 8, (3, 3, 3), 2, **options)
        for unit in (self.first, self.second):
            nn.init.normal_(unit.bn.running_mean, std=0.1)  # type: ignore[arg-type]  # a buffer, there by default
            nn.init.normal_(unit.bn.bias, std=0.3)

    def forward(self, clips: Tensor) -> Tensor:
        features: Tensor = self.second(self.pool(self.first(clips))).mean((2, 3, 4))
        return features


PADDED = BackboneSpec(
    name="padded",
    title="Padded",
    dim=8,
    min_clip_length=2,
    factory=f"{__name__}:Padded",
    presets=(
        Preset(
            name="padded-default",
            backbone="padded",
            network=Network(name="padded", layer="mean"),
            sampling=Sampling(clip_length=6, clip_stride=6, tail="repeat_last"),
            transform=Transform(kernel="pil", resize=29, crop=25, center_rounding="floor", scale=2 / 255, offset=-1.0),
            weights=None,
        ),
    ),
    licence="Apache-2.0",
    switches={"bn_eps": (1e-3, 1e-5), "same_pad": ("dynamic", "static_ceil")},
)


@pytest.fixture(scope="module")
def padded() -> Iterator[None]:
    """Register a network with I3D's switches."""
    known = table.backbones()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "backbones", lambda: {**known, "padded": PADDED})
        yield


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make videos of 30 frames/s, 3:2, so that no published size has their shape."""
    folder = tmp_path_factory.mktemp("footage")
    for seed, (name, num_frames) in enumerate(NUM_FRAMES.items()):
        make_video(folder / f"{name}.mp4", num_frames=num_frames, width=72, height=48, fps=30, seed=seed)
    return folder


@dataclass(frozen=True)
class Maker:
    """Extracts the footage, and makes sets and folders of the features."""

    footage: Path
    folder: Path

    def extract(self, recipe: Recipe, *, weights: str = "random:0") -> dict[str, ClipFeatures]:
        backbone = load_backbone(recipe.network.name, weights, switches=recipe.network.switches)
        own = replace(recipe, weights=backbone.weights_sha256)
        return {n: extract_video(self.footage / f"{n}.mp4", backbone, recipe=own) for n in NUM_FRAMES}

    def a_set(self, recipe: Recipe, features: Mapping[str, ClipFeatures] | None = None) -> Side:
        made = Store(self.folder / "store").create(recipe, slug=recipe.network.name)
        for name, one in (features or self.extract(recipe, weights=recipe.weights)).items():
            stored = replace(one, values=one.values.astype(recipe.dtype))
            made.publish(name, build_shard(name, key_of(name), stored, recipe.digest, "0" * 64), replace=False)
        return set_side(made)

    def files(self, arrays: Mapping[str, ClipFeatures] | Arrays, name: str = "b") -> Side:
        for identifier, values in arrays.items():
            path = self.folder / name / f"{identifier}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values.values if isinstance(values, ClipFeatures) else values)
        return folder_side(self.folder / name)

    def search(self, **options: Any) -> Search:
        return Search(videos=[str(self.footage)], **options)

    def difference(self, a: Recipe, b: Recipe, **options: Any) -> Difference:
        """Compare a set of recipe ``a`` with files that ``b`` gives."""
        theirs = self.files(self.extract(b, weights=b.weights))
        return find_difference(self.a_set(a), theirs, search=self.search(**options))


@pytest.fixture
def maker(footage: Path, tmp_path: Path) -> Maker:
    return Maker(footage, tmp_path)


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """Change fields of the transform or the sampling, whichever has them, or of the recipe."""
    parts: dict[str, dict[str, Any]] = {"transform": {}, "sampling": {}, "network": {}, "": {}}
    for name, value in fields.items():
        homes = {part: [one.name for one in fields_of(getattr(recipe, part))] for part in parts if part}
        parts[next((part for part, names in homes.items() if name in names), "")][name] = value
    own = parts.pop("")
    return replace(recipe, **own, **{part: replace(getattr(recipe, part), **new) for part, new in parts.items()})


def own_recipe(name: str) -> Recipe:
    spec = table.find_backbone(name)
    preset = spec.default_preset
    return Recipe(sampling=preset.sampling, transform=preset.transform, network=preset.network, weights="random:0")


@pytest.fixture
def tiny() -> Recipe:
    """Give I3D's preprocessing in small: [-1, 1], 4 frames every 4."""
    return changed(own_recipe("tiny"), scale=2 / 255, offset=-1.0)


@pytest.fixture
def ten(tiny: Recipe) -> Recipe:
    return changed(tiny, crops="ten", crop_order="tv")


@pytest.fixture
def few_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave two causes, for tests that are about other things than telling causes apart."""
    few = {name: CAUSES[name] for name in ("channel order", "centre's rounding", "switch", "tail")}
    monkeypatch.setattr("vadx.pipelines.variants.CAUSES", few)
    monkeypatch.setattr("vadx.pipelines.diagnose.CAUSES", few)


def only_cause(found: Difference) -> tuple[str, str]:
    """Give cause and value of the one that is named, which must be the first and alone."""
    assert found.differs
    assert found.diagnosis is not None
    assert len(found.causes) == 1, found.causes
    first, *others = found.diagnosis.causes
    assert first.is_exact
    assert not any(cause.is_exact for cause in others)
    # The video is decoded and the network run again by the same engine: nothing but the grid's arithmetic differs.
    assert first.relative_l2 is not None
    assert first.relative_l2 < 1e-6
    assert found.diagnosis.reproduced_a < 1e-6
    assert json.loads(json.dumps(found.report()))["causes"] == [*found.causes]
    return first.cause, first.value


NORMALISED = {"scale": 1 / 255, "offset": 0.0, "mean": (0.43, 0.39, 0.37), "std": (0.228, 0.221, 0.217)}

PLANTED: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = {
    "BGR": ({}, {"channel_order": "bgr"}, ("channel order", "BGR")),
    "[0, 1] for [-1, 1]": ({}, {"scale": 1 / 255, "offset": 0.0}, ("range", "[0, 1]")),
    "no mean": (NORMALISED, {"mean": (0.0, 0.0, 0.0)}, ("mean and std", "no mean")),
    "PIL for OpenCV": ({"kernel": "cv2"}, {"kernel": "pil"}, ("resize kernel", "pil")),
    "aspect ignored": ({}, {"resize": (32, 32)}, ("size", "32x32 (height x width), aspect ignored")),
    "other short side": ({}, {"resize": 27}, ("size", "short side 27")),
    "25 for 30 frames/s": ({}, {"fps": 25.0}, ("frame rate", "25 frames/s")),
    "JPEG": ({}, {"jpeg": 75}, ("JPEG", "quality 75")),
    "black frames at the end": ({}, {"tail": "zero"}, ("tail", "zero")),
    "every second frame": ({}, {"frame_step": 2}, ("frame step", "2 apart")),
    "another preset, in two things": (
        {"resize": 40},
        {"resize": 32, "scale": 1 / 255, "offset": 0.0},
        ("preset", "tiny-default"),
    ),
    "other random weights": ({}, {"weights": "random:3"}, ("weights", "random:3")),
}
"""What was done -> A's recipe, what is other in B's, and the cause and value that must be named."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_cause_is_named_alone_and_first(name: str, tiny: Recipe, maker: Maker) -> None:
    ours, theirs, expected = PLANTED[name]
    a = changed(tiny, **ours)
    assert only_cause(maker.difference(a, changed(a, **theirs))) == expected


@pytest.mark.parametrize("noisy_first", [False, True])
def test_noise_is_named_where_recipes_differ_in_nothing_else(noisy_first: bool, tiny: Recipe, maker: Maker) -> None:
    clean = maker.extract(tiny)
    noisy = {name: replace(one, values=one.values + np.float32(0.01)) for name, one in clean.items()}
    sides = [maker.a_set(tiny, clean), maker.a_set(changed(tiny, noise=Noise(seed=3)), noisy)]
    found = find_difference(*(sides[::-1] if noisy_first else sides), search=maker.search())
    said = ("noise wsal:3:32", "no noise") if noisy_first else ("no noise", "noise wsal:3:32")
    assert found.differs
    assert found.causes == ("noise: A was made with {} on its frames, B with {}".format(*said),)
    # Nothing was extracted again: no other weights were guessed.
    assert found.diagnosis is None
    assert found.report()["causes"] == [*found.causes]


def test_other_causes_are_not_guessed_beside_noise(tiny: Recipe, maker: Maker) -> None:
    noisy = changed(tiny, noise=Noise())
    ours = maker.extract(tiny)
    theirs = {name: replace(one, values=one.values + np.float32(0.01)) for name, one in ours.items()}
    found = find_difference(maker.a_set(noisy, ours), maker.files(theirs), search=maker.search())
    assert (found.causes, found.diagnosis) == ((), None)
    assert any("noise is drawn for whole videos" in note for note in found.notes)


def test_two_causes_are_named_together(tiny: Recipe, maker: Maker) -> None:
    found = maker.difference(tiny, changed(tiny, channel_order="bgr", resize=27))
    assert only_cause(found) == ("channel order, and size", "BGR, and short side 27")


@pytest.mark.parametrize(
    ("switch", "value", "expected"),
    [("bn_eps", 1e-5, "bn_eps=1e-05"), ("same_pad", "static_ceil", "same_pad=static_ceil")],
)
def test_a_switch_of_the_network_is_named(switch: str, value: Any, expected: str, maker: Maker) -> None:
    a = own_recipe("padded")
    assert only_cause(maker.difference(a, changed(a, switches={switch: value}))) == ("switch", expected)


@pytest.mark.usefixtures("few_causes")
def test_an_epsilon_that_is_one_factor_is_named_all_the_same(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without bias and running mean BatchNorm's epsilon scales every feature alike, as in a network before training.
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, **_: tensor)
    a = own_recipe("padded")
    found = maker.difference(a, changed(a, switches={"bn_eps": 1e-5}))
    assert found.comparison.findings[0].kind == "scale"
    assert only_cause(found) == ("switch", "bn_eps=1e-05")


def test_a_stride_shifted_by_eight_frames(tiny: Recipe, maker: Maker) -> None:
    # Every second clip of half the stride, from the second on, begins 8 frames after A's.
    a = changed(tiny, clip_stride=16, tail="drop")
    b = {name: one.values[1::2] for name, one in maker.extract(changed(a, clip_stride=8)).items()}
    found = find_difference(maker.a_set(a), maker.files(b), search=maker.search())
    assert only_cause(found) == ("clip offset", "clips 8 frames later")


def test_a_mirrored_centre(tiny: Recipe, maker: Maker) -> None:
    ten = maker.extract(changed(tiny, crops="ten", crop_order="roc"))
    b = {name: one.values[:, 5:6] for name, one in ten.items()}
    found = find_difference(maker.a_set(tiny), maker.files(b), search=maker.search())
    assert only_cause(found) == ("crop", "centre, mirrored")


class TestTenCrops:
    @pytest.mark.parametrize("order", ["oversample", "roc", "caffe"])
    def test_another_order_is_named_without_extracting(self, order: str, ten: Recipe, maker: Maker) -> None:
        # Even margins: then the centre of the mirrored frame is the mirrored centre, bit for bit.
        found = maker.difference(ten, changed(ten, crop_order=order))
        assert found.diagnosis is None
        (cause,) = found.comparison.causes
        assert cause.evidence["order_b"] == order
        assert found.causes == (f"B's crops are in order {order}, A's in order tv",)

    def test_flipped_crops_first(self, ten: Recipe, maker: Maker) -> None:
        features = maker.extract(ten)
        b = {name: np.roll(one.values, 5, axis=1) for name, one in features.items()}
        found = find_difference(maker.a_set(ten, features), maker.files(b), search=maker.search())
        (cause,) = found.comparison.causes
        assert cause.evidence["order_b"] == "mirrored half first"

    def test_tsn_s_places_are_told_from_corners(self, ten: Recipe, maker: Maker) -> None:
        # Margins of 11 and 19: its right and lower crops lie 3 pixels from the edge.
        a = changed(ten, resize=35)
        assert only_cause(maker.difference(a, changed(a, crop_order="tsn"))) == ("crop order", "tsn")

    @pytest.mark.usefixtures("few_causes")
    def test_a_cause_beside_the_crops_is_found_from_the_centre_alone(self, ten: Recipe, maker: Maker) -> None:
        found = maker.difference(ten, changed(ten, channel_order="bgr"))
        assert only_cause(found) == ("channel order", "BGR")


class TestArraysAlone:
    def test_the_same_is_the_same(self, tiny: Recipe, maker: Maker) -> None:
        found = maker.difference(tiny, tiny)
        assert not found.differs
        assert (found.causes, found.diagnosis, found.comparison.num_identical) == ((), None, 2)

    def test_drop_for_repeat_last(self, tiny: Recipe, maker: Maker) -> None:
        found = maker.difference(tiny, changed(tiny, tail="drop"))
        (cause,) = found.comparison.causes
        assert found.diagnosis is None
        assert cause.kind == "tail"
        assert cause.evidence["rules"] == ["drop"]

    def test_half_precision(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        b = {name: one.values.astype(np.float16) for name, one in features.items()}
        found = find_difference(maker.a_set(tiny, features), maker.files(b), search=maker.search())
        assert [f.kind for f in found.comparison.findings] == ["float16"]
        assert found.diagnosis is None

    def test_two_sets_state_what_their_recipes_differ_in(self, tiny: Recipe, maker: Maker) -> None:
        b = changed(tiny, kernel="cv2")
        found = find_difference(maker.a_set(tiny), maker.a_set(b))
        assert found.stated == (("transform.kernel", "pil", "cv2"),)
        assert "--videos" in found.notes[0]

    def test_ids_join_by_their_last_part(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        b = {name.rpartition("/")[2]: one for name, one in features.items()}
        assert not find_difference(maker.a_set(tiny, features), maker.files(b)).differs

    def test_rows_without_crops(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        b = {name: one.values[:, 0] for name, one in features.items()}
        assert not find_difference(maker.a_set(tiny, features), maker.files(b)).differs


@pytest.mark.usefixtures("few_causes")
class TestSearch:
    def test_weights_that_nobody_has_are_what_is_left(self, tiny: Recipe, maker: Maker) -> None:
        found = maker.difference(tiny, changed(tiny, weights="random:77"))
        assert found.causes == ()
        assert found.diagnosis is not None
        assert found.diagnosis.causes[0].is_inferred
        assert found.suspects()[0].startswith("weights: B was made with none of those at hand")

    def test_a_value_to_try(self, tiny: Recipe, maker: Maker) -> None:
        found = maker.difference(tiny, changed(tiny, resize=29), trials=["transform.resize=29"])
        assert only_cause(found) == ("transform.resize", "29")

    def test_a_drift_that_shows_late(self, tiny: Recipe, maker: Maker) -> None:
        # 29.5 for 30 frames/s: half a frame is lost after 29.5 frames, in clip 7.
        found = maker.difference(tiny, changed(tiny, fps=29.5), trials=["sampling.fps=29.5"])
        assert [one.first_clip for one in found.comparison.videos.values()] == [7, 7]
        assert only_cause(found) == ("sampling.fps", "29.5")

    def test_the_side_with_a_recipe_is_where_the_search_begins(self, tiny: Recipe, maker: Maker) -> None:
        a = maker.files(maker.extract(changed(tiny, channel_order="bgr")))
        found = find_difference(a, maker.a_set(tiny), search=maker.search())
        assert only_cause(found) == ("channel order", "BGR")
        assert found.causes[0].startswith("channel order: A was made with BGR, B with RGB")

    def test_videos_that_a_was_not_made_of_are_told(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        names = list(features)
        shuffled = {name: features[names[i - 1]] for i, name in enumerate(names)}
        b = {name: one.values + 0.1 for name, one in shuffled.items()}
        found = find_difference(maker.a_set(tiny, shuffled), maker.files(b), search=maker.search())
        assert any("these are not the videos" in note for note in found.notes)

    def test_weights_without_a_name_are_asked_for(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        b = {name: one.values[::-1] for name, one in features.items()}
        a = maker.a_set(changed(tiny, weights="ab" * 32), features)
        with pytest.raises(UsageError, match=r"sha256 abababababab.*--weights FILE"):
            find_difference(a, maker.files(b), search=maker.search())

    def test_other_weights_than_the_recipe_s_are_refused(self, tiny: Recipe, maker: Maker) -> None:
        features = maker.extract(tiny)
        b = {name: one.values[::-1] for name, one in features.items()}
        a = maker.a_set(changed(tiny, weights="ab" * 32), features)
        with pytest.raises(UsageError, match="are not those of the recipe"):
            find_difference(a, maker.files(b), search=maker.search(weights="random:0"))

    @pytest.mark.parametrize("trial", ["transform.colour=1", "network.layers.x=1", "transform.resize=big"])
    def test_a_trial_that_no_recipe_takes_is_refused(self, trial: str, tiny: Recipe, maker: Maker) -> None:
        with pytest.raises(UsageError, match="--try"):
            maker.difference(tiny, changed(tiny, resize=29), trials=[trial])

    def test_videos_of_others_are_refused(self, tiny: Recipe, maker: Maker, tmp_path: Path) -> None:
        make_video(tmp_path / "other" / "elsewhere.mp4")
        b = maker.files(maker.extract(changed(tiny, resize=29)))
        with pytest.raises(UsageError, match="--videos"):
            find_difference(maker.a_set(tiny), b, search=Search(videos=[str(tmp_path / "other")]))


class TestGrid:
    def test_every_row_makes_variants_of_some_recipe_and_each_recipe_once(self, ten: Recipe) -> None:
        found = []
        for name in ("tiny", "padded", "tiny-frames"):
            recipe = changed(ten, resize=40) if name == "tiny" else changed(own_recipe(name), tail="drop")
            whole = Origin(recipe=recipe, spec=table.find_backbone(name), weights="random:0")
            centre = replace(whole, recipe=centre_only(recipe)[0])
            variants = variants_of(whole, centre)
            keys = [(v.recipe.digest, v.skip, v.pick) for v in variants]
            assert len(keys) == len(set(keys))
            assert recipe.digest not in {digest for digest, skip, pick in keys if (skip, pick) == (0, None)}
            found += [variant.cause for variant in variants]
        assert set(found) == set(CAUSES)

    def test_the_centre_s_place(self, ten: Recipe) -> None:
        places = {name: centre_only(changed(ten, crop_order=name))[1] for name in CROP_ORDERS}
        assert places == {"tv": 4, "oversample": 2, "roc": 0, "caffe": 4, "tsn": None}

    def test_what_crops_show(self) -> None:
        tv, roc = (crop_labels(CROP_ORDERS[name]) for name in ("tv", "roc"))
        assert tv[5] == ("top right", True)
        assert roc[6] == ("top left", True)
        assert crop_labels(CROP_ORDERS["tsn"])[1] == ("top left", True)


class TestFiles:
    def test_a_folder_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="neither a feature set"):
            folder_side(tmp_path)

    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"not numpy", "not an array"), (np.zeros(3), "got \\(3,\\)"), (np.array([["a"]]), "got \\(1, 1\\) of <U1")],
    )
    def test_files_that_hold_no_features(self, content: Any, words: str, tmp_path: Path) -> None:
        path = tmp_path / "v.npy"
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
        with pytest.raises(StoreError, match=words):
            folder_side(tmp_path).arrays["v"]

    def test_an_unknown_layout(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there are: .*npy"):
            folder_side(tmp_path, "matlab")

    def test_a_layout_is_read_once_for_a_comparison(
        self, ten: Recipe, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = maker.extract(ten)
        for name, one in features.items():
            maker.files({f"{name.rpartition('/')[2]}_i3d": one.values}, "release")
        side = folder_side(tmp_path / "release", "rtfm")
        passes = []
        read = layouts.Imported.__iter__
        monkeypatch.setattr(layouts.Imported, "__iter__", lambda own: passes.append(own) or read(own))
        found = find_difference(maker.a_set(ten, features), side)
        assert (found.differs, found.comparison.num_identical, len(passes)) == (False, 2, 1)
        first, second = side.arrays
        assert np.array_equal(side.arrays[second], features["Normal/v1"].values)
        assert np.array_equal(side.arrays[first], features["Abuse/v0"].values)
        assert "v2" not in side.arrays
        with pytest.raises(KeyError):
            side.arrays["v2"]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in the maker's folder: exit code and stdout."""

    def invoke(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(maker.folder)
        ran = CliRunner().invoke(diff, [*arguments, "--store", "store"], standalone_mode=False)
        if ran.exception is not None:
            raise ran.exception
        return ran.return_value, ran.stdout

    return invoke


@pytest.mark.usefixtures("few_causes")
class TestCommand:
    def test_same_is_said_with_exit_code_0(self, tiny: Recipe, maker: Maker, run: Run) -> None:
        features = maker.extract(tiny)
        maker.a_set(tiny, features)
        maker.files(features)
        code, out = run("tiny", "b")
        assert code == 0
        assert out.splitlines()[2].startswith("same: 2 videos, 2 of them bit for bit")

    def test_the_cause_stands_first_with_exit_code_4(self, tiny: Recipe, maker: Maker, run: Run, footage: Path) -> None:
        maker.a_set(tiny)
        maker.files(maker.extract(changed(tiny, channel_order="bgr")))
        code, out = run("tiny", "b", "--videos", str(footage))
        assert code == 4
        _, _, first, second, *_ = out.splitlines()
        assert first == "cause: channel order: B was made with BGR, A with RGB; relative L2 0 is left"
        assert second.startswith("  values differ in 2 of 2 videos: relative L2")
        assert run("tiny", "b", "--videos", str(footage), "-q")[1] == first.removeprefix("cause: ") + "\n"

    def test_json(self, tiny: Recipe, maker: Maker, run: Run) -> None:
        features = maker.extract(tiny)
        maker.a_set(tiny, features)
        maker.files({name: np.float32(255) * one.values for name, one in features.items()})
        code, out = run("tiny", "b", "--json")
        report = json.loads(out)
        assert (code, report["differs"], report["causes"]) == (4, True, ["B is A times 255"])
        assert report["findings"][0]["evidence"] == {"factor": pytest.approx(255)}

    def test_a_set_may_be_its_folder(self, tiny: Recipe, maker: Maker, run: Run) -> None:
        side = maker.a_set(tiny)
        assert side.feature_set is not None
        assert run("tiny", str(side.feature_set.path))[0] == 0

    def test_a_name_that_is_nothing(self, tiny: Recipe, maker: Maker, run: Run) -> None:
        maker.a_set(tiny)
        with pytest.raises(UsageError, match="fits no feature set"):
            run("tiny", "nothing")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_named_pipe_is_not_waited_for(self, tiny: Recipe, maker: Maker, run: Run) -> None:
        features = maker.extract(tiny)
        maker.a_set(tiny, features)
        os.mkfifo(maker.folder / "pipe")
        with pytest.raises(UsageError, match="pipe is neither a file nor a folder"):
            run("tiny", "pipe")
        maker.files(features)
        (maker.folder / "b" / "Abuse" / "v0.npy").unlink()
        os.mkfifo(maker.folder / "b" / "Abuse" / "v0.npy")
        with pytest.raises(StoreError, match=r"v0\.npy: .*it is no file"):
            run("tiny", "b")


def test_the_module_s_network_is_deterministic() -> None:
    # Otherwise a switch could not be told from other weights.
    one, other = (load_backbone("padded", "random:0").network.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
