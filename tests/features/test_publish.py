from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vadx.errors import StoreWriteError
from vadx.features import publish
from vadx.features.publish import make_directory, publish_bytes, publish_file, temporary_name

from .power_loss import Operation, RecordingOs, states
from .publish_faults import FAULTS, FUNCTIONS, NEW, OLD, STANDINGS, Observation, Place, Race

SEED = 20261122
STATES_PER_OPERATION = 200


def run_helper(folder: Path, *arguments: str) -> list[str]:
    program = Path(__file__).with_name("publish_faults.py")
    command, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(program), command, str(folder), *rest],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> list[Observation]:
    return [Observation.from_json(line) for line in run_helper(tmp_path_factory.mktemp("faults"), "faults")]


def is_whole(o: Observation) -> bool:
    return o.final in {"new"} | ({"absent"} if o.case.standing == "absent" else {"old"})


def is_honest(o: Observation) -> bool:
    kept = o.case.standing == "old, keep"
    return o.outcome is None or (o.final, o.outcome == "first kept") == (("old", True) if kept else ("new", False))


def keeps_the_first(o: Observation) -> bool:
    return o.case.standing != "old, keep" or o.final == "old"


def names_the_path(o: Observation) -> bool:
    return o.error is None or (o.error == "StoreWriteError" and o.final_path in o.message and o.errno is not None)


def leaves_only_parts(o: Observation) -> bool:
    return all(name.endswith(".part") for name in o.leftovers)


def cleans_up_unless_killed(o: Observation) -> bool:
    unlink_failed = o.fired and not o.killed and o.calls[o.case.at] == "unlink"
    return o.killed or unlink_failed or o.case.fault == "enospc from here" or o.leftovers == ["other.part"]


def succeeds_when_repeated(o: Observation) -> bool:
    return o.after_retry == ("old" if o.case.standing == "old, keep" else "new")


def ends_at_all(o: Observation) -> bool:
    return o.killed + (o.outcome is not None) + (o.error is not None) == 1


RULES: dict[str, Callable[[Observation], bool]] = {
    rule.__name__: rule
    for rule in (
        is_whole,
        is_honest,
        keeps_the_first,
        names_the_path,
        leaves_only_parts,
        cleans_up_unless_killed,
        succeeds_when_repeated,
        ends_at_all,
    )
} | {"leaves_strangers_alone": lambda o: o.strangers_intact}


def test_every_system_call_met_every_fault(observations: list[Observation]) -> None:
    fired = [o for o in observations if o.fired]
    assert len(fired) >= 400
    assert {(o.case.function, o.case.standing, o.case.fault) for o in fired} == {
        (function, standing, fault)
        for function in FUNCTIONS
        for standing in STANDINGS
        for fault in FAULTS
        if (function, fault) != ("publish_file", "short write")
    }
    calls = next(o.calls for o in observations if not o.fired and o.case.function == "publish_bytes")
    assert calls == [
        *("open", "posix_fallocate", "write", "write", "write", "fsync", "close", "link"),
        *("open of directory", "fsync of directory", "close of directory", "unlink"),
    ]


def test_the_loop_ended_with_an_undisturbed_publish(observations: list[Observation]) -> None:
    clean = [o for o in observations if not o.fired]
    assert Counter((o.case.standing, o.outcome, o.final) for o in clean) == {
        ("absent", "new", "new"): 16,
        ("old, replace", "replaced", "new"): 16,
        ("old, keep", "first kept", "old"): 16,
    }


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_fault_breaks_the_promise(observations: list[Observation], rule: Callable[[Observation], bool]) -> None:
    assert [(o.case, o.final, o.outcome, o.error, o.leftovers) for o in observations if not rule(o)] == []


def test_one_transient_error_is_survived(observations: list[Observation]) -> None:
    survived = {"short write", "estale once", "eio once"}
    failed = [
        o.case
        for o in observations
        if o.case.function == "publish_bytes" and o.case.fault in survived and o.error is not None
    ]
    assert failed == []


def test_a_byte_that_the_disk_refused_is_never_a_success(observations: list[Observation]) -> None:
    refusals = {"enospc from here", "enospc once", "edquot once"}
    before_the_commit = {"open", "posix_fallocate", "write", "fsync", "close"}
    refused = [
        o for o in observations if o.fired and o.case.fault in refusals and o.calls[o.case.at] in before_the_commit
    ]
    assert len(refused) == len(refusals) * len(STANDINGS) * (7 + 3)
    assert [o.case for o in refused if o.error is None] == []


def test_a_full_disk_is_reported_with_its_number(observations: list[Observation]) -> None:
    full = [o for o in observations if o.case.fault == "enospc from here" and o.case.at == 0]
    assert [(o.errno, o.final) for o in full] == [
        (errno.ENOSPC, "absent" if o.case.standing == "absent" else "old") for o in full
    ]
    assert all(f"{len(NEW)} bytes" in o.message and "the same command resumes" in o.message for o in full)


