"""Random numbers for networks of other libraries, and the way of a published file into one of ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vadx.extract.backbones import find_backbone
from vadx.extract.backbones.loading import network_from_file
from vadx.extract.transforms import Normalizer, crop_frames, resize
from vadx.features.recipe import Transform

TOLERANCE = 1e-5
"""Relative L2 in fp32: the same operators, but tensors lie in memory in another order, in which sums are taken."""

_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)


def random_network(build: Callable[[], Any], seed: int = 5) -> Any:
    """Build a network whose every number counts: norms and biases are no ones and zeros, and no layer fades."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, _NORMS):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.1)
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network


def load(backbone: str, published: Any, folder: Path, **switches: Any) -> Any:
    """Write what a publisher would have written, and load it as a user's checkpoint is loaded."""
    path = folder / "published.pth"
    torch.save(published, path)
    return network_from_file(find_backbone(backbone), switches, path).eval().requires_grad_(False)


def clips(*shape: int) -> Tensor:
    """Give normalised clips or images as the engine gives them: channels last in memory.

    They are of large shapes with a little noise: features hardly tell one piece of noise from another.
    """
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn((*shape[:2], *[3] * (len(shape) - 2)), generator=random) * 2
    mode = "trilinear" if len(shape) == 5 else "bilinear"
    shapes = F.interpolate(coarse, size=shape[2:], mode=mode, align_corners=True)
    numbers = shapes + torch.randn(shape, generator=random) / 4
    return numbers.contiguous(memory_format=torch.channels_last_3d if len(shape) == 5 else torch.channels_last)


def relative_l2(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def check_features(got: Tensor, expected: Tensor, dim: int) -> None:
    """Check that features are the reference's, and that they tell the clips of a batch apart."""
    assert got.shape == expected.shape == (len(got), dim)
    assert relative_l2(got, expected) <= TOLERANCE
    for one, next_one in itertools.pairwise(got):
        assert relative_l2(one, next_one) > 1e-3


def preprocess(frames: Tensor, transform: Transform) -> Tensor:
    """Resize, crop and normalise frames ``(T, 3, H, W)`` to images ``(T, 3, size, size)`` as a recipe says."""
    resized = resize(frames, transform.resize, kernel=transform.kernel, interpolation=transform.interpolation)
    (cropped,) = crop_frames(resized, transform)
    return Normalizer(transform)(cropped, torch.zeros(len(frames), dtype=torch.int64))
