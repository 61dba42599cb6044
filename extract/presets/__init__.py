"""Named recipes. A preset fixes everything but weights' bytes; overriding anything renames it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .bn_inception import IMAGENET_TSN_BNINCEPTION, KINETICS_TSN_BNINCEPTION_FLOW
from .c3d import SPORTS1M_C3D, SPORTS1M_C3D_CHANNEL_MEAN
from .clip import OPENAI_CLIP_VITB16
from .i3d import KINETICS_I3D, XDVIOLENCE_I3D
from .i3d_flow import KINETICS_I3D_FLOW
from .i3d_resnet import KINETICS_I3D_RESNET50, KINETICS_I3D_RESNET50_NL
from .ig65m import IG65M_R2PLUS1D_CLIP8, IG65M_R2PLUS1D_CLIP32
from .papers_c3d import GCN_C3D, SULTANI_C3D, WSSTAD_C3D
from .papers_frames import (
    GCN_TSN_FLOW,
    GCN_TSN_RGB,
    VADCLIP_VITB16,
    VADCLIP_VITB16_SINGLE,
    VIDEOFEATURES_R21D,
    WSAL_TSN,
)
from .papers_i3d import (
    CSLTAL_I3D,
    GOWTHAM_I3D_10CROP,
    LAD_I3D_FLOW,
    LAD_I3D_RGB,
    RTFM_I3D_10CROP,
    RTFM_I3D_10CROP_NL,
    URDMU_I3D_10CROP,
    VIDEOFEATURES_I3D_FLOW,
    VIDEOFEATURES_I3D_RGB,
)
from .preset import Preset, recipe_of
from .r2plus1d import KINETICS_R2PLUS1D
from .zoo import ZOO

__all__ = ["PRESETS", "PRESET_GROUPS", "Preset", "presets_of", "recipe_of"]

# Of each network the first is its default.
_ALL = (
    KINETICS_I3D,
    XDVIOLENCE_I3D,
    KINETICS_R2PLUS1D,
    KINETICS_I3D_FLOW,
    SPORTS1M_C3D,
    SPORTS1M_C3D_CHANNEL_MEAN,
    KINETICS_I3D_RESNET50,
    KINETICS_I3D_RESNET50_NL,
    IG65M_R2PLUS1D_CLIP32,
    IG65M_R2PLUS1D_CLIP8,
    IMAGENET_TSN_BNINCEPTION,
    KINETICS_TSN_BNINCEPTION_FLOW,
    *ZOO,
    OPENAI_CLIP_VITB16,
    SULTANI_C3D,
    RTFM_I3D_10CROP,
    RTFM_I3D_10CROP_NL,
    GOWTHAM_I3D_10CROP,
    URDMU_I3D_10CROP,
    WSAL_TSN,
    GCN_TSN_RGB,
    GCN_TSN_FLOW,
    GCN_C3D,
    CSLTAL_I3D,
    WSSTAD_C3D,
    LAD_I3D_RGB,
    LAD_I3D_FLOW,
    VIDEOFEATURES_I3D_RGB,
    VIDEOFEATURES_I3D_FLOW,
    VIDEOFEATURES_R21D,
    VADCLIP_VITB16,
    VADCLIP_VITB16_SINGLE,
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Name -> preset, of the networks that vadx brings. Plug-ins bring their own in `BackboneSpec.presets`."""

PRESET_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lad-i3d": ("lad-i3d-rgb", "lad-i3d-flow"),
        "videofeatures-i3d": ("videofeatures-i3d-rgb", "videofeatures-i3d-flow"),
        "gcn-tsn": ("gcn-tsn-rgb", "gcn-tsn-flow"),
    }
)
"""Name -> presets that a publication uses together: one feature set each, from one decode."""


def presets_of(backbone: str) -> tuple[Preset, ...]:
    """Give a network's presets, its default first."""
    return tuple(preset for preset in _ALL if preset.backbone == backbone)
