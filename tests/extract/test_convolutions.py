"""Convolutions in another way than torch's: against torch's own in double precision, and within whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vadx.errors import UsageError
from vadx.extract import convolutions
from vadx.extract.convolutions import (
    TimeConvolution,
    WinogradConvolution,
    with_faster_convolutions,
)
from vadx.extract.engine import EagerNetwork, Engine
from vadx.extract.library import load_backbone, make_engine

CPU = torch.device("cpu")
SAME_SUMS = 2e-6
"""Float32 sums of a few thousand products in another order: 4e-7 was seen."""
TRANSFORMED = 5e-6
"""The same by F(4x4, 3x3), whose transforms multiply by up to 8: 1.7e-6 was seen."""


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
    assert with_faster_convolutions(network, (1, 8, 6, 5, 5), winograd=False) is network


def test_a_network_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1)), nn.Conv3d(32, 32, 3, padding=1), nn.Conv3d(32, 32, 1)).eval()
    before = list(network)
    timed = with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=False)
    assert [type(module) for module in timed] == [TimeConvolution, nn.Conv3d, nn.Conv3d]
    changed = with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=True)
    assert [type(module) for module in changed] == [TimeConvolution, WinogradConvolution, nn.Conv3d]
    assert list(network) == before
    assert changed[2].weight is network[2].weight


SHAPES = {
    "of whole tiles": (32, 48, 3, 4, 8, 8),
    "of parts of tiles": (40, 32, 3, 3, 7, 10),
    "one frame": (32, 32, 1, 1, 5, 4),
    "frames by themselves": (33, 35, 1, 6, 9, 4),
    "over five frames": (32, 32, 5, 6, 8, 4),
    "smaller than a tile": (32, 32, 3, 2, 1, 3),
}


@pytest.mark.parametrize("block_bytes", [1, convolutions._BLOCK_BYTES])
@pytest.mark.parametrize("shape", SHAPES)
def test_winograds_way_gives_what_the_direct_way_does(
    shape: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "_BLOCK_BYTES", block_bytes)
    num_in, num_out, depth, num_frames, height, width = SHAPES[shape]
    convolution = nn.Conv3d(num_in, num_out, (depth, 3, 3), padding=(depth // 2, 1, 1)).eval()
    clips = channels_last(torch.randn(2, num_in, num_frames, height, width))
    with torch.inference_mode():
        got = WinogradConvolution(convolution)(clips)
    right = in_double(convolution, clips)
    assert got.shape == right.shape
    assert distance(got, right) < TRANSFORMED


def test_a_convolution_by_hand() -> None:
    """Ones under a kernel of ones, without bias: 9 inside, 6 at an edge, 4 in a corner, for each of the channels."""
    convolution = nn.Conv3d(2, 1, (1, 3, 3), padding=(0, 1, 1), bias=False)
    nn.init.ones_(convolution.weight)
    with torch.inference_mode():
        (((got,),),) = WinogradConvolution(convolution)(torch.ones(1, 2, 1, 5, 5))
    right = [[8, 12, 12, 12, 8], *[[12, 18, 18, 18, 12]] * 3, [8, 12, 12, 12, 8]]
    np.testing.assert_allclose(got.numpy(), right, rtol=1e-6)


@torch.inference_mode()
def test_a_clip_and_threads_alike_leave_every_bit() -> None:
    """Neither the rest of the batch, nor the place in it, nor the number of threads moves a value."""
    network = nn.Sequential(nn.Conv3d(32, 64, 3, padding=1), nn.Conv3d(64, 32, (3, 1, 1), padding=(1, 0, 0))).eval()
    changed = with_faster_convolutions(network, (1, 32, 8, 20, 20), winograd=True)
    clips = channels_last(torch.randn(3, 32, 8, 20, 20))
    one = changed[0](channels_last(clips[1:2]))
    right, threads = changed(clips), torch.get_num_threads()
    assert torch.equal(changed[0](clips)[1:2], one)
    try:
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            assert torch.equal(changed(clips), right), number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv3d(32, 32, (3, 5, 5), padding=(1, 2, 2)),
        nn.Conv3d(32, 32, (2, 3, 3), padding=(1, 1, 1)),
        nn.Conv3d(32, 32, 3, padding=1, stride=(1, 2, 2)),
        nn.Conv3d(32, 32, 3, padding=2, dilation=2),
        nn.Conv3d(32, 32, 3, padding=1, groups=32),
        nn.Conv3d(32, 32, 3, padding=0),
        nn.Conv3d(32, 32, 3, padding="same"),
        nn.Conv3d(32, 32, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(32, 16, 3, padding=1),
        Doubled(32, 32, 3, padding=1),
    ],
)
def test_what_winograds_way_is_not_for_is_refused_with_what_to_type(convolution: nn.Conv3d) -> None:
    with pytest.raises(UsageError, match="no convolutions for Winograd's way; use --engine torch-eager"):
        with_faster_convolutions(nn.Sequential(convolution).eval(), (1, 32, 6, 16, 16), winograd=True)


def test_small_pictures_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1)).eval()
    assert type(with_faster_convolutions(network, (1, 32, 2, 16, 16), winograd=True)[0]) is WinogradConvolution
    with pytest.raises(UsageError, match="no convolutions"):
        with_faster_convolutions(network, (1, 32, 2, 12, 16), winograd=True)


def test_values_too_far_off_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1)).eval()
    monkeypatch.setattr(convolutions, "_OUTPUT", (*convolutions._OUTPUT[:3], (0, 1, -1, 8, -8, 1.01)))
    with pytest.raises(UsageError, match=r"is \d\.\de-0\d off; use --engine torch-eager"):
        with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=True)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1)), nn.Conv3d(32, 32, 3, padding=1)).eval()
    for module in network:
        module.register_forward_hook(lambda module, args, output: 10 * output)
    return network


class ReadsItsLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.pixels = nn.Conv3d(32, 32, (3, 1, 1)), nn.Conv3d(32, 32, 3, padding=1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        between: torch.Tensor = self.time(clips)
        return F.conv3d(between, self.pixels.weight, self.pixels.bias, padding=self.pixels.padding) * (
            self.time.in_channels + self.pixels.in_channels
        )


class ByName(ReadsItsLayers):
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.pixels(input=self.time(input=clips))
        return made


@pytest.mark.parametrize("make", [hooked, ReadsItsLayers, ByName])
def test_what_needs_its_own_layers_keeps_them_or_is_refused(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    assert with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=False) is network
    with pytest.raises(UsageError, match="use --engine torch-eager"):
        with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=True)


def test_convolutions_over_time_that_are_far_off_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1))).eval()
    monkeypatch.setattr(TimeConvolution, "forward", lambda self, clips: clips[:, :, 2:])
    assert with_faster_convolutions(network, (1, 32, 6, 16, 16), winograd=False) is network


def test_the_type_of_new_tensors_does_not_matter() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1, bias=False)).eval()
    torch.set_default_dtype(torch.float64)
    try:
        changed = with_faster_convolutions(network, (1, 32, 2, 16, 16), winograd=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in changed.parameters()} == {torch.float32}


@pytest.mark.parametrize(("name", "shape"), [("c3d", (1, 3, 16, 112, 112)), ("r2plus1d", (1, 3, 8, 56, 56))])
def test_a_whole_network_gives_the_same_features(name: str, shape: tuple[int, ...]) -> None:
    backbone = load_backbone(name, "random:7")
    random = np.random.default_rng(7)
    for module in backbone.network.modules():
        if isinstance(module, nn.BatchNorm3d):
            size = module.num_features
            module.running_mean = torch.from_numpy(random.normal(0, 0.1, size).astype(np.float32))
            module.running_var = torch.from_numpy(random.uniform(0.5, 2, size).astype(np.float32))
    clips = channels_last(torch.from_numpy(random.standard_normal(shape, np.float32)))
    with torch.inference_mode():
        eager, ours = (
            EagerNetwork(backbone.network, device=CPU, dtype=torch.float32, by_winograd=by_winograd)(clips)
            for by_winograd in (False, True)
        )
        right = backbone.network(clips.contiguous())
    assert 0 < distance(ours, eager) < 1e-5  # 5e-7 was seen; errors grow with the number of layers
    assert distance(ours, right) < 2e-5  # BatchNorm's folding may be as far off again


def test_it_runs_where_it_is_named() -> None:
    backbone = load_backbone("r2plus1d", "random:0")
    made = make_engine(backbone, backbone.recipe, device="cpu", batch=1, engine="torch-winograd")
    assert made.provenance == {"engine": "torch-winograd", "device": "cpu", "batch": 1}


def test_where_it_cannot_run_a_network_torch_does_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tiny = load_backbone("tiny", "random:0")
    arguments: dict[str, Any] = {"device": CPU, "precision": "fp32", "batch": 1, "engine": "torch-winograd"}
    shape = (3, tiny.recipe.sampling.clip_length, 16, 16)
    made = Engine(tiny.network, tiny.recipe.transform, fall_back=True, **arguments)
    made.probe(shape)
    assert made.name == "torch-eager"
    assert "torch-eager runs this network instead of torch-winograd" in caplog.text
    with pytest.raises(UsageError, match="use --engine torch-eager"):
        Engine(tiny.network, tiny.recipe.transform, **arguments).probe(shape)
