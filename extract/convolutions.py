"""Convolutions that CPUs compute faster in another way than torch's own; docs/numerics.md has how far values move.

`TimeConvolution`: a kernel ``(k, 1, 1)``, every second one of R(2+1)D, as a 2-D convolution over time and all pixels.
The same sums; but what torch calls on CPUs has faster float32 code for two dimensions than for three.

`WinogradConvolution`: 3x3 pixels by minimal filtering, F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (CVPR 2016), section 4.3: a quarter of the multiplications, which bound float32
convolutions on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .fold import keep_if_same, plain_layers, share_tensors

if TYPE_CHECKING:
    from torch import Tensor

TILE = 4
"""Pixels of a side that one tile gives; it takes two more of each side."""

_WINDOW = TILE + 2
_POINTS = _WINDOW * _WINDOW

# Lavin and Gray, section 4.3: the points 0, 1, -1, 2, -2 and infinity.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_POINT_OF_ONES = _WINDOW + 1
"""The point (1, 1): what is added there, `_OUTPUT` adds to every pixel of the tile."""

WINOGRAD_TOLERANCE = 1e-4
"""The largest relative L2 between a network's float32 features by its own convolutions and by `WinogradConvolution`;
docs/numerics.md has what was measured."""

_LEAST_CHANNELS = 32
_LEAST_TILES = 128
"""Tiles of a clip times frames of the kernel. Fewer share the four times larger weights among too few products: 192
(C3D's conv4) gained, 64 (the third stage of R(2+1)D-18) lost."""

_CHANNELS_AT_ONCE = 16


class TimeConvolution(nn.Module):
    """Computes what a `torch.nn.Conv3d` does whose kernel is ``(k, 1, 1)`` and whose stride is 1.

    Maps ``(B, C, T, H, W)``, channels last, to the same of its outputs.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "padding": (int(convolution.padding[0]), 0),
            "dilation": (convolution.dilation[0], 1),
            "groups": convolution.groups,
        }
        weight = convolution.weight.detach().squeeze(-1).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = convolution.bias

    def forward(self, clips: Tensor) -> Tensor:
        """Convolve a batch."""
        num_clips, channels, num_frames, height, width = clips.shape
        pixels = clips.permute(0, 2, 3, 4, 1).reshape(num_clips, num_frames, height * width, channels)
        made = F.conv2d(pixels.permute(0, 3, 1, 2), self.weight, self.bias, **self._options).permute(0, 2, 3, 1)
        return made.reshape(num_clips, -1, height, width, made.shape[-1]).permute(0, 4, 1, 2, 3)


class WinogradConvolution(nn.Module):
    """Computes what a `torch.nn.Conv3d` does whose kernel is ``(T, 3, 3)``, T odd, with stride 1 and equal padding.

    Maps float32 ``(B, C, T, H, W)`` to ``(B, O, T, H, W)``, channels last. One clip at a time, so that its values do
    not depend on the others of its batch, and memory not on how many there are: while a clip is transformed it takes
    about 2.25 times its inputs twice, and 2.25 times its outputs.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        num_out, num_in, self._depth = weight.shape[:3]
        transformed = torch.empty(_POINTS, num_out, self._depth, num_in, dtype=torch.float32)
        # A part at a time: in double precision all of it would be eight times the weights.
        for some, kept in zip(
            torch.split(weight, _CHANNELS_AT_ONCE), torch.split(transformed, _CHANNELS_AT_ONCE, 1), strict=True
        ):
            part = torch.einsum("ap,bq,oitpq->aboti", kernel, kernel, some.double())
            kept.copy_(part.reshape(kept.shape))
        # Each point is a group of channels of one 2-D convolution: over time, and over tiles with a kernel of one.
        by_point = transformed.view(_POINTS * num_out, self._depth, 1, num_in).permute(0, 3, 1, 2)
        self.weight = nn.Parameter(by_point, requires_grad=False)
        bias = torch.zeros(_POINTS, num_out, dtype=torch.float32)
        if convolution.bias is not None:
            bias[_POINT_OF_ONES] = convolution.bias.detach()
        self.bias = nn.Parameter(bias.view(-1), requires_grad=False)
        self.to_points = nn.Parameter(_both_axes(_INPUT), requires_grad=False)
        self.to_pixels = nn.Parameter(_both_axes(_OUTPUT), requires_grad=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Convolve a batch."""
        num_clips, num_in, num_frames, height, width = clips.shape
        down, across = _tiles(height), _tiles(width)
        num_out = self.bias.shape[0] // _POINTS
        borders = (0, 0, 1, TILE * across + 1 - width, 1, TILE * down + 1 - height)
        frames = F.pad(clips.permute(0, 2, 3, 4, 1), borders)
        result = frames.new_empty(num_clips, num_frames, down, TILE, across, TILE, num_out)
        for clip, made in zip(frames, result, strict=True):
            windows = _windows(clip, down, across).reshape(-1, _POINTS, num_in)
            points = torch.matmul(self.to_points, windows).view(1, num_frames, -1, _POINTS * num_in)
            summed = F.conv2d(
                points.permute(0, 3, 1, 2), self.weight, self.bias, padding=(self._depth // 2, 0), groups=_POINTS
            )
            tiles = torch.matmul(self.to_pixels, summed.permute(0, 2, 3, 1).reshape(-1, _POINTS, num_out))
            made.copy_(tiles.view(num_frames, down, across, TILE, TILE, num_out).transpose(2, 3))
        whole = result.view(num_clips, num_frames, TILE * down, TILE * across, num_out)
        return whole[:, :, :height, :width].permute(0, 4, 1, 2, 3)


def _both_axes(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    one = torch.tensor(rows, dtype=torch.float32)
    return torch.kron(one, one).contiguous()


def _tiles(side: int) -> int:
    return math.ceil(side / TILE)


def _windows(frames: Tensor, down: int, across: int) -> Tensor:
    """View frames ``(T, 4 * down + 2, 4 * across + 2, C)`` as windows ``(T, down, across, 6, 6, C)`` that overlap."""
    of_frame, of_row, of_pixel, of_channel = frames.stride()
    shape = (frames.shape[0], down, across, _WINDOW, _WINDOW, frames.shape[-1])
    return frames.as_strided(shape, (of_frame, TILE * of_row, TILE * of_pixel, of_row, of_pixel, of_channel))


def with_time_convolutions(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a network that computes the same with `TimeConvolution`: itself where it has none, or would not.

    ``network`` and ``shape`` are as for `fold.fold_batchnorm`.
    """
    found = {name: module for name, module in plain_layers(network).items() if name and _is_over_time(module)}
    if not found:
        return network

    def change(noise: Tensor) -> tuple[Tensor, nn.Module]:
        return network(noise), _replaced(network, found, TimeConvolution)

    return keep_if_same(network, shape, change)


def with_winograd(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a network that computes the same with `WinogradConvolution`, within `WINOGRAD_TOLERANCE`.

    ``network`` and ``shape`` are as for `fold.fold_batchnorm`: its run on noise shows how many tiles each convolution
    has. Where none has enough, or the result would lie further off, the network is returned itself.
    """
    found = {name: module for name, module in plain_layers(network).items() if name and _is_three_by_three(module)}
    if not found:
        return network

    def change(noise: Tensor) -> tuple[Tensor, nn.Module]:
        expected, large = _observe(network, noise, found)
        return expected, _replaced(network, large, WinogradConvolution) if large else network

    return keep_if_same(network, shape, change, tolerance=WINOGRAD_TOLERANCE)


def _replaced(network: nn.Module, names: Iterable[str], make: Callable[[Any], nn.Module]) -> nn.Module:
    changed = share_tensors(network)
    for name in names:
        changed.set_submodule(name, make(network.get_submodule(name)))
    return changed


def _observe(network: nn.Module, inputs: Tensor, names: Iterable[str]) -> tuple[Tensor, list[str]]:
    """Run a network once; give its output and those of these convolutions whose inputs have tiles enough."""
    large: dict[str, None] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Conv3d, args: tuple[Tensor, ...]) -> None:
            num_frames, height, width = args[0].shape[2:]
            if num_frames * _tiles(height) * _tiles(width) * module.kernel_size[0] >= _LEAST_TILES:
                large[name] = None

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    try:
        return network(inputs), list(large)
    finally:
        for handle in handles:
            handle.remove()


def _is_three_by_three(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv3d
        and module.kernel_size[1:] == (3, 3)
        and module.kernel_size[0] % 2 == 1
        and module.stride == (1, 1, 1)
        and module.dilation == (1, 1, 1)
        and module.groups == 1
        and module.padding == (module.kernel_size[0] // 2, 1, 1)
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
    )


def _is_over_time(module: nn.Module) -> bool:
    # Exact type: a subclass may compute something else.
    return (
        type(module) is nn.Conv3d
        and module.kernel_size[0] > 1
        and module.kernel_size[1:] == (1, 1)
        and module.stride == (1, 1, 1)
        and not isinstance(module.padding, str)
        and module.padding[1:] == (0, 0)
        and module.padding_mode == "zeros"
    )
