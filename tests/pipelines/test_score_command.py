"""``vadx score``: from pixels to scores with nothing but a model's folder, and what is written and drawn of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from support import Ran, make_video
from vadx.errors import UsageError
from vadx.extract.decode_limits import DecodeLimits
from vadx.extract.library import extract_video, load_backbone
from vadx.extract.video import VideoReader
from vadx.features.store import Store
from vadx.pipelines.scoring import check_set, from_mapping, score_clips, score_set

from .scoring_samples import write_tiny_model

Vadx = Callable[..., Ran]
HERE = ("--decoders", "0", "--device", "cpu", "--store", "store")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that were opened for decoding, as often as they were."""
    from vadx.extract import video

    found: list[str] = []
    really = video.VideoReader.__init__

    def watched(self: Any, path: Any, **options: Any) -> None:
        found.append(Path(path).name)
        really(self, path, **options)

    monkeypatch.setattr(video.VideoReader, "__init__", watched)
    return found


def scores_of(ran: Ran) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(ran.out)
    return told


def test_a_video_never_seen_is_scored_in_a_fresh_process(tmp_path: Path, vadx: Vadx) -> None:
    model = write_tiny_model(tmp_path / "model")
    make_video(tmp_path / "cam 1.mp4", num_frames=50)
    ran = vadx("score", "model", "cam 1.mp4", *HERE, "--json")
    assert ran.code == 0, ran.err
    told = scores_of(ran)
    assert (told["method"], told["which"], told["iteration"], told["failed"]) == ("deepmil", "last", 7, [])
    (video,) = told["videos"]
    clips = extract_video(tmp_path / "cam 1.mp4", load_backbone("tiny", "random:5"), engine="torch-eager")
    expected = score_clips(model, clips, "cam 1")
    got = from_mapping(video)
    # Batches of another number of clips round otherwise.
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
    assert_array_equal(got.frames, expected.frames)
    assert (got.num_frames, len(got.scores)) == (50, 4)
    assert np.ptp(got.scores) > 1e-3


def test_nothing_is_computed_twice_and_files_are_written(tmp_path: Path, vadx_here: Vadx, opened: list[str]) -> None:
    write_tiny_model(tmp_path / "model")
    for number, name in enumerate(("a", "sub/b")):
        make_video(tmp_path / "v" / f"{name}.mp4", num_frames=30 + number, width=96, height=64, seed=number)
    drawn = ("--csv", "out", "--plot", "out", "--overlay", "out", "--threshold", "0")
    ran = vadx_here("score", "model", "v", *HERE, *drawn)
    assert ran.code == 0, ran.err
    assert sorted(opened) == ["a.mp4", "a.mp4", "b.mp4", "b.mp4"]
    lines = ran.out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == ["a", "sub/b"]
    assert "0:00.0 to 0:01.2" in ran.out
    for identifier, num_frames in (("a", 30), ("sub/b", 31)):
        stem = tmp_path / "out" / f"{identifier}.scores"
        assert len(stem.with_suffix(".scores.csv").read_text().splitlines()) == 1 + num_frames
        with Image.open(stem.with_suffix(".scores.png")) as plot:
            assert plot.size == (1000, 300)
        with VideoReader(stem.with_suffix(".scores.mp4")) as reader:
            assert sum(len(block.frames) for block in reader) == num_frames
    opened.clear()
    again = vadx_here("score", "model", "v", *HERE, "--threshold", "0")
    assert again.out == ran.out
    assert opened == []
    assert vadx_here("score", "model", "v", *HERE, "-q", "-t", "0").out.splitlines() == ["a", "sub/b"]
    assert vadx_here("score", "model", "v", *HERE, "-q", "-t", "1").out == ""


