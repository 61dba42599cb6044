"""What a row of the table of networks says."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...errors import RecipeError, UsageError
from ..presets.preset import Preset

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...features.recipe import Recipe

Switch = str | float | int | bool


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One row of the table of networks. An entry point of `backbones.ENTRY_POINT_GROUP` gives one of these.

    ``factory`` is ``module:attribute`` of a callable that takes the recipe's switches as keywords and returns the
    network: a module that maps normalised clips ``(B, channels, T, H, W)``, or with ``frame_wise`` images
    ``(B, channels, H, W)``, to features ``(B, dim)``, and that may have a ``head`` from features to scores of the
    classes in ``classes``. ``presets`` is not empty; the first is the default.

    ``switches`` lists the values that each published switch can take, the default first; an empty tuple allows any.
    ``head`` is the prefix of the classifier's keys in the network's state dict: a checkpoint may lack them, or have
    another number of classes. ``key_maps`` is ``module:attribute`` of a tuple of `checkpoints.KeyMap`, the published
    layouts that load beside the network's own. ``clip_lengths`` are the only ones possible, any from
    ``min_clip_length`` on if empty; ``clip_multiple`` must divide a clip's length. ``input_size`` is the only crop
    possible, None if any is. ``extra`` names the extra of vadx that brings the library it needs. ``source`` is the
    publication and the code whose network this is.
    """

    name: str
    title: str
    dim: int
    min_clip_length: int
    factory: str
    presets: tuple[Preset, ...]
    licence: str
    classes: str | None = None
    channels: int = 3
    frame_wise: bool = False
    switches: Mapping[str, tuple[Switch, ...]] = field(default_factory=dict)
    head: str = ""
    key_maps: str | None = None
    clip_lengths: tuple[int, ...] = ()
    clip_multiple: int = 1
    input_size: int | None = None
    extra: str | None = None
    source: str = ""

    @property
    def default_preset(self) -> Preset:
        return self.presets[0]

    def build(self, switches: Mapping[str, Any], *, num_classes: int | None = None) -> nn.Module:
        """Make the network with arbitrary weights, and a classifier of ``num_classes``; None leaves its own.

        Raises
        ------
        UsageError
            for a switch that the network does not have, or a value that it does not take.
        """
        self.check_switches(switches)
        factory = cast("Callable[..., nn.Module]", load_attribute(self.factory))
        try:
            return factory(**switches, **({} if num_classes is None else {"num_classes": num_classes}))
        except TypeError as error:
            msg = f"backbone {self.name} cannot be built with {dict(switches)}: {error}"
            raise UsageError(msg) from error
        except ImportError as error:
            if self.extra is None:
                raise
            msg = f"backbone {self.name} needs {error.name}: pip install 'vadx[{self.extra}]'"
            raise UsageError(msg) from error

    def check_switches(self, switches: Mapping[str, Any]) -> None:
        """Raise `UsageError` for a switch that the network does not have, or a value that it does not take."""
        for name, value in switches.items():
            if name not in self.switches:
                has = f"its switches are: {', '.join(self.switches)}" if self.switches else "it has none"
                msg = f"backbone {self.name} has no switch {name!r}; {has}"
                raise UsageError(msg)
            choices = self.switches[name]
            if choices and (value, type(value)) not in [(choice, type(choice)) for choice in choices]:
                told = ", ".join(map(str, choices))
                msg = f"backbone {self.name}: {name} is one of {told}; got {value!r}"
                raise UsageError(msg)

    def chosen_switches(self, switches: Mapping[str, Switch]) -> dict[str, Switch]:
        """Give the switches that are not at their default, so that saying a default makes no other recipe."""
        return {name: value for name, value in switches.items() if self.switches.get(name, ())[:1] != (value,)}

    def check(self, recipe: Recipe) -> None:
        """Raise `RecipeError` unless the network can eat what the recipe gives."""
        sampling, temporal = recipe.sampling, recipe.network.temporal
        given = 3 if recipe.flow is None else recipe.flow.channels
        if given != self.channels:
            msg = f"{self.title} takes {self.channels} channels, and the recipe gives {given}"
            raise RecipeError(msg)
        if self.frame_wise != (temporal != "clip"):
            wanted = "single frames: temporal is mean, first or middle" if self.frame_wise else "whole clips"
            msg = f"{self.title} takes {wanted}; got temporal {temporal}"
            raise RecipeError(msg)
        if self.input_size not in (None, recipe.transform.crop):
            msg = f"{self.title} takes crops of {self.input_size}, got {recipe.transform.crop}"
            raise RecipeError(msg)
        if not self.frame_wise:
            self._check_clip_length(sampling.clip_length)

    def _check_clip_length(self, length: int) -> None:
        if self.clip_lengths and length not in self.clip_lengths:
            msg = f"{self.title} takes clips of {' or '.join(map(str, self.clip_lengths))} frames, got {length}"
            raise RecipeError(msg)
        if length < self.min_clip_length:
            msg = f"{self.title} needs clips of at least {self.min_clip_length} frames, got {length}"
            raise RecipeError(msg)
        if length % self.clip_multiple:
            msg = f"{self.title} takes clips of a multiple of {self.clip_multiple} frames, got {length}"
            raise RecipeError(msg)


class HasHead(Protocol):
    """A network with a classifier on top of its features."""

    def head(self, features: Tensor) -> Tensor: ...


def load_attribute(place: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
