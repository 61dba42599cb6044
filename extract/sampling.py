"""Which frames make which clip. Frames are pushed one by one; whole clips come out; the tail has one owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from ..features.timeline import Clip

if TYPE_CHECKING:
    from ..features.recipe import Sampling

T = TypeVar("T")


def floor_count(num_frames: int, span: int, stride: int) -> int:
    """Number of clips that lie wholly inside ``num_frames`` frames."""
    return (num_frames - span) // stride + 1 if num_frames >= span else 0


def ceil_count(num_frames: int, span: int, stride: int) -> int:
    """Number of clips until every frame is reached, none of them beginning after the last frame."""
    if num_frames <= 0:
        return 0
    to_reach_all = -(-max(0, num_frames - span) // stride) + 1
    return min(to_reach_all, -(-num_frames // stride))


@dataclass(frozen=True, slots=True)
class TailPolicy:
    """How many clips N frames give, and which source frame stands in for one that does not exist.

    ``count(num_frames, span, stride)``. ``fill(position, index, start, num_frames)`` gives the source frame for
    place ``position`` of a clip that begins at frame ``start``, where frame ``index`` does not exist; None means a
    black frame. ``holds_back`` clips that are whole may still turn out not to count.
    """

    count: Callable[[int, int, int], int]
    fill: Callable[[int, int, int, int], int | None]
    meaning: str
    holds_back: int = 0


def _last(_position: int, _index: int, _start: int, num_frames: int) -> int:
    return num_frames - 1


def _own(position: int, index: int, start: int, num_frames: int) -> int:
    step = (index - start) // position
    num_own = -(-(num_frames - start) // step)
    return start + position % num_own * step


TAIL_POLICIES: Mapping[str, TailPolicy] = MappingProxyType(
    {
        "drop": TailPolicy(floor_count, _last, "frames that fill no whole clip are left out"),
        "repeat_last": TailPolicy(ceil_count, _last, "the last frame is repeated"),
        "clamp": TailPolicy(ceil_count, _last, "frame numbers are clamped to the last frame"),
        "zero": TailPolicy(ceil_count, lambda *_: None, "black frames are added"),
        "loop": TailPolicy(
            ceil_count,
            _own,
            "the clip's own frames are repeated from its start",
        ),
        "wrap": TailPolicy(
            ceil_count, lambda _position, index, _start, n: index % n, "the video begins again from its first frame"
        ),
        "plus_one": TailPolicy(
            lambda n, span, stride: floor_count(n, span, stride) + 1 if n > 0 else 0,
            _last,
            "one clip more than are whole, filled with the last frame (RTFM's ShanghaiTech release)",
        ),
        "minus_one": TailPolicy(
            lambda n, span, stride: floor_count(n - 1, span, stride),
            _last,
            "the whole clips of one frame less (XD-Violence's and DeepMIL's releases)",
            holds_back=1,
        ),
    }
)
"""Name -> rule for the frames at the end. Which release used which: the comments of `extract.presets`."""


@dataclass(frozen=True, slots=True)
class Window(Generic[T]):
    """The frames of one clip, ``clip_length`` of them; None stands for a black frame."""

    clip: Clip
    frames: list[T | None]


class ClipSampler(Generic[T]):
    """Turns a stream of frames into clips.

    `push` takes frames in order and returns the clips that are certain by then; `flush` returns the rest. Holds at
    most one clip's span of frames, and as many from the start of the video under ``wrap``.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._policy = TAIL_POLICIES[sampling.tail]
        self._recent: deque[tuple[int, T]] = deque()
        self._head: list[T] = []
        self._num_frames = 0
        self._num_clips = 0

    def push(self, frame: T) -> list[Window[T]]:
        """Take the next frame."""
        sampling = self._sampling
        if sampling.tail == "wrap" and len(self._head) < sampling.clip_span:
            self._head.append(frame)
        self._recent.append((self._num_frames, frame))
        self._num_frames += 1
        certain = floor_count(self._num_frames - self._policy.holds_back, sampling.clip_span, sampling.clip_stride)
        return self._emit(certain)

    def flush(self) -> list[Window[T]]:
        """End the video: the tail rule decides what its last frames become."""
        sampling = self._sampling
        return self._emit(self._policy.count(self._num_frames, sampling.clip_span, sampling.clip_stride))

    def _emit(self, count: int) -> list[Window[T]]:
        windows = []
        while self._num_clips < count:
            windows.append(self._window(self._num_clips * self._sampling.clip_stride))
            self._num_clips += 1
        # The last frame is kept always: tail rules repeat it.
        keep_from = min(self._num_clips * self._sampling.clip_stride, self._num_frames - 1)
        while self._recent and self._recent[0][0] < keep_from:
            self._recent.popleft()
        return windows

    def _window(self, start: int) -> Window[T]:
        sampling, num_frames = self._sampling, self._num_frames
        frames: list[T | None] = []
        num_padded = 0
        for position in range(sampling.clip_length):
            index: int | None = start + position * sampling.frame_step
            if index is not None and index >= num_frames:
                index = self._policy.fill(position, index, start, num_frames)
                num_padded += 1
            frames.append(None if index is None else self._frame(index))
        # A clip of nothing but repetitions shows the last frame.
        begin = min(start, num_frames - 1)
        return Window(Clip(begin, min(start + sampling.clip_span, num_frames), num_padded), frames)

    def _frame(self, index: int) -> T:
        first = self._recent[0][0]
        return self._recent[index - first][1] if index >= first else self._head[index]
