"""The unit of work for tubes: one video into its detections, tubes and tube features, each stored when it is whole.

Every stage is a set of its own, made from the one before; what is stored and fits is not made again. Detection, which
costs most, goes on in the middle of a video after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ResourceError, UsageError, VideoError
from ..features.keys import key_of
from ..features.shard_set import Decision
from ..features.stage_set import StageRecipe, StageSet
from ..features.stage_shard import build_stage_shard
from .job import Job, Outcome
from .settling import failed_before, failed_outcome
from .source import Source
from .tube_detection import DetectionWork, detect_video
from .tube_shards import (
    describe_counts,
    detections_of,
    facts_of,
    instance_arrays,
    ranked,
    tube_arrays,
    tubes_of,
)

if TYPE_CHECKING:
    from ..detectors.regions import RegionSettings
    from ..detectors.settings import LinkSettings
    from ..extract.isolate import Decoders
    from ..features.stage_shard import StageShard
    from .extraction import Effort, Hint, Ticker
    from .inputs import Entry


@dataclass(frozen=True, slots=True)
class LinkWork:
    """How detections become tubes. ``window`` frames, if it is given, are linked apart from those around them."""

    settings: LinkSettings
    window: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureWork:
    """How tubes become features: ``job`` names the network and how whole frames are prepared."""

    regions: RegionSettings
    job: Job


@dataclass(frozen=True, slots=True)
class StageJob:
    """What every video of a run has in common in one stage. Picklable; holds no open file and no network."""

    set_path: Path
    recipe: StageRecipe
    work: DetectionWork | LinkWork | FeatureWork
    device: str = "cpu"
    batch: int = 1
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class BodyDigest:
    """A source that is known by its sha256 alone: the body of the shard of the stage before."""

    value: str

    def sha256(self) -> str:
        return self.value


@dataclass(slots=True)
class _Run:
    """What the videos of a run share."""

    decoders: Decoders
    on_frames: Ticker | None
    check: Callable[[], None]
    effort: Effort


def process_tubes(
    entries: Iterable[Entry],
    jobs: Sequence[StageJob],
    *,
    num_decoders: int = 0,
    hint_of: Callable[[Entry], Hint | None] = lambda _entry: None,
    on_frames: Ticker | None = None,
    check: Callable[[], None] = lambda: None,
    may_start: Callable[[int], bool] = lambda _num_started: True,
    effort: Effort | None = None,
) -> Iterator[list[Outcome]]:
    """Do what each video still needs, a video at a time; gives an outcome a stage.

    ``jobs`` are stages in their order, from detections on. With ``num_decoders`` a process decodes ahead of the
    detector; its frames, and the results, are those of 0. The rest is as in `extraction.process_videos`.
    """
    from ..extract.isolate import DecodePool, InlineDecoders
    from .extraction import Effort

    effort = effort or Effort()
    began = time.perf_counter()
    with ExitStack() as stack:
        decoders: Decoders = DecodePool(1) if num_decoders else InlineDecoders()
        stack.callback(decoders.close)
        run = _Run(decoders, on_frames, check, effort)
        try:
            for entry in entries:
                check()
                if not may_start(0):
                    return
                yield _process(entry, jobs, Source(entry.path, hint_of(entry)), run)
        finally:
            effort.seconds += time.perf_counter() - began


def _process(entry: Entry, jobs: Sequence[StageJob], source: Source, run: _Run) -> list[Outcome]:
    outcomes: list[Outcome] = []
    before: StageSet | None = None
    for job in jobs:
        started = time.perf_counter()
        stage = StageSet(job.set_path)
        if outcomes and outcomes[-1].status == "failed":
            outcomes.append(_not_reached(outcomes[-1]))
            continue
        try:
            outcomes.append(_settle(entry, job, stage, before, source, run, started))
        except VideoError as error:
            # Only detection's failures are kept: the other stages fail for lack of something that is not the video's.
            outcomes.append(
                failed_outcome(error, entry, source, job, stage, time.perf_counter() - started, remember=before is None)
            )
        before = stage
    return outcomes


def _settle(
    entry: Entry,
    job: StageJob,
    stage: StageSet,
    before: StageSet | None,
    source: Source,
    run: _Run,
    started: float,
) -> Outcome:
    """Make one stage of one video unless it is there; say what became of it."""
    made_from = None if before is None else before.open(entry.id)
    decision = stage.action(
        entry.id,
        source_of(job, entry, source) if made_from is None else BodyDigest(made_from.header.body_sha256),
        force=job.force,
        retry_failed=job.retry_failed,
        strict=job.strict,
        allow_partial=job.allow_partial,
    )
    path = str(entry.path)
    if decision.verb == "current":
        stage.forget_failure(entry.id)
        return Outcome(entry.id, path, "current", decision.reason, hint=source.new_hint())
    if decision.verb == "failed before":
        return failed_before(stage, entry, source)
    shard, notes = _make(entry, job, stage, made_from, source, run)
    stage.publish(entry.id, shard, replace=decision.verb == "refresh")
    return _outcome(entry, job, stage, decision, source, notes, time.perf_counter() - started)


def source_of(job: StageJob, entry: Entry, source: Source) -> Source | BodyDigest:
    """Give what detections are made from: the video, and the file of another detector where they come from one."""
    if isinstance(job.work, DetectionWork) and job.work.files is not None:
        return BodyDigest(job.work.files.source_sha256(entry.id, source.sha256()))
    return source


def _make(
    entry: Entry, job: StageJob, stage: StageSet, made_from: StageShard | None, source: Source, run: _Run
) -> tuple[bytes, list[str]]:
    """Give a stage's shard of a video, and what a person should know of it."""
    if isinstance(job.work, DetectionWork):
        found = detect_video(
            entry,
            source,
            job.work,
            tmp=stage.tmp,
            recipe_digest=stage.digest,
            strict=job.strict,
            allow_partial=job.allow_partial,
            decoders=run.decoders,
            on_frames=run.on_frames,
            check=run.check,
            effort=run.effort,
        )
        digest = source_of(job, entry, source).sha256()
        shard = _shard(entry, stage, found.arrays, found.facts, digest)
        found.done()
        return shard, []
    if made_from is None:
        msg = f"{stage.kind} are made from something, and nothing is there"
        raise RuntimeError(msg)
    run.check()
    if isinstance(job.work, LinkWork):
        arrays, notes = _link(entry, job.work, made_from)
    else:
        arrays, notes = _regions(entry, job, job.work, made_from, source, run), []
    facts = {name: made_from.facts[name] for name in ("video", "source_sha256", "categories", "stride")}
    facts |= _own_facts(job)
    return _shard(entry, stage, arrays, facts, made_from.header.body_sha256), notes


