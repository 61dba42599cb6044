"""Reports with pictures of tubes: of a set of tubes, and of a model that scores them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from support import Ran, make_video
from vadx.features.stage_set import StageSet
from vadx.features.store import Store
from vadx.pipelines.report import tube_picture
from vadx.pipelines.report_page import Picture

from .scoring_samples import write_tiny_model

VADX = Callable[..., Ran]
TUBES = (
    *("tubes", "--detector", "tiny-boxes", "--device", "cpu", "--min-length-unary", "10", "--decoders", "0"),
    *("--min-length-multivariate", "10", "--backbone", "tiny", "--backbone-weights", "random:5", "--out", "store"),
)


@pytest.fixture(autouse=True)
def tiny_boxes() -> Iterator[None]:
    from vadx.detectors.detector import detectors
    from vadx.pipelines import tube_detection

    detectors.cache_clear()
    tube_detection._detectors.clear()
    yield
    detectors.cache_clear()
    tube_detection._detectors.clear()


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/jpeg;base64,(.*?)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_tubes_are_drawn_over_frames(tmp_path: Path, vadx_here: VADX) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=24)
    make_video(tmp_path / "videos" / "b.mp4", num_frames=24, seed=3)
    assert vadx_here(*TUBES, "videos").code == 0
    ran = vadx_here("report", "tubes", "--store", "store", "--videos", "videos", "--sheets", "1", "-o", "tubes.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "tubes.html").read_text()
    (sheet,) = pictures_in(page)
    assert re.search(r'alt="Tubes: \d+ \w+ in frames \d+ to \d+', page)
    assert sheet.format == "JPEG"
    assert sheet.width > 600
    ran = vadx_here("report", "tube-features", "--store", "store", "-o", "features.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "features.html").read_text()
    assert pictures_in(page) == []
    assert "--videos ROOT" in page
    assert "made of the set with digest" in page


def test_a_model_that_scores_tubes_shows_the_best_ones(
    tmp_path: Path, vadx_here: VADX, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=24)
    assert vadx_here(*TUBES, "videos").code == 0
    store = Store(tmp_path / "store")
    (tubes,) = [one for one in store.all_sets() if isinstance(one, StageSet) and one.kind == "tube-features"]
    write_tiny_model(tmp_path / "model", "mgpr", inputs={"tubes": {"digest": tubes.digest}})
    extract = ("extract", "-b", "tiny", "--weights", "random:5", "-d", "cpu", "-o", "store", "-q")
    assert vadx_here(*extract, "videos").code == 0
    orders = []

    def noted(*arguments: object, order: object, **others: object) -> list[Picture]:
        orders.append(order)
        return tube_picture(*arguments, order=order, **others)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr("vadx.pipelines.report_models.tube_picture", noted)
    command = ("report", "model", "--store", "store", "--videos", "videos")
    ran = vadx_here(*command, "-o", "model.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "model.html").read_text()
    assert len(pictures_in(page)) == 1
    assert "those of the highest score first" in page
    ((*places,),) = orders
    assert len(places) == len(set(places)) > 0
    assert vadx_here(*command, "--tubes", "tube-features", "-o", "named.html").code == 0
    assert (tmp_path / "named.html").read_text() == page
    refused = vadx_here(*command, "--tubes", "tubes", "-o", "named.html")
    assert refused.code == 2
    assert "not features of tubes" in refused.err


def test_a_video_that_is_gone_or_broken_costs_its_picture_alone(tmp_path: Path, vadx_here: VADX) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=24)
    assert vadx_here(*TUBES, "videos").code == 0
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video any more")
    ran = vadx_here("report", "tubes", "--store", "store", "--videos", "videos", "-o", "tubes.html")
    assert ran.code == 0, ran.err
    assert pictures_in((tmp_path / "tubes.html").read_text()) == []
