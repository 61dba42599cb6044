"""What a person should know before trusting a video's tubes, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .tubes import Tube

SWALLOWED_FRACTION = 0.8
"""A box of this share of the picture or more says nothing about where: multivariate tubes only ever grow by contact."""


@dataclass(frozen=True, slots=True)
class TubeFindings:
    """What one kind of tube of one video is like.

    ``num_boxes`` counts detections in tubes, without interpolated boxes. ``longest`` is in source frames.
    ``max_union_area_fraction`` is the largest box as a share of the picture; ``num_swallowing`` tubes have a box of
    `SWALLOWED_FRACTION` or more. ``largest_share`` is the share of ``num_boxes`` in the ten largest tubes.
    """

    num_tubes: int
    num_boxes: int
    num_interpolated: int
    longest: int
    max_members: int
    max_union_area_fraction: float
    num_swallowing: int
    largest_share: float

    def warnings(self) -> list[str]:
        """Say what is suspicious, a phrase each; empty where nothing is."""
        if not self.num_swallowing:
            return []
        return [
            f"{self.num_swallowing} of {self.num_tubes} tubes have a box of {SWALLOWED_FRACTION:.0%} of the picture or "
            f"more (the largest {self.max_union_area_fraction:.0%}): objects in contact were joined one after another; "
            f"raise --iou or --link-score"
        ]


@dataclass(frozen=True, slots=True)
class GapFindings:
    """What single missed detections cost: unary tubes without gaps beside those that bridge one missed sample.

    ``num_lost`` of the bridged tubes hold no detection of any tube that was kept without bridging: single missed
    detections cut them into pieces that were all too short. ``num_boxes`` count detections in tubes.
    """

    num_tubes: int
    num_tubes_bridged: int
    num_boxes: int
    num_boxes_bridged: int
    num_lost: int

    def warnings(self) -> list[str]:
        """Say what bridging would keep; empty where nothing was lost."""
        if not self.num_lost:
            return []
        return [
            f"{self.num_lost} tubes were lost to single missed detections: --max-gap 1 would keep "
            f"{self.num_tubes_bridged} tubes of {self.num_boxes_bridged} boxes, not {self.num_tubes} of "
            f"{self.num_boxes}; so might a larger --stride"
        ]


def tube_findings(tubes: Sequence[Tube], *, width: int, height: int) -> TubeFindings:
    """Measure tubes of a video whose pictures have ``width`` times ``height`` pixels.

    Raises
    ------
    UsageError
        if the picture has no area.
    """
    areas = [area_fractions(tube, width=width, height=height).max() for tube in tubes]
    sizes = sorted((num_detections(tube) for tube in tubes), reverse=True)
    total = sum(sizes)
    return TubeFindings(
        num_tubes=len(tubes),
        num_boxes=total,
        num_interpolated=sum(int(tube.interpolated.sum()) for tube in tubes),
        longest=max(map(len, tubes), default=0),
        max_members=max((tube.max_members for tube in tubes), default=0),
        max_union_area_fraction=float(max(areas, default=0.0)),
        num_swallowing=sum(bool(area >= SWALLOWED_FRACTION) for area in areas),
        largest_share=sum(sizes[:10]) / total if total else 0.0,
    )


def gap_findings(tubes: Sequence[Tube], bridged: Sequence[Tube]) -> GapFindings:
    """Compare the unary tubes of a video linked with ``max_gap=0`` and with ``max_gap=1``, all else being equal."""
    kept = np.concatenate([np.zeros(0, np.int64), *(tube.member_rows for tube in tubes)])
    kept = np.unique(kept[kept >= 0])
    return GapFindings(
        num_tubes=len(tubes),
        num_tubes_bridged=len(bridged),
        num_boxes=sum(map(num_detections, tubes)),
        num_boxes_bridged=sum(map(num_detections, bridged)),
        num_lost=sum(not np.isin(tube.member_rows, kept).any() for tube in bridged),
    )


def area_fractions(tube: Tube, *, width: int, height: int) -> NDArray[np.float64]:
    """Give the share of the picture that each box of a tube covers, ``(frame,)``; what lies outside does not count."""
    if width < 1 or height < 1:
        msg = f"a picture has 1 pixel or more; got {width} x {height}: give width and height of the video in pixels"
        raise UsageError(msg)
    limits = np.array([width, height, width, height], np.float64)
    x1, y1, x2, y2 = np.clip(tube.boxes.astype(np.float64), 0, limits).T
    fractions: NDArray[np.float64] = (x2 - x1) * (y2 - y1) / (width * height)
    return fractions


def num_detections(tube: Tube) -> int:
    """Count the detections of a tube; interpolated boxes are none."""
    return int((tube.member_rows >= 0).sum())
