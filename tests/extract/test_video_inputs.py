from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from support import make_video, picture
from vadx.errors import CODES, VideoError
from vadx.extract.library import probe_video
from vadx.extract.video import VideoReader

from .clips import make_video_with_sound, read, set_rotation
from .odd_files import (
    FFCONCAT,
    HTML,
    M3U8,
    MPD,
    SDP,
    bound_socket,
    no_frames,
    sound_only,
    undecodable,
    unknown_codec,
    with_cover,
    with_foreign_metadata,
    writes,
)

INPUTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing.mp4", lambda _: None, "VIDEO_MISSING"),
    ("link.mp4", lambda path: path.symlink_to("nothing"), "VIDEO_MISSING"),
    ("loop.mp4", lambda path: path.symlink_to(path), "VIDEO_UNREADABLE"),
    ("folder.mp4", Path.mkdir, "VIDEO_NOT_REGULAR"),
    ("fifo.mp4", os.mkfifo, "VIDEO_NOT_REGULAR"),
    ("socket.mp4", bound_socket, "VIDEO_NOT_REGULAR"),
    ("device.mp4", lambda path: path.symlink_to("/dev/zero"), "VIDEO_NOT_REGULAR"),
    ("empty.mp4", Path.touch, "VIDEO_EMPTY"),
    ("byte.mp4", writes(b"x"), "VIDEO_NOT_VIDEO"),
    ("text.mp4", writes(b"This is a text, not a video.\n" * 20), "VIDEO_NOT_VIDEO"),
    ("page.mp4", writes(HTML), "VIDEO_NOT_VIDEO"),
    ("random.mp4", writes(np.random.default_rng(0).bytes(200_000)), "VIDEO_NOT_VIDEO"),
    ("zeros.mp4", writes(bytes(200_000)), "VIDEO_NOT_VIDEO"),
    ("sound.mp4", sound_only, "VIDEO_NO_STREAM"),
    ("sound.mkv", sound_only, "VIDEO_NO_STREAM"),
    ("cover.mp4", lambda path: with_cover(path, with_video=False), "VIDEO_NO_STREAM"),
    ("none.mp4", no_frames, "VIDEO_NO_STREAM"),
    ("none.avi", no_frames, "VIDEO_TOO_SHORT"),
    ("codec.mp4", unknown_codec, "VIDEO_UNSUPPORTED_CODEC"),
    ("noise.mp4", undecodable, "VIDEO_DAMAGED"),
    ("list.mp4", writes(FFCONCAT), "VIDEO_FORBIDDEN_FORMAT"),
    ("list.ffconcat", writes(FFCONCAT), "VIDEO_FORBIDDEN_FORMAT"),
    ("list.m3u8", writes(M3U8), "VIDEO_FORBIDDEN_FORMAT"),
    ("session.mp4", writes(SDP), "VIDEO_FORBIDDEN_FORMAT"),
    ("session.sdp", writes(SDP), "VIDEO_FORBIDDEN_FORMAT"),
    # FFmpeg looks for these two only behind names that fit.
    ("playlist.mp4", writes(M3U8), "VIDEO_NOT_VIDEO"),
    ("dash.mp4", writes(MPD), "VIDEO_NOT_VIDEO"),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("name", "make", "code"), INPUTS, ids=[name for name, _, _ in INPUTS])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_what_is_no_sound_video_has_its_code(
    tmp_path: Path, name: str, make: Callable[[Path], object], code: str, allow_partial: bool
) -> None:
    make_video(tmp_path / "other.mp4")
    path = tmp_path / name
    make(path)
    got = read(path, allow_partial=allow_partial)
    assert got.code == code
    assert got.frames == []
    assert got.evidence
    assert code in CODES


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat"])
def test_the_playlist_would_open_another_file(tmp_path: Path, name: str) -> None:
    make_video(tmp_path / "other.mp4")
    (tmp_path / name).write_bytes(FFCONCAT)
    with av.open(str(tmp_path / name)) as container:
        assert next(container.decode(video=0)).width == 64


def test_a_cover_picture_is_passed_over(tmp_path: Path) -> None:
    with_cover(tmp_path / "a.mp4", with_video=True)
    got = read(tmp_path / "a.mp4")
    assert got.code is None
    assert [frame.shape for frame in got.frames] == [(48, 64, 3)] * 10


@pytest.mark.parametrize(
    "name",
    [
        "a:b.mp4",
        "cam1:2024-01-01 08:00.mp4",
        "concat:a|b.mp4",
        "file:x.mp4",
        "-rf.mp4",
        "%03d.mp4",
        "new\nline.mp4",
        "a?b#c.mp4",
        "影片 🎥.mp4",
        os.fsdecode(b"latin-\xe9.mp4"),
        "x" * 240 + ".mp4",
        "no extension",
        "wrong.txt",
    ],
)
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    make_video(tmp_path / "a.mp4").rename(path)
    assert len(read(path).frames) == 20
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name)).frames) == 20


def test_a_link_to_a_video_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(make_video(tmp_path / "a.mp4"))
    assert len(read(tmp_path / "link.mp4").frames) == 20


def test_frames_above_the_pixel_limit_are_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4")
    assert len(read(path, max_pixels=64 * 48).frames) == 20
    got = read(path, max_pixels=64 * 48 - 1)
    assert (got.code, got.evidence) == ("VIDEO_TOO_LARGE", "its frames are 64x48, more than 3071 pixels")


