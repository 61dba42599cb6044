"""NanoDet: decoding by hand, the network beside the package's own graph, and real frames."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.detectors import load_detector
from vadx.detectors.coco_names import COCO_LABELS
from vadx.detectors.detector import FrameBoxes, NetworkSettings
from vadx.detectors.nanodet import NanoDet, NanoDetNetwork
from vadx.errors import WeightsError
from vadx.extract import weights as cache
from vadx.extract.video import VideoReader
from vadx.extract.weights_detectors import read_nanodet

pytestmark = pytest.mark.usefixtures("one_thread")


class Planned(nn.Module):
    """Gives, whatever it sees, cells ``(level, row, column)`` that are sure of a class and of four distances."""

    def __init__(self, cells: dict[tuple[int, int, int], tuple[int, float, tuple[int, int, int, int]]]) -> None:
        super().__init__()
        self.cells = cells
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images)
        outputs = [torch.full((len(images), 124, 416 // s, 416 // s), -20.0) for s in (8, 16, 32)]
        for (level, row, column), (category, logit, distances) in self.cells.items():
            outputs[level][:, category, row, column] = logit
            for side, distance in enumerate(distances):
                outputs[level][:, 80 + 11 * side + distance, row, column] = 100.0
        return outputs


def planned(
    cells: dict[tuple[int, int, int], tuple[int, float, tuple[int, int, int, int]]], threshold: float = 0.05
) -> tuple[NanoDetNetwork, Planned]:
    network = NanoDetNetwork(NanoDet(), NetworkSettings("cpu", "fp32", threshold))
    plan = Planned(cells)
    network.network = plan
    return network, plan


def run(network: NanoDetNetwork, height: int = 416, width: int = 416) -> tuple[list[Any], list[Any], list[Any]]:
    with torch.inference_mode():
        ((boxes, scores, labels),) = network(torch.zeros((1, 3, height, width), dtype=torch.uint8))
    return boxes.tolist(), scores.tolist(), labels.tolist()


def test_cells_are_decoded_as_written() -> None:
    # Stride 8: center (4 + .5) * 8 = 36, (3 + .5) * 8 = 28; 1, 2, 3 and 0 strides to the left, top, right and bottom.
    network, _ = planned({(0, 3, 4): (0, 2.0, (1, 2, 3, 0)), (2, 5, 6): (79, 1.0, (10, 1, 1, 1))})
    boxes, scores, labels = run(network)
    # Stride 32: center 208, 176; ten strides to the left end outside.
    np.testing.assert_allclose(boxes, [[28, 12, 60, 28], [0, 144, 240, 208]])
    np.testing.assert_allclose(scores, [0.880797, 0.7310586], rtol=1e-6)
    assert labels == [COCO_LABELS["person"], COCO_LABELS["toothbrush"]]


def test_a_frame_is_fitted_into_the_middle_of_a_black_square() -> None:
    network, plan = planned({(1, 13, 13): (2, 2.0, (1, 1, 1, 1))})
    frame = torch.full((1, 3, 104, 208), 255, dtype=torch.uint8)
    frame[:, 0] = 0
    with torch.inference_mode():
        ((boxes, _, _),) = network(frame)
    (seen,) = plan.seen
    # Half as high as wide, enlarged twice: rows [104, 312) of the square hold it. Blue comes first.
    black = [(0 - mean) / std for mean, std in ((103.53, 57.375), (116.28, 57.12), (123.675, 58.395))]
    white = [(255 - mean) / std for mean, std in ((103.53, 57.375), (116.28, 57.12))]
    np.testing.assert_allclose(seen[0, :, 103, 200], black, rtol=1e-5)
    np.testing.assert_allclose(seen[0, :, 104, 200], [*white, black[2]], rtol=1e-5)
    np.testing.assert_allclose(seen[0, :, 311, 0], [*white, black[2]], rtol=1e-5)
    np.testing.assert_allclose(seen[0, :, 312, 0], black, rtol=1e-5)
    # The cell's box is (200, 200, 232, 232) in the square.
    np.testing.assert_allclose(boxes, [[100, 48, 116, 64]])


def test_doubles_go_within_a_category_only() -> None:
    cells = {
        (0, 10, 10): (0, 2.0, (4, 4, 4, 4)),
        (0, 10, 11): (0, 1.0, (4, 4, 4, 4)),
        (0, 11, 10): (1, 1.5, (4, 4, 4, 4)),
    }
    _, scores, labels = run(planned(cells)[0])
    assert labels == [1, 2]
    assert scores == sorted(scores, reverse=True)
    # IoU .78 is more than .6; three strides apart it is .45.
    cells[0, 10, 13] = (0, 0.5, (4, 4, 4, 4))
    assert run(planned(cells)[0])[2] == [1, 2, 1]


def test_scores_at_the_threshold_do_not_come_back() -> None:
    cells = {(0, 1, 1): (0, 0.0, (1, 1, 1, 1)), (0, 20, 20): (0, 0.01, (1, 1, 1, 1))}
    assert len(run(planned(cells, threshold=0.5)[0])[1]) == 1
    assert len(run(planned(cells, threshold=0.49)[0])[1]) == 2


def test_no_more_than_a_hundred_boxes_come_back() -> None:
    cells = {
        (0, row, column): (0, 1.0 + row / 100, (1, 1, 1, 1))
        for row, column in itertools.product(range(0, 52, 4), repeat=2)
    }
    _, scores, _ = run(planned(cells)[0])
    assert len(cells) == 169
    assert len(scores) == 100
    assert min(scores) > 1 / (1 + np.exp(-1.15))


def test_a_batch_finds_what_single_frames_find() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)
    single = load_detector("nanodet", "random:1", score_threshold=0.5)
    for found, expected in zip(replace(single, batch=3).detect(frames), single.detect(frames), strict=True):
        assert len(expected.scores) >= 5
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_in_fewer_bits_scores_stay_apart() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 60, 80, 3), dtype=np.uint8)
    full, reduced = (
        load_detector("nanodet", "random:1", score_threshold=0.5, precision=word).detect(frames)[0]
        for word in ("fp32", "bf16")
    )
    assert not np.array_equal(full.scores, reduced.scores)
    assert len(set(reduced.scores)) > len(set(torch.from_numpy(reduced.scores).bfloat16().tolist()))


def test_another_file_is_no_nanodet(tmp_path: Path) -> None:
    path = tmp_path / "nanodet.bin"
    path.write_bytes(bytes(100))
    with pytest.raises(WeightsError, match="has 100 bytes, expected 7574558"):
        read_nanodet(path)
    with pytest.raises(WeightsError, match="expected 5d0e4f8c4eded666"):
        cache.add(path, "nanodet-coco-rangilyu")


def overlap(box: Any, other: Any) -> float:
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    inter = float(np.prod(np.clip(sides, 0, None)))
    area = [float(np.prod(one[2:] - one[:2])) for one in (np.asarray(box), np.asarray(other))]
    return inter / (sum(area) - inter)


def found_at(found: FrameBoxes, name: str, box: list[float]) -> float:
    """Give the best score of this category on a place, IoU .5 or more."""
    rows = [row for row in np.flatnonzero(found.labels == COCO_LABELS[name]) if overlap(found.boxes[row], box) >= 0.5]
    return max((float(found.scores[row]) for row in rows), default=0.0)


# What a person sees in frame 100 of vtest.avi, by hand.
PERSONS = [
    [345, 196, 383, 274],
    [588, 155, 620, 236],
    [376, 179, 410, 257],
    [493, 149, 518, 220],
    [514, 151, 541, 220],
    [222, 62, 238, 96],
]
TRUCK, CAR = [651, 44, 724, 100], [734, 51, 769, 95]


@pytest.fixture(scope="module")
def street(opencv_clips: Path) -> Any:
    """Give frames 100 to 102 of a street camera, ``(3, 576, 768, 3)``."""
    with VideoReader(opencv_clips / "vtest.avi") as reader:
        frames: list[Any] = []
        for block in reader:
            frames += list(block.frames.copy())
            if len(frames) > 102:
                break
    return np.stack(frames[100:103])


REFERENCE = Path(__file__).parent.parent / "reference" / "nanodet_graph.json"
"""Made by make_nanodet_graph.py beside it, from the package's own graph."""


