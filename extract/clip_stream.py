"""One recipe's way from frames to features: resampling, resizing, flow, clips, crops, batches."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UsageError, VideoError
from ..features.timeline import Clip, ClipTable, check_finite, clip_seconds, end_after_last
from .flow import FlowStream, still_flow
from .jpeg import JpegRoundTrip
from .sampling import TAIL_POLICIES, ClipSampler, Resampler, Window, source_clip
from .transforms import crop_frames, resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe
    from ..features.timeline import VideoFacts
    from .engine import Engine
    from .flow import FlowEstimator
    from .video import FrameBlock, FrameSource


Prepared = dict[tuple[object, ...], "Tensor"]
"""How frames were brought to size -> one block's frames."""


_Item = tuple[int, "Tensor"]
"""What a clip is made of, and its number: the resized frame, or the flow that begins at it."""

_Picture = tuple["NDArray[np.uint8]", "av.VideoFrame | None"]
"""A decoded frame, and the decoder's own picture of it."""


def wants_native(recipe: Recipe) -> bool:
    """Whether a recipe gains by the decoder's own pictures: FFmpeg's JPEG files are made from them."""
    return recipe.transform.jpeg == "ffmpeg" and recipe.transform.pre_resize is None


def _channels_first(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@dataclass(slots=True)
class Timeline:
    """What is kept of every decoded frame: its timestamp, and whether it is damaged."""

    pts: array[float] = field(default_factory=lambda: array("d"))
    damaged: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.pts)

    def add(self, block: FrameBlock) -> None:
        self.pts.extend(block.pts_seconds.tolist())
        self.damaged.extend(block.damaged.tobytes())

    def end_seconds(self, fps: float) -> float:
        """Give the time at which the last frame ends."""
        gap = self.pts[-1] - self.pts[-2] if len(self.pts) > 1 else None
        return end_after_last(self.pts[-1], gap, fps)


@dataclass(frozen=True, slots=True, eq=False)
class ClipInputs:
    """What a network is fed for one clip, on the 0-255 scale.

    ``pixels`` are ``(crop, 1, C, T, size, size)`` for networks of clips, and ``(crop, input, C, size, size)`` for those
    of single frames, which look at as many as the recipe's temporal rule says. ``numbers`` tell those frames apart:
    equal ones are the same picture, None is a made-up one. They are empty for networks of clips.
    """

    pixels: Tensor
    numbers: tuple[int | None, ...] = ()


