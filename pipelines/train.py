"""The training loop: bags in, a model folder out.

An iteration's bags and random numbers follow from the seed and its number alone, so there is no state of a sampler or a
generator to keep: a training that was cut short at any moment ends with the same bits as one that was not, on the same
machine and number of threads.

**Last and best.** Every checkpoint is measured where the caller gives a measure. ``best`` is the checkpoint that
measured highest, of equals the earliest; ``last`` is the one after the last iteration. Both are kept and named. Where
what is measured is the test set, best is chosen by the answers: that has to be asked for, and warns.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Stopped, UsageError
from ..features.publish import make_directory, publish_bytes, write_error
from .methods import Losses, Method, Scores, check_choices
from .model_folder import (
    METRICS,
    MODEL_JSON,
    OPTION,
    STATE,
    Mark,
    read_facts,
    read_tensors,
    write_facts,
    write_network,
    write_tensors,
)
from .training_bags import ANOMALOUS, NORMAL, Bags, drawn_bags, iteration_seed, real_segments

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from ..features.bag_file import BagFile
    from .methods import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Scores one video's ``(segment, crop, feature)`` with a network as it now is, in evaluation mode."""

    method: Method
    network: nn.Module
    device: str = "cpu"

    def __call__(self, features: Tensor) -> Scores:
        self.network.eval()
        with torch.no_grad():
            return self.method.score(self.network, features.to(self.device))


Measure: TypeAlias = Callable[[Scorer], float]
"""How good a network is, the higher the better, from the scores that it gives."""

CHOICES: Mapping[str, str] = MappingProxyType(
    {
        "held-out": "best is the checkpoint that measured highest on held-out videos, of equals the earliest",
        "test": "best is the checkpoint that measured highest on the test videos, of equals the earliest; "
        "its result is not one on unseen videos",
    }
)
"""What ``best`` may be chosen on, and the rule."""
NO_CHOICE = "nothing was measured while it trained: there is no best, only the last"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What a training is beside its method.

    ``checkpoint_every`` and ``log_every`` count iterations. ``patience``: stop after so many measurements without a new
    best, 0 for never. ``choose_on`` is one of `CHOICES`. ``device`` is torch's name of one.

    Raises
    ------
    UsageError
        if a value cannot be meant.
    """

    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 10
    patience: int = 0
    choose_on: str = "held-out"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choices(self, {"choose_on": CHOICES})
        if min(self.checkpoint_every, self.log_every) < 1 or min(self.seed, self.patience) < 0:
            msg = f"counts of iterations are 1 or more, seed and patience 0 or more; got {self}; give such numbers"
            raise UsageError(msg)
        try:
            torch.empty(0, device=self.device)
        # Without CUDA built in, torch raises AssertionError.
        except (RuntimeError, AssertionError) as error:
            msg = f"the device {self.device!r} cannot be used ({str(error).splitlines()[0]}); give cpu, or one that can"
            raise UsageError(msg) from error


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended: its model folder, the last `Mark` and the best, None where nothing was measured."""

    folder: Path
    last: Mark
    best: Mark | None
    stopped_early: bool


