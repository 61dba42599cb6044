"""A report in a real browser: it plays from where a curve is clicked, tells a screen reader, and fetches nothing."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import Browser, chromium
from support import make_video
from vadx.pipelines.report_page import Histogram, Picture, Plot, ReportPage, ScoredCard, Source, Table, render

pytestmark = pytest.mark.chromium

SECONDS, FPS = 8, 25
NAME = "Abuse 50%#1 é.mp4"
URL = "videos/Abuse%2050%25%231%20%C3%A9.mp4"
ARROW_RIGHT, HOME, ENTER, KEY_M = ("ArrowRight", 39), ("Home", 36), ("Enter", 13), ("m", 77)


def make_card(identifier: str, source: Source, *, peak_frame: int = 150, peak: float = 0.875) -> ScoredCard:
    scores = np.full(SECONDS * FPS, 0.125, np.float32)
    scores[peak_frame : peak_frame + 10] = peak
    edges = np.arange(SECONDS * FPS + 1) / FPS
    truth = np.array([[peak_frame - 25, peak_frame + 25]])
    return ScoredCard(identifier, scores, edges, source, label=1, class_name="Abuse", truth=truth)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a report and the video of its first card; the second's is missing."""
    place = tmp_path_factory.mktemp("report")
    make_video(place / "videos" / NAME, num_frames=SECONDS * FPS, fps=FPS)
    cards = (
        make_card('hostile</script><script>document.title="owned"</script>"\x1b', Source(URL)),
        make_card("A other", Source(None, "no file"), peak_frame=50, peak=0.75),
    )
    plots = (Plot("ROC", "false positives", "true positives", np.array([[0, 0], [0.5, 0.5], [1, 1.0]])),)
    page = ReportPage("a model", "what it says", plots=plots, videos=cards, pictures=(tiny_picture(),))
    (place / "report.html").write_text(render(page), encoding="utf-8")
    return place


def tiny_picture() -> Picture:
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "JPEG")
    return Picture(file.getvalue(), 4, 2, "black", "a caption")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(started: Browser, folder: Path) -> Iterator[Browser]:
    """Give the freshly loaded report, and see afterwards that the console stayed empty and nothing was fetched."""
    address = (folder / "report.html").as_uri()
    started.open(address)
    yield started
    assert started.complaints() == []
    beside = folder.as_uri()
    assert all(url.startswith((beside, "data:")) for url in started.requests()), started.requests()
    assert address in started.requests()


def box_of(page: Browser, selector: str) -> dict[str, float]:
    code = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView(); "
    box: dict[str, float] = page.value(code + "return e.getBoundingClientRect().toJSON(); })()")
    return box


def test_a_click_in_a_curve_plays_from_there(page: Browser) -> None:
    page.wait_for("document.querySelector('#video-1').readyState > 0")
    page.value(
        "window.seeks = []; "
        "document.querySelector('#video-1').addEventListener('seeking', (e) => seeks.push(e.target.currentTime)); 0"
    )
    box = box_of(page, "#plot-of-1 svg.wide")
    page.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for("document.querySelector('#video-1').currentTime > 6.05 && !document.querySelector('#video-1').paused")
    # The mouse points at whole pixels, of which about a thousand make 8 s.
    assert page.value("seeks") == [pytest.approx(6.0, abs=0.02)]
    assert page.value("document.querySelector('#video-1').error") is None
    page.wait_for("Number(document.querySelector('#plot-of-1').getAttribute('aria-valuenow')) > 6")


def test_a_file_whose_clock_begins_later_is_played_by_its_own_clock(started: Browser, tmp_path: Path) -> None:
    pts = range(2 * FPS, (2 + SECONDS) * FPS)
    video = tmp_path / "late.webm"
    make_video(video, num_frames=len(pts), codec="libvpx", pts=pts, time_base=Fraction(1, FPS))
    edges = np.arange(2 * FPS, (2 + SECONDS) * FPS + 1) / FPS
    card = ScoredCard("late", np.full(SECONDS * FPS, 0.5, np.float32), edges, Source("late.webm"))
    (tmp_path / "report.html").write_text(render(ReportPage("t", "l", videos=(card,))), encoding="utf-8")
    started.open((tmp_path / "report.html").as_uri())
    # The player's own first time, before anything was clicked.
    started.wait_for("Math.abs(document.querySelector('video').currentTime - 2) < 0.05")
    box = box_of(started, "#plot-of-1 svg.wide")
    started.click(box["x"] + 0.5 * box["width"], box["y"] + 5)
    started.wait_for("document.querySelector('video').currentTime > 6.05")
    assert started.value("document.querySelector('video').currentTime") < 7
    assert started.complaints() == []


def test_keys_move_along_a_curve_and_play(page: Browser) -> None:
    page.value("document.querySelector('#plot-of-1').focus()")
    page.press(*ARROW_RIGHT)
    assert page.value("document.activeElement.getAttribute('aria-valuenow')") == "0.400"  # a twentieth of 8 s
    assert page.value("document.activeElement.getAttribute('aria-valuetext')").startswith("0:00.4, score 0.13")
    page.press(*KEY_M)
    text = page.value("document.activeElement.getAttribute('aria-valuetext')")
    assert text == "0:06.0, score 0.88, marked anomalous"
    page.wait_for("Math.abs(document.querySelector('#video-1').currentTime - 6) < 0.001")
    page.press(*ENTER)
    page.wait_for("document.querySelector('#video-1').currentTime > 6.05")
    page.press(*ENTER)
    page.wait_for("document.querySelector('#video-1').paused")
    page.press(*HOME)
    page.wait_for("document.querySelector('#video-1').currentTime === 0")


