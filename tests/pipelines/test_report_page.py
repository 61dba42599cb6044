"""A report's page: hostile names stay text, its HTML is whole, its colours can be read, and it stays small."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from support import REPOSITORY
from vadx.pipelines.report_curves import frame_edges, seconds_text, time_table
from vadx.pipelines.report_page import (
    Fact,
    FactGroup,
    Failure,
    Histogram,
    Picture,
    Plot,
    ReportPage,
    ScoredCard,
    Source,
    Table,
    render,
)

TEMPLATES = REPOSITORY / "pipelines" / "templates"
HOSTILE = '</script></style></title><img src=x onerror="alert(1)">\' " & \x1b[31m\x00\u202e{{ 7 * 7 }}'
VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Reads a page: which elements are open, what their attributes are, and what the text is."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.problems.append(f"{tag} has an attribute twice: {names}")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> ends nothing")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def make_card(identifier: str = "a", *, num_frames: int = 200, **changes: object) -> ScoredCard:
    scores = (0.5 + 0.4 * np.sin(np.arange(num_frames) / 9)).astype(np.float32)
    values = {
        "seconds": np.arange(num_frames + 1) / 25,
        "source": Source("videos/a.mp4"),
        "label": 1,
        "class_name": "Abuse",
        "truth": np.array([[50, 100]]),
    }
    return ScoredCard(identifier, scores, **(values | changes))  # type: ignore[arg-type]  # tests name them


def full_page(text: str = "x") -> ReportPage:
    """Give a page with everything in it, and ``text`` wherever a stranger's may stand."""
    own = make_card(text, class_name=text, facts=(Fact(text, text),), others={text: np.zeros(200, np.float32)})
    return ReportPage(
        title=text,
        lead=text,
        summary=(Fact(text, text),),
        notes=(text,),
        plots=(Plot(text, text, text, np.array([[0, 0], [1, 1.0]]), text, diagonal=True),),
        tables=(
            Table(text, (text, text), ((text, text),), frozenset({1}), text),
            Table("folded", ("a",), (), folded=True),
        ),
        histograms=(Histogram(text, text, (0, 1, 2), (3, 4)),),
        videos=(own, make_card(f"{text}2", class_name=text, source=Source(None, text), truth=None)),
        pictures=(Picture(b"\xff\xd8", 4, 2, text, text),),
        listing=Table(text, (text,), ((text,),)),
        provenance=(FactGroup(text, (Fact(text, text),)),),
        failures=(Failure(text, text, text, text, text),),
    )


@pytest.mark.parametrize(
    "page", [full_page(), full_page(HOSTILE), ReportPage("t", "l")], ids=["all", "hostile", "none"]
)
def test_every_element_is_closed_and_every_id_stands_once(page: ReportPage) -> None:
    read = Reader(render(page))
    assert (read.problems, read.open) == ([], [])
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    meant = [a[key] for _, a in read.elements for key in ("aria-labelledby", "aria-describedby") if key in a]
    links = [str(a["href"]).removeprefix("#") for _, a in read.elements if str(a.get("href")).startswith("#")]
    assert set(meant) | set(links) <= set(ids)


def test_hostile_names_are_text_wherever_they_stand() -> None:
    plain, hostile = Reader(render(full_page("x" * len(HOSTILE)))), Reader(render(full_page(HOSTILE)))
    assert [tag for tag, _ in plain.elements] == [tag for tag, _ in hostile.elements]
    assert [set(a) for _, a in plain.elements] == [set(a) for _, a in hostile.elements]
    said = "".join(hostile.text)
    assert "{{ 7 * 7 }}" in said
    assert 'onerror="alert(1)"' in said


def test_no_control_character_or_half_of_a_surrogate_is_left() -> None:
    page = render(full_page("a\x00b\x1b\x7f\x85\udcff\ufffe"))
    page.encode("utf-8")
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page) is None
    assert "a\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffd" in page


