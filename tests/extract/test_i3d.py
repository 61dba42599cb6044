from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from support import REPOSITORY
from vadx.extract.backbones import find_backbone
from vadx.extract.backbones.i3d import InceptionI3d, same_padding
from vadx.extract.library import load_backbone

REFERENCE = json.loads((REPOSITORY / "tests" / "reference" / "i3d_flax.json").read_text())


def reference_clip(frames: int, height: int, width: int) -> Tensor:
    """Compute the clip of the reference file's formula: float32 ``(1, 3, T, H, W)``."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    first = np.sin(0.31 * t + 0.13 * y + 0.07 * x + 1.7 * c)
    second = np.sin(0.0021 * x * y + 0.9 * c - 0.17 * t)
    return torch.from_numpy((0.5 * first + 0.5 * second).astype(np.float32)).permute(3, 0, 1, 2)[None]


def relative_l2(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(scope="module")
def real_network(real_weights: Path) -> InceptionI3d:
    network = load_backbone("i3d", "i3d-rgb-k400-tfhub").network
    assert isinstance(network, InceptionI3d)
    return network.to(memory_format=torch.channels_last_3d)


@pytest.mark.weights
@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: "x".join(map(str, case["clip"])))
def test_the_network_equals_the_flax_one(real_network: InceptionI3d, case: dict[str, Any]) -> None:
    with torch.inference_mode():
        feature = real_network(reference_clip(*case["clip"]).contiguous(memory_format=torch.channels_last_3d))
        logits = real_network.head(feature)[0]
    assert feature.shape == (1, 1024)
    # The reference is rounded to six digits; sums run in another order.
    assert relative_l2(feature[0], torch.tensor(case["feature"])) <= 1e-5
    assert float(feature.norm()) == pytest.approx(case["feature_l2"], rel=1e-5)
    values, classes = logits.topk(5)
    assert classes.tolist() == [index for index, _ in case["logits_top5"]]
    assert values.tolist() == pytest.approx([value for _, value in case["logits_top5"]], abs=1e-3)


def test_the_reference_has_lengths_and_sizes_that_pad_unevenly() -> None:
    clips = {tuple(case["clip"]) for case in REFERENCE["cases"]}
    assert {(16, 224, 224), (24, 224, 224), (64, 224, 224)} <= clips
    assert any(frames % 8 for frames, _, _ in clips)
    assert any(height % 32 and width % 32 for _, height, width in clips)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "expected"),
    [
        (224, 7, 2, (2, 3)),
        (225, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (113, 3, 2, (1, 1)),
        (5, 2, 2, (0, 1)),
        (6, 2, 2, (0, 0)),
        (28, 3, 1, (1, 1)),
        (1, 3, 1, (1, 1)),
        (224, 1, 1, (0, 0)),
        (1, 1, 2, (0, 0)),
        (16, 7, 2, (2, 3)),
        (9, 7, 2, (3, 3)),
    ],
)
def test_same_padding_is_tensorflows(side: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert tuple(same_padding([side], [kernel], [stride])) == expected


def test_padding_of_several_axes_comes_last_axis_first() -> None:
    assert same_padding((16, 224, 225), (7, 7, 7), (2, 2, 2)) == [3, 3, 2, 3, 2, 3]
    assert same_padding((16, 112, 113), (1, 3, 3), (1, 2, 2)) == [1, 1, 0, 1, 0, 0]


UNITS = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
UNIT_KEYS = ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")


def test_the_names_are_the_published_ones() -> None:
    units = [*UNITS, *(f"Mixed_{block}.{branch}" for block in BLOCKS for branch in BRANCHES)]
    published = {f"{unit}.{key}" for unit in units for key in UNIT_KEYS}
    published |= {"logits.conv3d.weight", "logits.conv3d.bias"}
    with torch.device("meta"):
        names = set(InceptionI3d().state_dict())
    assert names == published
    assert len(published) == 344
    assert len([key for key in published if not key.endswith("num_batches_tracked")]) == 287


PLAN: list[tuple[str, Any]] = [
    ("conv", ("Conv3d_1a_7x7", 7, 2)),
    ("pool", ((1, 3, 3), (1, 2, 2))),
    ("conv", ("Conv3d_2b_1x1", 1, 1)),
    ("conv", ("Conv3d_2c_3x3", 3, 1)),
    ("pool", ((1, 3, 3), (1, 2, 2))),
    ("mixed", "Mixed_3b"),
    ("mixed", "Mixed_3c"),
    ("pool", ((3, 3, 3), (2, 2, 2))),
    *(("mixed", f"Mixed_4{letter}") for letter in "bcdef"),
    ("pool", ((2, 2, 2), (2, 2, 2))),
    ("mixed", "Mixed_5b"),
    ("mixed", "Mixed_5c"),
]


class Plain:
    """The published architecture as functions of a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    @staticmethod
    def pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
        before_after = []
        for axis in (4, 3, 2):
            side, k, s = x.shape[axis], kernel[axis - 2], stride[axis - 2]
            total = max(0, (math.ceil(side / s) - 1) * s + k - side)
            before_after += [math.floor(total / 2), math.ceil(total / 2)]
        return F.pad(x, before_after, value=value)

    def conv(self, x: Tensor, name: str, kernel: int, stride: int) -> Tensor:
        padded = self.pad(x, (kernel,) * 3, (stride,) * 3, 0.0)
        y = F.conv3d(padded, self.state[f"{name}.conv3d.weight"], stride=stride)
        gain, bias, mean, var = (
            self.state[f"{name}.bn.{key}"].reshape(1, -1, 1, 1, 1)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return ((y - mean) / torch.sqrt(var + 0.001) * gain + bias).clamp(min=0)

    def pool(self, x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return F.max_pool3d(self.pad(x, kernel, stride, -math.inf), kernel, stride)

    def mixed(self, x: Tensor, name: str) -> Tensor:
        first = self.conv(x, f"{name}.b0", 1, 1)
        second = self.conv(self.conv(x, f"{name}.b1a", 1, 1), f"{name}.b1b", 3, 1)
        third = self.conv(self.conv(x, f"{name}.b2a", 1, 1), f"{name}.b2b", 3, 1)
        fourth = self.conv(self.pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b", 1, 1)
        return torch.cat((first, second, third, fourth), 1)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the feature, and the class scores averaged over what time and space are left."""
        for kind, arguments in PLAN:
            x = self.mixed(x, arguments) if kind == "mixed" else getattr(self, kind)(x, *arguments)
        pooled = F.avg_pool3d(x, (2, 7, 7), (1, 1, 1))
        logits = F.conv3d(pooled, self.state["logits.conv3d.weight"], self.state["logits.conv3d.bias"])
        return pooled.mean((2, 3, 4)), logits.mean((2, 3, 4))


@pytest.fixture(scope="module")
def random_network() -> InceptionI3d:
    """Give a network whose BatchNorm has statistics of its own, scaled so that activations stay near 1."""
    generator = torch.Generator().manual_seed(7)
    network = InceptionI3d().eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if name.endswith("conv3d.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.2, generator=generator)
    return network


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(9, 224, 224), (16, 193, 193), (17, 199, 200)],
)
def test_the_network_equals_a_plain_computation(
    random_network: InceptionI3d, frames: int, height: int, width: int
) -> None:
    clip = torch.randn((1, 3, frames, height, width), generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected, logits = Plain(random_network.state_dict())(clip)
        feature = random_network(clip)
        # The same sums in another order, 57 layers deep: float32 keeps about 1e-6.
        assert relative_l2(feature, expected) <= 1e-5
        assert relative_l2(random_network.head(feature), logits) <= 1e-5
    assert float(expected.std()) > 0.01


def test_the_shortest_clip_has_nine_frames(random_network: InceptionI3d) -> None:
    spec = find_backbone("i3d")
    assert (spec.min_clip_length, spec.dim) == (9, 1024)
    clip = torch.randn((1, 3, 8, 193, 193), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="kernel"):
        random_network(clip)


def test_other_channels_and_classes() -> None:
    with torch.device("meta"):
        network = InceptionI3d(num_classes=157, channels=2)
    assert network.Conv3d_1a_7x7.conv3d.weight.shape == (64, 2, 7, 7, 7)
    assert network.logits.conv3d.weight.shape == (157, 1024, 1, 1, 1)
