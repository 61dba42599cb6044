"""Shard: one video's immutable file. A self-certifying header of 512 bytes, then an HDF5 image.

The header is one line of JSON, padded with spaces::

    {"vadx":1,"len":N,"sha256":"…of the body…","key":…,"recipe":"…digest…","source":"…sha256…","check":"…"}

The HDF5 library is never given a disk that can fill: a full disk crashes its process (h5py issue 914). The image
is built in memory and written with plain system calls; above `MEMORY_IMAGE_BYTES` a disposable child writes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..errors import ShardError, StoreError
from .guarded_file import HDF5_ERRORS, GuardedFile
from .keys import key_of
from .timeline import ClipFeatures, VideoFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

FORMAT_VERSION = 1
HEADER_BYTES = 512
MEMORY_IMAGE_BYTES = 1 << 30
"""Feature bytes up to which the HDF5 image is built in memory."""

_CHUNK_BYTES = 1 << 19
_ALLOWED_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_LZF,
}
_MAX_DEFLATE_RATIO = 1032
_MAX_CHUNK_BYTES = 64 << 20
"""Chunks may be larger than what they hold, and HDF5 takes memory for a whole one to unpack any of it."""
_HEX64 = re.compile(r"[0-9a-f]{64}")

DAMAGE: Mapping[str, str] = {
    "truncated": "the file is shorter or longer than its header says",
    "header": "the first 512 bytes are not a vadx header, or were changed",
    "body": "the bytes after the header are not those that were written",
    "format": "a newer vadx wrote it",
    "structure": "the HDF5 image does not hold what a shard holds",
    "stranger": "it belongs to another recipe or another video",
    "unreadable": "the system cannot read the file",
    "record": "a note beside the shards is not what was written",
}
"""Kinds of damage that `read_header`, `verify_shard` and `open_shard` can name."""


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What a shard certifies about itself.

    ``body_bytes`` and ``body_sha256`` are of everything after the header; ``recipe_digest`` is the feature
    set's; ``source_sha256`` is of the video file's bytes.
    """

    body_bytes: int
    body_sha256: str
    key: str
    recipe_digest: str
    source_sha256: str

    def to_bytes(self) -> bytes:
        """Give the 512 bytes that open a shard.

        Raises
        ------
        ValueError
            if the key is too long to fit.
        """
        line = json.dumps(self._mapping(), separators=(",", ":"))
        line = f'{line[:-1]},"check":"{_check(line)}"}}'
        if len(line) >= HEADER_BYTES:
            msg = f"the header of {self.key!r} takes {len(line)} bytes, more than {HEADER_BYTES - 1}"
            raise ValueError(msg)
        return line.ljust(HEADER_BYTES - 1).encode("ascii") + b"\n"

    def _mapping(self) -> dict[str, str | int]:
        return {
            "vadx": FORMAT_VERSION,
            "len": self.body_bytes,
            "sha256": self.body_sha256,
            "key": self.key,
            "recipe": self.recipe_digest,
            "source": self.source_sha256,
        }


def _check(line: str) -> str:
    return hashlib.sha256(line.encode("ascii")).hexdigest()[:16]