@pytest.mark.weights
def test_the_network_is_the_packages_graph(real_nanodet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADX_HOME", str(real_nanodet))
    network = NanoDet()
    network.load_state_dict(cache.load("nanodet-coco-rangilyu"))
    c, i, j = np.meshgrid(np.arange(3.0), np.arange(416.0), np.arange(416.0), indexing="ij")
    picture = 1.5 * np.sin(0.05 * i + 0.03 * j + 2 * c) + np.sin(0.0007 * i * j - c)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(picture.astype(np.float32)[None]))
    levels = json.loads(REFERENCE.read_bytes())["levels"]
    for output, level in zip(outputs, levels, strict=True):
        values = output[0].flatten(1).T
        assert list(values.shape) == level["shape"]
        # 1e-4 for the logits: the reference went through a sigmoid and back; the network itself differs by 2e-6.
        np.testing.assert_allclose(values.flatten()[level["places"]], level["values"], atol=1e-4)
        assert float(values.double().mean()) == pytest.approx(level["mean"], abs=1e-4)
        assert float(values.double().std()) == pytest.approx(level["std"], abs=1e-4)


@pytest.mark.weights
@pytest.mark.clips
def test_real_frames_have_their_persons_and_vehicles(
    real_nanodet: Path, street: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VADX_HOME", str(real_nanodet))
    detector = load_detector("nanodet", score_threshold=0.3)
    found = detector.detect(street[:1])[0]
    assert [found_at(found, "person", box) for box in PERSONS] == pytest.approx(
        [0.751, 0.717, 0.681, 0.722, 0.671, 0.618], abs=0.01
    )
    assert found_at(found, "truck", TRUCK) == pytest.approx(0.469, abs=0.01)
    assert found_at(found, "car", CAR) == pytest.approx(0.651, abs=0.01)
    grouped = load_detector("nanodet", score_threshold=0.3, groups={"vehicle": ["car", "truck", "bus"]})
    vehicles = grouped.detect(street[:1])[0]
    assert int((vehicles.labels == COCO_LABELS["car"]).sum()) == 2
    assert detector.weights_sha256 == cache.WEIGHTS["nanodet-coco-rangilyu"].sha256


@pytest.mark.weights
@pytest.mark.clips
def test_the_plug_in_finds_persons_too(pedestrian_detector: str, street: Any) -> None:
    detector = load_detector(pedestrian_detector, score_threshold=0.3)
    assert dict(detector.categories) == {1: "person"}
    for found in detector.detect(street):
        assert 3 <= len(found.scores) <= 8
        assert set(found.labels) == {1}
    first = detector.detect(street[:1])[0]
    assert sum(found_at(first, "person", box) > 0.3 for box in PERSONS) >= 3
