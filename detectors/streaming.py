"""Tubes of a recording that is too long for memory, exactly those of `unary_tubes` and `multivariate_tubes`.

Let boxes be nodes, and an edge join two boxes that can be linked. Every step of either algorithm goes along an edge,
and reads only scores, which never change, and who is left among the neighbours; so a connected component's tubes depend
on that component alone. A component that has no box near enough to the newest frame can get no further one. It is
linked then, and forgotten. One that spans fewer frames than a tube must have is forgotten without being linked.

No window of any length would do: a box arbitrarily far ahead can change the first frame of a tube.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResourceError, UsageError
from .boxes import (
    BoxTable,
    concatenate_tables,
    connected,
    overlaps_after,
    overlaps_within,
    place_key,
    ranked_boxes,
)
from .linking import link_multivariate, link_unary
from .settings import LinkSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .detections import Detections
    from .tubes import Tube

KINDS = ("unary", "multivariate")


@dataclass(slots=True)
class _Component:
    """Boxes that hang together and may get more: their tables, and how far they reach."""

    first_sample: int
    last_sample: int
    num_boxes: int = 0
    parts: list[BoxTable] = field(default_factory=list)

    def add(self, part: BoxTable) -> None:
        self.num_boxes += len(part)
        self.parts.append(part)
        # Small tables become larger ones as in a binary counter: a box is copied log(blocks) times at most.
        while len(self.parts) > 1 and len(self.parts[-2]) <= len(self.parts[-1]):
            self.parts[-2:] = [concatenate_tables(self.parts[-2:])]

    def absorb(self, other: _Component) -> None:
        self.first_sample = min(self.first_sample, other.first_sample)
        self.num_boxes += other.num_boxes
        # The longer list stays, so that many small components cost little.
        longer, shorter = sorted((self.parts, other.parts), key=len, reverse=True)
        longer.extend(shorter)
        self.parts = longer


class TubeStream:
    """Links the boxes of one video block by block.

    `push` takes the boxes of the next frames and returns the tubes that are certain by then; `finish` returns the
    rest. Together they are exactly the tubes of the whole video, whatever the blocks; sorted by `Tube.seed_key` they
    stand in the same order. ``member_rows`` count all rows pushed so far. Holds about 44 bytes for each box whose
    tube may still grow, and takes about 200 for each that is linked at once. Blocks of a thousand frames or more are
    quickest.

    Parameters
    ----------
    kind
        ``"unary"`` or ``"multivariate"``.
    settings
        How boxes are linked, and ``max_open_boxes``. ``dedupe``, ``max_tubes`` and ``ranking`` compare tubes of a
        whole video: apply `without_copies` and `rank_tubes` to the result.

    Raises
    ------
    UsageError
        for an unknown kind.
    """

    def __init__(self, kind: str, settings: LinkSettings) -> None:
        if kind not in KINDS:
            msg = f"no kind of tube is named {kind!r}: give 'unary' or 'multivariate'"
            raise UsageError(msg)
        self._kind = kind
        self._settings = settings
        self._reach = settings.max_gap + 1 if kind == "unary" else 1
        self._min_length = settings.min_length_unary if kind == "unary" else settings.min_length_multivariate
        self._stride: int | None = None
        self._num_frames = 0
        self._num_rows = 0
        self._num_open = 0
        self._num_pruned = 0
        self._end: str | None = None
        self._open: dict[int, _Component] = {}
        self._next_id = 0
        self._recent: BoxTable | None = None
        self._recent_ids = np.zeros(0, np.int64)

    @property
    def num_open_boxes(self) -> int:
        """Boxes that are held because their tubes may still grow."""
        return self._num_open

    @property
    def num_pruned_boxes(self) -> int:
        """Boxes that were forgotten without being linked, because no tube of theirs could be long enough."""
        return self._num_pruned

    def push(self, block: Detections) -> list[Tube]:
        """Take all boxes of the frames from where the last block ended up to ``block.num_frames``, in any order.

        ``frame_index`` counts from the start of the video. Returns tubes in the order of label and seed.

        Raises
        ------
        UsageError
            if the block begins in frames that were pushed already, its stride differs, or the stream is at its end.
        ResourceError
            if more than ``max_open_boxes`` boxes may still get company; nothing is cut. The stream is at its end.
        """
        self._check(block)
        new = ranked_boxes(block, self._settings, first_row=self._num_rows)
        self._stride = block.stride
        self._num_frames = block.num_frames
        self._num_rows += len(block)
        # A component is open while a box of the next sample, one that is not there yet, could be linked to it.
        return self._take(new, oldest_open=-(-self._num_frames // block.stride) - self._reach)

    def finish(self) -> list[Tube]:
        """End the video: every component is whole.

        Raises
        ------
        UsageError
            if it was called before, or `push` refused to go on.
        """
        self._check_end()
        self._end = "finish() ended this video"
        if self._recent is None:
            return []
        return self._take(self._recent.take(np.zeros(0, np.int64)), oldest_open=None)

    def _check_end(self) -> None:
        if self._end is not None:
            msg = f"{self._end}: make a new TubeStream"
            raise UsageError(msg)

    def _check(self, block: Detections) -> None:
        self._check_end()
        if self._stride not in (None, block.stride):
            msg = f"the blocks before had stride {self._stride}, this one {block.stride}: give stride={self._stride}"
            raise UsageError(msg)
        first = int(block.frame_index.min()) if len(block) else block.num_frames
        if first < self._num_frames or block.num_frames < self._num_frames:
            msg = (
                f"frames up to {self._num_frames} were pushed already, and this block holds boxes from frame {first} "
                f"and ends at {block.num_frames}: push whole frames in order, num_frames being where the block ends"
            )
            raise UsageError(msg)

    def _take(self, new: BoxTable, *, oldest_open: int | None) -> list[Tube]:
        pool, known = self._pooled(new)
        label = self._component_of(pool, known)
        # From here on the pool stands by component, in each by frame and rank.
        order = np.argsort(label, kind="stable")
        pool, known, label = pool.take(order), known[order], label[order]
        starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]])) if len(label) else np.zeros(0, int)
        stops = np.concatenate([starts[1:], [len(label)]]).astype(np.int64) if len(starts) else starts
        first = np.minimum.reduceat(pool.sample, starts) if len(starts) else np.zeros(0, np.int32)
        last = np.maximum.reduceat(pool.sample, starts) if len(starts) else np.zeros(0, np.int32)
        met = np.maximum.reduceat(known, starts) if len(starts) else known
        is_open = np.zeros(len(starts), np.bool_) if oldest_open is None else last >= oldest_open
        # Components that begin and end in this block need no bookkeeping.
        inside = ~is_open & (met < 0)
        long = inside & self._is_long(first, last)
        sizes = stops - starts
        self._num_pruned += int(sizes[inside & ~long].sum())
        whole = [pool.take(np.repeat(long, sizes))]
        groups = [np.repeat(np.flatnonzero(long), sizes[long])]
        ids = np.full(len(starts), -1, np.int64)
        for place in np.flatnonzero(~inside).tolist():
            component = self._merge(pool, known, slice(int(starts[place]), int(stops[place])))
            if is_open[place]:
                ids[place] = self._next_id
                self._open[self._next_id] = component
                self._next_id += 1
            elif self._is_long(component.first_sample, component.last_sample):
                whole += component.parts
                groups.append(np.full(component.num_boxes, place))
            else:
                self._num_pruned += component.num_boxes
            # Or its boxes would be held twice while they are linked.
            del component
        self._remember(pool, np.repeat(ids, sizes), oldest_open)
        return self._link(whole, np.concatenate(groups))

    def _pooled(self, new: BoxTable) -> tuple[BoxTable, NDArray[np.int64]]:
        """Give the new boxes with the recent ones that they may be linked to, and the component known of each, or -1.

        They stand by (label, sample, rank), for multivariate tubes by (sample, rank).
        """
        known = np.full(len(new), -1, np.int64)
        pool = new
        if self._recent is not None:
            pool, known = concatenate_tables([self._recent, new]), np.concatenate([self._recent_ids, known])
        if self._kind == "unary":
            order = np.lexsort((pool.rank, pool.sample, pool.label))
            pool, known = pool.take(order), known[order]
        return pool, known

    def _component_of(self, pool: BoxTable, known: NDArray[np.int64]) -> NDArray[np.int64]:
        threshold = self._settings.iou_threshold
        group = np.zeros(len(pool), np.int64)
        if self._kind == "unary":
            group = np.unique(pool.label, return_inverse=True)[1]
        span = int(pool.sample.max()) - int(pool.sample.min()) if len(pool) else 0
        reach = min(self._reach, span)
        key = place_key(pool, group, reach)
        pairs = [overlaps_after(pool, key, distance, threshold)[:2] for distance in range(1, reach + 1)]
        if self._kind == "multivariate":
            pairs.append(overlaps_within(pool, key, threshold)[:2])
        # Recent boxes of one component hang together over boxes that are no longer at hand.
        old = np.flatnonzero(known >= 0)
        old = old[np.argsort(known[old], kind="stable")]
        same = np.flatnonzero(np.diff(known[old]) == 0)
        pairs.append((old[same], old[same + 1]))
        first, second = (np.concatenate(column) for column in zip(*pairs, strict=True))
        return connected(len(pool), first, second)

    def _is_long(self, first: NDArray[np.int32] | int, last: NDArray[np.int32] | int) -> NDArray[np.bool_]:
        covered = (np.asarray(last, np.int64) - first) * (self._stride or 1) + 1
        return np.asarray(covered >= self._min_length)

    def _merge(self, pool: BoxTable, known: NDArray[np.int64], span: slice) -> _Component:
        samples = pool.sample[span]
        merged = _Component(int(samples.min()), int(samples.max()))
        for identifier in np.unique(known[span]).tolist():
            if identifier >= 0:
                merged.absorb(self._open.pop(identifier))
        is_new = np.flatnonzero(known[span] < 0) + span.start
        if len(is_new):
            merged.add(pool.take(is_new))
        return merged

    def _remember(self, pool: BoxTable, ids: NDArray[np.int64], oldest_open: int | None) -> None:
        recent = np.flatnonzero((ids >= 0) & (pool.sample >= (oldest_open or 0)))
        recent = recent[np.lexsort((pool.rank[recent], pool.sample[recent]))]
        self._recent, self._recent_ids = pool.take(recent), ids[recent]
        self._num_open = sum(component.num_boxes for component in self._open.values())
        limit = self._settings.max_open_boxes
        if self._num_open > limit:
            self._end = "too many boxes hung together, and none were cut"
            self._open.clear()
            msg = (
                f"{self._num_open} boxes up to frame {self._num_frames} hang together with boxes still to come, more "
                f"than the {limit} that may be held; cutting them would change tubes. Link fewer boxes with "
                f"--link-score 0.5, or allow more with --max-open-boxes {2 * self._num_open}"
            )
            raise ResourceError(msg)

    def _link(self, parts: list[BoxTable], group: NDArray[np.int64]) -> list[Tube]:
        table = concatenate_tables(parts)
        # What is linked may be most of a recording: it is held once.
        parts.clear()
        if not len(table):
            return []
        order = np.lexsort((table.rank, table.sample, group))
        table, group = table.take(order), np.unique(group[order], return_inverse=True)[1]
        del order
        link = link_unary if self._kind == "unary" else link_multivariate
        return link(table, group, self._settings, self._stride or 1)
