"""The index of a feature set: derived from its shards, rewritten by rename, never trusted over them.

It keeps the modification time of each of the 256 shard folders, so that listing a large set opens only the
shards in folders that changed, and (path, size, mtime) -> sha256 of source videos as a hint that saves hashing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ShardError
from .keys import folder_of, key_of
from .publish import publish_bytes, temporary_name, write_error
from .shard import HEADER_BYTES, read_outline

INDEX_VERSION = 1
_CHECK = b',"check":"'
_RACY_NS = 2_000_000_000
"""A folder or file that changed this shortly before it was looked at may change again within one clock tick."""


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


@dataclass(slots=True)
class Index:
    """``folders``: name -> (mtime_ns, key -> summary). ``sources``: path -> (bytes, mtime_ns, sha256)."""

    folders: dict[str, tuple[int, dict[str, ShardSummary]]] = field(default_factory=dict)
    sources: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def summaries(self) -> dict[str, ShardSummary]:
        """Give id -> summary for every shard, in the order of ids."""
        found = [summary for _, shards in self.folders.values() for summary in shards.values()]
        return {summary.id: summary for summary in sorted(found, key=lambda s: s.id)}


def load_index(path: Path) -> Index:
    """Read an index; one that is missing, damaged or of another version counts as empty."""
    try:
        data = path.read_bytes()
        text, _, check = data.rpartition(_CHECK)
        raw = json.loads(data)
        if check != _check(text) or raw["vadx"] != INDEX_VERSION:
            return Index()
        return Index(
            {
                name: (int(mtime), {key: ShardSummary(*row) for key, row in shards.items()})
                for name, (mtime, shards) in raw["folders"].items()
            },
            {source: (int(size), int(mtime), str(sha)) for source, (size, mtime, sha) in raw["sources"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Index()


def refresh(index: Index, shards: Path) -> Index:
    """Bring an index up to date with the folder ``shards/``, opening only what lies in folders that changed.

    A shard that cannot be read is left out: `verify` names it.
    """
    folders: dict[str, tuple[int, dict[str, ShardSummary]]] = {}
    if shards.is_dir():
        for folder in sorted(shards.iterdir()):
            try:
                mtime_ns = folder.stat().st_mtime_ns
            except OSError:
                continue
            known = index.folders.get(folder.name)
            if known is not None and known[0] == mtime_ns:
                folders[folder.name] = known
            elif folder.is_dir():
                folders[folder.name] = (mtime_ns, _read_folder(folder))
    return Index(folders, index.sources)


def write_index(index: Index, path: Path, tmp: Path) -> None:
    """Replace the index. Folders that changed a moment ago are left out, so that the next reader looks again.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    # The clock of the store's own file system: another host's may be minutes off.
    probe = temporary_name(tmp, "clock")
    try:
        probe.touch()
        now_ns = probe.stat().st_mtime_ns
    except OSError as error:
        raise write_error(error, path, 4096) from error
    finally:
        with suppress(OSError):
            probe.unlink()
    settled = {name: entry for name, entry in index.folders.items() if entry[0] < now_ns - _RACY_NS}
    raw: dict[str, Any] = {
        "vadx": INDEX_VERSION,
        "folders": {
            name: [mtime, {key: list(dataclasses.astuple(s)) for key, s in shards.items()}]
            for name, (mtime, shards) in settled.items()
        },
        "sources": {source: list(entry) for source, entry in index.sources.items()},
    }
    text = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()[:-1]
    publish_bytes(text + _CHECK + _check(text), path, tmp, replace=True)


def _check(text: bytes) -> bytes:
    # Without it, a flipped bit would be a wrong listing or a wrong hint, not an index to make again.
    return hashlib.sha256(text).hexdigest().encode() + b'"}'


def _read_folder(folder: Path) -> dict[str, ShardSummary]:
    found: dict[str, ShardSummary] = {}
    for path in sorted(folder.glob("*.h5")):
        try:
            summary = summarize(path)
        except (ShardError, FileNotFoundError):
            continue
        if key_of(summary.id) == path.stem and folder_of(path.stem) == folder.name:
            found[path.stem] = summary
    return found


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
