"""Time how boxes become tubes: boxes a second on one core, and recordings of up to ten hours, block by block;
``benchmarks/results/linking.json``.

python benchmarks/linking.py                        # everything, 5 repetitions, recordings of 0.1, 1 and 10 hours
python benchmarks/linking.py --hours 0.1 --repeat 3  # small
python benchmarks/linking.py --json                 # the document on stdout as well

Seconds are of processor time on one thread, so what else runs on the machine counts little. The scene is made up: 20
objects of 3 categories walk through a picture of 320x240 and turn at its edges; every 400 frames each is replaced by
another; 3 of 100 boxes are missed; in each frame one more box is clutter. A second scene has a parked car instead of
clutter, never missed: its tube, and for multivariate tubes whatever touches it, cannot be linked before the end.

The baseline is Algorithm 1 and 2 as they are printed, in numpy: for every seed the best of all boxes that are left, for
every step all boxes of the next frame. Each recording runs in a process of its own, which reports the most memory that
it had; making the scene is not timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import deliver, machine, significant, spread

import vadx
from vadx.detectors import Detections, multivariate_tubes, unary_tubes
from vadx.detectors.settings import LinkSettings
from vadx.detectors.streaming import TubeStream

RESULTS = Path(__file__).parent / "results"
SEED = 0
WIDTH, HEIGHT = 320, 240
NUM_OBJECTS = 20
NUM_LABELS = 3
LIFE_FRAMES = 400
MISSED = 0.03
FPS = 30
BLOCK_FRAMES = 2_000
SAMPLE_FRAMES = 8_000
BASELINE_FRAMES = 500
BASELINE_MIN_LENGTH = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[0.1, 1.0, 10.0], help="lengths of the recordings")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of what fits in memory")
    parser.add_argument("--out", type=Path, default=RESULTS / "linking.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    say("in memory")
    in_memory = time_in_memory(arguments.repeat)
    say("beside the printed algorithms")
    baseline = time_baseline(arguments.repeat)
    recordings = [
        record(kind, hours, parked=parked)
        for parked in (False, True)
        for kind in ("unary", "multivariate")
        for hours in arguments.hours
    ]
    result = {
        "command": shlex.join(["python", "benchmarks/linking.py", *sys.argv[1:]]),
        "versions": {
            "vadx": vadx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "machine": machine(),
        "seed": SEED,
        "repetitions": arguments.repeat,
        "notes": ["processor time of one thread; the scene is made up", *arguments.note],
        "settings": LinkSettings().record(stride=1),
        "in_memory": in_memory,
        "baseline": baseline,
        "recordings": recordings,
    }
    deliver(result, arguments, report)
    return 0


PARKED = (40.0, 150.0, 110.0, 200.0)


def scene(first_frame: int, num_frames: int, random: np.random.Generator, *, parked: bool = False) -> Detections:
    """Give the boxes of ``[first_frame, first_frame + num_frames)``; where objects are depends on the frame alone."""
    frame = np.arange(first_frame, first_frame + num_frames)[:, None]
    own = np.arange(NUM_OBJECTS)
    # Objects begin at different times, so that they do not all end at once.
    age, generation = (frame + own * 37) % LIFE_FRAMES, (frame + own * 37) // LIFE_FRAMES
    fate = generation * NUM_OBJECTS + own
    start_x, start_y, speed_x, speed_y, width, height, kind = (noise(fate, number) for number in range(7))
    sides = np.stack([12 + 40 * width, 12 + 40 * height], axis=2)
    room = np.array([WIDTH, HEIGHT]) - sides
    start = np.stack([start_x, start_y], axis=2) * room
    speed = (np.stack([speed_x, speed_y], axis=2) - 0.5) * 3
    path = np.abs((start + speed * age[..., None]) % (2 * room) - room)
    corner = path + random.normal(0, 0.7, path.shape)
    boxes = np.concatenate([corner, corner + sides], axis=2)
    clutter = random.uniform(0, 200, (num_frames, 1, 2))
    boxes = np.concatenate([boxes, np.concatenate([clutter, clutter + 20], axis=2)], axis=1).reshape(-1, 4)
    labels = np.concatenate([1 + (kind * NUM_LABELS).astype(int), np.ones((num_frames, 1), int)], axis=1).ravel()
    frames = np.repeat(frame.ravel(), NUM_OBJECTS + 1)
    seen = random.random(len(frames)) >= MISSED
    if parked:
        # The clutter's place is the car's.
        boxes[NUM_OBJECTS :: NUM_OBJECTS + 1] = PARKED
        labels[NUM_OBJECTS :: NUM_OBJECTS + 1] = 1
        seen[NUM_OBJECTS :: NUM_OBJECTS + 1] = True
    scores = random.random(len(frames), np.float32)
    return Detections(
        frames[seen], boxes[seen].astype(np.float32), scores[seen], labels[seen], first_frame + num_frames
    )


def noise(number: np.ndarray[Any, Any], salt: int) -> np.ndarray[Any, Any]:
    """Give a number in [0, 1) that is the same for the same ``number`` and ``salt``."""
    value = np.sin(number * 12.9898 + salt * 78.233) * 43758.5453
    return value - np.floor(value)


def time_in_memory(repeat: int) -> dict[str, Any]:
    found = scene(0, SAMPLE_FRAMES, np.random.default_rng(SEED))
    ways: dict[str, Callable[[], Any]] = {
        "unary": lambda: unary_tubes(found),
        "multivariate": lambda: multivariate_tubes(found),
        "unary_stream": lambda: streamed("unary", [found]),
        "multivariate_stream": lambda: streamed("multivariate", [found]),
        "unary_max_gap_1": lambda: unary_tubes(found, max_gap=1),
    }
    seconds = in_turns(ways, repeat)
    return {
        "frames": SAMPLE_FRAMES,
        "boxes": len(found),
        "tubes": {name: len(way()) for name, way in ways.items()},
        "seconds": seconds,
        "boxes_per_second": {name: significant(len(found) / values["median"]) for name, values in seconds.items()},
    }


def time_baseline(repeat: int) -> dict[str, Any]:
    found = scene(0, BASELINE_FRAMES, np.random.default_rng(SEED))
    ways: dict[str, Callable[[], Any]] = {
        "unary": lambda: unary_tubes(found, min_length=BASELINE_MIN_LENGTH),
        "unary_printed": lambda: printed_unary(found, BASELINE_MIN_LENGTH),
        "multivariate": lambda: multivariate_tubes(found, min_length=BASELINE_MIN_LENGTH),
        "multivariate_printed": lambda: printed_multivariate(found, BASELINE_MIN_LENGTH),
    }
    assert [t.members.tolist() for t in ways["unary"]()] == ways["unary_printed"]()
    members = [[rows.tolist() for rows in tube.members] for tube in ways["multivariate"]()]
    assert members == ways["multivariate_printed"]()
    seconds = in_turns(ways, repeat)
    return {
        "what": "Algorithms 1 and 2 as printed, with numpy over all boxes that are left; equal tubes",
        "frames": BASELINE_FRAMES,
        "boxes": len(found),
        "min_length": BASELINE_MIN_LENGTH,
        "seconds": seconds,
        "ratio_unary": significant(seconds["unary_printed"]["median"] / seconds["unary"]["median"]),
        "ratio_multivariate": significant(
            seconds["multivariate_printed"]["median"] / seconds["multivariate"]["median"]
        ),
    }


def overlap(box: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[:, 0] * sides[:, 1]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return shared / (((box[2] - box[0]) * (box[3] - box[1]) + areas) - shared)


def printed_unary(found: Detections, min_length: int) -> list[list[int]]:
    box, score = found.boxes.astype(np.float64), found.scores.astype(np.float64)
    tubes = []
    for label in np.unique(found.labels):
        left = found.labels == label
        while left.any():
            seed = int(np.argmax(np.where(left, score, -np.inf)))
            path = [seed]
            for step in (1, -1):
                current = seed
                while True:
                    near = np.flatnonzero(left & (found.frame_index == found.frame_index[current] + step))
                    iou = overlap(box[current], box[near])
                    link = np.where(iou > 0.1, (score[current] + score[near]) + 2.0 * iou, -np.inf)
                    if not (iou > 0.1).any():
                        break
                    current = int(near[np.argmax(link)])
                    path = [*path, current] if step == 1 else [current, *path]
            left[path] = False
            if len(path) >= min_length:
                tubes.append(path)
    return tubes


def printed_multivariate(found: Detections, min_length: int) -> list[list[list[int]]]:
    box = found.boxes.astype(np.float64)
    left = np.ones(len(found), np.bool_)
    tubes = []

    def touched(members: list[int], frame: int) -> list[int]:
        near = np.flatnonzero(left & (found.frame_index == frame))
        joins = np.zeros(len(near), np.bool_)
        for member in members:
            joins |= overlap(box[member], box[near]) > 0.1
        return near[joins].tolist()

    while left.any():
        seed = int(np.argmax(np.where(left, found.scores, -np.inf)))
        cluster = [touched([seed], int(found.frame_index[seed]))]
        for step in (1, -1):
            frame = int(found.frame_index[seed])
            while more := touched(cluster[-1 if step == 1 else 0], frame + step):
                frame += step
                cluster = [*cluster, more] if step == 1 else [more, *cluster]
        left[[row for members in cluster for row in members]] = False
        if len(cluster) >= min_length:
            tubes.append(cluster)
    return tubes


def streamed(kind: str, blocks: list[Detections]) -> list[Any]:
    stream = TubeStream(kind, LinkSettings())
    tubes = [tube for block in blocks for tube in stream.push(block)]
    return [*tubes, *stream.finish()]


def record(kind: str, hours: float, *, parked: bool) -> dict[str, Any]:
    say(f"{kind} tubes of {hours:g} hours{' with a parked car' if parked else ''}")
    # A fresh process each, because the most memory a process had never falls.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(link_recording, (kind, hours, parked))


def link_recording(kind: str, hours: float, parked: bool) -> dict[str, Any]:
    num_frames = int(hours * 3600 * FPS)
    random = np.random.default_rng(SEED)
    stream = TubeStream(kind, LinkSettings())
    counts = {"boxes": 0, "tubes": 0, "tube_frames": 0, "longest": 0, "most_open_boxes": 0}
    before = peak_megabytes()
    seconds = 0.0
    for first in range(0, num_frames, BLOCK_FRAMES):
        block = scene(first, min(BLOCK_FRAMES, num_frames - first), random, parked=parked)
        start = time.process_time()
        tubes = stream.push(block)
        if block.num_frames == num_frames:
            tubes += stream.finish()
        seconds += time.process_time() - start
        counts["boxes"] += len(block)
        counts["tubes"] += len(tubes)
        counts["tube_frames"] += sum(map(len, tubes))
        counts["longest"] = max([counts["longest"], *map(len, tubes)])
        counts["most_open_boxes"] = max(counts["most_open_boxes"], stream.num_open_boxes)
    return {
        "kind": kind,
        "scene": "walking and a parked car" if parked else "walking",
        "hours": hours,
        "frames": num_frames,
        "block_frames": BLOCK_FRAMES,
        **counts,
        "pruned_boxes": stream.num_pruned_boxes,
        "seconds": significant(seconds),
        "boxes_per_second": significant(counts["boxes"] / seconds),
        "peak_megabytes": significant(peak_megabytes()),
        "peak_megabytes_before": significant(before),
    }


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_turns(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            # The first time loads modules and fills caches.
            if turn:
                times[name].append(time.process_time() - start)
    return {name: spread(values) for name, values in times.items()}


def report(result: dict[str, Any]) -> Iterator[str]:
    memory, baseline = result["in_memory"], result["baseline"]
    yield f"{memory['boxes']} boxes in {memory['frames']} frames"
    for name, values in memory["seconds"].items():
        rate = f"{memory['boxes_per_second'][name]:,.0f} boxes/s"
        yield f"  {name:20} {values['median']:8.3f} s  ({values['min']:.3f} to {values['max']:.3f})  {rate}"
    yield f"{baseline['boxes']} boxes in {baseline['frames']} frames, times faster than the algorithms as printed"
    yield f"  unary {baseline['ratio_unary']:g}, multivariate {baseline['ratio_multivariate']:g}"
    for item in result["recordings"]:
        yield (
            f"  {item['kind']:12} {item['scene']:24} {item['hours']:5g} h {item['boxes']:>10} boxes "
            f"{item['seconds']:8.2f} s "
            f"{item['boxes_per_second']:>9,.0f} boxes/s {item['peak_megabytes']:6.0f} MB "
            f"{item['tubes']:>7} tubes, longest {item['longest']}, {item['most_open_boxes']} open at most"
        )


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
