"""What linking is made of: boxes in their one order, pairs of boxes that overlap, and what hangs together.

No loop in Python here runs over boxes or pairs. Overlaps are computed in float64 in one fixed order of operations,
symmetric in the two boxes, so that a pair has one and the same IoU whichever way it is met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .detections import Detections
    from .settings import LinkSettings

    Pairs = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]

PAIRS_AT_ONCE = 2**17
"""Pairs of boxes compared at once: about 10 MB of intermediate values, which stay near the processor."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxTable:
    """Valid boxes, a column per array ``(box,)``: 44 bytes a box for float32 input.

    ``row`` numbers the input's rows; ``sample`` is the frame divided by the stride; ``rank`` counts the valid boxes of
    a frame from the best, 0; ``box (box, 4)`` and ``score`` keep the input's type, so that tubes hold its very values.
    """

    row: NDArray[np.int64]
    sample: NDArray[np.int32]
    rank: NDArray[np.int32]
    label: NDArray[np.int64]
    score: NDArray[np.floating]
    box: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> BoxTable:
        """Give the chosen boxes as a table of their own, which keeps no other memory alive."""
        return BoxTable(
            self.row[index], self.sample[index], self.rank[index], self.label[index], self.score[index], self.box[index]
        )


def concatenate_tables(parts: Sequence[BoxTable]) -> BoxTable:
    """Put tables, at least one, behind each other."""
    if len(parts) == 1:
        return parts[0]
    return BoxTable(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.sample for part in parts]),
        np.concatenate([part.rank for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.box for part in parts]),
    )


