"""Options become a recipe, and a recipe becomes a name and a sentence."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, get_args

from ..errors import RecipeError, UsageError
from ..extract.backbones import find_backbone, find_presets
from ..extract.backbones.spec import Switch
from ..extract.weights import WEIGHTS
from ..features.recipe import Noise, NoiseKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..extract.presets import Preset
    from ..features.recipe import Recipe

DEFAULT_BACKBONE = "i3d"


_SAMPLING = ("clip_length", "clip_stride", "frame_step", "fps", "tail")
_TRANSFORM = ("kernel", "jpeg")
_RECIPE = ("precision", "dtype", "noise")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user changed in a preset; None leaves the preset's value."""

    clip_length: int | None = None
    clip_stride: int | None = None
    frame_step: int | None = None
    fps: float | None = None
    tail: str | None = None
    crops: str | None = None
    crop_order: str | None = None
    kernel: str | None = None
    jpeg: str | int | None = None
    temporal: str | None = None
    precision: str | None = None
    dtype: str | None = None
    noise: Noise | None = None
    switches: tuple[tuple[str, Switch], ...] = ()

    def named(self) -> dict[str, Any]:
        """Give the changed values by name, without the switches."""
        pairs = ((name, getattr(self, name)) for name in self.__slots__ if name != "switches")
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with the names under which a person knows it. ``preset_name`` shows what was overridden."""

    recipe: Recipe
    backbone: str
    preset_name: str
    weights: str
    weights_name: str | None

    @property
    def slug(self) -> str:
        """The readable part of the feature set's folder name."""
        recipe, sampling = self.recipe, self.recipe.sampling
        parts = [re.sub(r"[^a-z0-9_.]+", "-", recipe.network.name.lower()), _weights_label(self)]
        parts.append(f"{sampling.clip_length}x{sampling.clip_stride}")
        parts += [f"{sampling.fps:g}fps"] if sampling.fps is not None else []
        parts.append(recipe.transform.crops)
        parts += [recipe.precision] if recipe.precision != "fp32" else []
        parts += [f"noise{recipe.noise.seed}"] if recipe.noise is not None else []
        return "-".join(parts).lower()


def choose_presets(backbones: Sequence[str], presets: Sequence[str]) -> list[Preset]:
    """Give the presets that ``--backbone`` and ``--preset`` mean together, each once.

    Raises
    ------
    UsageError
        if one is unknown, or they contradict each other.
    """
    if not presets:
        return [find_backbone(name).default_preset for name in dict.fromkeys(backbones or [DEFAULT_BACKBONE])]
    chosen = [preset for name in dict.fromkeys(presets) for preset in find_presets(name)]
    for preset in chosen:
        if backbones and preset.backbone not in backbones:
            wrong = " and ".join(f"--backbone {name}" for name in backbones)
            msg = f"--preset {preset.name} is for backbone {preset.backbone}; leave {wrong} out"
            raise UsageError(msg)
    for name in backbones:
        if name not in {preset.backbone for preset in chosen}:
            msg = f"--backbone {name} has no part in --preset {' --preset '.join(presets)}; leave one of them out"
            raise UsageError(msg)
    return list({preset.name: preset for preset in chosen}.values())


def make_plans(presets: Sequence[Preset], overrides: Overrides, weights: str | None) -> list[Plan]:
    """Give a plan for each preset. Weights of the table, and switches, go to the networks that they are for.

    Raises
    ------
    UsageError
        as `make_plan`, and for weights or switches that fit none of the networks.
    WeightsError
        if the weights are not on this machine.
    """
    specs = [find_backbone(preset.backbone) for preset in presets]
    for name, _ in overrides.switches:
        if not any(name in spec.switches for spec in specs):
            known = sorted({switch for spec in specs for switch in spec.switches})
            has = f"the switches are: {', '.join(known)}" if known else "there are no switches"
            msg = f"--switch {name}: {', '.join(spec.name for spec in specs)} has no such switch; {has}"
            raise UsageError(msg)
    chosen: list[str | None] = [weights] * len(presets)
    if weights is not None and len(presets) > 1 and weights.partition(":")[0] != "random":
        owner = WEIGHTS[weights].backbone if weights in WEIGHTS else None
        if owner not in {spec.name for spec in specs}:
            msg = f"--weights {weights} belongs to no single one of these networks; give them one run each"
            raise UsageError(msg)
        chosen = [weights if spec.name == owner else None for spec in specs]
    plans = []
    for preset, spec, own in zip(presets, specs, chosen, strict=True):
        switches = tuple(pair for pair in overrides.switches if pair[0] in spec.switches)
        plans.append(make_plan(preset, replace(overrides, switches=switches), own))
    return plans


