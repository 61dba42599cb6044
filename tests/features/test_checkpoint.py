"""What a killed run leaves of its blocks: whole ones are found again, nothing else is."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import StoreWriteError
from vadx.features import checkpoint
from vadx.features.checkpoint import Checkpoint

WORK = {"recipe": "ab", "source": "cd"}


def block(start: int, count: int = 3) -> dict[str, np.ndarray]:
    return {
        "frame": np.arange(start, start + count),
        "box": np.arange(4 * count, dtype=np.float32).reshape(count, 4) + start,
    }


def written(tmp: Path, num_blocks: int) -> Path:
    with Checkpoint(tmp, "video", WORK) as kept:
        for number in range(num_blocks):
            kept.append(block(10 * number), 10 * number + 3)
    return tmp / "video.resume"


def test_blocks_are_found_again(tmp_path: Path) -> None:
    written(tmp_path, 3)
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 23
        arrays = kept.arrays()
        np.testing.assert_array_equal(arrays["frame"], [0, 1, 2, 10, 11, 12, 20, 21, 22])
        assert arrays["box"].shape == (9, 4)
        assert arrays["box"].dtype == np.float32
        kept.append(block(30), 33)
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 33


def test_a_file_that_ends_anywhere_gives_its_whole_blocks(tmp_path: Path) -> None:
    data = written(tmp_path, 3).read_bytes()
    ends = [written(tmp_path / str(n), n).stat().st_size for n in range(4) if not (tmp_path / str(n)).mkdir()]
    seen = set()
    for size in range(len(data) + 1):
        (tmp_path / "video.resume").write_bytes(data[:size])
        with Checkpoint(tmp_path, "video", WORK) as kept:
            whole = sum(size >= end for end in ends[1:])
            assert kept.progress == (10 * (whole - 1) + 3 if whole else 0)
            assert len(kept.arrays().get("frame", ())) == 3 * whole
            seen.add(whole)
            # What is appended must follow the last whole block.
            kept.append(block(90), 93)
        with Checkpoint(tmp_path, "video", WORK) as kept:
            assert kept.progress == 93
    assert seen == {0, 1, 2, 3}


def test_a_flipped_byte_ends_what_is_found(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first_end = written(tmp_path / "one", 1).stat().st_size
    path = written(tmp_path, 2)
    whole = path.read_bytes()
    for place in range(first_end, len(whole)):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        with Checkpoint(tmp_path, "video", WORK) as kept:
            assert kept.progress == 3, place


@pytest.mark.parametrize("other", [{"recipe": "ab", "source": "ee"}, {"recipe": "ab"}, {}])
def test_blocks_of_other_work_are_forgotten(tmp_path: Path, other: dict[str, str]) -> None:
    written(tmp_path, 2)
    with Checkpoint(tmp_path, "video", other) as kept:
        assert kept.progress == 0
        assert kept.arrays() == {}


def test_two_at_once_do_not_share_a_file(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "video", WORK) as first, Checkpoint(tmp_path, "video", WORK) as second:
        first.append(block(0), 3)
        second.append(block(50), 53)
        assert first.progress == 3
        second.remove()
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 3
    assert [path.name for path in tmp_path.iterdir()] == ["video.resume"]


def test_blocks_are_given_one_by_one_as_they_were_written(tmp_path: Path) -> None:
    written(tmp_path, 3)
    with Checkpoint(tmp_path, "video", WORK, lazy=True) as kept:
        assert kept.progress == 0
        seen = [(int(one["frame"][0]), kept.progress) for one in kept.take_up()]
        assert seen == [(0, 3), (10, 13), (20, 23)]
        kept.append(block(30), 33)
        # Also what an earlier run wrote is not held in memory.
        assert kept.arrays()["frame"].tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]


def test_what_is_torn_is_cut_off_before_more_is_written(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    with path.open("ab") as file:
        file.write(b"x" * 10_000)
    with Checkpoint(tmp_path, "video", WORK, lazy=True) as kept:
        assert [len(one["frame"]) for one in kept.take_up()] == [3, 3]
        kept.append(block(20), 23)
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 23
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    "line",
    [b'{"crc32": 1, "bytes": 99999999999999}', b'{"crc32": 1, "bytes": "7"}', b"[" * 60_000, b"7", b"null", b"{}"],
)
def test_a_line_of_nonsense_is_no_block(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path, 1)
    with path.open("ab") as file:
        file.write(line + b"\n" + bytes(100))
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 3


def test_a_file_that_changes_under_its_run_is_told(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "video", WORK) as kept:
        kept.append(block(0), 3)
        path = tmp_path / "video.resume"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(StoreWriteError, match="what was written there is not what is read"):
            kept.arrays()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 2)
    before = path.read_bytes()

    def refused(_path: Path, *_how: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        # Not by its mode, which says nothing to root.
        patch.setattr(checkpoint.os, "open", refused)
        with Checkpoint(tmp_path, "video", WORK) as kept:
            assert (kept.progress, kept.is_private) == (0, True)
            kept.append(block(0), 3)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_swept_and_made_anew_is_not_removed(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "video", WORK) as swept:
        (tmp_path / "video.resume").unlink()
        with Checkpoint(tmp_path, "video", WORK) as kept:
            assert not kept.is_private
            kept.append(block(0), 3)
            swept.remove()
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert kept.progress == 3


def test_a_file_that_its_owner_removes_at_that_moment_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, 1)
    really = checkpoint.fcntl.flock

    def removing(file: object, how: int) -> None:
        monkeypatch.setattr(checkpoint.fcntl, "flock", really)
        path.unlink()
        really(file, how)

    monkeypatch.setattr(checkpoint.fcntl, "flock", removing)
    with Checkpoint(tmp_path, "video", WORK) as kept:
        assert (kept.progress, kept.is_private) == (0, False)
        kept.append(block(0), 3)
    assert path.exists()


def test_a_refusing_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoint(tmp_path, "video", WORK) as kept:
        monkeypatch.setattr(kept, "_file", _Full(kept._file))
        with pytest.raises(StoreWriteError):
            kept.append(block(0), 3)


class _Full:
    def __init__(self, file: object) -> None:
        self._file = file

    def seek(self, place: int) -> int:
        return place

    def write(self, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self._file.close()
