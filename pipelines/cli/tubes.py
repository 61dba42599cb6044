"""``vadx tubes``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource

from ...detectors.detector import DEFAULT_SCORE_THRESHOLD
from ...errors import UsageError, VadxError
from .common import decode_limits, decoding_options, find_part, out_option, run_limits, run_options
from .worker_options import device_hint, device_of, opened_workers, worker_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..inputs import Inputs
    from ..plan import Plan
    from ..run import JobRun
    from ..tube_plan import StagePlan

_FLAGS = ("force", "retry_failed", "strict", "allow_partial")
_DEFAULT_NETWORK = "c3d"


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True)
@click.option("--detector", "-D", default="frcnn", help="What finds boxes: see `vadx detectors`.")
@click.option("--detections", help="Boxes of another program instead: a file, or a folder with one per id.")
@click.option("--stage", type=click.Choice(["detect", "link", "features"]), default="features", help="Stop after it.")
@out_option()
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="Ids are paths below this folder.")
@click.option("--stride", type=click.IntRange(min=1), default=1, help="Look at every so many frames.")
@click.option("--det-score", type=float, default=DEFAULT_SCORE_THRESHOLD, help="Boxes with a greater score are kept.")
@click.option("--classes", help="Kept categories, as person,car; `surveillance`; all is the paper's.  [default: all]")
@click.option("--group", multiple=True, help="NAME=CLASS,CLASS: categories that count as one.")
@click.option("--min-size", type=click.IntRange(min=1), help="The shorter side frames are resized to for the detector.")
@click.option("--proposals", type=click.IntRange(min=1), help="Regions that Faster R-CNN looks at.")
@click.option("--weights", help="The detector's: a name of `vadx weights ls`, a file, or random[:SEED].")
@click.option(
    "--format", type=click.Choice(["mot", "coco", "csv"]), help="Of --detections.  [default: by the file's ending]"
)
@click.option("--first-frame", type=int, help="What the file of --detections calls the first frame.")
@click.option("--images", type=click.Path(path_type=Path), help="COCO's images with their frames, for --detections.")
@click.option("--eta", type=float, default=2.0, help="Weight of the overlap in a link's score; the paper's eta.")
@click.option("--iou", type=float, default=0.1, help="Boxes link with a greater IoU; the paper's lambda.")
@click.option(
    "--min-length-unary", type=click.IntRange(min=1), default=100, help="Frames of a unary tube; the paper's zeta1."
)
@click.option(
    "--min-length-multivariate",
    type=click.IntRange(min=1),
    default=50,
    help="Frames of a multivariate tube; the paper's zeta2.",
)
@click.option("--max-gap", type=click.IntRange(min=0), default=0, help="Missed detections that a unary tube bridges.")
@click.option("--link-score", type=float, help="Only boxes with this score or more are linked.")
@click.option("--seed-score", type=float, help="Only boxes with this score or more begin a tube.")
@click.option("--closure", default="direct", help="Which boxes of a frame join a multivariate tube: direct, component.")
@click.option("--min-members", type=click.IntRange(min=1), default=1, help="Of a multivariate tube, in one frame.")
@click.option("--dedupe", is_flag=True, help="Leave out multivariate tubes that are a stretch of a unary one.")
@click.option("--agnostic-nms", type=float, help="Of boxes that overlap more, whatever their category, the best stays.")
@click.option("--max-tubes", type=click.IntRange(min=0), default=200, help="Tubes of a video that get features.")
@click.option("--rank", default="score", help="Which ones: score, length or random:SEED.")
@click.option("--max-open-boxes", type=click.IntRange(min=1), help="Boxes that may hang together before it is refused.")
@click.option("--link-window", type=click.IntRange(min=1), help="Cut tubes every so many frames; not the paper's.")
@click.option("--backbone", "-b", help=f"Of the features: see `vadx backbones`.  [default: {_DEFAULT_NETWORK}]")
@click.option("--preset", help="Of the features: see `vadx presets`.")
@click.option("--backbone-weights", help="Of the features, as --weights.")
@click.option("--crop", default="frame", help="Which box is cut out: frame, clip-union or tube-union.")
@click.option("--pad", type=click.FloatRange(min=0), default=0.0, help="Share by which each side of a box grows.")
@click.option("--square", is_flag=True, help="Boxes grow to squares.")
@click.option("--remainder", default="drop", help="What the last frames of a tube become: drop, pad or overlap.")
@click.option("--global-align", default="tube", help="Whole-frame clips: of the tube's frames, or on a shared grid.")
@click.option("--keep-clips", is_flag=True, help="Store each clip's features, not only means of 32 parts.")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--precision", help="Arithmetic of the detector: fp32, tf32, bf16 or fp16.  [default: fp32]")
@click.option("--batch", type=click.IntRange(min=1), help="Frames that the detector looks at at once.")
@click.option(
    "--decoders", type=click.IntRange(min=0, max=1), default=1, help="1: a process decodes ahead; 0: step by step."
)
@click.option("--overlay", type=click.Path(path_type=Path), help="Draw the tubes into a video: a file or a folder.")
@click.option("--sheet", type=click.Path(path_type=Path), help="A picture of the longest tubes: a file or a folder.")
@worker_options
@decoding_options
@run_options(force="Do every stage of every video again.", verbose="Print a line for every stage of every video.")
@click.pass_context
@click.option_panel(
    "Detection",
    options=[
        *("--detector", "--stride", "--det-score", "--classes", "--group", "--min-size", "--proposals", "--weights"),
        *("--precision", "--batch", "--detections", "--format", "--first-frame", "--images"),
    ],
)
@click.option_panel(
    "Linking",
    options=[
        *("--eta", "--iou", "--min-length-unary", "--min-length-multivariate", "--max-gap", "--link-score"),
        *("--seed-score", "--closure", "--min-members", "--dedupe", "--agnostic-nms", "--max-open-boxes"),
        "--link-window",
    ],
)
@click.option_panel(
    "Features",
    options=[
        *("--backbone", "--preset", "--backbone-weights", "--max-tubes", "--rank", "--crop", "--pad", "--square"),
        *("--remainder", "--global-align", "--keep-clips"),
    ],
)
@click.option_panel("Pictures", options=["--overlay", "--sheet"])
@click.option_panel("Options")
def tubes(ctx: click.Context, /, **options: Any) -> int:
    """Find objects, link them into tubes over time, and extract features of the tubes.

    Three stages, each kept in a set of its own: detections, tubes, tube features. Changing how boxes are linked does
    not detect again. INPUTS are as for `vadx extract`.

    \b
    vadx tubes --detector frcnn videos/
    vadx tubes --detector nanodet --stride 5 --stage link street.mp4 --overlay out.mp4 --sheet out.png
    vadx tubes --detections det.txt --format mot --stage link street.mp4
    vadx tubes videos/ --max-gap 1 --group vehicle=car,truck,bus
    """
    from ..config import check_context
    from ..tube_detection import DetectionFiles

    check_context(ctx)
    limits = {**run_limits(options), "decode_limits": decode_limits(options)}
    _check_together(ctx, options)
    found = find_part(options)
    plans = _plans(options)
    files = getattr(plans[0].work, "files", None)
    if isinstance(files, DetectionFiles) and not files.path.is_dir() and len(found.entries) > 1:
        msg = f"--detections {files.path} is of one video, and there are {len(found.entries)}: give a folder of files"
        raise UsageError(msg)
    targets = _pictures(options, found)
    if options["dry_run"]:
        return _dry_run(found, plans, options)
    return _run(found, plans, options, targets, limits)


_DETECTORS_OWN = ("detector", "weights", "classes", "group", "min_size", "proposals", "det_score", "precision", "batch")
_FILES_OWN = ("format", "first_frame", "images")


def _check_together(ctx: click.Context, options: dict[str, Any]) -> None:
    """Raise `UsageError` for an option that would say nothing beside the others."""
    has_files = options["detections"] is not None
    for name in _DETECTORS_OWN if has_files else _FILES_OWN:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            what = "a detector's: leave it out beside --detections" if has_files else "for files: give --detections too"
            hint = ", and give --link-score" if name == "det_score" else ""
            msg = f"{option} is {what}{hint}"
            raise UsageError(msg)


def _plans(options: dict[str, Any]) -> list[StagePlan]:
    """Give the plans of the stages up to the wanted one: all that can be refused is refused here."""
    from ...detectors.settings import DEFAULT_MAX_OPEN_BOXES, LinkSettings
    from ..tube_plan import detection_work, plan_detection, plan_features, plan_linking

    device = device_of(options)
    settings = LinkSettings(
        eta=options["eta"],
        iou_threshold=options["iou"],
        min_length_unary=options["min_length_unary"],
        min_length_multivariate=options["min_length_multivariate"],
        max_gap=options["max_gap"],
        closure=options["closure"],
        min_members=options["min_members"],
        dedupe=options["dedupe"],
        min_score=options["link_score"],
        seed_score=options["seed_score"],
        agnostic_nms=options["agnostic_nms"],
        max_tubes=options["max_tubes"],
        ranking=options["rank"],
        max_open_boxes=options["max_open_boxes"] or DEFAULT_MAX_OPEN_BOXES,
    )
    # Before the detector: it takes seconds to load, and the last stage's weights may be missing.
    network = _network(options) if options["stage"] == "features" else None
    plans = [plan_detection(detection_work(options, str(device)))]
    if options["stage"] != "detect":
        plans.append(plan_linking(settings, plans[0], window=options["link_window"]))
    if network is not None:
        from ...detectors.region_boxes import RegionSettings

        names = ("crop", "pad", "square", "remainder", "global_align", "keep_clips")
        regions = RegionSettings(**{name: options[name] for name in names})
        plans.append(plan_features(regions, network, plans[1], device=device, batch=None))
    return plans


def _network(options: dict[str, Any]) -> Plan:
    from ...errors import WeightsError
    from ..plan import Overrides, choose_presets, make_plan

    named = [options["backbone"]] if options["backbone"] else []
    presets = [options["preset"]] if options["preset"] else []
    chosen = choose_presets(named or ([] if presets else [_DEFAULT_NETWORK]), presets)
    if len(chosen) > 1:
        msg = f"--preset {options['preset']} is {len(chosen)} recipes: name one of {', '.join(p.name for p in chosen)}"
        raise UsageError(msg)
    try:
        return make_plan(chosen[0], Overrides(), options["backbone_weights"])
    except WeightsError as error:
        msg = f"{error}\nor stop before the features of the tubes: --stage link"
        raise WeightsError(msg) from error


def _dry_run(found: Inputs, plans: Sequence[StagePlan], options: dict[str, Any]) -> int:
    import msgspec

    from ...features.keys import as_text
    from ..progress import json_line, printable
    from ..run import DryRunLine
    from ..tube_dry_run import would_do

    flags = {name: options[name] for name in _FLAGS}
    collisions = [DryRunLine(e.id, as_text(str(e.path)), "failed", "KEY_COLLISION") for e in found.colliding]
    lines = would_do(found.entries, plans, options["out"], flags)
    for plan, line in itertools.chain(((plans[0], line) for line in collisions), lines):
        if options["as_json"]:
            event = {"event": "plan", "stage": plan.recipe.kind, **msgspec.to_builtins(line)}
            click.echo(json_line(event))
        elif options["quiet"]:
            if line.action in ("extract", "refresh") and plan is plans[0]:
                click.echo(printable(line.id))
        else:
            click.echo(f"{plan.recipe.kind:<14} {line.action:<13} {printable(line.id)}  ({printable(line.reason)})")
    click.echo(f"nothing was decoded or written in {as_text(str(options['out']))}", err=True)
    return 0


def _run(
    found: Inputs,
    plans: Sequence[StagePlan],
    options: dict[str, Any],
    targets: dict[str, Path],
    limits: dict[str, Any],
) -> int:
    from ...features.store import Store
    from ..extraction import Effort
    from ..progress import make_display
    from ..run import run_videos, start_runs
    from ..tube_plan import make_jobs
    from ..tubing import process_tubes
    from .extract import say, say_dashboard

    talks = not (options["quiet"] or options["as_json"])
    jobs = make_jobs(plans, Store(options["out"]), {name: options[name] for name in _FLAGS})
    num_videos = len(found.entries) + len(found.colliding)
    if talks:
        for plan, job in zip(plans, jobs, strict=True):
            say(f"{plan.recipe.kind} -> {job.set_path}")
        passed = f"; {found.num_passed_over} other files passed over" if found.num_passed_over else ""
        say(f"{num_videos} videos{passed}")
    runs = start_runs(jobs, num_videos)
    # Boxes of files are linked on CPUs, but tubes may have features.
    device = next((job.device for job in jobs if job.device != "cpu"), "cpu")
    if talks and any(plan.has_network for plan in plans) and (hint := device_hint(options, device)) is not None:
        say(hint)
    try:
        with opened_workers(options, process_tubes, device, len(found.entries)) as workers:
            reason = run_videos(
                found.entries,
                found.colliding,
                runs,
                display=make_display(json_lines=options["as_json"], quiet=options["quiet"], verbose=options["verbose"]),
                **limits,
                num_decoders=options["decoders"],
                effort=Effort(),
                dashboard=say_dashboard(workers, talks=talks),
                emit=click.echo if options["as_json"] else lambda _line: None,
                process=workers or process_tubes,
            )
    except VadxError:
        if talks:
            _report(runs)
        raise
    if reason is not None:
        say(f"stopped: {reason}; see to the cause, then the same command resumes")
    if options["quiet"] and not options["as_json"]:
        from ..progress import harmless

        stored = {o.id for o in runs[-1].tally.outcomes if o.status in ("done", "degraded")}
        for entry in found.entries:
            if entry.id in stored:
                click.echo(harmless(entry.id))
    elif talks:
        _report(runs)
    _draw(found, runs, targets, talks=talks)
    return 3 if any(run.tally.failed for run in runs) else 0


def _report(runs: Sequence[JobRun]) -> None:
    """Say what became of each stage; a failure once, where it happened."""
    from ..progress import describe
    from .extract import counts, say

    told: set[str] = set()
    for run in runs:
        for outcome in run.tally.outcomes:
            if outcome.status != "failed" and outcome.notes:
                say(describe(outcome))
            if outcome.status == "failed" and outcome.id not in told:
                told.add(outcome.id)
                before = " (failed before)" if outcome.reason == "failed before" else ""
                say(f"{describe(outcome)}{before}")
    for run in runs:
        sums: dict[str, int] = {}
        for outcome in run.tally.outcomes:
            for what, number in outcome.counts.items():
                sums[what] = sums.get(what, 0) + number
        held = "".join(f", {number} {what}" for what, number in sums.items())
        say(f"{run.job.set_path.name}: {counts(run.tally)}{held}")
    if any(run.tally.failed for run in runs):
        kept = any(outcome.status == "failed" and not outcome.retriable for outcome in runs[0].tally.outcomes)
        again = "the same command with --retry-failed" if kept else "the same command"
        say(f"exit 3; details: {runs[0].log.path}; retry: {again}")
    click.echo(str(runs[-1].job.set_path))


_ENDINGS = {"overlay": ".mp4", "sheet": ".png"}


def _pictures(options: dict[str, Any], found: Inputs) -> dict[str, Path]:
    """Give what pictures are wanted, and where. Raises `UsageError` before any work if they cannot be made."""
    targets = {name: options[name] for name in _ENDINGS if options[name] is not None}
    for name, path in targets.items():
        if options["stage"] == "detect":
            msg = f"--{name} draws tubes: leave --stage detect out"
            raise UsageError(msg)
        if path.is_dir():
            continue
        if len(found.entries) > 1:
            msg = f"--{name} {path} is one file, and there are {len(found.entries)} videos: give a folder that is there"
            raise UsageError(msg)
        if path.suffix != _ENDINGS[name]:
            msg = f"--{name} {path}: give a folder that is there, or a file that ends in {_ENDINGS[name]}"
            raise UsageError(msg)
        if not path.parent.is_dir():
            msg = f"--{name} {path}: there is no folder {path.parent}: make it first, mkdir -p {path.parent}"
            raise UsageError(msg)
        if any(path.exists() and entry.path.exists() and path.samefile(entry.path) for entry in found.entries):
            msg = f"--{name} {path} is the video itself, which would be gone: give another file"
            raise UsageError(msg)
    return targets


def _draw(found: Inputs, runs: Sequence[JobRun], targets: dict[str, Path], *, talks: bool) -> None:
    from ..tube_drawing import draw_video
    from .extract import say

    if not targets:
        return
    linked = runs[1]
    fine = {outcome.id for outcome in linked.tally.outcomes if outcome.status != "failed"}
    for entry in found.entries:
        if entry.id in fine:
            for path in draw_video(entry, linked.job.set_path, targets):
                if talks:
                    say(f"drawn: {path}")
