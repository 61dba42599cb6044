"""Convolutions over time alone, as ones of two dimensions.

A kernel ``(k, 1, 1)``, every second one of R(2+1)D, gives the same sums over time and all pixels; but what torch calls
on CPUs has faster float32 code for two dimensions than for three. docs/numerics.md has by how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .fold import keep_if_same, plain_layers, share_tensors

if TYPE_CHECKING:
    from torch import Tensor


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


def with_time_convolutions(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a network that computes the same with `TimeConvolution`: itself where it has none, or would not.

    ``network`` and ``shape`` are as for `fold.fold_batchnorm`.
    """
    found = {name: module for name, module in plain_layers(network).items() if name and _is_over_time(module)}
    if not found:
        return network

    def change(noise: Tensor) -> tuple[Tensor, nn.Module]:
        changed = share_tensors(network)
        for name, convolution in found.items():
            changed.set_submodule(name, TimeConvolution(convolution))
        return network(noise), changed

    return keep_if_same(network, shape, change)


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
