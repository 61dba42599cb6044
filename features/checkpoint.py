"""What is finished of a video whose shard is not: blocks of arrays in a file that only grows.

A killed run leaves the blocks that it had finished, and perhaps a part of one; each block carries a checksum, so that
only whole ones are found again. Nothing is forced to disk: after a power cut a part of the work is done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from .publish import temporary_name, write_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CHECKPOINT_SUFFIX = ".resume"
_VERSION = 1
_MAX_LINE_BYTES = 1 << 16


class Checkpoint:
    """Blocks of arrays with equal names, of one piece of work. A context manager; closing it keeps the file.

    Parameters
    ----------
    tmp, name
        the folder, and the name of the work in it.
    identity
        plain values that tell this work from any other of that name: blocks of another one are forgotten.

    Attributes
    ----------
    progress
        what `append` was last told of how far the work is, 0 at its beginning.

    Raises
    ------
    StoreWriteError
        from any use, if the disk refused.
    """

    def __init__(self, tmp: Path, name: str, identity: Mapping[str, Any]) -> None:
        self.progress = 0
        self._is_private = False
        self._blocks: list[dict[str, NDArray[Any]]] = []
        self._path = tmp / f"{name}{CHECKPOINT_SUFFIX}"
        self._head = json.dumps({"vadx": _VERSION, "identity": identity}, sort_keys=True).encode() + b"\n"
        try:
            self._file = self._opened(tmp, name)
            self._take_up()
        except OSError as error:
            raise write_error(error, self._path, len(self._head)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # On a full disk, closing fails once more: what could not be written is still in the buffer.
        with suppress(OSError):
            self._file.close()
        if self._is_private:
            self.remove()

    def append(self, block: Mapping[str, NDArray[Any]], progress: int) -> None:
        """Keep a block, and how far the work is with it."""
        kept = {name: np.ascontiguousarray(array) for name, array in block.items()}
        payload = b"".join(array.tobytes() for array in kept.values())
        arrays = [[name, array.dtype.str, array.shape] for name, array in kept.items()]
        head = {"progress": progress, "arrays": arrays, "bytes": len(payload)}
        try:
            self._file.write(json.dumps({**head, "crc32": _check(head, payload)}).encode() + b"\n" + payload)
            self._file.flush()
        except OSError as error:
            raise write_error(error, self._path, len(payload)) from error
        self._blocks.append(kept)
        self.progress = progress

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give what all blocks hold, one after the other; empty if there is no block."""
        names = self._blocks[0] if self._blocks else ()
        return {name: np.concatenate([block[name] for block in self._blocks]) for name in names}

    def remove(self) -> None:
        """Delete the file: what it held stands in a shard now."""
        with suppress(OSError):
            self._path.unlink()

    def _opened(self, tmp: Path, name: str) -> BinaryIO:
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Another run is at the same work. Its file is left alone, and this one cannot be resumed.
            file.close()
            self._path, self._is_private = temporary_name(tmp, name), True
            return self._path.open("x+b")
        return file

    def _take_up(self) -> None:
        if self._file.readline(_MAX_LINE_BYTES) != self._head:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._head)
            self._file.flush()
            return
        whole = self._file.tell()
        while self._take_block():
            whole = self._file.tell()
        self._file.seek(whole)
        self._file.truncate()

    def _take_block(self) -> bool:
        try:
            head = json.loads(self._file.readline(_MAX_LINE_BYTES))
            payload = self._file.read(head["bytes"])
            stated = head.pop("crc32")
            if len(payload) != head["bytes"] or _check(head, payload) != stated:
                return False
            block, start = {}, 0
            for name, dtype, shape in head["arrays"]:
                count = int(np.prod(shape, dtype=np.int64))
                block[name] = np.frombuffer(payload, np.dtype(dtype), count, start).reshape(shape)
                start += block[name].nbytes
            progress = int(head["progress"])
        except (ValueError, KeyError, TypeError):
            return False
        self._blocks.append(block)
        self.progress = progress
        return True


def _check(head: Mapping[str, Any], payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(json.dumps(head, sort_keys=True).encode()))
