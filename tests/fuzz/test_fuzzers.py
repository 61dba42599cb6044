"""Thousands of cases at every change, and all that ever found something. `run.py` goes on for hours."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .host import FUZZERS, SELF_TEST
from .hunting import Case, Host, hunt

SEED = int(os.environ.get("VADX_FUZZ_SEED", "20261122"))
COUNTS = {"video": 2000, "hdf5": 3000, "text": 1000, "command": 500}

FOUND = {
    # An address behind the end of any file, which no system seeks.
    "hdf5": ((2, 1237), (2, 1707)),
    # Headers of arrays that Python's tokenizer gives up on.
    "text": ((2, 17), (2, 154), (2, 327), (2, 470)),
    # Names that are too long for the file system.
    "command": ((2, 35), (2, 1267), (2, 1733)),
}
"""Fuzzer -> seed and number of cases that were violations once. A change of the fuzzer makes other cases of them."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("fuzz")) as host:
        yield host


def violations(cases: Iterator[Case]) -> list[Case]:
    return [case for case in cases if case.is_violation]


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_no_case_does_what_no_file_may_make_vadx_do(fuzzer: str, host: Host) -> None:
    print(f"seed {SEED}")
    cases = list(hunt(host, fuzzer, SEED, range(COUNTS[fuzzer])))
    assert violations(iter(cases)) == []
    # A fuzzer whose cases are all refused at the door, or all harmless, tries nothing.
    assert len({case.what for case in cases}) > 10


@pytest.mark.parametrize("fuzzer", FOUND)
def test_what_was_found_once_is_mended(fuzzer: str, host: Host) -> None:
    assert violations(host.run(fuzzer, seed, number) for seed, number in FOUND[fuzzer]) == []


HARMS = {"an error of Python": "violation", "a hang": "died", "a signal": "died", "a refusal": "refused"}


def test_a_host_tells_what_a_case_did_and_goes_on(host: Host) -> None:
    for harm, outcome in HARMS.items():
        case = host.run(SELF_TEST, SEED, list(HARMS).index(harm))
        assert (harm, case.outcome) == (harm, outcome), case
