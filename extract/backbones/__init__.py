"""The table of networks, and how a name becomes a network with weights."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...errors import UsageError
from ..presets import PRESETS, Preset

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "vadx.backbones"


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One row of the table of networks. An entry point of `ENTRY_POINT_GROUP` gives one of these.

    ``factory`` is ``module:attribute`` of a callable that takes the recipe's switches as keywords and returns the
    network: a module that maps normalised clips ``(B, 3, T, H, W)`` to features ``(B, dim)``, and that may have a
    ``head`` from features to scores of the classes in ``classes``. ``presets`` is not empty; the first is the default.
    """

    name: str
    title: str
    dim: int
    min_clip_length: int
    factory: str
    presets: tuple[Preset, ...]
    licence: str
    classes: str | None = None

    @property
    def default_preset(self) -> Preset:
        return self.presets[0]

    def build(self, switches: Mapping[str, Any]) -> nn.Module:
        """Make the network with arbitrary weights.

        Raises
        ------
        UsageError
            for a switch that the network does not have.
        """
        module, _, attribute = self.factory.partition(":")
        factory = cast("Callable[..., nn.Module]", getattr(importlib.import_module(module), attribute))
        try:
            return factory(**switches)
        except TypeError as error:
            msg = f"backbone {self.name} cannot be built with {dict(switches)}: {error}"
            raise UsageError(msg) from error


class HasHead(Protocol):
    """A network with a classifier on top of its features."""

    def head(self, features: Tensor) -> Tensor: ...


_BUILT_IN = (
    BackboneSpec(
        name="i3d",
        title="I3D Inception-v1 RGB",
        dim=1024,
        min_clip_length=9,
        factory="vadx.extract.backbones.i3d:InceptionI3d",
        presets=(PRESETS["kinetics-i3d"], PRESETS["xdviolence-i3d"]),
        licence="Apache-2.0",
        classes="kinetics400",
    ),
    BackboneSpec(
        name="r2plus1d",
        title="R(2+1)D-18",
        dim=512,
        min_clip_length=1,
        factory="vadx.extract.backbones.r2plus1d:R2Plus1D18",
        presets=(PRESETS["kinetics-r2plus1d"],),
        licence="BSD-3-Clause",
        classes="kinetics400",
    ),
)


@lru_cache(maxsize=1)
def backbones() -> Mapping[str, BackboneSpec]:
    """Give every network by name: vadx's own, then those that installed packages register.

    Raises
    ------
    UsageError
        if a plug-in takes a name that is taken, or gives something else than a `BackboneSpec`.
    """
    table = {spec.name: spec for spec in _BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = point.load()
        except Exception as error:  # noqa: BLE001  # another's package may raise anything, and ours must still work
            log.warning("the plug-in %s cannot be loaded (%s); it is left out", point.name, error)
            continue
        if not isinstance(spec, BackboneSpec) or spec.name in table or not spec.presets:
            origin = point.dist.name if point.dist else point.value
            msg = f"the plug-in {point.name!r} of {origin} is not a new BackboneSpec with a preset; remove or update it"
            raise UsageError(msg)
        table[spec.name] = spec
    return table


def find_backbone(name: str) -> BackboneSpec:
    """Give the network of this name. Raises `UsageError` naming those that exist."""
    table = backbones()
    if name not in table:
        msg = f"there is no backbone {name!r}; there are: {', '.join(table)}"
        raise UsageError(msg)
    return table[name]


def find_preset(name: str) -> Preset:
    """Give the preset of this name. Raises `UsageError` naming those that exist."""
    table = {preset.name: preset for spec in backbones().values() for preset in spec.presets}
    if name not in table:
        msg = f"there is no preset {name!r}; there are: {', '.join(table)}"
        raise UsageError(msg)
    return table[name]


def class_names(classes: str) -> list[str]:
    """Give the names of a network's classes, in the order of its scores.

    ``kinetics400`` are torchvision's, R2Plus1D_18_Weights.KINETICS400_V1.
    """
    if classes != "kinetics400":
        msg = f"there are no class names for {classes!r}"
        raise UsageError(msg)
    from torchvision.models.video import R2Plus1D_18_Weights

    return list(R2Plus1D_18_Weights.KINETICS400_V1.meta["categories"])
