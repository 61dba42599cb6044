"""A tube, how it is cut into parts, and which tubes of a video are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANY_LABEL = -1
"""The label of a multivariate tube, whose members may be of any category."""

NUM_NESTED_PARTS = 32
"""Means of so many parts of a tube give the means of 1, 2, 4, 8, 16 and 32 parts."""

CLIP_LENGTH = 16
"""Frames in a clip of a tube: "each 16-frame image sequence within the instance", J. Wu et al. 2021, section 4."""

MAX_TUBES = 200
"""Instances in a bag at most, J. Wu et al. 2021, section 4."""


@dataclass(frozen=True, slots=True, eq=False)
class Tube:
    """One box per frame over consecutive frames of a video.

    Shapes: ``frames (frame,)`` int64, consecutive source frames; ``boxes (frame, 4)`` half-open ``x1, y1, x2, y2`` in
    source pixels; ``scores (frame,)``. A unary tube follows one object: ``label`` is its category, boxes and scores
    are the detector's own. A multivariate tube follows objects that touch: its box encloses the members, its score is
    that of the best member, its ``label`` is `ANY_LABEL`. Where nothing was detected (frames that a stride skips, gaps
    that were bridged) box and score are interpolated linearly between the neighbours.

    ``member_rows`` holds rows of the detections, -1 where the box is interpolated: one a frame, or for multivariate
    tubes those of frame i, ascending, in ``[member_offsets[i], member_offsets[i + 1])``. `members` shows them by frame.
    ``seed`` is the row that the tube grew from, the best in ``seed_frame`` but for ``seed_rank`` others.

    Raises
    ------
    ValueError
        if shapes disagree or frames are not consecutive.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    label: int
    member_rows: NDArray[np.int64]
    member_offsets: NDArray[np.int64] | None = None
    seed: int = -1
    seed_frame: int = -1
    seed_rank: int = 0

    def __post_init__(self) -> None:
        num = len(self.frames)
        num_ends = num if self.member_offsets is None else len(self.member_offsets) - 1
        num_rows = num if self.member_offsets is None else int(self.member_offsets[-1])
        if (
            not num
            or self.frames.shape != (num,)
            or self.boxes.shape != (num, 4)
            or self.scores.shape != (num,)
            or num_ends != num
            or self.member_rows.shape != (num_rows,)
        ):
            msg = (
                f"expected frames (frame,), boxes (frame, 4), scores (frame,) and members of each; got "
                f"{self.frames.shape}, {self.boxes.shape}, {self.scores.shape}, {self.member_rows.shape}"
            )
            raise ValueError(msg)
        if self.frames[-1] - self.frames[0] != num - 1 or (num > 1 and (np.diff(self.frames) != 1).any()):
            msg = f"the frames of a tube follow each other; got {num} from {self.frames[0]} to {self.frames[-1]}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def kind(self) -> str:
        """``"unary"`` or ``"multivariate"``."""
        return "unary" if self.member_offsets is None else "multivariate"

    @property
    def members(self) -> NDArray[np.int64] | tuple[NDArray[np.int64], ...]:
        """Rows of the detections, -1 for an interpolated box: ``(frame,)``, or for multivariate tubes one array a
        frame.
        """
        if self.member_offsets is None:
            return self.member_rows
        return tuple(np.split(self.member_rows, self.member_offsets[1:-1]))

    @property
    def interpolated(self) -> NDArray[np.bool_]:
        """Which boxes no detection stands behind, ``(frame,)``."""
        rows = self.member_rows if self.member_offsets is None else self.member_rows[self.member_offsets[:-1]]
        return rows < 0

    @property
    def max_members(self) -> int:
        """The largest number of detections in a frame; 1 for unary tubes."""
        return 1 if self.member_offsets is None else int(np.diff(self.member_offsets).max())

    @property
    def score_mean(self) -> float:
        """Mean score of the frames in which something was detected, in float64."""
        return float(self.scores[~self.interpolated].mean(dtype=np.float64))

    @property
    def seed_key(self) -> tuple[int, float, int, int]:
        """What sorts the tubes of one kind as they were made: label, falling score of the seed, frame, rank."""
        seed_score = float(self.scores[self.seed_frame - int(self.frames[0])])
        return self.label, -seed_score, self.seed_frame, self.seed_rank


def nested_parts(num_clips: int) -> NDArray[np.int64]:
    """Give the finest parts whose means are kept, as half-open spans of clips ``(part, 2)``.

    Part i of 32 is ``[i * n // 32, (i + 1) * n // 32)``; a tube of fewer than 32 clips has one part a clip.

    Raises
    ------
    UsageError
        if there is no clip.
    """
    return _even_spans(num_clips, NUM_NESTED_PARTS)