@pytest.mark.parametrize(
    ("sabotage", "broken"),
    [("written in place", {"is_whole", "names_the_path"}), ("errors swallowed", {"is_honest"})],
)
def test_the_rules_find_a_publisher_that(tmp_path: Path, sabotage: str, broken: set[str]) -> None:
    found = [Observation.from_json(line) for line in run_helper(tmp_path, "faults", sabotage)]
    assert broken <= {name for name, rule in RULES.items() if not all(map(rule, found))}


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory) -> list[Race]:
    return [Race.from_json(line) for line in run_helper(tmp_path_factory.mktemp("races"), "race")]


def test_exactly_one_of_six_writers_wins_each_name_and_its_content_stands(races: list[Race]) -> None:
    race = races[0]
    assert len(race.outcomes) == 40
    for name, told in race.outcomes.items():
        assert Counter(outcome for _, outcome in told) == {"new": 1, "first kept": 5}
        assert race.contents[name] == next(f"w{writer}" for writer, outcome in told if outcome == "new")


def test_readers_of_a_race_never_see_a_part_and_never_a_change(races: list[Race]) -> None:
    kept, replaced = races
    assert kept.num_reads > 100
    assert replaced.num_reads > 100
    assert (kept.num_bad_reads, replaced.num_bad_reads) == (0, 0)
    assert kept.num_changed == 0
    assert kept.leftovers == replaced.leftovers == ["other.part"]


def record(root: Path, monkeypatch: pytest.MonkeyPatch, function: str, standing: str) -> list[Operation]:
    place = Place(root)
    place.prepare(standing)
    shim = RecordingOs(root)
    temporary = place.tmp / "whole.part"
    if function == "publish_file":
        temporary.write_bytes(NEW)
        shim.note_file(temporary)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "os", shim)
        replace = standing != "absent"
        if function == "publish_file":
            publish_file(temporary, place.final, replace=replace)
        else:
            publish_bytes(NEW, place.final, place.tmp, replace=replace)
    return shim.operations


def violations(operations: list[Operation], standing: str) -> tuple[int, list[str]]:
    """Count the states tried, and name what went wrong in them."""
    old = None if standing == "absent" else OLD
    final = str(Place(Path()).final)
    found = []
    count = 0
    for done, content in states(operations, old, final, np.random.default_rng(SEED), each=STATES_PER_OPERATION):
        count += 1
        if content not in (old, NEW):
            found.append("lost" if content is None else "torn")
        elif done == len(operations) and content != NEW:
            found.append("reported, then gone")
    return count, found


SCENARIOS = [(function, standing) for function in FUNCTIONS for standing in ("absent", "old, replace")]


def test_power_loss_at_any_instant_leaves_old_or_new_and_never_takes_back_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {SEED}")
    total = 0
    for number, (function, standing) in enumerate(SCENARIOS):
        operations = record(tmp_path / str(number), monkeypatch, function, standing)
        count, found = violations(operations, standing)
        total += count
        assert found == [], (function, standing, [o.verb for o in operations])
    assert total >= 7000


def without(verb: str, operations: list[Operation]) -> list[Operation]:
    return [o for o in operations if o.verb != verb]


def file_sync_last(operations: list[Operation]) -> list[Operation]:
    return without("fsync", operations) + [o for o in operations if o.verb == "fsync"]


@pytest.mark.parametrize(("function", "standing"), SCENARIOS)
@pytest.mark.parametrize(
    ("sabotage", "harm"),
    [
        (lambda operations: without("fsync", operations), "torn"),
        (file_sync_last, "torn"),
        (lambda operations: without("fsync directory", operations), "reported, then gone"),
    ],
    ids=["no fsync of the file", "fsync after the rename", "no fsync of the directory"],
)
def test_the_power_loss_model_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    standing: str,
    sabotage: Callable[[list[Operation]], list[Operation]],
    harm: str,
) -> None:
    operations = record(tmp_path / "place", monkeypatch, function, standing)
    assert harm in violations(sabotage(operations), standing)[1]


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", sorted(publish._NO_HARD_LINKS))
def test_a_file_system_without_hard_links_still_keeps_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("os.link", failing(number))
    final = tmp_path / "final"
    assert publish_bytes(OLD, final, tmp_path).outcome == "new"
    assert publish_bytes(NEW, final, tmp_path).outcome == "first kept"
    assert publish_bytes(OLD, final, tmp_path).outcome == "already there"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert final.read_bytes() == OLD


