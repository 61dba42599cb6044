"""A data set's lists against the folder that should hold its videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import NoInputError, UsageError
from ..extract.files import VIDEO_EXTENSIONS
from ..features.annotations import (
    DATA_SETS,
    Annotations,
    entries_of_names,
    find_data_set,
    find_lists,
    read_annotations,
    read_own_list,
)
from ..features.bag_file import LABELS
from ..features.joining import join_ids
from ..features.keys import as_text
from ..features.manifest import Manifest, ManifestEntry, id_of, read_manifest
from ..features.text_lines import check_name, is_folder
from ..features.truth_readers import read_counts

OWN_LIST = "list"
"""What the command calls a list that is no data set's of the table."""

PICTURE_EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".png"})


def read_labels(path: Path) -> Manifest:
    """Read a manifest whose labels are needed.

    Raises
    ------
    NoInputError
        if there is no such file, or it lists no video.
    UsageError
        as `read_manifest`.
    """
    manifest = read_manifest(path)
    if not len(manifest):
        msg = f"{path} is empty, it lists no video: make it anew with `vadx manifest`"
        raise NoInputError(msg)
    return manifest


@dataclass(frozen=True, slots=True)
class FolderContent:
    """What lies below a folder, as paths below it with ``/``.

    ``broken``: what cannot be used, with the reason: videos that are empty, a link to nothing, or have a name that is
    no text, and folders that the system will not open.
    ``picture_folders`` hold pictures and no video. Hidden files and folders are passed over.
    """

    videos: tuple[str, ...]
    picture_folders: tuple[str, ...]
    broken: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest beside its folder.

    ``entries`` have the paths and ids of the files that were found, else those of the lists. ``missing`` are the
    listed paths of which there is no file; ``other_case`` those among them that a file differs from in case only.
    ``ambiguous``: id -> the files that fit equally well. ``extra``: videos that no list names. ``as_pictures``:
    listed videos that are there as folders of pictures.
    """

    title: str
    root: str
    lists: tuple[str, ...]
    entries: tuple[ManifestEntry, ...]
    present: frozenset[str]
    missing: tuple[str, ...]
    other_case: Mapping[str, str]
    ambiguous: Mapping[str, tuple[str, ...]]
    extra: tuple[str, ...]
    as_pictures: tuple[str, ...]
    broken: Mapping[str, str]
    published: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every listed video is there once, and can be read."""
        return not (self.missing or self.ambiguous or self.as_pictures)

    def by_split(self) -> dict[str, dict[str, list[int]]]:
        """Give split -> label -> videos that are there, and videos listed."""
        table: dict[str, dict[str, list[int]]] = {}
        for entry in self.entries:
            row = table.setdefault(entry.split, {}).setdefault(LABELS[entry.label], [0, 0])
            row[0] += entry.id in self.present
            row[1] += 1
        return table

    def unlisted(self) -> dict[str, int]:
        """Give split -> published videos that the lists leave out, where they do."""
        listed = {split: sum(e.split == split for e in self.entries) for split in self.published}
        short = {split: sum(counts) - listed[split] for split, counts in self.published.items()}
        return {split: number for split, number in short.items() if number > 0}

    def report(self) -> dict[str, Any]:
        """Give all of it as plain values."""
        return {
            "data_set": self.title,
            "root": as_text(self.root),
            "lists": [as_text(path) for path in self.lists],
            "videos": len(self.entries),
            "present": len(self.present),
            "by_split": self.by_split(),
            "unlisted": self.unlisted(),
            "missing": list(self.missing),
            "other_case": dict(self.other_case),
            "ambiguous": {name: list(paths) for name, paths in self.ambiguous.items()},
            "extra": list(self.extra),
            "as_pictures": list(self.as_pictures),
            "broken": dict(self.broken),
            "notes": list(self.notes),
        }


def make_manifest(name: str, root: Path, *, annotations: Sequence[Path] = (), counts: Path | None = None) -> Checked:
    """Build the manifest of a data set and look for its videos below ``root``.

    ``annotations`` are lists, or folders with the lists as published; without them they are looked for below
    ``root``, and where there are none, labels come from the videos' names. ``counts``: a file of decoded frames.

    Raises
    ------
    NoInputError
        if ``root`` or a list is not there, or there is neither a list nor a video.
    UsageError
        naming file and line of all that cannot be meant in the lists.
    """
    if name != OWN_LIST:
        find_data_set(name)
    if not is_folder(root):
        msg = f"{root}: there is no such folder; name the folder that holds the videos"
        raise NoInputError(msg)
    content = look(root)
    lists = _lists(name, root, annotations)
    found = _read(name, root, lists, content, counts)
    return check(
        found.manifest(),
        content,
        title=DATA_SETS[name].title if name in DATA_SETS else "your list",
        root=root,
        lists=lists,
        published=DATA_SETS[name].published if name in DATA_SETS and lists else {},
        notes=[str(note) for note in found.notes],
    )


