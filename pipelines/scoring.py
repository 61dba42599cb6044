"""A model's scores of a video: of the segments that it sees, and of every decoded frame.

A video's segments are made by the rule that the model was trained with, of which ``model.json`` holds everything: a
model's folder is all that scoring needs beside the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..errors import StoreError, UsageError
from ..features.bag_rules import MIST_PART_CLIPS, segment_rule
from ..features.bags import make_bag
from ..features.expansion import expand_scores
from .methods.align import AlignSettings, frame_activation
from .methods.lad import LadSettings, frame_spans
from .methods.mgpr import Mgpr
from .train import scorer
from .training_bags import real_segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.bag_file import Bag
    from ..features.store import FeatureSet
    from ..features.timeline import ClipFeatures
    from .methods import Scores
    from .model_folder import Model

_ROUNDING = 1e-5
"""How far beyond 0 and 1 float32 arithmetic may carry a score that is in [0, 1] by its equation."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredVideo:
    """What a model says of one video.

    Shapes: ``frames (segment, 2)``, the half-open source frames of each scored segment, none of them padding;
    ``scores (segment,)`` in [0, 1], 1 abnormal; ``frame_scores (num_frames,)`` in [0, 1], one for each decoded frame;
    ``seconds (segment, 2)``, the timestamp of a segment's first frame and the one at which it ends. ``video`` is the
    score of methods that score videos as such; ``classes`` maps kinds of anomaly to scores. ``more`` holds what else a
    method gives, of segments or frames by its length. ``frame_seconds (num_frames,)`` are the times of frames, spread
    between those of segments where none are given. Times are NaN, all of them, where they are unknown, as of imported
    features.

    Raises
    ------
    UsageError
        if shapes disagree, a score is not in [0, 1], or a segment holds no frame of the video.
    """

    id: str
    frames: NDArray[np.int64]
    scores: NDArray[np.float32]
    frame_scores: NDArray[np.float32]
    seconds: NDArray[np.float64]
    video: float | None = None
    classes: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    frame_seconds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        num_segments, num_frames = len(self.scores), len(self.frame_scores)
        pairs = (num_segments, 2)
        if self.frames.shape != pairs or self.seconds.shape != pairs or not num_segments or self.frame_scores.ndim != 1:
            msg = (
                f"{self.id}: expected frames and seconds (segment, 2), scores (segment,), frame_scores (frame,); got "
                f"{self.frames.shape}, {self.seconds.shape}, {self.scores.shape} and {self.frame_scores.shape}; "
                f"give those of score_clips"
            )
            raise UsageError(msg)
        starts, stops = self.frames.T
        if starts.min() < 0 or (starts >= stops).any() or stops.max() > num_frames:
            msg = f"{self.id}: a segment is no span of the video's {num_frames} frames; leave segments of padding out"
            raise UsageError(msg)
        for name, values in (("scores", self.scores), ("frame_scores", self.frame_scores)):
            # Not `values > 1`, which would let NaN pass.
            if not ((values >= 0) & (values <= 1)).all():
                msg = f"{self.id}: {name} lie between {values.min()} and {values.max()}, not in [0, 1]; train again"
                raise UsageError(msg)
        if not len(self.frame_seconds):
            object.__setattr__(self, "frame_seconds", spread_seconds(self.frames, self.seconds, num_frames))
        if self.frame_seconds.shape != (num_frames,):
            msg = f"{self.id}: {num_frames} frames want a time each, got {self.frame_seconds.shape}; leave them out"
            raise UsageError(msg)

    @property
    def num_frames(self) -> int:
        """How many frames of the video were decoded."""
        return len(self.frame_scores)

    @property
    def is_timed(self) -> bool:
        """Whether the times of frames are known."""
        return not bool(np.isnan(self.frame_seconds).any())


def spread_seconds(
    frames: NDArray[np.int64], seconds: NDArray[np.float64], num_frames: int, *, fps: float = 0.0
) -> NDArray[np.float64]:
    """Give every frame a time, ``(num_frames,)``, from those of spans: ``frames`` and ``seconds (span, 2)``.

    Between the first and last frame of a span frames are evenly spaced; so are those outside of all, by ``fps``, or as
    within where that is unknown.
    """
    known, at = np.unique(frames, return_index=True)
    times = seconds.ravel()[at]
    places = np.arange(num_frames)
    found = np.interp(places, known, times)
    step = 1 / fps if fps > 0 else (times[-1] - times[0]) / max(1, known[-1] - known[0])
    found += step * (np.minimum(places - known[0], 0) + np.maximum(places - known[-1], 0))
    return found


