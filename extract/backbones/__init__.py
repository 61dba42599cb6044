"""The table of networks, and how a name becomes a row of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from ...errors import UsageError
from ..presets import PRESET_GROUPS, Preset
from .spec import BackboneSpec, HasHead
from .table import BUILT_IN

__all__ = [
    "ENTRY_POINT_GROUP",
    "BackboneSpec",
    "HasHead",
    "backbones",
    "class_names",
    "find_backbone",
    "find_preset",
    "find_presets",
    "unloadable_plugins",
]

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "vadx.backbones"
TIMM_PREFIX = "tsn:timm/"
"""``tsn:timm/NAME`` is timm's network NAME, frame by frame; its only preset is ``timm-NAME``."""
TIMM_PRESET_PREFIX = "timm-"


@lru_cache(maxsize=1)
def backbones() -> Mapping[str, BackboneSpec]:
    """Give every network by name: vadx's own, then those that installed packages register.

    Raises
    ------
    UsageError
        if a plug-in takes a name that is taken, or gives something else than a `BackboneSpec`.
    """
    table = {spec.name: spec for spec in BUILT_IN}
    for point, spec in _load_plugins()[0]:
        if not isinstance(spec, BackboneSpec) or spec.name in table or not spec.presets:
            origin = point.dist.name if point.dist else point.value
            msg = f"the plug-in {point.name!r} of {origin} is not a new BackboneSpec with a preset; remove or update it"
            raise UsageError(msg)
        table[spec.name] = spec
    return table


def unloadable_plugins() -> Mapping[str, str]:
    """Give the plug-ins that cannot be loaded, with the reason of each."""
    return _load_plugins()[1]


@lru_cache(maxsize=1)
def _load_plugins() -> tuple[list[tuple[EntryPoint, object]], dict[str, str]]:
    # Once a process: another's package may take long to import, or say something while it is.
    loaded, refused = [], {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded.append((point, point.load()))
        except Exception as error:  # noqa: BLE001  # another's package may raise anything, and ours must still work
            refused[point.name] = str(error) or type(error).__name__
            log.warning("the plug-in %s cannot be loaded (%s); it is left out", point.name, refused[point.name])
    return loaded, refused


def find_backbone(name: str) -> BackboneSpec:
    """Give the network of this name. Raises `UsageError` naming those that exist."""
    if name.startswith(TIMM_PREFIX):
        return _timm_spec(name.removeprefix(TIMM_PREFIX))
    table = backbones()
    if name not in table:
        msg = f"there is no backbone {name!r}; there are: {', '.join(table)}, and {TIMM_PREFIX}NAME"
        raise UsageError(msg)
    return table[name]


def _timm_spec(name: str) -> BackboneSpec:
    # Imported late: it imports torch, and other networks do not need timm.
    from .timm_nets import timm_spec

    return timm_spec(name)


def find_presets(name: str) -> tuple[Preset, ...]:
    """Give the preset of this name, or those of the group of this name. Raises `UsageError` as `find_preset`."""
    return tuple(find_preset(member) for member in PRESET_GROUPS.get(name, (name,)))


def find_preset(name: str) -> Preset:
    """Give the preset of this name. Raises `UsageError` naming those that exist."""
    table = {preset.name: preset for spec in backbones().values() for preset in spec.presets}
    if name not in table and name.startswith(TIMM_PRESET_PREFIX):
        return _timm_spec(name.removeprefix(TIMM_PRESET_PREFIX)).default_preset
    if name not in table:
        msg = f"there is no preset {name!r}; there are: {', '.join(table)}"
        raise UsageError(msg)
    return table[name]


def class_names(classes: str) -> list[str]:
    """Give the names of a network's classes, in the order of its scores.

    ``kinetics400`` and ``imagenet1k`` are torchvision's, of R2Plus1D_18_Weights.KINETICS400_V1 and
    ResNet50_Weights.IMAGENET1K_V2.
    """
    if classes == "kinetics400":
        from torchvision.models.video import R2Plus1D_18_Weights

        return list(R2Plus1D_18_Weights.KINETICS400_V1.meta["categories"])
    if classes == "imagenet1k":
        from torchvision.models import ResNet50_Weights

        return list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
    msg = f"there are no class names for {classes!r}"
    raise UsageError(msg)
