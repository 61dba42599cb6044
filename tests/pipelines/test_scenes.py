"""Drawn scenes: the same from the same seed, and what they say of themselves is in their pixels."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vadx.errors import UsageError
from vadx.features.box_annotations import read_box_truth
from vadx.features.manifest import read_manifest
from vadx.pipelines.scene_actors import ANOMALIES, CAR, PERSON
from vadx.pipelines.scene_files import DETECTIONS, SceneSet, encoded, write_scenes
from vadx.pipelines.scenes import DetectorErrors, Scene, SceneSettings, make_scene
from vadx.pipelines.tube_detection import DetectionFiles

SMALL = SceneSettings(width=96, height=72, min_seconds=4, max_seconds=5)
EVERY_KIND = SceneSet(num_train=10, num_test=2, scenes=SMALL)


@pytest.fixture(scope="module", params=list(ANOMALIES))
def anomalous(request: pytest.FixtureRequest) -> Scene:
    return make_scene(SMALL, 3, request.param)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, EVERY_KIND)
    return folder


def decoded(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.int64)


def changed(scene: Scene, number: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which pixels an anomaly changes in a frame."""
    found: np.ndarray[Any, np.dtype[np.bool_]] = (scene.frame(number) != scene.frame(number, without_anomaly=True)).any(
        axis=2
    )
    return found


def test_an_anomaly_changes_pixels_in_its_boxes_and_nowhere_else(anomalous: Scene) -> None:
    truth = anomalous.truth()
    visible = 0
    for number, (x1, y1, x2, y2) in zip(truth.frames.tolist(), truth.boxes.astype(int).tolist(), strict=True):
        pixels = changed(anomalous, number)
        visible += bool(pixels[y1:y2, x1:x2].any())
        pixels[y1:y2, x1:x2] = False
        assert not pixels.any(), number
    # Somebody may walk in front of a bag.
    assert visible >= 0.8 * len(truth)


def test_spans_are_the_frames_with_boxes(anomalous: Scene) -> None:
    inside = np.zeros(anomalous.num_frames, bool)
    for start, stop in anomalous.spans():
        inside[start:stop] = True
    np.testing.assert_array_equal(np.flatnonzero(inside), anomalous.truth().frames)
    assert 12 <= inside.sum() < anomalous.num_frames


def test_boxes_lie_in_the_picture(anomalous: Scene) -> None:
    boxes = anomalous.truth().boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (SMALL.width, SMALL.height)).all()


@pytest.mark.parametrize("kind", ["smoke", "running", "collision"])
def test_nothing_is_wrong_before_an_anomaly_begins(kind: str) -> None:
    """What appears only then changes nothing before; who does wrong later behaves until then."""
    scene = make_scene(SMALL, 5, kind)
    first = int(scene.spans()[0, 0])
    if kind == "smoke":
        assert not any(changed(scene, number).any() for number in range(first))
    assert scene.anomaly is not None
    speeds = [np.abs(np.diff(actor.x)) for actor in scene.anomaly.actors]
    if kind == "running":
        assert speeds[0][first + 1 :].max() > 2.9 * speeds[0][: first - 1].max()
    if kind == "collision":
        assert all(speed[-5:].max() < 1e-3 for speed in speeds)
        assert any(speed[: first - 1].max() > 0.01 for speed in speeds)


def test_cars_keep_to_the_right_unless_that_is_the_anomaly() -> None:
    for seed in range(6):
        scene = make_scene(SMALL, seed, "wrong-direction")
        cars = [actor for actor in scene.actors if actor.kind == CAR]
        goes_right = {actor: actor.x[-1] > actor.x[0] for actor in cars}
        is_near = {actor: actor.y[0] > 0.7 for actor in cars}
        assert {actor for actor in cars if goes_right[actor] != is_near[actor]} == set(scene.wrong_actors)


