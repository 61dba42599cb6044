"""Recipes of the publications that use C3D."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Network, Sampling, Transform
from .c3d import SPORTS1M_C3D
from .preset import TAIL_OF_VADX, Preset

_DEEPMIL = "Sultani, Chen and Shah, CVPR 2018, section 5.1"
_C3D_OWN = "facebookarchive/C3D, C3D-v1.0, src/caffe/util/image_io.cpp and layers/video_data_layer.cpp"
_WSSTAD = 'Wu et al., "Weakly-Supervised Spatio-Temporal Anomaly Detection in Surveillance Video", section 5.1'
_GCN = "jx-zhong-for-academic-purpose/GCN-Anomaly-Detection 2eb51b5"

SULTANI_C3D = Preset(
    name="sultani-c3d",
    backbone="c3d",
    network=Network(name="c3d", layer="fc6"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop", fps=30.0),
    transform=replace(SPORTS1M_C3D.transform, pre_resize=(240, 320)),
    weights="c3d-sports1m-davidea",
    mean_cube="c3d-mean-cube",
    note="The paper L2-normalises where clips become 32 segments; features are stored as they are.",
    sources={
        "frames resized to 240 x 320 and 30 frames/s first": _DEEPMIL,
        "fc6 of C3D for every 16 frames": _DEEPMIL,
        "then C3D's own (128, 171), centre 112, BGR, mean cube": _C3D_OWN,
        "tail drop: floor(N / 16) clips": "WaqasSultani/AnomalyDetectionCVPR2018 8aa957c, C3D-v1.0",
    },
    disputed=(
        "the authors re-encoded to 30 frames/s, which loses quality and is not repeatable; here the nearest decoded "
        "frames are taken",
        "the resize kernel of the first step is not published; OpenCV's bilinear stands here, as in the second",
        "L2 before the mean over a segment (the paper) or after it (Save_C3DFeatures_32Segments.m)",
        *SPORTS1M_C3D.disputed,
    ),
)

WSSTAD_C3D = Preset(
    name="wsstad-c3d",
    backbone="c3d",
    network=Network(name="c3d", layer="fc6"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=SPORTS1M_C3D.transform,
    weights="c3d-sports1m-davidea",
    mean_cube="c3d-mean-cube",
    note="These are the features of whole frames; those of tubes come from their boxes.",
    sources={
        "fc6 of C3D for every 16 frames": _WSSTAD,
        "C3D's own (128, 171), centre 112, BGR, mean cube": _C3D_OWN,
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=("neither code nor preprocessing is published: C3D's own stands here", *SPORTS1M_C3D.disputed),
)

GCN_C3D = Preset(
    name="gcn-c3d",
    backbone="c3d",
    network=Network(name="c3d", layer="fc6"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="cv2",
        resize=(128, 171),
        crop=112,
        crops="ten",
        crop_order="caffe",
        center_rounding="floor",
        channel_order="bgr",
        mean=(104.0, 117.0, 123.0),
    ),
    weights="c3d-sports1m-davidea",
    sources={
        "16 frames every 16, the last frame repeated": f"{_GCN}, feature_extraction/extract_c3d/extract_c3d_all.py",
        "resize 171 x 128 with OpenCV, BGR minus (104, 117, 123)": (
            f"{_GCN}, feature_extraction/extract_c3d/pyActionRecog/action_caffe.py, predict_single_c3d_rgb_stack"
        ),
        "ten crops of 112: corners, centre, then each mirrored": "caffe.io.oversample, which that file calls",
    },
    disputed=(
        "the authors trained their network further on UCF-Crime, and its file is not to be had: Sports-1M's here",
        "their frames went through JPEG files, of a quality that is not published",
    ),
)
