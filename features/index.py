"""The index of a feature set: derived from its shards, rewritten by rename, never trusted over them.

It keeps the modification time of each of the 256 shard folders and of each shard, so that listing a large set opens
only the shards that changed, and (path, size, mtime) -> sha256 of source videos as a hint that saves hashing.

The file is JSON in six lines, of which a reader parses what it needs: the version; the ids, the numbers that belong
to them, and the sha256 of both lines; the hints and their sha256. Numbers are base64 of little-endian rows, because
100,000 of those are read at once.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, ValuesView
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ShardError
from .keys import folder_of, key_of
from .publish import publish_bytes, temporary_name, write_error
from .shard import HEADER_BYTES, read_outline
from .timeline import FRAMES_FROM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .shard import ShardOutline

INDEX_VERSION = 2
_RACY_NS = 2_000_000_000
"""A folder or file that changed this shortly before it was looked at may change again within one clock tick."""

_FOLDER = re.compile(r"[0-9a-f]{2}")
_NUMBERS = {
    "bytes": "<i8",
    "num_clips": "<i8",
    "num_crops": "<i8",
    "dim": "<i8",
    "num_frames": "<i8",
    "seconds": "<f8",
    "degraded": "?",
}
_ROW = np.dtype([("folder", "u1"), ("written_ns", "<i8"), *_NUMBERS.items()])
_STAMP = ["written_ns", "bytes"]
_HINT = np.dtype([("bytes", "<i8"), ("mtime_ns", "<i8")])
_BUFFER_BYTES = 1 << 20
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

Hint = tuple[int, int, str]
"""Size and mtime_ns of a source video, and the sha256 that it had then."""


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a listing shows of one shard. ``bytes`` is its file's size; ``seconds`` the video's, NaN where unknown.

    Of a stage of tubes ``num_clips`` counts what it holds, boxes, tubes or instances, and there are no crops.
    """

    id: str
    bytes: int
    num_clips: int
    num_crops: int
    dim: int
    num_frames: int
    seconds: float
    degraded: bool

    def is_same(self, other: ShardSummary) -> bool:
        """Whether both say the same; durations that nobody knows are the same."""
        ours, theirs = (replace(one, seconds=-1.0 if math.isnan(one.seconds) else one.seconds) for one in (self, other))
        return ours == theirs


FRAMES_FROM_CODES = ("", *FRAMES_FROM)
"""How the frames of a video are known, by the number that stands for it in an index; "" where it does not say."""


@dataclass(frozen=True, slots=True)
class ShardRow:
    """What an index keeps of one shard: its summary, and how its frames are known, one of `FRAMES_FROM_CODES`."""

    summary: ShardSummary
    frames_from: str = ""


class Listing(Mapping[str, ShardSummary]):
    """Maps ids, in their order, to summaries, each made when it is asked for.

    ``ids`` is sorted; ``rows (video,)`` is a structured array with the numbers of `ShardSummary` by name, beside the
    shard's folder, 0 to 255, and its own mtime ``written_ns``. ``frames_from (video,)`` uint8 are places in
    `FRAMES_FROM_CODES`.
    """

    __slots__ = ("frames_from", "ids", "rows")

    def __init__(self, ids: list[str], rows: NDArray[np.void], frames_from: NDArray[np.uint8] | None = None) -> None:
        codes = np.zeros(len(ids), np.uint8) if frames_from is None else frames_from
        if not len(ids) == len(rows) == len(codes):
            msg = f"{len(ids)} ids, {len(rows)} rows and {len(codes)} codes"
            raise ValueError(msg)
        self.ids = ids
        self.rows = rows
        self.frames_from = codes

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, identifier: str) -> ShardSummary:
        at = bisect_left(self.ids, identifier)
        if at == len(self.ids) or self.ids[at] != identifier:
            raise KeyError(identifier)
        return ShardSummary(identifier, *self.rows[at].item()[2:])

    def only(self, keep: NDArray[np.bool_]) -> Listing:
        """Give the part of it where ``keep (video,)`` is true."""
        if keep.all():
            return self
        return Listing(list(compress(self.ids, keep.tolist())), self.rows[keep], self.frames_from[keep])

    def values(self) -> ValuesView[ShardSummary]:
        return _Summaries(self)


class _Summaries(ValuesView[ShardSummary]):
    # The one of `collections.abc` would search for every id that it passes.
    _mapping: Listing

    def __iter__(self) -> Iterator[ShardSummary]:
        rows = self._mapping.rows
        columns = (rows[name].tolist() for name in _NUMBERS)
        return map(ShardSummary, self._mapping.ids, *columns)


def _empty() -> Listing:
    return Listing([], np.empty(0, _ROW))


