"""Tubes drawn over their video, and into a video file that any player shows.

`tube_sheet.py` beside it shows a few tubes on one page.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, Self, TypedDict

import numpy as np

from ..detectors.coco_names import COCO_NAMES
from ..detectors.tubes import rank_tubes
from ..errors import StoreWriteError, UsageError
from .drawing import draw_tubes, tube_box

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from ..detectors.tubes import Tube
    from ..extract.video import FrameBlock

KINDS = ("unary", "multivariate")

TICKS_PER_SECOND = 90_000
"""The mp4's clock: a frame's time is off by half a tick at most."""

# A round number below what mp4's 32 bits take at this clock.
_MAX_STEP_TICKS = 6 * 3600 * TICKS_PER_SECOND
_FALLBACK_FPS, _MAX_FPS = 25.0, 1000.0
# Without frames that refer to later ones a frame's time is the time it was written at, however long the steps.
_X264 = {"preset": "veryfast", "crf": "23", "bf": "0"}
# FFmpeg's numbers for what swscale makes of RGB. Untold, players guess by the picture's size.
_BT601, _LIMITED_RANGE = 6, 1
_DISK_FAILS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def choose_tubes(
    tubes: Sequence[Tube],
    *,
    order: str | Sequence[int] = "score",
    top: int | None = None,
    kinds: Collection[str] = KINDS,
) -> list[int]:
    """Give the places in ``tubes`` of those that are shown, the first ``top`` in order.

    ``order`` is a rule of `rank_tubes`, or the places themselves, best first. Kinds that are not in ``kinds`` are left
    out before counting.

    Raises
    ------
    UsageError
        for an unknown rule or kind, a place where no tube is, or a negative ``top``.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or (top is not None and top < 0):
        msg = f"cannot show {top} tubes of the kinds {', '.join(kinds)}: give top=20, kinds={KINDS}"
        raise UsageError(msg)
    if isinstance(order, str):
        ranked = rank_tubes(tubes, rule=order, max_tubes=len(tubes)).tolist()
    else:
        ranked = [int(place) for place in order]
        outside = [place for place in ranked if not 0 <= place < len(tubes)]
        if outside or len(set(ranked)) < len(ranked):
            msg = f"an order holds places in [0, {len(tubes)}), each once; got {ranked[:20]}: give order='score'"
            raise UsageError(msg)
    return [place for place in ranked if tubes[place].kind in kinds][:top]


def tube_ids(tubes: Sequence[Tube], ids: Sequence[int] | None) -> list[int]:
    """Give the number that each tube is shown by: its own of ``ids``, or counted from 1 as in exported files.

    Raises
    ------
    UsageError
        unless there is one for each.
    """
    if ids is None:
        return list(range(1, len(tubes) + 1))
    if len(ids) != len(tubes):
        msg = f"there are {len(tubes)} tubes, but {len(ids)} ids: give one id for each tube, or none"
        raise UsageError(msg)
    return [int(number) for number in ids]


class ActiveTubes:
    """Which of some tubes have a box in a frame, asked for frames in rising order; each tube comes and goes once."""

    def __init__(self, tubes: Sequence[Tube], places: Iterable[int]) -> None:
        self._tubes = tubes
        self._waiting = sorted(places, key=lambda place: -int(tubes[place].frames[0]))
        self._active: list[int] = []

    def at(self, frame: int) -> list[int]:
        """Give the places of the tubes with a box in ``frame``, ascending."""
        tubes = self._tubes
        self._active = [place for place in self._active if frame <= tubes[place].frames[-1]]
        while self._waiting and tubes[self._waiting[-1]].frames[0] <= frame:
            place = self._waiting.pop()
            if frame <= tubes[place].frames[-1]:
                insort(self._active, place)
        return list(self._active)


class OverlayOptions(TypedDict, total=False):
    """The settings of `tube_overlay`."""

    fps: Required[float]
    ids: Sequence[int] | None
    order: str | Sequence[int]
    top: int | None
    kinds: Collection[str]
    stride: int
    names: Mapping[int, str]


