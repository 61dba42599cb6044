"""Videos with changed headers and bodies, decoded in the processes that are there for it."""

from __future__ import annotations

from pathlib import Path

from support import make_video
from vadx.errors import CODES, VideoError
from vadx.extract.decode_limits import DecodeLimits
from vadx.extract.isolate import DecodePool

from .mutations import Random, change_bytes, pick

STALL_SECONDS = 8.0
_VIDEOS = {
    "fast.mp4": ("libx264", {"movflags": "faststart"}),
    "plain.mp4": ("libx264", {}),
    "pieces.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "a.mkv": ("libx264", {}),
    "a.ts": ("libx264", {}),
    "a.flv": ("libx264", {}),
    "b.avi": ("mpeg4", {}),
    "c.avi": ("mjpeg", {}),
}


class VideoCases:
    """Makes and decodes changed videos. What a decoder does to its process is a code of the video, and no more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._right: dict[str, bytes] = {}
        for name, (codec, options) in _VIDEOS.items():
            pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            path = make_video(folder / name, num_frames=12, codec=codec, container_options=options, pixel_format=pixels)
            self._right[name] = path.read_bytes()
        self._pool = DecodePool(1, limits=DecodeLimits(stall_seconds=STALL_SECONDS, video_seconds=STALL_SECONDS))

    def run(self, random: Random) -> str:
        name = pick(random, list(self._right))
        path = self._folder / f"case-{name}"
        path.write_bytes(change_bytes(self._right[name], random))
        frames = 0
        try:
            with self._pool.open(path, allow_partial=bool(random.random() < 0.5)) as reader:
                for block in reader:
                    frames += len(block.frames)
                reader.facts()
        except VideoError as error:
            return f"{name}; {error.code}: {CODES[error.code].cause}"
        return f"{name}; {'all' if frames == 12 else 'some'} frames"

    def close(self) -> None:
        self._pool.close()
