"""A real SLURM runs vadx: a job array that is stopped, requeued and finishes, and workers that it starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Ran, make_video, vadx_environment

from .forking import TINY, shard_hashes
from .slurm import slurm_cluster

Vadx = Callable[..., Ran]

pytestmark = [pytest.mark.timeout(300), pytest.mark.slurm]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**vadx_environment(), **{name: environment[name] for name in ("SLURM_CONF", "PATH")}}


def states(job: str, environment: dict[str, str]) -> set[str]:
    """Give the states of a job's tasks, none once SLURM has forgotten it."""
    words = ["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T"]
    return set(subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout.split())


def submit(script: str, folder: Path, environment: dict[str, str]) -> str:
    (folder / "job.sbatch").write_text(script)
    done = subprocess.run(
        ["sbatch", "--parsable", "--export=ALL", "job.sbatch"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


def told_its_time_is_up(job: str, environment: dict[str, str]) -> None:
    """Do what SLURM itself does 90 s before the end: it tells the script, which tells vadx, and then asks for more."""
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=environment, check=True)


def requeued_by_slurm(job: str, environment: dict[str, str]) -> None:
    """Do what SLURM does where others need its node: SIGTERM to all of it, SIGKILL in the end, and another start."""
    subprocess.run(["scontrol", "requeue", job], env=environment, check=True)


@pytest.mark.parametrize("stop", [told_its_time_is_up, requeued_by_slurm])
def test_a_job_array_stops_is_requeued_and_finishes(
    stop: Callable[[str, dict[str, str]], None],
    slurm: dict[str, str],
    store: Path,
    six_videos: Path,
    vadx_here: Vadx,
    tmp_path: Path,
) -> None:
    script = vadx_here(
        *("slurm-script", "--parts", "2", "--time", "5", "--gpus", "0", "--cpus", "1", "--memory", "1500M", "--"),
        *(*TINY, six_videos, "--out", tmp_path / "other", "--decoders", "0"),
    ).out
    holding = tmp_path / "hold"
    holding.touch()
    job = submit(script, tmp_path, {**slurm, "VADX_TINY_HOLD": str(holding)})
    logs = [tmp_path / f"vadx-{job}_{part}.log" for part in (1, 2)]
    wait_for(lambda: all(log.exists() and "videos" in log.read_text() for log in logs))
    for part in (1, 2):
        stop(f"{job}_{part}", slurm)
    holding.unlink()
    wait_for(lambda: is_complete(job, slurm))
    assert [log.read_text().count("the same command resumes") for log in logs] == [1, 1]
    assert [log.read_text().count("videos") for log in logs] == [2, 2]
    assert shard_hashes(tmp_path / "other") == shard_hashes(store)


def is_complete(job: str, environment: dict[str, str]) -> bool:
    """Say whether all tasks of an array have done their work. Those that were requeued, which SLURM holds back for two
    minutes and shows as failed before it lets them wait, are let begin at once.
    """
    found = states(job, environment)
    if "PENDING" in found:
        # Within the same seconds its nodes would still refuse a job that they have just given up.
        time.sleep(3)
        for part in (1, 2):
            words = ["scontrol", "update", f"jobid={job}_{part}", "StartTime=now"]
            subprocess.run(words, env=environment, capture_output=True, check=False)
    return found <= {"COMPLETED"}


def test_workers_that_slurm_starts_do_a_run(slurm: dict[str, str], tmp_path: Path) -> None:
    for number in range(20):
        make_video(tmp_path / "v" / f"clip{number:02d}.mp4", num_frames=8 + number, seed=number)
    (tmp_path / "vadx.toml").write_text(
        '[cluster.here]\nworkers = 2\ngpus = 0\ncpus = 1\nmemory = "1500M"\ntime = "00:05:00"\ninterface = "lo"\n'
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**slurm, "HOME": str(home)}
    words = [sys.executable, "-m", "vadx", *TINY, "v", "--decoders", "0", "--json"]
    far, near = (
        subprocess.run([*words, "--out", out, *where], cwd=tmp_path, env=environment, capture_output=True, text=True)
        for out, where in (("far", ["--cluster", "here"]), ("near", []))
    )
    assert (far.returncode, near.returncode) == (0, 0), far.stderr
    assert len(shard_hashes(tmp_path / "far")) == 20
    assert shard_hashes(tmp_path / "far") == shard_hashes(tmp_path / "near")
    # Keys and logs of the run, and its jobs, are gone with it.
    assert list(home.glob(".vadx-*")) == []
    wait_for(lambda: not states_of_user(environment) & {"RUNNING", "PENDING"})


def states_of_user(environment: dict[str, str]) -> set[str]:
    words = ["squeue", "-h", "-o", "%T"]
    return set(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split())