@dataclass(frozen=True, slots=True)
class Index:
    """``folders``: name -> mtime_ns of those in which nothing changed since ``listing`` was made.

    ``path`` is the file that it was read from.
    """

    folders: dict[str, int] = field(default_factory=dict)
    listing: Listing = field(default_factory=_empty)
    path: Path | None = None

    @property
    def sources(self) -> dict[str, Hint]:
        """Path of a source video -> its hint, read each time. Hints that are damaged count as none."""
        lines = None if self.path is None else _read_hint_lines(self.path)
        return _parse_hints(lines[0]) if lines else {}

    def settled(self, looked_ns: int) -> Index:
        """Leave out what changed a moment before ``looked_ns``, which must lie before the index was refreshed.

        The next reader looks at that again.
        """
        rows = self.listing.rows
        old = rows["written_ns"] < looked_ns - _RACY_NS
        moving = {f"{number:02x}" for number in rows["folder"][~old].tolist()}
        folders = {
            name: mtime_ns
            for name, mtime_ns in self.folders.items()
            if mtime_ns < looked_ns - _RACY_NS and name not in moving
        }
        return Index(folders, self.listing.only(old), self.path)

    def known_again(self, said: Mapping[str, int], now_ns: int) -> Index:
        """Leave in what the next refresh need not open, though it looks into every folder that is not in ``said``.

        ``said`` are the folders that an index on disk vouched for before this one was refreshed from it. Of others a
        row is kept if it was written well before a folder that had already changed when its shard was read: what takes
        its place is taken to have a later time of writing by the same clock, as an index on disk takes it to.
        """
        folders = {name: mtime_ns for name, mtime_ns in said.items() if self.folders.get(name) == mtime_ns}
        vouched = np.zeros(256, np.bool_)
        vouched[[int(name, 16) for name in folders]] = True
        looked_ns = min(now_ns, max(self.folders.values(), default=0))
        rows = self.listing.rows
        keep = vouched[rows["folder"]] | (rows["written_ns"] < looked_ns - _RACY_NS)
        return Index(folders, self.listing.only(keep), self.path)


def load_index(path: Path) -> Index:
    """Read an index without its hints; one that is missing, damaged or of another version counts as empty."""
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            head, names, rows, check = (file.readline() for _ in range(4))
        if head != _head() or check != _check("listing", names, rows):
            return Index(path=path)
        raw = json.loads(_value(names))
        numbers = np.frombuffer(binascii.a2b_base64(_value(rows)[1:-1]), _ROW)
        codes = np.frombuffer(raw.get("frames_from", "0" * len(numbers)).encode(), np.uint8) - ord("0")
        if codes.size and codes.max() >= len(FRAMES_FROM_CODES):
            return Index(path=path)
        return Index(dict(raw["folders"]), Listing(raw["ids"], numbers, codes), path)
    except (OSError, *_UNREADABLE):
        return Index(path=path)


def _read_hint_lines(path: Path) -> tuple[bytes, bytes] | None:
    """Give an index's hints and their sha256 as they stand there, None if they are not whole."""
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            head, _names, _rows, _listing_check, hints, check = (file.readline() for _ in range(6))
    except OSError:
        return None
    return (hints, check) if head == _head() and check == _check("sources", hints) else None


def _parse_hints(line: bytes) -> dict[str, Hint]:
    try:
        raw = json.loads(_value(line))
        rows = np.frombuffer(binascii.a2b_base64(raw["rows"]), _HINT)
        sizes, mtimes_ns = rows["bytes"].tolist(), rows["mtime_ns"].tolist()
        return dict(zip(raw["paths"], zip(sizes, mtimes_ns, raw["sha256"], strict=True), strict=True))
    except _UNREADABLE:
        return {}