def test_failing_videos_come_last_and_others_are_scored(tmp_path: Path, vadx_here: Vadx) -> None:
    write_tiny_model(tmp_path / "model")
    make_video(tmp_path / "good.mp4", num_frames=20)
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    ran = vadx_here("score", "model", "bad.mp4", "good.mp4", *HERE)
    assert ran.code == 3
    assert ran.out.startswith("good: ")
    assert "1 failed:\n  error[VIDEO_NOT_VIDEO] bad.mp4" in ran.err
    told = vadx_here("score", "model", "bad.mp4", "good.mp4", *HERE, "--json")
    assert told.code == 3
    assert [one["id"] for one in scores_of(told)["videos"]] == ["good"]
    assert [(one["id"], one["code"]) for one in scores_of(told)["failed"]] == [("bad", "VIDEO_NOT_VIDEO")]
    assert vadx_here("score", "model", "none.mp4", "/nowhere/*.mp4", *HERE).code == 3
    assert vadx_here("score", "model", "/nowhere/*.mp4", *HERE).code == 5


def test_times_are_those_of_the_video_and_its_flaws_are_told(tmp_path: Path, vadx_here: Vadx) -> None:
    write_tiny_model(tmp_path / "model")
    pts = np.cumsum(np.random.default_rng(0).integers(20, 80, 32)).tolist()
    made = make_video(tmp_path / "v.mp4", num_frames=32, pts=pts, time_base=Fraction(1, 1000))
    with VideoReader(made) as reader:
        times = np.concatenate([block.pts_seconds.copy() for block in reader])
    told = scores_of(vadx_here("score", "model", "v.mp4", *HERE, "--json"))
    (video,) = told["videos"]
    # Edges of clips, of four frames, are exact; between them frames are spread.
    np.testing.assert_allclose(video["frame_seconds"][::4], times[::4], atol=1e-9)
    assert np.abs(np.subtract(video["frame_seconds"], times)).max() < 0.1
    np.testing.assert_allclose([first for first, _ in video["seconds"]], times[::8], atol=1e-9)
    assert video["notes"] == []
    whole = make_video(tmp_path / "w.mkv", num_frames=200, width=96, height=64).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    ran = vadx_here("score", "model", "cut.mkv", *HERE, "--allow-partial", "--overlay", "drawn")
    assert ran.code == 0, ran.err
    assert "note: only a part of the video could be decoded" in ran.err
    (video,) = scores_of(vadx_here("score", "model", "cut.mkv", *HERE, "--json"))["videos"]
    with VideoReader(tmp_path / "drawn" / "cut.scores.mp4") as reader:
        assert sum(len(block.frames) for block in reader) == video["num_frames"] < 200


def test_a_stored_set_is_scored_without_its_videos(tmp_path: Path, vadx_here: Vadx, opened: list[str]) -> None:
    model = write_tiny_model(tmp_path / "model")
    for number, name in enumerate(("a", "b")):
        make_video(tmp_path / "v" / f"{name}.mp4", num_frames=30 + number, seed=number)
    from_videos = vadx_here("score", "model", "v", *HERE, "--json")
    opened.clear()
    ran = vadx_here("score", "model", "--set", "tiny", "--store", "store", "--json")
    assert ran.code == 0, ran.err
    assert opened == []
    told, before = scores_of(ran), scores_of(from_videos)
    assert [one | {"path": None} for one in before["videos"]] == told["videos"]
    one = vadx_here("score", "model", "b", "--set", "tiny", "--store", "store", "--plot", "b.svg")
    assert one.out.startswith("b: ")
    assert (tmp_path / "b.svg").is_file()
    feature_set = Store(tmp_path / "store")["tiny"]
    assert [video.id for video in score_set(model, feature_set, ["b", "a"])] == ["b", "a"]
    wrong = vadx_here("score", "model", "c", "--set", "tiny", "--store", "store")
    assert wrong.code == 2
    assert "no video 'c'" in wrong.err


