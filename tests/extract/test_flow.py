from __future__ import annotations

import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_large

from vadx.errors import UsageError, WeightsError
from vadx.extract.flow import (
    FLOW_METHODS,
    QUANTIZATIONS,
    RAFT_UPDATES,
    FlowEstimator,
    FlowStream,
    Raft,
    flow_estimator,
    quantize,
    random_raft,
    still_flow,
)
from vadx.features.recipe import Flow, FlowMethod, Quantization

ON_GREY: tuple[FlowMethod, ...] = ("tvl1", "farneback")
SHIFT = (3.0, -2.0)


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """Draw a smooth colour texture, uint8 ``(3, H, W)``."""
    random = np.random.default_rng(seed)
    coarse = random.random((height // 4 + 2, width // 4 + 2, 3)).astype(np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy((fine * 255).clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def moving(num_frames: int, height: int = 96, width: int = 120) -> list[Tensor]:
    """Give frames whose content moves 3 pixels to the right and 2 up from each to the next."""
    whole = texture(height + 80, width + 80)
    return [whole[:, 20 + 2 * i : 20 + 2 * i + height, 50 - 3 * i : 50 - 3 * i + width] for i in range(num_frames)]


def grey(image: Tensor) -> np.ndarray[Any, Any]:
    return cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)


def by_opencv(method: str, previous: Tensor, image: Tensor) -> Tensor:
    if method == "tvl1":
        flow = cv2.optflow.DualTVL1OpticalFlow_create().calc(grey(previous), grey(image), None)
    else:
        flow = cv2.calcOpticalFlowFarneback(
            grey(previous),
            grey(image),
            None,
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
    return torch.from_numpy(np.moveaxis(flow, 2, 0).copy())


class Counted:
    """An estimator without pictures: the n-th flow has x = n and y = -n everywhere, from n = 1."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def __call__(self, previous: Tensor, image: Tensor, /) -> Tensor:
        self.pairs.append((int(previous[0, 0, 0]), int(image[0, 0, 0])))
        number = float(len(self.pairs))
        return torch.tensor([number, -number]).reshape(2, 1, 1).expand(2, *image.shape[1:]).contiguous()


def numbered(num_frames: int, height: int = 2, width: int = 3) -> list[Tensor]:
    return [torch.full((3, height, width), index, dtype=torch.uint8) for index in range(num_frames)]


def run(flow: Flow, estimator: FlowEstimator, images: list[Tensor]) -> list[Tensor]:
    stream = FlowStream(flow, estimator)
    return [item for image in images for item in stream.push(image)] + stream.flush()


def values(items: list[Tensor]) -> list[list[float]]:
    """Give the one value of each channel, back in pixels for a bound of 127.5."""
    for item in items:
        assert (item == item[:, :1, :1]).all()
    return [(item[:, 0, 0] - 127.5).tolist() for item in items]


PIXELS = Flow(method="farneback", bound=127.5)
"""Quantised so that 127.5 + pixels is what comes out."""


def test_every_method_and_quantisation_of_the_recipe_is_in_the_tables() -> None:
    assert set(FLOW_METHODS) == set(get_args(FlowMethod))
    assert set(QUANTIZATIONS) == set(get_args(Quantization))


@pytest.mark.parametrize("method", ON_GREY)
def test_flow_is_opencvs_and_finds_the_motion(method: FlowMethod) -> None:
    estimator = flow_estimator(Flow(method=method))
    frames = moving(3)
    for previous, image in pairwise(frames):
        flow = estimator(previous, image)
        assert (flow.shape, flow.dtype) == ((2, 96, 120), torch.float32)
        assert torch.equal(flow, by_opencv(method, previous, image))
        assert flow.flatten(1).median(dim=1).values.tolist() == pytest.approx(SHIFT, abs=0.02)


@pytest.mark.parametrize("method", ON_GREY)
def test_flow_is_the_same_on_any_number_of_threads_and_leaves_their_number_alone(method: FlowMethod) -> None:
    previous, image = moving(2)
    estimator = flow_estimator(Flow(method=method))
    before = cv2.getNumThreads()
    try:
        flows = []
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            flows.append(estimator(previous, image))
            assert cv2.getNumThreads() == threads
            assert torch.equal(flows[-1], by_opencv(method, previous, image))
    finally:
        cv2.setNumThreads(before)
    assert torch.equal(flows[0], flows[1])
    assert torch.equal(flows[0], flows[2])


@pytest.mark.parametrize("method", ON_GREY)
def test_opencv_works_on_one_thread_and_gets_its_threads_back_after_an_error(
    method: FlowMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    convert = cv2.cvtColor

    def spy(*arguments: Any) -> Any:
        seen.append(cv2.getNumThreads())
        return convert(*arguments)

    monkeypatch.setattr(cv2, "cvtColor", spy)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with pytest.raises(cv2.error):
            flow_estimator(Flow(method=method))(texture(32, 32), texture(32, 40))
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize("method", ON_GREY)
@pytest.mark.parametrize("missing", ["the module", "what it links to"])
def test_without_opencv_the_estimator_is_refused_before_any_video(
    method: FlowMethod, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if missing == "the module":
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
        monkeypatch.delitem(sys.modules, "cv2")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"{method} needs OpenCV.*pip install 'vadx\[flow\]'"):
        flow_estimator(Flow(method=method))


def test_opencv_without_its_contrib_modules_is_told_from_no_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(UsageError, match=r"contrib.*pip uninstall.*pip install 'vadx\[flow\]'"):
        flow_estimator(Flow(method="tvl1"))
    flow_estimator(Flow(method="farneback"))


def test_the_module_is_imported_without_opencv() -> None:
    code = "import sys; sys.modules['cv2'] = None; import vadx.extract.flow"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


TO_PICTURE: list[tuple[Quantization, float, list[float], list[float]]] = [
    # 127.5 + 6.375 x
    ("none", 20, [-25, -20, -1, 0, 0.5, 1, 20, 25], [0, 0, 121.125, 127.5, 130.6875, 133.875, 255, 255]),
    # 128 + 6.375 x: the ends are 0.5 and 255.5, and halves go to even
    ("round_128", 20, [-25, -20, -1, 0, 0.5, 1, 20, 25], [0, 0, 122, 128, 131, 134, 256, 256]),
    # 128 + 10 x: 0.5, 126.5, 127.5, 128.5, 129.5, 255.5
    ("round_128", 12.75, [-12.75, -0.15, -0.05, 0.05, 0.15, 12.75], [0, 126, 128, 128, 130, 256]),
    # 6.375 (x + 20): no motion is 127.5, and halves go to even
    ("round_255", 20, [-25, -20, -1, 0, 0.5, 1, 20, 25], [0, 0, 121, 128, 131, 134, 255, 255]),
    # 8.5 (x + 15): no motion is 127.5 again; 1 is 136, -1 is 119, 0.1 is 128.35
    ("round_255", 15, [-15, -1, 0, 0.1, 1, 15], [0, 119, 128, 128, 136, 255]),
]


@pytest.mark.parametrize(("quantization", "bound", "pixels", "expected"), TO_PICTURE)
def test_displacements_become_the_numbers_of_pictures(
    quantization: Quantization, bound: float, pixels: list[float], expected: list[float]
) -> None:
    flow = Flow(method="farneback", bound=bound, quantization=quantization)
    got = quantize(torch.tensor(pixels), flow)
    assert got.dtype == torch.float32
    assert got.tolist() == expected


def test_round_128_is_video_features_expression_on_many_values() -> None:
    """``128 + 255 / 40 * clamp(x, -20, 20)`` in float32, rounded: the tensors of v-iashin/video_features."""
    pixels = torch.linspace(-30, 30, 100_001)
    expected = torch.round(torch.clamp(pixels, -20, 20) * torch.tensor(6.375) + torch.tensor(128.0))
    got = quantize(pixels, Flow(method="farneback", quantization="round_128"))
    assert torch.equal(got, expected)
    assert (got.min(), got.max()) == (0, 256)


def test_round_255_is_dense_flows_arithmetic_on_many_values() -> None:
    """Doubles, half to even as ``cvRound``, and bytes as the result: the pictures of yjxiong/dense_flow."""
    pixels = np.linspace(-30, 30, 100_001, dtype=np.float32)
    doubles = pixels.astype(np.float64)
    rounded = np.rint(255 * (doubles + 20) / 40)
    expected = np.where(doubles > 20, 255, np.where(doubles < -20, 0, rounded)).astype(np.uint8)
    got = quantize(torch.from_numpy(pixels), Flow(method="farneback", quantization="round_255"))
    assert np.array_equal(got.numpy(), expected)


@pytest.mark.parametrize(("quantization", "expected"), [("none", 127.5), ("round_128", 128), ("round_255", 128)])
def test_what_stands_for_no_motion(quantization: Quantization, expected: float) -> None:
    assert still_flow(Flow(method="farneback", quantization=quantization)) == expected


@pytest.mark.parametrize(
    ("num_frames", "last", "stack", "expected"),
    [
        # Flow n, counted from 1, has x = n and y = -n. Item i begins with the flow of frame i, number i + 1.
        (0, "repeat", 1, []),
        (0, "drop", 3, []),
        (1, "repeat", 1, [[0, 0]]),
        (1, "repeat", 2, [[0, 0, 0, 0]]),
        (1, "drop", 1, []),
        (1, "drop", 2, []),
        (2, "repeat", 1, [[1, -1], [1, -1]]),
        (2, "drop", 1, [[1, -1]]),
        (2, "repeat", 3, [[1, -1, 1, -1, 1, -1], [1, -1, 1, -1, 1, -1]]),
        (2, "drop", 3, [[1, -1, 1, -1, 1, -1]]),
        (4, "repeat", 1, [[1, -1], [2, -2], [3, -3], [3, -3]]),
        (4, "drop", 1, [[1, -1], [2, -2], [3, -3]]),
        (4, "repeat", 2, [[1, -1, 2, -2], [2, -2, 3, -3], [3, -3, 3, -3], [3, -3, 3, -3]]),
        (4, "drop", 2, [[1, -1, 2, -2], [2, -2, 3, -3], [3, -3, 3, -3]]),
    ],
)
def test_items_by_hand(num_frames: int, last: Any, stack: int, expected: list[list[float]]) -> None:
    estimator = Counted()
    items = run(replace(PIXELS, last=last, stack=stack), estimator, numbered(num_frames))
    assert values(items) == expected
    assert estimator.pairs == [(index, index + 1) for index in range(num_frames - 1)]
    assert all(item.shape == (2 * stack, 2, 3) and item.dtype == torch.float32 for item in items)


@pytest.mark.parametrize("stack", [1, 5, 10])
@pytest.mark.parametrize("last", ["repeat", "drop"])
@pytest.mark.parametrize("num_frames", [1, 2, 16, 17])
def test_counts_and_stacks(num_frames: int, last: Any, stack: int) -> None:
    items = run(replace(PIXELS, last=last, stack=stack), Counted(), numbered(num_frames))
    assert len(items) == {"repeat": num_frames, "drop": num_frames - 1}[last]
    for index, item in enumerate(values(items)):
        numbers = [min(index + offset + 1, num_frames - 1) for offset in range(stack)]
        assert item == [sign * number for number in numbers for sign in (1, -1)]


@pytest.mark.parametrize("stack", [1, 4])
def test_an_item_comes_out_as_soon_as_its_flows_are_known(stack: int) -> None:
    stream = FlowStream(replace(PIXELS, stack=stack), Counted())
    assert [len(stream.push(image)) for image in numbered(10)] == [0] * stack + [1] * (10 - stack)
    assert len(stream.flush()) == stack
    assert stream.flush() == []


@pytest.mark.parametrize(
    ("last", "stack", "expected"),
    [
        # Three small frames have two flows; the four large ones have flows 3 to 5; then one frame is alone.
        ("repeat", 1, [[1, -1], [2, -2], [2, -2], [3, -3], [4, -4], [5, -5], [5, -5], [0, 0]]),
        ("drop", 1, [[1, -1], [2, -2], [2, -2], [3, -3], [4, -4], [5, -5], [5, -5]]),
        (
            "repeat",
            2,
            [
                *([1, -1, 2, -2], [2, -2, 2, -2], [2, -2, 2, -2]),
                *([3, -3, 4, -4], [4, -4, 5, -5], [5, -5, 5, -5], [5, -5, 5, -5]),
                [0, 0, 0, 0],
            ],
        ),
    ],
)
def test_no_flow_leads_from_one_size_of_picture_to_another(last: Any, stack: int, expected: list[list[float]]) -> None:
    images = [*numbered(3), *numbered(4, 4, 5), *numbered(1, 2, 3)]
    items = run(replace(PIXELS, last=last, stack=stack), Counted(), images)
    assert values(items) == expected
    assert [tuple(item.shape[1:]) for item in items] == [tuple(image.shape[1:]) for image in images[: len(items)]]


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("last", ["repeat", "drop"])
def test_items_that_nobody_looks_at_cost_no_flow_and_change_no_other(last: Any, stack: int) -> None:
    images = [*numbered(4), *numbered(5, 4, 5)[1:], *numbered(3)]
    flow = replace(PIXELS, last=last, stack=stack)
    pairs: list[int] = []

    def shifted(previous: Tensor, image: Tensor) -> Tensor:
        pairs.append(int(previous[0, 0, 0]))
        return torch.full((2, *image.shape[1:]), float(previous[0, 0, 0]))

    def items(num_unseen: int) -> list[Tensor]:
        pairs.clear()
        stream = FlowStream(flow, shifted, num_unseen=num_unseen)
        return [item for image in images for item in stream.push(image)] + stream.flush()

    whole, num_pairs = items(0), len(pairs)
    assert num_pairs == 8
    for num_unseen in range(len(whole) + 1):
        got = items(num_unseen)
        assert len(got) == len(whole)
        assert all(torch.equal(*pair) for pair in zip(got[num_unseen:], whole[num_unseen:], strict=True))
        # The flow before the first item that is looked at may stand for one of its own.
        needed = max(0, num_unseen - 1)
        assert len(pairs) == sum(frame >= needed for frame in (0, 1, 2, 4, 5, 6, 8, 9))
        assert not any(item.isnan().any() for item in got[num_unseen:])


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)],
)
def test_what_is_no_picture_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(3, H, W\)"):
        FlowStream(PIXELS, Counted()).push(image)


def test_few_frames_are_held_however_long_the_video_is() -> None:
    stream = FlowStream(replace(PIXELS, stack=5), Counted())
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    for index in range(200):
        image = torch.full((3, 2, 3), index, dtype=torch.uint8)
        alive.add(image)
        stream.push(image)
        most = max(most, len(alive))
    assert most <= 2


@pytest.mark.parametrize("method", ON_GREY)
def test_a_stream_of_real_motion(method: FlowMethod) -> None:
    flow = Flow(method=method, bound=15, quantization="round_255", stack=2)
    frames = moving(4)
    items = run(flow, flow_estimator(flow), frames)
    flows = [by_opencv(method, a, b) for a, b in pairwise(frames)]
    pictures = [((f.clamp(-15, 15).double() + 15) * 8.5).round().float() for f in flows]
    expected = [torch.cat([pictures[a], pictures[b]]) for a, b in ((0, 1), (1, 2), (2, 2), (2, 2))]
    assert all(torch.equal(item, want) for item, want in zip(items, expected, strict=True))
    # 8.5 (3 + 15) = 153 and 8.5 (-2 + 15) = 110.5
    medians = items[0].flatten(1).median(dim=1).values
    assert medians.tolist() == pytest.approx([153, 110.5, 153, 110.5], abs=1)


RAFT = Flow(method="raft", weights="random:3")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    network = raft_large(weights=None)
    result: dict[str, Tensor] = network.state_dict()
    return result


def by_torchvision(
    state: dict[str, Tensor], previous: Tensor, image: Tensor, padding: tuple[int, int, int, int], num_updates: int
) -> Tensor:
    network = raft_large(weights=None).eval()
    network.load_state_dict(state)
    pair = [F.pad(2 * (picture[None].float() / 255) - 1, padding, mode="replicate") for picture in (previous, image)]
    with torch.no_grad():
        flow: Tensor = network(*pair, num_flow_updates=num_updates)[-1][0]
    return flow


def test_raft_is_torchvisions(state: dict[str, Tensor]) -> None:
    previous, image = moving(2, 128, 160)
    flow = Raft(state, num_updates=3)(previous, image)
    assert (flow.shape, flow.dtype) == ((2, 128, 160), torch.float32)
    assert torch.equal(flow, by_torchvision(state, previous, image, (0, 0, 0, 0), 3))
    assert flow.std() > 0


@pytest.mark.parametrize(
    ("height", "width", "padding"),
    # left, right, top, bottom
    [(125, 155, (2, 3, 1, 2)), (128, 153, (3, 4, 0, 0)), (121, 159, (0, 1, 3, 4))],
)
def test_raft_pads_as_its_authors_did_and_cuts_the_padding_off(
    height: int, width: int, padding: tuple[int, int, int, int], state: dict[str, Tensor]
) -> None:
    previous, image = moving(2, height, width)
    left, right, top, bottom = padding
    whole = by_torchvision(state, previous, image, padding, 2)
    flow = Raft(state, num_updates=2)(previous, image)
    assert torch.equal(flow, whole[:, top : whole.shape[1] - bottom, left : whole.shape[2] - right])


@pytest.mark.parametrize("given", ["state", "seed"])
def test_raft_refines_twenty_times_as_video_features_does(given: str, state: dict[str, Tensor]) -> None:
    assert RAFT_UPDATES == 20
    previous, image = moving(2, 128, 128)
    flow = flow_estimator(RAFT, state=state if given == "state" else None)(previous, image)
    assert torch.equal(flow, by_torchvision(state, previous, image, (0, 0, 0, 0), 20))


def test_random_weights_follow_their_seed_and_leave_torchs_generator_alone(state: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    again = random_raft(3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    other = random_raft(4)
    assert not all(torch.equal(other[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("weights", [None, "0" * 64, "random:", "random:x", "3"])
def test_raft_without_its_weights_is_refused(weights: str | None) -> None:
    named = "" if weights is None else f" with sha256 {weights}"
    with pytest.raises(WeightsError, match=f"raft needs the weights of its network{named}, and was given none"):
        flow_estimator(replace(RAFT, weights=weights))


def test_weights_of_another_network_are_refused(state: dict[str, Tensor]) -> None:
    without_one = dict(list(state.items())[1:])
    with pytest.raises(WeightsError, match="no weights of torchvision's raft_large"):
        flow_estimator(RAFT, state=without_one)


@pytest.mark.parametrize(("height", "width"), [(120, 160), (160, 120)])
def test_raft_refuses_pictures_that_its_pyramid_cannot_halve(height: int, width: int, state: dict[str, Tensor]) -> None:
    previous, image = moving(2, height, width)
    with pytest.raises(UsageError, match=f"121 pixels or more, got {width}x{height}"):
        flow_estimator(RAFT, state=state)(previous, image)
