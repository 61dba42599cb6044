"""Runs fuzzers' cases in a host, one after another, and tells of those that did what no file may make vadx do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support import PLUGINS, SERIAL

TESTS = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Case:
    """What became of one case. ``outcome`` is fine, refused (a `VadxError`), violation, or died (``what`` says how)."""

    fuzzer: str
    seed: int
    number: int
    outcome: str
    what: str
    seconds: float
    trace: str = ""

    @property
    def is_violation(self) -> bool:
        return self.outcome not in ("fine", "refused")


class Host:
    """A process that runs cases, and is started anew when one has ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def run(self, fuzzer: str, seed: int, number: int) -> Case:
        process = self._process or self._start()
        if process.stdin is None or process.stdout is None:
            raise ValueError
        try:
            process.stdin.write(json.dumps({"fuzzer": fuzzer, "seed": seed, "number": number}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._end()
            last = (self._folder / "stderr").read_text(errors="replace")[-2000:]
            return Case(fuzzer, seed, number, "died", f"the process ended with {process.returncode}", 0.0, last)
        return Case(fuzzer, seed, number, **json.loads(line))

    def _start(self) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VADX_")}
        path = os.pathsep.join([str(TESTS), str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
        one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        with (self._folder / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.host", tempfile.mkdtemp(dir=self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**inherited, **one_thread, **SERIAL, "PYTHONPATH": path, "COLUMNS": "100"},
                text=True,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            with self._process as process:
                if process.stdin is not None:
                    # What it was not told is nothing to it: it has ended.
                    with suppress(BrokenPipeError):
                        process.stdin.close()
        self._process = None


def hunt(host: Host, fuzzer: str, seed: int, numbers: Iterable[int]) -> Iterator[Case]:
    """Run cases of one fuzzer."""
    return (host.run(fuzzer, seed, number) for number in numbers)
