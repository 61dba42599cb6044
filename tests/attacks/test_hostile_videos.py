"""Files and names that are given as videos and would have FFmpeg open something else, or take all memory."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.logging
import pytest

from support import make_video
from vadx.errors import VideoError
from vadx.extract.decode_limits import DecodeLimits
from vadx.extract.isolate import DecodePool
from vadx.extract.video import VideoReader

from .traps import Canary, Trap, listening

pytestmark = pytest.mark.timeout(60)

Write = Callable[[Path, str, Path], None]
"""Writes a file that names an address of the trap, and a file that is not to be read."""


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    with listening() as trap:
        yield trap


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    real = make_video(tmp_path / "elsewhere" / "canary.ts", num_frames=5)
    with Canary(real, real.read_bytes()) as canary:
        yield canary


def _text(template: str) -> Write:
    def write(path: Path, address: str, canary: Path) -> None:
        path.write_text(template.format(address=address, canary=canary))

    return write


_M3U8 = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{0}\n#EXT-X-ENDLIST\n"
_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)
_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    "<Period><BaseURL>{0}</BaseURL><AdaptationSet><Representation id='0' bandwidth='1'>"
    "<SegmentList><SegmentURL media='a.m4s'/></SegmentList></Representation></AdaptationSet></Period></MPD>\n"
)
CONTENTS: Mapping[str, Write] = {
    "m3u8 of an address": _text(_M3U8.format("{address}/a.ts")),
    "m3u8 of a file": _text(_M3U8.format("file://{canary}")),
    "m3u8 with a key": _text(
        _M3U8.format("{canary}").replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{address}"\n#EXTINF')
    ),
    "ffconcat of an address": _text("ffconcat version 1.0\nfile '{address}/a.ts'\n"),
    "ffconcat of a file": _text("ffconcat version 1.0\nfile '{canary}'\n"),
    "ffconcat of a subfile": _text("ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{canary}'\n"),
    "SDP": _text(_SDP),
    "DASH of an address": _text(_DASH.format("{address}/")),
    "DASH of a file": _text(_DASH.format("file://{canary}")),
    "ASX": _text("<asx version='3.0'><entry><ref href='{address}/a.asf'/></entry></asx>\n"),
    "redirection": _text("[Reference]\r\nRef1={address}/a.asf?MSWMExt=.asf\r\n"),
    "RTSP text": _text("rtsptext{address}"),
    "image list": _text("{canary}\n"),
}
NAMES = ("hostile.mp4", "hostile.m3u8", "hostile.ffconcat", "hostile.sdp", "hostile.mpd", "hostile.asf", "hostile.ts")


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_names_others_opens_none(content: str, tmp_path: Path, canary: Canary, trap: Trap) -> None:
    assert not canary.was_touched
    for name in NAMES:
        CONTENTS[content](tmp_path / name, f"http://127.0.0.1:{trap.port}", canary.path)
        with pytest.raises(VideoError) as caught:
            list(VideoReader(tmp_path / name))
        assert caught.value.code in {"VIDEO_FORBIDDEN_FORMAT", "VIDEO_NOT_VIDEO"}, name
        assert not canary.was_touched, name
        assert not trap.was_asked, name


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:{port}/a.mp4",
        "tcp://127.0.0.1:{port}",
        "rtsp://127.0.0.1:{port}/a",
        "rtmp://127.0.0.1:{port}/a",
        "concat:{canary}|{canary}",
        "subfile,,start,0,end,0,,:{canary}",
        "cache:{canary}",
        "async:file:{canary}",
        "crypto:{canary}",
        "file:{canary}",
        "file://{canary}",
        "pipe:0",
        "fd:0",
        "data:video/mp4;base64,AAAA",
        "-",
    ],
)
def test_an_address_is_only_the_name_of_no_file(name: str, canary: Canary, trap: Trap) -> None:
    given = name.format(port=trap.port, canary=canary.path)
    assert not canary.was_touched
    with pytest.raises(VideoError) as caught:
        list(VideoReader(given))
    assert caught.value.code == "VIDEO_MISSING"
    assert not canary.was_touched
    assert not trap.was_asked


def test_what_ffmpeg_does_with_them_unguarded(tmp_path: Path, canary: Canary, trap: Trap) -> None:
    """The traps are traps: without vadx's guards the files are read and the address is asked."""
    av.logging.set_level(None)
    CONTENTS["ffconcat of a file"](tmp_path / "hostile.mp4", "", Path(os.path.relpath(canary.path, tmp_path)))
    assert not canary.was_touched
    with av.open(str(tmp_path / "hostile.mp4")) as container:
        next(container.decode(video=0))
    assert canary.was_touched
    with av.open(f"concat:{canary.path}") as container:
        next(container.decode(video=0))
    assert canary.was_touched
    with pytest.raises(av.error.FFmpegError):
        av.open(f"http://127.0.0.1:{trap.port}/a.mp4", timeout=0.2)
    assert trap.was_asked


