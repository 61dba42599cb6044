"""Seeded changes of files, as accidents and enemies make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Random = np.random.Generator

_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 16, (1 << 64) - 1)
_WIDTHS = (1, 2, 4, 8)


def pick(random: Random, choices: Sequence[str]) -> str:
    return choices[int(random.integers(len(choices)))]


def _place(content: bytearray, random: Random) -> int:
    """Give a place in a file, rather in its first and last KiB: that is where headers and tables lie."""
    size, end = len(content), min(len(content), 4096)
    where = random.random()
    if where < 0.5:
        return int(random.integers(end))
    if where < 0.7:
        return size - 1 - int(random.integers(end))
    return int(random.integers(size))


def _flip(content: bytearray, at: int, random: Random) -> None:
    content[at] ^= 1 << int(random.integers(8))


def _overwrite(content: bytearray, at: int, random: Random) -> None:
    content[at] = int(random.integers(256))


def _number(content: bytearray, at: int, random: Random) -> None:
    width = _WIDTHS[int(random.integers(len(_WIDTHS)))]
    value = _NUMBERS[int(random.integers(len(_NUMBERS)))] % (1 << 8 * width)
    order: tuple[str, str] = ("little", "big")
    content[at : at + width] = value.to_bytes(width, "little" if pick(random, order) == "little" else "big")


def _zeros(content: bytearray, at: int, random: Random) -> None:
    count = int(random.integers(1, 600))
    content[at : at + count] = bytes(len(content[at : at + count]))


def _delete(content: bytearray, at: int, random: Random) -> None:
    del content[at : at + int(random.integers(1, 200))]


def _double(content: bytearray, at: int, random: Random) -> None:
    part = content[at : at + int(random.integers(1, 200))]
    content[at:at] = part


def _copy(content: bytearray, at: int, random: Random) -> None:
    source = _place(content, random)
    part = content[source : source + int(random.integers(1, 64))]
    content[at : at + len(part)] = part


def _cut(content: bytearray, at: int, _random: Random) -> None:
    del content[max(1, at) :]


_BINARY: Mapping[str, Callable[[bytearray, int, Random], None]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "number": _number,
    "zeros": _zeros,
    "delete": _delete,
    "double": _double,
    "copy": _copy,
    "cut": _cut,
}
_SAME_LENGTH = ("flip", "overwrite", "number", "zeros", "copy")


def change_bytes(content: bytes, random: Random, *, most: int = 8, keep_length: bool = False) -> bytes:
    """Make one to ``most`` changes."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, most + 1))):
        if not changed:
            break
        _BINARY[pick(random, _SAME_LENGTH if keep_length else list(_BINARY))](changed, _place(changed, random), random)
    return bytes(changed[: len(content)]) if keep_length else bytes(changed)


WORDS = (
    *("", "0", "-1", "1e999", "NaN", "-Infinity", "1e-400", "99999999999999999999999", "0x10", "1_000", "٣", "½"),
    *("null", "true", "[]", "{}", '""', "[" * 5000, '{"a":' * 3000, "\0", "\ufeff", "\x1b[2J", "\u202e", "\ud7ff"),
    *("../../etc/passwd", "/dev/zero", "C:\\x", "a" * 5000, ",", ";", "\t", "\r\n", '"', "'", "\\", "%s%n", "🎥"),
)


def change_text(content: bytes, random: Random) -> bytes:
    """Change words and lines of a text, or its bytes."""
    for _ in range(int(random.integers(1, 5))):
        kind = random.random()
        if kind < 0.3:
            content = change_bytes(content, random, most=3)
            continue
        lines = content.split(b"\n")
        at = int(random.integers(len(lines)))
        if kind < 0.4:
            lines.insert(at, lines[int(random.integers(len(lines)))])
        elif kind < 0.5:
            del lines[at]
        else:
            lines[at] = _with_word(lines[at], random)
        content = b"\n".join(lines)
    return content


def _with_word(line: bytes, random: Random) -> bytes:
    word = pick(random, WORDS).encode("utf-8", "surrogatepass")
    edges = [0, *(at for at, byte in enumerate(line) if byte in b' ,:"[]{}\t='), len(line)]
    at = int(random.integers(len(edges)))
    stop = edges[min(at + int(random.integers(2)), len(edges) - 1)]
    return line[: edges[at]] + word + line[stop:]
