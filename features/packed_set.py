"""A feature set in one plain HDF5 file, as `pack` writes it: read like the folder of shards that it was made of.

h5py reads it with no vadx at all::

    import json

    import h5py

    with h5py.File("i3d.h5", "r", locking=False) as file:
        ids = file["%videos/id"].asstr()[:].tolist()
        features = file["Abuse/Abuse001_x264/features"][:]  # (clip, crop, feature)
        frames = file["Abuse/Abuse001_x264/frames"][:]  # (clip, 2): half-open source frames
        fps = file["Abuse/Abuse001_x264"].attrs["fps"]
        codec = file["Abuse/Abuse001_x264"].attrs["codec"].decode()
        recipe = json.loads(file.attrs["recipe"])

A video's group lies under its id, part by part, and holds what its shard holds. Some ids cannot be names of groups as
they are: a part of an id gets a ``%`` before it if it begins with one, if it is empty, ``.`` or ``..``, or if it is not
the first and is called like one of a video's data sets. So ``a`` and ``a/features`` can stand in one file, and
what begins with a single ``%`` at the top, ``%videos`` and ``%failures``, is never a video.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import h5py
import numpy as np

from ..errors import CODES, RecipeError, ShardError, StoreError
from .guarded_file import HDF5_ERRORS
from .index import Hint, Index, Listing, ShardSummary, summary_of
from .keys import key_of
from .process_file import ProcessFile
from .recipe import Recipe
from .shard import ShardContent, ShardHeader, checked_dataset, image_attributes
from .shard_set import FailureRecord
from .store import FeatureSet
from .timeline import ClipFeatures, VideoFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .publish import Published

PACKED_VERSION = 1
VIDEOS = "%videos"
"""The group of the table of videos: a data set for each field of `ShardSummary`."""

FAILURES = "%failures"
"""The data set of failures, each a `FailureRecord` as JSON."""

_DATASETS: Mapping[str, tuple[str, int]] = {
    "features": ("f", 3),
    "frames": ("i", 2),
    "seconds": ("f", 2),
    "damaged": ("b", 1),
}
_HEADER_ATTRIBUTES: Mapping[str, str] = {
    "shard_bytes": "body_bytes",
    "shard_sha256": "body_sha256",
    "recipe_digest": "recipe_digest",
    "source_sha256": "source_sha256",
}
"""Attribute of a video's group -> field of the `ShardHeader` that its shard had."""

_CONTENT = "content_sha256"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
COLUMNS: Mapping[str, np.dtype[Any]] = {
    f.name: Index().listing.rows.dtype[f.name] for f in fields(ShardSummary) if f.name != "id"
}
"""Column of the table of videos, beside ``id`` -> its type."""


def group_parts(identifier: str) -> list[str]:
    """Give the names of the nested groups that hold a video, from the top. No two ids have the same."""
    return [_group_name(part, at) for at, part in enumerate(identifier.split("/"))]


def _group_name(part: str, depth: int) -> str:
    # HDF5 passes over empty parts and "." in a path.
    reserved = part.startswith("%") or part in ("", ".", "..") or (depth > 0 and part in _DATASETS)
    return f"%{part}" if reserved else part


def video_attributes(content: ShardContent) -> dict[str, Any]:
    """Give the attributes of a video's group beside its id: those of its shard's image, and its shard's header."""
    features, header = content.features, content.header
    image = image_attributes(features.facts, features.num_padded_frames, features.provenance, header.recipe_digest)
    attributes = {**image, **{name: getattr(header, field) for name, field in _HEADER_ATTRIBUTES.items()}}
    return {**attributes, _CONTENT: _content_sha256(content.id, attributes, features)}


def _content_sha256(identifier: str, attributes: Mapping[str, Any], features: ClipFeatures) -> str:
    """Digest everything that is kept of a video. HDF5's own checksums miss chunks of zeros and texts."""
    covered = {name: value for name, value in attributes.items() if name not in ("id", _CONTENT)}
    digest = hashlib.sha256(json.dumps([identifier, covered], sort_keys=True).encode())
    for array in (features.values, features.frames, features.seconds, features.damaged):
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def failure_text(record: FailureRecord) -> str:
    """Give a failure as it stands in the file."""
    return json.dumps(asdict(record), sort_keys=True)


