"""Manifests: which videos there are, with their labels, splits and anomalous spans, as CSV or JSON lines.

One video a line, under these columns (`COLUMNS`)::

    id,path,label,class,split,spans,num_frames
    Abuse/Abuse028_x264,Abuse/Abuse028_x264.mp4,1,Abuse,test,165:240,1412

A column may be left out; each line needs an id or a path. As JSON lines, ``spans`` is ``[[165, 240]]``.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .bag_file import LABELS
from .joining import Joined, join_ids
from .keys import collisions
from .plain_json import parse_json
from .publish import publish_bytes
from .text_lines import MAX_FRAMES, Problem, check_name, is_folder, read_lines, refuse, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS: Mapping[str, str] = MappingProxyType(
    {
        "train": "for training",
        "val": "for choosing a model",
        "test": "for the figures of a paper",
        "": "not said",
    }
)
"""What a video may be used for."""

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "id": "the path below the root, without the extension; made from `path` where it is missing",
        "path": "where the video lies below the root",
        "label": "1 or anomalous, 0 or normal, -1, unknown or empty",
        "class": "the kind of anomaly; empty or Normal for a normal video",
        "split": "train, val, test, or empty",
        "spans": "anomalous frames as published, s:e or s:e s:e; none for an anomalous video: not known",
        "num_frames": "decoded frames of the video, or empty",
    }
)
"""Column of a manifest -> what it holds."""

LABEL_WORDS: Mapping[str, int] = MappingProxyType(
    {
        **{str(number): number for number in LABELS},
        **{word: number for number, word in LABELS.items()},
        "abnormal": 1,
        "": -1,
    }
)
"""How a label may be written, in lower case."""

_NORMAL = "normal"
_SO = "Nothing was read: a list that is half understood would label videos wrongly. Mend these lines first."


def no_spans() -> NDArray[np.int64]:
    """Give the spans of a video that has none."""
    return np.zeros((0, 2), np.int64)


def span_array(spans: object) -> NDArray[np.int64]:
    """Give spans as ``int64 (span, 2)``, read-only.

    Raises
    ------
    ValueError
        unless they are pairs of whole numbers, 0 <= s < e <= `MAX_FRAMES`.
    """
    try:
        array = np.asarray(spans)
    except (ValueError, OverflowError) as error:
        msg = f"spans are pairs of whole numbers [s, e]; got {spans!r:.100}"
        raise ValueError(msg) from error
    if array.size == 0:
        array = no_spans()
    # Not int64 at once: that would make 1.5 a 1, and True as well.
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != 2:
        msg = f"spans are pairs of whole numbers [s, e]; got {spans!r:.100}"
        raise ValueError(msg)
    wrong = array[(array[:, 0] < 0) | (array[:, 0] >= array[:, 1]) | (array[:, 1] > MAX_FRAMES)]
    if len(wrong):
        msg = f"a span [s, e) has 0 <= s < e <= {MAX_FRAMES}; got [{wrong[0][0]}, {wrong[0][1]})"
        raise ValueError(msg)
    result = array.astype(np.int64)
    result.flags.writeable = False
    return result


@dataclass(frozen=True, slots=True, eq=False)
class ManifestEntry:
    """One video of a data set.

    ``spans (span, 2)`` int64 are the anomalous frames, with the numbers as they were published and taken as
    half-open ``[s, e)``; `features.frame_truth.SLICINGS` says who takes the same numbers otherwise. An anomalous
    video without spans is one whose spans are not known. ``label`` is one of `bag_file.LABELS`; ``class_name`` is
    "" for a normal video. ``path`` lies below the data set's root and may be ""; ``num_frames`` counts decoded
    frames, None where nobody counted them.

    Raises
    ------
    ValueError
        for anything else, also for a normal video with spans.
    """

    id: str
    path: str = ""
    label: int = -1
    class_name: str = ""
    split: str = ""
    spans: NDArray[np.int64] = field(default_factory=no_spans)
    num_frames: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", unicodedata.normalize("NFC", self.id))
        object.__setattr__(self, "spans", span_array(self.spans))
        check_name(self.id, "id")
        if self.path:
            check_name(self.path, "path")
        if self.label not in LABELS:
            msg = f"label {self.label!r} is none of {', '.join(f'{n} ({what})' for n, what in LABELS.items())}"
            raise ValueError(msg)
        if self.split not in SPLITS:
            msg = (
                f"split {self.split!r} is none of {', '.join(filter(None, SPLITS))}; leave it empty where none is known"
            )
            raise ValueError(msg)
        if self.class_name:
            check_name(self.class_name.replace("/", "-"), "class")
        if self.class_name.strip().lower() == _NORMAL or (self.label != 1 and (len(self.spans) or self.class_name)):
            got = repr(self.class_name) if self.class_name else self.spans.tolist()
            msg = f"only an anomalous video has spans or a class of anomaly; got {got} and label {self.label}"
            raise ValueError(msg)
        if self.num_frames is not None and not 0 < self.num_frames <= MAX_FRAMES:
            msg = f"num_frames is between 1 and {MAX_FRAMES}; got {self.num_frames}"
            raise ValueError(msg)

    def row(self) -> dict[str, Any]:
        """Give the entry under the names of `COLUMNS`."""
        return {
            "id": self.id,
            "path": self.path,
            "label": self.label,
            "class": self.class_name,
            "split": self.split,
            "spans": self.spans.tolist(),
            "num_frames": self.num_frames,
        }

    def __eq__(self, other: object) -> bool:
        return self.row() == other.row() if isinstance(other, ManifestEntry) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The videos of a data set, in the order of its list.

    Raises
    ------
    UsageError
        if two ids are equal, or equal but for case: they cannot be told apart on every file system.
    """

    entries: tuple[ManifestEntry, ...]
    _by_id: dict[str, ManifestEntry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        twins = sorted(collisions(entry.id for entry in self.entries))
        if twins:
            msg = f"ids that cannot be told apart: {', '.join(map(repr, twins[:10]))}; rename or leave out one of each"
            raise UsageError(msg)
        object.__setattr__(self, "_by_id", {entry.id: entry for entry in self.entries})

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ManifestEntry]:
        return iter(self.entries)

    def __getitem__(self, identifier: str) -> ManifestEntry:
        return self._by_id[identifier]

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._by_id

    def join(self, identifiers: Iterable[str]) -> tuple[dict[str, ManifestEntry], Joined]:
        """Give the entry of each of other ids, and which ids and entries found no fellow, or several: `join_ids`."""
        joined = join_ids(identifiers, self._by_id)
        return {ours: self._by_id[theirs] for ours, theirs in joined.pairs.items()}, joined


