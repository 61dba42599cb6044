"""A model's scores of a video's stored tubes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StoreError, UsageError
from ..features.stage_set import StageSet
from ..features.store import Store
from .methods.mgpr import Mgpr
from .tube_shards import tubes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .methods.mgpr import ScoredTubes
    from .model_folder import Model
    from .scoring import ScoredVideo


def check_tubes(model: Model, features: StageSet) -> None:
    """Raise `UsageError` unless a model scores tubes, and this set holds features of tubes."""
    if not isinstance(model.method, Mgpr):
        msg = f"{model.facts['method']} scores no tubes: leave --tubes out"
        raise UsageError(msg)
    if features.kind != "tube-features":
        msg = f"{features.name} holds {features.kind}, not features of tubes: give the last set that vadx tubes makes"
        raise UsageError(msg)


def tubes_before(features: StageSet) -> StageSet:
    """Give the set of tubes that a set of tube features was made from, which lies in the same store.

    Raises
    ------
    StoreError
        if it is not there.
    """
    for one in Store(features.path.parent).all_sets():
        if isinstance(one, StageSet) and one.digest == features.recipe.after:
            return one
    msg = (
        f"{features.name} was made from tubes that are not beside it in {features.path.parent}: "
        f"make them again there: vadx tubes VIDEO --out {features.path.parent}"
    )
    raise StoreError(msg)


def score_tubes(model: Model, features: StageSet, tubes: StageSet, identifier: str) -> ScoredTubes:
    """Score the parts of a video's stored tubes; ``tubes`` is `tubes_before` of ``features``.

    Raises
    ------
    UsageError
        as `check_tubes`, if the video is in neither set, or the features are of other tubes or another network.
    ShardError
        if a shard is damaged.
    """
    check_tubes(model, features)
    method = model.method
    if not isinstance(method, Mgpr):
        raise TypeError(method)
    try:
        own, linked = features.open(identifier), tubes.open(identifier)
    except KeyError as error:
        msg = f"{error.args[0]}; make its tubes: vadx tubes VIDEO --out {features.path.parent}"
        raise UsageError(msg) from error
    if own.header.source_sha256 != linked.header.body_sha256:
        msg = f"{identifier}: {features.name} holds features of other tubes than {tubes.name}; repeat vadx tubes"
        raise UsageError(msg)
    dim, expected = own.arrays["region"].shape[1], model.facts["dim"]
    if len(own.arrays["tube"]) and dim != expected:
        msg = (
            f"{identifier}: features of its tubes in {features.name} have {dim} numbers, the model learned from "
            f"{expected}; make them with its own network: vadx tubes --backbone"
        )
        raise UsageError(msg)
    return method.score_tubes(model.network, own.arrays, tubes_of(linked))


def with_tubes(video: ScoredVideo, scored: ScoredTubes) -> ScoredVideo:
    """Add scores of tubes to those of a video: in ``more`` ``tube_scores (part,)``, the tube that each is a part of,
    ``tube (part,)``, and its half-open frames, ``tube_frames (part, 2)``; the video's score is the best tube's.
    """
    parts = scored.parts
    told: dict[str, NDArray[Any]] = {
        "tube_scores": scored.scores.astype(np.float32),
        "tube": parts.instance,
        "tube_frames": parts.frames,
    }
    return replace(video, video=scored.score, more={**video.more, **told})
