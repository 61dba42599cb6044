"""``vadx train``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import StoreError, UsageError
from ..methods import METHODS, PAPER
from .common import json_option, open_any_set, open_set, open_store, print_json, store_option
from .method_options import MethodCommand, changed_settings, nearest_method, was_given

if TYPE_CHECKING:
    from ...features.bag_file import BagFile
    from ...features.stage_set import StageSet
    from ...features.store import FeatureSet
    from ..model_folder import Mark
    from ..stopping import StopSignals
    from ..train import Trained, TrainSettings
    from ..training import Order, Training

MODELS = Path("vadx-models")
"""Where models are written that no other place is named for."""

NO_TUBES = "none"
"""What ``--tubes`` is where segments shall stand in for tubes."""


@click.command(cls=MethodCommand, context_settings={"show_default": True})
@click.argument("source", required=False, metavar="SET")
@store_option
@click.option("--method", help="What is trained: `vadx train --methods` lists them.")
@click.option("--variant", default=PAPER, help="Whose settings are the defaults: paper, or public code.")
@click.option("--manifest", "-m", type=click.Path(path_type=Path), help="Labels and splits: a list of `vadx manifest`.")
@click.option("--to", type=click.Path(path_type=Path), help="The model's folder.  [default: below ./vadx-models]")
@click.option("--rule", "-r", help="How clips become segments: `vadx bags --rules`.  [default: the method's own]")
@click.option("--segments", type=click.IntRange(min=1), help="Segments of a bag.  [default: the rule's own]")
@click.option("--crop-pool", default="keep", help="keep all crops, their mean, or the number of one.")
@click.option("--bags-seed", type=click.IntRange(min=0), default=0, help="For rules that draw.")
@click.option("--tubes", metavar="SET", help="mgpr: features of tubes, as `vadx tubes` makes them; none: segments.")
@click.option("--noise-set", metavar="SET", help="wsal: features of the normal videos with noise.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of weights and of what is drawn.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=500, help="Iterations between checkpoints.")
@click.option("--log-every", type=click.IntRange(min=1), default=10, help="Iterations between two lines of metrics.")
@click.option("--patience", type=click.IntRange(min=0), default=0, help="Stop so many measurements after the best.")
@click.option(
    "--choose-on",
    type=click.Choice(["held-out", "test"]),
    default="held-out",
    help="The best model is that with the highest frame AUC on the manifest's split val, or on test.",
)
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--stop-after", help="Stop in time, as 3h50m: exit 143, and the same command resumes.")
@click.option("--tensorboard", is_flag=True, help="Write metrics for TensorBoard too, which has to be installed.")
@click.option("--methods", "list_methods", is_flag=True, help="Say what each method is, and where it comes from.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the model's folder.")
@click.pass_context
@click.option_panel("Method", options=["--method", "--variant", "--methods"])
@click.option_panel(
    "Data",
    options=["--manifest", "--store", "--rule", "--segments", "--crop-pool", "--bags-seed", "--tubes", "--noise-set"],
)
@click.option_panel(
    "Training",
    options=[
        *("--to", "--seed", "--checkpoint-every", "--log-every", "--patience", "--choose-on", "--device"),
        *("--stop-after", "--tensorboard"),
    ],
)
@click.option_panel("Options")
def train(ctx: click.Context, /, **options: Any) -> int:
    """Train a method on a feature set, whose bags are made where they are missing, or on a bags file.

    With a method named, --help lists its settings too. The model is a folder; the same command resumes, and goes on
    where --iterations is raised. The last and the best checkpoint are kept, both.

    \b
    vadx train i3d --method rtfm --manifest ucf.csv
    vadx train c3d --method deepmil --variant code --manifest ucf.csv --to deepmil-code/
    vadx train bags.h5 --method wsal --learning-rate 0.01 --iterations 500
    vadx train --method wsal --help
    """
    from ..config import check_context

    check_context(ctx)
    if options["list_methods"]:
        return _list_methods(as_json=options["as_json"])
    if options["method"] is None or options["source"] is None:
        what = "a method: --method deepmil" if options["method"] is None else "a feature set, as `vadx ls` shows it"
        msg = f"name {what}; vadx train SET --method METHOD --manifest FILE, and `vadx train --methods` lists methods"
        raise UsageError(msg)
    return _train(ctx, options)


def _list_methods(*, as_json: bool) -> int:
    rows = []
    for spec in METHODS.values():
        method = spec.load()
        rows.append(
            {
                "name": spec.name,
                "meaning": spec.meaning,
                "source": spec.source,
                "rule": method.rule,
                "variants": [PAPER, *method.variants],
            }
        )
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        click.echo(f"{row['name']:<10} {row['meaning']}")
        click.echo(f"{'':<10} {row['source']}; rule {row['rule']}; variants {', '.join(row['variants'])}")
    return 0


def _train(ctx: click.Context, options: dict[str, Any]) -> int:
    from ...extract.engine import pick_device
    from ..policy import parse_duration
    from ..stopping import StopSignals
    from ..train import TrainSettings
    from ..training import plan_training

    settings = TrainSettings(
        seed=options["seed"],
        checkpoint_every=options["checkpoint_every"],
        log_every=options["log_every"],
        patience=options["patience"],
        choose_on=options["choose_on"],
        device=str(pick_device(options["device"])),
    )
    after = options["stop_after"]
    stop = StopSignals(None if after is None else parse_duration("--stop-after", after))
    order = _order(ctx, options)
    training = plan_training(order, settings, check=stop.check)
    folder = options["to"] or MODELS / _folder_name(order)
    return _run(training, folder, settings, stop, options)


def _order(ctx: click.Context, options: dict[str, Any]) -> Order:
    from ...features.bag_file import BagFile
    from ..bag_making import parse_crop_pool
    from ..manifests import read_labels
    from ..training import Order

    spec = nearest_method(options["method"])
    changes = changed_settings(ctx, spec)
    # Refused before a set is looked for: it costs nothing.
    spec.make(options["variant"], **changes)
    store, tubes = options["store"], options["tubes"]
    source = _source(options["source"], store)
    if isinstance(source, BagFile):
        for name in ("rule", "segments", "crop_pool", "bags_seed", "noise_set"):
            if was_given(ctx, name):
                msg = f"{options['source']} has its bags already; leave --{name.replace('_', '-')} out, or name its set"
                raise UsageError(msg)
    return Order(
        method=spec.name,
        source=source,
        manifest=None if options["manifest"] is None else read_labels(options["manifest"]),
        variant=options["variant"],
        changes=changes,
        rule=options["rule"],
        num_segments=options["segments"],
        crop_pool=parse_crop_pool(options["crop_pool"]),
        bags_seed=options["bags_seed"],
        tubes=None if tubes in (None, NO_TUBES) else _tube_set(tubes, store),
        without_tubes=tubes == NO_TUBES,
        noise=None if options["noise_set"] is None else open_set(options["noise_set"], store),
        recipe_of=_set_of(source, store) if isinstance(source, BagFile) else None,
    )


def _source(name: str, store: Path) -> FeatureSet | BagFile:
    """Open what SET means: a bags file, or a feature set in any form.

    Raises
    ------
    UsageError
        if it is neither.
    """
    from ...features.bag_file import BagFile
    from ...features.packed_set import means_packed

    if not means_packed(Path(name)):
        return open_set(name, store)
    try:
        return BagFile(name)
    except StoreError as not_bags:
        try:
            return open_set(name, store)
        except StoreError as error:
            msg = f"{name} is neither a bags file ({not_bags}) nor a packed feature set ({error}); check the path"
            raise UsageError(msg) from error


def _tube_set(name: str, store: Path) -> StageSet:
    from ...features.stage_set import StageSet

    found = open_any_set(name, store)
    if not isinstance(found, StageSet):
        msg = f"{found.name} holds features of clips, not of tubes; `vadx ls` shows what there is"
        raise UsageError(msg)
    return found


def _set_of(file: BagFile, store: Path) -> FeatureSet | None:
    """Find the feature set that a bags file came from: the one that it lies in, or one of the store."""
    from ...features.store import FeatureSet
    from ..training import set_of_digest

    around = file.path.resolve().parent.parent
    near = [FeatureSet(around)] if (around / "recipe.json").is_file() else []
    stored = open_store(store).sets() if store.is_dir() and not (store / "recipe.json").is_file() else []
    return set_of_digest([*near, *stored], file.recipe_digest)


def _folder_name(order: Order) -> str:
    from ...features.bag_file import BagFile

    variant = [] if order.variant == PAPER else [order.variant]
    name = order.source.path.stem if isinstance(order.source, BagFile) else order.source.name
    return "-".join([order.method, *variant, name])


def _run(training: Training, folder: Path, settings: TrainSettings, stop: StopSignals, options: dict[str, Any]) -> int:
    from ..progress import json_line
    from ..train import train as run_loop
    from ..training_display import Board, make_training_display

    as_json, quiet = options["as_json"], options["quiet"]
    talks = not (as_json or quiet)
    iterations = training.method.settings.iterations
    if talks:
        _announce(training, folder, settings)
    if as_json:
        click.echo(json_line(_start_event(training, folder)))
    began = time.perf_counter()
    with ExitStack() as stack:
        board = None
        if options["tensorboard"]:
            board = Board(folder, _done_before(folder))
            stack.callback(board.stop)
        display = make_training_display(iterations, quiet=not talks)
        stack.callback(display.stop)

        def tell(event: Any) -> None:
            display.tell(event)
            if board is not None and event["event"] != "warning":
                board.tell(event)
            if as_json:
                click.echo(json_line(event))
            elif event["event"] == "warning":
                click.echo(f"WARNING: {event['text']}", err=True)

        stack.enter_context(_warnings_told())
        stack.enter_context(stop)
        done = run_loop(
            training.name,
            training.method,
            training.bags,
            folder,
            settings=settings,
            measure=training.measure,
            facts=training.facts,
            tell=tell,
            check=stop.check,
        )
    _report(training, done, time.perf_counter() - began, options)
    return 0


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Keep the loop's warnings from being written twice: they come as events too."""
    log, silence = logging.getLogger("vadx.pipelines.train"), logging.NullHandler()
    log.addHandler(silence)
    try:
        yield
    finally:
        log.removeHandler(silence)


