"""I3D on ResNet-50, with and without non-local blocks: Wang et al., "Non-local Neural Networks", CVPR 2018.

Numbers: facebookresearch/video-nonlocal-net, lib/models/resnet_video_org.py (the 32x2 models), resnet_helper.py,
nonlocal_helper.py and lib/core/config.py. Names: Tushar-N/pytorch-resnet3d, models/resnet.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..key_maps import KeyMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

BN_EPS = 1.0000001e-5
DIM = 2048
MIN_CLIP_LENGTH = 7
"""The stem halves time rounding up, two pools rounding down, and one step must be left."""

_LAYERS: tuple[tuple[int, int, str], ...] = ((64, 1, "ttt"), (128, 2, "t-t-"), (256, 2, "t-t-t-"), (512, 2, "-t-"))
"""Channels inside a block, stride of the first block in space, and for each block whether its first convolution spans
three frames (t) or one (-)."""

_NON_LOCAL = {(2, 1), (2, 3), (3, 1), (3, 3), (3, 5)}
"""(layer, block) after which the non-local network mixes all positions."""


def _norm(channels: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, eps=BN_EPS)


class NonLocal(nn.Module):
    """Adds to every position a mean over all positions, weighted by likeness (embedded Gaussian)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.bn = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        fewer = F.max_pool3d(x, (1, 2, 2))
        query, key, value = (
            part.flatten(2).transpose(1, 2) for part in (self.theta(x), self.phi(fewer), self.g(fewer))
        )
        likeness = torch.bmm(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
        mixed = torch.bmm(likeness.softmax(-1), value)
        spread = mixed.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        added: Tensor = x + self.bn(self.out(spread))
        return added


class Bottleneck(nn.Module):
    """One residual block: a convolution over 3x1x1 or 1x1x1, one over 1x3x3, one over 1x1x1."""

    def __init__(self, channels_in: int, inner: int, stride: int, *, spans_time: bool, non_local: bool):
        super().__init__()
        channels_out = 4 * inner
        frames = 3 if spans_time else 1
        self.conv1 = nn.Conv3d(channels_in, inner, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)
        self.bn1 = _norm(inner)
        self.conv2 = nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn2 = _norm(inner)
        self.conv3 = nn.Conv3d(inner, channels_out, 1, bias=False)
        self.bn3 = _norm(channels_out)
        self.downsample: nn.Module | None = None
        if channels_in != channels_out or stride != 1:
            shortcut = nn.Conv3d(channels_in, channels_out, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut, _norm(channels_out))
        self.nl = NonLocal(channels_out) if non_local else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y = F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)
        return y if self.nl is None else self.nl(y)


class I3dResNet50(nn.Module):
    """Maps clips ``(B, 3, T, H, W)``, T at least 7, to the global average pool ``(B, 2048)``."""

    def __init__(self, num_classes: int = 400, non_local: bool = False):
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv3d(3, 64, (5, 7, 7), 2, (2, 3, 3), bias=False)
        self.bn1 = _norm(64)
        channels = 64
        for number, (inner, stride, blocks) in enumerate(_LAYERS, start=1):
            layer = nn.Sequential()
            for index, mark in enumerate(blocks):
                mixes = non_local and (number, index) in _NON_LOCAL
                step = stride if index == 0 else 1
                layer.append(Bottleneck(channels, inner, step, spans_time=mark == "t", non_local=mixes))
                channels = 4 * inner
            self.add_module(f"layer{number}", layer)
        if num_classes:
            self.fc = nn.Linear(DIM, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(clips)), inplace=True)
        x = self.get_submodule("layer1")(F.max_pool3d(x, (2, 3, 3), 2))
        x = F.max_pool3d(x, (2, 1, 1))
        for name in ("layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        return x.mean((2, 3, 4))

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, 2048)``."""
        scores: Tensor = self.fc(features)
        return scores


class NonLocalI3dResNet50(I3dResNet50):
    """`I3dResNet50` with the five non-local blocks of the paper's NL I3D."""

    def __init__(self, num_classes: int = 400):
        super().__init__(num_classes, non_local=True)


_BLOB = re.compile(
    r"res(?P<stage>[2-5])_(?P<block>\d+)_branch(?:(?P<short>1)|2(?P<conv>[abc]))(?P<bn>_bn)?_(?P<kind>w|s|b|rm|riv)"
)
_NON_LOCAL_BLOB = re.compile(
    r"nonlocal_conv(?P<stage>[34])_(?P<block>\d+)_(?P<part>theta|phi|g|out|bn)_(?P<kind>w|s|b|rm|riv)"
)
_KINDS = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_OTHER_BLOBS = {
    "conv1_w": "conv1.weight",
    "res_conv1_bn_s": "bn1.weight",
    "res_conv1_bn_b": "bn1.bias",
    "res_conv1_bn_rm": "bn1.running_mean",
    "res_conv1_bn_riv": "bn1.running_var",
    "pred_w": "fc.weight",
    "pred_b": "fc.bias",
}
# State of the training that a Caffe2 checkpoint keeps beside the parameters (lib/utils/checkpoints.py).
_TRAINING = re.compile(r".*_momentum|lr|model_iter")


def _own_name(blob: str) -> str:
    """Give our name of a Caffe2 blob, or the blob's own if it is none of this network's."""
    if found := _BLOB.fullmatch(blob):
        block = f"layer{int(found['stage']) - 1}.{found['block']}"
        kind = _KINDS[found["kind"]]
        if found["short"]:
            return f"{block}.downsample.{1 if found['bn'] else 0}.{kind}"
        return f"{block}.{'bn' if found['bn'] else 'conv'}{' abc'.index(found['conv'])}.{kind}"
    if found := _NON_LOCAL_BLOB.fullmatch(blob):
        return f"layer{int(found['stage']) - 1}.{found['block']}.nl.{found['part']}.{_KINDS[found['kind']]}"
    return _OTHER_BLOBS.get(blob, blob)


def _from_caffe2(blobs: Mapping[str, Any]) -> dict[str, Tensor]:
    kept = {name: value for name, value in blobs.items() if not _TRAINING.fullmatch(name)}
    return {_own_name(name): torch.as_tensor(value) for name, value in kept.items()}


KEY_MAPS = (
    KeyMap(
        name="caffe2",
        matches=lambda keys: "res2_0_branch2a_w" in keys,
        convert=_from_caffe2,
        source="facebookresearch/video-nonlocal-net, lib/models/resnet_helper.py and nonlocal_helper.py",
    ),
)
