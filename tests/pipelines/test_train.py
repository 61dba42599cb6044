"""The training loop: it learns what can be learnt, goes on bit for bit, and keeps and names last and best."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vadx.errors import StoreError, UsageError
from vadx.features.bag_file import BagFile
from vadx.pipelines import train as loop
from vadx.pipelines.evaluate import vauc
from vadx.pipelines.methods import METHODS, Batch, Losses, Method, find_method
from vadx.pipelines.methods.deepmil import DeepMil
from vadx.pipelines.model_folder import Mark, read_model, read_tensors
from vadx.pipelines.train import Scorer, Trained, TrainSettings, score_bags, scorer, train
from vadx.pipelines.training_bags import TrainingBags, drawn_bags, iteration_seed, real_segments

from .training_samples import MOVED, SEGMENTS, write_separable_bags

SMALL: dict[str, Any] = {
    "first_units": 16,
    "second_units": 8,
    "normal_bags": 6,
    "anomalous_bags": 6,
    "learning_rate": 0.05,
}
Lines = list[Mapping[str, Any]]


class Cut(Exception):
    """Ends a training where a test wants it cut."""


@pytest.fixture
def bags(tmp_path: Path) -> TrainingBags:
    return TrainingBags(write_separable_bags(tmp_path / "bags.h5"))


def small(iterations: int = 12, **changes: Any) -> DeepMil:
    method = find_method("deepmil").make(iterations=iterations, **{**SMALL, **changes})
    assert isinstance(method, DeepMil)
    return method


def trained(bags: TrainingBags, folder: Path, iterations: int = 12, **options: Any) -> Trained:
    settings = options.pop("settings", TrainSettings(checkpoint_every=5, log_every=1))
    return train("deepmil", options.pop("method", small(iterations)), bags, folder, settings=settings, **options)


def lines_of(folder: Path) -> Lines:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counting_measure(values: list[float]) -> loop.Measure:
    given = iter(values)
    return lambda score: next(given)


def segment_auc(file: BagFile) -> loop.Measure:
    """Measure the area under the ROC curve of all segments."""
    truth = np.zeros((len(file), SEGMENTS), bool)
    truth[file.labels == 1, MOVED] = True

    def measure(score: Scorer) -> float:
        scores = np.stack(list(score_bags(score, file, range(len(file))).values()))
        value = vauc(truth.ravel(), scores.ravel()).value
        assert value is not None
        return value

    return measure


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_what_is_separable_is_separated_on_bags_never_seen(tmp_path: Path, variant: str, bags: TrainingBags) -> None:
    method = find_method("deepmil").make(variant, iterations=120, dropout=0.2, **SMALL)
    unseen = write_separable_bags(tmp_path / "unseen.h5", 12, seed=1)
    done = train("deepmil", method, bags, tmp_path / "model", measure=segment_auc(unseen))
    assert done.last.iteration == 120
    assert done.last.measured is not None
    # Untrained networks measure anything from 0.1 to 0.9; the classes are ten standard deviations apart.
    assert done.last.measured > 0.99
    first, last = (line["ranking"] for line in lines_of(tmp_path / "model")[:: len(lines_of(tmp_path / "model")) - 2])
    assert last < 0.5 * first


@pytest.mark.parametrize("at", range(1, 13, 2))
def test_a_training_cut_short_ends_with_the_same_bits(tmp_path: Path, bags: TrainingBags, at: int) -> None:
    measure = segment_auc(bags.file)
    whole = trained(bags, tmp_path / "whole", measure=measure)

    def cut(line: Mapping[str, Any]) -> None:
        if line["event"] == "iteration" and line["iteration"] == at:
            raise Cut

    with pytest.raises(Cut):
        trained(bags, tmp_path / "cut", measure=measure, tell=cut)
    torch.rand(at)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "iteration", "iter')
    again = trained(bags, tmp_path / "cut", measure=measure)
    assert (again.last, again.best) == (whole.last, whole.best)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("which", ["best.safetensors", "last.safetensors", "state.safetensors"])
def test_a_training_cut_while_it_writes_ends_with_the_same_bits(
    tmp_path: Path, bags: TrainingBags, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.pipelines import model_folder

    measure = segment_auc(bags.file)
    trained(bags, tmp_path / "whole", measure=measure)
    write, writes = model_folder.publish_bytes, Counter[str]()

    def failing(data: bytes, path: Path, *rest: Any, **options: Any) -> Any:
        writes[path.name] += 1
        if path.name == which and writes[which] == (2 if which != "best.safetensors" else 1):
            raise Cut
        return write(data, path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "publish_bytes", failing)
        with pytest.raises(Cut):
            trained(bags, tmp_path / "cut", measure=measure)
    trained(bags, tmp_path / "cut", measure=measure)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_finished_training_is_left_alone_and_one_made_longer_goes_on(tmp_path: Path, bags: TrainingBags) -> None:
    trained(bags, tmp_path / "model", 10)
    before = contents(tmp_path / "model")
    assert trained(bags, tmp_path / "model", 10).last == Mark(10)
    assert contents(tmp_path / "model") == before
    trained(bags, tmp_path / "model", 15)
    trained(bags, tmp_path / "at-once", 15)
    assert contents(tmp_path / "model") == contents(tmp_path / "at-once")


def test_another_seed_gives_another_network_and_the_same_seed_the_same(tmp_path: Path, bags: TrainingBags) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        trained(bags, tmp_path / name, 3, settings=TrainSettings(seed=seed))
    one, same, other = (read_tensors(tmp_path / n / "last.safetensors")[0] for n in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["layers.0.weight"], other["layers.0.weight"])


def test_the_callers_random_numbers_are_not_touched(tmp_path: Path, bags: TrainingBags) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    trained(bags, tmp_path / "model", 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_last_and_best_are_both_kept_and_named(tmp_path: Path, bags: TrainingBags) -> None:
    # Checkpoints after 5, 10, 15, 20; of the two highest the first is the best.
    done = trained(bags, tmp_path / "model", 20, measure=counting_measure([0.5, 0.9, 0.9, 0.2]))
    assert (done.best, done.last) == (Mark(10, 0.9), Mark(20, 0.2))
    assert not done.stopped_early
    trained(bags, tmp_path / "ten", 10, method=small(10))
    best, last = read_model(tmp_path / "model", "best"), read_model(tmp_path / "model")
    assert (best.mark, last.mark, last.which) == (done.best, done.last, "last")
    ten = read_model(tmp_path / "ten").network.state_dict()
    assert all(torch.equal(value, ten[name]) for name, value in best.network.state_dict().items())
    assert not torch.equal(last.network.state_dict()["layers.0.weight"], ten["layers.0.weight"])
    measured = [line for line in lines_of(tmp_path / "model") if line["event"] == "measured"]
    assert [line["iteration"] for line in measured if line["best"]] == [5, 10]
    assert [line["iteration"] for line in measured if not line["best"]] == [15, 20]
    assert "of equals the earliest" in last.facts["choice"]


def test_a_measure_below_zero_still_chooses(tmp_path: Path, bags: TrainingBags) -> None:
    done = trained(bags, tmp_path / "model", 15, measure=counting_measure([-2.0, -1.0, -3.0]))
    assert done.best == Mark(10, -1.0)


def test_without_a_measure_there_is_no_best(tmp_path: Path, bags: TrainingBags) -> None:
    assert trained(bags, tmp_path / "model", 5).best is None
    assert not (tmp_path / "model" / "best.safetensors").exists()
    with pytest.raises(UsageError, match=r"no best network \(nothing was measured .*ask for the last"):
        read_model(tmp_path / "model", "best")


def test_patience_ends_a_training_also_one_that_is_resumed(tmp_path: Path, bags: TrainingBags) -> None:
    settings = TrainSettings(checkpoint_every=2, patience=2)
    done = trained(bags, tmp_path / "model", 20, settings=settings, measure=counting_measure([0.5, 0.9, 0.8, 0.7, 1.0]))
    assert done.stopped_early
    assert (done.best, done.last) == (Mark(4, 0.9), Mark(8, 0.7))
    again = trained(bags, tmp_path / "model", 20, settings=settings, measure=counting_measure([]))
    assert again == done


def test_choosing_on_the_test_videos_warns_and_is_written_down(
    tmp_path: Path, bags: TrainingBags, caplog: pytest.LogCaptureFixture
) -> None:
    told: Lines = []
    settings = TrainSettings(choose_on="test", checkpoint_every=5)
    with caplog.at_level(logging.WARNING):
        trained(bags, tmp_path / "model", 5, settings=settings, measure=counting_measure([1.0]), tell=told.append)
    assert told[0]["event"] == "warning"
    assert "not one on unseen videos" in caplog.text
    assert "not one on unseen videos" in read_model(tmp_path / "model").facts["choice"]


def test_held_out_videos_warn_of_nothing(tmp_path: Path, bags: TrainingBags, caplog: pytest.LogCaptureFixture) -> None:
    told: Lines = []
    trained(bags, tmp_path / "model", 5, measure=counting_measure([1.0]), tell=told.append)
    assert {line["event"] for line in told} == {"iteration", "measured"}
    assert caplog.text == ""
    assert told == lines_of(tmp_path / "model")


def test_the_lines_give_each_term_of_the_loss(tmp_path: Path, bags: TrainingBags) -> None:
    trained(bags, tmp_path / "model", 3)
    for line in lines_of(tmp_path / "model"):
        terms = [line[name] for name in ("ranking", "smoothness", "sparsity", "weights")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-6)  # float32
    assert [line["iteration"] for line in lines_of(tmp_path / "model")] == [1, 2, 3]


def test_the_model_folder_holds_what_is_documented(tmp_path: Path, bags: TrainingBags) -> None:
    trained(bags, tmp_path / "model", 5, measure=counting_measure([1.0]))
    from vadx.pipelines import model_folder

    table = (model_folder.__doc__ or "").split("====\n")[1]
    documented = {line.split("``")[1] for line in table.splitlines() if line.startswith("``")}
    assert {path.name for path in (tmp_path / "model").iterdir()} == documented
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (facts["method"], facts["rule"], facts["dim"]) == ("deepmil", "sultani", 16)
    assert str(tmp_path) not in (tmp_path / "model" / "model.json").read_text()


def test_a_model_that_is_read_scores_as_the_one_that_was_trained(tmp_path: Path, bags: TrainingBags) -> None:
    kept: list[dict[str, Any]] = []

    def measure(score: Scorer) -> float:
        kept.append(score_bags(score, bags.file, [0, 1, 2]))
        return 0.0

    trained(bags, tmp_path / "model", 5, measure=measure)
    model = read_model(tmp_path / "model")
    found = score_bags(scorer(model.method, model.network), bags.file, [0, 1, 2])
    assert found.keys() == kept[0].keys()
    assert all(np.array_equal(found[name], kept[0][name]) for name in found)


def test_padding_is_seen_from_empty_spans_and_scores_nothing(tmp_path: Path) -> None:
    file = write_separable_bags(tmp_path / "padded.h5", padded=3, crops=2)
    assert real_segments(file.frames).sum(axis=1).tolist() == [SEGMENTS - 3] * len(file)
    batch = TrainingBags(file).batch(np.array([0, 1]), 5, "cpu")
    assert batch.mask.sum(dim=1).tolist() == [SEGMENTS - 3] * 2
    assert (batch.ids, batch.classes, batch.seed) == (file.ids[:2], ("", "Fighting"), 5)
    assert (batch.normal.tolist(), batch.anomalous.tolist()) == ([True, False], [False, True])
    seen = []

    class Noting(DeepMil):
        def score(self, network: nn.Module, features: Tensor) -> Any:
            seen.append(tuple(features.shape))
            return super().score(network, features)

    method = Noting(small().settings)
    (scores,) = score_bags(scorer(method, method.network(16)), file, [1]).values()
    assert seen == [(SEGMENTS - 3, 2, 16)]
    assert (scores[-3:] == 0).all()
    assert (scores[:-3] > 0).all()


@pytest.mark.parametrize("num_kept", [0, 2, 100])
def test_bags_are_read_once_where_there_is_room_and_are_the_same_always(
    tmp_path: Path, num_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_separable_bags(tmp_path / "bags.h5", 8)
    everything, asked, read = file.read_all(), [], BagFile.read
    bags = TrainingBags(file, memory_bytes=num_kept * everything[0].nbytes)

    def noting(self: BagFile, numbers: Any) -> Any:
        asked.extend(numbers)
        return read(self, numbers)

    monkeypatch.setattr(BagFile, "read", noting)
    for numbers in ([0, 1, 2], [2, 1, 3, 1], [3, 0]):
        batch = bags.batch(np.array(numbers), 0, "cpu")
        assert np.array_equal(batch.features.numpy(), everything[numbers])
        batch.features.zero_()
    assert asked == {0: [0, 1, 2, 1, 2, 3, 0, 3], 2: [0, 1, 2, 2, 3, 3], 100: [0, 1, 2, 3]}[num_kept]


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the device 'abacus' cannot be used .*give cpu"):
        TrainSettings(device="abacus")


def test_in_a_pass_each_bag_comes_once() -> None:
    drawn = np.concatenate([drawn_bags(3, 1, 10, 4, iteration) for iteration in range(5)])
    assert Counter(drawn.tolist()) == dict.fromkeys(range(10), 2)
    assert sorted(drawn[:10].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert drawn_bags(3, 1, 10, 4, 2).tolist() == drawn[8:12].tolist()
    # A batch may be larger than all there is.
    assert Counter(drawn_bags(3, 1, 4, 10, 0).tolist()).keys() == {0, 1, 2, 3}


def test_halves_and_seeds_draw_differently() -> None:
    ways = {tuple(drawn_bags(seed, half, 50, 20, 0).tolist()) for seed in (0, 1) for half in (0, 1)}
    assert len(ways) == 4
    assert len({iteration_seed(seed, iteration) for seed in (0, 1) for iteration in range(50)}) == 100
    assert 0 <= iteration_seed(0, 0) < 2**63


def test_only_the_videos_asked_for_are_trained_on(tmp_path: Path, bags: TrainingBags) -> None:
    ids = bags.file.ids[:6]
    few = TrainingBags(bags.file, ids)
    assert (few.half(0).tolist(), few.half(1).tolist()) == ([0, 2, 4], [1, 3, 5])
    seen: set[str] = set()

    class Noting(DeepMil):
        def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
            seen.update(batch.ids)
            return super().loss(network, batch, phase)

    trained(few, tmp_path / "model", 3, method=Noting(small(3).settings))
    assert seen == set(ids)


class TwoBranches(DeepMil):
    """Trains its layers in two phases, each of which adds a term that only its own half should follow."""

    phases = ("first", "second")

    def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
        if phase == "second" and batch.seed == iteration_seed(0, 1):
            return Losses({})
        return super().loss(network, batch)

    def optimisers(self, network: nn.Module) -> Any:
        half = {"first": network.layers[0], "second": network.layers[3]}  # type: ignore[index]  # a Sequential
        return {phase: torch.optim.Adam(layer.parameters(), lr=0.01) for phase, layer in half.items()}

    def pace(self, iteration: int) -> float:
        return 0.0 if iteration == 2 else 1.0


def test_phases_have_their_own_optimisers_and_may_be_passed_over(tmp_path: Path, bags: TrainingBags) -> None:
    weights: list[dict[str, Tensor]] = []
    for iterations in (1, 2, 3):
        trained(bags, tmp_path / str(iterations), method=TwoBranches(small(iterations).settings))
        weights.append(read_tensors(tmp_path / str(iterations) / "last.safetensors")[0])
    one, two, three = weights
    assert not torch.equal(one["layers.0.weight"], two["layers.0.weight"])
    assert torch.equal(one["layers.3.weight"], two["layers.3.weight"])
    assert torch.equal(one["layers.6.weight"], two["layers.6.weight"])
    assert all(torch.equal(two[name], three[name]) for name in two)  # a pace of 0
    lines = lines_of(tmp_path / "3")
    assert ["second.loss" in line for line in lines] == [True, False, True]
    assert lines[0]["first.loss"] == pytest.approx(sum(v for k, v in lines[0].items() if k in FIRST), rel=1e-6)


FIRST = {"first.ranking", "first.smoothness", "first.sparsity", "first.weights"}


def test_adam_resumes_bit_for_bit_too(tmp_path: Path, bags: TrainingBags) -> None:
    settings = TrainSettings(checkpoint_every=2, log_every=2)
    for iterations in (4, 6):
        trained(bags, tmp_path / "cut", settings=settings, method=TwoBranches(small(iterations).settings))
    trained(bags, tmp_path / "whole", settings=settings, method=TwoBranches(small(6).settings))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_plain_bags_resumes_and_scores(tmp_path: Path, name: str) -> None:
    bags = TrainingBags(write_separable_bags(tmp_path / "bags.h5", padded=1, crops=2))
    settings = TrainSettings(checkpoint_every=2, log_every=2)
    for folder, iterations in (("cut", 2), ("cut", 4), ("whole", 4)):
        smaller: dict[str, Any] = {"lad": {"hidden_channels": 4}, "rtfm": {"units": 16}}.get(name, {})
        method = find_method(name).make(iterations=iterations, normal_bags=3, anomalous_bags=3, **smaller)
        train(name, method, bags, tmp_path / folder, settings=settings)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    model = read_model(tmp_path / "cut")
    scores = np.stack([*score_bags(scorer(model.method, model.network), bags.file, range(4)).values()])
    assert scores.shape == (4, SEGMENTS)
    assert ((scores >= 0) & (scores <= 1)).all()
    lines = [value for line in lines_of(tmp_path / "cut") for term, value in line.items() if term.endswith("loss")]
    # A nearest neighbour looks at its bags and descends nothing.
    assert len(lines) == 2 * len(method.phases) * (name != "nearest")
    assert np.isfinite(lines).all()


def test_the_table_of_methods_loads_nothing_heavy() -> None:
    code = "import sys, vadx.pipelines.methods; print(sorted({'torch', 'numpy', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_else_a_bag_has_reaches_the_method(tmp_path: Path, bags: TrainingBags) -> None:
    seen: list[tuple[tuple[str, ...], Tensor]] = []

    class Noting(DeepMil):
        def loss(self, network: nn.Module, batch: Batch, phase: str = "all") -> Losses:
            seen.append((batch.ids, batch.more["number"]))
            return super().loss(network, batch, phase)

    richer = TrainingBags(bags.file, more=lambda ids: {"number": torch.tensor([int(i[-3:]) for i in ids])})
    trained(richer, tmp_path / "model", 1, method=Noting(small(1).settings))
    ((ids, numbers),) = seen
    assert numbers.tolist() == [int(identifier[-3:]) for identifier in ids]


def refused(bags: TrainingBags, folder: Path, method: Method, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        train("deepmil", method, bags, folder, settings=TrainSettings(**settings))
    return str(caught.value)


def test_a_folder_of_another_training_is_refused(tmp_path: Path, bags: TrainingBags) -> None:
    folder = tmp_path / "model"
    train("deepmil", small(2), bags, folder)
    assert "settings.dropout: 0.6 there, 0.1 here); give another folder" in refused(bags, folder, small(2, dropout=0.1))
    assert "training.seed: 0 there, 1 here" in refused(bags, folder, small(2), seed=1)
    assert "videos_sha256" in refused(TrainingBags(bags.file, bags.file.ids[:8]), folder, small(2))
    (folder / "model.json").unlink()
    assert "without model.json" in refused(bags, folder, small(2))


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, bags: TrainingBags) -> None:
    # A number that float32 does not hold.
    message = refused(bags, tmp_path / "model", small(4, smoothness=1e300))
    assert re.search("the loss is (inf|nan) at iteration 1; training cannot go on", message)
    assert "a lower learning rate: --learning-rate" in message


def test_a_measure_that_is_no_number_is_refused(tmp_path: Path, bags: TrainingBags) -> None:
    with pytest.raises(UsageError, match="nan was measured, which chooses nothing"):
        trained(bags, tmp_path / "model", 5, measure=counting_measure([float("nan")]))


@pytest.mark.parametrize("changes", [{"checkpoint_every": 0}, {"log_every": 0}, {"seed": -1}, {"patience": -1}])
def test_settings_of_a_training_are_checked(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="give such numbers"):
        TrainSettings(**changes)  # type: ignore[arg-type]  # whole numbers all


def test_best_is_chosen_on_one_of_two() -> None:
    with pytest.raises(UsageError, match="give one of: held-out, test"):
        TrainSettings(choose_on="train")


def test_bags_of_one_label_are_not_enough(bags: TrainingBags) -> None:
    with pytest.raises(UsageError, match="no anomalous bag to train on; label them: vadx bags"):
        TrainingBags(bags.file, bags.file.ids[:1])
    with pytest.raises(UsageError, match="no bag of 'nobody'"):
        TrainingBags(bags.file, ["nobody"])


def test_what_is_no_model_is_refused(tmp_path: Path, bags: TrainingBags) -> None:
    with pytest.raises(StoreError, match="no model of vadx"):
        read_model(tmp_path)
    trained(bags, tmp_path / "model", 1)
    last = tmp_path / "model" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"last\.safetensors: .*damaged"):
        read_model(tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps({**facts, "vadx_model": 99}))
    with pytest.raises(StoreError, match="a newer vadx wrote it"):
        read_model(tmp_path / "model")


def test_tensors_of_another_network_are_refused(tmp_path: Path, bags: TrainingBags) -> None:
    trained(bags, tmp_path / "model", 1)
    trained(bags, tmp_path / "other", 1, method=small(1, first_units=3))
    (tmp_path / "other" / "last.safetensors").replace(tmp_path / "model" / "last.safetensors")
    with pytest.raises(StoreError, match=r"do not fit model\.json"):
        read_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 3, 2), (4,), (4, 3)), "expected features"),
        (((4, 3, 1, 2), (5,), (4, 3)), "expected features"),
        (((4, 3, 1, 2), (4,), (4, 2)), "expected features"),
    ],
)
def test_a_batch_whose_shapes_disagree_is_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    features, labels, mask = shapes
    with pytest.raises(ValueError, match=message):
        Batch(torch.zeros(features), torch.zeros(labels, dtype=torch.int64), torch.ones(mask, dtype=torch.bool))
    with pytest.raises(ValueError, match="no segment that is not padding"):
        Batch(torch.zeros(1, 2, 1, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))
