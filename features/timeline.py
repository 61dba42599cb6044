"""The time axis: frames, seconds and clips. Every span in vadx is half-open, ``[start, stop)``.

Frames are counted as they are decoded, from 0; a container's own frame count is never used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames that a backbone sees at once.

    Covers the decoded source frames ``[start, stop)``. ``num_padded`` of the frames handed to the network,
    the last ones, were made by the tail rule and lie in no source frame.

    Raises
    ------
    ValueError
        for an empty or negative span.
    """

    start: int
    stop: int
    num_padded: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop or self.num_padded < 0:
            msg = f"a clip covers [start, stop) with 0 <= start < stop; got [{self.start}, {self.stop})"
            raise ValueError(msg)


FRAMES_FROM: Mapping[str, str] = MappingProxyType(
    {
        "export": "as vadx counted them before it exported the features",
        "counts": "as a list says that was given",
        "rows": "as many as the rows of the features imply; nobody counted them",
    }
)
"""How the frames of a video are known that nobody decoded for its features -> what that means."""

UNTIMED = "unknown"
"""The ``time_source`` of a video whose clips have no seconds: they are NaN."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What decoding a video showed, beside its frames. Stored with its features.

    ``num_frames_declared`` is the container's claim, None where it makes none; ``num_frames_decoded`` is the
    truth. ``coverage`` is the share of the container's stated duration that the decoded timestamps cover, None
    where it states no duration of its own. ``rotation_degrees`` is the clockwise turn that was applied to the
    decoded pictures. ``width`` and ``height`` are those of the first frame after that turn. ``time_source`` is
    ``"pts"``, or ``"synthetic"`` where the container has no timestamps and the frame rate stood in for them.

    Of features that vadx did not compute nobody decoded the video: ``frames_from`` is then one of `FRAMES_FROM`,
    ``time_source`` is ``"fps"`` where somebody stated a frame rate, else ``"unknown"``, and what is not known is 0.
    """

    fps: float
    num_frames_decoded: int
    width: int
    height: int
    num_frames_declared: int | None = None
    rotation_degrees: int = 0
    codec: str = ""
    container: str = ""
    time_source: str = "pts"
    num_damaged_frames: int = 0
    num_bad_packets: int = 0
    num_backward_pts: int = 0
    num_size_changes: int = 0
    coverage: float | None = None
    partial: bool = False
    frames_from: str | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether a person should know before trusting this video: damage, or fewer frames than declared."""
        return bool(self.degradations())

    def degradations(self) -> list[str]:
        """Say what is wrong with the video, one phrase each; empty for a clean one."""
        found: list[str] = []
        declared, decoded = self.num_frames_declared, self.num_frames_decoded
        if self.partial:
            found.append("only a part of the video could be decoded")
        if declared is not None and declared != decoded:
            found.append(f"header declares {declared} frames, {decoded} decoded")
        if self.num_damaged_frames:
            found.append(f"{self.num_damaged_frames} damaged frames")
        if self.num_bad_packets:
            found.append(f"{self.num_bad_packets} undecodable packets")
        if self.num_size_changes:
            found.append(f"{self.num_size_changes} changes of picture size")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeatures:
    """One video's features under one recipe.

    Shapes: ``values (clip, crop, feature)`` float32 or float16; ``frames (clip, 2)`` int64, half-open source
    frames; ``seconds (clip, 2)`` float64 from the frames' own timestamps; ``damaged (clip,)`` bool, whether a
    damaged frame went into the clip. ``provenance`` says what computed the values (engine, device, versions).

    ``seconds`` are NaN, all of them, where ``facts.time_source`` says that the times are unknown.

    Raises
    ------
    ValueError
        if the shapes disagree, or seconds are NaN of a video whose times are known.
    FeatureError
        with code ``FEATURE_NONFINITE`` if a value is NaN or infinite.
    """

    values: NDArray[np.floating]
    frames: NDArray[np.int64]
    seconds: NDArray[np.float64]
    damaged: NDArray[np.bool_]
    facts: VideoFacts
    num_padded_frames: int = 0
    provenance: dict[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_shapes(self.values, self.frames, self.seconds, self.damaged)
        check_finite(self.values)
        if bool(np.isnan(self.seconds).any()) and self.facts.time_source != UNTIMED:
            msg = f"seconds are NaN, and the times are said to be known, from {self.facts.time_source}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class ClipTable:
    """What is known of a video's clips beside their values, once its last frame is decoded; as in `ClipFeatures`."""

    frames: NDArray[np.int64]
    seconds: NDArray[np.float64]
    damaged: NDArray[np.bool_]
    facts: VideoFacts
    num_padded_frames: int


