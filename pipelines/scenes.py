"""Surveillance scenes that are drawn, so that what is true of them is known: which frames are anomalous, and where.

A fixed camera looks at a street, a yard or a square. People pass, stop and hurry, cars drive in their lanes and queue,
light drifts and jumps, the camera makes noise: in normal and in anomalous scenes alike. In an anomalous one something
of `scene_actors.ANOMALIES` happens among them. A scene follows from its seed alone, at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..features.box_truth import BoxTruth
from .scene_actors import ANOMALIES, SPLINTERS, Actor, Anomaly, Stage, clear_road, passer_by, traffic
from .scene_places import PLACES, draw_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..detectors.detections import Detections
    from .scene_sprites import Stamp

MIN_SHARE = 0.5
"""So much of an actor is in the picture, at least, in a frame in which it counts as being there."""

MIN_ANOMALOUS_FRAMES = 12
"""Less is no anomaly that anybody would see; another one is drawn then."""

_NUM_NOISE_FIELDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSettings:
    """How scenes are filmed: size in pixels, frames a second, from ``min_seconds`` to ``max_seconds``, and the standard
    deviation of the camera's noise in levels of 255.

    Raises
    ------
    UsageError
        if a value cannot be meant, or scenes would be too short for something to happen.
    """

    width: int = 240
    height: int = 180
    rate: Fraction = Fraction(25, 2)
    min_seconds: float = 8.0
    max_seconds: float = 12.0
    noise: float = 2.5

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2 or self.rate <= 0 or self.noise < 0:
            msg = (
                f"{self.width}x{self.height} at {self.rate} frames/s with noise {self.noise}: sides are even, from 32 "
                "pixels on, the rate is above 0 and noise 0 or more: give such values"
            )
            raise UsageError(msg)
        # Smoke takes up to 60 frames, and something normal comes first.
        if self.max_seconds < self.min_seconds or self.min_seconds * self.rate < 48:
            msg = (
                f"scenes of {self.min_seconds} to {self.max_seconds} s have {self.min_seconds * self.rate:g} frames or "
                "more; they need 48: give more seconds, or a higher rate"
            )
            raise UsageError(msg)

    def num_frames(self, random: np.random.Generator) -> int:
        """Draw a number of frames."""
        low, high = (round(seconds * self.rate) for seconds in (self.min_seconds, self.max_seconds))
        return int(random.integers(low, high + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorErrors:
    """What a drawn detector gets wrong: each side of a box moves by a normal number, ``jitter`` times the box's width
    or height; a box is missed with probability ``misses``; ``false_boxes`` is how many it makes up for each true one.
    """

    jitter: float = 0.05
    misses: float = 0.05
    false_boxes: float = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A scene. ``light (frame,)`` multiplies every pixel; ``background (height, width, 3)`` float32; ``is_grey`` where
    the camera has no colours. ``anomaly`` is None in a normal scene.
    """

    settings: SceneSettings
    background: NDArray[np.float32]
    actors: tuple[Actor, ...]
    anomaly: Anomaly | None
    class_name: str
    light: NDArray[np.float32]
    noise: NDArray[np.float32]
    is_grey: bool

    @property
    def num_frames(self) -> int:
        return len(self.light)

    @property
    def wrong_actors(self) -> tuple[Actor, ...]:
        """Those without whom the scene would be normal."""
        return () if self.anomaly is None else self.anomaly.actors

    def frame(self, number: int, *, without_anomaly: bool = False) -> NDArray[np.uint8]:
        """Draw a frame, ``(height, width, 3)`` RGB; ``without_anomaly`` without its `wrong_actors`."""
        picture = self.background.copy()
        wrong = self.wrong_actors if without_anomaly else ()
        seen = [actor for actor in self.actors if actor.is_there[number] and actor not in wrong]
        # What stands farther down stands nearer, and is in front.
        for actor in sorted(seen, key=lambda one: float(one.y[number]) + one.lift):
            stamp, left, top = self._stamp(actor, number)
            x1, y1, x2, y2 = self._inside(stamp, left, top)
            if x1 < x2 and y1 < y2:
                cut = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
                picture[y1:y2, x1:x2] *= 1 - stamp.alpha[cut]
                picture[y1:y2, x1:x2] += stamp.colour[cut]
        if self.is_grey:
            picture = np.repeat((picture @ np.array([0.3, 0.59, 0.11], np.float32))[..., None], 3, axis=2)
        picture *= self.light[number]
        # Of few fields, moved about: to draw a new one for every frame would cost more than all else.
        moved = (number * 37 % self.settings.height, number * 91 % self.settings.width)
        picture += np.roll(self.noise[number % len(self.noise)], moved, axis=(0, 1))
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Draw all frames in order."""
        return map(self.frame, range(self.num_frames))

    def box(self, actor: Actor, number: int) -> tuple[int, int, int, int] | None:
        """Give an actor's box in a frame, half-open ``x1, y1, x2, y2`` in the picture; None where it is not there, or
        less of it than `MIN_SHARE`.
        """
        if not actor.is_there[number]:
            return None
        stamp, left, top = self._stamp(actor, number)
        x1, y1, x2, y2 = self._inside(stamp, left, top)
        area = stamp.alpha.shape[0] * stamp.alpha.shape[1]
        if x1 >= x2 or y1 >= y2 or (x2 - x1) * (y2 - y1) < MIN_SHARE * area:
            return None
        return x1, y1, x2, y2

    def truth(self) -> BoxTruth:
        """Give one box for each anomalous frame, around all that is wrong in it; none for a normal scene."""
        rows = []
        for number in range(*self.anomaly.span) if self.anomaly is not None else ():
            boxes = [box for actor in self.wrong_actors if (box := self.box(actor, number)) is not None]
            if boxes:
                corners = np.array(boxes)
                rows.append((number, [*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)]))
        return BoxTruth.of_rows(
            np.array([number for number, _ in rows], np.int64),
            np.array([box for _, box in rows], np.float64).reshape(-1, 4),
        )

    def spans(self) -> NDArray[np.int64]:
        """Give the anomalous frames as half-open spans ``(span, 2)``: those that have a box in `truth`."""
        frames = self.truth().frames
        if not len(frames):
            return np.zeros((0, 2), np.int64)
        breaks = np.flatnonzero(np.diff(frames) > 1)
        return np.stack([frames[[0, *(breaks + 1)]], frames[[*breaks, len(frames) - 1]] + 1], axis=1)

    def detections(self, errors: DetectorErrors, seed: int) -> Detections:
        """Give what a detector finds: a box for everything that moves or was put down, with errors from ``seed``."""
        from ..detectors.detections import Detections

        random = np.random.default_rng(seed)
        rows: list[tuple[int, NDArray[np.float64], float, int]] = []
        size = np.array([self.settings.width, self.settings.height] * 2, np.float64)
        kinds = [actor.kind for actor in self.actors if actor.kind != SPLINTERS]
        for number in range(self.num_frames):
            for actor in self.actors:
                found = None if actor.kind == SPLINTERS else self.box(actor, number)
                if found is None:
                    continue
                box = np.array(found, np.float64)
                sides = np.tile(box[2:] - box[:2], 2)
                moved = (box + errors.jitter * sides * random.standard_normal(4)).clip(0, size)
                if random.random() >= errors.misses and (moved[2:] - moved[:2] >= 2).all():
                    rows.append((number, moved, float(random.uniform(0.7, 1.0)), actor.kind))
                if random.random() < errors.false_boxes:
                    corner, extent = random.uniform(0, 0.8, 2), random.uniform(0.08, 0.35, 2)
                    made_up = (np.concatenate([corner, corner + extent]) * size).clip(0, size)
                    rows.append((number, made_up, float(random.uniform(0.3, 0.8)), int(random.choice(kinds))))
        return Detections(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.float64).reshape(-1, 4),
            np.array([row[2] for row in rows], np.float64),
            np.array([row[3] for row in rows], np.int64),
            self.num_frames,
        )

    def _stamp(self, actor: Actor, number: int) -> tuple[Stamp, int, int]:
        """Give an actor's picture in a frame, and where its left top corner comes to lie."""
        tall = self.settings.height
        height = max(2, round(actor.height_at(number) * tall))
        stamp = actor.look.stamp(int(actor.poses[number]), height, is_mirrored=bool(actor.is_mirrored[number]))
        return (
            stamp,
            round(float(actor.x[number]) * tall) + stamp.left,
            round(float(actor.y[number]) * tall) + stamp.top,
        )

    def _inside(self, stamp: Stamp, left: int, top: int) -> tuple[int, int, int, int]:
        height, width = stamp.alpha.shape[:2]
        return (
            max(0, left),
            max(0, top),
            min(self.settings.width, left + width),
            min(self.settings.height, top + height),
        )


