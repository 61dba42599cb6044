"""Recipes of the publications that use I3D, Inception-v1 or ResNet-50."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Flow, Network, Sampling, Transform
from .i3d import KINETICS_I3D, XDVIOLENCE_I3D
from .i3d_resnet import KINETICS_I3D_RESNET50
from .preset import SCALE_TO_TWO, Preset

_GOWTHAM = "GowthamGottimukkala/I3D_Feature_Extraction_resnet 4cd6a1d"
_URDMU = "henrryzh1/UR-DMU 40cfdf5"
_VIDEO_FEATURES = "v-iashin/video_features a2f61b7"
_CSLTAL = '"Consistency-based Self-supervised Learning for Temporal Anomaly Localization", section 3.1'
_LAD = 'Wan et al., "Anomaly detection in video sequences" (LAD), implementation details'
_LAD_CODE = "wanboyang/anomly_feature.pytorch 0336965"

# What hassony2's first port and everything built on it does: TensorFlow's own epsilon and padding left out.
_FIRST_PORT: dict[str, str | float | int | bool] = {"bn_eps": 1e-5, "same_pad": "static_ceil"}

RTFM_I3D_10CROP = Preset(
    name="rtfm-i3d-10crop",
    backbone="i3d-resnet50",
    network=Network(name="i3d-resnet50", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=replace(KINETICS_I3D_RESNET50.transform, crop=224, crops="ten", crop_order="tv"),
    weights="i3d-resnet50-k400-nonlocal",
    sources={
        "mean 114.75, std 57.375; GroupResize(256); TenCrop(224); 16 frames, last clip filled with the last frame": (
            "the author in tianyu0207/RTFM issues 21 and 53"
        ),
        "crop order tv, centre rounded": "torchvision, transforms/functional.py, ten_crop",
        "2048-d ResNet-50": "Tushar-N/pytorch-resnet3d 8d3e1da, named in RTFM's README",
        "clips: ceil(N / 16) on UCF-Crime": "69634 clips of its test videos, tianyu0207/RTFM issue 22",
    },
    disputed=(
        "the ShanghaiTech release has N // 16 + 1 clips a video: --tail plus_one",
        "GroupResize(256) keeps the aspect (issue 21) or makes 256 x 256 (issue 53)",
        "baseline or non-local network is not said (issue 95): rtfm-i3d-10crop-nl is the other",
    ),
)

RTFM_I3D_10CROP_NL = replace(
    RTFM_I3D_10CROP,
    name="rtfm-i3d-10crop-nl",
    backbone="i3d-resnet50-nl",
    network=Network(name="i3d-resnet50-nl", layer="avgpool"),
    weights="i3d-resnet50-nl-k400-nonlocal",
    note="The same with the non-local network: which of the two RTFM used is not said.",
)

GOWTHAM_I3D_10CROP = Preset(
    name="gowtham-i3d-10crop",
    backbone="i3d-resnet50",
    network=Network(name="i3d-resnet50", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(
        kernel="pil",
        interpolation="lanczos",
        jpeg="ffmpeg",
        resize=(256, 340),
        crop=224,
        crops="ten",
        crop_order="oversample",
        center_rounding="floor",
        scale=SCALE_TO_TWO,
        offset=-1.0,
    ),
    weights="i3d-resnet50-k400-nonlocal",
    note="Not the pixels that these weights were trained on (0-255 minus 114.75, over 57.375): kept for comparison.",
    sources={
        "JPEG files by ffmpeg's default": f"{_GOWTHAM}, main.py, generate",
        "340 x 256 without the aspect, Lanczos, [-1, 1]": f"{_GOWTHAM}, extract_features.py, load_frame",
        "ten crops of 224 with the centre third": f"{_GOWTHAM}, extract_features.py, oversample_data",
        "16 frames every 16, whole clips only": f"{_GOWTHAM}, extract_features.py, run",
    },
    disputed=("ffmpeg's default for image files depends on its version and on the frame rate it is told",),
)

URDMU_I3D_10CROP = Preset(
    name="urdmu-i3d-10crop",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool", switches=dict(_FIRST_PORT)),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=replace(GOWTHAM_I3D_10CROP.transform, jpeg=95),
    weights="i3d-rgb-imagenet-hassony2",
    sources={
        "frames as JPEG files of OpenCV's default quality, 95": f"{_URDMU}, feature_extract/video2frame_split.py",
        "340 x 256 without the aspect, Lanczos, [-1, 1]": f"{_URDMU}, feature_extract/i3d_extract.py, load_frame",
        "ten crops of 224 with the centre third": f"{_URDMU}, feature_extract/i3d_extract.py, oversample_data",
        "ceil(N / 16) clips, the last frame repeated": f"{_URDMU}, feature_extract/i3d_extract.py, run",
        "BatchNorm eps 1e-5, static padding": f"{_URDMU}, feature_extract/i3dpt.py",
    },
    disputed=(
        "its ground truth counts (N - 1) // 16 clips, one or none less than its extractor: --tail minus_one",
        "OpenCV's and Pillow's JPEG encoders are both libjpeg-turbo, of versions that may differ",
    ),
)

CSLTAL_I3D = replace(
    XDVIOLENCE_I3D,
    name="csltal-i3d",
    sources={
        "I3D RGB of every 16 frames, not trained further": _CSLTAL,
        "each of the five crops is a video": "its published code",
        **XDVIOLENCE_I3D.sources,
    },
    disputed=(
        "the paper uses XD-Violence's released features: what made those is disputed",
        *XDVIOLENCE_I3D.disputed,
    ),
)

LAD_I3D_RGB = Preset(
    name="lad-i3d-rgb",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=Transform(
        kernel="cv2", resize=(224, 224), crop=224, center_rounding="floor", scale=SCALE_TO_TWO, offset=-1.0
    ),
    weights="i3d-rgb-imagenet-piergiaj",
    note="The paper's 2048 numbers are lad-i3d-rgb and lad-i3d-flow side by side: --preset lad-i3d makes both.",
    sources={
        "16 frames, not overlapping; last pooling layer, 1024-d": _LAD,
        "224 x 224 with OpenCV, whole clips only": f"{_LAD_CODE}, dataset/Datasetloader.py",
        "[-1, 1]": "google-deepmind/kinetics-i3d, README.md: what I3D was trained on",
    },
    disputed=(
        "the paper removes 'mean values', its extractor (dataset/Datasetloader.py) feeds 0-255 as it is, I3D wants "
        "[-1, 1]: the last stands here",
        "which Kinetics weights is not said; the paper names TensorFlow",
    ),
)

LAD_I3D_FLOW = Preset(
    name="lad-i3d-flow",
    backbone="i3d-flow",
    network=Network(name="i3d-flow", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="drop"),
    transform=LAD_I3D_RGB.transform,
    flow=Flow(method="tvl1", bound=20.0, quantization="none", last="repeat"),
    weights="i3d-flow-imagenet-piergiaj",
    note="The last frame's flow is repeated, so that clip i covers the same frames as clip i of lad-i3d-rgb.",
    sources={
        "flow stream of I3D, 1024-d, 16 frames": _LAD,
        "TV-L1, clipped to 20 pixels, [-1, 1]": "google-deepmind/kinetics-i3d, README.md",
        "224 x 224 with OpenCV": f"{_LAD_CODE}, dataset/Datasetloader.py",
    },
    disputed=(
        "the method of flow is not published",
        "the released extractor reads x flow for both channels (dataset/Datasetloader.py): not followed",
        *LAD_I3D_RGB.disputed,
    ),
)

VIDEOFEATURES_I3D_RGB = Preset(
    name="videofeatures-i3d-rgb",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool", switches=dict(_FIRST_PORT)),
    sampling=Sampling(clip_length=64, clip_stride=64, tail="minus_one"),
    transform=KINETICS_I3D.transform,
    weights="i3d-rgb-imagenet-iashin",
    sources={
        "64 frames every 64": f"{_VIDEO_FEATURES}, models/i3d/extract_i3d.py, DEFAULT_I3D_STACK_SIZE",
        "tail minus_one: a stack wants one frame more, for its flow": f"{_VIDEO_FEATURES}, models/i3d/extract_i3d.py",
        "Pillow's bilinear, short side 256, long side floored; centre 224 floored; [-1, 1]": (
            f"{_VIDEO_FEATURES}, models/transforms.py"
        ),
        "BatchNorm eps 1e-5, static padding": f"{_VIDEO_FEATURES}, models/i3d/i3d_src/i3d_net.py",
    },
    disputed=("its extraction_fps re-encodes the video; --fps takes the nearest frames instead",),
)

VIDEOFEATURES_I3D_FLOW = Preset(
    name="videofeatures-i3d-flow",
    backbone="i3d-flow",
    network=Network(name="i3d-flow", layer="avgpool", switches=dict(_FIRST_PORT)),
    sampling=Sampling(clip_length=64, clip_stride=64, tail="drop"),
    transform=replace(VIDEOFEATURES_I3D_RGB.transform, center_rounding="ceil"),
    flow=Flow(method="raft", bound=20.0, quantization="round_128", last="drop"),
    weights="i3d-flow-imagenet-iashin",
    flow_weights="raft-large-sintel-torchvision",
    sources={
        "RAFT on resized frames, 20 refinements, N - 1 flows": f"{_VIDEO_FEATURES}, models/raft/raft_src/raft.py",
        "clipped to 20 pixels, 128 + 255 / 40 x, rounded": f"{_VIDEO_FEATURES}, models/transforms.py, ToUInt8",
        "64 frames every 64, whole stacks only": f"{_VIDEO_FEATURES}, models/i3d/extract_i3d.py",
        "short side 256, centre 224, [-1, 1]": f"{_VIDEO_FEATURES}, models/transforms.py",
        "odd margins ceiled: RAFT's padding is still there when the centre is cut": (
            f"{_VIDEO_FEATURES}, models/i3d/extract_i3d.py, _run_on_a_stack"
        ),
    },
    disputed=("its RAFT is the authors' own code; torchvision's with the same authors' weights stands here",),
)
