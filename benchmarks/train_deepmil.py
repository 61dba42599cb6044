"""Time training: DeepMIL on 1,610 bags of 32 x 4096, the size of UCF-Crime; ``benchmarks/results/train-deepmil.json``.

python benchmarks/train_deepmil.py                                  # 1,000 iterations, 3 repetitions
python benchmarks/train_deepmil.py --bags 200 --iterations 30       # small
python benchmarks/train_deepmil.py --json                           # the document on stdout as well

``vadx`` is all that `vadx train` does once the bags file is there: it draws and reads bags, trains, logs each tenth
iteration, and writes a checkpoint each 500. ``bare`` is the arithmetic alone of as many iterations, with torch's own
layers: network, loss and optimiser over and over on one batch that lies in memory, nothing drawn, read, logged or kept.
They take turns, so that what else runs on the machine slows both alike. Features are noise; every file is in the page
cache.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, significant, spread
from torch import nn

import vadx
from vadx.features import Bag
from vadx.features.bag_file import BagFile, write_bags
from vadx.pipelines.methods import find_method
from vadx.pipelines.train import TrainSettings, train
from vadx.pipelines.training_bags import TrainingBags

RESULTS = Path(__file__).parent / "results"
SEED = 0
NUM_SEGMENTS, DIM, HALF = 32, 4096, 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=1_610, help="bags, half of them anomalous")
    parser.add_argument("--iterations", type=int, default=1_000, help="of each repetition")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions")
    parser.add_argument("--threads", type=int, help="torch's threads; its own number by default")
    parser.add_argument("--folder", type=Path, help="where the files are made for the time being")
    parser.add_argument("--out", type=Path, default=RESULTS / "train-deepmil.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "bags.h5"
        write_bags(path, noise_bags(arguments.bags), rule="sultani", recipe_digest="0" * 64)
        timings: dict[str, list[float]] = {"vadx": [], "bare": []}
        for turn in range(arguments.repeat):
            timings["vadx"].append(time_vadx(path, Path(folder) / str(turn), arguments.iterations))
            timings["bare"].append(time_bare(arguments.iterations))
            print(f"{turn + 1}: vadx {timings['vadx'][-1]:.1f} s, bare {timings['bare'][-1]:.1f} s", file=sys.stderr)
    result = describe(timings, arguments)
    text = json.dumps(result, indent=1) + "\n"
    arguments.out.write_text(text)
    if arguments.json:
        print(text, end="")
    return 0


def noise_bags(num_bags: int) -> Iterator[Bag]:
    """Make bags of unit rows, as the rule ``sultani`` does."""
    random = np.random.default_rng(SEED)
    edges = 16 * np.arange(NUM_SEGMENTS + 1)
    frames = np.stack([edges[:-1], edges[1:]], axis=1)
    for number in range(num_bags):
        rows = np.abs(random.standard_normal((NUM_SEGMENTS, 1, DIM), dtype=np.float32))
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        yield Bag(f"v{number:05d}", rows, frames, int(edges[-1]), label=number % 2)


def time_vadx(path: Path, folder: Path, iterations: int) -> float:
    """Give the seconds that a training takes, from opening the bags file on."""
    began = time.perf_counter()
    method = find_method("deepmil").make(iterations=iterations)
    with BagFile(path) as file:
        train("deepmil", method, TrainingBags(file), folder, settings=TrainSettings(seed=SEED))
    return time.perf_counter() - began


def time_bare(iterations: int) -> float:
    """Give the seconds that the arithmetic alone takes."""
    torch.manual_seed(SEED)
    layers = nn.Sequential(
        *(nn.Linear(DIM, 512), nn.ReLU(), nn.Dropout(0.6), nn.Linear(512, 32), nn.Dropout(0.6)),
        *(nn.Linear(32, 1), nn.Sigmoid()),
    )
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    optimiser = torch.optim.Adagrad(layers.parameters(), lr=1e-3)
    batch = torch.rand(2 * HALF, NUM_SEGMENTS, DIM) / DIM**0.5
    began = time.perf_counter()
    for _ in range(iterations):
        scores = layers(batch).squeeze(-1)
        normal, anomalous = scores[:HALF], scores[HALF:]
        loss = torch.relu(1 - anomalous.amax(dim=1) + normal.amax(dim=1)).mean()
        loss = loss + 8e-5 * (anomalous[:, 1:] - anomalous[:, :-1]).square().sum(dim=1).mean()
        loss = loss + 8e-5 * anomalous.sum(dim=1).mean()
        loss = loss + 1e-3 * torch.cat([weight.flatten() for weight in weights]).norm()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimiser.step()
    return time.perf_counter() - began


def describe(timings: dict[str, list[float]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the document of the result."""
    ratios = [ours / bare for ours, bare in zip(timings["vadx"], timings["bare"], strict=True)]
    return {
        "command": shlex.join(["python", "benchmarks/train_deepmil.py", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {"vadx": vadx.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()},
        "notes": arguments.note,
        "bags": arguments.bags,
        "bag_shape": [NUM_SEGMENTS, 1, DIM],
        "iterations": arguments.iterations,
        "seconds": {name: spread(values) for name, values in timings.items()},
        "iterations_per_second": {
            name: significant(arguments.iterations / sorted(values)[len(values) // 2])
            for name, values in timings.items()
        },
        "vadx_over_bare": spread(ratios),
    }


if __name__ == "__main__":
    sys.exit(main())
