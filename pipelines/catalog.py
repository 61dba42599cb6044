"""The table of networks as a person reads it: one list, from which the command and docs/backbones.md are made."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..extract import weights as cache
from ..extract.backbones import backbones, find_backbone

if TYPE_CHECKING:
    from ..extract.backbones.spec import BackboneSpec


@dataclass(frozen=True, slots=True)
class WeightsLine:
    """A published checkpoint of a network, and whether it is on this machine."""

    name: str
    licence: str
    present: bool


@dataclass(frozen=True, slots=True)
class BackboneLine:
    """What a person wants to know of a network before choosing it.

    ``clip`` says in words what it eats; ``weights`` are the default preset's, None where only random ones exist.
    """

    name: str
    title: str
    dim: int
    clip: str
    crop: int
    frame_wise: bool
    switches: dict[str, list[str | float | int | bool]]
    presets: list[str]
    weights: str | None
    present: bool
    licence: str
    extra: str | None
    source: str
    checkpoints: list[WeightsLine]


def catalog(pattern: str = "*") -> list[BackboneLine]:
    """Give the networks whose names match a wildcard pattern, or the one that the name means.

    Raises
    ------
    UsageError
        if there is none.
    """
    chosen = [spec for name, spec in backbones().items() if fnmatch.fnmatch(name, pattern)]
    return [_line(spec) for spec in chosen or [_named(pattern)]]


def _named(name: str) -> BackboneSpec:
    if any(character in name for character in "*?["):
        msg = f"no backbone matches {name!r}; there are: {', '.join(backbones())}"
        raise UsageError(msg)
    return find_backbone(name)


def _line(spec: BackboneSpec) -> BackboneLine:
    preset = spec.default_preset
    entries = [e for e in cache.WEIGHTS.values() if e.backbone == spec.name and e.kind == "network"]
    checkpoints = [WeightsLine(e.name, e.licence, cache.record_of(e.name) is not None) for e in entries]
    here = {line.name for line in checkpoints if line.present}
    return BackboneLine(
        name=spec.name,
        title=spec.title,
        dim=spec.dim,
        clip=_clip(spec),
        crop=preset.transform.crop,
        frame_wise=spec.frame_wise,
        switches={name: list(values) for name, values in spec.switches.items()},
        presets=[p.name for p in spec.presets],
        weights=preset.weights,
        present=preset.weights in here,
        licence=spec.licence,
        extra=spec.extra,
        source=spec.source,
        checkpoints=checkpoints,
    )


def _clip(spec: BackboneSpec) -> str:
    sampling, rule = spec.default_preset.sampling, spec.default_preset.network.temporal
    apart = f", {sampling.frame_step} apart" if sampling.frame_step > 1 else ""
    taken = f"{sampling.clip_length} every {sampling.clip_stride}{apart}"
    return taken if rule == "clip" else f"{rule} of {taken}"


def markdown() -> str:
    """Give docs/backbones.md: the networks that vadx brings, whatever else is installed or downloaded."""
    from ..extract.backbones.table import BUILT_IN

    lines = [
        "# Networks",
        "",
        "Made by `vadx backbones --markdown`; a test compares it with the table. `vadx presets NAME` says what a",
        "preset does and where each number comes from; `vadx weights ls`, where checkpoints come from. A network of",
        "single frames says how they become a clip's vector: the mean over the clip, its first or its middle frame.",
        "",
        "| name | network | numbers | clip | crop | switches (default first) | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [_line(spec) for spec in BUILT_IN]
    for row in rows:
        switches = "; ".join(f"`{n}` = {' or '.join(map(str, v)) or 'any'}" for n, v in row.switches.items())
        cells = (f"`{row.name}`", row.title, str(row.dim), row.clip, str(row.crop), switches, row.licence)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "`tsn:timm/NAME` is any image network of timm (`pip install 'vadx[timm]'`), with the input that timm's own",
        "configuration states, one vector a frame.",
        "",
        "## Presets and checkpoints",
        "",
    ]
    for row in rows:
        lines += [f"### {row.name}", "", f"{row.source}.", ""]
        lines += [f"Presets: {', '.join(f'`{name}`' for name in row.presets)}."]
        lines += [f"Needs `pip install 'vadx[{row.extra}]'`."] if row.extra else []
        known = ", ".join(f"`{line.name}` ({line.licence})" for line in row.checkpoints)
        lines += ["", f"Checkpoints: {known or 'none are known'}.", ""]
    return "\n".join(lines).rstrip() + "\n"
