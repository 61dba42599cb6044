"""Shards of the stages of tubes: flat arrays with offsets, in the same self-certifying file as clip features.

``box_offset[i] : box_offset[i + 1]`` are the rows of item i. `LAYOUTS` names every array with its axes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..errors import ShardError
from .shard import HEADER_BYTES, check_id, checked_attributes, checked_dataset, sealed, shard_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .shard import ShardHeader

_CHUNK_BYTES = 1 << 19


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array: its axes, numpy's letter for its type, and whether it may be missing.

    An axis called ``edge of X`` is one longer than X: it holds offsets, from 0 to the length of ``counts``.
    """

    axes: tuple[str, ...]
    kind: str
    counts: str | None = None
    optional: bool = False


LAYOUTS: Mapping[str, Mapping[str, ArraySpec]] = MappingProxyType(
    {
        "detections": {
            "frame": ArraySpec(("sample",), "i"),
            "offset": ArraySpec(("edge of sample",), "i", counts="box"),
            "box": ArraySpec(("box", "x1 y1 x2 y2"), "f"),
            "score": ArraySpec(("box",), "f"),
            "label": ArraySpec(("box",), "i"),
        },
        "tubes": {
            "kind": ArraySpec(("tube",), "i"),
            "label": ArraySpec(("tube",), "i"),
            "start": ArraySpec(("tube",), "i"),
            "rank": ArraySpec(("tube",), "i"),
            "seed": ArraySpec(("tube",), "i"),
            "seed_frame": ArraySpec(("tube",), "i"),
            "seed_rank": ArraySpec(("tube",), "i"),
            "box_offset": ArraySpec(("edge of tube",), "i", counts="tube box"),
            "box": ArraySpec(("tube box", "x1 y1 x2 y2"), "f"),
            "score": ArraySpec(("tube box",), "f"),
            "member_offset": ArraySpec(("edge of tube box",), "i", counts="member"),
            "member": ArraySpec(("member",), "i"),
        },
        "tube-features": {
            "tube": ArraySpec(("instance",), "i"),
            "region": ArraySpec(("instance", "feature"), "f"),
            "whole_frame": ArraySpec(("instance", "feature"), "f"),
            "part_offset": ArraySpec(("edge of instance",), "i", counts="part"),
            "part_clips": ArraySpec(("part",), "i"),
            "region_parts": ArraySpec(("part", "feature"), "f"),
            "whole_frame_parts": ArraySpec(("part", "feature"), "f"),
            "clip_offset": ArraySpec(("edge of instance",), "i", counts="clip"),
            "clip_frames": ArraySpec(("clip", "start stop"), "i"),
            "region_clips": ArraySpec(("clip", "feature"), "f", optional=True),
            "whole_frame_clips": ArraySpec(("clip", "feature"), "f", optional=True),
        },
    }
)
"""Kind of a stage -> name of an array -> what it is."""


@dataclass(frozen=True, slots=True)
class StageShard:
    """What is stored of one video: arrays as `LAYOUTS` says, and ``facts``, plain values that go with them."""

    id: str
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]
    header: ShardHeader


@dataclass(frozen=True, slots=True)
class StageOutline:
    """What a listing needs of a shard: ``lengths`` of the axes; no array is read."""

    id: str
    bytes: int
    lengths: Mapping[str, int]
    facts: Mapping[str, Any]
    header: ShardHeader


