"""What leaves a feature's bits alone, and how far other batch shapes, engines and precisions move it.

    python benchmarks/determinism.py [--out benchmarks/results/determinism.json] [NETWORK ...]

Under each engine and precision on the CPU the same two clips are run again, at another place beside another clip, in
another thread of the program, on one thread of arithmetic, and in another process: each either gives the same bits or
not. Then features of other batch shapes, engines and precisions are compared by relative L2 and cosine. Weights are
random, with BatchNorm statistics of the inputs; with ``--real CLIP ...`` networks that have weights on this machine
run on the frames of these files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from engines import NETWORKS as SHAPES
from engines import TRANSFORM, calibrate, engines_of, machine
from torch import Tensor

from vadx.extract.engine import Engine
from vadx.extract.library import Backbone, load_backbone
from vadx.extract.openvino_network import ModelCache
from vadx.extract.resize import resize
from vadx.extract.transforms import Normalizer, crop_frames
from vadx.extract.video import VideoReader
from vadx.features.recipe import Transform

Values = np.ndarray[Any, np.dtype[np.float32]]

NETWORKS = ("i3d", "r2plus1d", "c3d", "tsn-bninception")
REAL: Mapping[str, str] = MappingProxyType(
    {"i3d": "i3d-rgb-k400-tfhub", "tsn:timm/tf_efficientnet_lite0": "efficientnet-lite0-imagenet"}
)
"""Backbone -> its weights' name."""

BATCH = 2


def made(name: str) -> tuple[Backbone, Tensor]:
    """Give a network with random weights, and three inputs of noise."""
    backbone = load_backbone(name, "random:1")
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(0, 256, (3, *SHAPES[name]), dtype=torch.uint8, generator=generator)
    calibrate(backbone.network, Normalizer(TRANSFORM, None)(inputs, torch.zeros(3, dtype=torch.int64)))
    return backbone, inputs


class Runs:
    """Makes engines of one network; what OpenVINO converts is kept for the next."""

    def __init__(self, backbone: Backbone, transform: Transform, cache: Path) -> None:
        self._backbone, self._transform = backbone, transform
        self.network = backbone.name
        self._cache = ModelCache(cache, backbone.name)

    def engine(self, name: str, precision: str, *, batch: int = BATCH) -> Engine:
        options: dict[str, Any] = {"device": torch.device("cpu"), "engine": name, "cache": self._cache}
        return Engine(self._backbone.network, self._transform, precision=precision, batch=batch, **options)

    def values(self, name: str, precision: str, inputs: Tensor, *, batch: int = BATCH) -> Values:
        engine = self.engine(name, precision, batch=batch)
        return np.concatenate([engine.run(part) for part in inputs.split(batch)])


def constancy(runs: Runs, inputs: Tensor, engine_name: str, precision: str, again: list[str]) -> dict[str, bool]:
    """Say of each change whether it leaves the bits alone."""
    engine = runs.engine(engine_name, precision)
    base = engine.run(inputs[:2])
    in_thread: list[Values] = []
    thread = threading.Thread(target=lambda: in_thread.append(engine.run(inputs[:2])))
    thread.start()
    thread.join()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = runs.values(engine_name, precision, inputs[:2])
    finally:
        torch.set_num_threads(threads)
    other = subprocess.run(again, capture_output=True, text=True, check=True).stdout.split()[-1]
    return {
        "repeated": np.array_equal(engine.run(inputs[:2]), base),
        "other place and neighbour": np.array_equal(engine.run(inputs[[2, 0]])[1], base[0]),
        "filled up": np.array_equal(engine.run(inputs[:1])[0], base[0]),
        "another thread of the program": np.array_equal(in_thread[0], base),
        f"1 thread of arithmetic instead of {threads}": np.array_equal(single, base),
        "another process": other == digest(base),
    }


