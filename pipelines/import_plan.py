"""What an import will be: whose files, under which recipe, and which video has how many frames."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..features.joining import join_ids
from ..features.keys import collisions
from ..features.layouts import LAYOUTS, facts, import_layout
from ..features.layouts.marker import read_marker
from ..features.recipe import Imported, Recipe
from ..features.text_lines import read_whole
from .import_rows import RowRule, row_rule
from .importing import ImportEntry
from .inputs import in_part

if TYPE_CHECKING:
    from ..features.layouts import Imported as Opened
    from ..features.layouts import Place
    from ..features.manifest import ManifestEntry

_MAX_SLUG = 60


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """A folder of somebody else's features, as it will be stored.

    ``entries`` are sorted by id; ``loses`` is what the layout does not keep; ``notes`` say what a person should know.
    """

    recipe: Recipe
    rows: RowRule
    entries: tuple[ImportEntry, ...]
    folder: Path
    layout: str
    loses: str
    weights_name: str | None
    notes: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The readable part of the feature set's folder name."""
        release = "" if self.recipe.imported is None else self.recipe.imported.release
        plain = re.sub(r"[^a-z0-9._-]+", "-", release.lower()).strip("-.")[:_MAX_SLUG]
        return f"imported-{self.layout}-{plain or 'release'}"

    def part(self, number: int, num_parts: int) -> ImportPlan:
        """Give the plan of one of several jobs, as `inputs.in_part` shares videos out."""
        return replace(self, entries=tuple(one for one in self.entries if in_part(one.id, number, num_parts)))

    def manifest(self) -> list[ManifestEntry]:
        """Give the labels, splits and spans that an export of vadx noted. Raises `UsageError` where there are none."""
        marked = [entry.place.marked for entry in self.entries]
        found = [one.entry for one in marked if one is not None]
        if not found:
            msg = (
                f"{self.folder} does not say which video is anomalous: its lists name files only. Make a manifest of "
                f"the data set with `vadx manifest`, which fits these ids"
            )
            raise UsageError(msg)
        return found


def plan_import(
    layout: str,
    folder: Path,
    *,
    release: str | None = None,
    preset: str | None = None,
    known: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
    fps: float | None = None,
) -> ImportPlan:
    """Decide everything about an import; no values are read yet.

    ``release`` is the folder's name unless given. ``preset`` and ``known`` (``FACT=VALUE``, or a JSON file) state the
    recipe, beside what the layout or an export's note says. ``counts`` are frames by name, ``fps`` the videos' rate.

    Raises
    ------
    NoInputError
        if there is no such folder, or no file of the layout in it.
    UsageError
        for statements that cannot be meant or that an export contradicts, and where rows cannot be placed.
    """
    opened = import_layout(layout, folder)
    stated, weights_name, notes = _stated(opened, preset, known)
    name = release if release is not None else folder.resolve().name
    if not name.strip() or not name.isprintable():
        msg = f"the release is called {name!r}, which nobody could type: give it a name with --name NAME"
        raise UsageError(msg)
    entry = LAYOUTS[layout]
    if not entry.is_lossless or opened.crop == "mean" or "dtype" not in stated:
        # What half precision was averaged to is not of half precision.
        stated["dtype"] = "float32"
    origin = Imported(layout=layout, release=name, crop=opened.crop, segmentation=opened.segmentation)
    recipe = facts.recipe_of_facts(stated, origin)
    rows = row_rule(recipe, opened.segmentation, fps)
    entries = _entries(opened, counts or {}, notes)
    if rows.needs_counts and not any(one.num_frames for one in entries):
        msg = (
            "a row of these files is one of 32 segments, and which frames those are rests on how many the video has: "
            "give --counts FILE, with lines NAME,FRAMES, a manifest, or what `vadx ls SET --json` prints"
        )
        raise UsageError(msg)
    return ImportPlan(recipe, rows, entries, folder, layout, opened.loses, weights_name, tuple(notes))


def _entries(opened: Opened, counts: Mapping[str, int], notes: list[str]) -> tuple[ImportEntry, ...]:
    places = sorted(opened.places(), key=lambda place: place.id)
    ids = [place.id for place in places]
    twins = collisions(ids)
    joined = join_ids(dict.fromkeys(ids), counts)
    entries = tuple(_entry(place, counts, joined.pairs.get(place.id), place.id in twins) for place in places)
    if counts:
        implied = [one.id for one in entries if one.frames_from == "rows"]
        if implied:
            notes.append(f"{len(implied)} videos have no count, the first {implied[0]!r}")
        if joined.extra:
            notes.append(f"{len(joined.extra)} counts are of no video here, the first of {joined.extra[0]!r}")
    return entries