def make_plan(preset: Preset, overrides: Overrides, weights: str | None) -> Plan:
    """Give the recipe of a preset with overrides.

    ``weights`` is a name, a file, ``random[:SEED]``, or None for those that the preset was made for.

    Raises
    ------
    UsageError
        for a combination that the network cannot run.
    WeightsError
        if the weights are not on this machine.
    """
    from ..extract.library import complete_recipe, weights_digest
    from ..extract.presets import recipe_of

    spec = find_backbone(preset.backbone)
    wanted = weights or preset.weights
    if wanted is None:
        msg = f"no trained weights are known for {spec.name}: give --weights FILE, or --weights random"
        raise UsageError(msg)
    if wanted in WEIGHTS and WEIGHTS[wanted].backbone != spec.name:
        msg = f"the weights {wanted} are for backbone {WEIGHTS[wanted].backbone or '(none)'}, not {spec.name}"
        raise UsageError(msg)
    spec.check_switches(dict(overrides.switches))
    # What cannot run is refused before the weights are looked for.
    spec.check(apply_overrides(recipe_of(preset, "random:0"), overrides))
    digest, name = weights_digest(wanted)
    recipe = apply_overrides(complete_recipe(preset, digest), overrides)
    switches = spec.chosen_switches(recipe.network.switches)
    recipe = replace(recipe, network=replace(recipe.network, switches=switches))
    suffixes = [f"{key}={value}" for key, value in _changes(complete_recipe(preset, digest), overrides)]
    suffixes += [f"weights={wanted}"] if weights is not None and weights != preset.weights else []
    return Plan(recipe, spec.name, "+".join([preset.name, *suffixes]), wanted, name)


def _changes(base: Recipe, overrides: Overrides) -> list[tuple[str, Any]]:
    """Give the overrides that change the recipe: saying what it says already renames nothing."""
    spec = find_backbone(base.network.name)
    changes = []
    for key, value in overrides.named().items():
        part: object = base.transform
        if key in _SAMPLING:
            part = base.sampling
        elif key in _RECIPE:
            part = base
        elif key == "temporal":
            part = base.network
        if getattr(part, key) != value:
            changes.append((key, value))
    for name, switch in overrides.switches:
        default = (*spec.switches[name], None)[0]
        if base.network.switches.get(name, default) != switch:
            changes.append((name, switch))
    return changes


def apply_overrides(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Change a recipe's values by option name. Raises `RecipeError` for values that contradict each other."""
    changed = overrides.named()
    sampling, transform, network = recipe.sampling, recipe.transform, recipe.network
    sampling = replace(sampling, **{k: changed[k] for k in _SAMPLING if k in changed})
    crops = changed.get("crops", transform.crops)
    order = None if crops == "center" else changed.get("crop_order") or transform.crop_order or "tv"
    if crops == "center" and "crop_order" in changed:
        msg = "--crop-order orders several crops: add --crops five or --crops ten"
        raise RecipeError(msg)
    if order == "tv" and transform.crop_order != "tv":
        # torchvision's order is torchvision's ten_crop, which rounds so.
        transform = replace(transform, center_rounding="round")
    transform = replace(transform, crops=crops, crop_order=order, **{k: changed[k] for k in _TRANSFORM if k in changed})
    network = replace(
        network,
        temporal=changed.get("temporal", network.temporal),
        switches={**network.switches, **dict(overrides.switches)},
    )
    rest = {k: changed[k] for k in _RECIPE if k in changed}
    return replace(recipe, sampling=sampling, transform=transform, network=network, **rest)


def parse_switch(text: str) -> tuple[str, Switch]:
    """Read ``NAME=VALUE``: a whole number, a number, true, false, or a word. Raises `UsageError` for anything else."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        msg = f"--switch is NAME=VALUE, as in pool5=ports; got {text!r}"
        raise UsageError(msg)
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return name, kind(value)
    return name, value


def parse_jpeg(text: str) -> str | int:
    """Read ``--jpeg``: ``ffmpeg``, or a quality. Raises `UsageError` for anything else."""
    if text == "ffmpeg":
        return text
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 100:
        return int(text)
    msg = f"--jpeg is ffmpeg, or a quality from 1 to 100; got {text!r}"
    raise UsageError(msg)


def parse_noise(text: str) -> Noise:
    """Read ``--noise``: ``KIND:SEED``, and ``:FRAMES`` of a span. Raises `UsageError` for anything else."""
    kinds = "|".join(get_args(NoiseKind))
    found = re.fullmatch(rf"({kinds}):(\d{{1,18}})(?::(\d{{1,9}}))?", text, re.ASCII)
    if found is None:
        msg = f"--noise is {kinds}:SEED, or {kinds}:SEED:FRAMES, as in wsal:0; got {text!r}"
        raise UsageError(msg)
    kind, seed, frames = found.groups()
    chosen: dict[str, Any] = {} if frames is None else {"span_frames": int(frames)}
    return Noise(kind=cast("NoiseKind", kind), seed=int(seed), **chosen)


def _weights_label(plan: Plan) -> str:
    if plan.weights_name is not None:
        return WEIGHTS[plan.weights_name].label
    digest = plan.recipe.weights
    return digest.replace(":", "") if digest.startswith("random:") else digest[:8]