def coarser_parts(num_clips: int, num_parts: int) -> NDArray[np.int64]:
    """Give ``num_parts`` even parts as half-open spans of the `nested_parts` of ``num_clips`` clips, ``(part, 2)``.

    The mean of a part is the mean over its nested parts weighted by their clips, and is exactly that of the clips
    ``[i * n // num_parts, (i + 1) * n // num_parts)``. Fewer clips than parts: one part a clip.

    Raises
    ------
    UsageError
        unless ``num_parts`` divides 32.
    """
    if num_parts < 1 or NUM_NESTED_PARTS % num_parts:
        msg = f"a tube can be cut into 1, 2, 4, 8, 16 or 32 parts without its clips, not {num_parts}: give one of these"
        raise UsageError(msg)
    return _even_spans(min(num_clips, NUM_NESTED_PARTS), num_parts)


def part_frames(num_frames: int, num_parts: int, *, clip_length: int = CLIP_LENGTH) -> NDArray[np.int64]:
    """Give the frames of a tube that each of ``num_parts`` parts covers, counted from the tube's first, ``(part, 2)``.

    A tube has ``num_frames // clip_length`` clips from its start, at least one; the last part also takes the frames
    that fill no clip.
    """
    if num_frames < 1 or clip_length < 1:
        msg = f"a tube has 1 frame or more and clips too; got {num_frames} and {clip_length}: give positive numbers"
        raise UsageError(msg)
    spans = _even_spans(max(1, num_frames // clip_length), num_parts) * clip_length
    spans[-1, 1] = num_frames
    return spans


def _even_spans(total: int, num_parts: int) -> NDArray[np.int64]:
    if total < 1 or num_parts < 1:
        msg = f"there is nothing to cut: {total} clips into {num_parts} parts; give 1 or more of both"
        raise UsageError(msg)
    num_parts = min(num_parts, total)
    edges = np.arange(num_parts + 1, dtype=np.int64) * total // num_parts
    return np.stack([edges[:-1], edges[1:]], axis=1)


RANKINGS: Mapping[str, Callable[[Tube], float]] = MappingProxyType(
    {
        "score": lambda tube: tube.score_mean * float(np.sqrt(len(tube))),
        "length": lambda tube: float(len(tube)),
    }
)
"""Name -> what makes a tube worth keeping: mean score of its detections times the root of its length in frames, or the
length alone. ``random:SEED`` draws instead. The paper does not say which 200 it takes."""


def rank_tubes(
    tubes: Sequence[Tube], *, rule: str = "score", max_tubes: int = MAX_TUBES, quota: Mapping[str, int] | None = None
) -> NDArray[np.int64]:
    """Give the places in ``tubes`` of those that are kept, best first.

    Both kinds compete unless ``quota`` says how many of each kind (``"unary"``, ``"multivariate"``) are kept at most.
    Equal worth goes to unary tubes first, then by `Tube.seed_key`: the order of ``tubes`` does not matter.

    Raises
    ------
    UsageError
        for an unknown rule or kind, or a negative number of tubes.
    """
    if max_tubes < 0 or any(
        number < 0 or kind not in ("unary", "multivariate") for kind, number in (quota or {}).items()
    ):
        msg = f"cannot keep {max_tubes} tubes, {dict(quota or {})}: give max_tubes=200, quota={{'unary': 100}}"
        raise UsageError(msg)
    standard = sorted(range(len(tubes)), key=lambda i: (tubes[i].kind != "unary", tubes[i].seed_key))
    worth = _worth(rule, [tubes[i] for i in standard])
    order = [standard[place] for place in np.argsort(-worth, kind="stable")]
    taken = dict.fromkeys(("unary", "multivariate"), 0)
    kept: list[int] = []
    for i in order:
        kind = tubes[i].kind
        if len(kept) < max_tubes and (quota is None or taken[kind] < quota.get(kind, max_tubes)):
            taken[kind] += 1
            kept.append(i)
    return np.array(kept, np.int64)


def check_rule(rule: str) -> None:
    """Raise `UsageError` unless ``rule`` is one of `RANKINGS` or ``random:SEED``."""
    name, colon, seed = rule.partition(":")
    if rule not in RANKINGS and not (name == "random" and colon and seed.isdecimal()):
        msg = f"no rule named {rule!r} ranks tubes: give {', '.join(RANKINGS)} or random:SEED, such as random:0"
        raise UsageError(msg)


def _worth(rule: str, tubes: Sequence[Tube]) -> NDArray[np.float64]:
    check_rule(rule)
    if rule in RANKINGS:
        return np.array([RANKINGS[rule](tube) for tube in tubes], np.float64)
    return np.random.default_rng(int(rule.partition(":")[2])).random(len(tubes))
