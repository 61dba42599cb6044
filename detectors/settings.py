"""Everything about linking that can be chosen, in one object that is recorded beside the tubes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import UsageError
from .tubes import MAX_TUBES, check_rule

SEMANTICS = "wsstad-a1a2/1"
"""Names the reading of Algorithms 1 and 2 that the code follows; it changes when the same settings give other tubes."""

CLOSURES: Mapping[str, str] = MappingProxyType(
    {
        "direct": "boxes join that overlap the seed, or in later frames a member in the frame before: Algorithm 2",
        "component": "boxes join also that overlap a box of their own frame that joined",
    }
)
"""Name -> which boxes of a frame join a multivariate tube."""

DEFAULT_MAX_OPEN_BOXES = 40_000_000
"""About 2 GB of boxes while they are held, 8 GB while they are linked at once: two days at 25 frames/s with 10 boxes in
each frame."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How detections become tubes; the defaults are those of J. Wu et al., "Weakly-Supervised Spatio-Temporal Anomaly
    Detection in Surveillance Video", IJCAI 2021, Appendix A.

    Parameters
    ----------
    eta
        Weight of the overlap in the link score S(i) + S(j) + eta * IoU(i, j), Eq. 11.
    iou_threshold
        The paper's lambda: two boxes can be linked if their IoU is greater.
    min_length_unary, min_length_multivariate
        The paper's zeta1 and zeta2: source frames that a tube covers at least.
    max_gap
        Samples without a detection that a unary tube bridges. 0 is the paper's: one missed detection ends a tube.
    closure
        One of `CLOSURES`.
    min_members
        A multivariate tube has so many members in one of its frames at least.
    dedupe
        Whether multivariate tubes go that are a stretch of a unary tube.
    min_score
        Only detections with this score or more are linked; None for all.
    seed_score
        Only detections with this score or more begin a tube; those below may continue one. None, the paper's, for all.
    classes
        Only detections with these labels are linked; None, the paper's, for all.
    groups
        Labels that are linked as one category, named by the first of them: ``((3, 6, 8),)`` follows a vehicle that is
        called car, bus and truck by turns. Empty is the paper's.
    agnostic_nms
        A box goes that overlaps a better one of its frame, of whatever category, with a greater IoU; None for never.
    max_tubes, ranking
        How many tubes of a video are kept at most, and by which rule of `RANKINGS` or ``random:SEED``.
    max_open_boxes
        Boxes whose tubes may still grow that a stream holds at most. It refuses to go on rather than cut tubes.

    Raises
    ------
    UsageError
        for a value outside its range.
    """

    eta: float = 2.0
    iou_threshold: float = 0.1
    min_length_unary: int = 100
    min_length_multivariate: int = 50
    max_gap: int = 0
    closure: str = "direct"
    min_members: int = 1
    dedupe: bool = False
    min_score: float | None = None
    seed_score: float | None = None
    classes: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    agnostic_nms: float | None = None
    max_tubes: int = MAX_TUBES
    ranking: str = "score"
    max_open_boxes: int = DEFAULT_MAX_OPEN_BOXES

    def __post_init__(self) -> None:
        _check(math.isfinite(self.eta) and self.eta >= 0, "eta", self.eta, "0 or more", "eta=2.0")
        for name in ("iou_threshold", "agnostic_nms"):
            value = getattr(self, name)
            _check(value is None or 0 <= value < 1, name, value, "in [0, 1)", f"{name}=0.1")
        _check(self.iou_threshold is not None, "iou_threshold", None, "in [0, 1)", "iou_threshold=0.1")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            _check(
                whole and value >= least, name, value, f"a whole number, {least} or more", f"{name}={_EXAMPLE[name]}"
            )
            # numpy's integers are taken, and cannot be written as JSON.
            object.__setattr__(self, name, int(value))
        _check(self.closure in CLOSURES, "closure", self.closure, f"one of {', '.join(CLOSURES)}", "closure='direct'")
        for name in ("min_score", "seed_score"):
            score = getattr(self, name)
            _check(score is None or math.isfinite(score), name, score, "a number or None", f"{name}=0.5")
        members = [label for group in self.groups for label in group]
        apart = len(set(members)) == len(members) and all(self.groups)
        _check(apart, "groups", self.groups, "groups of labels, none in two of them", "groups=((3, 6, 8),)")
        check_rule(self.ranking)

    def record(self, stride: int) -> dict[str, Any]:
        """Give what is stored beside the tubes: the semantics, the stride of the detections and every setting that
        changes a tube. How much memory a stream may use does not.
        """
        values = {name: value for name, value in dataclasses.asdict(self).items() if name != "max_open_boxes"}
        return {"semantics": SEMANTICS, "stride": stride, **values}


_LEAST = {
    "min_length_unary": 1,
    "min_length_multivariate": 1,
    "max_gap": 0,
    "min_members": 1,
    "max_tubes": 0,
    "max_open_boxes": 1,
}
_EXAMPLE = {
    "min_length_unary": 100,
    "min_length_multivariate": 50,
    "max_gap": 1,
    "min_members": 2,
    "max_tubes": MAX_TUBES,
    "max_open_boxes": DEFAULT_MAX_OPEN_BOXES,
}


def _check(fine: bool, name: str, value: object, range_: str, example: str) -> None:
    if not fine:
        msg = f"{name} must be {range_}, got {value!r}: give {example}"
        raise UsageError(msg)
