"""Named recipes. A preset fixes everything but weights' bytes; overriding anything renames it.

``sources`` says where each number comes from, in the words: field -> source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..features.recipe import Network, Recipe, Sampling, Transform


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe with a name and its sources, for the weights named ``weights`` (None: only random ones exist)."""

    name: str
    backbone: str
    network: Network
    sampling: Sampling
    transform: Transform
    weights: str | None
    note: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


_SCALE_TO_TWO = 2.0 / 255.0  # with offset -1: 0..255 becomes -1..1

_KINETICS_I3D = Preset(
    name="kinetics-i3d",
    backbone="i3d",
    network=Network(name="i3d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=_SCALE_TO_TWO, offset=-1.0),
    weights="i3d-rgb-k400-tfhub",
    note="The network was trained at 25 frames/s; frames are taken at the video's own rate.",
    sources={
        "short side 256, bilinear, centre 224, [-1, 1], RGB": "google-deepmind/kinetics-i3d, README.md",
        "resize kernel pil, floored sizes and margins": "v-iashin/video_features a2f61b7, models/transforms.py",
        "16 frames every 16": "the field's convention: one feature for 16 frames",
        "avgpool (2, 7, 7), mean over time": "piergiaj/pytorch-i3d 05783d1, pytorch_i3d.py, extract_features",
        "tail repeat_last": "vadx: every frame belongs to a clip, so that scores reach the last frame",
    },
)

_XDVIOLENCE_I3D = Preset(
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
        scale=_SCALE_TO_TWO,
        offset=-1.0,
    ),
    weights="i3d-rgb-imagenet-piergiaj",
    note="Frame rate and resize kernel of the release are not published; extractions of others do not match it.",
    sources={
        "rgb_imagenet weights, short side 256, five crops, centre first": "Roc-Ng/DeepMIL, README.md",
        "clip count (N - 1) // 16": "length of the released ground truth, Roc-Ng/XDVioDet list/gt.npy",
        "resize as OpenCV, centre rounded": "piergiaj/pytorch-i3d 05783d1, extract_features.py",
    },
)

_KINETICS_R2PLUS1D = Preset(
    name="kinetics-r2plus1d",
    backbone="r2plus1d",
    network=Network(name="r2plus1d", layer="avgpool"),
    sampling=Sampling(clip_length=16, clip_stride=16, tail="repeat_last"),
    transform=Transform(
        kernel="torch",
        resize=(128, 171),
        crop=112,
        center_rounding="round",
        scale=1.0 / 255.0,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
    ),
    weights="r2plus1d-18-k400-torchvision",
    sources={
        "resize (128, 171) without antialiasing, crop 112, mean, std": (
            "torchvision, models/video/resnet.py, R2Plus1D_18_Weights.KINETICS400_V1.transforms"
        ),
        "16 frames every 16": "the weights' own clip length, and the field's stride",
        "tail repeat_last": "vadx: every frame belongs to a clip, so that scores reach the last frame",
    },
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (_KINETICS_I3D, _XDVIOLENCE_I3D, _KINETICS_R2PLUS1D)}
)
"""Name -> preset, of the networks that vadx brings. Plug-ins bring their own in `BackboneSpec.presets`."""


def recipe_of(preset: Preset, weights_sha256: str) -> Recipe:
    """Give the preset's recipe for the weights with this sha256, or ``random:SEED``."""
    return Recipe(sampling=preset.sampling, transform=preset.transform, network=preset.network, weights=weights_sha256)
