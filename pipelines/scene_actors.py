"""Who is in a drawn scene and where they are in each of its frames: people and cars that behave, and those that do not.

Lengths are shares of the picture's height and times are frames, so that a scene looks the same at every size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from . import scene_sprites
from .scene_places import Lane, Place, size_at
from .scene_sprites import CRASHED, NUM_STEPS, STANDING, Look

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERSON, CAR, SUITCASE, SMOKE, SPLINTERS = 1, 3, 33, 91, 92
"""What actors are: COCO's numbers, and the first after them."""

SIZES: Mapping[int, float] = MappingProxyType({PERSON: 0.25, CAR: 0.28, SUITCASE: 0.105, SMOKE: 0.52, SPLINTERS: 0.28})
"""Kind of actor -> height of its canvas where things look as large as they are."""

WALKING_SPEED = (0.0095, 0.0135)
"""Of a person, a frame: 1.0 to 1.4 m/s at 12.5 frames/s."""
DRIVING_SPEED = (0.019, 0.028)
_STRIDE = 0.15
"""Two steps of a person who walks."""
_CAR_LENGTH = SIZES[CAR] * 2.2


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """Somebody or something in a scene. All arrays have a row a frame: ``x`` and ``y``, the point that it stands on;
    ``poses``, of its look; ``is_there``; ``is_mirrored``. ``lift`` is how far nearer it is drawn than it stands.
    """

    kind: int
    look: Look
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    poses: NDArray[np.int64]
    is_there: NDArray[np.bool_]
    is_mirrored: NDArray[np.bool_]
    size: float = 1.0
    lift: float = 0.0

    def height_at(self, frame: int) -> float:
        """Give the height of its canvas in a frame."""
        return SIZES[self.kind] * self.size * cast("float", size_at(float(self.y[frame])))


