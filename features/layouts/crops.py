"""Which crop is which: the orders in which repositories keep the crops of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from .model import Crops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bags import CropPool

_CORNERS = ("TL", "TR", "BL", "BR")
_MIRRORED = MappingProxyType({"TL": "TR", "TR": "TL", "BL": "BR", "BR": "BL", "C": "C"})


def _of_mirrored_frame(places: tuple[str, ...]) -> tuple[str, ...]:
    # The left of a mirrored frame is the frame's right.
    return (*places, *(f"{_MIRRORED[place]}~" for place in places))


def _mirrored_crops(places: tuple[str, ...]) -> tuple[str, ...]:
    return (*places, *(f"{place}~" for place in places))


CROP_PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tv": _of_mirrored_frame((*_CORNERS, "C")),
        "oversample": _of_mirrored_frame(("TL", "TR", "C", "BL", "BR")),
        "roc": _mirrored_crops(("C", *_CORNERS)),
        "caffe": _mirrored_crops((*_CORNERS, "C")),
    }
)
"""Order of a recipe -> the place in the frame that each of ten crops shows; ``~`` is mirrored, the first five are five
crops. Not ``tsn``, whose corners lie elsewhere."""


def fit_crops(
    values: NDArray[np.floating], crops: Crops, *, pool: CropPool | None, order: str | None, identifier: str
) -> NDArray[np.floating]:
    """Give ``(clip, crop, feature)`` with the crops that a layout takes, in its order.

    ``order`` is that of the recipe, None if it is not known; then crops stay as they are.

    Raises
    ------
    UsageError
        if there are too many or too few crops, or no such crop.
    """
    num_crops = values.shape[1]
    if isinstance(pool, int) and not 0 <= pool < num_crops:
        msg = f"{identifier!r} has {num_crops} crops and none is {pool}; give one from 0 to {num_crops - 1}, or mean"
        raise UsageError(msg)
    if pool == "mean":
        values = values.mean(axis=1, keepdims=True, dtype=np.float64)
    elif isinstance(pool, int):
        values = values[:, pool : pool + 1]
    elif crops.order and order is not None and order != crops.order and num_crops > 1:
        values = _reordered(values, crops, order)
    if crops.nums and values.shape[1] not in crops.nums:
        wanted = " or ".join(map(str, crops.nums))
        cure = (
            "give one crop's number, or mean, with --crop"
            if crops.nums == (1,)
            else f"extract with {'ten' if 10 in crops.nums else 'five'} crops"
        )
        msg = f"{identifier!r} has {values.shape[1]} crops and the target takes {wanted}: {cure}"
        raise UsageError(msg)
    return values


def _reordered(values: NDArray[np.floating], crops: Crops, order: str) -> NDArray[np.floating]:
    num_crops = values.shape[1]
    if order not in CROP_PLACES or num_crops not in {5, 10}:
        msg = (
            f"{num_crops} crops in order {order!r} cannot be brought into {crops.order!r}: their places in the frame "
            f"differ. Extract again with that crop order, or give one crop or mean with --crop"
        )
        raise UsageError(msg)
    ours = CROP_PLACES[order][:num_crops]
    theirs = CROP_PLACES[crops.order][: num_crops if num_crops in crops.nums else min(crops.nums)]
    if not set(theirs) <= set(ours):
        msg = f"the target takes {len(theirs)} crops and there are {num_crops}: extract with ten crops"
        raise UsageError(msg)
    return values[:, [ours.index(place) for place in theirs]]
