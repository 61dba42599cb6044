"""Boxes with names drawn into a picture: what can be told apart at a glance, on any background, by any eye."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..detectors.coco_names import COCO_NAMES
from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageFont

    from ..detectors.tubes import Tube

Colour: TypeAlias = tuple[int, int, int]

PALETTE: Mapping[str, Colour] = MappingProxyType(
    {
        "orange": (230, 159, 0),
        "sky blue": (86, 180, 233),
        "bluish green": (0, 158, 115),
        "yellow": (240, 228, 66),
        "blue": (0, 114, 178),
        "vermilion": (213, 94, 0),
        "reddish purple": (204, 121, 167),
    }
)
"""The set of Okabe and Ito, "Color Universal Design", 2008, without black: told apart with and without colour vision
deficiencies."""

EDGE: Colour = (16, 16, 16)
"""What runs along both sides of every outline, so that it shows on any background."""

_PICTURE_PER_LINE, _PICTURE_PER_TEXT, _MIN_TEXT_PIXELS = 240, 34, 11
_DASH, _DASH_GAP = 5, 3
_FAR = 1 << 20
# Of a tag's place: a pixel on another tag counts as so many on another box, and this share of its own is no matter.
_TAG_COST, _GOOD_ENOUGH = 10, 0.1

# Half-open x1, y1, x2, y2 in whole pixels.
_Place: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box ``x1, y1, x2, y2`` (half-open, in the picture's pixels, any part outside) and how it is shown.

    ``tag`` stands at it on a ground of ``colour``; empty for none. ``dashed`` stands for a box that no detection is
    behind, ``double`` for one that encloses several objects.

    Raises
    ------
    UsageError
        if the box has a side that is no finite number.
    """

    box: tuple[float, float, float, float]
    tag: str
    colour: Colour
    dashed: bool = False
    double: bool = False

    def __post_init__(self) -> None:
        if len(self.box) != 4 or not all(map(math.isfinite, self.box)):
            msg = f"a box is drawn at four finite numbers x1, y1, x2, y2; got {self.box} for {self.tag!r}: leave it out"
            raise UsageError(msg)


def tube_colour(tube_id: int) -> Colour:
    """Give the colour of a tube, always the same; neighbours in number differ."""
    return tuple(PALETTE.values())[tube_id % len(PALETTE)]


def tube_tag(tube: Tube, tube_id: int, num_members: int | None = None, *, names: Mapping[int, str] = COCO_NAMES) -> str:
    """Name a tube: ``12 person``, or ``M3 x4`` where up to four objects touch, or ``num_members`` of them.

    ``names`` has the detector's own name of each label; one that is not there is told by its number.
    """
    if tube.kind == "unary":
        return f"{tube_id} {names.get(tube.label, tube.label)}"
    return f"M{tube_id} x{tube.max_members if num_members is None else num_members}"


def tube_box(
    tube: Tube, tube_id: int, place: int, *, stride: int = 1, names: Mapping[int, str] = COCO_NAMES
) -> DrawnBox:
    """Give a tube's box number ``place``, as it is shown.

    Boxes between two that were detected ``stride`` frames apart are drawn as detected; over longer gaps they are
    dashed. The number of members is that of the last detected box.
    """
    offsets = tube.member_offsets
    before = after = place
    while before > 0 and _row(tube, before) < 0:
        before -= 1
    while after < len(tube) - 1 and _row(tube, after) < 0:
        after += 1
    num_members = None if offsets is None else int(offsets[before + 1] - offsets[before])
    x1, y1, x2, y2 = tube.boxes[place].tolist()
    return DrawnBox(
        (x1, y1, x2, y2),
        tube_tag(tube, tube_id, num_members, names=names),
        tube_colour(tube_id),
        dashed=after - before > stride,
        double=offsets is not None,
    )


def _row(tube: Tube, place: int) -> int:
    """Give a detection behind a tube's box, -1 for none."""
    return int(tube.member_rows[place if tube.member_offsets is None else tube.member_offsets[place]])