def read_manifest(path: str | os.PathLike[str], *, format: str | None = None) -> Manifest:
    """Read a manifest. ``format`` is one of `FORMATS`, None for what the file's name says.

    Raises
    ------
    NoInputError
        if there is no such file.
    UsageError
        naming file and line of every problem, ids that stand there twice or differ in case only among them.
    """
    entries, problems = scan_manifest(path, format=format)
    refuse(problems, so=_SO)
    return Manifest(tuple(entry for _, entry in entries))


def scan_manifest(
    path: str | os.PathLike[str], *, format: str | None = None
) -> tuple[list[tuple[int, ManifestEntry]], list[Problem]]:
    """Read a manifest as far as it can be read: numbered entries, and what is wrong. Raises as `read_manifest`."""
    read = FORMATS[format_of(path, format)].read
    lines, problems = read_lines(path)
    entries: list[tuple[int, ManifestEntry]] = []
    for number, row in read(lines):
        try:
            entries.append((number, entry_of(row())))
        except ValueError as error:
            problems.append(Problem(os.fspath(path), number, str(error)))
    problems += twin_problems(path, [(number, entry.id) for number, entry in entries])
    return entries, sorted(problems, key=lambda problem: problem.line)


def twin_problems(path: str | os.PathLike[str], ids: Sequence[tuple[int, str]]) -> list[Problem]:
    """Name every line whose id another line has, or has but for case."""
    twins = collisions(identifier for _, identifier in ids)
    first: dict[str, tuple[int, str]] = {}
    problems = []
    for number, identifier in ids:
        if identifier not in twins:
            continue
        before = first.setdefault(identifier.casefold(), (number, identifier))
        if before[0] != number:
            same = "the same id" if before[1] == identifier else f"{before[1]!r}, which differs in case only"
            problems.append(Problem(os.fspath(path), number, f"{identifier!r}: line {before[0]} has {same}"))
    return problems