def fixed_text(value: Any) -> Any:
    """Give a text as HDF5 stores it in place, and a number as it is.

    Other texts lie in a heap that no checksum covers, and HDF5 2.0 reads a heap of zeros for ever.
    """
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def means_packed(path: Path) -> bool:
    """Whether a path is that of a packed file: a file named as HDF5 files are, or that begins like one.

    Another file that happens to be called like a set does not hide it.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return path.suffix in (".h5", ".hdf5") or file.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


class PackedSet(FeatureSet):
    """A feature set that lies in one file. Maps a video's id to its `ClipFeatures`, and cannot be written.

    ``name`` is that of the set it was packed from; ``path`` is the file, also as the place of each shard. May be
    pickled and used after a fork: each process opens the file for itself when it first reads.

    Raises
    ------
    StoreError
        if it is not a packed feature set, a newer vadx wrote it, or it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = ProcessFile(self.path)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            with self._opened() as file:
                self._read_attributes(file)
                self._listing = self._read_listing(file)
                self._failures = self._read_failures(file)
            on_error.pop_all()

    def _read_attributes(self, file: h5py.File) -> None:
        if "vadx_packed" not in file.attrs:
            msg = (
                f"{self.path}: not a packed feature set (it has no attribute vadx_packed); name one that was made by: "
                "vadx pack SET"
            )
            raise StoreError(msg)
        attributes = self._attributes(file)
        version = attributes["vadx_packed"]
        if version > PACKED_VERSION:
            msg = f"{self.path}: a newer vadx packed it (format {version}); update vadx"
            raise StoreError(msg)
        self._name: str = attributes["name"]
        self.digest: str = attributes["digest"]
        self.content_sha256: str = attributes["content_sha256"]
        self.preset = attributes.get("preset")
        self.weights_name = attributes.get("weights_name")
        try:
            self.recipe = Recipe.from_mapping(json.loads(attributes["recipe"]))
        except RecipeError as error:
            msg = f"{self.path}: its recipe is none that this vadx can read ({error}); update vadx"
            raise StoreError(msg) from error
        if self.recipe.digest != self.digest:
            raise ShardError(str(self.path), "structure", "its recipe and its digest disagree")

    def _read_listing(self, file: h5py.File) -> Listing:
        table = self._group(file, [VIDEOS])
        ids = checked_dataset(self.path, table, "id", kind="S", num_axes=1).asstr()[()].tolist()
        rows = np.zeros(len(ids), Index().listing.rows.dtype)
        for name, dtype in COLUMNS.items():
            column = checked_dataset(self.path, table, name, kind=dtype.kind, num_axes=1)[()]
            if column.shape != rows.shape:
                raise ShardError(str(self.path), "structure", f"{len(column)} of {name} for {len(ids)} videos")
            rows[name] = column
        if any(first >= second for first, second in pairwise(ids)):
            raise ShardError(str(self.path), "structure", "its ids are not in order")
        return Listing(ids, rows)

    def _read_failures(self, file: h5py.File) -> dict[str, FailureRecord]:
        texts = checked_dataset(self.path, file, FAILURES, kind="S", num_axes=1).asstr()[()].tolist()
        records = [FailureRecord(**json.loads(text)) for text in texts]
        if any(record.code not in CODES for record in records):
            raise ShardError(str(self.path), "structure", "a failure has an unknown code")
        return {record.id: record for record in records}

    def __reduce__(self) -> tuple[type[PackedSet], tuple[Path]]:
        return PackedSet, (self.path,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which the next read opens again."""
        self._file.close()

    @property
    def name(self) -> str:
        """The name of the set that was packed."""
        return self._name

    def __getitem__(self, identifier: str) -> ClipFeatures:
        """Read one video's features.

        Raises
        ------
        KeyError
            naming similar ids, if there is none.
        ShardError
            if the file is damaged there.
        """
        return self.content(identifier, check=True).features

    def content(self, identifier: str, *, check: bool = False) -> ShardContent:
        """Read one video with the digests that it was stored under; ``check`` compares all with their sha256.

        Raises as ``self[identifier]``.
        """
        if identifier not in self:
            raise self.missing(identifier)
        with self._opened(identifier) as file:
            group = self._group(file, group_parts(identifier))
            header, attributes = self._header(group, identifier)
            arrays = {
                name: checked_dataset(self.path, group, name, kind=kind, num_axes=num_axes)[()]
                for name, (kind, num_axes) in _DATASETS.items()
            }
            features = ClipFeatures(
                values=arrays["features"],
                frames=arrays["frames"],
                seconds=arrays["seconds"],
                damaged=arrays["damaged"],
                facts=VideoFacts(**{f.name: attributes[f.name] for f in fields(VideoFacts) if f.name in attributes}),
                num_padded_frames=attributes["num_padded_frames"],
                provenance=json.loads(attributes["provenance"]),
            )
            if check and _content_sha256(identifier, attributes, features) != attributes[_CONTENT]:
                raise ShardError(str(self.path), "body", "what it holds is not what was packed")
            found = summary_of(ShardContent(identifier, features, header).outline)
            if check and not found.is_same(self._listing[identifier]):
                raise ShardError(str(self.path), "body", f"{VIDEOS} does not say what it holds")
        return ShardContent(identifier, features, header)

    def _header(self, group: h5py.Group, identifier: str) -> tuple[ShardHeader, dict[str, Any]]:
        attributes = self._attributes(group)
        values = {field: attributes[name] for name, field in _HEADER_ATTRIBUTES.items()}
        header = ShardHeader(key=key_of(identifier), **values)
        if attributes["id"] != identifier or header.recipe_digest != self.digest:
            raise ShardError(str(self.path), "stranger", f"it holds video {attributes['id']!r}, or another recipe's")
        return header, attributes

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and identifier in self._listing

    def index(self) -> Index:
        return Index(listing=self._listing)

    def header(self, identifier: str) -> ShardHeader | ShardError | None:
        """Give the header that a video's shard had, the damage instead of one, or nothing."""
        if identifier not in self:
            return None
        try:
            with self._opened(identifier) as file:
                return self._header(self._group(file, group_parts(identifier)), identifier)[0]
        except ShardError as error:
            return error

    def all_ids(self) -> list[str]:
        """Give the id of every video, in order."""
        return self._listing.ids

    def _read_frames_from(self, identifier: str) -> str:
        with self._opened(identifier) as file:
            attributes = self._header(self._group(file, group_parts(identifier)), identifier)[1]
        return str(attributes.get("frames_from") or "rows")

    def failure(self, identifier: str) -> FailureRecord | None:
        return self._failures.get(identifier)

    def failures(self) -> list[FailureRecord]:
        return list(self._failures.values())

    def shard_path(self, identifier: str) -> Path:
        """Give the file that holds a video: always this one."""
        return self.path

    def shard_paths(self) -> Iterator[Path]:
        """Give the one file."""
        yield self.path

    def verify(self, *, full: bool = True) -> Iterator[tuple[Path, ShardError | None]]:
        """Check every video: yields the file's path, and what is wrong with the video or None.

        The full check reads every value and compares sha256; the quick one finds each video's place.
        """
        for identifier in self._listing.ids:
            found = self.header(identifier)
            if full and not isinstance(found, ShardError):
                try:
                    self.content(identifier, check=True)
                except ShardError as error:
                    found = error
            yield self.path, found if isinstance(found, ShardError) else None

    def publish(self, identifier: str, shard: bytes | Path, *, replace: bool) -> Published:
        self._refuse()

    def record_failure(self, record: FailureRecord) -> None:
        self._refuse()

    def save_index(self, sources: Mapping[str, Hint]) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        msg = f"{self.path}: a packed set is never changed; make a folder of it with: vadx pack --unpack {self.path}"
        raise StoreError(msg)

    def _group(self, file: h5py.File, parts: list[str]) -> h5py.Group:
        node = file
        for part in parts:
            # A link is looked at before it is followed: it may lead to another file.
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise ShardError(str(self.path), "structure", f"{part} is missing or a link to somewhere else")
            node = node[part]
            if not isinstance(node, h5py.Group):
                raise ShardError(str(self.path), "structure", f"{part} is not a group")
        return node

    def _attributes(self, node: h5py.Group) -> dict[str, Any]:
        found = {}
        for name in node.attrs:
            attribute = node.attrs.get_id(name)
            if attribute.dtype.kind not in "Sifb" or attribute.shape != ():
                raise ShardError(
                    str(self.path), "structure", f"its attribute {name} is no number or text of a fixed length"
                )
            value = node.attrs[name].item()
            found[name] = value.decode() if isinstance(value, bytes) else value
        return found

    @contextmanager
    def _opened(self, identifier: str | None = None) -> Iterator[h5py.File]:
        """Give this process's own handle. What HDF5 raises becomes `ShardError` of a video, or `StoreError`."""
        cure = f"copy the file again, or pack its set again: vadx pack SET --to {self.path}"
        try:
            if not self._file.is_open and not self.path.is_file():
                msg = f"{self.path}: there is no such file; check the path"
                raise StoreError(msg)
            yield self._file.get()
        except ShardError as error:
            if identifier is not None:
                evidence = f"{identifier}: {error.evidence}; {cure}"
                raise ShardError(error.path, error.damage, evidence, cure="") from error
            msg = f"{self.path}: not a packed feature set that vadx can read: {error.evidence}; {cure}"
            raise StoreError(msg) from error
        except StoreError:
            raise
        except HDF5_ERRORS as error:
            if identifier is not None:
                evidence = f"{identifier}: its part of the file cannot be read; {cure}"
                raise ShardError(str(self.path), "structure", evidence, cure="") from error
            msg = f"{self.path}: not a packed feature set, or a damaged one; {cure}"
            raise StoreError(msg) from error


def table_columns(summaries: list[ShardSummary]) -> dict[str, NDArray[Any]]:
    """Give the table of videos, beside their ids."""
    rows = [astuple(summary)[1:] for summary in summaries]
    return {name: np.array([row[at] for row in rows], dtype) for at, (name, dtype) in enumerate(COLUMNS.items())}
