"""What a run does to every video, what becomes of one, and the networks that this process keeps for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import WeightsError
from ..extract.engines import DEFAULT_ENGINE
from ..features.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from ..extract.engine import Engine
    from .plan import Plan

Status = Literal["done", "current", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """What every video of a run has in common. Picklable; holds no open file and no network.

    ``weights`` is what the network is loaded with; ``batch`` and ``engine`` are settled before the first clip, because
    features are promised bit for bit only for one batch shape and one engine. ``is_batch_fixed`` and
    ``is_engine_fixed`` say whether somebody asked for them, so that no other may be taken.
    """

    set_path: Path
    recipe: Recipe
    backbone: str
    weights: str
    device: str
    batch: int
    engine: str = DEFAULT_ENGINE
    is_batch_fixed: bool = True
    is_engine_fixed: bool = True
    force: bool = False
    retry_failed: bool = False
    strict: bool = False
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one video.

    ``reason`` says why it was, or was not, worked on; ``notes`` what a person should know of a degraded one.
    ``seconds`` is the time it took, ``video_seconds`` its own length, ``attempts`` how often it was tried. ``counts``
    says how many of what a stage of tubes holds of it.
    """

    id: str
    path: str
    status: Status
    reason: str
    code: str | None = None
    message: str | None = None
    num_frames: int = 0
    num_clips: int = 0
    video_seconds: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    retriable: bool = False
    hint: tuple[int, int, str] | None = field(default=None, repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    attempts: int = 1


def make_job(plan: Plan, set_path: Path, options: Mapping[str, Any], device: torch.device | None = None) -> Job:
    """Give the job of a plan: the batch shape is settled here, once for the run.

    ``device`` is of those who do it, None for the one of this process that the options name.
    """
    from ..extract.backbones import find_backbone
    from ..extract.engine import DEFAULT_BATCH, check_engine, pick_device

    device = device or pick_device(options["device"])
    default = DEFAULT_BATCH[device.type, find_backbone(plan.backbone).frame_wise]
    return Job(
        set_path=set_path,
        recipe=plan.recipe,
        backbone=plan.backbone,
        weights=plan.weights,
        device=str(device),
        batch=options["batch"] or default,
        engine=check_engine(options.get("engine"), plan.recipe.precision, device, plan.recipe.network.name),
        is_batch_fixed=options["batch"] is not None,
        is_engine_fixed=options.get("engine") is not None,
        **{name: options[name] for name in ("force", "retry_failed", "strict", "allow_partial")},
    )


def _engine_key(job: Job) -> tuple[str, ...]:
    return (job.recipe.digest, job.backbone, job.weights, job.device, str(job.batch), job.engine)


_engines: dict[tuple[str, ...], Engine] = {}


def engines_for(jobs: Sequence[Job], run: Sequence[Job] = ()) -> list[Engine]:
    """Give this process's engines for jobs; a network is loaded and tried once, when the first video needs it.

    Those of ``run``, all jobs of the run, are kept.

    Raises
    ------
    ResourceError
        if memory does not suffice for a batch.
    WeightsError
        if the weights are missing, or are no longer those of the recipe.
    """
    from ..extract.clip_stream import input_shape
    from ..extract.library import load_backbone, make_engine

    wanted = [_engine_key(job) for job in jobs]
    for key in _engines.keys() - {_engine_key(job) for job in (*jobs, *run)}:
        # A device's memory need not hold the networks of another run.
        del _engines[key]
    for key, job in zip(wanted, jobs, strict=True):
        if key in _engines:
            continue
        loaded = load_backbone(job.backbone, job.weights, device=job.device, switches=job.recipe.network.switches)
        if loaded.weights_sha256 != job.recipe.weights:
            msg = f"the weights {job.weights} changed while the run was going on; start it again"
            raise WeightsError(msg)
        engine = make_engine(
            loaded,
            job.recipe,
            device=job.device,
            batch=job.batch,
            engine=job.engine,
            fall_back=not job.is_engine_fixed,
        )
        engine.probe(input_shape(job.recipe), fixed=job.is_batch_fixed)
        _engines[key] = engine
    return [_engines[key] for key in wanted]


@lru_cache(maxsize=16)
def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in names}


def software_versions(recipe: Recipe | None = None) -> dict[str, str]:
    """Give the versions of what computes features, a recipe's own libraries among them, which a shard records."""
    import av

    names = ["vadx", "torch", "torchvision", "av", "numpy", "h5py", "pillow"]
    names += ["timm"] if recipe is not None and recipe.network.name.startswith("tsn:timm/") else []
    found = _versions(tuple(names)) | {"ffmpeg": str(av.ffmpeg_version_info)}
    flow = None if recipe is None else recipe.flow
    if flow is not None and flow.method in ("tvl1", "farneback"):
        import cv2

        # Four packages carry it, under as many names.
        found["opencv"] = str(cv2.__version__)
    return found
