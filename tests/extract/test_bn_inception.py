from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vadx.errors import WeightsError
from vadx.extract.backbones import find_backbone
from vadx.extract.presets import PRESETS

from .plain import conv, converted, filled, loaded, norm, recognised, relative_l2

# Name without "inception_" -> channels out, channels in, kernel: pretrainedmodels/models/bninception.py.
CONVS: dict[str, tuple[int, int, int]] = {
    "conv1_7x7_s2": (64, 3, 7),
    "conv2_3x3_reduce": (64, 64, 1),
    "conv2_3x3": (192, 64, 3),
    "3a_1x1": (64, 192, 1),
    "3a_3x3_reduce": (64, 192, 1),
    "3a_3x3": (64, 64, 3),
    "3a_double_3x3_reduce": (64, 192, 1),
    "3a_double_3x3_1": (96, 64, 3),
    "3a_double_3x3_2": (96, 96, 3),
    "3a_pool_proj": (32, 192, 1),
    "3b_1x1": (64, 256, 1),
    "3b_3x3_reduce": (64, 256, 1),
    "3b_3x3": (96, 64, 3),
    "3b_double_3x3_reduce": (64, 256, 1),
    "3b_double_3x3_1": (96, 64, 3),
    "3b_double_3x3_2": (96, 96, 3),
    "3b_pool_proj": (64, 256, 1),
    "3c_3x3_reduce": (128, 320, 1),
    "3c_3x3": (160, 128, 3),
    "3c_double_3x3_reduce": (64, 320, 1),
    "3c_double_3x3_1": (96, 64, 3),
    "3c_double_3x3_2": (96, 96, 3),
    "4a_1x1": (224, 576, 1),
    "4a_3x3_reduce": (64, 576, 1),
    "4a_3x3": (96, 64, 3),
    "4a_double_3x3_reduce": (96, 576, 1),
    "4a_double_3x3_1": (128, 96, 3),
    "4a_double_3x3_2": (128, 128, 3),
    "4a_pool_proj": (128, 576, 1),
    "4b_1x1": (192, 576, 1),
    "4b_3x3_reduce": (96, 576, 1),
    "4b_3x3": (128, 96, 3),
    "4b_double_3x3_reduce": (96, 576, 1),
    "4b_double_3x3_1": (128, 96, 3),
    "4b_double_3x3_2": (128, 128, 3),
    "4b_pool_proj": (128, 576, 1),
    "4c_1x1": (160, 576, 1),
    "4c_3x3_reduce": (128, 576, 1),
    "4c_3x3": (160, 128, 3),
    "4c_double_3x3_reduce": (128, 576, 1),
    "4c_double_3x3_1": (160, 128, 3),
    "4c_double_3x3_2": (160, 160, 3),
    "4c_pool_proj": (128, 576, 1),
    "4d_1x1": (96, 608, 1),
    "4d_3x3_reduce": (128, 608, 1),
    "4d_3x3": (192, 128, 3),
    "4d_double_3x3_reduce": (160, 608, 1),
    "4d_double_3x3_1": (192, 160, 3),
    "4d_double_3x3_2": (192, 192, 3),
    "4d_pool_proj": (128, 608, 1),
    "4e_3x3_reduce": (128, 608, 1),
    "4e_3x3": (192, 128, 3),
    "4e_double_3x3_reduce": (192, 608, 1),
    "4e_double_3x3_1": (256, 192, 3),
    "4e_double_3x3_2": (256, 256, 3),
    "5a_1x1": (352, 1056, 1),
    "5a_3x3_reduce": (192, 1056, 1),
    "5a_3x3": (320, 192, 3),
    "5a_double_3x3_reduce": (160, 1056, 1),
    "5a_double_3x3_1": (224, 160, 3),
    "5a_double_3x3_2": (224, 224, 3),
    "5a_pool_proj": (128, 1056, 1),
    "5b_1x1": (352, 1024, 1),
    "5b_3x3_reduce": (192, 1024, 1),
    "5b_3x3": (320, 192, 3),
    "5b_double_3x3_reduce": (192, 1024, 1),
    "5b_double_3x3_1": (224, 192, 3),
    "5b_double_3x3_2": (224, 224, 3),
    "5b_pool_proj": (128, 1024, 1),
}


