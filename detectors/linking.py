"""Detections become tubes: Algorithms 1 and 2 of J. Wu et al., "Weakly-Supervised Spatio-Temporal Anomaly Detection in
Surveillance Video", IJCAI 2021, Appendix A.

Scores never change and a link score is fixed per pair of boxes, so each box has one static order of preference over its
neighbours; while tubes are taken away, only who is still there changes. Pairs are therefore compared once, seeds come
from one sorted list, and a walk takes the first neighbour that is still there.

Where the paper's text leaves something open: both sides test IoU > lambda, strictly, whatever the link score. In each
frame boxes stand in the order (-score, x1, y1, x2, y2, label, row), and of equals the first wins; seeds are taken by
(-score, frame, that order). Boxes of a tube that is too short are used up like any other. Each algorithm begins with
all boxes. A multivariate tube grows by boxes that overlap a *member* in the frame before, not the enclosing box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .boxes import BoxTable, overlaps_after, overlaps_within, place_key, ranked_boxes
from .settings import LinkSettings
from .tubes import ANY_LABEL, Tube

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .detections import Detections


def unary_tubes(
    detections: Detections,
    *,
    eta: float = 2.0,
    iou_threshold: float = 0.1,
    min_length: int = 100,
    max_gap: int = 0,
) -> list[Tube]:
    """Follow single objects of one category: Algorithm 1.

    While boxes of the category are left, the best one seeds a tube, which goes on forward and then backward, each time
    to the box of the next frame with the highest S(i) + S(j) + eta * IoU(i, j) among those whose IoU with the last one
    is above ``iou_threshold``. The defaults are the paper's.

    Parameters
    ----------
    detections
        Boxes of one video. Invalid ones are left out; the others keep their row numbers.
    eta, iou_threshold
        The paper's eta and lambda.
    min_length
        The paper's zeta1: source frames from a tube's first to its last, both included. Shorter tubes are used up, too.
    max_gap
        Where no box of the next frame can be linked, up to so many more frames are tried, the nearest first. Frames
        are those that the detector saw, every ``detections.stride``-th of the video. Boxes between are interpolated.

    Returns
    -------
    Tubes in the order of label and, within a label, in which they were made.

    Raises
    ------
    UsageError
        for a value outside its range.
    """
    settings = LinkSettings(eta=eta, iou_threshold=iou_threshold, min_length_unary=min_length, max_gap=max_gap)
    return link_tubes(detections, settings, kinds=("unary",)).unary


def multivariate_tubes(
    detections: Detections, *, iou_threshold: float = 0.1, min_length: int = 50, closure: str = "direct"
) -> list[Tube]:
    """Follow objects that touch, of whatever category: Algorithm 2.

    While boxes are left, the best one and those of its frame that overlap it seed a tube. In the next frame all boxes
    join that overlap a member, and so on, forward and then backward from the seed. A tube's box encloses its members.
    The defaults are the paper's.

    Parameters
    ----------
    detections
        Boxes of one video. Invalid ones are left out; the others keep their row numbers.
    iou_threshold
        The paper's lambda.
    min_length
        The paper's zeta2: source frames from a tube's first to its last, both included.
    closure
        ``"direct"``, or ``"component"``: boxes join also that overlap a box of their own frame that joined.

    Returns
    -------
    Tubes in the order in which they were made.

    Raises
    ------
    UsageError
        for a value outside its range.
    """
    settings = LinkSettings(iou_threshold=iou_threshold, min_length_multivariate=min_length, closure=closure)
    return link_tubes(detections, settings, kinds=("multivariate",)).multivariate


@dataclass(frozen=True, slots=True)
class LinkedTubes:
    """The tubes of one video by kind, each in the order in which they were made."""

    unary: list[Tube]
    multivariate: list[Tube]


def link_tubes(
    detections: Detections, settings: LinkSettings, *, kinds: Sequence[str] = ("unary", "multivariate")
) -> LinkedTubes:
    """Link the boxes of one video that is in memory as ``settings`` say; `TubeStream` links one that is not."""
    table = ranked_boxes(detections, settings)
    unary: list[Tube] = []
    multivariate: list[Tube] = []
    if "unary" in kinds:
        by_label = table.take(np.argsort(table.label, kind="stable"))
        group = np.unique(by_label.label, return_inverse=True)[1]
        unary = link_unary(by_label, group, settings, detections.stride)
    if "multivariate" in kinds:
        multivariate = link_multivariate(table, np.zeros(len(table), np.int64), settings, detections.stride)
    if settings.dedupe and unary:
        multivariate = without_copies(multivariate, unary)
    return LinkedTubes(unary, multivariate)


def without_copies(multivariate: Sequence[Tube], unary: Sequence[Tube]) -> list[Tube]:
    """Leave out multivariate tubes whose members are all of one unary tube, so that there is one at a time."""
    rows = np.concatenate([np.zeros(0, np.int64), *(tube.member_rows for tube in unary)])
    owner = np.repeat(np.arange(len(unary)), [len(tube.member_rows) for tube in unary])
    order = np.argsort(rows, kind="stable")
    rows, owner = rows[order], owner[order]

    def is_copy(tube: Tube) -> bool:
        own = tube.member_rows[tube.member_rows >= 0]
        if not len(rows):
            return False
        at = np.minimum(np.searchsorted(rows, own), len(rows) - 1)
        return bool((rows[at] == own).all() and (owner[at] == owner[at[0]]).all())

    return [tube for tube in multivariate if not is_copy(tube)]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Each box's neighbours on one side, best first: those of box i are ``target[start[i] : start[i + 1]]``.

    The walks read single numbers, which memory views give about twice as fast as arrays.
    """

    start: memoryview
    target: memoryview


