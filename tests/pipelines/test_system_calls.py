"""System calls of a whole command that fail: making a set, remembering a failure, rewriting the index.

`tests/features/test_publish.py` does it for every call of one publish.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support import make_video
from vadx.features import Store

from .fork_server import Report
from .forking import TINY, ForkServer, json_lines, only_set, shard_hashes

FAULTS = ("tear", "enospc", "eio")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one good video and one that fails."""
    folder = tmp_path_factory.mktemp("inputs")
    make_video(folder / "good.mp4", num_frames=8)
    (folder / "text.mp4").write_text("not a video\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(forked: ForkServer, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    report = forked(*TINY, inputs, "--out", "store", folder=folder)
    assert report.code == 3
    return report, folder / "store"


def making_the_set(events: list[str]) -> list[int]:
    last = max(number for number, event in enumerate(events) if "recipe.json" in event)
    return list(range(last + 1))


def remembering_the_failure(events: list[str]) -> list[int]:
    of_it = [number for number, event in enumerate(events) if "/text" in event and "shards" not in event]
    return list(range(of_it[0], of_it[-1] + 1))


def rewriting_the_index(events: list[str]) -> list[int]:
    of_it = [number for number, event in enumerate(events) if "/tmp/clock" in event or "/tmp/index.json" in event]
    return list(range(of_it[0], of_it[-1] + 1))


PHASES: dict[str, Callable[[list[str]], list[int]]] = {
    function.__name__: function for function in (making_the_set, remembering_the_failure, rewriting_the_index)
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_call_that_fails_leaves_a_readable_store_that_a_rerun_repairs(
    phase: str, fault: str, forked: ForkServer, inputs: Path, undisturbed: tuple[Report, Path], tmp_path: Path
) -> None:
    clean, expected = undisturbed
    numbers = PHASES[phase](clean.events)
    assert len(numbers) >= 9
    codes = set()
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        report = forked(*TINY, inputs, "--out", "store", "--json", folder=folder, fault=fault, at=number)
        where = f"{fault} at {clean.events[number]}: {report.err}"
        codes.add(report.code)
        assert "Traceback" not in report.err, where
        if fault == "enospc" and phase != "rewriting_the_index" and must_succeed(clean.events[number]):
            assert report.code == 6, where
        if report.code == 6:
            assert " bytes were needed" in report.err, where
            assert "vadx: store" in report.err, where
            summaries = [line["exit_code"] for line in json_lines(report.out) if line["event"] == "summary"]
            assert summaries in ([], [6]), where
        assert report.code in ({-9} if fault == "tear" else {3, 6}), where
        assert_readable(folder / "store")
        again = forked(*TINY, inputs, "--out", "store", folder=folder)
        assert again.code == 3, where
        assert shard_hashes(folder / "store") == shard_hashes(expected), where
        assert failures(folder / "store") == failures(expected), where
        if phase == "remembering_the_failure":
            quiet = forked(*TINY, inputs, "--out", "store", "--json", folder=folder)
            assert not any("_BlockBuilder" in event for event in quiet.events), where
    assert codes == EXPECTED_CODES[fault, phase]


def must_succeed(event: str) -> bool:
    kind = event.split()[0]
    return kind in {"mkdir", "posix_fallocate", "write", "fsync", "link", "replace"} and "/runs/" not in event


EXPECTED_CODES = {
    ("tear", "making_the_set"): {-9},
    ("tear", "remembering_the_failure"): {-9},
    ("tear", "rewriting_the_index"): {-9},
    # Removing what is temporary may fail unnoticed, and one EIO of a publish is tried again.
    ("enospc", "making_the_set"): {3, 6},
    ("enospc", "remembering_the_failure"): {3, 6},
    ("enospc", "rewriting_the_index"): {3},
    ("eio", "making_the_set"): {3, 6},
    ("eio", "remembering_the_failure"): {3},
    ("eio", "rewriting_the_index"): {3},
}


def assert_readable(store: Path) -> None:
    for feature_set in Store(store).sets():
        assert all(np.isfinite(features.values).all() for features in feature_set.values())
        assert [error for _, error in feature_set.verify() if error is not None] == []
        feature_set.failures()


def failures(store: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for path in only_set(store).glob("failed/*/*.json"):
        raw = json.loads(path.read_text())
        found[path.name] = (raw["code"], raw["source"])
    return found


def test_a_disk_that_refuses_to_forget_a_failure_does_not_refuse_the_video(forked: ForkServer, tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_text("not a video\n")
    assert forked(*TINY, video, "--out", "store", folder=tmp_path).code == 3
    make_video(video, num_frames=8)
    shutil.copytree(tmp_path / "store", tmp_path / "rehearsal")
    events = forked(*TINY, video, "--out", "rehearsal", folder=tmp_path).events
    (number,) = [n for n, event in enumerate(events) if event.startswith("unlink") and "/failed/" in event]
    report = forked(*TINY, video, "--out", "store", folder=tmp_path, fault="eio", at=number)
    assert report.code == 0, report.err
    assert len(shard_hashes(tmp_path / "store")) == 1
    assert list(failures(tmp_path / "store")) == ["a.json"]
    assert "1 current" in forked(*TINY, video, "--out", "store", folder=tmp_path).err
    assert failures(tmp_path / "store") == {}
