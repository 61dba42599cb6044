from __future__ import annotations

import copy
import json
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
    MAX_FPS,
    RAFT_MIN_SIDE,
    RECIPE_FACTS,
    CropOrder,
    CropSet,
    Decode,
    Flow,
    FlowMethod,
    Imported,
    Interpolation,
    Kernel,
    Network,
    Noise,
    Precision,
    Quantization,
    Recipe,
    Sampling,
    StoredDtype,
    Tail,
    Temporal,
    Transform,
)

from .samples import make_recipe

FIRST = Recipe(
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=0.0078125, offset=-1.0),
    network=Network(name="i3d", layer="mixed_5c"),
    weights="random:0",
    numerics=1,
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
    numerics=1,
)
FIRST_DIGEST = "7577436dbccb1d8b75de37dda376ec03587f7c3efc30c0086a89f027130f287f"
SECOND_DIGEST = "606dcca9c27d8a28158a8ed91645691d8cc9d477396d7e14bc4730e8c3ef8da8"

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-6, max_value=1e6)
lengths = st.integers(1, 512)


sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    return Sampling(
        clip_length=draw(lengths),
        clip_stride=draw(lengths),
        frame_step=draw(lengths),
        tail=draw(st.sampled_from(get_args(Tail))),
        fps=draw(st.none() | st.integers(1, MAX_FPS) | st.floats(0, MAX_FPS, exclude_min=True)),
    )


@st.composite
def transforms(draw: st.DrawFn, of_flow: bool = False) -> Transform:
    """Draw any valid transform; one ``of_flow`` leaves what belongs to colours alone, and is large enough for RAFT."""
    crop = draw(st.integers(1, 300))
    side = st.integers(max(crop, RAFT_MIN_SIDE) if of_flow else crop, 600)
    crops = draw(st.sampled_from(get_args(CropSet)))
    kernel = draw(st.sampled_from(get_args(Kernel)))
    resize = draw(side | st.tuples(side, side))
    crop_order = None if crops == "center" else draw(st.sampled_from(get_args(CropOrder)))
    interpolation = draw(st.sampled_from(get_args(Interpolation))) if kernel == "pil" else "bilinear"
    shared = Transform(
        kernel=kernel,
        resize=resize,
        crop=crop,
        crops=crops,
        crop_order=crop_order,
        center_rounding=draw(st.sampled_from(["floor", "round"])),
        scale=draw(finite),
        offset=draw(finite),
        interpolation=interpolation,
        pre_resize=draw(st.none() | st.tuples(lengths, lengths)),
        crop_mean=crops != "center" and draw(st.booleans()),
    )
    if of_flow:
        return shared
    return replace(
        shared,
        channel_order=draw(st.sampled_from(["rgb", "bgr"])),
        mean=draw(st.tuples(finite, finite, finite)),
        std=draw(st.tuples(positive, positive, positive)),
        jpeg=draw(st.none() | st.just("ffmpeg") | st.integers(1, 100)),
        mean_cube=draw(st.none() | sha256s),
    )


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    method = draw(st.sampled_from(get_args(FlowMethod)))
    return Flow(
        method=method,
        bound=draw(positive | st.integers(1, 100)),
        quantization=draw(st.sampled_from(get_args(Quantization))),
        last=draw(st.sampled_from(["repeat", "drop"])),
        stack=draw(st.integers(1, 16)),
        weights=draw(st.none() | sha256s) if method == "raft" else None,
    )


