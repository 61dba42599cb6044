"""The command line with options that nobody means: an exit code of the table and a message, never a traceback."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import rich_click as click

from support import make_video
from vadx.errors import EXIT_CODES
from vadx.features.pack import pack_set
from vadx.pipelines.cli import COMMANDS, cli, run

from .mutations import Random, pick
from .rotten import FILES, make_store

LEFT_OUT = frozenset({"demo", "bench", "worker"})
"""Commands that work for minutes, or wait for others, whatever they are given."""

_NOT_RUN = frozenset({"fetch"})
_ONLY_REFUSED = frozenset({"workers", "scheduler", "cluster", "engine", "scheduler_file", "decoders", "wait"})
"""Options that would start processes or compile networks: they get what cannot be meant."""

WORDS = (
    *(
        "tiny",
        "i3d",
        "rtfm",
        "vadx-store",
        "packed.h5",
        "bags.h5",
        "model",
        "videos",
        "videos/a.mp4",
        "missing",
        "/dev/null",
    ),
    *(
        "m.csv",
        "det.csv",
        ".",
        "..",
        "",
        " ",
        "-",
        "--",
        "-1",
        "0",
        "1",
        "3.5",
        "nan",
        "1e99",
        "9" * 30,
        "a=b",
        "a=",
        "=",
        "1/2",
    ),
    *(
        "é" * 300,
        "\x1b[31m",
        "\udcff",
        "%s",
        "*",
        "[",
        "a:b",
        "random",
        "random:1",
        "auto",
        "csv",
        "cam/1",
        "../x",
        "~",
        "x\ny",
    ),
)
BAD = ("", "-1", "nan", "x\ny", "é", "9" * 30, "a:b:c")


class Unmeant(AssertionError):
    """What a command must never do."""


class CommandCases:
    """Types commands in a folder that holds a little of everything."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        made = make_store(folder / "made")
        made.path.parent.rename(folder / "vadx-store")
        from vadx.features.store import Store

        pack_set(next(iter(Store(folder / "vadx-store").sets())), folder / "packed.h5")
        (folder / "more").mkdir()
        FILES["bags file"](folder / "more").path.rename(folder / "bags.h5")
        FILES["model.json"](folder / "more")
        (folder / "more" / "model").rename(folder / "model")
        make_video(folder / "videos" / "a.mp4", num_frames=6, width=32, height=32)
        (folder / "videos" / "b.mp4").write_text("no video\n")
        (folder / "m.csv").write_text("id,label\ncam/1,1\ncam/2,0\n")
        (folder / "det.csv").write_text("frame,x1,y1,x2,y2\n0,1,2,3,4\n")
        os.chdir(folder)
        os.environ["VADX_HOME"] = str(folder / "home")
        # Nothing here is to reach a network: it would be slow, and rude.
        os.environ |= {
            name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        }

    def run(self, random: Random) -> str:
        words = list(self._words(random))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(words)
        text = out.getvalue() + err.getvalue()
        if code not in EXIT_CODES:
            msg = f"exit code {code} of {words!r}"
            raise Unmeant(msg)
        if "Traceback (most recent" in text:
            msg = f"a traceback of {words!r}: {text[-2000:]}"
            raise Unmeant(msg)
        quiet = {"-q", "--quiet"} & set(words)
        if code not in (0, 3) and not text.strip() and not quiet:
            msg = f"no word beside exit code {code} of {words!r}"
            raise Unmeant(msg)
        return f"{words[0]}; exit {code}"

    def _words(self, random: Random) -> Iterator[str]:
        name = pick(random, sorted(set(COMMANDS) - LEFT_OUT))
        yield name
        context = click.Context(cli)
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            sub = pick(random, sorted(set(command.commands) - _NOT_RUN))
            yield sub
            command = command.commands[sub]
        if command is None:
            raise Unmeant(name)
        options = [one for one in command.params if isinstance(one, click.Option)]
        for option in options:
            if random.random() < min(0.4, 3 / len(options)):
                yield from self._option(option, random)
        if name == "train":
            yield from ("--iterations", "1")
        for _ in range(int(random.integers(3))):
            yield pick(random, WORDS)

    def _option(self, option: click.Option, random: Random) -> Iterator[str]:
        yield pick(random, [*option.opts, *option.secondary_opts])
        if option.is_flag or option.count:
            return
        for _ in range(option.nargs):
            if option.name in _ONLY_REFUSED:
                yield pick(random, BAD)
            elif isinstance(option.type, click.Choice) and random.random() < 0.7:
                yield str(pick(random, [str(choice) for choice in option.type.choices]))
            else:
                yield pick(random, WORDS)
