"""SlowFast, Slow, I3D-ResNet50, X3D and CSN as facebookresearch/pytorchvideo has them, pytorchvideo/models/hub.

Every feature is the input of the classifier ``proj`` of the last block, averaged over the positions that the head's
pool leaves, which is what the network gives with an identity for ``proj`` and no activation. On the networks' own
clips that pool leaves one position, at larger crops it slides with stride one; smaller inputs, which the published
heads refuse, are averaged as a whole. X3D's head pools between its two last convolutions, so that its feature comes
after the second and its ReLU.

In eval mode X3D's own head turns scores into probabilities before it averages them; `FeatureNetwork.head` gives the
scores. pytorchvideo is imported when a network is built, and its `transforms`, which no torchvision since 0.17 can
import, never.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .foreign import FeatureNetwork, FittingAvgPool3d

if TYPE_CHECKING:
    from torch import Tensor

SLOWFAST_ALPHA = 4
"""The fast pathway has four frames for one of the slow: pytorch/hub, facebookresearch_pytorchvideo_slowfast.md."""


def pack_pathways(clips: Tensor) -> list[Tensor]:
    """Give the slow and the fast pathway's frames ``(B, 3, T / 4, H, W)`` and ``(B, 3, T, H, W)``.

    The slow frames lie evenly from the first to the last, each rounded down: `PackPathway` of pytorchvideo's hub
    example. Computed on the CPU, for the same frames on every device.
    """
    num_frames = clips.shape[2]
    index = torch.linspace(0, num_frames - 1, num_frames // SLOWFAST_ALPHA).long()
    return [clips.index_select(2, index.to(clips.device)), clips]


NETWORKS: Mapping[str, Any] = MappingProxyType(
    {
        "slowfast_r50": pack_pathways,
        "slow_r50": None,
        "i3d_r50": None,
        "csn_r101": None,
        "x3d_xs": None,
        "x3d_s": None,
        "x3d_m": None,
        "x3d_l": None,
    }
)
"""Name of a builder of pytorchvideo.models.hub -> what makes the network's input of a clip."""


def build(name: str, num_classes: int = 400) -> FeatureNetwork:
    """Build a network of `NETWORKS` with arbitrary weights. It maps clips ``(B, 3, T, H, W)`` to ``(B, dim)``."""
    with warnings.catch_warnings():
        # The import scripts functions of its own, of which torch disapproves.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
        from pytorchvideo.models import hub

    network = getattr(hub, name)(pretrained=False, model_num_class=num_classes or 1)
    last = len(network.blocks) - 1
    head = network.blocks[last]
    classifier: nn.Module = head.proj
    head.proj, head.activation = nn.Identity(), None
    for block in network.blocks[last - 1 :]:
        _fit_pools(block)
    return FeatureNetwork(
        network,
        classifier if num_classes else None,
        f"blocks.{last}.proj",
        num_classes=num_classes,
        prepare=NETWORKS[name],
    )


def _fit_pools(block: nn.Module) -> None:
    for parent in list(block.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AvgPool3d):
                setattr(parent, name, FittingAvgPool3d(child))


slowfast_r50 = partial(build, "slowfast_r50")
slow_r50 = partial(build, "slow_r50")
i3d_r50 = partial(build, "i3d_r50")
csn_r101 = partial(build, "csn_r101")
x3d_xs = partial(build, "x3d_xs")
x3d_s = partial(build, "x3d_s")
x3d_m = partial(build, "x3d_m")
x3d_l = partial(build, "x3d_l")