def test_a_set_of_another_recipe_is_refused(tmp_path: Path, vadx_here: Vadx) -> None:
    write_tiny_model(tmp_path / "other", weights="random:6")
    model = write_tiny_model(tmp_path / "model")
    make_video(tmp_path / "a.mp4", num_frames=20)
    assert vadx_here("score", "model", "a.mp4", *HERE).code == 0
    ran = vadx_here("score", "other", "--set", "tiny", "--store", "store")
    assert ran.code == 2
    assert "the model was trained on features of tiny-random6-4x4-center-" in ran.err
    assert "tiny-random5-4x4-center-" in ran.err
    check_set(model, Store(tmp_path / "store")["tiny"])


UNKNOWN = "f" * 64


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"recipe": None}, 2, "its folder does not say how those features were made"),
        ({"recipe_digest": "00" * 32}, 1, "the recipe and its digest disagree"),
    ],
)
def test_a_model_that_cannot_extract_says_why(
    tmp_path: Path, vadx_here: Vadx, changes: dict[str, Any], code: int, says: str
) -> None:
    write_tiny_model(tmp_path / "model", **changes)
    make_video(tmp_path / "a.mp4", num_frames=20)
    ran = vadx_here("score", "model", "a.mp4", *HERE)
    assert ran.code == code
    assert says in ran.err
    assert not (tmp_path / "store").exists()


def test_missing_weights_name_what_to_type(tmp_path: Path, vadx_here: Vadx) -> None:
    from vadx.features.recipe import Recipe

    model = write_tiny_model(tmp_path / "model")
    make_video(tmp_path / "a.mp4", num_frames=20)
    raw = {**model.facts["recipe"], "weights": UNKNOWN}
    write_tiny_model(tmp_path / "model", recipe=raw, recipe_digest=Recipe.from_mapping(raw).digest)
    ran = vadx_here("score", "model", "a.mp4", *HERE)
    assert ran.code == 6
    assert f"weights of tiny of sha256 {UNKNOWN}, which are not on this machine; with their file: --weights" in ran.err
    (tmp_path / "w.pt").write_bytes(b"others")
    ran = vadx_here("score", "model", "a.mp4", *HERE, "--weights", "w.pt")
    assert ran.code == 6
    assert f"the model's features were computed with {UNKNOWN[:12]}" in ran.err


def test_the_weights_of_a_recipe_are_found_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadx.errors import WeightsError
    from vadx.extract.backbones import find_backbone
    from vadx.extract.weights import WEIGHTS, WeightsRecord
    from vadx.pipelines import score_plan
    from vadx.pipelines.plan import Overrides, make_plan

    entry = WEIGHTS["i3d-rgb-k400-tfhub"]
    assert entry.sha256 is not None
    recipe = make_plan(find_backbone("i3d").default_preset, Overrides(), "random:0").recipe
    monkeypatch.setenv("VADX_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def facts(weights: str) -> dict[str, Any]:
        import dataclasses

        own = dataclasses.replace(recipe, weights=weights)
        return {"recipe": own.to_mapping(), "recipe_digest": own.digest}

    with pytest.raises(WeightsError, match=r"vadx weights fetch i3d-rgb-k400-tfhub"):
        score_plan.model_plan(facts(entry.sha256))
    record = WeightsRecord(entry.name, UNKNOWN, "", "")
    monkeypatch.setattr(score_plan, "record_of", lambda name: record if name == entry.name else None)
    plan = score_plan.model_plan(facts(UNKNOWN))
    assert (plan.weights, plan.weights_name, plan.backbone) == (entry.name, entry.name, "i3d")
    assert plan.preset_name == find_backbone("i3d").default_preset.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("score", "model"), "name videos, or a feature set"),
        (("score", "model", "v", "--plot", "a.png"), "is one file, and there are 2 videos: give a folder, a/"),
        (("score", "model", "v/a.mp4", "--plot", "a.jpg"), "ends in .png or .svg"),
        (("score", "model", "v/a.mp4", "--csv", "none/a.csv"), "mkdir -p none"),
        (("score", "model", "v/a.mp4", "--overlay", "v/a.mp4"), "is the video itself"),
        (("score", "model", "--set", "tiny", "--overlay", "a.mp4"), "give the videos"),
        (("score", "model", "v", "--which", "best"), "has no best network (nothing was measured); ask for the last"),
        (("score", "model", "v", "--tubes", "x"), "there is no store at store"),
        (("score", "model", "v", "--threshold", "nan"), "nan is no number that can be meant here"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    tmp_path: Path, vadx_here: Vadx, arguments: tuple[str, ...], says: str
) -> None:
    write_tiny_model(tmp_path / "model")
    for name in ("a", "b"):
        make_video(tmp_path / "v" / f"{name}.mp4", num_frames=8)
    ran = vadx_here(*arguments, "--store", "store")
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "store").exists()


