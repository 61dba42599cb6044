"""Where the videos of a report lie, as addresses that are relative to its page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import NoInputError
from ..features.joining import join_ids
from .inputs import find_videos
from .report_page import Source

if TYPE_CHECKING:
    from ..features.manifest import ManifestEntry

NOT_SAID = "Where the videos lie was not said, so none can be played here: vadx report --videos ROOT."

NOT_NAMED = "The manifest names no file of it that is there: vadx report --videos ROOT."


@dataclass(frozen=True, slots=True)
class Sources:
    """Files of videos that were found, by id, and why there are none of others; ``page`` is the page's own file."""

    page: Path
    paths: Mapping[str, Path] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def of(self, identifier: str) -> Source:
        """Give what the page plays."""
        path = self.paths.get(identifier)
        if path is None:
            return Source(None, self.notes.get(identifier, NOT_SAID))
        try:
            return Source(relative_url(path, self.page))
        except ValueError:
            # Windows alone has drives, between which no relative path leads.
            return Source(None, "Its file lies on another drive than this page: write the page beside the videos.")


def relative_url(path: Path, page: Path) -> str:
    """Give the address of a file as seen from a page, percent-encoded: as the bytes that the file system has.

    Raises
    ------
    ValueError
        on Windows, if they lie on different drives.
    """
    relative = os.path.relpath(path, page.absolute().parent)
    return "/".join(quote(os.fsencode(part), safe="") for part in Path(relative).parts)


def find_sources(
    identifiers: Iterable[str],
    page: Path,
    *,
    root: Path | None = None,
    entries: Mapping[str, ManifestEntry] | None = None,
    manifest_folder: Path | None = None,
) -> Sources:
    """Find the files of videos: below ``root`` by the manifest's path or by the id, else by the manifest's path alone.

    ``entries`` maps ids to lines of a manifest, whose paths lie below ``root``, or else below ``manifest_folder``.
    """
    names = list(identifiers)
    base = root or manifest_folder
    if base is None:
        return Sources(page)
    paths: dict[str, Path] = {}
    for identifier in names:
        entry = (entries or {}).get(identifier)
        if entry is not None and entry.path and (base / entry.path).is_file():
            paths[identifier] = base / entry.path
    left = [identifier for identifier in names if identifier not in paths]
    if root is None:
        return Sources(
            page,
            paths,
            dict.fromkeys(left, "The manifest names no file of it that is there: vadx report --videos ROOT."),
        )
    notes: dict[str, str] = {}
    if left:
        found = _below(root)
        joined = join_ids(left, found)
        paths |= {ours: found[theirs] for ours, theirs in joined.pairs.items()}
        notes |= dict.fromkeys(joined.missing, "No file below the folder of --videos has its name.")
        notes |= dict.fromkeys(joined.ambiguous, "Several files below the folder of --videos have its name.")
    return Sources(page, paths, notes)


def _below(root: Path) -> dict[str, Path]:
    try:
        found = find_videos([str(root)])
    except NoInputError:
        return {}
    return {entry.id: entry.path for entry in (*found.entries, *found.colliding)}
