"""The multi-task network against its equations and its authors' code: B. Wan et al., "Anomaly detection in video
sequences: A benchmark and computational model", IET Image Processing 2021; wanboyang/anomaly_detection_LAD2000.

Weights and inputs are sines of their places, so that the numbers in here do not depend on torch's random numbers.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vadx.errors import UsageError
from vadx.features.expansion import expand_scores
from vadx.pipelines.methods import Batch
from vadx.pipelines.methods.lad import (
    CHOICES,
    CLASS_LISTS,
    UNKNOWN,
    WINDOWS,
    ConvLstmCell,
    Lad,
    LadNetwork,
    LadSettings,
    class_index,
    class_loss,
    draw_window,
    frame_labels,
    frame_loss,
    frame_spans,
    squared_weights,
)

DIM = 32

# Sums of a few hundred products in float64, in two orders.
CLOSE = 1e-12

SMALL: dict[str, Any] = {
    "hidden_channels": 3,
    "shared_widths": (6, 5),
    "head_width": 4,
    "classes": "Fire,Panic,Crash",
    "normal_bags": 1,
    "anomalous_bags": 1,
}
CODE = Lad.variants["code"]


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Sines of places: fixed numbers in [-1, 1], float64."""
    places = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(1.7 * places + phase).reshape(shape)


def lad(**changes: Any) -> Lad:
    return Lad(LadSettings(**{**SMALL, **changes}))


def network_of(method: Lad, dim: int = DIM) -> LadNetwork:
    network = method.network(dim).double()
    with torch.no_grad():
        for number, weights in enumerate(network.parameters()):
            weights.copy_(waves(*weights.shape, phase=number))
    return network


def bags(num_clips: int = 5, **more: Tensor) -> Batch:
    """A normal and an anomalous video of so many clips."""
    return Batch(
        features=waves(2, num_clips, 1, DIM, phase=0.4),
        labels=torch.tensor([0, 1]),
        mask=torch.ones(2, num_clips, dtype=torch.bool),
        ids=("v_Crash_n_s1_c1", "v_Panic_a_s1_c2"),
        classes=("", "Panic"),
        more=more,
    )


# ---- the paper in numpy ----


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