def train(
    name: str,
    method: Method,
    bags: Bags,
    folder: Path,
    *,
    settings: TrainSettings | None = None,
    measure: Measure | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    tell: Callable[[Mapping[str, Any]], None] = lambda event: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    """Train ``method``, of the name ``name`` in `METHODS`, into ``folder``; a training that stands there goes on.

    ``facts`` are what else ``model.json`` says. ``tell`` gets each line of ``metrics.jsonl``, and an event ``warning``
    where there is cause. ``check`` is called after every iteration; where it raises `Stopped` the training is kept as
    it stands, and goes on there.

    Raises
    ------
    UsageError
        if the folder holds another training, or the loss is no longer finite.
    Stopped
        as ``check`` and ``measure`` do.
    StoreError
        if a file there is damaged, a bag cannot be read, or the disk refuses.
    """
    chosen = settings or TrainSettings()
    make_directory(folder, option=OPTION)
    _claim(folder, _facts(name, method, bags, chosen, facts, measured=measure is not None))
    if measure is not None and chosen.choose_on == "test":
        log.warning("%s", CHOICES["test"])
        tell({"event": "warning", "text": CHOICES["test"]})
    with _own_random_numbers(chosen):
        run = _Run.begin(method, bags, folder, chosen)
        if measure is not None and run.is_due(chosen.checkpoint_every) and run.last.measured is None:
            run.checkpoint(measure, tell)
        while run.iteration < method.settings.iterations and not run.has_stalled():
            losses = run.step()
            if run.is_due(chosen.log_every):
                run.note(run.line(losses), tell)
            if run.is_due(chosen.checkpoint_every):
                run.keep_on_stop(lambda: run.checkpoint(measure, tell))
            run.keep_on_stop(check)
        return Trained(folder, run.last, run.best, run.iteration < method.settings.iterations)


@contextmanager
def _own_random_numbers(settings: TrainSettings) -> Iterator[None]:
    device = torch.device(settings.device)
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(settings.seed)
        yield


@dataclass(slots=True, eq=False)
class _Run:
    """A training under way: ``iteration`` counts those done."""

    method: Method
    bags: Bags
    folder: Path
    settings: TrainSettings
    network: nn.Module
    optimisers: Mapping[str, Optimizer]
    halves: Mapping[int, NDArray[np.int64]]
    iteration: int = 0
    last: Mark = field(default_factory=lambda: Mark(0))
    best: Mark | None = None

    @classmethod
    def begin(cls, method: Method, bags: Bags, folder: Path, settings: TrainSettings) -> _Run:
        network = method.network(bags.shape[2]).to(settings.device).train()
        halves = {label: bags.half(label) for label in (NORMAL, ANOMALOUS)}
        run = cls(method, bags, folder, settings, network, method.optimisers(network), halves)
        for optimiser in run.optimisers.values():
            for group in optimiser.param_groups:
                group["initial_lr"] = group["lr"]
        if (folder / STATE).exists():
            run._restore()
        _keep_metrics(folder / METRICS, run.iteration)
        return run

    def is_due(self, every: int) -> bool:
        """Tell whether what is done every so many iterations, and at the end, is due after this one."""
        return self.iteration > 0 and (self.iteration % every == 0 or self.iteration == self.method.settings.iterations)

    def step(self) -> dict[str, Losses]:
        """Do one iteration, and give the losses of its phases, without those that were passed over."""
        batch = self._batch()
        torch.manual_seed(batch.seed)
        pace = self.method.pace(self.iteration)
        found = {}
        for phase in self.method.phases:
            losses = self.method.loss(self.network, batch, phase)
            if losses.parts:
                self._descend(phase, losses.total, pace)
                found[phase] = losses
        self.iteration += 1
        return found

    def _batch(self) -> Batch:
        sizes = {NORMAL: self.method.settings.normal_bags, ANOMALOUS: self.method.settings.anomalous_bags}
        numbers = [
            self.halves[label][drawn_bags(self.settings.seed, label, len(self.halves[label]), size, self.iteration)]
            for label, size in sizes.items()
        ]
        seed = iteration_seed(self.settings.seed, self.iteration)
        return self.bags.batch(np.concatenate(numbers), seed, self.settings.device)

    def line(self, found: Mapping[str, Losses]) -> dict[str, Any]:
        """Give what there is to note of the iteration that was done last."""
        line: dict[str, Any] = {
            "event": "iteration",
            "iteration": self.iteration,
            "pace": self.method.pace(self.iteration - 1),
        }
        for phase, losses in found.items():
            prefix = "" if len(self.method.phases) == 1 else f"{phase}."
            line[f"{prefix}loss"] = losses.total.item()
            line |= {f"{prefix}{part}": value.item() for part, value in losses.parts.items()}
        return line

    def _descend(self, phase: str, loss: Tensor, pace: float) -> None:
        if not math.isfinite(loss.item()):
            msg = (
                f"{self.folder}: the loss is {loss.item()} at iteration {self.iteration + 1}; training cannot go on; "
                f"the checkpoint of iteration {self.last.iteration} stands; "
                "begin anew with a lower learning rate: --learning-rate, and another folder after --to"
            )
            raise UsageError(msg)
        optimiser = self.optimisers[phase]
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * pace
        # Another phase's loss may have left gradients on this one's parameters.
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimiser.step()

    def has_stalled(self) -> bool:
        """Tell whether patience is at its end. It follows from the marks, so that a resumed training agrees."""
        if not self.settings.patience or self.best is None:
            return False
        without = (self.last.iteration - self.best.iteration) / self.settings.checkpoint_every
        return without >= self.settings.patience

    def checkpoint(self, measure: Measure | None, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """Measure, and write what a training that is cut short from here on resumes from."""
        measured = None if measure is None else float(measure(scorer(self.method, self.network, self.settings.device)))
        self.network.train()
        if measured is not None and not math.isfinite(measured):
            msg = f"{self.folder}: {measured} was measured, which chooses nothing; measure on videos of both labels"
            raise UsageError(msg)
        self.last = Mark(self.iteration, measured)
        is_best = _is_better(measured, self.best)
        if is_best:
            self.best = self.last
            write_network(self.folder, "best", self.network, self.last)
        write_network(self.folder, "last", self.network, self.last)
        if measured is not None:
            self.note({"event": "measured", "iteration": self.iteration, "measured": measured, "best": is_best}, tell)
        # The state comes last: what stands before it is written again, the same, by a training that resumes.
        self._save()

    def keep_on_stop(self, act: Callable[[], None]) -> None:
        """Do something, and where it is stopped keep the training as it stands: the same command goes on there.

        A checkpoint that was stopped while it measured is measured again before anything else.
        """
        try:
            act()
        except Stopped:
            if self.last.iteration < self.iteration:
                self.last = Mark(self.iteration)
                write_network(self.folder, "last", self.network, self.last)
                self._save()
            raise

    def note(self, line: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
        path, text = self.folder / METRICS, json.dumps(line) + "\n"
        try:
            with path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise write_error(error, path, len(text), OPTION) from error
        tell(line)

    def _save(self) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        for phase, optimiser in self.optimisers.items():
            for number, entries in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser/{phase}/{number}/{key}": torch.as_tensor(v) for key, v in entries.items()}
        best = None if self.best is None else asdict(self.best)
        write_tensors(self.folder / STATE, tensors, {"last": asdict(self.last), "best": best})

    def _restore(self) -> None:
        tensors, header = read_tensors(self.folder / STATE)
        self.last = Mark(**header["last"])
        self.best = None if header["best"] is None else Mark(**header["best"])
        self.iteration = self.last.iteration
        states: dict[str, dict[int, dict[str, Tensor]]] = {phase: {} for phase in self.optimisers}
        weights = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "network":
                weights[rest] = tensor
            else:
                phase, number, key = rest.split("/")
                states[phase].setdefault(int(number), {})[key] = tensor
        self.network.load_state_dict(weights)
        for phase, optimiser in self.optimisers.items():
            optimiser.load_state_dict({**optimiser.state_dict(), "state": states[phase]})


def scorer(method: Method, network: nn.Module, device: str = "cpu") -> Scorer:
    """Give what scores one video's ``(segment, crop, feature)``, with the network in evaluation mode."""
    return Scorer(method, network, device)


def score_bags(score: Scorer, file: BagFile, numbers: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Score bags: id -> ``(segment,)`` float32, 0 where a segment is padding. Raises `StoreError`."""
    found = {}
    for number in numbers:
        real = real_segments(file.frames[number])
        values = np.zeros(len(real), np.float32)
        features = torch.from_numpy(file.read([number])[0][real])
        values[real] = score(features).segments.float().cpu().numpy()
        found[file.ids[number]] = values
    return found


def _is_better(measured: float | None, best: Mark | None) -> bool:
    if measured is None:
        return False
    return best is None or best.measured is None or measured > best.measured


def _facts(
    name: str,
    method: Method,
    bags: Bags,
    settings: TrainSettings,
    more: Mapping[str, Any],
    *,
    measured: bool,
) -> dict[str, Any]:
    num_segments, num_crops, dim = bags.shape
    facts = {
        **more,
        "method": name,
        "settings": asdict(method.settings),
        "dim": dim,
        "num_crops": num_crops,
        "num_segments": num_segments,
        "rule": bags.rule,
        "recipe_digest": bags.recipe_digest,
        "videos_sha256": bags.digest(),
        "training": asdict(settings),
        "choice": CHOICES[settings.choose_on] if measured else NO_CHOICE,
    }
    # As it is read again: a tuple becomes a list.
    normal: dict[str, Any] = json.loads(json.dumps(facts))
    return normal


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``model.json``, or see that the one that stands there is of the same training, but for its length."""
    if not (folder / MODEL_JSON).exists():
        if (folder / STATE).exists():
            msg = f"{folder} holds a training without {MODEL_JSON}: what it trained is unknown; give another (--to)"
            raise UsageError(msg)
        write_facts(folder, facts)
        return
    before = read_facts(folder)
    found = [one for one in _differences(before, {**facts, **_unsaid(before)}) if one[0] not in _MAY_CHANGE]
    # What a person can read comes first: each digest follows from it, or from the videos.
    found.sort(key=lambda one: _is_digest(one[1]) or _is_digest(one[2]))
    if found:
        differing = "; ".join(f"{name}: {_shown(old)} there, {_shown(new)} here" for name, old, new in found)
        msg = f"{folder} holds another training ({differing}); give another folder (--to), or the same"
        raise UsageError(msg)
    write_facts(folder, facts)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _shown(value: object) -> str:
    return f"{str(value)[:12]}…" if _is_digest(value) else repr(value)


_MAY_CHANGE = frozenset(
    {"settings.iterations", "training.log_every", "training.patience", "set_name", "preset", "weights_name"}
)


_ADDED = (
    "recipe",
    "crop_pool",
    "bags_seed",
    "classes",
    "variant",
    "weights_sha256",
    "bags_sha256",
    "inputs",
    "measure",
)
"""What ``model.json`` has not always said: `model_folder`."""


def _unsaid(before: Mapping[str, Any]) -> dict[str, None]:
    return {name: None for name in _ADDED if name not in before}


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def _keep_metrics(path: Path, iteration: int) -> None:
    """Drop the lines of iterations that will be done again, and a line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            done = json.loads(line)["iteration"]
        except ValueError:
            break
        if done <= iteration:
            kept.append(f"{line}\n")
    publish_bytes("".join(kept).encode(), path, path.parent, replace=True, option=OPTION)
