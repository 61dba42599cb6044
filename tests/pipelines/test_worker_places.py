"""What a worker is given: GPUs, cores, decoders, and jobs that mean the same elsewhere."""

from __future__ import annotations

import ast
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support import Ran, make_video
from vadx.detectors.region_boxes import RegionSettings
from vadx.extract.memory import KEEPING
from vadx.features.recipe import Network, Recipe, Sampling, Transform
from vadx.features.stage_set import StageRecipe
from vadx.pipelines.capacity import default_decoders
from vadx.pipelines.job import Job
from vadx.pipelines.share_work import far
from vadx.pipelines.tube_detection import DetectionFiles, DetectionWork, DetectorChoice
from vadx.pipelines.tube_plan import plan_detection
from vadx.pipelines.tubing import FeatureWork, StageJob
from vadx.pipelines.worker_places import (
    CORES,
    SHELL_LINES,
    WORKER_SETTINGS,
    WorkerPlace,
    gpus_named,
    gpus_of,
    places_of,
    usable_cores,
)

MIG = "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0"
UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize(
    ("text", "num_gpus", "names"),
    [
        (None, 0, []),
        (None, 3, ["0", "1", "2"]),
        ("", 0, []),
        ("-1", 0, []),
        ("2", 1, ["2"]),
        ("2,0", 2, ["2", "0"]),
        (" 1 , 3 ", 2, ["1", "3"]),
        (UUID, 1, [UUID]),
        (f"{UUID},{MIG}", 2, [UUID, MIG]),
        ("MIG-8932f937-d72c-4106-c12f-20bd9faed9f6", 1, ["MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        # What comes after a name that means none is hidden.
        ("0,-1,1", 2, ["0"]),
        ("0,none,1", 1, ["0"]),
        ("0,7", 1, ["0"]),
    ],
)
def test_gpus_are_those_that_cuda_shows(text: str | None, num_gpus: int, names: list[str]) -> None:
    assert gpus_named(text, num_gpus) == names


@pytest.mark.parametrize(("device", "names"), [("cpu", []), ("cuda", ["3", "5"]), ("cuda:1", ["5"])])
def test_a_device_says_which_gpus_workers_share(device: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    cuda = types.SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert gpus_of(device) == names


def test_hidden_gpus_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpus_of("cuda") == []


def test_workers_share_gpus_in_turn_and_divide_the_cores() -> None:
    assert places_of(5, ["0", UUID], 16) == [WorkerPlace(3, gpu) for gpu in ("0", UUID, "0", UUID, "0")]
    assert places_of(4, [], 2) == [WorkerPlace(1)] * 4
    assert places_of(1, [], 2) == [WorkerPlace(2)]


def test_a_place_is_an_environment() -> None:
    assert WorkerPlace(3, UUID).environment == {CORES: "3", "CUDA_VISIBLE_DEVICES": UUID}
    assert WorkerPlace(1).environment == {CORES: "1"}
    assert [str(WorkerPlace(1)), str(WorkerPlace(4)), str(WorkerPlace(4, "2"))] == ["1 core", "4 cores", "GPU 2"]


def test_a_shell_gives_a_worker_the_same_settings() -> None:
    script = "\n".join([*SHELL_LINES, f"{sys.executable} -c 'import os; print(dict(os.environ))'"])
    found = ast.literal_eval(subprocess.check_output(["sh", "-ec", script], text=True))
    assert found.items() >= KEEPING.items()
    assert found["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] == "False"
    settings = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in KEEPING.items()}
    assert {"distributed.worker.profile.enabled": False, **settings} == WORKER_SETTINGS


def test_a_worker_knows_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.pipelines import capacity

    monkeypatch.setattr(capacity, "usable_cores", lambda: 24)
    assert usable_cores() == 24
    monkeypatch.setenv(CORES, "3")
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("device", "cores", "num_workers"), [("cpu", 2, 4), ("cpu", 64, 4), ("cuda", 64, 8), ("cuda", 8, 8)]
)
def test_workers_together_decode_in_no_more_processes_than_there_are_cores(
    device: str, cores: int, num_workers: int
) -> None:
    each = [default_decoders(device, place.num_cores) for place in places_of(num_workers, [], cores)]
    assert sum(each) <= max(cores, num_workers)


@pytest.mark.parametrize(
    ("where", "decoders", "num_decoders"),
    [
        ({"workers": 4}, None, None),
        ({"scheduler": "tcp://127.0.0.1:1"}, None, None),
        ({"workers": 4}, 2, 2),
        ({}, 0, 0),
    ],
)
def test_workers_choose_their_decoders_unless_somebody_says(
    where: dict[str, Any], decoders: int | None, num_decoders: int | None
) -> None:
    from vadx.pipelines.cli.extract import decoders_of_run

    options = {"workers": None, "scheduler": None, "cluster": None, "decoders": decoders, "device": "cpu", **where}
    assert decoders_of_run(options, []) == num_decoders


RECIPE = Recipe(
    sampling=Sampling(clip_length=4, clip_stride=4, tail="repeat_last"),
    transform=Transform(kernel="pil", resize=32, crop=24, center_rounding="floor", scale=1 / 255),
    network=Network(name="tiny", layer="mean"),
    weights="random:0",
)


@pytest.mark.parametrize(
    ("weights", "meant"), [("own.pt", "{here}/own.pt"), ("random:0", "random:0"), ("none.pt", "none.pt")]
)
def test_a_job_means_the_same_elsewhere(
    weights: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.pt", "random:0"):
        (tmp_path / name).touch()
    job = Job(Path("store/set"), RECIPE, "tiny", weights, "cuda:1", 3)
    wanted = replace(job, set_path=tmp_path / "store/set", weights=meant.format(here=tmp_path), device="cuda")
    assert far(job) == wanted
    assert far(wanted) is wanted
    assert far(tmp_path) is tmp_path


def test_a_job_of_tubes_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pt").touch()
    recipe = StageRecipe("detections", {})
    by_file = DetectionWork(files=DetectionFiles(Path("boxes"), images=Path("coco.json")))
    by_detector = DetectionWork(detector=DetectorChoice("tiny-boxes", weights="own.pt", device="cuda:1"))
    regions = FeatureWork(RegionSettings(), Job(Path(), RECIPE, "tiny", "own.pt", "cuda:1", 3))
    works = [far(StageJob(Path("set"), recipe, work)) for work in (by_file, by_detector, regions)]
    assert {one.set_path for one in works} == {tmp_path / "set"}
    assert works[0].work == DetectionWork(files=DetectionFiles(tmp_path / "boxes", images=tmp_path / "coco.json"))
    chosen = DetectorChoice("tiny-boxes", weights=str(tmp_path / "own.pt"), device="cuda")
    assert works[1].work == DetectionWork(detector=chosen)
    assert isinstance(works[2].work, FeatureWork)
    assert (works[2].work.job.weights, works[2].work.job.device) == (str(tmp_path / "own.pt"), "cuda")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_detector_is_planned_for_a_gpu_that_only_workers_have(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = DetectorChoice("tiny-boxes")
    there = replace(here, device="cuda", precision=precision)
    ours, theirs = (plan_detection(DetectionWork(detector=one)) for one in (here, there))
    assert (ours.device, ours.batch) == ("cpu", 1)
    assert (theirs.device, theirs.batch) == ("cuda", 8)
    assert theirs.recipe.settings == {**ours.recipe.settings, "precision": precision}
    assert theirs.work == DetectionWork(detector=there)


def test_tubes_are_planned_for_a_gpu_that_only_workers_have(
    tmp_path: Path, vadx_here: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_video(tmp_path / "a.mp4", num_frames=8)
    words = ("tubes", "a.mp4", "--detector", "tiny-boxes", "--backbone", "tiny", "--device", "cuda", "--dry-run")
    weights = ("--backbone-weights", "random:1")
    alone = vadx_here(*words, *weights)
    assert alone.code == 2
    assert "torch sees 0 GPUs" in alone.err
    far_away = vadx_here(*words, *weights, "--scheduler", "tcp://127.0.0.1:8786")
    assert far_away.code == 0, far_away.err


@pytest.mark.parametrize(
    ("scheduler", "named", "device", "says"),
    [
        ("tcp://127.0.0.1:8786", "auto", "cpu", True),
        ("tcp://127.0.0.1:8786", "auto", "cuda", False),
        ("tcp://127.0.0.1:8786", "cpu", "cpu", False),
        (None, "auto", "cpu", False),
    ],
)
def test_a_command_without_a_gpu_says_what_its_workers_will_use(
    scheduler: str | None, named: str, device: str, says: bool
) -> None:
    from vadx.pipelines.cli.worker_options import device_hint

    assert (device_hint({"scheduler": scheduler, "device": named}, device) is not None) == says
