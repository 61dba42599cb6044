"""What moves in drawn scenes, as small pictures with an alpha channel: people, cars, bags, smoke, splinters.

Everything is drawn from a seed with Pillow and numpy; no picture is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Colour = tuple[int, int, int]

NUM_STEPS = 8
"""Pictures of a step, left and right."""

STANDING = 2 * NUM_STEPS
"""The pose of a person who stands. Poses 0 to 7 walk, 8 to 15 run."""

CRASHED = (1, 2, 3)
"""Poses of a car that was hit; 0 is the car as it drives."""

_PERSON = (72, 104)
_CAR = (232, 100)
_BAG = (48, 56)
_SMOKE = (112, 128)


class Stamp(NamedTuple):
    """A picture at its size: ``colour (height, width, 3)`` float32, multiplied by ``alpha (height, width, 1)``.

    ``left`` and ``top`` lead from the point that it stands on, its canvas' bottom centre, to its corner.
    """

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]
    left: int
    top: int


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How a thing looks: one picture ``(height, width, 4)`` uint8 for each pose, all of one size, facing right."""

    pictures: Sequence[NDArray[np.uint8]]
    _stamps: dict[tuple[int, int, bool], Stamp] = field(default_factory=dict, init=False, repr=False)

    def stamp(self, pose: int, height: int, *, is_mirrored: bool) -> Stamp:
        """Give a pose with its canvas ``height`` pixels high; the margin without colour is cut off."""
        key = pose, height, is_mirrored
        if key not in self._stamps:
            self._stamps[key] = _stamp(self.pictures[pose], height, is_mirrored=is_mirrored)
        return self._stamps[key]