def check_set(model: Model, feature_set: FeatureSet) -> None:
    """Raise `UsageError` unless a model was trained on features of this set's recipe."""
    wanted = model.facts["recipe_digest"]
    if feature_set.digest != wanted:
        name = model.facts.get("set_name") or f"recipe {wanted[:8]}"
        msg = (
            f"the model was trained on features of {name} (recipe {wanted[:12]}), and {feature_set.name} holds others "
            f"(recipe {feature_set.digest[:12]}): their numbers mean other things to it; name the set that it was "
            f"trained on, or videos: vadx score MODEL VIDEO"
        )
        raise UsageError(msg)


def score_set(model: Model, feature_set: FeatureSet, ids: Sequence[str]) -> Iterator[ScoredVideo]:
    """Score videos of a feature set, in the order of ``ids``.

    Raises
    ------
    UsageError
        as `check_set` and `score_clips`, and for an id that is not stored.
    ShardError
        if a shard is damaged.
    """
    check_set(model, feature_set)
    for identifier in ids:
        try:
            clips = feature_set[identifier]
        except KeyError as error:
            msg = f"{error.args[0]}; `vadx ls {feature_set.name} -q` prints its ids"
            raise UsageError(msg) from error
        yield score_clips(model, clips, identifier)


def score_clips(model: Model, clips: ClipFeatures, identifier: str) -> ScoredVideo:
    """Score one video's features, cut into segments as the model's training videos were.

    Frames get the scores of segments by `expand_scores`; those of ``lad`` get its own, a score a frame. The T-CAM of
    ``align``, which the paper calls the frame level, is ``more["frame_activation"] (num_frames,)``. Segments' scores by
    the branches of ``mgpr`` are ``more["tube_branch"]`` and ``more["temporal_branch"]``.

    Raises
    ------
    UsageError
        if the features are of another shape than those that the model learned from, the rule cannot cut them, or a
        score is not in [0, 1].
    """
    segments = model_segments(model, clips, identifier)
    real = real_segments(segments.frames)
    frames = segments.frames[real]
    near = next(model.network.parameters(), torch.empty(0))
    scores = scorer(model.method, model.network, str(near.device))(torch.from_numpy(segments.features[real]))
    # Those of mgpr's branches are named so as not to be taken for its tubes.
    suffix = "_branch" if isinstance(model.method, Mgpr) else ""
    more = {f"{name}{suffix}": values.detach().cpu().numpy() for name, values in scores.more.items()}
    num_frames = segments.num_frames
    values = _unit(scores.segments.float().cpu().numpy(), identifier)
    settings = model.method.settings
    if isinstance(settings, LadSettings):
        each = more.pop("frames")
        frame_scores = expand_scores(each.ravel(), frame_spans(frames, each.shape[1]), num_frames)
    else:
        frame_scores = expand_scores(values, frames, num_frames)
    if isinstance(settings, AlignSettings):
        # The two sequences of csltal-pairs follow each other, and tell of the same time.
        in_time = np.argsort(frames[:, 0], kind="stable")
        activation = frame_activation(more["weighted"][in_time], num_frames, settings)
        more["frame_activation"] = activation.astype(np.float32)
    return ScoredVideo(
        id=identifier,
        frames=frames,
        scores=values,
        frame_scores=_unit(frame_scores.astype(np.float32), identifier),
        seconds=span_seconds(frames, clips),
        video=scores.video,
        classes=_class_scores(model, scores),
        more=more,
        frame_seconds=spread_seconds(clips.frames, clips.seconds, num_frames, fps=clips.facts.fps),
    )


def model_segments(model: Model, clips: ClipFeatures, identifier: str) -> Bag:
    """Cut one video's features as the model's training videos were cut. Raises `UsageError` as `score_clips`."""
    facts = model.facts
    expected, got = facts["dim"], clips.values.shape[2]
    if got != expected:
        msg = (
            f"{identifier}: its features have {got} numbers, the model learned from {expected}; "
            f"give features of its own recipe: vadx score MODEL VIDEO"
        )
        raise UsageError(msg)
    bag = make_bag(
        clips,
        facts["rule"],
        num_segments=_num_segments(facts["rule"], facts["num_segments"]),
        crop_pool=facts.get("crop_pool", "keep"),
        seed=facts.get("bags_seed", 0),
        id=identifier,
    )
    num_crops = bag.features.shape[1]
    if num_crops != facts["num_crops"]:
        msg = (
            f"{identifier}: its features have {num_crops} crops, the model learned from {facts['num_crops']}; "
            f"give features of its own recipe: vadx score MODEL VIDEO"
        )
        raise UsageError(msg)
    return bag


