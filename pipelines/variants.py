"""Recipes that differ from one in a single cause: what somebody else may have done with the same videos.

The values are those that the field's public extractors use, and every value of the recipe's closed choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import RecipeError
from ..extract import weights as weights_cache
from ..extract.crops import CENTER_ROUNDING, CROP_ORDERS
from ..extract.presets import presets_of
from ..extract.sampling import TAIL_POLICIES
from ..features.recipe import CropOrder, Interpolation, Kernel, Recipe, Temporal

if TYPE_CHECKING:
    from ..extract.backbones import BackboneSpec

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"[0, 1]": (1 / 255, 0.0), "[-1, 1]": (2 / 255, -1.0), "[0, 255]": (1.0, 0.0)}
)
"""Name -> scale and offset of pixels."""

Triple = tuple[float, float, float]

_ZEROS: Triple = (0.0, 0.0, 0.0)
_ONES: Triple = (1.0, 1.0, 1.0)

MEANS: Mapping[str, tuple[float, Triple, Triple]] = MappingProxyType(
    {
        "ImageNet's": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "torchvision's of Kinetics": (1 / 255, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "0.45 / 0.225": (1 / 255, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        "114.75 / 57.375": (1.0, (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)),
        "CLIP's": (1 / 255, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "123/117/104 of red, green, blue": (1.0, (123.0, 117.0, 104.0), _ONES),
        "128/117/104 of red, green, blue": (1.0, (128.0, 117.0, 104.0), _ONES),
        "101.41/97.66/90.25 of red, green, blue": (1.0, (101.41, 97.66, 90.25), _ONES),
    }
)
"""Name -> scale, mean and std in the order red, green, blue: torchvision, SlowFast, video-nonlocal-net, openai/CLIP,
Caffe's TSN, tsn-pytorch, DavideA/c3d-pytorch."""

MIN_CROP_SHARE = 0.55
"""A crop is at least that part of the short side in every published recipe; published sizes for other crops are not
tried."""

SIDES = (112, 128, 182, 224, 226, 232, 240, 256, 257, 288, 320, 340, 342)
SIZES = ((112, 112), (128, 171), (224, 224), (240, 320), (256, 256), (256, 340))
RATES = (15.0, 24.0, 25.0, 30000 / 1001, 30.0)
OFFSETS = (1, 2, 4, 8, 16)
CLIP_LENGTHS = (8, 16, 32)
JPEGS: tuple[str | int, ...] = ("ffmpeg", 75, 95)
SEEDS = range(4)
"""Seeds that are tried where weights are random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What variants differ from: a recipe, its network, and what the weights are loaded from."""

    recipe: Recipe
    spec: BackboneSpec
    weights: str


