"""Options become a recipe, and a recipe becomes a name and a sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..extract.backbones import find_backbone, find_preset
from ..extract.weights import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..extract.presets import Preset
    from ..features.recipe import Recipe

DEFAULT_BACKBONE = "i3d"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user changed in a preset; None leaves the preset's value."""

    clip_length: int | None = None
    clip_stride: int | None = None
    crops: str | None = None
    tail: str | None = None
    precision: str | None = None
    dtype: str | None = None

    def named(self) -> dict[str, Any]:
        """Give the changed values by name."""
        pairs = ((name, getattr(self, name)) for name in self.__slots__)
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
        parts = [recipe.network.name, _weights_label(self), f"{sampling.clip_length}x{sampling.clip_stride}"]
        parts.append(recipe.transform.crops)
        parts += [recipe.precision] if recipe.precision != "fp32" else []
        return "-".join(parts).lower()


def choose_preset(backbone: str | None, preset: str | None) -> Preset:
    """Give the preset that ``--backbone`` and ``--preset`` mean together.

    Raises
    ------
    UsageError
        if one is unknown, or they contradict each other.
    """
    if preset is None:
        return find_backbone(backbone or DEFAULT_BACKBONE).default_preset
    chosen = find_preset(preset)
    if backbone is not None and backbone != chosen.backbone:
        msg = f"--preset {preset} is for backbone {chosen.backbone}; leave --backbone {backbone} out"
        raise UsageError(msg)
    return chosen


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
    from ..extract.library import weights_digest
    from ..extract.presets import recipe_of

    spec = find_backbone(preset.backbone)
    wanted = weights or preset.weights
    if wanted is None:
        msg = f"no trained weights are known for {spec.name}: give --weights FILE, or --weights random"
        raise UsageError(msg)
    if wanted in WEIGHTS and WEIGHTS[wanted].backbone != spec.name:
        msg = f"the weights {wanted} are for backbone {WEIGHTS[wanted].backbone}, not {spec.name}"
        raise UsageError(msg)
    changed = overrides.named()
    base = apply_overrides(recipe_of(preset, "random:0"), changed)
    if base.sampling.clip_length < spec.min_clip_length:
        msg = f"{spec.title} needs clips of at least {spec.min_clip_length} frames, got {base.sampling.clip_length}"
        raise UsageError(msg)
    digest, name = weights_digest(wanted)
    recipe = replace(base, weights=digest)
    suffixes = [f"{key}={value}" for key, value in changed.items()]
    suffixes += [f"weights={wanted}"] if weights is not None and weights != preset.weights else []
    return Plan(recipe, spec.name, "+".join([preset.name, *suffixes]), wanted, name)


def apply_overrides(recipe: Recipe, changed: Mapping[str, Any]) -> Recipe:
    """Change a recipe's values by option name. Raises `RecipeError` for values that contradict each other."""
    sampling, transform = recipe.sampling, recipe.transform
    sampling = replace(sampling, **{k: changed[k] for k in ("clip_length", "clip_stride", "tail") if k in changed})
    if changed.get("crops", transform.crops) != transform.crops:
        order = None if changed["crops"] == "center" else transform.crop_order or "tv"
        transform = replace(transform, crops=changed["crops"], crop_order=order)
    rest = {k: changed[k] for k in ("precision", "dtype") if k in changed}
    return replace(recipe, sampling=sampling, transform=transform, **rest)


def _weights_label(plan: Plan) -> str:
    if plan.weights_name is not None:
        return WEIGHTS[plan.weights_name].label
    digest = plan.recipe.weights
    return digest.replace(":", "") if digest.startswith("random:") else digest[:8]


def prose(recipe: Recipe) -> str:
    """Say what a recipe does, in one line."""
    sampling, transform = recipe.sampling, recipe.transform
    size = transform.resize if isinstance(transform.resize, int) else "x".join(map(str, transform.resize))
    resized = f"short side {size}" if isinstance(transform.resize, int) else f"{size} (height x width)"
    crops = {
        "center": f"centre {transform.crop}",
        "five": f"five crops of {transform.crop} ({transform.crop_order} order)",
        "ten": f"ten crops of {transform.crop} ({transform.crop_order} order)",
    }[transform.crops]
    network = find_title(recipe.network.name)
    every = f"{sampling.clip_length} frames every {sampling.clip_stride}"
    step = f", each {sampling.frame_step}th frame" if sampling.frame_step > 1 else ""
    steps = ["frames", f"{resized} ({transform.kernel})", crops, _range(recipe), f"{network}, {every}{step}"]
    extras = [f"tail {sampling.tail}"]
    extras += [f"{recipe.precision} arithmetic"] if recipe.precision != "fp32" else []
    extras += [f"stored as {recipe.dtype}"] if recipe.dtype != "float32" else []
    extras += ["rotation ignored"] if recipe.decode.rotation == "ignore" else []
    return f"{' -> '.join(steps)} ({', '.join(extras)})"


def find_title(network: str) -> str:
    """Give a network's title; its bare name if the package that brought it is gone."""
    try:
        return find_backbone(network).title
    except UsageError:
        return network


def _range(recipe: Recipe) -> str:
    transform = recipe.transform
    order = transform.channel_order.upper()
    low, high = transform.offset, 255 * transform.scale + transform.offset
    span = f"[{low:g}, {high:g}] {order}"
    if transform.mean == (0.0, 0.0, 0.0) and transform.std == (1.0, 1.0, 1.0):
        return span
    mean = "/".join(f"{value:g}" for value in transform.mean)
    std = "/".join(f"{value:g}" for value in transform.std)
    return f"{span} - {mean}, / {std}"
