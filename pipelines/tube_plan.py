"""What ``vadx tubes`` is asked for becomes the recipes and jobs of its stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..detectors.settings import LinkSettings
from ..errors import UsageError, WeightsError
from ..features.stage_set import BEFORE, StageRecipe
from .tube_detection import DetectionFiles, DetectionWork, DetectorChoice
from .tubing import FeatureWork, LinkWork, StageJob

if TYPE_CHECKING:
    import torch

    from ..detectors.regions import RegionSettings
    from ..features.store import Store
    from .plan import Plan

STAGES: Mapping[str, str] = dict(zip(("detect", "link", "features"), BEFORE, strict=True))
"""``--stage`` -> kind of the last set that is made."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage before its set exists: its recipe, and how its folder is called."""

    recipe: StageRecipe
    slug: str
    work: DetectionWork | LinkWork | FeatureWork
    device: str
    batch: int
    weights_name: str | None = None

    @property
    def has_network(self) -> bool:
        """Whether its device is a choice: files are read, and boxes linked, on CPUs."""
        return isinstance(self.work, FeatureWork) or (isinstance(self.work, DetectionWork) and not self.work.files)


def plan_detection(work: DetectionWork) -> StagePlan:
    """Give the plan of the first stage. Loads the detector: what its boxes depend on is known then.

    Raises
    ------
    UsageError
        for a detector, device or setting that cannot be meant.
    WeightsError
        if its weights are missing, naming the line to type and detectors whose weights are here.
    """
    if work.detector is None:
        files = work.files
        named = (files.format or "by the file's ending") if files else ""
        first = files.first_frame if files else None
        # Its name parts the boxes of two programs: what they are called is all that is known of them.
        name = files.path.stem if files else ""
        settings: dict[str, Any] = {"detector": f"file:{name}", "format": named, "first_frame": first}
        return StagePlan(_stage("detections", settings, work.stride), _slug("detections-file", work), work, "cpu", 1)
    choice = work.detector
    try:
        record, batch, weights_name = _described(choice)
    except WeightsError as error:
        raise WeightsError(_with_ways_out(error, choice.name)) from error
    recipe = _stage("detections", record, work.stride)
    return StagePlan(recipe, _slug(f"detections-{choice.name}", work), work, choice.device, batch, weights_name)


def _described(choice: DetectorChoice) -> tuple[dict[str, Any], int, str | None]:
    """Give what a detector records, its batch and its weights' name, wherever it will run."""
    import torch

    from ..detectors.runtime import DEFAULT_BATCH

    device = torch.device(choice.device)
    if device.type != "cuda" or torch.cuda.is_available():
        detector = choice.load()
        return detector.record(), detector.batch, detector.weights_name
    # The GPU is a worker's: what is recorded but for the precision, which CPUs may not have, is the same on any device.
    detector = replace(choice, device="cpu", precision="fp32", batch=1).load()
    record = {**detector.record(), "precision": choice.precision}
    return record, choice.batch or DEFAULT_BATCH[device.type], detector.weights_name


def _stage(kind: str, settings: Mapping[str, Any], stride: int) -> StageRecipe:
    return StageRecipe(kind, {**settings, "stride": stride})


def _slug(start: str, work: DetectionWork) -> str:
    plain = re.sub(r"[^a-z0-9_.-]+", "-", start.lower())
    return plain if work.stride == 1 else f"{plain}-every{work.stride}"


def _with_ways_out(error: WeightsError, name: str) -> str:
    from ..detectors.detector import detectors
    from ..extract.weights import record_of

    here = [
        spec.name
        for spec in detectors().values()
        if spec.name != name and (spec.brings_sha256 or (spec.weights and record_of(spec.weights) is not None))
    ]
    another = f"--detector {here[0]}, whose weights are here, or " if here else ""
    return f"{error}\nor give {another}--detections FILE with boxes that another program found"


