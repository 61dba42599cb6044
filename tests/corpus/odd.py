"""Kinds 30 to 60: whole files that few people meet, and some that were made to do harm."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from support import make_video, picture
from vadx.extract.decode_limits import DecodeLimits

from ..extract.clips import set_rotation
from .items import Expected, Item, Workshop

SMALL_MEMORY = DecodeLimits(memory_bytes=512 << 20, video_seconds=300)

_SUBTITLE_HEADER = b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Text\r\n"


def video(**options: Any) -> Callable[[Path], object]:
    """Give a maker of a small video."""
    return lambda path: make_video(path, **options)


def of_size(width: int, height: int, codec: str = "libx264", pixel_format: str = "yuv420p") -> Callable[[Path], object]:
    """Give a maker of 3 frames of a size."""
    return video(num_frames=3, width=width, height=height, codec=codec, pixel_format=pixel_format)


def below_zero(path: Path) -> Path:
    """Write 20 frames, half of them before 0."""
    return make_video(
        path,
        codec="mpeg2video" if path.suffix == ".ts" else "mpeg4",
        pts=range(-10, 10),
        time_base=Fraction(1, 25),
        container_options={"avoid_negative_ts": "disabled"},
    )


def of_sizes(sizes: Sequence[tuple[int, int]]) -> Callable[[Path], object]:
    """Give a maker of an mp4 with one video stream of 10 frames for each size."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            streams: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in sizes]
            for stream, (width, height) in zip(streams, sizes, strict=True):
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(10):
                for stream in streams:
                    image = picture(index, stream.width, stream.height)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            for stream in streams:
                container.mux(stream.encode())

    return write


