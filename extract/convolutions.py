"""Convolutions that CPUs compute faster in another way than torch's own; docs/numerics.md has how far values move.

`TimeConvolution`: a kernel ``(k, 1, 1)`` as a 2-D convolution over time and all pixels. The same sums; but what torch
calls has faster float32 code for two dimensions than for three.

`WinogradConvolution`: 3x3 pixels by minimal filtering, F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (CVPR 2016), section 4.3: a quarter of the multiplications. torch and OpenVINO convolve
3-D kernels directly, which in float32 is bound by arithmetic. Over time and channels, transformed tiles are multiplied
and added as matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UsageError
from .fold import share_tensors

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

TOLERANCE = 1e-4
"""The largest relative L2 between a network's float32 features by its own convolutions and by these; docs/numerics.md
has what was measured. A network that lies further off is refused."""

_LEAST_CHANNELS = 32
_LEAST_TILES = 32
"""Fewer tiles in a clip leave matrices too flat: reading four times the weights costs more than it saves."""

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


def with_time_convolutions(network: nn.Module) -> nn.Module:
    """Give a network with its convolutions over time alone as `TimeConvolution`: itself where it has none."""
    return _replaced(
        network, [name for name, module in network.named_modules() if _is_over_time(module)], TimeConvolution
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


def _replaced(network: nn.Module, names: Sequence[str], make: Callable[[nn.Conv3d], nn.Module]) -> nn.Module:
    """Give a copy of a network's structure with modules replaced, sharing all other tensors."""
    if not names:
        return network
    changed = share_tensors(network)
    for name in names:
        parent, _, own = name.rpartition(".")
        convolution: Any = changed.get_submodule(name)
        setattr(changed.get_submodule(parent), own, make(convolution))
    return changed


class WinogradConvolution(nn.Module):
    """Computes what a `torch.nn.Conv3d` does whose kernel is ``(T, 3, 3)``, T odd, with stride 1 and equal padding.

    Maps float32 ``(B, C, T, H, W)`` to ``(B, O, T, H, W)``, channels last. A clip's values do not depend on the others
    of its batch.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        weight = convolution.weight.detach().double()
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        transformed = torch.einsum("ap,bq,oitpq->abtio", kernel, kernel, weight).float()
        num_out, num_in, self._depth = weight.shape[:3]
        self.weight = _constant(transformed.reshape(_POINTS, self._depth, num_in, num_out))
        bias = torch.zeros(num_out) if convolution.bias is None else convolution.bias.detach().clone()
        self.bias = _constant(bias)
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


def with_winograd(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a network that computes the same with Winograd's convolutions where they pay.

    Parameters
    ----------
    network
        in eval mode, float32, on the CPU. It is left as it is; what is returned shares the other tensors.
    shape
        of one input batch, such as ``(1, 3, 16, 112, 112)``. The network runs on noise of this shape: to see how large
        the inputs of its convolutions are, and to compare the result within `TOLERANCE`.

    Raises
    ------
    UsageError
        if none of its convolutions is one that this pays for, or the values lie too far off.
    """
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        expected, chosen = _observe(network, noise)
        if not chosen:
            msg = f"{type(network).__name__} has no convolutions for Winograd's way; use --engine torch-eager"
            raise UsageError(msg)
        changed = _replaced(network, chosen, WinogradConvolution)
        distance = float((changed(noise) - expected).double().norm() / expected.double().norm())
    if not distance <= TOLERANCE:  # so that NaN counts as far
        msg = f"{type(network).__name__} by Winograd's way is {distance:.1e} off; use --engine torch-eager"
        raise UsageError(msg)
    return changed


def _observe(network: nn.Module, inputs: Tensor) -> tuple[Tensor, list[str]]:
    """Run a network once; give its output and the names of the convolutions that Winograd's way pays for."""
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Conv3d, args: tuple[Tensor, ...]) -> None:
            _, _, num_frames, height, width = args[0].shape
            tiles = num_frames * math.ceil(height / TILE) * math.ceil(width / TILE)
            if tiles >= _LEAST_TILES:
                found.append(name)

        return hook

    candidates = {name: module for name, module in network.named_modules() if _is_three_by_three(module)}
    handles = [module.register_forward_pre_hook(look(name)) for name, module in candidates.items()]
    try:
        output = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return output, list(dict.fromkeys(found))


def _is_three_by_three(module: nn.Module) -> bool:
    if type(module) is not nn.Conv3d:
        return False
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