def link_unary(table: BoxTable, group: NDArray[np.int64], settings: LinkSettings, stride: int) -> list[Tube]:
    """Run Algorithm 1 on boxes in the order (group, sample, rank); a group is of one label, and boxes of different
    groups are never linked. Gives tubes by (label, seed).
    """
    samples = table.sample
    span = int(samples.max()) - int(samples.min()) if len(table) else 0
    reach = min(settings.max_gap + 1, span)
    key = place_key(table, group, reach)
    pairs = [overlaps_after(table, key, distance, settings.iou_threshold) for distance in range(1, reach + 1)]
    if not pairs:
        pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    distance = np.repeat(np.arange(len(pairs)), [len(pair[0]) for pair in pairs])
    earlier, later, iou = (np.concatenate(column) for column in zip(*pairs, strict=True))
    score = table.score.astype(np.float64, copy=False)
    link = (score[earlier] + score[later]) + settings.eta * iou
    num = len(table)
    ahead = _by_preference(num, earlier, later, distance, link)
    behind = _by_preference(num, later, earlier, distance, link)
    seeds = np.lexsort((table.rank, table.sample, -score, table.label))
    if settings.min_length_unary > 1:
        seeds = _with_links(seeds, earlier, later)
    seeds = _good_enough(table, seeds, settings)
    least = _least_samples(settings.min_length_unary, stride)
    sample = table.sample.data
    return [
        _unary(table, seed, np.array(path, np.int64), stride)
        for seed, path in _walks(seeds, ahead, behind, num)
        if sample[path[-1]] - sample[path[0]] + 1 >= least
    ]


def link_multivariate(table: BoxTable, group: NDArray[np.int64], settings: LinkSettings, stride: int) -> list[Tube]:
    """Run Algorithm 2 on boxes in the order (group, sample, rank); boxes of different groups are never linked. Gives
    tubes by seed.
    """
    key = place_key(table, group, 1)
    earlier, later, _ = overlaps_after(table, key, 1, settings.iou_threshold)
    first, second, _ = overlaps_within(table, key, settings.iou_threshold)
    num = len(table)
    beside = _grouped(num, np.concatenate([first, second]), np.concatenate([second, first]))
    seeds = np.lexsort((table.rank, table.sample, -table.score))
    if settings.min_length_multivariate > 1:
        seeds = _with_links(seeds, earlier, later, first, second)
    seeds = _good_enough(table, seeds, settings)
    least = _least_samples(settings.min_length_multivariate, stride)
    clusters = _clusters(
        seeds,
        _grouped(num, earlier, later),
        _grouped(num, later, earlier),
        beside,
        num_boxes=num,
        is_closed=settings.closure == "component",
    )
    return [
        _multivariate(table, seed, cluster, stride)
        for seed, cluster in clusters
        if len(cluster) >= least and max(map(len, cluster)) >= settings.min_members
    ]


