"""Recipes of R(2+1)D."""

from __future__ import annotations

from ...features.recipe import Network, Sampling, Transform
from .preset import SCALE_TO_ONE, TAIL_OF_VADX, Preset

KINETICS_R2PLUS1D = Preset(
    name="kinetics-r2plus1d",
    backbone="r2plus1d",
    network=Network(name="r2plus1d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="torch",
        resize=(128, 171),
        crop=112,
        center_rounding="round",
        scale=SCALE_TO_ONE,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
    ),
    weights="r2plus1d-18-k400-torchvision",
    sources={
        "resize (128, 171) without antialiasing, crop 112, mean, std": (
            "torchvision, models/video/resnet.py, R2Plus1D_18_Weights.KINETICS400_V1.transforms"
        ),
        "16 frames every 16": "the weights' own clip length, and the field's stride",
        "tail repeat_last": TAIL_OF_VADX,
    },
)
