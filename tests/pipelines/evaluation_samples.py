"""Scored videos for tests of evaluation, made of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vadx.features.expansion import expand_scores
from vadx.features.manifest import ManifestEntry
from vadx.pipelines.evaluation import TestVideo
from vadx.pipelines.scoring import ScoredVideo


def spans_of(num_frames: int, num_segments: int) -> NDArray[np.int64]:
    """Cut frames into equal segments."""
    edges = np.linspace(0, num_frames, num_segments + 1).astype(np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def clips_of(num_frames: int) -> NDArray[np.int64]:
    """Cut frames into clips of 16, the last one shorter."""
    starts = np.arange(0, num_frames, 16)
    return np.stack([starts, np.minimum(starts + 16, num_frames)], axis=1)


def video(
    identifier: str,
    scores: ArrayLike,
    spans: Sequence[tuple[int, int]] = (),
    *,
    num_frames: int | None = None,
    frames: NDArray[np.int64] | None = None,
    label: int | None = None,
    class_name: str = "",
    declared: int | None = None,
    head: float | None = None,
    classes: Mapping[str, float] | None = None,
    more: Mapping[str, NDArray[Any]] | None = None,
    frames_only: bool = False,
) -> TestVideo:
    """Make a scored video of ``scores``, one a frame unless ``frames`` or ``num_frames`` says otherwise."""
    values = np.asarray(scores, np.float32)
    total = num_frames or (len(values) if frames is None else int(frames[:, 1].max()))
    segments = spans_of(total, len(values)) if frames is None else frames
    scored = ScoredVideo(
        id=identifier,
        frames=segments,
        scores=values,
        frame_scores=expand_scores(values, segments, total).astype(np.float32),
        seconds=segments / 25,
        video=head,
        classes=classes or {},
        more=more or {},
    )
    own_label = (1 if len(spans) else 0) if label is None else label
    entry = ManifestEntry(
        identifier, label=own_label, class_name=class_name, split="test", spans=np.array(spans), num_frames=declared
    )
    return TestVideo(scored, entry, frames_only)


def rich(identifier: str, *, clips: bool, seed: int, anomalous: bool) -> TestVideo:
    """Make a video that has everything: attention, activation, classes, and a length that is no whole clips."""
    random = np.random.default_rng(seed)
    num_frames = 1000 + 7 * seed
    frames = clips_of(num_frames) if clips else spans_of(num_frames, 32)
    scores, attention = random.random((2, len(frames))).astype(np.float32)
    more = {"attention": attention, "frame_activation": random.random(num_frames).repeat(9)[:num_frames]}
    spans = [(101, 237), (700, num_frames - 1)] if anomalous else []
    return video(identifier, scores, spans, frames=frames, head=float(random.random()), more=more)


def rich_set(*, clips: bool) -> list[TestVideo]:
    """Make two anomalous and two normal videos that have everything."""
    return [rich(f"v{seed}", clips=clips, seed=seed, anomalous=seed < 2) for seed in range(4)]