def test_what_decoders_may_take_is_said_as_of_extract(
    tmp_path: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[DecodeLimits] = []

    def noting(*_arguments: object, decode_limits: DecodeLimits, **_options: object) -> None:
        told.append(decode_limits)
        msg = "enough is known"
        raise UsageError(msg)

    monkeypatch.setattr("vadx.pipelines.run.run_videos", noting)
    write_tiny_model(tmp_path / "model")
    make_video(tmp_path / "x.mp4", num_frames=20)
    said = ("--decoder-memory", "1.5GB", "--stall-timeout", "2m", "--video-timeout", "3h")
    assert "enough is known" in vadx_here("score", "model", "x.mp4", *HERE, *said).err
    assert told == [DecodeLimits(memory_bytes=1_500_000_000, stall_seconds=120, video_seconds=10_800)]
    assert "--stall-timeout is a time" in vadx_here("score", "model", "x.mp4", *HERE, "--stall-timeout", "soon").err


def test_what_is_no_model_is_named(tmp_path: Path, vadx_here: Vadx) -> None:
    ran = vadx_here("score", "nothing", "a.mp4")
    assert ran.code == 1
    assert "name the folder that vadx train wrote" in ran.err


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("deepmil", ("--segments", "4")),
        ("align", ("--rule", "clips")),
        ("lad", ("--rule", "clips", "--grid", "1", "--hidden-channels", "4", "--classes", "Fire,Crash")),
    ],
)
def test_what_vadx_train_wrote_scores_a_video_never_seen(
    tmp_path: Path, vadx_here: Vadx, method: str, options: tuple[str, ...]
) -> None:
    rows = ["id,label,class,split"]
    for number in range(4):
        make_video(tmp_path / "v" / f"{number}.mp4", num_frames=24, seed=number)
        rows.append(f"{number},{number % 2},{'Fire' if number % 2 else ''},train")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    tiny = ("--backbone", "tiny", "--weights", "random:5", "--device", "cpu", "--decoders", "0", "--out", "store")
    assert vadx_here("extract", "v", *tiny).code == 0
    bags = ("--normal-bags", "2", "--anomalous-bags", "2", "--iterations", "2", "--device", "cpu")
    names = ("--method", method, "--manifest", "labels.csv", "--store", "store", "--to", "model")
    ran = vadx_here("train", "tiny", *names, *bags, *options)
    assert ran.code == 0, ran.err
    make_video(tmp_path / "new.mp4", num_frames=37, seed=9)
    ran = vadx_here("score", "model", "new.mp4", *HERE, "--json")
    assert ran.code == 0, ran.err
    (video,) = scores_of(ran)["videos"]
    assert (video["id"], video["num_frames"], len(video["frame_scores"])) == ("new", 37, 37)
    assert len(video["scores"]) == (4 if method == "deepmil" else 10)
    assert list(video["classes"]) == (["Fire", "Crash"] if method == "lad" else [])
    assert len(Store(tmp_path / "store")["tiny"]) == 5
