"""Regions of tubes: clips, boxes, pixels and settings, against other resizes and cases done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from vadx.detectors.region_boxes import (
    CROPS,
    GLOBAL_ALIGNMENTS,
    align_regions,
    clip_spans,
    crop_regions,
    region_boxes,
)
from vadx.detectors.regions import RegionSettings
from vadx.detectors.tubes import Tube
from vadx.errors import UsageError

from .region_samples import HEIGHT, SIZE, WIDTH, plain_crop, still, tube, video

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- clips ----

FULL = [[0, 16], [16, 32], [32, 48]]


@pytest.mark.parametrize(
    ("length", "drop", "pad", "overlap"),
    [
        (1, [[0, 1]], [[0, 1]], [[0, 1]]),
        (15, [[0, 15]], [[0, 15]], [[0, 15]]),
        (16, FULL[:1], FULL[:1], FULL[:1]),
        (17, FULL[:1], [*FULL[:1], [16, 17]], [*FULL[:1], [1, 17]]),
        (31, FULL[:1], [*FULL[:1], [16, 31]], [*FULL[:1], [15, 31]]),
        (32, FULL[:2], FULL[:2], FULL[:2]),
        (50, FULL, [*FULL, [48, 50]], [*FULL, [34, 50]]),
    ],
)
def test_remainders_by_hand(length: int, drop: Any, pad: Any, overlap: Any) -> None:
    for remainder, expected in (("drop", drop), ("pad", pad), ("overlap", overlap)):
        spans = clip_spans(length, 16, remainder)
        assert (spans.tolist(), spans.dtype) == (expected, np.int64)


@pytest.mark.parametrize(("length", "clip", "remainder"), [(0, 16, "drop"), (5, 0, "drop"), (5, 4, "keep")])
def test_clips_that_cannot_be_are_refused(length: int, clip: int, remainder: str) -> None:
    with pytest.raises(UsageError, match="give"):
        clip_spans(length, clip, remainder)


def test_grid_clips_by_hand() -> None:
    spans = GLOBAL_ALIGNMENTS["grid"].spans
    assert spans(0, 16, 16, 100) == ((0, 16),)
    assert spans(5, 21, 16, 100) == ((0, 16),)
    assert spans(11, 27, 16, 100) == ((16, 32),)
    # Half of each.
    assert spans(8, 24, 16, 100) == ((0, 16), (16, 32))
    # Short ones: the one that shares most, of equals the first.
    assert spans(12, 22, 16, 100) == ((16, 32),)
    assert spans(11, 21, 16, 100) == ((0, 16),)
    assert spans(20, 21, 16, 100) == ((16, 32),)
    assert spans(90, 100, 16, 100) == ((80, 96),)
    # The video ends within the last clip of the grid.
    assert spans(84, 100, 16, 100) == ((80, 96),)
    assert spans(90, 100, 16, 105) == ((80, 96),)
    assert spans(88, 104, 16, 104) == ((80, 96), (96, 104))


# ---- boxes ----

MOVING = tube([(0, 0, 4, 4), (2, 1, 6, 5), (8, 8, 12, 12), (20, 2, 24, 6), (1, 9, 2, 10)])


def boxes_of(one: Tube, spans: Sequence[Sequence[int]], **chosen: Any) -> list[list[float]]:
    found = region_boxes(one, np.array(spans), RegionSettings(**chosen), WIDTH, HEIGHT)
    assert found.dtype == np.float32
    return found.tolist()


def test_boxes_of_frames_clips_and_tubes() -> None:
    spans = [[0, 2], [2, 4], [1, 3]]
    frame = [MOVING.boxes[i].tolist() for i in (0, 1, 2, 3, 1, 2)]
    assert boxes_of(MOVING, spans) == frame
    unions = [[0, 0, 6, 5], [8, 2, 24, 12], [2, 1, 12, 12]]
    assert boxes_of(MOVING, spans, crop="clip-union") == [box for box in unions for _ in range(2)]
    # The last frame too, which is in none of these clips.
    assert boxes_of(MOVING, spans, crop="tube-union") == [[0, 0, 24, 12]] * 6


@pytest.mark.parametrize(
    ("box", "chosen", "expected"),
    [
        ((6, 4, 16, 8), {"pad": 0.5}, [3.5, 3, 18.5, 9]),
        ((6, 4, 16, 8), {"square": True}, [6, 1, 16, 11]),
        ((6, 4, 16, 8), {"square": True, "pad": 0.2}, [5, 0, 17, 12]),
        # At the edges of the picture, 24 x 16, what is outside is cut off.
        ((0, 4, 10, 8), {"pad": 0.5}, [0, 3, 12.5, 9]),
        ((6, 0, 16, 4), {"square": True}, [6, 0, 16, 7]),
        ((0, 6, 24, 8), {"square": True}, [0, 0, 24, 16]),
        ((-3, -5, 30, 40), {}, [0, 0, 24, 16]),
        ((20.25, 1.5, 40, 3.75), {}, [20.25, 1.5, 24, 3.75]),
        # Outside on each side, a line, a point, thinner than a pixel, corners exchanged.
        ((-9, 2, -4, 8), {}, [0, 2, 1, 8]),
        ((30, 2, 40, 8), {}, [23, 2, 24, 8]),
        ((2, -9, 8, -1), {}, [2, 0, 8, 1]),
        ((2, 16, 8, 19), {}, [2, 15, 8, 16]),
        ((99, 99, 100, 100), {}, [23, 15, 24, 16]),
        ((5, 3, 5, 9), {}, [4.5, 3, 5.5, 9]),
        ((5, 3, 5, 3), {}, [4.5, 2.5, 5.5, 3.5]),
        ((23.5, 3, 30, 9), {}, [23, 3, 24, 9]),
        ((8, 3, 6, 9), {}, [6.5, 3, 7.5, 9]),
    ],
)
def test_boxes_by_hand(box: Any, chosen: dict[str, Any], expected: list[float]) -> None:
    assert boxes_of(tube([box]), [[0, 1]], **chosen) == [expected]


@settings(max_examples=100, deadline=None)
@given(
    box=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
    pad=st.floats(0, 10),
    square=st.booleans(),
    crop=st.sampled_from(list(CROPS)),
)
def test_no_box_leaves_the_picture_or_is_empty(box: Any, pad: float, square: bool, crop: str) -> None:
    [found] = np.array(boxes_of(tube([box]), [[0, 1]], pad=pad, square=square, crop=crop))
    assert (found[:2] >= 0).all()
    assert (found[2:] <= (WIDTH, HEIGHT)).all()
    # A corner below 24 is rounded to float32 by 1e-6 at most.
    assert (found[2:] - found[:2] >= 1 - 2e-6).all()


def test_a_box_outside_shows_the_nearest_edge() -> None:
    frame = video(1)
    boxes = region_boxes(still(1, box=(30, 4, 40, 8)), np.array([[0, 1]]), RegionSettings(), WIDTH, HEIGHT)
    [crop] = crop_regions(frame, np.array([0]), boxes, SIZE).numpy()
    # The strip is the last column: within it nothing lies between two pixels but to its left, half a pixel away.
    assert (crop > 0).any()
    np.testing.assert_array_equal(crop[:, :, -1], frame[0, 4:8, -1].T)


# ---- pixels ----


def test_a_box_of_its_size_is_a_copy_and_one_of_twice_that_an_average() -> None:
    frames = video(3)
    index, boxes = np.array([2, 0, 1]), np.array([[3, 5, 7, 9], [20, 12, 24, 16], [0, 0, 8, 8]], np.float32)
    found = crop_regions(frames, index, boxes, SIZE)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, 3, SIZE, SIZE))
    expected = [plain_crop(frames[i], box.tolist(), SIZE) for i, box in zip(index, boxes, strict=True)]
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))
    # The channels of a tensor come first.
    same = crop_regions(torch.from_numpy(frames).permute(0, 3, 1, 2), index, boxes, SIZE)
    assert torch.equal(found, same)


def test_halves_are_rounded_to_the_even_number() -> None:
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0, 0] = (2, 6, 10)
    assert crop_regions(frames, np.array([0]), np.array([[0, 0, 2, 2]], np.float32), 1).ravel().tolist() == [0, 2, 2]


def test_memory_that_may_not_be_written_to_is_read() -> None:
    frames = video(1)
    frames.flags.writeable = False
    index, boxes = np.array([0]), np.array([[3, 5, 7, 9]], np.float32)
    # torch warns once only of such memory, and warnings are errors here.
    torch.set_warn_always(True)
    try:
        found = [crop_regions(given, index, boxes, SIZE)[0].numpy() for given in (frames, frames[..., ::-1])]
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(found[0], frames[0, 5:9, 3:7].transpose(2, 0, 1))
    np.testing.assert_array_equal(found[1], found[0][::-1])


def test_an_enlarged_box_is_a_crop_and_a_bilinear_resize() -> None:
    random = np.random.default_rng(0)
    frames = video(4, width=160, height=120)
    low = random.integers(1, 50, (24, 2))
    sides = random.integers(2, 60, (24, 2))
    boxes, index = np.concatenate([low, low + sides], axis=1), random.integers(0, 4, 24)
    found = align_regions(frames, index, boxes.astype(np.float32), 112).numpy()
    for crop, (left, top, right, bottom), i in zip(found, boxes.tolist(), index, strict=True):
        cut = torch.from_numpy(frames[i, top:bottom, left:right].copy()).permute(2, 0, 1)[None].float()
        expected = functional.interpolate(cut, (112, 112), mode="bilinear", align_corners=False)[0].numpy()
        # Where a sample lies less than half a pixel from the edge, RoIAlign reads the neighbour outside.
        x, y = ((np.arange(112) + 0.5) * side / 112 - 0.5 for side in (right - left, bottom - top))
        inner = ((y >= 0) & (y <= bottom - top - 1))[:, None] & ((x >= 0) & (x <= right - left - 1))
        assert inner.any()
        # Both are float32; places up to 160 pixels carry 1e-5 pixels, times steps of up to 255 between neighbours.
        np.testing.assert_allclose(crop[:, inner], expected[:, inner], rtol=0, atol=8e-3)


def test_a_shrunk_box_is_near_an_antialiased_resize() -> None:
    # Noise is the hardest picture. The mean of a box and a triangle differ: 0.37 of what one sample a pixel is off.
    frames = video(2, width=400, height=300)
    boxes = np.array([[10, 20, 346, 244], [30, 5, 366, 229]], np.float32)
    found = align_regions(frames, np.array([0, 1]), boxes, 112).numpy()
    for i, (left, top, right, bottom) in enumerate(boxes.astype(int).tolist()):
        cut = torch.from_numpy(frames[i, top:bottom, left:right].copy()).permute(2, 0, 1)[None].float()
        near = functional.interpolate(cut, (112, 112), mode="bilinear", antialias=True)[0].numpy()
        aliased = functional.interpolate(cut, (112, 112), mode="bilinear")[0].numpy()
        assert np.abs(found[i] - near).mean() < 0.5 * np.abs(aliased - near).mean()


# ---- settings ----


def test_the_record_is_what_changes_a_value() -> None:
    expected = {
        "crop": "frame",
        "pad": 0.0,
        "square": False,
        "remainder": "drop",
        "global_align": "tube",
        "sampling": "roi_align/adaptive",
    }
    assert RegionSettings().record() == RegionSettings(keep_clips=True).record() == expected
    assert RegionSettings("clip-union", 0.1, True, "pad", "grid").record() == {
        **expected,
        "crop": "clip-union",
        "pad": 0.1,
        "square": True,
        "remainder": "pad",
        "global_align": "grid",
    }


@pytest.mark.parametrize(
    "chosen", [{"crop": "box"}, {"remainder": "keep"}, {"global_align": ""}, {"pad": -0.1}, {"pad": np.nan}], ids=str
)
def test_settings_that_cannot_be_meant_are_refused(chosen: dict[str, Any]) -> None:
    [name] = chosen
    with pytest.raises(UsageError, match=rf"{name} must be .*give {name}="):
        RegionSettings(**chosen)
