from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vadx.errors import CODES, VideoError
from vadx.extract.files import check_file
from vadx.pipelines.source import Source

CONTENT = b"the video's bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LONG_AGO_NS = 1_000_000_000_000_000_000


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    really = Source._hashed

    def count(source: Source) -> str:
        names.append(str(source.path))
        return really(source)

    monkeypatch.setattr(Source, "_hashed", count)
    return names


def nothing(_path: Path) -> None:
    pass


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def looping_link(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "look",
    [lambda source: check_file(source.path), Source.sha256, Source.check_unchanged],
    ids=["check_file", "sha256", "check_unchanged"],
)
@pytest.mark.parametrize(
    ("make", "code", "evidence"),
    [
        (nothing, "VIDEO_MISSING", "no such file"),
        (dangling_link, "VIDEO_MISSING", "a symbolic link to nothing"),
        (looping_link, "VIDEO_UNREADABLE", os.strerror(errno.ELOOP)),
        (Path.mkdir, "VIDEO_NOT_REGULAR", "a folder"),
        (os.mkfifo, "VIDEO_NOT_REGULAR", "a FIFO"),
        (bound_socket, "VIDEO_NOT_REGULAR", "a socket"),
        (Path.touch, "VIDEO_EMPTY", "0 bytes"),
    ],
)
def test_what_is_no_video_file_has_a_code(
    tmp_path: Path, make: Callable[[Path], None], code: str, evidence: str, look: Callable[[Source], object]
) -> None:
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(VideoError) as caught:
        look(Source(path))
    assert caught.value.code == code
    assert caught.value.path == str(path)
    assert evidence in caught.value.evidence
    assert CODES[code].cure[1:] in str(caught.value)


def test_a_device_is_not_regular() -> None:
    with pytest.raises(VideoError, match="a character device"):
        check_file(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "file.txt/x.mp4", "nul\0byte.mp4"])
def test_a_name_that_no_file_can_have_is_this_videos_problem_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(VideoError) as caught:
        check_file(tmp_path / name)
    assert caught.value.code in {"VIDEO_MISSING", "VIDEO_UNREADABLE"}


def test_the_identity_is_the_sha256_of_the_bytes_hashed_once(video: Path, hashed: list[str]) -> None:
    link = video.with_name("link.mp4")
    link.symlink_to(video)
    source = Source(link)
    assert [source.sha256(), source.sha256()] == [DIGEST, DIGEST]
    assert hashed == [str(link)]


def test_a_hint_saves_hashing(video: Path, hashed: list[str]) -> None:
    hint = (len(CONTENT), LONG_AGO_NS, "0" * 64)
    assert Source(video, hint).sha256() == "0" * 64
    assert hashed == []


@pytest.mark.parametrize("hint", [(len(CONTENT) + 1, LONG_AGO_NS, "0" * 64), (len(CONTENT), LONG_AGO_NS + 1, "0" * 64)])
def test_a_hint_that_does_not_fit_is_dropped(video: Path, hashed: list[str], hint: tuple[int, int, str]) -> None:
    assert Source(video, hint).sha256() == DIGEST
    assert len(hashed) == 1


def test_a_hint_never_hides_that_the_file_is_gone(video: Path) -> None:
    hint = (len(CONTENT), LONG_AGO_NS, "0" * 64)
    video.unlink()
    with pytest.raises(VideoError, match="no such file"):
        Source(video, hint).sha256()


def test_a_new_hint_describes_what_was_hashed(video: Path) -> None:
    source = Source(video)
    assert source.new_hint() is None
    source.sha256()
    assert source.new_hint() == (len(CONTENT), LONG_AGO_NS, DIGEST)


@pytest.mark.parametrize("offset_ns", [0, 3_600_000_000_000], ids=["just now", "in the future"])
def test_a_file_written_just_now_gives_no_hint(video: Path, offset_ns: int) -> None:
    now = time.time_ns() + offset_ns
    os.utime(video, ns=(now, now))
    source = Source(video)
    source.sha256()
    assert source.new_hint() is None


def test_a_file_that_changes_under_the_reader_is_noticed(video: Path) -> None:
    source = Source(video)
    source.sha256()
    source.check_unchanged()
    os.utime(video, ns=(LONG_AGO_NS, LONG_AGO_NS + 1))
    with pytest.raises(VideoError) as caught:
        source.check_unchanged()
    assert caught.value.code == "VIDEO_CHANGED_DURING_READ"
    video.write_bytes(CONTENT + b"more")
    os.utime(video, ns=(LONG_AGO_NS, LONG_AGO_NS))
    with pytest.raises(VideoError, match=f"{len(CONTENT)} bytes at first, {len(CONTENT) + 4} after"):
        source.check_unchanged()


def test_a_read_error_is_a_video_error(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Source, "_hashed", fail)
    with pytest.raises(VideoError, match="Input/output error") as caught:
        Source(video).sha256()
    assert caught.value.code == "VIDEO_UNREADABLE"


def test_hashing_ends_when_it_is_cancelled(video: Path) -> None:
    source = Source(video)
    source.cancel()
    with pytest.raises(VideoError, match="the run ended"):
        source.sha256()


def test_a_file_that_takes_anothers_place_after_the_first_look_is_not_that_file(video: Path) -> None:
    source = Source(video)
    source.look()
    other = video.with_name("other.mp4")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(LONG_AGO_NS, LONG_AGO_NS))
    other.replace(video)
    # Hashed after it was decoded: size, time and bytes are even the same.
    assert source.sha256() == DIGEST
    with pytest.raises(VideoError) as caught:
        source.check_unchanged()
    assert caught.value.code == "VIDEO_CHANGED_DURING_READ"
