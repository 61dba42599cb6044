"""``vadx eval``: a model's folder, a list of labels and a store become numbers, said in words where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import Ran
from vadx.extract.backbones import find_backbone
from vadx.features import FeatureSet, Store
from vadx.features.manifest import read_manifest
from vadx.features.shard import build_shard
from vadx.pipelines.evaluation import TestVideo, evaluate_videos
from vadx.pipelines.model_folder import Mark, read_model, write_network
from vadx.pipelines.plan import Overrides, make_plan
from vadx.pipelines.protocol_choices import METRICS
from vadx.pipelines.protocols import PROTOCOLS
from vadx.pipelines.score_files import read_score_folder
from vadx.pipelines.scoring import score_set

from .scoring_samples import make_clips, write_tiny_model

Vadx = Callable[..., Ran]

LISTED = """id,label,class,split,spans,num_frames
Abuse/a1,1,Abuse,test,40:90,160
Abuse/a2,1,Abuse,test,10:60,173
Arson/a3,1,Arson,test,100:200,176
Normal/n1,0,,test,,160
Normal/n2,0,,test,,170
Normal/t1,0,,train,,160
Gone/x,1,Arson,test,1:2,99
"""
IDS = ["Abuse/a1", "Abuse/a2", "Arson/a3", "Normal/n1", "Normal/n2", "Normal/t1", "Other/o"]
"""What is stored; the last is in no list."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a model, a store of its features, and a list."""
    write_tiny_model(tmp_path / "model")
    write_store(tmp_path / "store")
    (tmp_path / "list.csv").write_text(LISTED)
    return tmp_path


