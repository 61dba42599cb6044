from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vadx.errors import RecipeError, UsageError
from vadx.features import recipe as recipe_module
from vadx.features.recipe import (
    CropOrder,
    CropSet,
    Decode,
    Kernel,
    Network,
    Precision,
    Recipe,
    Sampling,
    StoredDtype,
    Tail,
    Transform,
)

from .samples import make_recipe

FIRST = Recipe(
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=0.0078125, offset=-1.0),
    network=Network(name="i3d", layer="mixed_5c"),
    weights="random:0",
)
FIRST_TEXT = (
    '{"decode":{"device":"cpu","rotation":"apply"},"dtype":"float32",'
    '"network":{"layer":"mixed_5c","name":"i3d","switches":{}},"numerics":1,"precision":"fp32",'
    '"sampling":{"clip_length":16,"clip_stride":16,"frame_step":1,"tail":"drop"},'
    '"transform":{"center_rounding":"floor","channel_order":"rgb","crop":224,"crop_order":null,"crops":"center","kernel":"pil",'
    '"mean":[0.0,0.0,0.0],"offset":-1.0,"resize":256,"scale":0.0078125,"std":[1.0,1.0,1.0]},'
    '"weights":"random:0"}'
)
SECOND = Recipe(
    sampling=Sampling(clip_length=64, clip_stride=8, tail="wrap", frame_step=2),
    transform=Transform(
        kernel="torch",
        resize=(128, 171),
        crop=112,
        crops="ten",
        crop_order="oversample",
        center_rounding="round",
        channel_order="bgr",
        mean=(104.0, 117.0, 123.0),
        std=(0.5, 0.25, 2.0),
    ),
    network=Network(name="c3d", layer="fc6", switches={"pool": "max", "relu": True, "depth": 3, "rate": 0.5}),
    weights="0" * 64,
    decode=Decode(rotation="ignore"),
    precision="bf16",
    dtype="float16",
)
FIRST_DIGEST = "7577436dbccb1d8b75de37dda376ec03587f7c3efc30c0086a89f027130f287f"
SECOND_DIGEST = "606dcca9c27d8a28158a8ed91645691d8cc9d477396d7e14bc4730e8c3ef8da8"

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-6, max_value=1e6)
lengths = st.integers(1, 512)


@st.composite
def transforms(draw: st.DrawFn) -> Transform:
    crop = draw(st.integers(1, 300))
    side = st.integers(crop, 600)
    crops = draw(st.sampled_from(get_args(CropSet)))
    return Transform(
        kernel=draw(st.sampled_from(get_args(Kernel))),
        resize=draw(side | st.tuples(side, side)),
        crop=crop,
        crops=crops,
        crop_order=None if crops == "center" else draw(st.sampled_from(get_args(CropOrder))),
        center_rounding=draw(st.sampled_from(["floor", "round"])),
        channel_order=draw(st.sampled_from(["rgb", "bgr"])),
        scale=draw(finite),
        offset=draw(finite),
        mean=draw(st.tuples(finite, finite, finite)),
        std=draw(st.tuples(positive, positive, positive)),
    )


recipes = st.builds(
    Recipe,
    sampling=st.builds(
        Sampling, clip_length=lengths, clip_stride=lengths, frame_step=lengths, tail=st.sampled_from(get_args(Tail))
    ),
    transform=transforms(),
    network=st.builds(
        Network,
        name=st.text(),
        layer=st.text(),
        switches=st.dictionaries(st.text(), st.text() | finite | st.integers() | st.booleans(), max_size=4),
    ),
    weights=st.text(),
    decode=st.builds(Decode, rotation=st.sampled_from(["apply", "ignore"])),
    precision=st.sampled_from(get_args(Precision)),
    dtype=st.sampled_from(get_args(StoredDtype)),
    numerics=st.integers(1, 9),
)


def test_the_first_digests_never_change() -> None:
    assert FIRST.canonical_json() == FIRST_TEXT
    assert FIRST.digest == FIRST_DIGEST
    assert SECOND.digest == SECOND_DIGEST


@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.from_mapping(json.loads(json.dumps(recipe.to_mapping())))
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.canonical_json() == recipe.canonical_json()


@given(recipes)
def test_the_canonical_text_is_sorted_ascii_without_spaces_between(recipe: Recipe) -> None:
    text = recipe.canonical_json()
    assert text.isascii()
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


@given(recipes)
def test_a_recipe_travels_to_another_process(recipe: Recipe) -> None:
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # noqa: S301


