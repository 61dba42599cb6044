"""Pack: many shards become one plain HDF5 file that any h5py reads, and become shards again.

A feature set may be larger than memory, and the HDF5 library crashes its process where a disk is full (h5py issue 914).
So a process of its own copies one shard after another into a file whose room was reserved before. What it wrote is read
again and compared with the shards before the file gets its name; the shards are only ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import NoInputError, ShardError, StoreError, StoreWriteError, UsageError
from .pack_writer import write_in_child
from .packed_set import PACKED_VERSION, PackedSet, failure_text, video_attributes
from .publish import make_directory, publish_file, temporary_name
from .shard import HEADER_BYTES, ShardContent, ShardHeader, open_shard, parse_header, read_header, read_outline
from .spool import ClipSpool
from .store import FeatureSet, Store
from .timeline import ClipTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .shard_set import FailureRecord

# What groups and tables take beside the data, which lie in the shards as they will lie in the file.
_OVERHEAD = 1.02
_OVERHEAD_BYTES = 4 << 20
_VIDEO_OVERHEAD_BYTES = 4096
_FALLBACK_SLUG = "unpacked"


@dataclass(frozen=True, slots=True)
class PackReport:
    """What a packed file holds, and how it came to stand there: ``status`` is packed, or current if it stood there."""

    path: Path
    status: Literal["packed", "current"]
    num_videos: int
    num_failures: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class UnpackReport:
    """What became of a packed file's videos in a store.

    ``num_new`` shards were written, ``num_current`` stood there already; ``kept`` names videos of which the store
    has another shard, which stays. ``rebuilt`` names those whose new shard holds the same values in other bytes than
    the one that was packed, because another version of HDF5 or vadx wrote that one.
    """

    feature_set: FeatureSet
    num_new: int
    num_current: int
    kept: tuple[str, ...]
    rebuilt: tuple[str, ...]


def default_path(feature_set: FeatureSet) -> Path:
    """Give the place of a set's packed file unless another is named: beside its folder."""
    return feature_set.path.parent / f"{feature_set.name}.h5"


def pack_set(feature_set: FeatureSet, path: Path | None = None) -> PackReport:
    """Write a feature set's videos and failures into one HDF5 file, which appears whole and checked or not at all.

    ``path`` is `default_path` unless it is given. The same shards give the same bytes. A packed file of this feature
    set that stands there is kept if it holds what the shards' headers say, of which no body is read then, and replaced
    if not; anything else there is refused.

    Raises
    ------
    NoInputError
        if the set holds no video.
    UsageError
        if the set is packed already, or something else stands at ``path``.
    ShardError
        if a shard that is read is damaged.
    StoreError
        if the set changed while it was packed, or what was written is not what the shards hold.
    StoreWriteError
        if the disk refused.
    """
    if isinstance(feature_set, PackedSet):
        msg = f"{feature_set.path} is packed already; make a folder of shards of it with: vadx pack --unpack FILE"
        raise UsageError(msg)
    target = path or default_path(feature_set)
    headers = _headers(feature_set)
    failures = feature_set.failures()
    content = _content_sha256(feature_set, headers, failures)
    existing = _existing(target, feature_set)
    if existing is not None and existing.content_sha256 == content:
        return PackReport(target, "current", len(headers), len(failures), target.stat().st_size)
    make_directory(target.parent, option="--to")
    temporary = temporary_name(target.parent, target.name)
    num_bytes = _room(headers)
    order = {
        "set": str(feature_set.path.absolute()),
        "image": str(temporary.absolute()),
        "bytes": num_bytes,
        "parent": os.getpid(),
        "ids": list(headers),
        "failures": [failure_text(record) for record in failures],
        "attributes": _file_attributes(feature_set, content),
    }
    try:
        _write(order, target, feature_set)
        _check_written(temporary, feature_set, target)
        _publish(temporary, target, num_bytes, replace=existing is not None)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return PackReport(target, "packed", len(headers), len(failures), target.stat().st_size)


