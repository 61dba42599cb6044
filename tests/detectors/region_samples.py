"""Made-up tubes and frames for tests of regions, and a box cut out the plain way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from vadx.detectors.tubes import Tube

SIZE = 4
WIDTH, HEIGHT = 24, 16
Array = np.ndarray[Any, Any]


def tube(boxes: Sequence[Sequence[float]] | Array, *, first: int = 0) -> Tube:
    num = len(boxes)
    rows = np.arange(num)
    return Tube(np.arange(first, first + num), np.array(boxes, np.float64), np.full(num, 0.5), 1, rows)


def still(num_frames: int, *, first: int = 0, box: Sequence[float] = (4, 4, 8, 8)) -> Tube:
    return tube([box] * num_frames, first=first)


def video(num_frames: int, *, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def plain_crop(frame: Array, box: Sequence[float], size: int) -> Array:
    """Cut a box of whole pixels, sides a multiple of ``size``, and average: ``(3, size, size)``."""
    left, top, right, bottom = (int(v) for v in box)
    cut = torch.from_numpy(frame[top:bottom, left:right].copy()).permute(2, 0, 1)[None].double()
    return np.rint(functional.interpolate(cut, (size, size), mode="area")[0].numpy()).astype(np.uint8)
