"""BatchNorm folded into convolutions: where it may be, where it must not, and how near the result is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from vadx.extract.fold import TOLERANCE, fold_batchnorm
from vadx.extract.library import load_backbone

SHAPE = (1, 3, 4, 12, 12)


def shaken(network: nn.Module) -> nn.Module:
    """Give BatchNorms statistics and weights that change values."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval().requires_grad_(False)


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def relative_l2(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).double().norm() / expected.double().norm())


class Net(nn.Module):
    """Two convolutions, each with its BatchNorm; ``between`` is what happens to the first's output."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x, *, skip: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(3, 6, 3, padding=1, bias=False), nn.BatchNorm3d(6)
        self.conv2, self.bn2 = nn.Conv3d(6, 6, 1), nn.BatchNorm3d(6)
        self.between, self.skip = between, skip

    def forward(self, clips: Tensor) -> Tensor:
        made = self.between(self.conv1(clips))
        x = F.relu(self.bn1(made), inplace=True)
        x = self.bn2(self.conv2(x))
        return (x + made if self.skip else x).mean((2, 3, 4))


@pytest.mark.parametrize("name", ["i3d", "r2plus1d", "tsn-bninception", "i3d-resnet50"])
def test_a_networks_batchnorm_is_folded_and_its_values_stay(name: str) -> None:
    network = shaken(load_backbone(name, "random:1").network)
    shape = (1, 3, 16, 224, 224) if name == "i3d" else (1, 3, 8, 64, 64)
    if name == "tsn-bninception":
        shape = (1, 3, 224, 224)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded = fold_batchnorm(network, shape)
    # What is left follows no convolution directly.
    assert num_norms(folded) == 0
    assert num_norms(network) > 10
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    clips = torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert relative_l2(folded(clips), network(clips)) <= TOLERANCE


def test_tensors_that_stay_are_shared() -> None:
    network = shaken(nn.Sequential(Net(), nn.Linear(6, 5)))
    folded = fold_batchnorm(network, SHAPE)
    assert num_norms(folded) == 0
    assert folded[1].weight is network[1].weight


def test_a_network_without_batchnorm_is_given_back() -> None:
    network = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten())
    assert fold_batchnorm(network, SHAPE) is network


class Shared(Net):
    """The first convolution and BatchNorm run twice."""

    def forward(self, clips: Tensor) -> Tensor:
        first = self.bn1(self.conv1(clips))
        return super().forward(clips) + self.bn1(self.conv1(clips.flip(2))).mean((2, 3, 4)) + first.mean((2, 3, 4))


class Activated(nn.BatchNorm3d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


def with_a_hook() -> nn.Module:
    network = Net()
    network.conv1.register_forward_hook(lambda module, args, output: output * 2)
    return network


def with_weight_norm() -> nn.Module:
    network = Net()
    weight_norm(network.conv1)
    return network


def with_a_subclass() -> nn.Module:
    network = Net()
    network.bn1 = Activated(6)
    return network


def with_tied_weights() -> nn.Module:
    network = Net()
    network.tied = nn.Conv3d(3, 6, 3, padding=1, bias=False)
    network.tied.weight = network.conv1.weight
    return network


def with_batch_statistics() -> nn.Module:
    network = Net()
    network.bn1 = nn.BatchNorm3d(6, track_running_stats=False)
    return network


PARTLY: dict[str, Callable[[], nn.Module]] = {
    "something in place between": lambda: Net(F.relu_),
    "something between": lambda: Net(lambda x: x * 2),
    "run twice": Shared,
    "a hook": with_a_hook,
    "parametrized": with_weight_norm,
    "a subclass": with_a_subclass,
    "tied weights": with_tied_weights,
    "statistics of the batch": with_batch_statistics,
}


@pytest.mark.parametrize("case", PARTLY)
def test_what_is_not_plain_stays(case: str) -> None:
    torch.manual_seed(0)
    network = shaken(PARTLY[case]())
    folded = fold_batchnorm(network, SHAPE)
    assert isinstance(folded.bn1, nn.modules.batchnorm._BatchNorm)
    assert isinstance(folded.bn2, nn.Identity)
    clips = torch.randn(SHAPE)
    assert relative_l2(folded(clips), network(clips)) <= TOLERANCE


class ReadsItsNorm(Net):
    def forward(self, clips: Tensor) -> Tensor:
        return super().forward(clips) * self.bn1.weight


@pytest.mark.parametrize("make", [lambda: Net(skip=True), ReadsItsNorm], ids=["output used twice", "reads its norm"])
def test_a_network_that_would_compute_something_else_is_given_back(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = shaken(make())
    assert fold_batchnorm(network, SHAPE) is network


def test_nan_is_never_near() -> None:
    network = shaken(Net())
    network.conv1.weight.data.fill_(float("nan"))
    assert fold_batchnorm(network, SHAPE) is network