class Anomaly(NamedTuple):
    """What happens: who takes part and in which frames ``[start, stop)`` it shows, as far as they are in the picture.
    ``others`` take part too but do nothing wrong.
    """

    actors: tuple[Actor, ...]
    span: tuple[int, int]
    others: tuple[Actor, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where actors are put: a place, the picture's width over its height, and the number of frames."""

    place: Place
    aspect: float
    num_frames: int

    @property
    def frames(self) -> NDArray[np.int64]:
        return np.arange(self.num_frames)


@dataclass(frozen=True, slots=True)
class AnomalyKind:
    """A row of `ANOMALIES`: ``needs_lanes`` is whether it happens only where cars drive."""

    class_name: str
    meaning: str
    make: Callable[[Stage, np.random.Generator], Anomaly]
    needs_lanes: bool = False


def _steps(distance: NDArray[np.float64], speed: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give the poses of a person who covered ``distance`` so far: of a walk, of a run, or standing."""
    is_running = speed > 1.5 * WALKING_SPEED[1] * size
    # Who runs takes strides twice as long.
    phase = np.cumsum(np.where(is_running, 0.5, 1.0) * speed / size) / _STRIDE
    poses = np.floor(phase * NUM_STEPS).astype(np.int64) % NUM_STEPS + np.where(is_running, NUM_STEPS, 0)
    return np.where(speed < 1e-6, STANDING, poses)


def _person(
    stage: Stage,
    random: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    pace: NDArray[np.float64],
) -> Actor:
    """Make a person who goes from ``start`` in the direction ``heading``, an angle, so fast: ``pace (frame,)`` is a
    signed multiple of an own walking speed, negative on the way back.
    """
    speed = float(random.uniform(*WALKING_SPEED))
    size = float(size_at(start[1]))
    moved = np.cumsum(pace * speed * size)
    x, y = start[0] + moved * np.cos(heading), start[1] + moved * np.sin(heading)
    # Nobody walks into the houses or below the picture's edge.
    top, bottom = stage.place.walkways[0][0], stage.place.walkways[-1][1]
    y = y.clip(top, bottom) if stage.place.is_open else y
    each = np.abs(pace) * speed * size
    poses = _steps(np.abs(moved), each, np.full(len(each), size))
    goes_left = np.cos(heading) * pace < 0
    # Who stands looks where they last went.
    last = np.maximum.accumulate(np.where(np.abs(pace) > 0, stage.frames, 0))
    return Actor(
        PERSON,
        scene_sprites.person(random),
        x,
        y,
        poses,
        np.ones(stage.num_frames, np.bool_),
        goes_left[last],
        size=float(random.uniform(0.9, 1.1)),
    )


def _walk_start(stage: Stage, random: np.random.Generator, x: float) -> tuple[tuple[float, float], float]:
    """Draw where somebody begins and where they head, along a walkway or across an open place."""
    band = stage.place.walkways[int(random.integers(len(stage.place.walkways)))]
    y = float(random.uniform(*band))
    heading = 0.0 if random.random() < 0.5 else np.pi
    if stage.place.is_open:
        heading += float(random.uniform(-0.45, 0.45))
    return (x, y), heading


def passer_by(stage: Stage, random: np.random.Generator) -> Actor:
    """Make a person who passes: one in three stops for a while, one in eight hurries, one in six just stands."""
    start, heading = _walk_start(stage, random, float(random.uniform(-0.25, stage.aspect + 0.25)))
    pace = np.ones(stage.num_frames)
    chance = random.random()
    if chance < 1 / 3:
        stop = int(random.integers(0, stage.num_frames))
        pace[stop : stop + int(random.integers(15, 50))] = 0
    elif chance < 1 / 3 + 1 / 8:
        pace[:] = 1.4
    elif chance < 1 / 3 + 1 / 8 + 1 / 6:
        pace[:] = 0
    return _person(stage, random, start, heading, pace)


def _car_at(
    stage: Stage, random: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64], *, goes_left: bool
) -> Actor:
    return Actor(
        CAR,
        scene_sprites.car(random),
        x,
        y,
        np.zeros(stage.num_frames, np.int64),
        np.ones(stage.num_frames, np.bool_),
        np.full(stage.num_frames, goes_left),
        size=float(random.uniform(0.92, 1.08)),
    )


def traffic(stage: Stage, lane: Lane, random: np.random.Generator) -> list[Actor]:
    """Make the cars of a lane. They keep their distance; in one lane of three they all stop for a while."""
    size = float(size_at(lane.y))
    speed = float(random.uniform(*DRIVING_SPEED)) * size
    pace = np.ones(stage.num_frames)
    if random.random() < 1 / 3:
        stop = int(random.integers(0, stage.num_frames))
        length = int(random.integers(15, 45))
        pace[stop : stop + length] = 0
        # Nobody stands at once.
        pace = np.convolve(np.pad(pace, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    moved = np.cumsum(pace * speed)
    cars = []
    place = stage.aspect + float(random.uniform(-0.5, 0.6))
    while place > -moved[-1] - _CAR_LENGTH:
        x = place + moved if lane.direction > 0 else stage.aspect - place - moved
        y = np.full(stage.num_frames, lane.y)
        cars.append(_car_at(stage, random, x, y, goes_left=lane.direction < 0))
        place -= size * _CAR_LENGTH * float(random.uniform(1.7, 5.0))
    return cars


def clear_road(cars: Sequence[Actor], anomaly: Sequence[Actor]) -> list[Actor]:
    """Leave out the cars that would drive through one of an anomaly."""
    others = [actor for actor in anomaly if actor.kind == CAR]
    return [car for car in cars if not any(_meet(car, other) for other in others)]


def _meet(first: Actor, second: Actor) -> bool:
    near = np.abs(first.x - second.x) < _CAR_LENGTH * np.asarray(size_at(first.y))
    return bool((near & (np.abs(first.y - second.y) < 0.06)).any())


def _collision(stage: Stage, random: np.random.Generator) -> Anomaly:
    """One car stops and the next drives into it, or one leaves its lane and meets another head on."""
    hit = round(stage.num_frames * float(random.uniform(0.35, 0.6)))
    to = stage.frames - hit
    lane = stage.place.lanes[int(random.integers(len(stage.place.lanes)))]
    size = float(size_at(lane.y))
    speed, reach = float(random.uniform(*DRIVING_SPEED)) * size, 0.46 * _CAR_LENGTH * size
    meeting = stage.aspect * float(random.uniform(0.35, 0.65))
    after = to.clip(0)
    slide = 0.05 * size * (1 - np.exp(-after / 3))
    is_head_on = bool(random.random() < 0.5)
    driven = speed * to.clip(None, 0)
    x = meeting + lane.direction * (driven - reach + slide)
    first = _car_at(stage, random, x, np.full(stage.num_frames, lane.y), goes_left=lane.direction < 0)
    y = np.full(stage.num_frames, lane.y + 0.012)
    if is_head_on:
        (other,) = (one for one in stage.place.lanes if one is not lane)
        swerve = ((to + 12) / 12).clip(0, 1)
        y = other.y + (y - other.y) * swerve**1.5
        x = meeting - lane.direction * (driven - reach + slide)
    else:
        # It brakes hard, stands, and is pushed on.
        standing = 10
        braked = np.where(to < -standing, speed * (to + standing), 0.0)
        x = meeting + lane.direction * (braked + reach + 1.6 * slide)
    second = _car_at(stage, random, x, y, goes_left=(lane.direction > 0) == is_head_on)
    for actor in (first, second):
        actor.poses[to >= 0] = CRASHED[int(random.integers(len(CRASHED)))]
    flying = (to >= 0) & (to < 14)
    debris = Actor(
        SPLINTERS,
        scene_sprites.splinters(random, 14),
        np.full(stage.num_frames, meeting),
        np.full(stage.num_frames, lane.y + 0.02),
        to.clip(0, 13),
        flying,
        np.zeros(stage.num_frames, np.bool_),
        lift=0.03,
    )
    return Anomaly((first, second, debris), (hit - 8, stage.num_frames))


def _running(stage: Stage, random: np.random.Generator) -> Anomaly:
    """Somebody walks, then runs, and mostly turns and runs back."""
    begin = round(stage.num_frames * float(random.uniform(0.25, 0.55)))
    goes_right = bool(random.random() < 0.5)
    (_, y), heading = _walk_start(stage, random, 0.0)
    slant = heading if np.cos(heading) > 0 else heading - np.pi
    # As far from the edge as a slow walk leads until it begins.
    far = stage.aspect * float(random.uniform(0.2, 0.35)) - begin * 0.0095 * float(size_at(y))
    pace = np.ones(stage.num_frames)
    fast = float(random.uniform(3.0, 3.8))
    pace[begin:] = fast
    if random.random() < 0.65:
        # Before the other edge.
        turn = begin + round(0.45 * stage.aspect / (fast * 0.0115 * float(size_at(y))))
        pace[turn:] = -fast
    start = (far if goes_right else stage.aspect - far, y)
    runner = _person(stage, random, start, slant if goes_right else np.pi - slant, pace)
    return Anomaly((runner,), (begin, stage.num_frames))


def _wrong_direction(stage: Stage, random: np.random.Generator) -> Anomaly:
    """A car drives against its lane."""
    lane = stage.place.lanes[int(random.integers(len(stage.place.lanes)))]
    size = float(size_at(lane.y))
    begin = round(stage.num_frames * float(random.uniform(0.1, 0.35)))
    driven = float(random.uniform(*DRIVING_SPEED)) * size * (stage.frames - begin) - 0.5 * size * _CAR_LENGTH
    x = np.asarray(driven if lane.direction < 0 else stage.aspect - driven, np.float64)
    wrong = _car_at(stage, random, x, np.full(stage.num_frames, lane.y), goes_left=lane.direction > 0)
    return Anomaly((wrong,), (begin, stage.num_frames))


def _abandoned(stage: Stage, random: np.random.Generator) -> Anomaly:
    """Somebody carries a bag, stops, puts it down and goes away without it."""
    left = round(stage.num_frames * float(random.uniform(0.3, 0.5)))
    goes_right = bool(random.random() < 0.5)
    (_, y), _ = _walk_start(stage, random, 0.0)
    pace = np.ones(stage.num_frames)
    pause = int(random.integers(8, 15))
    pace[left - pause : left] = 0
    pace[left:] = 1.3
    far = stage.aspect * float(random.uniform(0.3, 0.5)) - (left - pause) * 0.0115 * float(size_at(y))
    start = (far if goes_right else stage.aspect - far, y)
    carrier = _person(stage, random, start, 0.0 if goes_right else np.pi, pace)
    side = 0.045 * float(size_at(y)) * (1 if goes_right else -1)
    down = left - pause // 2
    carried = stage.frames < down
    x = np.where(carried, carrier.x + side, carrier.x[down] + side)
    bag = Actor(
        SUITCASE,
        scene_sprites.bag(random),
        x,
        # Above the ground while it is carried.
        np.where(carried, carrier.y - 0.028 * float(size_at(y)), carrier.y[down]),
        np.zeros(stage.num_frames, np.int64),
        np.ones(stage.num_frames, np.bool_),
        np.zeros(stage.num_frames, np.bool_),
        lift=0.05,
    )
    return Anomaly((bag,), (left, stage.num_frames), others=(carrier,))


def _smoke(stage: Stage, random: np.random.Generator) -> Anomaly:
    """Something flashes and smokes."""
    begin = round(stage.num_frames * float(random.uniform(0.2, 0.5)))
    num_frames = min(int(random.integers(38, 60)), stage.num_frames - begin)
    band = stage.place.walkways[int(random.integers(len(stage.place.walkways)))]
    cloud = Actor(
        SMOKE,
        scene_sprites.smoke(random, num_frames),
        np.full(stage.num_frames, stage.aspect * float(random.uniform(0.25, 0.75))),
        np.full(stage.num_frames, float(random.uniform(*band))),
        (stage.frames - begin).clip(0, num_frames - 1),
        (stage.frames >= begin) & (stage.frames < begin + num_frames),
        np.zeros(stage.num_frames, np.bool_),
        size=float(random.uniform(0.8, 1.15)),
    )
    return Anomaly((cloud,), (begin, begin + num_frames))


ANOMALIES: Mapping[str, AnomalyKind] = MappingProxyType(
    {
        "collision": AnomalyKind("Collision", "two cars collide and stay where they are", _collision, needs_lanes=True),
        "running": AnomalyKind("Running", "somebody runs among people who walk", _running),
        "wrong-direction": AnomalyKind(
            "WrongDirection", "a car drives against its lane", _wrong_direction, needs_lanes=True
        ),
        "abandoned": AnomalyKind("AbandonedObject", "somebody puts a bag down and leaves it there", _abandoned),
        "smoke": AnomalyKind("Smoke", "something flashes and smokes", _smoke),
    }
)
"""Name -> kind of anomaly."""
