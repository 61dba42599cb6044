"""A few tubes of a video on one page: where each was, what it followed, and whether it stayed with it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from ..detectors.coco_names import COCO_NAMES
from ..errors import UsageError
from .curves import clock_text
from .drawing import (
    EDGE,
    PALETTE,
    Colour,
    DrawnBox,
    draw_outline,
    paste,
    tag_picture,
    text_font,
    tube_box,
    tube_colour,
    tube_tag,
)
from .tube_pictures import KINDS, choose_tubes, disk_errors, publishing, tube_ids

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from PIL import Image

    from ..detectors.tubes import Tube
    from ..extract.video import FrameBlock

TILE_HEIGHT, TILE_WIDTH = 96, 96
MAP_HEIGHT, MAP_WIDTH = 96, 128
TEXT_WIDTH = 148
MARGIN, GAP, CAPTION_HEIGHT, HEADER_HEIGHT, ROW_GAP = 12, 6, 16, 36, 12
_TEXT, _SMALL_TEXT, _LARGE_TEXT = 13, 11, 16
# The largest that fits is taken; in the last, nine figures and the longest of COCO's names do.
_TAG_TEXTS = (16, 14, 12, 10, 8)
_PAPER, _INK, _PALE_INK, _EMPTY = (255, 255, 255), (24, 24, 24), (96, 96, 96), (232, 232, 232)
_NUM_COLOURS = 64
_TILE_LINE, _TRACK_POINTS, _TITLE_LENGTH = 2, 64, 60

_CONTEXT = 1.6
"""How much of the picture a shot shows, as a multiple of the box."""

_MIN_CROP = 32
"""Smaller crops are not shown larger: there is nothing more to see."""


class SheetOptions(TypedDict, total=False):
    """The settings of `TubeSheet`."""

    num_tubes: int
    shots: int
    fps: float | None
    ids: Sequence[int] | None
    order: str | Sequence[int]
    kinds: Collection[str]
    stride: int
    title: str


@dataclass(frozen=True, slots=True)
class _Row:
    """One tube of a sheet: its place in the list and the frames of its shots."""

    place: int
    frames: tuple[int, ...]


def shot_frames(start: int, stop: int, num_shots: int) -> tuple[int, ...]:
    """Give up to ``num_shots`` evenly spaced frames of ``[start, stop)`` with its first and last; one is the middle."""
    length = stop - start
    num_shots = min(num_shots, length)
    if num_shots == 1:
        return (start + length // 2,)
    return tuple(start + round(i * (length - 1) / (num_shots - 1)) for i in range(num_shots))


class TubeSheet:
    """A contact sheet that is pushed the frames of a video, in order, and keeps of them only what it shows.

    A row a tube: its number and name, length and mean score of its detections, the whole picture at the middle of its
    life with the way that its box went, and ``shots`` crops around the box from its first frame to its last.

    Parameters
    ----------
    tubes
        All tubes of the video; their ``frames`` are counted as the blocks count them.
    num_tubes, order, kinds
        Which tubes are shown, as in `choose_tubes`: the longest if left out.
    shots
        Crops a tube.
    ids
        The number that each tube is shown by; from 1 in the order given if left out.
    fps
        Frames per second of the source: how long the frame of a video that has but one is shown.
    stride
        Every how many frames the detector looked. Boxes between are dashed only where it missed the object.
    title
        What stands above, such as the video's name.
    names
        Label -> what it is called.

    Raises
    ------
    UsageError
        for settings that cannot be meant.
    """

    def __init__(
        self,
        tubes: Sequence[Tube],
        *,
        num_tubes: int = 12,
        shots: int = 6,
        fps: float | None = None,
        ids: Sequence[int] | None = None,
        order: str | Sequence[int] = "length",
        kinds: Collection[str] = KINDS,
        stride: int = 1,
        title: str = "",
        names: Mapping[int, str] = COCO_NAMES,
    ) -> None:
        if shots < 1:
            msg = f"a row of {shots} shots shows nothing: give shots=6"
            raise UsageError(msg)
        self._tubes, self._ids, self._stride, self._title = tubes, tube_ids(tubes, ids), stride, title
        self._names = names
        self._num_shots = shots
        ranked = choose_tubes(tubes, order=order, kinds=kinds)
        self._num_eligible = len(ranked)
        self._sorting = {"length": "longest first", "score": "best first"}.get(str(order), "")
        chosen = choose_tubes(tubes, order=ranked, top=num_tubes)
        self._rows = [_Row(p, shot_frames(*_span(tubes[p]), shots)) for p in chosen]
        self._wanted: dict[int, list[tuple[int, int]]] = {}
        for row, chosen_row in enumerate(self._rows):
            for column, frame in enumerate(chosen_row.frames):
                self._wanted.setdefault(frame, []).append((row, column))
        # The frame after a tube's last says how long that one was shown.
        self._last_wanted = max((_span(tubes[place])[1] for place in chosen), default=-1)
        self._next_frame = 0
        self._tiles: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._times = _Times(1 / fps if fps else 0.0)

    @property
    def done(self) -> bool:
        """Whether no frame that is still to come is needed."""
        return self._next_frame > self._last_wanted

    def push(self, block: FrameBlock) -> None:
        """Take what is needed of frames that follow those pushed before."""
        self._times.note(block.start, block.pts_seconds)
        self._next_frame = block.start + len(block.frames)
        for frame in range(block.start, self._next_frame):
            for row, column in self._wanted.get(frame, ()):
                self._take(row, column, frame, block.frames[frame - block.start])

    def _take(self, row: int, column: int, frame: int, picture: NDArray[np.uint8]) -> None:
        place = self._rows[row].place
        tube, number = self._tubes[place], self._ids[place]
        box = tube_box(tube, number, frame - int(tube.frames[0]), stride=self._stride, names=self._names)
        self._tiles[row, column] = crop_around(picture, box)
        if column == len(self._rows[row].frames) // 2:
            self._maps[row] = _map(picture, tube, box)

    def image(self) -> Image.Image:
        """Draw the page of what was pushed so far; shots of frames that did not come are empty."""
        from PIL import Image

        width = 2 * MARGIN + TEXT_WIDTH + GAP + MAP_WIDTH + self._num_shots * (TILE_WIDTH + GAP) + GAP
        height = HEADER_HEIGHT + MARGIN + max(1, len(self._rows)) * (TILE_HEIGHT + CAPTION_HEIGHT + ROW_GAP)
        page = np.full((height, width, 3), 255, np.uint8)
        _write(page, self._heading(), MARGIN, MARGIN, _LARGE_TEXT, _INK)
        if not self._rows:
            _write(
                page, "No tube to show. Link with a shorter minimum length,", MARGIN, HEADER_HEIGHT + 12, _TEXT, _INK
            )
            _write(page, "or detect with a lower score threshold.", MARGIN, HEADER_HEIGHT + 32, _TEXT, _INK)
        for number in range(len(self._rows)):
            self._draw_row(page, number, HEADER_HEIGHT + MARGIN + number * (TILE_HEIGHT + CAPTION_HEIGHT + ROW_GAP))
        return Image.fromarray(page)

    def _heading(self) -> str:
        shown, there = len(self._rows), self._num_eligible
        count = f"{there} tube{'s' * (there != 1)}" if shown == there else f"{shown} of {there} tubes"
        title = self._title if len(self._title) <= _TITLE_LENGTH else f"...{self._title[-_TITLE_LENGTH:]}"
        return "  \N{MIDDLE DOT}  ".join(filter(None, [title, count, self._sorting if there > 1 else ""]))

    def _draw_row(self, page: NDArray[np.uint8], number: int, top: int) -> None:
        row = self._rows[number]
        tube, tube_id = self._tubes[row.place], self._ids[row.place]
        tags = (
            tag_picture(tube_tag(tube, tube_id, names=self._names), tube_colour(tube_id), size) for size in _TAG_TEXTS
        )
        paste(page, next((tag for tag in tags if tag.shape[1] <= TEXT_WIDTH), _blank(1, 1)), MARGIN, top)
        *facts, where = self._facts(tube)
        for line, text in enumerate(facts):
            _write(page, text, MARGIN, top + 28 + 17 * line, _TEXT, _INK)
        _write(page, where, MARGIN, top + TILE_HEIGHT - _SMALL_TEXT - 2, _SMALL_TEXT, _PALE_INK)
        left = MARGIN + TEXT_WIDTH + GAP
        paste(page, self._maps.get(number, _blank(MAP_HEIGHT, MAP_WIDTH)), left, top)
        left += MAP_WIDTH + 2 * GAP
        for column, frame in enumerate(row.frames):
            tile = self._tiles.get((number, column))
            paste(page, _blank(TILE_HEIGHT, TILE_WIDTH) if tile is None else tile, left, top)
            seconds = self._times.at(frame)
            caption = f"no frame {frame}" if seconds is None else clock_text(seconds)
            _write(page, caption, left, top + TILE_HEIGHT + 2, _SMALL_TEXT, _PALE_INK)
            left += TILE_WIDTH + GAP

    def _facts(self, tube: Tube) -> Iterator[str]:
        start, stop = _span(tube)
        seconds = self._times.seconds_of(start, stop)
        yield f"{len(tube)} frame{'s' * (len(tube) != 1)}"
        yield "" if seconds is None else f"{seconds:.1f} s"
        yield f"mean score {tube.score_mean:.2f}"
        yield f"frames {start} to {stop - 1}"


def contact_sheet(blocks: Iterable[FrameBlock], tubes: Sequence[Tube], **options: Unpack[SheetOptions]) -> Image.Image:
    """Give the contact sheet of a video, decoded once and no further than it needs. All else is as in `TubeSheet`."""
    sheet = TubeSheet(tubes, **options)
    source = iter(blocks)
    while not sheet.done and (block := next(source, None)) is not None:
        sheet.push(block)
    return sheet.image()


def write_sheet(
    path: str | os.PathLike[str], blocks: Iterable[FrameBlock], tubes: Sequence[Tube], **options: Unpack[SheetOptions]
) -> None:
    """Write the `contact_sheet` of a video. All else is as in `save_sheet`."""
    with publishing(Path(path)) as temporary:
        _save(contact_sheet(blocks, tubes, **options), temporary, Path(path))


def save_sheet(path: str | os.PathLike[str], sheet: TubeSheet) -> None:
    """Write a sheet as a PNG of few colours, those of the tubes exact.

    The file appears, or replaces one of its name, when it is whole; otherwise nothing is left behind. The same tubes
    and frames give the same bytes.

    Raises
    ------
    UsageError
        for a place that cannot be written to.
    StoreWriteError
        if the disk is full or fails.
    """
    with publishing(Path(path)) as temporary:
        _save(sheet.image(), temporary, Path(path))


def _save(image: Image.Image, temporary: Path, target: Path) -> None:
    few = _few_colours(image)
    with disk_errors(target):
        few.save(temporary, format="PNG", optimize=True)


def crop_around(picture: NDArray[np.uint8], box: DrawnBox) -> NDArray[np.uint8]:
    """Give a tile ``(TILE_HEIGHT, TILE_WIDTH, 3)`` of what is in and around a box, with its outline.

    What would lie outside the picture is moved into it; what is larger than the picture is left blank.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    x1, x2 = sorted(min(max(value, 0.0), width) for value in box.box[::2])
    y1, y2 = sorted(min(max(value, 0.0), height) for value in box.box[1::2])
    across = max((x2 - x1) * _CONTEXT, (y2 - y1) * _CONTEXT * TILE_WIDTH / TILE_HEIGHT, _MIN_CROP)
    across = min(across, max(width, height * TILE_WIDTH / TILE_HEIGHT))
    scale = TILE_WIDTH / across
    left, num_columns = _window((x1 + x2) / 2, across, width)
    top, num_rows = _window((y1 + y2) / 2, TILE_HEIGHT / scale, height)
    size = (max(1, round(num_columns * scale)), max(1, round(num_rows * scale)))
    # Only these rows and columns are looked at, so that a small crop of a large picture is quick.
    x, y = int(left), int(top)
    part = Image.fromarray(picture[y : y + int(num_rows) + 2, x : x + int(num_columns) + 2])
    shown = (left - x, top - y, min(left - x + num_columns, part.width), min(top - y + num_rows, part.height))
    crop = np.array(part.resize(size, Image.Resampling.LANCZOS, box=shown))
    tile = _blank(TILE_HEIGHT, TILE_WIDTH)
    offset_x, offset_y = (TILE_WIDTH - size[0]) // 2, (TILE_HEIGHT - size[1]) // 2
    draw_outline(crop, _moved(box, left, top, scale), _TILE_LINE)
    paste(tile, crop, offset_x, offset_y)
    return tile


