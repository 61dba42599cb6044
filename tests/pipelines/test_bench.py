"""`vadx bench`: the report's fields and arithmetic, the baseline's features, and what is left behind. Never a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from support import PLUGINS, REPOSITORY, Ran, make_video
from vadx.errors import UsageError
from vadx.extract import engines, extract_video, load_backbone
from vadx.extract.backbones import find_backbone, find_preset
from vadx.extract.isolate import InlineDecoders
from vadx.extract.presets import PRESETS, recipe_of
from vadx.extract.video import VideoReader
from vadx.pipelines import bench as measuring
from vadx.pipelines.bench_plain import PlainExtractor, check_plain
from vadx.pipelines.bench_report import PARTS, BenchReport, speed_of, summarize
from vadx.pipelines.bench_video import _pictures, make_bench_video
from vadx.pipelines.job import Job, make_job
from vadx.pipelines.plan import Overrides, make_plan

Vadx = Callable[..., Ran]

QUICK = ("--seconds", "0.01", "--repeat", "1", "--device", "cpu", "--batch", "3")


@pytest.fixture
def no_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the process that `with_start_up` starts: a second and more each time."""
    monkeypatch.setattr(measuring.Workbench, "with_start_up", lambda _self: 1.0)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "short.mp4", num_frames=21)


def report_of(ran: Ran) -> BenchReport:
    """Read a report, strictly: no field too few, and each of its type."""
    return msgspec.convert(json.loads(ran.out), BenchReport, strict=True)


@pytest.mark.usefixtures("no_fresh_process")
def test_a_whole_run_on_a_video_it_makes(vadx_here: Vadx, tmp_path: Path) -> None:
    arguments = ["bench", "--backbone", "tiny", "--baseline", "plain", "--frames", "40", "--seconds", "0.01"]
    arguments += ["--repeat", "2", "--device", "cpu", "--json"]
    ran = vadx_here(*arguments)
    assert ran.code == 0, ran.err
    report = report_of(ran)
    assert list(report.speeds) == list(PARTS)
    baseline = report.baseline
    assert baseline is not None
    for speed in (*report.speeds.values(), baseline.speed, baseline.network):
        assert len(speed.repetitions) == 2
        assert 0 < speed.lowest == min(speed.repetitions) <= speed.median <= max(speed.repetitions) == speed.highest
        assert speed.median == median(speed.repetitions)
    bounds = {name: report.speeds[name].median for name in ("decode", "preprocess", "network", "write")}
    summary = report.summary
    assert summary.bound == min(bounds.values()) == bounds[summary.limit]
    assert summary.in_sequence == pytest.approx(1 / sum(1 / bound for bound in bounds.values()))
    assert bounds[summary.smaller] == min(bounds["decode"], bounds["network"])
    assert summary.share * bounds[summary.smaller] == pytest.approx(report.speeds["end_to_end"].median)
    assert baseline.ratio * baseline.speed.median == pytest.approx(report.speeds["end_to_end"].median)
    assert baseline.share * baseline.network.median == pytest.approx(baseline.speed.median)
    assert baseline.equal is True
    assert baseline.relative_l2 is not None
    assert baseline.relative_l2 <= 1e-4
    assert baseline.clips == 10
    assert {"torch", "av", "ffmpeg", "numpy", "vadx", "python", "opencv"} <= report.versions.keys()
    assert (report.video.frames, report.video.width, report.video.height, report.video.seed) == (40, 320, 240, 0)
    assert report.video.codec == "h264"
    assert report.machine.cores >= 1
    assert report.command.startswith("vadx bench --")
    assert sorted(report.command.split()) == sorted(["vadx", *arguments])
    assert report.notes == ("random weights, because none are known for this network: speed does not depend on them",)
    assert report.notes[0] in ran.err
    assert "[2/2] end_to_end" in ran.err
    # The video stays; stores, features and settings of the measurement do not.
    kept = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == [Path("home/bench/textured-320x240-40-seed0.mp4")]
    assert [path.name for path in (tmp_path / "home" / "bench").iterdir()] == [kept[0].name]


