"""``vadx import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import VadxError
from ..policy import parse_part
from .common import FiniteRange, out_option, run_limits, run_options

if TYPE_CHECKING:
    from ...features.recipe import Recipe
    from ...features.store import FeatureSet
    from ..import_plan import ImportPlan
    from ..importing import ImportJob
    from ..run import JobRun


@click.command("import", context_settings={"show_default": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "-f", "layout", required=True, help="The folder's layout: see `vadx export --formats`.")
@out_option("--to")
@click.option("--name", help="What the release is called; folders of one name share a set.  [default: the folder's]")
@click.option("--preset", help="State the recipe: a name of `vadx presets`. What nobody states stays unknown.")
@click.option("--known", multiple=True, help="State facts of the recipe: FACT=VALUE, or a JSON file of them.")
@click.option("--counts", type=click.Path(path_type=Path), help="Frames of videos: lines NAME,FRAMES, or a manifest.")
@click.option("--fps", type=FiniteRange(min=0, min_open=True), help="Frames a second of the videos, for seconds.")
@click.option("--manifest-out", type=click.Path(path_type=Path), help="Write the labels that an export noted here.")
@run_options(force="Read every video again, and replace its shard.", verbose="Print a line for every video.")
@click.pass_context
def import_(ctx: click.Context, /, **options: Any) -> int:
    """Take somebody else's features into a store: a published release, or an export of vadx.

    FOLDER holds files of one layout; nothing in them is run. They become a feature set of their own, of which
    `vadx info` says what is known of its recipe: of an export of vadx all, of a release what was published.

    Frames of clips follow from clips of 16 frames (--known sampling.clip_length=32 and so on state others). Without
    --counts a video is as long as its rows say, and without --fps nobody knows its seconds. Rows that are segments,
    as Sultani's 32, cannot be placed without --counts.

    The same command again reads only what is new or has changed; a file that cannot be read costs its video alone.

    \b
    vadx import --format rtfm downloads/UCF_Train_ten_crop_i3d --name ucf --counts frames.csv --fps 30
    vadx import --format sultani C3D_features/ --counts ucf.csv --preset sultani-c3d
    vadx import --format npy exported/ --manifest-out labels.csv
    """
    from ...features.manifest import write_manifest
    from ...features.truth_readers import read_counts
    from ..config import check_context
    from ..import_plan import plan_import
    from .extract import say

    check_context(ctx)
    limits = run_limits(options)
    part = None if options["part"] is None else parse_part(options["part"])
    plan = plan_import(
        options["layout"],
        options["folder"],
        release=options["name"],
        preset=options["preset"],
        known=options["known"],
        counts=None if options["counts"] is None else read_counts(options["counts"]),
        fps=options["fps"],
    )
    # Of all videos, whichever part of them this is: of several jobs each writes the same list.
    labels = None if options["manifest_out"] is None else plan.manifest()
    if part is not None:
        plan = plan.part(*part)
    if options["dry_run"]:
        return _dry_run(plan, options)
    if not (options["quiet"] or options["as_json"]):
        for line in describe(plan):
            say(line)
    if labels is not None:
        # Before the work: a place that cannot be written to should not cost it.
        write_manifest(options["manifest_out"], labels)
        say(f"labels of {len(labels)} videos -> {options['manifest_out']}")
    return _import(plan, options, limits)


def describe(plan: ImportPlan) -> list[str]:
    """Say what an import is of, what it rests on, and what is lost."""
    from ..prose import prose

    lines = [f"{len(plan.entries)} videos of {plan.folder}: {prose(plan.recipe)}", *plan.notes]
    lines.append(f"not kept by {plan.layout}: {plan.loses}")
    implied = sum(entry.frames_from == "rows" for entry in plan.entries)
    if implied and not plan.rows.needs_counts:
        lines.append(f"nobody counted the frames of {implied} videos: as many as their rows imply (--counts FILE)")
    if plan.rows.fps is None:
        lines.append("seconds are unknown (--fps RATE)")
    return lines


def _job(plan: ImportPlan, feature_set: FeatureSet | None, options: dict[str, Any]) -> ImportJob:
    from ..importing import ImportJob

    return ImportJob(
        set_path=options["to"] if feature_set is None else feature_set.path,
        recipe=plan.recipe,
        folder=plan.folder,
        layout=plan.layout,
        rows=plan.rows,
        force=options["force"],
        retry_failed=options["retry_failed"],
    )


def _dry_run(plan: ImportPlan, options: dict[str, Any]) -> int:
    import msgspec

    from ...features.store import Store
    from ..importing import would_import
    from ..progress import json_line, printable
    from .extract import say

    feature_set = Store(options["to"]).find(plan.recipe)
    counts: dict[str, int] = {}
    for line in would_import(feature_set, plan.entries, _job(plan, feature_set, options)):
        counts[line.action] = counts.get(line.action, 0) + 1
        if options["as_json"]:
            click.echo(json_line({"event": "plan", **msgspec.to_builtins(line)}))
        elif options["quiet"]:
            if line.action in ("import", "refresh"):
                click.echo(printable(line.id))
        else:
            click.echo(f"{line.action:<13} {printable(line.id)}  ({printable(line.reason)})")
    summary = ", ".join(f"{count} {action}" for action, count in sorted(counts.items()))
    # A set that exists and holds no video yet is false.
    new = f"{options['to']}/{plan.slug}-{plan.recipe.digest[:8]} (new)"
    say(f"{summary} -> {new if feature_set is None else feature_set.path}; no values were read, nothing was written")
    return 0


def _import(plan: ImportPlan, options: dict[str, Any], limits: dict[str, Any]) -> int:
    from ...features.store import Store
    from ..importing import import_videos
    from ..progress import make_display
    from ..run import run_videos, start_runs
    from .extract import counts, say

    talks = not (options["quiet"] or options["as_json"])
    store = Store(options["to"])
    feature_set = store.create(plan.recipe, slug=plan.slug, weights_name=plan.weights_name)
    (run,) = start_runs([_job(plan, feature_set, options)], len(plan.entries))
    try:
        stopped = run_videos(
            plan.entries,
            (),
            [run],
            display=make_display(json_lines=options["as_json"], quiet=options["quiet"], verbose=options["verbose"]),
            **limits,
            emit=click.echo if options["as_json"] else lambda _line: None,
            process=import_videos,
        )
    except VadxError:
        if talks:
            say(f"stopped: {counts(run.tally)}")
        raise
    if talks:
        _report(run, plan.recipe, stopped)
    elif options["quiet"] and not options["as_json"]:
        from ..progress import harmless

        for outcome in run.tally.outcomes:
            if outcome.status == "done":
                click.echo(harmless(outcome.id))
    return 3 if run.tally.failed else 0


def _report(run: JobRun, recipe: Recipe, stopped: str | None) -> None:
    """Print what became of an import: failures, the summary, and what is unknown. The set's path goes to stdout."""
    from ..importing import REPLACED
    from ..progress import describe as describe_outcome
    from .extract import counts, say

    tally = run.tally
    replaced = [outcome for outcome in tally.outcomes if outcome.status == "done" and outcome.reason == REPLACED]
    if replaced:
        say(f"{len(replaced)} replaced, because their files, or what was said of them, are others than before")
    if tally.failed:
        say(f"{len(tally.failed)} failed:")
        for outcome in tally.failed:
            before = " (failed before)" if outcome.reason == "failed before" else ""
            say(f"  {describe_outcome(outcome)}{before}")
    if stopped is not None:
        say(f"stopped: {stopped}; see to the cause, then the same command resumes")
    code = 3 if tally.failed else 0
    ending = f" -> exit {code}; details: {run.log.path}; retry: the same command with --retry-failed" if code else ""
    say(f"done: {counts(tally)} in {tally.seconds:.1f} s{ending}")
    click.echo(str(run.job.set_path))
