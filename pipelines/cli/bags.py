"""``vadx bags``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ...errors import UsageError
from .common import json_option, open_set, print_json, store_option


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", required=False, metavar="SET")
@store_option
@click.option("--rule", "-r", default="sultani", help="How clips become segments: `vadx bags --rules` lists them.")
@click.option("--segments", type=click.IntRange(min=1), help="Segments of a bag.  [default: the rule's own]")
@click.option("--crop-pool", default="keep", help="keep all crops, their mean, or the number of one.")
@click.option("--manifest", "-m", type=click.Path(path_type=Path), help="Labels: a list of `vadx manifest`, or yours.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Only the manifest's videos of this split.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="For rules that draw.")
@click.option("--to", type=click.Path(path_type=Path), help="The file to write.  [default: kept in the feature set]")
@click.option("--rules", "list_rules", is_flag=True, help="Say what each rule does, and where it comes from.")
@json_option
def bags(
    feature_set: str | None,
    store: Path,
    rule: str,
    segments: int | None,
    crop_pool: str,
    manifest: Path | None,
    split: str | None,
    seed: int,
    to: Path | None,
    list_rules: bool,
    as_json: bool,
) -> int:
    """Cut a feature set into bags of segments: one HDF5 file that numpy and h5py read.

    \b
    vadx bags i3d --rule rtfm --manifest ucf.csv --split train
    vadx bags c3d --rule sultani --crop-pool mean --to train.h5
    """
    from ...features.bag_rules import SEGMENTATIONS
    from ..bag_making import BagChoice, ensure_bags, parse_crop_pool
    from ..manifests import read_labels
    from .extract import say

    if list_rules:
        for name, known in SEGMENTATIONS.items():
            click.echo(f"{name:<15} {known.meaning}\n{'':<15} {known.source}")
        return 0
    if feature_set is None:
        msg = "name a feature set, as `vadx ls` shows it: vadx bags SET"
        raise UsageError(msg)
    choice = BagChoice(rule, segments, parse_crop_pool(crop_pool), seed, split)
    labels = None if manifest is None else read_labels(manifest)
    report = ensure_bags(open_set(feature_set, store), choice, manifest=labels, path=to)
    joined = report.joined
    if as_json:
        print_json(
            {
                "path": str(report.path),
                "status": report.status,
                "bags": report.num_bags,
                "shape": report.shape,
                "labels": {"anomalous": report.counts[1], "normal": report.counts[0], "unknown": report.counts[-1]},
                "unlisted": [] if joined is None else list(joined.missing),
                "not_stored": [] if joined is None else list(joined.extra),
                "ambiguous": [] if joined is None else sorted(joined.ambiguous),
            }
        )
        return 0
    shape = " x ".join(map(str, report.shape))
    kinds = ", ".join(
        f"{report.counts[label]} {what}"
        for label, what in ((1, "anomalous"), (0, "normal"), (-1, "of unknown label"))
        if report.counts[label]
    )
    say(f"{report.status}: {report.num_bags} bags of {shape} (segment, crop, feature): {kinds}")
    if joined is not None:
        for what, ids in (
            ("stored, but not in the manifest", joined.missing),
            ("in the manifest, but not stored", joined.extra),
            ("fit several entries", tuple(joined.ambiguous)),
        ):
            if ids:
                shown = ", ".join(list(ids)[:5])
                say(f"{len(ids)} {what}: {shown}{' ...' if len(ids) > 5 else ''}")
    click.echo(str(report.path))
    return 0
