"""Detections, tubes and tube features as the arrays that are stored of them, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..detectors.detections import Detections
from ..detectors.tubes import Tube
from ..features.timeline import VideoFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..detectors.regions import InstanceFeatures
    from ..features.stage_shard import StageOutline, StageShard

KINDS = ("unary", "multivariate")
"""Kinds of tube by the number that stands for them in a shard."""

UNRANKED = -1
"""The rank of a tube that is not among those kept for features."""


def facts_mapping(facts: VideoFacts) -> dict[str, Any]:
    """Give a video's facts as plain values; what is not known is left out."""
    return {name: value for name, value in asdict(facts).items() if value is not None}


def facts_of(shard: StageShard | StageOutline) -> VideoFacts:
    """Give the facts of the video that a shard was made from."""
    stored = shard.facts["video"]
    return VideoFacts(**{f.name: stored[f.name] for f in fields(VideoFacts) if f.name in stored})


def categories_of(shard: StageShard) -> dict[int, str]:
    """Give the names of labels: those of the detector, a group under the lowest of its labels."""
    return {int(label): str(name) for label, name in shard.facts["categories"].items()}


def detection_arrays(
    looked_at: NDArray[np.integer],
    counts: NDArray[np.integer],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
) -> dict[str, NDArray[Any]]:
    """Give what is stored of detections.

    ``looked_at (sample,)`` are the source frames that the detector saw, ``counts (sample,)`` the boxes of each.
    """
    return {
        "frame": looked_at.astype(np.int32),
        "offset": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "box": boxes,
        "score": scores,
        "label": labels.astype(np.int32),
    }


def detections_of(shard: StageShard) -> Detections:
    """Give the detections of a shard; row i is its box i."""
    arrays = shard.arrays
    return Detections(
        np.repeat(arrays["frame"].astype(np.int64), np.diff(arrays["offset"])),
        arrays["box"],
        arrays["score"],
        arrays["label"].astype(np.int64),
        facts_of(shard).num_frames_decoded,
        int(shard.facts["stride"]),
    )


def tube_arrays(tubes: Sequence[Tube], kept: NDArray[np.int64], box_type: np.dtype[Any]) -> dict[str, NDArray[Any]]:
    """Give what is stored of tubes; ``kept`` are the places of those that features are made of, best first."""
    rank = np.full(len(tubes), UNRANKED, np.int32)
    rank[kept] = np.arange(len(kept))
    lengths = np.array([len(tube) for tube in tubes], np.int64)
    members = [np.zeros(0, np.int64), *(tube.member_rows for tube in tubes)]
    counts = [np.zeros(0, np.int64), *map(_member_counts, tubes)]
    return {
        "kind": np.array([KINDS.index(tube.kind) for tube in tubes], np.int8),
        "label": np.array([tube.label for tube in tubes], np.int32),
        "start": np.array([tube.frames[0] for tube in tubes], np.int32),
        "rank": rank,
        "seed": np.array([tube.seed for tube in tubes], np.int64),
        "seed_frame": np.array([tube.seed_frame for tube in tubes], np.int32),
        "seed_rank": np.array([tube.seed_rank for tube in tubes], np.int32),
        "box_offset": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "box": np.concatenate([np.zeros((0, 4), box_type), *(tube.boxes.astype(box_type) for tube in tubes)]),
        "score": np.concatenate([np.zeros(0, box_type), *(tube.scores.astype(box_type) for tube in tubes)]),
        "member_offset": np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        "member": np.concatenate(members).astype(np.int64),
    }


def tubes_of(shard: StageShard) -> list[Tube]:
    """Give the tubes of a shard, in the order in which they were stored."""
    arrays = shard.arrays
    found = []
    for place, (first, stop) in enumerate(zip(arrays["box_offset"][:-1], arrays["box_offset"][1:], strict=True)):
        start = int(arrays["start"][place])
        ends = arrays["member_offset"][first : stop + 1]
        found.append(
            Tube(
                frames=np.arange(start, start + stop - first, dtype=np.int64),
                boxes=arrays["box"][first:stop],
                scores=arrays["score"][first:stop],
                label=int(arrays["label"][place]),
                member_rows=arrays["member"][ends[0] : ends[-1]],
                member_offsets=ends - ends[0] if KINDS[arrays["kind"][place]] == "multivariate" else None,
                seed=int(arrays["seed"][place]),
                seed_frame=int(arrays["seed_frame"][place]),
                seed_rank=int(arrays["seed_rank"][place]),
            )
        )
    return found


def ranked(shard: StageShard) -> NDArray[np.int64]:
    """Give the places of the tubes that features are made of, best first."""
    rank = shard.arrays["rank"]
    places = np.flatnonzero(rank != UNRANKED)
    best_first: NDArray[np.int64] = places[np.argsort(rank[places], kind="stable")]
    return best_first


def instance_arrays(places: NDArray[np.int64], instances: Sequence[InstanceFeatures]) -> dict[str, NDArray[Any]]:
    """Give what is stored of tube features; ``places`` are the tubes' in their shard."""
    dim = instances[0].region_mean.shape[0] if instances else 0

    def rows(name: str) -> NDArray[Any]:
        return np.concatenate([np.zeros((0, dim), np.float32), *(getattr(one, name) for one in instances)])

    arrays: dict[str, NDArray[Any]] = {
        "tube": places.astype(np.int64),
        "region": np.array([one.region_mean for one in instances], np.float32).reshape(len(instances), dim),
        "whole_frame": np.array([one.global_mean for one in instances], np.float32).reshape(len(instances), dim),
        "part_offset": _offsets([len(one.part_clips) for one in instances]),
        "part_clips": np.concatenate([np.zeros(0, np.int64), *(one.part_clips for one in instances)]),
        "region_parts": rows("region_parts"),
        "whole_frame_parts": rows("global_parts"),
        "clip_offset": _offsets([one.num_clips for one in instances]),
        "clip_frames": np.concatenate([np.zeros((0, 2), np.int64), *(one.clip_frames for one in instances)]),
    }
    if instances and instances[0].region_clips is not None:
        arrays |= {"region_clips": rows("region_clips"), "whole_frame_clips": rows("global_clips")}
    return arrays


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)


def _member_counts(tube: Tube) -> NDArray[np.int64]:
    return np.ones(len(tube), np.int64) if tube.member_offsets is None else np.diff(tube.member_offsets)


def describe_counts(kind: str, lengths: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Give what a run tells of a video's shard: how many of what."""
    if kind == "detections":
        return {"boxes": lengths["box"]}
    if kind == "tubes":
        multivariate = int((arrays["kind"] == KINDS.index("multivariate")).sum())
        return {"unary": len(arrays["kind"]) - multivariate, "multivariate": multivariate}
    return {"instances": lengths["instance"], "clips": lengths["clip"]}
