"""Where drawn scenes play: what a fixed camera sees when nobody is there, and where people walk and cars drive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .scene_sprites import car

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEAR, _FAR = 1.12, 0.42


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that cars drive in: the height ``y`` of their wheels, a share of the picture's, and where they go: 1 is to
    the right.
    """

    y: float
    direction: int


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of place. ``walkways`` are bands ``(top, bottom)`` of the feet of those who walk, as shares of the height;
    with ``is_open`` people also walk slantwise.
    """

    paint: Callable[[Image.Image, np.random.Generator], None]
    walkways: tuple[tuple[float, float], ...]
    lanes: tuple[Lane, ...] = ()
    is_open: bool = False


def size_at(y: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """Give how large things look that stand at a height of the picture, a share of it: 1 is 4/5 of the way down."""
    return _FAR + (_NEAR - _FAR) * (y - 0.35) / 0.6


def draw_place(place: Place, width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a place as an empty picture ``(height, width, 3)``, with the colours, grain and light of one camera."""
    image = Image.new("RGB", (2 * width, 2 * height))
    place.paint(image, random)
    picture: NDArray[np.floating] = np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)
    for grain, strength in ((1, 4.0), (4, 5.0), (16, 7.0), (60, 10.0)):
        picture = picture + strength * _noise(random, width, height, grain)
    corners = np.hypot(*np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)))
    picture = picture * (1.05 - 0.16 * corners[..., None] ** 2)
    soft = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))
    return np.asarray(soft)


