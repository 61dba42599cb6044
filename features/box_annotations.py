"""Readers of the files in which people drew boxes around what is abnormal, and the writer of vadx's own."""

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
from typing import Any, NamedTuple

import numpy as np

from ..errors import NoInputError, UsageError
from .box_truth import MAX_FRAMES, BoxTruth, annotated_frames
from .plain_pickle import load_plain_pickle

MAX_FILE_BYTES = 2 * 10**9
"""A larger text is refused before it is opened."""

MAX_PICKLE_BYTES = 10**8
"""A larger pickle is refused: the public one of 810 videos and 25,483 boxes has 3 MB."""

MAX_DIGITS = 15
"""A longer number at the end of a picture's name is no frame's."""


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
