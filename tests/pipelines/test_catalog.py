"""The lists of networks and presets, and the page made from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from support import REPOSITORY, Ran, make_video
from vadx.extract.backbones.table import BUILT_IN
from vadx.extract.presets import PRESETS
from vadx.pipelines.catalog import markdown

Vadx = Callable[..., Ran]


def test_the_page_of_networks_is_the_table() -> None:
    assert (REPOSITORY / "docs" / "backbones.md").read_text() == markdown()


def test_json_and_page_tell_the_same(vadx_here: Vadx) -> None:
    rows = {row["name"]: row for row in json.loads(vadx_here("backbones", "--json").out)}
    page = vadx_here("backbones", "--markdown").out
    assert page == markdown()
    for spec in BUILT_IN:
        row = rows[spec.name]
        assert row["dim"] == spec.dim
        assert f"| `{spec.name}` | {spec.title} | {spec.dim} | {row['clip']} |" in page
        assert all(f"`{line['name']}`" in page for line in row["checkpoints"])


def test_networks_are_found_by_wildcard(vadx_here: Vadx) -> None:
    assert vadx_here("backbones", "*r2plus1d*", "-q").out.split() == ["r2plus1d", "r2plus1d-34"]
    nothing = vadx_here("backbones", "nothing*")
    assert nothing.code == 2
    assert "no backbone matches 'nothing*'" in nothing.err


def test_a_preset_is_told_with_its_sources(vadx_here: Vadx) -> None:
    told = vadx_here("presets", "sultani-c3d")
    preset = PRESETS["sultani-c3d"]
    assert told.code == 0
    for what, source in preset.sources.items():
        assert what in " ".join(told.out.split())
        assert source in " ".join(told.out.split())
    assert "Disputed" in told.out
    assert "nearest frames at 30 frames/s -> 240x320" in " ".join(told.out.split())


def test_presets_are_listed_matched_and_printed_as_json(vadx_here: Vadx) -> None:
    names = vadx_here("presets", "-q").out.split()
    assert set(PRESETS) <= set(names)
    assert vadx_here("presets", "vadclip*", "-q").out.split() == ["vadclip-vitb16", "vadclip-vitb16-single"]
    (record,) = json.loads(vadx_here("presets", "vadclip-vitb16", "--json").out)
    assert record["recipe"]["network"]["temporal"] == "mean"
    assert record["disputed"]
    unknown = vadx_here("presets", "vadclip-vitb17")
    assert unknown.code == 2
    assert "there is no preset 'vadclip-vitb17'" in unknown.err


def test_a_picture_shows_every_crop(vadx_here: Vadx, tmp_path: Path) -> None:
    done = vadx_here("presets", "gcn-c3d", "--picture", "out.png")
    assert done.code == 0
    assert "10 crops of 112x112" in done.err
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (4 * 116, 10 * 116)
        # BGR: the red corner of the test card is blue here, and on the right in the mirrored sixth crop.
        assert picture.getpixel((3, 3)) == (40, 40, 230)
        assert picture.getpixel((108, 5 * 116 + 3)) == (40, 40, 230)


def test_a_picture_of_a_video_shows_that_video(vadx_here: Vadx, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=40, width=320, height=240)
    assert vadx_here("presets", "kinetics-i3d", "--picture", "a.png", "--video", "a.mp4").code == 0
    assert vadx_here("presets", "kinetics-i3d", "--picture", "card.png").code == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "card.png").read_bytes()
    several = vadx_here("presets", "vadclip*", "--picture", "b.png")
    assert (several.code, "shows one preset" in several.err) == (2, True)
    missing = vadx_here("presets", "kinetics-i3d", "--picture", "c.png", "--video", "missing.mp4")
    assert missing.code == 3
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("name", ["lad-i3d-flow", "openai-clip-vitb16", "sultani-c3d"])
def test_flow_frames_and_resampled_recipes_have_pictures_too(vadx_here: Vadx, tmp_path: Path, name: str) -> None:
    done = vadx_here("presets", name, "--picture", "out.png")
    assert done.code == 0
    with Image.open(tmp_path / "out.png") as picture:
        low, high = picture.convert("L").getextrema()
    assert low < high
