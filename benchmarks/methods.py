"""Train every method on drawn scenes whose truth is known, from pixels to AUC and tubes; ``results/methods.json``.

python benchmarks/methods.py                            # 60 scenes to train on, 40 to test; the same command resumes
python benchmarks/methods.py --train 6 --test 4 --iterations 5 --out FILE   # small
python benchmarks/methods.py --methods svm deepmil      # only these, of what is kept in --home
python benchmarks/methods.py --json                     # the document on stdout as well

Scenes of 8 to 12 s at 12.5 frames/s, 240x180, of seed 0: half of them anomalous, each of the five kinds as often. All
methods see I3D RGB with the trained weights, 16 frames every 4, in bf16. ``mgpr`` also sees tubes, which are linked
from the true boxes of all that moves, with jitter, 5 % misses and 2 % false boxes.

Every method has its paper's settings but for the number of iterations, which is 300 or the paper's, if that is less:
batches are about as large as the training set, so that this is about 300 passes over it. The last checkpoint is
measured, on all decoded frames. Intervals are of videos drawn anew, 1,000 times.

What was fixed before anything was measured, `CLAIMS`: each temporal method reaches a frame AUC over 0.60; each lies
0.02 or more above the linear SVM, and the interval of the difference leaves 0 out for three at least; the MIoU of
``mgpr`` is twice that of a tube drawn at random, or more. So were the scenes, the stride and all settings. What misses
is reported.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import deliver

import vadx
from vadx.pipelines.bench_video import bench_folder
from vadx.pipelines.evaluation import bootstrap_difference
from vadx.pipelines.scene_chain import (
    BASELINE,
    WITH_TUBES,
    Chain,
    ChainSettings,
    JudgedMethod,
    needs_tubes,
    temporal_methods,
)
from vadx.pipelines.scene_files import SceneSet

RESULTS = Path(__file__).parent / "results"
LEAST_AUC, LEAST_GAIN, LEAST_CLEAR, LEAST_RATIO = 0.60, 0.02, 3, 2.0

CLAIMS = {
    "auc": f"each temporal method reaches a frame AUC over {LEAST_AUC}",
    "gain": f"each temporal method lies {LEAST_GAIN} or more above the linear SVM",
    "clear": f"the interval of that difference leaves 0 out for {LEAST_CLEAR} or more of them",
    "tubes": f"the MIoU of {WITH_TUBES} is {LEAST_RATIO:g} times that of a random tube, or more",
}
"""What shall be seen, fixed before anything was measured."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where scenes, features and models go; by default the cache folder")
    parser.add_argument("--train", type=int, default=60, help="scenes to train on")
    parser.add_argument("--test", type=int, default=40, help="scenes to test")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, trainings and intervals")
    parser.add_argument("--iterations", type=int, default=300, help="of a method at most")
    parser.add_argument("--precision", default="bf16", help="of the network: bf16 or fp32")
    parser.add_argument("--methods", nargs="+", default=list(temporal_methods()), help="which methods")
    parser.add_argument("--out", type=Path, default=RESULTS / "methods.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    settings = ChainSettings(
        scenes=SceneSet(num_train=arguments.train, num_test=arguments.test, seed=arguments.seed),
        methods=tuple(dict.fromkeys([BASELINE, *arguments.methods])),
        precision=arguments.precision,
        iterations=arguments.iterations,
        seed=arguments.seed,
    )
    home = arguments.home or bench_folder() / "methods"
    chain = Chain(home, settings, tell=lambda text: print(text, file=sys.stderr, flush=True))
    result = measure(chain)
    result["notes"] = arguments.note
    deliver(result, arguments, report)
    return 0


