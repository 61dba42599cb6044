"""From a feature set or a bags file to everything that a training takes: bags, method, measure, and what is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import UsageError
from ..features.bag_file import BagFile
from ..features.expansion import expand_scores
from ..features.frame_truth import frame_truth
from .bag_making import BagChoice, ensure_bags
from .clip_bags import CLIPS, ClipBags
from .frame_metrics import AREAS, pool
from .methods import find_method
from .methods.lad import CLASS_LISTS, LadSettings
from .methods.mgpr import MgprSettings
from .methods.wsal import WsalSettings
from .model_folder import Mark, Model
from .scoring import score_clips
from .train import score_bags
from .training_bags import ANOMALOUS, NORMAL, TrainingBags, digest_of
from .training_inputs import content_of, frame_label_input, merged, noise_input, tube_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..features.bags import CropPool
    from ..features.manifest import Manifest, ManifestEntry
    from ..features.stage_set import StageSet
    from ..features.store import FeatureSet
    from .methods import Method
    from .train import Measure, Scorer, TrainSettings
    from .training_bags import Bags, More

Entries: TypeAlias = "Mapping[str, ManifestEntry]"
"""Ids as they are stored -> what the manifest says of the videos."""

MEASURED_SPLITS: Mapping[str, str] = {"held-out": "val", "test": "test"}
"""What best is chosen on -> the manifest's split that is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What shall be trained.

    ``source`` is a feature set, whose bags are made where they are missing, or a bags file, which came from
    ``recipe_of`` where that is known. ``changes`` are settings of the method beside its ``variant``. ``rule`` is the
    method's own if it is None; ``num_segments``, ``crop_pool`` and ``bags_seed`` as in `BagChoice`. ``tubes`` and
    ``noise`` are what ``mgpr`` and ``wsal`` learn from beside clips; ``without_tubes`` lets ``mgpr`` take segments for
    tubes.
    """

    method: str
    source: FeatureSet | BagFile
    manifest: Manifest | None
    variant: str = "paper"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rule: str | None = None
    num_segments: int | None = None
    crop_pool: CropPool = "keep"
    bags_seed: int = 0
    tubes: StageSet | None = None
    without_tubes: bool = False
    noise: FeatureSet | None = None
    recipe_of: FeatureSet | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Everything that `train.train` takes. ``says`` is what a person should know, a sentence each."""

    name: str
    method: Method
    bags: Bags
    measure: Measure | None
    measured_on: str
    facts: Mapping[str, Any]
    says: tuple[str, ...]

    def count(self, label: int) -> int:
        """Give the number of bags of a label."""
        return len(self.bags.half(label))


def plan_training(order: Order, settings: TrainSettings, *, check: Callable[[], None] = lambda: None) -> Training:
    """Make what a training needs. ``check`` is called between two videos that are measured, and may raise.

    Raises
    ------
    UsageError
        for settings that cannot be meant, and where videos of a label are missing.
    StoreError
        if a shard or a bags file is damaged.
    StoreWriteError
        if the disk refused bags that had to be made.
    """
    # A method's name and settings are cheap to refuse, bags are not cheap to make.
    find_method(order.method).make(order.variant, **order.changes)
    if isinstance(order.source, BagFile):
        known = _known(order.manifest, order.source.ids)
        split, says = _train_split(known) if known else (None, [])
        videos = {i: one for i, one in known.items() if split is None or one.split == split}
    else:
        if order.manifest is None:
            msg = (
                f"{order.source.name} has no labels, and training needs them: give --manifest FILE, "
                f"which vadx manifest makes"
            )
            raise UsageError(msg)
        known = _known(order.manifest, order.source.all_ids())
        split, says = _train_split(known)
        videos = {i: one for i, one in known.items() if split is None or one.split == split}
        _check_labels(order.source.name, videos, split)
    method, more_says = _method(order, videos.values())
    bags, choice = _bags(order, method, videos, split)
    facts = _facts(order, method, bags, choice, videos)
    measured = _measured(order, settings, bags, known, facts, check)
    facts["measure"] = measured.what
    if settings.patience and measured.measure is None:
        msg = f"--patience counts measurements without a new best, and {measured.what}; leave it out"
        raise UsageError(msg)
    said = (*says, *more_says, *_hints(order, method, bags), *measured.says)
    return Training(order.method, method, bags, measured.measure, measured.what, facts, said)


