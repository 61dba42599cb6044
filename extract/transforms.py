"""Resizing, crops in every published order, and normalisation, on batches of uint8 frames.

Which kernel stands for which library was measured: facts with figures are in docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from ..features.recipe import Transform

Position = str


def _resize_pil(images: Tensor, size: tuple[int, int]) -> Tensor:
    # torch's own antialiased uint8 kernel differs in some values by 1 or 2, which moves I3D's features by a relative
    # L2 of 1.6e-3 (docs/numerics.md).
    height, width = size
    pictures = (Image.fromarray(image.numpy()) for image in images.permute(0, 2, 3, 1).contiguous())
    resized = [np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) for picture in pictures]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def _resize_torch(images: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=False)
    return resized.round_().to(torch.uint8)


KERNELS: Mapping[str, Callable[[Tensor, tuple[int, int]], Tensor]] = MappingProxyType(
    {"pil": _resize_pil, "torch": _resize_torch}
)
"""Name -> resize kernel on uint8. ``pil``: Pillow's own, bilinear with antialiasing. ``torch``: bilinear without,
rounded to uint8, equal to torchvision's ``resize(antialias=False)`` and within 1 of OpenCV's on upscaling."""


def resized_size(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """Give (height, width) after resizing: exactly ``resize``, or short side ``resize`` and the long side floored."""
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def resize(images: Tensor, size: int | tuple[int, int], *, kernel: str = "pil") -> Tensor:
    """Resize uint8 ``images (…, 3, height, width)`` to a short side or to ``(height, width)``.

    Raises
    ------
    RecipeError
        for an unknown kernel.
    """
    if kernel not in KERNELS:
        msg = f"unknown resize kernel {kernel!r}; there are: {', '.join(KERNELS)}"
        raise RecipeError(msg)
    height, width = images.shape[-2:]
    target = resized_size(height, width, size)
    if target == (height, width):
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    return KERNELS[kernel](flat, target).reshape(*images.shape[:-2], *target)


_FIVE = {
    "tv": ("top left", "top right", "bottom left", "bottom right", "center"),
    "oversample": ("top left", "top right", "center", "bottom left", "bottom right"),
    "roc": ("center", "top left", "top right", "bottom left", "bottom right"),
    "caffe": ("top left", "top right", "bottom left", "bottom right", "center"),
}
_MIRRORS_THE_CROP = frozenset({"roc", "caffe"})

CROP_ORDERS: Mapping[str, tuple[Position, ...]] = MappingProxyType(_FIVE)
"""Name -> order of the first five crops. ``tv``: torchvision, RTFM's author. ``oversample``: UR-DMU and I3D extractors
built on Finspire13's. ``roc``: Roc-Ng/DeepMIL, XD-Violence, VadCLIP. ``caffe``: GCN-Anomaly-Detection. Crops six to ten
are the same places of the mirrored frame (``tv``, ``oversample``) or the same crops mirrored (``roc``, ``caffe``)."""

CENTER_ROUNDING: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {"floor": lambda margin: margin // 2, "round": lambda margin: round(margin / 2)}
)
"""Name -> offset of the centre crop from the margin. ``round`` is torchvision's, half to even."""


def center_crop(images: Tensor, size: int, *, rounding: str = "round") -> Tensor:
    """Crop the centre of ``images (…, height, width)``: a view, nothing is copied."""
    return _crop(images, "center", size, rounding)


def five_crop(images: Tensor, size: int, *, order: str = "tv", rounding: str = "round") -> Tensor:
    """Give ``(5, …, size, size)``: four corners and the centre of ``images (…, height, width)``, in a published order.

    Raises
    ------
    RecipeError
        for an unknown order, or if the images are smaller than ``size``.
    """
    return torch.stack(_five(images, size, order, rounding))


def ten_crop(images: Tensor, size: int, *, order: str = "tv", rounding: str = "round") -> Tensor:
    """Give ``(10, …, size, size)``: the five crops, then their mirrored companions. Raises as `five_crop`."""
    crops = _five(images, size, order, rounding)
    if order in _MIRRORS_THE_CROP:
        return torch.stack([*crops, *(crop.flip(-1) for crop in crops)])
    return torch.stack([*crops, *_five(images.flip(-1), size, order, rounding)])


def _five(images: Tensor, size: int, order: str, rounding: str) -> list[Tensor]:
    if order not in CROP_ORDERS:
        msg = f"unknown crop order {order!r}; there are: {', '.join(CROP_ORDERS)}"
        raise RecipeError(msg)
    return [_crop(images, position, size, rounding) for position in CROP_ORDERS[order]]


def _crop(images: Tensor, position: Position, size: int, rounding: str) -> Tensor:
    height, width = images.shape[-2:]
    if min(height, width) < size:
        msg = f"cannot crop {size}x{size} out of {width}x{height}"
        raise RecipeError(msg)
    if position == "center":
        top, left = (CENTER_ROUNDING[rounding](side - size) for side in (height, width))
    else:
        top = 0 if "top" in position else height - size
        left = 0 if "left" in position else width - size
    return images[..., top : top + size, left : left + size]


def crop_frames(images: Tensor, transform: Transform) -> Tensor:
    """Give ``(crop, …, size, size)`` as the recipe says, from resized ``images (…, height, width)``."""
    rounding = transform.center_rounding
    if transform.crop_order is None:
        return center_crop(images, transform.crop, rounding=rounding).unsqueeze(0)
    crops = {"five": five_crop, "ten": ten_crop}[transform.crops]
    return crops(images, transform.crop, order=transform.crop_order, rounding=rounding)


def normalize(clips: Tensor, transform: Transform) -> Tensor:
    """Turn uint8 RGB ``clips (…, 3, T, H, W)`` into the network's float32 input: scale, offset, mean, std, order."""
    shape = (3, 1, 1, 1)
    mean = torch.tensor(transform.mean, device=clips.device).reshape(shape)
    std = torch.tensor(transform.std, device=clips.device).reshape(shape)
    ordered = clips.flip(-4) if transform.channel_order == "bgr" else clips
    return ordered.float().mul_(transform.scale).add_(transform.offset).sub_(mean).div_(std)