def _window(centre: float, length: float, limit: int) -> tuple[float, float]:
    """Give start and length of what is shown along one side of a picture that is ``limit`` long."""
    length = min(length, limit)
    return min(max(centre - length / 2, 0.0), limit - length), length


def _moved(box: DrawnBox, left: float, top: float, scale: float) -> DrawnBox:
    x1, y1, x2, y2 = box.box
    return replace(box, box=((x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale))


def _map(picture: NDArray[np.uint8], tube: Tube, box: DrawnBox) -> NDArray[np.uint8]:
    """Give the whole picture, small, with a box and the way that the middle of the tube's boxes went."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    scale = min(MAP_WIDTH / width, MAP_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    places = np.unique(np.linspace(0, len(tube) - 1, _TRACK_POINTS).round().astype(np.int64))
    centres = (tube.boxes[places, :2] + tube.boxes[places, 2:]) / 2 * scale
    draw = ImageDraw.Draw(small)
    for colour, line in ((EDGE, 4), (box.colour, 2)):
        draw.line([(float(x), float(y)) for x, y in centres], fill=colour, width=line, joint="curve")
    drawn = np.array(small)
    draw_outline(drawn, _moved(box, 0.0, 0.0, scale), 1)
    framed = _blank(MAP_HEIGHT, MAP_WIDTH)
    paste(framed, drawn, (MAP_WIDTH - size[0]) // 2, (MAP_HEIGHT - size[1]) // 2)
    return framed


class _Times:
    """When frames were shown, of those that came."""

    def __init__(self, only_gap_seconds: float) -> None:
        self._only_gap_seconds = only_gap_seconds
        self._starts: list[int] = []
        self._pts: list[NDArray[np.float64]] = []

    def note(self, start: int, pts_seconds: NDArray[np.float64]) -> None:
        self._starts.append(start)
        self._pts.append(pts_seconds.copy())

    def at(self, frame: int) -> float | None:
        block = bisect_right(self._starts, frame) - 1
        if block < 0 or frame - self._starts[block] >= len(self._pts[block]):
            return None
        return float(self._pts[block][frame - self._starts[block]])

    def seconds_of(self, start: int, stop: int) -> float | None:
        """Give how long frames ``[start, stop)`` are shown; the last frame as long as the one before it."""
        begin, end = self.at(start), self.at(stop)
        if begin is None or end is not None:
            return None if begin is None or end is None else end - begin
        last, before = self.at(stop - 1), self.at(stop - 2)
        if last is None:
            return None
        return last - begin + (self._only_gap_seconds if before is None else last - before)


def _span(tube: Tube) -> tuple[int, int]:
    return int(tube.frames[0]), int(tube.frames[-1]) + 1


def _blank(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), _EMPTY, np.uint8)


def _write(page: NDArray[np.uint8], text: str, x: int, y: int, text_pixels: int, ink: Colour) -> None:
    from PIL import Image, ImageDraw

    part = page[y : y + 2 * text_pixels, x:]
    image = Image.fromarray(part)
    ImageDraw.Draw(image).text((0, 0), text, font=text_font(text_pixels), fill=ink)
    part[...] = np.asarray(image)


def _few_colours(image: Image.Image) -> Image.Image:
    """Give an image with a palette: exact colours for lines and text, the nearest of few for what is photographed."""
    from PIL import Image

    exact = [*PALETTE.values(), EDGE, _PAPER, _INK, _PALE_INK, _EMPTY]
    fitted = image.quantize(_NUM_COLOURS - len(exact), Image.Quantize.MEDIANCUT).getpalette() or []
    palette = np.array([*exact, *np.reshape(fitted, (-1, 3)).tolist()], np.uint8)
    carrier = Image.new("P", (1, 1))
    carrier.putpalette(palette.tobytes())
    places = np.array(image.quantize(palette=carrier, dither=Image.Dither.NONE))
    pixels = np.asarray(image)
    for number, colour in enumerate(exact):
        places[(pixels == colour).all(axis=2)] = number
    # Pillow's own search is coarse, and may take one colour for its neighbour.
    reduced = Image.fromarray(places)
    reduced.putpalette(palette.tobytes())
    return reduced
