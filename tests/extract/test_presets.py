"""Every preset can be run by its network, and says where its numbers come from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vadx.errors import RecipeError, UsageError
from vadx.extract.backbones import backbones, find_backbone, find_presets
from vadx.extract.presets import PRESET_GROUPS, PRESETS, recipe_of
from vadx.extract.sampling import TAIL_POLICIES
from vadx.extract.weights import WEIGHTS
from vadx.features.recipe import Recipe

ASKED_FOR = [
    "sultani-c3d",
    "rtfm-i3d-10crop",
    "gowtham-i3d-10crop",
    "urdmu-i3d-10crop",
    "xdviolence-i3d",
    "wsal-tsn",
    "gcn-tsn",
    "gcn-c3d",
    "csltal-i3d",
    "wsstad-c3d",
    "lad-i3d",
    "videofeatures-i3d",
    "videofeatures-r21d",
    "vadclip-vitb16",
    "vadclip-vitb16-single",
    "kinetics-i3d",
]


@pytest.mark.parametrize("name", ASKED_FOR)
def test_the_papers_recipes_exist(name: str) -> None:
    for preset in find_presets(name):
        assert preset.sources
        assert preset.name.startswith(name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_its_network_and_its_weights(name: str) -> None:
    preset = PRESETS[name]
    spec = find_backbone(preset.backbone)
    recipe = recipe_of(preset, "random:0")
    spec.check(recipe)
    spec.check_switches(recipe.network.switches)
    assert preset in spec.presets
    assert recipe.network.name == spec.name
    assert recipe.sampling.tail in TAIL_POLICIES
    assert Recipe.from_mapping(recipe.to_mapping()).digest == recipe.digest
    assert preset.weights is not None
    assert WEIGHTS[preset.weights].backbone == spec.name
    for kind, row in (("mean_cube", preset.mean_cube), ("flow", preset.flow_weights)):
        assert row is None or WEIGHTS[row].kind == kind
    assert (recipe.flow is not None and recipe.flow.method == "raft") == (preset.flow_weights is not None)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_where_its_numbers_come_from(name: str) -> None:
    preset = PRESETS[name]
    transform, told = preset.transform, " ".join([*preset.sources, *preset.disputed, preset.note])
    sizes = [transform.resize] if isinstance(transform.resize, int) else [*transform.resize]
    for number in {*sizes, transform.crop, preset.sampling.clip_length}:
        assert str(number) in told, number
    assert all(source.strip() for source in preset.sources.values())


def test_no_two_presets_of_a_network_are_the_same_recipe_by_accident() -> None:
    digests: dict[str, list[str]] = {}
    for preset in PRESETS.values():
        digests.setdefault(recipe_of(preset, preset.weights or "").digest, []).append(preset.name)
    shared = sorted(sorted(names) for names in digests.values() if len(names) > 1)
    # CSL-TAL takes XD-Violence's released features; WSSTAD says no more of its preprocessing than that it is C3D's.
    assert shared == [["csltal-i3d", "xdviolence-i3d"], ["sports1m-c3d", "wsstad-c3d"]]


def test_groups_name_presets_and_are_named_like_none() -> None:
    for name, members in PRESET_GROUPS.items():
        assert name not in PRESETS
        assert [preset.name for preset in find_presets(name)] == list(members)


def test_the_disputed_variants_differ_where_they_should() -> None:
    sultani, wsstad, gcn = (PRESETS[name] for name in ("sultani-c3d", "wsstad-c3d", "gcn-c3d"))
    assert (sultani.transform.pre_resize, sultani.sampling.fps) == ((240, 320), 30.0)
    assert (wsstad.transform.pre_resize, wsstad.sampling.fps) == (None, None)
    assert (sultani.mean_cube, gcn.mean_cube, gcn.transform.mean) == ("c3d-mean-cube", None, (104.0, 117.0, 123.0))
    rtfm, gowtham = PRESETS["rtfm-i3d-10crop"], PRESETS["gowtham-i3d-10crop"]
    assert (rtfm.transform.crop_order, gowtham.transform.crop_order) == ("tv", "oversample")
    assert (rtfm.transform.jpeg, gowtham.transform.jpeg) == (None, "ffmpeg")
    assert (rtfm.transform.interpolation, gowtham.transform.interpolation) == ("bilinear", "lanczos")
    assert PRESETS["vadclip-vitb16"].network.temporal == "mean"
    assert PRESETS["vadclip-vitb16-single"].network.temporal == "first"
    assert PRESETS["videofeatures-r21d"].transform.kernel == "torch_float"
    assert PRESETS["kinetics-r2plus1d"].transform.kernel == "torch"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sports1m-c3d", {"clip_length": 8}, "takes clips of 16 frames, got 8"),
        ("kinetics-i3d", {"clip_length": 8}, "at least 9 frames, got 8"),
        ("kinetics-slowfast-r50", {"clip_length": 30}, "30"),
    ],
)
def test_clips_that_a_network_cannot_eat_are_refused(name: str, change: dict[str, int], says: str) -> None:
    preset = PRESETS[name]
    recipe = recipe_of(preset, "random:0")
    with pytest.raises(RecipeError, match=says):
        find_backbone(preset.backbone).check(replace(recipe, sampling=replace(recipe.sampling, **change)))


def test_a_network_is_fed_neither_flow_for_pixels_nor_clips_for_frames() -> None:
    flow, clip = PRESETS["kinetics-i3d-flow"], PRESETS["kinetics-i3d"]
    with pytest.raises(RecipeError, match="takes 3 channels, and the recipe gives 2"):
        find_backbone("i3d").check(recipe_of(flow, "random:0"))
    with pytest.raises(RecipeError, match="takes single frames"):
        find_backbone("clip-vitb16").check(recipe_of(clip, "random:0"))
    with pytest.raises(RecipeError, match="takes crops of 112"):
        find_backbone("c3d").check(recipe_of(replace(clip, name="x"), "random:0"))


@pytest.mark.parametrize("name", backbones())
def test_switches_take_their_published_values_alone(name: str) -> None:
    spec = find_backbone(name)
    for switch, values in spec.switches.items():
        spec.check_switches({switch: values[0]})
        assert spec.chosen_switches({switch: values[0]}) == {}
        assert spec.chosen_switches({switch: values[-1]}) == {switch: values[-1]}
        with pytest.raises(UsageError, match=f"{switch} is one of"):
            spec.check_switches({switch: "nothing that is published"})