def test_ffmpeg_is_told_which_formats_and_protocols_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its formats listed no other protocol is tried today; a format that does may come with any release."""
    told: list[tuple[str, dict[str, str]]] = []
    opens = av.open

    def note(name: str, **more: Any) -> Any:
        told.append((name, more["options"]))
        return opens(name, **more)

    path = make_video(tmp_path / "a.mp4", num_frames=3)
    monkeypatch.setattr(av, "open", note)
    VideoReader(path).close()
    ((name, options),) = told
    assert name == f"file:{path}"
    assert options["protocol_whitelist"] == "file"
    assert not {"hls", "concat", "sdp", "dash", "rtsp", "image2"} & set(options["format_whitelist"].split(","))


def _dimension_bomb(path: Path, side: int) -> None:
    """Write an AVI that says 64x48 and holds a PNG of ``side`` squared pixels, one bit each."""
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    image = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    image.seek(0, os.SEEK_END)
    for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        image.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        container.start_encoding()
        packet = av.Packet(image.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        container.mux(packet)


def test_a_picture_larger_than_memory_costs_its_video_and_no_memory_here(tmp_path: Path) -> None:
    _dimension_bomb(tmp_path / "bomb.avi", 14_000)
    assert (tmp_path / "bomb.avi").stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with DecodePool(1, limits=DecodeLimits(memory_bytes=512 << 20)) as pool, pool.open(tmp_path / "bomb.avi") as reader:
        with pytest.raises(VideoError) as caught:
            list(reader)
        assert caught.value.code in {"VIDEO_TOO_LARGE", "VIDEO_DAMAGED", "VIDEO_OOM"}
    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # Its pixels would be 588 MB.
    assert grown_kilobytes < 100_000


def test_frames_are_never_collected(tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mp4", num_frames=100)
    with VideoReader(path) as reader:
        sizes = [block.frames.nbytes for block in reader]
    assert sum(sizes) == 100 * 64 * 48 * 3
    assert max(sizes) == 16 * 64 * 48 * 3


@dataclass(frozen=True)
class Decoder:
    """What the system says of a process that decodes."""

    environment: bytes
    limits: str


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    """Start a decoder where secrets stand in the environment, and crashes leave their memory behind."""
    path = make_video(tmp_path_factory.mktemp("decoder") / "a.mp4", num_frames=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PGPASSWORD", "SSH_AUTH_SOCK", "HTTPS_PROXY"):
            patch.setenv(name, "hunter2")
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        try:
            with DecodePool(1) as pool, pool.open(path) as reader:
                list(reader)
                process = Path(f"/proc/{pool.process_ids[0]}")
                yield Decoder((process / "environ").read_bytes(), (process / "limits").read_text())
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_a_decoder_hears_no_secret_of_the_environment(decoder: Decoder) -> None:
    assert b"PATH=" in decoder.environment
    assert b"hunter2" not in decoder.environment


def test_a_decoder_has_limits(decoder: Decoder) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
        assert re.search(r"^Max core file size +0 ", decoder.limits, re.MULTILINE)
    assert re.search(rf"^Max open files +{DecodeLimits().num_files} ", decoder.limits, re.MULTILINE)
    assert not re.search(r"^Max address space +unlimited ", decoder.limits, re.MULTILINE)


def test_decoding_is_silent_where_a_word_would_hang_it(tmp_path: Path) -> None:
    av.logging.set_level(av.logging.VERBOSE)
    VideoReader(make_video(tmp_path / "a.mp4", num_frames=3)).close()
    assert av.logging.get_level() is None
