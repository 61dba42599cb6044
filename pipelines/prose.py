"""A recipe and a preset in words."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..extract.backbones import find_backbone
from ..extract.presets import recipe_of
from ..extract.sampling import TAIL_POLICIES
from ..features.layouts.facts import facts_of

if TYPE_CHECKING:
    from ..extract.presets import Preset
    from ..features.recipe import Flow, Recipe, Transform

_WIDTH = 110


def prose(recipe: Recipe) -> str:
    """Say what a recipe does, in one line; of imported features only what is known of it."""
    if recipe.imported is not None:
        return _imported(recipe)
    steps = ["frames"]
    steps += [] if recipe.noise is None else [f"noise {recipe.noise}"]
    steps += [] if recipe.sampling.fps is None else [f"nearest frames at {recipe.sampling.fps:g} frames/s"]
    steps += [*_sizes(recipe.transform)]
    steps += [] if recipe.flow is None else [_flow(recipe.flow)]
    steps += [_crops(recipe.transform), _range(recipe), _clips(recipe)]
    extras = [f"tail {recipe.sampling.tail}"]
    extras += [f"{name}={value}" for name, value in sorted(recipe.network.switches.items())]
    extras += ["crops averaged"] if recipe.transform.crop_mean else []
    extras += [f"{recipe.precision} arithmetic"] if recipe.precision != "fp32" else []
    extras += [f"stored as {recipe.dtype}"] if recipe.dtype != "float32" else []
    extras += ["rotation ignored"] if recipe.decode.rotation == "ignore" else []
    return f"{' -> '.join(steps)} ({', '.join(extras)})"


def _imported(recipe: Recipe) -> str:
    origin = recipe.imported
    if origin is None:
        return prose(recipe)
    name = f"imported as {origin.layout} from {origin.release!r}"
    kept = f", crop {origin.crop} alone" if origin.crop else ""
    kept += f", rows are segments by {origin.segmentation}" if origin.segmentation else ""
    if not recipe.unknown:
        return f"{name}{kept}; made with: {prose(replace(recipe, imported=None))}"
    # Of what was left at its implied value a person learns nothing.
    facts = {fact: value for fact, value in facts_of(recipe).items() if fact not in ("decode", "numerics")}
    bare = {fact: value for fact, value in facts.items() if value not in (None, False, 1, "clip", {})}
    short = {fact: "network" if fact == "network.name" else fact.rpartition(".")[2] for fact in bare}
    known = ", ".join(f"{short[fact]} {_plain(value)}" for fact, value in bare.items())
    return f"{name}{kept}; known: {known}; the rest is unknown"


def _plain(value: object) -> str:
    return "/".join(f"{one:g}" for one in value) if isinstance(value, list) else str(value)


def find_title(network: str) -> str:
    """Give a network's title; its bare name if the package that brought it is gone."""
    try:
        return find_backbone(network).title
    except UsageError:
        return network


def describe_preset(preset: Preset) -> str:
    """Say in paragraphs what a preset does, where its numbers come from, and what is disputed about it."""
    spec = find_backbone(preset.backbone)
    recipe = recipe_of(preset, "random:0")
    tail = TAIL_POLICIES[recipe.sampling.tail].meaning
    lines = [
        f"{preset.name}: {spec.title}, features of {spec.dim} numbers",
        "",
        *_folded(prose(recipe)),
        *_folded(f"Tail: {tail}."),
        f"Weights: {preset.weights or 'none are known; give --weights FILE or --weights random'}",
    ]
    lines += [f"Mean: {preset.mean_cube}"] if preset.mean_cube else []
    lines += [f"Flow network: {preset.flow_weights}"] if preset.flow_weights else []
    lines += ["", *_folded(preset.note)] if preset.note else []
    lines += ["", "Sources"]
    for what, source in preset.sources.items():
        lines += _folded(f"{what}: {source}", indent="  ")
    if preset.disputed:
        lines += ["", "Disputed"]
        for point in preset.disputed:
            lines += _folded(point, indent="  ")
    return "\n".join(lines)


def _folded(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _sizes(transform: Transform) -> list[str]:
    kernel = (
        transform.kernel if transform.interpolation == "bilinear" else f"{transform.kernel} {transform.interpolation}"
    )
    steps = [] if transform.pre_resize is None else [f"{_by(transform.pre_resize)} ({transform.kernel})"]
    if transform.jpeg is not None:
        steps.append("JPEG as FFmpeg writes it" if transform.jpeg == "ffmpeg" else f"JPEG of quality {transform.jpeg}")
    size = transform.resize
    return [*steps, f"short side {size} ({kernel})" if isinstance(size, int) else f"{_by(size)} ({kernel})"]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _flow(flow: Flow) -> str:
    rounded = {
        "none": "not rounded",
        "round_128": f"rounded to 128 + {255 / (2 * flow.bound):g} x",
        "round_255": f"rounded to 255 (x + {flow.bound:g}) / {2 * flow.bound:g}",
    }[flow.quantization]
    stack = f", stacks of {flow.stack}" if flow.stack > 1 else ""
    return f"flow by {flow.method}, at most {flow.bound:g} pixels, {rounded}{stack}"


def _crops(transform: Transform) -> str:
    return {
        "center": f"centre {transform.crop}",
        "five": f"five crops of {transform.crop} ({transform.crop_order} order)",
        "ten": f"ten crops of {transform.crop} ({transform.crop_order} order)",
    }[transform.crops]


def _clips(recipe: Recipe) -> str:
    sampling = recipe.sampling
    every = f"{sampling.clip_length} frames every {sampling.clip_stride}"
    step = f", {sampling.frame_step} apart" if sampling.frame_step > 1 else ""
    rule = {"clip": "", "mean": "mean of ", "first": "the first of ", "middle": "the middle one of "}
    return f"{find_title(recipe.network.name)}, {rule[recipe.network.temporal]}{every}{step}"


def _range(recipe: Recipe) -> str:
    transform = recipe.transform
    low, high = transform.offset, 255 * transform.scale + transform.offset
    span = f"[{low:g}, {high:g}]" + ("" if recipe.flow else f" {transform.channel_order.upper()}")
    if transform.mean_cube is not None:
        return f"{span} - mean cube"
    if transform.mean == (0.0, 0.0, 0.0) and transform.std == (1.0, 1.0, 1.0):
        return span
    mean = "/".join(f"{value:g}" for value in transform.mean)
    std = "/".join(f"{value:g}" for value in transform.std)
    return f"{span} - {mean}, / {std}"
