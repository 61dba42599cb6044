"""JSON files that anybody may have made: of bounded size, and with nothing that two readers would take differently."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 64 << 20
"""A longer file is not read: what vadx writes of a set, a video or a model has kilobytes."""


def load_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file, as `parse_json`.

    Raises
    ------
    OSError
        if it cannot be read.
    ValueError
        if it is no regular file, longer than ``max_bytes``, or not what `parse_json` takes.
    """
    # Without O_NONBLOCK a FIFO at its place would hang whoever looks.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            msg = "it is not a regular file"
            raise ValueError(msg)
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        msg = f"it is longer than {max_bytes} bytes"
        raise ValueError(msg)
    return parse_json(data)


def parse_json(text: str | bytes) -> Any:
    """Read JSON text.

    Raises
    ------
    ValueError
        if it is none, holds NaN, an infinity or a name twice, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError as error:
        msg = "it is nested too deep"
        raise ValueError(msg) from error


def _refuse(word: str) -> NoReturn:
    msg = f"{word} is no number of JSON"
    raise ValueError(msg)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = f"{text:.40} is larger than any number"
        raise ValueError(msg)
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a name stands in it twice"
        raise ValueError(msg)
    return found
