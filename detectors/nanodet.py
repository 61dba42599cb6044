"""NanoDet-g, a small detector of COCO's categories: RangiLyu/nanodet, config/nanodet-g.yml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from ..errors import WeightsError
from .coco_names import COCO_NAMES
from .runtime import reduce_precision

if TYPE_CHECKING:
    from .detector import NetworkSettings

_INPUT_SIZE = 416
"""``input_size``, with ``keep_ratio``: the frame is fitted into a square, in its middle, on black."""

# ``normalize``: means and standard deviations of blue, green and red, the order in which the network takes them.
_MEAN = (103.53, 116.28, 123.675)
_STD = (57.375, 57.12, 58.395)

# ``net_cfg``: input channels and number of inner blocks of each stage. The last three feed the levels.
_STAGES = ((32, 1), (64, 2), (128, 2), (256, 3))
_CHANNELS = 128
_STRIDES = (8, 16, 32)

_NUM_BINS = 11
"""``reg_max`` + 1: the distance to a side of a box is the mean of a distribution over so many strides."""

_NMS_IOU, _MAX_BOXES, _MAX_CANDIDATES = 0.6, 100, 1000
"""nanodet/model/head/gfl_head.py: ``multiclass_nms`` and, for each level, ``nms_pre``."""

_MAX_SUPPRESSED = 5000
"""vadx: boxes of a frame that suppression looks at, the best. Trained weights give a few hundred above a score of .05;
arbitrary ones a hundred thousand, which take seconds a frame."""


class _Activated(nn.Conv2d):
    """A convolution that keeps the size, BatchNorm folded into it, and a LeakyReLU."""

    def __init__(self, ins: int, outs: int, *, stride: int = 1) -> None:
        super().__init__(ins, outs, 3, stride, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(inputs), 0.1)


class _Block(nn.Module):
    """nanodet/model/backbone/custom_csp.py, TinyResBlock with ``concat``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = _Activated(channels, channels // 2)
        self.again = _Activated(channels // 2, channels // 2)

    def forward(self, inputs: Tensor) -> Tensor:
        narrow = self.narrow(inputs)
        return torch.cat([self.again(narrow), narrow], dim=1)


class _Stage(nn.Module):
    """nanodet/model/backbone/custom_csp.py, CspBlock: ``(B, C, H, W)`` to ``(B, 2 C, H / stride, W / stride)``."""

    def __init__(self, channels: int, num_blocks: int, *, stride: int) -> None:
        super().__init__()
        self.first = _Activated(channels, channels, stride=stride)
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(num_blocks)))
        self.last = _Activated(channels, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.first(inputs)
        return torch.cat([self.last(self.blocks(first)), first], dim=1)


class _Head(nn.Module):
    """nanodet/model/head/nanodet_head.py, one level: scores before the sigmoid, then bins, ``(B, 124, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = _Activated(_CHANNELS, _CHANNELS)
        self.outputs = nn.Conv2d(_CHANNELS, len(COCO_NAMES) + 4 * _NUM_BINS, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.outputs(self.tower(inputs))
        return outputs


class NanoDet(nn.Module):
    """Normalised images ``(B, 3, H, W)``, sides divisible by 32, to the outputs of three levels, the finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Activated(3, 32, stride=2)
        self.stages = nn.ModuleList(
            _Stage(channels, num_blocks, stride=2 if index else 1)
            for index, (channels, num_blocks) in enumerate(_STAGES)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(2 * channels, _CHANNELS, 1) for channels, _ in _STAGES[1:])
        self.heads = nn.ModuleList(_Head() for _ in _STRIDES)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        levels = []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index:
                levels.append(self.lateral[index - 1](features))
        fine, middle, coarse = levels
        # nanodet/model/fpn/pan.py: down from the coarsest level, and up again.
        middle = middle + _resized(coarse, middle)
        fine = fine + _resized(middle, fine)
        middle = middle + _resized(fine, middle)
        coarse = coarse + _resized(middle, coarse)
        return [head(level) for head, level in zip(self.heads, (fine, middle, coarse), strict=True)]


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


class _Whole(nn.Module):
    """Holds the network as a part, so that it can run in fewer bits."""

    def __init__(self, network: NanoDet) -> None:
        super().__init__()
        self.network: nn.Module = network


class NanoDetNetwork:
    """NanoDet behind the interface of `DetectorSpec.factory`."""

    def __init__(self, network: NanoDet, settings: NetworkSettings) -> None:
        holder = _Whole(network.eval().to(settings.device))
        reduce_precision(holder, ("network",), settings.precision)
        self.network = holder.network
        self._score_threshold = settings.score_threshold
        self._mean, self._std = (torch.tensor(v, device=settings.device)[:, None, None] for v in (_MEAN, _STD))
        self._labels = torch.tensor(list(COCO_NAMES), device=settings.device)

    def __call__(self, frames: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Map uint8 RGB frames ``(n, 3, H, W)`` to one ``(boxes, scores, labels)`` a frame."""
        height, width = frames.shape[-2:]
        scale = _INPUT_SIZE / max(height, width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        top, left = ((_INPUT_SIZE - side) // 2 for side in inner)
        fitted = F.interpolate(frames.float(), size=inner, mode="bilinear", align_corners=False)
        right, bottom = _INPUT_SIZE - inner[1] - left, _INPUT_SIZE - inner[0] - top
        square = F.pad(fitted, (left, right, top, bottom))
        outputs = self.network((square.flip(1) - self._mean) / self._std)
        corner = square.new_tensor([left, top, left, top])
        ratio = square.new_tensor([width / inner[1], height / inner[0]] * 2)
        limit = square.new_tensor([width, height] * 2)
        return [self._found([level[index] for level in outputs], corner, ratio, limit) for index in range(len(frames))]

    def _found(
        self, outputs: list[Tensor], corner: Tensor, ratio: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the three levels ``(124, H, W)`` of one frame."""
        levels = [self._candidates(*pair) for pair in zip(outputs, _STRIDES, strict=True)]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*levels, strict=True))
        boxes = torch.minimum(((boxes - corner) * ratio).clamp(min=0), limit)
        if len(scores) > _MAX_SUPPRESSED:
            best = scores.topk(_MAX_SUPPRESSED).indices
            boxes, scores, classes = boxes[best], scores[best], classes[best]
        kept = batched_nms(boxes, scores, classes, _NMS_IOU)[:_MAX_BOXES]
        return boxes[kept], scores[kept], self._labels[classes[kept]]

    def _candidates(self, outputs: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give boxes in pixels of the square, scores and classes of one level, the best cells' only."""
        rows, columns = outputs.shape[-2:]
        cells = outputs.flatten(1).T
        scores = cells[:, : len(COCO_NAMES)].sigmoid()
        best = scores.amax(1).topk(min(_MAX_CANDIDATES, len(scores))).indices
        bins = torch.arange(_NUM_BINS, device=cells.device, dtype=cells.dtype)
        shares = cells[best, len(COCO_NAMES) :].reshape(-1, 4, _NUM_BINS).softmax(2)
        away = (shares * bins).sum(2) * stride
        y, x = torch.meshgrid(
            torch.arange(rows, device=cells.device), torch.arange(columns, device=cells.device), indexing="ij"
        )
        centers = ((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)[best]
        boxes = torch.cat([centers - away[:, :2], centers + away[:, 2:]], dim=1)
        cell, category = (scores[best] > self._score_threshold).nonzero(as_tuple=True)
        return boxes[cell], scores[best][cell, category], category


def nanodet(state: Mapping[str, Tensor] | None, settings: NetworkSettings) -> NanoDetNetwork:
    """Make the network.

    Raises
    ------
    WeightsError
        if the state dict is another network's.
    """
    network = NanoDet()
    if state is not None:
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            msg = "these weights do not fit NanoDet-g; type: vadx weights fetch nanodet-coco-rangilyu"
            raise WeightsError(msg) from error
    return NanoDetNetwork(network, settings)
