"""Boxes in pictures: which pixels are whose, what lies outside, and tags that can be read."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.detectors import Tube
from vadx.detectors.tubes import ANY_LABEL
from vadx.errors import UsageError
from vadx.pipelines.drawing import (
    EDGE,
    PALETTE,
    DrawnBox,
    draw_tubes,
    tag_picture,
    tube_box,
    tube_colour,
    tube_tag,
)

Picture = np.ndarray[Any, np.dtype[np.uint8]]

ORANGE = PALETTE["orange"]
GREY = 90


def grey(height: int, width: int) -> Picture:
    return np.full((height, width, 3), GREY, np.uint8)


def rings(picture: Picture, *edges: tuple[tuple[int, int, int, int], Any]) -> Picture:
    """Fill nested boxes from the outermost to the innermost."""
    expected = picture.copy()
    for (x1, y1, x2, y2), colour in edges:
        expected[y1:y2, x1:x2] = colour
    return expected


def test_a_box_is_a_line_around_it_between_dark_edges_and_nothing_else() -> None:
    picture = grey(100, 120)
    before = picture.copy()
    drawn = draw_tubes(picture, [DrawnBox((20.2, 29.6, 60.4, 80), "", ORANGE)])
    # The line's pixels are those just outside [20, 60) x [30, 80).
    expected = rings(
        picture,
        ((18, 28, 62, 82), EDGE),
        ((19, 29, 61, 81), ORANGE),
        ((20, 30, 60, 80), EDGE),
        ((21, 31, 59, 79), GREY),
    )
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(picture, before)


def test_lines_grow_with_the_picture() -> None:
    drawn = draw_tubes(grey(480, 640), [DrawnBox((200, 100, 300, 400), "", ORANGE)])
    expected = rings(
        grey(480, 640),
        *(((197, 97, 303, 403), EDGE), ((198, 98, 302, 402), ORANGE)),
        *(((200, 100, 300, 400), EDGE), ((201, 101, 299, 399), GREY)),
    )
    np.testing.assert_array_equal(drawn, expected)


def test_a_union_is_two_lines_that_leave_room_for_its_members() -> None:
    union = DrawnBox((20, 30, 60, 80), "", ORANGE, double=True)
    member = DrawnBox((20, 30, 60, 80), "", PALETTE["blue"])
    drawn = draw_tubes(grey(100, 120), [member, union])
    expected = rings(
        grey(100, 120),
        *(((14, 24, 66, 86), EDGE), ((15, 25, 65, 85), ORANGE), ((16, 26, 64, 84), EDGE)),
        *(((17, 27, 63, 83), ORANGE), ((18, 28, 62, 82), EDGE)),
        *(((19, 29, 61, 81), member.colour), ((20, 30, 60, 80), EDGE), ((21, 31, 59, 79), GREY)),
    )
    np.testing.assert_array_equal(drawn, expected)


def test_members_are_drawn_over_unions() -> None:
    union = DrawnBox((20, 30, 60, 80), "", ORANGE, double=True)
    member = DrawnBox((10, 40, 90, 50), "", PALETTE["blue"])
    drawn = [draw_tubes(grey(100, 120), boxes) for boxes in ([member, union], [union, member])]
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][39, 9:91] == member.colour).all()


def test_a_box_without_a_detection_is_dashed() -> None:
    box = DrawnBox((20, 30, 100, 80), "", ORANGE)
    solid = draw_tubes(grey(100, 120), [box])
    dashed = draw_tubes(grey(100, 120), [DrawnBox(box.box, "", ORANGE, dashed=True)])
    for line in (np.s_[29, 19:101], np.s_[80, 19:101], np.s_[29:81, 19], np.s_[29:81, 100]):
        assert (solid[line] == ORANGE).all()
        is_line, is_ground = (dashed[line] == ORANGE).all(axis=1), (dashed[line] == GREY).all(axis=1)
        assert is_line[0]
        assert is_line[-1]
        assert 0.4 < is_line.mean() < 0.8
        assert is_ground.any()
    changed = (solid != GREY).any(axis=2)
    assert (dashed[~changed] == GREY).all()


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dashed", [False, True])
def test_what_lies_outside_is_not_drawn(dashed: bool, double: bool) -> None:
    def draw(*box: float) -> Picture:
        return draw_tubes(grey(100, 120), [DrawnBox(box, "7 person", ORANGE, dashed, double)])  # type: ignore[arg-type]  # four numbers

    for outside in ((-50, -50, -10, -10), (130, 10, 150, 20), (10, 101, 20, 130), (-9, 10, 0, 20)):
        np.testing.assert_array_equal(draw(*outside), grey(100, 120))
    far = draw(-1e30, 40, 1e30, 60)
    assert (far[50] == GREY).all()
    assert (far[60:70] == ORANGE).all(axis=2).any()
    # An edge that lies in the picture is seen even where the box fills it.
    full = draw(0, 0, 120, 100)
    assert all((full[corner] == ORANGE).all() for corner in ((-1, 0), (-1, -1), (0, -1)))


def test_a_box_that_is_no_box_is_refused() -> None:
    for box in ((0.0, 0.0, float("nan"), 1.0), (0.0, 0.0, float("inf"), 1.0)):
        with pytest.raises(UsageError, match="four finite numbers"):
            DrawnBox(box, "7 person", ORANGE)


def stands_whole(tag: Picture, picture: Picture) -> bool:
    if tag.shape[0] > picture.shape[0] or tag.shape[1] > picture.shape[1]:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(picture, tag.shape)[:, :, 0]
    return bool((windows == tag).all(axis=(2, 3, 4)).any())


TEXT_PIXELS = 11
"""Of tags in pictures as small as these."""

corners = st.floats(-40, 160)


@settings(max_examples=25, deadline=None)
@given(st.tuples(corners, corners, st.floats(0.1, 200), st.floats(0.1, 200)))
def test_tags_stand_whole_in_the_picture(place: tuple[float, float, float, float]) -> None:
    x, y, width, height = place
    box = DrawnBox((x, y, x + width, y + height), "7 dog", ORANGE)
    drawn = draw_tubes(grey(80, 100), [box])
    is_seen = round(x) < 100 and round(y) < 80 and max(round(x + width), round(x) + 1) > 0
    is_seen &= max(round(y + height), round(y) + 1) > 0
    assert stands_whole(tag_picture("7 dog", ORANGE, TEXT_PIXELS), drawn) == is_seen


def test_tags_of_boxes_in_one_place_do_not_hide_each_other() -> None:
    boxes = [DrawnBox((60, 60, 120, 110), f"{number} dog", tube_colour(number)) for number in range(6)]
    drawn = draw_tubes(grey(160, 200), boxes)
    assert all(stands_whole(tag_picture(box.tag, box.colour, TEXT_PIXELS), drawn) for box in boxes)


def test_a_tag_that_is_larger_than_the_picture_is_cut() -> None:
    drawn = draw_tubes(grey(8, 12), [DrawnBox((2, 2, 9, 6), "1234567 traffic light", ORANGE)])
    np.testing.assert_array_equal(drawn, tag_picture("1234567 traffic light", ORANGE, TEXT_PIXELS)[:8, :12])


def luminance(colour: Any) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("name", PALETTE)
def test_tags_can_be_read(name: str) -> None:
    tag = tag_picture("12 person", PALETTE[name], 24)
    ground = luminance(PALETTE[name])
    inner = tag[2:-2, 2:-2].reshape(-1, 3)
    shades = [luminance(colour) for colour in np.unique(inner, axis=0)]
    ratios = [(max(shade, ground) + 0.05) / (min(shade, ground) + 0.05) for shade in shades]
    # 4.5 is the contrast that WCAG 2.2 asks of text.
    assert max(ratios) >= 4.5
    assert (inner == PALETTE[name]).all(axis=1).mean() > 0.5


def test_colours_are_stable_and_neighbours_differ() -> None:
    assert [tube_colour(number) for number in range(7)] == list(PALETTE.values())
    assert all(tube_colour(a) != tube_colour(b) for a, b in itertools.pairwise(range(1000)))
    assert tube_colour(-1) in PALETTE.values()


def tube(rows: list[int], offsets: list[int] | None = None) -> Tube:
    num = len(rows) if offsets is None else len(offsets) - 1
    boxes = np.arange(4 * num, dtype=np.float64).reshape(num, 4)
    return Tube(
        np.arange(5, 5 + num),
        boxes,
        np.full(num, 0.5),
        1 if offsets is None else ANY_LABEL,
        np.array(rows),
        None if offsets is None else np.array(offsets),
    )


def test_tags_name_a_tube() -> None:
    assert tube_tag(tube([0, 1]), 12) == "12 person"
    assert tube_tag(tube([0, 1, 2, 3], [0, 1, 4]), 3) == "M3 x3"
    assert tube_tag(tube([0, 1, 2, 3], [0, 1, 4]), 3, 1) == "M3 x1"


def test_only_gaps_longer_than_the_stride_are_dashed() -> None:
    gapped = tube([0, -1, -1, 1, -1, 2])

    def dashed(stride: int) -> list[bool]:
        return [tube_box(gapped, 1, place, stride=stride).dashed for place in range(6)]

    assert dashed(1) == [False, True, True, False, True, False]
    assert dashed(2) == [False, True, True, False, False, False]
    assert dashed(3) == [False] * 6
    drawn = tube_box(gapped, 9, 1)
    assert (drawn.box, drawn.tag, drawn.colour, drawn.double) == ((4, 5, 6, 7), "9 person", tube_colour(9), False)


def test_a_union_keeps_its_number_of_members_between_detections() -> None:
    # Three members, none detected, two members.
    union = tube([0, 1, 2, -1, 5, 6], [0, 3, 4, 6])
    shown = [tube_box(union, 4, place) for place in range(3)]
    assert [(box.tag, box.dashed, box.double) for box in shown] == [
        ("M4 x3", False, True),
        ("M4 x3", True, True),
        ("M4 x2", False, True),
    ]
