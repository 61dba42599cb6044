"""What the tests of this folder share: the fork server's other end, and looking at a store."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from support import Ran

from .fork_server import Order, Report

TINY = ("extract", "--backbone", "tiny", "--weights", "random", "--device", "cpu", "--batch", "3")
"""The command of every run that is compared with another: the batch shape is fixed."""


IDS = [
    "Abuse/clip001_x264",
    "Abuse/clip003_x264",
    "Abuse/clip005_x264",
    "Normal/clip000_x264",
    "Normal/clip002_x264",
    "Normal/clip004_x264",
]
NUM_FRAMES = {identifier: 18 + 3 * int(identifier[-6]) for identifier in IDS}


class ForkServer:
    """Runs the command line in a fresh process for each call, without importing anything again."""

    def __init__(self, environment: dict[str, str], warm_up: list[str]) -> None:
        program = Path(__file__).with_name("fork_server.py")
        one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, str(program), *warm_up],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **one_thread},
            text=True,
        )
        if self._read() != "ready\n":
            msg = "the fork server did not start"
            raise RuntimeError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._process:
            if self._process.stdin is not None:
                self._process.stdin.close()

    def __call__(self, *arguments: str | Path, folder: Path, **options: Any) -> Report:
        order = Order([str(argument) for argument in arguments], str(folder), **options)
        if self._process.stdin is None:
            raise ValueError
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        report = Report(**json.loads(self._read()))
        assert not report.timed_out, f"{order} did not end"
        return report

    def _read(self) -> str:
        if self._process.stdout is None:
            raise ValueError
        return self._process.stdout.readline()


def only_set(store: Path) -> Path:
    """Give the folder of the one feature set of a store."""
    (recipe,) = store.glob("*/recipe.json")
    return recipe.parent


def shard_hashes(store: Path) -> dict[str, str]:
    """Give path below the store -> sha256 of every shard."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.glob("*/shards/*/*"))
    }


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Give path -> (inode, mtime_ns, content) of everything below a folder, to see that nothing was touched."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_ino, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def json_lines(text: str) -> list[dict[str, Any]]:
    """Read JSON lines; a line that is not JSON raises."""
    return [json.loads(line) for line in text.splitlines()]


def events(ran: Ran, kind: str) -> list[dict[str, Any]]:
    return [line for line in json_lines(ran.out) if line["event"] == kind]


def statuses(ran: Ran) -> dict[str, str]:
    return {line["id"]: line["status"] for line in events(ran, "video")}


def by_action(ran: Ran) -> dict[str, tuple[str, str]]:
    return {line["id"]: (line["action"], line["reason"]) for line in events(ran, "plan")}


def json_documents(ran: Ran) -> list[dict[str, Any]]:
    documents = json.loads(ran.out)
    assert isinstance(documents, list)
    return documents