def entry_of(row: Mapping[str, Any]) -> ManifestEntry:
    """Make an entry of a row that has some of `COLUMNS`: texts, or what JSON makes of them.

    Raises
    ------
    ValueError
        naming the column that cannot be meant.
    """
    unknown = next((name for name in row if name not in COLUMNS), None)
    if unknown is not None:
        near = difflib.get_close_matches(str(unknown).strip().lower(), COLUMNS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COLUMNS)}"
        msg = f"column {unknown!r} is not known; {hint}"
        raise ValueError(msg)
    # Without the "./" that find writes.
    path = PurePosixPath(_text(row, "path")).as_posix() if _text(row, "path") else ""
    identifier = _text(row, "id") or id_of(path)
    if not identifier:
        msg = "neither id nor path is given"
        raise ValueError(msg)
    label, class_name, spans = _label(row.get("label", "")), _text(row, "class"), _spans(row.get("spans"))
    if class_name.strip().lower() == _NORMAL:
        if label == 1:
            msg = f"the label says anomalous, the class {class_name!r}"
            raise ValueError(msg)
        label, class_name = 0, ""
    elif label == -1 and (class_name or len(spans)):
        label = 1
    return ManifestEntry(identifier, path, label, class_name, _text(row, "split"), spans, _count(row.get("num_frames")))


def id_of(path: str) -> str:
    """Give the id of a video from its path below the root: the last extension is left out."""
    place = PurePosixPath(path)
    return PurePosixPath(place.parent, place.stem).as_posix() if path else ""


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        msg = f"{column} is a text; got {value!r:.100}"
        raise ValueError(msg)
    return value


def _label(value: object) -> int:
    word = "" if value is None else str(value).strip().lower()
    if isinstance(value, (bool, float)) or word not in LABEL_WORDS:
        msg = f"label {value!r:.100} is none of {', '.join(filter(None, LABEL_WORDS))}; a kind of anomaly is a 'class'"
        raise ValueError(msg)
    return LABEL_WORDS[word]


def _spans(value: object) -> NDArray[np.int64]:
    if not isinstance(value, str):
        return no_spans() if value is None else span_array(value)
    pairs = []
    for word in value.split():
        numbers = [whole_number(part) for part in word.split(":")]
        if len(numbers) != 2 or None in numbers:
            msg = f"span {word!r:.100} is not of the form s:e, such as 165:240"
            raise ValueError(msg)
        pairs.append(numbers)
    return span_array(pairs)


def _count(value: object) -> int | None:
    if value is None or value == "":
        return None
    number = whole_number(value.strip()) if isinstance(value, str) else value
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    msg = f"num_frames is a whole number; got {value!r:.100}"
    raise ValueError(msg)


