"""The table of engines: what can run a network, where, and what it needs. Loads neither torch nor an engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class EngineRow:
    """``runs`` are pairs of (device kind, precision); ``package`` and ``extra`` are what it needs beside torch."""

    runs: frozenset[tuple[str, str]]
    package: str | None = None
    extra: str | None = None


ENGINES: Mapping[str, EngineRow] = MappingProxyType(
    {
        "torch-eager": EngineRow(
            frozenset({("cpu", "fp32"), ("cpu", "bf16")})
            | {("cuda", precision) for precision in ("fp32", "tf32", "bf16", "fp16")}
        ),
        "openvino": EngineRow(frozenset({("cpu", "fp32"), ("cpu", "bf16")}), package="openvino", extra="cpu"),
    }
)

DEFAULT_ENGINE = "torch-eager"
"""What runs where nobody asks for another.

It needs nothing that may come and go: were a faster engine taken wherever its package is found, an upgrade of some
other program's packages would change the last bits of half a feature set.
"""


def choose_engine(name: str | None, device: str, precision: str, *, installed: Collection[str] | None = None) -> str:
    """Give the engine of a run; ``name`` is what was asked for, None for the default.

    ``device`` is a kind, ``cpu`` or ``cuda``. ``installed`` are packages that can be imported; None means to look.

    Raises
    ------
    UsageError
        if it is unknown, does not run this precision on this device, or its package is missing. Never another engine
        instead.
    """
    if name is None:
        return DEFAULT_ENGINE
    row = ENGINES.get(name)
    if row is None:
        msg = f"unknown engine {name!r}; there are {', '.join(ENGINES)}"
        raise UsageError(msg)
    # What torch itself cannot run is refused by check_precision, in its own words.
    if name != DEFAULT_ENGINE and (device, precision) not in row.runs:
        ways = ", ".join(f"{precision} on {device}" for device, precision in sorted(row.runs))
        msg = f"--engine {name} runs {ways}, not {precision} on {device}; use --engine {DEFAULT_ENGINE}"
        raise UsageError(msg)
    if row.package is not None and not (_is_installed(row.package) if installed is None else row.package in installed):
        raise UsageError(missing_message(name))
    return name


def missing_message(name: str) -> str:
    """Say what to type where an engine's package is not there."""
    row = ENGINES[name]
    return (
        f"--engine {name} needs the package {row.package}: pip install 'vadx[{row.extra}]', "
        f"or use --engine {DEFAULT_ENGINE}"
    )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:
        # A module that was put into sys.modules without a spec, or blocked there.
        return False