def draw_tubes(frame: NDArray[np.uint8], boxes: Sequence[DrawnBox]) -> NDArray[np.uint8]:
    """Draw boxes into a copy of ``frame (height, width, 3)``: double ones, then the others over them, then the tags.

    Lines lie around a box, not over what is in it, unless that is outside the picture; edges of boxes outside are not
    shown. A tag stands above its box, or where there is room. Lines and tags grow with the picture.
    """
    picture = frame.copy()
    height, width = frame.shape[:2]
    thickness = line_thickness(height, width)
    seen = [box for box in boxes if _is_visible(box, height, width)]
    for box in sorted(seen, key=lambda box: not box.double):
        draw_outline(picture, box, thickness)
    text_pixels = max(_MIN_TEXT_PIXELS, round(min(height, width) / _PICTURE_PER_TEXT))
    taken: list[_Place] = []
    places = [_whole_box(box) for box in seen]
    for number, box in enumerate(seen):
        if box.tag:
            label = tag_picture(box.tag, box.colour, text_pixels)
            others = places[:number] + places[number + 1 :]
            place = _tag_place(box, label.shape, frame.shape, taken, others, _band(box, thickness))
            taken.append(place)
            paste(picture, label, place[0], place[1])
    return picture


def line_thickness(height: int, width: int) -> int:
    """Give the thickness of lines in a picture, in pixels."""
    return max(1, round(min(height, width) / _PICTURE_PER_LINE))


def draw_outline(picture: NDArray[np.uint8], box: DrawnBox, thickness: int) -> None:
    """Draw one box into ``picture (height, width, 3)``, its lines between dark edges of a pixel."""
    x1, y1, x2, y2 = _around(box, picture.shape, _band(box, thickness))
    line = _union_line(thickness) if box.double else thickness
    bars: list[_Place] = []
    for inset in (0, 2 * line) if box.double else (0,):
        ring = (x1 + inset, y1 + inset, x2 - inset, y2 - inset)
        bars += _bars(ring, line, picture.shape, dashed=box.dashed)
    for left, top, right, bottom in bars:
        _fill(picture, (left - 1, top - 1, right + 1, bottom + 1), EDGE)
    for bar in bars:
        _fill(picture, bar, box.colour)


