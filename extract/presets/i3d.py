"""Recipes of I3D, Inception-v1."""

from __future__ import annotations

from ...features.recipe import Network, Sampling, Transform
from .preset import SCALE_TO_TWO, TAIL_OF_VADX, Preset

KINETICS_I3D = Preset(
    name="kinetics-i3d",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=SCALE_TO_TWO, offset=-1.0),
    weights="i3d-rgb-k400-tfhub",
    note="The network was trained at 25 frames/s; frames are taken at the video's own rate.",
    sources={
        "short side 256, bilinear, centre 224, [-1, 1], RGB": "google-deepmind/kinetics-i3d, README.md",
        "resize kernel pil, floored sizes and margins": "v-iashin/video_features a2f61b7, models/transforms.py",
        "16 frames every 16": "the field's convention: one feature for 16 frames",
        "avgpool (2, 7, 7), mean over time": "piergiaj/pytorch-i3d 05783d1, pytorch_i3d.py, extract_features",
        "tail repeat_last": TAIL_OF_VADX,
    },
)

XDVIOLENCE_I3D = Preset(
    name="xdviolence-i3d",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="minus_one"),
    transform=Transform(
        kernel="torch",
        resize=256,
        crop=224,
        crops="five",
        crop_order="roc",
        center_rounding="round",
        scale=SCALE_TO_TWO,
        offset=-1.0,
    ),
    weights="i3d-rgb-imagenet-piergiaj",
    note="Frame rate and resize kernel of the release are not published; extractions of others do not match it.",
    sources={
        "rgb_imagenet weights, short side 256, five crops of 224, centre first": "Roc-Ng/DeepMIL, README.md",
        "clip count (N - 1) // 16": "length of the released ground truth, Roc-Ng/XDVioDet list/gt.npy",
        "resize as OpenCV, centre rounded": "piergiaj/pytorch-i3d 05783d1, extract_features.py",
    },
)