@st.composite
def any_recipes(draw: st.DrawFn) -> Recipe:
    sampling = draw(samplings())
    flow = draw(st.none() | flows())
    temporal = "mean" if sampling.tail == "partial_mean" else draw(st.sampled_from(get_args(Temporal)))
    network = Network(
        name=draw(st.text()),
        layer=draw(st.text()),
        switches=draw(st.dictionaries(st.text(), st.text() | finite | st.integers() | st.booleans(), max_size=4)),
        temporal=temporal,
    )
    transform = draw(transforms(of_flow=flow is not None))
    noises = st.builds(Noise, seed=st.integers(0, 2**40), span_frames=lengths)
    return Recipe(
        sampling=sampling,
        transform=transform,
        network=network,
        weights=draw(st.text()),
        decode=Decode(rotation=draw(st.sampled_from(["apply", "ignore"]))),
        precision=draw(st.sampled_from(get_args(Precision))),
        dtype=draw(st.sampled_from(get_args(StoredDtype))),
        numerics=draw(st.integers(1, 9)),
        flow=flow,
        noise=None if transform.takes_native else draw(st.none() | noises),
    )


recipes = any_recipes()


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


FLOW = Flow(method="raft", weights="0" * 64)
FLOW_MAPPING = {
    "method": "raft",
    "bound": 20.0,
    "quantization": "none",
    "last": "repeat",
    "stack": 1,
    "weights": "0" * 64,
}

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


# Younger than the first recipes, and not in their texts: each with a value that it did not imply.
YOUNGER_CHANGES: dict[str, Any] = {
    "sampling.fps": 25.0,
    "transform.interpolation": "lanczos",
    "transform.pre_resize": [240, 320],
    "transform.jpeg": "ffmpeg",
    "transform.mean_cube": "0" * 64,
    "network.temporal": "mean",
    "flow": FLOW_MAPPING,
    "imported": {"layout": "rtfm", "release": "ucf", "known": ["weights"], "crop": "", "segmentation": ""},
    "noise": {"kind": "wsal", "seed": 0, "span_frames": 32},
}
FLOW_CHANGES: dict[str, Any] = {
    "flow.bound": 15.0,
    "flow.quantization": "round_128",
    "flow.last": "drop",
    "flow.stack": 5,
    "flow.weights": "1" * 64,
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


def test_every_younger_field_changes_the_digest() -> None:
    digests = [
        Recipe.from_mapping(edited(FIRST.to_mapping(), path, value)).digest for path, value in YOUNGER_CHANGES.items()
    ]
    assert len({FIRST.digest, *digests}) == 1 + len(YOUNGER_CHANGES)
    tied_to_others = {"transform.crop_mean"}
    implied = {f"{kind.lower()}.{name}".removeprefix("recipe.") for kind, name in recipe_module._IMPLIED}
    assert implied == set(YOUNGER_CHANGES) | tied_to_others


def test_every_field_of_flow_changes_the_digest() -> None:
    flow = replace(FIRST, flow=FLOW)
    assert flow.to_mapping()["flow"] == FLOW_MAPPING
    mappings = [edited(flow.to_mapping(), path, value) for path, value in FLOW_CHANGES.items()]
    mappings += [
        edited(edited(flow.to_mapping(), "flow.method", m), "flow.weights", None) for m in get_args(FlowMethod)
    ]
    digests = [Recipe.from_mapping(mapping).digest for mapping in mappings]
    assert len({FIRST.digest, flow.digest, *digests}) == 2 + len(mappings)
    assert set(fields_of(FLOW_MAPPING, "flow.")) == set(FLOW_CHANGES) | {"flow.method"}


def test_every_field_of_noise_changes_the_digest() -> None:
    noises = [Noise(), Noise(seed=1), Noise(span_frames=16)]
    digests = {replace(FIRST, noise=noise).digest for noise in (None, *noises)}
    assert len(digests) == 4
    assert FIRST.digest in digests
    assert {name for noise in noises for name in replace(FIRST, noise=noise).to_mapping()["noise"]} == {
        "kind",
        "seed",
        "span_frames",
    }
    assert [str(noise) for noise in noises] == ["wsal:0:32", "wsal:1:32", "wsal:0:16"]


def test_noise_that_cannot_be_meant_is_refused() -> None:
    for changes in ({"seed": -1}, {"span_frames": 0}):
        with pytest.raises(RecipeError, match=r"noise\.seed is 0 or more"):
            Noise(**changes)
    with pytest.raises(RecipeError, match="noise does not reach"):
        replace(FIRST, noise=Noise(), transform=replace(FIRST.transform, jpeg="ffmpeg"))


def test_averaged_crops_change_the_digest() -> None:
    ten = make_recipe(crops="ten")
    assert replace(ten, transform=replace(ten.transform, crop_mean=True)).digest != ten.digest


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sampling.fps", None),
        ("transform.interpolation", "bilinear"),
        ("transform.pre_resize", None),
        ("transform.jpeg", None),
        ("transform.mean_cube", None),
        ("transform.crop_mean", False),
        ("network.temporal", "clip"),
        ("flow", None),
        ("imported", None),
    ],
)
def test_a_younger_field_written_out_with_its_implied_value_changes_nothing(path: str, value: object) -> None:
    written = edited(FIRST.to_mapping(), path, value)
    assert Recipe.from_mapping(written).digest == FIRST_DIGEST
    assert Recipe.from_mapping(edited(SECOND.to_mapping(), path, value)).digest == SECOND_DIGEST


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


