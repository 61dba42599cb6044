"""S3D, MViTv2 and Video Swin as torchvision.models.video has them.

Every feature is the input of the classifier, as torchvision gives it with an identity in the classifier's place.
S3D (Xie et al., "Rethinking Spatiotemporal Feature Learning", 2018; BatchNorm eps 1e-3): average pool (2, 7, 7) of the
last block, averaged over what time and space are left. MViTv2 (Li et al., 2022): the class token after the last
LayerNorm. Video Swin (Liu et al., 2022): the average over all tokens after the last LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torchvision.models import video

from ..key_maps import KeyMap, State, rename
from .foreign import FeatureNetwork, FittingAvgPool3d


@dataclass(frozen=True, slots=True)
class _Network:
    """One network: its builder, where its classifier is, and how many axes that has after the channels."""

    build: Callable[..., Any]
    classifier: str
    axes: int = 0


NETWORKS: Mapping[str, _Network] = MappingProxyType(
    {
        "s3d": _Network(video.s3d, "classifier", axes=3),
        "mvit_v2_s": _Network(video.mvit_v2_s, "head"),
        "swin3d_t": _Network(video.swin3d_t, "head"),
        "swin3d_s": _Network(video.swin3d_s, "head"),
        "swin3d_b": _Network(video.swin3d_b, "head"),
    }
)


def build(name: str, num_classes: int = 400) -> FeatureNetwork:
    """Build a network of `NETWORKS` with arbitrary weights. It maps clips ``(B, 3, T, H, W)`` to ``(B, dim)``."""
    row = NETWORKS[name]
    # torchvision cannot build a classifier of no classes.
    network = row.build(weights=None, num_classes=num_classes or 1)
    classifier: nn.Module = getattr(network, row.classifier)
    setattr(network, row.classifier, nn.Identity())
    if isinstance(getattr(network, "avgpool", None), nn.AvgPool3d):
        network.avgpool = FittingAvgPool3d(network.avgpool)
    return FeatureNetwork(
        network, classifier if num_classes else None, row.classifier, num_classes=num_classes, axes=row.axes
    )


s3d = partial(build, "s3d")
mvit_v2_s = partial(build, "mvit_v2_s")
swin3d_t = partial(build, "swin3d_t")
swin3d_s = partial(build, "swin3d_s")
swin3d_b = partial(build, "swin3d_b")


def _has(name: str, keys: Collection[str]) -> bool:
    return name in keys


_KYLEMIN = (
    (r"^base\.", "features."),
    # torchvision's first branch is a unit, not a sequence of one.
    (r"\.branch0\.0\.", ".branch0."),
    (r"\.conv_s\.", ".0.0."),
    (r"\.bn_s\.", ".0.1."),
    (r"\.conv_t\.", ".1.0."),
    (r"\.bn_t\.", ".1.1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
    (r"^fc\.0\.", "classifier.1."),
)


def _from_kylemin(state: State) -> dict[str, Tensor]:
    return rename(state, _KYLEMIN)


S3D_KEY_MAPS = (
    KeyMap(
        name="kylemin",
        matches=partial(_has, "base.0.conv_s.weight"),
        convert=_from_kylemin,
        source="kylemin/S3D, model.py; v-iashin/video_features, models/s3d/s3d_src/s3d.py",
    ),
)

_MMACTION_SWIN = (
    (r"^backbone\.", ""),
    *((rf"^layers\.{stage}\.blocks\.", f"features.{2 * stage}.") for stage in range(4)),
    *((rf"^layers\.{stage}\.downsample\.", f"features.{2 * stage + 1}.") for stage in range(3)),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm3\.", "norm."),
    (r"^cls_head\.fc_cls\.", "head."),
)


def _from_mmaction_swin(state: State) -> dict[str, Tensor]:
    return rename(state, _MMACTION_SWIN)


SWIN_KEY_MAPS = (
    KeyMap(
        name="mmaction2-swin",
        matches=partial(_has, "backbone.layers.0.blocks.0.attn.qkv.weight"),
        convert=_from_mmaction_swin,
        source=(
            "open-mmlab/mmaction2, mmaction/models/backbones/swin.py, and SwinTransformer/Video-Swin-Transformer, "
            "whose weights torchvision's are"
        ),
    ),
)
