"""Several networks in one run: one decode, one feature set each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from support import Ran, make_video
from vadx.extract.video import VideoReader
from vadx.features import Store, concatenate
from vadx.pipelines.cli import COMMANDS, cli
from vadx.pipelines.config import REPEATED

Vadx = Callable[..., Ran]
THREE = ("--backbone", "tiny", "--backbone", "tiny-frames", "--backbone", "tiny-flow", "--weights", "random")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that were opened for decoding, as often as they were."""
    names: list[str] = []
    original = VideoReader.__init__

    def spy(self: VideoReader, path: Path, **options: object) -> None:
        names.append(Path(path).name)
        original(self, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoReader, "__init__", spy)
    return names


def sets_of(store: Path) -> dict[str, object]:
    return {s.recipe.network.name: s for s in Store(store).sets()}


def test_each_video_is_decoded_once_for_all(videos: Path, vadx_here: Vadx, tmp_path: Path, opened: list[str]) -> None:
    together = vadx_here("extract", *THREE, videos, "-o", "together")
    assert together.code == 0, together.err
    assert sorted(opened) == sorted(path.name for path in videos.rglob("*.mp4"))
    assert len(together.out.split()) == 3
    for name in ("tiny", "tiny-frames", "tiny-flow"):
        assert vadx_here("extract", "--backbone", name, "--weights", "random", videos, "-o", "alone").code == 0
    ours, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    assert sorted(ours) == sorted(alone)
    assert len(list(ours)) == 3
    for name in ours:
        assert len(ours[name]) == 6
        for identifier in ours[name]:
            # The whole file: nothing in a shard tells which other sets were made beside it.
            assert ours[name].shard_path(identifier).read_bytes() == alone[name].shard_path(identifier).read_bytes()


def test_the_same_command_does_what_one_set_still_needs(
    videos: Path, vadx_here: Vadx, tmp_path: Path, opened: list[str]
) -> None:
    assert vadx_here("extract", "--backbone", "tiny", "--weights", "random", videos, "-o", "s").code == 0
    assert vadx_here("extract", *THREE, videos, "-o", "s").code == 0
    assert len(opened) == 12
    events = [json.loads(line) for line in vadx_here("extract", *THREE, videos, "-o", "s", "--json").out.splitlines()]
    assert len(opened) == 12
    settled = [e for e in events if e["event"] == "video"]
    assert len(settled) == 18
    assert {e["status"] for e in settled} == {"current"}
    assert len({e["feature_set"] for e in settled}) == 3
    assert [e["event"] for e in events].count("start") == [e["event"] for e in events].count("summary") == 3


def test_one_set_may_refuse_a_video_that_others_take(vadx_here: Vadx, tmp_path: Path) -> None:
    make_video(tmp_path / "videos" / "short.mp4", num_frames=3)
    make_video(tmp_path / "videos" / "long.mp4", num_frames=20)
    done = vadx_here("extract", *THREE[:4], "--weights", "random", "--tail", "drop", "videos", "-o", "s")
    assert done.code == 3
    assert "VIDEO_TOO_SHORT" in done.err
    done = vadx_here("extract", "--backbone", "tiny-frames", "--weights", "random", "videos", "-o", "s")
    assert done.code == 0
    store = Store(tmp_path / "s")
    by_tail = {(s.recipe.network.name, s.recipe.sampling.tail): sorted(s) for s in store.sets()}
    assert by_tail == {
        ("tiny", "drop"): ["long"],
        ("tiny-frames", "drop"): ["long"],
        ("tiny-frames", "partial_mean"): ["long", "short"],
    }


