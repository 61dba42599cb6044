"""Resizing of uint8 images as Pillow, OpenCV and torch do it, each number for number.

The arithmetic of Pillow (``src/libImaging/Resample.c``) and of OpenCV (``modules/imgproc/src/resize.cpp``) is integer
arithmetic, so it can be had on any device to the last bit; which release it was compared with is in docs/numerics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..errors import RecipeError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["INTERPOLATIONS", "KERNELS", "resize", "resized_size"]


def resized_size(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Give (height, width) after resizing: exactly ``resize``, or short side ``resize`` and the long side floored."""
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def resize(
    images: Tensor, size: int | tuple[int, int], *, kernel: str = "pil", interpolation: str = "bilinear"
) -> Tensor:
    """Resize uint8 RGB ``images (…, 3, height, width)`` on any device.

    Parameters
    ----------
    size
        short side in pixels (the aspect is kept, the long side floored), or ``(height, width)``.
    kernel
        a name of `KERNELS`.
    interpolation
        ``bilinear``; kernel ``pil`` also has ``bicubic`` and ``lanczos``.

    Returns
    -------
    Tensor
        uint8 of the same shape but for its last two sides; float32 on the 0-255 scale from kernel ``torch_float``.
        Images that have the right size already are returned as they are.

    Raises
    ------
    RecipeError
        for an unknown kernel, an interpolation that the kernel does not have, a size below 1, or images that are no
        uint8 ``(…, channel, height, width)`` of four channels at most (``torch_float`` takes its own result too).
    """
    if kernel not in KERNELS:
        msg = f"unknown resize kernel {kernel!r}; there are: {', '.join(KERNELS)}"
        raise RecipeError(msg)
    there = tuple(INTERPOLATIONS) if kernel == "pil" else ("bilinear",)
    if interpolation not in there:
        msg = f"resize kernel {kernel} has no interpolation {interpolation!r}; it has: {', '.join(there)}"
        raise RecipeError(msg)
    may_be_float = kernel == "torch_float" and images.is_floating_point()
    if images.dim() < 3 or images.shape[-3] > 4 or not (images.dtype == torch.uint8 or may_be_float):
        given = f"{images.dtype} {tuple(images.shape)}"
        msg = f"resize takes uint8 images (..., channel, height, width) of four channels at most, got {given}"
        raise RecipeError(msg)
    if min((size,) if isinstance(size, int) else size) < 1 or images.numel() == 0:
        msg = f"cannot resize images of shape {tuple(images.shape)} to {size}"
        raise RecipeError(msg)
    height, width = images.shape[-2:]
    target = resized_size(height, width, size)
    if target == (height, width):
        return images.float() if kernel == "torch_float" else images
    flat = images.reshape(-1, *images.shape[-3:])
    return KERNELS[kernel](flat, target, interpolation).reshape(*images.shape[:-2], *target)


# Pillow: weights of 22 bits after the point; the rows first, rounded to uint8, then the columns.


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    """Give Keys' cubic with a = -1/2."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0


class _Filter(NamedTuple):
    weight: Callable[[float], float]
    support: float
    pillow: Image.Resampling


INTERPOLATIONS: Mapping[str, _Filter] = MappingProxyType(
    {
        "bilinear": _Filter(_triangle, 1.0, Image.Resampling.BILINEAR),
        "bicubic": _Filter(_cubic, 2.0, Image.Resampling.BICUBIC),
        "lanczos": _Filter(_lanczos, 3.0, Image.Resampling.LANCZOS),
    }
)
"""Name -> Pillow's filter: its weight at a distance, how far it reaches, and its number."""

_PILLOW_BITS = 22


