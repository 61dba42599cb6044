"""Lists as the targets read them: which file a line names, and which label its place means."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ..text_lines import read_lines, refuse
from .files import below
from .marker import MarkedVideo, Marker

_SO = "The target would read something else than was exported; export again."


def read_list(folder: Path, relative: str) -> list[str]:
    """Give the lines of a list of an export. Raises `UsageError` and `NoInputError`."""
    lines, problems = read_lines(folder / relative)
    refuse(problems, so=_SO)
    return [text for _, text in lines]


def local(folder: Path, marker: Marker, text: str, place: str) -> Path:
    """Give the file that a line names, wherever the export lies now. Raises `UsageError` for one outside of it."""
    start = f"{marker.prefix}/" if marker.prefix else ""
    if not text.startswith(start):
        msg = f"{place}: {text!r:.200} does not begin with {start!r}, and nothing outside {folder} is read"
        raise UsageError(msg)
    return below(folder, text.removeprefix(start), place)


def label_by_place(at: int, videos: Sequence[MarkedVideo]) -> int:
    """Give the label that scripts read from a video's place in its list: the anomalous ones are the first."""
    return int(at < sum(video.label == 1 for video in videos))


def csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a CSV file's text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(lines: Sequence[str], header: Sequence[str], place: str) -> list[list[str]]:
    """Give the rows of a CSV file. Raises `UsageError` unless its header and its widths are as expected."""
    rows = list(csv.reader(lines))
    if not rows or rows[0] != list(header) or any(len(row) != len(header) for row in rows):
        msg = f"{place}: expected the columns {', '.join(header)} in each line; export again"
        raise UsageError(msg)
    return rows[1:]


def events(video: MarkedVideo, num_events: int = 2) -> list[str]:
    """Give s1 e1 s2 e2 of a video, -1 for an event that there is not."""
    numbers = [number for span in video.spans for number in span]
    return [str(number) for number in (numbers + [-1] * (2 * num_events))[: 2 * num_events]]


def sultani_annotation(video: MarkedVideo) -> str:
    """Give a line of Temporal_Anomaly_Annotation.txt: every field is followed by two spaces."""
    # WSAL's Test.py splits at each space and counts on the empty fields between.
    fields = [f"{video.name}.mp4", video.class_name or "Normal", *events(video)]
    return "".join(f"{one}  " for one in fields)
