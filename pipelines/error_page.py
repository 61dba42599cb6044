"""Everything that can go wrong by name, as a person reads it: the command and docs/errors.md are made from `errors`."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import CODES, EXIT_CODES, RUN_ERRORS, Stopped, UsageError, VideoError

_HEAD = """\
# Errors

Made by `vadx errors --markdown` from the tables of `src/vadx/errors.py`; a test compares it with them. `vadx errors
NAME` says one of these on a terminal.

A message says what, which file, the evidence, what has become of the work, and what to do next:

```text
{example}
```

## A video that fails

It costs itself alone: nothing of it is stored, the other videos go on, and the run ends with exit code 3 and a list of
what failed. `--fail-fast` and `--max-failures` end a run earlier. What is *remembered* stands in `failed/` and is told
again by the next run without decoding, until the file changes or `--retry-failed` is given; that run ends with 3 too.
What is *tried again* is not: the same command tries it once more, because its cause may have gone.

`vadx score` and `vadx eval` say `error[SCORE]` of a video that has features and no scores, and why; a report says
`SHARD_` and the kind of damage of one whose shard is damaged.
"""

_RUNS = """\
## An error that ends a command

The classes of `vadx.errors`; each is also the builtin that fits it, as `WeightsError` is a `LookupError`. What is no
error of vadx is translated where it happens, its cause kept.
"""

_DAMAGES = """\
## Kinds of damage

What a `ShardError` and `vadx verify` say of a shard, and of the records beside it.
"""

_EXITS = """\
## Exit codes

After 3, 6, 130 and 143 the same command resumes.
"""


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """What a person wants to know of a code or an error class. ``exit_codes`` are those that it can end a command with.

    ``again`` is what the next run does with a video of this code, None for an error class.
    """

    name: str
    cause: str
    consequence: str
    cure: str
    exit_codes: list[int]
    again: str | None = None


def error_lines() -> list[ErrorLine]:
    """Give every code of a video, then every error of a run, in the order of their tables."""
    return [*_code_lines(), *_run_lines()]


def _code_lines() -> list[ErrorLine]:
    lines = []
    for name, info in CODES.items():
        again = "remembered" if info.remembered else "tried again" if info.retriable else "looked at in each run"
        consequence = "nothing of this video is stored; the others go on"
        lines.append(ErrorLine(name, info.cause, consequence, info.cure, [3], again))
    return lines


def _run_lines() -> list[ErrorLine]:
    return [
        ErrorLine(
            kind.__name__,
            info.cause,
            info.consequence,
            info.cure,
            sorted({Stopped(2).exit_code, Stopped(15).exit_code}) if kind is Stopped else [kind.exit_code],
        )
        for kind, info in RUN_ERRORS.items()
    ]


def find_error(name: str) -> ErrorLine:
    """Give the line of a code or an error class, whatever the case of its letters. Raises `UsageError`."""
    known = {line.name.upper(): line for line in error_lines()}
    if name.upper() not in known:
        near = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f"did you mean {known[near[0]].name}? " if near else ""
        msg = f"there is no error named {name!r}; {hint}list them with: vadx errors"
        raise UsageError(msg)
    return known[name.upper()]


def markdown() -> str:
    """Give docs/errors.md."""
    from ..features.shard import DAMAGE

    codes = [(f"`{line.name}`", line.cause, line.cure, line.again or "") for line in _code_lines()]
    runs = [
        (f"`{line.name}`", " or ".join(map(str, line.exit_codes)), line.cause, line.consequence, line.cure)
        for line in _run_lines()
    ]
    damages = [(f"`{kind}`", meaning) for kind, meaning in DAMAGE.items()]
    exits = [(str(code), meaning) for code, meaning in EXIT_CODES.items()]
    return "\n".join(
        [
            _HEAD.format(example=textwrap.fill(_example(), 100, break_on_hyphens=False)),
            *_table(("code", "cause", "what to do", "next run"), codes),
            "",
            _RUNS,
            *_table(("error", "exit", "cause", "what has become of the work", "what to do"), runs),
            "",
            _DAMAGES,
            *_table(("kind", "meaning"), damages),
            "",
            _EXITS,
            *_table(("code", "meaning"), exits),
            "",
        ]
    )


def _example() -> str:
    evidence = "decoded 36 of 120 declared frames, which cover 28% of its stated duration"
    error = VideoError("VIDEO_TRUNCATED", "cam3/0712.mp4", evidence)
    return f"error[{error.code}] {error}"


def _table(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, *rows)]
    return [lines[0], f"|{'---|' * len(headers)}", *lines[1:]]
