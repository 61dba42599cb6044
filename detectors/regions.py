"""Features of tubes: what is inside them, and the whole frames around them, from one pass over a video.

T^r and T^g of J. Wu et al. 2021, section 4: both go through the network in clips, and a tube's feature is the mean of
its clips. Means of the 32 `nested_parts` are kept too, from which those of 1, 2, 4, 8 and 16 parts follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UsageError
from .region_boxes import GLOBAL_ALIGNMENTS, RegionSettings, as_pictures, clip_spans, crop_regions, region_boxes
from .region_means import BatchQueue, Mean, Network, PartMeans
from .tubes import Tube, nested_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Span = tuple[int, int]
    Prepare = Callable[[NDArray[np.uint8]], Tensor]

__all__ = ["InstanceFeatures", "Network", "RegionSettings", "RegionStream"]

_CHUNK_BYTES = 64 << 20
"""Of decoded frames as float32, and again of what is cut out of them, that are held at a time, about."""


@dataclass(frozen=True, slots=True, eq=False)
class InstanceFeatures:
    """The features of one tube.

    ``region`` is of the inside, ``global`` of the whole frames. Shapes: ``clip_frames (clip, 2)`` int64, half-open
    source frames, before a short clip is filled up; ``region_mean``, ``global_mean`` float32 ``(D,)``;
    ``region_parts``, ``global_parts`` float32 ``(part, D)``, means over the spans of `nested_parts`; ``part_clips
    (part,)`` int64, the clips in each; ``region_clips``, ``global_clips`` float32 ``(clip, D)``, None unless clips are
    kept. Sums are in float64.
    """

    clip_frames: NDArray[np.int64]
    region_mean: NDArray[np.float32]
    global_mean: NDArray[np.float32]
    region_parts: NDArray[np.float32]
    global_parts: NDArray[np.float32]
    part_clips: NDArray[np.int64]
    region_clips: NDArray[np.float32] | None = None
    global_clips: NDArray[np.float32] | None = None

    @property
    def num_clips(self) -> int:
        return len(self.clip_frames)


@dataclass(slots=True, eq=False)
class _RegionClip:
    """A clip of a tube that misses frames. ``pixels (3, T, size, size)`` are those it has; None before the first one,
    and where the network takes frames, which have gone to it then.
    """

    start: int
    stop: int
    boxes: NDArray[np.float32]
    mean: Mean
    pixels: Tensor | None = None


_Run = tuple[_RegionClip, int, int]
"""Frames ``[start, stop)`` of a clip, its own among those that are there."""


@dataclass(slots=True, eq=False)
class _OpenTube:
    """What is under way of one tube. Frames are the video's; ``boxes`` has the rows of `region_boxes`."""

    clip_frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    regions: PartMeans
    wholes: PartMeans
    num_opened: int = 0
    num_asked: int = 0
    open: deque[_RegionClip] = field(default_factory=deque)

    @property
    def is_done(self) -> bool:
        return min(self.num_opened, self.num_asked) == len(self.clip_frames) and not self.open


