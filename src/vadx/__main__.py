"""The ``vadx`` command, and ``python -m vadx``."""

from __future__ import annotations

import os
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with one of its codes."""
    try:
        from .pipelines.cli import main as command
    except KeyboardInterrupt:
        # Loading takes a tenth of a second, in which Ctrl-C would be told as a traceback.
        os.write(2, b"vadx: interrupted; the same command resumes\n")
        os._exit(130)
    command()


if __name__ == "__main__":
    main()