class InputStream:
    """Frames of one video in, network inputs of one recipe out, a clip at a time.

    At most one clip's span of frames is held. ``fps`` is the video's own rate, as its header says. ``timeline`` must
    hold the frames of a block before it is pushed; `damaged` says of each clip whether a damaged frame went into it.
    """

    def __init__(self, recipe: Recipe, estimate_flow: FlowEstimator | None, timeline: Timeline, *, fps: float) -> None:
        self.clips: list[Clip] = []
        self.damaged = bytearray()
        self.source_of = array("q")
        self._recipe = recipe
        self._fps = fps
        self._timeline = timeline
        self._num_items = 0
        self._sampler: ClipSampler[_Item] = ClipSampler(recipe.sampling)
        self._resampler: Resampler[_Picture] | None = None
        if recipe.sampling.fps is not None:
            self._resampler = Resampler(recipe.sampling.fps)
        self._jpeg = None if recipe.transform.jpeg is None else JpegRoundTrip(recipe.transform.jpeg, fps)
        self._flow = None
        if recipe.flow is not None:
            if estimate_flow is None:
                msg = "this recipe wants flow, and was given nothing that estimates it: see library.make_engine"
                raise UsageError(msg)
            self._flow = FlowStream(recipe.flow, estimate_flow)

    def push(self, block: FrameBlock, prepared: Prepared | None = None) -> Iterator[ClipInputs]:
        """Take decoded frames. Streams that prepare frames alike share the work through one ``prepared`` a block."""
        if self._resampler is None:
            self.source_of.extend(range(block.start, block.start + len(block.frames)))
            yield from self._take(self._prepare(block.frames, block.native, {} if prepared is None else prepared))
            return
        native = block.native or (None,) * len(block.frames)
        chosen = [
            pair
            for image, own, pts in zip(block.frames, native, block.pts_seconds.tolist(), strict=True)
            for pair in self._resampler.push((image, own), pts)
        ]
        yield from self._take_chosen(chosen)

    def finish(self) -> Iterator[ClipInputs]:
        """End the video: the tail rules decide what its last frames become."""
        if self._resampler is not None and len(self._timeline):
            yield from self._take_chosen(self._resampler.flush(self._timeline.end_seconds(self._fps)))
        if self._flow is not None:
            for image in self._flow.flush():
                yield from self._push(image)
        yield from self._clips_of(self._sampler.flush())

    def _take_chosen(self, chosen: list[tuple[int, _Picture]]) -> Iterator[ClipInputs]:
        for source, (image, native) in chosen:
            self.source_of.append(source)
            yield from self._take(self._prepare(image[None], (native,), {}))

    def _prepare(
        self, frames: NDArray[np.uint8], native: tuple[av.VideoFrame | None, ...], prepared: Prepared
    ) -> Tensor:
        """Bring decoded frames ``(n, H, W, 3)`` to the recipe's size: each once, however many clips it goes into."""
        transform = self._recipe.transform
        how = (transform.kernel, transform.interpolation, transform.pre_resize, transform.resize)
        shared = self._jpeg is None
        if shared and how in prepared:
            return prepared[how]
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        if transform.pre_resize is not None:
            images = resize(images, transform.pre_resize, kernel=transform.kernel)
        if self._jpeg is not None:
            images = self._through_files(self._jpeg, images, native if transform.pre_resize is None else ())
        images = resize(images, transform.resize, kernel=transform.kernel, interpolation=transform.interpolation)
        if shared:
            prepared[how] = images
        return images

    def _through_files(self, jpeg: JpegRoundTrip, images: Tensor, native: tuple[av.VideoFrame | None, ...]) -> Tensor:
        """Write and read frames as JPEG; from the decoder's own pictures, where there are, which no RGB has rounded."""
        given = native or (None,) * len(images)
        back = [
            jpeg(image[None])[0] if own is None else _channels_first(jpeg.frame(own))
            for image, own in zip(images, given, strict=True)
        ]
        return torch.stack(back)

    def _take(self, images: Tensor) -> Iterator[ClipInputs]:
        for image in images:
            for item in [image] if self._flow is None else self._flow.push(image):
                yield from self._push(item)

    def _push(self, item: Tensor) -> Iterator[ClipInputs]:
        number, self._num_items = self._num_items, self._num_items + 1
        yield from self._clips_of(self._sampler.push((number, item)))

    def _clips_of(self, windows: list[Window[_Item]]) -> Iterator[ClipInputs]:
        for window in windows:
            frames = self._looked_at(window.frames)
            self.clips.append(window.clip)
            self.damaged.append(any(self._is_damaged(item[0]) for item in frames if item is not None))
            # A clip that is all padding does not exist: some item of the window is a picture.
            shape = next(item[1] for item in window.frames if item is not None)
            pixels = self._pixels([None if item is None else item[1] for item in frames], shape)
            is_clip = self._recipe.network.temporal == "clip"
            yield ClipInputs(pixels, () if is_clip else tuple(None if item is None else item[0] for item in frames))

    def _looked_at(self, frames: list[_Item | None]) -> list[_Item | None]:
        rule = self._recipe.network.temporal
        if rule in ("first", "middle"):
            return [frames[0 if rule == "first" else self._recipe.sampling.clip_length // 2]]
        return frames

    def _is_damaged(self, number: int) -> bool:
        """Whether a damaged frame went into an item: its own, and for flow those that its flows lead to."""
        reach = 0 if self._recipe.flow is None else self._recipe.flow.stack
        sources = self.source_of[number : number + reach + 1]
        return any(self._timeline.damaged[source] for source in sources)

    def _pixels(self, frames: list[Tensor | None], shape: Tensor) -> Tensor:
        crops = [self._crop(shape if frame is None else frame, blank=frame is None) for frame in frames]
        is_clip = self._recipe.network.temporal == "clip"
        return torch.stack(crops, dim=2).unsqueeze(1) if is_clip else torch.stack(crops, dim=1)

    def _crop(self, image: Tensor, *, blank: bool) -> Tensor:
        flow = self._recipe.flow
        if blank:
            # Black, or no motion: what a frame of its own would have been cropped to.
            image = torch.full_like(image, 0 if flow is None else still_flow(flow))
        return crop_frames(image, self._recipe.transform, flow=flow is not None)


class ClipStream:
    """Frames of one video in, features of one recipe out.

    `push` and `finish` yield float32 blocks ``(clip, crop, feature)`` in order; `table` describes the clips
    afterwards. At most one batch of network inputs is held beside what `InputStream` holds.
    """

    def __init__(self, recipe: Recipe, engine: Engine, timeline: Timeline, *, fps: float) -> None:
        self._recipe = recipe
        self._timeline = timeline
        self._inputs = InputStream(recipe, engine.estimate_flow, timeline, fps=fps)
        self._batcher = _Batcher(engine, average_crops=recipe.transform.crop_mean)

    def push(self, block: FrameBlock, prepared: Prepared | None = None) -> Iterator[NDArray[np.float32]]:
        """Take decoded frames; ``prepared`` as in `InputStream.push`."""
        for inputs in self._inputs.push(block, prepared):
            yield from self._batcher.add(inputs)

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """End the video."""
        for inputs in self._inputs.finish():
            yield from self._batcher.add(inputs)
        yield from self._batcher.flush()

    def table(self, facts: VideoFacts) -> ClipTable:
        """Describe the clips that were yielded.

        Raises
        ------
        VideoError
            with code ``VIDEO_TOO_SHORT`` if there are none.
        """
        if not self._inputs.clips:
            raise VideoError("VIDEO_TOO_SHORT", "video", self._too_short(facts))
        clips = [source_clip(clip, self._inputs.source_of) for clip in self._inputs.clips]
        pts = np.frombuffer(self._timeline.pts, dtype=np.float64)
        times = np.append(pts, self._timeline.end_seconds(facts.fps))
        spans = [clip_seconds(c, pts[c.start : c.stop], float(times[c.stop])) for c in clips]
        return ClipTable(
            frames=np.array([(c.start, c.stop) for c in clips], dtype=np.int64),
            seconds=np.array(spans, dtype=np.float64),
            damaged=np.frombuffer(bytes(self._inputs.damaged), dtype=np.bool_),
            facts=facts,
            num_padded_frames=sum(c.num_padded for c in clips),
        )

    def _too_short(self, facts: VideoFacts) -> str:
        sampling = self._recipe.sampling
        rate = "" if sampling.fps is None else f", {len(self._inputs.source_of)} at {sampling.fps:g} frames/s,"
        return (
            f"{facts.num_frames_decoded} frames{rate} give no clip of {sampling.clip_length} frames "
            f"under the tail rule {sampling.tail} ({TAIL_POLICIES[sampling.tail].meaning})"
        )


@dataclass(slots=True)
class _Row:
    """One network input's features, once they are there."""

    values: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A clip whose features are on their way: ``rows[crop][input]``."""

    rows: list[list[_Row]]

    @property
    def is_whole(self) -> bool:
        return all(row.values is not None for crop in self.rows for row in crop)


class _Batcher:
    """Collects inputs into batches of the engine's one shape, and gives whole clips back in order.

    A frame that several clips look at goes through the network once.
    """

    def __init__(self, engine: Engine, *, average_crops: bool) -> None:
        self._engine = engine
        self._average_crops = average_crops
        self._queue: list[tuple[_Row, Tensor, int]] = []
        self._clips: deque[_Waiting] = deque()
        self._frames: dict[tuple[int, int], _Row] = {}

    def add(self, clip: ClipInputs) -> Iterator[NDArray[np.float32]]:
        self._clips.append(
            _Waiting([self._rows(crop, pixels, clip.numbers) for crop, pixels in enumerate(clip.pixels)])
        )
        self._forget_before(clip.numbers)
        while len(self._queue) >= self._engine.batch:
            self._run(self._engine.batch)
        yield from self._whole_clips()

    def flush(self) -> Iterator[NDArray[np.float32]]:
        if self._queue:
            self._run(len(self._queue))
        yield from self._whole_clips()

    def _rows(self, crop: int, pixels: Tensor, numbers: tuple[int | None, ...]) -> list[_Row]:
        return [
            self._row(crop, image, number)
            for image, number in zip(pixels, numbers or (None,) * len(pixels), strict=True)
        ]

    def _row(self, crop: int, image: Tensor, number: int | None) -> _Row:
        if number is not None and (number, crop) in self._frames:
            return self._frames[number, crop]
        row = _Row()
        self._queue.append((row, image, crop))
        if number is not None:
            self._frames[number, crop] = row
        return row

    def _forget_before(self, numbers: tuple[int | None, ...]) -> None:
        """Let go of frames that no later clip can look at: clips begin ever later."""
        first = min((number for number in numbers if number is not None), default=0)
        for key in [key for key in self._frames if key[0] < first]:
            del self._frames[key]

    def _run(self, count: int) -> None:
        taken, self._queue = self._queue[:count], self._queue[count:]
        values = self._engine.run(torch.stack([image for _, image, _ in taken]), [crop for _, _, crop in taken])
        for (row, _, _), features in zip(taken, values, strict=True):
            row.values = features

    def _whole_clips(self) -> Iterator[NDArray[np.float32]]:
        done = []
        while self._clips and self._clips[0].is_whole:
            rows = np.array([[row.values for row in crop] for crop in self._clips.popleft().rows])
            # A mean of one row is that row: clip networks keep their values bit for bit.
            values = rows[:, 0] if rows.shape[1] == 1 else rows.mean(axis=1)
            done.append(values.mean(axis=0, keepdims=True) if self._average_crops else values)
        if done:
            block: NDArray[np.float32] = np.stack(done)
            check_finite(block)
            yield block


def first_inputs(source: FrameSource, recipe: Recipe, estimate_flow: FlowEstimator | None) -> Tensor | None:
    """Give the inputs of a video's first clip, as `InputStream` does; None if it has no clip."""
    timeline = Timeline()
    stream = InputStream(recipe, estimate_flow, timeline, fps=source.facts().fps)
    for block in source:
        timeline.add(block)
        for inputs in stream.push(block):
            return inputs.pixels
    last = next(stream.finish(), None)
    return None if last is None else last.pixels
