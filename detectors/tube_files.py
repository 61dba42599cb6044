"""Tubes for other programs: MOT, COCO results, plain CSV."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import UsageError
from .coco_names import label_name
from .tubes import ANY_LABEL, Tube

CSV_HEADER = "tube,kind,label,name,frame,x1,y1,x2,y2,score,interpolated,members"


def tube_lines(tubes: Iterable[Tube], format: str) -> Iterator[str]:
    """Give a file's lines without their ends, one a box; tubes are numbered from 1 in the order given.

    ``mot``: ``frame,id,x,y,w,h,score,-1,-1,-1``, frames and pixels counted from 1, in thousandths of a pixel, sorted
    by tube; it has no column for category or kind. ``coco``: result entries with ``track_id``, ``kind`` and
    ``interpolated`` beside COCO's own, image_id being the source frame. ``csv``: a table with a header, which reads
    back to the very same numbers.

    Raises
    ------
    UsageError
        for another format.
    """
    if format not in TUBE_FORMATS:
        msg = f"tubes are not written as {format!r}: give --format {'|'.join(TUBE_FORMATS)}"
        raise UsageError(msg)
    return TUBE_FORMATS[format](tubes)


def write_tubes(path: str | os.PathLike[str], tubes: Iterable[Tube], *, format: str) -> None:
    """Write tubes as `tube_lines` gives them. The file appears when it is whole, and replaces one of its name.

    Raises
    ------
    UsageError
        for an unknown format, or a folder that is not there.
    """
    target = Path(path)
    lines = tube_lines(tubes, format)
    if not target.parent.is_dir():
        msg = f"{target}: there is no folder {target.parent}: make it first, mkdir -p {target.parent}"
        raise UsageError(msg)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _mot(tubes: Iterable[Tube]) -> Iterator[str]:
    for number, tube in enumerate(tubes, 1):
        for frame, (x1, y1, x2, y2), score in zip(
            tube.frames.tolist(), tube.boxes.tolist(), tube.scores.tolist(), strict=True
        ):
            box = ",".join(_thousandths(value) for value in (x1 + 1, y1 + 1, x2 - x1, y2 - y1))
            yield f"{frame + 1},{number},{box},{score:.6g},-1,-1,-1"


def _thousandths(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _coco(tubes: Iterable[Tube]) -> Iterator[str]:
    before = "["
    for number, tube in enumerate(tubes, 1):
        interpolated = tube.interpolated.tolist()
        for place, frame in enumerate(tube.frames.tolist()):
            x1, y1, x2, y2 = tube.boxes[place].tolist()
            entry = {
                "image_id": frame,
                "category_id": tube.label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(tube.scores[place]),
                "track_id": number,
                "kind": tube.kind,
                "interpolated": interpolated[place],
            }
            yield before + json.dumps(entry)
            before = ","
    yield "]" if before == "," else "[]"


def _csv(tubes: Iterable[Tube]) -> Iterator[str]:
    yield CSV_HEADER
    for number, tube in enumerate(tubes, 1):
        name = "any" if tube.label == ANY_LABEL else label_name(tube.label)
        members = tube.members
        interpolated = tube.interpolated.tolist()
        for place, frame in enumerate(tube.frames.tolist()):
            box = ",".join(map(repr, tube.boxes[place].tolist()))
            score = repr(float(tube.scores[place]))
            rows = members[place].tolist()
            own = " ".join(map(str, rows)) if isinstance(rows, list) else str(rows)
            yield f"{number},{tube.kind},{tube.label},{name},{frame},{box},{score},{int(interpolated[place])},{own}"


TUBE_FORMATS: Mapping[str, Callable[[Iterable[Tube]], Iterator[str]]] = MappingProxyType(
    {"mot": _mot, "coco": _coco, "csv": _csv}
)
"""Name -> what gives a file's lines."""
