"""A model's scores of stored tubes against annotated boxes, for `evaluate.evaluate_tubes`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..detectors.boxes import ranked_boxes
from ..detectors.settings import LinkSettings
from ..errors import UsageError
from ..features.joining import join_ids
from .evaluate import TubeReport, VideoTubes, evaluate_tubes
from .tube_scoring import score_tubes, tubes_before
from .tube_shards import detections_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.box_truth import BoxTruth
    from ..features.manifest import ManifestEntry
    from ..features.stage_set import StageSet
    from .methods.mgpr import ScoredTubes
    from .model_folder import Model


@dataclass(frozen=True, slots=True, eq=False)
class TubeSets:
    """Features of tubes, the tubes, and the detections that these were linked from: three sets of one store."""

    features: StageSet
    tubes: StageSet
    detections: StageSet

    @classmethod
    def of(cls, features: StageSet) -> TubeSets:
        """Find the sets that stand before one of tube features. Raises `StoreError` if they are not beside it."""
        tubes = tubes_before(features)
        return cls(features, tubes, tubes_before(tubes))

    def link_settings(self) -> LinkSettings:
        """Give how the tubes were linked, as their recipe says."""
        said = self.tubes.recipe.settings
        known = {one.name: said[one.name] for one in fields(LinkSettings) if one.name in said}
        return LinkSettings(**{name: _tuples(value) for name, value in known.items()})

    def linked_frames(self, identifier: str) -> tuple[NDArray[np.int64], int]:
        """Give the frames in which the detector found what was linked, and its stride.

        A detection below the threshold of linking is none: a lower threshold asks about more frames.
        """
        found = detections_of(self.detections.open(identifier))
        rows = ranked_boxes(found, self.link_settings()).row
        return np.unique(found.frame_index[rows]), found.stride


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, eq=False)
class JudgedTubes:
    """What tubes are worth: the report, each video's scores, and what a person should know."""

    report: TubeReport | None
    scored: Mapping[str, ScoredTubes]
    notes: tuple[str, ...]


def judge_tubes(
    model: Model, sets: TubeSets, entries: Mapping[str, ManifestEntry], boxes: Mapping[str, BoxTruth] | None
) -> JudgedTubes:
    """Score the tubes of labelled videos, and place them by annotated ``boxes``; without these nothing is judged.

    Anomalous videos without boxes cannot be judged and are left out, as are videos whose tubes are not stored.

    Raises
    ------
    UsageError
        as `score_tubes`, or for a normal video with boxes.
    ShardError
        if a shard is damaged.
    """
    labelled = {identifier: entry for identifier, entry in entries.items() if entry.label in (0, 1)}
    stored = set(sets.features.summaries())
    scored = {
        identifier: score_tubes(model, sets.features, sets.tubes, identifier)
        for identifier in sorted(labelled)
        if identifier in stored
    }
    notes = _left_out(sorted(set(labelled) - stored), "whose tubes are not stored")
    if boxes is None:
        return JudgedTubes(None, scored, (*notes, "tubes are not placed: give their boxes, --boxes FILE"))
    pairs = join_ids(labelled, boxes).pairs
    videos, without = [], []
    for identifier, tubes in scored.items():
        anomalous = labelled[identifier].label == 1
        truth = boxes[pairs[identifier]] if identifier in pairs else None
        if anomalous and (truth is None or not len(truth)):
            without.append(identifier)
            continue
        frames, stride = sets.linked_frames(identifier)
        videos.append(VideoTubes(identifier, anomalous, tubes.tracks, tubes.scores, frames, stride, truth))
    notes += _left_out(without, "that are anomalous and have no annotated box")
    if not videos:
        msg = "no video has both tubes and annotated boxes; give the boxes of these videos, or leave --boxes out"
        raise UsageError(msg)
    return JudgedTubes(evaluate_tubes(videos), scored, tuple(notes))


def _left_out(ids: list[str], what: str) -> list[str]:
    if not ids:
        return []
    shown = f"{', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}"
    return [f"tubes leave out {len(ids)} videos {what}: {shown}"]
