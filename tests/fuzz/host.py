"""Runs cases of fuzzers in a process that may crash, hang or run out of memory: `hunting.Host` starts another.

One JSON line in, a fuzzer, a seed and a number; one out, what became of the case.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

FUZZERS = {
    "video": ("video_cases", "VideoCases", 60.0),
    "hdf5": ("hdf5_cases", "Hdf5Cases", 10.0),
    "text": ("text_cases", "TextCases", 10.0),
    "command": ("command_cases", "CommandCases", 30.0),
}
"""Name -> module, class, and the seconds after which a case is killed: a pool has limits of its own."""

SELF_TEST = "harm"
"""Does the harm of its number, to see that a host survives it."""

MEMORY_BYTES = 3 << 30


class Harm:
    """Cases that do harm."""

    def __init__(self, _folder: Path) -> None:
        from vadx.errors import UsageError

        refuse = partial(_raise, UsageError("no"))
        self._harms: list[Callable[[], object]] = [self._index, self._hang, self._crash, refuse]

    def harm(self, number: int) -> str:
        self._harms[number]()
        return "harmless"

    def _index(self) -> object:
        return [][1]

    def _hang(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        # In C, and never back: no handler of Python's would be called.
        sum(count())

    def _crash(self) -> None:
        ctypes.string_at(0)


def _raise(error: Exception) -> None:
    raise error


def random_of(fuzzer: str, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(fuzzer.encode()), number])


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_case(cases: Any, fuzzer: str, seed: int, number: int) -> dict[str, Any]:
    from vadx.errors import VadxError

    start, trace = time.monotonic(), ""
    try:
        what = cases.harm(number) if fuzzer == SELF_TEST else cases.run(random_of(fuzzer, seed, number))
        outcome = "fine"
    except VadxError as error:
        what, outcome = f"{type(error).__name__}: {error}"[:300], "refused"
    except BaseException:  # noqa: BLE001  # whatever else it is, it is what is looked for
        what, outcome, trace = whereabouts(), "violation", traceback.format_exc()[-3000:]
    return {"outcome": outcome, "what": what, "seconds": time.monotonic() - start, "trace": trace}


def whereabouts() -> str:
    """Name an error and the last place of vadx that it passed."""
    kind, error, place = sys.exc_info()
    ours = [frame for frame in traceback.extract_tb(place) if "/vadx/" in frame.filename]
    last = f"{ours[-1].filename.split('/vadx/')[-1]}:{ours[-1].lineno}" if ours else "a fuzzer"
    return f"{kind.__name__ if kind else None} at {last}: {error}"[:300]


def main() -> None:
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    orders = os.fdopen(os.dup(0))
    os.dup2(2, 1)
    # A command may read what it is given there.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    made: dict[str, Any] = {}
    for line in orders:
        order = json.loads(line)
        fuzzer = order["fuzzer"]
        module, name, seconds = FUZZERS.get(fuzzer, ("host", "Harm", 10.0))
        if fuzzer not in made:
            made[fuzzer] = getattr(importlib.import_module(f"fuzz.{module}"), name)(folder / fuzzer)
            limit_memory()
        # Its default is to end the process, wherever that hangs.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        told = run_case(made[fuzzer], fuzzer, order["seed"], order["number"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(told), file=answers, flush=True)
    for cases in made.values():
        getattr(cases, "close", lambda: None)()


if __name__ == "__main__":
    main()