def measure(chain: Chain) -> dict[str, Any]:
    """Go through the chain and give the document."""
    settings = chain.settings
    chain.draw()
    features = chain.extract()
    tubes = chain.link() if needs_tubes(settings.methods) else None
    baseline: JudgedMethod | None = None
    rows = {}
    for name in settings.methods:
        judged = chain.train(name, features, tubes)
        baseline = judged if name == BASELINE else baseline
        rows[name] = row_of(judged, baseline, settings)
        print(f"{name}: frame AUC {ranged(rows[name]['frame_auc'])}", file=sys.stderr, flush=True)
    manifest = chain.manifest
    return {
        "command": shlex.join(["python", "benchmarks/methods.py", *sys.argv[1:]]),
        "versions": {
            "vadx": vadx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "machine": machine(),
        "seed": settings.seed,
        "scenes": settings.scenes.record(),
        "frames": {split: sum(e.num_frames or 0 for e in manifest if e.split == split) for split in ("train", "test")},
        "features": {"set": features.name, "recipe": features.recipe.to_mapping()},
        "tubes": None if tubes is None else {"set": tubes.name, "links": settings.link_settings().record(1)},
        "not_measured": [name for name in temporal_methods() if name not in rows],
        "claims": judge_claims(rows),
        "methods": rows,
    }


def row_of(judged: JudgedMethod, baseline: JudgedMethod | None, settings: ChainSettings) -> dict[str, Any]:
    """Give what is kept of a method."""
    evaluation = judged.evaluation.as_mapping()
    kept = ("frame_auc", "frame_average_precision", "subset_auc", "proposal_auc", "video_auc", "class_accuracy", "vauc")
    row: dict[str, Any] = {"iterations": judged.iterations, "last_losses": dict(judged.losses)}
    row |= {name: evaluation["metrics"][name] for name in kept if name in evaluation["metrics"]}
    row["classes"] = evaluation["classes"]
    if baseline is not None and baseline is not judged:
        gain = bootstrap_difference(
            judged.videos, baseline.videos, metric="frame_auc", bootstrap=settings.bootstrap, seed=settings.seed
        )
        row["above_baseline"] = {"value": gain.value, "low": gain.low, "high": gain.high}
    if judged.evaluation.tubes is not None:
        tubes = judged.evaluation.tubes.as_mapping()
        row["tubes"] = {name: tubes[name] for name in ("counts", "vauc", "false_alarm_rate", "localisation", "st_iou")}
    return row


def judge_claims(rows: dict[str, Any]) -> dict[str, Any]:
    """Hold what was measured against `CLAIMS`: what misses each, or whether it holds, None if that is not known."""
    temporal = {name: row for name, row in rows.items() if name != BASELINE}
    aucs = {name: row["frame_auc"]["value"] for name, row in temporal.items()}
    gains = {name: row["above_baseline"] for name, row in temporal.items()}
    clear = [name for name, gain in gains.items() if gain["low"] is not None and gain["low"] > 0]
    ratio = None
    if WITH_TUBES in rows and "tubes" in rows[WITH_TUBES]:
        found = rows[WITH_TUBES]["tubes"]["localisation"]["detector"]
        ratio = found["method"]["miou"] / found["random"]["miou"] if found["random"]["miou"] else None
    return {
        "auc": {"text": CLAIMS["auc"], "missed_by": [name for name, auc in aucs.items() if not auc > LEAST_AUC]},
        "gain": {
            "text": CLAIMS["gain"],
            "missed_by": [name for name, gain in gains.items() if not gain["value"] >= LEAST_GAIN],
        },
        "clear": {"text": CLAIMS["clear"], "holds": len(clear) >= LEAST_CLEAR, "of": clear},
        "tubes": {"text": CLAIMS["tubes"], "holds": None if ratio is None else ratio >= LEAST_RATIO, "ratio": ratio},
    }


def report(result: dict[str, Any]) -> list[str]:
    """Give the result as a table that Markdown reads."""
    lines = [
        "| method | iterations | frame AUC (95 %) | frame AP | above the SVM (95 %) |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["methods"].items():
        gain = row.get("above_baseline")
        cells = [
            f"`{name}`",
            f"{row['iterations']:,}",
            ranged(row["frame_auc"]),
            f"{row['frame_average_precision']['value']:.3f}",
            "" if gain is None else ranged(gain, signed=True),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, row in result["methods"].items():
        if "tubes" in row:
            found = row["tubes"]["localisation"]["detector"]
            numbers = ", ".join(f"{kind} {found[kind]['miou']:.3f}" for kind in ("method", "random", "best"))
            lines += ["", f"MIoU of `{name}`'s tubes: {numbers}"]
    missing = ", ".join(f"`{name}`" for name in result["not_measured"])
    lines += ["", *([f"Not measured: {missing}", ""] if missing else [])]
    for claim in result["claims"].values():
        outcome = f"missed by {', '.join(claim['missed_by']) or 'none'}" if "missed_by" in claim else claim["holds"]
        lines.append(f"- {claim['text']}: {outcome}")
    return lines


def ranged(found: dict[str, Any], *, signed: bool = False) -> str:
    """Give a number with its interval."""
    form = "+.3f" if signed else ".3f"
    if found["value"] is None:
        return "none"
    ends = "" if found["low"] is None else f" ({found['low']:{form}} to {found['high']:{form}})"
    return f"{found['value']:{form}}{ends}"


def machine() -> dict[str, Any]:
    """Give what is needed to judge the figures; no names of machines."""
    vendor = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        vendor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), vendor)
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "vendor": vendor,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
