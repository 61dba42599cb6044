"""From drawn scenes to numbers: features, tubes, models and their evaluation, each step kept, so that the same call
goes on where the last one stopped.

===============  =======================================================================================================
``scenes/``      videos, manifest, boxes and detections: `scene_files`
``store/``       the feature set and, where a method needs them, detections, tubes and features of tubes
``models/``      a model folder for each method
===============  =======================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, VadxError
from ..features.box_annotations import read_box_truth
from ..features.manifest import read_manifest
from ..features.stage_set import StageSet
from ..features.store import Store
from .methods import METHODS, find_method
from .scene_actors import ANOMALIES
from .scene_files import BOXES, DETECTIONS, MANIFEST, VIDEOS, SceneSet, write_scenes

if TYPE_CHECKING:
    from ..detectors.settings import LinkSettings
    from ..features.manifest import Manifest
    from ..features.store import FeatureSet
    from .evaluation import Evaluation
    from .frame_comparison import TestVideo
    from .plan import Plan
    from .progress import Display
    from .run import JobRun

SCENES, STORE, MODELS = "scenes", "store", "models"

BASELINE = "svm"
"""What the other methods are compared with: it learns from whole videos and knows nothing of time."""

WITH_TUBES = "mgpr"
"""The method that learns from tubes."""

_KINDS = ",".join([*(kind.class_name for kind in ANOMALIES.values()), "Normal"])

CHANGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lad": {"classes": _KINDS, "normal_class": "own"},
        "nearest": {"classes": _KINDS},
        "recognition": {"classes": _KINDS},
    }
)
"""Method -> settings that it cannot do without here: the kinds of anomaly that there are."""

ZETA_UNARY, ZETA_MULTIVARIATE, MAX_GAP = 42, 21, 2
"""How tubes are linked. J. Wu et al. 2021 want tubes of 100 and 50 frames, at 30 frames/s: as long in seconds here. At
5 % misses hardly a tube would be 42 frames long if none could be bridged; three in a row are rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """What is drawn, seen and trained.

    ``backbone`` and ``weights`` as of ``vadx extract``, ``weights=None`` for the preset's. 16 frames are a clip;
    ``clip_stride`` 4: scenes of 8 to 12 s give about 28 clips, so that bags of 32 segments repeat few of them, where a
    stride of 16 gives 8. ``iterations``: a method trains for no more than these, and for the paper's number if that is
    less. A batch of 60 is the whole training set of the benchmark, so that 300 iterations are 300 passes over it.

    Raises
    ------
    UsageError
        for a method that there is not, or a number that is not positive.
    """

    scenes: SceneSet = field(default_factory=SceneSet)
    methods: tuple[str, ...] = (BASELINE, "deepmil")
    backbone: str = "i3d"
    weights: str | None = None
    clip_stride: int = 4
    precision: str = "fp32"
    iterations: int = 300
    seed: int = 0
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        for name in self.methods:
            find_method(name)
        if min(self.clip_stride, self.iterations) < 1 or min(self.seed, self.bootstrap) < 0 or not self.methods:
            msg = (
                f"methods {self.methods}, clip_stride {self.clip_stride}, iterations {self.iterations}, seed "
                f"{self.seed} and bootstrap {self.bootstrap}: give a method, a stride and iterations from 1 on, and "
                "others from 0 on"
            )
            raise UsageError(msg)

    def iterations_of(self, method: str) -> int:
        """Give for how many iterations a method trains."""
        return min(self.iterations, find_method(method).make().settings.iterations)

    def link_settings(self) -> LinkSettings:
        """Give how tubes are linked. Tubes that are a stretch of another are left out."""
        from ..detectors.settings import LinkSettings

        return LinkSettings(
            min_length_unary=ZETA_UNARY, min_length_multivariate=ZETA_MULTIVARIATE, max_gap=MAX_GAP, dedupe=True
        )

    def plan(self) -> Plan:
        """Give the recipe of the features. Raises `WeightsError` if its weights are not here."""
        from .plan import Overrides, choose_presets, make_plan

        overrides = Overrides(clip_stride=self.clip_stride, precision=self.precision)
        return make_plan(choose_presets([self.backbone], [])[0], overrides, self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class JudgedMethod:
    """A method that was trained: its model's folder, for how many iterations, the last losses, and how it did on the
    test videos.
    """

    name: str
    folder: Path
    iterations: int
    losses: Mapping[str, float]
    videos: tuple[TestVideo, ...]
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Chain:
    """The steps of a chain in a folder. ``device`` is cpu, cuda, cuda:N or auto. ``tell`` gets a sentence now and then,
    ``display`` what is extracted.
    """

    home: Path
    settings: ChainSettings
    device: str = "cpu"
    tell: Callable[[str], None] = lambda text: None
    display: Callable[[], Display] | None = None

    @property
    def store(self) -> Store:
        return Store(self.home / STORE)

    @property
    def manifest(self) -> Manifest:
        """What the scenes are, after `draw`."""
        return read_manifest(self.home / SCENES / MANIFEST)

    def draw(self) -> None:
        """Draw the scenes. Raises as `write_scenes`."""
        numbers = self.settings.scenes.num_train, self.settings.scenes.num_test
        self.tell(f"scenes: {numbers[0]} to train on and {numbers[1]} to test, in {self.home / SCENES}")
        write_scenes(self.home / SCENES, self.settings.scenes)

    def extract(self) -> FeatureSet:
        """Extract the features of all scenes. Raises `VadxError` if one fails."""
        from .extraction import process_videos
        from .job import make_job

        plan = self.settings.plan()
        made = self.store.create(plan.recipe, slug=plan.slug, preset=plan.preset_name, weights_name=plan.weights_name)
        self.tell(f"features: {made.name}")
        options = {"device": self.device, "batch": None, "engine": None}
        self._run([make_job(plan, made.path, {**options, **_FLAGS})], process_videos)
        return self.store[made.name]

    def link(self) -> StageSet:
        """Link the drawn detections into tubes and extract their features. Raises `VadxError` if a video fails."""
        from ..detectors.region_boxes import RegionSettings
        from ..extract.engine import pick_device
        from .tube_detection import DetectionFiles, DetectionWork
        from .tube_plan import make_jobs, plan_detection, plan_features, plan_linking
        from .tubing import process_tubes

        files = DetectionFiles(self.home / SCENES / DETECTIONS)
        found = plan_detection(DetectionWork(files=files, stride=1))
        linked = plan_linking(self.settings.link_settings(), found, window=None)
        # Whole frames on one grid: clips of their own for each tube would be most of the work.
        regions = RegionSettings(global_align="grid")
        device = pick_device(self.device)
        features = plan_features(regions, self.settings.plan(), linked, device=device, batch=None)
        jobs = make_jobs([found, linked, features], self.store, _FLAGS)
        self.tell(f"tubes: {jobs[-1].set_path.name}")
        self._run(jobs, process_tubes)
        stages = (one for one in self.store.all_sets() if isinstance(one, StageSet))
        return next(one for one in stages if one.path == jobs[-1].set_path)

    def train(self, name: str, features: FeatureSet, tubes: StageSet | None = None) -> JudgedMethod:
        """Train a method on the training scenes and evaluate its last checkpoint on the test scenes.

        Without ``tubes`` the method of tubes takes segments for them. Raises as `train.train` and `evaluate_model`.
        """
        from ..extract.engine import pick_device
        from .frame_comparison import TestVideo
        from .model_evaluation import EvaluationChoice, choose_videos, evaluate_model
        from .model_folder import METRICS
        from .train import TrainSettings, train
        from .training import Order, plan_training
        from .tube_evaluation import TubeSets

        chosen, manifest = self.settings, self.manifest
        iterations = chosen.iterations_of(name)
        takes_tubes = name == WITH_TUBES
        order = Order(
            method=name,
            source=features,
            manifest=manifest,
            changes={**CHANGES.get(name, {}), "iterations": iterations},
            tubes=tubes if takes_tubes else None,
            without_tubes=takes_tubes and tubes is None,
        )
        device = str(pick_device(self.device))
        settings = TrainSettings(seed=chosen.seed, checkpoint_every=min(50, iterations), device=device)
        training = plan_training(order, settings)
        folder = self.home / MODELS / name
        self.tell(f"{name}: {iterations} iterations")
        train(name, training.method, training.bags, folder, settings=settings, facts=training.facts)
        lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        last = [line for line in lines if line["event"] == "iteration"][-1]
        with_tubes = TubeSets.of(tubes) if takes_tubes and tubes is not None else None
        boxes = read_box_truth(self.home / SCENES / BOXES)
        choice = EvaluationChoice(bootstrap=chosen.bootstrap, seed=chosen.seed, tubes=with_tubes, boxes=boxes)
        videos = choose_videos(manifest, features.summaries().ids)
        judged = evaluate_model(folder, "last", features, videos, choice)
        scored = tuple(TestVideo(one, videos.entries[one.id]) for one in judged.scored)
        losses = {part: value for part, value in last.items() if isinstance(value, float) and part != "pace"}
        return JudgedMethod(name, folder, iterations, losses, scored, judged.evaluation)

    def _run(self, jobs: Sequence[Any], process: Any) -> None:
        from .extraction import Effort
        from .inputs import find_videos
        from .progress import make_display
        from .run import run_videos, start_runs

        root = self.home / SCENES / VIDEOS
        found = find_videos([str(root)], root=root)
        runs = start_runs(jobs, len(found.entries))
        display = make_display(json_lines=False, quiet=True, verbose=False) if self.display is None else self.display()
        run_videos(
            found.entries, found.colliding, runs, display=display, num_decoders=0, effort=Effort(), process=process
        )
        _refuse_failures(runs)


_FLAGS = dict.fromkeys(("force", "retry_failed", "strict", "allow_partial"), False)


def _refuse_failures(runs: Sequence[JobRun]) -> None:
    failed = [outcome for run in runs for outcome in run.tally.outcomes if outcome.status == "failed"]
    if failed:
        msg = (
            f"{len(failed)} scenes failed, the first {failed[0].id} ({failed[0].message}): the same command tries again"
        )
        raise VadxError(msg)


def needs_tubes(methods: Sequence[str]) -> bool:
    """Tell whether a method among these learns from tubes."""
    return WITH_TUBES in methods


def temporal_methods() -> tuple[str, ...]:
    """Give the methods that score the frames of a video, the baseline first and the one of tubes last."""
    others = [name for name in METHODS if name not in (BASELINE, WITH_TUBES, *RECOGNITION)]
    return (BASELINE, *others, WITH_TUBES)


RECOGNITION = ("nearest", "recognition")
"""Methods that name the kind of anomaly of whole videos: no rival in finding frames."""
