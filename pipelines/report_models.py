"""What a report says of a model: its scores of videos over their time, how well they fit the truth, how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NoInputError, UsageError
from ..features.expansion import expand_scores
from ..features.manifest import ManifestEntry
from ..features.stage_set import StageSet
from ..features.store import Store
from .manifests import read_labels
from .model_evaluation import EvaluationChoice, choose_videos, evaluate_model
from .model_folder import read_model
from .report import Known, ReportChoice, Say, tube_picture, with_files
from .report_curves import frame_edges
from .report_page import SCORE_CODE, Fact, FactGroup, Failure, Picture, ReportPage, ScoredCard
from .report_results import result_plots, result_summary, result_tables, video_facts
from .report_sets import failure_of, flat_facts, plain_text, set_provenance
from .score_video import end_seconds
from .scoring import check_set, score_clips
from .tube_scoring import score_tubes, with_tubes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.store import FeatureSet
    from .evaluation import Evaluation
    from .model_folder import Model, Which
    from .scoring import ScoredVideo

_OTHER_CURVES: Mapping[str, str] = {"attention": "attention", "frame_activation": "T-CAM", "weighted": "T-CAM"}
"""What else of `ScoredVideo.more` is drawn, and what it is called; of several of one name the first."""

ASSUMED_FPS = 25
"""Frames per second of a video of which nobody said."""

NO_MANIFEST = "No manifest was given, so no truth is shaded and nothing is measured: vadx report --manifest FILE."
_CURE = "mend the cause that it names, then: vadx report"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which network of the model in ``folder``, and how its scores are judged.

    ``split`` is that of the manifest whose videos are scored; by default as `choose_videos` takes it.
    """

    folder: Path
    which: Which = "last"
    split: str | None = None
    measured: EvaluationChoice = field(default_factory=EvaluationChoice)


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """What a network says of videos. ``evaluation`` is None where nothing is known of them."""

    model: Model
    videos: tuple[ScoredVideo, ...]
    failed: Mapping[str, str]
    entries: Mapping[str, ManifestEntry]
    evaluation: Evaluation | None = None


def tubes_of_model(model: Model, store: Path) -> StageSet | None:
    """Give the set of features of tubes that a model learned from, None where it took none or a store has it not."""
    digest = ((model.facts.get("inputs") or {}).get("tubes") or {}).get("digest")
    sets = Store(store).all_sets() if digest else ()
    return next((one for one in sets if isinstance(one, StageSet) and one.digest == digest), None)


def report_on_model(features: FeatureSet, choice: ReportChoice, judged: ModelChoice, say: Say) -> ReportPage:
    """Score a set's videos with a model, judge the scores by a manifest if there is one, and make the page.

    Raises
    ------
    UsageError
        if the set is of another recipe, or there is a split without a manifest.
    NoInputError
        if there is no such manifest, no video of the split, or none that can be scored.
    StoreError
        if the model or a shard is damaged.
    """
    scored = _unjudged(features, judged) if choice.manifest is None else _judged(features, choice.manifest, judged, say)
    if not scored.videos:
        first = next(iter(scored.failed.values()), f"{features.name} holds none")
        msg = f"no video could be scored; the first: {first}"
        raise NoInputError(msg)
    known = with_files([one.id for one in scored.videos], scored.entries, choice)
    evaluation, model = scored.evaluation, scored.model
    name = judged.folder.resolve().name
    lead = f"What the {model.which} network of the model {name} says of {len(scored.videos)} videos"
    failures = [
        Failure(name, SCORE_CODE, "it could not be scored", message, _CURE) for name, message in scored.failed.items()
    ]
    return ReportPage(
        title=f"{model.facts['method']} on {features.name}",
        lead=f"{lead}, measured as the protocol {evaluation.protocol} does." if evaluation else f"{lead}.",
        summary=result_summary(evaluation) if evaluation else (),
        notes=(*known.notes, *(evaluation.notes if evaluation else (NO_MANIFEST,))),
        plots=result_plots(evaluation) if evaluation else (),
        tables=result_tables(evaluation) if evaluation else (),
        videos=tuple(_cards(scored, known, _pictures(scored.videos, known, choice, judged, say))),
        provenance=_provenance(model, features, judged, evaluation),
        failures=(*failures, *map(failure_of, features.failures())),
    )


def _judged(features: FeatureSet, manifest: Path, judged: ModelChoice, say: Say) -> _Scored:
    chosen = choose_videos(read_labels(manifest), features.summaries().ids, judged.split)
    result = evaluate_model(judged.folder, judged.which, features, chosen, judged.measured, say=say)
    return _Scored(result.model, result.scored, result.failed, chosen.entries, result.evaluation)


def _unjudged(features: FeatureSet, judged: ModelChoice) -> _Scored:
    if judged.split:
        msg = f"no manifest says which videos are of the split {judged.split}: give --manifest FILE, or no --split"
        raise UsageError(msg)
    model = read_model(judged.folder, judged.which)
    check_set(model, features)
    sets = judged.measured.tubes
    videos: dict[str, ScoredVideo] = {}
    failed: dict[str, str] = {}
    for identifier in features.summaries().ids:
        try:
            video = score_clips(model, features[identifier], identifier)
            if sets is not None and identifier in sets.features:
                video = with_tubes(video, score_tubes(model, sets.features, sets.tubes, identifier))
        except UsageError as error:
            failed[identifier] = str(error)
        else:
            videos[identifier] = video
    return _Scored(model, tuple(videos.values()), failed, {})


