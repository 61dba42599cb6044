"""Store: a folder of feature sets, and the one place that decides what a video still needs."""

from __future__ import annotations

import difflib
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import CODES, RecipeError, ShardError, StoreError, StoreWriteError, VideoError
from .index import Hint, Index, Listing, clock_ns, load_index, refresh, write_index
from .keys import as_text, folder_of, key_of
from .publish import Published, make_directory, publish_bytes, publish_file
from .recipe import Recipe
from .shard import ShardHeader, open_shard, read_header, verify_shard
from .timeline import ClipFeatures


class HashedSource(Protocol):
    """A video file that can be told from others."""

    def sha256(self) -> str:
        """Give the sha256 of its bytes, in hex. Raises `VideoError` if it cannot be read."""


STORE_VERSION = 1
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")
_NEIGHBOURS = 1000
"""How many ids on either side of a missing one are compared with it: all of a large set would take seconds."""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A terminal failure of one video. ``source`` is the sha256 of the file that failed, None if it had none."""

    id: str
    code: str
    path: str
    evidence: str
    source: str | None
    strict: bool = False


Verb = Literal["current", "extract", "refresh", "failed before"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a video still needs, and why."""

    verb: Verb
    reason: str


CHANGED = "the video changed"
"""The reason of `decide` where a shard was made of other bytes than the video now has."""

_PARTIAL_CODES = frozenset({"VIDEO_TRUNCATED", "VIDEO_DAMAGED"})


def decide(
    *,
    shard: ShardHeader | ShardError | None,
    failure: FailureRecord | None,
    source_sha256: str | None,
    recipe_digest: str,
    force: bool = False,
    retry_failed: bool = False,
    strict: bool = False,
    allow_partial: bool = False,
) -> Decision:
    """Decide what a video needs from what stands in the store. Pure.

    ``shard`` is the header found, the damage found instead, or None; ``source_sha256`` may be None only if there is
    neither shard nor failure to compare with.
    """
    if force:
        return Decision("refresh" if shard is not None else "extract", "forced")
    if isinstance(shard, ShardHeader) and shard.recipe_digest == recipe_digest and shard.source_sha256 == source_sha256:
        return Decision("current", "stored before")
    if failure is not None and failure.source is not None and failure.source == source_sha256:
        if retry_failed:
            return Decision("extract", f"retry of {failure.code}")
        if allow_partial and failure.code in _PARTIAL_CODES:
            return Decision("extract", f"{failure.code} is now allowed")
        if failure.strict and not strict:
            return Decision("extract", f"{failure.code} was found under --strict")
        return Decision("failed before", failure.code)
    if isinstance(shard, ShardError):
        return Decision("refresh", f"its shard is damaged ({shard.damage})")
    if shard is None:
        return Decision("extract", "new")
    if shard.recipe_digest != recipe_digest:
        return Decision("refresh", "its shard was made under another recipe")
    return Decision("refresh", CHANGED)


