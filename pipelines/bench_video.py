"""The video that `vadx bench` measures on where it is given none: textured, moving, and the same on every machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..extract.weights import cache_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SEED = 0
WIDTH, HEIGHT, FPS = 320, 240, 30
DEFAULT_FRAMES = 3000
_CANVAS_WIDTH, _CANVAS_HEIGHT = 480, 360
_NUM_OBJECTS, _OBJECT_SIDE = 6, 40
# As much as a camera of this size gives at dusk: without noise a decoder has almost nothing to do.
_NOISE, _NUM_NOISE_FIELDS = 3.0, 8
_CRF = "23"


def bench_folder() -> Path:
    """Give the folder in the cache where the videos are kept and where measurements make their temporary stores."""
    return cache_home() / "bench"


def make_bench_video(num_frames: int) -> Path:
    """Give an H.264 video of ``num_frames`` frames, 320x240 at 30 frames/s; encoded once, then kept.

    Raises
    ------
    UsageError
        if FFmpeg has no H.264 encoder, or the cache folder cannot be written.
    """
    folder = bench_folder()
    path = folder / f"textured-{WIDTH}x{HEIGHT}-{num_frames}-seed{SEED}.mp4"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".mp4")
    except OSError as error:
        msg = f"{folder} cannot be written ({error.strerror or error}): set VADX_HOME, or give a VIDEO"
        raise UsageError(msg) from error
    os.close(descriptor)
    try:
        _encode(Path(temporary), num_frames)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _encode(path: Path, num_frames: int) -> None:
    import av
    from av.codec.codec import UnknownCodecError
    from av.video.reformatter import VideoReformatter

    with av.open(str(path), "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": _CRF})
        except UnknownCodecError as error:
            msg = "this PyAV has no H.264 encoder: give `vadx bench` a VIDEO"
            raise UsageError(msg) from error
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # One thread each, so that no race of threads decides what is encoded.
        stream.codec_context.thread_count = 1
        reformatter = VideoReformatter()
        for picture in _pictures(num_frames):
            # Into a frame of FFmpeg's own: from `from_ndarray`'s frames the encoder made other bytes each time.
            frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
            frame.planes[0].update(picture.tobytes())
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode())


def _pictures(num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Draw frames ``(height, width, 3)``: a camera that pans over a texture, things that cross it, and noise."""
    random = np.random.default_rng(SEED)
    canvas = _texture(random, _CANVAS_HEIGHT, _CANVAS_WIDTH)
    objects = [_texture(random, _OBJECT_SIDE, _OBJECT_SIDE) for _ in range(_NUM_OBJECTS)]
    starts = random.integers(0, (WIDTH, HEIGHT), size=(_NUM_OBJECTS, 2))
    steps = random.integers(1, 5, size=(_NUM_OBJECTS, 2))
    noise = [np.rint(random.normal(0.0, _NOISE, (HEIGHT, WIDTH, 1))).astype(np.int16) for _ in range(_NUM_NOISE_FIELDS)]
    for index in range(num_frames):
        left = round((_CANVAS_WIDTH - WIDTH) * (0.5 + 0.5 * np.sin(index / 90)))
        top = round((_CANVAS_HEIGHT - HEIGHT) * (0.5 + 0.5 * np.sin(index / 130)))
        picture = canvas[top : top + HEIGHT, left : left + WIDTH].copy()
        for thing, start, step in zip(objects, starts, steps, strict=True):
            x = int(start[0] + index * step[0]) % (WIDTH - _OBJECT_SIDE)
            y = int(start[1] + index * step[1]) % (HEIGHT - _OBJECT_SIDE)
            picture[y : y + _OBJECT_SIDE, x : x + _OBJECT_SIDE] = thing
        yield (picture + noise[index % _NUM_NOISE_FIELDS]).clip(0, 255).astype(np.uint8)


def _texture(random: np.random.Generator, height: int, width: int) -> NDArray[np.int16]:
    """Draw ``(height, width, 3)``: noise of several grain sizes, the coarser the stronger, as real pictures have."""
    from PIL import Image

    total = np.full((height, width, 3), 128.0)
    for grain, strength in ((4, 12.0), (12, 24.0), (36, 48.0)):
        small = random.integers(0, 256, (height // grain + 2, width // grain + 2, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        total += (large - 127.5) / 127.5 * strength
    texture: NDArray[np.int16] = total.clip(0, 255).astype(np.int16)
    return texture
