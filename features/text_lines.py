"""Small text files that other people wrote: every line with its number, every problem with its place."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import NoInputError, UsageError

MAX_FILE_BYTES = 1 << 28
"""Longest list that is read: 256 MiB is a line for each of a million videos, and more."""

MAX_FRAMES = 100_000_000
"""Longest video that a list may speak of: over a month at 30 frames a second."""

_SHOWN = 20
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. ``line`` counts from 1; 0 means the file as a whole."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


def refuse(problems: Sequence[Problem], *, so: str) -> None:
    """Raise `UsageError` that names the first problems and counts all, unless there are none.

    ``so`` says what follows and what to do.
    """
    if not problems:
        return
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    shown = "".join(f"\n  {escaped(str(problem))}" for problem in problems[:_SHOWN])
    msg = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:{shown}{more}\n{so}"
    raise UsageError(msg)


def escaped(text: str) -> str:
    """Give a text that no terminal obeys: what cannot be printed appears as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def read_lines(path: str | os.PathLike[str]) -> tuple[list[tuple[int, str]], list[Problem]]:
    """Give the lines that are not blank, with their numbers, and the problems of those that are no text.

    Lines end in LF or CRLF; a byte order mark is passed over.

    Raises
    ------
    NoInputError
        if there is no such file.
    UsageError
        if it cannot be read, or is longer than `MAX_FILE_BYTES`.
    """
    name = os.fspath(path)
    lines: list[tuple[int, str]] = []
    problems: list[Problem] = []
    for number, raw in enumerate(_read(Path(path)).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        # Line by line, so that one name in Latin-1 is found among a thousand.
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8; save the file as UTF-8"
            problems.append(Problem(name, number, what))
            continue
        control = _CONTROL.search(line)
        if control is not None:
            problems.append(Problem(name, number, f"it holds the control character {control[0]!r}"))
        elif line.strip():
            lines.append((number, line))
    return lines, problems


def read_whole(path: str | os.PathLike[str]) -> str:
    """Give a file's text. Raises as `read_lines` does, and `UsageError` also where it is not UTF-8."""
    try:
        return _read(Path(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        raise UsageError(msg) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        msg = f"{path}: no such file; check the path"
        raise NoInputError(msg) from error
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        msg = f"{path} cannot be read: {reason}; name a readable file"
        raise UsageError(msg) from error
    if len(data) > MAX_FILE_BYTES:
        msg = f"{path} is longer than {MAX_FILE_BYTES} bytes, which no list of videos is; check the path"
        raise UsageError(msg)
    return data


def whole_number(text: str) -> int | None:
    """Give the integer that a text of ASCII digits means, None for any other text or one of more than 18 digits."""
    return int(text) if _INTEGER.fullmatch(text) else None


def check_name(text: str, what: str) -> None:
    """Raise `ValueError` unless a text can stand for a place below a root.

    Refused: control characters, what cannot be written as UTF-8, absolute paths, empty, ``.`` and ``..`` parts.
    """
    if _NO_NAME.search(text):
        msg = f"{what} {text!r} holds a control character or a byte that is not UTF-8; rename the file"
        raise ValueError(msg)
    parts = text.replace("\\", "/").split("/")
    if _DRIVE.match(text) or set(parts) & {"", ".", ".."}:
        msg = f"{what} {text!r} must lie below its root: no absolute path, no empty part, no '.' and no '..'"
        raise ValueError(msg)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; one that the system will not even look at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def last_part(text: str) -> str:
    """Give the last part of a path of any system."""
    return re.split(r"[/\\]", text)[-1]
