"""The live view of a run on a terminal."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import QuietDisplay, Tally, describe, printable
from .run_view import Row, RunView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .inputs import Entry
    from .job import Outcome
    from .worker_reports import Length, Place

_LABEL_COLUMNS = 48


class RichDisplay(QuietDisplay):
    """A line for each worker, or each video of this process, and one for all: speed, what is left, failures so far."""

    shows_frames = True

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._view = RunView()
        # The terminal is drawn by a thread of its own.
        self._lock = threading.Lock()
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4, transient=True)

    def start(self, entries: Sequence[Entry]) -> None:
        self._view.start(entries, time.perf_counter())
        self._live.start()

    def frames(self, entry: Entry, num_frames: int, length: Length, place: Place | None = None) -> None:
        with self._lock:
            self._view.frames(entry.id, num_frames, length, place, time.perf_counter())

    def end(self, outcome: Outcome, tally: Tally) -> None:
        with self._lock:
            self._view.end(outcome, tally.num_videos)
        if outcome.status == "failed":
            self._console.print(describe(outcome), style="red", markup=False, highlight=False)

    def stop(self) -> None:
        self._live.stop()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, max_width=_LABEL_COLUMNS)
        for _ in range(3):
            table.add_column(no_wrap=True)
        with self._lock:
            rows = [*self._view.rows(max(1, self._console.height - 3)), self._view.overall(time.perf_counter())]
        for row in rows:
            table.add_row(*_cells(row))
        return table


def _cells(row: Row) -> tuple[Text, ProgressBar, Text, Text]:
    percent = "" if row.done is None else f"{100 * row.done:3.0f}%"
    bar = ProgressBar(total=1.0, completed=row.done or 0.0, width=20)
    return Text(printable(row.label), overflow="ellipsis"), bar, Text(percent), Text(row.text)
