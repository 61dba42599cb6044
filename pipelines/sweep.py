"""What killed runs left in a store, and why each of it may go or stays."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError, StoreWriteError
from ..features.checkpoint import CHECKPOINT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..features.shard_set import ShardSet


_REASONS = {
    False: "a file that a killed run was writing",
    True: "what a run had found of a video before it ended: the same command, or --allow-partial, goes on from there",
}


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file that no reader looks at: where, why it is there, and whether it may go."""

    path: Path
    bytes: int
    reason: str
    may_go: bool

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def find_leftovers(feature_set: ShardSet, older_than: float) -> list[Leftover]:
    """List what may be swept. ``older_than`` is in seconds since the epoch, of the store's own clock."""
    found = []
    for path in sorted(feature_set.tmp.iterdir()) if feature_set.tmp.is_dir() else []:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # the run that wrote it is done
        old = status.st_mtime <= older_than
        reason = (
            _REASONS[path.suffix == CHECKPOINT_SUFFIX] if old else "young: a run that is going on may be writing it"
        )
        found.append(Leftover(path, status.st_size, reason, old))
    for record in feature_set.failures():
        if record.id in feature_set and _stored_the_failed_source(feature_set, record.id, record.source):
            path = feature_set.failure_path(record.id)
            size = path.stat().st_size if path.exists() else 0
            found.append(Leftover(path, size, "a failure of a video that was stored since", may_go=True))
    return found


def _stored_the_failed_source(feature_set: ShardSet, identifier: str, source: str | None) -> bool:
    from ..features.shard import ShardHeader

    header = feature_set.header(identifier)
    return isinstance(header, ShardHeader) and source in (None, header.source_sha256)


def sweep(feature_set: ShardSet, leftover: Leftover) -> bool:
    """Remove a leftover; False if it was gone already.

    Raises
    ------
    StoreError
        if another gc is at work on this set.
    StoreWriteError
        if the disk refused.
    """
    try:
        with _only_one(feature_set):
            leftover.path.unlink()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return False
    except StoreError:
        raise
    except OSError as error:
        msg = (
            f"{leftover.path}: {error.strerror}; it is not swept, and all else is as it was. Check the disk, then "
            "repeat the command"
        )
        raise StoreWriteError(msg) from error
    return True


@contextmanager
def _only_one(feature_set: ShardSet) -> Iterator[None]:
    descriptor = os.open(feature_set.path / ".gc.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{feature_set.path}: another `vadx gc` is at work; try again when it is done"
            raise StoreError(msg) from error
        yield
    finally:
        os.close(descriptor)
