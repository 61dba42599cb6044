"""An HDF5 file that is read in many places: each process opens it for itself, once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from pathlib import Path


class ProcessFile:
    """The handle of one file. After a fork, or when it was pickled, the next `get` opens the file anew: a handle of
    HDF5 that two processes share gives wrong values without an error.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, h5py.File] | None = None

    def get(self) -> h5py.File:
        """Give this process's handle. Raises whatever h5py raises for a file that it cannot open."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self._path, "r", locking=False))
        return self._opened[1]

    @property
    def is_open(self) -> bool:
        """Whether this process has a handle."""
        return self._opened is not None and self._opened[0] == os.getpid()

    def close(self) -> None:
        """Close this process's handle. What another process opened is left to it."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None
