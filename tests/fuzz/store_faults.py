"""Faults at every system call of what is done with a store, run by `test_store_faults` as a program of its own.

Each case is a forked process on a copy of a small store. `tests/features/publish_faults.py` does it for one publish.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from vadx.errors import VadxError
from vadx.features import pack, publish
from vadx.features.bag_file import BagFile, write_bags
from vadx.features.pack import pack_set, unpack_set
from vadx.features.pack_writer import _write_ordered
from vadx.features.packed_set import PackedSet
from vadx.features.store import FeatureSet, Store
from vadx.pipelines.sweep import find_leftovers, sweep

from .rotten import FAILED, RECIPE, make_bags, make_store, of_features

COUNTED = ("open", "posix_fallocate", "write", "fsync", "close", "link", "replace", "unlink", "mkdir", "truncate")
ERRNO_OF_FAULT = {"enospc once": errno.ENOSPC, "eio once": errno.EIO, "edquot once": errno.EDQUOT}
FAULTS = ("kill before", "kill within", "enospc from here", *ERRNO_OF_FAULT)
MOST_CALLS = 12
"""Calls of an operation that fail where not every fault is tried."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one case left behind. ``wrong`` says what must not be, "" where all is as it must."""

    operation: str
    fault: str
    at: int
    call: str
    outcome: str
    message: str
    wrong: str
    num_calls: int


