"""The unit of work of an import: one video of somebody else's files into a shard, stored when it is whole.

It is run by what runs extraction (`run.run_videos`), so that a stopped import goes on and a repeated one does nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NoInputError, VideoError
from ..features.index import load_index
from ..features.keys import as_text, key_of
from ..features.shard_set import CHANGED
from ..features.spool import ClipSpool
from ..features.store import FeatureSet
from .import_source import FilesSource, OpenFiles
from .inputs import Entry
from .job import Outcome
from .run import DryRunLine
from .settling import failed_before, failed_outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.layouts import Place
    from ..features.recipe import Recipe
    from ..features.shard_set import Decision
    from ..features.timeline import ClipTable
    from .extraction import Hint
    from .import_rows import RowRule

REPLACED = "what it is made from changed"
"""The reason of an outcome whose files, or what was said of them, are others than before."""

_TWIN = "another file's video has the same id"

_CURE = re.compile(r"[.;:] (Nothing of this folder was read further; )?(copy|check) [^;:]*$")
"""What a reader's message ends with, which is for one who reads a whole folder."""


@dataclass(frozen=True, slots=True)
class ImportEntry(Entry):
    """One video of a layout. ``num_frames`` is None where nobody counted them; ``frames_from`` is one of `FRAMES_FROM`.

    ``is_twin``: another video of the folder has the same id.
    """

    place: Place
    num_frames: int | None
    frames_from: str
    is_twin: bool = False


@dataclass(frozen=True, slots=True)
class ImportJob:
    """What every video of an import has in common."""

    set_path: Path
    recipe: Recipe
    folder: Path
    layout: str
    rows: RowRule
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    batch: int = 1
    device: str = "cpu"


def import_videos(
    entries: Iterable[Entry],
    jobs: Sequence[ImportJob],
    *,
    hint_of: Callable[[Entry], Hint | None] = lambda _entry: None,
    check: Callable[[], None] = lambda: None,
    may_start: Callable[[int], bool] = lambda _num_started: True,
    **_of_decoding: Any,
) -> Iterator[list[Outcome]]:
    """Do what each video of a layout still needs, one after another; gives its one outcome.

    The parameters are those of `extraction.process_videos`; what concerns decoding is passed over.
    """
    (job,) = jobs
    run = _Run(job, FeatureSet(job.set_path))
    for entry in entries:
        check()
        if not may_start(0):
            return
        if not isinstance(entry, ImportEntry):
            msg = f"expected a video of a layout, got {entry!r}"
            raise TypeError(msg)
        yield [run.outcome(entry, hint_of(entry))]


def would_import(
    feature_set: FeatureSet | None, entries: Sequence[ImportEntry], job: ImportJob
) -> Iterator[DryRunLine]:
    """Say for every video what an import would do, and why. Reads no values, writes nothing.

    ``feature_set`` is None where there is none yet.
    """
    hints = {} if feature_set is None else load_index(feature_set.index_path).sources
    run = _Run(job, feature_set)
    for entry in entries:
        action, reason = run.plan(entry, hints.get(str(entry.path.absolute())))
        yield DryRunLine(entry.id, as_text(str(entry.path)), action, reason)


