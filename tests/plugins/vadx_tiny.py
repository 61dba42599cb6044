"""A backbone small enough to extract hundreds of videos in a test, registered as any plug-in is."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vadx.detectors.detector import DetectorSpec, NetworkSettings
from vadx.extract.backbones import BackboneSpec
from vadx.extract.presets import Preset
from vadx.features.recipe import Flow, Network, Sampling, Transform


def hold() -> None:
    """Wait while the file is there that the environment names: a run can be met in the middle of its work."""
    while (named := os.environ.get("VADX_TINY_HOLD")) and Path(named).exists():
        Path(f"{named}.held").touch()
        time.sleep(0.02)


class Tiny(nn.Module):
    """One convolution over a clip, averaged: features ``(B, 8)`` that depend on every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.fc = nn.Linear(8, 400)

    def forward(self, clips: Tensor) -> Tensor:
        hold()
        return torch.tanh(self.conv(clips)).mean((2, 3, 4))

    def head(self, features: Tensor) -> Tensor:
        return self.fc(features)


TINY = BackboneSpec(
    name="tiny",
    title="Tiny",
    dim=8,
    min_clip_length=2,
    factory="vadx_tiny:Tiny",
    presets=(
        Preset(
            name="tiny-default",
            backbone="tiny",
            network=Network(name="tiny", layer="mean"),
            sampling=Sampling(clip_length=4, clip_stride=4, tail="repeat_last"),
            transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="floor", scale=1 / 255),
            weights=None,
        ),
    ),
    licence="Apache-2.0",
    classes="kinetics400",
)


class TinyFrames(nn.Module):
    """One convolution over an image, averaged: features ``(B, 6)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel_size=4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.conv(images)).mean((2, 3))


class TinyFlow(nn.Module):
    """One convolution over a clip of flow, averaged: features ``(B, 5)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, kernel_size=(2, 4, 4), stride=(2, 4, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return torch.tanh(self.conv(clips)).mean((2, 3, 4))


TINY_FRAMES = BackboneSpec(
    name="tiny-frames",
    title="Tiny of frames",
    dim=6,
    min_clip_length=1,
    factory="vadx_tiny:TinyFrames",
    presets=(
        Preset(
            name="tiny-frames-default",
            backbone="tiny-frames",
            network=Network(name="tiny-frames", layer="mean", temporal="mean"),
            sampling=Sampling(clip_length=4, clip_stride=4, tail="partial_mean"),
            transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="floor", scale=1 / 255),
            weights=None,
        ),
    ),
    licence="Apache-2.0",
    frame_wise=True,
)

TINY_FLOW = BackboneSpec(
    name="tiny-flow",
    title="Tiny of flow",
    dim=5,
    min_clip_length=2,
    factory="vadx_tiny:TinyFlow",
    presets=(
        Preset(
            name="tiny-flow-default",
            backbone="tiny-flow",
            network=Network(name="tiny-flow", layer="mean"),
            sampling=Sampling(clip_length=4, clip_stride=4, tail="repeat_last"),
            transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="floor", scale=2 / 255, offset=-1.0),
            weights=None,
            flow=Flow(method="farneback"),
        ),
    ),
    licence="Apache-2.0",
    channels=2,
)


class TinyBoxes:
    """Two boxes in every frame: one that stays, and one that moves with the mean brightness of the frame."""

    num_seen = 0

    def __call__(self, frames: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        TinyBoxes.num_seen += len(frames)
        return [self._one(frame) for frame in frames]

    @staticmethod
    def _one(frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = frame.shape[-2:]
        shift = frame.double().mean() / 255
        still = torch.tensor([0.1, 0.1, 0.4, 0.6])
        moving = torch.tensor([0.5, 0.3, 0.9, 0.9]) + (shift - 0.5) * torch.tensor([0.1, 0.0, 0.1, 0.0])
        boxes = torch.stack([still, moving.float()]) * torch.tensor([width, height, width, height])
        return boxes, torch.tensor([0.9, 0.5]) + (shift * 0.01).float(), torch.tensor([1, 3])


def tiny_boxes(_state: Mapping[str, Tensor] | None, _settings: NetworkSettings) -> TinyBoxes:
    return TinyBoxes()


TINY_BOXES = DetectorSpec(
    name="tiny-boxes",
    title="Tiny boxes",
    factory="vadx_tiny:tiny_boxes",
    weights=None,
    licence="Apache-2.0",
    source="none",
    brings_sha256="11" * 32,
)
