"""``vadx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource

from ...errors import UsageError
from .common import json_option, open_any_set, print_json, store_option

if TYPE_CHECKING:
    from ...features.layouts import CheckReport
    from ...features.stage_set import StageSet
    from ...features.store import FeatureSet

_TUBES_OWN = ("identifiers",)
_LAYOUTS_OWN = ("manifest", "data_set", "counts", "crop", "prefix", "fit", "check")


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", required=False, metavar="[SET]")
@click.argument("identifiers", nargs=-1, metavar="[ID]...")
@store_option
@click.option("--format", "-f", "kind", help="Of features: see --formats. Of tubes: mot, coco or csv.")
@click.option("--formats", "list_formats", is_flag=True, help="Say what each format is, and what it cannot hold.")
@click.option("--to", type=click.Path(path_type=Path), help="A folder; for the tubes of one video a file.")
@click.option("--manifest", "-m", type=click.Path(path_type=Path), help="Labels, splits and spans, for features.")
@click.option("--data-set", default="own", help="Whose files the target expects: own, ucf-crime, xd-violence ...")
@click.option("--counts", type=click.Path(path_type=Path), help="Frames of videos, where a target counts its own way.")
@click.option("--crop", help="The number of one crop, or mean.  [default: as the target has them]")
@click.option("--prefix", help="What lists put before paths.  [default: the folder's own path]")
@click.option(
    "--fit", type=click.Choice(["refuse", "trim"]), default="refuse", help="Test videos with a clip too many."
)
@click.option("--check", is_flag=True, help="Read --to again as the target does; exit code 4 if it would not fit.")
@json_option
@click.pass_context
def export(ctx: click.Context, /, **options: Any) -> int:
    """Write features in another repository's files, or tubes for other programs.

    Features go with the lists and the ground truth that the target's scripts hard-code. Tubes of one video go to
    stdout without --to.

    \b
    vadx export i3d --format rtfm --data-set ucf-crime --manifest ucf.csv --to rtfm/
    vadx export --format rtfm --to rtfm/ --check
    vadx export tubes vtest --format mot --to vtest.txt
    """
    if options["list_formats"]:
        return _list_formats(as_json=options["as_json"])
    if options["kind"] is None:
        msg = "--format says whose files: give --format rtfm, say; `vadx export --formats` lists them"
        raise UsageError(msg)
    if options["check"]:
        return _check(options)
    if options["feature_set"] is None:
        msg = "name a set, as `vadx ls` shows it: vadx export SET --format NAME --to FOLDER"
        raise UsageError(msg)
    from ...features.stage_set import StageSet

    item = open_any_set(options["feature_set"], options["store"])
    if isinstance(item, StageSet):
        _refuse(ctx, _LAYOUTS_OWN, "is for clip features, and this is a set of tubes")
        return _export_tubes(item, options)
    _refuse(ctx, _TUBES_OWN, "are for tubes: all videos of the manifest are exported")
    return _export_features(item, options)


def _refuse(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if ctx.params[name] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "ids" if name == "identifiers" else f"--{name.replace('_', '-')}"
            msg = f"{option} {why}; leave {'them' if option == 'ids' else 'it'} out"
            raise UsageError(msg)


def _list_formats(*, as_json: bool) -> int:
    from ...detectors.tube_files import TUBE_FORMATS
    from ...features.layouts import LAYOUTS

    rows = [
        {
            "name": name,
            "meaning": layout.meaning,
            "data_sets": list(layout.data_sets),
            "loses": layout.loses,
            "source": layout.source,
        }
        for name, layout in LAYOUTS.items()
    ]
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        click.echo(f"{row['name']:<12} {row['meaning']}")
        click.echo(f"{'':<12} data sets: {', '.join(row['data_sets'])}; source: {row['source']}")
        click.echo(f"{'':<12} not kept: {row['loses']}")
    click.echo(f"tubes: {', '.join(TUBE_FORMATS)}")
    return 0


def _export_features(item: FeatureSet, options: dict[str, Any]) -> int:
    from ...features.layouts import export_layout
    from ...features.truth_readers import read_counts
    from ..bag_making import parse_crop_pool
    from ..manifests import read_labels
    from .extract import say

    for name, example in (("manifest", "--manifest ucf.csv (vadx manifest makes one)"), ("to", "--to FOLDER")):
        if options[name] is None:
            msg = f"features are exported with labels, into a folder of their own: give {example}"
            raise UsageError(msg)
    report = export_layout(
        options["kind"],
        read_labels(options["manifest"]),
        item,
        options["to"],
        data_set=options["data_set"],
        recipe=item.recipe,
        sizes=item.summaries(),
        counts=None if options["counts"] is None else read_counts(options["counts"]),
        crop=None if options["crop"] is None else parse_crop_pool(options["crop"]),
        prefix=options["prefix"],
        fit=options["fit"],
    )
    if options["as_json"]:
        print_json({**_report_rows(report), "files": list(report.files), "folder": str(report.folder)})
        return 0
    for split, (anomalous, normal) in report.counts.items():
        say(f"{split}: {anomalous} anomalous and {normal} normal videos")
    if report.num_labels:
        say(f"ground truth: {report.num_labels} frames, {report.num_positives} of them anomalous")
    for line in (*report.relies_on, *report.notes):
        say(line)
    say(f"not kept: {report.loses}")
    if report.needs:
        say(f"the target's scripts also open: {report.needs}")
    say(
        f"{len(report.files)} files; check them with: vadx export --format {report.layout} --to {report.folder} --check"
    )
    click.echo(str(report.folder))
    return 0


def _report_rows(report: Any) -> dict[str, Any]:
    return {
        "layout": report.layout,
        "data_set": report.data_set,
        "counts": {split: {"anomalous": a, "normal": n} for split, (a, n) in report.counts.items()},
        "relies_on": list(report.relies_on),
        "fits_scripts": report.fits_scripts,
        "num_labels": report.num_labels,
    }


def _check(options: dict[str, Any]) -> int:
    from ...features.layouts import check_layout
    from .extract import say

    if options["to"] is None:
        msg = "--check reads what was exported: give --to FOLDER"
        raise UsageError(msg)
    report: CheckReport = check_layout(options["kind"], options["to"])
    if options["as_json"]:
        print_json({**_report_rows(report), "problems": list(report.problems)})
        return 0 if report.is_clean else 4
    for problem in report.problems:
        click.echo(problem)
    for line in report.relies_on:
        say(line)
    say(f"{len(report.problems)} problems in {options['to']}, read as {report.layout} reads it")
    return 0 if report.is_clean else 4


def _export_tubes(item: StageSet, options: dict[str, Any]) -> int:
    from ...detectors.detection_files import DETECTION_FORMATS
    from ...detectors.tube_files import TUBE_FORMATS, tube_lines, write_tubes
    from ...features.keys import file_of
    from ..tube_shards import tubes_of

    kind, to = options["kind"], options["to"]
    if item.kind != "tubes":
        msg = f"{item.name} holds {item.kind}: name a set of tubes, as `vadx ls` shows it"
        raise UsageError(msg)
    if kind not in TUBE_FORMATS:
        msg = f"tubes are not written as {kind!r}: give --format {'|'.join(TUBE_FORMATS)}"
        raise UsageError(msg)
    chosen = _chosen(item, options["identifiers"])
    if to is None:
        if len(chosen) != 1:
            msg = f"{len(chosen)} videos do not go to one output: name one of them, or give --to FOLDER"
            raise UsageError(msg)
        for line in tube_lines(tubes_of(item.open(chosen[0])), kind):
            click.echo(line)
        return 0
    suffix = DETECTION_FORMATS[kind].suffix
    into_folder = to.is_dir() or to.suffix != suffix
    if not into_folder and len(chosen) != 1:
        msg = f"--to {to} is one file, and there are {len(chosen)} videos: give a folder, or name one video"
        raise UsageError(msg)
    for identifier in chosen:
        target = file_of(to, identifier, suffix) if into_folder else to
        if into_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        write_tubes(target, tubes_of(item.open(identifier)), format=kind)
    click.echo(f"{len(chosen)} videos -> {to}", err=True)
    return 0


def _chosen(item: StageSet, identifiers: tuple[str, ...]) -> list[str]:
    known = list(item.summaries())
    missing = [identifier for identifier in identifiers if identifier not in known]
    if missing:
        msg = f"{item.name} has no video {missing[0]!r}; `vadx ls {item.name}` lists them"
        raise UsageError(msg)
    return list(identifiers) or known