def _good_enough(table: BoxTable, seeds: NDArray[np.int64], settings: LinkSettings) -> NDArray[np.int64]:
    return seeds if settings.seed_score is None else seeds[table.score[seeds] >= settings.seed_score]


def _least_samples(min_length: int, stride: int) -> int:
    """Give the n from which (n - 1) * stride + 1 source frames reach ``min_length``."""
    return -(-(min_length - 1) // stride) + 1


def _with_links(seeds: NDArray[np.int64], *ends: NDArray[np.integer]) -> NDArray[np.int64]:
    linked = np.zeros(len(seeds), np.bool_)
    for end in ends:
        linked[end] = True
    return seeds[linked[seeds]]


def _by_preference(
    num_boxes: int,
    source: NDArray[np.integer],
    target: NDArray[np.integer],
    distance: NDArray[np.int64],
    link: NDArray[np.float64],
) -> Neighbours:
    """Sort each box's neighbours: the nearest frame first, in it the highest link score, then the first by rank."""
    order = np.argsort(source, kind="stable")
    degree = np.bincount(source, minlength=num_boxes)
    places = np.flatnonzero(degree[source[order]] > 1)
    few = order[places]
    order[places] = few[np.lexsort((target[few], -link[few], distance[few], source[few]))]
    return _neighbours(degree, target[order])


def _grouped(num_boxes: int, source: NDArray[np.integer], target: NDArray[np.integer]) -> Neighbours:
    degree = np.bincount(source, minlength=num_boxes)
    return _neighbours(degree, target[np.argsort(source, kind="stable")])


def _neighbours(degree: NDArray[np.int64], target: NDArray[np.integer]) -> Neighbours:
    return Neighbours(np.concatenate([[0], np.cumsum(degree)]).data, target.data)


def _walks(
    seeds: NDArray[np.int64], ahead: Neighbours, behind: Neighbours, num_boxes: int
) -> Iterator[tuple[int, list[int]]]:
    alive = bytearray(b"\1") * num_boxes
    for seed in seeds.data:
        if alive[seed]:
            # Taken at once and not with the whole tube: a walk never comes back to a frame.
            alive[seed] = 0
            later = _walk(seed, ahead, alive)
            earlier = _walk(seed, behind, alive)
            yield seed, [*reversed(earlier), seed, *later]


def _walk(box: int, neighbours: Neighbours, alive: bytearray) -> list[int]:
    start, target = neighbours.start, neighbours.target
    path: list[int] = []
    while True:
        for place in range(start[box], start[box + 1]):
            if alive[target[place]]:
                box = target[place]
                break
        else:
            return path
        alive[box] = 0
        path.append(box)


def _clusters(
    seeds: NDArray[np.int64],
    ahead: Neighbours,
    behind: Neighbours,
    beside: Neighbours,
    *,
    num_boxes: int,
    is_closed: bool,
) -> Iterator[tuple[int, list[list[int]]]]:
    alive = bytearray(b"\1") * num_boxes
    own = beside if is_closed else None
    for seed in seeds.data:
        if alive[seed]:
            alive[seed] = 0
            middle = [seed, *_joining([seed], beside, alive)]
            if own is not None:
                _close(middle, own, alive)
            later = _grow(middle, ahead, own, alive)
            earlier = _grow(middle, behind, own, alive)
            yield seed, [*reversed(earlier), middle, *later]


def _grow(members: list[int], neighbours: Neighbours, own: Neighbours | None, alive: bytearray) -> list[list[int]]:
    frames: list[list[int]] = []
    while members := _joining(members, neighbours, alive):
        if own is not None:
            _close(members, own, alive)
        frames.append(members)
    return frames


def _joining(members: list[int], neighbours: Neighbours, alive: bytearray) -> list[int]:
    start, target = neighbours.start, neighbours.target
    joined: list[int] = []
    for box in members:
        for place in range(start[box], start[box + 1]):
            other = target[place]
            if alive[other]:
                alive[other] = 0
                joined.append(other)
    return joined


def _close(members: list[int], beside: Neighbours, alive: bytearray) -> None:
    newest = members
    while newest := _joining(newest, beside, alive):
        members.extend(newest)


def _unary(table: BoxTable, seed: int, path: NDArray[np.int64], stride: int) -> Tube:
    return _tube(
        table,
        seed,
        stride,
        label=int(table.label[seed]),
        samples=table.sample[path],
        boxes=table.box[path],
        scores=table.score[path],
        rows=table.row[path],
        offsets=None,
    )


def _multivariate(table: BoxTable, seed: int, cluster: list[list[int]], stride: int) -> Tube:
    counts = [len(members) for members in cluster]
    flat = np.fromiter((box for members in cluster for box in members), np.int64, sum(counts))
    flat = flat[np.lexsort((table.row[flat], np.repeat(np.arange(len(counts)), counts)))]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    box = table.box[flat]
    low = np.minimum.reduceat(box[:, :2], offsets[:-1], axis=0)
    high = np.maximum.reduceat(box[:, 2:], offsets[:-1], axis=0)
    return _tube(
        table,
        seed,
        stride,
        label=ANY_LABEL,
        samples=table.sample[flat[offsets[:-1]]],
        boxes=np.concatenate([low, high], axis=1),
        scores=np.maximum.reduceat(table.score[flat], offsets[:-1]),
        rows=table.row[flat],
        offsets=offsets,
    )


def _tube(
    table: BoxTable,
    seed: int,
    stride: int,
    *,
    label: int,
    samples: NDArray[np.int32],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64] | None,
) -> Tube:
    """Make a tube of what was detected in ``samples``, with every source frame between them."""
    seen = samples.astype(np.int64) * stride
    frames = np.arange(seen[0], seen[-1] + 1)
    if len(frames) > len(seen):
        boxes, scores = _between(frames, seen, boxes), _between(frames, seen, scores)
        counts = np.ones(len(frames), np.int64)
        counts[seen - seen[0]] = 1 if offsets is None else np.diff(offsets)
        was_seen = np.zeros(len(frames), np.bool_)
        was_seen[seen - seen[0]] = True
        all_rows = np.full(counts.sum(), -1, np.int64)
        all_rows[np.repeat(was_seen, counts)] = rows
        rows, offsets = all_rows, None if offsets is None else np.concatenate([[0], np.cumsum(counts)])
    return Tube(
        frames=frames,
        boxes=boxes,
        scores=scores,
        label=label,
        member_rows=rows,
        member_offsets=offsets,
        seed=int(table.row[seed]),
        seed_frame=int(table.sample[seed]) * stride,
        seed_rank=int(table.rank[seed]),
    )


def _between(frames: NDArray[np.int64], seen: NDArray[np.int64], values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Give ``values``, one for each frame in ``seen``, for all ``frames``: linear between them, unchanged at them."""
    left = np.searchsorted(seen, frames, side="right") - 1
    right = np.minimum(left + 1, len(seen) - 1)
    after = (frames - seen[left]).reshape(-1, *[1] * (values.ndim - 1))
    gap = np.maximum(seen[right] - seen[left], 1).reshape(after.shape)
    wide = values.astype(np.float64, copy=False)
    # Symmetric in both ends: a video played backward gives the same boxes.
    found: NDArray[np.floating] = ((wide[left] * (gap - after) + wide[right] * after) / gap).astype(values.dtype)
    found[seen - frames[0]] = values
    return found