def cadene_shapes(channels: int = 3, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for short, (out, channels_in, kernel) in CONVS.items():
        name = short if short.startswith("conv") else f"inception_{short}"
        seen = channels if short == "conv1_7x7_s2" else channels_in
        shapes |= conv(name, out, seen, kernel, kernel, bias=True) | norm(f"{name}_bn", out)
    return shapes | conv("last_linear", num_classes, 1024, bias=True)


class Plain:
    """The published network as functions of a state dict; Caffe's rounding up as a border of -inf."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = self.state[f"{name}.weight"]
        y = F.conv2d(x, kernel, self.state[f"{name}.bias"], stride, kernel.shape[-1] // 2)
        gain, bias, mean, var = (
            self.state[f"{name}_bn.{part}"].reshape(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((y - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)

    @staticmethod
    def halve(x: Tensor) -> Tensor:
        below, right = ((side - 3) % 2 for side in x.shape[-2:])
        return F.max_pool2d(F.pad(x, (0, right, 0, below), value=-math.inf), (3, 3), (2, 2))

    def block(self, x: Tensor, name: str) -> Tensor:
        at = f"inception_{name}"
        stride = 2 if name in ("3c", "4e") else 1
        branches = [self.unit(x, f"{at}_1x1")] if stride == 1 else []
        branches.append(self.unit(self.unit(x, f"{at}_3x3_reduce"), f"{at}_3x3", stride))
        double = self.unit(self.unit(x, f"{at}_double_3x3_reduce"), f"{at}_double_3x3_1")
        branches.append(self.unit(double, f"{at}_double_3x3_2", stride))
        if stride == 2:
            branches.append(self.halve(x))
        else:
            # The average counts the border's zeros, the maximum of 5b does not see its border.
            around = F.pad(x, (1, 1, 1, 1), value=-math.inf if name == "5b" else 0.0)
            pooled = F.max_pool2d(around, 3, 1) if name == "5b" else F.avg_pool2d(around, 3, 1)
            branches.append(self.unit(pooled, f"{at}_pool_proj"))
        return torch.cat(branches, 1)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give features and class scores."""
        x = self.halve(self.unit(images, "conv1_7x7_s2", 2))
        x = self.halve(self.unit(self.unit(x, "conv2_3x3_reduce"), "conv2_3x3"))
        for name in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
            x = self.block(x, name)
        assert x.shape[1:] == (1024, 7, 7)
        pooled = F.avg_pool2d(x, 7).flatten(1)
        return pooled, pooled @ self.state["last_linear.weight"].T + self.state["last_linear.bias"]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return filled(cadene_shapes(), seed=6)


def images(channels: int) -> Tensor:
    return torch.randn((2, channels, 224, 224), generator=torch.Generator().manual_seed(channels))


def old(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep BatchNorm's vectors as (1, C), as PyTorch's first versions did."""
    return {key: value[None] if "_bn." in key else value for key, value in state.items()}


def assert_same_state(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_the_network_equals_a_plain_computation(state: dict[str, Tensor]) -> None:
    # As yjxiong publishes it: fc, and vectors of (1, C).
    tree = {key.replace("last_linear", "fc"): value for key, value in old(state).items()}
    network = loaded("tsn-bninception", converted("tsn-bninception", tree))
    with torch.inference_mode():
        expected, scores = Plain(state)(images(3))
        features = network(images(3))
        assert features.shape == (2, 1024)
        assert relative_l2(features, expected) <= 1e-5
        assert relative_l2(network.head(features), scores) <= 1e-5  # type: ignore[operator]
    assert network.num_classes == 1000
    assert float((expected > 0).float().mean()) > 0.5
    assert float(expected.std()) > 0.1 * float(expected.mean())
    assert relative_l2(expected[0], expected[1]) > 1e-2


def test_the_network_for_flow_equals_a_plain_computation() -> None:
    # As tsn-pytorch saves it: base_model below DataParallel's module, and new_fc.
    state = filled(cadene_shapes(channels=10, num_classes=400), seed=8)
    tree = {
        f"module.{key.replace('last_linear', 'new_fc') if key.startswith('last') else f'base_model.{key}'}": value
        for key, value in state.items()
    }
    got = recognised("tsn-bninception-flow", {"epoch": 3, "state_dict": tree})
    assert_same_state(got, state)
    network = loaded("tsn-bninception-flow", got)
    with torch.inference_mode():
        expected, scores = Plain(state)(images(10))
        features = network(images(10))
        assert relative_l2(features, expected) <= 1e-5
        assert relative_l2(network.head(features), scores) <= 1e-5  # type: ignore[operator]
    assert network.num_classes == 400


def test_mmactions_names_are_recognised(state: dict[str, Tensor]) -> None:
    tree = {
        key.replace("last_linear", "cls_head.fc_cls") if key.startswith("last") else f"backbone.{key}": value
        for key, value in state.items()
    }
    assert_same_state(recognised("tsn-bninception", {"meta": {}, "state_dict": tree}), state)


def test_one_row_of_classes_is_no_old_vector(state: dict[str, Tensor]) -> None:
    tree = {**old(state), "last_linear.weight": torch.zeros((1, 1024)), "last_linear.bias": torch.zeros(1)}
    got = converted("tsn-bninception", tree)
    assert got["last_linear.weight"].shape == (1, 1024)
    assert got["inception_5b_pool_proj_bn.running_var"].shape == (128,)


def test_a_checkpoint_of_our_names_is_left_as_it_is(state: dict[str, Tensor]) -> None:
    assert_same_state(recognised("tsn-bninception", state), state)


@pytest.mark.parametrize("classifier", ["fc", "last_linear"])
def test_old_files_of_yjxiong_and_cadene_are_recognised(state: dict[str, Tensor], classifier: str) -> None:
    tree = {key.replace("last_linear", classifier): value for key, value in old(state).items()}
    assert_same_state(recognised("tsn-bninception", tree), state)


@pytest.mark.parametrize("channels", [3, 10])
def test_the_names_are_cadenes(channels: int) -> None:
    name = {3: "tsn-bninception", 10: "tsn-bninception-flow"}[channels]
    spec = find_backbone(name)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in spec.build({}).state_dict().items()}
        bare = spec.build({}, num_classes=0)
    counted = [key for key in shapes if key.endswith("num_batches_tracked")]
    expected = cadene_shapes(channels, 1000 if channels == 3 else 400)
    assert {key: shape for key, shape in shapes.items() if key not in counted} == expected
    assert (len(shapes), len(counted)) == (485, 69)
    assert bare.num_classes == 0
    assert not any(key.startswith("last_linear") for key in bare.state_dict())
    assert (spec.dim, spec.channels, spec.frame_wise, spec.input_size) == (1024, channels, True, 224)


def test_what_does_not_fit_is_named(state: dict[str, Tensor]) -> None:
    missing = {key: value for key, value in state.items() if key != "inception_4e_3x3.bias"}
    with pytest.raises(WeightsError, match=r"missing: inception_4e_3x3.bias"):
        loaded("tsn-bninception", missing)
    with pytest.raises(WeightsError, match=r"unknown: inception_4e_1x1.weight"):
        loaded("tsn-bninception", {**state, "inception_4e_1x1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"conv1_7x7_s2.weight is \(64, 3, 7, 7\), expected \(64, 10, 7, 7\)"):
        loaded("tsn-bninception-flow", state, num_classes=1000)


def test_the_presets_feed_what_the_networks_take() -> None:
    rgb, flow = PRESETS["imagenet-tsn-bninception"], PRESETS["kinetics-tsn-bninception-flow"]
    assert (rgb.transform.channel_order, rgb.transform.mean) == ("bgr", (104.0, 117.0, 128.0))
    assert flow.flow is not None
    assert flow.flow.channels == find_backbone("tsn-bninception-flow").channels
    assert (flow.transform.scale, flow.transform.offset) == (1.0, -128.0)
    assert rgb.network.temporal == flow.network.temporal == "mean"