def differences(packed: PackedSet, feature_set: FeatureSet) -> Iterator[tuple[str, str]]:
    """Compare a packed file with a set's shards, every value of both: yields the id and what differs.

    Raises
    ------
    ShardError
        if a shard is damaged. Damage in the packed file is a difference.
    """
    if packed.digest != feature_set.digest:
        yield "", f"it is of recipe {packed.digest[:8]}, the set of {feature_set.digest[:8]}"
        return
    for identifier in sorted({*packed, *feature_set}):
        if identifier not in packed:
            yield identifier, "is not in the file"
            continue
        try:
            shard = open_shard(feature_set.shard_path(identifier))
        except FileNotFoundError:
            yield identifier, "is not in the set"
            continue
        try:
            found = packed.content(identifier, check=True)
        except ShardError as error:
            yield identifier, error.evidence
            continue
        if video_attributes(found) != video_attributes(shard):
            what = "another shard was packed" if found.header != shard.header else "what was packed is not its shard's"
            yield identifier, what
    ours, theirs = packed.failures(), feature_set.failures()
    for record in ours:
        if record not in theirs:
            yield record.id, "its failure is not in the set"
    for record in theirs:
        if record not in ours:
            yield record.id, "its failure is not in the file"


def unpack(path: str | Path, store: Store) -> FeatureSet:
    """Make shards of a packed file again, in the set of its recipe in ``store``. As `unpack_set`."""
    return unpack_set(PackedSet(path), store).feature_set


def unpack_set(packed: PackedSet, store: Store) -> UnpackReport:
    """Make the shards and failures that were packed again; those that the store has stay as they are.

    A new shard is the one that was packed, byte for byte, where this HDF5 writes as that one did: see `UnpackReport`.

    Raises
    ------
    ShardError
        if the file is damaged. What was unpacked before is sound.
    StoreWriteError
        if the disk refused.
    """
    slug = packed.name.removesuffix(f"-{packed.digest[:8]}")
    try:
        feature_set = store.create(packed.recipe, slug=slug, preset=packed.preset, weights_name=packed.weights_name)
    except StoreWriteError:
        raise
    except StoreError:
        # A person may have given the folder a name that vadx would not.
        feature_set = store.create(
            packed.recipe, slug=_FALLBACK_SLUG, preset=packed.preset, weights_name=packed.weights_name
        )
    num_new, num_current, kept, rebuilt = 0, 0, [], []
    for identifier in packed:
        stored, header = feature_set.header(identifier), packed.header(identifier)
        if isinstance(stored, ShardHeader):
            num_current += stored == header
            kept += [identifier] if stored != header else []
            continue
        content = packed.content(identifier, check=True)
        made = _publish_shard(feature_set, content, replace=stored is not None)
        num_new += 1
        rebuilt += [identifier] if made != content.header else []
    for record in packed.failures():
        if feature_set.failure(record.id) is None and (record.id in packed or record.id not in feature_set):
            feature_set.record_failure(record)
    feature_set.save_index({})
    return UnpackReport(feature_set, num_new, num_current, tuple(kept), tuple(rebuilt))


def _publish_shard(feature_set: FeatureSet, content: ShardContent, *, replace: bool) -> ShardHeader:
    features, header = content.features, content.header
    table = ClipTable(features.frames, features.seconds, features.damaged, features.facts, features.num_padded_frames)
    # The way that extraction takes: a large shard must be written as it was, to have the same bytes.
    with ClipSpool(feature_set.tmp, header.key, features.values.dtype.name) as spool:
        spool.append(features.values)
        shard = spool.finish(content.id, table, features.provenance, header.recipe_digest, header.source_sha256)
        made = read_header(shard) if isinstance(shard, Path) else parse_header(Path(header.key), shard[:HEADER_BYTES])
        feature_set.publish(content.id, shard, replace=replace)
    return made


def _headers(feature_set: FeatureSet) -> dict[str, ShardHeader]:
    """Give the header of every shard by id. Raises `ShardError` if one is known to be damaged."""
    found: dict[str, ShardHeader] = {}
    for identifier in feature_set:
        header = feature_set.header(identifier)
        if isinstance(header, ShardError):
            raise _damaged(header, feature_set)
        if header is not None:
            found[identifier] = header
    known = {feature_set.shard_path(identifier) for identifier in found}
    for path in sorted(set(feature_set.shard_paths()) - known):
        # A listing leaves out what it cannot read; a packed file must not.
        try:
            outline = read_outline(path)
        except ShardError as error:
            raise _damaged(error, feature_set) from error
        except FileNotFoundError:
            continue
        stranger = ShardError(str(path), "stranger", f"it holds video {outline.id!r}, whose shard has another place")
        raise _damaged(stranger, feature_set)
    if not found:
        msg = f"{feature_set.path} holds no video to pack; see what failed with: vadx ls {feature_set.path}"
        raise NoInputError(msg)
    return found


