"""``vadx bench``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import rich_click as click

from ...errors import UsageError
from ...extract.engines import ENGINES
from ...features import recipe as recipes
from .common import json_option, print_json, print_table
from .extract import decoders_of, say

if TYPE_CHECKING:
    from ..bench import Order
    from ..bench_report import Baseline, BenchReport, Speed

_REPEAT, _REPEAT_QUICK = 5, 3
_FAIR_SHARE = 0.85


@click.command(context_settings={"show_default": True})
@click.argument("video", required=False, type=click.Path(path_type=Path))
@click.option("--backbone", "-b", "backbone", multiple=True, help="The network.  [default: i3d]")
@click.option("--preset", "preset", multiple=True, help="A whole named recipe.  [default: the backbone's]")
@click.option("--weights", help="As for extract.  [default: the preset's; random if they are not here]")
@click.option("--device", "-d", default="auto", help="cpu, cuda, cuda:N, or auto.")
@click.option("--batch", type=click.IntRange(min=1), help="Network inputs in a batch.  [default: the device's]")
@click.option("--precision", type=click.Choice(get_args(recipes.Precision)), help="Arithmetic of the network.")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="What runs the network.  [default: as for extract]")
@click.option("--decoders", type=click.IntRange(min=0, max=64), help="As for extract; a copy of the video for each.")
@click.option("--frames", type=click.IntRange(min=1), help="Length of the video that is made.  [default: 3000]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=600),
    default=2.0,
    help="A repetition of preprocess, network and write takes at least so long.",
)
@click.option("--repeat", type=click.IntRange(min=1), help=f"Repetitions.  [default: {_REPEAT}]")
@click.option("--quick", is_flag=True, help=f"{_REPEAT_QUICK} repetitions.")
@click.option("--baseline", type=click.Choice(["plain"]), help="Measure the way popular extractors work, too.")
@json_option
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> int:
    """Measure how fast features are made on this machine, and what limits it.

    Decoding, preprocessing, the network and writing are each measured alone, then the whole: in this process, and with
    start-up in a fresh one. Every figure is the median of all repetitions, in frames of the video a second, beside the
    lowest and the highest. Without a VIDEO one is encoded once and kept in the cache folder.

    --baseline plain extracts the same features with OpenCV, PIL and one clip at a time in eager fp32, and says whether
    they are equal: exit code 4 if not.

    \b
    vadx bench --backbone i3d
    vadx bench --backbone r2plus1d --precision bf16 --frames 640 --quick
    vadx bench my.mp4 --baseline plain --json > bench.json
    """
    from ..bench import run_bench
    from ..config import check_context

    check_context(ctx)
    report = run_bench(_order(options), say)
    if options["as_json"]:
        print_json(report)
    else:
        _print(report)
    return 4 if report.baseline is not None and report.baseline.equal is False else 0


def _order(options: dict[str, Any]) -> Order:
    """Read the options. Raises `UsageError` for what cannot be meant."""
    from ..bench import Order, bench_plan
    from ..bench_video import DEFAULT_FRAMES, make_bench_video
    from ..plan import Overrides, choose_presets

    video: Path | None = options["video"]
    if video is not None and options["frames"] is not None:
        msg = "--frames is the length of the video that bench makes; leave it or the VIDEO out"
        raise UsageError(msg)
    if options["quick"] and options["repeat"] is not None:
        msg = f"--quick is --repeat {_REPEAT_QUICK}; leave one of them out"
        raise UsageError(msg)
    presets = choose_presets(options["backbone"], options["preset"])
    if len(presets) != 1:
        msg = f"bench measures one recipe at a time, and got {', '.join(preset.name for preset in presets)}"
        raise UsageError(msg)
    plan, notes = bench_plan(presets[0], Overrides(precision=options["precision"]), options["weights"])
    if options["baseline"]:
        from ..bench_plain import check_plain

        check_plain(plan.recipe)
    for note in notes:
        say(note)
    if video is None:
        say("video: textured, 320x240 H.264, seed 0, kept in the cache folder")
    words = [word for name in options["backbone"] for word in ("--backbone", name)]
    words += [word for name in options["preset"] for word in ("--preset", name)]
    return Order(
        plan=plan,
        video=(video or make_bench_video(options["frames"] or DEFAULT_FRAMES)).absolute(),
        made=video is None,
        device=options["device"],
        batch=options["batch"],
        engine=options["engine"],
        num_decoders=decoders_of(options, [plan]),
        repeat=options["repeat"] or (_REPEAT_QUICK if options["quick"] else _REPEAT),
        seconds=options["seconds"],
        options=tuple(words),
        command=_command(options),
        plain=options["baseline"] == "plain",
        notes=notes,
    )


def _command(options: dict[str, Any]) -> str:
    """Give the command line that these options are, those from settings files and the environment among them."""
    words = ["vadx", "bench", *([str(options["video"])] if options["video"] else [])]
    for name, value in options.items():
        if name in ("video", "as_json") or value is None or value is False or value == ():
            continue
        flag = f"--{name.removesuffix('s') if name in ('backbones', 'presets') else name}"
        for item in value if isinstance(value, tuple) else [value]:
            words += [flag] if item is True else [flag, f"{item:g}" if isinstance(item, float) else str(item)]
    return shlex.join([*words, *(["--json"] if options["as_json"] else [])])


def _print(report: BenchReport) -> None:
    machine, video, settings, summary = report.machine, report.video, report.settings, report.summary
    origin = "given" if video.seed is None else f"made by vadx, seed {video.seed}"
    engine = settings.engine.get("engine", "")
    click.echo(f"{settings.preset}: {settings.weights}, {settings.precision}, batch {settings.batch}, {engine}")
    click.echo(f"on {machine.device}: {machine.device_name}; {machine.cores} cores, {machine.threads} threads")
    click.echo(f"{settings.decoders} decoding processes, {settings.videos} copies of the video at once")
    click.echo(f"{video.frames} frames of {video.width}x{video.height} {video.codec} ({origin}): {video.path}\n")
    print_table(
        ["PART", "FRAMES/S", "MIN..MAX", "MS/FRAME", "COVERS"],
        [_row(name, speed) for name, speed in report.speeds.items()],
    )
    end_to_end = report.speeds["end_to_end"].median
    click.echo(f"\nlimit: {summary.limit}, {summary.bound:.1f} frames/s")
    click.echo(f"the four parts one after another: {summary.in_sequence:.1f} frames/s")
    click.echo(
        f"end to end: {end_to_end:.1f} frames/s, {summary.share:.0%} of the smaller of decode and network "
        f"({summary.smaller})"
    )
    if report.baseline is not None:
        _print_baseline(report.baseline)
    click.echo(f"median of {settings.repeat} repetitions; the parts took turns")
    for note in report.notes:
        click.echo(note)


def _row(name: str, speed: Speed) -> list[str]:
    spread = f"{speed.lowest:.1f}..{speed.highest:.1f}"
    return [name, f"{speed.median:.1f}", spread, f"{1000 / speed.median:.3f}", speed.covers]


def _print_baseline(baseline: Baseline) -> None:
    speed = baseline.speed
    click.echo(
        f"baseline {baseline.name}: {speed.median:.1f} frames/s ({speed.lowest:.1f}..{speed.highest:.1f}), "
        f"{baseline.share:.0%} of its own network alone ({baseline.network.median:.1f}); vadx end to end is "
        f"{baseline.ratio:.2f} times as fast"
    )
    if baseline.share < _FAIR_SHARE:
        click.echo(f"the baseline wastes more than {1 - _FAIR_SHARE:.0%} outside its network: the ratio shows that too")
    verdict = {True: "equal", False: "NOT EQUAL", None: "another precision than the baseline's fp32"}[baseline.equal]
    distance = "of another shape" if baseline.relative_l2 is None else f"relative L2 {baseline.relative_l2:.1e}"
    click.echo(f"its features: {distance} over {baseline.clips} clips ({verdict})")
