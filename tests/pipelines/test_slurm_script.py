"""``vadx slurm-script``: its script under bash, with a vadx and a scontrol that note what happens."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Ran
from vadx.errors import UsageError
from vadx.pipelines.slurm_script import SlurmJob, slurm_script

Vadx = Callable[..., Ran]

WORDS = ("extract", "--backbone", "i3d", "my videos/it's", "--out", "store")

# Says what it was given, then waits to be told to leave, as vadx does.
STAND_IN = """#!/bin/bash
printf '%s\\n' "$@" > arguments
trap 'echo USR1 >> signals; sleep 0.2; exit 143' USR1
trap 'echo TERM >> signals; sleep 0.2; exit 143' TERM
[ -e at_once ] && exit "$(cat at_once)"
touch began
for _ in $(seq 600); do sleep 0.05; done
"""


@pytest.fixture
def bash(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a script as SLURM would, with stand-ins for vadx and scontrol."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "vadx").write_text(STAND_IN)
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" >> requeued\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def start(script: str, **variables: str) -> subprocess.Popen[bytes]:
        (tmp_path / "job.sbatch").write_text(script)
        environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "77", **variables}
        return subprocess.Popen(["bash", "job.sbatch"], cwd=tmp_path, env=environment)

    return start


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "requeued"), [("SIGUSR1", "requeue 77\n"), ("SIGTERM", None)])
def test_only_a_job_whose_time_is_up_is_requeued(
    name: str, requeued: str | None, tmp_path: Path, bash: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = bash(slurm_script(["vadx"], WORDS, SlurmJob()))
    wait_for(tmp_path / "began")
    process.send_signal(getattr(signal, name))
    assert process.wait() == 143
    assert (tmp_path / "signals").read_text() == f"{name.removeprefix('SIG')}\n"
    assert (tmp_path / "arguments").read_text().splitlines() == list(WORDS)
    noted = tmp_path / "requeued"
    assert (noted.read_text() if noted.exists() else None) == requeued


@pytest.mark.timeout(60)
def test_a_signal_that_came_before_vadx_could_listen_requeues_too(
    tmp_path: Path, bash: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "bin" / "vadx").write_text("#!/bin/bash\ntouch began\nexec sleep 30\n")
    process = bash(slurm_script(["vadx"], WORDS, SlurmJob()))
    wait_for(tmp_path / "began")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 138
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"


@pytest.mark.timeout(60)
def test_a_task_of_an_array_takes_its_part_and_requeues_itself_alone(
    tmp_path: Path, bash: Callable[..., subprocess.Popen[bytes]]
) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    process = bash(slurm_script(["vadx"], WORDS, SlurmJob(parts=16)), **array)
    wait_for(tmp_path / "began")
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 143
    assert (tmp_path / "arguments").read_text().splitlines() == [*WORDS, "--part", "3/16"]
    assert (tmp_path / "requeued").read_text() == "requeue 70_3\n"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("code", [0, 3, 6])
def test_a_command_that_ends_by_itself_gives_its_code(
    code: int, tmp_path: Path, bash: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "at_once").write_text(str(code))
    assert bash(slurm_script(["vadx"], WORDS, SlurmJob())).wait() == code
    assert not (tmp_path / "requeued").exists()


def test_the_command_prints_what_sbatch_reads(vadx_here: Vadx) -> None:
    ran = vadx_here(
        "slurm-script", "--parts", "16", "--time", "4:00:00", "-p", "gpu", "--memory", "32G",
        "--directive=--nice=100", "--", *WORDS,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")] == [
        "--job-name=vadx",
        "--array=1-16",
        "--time=4:00:00",
        "--gres=gpu:1",
        "--cpus-per-task=8",
        "--mem=32G",
        "--partition=gpu",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@90",
        "--output=vadx-%A_%a.log",
        "--nice=100",
    ]
    (command,) = [line for line in lines if line.endswith(" &")]
    assert shlex.split(command)[1:-1] == [
        "-m", "vadx", *WORDS, "--part", "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the command after --"),
        (("ls",), "runs one of extract, import, tubes;"),
        (("extract", "v", "--part", "1/2"), "leave --part out"),
        (("extract", "v", "--part=1/2"), "leave --part out"),
    ],
)
def test_what_cannot_be_resumed_or_parted_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        slurm_script(["vadx"], words, SlurmJob(parts=2))


@pytest.mark.parametrize("settings", [{"directives": ("nice",)}, {"partition": "a\nrm -rf x"}, {"name": "x\r"}])
def test_a_setting_that_is_more_than_a_line_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="is no option of sbatch"):
        SlurmJob(**settings)  # type: ignore[arg-type]  # what a person may type
