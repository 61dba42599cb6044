"""Which frames make which clip. Frames are pushed one by one; whole clips come out; the tail has one owner.

Before that, where a recipe asks for it, frames are chosen by their timestamps to make another frame rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import VideoError
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
    """How many clips N frames give, and which frame stands in for one that does not exist.

    ``count(num_frames, span, stride)``. ``fill(position, index, start, num_frames)`` gives the frame for place
    ``position`` of a clip that begins at frame ``start``, where frame ``index`` does not exist; None means a black
    frame. Without a ``fill`` nothing stands in, and the clip is shorter. ``meaning`` says what happens and whose
    rule it is. The last ``holds_back`` frames never complete a clip.
    """

    count: Callable[[int, int, int], int]
    fill: Callable[[int, int, int, int], int | None] | None
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
        "drop": TailPolicy(
            floor_count,
            _last,
            "frames that fill no whole clip are left out: the first C3D features, VadCLIP, R(2+1)D of video_features",
        ),
        "repeat_last": TailPolicy(
            ceil_count,
            _last,
            "the last frame is repeated: UR-DMU's extractor; UCF-Crime of RTFM, MGFN and S3R",
        ),
        "clamp": TailPolicy(ceil_count, _last, "frame numbers are clamped to the last frame: MMAction2's feature tool"),
        "zero": TailPolicy(ceil_count, lambda *_: None, "black frames are added: antoine77340/video_feature_extractor"),
        "loop": TailPolicy(
            ceil_count,
            _own,
            "the clip's own frames are repeated from its start: Tushar-N/pytorch-resnet3d, kenshohara's extractor",
        ),
        "wrap": TailPolicy(
            ceil_count,
            lambda _position, index, _start, n: index % n,
            "the video begins again from its first frame: MMAction2's PyAV decoder",
        ),
        "plus_one": TailPolicy(
            lambda n, span, stride: floor_count(n, span, stride) + 1 if n > 0 else 0,
            _last,
            "one clip more than are whole, filled with the last frame: ShanghaiTech of RTFM and S3R",
        ),
        "minus_one": TailPolicy(
            lambda n, span, stride: floor_count(n - 1, span, stride),
            _last,
            "the whole clips of one frame less: XD-Violence, Roc-Ng's DeepMIL, I3D of video_features",
            holds_back=1,
        ),
        "partial_mean": TailPolicy(
            ceil_count,
            None,
            "the mean is over the frames that exist: RGB features of GCN-Anomaly-Detection",
        ),
    }
)
"""Name -> rule for the frames at the end. Clips of L frames, one after another, of a video of N frames: ``drop`` gives
N // L, ``plus_one`` N // L + 1, ``minus_one`` (N - 1) // L, and every other rule N / L rounded up."""


@dataclass(frozen=True, slots=True)
class Window(Generic[T]):
    """The frames of one clip; None stands for a black frame.

    There are ``clip_length`` of them, or those that exist under ``partial_mean``. ``clip`` counts the frames that
    the sampler was given: see `source_clip`.
    """

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
                if self._policy.fill is None:
                    break
                index = self._policy.fill(position, index, start, num_frames)
                num_padded += 1
            frames.append(None if index is None else self._frame(index))
        # A clip of nothing but repetitions shows the last frame.
        begin = min(start, num_frames - 1)
        return Window(Clip(begin, min(start + sampling.clip_span, num_frames), num_padded), frames)

    def _frame(self, index: int) -> T:
        first = self._recent[0][0]
        return self._recent[index - first][1] if index >= first else self._head[index]


def num_frames_past(num_clips: int, sampling: Sampling) -> int:
    """Give how many of the first frames no clip but the first ``num_clips`` looks at, however long the video is.

    Some tail rules show the last frame in clips that begin after it, and ``wrap`` the first ones in those at the end.
    """
    if sampling.tail == "wrap":
        return 0
    beyond_last = 1 + max(0, sampling.clip_stride - sampling.clip_span)
    return max(0, num_clips * sampling.clip_stride - beyond_last)


