"""A fault at every system call of what is done with a store: pack, unpack, gc, index, failure, store, bags.

A dozen calls of each fail, each in another way; with ``VADX_EVERY_FAULT=1`` all of them in all ways.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EVERY_FAULT = "VADX_EVERY_FAULT" in os.environ


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    tests = Path(__file__).parent.parent
    root = str(tmp_path_factory.mktemp("faults") / "root")
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.store_faults", root, *(["every-fault"] if EVERY_FAULT else [])],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_fault_at_any_call_leaves_what_must_not_be(observations: list[dict[str, Any]]) -> None:
    assert [one for one in observations if one["wrong"]] == []


def test_every_operation_met_every_fault(observations: list[dict[str, Any]]) -> None:
    met = Counter(one["operation"] for one in observations)
    assert len(observations) >= (600 if EVERY_FAULT else 50)
    assert min(met.values()) >= 3
    assert len(met) == 7
    assert {one["outcome"] for one in observations} >= {"done", "killed", "StoreWriteError"}