def _own_facts(job: StageJob) -> dict[str, Any]:
    from .job import software_versions

    if not isinstance(job.work, FeatureWork):
        return {}
    from .job import engines_for

    (engine,) = engines_for([job.work.job])
    return {"provenance": {**engine.provenance, **software_versions(job.work.job.recipe)}}


def _shard(
    entry: Entry, stage: StageSet, arrays: Mapping[str, Any], facts: Mapping[str, Any], source_sha256: str
) -> bytes:
    return build_stage_shard(entry.id, key_of(entry.id), stage.kind, arrays, facts, stage.digest, source_sha256)


def _link(entry: Entry, work: LinkWork, made_from: StageShard) -> tuple[dict[str, Any], list[str]]:
    from ..detectors.findings import gap_findings, tube_findings
    from ..detectors.tubes import rank_tubes
    from .tube_linking import link_whole

    detections, video = detections_of(made_from), facts_of(made_from)
    try:
        linked = link_whole(detections, work.settings, window=work.window)
    except ResourceError as error:
        raise VideoError("TUBES_TOO_LARGE", str(entry.path), str(error)) from error
    tubes = [*linked.unary, *linked.multivariate]
    kept = rank_tubes(tubes, rule=work.settings.ranking, max_tubes=work.settings.max_tubes)
    notes = tube_findings(tubes, width=video.width, height=video.height).warnings()
    if work.settings.max_gap == 0 and work.window is None:
        bridged = link_whole(detections, work.settings, max_gap=1, kinds=("unary",)).unary
        notes += gap_findings(linked.unary, bridged).warnings()
    return tube_arrays(tubes, kept, detections.boxes.dtype), notes


