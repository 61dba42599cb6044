"""``vadx extract``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import rich_click as click

from ...errors import UsageError, VadxError
from ...features import recipe as recipes
from .common import (
    decode_limits,
    decoding_options,
    engine_option,
    find_part,
    out_option,
    run_limits,
    run_options,
)
from .worker_options import device_hint, device_of, is_elsewhere, opened_workers, worker_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...features.store import FeatureSet
    from ..cluster import DaskWorkers
    from ..extraction import Effort
    from ..inputs import Inputs
    from ..job import Job
    from ..plan import Overrides, Plan
    from ..progress import Tally
    from ..run import JobRun


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "--backbone",
    "-b",
    "backbone",
    multiple=True,
    help="The network: see `vadx backbones`. Several: each video is decoded once for all.  [default: i3d]",
)
@click.option(
    "--preset",
    "preset",
    multiple=True,
    help="A whole named recipe: see `vadx presets`; brings its backbone along.  [default: the backbone's]",
)
@out_option()
@click.option("--root", type=click.Path(path_type=Path, exists=True), help="Ids are paths below this folder.")
@click.option("--clip-length", type=click.IntRange(min=1), help="Frames in a clip.")
@click.option("--clip-stride", type=click.IntRange(min=1), help="Frames from one clip to the next.")
@click.option("--frame-step", type=click.IntRange(min=1), help="Frames from one frame of a clip to the next.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Take the frames nearest to this rate.")
@click.option("--crops", type=click.Choice(get_args(recipes.CropSet)), help="Crops of each frame.")
@click.option("--crop-order", type=click.Choice(get_args(recipes.CropOrder)), help="Published order of the crops.")
@click.option("--kernel", type=click.Choice(get_args(recipes.Kernel)), help="Whose resize the frames get.")
@click.option("--jpeg", help="Put frames through a JPEG file: ffmpeg, or a quality from 1 to 100.")
@click.option("--tail", type=click.Choice(get_args(recipes.Tail)), help="What the last frames become.")
@click.option(
    "--temporal", type=click.Choice(get_args(recipes.Temporal)), help="How frames become a clip (frame-wise networks)."
)
@click.option("--switch", "switch", multiple=True, help="NAME=VALUE: a published variant of the network.")
@click.option("--precision", type=click.Choice(get_args(recipes.Precision)), help="Arithmetic of the network.")
@click.option("--dtype", type=click.Choice(get_args(recipes.StoredDtype)), help="How features are stored.")
@click.option("--noise", help="KIND:SEED, as wsal:0: noise on the frames of normal videos, a set of its own.")
@click.option("--weights", help="A name of `vadx weights ls`, a file, or random[:SEED].")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--batch", type=click.IntRange(min=1), help="Clips in a batch; fixed for a run.")
@engine_option
@click.option(
    "--decoders",
    type=click.IntRange(min=0, max=64),
    help="Processes that decode, a video each; 0 does everything here, step by step.  [default: by device and cores]",
)
@click.option("--show-pred", is_flag=True, help="Print each video's five likeliest classes.")
@worker_options
@decoding_options
@run_options(force="Do every video again, and replace its shard.", verbose="Print a line for every video.")
@click.pass_context
def extract(ctx: click.Context, /, **options: Any) -> int:
    """Turn videos into clip features, kept in a store.

    INPUTS are folders (searched for videos), files (always tried), globs, @list.txt (one path a line) or - (paths on
    stdin). The same command again does only what is left; what is stored is never computed twice.

    \b
    vadx extract --backbone i3d videos/
    vadx extract --preset xdviolence-i3d @train.txt --root /data/xd --out features/
    vadx extract --backbone i3d --backbone r2plus1d videos/
    vadx extract videos/ --crops ten --clip-stride 8 --dry-run
    """
    from ..config import check_context
    from ..plan import choose_presets, make_plans

    check_context(ctx)
    limits = {**run_limits(options), "decode_limits": decode_limits(options)}
    presets = choose_presets(options["backbone"], options["preset"])
    found = find_part(options)
    plans = _distinct(make_plans(presets, overrides_of(options), options["weights"]))
    _check_runnable(plans, options)
    if options["dry_run"]:
        for plan in plans:
            _dry_run(found, plan, options, names_set=len(plans) > 1)
        return 0
    return _extract(found, plans, options, limits)


def _distinct(plans: Sequence[Plan]) -> list[Plan]:
    """Leave out plans whose recipe another has already: they would be one feature set, computed twice."""
    kept: dict[str, Plan] = {}
    for plan in plans:
        first = kept.setdefault(plan.recipe.digest, plan)
        if first is not plan:
            say(f"{plan.preset_name} is the same recipe as {first.preset_name}: one feature set for both")
    return list(kept.values())


def _check_runnable(plans: Sequence[Plan], options: dict[str, Any]) -> None:
    """Raise `UsageError` for what would only fail after the work, before anything is made."""
    from ...extract.backbones import find_backbone
    from ...extract.engine import check_engine

    for plan in plans:
        check_engine(options["engine"], plan.recipe.precision, device_of(options), plan.recipe.network.name)
    if options["show_pred"] and (options["as_json"] or options["quiet"]):
        msg = "--show-pred prints for people: leave --json and --quiet out"
        raise UsageError(msg)
    if options["show_pred"] and not any(find_backbone(plan.backbone).classes for plan in plans):
        msg = f"{' and '.join(plan.backbone for plan in plans)} has no classifier: leave --show-pred out"
        raise UsageError(msg)


def overrides_of(options: dict[str, Any]) -> Overrides:
    """Give what the options change in a preset. Raises `UsageError` for one that cannot be read."""
    from ..plan import Overrides, parse_jpeg, parse_noise, parse_switch

    changed = {name: options[name] for name in Overrides.__slots__ if name != "switches"}
    changed["switches"] = tuple(map(parse_switch, options["switch"]))
    changed["jpeg"] = None if options["jpeg"] is None else parse_jpeg(options["jpeg"])
    changed["noise"] = None if options["noise"] is None else parse_noise(options["noise"])
    return Overrides(**changed)


def _dry_run(found: Inputs, plan: Plan, options: dict[str, Any], *, names_set: bool) -> None:
    import msgspec

    from ...features.keys import as_text
    from ...features.store import Store
    from ..progress import json_line, printable
    from ..run import DryRunLine, dry_run

    feature_set = Store(options["out"]).find(plan.recipe)
    # A set that exists and holds no video yet is false.
    name = f"{plan.slug}-{plan.recipe.digest[:8]}" if feature_set is None else feature_set.name
    flags = {name: options[name] for name in ("force", "retry_failed", "strict", "allow_partial")}
    counts: dict[str, int] = {}
    collisions = [DryRunLine(e.id, as_text(str(e.path)), "failed", "KEY_COLLISION") for e in found.colliding]
    for line in [*collisions, *dry_run(feature_set, found.entries, flags)]:
        counts[line.action] = counts.get(line.action, 0) + 1
        if options["as_json"]:
            event = {"event": "plan", **msgspec.to_builtins(line)} | ({"feature_set": name} if names_set else {})
            click.echo(json_line(event))
        elif options["quiet"]:
            if line.action in ("extract", "refresh"):
                click.echo(printable(line.id))
        else:
            prefix = f"{name}  " if names_set else ""
            click.echo(f"{prefix}{line.action:<13} {printable(line.id)}  ({printable(line.reason)})")
    summary = ", ".join(f"{count} {action}" for action, count in sorted(counts.items()))
    where = f"{options['out']}/{name} (new)" if feature_set is None else feature_set.path
    click.echo(f"{summary or 'nothing'} -> {where}; nothing was decoded or written", err=True)


def _extract(found: Inputs, plans: Sequence[Plan], options: dict[str, Any], limits: dict[str, Any]) -> int:
    from ...features.store import Store
    from ..extraction import Effort, process_videos
    from ..job import make_job
    from ..progress import make_display
    from ..run import run_videos, start_runs

    store = Store(options["out"])
    _check_files(plans)
    talks = not (options["quiet"] or options["as_json"])
    jobs = []
    for plan in plans:
        feature_set = store.create(plan.recipe, slug=plan.slug, preset=plan.preset_name, weights_name=plan.weights_name)
        jobs.append(make_job(plan, feature_set.path, options, device_of(options)))
        if talks:
            _announce(plan, feature_set)
    if talks:
        passed = f"; {found.num_passed_over} other files passed over" if found.num_passed_over else ""
        say(f"{len(found.entries) + len(found.colliding)} videos{passed}")
        if (hint := device_hint(options, jobs[0].device)) is not None:
            say(hint)
    emit = click.echo if options["as_json"] else lambda _line: None
    display = make_display(json_lines=options["as_json"], quiet=options["quiet"], verbose=options["verbose"])
    runs = start_runs(jobs, len(found.entries) + len(found.colliding))
    num_decoders = decoders_of_run(options, plans)
    effort = Effort()
    try:
        with opened_workers(options, process_videos, jobs[0].device, len(found.entries)) as workers:
            reason = run_videos(
                found.entries,
                found.colliding,
                runs,
                display=display,
                **limits,
                num_decoders=num_decoders,
                effort=effort,
                dashboard=say_dashboard(workers, talks=talks),
                emit=emit,
                process=workers,
            )
    except VadxError:
        if talks:
            for run in runs:
                say(f"stopped: {counts(run.tally)}")
        raise
    if reason is not None:
        say(f"stopped: {reason}; see to the cause, then the same command resumes")
    stored = {o.id: None for run in runs for o in run.tally.outcomes if o.status in ("done", "degraded")}
    if options["quiet"] and not options["as_json"]:
        from ..progress import harmless

        for entry in found.entries:
            if entry.id in stored:
                click.echo(harmless(entry.id))
    elif not options["as_json"]:
        for plan, run in zip(plans, runs, strict=True):
            if options["show_pred"]:
                _show_predictions(plan, run)
        for run in runs:
            report(run)
        if num_decoders is not None and not is_elsewhere(options):
            # What other processes waited for, they keep to themselves.
            advise(effort, jobs[0], num_decoders)
    return 3 if any(run.tally.failed for run in runs) else 0


def say_dashboard(workers: DaskWorkers | None, *, talks: bool) -> str | None:
    """Give the address at which Dask shows what workers do, and tell it, if there is one."""
    dashboard = None if workers is None else workers.dashboard
    if dashboard is not None and talks:
        say(f"Dask shows what its workers do at {dashboard}")
    return dashboard


def decoders_of_run(options: dict[str, Any], plans: Sequence[Plan]) -> int | None:
    """Give the number of decoding processes of a run, or of each of its workers; None where they know better."""
    takes_native = any(plan.recipe.transform.takes_native for plan in plans)
    if is_elsewhere(options) and options["decoders"] is None and not takes_native:
        return None
    return decoders_of(options, plans)


def decoders_of(options: dict[str, Any], plans: Sequence[Plan]) -> int:
    """Give the number of decoding processes of a run."""
    from ...extract.engine import pick_device
    from ..capacity import default_decoders, usable_cores

    if any(plan.recipe.transform.takes_native for plan in plans):
        if options.get("decoders"):
            say("--decoders is left out: the decoder's own pictures, which --jpeg ffmpeg takes, stay in their process")
        return 0
    if options.get("decoders") is not None:
        return int(options["decoders"])
    return default_decoders(pick_device(options["device"]).type, usable_cores())


def advise(effort: Effort, job: Job, num_decoders: int) -> None:
    """Say what limited a run and what to change, where it was long enough to tell."""
    from ..capacity import advice, bottleneck, device_kind, usable_cores

    part = bottleneck(effort)
    if part is not None:
        say(advice(part, job, num_decoders, device=device_kind(job.device), cores=usable_cores()))


def _check_files(plans: Sequence[Plan]) -> None:
    """Load a user's own weights once before anything is made: what does not fit should leave no empty set behind.

    Raises
    ------
    WeightsError
        as `load_backbone`.
    """
    from ...extract.library import load_backbone

    for plan in plans:
        if plan.weights_name is None and not plan.recipe.weights.startswith("random:"):
            load_backbone(plan.backbone, plan.weights, switches=plan.recipe.network.switches)


def _announce(plan: Plan, feature_set: FeatureSet) -> None:
    from ...extract.weights import WEIGHTS
    from ..prose import prose

    say(f"{plan.preset_name}: {prose(plan.recipe)}")
    if plan.weights_name is not None:
        say(f"weights {plan.weights_name} (sha256 {plan.recipe.weights[:12]}…) -> {feature_set.path}")
        if WEIGHTS[plan.weights_name].caution:
            say(WEIGHTS[plan.weights_name].caution)
    elif plan.recipe.weights.startswith("random:"):
        say(f"WARNING: {plan.recipe.weights} weights: these features mean nothing -> {feature_set.path}")
    else:
        say(f"weights from {plan.weights} (sha256 {plan.recipe.weights[:12]}…) -> {feature_set.path}")


def _show_predictions(plan: Plan, run: JobRun) -> None:
    from ...extract.backbones import find_backbone
    from ...features.store import FeatureSet
    from ..predictions import predict

    if find_backbone(plan.backbone).classes is None:
        say(f"{plan.backbone} has no classifier: no classes to show")
        return
    feature_set = FeatureSet(run.job.set_path)
    ids = [outcome.id for outcome in run.tally.outcomes if outcome.status != "failed"]
    try:
        predicted = list(predict(feature_set, ids, plan.backbone, plan.weights))
    except UsageError as error:
        # The features are stored: what cannot be named must not hide that.
        say(str(error))
        return
    for identifier, classes in predicted:
        click.echo(f"{identifier}: " + ", ".join(f"{name} {score:.3f}" for name, score in classes))


def report(run: JobRun) -> None:
    """Print what became of a run: failures last but one, the summary last. The set's path goes to stdout."""
    from ...features.shard_set import CHANGED
    from ..progress import describe

    tally = run.tally
    for outcome in tally.outcomes:
        if outcome.status == "degraded":
            say(describe(outcome))
    replaced = [o for o in tally.outcomes if o.status in ("done", "degraded") and o.reason == CHANGED]
    if replaced:
        say(f"{len(replaced)} replaced, because the video behind the id is another than before:")
        for outcome in replaced:
            say(f"  {outcome.id}: now {outcome.path}")
    if tally.failed:
        say(f"{len(tally.failed)} failed:")
        for outcome in tally.failed:
            before = " (failed before)" if outcome.reason == "failed before" else ""
            say(f"  {describe(outcome)}{before}")
    speed = ""
    if tally.num_frames:
        speed = (
            f"; {tally.num_frames} frames in {tally.seconds:.1f} s, {tally.num_frames / tally.seconds:.0f} frames/s, "
            f"{tally.video_seconds / tally.seconds:.1f} x real time"
        )
    code = 3 if tally.failed else 0
    ending = f" -> exit {code}; details: {run.log.path}; retry: the same command with --retry-failed" if code else ""
    say(f"done: {counts(tally)}{speed}{ending}")
    click.echo(str(run.job.set_path))


def counts(tally: Tally) -> str:
    """Say how many videos of a run became what."""
    degraded = f" ({tally.count('degraded')} degraded)" if tally.count("degraded") else ""
    left = tally.num_videos - len(tally.outcomes)
    waiting = f", {left} left" if left else ""
    stored, current = tally.count("done", "degraded"), tally.count("current")
    return f"{stored} stored{degraded}, {current} current, {len(tally.failed)} failed{waiting}"


def say(text: str) -> None:
    """Tell the person something, on stderr, whatever characters a file name put into it."""
    from ..progress import printable

    click.echo(printable(text), err=True)
    sys.stderr.flush()
