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
from .sampling import TAIL_POLICIES, ClipSampler, Resampler, Window, num_frames_past, source_clip
from .transforms import crop_frames, resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    from numpy.typing import NDArray
    from torch import Tensor

    from ..features.recipe import Recipe
    from ..features.timeline import VideoFacts
    from .batches import Batches, Row
    from .flow import FlowEstimator
    from .video import FrameBlock, FrameSource


Prepared = dict[tuple[object, ...], "Tensor"]
"""How frames were brought to size -> one block's frames."""


_Item = tuple[int, "Tensor"]
"""What a clip is made of, and its number: the resized frame, or the flow that begins at it."""

_Picture = tuple["NDArray[np.uint8]", "av.VideoFrame | None"]
"""A decoded frame, and the decoder's own picture of it."""


def input_shape(recipe: Recipe) -> tuple[int, ...]:
    """Give the shape of one network input: ``(C, T, size, size)`` of a clip or ``(C, size, size)`` of a frame."""
    channels = 3 if recipe.flow is None else 2 * recipe.flow.stack
    length = (recipe.sampling.clip_length,) if recipe.network.temporal == "clip" else ()
    return (channels, *length, recipe.transform.crop, recipe.transform.crop)


def _channels_first(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def _unseen(num_frames: int) -> Tensor:
    """Give what stands for frames that nobody looks at: pictures of which no clip can be made."""
    return torch.empty((num_frames, 3, 0, 0), dtype=torch.uint8)


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

    At most one clip's span of frames is held, resized, on ``device``, with what shares a block with them, and nothing
    of a block itself. ``fps`` is the video's own rate, as its header says. ``timeline`` must hold the frames of a block
    before it is pushed; `damaged` says of each clip whether a damaged frame went into it. The first ``num_known`` clips
    are only described: they have no inputs.
    """

    def __init__(
        self,
        recipe: Recipe,
        estimate_flow: FlowEstimator | None,
        timeline: Timeline,
        *,
        fps: float,
        device: torch.device | str = "cpu",
        num_known: int = 0,
    ) -> None:
        self.clips: list[Clip] = []
        self.damaged = bytearray()
        self.source_of = array("q")
        self._recipe = recipe
        self._num_known = num_known
        self._fps = fps
        # What computes flow takes pictures on the CPU.
        self._device = torch.device("cpu" if recipe.flow is not None else device)
        self._timeline = timeline
        self._num_items = 0
        self._sampler: ClipSampler[_Item] = ClipSampler(recipe.sampling)
        self._resampler: Resampler[_Picture] | None = None
        if recipe.sampling.fps is not None:
            self._resampler = Resampler(recipe.sampling.fps)
        self._jpeg = None if recipe.transform.jpeg is None else JpegRoundTrip(recipe.transform.jpeg, fps)
        num_unseen = num_frames_past(num_known, recipe.sampling)
        # An encoder gives a frame according to those before it. And the flow before the first item that is looked at
        # may stand for one that is not there.
        self._first_wanted = 0 if self._jpeg is not None else max(0, num_unseen - 1)
        self._flow = None
        if recipe.flow is not None:
            if estimate_flow is None:
                msg = "this recipe wants flow, and was given nothing that estimates it: see library.make_engine"
                raise UsageError(msg)
            self._flow = FlowStream(recipe.flow, estimate_flow, num_unseen=num_unseen)

    def push(self, block: FrameBlock, prepared: Prepared | None = None) -> Iterator[ClipInputs]:
        """Take decoded frames. Streams that prepare frames alike share the work through one ``prepared`` a block."""
        if self._resampler is None:
            stop = block.start + len(block.frames)
            self.source_of.extend(range(block.start, stop))
            if stop <= self._first_wanted:
                yield from self._take(_unseen(len(block.frames)))
            else:
                yield from self._take(self._prepare(block.frames, block.native, {} if prepared is None else prepared))
            return
        native = block.native or (None,) * len(block.frames)
        chosen = [
            pair
            for image, own, pts in zip(block.frames, native, block.pts_seconds.tolist(), strict=True)
            for pair in self._resampler.push((image.copy(), own), pts)
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
            is_unseen = len(self.source_of) <= self._first_wanted
            yield from self._take(_unseen(1) if is_unseen else self._prepare(image[None], (native,), {}))

    def _prepare(
        self, frames: NDArray[np.uint8], native: tuple[av.VideoFrame | None, ...], prepared: Prepared
    ) -> Tensor:
        """Bring decoded frames ``(n, H, W, 3)`` to the recipe's size: each once, however many clips it goes into."""
        transform = self._recipe.transform
        how = (transform.kernel, transform.interpolation, transform.pre_resize, transform.resize, self._device)
        shared = self._jpeg is None
        if shared and how in prepared:
            return prepared[how]
        decoded = torch.from_numpy(np.ascontiguousarray(frames))
        images = decoded.permute(0, 3, 1, 2)
        if self._jpeg is None:
            # Bytes cross to the device, a quarter of what floats would be, and everything after it happens there.
            images = images.to(self._device)
        if transform.pre_resize is not None:
            images = resize(images, transform.pre_resize, kernel=transform.kernel)
        if self._jpeg is not None:
            images = self._through_files(self._jpeg, images, native if transform.pre_resize is None else ())
            images = images.to(self._device)
        images = resize(images, transform.resize, kernel=transform.kernel, interpolation=transform.interpolation)
        if images.untyped_storage().data_ptr() == decoded.untyped_storage().data_ptr():
            # The block's memory is its source's, which writes the next block there.
            images = images.clone()
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
            if len(self.clips) <= self._num_known:
                continue
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
        transform, flow = self._recipe.transform, self._recipe.flow is not None
        images = [self._blank(shape) if frame is None else frame for frame in frames]
        if transform.crop_order is None or len({image.shape for image in images}) > 1:
            # One crop is a view: of each frame no more than that is copied. And a video's size may change in a clip.
            cropped = torch.stack([crop_frames(image, transform, flow=flow) for image in images], dim=1)
        else:
            cropped = crop_frames(torch.stack(images), transform, flow=flow)
        # (crop, T, C, size, size)
        is_clip = self._recipe.network.temporal == "clip"
        return cropped.transpose(1, 2).unsqueeze(1) if is_clip else cropped

    def _blank(self, shape: Tensor) -> Tensor:
        """Give a black frame, or no motion: what a frame of its own would have been cropped to."""
        flow = self._recipe.flow
        return torch.full_like(shape, 0 if flow is None else still_flow(flow))


class ClipStream:
    """Frames of one video in, features of one recipe out.

    `push` and `finish` hand network inputs to ``batches``, which other videos may share; `ready` gives the clips whose
    features are there, float32 ``(clip, crop, feature)``, in order. `table` describes the clips afterwards, with those
    whose features the caller has: the first ``num_known``, which are not given.
    """

    def __init__(self, recipe: Recipe, batches: Batches, timeline: Timeline, *, fps: float, num_known: int = 0) -> None:
        self._recipe = recipe
        self._timeline = timeline
        engine = batches.engine
        self._inputs = InputStream(
            recipe, engine.estimate_flow, timeline, fps=fps, device=engine.device, num_known=num_known
        )
        self._clips = _Clips(batches, average_crops=recipe.transform.crop_mean)

    @property
    def waits(self) -> bool:
        """Whether features are still under way."""
        return self._clips.wait

    def push(self, block: FrameBlock, prepared: Prepared | None = None) -> None:
        """Take decoded frames; ``prepared`` as in `InputStream.push`."""
        for inputs in self._inputs.push(block, prepared):
            self._clips.add(inputs)

    def finish(self) -> None:
        """End the video. Its last features may wait for others to fill the batch: see `Batches.flush`."""
        for inputs in self._inputs.finish():
            self._clips.add(inputs)

    def ready(self) -> NDArray[np.float32] | None:
        """Give the clips that are whole by now and were not given before; None if there are none.

        Raises
        ------
        FeatureError
            if a value is not finite.
        """
        return self._clips.ready()

    def table(self, facts: VideoFacts) -> ClipTable:
        """Describe the clips that were given.

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


class _Clips:
    """One video's clips on their way through the network: rows in batches, whole clips back in order.

    A frame that several clips look at goes through the network once.
    """

    def __init__(self, batches: Batches, *, average_crops: bool) -> None:
        self._batches = batches
        self._average_crops = average_crops
        # clip -> crop -> input
        self._clips: deque[list[list[Row]]] = deque()
        self._frames: dict[tuple[int, int], Row] = {}

    @property
    def wait(self) -> bool:
        return bool(self._clips)

    def add(self, clip: ClipInputs) -> None:
        self._clips.append([self._rows(crop, pixels, clip.numbers) for crop, pixels in enumerate(clip.pixels)])
        self._forget_before(clip.numbers)

    def ready(self) -> NDArray[np.float32] | None:
        done = []
        while self._clips and (values := _values(self._clips[0])) is not None:
            self._clips.popleft()
            done.append(values.mean(axis=0, keepdims=True) if self._average_crops else values)
        if not done:
            return None
        block: NDArray[np.float32] = np.stack(done)
        check_finite(block)
        return block

    def _rows(self, crop: int, pixels: Tensor, numbers: tuple[int | None, ...]) -> list[Row]:
        return [
            self._row(crop, image, number)
            for image, number in zip(pixels, numbers or (None,) * len(pixels), strict=True)
        ]

    def _row(self, crop: int, image: Tensor, number: int | None) -> Row:
        if number is None:
            return self._batches.add(image, crop)
        if (number, crop) not in self._frames:
            self._frames[number, crop] = self._batches.add(image, crop)
        return self._frames[number, crop]

    def _forget_before(self, numbers: tuple[int | None, ...]) -> None:
        """Let go of frames that no later clip can look at: clips begin ever later."""
        first = min((number for number in numbers if number is not None), default=0)
        for key in [key for key in self._frames if key[0] < first]:
            del self._frames[key]


def _values(clip: list[list[Row]]) -> NDArray[np.float32] | None:
    """Give a clip's features ``(crop, feature)``; None while any of them is under way."""
    rows = [[row.values for row in crop if row.values is not None] for crop in clip]
    if any(len(there) < len(crop) for there, crop in zip(rows, clip, strict=True)):
        return None
    values = np.array(rows)
    # A mean of one row is that row: clip networks keep their values bit for bit.
    averaged: NDArray[np.float32] = values[:, 0] if values.shape[1] == 1 else values.mean(axis=1)
    return averaged


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