def write_manifest(
    path: str | os.PathLike[str], entries: Iterable[ManifestEntry], *, format: str | None = None
) -> None:
    """Write a manifest. The file appears when it is whole, and replaces one of its name.

    Raises
    ------
    UsageError
        for an unknown format, a folder that is not there, or a path that is a folder itself.
    StoreWriteError
        if the disk refused.
    """
    target = Path(path)
    text = manifest_text(entries, format_of(path, format))
    if is_folder(target):
        msg = f"{target} is a folder; name a file in it: {target / 'manifest.csv'}"
        raise UsageError(msg)
    if not target.parent.is_dir():
        msg = f"{target}: there is no folder {target.parent}; make it first: mkdir -p {target.parent}"
        raise UsageError(msg)
    publish_bytes(text.encode(), target, target.parent, replace=True)


def manifest_text(entries: Iterable[ManifestEntry], format: str) -> str:
    """Give a manifest's text in one of `FORMATS`."""
    return FORMATS[format].text(entry.row() for entry in Manifest(tuple(entries)))


def format_of(path: str | os.PathLike[str], format: str | None) -> str:
    """Give the format that is asked for, else the one that a file's name says.

    Raises
    ------
    UsageError
        if there is none such.
    """
    chosen = Path(path).suffix.lower().removeprefix(".") if format is None else format
    if chosen not in FORMATS:
        msg = f"{path}: a manifest is one of {', '.join(FORMATS)}; got {chosen!r}: give --format, or name the file so"
        raise UsageError(msg)
    return chosen


Row = Callable[[], Mapping[str, Any]]
"""Gives a line's row when it is called. Raises `ValueError` if the line holds none."""


def _csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        spans = " ".join(f"{start}:{stop}" for start, stop in row["spans"])
        writer.writerow([*(row[name] for name in ("id", "path", "label", "class", "split")), spans, row["num_frames"]])
    return file.getvalue()


def _read_csv(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    if not lines:
        return
    try:
        header = _header(lines[0][1])
    except ValueError as error:
        # And no row after it: each would name the same wrong column again.
        yield lines[0][0], partial(_fail, error)
        return
    for number, line in lines[1:]:
        yield number, partial(_csv_row, line, header)


def _fail(error: ValueError) -> Mapping[str, Any]:
    raise error


def _header(line: str) -> list[str]:
    header = [name.strip().lower() for name in _cells(line)]
    for name in header:
        near = difflib.get_close_matches(name, COLUMNS, 1)
        twice = header.count(name) > 1
        if twice or name not in COLUMNS:
            hint = f"did you mean {near[0]!r}?" if near and not twice else f"there are {', '.join(COLUMNS)}, each once"
            msg = f"the first line names the columns, and {name!r} is {'there twice' if twice else 'none'}; {hint}"
            raise ValueError(msg)
    return header


def _csv_row(line: str, header: Sequence[str]) -> Mapping[str, Any]:
    cells = _cells(line)
    if len(cells) != len(header):
        msg = f"{len(cells)} cells under {len(header)} columns; put names with commas in double quotes"
        raise ValueError(msg)
    return dict(zip(header, cells, strict=True))


def _cells(line: str) -> list[str]:
    # One line at a time: no name holds a line break, so an open quote cannot swallow the rest of the file.
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        msg = f"no line of CSV: {error}"
        raise ValueError(msg) from error


def _jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_jsonl(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        yield number, partial(_json_row, line)


def _json_row(line: str) -> Mapping[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        msg = f"no JSON: {error}"
        raise ValueError(msg) from error
    if not isinstance(row, dict):
        msg = f"a line is one object, {{...}}; got {line!r:.100}"
        raise ValueError(msg)
    return row


@dataclass(frozen=True, slots=True)
class Format:
    """How a manifest is written, and how its lines are read."""

    text: Callable[[Iterable[Mapping[str, Any]]], str]
    read: Callable[[Sequence[tuple[int, str]]], Iterator[tuple[int, Row]]]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {"csv": Format(_csv_text, _read_csv), "jsonl": Format(_jsonl_text, _read_jsonl)}
)
"""Name, which is also the file's extension -> how it is written and read."""
