"""What a person reads when something is wrong: which file, what was seen, what became of the work, what to do next.

Every code of the table is brought about, and a batch of commands that must fail is run; nothing that they say is in the
words of a library.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from support import SERIAL, Ran, make_video
from vadx.errors import CODES, RUN_ERRORS, VideoError

from .forking import TINY

FOREIGN = (
    "avcodec_send_packet",
    "Can't synchronously",
    "Unable to synchronously",
    "Can't decrement",
    "weights_only",
    "Traceback",
    "Errno 1094995529",
    "InvalidDataError",
    "av.error",
    "h5py",
    "KilledWorker",
    "distributed.",
    "SafetensorError",
    "Error while deserializing",
    "pickle.UnpicklingError",
)
"""Words of PyAV, HDF5, torch, safetensors, pickle and Dask that mean nothing to a person, or advise what is unsafe."""

VERB = re.compile(
    r"(accept|add|allow|change|check|choose|convert|copy|correct|cut|do|download|export|extract|free|give|leave|link|list"
    r"|look|make|mend|name|remove|rename|repeat|restore|retry|run|scale|see|start|train|type|update|use|wait|write)\b",
    re.IGNORECASE,
)
"""What a cure begins with: it is something to do."""


def run_here(folder: Path, *arguments: str | Path) -> Ran:
    """Run the command line in this process and in a folder, as the fixture `vadx_here` does, which lives for a test."""
    from vadx.pipelines.cli import run

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("VADX_")]:
            patch.delenv(name)
        for name, value in {**SERIAL, "VADX_HOME": str(folder / "home"), "COLUMNS": "200"}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        code = run([str(argument) for argument in arguments])
    return Ran(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def in_plain_words(text: str) -> bool:
    return not [words for words in FOREIGN if words in text]


def asks_for_something(text: str) -> bool:
    """Whether a message ends with what to do: a command to type, names to choose from, or a clause with a verb."""
    if re.search(r"\bvadx [a-z]", text) or "there are: " in text:
        return True
    clauses = re.split(r"[.;:,?]\s|\n|\bor\b|\band\b|\bthen\b", text.strip())
    return any(VERB.match(clause.strip()) for clause in clauses[-6:])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for index in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut_off(path: Path) -> None:
    make_video(path, num_frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    make_video(path, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + b"\x55" * (len(data) - start))


def unknown_codec(path: Path) -> None:
    make_video(path, num_frames=4)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))


def jumps(path: Path) -> None:
    """Make a video whose clock jumps by two hours."""
    make_video(path, num_frames=8, pts=[*range(4), *range(180_000, 180_004)], time_base=Fraction(1, 25))


def writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BROKEN: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "VIDEO_MISSING": ("missing.mp4", lambda path: path.symlink_to("nothing")),
    "VIDEO_UNREADABLE": ("loop.mp4", lambda path: path.symlink_to(path)),
    "VIDEO_NOT_REGULAR": ("fifo.mp4", os.mkfifo),
    "VIDEO_EMPTY": ("empty.mp4", Path.touch),
    "VIDEO_NOT_VIDEO": ("text.mp4", writes(b"This is a text, not a video.\n" * 20)),
    "VIDEO_NO_STREAM": ("sound.mp4", sound_only),
    "VIDEO_FORBIDDEN_FORMAT": ("list.mp4", writes(b"ffconcat version 1.0\nfile 'other.mp4'\n")),
    "VIDEO_UNSUPPORTED_CODEC": ("codec.mp4", unknown_codec),
    "VIDEO_TRUNCATED": ("cut.mp4", cut_off),
    "VIDEO_DAMAGED": ("noise.mp4", noise),
    "VIDEO_TOO_LARGE": ("large.mp4", lambda path: make_video(path, num_frames=2, width=128, height=96)),
    "VIDEO_TOO_SHORT": ("short.mp4", lambda path: make_video(path, num_frames=1)),
    "VIDEO_BAD_CLOCK": ("jump.mkv", jumps),
    "VIDEO_CHANGED_DURING_READ": ("changed.mp4", lambda path: make_video(path, num_frames=4)),
    "FEATURE_NONFINITE": ("infinite.mp4", lambda path: make_video(path, num_frames=4, width=48)),
    "KEY_COLLISION": ("twin.mp4", lambda path: make_video(path.with_suffix(".mkv"), num_frames=4)),
}
"""Code -> the name of a file that has it in a run of `extract`, and how it is made."""

UNSEEN = {
    "VIDEO_CRASH": "its decoder was ended by SIGSEGV after 3 frames",
    "VIDEO_OOM": "its decoder was ended by SIGKILL after 3 frames",
    "VIDEO_TIMEOUT": "its decoder gave nothing for 30 s, after 3 frames",
    "WORKER_LOST": "the worker that was at it ended",
    "TUBES_WITHOUT_REGIONS": "its pictures change from 64x48 to 32x24 at frame 5",
}
"""Code -> evidence, where bringing it about takes processes that die, as in tests/extract/test_isolate.py and
tests/pipelines/test_cluster.py, or a network."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("messages")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, tuple[str, str]]:
    """Bring every code about; gives code -> (path, message)."""
    return {
        **extracted(folder / "extract"),
        **imported(folder / "import"),
        **linked(folder / "tubes"),
        **{code: (f"/v/{code}.mp4", str(VideoError(code, f"/v/{code}.mp4", seen))) for code, seen in UNSEEN.items()},
    }


