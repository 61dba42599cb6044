"""What a video still needs, and what became of it: decisions before the work, outcomes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import CODES, VideoError
from ..features.shard_set import Decision, HashedSource, ShardSet, failure_of
from ..features.store import FeatureSet
from .job import Job, Outcome

if TYPE_CHECKING:
    from ..features.timeline import ClipTable
    from .inputs import Entry
    from .source import Source


class HintedSource(HashedSource, Protocol):
    """What a shard is made of: a video file, or the files that its features are read from."""

    def new_hint(self) -> tuple[int, int, str] | None:
        """Give what saves later runs the hashing; None where it cannot be told."""


class Settings(Protocol):
    """What of a job decides how its failures are told and kept."""

    @property
    def strict(self) -> bool: ...

    @property
    def retry_failed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Task:
    """A job, the ``number``-th of its run, and what a video needs for it."""

    number: int
    job: Job
    feature_set: FeatureSet
    decision: Decision


Result = tuple["ClipTable", tuple[str, ...]] | VideoError
"""What was stored, with notes; or why nothing was."""


def decide(job: Job, feature_set: FeatureSet, entry: Entry, source: Source) -> Decision:
    """Say what a video needs for a job.

    Raises
    ------
    VideoError
        if the file cannot be read.
    """
    return feature_set.action(
        entry.id,
        source,
        force=job.force,
        retry_failed=job.retry_failed,
        strict=job.strict,
        allow_partial=job.allow_partial,
    )


def current_outcome(task: Task, entry: Entry, source: Source) -> Outcome:
    """Give the outcome of a video that is stored already."""
    # Such as of a disk that was not mounted for a while.
    task.feature_set.forget_failure(entry.id)
    return Outcome(entry.id, str(entry.path), "current", task.decision.reason, hint=source.new_hint())


def outcome_of(entry: Entry, source: Source, task: Task, result: Result, seconds: float) -> Outcome:
    """Give the outcome of a video that was worked on, and record it if it failed."""
    if isinstance(result, VideoError):
        return failed_outcome(result, entry, source, task.job, task.feature_set, seconds)
    table, shard_note = result
    return Outcome(
        id=entry.id,
        path=str(entry.path),
        status="degraded" if table.facts.is_degraded else "done",
        reason=task.decision.reason,
        num_frames=table.facts.num_frames_decoded,
        num_clips=len(table.frames),
        video_seconds=float(table.seconds[-1, 1] - table.seconds[0, 0]),
        seconds=seconds,
        notes=(*table.facts.degradations(), *shard_note),
        hint=source.new_hint(),
    )


def failed_outcome(
    error: VideoError,
    entry: Entry,
    source: HintedSource,
    job: Settings,
    feature_set: ShardSet,
    seconds: float,
    *,
    remember: bool = True,
) -> Outcome:
    """Record a failure, unless the same one is on record or it is not to be remembered, and give its outcome."""
    # Errors from inside the pipeline do not know which file they are about.
    told = VideoError(error.code, str(entry.path), error.evidence)
    info = CODES[told.code]
    before = feature_set.failure(entry.id)
    if before is not None and (before.code, before.source) == (told.code, None) and not job.retry_failed:
        # What has no content cannot be told apart by it.
        return failed_before(feature_set, entry, source)
    digest = None
    if remember and not info.retriable:
        try:
            digest = source.sha256()
        except VideoError:
            digest = None
        feature_set.record_failure(failure_of(entry.id, told, digest, strict=job.strict))
    return Outcome(
        id=entry.id,
        path=str(entry.path),
        status="failed",
        reason="tried",
        code=told.code,
        message=str(told),
        seconds=seconds,
        retriable=info.retriable,
        hint=source.new_hint(),
    )


def failed_before(feature_set: ShardSet, entry: Entry, source: HintedSource) -> Outcome:
    """Give the outcome of a video whose failure is on record."""
    record = feature_set.failure(entry.id)
    if record is None:
        msg = f"the failure record of {entry.id} vanished while it was read"
        raise RuntimeError(msg)
    told = VideoError(record.code, str(entry.path), record.evidence)
    return Outcome(entry.id, str(entry.path), "failed", "failed before", record.code, str(told), hint=source.new_hint())
