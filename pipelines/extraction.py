"""The unit of work: one video into one shard. Idempotent, so that it may run twice, anywhere, at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import CODES, VideoError, WeightsError
from ..features.keys import key_of
from ..features.recipe import Recipe
from ..features.spool import ClipSpool
from ..features.store import FeatureSet, failure_of
from .source import Source

if TYPE_CHECKING:
    from ..extract.engine import Engine
    from ..features.timeline import ClipTable
    from .inputs import Entry

Status = Literal["done", "current", "degraded", "failed"]
Ticker = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What every video of a run has in common. Picklable; holds no open file and no network.

    ``weights`` is what the network is loaded with; ``batch`` is fixed, because features are promised bit for bit only
    for one batch shape.
    """

    set_path: Path
    recipe: Recipe
    backbone: str
    weights: str
    device: str
    batch: int
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
    entry: Entry, job: Job, *, hint: tuple[int, int, str] | None = None, on_frames: Ticker | None = None
) -> Outcome:
    """Do what one video still needs, and say what became of it.

    Catches `VideoError` only: anything else is a fault of the run or of vadx, and ends the run.
    """
    started = time.perf_counter()
    feature_set = FeatureSet(job.set_path)
    source = Source(entry.path, hint)
    try:
        decision = feature_set.action(
            entry.id,
            source,
            force=job.force,
            retry_failed=job.retry_failed,
            strict=job.strict,
            allow_partial=job.allow_partial,
        )
        if decision.verb == "current":
            # Such as of a disk that was not mounted for a while.
            feature_set.forget_failure(entry.id)
            return Outcome(entry.id, str(entry.path), "current", decision.reason, hint=source.new_hint())
        if decision.verb == "failed before":
            return _failed_before(feature_set, entry, source)
        table, shard_note = _extract(entry, source, job, feature_set, decision.verb, on_frames)
    except VideoError as error:
        return _fail(error, entry, source, job, feature_set, time.perf_counter() - started)
    notes = (*table.facts.degradations(), *shard_note)
    return Outcome(
        id=entry.id,
        path=str(entry.path),
        status="degraded" if table.facts.is_degraded else "done",
        reason=decision.reason,
        num_frames=table.facts.num_frames_decoded,
        num_clips=len(table.frames),
        video_seconds=float(table.seconds[-1, 1] - table.seconds[0, 0]),
        seconds=time.perf_counter() - started,
        notes=notes,
        hint=source.new_hint(),
    )


def _extract(
    entry: Entry, source: Source, job: Job, feature_set: FeatureSet, verb: str, on_frames: Ticker | None
) -> tuple[ClipTable, tuple[str, ...]]:
    from ..extract.extractor import VideoExtraction
    from ..extract.video import VideoReader

    recipe = job.recipe
    digest = source.sha256()
    with (
        VideoReader(
            entry.path, rotation=recipe.decode.rotation, strict=job.strict, allow_partial=job.allow_partial
        ) as reader,
        ClipSpool(feature_set.tmp, key_of(entry.id), recipe.dtype) as spool,
    ):
        engine = engine_for(job)
        extraction = VideoExtraction(reader, recipe, engine, on_frames=on_frames)
        for values in extraction:
            spool.append(values)
        table = extraction.table()
        source.check_unchanged()
        provenance = {**engine.provenance, **software_versions()}
        shard = spool.finish(entry.id, table, provenance, feature_set.digest, digest)
        published = feature_set.publish(entry.id, shard, replace=verb == "refresh")
    if published.outcome == "first kept":
        return table, ("another run stored different values first; those were kept",)
    return table, ()


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


# One network at a time: a device's memory need not hold two.
_engine: tuple[tuple[str, ...], Engine] | None = None


def engine_for(job: Job) -> Engine:
    """Give this process's engine for a job; the network is loaded once, when the first video needs it.

    Raises
    ------
    WeightsError
        if the weights are missing, or are no longer those of the recipe.
    """
    global _engine  # one network at a time fits into a device's memory
    from ..extract.engine import Engine, pick_device
    from ..extract.library import load_backbone

    recipe = job.recipe
    wanted = (recipe.digest, job.backbone, job.weights, job.device, str(job.batch))
    if _engine is None or _engine[0] != wanted:
        _engine = None
        loaded = load_backbone(job.backbone, job.weights, device=job.device, switches=recipe.network.switches)
        if loaded.weights_sha256 != recipe.weights:
            msg = f"the weights {job.weights} changed while the run was going on; start it again"
            raise WeightsError(msg)
        device = pick_device(job.device)
        made = Engine(loaded.network, recipe.transform, device=device, precision=recipe.precision, batch=job.batch)
        _engine = (wanted, made)
    return _engine[1]


@lru_cache(maxsize=1)
def software_versions() -> dict[str, str]:
    """Give the versions of what computes features, which a shard records."""
    import av

    names = ("vadx", "torch", "torchvision", "av", "numpy", "h5py")
    return {name: version(name) for name in names} | {"ffmpeg": str(av.ffmpeg_version_info)}