class RegionStream:
    """Frames of one video in, features of its tubes out; every frame is looked at once.

    `push` takes the decoded frames in order, in blocks of any length, and `finish` gives the features. They do not
    depend on the blocks if the network's do not depend on what shares a batch. A frame is cut and shrunk as it comes,
    for all tubes at once, and the network runs whenever a batch is full, on clips of any tube, of insides and of whole
    frames. Whole-frame clips of the same frames run once.

    No decoded frame is held beyond `push`. Held are: for each tube that the video has reached, one clip of pixels, two
    where clips overlap (600 kB each for 16 frames of 112x112; none where the network takes frames); the whole frames,
    shrunk, of the clips that miss frames, a clip's length at most and what shares a push with them; a batch of inputs;
    during a push about 128 MB; and of each tube 16 bytes a frame while it is open, 16 a clip, and the means of at most
    32 parts. Clips are forgotten once they are counted, unless ``keep_clips``.

    Parameters
    ----------
    tubes
        In the order in which features are wanted, frames and boxes of a video of ``width`` times ``height`` pixels and
        ``num_frames`` decoded frames.
    network
        What computes features.
    prepare
        Maps frames uint8 ``(n, H, W, 3)`` to the whole-frame pictures uint8 ``(n, 3, size, size)``, each by itself:
        how a recipe resizes and crops.
    clip_length
        Frames of a clip; that of the network.
    size
        Pixels of the network's input, in both directions; boxes are stretched to it.
    device
        Where pixels are cut and held.
    network_takes_frames
        Whether inputs are single frames. A clip's feature is the mean over its frames then, and a whole frame runs once
        however many clips it is in.

    Raises
    ------
    UsageError
        for lengths below 1, or tubes that are not within the video or not finite.
    """

    def __init__(
        self,
        tubes: Sequence[Tube],
        *,
        settings: RegionSettings,
        network: Network,
        prepare: Prepare,
        clip_length: int,
        size: int,
        width: int,
        height: int,
        num_frames: int,
        device: torch.device | str = "cpu",
        network_takes_frames: bool = False,
    ) -> None:
        least = {"clip_length": clip_length, "size": size, "width": width, "height": height, "batch": network.batch}
        for name, value in least.items():
            if value < 1:
                msg = f"{name} must be 1 or more, got {value}: give a positive number"
                raise UsageError(msg)
        self._settings = settings
        self._queue = BatchQueue(network)
        self._prepare = prepare
        self._clip_length, self._size = clip_length, size
        self._width, self._height, self._num_frames = width, height, num_frames
        self._device = torch.device(device)
        self._takes_frames = network_takes_frames
        self._num_pushed = 0
        self._ended = False
        self._tubes = list(tubes)
        self._states: list[_OpenTube | None] = [None] * len(self._tubes)
        self._active: list[_OpenTube] = []
        for number, tube in enumerate(self._tubes):
            self._check_tube(number, tube)
        firsts = [self._first_needed(tube) for tube in self._tubes]
        order = sorted(range(len(self._tubes)), key=lambda number: firsts[number])
        self._to_come = deque((firsts[number], number) for number in order)
        self._wholes: dict[Span, Mean] = {}
        self._pictures: dict[int, Tensor] = {}

    @property
    def num_frames_needed(self) -> int:
        """Frames of the video after which nothing more is looked at: decoding may end there."""
        grid = self._settings.global_align == "grid"
        last = max((int(tube.frames[-1]) + 1 for tube in self._tubes), default=0)
        return min(-(-last // self._clip_length) * self._clip_length, self._num_frames) if grid else last

    def push(self, frames: NDArray[np.uint8]) -> None:
        """Take the next decoded frames, uint8 RGB ``(n, H, W, 3)``. They may be written over afterwards.

        Raises
        ------
        UsageError
            if they are not frames of the size that the boxes are of, or more than the video has, or come after the end.
        FeatureError
            if the network returns what is not finite.
        """
        self._check_frames(frames)
        # As many frames at a time as make so many bytes in float32.
        step = max(1, _CHUNK_BYTES // (12 * self._width * self._height))
        for first in range(0, len(frames), step):
            self._take(frames[first : first + step])

    def finish(self) -> list[InstanceFeatures]:
        """End the video; give the features of each tube, in the order in which tubes were given.

        Raises
        ------
        UsageError
            if frames are missing that a tube covers, or it was called before.
        FeatureError
            if the network returns what is not finite.
        """
        self._check_end()
        if self._num_pushed < self.num_frames_needed:
            last = [int(tube.frames[-1]) for tube in self._tubes]
            number = int(np.argmax(last))
            msg = (
                f"the video ended after {self._num_pushed} of {self.num_frames_needed} frames, and tube {number} goes "
                f"on to frame {last[number]}: its boxes are of another video or decoding, and no features are given; "
                f"detect in this file again"
            )
            raise UsageError(msg)
        self._ended = True
        self._queue.flush()
        return [self._features(state) for state in self._states if state is not None]

    def _check_tube(self, number: int, tube: Tube) -> None:
        first, last = int(tube.frames[0]), int(tube.frames[-1])
        if first < 0 or last >= self._num_frames:
            msg = (
                f"tube {number} covers frames {first} to {last}, and the video has {self._num_frames}: its boxes are "
                f"of another video or decoding; give the tubes of this one"
            )
            raise UsageError(msg)
        if not np.isfinite(tube.boxes).all():
            msg = f"tube {number} has a box that is not finite, and nothing can be cut out there: link the boxes again"
            raise UsageError(msg)

    def _check_frames(self, frames: NDArray[np.uint8]) -> None:
        self._check_end()
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            msg = f"expected frames uint8 (n, H, W, 3), got {frames.dtype} {frames.shape}: push RGB as it is decoded"
            raise UsageError(msg)
        height, width = frames.shape[1:3]
        if (width, height) != (self._width, self._height):
            msg = (
                f"the boxes are of frames of {self._width}x{self._height}, and from frame {self._num_pushed} on frames "
                f"are {width}x{height}: boxes would be in the wrong places; scale the video to one size with ffmpeg, "
                f"then detect again"
            )
            raise UsageError(msg)
        if self._num_pushed + len(frames) > self._num_frames:
            msg = (
                f"{self._num_pushed + len(frames)} frames were decoded, and the boxes are of a video of "
                f"{self._num_frames}: they are of another video or decoding; detect in this file again"
            )
            raise UsageError(msg)

    def _check_end(self) -> None:
        if self._ended:
            msg = "finish() ended this video: make a new RegionStream"
            raise UsageError(msg)

    def _whole_spans(self, clip: NDArray[np.int64]) -> tuple[Span, ...]:
        """Give the whole-frame clips that stand for a clip."""
        align = GLOBAL_ALIGNMENTS[self._settings.global_align]
        return align.spans(int(clip[0]), int(clip[1]), self._clip_length, self._num_frames)

    def _spans(self, tube: Tube) -> NDArray[np.int64]:
        return clip_spans(len(tube), self._clip_length, self._settings.remainder)

    def _first_needed(self, tube: Tube) -> int:
        first = int(tube.frames[0])
        clip = np.array([first, first + min(self._clip_length, len(tube))])
        return min(first, self._whole_spans(clip)[0][0])

    def _take(self, frames: NDArray[np.uint8]) -> None:
        """Take frames that are few enough to be converted at once."""
        start, stop = self._num_pushed, self._num_pushed + len(frames)
        while self._to_come and self._to_come[0][0] < stop:
            self._begin(self._to_come.popleft()[1])
        for state in self._active:
            self._ask_for_wholes(state, stop)
            self._open_clips(state, stop)
        self._take_wholes(frames, start, stop)
        self._take_regions(frames, start, stop)
        self._num_pushed = stop
        for state in self._active:
            if state.is_done:
                state.boxes = state.boxes[:0].copy()
        self._active = [state for state in self._active if not state.is_done]

    def _begin(self, number: int) -> None:
        tube = self._tubes[number]
        spans = self._spans(tube)
        parts, keep = nested_parts(len(spans)), self._settings.keep_clips
        boxes = region_boxes(tube, spans, self._settings, self._width, self._height)
        regions, wholes = PartMeans(parts, keep_clips=keep), PartMeans(parts, keep_clips=keep)
        state = _OpenTube(spans + int(tube.frames[0]), boxes, regions, wholes)
        self._states[number] = state
        self._active.append(state)

    def _ask_for_wholes(self, state: _OpenTube, stop: int) -> None:
        """Ask for the whole-frame clips of a tube's clips that begin before ``stop``, which others may have asked
        for: none of those is there yet, for all ask before any frame of it is seen.
        """
        while state.num_asked < len(state.clip_frames):
            spans = self._whole_spans(state.clip_frames[state.num_asked])
            if spans[0][0] >= stop:
                return
            state.num_asked += 1
            mean = Mean(len(spans), state.wholes.add)
            for span in spans:
                if span not in self._wholes:
                    self._wholes[span] = Mean(self._clip_length if self._takes_frames else 1)
                self._wholes[span].give_to(mean.add)

    def _open_clips(self, state: _OpenTube, stop: int) -> None:
        while state.num_opened < len(state.clip_frames) and state.clip_frames[state.num_opened, 0] < stop:
            begin, end = state.clip_frames[state.num_opened].tolist()
            # Every clip but the last is full.
            row = state.num_opened * self._clip_length
            mean = Mean(self._clip_length if self._takes_frames else 1, state.regions.add)
            state.open.append(_RegionClip(begin, end, state.boxes[row : row + end - begin], mean))
            state.num_opened += 1

    def _take_wholes(self, frames: NDArray[np.uint8], start: int, stop: int) -> None:
        wanted = np.zeros(len(frames), np.bool_)
        for begin, end in self._wholes:
            wanted[max(begin - start, 0) : max(end - start, 0)] = True
        places = np.flatnonzero(wanted)
        if len(places):
            pictures = self._prepare(frames if wanted.all() else frames[places])
            if pictures.shape != (len(places), 3, self._size, self._size) or pictures.dtype != torch.uint8:
                msg = (
                    f"prepare gave {pictures.dtype} {tuple(pictures.shape)} for {len(places)} frames: give one that "
                    f"makes uint8 (n, 3, {self._size}, {self._size}) of them"
                )
                raise UsageError(msg)
            # It may be a view of the frames, which are only lent.
            copied = pictures.to(self._device, copy=True)
            for place, picture in zip(places.tolist(), copied, strict=True):
                self._take_whole(start + place, picture)
        self._close_wholes(stop)

    def _take_whole(self, frame: int, picture: Tensor) -> None:
        if not self._takes_frames:
            self._pictures[frame] = picture
            return
        takers = [
            (mean, self._times(frame, begin, end))
            for (begin, end), mean in self._wholes.items()
            if begin <= frame < end
        ]
        self._queue.add(picture, takers)

    def _times(self, frame: int, begin: int, end: int) -> int:
        """Give how often a frame is in a clip: the last one fills it up."""
        return 1 if frame + 1 < end else self._clip_length - (end - begin) + 1

    def _close_wholes(self, stop: int) -> None:
        # A tube's clips come in this order.
        for span in sorted((span for span in self._wholes if span[1] <= stop), key=lambda span: (span[1], span[0])):
            mean = self._wholes.pop(span)
            if not self._takes_frames:
                pictures = [self._pictures[min(span[0] + i, span[1] - 1)] for i in range(self._clip_length)]
                self._queue.add(torch.stack(pictures, dim=1), [(mean, 1)])
        first = min((begin for begin, _ in self._wholes), default=stop)
        for frame in [frame for frame in self._pictures if frame < first]:
            del self._pictures[frame]

    def _take_regions(self, frames: NDArray[np.uint8], start: int, stop: int) -> None:
        runs = [(clip, max(clip.start, start), min(clip.stop, stop)) for state in self._active for clip in state.open]
        if runs:
            low, high = min(first for _, first, _ in runs), max(last for _, _, last in runs)
            pictures = as_pictures(frames[low - start : high - start], self._device)
            for group in self._grouped(runs):
                self._take_group(group, pictures, low)
        for state in self._active:
            while state.open and state.open[0].stop <= stop:
                state.open.popleft()

    def _take_group(self, group: list[_Run], pictures: Tensor, start: int) -> None:
        """Cut runs of frames of clips out at once; ``pictures (n, 3, H, W)`` begin at frame ``start``."""
        index = np.concatenate([np.arange(first, last) - start for _, first, last in group])
        boxes = np.concatenate([clip.boxes[first - clip.start : last - clip.start] for clip, first, last in group])
        crops = crop_regions(pictures, index, boxes, self._size)
        row = 0
        for clip, first, last in group:
            self._take_region(clip, first, last, crops[row : row + last - first])
            row += last - first

    def _grouped(self, runs: list[_Run]) -> Iterator[list[_Run]]:
        """Yield runs of frames of clips, so many at a time that what is cut out is not too large."""
        most = max(1, _CHUNK_BYTES // (12 * self._size**2))
        group: list[_Run] = []
        num = 0
        for run in runs:
            if group and num + run[2] - run[1] > most:
                yield group
                group, num = [], 0
            group.append(run)
            num += run[2] - run[1]
        if group:
            yield group

    def _take_region(self, clip: _RegionClip, first: int, last: int, crops: Tensor) -> None:
        if self._takes_frames:
            for frame, crop in zip(range(first, last), crops, strict=True):
                self._queue.add(crop, [(clip.mean, self._times(frame, clip.start, clip.stop))])
            return
        if clip.pixels is None:
            # Not sooner: a push may hold many clips of a tube, and no more than two are under way.
            clip.pixels = crops.new_empty((3, self._clip_length, self._size, self._size))
        clip.pixels[:, first - clip.start : last - clip.start] = crops.transpose(0, 1)
        if last == clip.stop:
            clip.pixels[:, last - clip.start :] = crops[-1].unsqueeze(1)
            self._queue.add(clip.pixels, [(clip.mean, 1)])

    def _features(self, state: _OpenTube) -> InstanceFeatures:
        regions, wholes = state.regions, state.wholes
        return InstanceFeatures(
            clip_frames=state.clip_frames,
            region_mean=regions.mean,
            global_mean=wholes.mean,
            region_parts=regions.parts,
            global_parts=wholes.parts,
            part_clips=np.diff(nested_parts(len(state.clip_frames)), axis=1).ravel(),
            region_clips=regions.clips,
            global_clips=wholes.clips,
        )
