"""Draw a contact sheet of the benchmark's scenes: one of each kind, with the box of what is wrong; ``docs/scenes.jpg``.

python benchmarks/scenes.py                     # from training scenes of seed 0
python benchmarks/scenes.py --out sheet.jpg --columns 8
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vadx.pipelines.scene_actors import ANOMALIES
from vadx.pipelines.scene_files import SceneSet
from vadx.pipelines.scenes import Scene, make_scene

DOCS = Path(__file__).parent.parent / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=5, help="frames of a scene")
    parser.add_argument("--width", type=int, default=176, help="of a frame, in pixels")
    parser.add_argument("--out", type=Path, default=DOCS / "scenes.jpg", help="where the picture goes")
    arguments = parser.parse_args()
    chosen = SceneSet()
    first = {}
    for planned in chosen.videos():
        first.setdefault(planned.kind, planned)
    rows = []
    for kind in (None, *ANOMALIES):
        scene = make_scene(chosen.scenes, first[kind].seed, kind)
        rows.append(np.hstack([framed(scene, number, arguments.width) for number in shown(scene, arguments.columns)]))
    arguments.out.parent.mkdir(exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(arguments.out, quality=82)
    print(arguments.out, file=sys.stderr)
    return 0


def shown(scene: Scene, number: int) -> list[int]:
    """Choose frames: one before what is wrong and the others during it; of a normal scene from all of it."""
    spans = scene.spans()
    if not len(spans):
        return np.linspace(0, scene.num_frames - 1, number).astype(int).tolist()
    start, stop = int(spans[0, 0]), int(spans[-1, 1])
    return [max(0, start - 10), *np.linspace(start + 2, stop - 4, number - 1).astype(int).tolist()]


def framed(scene: Scene, number: int, width: int) -> np.ndarray:
    """Give a frame with its box, `width` pixels wide."""
    image = Image.fromarray(scene.frame(number))
    truth = scene.truth()
    for box in truth.boxes[truth.frames == number]:
        ImageDraw.Draw(image).rectangle([*box[:2], *(box[2:] - 1)], outline=(255, 40, 30))
    return np.asarray(image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    raise SystemExit(main())
