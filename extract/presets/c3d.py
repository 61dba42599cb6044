"""Recipes of C3D."""

from __future__ import annotations

from ...features.recipe import Network, Sampling, Transform
from .preset import TAIL_OF_VADX, Preset

_C3D = "facebookarchive/C3D, C3D-v1.0"

SPORTS1M_C3D = Preset(
    name="sports1m-c3d",
    backbone="c3d",
    network=Network(name="c3d", layer="fc6"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="cv2", resize=(128, 171), crop=112, center_rounding="floor", channel_order="bgr"),
    weights="c3d-sports1m-davidea",
    mean_cube="c3d-mean-cube",
    sources={
        "16 frames; resize (128, 171) without the aspect, OpenCV's bilinear; BGR in 0-255": (
            f"{_C3D}, src/caffe/util/image_io.cpp, ReadVideoToVolumeDatum"
        ),
        "centre crop 112, margins floored; mean cube cut at the same place": (
            f"{_C3D}, src/caffe/layers/video_data_layer.cpp"
        ),
        "fc6 after its ReLU": f"{_C3D}, examples/c3d_feature_extraction/prototxt: relu6 works in place",
        "pool5 rounds up": f"{_C3D}, src/caffe/layers/pool3d_layer.cpp",
        "16 frames every 16": "the field's convention: one feature for 16 frames",
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=(
        "the mean: the cube (C3D), one BGR triple for all pixels (DavideA/c3d-pytorch#1 and #4), [104, 117, 128] "
        "(mmaction2), none of C3D's scale (ekosman/AnomalyDetectionCVPR2018-Pytorch)",
        "pool5: rounded up on the right (Caffe) or padded on both sides (PyTorch ports): switch pool5=ports",
    ),
)

SPORTS1M_C3D_CHANNEL_MEAN = Preset(
    name="sports1m-c3d-channel-mean",
    backbone="c3d",
    network=Network(name="c3d", layer="fc6", switches={"pool5": "ports"}),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="cv2",
        resize=(128, 171),
        crop=112,
        center_rounding="floor",
        channel_order="bgr",
        mean=(90.25, 97.66, 101.41),
    ),
    weights="c3d-sports1m-davidea",
    note="What most PyTorch code runs: one mean a channel, no mean cube to find, and padding on both sides of pool5.",
    sources={
        "BGR minus (90.25, 97.66, 101.41)": "DavideA/c3d-pytorch issues 1 and 4; fjchange/MIST_VAD",
        "pool5 padded on both sides": "DavideA/c3d-pytorch 1111ccf, C3D_model.py",
        "16 frames every 16; resize (128, 171); centre crop 112": f"{_C3D}, as in sports1m-c3d",
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=SPORTS1M_C3D.disputed,
)
