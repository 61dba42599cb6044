from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import video

from support import picture
from vadx.errors import UsageError, WeightsError
from vadx.extract.backbones import class_names, find_backbone, find_preset
from vadx.extract.transforms import Normalizer

from .foreign_nets import check_features, clips, load, preprocess, random_network, relative_l2

# Backbone, torchvision's builder, place of its classifier, clip: as small as the network takes.
NETWORKS = [
    ("s3d", "s3d", "classifier", (2, 3, 14, 209, 209)),
    ("mvitv2-s", "mvit_v2_s", "head", (1, 3, 16, 224, 224)),
    ("swin3d-t", "swin3d_t", "head", (2, 3, 9, 64, 64)),
    ("swin3d-s", "swin3d_s", "head", (2, 3, 4, 64, 64)),
    ("swin3d-b", "swin3d_b", "head", (2, 3, 4, 64, 64)),
]


@pytest.mark.parametrize(("backbone", "builder", "place", "shape"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_features_and_head_are_torchvisions(
    tmp_path: Path, backbone: str, builder: str, place: str, shape: tuple[int, ...]
) -> None:
    reference = random_network(lambda: getattr(video, builder)(weights=None))
    ours = load(backbone, reference.state_dict(), tmp_path)
    assert set(ours.state_dict()) == set(reference.state_dict())
    batch = clips(*shape)
    classifier = getattr(reference, place)
    setattr(reference, place, nn.Identity())
    with torch.inference_mode():
        expected = reference(batch)
        features = ours(batch)
        check_features(features, expected, find_backbone(backbone).dim)
        scores = ours.head(features)
        shaped = expected[..., None, None, None] if backbone == "s3d" else expected
        assert scores.shape == (len(batch), 400) == (len(batch), ours.num_classes)
        assert relative_l2(scores, classifier(shaped).flatten(1)) <= 1e-5


def test_batchnorm_of_s3d_has_its_published_eps() -> None:
    network = find_backbone("s3d").build({})
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == 77
    assert {norm.eps for norm in norms} == {1e-3}


def test_a_checkpoint_without_classifier_or_of_another_data_set_loads(tmp_path: Path) -> None:
    backbone = "s3d"
    spec = find_backbone(backbone)
    whole = random_network(lambda: spec.build({}, num_classes=14)).state_dict()
    fourteen = load(backbone, whole, tmp_path)
    assert fourteen.num_classes == 14
    bare = load(backbone, {k: v for k, v in whole.items() if not k.startswith(f"{spec.head}.")}, tmp_path)
    assert bare.num_classes == 0
    assert not [name for name in bare.state_dict() if name.startswith(f"{spec.head}.")]
    batch = clips(1, 3, 14, 64, 64)
    with torch.inference_mode():
        features = bare(batch)
        assert torch.equal(features, fourteen(batch))
        assert fourteen.head(features).shape == (1, 14)
        with pytest.raises(UsageError, match="no classifier"):
            bare.head(features)


def test_the_fitting_pool_is_the_published_one_on_larger_crops(tmp_path: Path) -> None:
    reference = random_network(lambda: video.s3d(weights=None))
    ours = load("s3d", reference.state_dict(), tmp_path)
    reference.classifier = nn.Identity()
    batch = clips(1, 3, 14, 256, 256)
    with torch.inference_mode():
        assert relative_l2(ours(batch), reference(batch)) <= 1e-5


# kylemin/S3D, model.py. A unit is a convolution with its norm; a separable one has two. Channels in; out of branch 0,
# of the two units of branches 1 and 2, and of branch 3.
MIXED = {
    5: (192, 64, (96, 128), (16, 32), 32),
    6: (256, 128, (128, 192), (32, 96), 64),
    8: (480, 192, (96, 208), (16, 48), 64),
    9: (512, 160, (112, 224), (24, 64), 64),
    10: (512, 128, (128, 256), (24, 64), 64),
    11: (512, 112, (144, 288), (32, 64), 64),
    12: (528, 256, (160, 320), (32, 128), 128),
    14: (832, 256, (160, 320), (32, 128), 128),
    15: (832, 384, (192, 384), (48, 128), 128),
}


def kylemin_layout() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(7)
    state: dict[str, Tensor] = {}

    def unit(prefix: str, suffix: str, channels: tuple[int, int], kernel: tuple[int, int, int]) -> None:
        inputs, outputs = channels
        fan = inputs * kernel[0] * kernel[1] * kernel[2]
        state[f"{prefix}.conv{suffix}.weight"] = torch.randn((outputs, inputs, *kernel), generator=random) / fan**0.5
        norm = f"{prefix}.bn{suffix}"
        state[f"{norm}.weight"] = torch.rand(outputs, generator=random) + 1
        state[f"{norm}.bias"] = torch.randn(outputs, generator=random) / 5
        state[f"{norm}.running_mean"] = torch.randn(outputs, generator=random) / 5
        state[f"{norm}.running_var"] = torch.rand(outputs, generator=random) / 4 + 0.01
        state[f"{norm}.num_batches_tracked"] = torch.tensor(9)

    def separable(prefix: str, channels: tuple[int, int], side: int) -> None:
        unit(prefix, "_s", channels, (1, side, side))
        unit(prefix, "_t", (channels[1], channels[1]), (side, 1, 1))

    separable("base.0", (3, 64), 7)
    unit("base.2", "", (64, 64), (1, 1, 1))
    separable("base.3", (64, 192), 3)
    for place, (inputs, out, first, second, last) in MIXED.items():
        unit(f"base.{place}.branch0.0", "", (inputs, out), (1, 1, 1))
        for branch, (middle, end) in (("branch1", first), ("branch2", second)):
            unit(f"base.{place}.{branch}.0", "", (inputs, middle), (1, 1, 1))
            separable(f"base.{place}.{branch}.1", (middle, end), 3)
        unit(f"base.{place}.branch3.1", "", (inputs, last), (1, 1, 1))
    state["fc.0.weight"] = torch.randn((400, 1024, 1, 1, 1), generator=random) / 32
    state["fc.0.bias"] = torch.randn(400, generator=random)
    return state


def kylemin_network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Compute the feature (features=True of video_features' copy) straight from the published names."""

    def unit(x: Tensor, prefix: str, suffix: str = "", stride: Any = 1, padding: Any = 0) -> Tensor:
        norm = {key: state[f"{prefix}.bn{suffix}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        x = F.conv3d(x, state[f"{prefix}.conv{suffix}.weight"], stride=stride, padding=padding)
        return F.batch_norm(x, **norm, eps=1e-3).relu()

    def separable(x: Tensor, prefix: str, stride: int, padding: int) -> Tensor:
        x = unit(x, prefix, "_s", (1, stride, stride), (0, padding, padding))
        return unit(x, prefix, "_t", (stride, 1, 1), (padding, 0, 0))

    def mixed(x: Tensor, place: int) -> Tensor:
        base = f"base.{place}.branch"
        middle = [separable(unit(x, f"{base}{b}.0"), f"{base}{b}.1", 1, 1) for b in (1, 2)]
        pooled = unit(F.max_pool3d(x, 3, 1, 1), f"{base}3.1")
        return torch.cat([unit(x, f"{base}0.0"), *middle, pooled], 1)

    x = F.max_pool3d(separable(x, "base.0", 2, 3), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = separable(unit(x, "base.2"), "base.3", 1, 1)
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for place in MIXED:
        if place == 8:
            x = F.max_pool3d(x, 3, 2, 1)
        if place == 14:
            x = F.max_pool3d(x, 2, 2)
        x = mixed(x, place)
    return F.avg_pool3d(x, (2, x.shape[3], x.shape[4]), 1).flatten(2).mean(2)


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "parallel"])
def test_s3d_in_the_layout_of_kylemin_and_video_features(tmp_path: Path, prefix: str) -> None:
    state = kylemin_layout()
    assert len(state) == 464
    ours = load("s3d", {prefix + key: value for key, value in state.items()}, tmp_path)
    batch = clips(2, 3, 17, 64, 64)
    with torch.inference_mode():
        features, expected = ours(batch), kylemin_network(state, batch)
        check_features(features, expected, 1024)
        scores = F.linear(expected, state["fc.0.weight"].flatten(1), state["fc.0.bias"])
        assert relative_l2(ours.head(features), scores) <= 1e-5


def test_a_kylemin_checkpoint_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    state = kylemin_layout()
    del state["base.6.branch2.1.bn_t.running_mean"]
    with pytest.raises(WeightsError, match=r"missing: features\.6\.branch2\.1\.1\.1\.running_mean"):
        load("s3d", state, tmp_path)


def mmaction_name(key: str) -> str:
    """Give mmaction2's name for torchvision's: mmaction/models/backbones/swin.py."""
    if key.startswith("head."):
        return f"cls_head.fc_cls.{key.removeprefix('head.')}"
    stage = re.match(r"features\.(\d)\.", key)
    if stage:
        number = int(stage[1])
        place = f"layers.{number // 2}." + ("downsample." if number % 2 else "blocks.")
        key = place + key[stage.end() :].replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
    elif key.startswith("norm."):
        key = key.replace("norm.", "norm3.")
    return f"backbone.{key}"


def test_swin_in_the_layout_of_mmaction(tmp_path: Path) -> None:
    reference = random_network(lambda: video.swin3d_t(weights=None))
    published = {mmaction_name(key): value for key, value in reference.state_dict().items()}
    assert "backbone.layers.2.blocks.5.mlp.fc2.bias" in published
    assert "backbone.layers.1.downsample.reduction.weight" in published
    ours = load("swin3d-t", {"meta": {}, "state_dict": published}, tmp_path)
    batch = clips(1, 3, 4, 64, 64)
    with torch.inference_mode():
        assert relative_l2(ours.head(ours(batch)), reference(batch)) <= 1e-5


@pytest.mark.parametrize(
    ("preset", "weights"),
    [
        ("kinetics-s3d", video.S3D_Weights.KINETICS400_V1),
        ("kinetics-mvitv2-s", video.MViT_V2_S_Weights.KINETICS400_V1),
        ("kinetics-swin3d-t", video.Swin3D_T_Weights.KINETICS400_V1),
        ("kinetics-swin3d-s", video.Swin3D_S_Weights.KINETICS400_V1),
        ("kinetics-swin3d-b", video.Swin3D_B_Weights.KINETICS400_V1),
    ],
)
def test_preprocessing_is_that_of_the_weights(preset: str, weights: Any) -> None:
    frames = torch.from_numpy(picture(3, 330, 250)).permute(2, 0, 1)[None].contiguous()
    got = preprocess(frames, find_preset(preset).transform).permute(1, 0, 2, 3)[None]
    # x * (1 / 255) here, x / 255 there: they differ in the last bit of numbers below 3.
    torch.testing.assert_close(got, weights.transforms()(frames)[None], rtol=0, atol=1e-6)
    assert class_names("kinetics400") == weights.meta["categories"]


def test_s3d_is_fed_as_its_publishers_feed_it() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 2).expand(1, 3, 1, 1, 2)
    ranges = {
        name: Normalizer(find_preset(name).transform)(ends, torch.zeros(1, dtype=torch.int64)).unique().tolist()
        for name in ("kylemin-s3d", "videofeatures-s3d")
    }
    assert ranges == {"kylemin-s3d": [-1, 1], "videofeatures-s3d": [0, 1]}
    videofeatures = find_preset("videofeatures-s3d").sampling
    assert (videofeatures.clip_length, videofeatures.clip_stride, videofeatures.fps) == (64, 64, 25)


def test_mvit_takes_its_own_clips_alone() -> None:
    spec = find_backbone("mvitv2-s")
    preset = find_preset("kinetics-mvitv2-s")
    assert (spec.clip_lengths, spec.input_size) == ((16,), 224)
    assert (preset.sampling.clip_length, preset.sampling.frame_step, preset.transform.crop) == (16, 4, 224)
