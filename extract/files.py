"""Looking at a file before anything opens it."""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING

from ..errors import VideoError

if TYPE_CHECKING:
    import os
    from pathlib import Path


VIDEO_EXTENSIONS = frozenset(
    {
        ".3gp",
        ".asf",
        ".avi",
        ".dav",
        ".flv",
        ".h264",
        ".h265",
        ".hevc",
        ".m2ts",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    }
)
"""File names that a folder is searched for, in lower case. Files named one by one are always tried."""


def check_file(path: Path) -> os.stat_result:
    """Look at a video file without opening it: a FIFO or a device would hang whoever opens it.

    Raises
    ------
    VideoError
        with code ``VIDEO_MISSING``, ``VIDEO_UNREADABLE``, ``VIDEO_NOT_REGULAR`` or ``VIDEO_EMPTY``.
    """
    name = str(path)
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError) as error:
        # ValueError: a NUL in the name, which no file can have.
        what = "a symbolic link to nothing" if "\0" not in name and path.is_symlink() else "no such file"
        raise VideoError("VIDEO_MISSING", name, what) from error
    except OSError as error:
        raise VideoError("VIDEO_UNREADABLE", name, error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("VIDEO_NOT_REGULAR", name, f"it is {_kind(status.st_mode)}, not a regular file")
    if status.st_size == 0:
        raise VideoError("VIDEO_EMPTY", name, "it holds 0 bytes")
    return status


def unfinished_box(path: Path) -> str | None:
    """Name the top-level box of an MP4 file that the file's end cuts through.

    None if there is none, and for a file of another format or one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            start = 0
            while start + 8 <= end:
                file.seek(start)
                head = file.read(16).ljust(16, b"\0")
                size, kind, large = struct.unpack(">I4sQ", head)
                size = large if size == 1 else size
                # 0: the last box, as long as the file is. Less than its own head: not an MP4 file.
                if size < 8 or not kind.isalnum():
                    return None
                start += size
                if start > end:
                    return str(kind, "ascii")
    except OSError:
        pass
    return None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
        stat.S_ISDIR: "a folder",
        stat.S_ISCHR: "a character device",
        stat.S_ISBLK: "a block device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "something else")
