"""The unit of work for tubes: one video into its detections, tubes and tube features, each stored when it is whole.

Every stage is a set of its own, made from the one before; what is stored and fits is not made again. Detection, which
costs most, goes on in the middle of a video after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ResourceError, ShardError, UsageError, VideoError
from ..features.keys import key_of
from ..features.shard import read_header
from ..features.shard_set import CHANGED, Decision
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
    from ..extract.decode_limits import DecodeLimits
    from ..extract.isolate import Decoders
    from ..features.shard_set import HashedSource
    from ..features.stage_shard import StageShard
    from .extraction import Effort, Hint, Ticker
    from .inputs import Entry


@dataclass(frozen=True, slots=True)
class LinkWork:
    """How detections become tubes. ``window`` frames, if it is given, are linked apart from those around them."""

    settings: LinkSettings
    window: int | None = None
    is_from_file = False


@dataclass(frozen=True, slots=True)
class FeatureWork:
    """How tubes become features: ``job`` names the network and how whole frames are prepared."""

    regions: RegionSettings
    job: Job
    is_from_file = False


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
    decode_limits: DecodeLimits | None = None,
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
        decoders: Decoders = DecodePool(1, limits=decode_limits) if num_decoders else InlineDecoders()
        stack.callback(decoders.close)
        run = _Run(decoders, on_frames, check, effort)
        stages = [StageSet(job.set_path) for job in jobs]
        try:
            for entry in entries:
                check()
                if not may_start(0):
                    return
                yield _Video(entry, Source(entry.path, hint_of(entry)), jobs, stages, run).settle()
        finally:
            effort.seconds += time.perf_counter() - began


@dataclass(slots=True)
class _Video:
    """One video on its way through the stages; ``outcomes`` has one for each that is settled."""

    entry: Entry
    source: Source
    jobs: Sequence[StageJob]
    stages: Sequence[StageSet]
    run: _Run
    outcomes: list[Outcome] = field(default_factory=list)

    def settle(self) -> list[Outcome]:
        """Make what is missing of each stage, and give what became of it."""
        while len(self.outcomes) < len(self.jobs):
            self.outcomes.append(self._outcome_of(len(self.outcomes)))
        return self.outcomes

    def _outcome_of(self, number: int) -> Outcome:
        if number and self.outcomes[number - 1].status == "failed":
            return _not_reached(self.outcomes[number - 1])
        started = time.perf_counter()
        try:
            return self._made(number, started)
        except ShardError as error:
            before = self.stages[number - 1] if number else None
            if before is None or Path(error.path) != before.shard_path(self.entry.id):
                raise
            # Its header looked whole, so only reading it shows that it must be made again.
            before.remember_damage(Path(error.path), error)
            self.outcomes[number - 1] = self._outcome_of(number - 1)
            return self._outcome_of(number)
        except VideoError as error:
            # Only detection's failures are kept: the other stages fail for lack of something that is not the video's.
            seconds = time.perf_counter() - started
            job, stage = self.jobs[number], self.stages[number]
            return failed_outcome(error, self.entry, self.source, job, stage, seconds, remember=not number)

    def _made(self, number: int, started: float) -> Outcome:
        entry, job, stage = self.entry, self.jobs[number], self.stages[number]
        decision = stage.action(
            entry.id,
            self._made_from(number),
            force=job.force,
            retry_failed=job.retry_failed,
            strict=job.strict,
            allow_partial=job.allow_partial,
        )
        if decision.verb == "current":
            stage.forget_failure(entry.id)
            return Outcome(entry.id, str(entry.path), "current", decision.reason, hint=self.source.new_hint())
        if decision.verb == "failed before":
            return failed_before(stage, entry, self.source)
        if decision.reason == CHANGED and (number or job.work.is_from_file):
            decision = replace(decision, reason="what it is made from changed")
        made = self._make(number)
        stage.publish(entry.id, made.shard, replace=decision.verb == "refresh")
        made.done()
        return _outcome(entry, job, stage, decision, self.source, made.notes, time.perf_counter() - started)

    def _made_from(self, number: int) -> HashedSource:
        """Give what a stage is made from: the video, with the file of its boxes, or the stage before."""
        if number == 0:
            return source_of(self.jobs[0].work, self.entry, self.source)
        path = self.stages[number - 1].shard_path(self.entry.id)
        try:
            return BodyDigest(read_header(path).body_sha256)
        except FileNotFoundError as error:
            raise ShardError(str(path), "unreadable", "it is no longer there") from error

    def _make(self, number: int) -> _Made:
        entry, job, stage, run = self.entry, self.jobs[number], self.stages[number], self.run
        if isinstance(job.work, DetectionWork):
            found = detect_video(
                entry,
                self.source,
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
            return _Made(_shard(entry, stage, found.arrays, found.facts, found.made_from), done=found.done)
        run.check()
        made_from = stage_shard(self.stages[number - 1], entry.id)
        notes: list[str] = []
        if isinstance(job.work, LinkWork):
            arrays, notes = _link(entry, job.work, made_from)
        else:
            arrays = _regions(entry, job, job.work, made_from, self.source, run)
        facts = {name: made_from.facts[name] for name in ("video", "source_sha256", "categories", "stride")}
        facts |= _own_facts(job)
        return _Made(_shard(entry, stage, arrays, facts, made_from.header.body_sha256), notes)


@dataclass(frozen=True, slots=True)
class _Made:
    """A shard to publish, what a person should know of it, and what is to be done once it stands."""

    shard: bytes
    notes: Sequence[str] = ()
    done: Callable[[], None] = lambda: None


def stage_shard(stage: StageSet, identifier: str) -> StageShard:
    """Read a shard that must be there. Raises `ShardError` if it is damaged or gone."""
    try:
        return stage.open(identifier)
    except KeyError as error:
        raise ShardError(str(stage.shard_path(identifier)), "unreadable", "it is no longer there") from error


def source_of(work: DetectionWork | LinkWork | FeatureWork, entry: Entry, source: Source) -> HashedSource:
    """Give what detections are made from: the video, and the file of another detector where they come from one."""
    if isinstance(work, DetectionWork) and work.files is not None:
        return BodyDigest(work.files.source_sha256(entry.id, source.sha256()))
    return source


def _own_facts(job: StageJob) -> dict[str, Any]:
    from .job import engines_for, software_versions

    if not isinstance(job.work, FeatureWork):
        return {}
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
        # More boxes hang together over gaps; a warning is not worth the video.
        with suppress(ResourceError):
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
            # What was accepted before is accepted again: its tubes end where it did.
            allow_partial=job.allow_partial or video.partial,
            on_frames=run.on_frames,
            check=run.check,
            effort=run.effort,
        ):
            began = time.perf_counter()
            stream.push(block.frames)
            run.effort.network_busy += time.perf_counter() - began
        instances = stream.finish()
    except UsageError as error:
        raise VideoError("TUBES_WITHOUT_REGIONS", str(entry.path), str(error)) from error
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
