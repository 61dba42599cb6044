"""What a report says of a model: its scores of videos over their time, how well they fit the truth, how it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..features.expansion import expand_scores
from ..features.manifest import ManifestEntry
from ..features.stage_set import StageSet
from ..features.store import Store
from .evaluation import NUM_DRAWS, Evaluation, TestVideo, evaluate_videos
from .protocols import find_protocol
from .report import Known, ReportChoice, Say, look_up, tube_picture
from .report_curves import frame_edges
from .report_page import Fact, FactGroup, Failure, Picture, ReportPage, ScoredCard
from .report_results import result_plots, result_summary, result_tables, video_facts
from .report_sets import failure_of, flat_facts, set_provenance
from .score_run import Wanted, find_in
from .score_video import end_seconds
from .scoring import check_set

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.store import FeatureSet
    from .model_folder import Model
    from .score_run import Found
    from .scoring import ScoredVideo

_OTHER_CURVES: Mapping[str, str] = {"attention": "attention", "frame_activation": "T-CAM", "weighted": "T-CAM"}
"""What else of `ScoredVideo.more` is drawn, and what it is called; of several of one name the first."""

NO_MANIFEST = "No manifest was given, so no truth is shaded and nothing is measured: vadx report --manifest FILE."
_CODE = "SCORE"
_CURE = "mend the cause that it names, then: vadx report"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """How the scores of the model in ``folder`` are judged.

    ``split`` is that of the manifest whose videos are scored, "" for all of it; by default ``test``, or all where the
    manifest names none. ``tubes`` are sets of features of tubes and of the tubes themselves, for ``mgpr``.
    """

    folder: Path
    split: str | None = None
    protocol: str = "vadx"
    bootstrap: int = NUM_DRAWS
    seed: int = 0
    tubes: tuple[StageSet, StageSet] | None = None


def set_of_model(model: Model, store: Path) -> FeatureSet:
    """Give the set of a model's own recipe in a store. Raises `UsageError` if there is none."""
    digest = model.facts["recipe_digest"]
    for one in Store(store).sets():
        if one.digest == digest:
            return one
    named = model.facts.get("set_name") or f"recipe {digest[:12]}"
    msg = f"{store} has no set of the model's recipe, {named}: name its store with --store, or the set with --set"
    raise UsageError(msg)


def tubes_of_model(model: Model, store: Path) -> StageSet | None:
    """Give the set of features of tubes that a model learned from, None where it took none or a store has it not."""
    digest = ((model.facts.get("inputs") or {}).get("tubes") or {}).get("digest")
    sets = Store(store).all_sets() if digest else ()
    return next((one for one in sets if isinstance(one, StageSet) and one.digest == digest), None)


def report_on_model(
    model: Model, features: FeatureSet, choice: ReportChoice, judged: ModelChoice, say: Say
) -> ReportPage:
    """Score a set's videos with a model, judge the scores by a manifest if there is one, and make the page.

    Raises
    ------
    UsageError
        if the set is of another recipe, there is no such protocol or split, or no video is left.
    NoInputError
        if there is no such manifest.
    StoreError
        if a shard is damaged.
    """
    check_set(model, features)
    protocol = find_protocol(judged.protocol)
    known = look_up(features.summaries().ids, choice)
    ids, split_note = _chosen(features.summaries().ids, known, judged.split)
    scored, failures = [], []
    for number, found in enumerate(find_in(model, features, dict.fromkeys(ids), Wanted(0.5, {}), tubes=judged.tubes)):
        if found.video is None:
            failures.append(_score_failure(found))
        else:
            scored.append(found.video)
        if (number + 1) % 50 == 0:
            say(f"{number + 1} of {len(ids)} videos scored")
    evaluation = None
    if known.entries:
        tests = [TestVideo(one, known.entries[one.id]) for one in scored if one.id in known.entries]
        evaluation = evaluate_videos(tests, protocol, bootstrap=judged.bootstrap, seed=judged.seed)
    remembered = [failure_of(record) for record in features.failures()]
    lead = f"What the {model.which} network of the model {judged.folder.resolve().name} says of {len(scored)} videos"
    return ReportPage(
        title=f"{model.facts['method']} on {features.name}",
        lead=f"{lead}, measured as the protocol {judged.protocol} does." if evaluation else f"{lead}.",
        summary=result_summary(evaluation) if evaluation else (),
        notes=_notes(known, evaluation, split_note),
        plots=result_plots(evaluation) if evaluation else (),
        tables=result_tables(evaluation) if evaluation else (),
        videos=tuple(_cards(scored, known, evaluation, _pictures(scored, known, choice, judged, say))),
        provenance=_provenance(model, features, judged),
        failures=(*failures, *remembered),
    )


