"""Convolutions that CPUs compute faster in another way than torch's own; docs/numerics.md has how far values move.

`TimeConvolution`: a kernel ``(k, 1, 1)`` as a 2-D convolution over time and all pixels. The same sums; but what torch
calls has faster float32 code for two dimensions than for three.

`WinogradConvolution`: 3x3 pixels by minimal filtering, F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (CVPR 2016), section 4.3: a quarter of the multiplications. torch and OpenVINO convolve
3-D kernels directly, which in float32 is bound by arithmetic. Over time and channels, transformed tiles are multiplied
and added as matrices.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UsageError
from . import fold
from .fold import plain_layers, share_tensors

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

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

TOLERANCE = 1e-4
"""The largest relative L2 between a network's float32 features by its own convolutions and by these; docs/numerics.md
has what was measured. A network that lies further off is refused."""

_LEAST_CHANNELS = 32
_LEAST_TILES = 32
"""Fewer tiles in a clip leave matrices too flat: reading four times the weights costs more than it saves."""

_CHANNELS_AT_ONCE = 16

_BLOCK_BYTES = 16 << 20
"""Transformed tiles that are worked on at once, so that they stay in a CPU's cache."""


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
        weight = convolution.weight.detach().squeeze(-1)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if convolution.bias is None else _constant(convolution.bias.detach())

    def forward(self, clips: Tensor) -> Tensor:
        """Convolve a batch."""
        num_clips, channels, num_frames, height, width = clips.shape
        pixels = clips.permute(0, 2, 3, 4, 1).reshape(num_clips, num_frames, height * width, channels)
        made = F.conv2d(pixels.permute(0, 3, 1, 2), self.weight, self.bias, **self._options).permute(0, 2, 3, 1)
        return made.reshape(num_clips, -1, height, width, made.shape[-1]).permute(0, 4, 1, 2, 3)


