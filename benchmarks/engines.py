"""How much faster other engines run each network than plain torch on this machine's CPU, and how far features lie.

    python benchmarks/engines.py [--repeats 5] [--out benchmarks/results/cpu-engines.json] [NETWORK ...]

For each network and precision the engines run the same batch in turn, so that what else the machine does falls on all
of them; a ratio is that of the medians to ``torch-eager``'s. Weights are random, with BatchNorm statistics of the
inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vadx.extract.engine import DEFAULT_BATCH, Engine
from vadx.extract.engines import ENGINES
from vadx.extract.library import load_backbone
from vadx.extract.transforms import Normalizer
from vadx.features.recipe import Transform

NETWORKS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "i3d": (3, 16, 224, 224),
        "c3d": (3, 16, 112, 112),
        "r2plus1d": (3, 16, 112, 112),
        "tsn-bninception": (3, 224, 224),
        "i3d-resnet50": (3, 16, 224, 224),
        "clip-vitb16": (3, 224, 224),
    }
)
"""Backbone -> the shape of one input."""

BY_WINOGRAD = ("c3d", "r2plus1d")
"""Those that `torch-winograd` can run, whether the table takes it for them or not."""

TRANSFORM = Transform(kernel="pil", resize=256, crop=224, center_rounding="floor", scale=2 / 255, offset=-1.0)
"""One normalisation for all: the speed does not depend on it, and no mean needs to be on the machine."""


def calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Give BatchNorm layers statistics as of a trained network: those of the inputs, then shaken by a tenth or so.

    With the statistics of a new network the signal dies out layer by layer, and errors with it.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        network(inputs)
    generator = torch.Generator().manual_seed(1)
    for layer in layers:
        layer.eval()
        if layer.running_mean is not None and layer.running_var is not None:
            noise = torch.randn(layer.running_mean.shape, generator=generator)
            layer.running_mean += 0.1 * noise * layer.running_var.sqrt()
            layer.running_var *= 0.8 + 0.4 * torch.rand(noise.shape, generator=generator)


def engines_of(network: str, precision: str) -> list[str]:
    """Give the engines of the table that run a network in this precision on CPUs, the plain one first."""
    return [
        name
        for name, row in ENGINES.items()
        if ("cpu", precision) in row.runs and (name != "torch-winograd" or network in BY_WINOGRAD)
    ]


def seconds(engine: Engine, inputs: Tensor) -> float:
    started = time.perf_counter()
    engine.run(inputs)
    return time.perf_counter() - started


def compare(name: str, precision: str, repeats: int) -> dict[str, Any]:
    backbone = load_backbone(name, "random:1")
    batch = DEFAULT_BATCH["cpu", backbone.frame_wise]
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(0, 256, (batch, *NETWORKS[name]), dtype=torch.uint8, generator=generator)
    calibrate(backbone.network, Normalizer(TRANSFORM, None)(inputs, torch.zeros(batch, dtype=torch.int64)))
    options: dict[str, Any] = {"device": torch.device("cpu"), "batch": batch}
    exact = Engine(backbone.network, TRANSFORM, precision="fp32", engine="torch-eager", **options).run(inputs)
    names = engines_of(name, precision)
    engines = {
        engine: Engine(backbone.network, TRANSFORM, precision=precision, engine=engine, **options) for engine in names
    }
    first: dict[str, float] = {}
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for engine in names:
        started = time.perf_counter()
        values[engine] = engines[engine].run(inputs).astype(np.float64)
        first[engine] = time.perf_counter() - started
        engines[engine].run(inputs)
    times: dict[str, list[float]] = {engine: [] for engine in names}
    for _ in range(repeats):
        for engine in names:
            times[engine].append(seconds(engines[engine], inputs))
    frames = batch * (1 if backbone.frame_wise else NETWORKS[name][1])
    medians = {engine: statistics.median(times[engine]) for engine in names}
    row: dict[str, Any] = {
        "network": name,
        "precision": precision,
        "batch": [batch, *NETWORKS[name]],
    }
    for engine in names:
        row[engine] = {
            "ratio": round(medians["torch-eager"] / medians[engine], 2),
            "ratio_of_fastest": round(min(times["torch-eager"]) / min(times[engine]), 2),
            "first_batch_seconds": round(first[engine], 1),
            "frames_per_second": round(frames / medians[engine], 1),
            "seconds": {
                "median": round(medians[engine], 4),
                "min": round(min(times[engine]), 4),
                "max": round(max(times[engine]), 4),
            },
            "relative_l2_to_torch_fp32": float(f"{relative_l2(values[engine], exact):.2e}"),
            "smallest_cosine_to_torch_fp32": round(smallest_cosine(values[engine], exact), 6),
        }
    return row


def relative_l2(got: Any, expected: Any) -> float:
    exact = expected.astype(np.float64)
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


def smallest_cosine(got: Any, expected: Any) -> float:
    exact = expected.astype(np.float64)
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(exact, axis=1)
    return float(((got * exact).sum(1) / lengths).min())


def machine() -> dict[str, Any]:
    """Give what the ratio depends on: cores and the instruction sets for matrix arithmetic; no names of hosts."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    vendor = next((name for name in ("AuthenticAMD", "GenuineIntel") if name in flags), platform.machine())
    return {
        "vendor": vendor,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "instruction_sets": [name for name in wanted if name in flags],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Engines against plain torch on this CPU.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        for precision in arguments.precisions:
            row = compare(name, precision, arguments.repeats)
            rows.append(row)
            for engine in engines_of(name, precision):
                print(
                    f"{name:16} {precision}  {engine:14} {row[engine]['ratio']:5.2f}x torch-eager  "
                    f"{row[engine]['frames_per_second']:.0f} frames/s  "
                    f"rel L2 {row[engine]['relative_l2_to_torch_fp32']:.1e}  "
                    f"cos {row[engine]['smallest_cosine_to_torch_fp32']:.5f}",
                    flush=True,
                )
            if arguments.out:
                # After every row: a run that is stopped has measured something.
                arguments.out.write_text(json.dumps(report(rows, arguments.repeats), indent=1) + "\n")


def report(rows: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/engines.py --repeats {repeats}",
        "versions": {name: version(name) for name in ("torch", "openvino", "numpy")},
        "machine": machine(),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
