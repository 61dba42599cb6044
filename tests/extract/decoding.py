"""Videos to decode in several ways, and all that each way shows of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from support import make_video
from vadx.errors import VideoError
from vadx.extract.video import FrameSource, VideoReader
from vadx.features.timeline import VideoFacts

from .clips import cut, damage, set_rotation


@dataclass(frozen=True)
class Seen:
    """Everything that reading a source showed; ``facts`` has those at the start, at each block and at the end."""

    starts: list[int]
    frames: list[np.ndarray[Any, np.dtype[np.uint8]]]
    pts: list[float]
    damaged: list[bool]
    facts: list[VideoFacts]
    error: tuple[str, str, str] | None


def see(source: FrameSource) -> Seen:
    """Read a source to its end or its error, copying each block."""
    seen = Seen([], [], [], [], [source.facts()], None)
    error = None
    try:
        for block in source:
            assert block.frames.dtype == np.uint8
            assert (block.pts_seconds.dtype, block.damaged.dtype) == (np.float64, np.bool_)
            seen.starts.append(block.start)
            seen.frames.extend(block.frames.copy())
            seen.pts.extend(block.pts_seconds.tolist())
            seen.damaged.extend(block.damaged.tolist())
            seen.facts.append(source.facts())
    except VideoError as caught:
        error = (caught.code, caught.path, caught.evidence)
    seen.facts.append(source.facts())
    return replace(seen, error=error)


def assert_same(ours: Seen, theirs: Seen) -> None:
    assert (ours.starts, ours.pts, ours.damaged, ours.facts, ours.error) == (
        theirs.starts,
        theirs.pts,
        theirs.damaged,
        theirs.facts,
        theirs.error,
    )
    assert len(ours.frames) == len(theirs.frames)
    for one, other in zip(ours.frames, theirs.frames, strict=True):
        np.testing.assert_array_equal(one, other)


def seen_directly(path: Path, **options: Any) -> Seen:
    with VideoReader(path, **options) as reader:
        return see(reader)


def plain(folder: Path, num_frames: int = 70, seed: int = 0) -> Path:
    return make_video(folder / f"plain{seed}.mp4", num_frames=num_frames, seed=seed)


def odd(folder: Path) -> Path:
    return make_video(folder / "odd.avi", codec="mjpeg", pixel_format="yuvj420p", width=321, height=241)


def without_timestamps(folder: Path) -> Path:
    return make_video(folder / "raw.h264", num_frames=20)


def turned(folder: Path) -> Path:
    return set_rotation(plain(folder), folder / "turned.mp4", 90)


def damaged(folder: Path) -> Path:
    options = {"g": "12", "crf": "8", "preset": "veryfast"}
    whole = make_video(folder / "whole.ts", num_frames=60, width=192, height=144, codec_options=options)
    return damage(whole, folder / "damaged.ts", seed=3)


def truncated(folder: Path) -> Path:
    whole = make_video(folder / "whole.mkv", num_frames=60, codec_options={"g": "12"})
    return cut(whole, folder / "cut.mkv", whole.stat().st_size // 2)


def of_two_sizes(folder: Path) -> Path:
    parts = [
        make_video(folder / f"{name}.mjpeg", codec="mjpeg", pixel_format="yuvj420p", num_frames=20, width=w, height=h)
        for name, w, h in (("large", 96, 64), ("small", 64, 48))
    ]
    joined = folder / "joined.mjpeg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    return joined


VIDEOS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker for maker in (plain, odd, without_timestamps, turned, damaged, truncated, of_two_sizes)
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plainly": {},
    "partly": {"allow_partial": True},
    "strictly": {"strict": True},
    "unturned": {"rotation": "ignore"},
}
