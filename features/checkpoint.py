"""What is finished of a video whose shard is not: blocks of arrays in a file that only grows.

A killed run leaves the blocks that it had finished, and perhaps a part of one; each block carries a checksum, so that
only whole ones are found again. Nothing is forced to disk: after a power cut a part of the work is done again.
"""

from __future__ import annotations

import errno
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
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

CHECKPOINT_SUFFIX = ".resume"
_VERSION = 1
_MAX_LINE_BYTES = 1 << 16
# Its name can be foreseen: who may write to the store could have another file emptied through a link of that name.
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Checkpoint:
    """Blocks of arrays with equal names, of one piece of work. A context manager; closing it keeps the file.

    Of the blocks no more than one is held in memory.

    Parameters
    ----------
    tmp, name
        the folder, and the name of the work in it.
    identity
        plain values that tell this work from any other of that name: blocks of another one are forgotten.
    lazy
        whether the caller reads what an earlier run left by `take_up`, to its end and before the first `append`. Else
        it is read here.

    Attributes
    ----------
    progress
        what `append` was last told of how far the work is, 0 at its beginning.
    is_private
        whether the file is another process's, or another person's: it is left alone, and this one is gone once it is
        closed.

    Raises
    ------
    StoreWriteError
        from any use, if the disk refused.
    """

    def __init__(self, tmp: Path, name: str, identity: Mapping[str, Any], *, lazy: bool = False) -> None:
        self.progress = 0
        self.is_private = False
        self._path = tmp / f"{name}{CHECKPOINT_SUFFIX}"
        self._head = json.dumps({"vadx": _VERSION, "identity": identity}, sort_keys=True).encode() + b"\n"
        # Behind the last block that is known to be whole.
        self._end = len(self._head)
        try:
            self._file = self._opened(tmp, name)
        except OSError as error:
            raise write_error(error, self._path, self._end) from error
        self._status = os.fstat(self._file.fileno())
        try:
            self._check_head()
            if not lazy:
                for _ in self.take_up():
                    pass
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.is_private:
            self.remove()
        # On a full disk, closing fails once more: what could not be written is still in the buffer.
        with suppress(OSError):
            self._file.close()

    def take_up(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Give the blocks that an earlier run left, as `append` was given them; what is torn after them is cut off."""
        try:
            while found := self._block_at(self._end):
                block, self.progress, self._end = found
                yield block
            self._file.seek(self._end)
            self._file.truncate()
        except OSError as error:
            raise write_error(error, self._path, self._end) from error

    def append(self, block: Mapping[str, NDArray[Any]], progress: int) -> None:
        """Keep a block, and how far the work is with it."""
        kept = {name: np.ascontiguousarray(array) for name, array in block.items()}
        payload = b"".join(array.tobytes() for array in kept.values())
        arrays = [[name, array.dtype.str, array.shape] for name, array in kept.items()]
        head = {"progress": progress, "arrays": arrays, "bytes": len(payload)}
        line = json.dumps({**head, "crc32": _check(head, payload)}).encode() + b"\n"
        try:
            self._file.seek(self._end)
            self._file.write(line)
            self._file.write(payload)
            self._file.flush()
        except OSError as error:
            raise write_error(error, self._path, len(line) + len(payload)) from error
        self._end += len(line) + len(payload)
        self.progress = progress

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give what all blocks hold, one after the other; empty if there is no block."""
        blocks = list(self._blocks())
        names = blocks[0] if blocks else ()
        return {name: np.concatenate([block[name] for block in blocks]) for name in names}

    def remove(self) -> None:
        """Delete the file: what it held stands in a shard now."""
        with suppress(OSError):
            # What was swept may be another run's by now.
            if os.path.samestat(self._path.stat(), self._status):
                self._path.unlink()

    def _blocks(self) -> Iterator[dict[str, NDArray[Any]]]:
        place = len(self._head)
        try:
            while place < self._end:
                found = self._block_at(place)
                if found is None:
                    raise OSError(errno.EIO, "what was written there is not what is read")
                block, _, place = found
                yield block
        except OSError as error:
            raise write_error(error, self._path, self._end) from error

    def _opened(self, tmp: Path, name: str) -> BinaryIO:
        while True:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _O_NOFOLLOW
                file = os.fdopen(os.open(self._path, flags, 0o666), "r+b")
            except PermissionError:
                # What another person's run left, in a store that several write to.
                return self._opened_private(tmp, name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                # Another run is at the same work.
                file.close()
                return self._opened_private(tmp, name)
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), os.fstat(file.fileno())):
                    return file
            # Its owner was done with it, and removed it before it let go.
            file.close()

    def _opened_private(self, tmp: Path, name: str) -> BinaryIO:
        """Leave the file alone, for one that cannot be resumed."""
        self._path, self.is_private = temporary_name(tmp, name), True
        return self._path.open("x+b")

    def _check_head(self) -> None:
        try:
            if self._file.readline(_MAX_LINE_BYTES) != self._head:
                self._file.seek(0)
                self._file.truncate()
                self._file.write(self._head)
                self._file.flush()
        except OSError as error:
            raise write_error(error, self._path, self._end) from error

    def _block_at(self, place: int) -> tuple[dict[str, NDArray[Any]], int, int] | None:
        """Give the block that begins there, its progress, and where it ends; None if it is not whole."""
        self._file.seek(place)
        line = self._file.readline(_MAX_LINE_BYTES)
        start = place + len(line)
        try:
            head = json.loads(line)
            stated, num_bytes = head.pop("crc32"), head["bytes"]
            # Nothing is read that is not there: a damaged number may name any amount of memory.
            if not 0 <= num_bytes <= os.fstat(self._file.fileno()).st_size - start:
                return None
            payload = self._file.read(num_bytes)
            if len(payload) != num_bytes or _check(head, payload) != stated:
                return None
            block, offset = {}, 0
            for name, dtype, shape in head["arrays"]:
                count = int(np.prod(shape, dtype=np.int64))
                block[name] = np.frombuffer(payload, np.dtype(dtype), count, offset).reshape(shape)
                offset += block[name].nbytes
            return block, int(head["progress"]), start + num_bytes
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def _check(head: Mapping[str, Any], payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(json.dumps(head, sort_keys=True).encode()))
