from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from vadx.errors import WeightsError
from vadx.extract.mean_cube import SHAPE, read_mean_cube

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def whole(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def packed(number: int, data: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def one_by_one(number: int, values: np.ndarray[Any, Any]) -> bytes:
    key, data = varint(number << 3 | FIXED32), values.astype("<f4").tobytes()
    return b"".join(key + data[at : at + 4] for at in range(0, len(data), 4))


@pytest.fixture(scope="module")
def cube() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).uniform(80, 120, SHAPE).astype(np.float32)


def c3d(cube: np.ndarray[Any, Any], sides: tuple[int, ...] = (1, 3, 16, 128, 171)) -> bytes:
    """Write a BlobProto as C3D-v1.0 does: num, channels, length, height, width, data."""
    head = b"".join(whole(number, side) for number, side in enumerate(sides, start=1))
    return head + packed(6, cube.astype("<f4").tobytes())


def bvlc(cube: np.ndarray[Any, Any], sides: tuple[int, ...] = (1, 3, 16, 128, 171), *, packs: bool = True) -> bytes:
    """Write a BlobProto as Caffe does: data, shape."""
    dims = packed(1, b"".join(map(varint, sides))) if packs else b"".join(whole(1, side) for side in sides)
    return packed(5, cube.astype("<f4").tobytes()) + packed(7, dims)


def assert_reads(data: bytes, cube: np.ndarray[Any, Any]) -> None:
    got = read_mean_cube(data)
    assert got.dtype == np.float32
    assert got.shape == (3, 16, 128, 171)
    np.testing.assert_array_equal(got, cube)


def test_the_message_of_c3d(cube: np.ndarray[Any, Any]) -> None:
    assert_reads(c3d(cube), cube)
    assert len(c3d(cube)) == 4 * 3 * 16 * 128 * 171 + 17


def test_the_message_of_caffe(cube: np.ndarray[Any, Any]) -> None:
    assert_reads(bvlc(cube), cube)
    assert_reads(bvlc(cube, (3, 16, 128, 171), packs=False), cube)
    four = b"".join(whole(number, side) for number, side in enumerate(SHAPE, start=1))
    assert_reads(four + packed(5, cube.astype("<f4").tobytes()), cube)


def test_values_that_are_not_packed_or_come_in_parts(cube: np.ndarray[Any, Any]) -> None:
    head = b"".join(whole(number, side) for number, side in enumerate((1, *SHAPE), start=1))
    assert_reads(head + one_by_one(6, cube.reshape(-1)), cube)
    data = cube.astype("<f4").tobytes()
    assert_reads(packed(6, data[:4000]) + head + packed(6, data[4000:]), cube)


def test_gradients_and_later_fields_are_passed_over(cube: np.ndarray[Any, Any]) -> None:
    assert_reads(c3d(cube) + packed(7, bytes(4 * cube.size)), cube)
    assert_reads(packed(6, bytes(16)) + bvlc(cube) + whole(300, 1 << 60) + varint(301 << 3 | FIXED64) + bytes(8), cube)


def test_the_last_side_counts(cube: np.ndarray[Any, Any]) -> None:
    assert_reads(whole(3, 8) + c3d(cube), cube)


REFUSED = {
    "nothing": (b"", "shape"),
    "a web page": (b"<!DOCTYPE html><html></html>" * 100, "BlobProto"),
    "no values": (b"".join(whole(number, side) for number, side in enumerate((1, *SHAPE), start=1)), "got 0 bytes"),
    "a number without end": (b"\xff" * 64, "has no end"),
    "a field number 0": (b"\x00\x01", "no field 0"),
    "a group": (varint(1 << 3 | 3), "of type 3"),
    "a length beyond the end": (varint(6 << 3 | BYTES) + varint((1 << 63) - 1), "needs 9223372036854775807 bytes"),
    "a message cut short": (packed(6, bytes(100))[:101], "needs 100 bytes, 99 are left"),
    "a length of 70 bits": (varint(6 << 3 | BYTES) + b"\xff" * 9 + b"\x7f", "cut off"),
    "huge sides": (b"".join(whole(number, (1 << 64) - 1) for number in range(1, 6)), "shape"),
    "a shape without end": (packed(7, packed(1, b"\x80" * 4)) + packed(5, bytes(8)), "has no end"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_blob_is_refused(name: str) -> None:
    data, told = REFUSED[name]
    with pytest.raises(WeightsError, match=told):
        read_mean_cube(data)


def test_other_shapes_and_values_are_refused(cube: np.ndarray[Any, Any]) -> None:
    with pytest.raises(WeightsError, match=r"shape \(3, 16, 128, 171\), got \(1, 3, 1, 128, 171\)"):
        read_mean_cube(c3d(cube[:, :1], (1, 3, 1, 128, 171)))
    with pytest.raises(WeightsError, match="shape"):
        read_mean_cube(c3d(cube, (1, 3, 16, 171, 128)))
    with pytest.raises(WeightsError, match=r"1050624 values of 4 bytes, got 4202492 bytes"):
        read_mean_cube(c3d(cube.reshape(-1)[:-1]))
    with pytest.raises(WeightsError, match=r"got 4202504 bytes"):
        read_mean_cube(c3d(cube) + packed(6, bytes(8)))
    with pytest.raises(WeightsError, match="no numbers"):
        read_mean_cube(c3d(np.where(cube == cube[0, 0, 0, 0], np.nan, cube)))
    with pytest.raises(WeightsError, match="about 4 MiB"):
        read_mean_cube(bytes((1 << 24) + 1))


def test_no_eight_byte_field_passes_for_values(cube: np.ndarray[Any, Any]) -> None:
    head = b"".join(whole(number, side) for number, side in enumerate((1, *SHAPE), start=1))
    data = cube.astype("<f4").tobytes()
    with pytest.raises(WeightsError, match="got 4202488 bytes"):
        read_mean_cube(head + packed(6, data[:-8]) + varint(6 << 3 | FIXED64) + data[-8:])


@pytest.mark.parametrize("write", [c3d, bvlc])
def test_no_broken_message_does_anything_else(write: Any, cube: np.ndarray[Any, Any]) -> None:
    """Cut messages short and turn bytes near their ends, where the structure is, and at random."""
    whole_message = write(cube)
    generator = random.Random(1)
    for _ in range(300):
        broken = bytearray(whole_message)
        for _ in range(generator.randint(1, 4)):
            place = generator.choice(
                [generator.randrange(24), generator.randrange(len(broken)), -generator.randint(1, 24)]
            )
            broken[place] = generator.randrange(256)
        if generator.random() < 0.5:
            del broken[generator.choice([generator.randrange(40), generator.randrange(len(broken))]) :]
        try:
            got = read_mean_cube(bytes(broken))
        except WeightsError:
            continue
        assert got.shape == SHAPE