def _regions(
    entry: Entry, job: StageJob, work: FeatureWork, made_from: StageShard, source: Source, run: _Run
) -> dict[str, Any]:
    from ..detectors.regions import RegionStream
    from .job import engines_for
    from .tube_detection import blocks_of
    from .whole_frames import WholeFrames

    places, video = ranked(made_from), facts_of(made_from)
    tubes = tubes_of(made_from)
    if not len(places):
        return instance_arrays(places, [])
    if source.sha256() != made_from.facts["source_sha256"]:
        evidence = "it is another file than the one whose tubes are stored"
        raise VideoError("VIDEO_CHANGED_DURING_READ", str(entry.path), evidence)
    (engine,) = engines_for([work.job])
    recipe = work.job.recipe
    stream = RegionStream(
        [tubes[place] for place in places],
        settings=work.regions,
        network=engine,
        prepare=WholeFrames(recipe.transform, engine.device),
        clip_length=recipe.sampling.clip_length,
        size=recipe.transform.crop,
        width=video.width,
        height=video.height,
        num_frames=video.num_frames_decoded,
        device=engine.device,
        network_takes_frames=recipe.network.temporal != "clip",
    )
    try:
        for block in blocks_of(
            entry,
            run.decoders,
            strict=job.strict,
            allow_partial=job.allow_partial,
            on_frames=run.on_frames,
            check=run.check,
            effort=run.effort,
        ):
            began = time.perf_counter()
            stream.push(block.frames)
            run.effort.network_busy += time.perf_counter() - began
        instances = stream.finish()
    except UsageError as error:
        raise VideoError("VIDEO_UNREADABLE", str(entry.path), str(error)) from error
    source.check_unchanged()
    return instance_arrays(places, instances)


def _outcome(
    entry: Entry,
    job: StageJob,
    stage: StageSet,
    decision: Decision,
    source: Source,
    notes: Sequence[str],
    seconds: float,
) -> Outcome:
    stored = stage.open(entry.id)
    video = facts_of(stored)
    lengths = {axis: len(stored.arrays[name]) for name, axis in _COUNTED[stage.kind].items()}
    is_first = isinstance(job.work, DetectionWork)
    return Outcome(
        id=entry.id,
        path=str(entry.path),
        status="degraded" if is_first and video.is_degraded else "done",
        reason=decision.reason,
        num_frames=video.num_frames_decoded if is_first else 0,
        video_seconds=video.num_frames_decoded / video.fps if is_first and video.fps else 0.0,
        seconds=seconds,
        notes=(*(video.degradations() if is_first else ()), *notes),
        hint=source.new_hint(),
        counts=describe_counts(stage.kind, lengths, stored.arrays),
    )


_COUNTED = {
    "detections": {"score": "box"},
    "tubes": {"kind": "tube"},
    "tube-features": {"tube": "instance", "clip_frames": "clip"},
}
"""Kind of a stage -> an array -> the axis that its length is."""


def _not_reached(failed: Outcome) -> Outcome:
    """Give the outcome of a stage whose stage before failed: the same failure."""
    return Outcome(
        failed.id, failed.path, "failed", failed.reason, failed.code, failed.message, retriable=failed.retriable
    )
