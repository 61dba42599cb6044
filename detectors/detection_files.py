"""Detections that another program found: MOT ``det.txt``, COCO results, plain CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from ..errors import NoInputError, UsageError
from .coco_names import coco_label
from .detections import MAX_FRAMES, Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FILE_BYTES = 2 * 10**9
"""A larger file is refused before it is opened: a table of text takes up to four times its size in memory."""

MAX_DIGITS = 15
"""A longer number at the end of a file's name is no frame's."""

PERSON = 1
"""COCO's number of what MOT's detections are of; the format has no column for a category."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a file holds: ``frame (box,)`` float64 as written, ``boxes (box, 4)`` xyxy, ``scores``, ``labels``."""

    frame: NDArray[np.float64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DetectionFormat:
    """A way to write detections down: its file name ending, its first frame's number, and what ``read`` needs."""

    suffix: str
    first_frame: int
    read: Callable[[Path, Path | None], Columns]
    meaning: str


_Whole = Annotated[int, msgspec.Meta(ge=-MAX_FRAMES, le=MAX_FRAMES)]


class _CocoResult(msgspec.Struct, gc=False):
    image_id: _Whole | str
    category_id: _Whole
    bbox: tuple[float, float, float, float]
    score: float


class _CocoImage(msgspec.Struct, gc=False):
    id: _Whole | str
    frame_id: _Whole | None = None
    file_name: str | None = None


class _CocoImages(msgspec.Struct):
    images: list[_CocoImage]


def read_detections(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    num_frames: int | None = None,
    stride: int = 1,
    first_frame: int | None = None,
    images: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_FILE_BYTES,
) -> Detections:
    """Read the detections of one video from a file.

    Parameters
    ----------
    format
        One of `DETECTION_FORMATS`; by default what the file's ending says.
    num_frames
        Frames of the video; by default up to the last box.
    stride
        The detector looked at every so many frames, from the first.
    first_frame
        What the file calls the first frame; by default 1 for ``mot`` and 0 for the others.
    images
        For ``coco``: a JSON file whose ``images`` give each ``image_id`` its ``frame_id``, or a ``file_name`` that ends
        in the frame number. Without it ``image_id`` is the frame.
    max_bytes
        A larger file is refused.

    Raises
    ------
    NoInputError
        if there is no such file.
    UsageError
        if it is too large, not what its format says, or contradicts ``num_frames`` or ``stride``.
    """
    source = Path(path)
    kind = _format_of(source, format)
    for file in (source, *([Path(images)] if images is not None else [])):
        _check_file(file, max_bytes)
    try:
        columns = kind.read(source, None if images is None else Path(images))
    except UnicodeDecodeError as error:
        msg = f"{source}: byte {error.start} is not UTF-8 text: save it as UTF-8, or name its format with --format"
        raise UsageError(msg) from error
    first = kind.first_frame if first_frame is None else first_frame
    frames = _frame_numbers(source, columns.frame, first)
    last = int(frames.max()) + 1 if len(frames) else 0
    try:
        return Detections(
            frames, columns.boxes, columns.scores, columns.labels, last if num_frames is None else num_frames, stride
        )
    except UsageError as error:
        msg = f"{source}: {error}"
        raise UsageError(msg) from error


def _format_of(path: Path, name: str | None) -> DetectionFormat:
    if name is None:
        for kind in DETECTION_FORMATS.values():
            if path.suffix.lower() == kind.suffix:
                return kind
    elif name in DETECTION_FORMATS:
        return DETECTION_FORMATS[name]
    what = f"a file ending in {path.suffix or 'nothing'}" if name is None else f"a format named {name!r}"
    msg = f"{path}: {what} is none that detections are read from: give --format {'|'.join(DETECTION_FORMATS)}"
    raise UsageError(msg)


def _check_file(path: Path, max_bytes: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file: check the path after --detections"
        raise NoInputError(msg) from error
    if not path.is_file():
        msg = f"{path}: not a regular file: give one file per video to --detections"
        raise UsageError(msg)
    if size > max_bytes:
        msg = (
            f"{path}: {size} bytes are more than the {max_bytes} that are read at once: drop boxes of low score, or "
            f"read parts of the video with max_bytes={size} in Python"
        )
        raise UsageError(msg)


def _frame_numbers(path: Path, written: NDArray[np.float64], first: int) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        fine = (written >= first) & (written <= MAX_FRAMES) & (written == np.floor(written))
    wrong = np.flatnonzero(~fine)
    if wrong.size:
        row = int(wrong[0])
        msg = (
            f"{path}: box {row + 1} lies in frame {written[row]:g}; frames are whole numbers from {first} on: give "
            f"--first-frame if this file counts from another number"
        )
        raise UsageError(msg)
    return written.astype(np.int64) - first


def _read_mot(path: Path, _images: Path | None) -> Columns:
    with path.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    values = _numbers(path, delimiter="," if "," in first else None, columns=(0, 2, 3, 4, 5, 6), skip=0)
    # MOT counts pixels from 1, so its (1, 1) is the corner (0, 0) of a half-open box.
    corner = values[:, 1:3] - 1
    boxes = np.concatenate([corner, corner + values[:, 3:5]], axis=1)
    return Columns(values[:, 0], boxes, values[:, 5], np.full(len(values), PERSON))


CSV_COLUMNS = ("frame", "x1", "y1", "x2", "y2", "score", "label")


def _read_csv(path: Path, _images: Path | None) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            example = next(rows, [])
        except csv.Error as error:
            msg = f"{path}: {error}: begin the file with the line {','.join(CSV_COLUMNS)}"
            raise UsageError(msg) from error
    missing = [name for name in CSV_COLUMNS[:5] if name not in header]
    if missing:
        msg = (
            f"{path}: the first line names no column {', '.join(missing)}: begin the file with "
            f"{','.join(CSV_COLUMNS)} (score and label may be missing)"
        )
        raise UsageError(msg)
    wanted = [name for name in CSV_COLUMNS if name in header]
    places = [header.index(name) for name in wanted]
    by_name: dict[int | str, Callable[[str], float]] | None = None
    if "label" in wanted and len(example) > places[-1] and not is_number(example[places[-1]]):
        known: dict[str, int] = {}
        # Each name is looked up once, however many boxes have it.
        by_name = {places[-1]: lambda text: known[text] if text in known else known.setdefault(text, coco_label(text))}
    values = _numbers(path, delimiter=",", columns=places, skip=1, converters=by_name)
    column = dict(zip(wanted, values.T, strict=True))
    labels = column.get("label", np.full(len(values), float(PERSON)))
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((np.abs(labels) < 2**31) & (labels == np.floor(labels))))
    if wrong.size:
        msg = f"{path}: box {wrong[0] + 1} has the label {labels[wrong[0]]:g}: give whole numbers or COCO's names"
        raise UsageError(msg)
    return Columns(values[:, 0], values[:, 1:5], column.get("score", np.ones(len(values))), labels.astype(np.int64))


def is_number(text: str) -> bool:
    """Whether a cell of a table is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(
    path: Path,
    *,
    delimiter: str | None,
    columns: Sequence[int],
    skip: int,
    converters: dict[int | str, Callable[[str], float]] | None = None,
) -> NDArray[np.float64]:
    with path.open(encoding="utf-8-sig") as file:
        if not any(line.strip() for number, line in enumerate(file) if number >= skip):
            return np.zeros((0, len(columns)))
        file.seek(0)
        try:
            return np.loadtxt(
                file,
                np.float64,
                comments=None,
                delimiter=delimiter,
                usecols=columns,
                skiprows=skip,
                converters=converters,
                quotechar='"',
                ndmin=2,
            )
        except ValueError as error:
            file.seek(0)
            found = _first_bad_line(file, delimiter, columns, skip, converters or {})
            msg = f"{path}: {found or error}: correct that line, or name the file's format with --format"
            raise UsageError(msg) from error


def _first_bad_line(
    file: Iterable[str],
    delimiter: str | None,
    columns: Sequence[int],
    skip: int,
    converters: Mapping[int | str, Callable[[str], float]],
) -> str | None:
    """Say which line is wrong and how; numpy counts rows from 0 or 1, without the blank ones and the header."""
    for number, line in enumerate(file, 1):
        if number <= skip or not line.strip():
            continue
        fields = next(csv.reader([line])) if delimiter else line.split()
        if len(fields) <= max(columns):
            return f"line {number} has {len(fields)} columns, {max(columns) + 1} or more are needed"
        for column in columns:
            try:
                converters.get(column, float)(fields[column])
            except ValueError as error:
                return f"line {number}: {error}"
    return None


def _read_coco(path: Path, images: Path | None) -> Columns:
    frames = None if images is None else _coco_frames(images)
    results = _decode(path, list[_CocoResult], "a list of {image_id, category_id, bbox: [x, y, w, h], score}")
    num = len(results)
    box = np.array([result.bbox for result in results], np.float64).reshape(num, 4)
    box[:, 2:] += box[:, :2]
    return Columns(
        np.fromiter((_frame_of(path, result.image_id, frames) for result in results), np.float64, num),
        box,
        np.fromiter((result.score for result in results), np.float64, num),
        np.fromiter((result.category_id for result in results), np.int64, num),
    )


def _frame_of(path: Path, image: int | str, frames: Mapping[int | str, int] | None) -> int:
    if frames is None and isinstance(image, int):
        return image
    if frames is None or image not in frames:
        lack = "is no frame number" if frames is None else "is not among the images"
        msg = f"{path}: image_id {image!r} {lack}: give --images with a JSON file that has its frame_id"
        raise UsageError(msg)
    return frames[image]


def _coco_frames(path: Path) -> dict[int | str, int]:
    """Give each image's frame: its ``frame_id``, else the digits at the end of its file's name."""
    frames: dict[int | str, int] = {}
    for image in _decode(path, _CocoImages, '{"images": [{id, frame_id}]}').images:
        stem = Path(image.file_name or "").stem
        digits = stem[len(stem.rstrip("0123456789")) :]
        if image.frame_id is None and not 0 < len(digits) <= MAX_DIGITS:
            msg = f"{path}: image {image.id!r} has neither a frame_id nor a file_name that ends in digits: add frame_id"
            raise UsageError(msg)
        frame = int(digits) if image.frame_id is None else image.frame_id
        if frames.setdefault(image.id, frame) != frame:
            msg = f"{path}: image {image.id!r} is listed twice, as frame {frames[image.id]} and {frame}: keep one"
            raise UsageError(msg)
    return frames


def _decode(path: Path, type_: Any, shape: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = f"{path}: {error}: expected {shape}, as COCO's result files are; or name the format with --format"
        raise UsageError(msg) from error


DETECTION_FORMATS: Mapping[str, DetectionFormat] = MappingProxyType(
    {
        "mot": DetectionFormat(
            ".txt", 1, _read_mot, "MOTChallenge det.txt: frame,id,x,y,w,h,score,...; frames and pixels count from 1"
        ),
        "coco": DetectionFormat(".json", 0, _read_coco, "COCO results: [{image_id, category_id, bbox, score}]"),
        "csv": DetectionFormat(".csv", 0, _read_csv, f"a table with the columns {','.join(CSV_COLUMNS)}"),
    }
)
"""Name -> format that `read_detections` reads and `write_tubes` writes."""
