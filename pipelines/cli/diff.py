"""``vadx diff``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ...errors import UsageError
from .common import json_option, open_set, print_json, store_option

if TYPE_CHECKING:
    from ..differences import Difference
    from ..sides import Side


@click.command(context_settings={"show_default": True})
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@store_option
@click.option(
    "--videos",
    "-v",
    multiple=True,
    metavar="PATH",
    help="The videos: a folder, files, a glob or @list.txt. A few clips are extracted again to find the cause.",
)
@click.option("--weights", metavar="NAME|FILE", help="A's weights, where the table of weights does not have them.")
@click.option(
    "--try",
    "trials",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A value to try beside the usual ones: transform.resize=260, sampling.fps=23.976, weights=FILE.",
)
@click.option("--device", default="cpu", help="Where clips are extracted again: cpu, cuda or cuda:N.")
@click.option("--format", "layout", default="npy", help="Layout of a side that is a folder of files.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the cause only.")
def diff(
    a: str,
    b: str,
    store: Path,
    videos: tuple[str, ...],
    weights: str | None,
    trials: tuple[str, ...],
    device: str,
    layout: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Say whether two sets of features differ, and why. Exit code 4 if they do.

    A and B are sets of the store (any unique prefix, preset or folder), or folders of .npy files named by id.
    Without --videos the arrays alone are compared; with them, a few clips are extracted again with one thing changed
    at a time, and the change that gives B is the cause.

    \b
    vadx diff i3d downloads/rtfm/                   what arrays show: orders, lengths, norms, rounding
    vadx diff i3d downloads/rtfm/ --videos videos/  and which step was done differently
    vadx diff i3d-k400 i3d-imagenet --json
    """
    from ..differences import Search, find_difference

    search = Search(videos=videos, weights=weights, trials=trials, device=device, on_variant=_show_progress())
    found = find_difference(_side(a, store, layout), _side(b, store, layout), search=search)
    if as_json:
        print_json(found.report())
    elif quiet:
        for sentence in found.causes:
            click.echo(sentence)
    else:
        _print(found)
    return 4 if found.differs else 0


def _side(name: str, store: Path, layout: str) -> Side:
    from ..sides import folder_side, set_side

    path = Path(name)
    if path.exists() and not (path.is_dir() or path.is_file()):
        # To open a named pipe is to wait for a writer, for ever.
        msg = f"{path} is neither a file nor a folder: name a set of the store, a packed file, or a folder of arrays"
        raise UsageError(msg)
    if path.is_dir() and not (path / "recipe.json").is_file():
        return folder_side(path, layout)
    return set_side(open_set(name, store))


def _show_progress() -> Callable[[int, int], None] | None:
    """Count the variants on a terminal's one line."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        click.echo(f"\r{done} of {total} variants tried", err=True, nl=done == total)

    return show


def _print(found: Difference) -> None:
    from ..progress import printable

    def say(text: str) -> None:
        click.echo(printable(text))

    comparison = found.comparison
    say(f"A  {found.a}")
    say(f"B  {found.b}")
    if not found.differs:
        say(
            f"same: {len(comparison.videos)} videos, {comparison.num_identical} of them bit for bit; relative L2 is "
            f"{comparison.max_relative_l2:.2g} at most, {comparison.tolerance:g} is allowed"
        )
    for sentence in found.causes if found.differs else ():
        say(f"cause: {sentence}")
    for finding in comparison.findings:
        if not finding.explains or finding.harmless:
            say(f"  {finding.sentence}")
    for sentence in found.suspects():
        say(f"  perhaps {sentence}")
    for field, one, other in found.stated:
        say(f"  recipes: {field} is {one} in A, {other} in B")
    if found.diagnosis is not None:
        diagnosis = found.diagnosis
        say(
            f"  extracted again: {diagnosis.num_clips} clips of {', '.join(diagnosis.videos)} with "
            f"{diagnosis.num_variants} variants; unchanged, they lie {diagnosis.unchanged:.2g} from B; "
            f"{diagnosis.tolerance:g} is allowed"
        )
    for note in found.notes:
        say(f"  note: {note}")
