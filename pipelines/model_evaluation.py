"""From a model and a list of labels to an evaluation: which videos, their scores, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NoInputError, StoreError, UsageError
from ..features.store import FeatureSet, Store, open_shard_set
from .evaluation import NUM_DRAWS, Evaluation, TestVideo, evaluate_videos
from .frame_comparison import PROPOSAL_THRESHOLD
from .model_folder import read_model
from .protocols import PROTOCOLS
from .scoring import check_set, score_clips
from .tube_scoring import with_tubes

if TYPE_CHECKING:
    from ..features.box_truth import BoxTruth
    from ..features.manifest import Manifest, ManifestEntry
    from .evaluation import ClassOf
    from .model_folder import Model, Which
    from .protocol_choices import Protocol
    from .scoring import ScoredVideo
    from .tube_evaluation import TubeSets

TEST = "test"
"""The split that is evaluated where a list names splits."""


@dataclass(frozen=True, slots=True)
class ChosenVideos:
    """Which videos are evaluated: ``entries`` by the ids that they are stored under.

    ``not_stored`` are listed, in the split, and have no features or scores; ``not_listed`` have them and stand in no
    list; ``ambiguous`` ids fit several. ``split`` is "" where all that is listed was chosen.
    """

    entries: Mapping[str, ManifestEntry]
    split: str
    not_stored: tuple[str, ...]
    not_listed: tuple[str, ...]
    ambiguous: tuple[str, ...]

    def notes(self) -> list[str]:
        """Say what a person should know of the choice."""
        told = [
            f"{len(ids)} {what}: {', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}"
            for what, ids in (
                ("listed, but not stored", self.not_stored),
                ("stored, but not listed", self.not_listed),
                ("fit several of the list, left out", self.ambiguous),
            )
            if ids
        ]
        if not self.split:
            told.append("the list names no splits: all its videos are evaluated, those of the training among them")
        elif self.split != TEST:
            told.append(f"the split {self.split} is evaluated, not {TEST}")
        return told


def choose_videos(manifest: Manifest, stored: Iterable[str], split: str | None = None) -> ChosenVideos:
    """Choose the videos of a split; by default `TEST`, or all where the manifest names no split.

    Raises
    ------
    NoInputError
        if none is left.
    """
    named = {entry.split for entry in manifest}
    wanted = split if split is not None else "" if named <= {""} else TEST
    known, joined = manifest.join(stored)
    entries = {name: entry for name, entry in sorted(known.items()) if wanted in ("", entry.split)}
    missing = tuple(one for one in joined.extra if wanted in ("", manifest[one].split))
    chosen = ChosenVideos(entries, wanted, missing, joined.missing, tuple(sorted(joined.ambiguous)))
    if not entries:
        of = f" of split {wanted}" if wanted else ""
        msg = (
            f"no video{of} is left to evaluate: the manifest lists {len(manifest)} videos, "
            f"{'; '.join(chosen.notes()[:2]) or f'none{of}'}; name the split with --split, or the set with --set"
        )
        raise NoInputError(msg)
    return chosen


def set_of_model(model: Model, store: Path) -> FeatureSet:
    """Give the feature set of a model's own recipe in a store. Raises `UsageError` if there is none."""
    wanted = model.facts["recipe_digest"]
    for name in Store(store).names() if store.is_dir() else ():
        # A set beside it that cannot be opened is no reason not to find it.
        with suppress(StoreError):
            one = open_shard_set(store / name)
            if isinstance(one, FeatureSet) and one.digest == wanted:
                return one
    name = model.facts.get("set_name") or f"recipe {wanted[:12]}"
    msg = f"{store} has no feature set of the model's recipe, {name}: name its store, --store PATH, or a set, --set SET"
    raise UsageError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class ModelEvaluation:
    """One network of a model, evaluated: its scores, those videos that it could not score and why, and the numbers."""

    model: Model
    scored: tuple[ScoredVideo, ...]
    failed: Mapping[str, str]
    evaluation: Evaluation


