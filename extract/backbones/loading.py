"""A network with the weights of a checkpoint, whatever published layout it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checkpoints import load_state, num_classes, read_checkpoint
from ..key_maps import to_own_names, unwrap
from .spec import BackboneSpec, load_attribute

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from ..key_maps import KeyMap


def layouts_of(spec: BackboneSpec) -> tuple[KeyMap, ...]:
    """Give the published layouts of a network's checkpoints, beside its own names."""
    layouts: tuple[KeyMap, ...] = load_attribute(spec.key_maps) if spec.key_maps else ()
    return layouts


def network_from_file(
    spec: BackboneSpec, switches: Mapping[str, Any], path: Path, *, trusted_torchscript: bool = False
) -> nn.Module:
    """Build a network and load a checkpoint file into it.

    Raises
    ------
    WeightsError
        if the file is broken, unsafe, or of another network: missing, unknown and mis-shaped keys are named.
    """
    network = spec.build(switches)
    state = read_checkpoint(path, maps=layouts_of(spec), trusted_torchscript=trusted_torchscript)
    return _load(spec, switches, network, state, str(path))


def network_from_state(
    spec: BackboneSpec, switches: Mapping[str, Any], state: Mapping[str, Tensor], origin: str
) -> nn.Module:
    """Build a network and load a state dict of any known layout into it. Raises as `network_from_file`."""
    network = spec.build(switches)
    named = to_own_names(unwrap(state), layouts_of(spec))
    return _load(spec, switches, network, named, origin)


def _load(
    spec: BackboneSpec, switches: Mapping[str, Any], network: nn.Module, state: Mapping[str, Tensor], origin: str
) -> nn.Module:
    # Features do not need the classifier: it may be of another data set, or left out.
    classes = num_classes(state, spec.head)
    if classes is not None and classes != getattr(network, "num_classes", None):
        network = spec.build(switches, num_classes=classes)
    load_state(network, state, origin)
    return network
