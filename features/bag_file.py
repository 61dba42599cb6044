"""Bags at rest: many videos' segments in one plain HDF5 file, one chunk a bag, for training.

numpy and h5py read it with no vadx at all::

    import h5py
    import numpy as np

    with h5py.File("bags.h5", "r", locking=False) as file:
        ids = file["ids"].asstr()[:].tolist()
        classes = file["classes"].asstr()[:].tolist()
        labels = file["labels"][:]  # (bag,): 1 anomalous, 0 normal, -1 unknown
        frames = file["frames"][:]  # (bag, segment, 2): half-open source frames
        num_frames = file["num_frames"][:]  # (bag,): decoded frames of the video
        one = file["features"][ids.index(ids[0])]  # (segment, crop, feature)
        batch = np.stack([file["features"][at] for at in (0, len(ids) - 1)])
        features = file["features"][:]  # (bag, segment, crop, feature)
        rule = file.attrs["rule"].decode()
        recipe_digest = file.attrs["recipe_digest"].decode()
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..errors import ShardError, StoreError, UsageError
from .guarded_file import HDF5_ERRORS
from .process_file import ProcessFile
from .publish import Published, make_directory, publish_bytes, publish_file
from .shard import MEMORY_IMAGE_BYTES, checked_attributes, checked_dataset
from .spool import RawSpool
from .timeline import check_finite

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

BAGS_VERSION = 1
LABELS: Mapping[int, str] = {-1: "unknown", 0: "normal", 1: "anomalous"}
"""What a bag's label can be."""

_AXES: Mapping[str, tuple[str, ...]] = {
    "features": ("bag", "segment", "crop", "feature"),
    "frames": ("bag", "segment", "bound"),
    "ids": ("bag",),
    "labels": ("bag",),
    "classes": ("bag",),
    "num_frames": ("bag",),
    "sha256": ("bag",),
}
_KINDS = {"features": "f", "frames": "i", "ids": "S", "labels": "i", "classes": "S", "num_frames": "i", "sha256": "S"}
_TABLES = frozenset(_AXES) - {"features"}
_ADDED_LATER = frozenset({"sha256"})
"""Data sets that older files of this version do not have."""
_TABLES_SHA256 = "tables_sha256"
_HEX64 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "make the file again from its feature set"


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """A video's segments with its label.

    Shapes: ``features (segment, crop, feature)`` float32; ``frames (segment, 2)`` int64, half-open spans of source
    frames, empty where a video is shorter than its segments. ``num_frames`` counts the video's decoded frames.
    ``label`` is one of `LABELS`: 1 anomalous, 0 normal, -1 unknown; ``class_name`` is the kind of anomaly, "" if
    there is none or it is unknown.

    Raises
    ------
    ValueError
        if types or shapes disagree, a span does not lie in the video, or a text cannot be stored.
    FeatureError
        with code ``FEATURE_NONFINITE`` if a value is NaN or infinite.
    """

    id: str
    features: NDArray[np.float32]
    frames: NDArray[np.int64]
    num_frames: int
    label: int = -1
    class_name: str = ""

    def __post_init__(self) -> None:
        expected = (*self.features.shape[:1], 2)
        if self.features.ndim != 3 or 0 in self.features.shape or self.frames.shape != expected:
            msg = (
                f"{self.id}: expected features (segment, crop, feature) and frames (segment, 2); "
                f"got {self.features.shape} and {self.frames.shape}"
            )
            raise ValueError(msg)
        if self.features.dtype != np.float32 or self.frames.dtype != np.int64:
            msg = f"{self.id}: expected float32 and int64, got {self.features.dtype} and {self.frames.dtype}"
            raise ValueError(msg)
        starts, stops = self.frames[:, 0], self.frames[:, 1]
        if (starts < 0).any() or (starts > stops).any() or (stops > self.num_frames).any():
            msg = f"{self.id}: spans [start, stop) of frames must lie in the video's {self.num_frames} frames"
            raise ValueError(msg)
        if self.label not in LABELS:
            msg = f"{self.id}: a label is one of {', '.join(f'{n} ({what})' for n, what in LABELS.items())}"
            raise ValueError(msg)
        for text in (self.id, self.class_name):
            if "\0" in text or (text == self.id and not text):
                msg = f"{text!r} cannot stand in a bags file: it is empty or holds a NUL"
                raise ValueError(msg)
            text.encode()
        check_finite(self.features)


