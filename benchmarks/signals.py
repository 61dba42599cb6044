"""SIGTERM at random moments of `vadx extract`, then the same command again; ``benchmarks/results/signals.json``.

python benchmarks/signals.py                                      # 60 trials in one process, 40 with --workers 2
python benchmarks/signals.py --alone 6 --workers 2                # small

A trial runs the small network of the tests over short videos, in a process that is forked from this one, so that
nothing is imported again; it is sent the signal once, at a moment that is uniform over the time that an undisturbed run
takes.
Exits with 1 where one did not end within 10 seconds, left a process behind, or was not resumed byte for byte.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import os
import platform
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import PLUGINS, deliver, machine, significant, spread

RESULTS = Path(__file__).parent / "results"

SEED = 20261122
TINY = ("extract", "--backbone", "tiny", "--weights", "random", "--device", "cpu", "--batch", "3", "--json")
DECODERS = ("--decoders", "1")
EXIT_SECONDS = 10.0
HANGS_AFTER_SECONDS = 60.0
ENDED_BY_SIGNAL = (143, -signal.SIGTERM)
"""By vadx, and, before its work begins, by the system: a shell says 143 of both."""

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Trial:
    """One run that was sent the signal, and the same command again.

    ``seconds`` is how long it took to end, None where it was over before. ``left`` is how many processes were still
    there 10 seconds after it.
    """

    moment: float
    code: int
    seconds: float | None
    stored: int
    left: int
    resumed: int
    is_equal: bool


def begin(words: Sequence[str], folder: Path) -> int:
    """Fork a process that runs the command line in a folder; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    from vadx.pipelines.cli import run

    code = 70
    try:
        os.chdir(folder)
        for number, name in ((0, "/dev/null"), (1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), number)
        code = run(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
        # What a command's interpreter does at its end: Dask and multiprocessing have something left to do.
        import atexit

        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """Give a child's exit code, None if it is still there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def children() -> list[int]:
    """Give the processes that are left of a child: those that lost their parent become this one's."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += [int(word) for word in path.read_text().split()]
    return found


def left_behind() -> int:
    """Wait for what a run started to end, count what does not within 10 seconds, and end it."""
    deadline = time.monotonic() + EXIT_SECONDS
    while children() and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.02)
    left = children()
    for pid in left:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return len(left)


def shards(store: Path) -> dict[str, str]:
    """Give key -> sha256 of every shard."""
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.glob("*/shards/*/*.h5"))}


def run_trial(folder: Path, words: Sequence[str], again: Sequence[str], moment: float, quiet: dict[str, str]) -> Trial:
    folder.mkdir()
    pid = begin(words, folder)
    code = wait(pid, moment)
    seconds = None
    if code is None:
        begun = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        code = wait(pid, HANGS_AFTER_SECONDS)
        seconds = time.monotonic() - begun
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = -signal.SIGKILL
    left = left_behind()
    stored = len(shards(folder / "store"))
    resumed = wait(begin(again, folder), 300)
    trial = Trial(
        round(moment, 3),
        code,
        None if seconds is None else round(seconds, 3),
        stored,
        left,
        -1 if resumed is None else resumed,
        shards(folder / "store") == quiet,
    )
    left_behind()
    if trial.is_equal:
        shutil.rmtree(folder)
    return trial


def trials(
    root: Path, name: str, where: Sequence[str], count: int, num_again: int, generator: random.Random, deadline: float
) -> dict[str, Any]:
    """Run so many trials, or until the deadline, a time of `time.monotonic`.

    The first ``num_again`` are resumed by the same command, the others in one process.
    """
    words = [*TINY, str(root / "videos"), "--out", "store"]
    (root / name).mkdir()
    begun = time.monotonic()
    if wait(begin([*words, *where], root / name), 300) != 0:
        sys.exit(f"an undisturbed run failed: {(root / name / 'err').read_text()}")
    whole, quiet = time.monotonic() - begun, shards(root / name / "store")
    left_behind()
    rows: list[Trial] = []
    for number in range(3 * count):
        # One that was over before its moment shows nothing.
        if time.monotonic() > deadline or sum(row.seconds is not None for row in rows) == count:
            break
        again = where if number < num_again else DECODERS
        moment = generator.uniform(0, whole)
        rows.append(run_trial(root / f"{name}{number}", [*words, *where], [*words, *again], moment, quiet))
        print(name, number, rows[-1], file=sys.stderr)
    struck = [row.seconds for row in rows if row.seconds is not None]
    return {
        "options": list(where),
        "seconds_of_an_undisturbed_run": significant(whole),
        "wanted": count,
        "trials": len(rows),
        "resumed_by_the_same_command": min(num_again, len(rows)),
        "struck_while_running": len(struck),
        "seconds_to_exit": spread(struck) if struck else {},
        "codes": {str(code): number for code, number in sorted(Counter(row.code for row in rows).items())},
        "videos_stored_when_struck": dict(sorted(Counter(row.stored for row in rows).items())),
        "violations": [asdict(row) for row in rows if is_violation(row)],
    }


