"""The process that writes a packed file: one shard after another, with HDF5's own file driver.

It is disposable, because HDF5 crashes its process where a disk is full (h5py issue 914); so the file's room is reserved
before the first value, and every error ends in `os._exit`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import h5py
import numpy as np

from ..errors import ShardError
from .index import summary_of
from .packed_set import (
    FAILURES,
    PACKED_VERSION,
    VIDEOS,
    fixed_text,
    group_parts,
    table_columns,
    video_attributes,
)
from .publish import preallocate
from .shard import ClipBlock, ShardContent, open_shard, verify_shard, write_image
from .store import FeatureSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_CHILD_FAILED = 74
_CHUNK_BYTES = 1 << 19


def write_in_child(order: Mapping[str, Any]) -> dict[str, Any] | None:
    """Have a process of its own write the file that ``order`` describes; gives what went wrong, None if nothing did.

    ``order`` names the ``set``, the ``image`` to write, the ``bytes`` to reserve for it, the ``ids`` in order, the
    ``failures`` and ``attributes`` of the file as texts, and the ``parent`` without whom the process gives up. What
    went wrong is ``shard`` (path, damage, evidence), ``gone`` (a path), or ``errno`` and ``strerror``.
    """
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name], input=json.dumps(order).encode(), capture_output=True, check=False
    )
    if done.returncode == 0:
        return None
    try:
        reason: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"errno": None, "strerror": f"the process that writes it ended with status {done.returncode}"}
    return reason


def _write_ordered(order: Mapping[str, Any]) -> None:
    """Write the file that an order describes. Runs in a process of its own, which a full disk may crash."""
    image = Path(order["image"])
    feature_set = FeatureSet(Path(order["set"]))
    summaries = []
    with h5py.File(image, "w", libver=("v110", "v110"), locking=False) as file:
        # HDF5 truncates what it creates, so the room is reserved behind its back, before the first value.
        descriptor = os.open(image, os.O_WRONLY)
        try:
            preallocate(descriptor, order["bytes"])
        finally:
            os.close(descriptor)
        for identifier in order["ids"]:
            if os.getppid() != order["parent"]:
                _give_up(image)
            content = _sound_shard(feature_set, identifier)
            _write_video(file, content)
            summaries.append(summary_of(content.outline))
        table = _make_group(file, VIDEOS)
        _write_column(table, "id", _texts(order["ids"]))
        for name, values in table_columns(summaries).items():
            _write_column(table, name, values)
        _write_column(file, FAILURES, _texts(order["failures"]))
        for name, text in order["attributes"].items():
            file.attrs[name] = fixed_text(text)
        file.attrs["num_videos"] = len(order["ids"])
        file.attrs["vadx_packed"] = PACKED_VERSION
    os.truncate(image, _end_of_file(image))
    _forget_pages(image)


def _end_of_file(image: Path) -> int:
    """Read where a closed HDF5 file ends. HDF5 does not see the room that was reserved behind its back.

    From the superblock of version 3, HDF5 File Format Specification 3.0, section II.A: 8 bytes at 28.
    """
    with image.open("rb") as file:
        return int.from_bytes(file.read(36)[28:], "little")


def _give_up(image: Path) -> NoReturn:
    # Who ordered the file was killed: nobody else would remove it.
    image.unlink(missing_ok=True)
    os._exit(_CHILD_FAILED)


def _sound_shard(feature_set: FeatureSet, identifier: str) -> ShardContent:
    """Read a shard, its whole body compared with its sha256."""
    path = feature_set.shard_path(identifier)
    held: list[ShardContent] = []
    verify_shard(
        path,
        recipe_digest=feature_set.digest,
        key=path.stem,
        read=lambda place: held.append(open_shard(place)),
    )
    return held[0]


def _write_video(file: h5py.File, content: ShardContent) -> None:
    group = file
    for part in group_parts(content.id):
        group = group[part] if part in group else _make_group(group, part)
    features = content.features
    write_image(
        group,
        iter([ClipBlock(features.values, features.frames, features.seconds, features.damaged)]),
        identifier=content.id,
        shape=features.values.shape,
        dtype=features.values.dtype.name,
        attributes={name: fixed_text(value) for name, value in video_attributes(content).items()},
    )
    group.attrs["id"] = fixed_text(content.id)


def _make_group(parent: h5py.Group, name: str) -> h5py.Group:
    """Make a group without the times that HDF5 would note in it."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    link = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    link.set_char_encoding(h5py.h5t.CSET_UTF8)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), lcpl=link, gcpl=creation))


def _texts(texts: list[str]) -> NDArray[Any]:
    encoded = [text.encode() for text in texts]
    # A type of no bytes cannot be stored.
    length = max([1, *map(len, encoded)])
    return np.array(encoded, f"S{length}").astype(h5py.string_dtype("utf-8", length))


def _write_column(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    rows = max(1, min(len(values), _CHUNK_BYTES // values.dtype.itemsize))
    group.create_dataset(
        name, data=values, chunks=(rows,), maxshape=(None,) if not len(values) else None, fletcher32=True
    )


def _forget_pages(image: Path) -> None:
    """Force the file to disk and out of memory, so that what is compared with the shards is what the disk holds."""
    descriptor = os.open(image, os.O_RDWR)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _main() -> None:
    try:
        _write_ordered(json.load(sys.stdin.buffer))
    except BaseException as error:  # noqa: BLE001  # after a failed write, HDF5 crashes at any orderly exit
        os.write(1, json.dumps(_reason(error)).encode())
        os._exit(_CHILD_FAILED)
    os._exit(0)


def _reason(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ShardError):
        return {"shard": [error.path, error.damage, error.evidence]}
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return {"gone": str(error.filename)}
    return _system_error(error) or {"errno": None, "strerror": str(error) or type(error).__name__}


def _system_error(error: BaseException | None) -> dict[str, Any] | None:
    """Find the system's own error: HDF5 may tell it in a long text only, or raise another while it closes the file."""
    while error is not None:
        told = re.search(r"errno = (\d+)", str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number:
            return {"errno": number, "strerror": os.strerror(number)}
        error = error.__context__
    return None


if __name__ == "__main__":
    _main()
