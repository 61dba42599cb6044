"""What every benchmark's result says of the machine and of the spread of its timings."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path


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
