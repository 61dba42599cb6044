"""Makers of files that are no sound videos, or no videos at all. Each writes one file."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from support import make_video, picture

from .clips import mux_tone

HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body><h1>Not found</h1></body></html>\n" * 4
FFCONCAT = b"ffconcat version 1.0\nfile 'other.mp4'\n"
M3U8 = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nother.mp4\n#EXT-X-ENDLIST\n"
SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)
MPD = b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>\n'


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.layout = "mono"
        mux_tone(container, stream, 0.5)


def with_cover(path: Path, *, with_video: bool) -> None:
    """Write an mp4 whose first video stream is a cover picture."""
    with av.open(str(path), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        video: Any = container.add_stream("mpeg4", rate=25) if with_video else None
        audio: Any = container.add_stream("aac", rate=48000)
        audio.layout = "mono"
        if with_video:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        if with_video:
            for index in range(10):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index, 64, 48), format="rgb24")))
            container.mux(video.encode())
        mux_tone(container, audio, 0.5)


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def unknown_codec(path: Path) -> None:
    make_video(path)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))


def undecodable(path: Path) -> None:
    make_video(path, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + b"\x55" * (len(data) - start))


def with_foreign_metadata(path: Path) -> None:
    """Write an mkv of one frame whose title is not UTF-8."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, 64, 48), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"TITLETITLE", b"\xff\xfe\xfd\xfc" + b"TLE\xe9\xe8\xe7"))
