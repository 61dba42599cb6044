"""Kills and signals at any moment of an extraction, then the same command again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vadx.errors import ShardError
from vadx.features.shard import verify_shard

from .fork_server import Report
from .forking import TINY, ForkServer, json_lines, shard_hashes

SEED = 20261122
NUM_KILLS = 50
SIGINT, SIGKILL, SIGTERM = 2, 9, 15


@dataclass(frozen=True, slots=True)
class Baseline:
    """A run that nothing disturbs."""

    shards: dict[str, str]
    events: list[str]


@dataclass(slots=True)
class Trial:
    """One run that was killed, perhaps its recovery too, and what the same command made of it."""

    moments: list[dict[str, Any]]
    codes: list[int] = field(default_factory=list)
    num_shards_when_killed: int = 0
    torn: list[str] = field(default_factory=list)
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
    report = forked(*TINY, six_videos, "--out", "store", folder=folder)
    assert report.code == 0, report.err
    shards = shard_hashes(folder / "store")
    assert len(shards) == 6
    return Baseline(shards, report.events)


def moments(generator: random.Random, events: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Give when each trial is killed; each fifth twice.

    Half of them shortly after an event, a quarter before one, a quarter in the middle of a write. The moments are
    random within as many equal parts of the run as there are trials, so that none is left out.
    """
    writes = [number for number, event in enumerate(events) if event.startswith("write ") and "/runs/" not in event]

    def one(number: int) -> dict[str, Any]:
        share = (number % NUM_KILLS + generator.random()) / NUM_KILLS
        if number % 2:
            after = 1 + int(0.95 * share * len(events))
            return {"signal": SIGKILL, "after_events": after, "delay": generator.uniform(0, 0.003)}
        if number % 4:
            return {"fault": "tear", "at": writes[int(share * len(writes))]}
        return {"fault": "kill", "at": int(share * len(events))}

    for number in range(NUM_KILLS):
        yield [one(number)] if number % 5 else [one(number), one(generator.randrange(NUM_KILLS))]


def tmp_files(store: Path) -> set[str]:
    return {str(path) for path in store.glob("*/tmp/*")}


def torn_shards(store: Path) -> list[str]:
    found = []
    for path in store.glob("*/shards/*/*"):
        try:
            verify_shard(path, key=path.stem)
        except ShardError as error:
            found.append(str(error))
    return found


def run_trial(forked: ForkServer, trial: Trial, videos: Path, folder: Path) -> Trial:
    store = folder / "store"
    folder.mkdir()
    for number, moment in enumerate(trial.moments):
        trial.codes.append(forked(*TINY, videos, "--out", store, folder=folder, **moment).code)
        if number == 0:
            trial.num_shards_when_killed = len(shard_hashes(store))
        trial.torn += torn_shards(store)
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
    plan = moments(random.Random(SEED), baseline.events)
    return [run_trial(forked, Trial(moment), six_videos, folder / str(n)) for n, moment in enumerate(plan)]


def test_the_kills_strike_everywhere(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    assert len(trials) == NUM_KILLS
    assert {trial.codes[0] for trial in trials} == {-SIGKILL}
    assert sum(len(trial.moments) == 2 for trial in trials) == NUM_KILLS // 5
    assert {trial.num_shards_when_killed for trial in trials} >= set(range(6))
    assert any(trial.left_in_tmp for trial in trials)


def test_a_kill_leaves_each_shard_whole_or_absent(trials: list[Trial]) -> None:
    print(f"seed {SEED}")
    assert [trial.torn for trial in trials if trial.torn] == []


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


@dataclass(frozen=True, slots=True)
class Interruption:
    """A signal, the name of its fault, and the exit code that stands for it."""

    fault: str
    number: int
    exit_code: int


INTERRUPTIONS = (Interruption("term", SIGTERM, 143), Interruption("interrupt", SIGINT, 130))
NUM_BY_EVENT, NUM_BETWEEN_EVENTS = 8, 8


def resume_and_compare(forked: ForkServer, baseline: Baseline, videos: Path, folder: Path, store: str) -> None:
    assert forked(*TINY, videos, "--out", store, folder=folder).code == 0
    assert shard_hashes(folder / store) == baseline.shards
    left = json_document(forked("gc", "--older-than", "0", "--store", store, "--json", folder=folder))
    assert {str(folder / row["path"]) for row in left} == tmp_files(folder / store)


def assert_interrupted(report: Report, exit_code: int) -> None:
    assert report.code == exit_code, report.err
    assert "Traceback" not in report.err
    assert "the same command resumes" in report.err
    for line in json_lines(report.out):
        if line["event"] == "summary":
            assert line["exit_code"] == exit_code or line["done"] == 6


@pytest.mark.parametrize("number", range(NUM_BY_EVENT))
@pytest.mark.parametrize("kind", INTERRUPTIONS, ids=lambda kind: kind.fault)
def test_a_signal_at_any_event_ends_the_run_with_its_code(
    kind: Interruption, number: int, forked: ForkServer, baseline: Baseline, six_videos: Path, tmp_path: Path
) -> None:
    seed = SEED + 100 * number + kind.number
    print(f"seed {seed}")
    at = random.Random(seed).randrange(len(baseline.events))
    report = forked(*TINY, six_videos, "--out", "store", "--json", folder=tmp_path, fault=kind.fault, at=at)
    assert_interrupted(report, kind.exit_code)
    resume_and_compare(forked, baseline, six_videos, tmp_path, "store")


@pytest.mark.parametrize("number", range(NUM_BETWEEN_EVENTS))
@pytest.mark.parametrize("kind", INTERRUPTIONS, ids=lambda kind: kind.fault)
def test_a_signal_between_events_ends_the_run_with_its_code(
    kind: Interruption, number: int, forked: ForkServer, baseline: Baseline, six_videos: Path, tmp_path: Path
) -> None:
    seed = SEED + 100 * number + kind.number
    print(f"seed {seed}")
    generator = random.Random(seed)
    after = 1 + generator.randrange(int(0.85 * len(baseline.events)))
    moment = {"signal": kind.number, "after_events": after, "delay": generator.uniform(0, 0.003)}
    report = forked(*TINY, six_videos, "--out", "store", "--json", folder=tmp_path, **moment)
    assert_interrupted(report, kind.exit_code)
    resume_and_compare(forked, baseline, six_videos, tmp_path, "store")


@pytest.mark.parametrize("nth", [1, 3, 6])
def test_a_publish_that_a_signal_meets_is_finished_first(
    nth: int, forked: ForkServer, baseline: Baseline, six_videos: Path, tmp_path: Path
) -> None:
    links = [number for number, event in enumerate(baseline.events) if event.startswith("link ") and ".h5." in event]
    report = forked(*TINY, six_videos, "--out", "store", folder=tmp_path, fault="interrupt", at=links[nth - 1])
    assert report.code == 130
    assert len(shard_hashes(tmp_path / "store")) == nth
    assert tmp_files(tmp_path / "store") == set()
