"""What fuzzers found, by the bytes and words themselves: seeds make other cases when a fuzzer changes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support import Ran
from vadx.errors import StoreWriteError, UsageError
from vadx.features.layouts.files import npy_bytes, read_npy
from vadx.pipelines.sweep import find_leftovers, sweep

from .rotten import make_store

HEADERS = {
    "a null byte": (b"'descr'", b"'de\0cr'"),
    "a bracket too many": (b"), }", b")}, }"),
    "a text that does not end": (b"'fortran_order'", b"'''rtran_order'"),
}


@pytest.mark.parametrize("harm", HEADERS)
def test_a_header_that_pythons_tokenizer_gives_up_on_is_no_array(harm: str, tmp_path: Path) -> None:
    old, new = HEADERS[harm]
    content = npy_bytes(np.ones((3, 2), np.float32))
    assert old in content
    (tmp_path / "a.npy").write_bytes(content.replace(old, new))
    with pytest.raises(UsageError, match=r"a\.npy is no array of numpy"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("words", [("info",), ("ls",), ("verify",), ("pack",), ("gc",)])
def test_a_name_longer_than_any_file_can_have_is_a_usage_error(
    words: tuple[str, ...], vadx_here: Callable[..., Ran]
) -> None:
    ran = vadx_here(*words, "é" * 300)
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_to_sweep_is_a_write_error_that_names_the_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store(tmp_path)
    (made.tmp / "left.part").write_bytes(b"x")
    (leftover,) = find_leftovers(made, float("inf"))

    def refuse(path: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("os.unlink", refuse)
    with pytest.raises(StoreWriteError, match=r"left\.part: .*repeat the command"):
        sweep(made, leftover)
