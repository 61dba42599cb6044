"""Noise on the frames of normal videos, from which a method learns what is no anomaly.

H. Lv et al., "Localizing Anomalies from Weakly-Labeled Videos", IEEE TIP 2021, section III.C, puts three kinds of noise
on random segments of normal videos: motion blur (kernel 5, -45 to 45 degrees), black, blue or purple blocks (1/4 to 1
of the image) and random scale (-20 to 20 percent, each axis by itself). No code of it was published. How it is read
here:

* A segment is ``span_frames`` source frames, counted from the first. How long a video is shows only when it is decoded,
  so that a 32nd of it cannot be known where its first frame gets its noise.
* Half of all spans get noise, one kind each, all kinds equally often, and all frames of a span get the same.
* A block's sides are each 1/4 to 1 of the image's, and it lies in it.
* Scaled frames keep their size and their centre, with black around what was reduced: the recipe's own resizing would
  undo anything else.

What a span gets follows from the recipe, the video's id and the span's number alone, so `noisy_clips` says of stored
features which have noise, and no shard need tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..extract.video import FrameBlock, FrameSource
    from ..features.recipe import Noise
    from ..features.timeline import VideoFacts

SHARE = 0.5
"""How many of all spans get noise; the paper says "m segments", which is also its word for all of a video."""

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"black": (0, 0, 0), "blue": (0, 0, 255), "purple": (128, 0, 128)}
)
"""The colours of blocks, as RGB."""


@dataclass(frozen=True, slots=True)
class SpanNoise:
    """What the frames of one span get, all of them alike; ``kind`` is one of `KINDS`.

    Blur goes ``angle_degrees`` against the horizontal, upwards to the right, over ``kernel_pixels``. A block of
    ``colour``, RGB, covers ``height`` and ``width`` of a frame from ``top`` and ``left``; ``scale_y`` and ``scale_x``
    enlarge or reduce it. All but angle and pixels are in parts of the frame.
    """

    kind: str
    kernel_pixels: int = 0
    angle_degrees: float = 0.0
    colour: tuple[int, int, int] = (0, 0, 0)
    top: float = 0.0
    left: float = 0.0
    height: float = 0.0
    width: float = 0.0
    scale_y: float = 1.0
    scale_x: float = 1.0


def _draw_blur(random: np.random.Generator) -> dict[str, Any]:
    return {"kernel_pixels": 5, "angle_degrees": float(random.uniform(-45, 45))}


def _draw_block(random: np.random.Generator) -> dict[str, Any]:
    height, width = (float(side) for side in random.uniform(0.25, 1, 2))
    return {
        "colour": list(COLOURS.values())[random.integers(len(COLOURS))],
        "top": float(random.uniform(0, 1 - height)),
        "left": float(random.uniform(0, 1 - width)),
        "height": height,
        "width": width,
    }


def _draw_scale(random: np.random.Generator) -> dict[str, Any]:
    scale_y, scale_x = (float(scale) for scale in random.uniform(0.8, 1.2, 2))
    return {"scale_y": scale_y, "scale_x": scale_x}


def motion_kernel(num_pixels: int, angle_degrees: float) -> NDArray[np.float64]:
    """Give the kernel of motion along a straight line, ``(num_pixels, num_pixels)``, which adds up to 1.

    The line goes through the middle, one point a column, each shared out between the two rows that it lies between.

    Raises
    ------
    UsageError
        for an even number of pixels, or a line steeper than 45 degrees, which would leave columns empty.
    """
    if num_pixels % 2 == 0 or not -45 <= angle_degrees <= 45:
        msg = f"motion over {num_pixels} pixels at {angle_degrees} degrees: give an odd number and -45 to 45 degrees"
        raise UsageError(msg)
    reach = num_pixels // 2
    columns = np.arange(num_pixels)
    rows = reach - (columns - reach) * math.tan(math.radians(angle_degrees))
    distances = np.abs(np.arange(num_pixels)[:, None] - rows)
    kernel: NDArray[np.float64] = np.maximum(0, 1 - distances) / num_pixels
    return kernel


def _blurred(images: Tensor, noise: SpanNoise) -> Tensor:
    import torch
    from torch.nn import functional

    kernel = torch.from_numpy(motion_kernel(noise.kernel_pixels, noise.angle_degrees)).float()
    reach = noise.kernel_pixels // 2
    alone = images.flatten(0, 1).unsqueeze(1).float()
    # Beyond an edge its pixels go on.
    wide = functional.pad(alone, (reach,) * 4, mode="replicate")
    values = functional.conv2d(wide, kernel[None, None])
    return values.round().clamp(0, 255).to(torch.uint8).view(images.shape)


def _blocked(images: Tensor, noise: SpanNoise) -> Tensor:
    import torch

    height, width = images.shape[2:]
    rows = slice(round(noise.top * height), round((noise.top + noise.height) * height))
    columns = slice(round(noise.left * width), round((noise.left + noise.width) * width))
    images[:, :, rows, columns] = torch.tensor(noise.colour, dtype=torch.uint8).view(3, 1, 1)
    return images


def _scaled(images: Tensor, noise: SpanNoise) -> Tensor:
    from ..extract.transforms import resize

    height, width = images.shape[2:]
    size = max(1, round(height * noise.scale_y)), max(1, round(width * noise.scale_x))
    scaled = resize(images, size)
    canvas = images.new_zeros(images.shape)
    (into_y, from_y), (into_x, from_x) = _centred(height, size[0]), _centred(width, size[1])
    canvas[:, :, into_y, into_x] = scaled[:, :, from_y, from_x]
    return canvas


def _centred(side: int, scaled: int) -> tuple[slice, slice]:
    """Give where in a side its scaled picture lies, and which part of that."""
    common = min(side, scaled)
    places = (side - common) // 2, (scaled - common) // 2
    return slice(places[0], places[0] + common), slice(places[1], places[1] + common)


@dataclass(frozen=True, slots=True)
class NoiseRow:
    """A row of `KINDS`: what draws a span's numbers, and what puts them on ``images (frame, 3, height, width)``, in
    their place or in another.
    """

    draw: Callable[[np.random.Generator], dict[str, Any]]
    apply: Callable[[Tensor, SpanNoise], Tensor]


KINDS: Mapping[str, NoiseRow] = MappingProxyType(
    {
        "motion-blur": NoiseRow(_draw_blur, _blurred),
        "block": NoiseRow(_draw_block, _blocked),
        "scale": NoiseRow(_draw_scale, _scaled),
    }
)
"""The kinds of noise of a recipe's ``wsal``."""


