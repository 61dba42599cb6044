"""``vadx score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import UsageError
from .common import (
    FiniteRange,
    decode_limits,
    decoding_options,
    engine_option,
    json_option,
    open_any_set,
    open_set,
    out_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...extract.decode_limits import DecodeLimits
    from ...features.stage_set import StageSet
    from ...features.store import FeatureSet
    from ..inputs import Inputs
    from ..model_folder import Model
    from ..run import JobRun
    from ..score_run import Found, Wanted


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, metavar="[VIDEO]...")
@click.option("--which", type=click.Choice(["last", "best"]), default="last", help="Which of the model's networks.")
@click.option("--threshold", "-t", type=FiniteRange(0, 1), default=0.5, help="From which score on something is found.")
@click.option("--top", type=click.IntRange(min=0), default=5, help="Print so many intervals, of the highest peaks.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write each frame's score: a file, or a folder.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw scores over time: a .png, a .svg, or a folder.")
@click.option("--overlay", type=click.Path(path_type=Path), help="Draw scores into the video: an .mp4, or a folder.")
@click.option("--set", "set_name", metavar="SET", help="Score what is stored in a feature set; VIDEOs are its ids.")
@click.option(
    "--tubes",
    metavar="SET",
    help="mgpr: score tubes too, those of this set of tube features; those that lack are made.  [default: the model's]",
)
@out_option("--store")
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="Ids are paths below this folder.")
@click.option("--weights", help="A file of the weights of the model's recipe, where they have no name.")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--batch", type=click.IntRange(min=1), help="Clips in a batch; fixed for a run.")
@engine_option
@click.option(
    "--decoders", type=click.IntRange(min=0, max=64), help="Processes that decode.  [default: by device and cores]"
)
@decoding_options
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the ids of videos in which something is found.")
@click.option("--verbose", "-v", is_flag=True, help="Print a line for every video that is extracted.")
@click.pass_context
@click.option_panel("Scores", options=["--which", "--threshold", "--top", "--tubes", "--set"])
@click.option_panel("Files", options=["--csv", "--plot", "--overlay"])
@click.option_panel(
    "Extraction",
    options=[
        *("--store", "--root", "--weights", "--device", "--batch", "--engine", "--decoders", "--stall-timeout"),
        *("--video-timeout", "--decoder-memory", "--strict", "--allow-partial", "--retry-failed"),
    ],
)
@click.option_panel("Options")
def score(ctx: click.Context, /, **options: Any) -> int:
    """Score videos with a trained MODEL, a folder that vadx train wrote: where in them is something abnormal, and when?

    VIDEOs are folders, files, globs, @list.txt or -, as of vadx extract. Each is extracted by the model's own recipe
    into the store, once, and scored. An interval is a run of frames whose score is the threshold or more.

    \b
    vadx score model/ video.mp4
    vadx score model/ videos/ --plot plots/ --overlay drawn/
    vadx score model/ --set i3d --json > scores.json
    """
    from ..config import check_context
    from ..model_folder import read_model

    check_context(ctx)
    model = read_model(options["model"], options["which"])
    if options["set_name"] is not None:
        return _score_set(model, options)
    if not options["inputs"]:
        msg = "name videos, or a feature set: vadx score MODEL VIDEO, or vadx score MODEL --set SET"
        raise UsageError(msg)
    return _score_videos(model, options)


def _score_set(model: Model, options: dict[str, Any]) -> int:
    from ..score_run import check_targets, find_in
    from ..scoring import check_set

    if options["overlay"] is not None:
        msg = "--overlay draws into videos, and --set names features alone: give the videos, vadx score MODEL VIDEO"
        raise UsageError(msg)
    feature_set = open_set(options["set_name"], options["store"])
    check_set(model, feature_set)
    ids = options["inputs"] or tuple(feature_set)
    for identifier in ids:
        if identifier not in feature_set:
            raise UsageError(str(feature_set.missing(identifier).args[0]))
    wanted = _wanted(model, options)
    check_targets(wanted.targets, (), len(ids))
    found = find_in(model, feature_set, dict.fromkeys(ids), wanted, tubes=_tubes(model, options))
    return _tell(model, found, [], options)


def _score_videos(model: Model, options: dict[str, Any]) -> int:
    from ..inputs import find_videos
    from ..score_plan import model_plan
    from ..score_run import check_targets, find_in

    limits = decode_limits(options)
    found = find_videos(options["inputs"], root=options["root"])
    wanted = _wanted(model, options)
    check_targets(wanted.targets, found.entries, len(found.entries) + len(found.colliding))
    tubes = _tubes(model, options)
    plan = model_plan(model.facts, options["weights"])
    feature_set, run = _extracted(plan, found, limits, options)
    fine = {outcome.id for outcome in run.tally.outcomes if outcome.status != "failed"}
    failed = {one.id: one for one in _failures(run)}
    if tubes is not None:
        failed |= _tubed(tubes, found, feature_set, fine, limits, options)
    videos = {entry.id: entry.path for entry in found.entries if entry.id in fine - failed.keys()}
    return _tell(model, find_in(model, feature_set, videos, wanted, tubes=tubes), [*failed.values()], options)


def _wanted(model: Model, options: dict[str, Any]) -> Wanted:
    from ..score_run import FILES, Wanted

    targets = {name: options[name] for name in FILES if options[name] is not None}
    return Wanted(options["threshold"], targets, _name(model, options))


def _name(model: Model, options: dict[str, Any]) -> str:
    return f"{options['model'].resolve().name}: {model.facts['method']}, {model.which}"


def _tubes(model: Model, options: dict[str, Any]) -> tuple[StageSet, StageSet] | None:
    """Open the sets of ``--tubes``, or those that the model was trained on."""
    from ...features.stage_set import StageSet
    from ..tube_scoring import check_tubes, tubes_before

    named = options["tubes"]
    features = _own_tubes(model, options) if named is None else open_any_set(named, options["store"])
    if features is None:
        return None
    if not isinstance(features, StageSet):
        msg = f"{features.name} holds clip features, not those of tubes: give the last set that vadx tubes makes"
        raise UsageError(msg)
    check_tubes(model, features)
    return features, tubes_before(features)


def _own_tubes(model: Model, options: dict[str, Any]) -> StageSet | None:
    """Give the set of tubes that a model was trained on, where it is in the store; says what to do where it is not."""
    from ...features.store import Store
    from ..tube_again import find_tubes
    from .extract import say

    if model.facts["method"] != "mgpr":
        return None
    trained_on = model.facts.get("inputs", {}).get("tubes")
    found = find_tubes(Store(options["store"]), trained_on["digest"]) if trained_on else None
    if found is None and not (options["quiet"] or options["as_json"]):
        say(
            f"segments alone are scored. mgpr also scores tubes: make them, vadx tubes VIDEO --out {options['store']}, "
            f"and add --tubes SET, the last set that this names"
        )
    return found


def _tubed(
    tubes: tuple[StageSet, StageSet],
    found: Inputs,
    feature_set: FeatureSet,
    fine: set[str],
    limits: DecodeLimits,
    options: dict[str, Any],
) -> dict[str, Found]:
    """Make the tubes that are not stored yet, as the others of the set were made; gives id -> what failed."""
    from ...extract.engine import pick_device
    from ...features.store import Store
    from ..extraction import Effort
    from ..progress import make_display
    from ..run import run_videos, start_runs
    from ..tube_again import has_tubes, plans_again
    from ..tube_plan import make_jobs
    from ..tubing import process_tubes
    from .extract import say

    features = tubes[0]
    lacking = [e for e in found.entries if e.id in fine and not has_tubes(features, feature_set, e.id)]
    if not lacking:
        return {}
    flags = {name: options.get(name, False) for name in ("force", "retry_failed", "strict", "allow_partial")}
    plans = plans_again(features, device=pick_device(options["device"]))
    if not (options["quiet"] or options["as_json"]):
        say(f"tubes of {len(lacking)} videos -> {features.path}")
    runs = start_runs(make_jobs(plans, Store(features.path.parent), flags), len(lacking))
    run_videos(
        lacking,
        (),
        runs,
        display=make_display(json_lines=options["as_json"], quiet=options["quiet"], verbose=options["verbose"]),
        num_decoders=0 if options["decoders"] == 0 else 1,
        decode_limits=limits,
        effort=Effort(),
        process=process_tubes,
    )
    return {one.id: one for run in runs for one in _failures(run)}


def _extracted(plan: Any, found: Inputs, limits: DecodeLimits, options: dict[str, Any]) -> tuple[FeatureSet, JobRun]:
    """Extract what is not stored yet; gives the set and what became of each video."""
    from ...features.store import Store
    from ..extraction import Effort
    from ..job import make_job
    from ..progress import make_display
    from ..run import run_videos, start_runs
    from .extract import decoders_of, say

    store = Store(options["store"])
    feature_set = store.create(plan.recipe, slug=plan.slug, preset=plan.preset_name, weights_name=plan.weights_name)
    job = make_job(plan, feature_set.path, {**options, "force": False})
    talks = not (options["quiet"] or options["as_json"])
    if talks:
        say(f"features: {plan.preset_name} -> {feature_set.path}")
        if plan.recipe.weights.startswith("random:"):
            say(f"WARNING: {plan.recipe.weights} weights: these features, and so the scores, mean nothing")
    runs = start_runs([job], len(found.entries) + len(found.colliding))
    stopped = run_videos(
        found.entries,
        found.colliding,
        runs,
        display=make_display(json_lines=options["as_json"], quiet=options["quiet"], verbose=options["verbose"]),
        num_decoders=decoders_of(options, [plan]),
        decode_limits=limits,
        effort=Effort(),
    )
    if stopped is not None:
        say(f"stopped: {stopped}; see to the cause, then the same command resumes")
    return feature_set, runs[0]


def _failures(run: JobRun) -> list[Found]:
    from ..score_run import Found

    return [
        Found(outcome.id, Path(outcome.path), failure=outcome.message, code=outcome.code)
        for outcome in run.tally.failed
    ]


def _tell(model: Model, found: Iterable[Found], failures: list[Found], options: dict[str, Any]) -> int:
    """Print what was found, video by video, and last what failed. Gives the exit code."""
    import json

    from ..progress import harmless_json, printable
    from ..score_run import failure_mapping
    from ..score_video import video_lines, video_mapping
    from .extract import say

    failed, videos = list(failures), []
    for one in found:
        if one.video is None:
            failed.append(one)
        elif options["as_json"]:
            path = None if one.path is None else str(one.path)
            videos.append(video_mapping(one.video, one.intervals, path=path, files=one.files, notes=one.notes))
        elif options["quiet"]:
            if one.intervals:
                click.echo(printable(one.id))
        else:
            lines = video_lines(one.video, one.intervals, options["threshold"], options["top"])
            click.echo("\n".join(map(printable, lines)))
            if one.notes:
                say(f"  note: {'; '.join(one.notes)}")
            for file in one.files:
                say(f"  written: {file}")
    if options["as_json"]:
        told = {
            "model": str(options["model"]),
            "method": model.facts["method"],
            "which": model.which,
            "iteration": model.mark.iteration,
            "threshold": options["threshold"],
            "videos": videos,
            "failed": [failure_mapping(one) for one in failed],
        }
        click.echo(harmless_json(json.dumps(told)))
    if failed:
        say(f"{len(failed)} failed:")
        for one in failed:
            say(f"  error[{one.code or 'SCORE'}] {one.failure}")
    return 3 if failed else 0
