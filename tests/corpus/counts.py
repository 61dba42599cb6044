"""What was counted in the files whose exact damage only decoding tells: kinds 10 to 29.

`counts.tsv` holds it, for one version of FFmpeg's libraries and the bytes that its encoders made. Another version may
conceal damage in another way, so there only the bounds of the kinds hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

COUNTED = range(10, 30)
PATH = Path(__file__).with_name("counts.tsv")

Row: TypeAlias = tuple[str, int, int, int]
"""A code, or ``-``; frames; damaged frames; packets that could not be decoded."""


@dataclass(frozen=True, slots=True)
class Counts:
    """``made_by`` names PyAV's version; ``twins`` are name -> sha256; ``rows`` (kind, label) -> what was counted."""

    made_by: str
    twins: Mapping[str, str]
    rows: Mapping[tuple[int, str], Row]


def read_counts() -> Counts:
    made_by, twins, rows = "", {}, {}
    for line in PATH.read_text().splitlines():
        name, *values = line.split("\t")
        if name == "PyAV":
            made_by = values[0]
        elif name == "twin":
            twins[values[0]] = values[1]
        else:
            rows[int(name), values[0]] = (values[1], *map(int, values[2:]))
    return Counts(made_by, twins, rows)  # type: ignore[arg-type]  # rows have three numbers


def write_counts(counts: Counts) -> None:
    lines = [("PyAV", counts.made_by)]
    lines += [("twin", name, sha256) for name, sha256 in counts.twins.items()]
    lines += [(str(number), label, *map(str, row)) for (number, label), row in counts.rows.items()]
    PATH.write_text("".join("\t".join(line) + "\n" for line in lines))
