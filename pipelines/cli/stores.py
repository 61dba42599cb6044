"""``vadx ls``, ``info``, ``verify`` and ``gc``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import StoreError, UsageError
from .common import (
    FiniteRange,
    choose_sets,
    human_bytes,
    json_option,
    open_any_set,
    open_sets,
    print_json,
    print_table,
    store_option,
    tell_unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...features.stage_set import StageSet
    from ...features.store import FeatureSet
    from ...features.timeline import ClipFeatures

DAY_HOURS = 24.0
_LINES_AT_ONCE = 1000


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", required=False, metavar="[SET]")
@store_option
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names or ids only.")
def ls(feature_set: str | None, store: Path, as_json: bool, quiet: bool) -> int:
    """List feature sets, or the videos of one.

    SET is any unique prefix of a set's name, its preset, or its folder.

    \b
    vadx ls                    the sets of ./vadx-store
    vadx ls i3d                the videos of the one set that begins with i3d
    vadx ls i3d -q | wc -l     how many there are
    """
    from ...features.stage_set import StageSet
    from .stages import list_stage

    if feature_set is None:
        sets, unreadable = open_sets(store)
        _list_sets(sets, as_json=as_json, quiet=quiet)
        return tell_unreadable(unreadable)
    item = open_any_set(feature_set, store)
    if isinstance(item, StageSet):
        list_stage(item, as_json=as_json, quiet=quiet)
    else:
        _list_videos(item, as_json=as_json, quiet=quiet)
    return 0


def _list_sets(sets: list[FeatureSet | StageSet], *, as_json: bool, quiet: bool) -> None:
    from ...features.stage_set import StageSet
    from ..progress import printable
    from .stages import STAGE_HEADERS, stage_row, stage_summary

    if quiet:
        for item in sets:
            click.echo(printable(item.name))
        return
    rows = [_set_summary(item) for item in sets if not isinstance(item, StageSet)]
    stages = [stage_summary(item) for item in sets if isinstance(item, StageSet)]
    if as_json:
        print_json([*rows, *stages])
        return
    headers = ["SET", "PRESET", "VIDEOS", "FAILED", "CLIPS", "CROPS x DIM", "HOURS", "SIZE"]
    table = [
        [
            printable(row["name"]),
            printable(row["preset"] or ("(imported)" if row["imported"] else "")),
            str(row["videos"]),
            str(row["failed"]),
            str(row["clips"]),
            row["shape"],
            "unknown" if row["hours"] is None else f"{row['hours']:.2f}",
            human_bytes(row["bytes"]),
        ]
        for row in rows
    ]
    if table or not stages:
        print_table(headers, table)
    if stages:
        click.echo("", nl=bool(table))
        print_table(STAGE_HEADERS, [stage_row(row) for row in stages])


def _set_summary(item: FeatureSet) -> dict[str, Any]:
    import numpy as np

    rows = item.summaries().rows
    recipe, timed = item.recipe, rows["seconds"][~np.isnan(rows["seconds"])]
    shapes = sorted(f"{crops} x {dim}" for crops, dim in np.unique(rows[["num_crops", "dim"]]).tolist())
    return {
        "name": item.name,
        "preset": item.preset,
        "imported": recipe.imported is not None,
        "weights": item.weights_name or recipe.stated()["weights"],
        "videos": len(rows),
        "failed": len(item.failures()),
        "clips": int(rows["num_clips"].sum()),
        "shape": ", ".join(shapes) or "-",
        # Of those videos whose times are known: only imported ones have none.
        "hours": float(timed.sum()) / 3600 if len(timed) or not len(rows) else None,
        "bytes": int(rows["bytes"].sum()),
    }


def _list_videos(item: FeatureSet, *, as_json: bool, quiet: bool) -> None:
    import msgspec

    from ..progress import harmless, printable

    summaries = item.summaries()
    if quiet:
        ids = summaries.ids
        # Each `echo` is flushed, which takes longer than all else where there are 100,000.
        for start in range(0, len(ids), _LINES_AT_ONCE):
            click.echo("\n".join(map(harmless, ids[start : start + _LINES_AT_ONCE])))
    elif as_json:
        failed = [{"id": f.id, "code": f.code, "path": f.path} for f in item.failures()]
        videos = [msgspec.to_builtins(s) for s in summaries.values()]
        print_json({"videos": [{**row, "seconds": finite(row["seconds"])} for row in videos], "failed": failed})
    else:
        rows = [
            [
                printable(s.id),
                f"{s.num_clips} x {s.num_crops} x {s.dim}",
                str(s.num_frames),
                "unknown" if math.isnan(s.seconds) else f"{s.seconds:.1f}",
                "degraded" if s.degraded else "",
            ]
            for s in summaries.values()
        ]
        rows += [[printable(f.id), "-", "-", "-", f.code] for f in item.failures()]
        print_table(["ID", "CLIPS x CROPS x DIM", "FRAMES", "SECONDS", "NOTE"], rows)


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", metavar="SET")
@click.argument("identifier", required=False, metavar="[ID]")
@store_option
@json_option
def info(feature_set: str, identifier: str | None, store: Path, as_json: bool) -> int:
    """Say what a feature set, or one video in it, is.

    \b
    vadx info i3d                        the recipe, as prose
    vadx info i3d Abuse/Abuse001_x264    one video
    """
    from ...features.stage_set import StageSet
    from .stages import info_stage, info_stage_video

    item = open_any_set(feature_set, store)
    if isinstance(item, StageSet):
        if identifier is None:
            info_stage(item, as_json=as_json)
        else:
            info_stage_video(item, identifier, as_json=as_json)
    elif identifier is not None:
        _info_video(item, identifier, as_json=as_json)
    elif as_json:
        extra = {"digest": item.digest, "recipe": item.recipe.stated(), "path": str(item.path)}
        extra |= {"frames_from": item.frames_from()} if item.recipe.imported is not None else {}
        print_json({**_set_summary(item), **extra})
    else:
        _info_set(item)
    return 0


def finite(seconds: float) -> float | None:
    """Give what JSON can hold of a time: None where nobody knows it."""
    return None if math.isnan(seconds) else seconds


def _info_set(item: FeatureSet) -> None:
    from ...features.timeline import FRAMES_FROM
    from ..prose import prose

    summary = _set_summary(item)
    lines = [item.name, f"  {prose(item.recipe)}"]
    if item.recipe.imported is None:
        lines += [
            f"  preset   {item.preset}",
            f"  weights  {item.weights_name or 'not of the table'}, sha256 {item.recipe.weights}",
        ]
    else:
        found = ", ".join(f"of {count} videos {FRAMES_FROM.get(how, how)}" for how, count in item.frames_from().items())
        lines += [
            f"  unknown  {', '.join(item.recipe.unknown) or 'nothing'}",
            f"  frames   {found or 'no video yet'}",
            f"  seconds  {'unknown' if summary['hours'] is None else 'by a frame rate that was stated'}",
        ]
    lines += [
        f"  digest   {item.digest}",
        f"  holds    {summary['videos']} videos, {summary['clips']} clips, {human_bytes(summary['bytes'])}",
        f"  failed   {summary['failed']}",
        f"  folder   {item.path}",
    ]
    _print_lines(lines)


def _print_lines(lines: list[str]) -> None:
    """Print lines in which names and texts stand that others chose."""
    from ..progress import printable

    click.echo("\n".join(map(printable, lines)))


def _info_video(item: FeatureSet, identifier: str, *, as_json: bool) -> None:
    import msgspec

    from ..progress import printable

    try:
        features = item[identifier]
    except KeyError as error:
        record = item.failure(identifier)
        if record is None:
            raise UsageError(str(error.args[0])) from error
        if as_json:
            print_json({"id": identifier, "status": "failed", "code": record.code, "evidence": record.evidence})
        else:
            click.echo(printable(f"{identifier}: failed, {record.code}: {record.evidence}"))
        return
    path = item.shard_path(identifier)
    if as_json:
        facts = msgspec.to_builtins(features.facts)
        print_json(
            {
                "id": identifier,
                "shard": str(path),
                "shape": features.values.shape,
                "dtype": features.values.dtype.name,
                "facts": facts,
                "num_padded_frames": features.num_padded_frames,
                "provenance": features.provenance,
            }
        )
        return
    _print_video(identifier, features, path)


def _print_video(identifier: str, features: ClipFeatures, path: Path) -> None:
    from ...features.timeline import FRAMES_FROM

    facts = features.facts
    first, last = features.seconds[0, 0], features.seconds[-1, 1]
    shape = " x ".join(map(str, features.values.shape))
    lines = [identifier, f"  features  {shape} (clip, crop, feature) {features.values.dtype}"]
    if facts.frames_from is None:
        lines += [
            f"  video     {facts.width}x{facts.height}, {facts.fps:.3f} frames/s, {facts.codec} in {facts.container}",
            f"  frames    {facts.num_frames_decoded} decoded, {facts.num_frames_declared} declared",
            f"  time      {first:.3f} to {last:.3f} s ({facts.time_source})",
            f"  padding   {features.num_padded_frames} frames made by the tail rule",
            f"  turned    {facts.rotation_degrees} degrees clockwise",
            f"  damage    {'; '.join(facts.degradations()) or 'none'}",
        ]
    else:
        known = f"{first:.3f} to {last:.3f} s, at {facts.fps:g} frames/s, as stated"
        lines += [
            "  video     unknown: its features were imported",
            f"  frames    {facts.num_frames_decoded}, {FRAMES_FROM.get(facts.frames_from, facts.frames_from)}",
            f"  time      {'unknown' if math.isnan(first) else known}",
        ]
    lines += [f"  made by   {', '.join(f'{k} {v}' for k, v in features.provenance.items())}", f"  shard     {path}"]
    _print_lines(lines)


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", required=False, metavar="[SET]")
@store_option
@json_option
@click.option("--quick", is_flag=True, help="Check headers and sizes only; the full check hashes every byte.")
@click.option("--quiet", "-q", is_flag=True, help="Print the paths of damaged shards only.")
def verify(feature_set: str | None, store: Path, as_json: bool, quick: bool, quiet: bool) -> int:
    """Check every shard of a store, or of one SET. Exit code 4 if one, or a set's recipe, is damaged.

    A damaged shard is made again by the same extract command that made it. Without its recipe a set's shards are not
    checked. SET may also be the folder of a trained model, or a bags file.
    """
    from ...features.shard import DAMAGE
    from ..progress import printable
    from ..verifying import files_to_verify

    checks = None if feature_set is None else files_to_verify(Path(feature_set))
    if checks is not None:
        return _tell_of_files(checks, as_json=as_json, quiet=quiet)
    num_shards = 0
    sets, findings = _sets_to_verify(feature_set, store)
    num_recipes = len(findings)
    for item in sets:
        for path, error in item.verify(full=not quick):
            num_shards += error is None or error.damage != "record"
            if error is not None:
                findings.append({"path": str(path), "damage": error.damage, "evidence": error.evidence})
    if as_json:
        print_json({"shards": num_shards, "damaged": findings, "check": "quick" if quick else "full"})
    else:
        for finding in findings:
            if quiet:
                click.echo(printable(finding["path"]))
            else:
                meaning = DAMAGE[finding["damage"]]
                _print_lines([f"{finding['path']}: {finding['damage']} ({meaning}): {finding['evidence']}"])
        check = "quick check" if quick else "full check"
        num_damaged = len(findings) - num_recipes
        ending = "; repeat the command that made them, which makes them again" if num_damaged else ""
        sets_left = f"; {num_recipes} of the sets could not be checked" if num_recipes else ""
        click.echo(f"{num_shards} shards, {num_damaged} damaged ({check}){ending}{sets_left}", err=True)
    return 4 if findings else 0


def _tell_of_files(checks: Iterator[tuple[Path, StoreError | None]], *, as_json: bool, quiet: bool) -> int:
    checked = list(checks)
    findings = [{"path": str(path), "evidence": str(error)} for path, error in checked if error is not None]
    if as_json:
        print_json({"checked": len(checked), "damaged": findings, "check": "full"})
    else:
        _print_lines([finding["path" if quiet else "evidence"] for finding in findings])
        click.echo(f"{len(checked)} checked, {len(findings)} damaged (full check)", err=True)
    return 4 if findings else 0


def _sets_to_verify(name: str | None, store: Path) -> tuple[list[FeatureSet | StageSet], list[dict[str, str]]]:
    """Open the named set, or all of a store; those whose ``recipe.json`` is not what was written are findings."""
    if name is None:
        sets, unreadable = open_sets(store)
    else:
        sets, unreadable = [], {}
        try:
            sets = choose_sets(name, store)
        except StoreError as error:
            place = next((one for one in (Path(name), store / name) if (one / "recipe.json").is_file()), None)
            if place is None:
                raise
            unreadable[place] = error
    findings = []
    for path, reason in unreadable.items():
        file = str(path / "recipe.json")
        findings.append({"path": file, "damage": "record", "evidence": str(reason).removeprefix(f"{file}: ")})
    return sets, findings


@click.command(context_settings={"show_default": True})
@click.argument("feature_set", required=False, metavar="[SET]")
@store_option
@json_option
@click.option("--older-than", type=FiniteRange(min=0), default=DAY_HOURS, help="Hours since it was last written.")
@click.option("--yes", is_flag=True, help="Sweep; without it, only list.")
def gc(feature_set: str | None, store: Path, as_json: bool, older_than: float, yes: bool) -> int:
    """Sweep what killed runs left behind in tmp/, and failures of videos that were stored since.

    A file younger than --older-than may belong to a run that is going on, here or on another machine, and stays.
    """
    from ...features.packed_set import PackedSet
    from ..sweep import find_leftovers, sweep

    rows = []
    sets, unreadable = open_sets(store) if feature_set is None else (choose_sets(feature_set, store), {})
    for item in sets:
        if isinstance(item, PackedSet):
            msg = f"{item.path} is a packed file, in which nothing is left behind; name a set of the store: vadx gc SET"
            raise UsageError(msg)
        for leftover in find_leftovers(item, time.time() - older_than * 3600):
            swept = yes and leftover.may_go and sweep(item, leftover)
            rows.append({**leftover.row(), "swept": swept})
    if as_json:
        print_json(rows)
        return tell_unreadable(unreadable)
    for row in rows:
        verb = "swept" if row["swept"] else ("would sweep" if row["may_go"] else "stays")
        _print_lines([f"{verb}: {row['path']} ({human_bytes(row['bytes'])}): {row['reason']}"])
    waiting = sum(row["may_go"] and not row["swept"] for row in rows)
    hint = "; to sweep them, add --yes" if waiting else ""
    click.echo(f"{len(rows)} left behind, {sum(row['swept'] for row in rows)} swept{hint}", err=True)
    return tell_unreadable(unreadable)