def _damaged(error: ShardError, feature_set: FeatureSet) -> ShardError:
    evidence = (
        f"{error.evidence}. Nothing was packed. List what is damaged with: vadx verify {feature_set.path}; then repeat "
        "the extract command that made the set, and pack again"
    )
    return ShardError(error.path, error.damage, evidence, cure="")


def _content_sha256(feature_set: FeatureSet, headers: Mapping[str, ShardHeader], failures: list[FailureRecord]) -> str:
    names = [feature_set.name, feature_set.digest, feature_set.preset, feature_set.weights_name]
    digest = hashlib.sha256(json.dumps([PACKED_VERSION, *names]).encode())
    for identifier, header in headers.items():
        digest.update(json.dumps([identifier, asdict(header)]).encode() + b"\n")
    for record in failures:
        digest.update(failure_text(record).encode() + b"\n")
    return digest.hexdigest()


def _existing(target: Path, feature_set: FeatureSet) -> PackedSet | None:
    """Open the packed file that may be replaced. Raises `UsageError` for anything else that stands there."""
    if not (target.exists() or target.is_symlink()):
        return None
    try:
        with PackedSet(target) as existing:
            what = f"the set {existing.name}, of another recipe"
            if existing.digest == feature_set.digest:
                return existing
    except StoreError as error:
        what = f"no packed feature set that this vadx can read ({error})"
    msg = f"{target} holds {what}; it stays as it is. Remove it first, or name another file with --to"
    raise UsageError(msg)


def _room(headers: Mapping[str, ShardHeader]) -> int:
    num_bytes = sum(header.body_bytes + _VIDEO_OVERHEAD_BYTES for header in headers.values())
    return int(num_bytes * _OVERHEAD) + _OVERHEAD_BYTES


def _file_attributes(feature_set: FeatureSet, content: str) -> dict[str, str]:
    names = {"name": feature_set.name, "preset": feature_set.preset, "weights_name": feature_set.weights_name}
    return {
        **{name: value for name, value in names.items() if value is not None},
        "digest": feature_set.digest,
        "recipe": feature_set.recipe.canonical_json(),
        "content_sha256": content,
    }


def _write(order: Mapping[str, Any], target: Path, feature_set: FeatureSet) -> None:
    reason = write_in_child(order)
    if reason is None:
        return
    if "shard" in reason:
        raise _damaged(ShardError(*reason["shard"]), feature_set)
    if "gone" in reason:
        msg = f"{reason['gone']}: it was removed while the set was packed. Nothing was written; repeat the command"
        raise StoreError(msg)
    raise _write_refused(reason["errno"], reason["strerror"], target, order["bytes"])


def _write_refused(number: int | None, reason: str, target: Path, num_bytes: int) -> StoreWriteError:
    msg = (
        f"{target}: {reason}; {num_bytes} bytes were needed there. The feature set is as it was, and so is what stood "
        "at this path. Free space there, or name another file with --to; then repeat the command"
    )
    error = StoreWriteError(msg)
    error.errno = number
    return error


def _check_written(temporary: Path, feature_set: FeatureSet, target: Path) -> None:
    try:
        with PackedSet(temporary) as written:
            found = next(differences(written, feature_set), None)
    except ShardError as error:
        raise _damaged(error, feature_set) from error
    except StoreError as error:
        found = ("", str(error))
    if found is not None:
        identifier, what = found
        msg = (
            f"{target}: not written, because reading it again found something else than the shards hold ({identifier}: "
            f"{what}). The set may have changed while it was packed: repeat the command. If it happens again, check "
            f"the disk and the memory of this machine, and: vadx verify {feature_set.path}"
        )
        raise StoreError(msg)


def _publish(temporary: Path, target: Path, num_bytes: int, *, replace: bool) -> None:
    try:
        published = publish_file(temporary, target, replace=replace)
    except StoreWriteError as error:
        reason = getattr(error.__cause__, "strerror", None) or str(error)
        raise _write_refused(error.errno, reason, target, num_bytes) from error
    if published.outcome == "first kept":
        msg = f"{target}: another file appeared there meanwhile, and stays; repeat the command"
        raise StoreError(msg)