def _done_before(folder: Path) -> int:
    from ..model_folder import STATE, read_tensors

    state = folder / STATE
    return int(read_tensors(state)[1]["last"]["iteration"]) if state.exists() else 0


def _start_event(training: Training, folder: Path) -> dict[str, Any]:
    return {
        "event": "start",
        "method": training.name,
        "variant": training.facts["variant"],
        "model": str(folder),
        "rule": training.bags.rule,
        "shape": list(training.bags.shape),
        "normal": training.count(0),
        "anomalous": training.count(1),
        "iterations": training.method.settings.iterations,
        "measure": training.measured_on,
        "says": list(training.says),
    }


def _announce(training: Training, folder: Path, settings: TrainSettings) -> None:
    from .extract import say

    size = " x ".join("clips" if count is None else str(count) for count in training.bags.shape)
    variant = training.facts["variant"]
    say(
        f"{training.name} ({METHODS[training.name].source}), settings of {variant}: "
        f"{training.count(0)} normal and {training.count(1)} anomalous videos by {training.bags.rule}, {size} "
        f"(segment, crop, feature), {training.method.settings.iterations} iterations on {settings.device} -> {folder}"
    )
    for sentence in training.says:
        say(sentence)
    if training.facts["recipe"] is None:
        say("the recipe of these features is not known here: the model scores feature sets, but no videos")