def beside(kind: str, codec: str) -> Callable[[Path], object]:
    """Give a maker of 10 frames beside a stream of subtitles or of data."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            if kind == "data":
                other: Any = container.add_data_stream(codec)
            else:
                other = container.add_stream(codec)
                other.codec_context.subtitle_header = _SUBTITLE_HEADER
            for index in range(10):
                image = picture(index, 64, 48)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
            packet = av.Packet(b"words")
            packet.stream, packet.pts, packet.dts, packet.duration = other, 0, 0, 300
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)

    return write


def patched_rate(scale: int, rate: int) -> Callable[[Path], object]:
    """Give a maker of an AVI whose stream header states a rate of ``rate / scale``."""

    def write(path: Path) -> None:
        data = bytearray(make_video(path, codec="mpeg4").read_bytes())
        struct.pack_into("<II", data, data.index(b"strh") + 8 + 20, scale, rate)
        path.write_bytes(data)

    return write


def with_equal_pts(codec: str) -> Callable[[Path], object]:
    """Give a maker of 20 frames that are all shown at 0."""

    def write(path: Path) -> None:
        pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        source = make_video(path.with_name(f"source-of-{path.stem}.avi"), codec=codec, pixel_format=pixel_format)
        with av.open(str(source)) as given, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(video=0):
                if packet.size:
                    packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1000)
                    container.mux(packet)

    return write


def turned(clockwise_degrees: float) -> Callable[[Path], object]:
    """Give a maker of an mp4 with a display matrix."""
    return lambda path: set_rotation(make_video(path), path, clockwise_degrees)


def _png(width: int, height: int, claimed: tuple[int, int] | None = None) -> bytes:
    """Give a black grey-scale PNG. ``claimed`` is the size that its header states."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", *(claimed or (width, height)), 8, 0, 0, 0, 0)
    packer, rows = zlib.compressobj(1), bytes(100 * (1 + width))
    packed = b"".join(packer.compress(rows) for _ in range(height // 100)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def write_png_avi(path: Path, size: tuple[int, int], content: bytes) -> None:
    """Write an AVI of one PNG. ``size`` is what the container says."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = *size, "gray"
        packet = av.Packet(content)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1)
        packet.is_keyframe = True
        container.mux(packet)


def claims_in_avi(side: int) -> Callable[[Path], object]:
    """Give a maker of an AVI whose header claims pictures of ``side`` by ``side``; its codec has no other."""

    def write(path: Path) -> None:
        data = bytearray(make_video(path, codec="huffyuv", pixel_format="yuv422p").read_bytes())
        struct.pack_into("<ii", data, data.index(b"strf") + 8 + 4, side, side)
        path.write_bytes(data)

    return write


def claims_in_jpeg(side: int) -> Callable[[Path], object]:
    """Give a maker of an AVI of JPEGs whose own headers claim pictures of ``side`` by ``side``."""

    def write(path: Path) -> None:
        data = make_video(path, codec="mjpeg", pixel_format="yuvj420p").read_bytes()
        before_size = b"\xff\xc0\x00\x11\x08"
        first, *others = data.split(before_size)
        claim = struct.pack(">HH", side, side)
        path.write_bytes(before_size.join([first, *(claim + other[4:] for other in others)]))

    return write


def claims_in_png(side: int) -> Callable[[Path], object]:
    """Give a maker of an AVI of a PNG whose own header claims a picture of ``side`` by ``side``."""
    return lambda path: write_png_avi(path, (64, 48), _png(100, 100, claimed=(side, side)))


def picture_bombs(_workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Make a picture of 14000 by 14000 pixels in 200 KB, and read it with much memory and with little."""
    content = _png(14_000, 14_000)
    too_large = Expected("VIDEO_TOO_LARGE")
    write_png_avi(folder / "a.avi", (14_000, 14_000), content)
    yield Item("2 GB", folder / "a.avi", too_large)
    yield Item("512 MB", folder / "a.avi", too_large, limits=SMALL_MEMORY)
    write_png_avi(folder / "b.avi", (64, 48), content)
    yield Item("behind a small header", folder / "b.avi", Expected(frozenset({"VIDEO_TOO_LARGE", "VIDEO_DAMAGED"})))


def black(path: Path, num_frames: int, size: tuple[int, int], seconds_apart: Fraction, codec: str) -> Path:
    """Encode black frames."""
    options = {"preset": "ultrafast", "g": "250"} if codec == "libx264" else {"g": "250"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=1 / seconds_apart, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
        frame = image.reformat(format="yuv420p")
        for index in range(num_frames):
            frame.pts, frame.time_base = index, seconds_apart
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_bomb(_workshop: Workshop, folder: Path, everything: bool) -> Iterator[Item]:
    """Make a few KB that hold more bytes of pictures than the decoder may take."""
    num_frames = 3000 if everything else 120
    path = black(folder / "a.mp4", num_frames, (1920, 1080), Fraction(1, 25), "libx264")
    assert path.stat().st_size * 1000 < num_frames * 1920 * 1080 * 3 > SMALL_MEMORY.memory_bytes
    yield Item(f"{num_frames} frames", path, Expected(None, num_frames), limits=SMALL_MEMORY)


def time_bomb(_workshop: Workshop, folder: Path, everything: bool) -> Iterator[Item]:
    """Make ten hours of black, a frame every second or every ten."""
    seconds_apart = Fraction(1 if everything else 10)
    num_frames = int(36_000 / seconds_apart)
    path = black(folder / "a.mp4", num_frames, (64, 48), seconds_apart, "mpeg4")
    yield Item(f"{num_frames} frames", path, Expected(None, num_frames, facts={"coverage": 1.0}), limits=SMALL_MEMORY)


NAMES = (
    "a:b.mp4",
    "-rf.mp4",
    "%03d.mp4",
    "new\nline.mp4",
    "影片 🎥.mp4",
    "\u00e9.mp4",
    "e\u0301.mp4",
    os.fsdecode(b"latin-\xe9.mp4"),
    "x" * 240 + ".mp4",
)
"""Two of them are one in NFC, the form of vadx's ids."""


def names(_workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Give one video each of the names."""
    content = make_video(folder / "source.mp4").read_bytes()
    for name in NAMES:
        (folder / name).write_bytes(content)
        yield Item(ascii(name[:30]), folder / name, Expected(None, 20))
