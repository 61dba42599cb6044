"""`vadx report` on sets and models, from videos to a page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from support import Ran, make_video
from vadx.errors import CODES, UsageError
from vadx.features.bag_file import LABELS
from vadx.features.manifest import ManifestEntry
from vadx.features.shard_set import FailureRecord
from vadx.features.timeline import ClipFeatures
from vadx.pipelines.model_folder import Model
from vadx.pipelines.report import Known
from vadx.pipelines.report_models import scored_card
from vadx.pipelines.report_page import ReportPage, ScoredCard, render
from vadx.pipelines.report_sets import duration_histogram, failure_of, flat_facts
from vadx.pipelines.report_sources import Sources, find_sources, relative_url
from vadx.pipelines.scoring import ScoredVideo, score_clips

from .import_samples import rtfm_release
from .scoring_samples import make_clips

VADX = Callable[..., Ran]
EXTRACT = ("extract", "-b", "tiny", "--weights", "random", "videos", "-d", "cpu", "-o", "store", "-q")
TRAIN = ("train", "tiny", "--store", "store", "--method", "deepmil", "--manifest", "list.csv", "--iterations", "2")


@pytest.fixture
def stored(tmp_path: Path, vadx_here: VADX) -> None:
    """Extract four videos, and one that is none."""
    lines = ["id,label,class,split,spans"]
    for number in range(4):
        name, kind = (f"Abuse/Abuse 0{number}#%", "Abuse") if number % 2 else (f"Normal/Normal_{number}", "")
        make_video(tmp_path / "videos" / f"{name}.mp4", num_frames=40 + 20 * number, seed=number)
        lines.append(f"{name},{number % 2},{kind},{'train' if number < 2 else 'test'},{'10:20' if kind else ''}")
    (tmp_path / "videos" / "Abuse" / "<b>&.mp4").write_bytes(b"this is no video")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    ran = vadx_here(*EXTRACT)
    assert ran.code == 3, ran.err


def facts_of(page: str, name: str) -> list[str]:
    """Give what stands beside a name in the lists of facts."""
    return re.findall(rf"<dt>{re.escape(name)}</dt><dd><bdi>(.*?)</bdi>", page)


@pytest.mark.usefixtures("stored")
def test_a_set_is_told_with_its_videos_recipe_and_failures(tmp_path: Path, vadx_here: VADX) -> None:
    ran = vadx_here("report", "tiny", "--store", "store", "-o", "set.html", "--manifest", "list.csv")
    assert (ran.code, ran.out) == (0, "set.html\n")
    assert re.search(r"^\d+\.\d [kM]B written; to see it, open set.html in any browser, where it lies$", ran.err, re.M)
    page = (tmp_path / "set.html").read_text()
    assert facts_of(page, "videos") == ["4"]
    assert facts_of(page, "frames") == ["280"]  # 40 + 60 + 80 + 100
    assert facts_of(page, "together") == ["11.2 s"]  # at 25 frames/s
    assert facts_of(page, "clips") == ["70"]  # of 4 frames
    assert facts_of(page, "sampling.clip_length") == ["4"]
    assert len(facts_of(page, "recipe digest")[0]) == 64
    assert facts_of(page, "torch")
    assert "Abuse/&lt;b&gt;&amp;" in page
    assert CODES["VIDEO_NOT_VIDEO"].cause in page
    assert str(tmp_path) not in page
    told = json.loads(vadx_here("report", "tiny", "--store", "store", "-o", "set.html", "--json").out)
    assert (told["videos"], told["failures"], told["page"]) == (4, 1, "set.html")


@pytest.mark.usefixtures("stored")
def test_a_model_is_told_with_scores_truth_figures_and_provenance(tmp_path: Path, vadx_here: VADX) -> None:
    assert vadx_here(*TRAIN, "--to", "model").code == 0
    (tmp_path / "pages").mkdir()
    command = (
        "report",
        "model",
        "--store",
        "store",
        "--manifest",
        "list.csv",
        "--bootstrap",
        "20",
        "--videos",
        "videos",
    )
    ran = vadx_here(*command, "-o", "pages/report.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "pages" / "report.html").read_text()
    ids = re.findall(r'data-id="(.*?)"', page)
    assert ids == ["Abuse/Abuse 03#%", "Normal/Normal_2"]
    sources = re.findall(r'<video [^>]*src="(.*?)"', page)
    assert sources == ["../videos/Abuse/Abuse%2003%23%25.mp4", "../videos/Normal/Normal_2.mp4"]
    assert all((tmp_path / "pages" / unquote(source)).is_file() for source in sources)
    assert "Marked anomalous: 0:00.4 to 0:00.8." in page
    assert page.count('class="unit"') == 2
    assert facts_of(page, "method") == ["deepmil"]
    assert facts_of(page, "training.seed") == ["0"]
    assert all(len(facts_of(page, name)[0]) == 64 for name in ("sha256 of its file", "bags_sha256", "recipe_digest"))
    assert facts_of(page, "protocol") == ["vadx"]
    assert "VIDEO_NOT_VIDEO" in page
    assert str(tmp_path) not in page
    assert vadx_here(*command, "-o", "pages/again.html", "-q").code == 0
    assert (tmp_path / "pages" / "again.html").read_text() == page


@pytest.mark.usefixtures("stored")
def test_a_model_without_a_manifest_or_videos_says_what_is_missing(tmp_path: Path, vadx_here: VADX) -> None:
    assert vadx_here(*TRAIN, "--to", "model").code == 0
    ran = vadx_here("report", "model", "--store", "store")
    assert ran.code == 0, ran.err
    assert "--manifest FILE" in ran.err
    assert "--videos ROOT" in ran.err
    page = (tmp_path / "report.html").read_text()
    assert page.count('<details class="video"') == 4
    assert "<video" not in page
    assert "Which frames are anomalous is not known." in page
    refused = vadx_here("report", "model", "--store", "store", "--split", "test")
    assert refused.code == 2
    assert "--manifest FILE" in refused.err


@pytest.mark.usefixtures("stored")
def test_options_of_models_and_sets_that_are_not_there_are_refused(vadx_here: VADX) -> None:
    for arguments, told in (
        (("report", "tiny", "--store", "store", "--split", "test"), "--split are for models"),
        (("report", "nothing", "--store", "store"), "fits no feature set"),
        (("report", "tiny", "--store", "store", "-o", "no/such/folder.html"), "mkdir -p no/such"),
    ):
        ran = vadx_here(*arguments)
        assert ran.code == 2
        assert told in ran.err


@pytest.mark.usefixtures("stored")
def test_a_video_that_cannot_be_scored_is_a_failure_and_none_is_no_report(
    tmp_path: Path, vadx_here: VADX, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vadx_here(*TRAIN, "--to", "model").code == 0

    def failing(model: Model, clips: ClipFeatures, identifier: str) -> ScoredVideo:
        if identifier.startswith(refused):
            msg = f"{identifier}: it has no segment"
            raise UsageError(msg)
        return score_clips(model, clips, identifier)

    monkeypatch.setattr("vadx.pipelines.report_models.score_clips", failing)
    refused = "Normal/Normal_2"
    ran = vadx_here("report", "model", "--store", "store")
    assert ran.code == 3
    assert "error[SCORE] Normal/Normal_2: it has no segment" in ran.err
    page = (tmp_path / "report.html").read_text()
    assert page.count('<details class="video"') == 3
    assert "(<bdi>Normal/Normal_2: it has no segment</bdi>)" in page
    refused = ""
    nothing = vadx_here("report", "model", "--store", "store", "-o", "none.html")
    assert nothing.code == 5
    assert "no video could be scored; the first: Abuse/Abuse 01#%: it has no segment" in nothing.err
    assert not (tmp_path / "none.html").exists()


def card_of(entry: ManifestEntry, **changes: Any) -> ScoredCard:
    clips = make_clips(48)
    scores = np.array([0.25, 0.5, 0.75], np.float32)
    video = ScoredVideo(entry.id, clips.frames, scores, np.repeat(scores, 16), clips.seconds, **changes)
    return scored_card(video, Known({entry.id: entry}, Sources(Path("report.html"))))


def test_truth_is_shaded_where_it_is_known() -> None:
    spans = np.array([[10, 20], [40, 90], [60, 70]])
    card = card_of(ManifestEntry("a", label=1, class_name="Abuse", spans=spans))
    assert card.truth is not None
    assert card.truth.tolist() == [[10, 20], [40, 48]]
    normal = card_of(ManifestEntry("a", label=0))
    assert normal.truth is not None
    assert len(normal.truth) == 0
    assert card_of(ManifestEntry("a", label=1)).truth is None
    assert card_of(ManifestEntry("a")).truth is None
    assert set(LABELS) == {-1, 0, 1}
    assert card.seconds[-1] == pytest.approx(48 / 25)


def test_times_that_nobody_knows_are_assumed_and_said() -> None:
    clips = make_clips(48)
    unknown = np.full((3, 2), np.nan)
    video = ScoredVideo("a", clips.frames, np.zeros(3, np.float32), np.zeros(48, np.float32), unknown)
    card = scored_card(video, Known({}, Sources(Path("report.html"))))
    assert card.seconds.tolist() == (np.arange(49) / 25).tolist()
    assert any("not known" in fact.value for fact in card.facts)


def test_an_imported_set_says_what_is_unknown_of_it(tmp_path: Path, vadx_here: VADX) -> None:
    rtfm_release(tmp_path / "ucf")
    assert vadx_here("import", "--format", "rtfm", "ucf", "--to", "store").code == 0
    ran = vadx_here("report", imported_name(tmp_path / "store"), "--store", "store", "-o", "set.html")
    assert ran.code == 0, ran.err
    page = (tmp_path / "set.html").read_text()
    assert facts_of(page, "weights")[-1] == "unknown"
    assert facts_of(page, "together") == ["times not known"]
    assert re.search(r"\bnan\b", page, re.IGNORECASE) is None


def imported_name(store: Path) -> str:
    return next(path.parent.name for path in store.glob("*/recipe.json"))


def test_what_else_a_method_says_is_drawn_where_it_lies_between_0_and_1() -> None:
    more = {
        "attention": np.array([0.0, 0.5, 1.0], np.float32),
        "frame_activation": np.linspace(0, 1, 48),
        "semantic": np.array([0.1, 0.2, 0.3]),
    }
    card = card_of(ManifestEntry("a"), more=more, classes={"Abuse": 0.1, "Arson": 0.7})
    assert list(card.others) == ["attention", "T-CAM"]
    assert card.others["attention"].tolist() == [0.0] * 16 + [0.5] * 16 + [1.0] * 16
    assert [fact.value for fact in card.facts if fact.name == "kinds"] == ["Arson 0.70, Abuse 0.10"]
    for wrong in (np.array([0, 1, 1.5]), np.array([0, np.nan, 1]), np.zeros(7), np.zeros((3, 2))):
        assert card_of(ManifestEntry("a"), more={"attention": wrong}).others == {}


def test_files_are_found_by_the_manifests_path_and_by_id(tmp_path: Path) -> None:
    for name in ("data/x/odd name.avi", "data/Testing/b.mp4", "data/twice/c.mp4", "data/again/c.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    entries = {"a": ManifestEntry("a", path="x/odd name.avi")}
    page = tmp_path / "pages" / "report.html"
    found = find_sources(["a", "b", "c", "d"], page, root=tmp_path / "data", entries=entries)
    assert found.of("a").url == "../data/x/odd%20name.avi"
    assert found.of("b").url == "../data/Testing/b.mp4"
    assert "Several files" in found.of("c").note
    assert "No file" in found.of("d").note
    by_manifest = find_sources(["a", "b"], page, entries=entries, manifest_folder=tmp_path / "data")
    assert by_manifest.of("a").url == "../data/x/odd%20name.avi"
    assert by_manifest.of("b").url is None
    assert "--videos ROOT" in find_sources(["a"], page).of("a").note
    assert find_sources(["a"], page, root=tmp_path / "pages").of("a").url is None


def test_an_address_is_relative_and_says_what_the_file_system_says() -> None:
    page = Path("out/report.html")
    assert relative_url(Path("out/javascript:alert(1).mp4"), page) == "javascript%3Aalert%281%29.mp4"
    assert relative_url(Path("videos/a?b#c%d \"'<é.mp4"), page) == "../videos/a%3Fb%23c%25d%20%22%27%3C%C3%A9.mp4"
    assert relative_url(Path(os.fsdecode(b"out/\xff.mp4")), page) == "%FF.mp4"


def test_a_failure_is_told_without_the_place_of_its_file() -> None:
    record = FailureRecord("a", "VIDEO_EMPTY", "/home/me/videos/a.mp4", "/home/me/videos/a.mp4 holds 0 bytes", None)
    failure = failure_of(record)
    assert failure.evidence == "a.mp4 holds 0 bytes"
    assert "/home/me" not in render(ReportPage("t", "l", failures=(failure,)))


def test_durations_are_counted_between_round_times() -> None:
    histogram = duration_histogram([0.5, 1.0, 1.5, 59.9, 60.0])
    assert dict(zip(histogram.edges, histogram.counts, strict=False)) == {
        0: 1,
        1: 2,
        2: 0,
        5: 0,
        10: 0,
        20: 0,
        30: 1,
        60: 1,
    }
    assert sum(duration_histogram([0.0, 1e9]).counts) == 2


def test_nested_facts_are_named_by_their_way() -> None:
    facts = flat_facts({"a": {"b": [1, 2.5], "c": None}, "d": True, "e": {}})
    assert [(fact.name, fact.value) for fact in facts] == [
        ("a.b", "1, 2.5"),
        ("a.c", "none"),
        ("d", "yes"),
        ("e", "none"),
    ]