def ranked_boxes(detections: Detections, settings: LinkSettings, *, first_row: int = 0) -> BoxTable:
    """Give the boxes that take part, sorted by (frame, -score, x1, y1, x2, y2, label, row): by rank in each frame.

    Invalid boxes are left out, and those that ``settings`` leave out by class, score or class-agnostic NMS: there a box
    goes that overlaps a better one of its frame that stays. Labels are those of their groups. Rows are counted from
    ``first_row``.
    """
    chosen = detections.valid
    if settings.min_score is not None:
        chosen &= detections.scores >= settings.min_score
    if settings.classes is not None:
        chosen &= np.isin(detections.labels, settings.classes)
    rows = np.flatnonzero(chosen)
    sample = (detections.frame_index[rows] // detections.stride).astype(np.int32)
    box, score, label = detections.boxes[rows], detections.scores[rows], detections.labels[rows]
    for group in settings.groups:
        label[np.isin(label, group)] = group[0]
    order = _frame_order(sample, score, box, label)
    rows, sample = rows[order], sample[order]
    table = BoxTable(rows + first_row, sample, _ranks(sample), label[order], score[order], box[order])
    if settings.agnostic_nms is None:
        return table
    table = table.take(_survivors(table, settings.agnostic_nms))
    return BoxTable(table.row, table.sample, _ranks(table.sample), table.label, table.score, table.box)


def _frame_order(
    sample: NDArray[np.int32], score: NDArray[np.floating], box: NDArray[np.floating], label: NDArray[np.int64]
) -> NDArray[np.int64]:
    order = np.lexsort((-score, sample))
    # Equal scores are rare, so only they are compared by all seven keys; the sort is stable, which settles rows.
    same = (np.diff(sample[order]) == 0) & (np.diff(score[order]) == 0)
    tied = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(order) else same
    places = np.flatnonzero(tied)
    few = np.sort(order[places])
    x1, y1, x2, y2 = box[few].T
    order[places] = few[np.lexsort((label[few], y2, x2, y1, x1, -score[few], sample[few]))]
    return order


def _ranks(sample: NDArray[np.int32]) -> NDArray[np.int32]:
    starts, counts = _runs(sample)
    return (np.arange(len(sample)) - np.repeat(starts, counts)).astype(np.int32)


def _runs(key: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give where runs of equal values begin, and how long they are."""
    if not len(key):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(key)) + 1])
    return starts, np.diff(np.concatenate([starts, [len(key)]]))


def _survivors(table: BoxTable, threshold: float) -> NDArray[np.bool_]:
    better, worse, _ = overlaps_within(table, table.sample.astype(np.int64), threshold)
    stays = np.ones(len(table), np.bool_)
    # Boxes stand by rank, so what removes a box has been settled before it.
    for first, second in zip(better.tolist(), worse.tolist(), strict=True):
        if stays[first]:
            stays[second] = False
    return stays


def place_key(table: BoxTable, group: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Give one number for (group, sample) such that samples up to ``reach`` later stay inside their group.

    ``group`` is dense, from 0, and the table stands in the order (group, sample, rank).
    """
    if not len(table):
        return np.zeros(0, np.int64)
    first, last = int(table.sample.min()), int(table.sample.max())
    return group * (last - first + reach + 1) + (table.sample - first)


def overlaps_within(table: BoxTable, key: NDArray[np.int64], threshold: float) -> Pairs:
    """Give the pairs of boxes ``(first, second, iou)`` with one ``key`` and an IoU above ``threshold``.

    ``first`` stands before ``second``; pairs are sorted by (first, second).
    """
    starts, counts = _runs(key)
    low = np.arange(1, len(key) + 1)
    return _overlapping(table, low, np.repeat(starts + counts, counts) - low, threshold)


def overlaps_after(table: BoxTable, key: NDArray[np.int64], distance: int, threshold: float) -> Pairs:
    """Give the pairs ``(earlier, later, iou)`` whose ``key`` differs by ``distance`` and whose IoU is above
    ``threshold``, sorted by (earlier, later).
    """
    starts, counts = _runs(key)
    if not len(starts):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    places = key[starts]
    at = np.minimum(np.searchsorted(places, places + distance), len(places) - 1)
    met = np.where(places[at] == places + distance, counts[at], 0)
    return _overlapping(table, np.repeat(starts[at], counts), np.repeat(met, counts), threshold)


def _overlapping(table: BoxTable, low: NDArray[np.int64], count: NDArray[np.int64], threshold: float) -> Pairs:
    """Compare box i with the boxes ``[low[i], low[i] + count[i])``."""
    corners = np.ascontiguousarray(table.box.T)
    # Half the memory where 32 bits can number all boxes: pairs outnumber boxes.
    narrow = np.int32 if len(table) < 2**31 else np.int64
    found: list[Pairs] = []
    for first, second in _pairs(low, count):
        near, far, iou = _above(corners, first, second, threshold)
        found.append((near.astype(narrow), far.astype(narrow), iou))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    first, second, iou = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, iou


def _pairs(low: NDArray[np.int64], count: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    some = np.flatnonzero(count > 0)
    low, count = low[some], count[some]
    ends = np.cumsum(count)
    start = 0
    while start < len(some):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        counts = count[start:stop]
        first = np.repeat(some[start:stop], counts)
        # The place among all pairs, moved so that each box's pairs begin at its own ``low``.
        moved = low[start:stop] - (ends[start:stop] - counts - before)
        yield first, np.arange(len(first)) + np.repeat(moved, counts)
        start = stop


def _above(
    corners: NDArray[np.floating], first: NDArray[np.int64], second: NDArray[np.int64], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    x1, y1, x2, y2 = corners
    # Coordinates near the end of float64 make infinite areas, and those no link.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        # Both sides must be above zero: the product of two negative sides is no overlap.
        near = np.flatnonzero(np.minimum(x2[first], x2[second]) > np.maximum(x1[first], x1[second]))
        first, second = first[near], second[near]
        near = np.flatnonzero(np.minimum(y2[first], y2[second]) > np.maximum(y1[first], y1[second]))
        first, second = first[near], second[near]
        left, upper, right, lower = corners[:, first].astype(np.float64)
        left2, upper2, right2, lower2 = corners[:, second].astype(np.float64)
        width = np.minimum(right, right2) - np.maximum(left, left2)
        height = np.minimum(lower, lower2) - np.maximum(upper, upper2)
        shared = width * height
        union = ((right - left) * (lower - upper) + (right2 - left2) * (lower2 - upper2)) - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        linked = np.flatnonzero(iou > threshold)
    return first[linked], second[linked], iou[linked]


def connected(num_nodes: int, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.int64]:
    """Give each node the smallest node that it hangs together with over the edges ``(first, second)``."""
    root = np.arange(num_nodes)
    while len(first):
        low, high = np.minimum(root[first], root[second]), np.maximum(root[first], root[second])
        apart = np.flatnonzero(low != high)
        first, second, low, high = first[apart], second[apart], low[apart], high[apart]
        # Each tree is hung below the smallest tree that it touches: roots only ever fall, so there is no cycle.
        np.minimum.at(root, high, low)
        while True:
            higher = root[root]
            if np.array_equal(higher, root):
                break
            root = higher
    return root