@lru_cache(maxsize=1024)
def tag_picture(text: str, colour: Colour, text_pixels: int) -> NDArray[np.uint8]:
    """Draw a tag ``(height, width, 3)``: text on a ground of ``colour`` within a dark edge. Not to be written to."""
    from PIL import Image, ImageDraw

    font = text_font(text_pixels)
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Mg")
    pad = max(2, text_pixels // 5)
    width, height = math.ceil(right - left) + 2 * pad + 2, math.ceil(bottom - top) + 2 * pad
    image = Image.new("RGB", (width, height), EDGE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((1, 1, width - 2, height - 2), fill=colour)
    draw.text((pad + 1 - left, pad - top), text, font=font, fill=_text_colour(colour))
    drawn = np.array(image)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=32)
def text_font(text_pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give the font that Pillow carries."""
    from PIL import ImageFont

    return ImageFont.load_default(text_pixels)


def paste(picture: NDArray[np.uint8], part: NDArray[np.uint8], x: int, y: int) -> None:
    """Put ``part (height, width, 3)`` into a picture with its corner at ``x, y``; what does not fit in is cut off."""
    x1, y1 = max(x, 0), max(y, 0)
    there = picture[y1 : max(y + part.shape[0], 0), x1 : max(x + part.shape[1], 0)]
    there[...] = part[y1 - y : y1 - y + there.shape[0], x1 - x : x1 - x + there.shape[1]]


def _text_colour(ground: Colour) -> Colour:
    """Give black or white, whichever has more contrast (WCAG 2.2, "relative luminance")."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def _union_line(thickness: int) -> int:
    # Two lines and what is between them weigh enough without being as thick as one.
    return max(1, thickness * 2 // 3)


def _band(box: DrawnBox, thickness: int) -> int:
    """Give how far a box's lines reach: those of a union leave room for its members' own, which often end with it."""
    return 3 * _union_line(thickness) + thickness + 1 if box.double else thickness


def _whole_box(box: DrawnBox) -> _Place:
    # No picture is so large, and far numbers would make as many dashes.
    x1, y1, x2, y2 = (round(min(max(value, -_FAR), _FAR)) for value in box.box)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _is_visible(box: DrawnBox, height: int, width: int) -> bool:
    x1, y1, x2, y2 = _whole_box(box)
    return x1 < width and y1 < height and x2 > 0 and y2 > 0


def _around(box: DrawnBox, shape: tuple[int, ...], margin: int) -> _Place:
    """Grow a box by ``margin``; an edge that is in the picture stays in it."""
    x1, y1, x2, y2 = _whole_box(box)
    height, width = shape[:2]
    return (
        max(x1 - margin, 0) if x1 >= 0 else x1 - margin,
        max(y1 - margin, 0) if y1 >= 0 else y1 - margin,
        min(x2 + margin, width) if x2 <= width else x2 + margin,
        min(y2 + margin, height) if y2 <= height else y2 + margin,
    )


def _bars(ring: _Place, thickness: int, shape: tuple[int, ...], *, dashed: bool) -> list[_Place]:
    """Give the filled rectangles that a ring of lines with this outer edge is made of."""
    x1, y1, x2, y2 = ring
    height, width = shape[:2]
    across = _pieces(x1, x2, width, thickness, dashed=dashed)
    down = _pieces(y1, y2, height, thickness, dashed=dashed)
    return [
        *((a, y, b, y + thickness) for y in (y1, y2 - thickness) for a, b in across),
        *((x, a, x + thickness, b) for x in (x1, x2 - thickness) for a, b in down),
    ]


def _pieces(start: int, stop: int, limit: int, thickness: int, *, dashed: bool) -> list[tuple[int, int]]:
    """Cut a line from ``start`` to ``stop`` into dashes, one at each end; gives those that begin in ``[0, limit)``."""
    dash, gap = _DASH * thickness, _DASH_GAP * thickness
    num_gaps = round((stop - start - dash) / (dash + gap))
    if not dashed or num_gaps < 1:
        return [(start, stop)]
    step = (stop - start - dash) / num_gaps
    first, last = max(0, math.floor((-dash - start) / step)), min(num_gaps, math.ceil((limit - start) / step))
    return [(round(start + i * step), round(start + i * step) + dash) for i in range(first, last + 1)]


def _fill(picture: NDArray[np.uint8], place: _Place, colour: Colour) -> None:
    x1, y1, x2, y2 = (max(value, 0) for value in place)
    picture[y1:y2, x1:x2] = colour


def _tag_place(
    box: DrawnBox,
    tag_shape: tuple[int, ...],
    shape: tuple[int, ...],
    taken: Sequence[_Place],
    others: Sequence[_Place],
    margin: int,
) -> _Place:
    """Choose where a tag stands: in the picture, near its box, on no other tag and hiding no other box."""
    x1, y1, x2, y2 = _around(box, shape, margin)
    (height, width), (tag_height, tag_width) = shape[:2], tag_shape[:2]
    lefts = [_within(x1, width - tag_width), _within(x2 - tag_width, width - tag_width)]
    near, far, inside = [y1 - tag_height, y2], [y1 - 2 * tag_height, y2 + tag_height], [y1 + margin, y2 - margin]
    tops = [*near, *far, inside[0], inside[1] - tag_height]
    tops = [y for y in tops if 0 <= y <= height - tag_height] or [_within(y1, height - tag_height)]
    places = np.array([(x, y, x + tag_width, y + tag_height) for y, x in itertools.product(tops, lefts)])
    hidden = _shared_areas(places, others).max(axis=1, initial=0) - _shared_areas(places, [_whole_box(box)])[:, 0]
    cost = _TAG_COST * _shared_areas(places, taken).sum(axis=1) + np.clip(hidden, 0, None)
    # The first that is good enough, so that a tag does not jump from frame to frame for a few pixels.
    good = np.flatnonzero(cost <= _GOOD_ENOUGH * tag_height * tag_width)
    x1, y1, x2, y2 = places[good[0] if good.size else int(cost.argmin())].tolist()
    return x1, y1, x2, y2


def _within(value: int, largest: int) -> int:
    return max(0, min(value, largest))


def _shared_areas(places: NDArray[np.int64], others: Sequence[_Place]) -> NDArray[np.int64]:
    """Give how many pixels each place has in common with each of the others, ``(place, other)``."""
    there = np.reshape(np.array(others, np.int64), (1, -1, 4))
    here = places[:, None]
    sides = np.minimum(here[..., 2:], there[..., 2:]) - np.maximum(here[..., :2], there[..., :2])
    areas: NDArray[np.int64] = np.clip(sides, 0, None).prod(axis=2)
    return areas
