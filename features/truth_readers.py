"""The lines of the field's annotation files: which columns they have, and what their numbers count.

Nobody's columns have names, and the same numbers stand in several orders; `COLUMN_ORDERS` lists those found in
public repositories. What a name says of label and class is in `features.annotations.DATA_SETS`.
"""

from __future__ import annotations

import os
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .joining import EXTENSIONS, comparable
from .manifest import read_manifest, span_array
from .plain_json import parse_json
from .text_lines import MAX_FRAMES, Problem, last_part, read_lines, read_whole, refuse, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTED: Mapping[str, str] = MappingProxyType(
    {
        "decoded": "frames that come out of the decoder",
        "declared": "what OpenCV reads in the file's header: one more than decoded for most of UCF-Crime",
        "unknown": "of another copy of the videos, or not said",
    }
)
"""What a file's frame counts count. Only ``decoded`` ones become a manifest's ``num_frames``."""


@dataclass(frozen=True, slots=True)
class ColumnOrder:
    """The columns of one kind of annotation file, in order.

    ``separator``: None for any white space, "" where a line is one name. ``columns`` are names of `_KINDS`, or
    ``pairs`` for s e s e … to the line's end. ``counted`` is one of `COUNTED`, "" where there are no counts.
    """

    columns: tuple[str, ...]
    source: str
    separator: str | None = None
    counted: str = ""


_EVENTS = ("start", "stop", "start", "stop")

COLUMN_ORDERS: Mapping[str, ColumnOrder] = MappingProxyType(
    {
        "sultani": ColumnOrder(
            ("name", "class", *_EVENTS), "WaqasSultani/AnomalyDetectionCVPR2018, Temporal_Anomaly_Annotation.txt"
        ),
        "mist": ColumnOrder(
            ("name", "class", *_EVENTS, "num_frames"),
            "fjchange/MIST_VAD, Temporal_Anomaly_Annotation_New.txt",
            counted="decoded",
        ),
        "ekosman-test": ColumnOrder(
            ("file", "num_frames", "class", *_EVENTS),
            "ekosman/AnomalyDetectionCVPR2018-Pytorch, Test_Annotation.txt; UR-DMU",
            counted="decoded",
        ),
        "ekosman-train": ColumnOrder(
            ("file", "num_frames"), "ekosman/AnomalyDetectionCVPR2018-Pytorch, Train_Annotation.txt", counted="decoded"
        ),
        "seo-anomaly": ColumnOrder(
            ("file", "num_frames", "spans"),
            "seominseok0429/Real-world-Anomaly-Detection-in-Surveillance-Videos-pytorch, test_anomalyv2.txt",
            separator="|",
            counted="declared",
        ),
        "seo-normal": ColumnOrder(
            ("file", "num_frames", "none"),
            "seominseok0429/Real-world-Anomaly-Detection-in-Surveillance-Videos-pytorch, test_normalv2.txt",
            counted="declared",
        ),
        "wsal": ColumnOrder(("bare", "num_frames"), "ktr-hubrt/WSAL, variables.txt", counted="unknown"),
        "xd-violence": ColumnOrder(("name", "pairs"), "Roc-Ng/XDVioDet, annotations.txt; nwpu-zxr/VadCLIP"),
        "mist-shanghaitech-test": ColumnOrder(
            # MIST counted copies at 25 frames a second of files that have 24.
            ("name", "label", "num_frames_or_none"),
            "fjchange/MIST_VAD, SH_Test_NEW.txt",
            separator=",",
            counted="unknown",
        ),
        "mist-shanghaitech-train": ColumnOrder(("name", "label"), "fjchange/MIST_VAD, SH_Train_new.txt", separator=","),
        "pel4vad-shanghaitech": ColumnOrder(("name", "label"), "yujiangpu20/PEL4VAD, list/sh"),
        "names": ColumnOrder(("name",), "one path or name a line: Anomaly_Train.txt, RTFM, UR-DMU, GCN", separator=""),
    }
)
"""Name -> columns, and the public file that has them. Tried in this order."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one line says of one video. ``shares`` are spans in parts of the video's length, 0 to 1."""

    name: str
    order: str
    label: int = -1
    class_name: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    shares: tuple[tuple[float, float], ...] | None = None
    num_frames: int | None = None

    @property
    def counted(self) -> str:
        """What ``num_frames`` counts, one of `COUNTED`."""
        return COLUMN_ORDERS[self.order].counted if self.order in COLUMN_ORDERS else "decoded"


