"""``vadx worker``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ...errors import UsageError
from ..policy import parse_duration
from .worker_options import insecure_option


@click.command(context_settings={"show_default": True})
@click.option("--scheduler", metavar="ADDRESS", help="Of a Dask scheduler: tcp://HOST:PORT, or tls://HOST:PORT.")
@click.option(
    "--scheduler-file", type=click.Path(path_type=Path), help="The file that `dask scheduler --scheduler-file` writes."
)
@insecure_option
@click.option(
    "--workers", type=click.IntRange(1, 256), help="So many processes.  [default: one a GPU; without a GPU, one]"
)
@click.option("--wait", default="60s", help="How long to wait for the scheduler, as 10m.")
@click.pass_context
def worker(
    ctx: click.Context,
    /,
    scheduler: str | None,
    scheduler_file: Path | None,
    insecure_scheduler: bool,
    workers: int | None,
    wait: str,
) -> int:
    """Give this machine's GPUs, or its cores, to a Dask scheduler, until it ends.

    Each worker has a GPU of its own, and a share of the cores. `vadx extract --scheduler ADDRESS`, on any machine that
    sees the same files under the same paths, then works on them.

    \b
    dask scheduler --host 127.0.0.1
    vadx worker --scheduler tcp://127.0.0.1:8786
    vadx extract --backbone i3d videos/ --scheduler tcp://127.0.0.1:8786
    """
    from ..cluster import check_address
    from ..config import check_context
    from ..worker_host import scheduler_of, serve
    from ..worker_places import places_of, usable_cores, visible_gpus
    from .extract import say

    check_context(ctx)
    if (scheduler is None) == (scheduler_file is None):
        msg = "give the scheduler that the workers are for: --scheduler ADDRESS, or --scheduler-file FILE"
        raise UsageError(msg)
    seconds = parse_duration("--wait", wait)
    if scheduler is not None:
        check_address(scheduler, insecure=insecure_scheduler)
    address = scheduler if scheduler is not None else scheduler_of(scheduler_file or Path(), seconds)
    check_address(address, insecure=insecure_scheduler)
    gpus = visible_gpus()
    places = places_of(workers or len(gpus) or 1, gpus, usable_cores())
    listed = ", ".join(map(str, places)) if gpus else f"each with {places[0]}"
    count = f"{len(places)} worker{'s'[: len(places) > 1]}"
    serve(address, places, wait_seconds=seconds, on_started=lambda: say(f"{count} for {address}: {listed}"))
    say(f"the scheduler {address} has ended, and its workers with it")
    return 0
