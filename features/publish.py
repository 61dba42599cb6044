"""The only code that makes a file appear in a store.

A file is written whole under a unique name in the set's ``tmp/``, forced to disk, and then linked or renamed to
its final name, so that a reader, a kill or a full disk can only ever see it absent, exactly old or exactly new.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import StoreWriteError

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["new", "replaced", "already there", "first kept"]

_TRANSIENT = frozenset({errno.ESTALE, errno.EINTR, errno.ETIMEDOUT})
_NO_PREALLOCATION = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_NO_HARD_LINKS = frozenset({errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EXDEV})
_DIRECTORY_SYNC_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP})
_BACKOFF_SECONDS = (0.0, 0.2, 1.0)
# Windows has none of these; there a crash may lose the last files, never tear one.
_O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_O_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class Published:
    """How a file came to stand: ``new``, ``replaced`` another, ``already there`` with the same bytes, or
    ``first kept`` because a different one was there first."""

    path: Path
    outcome: Outcome


def publish_bytes(
    data: bytes | memoryview, final: Path, tmp: Path, *, replace: bool = False, option: str = "--out"
) -> Published:
    """Make ``final`` appear with exactly ``data``.

    Without ``replace`` a file that stands there already is never touched: the first wins. ``tmp`` must be on the
    same file system. ``option`` is what names another place on the command line, for the error.

    Raises
    ------
    StoreWriteError
        naming path and bytes needed, if the disk refused. ``final`` is then absent, old or new, never part of one.
    """

    digest = hashlib.sha256(data).digest()

    def attempt() -> Published:
        temporary = _write_temporary(data, tmp, final.name)
        try:
            return _commit(temporary, final, digest, replace=replace)
        finally:
            with suppress(OSError):
                os.unlink(temporary)

    return _with_retries(attempt, final, len(data), option)


def publish_file(temporary: Path, final: Path, *, replace: bool = False, option: str = "--out") -> Published:
    """Make ``final`` appear from a complete file that stands in ``tmp/``, and which is gone afterwards.

    Raises as `publish_bytes`.
    """
    size = 0
    try:
        try:
            size = temporary.stat().st_size
            # Once, and never tried again: after a failed fsync the pages that it was to write may be gone.
            _sync_file(temporary)
            digest = _file_digest(temporary)
        except OSError as error:
            raise write_error(error, final, size, option) from error

        def attempt() -> Published:
            if not temporary.exists() and _is_content(final, digest):
                _sync_directory(final.parent)
                return Published(final, "already there")
            return _commit(temporary, final, digest, replace=replace)

        return _with_retries(attempt, final, size, option)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def temporary_name(tmp: Path, final_name: str) -> Path:
    """Give a unique name in ``tmp/``, short enough for every file system, whatever the final name's length."""
    return tmp / f"{final_name[:64]}.{uuid.uuid4().hex}.part"


def make_directory(path: Path, *, option: str = "--out") -> None:
    """Make a directory and those above it, and force the new entries to disk; ``option`` as in `publish_bytes`.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        try:
            directory.mkdir(exist_ok=True)
            _sync_directory(directory.parent)
        except OSError as error:
            raise write_error(error, directory, 4096, option) from error


def write_error(error: OSError, path: Path, num_bytes: int, option: str = "--out") -> StoreWriteError:
    """Translate an `OSError` of writing into a `StoreWriteError` that says what was needed where.

    ``option`` is what names another place on the command line.
    """
    reason = error.strerror or str(error)
    cure = {
        errno.ENOSPC: f"Free space there, or give another {option}",
        errno.EDQUOT: f"Raise the quota, or give another {option}",
        errno.EFBIG: f"Raise the file size limit (ulimit -f), or give another {option}",
        errno.EEXIST: f"A file stands where a folder must: give another {option}",
        errno.ENOTDIR: f"A file stands where a folder must: give another {option}",
        errno.EROFS: f"Give {option} a place that can be written",
        errno.EACCES: f"Give {option} a place that you may write to",
        errno.EPERM: f"Give {option} a place that you may write to",
    }.get(error.errno or 0, "Check the disk")
    text = (
        f"{path}: {reason}; {num_bytes} bytes were needed. What was finished is safe. {cure}; the same command resumes."
    )
    result = StoreWriteError(text)
    result.errno = error.errno
    return result


def _with_retries(attempt: Callable[[], Published], final: Path, num_bytes: int, option: str) -> Published:
    # A failing fsync may have dropped the pages it was to write: only a new temporary file is worth one more try.
    delays = list(_BACKOFF_SECONDS)
    io_errors = 0
    while True:
        time.sleep(delays.pop(0))
        try:
            return attempt()
        except OSError as error:
            io_errors += error.errno == errno.EIO
            retriable = error.errno in _TRANSIENT or (error.errno == errno.EIO and io_errors == 1)
            if not retriable or not delays:
                raise write_error(error, final, num_bytes, option) from error


def _write_temporary(data: bytes | memoryview, tmp: Path, final_name: str) -> Path:
    path = temporary_name(tmp, final_name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_CLOEXEC | _O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o666)
        try:
            preallocate(descriptor, len(data))
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            # Network file systems report a failed write only here.
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return path


def preallocate(descriptor: int, num_bytes: int) -> None:
    """Reserve ``num_bytes``, so that a full disk is met before the first byte is written. Raises `OSError`."""
    if num_bytes == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in _NO_PREALLOCATION:
            raise


def _commit(temporary: Path, final: Path, digest: bytes, *, replace: bool) -> Published:
    outcome = _rename(temporary, final, digest) if replace else _link(temporary, final, digest)
    _sync_directory(final.parent)
    return Published(final, outcome)


def _rename(temporary: Path, final: Path, digest: bytes) -> Outcome:
    existed = final.exists()
    try:
        os.replace(temporary, final)
    except OSError:
        # A network file system may have done it and lost the answer.
        if _is_content(final, digest):
            return "replaced" if existed else "new"
        raise
    return "replaced" if existed else "new"


def _link(temporary: Path, final: Path, digest: bytes) -> Outcome:
    try:
        os.link(temporary, final)
    except FileExistsError:
        return "already there" if _is_content(final, digest) else "first kept"
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # No hard links here (FAT, some network file systems). Between this check and the rename another writer can
        # win; then the second of two valid files stands.
        if final.exists():
            return "already there" if _is_content(final, digest) else "first kept"
        return _rename(temporary, final, digest)
    return "new"


def _is_content(path: Path, digest: bytes) -> bool:
    try:
        return _file_digest(path) == digest
    except OSError:
        return False


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | _O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    if not _O_DIRECTORY:
        return
    descriptor = os.open(directory, os.O_RDONLY | _O_DIRECTORY | _O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _DIRECTORY_SYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
