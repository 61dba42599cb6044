"""C3D's mean of every pixel of a clip, as Caffe writes it: one BlobProto message of protocol buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = (3, 16, 128, 171)
"""Channels (BGR), frames, height, width."""

# Four times what the cube takes: room for values that are not packed, and for gradients beside them.
_MOST_BYTES = 1 << 24
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class _Numbering:
    """Field numbers of a BlobProto: its sides one by one, its values, and its sides as one message."""

    sides: tuple[int, ...]
    data: int
    shape: int | None = None


_C3D = _Numbering(sides=(1, 2, 3, 4, 5), data=6)
"""facebookarchive/C3D, C3D-v1.0/src/caffe/proto/caffe.proto: num, channels, length, height, width, data, diff."""
_BVLC = _Numbering(sides=(1, 2, 3, 4), data=5, shape=7)
"""BVLC/caffe, and C3D-v1.1: num, channels, height, width, data, diff, shape."""

_Field = tuple[int, int, int | bytes]


def read_mean_cube(data: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read the mean cube ``(3, 16, 128, 171)``, BGR in 0-255, out of a ``binaryproto`` file's bytes.

    Raises
    ------
    WeightsError
        if they are not a BlobProto, of C3D's numbering or BVLC's, with values of that shape.
    """
    if len(data) > _MOST_BYTES:
        msg = f"a mean cube has about 4 MiB, got {len(data)} bytes"
        raise WeightsError(msg)
    fields = list(_fields(data))
    # Field 5 is C3D's width, a whole number, or BVLC's values.
    is_c3d = any(number == 5 and wire == _VARINT for number, wire, _ in fields)
    numbering = _C3D if is_c3d else _BVLC
    sides = _sides(fields, numbering)
    if _without_leading_ones(sides) != SHAPE:
        msg = f"a mean cube has the shape {SHAPE}, got {tuple(sides)}"
        raise WeightsError(msg)
    values = b"".join(
        value
        for number, wire, value in fields
        if number == numbering.data and wire in (_BYTES, _FIXED32) and isinstance(value, bytes)
    )
    if len(values) != 4 * int(np.prod(SHAPE)):
        msg = f"a mean cube has {int(np.prod(SHAPE))} values of 4 bytes, got {len(values)} bytes"
        raise WeightsError(msg)
    cube = np.frombuffer(values, "<f4").astype(np.float32).reshape(SHAPE)
    if not np.isfinite(cube).all():
        msg = "the mean cube holds values that are no numbers"
        raise WeightsError(msg)
    return cube


def _sides(fields: list[_Field], numbering: _Numbering) -> list[int]:
    if numbering.shape is not None:
        messages = [value for number, _, value in fields if number == numbering.shape and isinstance(value, bytes)]
        if messages:
            return [side for message in messages for side in _shape_message(message)]
    single = {number: value for number, _, value in fields if isinstance(value, int)}
    return [single.get(number, 0) for number in numbering.sides]


def _shape_message(message: bytes) -> list[int]:
    """Give the sides in a BlobShape: field 1, packed or not."""
    sides: list[int] = []
    for number, _, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            sides.append(value)
            continue
        at = 0
        while at < len(value):
            side, at = _varint(value, at)
            sides.append(side)
    return sides


def _without_leading_ones(sides: list[int]) -> tuple[int, ...]:
    while len(sides) > len(SHAPE) and sides[0] == 1:
        sides = sides[1:]
    return tuple(sides)


def _fields(data: bytes) -> Iterator[_Field]:
    """Give (number, wire type, value) of each field: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0 or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            msg = f"not a BlobProto message: there is no field {number} of type {wire}"
            raise WeightsError(msg)
        if wire == _VARINT:
            whole, at = _varint(data, at)
            yield number, wire, whole
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        else:
            length = _FIXED[wire]
        if length > len(data) - at:
            msg = f"the BlobProto message is cut off: field {number} needs {length} bytes, {len(data) - at} are left"
            raise WeightsError(msg)
        yield number, wire, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read one number of 7 bits a byte, lowest first: give it and where the next field begins."""
    value = 0
    for index, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    msg = "not a BlobProto message: a number has no end"
    raise WeightsError(msg)
