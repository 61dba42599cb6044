"""A video's scores as a curve over its time: a picture of its own, or a strip for the foot of the video's frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from xml.sax.saxutils import escape

import numpy as np

from ..errors import UsageError
from .curves import downsample, step_curve, time_ticks
from .drawing import PALETTE, Colour, text_font
from .score_video import end_seconds, highest
from .tube_pictures import disk_errors, publishing

if TYPE_CHECKING:
    from typing import BinaryIO, Literal

    from numpy.typing import NDArray

    from .score_video import Interval
    from .scoring import ScoredVideo

    Anchor = Literal["start", "middle", "end"]
    Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 1000, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 972, 44, 262
_TEXT, _TITLE_TEXT, _TITLE_LENGTH = 13, 16, 72
_PAPER, _INK, _PALE_INK, _GRID, _FOUND = (255, 255, 255), (24, 24, 24), (96, 96, 96), (225, 225, 225), (252, 226, 210)
CURVE: Colour = PALETTE["blue"]
_SECOND_CURVE = PALETTE["bluish green"]
_THRESHOLD = PALETTE["vermilion"]
_SUPERSAMPLING = 2
_MAX_TICKS = 9

_OTHER_CURVES: Mapping[str, str] = MappingProxyType({"frame_activation": "T-CAM"})
"""What else of `ScoredVideo.more` is drawn where a method gives it, and what it is called."""


def curve_points(
    frame_scores: NDArray[np.floating], times: NDArray[np.float64], num_columns: int
) -> NDArray[np.float64]:
    """Give the line that shows scores, ``(point, 2)``: the share of the video's time in [0, 1], and the score.

    ``times (num_frames + 1,)`` are those of the frames and of the end; a frame's score lasts until the next frame.
    There are at most four points for each of ``num_columns``, and no peak is lost.
    """
    rising = np.maximum.accumulate(times)
    shares = (rising - rising[0]) / max(rising[-1] - rising[0], 1e-9)
    return np.stack(downsample(*step_curve(frame_scores, shares), 4 * num_columns), axis=1)


class _Canvas(Protocol):
    """What a plot is drawn on. Lengths are pixels of the plot."""

    def rectangle(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None: ...
    def line(self, points: Points, colour: Colour, width: float, *, dashed: bool = False) -> None: ...
    def text(self, x: float, y: float, text: str, colour: Colour, size: int, anchor: Anchor = "start") -> None:
        """Write text whose foot is at ``y``."""

    def save(self, file: BinaryIO) -> None: ...


class _Png:
    """Draws larger and scales down, so that lines are smooth."""

    def __init__(self, title: str) -> None:
        from PIL import Image, ImageDraw

        del title
        self._image = Image.new("RGB", (WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def rectangle(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None:
        # Pillow's right and lower edge belong to it; however short, it is seen.
        left, top, right, bottom = (round(_SUPERSAMPLING * value) for value in (x1, y1, x2, y2))
        self._draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), fill=colour)

    def line(self, points: Points, colour: Colour, width: float, *, dashed: bool = False) -> None:
        scaled = [(_SUPERSAMPLING * x, _SUPERSAMPLING * y) for x, y in points]
        thickness = max(1, round(_SUPERSAMPLING * width))
        if not dashed:
            self._draw.line(scaled, fill=colour, width=thickness, joint="curve")
            return
        (x1, y), (x2, _) = scaled
        dash = 5 * _SUPERSAMPLING
        for start in np.arange(x1, x2, 2 * dash).tolist():
            self._draw.line((start, y, min(start + dash, x2), y), fill=colour, width=thickness)

    def text(self, x: float, y: float, text: str, colour: Colour, size: int, anchor: Anchor = "start") -> None:
        font = text_font(size * _SUPERSAMPLING)
        place = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        self._draw.text((_SUPERSAMPLING * x, _SUPERSAMPLING * y), text, fill=colour, font=font, anchor=place)

    def save(self, file: BinaryIO) -> None:
        from PIL import Image

        self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(file, format="PNG", optimize=True)


class _Svg:
    def __init__(self, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" font-family="sans-serif"><title>{escape(title)}</title>'
        ]
        self.rectangle(0, 0, WIDTH, HEIGHT, _PAPER)

    def rectangle(self, x1: float, y1: float, x2: float, y2: float, colour: Colour) -> None:
        self._parts.append(
            f'<rect x="{x1:.2f}" y="{y1:.2f}" width="{x2 - x1:.2f}" height="{y2 - y1:.2f}" fill="{_css(colour)}"/>'
        )

    def line(self, points: Points, colour: Colour, width: float, *, dashed: bool = False) -> None:
        places = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        dashes = ' stroke-dasharray="5"' if dashed else ""
        self._parts.append(
            f'<polyline points="{places}" fill="none" stroke="{_css(colour)}" stroke-width="{width:g}" '
            f'stroke-linejoin="round"{dashes}/>'
        )

    def text(self, x: float, y: float, text: str, colour: Colour, size: int, anchor: Anchor = "start") -> None:
        self._parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" fill="{_css(colour)}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def save(self, file: BinaryIO) -> None:
        file.write("\n".join([*self._parts, "</svg>\n"]).encode("utf-8", "backslashreplace"))


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


PLOT_FORMATS: Mapping[str, Callable[[str], _Canvas]] = MappingProxyType({".png": _Png, ".svg": _Svg})
"""Ending of a plot's file -> what it is drawn with."""


