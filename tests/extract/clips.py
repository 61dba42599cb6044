"""Videos for the tests of this room, and what reading them gives."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from support import picture
from vadx.errors import VideoError
from vadx.extract.video import VideoReader
from vadx.features.timeline import VideoFacts


@dataclass(frozen=True)
class Read:
    """What `VideoReader` made of a file; ``code`` and ``evidence`` are those of its `VideoError`."""

    frames: list[NDArray[np.uint8]]
    pts: list[float]
    damaged: list[bool]
    facts: VideoFacts | None
    code: str | None
    evidence: str = ""

    @property
    def is_flagged(self) -> bool:
        """Whether anything tells that the file is not what was recorded."""
        return self.code is not None or (self.facts is not None and self.facts.is_degraded)


def read(path: Path, **options: Any) -> Read:
    """Read a file to its end, or to its error."""
    frames: list[NDArray[np.uint8]] = []
    pts: list[float] = []
    damaged: list[bool] = []
    reader = None
    try:
        reader = VideoReader(path, **options)
        for block in reader:
            assert block.start == len(frames)
            frames.extend(block.frames)
            pts.extend(block.pts_seconds.tolist())
            damaged.extend(block.damaged.tolist())
    except VideoError as error:
        return Read(frames, pts, damaged, reader.facts() if reader else None, error.code, error.evidence)
    finally:
        if reader is not None:
            reader.close()
    return Read(frames, pts, damaged, reader.facts(), None)


def opencv_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield a file's frames as OpenCV decodes them, in RGB."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        while True:
            there, image = capture.read()
            if not there:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def make_video_with_sound(
    path: Path,
    *,
    seconds_of_sound: float,
    sound: str,
    codec: str = "libx264",
    num_frames: int = 25,
    width: int = 64,
    height: int = 48,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Encode a small video at 25 frames/s beside a tone that may last longer than it."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=25, options=codec_options or {})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio: Any = container.add_stream(sound, rate=48000)
        audio.layout = "mono"
        for index in range(num_frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")))
        container.mux(video.encode())
        mux_tone(container, audio, seconds_of_sound)
    return path


def mux_tone(container: Any, stream: Any, seconds: float) -> None:
    """Encode a tone of some length into an audio stream of 48000 samples a second."""
    step = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=48000)
    for start in range(0, int(48000 * seconds), step):
        tone = (8000 * np.sin(np.arange(start, start + step) * 0.05)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        for resampled in resampler.resample(frame):
            container.mux(stream.encode(resampled))
    container.mux(stream.encode())


def set_rotation(source: Path, target: Path, clockwise_degrees: float) -> Path:
    """Copy an mp4 with a display matrix in its track header that turns the picture clockwise."""
    data = bytearray(source.read_bytes())
    # Track header, version 0: size, type, flags, then 40 bytes of times, ids and volumes before the matrix.
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    angle = math.radians(clockwise_degrees)
    cosine, sine = round(math.cos(angle) * 65536), round(math.sin(angle) * 65536)
    data[matrix : matrix + 36] = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def damage(source: Path, target: Path, seed: int, num_bytes: int = 188) -> Path:
    """Copy a file with random bytes somewhere in its middle eight tenths."""
    data = bytearray(source.read_bytes())
    random = np.random.default_rng(seed)
    start = int(random.integers(len(data) // 10, len(data) * 9 // 10 - num_bytes))
    data[start : start + num_bytes] = random.bytes(num_bytes)
    target.write_bytes(data)
    return target


def cut(source: Path, target: Path, num_bytes: int) -> Path:
    """Copy the first bytes of a file."""
    target.write_bytes(source.read_bytes()[:num_bytes])
    return target