def convolved(weight: NDArray[np.float64], maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """One gate's ``W * X``: ``(out, in, 3, 3)`` and ``(in, 4, 4)``, with zeros around the map."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("oiyx,ihwyx->ohw", weight, patches)


def numpy_cell(
    state: dict[str, NDArray[np.float64]], x: NDArray[np.float64], h: NDArray[np.float64], c: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equations 1 to 5, each with its own convolutions of X_t and H_t-1."""
    size = len(h)
    weight, bias = state["gates.weight"], state["gates.bias"][:, None, None]
    w_i, w_f, w_o, w_c = (weight[g * size : (g + 1) * size] for g in range(4))
    b_i, b_f, b_o, b_c = (bias[g * size : (g + 1) * size] for g in range(4))
    peep = state.get("peepholes", np.zeros((3, 1, 1, 1)))

    def of_both(w: NDArray[np.float64]) -> NDArray[np.float64]:
        return convolved(w[:, : len(x)], x) + convolved(w[:, len(x) :], h)

    i = sigmoid(of_both(w_i) + peep[0] * c + b_i)
    f = sigmoid(of_both(w_f) + peep[1] * c + b_f)
    new = f * c + i * np.tanh(of_both(w_c) + b_c)
    o = sigmoid(of_both(w_o) + peep[2] * new + b_o)
    return o * np.tanh(new), new


def state_of(module: nn.Module) -> dict[str, NDArray[np.float64]]:
    return {name: values.detach().numpy() for name, values in module.state_dict().items()}


def numpy_network(network: LadNetwork, window: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits of classes and scores of frames of one window ``(clip, feature)``."""
    steps = [clip.reshape(-1, 4, 4) for clip in window]
    for cell in network.cells:
        state = state_of(cell)
        h = c = np.zeros((network.hidden_channels, 4, 4))
        for at, step in enumerate(steps):
            h, c = numpy_cell(state, step, h, c)
            steps[at] = h
    rows = steps[-1].ravel()
    for layer in network.shared:
        if isinstance(layer, nn.Linear):
            weights = state_of(layer)
            rows = np.maximum(weights["weight"] @ rows + weights["bias"], 0)
    heads = [state_of(head) for head in (network.class_head, network.score_head)]
    classes, scores = (w["2.weight"] @ np.maximum(w["0.weight"] @ rows, 0) for w in heads)
    return classes, sigmoid(scores)


def numpy_losses(
    logits: NDArray[np.float64], scores: NDArray[np.float64], target: int, labels: NDArray[np.integer]
) -> tuple[float, float]:
    """Equation 6 without gamma, and equation 7, of one window."""
    entropy = -np.log(np.exp(logits[target]) / np.exp(logits).sum())
    apart = np.abs(scores - labels)
    return float(entropy), float(np.where(apart <= 1, 0.5 * apart**2, apart - 0.5).sum())


# ---- the network ----


@pytest.mark.parametrize("peepholes", [True, False])
def test_the_cell_is_equations_1_to_5(peepholes: bool) -> None:
    cell = ConvLstmCell(2, lad(peepholes=peepholes).settings).double()
    with torch.no_grad():
        for number, weights in enumerate(cell.parameters()):
            weights.copy_(waves(*weights.shape, phase=number))
    x, h, c = waves(1, 2, 4, 4, phase=1), waves(1, 3, 4, 4, phase=2), waves(1, 3, 4, 4, phase=3)
    found = cell(x, h, c)
    expected = numpy_cell(state_of(cell), x[0].numpy(), h[0].numpy(), c[0].numpy())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0].detach().numpy(), other, atol=CLOSE)
    # Without peepholes the gates do not look at the memory.
    without = numpy_cell({**state_of(cell), "peepholes": np.zeros((3, 1, 1, 1))}, *(v[0].numpy() for v in (x, h, c)))
    assert (np.abs(without[0] - expected[0]).max() > 0.01) == peepholes


@pytest.mark.parametrize("changes", [{}, {"peepholes": False, "shared_widths": (5,)}], ids=["paper", "code"])
def test_the_network_is_numpy_s(changes: dict[str, Any]) -> None:
    network = network_of(lad(**changes))
    windows = waves(2, 5, DIM)
    output = network(windows)
    for window, classes, frames in zip(windows, output.classes, output.frames, strict=True):
        expected = numpy_network(network, window.numpy())
        np.testing.assert_allclose(classes.detach().numpy(), expected[0], atol=CLOSE)
        np.testing.assert_allclose(frames.detach().numpy(), expected[1], atol=CLOSE)


def test_the_published_sizes_hold() -> None:
    def count(dim: int, **changes: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in Lad(LadSettings(**changes)).network(dim).parameters())

    # As the authors' network has it.
    assert count(2048, **CODE) == 5_555_200
    # Peepholes of two layers, and another layer of 2048.
    assert count(2048) == 5_555_200 + 2 * 3 * 128 * 4 * 4 + (2048 * 2048 + 2048)
    # RGB alone: half the channels come in.
    assert count(2048, **CODE) - count(1024, **CODE) == 64 * 512 * 9
    with torch.device("meta"):
        network = Lad().network(2048)
        output = network(torch.zeros(3, 5, 2048))
    assert (tuple(output.classes.shape), tuple(output.frames.shape)) == ((3, 14), (3, 80))
    assert [tuple(cell.gates.weight.shape) for cell in network.cells] == [(512, 256, 3, 3)] * 2


def test_four_layers_or_three_is_told_by_shared_widths() -> None:
    with torch.device("meta"):
        widths = {
            name: [
                layer.in_features for layer in (*network.shared, *network.class_head) if isinstance(layer, nn.Linear)
            ]
            for name, network in {"paper": Lad().network(2048), "code": Lad(LadSettings(**CODE)).network(2048)}.items()
        }
    assert widths == {"paper": [2048, 2048, 1024, 512], "code": [2048, 1024, 512]}


# ---- losses ----


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)], [np.log(2.0), 0.0], [5.0, 5.0]])
    found = class_loss(logits, torch.tensor([1, 1, UNKNOWN])).item()
    assert found == pytest.approx((np.log(4 / 3) + np.log(3)) / 2, abs=1e-6)
    assert class_loss(logits, torch.full((3,), UNKNOWN)).item() == 0


def test_smooth_l1_is_summed_over_frames_in_the_paper_and_averaged_in_the_code() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5, 0.5], [0.1, 0.0, 1.0, 0.5]])
    labels = torch.tensor([[1, 0, 0, UNKNOWN], [0, 1, 1, UNKNOWN]])
    squares = [0.01 + 0.04 + 0.25, 0.01 + 1.0 + 0.0]
    assert frame_loss(scores, labels).item() == pytest.approx(0.5 * sum(squares) / 2, abs=1e-6)
    assert frame_loss(scores, labels, "mean").item() == pytest.approx(0.5 * sum(squares) / 6, abs=1e-6)
    assert frame_loss(scores, torch.full((2, 4), UNKNOWN), "mean").item() == 0


# Made with the numpy above; they would change with either.
KNOWN = {"sum": (2.5453951727, 109.4975178059), "mean": (2.5453951727, 1.3687189726)}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_numpy_s(reduction: str) -> None:
    method = lad(frame_loss=reduction, gamma=0.01, class_weight=2.0)
    network = network_of(method)
    labels = torch.zeros(2, 5, 16, dtype=torch.int8)
    labels[1, 2:4] = 1
    batch = bags(frame_labels=labels)
    parts = method.loss(network, batch).parts
    each = [
        numpy_losses(*numpy_network(network, batch.features[bag, :, 0].numpy()), target, labels[bag].ravel().numpy())
        for bag, target in ((0, 2), (1, 1))
    ]
    entropy, apart = np.mean(each, axis=0)
    apart = apart if reduction == "sum" else apart / 80
    assert parts["class"].item() == pytest.approx(2 * entropy, abs=CLOSE)
    assert parts["frames"].item() == pytest.approx(10 * apart, abs=1e-11)
    weights = sum(float((v**2).sum()) for name, v in state_of(network).items() if "bias" not in name)
    assert parts["weights"].item() == pytest.approx(2 * 0.01 * weights, abs=1e-11)
    assert (parts["class"].item(), parts["frames"].item()) == pytest.approx(KNOWN[reduction], abs=1e-9)


def test_gradients_are_finite_differences() -> None:
    method = lad(gamma=0.01, hidden_channels=2)
    network = network_of(method)
    batch = bags()
    names = [name for name, _ in network.named_parameters()]

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> Tensor:
            return method.loss(self.network, batch).total

    def total(*weights: Tensor) -> Tensor:
        named = {f"network.{name}": one for name, one in zip(names, weights, strict=True)}
        return torch.func.functional_call(Loss(), named, ())

    weights = tuple(p.detach().clone().requires_grad_() for p in network.parameters())
    assert torch.autograd.gradcheck(total, weights, fast_mode=True)


def test_weight_decay_is_gamma_s_term_halved() -> None:
    network = network_of(lad())
    squared_weights(network).backward()
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, 2 * p.detach(), rtol=0, atol=CLOSE)
    [group] = Lad().optimisers(network)["all"].param_groups
    assert (group["lr"], group["weight_decay"]) == (3e-4, 5e-4)
    [group] = Lad(LadSettings(**CODE)).optimisers(network)["all"].param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 5e-4)


# ---- labels ----


def test_labels_of_frames_stand_beside_the_scores_of_their_clips() -> None:
    clips = np.array([[0, 16], [16, 32], [32, 42]])
    labels = np.zeros(42, np.int64)
    labels[20:40] = 1
    found = frame_labels(clips, labels)
    assert found.shape == (3, 16)
    assert found[0].tolist() == [0] * 16
    assert found[1].tolist() == [0] * 4 + [1] * 12
    assert found[2].tolist() == [1] * 8 + [0] * 2 + [UNKNOWN] * 6
    # Labels that end before the video does say nothing of its last frames.
    assert frame_labels(clips, labels[:40])[2].tolist() == [1] * 8 + [UNKNOWN] * 8


@pytest.mark.parametrize("length", [8, 16, 40])
def test_scores_of_frames_come_back_to_their_frames(length: int) -> None:
    # Clips of 16 samples that cover more or fewer frames of the source.
    clips = np.array([[0, length], [length, 2 * length]])
    labels = (np.arange(2 * length) % 7 < 3).astype(np.int64)
    spans = frame_spans(clips)
    assert spans.shape == (32, 2)
    assert int((spans[:, 1] - spans[:, 0]).sum()) == 2 * length
    scores = frame_labels(clips, labels).ravel()
    expanded = expand_scores(scores, spans, 2 * length)
    if length <= 16:
        np.testing.assert_array_equal(expanded, labels)
    else:
        first = [span[0] for span in spans]
        np.testing.assert_array_equal(expanded[first], labels[first])


def test_without_labels_of_frames_every_frame_has_that_of_its_video() -> None:
    _, labels = lad().draw(bags())
    assert labels.tolist() == [[0] * 80, [1] * 80]


def test_frames_beyond_the_end_count_nowhere_or_are_normal_as_in_the_code() -> None:
    more = torch.ones(2, 3, 16, dtype=torch.int8)
    more[:, 2, 10:] = UNKNOWN
    batch = bags(3, frame_labels=more)
    windows, labels = lad().draw(batch)
    assert labels[1].tolist() == [1] * 42 + [UNKNOWN] * 38
    torch.testing.assert_close(windows[0, 3], batch.features[0, 2, 0])
    torch.testing.assert_close(windows[0, 4], batch.features[0, 2, 0])
    windows, labels = lad(beyond="zero").draw(batch)
    assert labels[1].tolist() == [1] * 42 + [0] * 38
    assert not windows[:, 3:].any()


def test_padding_of_a_bag_is_never_drawn() -> None:
    plain = bags(7)
    padded = Batch(
        torch.cat([plain.features, 9 + torch.zeros_like(plain.features)], dim=1),
        plain.labels,
        torch.cat([plain.mask, ~plain.mask], dim=1),
        plain.ids,
        plain.classes,
    )
    method = lad()
    network = network_of(method)
    assert method.loss(network, padded).total.item() == method.loss(network, plain).total.item()
    # A draw that could see the padding would begin beyond clip 2 sooner or later.
    for seed in range(20):
        windows, _ = method.draw(dataclasses.replace(padded, seed=seed))
        assert bool((windows < 9).all())


def test_kinds_of_normal_videos_are_their_folder_s_or_their_own() -> None:
    folder, own = LadSettings(), LadSettings(classes="ucf-crime", normal_class="own")
    assert class_index("", "a/v_Loitering_n_s3_c1", anomalous=False, settings=folder) == 9
    assert class_index("", "a/v_Nothing_n_s3_c1", anomalous=False, settings=folder) == UNKNOWN
    assert class_index("", "Normal_Videos_003_x264", anomalous=False, settings=own) == 13
    assert class_index("Vandalism", "x", anomalous=True, settings=own) == 12
    assert class_index("", "v_Crash_a", anomalous=True, settings=folder) == UNKNOWN
    none = LadSettings(normal_class="none")
    assert class_index("", "v_Crash_n", anomalous=False, settings=none) == UNKNOWN
    with pytest.raises(UsageError, match="classes='Abuse"):
        class_index("Abuse", "x", anomalous=True, settings=folder)
    assert {len(names) for names in CLASS_LISTS.values()} == {14}


def test_the_order_of_classes_is_the_code_s() -> None:
    numbers = {"Crash": 0, "Drop": 3, "FallIntoWater": 4, "Fighting": 6, "Hurt": 8, "Thiefing": 11, "Violence": 13}
    assert {name: CLASS_LISTS["lad"].index(name) for name in numbers} == numbers


def test_classes_given_by_number_go_before_names() -> None:
    method = lad()
    network = network_of(method)
    named = method.loss(network, bags()).parts["class"].item()
    assert method.loss(network, bags(class_index=torch.tensor([2, 1]))).parts["class"].item() == named
    assert method.loss(network, bags(class_index=torch.tensor([0, 0]))).parts["class"].item() != named


# ---- windows ----


def starts(num_clips: int, **changes: Any) -> set[int]:
    labels = np.ones((num_clips, 16), np.int8)
    random = np.random.default_rng(0)
    return {draw_window(labels, lad(**changes).settings, random, anomalous=True)[0] for _ in range(200)}


def test_every_window_is_drawn_but_in_the_code_the_last() -> None:
    assert starts(8) == {0, 1, 2, 3}
    assert starts(8, reach_last=False) == {0, 1, 2}
    assert starts(6, reach_last=False) == {0}
    assert starts(5) == starts(5, reach_last=False) == starts(2) == {0}


@pytest.mark.parametrize("redraw", CHOICES["redraw"])
def test_a_window_of_an_anomalous_video_is_drawn_again_until_it_shows_something(redraw: str) -> None:
    labels = np.zeros((40, 16), np.int8)
    labels[20] = 1
    settings = lad(redraw=redraw, max_redraws=1000).settings
    random = np.random.default_rng(0)
    drawn = [draw_window(labels, settings, random, anomalous=True) for _ in range(50)]
    if redraw == "together":
        assert all(first == start and 16 <= start <= 20 for first, start in drawn)
    else:
        # Labels of the video's first 80 frames stand beside clips from its middle.
        assert {start for first, start in drawn if not 16 <= first <= 20} == {0}
        assert {first for first, start in drawn if start == 0} - {0}
    untouched = [draw_window(labels, settings, random, anomalous=False) for _ in range(50)]
    assert all(first == start for first, start in untouched)
    assert {start for _, start in untouched} - set(range(16, 21))


def test_redraws_end() -> None:
    settings = lad(max_redraws=3).settings
    labels = np.zeros((40, 16), np.int8)
    first, start = draw_window(labels, settings, np.random.default_rng(1), anomalous=True)
    # One number for the window, one for each other.
    again = np.random.default_rng(1).integers(36, size=4)
    assert first == start == again[-1]


def test_a_draw_follows_from_the_seed_of_the_batch() -> None:
    batch = bags(30)
    method = lad()
    one, two, three = (method.draw(dataclasses.replace(batch, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_the_code_s_view_mixes_the_clips_of_different_windows() -> None:
    size, num_clips = 5, 10
    clips = torch.arange(num_clips)
    flat = torch.cat([clips[i : i + size] for i in range(num_clips - size + 1)])
    num_windows = num_clips - size + 1
    # test.py, where time is the first axis.
    as_printed = flat.view(size, num_windows).T.numpy()
    meant = flat.view(num_windows, size).numpy()
    np.testing.assert_array_equal(WINDOWS["scrambled"](num_clips, size), as_printed)
    np.testing.assert_array_equal(WINDOWS["overlapping"](num_clips, size), meant)
    assert (as_printed != meant).any()
    assert WINDOWS["disjoint"](num_clips, size).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert set(WINDOWS) == set(CHOICES["windows"])


# ---- scoring ----


def score(method: Lad, network: LadNetwork, features: Tensor) -> Any:
    with torch.no_grad():
        return method.score(network.eval(), features)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("num_clips", [1, 5, 12])
def test_a_video_is_scored_frame_by_frame(windows: str, num_clips: int) -> None:
    method = lad(windows=windows)
    network = network_of(method)
    features = waves(num_clips, 1, DIM, phase=0.4)
    scores = score(method, network, features)
    assert scores.segments.shape == (num_clips,)
    assert scores.more["frames"].shape == (num_clips, 16)
    assert bool(((scores.more["frames"] >= 0) & (scores.more["frames"] <= 1)).all())
    torch.testing.assert_close(scores.segments, scores.more["frames"].mean(dim=1))
    assert scores.classes.shape == (3,)
    assert scores.classes.sum().item() == pytest.approx(1)
    # By hand: the last clip is repeated, and each frame has the highest score of the windows that hold it.
    filled = -(-num_clips // 5) * 5
    clips = features[:, 0].numpy()[np.minimum(np.arange(filled), num_clips - 1)]
    rows = WINDOWS[windows](filled, 5)
    meant = WINDOWS["overlapping" if windows == "scrambled" else windows](filled, 5)
    best = np.zeros((filled, 16))
    for row, places in zip(rows, meant, strict=True):
        frames = numpy_network(network, clips[row])[1].reshape(5, 16)
        best[places] = np.maximum(best[places], frames)
    np.testing.assert_allclose(scores.more["frames"].numpy(), best[:num_clips], atol=CLOSE)
    assert len(scores.more["window_classes"]) == len(rows)


def test_a_last_window_that_was_filled_is_compared_or_not() -> None:
    features = waves(12, 1, DIM)
    compared = {
        last: score(lad(last_window=last), network_of(lad()), features).more["compared"].tolist()
        for last in CHOICES["last_window"]
    }
    assert compared == {"keep": [True] * 12, "drop": [True] * 10 + [False] * 2}
    full = score(lad(last_window="drop"), network_of(lad()), features[:10])
    assert full.more["compared"].all()


def test_many_windows_are_scored_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = lad(windows="overlapping")
    network = network_of(method)
    features = waves(20, 2, DIM)
    at_once = score(method, network, features)
    monkeypatch.setattr("vadx.pipelines.methods.lad._WINDOWS_AT_ONCE", 3)
    in_batches = score(method, network, features)
    torch.testing.assert_close(in_batches.more["frames"], at_once.more["frames"], rtol=0, atol=CLOSE)
    torch.testing.assert_close(in_batches.classes, at_once.classes, rtol=0, atol=CLOSE)
    mean = score(method, network, features.mean(dim=1, keepdim=True))
    torch.testing.assert_close(mean.segments, at_once.segments, rtol=0, atol=CLOSE)


# ---- settings ----


def test_defaults_are_the_paper_s() -> None:
    chosen = LadSettings()
    assert (chosen.window_clips, chosen.clip_frames, chosen.num_outputs) == (5, 16, 80)
    assert (chosen.class_weight, chosen.frame_weight, chosen.frame_loss) == (1, 10, "sum")
    assert (chosen.learning_rate, chosen.weight_decay, chosen.threshold) == (3e-4, 5e-4, 0.5)
    assert chosen.normal_bags + chosen.anomalous_bags == 60
    assert LadSettings(**json.loads(json.dumps(dataclasses.asdict(chosen)))) == chosen


def test_the_code_s_settings_are_settings_and_differ() -> None:
    chosen = LadSettings(**CODE)
    assert all(getattr(chosen, name) != getattr(LadSettings(), name) for name in CODE)


@pytest.mark.parametrize(
    "changes",
    [
        {"window_clips": 0},
        {"kernel_size": 2},
        {"shared_widths": ()},
        {"gamma": -1.0},
        {"weight_decay": float("nan")},
        {"learning_rate": 0.0},
        {"threshold": 1.5},
        {"classes": "Fire,Fire"},
        {"classes": ""},
        {"normal_class": "own"},
        *({name: "nonsense"} for name in CHOICES),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        LadSettings(**changes)


def test_features_that_make_no_map_are_refused() -> None:
    with pytest.raises(UsageError, match="16 places"):
        Lad().network(1000)
    assert Lad(LadSettings(grid=1)).network(1000).cells[0].gates.in_channels == 1128
