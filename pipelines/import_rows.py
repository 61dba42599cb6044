"""Where the rows of imported features lie in their videos: frames and seconds that nobody stored beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..extract.sampling import TAIL_POLICIES, ceil_count, floor_count
from ..features.bags import segment_spans, span_frames
from ..features.timeline import UNTIMED, ClipTable, VideoFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RowRule:
    """How rows became of frames, as far as it is known.

    A row is a clip of ``span`` frames, ``stride`` after the one before, or with a ``segmentation`` a segment of clips
    under that rule of `bag_rules.SEGMENTATIONS`; ``tail`` then says how many clips there were. ``fps`` is the frame
    rate of the videos, None where nobody said. ``clip_fps`` is the rate that clips count their frames at, None for the
    video's own.

    Raises
    ------
    UsageError
        if clips count other frames than the video's, and the rates are not both known.
    """

    span: int
    stride: int
    tail: str
    segmentation: str = ""
    fps: float | None = None
    clip_fps: float | None = None

    def __post_init__(self) -> None:
        if self.clip_fps is not None and self.fps is None:
            msg = (
                f"these clips count frames at {self.clip_fps:g} a second, and the rate of the videos decides which "
                f"frames of theirs those are: give it as --fps RATE"
            )
            raise UsageError(msg)

    @property
    def needs_counts(self) -> bool:
        """Whether rows can only be placed where the number of frames is known."""
        return bool(self.segmentation)

    def table(self, num_rows: int, num_frames: int | None, frames_from: str) -> ClipTable:
        """Give frames and seconds of the rows of a video that has ``num_frames``, None where nobody counted them.

        Raises
        ------
        ValueError
            if so many rows are not those of so many frames.
        """
        factor = 1.0 if self.fps is None or self.clip_fps is None else self.fps / self.clip_fps
        # Frames as clips count them.
        counted = None if num_frames is None else max(1, math.ceil(num_frames / factor))
        spans = self._segments(num_rows, counted) if self.segmentation else self._clips(num_rows, counted)
        frames = spans
        if factor != 1.0:
            # From the first chosen frame to the last, each the one nearest in time, of two the earlier.
            last = np.array([0, 1])
            frames = np.ceil((spans - last) * factor - 0.5).astype(np.int64) + last
        end = int(frames.max()) if num_frames is None else num_frames
        frames = np.minimum(frames, end)
        frames[:, 0] = np.minimum(frames[:, 0], end - 1)
        padded = 0 if self.segmentation else max(0, (num_rows - 1) * self.stride + self.span - (counted or end))
        facts = VideoFacts(
            fps=self.fps or 0.0,
            num_frames_decoded=end,
            width=0,
            height=0,
            time_source=UNTIMED if self.fps is None else "fps",
            frames_from=frames_from,
        )
        seconds = np.full(frames.shape, np.nan) if self.fps is None else frames / self.fps
        return ClipTable(frames, seconds, np.zeros(num_rows, np.bool_), facts, padded if num_frames else 0)

    def _clips(self, num_rows: int, num_frames: int | None) -> NDArray[np.int64]:
        starts = self.stride * np.arange(num_rows, dtype=np.int64)
        spans = np.stack([starts, starts + self.span], axis=1)
        if num_frames is None:
            return spans
        fewest = floor_count(num_frames, self.span, self.stride) - 1
        most = ceil_count(num_frames, self.span, self.stride) + 1
        if not fewest <= num_rows <= most:
            msg = (
                f"it has {num_rows} rows, and {num_frames} frames make {max(fewest, 1)} to {most} clips of {self.span} "
                f"frames, {self.stride} apart"
            )
            raise ValueError(msg)
        # A clip of nothing but repetitions shows the last frame, as those that vadx makes.
        return np.stack([np.minimum(spans[:, 0], num_frames - 1), np.minimum(spans[:, 1], num_frames)], axis=1)

    def _segments(self, num_rows: int, num_frames: int | None) -> NDArray[np.int64]:
        if num_frames is None:
            msg = "its rows are segments, and --counts does not say of how many frames"
            raise ValueError(msg)
        num_clips = TAIL_POLICIES[self.tail].count(num_frames, self.span, self.stride)
        if not num_clips:
            msg = f"its {num_frames} frames make no clip of {self.span}"
            raise ValueError(msg)
        spans = segment_spans(self.segmentation, num_clips)
        if len(spans) != num_rows:
            msg = f"it has {num_rows} rows, and {self.segmentation} makes {len(spans)} segments"
            raise ValueError(msg)
        return span_frames(spans, self._clips(num_clips, num_frames))


def row_rule(recipe: Recipe, segmentation: str, fps: float | None) -> RowRule:
    """Give the rule of a recipe, of which clips must be known.

    Raises
    ------
    UsageError
        if nobody knows how long clips are, or as `RowRule`.
    """
    wanted = [fact for fact in ("sampling.clip_length", "sampling.clip_stride") if fact in recipe.unknown]
    if wanted:
        said = " ".join(f"--known {fact}=16" for fact in wanted)
        msg = f"nothing says which frames a row of these files stands for: give --preset NAME, or, say, {said}"
        raise UsageError(msg)
    sampling = recipe.sampling
    # C3D features of the first releases have no clip that is not whole.
    tail = "drop" if "sampling.tail" in recipe.unknown else sampling.tail
    clip_fps = None if "sampling.fps" in recipe.unknown else sampling.fps
    return RowRule(sampling.clip_span, sampling.clip_stride, tail, segmentation, fps, clip_fps)
