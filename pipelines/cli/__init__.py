"""The command line. Each command's module is loaded when the command is used, and heavy libraries later still."""

from __future__ import annotations

import errno
import importlib
import keyword
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import rich_click as click
from click.exceptions import Exit

from ... import __version__
from ...errors import Stopped, UsageError, VadxError
from ...extract.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

COMMANDS = {
    "extract": "extract",
    "tubes": "tubes",
    "bags": "bags",
    "train": "train",
    "eval": "eval",
    "score": "score",
    "report": "report",
    "export": "export",
    "import": "imports",
    "ls": "stores",
    "info": "stores",
    "diff": "diff",
    "pack": "pack",
    "verify": "stores",
    "gc": "stores",
    "runs": "runs",
    "worker": "worker",
    "slurm-script": "slurm",
    "probe": "machine",
    "doctor": "machine",
    "errors": "errors",
    "manifest": "manifest",
    "backbones": "machine",
    "detectors": "machine",
    "presets": "presets",
    "weights": "weights",
    "bench": "bench",
    "demo": "demo",
}
"""Command -> the module of this package that holds it."""


_LISTINGS = frozenset(
    {"ls", "info", "backbones", "detectors", "presets", "weights", "doctor", "manifest", "runs", "errors"}
)
_OUTPUT_REFUSED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class LazyGroup(click.RichGroup):
    """A group that knows its commands by name, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name]}", __name__)
        # No function can be called `import` or `slurm-script`.
        name = cmd_name.replace("-", "_")
        command = getattr(module, f"{name}_" if keyword.iskeyword(name) else name)
        if not isinstance(command, click.Command):
            msg = f"{module.__name__}.{cmd_name} is not a command"
            raise TypeError(msg)
        return command


CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "VADX", "max_content_width": 110}


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="vadx")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Features for video anomaly detection, computed once and kept.

    \b
    vadx extract --backbone i3d videos/     features of every video below videos/
    vadx ls                                 what the store holds
    vadx demo                               see it work on real clips

    Exit codes: 0 fine, 1 failed, 2 usage, 3 some videos failed, 4 a check found problems, 5 no input, 6 the
    environment stopped the run, 130 and 143 interrupted. After 3, 6, 130 and 143 the same command resumes.
    """
    from ..config import default_map

    ctx.default_map = default_map(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with one of its codes."""
    # Before any thread: those of hashes and of displays come before the first network.
    keep_freed_memory()
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code, every error told on stderr in one place."""
    try:
        result = cli.main(args=arguments, prog_name="vadx", standalone_mode=False)
    except VadxError as error:
        click.echo(f"vadx: {_harmless(str(error))}", err=True)
        return error.exit_code
    except Exit as error:
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # click makes an Abort of every KeyboardInterrupt; a Stopped knows the exit code of its signal.
        stopped = error.__context__
        message = stopped if isinstance(stopped, Stopped) else "interrupted; the same command resumes"
        click.echo(f"vadx: {message}", err=True)
        return stopped.exit_code if isinstance(stopped, Stopped) else 130
    except SystemExit as error:
        # The reader of our output left (vadx ls | head): nothing is wrong with a listing, but a run was cut short.
        if isinstance(error.__context__, BrokenPipeError):
            words = sys.argv[1:] if arguments is None else arguments
            return 0 if words and words[0] in _LISTINGS else 1
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = _harmless(f"{error.filename!s:.60}")
            click.echo(f"vadx: {name}…: no file can have a name of this length; check what was meant", err=True)
            return UsageError.exit_code
        if error.errno not in _OUTPUT_REFUSED:
            raise
        # Every write to a store is translated where it happens: this one was to stdout.
        click.echo(f"vadx: the output cannot be written: {error.strerror}; what was stored is safe", err=True)
        return 6
    return result if isinstance(result, int) else 0


def _harmless(message: str) -> str:
    # Names of videos and files stand in messages, and a terminal obeys control characters.
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "surrogatepass").decode() for c in message
    )


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # Outside a run (`StopSignals`) nothing half-written can be left; an exception would be lost inside an import.
    os.write(2, b"vadx: stopped; the same command resumes\n")
    os._exit(Stopped(number).exit_code)
