"""What workers of a test do with their share: nothing, with a record of it, or what ends them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vadx.errors import StoreWriteError
from vadx.pipelines.inputs import Entry
from vadx.pipelines.job import Outcome


def noting(entries: Sequence[Entry], jobs: Sequence[Any], **options: Any) -> Iterator[list[Outcome]]:
    """Do nothing to a video but what its name says, and note in the folder ``jobs[0]`` that it was begun."""
    for entry in entries:
        with Path(jobs[0], entry.id).open("a") as file:
            file.write(f"{os.getpid()}\n")
        if "deadly" in entry.id:
            os._exit(1)
        if "full" in entry.id:
            msg = "the disk is full: free space"
            raise StoreWriteError(msg)
        if "buggy" in entry.id:
            msg = "a bug"
            raise KeyError(msg)
        while "slow" in entry.id:
            time.sleep(0.05)
            options["check"]()
        yield [Outcome(entry.id, str(entry.path), "done", "new") for _ in jobs]