def _noise(random: np.random.Generator, width: int, height: int, grain: int) -> NDArray[np.float32]:
    small = random.integers(0, 256, (height // grain + 2, width // grain + 2), dtype=np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return (np.asarray(large, np.float32)[..., None] - 127.5) / 127.5


def _tone(random: np.random.Generator, base: int, spread: int = 18) -> tuple[int, int, int]:
    grey = base + int(random.integers(-spread, spread + 1))
    red, green, blue = (grey + random.integers(-10, 11, 3)).clip(0, 255).tolist()
    return red, green, blue


def _facade(draw: ImageDraw.ImageDraw, width: int, bottom: float, random: np.random.Generator) -> None:
    """Draw houses side by side down to ``bottom``, with rows of windows and a door each."""
    left = -int(random.integers(0, width // 4))
    while left < width:
        right = left + int(random.integers(width // 4, width // 2))
        wall, glass = _tone(random, 128, 40), _tone(random, 60, 25)
        draw.rectangle([left, 0, right, bottom], fill=wall)
        step = int(random.integers(width // 14, width // 9))
        for x in range(left + step // 3, right - step // 2, step):
            for y in np.arange(bottom * 0.08, bottom * 0.62, bottom * 0.34):
                draw.rectangle([x, y, x + step * 0.5, y + bottom * 0.2], fill=glass)
        door = left + int(random.uniform(0.2, 0.7) * (right - left))
        draw.rectangle([door, bottom * 0.66, door + step * 0.6, bottom], fill=_tone(random, 70, 20))
        left = right


def _paint_street(image: Image.Image, random: np.random.Generator) -> None:
    draw, (width, height) = ImageDraw.Draw(image), image.size
    pavement, road = _tone(random, 150), _tone(random, 92)
    _facade(draw, width, 0.36 * height, random)
    draw.rectangle([0, 0.36 * height, width, height], fill=pavement)
    draw.rectangle([0, 0.47 * height, width, 0.8 * height], fill=road)
    for edge in (0.47, 0.8):
        draw.rectangle([0, edge * height, width, (edge + 0.012) * height], fill=_tone(random, 190, 10))
    dash = width // 12
    for x in range(int(random.integers(0, dash)) - dash, width, 2 * dash):
        draw.rectangle([x, 0.617 * height, x + dash, 0.63 * height], fill=(206, 204, 196))
    for joint in np.arange(0, width, width / float(random.uniform(8, 16))):
        draw.line(
            [joint, 0.812 * height, joint + (joint - width / 2) * 0.16, height], fill=_tone(random, 125, 8), width=2
        )
    tree = int(random.uniform(0.1, 0.9) * width)
    draw.rectangle([tree, 0.16 * height, tree + 8, 0.44 * height], fill=(74, 60, 46))
    draw.ellipse([tree - 45, 0.0, tree + 50, 0.24 * height], fill=(62, 84, 52))


def _paint_yard(image: Image.Image, random: np.random.Generator) -> None:
    draw, (width, height) = ImageDraw.Draw(image), image.size
    ground = _tone(random, 112)
    draw.rectangle([0, 0, width, height], fill=ground)
    _facade(draw, width, 0.2 * height, random)
    bay = width / float(random.uniform(4.5, 6))
    for x in np.arange(-bay, width + bay, bay):
        draw.line([x + 0.3 * bay, 0.3 * height, x, 0.47 * height], fill=(200, 198, 188), width=4)
    draw.line([0, 0.3 * height, width, 0.3 * height], fill=(180, 178, 170), width=3)
    draw.rectangle([0, 0.8 * height, width, 0.815 * height], fill=_tone(random, 185, 10))
    draw.rectangle([0, 0.815 * height, width, height], fill=_tone(random, 140))
    for x in np.arange(bay * 0.4, width, bay * 2):
        for y, turn in ((0.56, -1), (0.71, 1)):
            tip = x + turn * bay * 0.35
            draw.line([x - turn * bay * 0.3, y * height, tip, y * height], fill=(190, 188, 180), width=5)
            draw.polygon(
                [(tip + turn * 14, y * height), (tip, y * height - 8), (tip, y * height + 8)], fill=(190, 188, 180)
            )
    _park(image, bay, random)


def _park(image: Image.Image, bay: float, random: np.random.Generator) -> None:
    """Put cars into some bays; they stay for good."""
    width, height = image.size
    for x in np.arange(bay * 0.6, width, bay):
        if random.random() < 0.5:
            tall = round(0.2 * height)
            picture = Image.fromarray(car(random).pictures[0]).resize((round(tall * 2.0), tall))
            image.paste(picture, (round(x - tall), round(0.25 * height)), picture)


def _paint_square(image: Image.Image, random: np.random.Generator) -> None:
    draw, (width, height) = ImageDraw.Draw(image), image.size
    draw.rectangle([0, 0, width, height], fill=_tone(random, 146))
    _facade(draw, width, 0.34 * height, random)
    line, far = _tone(random, 122, 6), 0.34 * height
    for x in np.linspace(-1.2, 2.2, int(random.integers(14, 26))):
        draw.line([(0.5 + (x - 0.5) * 0.55) * width, far, x * width, height], fill=line, width=2)
    y, step = far, 0.022 * height
    while y < height:
        draw.line([0, y, width, y], fill=line, width=2)
        y, step = y + step, step * 1.24
    for _ in range(int(random.integers(1, 4))):
        x, foot = random.uniform(0.05, 0.95) * width, random.uniform(0.4, 0.5) * height
        draw.rectangle([x - 34, foot - 18, x + 34, foot - 10], fill=(96, 74, 52))
        draw.rectangle([x - 30, foot - 10, x - 24, foot], fill=(60, 56, 52))
        draw.rectangle([x + 24, foot - 10, x + 30, foot], fill=(60, 56, 52))


_LANES = (Lane(0.605, -1), Lane(0.77, 1))

PLACES: Mapping[str, Place] = MappingProxyType(
    {
        "street": Place(_paint_street, ((0.42, 0.46), (0.87, 0.98)), _LANES),
        "yard": Place(_paint_yard, ((0.5, 0.54), (0.87, 0.98)), _LANES),
        "square": Place(_paint_square, ((0.45, 0.98),), is_open=True),
    }
)
"""Name -> place. Cars keep to the right: in the near lane they go to the right, in the far one to the left."""
