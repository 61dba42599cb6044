"""Recipes of I3D on optical flow."""

from __future__ import annotations

from ...features.recipe import Flow, Network, Sampling, Transform
from .preset import SCALE_TO_TWO, TAIL_OF_VADX, Preset

_KINETICS_I3D = "google-deepmind/kinetics-i3d, README.md"

KINETICS_I3D_FLOW = Preset(
    name="kinetics-i3d-flow",
    backbone="i3d-flow",
    network=Network(name="i3d-flow", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=SCALE_TO_TWO, offset=-1.0),
    flow=Flow(method="tvl1", bound=20.0, quantization="none"),
    weights="i3d-flow-imagenet-piergiaj",
    note="The network was trained at 25 frames/s; flow is taken between frames at the video's own rate.",
    sources={
        "TV-L1 on grey frames, clipped to 20 pixels, [-1, 1], x and y; short side 256, bilinear, centre 224": (
            _KINETICS_I3D
        ),
        "no rounding of flow": f"{_KINETICS_I3D}: values are truncated and rescaled, and stored as floats",
        "resize kernel pil, floored sizes and margins": "v-iashin/video_features a2f61b7, models/transforms.py",
        "16 flows every 16": "the field's convention: one feature for 16 frames",
        "avgpool (2, 7, 7), mean over time": "piergiaj/pytorch-i3d 05783d1, pytorch_i3d.py, extract_features",
        "tail repeat_last, last flow repeated": TAIL_OF_VADX,
    },
)