def _lists(name: str, root: Path, annotations: Sequence[Path]) -> list[Path]:
    if name == OWN_LIST:
        if not annotations:
            msg = "a list of your own must be named: vadx manifest list ROOT --annotations FILE"
            raise UsageError(msg)
        return list(annotations)
    lists: list[Path] = []
    for path in annotations or [root]:
        # ShanghaiTech's masks are a folder, and a list all the same.
        masks = annotations and name == "shanghaitech" and any(path.glob("*.npy"))
        inside = find_lists(name, path) if is_folder(path) and not masks else [path]
        if annotations and not inside:
            globs = ", ".join(file.glob for file in DATA_SETS[name].files)
            msg = f"{path} holds no list of {DATA_SETS[name].title}; they are named {globs}: name the file itself"
            raise NoInputError(msg)
        lists += inside
    return lists


def _read(name: str, root: Path, lists: Sequence[Path], content: FolderContent, counts: Path | None) -> Annotations:
    known = read_counts(counts) if counts is not None else None
    if name == OWN_LIST:
        own = [read_own_list(path, root=root) for path in lists]
        return Annotations(
            entries=_counted([entry for one in own for entry in one.entries], known),
            problems=[problem for one in own for problem in one.problems],
        )
    if lists:
        return read_annotations(name, lists, counts=known)
    entries, _ = entries_of_names(name, content.videos)
    if not entries:
        globs = ", ".join(file.glob for file in DATA_SETS[name].files)
        msg = (
            f"{root} holds neither a list nor a video of {DATA_SETS[name].title}; lists are named {globs}: give them "
            "with --annotations"
        )
        raise NoInputError(msg)
    return Annotations(entries=_counted(entries, known))


def _counted(entries: list[ManifestEntry], counts: Mapping[str, int] | None) -> list[ManifestEntry]:
    if counts is None:
        return entries
    pairs = join_ids([entry.id for entry in entries], counts).pairs
    return [replace(e, num_frames=counts[pairs[e.id]]) if e.id in pairs else e for e in entries]


def look(root: Path) -> FolderContent:
    """Find what lies below a folder. Links to folders are not followed."""
    videos: list[str] = []
    pictures: list[str] = []
    broken: dict[str, str] = {}

    def refused(error: OSError) -> None:
        broken[as_text(os.path.relpath(error.filename, root))] = f"it cannot be searched: {error.strerror}"

    for parent, folders, files in os.walk(root, onerror=refused, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = Path(parent).relative_to(root)
        here = sorted(name for name in files if not name.startswith("."))
        chosen = [name for name in here if Path(name).suffix.lower() in VIDEO_EXTENSIONS]
        for name in chosen:
            reason = _unusable(place / name, root)
            if reason is None:
                videos.append((place / name).as_posix())
            else:
                broken[as_text((place / name).as_posix())] = reason
        if not chosen and place.name and any(Path(name).suffix.lower() in PICTURE_EXTENSIONS for name in here):
            pictures.append(place.as_posix())
    return FolderContent(tuple(videos), tuple(name for name in pictures if _is_name(name)), broken)


def _unusable(path: Path, root: Path) -> str | None:
    try:
        if (root / path).stat().st_size == 0:
            return "it holds 0 bytes"
    except OSError as error:
        return "a link to nothing" if (root / path).is_symlink() else str(error.strerror)
    return None if _is_name(path.as_posix()) else "its name holds a control character, or bytes that are not UTF-8"


def _is_name(text: str) -> bool:
    try:
        check_name(text, "path")
    except ValueError:
        return False
    return True


def check(
    manifest: Iterable[ManifestEntry],
    content: FolderContent,
    *,
    title: str,
    root: Path,
    lists: Sequence[Path] = (),
    published: Mapping[str, tuple[int, int]] | None = None,
    notes: Sequence[str] = (),
) -> Checked:
    """Say which videos of a manifest are in a folder, and give the manifest the paths and ids that they have there."""
    listed = {entry.id: entry for entry in manifest}
    joined = join_ids(listed, content.videos)
    pictured = join_ids(joined.missing, content.picture_folders)
    absent = [name for name in joined.missing if name not in pictured.pairs]
    by_case = {path.casefold(): path for path in joined.extra}
    paths = {name: entry.path or entry.id for name, entry in listed.items()}
    other_case = {paths[name]: by_case[paths[name].casefold()] for name in absent if paths[name].casefold() in by_case}
    # Under the id that extracting from this root gives, so that labels and features join by equal ids.
    entries = [
        replace(entry, id=id_of(joined.pairs[name]), path=joined.pairs[name]) if name in joined.pairs else entry
        for name, entry in listed.items()
    ]
    return Checked(
        title=title,
        root=str(root),
        lists=tuple(map(str, lists)),
        entries=Manifest(tuple(entries)).entries,
        present=frozenset(id_of(path) for path in joined.pairs.values()),
        missing=tuple(paths[name] for name in absent),
        other_case=other_case,
        ambiguous=joined.ambiguous,
        extra=tuple(path for path in joined.extra if path not in other_case.values()),
        as_pictures=tuple(pictured.pairs.values()),
        broken=content.broken,
        published=published or {},
        notes=tuple(notes),
    )