class WinogradConvolution(nn.Module):
    """Computes what a `torch.nn.Conv3d` does whose kernel is ``(T, 3, 3)``, T odd, with stride 1 and equal padding.

    Maps float32 ``(B, C, T, H, W)`` to ``(B, O, T, H, W)``, channels last. A clip's values do not depend on the others
    of its batch.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        num_out, num_in, self._depth = weight.shape[:3]
        transformed = torch.empty(_POINTS, self._depth, num_in, num_out, dtype=torch.float32)
        # A part at a time: in double precision all of it would be eight times the weights.
        for some, kept in zip(
            torch.split(weight, _CHANNELS_AT_ONCE), torch.split(transformed, _CHANNELS_AT_ONCE, -1), strict=True
        ):
            part = torch.einsum("ap,bq,oitpq->abtio", kernel, kernel, some.double())
            kept.copy_(part.reshape(kept.shape))
        self.weight = _constant(transformed)
        bias = convolution.bias
        self.bias = _constant(torch.zeros(num_out, dtype=torch.float32) if bias is None else bias.detach().clone())
        self.to_points = _constant(_both_axes(_INPUT))
        self.to_pixels = _constant(_both_axes(_OUTPUT))

    def forward(self, clips: Tensor) -> Tensor:
        """Convolve a batch."""
        num_clips, _, num_frames, height, width = clips.shape
        down, across = math.ceil(height / TILE), math.ceil(width / TILE)
        num_out = self.weight.shape[-1]
        frames = clips.permute(0, 2, 3, 4, 1)
        result = frames.new_empty(num_clips, num_frames, TILE * down, TILE * across, num_out)
        margin = self._depth // 2
        borders = (0, 0, 1, TILE * across + 1 - width, 1, TILE * down + 1 - height, margin, margin)
        for clip, made in zip(frames, result, strict=True):
            tiles = _windows(F.pad(clip, borders), down, across)
            step = self._frames_at_once(down * across)
            for start in range(0, num_frames, step):
                stop = min(num_frames, start + step)
                pixels = made[start:stop].view(stop - start, down, TILE, across, TILE, num_out)
                self._convolve(tiles[:, :, start : stop + 2 * margin], pixels)
        return result[:, :, :height, :width].permute(0, 4, 1, 2, 3)

    def _convolve(self, tiles: Tensor, pixels: Tensor) -> None:
        """Fill ``(T, down, 4, across, 4, O)`` from windows ``(6, 6, T + depth - 1, down, across, C)``."""
        num_frames, down, _, across, _, num_out = pixels.shape
        num_in = tiles.shape[-1]
        rows = num_frames * down * across
        points = torch.mm(self.to_points, tiles.reshape(_POINTS, -1)).view(_POINTS, -1, down * across, num_in)
        summed = torch.bmm(points[:, :num_frames].reshape(_POINTS, rows, num_in), self.weight[:, 0])
        for later in range(1, self._depth):
            moved = points[:, later : later + num_frames].reshape(_POINTS, rows, num_in)
            summed.baddbmm_(moved, self.weight[:, later])
        made = torch.mm(self.to_pixels, summed.view(_POINTS, -1)).view(TILE, TILE, num_frames, down, across, num_out)
        torch.add(made.permute(2, 3, 0, 4, 1, 5), self.bias, out=pixels)

    def _frames_at_once(self, num_tiles: int) -> int:
        num_in, num_out = self.weight.shape[-2:]
        return max(1, _BLOCK_BYTES // (4 * _POINTS * num_tiles * (num_in + num_out)))


def _both_axes(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    one = torch.tensor(rows, dtype=torch.float32)
    return torch.kron(one, one).contiguous()


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def _windows(frames: Tensor, down: int, across: int) -> Tensor:
    """View frames ``(T, 4 * down + 2, 4 * across + 2, C)`` as windows ``(6, 6, T, down, across, C)`` that overlap."""
    of_frame, of_row, of_pixel, of_channel = frames.stride()
    shape = (_WINDOW, _WINDOW, frames.shape[0], down, across, frames.shape[-1])
    return frames.as_strided(shape, (of_row, of_pixel, of_frame, TILE * of_row, TILE * of_pixel, of_channel))


def with_faster_convolutions(network: nn.Module, shape: tuple[int, ...], *, winograd: bool) -> nn.Module:
    """Give a network that computes the same with `TimeConvolution`, and, if asked for, `WinogradConvolution`.

    Parameters
    ----------
    network
        in eval mode, float32, on the CPU. It is left as it is; what is returned shares the other tensors. It is
        returned itself where it has no convolutions over time, or lies further off with them than `fold.TOLERANCE`.
    shape
        of one input batch, such as ``(1, 3, 16, 112, 112)``. The network runs on noise of this shape: to see how large
        the inputs of its convolutions are, and to compare the result.

    Raises
    ------
    UsageError
        if Winograd's way is asked for and pays for none of its convolutions, or cannot compute it within `TOLERANCE`.
    """
    layers = {name: module for name, module in plain_layers(network).items() if name and type(module) is nn.Conv3d}
    makers: dict[str, type[TimeConvolution | WinogradConvolution]] = {
        name: TimeConvolution for name, module in layers.items() if _is_over_time(module)
    }
    if not makers and not winograd:
        return network
    called, distance = type(network).__name__, math.inf
    try:
        with torch.inference_mode(False), torch.no_grad():
            noise = torch.randn(shape, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
            expected, large = _observe(network, noise, layers)
            if winograd:
                makers |= {name: WinogradConvolution for name in large if _is_three_by_three(layers[name])}
            changed = share_tensors(network)
            for name, make in makers.items():
                changed.set_submodule(name, make(layers[name]))
            distance = float((changed(noise) - expected).double().norm() / expected.double().norm())
    except Exception as error:  # the network's own code, which may need the modules that were replaced
        if winograd:
            msg = f"{called} cannot be computed by Winograd's way ({error}); use --engine torch-eager"
            raise UsageError(msg) from error
        _log.debug("%s keeps its convolutions over time: %s", called, error)
        return network
    if winograd and WinogradConvolution not in makers.values():
        msg = f"{called} has no convolutions for Winograd's way; use --engine torch-eager"
        raise UsageError(msg)
    # Written so that NaN counts as far.
    if not distance <= (TOLERANCE if winograd else fold.TOLERANCE):
        if winograd:
            msg = f"{called} by Winograd's way is {distance:.1e} off; use --engine torch-eager"
            raise UsageError(msg)
        _log.debug("%s keeps its convolutions over time: relative L2 %.1e", called, distance)
        return network
    return changed


def _observe(network: nn.Module, inputs: Tensor, layers: Mapping[str, nn.Conv3d]) -> tuple[Tensor, list[str]]:
    """Run a network once; give its output and the names of the layers whose inputs have many tiles."""
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            *frames, height, width = args[0].shape[2:]
            tiles = math.prod(frames) * math.ceil(height / TILE) * math.ceil(width / TILE)
            if tiles >= _LEAST_TILES:
                found.append(name)

        return hook

    handles = [module.register_forward_pre_hook(look(name)) for name, module in layers.items()]
    try:
        output = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, list(dict.fromkeys(found))


def _is_over_time(module: nn.Conv3d) -> bool:
    return (
        module.kernel_size[0] > 1
        and module.kernel_size[1:] == (1, 1)
        and module.stride == (1, 1, 1)
        and not isinstance(module.padding, str)
        and module.padding[1:] == (0, 0)
        and module.padding_mode == "zeros"
    )


def _is_three_by_three(module: nn.Conv3d) -> bool:
    depth, *sides = module.kernel_size
    return (
        sides == [3, 3]
        and depth % 2 == 1
        and module.stride == (1, 1, 1)
        and module.dilation == (1, 1, 1)
        and module.groups == 1
        and module.padding == (depth // 2, 1, 1)
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
    )
