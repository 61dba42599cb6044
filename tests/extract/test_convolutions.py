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
from vadx.extract import convolutions, engines
from vadx.extract.backbones import find_preset
from vadx.extract.convolutions import TimeConvolution, WinogradConvolution, with_time_convolutions, with_winograd
from vadx.extract.engine import EagerNetwork, Engine
from vadx.extract.fold import TOLERANCE
from vadx.extract.library import load_backbone, make_engine

SAME_SUMS = 2e-6
"""Float32 sums of a hundred products in another order: 4e-7 was seen."""
TRANSFORMED = 5e-6
"""The same by F(4x4, 3x3), whose transforms multiply by up to 8: 1.2e-6 was seen."""
CPU = torch.device("cpu")
SHAPE = (1, 32, 6, 5, 5)
TILED = (1, 32, 8, 16, 16)
"""Of as many tiles, 128, as a kernel of one frame needs."""


def channels_last(clips: torch.Tensor) -> torch.Tensor:
    return clips.contiguous(memory_format=torch.channels_last_3d)


def distance(got: torch.Tensor, right: torch.Tensor) -> float:
    return float((got.double() - right.double()).norm() / right.double().norm())


def network_and_clips(name: str, shape: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor]:
    """Give a network with random weights and BatchNorm statistics, and clips of noise for it."""
    network = load_backbone(name, "random:7").network
    random = np.random.default_rng(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            size = module.num_features
            module.running_mean = torch.from_numpy(random.normal(0, 0.1, size).astype(np.float32))
            module.running_var = torch.from_numpy(random.uniform(0.5, 2, size).astype(np.float32))
    return network, channels_last(torch.from_numpy(random.standard_normal(shape, np.float32)))


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
    network, clips = network_and_clips("r2plus1d", (1, 3, 8, 56, 56))
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


WINOGRAD_SHAPES = {
    "of whole tiles": (32, 48, 3, 4, 8, 8),
    "of parts of tiles": (40, 32, 3, 3, 7, 10),
    "one frame": (32, 32, 1, 1, 5, 4),
    "frames by themselves": (33, 35, 1, 6, 9, 4),
    "over five frames": (32, 32, 5, 6, 8, 4),
    "smaller than a tile": (32, 32, 3, 2, 1, 3),
}


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", WINOGRAD_SHAPES)
def test_winograds_way_gives_what_the_direct_way_does(shape: str, has_bias: bool) -> None:
    num_in, num_out, depth, num_frames, height, width = WINOGRAD_SHAPES[shape]
    convolution = nn.Conv3d(num_in, num_out, (depth, 3, 3), padding=(depth // 2, 1, 1), bias=has_bias).eval()
    clips = channels_last(torch.randn(2, num_in, num_frames, height, width))
    with torch.inference_mode():
        got = WinogradConvolution(convolution)(clips)
    right = in_double(convolution, clips)
    assert got.shape == right.shape
    assert distance(got, right) < TRANSFORMED


def test_a_convolution_by_hand() -> None:
    """Ones under a kernel of ones and a bias of 5: 9 inside, 6 at an edge, 4 in a corner, for each of the channels."""
    convolution = nn.Conv3d(2, 1, (1, 3, 3), padding=(0, 1, 1))
    convolution.load_state_dict({"weight": torch.ones(1, 2, 1, 3, 3), "bias": torch.tensor([5.0])})
    with torch.inference_mode():
        (((got,),),) = WinogradConvolution(convolution)(torch.ones(1, 2, 1, 5, 5))
    right = [[13, 17, 17, 17, 13], *[[17, 23, 23, 23, 17]] * 3, [13, 17, 17, 17, 13]]
    np.testing.assert_allclose(got.numpy(), right, rtol=1e-6)


@torch.inference_mode()
def test_a_clip_and_threads_alike_leave_every_bit() -> None:
    """Neither the rest of the batch, nor the place in it, nor the number of threads moves a value."""
    network = nn.Sequential(nn.Conv3d(32, 64, 3, padding=1)).eval()
    changed = with_winograd(network, (1, 32, 8, 20, 20))
    assert changed is not network
    clips = channels_last(torch.randn(3, 32, 8, 20, 20))
    right, threads = changed(clips), torch.get_num_threads()
    assert torch.equal(changed(channels_last(clips[1:2])), right[1:2])
    assert torch.equal(changed(channels_last(clips[[2, 1, 0]]))[0], right[2])
    try:
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            assert torch.equal(changed(clips), right)
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
        nn.Conv3d(16, 32, 3, padding=1),
        Doubled(32, 32, 3, padding=1),
    ],
)
def test_what_winograds_way_is_not_for_stays(convolution: nn.Conv3d) -> None:
    network = nn.Sequential(convolution).eval()
    assert with_winograd(network, (1, convolution.in_channels, *TILED[2:])) is network


@pytest.mark.parametrize(
    ("depth", "shape", "is_changed"),
    [(1, (8, 16, 16), True), (1, (7, 16, 16), False), (1, (8, 16, 12), False), (3, (3, 16, 13), True)],
)
def test_convolutions_of_few_tiles_stay(depth: int, shape: tuple[int, ...], is_changed: bool) -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, (depth, 3, 3), padding=(depth // 2, 1, 1))).eval()
    changed = with_winograd(network, (1, 32, *shape))
    assert (type(changed[0]) is WinogradConvolution) is is_changed


def test_a_network_is_left_as_it_is_by_winograds_way() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1), nn.Conv3d(32, 32, 1)).eval()
    before = list(network)
    changed = with_winograd(network, TILED)
    assert [type(module) for module in changed] == [WinogradConvolution, nn.Conv3d]
    assert list(network) == before
    assert changed[1].weight is network[1].weight


