"""Signals end a run between two blocks of frames, so that a publish in progress finishes."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

from ..errors import Stopped

if TYPE_CHECKING:
    from types import FrameType


class StopSignals:
    """Notes SIGINT and SIGTERM while it is entered; `check` raises. A second signal acts at once, as it did before.

    Python drops what a handler raises inside a destructor or a callback of HDF5; a note is never lost.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # What the caller ignores, as nohup does, stays ignored; None is a handler that Python did not set.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, error_type: object, *_rest: object) -> None:
        self._restore()
        if error_type is None:
            self.check()

    @property
    def exit_code(self) -> int | None:
        """The exit code of the signal that came, None if none did."""
        return None if self._number is None else Stopped(self._number).exit_code

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self._number is not None:
            raise Stopped(self._number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
