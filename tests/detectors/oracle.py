"""The two algorithms of J. Wu et al., IJCAI 2021, Appendix A, written down as they are read: plain and slow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vadx.detectors import Detections


@dataclass(frozen=True)
class Box:
    row: int
    sample: int
    score: float
    x1: float
    y1: float
    x2: float
    y2: float
    label: int

    @property
    def rank_key(self) -> tuple[float, ...]:
        return (-self.score, self.x1, self.y1, self.x2, self.y2, self.label, self.row)

    @property
    def seed_key(self) -> tuple[object, ...]:
        return (-self.score, self.sample, self.rank_key)


def iou(a: Box, b: Box) -> float:
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)) - shared
    return shared / union if union > 0 else 0.0


def valid_boxes(detections: Detections) -> list[Box]:
    found = []
    for row in range(len(detections)):
        x1, y1, x2, y2 = (float(value) for value in detections.boxes[row])
        score = float(detections.scores[row])
        if all(map(math.isfinite, (x1, y1, x2, y2, score))) and x2 > x1 and y2 > y1:
            sample = int(detections.frame_index[row]) // detections.stride
            found.append(Box(row, sample, score, x1, y1, x2, y2, int(detections.labels[row])))
    return found


def length(samples: list[int], stride: int) -> int:
    return (max(samples) - min(samples)) * stride + 1


def unary(
    detections: Detections, *, eta: float, iou_threshold: float, min_length: int, max_gap: int = 0
) -> list[tuple[int, list[Box]]]:
    """Give (label, boxes by frame), in the order in which tubes are made."""
    everything = valid_boxes(detections)
    last = max((box.sample for box in everything), default=0)
    tubes = []
    for label in sorted({box.label for box in everything}):
        left = [box for box in everything if box.label == label]
        while left:
            seed = min(left, key=lambda box: box.seed_key)
            path = [seed]
            for step in (1, -1):
                current = seed
                while True:
                    candidates: list[Box] = []
                    for skipped in range(max_gap + 1):
                        sample = current.sample + step * (1 + skipped)
                        if not 0 <= sample <= last:
                            break
                        candidates = [box for box in left if box.sample == sample and iou(current, box) > iou_threshold]
                        if candidates:
                            break
                    if not candidates:
                        break
                    current = min(
                        candidates,
                        key=lambda box: (-((current.score + box.score) + eta * iou(current, box)), box.rank_key),
                    )
                    path = [*path, current] if step == 1 else [current, *path]
            taken = {box.row for box in path}
            left = [box for box in left if box.row not in taken]
            if length([box.sample for box in path], detections.stride) >= min_length:
                tubes.append((label, path))
    return tubes


def multivariate(
    detections: Detections, *, iou_threshold: float, min_length: int, closure: str = "direct"
) -> list[tuple[int, list[list[Box]]]]:
    """Give (row of the seed, members by frame), in the order in which tubes are made."""
    left = valid_boxes(detections)
    tubes = []

    def joining(members: list[Box], sample: int, inside: list[Box]) -> list[Box]:
        taken = {box.row for box in inside}
        return [
            box
            for box in left
            if box.sample == sample
            and box.row not in taken
            and any(iou(member, box) > iou_threshold for member in members)
        ]

    def closed(members: list[Box]) -> list[Box]:
        while closure == "component" and (more := joining(members, members[0].sample, members)):
            members = [*members, *more]
        return members

    while left:
        seed = min(left, key=lambda box: box.seed_key)
        cluster = {seed.sample: closed([seed, *joining([seed], seed.sample, [seed])])}
        for step in (1, -1):
            sample = seed.sample
            while more := joining(cluster[sample], sample + step, []):
                sample += step
                cluster[sample] = closed(more)
        taken = {box.row for members in cluster.values() for box in members}
        left = [box for box in left if box.row not in taken]
        if length(list(cluster), detections.stride) >= min_length:
            tubes.append((seed.row, [cluster[sample] for sample in sorted(cluster)]))
    return tubes
