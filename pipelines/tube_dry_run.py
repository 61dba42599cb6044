"""What ``vadx tubes`` would do with each video, stage by stage, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ShardError, VideoError
from ..extract.files import check_file
from ..features.index import load_index
from ..features.keys import as_text
from ..features.store import Store
from .run import DryRunLine
from .source import Source
from .tube_detection import DetectionWork
from .tubing import BodyDigest

if TYPE_CHECKING:
    from ..features.shard_set import HashedSource
    from ..features.stage_set import StageSet
    from .inputs import Entry
    from .tube_plan import StagePlan


def would_do(
    entries: Sequence[Entry], plans: Sequence[StagePlan], store: Path, flags: Mapping[str, bool]
) -> Iterator[tuple[StagePlan, DryRunLine]]:
    """Give a line for each stage of each video. Decodes nothing, writes nothing."""
    stages = [Store(store).find_stage(plan.recipe) for plan in plans]
    hints = {} if stages[0] is None else load_index(stages[0].index_path).sources
    for entry in entries:
        source = Source(entry.path, hints.get(str(entry.path.absolute())))
        before: DryRunLine | None = None
        for number, (plan, stage) in enumerate(zip(plans, stages, strict=True)):
            made_from = stages[number - 1] if number else None
            before = _line(entry, source, plan, stage, made_from, before, flags)
            yield plan, before


def _line(
    entry: Entry,
    source: Source,
    plan: StagePlan,
    stage: StageSet | None,
    made_from: StageSet | None,
    before: DryRunLine | None,
    flags: Mapping[str, bool],
) -> DryRunLine:
    path = as_text(str(entry.path))
    if before is not None and before.action in ("failed", "failed before"):
        return DryRunLine(entry.id, path, before.action, before.reason)
    if before is not None and before.action != "current":
        return DryRunLine(entry.id, path, "extract", "made from what comes before it")
    try:
        check_file(entry.path)
        if stage is None:
            return DryRunLine(entry.id, path, "extract", "new")
        digest: HashedSource = source
        if made_from is not None:
            digest = BodyDigest(made_from.open(entry.id).header.body_sha256)
        elif isinstance(plan.work, DetectionWork) and plan.work.files is not None:
            digest = BodyDigest(plan.work.files.source_sha256(entry.id, source.sha256()))
        decision = stage.action(entry.id, digest, **flags)
    except VideoError as error:
        return DryRunLine(entry.id, path, "failed", f"{error.code}: {error.evidence}")
    except ShardError as error:
        return DryRunLine(entry.id, path, "extract", f"what comes before it is damaged ({error.damage})")
    return DryRunLine(entry.id, path, decision.verb, decision.reason)
