"""Crops of square windows, mirrored or not, in every published order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch

from ..errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CENTER_ROUNDING", "CROP_ORDERS", "Order", "center_crop", "five_crop", "ten_crop"]

Place = Literal["top left", "top right", "bottom left", "bottom right", "center"]


@dataclass(frozen=True, slots=True)
class Order:
    """How the five places and their mirrored companions follow each other, and where the places are.

    Attributes
    ----------
    places
        the five unmirrored crops, in order.
    mirrors
        ``crop``: a mirrored crop is its companion mirrored. ``frame``: it is cut out of the mirrored frame, so that
        its left is the frame's right.
    mirrored
        ``after``: the five mirrored crops follow the five others, in the same order. ``interleaved``: each follows
        its companion.
    offsets
        ``margin``: corners lie at the frame's edges, and the centre in the middle of the margin, rounded as asked
        for. ``quarters``: at 0, 2 and 4 times the margin's floored quarter, so that right and lower corners may end
        up to three pixels before the edge.
    """

    places: tuple[Place, ...]
    mirrors: Literal["crop", "frame"]
    mirrored: Literal["after", "interleaved"] = "after"
    offsets: Literal["margin", "quarters"] = "margin"


_CORNERS: tuple[Place, ...] = ("top left", "top right", "bottom left", "bottom right")

CROP_ORDERS: Mapping[str, Order] = MappingProxyType(
    {
        "tv": Order((*_CORNERS, "center"), mirrors="frame"),
        "oversample": Order(("top left", "top right", "center", "bottom left", "bottom right"), mirrors="frame"),
        "roc": Order(("center", *_CORNERS), mirrors="crop"),
        "caffe": Order((*_CORNERS, "center"), mirrors="crop"),
        "tsn": Order((*_CORNERS, "center"), mirrors="crop", mirrored="interleaved", offsets="quarters"),
    }
)
"""Name -> order of the crops.

``tv``: torchvision's ``ten_crop``; RTFM's author. ``oversample``: Finspire13/pytorch-i3d-feature-extraction and the
extractors built on it, UR-DMU's among them. ``roc``: Roc-Ng/DeepMIL, XD-Violence, VadCLIP (``crop.py``). ``caffe``:
jx-zhong-for-academic-purpose/GCN-Anomaly-Detection. ``tsn``: yjxiong/tsn-pytorch, ``transforms.py``,
``GroupOverSample``."""

CENTER_ROUNDING: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        "floor": lambda margin: margin // 2,
        "ceil": lambda margin: -(-margin // 2),
        "round": lambda margin: round(margin / 2),
    }
)
"""Name -> offset of the centre crop from the margin. ``round`` is torchvision's, half to even. ``ceil`` is where a
floored centre lands in a picture that was padded by one more pixel on its right than on its left."""


def center_crop(images: Tensor, size: int, *, rounding: str = "round") -> Tensor:
    """Crop the centre of ``images (…, height, width)``: a view, nothing is copied.

    Raises
    ------
    RecipeError
        for an unknown rounding, or if the images are smaller than ``size``.
    """
    return _crop(images, "center", size, "margin", rounding)


def five_crop(images: Tensor, size: int, *, order: str = "tv", rounding: str = "round") -> Tensor:
    """Give ``(5, …, size, size)``: four corners and the centre of ``images (…, height, width)``, none mirrored.

    ``order`` is a name of `CROP_ORDERS`; ``rounding``, one of `CENTER_ROUNDING`, places the centre, but not in order
    ``tsn``, which has a rule of its own.

    Raises
    ------
    RecipeError
        for an unknown order or rounding, or if the images are smaller than ``size``.
    """
    return torch.stack(_five(images, size, _order(order), rounding))


def ten_crop(images: Tensor, size: int, *, order: str = "tv", rounding: str = "round", flow: bool = False) -> Tensor:
    """Give ``(10, …, size, size)``: the five crops and their mirrored companions, as ``order`` has them.

    With ``flow``, ``images (…, channel, height, width)`` hold optical flow on the 0-255 scale, channels x, y, x, y,
    …: what moves to the left moves to the right in a mirror, so the x channels of mirrored crops are 255 - x.
    Raises as `five_crop`.
    """
    chosen = _order(order)
    upright = _five(images, size, chosen, rounding)
    if chosen.mirrors == "crop":
        mirrored = [crop.flip(-1) for crop in upright]
    else:
        mirrored = _five(images.flip(-1), size, chosen, rounding)
    if flow:
        mirrored = [_turned(crop) for crop in mirrored]
    if chosen.mirrored == "after":
        return torch.stack([*upright, *mirrored])
    return torch.stack([crop for pair in zip(upright, mirrored, strict=True) for crop in pair])


def _order(name: str) -> Order:
    if name not in CROP_ORDERS:
        msg = f"unknown crop order {name!r}; there are: {', '.join(CROP_ORDERS)}"
        raise RecipeError(msg)
    return CROP_ORDERS[name]


def _turned(flow: Tensor) -> Tensor:
    turned = flow.clone()
    turned[..., ::2, :, :] = 255 - flow[..., ::2, :, :]
    return turned


def _five(images: Tensor, size: int, order: Order, rounding: str) -> list[Tensor]:
    return [_crop(images, place, size, order.offsets, rounding) for place in order.places]


def _crop(images: Tensor, place: Place, size: int, offsets: str, rounding: str) -> Tensor:
    height, width = images.shape[-2:]
    if size < 1 or min(height, width) < size:
        msg = f"cannot crop {size}x{size} out of {width}x{height}"
        raise RecipeError(msg)
    if rounding not in CENTER_ROUNDING:
        msg = f"unknown rounding {rounding!r} of the centre; there are: {', '.join(CENTER_ROUNDING)}"
        raise RecipeError(msg)
    top, left = _offset(place, height - size, width - size, offsets, rounding)
    return images[..., top : top + size, left : left + size]


def _offset(place: Place, down: int, across: int, offsets: str, rounding: str) -> tuple[int, int]:
    """Give a crop's top and left from the margins, the sides of the frame less the crop's."""
    if offsets == "quarters":
        quarters = (2, 2) if place == "center" else (4 * ("bottom" in place), 4 * ("right" in place))
        return down // 4 * quarters[0], across // 4 * quarters[1]
    if place == "center":
        return CENTER_ROUNDING[rounding](down), CENTER_ROUNDING[rounding](across)
    return down * ("bottom" in place), across * ("right" in place)