def build_stage_shard(
    identifier: str,
    key: str,
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    recipe_digest: str,
    source_sha256: str,
) -> bytes:
    """Build a whole shard in memory, which takes about twice the bytes of its arrays.

    ``facts`` are JSON values; nothing there may differ between two runs on one machine.

    Raises
    ------
    ValueError
        if the arrays are not those of the kind, or do not fit each other.
    """
    problem = _problem(kind, arrays)
    if problem is not None:
        raise ValueError(problem)
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v110", "v110"), userblock_size=HEADER_BYTES) as file:
        for name, array in arrays.items():
            row_bytes = max(1, array[:1].nbytes)
            rows = min(len(array), max(1, _CHUNK_BYTES // row_bytes))
            # HDF5 has no chunks of nothing.
            chunked = {"chunks": (rows, *array.shape[1:]), "fletcher32": True} if array.size else {}
            dataset = file.create_dataset(name, data=array, track_times=False, **chunked)
            for axis, label in enumerate(LAYOUTS[kind][name].axes):
                dataset.dims[axis].label = label
            # Else it is written when Python lets go of it, whenever that is, and lies elsewhere in the image.
            dataset.flush()
        file.attrs["id"] = identifier
        file.attrs["kind"] = kind
        file.attrs["facts"] = json.dumps(dict(facts), sort_keys=True)
        file.attrs["recipe_digest"] = recipe_digest
    return sealed(image, key, recipe_digest, source_sha256)


def open_stage_shard(path: Path, kind: str) -> StageShard:
    """Read a whole shard.

    Raises
    ------
    FileNotFoundError
        if there is no such file.
    ShardError
        if it is damaged, or does not hold what a shard of this kind holds.
    """
    with shard_image(path, check_body=True) as (header, file):
        datasets = _datasets(path, file, kind)
        arrays = {name: dataset[()] for name, dataset in datasets.items()}
        identifier, facts = _attributes(path, file, kind)
    check_id(path, identifier, header)
    problem = _problem(kind, arrays)
    if problem is not None:
        raise ShardError(str(path), "structure", problem)
    return StageShard(identifier, arrays, facts, header)


def read_stage_outline(path: Path, kind: str) -> StageOutline:
    """Read a shard's id, facts and the lengths of its axes. Raises as `open_stage_shard`."""
    with shard_image(path) as (header, file):
        lengths = {
            axis: length
            for name, dataset in _datasets(path, file, kind).items()
            for axis, length in zip(LAYOUTS[kind][name].axes, dataset.shape, strict=True)
        }
        identifier, facts = _attributes(path, file, kind)
    check_id(path, identifier, header)
    return StageOutline(identifier, HEADER_BYTES + header.body_bytes, lengths, facts, header)


def _datasets(path: Path, file: h5py.File, kind: str) -> dict[str, h5py.Dataset]:
    return {
        name: checked_dataset(path, file, name, kind=spec.kind, num_axes=len(spec.axes))
        for name, spec in LAYOUTS[kind].items()
        if not (spec.optional and name not in file)
    }


def _attributes(path: Path, file: h5py.File, kind: str) -> tuple[str, dict[str, Any]]:
    attributes = checked_attributes(path, file)
    if str(attributes["kind"]) != kind:
        raise ShardError(str(path), "stranger", f"it holds {attributes['kind']}, not {kind}")
    facts = json.loads(str(attributes["facts"]))
    if not isinstance(facts, dict):
        raise ShardError(str(path), "structure", "its facts are no object")
    return str(attributes["id"]), facts


def _problem(kind: str, arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """Say what is wrong with the arrays of a kind, None if nothing is."""
    specs = LAYOUTS[kind]
    required = {name for name, spec in specs.items() if not spec.optional}
    if not required <= set(arrays) <= set(specs):
        return f"{kind} hold {', '.join(specs)}; got {', '.join(arrays)}"
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        spec = specs[name]
        if array.dtype.kind != spec.kind or array.ndim != len(spec.axes):
            return f"{name} has type {array.dtype} and shape {array.shape}"
        for axis, length in zip(spec.axes, array.shape, strict=True):
            if lengths.setdefault(axis, length) != length:
                return f"{name} has {length} along {axis!r}, others {lengths[axis]}"
    for name, array in arrays.items():
        counted = specs[name].counts
        if counted is None:
            continue
        items = lengths.get(specs[name].axes[0].removeprefix("edge of "), len(array) - 1)
        if len(array) != items + 1 or array[0] != 0 or (np.diff(array) < 0).any() or array[-1] != lengths[counted]:
            return f"{name} does not lead from 0 to {lengths[counted]} in {items} steps"
    return None
