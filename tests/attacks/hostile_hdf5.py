"""Data sets that a stranger could put into an HDF5 file, each in place of a sound one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np

Shape = tuple[int, ...]
Attack = Callable[[h5py.Group, str, Shape, str, Path], None]
"""Puts a data set into a group: its name, shape and type are those of the sound one; the last is a file to reach."""

HUGE = 1 << 40
UNKNOWN_FILTER = 32_015
"""The number that the HDF Group gave to Zstandard, which only a plug-in brings."""


def _external_storage(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    group.create_dataset(name, shape, dtype, external=[(str(canary), 0, h5py.h5f.UNLIMITED)])


def _external_link(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del shape, dtype
    group[name] = h5py.ExternalLink(str(canary), "/stolen")


def _soft_link(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del canary
    group.create_dataset("decoy", shape, dtype)
    group[name] = h5py.SoftLink(f"{group.name.rstrip('/')}/decoy")


def _virtual(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(canary), "stolen", shape)
    group.create_virtual_dataset(name, layout)


def _texts(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del dtype, canary
    group.create_dataset(name, shape, h5py.string_dtype())


def _ragged(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del canary
    group.create_dataset(name, shape, h5py.vlen_dtype(np.dtype(dtype)))


def _references(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del dtype, canary
    group.create_dataset(name, shape, h5py.ref_dtype)


def _regions(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del dtype, canary
    group.create_dataset(name, shape, h5py.regionref_dtype)


def _compound(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del canary
    group.create_dataset(name, shape, np.dtype([("a", dtype), ("b", "i4")]))


def _known_to_hdf5_only(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    """Scale-offset, which HDF5 has built in and vadx never uses."""
    del canary
    group.create_dataset(name, shape, dtype, chunks=shape, scaleoffset=4)


def plug_in_filter(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    """Make what only a plug-in could read: its chunk says that the filter was applied."""
    del canary
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_filter(UNKNOWN_FILTER, h5py.h5z.FLAG_OPTIONAL, (1,))
    kind = h5py.h5t.py_create(np.dtype(dtype))
    made = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), plist)
    made.write_direct_chunk((0,) * len(shape), bytes(np.dtype(dtype).itemsize * int(np.prod(shape))), 0)


def _four_tebibytes(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del canary
    group.create_dataset(name, (HUGE, *shape[1:]), dtype, chunks=(1024, *shape[1:]))


def _four_tebibytes_of_zeros(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    del canary
    group.create_dataset(name, (HUGE, *shape[1:]), dtype, chunks=(1024, *shape[1:]), compression="gzip")


def _one_huge_chunk(group: h5py.Group, name: str, shape: Shape, dtype: str, canary: Path) -> None:
    """Few values in a chunk of 128 MiB, which HDF5 takes memory for as soon as one of them is read."""
    del canary
    rows = (128 << 20) // max(1, np.dtype(dtype).itemsize * int(np.prod(shape[1:])))
    chunks = (rows, *shape[1:])
    group.create_dataset(name, shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]), compression="gzip")


ATTACKS: Mapping[str, Attack] = {
    "external storage": _external_storage,
    "external link": _external_link,
    "soft link": _soft_link,
    "virtual data set": _virtual,
    "texts of any length": _texts,
    "rows of any length": _ragged,
    "references": _references,
    "regions": _regions,
    "records": _compound,
    "a filter that vadx never uses": _known_to_hdf5_only,
    "a filter of a plug-in": plug_in_filter,
    "4 TiB": _four_tebibytes,
    "4 TiB of zeros": _four_tebibytes_of_zeros,
    "a chunk larger than all": _one_huge_chunk,
}