Part = Literal["recipe", "sampling", "transform", "network", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another value of one cause: fields of a part of the recipe, other weights, frames left out, a crop picked."""

    value: str
    part: Part = "recipe"
    fields: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    skip: int = 0
    pick: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One recipe to extract with. ``skip`` frames at the video's start are left out.

    ``pick`` is the crop that is compared, None for all of them. ``value`` and ``own`` say in words what it and the
    origin have.
    """

    cause: str
    value: str
    own: str
    recipe: Recipe
    weights: str
    skip: int = 0
    pick: int | None = None


@dataclass(frozen=True, slots=True)
class CauseRow:
    """``own`` says what a recipe has, ``others`` what it may be confused with."""

    own: Callable[[Recipe], str]
    others: Callable[[Origin], Iterator[Change]]
    whole_crops: bool = False
    needs_end: bool = False


def _span(recipe: Recipe) -> str:
    transform = recipe.transform
    pair = (transform.scale, transform.offset)
    low, high = transform.offset, 255 * transform.scale + transform.offset
    return next((name for name, numbers in RANGES.items() if numbers == pair), f"[{low:g}, {high:g}]")


def _normalisation(recipe: Recipe) -> str:
    transform = recipe.transform
    if transform.mean_cube is not None:
        return "the mean cube"
    if transform.mean == _ZEROS and transform.std == _ONES:
        return "none"
    numbers = ("/".join(f"{value:g}" for value in triple) for triple in (transform.mean, transform.std))
    return " and ".join(numbers)


def _kernel(recipe: Recipe) -> str:
    kernel, interpolation = recipe.transform.kernel, recipe.transform.interpolation
    return kernel if interpolation == "bilinear" else f"{kernel} {interpolation}"


def size_words(size: int | Sequence[int]) -> str:
    """Say what ``transform.resize`` means."""
    return f"short side {size}" if isinstance(size, int) else f"{size[0]}x{size[1]} (height x width), aspect ignored"


def _channel_orders(origin: Origin) -> Iterator[Change]:
    transform = origin.recipe.transform
    if origin.recipe.flow is not None:
        return
    other = "bgr" if transform.channel_order == "rgb" else "rgb"
    yield Change(value=other.upper(), part="transform", fields={"channel_order": other})
    turned = {"channel_order": other, "mean": transform.mean[::-1], "std": transform.std[::-1]}
    yield Change(value=f"{other.upper()}, mean and std turned too", part="transform", fields=turned)


def _ranges(_origin: Origin) -> Iterator[Change]:
    for name, (scale, offset) in RANGES.items():
        yield Change(value=name, part="transform", fields={"scale": scale, "offset": offset})


def _means(origin: Origin) -> Iterator[Change]:
    transform = origin.recipe.transform
    if origin.recipe.flow is not None:
        return
    bare: dict[str, Any] = {"mean": _ZEROS, "mean_cube": None}
    yield Change(value="no mean", part="transform", fields=bare)
    yield Change(value="no mean, no std", part="transform", fields={**bare, "std": _ONES})
    for name, (scale, offset) in RANGES.items():
        plain = {**bare, "std": _ONES, "scale": scale, "offset": offset}
        yield Change(value=f"none, pixels in {name}", part="transform", fields=plain)
    turn = -1 if transform.channel_order == "bgr" else 1
    for name, (scale, mean, std) in MEANS.items():
        numbers = {"scale": scale, "offset": 0.0, "mean": mean[::turn], "std": std[::turn], "mean_cube": None}
        yield Change(value=name, part="transform", fields=numbers)


def _kernels(_origin: Origin) -> Iterator[Change]:
    for kernel in get_args(Kernel):
        yield Change(value=kernel, part="transform", fields={"kernel": kernel, "interpolation": "bilinear"})
    for interpolation in get_args(Interpolation):
        value = f"pil {interpolation}"
        yield Change(value=value, part="transform", fields={"kernel": "pil", "interpolation": interpolation})


def _sizes(origin: Origin) -> Iterator[Change]:
    transform = origin.recipe.transform
    short = transform.resize if isinstance(transform.resize, int) else min(transform.resize)
    near = (short, transform.crop, round(transform.crop * 8 / 7))
    # Both 4:3 and square, as extractors that forget the aspect make them.
    made = ((short, short), (short, short * 4 // 3), (short, round(short * 4 / 3)))
    largest = transform.crop / MIN_CROP_SHARE
    published = [size for size in (*SIDES, *SIZES) if (size if isinstance(size, int) else min(size)) <= largest]
    sizes: tuple[int | tuple[int, int], ...] = (*near, *made, *published)
    for size in dict.fromkeys(sizes):
        yield Change(value=size_words(size), part="transform", fields={"resize": size})


def _pre_sizes(_origin: Origin) -> Iterator[Change]:
    yield Change(value="none", part="transform", fields={"pre_resize": None})
    yield Change(value="240x320 first", part="transform", fields={"pre_resize": (240, 320)})


_PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")


def _crop_places(origin: Origin) -> Iterator[Change]:
    if origin.recipe.transform.crops != "center" or origin.recipe.flow is not None:
        return
    ten = {"crops": "ten", "crop_order": "caffe"}
    for number in (9, *range(4), *range(5, 9)):
        value = f"{_PLACES[number % 5]}{', mirrored' if number >= 5 else ''}"
        yield Change(value=value, part="transform", fields=ten, pick=number)


def _roundings(_origin: Origin) -> Iterator[Change]:
    for name in CENTER_ROUNDING:
        yield Change(value=name, part="transform", fields={"center_rounding": name})


def _crop_orders(origin: Origin) -> Iterator[Change]:
    if origin.recipe.transform.crops == "center":
        return
    for name in get_args(CropOrder):
        yield Change(value=name, part="transform", fields={"crop_order": name})


def _jpegs(origin: Origin) -> Iterator[Change]:
    if origin.recipe.flow is not None:
        return
    yield Change(value="none", part="transform", fields={"jpeg": None})
    for jpeg in JPEGS:
        value = "as FFmpeg writes it" if jpeg == "ffmpeg" else f"quality {jpeg}"
        yield Change(value=value, part="transform", fields={"jpeg": jpeg})


def _offsets(origin: Origin) -> Iterator[Change]:
    sampling = origin.recipe.sampling
    for skip in sorted({*OFFSETS, sampling.clip_stride // 2, sampling.clip_span // 2} - {0}):
        if skip < max(sampling.clip_stride, 2):
            yield Change(value=f"clips {skip} frame{'s' * (skip > 1)} later", skip=skip)


def _strides(origin: Origin) -> Iterator[Change]:
    sampling = origin.recipe.sampling
    stride = sampling.clip_stride
    for other in dict.fromkeys((sampling.clip_span, max(1, stride // 2), stride * 2)):
        yield Change(value=f"every {other} frames", part="sampling", fields={"clip_stride": other})


def _lengths(_origin: Origin) -> Iterator[Change]:
    for length in CLIP_LENGTHS:
        yield Change(value=f"{length} frames", part="sampling", fields={"clip_length": length})


def _steps(_origin: Origin) -> Iterator[Change]:
    for step in (1, 2, 4):
        yield Change(value=f"{step} apart", part="sampling", fields={"frame_step": step})


def _tails(_origin: Origin) -> Iterator[Change]:
    for name in TAIL_POLICIES:
        yield Change(value=name, part="sampling", fields={"tail": name})


def _rate(recipe: Recipe) -> str:
    return "the video's own" if recipe.sampling.fps is None else f"{recipe.sampling.fps:.5g} frames/s"


def _rates(_origin: Origin) -> Iterator[Change]:
    yield Change(value="the video's own", part="sampling", fields={"fps": None})
    for rate in RATES:
        yield Change(value=f"{rate:.5g} frames/s", part="sampling", fields={"fps": rate})


def _rotations(_origin: Origin) -> Iterator[Change]:
    for name in ("apply", "ignore"):
        yield Change(value=name, part="decode", fields={"rotation": name})


def _temporals(origin: Origin) -> Iterator[Change]:
    if origin.spec.frame_wise:
        for name in get_args(Temporal):
            yield Change(value=name, part="network", fields={"temporal": name})


def _switches(recipe: Recipe) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(recipe.network.switches.items())) or "the defaults"


def _other_switches(origin: Origin) -> Iterator[Change]:
    own = origin.recipe.network.switches
    for name, values in origin.spec.switches.items():
        for value in values:
            chosen = origin.spec.chosen_switches({**own, name: value})
            yield Change(value=f"{name}={value}", part="network", fields={"switches": chosen})


def _other_weights(origin: Origin) -> Iterator[Change]:
    if origin.weights.partition(":")[0] == "random":
        for seed in SEEDS:
            yield Change(value=f"random:{seed}", fields={"weights": f"random:{seed}"}, weights=f"random:{seed}")
    for entry in weights_cache.entries_of(origin.spec.name):
        record = weights_cache.record_of(entry.name) if entry.kind == "network" else None
        if record is not None:
            fields = {"weights": record.published_sha256}
            yield Change(value=entry.name, fields=fields, weights=entry.name)


def _presets(origin: Origin) -> Iterator[Change]:
    for preset in presets_of(origin.spec.name) or origin.spec.presets:
        if preset.mean_cube is None and preset.flow_weights is None:
            switches = origin.spec.chosen_switches(preset.network.switches)
            fields = {
                "sampling": preset.sampling,
                "transform": preset.transform,
                "network": replace(preset.network, switches=switches),
                "flow": preset.flow,
            }
            yield Change(value=preset.name, fields=fields)


CAUSES: Mapping[str, CauseRow] = MappingProxyType(
    {
        "channel order": CauseRow(lambda r: r.transform.channel_order.upper(), _channel_orders),
        "range": CauseRow(_span, _ranges),
        "mean and std": CauseRow(_normalisation, _means),
        "resize kernel": CauseRow(_kernel, _kernels),
        "size": CauseRow(lambda r: size_words(r.transform.resize), _sizes),
        "size before": CauseRow(
            lambda r: "none" if r.transform.pre_resize is None else size_words(r.transform.pre_resize), _pre_sizes
        ),
        "crop": CauseRow(lambda _: "centre", _crop_places),
        "centre's rounding": CauseRow(lambda r: r.transform.center_rounding, _roundings),
        "crop order": CauseRow(lambda r: str(r.transform.crop_order), _crop_orders, whole_crops=True),
        "JPEG": CauseRow(lambda r: "none" if r.transform.jpeg is None else str(r.transform.jpeg), _jpegs),
        "switch": CauseRow(_switches, _other_switches),
        "frames of a network of frames": CauseRow(lambda r: r.network.temporal, _temporals),
        "clip offset": CauseRow(lambda _: "clips from the first frame on", _offsets),
        "clip stride": CauseRow(lambda r: f"every {r.sampling.clip_stride} frames", _strides),
        "clip length": CauseRow(lambda r: f"{r.sampling.clip_length} frames", _lengths),
        "frame step": CauseRow(lambda r: f"{r.sampling.frame_step} apart", _steps),
        "frame rate": CauseRow(_rate, _rates),
        "tail": CauseRow(lambda r: r.sampling.tail, _tails, needs_end=True),
        "rotation": CauseRow(lambda r: r.decode.rotation, _rotations),
        "weights": CauseRow(lambda r: r.weights if r.weights[:7] == "random:" else r.weights[:12], _other_weights),
        "preset": CauseRow(lambda _: "the recipe", _presets),
    }
)
"""Cause -> what a recipe has of it, and what else it could be."""

END_CAUSES = tuple(name for name, row in CAUSES.items() if row.needs_end)
"""The causes that show in the last clips of a video alone."""


def centre_only(recipe: Recipe) -> tuple[Recipe, int | None]:
    """Give a recipe of the centre crop alone, and its place among the recipe's crops: what costs a tenth.

    Recipes whose crops are averaged, and those of an order with a centre of its own, stay; their place is None.
    """
    transform = recipe.transform
    if transform.crop_order is None or transform.crop_mean:
        return recipe, None
    order = CROP_ORDERS[transform.crop_order]
    if order.offsets != "margin":
        return recipe, None
    reduced = replace(recipe, transform=replace(transform, crops="center", crop_order=None))
    return reduced, order.places.index("center")


def own_variant(origin: Origin) -> Variant:
    """Give the variant that changes nothing."""
    return Variant(cause="none", value="", own="", recipe=origin.recipe, weights=origin.weights)


def variants_of(
    whole: Origin, centre: Origin, *, causes: Sequence[str] | None = None, more: Sequence[Variant] = ()
) -> list[Variant]:
    """Give each recipe once that differs from the origin's in one cause, in the order of `CAUSES`, then ``more``.

    ``centre`` is ``whole`` with `centre_only`'s recipe; causes that are about several crops start from ``whole``.
    """
    found: dict[tuple[str, int, int | None], Variant] = {}
    for name in CAUSES if causes is None else causes:
        start = whole if CAUSES[name].whole_crops else centre
        for change in CAUSES[name].others(start):
            variant = _applied(name, change, start)
            if variant is not None:
                found.setdefault(_key(variant), variant)
    for variant in more:
        narrow = variant if whole.recipe is centre.recipe else replace(variant, recipe=centre_only(variant.recipe)[0])
        found.setdefault(_key(narrow), narrow)
    own = {(origin.recipe.digest, 0, None) for origin in (whole, centre)}
    return [variant for key, variant in found.items() if key not in own]


def _key(variant: Variant) -> tuple[str, int, int | None]:
    return variant.recipe.digest, variant.skip, variant.pick


def _applied(cause: str, change: Change, origin: Origin) -> Variant | None:
    row = CAUSES[cause]
    with suppress(RecipeError):
        recipe = _changed(origin.recipe, change)
        if cause == "preset":
            recipe, _ = centre_only(recipe) if origin.recipe.transform.crops == "center" else (recipe, None)
        origin.spec.check(recipe)
        return Variant(
            cause=cause,
            value=change.value,
            own=row.own(origin.recipe),
            recipe=recipe,
            weights=change.weights or origin.weights,
            skip=change.skip,
            pick=change.pick,
        )
    return None


def _changed(recipe: Recipe, change: Change) -> Recipe:
    if change.part == "recipe":
        return replace(recipe, **change.fields)
    part = replace(getattr(recipe, change.part), **change.fields)
    return replace(recipe, **{change.part: part})
