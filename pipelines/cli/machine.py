"""``vadx probe``, ``doctor`` and ``backbones``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .common import json_option, print_json, print_table, store_option

if TYPE_CHECKING:
    from ...extract.library import Probe
    from ..catalog import BackboneLine


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Count any damage as bad.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the paths of bad videos only.")
def probe(inputs: tuple[str, ...], strict: bool, as_json: bool, quiet: bool) -> int:
    """Decode videos to their end and say what each is. Exit code 4 if one is bad.

    INPUTS are as for `vadx extract`. With --json one line of JSON for each video.
    """
    import msgspec

    from ...extract.library import probe_video
    from ...features.keys import as_text
    from ..inputs import find_videos
    from ..progress import json_line, printable

    found = find_videos(inputs)
    num_bad = 0
    for entry in sorted([*found.entries, *found.colliding], key=lambda e: e.id):
        result = probe_video(entry.path, strict=strict)
        num_bad += result.code is not None
        if as_json:
            message = None if result.message is None else as_text(result.message)
            told = replace(result, path=as_text(result.path), message=message)
            click.echo(json_line({"id": entry.id, **msgspec.to_builtins(told)}))
        elif not quiet:
            _print_probe(result)
        elif result.code is not None:
            click.echo(printable(result.path))
    if not (as_json or quiet):
        click.echo(f"{len(found.entries) + len(found.colliding)} videos, {num_bad} bad", err=True)
    return 4 if num_bad else 0


def _print_probe(result: Probe) -> None:
    from ..progress import printable

    if result.code is not None:
        click.echo(f"error[{result.code}] {printable(result.message or '')}")
        return
    info, facts = result.info, result.facts
    if info is None or facts is None:
        return
    rate = f"{info.fps:.3f} frames/s" + (" (variable)" if result.variable_rate else "")
    declared = "none" if facts.num_frames_declared is None else facts.num_frames_declared
    turned = f", turned {facts.rotation_degrees} degrees" if facts.rotation_degrees else ""
    damage = "; ".join(facts.degradations()) or "sound"
    click.echo(
        f"{printable(result.path)}: {info.codec} in {info.container}, {facts.width}x{facts.height}{turned}, "
        f"{info.file_bytes} bytes, {rate}, {facts.num_frames_decoded} frames decoded, {declared} declared: {damage}"
    )


@click.command()
@click.argument("pattern", default="*")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
@click.option("--markdown", is_flag=True, help="Print docs/backbones.md: the networks of vadx itself.")
def backbones(pattern: str, as_json: bool, quiet: bool, markdown: bool) -> int:
    """List networks, their presets and weights. PATTERN is a wildcard such as '*r2*'."""
    import msgspec

    from ..catalog import catalog
    from ..catalog import markdown as as_markdown

    if markdown:
        click.echo(as_markdown(), nl=False)
        return 0
    rows = catalog(pattern)
    if as_json:
        print_json([msgspec.to_builtins(row) for row in rows])
    elif quiet:
        for row in rows:
            click.echo(row.name)
    else:
        cells = [
            [row.name, row.title, str(row.dim), row.clip, row.weights or "random only", _here(row), row.licence]
            for row in rows
        ]
        print_table(["NAME", "NETWORK", "DIM", "CLIP", "WEIGHTS", "HERE", "LICENCE"], cells)
        if pattern == "*":
            click.echo("tsn:timm/NAME is any image network of timm; `vadx presets` lists recipes", err=True)
    return 0


def _here(row: BackboneLine) -> str:
    others = sum(line.present for line in row.checkpoints if line.name != row.weights)
    return ("yes" if row.present else "no") + (f" (+{others})" if others else "")


@click.command()
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
def detectors(as_json: bool, quiet: bool) -> int:
    """List detectors and their weights."""
    from ...detectors.detector import detectors as table
    from ...extract.weights import record_of

    rows = [
        {
            "name": spec.name,
            "title": spec.title,
            "weights": spec.weights,
            "here": spec.brings_sha256 is not None or bool(spec.weights and record_of(spec.weights)),
            "categories": len(spec.categories),
            "licence": spec.licence,
        }
        for spec in table().values()
    ]
    if as_json:
        print_json(rows)
    elif quiet:
        for row in rows:
            click.echo(row["name"])
    else:
        cells = [
            [
                str(row["name"]),
                str(row["title"]),
                str(row["weights"] or "its own"),
                "yes" if row["here"] else "no",
                str(row["categories"]),
                str(row["licence"]),
            ]
            for row in rows
        ]
        print_table(["NAME", "DETECTOR", "WEIGHTS", "HERE", "CATEGORIES", "LICENCE"], cells)
    return 0


@click.command()
@store_option
@click.option("--settings", is_flag=True, help="Print every setting of every command, and where it comes from.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, store: Path, settings: bool, as_json: bool) -> int:
    """Check this machine, and say what to mend. Exit code 4 if something that is installed is broken."""
    if settings:
        return _print_settings(ctx, as_json=as_json)
    from ..doctor import examine

    findings = examine(store)
    broken = [finding for finding in findings if finding.state == "broken"]
    if as_json:
        import msgspec

        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        marks = {"ok": "ok    ", "absent": "-     ", "broken": "BROKEN"}
        for finding in findings:
            fix = f"  -> {finding.fix}" if finding.fix else ""
            click.echo(f"{marks[finding.state]}  {finding.what:<12}  {finding.evidence}{fix}")
    return 4 if broken else 0


def _print_settings(ctx: click.Context, *, as_json: bool) -> int:
    from ..config import list_settings, settings_file
    from . import COMMANDS, cli

    commands = [command for name in COMMANDS if (command := cli.get_command(ctx, name)) is not None]
    found = [setting for command in commands for setting in list_settings(command, COMMANDS)]
    if as_json:
        rows = [{"command": s.command, "name": s.name, "value": _plain(s.value), "origin": s.origin} for s in found]
        print_json(rows)
        return 0
    table = [[s.command, s.name, str(_plain(s.value)), s.origin] for s in found]
    print_table(["COMMAND", "SETTING", "VALUE", "FROM"], table)
    click.echo(f"settings file: {settings_file() or 'none (vadx.toml, or [tool.vadx] in pyproject.toml)'}", err=True)
    return 0


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
