"""A feature set's bags file: made once, and again where the features, the labels or the rule are others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ShardError, StoreError, UsageError
from ..features.bag_file import BagFile, write_bags
from ..features.bag_rules import segment_rule
from ..features.bags import make_bag
from ..features.manifest import ManifestEntry

if TYPE_CHECKING:
    from ..features.bag_file import Bag
    from ..features.bags import CropPool
    from ..features.joining import Joined
    from ..features.manifest import Manifest
    from ..features.store import FeatureSet

_FOLDER = "bags"
"""Where in a feature set, or beside a packed one, bags are kept unless another place is named."""


@dataclass(frozen=True, slots=True)
class BagChoice:
    """How clips become bags, as in `features.bags.make_bag`; of a ``split`` only the manifest's videos do."""

    rule: str
    num_segments: int | None = None
    crop_pool: CropPool = "keep"
    seed: int = 0
    split: str | None = None

    def record(self) -> dict[str, Any]:
        """Give what changes a bag."""
        return {
            "rule": self.rule,
            "segments": self.num_segments,
            "crop_pool": self.crop_pool,
            "seed": self.seed,
            "split": self.split,
        }

    @property
    def slug(self) -> str:
        """A file name's readable part."""
        parts = [self.rule]
        parts += [str(self.num_segments)] if self.num_segments is not None else []
        parts += [f"crop{self.crop_pool}" if isinstance(self.crop_pool, int) else str(self.crop_pool)]
        parts += [f"seed{self.seed}"] if self.seed else []
        parts += [self.split] if self.split else []
        return "-".join(parts)


@dataclass(frozen=True, slots=True)
class BagsReport:
    """What a bags file holds, and how it came to stand there: ``status`` is made or current.

    ``joined`` says which videos the manifest does not know, and which of its own are not stored; None without one.
    ``counts`` maps labels to numbers of bags.
    """

    path: Path
    status: Literal["made", "current"]
    num_bags: int
    shape: tuple[int, int, int]
    counts: Mapping[int, int]
    joined: Joined | None


def parse_crop_pool(text: str) -> CropPool:
    """Read ``--crop-pool``: keep, mean, or the number of a crop. Raises `UsageError` for anything else."""
    if text == "keep":
        return "keep"
    if text == "mean":
        return "mean"
    if re.fullmatch(r"\d{1,4}", text):
        return int(text)
    msg = f"--crop-pool is keep, mean or the number of a crop, from 0; got {text!r}"
    raise UsageError(msg)


def bags_path(feature_set: FeatureSet, choice: BagChoice, manifest: Manifest | None) -> Path:
    """Give the place in a feature set where bags of this choice are kept."""
    labels = "" if manifest is None else f"-{_labels_digest(manifest)[:8]}"
    path = feature_set.path
    folder = path / _FOLDER if path.is_dir() else path.with_name(f"{path.stem}-{_FOLDER}")
    return folder / f"{choice.slug}{labels}.h5"


def ensure_bags(
    feature_set: FeatureSet, choice: BagChoice, *, manifest: Manifest | None = None, path: Path | None = None
) -> BagsReport:
    """Make a bags file unless the one that stands there is of exactly these features, labels and rule.

    Without a ``manifest`` every stored video gives a bag with the label -1, unknown. With one, those that it knows do.
    ``path`` is `bags_path` unless it is given.

    Raises
    ------
    UsageError
        for a rule, a crop or a number of segments that cannot be meant, if there is no bag to make, or if bags of
        this rule differ in their number of segments.
    StoreError
        if something else than a bags file stands at ``path``, or a shard is damaged.
    StoreWriteError
        if the disk refused.
    """
    segment_rule(choice.rule)
    entries, joined = _entries(feature_set, choice, manifest)
    target = path or bags_path(feature_set, choice, manifest)
    content = _content_digest(feature_set, choice, entries)
    found = _current(target, content)
    if found is None:
        write_bags(
            target,
            _bags(feature_set, choice, entries),
            rule=choice.rule,
            recipe_digest=feature_set.digest,
            provenance={"content": content, **{name: _plain(value) for name, value in choice.record().items()}},
        )
    with BagFile(target) as file:
        counts = {label: int((file.labels == label).sum()) for label in (1, 0, -1)}
        return BagsReport(target, "made" if found is None else "current", len(file), file.shape, counts, joined)


def _entries(
    feature_set: FeatureSet, choice: BagChoice, manifest: Manifest | None
) -> tuple[dict[str, ManifestEntry], Joined | None]:
    stored = feature_set.all_ids()
    if manifest is None:
        if choice.split is not None:
            msg = f"--split {choice.split} needs a list that says which videos that is: give --manifest FILE"
            raise UsageError(msg)
        return {identifier: ManifestEntry(identifier) for identifier in stored}, None
    known, joined = manifest.join(stored)
    entries = {i: entry for i, entry in sorted(known.items()) if choice.split in (None, entry.split)}
    if not entries:
        what = f"of split {choice.split} " if choice.split else ""
        msg = (
            f"none of the {len(stored)} videos of {feature_set.name} is among those {what}of the manifest: "
            f"`vadx ls {feature_set.name} -q` prints their ids"
        )
        raise UsageError(msg)
    return entries, joined


def _bags(feature_set: FeatureSet, choice: BagChoice, entries: Mapping[str, ManifestEntry]) -> Iterator[Bag]:
    for identifier, entry in entries.items():
        yield make_bag(
            feature_set[identifier],
            choice.rule,
            num_segments=choice.num_segments,
            crop_pool=choice.crop_pool,
            seed=choice.seed,
            id=identifier,
            label=entry.label,
            class_name=entry.class_name,
        )


def _content_digest(feature_set: FeatureSet, choice: BagChoice, entries: Mapping[str, ManifestEntry]) -> str:
    """Give a digest of everything that goes into a bags file: bodies of shards, labels, and the choice."""
    digest = hashlib.sha256(json.dumps(choice.record(), sort_keys=True).encode())
    for identifier, entry in entries.items():
        header = feature_set.header(identifier)
        if isinstance(header, ShardError):
            raise header
        if header is None:
            msg = f"{identifier}: its shard was removed meanwhile; repeat the command"
            raise StoreError(msg)
        row = [identifier, header.body_sha256, entry.label, entry.class_name]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _current(path: Path, content: str) -> BagFile | None:
    if not path.exists():
        return None
    with BagFile(path) as file:
        return file if file.provenance.get("content") == content else None


def _labels_digest(manifest: Manifest) -> str:
    rows: Sequence[list[Any]] = [[entry.id, entry.label, entry.class_name, entry.split] for entry in manifest]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _plain(value: object) -> str | int:
    return value if isinstance(value, int) else str(value)