def test_pixels_and_flow_of_one_run_lie_side_by_side(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    assert vadx_here("extract", *THREE, videos, "-o", "s").code == 0
    sets = {s.recipe.network.name: s for s in Store(tmp_path / "s").sets()}
    for identifier in sets["tiny"]:
        both = concatenate([sets["tiny"][identifier], sets["tiny-flow"][identifier]])
        assert both.values.shape[2] == 13
        np.testing.assert_array_equal(both.frames, sets["tiny"][identifier].frames)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backbone", "tiny", "--preset", "kinetics-i3d"], "leave --backbone tiny out"),
        (["--backbone", "i3d", "--backbone", "tiny", "--preset", "kinetics-i3d"], "--backbone tiny has no part"),
        (["--backbone", "tiny", "--switch", "pool5=ports"], "has no such switch"),
        (["--backbone", "c3d", "--switch", "pool5=both"], "pool5 is one of caffe, ports"),
        (["--backbone", "c3d", "--switch", "pool5"], "--switch is NAME=VALUE"),
        (["--backbone", "c3d", "--clip-length", "8"], "clips of 16 frames, got 8"),
        (["--backbone", "tiny", "--jpeg", "0"], "--jpeg is ffmpeg, or a quality from 1 to 100"),
        (["--backbone", "tiny", "--crop-order", "tv"], "--crop-order orders several crops"),
        (["--backbone", "tiny", "--temporal", "mean"], "takes whole clips"),
        (["--backbone", "tiny", "--backbone", "tiny-flow", "--weights", "w.pt"], "give them one run each"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    videos: Path, vadx_here: Vadx, tmp_path: Path, arguments: list[str], says: str
) -> None:
    weights = [] if "--weights" in arguments else ["--weights", "random"]
    done = vadx_here("extract", *arguments, *weights, videos, "-o", "s")
    assert done.code == 2
    assert says in done.err
    assert not (tmp_path / "s").exists()


def test_every_override_makes_another_set_and_is_named(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    base = ("extract", "--backbone", "tiny", "--weights", "random", videos / "Normal" / "clip000_x264.mp4", "-o", "s")
    changes = [
        [],
        ["--fps", "10"],
        ["--frame-step", "2"],
        ["--crops", "ten", "--crop-order", "roc"],
        ["--crops", "ten", "--crop-order", "tsn"],
        ["--kernel", "cv2"],
        ["--jpeg", "ffmpeg"],
        ["--jpeg", "95"],
        ["--tail", "drop"],
    ]
    for change in changes:
        assert vadx_here(*base, *change).code == 0
    store = Store(tmp_path / "s")
    assert len(list(store)) == len(changes)
    names = {s.preset for s in store.sets()}
    assert "tiny-default+fps=10.0+weights=random" in names
    assert "tiny-default+crops=ten+crop_order=tsn+weights=random" in names
    assert "tiny-default+jpeg=ffmpeg+weights=random" in names


def test_saying_a_default_is_no_override_of_the_recipe(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    plain = vadx_here("extract", "--backbone", "i3d", "--weights", "random", videos, "-o", "s", "-n")
    said = vadx_here(
        "extract", "--backbone", "i3d", "--switch", "same_pad=dynamic", "--weights", "random", videos, "-o", "s", "-n"
    )
    other = vadx_here(
        "extract",
        "--backbone",
        "i3d",
        "--switch",
        "same_pad=static_ceil",
        "--weights",
        "random",
        videos,
        "-o",
        "s",
        "-n",
    )
    assert plain.err.splitlines()[-1] == said.err.splitlines()[-1]
    assert plain.err.splitlines()[-1] != other.err.splitlines()[-1]


def test_settings_name_one_network_or_several(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    (tmp_path / "vadx.toml").write_text('[extract]\nbackbone = "tiny"\nweights = "random"\nout = "one"\n')
    assert vadx_here("extract", videos).code == 0
    (tmp_path / "vadx.toml").write_text(
        '[extract]\nbackbone = ["tiny", "tiny-frames"]\nweights = "random"\nout = "two"\n'
    )
    assert vadx_here("extract", videos).code == 0
    assert (len(list(Store(tmp_path / "one"))), len(list(Store(tmp_path / "two")))) == (1, 2)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("backbone = [[1]]", "backbone is a word or a list of words, got [[1]]"),
        ("batch = [1]", "batch is one value, got [1]"),
        ("out = {a = 1}", "out is one value, got {'a': 1}"),
    ],
)
def test_settings_of_a_wrong_type_are_named(vadx_here: Vadx, tmp_path: Path, setting: str, says: str) -> None:
    (tmp_path / "vadx.toml").write_text(f"[extract]\n{setting}\n")
    done = vadx_here("extract", "videos")
    assert done.code == 2
    assert says in done.err


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_file_may_list_is_what_can_be_given_several_times(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    several = {one.name for one in command.params if isinstance(one, click.Option) and one.multiple}
    assert several == REPEATED.get(name, frozenset())


def test_one_recipe_under_two_presets_is_one_set(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    arguments = ("extract", "--preset", "xdviolence-i3d", "--preset", "csltal-i3d", "--weights", "random", videos, "-n")
    done = vadx_here(*arguments)
    assert done.code == 0
    assert "csltal-i3d+weights=random is the same recipe as xdviolence-i3d+weights=random" in done.err
    assert len(done.out.splitlines()) == 6


def test_a_default_said_aloud_renames_nothing(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    base = ("extract", "--backbone", "tiny", "--weights", "random", videos, "-o", "s")
    assert vadx_here(*base, "--tail", "repeat_last", "--clip-stride", "4", "--kernel", "pil").code == 0
    assert [s.preset for s in Store(tmp_path / "s").sets()] == ["tiny-default+weights=random"]
    assert vadx_here("info", "tiny-default", "-o", "s").code == 0


def test_a_network_means_its_own_set_beside_longer_names(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    assert vadx_here("extract", *THREE, videos, "-o", "s").code == 0
    assert Store(tmp_path / "s")["tiny"].recipe.network.name == "tiny"
    assert Store(tmp_path / "s")["tiny-fl"].recipe.network.name == "tiny-flow"
    assert vadx_here("info", "tiny", "-o", "s").out.startswith("tiny-random0")


def test_predictions_are_refused_before_the_work_and_never_hide_the_report(
    videos: Path, vadx_here: Vadx, tmp_path: Path
) -> None:
    none = vadx_here("extract", "--backbone", "tiny-flow", "--weights", "random", videos, "-o", "s", "--show-pred")
    assert (none.code, "no classifier" in none.err) == (2, True)
    assert not (tmp_path / "s").exists()
    assert vadx_here("extract", *THREE, videos, "-o", "s", "--show-pred", "--json").code == 2
    some = vadx_here("extract", *THREE, videos, "-o", "s", "--show-pred")
    assert some.code == 0
    assert some.err.count("done: 6 stored") == 3
    assert some.err.count("has no classifier") == 2
    assert "Normal/clip000_x264: " in some.out


def test_networks_are_loaded_once_though_videos_need_different_ones(
    videos: Path, vadx_here: Vadx, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vadx.extract import library
    from vadx.pipelines import job

    tiny = ("--backbone", "tiny", "--weights", "random")
    half = videos / "Normal"
    assert vadx_here("extract", *tiny, half, "--root", videos, "-o", "s").code == 0
    loads: list[str] = []
    original = library.load_backbone

    def spy(name: str, *arguments: object, **options: object) -> object:
        loads.append(name)
        return original(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "load_backbone", spy)
    monkeypatch.setattr(job, "_engines", {})
    assert vadx_here("extract", "--backbone", "tiny-frames", *tiny, videos, "-o", "s").code == 0
    assert sorted(loads) == ["tiny", "tiny-frames"]


def test_weights_that_do_not_fit_leave_no_set_behind(videos: Path, vadx_here: Vadx, tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    done = vadx_here("extract", "--backbone", "tiny", "--weights", "w.pt", videos, "-o", "s")
    assert (done.code, "does not fit" in done.err) == (6, True)
    assert not (tmp_path / "s").exists()


def test_a_dry_run_knows_a_set_that_holds_nothing_yet(vadx_here: Vadx, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    arguments = ("extract", "--backbone", "tiny", "--weights", "random", "bad.mp4", "-o", "s")
    assert vadx_here(*arguments).code == 3
    assert "(new)" not in vadx_here(*arguments, "-n").err


@pytest.mark.parametrize(
    ("setting", "says"), [("fps = true", "fps is no true or false"), ("batch = 2.7", "a whole number")]
)
def test_settings_that_click_would_bend_are_refused(vadx_here: Vadx, tmp_path: Path, setting: str, says: str) -> None:
    (tmp_path / "vadx.toml").write_text(f"[extract]\n{setting}\n")
    done = vadx_here("extract", "videos")
    assert (done.code, says in done.err) == (2, True)


def test_the_environment_names_the_network_as_the_option_does(
    videos: Path, vadx_here: Vadx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VADX_EXTRACT_BACKBONE", "tiny tiny-frames")
    assert vadx_here("extract", "--weights", "random", videos, "-o", "s").code == 0
    assert len(list(Store(tmp_path / "s"))) == 2