def test_start_up_is_measured_in_a_process_without_settings(
    vadx_here: Vadx, tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    # Either would end the fresh process, were it to look.
    (tmp_path / "vadx.toml").write_text("[extract]\nclip-length = 1\n")
    monkeypatch.setenv("VADX_EXTRACT_CROPS", "eleven")
    ran = vadx_here("bench", video, "--backbone", "tiny", "--json", *QUICK)
    assert ran.code == 0, ran.err
    report = report_of(ran)
    assert report.speeds["with_start_up"].median > 0
    assert report.settings.repeat == 1
    assert list((tmp_path / "home" / "bench").iterdir()) == []


@pytest.mark.usefixtures("no_fresh_process")
@pytest.mark.parametrize(("backbone", "inputs"), [("tiny", 6), ("tiny-frames", 24), ("tiny-flow", 6)])
def test_networks_of_clips_frames_and_flow(
    vadx_here: Vadx, tmp_path: Path, video: Path, backbone: str, inputs: int
) -> None:
    ran = vadx_here("bench", video, "--backbone", backbone, "--json", *QUICK)
    assert ran.code == 0, ran.err
    report = report_of(ran)
    assert report.video.seed is None
    assert report.video.path == str(video)
    assert report.video.frames == report.settings.frames_held == 21
    assert (report.settings.backbone, report.settings.network_inputs, report.settings.batch) == (backbone, inputs, 3)
    assert report.baseline is None
    assert list((tmp_path / "home" / "bench").iterdir()) == []


@pytest.mark.usefixtures("no_fresh_process")
def test_the_table_says_what_the_document_says(vadx_here: Vadx, video: Path) -> None:
    ran = vadx_here("bench", video, "--backbone", "tiny", "--baseline", "plain", "--weights", "random:3", *QUICK)
    assert ran.code == 0, ran.err
    for part in PARTS:
        assert any(line.startswith(f"{part} ") for line in ran.out.splitlines())
    assert "random:3, fp32, batch 3" in ran.out
    assert "limit: " in ran.out
    assert "of the smaller of decode and network" in ran.out
    assert "over 6 clips (equal)" in ran.out


@pytest.mark.usefixtures("no_fresh_process")
def test_features_that_differ_are_told(vadx_here: Vadx, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = PlainExtractor._features
    monkeypatch.setattr(PlainExtractor, "_features", lambda self, frames: rightly(self, frames) * 1.001)
    ran = vadx_here("bench", video, "--backbone", "tiny", "--baseline", "plain", *QUICK)
    assert ran.code == 4
    assert "relative L2 1.0e-03 over 6 clips (NOT EQUAL)" in ran.out


@pytest.mark.usefixtures("no_fresh_process")
def test_features_of_another_shape_are_told(vadx_here: Vadx, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainExtractor, "_pictures", lambda self, path: iter([np.zeros((48, 64, 3), np.uint8)] * 8))
    ran = vadx_here("bench", video, "--backbone", "tiny", "--baseline", "plain", "--json", *QUICK)
    assert ran.code == 4
    baseline = report_of(ran).baseline
    assert baseline is not None
    assert (baseline.relative_l2, baseline.equal, baseline.clips) == (None, False, 2)


@pytest.mark.usefixtures("no_fresh_process")
def test_bfloat16_is_measured_and_not_judged(vadx_here: Vadx, video: Path) -> None:
    options = ("--backbone", "tiny", "--baseline", "plain", "--precision", "bf16", "--json")
    ran = vadx_here("bench", video, *options, *QUICK)
    assert ran.code == 0, ran.err
    baseline = report_of(ran).baseline
    assert baseline is not None
    assert baseline.equal is None
    assert baseline.relative_l2 is not None
    assert 1e-4 < baseline.relative_l2 < 0.05


VARIANTS: dict[str, dict[str, Any]] = {
    "cv2": {"kernel": "cv2"},
    "torch": {"kernel": "torch"},
    "torch_float": {"kernel": "torch_float"},
    "bgr, mean, std": {"channel_order": "bgr", "mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)},
    "stretched": {"resize": (30, 41), "center_rounding": "ceil"},
}
"""What the plain way does itself -> the recipe's transform."""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backbone", ["tiny", "tiny-frames"])
def test_the_plain_way_gives_the_features_of_vadx(tmp_path: Path, video: Path, backbone: str, variant: str) -> None:
    loaded = load_backbone(backbone, "random")
    recipe = replace(
        loaded.recipe,
        sampling=replace(loaded.recipe.sampling, tail="repeat_last"),
        transform=replace(loaded.recipe.transform, **VARIANTS[variant]),
    )
    ours = extract_video(video, loaded, recipe=recipe).values[:, 0]
    plain = PlainExtractor(load_backbone(backbone, "random").network, recipe, device=torch.device("cpu"))
    theirs, num_frames = plain.extract(video, tmp_path / "plain.npy")
    assert num_frames == 21
    assert theirs.shape == ours.shape
    assert np.linalg.norm(theirs - ours) <= 1e-5 * np.linalg.norm(ours)
    np.testing.assert_array_equal(np.load(tmp_path / "plain.npy"), theirs)


def test_the_plain_way_does_the_recipes_that_it_names() -> None:
    for name in ("kinetics-i3d", "kinetics-r2plus1d", "sports1m-c3d-channel-mean", "imagenet-tsn-bninception"):
        check_plain(recipe_of(PRESETS[name], "random:0"))
    for name, reason in {
        "xdviolence-i3d": "the centre",
        "lad-i3d-flow": "not flow",
        "sultani-c3d": "frame rate",
    }.items():
        with pytest.raises(UsageError, match=reason):
            check_plain(recipe_of(PRESETS[name], "random:0"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--backbone", "nothing"), "nothing"),
        (("--backbone", "tiny", "--backbone", "tiny-frames"), "one recipe at a time"),
        (("--backbone", "tiny", "--frames", "20"), "--frames is the length of the video that bench makes"),
        (("--backbone", "tiny", "--quick", "--repeat", "4"), "--quick is --repeat 3"),
        (("--backbone", "tiny", "--repeat", "0"), "--repeat"),
        (("--backbone", "tiny", "--seconds", "0"), "--seconds"),
        (("--backbone", "tiny", "--baseline", "fast"), "--baseline"),
        (("--backbone", "tiny", "--precision", "fp16", "--device", "cpu"), "needs a GPU"),
        (("--backbone", "tiny", "--device", "abacus"), "abacus"),
        (("--backbone", "tiny-flow", "--baseline", "plain"), "pixels, not flow"),
        (("--preset", "tiny-frames-default", "--baseline", "plain"), "tail repeat_last or drop"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    vadx_here: Vadx, video: Path, options: tuple[str, ...], said: str
) -> None:
    ran = vadx_here("bench", video, *options)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert ran.out == ""


def test_without_opencv_the_baseline_says_what_to_install(
    vadx_here: Vadx, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    ran = vadx_here("bench", video, "--backbone", "tiny", "--baseline", "plain", *QUICK)
    assert ran.code == 2
    assert "pip install 'vadx[flow]'" in ran.err


def test_a_video_that_cannot_be_used_is_told_and_leaves_nothing(vadx_here: Vadx, tmp_path: Path) -> None:
    for path, content in {tmp_path / "bad.mp4": b"no video", tmp_path / "none.mp4": None}.items():
        if content is not None:
            path.write_bytes(content)
        ran = vadx_here("bench", path, "--backbone", "tiny", *QUICK)
        assert ran.code == 3
        assert str(path) in ran.err
        assert list((tmp_path / "home" / "bench").iterdir()) == []


def test_a_video_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADX_HOME", str(tmp_path / "a"))
    made = make_bench_video(12)
    before = made.stat().st_mtime_ns
    assert make_bench_video(12) == made
    assert made.stat().st_mtime_ns == before
    with VideoReader(made) as reader:
        assert (sum(len(block.frames) for block in reader), reader.info.fps) == (12, 30.0)
    first, again = (np.stack(list(_pictures(3))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    # Something moves, everywhere: a still picture would decode at another speed.
    assert (first[0] != first[2]).mean() > 0.5
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_the_smaller_of_two_and_the_slowest_of_four_need_not_be_one() -> None:
    figures = {"decode": 40.0, "preprocess": 10.0, "network": 20.0, "write": 40.0, "end_to_end": 5.0}
    summary = summarize({name: speed_of([value], "") for name, value in figures.items()})
    assert (summary.limit, summary.bound) == ("preprocess", 10.0)
    assert (summary.smaller, summary.share) == ("network", 0.25)
    assert summary.in_sequence == pytest.approx(5.0)


RESULTS = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", [p for p in RESULTS if '"vadx bench ' in p.read_text()], ids=lambda path: path.stem)
def test_the_results_that_are_kept_are_reports(path: Path) -> None:
    report = msgspec.convert(json.loads(path.read_text()), BenchReport, strict=True)
    assert summarize(report.speeds) == report.summary
    assert report.video.seed == 0
    assert find_backbone(report.settings.backbone)
    assert report.baseline is None or report.baseline.equal is not False


def test_decoders_of_a_bench_that_fails_are_ended(
    vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract.isolate import DecodePool

    pools: list[DecodePool] = []
    begin = DecodePool.__init__

    def noting(self: DecodePool, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        pools.append(self)

    monkeypatch.setattr(DecodePool, "__init__", noting)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    ran = vadx_here("bench", "broken.mp4", "--backbone", "tiny", "--decoders", "1", *QUICK)
    assert ran.code == 3
    (pool,) = pools
    assert pool.process_ids == []


@pytest.mark.parametrize(
    ("preset", "engine"), [("sports1m-c3d-channel-mean", "torch-winograd"), ("kinetics-i3d", "torch-eager")]
)
def test_a_run_and_its_bench_take_the_engine_of_the_network(
    preset: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PREFERENCE", ("torch-winograd", "torch-eager"))
    benched: list[Job] = []

    def stop(bench: measuring.Workbench) -> None:
        benched.append(bench._job)
        raise InterruptedError

    monkeypatch.setattr(measuring.Workbench, "_new_set", stop)
    plan = make_plan(find_preset(preset), Overrides(), "random")
    flags = dict.fromkeys(("force", "retry_failed", "strict", "allow_partial"), False)
    job = make_job(plan, tmp_path, {"device": "cpu", "batch": None, "engine": None, **flags})
    order = measuring.Order(
        plan=plan,
        video=tmp_path / "a.mp4",
        made=False,
        device="cpu",
        engine=None,
        batch=None,
        num_decoders=1,
        repeat=1,
        seconds=0.01,
        options=(),
        command="",
    )
    with pytest.raises(InterruptedError):
        measuring.Workbench(order, torch.device("cpu"), tmp_path, InlineDecoders(), lambda: None)
    assert [one.engine for one in (job, *benched)] == [engine, engine]
    assert not job.is_engine_fixed
