"""The only `av.open`: a file becomes RGB frames with their timestamps, damage counted, errors translated.

What is done here was measured on broken files: one decode thread, because with more
FFmpeg neither raises nor flags most damage; packet by packet, because one bad packet must not end a recording;
formats and protocols whitelisted, because a playlist named .mp4 opens other files.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import av
import av.error
import av.logging
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from ..errors import VideoError
from ..features.timeline import VideoFacts
from .damage import DecodeProgress, judge
from .files import check_file, unfinished_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 1 << 26
"""Largest frame that is decoded, in pixels: 8192 x 8192. 4K and 8K pass; a dimension bomb does not."""

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,mpegvideo,h264,hevc,m4v,mjpeg"
_INTRA_ONLY = frozenset({"mjpeg", "mjpegb"})
# Containers that state a duration in an index of their own. Others derive it from their frame count or their last
# packet, so there it proves nothing.
_INDEXED = ("mov", "matroska", "flv", "asf")
_BLOCK_FRAMES = 16
_BLOCK_BYTES = 64 << 20
_SYSTEM_ERRORS = frozenset({errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENFILE})
# FFmpeg's errors are not all av.error.FFmpegError: header-mutated files raised each of the others in PyAV itself.
_FOREIGN = (av.error.FFmpegError, AttributeError, IndexError, ValueError, OSError, MemoryError, AssertionError)


@dataclass(frozen=True, slots=True, eq=False)
class FrameBlock:
    """Consecutive frames of one size, valid until the next block is asked for: consumers copy what they keep.

    ``start`` is the index of the first; ``pts_seconds (frame,)`` float64; ``frames (frame, height, width, 3)``
    uint8 RGB; ``damaged (frame,)`` bool. ``native``, where it was asked for, are the decoder's own pictures before
    their conversion to RGB, None for one that was turned. ``frames`` are not to be written to, and may lie in memory
    that the next block is written to.
    """

    start: int
    pts_seconds: NDArray[np.float64]
    frames: NDArray[np.uint8]
    damaged: NDArray[np.bool_]
    native: tuple[av.VideoFrame | None, ...] = ()


Allocate: TypeAlias = "Callable[[tuple[int, int, int, int]], NDArray[np.uint8]]"


class FrameSource(Protocol):
    """Where frames come from: `VideoReader`, or a process of its own behind the same three calls (`DecodePool`)."""

    def __iter__(self) -> Iterator[FrameBlock]:
        """Yield every frame once, in order of presentation."""

    def facts(self) -> VideoFacts:
        """Say what decoding showed. Complete once iteration has ended."""

    def close(self) -> None:
        """Let go of the file."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a file's header says. Nothing here is proven: see `VideoFacts` for what decoding showed.

    ``duration_seconds`` is None unless the container states one in an index of its own.
    """

    container: str
    codec: str
    width: int
    height: int
    pixel_format: str
    fps: float
    num_frames_declared: int | None
    duration_seconds: float | None
    file_bytes: int


class VideoReader:
    """Decode one file on one thread. A `FrameSource`.

    After the last frame, iteration raises `VideoError` if `judge` refuses the video, unless ``allow_partial``
    accepts what was decoded. ``strict`` makes FFmpeg's decoder and `judge` tolerate nothing. ``keep_native`` hands out
    the decoder's own pictures beside the RGB ones. ``allocate`` gives a block's memory, uint8 of the shape
    ``(frame, height, width, 3)`` that it is called with; the block may fill only the first of these frames. It is
    called when the one before has been handed out.

    Raises
    ------
    VideoError
        if the file cannot be opened as a video.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rotation: str = "apply",
        strict: bool = False,
        allow_partial: bool = False,
        max_pixels: int = MAX_PIXELS,
        keep_native: bool = False,
        allocate: Allocate | None = None,
    ) -> None:
        self._keep_native = keep_native
        self._allocate = allocate or _new_memory
        self.path = Path(path)
        self._apply_rotation = rotation == "apply"
        self._strict = strict
        self._allow_partial = allow_partial
        # Any other level takes the GIL inside FFmpeg's threads: a damaged file then deadlocks the process.
        av.logging.set_level(None)
        status = check_file(self.path)
        self._container = _open(self.path)
        try:
            self._stream = _pick_stream(self._container, self.path)
            self._prepare_decoder(max_pixels)
            self.info = self._read_info(status.st_size)
        except VideoError:
            self._container.close()
            raise
        except _FOREIGN as error:
            self._container.close()
            raise _translate(error, str(self.path), "its header cannot be read") from error
        self._progress = DecodeProgress()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[FrameBlock]:
        self._progress = progress = DecodeProgress()
        block = _BlockBuilder(self._allocate)
        for image, pts, damaged, native in self._decode(progress):
            if block.is_full_for(image):
                yield block.take()
            block.add(progress.num_frames - 1, image, pts, damaged)
            if self._keep_native:
                block.native.append(native)
        if len(block):
            yield block.take()
        self._finish(progress)

    def facts(self) -> VideoFacts:
        progress, info = self._progress, self.info
        turned = progress.rotation_degrees % 180 == 90
        width, height = progress.first_size or (info.width, info.height)
        return VideoFacts(
            fps=info.fps,
            num_frames_declared=info.num_frames_declared,
            num_frames_decoded=progress.num_frames,
            width=height if turned else width,
            height=width if turned else height,
            rotation_degrees=progress.rotation_degrees,
            codec=info.codec,
            container=info.container,
            time_source="synthetic" if progress.num_without_pts else "pts",
            num_damaged_frames=progress.num_damaged,
            num_bad_packets=progress.num_bad_packets,
            num_backward_pts=progress.num_backward_pts,
            num_size_changes=progress.num_size_changes,
            coverage=progress.coverage(info.duration_seconds),
            partial=progress.partial,
        )

    def _prepare_decoder(self, max_pixels: int) -> None:
        decoder = self._stream.codec_context
        name = str(self.path)
        if decoder is None:
            raise _no_stream(self.path, "VIDEO_UNSUPPORTED_CODEC", "no decoder is built in for its video stream")
        if decoder.width * decoder.height > max_pixels:
            evidence = f"its frames are {decoder.width}x{decoder.height}, more than {max_pixels} pixels"
            raise VideoError("VIDEO_TOO_LARGE", name, evidence)
        decoder.thread_type = "NONE"
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(max_pixels)}
        if self._strict or decoder.name in _INTRA_ONLY:
            # Where every frame stands alone, a refused frame costs only itself; elsewhere it would cost the rest.
            decoder.options = {**decoder.options, "err_detect": "explode"}

    def _read_info(self, file_bytes: int) -> VideoInfo:
        stream, decoder = self._stream, self._stream.codec_context
        rate = stream.average_rate or stream.guessed_rate or 0
        return VideoInfo(
            container=self._container.format.name.split(",")[0],
            codec=decoder.name,
            width=decoder.width,
            height=decoder.height,
            pixel_format=str(decoder.pix_fmt or ""),
            fps=float(rate),
            num_frames_declared=stream.frames or None,
            duration_seconds=_stated_duration(self._container, stream),
            file_bytes=file_bytes,
        )

    def _decode(
        self, progress: DecodeProgress
    ) -> Iterator[tuple[NDArray[np.uint8], float, bool, av.VideoFrame | None]]:
        reformatter = VideoReformatter()
        for frame, after_bad_packet, beside_gap in self._frames(progress):
            pts = progress.note_time(frame, self._stream.time_base, self.info.fps)
            try:
                image = _rgb(reformatter, frame)
            except _FOREIGN as error:
                raise _translate(error, str(self.path), f"frame {progress.num_frames} cannot be converted") from error
            turns = self._quarter_turns(frame)
            progress.note_frame(image, turns, damaged=bool(frame.is_corrupt) or after_bad_packet, beside_gap=beside_gap)
            upright = np.rot90(image, turns) if turns else image
            yield upright, pts, progress.last_damaged, None if turns else frame

    def _quarter_turns(self, frame: av.VideoFrame) -> int:
        """Give how often to turn a frame counterclockwise by 90 degrees; other angles are left alone."""
        if not self._apply_rotation or frame.rotation % 90:
            return 0
        return int(frame.rotation // 90) % 4

    def _frames(self, progress: DecodeProgress) -> Iterator[tuple[av.VideoFrame, bool, bool]]:
        """Yield decoded frames, and whether since the one before a packet could not be decoded, or had a gap."""
        decoder, lost, gap = self._stream.codec_context, False, False
        for packet in self._packets(progress):
            try:
                frames = decoder.decode(packet)
            except av.error.EOFError:
                break
            except MemoryError as error:
                raise _translate(error, str(self.path), f"frame {progress.num_frames}") from error
            except _FOREIGN:
                progress.note_bad_packet(packet)
                lost = True
                continue
            if packet is not None:
                progress.ended_badly = bool(packet.is_corrupt)
                # A gap in a transport stream shows here alone. A recording may begin with one.
                gap |= bool(packet.is_corrupt) and progress.num_frames > 0
            for frame in frames:
                yield frame, lost, gap
                lost = gap = False

    def _packets(self, progress: DecodeProgress) -> Iterator[Any]:
        """Yield the stream's packets, then None, which drains the decoder."""
        demuxer = self._container.demux(*self._demuxed_streams())
        read_error = False
        while True:
            try:
                packet = next(demuxer)
            except StopIteration:
                break
            except _FOREIGN:
                read_error = True
                break
            if packet.pts is not None:
                progress.note_packet_end(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == self._stream.index and packet.size:
                yield packet
        yield None
        # Set last: the frames that the decoder still held do not make the end a good one.
        progress.ended_badly |= read_error

    def _demuxed_streams(self) -> list[Any]:
        # A container's own duration is that of its longest stream, so there the others' packets prove coverage too.
        if _stream_duration(self._stream) is None:
            return [s for s in self._container.streams if s.type in ("video", "audio", "subtitle")]
        return [self._stream]

    def _finish(self, progress: DecodeProgress) -> None:
        # FFmpeg takes a fragment whose header is cut through for the end.
        cut_through = self.info.container == "mov" and unfinished_box(self.path) == "moof"
        verdict = judge(
            self.facts(),
            ended_badly=progress.ended_badly or cut_through,
            num_leading_bad_packets=progress.num_leading_bad_packets,
            num_doubtful_frames=progress.num_doubtful,
            strict=self._strict,
        )
        if verdict is None:
            return
        if self._allow_partial and progress.num_frames:
            progress.partial = True
            return
        raise VideoError(verdict.code, str(self.path), verdict.evidence)


def _rgb(reformatter: VideoReformatter, frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Give a frame's pixels ``(height, width, 3)``, equal to those of OpenCV in every size.

    BICUBIC is what makes odd sizes equal. With an odd height swscale's two channel orders differ by up to 4, and
    OpenCV's is BGR. One thread, because swscale's threads cost more than they give on frames of this size.
    """
    order = "bgr24" if frame.height % 2 else "rgb24"
    converted = reformatter.reformat(frame, format=order, interpolation="BICUBIC", threads=1)
    image: NDArray[np.uint8] = converted.to_ndarray().astype(np.uint8, copy=False)
    return image[..., ::-1] if order == "bgr24" else image


def _new_memory(shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    return np.empty(shape, dtype=np.uint8)


class _BlockBuilder:
    """Collects frames of one size into a block of bounded memory."""

    def __init__(self, allocate: Allocate) -> None:
        self.native: list[av.VideoFrame | None] = []
        self._allocate = allocate
        self._frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._pts: list[float] = []
        self._damaged: list[bool] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._pts)

    def is_full_for(self, image: NDArray[np.uint8]) -> bool:
        return len(self) > 0 and (len(self) == len(self._frames) or image.shape != self._frames.shape[1:])

    def add(self, index: int, image: NDArray[np.uint8], pts_seconds: float, damaged: bool) -> None:
        if not len(self):
            self._start = index
            height, width, _ = image.shape
            num_frames = max(1, min(_BLOCK_FRAMES, _BLOCK_BYTES // image.nbytes))
            self._frames = self._allocate((num_frames, height, width, 3))
        self._frames[len(self)] = image
        self._pts.append(pts_seconds)
        self._damaged.append(damaged)

    def take(self) -> FrameBlock:
        frames = self._frames[: len(self)]
        block = FrameBlock(self._start, np.array(self._pts), frames, np.array(self._damaged), tuple(self.native))
        self._pts, self._damaged, self.native = [], [], []
        return block


def _open(path: Path) -> Any:
    name = str(path)
    try:
        # The prefix keeps "cam1:08.mp4" from being read as a protocol named cam1.
        return av.open(
            f"file:{path.absolute()}",
            options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            metadata_errors="replace",
        )
    except av.error.ArgumentError as error:
        evidence = "FFmpeg takes it for a format that is not on the list of containers"
        raise VideoError("VIDEO_FORBIDDEN_FORMAT", name, evidence) from error
    except av.error.PermissionError as error:
        raise VideoError("VIDEO_UNREADABLE", name, "permission denied") from error
    except _FOREIGN as error:
        # Matroska's reader answers EIO where its header is cut off. Every other error says nothing of the content.
        is_cut = isinstance(error, av.error.InvalidDataError | av.error.EOFError) or _errno(error) == errno.EIO
        begins = _container_begun(path) if is_cut else None
        if begins is not None:
            evidence = f"it begins as {begins}, but the index that {begins} needs is missing or cut off"
            raise VideoError("VIDEO_TRUNCATED", name, evidence) from error
        raise _translate(error, name, "FFmpeg recognises no video in it") from error


def _container_begun(path: Path) -> str | None:
    """Name the container that a file's first bytes announce, None if they announce none."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return None
    signatures: dict[str, bytes] = {
        "mp4": rb"....(ftyp|moov|mdat|wide|free)",
        "Matroska": rb"\x1aE\xdf\xa3",
        "AVI": rb"RIFF....AVI ",
        "FLV": rb"FLV\x01",
        "ASF": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    }
    return next((name for name, pattern in signatures.items() if re.match(pattern, head, re.DOTALL)), None)


def _pick_stream(container: Any, path: Path) -> Any:
    """Give the first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    holds = f"it holds {' and '.join(kinds)}, but no video stream" if kinds else "it holds no streams at all"
    raise _no_stream(path, "VIDEO_NO_STREAM", holds)


def _no_stream(path: Path, code: str, evidence: str) -> VideoError:
    """Say why nothing can be decoded, unless it is that the index of the streams is cut off."""
    if unfinished_box(path) == "moov":
        return VideoError("VIDEO_TRUNCATED", str(path), "the index of its streams is cut off")
    return VideoError(code, str(path), evidence)


def _stated_duration(container: Any, stream: Any) -> float | None:
    if not container.format.name.startswith(_INDEXED):
        return None
    own = _stream_duration(stream)
    return own if own is not None or not container.duration else container.duration / 1e6


def _stream_duration(stream: Any) -> float | None:
    """Give the duration that is stated for a stream alone, in seconds."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tagged = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip())
    if tagged:
        hours, minutes, seconds = map(float, tagged.groups())
        return hours * 3600 + minutes * 60 + seconds
    return None


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _translate(error: BaseException, name: str, doing: str) -> VideoError:
    """Turn a foreign error into a `VideoError` without repeating its words, which mean nothing to a person."""
    if isinstance(error, MemoryError):
        return VideoError("VIDEO_TOO_LARGE", name, f"{doing}: not enough memory")
    if isinstance(error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError):
        return VideoError("VIDEO_UNSUPPORTED_CODEC", name, f"{doing}: no decoder is built in for it")
    if isinstance(error, av.error.InvalidDataError | av.error.EOFError | UnicodeDecodeError):
        return VideoError("VIDEO_NOT_VIDEO", name, doing)
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        return VideoError("VIDEO_UNREADABLE", name, f"{doing}: {error.strerror}")
    return VideoError("VIDEO_DAMAGED", name, doing)