def is_violation(row: Trial) -> bool:
    """Whether a trial was not as promised."""
    expected = (0,) if row.seconds is None else (0, *ENDED_BY_SIGNAL)
    is_late = row.seconds is not None and row.seconds > EXIT_SECONDS
    return is_late or row.code not in expected or row.left > 0 or row.resumed != 0 or not row.is_equal


def earlier(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Give the parts of earlier results, each with how it came about."""
    for path in paths:
        result = json.loads(path.read_text())
        told = {
            name: result[name] for name in ("command", "seed", "notes", "load_average_before", "load_average_after")
        }
        yield from ({**told, **part} for part in result["parts"])


def report(result: dict[str, Any]) -> Iterator[str]:
    """Give the result as lines for a person."""
    for part in result["parts"]:
        yield ", ".join(f"{key} {value}" for key, value in part.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=60, help="trials in one process and its decoder")
    parser.add_argument("--workers", type=int, default=40, help="trials with --workers 2")
    parser.add_argument("--again", type=int, default=10, help="trials with workers that are resumed with workers")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="earlier results whose parts are kept")
    parser.add_argument("--minutes", type=float, default=600.0, help="no other trial is begun after so long")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--folder", type=Path, help="where stores that are not equal are left to be looked at")
    parser.add_argument("--out", type=Path, default=RESULTS / "signals.json", help="where the result goes")
    parser.add_argument("--note", action="append", default=[], help="a remark for the result")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    path = os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update(PYTHONPATH=path, OMP_NUM_THREADS="1", VADX_EXTRACT_ENGINE="torch-eager")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    import vadx
    from support import make_video

    # Processes that are forked have them then.
    for name in ("extraction", "run", "cli.extract"):
        importlib.import_module(f"vadx.pipelines.{name}")

    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    # Not a `TemporaryDirectory`: each fork would remove it at its end.
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="vadx-signals-"))
    try:
        os.environ["VADX_HOME"] = str(root / "home")
        for number in range(12):
            make_video(root / f"videos/v{number:02d}.mp4", num_frames=60 + 20 * number, seed=number)
        generator = random.Random(arguments.seed)
        plan = (
            ("alone", DECODERS, arguments.alone, arguments.alone),
            ("workers", ("--workers", "2", *DECODERS), arguments.workers, arguments.again),
        )
        deadline = time.monotonic() + 60 * arguments.minutes
        parts = [trials(root, *row, generator, deadline) for row in plan if row[2]]
    finally:
        if arguments.folder is None:
            shutil.rmtree(root, ignore_errors=True)
    told = {
        "command": shlex.join(["python", "benchmarks/signals.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "notes": arguments.note,
        "load_average_before": significant(load),
        "load_average_after": significant(os.getloadavg()[0]),
    }
    parts = [*earlier(arguments.beside), *({**told, **part} for part in parts)]
    result = {
        **told,
        "versions": {"vadx": vadx.__version__, "python": platform.python_version()},
        "machine": machine(),
        "seconds_allowed": EXIT_SECONDS,
        "struck_while_running": sum(part["struck_while_running"] for part in parts),
        "violations": sum(len(part["violations"]) for part in parts),
        "parts": parts,
    }
    deliver(result, arguments, report)
    return int(result["violations"] > 0)


if __name__ == "__main__":
    sys.exit(main())
