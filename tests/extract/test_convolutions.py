"""Convolutions over time in two dimensions: against torch's own in double precision, and within whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vadx.extract.convolutions import TimeConvolution, with_time_convolutions
from vadx.extract.engine import EagerNetwork
from vadx.extract.fold import TOLERANCE
from vadx.extract.library import load_backbone

SAME_SUMS = 2e-6
"""Float32 sums of a hundred products in another order: 4e-7 was seen."""
SHAPE = (1, 32, 6, 5, 5)


def channels_last(clips: torch.Tensor) -> torch.Tensor:
    return clips.contiguous(memory_format=torch.channels_last_3d)


def distance(got: torch.Tensor, right: torch.Tensor) -> float:
    return float((got.double() - right.double()).norm() / right.double().norm())


@torch.inference_mode()
def in_double(convolution: nn.Conv3d, clips: torch.Tensor) -> torch.Tensor:
    bias = None if convolution.bias is None else convolution.bias.double()
    padding: Any = convolution.padding
    return F.conv3d(
        clips.double(),
        convolution.weight.double(),
        bias,
        convolution.stride,
        padding,
        convolution.dilation,
        convolution.groups,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "bias": False},
        {"kernel_size": (5, 1, 1), "padding": 0},
        {"kernel_size": (2, 1, 1), "padding": (1, 0, 0)},
        {"kernel_size": (3, 1, 1), "padding": (2, 0, 0), "dilation": (2, 1, 1)},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "groups": 8},
    ],
)
def test_a_convolution_over_time_is_one_of_two_dimensions(options: dict[str, Any]) -> None:
    convolution = nn.Conv3d(24, 40, **options).eval()
    clips = channels_last(torch.randn(2, 24, 7, 5, 6))
    with torch.inference_mode():
        got = TimeConvolution(convolution)(clips)
    right = in_double(convolution, clips)
    assert got.shape == right.shape
    assert distance(got, right) < SAME_SUMS
    assert got.is_contiguous(memory_format=torch.channels_last_3d)


class Doubled(nn.Conv3d):
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(clips)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv3d(8, 8, (3, 3, 1), padding=(1, 1, 0)),
        nn.Conv3d(8, 8, (1, 1, 1)),
        nn.Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1)),
        nn.Conv3d(8, 8, (3, 1, 1), stride=(1, 2, 1)),
        nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 1, 0)),
        nn.Conv3d(8, 8, (3, 1, 1), padding="same"),
        nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0), padding_mode="replicate"),
        Doubled(8, 8, (3, 1, 1), padding=(1, 0, 0)),
    ],
)
def test_what_is_no_plain_convolution_over_time_stays(convolution: nn.Conv3d) -> None:
    network = nn.Sequential(convolution)
    assert with_time_convolutions(network, (1, 8, 6, 5, 5)) is network


def test_a_network_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1)), nn.Conv3d(32, 32, 3, padding=1)).eval()
    before = list(network)
    changed = with_time_convolutions(network, SHAPE)
    assert [type(module) for module in changed] == [TimeConvolution, nn.Conv3d]
    assert list(network) == before
    assert changed[1].weight is network[1].weight


@torch.inference_mode()
def test_neither_the_batch_nor_the_number_of_threads_moves_a_bit() -> None:
    network = nn.Sequential(nn.Conv3d(144, 64, (3, 1, 1), padding=(1, 0, 0))).eval()
    changed = with_time_convolutions(network, (1, 144, 8, 14, 14))
    clips = channels_last(torch.randn(3, 144, 8, 14, 14))
    right, threads = changed(clips), torch.get_num_threads()
    assert torch.equal(changed(channels_last(clips[[2, 1, 0]]))[1], right[1])
    try:
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            assert torch.equal(changed(clips), right), number
    finally:
        torch.set_num_threads(threads)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1)))
    network[0].register_forward_hook(lambda module, args, output: 10 * output)
    return network


class ReadsItsLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Conv3d(32, 32, (3, 1, 1))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.time(clips) * self.time.in_channels
        return made


@pytest.mark.parametrize("make", [hooked, ReadsItsLayer, lambda: nn.Conv3d(32, 32, (3, 1, 1))])
def test_what_is_more_than_a_layer_stays(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    assert with_time_convolutions(network, SHAPE) is network


def test_a_network_that_would_move_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1))).eval()
    really = TimeConvolution.forward
    monkeypatch.setattr(TimeConvolution, "forward", lambda self, clips: (1 + 2 * TOLERANCE) * really(self, clips))
    assert with_time_convolutions(network, SHAPE) is network


def test_a_whole_network_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_backbone("r2plus1d", "random:7").network
    random = np.random.default_rng(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            size = module.num_features
            module.running_mean = torch.from_numpy(random.normal(0, 0.1, size).astype(np.float32))
            module.running_var = torch.from_numpy(random.uniform(0.5, 2, size).astype(np.float32))
    clips = channels_last(torch.from_numpy(random.standard_normal((1, 3, 8, 56, 56), np.float32)))
    calls: list[torch.Size] = []
    really = TimeConvolution.forward
    monkeypatch.setattr(
        TimeConvolution, "forward", lambda self, clips: (calls.append(clips.shape), really(self, clips))[1]
    )
    with torch.inference_mode():
        ours = EagerNetwork(network, device=torch.device("cpu"), dtype=torch.float32)
        ours(clips)
        calls.clear()
        assert distance(ours(clips), network(clips.contiguous())) < 2 * TOLERANCE  # BatchNorm is folded, too
    assert len(calls) == 14
