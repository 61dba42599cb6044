"""Video ids and the file names made of them.

The id is a video's path below its root, last extension removed, ``/`` kept, in Unicode NFC. The key is the id
made safe for a file name on any system; its folder is the first two hex digits of the key's sha256.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,149}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_SLUG_CHARS = 120


def video_id(path: PurePath, root: PurePath) -> str:
    """Give the id of the video at ``path`` below ``root``.

    Bytes of a file name that are not UTF-8 appear as ``\\xNN``, so that every id can be stored as text.

    Raises
    ------
    ValueError
        if ``path`` does not lie below ``root``.
    """
    relative = path.relative_to(root)
    return id_of_name(PurePosixPath(relative.parent, relative.stem).as_posix())


def id_of_name(name: str) -> str:
    """Give the id of a video that is known by a name: NFC, bytes that are not UTF-8 as ``\\xNN``."""
    return unicodedata.normalize("NFC", as_text(name))


def as_text(path: str) -> str:
    """Give a path that can be written as text: bytes that are not UTF-8 appear as ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def key_of(identifier: str) -> str:
    """Make an id safe for a file name: itself if it is plain, else a readable part and 12 hex of its sha256."""
    if _PLAIN.fullmatch(identifier):
        return identifier
    slug = _UNSAFE.sub("-", identifier).strip("-")[:_SLUG_CHARS] or "video"
    return f"{slug}-{hashlib.sha256(identifier.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def file_of(folder: Path, identifier: str, suffix: str) -> Path:
    """Give the path below ``folder`` of a file that is named by a video's id.

    Ids that vadx made lie below their root, but a set that a stranger made may hold any.

    Raises
    ------
    UsageError
        for an id that would lead out of the folder.
    """
    parts = identifier.replace("\\", "/").split("/")
    if "\0" in identifier or (len(parts) > 1 and set(parts) & {"", ".", ".."}) or not identifier:
        msg = (
            f"{folder}: the id {identifier!r} leads out of this folder, so nothing is written under it; whoever made "
            "its feature set meant harm, or it is damaged: look for others with: vadx ls SET -q"
        )
        raise UsageError(msg)
    return folder / f"{identifier}{suffix}"


def folder_of(key: str) -> str:
    """Give the name of the folder that a key's files lie in, one of 256."""
    # Not only for keys: people leave files of any name in a store, and `verify` asks where they belong.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:2]


def collisions(identifiers: Iterable[str]) -> set[str]:
    """Give the ids that cannot be told apart on every file system: equal, or equal but for case."""
    seen: dict[str, list[str]] = {}
    for identifier in identifiers:
        seen.setdefault(key_of(identifier).casefold(), []).append(identifier)
        if key_of(identifier) != identifier:
            # Two ids that differ in case only get different hashes, but their videos are still one on some disks.
            seen.setdefault("id:" + identifier.casefold(), []).append(identifier)
    return {identifier for group in seen.values() if len(group) > 1 for identifier in group}
