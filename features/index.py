"""The index of a feature set: derived from its shards, rewritten by rename, never trusted over them.

It keeps the modification time of each of the 256 shard folders and of each shard, so that listing a large set opens
only the shards that changed, and (path, size, mtime) -> sha256 of source videos as a hint that saves hashing.

The file is JSON in five lines, of which a reader parses what it needs: the version; the listing and its sha256; the
hints and their sha256. Columns of numbers are base64 of little-endian rows, because 100,000 of them parse at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping, ValuesView
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShardError
from .keys import folder_of, key_of
from .publish import publish_bytes, temporary_name, write_error
from .shard import HEADER_BYTES, read_outline

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX_VERSION = 2
_RACY_NS = 2_000_000_000
"""A folder or file that changed this shortly before it was looked at may change again within one clock tick."""

_FOLDER = re.compile(r"[0-9a-f]{2}")
_ROW = np.dtype(
    [
        ("folder", "u1"),
        ("written_ns", "<i8"),
        ("bytes", "<i8"),
        ("num_clips", "<i8"),
        ("num_crops", "<i8"),
        ("dim", "<i8"),
        ("num_frames", "<i8"),
        ("seconds", "<f8"),
        ("degraded", "?"),
    ]
)
_HINT = np.dtype([("bytes", "<i8"), ("mtime_ns", "<i8")])
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

Hint = tuple[int, int, str]
"""Size and mtime_ns of a source video, and the sha256 that it had then."""


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a listing shows of one shard. ``bytes`` is its file's size; ``seconds`` the duration of the video."""

    id: str
    bytes: int
    num_clips: int
    num_crops: int
    dim: int
    num_frames: int
    seconds: float
    degraded: bool


class Listing(Mapping[str, ShardSummary]):
    """Maps ids, in their order, to summaries, each made when it is asked for.

    ``ids`` is sorted; ``rows (video,)`` is a structured array with the numbers of `ShardSummary` by name, beside the
    shard's folder, 0 to 255, and its own mtime ``written_ns``.
    """

    __slots__ = ("ids", "rows")

    def __init__(self, ids: list[str], rows: NDArray[np.void]) -> None:
        if len(ids) != len(rows):
            msg = f"{len(ids)} ids and {len(rows)} rows"
            raise ValueError(msg)
        self.ids = ids
        self.rows = rows

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, identifier: str) -> ShardSummary:
        at = bisect_left(self.ids, identifier)
        if at == len(self.ids) or self.ids[at] != identifier:
            raise KeyError(identifier)
        return ShardSummary(identifier, *self.rows[at].item()[2:])

    def values(self) -> ValuesView[ShardSummary]:
        return _Summaries(self)


class _Summaries(ValuesView[ShardSummary]):
    # The one of `collections.abc` would search for every id that it passes.
    _mapping: Listing

    def __iter__(self) -> Iterator[ShardSummary]:
        for identifier, row in zip(self._mapping.ids, self._mapping.rows.tolist(), strict=True):
            yield ShardSummary(identifier, *row[2:])


def _empty() -> Listing:
    return Listing([], np.empty(0, _ROW))


@dataclass(slots=True)
class Index:
    """``folders``: name -> mtime_ns of those in which nothing changed since ``listing`` was made.

    ``hint_lines`` are the hints and their sha256 as they stand in the file, until `sources` is asked for.
    """

    folders: dict[str, int] = field(default_factory=dict)
    listing: Listing = field(default_factory=_empty)
    hint_lines: tuple[bytes, bytes] | None = None
    _sources: dict[str, Hint] | None = None

    @property
    def sources(self) -> dict[str, Hint]:
        """Path of a source video -> its hint. Hints that are damaged count as none."""
        if self._sources is None:
            self._sources = _parse_hints(*self.hint_lines) if self.hint_lines else {}
        return self._sources

    def update_sources(self, hints: Mapping[str, Hint]) -> None:
        """Add hints, which replace those of the same paths."""
        if hints:
            self.sources.update(hints)
            self.hint_lines = None

    def settled(self, looked_ns: int) -> Index:
        """Leave out what changed a moment before ``looked_ns``, which must lie before the index was refreshed.

        The next reader looks at that again.
        """
        rows = self.listing.rows
        old = rows["written_ns"] < looked_ns - _RACY_NS
        moving = {f"{number:02x}" for number in rows["folder"][~old]}
        folders = {
            name: mtime_ns
            for name, mtime_ns in self.folders.items()
            if mtime_ns < looked_ns - _RACY_NS and name not in moving
        }
        listing = self.listing if old.all() else Listing(list(compress(self.listing.ids, old)), rows[old])
        return Index(folders, listing, self.hint_lines, self._sources)


def load_index(path: Path) -> Index:
    """Read an index; one that is missing, damaged or of another version counts as empty."""
    try:
        head, listing, listing_check, *hints = path.read_bytes().split(b"\n")
        if head != _head() or listing_check != _check("listing", listing) or len(hints) != 3:
            return Index()
        raw = json.loads(listing.partition(b":")[2][:-1])
        rows = np.frombuffer(base64.b64decode(raw["rows"]), _ROW)
        return Index(dict(raw["folders"]), Listing(raw["ids"], rows), (hints[0], hints[1]))
    except (OSError, *_UNREADABLE):
        return Index()