def _known(manifest: Manifest | None, ids: Iterable[str]) -> dict[str, ManifestEntry]:
    if manifest is None:
        return {}
    return dict(sorted(manifest.join(ids)[0].items()))


def _train_split(known: Entries) -> tuple[str | None, list[str]]:
    """Give the split that is trained on, None for all videos."""
    if any(entry.split == "train" for entry in known.values()):
        return "train", []
    if any(entry.split for entry in known.values()):
        msg = (
            "the manifest puts no stored video into the split train; write train into its column split, "
            "or leave that column empty to train on all"
        )
        raise UsageError(msg)
    return None, ["the manifest names no splits: all its videos are trained on, and none is held out"] if known else []


def _check_labels(name: str, videos: Entries, split: str | None) -> None:
    """Raise `UsageError` unless there are normal and anomalous videos."""
    where = f" of split {split}" if split else ""
    if not videos:
        msg = f"the manifest knows none of the videos of {name}: `vadx ls {name} -q` prints their ids"
        raise UsageError(msg)
    for label, what in ((NORMAL, "normal"), (ANOMALOUS, "anomalous")):
        if not any(entry.label == label for entry in videos.values()):
            msg = (
                f"the manifest labels none of the {len(videos)} videos{where} of {name} {what}, and training compares "
                f"both kinds; write 0 for normal and 1 for anomalous into its column label"
            )
            raise UsageError(msg)


def _method(order: Order, videos: Iterable[ManifestEntry]) -> tuple[Method, list[str]]:
    """Make the method, with the kinds of anomaly of the manifest where it learns kinds and was told none."""
    spec = find_method(order.method)
    method = spec.make(order.variant, **order.changes)
    kinds = sorted({video.class_name for video in videos if video.class_name})
    names = _class_names(method)
    if names is None or "classes" in order.changes or {*kinds} <= {*names}:
        return method, []
    fitting = next((name for name, names in CLASS_LISTS.items() if {*kinds} <= {*names}), None)
    classes = fitting or ",".join(kinds)
    changed = {**order.changes, "classes": classes}
    return spec.make(order.variant, **changed), [f"kinds of anomaly: {classes}, as the manifest has them (--classes)"]


def _class_names(method: Method) -> tuple[str, ...] | None:
    """Give the kinds of anomaly that a method tells apart, in the order of its scores; None if it tells none."""
    return getattr(method.settings, "class_names", None)


def _bags(order: Order, method: Method, videos: Entries, split: str | None) -> tuple[Bags, BagChoice]:
    if isinstance(order.source, BagFile):
        choice = _choice_of(order.source)
        chosen = [identifier for identifier in order.source.ids if identifier in videos] if videos else None
        bags = TrainingBags(order.source, chosen)
    else:
        rule = order.rule or method.rule
        choice = BagChoice(rule, order.num_segments, order.crop_pool, order.bags_seed, split)
        if rule == CLIPS and order.num_segments is None:
            return _clip_bags(order, method, videos, choice)
        report = ensure_bags(order.source, choice, manifest=order.manifest)
        bags = TrainingBags(BagFile(report.path))
    more = merged(_inputs(order, method, bags, videos, choice))
    return (bags if more is None else dataclasses.replace(bags, more=more)), choice


def _clip_bags(order: Order, method: Method, videos: Entries, choice: BagChoice) -> tuple[ClipBags, BagChoice]:
    if isinstance(order.source, BagFile):
        msg = "a bags file has bags already; leave --rule out"
        raise UsageError(msg)
    if order.tubes is not None or order.noise is not None or isinstance(method.settings, MgprSettings):
        msg = "tubes and noise go with bags of equally many segments; give --rule rtfm"
        raise UsageError(msg)
    windows = method.settings if isinstance(method.settings, LadSettings) else None
    labelled = {i: entry for i, entry in videos.items() if entry.label in (NORMAL, ANOMALOUS)}
    return ClipBags(order.source, labelled, order.crop_pool, windows), choice


