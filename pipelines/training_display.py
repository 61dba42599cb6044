"""What a training tells while it goes on: a bar on a terminal, a line now and then off it, JSON lines, TensorBoard."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_LINE_SECONDS = 10.0
"""Time between two lines where the output is no terminal."""


class TrainingDisplay(Protocol):
    """Shows the events of a training."""

    def tell(self, event: Mapping[str, Any]) -> None: ...
    def stop(self) -> None: ...


class QuietTraining:
    """Says nothing."""

    def tell(self, event: Mapping[str, Any]) -> None: ...
    def stop(self) -> None: ...


class PlainTraining(QuietTraining):
    """A line for each measurement, and one now and then, for logs."""

    def __init__(self, num_iterations: int) -> None:
        self._num_iterations = num_iterations
        self._last: tuple[float, int] | None = None

    def tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "iteration":
            self._iteration(event)
        elif event["event"] == "measured":
            best = ", the best so far" if event["best"] else ""
            print(f"iteration {event['iteration']}: measured {event['measured']:.4f}{best}", file=sys.stderr)

    def _iteration(self, event: Mapping[str, Any]) -> None:
        now, done = time.perf_counter(), event["iteration"]
        if self._last is None:
            self._last = now, done
        elif now - self._last[0] >= PLAIN_LINE_SECONDS or done == self._num_iterations:
            speed = (done - self._last[1]) / max(now - self._last[0], 1e-9)
            self._last = now, done
            rest = f"{losses_of(event)}, {speed:.1f} iterations/s"
            print(f"iteration {done} of {self._num_iterations}: {rest}", file=sys.stderr)


class RichTraining(QuietTraining):
    """A bar of iterations with the loss, the last measurement and the time that remains."""

    def __init__(self, num_iterations: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[measured]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("", total=num_iterations, loss="", measured="")
        self._progress.start()

    def tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "iteration":
            self._progress.update(self._task, completed=event["iteration"], loss=losses_of(event))
        elif event["event"] == "measured":
            self._progress.update(self._task, measured=f"measured {event['measured']:.4f}")

    def stop(self) -> None:
        self._progress.stop()


def make_training_display(num_iterations: int, *, quiet: bool) -> TrainingDisplay:
    """Choose what fits where the output goes."""
    if quiet:
        return QuietTraining()
    return RichTraining(num_iterations) if sys.stderr.isatty() else PlainTraining(num_iterations)


def losses_of(event: Mapping[str, Any]) -> str:
    """Give the losses of an iteration, one a phase."""
    return ", ".join(f"{name} {value:.4g}" for name, value in event.items() if name.split(".")[-1] == "loss")


class Board:
    """Writes the numbers of a training for TensorBoard, below ``folder``.

    Raises
    ------
    UsageError
        if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            msg = "--tensorboard needs the package tensorboard: pip install tensorboard, or leave the option out"
            raise UsageError(msg)
        from torch.utils.tensorboard import SummaryWriter

        make: Callable[..., Any] = SummaryWriter
        self._writer = make(log_dir=str(folder / "tensorboard"), purge_step=iteration + 1)

    def tell(self, event: Mapping[str, Any]) -> None:
        for name, value in event.items():
            if name not in ("event", "iteration", "best") and isinstance(value, int | float):
                self._writer.add_scalar(name, value, event["iteration"])

    def stop(self) -> None:
        self._writer.close()
