"""Values on their way into an HDF5 image: in memory while they are few, in a file of raw blocks when they are many."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import h5py
import numpy as np

from ..errors import StoreWriteError
from .publish import preallocate, temporary_name, write_error
from .shard import HEADER_BYTES, MEMORY_IMAGE_BYTES, ClipBlock, build_shard, image_attributes, make_header, write_image
from .timeline import ClipFeatures, check_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from .timeline import ClipTable

_BLOCK_CLIPS = 256
_CHILD_FAILED = 74
# Chunk index, object headers and the last partly filled chunks, beside the data themselves.
_IMAGE_OVERHEAD = 1.02
_IMAGE_OVERHEAD_BYTES = 4 << 20


class RawSpool:
    """Takes blocks of equal rows, in order, for an HDF5 image that is made when all are there.

    Holds at most ``memory_bytes`` of values; more go to a file in ``tmp``. Use as a context manager: what it left in
    ``tmp`` is gone afterwards.
    """

    def __init__(self, tmp: Path, name: str, dtype: str, *, memory_bytes: int = MEMORY_IMAGE_BYTES) -> None:
        self._tmp, self._name, self._dtype = tmp, name, np.dtype(dtype)
        self._memory_bytes = memory_bytes
        self._num_bytes = 0
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._image: Path | None = None
        self.blocks: list[NDArray[Any]] = []
        """What is held in memory: everything, unless `is_on_disk`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            # On a full disk, closing fails once more: what could not be written is still in the buffer.
            with suppress(OSError):
                self._file.close()
        for path in (self._path, self._image):
            if path is not None:
                with suppress(OSError):
                    path.unlink()

    @property
    def is_on_disk(self) -> bool:
        return self._file is not None

    def put(self, block: NDArray[Any]) -> None:
        """Take the next rows. Raises `StoreWriteError` if the disk refused."""
        self._num_bytes += block.nbytes
        self.blocks.append(block)
        if self._file is not None or self._num_bytes > self._memory_bytes:
            self._spill()

    def build_image(self, order: Mapping[str, Any], tables: Mapping[str, NDArray[Any]]) -> Path:
        """Have a process of its own write the image of a spool that is on disk; gives the file, in ``tmp``.

        ``order`` names the ``kind`` of image, one of `_FILLERS`, the ``shape`` of all values and what else the filler
        needs; ``tables`` are the image's small arrays.

        Raises
        ------
        StoreWriteError
            if the disk refused.
        """
        self._image = temporary_name(self._tmp, self._name)
        stored = temporary_name(self._tmp, f"{self._name}.tables")
        needed = int(self._num_bytes * _IMAGE_OVERHEAD) + _IMAGE_OVERHEAD_BYTES
        needed += sum(table.nbytes for table in tables.values())
        paths = {"values": str(self._path), "tables": str(stored), "image": str(self._image)}
        try:
            if self._file is not None:
                self._file.close()
            with stored.open("xb") as file:
                np.savez(file, **tables)  # type: ignore[arg-type]  # numpy's stub takes any keyword for `allow_pickle`
            _run_child({**order, **paths, "dtype": self._dtype.name, "bytes": needed}, self._image, needed)
        except StoreWriteError:
            raise
        except OSError as error:
            raise write_error(error, self._image, needed) from error
        finally:
            with suppress(OSError):
                stored.unlink()
        return self._image

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._path = temporary_name(self._tmp, f"{self._name}.values")
                self._file = self._path.open("xb")
            for block in self.blocks:
                self._file.write(np.ascontiguousarray(block).data)
            self.blocks = []
        except OSError as error:
            raise write_error(error, self._path or self._tmp, self._num_bytes) from error


