"""Recipes of the networks that torchvision and pytorchvideo carry."""

from __future__ import annotations

from dataclasses import replace

from ...features.recipe import Network, Sampling, Transform
from .preset import SCALE_TO_ONE, SCALE_TO_TWO, TAIL_OF_VADX, Preset

_FIELD = "the field's convention: one feature for 16 frames"
_FOLLOWING = "vadx: clips follow one another without a gap"
_RATE = "Frames are taken at the video's own rate; the network was trained on videos of about 30 frames/s."

KINETICS_S3D = Preset(
    name="kinetics-s3d",
    backbone="s3d",
    network=Network(name="s3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="torch",
        resize=(256, 256),
        crop=224,
        center_rounding="round",
        scale=SCALE_TO_ONE,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
    ),
    weights="s3d-k400-torchvision",
    note="torchvision states the accuracy of these weights for clips of 128 frames at 15 frames/s.",
    sources={
        "resize (256, 256) without antialiasing, crop 224, mean, std": (
            "torchvision, models/video/s3d.py, S3D_Weights.KINETICS400_V1.transforms"
        ),
        "16 frames every 16": _FIELD,
        "tail repeat_last": TAIL_OF_VADX,
    },
)

KYLEMIN_S3D = Preset(
    name="kylemin-s3d",
    backbone="s3d",
    network=Network(name="s3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="cv2", resize=256, crop=224, center_rounding="round", scale=SCALE_TO_TWO, offset=-1.0),
    weights="s3d-k400-kylemin",
    sources={
        "RGB, 2 x / 255 - 1": "kylemin/S3D 539b28a, main.py, transform, and issue 4",
        "short side 256, centre 224": "vadx: I3D's, google-deepmind/kinetics-i3d, README.md; kylemin/S3D states none",
        "resize kernel cv2": "vadx: the library with which kylemin/S3D's main.py reads frames",
        "16 frames every 16": _FIELD,
        "tail repeat_last": TAIL_OF_VADX,
    },
    disputed=(
        "kylemin/S3D shows its network frames that are cut already, and says neither how nor how many make a clip",
        "v-iashin/video_features feeds the same weights [0, 1]: preset videofeatures-s3d",
    ),
)

VIDEOFEATURES_S3D = Preset(
    name="videofeatures-s3d",
    backbone="s3d",
    network=Network(name="s3d", layer="avgpool"),
    sampling=Sampling(clip_length=64, clip_stride=64, tail="drop", fps=25.0),
    transform=Transform(kernel="torch_float", resize=224, crop=224, center_rounding="round", scale=SCALE_TO_ONE),
    weights="s3d-k400-videofeatures",
    note="video_features re-encodes the video to 25 frames/s; here frames are chosen for that rate.",
    sources={
        "[0, 1], short side 224 in floating point, centre 224": (
            "v-iashin/video_features 3f92ec0, models/s3d/extract_s3d.py and models/transforms.py"
        ),
        "64 frames every 64 at 25 frames/s": "v-iashin/video_features 3f92ec0, models/s3d/extract_s3d.py",
        "tail drop": "v-iashin/video_features, utils/utils.py, form_slices",
    },
    disputed=("the network was trained on [-1, 1]: kylemin/S3D issue 4, which video_features reads as [0, 1]",),
)

KINETICS_MVITV2_S = Preset(
    name="kinetics-mvitv2-s",
    backbone="mvitv2-s",
    network=Network(name="mvitv2-s", layer="class_token"),
    sampling=Sampling(clip_length=16, clip_stride=64, frame_step=4, tail="repeat_last"),
    transform=Transform(
        kernel="torch",
        resize=256,
        crop=224,
        center_rounding="round",
        scale=SCALE_TO_ONE,
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    ),
    weights="mvitv2-s-k400-torchvision",
    note=_RATE,
    sources={
        "short side 256 without antialiasing, crop 224, mean, std": (
            "torchvision, models/video/mvit.py, MViT_V2_S_Weights.KINETICS400_V1.transforms"
        ),
        "16 frames, 4 apart": "the same weights' documentation: clip_len 16, frame_rate 7.5 of 30",
        "a clip every 64": _FOLLOWING,
        "tail repeat_last": TAIL_OF_VADX,
    },
)


def _swin(size: str) -> Preset:
    return Preset(
        name=f"kinetics-swin3d-{size}",
        backbone=f"swin3d-{size}",
        network=Network(name=f"swin3d-{size}", layer="avgpool"),
        sampling=Sampling(clip_length=32, clip_stride=64, frame_step=2, tail="repeat_last"),
        transform=Transform(
            kernel="torch",
            resize=256,
            crop=224,
            center_rounding="round",
            scale=SCALE_TO_ONE,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        weights=f"swin3d-{size}-k400-torchvision",
        note=_RATE,
        sources={
            "short side 256 without antialiasing, crop 224, mean, std": (
                "torchvision, models/video/swin_transformer.py, "
                f"Swin3D_{size.upper()}_Weights.KINETICS400_V1.transforms"
            ),
            "32 frames, 2 apart": "the same weights' documentation: clip_len 32, frame_rate 15 of 30",
            "a clip every 64": _FOLLOWING,
            "tail repeat_last": TAIL_OF_VADX,
        },
    )


KINETICS_SWIN3D_T, KINETICS_SWIN3D_S, KINETICS_SWIN3D_B = _swin("t"), _swin("s"), _swin("b")

_MODEL_ZOO = "facebookresearch/pytorchvideo, docs/source/model_zoo.md, frame length x sample rate"
_HUB_RESNET = "pytorch/hub, facebookresearch_pytorchvideo_resnet.md"
_HUB_SLOWFAST = "pytorch/hub, facebookresearch_pytorchvideo_slowfast.md"
_HUB_X3D = "pytorch/hub, facebookresearch_pytorchvideo_x3d.md"
_X3D_L = "facebookresearch/SlowFast, configs/Kinetics/X3D_L.yaml"


def _pytorchvideo(
    backbone: str, preset: str, *, frames: int, step: int, side: int, crop: int, source: str, rate_source: str
) -> Preset:
    """Give the preprocessing of pytorchvideo's hub examples: centre ``crop`` of short side ``side``."""
    return Preset(
        name=f"kinetics-{preset}",
        backbone=backbone,
        network=Network(name=backbone, layer="head_pool"),
        sampling=Sampling(clip_length=frames, clip_stride=frames * step, frame_step=step, tail="repeat_last"),
        transform=Transform(
            kernel="torch_float",
            resize=side,
            crop=crop,
            center_rounding="round",
            scale=SCALE_TO_ONE,
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
        ),
        weights=f"{preset}-k400-pytorchvideo",
        note=_RATE,
        sources={
            f"short side {side} in floating point, centre {crop}": source,
            "mean, std": source if source != _X3D_L else _HUB_X3D,
            f"{frames} frames, {step} apart": rate_source,
            f"a clip every {frames * step}": _FOLLOWING,
            "tail repeat_last": TAIL_OF_VADX,
        },
        disputed=(
            "the hub examples choose a clip's frames by linspace over its duration, its last frame among them, which "
            "now and then is a frame later than multiples of the step",
        ),
    )


KINETICS_SLOWFAST_R50 = _pytorchvideo(
    "slowfast-r50",
    "slowfast-r50",
    frames=32,
    step=2,
    side=256,
    crop=256,
    source=_HUB_SLOWFAST,
    rate_source=_HUB_SLOWFAST,
)
KINETICS_SLOW_R50 = _pytorchvideo(
    "slow-r50", "slow-r50", frames=8, step=8, side=256, crop=256, source=_HUB_RESNET, rate_source=_HUB_RESNET
)
KINETICS_I3D_R50_PYTORCHVIDEO = replace(
    _pytorchvideo(
        "i3d-r50-pytorchvideo",
        "i3d-r50",
        frames=8,
        step=8,
        side=256,
        crop=256,
        source=_HUB_RESNET,
        rate_source=_MODEL_ZOO,
    ),
    name="kinetics-i3d-r50-pytorchvideo",
)
KINETICS_CSN_R101 = _pytorchvideo(
    "csn-r101", "csn-r101", frames=32, step=2, side=256, crop=256, source=_HUB_RESNET, rate_source=_MODEL_ZOO
)
KINETICS_X3D_XS = _pytorchvideo(
    "x3d-xs", "x3d-xs", frames=4, step=12, side=182, crop=182, source=_HUB_X3D, rate_source=_HUB_X3D
)
KINETICS_X3D_S = _pytorchvideo(
    "x3d-s", "x3d-s", frames=13, step=6, side=182, crop=182, source=_HUB_X3D, rate_source=_HUB_X3D
)
KINETICS_X3D_M = _pytorchvideo(
    "x3d-m", "x3d-m", frames=16, step=5, side=256, crop=256, source=_HUB_X3D, rate_source=_HUB_X3D
)
KINETICS_X3D_L = _pytorchvideo(
    "x3d-l", "x3d-l", frames=16, step=5, side=356, crop=356, source=_X3D_L, rate_source=_X3D_L
)

ZOO = (
    KINETICS_S3D,
    KYLEMIN_S3D,
    VIDEOFEATURES_S3D,
    KINETICS_MVITV2_S,
    KINETICS_SWIN3D_T,
    KINETICS_SWIN3D_S,
    KINETICS_SWIN3D_B,
    KINETICS_SLOWFAST_R50,
    KINETICS_SLOW_R50,
    KINETICS_I3D_R50_PYTORCHVIDEO,
    KINETICS_CSN_R101,
    KINETICS_X3D_XS,
    KINETICS_X3D_S,
    KINETICS_X3D_M,
    KINETICS_X3D_L,
)
