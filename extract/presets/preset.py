"""What a preset is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...features.recipe import Flow, Network, Recipe, Sampling, Transform


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe with a name and its sources, for the weights named ``weights`` (None: only random ones exist).

    ``sources`` says where each number comes from, in the words: what -> source. ``disputed`` lists what
    publications contradict each other about, or do not say. ``mean_cube`` and ``flow_weights`` name rows of the
    table of weights, whose sha256 the recipe gets in ``transform.mean_cube`` and ``flow.weights``.
    """

    name: str
    backbone: str
    network: Network
    sampling: Sampling
    transform: Transform
    weights: str | None
    note: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    disputed: tuple[str, ...] = ()
    flow: Flow | None = None
    mean_cube: str | None = None
    flow_weights: str | None = None


def recipe_of(preset: Preset, weights_sha256: str) -> Recipe:
    """Give the preset's recipe for the weights with this sha256, or ``random:SEED``."""
    return Recipe(
        sampling=preset.sampling,
        transform=preset.transform,
        network=preset.network,
        weights=weights_sha256,
        flow=preset.flow,
    )


SCALE_TO_TWO = 2.0 / 255.0
"""With offset -1: pixels 0..255 become -1..1."""

SCALE_TO_ONE = 1.0 / 255.0
"""Pixels 0..255 become 0..1."""

TAIL_OF_VADX = "vadx: every frame belongs to a clip, so that scores reach the last frame"
"""The source of the tail rule in presets whose publication states none."""
