"""Resizing, crops and normalisation as a recipe says.

`resize`, `five_crop` and `ten_crop` are public: they take batches of uint8 tensors on any device. How equal each
resize kernel is to its library's was measured: docs/numerics.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import RecipeError
from .crops import center_crop, five_crop, ten_crop
from .resize import resize

if TYPE_CHECKING:
    from torch import Tensor

    from ..features.recipe import Transform

__all__ = ["five_crop", "resize", "ten_crop"]


def crop_frames(images: Tensor, transform: Transform, *, flow: bool = False) -> Tensor:
    """Give ``(crop, …, size, size)`` as the recipe says, from resized ``images (…, height, width)``.

    With ``flow``, ``images (…, channel, height, width)`` hold optical flow, as in `ten_crop`.

    Raises
    ------
    RecipeError
        if the images are smaller than a crop.
    """
    rounding = transform.center_rounding
    if transform.crop_order is None:
        return center_crop(images, transform.crop, rounding=rounding).unsqueeze(0)
    if transform.crops == "five":
        return five_crop(images, transform.crop, order=transform.crop_order, rounding=rounding)
    return ten_crop(images, transform.crop, order=transform.crop_order, rounding=rounding, flow=flow)


class Normalizer:
    """Turns pixels on the 0-255 scale into a network's float32 input: order of channels, scale, offset, mean, std.

    ``mean_cube (3, T, height, width)`` is a mean for each pixel of a resized clip, channels in the network's order
    (facebookarchive/C3D, C3D-v1.0, ``sport1m_train16_128_mean.binaryproto``). It is cut where the crops are, mirrored
    where they are, and subtracted after the offset.

    Raises
    ------
    RecipeError
        if the cube is not of the recipe's resized frames, or there is one and the recipe has none, or the reverse.
    """

    def __init__(self, transform: Transform, mean_cube: Tensor | None = None) -> None:
        self._transform = transform
        if (mean_cube is None) != (transform.mean_cube is None):
            msg = (
                f"transform.mean_cube is {transform.mean_cube}, but {'no' if mean_cube is None else 'a'} cube is given"
            )
            raise RecipeError(msg)
        self._cuts: Tensor | None = None
        if mean_cube is not None:
            if mean_cube.dim() != 4 or mean_cube.shape[0] != 3 or mean_cube.shape[2:] != transform.resize:
                msg = (
                    f"a mean cube of shape {tuple(mean_cube.shape)} is not (3, T, height, width) "
                    f"of frames resized to {transform.resize}"
                )
                raise RecipeError(msg)
            self._cuts = crop_frames(mean_cube.float(), transform)

    def __call__(self, clips: Tensor, crops: Tensor) -> Tensor:
        """Normalise a batch, which is left as it is.

        Parameters
        ----------
        clips
            uint8 or float ``(n, C, T, H, W)`` of clips or ``(n, C, H, W)`` of frames: RGB, or flow on the same scale.
        crops
            int64 ``(n,)``: the number of each one's crop, as in `crop_frames`.

        Raises
        ------
        RecipeError
            if the recipe's mean, std, order or cube is of colours and ``C`` is not 3, or the cube has another length.
        """
        transform = self._transform
        shape = (-1, *[1] * (clips.dim() - 2))
        is_plain = transform.channel_order == "rgb" and not any(transform.mean) and set(transform.std) == {1.0}
        if clips.shape[1] != 3 and not (is_plain and self._cuts is None):
            msg = f"the recipe normalises 3 colours, and got {clips.shape[1]} channels"
            raise RecipeError(msg)
        ordered = clips.flip(1) if transform.channel_order == "bgr" else clips
        values = ordered.to(torch.float32, copy=True)
        # Steps that change nothing are left out: each is a pass through memory.
        if transform.scale != 1.0:
            values.mul_(transform.scale)
        if transform.offset != 0.0:
            values.add_(transform.offset)
        if self._cuts is not None:
            values.sub_(self._cube(clips, crops))
        if any(transform.mean):
            values.sub_(torch.tensor(transform.mean, device=clips.device).reshape(shape))
        if set(transform.std) != {1.0}:
            values.div_(torch.tensor(transform.std, device=clips.device).reshape(shape))
        return values

    def _cube(self, clips: Tensor, crops: Tensor) -> Tensor:
        """Give each clip's part of the mean cube, in its shape."""
        cuts = self._cuts
        length = clips.shape[2] if clips.dim() == 5 else 1
        if cuts is None or cuts.shape[2] != length:
            msg = f"the mean cube is of {None if cuts is None else cuts.shape[2]} frames, and the clips of {length}"
            raise RecipeError(msg)
        if cuts.device != clips.device:
            cuts = self._cuts = cuts.to(clips.device)
        return cuts.index_select(0, crops.to(clips.device)).reshape(clips.shape)