def parse_line(line: str, orders: Sequence[str]) -> Record | None:
    """Read a line under the first of ``orders`` that fits it; None if none does.

    Raises
    ------
    ValueError
        if one fits, and its spans or counts cannot be meant.
    """
    for name in orders:
        order = COLUMN_ORDERS[name]
        fields = [line.strip()] if order.separator == "" else line.strip().split(order.separator)
        record = _fill(Record("", name), [field.strip() for field in fields], order.columns)
        if record is not None:
            span_array(record.spans)
            if record.num_frames is not None and not 0 < record.num_frames <= MAX_FRAMES:
                msg = f"a video has 1 to {MAX_FRAMES} frames; got {record.num_frames}"
                raise ValueError(msg)
            return record
    return None


def _fill(record: Record, fields: Sequence[str], columns: Sequence[str]) -> Record | None:
    if columns[-1] == "pairs":
        numbers = [whole_number(text) for text in fields[1:]]
        if not numbers or len(numbers) % 2 or None in numbers:
            return None
        columns = (*columns[:-1], *(("start", "stop") * (len(numbers) // 2)))
    if len(fields) != len(columns):
        return None
    start = 0
    for column, text in zip(columns, fields, strict=True):
        number = whole_number(text)
        if column in {"name", "file", "bare"}:
            if not text or (column != "name" and (column == "file") != _has_extension(text)):
                return None
            record = replace(record, name=text)
        elif column == "class":
            if number is not None:
                return None
            record = replace(record, class_name=text)
        elif column == "label":
            if text not in _LABELS:
                return None
            record = replace(record, label=_LABELS[text])
        elif column == "spans":
            spans = _bracketed(text)
            if spans is None:
                return None
            record = replace(record, spans=spans)
        elif number is None:
            return None
        elif column == "start":
            start = number
        elif column == "stop":
            # -1 -1 stands for no event.
            record = record if (start, number) == (-1, -1) else replace(record, spans=(*record.spans, (start, number)))
        elif column == "none":
            if number != -1:
                return None
        elif column == "num_frames" or number != -1:
            record = replace(record, num_frames=number)
    return record


_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


def _has_extension(text: str) -> bool:
    return Path(text).suffix.lower() in EXTENSIONS


def _bracketed(text: str) -> tuple[tuple[int, int], ...] | None:
    inner = re.fullmatch(r"\[([0-9, ]*)\]", text)
    numbers = [whole_number(part.strip()) for part in inner[1].split(",")] if inner else []
    if not numbers or len(numbers) % 2 or None in numbers:
        return None
    known = [number for number in numbers if number is not None]
    return tuple(zip(known[::2], known[1::2], strict=True))


def read_text(path: str | os.PathLike[str], orders: Sequence[str]) -> tuple[list[tuple[int, Record]], list[Problem]]:
    """Read an annotation file of lines, each under the same one of ``orders``: records by line number, and problems.

    Lines that begin with # are passed over. Raises as `text_lines.read_lines`.
    """
    file = os.fspath(path)
    lines, problems = read_lines(path)
    records: list[tuple[int, Record]] = []
    for number, line in lines:
        if line.startswith("#"):
            continue
        try:
            record = parse_line(line, orders)
        except ValueError as error:
            problems.append(Problem(file, number, str(error)))
            continue
        if record is None:
            known = "; ".join(" ".join(COLUMN_ORDERS[name].columns) for name in orders)
            problems.append(Problem(file, number, f"{line!r:.100} fits none of the known columns: {known}"))
        elif records and record.order != records[0][1].order:
            first, columns = records[0][0], " ".join(COLUMN_ORDERS[records[0][1].order].columns)
            what = f"{line!r:.100} has not the columns of line {first}: {columns}"
            problems.append(Problem(file, number, what))
        else:
            records.append((number, record))
    return records, problems


def read_shares(path: str | os.PathLike[str]) -> tuple[list[tuple[int, Record]], list[Problem]]:
    """Read a list of Kamino666/LaGoVAD-PreVAD (``tad_test_anno.json``): spans are parts of the length, 0 to 1.

    Numbers are of entries, from 1: the file has no lines worth the name.

    Raises
    ------
    UsageError
        if it is not such a list.
    """
    try:
        rows = parse_json(read_whole(path))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        msg = f"{path}: no JSON: {error}; name the list as it was published"
        raise UsageError(msg) from error
    if not isinstance(rows, list):
        msg = f"{path}: a list of videos begins with [; name the list as it was published"
        raise UsageError(msg)
    records, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            records.append((number, _share_record(row)))
        except ValueError as error:
            problems.append(Problem(os.fspath(path), 0, f"entry {number}: {error}"))
    return records, problems


def _share_record(row: Any) -> Record:
    name = (row.get("video_path") or row.get("path")) if isinstance(row, dict) else None
    spans = row.get("anomaly_span") if isinstance(row, dict) else None
    if not isinstance(name, str) or not isinstance(spans, list):
        msg = "it wants a text 'video_path' and a list 'anomaly_span'"
        raise ValueError(msg)
    shares = []
    for span in spans:
        if not (isinstance(span, list) and len(span) == 2 and all(type(x) in {int, float} for x in span)):
            msg = f"{span!r:.100} is no pair of numbers"
            raise ValueError(msg)
        start, stop = span
        if not 0 <= start < stop <= 1:
            msg = f"a span in parts of the length has 0 <= s < e <= 1; got {span!r:.100}"
            raise ValueError(msg)
        # Not before: an integer of many digits is no float.
        shares.append((float(start), float(stop)))
    return Record(name, "lagovad", label=1 if shares else 0, shares=tuple(shares))


def read_masks(folder: str | os.PathLike[str]) -> tuple[list[tuple[int, Record]], list[Problem]]:
    """Read a folder of frame masks, one ``<video>.npy`` of 0 and 1 a video, as ShanghaiTech publishes them.

    Numbers are 0: a mask has no lines. Raises `UsageError` if the folder holds none.
    """
    records, problems = [], []
    for path in sorted(Path(folder).glob("*.npy")):
        try:
            labels = _mask(path)
        except _NO_ARRAY as error:
            problems.append(Problem(str(path), 0, f"no mask of frames: {error}"))
            continue
        spans = runs(labels)
        pairs = tuple((int(start), int(stop)) for start, stop in spans)
        records.append((0, Record(path.name, "masks", int(len(pairs) > 0), "", pairs, None, len(labels))))
    if not records and not problems:
        msg = f"{folder} holds no .npy masks; name ShanghaiTech's folder test_frame_mask"
        raise UsageError(msg)
    return records, problems


# What numpy lets through from the parsing of a header that was made to break it.
_NO_ARRAY = (
    *(ValueError, OSError, EOFError, OverflowError, MemoryError, RecursionError),
    *(SyntaxError, TypeError, tokenize.TokenError),
)


def _mask(path: Path) -> NDArray[np.bool_]:
    if not path.is_file():
        # Opening a FIFO waits for ever for somebody to write into it.
        msg = "it is no file"
        raise ValueError(msg)
    # Mapped: a header that claims more than the file holds is refused before anything of that size is made.
    labels = np.load(path, mmap_mode="r", allow_pickle=False)
    if labels.ndim != 1 or not 0 < labels.size <= MAX_FRAMES or labels.dtype.kind not in "biuf":
        msg = f"expected 1 to {MAX_FRAMES} numbers in a row, got {labels.dtype} {labels.shape}"
        raise ValueError(msg)
    if not np.isin(labels, (0, 1)).all():
        msg = "there are other values in it than 0 and 1"
        raise ValueError(msg)
    return np.asarray(labels, dtype=np.bool_)


def runs(labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give the half-open spans ``int64 (span, 2)`` of the true values of a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels.astype(np.int8), [0]])))
    return edges.reshape(-1, 2).astype(np.int64)


