"""``vadx presets``."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import UsageError
from .common import json_option, print_json, print_table

if TYPE_CHECKING:
    from ...extract.presets import Preset


@click.command()
@click.argument("name", default="*")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a picture of the pixels that the network is fed, of --video or of a test card.",
)
@click.option("--video", type=click.Path(path_type=Path), help="The video whose first clip --picture shows.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
def presets(name: str, picture: Path | None, video: Path | None, as_json: bool, quiet: bool) -> int:
    """List the named recipes, or say what one of them does, with the source of every number.

    \b
    vadx presets                                       all of them
    vadx presets 'rtfm*'                               those that match
    vadx presets rtfm-i3d-10crop                       one, in words
    vadx presets rtfm-i3d-10crop --picture out.png     what its network is fed
    """
    chosen = _choose(name)
    if picture is not None:
        if len(chosen) != 1:
            msg = f"--picture shows one preset; {name!r} means {', '.join(preset.name for preset in chosen)}"
            raise UsageError(msg)
        return _draw(chosen[0], picture, video)
    if video is not None:
        msg = "--video goes with --picture"
        raise UsageError(msg)
    if as_json:
        print_json([_record(preset) for preset in chosen])
    elif quiet:
        for preset in chosen:
            click.echo(preset.name)
    elif len(chosen) == 1 or not _is_pattern(name):
        from ..prose import describe_preset

        click.echo("\n\n".join(describe_preset(preset) for preset in chosen))
    else:
        print_table(["NAME", "BACKBONE", "CLIP", "CROPS", "WEIGHTS"], [_row(preset) for preset in chosen])
    return 0


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _choose(name: str) -> list[Preset]:
    from ...extract.backbones import backbones, find_presets

    if not _is_pattern(name):
        return list(find_presets(name))
    every = {preset.name: preset for spec in backbones().values() for preset in spec.presets}
    chosen = [preset for preset in every.values() if fnmatch.fnmatch(preset.name, name)]
    if not chosen:
        msg = f"no preset matches {name!r}; there are: {', '.join(every)}"
        raise UsageError(msg)
    return chosen


def _row(preset: Preset) -> list[str]:
    sampling, transform = preset.sampling, preset.transform
    return [
        preset.name,
        preset.backbone,
        f"{sampling.clip_length} every {sampling.clip_stride}",
        transform.crops if transform.crop_order is None else f"{transform.crops} ({transform.crop_order})",
        preset.weights or "random only",
    ]


def _record(preset: Preset) -> dict[str, Any]:
    from ...extract.presets import recipe_of

    recipe = recipe_of(preset, preset.weights or "random:0").to_mapping()
    return {
        "name": preset.name,
        "backbone": preset.backbone,
        "weights": preset.weights,
        "mean_cube": preset.mean_cube,
        "flow_weights": preset.flow_weights,
        "recipe": {key: value for key, value in recipe.items() if key != "weights"},
        "note": preset.note,
        "sources": dict(preset.sources),
        "disputed": list(preset.disputed),
    }


def _draw(preset: Preset, path: Path, video: Path | None) -> int:
    from ..picture import draw_inputs

    shown = draw_inputs(preset, path, video)
    click.echo(shown, err=True)
    click.echo(str(path))
    return 0
