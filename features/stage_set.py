"""The stages that tubes are made in: detections, tubes, tube features. Each is a set of shards of its own.

A stage's recipe names the digest of the one before, and a shard's source is the sha256 of what it was made from: of the
video for detections, of the body of the shard before for the others. A stage that is stale shows by that alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import RecipeError, ShardError, StoreError
from .index import ShardRow, ShardSummary
from .listed_set import ListedSet
from .stage_shard import LAYOUTS, StageOutline, StageShard, open_stage_shard, read_stage_outline

BEFORE: Mapping[str, str | None] = MappingProxyType(
    {"detections": None, "tubes": "detections", "tube-features": "tubes"}
)
"""Kind of a stage -> the kind of the one that it is made from; detections are made from videos."""


COUNTED: Mapping[str, str] = MappingProxyType({"detections": "box", "tubes": "tube", "tube-features": "instance"})
"""Kind of a stage -> the axis that counts what it holds."""


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """Everything that changes a value of one stage.

    ``settings`` are plain JSON values; ``after`` is the digest of the stage before, None for detections.

    Raises
    ------
    RecipeError
        for an unknown kind, or one that is made from something and does not say from what.
    """

    kind: str
    settings: Mapping[str, Any]
    after: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in BEFORE:
            msg = f"recipe.kind: {self.kind!r} is none of {', '.join(BEFORE)}"
            raise RecipeError(msg)
        if (BEFORE[self.kind] is None) != (self.after is None):
            msg = f"recipe.after: {self.kind} are made from {BEFORE[self.kind] or 'videos'}; got {self.after!r}"
            raise RecipeError(msg)

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": self.kind, "settings": dict(self.settings), "after": self.after}

    @property
    def digest(self) -> str:
        """The sha256 of its canonical JSON (sorted keys, no spaces, ASCII), in hex."""
        text = json.dumps(self.to_mapping(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @classmethod
    def from_mapping(cls, mapping: Any) -> StageRecipe:
        """Rebuild a recipe from `to_mapping`'s result. Raises `RecipeError` if it is none."""
        if not isinstance(mapping, dict) or set(mapping) != {"kind", "settings", "after"}:
            msg = "recipe: expected kind, settings and after"
            raise RecipeError(msg)
        kind, settings, after = mapping["kind"], mapping["settings"], mapping["after"]
        if not isinstance(kind, str) or not isinstance(settings, dict) or not isinstance(after, str | None):
            msg = "recipe: kind is a text, settings an object, after a digest or null"
            raise RecipeError(msg)
        return cls(kind, settings, after)


class StageSet(ListedSet):
    """All videos' shards of one stage."""

    def _read_recipe(self, raw: Mapping[str, Any]) -> StageRecipe:
        if raw.get("kind") not in LAYOUTS:
            msg = f"{self.path} is no stage of tubes but a set of {raw.get('kind', 'clip features')}"
            raise StoreError(msg)
        self.recipe = StageRecipe.from_mapping(raw["recipe"])
        return self.recipe

    @property
    def kind(self) -> str:
        """One of `BEFORE`."""
        return self.recipe.kind

    def read_row(self, path: Path) -> ShardRow:
        outline = read_stage_outline(path, self.kind)
        return ShardRow(
            ShardSummary(
                id=outline.id,
                bytes=outline.bytes,
                num_clips=outline.lengths[COUNTED[self.kind]],
                num_crops=0,
                dim=0,
                num_frames=_num_frames(outline),
                seconds=math.nan,
                degraded=False,
            )
        )

    def read_shard(self, path: Path) -> StageShard:
        return open_stage_shard(path, self.kind)

    def open(self, identifier: str) -> StageShard:
        """Read what is stored of a video.

        Raises
        ------
        KeyError
            if it is not there.
        ShardError
            if its shard is damaged.
        """
        try:
            return self.read_shard(self.shard_path(identifier))
        except FileNotFoundError:
            msg = f"no video {identifier!r} in {self.name}"
            raise KeyError(msg) from None

    def outlines(self) -> Iterator[StageOutline]:
        """Give the outline of every readable shard, in the order of ids. Opens each."""
        found = []
        for path in self.shard_paths():
            try:
                found.append(read_stage_outline(path, self.kind))
            except (ShardError, FileNotFoundError):
                # `verify` names it.
                continue
        yield from sorted(found, key=lambda outline: outline.id)


def _num_frames(outline: StageOutline) -> int:
    """Give the decoded frames of the video, 0 where its facts do not say."""
    video = outline.facts.get("video")
    found = video.get("num_frames_decoded") if isinstance(video, dict) else None
    return found if isinstance(found, int) else 0
