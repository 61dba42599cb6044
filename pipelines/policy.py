"""When a run begins no further video although there are some: enough were done, or too many failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .job import Outcome

_BYTES = {"MB": 10**6, "GB": 10**9}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many videos of a run may fail before no other is begun: ``count`` of them, or a ``share`` above this.

    A share is first looked at when ``at_least`` videos were tried. By default more than a fifth of 20 or more, which
    is rather a share that is not mounted than so many bad videos.
    """

    count: int | None = None
    share: float = 0.2
    at_least: int = 20

    def reached(self, num_failed: int, num_tried: int) -> bool:
        """Whether this many failures among those tried are enough."""
        if self.count is not None:
            return num_failed >= self.count
        return num_tried >= self.at_least and num_failed > self.share * num_tried

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{100 * self.share:g}%"


def parse_failure_limit(text: str) -> FailureLimit:
    """Read ``--max-failures``: a number of videos, or a percentage. Raises `UsageError` for anything else."""
    if (count := re.fullmatch(r"\d{1,9}", text)) and int(text) > 0:
        return FailureLimit(count=int(count[0]))
    if (percent := re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text)) and float(percent[1]) <= 100:
        return FailureLimit(share=float(percent[1]) / 100)
    msg = f"--max-failures is a number of videos from 1, or a percentage such as 20%; got {text!r}"
    raise UsageError(msg)


def parse_duration(option: str, text: str) -> float:
    """Read an option that is a time, such as ``3h50m``, ``90s`` or ``45m``, in seconds. Raises `UsageError`."""
    found = _DURATION.fullmatch(text)
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not seconds:
        msg = f"{option} is a time such as 3h50m, 45m or 90s; got {text!r}"
        raise UsageError(msg)
    return float(seconds)


def parse_bytes(option: str, text: str) -> int:
    """Read an option that is a size, such as ``500MB`` or ``2.5GB``, in bytes. Raises `UsageError`."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(MB|GB)", text)
    num_bytes = round(float(found[1]) * _BYTES[found[2]]) if found else 0
    if not num_bytes:
        msg = f"{option} is a size such as 500MB or 4GB; got {text!r}"
        raise UsageError(msg)
    return num_bytes


def parse_part(text: str) -> tuple[int, int]:
    """Read ``--part I/N``: the I-th of N, counted from 1. Raises `UsageError`."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        msg = f"--part is I/N, the I-th of N parts counted from 1, such as 1/16; got {text!r}"
        raise UsageError(msg)
    return int(found[1]), int(found[2])


@dataclass(slots=True)
class Allowance:
    """What a run may still begin.

    ``limit`` is the number of videos that may be worked on, None for all. Of what was ``tried``, ``failed`` counts the
    new failures: those remembered from before cost nothing, and do not say that something is wrong now.
    """

    limit: int | None = None
    failures: FailureLimit = FailureLimit()
    spent: int = 0
    tried: int = 0
    failed: int = 0

    def covers(self, num_begun: int) -> bool:
        """Whether one more may be begun, if each of those begun is work."""
        return (self.limit is None or self.spent + num_begun < self.limit) and self.stop_reason is None

    def note(self, outcomes: list[Outcome]) -> None:
        """Count a settled video: what became of it in each set."""
        self.spent += any(_was_work(outcome) for outcome in outcomes)
        self.failed += any(_failed_now(outcome) for outcome in outcomes)
        self.tried += any(_failed_now(outcome) or _was_work(outcome) for outcome in outcomes)

    @property
    def stop_reason(self) -> str | None:
        """Why no other video is begun, or None: so many failures."""
        if not self.failures.reached(self.failed, self.tried):
            return None
        return f"{self.failed} of the {self.tried} videos that were tried failed (--max-failures {self.failures})"


def _failed_now(outcome: Outcome) -> bool:
    return outcome.status == "failed" and outcome.reason != "failed before"


def _was_work(outcome: Outcome) -> bool:
    # What only its surroundings can mend does not count, or it would be all that is ever tried.
    return outcome.status in ("done", "degraded") or (_failed_now(outcome) and not outcome.retriable)
