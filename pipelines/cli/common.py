"""What several commands share: the store option, output as JSON, and finding what a name means."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from ...errors import StoreError, UsageError, WeightsError
from ..policy import FailureLimit, parse_bytes, parse_duration, parse_failure_limit, parse_part

if TYPE_CHECKING:
    from ...extract.decode_limits import DecodeLimits
    from ...features.stage_set import StageSet
    from ...features.store import FeatureSet, Store
    from ..inputs import Inputs

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_STORE = "vadx-store"


class FiniteRange(click.FloatRange):
    """A range of numbers; click's own takes NaN, which is neither below nor above anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number that can be meant here.", param, ctx)
        return found


def store_option(function: F) -> F:
    """Add ``--store``: the folder of feature sets."""
    return click.option(
        "--store",
        "-o",
        "store",
        type=click.Path(path_type=Path),
        envvar="VADX_STORE",
        default=Path(DEFAULT_STORE),
        show_default=True,
        help="The store.",
    )(function)


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


def out_option(*other_names: str) -> Callable[[F], F]:
    """Add ``--out``: the store that is made or added to. The first of ``other_names`` is the parameter's."""
    return click.option(
        *other_names,
        "--out",
        "-o",
        type=click.Path(path_type=Path),
        envvar="VADX_STORE",
        default=Path(DEFAULT_STORE),
        show_default=True,
        help="The store to write to.",
    )


def run_options(*, force: str, verbose: str) -> Callable[[F], F]:
    """Add what every command that works through videos has: which it takes, which it passes over, what it prints."""
    return _all_of(
        click.option("--limit", type=click.IntRange(min=0), help="Stop after so many videos that were still to do."),
        click.option("--part", help="I/N: only the I-th of N parts of the videos, for job arrays."),
        click.option("--fail-fast", is_flag=True, help="Begin no other video once one has failed."),
        click.option(
            "--max-failures",
            default=str(FailureLimit()),
            help="Begin no other video once so many failed, or more than this share of 20 or more.",
        ),
        click.option("--stop-after", help="Stop in time, as 3h50m: exit 143, and the same command resumes."),
        click.option("--dry-run", "-n", is_flag=True, help="Only say what would be done, and why."),
        click.option("--force", is_flag=True, help=force),
        click.option("--retry-failed", is_flag=True, help="Try again what failed before."),
        json_option,
        click.option("--quiet", "-q", is_flag=True, help="Print only the ids of the videos that were stored."),
        click.option("--verbose", "-v", is_flag=True, help=verbose),
    )


def decoding_options(function: F) -> F:
    """Add what every command that decodes videos has: what a decoder may take, and which damage is accepted."""
    return _all_of(
        click.option("--stall-timeout", help="A decoder that gives nothing for so long is ended.  [default: 30s]"),
        click.option("--video-timeout", help="The longest that a video may be decoded, as 2h.  [default: no end]"),
        click.option("--decoder-memory", help="What each decoder may take, as 4GB.  [default: 2.1GB]"),
        click.option("--strict", is_flag=True, help="Refuse videos with any damage."),
        click.option("--allow-partial", is_flag=True, help="Accept truncated and damaged videos as far as they go."),
    )(function)


def _with_its_networks(name: str) -> str:
    from ...extract.engines import ENGINES

    gains = ENGINES[name].gains
    return name if gains is None else f"{name} ({' and '.join(sorted(gains))} alone)"


def engine_option(function: F) -> F:
    """Add ``--engine``."""
    from ...extract.engines import ENGINES, PREFERENCE

    names = ", ".join(map(_with_its_networks, PREFERENCE))
    return click.option(
        "--engine",
        type=click.Choice(list(ENGINES)),
        help=f"What runs the network.  [default: the first of {names} that can]",
    )(function)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        # Options are listed from the outermost decorator on.
        for option in reversed(options):
            function = option(function)
        return function

    return add