def _report(training: Training, done: Trained, seconds: float, options: dict[str, Any]) -> None:
    from ..model_folder import read_facts
    from ..progress import json_line

    choice = read_facts(done.folder)["choice"]
    if options["as_json"]:
        event = {
            "event": "summary",
            "model": str(done.folder),
            "method": training.name,
            "last": _mark(done.last),
            "best": None if done.best is None else _mark(done.best),
            "measure": training.measured_on,
            "choice": choice,
            "stopped_early": done.stopped_early,
            "seconds": round(seconds, 3),
        }
        click.echo(json_line(event))
        return
    click.echo(str(done.folder))
    if options["quiet"]:
        return
    click.echo(f"last: {_words(done.last, training.measured_on)}")
    click.echo(f"best: {_words(done.best, training.measured_on) if done.best else 'none'}")
    click.echo(f"choice: {choice}")
    if done.stopped_early:
        click.echo(f"stopped early: no new best in {options['patience']} measurements", err=True)


def _mark(mark: Mark) -> dict[str, Any]:
    return {"iteration": mark.iteration, "measured": mark.measured}


def _words(mark: Mark, what: str) -> str:
    measured = "not measured" if mark.measured is None else f"{mark.measured:.4f} {what}"
    return f"iteration {mark.iteration}, {measured}"