def read_counts(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read how many frames videos have, by name: the path without the extension.

    Takes any file of `COLUMN_ORDERS` with counts (the OpenCV counts of UCF-Crime's test videos stand in
    ``test_anomalyv2.txt`` and ``test_normalv2.txt`` of the source of ``seo-anomaly``), lines ``name N`` or
    ``name,N``, a manifest, and what ``vadx ls SET --json`` prints.

    Raises
    ------
    NoInputError
        if there is no such file.
    UsageError
        naming each line that holds no count, and each video with two.
    """
    ending = Path(path).suffix.lower()
    found = list(_json_counts(path) if ending == ".json" else _listed_counts(path, ending))
    problems = []
    counts: dict[str, int] = {}
    for number, name, count in found:
        if isinstance(count, Problem):
            problems.append(count)
        elif counts.setdefault(comparable(name), count) != count:
            what = f"{name!r} has {count} frames here, {counts[comparable(name)]} above"
            problems.append(Problem(os.fspath(path), number, what))
    refuse(problems, so="No count was read. Mend these lines first.")
    return counts


def _listed_counts(path: str | os.PathLike[str], ending: str) -> Iterator[tuple[int, str, int | Problem]]:
    if ending == ".jsonl" or (ending == ".csv" and "num_frames" in _first_line(path).lower()):
        yield from ((0, entry.id, entry.num_frames) for entry in read_manifest(path) if entry.num_frames is not None)
        return
    lines, problems = read_lines(path)
    yield from ((problem.line, "", problem) for problem in problems)
    orders = [name for name, order in COLUMN_ORDERS.items() if order.counted]
    for number, line in lines:
        if line.startswith("#"):
            continue
        try:
            record = parse_line(line, orders)
        except ValueError as error:
            yield number, "", Problem(os.fspath(path), number, str(error))
            continue
        name, _, count = line.strip().rpartition(",")
        if record is not None:
            if record.num_frames is not None:
                yield number, record.name, record.num_frames
        elif name and 0 < (whole_number(count.strip()) or 0) <= MAX_FRAMES:
            yield number, name, int(count)
        else:
            yield number, "", Problem(os.fspath(path), number, f"{line!r:.100} holds no name with a count of frames")


def _first_line(path: str | os.PathLike[str]) -> str:
    lines, _ = read_lines(path)
    return lines[0][1] if lines else ""


def _json_counts(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, int | Problem]]:
    try:
        rows = parse_json(read_whole(path))["videos"]
        pairs = [(row["id"], row["num_frames"]) for row in rows]
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not what `vadx ls SET --json` prints: {error!r}; name a list of lines `name N`"
        raise UsageError(msg) from error
    for place, (name, count) in enumerate(pairs, 1):
        if isinstance(name, str) and type(count) is int and 0 < count <= MAX_FRAMES:
            yield place, name, count
        else:
            yield place, "", Problem(os.fspath(path), 0, f"video {place}: {name!r:.50} with {count!r:.50} frames")


def base_name(name: str) -> str:
    """Give the last part of a path of any system, without white space around it."""
    return last_part(name.strip())