def failures_of(ran: Ran) -> dict[str, tuple[str, str]]:
    assert ran.code == 3, ran.err
    assert in_plain_words(ran.out + ran.err)
    events = [json.loads(line) for line in ran.out.splitlines()]
    return {event["code"]: (event["path"], event["message"]) for event in events if event.get("status") == "failed"}


def extracted(folder: Path) -> dict[str, tuple[str, str]]:
    import vadx_tiny

    from vadx.extract import video
    from vadx.pipelines.source import Source

    folder.mkdir()
    for name, make in BROKEN.values():
        make(folder / name)
    check, forward, prepare = Source.check_unchanged, vadx_tiny.Tiny.forward, video.VideoReader._prepare_decoder

    def touched(self: Source) -> None:
        if self.path.name == "changed.mp4":
            os.utime(self.path, (1, 1))
        check(self)

    def narrow(self: video.VideoReader, max_pixels: int) -> None:
        prepare(self, min(max_pixels, 100 * 80))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "check_unchanged", touched)
        patch.setattr(video.VideoReader, "_prepare_decoder", narrow)
        names = sorted([*(name for name, _ in BROKEN.values() if name != "infinite.mp4"), "twin.mkv"])
        make_video(folder / "twin.mp4", num_frames=4)
        found = failures_of(
            run_here(folder, *TINY, *names, "--fps", "25", "--tail", "drop", "--max-failures", "100%", "--json")
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vadx_tiny.Tiny, "forward", lambda self, clips: forward(self, clips) * torch.nan)
        found |= failures_of(run_here(folder, *TINY, "infinite.mp4", "--json"))
    return found


def imported(folder: Path) -> dict[str, tuple[str, str]]:
    folder.mkdir()
    np.save(folder / "Abuse001_x264_i3d.npy", np.ones((5, 10, 8), np.float32))
    (folder / "Normal_Videos001_x264_i3d.npy").write_text("no array")
    return failures_of(run_here(folder.parent, "import", "--format", "rtfm", folder, "--to", "imported", "--json"))


def linked(folder: Path) -> dict[str, tuple[str, str]]:
    for name in ("crowd.mp4", "unseen.mp4"):
        make_video(folder / name, num_frames=4)
    (folder / "boxes").mkdir()
    boxes = "".join(f"{frame},1,1,{20 + box},30,0.9\n" for frame in range(4) for box in range(6))
    (folder / "boxes" / "crowd.csv").write_text(f"frame,x1,y1,x2,y2,score\n{boxes}")
    command = ("tubes", "--detections", "boxes", "--stage", "link", "--max-open-boxes", "2", "--json")
    return failures_of(run_here(folder, *command, "crowd.mp4", "unseen.mp4"))


def test_every_code_is_brought_about(told: dict[str, tuple[str, str]]) -> None:
    assert set(BROKEN) | {"FEATURES_UNREADABLE", "DETECTIONS_UNREADABLE", "TUBES_TOO_LARGE"} <= set(told)