def run_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Give what `run_options` say of when a run ends, as `run_videos` takes it.

    Raises
    ------
    UsageError
        for what cannot be meant.
    """
    limit = parse_failure_limit(options["max_failures"])
    return {
        "limit": options["limit"],
        "failures": FailureLimit(count=1) if options["fail_fast"] else limit,
        "stop_after_seconds": _seconds(options, "stop_after"),
    }


def decode_limits(options: dict[str, Any]) -> DecodeLimits:
    """Give what `decoding_options` say that a decoder may take. Raises `UsageError` for what cannot be meant."""
    from ...extract.decode_limits import DecodeLimits

    given: dict[str, Any] = {}
    if options["decoder_memory"] is not None:
        given["memory_bytes"] = parse_bytes("--decoder-memory", options["decoder_memory"])
    stall = _seconds(options, "stall_timeout")
    if stall is not None:
        given["stall_seconds"] = stall
    return DecodeLimits(**given, video_seconds=_seconds(options, "video_timeout"))


def _seconds(options: dict[str, Any], name: str) -> float | None:
    given = options[name]
    return None if given is None else parse_duration(f"--{name.replace('_', '-')}", given)


def find_part(options: dict[str, Any]) -> Inputs:
    """Find the videos that the inputs mean, of the part that ``--part`` names. Raises as `find_videos`."""
    from ..inputs import find_videos, take_part

    part = None if options["part"] is None else parse_part(options["part"])
    found = find_videos(options["inputs"], root=options["root"])
    return found if part is None else take_part(found, *part)


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    import json

    import msgspec

    from ..progress import harmless_json

    # Escapes every character outside ASCII: a path that is not UTF-8 can be written too.
    click.echo(harmless_json(json.dumps(msgspec.to_builtins(value), indent=2)))


def print_table(headers: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout that a person can read and a script can cut: columns parted by two spaces."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [headers, *rows])
    click.echo("\n".join(line.rstrip() for line in lines))


def open_store(path: Path) -> Store:
    """Open a store that must exist. Raises `UsageError` if there is none."""
    from ...features.store import Store

    if not path.is_dir():
        msg = f"there is no store at {path}; give --store PATH, or make one: vadx extract videos/ --out {path}"
        raise UsageError(msg)
    if (path / "recipe.json").is_file():
        msg = f"{path} is a feature set, not a store; give it by itself: vadx ls {path}"
        raise UsageError(msg)
    return Store(path)


def open_set(name: str, store: Path) -> FeatureSet:
    """Open the feature set that a name means: a folder's path, or a prefix or preset in the store.

    Raises
    ------
    UsageError
        if it means none or several.
    """
    from ...features.packed_set import PackedSet, means_packed
    from ...features.store import FeatureSet

    path = Path(name)
    if means_packed(path):
        return PackedSet(path)
    if (path / "recipe.json").is_file():
        return FeatureSet(path)
    opened = open_store(store)
    try:
        return opened[name]
    except KeyError as error:
        made = _sets_of_preset(opened, name)
        if len(made) == 1:
            return made[0]
        raise UsageError(str(error.args[0])) from error


def _sets_of_preset(store: Store, name: str) -> list[FeatureSet]:
    """Give the sets that a preset makes, whichever preset of the same recipe they were made under."""
    from ...extract.backbones import find_preset
    from ...extract.library import complete_recipe

    try:
        preset = find_preset(name)
        return [s for s in store.sets() if complete_recipe(preset, s.recipe.weights).digest == s.recipe.digest]
    except (UsageError, WeightsError):
        return []


def open_any_set(name: str, store: Path) -> FeatureSet | StageSet:
    """Open the set that a name means, of whatever kind. As `open_set`."""
    from ...features.packed_set import PackedSet, means_packed
    from ...features.store import open_shard_set

    path = Path(name)
    if means_packed(path):
        return PackedSet(path)
    if (path / "recipe.json").is_file():
        return open_shard_set(path)
    try:
        return open_store(store).open(name)
    except KeyError:
        return open_set(name, store)


def choose_sets(name: str | None, store: Path) -> list[FeatureSet | StageSet]:
    """Open the named set, or every one of the store, of whatever kind."""
    return [open_any_set(name, store)] if name else open_store(store).all_sets()


def open_sets(store: Path) -> tuple[list[FeatureSet | StageSet], dict[Path, StoreError]]:
    """Open every set of a store, of whatever kind; one that cannot be opened hides no other: folder -> why."""
    from ...features.store import open_shard_set

    sets, unreadable = [], {}
    for name in open_store(store).names():
        try:
            sets.append(open_shard_set(store / name))
        except StoreError as error:
            unreadable[store / name] = error
    return sets, unreadable


def tell_unreadable(unreadable: dict[Path, StoreError]) -> int:
    """Say on stderr which sets cannot be opened, and give the exit code."""
    from ..progress import printable

    for error in unreadable.values():
        click.echo(printable(f"vadx: {error}"), err=True)
    return StoreError.exit_code if unreadable else 0


def human_bytes(count: float) -> str:
    """Give a size with a unit: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
