"""What the user named becomes a list of videos with ids."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import NoInputError, UsageError
from ..extract.files import VIDEO_EXTENSIONS
from ..features.keys import as_text, collisions, video_id

_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Entry:
    """One video to work on."""

    id: str
    path: Path


@dataclass(frozen=True, slots=True)
class Inputs:
    """The videos found, those whose ids cannot be told apart, and how many files a folder search passed over."""

    entries: tuple[Entry, ...]
    colliding: tuple[Entry, ...]
    num_passed_over: int


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    root: Path | None


def find_videos(names: Sequence[str], *, root: Path | None = None) -> Inputs:
    """Find the videos that ``names`` mean: folders (searched), files (always tried), globs, ``@list.txt``, ``-``.

    The id of a video below a named folder is relative to that folder; of others to ``root``, else to their nearest
    common folder.

    Raises
    ------
    NoInputError
        if nothing matched.
    UsageError
        if a list cannot be read, or a video does not lie below ``root``.
    """
    found: list[_Found] = []
    passed_over = 0
    for name in names:
        for path in _expand(name):
            if _is_folder(path):
                videos, others = _search(path)
                found += [_Found(video, root or path) for video in videos]
                passed_over += others
            else:
                found.append(_Found(path, root))
    if not found:
        hint = f"; {passed_over} files of other kinds were passed over" if passed_over else ""
        msg = f"no video matched {' '.join(names)}{hint}. Name a folder, files, a glob, @list.txt or -"
        raise NoInputError(msg)
    entries = _entries(found)
    ambiguous = collisions(entry.id for entry in entries)
    return Inputs(
        tuple(e for e in entries if e.id not in ambiguous),
        tuple(e for e in entries if e.id in ambiguous),
        passed_over,
    )


def take_part(found: Inputs, number: int, num_parts: int) -> Inputs:
    """Give the ``number``-th of ``num_parts`` parts, as `in_part`."""
    return Inputs(
        tuple(entry for entry in found.entries if in_part(entry.id, number, num_parts)),
        tuple(entry for entry in found.colliding if in_part(entry.id, number, num_parts)),
        found.num_passed_over,
    )


def in_part(identifier: str, number: int, num_parts: int) -> bool:
    """Whether a video is in the ``number``-th of ``num_parts`` parts, counted from 1.

    Its id alone says so: jobs that see different listings, as of a folder that grows, neither share a video nor leave
    one out.
    """
    return int.from_bytes(hashlib.sha256(as_text(identifier).encode()).digest()[:8]) % num_parts == number - 1


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Such as a name that is too long: as a file it becomes this one video's failure.
        return False


def _entries(found: Iterable[_Found]) -> list[Entry]:
    unique: dict[str, _Found] = {}
    for item in found:
        # A video below a named folder keeps that id, also where it is named itself.
        known = unique.setdefault(os.path.abspath(item.path), item)
        if known.root is None and item.root is not None:
            unique[os.path.abspath(item.path)] = item
    rootless = [path for path, item in unique.items() if item.root is None]
    common = Path(os.path.commonpath([os.path.dirname(path) for path in rootless])) if rootless else None
    entries = []
    for absolute, item in unique.items():
        base = Path(os.path.abspath(item.root)) if item.root is not None else common
        if base is None:
            continue
        try:
            identifier = video_id(Path(absolute), base)
        except ValueError as error:
            msg = f"{item.path} does not lie below --root {base}"
            raise UsageError(msg) from error
        entries.append(Entry(identifier, item.path))
    return sorted(entries, key=lambda entry: entry.id)


def _expand(name: str) -> Iterator[Path]:
    if not name:
        msg = "an input is empty; is a shell variable unset?"
        raise UsageError(msg)
    if name == "-":
        # As text, the first name that is not UTF-8 would end it.
        raw = getattr(sys.stdin, "buffer", None)
        yield from _lines(sys.stdin if raw is None else map(os.fsdecode, raw))
    elif name.startswith("@"):
        listing = Path(name[1:])
        try:
            with listing.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                yield from list(_lines(lines))
        except OSError as error:
            msg = f"the list {listing} cannot be read: {error.strerror}; check the path after @"
            raise UsageError(msg) from error
    elif _GLOB_CHARACTERS & set(name) and not os.path.lexists(name):
        yield from (Path(match) for match in sorted(glob.glob(name, recursive=True)))
    else:
        yield Path(name)


def _lines(lines: Iterable[str]) -> Iterator[Path]:
    """Give one path a line; empty lines and those that begin with # are passed over."""
    for line in lines:
        text = line.rstrip("\r\n")
        if text.strip() and not text.startswith("#"):
            yield Path(text)


def _search(folder: Path) -> tuple[list[Path], int]:
    """Give the videos below a folder and the number of other files. Hidden files and folders are passed over."""
    videos: list[Path] = []
    others = 0
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in VIDEO_EXTENSIONS:
                videos.append(path)
            else:
                others += 1
    return videos, others
