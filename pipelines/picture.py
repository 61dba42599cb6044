"""The exact pixels that a preset's network is fed, as a picture that a person can look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, VideoError
from ..extract.presets import recipe_of
from ..extract.video import FrameBlock
from ..features.timeline import VideoFacts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ..extract.presets import Preset

_GAP = 4
_MAX_FRAMES_SHOWN = 4
CARD_HEIGHT, CARD_WIDTH = 360, 640


def draw_inputs(preset: Preset, path: Path, video: Path | None) -> str:
    """Write a PNG of a preset's first clip: a row for each crop, some of the clip's frames along it.

    The pixels are those that go into normalisation; BGR inputs are shown as what they are, red and blue exchanged.
    Flow is shown as two grey pictures, x above y. Gives a sentence that says what is shown.

    Raises
    ------
    UsageError
        if the file cannot be written.
    VideoError
        if the video cannot be used, or is too short for a clip.
    """
    from PIL import Image

    crops = _first_clip(preset, video)
    num_shown = min(_MAX_FRAMES_SHOWN, crops.shape[2])
    positions = [round(i * (crops.shape[2] - 1) / max(1, num_shown - 1)) for i in range(num_shown)]
    rows = [np.concatenate([_gapped(_visible(crop[:, t], preset)) for t in positions], axis=1) for crop in crops]
    try:
        Image.fromarray(np.concatenate(rows, axis=0)).save(path, format="PNG")
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}"
        raise UsageError(msg) from error
    size = preset.transform.crop
    order = "; BGR, so red and blue are exchanged" if preset.transform.channel_order == "bgr" else ""
    return (
        f"{preset.name}: {len(crops)} {'crops' if len(crops) > 1 else 'crop'} of {size}x{size} from top to bottom, "
        f"frames {', '.join(map(str, positions))} of the first clip from left to right, before normalisation{order}"
    )


def _visible(image: Tensor, preset: Preset) -> NDArray[np.uint8]:
    """Give one input image ``(C, H, W)`` as RGB pixels; flow, of the first pair, as x above y."""
    values = image.float().round().clamp(0, 255).byte().numpy()
    if preset.flow is not None:
        grey = np.concatenate([values[0], values[1]], axis=0)
        return np.repeat(grey[..., None], 3, axis=-1)
    shown = values[::-1] if preset.transform.channel_order == "bgr" else values
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def _gapped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(image, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def _first_clip(preset: Preset, video: Path | None) -> Tensor:
    """Give the first clip's inputs ``(crop, C, T, size, size)`` on the 0-255 scale."""
    import torch

    from ..extract.clip_stream import first_inputs
    from ..extract.flow import flow_estimator
    from ..extract.video import VideoReader

    recipe = recipe_of(preset, "random:0")
    estimator = None
    if recipe.flow is not None:
        from dataclasses import replace

        from ..extract import weights as cache

        state = None
        if preset.flow_weights is not None:
            digest = cache.require(preset.flow_weights).published_sha256
            recipe = replace(recipe, flow=replace(recipe.flow, weights=digest))
            state = cache.load(preset.flow_weights)
        if recipe.flow is not None:
            estimator = flow_estimator(recipe.flow, state=state)
    if video is None:
        inputs = first_inputs(_TestCard(_card_length(preset)), recipe, estimator)
    else:
        with VideoReader(video, keep_native=recipe.transform.takes_native) as reader:
            inputs = first_inputs(reader, recipe, estimator)
    if inputs is None:
        evidence = f"it gives no clip of {recipe.sampling.clip_length} frames"
        raise VideoError("VIDEO_TOO_SHORT", str(video or "test card"), evidence)
    stacked: Tensor = inputs[:, 0] if inputs.dim() == 6 else torch.movedim(inputs, 1, 2)
    return stacked


def _card_length(preset: Preset) -> int:
    sampling = preset.sampling
    stretch = 1.0 if sampling.fps is None else _TestCard.FPS / sampling.fps
    return math.ceil((sampling.clip_span + 1) * stretch) + 8


class _TestCard:
    """A `FrameSource` of a picture in which places can be told apart: a grid with the corners coloured, moving."""

    FPS = 25.0

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames

    def __iter__(self) -> Iterator[FrameBlock]:
        for index in range(self._num_frames):
            yield FrameBlock(index, np.array([index / self.FPS]), _card(index)[None], np.zeros(1, dtype=np.bool_))

    def facts(self) -> VideoFacts:
        return VideoFacts(fps=self.FPS, num_frames_decoded=self._num_frames, width=CARD_WIDTH, height=CARD_HEIGHT)

    def close(self) -> None: ...


def _card(index: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:CARD_HEIGHT, 0:CARD_WIDTH]
    image = np.stack([x * 255 // CARD_WIDTH, y * 255 // CARD_HEIGHT, np.full_like(x, 96)], axis=-1).astype(np.uint8)
    image[(x % 40 < 2) | (y % 40 < 2)] = 235
    third = CARD_HEIGHT // 6
    image[:third, :third] = (230, 40, 40)
    image[:third, -third:] = (40, 200, 40)
    image[-third:, :third] = (40, 70, 230)
    image[-third:, -third:] = (235, 210, 40)
    left = CARD_WIDTH // 2 - 60 + 3 * index
    image[CARD_HEIGHT // 2 - 24 : CARD_HEIGHT // 2 + 24, left : left + 48] = (250, 250, 250)
    return image