def concatenate(parts: Sequence[ClipFeatures]) -> ClipFeatures:
    """Put the features of one video under several recipes side by side: dim is the sum, such as 1024 + 1024.

    ``parts`` must describe the same clips of one video with as many crops; damage in one is damage in all. Values
    become the widest of their types; facts and provenance are the first's.

    Raises
    ------
    ValueError
        if their video, clips or crops differ: then clip i of one is not clip i of another.
    """
    parts = list(parts)
    if not parts:
        msg = "there is nothing to put side by side"
        raise ValueError(msg)
    first = parts[0]
    for part in parts[1:]:
        ours, theirs = first.facts, part.facts
        if (ours.width, ours.height, ours.num_frames_decoded) != (
            theirs.width,
            theirs.height,
            theirs.num_frames_decoded,
        ):
            msg = (
                f"these are different videos: {ours.num_frames_decoded} frames of {ours.width}x{ours.height} and "
                f"{theirs.num_frames_decoded} of {theirs.width}x{theirs.height}"
            )
            raise ValueError(msg)
        same_times = part.seconds.shape == first.seconds.shape and np.array_equal(
            part.seconds, first.seconds, equal_nan=True
        )
        if (
            not same_times
            or part.values.shape[:2] != first.values.shape[:2]
            or not np.array_equal(part.frames, first.frames)
        ):
            msg = (
                f"clips differ: {first.values.shape[0]} clips of {first.values.shape[1]} crops and "
                f"{part.values.shape[0]} of {part.values.shape[1]}; extract both with one clip length, stride and tail"
            )
            raise ValueError(msg)
    return ClipFeatures(
        values=np.concatenate([part.values for part in parts], axis=2),
        frames=first.frames,
        seconds=first.seconds,
        damaged=np.logical_or.reduce([part.damaged for part in parts]),
        facts=first.facts,
        num_padded_frames=first.num_padded_frames,
        provenance=first.provenance,
    )


def check_shapes(
    values: NDArray[np.floating],
    frames: NDArray[np.int64],
    seconds: NDArray[np.float64],
    damaged: NDArray[np.bool_],
) -> None:
    """Raise `ValueError` unless the four arrays describe the same clips."""
    num_clips = values.shape[0] if values.ndim == 3 else -1
    if frames.shape != (num_clips, 2) or seconds.shape != (num_clips, 2) or damaged.shape != (num_clips,):
        msg = (
            f"expected values (clip, crop, feature), frames (clip, 2), seconds (clip, 2), damaged (clip,); "
            f"got {values.shape}, {frames.shape}, {seconds.shape}, {damaged.shape}"
        )
        raise ValueError(msg)


def check_finite(values: NDArray[np.floating]) -> None:
    """Raise `FeatureError` unless every value is finite."""
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise FeatureError("FEATURE_NONFINITE", "features", f"{count} of {values.size} values are NaN or infinite")


def clip_seconds(clip: Clip, pts_seconds: NDArray[np.float64], next_pts_seconds: float) -> tuple[float, float]:
    """Give ``[start, stop)`` of a clip in seconds.

    ``pts_seconds`` holds the timestamps of the clip's own source frames ``[start, stop)``, in order;
    ``next_pts_seconds`` is that of frame ``clip.stop``.
    """
    if pts_seconds.shape != (clip.stop - clip.start,):
        msg = f"expected {clip.stop - clip.start} timestamps for {clip}, got shape {pts_seconds.shape}"
        raise ValueError(msg)
    return float(pts_seconds[0]), float(next_pts_seconds)


def end_after_last(last_pts_seconds: float, last_gap_seconds: float | None, fps: float) -> float:
    """Give the time at which the last frame ends: its timestamp plus the last gap between frames.

    A video of one frame has no gap; the frame rate stands in, and where that is unknown nothing is added.
    """
    if last_gap_seconds is not None:
        return last_pts_seconds + last_gap_seconds
    return last_pts_seconds + (1.0 / fps if fps > 0 else 0.0)
