"""Real detectors on a real street: people become tubes that follow them, parked vehicles long tubes that stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support import Ran
from vadx.detectors import Tube
from vadx.features.stage_set import StageSet
from vadx.features.store import Store
from vadx.pipelines.tube_shards import tubes_of

Vadx = Callable[..., Ran]


def linked(vadx: Vadx, folder: Path, *arguments: str | Path, **environment: str) -> list[Tube]:
    """Run ``vadx tubes`` up to the tubes of vtest.avi, and give them."""
    ran = vadx("tubes", *arguments, "--stage", "link", "--out", "store", **environment)
    assert ran.code == 0, ran.err
    (stage,) = [one for one in Store(folder / "store").all_sets() if isinstance(one, StageSet) and one.kind == "tubes"]
    return tubes_of(stage.open("vtest"))


def test_people_are_followed(tmp_path: Path, opencv_clips: Path, vadx: Vadx, pedestrian_detector: str) -> None:
    tubes = linked(
        vadx,
        tmp_path,
        "--detector",
        pedestrian_detector,
        "--stride",
        "5",
        "--max-gap",
        "2",
        "--det-score",
        "0.3",
        opencv_clips / "vtest.avi",
        VADX_TEST_PEDESTRIAN=os.environ["VADX_TEST_PEDESTRIAN"],
    )
    people = [tube for tube in tubes if tube.kind == "unary"]
    assert len(people) >= 5
    for tube in people:
        width, height = (tube.boxes[:, 2:] - tube.boxes[:, :2]).T
        # Upright, and of one person's size in this picture of 768x576.
        assert np.median(height / width) > 1.5
        assert 30 < np.median(height) < 200
        assert np.median(np.abs(np.diff(tube.boxes, axis=0))) < 8
    centres = [(tube.boxes[:, :2] + tube.boxes[:, 2:]).mean(axis=1) for tube in people]
    assert max(np.ptp(centre) for centre in centres) > 80


def test_parked_vehicles_stay(tmp_path: Path, opencv_clips: Path, vadx: Vadx, real_nanodet: Path) -> None:
    tubes = linked(
        vadx,
        tmp_path,
        "--detector",
        "nanodet",
        "--stride",
        "25",
        "--det-score",
        "0.3",
        "--classes",
        "person,vehicle",
        "--group",
        "vehicle=car,truck,bus",
        opencv_clips / "vtest.avi",
        VADX_HOME=str(real_nanodet),
    )
    parked = [tube for tube in tubes if tube.kind == "unary" and tube.label == 3 and len(tube) > 700]
    assert len(parked) == 2
    for tube in parked:
        assert np.ptp(tube.boxes, axis=0).max() < 60
