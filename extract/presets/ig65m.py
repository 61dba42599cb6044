"""Recipes of R(2+1)D-34, trained on 65 million Instagram videos."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Network, Sampling
from .preset import TAIL_OF_VADX, Preset
from .r2plus1d import KINETICS_R2PLUS1D

_IG65M = "moabitcoin/ig65m-pytorch"

IG65M_R2PLUS1D_CLIP32 = Preset(
    name="ig65m-r2plus1d-clip32",
    backbone="r2plus1d-34",
    network=Network(name="r2plus1d-34", layer="avgpool"),
    sampling=Sampling(clip_length=32, clip_stride=32, tail="repeat_last"),
    transform=KINETICS_R2PLUS1D.transform,
    weights="r2plus1d-34-clip32-k400-ig65m",
    sources={
        "32 frames": f"{_IG65M}, README.md: the weights' own clip length; clips lie end to end",
        "resize (128, 171), crop 112": "facebookresearch/VMZ: scale_h 128, scale_w 171, crop_size 112",
        "mean, std": f"{_IG65M}, ig65m/cli/extract.py",
        "bilinear without antialiasing, rounded; centre rounded": "as torchvision's R(2+1)D-18, of the same training",
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=(
        "the resize: VMZ scales to 128 x 171 while FFmpeg decodes, ig65m-pytorch's extract to a short side of 128",
    ),
)

IG65M_R2PLUS1D_CLIP8 = replace(
    IG65M_R2PLUS1D_CLIP32,
    name="ig65m-r2plus1d-clip8",
    sampling=Sampling(clip_length=8, clip_stride=8, tail="repeat_last"),
    weights="r2plus1d-34-clip8-k400-ig65m",
    sources={
        **{what: source for what, source in IG65M_R2PLUS1D_CLIP32.sources.items() if what != "32 frames"},
        "8 frames": f"{_IG65M}, README.md: the weights' own clip length; clips lie end to end",
    },
)
