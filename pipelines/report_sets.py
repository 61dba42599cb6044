"""What a report says of a set: its videos, how long and how damaged they are, its recipe, and what failed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import CODES, ShardError
from ..features.packed_set import PackedSet
from ..features.shard import read_outline
from ..features.stage_set import StageSet
from .prose import prose
from .report_curves import seconds_text
from .report_page import LABEL_TEXTS, Fact, FactGroup, Failure, Histogram, ReportPage, Table
from .tube_shards import facts_of

if TYPE_CHECKING:
    from ..features.manifest import ManifestEntry
    from ..features.shard_set import FailureRecord
    from ..features.store import FeatureSet
    from ..features.timeline import VideoFacts

_EDGES_SECONDS = (0.0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400, 604800)
_COUNTED: Mapping[str, tuple[str, ...]] = {
    "detections": ("sample", "box"),
    "tubes": ("tube",),
    "tube-features": ("instance", "part"),
}
"""Kind of a stage -> the axes whose lengths say how much of it there is."""

_PLURALS = {"box": "boxes"}

UNKNOWN = "not known"
"""Of videos that others decoded."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One video of a set. ``counts`` are of clips, or of what else the set holds."""

    id: str
    facts: VideoFacts
    seconds: float
    counts: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class _Rows:
    counted: tuple[str, ...]
    videos: tuple[_Row, ...]
    unreadable: tuple[Failure, ...] = ()


def set_page(opened: FeatureSet | StageSet, entries: Mapping[str, ManifestEntry]) -> ReportPage:
    """Say what a set holds. ``entries`` maps its ids to lines of a manifest, and may be empty.

    Videos whose shard is damaged stand among the failures.
    """
    stage = isinstance(opened, StageSet)
    rows = _stage_rows(opened) if isinstance(opened, StageSet) else _clip_rows(opened)
    what = opened.kind.replace("-", " ") if isinstance(opened, StageSet) else "clip features"
    failures = (*map(failure_of, opened.failures()), *rows.unreadable)
    seconds = [row.seconds for row in rows.videos if row.seconds > 0]
    degraded = sum(row.facts.is_degraded for row in rows.videos)
    summary = [
        Fact("videos", f"{len(rows.videos):,}"),
        Fact("together", seconds_text(sum(seconds)) if seconds else f"times {UNKNOWN}"),
        Fact("frames", f"{sum(row.facts.num_frames_decoded for row in rows.videos):,}"),
        *[Fact(name, f"{sum(row.counts[at] for row in rows.videos):,}") for at, name in enumerate(rows.counted)],
        Fact("size", f"{sum(row.bytes for row in rows.videos) / 1e6:,.1f} MB"),
        Fact("degraded", f"{degraded:,}"),
        Fact("failed", f"{len(failures):,}"),
    ]
    return ReportPage(
        title=opened.name,
        lead=f"What a set of {what} holds{', a stage in the making of tubes' if stage else ''}.",
        summary=tuple(summary),
        tables=(*_damage_table(rows.videos), *_label_table(rows.videos, entries)),
        histograms=(duration_histogram(seconds),) if seconds else (),
        listing=_listing(rows, entries),
        provenance=set_provenance(opened),
        failures=failures,
    )


def _clip_rows(opened: FeatureSet) -> _Rows:
    rows, unreadable = [], []
    for summary in opened.summaries().values():
        try:
            if isinstance(opened, PackedSet):
                facts = opened.content(summary.id).features.facts
            else:
                facts = read_outline(opened.shard_path(summary.id)).facts
        except ShardError as error:
            unreadable.append(damage_of(summary.id, error))
            continue
        except FileNotFoundError:
            # Removed since the set was listed.
            continue
        rows.append(_Row(summary.id, facts, summary.seconds, (summary.num_clips,), summary.bytes))
    return _Rows(("clips",), tuple(rows), tuple(unreadable))


def _stage_rows(opened: StageSet) -> _Rows:
    axes = _COUNTED[opened.kind]
    rows = []
    for outline in opened.outlines():
        facts = facts_of(outline)
        seconds = facts.num_frames_decoded / facts.fps if facts.fps > 0 else 0.0
        rows.append(_Row(outline.id, facts, seconds, tuple(outline.lengths[axis] for axis in axes), outline.bytes))
    return _Rows(tuple(_PLURALS.get(axis, f"{axis}s") for axis in axes), tuple(rows))


def failure_of(record: FailureRecord) -> Failure:
    """Say what is remembered of a failure, without the place on this machine where the file was."""
    info = CODES[record.code]
    evidence = record.evidence
    if record.path:
        evidence = evidence.replace(record.path, record.path.replace("\\", "/").rpartition("/")[2])
    return Failure(record.id, record.code, info.cause, evidence, info.cure)


def damage_of(identifier: str, error: ShardError) -> Failure:
    """Say what is wrong with a stored video."""
    cure = "the same vadx command that made it makes it again"
    return Failure(identifier, f"SHARD_{error.damage.upper()}", "what is stored of it is damaged", error.evidence, cure)