def digest(values: Values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def distance(got: Values, expected: Values) -> dict[str, float]:
    """Compare features row by row; the cosine's distribution is the least, the 5 % quantile and the median."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {
        "rows": len(a),
        "relative_l2": float(f"{np.linalg.norm(a - b) / np.linalg.norm(b):.2e}"),
        "cosine_least": round(float(cosines.min()), 7),
        "cosine_5_percent": round(float(np.quantile(cosines, 0.05)), 7),
        "cosine_median": round(float(np.median(cosines)), 7),
    }


def distances(runs: Runs, inputs: Tensor, *, batch: int = BATCH) -> dict[str, dict[str, float]]:
    values = {
        (engine, precision): runs.values(engine, precision, inputs, batch=batch)
        for precision in ("fp32", "bf16")
        for engine in engines_of(runs.network, precision)
    }
    eager, fast = ("torch-eager", "fp32"), ("openvino", "fp32")
    return {
        "torch-eager fp32: batch 1": distance(runs.values(*eager, inputs, batch=1), values[eager]),
        "openvino fp32: batch 1": distance(runs.values(*fast, inputs, batch=1), values[fast]),
        **{
            f"{engine} {precision} against torch-eager fp32": distance(got, values[eager])
            for (engine, precision), got in values.items()
            if (engine, precision) != eager
        },
        "openvino bf16 against torch-eager bf16": distance(values["openvino", "bf16"], values["torch-eager", "bf16"]),
    }


def real_inputs(backbone: Backbone, clips: list[Path], *, limit: int) -> Tensor:
    """Give at most ``limit`` inputs of each file, preprocessed as the network's preset says."""
    transform = backbone.recipe.transform
    taken = []
    for path in clips:
        with VideoReader(path) as reader:
            frames = np.concatenate([block.frames for block in reader])
        length = 1 if backbone.frame_wise else backbone.recipe.sampling.clip_length
        step = max(1, len(frames) // length // limit) * length
        for start in range(0, len(frames) - length + 1, step)[:limit]:
            images = torch.from_numpy(frames[start : start + length]).permute(0, 3, 1, 2)
            cut = crop_frames(resize(images, transform.resize, kernel=transform.kernel), transform)[0]
            taken.append(cut[0] if backbone.frame_wise else cut.transpose(0, 1))
    return torch.stack(taken).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description="What leaves a feature's bits alone, and what moves it how far.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--real", nargs="*", type=Path, default=[], metavar="CLIP")
    parser.add_argument("--limit", type=int, default=8, help="inputs of each real clip")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--digest-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.digest_of:
        name, engine, precision, cache = arguments.digest_of
        backbone, inputs = made(name)
        print(digest(Runs(backbone, TRANSFORM, Path(cache)).values(engine, precision, inputs[:2])))
        return
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if arguments.out:
            # After every row: a run that is stopped has measured something.
            arguments.out.write_text(json.dumps(report(rows), indent=1) + "\n")

    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.networks:
            backbone, inputs = made(name)
            runs = Runs(backbone, TRANSFORM, Path(cache))
            for precision in ("fp32", "bf16"):
                for engine in engines_of(name, precision):
                    again = [sys.executable, __file__, "--digest-of", name, engine, precision, cache]
                    same = constancy(runs, inputs, engine, precision, again)
                    keep({"network": name, "engine": engine, "precision": precision, "same_bits": same})
            keep({"network": name, "weights": "random", "distances": distances(runs, inputs[:2])})
        for name, weights in REAL.items() if arguments.real else ():
            backbone = load_backbone(name, weights)
            runs = Runs(backbone, backbone.recipe.transform, Path(cache))
            inputs = real_inputs(backbone, arguments.real, limit=arguments.limit)
            keep({"network": name, "weights": "real", "distances": distances(runs, inputs)})


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": "python benchmarks/determinism.py --real CLIP ...",
        "versions": {name: version(name) for name in ("torch", "openvino", "numpy")},
        "machine": machine(),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