def _chosen(ids: Sequence[str], known: Known, split: str | None) -> tuple[list[str], str]:
    """Give the ids that are scored, and what a reader should know of the choice."""
    if not known.entries:
        if split:
            msg = f"no manifest says which videos are of split {split!r}: give --manifest FILE, or leave --split out"
            raise UsageError(msg)
        return list(ids), ""
    listed = [one for one in ids if one in known.entries]
    splits = {known.entries[one].split for one in listed}
    wanted = split if split is not None else "test" if "test" in splits else ""
    chosen = [one for one in listed if not wanted or known.entries[one].split == wanted]
    if not chosen:
        msg = f"no stored video is of split {wanted!r} in the manifest; leave --split out to score all that it lists"
        raise UsageError(msg)
    of_training = [one for one in chosen if known.entries[one].split in ("train", "")]
    if wanted or not of_training:
        return chosen, ""
    return chosen, f"{len(of_training)} of these {len(chosen)} videos may have been trained on."


def _notes(known: Known, evaluation: Evaluation | None, split_note: str) -> tuple[str, ...]:
    notes = [*known.notes, *filter(None, [split_note])]
    if evaluation is None:
        notes.append(
            "No manifest was given, so no truth is shaded and nothing is measured: vadx report --manifest FILE."
        )
    else:
        notes += evaluation.notes
    return tuple(notes)


def _score_failure(found: Found) -> Failure:
    return Failure(found.id, found.code or _CODE, "it could not be scored", found.failure or "", _CURE)


def _cards(
    scored: Sequence[ScoredVideo],
    known: Known,
    evaluation: Evaluation | None,
    pictures: Mapping[str, tuple[Picture, ...]],
) -> Iterator[ScoredCard]:
    rows = {} if evaluation is None else {row.id: row for row in evaluation.videos}
    for video in scored:
        entry = known.entries.get(video.id, ManifestEntry(video.id))
        row = rows.get(video.id)
        facts = video_facts(row) if row is not None else ()
        yield scored_card(video, entry, known, facts=facts, pictures=pictures.get(video.id, ()))


def scored_card(
    video: ScoredVideo,
    entry: ManifestEntry,
    known: Known,
    *,
    facts: tuple[Fact, ...] = (),
    pictures: tuple[Picture, ...] = (),
) -> ScoredCard:
    """Give what a page shows of a scored video."""
    return ScoredCard(
        id=video.id,
        scores=video.frame_scores,
        seconds=frame_edges(video.frame_seconds, end_seconds(video)),
        source=known.sources.of(video.id),
        label=entry.label,
        class_name=entry.class_name,
        truth=_truth(entry, video.num_frames),
        facts=(*facts, *_class_facts(video), Fact("frames", f"{video.num_frames:,}")),
        others=_other_curves(video),
        pictures=pictures,
    )


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
    if judged.tubes is None:
        return {}
    features, tubes = judged.tubes
    playable = [one for one in scored if one.id in known.sources.paths and len(one.more.get("tube_scores", ()))]
    best = sorted(playable, key=lambda one: (-float(one.more["tube_scores"].max()), one.id))[: choice.num_sheets]
    found = {}
    for video in best:
        say(f"tubes of {video.id}")
        places = features.open(video.id).arrays["tube"][video.more["tube"]]
        ranked = np.argsort(-video.more["tube_scores"], kind="stable")
        # A tube's parts are scored one by one: it stands where its best part does.
        order = list(dict.fromkeys(places[ranked].tolist()))
        found[video.id] = tuple(tube_picture(tubes, video.id, known.sources.paths[video.id], order=order))
    return found


def _provenance(model: Model, features: FeatureSet, judged: ModelChoice) -> tuple[FactGroup, ...]:
    facts = {name: value for name, value in model.facts.items() if name != "recipe"}
    with (judged.folder / f"{model.which}.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    own = (
        Fact("network", model.which),
        Fact("sha256 of its file", digest),
        Fact("iteration", str(model.mark.iteration)),
        *(() if model.mark.measured is None else (Fact("measured", f"{model.mark.measured:.4f}"),)),
        *flat_facts(facts),
    )
    measured = (
        Fact("protocol", judged.protocol),
        Fact("draws of the intervals", str(judged.bootstrap)),
        Fact("seed of the draws", str(judged.seed)),
    )
    return (FactGroup("Model", own), FactGroup("Measurement", measured), *set_provenance(features))
