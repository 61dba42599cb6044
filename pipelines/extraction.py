"""The unit of work: one video into one shard. Idempotent, so that it may run twice, anywhere, at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import CODES, VideoError, WeightsError
from ..extract.engines import DEFAULT_ENGINE
from ..features.keys import key_of
from ..features.recipe import Decode, Recipe
from ..features.spool import ClipSpool
from ..features.store import Decision, FeatureSet, failure_of
from .source import Source

if TYPE_CHECKING:
    from ..extract.engine import Engine
    from ..extract.extractor import SharedExtraction
    from ..features.timeline import ClipTable
    from .inputs import Entry

Status = Literal["done", "current", "degraded", "failed"]
Ticker = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What every video of a run has in common. Picklable; holds no open file and no network.

    ``weights`` is what the network is loaded with; ``batch`` and ``engine`` are fixed, because features are promised
    bit for bit only for one batch shape and one engine.
    """

    set_path: Path
    recipe: Recipe
    backbone: str
    weights: str
    device: str
    batch: int
    engine: str = DEFAULT_ENGINE
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one video.

    ``reason`` says why it was, or was not, worked on; ``notes`` what a person should know of a degraded one.
    ``seconds`` is the time it took, ``video_seconds`` its own length.
    """

    id: str
    path: str
    status: Status
    reason: str
    code: str | None = None
    message: str | None = None
    num_frames: int = 0
    num_clips: int = 0
    video_seconds: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    retriable: bool = False
    hint: tuple[int, int, str] | None = field(default=None, repr=False)


def process_video(
    entry: Entry,
    jobs: Sequence[Job],
    *,
    hint: tuple[int, int, str] | None = None,
    on_frames: Ticker | None = None,
) -> list[Outcome]:
    """Do what one video still needs for each job, decoding it once, and say what became of it: an outcome a job.

    Catches `VideoError` only: anything else is a fault of the run or of vadx, and ends the run.
    """
    started = time.perf_counter()
    source = Source(entry.path, hint)
    outcomes: dict[int, Outcome] = {}
    to_do: list[_Task] = []
    for number, job in enumerate(jobs):
        feature_set = FeatureSet(job.set_path)
        try:
            decision = feature_set.action(
                entry.id,
                source,
                force=job.force,
                retry_failed=job.retry_failed,
                strict=job.strict,
                allow_partial=job.allow_partial,
            )
        except VideoError as error:
            outcomes[number] = _fail(error, entry, source, job, feature_set, time.perf_counter() - started)
            continue
        if decision.verb == "current":
            # Such as of a disk that was not mounted for a while.
            feature_set.forget_failure(entry.id)
            outcomes[number] = Outcome(entry.id, str(entry.path), "current", decision.reason, hint=source.new_hint())
        elif decision.verb == "failed before":
            outcomes[number] = _failed_before(feature_set, entry, source)
        else:
            to_do.append(_Task(number, job, feature_set, decision))
    for alike in _decoded_alike(to_do):
        for task, result in zip(alike, _extract(entry, source, alike, jobs, on_frames), strict=True):
            outcomes[task.number] = _outcome(entry, source, task, result, time.perf_counter() - started)
    return [outcomes[number] for number in range(len(jobs))]


@dataclass(frozen=True, slots=True)
class _Task:
    """A job that a video still needs."""

    number: int
    job: Job
    feature_set: FeatureSet
    decision: Decision


_Result = tuple["ClipTable", tuple[str, ...]] | VideoError
"""What was stored, with notes; or why nothing was."""


def _decoded_alike(tasks: Sequence[_Task]) -> list[list[_Task]]:
    """Group tasks whose recipes want the same decoded frames."""
    groups: dict[Decode, list[_Task]] = {}
    for task in tasks:
        groups.setdefault(task.job.recipe.decode, []).append(task)
    return list(groups.values())


def _extract(
    entry: Entry, source: Source, tasks: Sequence[_Task], jobs: Sequence[Job], on_frames: Ticker | None
) -> list[_Result]:
    from ..extract.clip_stream import wants_native
    from ..extract.extractor import SharedExtraction
    from ..extract.video import VideoReader

    first = tasks[0].job
    try:
        digest = source.sha256()
        with ExitStack() as stack:
            reader = stack.enter_context(
                VideoReader(
                    entry.path,
                    rotation=first.recipe.decode.rotation,
                    strict=first.strict,
                    allow_partial=first.allow_partial,
                    keep_native=any(wants_native(task.job.recipe) for task in tasks),
                )
            )
            spools = [
                stack.enter_context(ClipSpool(t.feature_set.tmp, key_of(entry.id), t.job.recipe.dtype)) for t in tasks
            ]
            engines = engines_for([task.job for task in tasks], jobs)
            recipes = [task.job.recipe for task in tasks]
            extraction = SharedExtraction(reader, list(zip(recipes, engines, strict=True)), on_frames=on_frames)
            for number, values in extraction:
                try:
                    spools[number].append(values)
                except VideoError as error:
                    extraction.fail(number, error)
            source.check_unchanged()
            return [
                _publish(entry, task, extraction, number, spools[number], engines[number], digest)
                for number, task in enumerate(tasks)
            ]
    except VideoError as error:
        return [error for _ in tasks]


def _publish(
    entry: Entry,
    task: _Task,
    extraction: SharedExtraction,
    number: int,
    spool: ClipSpool,
    engine: Engine,
    source_sha256: str,
) -> _Result:
    try:
        table = extraction.table(number)
        provenance = {**engine.provenance, **software_versions(task.job.recipe)}
        shard = spool.finish(entry.id, table, provenance, task.feature_set.digest, source_sha256)
    except VideoError as error:
        return error
    published = task.feature_set.publish(entry.id, shard, replace=task.decision.verb == "refresh")
    if published.outcome == "first kept":
        return table, ("another run stored different values first; those were kept",)
    return table, ()


def _outcome(entry: Entry, source: Source, task: _Task, result: _Result, seconds: float) -> Outcome:
    if isinstance(result, VideoError):
        return _fail(result, entry, source, task.job, task.feature_set, seconds)
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


def _fail(
    error: VideoError, entry: Entry, source: Source, job: Job, feature_set: FeatureSet, seconds: float
) -> Outcome:
    # Errors from inside the pipeline do not know which file they are about.
    told = VideoError(error.code, str(entry.path), error.evidence)
    info = CODES[told.code]
    before = feature_set.failure(entry.id)
    if before is not None and (before.code, before.source) == (told.code, None) and not job.retry_failed:
        # What has no content cannot be told apart by it.
        return _failed_before(feature_set, entry, source)
    digest = None
    if not info.retriable:
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


def _failed_before(feature_set: FeatureSet, entry: Entry, source: Source) -> Outcome:
    record = feature_set.failure(entry.id)
    if record is None:
        msg = f"the failure record of {entry.id} vanished while it was read"
        raise RuntimeError(msg)
    told = VideoError(record.code, str(entry.path), record.evidence)
    return Outcome(entry.id, str(entry.path), "failed", "failed before", record.code, str(told), hint=source.new_hint())


def _engine_key(job: Job) -> tuple[str, ...]:
    return (job.recipe.digest, job.backbone, job.weights, job.device, str(job.batch), job.engine)


_engines: dict[tuple[str, ...], Engine] = {}


def engines_for(jobs: Sequence[Job], run: Sequence[Job] = ()) -> list[Engine]:
    """Give this process's engines for jobs; a network is loaded once, when the first video needs it.

    Those of ``run``, all jobs of the run, are kept.

    Raises
    ------
    WeightsError
        if the weights are missing, or are no longer those of the recipe.
    """
    from ..extract.library import load_backbone, make_engine

    wanted = [_engine_key(job) for job in jobs]
    for key in _engines.keys() - {_engine_key(job) for job in (*jobs, *run)}:
        # A device's memory need not hold the networks of another run.
        del _engines[key]
    for key, job in zip(wanted, jobs, strict=True):
        if key in _engines:
            continue
        loaded = load_backbone(job.backbone, job.weights, device=job.device, switches=job.recipe.network.switches)
        if loaded.weights_sha256 != job.recipe.weights:
            msg = f"the weights {job.weights} changed while the run was going on; start it again"
            raise WeightsError(msg)
        _engines[key] = make_engine(loaded, job.recipe, device=job.device, batch=job.batch, engine=job.engine)
    return [_engines[key] for key in wanted]


@lru_cache(maxsize=16)
def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in names}


def software_versions(recipe: Recipe | None = None) -> dict[str, str]:
    """Give the versions of what computes features, a recipe's own libraries among them, which a shard records."""
    import av

    names = ["vadx", "torch", "torchvision", "av", "numpy", "h5py", "pillow"]
    names += ["timm"] if recipe is not None and recipe.network.name.startswith("tsn:timm/") else []
    found = _versions(tuple(names)) | {"ffmpeg": str(av.ffmpeg_version_info)}
    flow = None if recipe is None else recipe.flow
    if flow is not None and flow.method in ("tvl1", "farneback"):
        import cv2

        # Four packages carry it, under as many names.
        found["opencv"] = str(cv2.__version__)
    return found