@dataclass(slots=True)
class _Run:
    """What the videos of an import share. ``shape``: crops and dim of those that are stored, None before the first."""

    job: ImportJob
    feature_set: FeatureSet | None
    files: OpenFiles = field(default_factory=OpenFiles)
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        rows = None if self.feature_set is None else self.feature_set.summaries().rows
        if rows is not None and len(rows):
            self.shape = (int(rows["num_crops"][0]), int(rows["dim"][0]))

    def source(self, entry: ImportEntry, hint: Hint | None) -> FilesSource:
        said = [] if entry.num_frames is None else [f"frames {entry.num_frames} ({entry.frames_from})"]
        said += [] if self.job.rows.fps is None else [f"fps {self.job.rows.fps:g}"]
        return FilesSource(entry.place.files, self.files, ", ".join(said), hint)

    def plan(self, entry: ImportEntry, hint: Hint | None) -> tuple[str, str]:
        """Give the verb and the reason of a `DryRunLine`."""
        if entry.is_twin:
            return "failed", f"KEY_COLLISION: {_TWIN}"
        source = self.source(entry, hint)
        try:
            source.look()
            if self.feature_set is None:
                return "import", "new"
            decision = self._decision(self.feature_set, entry, source)
        except VideoError as error:
            return "failed", f"{error.code}: {error.evidence}"
        return "import" if decision.verb == "extract" else decision.verb, _reason(decision)

    def outcome(self, entry: ImportEntry, hint: Hint | None) -> Outcome:
        """Settle one video."""
        if self.feature_set is None:
            msg = "an import that stores needs a feature set"
            raise TypeError(msg)
        path = str(entry.path)
        if entry.is_twin:
            message = f"{path}: {_TWIN} ({entry.id!r}). No features were written. Rename one of them."
            return Outcome(entry.id, path, "failed", "tried", "KEY_COLLISION", message)
        started, source = time.perf_counter(), self.source(entry, hint)
        try:
            source.look()
            decision = self._decision(self.feature_set, entry, source)
            if decision.verb == "current":
                self.feature_set.forget_failure(entry.id)
                return Outcome(entry.id, path, "current", decision.reason, hint=source.new_hint())
            if decision.verb == "failed before":
                return failed_before(self.feature_set, entry, source)
            table, notes = self._store(self.feature_set, entry, source, replace=decision.verb == "refresh")
        except VideoError as error:
            seconds = time.perf_counter() - started
            return failed_outcome(error, entry, source, self.job, self.feature_set, seconds)
        return Outcome(
            id=entry.id,
            path=path,
            status="done",
            reason=_reason(decision),
            num_frames=table.facts.num_frames_decoded,
            num_clips=len(table.frames),
            seconds=time.perf_counter() - started,
            notes=notes,
            hint=source.new_hint(),
        )

    def _decision(self, feature_set: FeatureSet, entry: ImportEntry, source: FilesSource) -> Decision:
        return feature_set.action(entry.id, source, force=self.job.force, retry_failed=self.job.retry_failed)

    def _store(
        self, feature_set: FeatureSet, entry: ImportEntry, source: FilesSource, *, replace: bool
    ) -> tuple[ClipTable, tuple[str, ...]]:
        values, table = self._read(entry)
        digest = source.sha256()
        source.check_unchanged()
        with ClipSpool(feature_set.tmp, key_of(entry.id), self.job.recipe.dtype) as spool:
            spool.append(values)
            shard = spool.finish(entry.id, table, self._provenance(entry), feature_set.digest, digest)
            published = feature_set.publish(entry.id, shard, replace=replace)
        self.shape = values.shape[1:]
        kept = published.outcome == "first kept"
        return table, ("another run stored different values first; those were kept",) if kept else ()

    def _read(self, entry: ImportEntry) -> tuple[NDArray[np.float32], ClipTable]:
        """Read a video's values and place them. Raises `VideoError` with code ``FEATURES_UNREADABLE``."""
        path = str(entry.path)
        try:
            values = entry.place.load()
            if 0 in values.shape:
                msg = f"its shape {values.shape} (row, crop, feature) holds nothing"
                raise ValueError(msg)
            if self.shape is not None and values.shape[1:] != self.shape:
                ours, theirs = (f"{crops} x {dim}" for crops, dim in (values.shape[1:], self.shape))
                msg = f"it has {ours} (crop, feature), and the set's other videos have {theirs}"
                raise ValueError(msg)
            num_wrong = int((~np.isfinite(values)).sum())
            if num_wrong:
                msg = f"{num_wrong} of its {values.size} values are NaN or infinite"
                raise ValueError(msg)
            return values, self.job.rows.table(len(values), entry.num_frames, entry.frames_from)
        except (ValueError, NoInputError) as error:
            # UsageError is a ValueError; the readers' own begin with the path.
            told = " ".join(str(error).removeprefix(path).removeprefix(":").split())
            raise VideoError("FEATURES_UNREADABLE", path, _CURE.sub("", told)) from error

    def _provenance(self, entry: ImportEntry) -> dict[str, str | int]:
        from importlib.metadata import version

        first = entry.place.files[0].relative_to(self.job.folder).as_posix()
        return {
            "imported_from": as_text(first),
            "files": len(entry.place.files),
            "layout": self.job.layout,
            "vadx": version("vadx"),
        }


def _reason(decision: Decision) -> str:
    return REPLACED if decision.reason == CHANGED else decision.reason
