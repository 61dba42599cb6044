"""Source identity: the sha256 of a video file's bytes. Size and time are only a hint that saves hashing."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import VideoError

_RACY_NS = 2_000_000_000


@dataclass(slots=True)
class Source:
    """A video file as it stands now.

    ``hint`` is (bytes, mtime_ns, sha256) as an earlier run saw it. `sha256` is computed once, when asked for.
    """

    path: Path
    hint: tuple[int, int, str] | None = None
    _digest: str | None = field(default=None, repr=False)
    _stat: tuple[int, int] | None = field(default=None, repr=False)

    def check(self) -> os.stat_result:
        """Look at the file without opening it: a FIFO or a device would hang whoever opens it.

        Raises
        ------
        VideoError
            with code ``VIDEO_MISSING``, ``VIDEO_UNREADABLE``, ``VIDEO_NOT_REGULAR`` or ``VIDEO_EMPTY``.
        """
        name = str(self.path)
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            what = "a symbolic link to nothing" if self.path.is_symlink() else "no such file"
            raise VideoError("VIDEO_MISSING", name, what) from error
        except OSError as error:
            raise VideoError("VIDEO_UNREADABLE", name, error.strerror or str(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("VIDEO_NOT_REGULAR", name, f"it is {_kind(status.st_mode)}, not a regular file")
        if status.st_size == 0:
            raise VideoError("VIDEO_EMPTY", name, "it holds 0 bytes")
        return status

    def sha256(self) -> str:
        """Give the sha256 of the bytes, from the hint where size and time still fit.

        Raises
        ------
        VideoError
            as `check`, and ``VIDEO_UNREADABLE`` if reading fails.
        """
        if self._digest is None:
            status = self.check()
            self._stat = (status.st_size, status.st_mtime_ns)
            if self.hint is not None and self.hint[:2] == self._stat:
                self._digest = self.hint[2]
            else:
                try:
                    with self.path.open("rb") as file:
                        self._digest = hashlib.file_digest(file, "sha256").hexdigest()
                except OSError as error:
                    raise VideoError("VIDEO_UNREADABLE", str(self.path), error.strerror or str(error)) from error
        return self._digest

    def check_unchanged(self) -> None:
        """Raise `VideoError` ``VIDEO_CHANGED_DURING_READ`` if the file is not the one that `sha256` saw."""
        status = self.check()
        if self._stat is not None and (status.st_size, status.st_mtime_ns) != self._stat:
            evidence = f"{self._stat[0]} bytes at first, {status.st_size} after, or written in between"
            raise VideoError("VIDEO_CHANGED_DURING_READ", str(self.path), evidence)

    def new_hint(self) -> tuple[int, int, str] | None:
        """Give the hint for later runs; None if the file changed so lately that its time proves nothing."""
        if self._digest is None or self._stat is None or self._stat[1] > time.time_ns() - _RACY_NS:
            return None
        return (*self._stat, self._digest)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
        stat.S_ISDIR: "a folder",
        stat.S_ISCHR: "a character device",
        stat.S_ISBLK: "a block device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "something else")
