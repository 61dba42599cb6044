"""Reading files that anybody may have made: arrays without pickles, names that stay below their folder."""

from __future__ import annotations

import io
import math
import os
import tokenize
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ..text_lines import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ARRAY_BYTES = 8 << 30
"""Largest array that is read: ten crops of 2048 numbers for each of 100,000 clips, 18 hours of video."""

_NO_HEADER = (ValueError, KeyError, EOFError, OverflowError, SyntaxError, TypeError, tokenize.TokenError)
"""What numpy lets through from the parsing of a header that was made to break it."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npy_bytes(values: NDArray[np.generic]) -> bytes:
    """Give an array as the bytes of a ``.npy`` file."""
    image = io.BytesIO()
    np.save(image, values, allow_pickle=False)
    return image.getvalue()


def read_npy(path: Path) -> NDArray[np.generic]:
    """Read a ``.npy`` file of numbers. Raises `UsageError` for anything else; nothing in it is ever run."""
    if path.exists() and not path.is_file():
        # Opening a FIFO waits for ever for somebody to write into it.
        msg = f"{path} is no file; check the folder"
        raise UsageError(msg)
    try:
        with path.open("rb") as file:
            return array_of(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}; check the folder"
        raise UsageError(msg) from error


def array_of(stream: IO[bytes], num_bytes: int, place: str) -> NDArray[np.generic]:
    """Read the array of a stream that holds ``num_bytes``. Raises `UsageError` as `read_npy`."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _HEADERS[version](stream, max_header_size=10_000)
    except (*_NO_HEADER, RecursionError, MemoryError) as error:
        msg = f"{place} is no array of numpy ({error}); check which layout this folder has"
        raise UsageError(msg) from error
    if dtype.kind not in "fiub" or dtype.hasobject or any(side < 0 for side in shape):
        msg = f"{place} holds {dtype} {shape}, and features are numbers; check which layout this folder has"
        raise UsageError(msg)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > min(num_bytes, MAX_ARRAY_BYTES):
        msg = f"{place} claims {claimed} bytes of values and has {num_bytes} in all; it is cut off: copy it again"
        raise UsageError(msg)
    data = stream.read(claimed)
    if len(data) != claimed:
        msg = f"{place} ends after {len(data)} of {claimed} bytes of values; copy it again"
        raise UsageError(msg)
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def feature_array(values: NDArray[np.generic], place: str, *, axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Give features as float32.

    Raises
    ------
    UsageError
        unless they are floating, have one of the numbers of axes, and there are any.
    """
    if 0 in values.shape:
        lacks = "clips" if values.shape[0] == 0 else "features"
        msg = f"{place} holds no {lacks}: its array has the shape {values.shape}; copy it again, or take the file away"
        raise UsageError(msg)
    if values.dtype.kind != "f" or values.ndim not in axes:
        wanted = " or ".join(map(str, axes))
        msg = (
            f"{place} holds {values.dtype} {values.shape}, and this layout's features are floating with {wanted} axes; "
            f"check which layout this folder has"
        )
        raise UsageError(msg)
    # What is too large for float32 becomes infinite, which no feature set takes.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def below(folder: Path, name: str, place: str) -> Path:
    """Give the path of a name that a list holds. Raises `UsageError` if it would lie outside ``folder``."""
    try:
        check_name(name, "the path")
    except ValueError as error:
        msg = f"{place}: {error}; nothing outside {folder} is read"
        raise UsageError(msg) from error
    return folder / name


def walk(folder: Path, suffix: str, skip: Set[str] = frozenset()) -> Iterator[Path]:
    """Give all files below a folder whose names end in ``suffix`` and are none of ``skip``, sorted.

    Folders that are links are not entered.
    """
    for place, folders, names in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in sorted(names) if name.endswith(suffix) and name not in skip)
