"""What can be compared: a feature set, or a folder of another's files, as arrays by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NoInputError, StoreError, UsageError
from ..features.layouts import LAYOUTS, Found, import_layout
from ..features.value_changes import Array

if TYPE_CHECKING:
    from ..features.store import FeatureSet


class _Listed(Mapping[str, Array]):
    """Arrays whose ids, ``_ids``, are listed once: asking whether one is there reads nothing."""

    _ids: dict[str, None]

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class SetArrays(_Listed):
    """The values of a feature set by id, each read when it is asked for; the ids are listed once."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self._set = feature_set
        self._ids = dict.fromkeys(feature_set)

    def __getitem__(self, identifier: str) -> Array:
        if identifier not in self._ids:
            raise KeyError(identifier)
        return self._set[identifier].values


class NpyFolder(Mapping[str, Array]):
    """The ``.npy`` files below a folder, ``(clip, crop, feature)`` or ``(clip, feature)``, by path without extension.

    Raises
    ------
    NoInputError
        if there are none.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.npy")}
        if not self._paths:
            msg = (
                f"{folder}: neither a feature set (recipe.json) nor .npy files are here; name a set of the store, or a "
                "folder of .npy files named by id"
            )
            raise NoInputError(msg)

    def __getitem__(self, identifier: str) -> Array:
        path = self._paths[identifier]
        try:
            if not path.is_file():
                # Opening a FIFO waits for ever for somebody to write into it.
                msg = "it is no file"
                raise ValueError(msg)
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            msg = f"{path}: not an array that numpy reads ({error}); it cannot be compared. Remove it, or copy it again"
            raise StoreError(msg) from error
        if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or values.dtype.kind not in "fiu":
            shape = getattr(values, "shape", type(values).__name__)
            msg = (
                f"{path}: expected numbers (clip, crop, feature) or (clip, feature), got {shape} of "
                f"{getattr(values, 'dtype', '?')}; name the layout it has with --format"
            )
            raise StoreError(msg)
        floats = values if values.dtype.kind == "f" else values.astype(np.float32)
        return floats[:, None] if floats.ndim == 2 else floats

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._paths))

    def __len__(self) -> int:
        return len(self._paths)


class LayoutArrays(_Listed):
    """A folder in another repository's layout, by the ids or names that it has.

    Layouts are read from their beginning on: videos that are asked for in the order of iteration cost one pass.

    Raises
    ------
    NoInputError
        if it holds no file of the layout.
    UsageError
        for a file that is not what the layout says.
    """

    def __init__(self, layout: str, folder: Path) -> None:
        self._layout = import_layout(layout, folder)
        self._ids = dict.fromkeys(found.id for found in self._layout)
        self._stream: Iterator[Found] = iter(())

    def __getitem__(self, identifier: str) -> Array:
        if identifier in self._ids:
            for _ in range(2):
                for found in self._stream:
                    if found.id == identifier:
                        return found.values
                self._stream = iter(self._layout)
        raise KeyError(identifier)


FOLDERS: Mapping[str, Callable[[Path], Mapping[str, Array]]] = MappingProxyType(
    {name: partial(LayoutArrays, name) for name in LAYOUTS} | {"npy": NpyFolder}
)
"""Name of a layout -> what opens a folder of it as id -> ``(clip, crop, feature)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A or B: arrays by id, and the feature set that they are of, if they are of one."""

    name: str
    arrays: Mapping[str, Array]
    feature_set: FeatureSet | None = None


def set_side(feature_set: FeatureSet) -> Side:
    """Take a feature set as a side."""
    return Side(feature_set.name, SetArrays(feature_set), feature_set)


def folder_side(folder: Path, layout: str = "npy") -> Side:
    """Take a folder as a side.

    Raises
    ------
    NoInputError
        if it holds nothing of that layout.
    UsageError
        for an unknown layout.
    """
    if layout not in FOLDERS:
        msg = f"there is no layout {layout!r} to compare with; there are: {', '.join(FOLDERS)}"
        raise UsageError(msg)
    return Side(str(folder), FOLDERS[layout](folder))
