"""Encodings of one small video in the containers and codecs of the field, and what can happen to their bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from support import make_video

NUM_FRAMES = 60


@dataclass(frozen=True)
class Encoding:
    """A container with a codec; frames are large enough for a cut to fall into one."""

    extension: str
    codec: str = "libx264"
    container_options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=lambda: {"g": "12", "crf": "8", "preset": "veryfast"})
    pixel_format: str = "yuv420p"

    def make(self, path: Path, num_b_frames: int = 0, seed: int = 0) -> Path:
        """Encode it: the same bytes on machines of any number of cores."""
        b_frames = {"bf": str(num_b_frames)} if num_b_frames else {}
        return make_video(
            path.with_suffix(self.extension),
            num_frames=NUM_FRAMES,
            width=192,
            height=144,
            codec=self.codec,
            seed=seed,
            container_options={"fflags": "+bitexact"} | self.container_options,
            codec_options={"threads": "1"} | self.codec_options | b_frames,
            pixel_format=self.pixel_format,
        )


ENCODINGS = {
    "mp4, index last": Encoding(".mp4"),
    "mp4, index first": Encoding(".mp4", container_options={"movflags": "faststart"}),
    "mp4, fragmented": Encoding(".mp4", container_options={"movflags": "frag_keyframe+empty_moov"}),
    "mkv": Encoding(".mkv"),
    "ts": Encoding(".ts"),
    "avi": Encoding(".avi"),
    "flv": Encoding(".flv"),
    "h264": Encoding(".h264"),
    "mpeg4 avi": Encoding(".avi", "mpeg4", codec_options={"g": "12"}),
    "mjpeg avi": Encoding(".avi", "mjpeg", codec_options={}, pixel_format="yuvj420p"),
    # Its decoder finds nothing wrong with half a frame.
    "huffyuv avi": Encoding(".avi", "huffyuv", codec_options={}, pixel_format="yuv422p"),
    "webm": Encoding(".webm", "libvpx", codec_options={"g": "12", "deadline": "realtime", "b": "2M"}),
}


def frame_starts(data: bytes) -> list[int]:
    """Where the frames of a transport stream begin: in packets of stream 0x100 with the payload-unit-start bit."""
    return [at for at in range(0, len(data), 188) if data[at + 1] & 0x5F == 0x41 and data[at + 2] == 0]


def inside_a_frame(data: bytes, near: int) -> int:
    """Give the place nearest to ``near`` below it that lies in the middle of a frame's packets."""
    starts = [at for at in frame_starts(data) if at < near]
    return (starts[-2] + starts[-1]) // 2


def boxes_of(data: bytes) -> list[tuple[int, bytes]]:
    found, start = [], 0
    while start < len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        found.append((start, kind))
        start += size
    return found


def punch(path: Path, begin: float, end: float) -> None:
    """Overwrite a part of a file with zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * begin), int(len(data) * end)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


def lose_packets(data: bytes, lost: set[int]) -> bytes:
    """Leave packets of 188 bytes out of a transport stream."""
    return b"".join(data[at : at + 188] for at in range(0, len(data), 188) if at // 188 not in lost)