def _choice_of(file: BagFile) -> BagChoice:
    """Give how the bags of a file were made, as far as it says so."""
    said = file.provenance
    pool_said = said.get("crop_pool")
    crop_pool: CropPool = "mean" if pool_said == "mean" else "keep"
    if isinstance(pool_said, int):
        crop_pool = pool_said
    segments = said.get("segments")
    return BagChoice(
        file.rule,
        segments if isinstance(segments, int) else None,
        crop_pool,
        int(said.get("seed", 0)),
    )


def _inputs(order: Order, method: Method, bags: TrainingBags, videos: Entries, choice: BagChoice) -> list[More]:
    """Give what the method's bags have beside their features."""
    settings, found = method.settings, []
    if isinstance(settings, LadSettings) and videos:
        found.append(frame_label_input(bags.file, videos, settings.clip_frames))
    if isinstance(settings, MgprSettings):
        if order.tubes is not None:
            found.append(tube_input(order.tubes, _trained_ids(bags), bags.shape[2], settings.max_tubes))
        elif not order.without_tubes:
            msg = (
                "mgpr learns from tubes: make them with vadx tubes VIDEOS, then give --tubes SET, the set that it "
                "prints; or --tubes none, to let segments stand in for tubes"
            )
            raise UsageError(msg)
    elif order.tubes is not None or order.without_tubes:
        msg = f"{order.method} learns from no tubes; leave --tubes out, or give --method mgpr"
        raise UsageError(msg)
    if order.noise is not None:
        if not isinstance(settings, WsalSettings) or not settings.noise_weight:
            msg = f"{order.method} with these settings has no term for noise; leave --noise-set out"
            raise UsageError(msg)
        _check_noise(order.noise, bags.recipe_digest)
        noisy = ensure_bags(order.noise, choice, manifest=order.manifest)
        normal = [bags.file.ids[number] for number in bags.half(NORMAL)]
        found.append(noise_input(bags.file, BagFile(noisy.path), normal))
    return found


def _check_noise(noise: FeatureSet, digest: str) -> None:
    """Raise `UsageError` unless a set differs from the one of this recipe by noise on its frames, and by that alone."""
    clean = dataclasses.replace(noise.recipe, noise=None)
    if noise.recipe.noise is None or clean.digest != digest:
        why = "has no noise on its frames" if noise.recipe.noise is None else "differs from them in more than noise"
        msg = (
            f"{noise.name} is no noise set of these features, for it {why}; make one of the normal videos with the "
            f"options that made the features, and noise: vadx extract VIDEOS --noise wsal:0"
        )
        raise UsageError(msg)


def _hints(order: Order, method: Method, bags: Bags) -> Iterator[str]:
    """Say what is left out, and what costs time, where an option changes it."""
    settings = method.settings
    if isinstance(settings, WsalSettings) and settings.noise_weight and order.noise is None:
        yield "without --noise-set there is no term for noise; vadx extract --noise wsal:0 makes such a set"
    if isinstance(bags, TrainingBags):
        num_bytes = 4 * math.prod(bags.shape) * len(_trained_ids(bags))
        if num_bytes > bags.memory_bytes:
            smaller = "; --crop-pool mean makes them smaller" if bags.shape[1] > 1 else ""
            yield (
                f"the bags take {num_bytes / 1e9:.1f} GB, of which {bags.memory_bytes / 1e9:.1f} GB are kept in memory "
                f"and the rest is read again and again{smaller}"
            )


def _trained_ids(bags: TrainingBags) -> list[str]:
    return [bags.file.ids[number] for label in (NORMAL, ANOMALOUS) for number in bags.half(label)]


def _facts(order: Order, method: Method, bags: Bags, choice: BagChoice, videos: Entries) -> dict[str, Any]:
    """Give what ``model.json`` says of the features and bags beside what the loop knows."""
    origin = order.recipe_of if isinstance(order.source, BagFile) else order.source
    inputs: dict[str, Any] = {}
    if isinstance(method.settings, LadSettings) and videos:
        inputs["spans"] = digest_of((identifier, entry.spans.tolist()) for identifier, entry in videos.items())
    if order.tubes is not None and isinstance(bags, TrainingBags):
        inputs["tubes"] = {"digest": order.tubes.digest, "content": content_of(order.tubes, _trained_ids(bags))}
    if order.noise is not None:
        inputs["noise"] = {"digest": order.noise.digest}
    content = bags.content() if isinstance(bags, ClipBags) else _content(bags)
    return {
        "variant": order.variant,
        "classes": list(_class_names(method) or ()),
        "crop_pool": choice.crop_pool,
        "bags_seed": choice.seed,
        "bags_sha256": content,
        "recipe": None if origin is None else origin.recipe.to_mapping(),
        "weights_sha256": None if origin is None else origin.recipe.weights,
        "weights_name": None if origin is None else origin.weights_name,
        "set_name": None if origin is None else origin.name,
        "preset": None if origin is None else origin.preset,
        "inputs": inputs,
    }


