"""What `vadx verify` checks beside the sets of a store: the files of a model's folder, and bags files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..features.bag_file import BagFile
from ..features.packed_set import PackedSet

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL_JSON = "model.json"
"""As `model_folder.MODEL_JSON`, whose module loads torch: not what verifying a set should wait for."""


def files_to_verify(path: Path) -> Iterator[tuple[Path, StoreError | None]] | None:
    """Give what checks a model's folder or a bags file: yields each file and what is wrong with it.

    None for a set of a store, a sound packed file, or nothing.
    """
    if (path / _MODEL_JSON).is_file():
        return _model_files(path)
    if path.is_file() and not _is_packed(path):
        return _bags(path)
    return None


def _is_packed(path: Path) -> bool:
    try:
        PackedSet(path).close()
    except StoreError:
        return False
    return True


def _model_files(folder: Path) -> Iterator[tuple[Path, StoreError | None]]:
    from .model_folder import read_facts, read_tensors

    for path in sorted([folder / _MODEL_JSON, *folder.glob("*.safetensors")]):
        try:
            if path.name == _MODEL_JSON:
                read_facts(folder)
            else:
                read_tensors(path)
        except StoreError as error:
            yield path, error
        else:
            yield path, None


def _bags(path: Path) -> Iterator[tuple[Path, StoreError | None]]:
    try:
        with BagFile(path) as file:
            for _, error in file.verify():
                yield path, error
    except StoreError as error:
        yield path, error