@dataclass(slots=True)
class _Table:
    """What a bags file holds of each bag beside its features."""

    shape: tuple[int, ...] | None = None
    ids: dict[str, None] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("frames", "labels", "classes", "num_frames", "sha256")}
    )

    def add(self, bag: Bag) -> None:
        if self.shape is None:
            self.shape = bag.features.shape
        if bag.features.shape != self.shape:
            msg = (
                f"all bags of a file have one shape (segment, crop, feature): {bag.id!r} has {bag.features.shape}, "
                f"those before it {self.shape}; cut all videos into equally many segments, or write two files"
            )
            raise UsageError(msg)
        if bag.id in self.ids:
            msg = f"two bags have the id {bag.id!r}; leave one of them out"
            raise UsageError(msg)
        self.ids[bag.id] = None
        values = {
            "frames": bag.frames,
            "labels": bag.label,
            "classes": bag.class_name.encode(),
            "num_frames": bag.num_frames,
            "sha256": _features_sha256(bag.features),
        }
        for name, value in values.items():
            self.columns[name].append(value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "frames": np.array(self.columns["frames"], np.int64),
            "ids": np.array([identifier.encode() for identifier in self.ids]),
            "labels": np.array(self.columns["labels"], np.int8),
            # A type of no bytes cannot be stored.
            "classes": np.array(self.columns["classes"], f"S{max(1, *map(len, self.columns['classes']))}"),
            "num_frames": np.array(self.columns["num_frames"], np.int64),
            "sha256": np.array(self.columns["sha256"], "S64"),
        }