def _damage_table(rows: Sequence[_Row]) -> Iterator[Table]:
    """Count what is wrong with videos that were stored all the same."""
    kinds: Mapping[str, Callable[[VideoFacts], int]] = {
        "only a part could be decoded": lambda facts: int(facts.partial),
        "frames that are damaged": lambda facts: facts.num_damaged_frames,
        "packets that could not be decoded": lambda facts: facts.num_bad_packets,
        "changes of picture size": lambda facts: facts.num_size_changes,
        "timestamps that go back": lambda facts: facts.num_backward_pts,
        "frames declared and not decoded, or the other way": lambda facts: abs(
            (facts.num_frames_declared or facts.num_frames_decoded) - facts.num_frames_decoded
        ),
    }
    counts = {name: [count(row.facts) for row in rows] for name, count in kinds.items()}
    found = tuple(
        (name, f"{sum(number > 0 for number in numbers):,}", f"{sum(numbers):,}")
        for name, numbers in counts.items()
        if any(numbers)
    )
    if found:
        yield Table("Damage", ("what", "videos", "together"), found, frozenset({1, 2}))


def _label_table(rows: Sequence[_Row], entries: Mapping[str, ManifestEntry]) -> Iterator[Table]:
    """Count videos of each kind by split, as a manifest has them."""
    if not entries:
        return
    kinds = [(kind_of(entries.get(row.id)), split_of(entries.get(row.id))) for row in rows]
    splits = sorted({split for _, split in kinds})
    names = sorted({kind for kind, _ in kinds}, key=lambda kind: (kind in LABEL_TEXTS.values(), kind))
    found = tuple((name, *(f"{kinds.count((name, split)):,}" for split in splits)) for name in names)
    yield Table("Labels of the manifest", ("kind", *splits), found, frozenset(range(1, len(splits) + 1)))


def kind_of(entry: ManifestEntry | None) -> str:
    """Name a video's kind: of anomaly, normal, or not known."""
    return LABEL_TEXTS[-1] if entry is None else entry.class_name or LABEL_TEXTS[entry.label]


def split_of(entry: ManifestEntry | None) -> str:
    """Name a video's split in words."""
    return "not listed" if entry is None else entry.split or "no split"


def _listing(rows: _Rows, entries: Mapping[str, ManifestEntry]) -> Table:
    """List every video of a set."""
    known = ("kind",) if entries else ()
    headers = ("id", *known, "duration", "frames", "frames/s", "picture", "codec", *rows.counted, "what is wrong")
    found = []
    for row in rows.videos:
        facts = row.facts
        found.append(
            (
                row.id,
                *((kind_of(entries.get(row.id)),) if entries else ()),
                seconds_text(row.seconds) if row.seconds > 0 else UNKNOWN,
                f"{facts.num_frames_decoded:,}",
                f"{facts.fps:.5g}" if facts.fps > 0 else UNKNOWN,
                f"{facts.width}x{facts.height}" if facts.width else UNKNOWN,
                facts.codec or UNKNOWN,
                *(f"{count:,}" for count in row.counts),
                "; ".join(facts.degradations()),
            )
        )
    words = {"id", "kind", "codec", "what is wrong"}
    return Table("Videos", headers, tuple(found), frozenset(at for at, name in enumerate(headers) if name not in words))


def duration_histogram(seconds: Iterable[float]) -> Histogram:
    """Count durations between round times, of which those that hold any are kept."""
    places = [min(bisect_right(_EDGES_SECONDS, value), len(_EDGES_SECONDS) - 1) - 1 for value in seconds]
    first, last = min(places), max(places)
    counts = tuple(places.count(place) for place in range(first, last + 1))
    return Histogram("Durations of videos", "videos", _EDGES_SECONDS[first : last + 2], counts)


def set_provenance(opened: FeatureSet | StageSet) -> tuple[FactGroup, ...]:
    """Say under what recipe a set was made, and with what."""
    name = Fact("set", opened.name)
    digest = Fact("recipe digest", opened.digest)
    if isinstance(opened, StageSet):
        after = opened.recipe.after
        made = (Fact("made of the set with digest", after),) if after else ()
        return (
            FactGroup("Set", (name, digest, *made)),
            FactGroup("Recipe", flat_facts(opened.recipe.settings)),
            *_versions(None),
        )
    weights = Fact("weights", opened.weights_name or "not of the table of weights")
    preset = Fact("preset", opened.preset or "none")
    return (
        FactGroup("Set", (name, digest, preset, weights, Fact("in words", prose(opened.recipe)))),
        FactGroup("Recipe", flat_facts(opened.recipe.stated())),
        *_versions(opened),
    )


def _versions(opened: FeatureSet | None) -> tuple[FactGroup, ...]:
    own = FactGroup("This page", (Fact("made by", f"vadx {__version__}"),))
    first = next(iter(opened), None) if opened is not None else None
    if opened is None or first is None:
        return (own,)
    try:
        found = opened[first].provenance
    except (ShardError, KeyError):
        return (own,)
    facts = tuple(Fact(name, str(value)) for name, value in sorted(found.items()))
    return (FactGroup("What computed the first of its videos", facts), own)


def flat_facts(mapping: Mapping[str, Any], prefix: str = "") -> tuple[Fact, ...]:
    """Give a nested mapping of plain JSON as facts: ``transform.crops``."""
    facts: list[Fact] = []
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            facts += flat_facts(value, f"{prefix}{name}.")
        else:
            facts.append(Fact(f"{prefix}{name}", plain_text(value)))
    return tuple(facts)


def plain_text(value: Any) -> str:
    """Write a value of plain JSON for reading."""
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
