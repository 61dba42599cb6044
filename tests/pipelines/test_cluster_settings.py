"""``[cluster.NAME]`` of the settings file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import Ran
from vadx.errors import UsageError
from vadx.pipelines.cli.worker_options import device_of
from vadx.pipelines.slurm_workers import ClusterSettings, cluster_settings

from .forking import TINY

Vadx = Callable[..., Ran]

FILE = Path("vadx.toml")


def test_a_table_is_read() -> None:
    table = {"workers": 8, "partition": "gpu", "time": "04:00:00", "directives": ["--nice=100"], "gpus": 0}
    assert cluster_settings(FILE, "lab", {"lab": table}) == ClusterSettings(
        workers=8, partition="gpu", time="04:00:00", directives=("--nice=100",), gpus=0
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, r"describes no cluster 'lab': it has no \[cluster.NAME\]"),
        ({"home": {}}, r"describes no cluster 'lab': there are home"),
        ({"lab": {"partitoin": "gpu"}}, "no setting 'partitoin'; did you mean partition"),
        ({"lab": {"workers": "8"}}, "workers of .* is a whole number, got '8'"),
        ({"lab": {"workers": True}}, "workers of .* is a whole number, got True"),
        ({"lab": {"memory": 32}}, "memory of .* is a text, got 32"),
        ({"lab": {"directives": "--nice"}}, "directives of .* is a list of texts"),
        ({"lab": {"workers": 0}}, "a cluster has workers"),
        ({"lab": {"gpus": -1}}, "a cluster has workers"),
    ],
)
def test_what_cannot_be_meant_is_refused(tables: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cluster_settings(FILE, "lab", tables)


@pytest.mark.parametrize(
    ("gpus", "device", "kind"), [(1, "auto", "cuda"), (0, "auto", "cpu"), (0, "cuda", "cuda"), (1, "cpu", "cpu")]
)
def test_the_device_is_that_of_the_cluster(
    gpus: int, device: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vadx.toml").write_text(f"[cluster.lab]\ngpus = {gpus}\n")
    assert str(device_of({"device": device, "cluster": "lab", "scheduler": None})) == kind


def test_a_cluster_is_no_command(six_videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    (tmp_path / "vadx.toml").write_text("[cluster.lab]\nworkers = 2\n\n[extract]\nbatch = 3\n")
    assert vadx_here(*TINY, six_videos, "--out", "store").code == 0
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--cluster", "home")
    assert (ran.code, "describes no cluster 'home': there are lab" in ran.err) == (2, True)


def test_without_a_settings_file_there_is_no_cluster(six_videos: Path, vadx_here: Vadx) -> None:
    ran = vadx_here(*TINY, six_videos, "--out", "other", "--cluster", "lab")
    assert (ran.code, "there is no vadx.toml here" in ran.err) == (2, True)
