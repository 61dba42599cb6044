"""Which videos are tried again, when, and how often."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import Ran
from vadx.errors import CODES, Stopped
from vadx.pipelines import retrying as module
from vadx.pipelines.inputs import Entry
from vadx.pipelines.job import Outcome
from vadx.pipelines.policy import Allowance
from vadx.pipelines.retrying import RETRIES, retrying

from .forking import IDS, TINY, events, shard_hashes, statuses

Vadx = Callable[..., Ran]


@dataclass(slots=True)
class Clock:
    """Time that passes only where somebody sleeps."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@dataclass(slots=True)
class Trying:
    """A unit of work whose videos fail as often as their codes are listed, and then are done. Notes what it does."""

    clock: Clock
    codes: Mapping[str, Sequence[str]]
    begun: list[tuple[float, str]] = field(default_factory=list)
    decoders: list[int | None] = field(default_factory=list)

    def __call__(
        self,
        entries: Iterable[Entry],
        jobs: Sequence[Any],
        *,
        num_decoders: int | None = 0,
        may_start: Callable[[int], bool],
        **_options: Any,
    ) -> Iterator[list[Outcome]]:
        self.decoders.append(num_decoders)
        for entry in entries:
            if not may_start(0):
                return
            number = sum(name == entry.id for _, name in self.begun)
            self.begun.append((round(self.clock.now, 3), entry.id))
            codes = self.codes.get(entry.id, ())
            code = codes[number] if number < len(codes) else None
            yield [outcome(entry.id, code) for _ in jobs]


def outcome(name: str, code: str | None = None) -> Outcome:
    if code is None:
        return Outcome(name, f"{name}.mp4", "done", "new")
    return Outcome(name, f"{name}.mp4", "failed", "tried", code, "why", retriable=CODES[code].retriable)


def entries(*names: str) -> list[Entry]:
    # Files that are not there are not refused for good.
    return [Entry(name, Path(f"{name}.mp4")) for name in names]


def run(trying: Trying, *names: str, **options: Any) -> dict[str, Outcome]:
    return {one.id: one for (one,) in retrying(trying)(entries(*names), ["job"], **options)}


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_code_is_tried_as_often_as_it_may_help(code: str, clock: Clock) -> None:
    trying = Trying(clock, {"a": [code] * 9})
    (settled,) = run(trying, "a").values()
    num_tries = {"VIDEO_UNREADABLE": 3, "VIDEO_OOM": 2}.get(code, 1)
    assert len(trying.begun) == num_tries
    assert (settled.code, settled.attempts, settled.status) == (code, num_tries, "failed")
    assert CODES[code].retriable or code not in RETRIES


def test_it_waits_one_second_and_then_four(clock: Clock) -> None:
    trying = Trying(clock, {"a": ["VIDEO_UNREADABLE"] * 2})
    (settled,) = run(trying, "a").values()
    assert [at for at, _ in trying.begun] == [0, 1, 5]
    assert (settled.status, settled.attempts) == ("done", 3)


def test_nobody_waits_for_what_is_tried_again(clock: Clock) -> None:
    trying = Trying(clock, {"a": ["VIDEO_UNREADABLE"]})
    settled = run(trying, "a", "b", "c")
    assert trying.begun == [(0, "a"), (0, "b"), (0, "c"), (1, "a")]
    assert list(settled) == ["b", "c", "a"]


def test_what_wanted_too_much_memory_is_tried_with_one_decoder_when_all_else_is_done(clock: Clock) -> None:
    trying = Trying(clock, {"big": ["VIDEO_OOM"], "torn": ["VIDEO_UNREADABLE"] * 2})
    settled = run(trying, "big", "torn", "c", num_decoders=4)
    assert [name for _, name in trying.begun] == ["big", "torn", "c", "torn", "torn", "big"]
    assert trying.decoders == [4, 4, 4, 1]
    assert {one.status for one in settled.values()} == {"done"}