class Faults:
    """Counts the system calls below a folder, and lets one fail, or all from one on."""

    def __init__(self, folder: Path, fault: str, at: int) -> None:
        self._folder, self._fault, self._at = str(folder), fault, at
        self.calls: list[str] = []
        self._real = {name: getattr(os, name) for name in COUNTED}
        self._ours: set[int] = set()

    def install(self) -> None:
        for name in COUNTED:
            setattr(os, name, partial(self._call, name))

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        real = self._real[name]
        ours = args[0] in self._ours if isinstance(args[0], int) else os.fspath(args[0]).startswith(self._folder)
        if not ours:
            return real(*args, **options)
        number = len(self.calls)
        self.calls.append(name)
        if number == self._at or (number > self._at >= 0 and self._fault == "enospc from here"):
            self._strike(name, *args, **options)
        result = real(*args, **options)
        if name == "open":
            self._ours.add(result)
        if name == "close":
            self._ours.discard(args[0])
        return result

    def _strike(self, name: str, *args: Any, **options: Any) -> None:
        if self._fault == "kill within":
            if name == "write":
                args = (args[0], args[1][: len(args[1]) // 2])
            self._real[name](*args, **options)
        if self._fault.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "close":
            # Linux closes it all the same.
            self._real[name](*args, **options)
        number = ERRNO_OF_FAULT.get(self._fault, errno.ENOSPC)
        raise OSError(number, os.strerror(number))


def _write_here(order: dict[str, Any]) -> dict[str, Any] | None:
    """Stand in for the process that writes packed files, so that its calls are counted too."""
    try:
        _write_ordered({**order, "parent": os.getppid()})
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror or str(error)}
    return None


def set_of(folder: Path) -> FeatureSet:
    (path,) = (folder / "store").glob("*/recipe.json")
    return FeatureSet(path.parent)


def do_pack(folder: Path) -> None:
    pack_set(set_of(folder), folder / "packed.h5")


def do_unpack(folder: Path) -> None:
    with PackedSet(folder / "old.h5") as packed:
        unpack_set(packed, Store(folder / "other"))


def do_sweep(folder: Path) -> None:
    made = set_of(folder)
    for leftover in find_leftovers(made, float("inf")):
        if leftover.may_go:
            sweep(made, leftover)


def do_index(folder: Path) -> None:
    set_of(folder).save_index({"/videos/cam/2.mp4": (3, 4, "0" * 64)})


def do_record(folder: Path) -> None:
    set_of(folder).record_failure(FAILED)


def do_create(folder: Path) -> None:
    Store(folder / "new").create(RECIPE, slug="new")


def do_bags(folder: Path) -> None:
    write_bags(folder / "bags.h5", make_bags(), rule="rtfm", recipe_digest=RECIPE.digest)


OPERATIONS: dict[str, Callable[[Path], None]] = {
    "pack": do_pack,
    "unpack": do_unpack,
    "gc": do_sweep,
    "index": do_index,
    "failure record": do_record,
    "store create": do_create,
    "bags": do_bags,
}


def prepare(folder: Path) -> None:
    made = make_store(folder)
    pack_set(made, folder / "old.h5")
    (made.tmp / "left.part").write_bytes(b"x")
    made.save_index({})


def state(folder: Path) -> dict[str, str]:
    """Digest all that readers get of what an operation may have touched."""
    found = {}
    for place in ("store", "other", "new"):
        for recipe in (folder / place).glob("*/recipe.json"):
            one = FeatureSet(recipe.parent)
            found |= {f"{place} {identifier}": of_features(one[identifier]) for identifier in one}
            found |= {f"{place} failed {record.id}": record.code for record in one.failures()}
            found[place] = one.digest
            # One that is killed before its first byte leaves it: gc explains and sweeps it.
            damaged = [f"{path.name}: {error}" for path, error in one.verify() if error is not None]
            found |= {f"{place} damaged": "; ".join(damaged)} if damaged else {}
    if (folder / "packed.h5").exists():
        with PackedSet(folder / "packed.h5") as packed:
            found["packed"] = " ".join(of_features(packed[one]) for one in packed)
    if (folder / "bags.h5").exists():
        with BagFile(folder / "bags.h5") as bags:
            found["bags"] = str([error for _, error in bags.verify() if error]) + str(bags.read_all().sum())
    return found


def judge(folder: Path, before: dict[str, str], after: dict[str, str], outcome: str, repeat: Callable[[], None]) -> str:
    """Say what must not be: something that is neither as it was nor as it should be, or that a repetition misses."""
    try:
        found = state(folder)
    except VadxError as error:
        return f"unreadable: {error}"
    strange = {name for name, value in found.items() if value not in (before.get(name), after.get(name))}
    lost = {name for name in before.keys() & after.keys() if name not in found}
    if strange or lost:
        return f"strange: {sorted(strange)}, lost: {sorted(lost)}"
    if outcome == "done" and found != after:
        return "said to be done, and is not"
    try:
        repeat()
    except VadxError as error:
        return f"cannot be repeated: {error}"
    return "" if state(folder) == after else "a repetition does not finish it"


def _act(operation: str, folder: Path, faults: Faults, told: int) -> NoReturn:
    report = {"outcome": "done", "message": ""}
    faults.install()
    try:
        OPERATIONS[operation](folder)
    except VadxError as error:
        report = {"outcome": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is what is looked for
        report = {"outcome": f"not of vadx: {type(error).__name__}", "message": str(error)}
    faults._real["write"](told, json.dumps({**report, "calls": faults.calls}).encode())
    os._exit(0)


def observe(
    operation: str, fault: str, at: int, root: Path, before: dict[str, str], after: dict[str, str]
) -> Observation:
    folder = root / "case"
    shutil.copytree(root / "prepared", folder)
    reader, told = os.pipe()
    child = os.fork()
    if child == 0:
        _act(operation, folder, Faults(folder, fault, at), told)
    os.close(told)
    with os.fdopen(reader, "rb") as pipe:
        report = json.loads(pipe.read() or b'{"outcome": "killed", "message": "", "calls": []}')
    os.waitpid(child, 0)
    calls = report["calls"]
    outcome = report["outcome"]
    wrong = judge(folder, before, after, outcome, partial(OPERATIONS[operation], folder))
    if outcome.startswith("not of vadx"):
        wrong = f"{outcome}: {report['message']}"
    if outcome not in ("done", "killed") and str(folder) not in report["message"]:
        wrong = wrong or f"no path is named: {report['message']}"
    shutil.rmtree(folder)
    call = calls[at] if 0 <= at < len(calls) else ""
    return Observation(operation, fault, at, call, outcome, report["message"], wrong, len(calls))


def cases(root: Path, *, every_fault: bool) -> Iterator[Observation]:
    """Let every call of every operation fail in every way, or some of them each in another way."""
    for operation, act in OPERATIONS.items():
        shutil.rmtree(root, ignore_errors=True)
        (root / "prepared").mkdir(parents=True)
        prepare(root / "prepared")
        if operation == "failure record":
            set_of(root / "prepared").forget_failure(FAILED.id)
        shutil.copytree(root / "prepared", root / "clean")
        act(root / "clean")
        before, after = state(root / "prepared"), state(root / "clean")
        num_calls = observe(operation, "none", -1, root, before, after).num_calls
        step = 1 if every_fault else -(-num_calls // MOST_CALLS)
        for turn, at in enumerate(range(0, num_calls, step)):
            for fault in FAULTS if every_fault else (FAULTS[turn % len(FAULTS)],):
                yield observe(operation, fault, at, root, before, after)


def main() -> None:
    publish._BACKOFF_SECONDS = (0.0, 0.0, 0.0)
    # What fsync is for stands in power_loss.py; a thousand real ones take half a minute.
    vars(pack)["write_in_child"] = _write_here
    really_sync = os.fsync
    os.fsync = lambda descriptor: None
    try:
        for observation in cases(Path(sys.argv[1]), every_fault="every-fault" in sys.argv[2:]):
            print(json.dumps(asdict(observation)), flush=True)
    finally:
        os.fsync = really_sync


if __name__ == "__main__":
    main()
