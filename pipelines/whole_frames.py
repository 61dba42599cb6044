"""Whole frames as a recipe wants them, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import UsageError
from ..extract.transforms import crop_frames, resize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe, Transform


def check_for_tubes(recipe: Recipe) -> None:
    """Raise `UsageError` for a recipe that features of tubes cannot be made by: they are of one picture a frame."""
    sampling, transform = recipe.sampling, recipe.transform
    problems = {
        "optical flow": recipe.flow is not None,
        f"{transform.crops} crops": transform.crops != "center",
        "JPEG files": transform.jpeg is not None,
        "one frame for a clip": recipe.network.temporal in ("first", "middle"),
        "resampled frames": sampling.fps is not None or sampling.frame_step != 1,
    }
    found = [name for name, is_so in problems.items() if is_so]
    if found:
        msg = f"tube features are of single frames and one crop, not of {' and '.join(found)}: give another --preset"
        raise UsageError(msg)


class WholeFrames:
    """Maps decoded frames uint8 ``(n, H, W, 3)`` to pictures uint8 ``(n, 3, size, size)`` on ``device``."""

    def __init__(self, transform: Transform, device: torch.device) -> None:
        self._transform = transform
        self._device = device

    def __call__(self, frames: NDArray[np.uint8]) -> Tensor:
        transform = self._transform
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(self._device)
        if transform.pre_resize is not None:
            images = resize(images, transform.pre_resize, kernel=transform.kernel)
        images = resize(images, transform.resize, kernel=transform.kernel, interpolation=transform.interpolation)
        # The frames lie in memory that the next block is written to.
        return crop_frames(images, transform)[0].clone()
