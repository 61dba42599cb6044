"""Store: a folder of feature sets, and the stages that tubes are made in."""

from __future__ import annotations

import difflib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StoreError
from .checked_json import with_check
from .index import FRAMES_FROM_CODES, ShardRow, row_of_clips
from .listed_set import ListedSet
from .publish import make_directory, publish_bytes
from .recipe import Recipe
from .shard import open_shard, read_frames_from, verify_shard
from .shard_set import CLIPS, STORE_VERSION, ShardSet, read_recipe_file
from .stage_set import StageRecipe, StageSet
from .timeline import ClipFeatures

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")
_NEIGHBOURS = 1000
"""How many ids on either side of a missing one are compared with it: all of a large set would take seconds."""

_S = TypeVar("_S", bound=ShardSet)


class FeatureSet(ListedSet, Mapping[str, ClipFeatures]):
    """All videos' features under one recipe. Maps a video's id to its `ClipFeatures`.

    ``preset`` and ``weights_name`` are names only; the recipe is the truth.
    """

    def _read_recipe(self, raw: Mapping[str, Any]) -> Recipe:
        kind = raw.get("kind", CLIPS)
        if kind != CLIPS:
            msg = f"{self.path} holds {kind}, not clip features; look at it with: vadx info {self.path}"
            raise StoreError(msg)
        self.recipe = Recipe.from_mapping(raw["recipe"])
        return self.recipe

    def read_shard(self, path: Path) -> object:
        return open_shard(path)

    def read_row(self, path: Path) -> ShardRow:
        return row_of_clips(path)

    def __getitem__(self, identifier: str) -> ClipFeatures:
        """Read one video's features.

        Raises
        ------
        KeyError
            naming similar ids, if there is none.
        ShardError
            if its shard is damaged.
        """
        try:
            return open_shard(self.shard_path(identifier)).features
        except FileNotFoundError:
            raise self.missing(identifier) from None

    def missing(self, identifier: str) -> KeyError:
        """Give the error of an id that is not there, naming similar ones."""
        near = difflib.get_close_matches(identifier, _neighbours(identifier, self.summaries().ids), n=3)
        hint = f"similar: {', '.join(near)}" if near else f"its videos are listed by: vadx ls {self.path}"
        return KeyError(f"no video {identifier!r} in {self.name}; {hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.summaries())

    def __len__(self) -> int:
        return len(self.summaries())

    def all_ids(self) -> list[str]:
        """Give the id of every shard, in order: for what is made of the whole set.

        Raises
        ------
        ShardError
            if one is damaged so that a listing leaves it out.
        """
        ids = self.summaries().ids
        if sum(1 for _ in self.shard_paths()) != len(ids):
            for path in sorted(set(self.shard_paths()) - {self.shard_path(identifier) for identifier in ids}):
                with suppress(FileNotFoundError):
                    verify_shard(path, recipe_digest=self.digest, key=path.stem, read=self.read_shard)
        return ids

    def frames_from(self) -> dict[str, int]:
        """Count the videos by how their frames are known, as `VideoFacts.frames_from`; "" where they were decoded.

        Opens those shards alone of which the index says nothing: an older vadx wrote it.
        """
        listing = self.summaries()
        counted = Counter(FRAMES_FROM_CODES[code] for code in listing.frames_from.tolist())
        if self.recipe.imported is not None:
            for identifier in compress(listing.ids, (listing.frames_from == 0).tolist()):
                counted[self._read_frames_from(identifier)] += 1
            del counted[""]
        return dict(counted)

    def _read_frames_from(self, identifier: str) -> str:
        return read_frames_from(self.shard_path(identifier)) or "rows"


def open_shard_set(path: Path) -> FeatureSet | StageSet:
    """Open the set in a folder, of whatever kind. Raises `StoreError` if there is none."""
    return FeatureSet(path) if read_recipe_file(path).get("kind", CLIPS) == CLIPS else StageSet(path)


class Store:
    """A folder of feature sets.

    ``Store("vadx-store")["i3d"]["Abuse/Abuse001_x264"].values`` is a ``(clip, crop, feature)`` array. A set is named
    by any unique prefix of its folder's name, or by its preset.

    Raises
    ------
    StoreError
        if ``path`` is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            msg = f"{self.path}: a store is a folder, this is a file; name another place with --out or --store"
            raise StoreError(msg)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def names(self) -> list[str]:
        """Give the names of the feature sets, sorted."""
        if not self.path.is_dir():
            return []
        return sorted(p.parent.name for p in self.path.glob("*/recipe.json"))

    def sets(self) -> list[FeatureSet]:
        """Open every set of clip features."""
        return [one for one in self.all_sets() if isinstance(one, FeatureSet)]

    def all_sets(self) -> list[FeatureSet | StageSet]:
        """Open every set, those of detections, tubes and tube features too."""
        return [open_shard_set(self.path / name) for name in self.names()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __getitem__(self, name: str) -> FeatureSet:
        """Open the set of this name, network or preset, or whose folder's name begins with ``name``.

        Raises
        ------
        KeyError
            if none or several fit; the message lists what there is.
        """
        return FeatureSet(self.path / self._meant(name))

    def open(self, name: str) -> FeatureSet | StageSet:
        """Open a set of whatever kind. As ``store[name]``, which opens clip features only."""
        return open_shard_set(self.path / self._meant(name))

    def _meant(self, name: str) -> str:
        names = self.names()
        if name in names:
            return name
        found = [n for n in names if n.startswith(name)]
        if len(found) != 1:
            # "i3d" begins "i3d-flow-..." too, and means the network.
            computed = [s for s in self.sets() if s.recipe.imported is None]
            exact = [s.name for s in computed if name in (s.preset, s.recipe.network.name)]
            found = exact or found
        if len(found) == 1:
            return found[0]
        problem = "fits several feature sets" if found else "fits no feature set"
        msg = f"{name!r} {problem} in {self.path}; there are: {', '.join(found or names) or 'none'}"
        raise KeyError(msg)

    def find(self, recipe: Recipe) -> FeatureSet | None:
        """Give the set of exactly this recipe, None if there is none yet."""
        return self._find(recipe.digest, FeatureSet)

    def find_stage(self, recipe: StageRecipe) -> StageSet | None:
        """Give the stage of exactly this recipe, None if there is none yet."""
        return self._find(recipe.digest, StageSet)

    def create(
        self, recipe: Recipe, *, slug: str, preset: str | None = None, weights_name: str | None = None
    ) -> FeatureSet:
        """Open the set of this recipe, making it if there is none.

        ``slug`` is the readable part of the folder's name.

        Raises
        ------
        StoreWriteError
            if the disk refused.
        """
        names = {"preset": preset, "weights_name": weights_name}
        return self._create(FeatureSet, recipe.digest, slug, {"recipe": recipe.to_mapping(), **names})

    def create_stage(self, recipe: StageRecipe, *, slug: str, weights_name: str | None = None) -> StageSet:
        """Open the stage of this recipe, making it if there is none. As `create`."""
        raw = {"kind": recipe.kind, "recipe": recipe.to_mapping(), "preset": None, "weights_name": weights_name}
        return self._create(StageSet, recipe.digest, slug, raw)

    def _find(self, digest: str, kind: type[_S]) -> _S | None:
        for name in self.names():
            if name.endswith(f"-{digest[:8]}"):
                found = open_shard_set(self.path / name)
                if isinstance(found, kind) and found.digest == digest:
                    return found
        return None

    def _create(self, kind: type[_S], digest: str, slug: str, raw: Mapping[str, Any]) -> _S:
        found = self._find(digest, kind)
        if found is not None:
            make_directory(found.tmp)
            return found
        if not _SLUG.fullmatch(slug):
            msg = f"{slug!r} cannot be part of a folder's name"
            raise StoreError(msg)
        path = self.path / f"{slug}-{digest[:8]}"
        for directory in (path / "shards", path / "failed", path / "tmp", path / "runs"):
            make_directory(directory)
        whole = with_check({"vadx": STORE_VERSION, "digest": digest, **raw})
        data = json.dumps(whole, sort_keys=True, indent=1).encode() + b"\n"
        publish_bytes(data, path / "recipe.json", path / "tmp")
        made = kind(path)
        if made.digest != digest:
            msg = f"{path}: this folder holds the set of another recipe; give another --out"
            raise StoreError(msg)
        return made


def _neighbours(identifier: str, ids: list[str]) -> list[str]:
    at = bisect_left(ids, identifier)
    return ids[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
