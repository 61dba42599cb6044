"""The sixty kinds of broken and odd videos: how each is made, and what vadx must say of it.

`KINDS` is the whole corpus, made offline and from fixed seeds. It stands in the order of a camera's misfortunes: no
video at all, cut off, damaged, odd but whole, and made to do harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..extract.odd_files import (
    FFCONCAT,
    HTML,
    M3U8,
    MPD,
    SDP,
    bound_socket,
    no_frames,
    sound_only,
    with_cover,
    with_foreign_metadata,
    writes,
)
from . import broken, odd
from .items import Expected, Item, Kind, Workshop, files
from .odd import video

_NOT_VIDEO = Expected("VIDEO_NOT_VIDEO")
_FORBIDDEN = Expected("VIDEO_FORBIDDEN_FORMAT")
_NOT_REGULAR = Expected("VIDEO_NOT_REGULAR")
_NO_STREAM = Expected("VIDEO_NO_STREAM")
_MISSING = Expected("VIDEO_MISSING")
_TWENTY = Expected(None, 20)
_TEN = Expected(None, 10)
_THREE = Expected(None, 3)
_XML = b'<?xml version="1.0"?><recording><camera>7</camera></recording>\n'
_VFR = tuple(np.cumsum([0, 33, 33, 533, 40, 40, 120, 33, 33, 200]).tolist())


def unreadable(_workshop: Workshop, folder: Path, _everything: bool) -> Iterator[Item]:
    """Make files that the system refuses to read. root reads what nobody may."""
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    yield Item("loop.mp4", folder / "loop.mp4", Expected("VIDEO_UNREADABLE"))
    if os.geteuid() != 0:
        (folder / "private.mp4").write_bytes(b"private")
        (folder / "private.mp4").chmod(0)
        yield Item("private.mp4", folder / "private.mp4", Expected("VIDEO_UNREADABLE"))


KINDS: tuple[Kind, ...] = tuple(
    Kind(number, what, make)
    for number, (what, make) in enumerate(
        (
            ("empty", files(("empty.mp4", Path.touch, Expected("VIDEO_EMPTY")))),
            ("one byte", files(("byte.mp4", writes(b"x"), _NOT_VIDEO))),
            ("a text", files(("text.mp4", writes(b"This is a text, not a video.\n" * 20), _NOT_VIDEO))),
            ("a web page", files(("page.mp4", writes(HTML), _NOT_VIDEO))),
            ("200 KB of chance", files(("a.mp4", writes(np.random.default_rng(0).bytes(200_000)), _NOT_VIDEO))),
            ("200 KB of zeros", files(("zeros.mp4", writes(bytes(200_000)), _NOT_VIDEO))),
            (
                "not there",
                files(
                    ("missing.mp4", lambda _: None, _MISSING),
                    ("dangling.mp4", lambda path: path.symlink_to("nothing"), _MISSING),
                ),
            ),
            (
                "not a regular file",
                files(
                    ("folder.mp4", Path.mkdir, _NOT_REGULAR),
                    ("fifo.mp4", os.mkfifo, _NOT_REGULAR),
                    ("socket.mp4", bound_socket, _NOT_REGULAR),
                    ("device.mp4", lambda path: path.symlink_to("/dev/zero"), _NOT_REGULAR),
                ),
            ),
            ("not to be read", unreadable),
            ("cut at 0.1 %", broken.cut_at(0.001)),
            ("cut at 2 %", broken.cut_at(0.02)),
            ("cut at 25 %", broken.cut_at(0.25)),
            ("cut at 50 %", broken.cut_at(0.5)),
            ("cut at 90 %", broken.cut_at(0.9)),
            ("cut at 99.9 %", broken.cut_at(0.999)),
            ("cut inside the index", broken.cut_inside_the_index),
            ("cut inside the first frame", broken.cut_inside_the_first_frame),
            ("cut between transport packets", broken.cut_between_transport_packets),
            ("the last byte missing", broken.without_the_last_byte),
            ("cut inside a fragment's header", broken.cut_inside_a_fragments_header),
            ("5 bits flipped", broken.damaged_by(broken.flip_bits)),
            ("188 random bytes", broken.damaged_by(None)),
            ("4 KiB zeroed", broken.damaged_by(broken.zero)),
            ("2,000 bytes deleted", broken.damaged_by(broken.delete)),
            ("2,000 bytes doubled", broken.damaged_by(broken.duplicate)),
            ("two parts swapped", broken.damaged_by(broken.swap)),
            ("transport packets lost", broken.lose_transport_packets),
            ("begun between key frames", broken.begin_late),
            ("joined", broken.joined),
            ("sound only", files(("a.mp4", sound_only, _NO_STREAM), ("b.mkv", sound_only, _NO_STREAM))),
            (
                "no streams",
                files(
                    ("a.mp4", no_frames, _NO_STREAM),
                    # An FLV without streams and one that was cut off there are the same bytes.
                    ("b.flv", writes(b"FLV\x01\x00\0\0\0\x09\0\0\0\0"), Expected("VIDEO_TRUNCATED")),
                ),
            ),
            (
                "a cover picture",
                files(
                    ("a.mp4", lambda path: with_cover(path, with_video=False), _NO_STREAM),
                    ("b.mp4", lambda path: with_cover(path, with_video=True), _TEN),
                ),
            ),
            (
                "two video streams",
                files(
                    ("a.mp4", odd.of_sizes(((64, 48), (96, 64))), Expected(None, 10, facts={"width": 64})),
                    ("b.mp4", odd.of_sizes(((96, 64), (64, 48))), Expected(None, 10, facts={"width": 96})),
                ),
            ),
            (
                "subtitles and data",
                files(
                    ("a.mkv", odd.beside("subtitles", "subrip"), _TEN),
                    ("b.mp4", odd.beside("data", "bin_data"), _TEN),
                    ("c.ts", odd.beside("data", "klv"), _TEN),
                ),
            ),
            (
                "a variable rate",
                files(
                    ("a.mp4", video(num_frames=10, pts=_VFR, time_base=Fraction(1, 1000)), _TEN),
                    ("b.mkv", video(num_frames=10, pts=_VFR, time_base=Fraction(1, 1000)), _TEN),
                ),
            ),
            (
                "a rate of 0 or 1000",
                files(
                    ("a.avi", odd.patched_rate(1, 0), _TWENTY),
                    ("b.avi", odd.patched_rate(0, 25), _TWENTY),
                    ("c.avi", odd.patched_rate(0, 0), _TWENTY),
                    ("d.mp4", video(fps=1000), Expected(None, 20, facts={"fps": 1000.0})),
                ),
            ),
            ("no clock", files(("a.h264", video(), Expected(None, 20, facts={"time_source": "synthetic"})))),
            (
                "a clock below 0, or one that stands",
                files(
                    # The edit list of an mp4 leaves out what lies before 0.
                    ("a.mp4", odd.below_zero, Expected(None, 10, facts={"num_frames_declared": 20})),
                    ("b.mkv", odd.below_zero, _TWENTY),
                    ("c.ts", odd.below_zero, _TWENTY),
                    ("d.mkv", odd.with_equal_pts("mjpeg"), Expected(None, 20, facts={"num_backward_pts": 0})),
                    ("e.mp4", odd.with_equal_pts("mjpeg"), _TWENTY),
                    ("f.flv", odd.with_equal_pts("flv1"), _TWENTY),
                ),
            ),
            (
                "a clock that wraps after 26.5 h",
                files(
                    *(
                        (
                            f"{start}.ts",
                            video(num_frames=60, container_options={"output_ts_offset": start}),
                            Expected(None, 60, facts={"num_backward_pts": 0}),
                        )
                        for start in ("95442", "95443.2", "95443.717")
                    )
                ),
            ),
            (
                "one frame",
                files(
                    ("a.mp4", video(num_frames=1), Expected(None, 1)), ("b.ts", video(num_frames=1), Expected(None, 1))
                ),
            ),
            ("no frame", files(("a.avi", no_frames, Expected("VIDEO_TOO_SHORT")))),
            (
                "two frames",
                files(
                    ("a.mp4", video(num_frames=2), Expected(None, 2)), ("b.mkv", video(num_frames=2), Expected(None, 2))
                ),
            ),
            ("shorter than a clip", files(("a.mp4", video(num_frames=3), _THREE))),
            (
                "the smallest and the longest pictures",
                files(
                    ("1x1.mkv", odd.of_size(1, 1, "ffv1", "yuv444p"), _THREE),
                    ("2x2.mp4", odd.of_size(2, 2), _THREE),
                    ("16x16384.mp4", odd.of_size(16, 16384), _THREE),
                    ("16x16384.mkv", odd.of_size(16, 16384, "ffv1"), _THREE),
                ),
            ),
            (
                "odd sizes",
                files(
                    ("a.mkv", odd.of_size(321, 241, "ffv1", "yuv444p"), _THREE),
                    ("b.mp4", odd.of_size(321, 241, "libx264", "yuv444p"), _THREE),
                ),
            ),
            (
                "10 bits, grey, full range",
                files(
                    ("a.mp4", odd.of_size(64, 48, "libx264", "yuv420p10le"), _THREE),
                    ("b.mkv", odd.of_size(64, 48, "ffv1", "gray"), _THREE),
                    ("c.mkv", odd.of_size(64, 48, "ffv1", "gray16le"), _THREE),
                    ("d.avi", odd.of_size(64, 48, "mjpeg", "yuvj420p"), _THREE),
                ),
            ),
            ("interlaced", files(("a.mp4", video(codec_options={"flags": "+ildct+ilme"}), _TWENTY))),
            (
                "turned",
                files(
                    *(
                        (
                            f"{degrees}.mp4",
                            odd.turned(degrees),
                            Expected(None, 20, facts={"rotation_degrees": applied, "width": width}),
                        )
                        # Only quarter turns are applied.
                        for degrees, applied, width in (
                            (0, 0, 64),
                            (90, 90, 48),
                            (180, 180, 64),
                            (270, 270, 48),
                            (45, 0, 64),
                        )
                    )
                ),
            ),
            (
                "pixels that are not square",
                files(
                    (
                        "a.mp4",
                        video(codec_options={"x264-params": "sar=4/3"}),
                        Expected(None, 20, facts={"width": 64, "height": 48}),
                    )
                ),
            ),
            ("a picture bomb", odd.picture_bombs),
            (
                "a header that claims 9000 or 65535 pixels a side",
                files(
                    ("a.avi", odd.claims_in_avi(9000), Expected("VIDEO_TOO_LARGE")),
                    ("b.avi", odd.claims_in_png(9000), Expected("VIDEO_TOO_LARGE")),
                    # FFmpeg says nothing of a size that it refuses itself, or that only a JPEG claims.
                    ("c.avi", odd.claims_in_jpeg(9000), Expected("VIDEO_DAMAGED")),
                    ("d.avi", odd.claims_in_avi(65_535), Expected("VIDEO_DAMAGED")),
                    ("e.avi", odd.claims_in_png(65_535), Expected("VIDEO_DAMAGED")),
                    ("f.avi", odd.claims_in_jpeg(65_535), Expected("VIDEO_DAMAGED")),
                ),
            ),
            ("a frame bomb", odd.frame_bomb),
            ("ten hours", odd.time_bomb),
            ("a playlist", files(("list.m3u8", writes(M3U8), _FORBIDDEN), ("list.mp4", writes(M3U8), _NOT_VIDEO))),
            ("a list of files", files(("list.mp4", writes(FFCONCAT), _FORBIDDEN))),
            ("a session", files(("session.mp4", writes(SDP), _FORBIDDEN), ("session.sdp", writes(SDP), _FORBIDDEN))),
            (
                "XML",
                files(
                    ("dash.mp4", writes(MPD), _NOT_VIDEO),
                    ("plain.mp4", writes(_XML), _NOT_VIDEO),
                ),
            ),
            ("a link to another file", files(("passwd.mp4", lambda path: path.symlink_to("/etc/passwd"), _NOT_VIDEO))),
            ("names", odd.names),
            ("metadata that is no text", files(("a.mkv", with_foreign_metadata, Expected(None, 1)))),
        ),
        start=1,
    )
)
"""The corpus, by number from 1."""