@contextlib.contextmanager
def tube_overlay(
    path: str | os.PathLike[str],
    tubes: Sequence[Tube],
    *,
    fps: float,
    ids: Sequence[int] | None = None,
    order: str | Sequence[int] = "score",
    top: int | None = None,
    kinds: Collection[str] = KINDS,
    stride: int = 1,
    names: Mapping[int, str] = COCO_NAMES,
) -> Iterator[Callable[[FrameBlock], None]]:
    """Write a video (H.264 in mp4) of the frames that the given function is called with, their tubes drawn over them.

    The file appears, or replaces one of its name, when the ``with`` block ends without an error; otherwise nothing is
    left behind. Frames keep their own times to half a tick of 1/90000 s. The first begins at zero if it lies before;
    where a clock jumps back, or ahead by more than six hours, the video goes on after one frame at ``fps``. A width or
    height that is odd, which H.264 with its halved colours does not take, grows by a pixel that repeats the edge.
    Frames of another size than the first are scaled to it.

    Parameters
    ----------
    path
        The file to write.
    tubes
        All tubes of the video; their ``frames`` are counted as the blocks count them.
    fps
        Frames per second of the source, as its header says.
    ids
        The number that each tube is shown by; from 1 in the order given if left out.
    order, top, kinds
        Which tubes are drawn, as in `choose_tubes`: all of them if left out.
    stride
        Every how many frames the detector looked. Boxes between are dashed only where it missed the object.
    names
        Label -> what it is called.

    Raises
    ------
    UsageError
        for settings that cannot be meant, a place that cannot be written to, no frame, or where the encoder refuses.
    StoreWriteError
        if the disk is full or fails.
    """
    target, numbers = Path(path), tube_ids(tubes, ids)
    active = ActiveTubes(tubes, choose_tubes(tubes, order=order, top=top, kinds=kinds))
    with publishing(target) as temporary, Mp4(temporary, target, fps) as video:

        def push(block: FrameBlock) -> None:
            for index, (frame, pts_seconds) in enumerate(
                zip(block.frames, block.pts_seconds, strict=True), block.start
            ):
                boxes = [
                    tube_box(
                        tubes[place], numbers[place], index - int(tubes[place].frames[0]), stride=stride, names=names
                    )
                    for place in active.at(index)
                ]
                video.add(draw_tubes(frame, boxes), float(pts_seconds))

        yield push


def write_overlay(
    path: str | os.PathLike[str],
    blocks: Iterable[FrameBlock],
    tubes: Sequence[Tube],
    **options: Unpack[OverlayOptions],
) -> None:
    """Write the frames of ``blocks`` with their tubes as a video. All else is as in `tube_overlay`."""
    with tube_overlay(path, tubes, **options) as push:
        for block in blocks:
            push(block)


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """Give a temporary name beside ``target``, which takes its name when the block ends without an error.

    Raises
    ------
    UsageError
        if the folder is not there, or the file cannot be put there.
    StoreWriteError
        if the disk is full or fails.
    """
    if not target.parent.is_dir():
        msg = f"{target}: there is no folder {target.parent}: make it first, mkdir -p {target.parent}"
        raise UsageError(msg)
    if target.exists() and not target.is_file():
        msg = f"{target} is no regular file, and is left as it is: give another name"
        raise UsageError(msg)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with disk_errors(target):
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what a disk refuses into `StoreWriteError` or `UsageError`. The block may do nothing but write."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _DISK_FAILS:
            msg = f"{target} cannot be written whole ({reason}), and was not: free space, then repeat the same command"
            raise StoreWriteError(msg) from error
        msg = f"{target} cannot be written ({reason}): name a place where you may write"
        raise UsageError(msg) from error


