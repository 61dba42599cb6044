"""Fuzz for minutes or hours: `make fuzz`, or

python tests/fuzz/run.py                                         # every fuzzer, 2 minutes each
python tests/fuzz/run.py --fuzzer hdf5 --minutes 60 --seed 7
python tests/fuzz/run.py --fuzzer text --seed 7 --only 4711      # one case again

Prints one line of JSON for each violation and one for each fuzzer at its end; exit 1 if there was a violation. The seed
is a new one each time unless it is given.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz.host import FUZZERS
from fuzz.hunting import Case, Host, hunt

ROT = "rot"


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz vadx.")
    parser.add_argument("--fuzzer", choices=[*FUZZERS, ROT], action="append", help="All of them where none is named.")
    parser.add_argument("--minutes", type=float, default=2.0, help="For each fuzzer.")
    parser.add_argument("--count", type=int, help="Cases of each fuzzer, however long they take.")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, help="Run this one case.")
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    violations = 0
    for fuzzer in options.fuzzer or [*FUZZERS, ROT]:
        numbers = (
            [options.only] if options.only is not None else count() if options.count is None else range(options.count)
        )
        until = float("inf") if options.count is not None else time.monotonic() + 60 * options.minutes
        if fuzzer == ROT:
            violations += rot(seed, until, options.count)
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Host(Path(folder)) as host:
            violations += tell(fuzzer, seed, hunt(host, fuzzer, seed, numbers), until)
    return int(violations > 0)


def tell(fuzzer: str, seed: int, cases: Iterator[Case], until: float) -> int:
    """Print what is found until the time is over; gives the number of violations."""
    start, outcomes, kinds, slowest = time.monotonic(), Counter[str](), Counter[str](), 0.0
    for case in cases:
        outcomes[case.outcome] += 1
        kinds[case.what.split(";")[0] if case.outcome == "fine" else case.what.split(":")[0]] += 1
        slowest = max(slowest, case.seconds)
        if case.is_violation:
            print(json.dumps(asdict(case)), flush=True)
        if time.monotonic() > until:
            break
    violations = sum(number for outcome, number in outcomes.items() if outcome not in ("fine", "refused"))
    summary = {
        "fuzzer": fuzzer,
        "seed": seed,
        "cases": sum(outcomes.values()),
        "outcomes": dict(outcomes),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.monotonic() - start, 1),
        "violations": violations,
        "kinds": dict(kinds.most_common(40)),
    }
    print(json.dumps(summary), flush=True)
    return violations


def rot(seed: int, until: float, rounds: int | None) -> int:
    """Ruin every kind of file again and again."""
    from fuzz.rotten import FILES, ruin

    start, counts, violations = time.monotonic(), Counter[str](), 0
    for turn in count() if rounds is None else range(rounds):
        for kind, make in FILES.items():
            with tempfile.TemporaryDirectory() as folder:
                for one in ruin(make(Path(folder)), {"flip": 40, "page": 10, "cut": 5}, seed + turn):
                    missed = one.is_changed and not one.found
                    unread = kind in ("packed file", "bags file") and one.read == "same"
                    wrong = one.read == "wrong" or bool(one.strangers) or (missed and not unread)
                    counts[one.harm] += 1
                    counts["unread bytes of plain HDF5"] += missed and unread
                    violations += wrong
                    if wrong:
                        print(
                            json.dumps(
                                {
                                    "fuzzer": ROT,
                                    "kind": kind,
                                    "seed": seed + turn,
                                    "where": one.where,
                                    "read": one.read,
                                    "found": one.found,
                                }
                            )
                        )
        if time.monotonic() > until:
            break
    seconds = round(time.monotonic() - start, 1)
    print(
        json.dumps({"fuzzer": ROT, "seed": seed, "counts": dict(counts), "seconds": seconds, "violations": violations})
    )
    return violations


if __name__ == "__main__":
    sys.exit(main())