def _cards(scored: _Scored, known: Known, pictures: Mapping[str, tuple[Picture, ...]]) -> Iterator[ScoredCard]:
    rows = {} if scored.evaluation is None else {row.id: row for row in scored.evaluation.videos}
    for video in scored.videos:
        row = rows.get(video.id)
        facts = video_facts(row) if row is not None else ()
        yield scored_card(video, known, facts=facts, pictures=pictures.get(video.id, ()))


def scored_card(
    video: ScoredVideo, known: Known, *, facts: tuple[Fact, ...] = (), pictures: tuple[Picture, ...] = ()
) -> ScoredCard:
    """Give what a page shows of a scored video."""
    entry = known.entries.get(video.id, ManifestEntry(video.id))
    seconds, said = _times(video)
    return ScoredCard(
        id=video.id,
        scores=video.frame_scores,
        seconds=seconds,
        source=known.sources.of(video.id),
        label=entry.label,
        class_name=entry.class_name,
        truth=_truth(entry, video.num_frames),
        facts=(*facts, *_class_facts(video), Fact("frames", f"{video.num_frames:,}"), *said),
        others=_other_curves(video),
        pictures=pictures,
    )


def _times(video: ScoredVideo) -> tuple[NDArray[np.float64], tuple[Fact, ...]]:
    """Give when frames begin and the last ends; where nobody knows, as if they came at `ASSUMED_FPS`, and says so."""
    if np.isfinite(video.frame_seconds).all() and np.isfinite(video.seconds).all():
        return frame_edges(video.frame_seconds, end_seconds(video)), ()
    said = Fact("times", f"not known: drawn, and played, as if it had {ASSUMED_FPS} frames a second")
    return np.arange(video.num_frames + 1) / ASSUMED_FPS, (said,)


def _truth(entry: ManifestEntry, num_frames: int) -> NDArray[np.int64] | None:
    """Give the anomalous frames within a video, None where they are not known."""
    if entry.label == -1 or (entry.label == 1 and not len(entry.spans)):
        return None
    spans = entry.spans.clip(0, num_frames)
    found: NDArray[np.int64] = spans[spans[:, 0] < spans[:, 1]]
    return found


def _class_facts(video: ScoredVideo) -> tuple[Fact, ...]:
    best = sorted(video.classes.items(), key=lambda item: (-item[1], item[0]))[:3]
    return (Fact("kinds", ", ".join(f"{name} {score:.2f}" for name, score in best)),) if best else ()


def _other_curves(video: ScoredVideo) -> dict[str, NDArray[np.float32]]:
    """Give what a method says of frames beside their score, where it lies in [0, 1] as scores do."""
    curves: dict[str, NDArray[np.float32]] = {}
    for key, name in _OTHER_CURVES.items():
        values: NDArray[Any] | None = video.more.get(key)
        if values is None or name in curves or values.ndim != 1:
            continue
        if len(values) == len(video.scores):
            if not np.isfinite(values).all():
                continue
            values = expand_scores(values, video.frames, video.num_frames)
        if len(values) == video.num_frames and ((values >= 0) & (values <= 1)).all():
            curves[name] = values.astype(np.float32)
    return curves


def _pictures(
    scored: Sequence[ScoredVideo], known: Known, choice: ReportChoice, judged: ModelChoice, say: Say
) -> dict[str, tuple[Picture, ...]]:
    """Draw the tubes of the highest scores, of the videos of the highest, whose files are found."""
    sets = judged.measured.tubes
    if sets is None:
        return {}
    playable = [one for one in scored if one.id in known.sources.paths and len(one.more.get("tube_scores", ()))]
    best = sorted(playable, key=lambda one: (-float(one.more["tube_scores"].max()), one.id))[: choice.num_sheets]
    found = {}
    for video in best:
        say(f"tubes of {video.id}")
        places = sets.features.open(video.id).arrays["tube"][video.more["tube"]]
        ranked = np.argsort(-video.more["tube_scores"], kind="stable")
        # A tube's parts are scored one by one: it stands where its best part does.
        order = list(dict.fromkeys(places[ranked].tolist()))
        found[video.id] = tuple(tube_picture(sets.tubes, video.id, known.sources.paths[video.id], order=order))
    return found


def _provenance(
    model: Model, features: FeatureSet, judged: ModelChoice, evaluation: Evaluation | None
) -> tuple[FactGroup, ...]:
    with (judged.folder / f"{model.which}.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    own = (
        Fact("network", model.which),
        Fact("sha256 of its file", digest),
        Fact("iteration", str(model.mark.iteration)),
        *(() if model.mark.measured is None else (Fact("measured", f"{model.mark.measured:.4f}"),)),
        # What it holds of the recipe is said of the set.
        *flat_facts({name: value for name, value in model.facts.items() if name != "recipe"}),
    )
    groups = [FactGroup("Model", own)]
    if evaluation is not None:
        protocol = judged.measured.protocol
        choices = [Fact(name, plain_text(one["value"])) for name, one in protocol.as_mapping()["choices"].items()]
        draws = (Fact("draws of the intervals", str(evaluation.draws)), Fact("seed of the draws", str(evaluation.seed)))
        groups.append(FactGroup("Measurement", (Fact("protocol", evaluation.protocol), *choices, *draws)))
    return (*groups, *set_provenance(features))
