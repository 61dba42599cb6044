"""Time how the insides of tubes are cut out of frames: RoIAlign for all boxes of a block of frames at once, beside a
loop that crops and resizes one box at a time; ``benchmarks/results/regions.json``.

python benchmarks/regions.py                            # 200 tubes over 320 frames of 320x240, 5 repetitions
python benchmarks/regions.py --tubes 40 --repeat 3      # small
python benchmarks/regions.py --device cuda --out FILE   # on a GPU
python benchmarks/regions.py --json                     # the document on stdout as well

Both ways get the same decoded frames, uint8 in memory, and the same boxes, and give every clip of every tube as uint8
``(3, 16, 112, 112)``, as a network takes it; nothing is kept of a clip. The network itself is not timed: one that costs
nothing stands for it. The ways:

roi_align
    `RegionStream` as it is, with its bookkeeping, without the whole frames.
cut
    `crop_regions` alone, on blocks of 16 frames.
loop
    for each tube and frame: cut the box out, to float, `F.interpolate`, round, as popular extractors do.
loop_antialias
    the same with ``antialias=True``, which RoIAlign with as many samples as pixels is near where boxes are large.

Everything runs on one thread first, in processor time, so what else runs on the machine counts little. A part of the
tubes then runs on every core, in wall time: that is how torch runs unless told otherwise, and on a busy machine its
threads wait for each other at every small step. On a GPU all is in wall time, and only `roi_align` has to bring the
frames there itself. The ways take turns. Boxes are whole pixels, because the loop can cut nothing else. The frames are
a smooth moving texture with noise, made up; so are the tubes, which differ in place, size, length and start.

On CPUs the loop is quicker: a small crop and resize costs little beside its pixels there, so there is nothing that
doing many at once could save, and torchvision's RoIAlign works pixel by pixel.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from measuring import deliver, machine, significant, spread
from torch.nn import functional

import vadx
from vadx.detectors import Tube
from vadx.detectors.region_boxes import align_regions, as_pictures, clip_spans, crop_regions
from vadx.detectors.regions import RegionSettings, RegionStream
from vadx.detectors.tubes import CLIP_LENGTH, MAX_TUBES

RESULTS = Path(__file__).parent / "results"
SEED = 0
WIDTH, HEIGHT = 320, 240
SIZE = 112
BLOCK_FRAMES = 16
MAX_CLIPS = 2
SIDES = {"small, 12 to 112": (12, 112), "large, 113 to 240": (113, 240)}
"""What boxes are like -> pixels of their sides. Small ones are enlarged, large ones shrunk."""

Array = np.ndarray[Any, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=320, help="frames of the video")
    parser.add_argument("--tubes", type=int, default=MAX_TUBES, help="tubes in it")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions")
    parser.add_argument("--device", default="cpu", help="where boxes are cut out: cpu or cuda")
    parser.add_argument("--out", type=Path, default=RESULTS / "regions.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    random = np.random.default_rng(SEED)
    frames = texture(arguments.frames, random)
    cases = []
    for name, sides in SIDES.items():
        tubes = [walk(arguments.frames, sides, random) for _ in range(arguments.tubes)]
        ways = Ways(frames, tubes, arguments.device)
        if arguments.device != "cpu":
            cases.append(measure(name, ways, arguments.repeat, threads=1, clock=time.perf_counter))
            continue
        cases.append(measure(name, ways, arguments.repeat, threads=1, clock=time.process_time))
        few = Ways(frames, tubes[: max(1, arguments.tubes // 16)], arguments.device)
        cases.append(measure(name, few, arguments.repeat, threads=os.cpu_count() or 1, clock=time.perf_counter))
    result = {
        "command": shlex.join(["python", "benchmarks/regions.py", *sys.argv[1:]]),
        "versions": {
            "vadx": vadx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "machine": machine(),
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
        "seed": SEED,
        "repetitions": arguments.repeat,
        "notes": ["frames and tubes are made up; the network costs nothing", *arguments.note],
        "settings": RegionSettings().record(),
        "frames": arguments.frames,
        "frame_size": [WIDTH, HEIGHT],
        "cases": cases,
    }
    deliver(result, arguments, report)
    return 0


def texture(num_frames: int, random: np.random.Generator) -> Array:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        for channel in range(3):
            wave = np.sin((x + 2 * number) / (7 + 3 * channel)) + np.sin((y - number) / (11 - 2 * channel))
            frame[..., channel] = np.clip(128 + 45 * wave + random.normal(0, 6, wave.shape), 0, 255)
    return frames


def walk(num_frames: int, sides: tuple[int, int], random: np.random.Generator) -> Tube:
    """Give a tube of full clips that walks, with boxes of whole pixels within the picture."""
    num_clips = int(random.integers(1, MAX_CLIPS + 1))
    length = num_clips * CLIP_LENGTH
    first = int(random.integers(0, num_frames - length + 1))
    side = random.integers(sides[0], sides[1] + 1, 2)
    extent = np.clip(side + random.integers(-2, 3, (length, 2)), *sides)
    room = np.array([WIDTH, HEIGHT]) - extent
    corner = np.clip(random.uniform(0, 1, 2) * room + np.cumsum(random.normal(0, 1, (length, 2)), axis=0), 0, room)
    corner = corner.astype(int)
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float64)
    return Tube(np.arange(first, first + length), boxes, np.full(length, 0.5), 1, np.arange(length))


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """What is cut out of what, and where."""

    frames: Array
    tubes: list[Tube]
    device: str


def measure(name: str, what: Ways, repeat: int, *, threads: int, clock: Callable[[], float]) -> dict[str, Any]:
    print(f"{name} pixels, {threads} threads", file=sys.stderr)
    torch.set_num_threads(threads)
    placed = torch.from_numpy(what.frames).to(what.device)
    ways: dict[str, Callable[[], Any]] = {
        "roi_align": lambda: streamed(what),
        "cut": lambda: cut(placed, what.tubes),
        "loop": lambda: loop(placed, what.tubes, antialias=False),
        "loop_antialias": lambda: loop(placed, what.tubes, antialias=True),
    }
    seconds = in_turns(ways, repeat, clock)
    return {
        "sides": name,
        "threads": threads,
        "clock": clock.__name__,
        "tubes": len(what.tubes),
        "boxes": sum(map(len, what.tubes)),
        "clips": sum(len(clip_spans(len(one), CLIP_LENGTH)) for one in what.tubes),
        "seconds": seconds,
        "ratio": {
            f"{slow} / {fast}": significant(seconds[slow]["median"] / seconds[fast]["median"])
            for slow in ("loop", "loop_antialias")
            for fast in ("roi_align", "cut")
        },
        "differences": differences(torch.from_numpy(what.frames), what.tubes),
    }


class Free:
    """A network that costs nothing."""

    batch = 32

    def run(self, inputs: torch.Tensor, /) -> Array:
        return np.zeros((len(inputs), 1), np.float32)


def streamed(what: Ways) -> int:
    blank = torch.zeros((BLOCK_FRAMES, 3, SIZE, SIZE), dtype=torch.uint8, device=what.device)
    frames = what.frames
    stream = RegionStream(
        what.tubes,
        settings=RegionSettings(),
        network=Free(),
        prepare=lambda block: blank[: len(block)],
        clip_length=CLIP_LENGTH,
        size=SIZE,
        width=WIDTH,
        height=HEIGHT,
        num_frames=len(frames),
        device=what.device,
    )
    for start in range(0, len(frames), BLOCK_FRAMES):
        stream.push(frames[start : start + BLOCK_FRAMES])
    return sum(found.num_clips for found in stream.finish())


def cut(frames: torch.Tensor, tubes: list[Tube]) -> int:
    frame = np.concatenate([one.frames for one in tubes])
    boxes = np.concatenate([one.boxes for one in tubes]).astype(np.float32)
    num = 0
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = as_pictures(frames[start : start + BLOCK_FRAMES].permute(0, 3, 1, 2))
        own = np.flatnonzero((frame >= start) & (frame < start + BLOCK_FRAMES))
        # About as many at a time as the stream cuts.
        for few in np.array_split(own, max(1, len(own) // 400)):
            num += len(crop_regions(block, frame[few] - start, boxes[few], SIZE))
    return num


def loop(frames: torch.Tensor, tubes: list[Tube], *, antialias: bool) -> int:
    num = 0
    for one in tubes:
        for start, stop in clip_spans(len(one), CLIP_LENGTH).tolist():
            clip = [
                resized(frames[int(one.frames[i])], one.boxes[i].astype(int).tolist(), antialias=antialias)
                .round()
                .byte()
                for i in range(start, stop)
            ]
            num += torch.stack(clip, dim=1).shape[1]
    return num


def resized(frame: torch.Tensor, box: list[int], *, antialias: bool) -> torch.Tensor:
    left, top, right, bottom = box
    inside = frame[top:bottom, left:right].permute(2, 0, 1).float()[None]
    return functional.interpolate(inside, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=antialias)[0]


def differences(frames: torch.Tensor, tubes: list[Tube]) -> dict[str, dict[str, float]]:
    """Compare the first box of each tube, on the 0-255 scale, before rounding: all pixels, and those whose samples lie
    half a pixel or more within the box.
    """
    found: dict[str, list[Array]] = {}
    for one in tubes:
        box = one.boxes[0].astype(int).tolist()
        frame = frames[int(one.frames[0])]
        ours = align_regions(
            frame.permute(2, 0, 1)[None], np.zeros(1, np.int64), one.boxes[:1].astype(np.float32), SIZE
        )[0]
        x, y = ((np.arange(SIZE) + 0.5) * side / SIZE - 0.5 for side in (box[2] - box[0], box[3] - box[1]))
        inner = ((y >= 0) & (y <= box[3] - box[1] - 1))[:, None] & ((x >= 0) & (x <= box[2] - box[0] - 1))
        for name, antialias in (("loop", False), ("loop_antialias", True)):
            off = (ours - resized(frame, box, antialias=antialias)).abs().numpy()
            found.setdefault(name, []).append(off.ravel())
            found.setdefault(f"{name}_inner", []).append(off[:, inner].ravel())
    together = {name: np.concatenate(values) for name, values in found.items()}
    return {
        name: {"max": significant(float(values.max())), "mean": significant(float(values.mean()))}
        for name, values in together.items()
    }


def in_turns(
    ways: dict[str, Callable[[], Any]], repeat: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            # The first time loads modules and fills caches.
            if turn:
                times[name].append(clock() - start)
    return {name: spread(values) for name, values in times.items()}


def report(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['frames']} frames of {WIDTH}x{HEIGHT}"
    for case in result["cases"]:
        yield f"{case['sides']} pixels: {case['boxes']} boxes in {case['tubes']} tubes, {case['threads']} threads"
        for way, values in case["seconds"].items():
            each = 1e6 * values["median"] / case["boxes"]
            around = f"({values['min']:.2f} to {values['max']:.2f})"
            yield f"  {way:16} {values['median']:7.2f} s  {around:18} {each:6.0f} us a box"
        for pair, ratio in case["ratio"].items():
            yield f"  {pair:28} {ratio:g}"
        for way, values in case["differences"].items():
            yield f"  differs from {way:22} by {values['mean']:g} on average, {values['max']:g} at most, of 255"


if __name__ == "__main__":
    sys.exit(main())
