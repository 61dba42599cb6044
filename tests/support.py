"""Small real videos made with PyAV, the environment of a user, and what may be skipped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
PLUGINS = REPOSITORY / "tests" / "plugins"
CACHE = Path(os.environ.get("VADX_TEST_CACHE", REPOSITORY / ".test-cache"))


def required(marker: str) -> bool:
    """Whether the environment says that what a marker needs must be there."""
    return marker in os.environ.get("VADX_REQUIRE", "").split(",")


def skip_or_fail(marker: str, reason: str) -> None:
    """Skip a test loudly, or fail it where `VADX_REQUIRE` names its marker."""
    if required(marker):
        pytest.fail(f"VADX_REQUIRE names {marker}, but: {reason}", pytrace=False)
    pytest.skip(f"{marker}: {reason}")


@dataclass(frozen=True)
class Ran:
    """One run of the command line."""

    code: int
    out: str
    err: str


ENGINE = os.environ.get("VADX_TEST_ENGINE", "torch-eager")
"""The engine of tests that are not about engines: others may have to convert each network first."""

ONE_ENGINE = {"VADX_EXTRACT_ENGINE": ENGINE}

SERIAL = {**ONE_ENGINE, "VADX_EXTRACT_DECODERS": "0", "VADX_TUBES_DECODERS": "0"}
"""And nothing at once, so that what happens has an order."""


def vadx_environment(**extra: str) -> dict[str, str]:
    """Give the environment of a user who has installed the tiny backbone, with none of vadx's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("VADX_")}
    path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PYTHONPATH": path, "COLUMNS": "100", **ONE_ENGINE, **extra}


def picture(index: int, width: int, height: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw one frame: gradients that move with time, and a square; every frame differs from every other."""
    y, x = np.mgrid[0:height, 0:width]
    red = (x * 3 + index * 5 + seed * 17) % 256
    green = (y * 2 + index * 3) % 256
    blue = (x + y + index * 7 + seed * 31) % 256
    image = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    left, top = (index * 4 + seed) % max(1, width - 16), (index * 2) % max(1, height - 16)
    image[top : top + 16, left : left + 16] = (255, 255 - index % 200, seed % 256)
    return image


def make_video(
    path: Path,
    *,
    num_frames: int = 20,
    width: int = 64,
    height: int = 48,
    fps: int = 25,
    codec: str = "libx264",
    seed: int = 0,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pixel_format: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Encode a small video. ``pts`` counts in ``time_base``, and makes a variable frame rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if time_base is not None:
            stream.codec_context.time_base = time_base
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height, seed), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[index], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