def test_frames_that_grow_above_the_pixel_limit_are_not_decoded(tmp_path: Path) -> None:
    small = make_video(tmp_path / "small.ts", codec="mpeg2video")
    large = make_video(tmp_path / "large.ts", width=640, height=480, codec="mpeg2video")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    assert (480, 640, 3) in {frame.shape for frame in read(joined).frames}
    # FFmpeg's own check adds padding to each side, so the limit lies well between the two sizes.
    got = read(joined, max_pixels=200 * 200)
    assert {frame.shape for frame in got.frames} == {(48, 64, 3)}
    assert got.is_flagged


@pytest.mark.parametrize(
    ("size", "pixel_format"),
    [
        ((2, 2), "yuv420p"),
        ((1, 1), "yuv444p"),
        ((16, 4096), "yuv420p"),
        ((4096, 16), "yuv420p"),
        ((64, 48), "yuv420p10le"),
        ((64, 48), "gray"),
        ((64, 48), "gray16le"),
        ((64, 48), "bgr0"),
    ],
)
def test_odd_sizes_and_pixel_formats_become_rgb(tmp_path: Path, size: tuple[int, int], pixel_format: str) -> None:
    width, height = size
    path = make_video(
        tmp_path / "a.mkv", num_frames=3, width=width, height=height, codec="ffv1", pixel_format=pixel_format
    )
    got = read(path)
    assert got.code is None
    assert np.stack(got.frames).shape == (3, height, width, 3)
    assert np.stack(got.frames).dtype == np.uint8
    if pixel_format == "bgr0":
        np.testing.assert_array_equal(got.frames[2], picture(2, width, height))


def test_metadata_that_is_no_text_hurts_nobody(tmp_path: Path) -> None:
    with_foreign_metadata(tmp_path / "a.mkv")
    assert len(read(tmp_path / "a.mkv").frames) == 1


MUTATED = [
    ("a.mp4", "libx264", {}),
    ("b.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ("c.mkv", "mpeg4", {}),
    ("d.ts", "libx264", {}),
    ("e.avi", "mpeg4", {}),
    ("f.flv", "libx264", {}),
    ("g.avi", "mjpeg", {}),
    ("h.asf", "mpeg4", {}),
    ("i.webm", "libvpx", {}),
]


@pytest.mark.parametrize(("name", "codec", "container_options"), MUTATED, ids=[name for name, _, _ in MUTATED])
def test_mutated_headers_raise_nothing_but_video_errors(
    tmp_path: Path, name: str, codec: str, container_options: dict[str, str]
) -> None:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source = make_video(
        tmp_path / name, num_frames=8, codec=codec, container_options=container_options, pixel_format=pixel_format
    ).read_bytes()
    index = max(0, source.find(b"moov"))
    random = np.random.default_rng(20261122)
    codes = set()
    for _ in range(80):
        data = bytearray(source)
        for _ in range(int(random.integers(1, 9))):
            at = int(random.integers(index, min(len(data), index + 1500)))
            data[at] = int(random.choice([0, 1, 127, 128, 255, int(random.integers(256))]))
        (tmp_path / f"mutant-{name}").write_bytes(data)
        codes.add(read(tmp_path / f"mutant-{name}", max_pixels=1 << 20).code)
    assert len(codes) > 1
    assert codes <= {None, *CODES}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    sound_only(tmp_path / "sound.mp4")
    undecodable(tmp_path / "noise.mp4")
    (tmp_path / "text.mp4").write_bytes(b"text")
    good = make_video(tmp_path / "good.mp4")
    paths: list[Path] = [tmp_path / "sound.mp4", tmp_path / "noise.mp4", tmp_path / "text.mp4", good]
    for path in paths:
        read(path)
    before = open_files()
    kept = []
    for _ in range(5):
        for path in paths:
            read(path)
        for path, options in ((good, {"max_pixels": 1}), (paths[0], {})):
            # An error that is kept keeps its frames, and with them the reader that raised it.
            with pytest.raises(VideoError) as caught:
                VideoReader(path, **options)
            kept.append(caught)
    assert open_files() == before
    assert len(kept) == 10


def test_a_probe_says_what_a_good_file_is(tmp_path: Path) -> None:
    plain = make_video(tmp_path / "a.mp4", num_frames=30, fps=30)
    probe = probe_video(set_rotation(plain, tmp_path / "turned.mp4", 90))
    assert (probe.code, probe.message) == (None, None)
    assert probe.info is not None
    assert probe.facts is not None
    assert (probe.info.container, probe.info.codec, probe.info.width, probe.info.height) == ("mov", "h264", 64, 48)
    assert (probe.info.fps, probe.info.num_frames_declared) == (30.0, 30)
    assert probe.info.duration_seconds == pytest.approx(1.0)
    assert probe.info.file_bytes == plain.stat().st_size
    assert (probe.facts.width, probe.facts.height, probe.facts.rotation_degrees) == (48, 64, 90)
    assert probe.variable_rate is False


def test_a_probe_sees_a_variable_rate(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=4, pts=[0, 40, 80, 200], time_base=Fraction(1, 1000))
    assert probe_video(path).variable_rate is True


def test_a_probe_reports_a_bad_file_and_raises_nothing(tmp_path: Path) -> None:
    make_video_with_sound(tmp_path / "a.flv", seconds_of_sound=1.0, sound="aac")
    data = (tmp_path / "a.flv").read_bytes()
    (tmp_path / "a.flv").write_bytes(data[: len(data) // 2])
    probe = probe_video(tmp_path / "a.flv")
    assert probe.code == "VIDEO_TRUNCATED"
    assert probe.message is not None
    assert "accept the part with --allow-partial" in probe.message
    assert probe.info is not None
    assert probe.facts is not None
    assert 0 < probe.facts.num_frames_decoded < 25
    missing = probe_video(tmp_path / "missing.mp4")
    assert (missing.code, missing.info, missing.facts) == ("VIDEO_MISSING", None, None)