@pytest.mark.parametrize("code", CODES)
def test_a_message_says_which_file_what_was_seen_what_became_of_it_and_what_to_do(
    code: str, told: dict[str, tuple[str, str]]
) -> None:
    path, message = told.get(code) or ("/v/a.mp4", str(VideoError(code, "/v/a.mp4", "it was seen")))
    begin, consequence, end = message.partition(" No features were written. ")
    assert consequence, message
    assert re.fullmatch(re.escape(path) + r": .*\w{2}.*[^.]\.", begin), message
    cure = CODES[code].cure
    assert end == f"{cure[0].upper()}{cure[1:]}."
    assert in_plain_words(message)


@pytest.mark.parametrize("code", CODES)
def test_a_cure_is_something_to_do(code: str) -> None:
    assert VERB.match(CODES[code].cure)
    assert in_plain_words(CODES[code].cause + CODES[code].cure)


@pytest.mark.parametrize("kind", RUN_ERRORS, ids=lambda kind: kind.__name__)
def test_the_cure_of_a_runs_error_is_something_to_do(kind: type[Exception]) -> None:
    info = RUN_ERRORS[kind]
    assert VERB.match(info.cure)
    assert in_plain_words(info.cause + info.consequence + info.cure)


GOLDEN = Path(__file__).parents[1] / "golden" / "format-1"
SET = "golden-03a791a1"
SHARD = f"store/{SET}/shards/dd/Abuse-Abuse001_x264-0d8607e95ef5.h5"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out what fails: videos, checkpoints, a sound store and broken copies of it, lists and models."""
    folder = tmp_path_factory.mktemp("failing")
    for name in ("good", "body", "header", "short", "recipe"):
        shutil.copytree(GOLDEN, folder / name)
    changed(folder / "body" / SHARD, flipped(5000))
    changed(folder / "header" / SHARD, flipped(20))
    changed(folder / "short" / SHARD, half)
    changed(folder / f"recipe/store/{SET}/recipe.json", half)
    for name in ("bags.h5", "packed.h5"):
        changed(Path(shutil.copy(GOLDEN / name, folder / f"cut-{name}")), half)
    changed(Path(shutil.copytree(GOLDEN / "model", folder / "cut-model")) / "last.safetensors", half)
    changed(Path(shutil.copytree(GOLDEN / "model", folder / "text-model")) / "model.json", lambda _: b"no json")
    make_video(folder / "ok.mp4", num_frames=4)
    (folder / "text.mp4").write_text("text\n" * 100)
    cut_off(folder / "cut.mp4")
    (folder / "page.pt").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (folder / "text.pt").write_text("hello")
    (folder / "evil.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    torch.save({"a": Evil()}, folder / "evil.pt")
    torch.save({"conv.weight": torch.zeros(3)}, folder / "wrong.pt")
    (folder / "cut.pt").write_bytes(half((folder / "wrong.pt").read_bytes()))
    (folder / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    (folder / "label.csv").write_text("id,label\nAbuse/Abuse001_x264,maybe\n")
    (folder / "number.jsonl").write_text('{"id": "a", "label": NaN}\n')
    return folder


TINY_WEIGHTS = (*TINY[:3], "--device", "cpu", "ok.mp4", "--out", "s", "--weights")
LABELS = ("--manifest", "good/labels.csv")
FAILING: Sequence[tuple[tuple[str, ...], int, str]] = (
    ((*TINY, "text.mp4", "cut.mp4", "--out", "s"), 3, "cut.mp4"),
    ((*TINY, "*.avi"), 5, "*.avi"),
    ((*TINY, "@none.txt"), 2, "none.txt"),
    ((*TINY, "ok.mp4", "--out", "text.mp4"), 1, "text.mp4"),
    (("extract", "--backbone", "i3d", "ok.mp4"), 6, "i3d-rgb-k400-tfhub"),
    *(
        ((*TINY_WEIGHTS, name), 6, name)
        for name in ("page.pt", "lfs.pt", "text.pt", "evil.pkl", "evil.pt", "wrong.pt", "cut.pt", "bad.safetensors")
    ),
    (("weights", "add", "page.pt", "--as", "i3d-rgb-k400-tfhub"), 6, "page.pt"),
    (("weights", "add", "none.pt", "--as", "i3d-rgb-k400-tfhub"), 6, "none.pt"),
    (("ls", "--store", "none"), 2, "none"),
    (("info", "none", "--store", "good/store"), 2, "good/store"),
    (("info", f"good/store/{SET}", "none"), 2, SET),
    *((("info", f"{kind}/store/{SET}", "Abuse/Abuse001_x264"), 4, SHARD) for kind in ("body", "header", "short")),
    (("bags", f"header/store/{SET}", "--to", "x.h5"), 4, SHARD),
    (("train", f"short/store/{SET}", "--method", "deepmil", *LABELS), 4, SHARD),
    (("pack", f"body/store/{SET}"), 4, SHARD),
    (("diff", f"body/store/{SET}", f"good/store/{SET}"), 4, SHARD),
    (("verify", "--store", "body/store"), 4, SHARD),
    (("ls", f"recipe/store/{SET}"), 1, "recipe.json"),
    (("train", "cut-bags.h5", "--method", "deepmil"), 2, "cut-bags.h5"),
    (("info", "cut-packed.h5"), 1, "cut-packed.h5"),
    (("pack", "--unpack", "cut-packed.h5", "--store", "unpacked"), 1, "cut-packed.h5"),
    (("score", "cut-model", "ok.mp4"), 1, "cut-model"),
    (("score", "text-model", "ok.mp4"), 1, "text-model"),
    (("eval", "good/model", "--store", "good/store", "--manifest", "none.csv"), 5, "none.csv"),
    (("bags", f"good/store/{SET}", "--manifest", "label.csv", "--to", "x.h5"), 2, "label.csv:2"),
    (("bags", f"good/store/{SET}", "--manifest", "number.jsonl", "--to", "x.h5"), 2, "number.jsonl:1"),
    (("bags", f"good/store/{SET}", "--manifest", "good/packed.h5", "--to", "x.h5"), 2, "packed.h5"),
    (("manifest", "ucf-crime", "none", "-a", "good"), 5, "none"),
    (("import", "--format", "rtfm", "good", "--to", "imported"), 5, "good"),
    (("tubes", "--detections", "none.csv", "--stage", "link", "ok.mp4"), 2, "none.csv"),
    (("tubes", "--detections", "text.mp4", "--stage", "link", "ok.mp4"), 3, "text.mp4"),
    (("probe", "text.mp4", "cut.mp4"), 4, "cut.mp4"),
    (("errors", "NONE"), 2, "NONE"),
)
"""A command that must fail, its exit code, and what it names."""


@pytest.mark.parametrize(("arguments", "code", "names"), FAILING, ids=[" ".join(case[0][:2]) for case in FAILING])
def test_a_command_that_fails_says_of_what_and_what_to_do_in_plain_words(
    arguments: tuple[str, ...], code: int, names: str, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VADX_OFFLINE", "1")
    ran = run_here(bench, *arguments)
    said = ran.out + ran.err
    assert ran.code == code, said
    assert names in said
    assert in_plain_words(said), said
    assert asks_for_something(said), said
    assert not (bench / "canary").exists()


def test_a_disk_that_is_full_is_said_in_plain_words(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.features import publish

    def full(_descriptor: int, _num_bytes: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(publish, "preallocate", full)
    for arguments in ((*TINY, "ok.mp4", "--out", "full"), ("bags", f"good/store/{SET}", "--to", "full.h5")):
        ran = run_here(bench, *arguments)
        assert ran.code == 6, ran.err
        last = ran.err.splitlines()[-1]
        assert re.match(r"vadx: full\S*: No space left on device; \d+ bytes were needed", last), ran.err
        assert "ree space there" in last
        assert in_plain_words(ran.out + ran.err)


def test_a_scheduler_that_is_not_there_is_said_in_plain_words(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.pipelines import cluster

    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.3)
    ran = run_here(bench, *TINY, "ok.mp4", "--out", "far", "--scheduler", "tcp://127.0.0.1:9")
    assert ran.code == 6, ran.err
    last = ran.err.splitlines()[-1]
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in last
    assert last.endswith("start one: dask scheduler --host 127.0.0.1")
    assert in_plain_words(ran.out + ran.err)


def test_the_words_of_libraries_would_be_noticed(bench: Path) -> None:
    import h5py

    with pytest.raises(OSError, match="synchronously") as caught:
        h5py.File(bench / "cut-packed.h5")
    assert not in_plain_words(str(caught.value))
    with pytest.raises(pickle.UnpicklingError) as refused:
        torch.load(bench / "evil.pt", weights_only=True)
    assert not in_plain_words(str(refused.value))
    with pytest.raises(av.error.InvalidDataError) as unread:
        av.open(str(bench / "text.mp4"))
    assert not in_plain_words(repr(unread.value))
    assert not asks_for_something("vadx: x.pt: it is broken")
