"""What every benchmark's result says of the machine and of the spread of its timings, and how it is handed over."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests"
PLUGINS = TESTS / "plugins"
# The small network and the units of work of the tests lie there; scripts import them after this module.
sys.path[:0] = [str(PLUGINS), str(TESTS)]


def machine() -> str:
    """Give cores, processor and system in one line, without the name of a host."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return ", ".join([f"{os.cpu_count()}-core {platform.machine()}", *models[:1], platform.system()])


def significant(value: float) -> float:
    """Give a number with three significant digits."""
    return float(f"{value:.3g}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the median, the lowest and the highest, with three significant digits."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: significant(value) for name, value in numbers.items()}


def deliver(
    result: dict[str, Any], arguments: argparse.Namespace, report: Callable[[dict[str, Any]], Iterable[str]]
) -> None:
    """Write a result to the file of ``--out``, and print it, or what ``report`` says of it."""
    text = json.dumps(result, indent=1)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(text + "\n")
    if arguments.json:
        print(text)
    else:
        for line in report(result):
            print(line)
    print(arguments.out, file=sys.stderr)