def test_a_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (encoded(make_scene(SMALL, seed, "smoke")) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_scenes_look_alike_at_every_size() -> None:
    small = make_scene(SMALL, 4, "running")
    large = make_scene(SceneSettings(width=192, height=144, min_seconds=4, max_seconds=5), 4, "running")
    assert small.num_frames == large.num_frames
    number = int(small.spans()[0, 0]) + 5
    truths = {int(frame): box for frame, box in zip(large.truth().frames, large.truth().boxes, strict=True)}
    box = small.truth().boxes[small.truth().frames == number][0]
    # Boxes are whole pixels.
    np.testing.assert_allclose(2 * box, truths[number], atol=4)


def test_normal_scenes_have_no_truth() -> None:
    scene = make_scene(SMALL, 6)
    assert len(scene.truth()) == len(scene.spans()) == 0
    assert scene.class_name == ""
    assert {PERSON} <= {actor.kind for actor in scene.actors}


def test_the_set_reads_back_as_what_was_drawn(home: Path) -> None:
    manifest = read_manifest(home / "manifest.csv")
    assert [entry.split for entry in manifest].count("train") == EVERY_KIND.num_train
    for split in ("train", "test"):
        labels = [entry.label for entry in manifest if entry.split == split]
        assert sum(labels) * 2 == len(labels)
    names = {kind.class_name for kind in ANOMALIES.values()}
    assert {entry.class_name for entry in manifest if entry.split == "train"} == {"", *names}
    truths = read_box_truth(home / "boxes.csv")
    assert set(truths) == {entry.id for entry in manifest if entry.label}
    for entry in manifest:
        assert len(decoded(home / "videos" / entry.path)) == entry.num_frames
        frames = [frame for start, stop in entry.spans for frame in range(start, stop)]
        assert frames == (truths[entry.id].frames.tolist() if entry.label else [])


def test_frames_survive_the_encoder(home: Path) -> None:
    planned = next(iter(EVERY_KIND.videos()))
    scene = make_scene(SMALL, planned.seed, planned.kind)
    found = decoded(home / "videos" / f"{planned.id}.mp4")
    drawn = np.stack(list(scene.frames())).astype(int)
    # Colour at half the resolution and quality 23: a shifted or swapped picture would be tens of levels away.
    assert np.abs(found - drawn).mean() < 6


def test_detections_have_the_errors_that_were_asked_for(home: Path) -> None:
    scene = make_scene(SceneSettings(), 7)
    perfect = scene.detections(DetectorErrors(jitter=0, misses=0, false_boxes=0), seed=0)
    found = scene.detections(DetectorErrors(misses=0.05, false_boxes=0.02), seed=0)
    made_up = found.scores < 0.7
    num = len(perfect)
    assert np.array_equal(perfect.boxes, np.round(perfect.boxes))
    # Four standard deviations of binomial numbers.
    assert abs((~made_up).sum() - 0.95 * num) < 4 * np.sqrt(num * 0.05 * 0.95)
    assert 0 < made_up.sum() < 0.02 * num + 4 * np.sqrt(num * 0.02) + 1
    read = DetectionFiles(home / DETECTIONS).read("train/001-collision", 1)
    assert len(read) > 0
    again = scene.detections(DetectorErrors(), seed=0)
    np.testing.assert_array_equal(again.boxes, found.boxes)


def test_a_set_that_was_cut_short_goes_on(home: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def stop(identifier: str) -> None:
        told.append(identifier)
        if len(told) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, EVERY_KIND, tell=stop)
    assert not (tmp_path / "manifest.csv").exists()
    told.clear()
    write_scenes(tmp_path, EVERY_KIND, tell=told.append)
    assert len(told) == EVERY_KIND.num_train + EVERY_KIND.num_test - 3
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if (home / path).read_bytes() != (tmp_path / path).read_bytes()] == []
    told.clear()
    write_scenes(tmp_path, EVERY_KIND, tell=told.append)
    assert told == []


def test_scenes_of_other_settings_are_not_mixed(home: Path) -> None:
    with pytest.raises(UsageError, match="other settings stand there; give another folder"):
        write_scenes(home, SceneSet(num_train=10, num_test=2, seed=1, scenes=SMALL))
    assert json.loads((home / "scenes.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 97},
        {"height": 16},
        {"rate": Fraction(0)},
        {"noise": -1.0},
        {"min_seconds": 2.0},
        {"min_seconds": 9.0, "max_seconds": 8.0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        SceneSettings(**changes)


def test_odd_numbers_and_unknown_anomalies_are_refused() -> None:
    with pytest.raises(UsageError, match="even numbers"):
        SceneSet(num_train=5)
    with pytest.raises(UsageError, match="give one of collision"):
        make_scene(SMALL, 0, "theft")
