"""BN-Inception as temporal segment networks use it: Wang et al., "Temporal Segment Networks", ECCV 2016.

Ioffe and Szegedy, "Batch Normalization", 2015, in the Caffe variant of yjxiong/tensorflow-model-zoo.torch,
bninception/bn_inception.yaml. Names: Cadene/pretrained-models.pytorch, pretrainedmodels/models/bninception.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..key_maps import KeyMap, rename

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

DIM = 1024
INPUT_SIZE = 224

_Block = tuple[int, int | None, tuple[int, int], tuple[int, int], int | None]

_BLOCKS: dict[str, _Block] = {
    "3a": (192, 64, (64, 64), (64, 96), 32),
    "3b": (256, 64, (64, 96), (64, 96), 64),
    "3c": (320, None, (128, 160), (64, 96), None),
    "4a": (576, 224, (64, 96), (96, 128), 128),
    "4b": (576, 192, (96, 128), (96, 128), 128),
    "4c": (576, 160, (128, 160), (128, 160), 128),
    "4d": (608, 96, (128, 192), (160, 192), 128),
    "4e": (608, None, (128, 192), (192, 256), None),
    "5a": (1056, 352, (192, 320), (160, 224), 128),
    "5b": (1024, 352, (192, 320), (192, 224), 128),
}
"""Block -> input channels; output channels of 1x1, of 3x3 (reduce, 3x3), of double_3x3 (reduce, both 3x3), of
pool_proj. A block without 1x1 and pool_proj halves its input and hands the pooled input on."""


class BnInception(nn.Module):
    """Maps images ``(B, channels, 224, 224)`` to the global average pool ``(B, 1024)``.

    Three channels are BGR in 0-255 minus a mean; ten are five flows, x before y. Pools round sizes up, as Caffe does.
    """

    def __init__(self, num_classes: int = 1000, channels: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self._add("conv1_7x7_s2", channels, 64, 7, 2)
        self._add("conv2_3x3_reduce", 64, 64)
        self._add("conv2_3x3", 64, 192, 3)
        for name in _BLOCKS:
            self._add_block(name)
        if num_classes:
            self.last_linear = nn.Linear(DIM, num_classes)

    def _add(self, name: str, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(channels_out))

    def _add_block(self, name: str) -> None:
        channels_in, plain, (reduce, single), (double_reduce, double), pooled = _BLOCKS[name]
        stride = 1 if plain else 2
        at = f"inception_{name}"
        if plain:
            self._add(f"{at}_1x1", channels_in, plain)
        self._add(f"{at}_3x3_reduce", channels_in, reduce)
        self._add(f"{at}_3x3", reduce, single, 3, stride)
        self._add(f"{at}_double_3x3_reduce", channels_in, double_reduce)
        self._add(f"{at}_double_3x3_1", double_reduce, double, 3)
        self._add(f"{at}_double_3x3_2", double, double, 3, stride)
        if pooled:
            self._add(f"{at}_pool_proj", channels_in, pooled)

    def _run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)
        return x

    def _block(self, name: str, x: Tensor) -> Tensor:
        _, plain, _, _, pooled = _BLOCKS[name]
        at = f"inception_{name}"
        branches = [self._run(x, f"{at}_1x1")] if plain else []
        branches.append(self._run(x, f"{at}_3x3_reduce", f"{at}_3x3"))
        doubles = (f"{at}_double_3x3_reduce", f"{at}_double_3x3_1", f"{at}_double_3x3_2")
        branches.append(self._run(x, *doubles))
        if not pooled:
            branches.append(_halve(x))
        elif name == "5b":
            branches.append(self._run(F.max_pool2d(x, 3, 1, 1), f"{at}_pool_proj"))
        else:
            branches.append(self._run(F.avg_pool2d(x, 3, 1, 1, count_include_pad=True), f"{at}_pool_proj"))
        return torch.cat(branches, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        x = _halve(self._run(images, "conv1_7x7_s2"))
        x = _halve(self._run(x, "conv2_3x3_reduce", "conv2_3x3"))
        for name in _BLOCKS:
            x = self._block(name, x)
        return x.mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """Give class scores ``(B, num_classes)``, before softmax, for features ``(B, 1024)``."""
        scores: Tensor = self.last_linear(features)
        return scores


class FlowBnInception(BnInception):
    """The same network for stacks of flow, ``(B, 10, 224, 224)``: x and y of five neighbouring frames."""

    def __init__(self, num_classes: int = 400):
        super().__init__(num_classes, channels=10)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


_RULES = (
    (r"^base_model\.", ""),
    (r"^backbone\.", ""),
    (r"^(?:fc|new_fc|cls_head\.fc_cls)\.", "last_linear."),
)


def _from_tsn(state: Mapping[str, Any]) -> dict[str, Tensor]:
    renamed = rename(state, _RULES)
    # Files of PyTorch's first versions keep BatchNorm's vectors as (1, C).
    return {k: v.reshape(-1) if "_bn." in k and tuple(v.shape[:-1]) == (1,) else v for k, v in renamed.items()}


_FIRST = ("conv1_7x7_s2.weight", "base_model.conv1_7x7_s2.weight", "backbone.conv1_7x7_s2.weight")

KEY_MAPS = (
    KeyMap(
        name="tsn",
        matches=lambda keys: any(name in keys for name in _FIRST),
        convert=_from_tsn,
        source=(
            "yjxiong/tensorflow-model-zoo.torch, bninception (fc); yjxiong/tsn-pytorch, models.py (base_model, "
            "new_fc); open-mmlab/mmaction, tenons/backbones/bninception.py and cls_heads/cls_head.py"
        ),
    ),
)
