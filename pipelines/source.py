"""Source identity: the sha256 of a video file's bytes. Size and time are only a hint that saves hashing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VideoError
from ..extract.files import check_file

if TYPE_CHECKING:
    import os

_RACY_NS = 2_000_000_000
"""A file that changed this shortly before it was hashed may change again within one tick of the clock."""

_PART_BYTES = 1 << 20


@dataclass(slots=True)
class Source:
    """A video file as it stands now.

    ``hint`` is (bytes, mtime_ns, sha256) as an earlier run saw it. `sha256` is computed once, when asked for.
    """

    path: Path
    hint: tuple[int, int, str] | None = None
    _digest: str | None = field(default=None, repr=False)
    _seen: os.stat_result | None = field(default=None, repr=False)
    _cancelled: bool = field(default=False, repr=False)

    def sha256(self) -> str:
        """Give the sha256 of the bytes, from the hint where size and time still fit.

        Raises
        ------
        VideoError
            as `extract.files.check_file`, and ``VIDEO_UNREADABLE`` if reading fails.
        """
        if self._digest is None:
            status = self.look()
            if self.hint is not None and self.hint[:2] == (status.st_size, status.st_mtime_ns):
                self._digest = self.hint[2]
            else:
                try:
                    self._digest = self._hashed()
                except OSError as error:
                    raise VideoError("VIDEO_UNREADABLE", str(self.path), error.strerror or str(error)) from error
        return self._digest

    def look(self) -> os.stat_result:
        """Give the file's state at the first look, which every later one is held against.

        It must come before anything is read: the bytes that are hashed may be read minutes after those decoded.

        Raises
        ------
        VideoError
            as `extract.files.check_file`.
        """
        if self._seen is None:
            self._seen = check_file(self.path)
        return self._seen

    def cancel(self) -> None:
        """Let a `sha256` that another thread waits for end at once, with ``VIDEO_UNREADABLE``."""
        self._cancelled = True

    def _hashed(self) -> str:
        digest, part = hashlib.sha256(), memoryview(bytearray(_PART_BYTES))
        with self.path.open("rb", buffering=0) as file:
            while num_bytes := file.readinto(part):
                digest.update(part[:num_bytes])
                if self._cancelled:
                    raise VideoError("VIDEO_UNREADABLE", str(self.path), "the run ended while it was read")
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise `VideoError` ``VIDEO_CHANGED_DURING_READ`` if the file is not the one of the first look."""
        status = check_file(self.path)
        if self._seen is not None and _identity(status) != _identity(self._seen):
            evidence = f"{self._seen.st_size} bytes at first, {status.st_size} after, or written in between"
            raise VideoError("VIDEO_CHANGED_DURING_READ", str(self.path), evidence)

    def new_hint(self) -> tuple[int, int, str] | None:
        """Give the hint for later runs; None if the file changed so lately that its time proves nothing."""
        if self._digest is None or self._seen is None or self._seen.st_mtime_ns > time.time_ns() - _RACY_NS:
            return None
        return self._seen.st_size, self._seen.st_mtime_ns, self._digest


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