def make_scene(settings: SceneSettings, seed: int, anomaly: str | None = None) -> Scene:
    """Make the scene of a seed: a normal one, or one with an anomaly of a name in `ANOMALIES`.

    Raises
    ------
    UsageError
        for another name.
    """
    if anomaly is not None and anomaly not in ANOMALIES:
        msg = f"there is no anomaly {anomaly!r}: give one of {', '.join(ANOMALIES)}"
        raise UsageError(msg)
    random = np.random.default_rng((seed, 0))
    kind = None if anomaly is None else ANOMALIES[anomaly]
    usable = [name for name, place in PLACES.items() if place.lanes or kind is None or not kind.needs_lanes]
    place = PLACES[usable[int(random.integers(len(usable)))]]
    stage = Stage(place, settings.width / settings.height, settings.num_frames(random))
    people = [passer_by(stage, random) for _ in range(int(random.integers(2, 6)))]
    cars = [one for lane in place.lanes for one in traffic(stage, lane, random)]
    background = draw_place(place, settings.width, settings.height, random).astype(np.float32)
    light, noise, is_grey = _camera(settings, stage.num_frames, random)

    def scene(happening: Anomaly | None) -> Scene:
        added = () if happening is None else (*happening.actors, *happening.others)
        actors = (*people, *clear_road(cars, added), *added)
        name = "" if kind is None else kind.class_name
        return Scene(settings, background, actors, happening, name, light, noise, is_grey)

    if kind is None:
        return scene(None)
    attempt = 1
    while True:
        made = scene(kind.make(stage, np.random.default_rng((seed, attempt))))
        if len(made.truth()) >= MIN_ANOMALOUS_FRAMES:
            return made
        attempt += 1


def _camera(
    settings: SceneSettings, num_frames: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
    """Draw light ``(frame,)``, fields of noise ``(field, height, width, 3)``, and whether there are no colours.

    Light is that of a day or an evening, drifts like clouds, and jumps in one scene of three, as a camera's exposure.
    """
    is_evening = bool(random.random() < 0.2)
    base = float(random.uniform(0.5, 0.65) if is_evening else random.uniform(0.8, 1.1))
    times = np.arange(num_frames)
    drift = float(random.uniform(0.0, 0.1)) * np.sin(
        times / float(random.uniform(12, 60)) + float(random.uniform(0, 6))
    )
    jump = np.where(times >= int(random.integers(num_frames)), float(random.uniform(0.88, 1.12)), 1.0)
    light = base * (1 + drift) * (jump if random.random() < 1 / 3 else 1.0)
    strength = settings.noise * (1.6 if is_evening else 1.0)
    shape = _NUM_NOISE_FIELDS, settings.height, settings.width, 1
    is_grey = bool(random.random() < 0.2)
    colours = 1 if is_grey else 3
    noise = random.standard_normal((*shape[:3], colours), np.float32) * np.float32(strength)
    return light.astype(np.float32), noise, is_grey