@lru_cache(maxsize=256)
def _pillow_taps(num_in: int, num_out: int, interpolation: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give places, int64, and weights, int32, ``(tap, num_out)``: the sources of each output along one side."""
    weight, support, _ = INTERPOLATIONS[interpolation]
    scale = num_in / num_out
    # Antialiasing: on the way down the filter is as much wider as the image gets smaller.
    stretch = max(scale, 1.0)
    reach = support * stretch
    rows = []
    for index in range(num_out):
        center = (index + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), num_in)
        # By the reciprocal, as Pillow does: a division rounds otherwise.
        weights = [weight((place - center + 0.5) * (1.0 / stretch)) for place in range(first, last)]
        total = sum(weights)
        # Halves are rounded away from zero.
        fixed = [int(math.copysign(0.5, w) + w / total * (1 << _PILLOW_BITS)) for w in weights]
        rows.append((first, fixed))
    num_taps = max(len(fixed) for _, fixed in rows)
    table = np.array([fixed + [0] * (num_taps - len(fixed)) for _, fixed in rows], dtype=np.int32)
    starts = np.array([[first] for first, _ in rows])
    places = np.minimum(starts + np.arange(num_taps), num_in - 1)
    return torch.from_numpy(places.T.copy()).to(device), torch.from_numpy(table.T.copy()).to(device)


def _pillow_pass(images: Tensor, num_out: int, interpolation: str, dim: int) -> Tensor:
    """Resize uint8 ``images`` along one of the last two dimensions."""
    num_in = images.shape[dim]
    if num_in == num_out:
        return images
    places, weights = _pillow_taps(num_in, num_out, interpolation, images.device)
    # Below 2 ** 31: 255 * 2 ** 22 times the sum of the weights without their signs, which is below 1.5.
    total: Tensor | int = 1 << (_PILLOW_BITS - 1)
    for place, weight in zip(places, weights, strict=True):
        along = weight if dim == -1 else weight[:, None]
        total = images.index_select(dim, place).mul(along) + total
    return torch.as_tensor(total).bitwise_right_shift_(_PILLOW_BITS).clamp_(0, 255).to(torch.uint8)


def _resize_pil_tensor(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    height, width = size
    return _pillow_pass(_pillow_pass(images, width, interpolation, -1), height, interpolation, -2)


def _resize_pil(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    # On the CPU Pillow itself is several times faster than the same sums as tensor operations.
    if images.device.type != "cpu" or images.shape[1] != 3:
        return _resize_pil_tensor(images, size, interpolation)
    height, width = size
    method = INTERPOLATIONS[interpolation].pillow
    resized = torch.empty((images.shape[0], height, width, 3), dtype=torch.uint8)
    for target, image in zip(resized.numpy(), images.permute(0, 2, 3, 1).contiguous().numpy(), strict=True):
        # In two calls: Pillow 13 begins with the columns where the height shrinks more than the width, and rounds
        # otherwise than all Pillows before it, with which features were published.
        lines = Image.fromarray(image).resize((width, image.shape[0]), method)
        target[...] = lines.resize((width, height), method)
    return resized.permute(0, 3, 1, 2)


# OpenCV: two taps a side, weights of 11 bits after the point. Sums along rows keep 7 bits after the point.


class _Side(NamedTuple):
    """Where the two taps of each output lie along a side, int64, and their weights, int32: ``(num_out,)`` each."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    first_weight: NDArray[np.int32]
    second_weight: NDArray[np.int32]


@lru_cache(maxsize=256)
def _opencv_side(num_in: int, num_out: int) -> _Side:
    place = ((np.arange(num_out) + 0.5) * (1.0 / (num_out / num_in)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    rest = place - first.astype(np.float32)
    weights = [np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - rest, rest)]
    # Beyond the outer pixels' centres both taps are the outer pixel.
    return _Side(first.clip(0, num_in - 1), (first + 1).clip(0, num_in - 1), weights[0], weights[1])


def _resize_cv2(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if images.device.type == "cpu" and images.shape[1] == 3:
        return _resize_cv2_cpu(images, size)
    return _resize_cv2_tensor(images, size)


def _resize_cv2_tensor(images: Tensor, size: tuple[int, int]) -> Tensor:
    device = images.device
    across = [torch.from_numpy(part).to(device) for part in _opencv_side(images.shape[-1], size[1])]
    down = [torch.from_numpy(part).to(device) for part in _opencv_side(images.shape[-2], size[0])]
    lines = images.index_select(-1, across[0]) * across[2] + images.index_select(-1, across[1]) * across[3]
    lines >>= 4
    upper = (lines.index_select(-2, down[0]) * down[2][:, None]) >> 16
    lower = (lines.index_select(-2, down[1]) * down[3][:, None]) >> 16
    return ((upper + lower + 2) >> 2).to(torch.uint8)


_BAND = 128
"""Output rows that are made at once, so that what lies between the steps stays in the core's cache."""


class _Band(NamedTuple):
    """Some rows of the result: which source rows they need, and which of those are whose taps."""

    rows: slice
    sources: NDArray[np.int64]
    first: Tensor
    second: Tensor
    first_weight: Tensor
    second_weight: Tensor


@lru_cache(maxsize=64)
def _opencv_bands(num_in: int, num_out: int) -> tuple[_Band, ...]:
    side = _opencv_side(num_in, num_out)
    bands = []
    for start in range(0, num_out, _BAND):
        rows = slice(start, min(start + _BAND, num_out))
        sources, taps = np.unique(np.concatenate([side.first[rows], side.second[rows]]), return_inverse=True)
        weights = [torch.from_numpy(part[rows, None]) for part in (side.first_weight, side.second_weight)]
        first, second = torch.from_numpy(taps).chunk(2)
        bands.append(_Band(rows, sources, first, second, weights[0], weights[1]))
    return tuple(bands)


def _resize_cv2_cpu(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Do what `_resize_cv2_tensor` does, band by band in memory that is taken once: several times faster on CPUs."""
    num_images, _, in_height, in_width = images.shape
    height, width = size
    side = _opencv_side(in_width, width)
    weights = [torch.from_numpy(np.repeat(part, 4)) for part in (side.first_weight, side.second_weight)]
    bands = _opencv_bands(in_height, height)
    most = max(len(band.sources) for band in bands)
    tight = np.zeros(most * in_width * 3 + 1, dtype=np.uint8)
    # Four bytes from each pixel on: its three, and one of the next. Whole words are gathered much faster.
    overlapping = np.ndarray((most, in_width), np.uint32, tight, strides=(in_width * 3, 3))
    words = np.empty((most, in_width), dtype=np.uint32)
    taps = np.empty((2, most, width), dtype=np.uint32)
    lines = torch.empty((2, most, width * 4), dtype=torch.int32)
    sums = torch.empty((2, _BAND, width * 4), dtype=torch.int32)
    resized = np.empty((num_images, 3, height, width), dtype=np.uint8)
    for image, target in zip(images.permute(0, 2, 3, 1).contiguous().numpy(), resized, strict=True):
        for band in bands:
            count = len(band.sources)
            rows = tight[: count * in_width * 3].reshape(count, in_width, 3)
            np.take(image, band.sources, axis=0, out=rows, mode="clip")
            words[:count] = overlapping[:count]
            for place, tap, weight, line in zip(side[:2], taps, weights, lines, strict=True):
                np.take(words[:count], place, axis=1, out=tap[:count], mode="clip")
                torch.mul(torch.from_numpy(tap[:count].view(np.uint8)), weight, out=line[:count])
            line = lines[0, :count].add_(lines[1, :count]).bitwise_right_shift_(4)
            upper, lower = sums[:, : band.rows.stop - band.rows.start]
            torch.index_select(line, 0, band.first, out=upper).mul_(band.first_weight).bitwise_right_shift_(16)
            torch.index_select(line, 0, band.second, out=lower).mul_(band.second_weight).bitwise_right_shift_(16)
            upper.add_(lower).add_(2).bitwise_right_shift_(2)
            pixels = upper.to(torch.uint8).numpy().reshape(-1, width, 4)
            for channel in range(3):
                target[channel, band.rows] = pixels[..., channel]
    return torch.from_numpy(resized)


# torch: bilinear in float32, without antialiasing.


def _resize_torch_float(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    # One image at a time on the CPU: a batch of large ones as float32 would not fit into any cache, four times slower.
    parts = torch.split(images, 1) if images.device.type == "cpu" else (images,)
    return torch.cat([_bilinear(part, size) for part in parts])


def _resize_torch(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    parts = torch.split(images, 1) if images.device.type == "cpu" else (images,)
    return torch.cat([_bilinear(part, size).round_().to(torch.uint8) for part in parts])


def _bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=False)


KERNELS: Mapping[str, Callable[[Tensor, tuple[int, int], str], Tensor]] = MappingProxyType(
    {"pil": _resize_pil, "cv2": _resize_cv2, "torch": _resize_torch, "torch_float": _resize_torch_float}
)
"""Name -> resize kernel on uint8 ``(n, 3, H, W)``.

``pil``: Pillow's ``Image.resize``, with antialiasing. ``cv2``: OpenCV's ``resize`` with ``INTER_LINEAR``, without.
``torch``: bilinear without antialiasing in float32, rounded to uint8, equal to torchvision's
``resize(antialias=False)``. ``torch_float``: the same, not rounded."""