def parse_header(path: Path, block: bytes) -> ShardHeader:
    """Read a header from the first 512 bytes of the file at ``path``.

    Raises
    ------
    ShardError
        if it is damaged or of a newer format.
    """
    if len(block) < HEADER_BYTES:
        raise ShardError(str(path), "truncated", f"{len(block)} bytes, less than a header of {HEADER_BYTES}")
    try:
        raw = json.loads(block.decode("ascii"))
        version = raw["vadx"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(str(path), "header", "it does not begin with a vadx header") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        evidence = f"written by a newer vadx in format {version}; this one reads up to {FORMAT_VERSION}: update vadx"
        raise ShardError(str(path), "format", evidence, cure="")
    try:
        header = ShardHeader(raw["len"], raw["sha256"], raw["key"], raw["recipe"], raw["source"])
    except KeyError as error:
        raise ShardError(str(path), "header", f"the header lacks {error}") from error
    # Rewriting what was read and comparing bytes covers every value, the check and the padding at once.
    texts = (header.body_sha256, header.key, header.recipe_digest, header.source_sha256)
    try:
        intact = (
            type(header.body_bytes) is int and all(isinstance(t, str) for t in texts) and header.to_bytes() == block
        )
    except ValueError:
        intact = False
    if not intact:
        raise ShardError(str(path), "header", "the header was changed after it was written")
    return header


def read_header(path: Path) -> ShardHeader:
    """Read and check a shard's header, and that the file has the length it states. Opens no HDF5.

    Raises
    ------
    FileNotFoundError
        if there is no such file.
    ShardError
        if it is damaged.
    """
    with _opened(path) as descriptor:
        return _header_of(path, descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # Without O_NONBLOCK a FIFO at a shard's place would hang whoever looks.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
    with _as_unreadable(path):
        descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with _as_unreadable(path):
            os.close(descriptor)


@contextmanager
def _as_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ShardError(str(path), "unreadable", error.strerror or str(error)) from error


def _header_of(path: Path, descriptor: int) -> ShardHeader:
    with _as_unreadable(path):
        status = os.fstat(descriptor)
        is_file = stat.S_ISREG(status.st_mode)
        block = os.read(descriptor, HEADER_BYTES) if is_file else b""
    if not is_file:
        raise ShardError(str(path), "unreadable", "it is not a regular file")
    header = parse_header(path, block)
    if status.st_size != HEADER_BYTES + header.body_bytes:
        evidence = f"{status.st_size} bytes on disk, its header promises {HEADER_BYTES + header.body_bytes}"
        raise ShardError(str(path), "truncated", evidence)
    return header


def verify_shard(
    path: Path,
    *,
    full: bool = True,
    recipe_digest: str | None = None,
    key: str | None = None,
    read: Callable[[Path], object] | None = None,
) -> None:
    """Check one shard against its own header and, if given, the set's recipe and the key of its place.

    The quick check reads 512 bytes; the full one has ``read`` read all of it, which hashes the body before HDF5 sees
    it: `open_shard`, unless the set is of another kind.

    Raises
    ------
    FileNotFoundError
        if there is no such file.
    ShardError
        naming the kind of damage.
    """
    header = read_header(path)
    if recipe_digest is not None and header.recipe_digest != recipe_digest:
        raise ShardError(
            str(path), "stranger", f"made under recipe {header.recipe_digest[:8]}, not {recipe_digest[:8]}"
        )
    if key is not None and header.key != key:
        raise ShardError(str(path), "stranger", f"its header names key {header.key!r}")
    if full:
        (read or open_shard)(path)


@dataclass(frozen=True, slots=True)
class ShardContent:
    """A shard's features with the video's id and the digests it was stored under."""

    id: str
    features: ClipFeatures
    header: ShardHeader

    @property
    def outline(self) -> ShardOutline:
        """What a listing needs of it."""
        features = self.features
        return ShardOutline(self.id, features.values.shape, _span(features.seconds), features.facts, self.header)


def open_shard(path: Path) -> ShardContent:
    """Read a whole shard.

    Raises
    ------
    FileNotFoundError
        if there is no such file.
    ShardError
        if it is damaged or does not hold what a shard holds. The body's sha256 is compared before HDF5 sees it; links,
        external storage, virtual data sets and unknown filters are refused before any data is read.
    """
    with shard_image(path, check_body=True) as (header, file):
        identifier, features = _read_image(path, file)
    check_id(path, identifier, header)
    return ShardContent(identifier, features, header)


@dataclass(frozen=True, slots=True)
class ShardOutline:
    """What a listing needs of a shard: no feature value is read."""

    id: str
    shape: tuple[int, int, int]
    video_seconds: float
    facts: VideoFacts
    header: ShardHeader


def read_outline(path: Path) -> ShardOutline:
    """Read a shard's id, shape and facts, of which only what HDF5 itself checks is checked. Raises as `open_shard`."""
    with shard_image(path) as (header, file):
        shape = _own_dataset(path, file, "features").shape
        seconds = _own_dataset(path, file, "seconds")
        attributes = checked_attributes(path, file)
        outline = ShardOutline(str(attributes["id"]), shape, _span(seconds), _facts(attributes), header)
    check_id(path, outline.id, header)
    return outline


def read_frames_from(path: Path) -> str | None:
    """Read how a shard's frames are known, as `VideoFacts.frames_from`: quicker than all of its facts.

    Raises as `open_shard`, but checks no id.
    """
    with shard_image(path) as (_, file):
        found = checked_attributes(path, file).get("frames_from")
    return None if found is None else str(found)


def _span(seconds: NDArray[np.float64] | h5py.Dataset) -> float:
    return float(seconds[-1, 1] - seconds[0, 0]) if len(seconds) else 0.0


@contextmanager
def shard_image(path: Path, *, check_body: bool = False) -> Iterator[tuple[ShardHeader, h5py.File]]:
    """Open a shard: its header and its HDF5 image, and turn whatever HDF5 raises into `ShardError`.

    Both are of one file, whatever takes its place meanwhile. With ``check_body`` the sha256 of the body is compared
    first: HDF5's own checksums miss texts, and chunks of zeros.

    Raises as `read_header`.
    """
    try:
        with _opened(path) as descriptor:
            header = _header_of(path, descriptor)
            with GuardedFile(path, descriptor) as image:
                if check_body:
                    _check_body(path, image, header.body_sha256)
                with h5py.File(image, "r") as file:
                    yield header, file
    except (ShardError, FileNotFoundError):
        raise
    except HDF5_ERRORS as error:
        raise ShardError(str(path), "structure", "the HDF5 image cannot be read") from error


def _check_body(path: Path, image: GuardedFile, expected: str) -> None:
    with _as_unreadable(path):
        found = image.sha256(HEADER_BYTES)
    if found != expected:
        raise ShardError(str(path), "body", "its sha256 is not the one in its header")


def check_id(path: Path, identifier: str, header: ShardHeader) -> None:
    # HDF5 keeps texts where no checksum covers them: a flipped bit would rename the video.
    if key_of(identifier) != header.key:
        raise ShardError(str(path), "stranger", f"its header names key {header.key!r}, its image video {identifier!r}")


_DATASETS: Mapping[str, tuple[str, ...]] = {
    "features": ("clip", "crop", "feature"),
    "frames": ("clip", "bound"),
    "seconds": ("clip", "bound"),
    "damaged": ("clip",),
}
_KINDS = {"features": "f", "frames": "i", "seconds": "f", "damaged": "b"}


def _read_image(path: Path, file: h5py.File) -> tuple[str, ClipFeatures]:
    datasets = {name: _own_dataset(path, file, name) for name in _DATASETS}
    arrays = {name: dataset[()] for name, dataset in datasets.items()}
    attributes = checked_attributes(path, file)
    provenance = json.loads(str(attributes["provenance"]))
    features = ClipFeatures(
        values=arrays["features"],
        frames=arrays["frames"],
        seconds=arrays["seconds"],
        damaged=arrays["damaged"],
        facts=_facts(attributes),
        num_padded_frames=int(attributes["num_padded_frames"]),
        provenance=provenance,
    )
    return str(attributes["id"]), features


def _own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    return checked_dataset(path, file, name, kind=_KINDS[name], num_axes=len(_DATASETS[name]))


def checked_dataset(path: Path, file: h5py.File, name: str, *, kind: str, num_axes: int) -> h5py.Dataset:
    """Give a data set of which nothing lies outside the file at ``path``. ``kind`` is numpy's letter for its type.

    Raises
    ------
    ShardError
        if it is missing, of another type, or a link, external storage, a virtual data set or behind an unknown filter.
    """
    # A name with a slash would be looked up through a group that may itself be a link to another file.
    if "/" in name or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ShardError(str(path), "structure", f"{name} is missing or a link to somewhere else")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ShardError(str(path), "structure", f"{name} is stored outside the file")
    if dataset.dtype.kind != kind or dataset.ndim != num_axes:
        raise ShardError(str(path), "structure", f"{name} has type {dataset.dtype} and shape {dataset.shape}")
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if not filters <= _ALLOWED_FILTERS:
        raise ShardError(str(path), "structure", f"{name} needs unknown filters {sorted(filters - _ALLOWED_FILTERS)}")
    ratio = _MAX_DEFLATE_RATIO if h5py.h5z.FILTER_DEFLATE in filters else 1
    # Not of what stands at the path: another file may have taken this one's place.
    if dataset.nbytes > ratio * dataset.file.id.get_filesize():
        raise ShardError(str(path), "structure", f"{name} claims {dataset.nbytes} bytes, more than the file holds")
    chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk_bytes > max(dataset.nbytes, _MAX_CHUNK_BYTES):
        raise ShardError(str(path), "structure", f"{name} claims chunks of {chunk_bytes} bytes, more than it holds")
    return dataset


def checked_attributes(path: Path, node: h5py.HLObject, *, allow_heap: bool = True) -> dict[str, Any]:
    """Give the attributes of a file or group.

    Texts of variable length lie in a heap, which only a `GuardedFile` makes safe to read: elsewhere ``allow_heap`` is
    False.

    Raises
    ------
    ShardError
        before the first is read, if one is no single number or text.
    """
    for name in node.attrs:
        kept = node.attrs.get_id(name)
        if kept.shape != () or not (kept.dtype.kind in "Sifb" or (allow_heap and h5py.check_string_dtype(kept.dtype))):
            raise ShardError(str(path), "structure", f"its attribute {name} is no single number or text")
    return dict(node.attrs)


def _facts(attributes: Mapping[str, Any]) -> VideoFacts:
    # A None was not written; a required field that is missing makes VideoFacts raise TypeError.
    return VideoFacts(**{f.name: _to_python(attributes[f.name]) for f in fields(VideoFacts) if f.name in attributes})


def _to_python(value: Any) -> Any:
    if not isinstance(value, (np.generic, str)):
        msg = f"expected a number or text, got {value!r}"
        raise TypeError(msg)
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, slots=True)
class ClipBlock:
    """A run of consecutive clips: the four arrays of `ClipFeatures`, for a part of a video."""

    values: NDArray[np.floating]
    frames: NDArray[np.int64]
    seconds: NDArray[np.float64]
    damaged: NDArray[np.bool_]


def write_image(
    file: h5py.File,
    blocks: Iterator[ClipBlock],
    *,
    identifier: str,
    shape: tuple[int, int, int],
    dtype: str,
    attributes: Mapping[str, Any],
) -> None:
    """Fill an empty HDF5 file with one video's clips.

    ``shape`` is that of ``features (clip, crop, feature)``; ``attributes`` come from `image_attributes`.
    """
    num_clips = shape[0]
    layouts: dict[str, tuple[tuple[int, ...], Any]] = {
        "features": (shape, np.dtype(dtype)),
        "frames": ((num_clips, 2), np.dtype(np.int64)),
        "seconds": ((num_clips, 2), np.dtype(np.float64)),
        "damaged": ((num_clips,), np.dtype(np.bool_)),
    }
    datasets = {}
    for name, (dataset_shape, dataset_dtype) in layouts.items():
        row_bytes = max(1, int(np.prod(dataset_shape[1:], dtype=np.int64)) * dataset_dtype.itemsize)
        rows = max(1, min(num_clips, _CHUNK_BYTES // row_bytes))
        dataset = file.create_dataset(
            name,
            shape=dataset_shape,
            dtype=dataset_dtype,
            chunks=(rows, *dataset_shape[1:]),
            fletcher32=True,
            track_times=False,
        )
        for axis, label in enumerate(_DATASETS[name]):
            dataset.dims[axis].label = label
        datasets[name] = dataset
    row = 0
    for block in blocks:
        stop = row + len(block.damaged)
        datasets["features"][row:stop] = block.values
        datasets["frames"][row:stop] = block.frames
        datasets["seconds"][row:stop] = block.seconds
        datasets["damaged"][row:stop] = block.damaged
        row = stop
    if row != num_clips:
        msg = f"{identifier}: {row} clips were given for a shard of {num_clips}"
        raise ValueError(msg)
    file.attrs["id"] = identifier
    for name, value in attributes.items():
        file.attrs[name] = value


def image_attributes(
    facts: VideoFacts, num_padded_frames: int, provenance: Mapping[str, str | int], recipe_digest: str
) -> dict[str, Any]:
    """Give the attributes of a shard's image: what decoding showed, and what computed the values.

    Nothing here may differ between two runs on one machine: no time, host, worker or absolute path.
    """
    known = {name: value for name, value in asdict(facts).items() if value is not None}
    return {
        **known,
        "num_padded_frames": num_padded_frames,
        "provenance": json.dumps(dict(provenance), sort_keys=True),
        "recipe_digest": recipe_digest,
    }


def build_shard(identifier: str, key: str, features: ClipFeatures, recipe_digest: str, source_sha256: str) -> bytes:
    """Build a whole shard in memory.

    ``features.values`` is stored in its own dtype, float32 or float16.
    """
    block = ClipBlock(features.values, features.frames, features.seconds, features.damaged)
    attributes = image_attributes(features.facts, features.num_padded_frames, features.provenance, recipe_digest)
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110"), userblock_size=HEADER_BYTES) as file:
        write_image(
            file,
            iter([block]),
            identifier=identifier,
            shape=features.values.shape,
            dtype=features.values.dtype.name,
            attributes=attributes,
        )
    return sealed(image, key, recipe_digest, source_sha256)


def sealed(image: io.BytesIO, key: str, recipe_digest: str, source_sha256: str) -> bytes:
    """Give a shard of an HDF5 image that left `HEADER_BYTES` free at its start: the header goes there."""
    view = image.getbuffer()
    body = view[HEADER_BYTES:]
    header = make_header(len(body), hashlib.sha256(body).hexdigest(), key, recipe_digest, source_sha256)
    view[:HEADER_BYTES] = header.to_bytes()
    body.release()
    view.release()
    return image.getvalue()


def make_header(body_bytes: int, body_sha256: str, key: str, recipe_digest: str, source_sha256: str) -> ShardHeader:
    """Make a header, refusing digests that are not sha256 in hex with `StoreError`."""
    for digest in (body_sha256, recipe_digest, source_sha256):
        if not _HEX64.fullmatch(digest):
            msg = f"expected a sha256 in hex, got {digest!r}"
            raise StoreError(msg)
    return ShardHeader(body_bytes, body_sha256, key, recipe_digest, source_sha256)