@pytest.mark.parametrize("path", [*YOUNGER_CHANGES, "transform.crop_mean"])
@pytest.mark.parametrize("value", [{"a": []}, object(), b"x"], ids=["dict", "object", "bytes"])
def test_a_younger_field_of_another_type_is_named(path: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"recipe\\.{path}"):
        Recipe.from_mapping(edited(FIRST.to_mapping(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flow.bound", "20", r"recipe\.flow\.bound: expected float, got '20'"),
        ("flow.stack", 1.0, r"recipe\.flow\.stack: expected int, got 1\.0"),
        ("flow.method", "pwc", r"recipe\.flow\.method: .*'pwc'"),
        ("flow.shutter", 1, r"recipe\.flow: unknown field 'shutter'.*newer vadx"),
        ("flow.method", ..., r"recipe\.flow: .*'method'"),
        ("flow.bound", 0, r"flow\.bound must be positive"),
    ],
)
def test_what_is_wrong_inside_flow_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_mapping(edited(replace(FIRST, flow=FLOW).to_mapping(), path, value))


@pytest.mark.parametrize("value", [True, 1.0, "5", 0, 101])
def test_a_quality_of_jpeg_is_an_int_from_1_to_100(value: object) -> None:
    with pytest.raises(RecipeError, match=r"transform\.jpeg"):
        Recipe.from_mapping(edited(FIRST.to_mapping(), "transform.jpeg", value))


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
@example(path="sampling.fps", value=10**400)
@example(path="sampling.fps", value=float("nan"))
@example(path="flow", value={"method": "tvl1", "bound": float("inf")})
@example(path="flow", value={"method": "tvl1", "bound": 10**400})
@given(
    path=st.sampled_from(
        sorted({*fields_of(SECOND.to_mapping()), *REQUIRED, "decode", *YOUNGER_CHANGES, "transform.crop_mean"})
    ),
    value=json_values,
)
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
    rates = [replace(FIRST, sampling=replace(FIRST.sampling, fps=fps)) for fps in (25, 25.0)]
    assert rates[0].canonical_json() == rates[1].canonical_json()
    bounds = [replace(FIRST, flow=Flow(method="tvl1", bound=bound)) for bound in (20, 20.0)]
    assert bounds[0].canonical_json() == bounds[1].canonical_json()
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


def test_a_clip_spans_its_first_to_its_last_frame() -> None:
    assert SECOND.sampling.clip_span == 127
    assert FIRST.sampling.clip_span == 16


def test_a_recipe_cannot_be_changed_and_its_errors_are_usage_errors() -> None:
    with pytest.raises(FrozenInstanceError):
        FIRST.weights = "random:1"  # type: ignore[misc]
    assert issubclass(RecipeError, UsageError)
    assert issubclass(RecipeError, ValueError)


def test_a_younger_field_is_left_out_while_it_has_its_implied_value(monkeypatch: pytest.MonkeyPatch) -> None:
    implied = {**recipe_module._IMPLIED, ("Transform", "channel_order"): "rgb"}
    monkeypatch.setattr(recipe_module, "_IMPLIED", implied)
    assert "channel_order" not in FIRST.to_mapping()["transform"]
    assert Recipe.from_mapping(FIRST.to_mapping()) == FIRST
    assert SECOND.to_mapping()["transform"]["channel_order"] == "bgr"
    assert SECOND.digest == SECOND_DIGEST
    assert FIRST.digest != FIRST_DIGEST


# ---- features that vadx did not compute ----

UNKNOWN = ("sampling.tail", "transform.jpeg", "weights", "flow")
IMPORTED = Imported(layout="rtfm", release="ucf", known=tuple(f for f in RECIPE_FACTS if f not in UNKNOWN))


def test_imported_features_never_share_a_set_with_computed_ones() -> None:
    imported = replace(FIRST, imported=replace(IMPORTED, known=None))
    others = [
        replace(FIRST, imported=one)
        for one in (
            IMPORTED,
            replace(IMPORTED, layout="mgfn"),
            replace(IMPORTED, release="xd"),
            replace(IMPORTED, known=("weights",)),
            replace(IMPORTED, crop="3"),
            replace(IMPORTED, segmentation="sultani"),
        )
    ]
    assert len({FIRST.digest, imported.digest, *(one.digest for one in others)}) == 8
    for one in (imported, *others):
        assert Recipe.from_mapping(json.loads(one.canonical_json())) == one


def test_what_is_known_is_kept_sorted_and_once() -> None:
    assert set(IMPORTED.unknown) == set(UNKNOWN)
    assert replace(IMPORTED, known=("weights", "flow", "weights")) == replace(IMPORTED, known=("flow", "weights"))
    assert replace(IMPORTED, known=None).unknown == ()
    assert replace(IMPORTED, known=()).unknown == RECIPE_FACTS
    with pytest.raises(RecipeError, match=r"names 'weight', and a recipe states sampling\.clip_length"):
        replace(IMPORTED, known=("weight",))


def test_a_fact_that_recipes_state_later_is_unknown_of_what_was_imported_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = replace(FIRST, imported=IMPORTED)
    digest = before.digest
    monkeypatch.setattr(recipe_module, "RECIPE_FACTS", (*RECIPE_FACTS, "transform.shutter"))
    again = Recipe.from_mapping(json.loads(before.canonical_json()))
    assert "transform.shutter" in again.unknown
    assert again.digest == digest


def test_a_recipe_is_stated_without_its_stand_ins() -> None:
    stated = replace(FIRST, imported=IMPORTED).stated()
    assert (stated["weights"], stated["sampling"]["tail"], stated["flow"]) == ("unknown",) * 3
    # Left out of the canonical mapping, where it would mean that there is none.
    assert stated["transform"]["jpeg"] == "unknown"
    assert stated["sampling"]["clip_length"] == 16
    assert FIRST.stated() == FIRST.to_mapping()


def test_facts_are_all_that_a_recipe_states() -> None:
    stated = replace(FIRST, imported=replace(IMPORTED, known=())).stated()
    assert stated.pop("imported")["known"] == []
    leaves = [leaf for value in stated.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert set(leaves) == {"unknown"}
    assert len(leaves) == len(RECIPE_FACTS)


def test_only_a_recipe_that_is_known_whole_can_be_computed() -> None:
    assert FIRST.computed() is FIRST
    stated = replace(FIRST, imported=replace(IMPORTED, known=None))
    assert stated.computed() == replace(FIRST, numerics=recipe_module.NUMERICS)
    with pytest.raises(RecipeError, match=r"sampling\.tail, transform\.jpeg, weights, flow unknown.*--preset NAME"):
        replace(FIRST, imported=IMPORTED).computed()
    with pytest.raises(RecipeError, match="crop mean alone was kept"):
        replace(FIRST, imported=replace(IMPORTED, known=None, crop="mean")).computed()
    with pytest.raises(RecipeError, match="its rows are segments by sultani"):
        replace(FIRST, imported=replace(IMPORTED, known=None, segmentation="sultani")).computed()
