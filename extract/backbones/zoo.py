"""Rows of the table of networks that other libraries carry, and of CLIP's image tower."""

from __future__ import annotations

from ..presets import presets_of
from ..presets.preset import Preset
from ..presets.zoo import (
    KINETICS_CSN_R101,
    KINETICS_I3D_R50_PYTORCHVIDEO,
    KINETICS_MVITV2_S,
    KINETICS_S3D,
    KINETICS_SLOW_R50,
    KINETICS_SLOWFAST_R50,
    KINETICS_SWIN3D_B,
    KINETICS_SWIN3D_S,
    KINETICS_SWIN3D_T,
    KINETICS_X3D_L,
    KINETICS_X3D_M,
    KINETICS_X3D_S,
    KINETICS_X3D_XS,
    KYLEMIN_S3D,
    VIDEOFEATURES_S3D,
)
from .spec import BackboneSpec

_TORCHVISION = "vadx.extract.backbones.torchvision_nets"
_PYTORCHVIDEO = "vadx.extract.backbones.pytorchvideo_nets"


def _swin(size: str, title: str, dim: int, preset: Preset) -> BackboneSpec:
    return BackboneSpec(
        name=f"swin3d-{size}",
        title=f"Video Swin-{title}",
        dim=dim,
        min_clip_length=1,
        factory=f"{_TORCHVISION}:swin3d_{size}",
        presets=(preset,),
        licence="BSD-3-Clause",
        classes="kinetics400",
        head="head",
        key_maps=f"{_TORCHVISION}:SWIN_KEY_MAPS",
        source="Liu et al., Video Swin Transformer, 2022; torchvision, models/video/swin_transformer.py",
    )


_RESNET = "pytorchvideo/models/hub/resnet.py"
_SLOWFAST_PAPER = "Feichtenhofer et al., SlowFast Networks for Video Recognition, 2019"
_X3D_PAPER = "Feichtenhofer, X3D: Expanding Architectures for Efficient Video Recognition, 2020"


def _pytorchvideo(
    builder: str,
    title: str,
    preset: Preset,
    source: str,
    *,
    dim: int = 2048,
    head: str = "blocks.5.proj",
    min_clip_length: int = 1,
    clip_lengths: tuple[int, ...] = (),
) -> BackboneSpec:
    return BackboneSpec(
        name=preset.backbone,
        title=title,
        dim=dim,
        min_clip_length=min_clip_length,
        factory=f"{_PYTORCHVIDEO}:{builder}",
        presets=(preset,),
        licence="Apache-2.0",
        classes="kinetics400",
        head=head,
        clip_lengths=clip_lengths,
        source=f"{source}; facebookresearch/pytorchvideo",
    )


ZOO = (
    BackboneSpec(
        name="s3d",
        title="S3D",
        dim=1024,
        min_clip_length=14,
        factory=f"{_TORCHVISION}:s3d",
        presets=(KINETICS_S3D, KYLEMIN_S3D, VIDEOFEATURES_S3D),
        licence="BSD-3-Clause",
        classes="kinetics400",
        head="classifier.1",
        key_maps=f"{_TORCHVISION}:S3D_KEY_MAPS",
        source="Xie et al., Rethinking Spatiotemporal Feature Learning, 2018; torchvision, models/video/s3d.py",
    ),
    BackboneSpec(
        name="mvitv2-s",
        title="MViTv2-S 16x4",
        dim=768,
        min_clip_length=16,
        factory=f"{_TORCHVISION}:mvit_v2_s",
        presets=(KINETICS_MVITV2_S,),
        licence="BSD-3-Clause",
        classes="kinetics400",
        head="head.1",
        clip_lengths=(16,),
        input_size=224,
        source="Li et al., MViTv2: Improved Multiscale Vision Transformers, 2022; torchvision, models/video/mvit.py",
    ),
    _swin("t", "T", 768, KINETICS_SWIN3D_T),
    _swin("s", "S", 768, KINETICS_SWIN3D_S),
    _swin("b", "B", 1024, KINETICS_SWIN3D_B),
    _pytorchvideo(
        "slowfast_r50",
        "SlowFast-R50 8x8",
        KINETICS_SLOWFAST_R50,
        f"{_SLOWFAST_PAPER}; pytorchvideo/models/hub/slowfast.py",
        dim=2304,
        head="blocks.6.proj",
        min_clip_length=4,
        # The two pathways' pools leave equally many positions only up to the clip that the head was made for.
        clip_lengths=tuple(range(4, 33, 4)),
    ),
    _pytorchvideo("slow_r50", "Slow-R50 8x8", KINETICS_SLOW_R50, f"{_SLOWFAST_PAPER}; {_RESNET}"),
    _pytorchvideo(
        "i3d_r50",
        "I3D-R50 8x8 of pytorchvideo",
        KINETICS_I3D_R50_PYTORCHVIDEO,
        f"Carreira and Zisserman, Quo Vadis, Action Recognition?, 2017; {_RESNET}",
        head="blocks.6.proj",  # a pool is a block of its own
        min_clip_length=2,
    ),
    _pytorchvideo(
        "csn_r101",
        "CSN-R101 32x2",
        KINETICS_CSN_R101,
        "Tran et al., Video Classification with Channel-Separated Networks, 2019; pytorchvideo/models/hub/csn.py",
    ),
    *(
        _pytorchvideo(f"x3d_{size}", f"X3D-{size.upper()}", preset, f"{_X3D_PAPER}; pytorchvideo/models/hub/x3d.py")
        for size, preset in (
            ("xs", KINETICS_X3D_XS),
            ("s", KINETICS_X3D_S),
            ("m", KINETICS_X3D_M),
            ("l", KINETICS_X3D_L),
        )
    ),
    BackboneSpec(
        name="clip-vitb16",
        title="CLIP ViT-B/16, image tower",
        dim=512,
        min_clip_length=1,
        factory="vadx.extract.backbones.clip:ClipViTB16",
        presets=presets_of("clip-vitb16"),
        licence="MIT",
        frame_wise=True,
        key_maps="vadx.extract.backbones.clip:KEY_MAPS",
        input_size=224,
        source="Radford et al., Learning Transferable Visual Models, 2021; openai/CLIP",
    ),
)
"""The rows, in the order in which they are listed."""