def _parse_hints(line: bytes, check: bytes) -> dict[str, Hint]:
    if check != _check("sources", line):
        return {}
    try:
        raw = json.loads(line.partition(b":")[2][:-1])
        rows = np.frombuffer(base64.b64decode(raw["rows"]), _HINT)
        sizes, mtimes_ns = rows["bytes"].tolist(), rows["mtime_ns"].tolist()
        return dict(zip(raw["paths"], zip(sizes, mtimes_ns, raw["sha256"], strict=True), strict=True))
    except _UNREADABLE:
        return {}


def write_index(index: Index, path: Path, tmp: Path) -> None:
    """Replace the index with one that `Index.settled` gave. Raises `StoreWriteError` if the disk refused."""
    listing = _line(
        "listing",
        {"folders": index.folders, "ids": index.listing.ids, "rows": _as_text(index.listing.rows)},
    )
    hints = index.hint_lines
    if hints is None:
        sources = sorted(index.sources.items())
        rows = np.array([hint[:2] for _, hint in sources], _HINT)
        line = _line(
            "sources",
            {"paths": [p for p, _ in sources], "rows": _as_text(rows), "sha256": [hint[2] for _, hint in sources]},
        )
        hints = (line, _check("sources", line))
    lines = [_head(), listing, _check("listing", listing), *hints, b""]
    publish_bytes(b"\n".join(lines), path, tmp, replace=True)


def clock_ns(path: Path, tmp: Path) -> int:
    """Give the time by the clock of the store's own file system: another host's may be minutes off.

    Raises
    ------
    StoreWriteError
        if the disk refused; ``path`` is what was to be written.
    """
    probe = temporary_name(tmp, "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime_ns
    except OSError as error:
        raise write_error(error, path, 4096) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def _head() -> bytes:
    return b'{"vadx":%d,' % INDEX_VERSION


def _line(name: str, value: Mapping[str, Any]) -> bytes:
    return f'"{name}":{json.dumps(value, separators=(",", ":"))},'.encode("ascii")


def _check(name: str, line: bytes) -> bytes:
    # Without it, a flipped bit would be a wrong listing or a wrong hint, not an index to make again.
    end = b"}" if name == "sources" else b","
    return b'"%s_sha256":"%s"%s' % (name.encode(), hashlib.sha256(line).hexdigest().encode(), end)


def _as_text(rows: NDArray[np.void]) -> str:
    return base64.b64encode(rows.tobytes()).decode("ascii")


def refresh(index: Index, shards: Path) -> Index:
    """Bring an index up to date with the folder ``shards/``: looks only into folders that changed, opens only shards
    that are not those listed.

    A shard that cannot be read is left out: `verify` names it.
    """
    folders, changed = _look(index, shards)
    listing = index.listing
    unchanged = np.zeros(256, np.bool_)
    unchanged[[int(name, 16) for name in folders if name not in changed]] = True
    keep = unchanged[listing.rows["folder"]]
    added: list[tuple[str, tuple[Any, ...]]] = []
    for name, folder in changed.items():
        number = int(name, 16)
        known = {key_of(listing.ids[at]): int(at) for at in np.flatnonzero(listing.rows["folder"] == number)}
        for path, status in _shard_files(folder):
            at = known.get(path.stem)
            if at is not None and _is_same(listing.rows[at], status):
                keep[at] = True
            elif (summary := _read_shard(path)) is not None:
                identifier, *numbers = astuple(summary)
                added.append((identifier, (number, status.st_mtime_ns, *numbers)))
    if added or not keep.all():
        ids = [*compress(listing.ids, keep), *(identifier for identifier, _ in added)]
        rows = np.concatenate([listing.rows[keep], np.array([row for _, row in added], _ROW)])
        order = sorted(range(len(ids)), key=ids.__getitem__)
        listing = Listing([ids[at] for at in order], rows[order])
    return Index(folders, listing, index.hint_lines, index._sources)


def _look(index: Index, shards: Path) -> tuple[dict[str, int], dict[str, Path]]:
    """Give every shard folder's mtime_ns, and those folders that changed."""
    folders: dict[str, int] = {}
    changed: dict[str, Path] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in sorted(shards.iterdir()):
            if not _FOLDER.fullmatch(folder.name):
                continue
            try:
                status = folder.stat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders[folder.name] = status.st_mtime_ns
                if index.folders.get(folder.name) != status.st_mtime_ns:
                    changed[folder.name] = folder
    return folders, changed


def _shard_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    # A folder that cannot be read holds nothing that can.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".h5"):
                with suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _is_same(row: np.void, status: os.stat_result) -> bool:
    # A shard never changes: another one comes by rename, with a time of its own.
    return bool(row["written_ns"] == status.st_mtime_ns and row["bytes"] == status.st_size)


def _read_shard(path: Path) -> ShardSummary | None:
    try:
        summary = summarize(path)
    except (ShardError, FileNotFoundError):
        return None
    own = key_of(summary.id) == path.stem and folder_of(path.stem) == path.parent.name
    return summary if own else None


def summarize(path: Path) -> ShardSummary:
    """Read what a listing shows of a shard. Raises as `features.shard.read_outline`."""
    outline = read_outline(path)
    num_clips, num_crops, dim = outline.shape
    return ShardSummary(
        id=outline.id,
        bytes=outline.header.body_bytes + HEADER_BYTES,
        num_clips=num_clips,
        num_crops=num_crops,
        dim=dim,
        num_frames=outline.facts.num_frames_decoded,
        seconds=outline.video_seconds,
        degraded=outline.facts.is_degraded,
    )
