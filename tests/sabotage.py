"""Remove one guard at a time, and show that a test turns red for each.

``make sabotage`` tries all of `GUARDS`, ``python tests/sabotage.py WORD...`` those whose names hold a word. The files
are changed in copies of the repository, never in place. Exit code 1 if a test stays green without its guard.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

from guard import Guard
from guards_at_rest import AT_REST
from guards_of_strangers import OF_STRANGERS

REPOSITORY = Path(__file__).parent.parent
COPIED = ("features", "extract", "detectors", "pipelines", "src", "tests", "docs", "pyproject.toml")
TEST_SECONDS = 120
"""A test that does not end without its guard is red, too."""

GUARDS: tuple[Guard, ...] = (*AT_REST, *OF_STRANGERS)
"""Every guard whose removal is tried."""


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of what tests need. It is another package than the installed one: see `run_tests`."""
    with tempfile.TemporaryDirectory(prefix="vadx-sabotage-", ignore_cleanup_errors=True) as name:
        copy = Path(name) / "vadx"
        copy.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".test-cache")
        for part in COPIED:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, copy / part, symlinks=True, ignore=ignored)
            else:
                shutil.copy(source, copy / part)
        yield copy


def without(guard: Guard, root: Path = REPOSITORY) -> str:
    """Give a file's text without a guard. Raises `ValueError` unless what is removed stands there once."""
    text = (root / guard.file).read_text()
    if text.count(guard.old) != 1:
        msg = f"{guard.name}: what it removes stands {text.count(guard.old)} times in {guard.file}"
        raise ValueError(msg)
    return text.replace(guard.old, guard.new)


def run_tests(copy: Path, tests: Sequence[str], *, shows: bool = False) -> int | None:
    """Run tests of a copy, with pytest's own output or without; gives its exit code, None where they did not end."""
    paths = [str(copy / "src"), str(copy / "tests" / "plugins")]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("VADX_", "PYTEST_"))},
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "VADX_TEST_CACHE": os.environ.get("VADX_TEST_CACHE", str(REPOSITORY / ".test-cache")),
    }
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--durations=0", "--timeout=60"]
    try:
        done = subprocess.run(
            [*words, *tests], cwd=copy, env=environment, capture_output=not shows, timeout=TEST_SECONDS * len(tests)
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def turns_red(guard: Guard, copy: Path) -> bool:
    """Whether a guard's test fails without it. Raises `ValueError` where it cannot even be run."""
    path = copy / guard.file
    before = path.read_text()
    path.write_text(without(guard, copy))
    _forget_compiled(path)
    try:
        code = run_tests(copy, [guard.test])
    finally:
        path.write_text(before)
        _forget_compiled(path)
    if code not in (0, 1, None):
        msg = f"{guard.name}: pytest ended with {code}; is {guard.test} a test, and the changed file Python?"
        raise ValueError(msg)
    return code != 0


def _forget_compiled(path: Path) -> None:
    # Python tells an old compiled module by its source's size and second.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def try_all(guards: Sequence[Guard], num_jobs: int) -> int:
    """Try guards in copies of their own; gives the number of those whose test stayed green."""
    num_green = 0
    free: SimpleQueue[Path] = SimpleQueue()

    def one(guard: Guard) -> bool:
        copy = free.get()
        try:
            return turns_red(guard, copy)
        finally:
            free.put(copy)

    with _filled(num_jobs, free), ThreadPoolExecutor(num_jobs) as pool:
        for guard, is_red in zip(guards, pool.map(one, guards), strict=True):
            num_green += not is_red
            said = "red        " if is_red else "STILL GREEN"
            print(f"{said}  {guard.name}  ({guard.file})  {guard.test}", flush=True)
    return num_green


@contextmanager
def _filled(num_jobs: int, free: SimpleQueue[Path]) -> Iterator[None]:
    """Fill a queue with copies."""
    with ExitStack() as stack:
        for _ in range(num_jobs):
            free.put(stack.enter_context(copied()))
        yield


def table() -> str:
    """Give the table of guards as the page on threats shows it."""
    rows = [f"| {g.name} | `{g.file}` | `{g.test.rpartition('::')[2].partition('[')[0]}` |" for g in GUARDS]
    return "\n".join(["| Removed | From | Turns red |", "|---|---|---|", *rows, ""])


def main() -> int:
    """Try the guards that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("words", nargs="*", help="only guards whose name or file holds one of these")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--table", action="store_true", help="only print the table of docs/threats.md")
    options = parser.parse_args()
    if options.table:
        print(table(), end="")
        return 0
    guards = [g for g in GUARDS if not options.words or any(w in f"{g.name} {g.file}" for w in options.words)]
    with copied() as copy:
        code = run_tests(copy, sorted({guard.test for guard in guards}), shows=True)
    if code != 0:
        print(f"the tests are not green with all guards in place (pytest: {code}): see to that first", file=sys.stderr)
        return 1
    num_green = try_all(guards, options.jobs)
    print(f"{len(guards)} guards removed one at a time: {len(guards) - num_green} tests red, {num_green} still green")
    return 1 if num_green else 0


if __name__ == "__main__":
    sys.exit(main())
