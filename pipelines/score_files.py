"""Scores of frames as files, one a video: those that vadx writes, and those that another program made."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..detectors.detection_files import is_number
from ..errors import NoInputError, UsageError
from ..features.keys import file_of
from ..features.layouts.files import read_npy
from ..features.publish import make_directory, publish_bytes
from .scoring import ScoredVideo

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTION = "--scores-out"
"""What names the folder of `write_score_folder` on the command line."""

_SUFFIX = ".scores"
"""Before the ending of what ``vadx score --csv`` writes into a folder: it is no part of an id."""


def _read_npy(path: Path) -> NDArray[Any]:
    return read_npy(path)


def _read_csv(path: Path) -> NDArray[Any]:
    rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    column = -1
    if rows and not is_number(rows[0][-1]):
        names = [name.strip().lower() for name in rows[0]]
        column = names.index("score") if "score" in names else -1
        rows = rows[1:]
    short = next((row for row in rows if len(row) <= column), None)
    if short is not None:
        msg = f"the line {','.join(short)!r} has no column {column + 1}, the score's"
        raise ValueError(msg)
    return np.array([float(row[column]) for row in rows])


READERS: Mapping[str, Callable[[Path], NDArray[Any]]] = MappingProxyType({".npy": _read_npy, ".csv": _read_csv})
"""Ending -> reader. A CSV has a frame a line, its score in the column ``score``, else in the last."""


def read_score_folder(folder: Path) -> dict[str, ScoredVideo]:
    """Read the scores of frames below a folder: id -> video. The id is the path below the folder without the ending.

    What is known of such a video is its frames' scores alone: it has one segment, all of it, and no times.

    Raises
    ------
    NoInputError
        if there is no such folder, or no file of `READERS` in it.
    UsageError
        naming the file that holds no scores between 0 and 1, or that is the second of one video.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder}; name the one that holds ID.npy or ID.csv of each video"
        raise NoInputError(msg)
    found: dict[str, ScoredVideo] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in READERS or not path.is_file() or any(part.startswith(".") for part in parts):
            continue
        identifier = path.relative_to(folder).with_suffix("").as_posix().removesuffix(_SUFFIX)
        if identifier in found:
            msg = f"{path}: another file of this folder is of {identifier} too; leave one of them out"
            raise UsageError(msg)
        found[identifier] = _video(identifier, path)
    if not found:
        msg = f"{folder} holds no {' or '.join(READERS)} file; write ID.npy with one score a frame for each video"
        raise NoInputError(msg)
    return found


def _video(identifier: str, path: Path) -> ScoredVideo:
    try:
        values = READERS[path.suffix.lower()](path)
        scores = np.atleast_1d(np.squeeze(values))
        num_wrong = int((~np.isfinite(scores)).sum())
    except (OSError, ValueError, IndexError, TypeError, csv.Error) as error:
        reason = str(error).removeprefix(f"{path} ")
        msg = f"{path}: holds no scores ({reason}); write one number a frame, as numpy.save or a line each"
        raise UsageError(msg) from error
    if num_wrong:
        msg = f"{path}: {num_wrong} of its {scores.size} scores are NaN or infinite; give every frame a number"
        raise UsageError(msg)
    if scores.ndim != 1 or not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
        between = f", between {scores.min()} and {scores.max()}" if scores.size else ""
        msg = (
            f"{path}: expected one score a frame, from 0 to 1, got {values.shape}{between}; map all videos' scores "
            f"into [0, 1] by one rising function, which changes no area"
        )
        raise UsageError(msg)
    whole = np.array([[0, len(scores)]])
    scores = scores.astype(np.float32)
    return ScoredVideo(identifier, whole, scores.max(keepdims=True), scores, whole.astype(np.float64))


def write_score_folder(folder: Path, videos: Iterable[ScoredVideo]) -> int:
    """Write ``ID.npy`` of each video, float32, a score for each decoded frame. Gives how many.

    Raises
    ------
    StoreWriteError
        if the disk refused.
    """
    count = 0
    for video in videos:
        path = file_of(folder, video.id, ".npy")
        make_directory(path.parent, option=OPTION)
        data = io.BytesIO()
        np.save(data, video.frame_scores, allow_pickle=False)
        publish_bytes(data.getvalue(), path, path.parent, replace=True, option=OPTION)
        count += 1
    return count
