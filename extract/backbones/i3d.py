"""I3D, Inception-v1 inflated to three dimensions, as published with its Kinetics weights.

Layout and names: piergiaj/pytorch-i3d, pytorch_i3d.py. Numbers: google-deepmind/kinetics-i3d, i3d.py (BatchNorm
eps 1e-3 without gamma; TensorFlow's SAME padding). Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BN_EPS = 1e-3
DIM = 1024
MIN_CLIP_LENGTH = 9
"""Three halvings of time, each rounded up, must leave the two steps that the average pool spans."""

_MIXED: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Name -> input channels, and output channels of b0, b1a, b1b, b2a, b2b, b3b."""


def same_padding(sides: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Give TensorFlow's SAME padding for `torch.nn.functional.pad`: an odd pixel goes late, right and bottom."""
    pads: list[int] = []
    for side, k, s in zip(reversed(sides), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-side // s) - 1) * s + k - side, 0)
        pads += [total // 2, total - total // 2]
    return pads


class Unit3d(nn.Module):
    """Convolution, BatchNorm and ReLU with SAME padding."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int, int] = (1, 1, 1), stride: int = 1):
        super().__init__()
        self._kernel, self._stride = kernel, (stride,) * 3
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        pads = same_padding(x.shape[-3:], self._kernel, self._stride)
        padded = F.pad(x, pads) if any(pads) else x
        return F.relu(self.bn(self.conv3d(padded)), inplace=True)


class SamePool3d(nn.Module):
    """Max pooling with SAME padding. Its input follows a ReLU, so that padding with zeros pads with the minimum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads = same_padding(x.shape[-3:], self._kernel, self._stride)
        return F.max_pool3d(F.pad(x, pads) if any(pads) else x, self._kernel, self._stride)


class Mixed(nn.Module):
    """One Inception block: four branches, joined along channels."""

    def __init__(self, channels_in: int, out: tuple[int, int, int, int, int, int]):
        super().__init__()
        self.b0 = Unit3d(channels_in, out[0])
        self.b1a = Unit3d(channels_in, out[1])
        self.b1b = Unit3d(out[1], out[2], (3, 3, 3))
        self.b2a = Unit3d(channels_in, out[3])
        self.b2b = Unit3d(out[3], out[4], (3, 3, 3))
        self.b3a = SamePool3d((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3d(channels_in, out[5])

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The classifier: a 1x1x1 convolution, which on an averaged feature is a linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv3d = nn.Conv3d(DIM, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.conv3d.weight.flatten(1), self.conv3d.bias)


class InceptionI3d(nn.Module):
    """Maps clips ``(B, channels, T, H, W)``, T at least 9, to features ``(B, 1024)``.

    The feature is the average pool (2, 7, 7) of the last block, averaged over what time and space are left;
    `head` maps features to class scores, which equals the published network's averaged logits.
    """

    def __init__(self, num_classes: int = 400, channels: int = 3):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3d(channels, 64, (7, 7, 7), 2)
        self.MaxPool3d_2a_3x3 = SamePool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(64, 64)
        self.Conv3d_2c_3x3 = Unit3d(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = SamePool3d((1, 3, 3), (1, 2, 2))
        self._add_mixed("Mixed_3b", "Mixed_3c")
        self.MaxPool3d_4a_3x3 = SamePool3d((3, 3, 3), (2, 2, 2))
        self._add_mixed("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")
        self.MaxPool3d_5a_2x2 = SamePool3d((2, 2, 2), (2, 2, 2))
        self._add_mixed("Mixed_5b", "Mixed_5c")
        self._blocks = list(self._modules)
        self.logits = Logits(num_classes)

    def _add_mixed(self, *names: str) -> None:
        for name in names:
            self.add_module(name, Mixed(*_MIXED[name]))

    def forward(self, clips: Tensor) -> Tensor:
        x = clips
        for name in self._blocks:
            x = self._modules[name](x)  # type: ignore[misc]  # None only for modules that were taken out
        return F.avg_pool3d(x, (2, 7, 7), stride=1).mean((2, 3, 4))

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, 1024)``."""
        scores: Tensor = self.logits(features)
        return scores