def test_a_network_that_winograds_way_would_move_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1)).eval()
    monkeypatch.setattr(convolutions, "_OUTPUT", (*convolutions._OUTPUT[:3], (0, 1, -1, 8, -8, 1.01)))
    assert with_winograd(network, TILED) is network


def hooked_pixels() -> nn.Module:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1))
    network[0].register_forward_hook(lambda module, args, output: 10 * output)
    return network


class ReadsItsPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Conv3d(32, 32, 3, padding=1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.pixels(clips) * self.pixels.in_channels
        return made


class ByName(ReadsItsPixels):
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.pixels(input=clips)
        return made


@pytest.mark.parametrize("make", [hooked_pixels, ReadsItsPixels, ByName, lambda: nn.Conv3d(32, 32, 3, padding=1)])
def test_what_needs_its_own_pixels_stays(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    assert with_winograd(network, TILED) is network


def test_the_type_of_new_tensors_does_not_matter() -> None:
    network = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1, bias=False)).eval()
    torch.set_default_dtype(torch.float64)
    try:
        changed = with_winograd(network, TILED)
    finally:
        torch.set_default_dtype(torch.float32)
    assert type(changed[0]) is WinogradConvolution
    assert {parameter.dtype for parameter in changed.parameters()} == {torch.float32}


@pytest.mark.parametrize(("name", "shape"), [("c3d", (1, 3, 16, 112, 112)), ("r2plus1d", (1, 3, 8, 112, 112))])
def test_a_whole_network_by_winograds_way_gives_the_same_features(name: str, shape: tuple[int, ...]) -> None:
    network, clips = network_and_clips(name, shape)
    with torch.inference_mode():
        eager, ours = (
            EagerNetwork(network, device=CPU, dtype=torch.float32, by_winograd=by_winograd)(clips)
            for by_winograd in (False, True)
        )
        right = network(clips.contiguous())
    assert 0 < distance(ours, eager) < 2e-5  # errors grow with the number of layers; docs/numerics.md has what was seen
    assert distance(ours, right) < 3e-5  # BatchNorm's folding may be as far off again


@pytest.mark.parametrize(
    ("preset", "engine"), [("sports1m-c3d-channel-mean", "torch-winograd"), ("kinetics-r2plus1d", "torch-eager")]
)
def test_the_table_takes_winograds_way_for_c3d(preset: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PREFERENCE", ("torch-winograd", "torch-eager"))
    backbone = load_backbone(find_preset(preset).backbone, "random:0", preset=preset)
    made = make_engine(backbone, backbone.recipe, device="cpu", batch=1)
    assert made.provenance == {"engine": engine, "device": "cpu", "batch": 1}


def test_where_it_cannot_run_a_network_torch_does_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tiny = load_backbone("tiny", "random:0")
    arguments: dict[str, Any] = {"device": CPU, "precision": "fp32", "batch": 1, "engine": "torch-winograd"}
    shape = (3, tiny.recipe.sampling.clip_length, 16, 16)
    made = Engine(tiny.network, tiny.recipe.transform, fall_back=True, **arguments)
    made.probe(shape)
    assert made.name == "torch-eager"
    assert "torch-eager runs this network instead of torch-winograd" in caplog.text
    with pytest.raises(UsageError, match=r"no 3x3 convolutions that gain by .*use --engine torch-eager"):
        Engine(tiny.network, tiny.recipe.transform, **arguments).probe(shape)
