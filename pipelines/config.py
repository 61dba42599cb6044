"""Settings from TOML: ``./vadx.toml``, else ``[tool.vadx]`` of ``./pyproject.toml``.

Order: option, environment (``VADX_EXTRACT_BATCH``), file, default. A table a command: ``[extract]`` with
``batch = 4``.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import rich_click as click


@dataclass(frozen=True, slots=True)
class Setting:
    """One option's value and where it comes from: an environment variable, a file, or ``default``."""

    command: str
    name: str
    value: object
    origin: str


def settings_file() -> Path | None:
    """Give the file that settings are read from, None if there is none."""
    named = os.environ.get("VADX_CONFIG")
    if named:
        return Path(named)
    if Path("vadx.toml").is_file():
        return Path("vadx.toml")
    project = Path("pyproject.toml")
    if project.is_file() and "vadx" in _read(project).get("tool", {}):
        return project
    return None


CLUSTER = "cluster"
"""The table of tables that describe clusters: no command."""


def _tables(path: Path, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = raw.get("tool", {}).get("vadx", {}) if path.name == "pyproject.toml" else raw
    return found


def cluster_tables() -> tuple[Path, dict[str, Any]]:
    """Give the settings file, and its tables ``[cluster.NAME]`` by name.

    Raises
    ------
    UsageError
        if there is no settings file, or it is not TOML.
    """
    path = settings_file()
    if path is None:
        msg = "there is no vadx.toml here to describe a cluster: write one with [cluster.NAME], partition, gpus, time"
        raise UsageError(msg)
    found = _tables(path, _read(path)).get(CLUSTER, {})
    return path, found if isinstance(found, dict) else {}


def default_map(commands: Iterable[str]) -> dict[str, Any]:
    """Give click's default map: command -> option -> value.

    Raises
    ------
    UsageError
        if the file is not TOML, or names a command that does not exist.
    """
    path = settings_file()
    if path is None:
        return {}
    raw = _read(path)
    settings = {name: table for name, table in _tables(path, raw).items() if name != CLUSTER}
    known = set(commands)
    for name, table in settings.items():
        if name not in known or not isinstance(table, dict):
            raise UsageError(_unknown(path, name, known))
    return {command: dict(_as_parameters(path, command, table)) for command, table in settings.items()}


REPEATED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "bench": frozenset({"backbone", "preset"}),
        "diff": frozenset({"videos", "trials"}),
        "extract": frozenset({"backbone", "preset", "switch"}),
        "import": frozenset({"known"}),
        "manifest": frozenset({"annotations"}),
        "slurm-script": frozenset({"directives"}),
        "tubes": frozenset({"group"}),
    }
)
"""Command -> its options that can be given several times. One word in a file is a list of one."""


def _as_parameters(path: Path, command: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = key.replace("-", "_")
        values = value if isinstance(value, list) else [value]
        repeated = name in REPEATED.get(command, ())
        plain = all(isinstance(item, str | int | float) for item in values)
        if not plain or (isinstance(value, list) and not repeated):
            msg = f"{path}: {key} is {'a word or a list of words' if repeated else 'one value'}, got {value!r}"
            raise UsageError(msg)
        yield name, [str(item) for item in values] if repeated else value


def check_options(path: Path, command: click.Command, table: Mapping[str, Any]) -> None:
    """Refuse settings of a command that it has no option for.

    Raises
    ------
    UsageError
        naming the nearest option.
    """
    known = {parameter.name: parameter for parameter in command.params if parameter.name}
    for name, value in table.items():
        if name not in known:
            raise UsageError(_unknown(path, f"{command.name}.{name}", {f"{command.name}.{k}" for k in known}))
        _check_type(path, name, known[name], value)


def _check_type(path: Path, name: str, parameter: click.Parameter, value: object) -> None:
    # click takes true for 1, and cuts 2.7 to 2.
    is_flag = bool(getattr(parameter, "is_flag", False))
    whole = "integer" in parameter.type.name
    if isinstance(value, bool) != is_flag or (whole and isinstance(value, float)):
        wanted = "true or false" if is_flag else "a whole number" if whole else "no true or false"
        msg = f"{path}: {name} is {wanted}, got {value!r}"
        raise UsageError(msg)


def check_context(ctx: click.Context) -> None:
    """Check the settings that apply to the command of a context. Raises `UsageError` as `check_options`."""
    path = settings_file()
    if path is not None and ctx.default_map:
        check_options(path, ctx.command, ctx.default_map)


def list_settings(command: click.Command, commands: Iterable[str]) -> list[Setting]:
    """Give every option of a command with its value and origin, as a run without options would see it.

    Raises
    ------
    UsageError
        as `default_map` and `check_options`.
    """
    name = command.name or ""
    table = default_map(commands).get(name, {})
    path = settings_file()
    if path is not None and table:
        check_options(path, command, table)
    found = []
    for parameter in command.params:
        if parameter.name is None or parameter.param_type_name != "option":
            continue
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or [])
        variables.append(f"VADX_{name}_{parameter.name}".upper().replace("-", "_"))
        in_environment = next((v for v in variables if os.environ.get(v)), None)
        if in_environment:
            found.append(Setting(name, parameter.name, os.environ[in_environment], in_environment))
        elif parameter.name in table:
            found.append(Setting(name, parameter.name, table[parameter.name], str(settings_file())))
        else:
            # Not what `get_default` gives: that of a context is the setting of another command.
            default = parameter.default
            found.append(Setting(name, parameter.name, default if _is_plain(default) else None, "default"))
    return found


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | Path)


def _unknown(path: Path, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{path}: there is no setting {name!r}{hint}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} cannot be read as TOML: {error}"
        raise UsageError(msg) from error