@pytest.mark.parametrize(("call", "error", "standing"), [("replace", errno.ENOENT, OLD), ("link", errno.EEXIST, None)])
def test_a_commit_whose_answer_was_lost_is_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int, standing: bytes | None
) -> None:
    final = tmp_path / "final"
    if standing is not None:
        final.write_bytes(standing)
    really = getattr(os, call)

    def do_and_fail(source: Path, target: Path) -> None:
        really(source, target)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(f"os.{call}", do_and_fail)
    assert publish_bytes(NEW, final, tmp_path, replace=standing is not None).outcome in {"replaced", "already there"}
    assert final.read_bytes() == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("number", sorted(publish._NO_PREALLOCATION))
def test_a_file_system_without_preallocation_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("os.posix_fallocate", failing(number))
    publish_bytes(NEW, tmp_path / "final", tmp_path)
    assert (tmp_path / "final").read_bytes() == NEW


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 9])
def test_what_is_published_is_what_was_given(tmp_path: Path, data: bytes) -> None:
    assert publish_bytes(memoryview(data), tmp_path / "final", tmp_path).outcome == "new"
    assert publish_bytes(data, tmp_path / "final", tmp_path).outcome == "already there"
    assert (tmp_path / "final").read_bytes() == data
    assert len(list(tmp_path.iterdir())) == 1


def test_a_temporary_name_that_exists_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken.part"
    taken.write_bytes(OLD)
    monkeypatch.setattr(publish, "temporary_name", lambda _tmp, _name: taken)
    with pytest.raises(StoreWriteError):
        publish_bytes(NEW, tmp_path / "final", tmp_path)
    assert not (tmp_path / "final").exists()


def test_a_symbolic_link_planted_in_tmp_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, planted = tmp_path / "victim", tmp_path / "planted.part"
    victim.write_bytes(OLD)
    planted.symlink_to(victim)
    monkeypatch.setattr(publish, "temporary_name", lambda _tmp, _name: planted)
    with pytest.raises(StoreWriteError):
        publish_bytes(NEW, tmp_path / "final", tmp_path)
    assert victim.read_bytes() == OLD


def test_the_longest_name_still_gets_a_temporary_file(tmp_path: Path) -> None:
    final = tmp_path / ("k" * 252 + ".h5")
    publish_bytes(NEW, final, tmp_path)
    assert final.read_bytes() == NEW
    assert temporary_name(tmp_path, final.name) != temporary_name(tmp_path, final.name)


def test_a_published_file_is_gone_from_tmp_also_when_refused(tmp_path: Path) -> None:
    temporary = tmp_path / "whole.part"
    temporary.write_bytes(NEW)
    with pytest.raises(StoreWriteError, match="absent"):
        publish_file(temporary, tmp_path / "absent" / "final")
    assert not temporary.exists()


def test_a_published_file_that_is_missing_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StoreWriteError) as caught:
        publish_file(tmp_path / "missing.part", tmp_path / "final")
    assert caught.value.errno == errno.ENOENT
    assert str(tmp_path / "final") in str(caught.value)


def test_a_failed_fsync_is_never_repeated_on_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "whole.part"
    temporary.write_bytes(NEW)
    synced: list[int] = []

    def fail_once(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", fail_once)
    monkeypatch.setattr(publish, "_BACKOFF_SECONDS", (0.0, 0.0, 0.0))
    with pytest.raises(StoreWriteError):
        publish_file(temporary, tmp_path / "final")
    assert len(synced) == 1
    assert not (tmp_path / "final").exists()


def test_directories_are_made_with_their_parents_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(publish, "_sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_file_where_a_directory_must_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    for below in ("b", "b/c"):
        with pytest.raises(StoreWriteError, match=r"A file stands where a folder must: give another --to; the same"):
            make_directory(tmp_path / "a" / below, option="--to")
    with pytest.raises(StoreWriteError, match=r"a: .* A file stands where a folder must: give another --out"):
        make_directory(tmp_path / "a")


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "Free space"), (errno.EDQUOT, "quota"), (errno.EROFS, "--out"), (errno.EIO, "Check the disk")],
)
def test_a_write_error_says_what_to_do(tmp_path: Path, number: int, cure: str) -> None:
    error = publish.write_error(OSError(number, os.strerror(number)), tmp_path / "x.h5", 4711)
    assert error.errno == number
    assert all(part in str(error) for part in (str(tmp_path / "x.h5"), "4711", cure, os.strerror(number)))
    other = publish.write_error(OSError(number, os.strerror(number)), tmp_path / "x.h5", 4711, "--to")
    assert str(other) == str(error).replace("--out", "--to")


def test_observations_survive_the_pipe_from_the_helper(observations: list[Observation]) -> None:
    first = observations[0]
    assert Observation.from_json(json.dumps(dataclasses.asdict(first))) == first
