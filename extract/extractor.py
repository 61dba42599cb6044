"""Clips in, features out: one video's frames through sampling, transforms and a network."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import VideoError
from ..features.timeline import Clip, ClipFeatures, ClipTable, check_finite, clip_seconds, end_after_last
from .sampling import TAIL_POLICIES, ClipSampler, Window
from .transforms import crop_frames, resize

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe
    from .engine import Engine
    from .video import FrameBlock, FrameSource


class VideoExtraction:
    """One pass over one video.

    Iterating yields float32 blocks ``(clip, crop, feature)`` in order; `table` describes the clips afterwards. At
    most one batch of clips and one clip's span of frames are held, whatever the video's length; of every frame only
    its timestamp and whether it is damaged are kept.

    ``on_frames`` is told how many frames were decoded so far.
    """

    def __init__(
        self,
        source: FrameSource,
        recipe: Recipe,
        engine: Engine,
        *,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._recipe = recipe
        self._engine = engine
        self._on_frames = on_frames
        self._clips: list[Clip] = []
        self._pts = array("d")
        self._damaged = bytearray()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        batcher = _Batcher(self._engine)
        sampler: ClipSampler[Tensor] = ClipSampler(self._recipe.sampling)
        transform = self._recipe.transform
        for block in self._source:
            self._note(block)
            # Each frame is resized once, however many clips and crops it goes into.
            images = resize(
                torch.from_numpy(block.frames).permute(0, 3, 1, 2), transform.resize, kernel=transform.kernel
            )
            for image in images:
                for window in sampler.push(image):
                    yield from batcher.add(self._crops(window))
            if self._on_frames is not None:
                self._on_frames(len(self._pts))
        for window in sampler.flush():
            yield from batcher.add(self._crops(window))
        yield from batcher.flush()

    def table(self) -> ClipTable:
        """Describe the clips that were yielded.

        Raises
        ------
        VideoError
            with code ``VIDEO_TOO_SHORT`` if there are none.
        """
        facts = self._source.facts()
        if not self._clips:
            sampling = self._recipe.sampling
            evidence = (
                f"{facts.num_frames_decoded} frames give no clip of {sampling.clip_length} frames "
                f"under the tail rule {sampling.tail} ({TAIL_POLICIES[sampling.tail].meaning})"
            )
            raise VideoError("VIDEO_TOO_SHORT", "video", evidence)
        pts = np.frombuffer(self._pts, dtype=np.float64)
        damaged = np.frombuffer(self._damaged, dtype=np.bool_)
        gap = float(pts[-1] - pts[-2]) if len(pts) > 1 else None
        end = end_after_last(float(pts[-1]), gap, facts.fps)
        times = np.append(pts, end)
        spans = [clip_seconds(c, pts[c.start : c.stop], float(times[c.stop])) for c in self._clips]
        return ClipTable(
            frames=np.array([(c.start, c.stop) for c in self._clips], dtype=np.int64),
            seconds=np.array(spans, dtype=np.float64),
            damaged=np.array([damaged[c.start : c.stop].any() for c in self._clips], dtype=np.bool_),
            facts=facts,
            num_padded_frames=sum(c.num_padded for c in self._clips),
        )

    def _note(self, block: FrameBlock) -> None:
        self._pts.extend(block.pts_seconds.tolist())
        self._damaged.extend(block.damaged.tobytes())

    def _crops(self, window: Window[Tensor]) -> Tensor:
        """Give one clip's crops, uint8 ``(crop, 3, T, size, size)``."""
        self._clips.append(window.clip)
        shape = next(frame for frame in window.frames if frame is not None)
        size = self._recipe.transform.crop
        per_frame = [
            _black_like(shape, size, self._recipe) if frame is None else crop_frames(frame, self._recipe.transform)
            for frame in window.frames
        ]
        return torch.stack(per_frame, dim=2)


def _black_like(image: Tensor, size: int, recipe: Recipe) -> Tensor:
    num_crops = {"center": 1, "five": 5, "ten": 10}[recipe.transform.crops]
    return image.new_zeros((num_crops, image.shape[0], size, size))


class _Batcher:
    """Collects crops into batches of the engine's one shape, and gives whole clips back in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[Tensor] = []
        self._done: list[NDArray[np.float32]] = []
        self._num_crops = 1

    def add(self, crops: Tensor) -> Iterator[NDArray[np.float32]]:
        self._num_crops = crops.shape[0]
        self._waiting.extend(crops)
        while len(self._waiting) >= self._engine.batch:
            self._run(self._engine.batch)
        yield from self._whole_clips()

    def flush(self) -> Iterator[NDArray[np.float32]]:
        if self._waiting:
            self._run(len(self._waiting))
        yield from self._whole_clips()

    def _run(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._done.extend(self._engine.run(torch.stack(batch)))

    def _whole_clips(self) -> Iterator[NDArray[np.float32]]:
        num_clips = len(self._done) // self._num_crops
        if num_clips:
            taken = num_clips * self._num_crops
            rows, self._done = self._done[:taken], self._done[taken:]
            values = np.stack(rows).reshape(num_clips, self._num_crops, -1)
            check_finite(values)
            yield values


def collect(extraction: VideoExtraction, provenance: dict[str, str | int]) -> ClipFeatures:
    """Run an extraction to its end and hold everything in memory."""
    blocks = list(extraction)
    table = extraction.table()
    return ClipFeatures(
        values=np.concatenate(blocks),
        frames=table.frames,
        seconds=table.seconds,
        damaged=table.damaged,
        facts=table.facts,
        num_padded_frames=table.num_padded_frames,
        provenance=provenance,
    )