def check_plot_path(path: Path) -> None:
    """Raise `UsageError` unless a file's ending is one of `PLOT_FORMATS`."""
    if path.suffix.lower() not in PLOT_FORMATS:
        msg = f"--plot {path}: give a file that ends in {' or '.join(PLOT_FORMATS)}, or a folder"
        raise UsageError(msg)


def write_plot(
    target: Path, video: ScoredVideo, intervals: Sequence[Interval], threshold: float, *, caption: str = ""
) -> None:
    """Draw a video's frame scores over its time, its intervals shaded; the file's ending chooses the format.

    Raises
    ------
    UsageError
        for another ending, or a place that cannot be written to.
    StoreWriteError
        if the disk is full or fails.
    """
    check_plot_path(target)
    canvas = PLOT_FORMATS[target.suffix.lower()](f"Scores of {video.id} over time")
    _draw(canvas, video, intervals, threshold, caption)
    with publishing(target) as temporary, disk_errors(target), temporary.open("wb") as file:
        canvas.save(file)


def _draw(canvas: _Canvas, video: ScoredVideo, intervals: Sequence[Interval], threshold: float, caption: str) -> None:
    # Where times are unknown, the axis counts frames.
    times = np.append(video.frame_seconds, end_seconds(video)) if video.is_timed else np.arange(video.num_frames + 1.0)
    begin, end = float(times[0]), float(times[-1])

    def x(share: float) -> float:
        return _LEFT + share * (_RIGHT - _LEFT)

    def y(score: float) -> float:
        return _BOTTOM - score * (_BOTTOM - _TOP)

    def x_of(time: float) -> float:
        return x((time - begin) / max(end - begin, 1e-9))

    for one in intervals:
        canvas.rectangle(x_of(times[one.start]), _TOP, x_of(times[one.stop]), _BOTTOM, _FOUND)
    for score in (0, 0.25, 0.5, 0.75, 1):
        canvas.line([(_LEFT, y(score)), (_RIGHT, y(score))], _GRID, 1)
        canvas.text(_LEFT - 6, y(score) + 4, f"{score:g}", _PALE_INK, _TEXT, "end")
    for time, label in time_ticks(begin, end, _MAX_TICKS) if video.is_timed else frame_ticks(video.num_frames):
        canvas.line([(x_of(time), _BOTTOM), (x_of(time), _BOTTOM + 5)], _PALE_INK, 1)
        canvas.text(x_of(time), _BOTTOM + 20, label, _PALE_INK, _TEXT, "middle")
    canvas.line([(_LEFT, y(threshold)), (_RIGHT, y(threshold))], _THRESHOLD, 1, dashed=True)
    curves = [("", video.frame_scores, CURVE)]
    curves[:0] = [(name, video.more[key], _SECOND_CURVE) for key, name in _OTHER_CURVES.items() if key in video.more]
    for _, scores, colour in curves:
        points = curve_points(scores, times, _RIGHT - _LEFT)
        canvas.line([(x(share), y(score)) for share, score in points.tolist()], colour, 2)
    # A name's end tells videos apart.
    shown = video.id if len(video.id) <= _TITLE_LENGTH else f"…{video.id[1 - _TITLE_LENGTH :]}"
    canvas.text(_LEFT, 26, shown, _INK, _TITLE_TEXT)
    canvas.text(_RIGHT, 26, highest(video), _INK, _TEXT, "end")
    names = [("score", CURVE), *((name, colour) for name, _, colour in curves if name)]
    for number, (name, colour) in enumerate([*names, (f"threshold {threshold:g}", _THRESHOLD)]):
        canvas.line([(_LEFT + 100 * number, 290), (_LEFT + 100 * number + 16, 290)], colour, 2)
        canvas.text(_LEFT + 100 * number + 22, 294, name, _PALE_INK, _TEXT)
    canvas.text(_RIGHT, 294, caption, _PALE_INK, _TEXT, "end")


def frame_ticks(num_frames: int) -> list[tuple[float, str]]:
    """Give round numbers of frames for an axis, at most nine, with what stands there."""
    step = next(
        step
        for power in range(20)
        for step in (10**power, 2 * 10**power, 5 * 10**power)
        if num_frames / step <= _MAX_TICKS - 1
    )
    return [(float(number), f"{number}") for number in range(0, num_frames + 1, step)]
