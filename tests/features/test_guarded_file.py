from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from vadx.errors import ShardError
from vadx.features.guarded_file import GuardedFile
from vadx.features.shard import read_outline

from .samples import make_shard, write

HEAP = b"GCOL\x01"


def first_heap(content: bytes) -> int:
    """Find the texts of an image, which stand in one heap of 4096 bytes."""
    at = content.index(HEAP)
    assert int.from_bytes(content[at + 8 : at + 16], "little") == 4096
    return at


def zeros_behind_the_signature(content: bytearray, at: int) -> None:
    content[at + 16 : at + 4096] = bytes(4080)


def zeros_to_the_next_page(content: bytearray, at: int) -> None:
    content[at + 64 : at + 4096] = bytes(4096 - 64)


def a_step_of_nothing(content: bytearray, at: int) -> None:
    # 16 bytes of header and 2^64 - 16 of text come round to 0.
    content[at + 24 : at + 32] = (2**64 - 16).to_bytes(8, "little")


def a_step_out_of_the_heap(content: bytearray, at: int) -> None:
    content[at + 24 : at + 32] = (1 << 20).to_bytes(8, "little")


def a_huge_heap(content: bytearray, at: int) -> None:
    content[at + 8 : at + 16] = (1 << 40).to_bytes(8, "little")


ENDLESS = (
    zeros_behind_the_signature,
    zeros_to_the_next_page,
    a_step_of_nothing,
    a_step_out_of_the_heap,
    a_huge_heap,
)


@pytest.mark.parametrize("harm", ENDLESS)
def test_a_heap_that_does_not_end_never_reaches_hdf5(tmp_path: Path, harm: Callable[[bytearray, int], None]) -> None:
    content = bytearray(make_shard())
    at = first_heap(bytes(content))
    harm(content, at)
    path = write(tmp_path / "x.h5", bytes(content))
    with GuardedFile(path) as file:
        file.seek(at - 100)
        found = file.read(4000)
        assert file.tell() == at + 3900
    assert found == bytes(content[at - 100 : at]) + bytes(4) + bytes(content[at + 4 : at + 3900])
    with pytest.raises(ShardError) as caught:
        read_outline(path)
    assert caught.value.damage == "structure"


def test_a_sound_file_is_handed_out_as_it_is(tmp_path: Path) -> None:
    content = make_shard()
    first_heap(content)
    path = write(tmp_path / "x.h5", content)
    with GuardedFile(path) as file:
        assert file.read() == content
        file.seek(0)
        assert b"".join(iter(lambda: file.read(4096), b"")) == content
        file.seek(-7, io.SEEK_END)
        assert file.read() == content[-7:]
        assert file.sha256(0) != file.sha256(1)
        with h5py.File(file, "r") as image:
            assert image["features"].shape == (3, 1, 8)


def test_an_address_behind_any_file_reads_as_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", b"abc")
    with GuardedFile(path) as file:
        file.seek(2**64 - 1)
        assert file.read() == b""
        file.seek(1)
        buffer = bytearray(b"xxxx")
        assert file.readinto(buffer) == 2
        assert buffer == b"bc\0\0"
