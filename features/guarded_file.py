"""A file that HDF5 reads through checks of its own: what HDF5 would read for ever never reaches it.

HDF5 keeps texts of variable length in a global heap, which no checksum covers, and walks through it object by object
(HDF5 File Format Specification 3.0, section III.E). An object of no size, as a page of zeros holds, is a step of
nothing: HDF5 2.0 takes it for ever.
"""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from _typeshed import WriteableBuffer

_HEAP = b"GCOL"
_HEAP_HEADER_BYTES = 16
_OBJECT_HEADER_BYTES = 16
_LARGEST_HEAP_BYTES = 64 << 20
_MOST_BYTES_SEARCHED = 1 << 16
"""HDF5 reads heaps and other tables in pieces of at most a few KiB, and data in whole chunks."""

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What h5py raises for files that are damaged, or were made to harm."""


class GuardedFile(io.RawIOBase):
    """A file for ``h5py.File``. A heap that does not end is handed out without its signature, which HDF5 refuses.

    ``descriptor`` is of the file where it is open already, and stays so.

    Raises
    ------
    OSError
        if the system cannot open or read the file.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        super().__init__()
        self._file = io.FileIO(path if descriptor is None else descriptor, closefd=descriptor is None)
        self._num_bytes = os.fstat(self._file.fileno()).st_size
        self.name = str(path)

    def __enter__(self) -> Self:
        return self

    def sha256(self, start: int) -> str:
        """Hash the bytes from ``start`` to the end, in hex."""
        self._file.seek(start)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # An address of 8 bytes may lie further on than any system can seek.
        return self._file.seek(min(offset, self._num_bytes) if whence == io.SEEK_SET else offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        start = self._file.tell()
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)
        if len(view) <= _MOST_BYTES_SEARCHED:
            content = bytes(view[:count])
            at = content.find(_HEAP)
            while at >= 0:
                if not self._heap_ends(start + at):
                    view[at : at + len(_HEAP)] = bytes(len(_HEAP))
                at = content.find(_HEAP, at + 1)
            self._file.seek(start + count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _heap_ends(self, start: int) -> bool:
        """Walk through the heap that seems to begin at ``start``."""
        self._file.seek(start)
        size = int.from_bytes(self._file.read(_HEAP_HEADER_BYTES)[8:], "little")
        if size > _LARGEST_HEAP_BYTES:
            return False
        self._file.seek(start)
        heap = self._file.read(size)
        at = _HEAP_HEADER_BYTES
        while at + _OBJECT_HEADER_BYTES <= len(heap):
            number = int.from_bytes(heap[at : at + 2], "little")
            num_bytes = int.from_bytes(heap[at + 8 : at + 16], "little")
            # Object 0 is the free space, whose size counts its own header; the others are padded to 8 bytes.
            step = num_bytes if number == 0 else _OBJECT_HEADER_BYTES + (num_bytes + 7) // 8 * 8
            if step < _OBJECT_HEADER_BYTES or at + step > len(heap):
                return False
            at += step
        return True