TOLERANCE_SECONDS = 1e-6
"""Times that differ by no more are the same time. Larger than the error of a sum of floats, smaller than any frame."""

MAX_GAP_SECONDS = 3600.0
"""Longest time between two frames that resampling bridges. A larger one is a broken clock or a joined recording:
the one frame before it would be repeated 90000 times an hour at 25 frames/s."""


class Resampler(Generic[T]):
    """Chooses the frames that make a video of ``fps`` frames/s, by their timestamps; nothing is encoded again.

    The ticks are ``t_k = pts_0 + k / fps`` for every k with ``t_k < end``, where ``end`` is the last timestamp plus
    the last gap (`features.timeline.end_after_last`). Each tick takes the frame whose timestamp is nearest, of two
    equally near the earlier. So frames are repeated where the video is slower than ``fps`` and left out where it is
    faster, and the result is as long as the video, whatever its rate or its gaps. A video with any frame has tick 0.

    Times are compared within `TOLERANCE_SECONDS`: 10 s at 30 frames/s are 250 ticks at 25. Time does not run
    backward: a timestamp that is not later than all before it (a broken file) counts as the latest of them, so that
    of such frames the first is chosen. One frame is held between calls.

    Raises
    ------
    VideoError
        with code ``VIDEO_BAD_CLOCK`` where two frames are more than `MAX_GAP_SECONDS` apart.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._held: tuple[int, T] | None = None
        self._first_pts = 0.0
        self._held_pts = 0.0
        self._num_frames = 0
        self._num_ticks = 0

    def push(self, frame: T, pts_seconds: float) -> list[tuple[int, T]]:
        """Take the next frame; give ``(number of the frame, frame)`` for each tick that is certain by then."""
        index, self._num_frames = self._num_frames, self._num_frames + 1
        if self._held is None:
            self._first_pts = self._held_pts = pts_seconds
            self._held = (index, frame)
            return []
        if not pts_seconds > self._held_pts:
            return []
        self._check_gap(pts_seconds)
        chosen = self._ticks_until((self._held_pts + pts_seconds) / 2 + TOLERANCE_SECONDS)
        self._held, self._held_pts = (index, frame), pts_seconds
        return chosen

    def flush(self, end_seconds: float) -> list[tuple[int, T]]:
        """End the video, at ``end_seconds``; give the rest as `push` does."""
        if self._held is None:
            return []
        self._check_gap(end_seconds)
        # A file whose last timestamp runs backward "ends" before frames that were seen.
        end = max(end_seconds, self._held_pts) - TOLERANCE_SECONDS
        return self._ticks_until(end if self._num_ticks else max(end, self._first_pts))

    def _ticks_until(self, last_seconds: float) -> list[tuple[int, T]]:
        chosen: list[tuple[int, T]] = []
        # k / fps each time, never a sum of steps, whose error would grow with the video.
        while self._held is not None and self._first_pts + self._num_ticks / self._fps <= last_seconds:
            chosen.append(self._held)
            self._num_ticks += 1
        return chosen

    def _check_gap(self, pts_seconds: float) -> None:
        gap = pts_seconds - self._held_pts
        if gap > MAX_GAP_SECONDS:
            evidence = (
                f"its timestamps jump by {gap:.0f} s, from {self._held_pts:.3f} s to {pts_seconds:.3f} s, at frame "
                f"{self._num_frames - 1}; resampling to {self._fps:g} frames/s bridges {MAX_GAP_SECONDS:.0f} s at most"
            )
            raise VideoError("VIDEO_BAD_CLOCK", "video", evidence)


def source_clip(clip: Clip, source_of: Sequence[int]) -> Clip:
    """Give the decoded source frames that a clip of chosen frames covers.

    ``source_of[i]`` is the source frame that was chosen as frame i, never smaller than the one before. The result
    goes from the first chosen frame of the clip to its last: frames between them that were left out are covered.
    """
    return Clip(source_of[clip.start], source_of[clip.stop - 1] + 1, clip.num_padded)
