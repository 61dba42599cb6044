"""Boxes that people drew around what is abnormal: the readers of their files, and which frames they looked at."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import reprlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import NoInputError, UsageError
from .plain_pickle import load_plain_pickle

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_FILE_BYTES = 2 * 10**9
"""A larger text is refused before it is opened."""

MAX_PICKLE_BYTES = 10**8
"""A larger pickle is refused: the public one of 810 videos and 25,483 boxes has 3 MB."""

MAX_FRAMES = 2**31 - 1
"""No frame has a larger number, as in `vadx.detectors.Detections`."""

MAX_DIGITS = 15
"""A longer number at the end of a picture's name is no frame's."""

GRID_STEP = 16
"""Frames between two annotated frames in UCFCrime_BoundingBox_Annotation."""

MAX_GAP = 16 * GRID_STEP
"""Frames without a box after which `annotated_frames` takes the next box for the start of another segment."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxTruth:
    """The annotated boxes of one video.

    Shapes: ``frames (box,)`` int64, source frames from 0, ascending; ``boxes (box, 4)`` float64, half-open ``x1, y1,
    x2, y2`` in source pixels; ``tracks (box,)`` int64, which of several things in a frame a box is of. ``annotated
    (frame,)`` are the frames that somebody looked at, ascending, those without a box too; None where it was every
    frame. The arrays cannot be written through this object.

    Raises
    ------
    UsageError
        if shapes disagree, frames do not ascend, a box is empty or not finite, a track has two boxes in one frame, or
        a box stands in a frame that nobody looked at.
    """

    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    tracks: NDArray[np.int64]
    annotated: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        frames, tracks = _whole_numbers("frames", self.frames), _whole_numbers("tracks", self.tracks)
        boxes = np.asarray(self.boxes, np.float64)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        if frames.ndim != 1 or boxes.shape != (len(frames), 4) or tracks.shape != frames.shape:
            msg = (
                f"expected frames (box,), boxes (box, 4), tracks (box,); got {frames.shape}, {boxes.shape}, "
                f"{tracks.shape}: give one row of each per box"
            )
            raise UsageError(msg)
        _check_boxes(frames, boxes, tracks)
        arrays = {"frames": frames, "boxes": boxes, "tracks": tracks}
        if self.annotated is not None:
            arrays["annotated"] = _checked_annotated(self.annotated, frames)
        for name, value in arrays.items():
            view = value.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def of_rows(
        cls, frames: ArrayLike, boxes: ArrayLike, tracks: ArrayLike | None = None, annotated: ArrayLike | None = None
    ) -> BoxTruth:
        """Make the truth of boxes in any order; without ``tracks`` all are of one thing."""
        numbers = _whole_numbers("frames", frames)
        of = np.zeros(numbers.shape, np.int64) if tracks is None else _whole_numbers("tracks", tracks)
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        looked = None if annotated is None else np.unique(_whole_numbers("annotated", annotated))
        if numbers.shape != of.shape or len(corners) != len(numbers):
            return cls(numbers, corners, of, looked)  # which says what is wrong
        order = np.lexsort((of, numbers))
        return cls(numbers[order], corners[order], of[order], looked)


def _whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        msg = f"{name} are whole numbers, not {array.dtype}: give an array of int64"
        raise UsageError(msg)
    return array.astype(np.int64, copy=False)


def _check_boxes(frames: NDArray[np.int64], boxes: NDArray[np.float64], tracks: NDArray[np.int64]) -> None:
    if len(frames) and (frames[0] < 0 or frames.max() > MAX_FRAMES or (np.diff(frames) < 0).any()):
        msg = f"frames ascend from 0 to {MAX_FRAMES} at most: sort the boxes, as BoxTruth.of_rows does"
        raise UsageError(msg)
    # Not `x2 <= x1`, which would let NaN pass.
    fine = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not fine.all():
        row = int(np.argmin(fine))
        msg = (
            f"the box {boxes[row].tolist()} in frame {frames[row]} has no area: give x1, y1, x2, y2 with "
            f"x1 < x2 and y1 < y2, or leave it out"
        )
        raise UsageError(msg)
    order = np.lexsort((tracks, frames))
    twice = np.flatnonzero((np.diff(frames[order]) == 0) & (np.diff(tracks[order]) == 0))
    if twice.size:
        row = int(order[twice[0]])
        msg = f"track {tracks[row]} has two boxes in frame {frames[row]}: give one of them another track"
        raise UsageError(msg)


