"""The table of engines: what can run a network, where, and what it needs. Loads neither torch nor an engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class EngineRow:
    """``runs`` are pairs of (device kind, precision); ``package`` and ``extra`` are what it needs beside torch.

    ``gains`` are the networks, as recipes name them, that it is measured to be the fastest for, and the choice for
    where nobody names an engine; None stands for all.
    """

    runs: frozenset[tuple[str, str]]
    package: str | None = None
    extra: str | None = None
    gains: frozenset[str] | None = None


ENGINES: Mapping[str, EngineRow] = MappingProxyType(
    {
        "torch-eager": EngineRow(
            frozenset({("cpu", "fp32"), ("cpu", "bf16")})
            | {("cuda", precision) for precision in ("fp32", "tf32", "bf16", "fp16")}
        ),
        "torch-winograd": EngineRow(frozenset({("cpu", "fp32")}), gains=frozenset({"c3d"})),
        "openvino": EngineRow(frozenset({("cpu", "fp32"), ("cpu", "bf16")}), package="openvino", extra="cpu"),
    }
)

DEFAULT_ENGINE = "torch-eager"
"""The engine that needs nothing beside torch and runs every device and precision: what is left where no other can."""

PREFERENCE = ("torch-winograd", "openvino", DEFAULT_ENGINE)
"""Which engine is taken where nobody names one: the first that runs the device and precision, is installed, and gains
something for the network.

Never a timing: two runs on one machine take the same. docs/numerics.md has how far the engines' features lie apart.
"""

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""What /proc/cpuinfo calls the instructions that OpenVINO computes in bf16 with."""


def choose_engine(
    name: str | None,
    device: str,
    precision: str,
    *,
    network: str | None = None,
    installed: Collection[str] | None = None,
    cpu_flags: Collection[str] | None = None,
) -> str:
    """Give the engine of a run; ``name`` is what was asked for, None for the first of `PREFERENCE` that can.

    ``device`` is a kind, ``cpu`` or ``cuda``; ``network`` what the recipe names, None where that is not known, so that
    engines for some networks are not chosen. ``installed`` are packages that can be imported, ``cpu_flags`` what the
    CPU can do, as /proc/cpuinfo says it; None means to look.

    Raises
    ------
    UsageError
        if an engine was named and it is unknown, does not run this precision on this device, or its package is
        missing. Never another engine instead.
    """
    if name is None:
        return next(
            (
                engine
                for engine in PREFERENCE
                if _gains(engine, network) and _can_run(engine, device, precision, installed, cpu_flags)
            ),
            DEFAULT_ENGINE,
        )
    row = ENGINES.get(name)
    if row is None:
        msg = f"unknown engine {name!r}; there are {', '.join(ENGINES)}"
        raise UsageError(msg)
    # What torch itself cannot run is refused by check_precision, in its own words.
    if name != DEFAULT_ENGINE and (device, precision) not in row.runs:
        ways = ", ".join(f"{precision} on {device}" for device, precision in sorted(row.runs))
        msg = f"--engine {name} runs {ways}, not {precision} on {device}; use --engine {DEFAULT_ENGINE}"
        raise UsageError(msg)
    if not _has_package(row, installed):
        raise UsageError(missing_message(name))
    return name


def cpu_has(*flags: str) -> bool:
    """Say whether the CPU has one of these instruction sets, by the names of /proc/cpuinfo; False without that file."""
    try:
        return not set(flags).isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def _gains(name: str, network: str | None) -> bool:
    gains = ENGINES[name].gains
    return gains is None or network in gains


def _can_run(
    name: str, device: str, precision: str, installed: Collection[str] | None, cpu_flags: Collection[str] | None
) -> bool:
    row = ENGINES[name]
    if (device, precision) not in row.runs or not _has_package(row, installed):
        return False
    if name == "openvino" and precision == "bf16":
        return cpu_has(*_BF16_FLAGS) if cpu_flags is None else not _BF16_FLAGS.isdisjoint(cpu_flags)
    return True


def missing_message(name: str) -> str:
    """Say what to type where an engine's package is not there."""
    row = ENGINES[name]
    return (
        f"--engine {name} needs the package {row.package}: pip install 'vadx[{row.extra}]', "
        f"or use --engine {DEFAULT_ENGINE}"
    )


def _has_package(row: EngineRow, installed: Collection[str] | None) -> bool:
    if row.package is None:
        return True
    return _is_installed(row.package) if installed is None else row.package in installed


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:
        # A module that was put into sys.modules without a spec, or blocked there.
        return False