def span_noise(noise: Noise, identifier: str, span: int) -> SpanNoise | None:
    """Say what the ``span``-th span of a video gets; None for nothing."""
    of_video = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8])
    random = np.random.default_rng((noise.seed, of_video, span))
    if random.random() >= SHARE:
        return None
    kind = list(KINDS)[random.integers(len(KINDS))]
    return SpanNoise(kind, **KINDS[kind].draw(random))


def noisy_clips(noise: Noise, identifier: str, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which clips, or segments, of a video have a frame with noise, from their spans of frames alone.

    ``frames (clip, 2)`` are half-open spans of source frames, as a shard and a bag keep them -> ``(clip,)``. An empty
    span has none.
    """
    num_spans = -(-int(frames.max(initial=0)) // noise.span_frames)
    noisy = np.array([span_noise(noise, identifier, span) is not None for span in range(num_spans)], bool)
    before = np.concatenate([[0], np.cumsum(noisy)])
    first, stop = frames[:, 0] // noise.span_frames, -(-frames[:, 1] // noise.span_frames)
    found: NDArray[np.bool_] = (before[stop] > before[np.minimum(first, stop)]) & (frames[:, 1] > frames[:, 0])
    return found


def add_noise(frames: NDArray[np.uint8], noise: SpanNoise) -> NDArray[np.uint8]:
    """Put noise on frames, uint8 RGB ``(frame, height, width, 3)``; the result is of the same shape, and new."""
    import torch

    # A copy, for decoded frames are not to be written to.
    images = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
    changed = KINDS[noise.kind].apply(images, noise)
    result: NDArray[np.uint8] = changed.permute(0, 2, 3, 1).contiguous().numpy()
    return result


class NoisyFrames:
    """A `FrameSource` whose frames have the noise of a recipe; the rest is as in the source that it wraps.

    The decoder's own pictures are left out, for they have none.
    """

    def __init__(self, source: FrameSource, noise: Noise, identifier: str) -> None:
        self._source = source
        self._noise = noise
        self._identifier = identifier

    def __iter__(self) -> Iterator[FrameBlock]:
        for block in self._source:
            yield replace(block, frames=self._changed(block.frames, block.start), native=())

    def facts(self) -> VideoFacts:
        return self._source.facts()

    def close(self) -> None:
        self._source.close()

    def _changed(self, frames: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
        length, stop = self._noise.span_frames, start + len(frames)
        changed = frames
        for span in range(start // length, -(-stop // length)):
            noise = span_noise(self._noise, self._identifier, span)
            if noise is None:
                continue
            if changed is frames:
                changed = frames.copy()
            here = slice(max(0, span * length - start), (span + 1) * length - start)
            changed[here] = add_noise(frames[here], noise)
        return changed
