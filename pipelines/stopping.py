"""Signals end a run between two blocks of frames, so that a publish in progress finishes."""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from ..errors import Stopped

if TYPE_CHECKING:
    from types import FrameType


STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Signals that end a run: of a person, of a system, and of a cluster whose time is soon up."""


class StopSignals:
    """Notes `STOPPING` while it is entered; `check` raises. A second signal acts at once, as it did before.

    Python drops what a handler raises inside a destructor or a callback of HDF5; a note is never lost. Past
    ``stop_after_seconds`` `check` raises as if SIGTERM had come.
    """

    def __init__(self, stop_after_seconds: float | None = None) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}
        self._seconds = stop_after_seconds
        self._deadline = math.inf if stop_after_seconds is None else time.monotonic() + stop_after_seconds

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                # What the caller ignores, as nohup does, stays ignored; None is a handler that Python did not set.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, error_type: object, *_rest: object) -> None:
        self._restore()
        # What is finished in time is finished, however late it is by now.
        if error_type is None and self._number is not None:
            raise Stopped(self._number)

    @property
    def exit_code(self) -> int | None:
        """The exit code of the signal that came, None if none did."""
        return None if self._number is None else Stopped(self._number).exit_code

    def check(self) -> None:
        """Raise `Stopped` if a signal came, or the time is up."""
        if self._number is None and time.monotonic() > self._deadline:
            self._number = signal.SIGTERM
            raise Stopped(self._number, f"after {self._seconds:g} s, as it was told")
        if self._number is not None:
            raise Stopped(self._number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