def test_what_is_done_is_not_undone_by_the_next_try(clock: Clock) -> None:
    first = [outcome("a"), outcome("a", "VIDEO_UNREADABLE"), outcome("a", "VIDEO_TOO_SHORT")]
    current, before = Outcome("a", "a.mp4", "current", "current"), outcome("a", "VIDEO_TOO_SHORT")
    tries = iter([first, [current, outcome("a"), Outcome(**{**_fields(before), "reason": "failed before"})]])

    def process(given: Iterable[Entry], _jobs: object, **_options: Any) -> Iterator[list[Outcome]]:
        for _ in given:
            yield next(tries)

    (settled,) = retrying(process)(entries("a"), [1, 2, 3])
    assert [(one.status, one.reason, one.attempts) for one in settled] == [
        ("done", "new", 1),
        ("done", "new", 2),
        ("failed", "tried", 1),
    ]


def _fields(one: Outcome) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Outcome.__slots__}


def test_what_workers_tried_again_is_not_tried_again_here(clock: Clock) -> None:
    begun: Counter[str] = Counter()

    def process(given: Iterable[Entry], _jobs: object, **_options: Any) -> Iterator[list[Outcome]]:
        for entry in given:
            begun[entry.id] += 1
            yield [Outcome(**{**_fields(outcome(entry.id, "VIDEO_UNREADABLE")), "attempts": 3})]

    ((settled,),) = retrying(process)(entries("a"), ["job"])
    assert (begun, settled.attempts) == ({"a": 1}, 3)


def test_a_limit_counts_what_waits(clock: Clock) -> None:
    trying = Trying(clock, {"a": ["VIDEO_UNREADABLE"] * 9})
    allowance = Allowance(limit=2)
    settled = []
    for outcomes in retrying(trying)(entries("a", "b", "c", "d"), ["job"], may_start=allowance.covers):
        allowance.note(outcomes)
        settled.append(outcomes[0].id)
    # Of two that may be worked on one is b, and a never becomes one: its place is another's in the end.
    assert settled == ["b", "a", "c"]
    assert Counter(name for _, name in trying.begun) == {"a": 3, "b": 1, "c": 1}


def test_a_run_that_may_begin_nothing_more_tells_what_became_of_those_that_wait(clock: Clock) -> None:
    trying = Trying(clock, {"a": ["VIDEO_UNREADABLE"] * 9})
    allowed = iter([True, False, False, False])
    settled = run(trying, "a", "b", may_start=lambda _num_begun: next(allowed))
    assert [(one.id, one.code, one.attempts) for one in settled.values()] == [("a", "VIDEO_UNREADABLE", 1)]
    # Nor does it wait for them.
    assert (len(trying.begun), clock.now) == (1, 0)


def test_not_more_than_a_few_wait(clock: Clock) -> None:
    names = [f"v{number:03d}" for number in range(200)]
    trying = Trying(clock, dict.fromkeys(names, ("VIDEO_UNREADABLE",)))
    settled = run(trying, *names)
    assert {(one.status, one.attempts) for one in settled.values()} == {("done", 2)}
    assert [sum(at == second for at, _ in trying.begun) for second in range(5)] == [64, 128, 128, 72, 8]


def test_a_signal_ends_the_waiting(clock: Clock) -> None:
    def check() -> None:
        if clock.now >= 0.5:
            raise Stopped(15)

    with pytest.raises(Stopped):
        run(Trying(clock, {"a": ["VIDEO_UNREADABLE"]}), "a", check=check)
    assert clock.now < 0.8


@pytest.mark.parametrize(("number", "num_tries"), [(errno.ELOOP, 1), (errno.EACCES, 1), (errno.EIO, 3)])
def test_what_is_refused_for_good_is_not_tried_again(
    number: int, num_tries: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "open", refuse)
    trying = Trying(clock, {"a": ["VIDEO_UNREADABLE"] * 9})
    run(trying, "a")
    assert len(trying.begun) == num_tries


@pytest.mark.usefixtures("clock")
def test_a_file_that_cannot_be_read_for_a_moment_costs_nothing(
    store: Path, six_videos: Path, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.errors import VideoError
    from vadx.extract import files
    from vadx.pipelines import source

    check, refused = files.check_file, Counter[str]()

    def checking(path: Path, *arguments: Any) -> Any:
        refused[Path(path).name] += 1
        if refused[Path(path).name] == 1:
            raise VideoError("VIDEO_UNREADABLE", str(path), "Stale file handle")
        return check(path, *arguments)

    monkeypatch.setattr(source, "check_file", checking)
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--json")
    assert (ran.code, sorted(statuses(ran))) == (0, IDS)
    assert {line["attempts"] for line in events(ran, "video")} == {2}
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)