class ClipSpool(RawSpool):
    """Takes blocks ``(clip, crop, feature)`` in order, and makes a shard of them."""

    def __init__(self, tmp: Path, key: str, dtype: str, *, memory_bytes: int = MEMORY_IMAGE_BYTES) -> None:
        super().__init__(tmp, key, dtype, memory_bytes=memory_bytes)
        self._key = key
        self._shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def num_clips(self) -> int:
        """Clips taken so far."""
        return self._shape[0]

    def append(self, values: NDArray[np.floating]) -> NDArray[Any]:
        """Take the next clips; gives them as they will be stored.

        Raises
        ------
        FeatureError
            if a value is not finite in the stored type.
        StoreWriteError
            if the disk refused.
        """
        # float16 ends at 65504.
        with np.errstate(over="ignore"):
            block = values.astype(self._dtype, copy=False)
        check_finite(block)
        self._shape = (self._shape[0] + block.shape[0], block.shape[1], block.shape[2])
        self.put(block)
        return block

    def finish(
        self,
        identifier: str,
        table: ClipTable,
        provenance: Mapping[str, str | int],
        recipe_digest: str,
        source_sha256: str,
    ) -> bytes | Path:
        """Give the whole shard: its bytes, or a file in ``tmp`` that is ready to be published.

        Raises
        ------
        StoreWriteError
            if the disk refused.
        """
        if not self.is_on_disk:
            features = ClipFeatures(
                np.concatenate(self.blocks),
                table.frames,
                table.seconds,
                table.damaged,
                table.facts,
                table.num_padded_frames,
                dict(provenance),
            )
            return build_shard(identifier, self._key, features, recipe_digest, source_sha256)
        order = {
            "kind": "shard",
            "id": identifier,
            "shape": self._shape,
            "attributes": image_attributes(table.facts, table.num_padded_frames, provenance, recipe_digest),
        }
        tables = {"frames": table.frames, "seconds": table.seconds, "damaged": table.damaged}
        image = self.build_image(order, tables)
        try:
            return _certify(image, self._key, recipe_digest, source_sha256)
        except OSError as error:
            raise write_error(error, image, self._num_bytes) from error


def _run_child(order: Mapping[str, Any], image: Path, num_bytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name], input=json.dumps(order).encode(), capture_output=True, check=False
    )
    if done.returncode == 0:
        return
    try:
        reason = json.loads(done.stdout)
        error = OSError(reason["errno"], reason["strerror"])
    except (ValueError, KeyError, TypeError):
        error = OSError(None, f"the process that writes large shards ended with status {done.returncode}")
        error.strerror = str(error.args[1])
    raise write_error(error, image, num_bytes)


def _certify(image: Path, key: str, recipe_digest: str, source_sha256: str) -> Path:
    digest = hashlib.sha256()
    with image.open("r+b") as file:
        file.seek(HEADER_BYTES)
        while block := file.read(1 << 20):
            digest.update(block)
        body_bytes = file.tell() - HEADER_BYTES
        header = make_header(body_bytes, digest.hexdigest(), key, recipe_digest, source_sha256)
        file.seek(0)
        file.write(header.to_bytes())
    return image


def _write_ordered(order: Mapping[str, Any]) -> None:
    """Write the image that an order describes. Runs in a process of its own, which a full disk may crash."""
    image = Path(order["image"])
    fill, userblock_bytes = _FILLERS[order["kind"]]
    values = np.memmap(order["values"], dtype=order["dtype"], mode="r", shape=tuple(order["shape"]))
    with np.load(order["tables"]) as loaded:
        tables = dict(loaded)
    with h5py.File(image, "w", libver=("v110", "v110"), userblock_size=userblock_bytes, locking=False) as file:
        # HDF5 truncates what it creates, so the room is reserved behind its back, before the first value.
        descriptor = os.open(image, os.O_WRONLY)
        try:
            preallocate(descriptor, order["bytes"])
        finally:
            os.close(descriptor)
        fill(file, values, tables, order)
        file.flush()
        num_bytes = file.id.get_filesize()
    os.truncate(image, num_bytes)


def _fill_shard(
    file: h5py.File, values: NDArray[Any], tables: Mapping[str, NDArray[Any]], order: Mapping[str, Any]
) -> None:
    def blocks() -> Iterator[ClipBlock]:
        for start in range(0, len(values), _BLOCK_CLIPS):
            rows = slice(start, start + _BLOCK_CLIPS)
            yield ClipBlock(values[rows], tables["frames"][rows], tables["seconds"][rows], tables["damaged"][rows])

    write_image(
        file,
        blocks(),
        identifier=order["id"],
        shape=values.shape,
        dtype=order["dtype"],
        attributes=order["attributes"],
    )


def _fill_bags(
    file: h5py.File, values: NDArray[Any], tables: Mapping[str, NDArray[Any]], order: Mapping[str, Any]
) -> None:
    from .bag_file import fill_bags

    fill_bags(file, values, tables, order["attributes"])


_FILLERS: Mapping[str, tuple[Callable[..., None], int]] = {
    "shard": (_fill_shard, HEADER_BYTES),
    "bags": (_fill_bags, 0),
}
"""Kind of image -> what fills it, and the bytes that stand before it."""


def _main() -> None:
    try:
        _write_ordered(json.load(sys.stdin.buffer))
    except BaseException as error:  # noqa: BLE001  # after a failed write, HDF5 crashes at any orderly exit
        reason = {"errno": getattr(error, "errno", None), "strerror": getattr(error, "strerror", None) or str(error)}
        os.write(1, json.dumps(reason).encode())
        os._exit(_CHILD_FAILED)
    os._exit(0)


if __name__ == "__main__":
    _main()
