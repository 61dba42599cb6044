"""A set of shards that is listed from its index: what a listing shows is read once of each shard, and kept."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .index import Hint, Index, Listing, ShardRow, clock_ns, load_index, refresh, write_index
from .shard_set import ShardSet


class ListedSet(ShardSet):
    """A `ShardSet` with an index."""

    def __init__(self, path: Path) -> None:
        self._loaded: tuple[tuple[int, int, int] | None, Index] | None = None
        super().__init__(path)

    @abstractmethod
    def read_row(self, path: Path) -> ShardRow:
        """Read what a listing shows of a shard. Raises `ShardError` if it is damaged, `FileNotFoundError` if gone."""

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is handed the set may never list it.
        return {**self.__dict__, "_loaded": None}

    def index(self) -> Index:
        """Give the index, brought up to date in memory. Its file is read again only if it is another one, and of the
        shards that it does not have only those that were not there the last time.
        """
        try:
            status = self.index_path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = None
        if self._loaded is None or stamp != self._loaded[0]:
            self._loaded = (stamp, load_index(self.index_path))
        before = self._loaded[1]
        index = refresh(before, self.path / "shards", self.read_row)
        # Of folders, what is kept is what the file says, never what was seen since: one may change twice within a tick.
        self._loaded = (stamp, index.known_again(before.folders, time.time_ns()))
        return index

    def summaries(self) -> Listing:
        """Give id -> summary of every readable shard, in the order of ids. Opens only shards that changed."""
        return self.index().listing

    def save_index(self, sources: Mapping[str, Hint]) -> None:
        """Rewrite the index, adding source hints. Raises `StoreWriteError` if the disk refused."""
        looked_ns = clock_ns(self.index_path, self.tmp)
        write_index(self.index().settled(looked_ns), self.index_path, self.tmp, hints=sources)