class _Clock:
    """Times of frames in ticks, each later than the one before."""

    def __init__(self, fps: float) -> None:
        self._last: int | None = None
        self._shift = 0
        self._usual_step = max(1, round(TICKS_PER_SECOND / fps))

    def ticks(self, pts_seconds: float) -> int:
        ticks = round(pts_seconds * TICKS_PER_SECOND) + self._shift
        if self._last is None:
            expected, fits = max(ticks, 0), ticks >= 0
        else:
            expected, fits = self._last + self._usual_step, 0 < ticks - self._last <= _MAX_STEP_TICKS
        if not fits:
            self._shift += expected - ticks
            ticks = expected
        self._last = ticks
        return ticks


class Mp4:
    """An H.264 video in a file, of the size of its first picture. A context manager."""

    def __init__(self, path: Path, target: Path, fps: float) -> None:
        self._path, self._target = path, target
        self._fps = fps if math.isfinite(fps) and 0 < fps <= _MAX_FPS else _FALLBACK_FPS
        self._clock = _Clock(self._fps)
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)

    def __enter__(self) -> Self:
        return self

    def add(self, picture: NDArray[np.uint8], pts_seconds: float) -> None:
        """Encode ``picture (height, width, 3)``."""
        if self._container is None:
            self._open(picture.shape[0], picture.shape[1])
        with self._errors():
            frame = _video_frame(_fitted(picture, *self._size))
            frame.pts, frame.time_base = self._clock.ticks(pts_seconds), Fraction(1, TICKS_PER_SECOND)
            self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._container is None:
            if error is None:
                msg = f"{self._target}: no frame came, so there is nothing to draw on: give a video that has frames"
                raise UsageError(msg)
            return
        import av.error

        container, self._container = self._container, None
        try:
            if error is None:
                with self._errors():
                    container.mux(self._stream.encode())
                    container.close()
        finally:
            # What went wrong before is what counts; closing again does nothing.
            with contextlib.suppress(av.error.FFmpegError):
                container.close()

    def _open(self, height: int, width: int) -> None:
        import av

        self._size = (height + height % 2, width + width % 2)
        with self._errors():
            # The prefix keeps "cam1:08.mp4" from being read as a protocol; times of the edit list are in its own scale.
            options = {"movie_timescale": str(TICKS_PER_SECOND)}
            self._container = av.open(f"file:{self._path.absolute()}", "w", format="mp4", options=options)
            stream: Any = self._container.add_stream(
                "libx264", rate=Fraction(self._fps).limit_denominator(1001), options=_X264
            )
            stream.height, stream.width, stream.pix_fmt = *self._size, "yuv420p"
            coder = stream.codec_context
            coder.time_base = Fraction(1, TICKS_PER_SECOND)
            coder.colorspace = coder.color_primaries = coder.color_trc = _BT601
            coder.color_range = _LIMITED_RANGE
            self._stream = stream

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import av.error
        from av.codec.codec import UnknownCodecError

        try:
            with disk_errors(self._target):
                yield
        except UnknownCodecError as error:
            msg = f"{self._target}: this PyAV has no H.264 encoder: pip install --force-reinstall av"
            raise UsageError(msg) from error
        except (av.error.FFmpegError, OverflowError) as error:
            height, width = self._size
            reason = getattr(error, "strerror", None) or error
            msg = (
                f"{self._target}: FFmpeg's H.264 encoder does not take pictures of {width}x{height} ({reason}): "
                f"draw a contact sheet instead, or scale the video with ffmpeg first"
            )
            raise UsageError(msg) from error


def _fitted(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Give a picture this size: an odd one by repeating its edge, another by scaling."""
    missing = (height - picture.shape[0], width - picture.shape[1])
    if missing == (0, 0):
        return picture
    if all(0 <= number <= 1 for number in missing):
        return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    from PIL import Image

    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _video_frame(picture: NDArray[np.uint8]) -> Any:
    import av

    height, width = picture.shape[:2]
    frame = av.VideoFrame(width, height, "rgb24")
    plane: Any = frame.planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
    rows[:, : 3 * width] = picture.reshape(height, 3 * width)
    return frame