def _features_sha256(features: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest().encode()


def _tables_sha256(tables: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> str:
    """Digest all but the features. HDF5's own checksums miss chunks of zeros, which make every label normal."""
    covered = [attributes[name] for name in ("rule", "recipe_digest", "provenance")]
    digest = hashlib.sha256(json.dumps(covered).encode())
    for name in sorted(tables):
        array = tables[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_bags(
    path: Path,
    bags: Iterable[Bag],
    *,
    rule: str,
    recipe_digest: str,
    provenance: Mapping[str, str | int] | None = None,
    replace: bool = True,
    memory_bytes: int = MEMORY_IMAGE_BYTES,
) -> Published:
    """Write one bags file, which appears whole or not at all.

    ``rule`` says how clips became segments; ``recipe_digest`` is the feature set's; ``provenance`` says what made the
    bags. Without ``replace`` a file that stands there already stays. Bags are taken one at a time; above
    ``memory_bytes`` of features they go through a temporary file beside ``path``.

    Raises
    ------
    UsageError
        if there is no bag, if their shapes differ, if two have one id, or if the digest is none.
    StoreWriteError
        if the disk refused.
    """
    if not rule or not _HEX64.fullmatch(recipe_digest):
        msg = (
            f"{path}: expected a rule and a recipe's digest, got {rule!r} and {recipe_digest!r}; give FeatureSet.digest"
        )
        raise UsageError(msg)
    table = _Table()
    make_directory(path.parent)
    with RawSpool(path.parent, path.name, "float32", memory_bytes=memory_bytes) as spool:
        for bag in bags:
            table.add(bag)
            spool.put(bag.features[np.newaxis])
        if table.shape is None:
            msg = f"{path}: there is no bag to write; list the feature set's videos with: vadx ls SET"
            raise UsageError(msg)
        arrays = table.arrays()
        attributes: dict[str, str | int] = {
            "vadx_bags": BAGS_VERSION,
            "rule": rule,
            "recipe_digest": recipe_digest,
            "provenance": json.dumps(dict(provenance or {}), sort_keys=True),
        }
        attributes[_TABLES_SHA256] = _tables_sha256(arrays, attributes)
        if spool.is_on_disk:
            order = {"kind": "bags", "shape": (len(table.ids), *table.shape), "attributes": attributes}
            return publish_file(spool.build_image(order, arrays), path, replace=replace)
        image = io.BytesIO()
        with h5py.File(image, "w", libver=("v110", "v110")) as file:
            fill_bags(file, spool.blocks, arrays, attributes)
        return publish_bytes(image.getbuffer(), path, path.parent, replace=replace)


def fill_bags(
    file: h5py.File,
    features: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    tables: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, str | int],
) -> None:
    """Fill an empty HDF5 file with bags, given as blocks ``(1, segment, crop, feature)`` or as one array of all.

    ``tables`` are the data sets beside ``features``.
    """
    num_bags, bag_shape = len(features), tuple(features[0].shape[-3:])
    dataset = file.create_dataset(
        "features",
        shape=(num_bags, *bag_shape),
        dtype=np.float32,
        chunks=(1, *bag_shape),
        fletcher32=True,
        track_times=False,
    )
    for at in range(num_bags):
        dataset[at] = features[at].reshape(bag_shape)
    for name, values in tables.items():
        # Texts of a fixed length, because no checksum covers the others.
        dtype = h5py.string_dtype("utf-8", values.dtype.itemsize) if values.dtype.kind == "S" else values.dtype
        file.create_dataset(
            name,
            data=values.astype(dtype),
            chunks=values.shape,
            fletcher32=True,
            track_times=False,
        )
    for name in ("features", *tables):
        for axis, label in enumerate(_AXES[name]):
            file[name].dims[axis].label = label
    for name, value in attributes.items():
        file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value


class BagFile:
    """Reads a bags file. ``len``, ``file[3]`` and iteration go by bag, in the order of ``ids``.

    ``labels (bag,)`` int8, ``classes`` and ``num_frames (bag,)`` int64 are as in `Bag`; ``shape`` is that of
    every bag, ``(segment, crop, feature)``; ``rule``, ``recipe_digest`` and ``provenance`` are what it was written
    with. May be pickled and used after a fork: each process opens the file for itself when it first reads.

    Raises
    ------
    StoreError
        if it is not a bags file, a newer vadx wrote it, or it is damaged, also later where that shows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = ProcessFile(self.path)
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._read_tables()
            on_error.pop_all()

    def _read_tables(self) -> None:
        with self._opened() as file:
            attributes = checked_attributes(self.path, file, allow_heap=False)
            version = attributes.get("vadx_bags")
            if version is None:
                msg = f"{self.path}: not a bags file of vadx (it has no attribute vadx_bags); check the path"
                raise StoreError(msg)
            if version > BAGS_VERSION:
                msg = f"{self.path}: a newer vadx wrote it (bags format {version}); update vadx"
                raise StoreError(msg)
            missing = [name for name in ("rule", "recipe_digest", "provenance") if name not in attributes]
            if missing:
                raise ShardError(str(self.path), "structure", f"it lacks {', '.join(missing)}")
            datasets = {
                name: checked_dataset(self.path, file, name, kind=_KINDS[name], num_axes=len(axes))
                for name, axes in _AXES.items()
                if name in file or name not in _ADDED_LATER
            }
            self.shape: tuple[int, int, int] = datasets["features"].shape[1:]
            counts = {name: dataset.shape[0] for name, dataset in datasets.items()}
            if len(set(counts.values())) != 1 or datasets["frames"].shape[1:] != (self.shape[0], 2):
                raise ShardError(str(self.path), "structure", f"its data sets disagree: {counts}")
            tables = {name: dataset[()] for name, dataset in datasets.items() if name in _TABLES}
            texts = {name: attributes[name].decode() for name in ("rule", "recipe_digest", "provenance")}
            expected = attributes.get(_TABLES_SHA256, b"").decode()
            if ("sha256" in tables or expected) and expected != _tables_sha256(tables, texts):
                raise ShardError(str(self.path), "body", "its tables are not those that were written")
            self.ids: tuple[str, ...] = tuple(text.decode() for text in tables["ids"].tolist())
            self.labels: NDArray[np.int8] = tables["labels"]
            self.classes: tuple[str, ...] = tuple(text.decode() for text in tables["classes"].tolist())
            self.num_frames: NDArray[np.int64] = tables["num_frames"]
            self.frames: NDArray[np.int64] = tables["frames"]
            """Source frames of every segment, half-open, ``(bag, segment, 2)``."""
            self.rule: str = texts["rule"]
            self.recipe_digest: str = texts["recipe_digest"]
            self.provenance: dict[str, str | int] = json.loads(texts["provenance"])
            self._sha256: NDArray[np.bytes_] | None = tables.get("sha256")

    def __repr__(self) -> str:
        return f"BagFile({str(self.path)!r})"

    def __reduce__(self) -> tuple[type[BagFile], tuple[Path]]:
        return BagFile, (self.path,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which the next read opens again."""
        self._file.close()

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Bag]:
        return (self[at] for at in range(len(self)))

    def __getitem__(self, at: int) -> Bag:
        """Read one bag. Raises `IndexError` and `StoreError`."""
        number = range(len(self))[at]
        features = self.read([number])[0]
        with self._opened():
            return Bag(
                id=self.ids[number],
                features=features,
                frames=self.frames[number],
                num_frames=int(self.num_frames[number]),
                label=int(self.labels[number]),
                class_name=self.classes[number],
            )

    def read(self, numbers: Iterable[int]) -> NDArray[np.float32]:
        """Read the features of some bags, in the order given: ``(bag, segment, crop, feature)``.

        Raises
        ------
        IndexError
            if there is no such bag.
        StoreError
            if the file is damaged.
        """
        wanted = [range(len(self))[number] for number in numbers]
        values = np.empty((len(wanted), *self.shape), np.float32)
        with self._opened() as file:
            dataset = file["features"]
            for row, number in enumerate(wanted):
                values[row] = dataset[number]
                # The one kind of damage that the chunk's own checksum misses; all of them would take as long again.
                if self._sha256 is not None and not values[row].any():
                    self._check(number, values[row])
        return values

    def verify(self) -> Iterator[tuple[str, StoreError | None]]:
        """Check every bag: yields its id and what is wrong with it, None if nothing is. Older files lack digests."""
        for number, identifier in enumerate(self.ids):
            try:
                values = self.read([number])[0]
                with self._opened():
                    self._check(number, values)
            except StoreError as error:
                yield identifier, error
            else:
                yield identifier, None

    def _check(self, number: int, values: NDArray[np.float32]) -> None:
        if self._sha256 is not None and _features_sha256(values) != self._sha256[number]:
            raise ShardError(str(self.path), "body", f"{self.ids[number]} is not what was written")

    def batches(self, batch_size: int, *, order: Sequence[int] | None = None) -> Iterator[NDArray[np.float32]]:
        """Read all bags, or those of ``order`` in that order, ``batch_size`` at a time; the last may be smaller.

        Raises as `read`, and `ValueError` for a batch of nothing.
        """
        if batch_size < 1:
            msg = f"a batch holds at least one bag, got {batch_size}"
            raise ValueError(msg)
        numbers = range(len(self)) if order is None else order
        return (self.read(numbers[start : start + batch_size]) for start in range(0, len(numbers), batch_size))

    def read_all(self) -> NDArray[np.float32]:
        """Read the features of all bags: ``(bag, segment, crop, feature)``. Raises as `read`."""
        return self.read(range(len(self)))

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        """Give this process's own handle, and turn whatever HDF5 raises into `StoreError`."""
        try:
            if not self._file.is_open and not self.path.is_file():
                # HDF5 would wait for ever for somebody to write into a FIFO.
                msg = f"{self.path}: there is no such bags file; check the path"
                raise StoreError(msg)
            yield self._file.get()
        except ShardError as error:
            msg = f"{self.path}: not a bags file that vadx can read: {error.evidence}; {_AGAIN}"
            raise StoreError(msg) from error
        except StoreError:
            raise
        except HDF5_ERRORS as error:
            msg = f"{self.path}: not a bags file, or a damaged one; {_AGAIN}"
            raise StoreError(msg) from error