def _checked_annotated(values: ArrayLike, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    looked = _whole_numbers("annotated", values)
    if looked.ndim != 1 or (np.diff(looked) <= 0).any() or (len(looked) and looked[0] < 0):
        msg = "annotated frames ascend from 0, each once: give numpy.unique of them"
        raise UsageError(msg)
    outside = np.setdiff1d(frames, looked)
    if outside.size:
        msg = f"frame {outside[0]} has a box but is no annotated frame: add it to annotated"
        raise UsageError(msg)
    return looked


def annotated_frames(
    frames: ArrayLike, *, step: int = GRID_STEP, max_gap: int = MAX_GAP, num_frames: int | None = None
) -> NDArray[np.int64]:
    """Give the frames that somebody looked at who drew boxes in every ``step``-th frame, ascending, ``(frame,)``.

    ``frames`` are those with boxes. They are cut into segments: a gap that is no multiple of ``step`` (the grid starts
    anew), or that is longer than ``max_gap`` frames, ends one. The grid runs through each segment from its first frame
    to its last, so that a frame of the grid without a box says "nothing is there", and the frames between two of the
    grid say nothing.

    Outside the segments no frame is given: what a tube does there is not charged. With ``num_frames``, the frames of
    the video, the first segment's grid is carried on to frame 0 and every segment's to the next one or the video's
    end, so that a tube which begins too early or ends too late is charged at the same rate as within.

    Raises
    ------
    UsageError
        for a step or gap below 1, or a frame beyond the video's end.
    """
    found = np.unique(_whole_numbers("frames", frames))
    if step < 1 or max_gap < 1:
        msg = f"boxes in every {step}th frame, segments {max_gap} frames apart: give 1 or more for both"
        raise UsageError(msg)
    if num_frames is not None and len(found) and found[-1] >= num_frames:
        msg = (
            f"frame {found[-1]} has a box but the video has {num_frames} frames: give the annotated video's num_frames"
        )
        raise UsageError(msg)
    if not len(found):
        return np.arange(0, num_frames or 0, step, dtype=np.int64)
    gaps = np.diff(found)
    cuts = np.flatnonzero((gaps % step != 0) | (gaps > max_gap)) + 1
    starts, stops = np.append(found[0], found[cuts]), np.append(found[cuts - 1], found[-1]) + 1
    if num_frames is not None:
        starts, stops = np.append(found[0] % step, found[cuts]), np.append(found[cuts], num_frames)
    return np.concatenate([np.arange(a, b, step, dtype=np.int64) for a, b in zip(starts, stops, strict=True)])


class _Row(NamedTuple):
    """A box as a file has it: ``frame`` in the file's own numbers, ``box`` half-open; ``where`` it was read."""

    where: str
    video: str
    frame: int
    box: Sequence[float]
    track: int


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """A way to write annotated boxes down: endings of its files, what ``read`` needs, and the file's size at most.

    ``read`` takes the path, the id of a file's one video, and what the file calls the first frame.
    """

    suffixes: tuple[str, ...]
    one_video: bool
    read: Callable[[Path, str, int | None], dict[str, BoxTruth]]
    max_bytes: int
    meaning: str


def read_box_truth(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    first_frame: int | None = None,
    max_bytes: int | None = None,
) -> dict[str, BoxTruth]:
    """Read annotated boxes: video -> its truth, in the file's order.

    Parameters
    ----------
    path
        A file, or for formats with one video a file a folder: the files below it, hidden ones not, in sorted order. A
        video is then named by its file's path in the folder without the extension, ``<name>/gt/gt.txt`` by ``<name>``.
    format
        One of `BOX_FORMATS`; by default what the ending says, and for ``.txt`` the first line.
    first_frame
        What the files call the first frame, where that is not what the format says.
    max_bytes
        A larger file is refused; by default the format's limit.

    Raises
    ------
    NoInputError
        if there is no such file, or no file in the folder.
    UsageError
        if a file is too large or not what its format says.
    """
    root = Path(path)
    if format is not None and format not in BOX_FORMATS:
        msg = f"{root}: no boxes are read from a format named {format!r}: give one of {', '.join(BOX_FORMATS)}"
        raise UsageError(msg)
    if root.is_dir() and format is not None and not BOX_FORMATS[format].one_video:
        msg = f"{root}: a folder, but one file of the format {format} holds many videos: give the file"
        raise UsageError(msg)
    if not root.is_dir():
        return _read_file(root, format, _video_of(root.absolute(), None), first_frame, max_bytes)
    found: dict[str, BoxTruth] = {}
    for file in sorted(root.rglob("*.txt")):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue
        video = _video_of(file, root)
        if video in found:
            msg = f"{file}: another file of this folder is of the video {video!r} too: leave one of them out"
            raise UsageError(msg)
        found |= _read_file(file, format, video, first_frame, max_bytes)
    if not found:
        msg = f"{root}: no .txt file lies in this folder: give the file, or the folder that holds one file a video"
        raise NoInputError(msg)
    return found


def _video_of(file: Path, root: Path | None) -> str:
    below = file if root is None else file.relative_to(root)
    named = (
        below.parent.parent if below.parts[-2:] == ("gt", "gt.txt") and len(below.parts) > 2 else below.with_suffix("")
    )
    return named.name if root is None else named.as_posix()


def _read_file(
    path: Path, name: str | None, video: str, first_frame: int | None, max_bytes: int | None
) -> dict[str, BoxTruth]:
    _check_file(path)
    kind = BOX_FORMATS[name or _format_of(path)]
    size, limit = path.stat().st_size, kind.max_bytes if max_bytes is None else max_bytes
    if size > limit:
        msg = (
            f"{path}: {size} bytes are more than the {limit} that are read at once: cut the file into parts, or give "
            f"max_bytes={size}"
        )
        raise UsageError(msg)
    try:
        return kind.read(path, video, first_frame)
    except UnicodeDecodeError as error:
        msg = f"{path}: not text in UTF-8 ({error.reason} at byte {error.start}): convert it with iconv -t utf-8"
        raise UsageError(msg) from error
    except csv.Error as error:
        msg = f"{path}: {error}: write one box a line, {kind.meaning}"
        raise UsageError(msg) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        msg = f"{path}: there is no such file: check the path of the annotated boxes"
        raise NoInputError(msg)
    if not path.is_file():
        msg = f"{path}: not a regular file: give a file, or a folder with one file a video"
        raise UsageError(msg)


def _format_of(path: Path) -> str:
    suited = [name for name, kind in BOX_FORMATS.items() if path.suffix.lower() in kind.suffixes]
    if len(suited) == 1:
        return suited[0]
    if suited:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
        # MOT separates by commas, and VATIC quotes its label.
        if '"' in first or not first:
            return "vatic"
        if "," in first:
            return "mot"
    msg = (
        f"{path}: neither its ending nor its first line says how boxes are written: give format={'|'.join(BOX_FORMATS)}"
    )
    raise UsageError(msg)


def _collect(path: Path, rows: Iterable[_Row], first_frame: int, videos: Iterable[str] = ()) -> dict[str, BoxTruth]:
    """Sort rows into videos. ``videos`` are there even if they have no box."""
    by_video: dict[str, list[_Row]] = {video: [] for video in videos}
    for row in rows:
        if not first_frame <= row.frame <= MAX_FRAMES:
            msg = (
                f"{path}: {row.where}: frame {row.frame} of a file that counts from {first_frame} does not exist: give "
                f"first_frame if it counts from another number"
            )
            raise UsageError(msg)
        x1, y1, x2, y2 = row.box
        if not (all(map(math.isfinite, row.box)) and x1 < x2 and y1 < y2):
            corners = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
            msg = f"{path}: {row.where}: the box from {corners} has no area: correct or remove it"
            raise UsageError(msg)
        by_video.setdefault(row.video, []).append(row)
    found = {}
    for video, of in by_video.items():
        try:
            found[video] = BoxTruth.of_rows(
                np.array([row.frame for row in of], np.int64) - first_frame,
                np.array([row.box for row in of], np.float64),
                np.array([row.track for row in of], np.int64),
            )
        except UsageError as error:
            msg = f"{path}: {video}: {error}"
            raise UsageError(msg) from error
    return found


def _numbers(path: Path, where: str, texts: Sequence[str], whole: Sequence[int]) -> list[Any]:
    """Turn fields into numbers: int at the places ``whole``, float elsewhere."""
    numbers: list[Any] = []
    for place, text in enumerate(texts):
        try:
            value = float(text)
        except ValueError as error:
            msg = f"{path}: {where}: {text!r} is no number: correct that line, or name the file's format with format="
            raise UsageError(msg) from error
        if place in whole and not (value.is_integer() and abs(value) <= MAX_FRAMES):
            msg = f"{path}: {where}: {text} is no whole number up to {MAX_FRAMES}: correct that line"
            raise UsageError(msg)
        numbers.append(int(value) if place in whole else value)
    return numbers


def _read_vatic(path: Path, video: str, first_frame: int | None) -> dict[str, BoxTruth]:
    rows: list[tuple[_Row, bool]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            fields = line.split(maxsplit=9)
            if not fields:
                continue
            if len(fields) < 9:
                msg = f"{path}: line {number} has {len(fields)} columns, VATIC's have 9 and a label: correct that line"
                raise UsageError(msg)
            where = f"line {number}"
            track, *box, frame, lost = _numbers(path, where, fields[:7], whole=(0, 5, 6))
            rows.append((_Row(where, video, frame, box, track), bool(lost)))
    if first_frame is None:
        first_frame = 0 if any(row.frame == 0 for row, _ in rows) else 1
    return _collect(path, (row for row, lost in rows if not lost), first_frame, [video])


def _read_mot(path: Path, video: str, first_frame: int | None) -> dict[str, BoxTruth]:
    def rows() -> Iterator[_Row]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(csv.reader(file), 1):
                if not fields:
                    continue
                if len(fields) < 7:
                    msg = f"{path}: line {number} has {len(fields)} columns, MOT's gt.txt 7 or more: correct that line"
                    raise UsageError(msg)
                where = f"line {number}"
                frame, track, x, y, width, height, considered = _numbers(path, where, fields[:7], whole=(0, 1))
                if considered:
                    # MOT counts pixels from 1, so its (1, 1) is the corner (0, 0) of a half-open box.
                    yield _Row(where, video, frame, (x - 1, y - 1, x - 1 + width, y - 1 + height), track)

    return _collect(path, rows(), 1 if first_frame is None else first_frame, [video])


CSV_COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "track")


def _read_csv(path: Path, _video: str, first_frame: int | None) -> dict[str, BoxTruth]:
    def rows() -> Iterator[_Row]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = [name.strip().lower() for name in next(lines, [])]
            missing = [name for name in CSV_COLUMNS[:6] if name not in header]
            if missing:
                msg = (
                    f"{path}: the first line names no column {', '.join(missing)}: begin the file with "
                    f"{','.join(CSV_COLUMNS)} (track may be missing)"
                )
                raise UsageError(msg)
            places = [header.index(name) for name in CSV_COLUMNS if name in header]
            for fields in lines:
                if not fields:
                    continue
                where = f"line {lines.line_num}"
                if len(fields) <= max(places):
                    msg = f"{path}: {where} has {len(fields)} columns, the first line {len(header)}: correct that line"
                    raise UsageError(msg)
                video, *texts = (fields[place] for place in places)
                frame, x1, y1, x2, y2, *track = _numbers(path, where, texts, whole=(0, 5))
                yield _Row(where, video, frame, (x1, y1, x2, y2), track[0] if track else 0)

    return _collect(path, rows(), first_frame or 0)


def _read_pickle(path: Path, _video: str, first_frame: int | None) -> dict[str, BoxTruth]:
    try:
        content = load_plain_pickle(path.read_bytes())
    except ValueError as error:
        msg = (
            f"{path}: not a pickle of plain lists and numbers ({error}); others are never loaded, because they may run "
            f"programs: give the published Test_annotation.pkl, or a .csv with {','.join(CSV_COLUMNS)}"
        )
        raise UsageError(msg) from error
    # Lists that the pickle repeats by reference cost it no bytes.
    if not (
        isinstance(content, dict)
        and all(isinstance(video, str) and isinstance(entries, list) for video, entries in content.items())
        and sum(map(len, content.values())) <= path.stat().st_size
    ):
        msg = f"{path}: expected a dict of video -> list of [picture, x1, y1, x2, y2]: give another file, or format="
        raise UsageError(msg)
    rows = (row for video, entries in content.items() for row in _pictures(path, video, entries))
    found = _collect(path, rows, 1 if first_frame is None else first_frame, content)
    return {video: replace(truth, annotated=annotated_frames(truth.frames)) for video, truth in found.items()}


def _pictures(path: Path, video: str, entries: Sequence[Any]) -> Iterator[_Row]:
    seen: Counter[int] = Counter()
    for entry in entries:
        fine = isinstance(entry, list) and len(entry) == 5 and isinstance(entry[0], str)
        # bool is a kind of int, and protocol 0 writes True as the number 01.
        if not fine or not all(type(value) in (int, float) and abs(value) <= MAX_FRAMES for value in entry[1:]):
            msg = (
                f"{path}: {video}: {reprlib.repr(entry)} is not [picture, x1, y1, x2, y2]: correct or remove this entry"
            )
            raise UsageError(msg)
        stem = entry[0].rpartition("/")[2].rpartition(".")[0]
        digits = stem[len(stem.rstrip("0123456789")) :]
        if not 0 < len(digits) <= MAX_DIGITS:
            name = reprlib.repr(entry[0])
            msg = f"{path}: {video}: the picture {name} does not end in a frame number: name it image_0001.jpg"
            raise UsageError(msg)
        frame = int(digits)
        x1, y1, x2, y2 = entry[1:]
        # Pixels count from 1 and both corners belong to the box.
        yield _Row(f"{video}, {stem}", video, frame, (x1 - 1, y1 - 1, x2, y2), seen[frame])
        seen[frame] += 1


BOX_FORMATS: Mapping[str, BoxFormat] = MappingProxyType(
    {
        "vatic": BoxFormat(
            (".txt",), True, _read_vatic, MAX_FILE_BYTES,
            'UCFCrime2Local\'s VATIC text: track xmin ymin xmax ymax frame lost occluded generated "label"; frames '
            "count from 0 if one has this number, else from 1; corners stand as written; lost boxes are skipped",
        ),
        "pickle": BoxFormat(
            (".pkl", ".pickle"), False, _read_pickle, MAX_PICKLE_BYTES,
            "UCFCrime_BoundingBox_Annotation (K. Liu, H. Ma 2019): {video: [[.../image_0861.jpg, x1, y1, x2, y2]]}; "
            "frames and pixels count from 1, corners are included; every 16th frame is annotated",
        ),
        "mot": BoxFormat(
            (".txt",), True, _read_mot, MAX_FILE_BYTES,
            "MOTChallenge gt.txt: frame,id,x,y,w,h,conf,class,visibility; frames and pixels count from 1; rows with "
            "conf 0 are skipped",
        ),
        "csv": BoxFormat(
            (".csv",), False, _read_csv, MAX_FILE_BYTES,
            f"a table with the columns {','.join(CSV_COLUMNS)}; frames count from 0, boxes are half-open",
        ),
    }
)  # fmt: skip
"""Name -> format that `read_box_truth` reads."""


def write_box_csv(path: str | os.PathLike[str], truths: Mapping[str, BoxTruth]) -> None:
    """Write boxes as ``video,frame,x1,y1,x2,y2,track``, frames from 0, half-open pixels; they read back exactly.

    Which frames were looked at has no column: give `annotated_frames` again after reading. The file appears when it is
    whole, and replaces one of its name.

    Raises
    ------
    UsageError
        for a video without a box or whose name cannot stand in a line, or a folder that is not there.
    """
    target = Path(path)
    if not target.parent.is_dir():
        msg = f"{target}: there is no folder {target.parent}: make it first, mkdir -p {target.parent}"
        raise UsageError(msg)
    for video, truth in truths.items():
        # A lone surrogate, as undecodable file names have, is no text either.
        if not len(truth) or set("\r\n\0").intersection(video) or any("\ud800" <= sign <= "\udfff" for sign in video):
            msg = f"{target}: {video!r} has no box, or a name that cannot stand in a line: leave it out or rename it"
            raise UsageError(msg)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(CSV_COLUMNS)
            for video, truth in truths.items():
                for frame, box, track in zip(
                    truth.frames.tolist(), truth.boxes.tolist(), truth.tracks.tolist(), strict=True
                ):
                    lines.writerow([video, frame, *map(repr, box), track])
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
