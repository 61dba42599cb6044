"""The command line's own manners: usage, settings, output, plug-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from support import Ran, make_video, vadx_environment
from vadx.__main__ import main
from vadx.extract import backbones
from vadx.pipelines.cli import COMMANDS, cli
from vadx.pipelines.cli.common import decoding_options, out_option, run_options, store_option

from .forking import (
    TINY,
    events,
    only_set,
    statuses,
)

Vadx = Callable[..., Ran]


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["extract"],
            ["extract", "--no-such-option", "x"],
            ["extract", "-b", "no-such-net", "x.mp4"],
            ["extract", "--preset", "no-such-preset", "x.mp4"],
            ["extract", "-b", "tiny", "--batch", "0", "x.mp4"],
            ["extract", "-b", "tiny", "--clip-length", "1", "--weights", "random", "x.mp4"],
            ["extract", "-b", "tiny", "x.mp4"],
            ["extract", "-b", "tiny", "--weights", "random:x", "x.mp4"],
            ["extract", "-b", "tiny", "--weights", "random", "--device", "tpu", "x.mp4"],
            ["extract", "-b", "tiny", "--preset", "kinetics-i3d", "x.mp4"],
            ["extract", "-b", "tiny", "--weights", "i3d-rgb-k400-tfhub", "x.mp4"],
            ["extract", "-b", "tiny", "--weights", "random", "--precision", "fp16", "--device", "cpu", "x.mp4"],
            ["extract", "-b", "tiny", "--crops", "eleven", "x.mp4"],
            ["ls", "--store", "no-such-store"],
            ["info", "no-such-set"],
            ["no-such-command"],
        ],
        ids=" ".join,
    )
    def test_what_cannot_be_meant_is_exit_2(self, arguments: list[str], tmp_path: Path, vadx_here: Vadx) -> None:
        make_video(tmp_path / "x.mp4", num_frames=4)
        ran = vadx_here(*arguments)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.strip()
        assert "Traceback" not in ran.err
        assert not list(tmp_path.glob("vadx-store/*/shards/*/*"))

    def test_missing_weights_are_exit_6_with_the_line_to_type(self, tmp_path: Path, vadx_here: Vadx) -> None:
        from vadx.extract.weights import WEIGHTS

        make_video(tmp_path / "x.mp4", num_frames=4)
        ran = vadx_here("extract", "-b", "i3d", "x.mp4")
        assert ran.code == 6
        entry = WEIGHTS["i3d-rgb-k400-tfhub"]
        text = " ".join(ran.err.split())
        assert entry.file_name in text
        assert str(entry.num_bytes) in text.replace(",", "").replace("_", "") or "51 MB" in text
        assert str(entry.sha256) in text
        assert "vadx weights fetch i3d-rgb-k400-tfhub" in text
        assert ran.out == ""
        assert not (tmp_path / "vadx-store").exists()

    def test_a_weights_file_that_is_none_is_refused(self, tmp_path: Path, vadx_here: Vadx) -> None:
        make_video(tmp_path / "x.mp4", num_frames=4)
        (tmp_path / "page.pt").write_text("<html>404</html>")
        for name in ("page.pt", "absent.pt"):
            ran = vadx_here("extract", "-b", "tiny", "--weights", name, "x.mp4", "--out", "store")
            assert ran.code == 6
            assert name in ran.err
            assert "weights_only" not in ran.err
            assert "Traceback" not in ran.err


class TestSettings:
    @pytest.fixture
    def video(self, tmp_path: Path) -> Path:
        return make_video(tmp_path / "x.mp4", num_frames=8)

    def batch(self, vadx_here: Vadx, *arguments: str) -> int:
        ran = vadx_here("extract", "-b", "tiny", "--weights", "random", "x.mp4", "--json", *arguments)
        assert ran.code == 0, ran.err
        return int(events(ran, "start")[0]["batch"])

    def test_option_beats_environment_beats_file_beats_default(
        self, video: Path, tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.batch(vadx_here) == 2
        (tmp_path / "vadx.toml").write_text("[extract]\nbatch = 3\n")
        assert self.batch(vadx_here) == 3
        monkeypatch.setenv("VADX_EXTRACT_BATCH", "5")
        assert self.batch(vadx_here) == 5
        assert self.batch(vadx_here, "--batch", "7") == 7

    def test_pyproject_is_read_where_there_is_no_vadx_toml(self, video: Path, tmp_path: Path, vadx_here: Vadx) -> None:
        (tmp_path / "pyproject.toml").write_text(
            "[tool.vadx.extract]\nclip-length = 8\nbatch = 4\n[tool.other]\nx = 1\n"
        )
        assert self.batch(vadx_here) == 4
        assert (tmp_path / "vadx-store").is_dir()
        assert "-8x4-" in only_set(tmp_path / "vadx-store").name

    def test_the_store_may_be_set(
        self, video: Path, tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "vadx.toml").write_text('[extract]\nout = "from-file"\n')
        self.batch(vadx_here)
        assert only_set(tmp_path / "from-file")
        monkeypatch.setenv("VADX_STORE", str(tmp_path / "from-environment"))
        self.batch(vadx_here)
        assert only_set(tmp_path / "from-environment")
        self.batch(vadx_here, "--out", "from-option")
        assert only_set(tmp_path / "from-option")

    @pytest.mark.parametrize(
        ("content", "hint"),
        [
            ("[extract]\nbatchs = 3\n", "did you mean extract.batch?"),
            ("[extract]\nclip_lenght = 3\n", "did you mean extract.clip_length?"),
            ("[extrakt]\nbatch = 3\n", "did you mean extract?"),
            ("batch = 3\n", "there is no setting 'batch'"),
            ("[extract\n", "cannot be read as TOML"),
            ('[extract]\nbatch = "many"\n', "'many' is not a valid integer"),
        ],
    )
    def test_what_cannot_be_meant_names_the_nearest(
        self, content: str, hint: str, video: Path, tmp_path: Path, vadx_here: Vadx
    ) -> None:
        (tmp_path / "vadx.toml").write_text(content)
        ran = vadx_here("extract", "-b", "tiny", "--weights", "random", "x.mp4")
        assert ran.code == 2
        assert hint in " ".join(ran.err.split())
        assert not (tmp_path / "vadx-store").exists()

    def test_doctor_says_where_each_comes_from(
        self, tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "vadx.toml").write_text('[extract]\nbatch = 3\ndevice = "cpu"\n[train]\npatience = 7\n')
        monkeypatch.setenv("VADX_EXTRACT_BATCH", "5")
        monkeypatch.setenv("VADX_STORE", "elsewhere")
        ran = vadx_here("doctor", "--settings", "--json")
        assert ran.code == 0
        found = {(row["command"], row["name"]): (row["value"], row["origin"]) for row in json.loads(ran.out)}
        assert found["extract", "batch"] == ("5", "VADX_EXTRACT_BATCH")
        assert found["extract", "device"] == ("cpu", "vadx.toml")
        assert found["extract", "out"] == ("elsewhere", "VADX_STORE")
        assert found["extract", "clip_length"] == (None, "default")
        assert found["train", "patience"] == (7, "vadx.toml")
        assert found["score", "device"] == ("auto", "default")
        assert {command for command, _ in found} == set(COMMANDS) - {"weights"}
        table = [line.split() for line in vadx_here("doctor", "--settings").out.splitlines()]
        assert ["extract", "batch", "5", "VADX_EXTRACT_BATCH"] in table


@pytest.mark.parametrize(
    ("added", "commands"),
    [
        (store_option, ("ls", "info", "verify", "gc", "runs", "diff", "pack", "bags", "export", "train", "doctor")),
        (out_option(), ("extract", "tubes")),
        (out_option("--to"), ("import",)),
        (out_option("--store"), ("score",)),
        (run_options(force="", verbose=""), ("extract", "tubes", "import")),
        (decoding_options, ("extract", "tubes", "score")),
    ],
)
def test_what_several_commands_have_is_one_thing_in_all_of_them(
    added: Callable[[Callable[[], None]], Callable[[], None]], commands: tuple[str, ...]
) -> None:
    def facts(option: click.Parameter) -> dict[str, Any]:
        # What is done again differs between commands, and so does what a line is of.
        own = {"help"} if option.name in ("force", "verbose") else set()
        return {name: value for name, value in option.to_info_dict().items() if name not in own}

    shared = {one.name: facts(one) for one in click.command()(added(lambda: None)).params}
    assert shared
    for name in commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert {one.name: facts(one) for one in command.params if one.name in shared} == shared


def test_the_command_in_a_process_of_its_own(tmp_path: Path, vadx: Vadx) -> None:
    make_video(tmp_path / "x.mp4", num_frames=8)
    ran = vadx("extract", "-b", "tiny", "--weights", "random", "-", "--json", stdin="x.mp4\n")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert statuses(ran) == {"x": "done"}


def test_an_impossible_precision_leaves_no_empty_set(
    vadx_here: Callable[..., Ran], videos: Path, tmp_path: Path
) -> None:
    ran = vadx_here(*TINY, videos, "--device", "cpu", "--precision", "tf32")
    assert (ran.code, (tmp_path / "vadx-store").exists()) == (2, False)
    assert "use fp32 or bf16" in ran.err


def test_a_set_given_as_a_store_is_named(vadx_here: Callable[..., Ran], videos: Path, tmp_path: Path) -> None:
    assert vadx_here(*TINY, videos, "--limit", "1").code == 0
    (feature_set,) = (tmp_path / "vadx-store").iterdir()
    ran = vadx_here("ls", "--store", feature_set)
    assert ran.code == 2
    assert f"vadx ls {feature_set}" in ran.err


def test_a_full_stdout_costs_the_output_only(videos: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vadx", *TINY, videos],
            cwd=tmp_path,
            env=vadx_environment(VADX_HOME=str(tmp_path / "home")),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "vadx-store").glob("*/shards/*/*.h5"))) == 6


def test_another_folder_with_the_same_ids_is_told(vadx_here: Callable[..., Ran], tmp_path: Path) -> None:
    for folder, seed in (("camA", 1), ("camB", 2)):
        make_video(tmp_path / folder / "001.mp4", seed=seed)
    assert "replaced" not in vadx_here(*TINY, "camA").err
    assert "1 replaced, because the video behind the id is another than before" in vadx_here(*TINY, "camB").err


def test_json_wins_over_quiet_and_covers_failures(vadx_here: Callable[..., Ran], videos: Path, tmp_path: Path) -> None:
    (videos / "dead.mp4").write_text("no video")
    ran = vadx_here(*TINY, videos, "--json", "--quiet")
    assert [json.loads(line)["event"] for line in ran.out.splitlines()][-1] == "summary"
    (feature_set,) = (tmp_path / "vadx-store").iterdir()
    told = json.loads(vadx_here("info", feature_set, "dead", "--json").out)
    assert (told["status"], told["code"]) == ("failed", "VIDEO_NOT_VIDEO")


@pytest.mark.parametrize("argument", ["", "@missing.txt"])
def test_an_input_that_cannot_be_meant_is_refused(vadx_here: Callable[..., Ran], argument: str) -> None:
    assert vadx_here(*TINY, argument).code == 2


def test_one_impossible_name_in_a_list_fails_alone(vadx_here: Callable[..., Ran], videos: Path, tmp_path: Path) -> None:
    good = sorted(videos.rglob("*.mp4"))[0]
    (tmp_path / "list.txt").write_text(f"\ufeff{good}\n{'x' * 300}.mp4\n")
    ran = vadx_here(*TINY, "@list.txt")
    assert (ran.code, "1 stored" in ran.err, "VIDEO_UNREADABLE" in ran.err) == (3, True, True)


def test_doctor_survives_packages_that_raise_anything(tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ValueError('numpy.dtype size changed')")
    environment = vadx_environment(VADX_HOME=str(tmp_path / "home"))
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "vadx", "doctor"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "BROKEN  av" in done.stdout
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_loads_is_told_in_a_line(tmp_path: Path) -> None:
    # The first module that takes long to load is interrupted as Ctrl-C would.
    (tmp_path / "rich_click.py").write_text("raise KeyboardInterrupt")
    environment = vadx_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "vadx", "ls"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vadx: interrupted; the same command resumes\n")
    (script,) = entry_points(group="console_scripts", name="vadx")
    assert script.load() is main


def test_a_plug_in_that_cannot_be_loaded_leaves_the_others_usable(tmp_path: Path) -> None:
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[vadx.backbones]\nbroken = no_such_module:SPEC\n")
    environment = vadx_environment(VADX_HOME=str(tmp_path / "home"))
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "vadx", "backbones", "-q"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert {"i3d", "r2plus1d", "tiny"} <= set(done.stdout.split())
    assert "broken cannot be loaded" in done.stderr


def test_a_plug_in_is_loaded_once_in_a_command(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[vadx.backbones]\nbroken = tmp_broken:SPEC\n")
    (tmp_path / "tmp_broken.py").write_text(
        "with open('loads', 'a') as file:\n    file.write('x')\nraise ValueError('too old')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (backbones.backbones, backbones._load_plugins):
        monkeypatch.setattr(f"vadx.extract.backbones.{cached.__name__}", lru_cache(cached.__wrapped__))
    ran = vadx_here("doctor")
    assert [line.split(None, 2)[2] for line in ran.out.splitlines() if "plug-ins" in line] == [
        "broken cannot be loaded: too old  -> remove or update that package"
    ]
    assert vadx_here("backbones", "-q").code == 0
    assert (tmp_path / "loads").read_text() == "x"
    assert [one.getMessage() for one in caplog.records if "plug-in" in one.getMessage()] == [
        "the plug-in broken cannot be loaded (too old); it is left out"
    ]


def test_no_terminal_obeys_a_name_in_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vadx.errors import UsageError
    from vadx.pipelines import cli

    def refuse(**_: object) -> None:
        msg = "no é \x1b]0;owned\x07 \x9b31m\n\tlist it"
        raise UsageError(msg)

    monkeypatch.setattr(cli.cli, "main", refuse)
    assert cli.run(["ls"]) == 2
    assert capsys.readouterr().err == "vadx: no é \\x1b]0;owned\\x07 \\x9b31m\n\tlist it\n"