class FeatureSet(Mapping[str, ClipFeatures]):
    """All videos' features under one recipe. Maps a video's id to its `ClipFeatures`.

    ``preset`` and ``weights_name`` are names only; the recipe is the truth.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loaded: tuple[tuple[int, int, int] | None, Index] | None = None
        raw = _read_json(path / "recipe.json")
        version = raw.get("vadx")
        if isinstance(version, int) and version > STORE_VERSION:
            msg = f"{path}: a newer vadx made this set (format {version}); update vadx"
            raise StoreError(msg)
        try:
            self.recipe = Recipe.from_mapping(raw["recipe"])
            self.preset: str | None = raw["preset"]
            self.weights_name: str | None = raw["weights_name"]
            self.digest: str = raw["digest"]
        except (KeyError, RecipeError) as error:
            msg = f"{path / 'recipe.json'}: not a recipe that this vadx can read: {error}"
            raise StoreError(msg) from error
        if not isinstance(version, int) or not {type(self.preset), type(self.weights_name)} <= {str, type(None)}:
            msg = f"{path / 'recipe.json'}: not a recipe that this vadx can read; restore the file from a copy"
            raise StoreError(msg)
        if self.recipe.digest != self.digest:
            msg = f"{path / 'recipe.json'}: the recipe and its digest disagree; restore the file from a copy"
            raise StoreError(msg)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def index_path(self) -> Path:
        return self.path / "index.json"

    def __repr__(self) -> str:
        return f"FeatureSet({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is handed the set may never list it.
        return {**self.__dict__, "_loaded": None}

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
            near = difflib.get_close_matches(identifier, _neighbours(identifier, self.summaries().ids), n=3)
            hint = f"; similar: {', '.join(near)}" if near else ""
            msg = f"no video {identifier!r} in {self.name}{hint}"
            raise KeyError(msg) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.summaries())

    def __len__(self) -> int:
        return len(self.summaries())

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and self.shard_path(identifier).is_file()

    def shard_path(self, identifier: str) -> Path:
        key = key_of(identifier)
        return self.path / "shards" / folder_of(key) / f"{key}.h5"

    def failure_path(self, identifier: str) -> Path:
        key = key_of(identifier)
        return self.path / "failed" / folder_of(key) / f"{key}.json"

    def shard_paths(self) -> Iterator[Path]:
        """Give the path of every shard, in no promised order."""
        return (self.path / "shards").glob("*/*.h5")

    def header(self, identifier: str) -> ShardHeader | ShardError | None:
        """Look at what stands at a video's place: its header, the damage instead of one, or nothing.

        Damage behind the header is known only if `verify` found it.
        """
        path = self.shard_path(identifier)
        try:
            header = read_header(path)
        except FileNotFoundError:
            return None
        except ShardError as error:
            return error
        return _read_damage(self._damage_path(path.stem), path) or header

    def action(
        self,
        identifier: str,
        source: HashedSource,
        *,
        force: bool = False,
        retry_failed: bool = False,
        strict: bool = False,
        allow_partial: bool = False,
    ) -> Decision:
        """Look at the store and decide what a video needs; the source is hashed only if that can matter.

        Raises
        ------
        VideoError
            if the source cannot be read.
        """
        shard, failure = self.header(identifier), self.failure(identifier)
        comparable = shard is not None or failure is not None
        return decide(
            shard=shard,
            failure=failure,
            source_sha256=source.sha256() if comparable and not force else None,
            recipe_digest=self.digest,
            force=force,
            retry_failed=retry_failed,
            strict=strict,
            allow_partial=allow_partial,
        )

    def publish(self, identifier: str, shard: bytes | Path, *, replace: bool) -> Published:
        """Make a video's shard appear: from its bytes, or from a whole file in ``tmp/``.

        Raises
        ------
        StoreWriteError
            if the disk refused.
        """
        final = self.shard_path(identifier)
        make_directory(final.parent)
        if isinstance(shard, Path):
            published = publish_file(shard, final, replace=replace)
        else:
            published = publish_bytes(shard, final, self.tmp, replace=replace)
        self.forget_failure(identifier)
        self._forget_damage(final.stem)
        return published

    def forget_failure(self, identifier: str) -> None:
        """Remove the record of a failure that a stored shard has outlived. One that cannot be removed is gc's."""
        with suppress(OSError):
            self.failure_path(identifier).unlink()

    def record_failure(self, record: FailureRecord) -> None:
        """Remember a terminal failure. Raises `StoreWriteError` if the disk refused."""
        final = self.failure_path(record.id)
        make_directory(final.parent)
        data = json.dumps({"vadx": STORE_VERSION, **asdict(record)}, sort_keys=True).encode() + b"\n"
        publish_bytes(data, final, self.tmp, replace=True)

    def failure(self, identifier: str) -> FailureRecord | None:
        """Give the remembered failure of a video; a record that cannot be read counts as none."""
        return _read_failure(self.failure_path(identifier))

    def failures(self) -> list[FailureRecord]:
        """Give every remembered failure, in the order of ids."""
        records = (_read_failure(path) for path in (self.path / "failed").glob("*/*.json"))
        return sorted((record for record in records if record is not None), key=lambda r: r.id)

    def index(self) -> Index:
        """Give the index, brought up to date in memory. Its file is read again only if it is another one."""
        try:
            status = self.index_path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = None
        # What is kept is what the file says, never what was seen since: a folder may change twice within a tick.
        if self._loaded is None or stamp is None or stamp != self._loaded[0]:
            self._loaded = (stamp, load_index(self.index_path))
        return refresh(self._loaded[1], self.path / "shards")

    def summaries(self) -> Listing:
        """Give id -> summary of every readable shard, in the order of ids. Opens only shards that changed."""
        return self.index().listing

    def save_index(self, sources: Mapping[str, Hint]) -> None:
        """Rewrite the index, adding source hints. Raises `StoreWriteError` if the disk refused."""
        looked_ns = clock_ns(self.index_path, self.tmp)
        write_index(self.index().settled(looked_ns), self.index_path, self.tmp, hints=sources)

    def verify(self, *, full: bool = True) -> Iterator[tuple[Path, ShardError | None]]:
        """Check every shard: yields its path and what is wrong with it, None if nothing is.

        Damage that the full check finds is remembered, so that `action` has the shard made again.
        """
        for path in sorted(self.shard_paths()):
            try:
                if folder_of(path.stem) != path.parent.name:
                    raise ShardError(str(path), "stranger", "it lies in another key's folder")
                verify_shard(path, full=full, recipe_digest=self.digest, key=path.stem)
            except ShardError as error:
                if full:
                    self._remember_damage(path, error)
                yield path, error
            except FileNotFoundError:
                continue
            else:
                if full:
                    self._forget_damage(path.stem)
                yield path, None

    def _damage_path(self, key: str) -> Path:
        return self.path / "damaged" / folder_of(key) / f"{key}.json"

    def _forget_damage(self, key: str) -> None:
        with suppress(OSError):
            self._damage_path(key).unlink()

    def _remember_damage(self, shard: Path, error: ShardError) -> None:
        note = self._damage_path(shard.stem)
        if note.parent.name != shard.parent.name:
            return
        data = json.dumps({"vadx": STORE_VERSION, "damage": error.damage, "evidence": error.evidence}).encode() + b"\n"
        # A store that may only be read is verified all the same.
        with suppress(StoreWriteError):
            make_directory(note.parent)
            publish_bytes(data, note, self.tmp, replace=True)


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
            msg = f"{self.path}: a store is a folder, this is a file"
            raise StoreError(msg)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def names(self) -> list[str]:
        """Give the names of the feature sets, sorted."""
        if not self.path.is_dir():
            return []
        return sorted(p.parent.name for p in self.path.glob("*/recipe.json"))

    def sets(self) -> list[FeatureSet]:
        """Open every feature set."""
        return [FeatureSet(self.path / name) for name in self.names()]

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
        names = self.names()
        if name in names:
            return FeatureSet(self.path / name)
        found = [n for n in names if n.startswith(name)]
        if len(found) != 1:
            # "i3d" begins "i3d-flow-..." too, and means the network.
            exact = [s.name for s in self.sets() if name in (s.preset, s.recipe.network.name)]
            found = exact or found
        if len(found) == 1:
            return FeatureSet(self.path / found[0])
        problem = "fits several feature sets" if found else "fits no feature set"
        msg = f"{name!r} {problem} in {self.path}; there are: {', '.join(found or names) or 'none'}"
        raise KeyError(msg)

    def find(self, recipe: Recipe) -> FeatureSet | None:
        """Give the set of exactly this recipe, None if there is none yet."""
        for name in self.names():
            if name.endswith(f"-{recipe.digest[:8]}"):
                found = FeatureSet(self.path / name)
                if found.digest == recipe.digest:
                    return found
        return None

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
        found = self.find(recipe)
        if found is not None:
            make_directory(found.tmp)
            return found
        if not _SLUG.fullmatch(slug):
            msg = f"{slug!r} cannot be part of a folder's name"
            raise StoreError(msg)
        path = self.path / f"{slug}-{recipe.digest[:8]}"
        for directory in (path / "shards", path / "failed", path / "tmp", path / "runs"):
            make_directory(directory)
        raw = {
            "vadx": STORE_VERSION,
            "digest": recipe.digest,
            "recipe": recipe.to_mapping(),
            "preset": preset,
            "weights_name": weights_name,
        }
        data = json.dumps(raw, sort_keys=True, indent=1).encode() + b"\n"
        publish_bytes(data, path / "recipe.json", path / "tmp")
        made = FeatureSet(path)
        if made.digest != recipe.digest:
            msg = f"{path}: this folder holds the set of another recipe; give another --out"
            raise StoreError(msg)
        return made