def test_the_policy_lets_only_its_own_style_and_script_run() -> None:
    read = Reader(render(full_page(HOSTILE)))
    policy = next(str(a["content"]) for _, a in read.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert [a for tag, a in read.elements if tag == "script"] == [{}]
    assert not [a for _, a in read.elements if any(name.startswith("on") or name == "style" for name in a)]


def test_the_same_page_gives_the_same_text() -> None:
    assert render(full_page()) == render(full_page())


def test_what_a_curve_shows_stands_in_a_table_too() -> None:
    scores = np.repeat(np.array([0.25, 0.75, 0.5], np.float32), [50, 50, 100])
    table = time_table(scores, np.arange(201) / 25, np.array([[50, 150]]), 40)
    assert table.whole
    assert [(row.start, row.stop, row.highest, row.truth) for row in table.rows] == [
        ("0:00.0", "0:02.0", "0.250", "none"),
        ("0:02.0", "0:04.0", "0.750", "all"),
        ("0:04.0", "0:08.0", "0.500", "50%"),
    ]
    many = time_table(np.linspace(0, 1, 1000, dtype=np.float32), np.arange(1001) / 25, None, 40)
    assert (many.whole, len(many.rows), many.rows[0].truth, many.rows[-1].highest) == (False, 40, "not known", "1.000")


def test_times_never_fall_and_the_last_frame_is_shown() -> None:
    edges = frame_edges(np.array([1.5, 1.6, 1.55, 1.7]), 1.8)
    assert edges == pytest.approx([1.5, 1.6, 1.6, 1.7, 1.8])
    assert frame_edges(np.array([2.0]), 2.0).tolist() == [2, 3]
    with pytest.raises(ValueError, match="no time axis"):
        frame_edges(np.array([np.nan]), 1.0)


def test_round_times_are_those_of_the_file() -> None:
    card = make_card(seconds=np.arange(201) / 25 + 2.4)  # 8 s from 2.4 s on
    page = render(ReportPage("t", "l", videos=(card,)))
    ticks = re.findall(r'<text x="(.*?)%" y="14".*?>(.*?)</text>', page)
    assert ticks == [("20.00", "0:04"), ("45.00", "0:06"), ("70.00", "0:08"), ("95.00", "0:10")]
    assert "Marked anomalous: 0:04.4 to 0:06.4." in page


def test_cards_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        make_card(others={"attention": np.full(200, np.nan, np.float32)})
    with pytest.raises(ValueError, match="spans lie in"):
        make_card(truth=np.array([[0, 201]]))
    with pytest.raises(ValueError, match="takes points"):
        Plot("t", "x", "y", np.array([[0, 1.5]]))
    with pytest.raises(ValueError, match="has 2 columns"):
        Table("t", ("a", "b"), (("a",),))


def test_kinds_stand_together_and_the_highest_first() -> None:
    def scored(identifier: str, label: int, kind: str, peak: float) -> ScoredCard:
        values = np.full(10, 0.1, np.float32)
        values[3] = peak
        return ScoredCard(identifier, values, np.arange(11.0), Source(None, "x"), label, kind)

    cards = (
        scored("unknown", -1, "", 0.9),
        scored("normal", 0, "", 0.9),
        scored("low", 1, "Arson", 0.2),
        scored("high", 1, "Arson", 0.8),
        scored("abuse", 1, "Abuse", 0.1),
    )
    read = Reader(render(ReportPage("t", "l", videos=cards)))
    ids = [attributes["data-id"] for _, attributes in read.elements if "data-id" in attributes]
    assert ids == ["abuse", "high", "low", "normal", "unknown"]


def test_a_report_of_all_of_ucf_crime_stays_below_ten_megabytes() -> None:
    rng = np.random.default_rng(0)
    # 290 test videos have 1.11 million frames; a score of its own for each frame is the worst case.
    seconds = np.arange(3834) / 30
    cards = tuple(
        ScoredCard(
            f"Kind/Video{i:03d}_x264", rng.random(3833, dtype=np.float32), seconds, Source(f"v/{i}.mp4"), 1, "Kind"
        )
        for i in range(290)
    )
    page = render(ReportPage("t", "l", videos=cards))
    assert len(page.encode()) < 10e6


def test_text_and_lines_can_be_told_from_their_ground_by_wcag() -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for lines that mean something."""
    style = (TEMPLATES / "report.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(themes) == 3
    for colours in themes:
        for ground in ("paper", "raised"):
            for text in ("ink", "quiet", "link", "bad"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)
            for line in ("line", "other", "edge"):
                assert contrast(colours[line], colours[ground]) >= 3, (line, ground, colours)
        for line in ("line", "other"):
            assert contrast(colours[line], colours["truth"]) >= 3, (line, colours)


def contrast(one: str, other: str) -> float:
    """Give the contrast ratio of two colours, by WCAG's definition of relative luminance."""
    assert contrast_of_luminances(1.0, 0.0) == 21
    return contrast_of_luminances(luminance(one), luminance(other))


def contrast_of_luminances(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_package_carries_its_templates() -> None:
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    on_disk = [path.name for path in TEMPLATES.iterdir() if path.is_file() and path.suffix != ".py"]
    assert sorted(on_disk) == ["report.css", "report.html.j2", "report.js"]
    for name in on_disk:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns["vadx.pipelines.templates"]), name


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.0, "4 s"), (4.25, "4.2 s"), (150, "2 min 30 s"), (3900, "1 h 05 min")]
)
def test_durations_are_written_to_be_read(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
