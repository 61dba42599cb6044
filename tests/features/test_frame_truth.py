"""Frame-level ground truth: by hand, by numpy's own slices, and against the totals of the published files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import UsageError
from vadx.features.annotations import DATA_SETS, find_lists, read_annotations
from vadx.features.frame_truth import (
    CLIP_COUNTS,
    FRAME_COUNTS,
    NO_RULE,
    SLICINGS,
    TARGETS,
    clip_spans,
    frame_truth,
    num_labels,
    target_truth,
)
from vadx.features.manifest import ManifestEntry
from vadx.features.text_lines import MAX_FRAMES


def entry(identifier: str, spans: Sequence[Sequence[int]] = (), num_frames: int | None = None) -> ManifestEntry:
    return ManifestEntry(
        identifier, label=int(len(spans) > 0), spans=np.array(spans, np.int64).reshape(-1, 2), num_frames=num_frames
    )


@pytest.mark.parametrize(
    ("slicing", "expected"),
    [("half_open", "0011000"), ("one_based", "0111000"), ("inclusive", "0011100")],
)
def test_the_three_slicings(slicing: str, expected: str) -> None:
    assert "".join(map(str, frame_truth([[2, 4]], 7, slicing))) == expected
    assert frame_truth([[2, 4]], 7, slicing).dtype == np.uint8


def test_a_span_from_the_first_frame_does_not_wrap_around() -> None:
    # numpy's own [s-1:e] of a span from 0 is [-1:e], which is empty.
    assert frame_truth([[0, 2]], 5, "one_based").tolist() == [1, 1, 0, 0, 0]


def test_what_reaches_past_the_end_is_cut_and_counted() -> None:
    cut = clip_spans([[1, 3], [4, 9], [6, 8], [5, 6]], 5)
    assert cut.spans.tolist() == [[1, 3], [4, 5]]
    assert (cut.num_clipped, cut.num_dropped) == (1, 2)
    assert clip_spans([[3, 5]], 5, "inclusive").num_clipped == 1
    assert clip_spans([[0, 5]], 5, "one_based").num_clipped == 0
    assert clip_spans([], 0).spans.shape == (0, 2)


spans_strategy = st.lists(
    st.tuples(st.integers(1, 80), st.integers(1, 40)).map(lambda p: [p[0], p[0] + p[1]]), max_size=4
)


@settings(max_examples=80)
@given(spans_strategy, st.integers(0, 90), st.sampled_from(sorted(SLICINGS)))
def test_labels_are_what_numpys_slices_set(spans: list[list[int]], num_frames: int, slicing: str) -> None:
    shift = {"half_open": (0, 0), "one_based": (-1, 0), "inclusive": (0, 1)}[slicing]
    expected = np.zeros(num_frames, int)
    for start, stop in spans:
        expected[start + shift[0] : stop + shift[1]] = 1
    truth = frame_truth(spans, num_frames, slicing)
    assert truth.tolist() == expected.tolist()
    cut = clip_spans(spans, num_frames, slicing)
    assert len(cut.spans) + cut.num_dropped == len(spans)
    assert (cut.spans[:, 0] < cut.spans[:, 1]).all()


def test_numbers_that_no_video_has_are_refused_before_any_memory_is_taken() -> None:
    for num_frames in (-1, MAX_FRAMES + 1, 10**15):
        with pytest.raises(ValueError, match="num_frames is between"):
            frame_truth([], num_frames)
    with pytest.raises(ValueError, match=r"a span \[s, e\)"):
        frame_truth([[5, 5]], 9)
    with pytest.raises(UsageError, match="no slicing 'python'; there are half_open"):
        frame_truth([], 9, "python")


@pytest.mark.parametrize(
    ("rule", "clips"),
    [
        ("ceil", [1, 1, 1, 2, 2, 506, 506]),
        ("floor", [0, 0, 1, 1, 2, 505, 506]),
        ("floor_plus_one", [1, 1, 2, 2, 3, 506, 507]),
        ("floor_minus_one", [0, 0, 0, 1, 1, 505, 505]),
    ],
)
def test_the_clip_counts(rule: str, clips: list[int]) -> None:
    assert [CLIP_COUNTS[rule](n) for n in (1, 15, 16, 17, 32, 8095, 8096)] == clips


def test_every_target_names_rules_that_exist() -> None:
    for target in TARGETS.values():
        assert target.slicing in SLICINGS
        assert target.clip_count in {None, *CLIP_COUNTS}
        assert target.frames in FRAME_COUNTS
        assert target.data_set in {"", *DATA_SETS}
        assert target.source
    assert not set(TARGETS) & set(NO_RULE)


class TestTargets:
    def test_the_rows_stand_one_after_another_in_the_order_given(self) -> None:
        truth = target_truth("frames", [entry("b", [[1, 2]], 3), entry("a", (), 2), entry("c", [[0, 9]], 2)])
        assert truth.labels.tolist() == [0, 1, 0, 0, 0, 1, 1]
        assert truth.lengths.tolist() == [3, 2, 2]
        assert (truth.ids, truth.num_positives, truth.num_clipped) == (("b", "a", "c"), 3, 1)
        assert truth.of("c").tolist() == [1, 1]
        assert len(target_truth("frames", []).labels) == 0

    def test_rtfms_spans_go_on_into_the_repeated_frames(self) -> None:
        # 20 frames are 2 clips, 32 labels; [18:23] of the published 18, 22 lies in them.
        labels = target_truth("rtfm-ucf", [entry("a", [[18, 22]], 20)]).labels
        assert (len(labels), np.flatnonzero(labels).tolist()) == (32, [18, 19, 20, 21, 22])

    @pytest.mark.parametrize(("stop", "padding"), [(20, 1), (19, 0)])
    def test_shanghaitechs_last_label_is_repeated(self, stop: int, padding: int) -> None:
        labels = target_truth("rtfm-shanghaitech", [entry("a", [[18, stop]], 20)]).labels
        expected = [0] * 18 + [1] * (stop - 18) + [0] * (20 - stop) + [padding] * 12
        assert labels.tolist() == expected
        # A video of whole clips has one more, all of it the last label: N // 16 + 1.
        labels = target_truth("rtfm-shanghaitech", [entry("b", [[31, 32]], 32), entry("n", (), 32)]).labels
        assert labels.tolist() == [0] * 31 + [1] * 17 + [0] * 48

    def test_xd_violence_leaves_out_the_end_of_whole_clips(self) -> None:
        entries = [entry("x/a", [[10, 40]]), entry("b")]
        counts = {"a": 33, "x/b": 32}
        truth = target_truth("xdviodet", entries, counts=counts)
        assert (truth.lengths.tolist(), truth.num_positives, truth.num_clipped) == ([32, 16], 22, 1)
        vadclip = target_truth("vadclip-xd", entries, counts=counts)
        assert (vadclip.lengths.tolist(), vadclip.num_positives) == ([32, 32], 22)

    @pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.frames != "decoded"])
    def test_counts_that_no_video_gives_must_be_given(self, name: str) -> None:
        entries = [entry("Abuse/Abuse028_x264", [[165, 240]], 1412)]
        with pytest.raises(UsageError, match=r"rests on .*Give a file of those counts"):
            target_truth(name, entries)
        truth = target_truth(name, entries, counts={"Abuse028_x264": 1413})
        assert len(truth.labels) == num_labels(name, 1413)
        with pytest.raises(UsageError, match="1 of 1 videos have no count of frames, the first 'Abuse/Abuse028_x264'"):
            target_truth(name, entries, counts={"Abuse029_x264": 1413})

    def test_a_video_without_a_count_spans_or_label_is_named(self) -> None:
        with pytest.raises(UsageError, match="2 of 3 videos have no count of frames, the first 'b'"):
            target_truth("frames", [entry("a", (), 3), entry("b"), entry("c")])
        with pytest.raises(UsageError, match="'a' is anomalous and its spans are not known"):
            target_truth("frames", [ManifestEntry("a", label=1, num_frames=3)])
        with pytest.raises(UsageError, match="'a' has no label"):
            target_truth("frames", [ManifestEntry("a", num_frames=3)])

    def test_features_that_would_not_fit_are_refused_by_the_first_video(self) -> None:
        entries = [entry("a", (), 32), entry("b", (), 33)]
        assert target_truth("rtfm-ucf", entries, num_clips={"a": 2, "b": 3}).lengths.tolist() == [32, 48]
        with pytest.raises(UsageError, match="'b' would not fit: its features have 2 clips, and rtfm-ucf labels 3"):
            target_truth("rtfm-ucf", entries, num_clips={"a": 2, "b": 2})
        with pytest.raises(UsageError, match="'b' would not fit: its features have None clips"):
            target_truth("rtfm-ucf", entries, num_clips={"a": 2})

    def test_unknown_and_impossible_targets(self) -> None:
        with pytest.raises(UsageError, match="no ground truth 'rtfm'; there are rtfm-ucf"):
            target_truth("rtfm", [])
        for name in NO_RULE:
            with pytest.raises(UsageError, match="cannot be made"):
                target_truth(name, [])


@pytest.fixture(scope="module")
def annotations(field_data: Path) -> Path:
    return field_data / "annotations"


@pytest.fixture(scope="module")
def ucf_test(annotations: Path) -> list[ManifestEntry]:
    manifest = read_annotations("ucf-crime", find_lists("ucf-crime", annotations / "ucf_crime")).manifest()
    return [entry for entry in manifest if entry.split == "test"]


def decoded(entries: list[ManifestEntry]) -> dict[str, int]:
    return {e.id: e.num_frames for e in entries if e.num_frames is not None}


# Made of the published spans and decoded frame counts by Python's own sets of integers, not by this package; the
# totals of full, ceil, floor and of half_open are also those that the annotations' collectors measured.
UCF_LENGTHS = {
    "full": 1_111_808,
    "ceil": 1_114_144,
    "floor": 1_109_824,
    "floor_minus_one": 1_109_504,
    "floor_plus_one": 1_114_464,
}
UCF_POSITIVES = {
    "half_open": {
        "full": 84_182,
        "ceil": 84_189,
        "floor": 84_160,
        "floor_minus_one": 84_128,
        "floor_plus_one": 84_189,
    },
    "one_based": {
        "full": 84_338,
        "ceil": 84_345,
        "floor": 84_316,
        "floor_minus_one": 84_284,
        "floor_plus_one": 84_345,
    },
    "inclusive": {
        "full": 84_331,
        "ceil": 84_343,
        "floor": 84_309,
        "floor_minus_one": 84_277,
        "floor_plus_one": 84_345,
    },
}


# Test videos of UCF-Crime whose header declares as many frames as are decoded; the others declare one more. Found by
# comparing the decoded counts with test_anomalyv2.txt and test_normalv2.txt of seominseok0429's repository, which
# OpenCV counted.
HEADER_IS_RIGHT = """
Arrest030 Arson010 Arson035 Assault006 Assault010 Burglary005 Burglary017 Burglary037 Burglary061 Explosion002
Explosion008 Explosion010 Explosion013 Explosion022 Explosion029 Explosion035 Explosion039 Normal_Videos_048
Normal_Videos_478 Normal_Videos_745 Normal_Videos_798 Normal_Videos_878 Normal_Videos_881 Normal_Videos_882
Normal_Videos_888 Normal_Videos_889 Normal_Videos_901 Normal_Videos_902 Normal_Videos_903 Normal_Videos_904
Normal_Videos_905 Normal_Videos_906 Normal_Videos_907 Normal_Videos_908 Normal_Videos_909 Normal_Videos_910
Normal_Videos_911 Normal_Videos_912 Normal_Videos_913 Normal_Videos_914 Normal_Videos_915 Normal_Videos_929
RoadAccidents004 RoadAccidents009 RoadAccidents010 RoadAccidents011 RoadAccidents012 RoadAccidents016
RoadAccidents017 RoadAccidents019 RoadAccidents020 RoadAccidents021 RoadAccidents022 RoadAccidents131 Shooting008
Shooting046 Shooting047 Shoplifting005 Shoplifting007 Shoplifting010 Shoplifting015 Shoplifting027 Shoplifting034
Shoplifting044 Vandalism015 Vandalism028
"""


class TestPublished:
    def test_counts_of_opencv_give_the_published_array_of_roc_ng(self, ucf_test: list[ManifestEntry]) -> None:
        counts = {}
        for video in ucf_test:
            assert video.num_frames is not None
            name = video.id.split("/")[-1]
            counts[name] = video.num_frames + (name.removesuffix("_x264") not in HEADER_IS_RIGHT.split())
        assert sum(counts.values()) == 1_112_032
        truth = target_truth("rocng-ucf", ucf_test, counts=counts)
        assert (len(truth.labels), truth.num_positives) == (1_109_680, 84_128) == TARGETS["rocng-ucf"].published
        # The same rule on decoded frames is 11 clips short of it.
        assert len(target_truth("rocng-ucf", ucf_test, counts=decoded(ucf_test)).labels) == 1_109_504

    @pytest.mark.parametrize("slicing", SLICINGS)
    @pytest.mark.parametrize("rule", UCF_LENGTHS)
    def test_totals_and_positives_of_ucf_crime(self, ucf_test: list[ManifestEntry], rule: str, slicing: str) -> None:
        total = positives = 0
        for video in ucf_test:
            assert video.num_frames is not None
            length = video.num_frames if rule == "full" else 16 * CLIP_COUNTS[rule](video.num_frames)
            total += length
            positives += int(frame_truth(video.spans, length, slicing).sum())
        assert (total, positives) == (UCF_LENGTHS[rule], UCF_POSITIVES[slicing][rule])

    @pytest.mark.parametrize(
        ("target", "length", "positives"),
        [
            ("frames", 1_111_808, 84_182),
            ("ekosman-ucf", 1_111_808, 84_182),
            ("wsal-ucf", 1_111_808, 84_338),
            ("rtfm-ucf", 1_114_144, 84_343),
            ("vadclip-ucf", 1_109_824, 84_160),
        ],
    )
    def test_targets_of_ucf_crime(
        self, ucf_test: list[ManifestEntry], target: str, length: int, positives: int
    ) -> None:
        truth = target_truth(target, ucf_test)
        assert (len(truth.labels), truth.num_positives) == (length, positives)

    def test_five_annotations_of_ucf_crime_end_beyond_their_video(self, ucf_test: list[ManifestEntry]) -> None:
        truth = target_truth("frames", ucf_test)
        assert (truth.num_clipped, truth.num_dropped) == (5, 0)

    def test_all_lists_of_ucf_crime_agree(self, annotations: Path) -> None:
        found = read_annotations("ucf-crime", find_lists("ucf-crime", annotations / "ucf_crime"))
        assert (found.problems, found.notes) == ([], [])
        train = [e for e in found.entries if e.split == "train"]
        # Sums of decoded frames; the second also in the paper of WSAL, but for its average of 7247 a video.
        assert sum(e.num_frames or 0 for e in train) == 12_656_615
        assert sum(e.num_frames or 0 for e in found.entries) == 13_768_423
        assert sum(len(e.spans) == 2 for e in found.entries) == 16

    @pytest.mark.parametrize(("name", "folder"), [(n, n.replace("-", "_")) for n in DATA_SETS])
    def test_as_many_videos_as_were_published(self, annotations: Path, name: str, folder: str) -> None:
        found = read_annotations(name, find_lists(name, annotations / folder))
        assert found.problems == []
        counted = {
            split: tuple(sum(e.split == split and e.label == label for e in found.entries) for label in (0, 1))
            for split in DATA_SETS[name].published
        }
        assert counted == dict(DATA_SETS[name].published)
        assert sum(map(sum, counted.values())) == len(found.manifest())

    def test_xd_violence_has_500_annotated_videos_and_these_classes(self, annotations: Path) -> None:
        found = read_annotations("xd-violence", find_lists("xd-violence", annotations / "xd_violence"))
        assert sum(len(e.spans) > 0 for e in found.entries) == 500
        assert sum(len(e.spans) for e in found.entries) == 1238
        counts = {"fighting": 481, "car accident": 444, "shooting": 442, "riot": 384, "explosion": 382, "abuse": 50}
        train = [e.class_name.split("+") for e in found.entries if e.split == "train"]
        assert {c: sum(c in names for names in train) for c in counts} == counts

    def test_tad_and_lad_have_their_spans_where_lengths_are_given(self, annotations: Path) -> None:
        for name, spans, several in (("tad", 71, 10), ("lad", 394, 56)):
            lists = find_lists(name, annotations / name)
            counts = {e.id: 1000 for e in read_annotations(name, lists).entries}
            found = read_annotations(name, lists, counts=counts)
            assert found.notes == []
            assert sum(len(e.spans) for e in found.entries) == spans
            assert sum(len(e.spans) > 1 for e in found.entries) == several


class TestMadeCounts:
    """The counts of XD-Violence's and ShanghaiTech's frames are nowhere published: lists are real, counts are made."""

    @pytest.mark.parametrize(
        ("target", "clips"), [("xdviodet", lambda n: (n - 1) // 16), ("vadclip-xd", lambda n: n // 16)]
    )
    def test_xd_violence(self, annotations: Path, target: str, clips: Callable[[int], int]) -> None:
        manifest = read_annotations("xd-violence", find_lists("xd-violence", annotations / "xd_violence")).manifest()
        videos = [video for video in manifest if video.split == "test"]
        # Most annotations end before these videos do, some beyond.
        counts = {video.id: 600 + 37 * number % 5000 for number, video in enumerate(videos)}
        truth = target_truth(target, videos, counts=counts)
        lengths = [16 * clips(counts[video.id]) for video in videos]
        marked = [
            set().union(*(range(start, min(stop, length)) for start, stop in video.spans.tolist()))
            for video, length in zip(videos, lengths, strict=True)
        ]
        assert truth.lengths.tolist() == lengths
        assert (len(truth.ids), truth.num_positives) == (800, sum(map(len, marked)))
        assert np.flatnonzero(truth.of(videos[0].id)).tolist() == sorted(marked[0])
        assert truth.num_clipped + truth.num_dropped > 100

    def test_shanghaitech(self, annotations: Path) -> None:
        manifest = read_annotations("shanghaitech", find_lists("shanghaitech", annotations / "shanghaitech")).manifest()
        videos = []
        for number, video in enumerate(one for one in manifest if one.split == "test"):
            num_frames = 160 + 7 * number
            # Every third anomaly goes on to the last frame, whose label is repeated.
            spans = [(30, num_frames if number % 3 == 0 else 90)] if video.label else []
            array = np.array(spans, np.int64).reshape(-1, 2)
            videos.append(replace(video, spans=array, num_frames=num_frames))
        found = target_truth("rtfm-shanghaitech", videos)
        rows = []
        for video in videos:
            row = [0] * (video.num_frames or 0)
            for start, stop in video.spans.tolist():
                row[start:stop] = [1] * (stop - start)
            rows.append(row + row[-1:] * (16 * (len(row) // 16 + 1) - len(row)))
        assert (len(videos), sum(row[-1] for row in rows) > 10) == (199, True)
        assert found.labels.tolist() == [label for row in rows for label in row]
        whole = target_truth("mist-shanghaitech", videos)
        assert whole.lengths.tolist() == [video.num_frames // 16 * 16 for video in videos if video.num_frames]
        assert whole.num_positives == sum(
            min(stop, length) - start
            for video, length in zip(videos, whole.lengths.tolist(), strict=True)
            for start, stop in video.spans.tolist()
        )
