"""Scores of test videos against their labels: counts and areas by hand, and what is said where nothing is measured."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vadx.errors import UsageError
from vadx.features.annotations import read_annotations
from vadx.features.box_truth import BoxTruth
from vadx.features.manifest import ManifestEntry
from vadx.pipelines.evaluate import VideoTubes, evaluate_tubes
from vadx.pipelines.evaluation import Evaluation, TestVideo, bootstrap_difference, evaluate_videos
from vadx.pipelines.frame_comparison import compare
from vadx.pipelines.frame_metrics import AREAS, Estimate
from vadx.pipelines.localisation import PredictedTrack
from vadx.pipelines.methods.align import AlignSettings, find_proposals, frame_activation, proposal_scores
from vadx.pipelines.protocol_choices import FALSE_ALARMS, LEVELS, METRICS
from vadx.pipelines.protocols import PROTOCOLS

from .evaluation_samples import clips_of, rich_set, spans_of, video

OWN = PROTOCOLS["vadx"]

ROUNDING = 1e-12
"""Of float64 sums that are added in another order."""


def values(evaluation: Evaluation) -> dict[str, float | None]:
    return {name: one.value for name, one in evaluation.metrics.items()}


def evaluated(*videos: TestVideo, **options: object) -> Evaluation:
    return evaluate_videos(list(videos), **{"bootstrap": 0, **options})  # type: ignore[arg-type]  # options are its own


# ---- by hand ----


def test_a_hand_computed_set() -> None:
    # Anomalous: 0.9 0.8 0.2 with the first two frames anomalous; normal: 0.85 0.1.
    found = evaluated(video("a", [0.9, 0.8, 0.2], [(0, 2)], class_name="Arson"), video("n", [0.85, 0.1]))
    got = values(found)
    # 0.9 beats 3 normal frames, 0.8 beats 2.
    assert got["frame_auc"] == pytest.approx(Fraction(5, 6), abs=1e-15)
    assert got["subset_auc"] == 1
    assert got["frame_average_precision"] == pytest.approx(Fraction(1, 2) * (1 + Fraction(2, 3)), abs=ROUNDING)
    assert got["frame_pr_area"] == pytest.approx(Fraction(1, 2) + Fraction(7, 24), abs=ROUNDING)
    assert got["video_auc"] == 1
    # A segment a frame: the same ranking.
    assert got["segment_auc"] == got["frame_auc"]
    assert (got["proposal_auc"], got["class_accuracy"], got["vauc"]) == (None, None, None)
    counts = dataclasses.asdict(found.counts)
    assert {name: value for name, value in counts.items() if value} == {
        "videos": 2,
        "anomalous": 1,
        "normal": 1,
        "frames_compared": 5,
        "anomalous_frames": 2,
        "normal_frames": 3,
        "segments": 5,
    }
    assert set(got) == set(METRICS)
    (row,) = found.classes
    assert (row.name, row.videos, row.frames, row.anomalous_frames) == ("Arson", 1, 3, 2)
    assert (row.auc.value, row.subset_auc.value) == (got["frame_auc"], 1)
    anomalous, normal = found.videos
    assert (anomalous.id, anomalous.auc.value, anomalous.score) == ("a", 1, pytest.approx(0.9))
    assert (normal.max_score, normal.auc.value) == (pytest.approx(0.85), None)
    assert "no anomalous frame" in normal.auc.reason


def test_tied_scores_are_where_the_two_that_are_called_ap_part() -> None:
    got = values(evaluated(video("a", [0.5] * 4, [(0, 1)]), video("n", [0.5] * 4)))
    assert (got["frame_auc"], got["frame_average_precision"], got["frame_pr_area"]) == (1 / 2, 1 / 8, (1 + 1 / 8) / 2)


def test_a_segment_is_anomalous_if_a_frame_of_it_is() -> None:
    frames = np.array([[0, 10], [10, 20], [20, 30]])
    one = video("a", [0.1, 0.9, 0.3], [(19, 20)], frames=frames)
    assert compare(one, OWN).segment_truth.tolist() == [False, True, False]
    beside = video("a", [0.1, 0.9, 0.3], [(20, 21)], frames=frames)
    assert compare(beside, OWN).segment_truth.tolist() == [False, False, True]
    # Counted from 1, the same span begins a frame earlier, in the segment before.
    assert compare(beside, PROTOCOLS["wsal-tad"]).segment_truth.tolist() == [False, False, True]
    assert compare(beside, PROTOCOLS["wsal-ucf"]).segment_truth.tolist() == [False, True, True]


def test_scikit_learn_finds_the_same_of_frames_laid_end_to_end() -> None:
    videos = rich_set(clips=False)
    found = evaluated(*videos)
    scores = np.concatenate([one.scored.frame_scores for one in videos])
    truth = np.concatenate([truth_of(one) for one in videos])
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    got = values(found)
    assert got["frame_auc"] == pytest.approx(sk.roc_auc_score(truth, scores), abs=ROUNDING)
    assert got["frame_average_precision"] == pytest.approx(sk.average_precision_score(truth, scores), abs=ROUNDING)
    assert got["frame_pr_area"] == pytest.approx(sk.auc(recall, precision), abs=ROUNDING)
    anomalous = videos[:2]
    subset = np.concatenate([one.scored.frame_scores for one in anomalous])
    labels = np.concatenate([truth_of(one) for one in anomalous])
    assert got["subset_auc"] == pytest.approx(sk.roc_auc_score(labels, subset), abs=ROUNDING)
    # Pooled, not averaged.
    each = [sk.roc_auc_score(truth_of(one), one.scored.frame_scores) for one in anomalous]
    assert abs(float(np.mean(each)) - (got["subset_auc"] or 0)) > 1e-4
    assert [row.auc.value for row in found.videos[:2]] == pytest.approx(each, abs=ROUNDING)


def truth_of(one: TestVideo) -> np.ndarray:
    truth = np.zeros(one.scored.num_frames, bool)
    for start, stop in one.entry.spans:
        truth[start:stop] = True
    return truth


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_videos_decides_nothing(order: list[int]) -> None:
    videos = rich_set(clips=True)
    assert evaluate_videos([videos[n] for n in order], bootstrap=5) == evaluate_videos(videos, bootstrap=5)


# ---- classes of anomaly, classes of videos ----


def test_a_kind_of_anomaly_stands_against_all_normal_videos() -> None:
    arson = video("a", [0.9, 0.1], [(0, 1)], class_name="Arson")
    abuse = video("b", [0.2, 0.4], [(0, 1)], class_name="Abuse")
    found = evaluated(arson, abuse, video("n", [0.3, 0.15]))
    assert [row.name for row in found.classes] == ["Abuse", "Arson"]
    assert [row.auc.value for row in found.classes] == pytest.approx([1 / 3, 1])
    assert [row.subset_auc.value for row in found.classes] == [0, 1]
    assert found.classes[0] == evaluated(abuse, video("n", [0.3, 0.15])).classes[0]


def test_classes_are_counted_by_their_highest_score() -> None:
    names = ("Fighting", "Fire", "Normal")

    def said(identifier: str, class_name: str, *scores: float) -> TestVideo:
        spans = [(0, 1)] if class_name else []
        said = dict(zip(names, scores, strict=True))
        return video(identifier, [0.5, 0.5], spans, class_name=class_name, classes=said)

    found = evaluated(
        said("a", "Fighting", 0.6, 0.3, 0.1),
        said("b", "Fire", 0.6, 0.3, 0.1),
        said("c", "Fire", 0.1, 0.8, 0.1),
        said("n", "", 0.2, 0.2, 0.6),
        said("o", "Flood", 0.2, 0.2, 0.6),
    )
    assert found.confusion is not None
    assert found.confusion.names == names
    assert found.confusion.counts == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert found.confusion.left_out == 1
    assert found.metrics["class_accuracy"].value == 3 / 4
    assert [row.top_class for row in found.videos] == ["Fighting", "Fighting", "Fire", "Normal", "Normal"]
    # LAD's normal videos are of the kind whose folder they lie in.
    by_folder = evaluated(said("n", "", 0.6, 0.3, 0.1), class_of=lambda entry: "Fighting")
    assert by_folder.metrics["class_accuracy"].value == 1


# ---- levels ----


def test_the_frame_level_of_attention_is_interpolated_and_its_segments_are_it() -> None:
    attention = np.array([0.0, 1.0], np.float32)
    one = video("a", [0.7, 0.7], [(0, 2)], num_frames=5, more={"attention": attention})
    compared = compare(one, PROTOCOLS["align-xd"])
    np.testing.assert_allclose(compared.scores, [0, 0.25, 0.5, 0.75, 1])
    assert compared.segment_scores.tolist() == [0, 1]
    assert compare(one, OWN).segment_scores.tolist() == pytest.approx([0.7, 0.7])
    assert compared.notes == ()
    # Two sequences of the same clips, one after the other, are put in the order of time.
    twice = np.array([[0, 2], [2, 5], [0, 2], [2, 5]])
    more = {"attention": np.array([0.0, 1.0, 0.2, 0.6], np.float32)}
    pair = video("p", [0.7] * 4, [(0, 2)], frames=twice, more=more)
    expected = np.interp(np.linspace(0, 3, 5), range(4), [0.0, 0.2, 1.0, 0.6])
    np.testing.assert_allclose(compare(pair, PROTOCOLS["align-xd"]).scores, expected, atol=1e-7)
    without = compare(video("a", [0.7, 0.2], [(0, 1)]), PROTOCOLS["align-xd"])
    assert [note.split(":")[0] for note in without.notes] == ["no attention", "no attention"]
    assert without.scores.tolist() == pytest.approx([0.7, 0.2])


def test_proposals_are_those_of_equation_7() -> None:
    weighted = np.array([0.1, 0.6, 0.5, 0.1, 0.1, 0.8, 0.1])
    one_activation = frame_activation(weighted, 70)
    one = video("a", weighted, [(10, 30)], num_frames=70, more={"frame_activation": one_activation})
    for protocol, choice in (("align-xd", "largest"), ("vadx", "largest"), ("align-xd-code", "all")):
        expected = find_proposals(weighted, 70, AlignSettings(proposals=choice))
        assert len(expected) == (1 if choice == "largest" else 2)
        found = compare(one, PROTOCOLS[protocol]).proposal_scores
        assert found is not None
        np.testing.assert_array_equal(found, proposal_scores(expected, 70)[: len(found)])
    lower = compare(one, OWN, threshold=0.55).proposal_scores
    assert lower is not None
    assert (lower > 0).sum() < (proposal_scores(find_proposals(weighted, 70), 70) > 0).sum()
    found = values(evaluated(one, video("n", [0.1], num_frames=70, more={"frame_activation": np.zeros(70)})))
    assert found["proposal_auc"] is not None
    # One video without, and there is no such level.
    half = evaluated(one, video("n", [0.1] * 7, num_frames=70)).metrics["proposal_auc"]
    assert half == Estimate(None, "the method makes no proposals")


@pytest.mark.parametrize(("choice", "expected"), [("head", 0.33), ("max", 0.9), ("spread", 0.7)])
def test_a_video_is_scored_by_its_head_its_highest_or_their_spread(choice: str, expected: float) -> None:
    protocol = dataclasses.replace(OWN, video=choice, sources={**OWN.sources, "video": "here"})
    assert compare(video("a", [0.2, 0.9], head=0.33), protocol).video_score == pytest.approx(expected)
    headless = compare(video("a", [0.2, 0.9]), protocol).video_score
    assert headless == pytest.approx(0.9 if choice == "head" else expected)


def test_every_rate_of_false_alarms_counts_by_its_own_definition() -> None:
    found = evaluated(
        # One normal frame of an anomalous video at 0.7, and an anomalous one.
        video("a", [0.7, 0.9, 0.1, 0.1], [(1, 2)]),
        video("n", [0.5, 0.6, 0.1, 0.1]),
        video("o", [0.1, 0.1, 0.1, 0.15]),
        # Anomalous, but its only span lies past its end.
        video("p", [0.5, 0.1, 0.1, 0.1], [(90, 95)]),
    )
    expected = {
        "deepmil": Fraction(1, 8),
        "mist": Fraction(2, 15),
        "arnet": Fraction(2, 8),
        "pel4vad": Fraction(3, 12),
        "wsstad": Fraction(1, 2),
    }
    assert {name: values(found)[f"false_alarm_{name}"] for name in FALSE_ALARMS} == pytest.approx(expected, abs=1e-15)
    none = evaluated(video("a", [0.7, 0.9], [(0, 2)]))
    assert all(none.metrics[f"false_alarm_{name}"].value is None for name in FALSE_ALARMS)
    assert "no normal video" in none.metrics["false_alarm_wsstad"].reason


def test_tubes_give_the_area_over_videos() -> None:
    box = np.array([[0.0, 0.0, 2.0, 2.0]])
    track = PredictedTrack(np.array([3]), box, np.zeros(1, bool))
    truth = BoxTruth.of_rows([3], box)
    tubes = evaluate_tubes(
        [
            VideoTubes("a", True, [track], np.array([0.4]), np.array([3]), truth=truth),
            VideoTubes("n", False, [track], np.array([0.6]), np.array([3])),
            VideoTubes("o", False, [track], np.array([0.1]), np.array([3])),
        ]
    )
    videos = [video("a", [0.5], [(0, 1)]), video("n", [0.2]), video("o", [0.1])]
    found = evaluated(*videos, tubes=tubes, protocol=PROTOCOLS["wsstad-st-ucf"])
    assert found.metrics["vauc"].value == tubes.vauc.value == 1 / 2
    assert found.headline == "vauc"
    assert json.loads(json.dumps(found.as_mapping()))["tubes"]["vauc"]["value"] == 1 / 2
    without = evaluated(*videos, protocol=PROTOCOLS["wsstad-st-ucf"])
    assert "--tubes SET" in without.metrics["vauc"].reason


# ---- lengths ----


def test_frames_that_labels_and_scores_do_not_share_are_counted() -> None:
    # 40 frames decoded, the list counts 41, one span is cut, another lies past the end.
    one = video("a", [0.2] * 40, [(35, 45), (60, 70)], declared=41)
    found = evaluated(one)
    counts = found.counts
    assert (counts.frames_compared, counts.frames_dropped, counts.frames_beyond) == (40, 0, 0)
    assert (counts.spans_cut, counts.spans_outside, counts.other_lengths) == (1, 1, 1)
    assert any("as many frames decoded" in note and "1 of 1" in note for note in found.notes)
    # Whole clips only: 32 of 40 labels.
    cut = evaluated(one, protocol=PROTOCOLS["mist-ucf"]).counts
    assert (cut.frames_compared, cut.frames_dropped) == (32, 8)
    # Filled clips: 48 labels of 40 frames.
    clips = video("a", [0.2, 0.3, 0.4], [(35, 39)], frames=clips_of(40))
    filled = evaluated(clips, protocol=PROTOCOLS["rtfm-ucf"])
    assert (filled.counts.frames_compared, filled.counts.frames_dropped, filled.counts.frames_beyond) == (48, 0, 8)
    assert filled.notes == ()


def test_a_last_window_that_is_not_whole_is_dropped_where_a_protocol_says_so() -> None:
    protocol = PROTOCOLS["lad-code"]
    for num_frames, expected in ((100, 80), (160, 160), (159, 159), (150, 150), (144, 80)):
        clips = clips_of(num_frames)
        compared = compare(video("a", np.linspace(0, 1, len(clips)), [(3, 90)], frames=clips), protocol)
        assert compared.num_compared == expected, num_frames
        assert compared.num_dropped == num_frames - expected
    # Segments of other lengths say nothing of clips: frames are counted themselves.
    other = compare(video("a", [0.1, 0.2], [(3, 90)], num_frames=159), protocol)
    assert other.num_compared == 80


@pytest.mark.parametrize(
    ("declared", "given_frames", "expected"), [(50, 48, (48, 2, 0)), (50, 64, (50, 0, 0)), (None, 64, (64, 0, 0))]
)
def test_scores_that_others_made_are_compared_as_far_as_they_reach(
    declared: int | None, given_frames: int, expected: tuple[int, int, int]
) -> None:
    one = video("a", np.linspace(0, 1, given_frames), [(40, 60)], declared=declared, frames_only=True)
    found = evaluated(one)
    assert (found.counts.frames_compared, found.counts.frames_dropped, found.counts.frames_beyond) == expected
    assert bool(found.notes) == (declared is not None)
    assert "not of segments" in found.metrics["segment_auc"].reason
    assert found.videos[0].score == 1
    as_is = evaluated(one, protocol=PROTOCOLS["rtfm-xd"])
    assert any("taken as they are" in note for note in as_is.notes)


def test_an_expansion_that_does_not_fit_the_segments_is_not_made_up() -> None:
    uneven = video("a", np.linspace(0, 1, 32), [(100, 200)], frames=spans_of(1000, 32))
    compared = compare(uneven, PROTOCOLS["rtfm-xd"])
    assert any("no clips of 16 frames were scored" in note for note in compared.notes)
    own = uneven.scored.frame_scores[: compared.num_compared]
    np.testing.assert_array_equal(compared.scores, own.astype(np.float64))
    # Clips of 64 frames, one from every 16th on, are no clips of 16.
    starts = 16 * np.arange(10)
    long = video("c", np.linspace(0, 1, 10), [(1, 2)], frames=np.stack([starts, starts + 64], axis=1))
    assert any("no clips of 16 frames" in note for note in compare(long, PROTOCOLS["rtfm-xd"]).notes)
    short = video("b", [0.5, 0.6], [(1, 2)], num_frames=9)
    assert any("no segments in the order of time" in note for note in compare(short, PROTOCOLS["deepmil"]).notes)


# ---- sets that are not whole ----


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ([], "there is no"),
        ([video("n", [0.1, 0.2]), video("o", [0.3])], "no anomalous"),
        ([video("a", [0.1, 0.2], [(0, 2)]), video("b", [0.3], [(0, 1)])], "no normal"),
        ([video("u", [0.1, 0.2], label=-1)], "there is no"),
        ([video("a", [0.1, 0.2], label=1, class_name="Arson")], "there is no"),
    ],
)
def test_sets_without_both_kinds_are_said_and_not_raised(videos: list[TestVideo], words: str) -> None:
    found = evaluate_videos(videos, bootstrap=20)
    for level in ("frame", "subset", "segment"):
        for area in AREAS:
            one = found.metrics[f"{level}_{area}"]
            assert (one.value, one.low, one.high) == (None, None, None)
            assert words in one.reason or "no anomalous" in one.reason or "there is no" in one.reason
    assert words in found.metrics["frame_auc"].reason
    assert found.roc.x == found.pr.x == ()
    assert json.dumps(found.as_mapping())


def test_videos_without_label_or_spans_are_named_and_do_not_count_as_normal() -> None:
    whole = [video("a", [0.9, 0.1], [(0, 1)]), video("n", [0.2, 0.3])]
    unknown = video("u", [0.99, 0.98], label=-1)
    no_spans = video("b", [0.1, 0.2], label=1)
    found = evaluated(*whole, unknown, no_spans)
    assert found.metrics["frame_auc"] == evaluated(*whole).metrics["frame_auc"]
    assert (found.counts.unlabelled, found.counts.without_spans, found.counts.videos) == (1, 1, 3)
    assert any("left out: u" in note for note in found.notes)
    assert any("its spans are not known" in note for note in found.notes)
    # As a video it counts: 0.2 does not beat 0.3.
    assert found.metrics["video_auc"].value == 1 / 2
    row = next(row for row in found.videos if row.id == "b")
    assert (row.max_score, row.auc.value, row.num_dropped) == (None, None, 0)


def test_two_videos_of_one_id_are_refused() -> None:
    with pytest.raises(UsageError, match="the id 'a'"):
        evaluated(video("a", [0.1]), video("a", [0.2]))


# ---- intervals, differences, what is written ----


def noisy_set(num: int, gain: float) -> list[TestVideo]:
    videos = []
    for number in range(num):
        random = np.random.default_rng(number)
        truth = np.zeros(32)
        if number % 2:
            truth[8:16] = 1
        scores = 1 / (1 + np.exp(-random.normal() - random.normal(size=32) - gain * truth))
        spans = [(8 * 16, 16 * 16)] if number % 2 else []
        videos.append(video(f"v{number:02d}", scores, spans, frames=spans_of(512, 32)))
    return videos


def test_intervals_are_seeded_and_hold_the_number() -> None:
    videos = noisy_set(24, 1.0)
    first = evaluate_videos(videos, bootstrap=60, seed=1)
    assert evaluate_videos(videos, bootstrap=60, seed=1) == first
    assert evaluate_videos(videos, bootstrap=60, seed=2).metrics["frame_auc"] != first.metrics["frame_auc"]
    for name in ("frame_auc", "subset_pr_area", "segment_average_precision", "video_auc", "false_alarm_deepmil"):
        one = first.metrics[name]
        assert one.value is not None
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high, name
    none = evaluate_videos(videos, bootstrap=0).metrics["frame_auc"]
    assert (none.value, none.low) == (first.metrics["frame_auc"].value, None)


def test_the_better_of_two_methods_is_told_by_the_same_videos() -> None:
    better, worse = noisy_set(24, 1.0), noisy_set(24, 0.6)
    found = bootstrap_difference(better, worse[::-1], bootstrap=80)
    alone = [evaluate_videos(videos, bootstrap=80).metrics["frame_auc"] for videos in (better, worse)]
    assert found.value == pytest.approx((alone[0].value or 0) - (alone[1].value or 0), abs=1e-15)
    assert found.low is not None
    assert found.low > 0
    assert (alone[0].low or 0) < (alone[1].high or 0)
    assert bootstrap_difference(better, worse, metric="video_auc", bootstrap=0).low is None
    assert bootstrap_difference(better[:1], worse[:1]).reason == "no anomalous frame: a curve needs both kinds"
    with pytest.raises(UsageError, match="'v23' is of one only"):
        bootstrap_difference(better, worse[:-1])
    with pytest.raises(UsageError, match="no difference can be drawn of 'vauc'"):
        bootstrap_difference(better, worse, PROTOCOLS["wsstad-st-ucf"])
    none = bootstrap_difference(better, worse, metric="proposal_auc")
    assert none == Estimate(None, "the method makes no proposals")


def test_what_is_written_is_plain_and_whole() -> None:
    found = evaluate_videos(rich_set(clips=True), bootstrap=3)
    plain = json.loads(json.dumps(found.as_mapping()))
    assert set(plain) == {one.name for one in dataclasses.fields(Evaluation)}
    assert set(plain["metrics"]) == set(METRICS)
    assert {name.partition("_")[0] for name in plain["metrics"]} >= set(LEVELS)
    assert len(plain["roc"]["x"]) == len(plain["roc"]["thresholds"]) <= 500
    assert plain["roc"]["thresholds"][0] is None
    assert [row["id"] for row in plain["videos"]] == ["v0", "v1", "v2", "v3"]
    assert plain["counts"]["frames_compared"] == sum(1000 + 7 * n for n in range(4))


# ---- the field's own lists ----


@pytest.mark.parametrize(
    ("protocol", "num_frames", "num_positives"),
    [
        ("vadx", 1_111_808, 84_182),
        ("wsal-ucf", 1_111_808, 84_338),
        # Labels of filled clips go on past the end, and so do five spans: 84,331 lie within the videos.
        ("rtfm-ucf", 1_114_144, 84_343),
        ("vadclip-ucf", 1_109_824, None),
        ("urdmu-ucf", 1_109_504, 84_128),
    ],
)
def test_the_published_lists_of_ucf_crime_give_the_known_counts(
    field_data: Path, protocol: str, num_frames: int, num_positives: int | None
) -> None:
    folder = field_data / "annotations" / "ucf_crime"
    lists = [folder / "Temporal_Anomaly_Annotation.txt", folder / "ekosman_Test_Annotation.txt"]
    entries = [one for one in read_annotations("ucf-crime", lists).entries if one.split == "test"]
    videos = [constant(one) for one in entries]
    counts = evaluated(*videos, protocol=PROTOCOLS[protocol]).counts
    assert (counts.videos, counts.anomalous, counts.other_lengths) == (290, 140, 0)
    assert counts.frames_compared == num_frames
    assert num_positives in (None, counts.anomalous_frames)


def constant(entry: ManifestEntry) -> TestVideo:
    clips = clips_of(entry.num_frames or 0)
    return dataclasses.replace(video(entry.id, np.full(len(clips), 0.5), frames=clips), entry=entry)
