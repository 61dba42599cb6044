"""Tubes made block by block are those of the whole video; no window would do; too many open boxes are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vadx.detectors import Detections, Tube, multivariate_tubes, unary_tubes
from vadx.detectors.boxes import BoxTable
from vadx.detectors.linking import link_tubes, link_unary
from vadx.detectors.settings import CLOSURES, LinkSettings
from vadx.detectors.streaming import KINDS, TubeStream
from vadx.errors import ResourceError, UsageError

from .samples import as_blocks, content, detections, moving_detections, random_detections

BOX = (0.0, 0.0, 10.0, 10.0)
EVERY = LinkSettings(min_length_unary=1, min_length_multivariate=1)


def streamed(
    kind: str, settings: LinkSettings, found: Detections, edges: Sequence[int]
) -> tuple[list[Tube], np.ndarray[Any, Any]]:
    stream = TubeStream(kind, settings)
    blocks, rows = as_blocks(found, edges)
    tubes = [tube for block in blocks for tube in stream.push(block)]
    tubes += stream.finish()
    assert stream.num_open_boxes == 0
    return sorted(tubes, key=lambda tube: tube.seed_key), rows


def assert_equal_to_the_whole(settings: LinkSettings, found: Detections, edges: Sequence[int]) -> None:
    for kind in KINDS:
        whole = getattr(link_tubes(found, settings, kinds=(kind,)), kind)
        tubes, rows = streamed(kind, settings, found, edges)
        assert [content(tube, rows) for tube in tubes] == [content(tube) for tube in whole]


@pytest.mark.parametrize("seed", range(6))
def test_random_inputs_in_random_blocks(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(25):
        found = random_detections(
            random, num_frames=int(random.integers(1, 16)), stride=int(random.choice([1, 1, 3])), per_frame=5
        )
        settings = LinkSettings(
            min_length_unary=int(random.choice([1, 3, 6])),
            min_length_multivariate=int(random.choice([1, 3, 6])),
            max_gap=int(random.choice([0, 1, 2])),
            iou_threshold=float(random.choice([0.0, 0.1, 0.4])),
            closure=str(random.choice(list(CLOSURES))),
            agnostic_nms=random.choice([None, 0.5]),
            min_members=int(random.choice([1, 2])),
        )
        edges = np.flatnonzero(random.random(found.num_frames) < random.choice([0.1, 0.5, 1.0]))
        assert_equal_to_the_whole(settings, found, edges[edges > 0].tolist())


@pytest.mark.parametrize("every", [1, 7, 50])
def test_crossing_objects_in_equal_blocks(every: int) -> None:
    found = moving_detections(np.random.default_rng(every), num_frames=120)
    settings = LinkSettings(min_length_unary=20, min_length_multivariate=20, max_gap=1)
    assert_equal_to_the_whole(settings, found, range(every, found.num_frames, every))


@pytest.mark.parametrize("length", [1, 2, 5, 40, 250])
def test_the_last_frame_can_decide_the_first_one_of_a_unary_tube(length: int) -> None:
    # J. Wu et al. walk backward from the seed: if the last box is the best, its walk ends at the box that overlaps
    # better; if not, the seed is the better of the first frame. Frames before the last are the same.
    found = {}
    for last in (0.4, 0.9):
        rows = [(0, (0, 1, 10, 11), 0.6, 1), (0, (0, 6, 10, 16), 0.7, 1)]
        rows += [(t, BOX, 0.5, 1) for t in range(1, length)] + [(length, BOX, last, 1)]
        boxes = detections(rows)
        (tube,) = unary_tubes(boxes, min_length=length + 1)
        found[last] = tube.boxes[0].tolist()
        for edges in ([length], range(1, length + 1)):
            (again,), names = streamed("unary", LinkSettings(min_length_unary=length + 1), boxes, edges)
            assert content(again, names) == content(tube)
    assert found == {0.4: [0, 6, 10, 16], 0.9: [0, 1, 10, 11]}


@pytest.mark.parametrize("length", [1, 2, 5, 40, 250])
def test_the_last_frame_can_decide_the_first_one_of_a_multivariate_tube(length: int) -> None:
    found = {}
    for last in (0.4, 0.9):
        rows = [(0, (-6, 0, 4, 10), 0.6, 1), (0, (6, 0, 16, 10), 0.7, 1)]
        rows += [(t, BOX, 0.5, 1) for t in range(1, length)] + [(length, BOX, last, 1)]
        boxes = detections(rows)
        (tube,) = multivariate_tubes(boxes, min_length=length + 1)
        found[last] = tube.boxes[0].tolist()
        for edges in ([length], range(1, length + 1)):
            (again,), names = streamed("multivariate", LinkSettings(min_length_multivariate=length + 1), boxes, edges)
            assert content(again, names) == content(tube)
    assert found == {0.4: [6, 0, 16, 10], 0.9: [-6, 0, 16, 10]}


def test_a_tube_comes_as_soon_as_nothing_can_join_it() -> None:
    for max_gap in (0, 2):
        stream = TubeStream("unary", dataclasses.replace(EVERY, max_gap=max_gap))
        assert stream.push(detections([(0, BOX, 0.5, 1)])) == []
        for frame in range(1, 1 + max_gap):
            assert stream.push(detections([], num_frames=frame + 1)) == []
        assert stream.num_open_boxes == 1
        (tube,) = stream.push(detections([], num_frames=2 + max_gap))
        assert (tube.frames.tolist(), stream.num_open_boxes) == ([0], 0)
        assert stream.finish() == []
    stream = TubeStream("unary", EVERY)
    assert stream.push(detections([(0, BOX, 0.5, 1)], stride=2)) == []
    assert stream.push(detections([], num_frames=2, stride=2)) == []
    assert len(stream.push(detections([], num_frames=3, stride=2))) == 1


def test_what_is_too_short_is_forgotten_unlinked(monkeypatch: pytest.MonkeyPatch) -> None:
    linked: list[int] = []

    def spy(table: BoxTable, group: Any, settings: LinkSettings, stride: int) -> list[Tube]:
        linked.append(len(table))
        return link_unary(table, group, settings, stride)

    monkeypatch.setattr("vadx.detectors.streaming.link_unary", spy)
    rows = [(t, BOX, 0.5, 1) for t in range(10)] + [(t, (50, 0, 60, 10), 0.5, 1) for t in range(9)]
    for edges in ([], [5], range(1, 10)):
        linked.clear()
        stream = TubeStream("unary", LinkSettings(min_length_unary=10))
        tubes = [tube for block in as_blocks(detections(rows), edges)[0] for tube in stream.push(block)]
        tubes += stream.finish()
        assert [len(tube) for tube in tubes] == [10]
        assert (stream.num_pruned_boxes, linked) == (9, [10])


def test_more_open_boxes_than_allowed_are_refused_and_nothing_is_cut() -> None:
    settings = LinkSettings(max_open_boxes=10)
    parked = [(t, BOX, 0.5, 1) for t in range(10)]
    clutter = [(t, (50, 0, 60, 10), 0.5, 1) for t in range(0, 9, 2)]
    stream = TubeStream("unary", settings)
    assert stream.push(detections([*parked, *clutter])) == []
    assert stream.num_open_boxes == 10
    with pytest.raises(ResourceError, match=r"--max-open-boxes 22$") as caught:
        stream.push(detections([(10, BOX, 0.5, 1)]))
    assert isinstance(caught.value, MemoryError)
    for going_on in (stream.finish, lambda: stream.push(detections([(11, BOX, 0.5, 1)]))):
        with pytest.raises(UsageError, match="too many boxes hung together, and none were cut: make a new TubeStream"):
            going_on()


def test_many_small_blocks_of_one_component_are_kept_in_few_tables() -> None:
    stream = TubeStream("unary", LinkSettings())
    for frame in range(300):
        stream.push(detections([(frame, BOX, 0.5, 1)]))
    (component,) = stream._open.values()
    assert (component.num_boxes, len(component.parts)) == (300, 4)  # 256 + 32 + 8 + 4
    assert [len(tube) for tube in stream.finish()] == [300]


def test_memory_does_not_grow_with_a_video_of_objects_that_come_and_go() -> None:
    rows = [(t, (0, 0, 10, 10), 0.5, 1) for t in range(600) if t % 60 < 50]
    stream = TubeStream("unary", LinkSettings(min_length_unary=50))
    most = 0
    for block in as_blocks(detections(rows, num_frames=600), range(10, 600, 10))[0]:
        stream.push(block)
        most = max(most, stream.num_open_boxes)
    assert most == 50


def test_blocks_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="give 'unary' or 'multivariate'"):
        TubeStream("both", EVERY)
    stream = TubeStream("unary", EVERY)
    stream.push(detections([(5, BOX, 0.5, 1)]))
    with pytest.raises(UsageError, match="pushed already"):
        stream.push(detections([(5, BOX, 0.5, 1)]))
    with pytest.raises(UsageError, match="pushed already"):
        stream.push(detections([], num_frames=3))
    with pytest.raises(UsageError, match="give stride=1"):
        stream.push(detections([(8, BOX, 0.5, 1)], stride=2))
    assert len(stream.finish()) == 1
    with pytest.raises(UsageError, match=r"finish\(\) ended this video: make a new TubeStream"):
        stream.push(detections([(9, BOX, 0.5, 1)]))


def test_nothing_pushed_gives_nothing() -> None:
    for kind in KINDS:
        assert TubeStream(kind, EVERY).finish() == []
        stream = TubeStream(kind, EVERY)
        assert stream.push(detections([], num_frames=0)) == []
        assert stream.finish() == []