def _content(bags: Bags) -> str | None:
    content = bags.file.provenance.get("content") if isinstance(bags, TrainingBags) else None
    return None if content is None else str(content)


@dataclass(frozen=True, slots=True)
class _Measured:
    """A measure, None where nothing can be measured; ``what`` says what, or why nothing."""

    measure: Measure | None
    what: str
    says: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """A held-out video: scores of its frames ``(frame,)``, and of the whole."""

    frames: NDArray[np.floating]
    video: float


def _measured(
    order: Order,
    settings: TrainSettings,
    bags: Bags,
    known: Entries,
    facts: Mapping[str, Any],
    check: Callable[[], None],
) -> _Measured:
    split = MEASURED_SPLITS[settings.choose_on]
    videos = {i: entry for i, entry in known.items() if entry.split == split and entry.label in (NORMAL, ANOMALOUS)}
    anomalous = [entry for entry in videos.values() if entry.label == ANOMALOUS]
    seen = [entry for entry in anomalous if len(entry.spans)]
    if not anomalous or (not seen and len(anomalous) == len(videos)):
        lacks = "no video" if not videos else "no anomalous video" if not anomalous else "no normal video"
        what = f"nothing is measured while it trains: the manifest has {lacks} of split {split} that is stored"
        other = "" if split == "test" else ", or choose on the test videos: --choose-on test"
        return _Measured(None, what, (f"{what}; there will be no best, only the last (name such videos{other})",))
    says: tuple[str, ...] = ()
    if seen and len(seen) < len(anomalous):
        says = (f"{len(anomalous) - len(seen)} anomalous videos of split {split} have no spans: they are not measured",)
        videos = {i: entry for i, entry in videos.items() if entry.label == NORMAL or len(entry.spans)}
    listen = _listener(order.source, {**facts, **_shape_facts(bags)})
    unit = "frame" if seen else "video"

    def measure(score: Scorer) -> float:
        heard: list[tuple[Any, Any]] = []
        for identifier, entry in videos.items():
            check()
            one = listen(score, identifier)
            if seen:
                heard.append((one.frames, frame_truth(entry.spans, len(one.frames))))
            else:
                heard.append(([one.video], [entry.label == ANOMALOUS]))
        found = AREAS["auc"].measured(pool(heard).ranking(), unit)
        return math.nan if found.value is None else found.value

    return _Measured(measure, f"{unit} AUC of {len(videos)} videos of split {split}", says)


def _shape_facts(bags: Bags) -> dict[str, Any]:
    num_segments, num_crops, dim = bags.shape
    return {"num_segments": num_segments, "num_crops": num_crops, "dim": dim, "rule": bags.rule}


def _listener(source: FeatureSet | BagFile, facts: Mapping[str, Any]) -> Callable[[Scorer, str], _Heard]:
    """Give what scores a held-out video: from a feature set just as ``vadx score`` does."""
    if isinstance(source, BagFile):
        place = {identifier: number for number, identifier in enumerate(source.ids)}

        def of_bag(score: Scorer, identifier: str) -> _Heard:
            number = place[identifier]
            (values,) = score_bags(score, source, [number]).values()
            frames = expand_scores(values, source.frames[number], int(source.num_frames[number]))
            return _Heard(frames, float(frames.max()))

        return of_bag

    def of_set(score: Scorer, identifier: str) -> _Heard:
        model = Model(score.method, score.network.eval(), "last", Mark(0), facts)
        video = score_clips(model, source[identifier], identifier)
        return _Heard(video.frame_scores, float(video.frame_scores.max()) if video.video is None else video.video)

    return of_set


def set_of_digest(sets: Sequence[FeatureSet], digest: str) -> FeatureSet | None:
    """Give the feature set of this recipe, None if there is none."""
    return next((one for one in sets if one.digest == digest), None)
