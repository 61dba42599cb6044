"""What ``vadx ls`` and ``vadx info`` say of detections, tubes and tube features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import UsageError
from ...features.stage_set import COUNTED
from .common import human_bytes, print_json, print_table

if TYPE_CHECKING:
    from ...features.stage_set import StageSet

STAGE_HEADERS = ["SET", "HOLDS", "VIDEOS", "FAILED", "IN ALL", "SIZE"]

_PLURAL = {"box": "boxes", "tube": "tubes", "instance": "instances"}


def stage_summary(stage: StageSet) -> dict[str, Any]:
    rows = stage.summaries().rows
    return {
        "name": stage.name,
        "kind": stage.kind,
        "videos": len(rows),
        "failed": len(stage.failures()),
        _PLURAL[COUNTED[stage.kind]]: int(rows["num_clips"].sum()),
        "bytes": int(rows["bytes"].sum()),
    }


def stage_row(summary: dict[str, Any]) -> list[str]:
    from ..progress import printable

    what = _PLURAL[COUNTED[summary["kind"]]]
    counts = [str(summary["videos"]), str(summary["failed"]), f"{summary[what]} {what}"]
    return [printable(summary["name"]), summary["kind"], *counts, human_bytes(summary["bytes"])]


def list_stage(stage: StageSet, *, as_json: bool, quiet: bool) -> None:
    from ..progress import harmless, printable

    listed, failures = stage.summaries(), stage.failures()
    what = _PLURAL[COUNTED[stage.kind]]
    if quiet:
        for identifier in listed:
            click.echo(harmless(identifier))
    elif as_json:
        videos = [
            {"id": one.id, what: one.num_clips, "frames": one.num_frames, "bytes": one.bytes} for one in listed.values()
        ]
        print_json({"videos": videos, "failed": [{"id": f.id, "code": f.code, "path": f.path} for f in failures]})
    else:
        rows = [[printable(one.id), str(one.num_clips), str(one.num_frames), ""] for one in listed.values()]
        rows += [[printable(f.id), "-", "-", f.code] for f in failures]
        print_table(["ID", what.upper(), "FRAMES", "NOTE"], rows)


def info_stage(stage: StageSet, *, as_json: bool) -> None:
    from ...features.recipe import Recipe
    from ..progress import printable
    from ..prose import prose

    summary = stage_summary(stage)
    if as_json:
        print_json({**summary, "digest": stage.digest, "recipe": stage.recipe.to_mapping(), "path": str(stage.path)})
        return
    what = _PLURAL[COUNTED[stage.kind]]
    click.echo(printable(stage.name))
    click.echo(f"  holds    {stage.kind} of {summary['videos']} videos: {summary[what]} {what}")
    settings = dict(stage.recipe.settings)
    if "network" in settings:
        recipe = Recipe.from_mapping(settings.pop("network"))
        click.echo(printable(f"  network  {prose(recipe)}"))
        click.echo(printable(f"  weights  {stage.weights_name or 'not of the table'}, sha256 {recipe.weights}"))
    for name, value in sorted({**settings, **settings.pop("regions", {})}.items()):
        if value is not None and not isinstance(value, dict):
            click.echo(printable(f"  {name.replace('_', ' '):<24} {value}"))
    click.echo(f"  digest   {stage.digest}")
    if stage.recipe.after is not None:
        click.echo(printable(f"  made of  the set with digest {stage.recipe.after}"))
    click.echo(f"  failed   {summary['failed']}; {human_bytes(summary['bytes'])}")
    click.echo(printable(f"  folder   {stage.path}"))


def info_stage_video(stage: StageSet, identifier: str, *, as_json: bool) -> None:
    from ..progress import printable

    try:
        facts = _describe(stage, identifier)
    except KeyError as error:
        record = stage.failure(identifier)
        if record is None:
            raise UsageError(str(error.args[0])) from error
        facts = {"status": "failed", "code": record.code, "evidence": record.evidence}
    if as_json:
        print_json({"id": identifier, **facts})
        return
    click.echo(printable(identifier))
    for name, value in facts.items():
        click.echo(f"  {name.replace('_', ' '):<26} {printable(str(value))}")


def _describe(stage: StageSet, identifier: str) -> dict[str, Any]:
    from ..tube_shards import categories_of, facts_of, tubes_of

    shard = stage.open(identifier)
    video = facts_of(shard)
    facts: dict[str, Any] = {
        "video": f"{video.width}x{video.height}, {video.fps:.3f} frames/s",
        "frames": video.num_frames_decoded,
    }
    if stage.kind == "detections":
        facts |= _describe_boxes(shard.arrays, shard.facts["categories"])
    elif stage.kind == "tubes":
        facts |= _describe_tubes(tubes_of(shard), categories_of(shard), video.width, video.height)
    else:
        arrays = shard.arrays
        facts |= {
            "instances": len(arrays["tube"]),
            "clips": len(arrays["clip_frames"]),
            "dim": arrays["region"].shape[1],
            "every_clip_stored": "region_clips" in arrays,
        }
    return {**facts, "shard": str(stage.shard_path(identifier))}


def _describe_boxes(arrays: Any, categories: dict[str, str]) -> dict[str, Any]:
    import numpy as np

    labels, counts = np.unique(arrays["label"], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    named = [f"{counts[i]} {categories.get(str(labels[i]), labels[i])}" for i in order.tolist()]
    return {"looked_at": len(arrays["frame"]), "boxes": len(arrays["label"]), "categories": ", ".join(named) or "none"}


def _describe_tubes(tubes: Any, names: dict[int, str], width: int, height: int) -> dict[str, Any]:
    import numpy as np

    from ...detectors.findings import tube_findings

    facts: dict[str, Any] = {}
    for kind in ("unary", "multivariate"):
        lengths = sorted(len(tube) for tube in tubes if tube.kind == kind)
        facts[f"{kind}_tubes"] = len(lengths)
        if lengths:
            middle = int(np.median(lengths))
            facts[f"{kind}_lengths"] = f"{lengths[0]} to {lengths[-1]} frames, half of them {middle} or more"
    longest = max(tubes, key=len, default=None)
    if longest is not None:
        name = "several objects" if longest.kind == "multivariate" else names.get(longest.label, str(longest.label))
        facts["longest"] = f"{len(longest)} frames from {longest.frames[0]} on: {name}"
    found = tube_findings(tubes, width=width, height=height)
    num_frames = sum(map(len, tubes))
    share = found.num_interpolated / num_frames if num_frames else 0.0
    facts |= {
        "detections_in_tubes": found.num_boxes,
        "frames_of_tubes": num_frames,
        "interpolated": f"{share:.1%}",
        "largest_union_of_frame": f"{found.max_union_area_fraction:.1%}",
        "boxes_in_ten_largest": f"{found.largest_share:.1%}",
        "warnings": "; ".join(found.warnings()) or "none",
    }
    return facts
