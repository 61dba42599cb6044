from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vadx.errors import UsageError, WeightsError
from vadx.extract.backbones import find_backbone

from .plain import conv, converted, filled, loaded, recognised, relative_l2

CONVS = {
    "conv1": (64, 3, 3, 3, 3),
    "conv2": (128, 64, 3, 3, 3),
    "conv3a": (256, 128, 3, 3, 3),
    "conv3b": (256, 256, 3, 3, 3),
    "conv4a": (512, 256, 3, 3, 3),
    "conv4b": (512, 512, 3, 3, 3),
    "conv5a": (512, 512, 3, 3, 3),
    "conv5b": (512, 512, 3, 3, 3),
}
DAVIDEA = {
    **{key: shape for name, shape in CONVS.items() for key, shape in conv(name, *shape, bias=True).items()},
    **conv("fc6", 4096, 8192, bias=True),
    **conv("fc7", 4096, 4096, bias=True),
    **conv("fc8", 487, 4096, bias=True),
}
BACKBONE = [key for key in DAVIDEA if not key.startswith(("fc7", "fc8"))]


class Expected(NamedTuple):
    caffe: Tensor
    ports: Tensor
    caffe_before_relu: Tensor
    scores: Tensor


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return filled(DAVIDEA, seed=1)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return torch.randn((1, 3, 16, 112, 112), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor], clip: Tensor) -> Expected:
    """Compute the prototxt's layers one by one; pool5 as windows over what a border of -inf leaves."""
    x = clip
    pools = {"conv1": (1, 2, 2), "conv2": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}
    for name in CONVS:
        x = F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).clamp(min=0)
        if name in pools:
            x = F.max_pool3d(x, pools[name], pools[name])
    assert x.shape == (1, 512, 2, 7, 7)
    found = {}
    for pool5, border in {"caffe": (0, 1, 0, 1, 0, 0), "ports": (1, 1, 1, 1, 0, 0)}.items():
        pooled = F.max_pool3d(F.pad(x, border, value=-math.inf), (2, 2, 2), (2, 2, 2))
        assert pooled.shape == (1, 512, 1, 4, 4)
        found[pool5] = pooled.reshape(1, 8192) @ state["fc6.weight"].T + state["fc6.bias"]
    fc6 = found["caffe"].clamp(min=0)
    fc7 = (fc6 @ state["fc7.weight"].T + state["fc7.bias"]).clamp(min=0)
    scores = fc7 @ state["fc8.weight"].T + state["fc8.bias"]
    return Expected(fc6, found["ports"].clamp(min=0), found["caffe"], scores)


def without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: state[key] for key in BACKBONE}


def test_the_reference_is_alive_and_the_published_variants_differ(expected: Expected) -> None:
    assert 0.2 < float((expected.caffe > 0).float().mean()) < 0.8
    assert float(expected.caffe.std()) > 0.1
    # Measured: 0.56.
    assert relative_l2(expected.ports, expected.caffe) > 0.2
    assert relative_l2(expected.caffe_before_relu, expected.caffe) > 0.2


def test_features_and_scores_are_the_prototxts(state: dict[str, Tensor], clip: Tensor, expected: Expected) -> None:
    network = loaded("c3d", state)
    with torch.inference_mode():
        features = network(clip)
        scores = network.head(features)  # type: ignore[operator]
    assert network.num_classes == 487
    assert features.shape == (1, 4096)
    assert relative_l2(features, expected.caffe) <= 1e-5
    assert relative_l2(scores, expected.scores) <= 1e-5


def test_the_ports_round_pool5_otherwise(state: dict[str, Tensor], clip: Tensor, expected: Expected) -> None:
    # As mmaction2 publishes: other names, fc7 without fc8.
    published = {
        "conv1a.conv.weight": state["conv1.weight"],
        "conv1a.conv.bias": state["conv1.bias"],
        "conv2a.conv.weight": state["conv2.weight"],
        "conv2a.conv.bias": state["conv2.bias"],
        **{
            f"{name}.conv.{part}": state[f"{name}.{part}"]
            for name in ("conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
            for part in ("weight", "bias")
        },
        **{key: state[key] for key in ("fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias")},
    }
    network = loaded("c3d", converted("c3d", published), num_classes=0, pool5="ports")
    with torch.inference_mode():
        assert relative_l2(network(clip), expected.ports) <= 1e-5


def test_the_vector_before_its_relu(state: dict[str, Tensor], clip: Tensor, expected: Expected) -> None:
    # As MIST names it, without a classifier.
    published = {key.replace("conv1.", "conv1a.").replace("conv2.", "conv2a."): state[key] for key in BACKBONE}
    assert {"conv1a.weight", "conv2a.bias", "conv3a.weight"} <= published.keys()
    network = loaded("c3d", converted("c3d", published), num_classes=0, relu=False)
    with torch.inference_mode():
        features = network(clip)
    assert float(features.min()) < 0
    assert relative_l2(features, expected.caffe_before_relu) <= 1e-5


def test_the_first_mmaction_kept_the_classifier_beside_the_backbone(state: dict[str, Tensor]) -> None:
    published = {
        f"backbone.{key.replace('conv1.', 'conv1a.').replace('conv2.', 'conv2a.')}": value
        for key, value in state.items()
        if not key.startswith("fc8")
    }
    published |= {"cls_head.fc_cls.weight": state["fc8.weight"][:101], "cls_head.fc_cls.bias": state["fc8.bias"][:101]}
    got = converted("c3d", published)
    assert got.keys() == state.keys()
    assert got["fc8.weight"].shape == (101, 4096)
    assert all(torch.equal(got[key], state[key]) for key in [*BACKBONE, "fc7.weight", "fc7.bias"])


def test_a_checkpoint_of_our_names_is_left_as_it_is(state: dict[str, Tensor]) -> None:
    assert recognised("c3d", {"state_dict": state}) == state


def test_mists_names_are_recognised(state: dict[str, Tensor]) -> None:
    published = {key.replace("conv1.", "conv1a.").replace("conv2.", "conv2a."): state[key] for key in BACKBONE}
    assert recognised("c3d", published).keys() == set(BACKBONE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv5b.weight": None}, "missing: conv5b.weight"),
        ({"conv6.weight": torch.zeros(1)}, "unknown: conv6.weight"),
        ({"fc6.weight": torch.zeros(4096, 4608)}, r"fc6.weight is \(4096, 4608\), expected \(4096, 8192\)"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Tensor], change: dict[str, Tensor | None], told: str) -> None:
    changed = {**without_classifier(state), **change}
    with pytest.raises(WeightsError, match=told):
        loaded("c3d", {key: value for key, value in changed.items() if value is not None}, num_classes=0)


def test_the_names_are_davideas() -> None:
    spec = find_backbone("c3d")
    with torch.device("meta"):
        assert {key: tuple(value.shape) for key, value in spec.build({}).state_dict().items()} == DAVIDEA
        assert list(spec.build({}, num_classes=0).state_dict()) == BACKBONE
    assert (spec.dim, spec.clip_lengths, spec.input_size, spec.min_clip_length) == (4096, (16,), 112, 16)


def test_switches_are_closed() -> None:
    spec = find_backbone("c3d")
    with pytest.raises(UsageError, match="pool5 is one of caffe, ports"):
        spec.build({"pool5": "floor"})
    assert {name: values[0] for name, values in spec.switches.items()} == {"pool5": "caffe", "relu": True}
