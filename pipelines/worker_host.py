"""Workers of this machine for a scheduler that runs elsewhere: a process each, which end with it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ClusterError
from .stopping import StopSignals
from .worker_places import WORKER_SETTINGS

if TYPE_CHECKING:
    from distributed import Nanny

    from .worker_places import WorkerPlace

_LEAVE_SECONDS = 4.0
"""How long a scheduler may take to let workers go, and then each worker to end: together less than 10 s."""

_START_SECONDS = 60.0
"""How long a worker's process may take to start."""

_POLL_SECONDS = 0.2


def scheduler_of(path: Path, wait_seconds: float) -> str:
    """Read the address that a scheduler wrote into its ``--scheduler-file``.

    Raises
    ------
    ClusterError
        if none stands there in time.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        # It is there before it is written.
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        if time.monotonic() > deadline:
            msg = (
                f"{path} names no scheduler after {wait_seconds:g} s; start one that writes it: dask scheduler "
                f"--host 127.0.0.1 --scheduler-file {path}"
            )
            raise ClusterError(msg)
        time.sleep(_POLL_SECONDS)


def serve(
    address: str,
    places: Sequence[WorkerPlace],
    *,
    wait_seconds: float,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Start a worker for each place, and return when the scheduler ends them, or is gone.

    A worker that dies is started again. Dask's own files lie in a temporary folder.

    Raises
    ------
    ClusterError
        if the scheduler does not answer within ``wait_seconds``, or refuses the workers.
    Stopped
        within 10 s of a signal; what the workers were at is then given to others.
    """
    import dask
    import distributed  # noqa: F401  # importing it sets the levels of what it logs

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        scratch = stack.enter_context(TemporaryDirectory(prefix="vadx-workers-", ignore_cleanup_errors=True))
        settings = {"temporary-directory": scratch, "distributed.comm.timeouts.connect": f"{wait_seconds}s"}
        stack.enter_context(dask.config.set({**settings, **WORKER_SETTINGS}))
        asyncio.run(_Host(address, places, scratch, wait_seconds, on_started, stop).run())


@dataclass(slots=True)
class _Host:
    address: str
    places: Sequence[WorkerPlace]
    scratch: str
    wait_seconds: float
    on_started: Callable[[], None]
    stop: StopSignals
    _nannies: list[Nanny] = field(default_factory=list)

    async def run(self) -> None:
        """Serve until the scheduler ends, or a signal comes."""
        serving = asyncio.ensure_future(self._serve())
        while not serving.done():
            if self.stop.exit_code is not None:
                await self._leave()
                serving.cancel()
                with suppress(asyncio.CancelledError, ClusterError):
                    await serving
                return
            await asyncio.wait([serving], timeout=_POLL_SECONDS)
        serving.result()

    async def _serve(self) -> None:
        from distributed import Nanny

        # A scheduler takes no second worker of a name.
        name = f"{socket.gethostname()}-{os.getpid()}"
        options: dict[str, Any] = {
            "nthreads": 1,
            "host": _own_host(self.address),
            # Named, or it would be every interface of the machine.
            "dashboard_address": "127.0.0.1:0",
            # What a worker needs is stated for its batch: Dask would pause it half-way, or end it.
            "memory_limit": 0,
            "silence_logs": logging.CRITICAL,
            "local_directory": self.scratch,
            "death_timeout": max(_START_SECONDS, self.wait_seconds),
        }
        try:
            for number, place in enumerate(self.places):
                one = Nanny(self.address, name=f"{name}-{number}", env=place.environment, **options)
                self._nannies.append(one)
            await asyncio.gather(*self._nannies)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            await self._leave()
            cause = error.__cause__ or error
            msg = f"no Dask scheduler takes workers at {self.address} ({cause}); start one: dask scheduler"
            raise ClusterError(msg) from error
        self.on_started()
        await asyncio.gather(*(nanny.finished() for nanny in self._nannies))

    async def _leave(self) -> None:
        started = [nanny for nanny in self._nannies if nanny.worker_address is not None]
        if started:
            # Or what they were at would count as fatal to them.
            addresses = [nanny.worker_address for nanny in started]
            with suppress(OSError, RuntimeError, TimeoutError):
                await asyncio.wait_for(started[0].scheduler.retire_workers(workers=addresses), _LEAVE_SECONDS)
        closing = [asyncio.wait_for(nanny.close(timeout=_LEAVE_SECONDS / 2), _LEAVE_SECONDS) for nanny in self._nannies]
        await asyncio.gather(*closing, return_exceptions=True)


def _own_host(address: str) -> str:
    """Give the address of this machine by which the scheduler reaches it: no other listens to strangers."""
    from distributed.comm.addressing import unparse_host_port
    from distributed.utils import get_ip

    host = urlsplit(address).hostname or "127.0.0.1"
    try:
        return str(unparse_host_port(get_ip(host, urlsplit(address).port or 8786)))
    except OSError:
        return "127.0.0.1" if host == "localhost" else ""