def index_damage(path: Path) -> str | None:
    """Say what is wrong with an index, None if nothing is or there is none.

    No one but `verify` asks: it is made again wherever it cannot be read.
    """
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            head, names, rows, listing_check, hints, hints_check = (file.readline() for _ in range(6))
            rest = file.read(1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    whole = listing_check == _check("listing", names, rows) and hints_check == _check("sources", hints) and not rest
    of_other_version = not whole and head != _head() and re.fullmatch(rb'\{"vadx":[0-9]+,\n', head) is not None
    return None if of_other_version or (whole and head == _head()) else "its lines are not those that were written"


def write_index(index: Index, path: Path, tmp: Path, *, hints: Mapping[str, Hint] | None = None) -> None:
    """Replace the index with one that `Index.settled` gave, keeping the hints there and adding ``hints``.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    listing: dict[str, Any] = {"folders": dict(sorted(index.folders.items())), "ids": index.listing.ids}
    if index.listing.frames_from.any():
        # A digit a video. What an older vadx does not know it passes over.
        listing["frames_from"] = "".join(map(str, index.listing.frames_from.tolist()))
    names = _line("listing", listing)
    rows = _line("rows", _as_text(index.listing.rows))
    kept = _read_hint_lines(path)
    if hints or kept is None:
        line = _hint_line({**(_parse_hints(kept[0]) if kept else {}), **(hints or {})})
        kept = (line, _check("sources", line))
    publish_bytes(b"".join([_head(), names, rows, _check("listing", names, rows), *kept]), path, tmp, replace=True)


def keep_hints(path: Path, tmp: Path, hints: Mapping[str, Hint]) -> None:
    """Add hints to an index and leave its listing as it is: no shard is opened, however many are new.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    write_index(load_index(path), path, tmp, hints=hints)


def _hint_line(hints: Mapping[str, Hint]) -> bytes:
    paths = sorted(hints)
    rows = np.array([hints[path][:2] for path in paths], _HINT)
    return _line("sources", {"paths": paths, "rows": _as_text(rows), "sha256": [hints[path][2] for path in paths]})


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
    return b'{"vadx":%d,\n' % INDEX_VERSION


def _line(name: str, value: object) -> bytes:
    return f'"{name}":{json.dumps(value, separators=(",", ":"))},\n'.encode("ascii")


def _value(line: bytes) -> bytes:
    return line[line.index(b":") + 1 : -2]


def _check(name: str, *lines: bytes) -> bytes:
    # Without it, a flipped bit would be a wrong listing or a wrong hint, not an index to make again.
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    end = "}" if name == "sources" else ","
    return f'"{name}_sha256":"{digest.hexdigest()}"{end}\n'.encode("ascii")


def _as_text(rows: NDArray[np.void]) -> str:
    return binascii.b2a_base64(rows.tobytes(), newline=False).decode("ascii")


def refresh(index: Index, shards: Path, read: Callable[[Path], ShardRow]) -> Index:
    """Bring an index up to date with the folder ``shards/``: looks only into folders that changed, reads only shards
    that are not those listed.

    A shard of which ``read`` raises `ShardError` is left out: `verify` names it. A folder of which the system could not
    read everything counts as changed the next time too: that may pass.
    """
    folders, changed = _look(index, shards)
    listing = index.listing
    unchanged = np.zeros(256, np.bool_)
    unchanged[[int(name, 16) for name in folders if name not in changed]] = True
    keep = unchanged[listing.rows["folder"]]
    added: dict[str, _Added] = {}
    for name, folder in changed.items():
        number = int(name, 16)
        rows = np.flatnonzero(listing.rows["folder"] == number)
        known = {f"{key_of(listing.ids[at])}.h5": at for at in rows.tolist()}
        stamps = dict(zip(rows.tolist(), listing.rows[_STAMP][rows].tolist(), strict=True))
        try:
            files = list(_shard_files(folder))
        except OSError:
            del folders[name]
            continue
        for file, status in files:
            at = known.get(file)
            # A shard never changes: another one comes by rename, with a time of its own.
            if at is not None and stamps[at] == (status.st_mtime_ns, status.st_size):
                keep[at] = True
                continue
            try:
                row = _read_own(folder / file, read)
            except ShardError:
                folders.pop(name, None)
                continue
            if row is not None:
                identifier, *numbers = astuple(row.summary)
                known_way = row.frames_from in FRAMES_FROM_CODES
                code = FRAMES_FROM_CODES.index(row.frames_from) if known_way else 0
                added[identifier] = _Added((number, status.st_mtime_ns, *numbers), code)
    return Index(folders, _merge(listing.only(keep), added), index.path)


class _Added(NamedTuple):
    numbers: tuple[Any, ...]
    frames_from: int


def _merge(listing: Listing, added: Mapping[str, _Added]) -> Listing:
    if not added:
        return listing
    more = [added[identifier] for identifier in sorted(added)]
    ids = [*listing.ids, *sorted(added)]
    rows = np.concatenate([listing.rows, np.array([one.numbers for one in more], _ROW)])
    codes = np.concatenate([listing.frames_from, np.array([one.frames_from for one in more], np.uint8)])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return Listing([ids[at] for at in order], rows[order], codes[order])


def _look(index: Index, shards: Path) -> tuple[dict[str, int], dict[str, Path]]:
    """Give every shard folder's mtime_ns, and those folders that changed."""
    folders: dict[str, int] = {}
    changed: dict[str, Path] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in shards.iterdir():
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


def _shard_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".h5"):
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)


def _read_own(path: Path, read: Callable[[Path], ShardRow]) -> ShardRow | None:
    """Read a shard that lies in its own place, else give None. Raises `ShardError` if the system cannot read it."""
    try:
        row = read(path)
    except FileNotFoundError:
        return None
    except ShardError as error:
        if error.damage == "unreadable":
            raise
        return None
    own = key_of(row.summary.id) == path.stem and folder_of(path.stem) == path.parent.name
    return row if own else None


def row_of_clips(path: Path) -> ShardRow:
    """Read what an index keeps of a shard of clip features. Raises as `features.shard.read_outline`."""
    outline = read_outline(path)
    return ShardRow(summary_of(outline), outline.facts.frames_from or "")


def summarize(path: Path) -> ShardSummary:
    """Read what a listing shows of a shard. Raises as `features.shard.read_outline`."""
    return summary_of(read_outline(path))


def summary_of(outline: ShardOutline) -> ShardSummary:
    """Give what a listing shows of a shard."""
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
