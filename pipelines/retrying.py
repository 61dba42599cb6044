"""Videos that failed for want of something that may come back are tried again, while others are worked on."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .inputs import Entry
    from .job import Outcome

RETRIES: Mapping[str, tuple[float, ...]] = MappingProxyType({"VIDEO_UNREADABLE": (1.0, 4.0), "VIDEO_OOM": (1.0,)})
"""Code -> how many seconds to wait before each further try. What has another code would fail again; a share whose
worker is lost goes to another one at once."""

_FEW_AT_ONCE = frozenset({"VIDEO_OOM"})
"""Codes of what is tried again with one decoder, when nothing else is on its way: batches stay as they are, for their
shape is part of the features' last bits."""

_FOR_GOOD = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})
"""Why a system refuses a file today as in four seconds."""

_HELD_AT_MOST = 64
"""Videos that wait for their next try before no other is begun: with so many, more would fail of the same."""

_POLL_SECONDS = 0.2

Process = Callable[..., "Iterator[list[Outcome]]"]
"""`extraction.process_videos`, or what does the same for other jobs: it takes videos, jobs and the same options."""


def pause_before(outcomes: Iterable[Outcome], num_tries: int) -> float | None:
    """Give the seconds to wait before a video is tried again after ``num_tries``, None if it is not."""
    pauses = [
        RETRIES.get(outcome.code or "", ())
        for outcome in outcomes
        if outcome.status == "failed" and outcome.reason == "tried"
    ]
    return max((one[num_tries - 1] for one in pauses if len(one) >= num_tries), default=None)


def retrying(process: Process) -> Process:
    """Give a process, as `extraction.process_videos`, that tries videos again, as often as `RETRIES` says.

    Each video's outcomes are those of its last try, with their number in ``attempts``. Where a run stops in between,
    those that wait for their next try have none.
    """

    def working(
        entries: Iterable[Entry],
        jobs: Sequence[Any],
        *,
        num_decoders: int | None = 0,
        check: Callable[[], None] = lambda: None,
        may_start: Callable[[int], bool] = lambda _num_started: True,
        **options: Any,
    ) -> Iterator[list[Outcome]]:
        rounds = _Rounds(deque(entries))
        while True:
            few = rounds.is_of_few()
            has_settled = False
            for outcomes in process(
                rounds.feed(of_few=few),
                jobs,
                num_decoders=min(1, num_decoders or 0) if few else num_decoders,
                check=check,
                may_start=lambda num_begun: may_start(num_begun + len(rounds.held)),
                **options,
            ):
                has_settled = True
                settled = rounds.settle(outcomes)
                if settled is not None:
                    yield settled
            is_refused = rounds.take_back() and not has_settled
            if not rounds.held:
                return
            if is_refused or not may_start(0):
                yield from (one.outcomes for one in rounds.held)
                return
            _wait_until(rounds.next_due(), check)

    return working


@dataclass(slots=True, eq=False)
class _Held:
    """A video that waits for its next try, and what became of it in the last."""

    entry: Entry
    outcomes: list[Outcome]
    num_tries: int
    due: float
    of_few: bool


@dataclass(slots=True)
class _Rounds:
    """Which video comes next, what was begun and is not settled, and what waits for its next try."""

    fresh: deque[Entry]
    held: list[_Held] = field(default_factory=list)
    begun: dict[str, Entry | _Held] = field(default_factory=dict)

    def is_of_few(self) -> bool:
        """Whether the next round is of those that are tried with one decoder: all others come first."""
        is_next = not self.fresh or len(self.held) >= _HELD_AT_MOST
        return bool(self.held) and is_next and all(one.of_few for one in self.held)

    def next_due(self) -> float:
        """Give when the next round may begin."""
        few = self.is_of_few()
        return min((one.due for one in self.held if one.of_few is few), default=0.0)

    def feed(self, *, of_few: bool) -> Iterator[Entry]:
        """Give those whose time has come before those that were never tried."""
        while True:
            now = time.monotonic()
            due = next((one for one in self.held if one.due <= now and one.of_few is of_few), None)
            if due is not None:
                self.held.remove(due)
                self.begun[due.entry.id] = due
                yield due.entry
            elif self.fresh and not of_few and len(self.held) < _HELD_AT_MOST:
                entry = self.fresh.popleft()
                self.begun[entry.id] = entry
                yield entry
            else:
                return

    def settle(self, outcomes: list[Outcome]) -> list[Outcome] | None:
        """Give a video's outcomes, None if it is to be tried again."""
        before = self.begun.pop(outcomes[0].id)
        # Workers have tried again what they give back.
        num_tries = max(outcome.attempts for outcome in outcomes)
        entry = before.entry if isinstance(before, _Held) else before
        if isinstance(before, _Held):
            num_tries += before.num_tries
            outcomes = [_later(old, new, num_tries) for old, new in zip(before.outcomes, outcomes, strict=True)]
        pause = pause_before(outcomes, num_tries)
        codes = {outcome.code for outcome in outcomes}
        if pause is None or ("VIDEO_UNREADABLE" in codes and _is_refused_for_good(entry.path)):
            return outcomes
        few = not codes.isdisjoint(_FEW_AT_ONCE)
        self.held.append(_Held(entry, outcomes, num_tries, time.monotonic() + pause, few))
        return None

    def take_back(self) -> bool:
        """Take back what was handed out and never begun; say whether there was any."""
        back = list(self.begun.values())
        self.begun.clear()
        self.held += [one for one in back if isinstance(one, _Held)]
        self.fresh.extendleft(reversed([one for one in back if not isinstance(one, _Held)]))
        return bool(back)


def _later(old: Outcome, new: Outcome, num_tries: int) -> Outcome:
    """Give what became of a video for one job after another try: what was settled by an earlier one, stays so."""
    if (new.status == "current" and old.status != "failed") or new.reason == "failed before":
        return old
    return replace(new, attempts=num_tries)


def _is_refused_for_good(path: Path) -> bool:
    try:
        # What has become a FIFO meanwhile would be waited for.
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        return error.errno in _FOR_GOOD
    return False


def _wait_until(due: float, check: Callable[[], None]) -> None:
    while (left := due - time.monotonic()) > 0:
        check()
        time.sleep(min(left, _POLL_SECONDS))