def test_the_order_of_keys_does_not_matter() -> None:
    def backwards(value: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    assert Recipe.from_mapping(backwards(SECOND.to_mapping())).digest == SECOND.digest
    switches = dict(reversed(SECOND.network.switches.items()))
    assert replace(SECOND, network=replace(SECOND.network, switches=switches)).digest == SECOND.digest


CHANGES: dict[str, Any] = {
    "decode.rotation": "ignore",
    "sampling.clip_length": 15,
    "sampling.clip_stride": 15,
    "sampling.frame_step": 2,
    "sampling.tail": "loop",
    "transform.kernel": "torch",
    "transform.resize": 257,
    "transform.crop": 223,
    "transform.center_rounding": "round",
    "transform.channel_order": "bgr",
    "transform.scale": 1.0,
    "transform.offset": 0.0,
    "transform.mean": [0.0, 0.0, 0.1],
    "transform.std": [1.0, 1.0, 1.1],
    "network.name": "I3D",
    "network.layer": "logits",
    "network.switches": {"pool": "avg"},
    "weights": "random:1",
    "precision": "tf32",
    "dtype": "float16",
    "numerics": 2,
}


def fields_of(mapping: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in mapping.items():
        if isinstance(value, dict) and name != "switches":
            yield from fields_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def edited(mapping: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(mapping)
    *above, last = path.split(".")
    inner = result
    for name in above:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return result


def test_every_field_changes_the_digest() -> None:
    digests = [Recipe.from_mapping(edited(FIRST.to_mapping(), path, value)).digest for path, value in CHANGES.items()]
    assert len({FIRST.digest, *digests}) == 1 + len(CHANGES)
    tied_to_others = {"transform.crops", "transform.crop_order", "decode.device"}
    assert set(fields_of(FIRST.to_mapping())) == set(CHANGES) | tied_to_others


def test_crop_sets_and_orders_change_the_digest() -> None:
    digests = {make_recipe(crops=crops).digest for crops in get_args(CropSet)}
    ten = make_recipe(crops="ten")
    digests |= {
        replace(ten, transform=replace(ten.transform, crop_order=order)).digest for order in get_args(CropOrder)
    }
    assert len(digests) == len(get_args(CropSet)) + len(get_args(CropOrder)) - 1


@pytest.mark.parametrize("path", sorted(fields_of(FIRST.to_mapping())))
@pytest.mark.parametrize("value", [[], {"a": []}, object(), b"x"], ids=["list", "dict", "object", "bytes"])
def test_a_field_of_another_type_is_named(path: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"recipe\\.{path}"):
        Recipe.from_mapping(edited(FIRST.to_mapping(), path, value))


@pytest.mark.parametrize("path", ["sampling.clip_length", "transform.crop", "numerics"])
@pytest.mark.parametrize("value", [True, 16.0, "16", None])
def test_a_count_is_an_int_and_nothing_like_it(path: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"recipe\\.{path}"):
        Recipe.from_mapping(edited(FIRST.to_mapping(), path, value))


@pytest.mark.parametrize("above", ["", "decode.", "sampling.", "transform.", "network."])
def test_an_unknown_field_is_named(above: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown field 'shutter'.*newer vadx") as caught:
        Recipe.from_mapping(edited(FIRST.to_mapping(), f"{above}shutter", 1))
    assert str(caught.value).startswith(f"recipe.{above}".rstrip(".") + ":")


REQUIRED = (
    *("sampling", "transform", "network", "weights"),
    *("sampling.clip_length", "sampling.clip_stride", "sampling.tail"),
    *(
        "transform.kernel",
        "transform.resize",
        "transform.crop",
        "transform.center_rounding",
        "network.name",
        "network.layer",
    ),
)


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_field_is_named(path: str) -> None:
    with pytest.raises(RecipeError, match=f"'{path.split('.')[-1]}'"):
        Recipe.from_mapping(edited(FIRST.to_mapping(), path, ...))


@pytest.mark.parametrize("value", [None, 1, "recipe", [], [1]])
def test_what_is_no_object_is_no_recipe(value: object) -> None:
    with pytest.raises(RecipeError, match="recipe: expected an object"):
        Recipe.from_mapping(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@example(path="transform.scale", value=10**400)
@example(path="transform.std", value=[1.0, float("nan"), 1.0])
@example(path="network.switches", value={"rate": float("inf")})
@given(path=st.sampled_from(sorted({*fields_of(SECOND.to_mapping()), *REQUIRED, "decode"})), value=json_values)
def test_any_json_is_a_recipe_with_a_digest_or_a_recipe_error(path: str, value: Any) -> None:
    try:
        recipe = Recipe.from_mapping(edited(SECOND.to_mapping(), path, value))
    except RecipeError:
        return
    assert Recipe.from_mapping(json.loads(recipe.canonical_json())).digest == recipe.digest


def test_one_number_has_one_digest_written_as_int_or_float() -> None:
    as_ints = replace(FIRST.transform, scale=1, offset=-1, mean=(1, 2, 3), std=(1, 1, 1))
    as_floats = replace(FIRST.transform, scale=1.0, offset=-1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    assert replace(FIRST, transform=as_ints).digest == replace(FIRST, transform=as_floats).digest
    mapping = edited(edited(FIRST.to_mapping(), "transform.scale", 1), "transform.mean", [1, 2, 3])
    assert Recipe.from_mapping(mapping).transform.mean == (1.0, 2.0, 3.0)
    assert (
        Recipe.from_mapping(mapping).digest
        == replace(FIRST, transform=replace(FIRST.transform, scale=1.0, mean=(1.0, 2.0, 3.0))).digest
    )


def test_minus_zero_is_zero() -> None:
    positive_zero, negative_zero = (
        replace(FIRST, transform=replace(FIRST.transform, offset=zero, mean=(zero, 0.0, 0.0))) for zero in (0.0, -0.0)
    )
    assert positive_zero == negative_zero
    assert positive_zero.digest == negative_zero.digest


@pytest.mark.parametrize("crops", ["five", "ten"])
@pytest.mark.parametrize("order", get_args(CropOrder))
def test_several_crops_have_an_order(crops: CropSet, order: CropOrder) -> None:
    transform = replace(FIRST.transform, crops=crops, crop_order=order)
    assert (transform.crops, transform.crop_order) == (crops, order)


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_several_crops_without_an_order_are_refused(crops: CropSet) -> None:
    with pytest.raises(RecipeError, match=f"crop_order.*None.*{crops}"):
        replace(FIRST.transform, crops=crops)


@pytest.mark.parametrize("order", get_args(CropOrder))
def test_one_crop_with_an_order_is_refused(order: CropOrder) -> None:
    with pytest.raises(RecipeError, match=f"crop_order.*{order}.*center"):
        replace(FIRST.transform, crop_order=order)


@pytest.mark.parametrize("name", ["clip_length", "clip_stride", "frame_step"])
@pytest.mark.parametrize("value", [0, -1])
def test_lengths_and_strides_are_positive(name: str, value: int) -> None:
    with pytest.raises(RecipeError, match=f"sampling.{name} must be at least 1, got {value}"):
        replace(FIRST.sampling, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resize": 223}, "transform.crop 224"),
        ({"resize": (300, 223)}, "transform.crop 224"),
        ({"crop": 0}, "transform.crop 0"),
        ({"std": (1.0, 0.0, 1.0)}, "transform.std"),
        ({"std": (1.0, -1.0, 1.0)}, "transform.std"),
        ({"std": (1.0, math.nan, 1.0)}, "transform.std"),
        ({"mean": (0.0, math.inf, 0.0)}, "transform.mean"),
        ({"scale": math.nan}, "transform.scale"),
        ({"offset": -math.inf}, "transform.offset"),
    ],
)
def test_a_transform_that_cannot_be_meant_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        replace(FIRST.transform, **change)


def test_a_switch_that_is_no_number_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"network\.switches.*rate"):
        Network(name="i3d", layer="x", switches={"rate": math.nan})


def test_a_clip_spans_its_first_to_its_last_frame() -> None:
    assert SECOND.sampling.clip_span == 127
    assert FIRST.sampling.clip_span == 16


def test_a_recipe_cannot_be_changed_and_its_errors_are_usage_errors() -> None:
    with pytest.raises(FrozenInstanceError):
        FIRST.weights = "random:1"  # type: ignore[misc]
    assert issubclass(RecipeError, UsageError)
    assert issubclass(RecipeError, ValueError)


def test_a_younger_field_is_left_out_while_it_has_its_implied_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "_IMPLIED", {("Transform", "channel_order"): "rgb"})
    assert "channel_order" not in FIRST.to_mapping()["transform"]
    assert Recipe.from_mapping(FIRST.to_mapping()) == FIRST
    assert SECOND.to_mapping()["transform"]["channel_order"] == "bgr"
    assert SECOND.digest == SECOND_DIGEST
    assert FIRST.digest != FIRST_DIGEST
