"""What workers of a test do with their share: nothing, with a record of it, or what ends them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vadx.errors import StoreWriteError
from vadx.pipelines import worker_reports
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


BYTES_A_SECOND = 1_000_000


def sleeping(entries: Sequence[Entry], jobs: Sequence[Any], **_options: Any) -> Iterator[list[Outcome]]:
    """Take as long for a video as the size of its file says, and do nothing."""
    for entry in entries:
        num_bytes = entry.path.stat().st_size
        if num_bytes:
            time.sleep(num_bytes / BYTES_A_SECOND)
        yield [Outcome(entry.id, str(entry.path), "done", "new") for _ in jobs]


def ticking(entries: Sequence[Entry], jobs: Sequence[Any], **options: Any) -> Iterator[list[Outcome]]:
    """Tell of 50 frames of each video, a hundred a second; note whether somebody listens, and a second of waiting."""
    on_frames = options.get("on_frames")
    # Ten times as often as a run's workers tell, so that nobody waits.
    often, worker_reports.REPORT_SECONDS = worker_reports.REPORT_SECONDS, 0.1
    try:
        for entry in entries:
            for count in range(1, 51):
                if on_frames is not None:
                    time.sleep(0.01)
                    on_frames(entry, count, worker_reports.Length(50, 25.0))
            options["effort"].waited_for_frames += 1.0
            notes = ("silent",) if on_frames is None else ("told",)
            yield [Outcome(entry.id, str(entry.path), "done", "new", notes=notes) for _ in jobs]
    finally:
        worker_reports.REPORT_SECONDS = often


def counting(entries: Sequence[Entry], jobs: Sequence[Any], **options: Any) -> Iterator[list[Outcome]]:
    """Note of each video with how many decoders and threads it would be worked on."""
    import torch

    for entry in entries:
        notes = (str(options["num_decoders"]), str(torch.get_num_threads()))
        yield [Outcome(entry.id, str(entry.path), "done", "new", notes=notes) for _ in jobs]
