"""A video with its scores drawn over its frames: the curve along the foot, where in it the frame is, and its score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .drawing import PALETTE, Colour, DrawnBox, draw_tubes, line_thickness, paste, tag_picture
from .score_plot import curve_points
from .score_video import end_seconds
from .tube_pictures import Mp4, publishing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..extract.video import FrameBlock
    from .methods.mgpr import ScoredTubes
    from .scoring import ScoredVideo

_FOUND, _QUIET = PALETTE["vermilion"], PALETTE["sky blue"]
_LINE: Colour = (255, 255, 255)
_PICTURE_PER_STRIP, _MIN_STRIP_PIXELS, _PICTURE_PER_TEXT, _MIN_TEXT_PIXELS = 5, 24, 20, 12
_OPAQUE = 256
# How opaque the strip's ground is, the area under the curve, and, as a share of both, what is still to come.
_GROUND, _AREA, _FUTURE = 0.45, 0.65, 0.6
_SUPERSAMPLING = 3


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """What is put over a picture: colours that are already weighted, and how much of the picture is kept, of 256."""

    ink: NDArray[np.uint16]
    kept: NDArray[np.uint16]

    @classmethod
    def of(cls, colours: NDArray[np.float64], opacity: NDArray[np.float64]) -> _Layer:
        """Make a layer of ``colours (height, width, 3)`` and their opacity in [0, 1], ``(height, width)``."""
        share = opacity[..., None]
        return cls((colours * share).astype(np.uint16), ((1 - share) * _OPAQUE).astype(np.uint16))

    def put(self, picture: NDArray[np.uint8], columns: slice) -> None:
        seen = picture[:, columns].astype(np.uint16) * self.kept[:, columns] // _OPAQUE
        picture[:, columns] = seen + self.ink[:, columns]


class ScoreStrip:
    """The curve of a whole video, put along the foot of its frames: up to the frame it is bright, beyond it is dim.

    ``height`` and ``width`` are those of the frames. The area under the curve has another colour above ``threshold``.
    """

    def __init__(self, video: ScoredVideo, height: int, width: int, threshold: float) -> None:
        self.height = min(height, max(_MIN_STRIP_PIXELS, height // _PICTURE_PER_STRIP))
        self._head = line_thickness(height, width)
        self._begin, end = float(video.frame_seconds[0]), end_seconds(video)
        self._length = max(end - self._begin, 1e-9)
        points = curve_points(video.frame_scores, np.append(video.frame_seconds, end), width)
        line, area = _masks(points, self.height, width, 1.5 * self._head)
        row = round((1 - threshold) * (self.height - 1))
        # The threshold is a row of dots.
        line[row, ::4] = 1
        above = np.arange(self.height)[:, None, None] <= row
        colours = np.where(above, _FOUND, _QUIET) * area[..., None]
        colours += (np.array(_LINE) - colours) * line[..., None]
        opacity = np.maximum(_GROUND + (_AREA - _GROUND) * area, line)
        self._past, self._future = _Layer.of(colours, opacity), _Layer.of(colours, _FUTURE * opacity)

    def draw(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """Draw the strip into ``picture (height, width, 3)``, a frame of this time."""
        foot = picture[-self.height :]
        width = foot.shape[1]
        at = min(max(round((seconds - self._begin) / self._length * (width - 1)), 0), width - 1)
        self._past.put(foot, slice(0, at + 1))
        self._future.put(foot, slice(at + 1, width))
        left = max(at - self._head // 2, 0)
        foot[:, max(left - 1, 0) : left + self._head + 1] = 0
        foot[:, left : left + self._head] = _LINE


def _masks(
    points: NDArray[np.float64], height: int, width: int, thickness: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a line and the area under it, ``(height, width)`` each, in [0, 1]."""
    from PIL import Image, ImageDraw

    scale = _SUPERSAMPLING
    # The line stays whole at 0 and 1.
    margin = thickness / 2
    x = points[:, 0] * width * scale
    y = (margin + (1 - points[:, 1]) * (height - 2 * margin)) * scale
    places = list(zip(x.tolist(), y.tolist(), strict=True))
    size = (width * scale, height * scale)
    line, area = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(line).line(places, fill=255, width=max(1, round(thickness * scale)), joint="curve")
    ImageDraw.Draw(area).polygon([*places, (x[-1], size[1]), (x[0], size[1])], fill=255)
    first, second = (np.array(one.resize((width, height), Image.Resampling.BOX)) / 255 for one in (line, area))
    return first, second


def score_boxes(scored: ScoredTubes, frame: int, threshold: float) -> list[DrawnBox]:
    """Give the boxes of a frame's tubes: those whose part scores ``threshold`` or more, and the best part's.

    They are named by their tube's place from 1 on, best first, and their score.
    """
    found = []
    for place, (start, stop) in enumerate(scored.parts.frames.tolist()):
        score = float(scored.scores[place])
        if not start <= frame < stop or (score < threshold and place != scored.top):
            continue
        track = scored.tracks[place]
        row = int(np.searchsorted(track.frames, frame))
        if row == len(track.frames) or track.frames[row] != frame:
            continue
        x1, y1, x2, y2 = track.boxes[row].tolist()
        colour = _FOUND if score >= threshold else _QUIET
        tag = f"{int(scored.parts.instance[place]) + 1}: {score:.2f}"
        found.append(DrawnBox((x1, y1, x2, y2), tag, colour, dashed=bool(track.interpolated[row])))
    return found


def write_score_overlay(
    target: Path,
    blocks: Iterable[FrameBlock],
    video: ScoredVideo,
    *,
    fps: float,
    threshold: float,
    tubes: ScoredTubes | None = None,
) -> None:
    """Write the frames of ``blocks`` as a video (H.264 in mp4), the scores drawn over them.

    Frames that reach ``threshold`` have an edge of their own colour and their score on it. ``tubes`` are drawn as
    `score_boxes` gives them. The file appears, or replaces one of its name, when it is whole.

    Raises
    ------
    UsageError
        for a place that cannot be written to, no frame, or where the encoder refuses.
    StoreWriteError
        if the disk is full or fails.
    """
    strips: dict[tuple[int, int], ScoreStrip] = {}
    last = video.num_frames - 1
    with publishing(target) as temporary, Mp4(temporary, target, fps) as writer:
        for block in blocks:
            for index, (frame, pts) in enumerate(zip(block.frames, block.pts_seconds, strict=True), block.start):
                at = min(index, last)
                boxes: Sequence[DrawnBox] = () if tubes is None else score_boxes(tubes, index, threshold)
                picture = draw_tubes(frame, boxes)
                size = frame.shape[0], frame.shape[1]
                if size not in strips:
                    strips[size] = ScoreStrip(video, *size, threshold)
                strips[size].draw(picture, float(video.frame_seconds[at]))
                _mark(picture, float(video.frame_scores[at]), threshold)
                writer.add(picture, float(pts))


def _mark(picture: NDArray[np.uint8], score: float, threshold: float) -> None:
    """Write the score into the upper left corner, and frame what reaches the threshold."""
    height, width = picture.shape[:2]
    colour = _FOUND if score >= threshold else _QUIET
    edge = 2 * line_thickness(height, width)
    if score >= threshold:
        for side in (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]):
            side[...] = colour
    text_pixels = max(_MIN_TEXT_PIXELS, min(height, width) // _PICTURE_PER_TEXT)
    paste(picture, tag_picture(f"{score:.2f}", colour, text_pixels), edge, edge)