def failure_of(identifier: str, error: VideoError, source: str | None, *, strict: bool) -> FailureRecord:
    """Make the record of a failure that `VideoError` describes."""
    return FailureRecord(identifier, error.code, as_text(error.path), error.evidence, source, strict)


def _neighbours(identifier: str, ids: list[str]) -> list[str]:
    at = bisect_left(ids, identifier)
    return ids[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]


def _read_failure(path: Path) -> FailureRecord | None:
    try:
        raw = json.loads(path.read_bytes())
        raw.pop("vadx")
        record = FailureRecord(**raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = (record.id, record.code, record.path, record.evidence, "" if record.source is None else record.source)
    sound = all(isinstance(text, str) for text in texts) and isinstance(record.strict, bool) and record.code in CODES
    return record if sound else None


def _read_damage(note: Path, shard: Path) -> ShardError | None:
    try:
        raw = json.loads(note.read_bytes())
        return ShardError(str(shard), str(raw["damage"]), str(raw["evidence"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        msg = f"{path.parent}: no feature set here (recipe.json is missing)"
        raise StoreError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path}: cannot be read as JSON; restore the file from a copy"
        raise StoreError(msg) from error
    if not isinstance(raw, dict):
        msg = f"{path}: not a recipe"
        raise StoreError(msg)
    return raw
