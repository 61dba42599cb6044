"""A set of shards: where a video's file lies, what a video still needs, and how its file comes to stand there.

What the shards hold is the business of the classes built on this: clip features (`store.FeatureSet`), and the stages of
tubes (`stage_set.StageSet`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import CODES, RecipeError, ShardError, StoreError, StoreWriteError, VideoError
from .checked_json import CHECK, with_check, without_check
from .index import Hint, index_damage
from .keys import as_text, folder_of, key_of
from .plain_json import load_json
from .publish import Published, make_directory, publish_bytes, publish_file
from .shard import ShardHeader, read_header, verify_shard

STORE_VERSION = 1

CLIPS = "clips"
"""The kind of a set of clip features, whose ``recipe.json`` names none."""


class Digested(Protocol):
    """A recipe of any kind."""

    @property
    def digest(self) -> str:
        """The sha256 of its canonical JSON, in hex."""


class HashedSource(Protocol):
    """A video file that can be told from others."""

    def sha256(self) -> str:
        """Give the sha256 of its bytes, in hex. Raises `VideoError` if it cannot be read."""


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

_RECIPE_MEMBERS = frozenset({"vadx", "kind", "digest", "recipe", "preset", "weights_name", CHECK})
_NOTE_CURE = "The next run makes it again"

PARTIAL_CODES = frozenset({"VIDEO_TRUNCATED", "VIDEO_DAMAGED"})
"""Failures that ``--allow-partial`` accepts."""


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
        if allow_partial and failure.code in PARTIAL_CODES:
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


class ShardSet(ABC):
    """All videos' shards under one recipe, of whatever kind.

    ``preset`` and ``weights_name`` are names only; the recipe is the truth.

    Raises
    ------
    StoreError
        if the folder is none, or of another kind or a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        raw = read_recipe_file(path)
        version = raw.get("vadx")
        if isinstance(version, int) and version > STORE_VERSION:
            doubt = "" if _is_as_written(raw) else ", or restore the file from a copy: its own check does not fit"
            msg = f"{path / 'recipe.json'}: a newer vadx made this set (format {version}); update vadx{doubt}"
            raise StoreError(msg)
        try:
            digest = self._read_recipe(raw).digest
            self.preset: str | None = raw["preset"]
            self.weights_name: str | None = raw["weights_name"]
            self.digest: str = raw["digest"]
        except (KeyError, RecipeError) as error:
            msg = (
                f"{path / 'recipe.json'}: not a recipe that this vadx can read ({error}); restore the file from a copy"
            )
            raise StoreError(msg) from error
        if not isinstance(version, int) or not {type(self.preset), type(self.weights_name)} <= {str, type(None)}:
            msg = f"{path / 'recipe.json'}: not a recipe that this vadx can read; restore the file from a copy"
            raise StoreError(msg)
        if digest != self.digest or not _is_as_written(raw):
            msg = f"{path / 'recipe.json'}: it was changed after it was written; restore the file from a copy"
            raise StoreError(msg)

    @abstractmethod
    def _read_recipe(self, raw: Mapping[str, Any]) -> Digested:
        """Keep the recipe that ``recipe.json`` holds. Raises `StoreError` for one of another kind."""

    @abstractmethod
    def read_shard(self, path: Path) -> object:
        """Read a whole shard. Raises `ShardError` if it is damaged, `FileNotFoundError` if it is not there."""

    @abstractmethod
    def save_index(self, sources: Mapping[str, Hint]) -> None:
        """Rewrite the index, adding source hints. Raises `StoreWriteError` if the disk refused."""

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
        return f"{type(self).__name__}({str(self.path)!r})"

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

        Raises
        ------
        ShardError
            if a newer vadx wrote it: it may be whole, and must not be replaced.
        """
        path = self.shard_path(identifier)
        try:
            header = read_header(path)
        except FileNotFoundError:
            return None
        except ShardError as error:
            if error.damage == "format":
                raise
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
        StoreError
            if its folder is a link, which would lead out of the store.
        StoreWriteError
            if the disk refused.
        """
        final = self.shard_path(identifier)
        make_directory(final.parent)
        _refuse_link(final.parent)
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
        publish_bytes(_record_bytes(record), final, self.tmp, replace=True)

    def failure(self, identifier: str) -> FailureRecord | None:
        """Give the remembered failure of a video; a record that cannot be read counts as none."""
        return _read_failure(self.failure_path(identifier))

    def failures(self) -> list[FailureRecord]:
        """Give every remembered failure, in the order of ids."""
        records = (_read_failure(path) for path in (self.path / "failed").glob("*/*.json"))
        return sorted((record for record in records if record is not None), key=lambda r: r.id)

    def verify(self, *, full: bool = True) -> Iterator[tuple[Path, ShardError | None]]:
        """Check every shard: yields its path and what is wrong with it, None if nothing is.

        Damage that the full check finds is remembered, so that `action` has the shard made again. It also yields
        records of failures and the index where they are damaged: they count as none, and the next run makes them again.
        """
        for path in sorted(self.shard_paths()):
            try:
                if folder_of(path.stem) != path.parent.name:
                    raise ShardError(str(path), "stranger", "it lies in another key's folder")
                verify_shard(path, full=full, recipe_digest=self.digest, key=path.stem, read=self.read_shard)
            except ShardError as error:
                if full:
                    self.remember_damage(path, error)
                yield path, error
            except FileNotFoundError:
                continue
            else:
                if full:
                    self._forget_damage(path.stem)
                yield path, None
        if full:
            yield from self._damaged_notes()

    def _damaged_notes(self) -> Iterator[tuple[Path, ShardError]]:
        for path in sorted((self.path / "failed").glob("*/*.json")):
            if _record_is_damaged(path):
                yield path, ShardError(str(path), "record", "it is no failure that vadx wrote", _NOTE_CURE)
        evidence = index_damage(self.index_path)
        if evidence is not None:
            yield self.index_path, ShardError(str(self.index_path), "record", evidence, _NOTE_CURE)

    def _damage_path(self, key: str) -> Path:
        return self.path / "damaged" / folder_of(key) / f"{key}.json"

    def _forget_damage(self, key: str) -> None:
        with suppress(OSError):
            self._damage_path(key).unlink()

    def remember_damage(self, shard: Path, error: ShardError) -> None:
        """Note what only reading a shard showed, so that `action` has it made again."""
        note = self._damage_path(shard.stem)
        if note.parent.name != shard.parent.name:
            return
        data = json.dumps({"vadx": STORE_VERSION, "damage": error.damage, "evidence": error.evidence}).encode() + b"\n"
        # A store that may only be read is verified all the same.
        with suppress(StoreWriteError):
            make_directory(note.parent)
            publish_bytes(data, note, self.tmp, replace=True)


