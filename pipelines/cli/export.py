"""``vadx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ...errors import UsageError
from .common import open_any_set, store_option

if TYPE_CHECKING:
    from ...features.stage_set import StageSet


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", metavar="SET")
@click.argument("identifiers", nargs=-1, metavar="[ID]...")
@store_option
@click.option("--format", "-f", "kind", required=True, help="mot, coco or csv.")
@click.option("--to", type=click.Path(path_type=Path), help="A file, or a folder with one for each video.")
def export(feature_set: str, identifiers: tuple[str, ...], store: Path, kind: str, to: Path | None) -> int:
    """Write tubes for other programs. Without --to the one video goes to stdout.

    \b
    vadx export tubes vtest --format mot --to vtest.txt
    vadx export tubes --format csv --to tubes/
    """
    from ...detectors.detection_files import DETECTION_FORMATS
    from ...detectors.tube_files import TUBE_FORMATS, tube_lines, write_tubes
    from ...features.stage_set import StageSet
    from ..tube_shards import tubes_of

    item = open_any_set(feature_set, store)
    if not isinstance(item, StageSet) or item.kind != "tubes":
        what = item.kind if isinstance(item, StageSet) else "clip features"
        msg = f"{item.name} holds {what}: name a set of tubes, as `vadx ls` shows it"
        raise UsageError(msg)
    if kind not in TUBE_FORMATS:
        msg = f"tubes are not written as {kind!r}: give --format {'|'.join(TUBE_FORMATS)}"
        raise UsageError(msg)
    chosen = _chosen(item, identifiers)
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
        target = to / f"{identifier}{suffix}" if into_folder else to
        if into_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        write_tubes(target, tubes_of(item.open(identifier)), format=kind)
    click.echo(f"{len(chosen)} videos -> {to}", err=True)
    return 0


def _chosen(item: StageSet, identifiers: tuple[str, ...]) -> list[str]:
    known = [outline.id for outline in item.outlines()]
    missing = [identifier for identifier in identifiers if identifier not in known]
    if missing:
        msg = f"{item.name} has no video {missing[0]!r}; `vadx ls {item.name}` lists them"
        raise UsageError(msg)
    return list(identifiers) or known
