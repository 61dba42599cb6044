from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vadx.errors import WeightsError
from vadx.extract.backbones import find_backbone
from vadx.extract.presets import PRESETS

from .plain import conv, filled, loaded, norm, recognised, relative_l2

EPS = 1.0000001e-5

# Stage of Caffe2 -> channels in, channels inside a block, channels out, stride in space, frames of each branch2a.
STAGES = {
    2: (64, 64, 256, 1, (3, 3, 3)),
    3: (256, 128, 512, 2, (3, 1, 3, 1)),
    4: (512, 256, 1024, 2, (3, 1, 3, 1, 3, 1)),
    5: (1024, 512, 2048, 2, (1, 3, 1)),
}
NON_LOCAL = {3: (1, 3), 4: (1, 3, 5)}


def caffe2_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}_{part}": (channels,) for part in ("s", "b", "rm", "riv")}


def caffe2_shapes(*, non_local: bool) -> dict[str, tuple[int, ...]]:
    """Write out the blobs of i3d_baseline_32x2 or i3d_nonlocal_32x2."""
    shapes: dict[str, tuple[int, ...]] = {"conv1_w": (64, 3, 5, 7, 7), **caffe2_norm("res_conv1_bn", 64)}
    for stage, (channels_in, inner, out, _, frames) in STAGES.items():
        for block, span in enumerate(frames):
            at, before = f"res{stage}_{block}", channels_in if block == 0 else out
            parts = {"2a": (inner, before, span, 1, 1), "2b": (inner, inner, 1, 3, 3), "2c": (out, inner, 1, 1, 1)}
            if block == 0:
                parts["1"] = (out, before, 1, 1, 1)
            for branch, shape in parts.items():
                shapes |= {f"{at}_branch{branch}_w": shape, **caffe2_norm(f"{at}_branch{branch}_bn", shape[0])}
            if non_local and block in NON_LOCAL.get(stage, ()):
                mixing = f"nonlocal_conv{stage}_{block}"
                for part, shape in {"theta": (out // 2, out), "phi": (out // 2, out), "g": (out // 2, out)}.items():
                    shapes |= {f"{mixing}_{part}_w": (*shape, 1, 1, 1), f"{mixing}_{part}_b": shape[:1]}
                shapes |= {f"{mixing}_out_w": (out, out // 2, 1, 1, 1), f"{mixing}_out_b": (out,)}
                shapes |= caffe2_norm(f"{mixing}_bn", out)
    return shapes | {"pred_w": (400, 2048), "pred_b": (400,)}


class Caffe2:
    """The network as functions of its blobs."""

    def __init__(self, blobs: Mapping[str, Tensor]) -> None:
        self.blobs = blobs

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale, bias, mean, var = (self.blobs[f"{name}_{p}"].reshape(-1, 1, 1, 1) for p in ("s", "b", "rm", "riv"))
        return (x - mean) * (scale / (var + EPS) ** 0.5) + bias

    def conv_norm(self, x: Tensor, name: str, stride: tuple[int, int, int], pads: tuple[int, int, int]) -> Tensor:
        return self.norm(F.conv3d(x, self.blobs[f"{name}_w"], stride=stride, padding=pads), f"{name}_bn")

    def block(self, x: Tensor, at: str, stride: int, span: int) -> Tensor:
        y = self.conv_norm(x, f"{at}_branch2a", (1, 1, 1), (span // 2, 0, 0)).clamp(min=0)
        y = self.conv_norm(y, f"{at}_branch2b", (1, stride, stride), (0, 1, 1)).clamp(min=0)
        y = self.conv_norm(y, f"{at}_branch2c", (1, 1, 1), (0, 0, 0))
        if f"{at}_branch1_w" in self.blobs:
            x = self.conv_norm(x, f"{at}_branch1", (1, stride, stride), (0, 0, 0))
        return (x + y).clamp(min=0)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Map every position: (channels, positions) of one clip."""
        return self.blobs[f"{name}_w"].flatten(1) @ x.flatten(1) + self.blobs[f"{name}_b"][:, None]

    def mix(self, x: Tensor, name: str) -> Tensor:
        mixed = []
        for one in x:
            fewer = F.max_pool3d(one, (1, 2, 2), (1, 2, 2))
            theta, phi, g = (
                self.linear(part, f"{name}_{role}") for part, role in ((one, "theta"), (fewer, "phi"), (fewer, "g"))
            )
            likeness = (theta.T @ phi) / theta.shape[0] ** 0.5
            mixed.append(self.linear(g @ likeness.softmax(1).T, f"{name}_out").reshape(one.shape))
        return x + self.norm(torch.stack(mixed), f"{name}_bn")

    def __call__(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Give features and class scores."""
        x = F.conv3d(clips, self.blobs["conv1_w"], stride=(2, 2, 2), padding=(2, 3, 3))
        x = F.max_pool3d(self.norm(x, "res_conv1_bn").clamp(min=0), (2, 3, 3), (2, 2, 2))
        for stage, (_, _, _, stride, frames) in STAGES.items():
            for block, span in enumerate(frames):
                x = self.block(x, f"res{stage}_{block}", stride if block == 0 else 1, span)
                if f"nonlocal_conv{stage}_{block}_theta_w" in self.blobs:
                    x = self.mix(x, f"nonlocal_conv{stage}_{block}")
            if stage == 2:
                x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
        pooled = x.flatten(2).mean(2)
        return pooled, pooled @ self.blobs["pred_w"].T + self.blobs["pred_b"]


NAMES = ("i3d-resnet50", "i3d-resnet50-nl")


def blobs_of(name: str) -> dict[str, Tensor]:
    blobs = filled(caffe2_shapes(non_local=name.endswith("-nl")), seed=3)
    for key, blob in blobs.items():
        # Residual sums must not double block by block, nor likenesses pick single positions: rounding would then too.
        if key.endswith(("branch2c_bn_s", "theta_w", "phi_w")):
            blob *= 0.1
    return blobs


def published(blobs: Mapping[str, Tensor]) -> dict[str, object]:
    """Give a checkpoint as the training wrote it: arrays, and the training's state among them."""
    tree: dict[str, object] = {name: blob.numpy() for name, blob in blobs.items()}
    tree |= {f"{name}_momentum": np.zeros(1) for name in ("conv1_w", "pred_w", "pred_b", "res2_0_branch2a_bn_s")}
    return {"blobs": tree | {"lr": np.float32(1e-4), "model_iter": 400001}}


@pytest.mark.parametrize("name", NAMES)
# 17 frames: 9, 4 and 2 after the stem and its pool. 67 rows: 34, 16, 16, 8, 4, 2, and an odd side for every pool.
@pytest.mark.parametrize(("frames", "height", "width"), [(32, 64, 64), (17, 67, 90)])
def test_the_network_equals_its_blobs(name: str, frames: int, height: int, width: int) -> None:
    blobs = blobs_of(name)
    network = loaded(name, recognised(name, published(blobs)))
    clips = torch.randn((2, 3, frames, height, width), generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected, scores = Caffe2(blobs)(clips)
        features = network(clips)
        assert features.shape == (2, 2048)
        assert relative_l2(features, expected) <= 1e-5
        assert relative_l2(network.head(features), scores) <= 1e-5  # type: ignore[operator]
    assert float((expected > 0).float().mean()) > 0.5
    assert float(expected.std()) > 0.1 * float(expected.mean())
    assert relative_l2(expected[0], expected[1]) > 1e-2


def test_mixing_and_its_likenesses_change_features() -> None:
    blobs = blobs_of("i3d-resnet50-nl")
    clips = torch.randn((1, 3, 32, 64, 64), generator=torch.Generator().manual_seed(0))
    alike = {name: torch.zeros_like(blob) if "_theta_" in name else blob for name, blob in blobs.items()}
    with torch.inference_mode():
        with_mixing, _ = Caffe2(blobs)(clips)
        without, _ = Caffe2({name: blob for name, blob in blobs.items() if not name.startswith("nonlocal")})(clips)
        assert relative_l2(with_mixing, without) > 0.1
        assert relative_l2(Caffe2(alike)(clips)[0], with_mixing) > 1e-3


def tushar_shapes(*, non_local: bool) -> dict[str, tuple[int, ...]]:
    """Write out the keys of i3d_r50_kinetics.pth or i3d_r50_nl_kinetics.pth."""
    shapes = {**conv("conv1", 64, 3, 5, 7, 7), **norm("bn1", 64)}
    for layer, (channels_in, inner, out, _, frames) in enumerate(STAGES.values(), start=1):
        for block, span in enumerate(frames):
            at, before = f"layer{layer}.{block}", channels_in if block == 0 else out
            shapes |= conv(f"{at}.conv1", inner, before, span, 1, 1) | norm(f"{at}.bn1", inner)
            shapes |= conv(f"{at}.conv2", inner, inner, 1, 3, 3) | norm(f"{at}.bn2", inner)
            shapes |= conv(f"{at}.conv3", out, inner, 1, 1, 1) | norm(f"{at}.bn3", out)
            if block == 0:
                shapes |= conv(f"{at}.downsample.0", out, before, 1, 1, 1) | norm(f"{at}.downsample.1", out)
            if non_local and (layer, block) in {(2, 1), (2, 3), (3, 1), (3, 3), (3, 5)}:
                for part in ("theta", "phi", "g"):
                    shapes |= conv(f"{at}.nl.{part}", out // 2, out, 1, 1, 1, bias=True)
                shapes |= conv(f"{at}.nl.out", out, out // 2, 1, 1, 1, bias=True) | norm(f"{at}.nl.bn", out)
    return shapes | conv("fc", 400, 2048, bias=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_tushars(name: str) -> None:
    with torch.device("meta"):
        network = find_backbone(name).build({})
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    expected = tushar_shapes(non_local=name.endswith("-nl"))
    counted = {key for key in shapes if key.endswith("num_batches_tracked")}
    assert {key: shape for key, shape in shapes.items() if key not in counted} == expected
    if name == "i3d-resnet50":
        assert len(shapes) == 320
    mapped = recognised(name, published(blobs_of(name)))
    assert {key: tuple(value.shape) for key, value in mapped.items()} == expected


def test_seven_frames_are_the_fewest() -> None:
    spec = find_backbone("i3d-resnet50")
    assert (spec.min_clip_length, spec.dim) == (7, 2048)
    network = spec.build({}, num_classes=0).eval()
    assert network.num_classes == 0
    assert not any(key.startswith("fc") for key in network.state_dict())
    with torch.inference_mode():
        assert network(torch.zeros((1, 3, 7, 48, 48))).shape == (1, 2048)
        with pytest.raises(RuntimeError, match=r"[Oo]utput size"):
            network(torch.zeros((1, 3, 6, 48, 48)))


def test_what_does_not_fit_is_named() -> None:
    blobs = blobs_of("i3d-resnet50")
    changed = dict(blobs)
    changed["res6_0_branch2a_w"] = changed.pop("res5_2_branch2c_w")
    told = "missing: layer4.2.conv3.weight; unknown: res6_0_branch2a_w"
    with pytest.raises(WeightsError, match=told):
        loaded("i3d-resnet50", recognised("i3d-resnet50", published(changed)))
    changed = {**blobs, "res3_1_branch2a_w": torch.zeros((128, 512, 3, 1, 1))}
    with pytest.raises(WeightsError, match=r"layer2.1.conv1.weight is \(128, 512, 3, 1, 1\), expected"):
        loaded("i3d-resnet50", recognised("i3d-resnet50", published(changed)))
    with pytest.raises(WeightsError, match=r"missing: layer2.1.nl.theta.weight"):
        loaded("i3d-resnet50-nl", recognised("i3d-resnet50-nl", published(blobs)))


@pytest.mark.parametrize("name", NAMES)
def test_the_preset_is_the_weights_own(name: str) -> None:
    preset = PRESETS[f"kinetics-{name}"]
    assert find_backbone(name).default_preset is preset
    find_backbone(name).check_switches(preset.network.switches)
    assert (preset.sampling.clip_length, preset.sampling.frame_step) == (32, 2)
    assert (set(preset.transform.mean), set(preset.transform.std)) == ({114.75}, {57.375})
    assert (preset.transform.scale, preset.transform.channel_order) == (1.0, "rgb")
