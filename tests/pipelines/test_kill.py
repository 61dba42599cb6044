"""Kills and signals at any moment of an extraction, then the same command again."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .fork_server import Report
from .forking import TINY, ForkServer, json_lines, shard_hashes

SEED = 20261122
NUM_KILLS = 50
SIGKILL, SIGTERM = 9, 15


@dataclass(frozen=True, slots=True)
class Baseline:
    """A run that nothing disturbs."""

    shards: dict[str, str]
    events: list[str]
    seconds: float


@dataclass(slots=True)
class Trial:
    """One run that was killed, perhaps its recovery too, and what the same command made of it."""

    moments: list[dict[str, Any]]
    codes: list[int] = field(default_factory=list)
    num_shards_when_killed: int = 0
    left_in_tmp: set[str] = field(default_factory=set)
    explained: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_after_gc: set[str] = field(default_factory=set)
    resumed: int = -1
    shards: dict[str, str] = field(default_factory=dict)
    verified: tuple[int, dict[str, Any]] = (-1, {})
    again: Report | None = None


@pytest.fixture(scope="module")
def baseline(forked: ForkServer, six_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder = tmp_path_factory.mktemp("baseline")
    reports = [forked(*TINY, six_videos, "--out", str(number), folder=folder) for number in range(5)]
    assert {report.code for report in reports} == {0}, reports[0].err
    shards = shard_hashes(folder / "0")
    assert len(shards) == 6
    return Baseline(shards, reports[0].events, statistics.median(report.seconds for report in reports))


def moments(generator: random.Random, baseline: Baseline) -> Iterator[list[dict[str, Any]]]:
    """Give when each trial is killed: half of them at an event, half by the clock; each fifth twice."""

    def one(number: int) -> dict[str, Any]:
        if number % 2:
            return {"signal": SIGKILL, "signal_after": generator.uniform(0.02, 0.98) * baseline.seconds}
        fault = generator.choice(("kill", "tear"))
        return {"fault": fault, "at": generator.randrange(len(baseline.events))}

    for number in range(NUM_KILLS):
        yield [one(number)] if number % 5 else [one(number), one(number + 1)]


def tmp_files(store: Path) -> set[str]:
    return {str(path) for path in store.glob("*/tmp/*")}


def run_trial(forked: ForkServer, trial: Trial, videos: Path, folder: Path) -> Trial:
    store = folder / "store"
    folder.mkdir()
    for number, moment in enumerate(trial.moments):
        trial.codes.append(forked(*TINY, videos, "--out", store, folder=folder, **moment).code)
        if number == 0:
            trial.num_shards_when_killed = len(shard_hashes(store))
    trial.resumed = forked(*TINY, videos, "--out", store, folder=folder).code
    trial.shards = shard_hashes(store)
    report = forked("verify", "--store", store, "--json", folder=folder)
    trial.verified = (report.code, json_document(report))
    trial.left_in_tmp = tmp_files(store)
    sweep = ("gc", "--store", store, "--older-than", "0", "--json")
    trial.explained = {row["path"]: row for row in json_document(forked(*sweep, folder=folder))}
    forked(*sweep, "--yes", folder=folder)
    trial.left_after_gc = tmp_files(store)
    trial.again = forked(*TINY, videos, "--out", store, "--json", folder=folder)
    return trial


def json_document(report: Report) -> Any:
    return json.loads(report.out)


@pytest.fixture(scope="module")
def trials(
    forked: ForkServer, baseline: Baseline, six_videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Trial]:
    print(f"seed {SEED}")
    folder = tmp_path_factory.mktemp("kills")
    plan = moments(random.Random(SEED), baseline)
    return [run_trial(forked, Trial(moment), six_videos, folder / str(n)) for n, moment in enumerate(plan)]


def test_the_kills_strike_everywhere(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    assert len(trials) == NUM_KILLS
    print([t.codes for t in trials], [t.num_shards_when_killed for t in trials], [len(t.left_in_tmp) for t in trials])
    assert sum(trial.codes[0] == -SIGKILL for trial in trials) >= 0.9 * NUM_KILLS
    assert sum(len(trial.moments) == 2 for trial in trials) == NUM_KILLS // 5
    assert {trial.num_shards_when_killed for trial in trials} >= set(range(6))
    assert any(trial.left_in_tmp for trial in trials)


def test_the_same_command_finishes_what_was_killed(trials: list[Trial], baseline: Baseline) -> None:
    print(f"seed {SEED}")
    wrong = [t for t in trials if t.resumed != 0 or t.shards != baseline.shards]
    assert wrong == []


def test_verify_finds_nothing_wrong_afterwards(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    expected = (0, {"shards": 6, "damaged": [], "check": "full"})
    assert [t for t in trials if t.verified != expected] == []


def test_gc_explains_and_sweeps_all_that_kills_left(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    assert [t for t in trials if len(t.left_in_tmp) > len(t.moments)] == []
    assert [t for t in trials if set(t.explained) != t.left_in_tmp] == []
    rows = [row for trial in trials for row in trial.explained.values()]
    assert {(row["reason"], row["may_go"]) for row in rows} == {("a file that a killed run was writing", True)}
    assert [t for t in trials if t.left_after_gc] == []


def test_a_second_resume_does_nothing(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    for trial in trials:
        assert trial.again is not None
        assert trial.again.code == 0
        assert not any("_BlockBuilder" in event or "Engine" in event for event in trial.again.events)
        statuses = [line["status"] for line in json_lines(trial.again.out) if line["event"] == "video"]
        assert statuses == ["current"] * 6, trial


def test_what_counts_as_an_event_covers_decoding_computing_and_publishing(baseline: Baseline) -> None:
    kinds = {event.split()[0] for event in baseline.events}
    assert kinds >= {"open", "posix_fallocate", "write", "fsync", "close", "link", "replace", "unlink", "mkdir"}
    assert kinds >= {"_BlockBuilder.take", "Engine.run"}


SIGNALS = [
    *(("term", None, 143), ("interrupt", None, 130)) * 8,
    *((None, SIGTERM, 143), (None, 2, 130)) * 4,
]


@pytest.mark.parametrize(("number", "case"), list(enumerate(SIGNALS)))
def test_a_signal_ends_the_run_with_its_code_and_the_same_command_resumes(
    number: int,
    case: tuple[str | None, int | None, int],
    forked: ForkServer,
    baseline: Baseline,
    six_videos: Path,
    tmp_path: Path,
) -> None:
    generator = random.Random(SEED + number)
    print(f"seed {SEED + number}")
    fault, sent, expected = case
    if fault is not None:
        moment: dict[str, Any] = {"fault": fault, "at": generator.randrange(len(baseline.events))}
    else:
        moment = {"signal": sent, "signal_after": generator.uniform(0.05, 0.8) * baseline.seconds}
    report = forked(*TINY, six_videos, "--out", "store", "--json", folder=tmp_path, **moment)
    assert report.code == expected, report.err
    assert "Traceback" not in report.err
    assert "the same command resumes" in report.err
    lines = json_lines(report.out)
    assert [line["exit_code"] for line in lines if line["event"] == "summary"] in ([], [expected])
    assert forked(*TINY, six_videos, "--out", "store", folder=tmp_path).code == 0
    assert shard_hashes(tmp_path / "store") == baseline.shards
    left = [
        row["path"]
        for row in json_document(forked("gc", "--older-than", "0", "--store", "store", "--json", folder=tmp_path))
    ]
    assert {str(tmp_path / path) for path in left} == tmp_files(tmp_path / "store")