def _num_segments(name: str, num_rows: int) -> int | None:
    """Give the number of segments to cut, of the rows of a training bag. None: as many as the video's clips give."""
    rule = segment_rule(name)
    if not rule.num_segments:
        # The bags of one file are padded to the longest, which says nothing of another video.
        return None
    return num_rows // MIST_PART_CLIPS if rule.how == "clips" else num_rows


def span_seconds(frames: NDArray[np.int64], clips: ClipFeatures) -> NDArray[np.float64]:
    """Give when spans of clips begin and end, ``(span, 2)``: ``frames (span, 2)`` are edges of clips."""
    first = np.searchsorted(clips.frames[:, 0], frames[:, 0])
    last = np.searchsorted(clips.frames[:, 1], frames[:, 1])
    found: NDArray[np.float64] = np.stack([clips.seconds[first, 0], clips.seconds[last, 1]], axis=1)
    return found


def _unit(values: NDArray[np.float32], identifier: str) -> NDArray[np.float32]:
    num_wrong = int((~np.isfinite(values)).sum())
    if num_wrong:
        msg = f"{identifier}: {num_wrong} of its {len(values)} scores are NaN or infinite; train the model again"
        raise UsageError(msg)
    clipped = values.clip(0, 1)
    if not (np.abs(values - clipped) <= _ROUNDING).all():
        msg = (
            f"{identifier}: scores lie between {values.min()} and {values.max()}, not in [0, 1]; train the model again"
        )
        raise UsageError(msg)
    return clipped


def _class_scores(model: Model, scores: Scores) -> dict[str, float]:
    if scores.classes is None:
        return {}
    settings = model.method.settings
    own = getattr(settings, "class_names", ())
    names = tuple(model.facts.get("classes") or own)
    values = scores.classes.float().cpu().tolist()
    if len(names) != len(values):
        msg = f"model.json names {len(names)} classes, and the network scores {len(values)}; train again: vadx train"
        raise StoreError(msg)
    return dict(zip(names, values, strict=True))


def as_mapping(video: ScoredVideo) -> dict[str, Any]:
    """Give a scored video as plain JSON, from which `from_mapping` makes one of the same numbers again.

    Times that are unknown are null.
    """
    return {
        "id": video.id,
        "num_frames": video.num_frames,
        "frames": video.frames.tolist(),
        "seconds": _known(video.seconds),
        "scores": _plain(video.scores),
        "frame_scores": _plain(video.frame_scores),
        "frame_seconds": _known(video.frame_seconds),
        "video": video.video,
        "classes": dict(video.classes),
        "more": {name: _plain(values) for name, values in video.more.items()},
    }


def from_mapping(mapping: Mapping[str, Any]) -> ScoredVideo:
    """Rebuild a scored video from `as_mapping`'s result. Raises `UsageError` if it is none."""
    try:
        return ScoredVideo(
            id=mapping["id"],
            frames=np.array(mapping["frames"], np.int64),
            scores=np.array(mapping["scores"], np.float32),
            frame_scores=np.array(mapping["frame_scores"], np.float32),
            seconds=np.array(mapping["seconds"], np.float64),
            video=mapping["video"],
            classes=mapping["classes"],
            more={name: np.array(values) for name, values in mapping["more"].items()},
            frame_seconds=np.array(mapping["frame_seconds"], np.float64),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"this is no scored video ({error}); give what vadx score --json writes"
        raise UsageError(msg) from error


def _known(times: NDArray[np.float64]) -> list[Any]:
    values = times.astype(object)
    values[np.isnan(times)] = None
    return cast("list[Any]", values.tolist())


def _plain(values: NDArray[Any]) -> list[Any]:
    """Give numbers as the shortest decimals that are read back as the same."""
    if values.dtype != np.float32:
        return cast("list[Any]", values.tolist())
    return cast("list[Any]", values.astype(str).astype(np.float64).tolist())
