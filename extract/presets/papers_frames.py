"""Recipes of the publications that use frame-wise networks, and of R(2+1)D's most used extractor."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Flow, Network, Sampling, Transform
from .clip import OPENAI_CLIP_VITB16
from .preset import Preset
from .r2plus1d import KINETICS_R2PLUS1D

_GCN = "jx-zhong-for-academic-purpose/GCN-Anomaly-Detection 2eb51b5"
_GCN_TSN = f"{_GCN}, feature_extraction/extract_tsn"
_WSAL = 'Lv et al., "Localizing Anomalies From Weakly-Labeled Videos" (WSAL), section IV.A'
_VIDEO_FEATURES = "v-iashin/video_features a2f61b7"
_VADCLIP = "nwpu-zxr/VadCLIP"

WSAL_TSN = Preset(
    name="wsal-tsn",
    backbone="tsn-bninception",
    network=Network(name="tsn-bninception", layer="global_pool", temporal="mean"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="partial_mean"),
    transform=Transform(
        kernel="cv2",
        resize=256,
        crop=224,
        center_rounding="floor",
        channel_order="bgr",
        mean=(104.0, 117.0, 123.0),
    ),
    weights="bn-inception-rgb-k400-yjxiong",
    note="A segment of the paper is the mean over all its frames: the mean of its clips, weighted by their frames.",
    sources={
        "BN-Inception, global average pool, 1024-d, 224 x 224": _WSAL,
        "every frame; the mean over them": _WSAL,
        "Kinetics-400 weights (on TAD)": _WSAL,
        "short side 256, BGR minus (104, 117, 123)": "yjxiong/temporal-segment-networks 2c5e5e7, its Caffe models",
        "16 frames every 16": "the field's convention: one feature for 16 frames",
    },
    disputed=(
        "on UCF-Crime the paper uses the network that Zhong et al. trained further, whose file is not to be had",
        "the paper takes every frame; the code that made its UCF-Crime features, ten crops of groups of five (gcn-tsn)",
        "the mean of red: 123 (TSN in Caffe) or 128 (tsn-pytorch)",
    ),
)

GCN_TSN_RGB = Preset(
    name="gcn-tsn-rgb",
    backbone="tsn-bninception",
    network=Network(name="tsn-bninception", layer="global_pool", temporal="mean"),
    sampling=Sampling(clip_length=5, clip_stride=5, tail="partial_mean"),
    transform=Transform(
        kernel="cv2",
        resize=(256, 340),
        crop=224,
        crops="ten",
        crop_order="caffe",
        center_rounding="floor",
        channel_order="bgr",
        mean=(104.0, 117.0, 123.0),
    ),
    weights="bn-inception-rgb-k400-yjxiong",
    sources={
        "a vector for every 5 frames, their mean, the last group as it is": f"{_GCN_TSN}/kinetics_extract_rgb.py",
        "340 x 256 with OpenCV, BGR minus (104, 117, 123)": f"{_GCN_TSN}/pyActionRecog/action_caffe.py",
        "ten crops of 224: corners, centre, then each mirrored": "caffe.io.oversample, which that file calls",
    },
    disputed=(
        "the authors trained their network further on UCF-Crime, and its file is not to be had: Kinetics' stands here",
        "their frames went through JPEG files, of a quality that is not published",
        "others describe it as one of five frames; the code takes the mean of all five",
    ),
)

GCN_TSN_FLOW = Preset(
    name="gcn-tsn-flow",
    backbone="tsn-bninception-flow",
    network=Network(name="tsn-bninception-flow", layer="global_pool", temporal="first"),
    sampling=Sampling(clip_length=5, clip_stride=5, tail="repeat_last"),
    transform=Transform(
        kernel="cv2",
        resize=(256, 340),
        crop=224,
        crops="ten",
        crop_order="caffe",
        center_rounding="floor",
        offset=-128.0,
    ),
    flow=Flow(method="tvl1", bound=20.0, quantization="round_255", last="drop", stack=5),
    weights="bn-inception-flow-k400-yjxiong",
    sources={
        "one stack of five flows for every five, the last flow repeated, N - 1 flows": (
            f"{_GCN_TSN}/kinetics_extract_flow.py"
        ),
        "ten crops of 224; minus 128; x flow inverted in mirrored ones": (
            f"{_GCN_TSN}/pyActionRecog/action_caffe.py and utils/io.py"
        ),
        "TV-L1 on 340 x 256, clipped to 20 pixels, 0-255": "yjxiong/temporal-segment-networks, tools/build_of.py",
    },
    disputed=(
        "the authors trained their network further on UCF-Crime, and its file is not to be had: Kinetics' stands here",
        "their flow went through JPEG files; dense_flow's TV-L1 is OpenCV's for GPUs, of 2016",
    ),
)

VIDEOFEATURES_R21D = Preset(
    name="videofeatures-r21d",
    backbone="r2plus1d",
    network=Network(name="r2plus1d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=replace(KINETICS_R2PLUS1D.transform, kernel="torch_float"),
    weights="r2plus1d-18-k400-torchvision",
    sources={
        "float first, resize (128, 171) without antialiasing or rounding, normalise, crop 112": (
            f"{_VIDEO_FEATURES}, models/r21d/extract_r21d.py and models/transforms.py"
        ),
        "16 frames every 16, whole stacks only": f"{_VIDEO_FEATURES}, models/r21d/extract_r21d.py, form_slices",
    },
    disputed=("torchvision's own recipe rounds after resizing: kinetics-r2plus1d",),
)

VADCLIP_VITB16 = Preset(
    name="vadclip-vitb16",
    backbone="clip-vitb16",
    network=Network(name="clip-vitb16", layer="proj", temporal="mean"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=replace(
        OPENAI_CLIP_VITB16.transform,
        kernel="cv2",
        interpolation="bilinear",
        resize=(256, 340),
        crop=224,
        crops="ten",
        crop_order="roc",
        center_rounding="floor",
    ),
    weights="clip-vitb16-openai",
    note="The same with one frame of 16: vadclip-vitb16-single. Its exported files are named by crop, 0 the centre.",
    sources={
        "340 x 256 with OpenCV, ten crops of 224, centre first, then each mirrored": f"{_VADCLIP}, crop.py",
        "mean, std; 224 is not resized again": "openai/CLIP, clip/clip.py, _transform",
        "one feature for 16 frames, floor(N / 16)": f"{_VADCLIP}, list/make_gt_ucf.py and make_gt_xd.py",
    },
    disputed=(
        "how 16 frames become one vector was never released: their mean or one of them (issues 1, 6, 14, 17, 26, 29)",
        "the authors computed in half precision on a GPU, which moves features by about a thousandth",
    ),
)

VADCLIP_VITB16_SINGLE = replace(
    VADCLIP_VITB16,
    name="vadclip-vitb16-single",
    network=Network(name="clip-vitb16", layer="proj", temporal="first"),
    note="The same with the mean of 16 frames: vadclip-vitb16.",
    disputed=(*VADCLIP_VITB16.disputed, "which of the 16 is not known either: --temporal middle takes the ninth"),
)
