"""A backbone small enough to extract hundreds of videos in a test, registered as any plug-in is."""

import torch
from torch import Tensor, nn

from vadx.extract.backbones import BackboneSpec
from vadx.extract.presets import Preset
from vadx.features.recipe import Network, Sampling, Transform


class Tiny(nn.Module):
    """One convolution over a clip, averaged: features ``(B, 8)`` that depend on every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.fc = nn.Linear(8, 400)

    def forward(self, clips: Tensor) -> Tensor:
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