def _entry(place: Place, counts: Mapping[str, int], counted: str | None, is_twin: bool) -> ImportEntry:
    num_frames, frames_from = None, "rows"
    if place.marked is not None and place.marked.num_frames:
        num_frames, frames_from = place.marked.num_frames, "export"
    elif counted is not None:
        num_frames, frames_from = counts[counted], "counts"
    return ImportEntry(place.id, place.files[0], place, num_frames, frames_from, is_twin)


def _stated(opened: Opened, preset: str | None, known: Sequence[str]) -> tuple[dict[str, Any], str | None, list[str]]:
    """Give all facts that are known, the name of the weights, and where a person contradicts what is published."""
    said: dict[str, Any] = {}
    notes: list[str] = []
    weights_name = None
    if preset is not None:
        said, weights_name = _preset_facts(preset, notes)
    for text in known:
        said |= _known(text)
    other = {fact: value for fact, value in said.items() if opened.known.get(fact, value) != value}
    marker = read_marker(opened.folder) if opened.is_export else None
    if other and marker is not None and marker.recipe:
        fact, value = next(iter(other.items()))
        msg = (
            f"the export in {opened.folder} notes {fact} {opened.known[fact]!r}, and {value!r} is stated: leave "
            f"--preset and --known out, which are for what is unknown"
        )
        raise UsageError(msg)
    for fact, value in other.items():
        notes.append(f"{fact} is stated as {value!r}; published for {opened.layout} is {opened.known[fact]!r}")
    return {**opened.known, **said}, weights_name, notes


def _preset_facts(name: str, notes: list[str]) -> tuple[dict[str, Any], str | None]:
    """Give what a preset states and the name of its weights; files whose sha256 nobody knows stay unknown."""
    from ..extract.backbones import find_backbone, find_preset
    from ..extract.presets import recipe_of

    preset = find_preset(name)
    recipe = recipe_of(preset, "random:0")
    said: dict[str, Any] = {**facts.facts_of(recipe)}
    said["network.switches"] = find_backbone(preset.backbone).chosen_switches(recipe.network.switches)
    files = {"weights": preset.weights, "transform.mean_cube": preset.mean_cube, "flow": preset.flow_weights}
    for fact, file in files.items():
        if file is None and fact != "weights":
            continue
        digest = _published_sha256(file)
        if digest is None:
            del said[fact]
            what = f"the preset's {file}" if file else "a preset without weights"
            notes.append(f"{fact} stays unknown: {what} has no published sha256 and is not here (vadx weights fetch)")
        else:
            said[fact] = {**said["flow"], "weights": digest} if fact == "flow" else digest
    return said, preset.weights if "weights" in said else None


def _published_sha256(name: str | None) -> str | None:
    """Give the sha256 of a file of the table of weights, None where it has none and the file is not here."""
    from ..errors import WeightsError
    from ..extract.weights import WEIGHTS, require

    if name is None or WEIGHTS[name].sha256 is not None:
        return None if name is None else WEIGHTS[name].sha256
    try:
        return require(name).published_sha256
    except WeightsError:
        return None


def _known(text: str) -> dict[str, object]:
    """Read ``FACT=VALUE``, or a JSON file of facts."""
    name, equals, value = text.partition("=")
    if equals and not Path(text).is_file():
        return facts.flat_facts({name: _value(name, value)})
    try:
        raw = json.loads(read_whole(text))
    except (json.JSONDecodeError, RecursionError) as error:
        msg = f"--known {text} is no JSON: {error}; give FACT=VALUE, or a file like what `vadx info SET --json` prints"
        raise UsageError(msg) from error
    if isinstance(raw, dict) and isinstance(raw.get("recipe"), dict):
        raw = raw["recipe"]
    if not isinstance(raw, dict):
        msg = f'--known {text} holds no JSON object; give one of facts, such as {{"sampling.clip_length": 16}}'
        raise UsageError(msg)
    return facts.flat_facts(raw)


def _value(fact: str, text: str) -> object:
    """Read a value: JSON, or a word without its quotes. A sha256 may look like a number."""
    if isinstance(facts.STAND_INS.get(fact), str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