def _stamp(picture: NDArray[np.uint8], height: int, *, is_mirrored: bool) -> Stamp:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    image = Image.fromarray(picture[:, ::-1] if is_mirrored else picture)
    # Pillow multiplies RGBA by alpha before it mixes pixels, so that no edge takes the colour of what is see-through.
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)
    alpha: NDArray[np.float32] = small[..., 3:] / np.float32(255)
    # Fainter than this changes no pixel by a whole level.
    rows, columns = (np.flatnonzero((alpha[..., 0] > 1 / 255).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Stamp(np.zeros((0, 0, 3), np.float32), np.zeros((0, 0, 1), np.float32), 0, 0)
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    colour: NDArray[np.float32] = small[..., :3] * alpha
    return Stamp(colour[cut], alpha[cut], int(columns[0]) - width // 2, int(rows[0]) - height)


def person(random: np.random.Generator) -> Look:
    """Draw a person: 8 poses that walk, 8 that run, one that stands."""
    shirt, trousers = _colour(random, 30, 220), _colour(random, 20, 120)
    skin = [(224, 182, 150), (198, 146, 110), (141, 92, 62), (92, 60, 42)][int(random.integers(4))]
    hair = _colour(random, 15, 90)
    girth = float(random.uniform(0.85, 1.2))
    grain = _grain(random, _PERSON)
    swings = [math.sin(2 * math.pi * step / NUM_STEPS) for step in range(NUM_STEPS)]
    gaits = [(0.45 * swing, 0.0) for swing in swings] + [(0.95 * swing, 0.24) for swing in swings] + [(0.06, 0.0)]
    return Look([_textured(_draw_person(shirt, trousers, skin, hair, girth, *gait), grain) for gait in gaits])


def _draw_person(
    shirt: Colour, trousers: Colour, skin: Colour, hair: Colour, girth: float, swing: float, lean: float
) -> Image.Image:
    """Draw one pose. ``swing`` is the angle of a leg, ``lean`` that of the back, forward."""
    image, draw = _canvas(_PERSON)
    middle, floor = _PERSON[0] / 2, _PERSON[1] - 4
    _shadow(draw, middle, floor, 17 * girth, 4)
    hip = (middle, floor - 46)
    neck = (middle + 34 * math.sin(lean), hip[1] - 34 * math.cos(lean))
    is_running = lean > 0
    for side in (-1, 1):
        knee = _along(hip, side * swing + (0.35 if is_running else 0.08), 23)
        foot = _along(knee, side * swing - (0.75 if is_running else 0.05), 23)
        shade = 0.78 if side < 0 else 1.0
        draw.line([hip, knee, foot], fill=_shaded(trousers, shade), width=round(9 * girth), joint="curve")
        draw.line([foot, (foot[0] + 6, foot[1])], fill=(25, 22, 20, 255), width=5)
    elbow = _along((neck[0], neck[1] + 4), -swing, 16)
    hand = _along(elbow, -swing + (1.3 if is_running else 0.15), 14)
    draw.line([hip, neck], fill=_shaded(shirt, 1.0), width=round(18 * girth))
    draw.ellipse(_around(neck[0], neck[1] + 4, 9 * girth, 6), fill=_shaded(shirt, 1.0))
    draw.line([(neck[0], neck[1] + 4), elbow, hand], fill=_shaded(shirt, 0.7), width=round(6 * girth), joint="curve")
    draw.ellipse(_around(*hand, 3, 3), fill=(*skin, 255))
    head = (neck[0] + 8 * math.sin(lean) + 1, neck[1] - 9)
    draw.ellipse(_around(*head, 7.5, 9), fill=(*hair, 255))
    draw.ellipse(_around(head[0] + 2.5, head[1] + 2, 5.5, 7), fill=(*skin, 255))
    return image


def car(random: np.random.Generator) -> Look:
    """Draw a car or a van from its side: as it drives, and in three ways tilted and dented."""
    paint = _colour(random, 25, 230)
    grain = _grain(random, _CAR)
    is_van = bool(random.random() < 0.3)
    whole = _textured(_draw_car(paint, is_van=is_van, dent=0), grain, 0.1)
    dented = Image.fromarray(_textured(_draw_car(paint, is_van=is_van, dent=14), grain, 0.1))
    pivot = (_CAR[0] / 2, _CAR[1] - 8)
    tilted = [dented.rotate(angle, Image.Resampling.BICUBIC, center=pivot) for angle in (-7, 5, 11)]
    return Look([whole, *(np.asarray(image) for image in tilted)])


def _draw_car(paint: Colour, *, is_van: bool, dent: float) -> Image.Image:
    image, draw = _canvas(_CAR)
    floor = _CAR[1] - 6
    _shadow(draw, _CAR[0] / 2, floor, 104, 6)
    top = floor - (78 if is_van else 62)
    front = 222 - dent
    roof = [(14, top + 4), (170, top)] if is_van else [(62, top), (138, top)]
    body = [(8, floor - 34), *roof, (178 if is_van else 172, floor - 38), (front, floor - 32), (front, floor - 10)]
    draw.polygon([*body, (8, floor - 10)], fill=_shaded(paint, 1.0))
    draw.polygon([(8, floor - 22), (front, floor - 20), (front, floor - 10), (8, floor - 10)], fill=_shaded(paint, 0.7))
    glass = (48, 62, 74, 255)
    if is_van:
        draw.polygon([(132, top + 8), (166, top + 8), (174, floor - 40), (132, floor - 40)], fill=glass)
    else:
        draw.polygon([(66, top + 5), (98, top + 5), (98, floor - 37), (42, floor - 37)], fill=glass)
        draw.polygon([(104, top + 5), (135, top + 5), (163, floor - 37), (104, floor - 37)], fill=glass)
    draw.rectangle([8, floor - 30, 14, floor - 22], fill=(190, 30, 24, 255))
    draw.rectangle([front - 6, floor - 29, front, floor - 20], fill=(244, 236, 190, 255))
    for wheel in (52, 178):
        draw.ellipse(_around(wheel, floor - 11, 15, 15), fill=(24, 24, 26, 255))
        draw.ellipse(_around(wheel, floor - 11, 7, 7), fill=(130, 132, 136, 255))
    return image


def bag(random: np.random.Generator) -> Look:
    """Draw a bag with a handle."""
    image, draw = _canvas(_BAG)
    paint = _colour(random, 20, 170)
    draw.arc([15, 4, 33, 26], 180, 360, fill=(30, 28, 26, 255), width=4)
    draw.rounded_rectangle([5, 15, 43, 53], 6, fill=_shaded(paint, 1.0))
    draw.rounded_rectangle([10, 31, 38, 49], 4, fill=_shaded(paint, 0.72))
    return Look([_textured(image, _grain(random, _BAG))])


def smoke(random: np.random.Generator, num_frames: int) -> Look:
    """Draw smoke that goes up with a flash, grows, drifts and thins out: a pose for each of its frames."""
    width, height = _SMOKE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    num_puffs = 16
    born = np.sort(random.uniform(0, 0.75, num_puffs)) * num_frames
    born[:3] = 0
    drift = random.uniform(-0.45, 0.45) + random.normal(0, 0.18, num_puffs)
    rise, size = random.uniform(0.9, 2.0, num_puffs), random.uniform(7, 13, num_puffs)
    tone = float(random.choice([55.0, 195.0]))
    grey = tone + random.uniform(-25, 25, num_puffs)
    pictures = []
    for frame in range(num_frames):
        light, cover = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        for puff in np.flatnonzero(born <= frame):
            age = frame - born[puff]
            radius = size[puff] + 0.45 * age
            centre = width / 2 + drift[puff] * age, height - 16 - rise[puff] * age
            # It thins out as it grows, and all of it in the last frames.
            strength = 0.8 * math.exp(-age / 28) * min(1.0, (num_frames - frame) / 8)
            puffed = strength * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (radius * 0.6) ** 2))
            light += puffed * np.float32(grey[puff])
            cover += puffed
        picture = np.zeros((height, width, 4), np.float32)
        picture[..., :3] = (light / np.maximum(cover, 1e-4))[..., None]
        opaque = 1 - np.exp(-2.2 * cover)
        glow = math.exp(-frame / 2.2) * np.exp(-((x - width / 2) ** 2 + (y - height + 20) ** 2) / (2 * 15.0**2))
        glowing = np.clip(glow, 0, 1)[..., None]
        picture[..., :3] = picture[..., :3] * (1 - glowing) + np.array([255, 226, 150], np.float32) * glowing
        opaque = np.maximum(opaque, glowing[..., 0])
        # Without this edge the picture's own border would show.
        border = np.minimum.reduce([x, width - 1 - x, y, height - 1 - y])
        picture[..., 3] = 255 * opaque * np.clip(border / 10, 0, 1)
        # What cannot be seen shall not widen the box.
        picture[..., 3][picture[..., 3] < 26] = 0
        pictures.append(picture.astype(np.uint8))
    return Look(pictures)


def splinters(random: np.random.Generator, num_frames: int) -> Look:
    """Draw splinters that fly from one point and fall: a pose for each frame."""
    num = 14
    speed = random.normal(0, 1, (num, 2)) * (4.5, 2.2) - (0, 4.0)
    pictures = []
    for frame in range(num_frames):
        image, draw = _canvas(_CAR)
        for across, up in speed:
            centre = _CAR[0] / 2 + across * frame, _CAR[1] - 34 + up * frame + 0.45 * frame**2
            draw.ellipse(_around(centre[0], min(centre[1], _CAR[1] - 4), 3.2, 2.2), fill=(40, 38, 36, 255))
        pictures.append(np.asarray(image))
    return Look(pictures)


def _canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGBA", size)
    return image, ImageDraw.Draw(image)


def _shadow(draw: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float) -> None:
    draw.ellipse(_around(x, y, width, height), fill=(0, 0, 0, 90))


def _around(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width, y - height, x + width, y + height


def _along(start: tuple[float, float], angle: float, length: float) -> tuple[float, float]:
    """Give the point that lies so far from ``start``, downwards at 0, forwards at a positive angle."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _colour(random: np.random.Generator, low: int, high: int) -> Colour:
    first, second, third = random.integers(low, high, 3).tolist()
    grey = (first + second + third) // 3
    # Much of the way to grey: clothes and cars are seldom as bright as random colours.
    return (2 * first + 3 * grey) // 5, (2 * second + 3 * grey) // 5, (2 * third + 3 * grey) // 5


def _shaded(colour: Colour, share: float) -> tuple[int, int, int, int]:
    first, second, third = (int(part * share) for part in colour)
    return first, second, third, 255


def _grain(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    noise = Image.fromarray(random.integers(0, 256, (size[1] // 5 + 1, size[0] // 5 + 1), dtype=np.uint8))
    smooth = np.asarray(noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1)), np.float32)
    return (smooth - 127.5)[..., None] / 127.5


def _textured(image: Image.Image, grain: NDArray[np.float32], strength: float = 0.26) -> NDArray[np.uint8]:
    picture = np.asarray(image, np.float32).copy()
    # Light from above, and the thing's own pattern.
    light = np.linspace(1.12, 0.82, len(picture), dtype=np.float32)[:, None, None]
    picture[..., :3] = picture[..., :3] * light * (1 + strength * grain)
    return picture.clip(0, 255).astype(np.uint8)