def whiches(folder: Path, which: str) -> tuple[Which, ...]:
    """Give the networks of a model that are meant by last, best or both; best only where one was chosen."""
    if which != "both":
        return ("best",) if which == "best" else ("last",)
    return ("last", "best") if (folder / "best.safetensors").is_file() else ("last",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationChoice:
    """How a model is evaluated. ``tubes`` and ``boxes`` are for models that score tubes."""

    protocol: Protocol = PROTOCOLS["vadx"]
    bootstrap: int = NUM_DRAWS
    seed: int = 0
    tubes: TubeSets | None = None
    boxes: Mapping[str, BoxTruth] | None = None


def evaluate_model(
    folder: Path,
    which: Which,
    feature_set: FeatureSet,
    chosen: ChosenVideos,
    choice: EvaluationChoice,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> ModelEvaluation:
    """Score the chosen videos with one network of a model, and measure. A video that cannot be scored is named.

    Raises
    ------
    UsageError
        if the set is of another recipe.
    StoreError
        if the model or a shard is damaged.
    """
    model = read_model(folder, which)
    check_set(model, feature_set)
    scored: dict[str, ScoredVideo] = {}
    failed: dict[str, str] = {}
    for number, identifier in enumerate(chosen.entries):
        try:
            scored[identifier] = score_clips(model, feature_set[identifier], identifier)
        except UsageError as error:
            failed[identifier] = str(error)
        if (number + 1) % 100 == 0:
            say(f"{which}: {number + 1} of {len(chosen.entries)} videos scored")
    report, notes = None, chosen.notes()
    if choice.tubes is not None:
        from .tube_evaluation import judge_tubes

        entries = {name: entry for name, entry in chosen.entries.items() if name in scored}
        judged = judge_tubes(model, choice.tubes, entries, choice.boxes)
        scored |= {name: with_tubes(scored[name], tubes) for name, tubes in judged.scored.items()}
        report, notes = judged.report, [*notes, *judged.notes]
    evaluation = evaluate_videos(
        [TestVideo(one, chosen.entries[name]) for name, one in scored.items()],
        choice.protocol,
        bootstrap=choice.bootstrap,
        seed=choice.seed,
        threshold=proposal_threshold(model),
        class_of=class_of(model),
        tubes=report,
        notes=notes,
    )
    return ModelEvaluation(model, tuple(scored.values()), failed, evaluation)


def evaluate_scores(videos: Mapping[str, ScoredVideo], chosen: ChosenVideos, choice: EvaluationChoice) -> Evaluation:
    """Measure scores of frames that somebody made, by the ids of ``chosen``."""
    return evaluate_videos(
        [TestVideo(videos[name], entry, frames_only=True) for name, entry in chosen.entries.items()],
        choice.protocol,
        bootstrap=choice.bootstrap,
        seed=choice.seed,
        notes=chosen.notes(),
    )


def proposal_threshold(model: Model) -> float:
    """Give the threshold of a model's proposals, the paper's for models that make none."""
    from .methods.align import AlignSettings

    settings = model.method.settings
    return settings.threshold if isinstance(settings, AlignSettings) else PROPOSAL_THRESHOLD


def class_of(model: Model) -> ClassOf | None:
    """Give what a video's own class is to a model; None for what `evaluate_videos` takes it for.

    Normal videos of LAD2000 are of the kind whose folder they lie in.
    """
    from .methods.lad import UNKNOWN, LadSettings, class_index

    settings = model.method.settings
    if not isinstance(settings, LadSettings):
        return None
    own = settings

    def of(entry: ManifestEntry) -> str | None:
        try:
            found = class_index(entry.class_name, entry.id, anomalous=entry.label == 1, settings=own)
        except UsageError:
            # A kind that the model never saw: such a video is counted, and left out of the accuracy.
            return None
        return None if found == UNKNOWN else own.class_names[found]

    return of


def model_mapping(result: ModelEvaluation) -> dict[str, Any]:
    """Give plain JSON of one network's evaluation."""
    mark = result.model.mark
    return {
        "iteration": mark.iteration,
        "measured": mark.measured,
        "failed": [{"id": name, "message": message} for name, message in result.failed.items()],
        **result.evaluation.as_mapping(),
    }
