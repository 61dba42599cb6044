"""Made-up detections: random ones with ties, holes and crossings, and hand-made ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vadx.detectors import Detections, Tube

Generator = np.random.Generator


def detections(
    rows: Sequence[tuple[int, Sequence[float], float, int]], *, num_frames: int | None = None, stride: int = 1
) -> Detections:
    """Make detections of (frame, box, score, label)."""
    frames = [row[0] for row in rows]
    return Detections(
        np.array(frames, np.int64),
        np.array([row[1] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.int64),
        num_frames if num_frames is not None else max(frames, default=0) + 1,
        stride,
    )


def random_detections(
    random: Generator,
    *,
    num_frames: int = 10,
    per_frame: int = 4,
    stride: int = 1,
    size: int = 40,
    num_labels: int = 2,
    levels: int = 4,
    dtype: Any = np.float32,
    invalid: float = 0.05,
    empty: float = 0.15,
) -> Detections:
    """Make boxes on a coarse grid with few scores, so that ties, duplicates and crossings are common."""
    counts = random.integers(0, per_frame + 1, num_frames) * (random.random(num_frames) > empty)
    frames = np.repeat(np.arange(num_frames), counts) * stride
    num = len(frames)
    step = int(random.choice([1, 4, 8]))
    corner = random.integers(0, size // step, (num, 2)) * step
    sides = random.integers(1, max(2, size // (2 * step)), (num, 2)) * step
    boxes = np.concatenate([corner, corner + sides], axis=1).astype(dtype)
    scores = (random.integers(-1, levels, num) / levels).astype(dtype)
    if levels > 50:
        scores = random.random(num).astype(dtype)
    bad = random.random(num) < invalid
    boxes[bad, random.integers(0, 4, num)[bad]] = random.choice([np.nan, np.inf, 0.0], num)[bad]
    labels = random.integers(1, num_labels + 1, num)
    order = random.permutation(num)
    order = order[np.argsort(frames[order], kind="stable")] if random.random() < 0.5 else order
    return Detections(frames[order], boxes[order], scores[order], labels[order], num_frames * stride, stride)


def moving_detections(
    random: Generator, *, num_objects: int = 5, num_frames: int = 60, missed: float = 0.05
) -> Detections:
    """Make objects that walk and cross in a small picture, some of them missed at times, with little noise."""
    start = random.uniform(0, 200, (num_objects, 2))
    speed = random.normal(0, 2, (num_objects, 2))
    sides = random.uniform(15, 50, (num_objects, 2))
    time = np.arange(num_frames)
    centre = start + speed * time[:, None, None] + random.normal(0, 1, (num_frames, num_objects, 2))
    boxes = np.concatenate([centre - sides / 2, centre + sides / 2], axis=2).reshape(-1, 4)
    frames = np.repeat(time, num_objects)
    labels = np.tile(random.integers(1, 3, num_objects), num_frames)
    seen = random.random(len(frames)) > missed
    scores = random.random(len(frames))
    return Detections(frames[seen], boxes[seen].astype(np.float32), scores[seen], labels[seen], num_frames)


def as_blocks(found: Detections, edges: Sequence[int]) -> tuple[list[Detections], np.ndarray[Any, Any]]:
    """Cut detections at the frames ``edges``; give the blocks, and which input row each pushed row was."""
    blocks, rows = [], []
    for start, stop in zip([0, *edges], [*edges, found.num_frames], strict=True):
        own = np.flatnonzero((found.frame_index >= start) & (found.frame_index < stop))
        rows.append(own)
        blocks.append(
            Detections(
                found.frame_index[own], found.boxes[own], found.scores[own], found.labels[own], stop, found.stride
            )
        )
    return blocks, np.concatenate(rows)


def content(tube: Tube, rows: np.ndarray[Any, Any] | None = None) -> tuple[object, ...]:
    """Give everything a tube says, to compare; ``rows`` renames its members."""

    def named(values: np.ndarray[Any, Any]) -> list[int]:
        return [int(value) if value < 0 or rows is None else int(rows[value]) for value in values]

    members = named(tube.members) if isinstance(tube.members, np.ndarray) else [sorted(named(m)) for m in tube.members]
    return (
        tube.kind,
        tube.label,
        tube.frames.tolist(),
        tube.boxes.tolist(),
        tube.scores.tolist(),
        members,
        named(np.array([tube.seed]))[0],
        tube.seed_key,
    )
