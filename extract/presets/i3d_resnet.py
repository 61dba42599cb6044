"""Recipes of I3D on ResNet-50."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Network, Sampling, Transform
from .preset import TAIL_OF_VADX, Preset

_NONLOCAL = "facebookresearch/video-nonlocal-net"

KINETICS_I3D_RESNET50 = Preset(
    name="kinetics-i3d-resnet50",
    backbone="i3d-resnet50",
    network=Network(name="i3d-resnet50", layer="avgpool"),
    sampling=Sampling(clip_length=32, clip_stride=64, frame_step=2, tail="repeat_last"),
    transform=Transform(
        kernel="pil",
        resize=256,
        crop=256,
        center_rounding="round",
        mean=(114.75, 114.75, 114.75),
        std=(57.375, 57.375, 57.375),
    ),
    weights="i3d-resnet50-k400-nonlocal",
    sources={
        "32 frames, every second": f"{_NONLOCAL}, scripts/run_i3d_baseline_400k_32f.sh: VIDEO_LENGTH 32, SAMPLE_RATE 2",
        "short side 256, crop 256": f"{_NONLOCAL}, README.md, Testing; Tushar-N/pytorch-resnet3d, utils/util.py",
        "RGB in 0-255, mean 114.75, std 57.375": f"{_NONLOCAL}, lib/core/config.py: MODEL.MEAN, STD, USE_BGR",
        "resize kernel pil, centre rounded": (
            "Tushar-N/pytorch-resnet3d, utils/gtransforms.py: torchvision's Resize and CenterCrop on Pillow images"
        ),
        "a new clip every 64 frames": "vadx: clips lie end to end",
        "global average pool": "Tushar-N/pytorch-resnet3d, models/resnet.py",
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=("the publication tests three crops and ten clips a video and averages scores; a feature is one crop's",),
)

KINETICS_I3D_RESNET50_NL = replace(
    KINETICS_I3D_RESNET50,
    name="kinetics-i3d-resnet50-nl",
    backbone="i3d-resnet50-nl",
    network=Network(name="i3d-resnet50-nl", layer="avgpool"),
    weights="i3d-resnet50-nl-k400-nonlocal",
    sources={
        **KINETICS_I3D_RESNET50.sources,
        "32 frames, every second": f"{_NONLOCAL}, scripts/run_i3d_nlnet_400k_32f.sh: VIDEO_LENGTH 32, SAMPLE_RATE 2",
    },
)
