"""Videos through a model: extracted where they are not stored yet, scored, and written and drawn as was asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, VideoError
from ..features.keys import file_of
from .score_overlay import write_score_overlay
from .score_plot import PLOT_FORMATS, write_plot
from .score_video import Interval, find_intervals, write_csv
from .scoring import ScoredVideo, score_clips
from .tube_pictures import disk_errors
from .tube_scoring import score_tubes, with_tubes

if TYPE_CHECKING:
    from ..features.stage_set import StageSet
    from ..features.store import FeatureSet
    from ..features.timeline import VideoFacts
    from .inputs import Entry
    from .methods.mgpr import ScoredTubes
    from .model_folder import Model

FILES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"csv": (".csv",), "plot": tuple(PLOT_FORMATS), "overlay": (".mp4",)}
)
"""What can be written of a video -> how such files end; in a folder they are ``ID.scores`` and the first of these."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for of each video: intervals of ``threshold``, and files.

    ``targets`` maps names of `FILES` to a file, or to a folder: one that is there, or a name without an ending.
    """

    threshold: float
    targets: Mapping[str, Path]
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a model found in a video: its scores, intervals and written files; or ``failure``, a message, and nothing of
    these. ``notes`` say what is wrong with the video; ``path`` is its file, None where only features are known.
    """

    id: str
    path: Path | None
    video: ScoredVideo | None = None
    intervals: tuple[Interval, ...] = ()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str | None = None
    code: str | None = None


def check_targets(targets: Mapping[str, Path], entries: Iterable[Entry], num_videos: int) -> None:
    """Raise `UsageError`, before any work, for files that cannot be written as they are named."""
    for name, path in targets.items():
        if _is_folder(path):
            continue
        if num_videos > 1:
            folder = f"{path.with_suffix('')}/"
            msg = f"--{name} {path} is one file, and there are {num_videos} videos: give a folder, {folder}"
            raise UsageError(msg)
        if path.suffix.lower() not in FILES[name]:
            msg = f"--{name} {path}: give a folder, or a file that ends in {' or '.join(FILES[name])}"
            raise UsageError(msg)
        if not path.parent.is_dir():
            msg = f"--{name} {path}: there is no folder {path.parent}: make it first, mkdir -p {path.parent}"
            raise UsageError(msg)
        if any(path.exists() and entry.path.exists() and path.samefile(entry.path) for entry in entries):
            msg = f"--{name} {path} is the video itself, which would be gone: give another file"
            raise UsageError(msg)


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not (path.suffix or path.exists())


def find_in(
    model: Model,
    feature_set: FeatureSet,
    videos: Mapping[str, Path | None],
    wanted: Wanted,
    *,
    tubes: tuple[StageSet, StageSet] | None = None,
) -> Iterator[Found]:
    """Score stored videos, id -> file, one after the other, and write what is wanted of each.

    A video that cannot be scored or drawn is a `Found` with its failure. ``tubes`` are sets of features of tubes and of
    the tubes themselves.

    Raises
    ------
    StoreError
        if a shard is damaged, or the disk refuses.
    """
    for identifier, path in videos.items():
        try:
            clips = feature_set[identifier]
            scored = score_clips(model, clips, identifier)
            of_tubes = None
            if tubes is not None:
                of_tubes = score_tubes(model, *tubes, identifier)
                scored = with_tubes(scored, of_tubes)
            intervals = find_intervals(scored, wanted.threshold)
            files = tuple(_write(scored, intervals, _Source(path, clips.facts, feature_set), wanted, of_tubes))
        except UsageError as error:
            yield Found(identifier, path, failure=str(error))
        except VideoError as error:
            yield Found(identifier, path, failure=str(error), code=error.code)
        else:
            yield Found(identifier, path, scored, intervals, files, tuple(clips.facts.degradations()))


@dataclass(frozen=True, slots=True)
class _Source:
    """The file of a video, None where there is none, and how it was decoded for its features."""

    path: Path | None
    facts: VideoFacts
    feature_set: FeatureSet


def _write(
    scored: ScoredVideo, intervals: tuple[Interval, ...], source: _Source, wanted: Wanted, tubes: ScoredTubes | None
) -> Iterator[Path]:
    for name, target in wanted.targets.items():
        file = _place(target, scored.id, FILES[name][0])
        if name == "csv":
            write_csv(file, scored)
        elif name == "plot":
            write_plot(file, scored, intervals, wanted.threshold, caption=wanted.caption)
        elif source.path is not None:
            _draw(file, source.path, scored, source, wanted.threshold, tubes)
        yield file


def _draw(
    file: Path, path: Path, scored: ScoredVideo, source: _Source, threshold: float, tubes: ScoredTubes | None
) -> None:
    from ..extract.video import VideoReader

    facts, rotation = source.facts, source.feature_set.recipe.decode.rotation
    with VideoReader(path, rotation=rotation, allow_partial=facts.partial) as blocks:
        write_score_overlay(file, blocks, scored, fps=facts.fps, threshold=threshold, tubes=tubes)


def _place(target: Path, identifier: str, suffix: str) -> Path:
    """Give the file that is meant: in a folder never one of a video's own name, which may lie there too."""
    if not _is_folder(target):
        return target
    path = file_of(target, identifier, f".scores{suffix}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def failure_mapping(found: Found) -> dict[str, Any]:
    """Give a failure as plain JSON."""
    path = None if found.path is None else str(found.path)
    return {"id": found.id, "path": path, "code": found.code, "message": found.failure}