def write_store(path: Path) -> FeatureSet:
    plan = make_plan(find_backbone("tiny").default_preset, Overrides(), "random:5")
    made = Store(path).create(plan.recipe, slug=plan.slug)
    lengths = [160, 173, 176, 160, 168, 160, 160]
    for seed, (identifier, num_frames) in enumerate(zip(IDS, lengths, strict=True)):
        random = np.random.default_rng(seed)
        clips = make_clips(num_frames, random.normal(size=(-(-num_frames // 16), 1, 8)))
        shard = made.shard_path(identifier)
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.write_bytes(build_shard(identifier, shard.stem, clips, made.digest, "ab" * 32))
    return made


def ran(vadx: Vadx, *arguments: str | Path, code: int = 0) -> Ran:
    done = vadx("eval", *arguments)
    assert done.code == code, done.err + done.out
    return done


def told(vadx: Vadx, *arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ran(vadx, *arguments, "--json").out)
    return answer


MODEL = ("model", "--manifest", "list.csv", "--store", "store", "--bootstrap", "20")


def test_a_model_is_measured_on_the_test_split(folder: Path, vadx_here: Vadx) -> None:
    answer = told(vadx_here, *MODEL)
    assert (answer["method"], list(answer["evaluations"])) == ("deepmil", ["last"])
    assert answer["protocol"]["name"] == "vadx"
    last = answer["evaluations"]["last"]
    assert (last["iteration"], last["failed"], last["draws"]) == (7, [], 20)
    assert [row["id"] for row in last["videos"]] == IDS[:5]
    assert set(last["metrics"]) == set(METRICS)
    assert answer["videos"] == {
        "split": "test",
        "not_stored": ["Gone/x"],
        "not_listed": ["Other/o"],
        "ambiguous": [],
    }
    counts = last["counts"]
    # 170 listed and 168 decoded of n2; a3's span ends past its 176 frames.
    assert (counts["frames_compared"], counts["other_lengths"], counts["spans_cut"]) == (837, 1, 1)
    model, features = read_model(folder / "model"), Store(folder / "store")["tiny"]
    entries = read_manifest(folder / "list.csv")
    by_hand = evaluate_videos(
        [TestVideo(one, entries[one.id]) for one in score_set(model, features, IDS[:5])], bootstrap=20
    )
    for name, one in by_hand.metrics.items():
        assert last["metrics"][name]["value"] == one.value
        assert last["metrics"][name]["low"] == one.low


def test_what_is_printed_begins_with_the_headline_and_ends_with_what_was_compared(
    folder: Path, vadx_here: Vadx
) -> None:
    done = ran(vadx_here, *MODEL)
    value = told(vadx_here, *MODEL)["evaluations"]["last"]["metrics"]["frame_auc"]["value"]
    lines = [line.strip() for line in done.out.splitlines()]
    assert lines[0].startswith("deepmil on tiny")
    assert lines[3].startswith(f"frame AUC  {value:.4f} (")
    assert "95 % of 20 draws of videos" in lines[3]
    assert lines[4].startswith("protocol vadx: every decoded frame")
    text = done.out
    assert "average precision*" in text
    assert "* what vadx calls AP" in text
    assert "proposal: the method makes no proposals" in text
    assert "compared: 837 frames of 5 videos (3 anomalous, 2 normal), 176 anomalous; 0 dropped" in text
    for words in (
        "1 listed, but not stored: Gone/x",
        "1 stored, but not listed: Other/o",
        "Abuse",
        "Arson",
        "Abuse  2",
    ):
        assert words in text, words
    assert "1 spans reach past the labels" in text
    assert "there is no best network" in done.err
    assert ran(vadx_here, *MODEL, "-q").out == f"last {value:.6f}\n"


def test_last_and_best_are_both_measured_and_named(folder: Path, vadx_here: Vadx) -> None:
    model = read_model(folder / "model")
    for values in model.network.parameters():
        values.data.neg_()
    write_network(folder / "model", "best", model.network, Mark(3, 0.9))
    both = told(vadx_here, *MODEL)["evaluations"]
    assert list(both) == ["last", "best"]
    assert (both["last"]["iteration"], both["best"]["iteration"], both["best"]["measured"]) == (7, 3, 0.9)
    assert both["last"]["metrics"]["frame_auc"] != both["best"]["metrics"]["frame_auc"]
    out = ran(vadx_here, *MODEL).out
    assert (
        out.index("last  frame AUC")
        < out.index("best  frame AUC")
        < out.index("\nlast, iter")
        < out.index("\nbest, iter")
    )
    assert "5 videos" in ran(vadx_here, *MODEL, "--scores-out", "written", "-q").err
    each = [np.load(folder / "written" / which / "Abuse" / "a1.npy") for which in ("last", "best")]
    assert not np.array_equal(*each)
    assert list(told(vadx_here, *MODEL, "--which", "best")["evaluations"]) == ["best"]
    (folder / "model" / "best.safetensors").unlink()
    assert "has no best network" in ran(vadx_here, *MODEL, "--which", "best", code=2).err


@pytest.mark.parametrize("name", ["deepmil", "rtfm-xd", "lad-code", "wsstad-st-ucf"])
def test_a_protocol_is_told_with_its_sources_and_its_notes(folder: Path, vadx_here: Vadx, name: str) -> None:
    answer = told(vadx_here, *MODEL, "--protocol", name)
    assert answer["protocol"]["choices"]["truth"]["value"] == PROTOCOLS[name].truth
    last = answer["evaluations"]["last"]
    assert (last["protocol"], last["headline"]) == (name, PROTOCOLS[name].headline)
    out = ran(vadx_here, *MODEL, "--protocol", name).out
    assert f"protocol {name}: {PROTOCOLS[name].meaning}" in out
    assert f"published: {PROTOCOLS[name].published:.4f}" in out
    if name == "rtfm-xd":
        # The model scores 4 segments, and RTFM's expansion is of clips.
        assert "note: no clips of 16 frames were scored" in out
    if name == "wsstad-st-ucf":
        assert "VAUC: none, no tubes were scored: give --tubes SET" in out
        assert "wsstad*" in out


def test_a_name_that_is_no_protocol_is_told_the_nearest(folder: Path, vadx_here: Vadx) -> None:
    assert "did you mean deepmil?" in ran(vadx_here, *MODEL, "--protocol", "deepmill", code=2).err


def test_protocols_are_listed(vadx_here: Vadx) -> None:
    out = ran(vadx_here, "--protocols").out
    assert all(f"\n{name} " in f"\n{out}" for name in PROTOCOLS)
    listed: Any = told(vadx_here, "--protocols")
    assert [one["name"] for one in listed] == list(PROTOCOLS)


def test_scores_are_written_and_evaluated_again_as_somebody_else_s(folder: Path, vadx_here: Vadx) -> None:
    first = told(vadx_here, *MODEL, "--scores-out", "written")["evaluations"]["last"]
    assert sorted(path.relative_to(folder / "written").as_posix() for path in (folder / "written").rglob("*.npy")) == [
        f"{one}.npy" for one in IDS[:5]
    ]
    scores = np.load(folder / "written" / "Abuse" / "a2.npy")
    assert (scores.dtype, scores.shape) == (np.float32, (173,))
    again = told(vadx_here, "--scores", "written", "--manifest", "list.csv", "--bootstrap", "20")
    second = again["evaluations"]["scores"]
    for name in ("frame_auc", "subset_pr_area", "video_auc", "false_alarm_deepmil"):
        assert second["metrics"][name] == first["metrics"][name]
    assert again["videos"]["not_stored"] == ["Gone/x"]
    # As CSV, under the names that vadx score gives.
    for path in sorted((folder / "written").rglob("*.npy")):
        rows = [f"{n},{n / 25},{score}" for n, score in enumerate(np.load(path))]
        path.with_suffix(".scores.csv").write_text("\n".join(["frame,pts_seconds,score", *rows]))
        path.unlink()
    third = told(vadx_here, "--scores", "written", "--manifest", "list.csv", "--bootstrap", "20")
    assert third["evaluations"]["scores"]["metrics"]["frame_auc"] == first["metrics"]["frame_auc"]


def test_lists_of_all_kinds_of_holes_are_told_and_fail_nothing(folder: Path, vadx_here: Vadx) -> None:
    rows = LISTED.splitlines()
    (folder / "list.csv").write_text("\n".join([rows[0], *(row for row in rows if "/n" in row)]))
    normal = ran(vadx_here, *MODEL)
    assert "frame AUC: none, no anomalous frame" in normal.out
    assert ran(vadx_here, *MODEL, "-q").out == "last -\n"
    (folder / "list.csv").write_text("\n".join([rows[0], *(row for row in rows if "/a" in row)]))
    assert "no normal video: a false alarm needs one" in ran(vadx_here, *MODEL).out
    no_splits = LISTED.replace(",test,", ",,").replace(",train,", ",,")
    (folder / "list.csv").write_text(no_splits)
    every = ran(vadx_here, *MODEL)
    assert "the list names no splits" in every.out
    assert "of 6 videos" in every.out


def test_nothing_left_is_no_input(folder: Path, vadx_here: Vadx) -> None:
    done = ran(vadx_here, *MODEL, "--split", "val", code=5)
    assert "no video of split val is left to evaluate" in done.err
    (folder / "list.csv").write_text("id,label,split\nNowhere/q,1,test\n")
    assert "1 listed, but not stored: Nowhere/q" in ran(vadx_here, *MODEL, code=5).err
    assert "there is no folder" in ran(vadx_here, "--scores", "none", "--manifest", "list.csv", code=5).err
    (folder / "empty").mkdir()
    assert "holds no .npy or .csv" in ran(vadx_here, "--scores", "empty", "--manifest", "list.csv", code=5).err


def test_a_video_that_cannot_be_scored_is_named_and_the_others_are_measured(folder: Path, vadx_here: Vadx) -> None:
    features = Store(folder / "store")["tiny"]
    shard = features.shard_path("Abuse/a1")
    wide = make_clips(160, np.zeros((10, 3, 8)))
    shard.write_bytes(build_shard("Abuse/a1", shard.stem, wide, features.digest, "ab" * 32))
    done = ran(vadx_here, *MODEL, code=3)
    assert "of 4 videos" in done.out
    assert "1 could not be scored" in done.err
    assert "have 3 crops, the model learned from 1" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model",), "vadx eval MODEL --manifest FILE"),
        (("--manifest", "list.csv"), "or --scores FOLDER"),
        (("model", "--manifest", "list.csv", "--scores", "store"), "MODEL means nothing beside it"),
        (("--scores", "store", "--manifest", "list.csv", "--set", "tiny"), "--set means nothing beside it"),
        (("model", "--manifest", "list.csv", "--store", "none"), "none has no feature set of the model's recipe, tiny"),
        ((*MODEL, "--boxes", "list.csv"), "name their features too, --tubes SET"),
        ((*MODEL, "--tubes", "tiny"), "holds clip features"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder: Path, vadx_here: Vadx, arguments: tuple[str, ...], words: str) -> None:
    assert words in " ".join(ran(vadx_here, *arguments, code=2).err.split())


def test_a_set_of_another_recipe_is_refused(folder: Path, vadx_here: Vadx) -> None:
    plan = make_plan(find_backbone("tiny").default_preset, Overrides(), "random:6")
    Store(folder / "store").create(plan.recipe, slug="other")
    err = ran(vadx_here, *MODEL, "--set", "other", code=2).err
    assert "other" in err
    assert "holds others" in err
    # The model finds its own beside it.
    assert told(vadx_here, *MODEL)["set"].startswith("tiny")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v.npy", np.array([0.1, 1.5]), "between 0.1"),
        ("v.npy", np.array([0.1, np.nan]), "v.npy: 1 of its 2 scores are NaN or infinite; give every frame a number"),
        ("v.npy", np.array([0.1, 1e300]), "between 0.1 and 1e+300"),
        ("v.npy", np.array([0.1, 1j]), "v.npy: holds no scores (holds complex128 (2,)"),
        ("v.npy", np.zeros((3, 2)), "(3, 2)"),
        ("v.npy", np.zeros(0), "one score a frame"),
        ("v.csv", f"{'x' * 200_000}\n0.1\n", "field larger than field limit"),
        ("v.csv", "0.1\n\0\n", "could not convert"),
        ("v.csv", "frame,score\n0,0.5\n1\n", "the line '1' has no column 2, the score's"),
        ("v.csv", "score\n0.1\nx\n", "could not convert"),
        ("v.csv", "", "one score a frame"),
        ("v.npy", "text", "holds no scores"),
    ],
)
def test_files_that_hold_no_scores_are_named(
    folder: Path, vadx_here: Vadx, name: str, content: Any, words: str
) -> None:
    (folder / "given").mkdir()
    path = folder / "given" / name
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content)
    err = ran(vadx_here, "--scores", "given", "--manifest", "list.csv", code=2).err
    assert words in err
    assert name in err


def test_a_byte_order_mark_is_no_header(folder: Path, vadx_here: Vadx) -> None:
    (folder / "given").mkdir()
    for name, values in (("plain", [0.25] * 160), ("marked", [0.25] * 160)):
        text = "".join(f"{value}\n" for value in values)
        (folder / "given" / f"{name}.csv").write_text(text, encoding="utf-8-sig" if name == "marked" else "utf-8")
    found = read_score_folder(folder / "given")
    assert found["marked"].num_frames == found["plain"].num_frames == 160


def test_one_file_of_each_video(folder: Path, vadx_here: Vadx) -> None:
    (folder / "given").mkdir()
    np.save(folder / "given" / "v.npy", np.array([[0.1], [0.2]]))
    (folder / "given" / "v.scores.csv").write_text("0.1\n0.2\n")
    assert "another file" in ran(vadx_here, "--scores", "given", "--manifest", "list.csv", code=2).err
