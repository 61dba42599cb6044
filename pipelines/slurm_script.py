"""A batch script for SLURM that resumes itself until all is done."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError

SIGNAL_SECONDS = 90
"""How long before a job's time is up vadx is told. It takes 10 seconds at most to leave; SLURM's clock ticks slowly."""

RESUMABLE = frozenset({"extract", "import", "tubes"})
"""Commands that go on where they were, and take ``--part``."""

_DIRECTIVE = re.compile(r"--[a-z][a-z0-9-]*(=[^\n\r\0]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """What a job asks SLURM for. ``parts`` is the size of the job array, 1 for none; ``directives`` are sbatch's own.

    Raises
    ------
    UsageError
        for what cannot stand on a line of a batch script.
    """

    name: str = "vadx"
    parts: int = 1
    time: str = "24:00:00"
    gpus: int = 1
    cpus: int = 8
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    directives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for directive in self.lines():
            if not _DIRECTIVE.fullmatch(directive):
                msg = f"{directive!r} is no option of sbatch; give it as --directive=--nice=100"
                raise UsageError(msg)

    def lines(self) -> list[str]:
        """Give sbatch's options."""
        is_array = self.parts > 1
        named = {"mem": self.memory, "partition": self.partition, "account": self.account}
        return [
            f"--job-name={self.name}",
            *([f"--array=1-{self.parts}"] if is_array else []),
            f"--time={self.time}",
            *([f"--gres=gpu:{self.gpus}"] if self.gpus else []),
            f"--cpus-per-task={self.cpus}",
            *(f"--{option}={value}" for option, value in named.items() if value is not None),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{SIGNAL_SECONDS}",
            f"--output={self.name}-{'%A_%a' if is_array else '%j'}.log",
            *self.directives,
        ]


def slurm_script(program: Sequence[str], words: Sequence[str], job: SlurmJob) -> str:
    """Give the script that runs ``program`` with ``words``, a command of `RESUMABLE` and its arguments.

    SLURM itself requeues a job that is preempted or whose node fails. When the job's time is nearly up it sends
    SIGUSR1, and the script requeues the job once vadx has left. SIGTERM, as of ``scancel``, ends the job for good.

    Raises
    ------
    UsageError
        for another command, or one that names its part itself.
    """
    if not words or words[0] not in RESUMABLE:
        msg = (
            f"a batch script runs one of {', '.join(sorted(RESUMABLE))}; give the command after --: "
            "vadx slurm-script --parts 16 -- extract --backbone i3d videos/"
        )
        raise UsageError(msg)
    if any(word == "--part" or word.startswith("--part=") for word in words):
        msg = "leave --part out: --parts N makes a job array whose tasks each take one"
        raise UsageError(msg)
    line = shlex.join([*program, *words])
    if job.parts > 1:
        line += ' --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
    task = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if job.parts > 1 else "$SLURM_JOB_ID"
    directives = "\n".join(f"#SBATCH {one}" for one in job.lines())
    return f"""#!/bin/bash
{directives}

child=
told=
requeue=
trap 'told=USR1; requeue=1; [ -z "$child" ] || kill -USR1 "$child"' USR1
trap 'told=TERM; requeue=; [ -z "$child" ] || kill -TERM "$child"' TERM

# Exit code 143: stopped in time, and the same command resumes.
{line} &
child=$!
[ -z "$told" ] || kill "-$told" "$child"
while :; do
    # A trapped signal ends `wait` before the child has left.
    told=
    wait "$child"
    ended=$?
    # 127: waited for already.
    [ "$ended" = 127 ] || code=$ended
    [ -n "$told" ] || break
done
# 138: the signal came before vadx could listen.
if [ -n "$requeue" ] && {{ [ "$code" = 143 ] || [ "$code" = 138 ]; }}; then
    scontrol requeue "{task}"
fi
exit "$code"
"""