def test_a_video_that_was_not_found_is_said(page: Browser) -> None:
    box = box_of(page, "#plot-of-2 svg.wide")
    page.click(box["x"] + 0.5 * box["width"], box["y"] + 5)
    assert "not found" in page.value("document.querySelector('#said').textContent")
    assert page.value("document.querySelector('#plot-of-2').getAttribute('aria-valuenow')")[:2] in ("3.", "4.")


@pytest.mark.parametrize(("url", "name"), [("gone%20by%20now.mp4", "gone by now.mp4"), ("%FF.mp4", "%FF.mp4")])
def test_a_video_that_is_gone_since_is_said(started: Browser, tmp_path: Path, url: str, name: str) -> None:
    page = ReportPage("a model", "what it says", videos=(make_card("a", Source(url)),))
    (tmp_path / "report.html").write_text(render(page), encoding="utf-8")
    started.open((tmp_path / "report.html").as_uri())
    said = started.wait_for("document.querySelector('#said').textContent")
    assert f"cannot play {name}: the file was moved" in said
    # That Chromium notes the missing file itself is as it should be.
    assert [event["method"] for event in started.complaints() if "ERR_FILE_NOT_FOUND" not in json.dumps(event)] == []


def test_what_strangers_named_is_text_and_runs_nothing(page: Browser) -> None:
    assert page.value("document.title") == "a model"
    assert page.value("document.querySelectorAll('script').length") == 1
    assert "</script>" in page.value("document.querySelector('details.video').dataset.id")


def test_the_page_itself_runs_no_other_script_and_fetches_nothing(started: Browser, folder: Path) -> None:
    started.open((folder / "report.html").as_uri())
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); "
    fetched = "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); window.ran"
    assert started.value(injected + fetched) is None
    assert started.value("fetch('http://127.0.0.1:9/x').then(() => 'fetched', () => 'refused')") == "refused"
    entries = [event["params"].get("entry", {}) for event in started.complaints()]
    refused = [one["text"] for one in entries if one.get("source") == "security"]
    assert len(refused) == 3
    assert all("Content Security Policy" in text for text in refused)


def test_a_screen_reader_finds_names_and_landmarks(page: Browser) -> None:
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
    roles = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
    assert ("slider", "Score of A other over time") in roles
    assert {"banner", "main", "navigation", "contentinfo", "region", "slider"} <= {role for role, _ in roles}
    assert any(role == "Video" and name.startswith("Video hostile") for role, name in roles)
    assert ("image", "ROC") in roles
    assert ("image", "black") in roles
    needing = {"slider", "button", "link", "Video", "image", "combobox", "searchbox", "region", "heading"}
    assert [(role, name) for role, name in roles if role in needing and not name] == []


def test_a_page_without_curves_says_nothing_to_the_console(started: Browser, tmp_path: Path) -> None:
    table = Table("Videos", ("id", "frames"), (("a", "3"),), frozenset({1}))
    histogram = Histogram("Durations", "videos", (0.0, 1.0, 2.0), (3, 1))
    page = ReportPage("a set", "what it holds", tables=(table,), histograms=(histogram,), listing=table)
    (tmp_path / "set.html").write_text(render(page), encoding="utf-8")
    started.open((tmp_path / "set.html").as_uri())
    started.call("Page.printToPDF")
    assert started.complaints() == []
    assert all(url.startswith(("file:", "data:")) for url in started.requests())
    bars = started.value("[...document.querySelectorAll('.bars rect')].map((e) => e.getBoundingClientRect().height)")
    assert bars[0] == pytest.approx(3 * bars[1], rel=0.01)


def test_videos_are_ordered_filtered_and_closed(page: Browser) -> None:
    order = "[...document.querySelectorAll('details.video')].map((e) => e.dataset.id.slice(0, 5)).join()"
    choose = "(v) => { const o = document.querySelector('#order'); o.value = v; o.dispatchEvent(new Event('change')); }"
    assert page.value(order) == "hosti,A oth"
    page.value(f"({choose})('id')")
    assert page.value(order) == "A oth,hosti"
    page.value(f"({choose})('peak')")
    assert page.value(order) == "hosti,A oth"
    search = "const f = document.querySelector('#filter'); f.value = 'OTH'; f.dispatchEvent(new Event('input'))"
    page.value(search)
    assert page.value("[...document.querySelectorAll('details.video')].map((e) => e.hidden).join()") == "true,false"


def test_it_prints_with_every_curve_open(page: Browser) -> None:
    page.value("document.querySelector('#close-all').click()")
    count = "document.querySelectorAll('details.video[open]').length"
    page.value(f"window.opened = 0; addEventListener('beforeprint', () => {{ window.opened = {count}; }})")
    paper = base64.b64decode(page.call("Page.printToPDF")["data"])
    assert paper.startswith(b"%PDF")
    assert page.value("window.opened") == 2
    assert page.value(count) == 0
