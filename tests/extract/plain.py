"""What the tests of networks share: random checkpoints whose activations stay alive, and how far two tensors are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vadx.extract.backbones import find_backbone
from vadx.extract.backbones.loading import layouts_of
from vadx.extract.checkpoints import load_state
from vadx.extract.key_maps import to_own_names, unwrap

VECTOR_PARTS = ("weight", "bias", "running_mean", "running_var")


def relative_l2(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def conv(name: str, *shape: int, bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Give the keys and shapes of a convolution or a linear layer."""
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Give the keys and shapes of a BatchNorm, without its counter."""
    return {f"{name}.{part}": (channels,) for part in VECTOR_PARTS}


def filled(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Fill a checkpoint: kernels scaled so that a ReLU network neither dies nor explodes, BatchNorm as after training.

    Keys are those of torch, or end as Caffe2's do (``_w``, ``_b``, ``_s``, ``_rm``, ``_riv``).
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.empty(shape)
        if len(shape) > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("running_var", "_riv", ".weight", "_s")):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, 0.2, generator=generator)
        state[key] = value
    return state


def converted(backbone: str, tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert a published layout to our names, by the first of the backbone's layouts that recognises it."""
    layout = next(layout for layout in layouts_of(find_backbone(backbone)) if layout.matches(tree.keys()))
    return layout.convert(tree)


def loaded(backbone: str, state: Mapping[str, Tensor], *, num_classes: int | None = None, **switches: Any) -> nn.Module:
    """Build a network of the table and load a state dict of our names into it."""
    network = find_backbone(backbone).build(switches, num_classes=num_classes)
    load_state(network, state, "the test")
    return network.eval().requires_grad_(False)


def recognised(backbone: str, tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert a checkpoint's tree to our names as reading a file does."""
    spec = find_backbone(backbone)
    return to_own_names(unwrap(tree), layouts_of(spec))
