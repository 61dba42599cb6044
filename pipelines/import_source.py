"""Source identity of imported features: the files that a video's values come from, and what was said of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from .extraction import Hint

_INT64 = (1 << 63) - 1


@dataclass(slots=True)
class OpenFiles:
    """The files of a run, each hashed once however many videos lie in it."""

    _sources: dict[Path, Source] = field(default_factory=dict)

    def source(self, path: Path) -> Source:
        return self._sources.setdefault(path, Source(path))


@dataclass(slots=True)
class FilesSource:
    """The files of one video as they stand now.

    ``said`` is what a caller states of the video beside them: where it changes, the shard is no longer what would be
    made. ``hint`` is what `new_hint` gave an earlier run.
    """

    paths: Sequence[Path]
    files: OpenFiles
    said: str = ""
    hint: Hint | None = None

    def sha256(self) -> str:
        """Give the sha256 of a single file of which nothing was said; else one of all files' and of what was said.

        Raises
        ------
        VideoError
            as `Source.sha256`.
        """
        digest = self._files_sha256()
        return hashlib.sha256(f"{digest} {self.said}".encode()).hexdigest() if self.said else digest

    def look(self) -> None:
        """Look at every file before anything is read. Raises `VideoError` as `Source.look`."""
        for path in self.paths:
            self.files.source(path).look()

    def check_unchanged(self) -> None:
        """Raise `VideoError` if a file is not the one of the first look."""
        for path in self.paths:
            self.files.source(path).check_unchanged()

    def new_hint(self) -> Hint | None:
        """Give the hint for later runs; None if a file changed so lately that its time proves nothing."""
        if any(self.files.source(path).new_hint() is None for path in self.paths):
            return None
        return (*self._stamp(), self._files_sha256())

    def _files_sha256(self) -> str:
        if self.hint is not None and self.hint[:2] == self._stamp():
            if len(self.paths) == 1:
                self.files.source(self.paths[0]).hint = self.hint
            else:
                return self.hint[2]
        digests = [self.files.source(path).sha256() for path in self.paths]
        return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    def _stamp(self) -> tuple[int, int]:
        """Give size and time of a file; of several, their size and a number that no change of a size or time leaves."""
        seen = [self.files.source(path).look() for path in self.paths]
        if len(seen) == 1:
            return seen[0].st_size, seen[0].st_mtime_ns
        stamps = json.dumps([(one.st_size, one.st_mtime_ns) for one in seen]).encode()
        number = int.from_bytes(hashlib.sha256(stamps).digest()[:8]) & _INT64
        return sum(one.st_size for one in seen), number
