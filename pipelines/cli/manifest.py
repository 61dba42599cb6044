"""``vadx manifest``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .common import json_option, print_json

if TYPE_CHECKING:
    from ..manifests import Checked


@click.command(context_settings={"show_default": True})
@click.argument("data_set", metavar="DATASET")
@click.argument("root", type=click.Path(path_type=Path), metavar="ROOT")
@click.option(
    "--annotations",
    "-a",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A published list, or a folder of them; may be given several times. Without it they are looked for in ROOT.",
)
@click.option(
    "--counts",
    type=click.Path(path_type=Path),
    help="Decoded frames: lines `name N`, or what `vadx ls SET --json` says.",
)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Write the manifest there.  [default: stdout]")
@click.option("--format", "format_name", help="csv or jsonl.  [default: what the file's name says, else csv]")
@click.option("--present", is_flag=True, help="Leave the videos out that are not below ROOT.")
@click.option("--check", is_flag=True, help="Exit with 4 unless every listed video is there once, as a video.")
@click.option("--limit", type=click.IntRange(min=0), default=20, help="Names shown of each kind; 0 shows all.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the paths of missing videos only.")
def manifest(
    data_set: str,
    root: Path,
    annotations: tuple[Path, ...],
    counts: Path | None,
    out: Path | None,
    format_name: str | None,
    present: bool,
    check: bool,
    limit: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """List a data set's videos with labels, splits and anomalous spans, and say which are missing below ROOT.

    DATASET is ucf-crime, xd-violence, shanghaitech, tad, lad, or list for a list of your own: lines of a path and
    a label, or a manifest. The manifest goes to stdout or --out; what is missing or extra, to stderr.

    \b
    vadx manifest ucf-crime videos/ -a Anomaly_Train.txt -a Temporal_Anomaly_Annotation.txt -o ucf.csv
    vadx manifest tad videos/ -a tad_test_anno.json --counts tad.json     spans need the videos' lengths
    vadx manifest list videos/ -a mine.txt --check -q                     exit code 4, and what is missing
    """
    from ...features.manifest import format_of, manifest_text, write_manifest
    from ..manifests import make_manifest

    if out is not None or format_name is not None:
        format_of(out or "-", format_name)
    checked = make_manifest(data_set, root, annotations=annotations, counts=counts)
    entries = [entry for entry in checked.entries if not present or entry.id in checked.present]
    if out is not None:
        write_manifest(out, entries, format=format_name)
    if as_json:
        print_json({**checked.report(), "manifest": str(out) if out else None})
    elif quiet:
        _print_lines(checked.missing)
    elif out is None:
        click.echo(manifest_text(entries, format_name or "csv"), nl=False)
    if not (as_json or quiet):
        _report(checked, limit, out, len(entries))
    return 4 if check and not checked.is_complete else 0


def _print_lines(paths: Sequence[str]) -> None:
    from ..progress import printable

    if paths:
        click.echo("\n".join(map(printable, paths)))


def _report(checked: Checked, limit: int, out: Path | None, num_written: int) -> None:
    from ..progress import printable

    def say(text: str) -> None:
        click.echo(printable(text), err=True)

    total, here = len(checked.entries), len(checked.present)
    say(
        f"{checked.title} below {checked.root}: {here} of {total} listed videos are there, {len(checked.missing)} "
        f"missing, {len(checked.ambiguous)} ambiguous, {len(checked.extra)} extra"
    )
    for split, labels in checked.by_split().items():
        parts = ", ".join(f"{there} of {listed} {label}" for label, (there, listed) in labels.items())
        say(f"  {split or 'no split'}: {parts}")
    if not checked.lists:
        say("  no published list was found: labels are those of the names, splits and spans are not known (-a LIST)")
    for split, number in checked.unlisted().items():
        say(f"  {number} published {split} videos are in none of the lists given (-a LIST)")
    for note in checked.notes[: limit or None]:
        say(f"  note: {note}")
    missing = [
        f"{path} (there is {checked.other_case[path]})" if path in checked.other_case else path
        for path in checked.missing
    ]
    sections = {
        "missing": missing,
        "ambiguous": [f"{name}: {', '.join(paths)}" for name, paths in checked.ambiguous.items()],
        "there as folders of pictures, which vadx extract does not read": list(checked.as_pictures),
        "not usable": [f"{path}: {reason}" for path, reason in checked.broken.items()],
        "extra": list(checked.extra),
    }
    for title, names in sections.items():
        if names:
            say(f"  {title}: {len(names)}")
            for name in names[: limit or None]:
                say(f"    {name}")
            if limit and len(names) > limit:
                say(f"    and {len(names) - limit} more (--limit 0 shows all)")
    if out is not None:
        say(f"{num_written} videos written to {out}")
