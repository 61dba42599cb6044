"""The table of networks that vadx brings."""

from __future__ import annotations

from dataclasses import replace

from ..presets import presets_of
from .spec import BackboneSpec
from .zoo import ZOO

_I3D = "Carreira and Zisserman, CVPR 2017 (arXiv 1705.07750); google-deepmind/kinetics-i3d; piergiaj/pytorch-i3d"
_NONLOCAL = (
    "Wang et al., CVPR 2018 (arXiv 1711.07971); facebookresearch/video-nonlocal-net, lib/models/resnet_video_org.py; "
    "Tushar-N/pytorch-resnet3d"
)
_TSN = "Wang et al., ECCV 2016 (arXiv 1608.00859); yjxiong/tsn-pytorch; Cadene/pretrained-models.pytorch"

_I3D_RGB = BackboneSpec(
    name="i3d",
    title="I3D Inception-v1 RGB",
    dim=1024,
    min_clip_length=9,
    factory="vadx.extract.backbones.i3d:InceptionI3d",
    presets=presets_of("i3d"),
    licence="Apache-2.0",
    classes="kinetics400",
    switches={"bn_eps": (1e-3, 1e-5), "same_pad": ("dynamic", "static_ceil")},
    head="logits",
    key_maps="vadx.extract.backbones.i3d:KEY_MAPS",
    source=_I3D,
)

_I3D_RESNET50 = BackboneSpec(
    name="i3d-resnet50",
    title="I3D ResNet-50",
    dim=2048,
    min_clip_length=7,
    factory="vadx.extract.backbones.i3d_resnet:I3dResNet50",
    presets=presets_of("i3d-resnet50"),
    licence="CC-BY-NC-4.0",
    classes="kinetics400",
    head="fc",
    key_maps="vadx.extract.backbones.i3d_resnet:KEY_MAPS",
    source=_NONLOCAL,
)

BUILT_IN = (
    _I3D_RGB,
    replace(
        _I3D_RGB,
        name="i3d-flow",
        title="I3D Inception-v1 flow",
        factory="vadx.extract.backbones.i3d:FlowI3d",
        presets=presets_of("i3d-flow"),
        channels=2,
    ),
    _I3D_RESNET50,
    replace(
        _I3D_RESNET50,
        name="i3d-resnet50-nl",
        title="I3D ResNet-50 with non-local blocks",
        factory="vadx.extract.backbones.i3d_resnet:NonLocalI3dResNet50",
        presets=presets_of("i3d-resnet50-nl"),
    ),
    BackboneSpec(
        name="c3d",
        title="C3D",
        dim=4096,
        min_clip_length=16,
        factory="vadx.extract.backbones.c3d:C3D",
        presets=presets_of("c3d"),
        licence="CC-BY-NC-3.0",
        switches={"pool5": ("caffe", "ports"), "relu": (True, False)},
        head="fc8",
        key_maps="vadx.extract.backbones.c3d:KEY_MAPS",
        clip_lengths=(16,),
        input_size=112,
        source="Tran et al., ICCV 2015 (arXiv 1412.0767); facebookarchive/C3D, C3D-v1.0",
    ),
    BackboneSpec(
        name="r2plus1d",
        title="R(2+1)D-18",
        dim=512,
        min_clip_length=1,
        factory="vadx.extract.backbones.r2plus1d:R2Plus1D18",
        presets=presets_of("r2plus1d"),
        licence="BSD-3-Clause",
        classes="kinetics400",
        head="fc",
        source="Tran et al., CVPR 2018 (arXiv 1711.11248); torchvision, models/video/resnet.py",
    ),
    BackboneSpec(
        name="r2plus1d-34",
        title="R(2+1)D-34",
        dim=512,
        min_clip_length=1,
        factory="vadx.extract.backbones.r2plus1d:R2Plus1D34",
        presets=presets_of("r2plus1d-34"),
        licence="MIT",
        classes="kinetics400",
        head="fc",
        source="Ghadiyaram et al., CVPR 2019 (arXiv 1905.00561); moabitcoin/ig65m-pytorch, ig65m/models.py",
    ),
    BackboneSpec(
        name="tsn-bninception",
        title="TSN BN-Inception",
        dim=1024,
        min_clip_length=1,
        factory="vadx.extract.backbones.bn_inception:BnInception",
        presets=presets_of("tsn-bninception"),
        licence="BSD-3-Clause",
        frame_wise=True,
        head="last_linear",
        key_maps="vadx.extract.backbones.bn_inception:KEY_MAPS",
        input_size=224,
        source=_TSN,
    ),
    BackboneSpec(
        name="tsn-bninception-flow",
        title="TSN BN-Inception flow",
        dim=1024,
        min_clip_length=1,
        factory="vadx.extract.backbones.bn_inception:FlowBnInception",
        presets=presets_of("tsn-bninception-flow"),
        licence="BSD-3-Clause",
        channels=10,
        frame_wise=True,
        head="last_linear",
        key_maps="vadx.extract.backbones.bn_inception:KEY_MAPS",
        input_size=224,
        source=_TSN,
    ),
    *ZOO,
)
