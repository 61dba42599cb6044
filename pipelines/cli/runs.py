"""``vadx runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import UsageError
from .common import choose_sets, json_option, open_store, print_json, print_table, store_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..run_logs import PastRun


@click.command(context_settings={"show_default": True})
@click.argument("run", required=False, metavar="[RUN]")
@store_option
@click.option("--set", "feature_set", help="Only of this set.")
@click.option("--failed", is_flag=True, help="Of a run, only the videos that failed.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only names of runs, or ids of a run's videos.")
def runs(run: str | None, store: Path, feature_set: str | None, failed: bool, as_json: bool, quiet: bool) -> int:
    """List the past runs of a store, or say what became of each video in one.

    RUN is a run's name, or the beginning of one.

    \b
    vadx runs
    vadx runs 20261122T15 --failed
    """
    from ..run_logs import find_runs, past_runs

    if failed and run is None:
        msg = "--failed is of one run; name it: vadx runs RUN --failed"
        raise UsageError(msg)
    if feature_set is None:
        # Their logs say it all: a set that cannot be opened has them too.
        opened = open_store(store)
        paths = [opened.path / name for name in opened.names()]
    else:
        paths = [one.path for one in choose_sets(feature_set, store) if one.path.is_dir()]
    known = past_runs(paths)
    if run is None:
        _list_runs(known, as_json=as_json, quiet=quiet)
    else:
        _list_videos(find_runs(known, run), only_failed=failed, as_json=as_json, quiet=quiet)
    return 0


def _list_runs(known: Sequence[PastRun], *, as_json: bool, quiet: bool) -> None:
    from ..progress import printable

    if quiet:
        for name in dict.fromkeys(run.name for run in known):
            click.echo(printable(name))
    elif as_json:
        print_json([_facts(run) for run in known])
    elif known:
        headers = ["RUN", "BEGAN (UTC)", "VIDEOS", "STORED", "CURRENT", "FAILED", "LEFT", "SECONDS", "EXIT", "SET"]
        print_table(headers, [_row(run) for run in known])
    else:
        click.echo("no run was recorded here", err=True)


def _row(run: PastRun) -> list[str]:
    from ..progress import printable

    counts = run.counts
    return [
        printable(run.name),
        "" if run.began is None else f"{run.began:%Y-%m-%d %H:%M:%S}",
        str(run.num_videos),
        str(counts["done"] + counts["degraded"]),
        str(counts["current"]),
        str(counts["failed"]),
        str(run.left),
        "" if run.seconds is None else f"{run.seconds:.0f}",
        "cut short" if run.exit_code is None else str(run.exit_code),
        printable(run.set_name),
    ]


def _facts(run: PastRun) -> dict[str, Any]:
    return {
        "run": run.name,
        "feature_set": run.set_name,
        "began": None if run.began is None else run.began.isoformat(),
        "videos": run.num_videos,
        **run.counts,
        "left": run.left,
        "frames": run.num_frames,
        "seconds": run.seconds,
        "exit_code": run.exit_code,
    }


def _list_videos(found: Sequence[PastRun], *, only_failed: bool, as_json: bool, quiet: bool) -> None:
    from ..progress import printable
    from ..run_logs import video_events

    for run in found:
        shown = [event for event in video_events(run) if not only_failed or event.get("status") == "failed"]
        if as_json:
            print_json({**_facts(run), "events": shown})
            continue
        if len(found) > 1 and not quiet:
            click.echo(printable(f"{run.set_name}:"))
        for event in shown:
            identifier = printable(str(event.get("id", "")))
            click.echo(identifier if quiet else _line(event, identifier))


def _line(event: dict[str, Any], identifier: str) -> str:
    from ..progress import printable

    if event.get("status") == "failed":
        before = " (failed before)" if event.get("reason") == "failed before" else ""
        code, message = (printable(str(event.get(name, ""))) for name in ("code", "message"))
        return f"{'failed':<9} {identifier}: {code}: {message}{before}"
    frames = f": {event['num_frames']} frames in {event.get('seconds', 0):.1f} s" if event.get("num_frames") else ""
    return printable(f"{event.get('status', '?'):<9} {identifier}{frames}")