def failure_of(identifier: str, error: VideoError, source: str | None, *, strict: bool) -> FailureRecord:
    """Make the record of a failure that `VideoError` describes."""
    return FailureRecord(identifier, error.code, as_text(error.path), error.evidence, source, strict)


def _record_bytes(record: FailureRecord) -> bytes:
    return json.dumps(with_check({"vadx": STORE_VERSION, **asdict(record)}), sort_keys=True).encode() + b"\n"


def _record_is_damaged(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    record = _read_failure(path)
    # Those of an older vadx hold no check.
    return record is None or (f'"{CHECK}"'.encode() in data and data != _record_bytes(record))


def _read_failure(path: Path) -> FailureRecord | None:
    try:
        raw = without_check(load_json(path))
        raw.pop("vadx")
        record = FailureRecord(**raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    texts = (record.id, record.code, record.path, record.evidence, "" if record.source is None else record.source)
    sound = all(isinstance(text, str) for text in texts) and isinstance(record.strict, bool) and record.code in CODES
    return record if sound else None


def _read_damage(note: Path, shard: Path) -> ShardError | None:
    try:
        raw = load_json(note)
        return ShardError(str(shard), str(raw["damage"]), str(raw["evidence"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _refuse_link(folder: Path) -> None:
    # The store itself, and ``shards/``, may lie on another disk; who can write to a store could set this one anywhere.
    if folder.is_symlink():
        msg = f"{folder} is a link to {folder.readlink()}, which no vadx made; remove it, then repeat the command"
        raise StoreError(msg)


def _is_as_written(raw: Mapping[str, Any]) -> bool:
    try:
        without_check(raw)
    except ValueError:
        return False
    return set(raw) <= _RECIPE_MEMBERS


def read_recipe_file(folder: Path) -> dict[str, Any]:
    """Read the ``recipe.json`` of a set. Raises `StoreError` if it is missing or no JSON object."""
    path = folder / "recipe.json"
    try:
        raw = load_json(path)
    except FileNotFoundError as error:
        msg = f"{folder}: no feature set here (recipe.json is missing)"
        raise StoreError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); see to the disk, then repeat the command"
        raise StoreError(msg) from error
    except ValueError as error:
        msg = f"{path}: cannot be read as JSON; restore the file from a copy"
        raise StoreError(msg) from error
    if not isinstance(raw, dict):
        msg = f"{path}: not a recipe"
        raise StoreError(msg)
    return raw