def plan_linking(settings: LinkSettings, before: StagePlan, *, window: int | None = None) -> StagePlan:
    """Give the plan of the second stage."""
    work = before.work
    if not isinstance(work, DetectionWork):
        msg = "tubes are linked from detections"
        raise TypeError(msg)
    record = settings.record(work.stride) | ({} if window is None else {"link_semantics": f"windowed:{window}"})
    recipe = StageRecipe("tubes", record, before.recipe.digest)
    slug = before.slug.replace("detections-", "tubes-", 1)
    return StagePlan(recipe, slug, LinkWork(settings, window), "cpu", 1)


def plan_features(
    regions: RegionSettings, plan: Plan, before: StagePlan, *, device: torch.device, batch: int | None
) -> StagePlan:
    """Give the plan of the third stage: the network of ``plan`` on regions and whole frames.

    Raises
    ------
    UsageError
        for a recipe that tubes cannot have.
    """
    from .job import make_job
    from .whole_frames import check_for_tubes

    check_for_tubes(plan.recipe)
    options = {"batch": batch, "engine": None}
    flags = dict.fromkeys(("force", "retry_failed", "strict", "allow_partial"), False)
    job = make_job(plan, Path(), {**options, **flags}, device)
    record: dict[str, Any] = {"regions": regions.record(), "network": plan.recipe.to_mapping()}
    # It changes no value, but a shard without clips is not what somebody asked for who wants them.
    record |= {"keep_clips": True} if regions.keep_clips else {}
    recipe = StageRecipe("tube-features", record, before.recipe.digest)
    slug = f"tube-features-{re.sub(r'[^a-z0-9_.]+', '-', plan.backbone.lower())}"
    return StagePlan(recipe, slug, FeatureWork(regions, job), job.device, job.batch, plan.weights_name)


def make_jobs(plans: Sequence[StagePlan], store: Store, flags: Mapping[str, bool]) -> list[StageJob]:
    """Make the sets of the stages, where they are not there yet, and give a job for each."""
    return [
        StageJob(
            set_path=store.create_stage(plan.recipe, slug=plan.slug, weights_name=plan.weights_name).path,
            recipe=plan.recipe,
            work=plan.work,
            device=plan.device,
            batch=plan.batch,
            **flags,
        )
        for plan in plans
    ]


def parse_groups(texts: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read ``--group vehicle=car,truck,bus``. Raises `UsageError` for anything else."""
    groups: list[tuple[str, tuple[str, ...]]] = []
    for text in texts:
        name, equals, members = text.partition("=")
        if not (name and equals and members):
            msg = f"--group is NAME=CLASS,CLASS, as in vehicle=car,truck,bus; got {text!r}"
            raise UsageError(msg)
        if name in dict(groups):
            msg = f"--group {name} is given twice: name all of its classes at once, as in vehicle=car,truck,bus"
            raise UsageError(msg)
        groups.append((name, tuple(part.strip() for part in members.split(","))))
    return tuple(groups)


def _check_files(path: Path, images: Path | None) -> None:
    for one, option in ((path, "--detections"), (images, "--images")):
        if one is not None and not one.exists():
            msg = f"{option} {one}: there is no such file or folder: check the path"
            raise UsageError(msg)


def detection_work(options: Mapping[str, Any], device: str) -> DetectionWork:
    """Give the first stage's work from the command line's options."""
    files = options["detections"]
    if files is not None:
        _check_files(Path(files), options["images"])
        named = DetectionFiles(Path(files), options["format"], options["first_frame"], options["images"])
        return DetectionWork(files=named, stride=options["stride"])
    classes = options["classes"]
    choice = DetectorChoice(
        name=options["detector"],
        weights=options["weights"],
        device=device,
        precision=options["precision"] or "fp32",
        batch=options["batch"],
        score_threshold=options["det_score"],
        classes=None if classes in (None, "all") else tuple(part.strip() for part in classes.split(",")),
        groups=parse_groups(options["group"]),
        min_size=options["min_size"],
        proposals=options["proposals"],
    )
    return DetectionWork(detector=choice, stride=options["stride"])
