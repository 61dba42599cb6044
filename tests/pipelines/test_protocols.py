"""Protocols: each choice has a source, is one that exists, and changes what is measured."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from vadx.errors import UsageError
from vadx.features.expansion import EXPANSIONS, expand_like
from vadx.features.frame_truth import SLICINGS, TARGETS
from vadx.pipelines.evaluation import evaluate_videos
from vadx.pipelines.frame_comparison import compare
from vadx.pipelines.frame_metrics import AREAS
from vadx.pipelines.protocol_choices import FALSE_ALARMS, METRICS, OWN, VIDEO_SCORES, Protocol
from vadx.pipelines.protocols import NO_PROTOCOL, PROTOCOLS, find_protocol

from .evaluation_samples import rich_set, video

CHOICES = [one.name for one in dataclasses.fields(Protocol) if one.name not in ("name", "meaning", "sources")]
DEFAULTS = {one.name: one.default for one in dataclasses.fields(Protocol)}


def chosen(protocol: Protocol) -> list[str]:
    return [name for name in CHOICES if getattr(protocol, name) != DEFAULTS[name]]


SIXTEEN = EXPANSIONS["rtfm"].meaning

MADE = [(name, choice) for name, protocol in PROTOCOLS.items() for choice in chosen(protocol)]


@pytest.mark.parametrize(("name", "choice"), MADE)
def test_every_choice_of_every_protocol_has_a_source_and_changes_what_is_measured(name: str, choice: str) -> None:
    protocol = PROTOCOLS[name]
    assert len(protocol.sources[choice]) > 5
    without = dataclasses.replace(protocol, **{choice: DEFAULTS[choice]})
    takes = EXPANSIONS[protocol.expansion].takes if protocol.expansion != OWN else "clips"
    videos = rich_set(clips=takes == "clips")
    found, other = (evaluate_videos(videos, one, bootstrap=0) for one in (protocol, without))
    if choice in ("headline", "published"):
        assert getattr(found, choice) != getattr(other, choice)
    elif choice in ("ap", "false_alarm"):
        # All are measured under every protocol: these say which one is spoken of.
        assert found.metrics == other.metrics
    elif choice == "truth" and rule(protocol.truth) == rule("frames"):
        assert found.counts == other.counts
    elif choice == "expansion" and found.counts.frames_dropped and EXPANSIONS[protocol.expansion].meaning == SIXTEEN:
        # Labels of whole clips only: there each frame has the score of its clip under either.
        assert found.metrics == other.metrics
    else:
        assert found.metrics != other.metrics, (name, choice)


def rule(target: str) -> tuple[object, ...]:
    one = TARGETS[target]
    return one.slicing, one.clip_count, one.padding


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_takes_spans_and_scores_as_its_source_does(name: str) -> None:
    protocol = PROTOCOLS[name]
    takes = EXPANSIONS[protocol.expansion].takes if protocol.expansion != OWN else "clips"
    one = rich_set(clips=takes == "clips")[1]
    compared = compare(one, protocol)
    shift = SLICINGS[TARGETS[protocol.truth].slicing]
    first = np.flatnonzero(compared.truth[:600])
    assert (first[0], first[-1] + 1) == (101 + shift.start_shift, 237 + shift.stop_shift)
    if protocol.expansion != OWN:
        expected = expand_like(protocol.expansion, one.scored.scores, one.scored.num_frames)
        np.testing.assert_array_equal(compared.scores, expected[: compared.num_compared])
        assert not any("instead" in note for note in compared.notes)


def test_what_the_table_speaks_of_is_what_is_measured() -> None:
    found = evaluate_videos(rich_set(clips=True), bootstrap=0)
    assert set(found.metrics) == set(METRICS)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.headline in METRICS
        assert protocol.ap in ("", *AREAS)
        assert protocol.ap != "auc"
        assert protocol.false_alarm in ("", *FALSE_ALARMS)
        assert protocol.video in VIDEO_SCORES
        # A headline that is an AP is the AP that the publication means.
        level, _, area = protocol.headline.partition("_")
        assert area in ("", "auc", protocol.ap), (name, level)
    assert all(METRICS.values())


def test_published_numbers_are_those_of_the_papers() -> None:
    published = {name: one.published for name, one in PROTOCOLS.items() if one.published is not None}
    assert published["deepmil"] == 0.7541
    assert published["wsal-ucf"] == 0.8538
    assert published["wsal-tad"] == 0.8964
    assert published["wsstad-st-ucf"] == 0.8765
    assert published["lad"] == 0.8628
    assert all(0.5 < value < 1 for value in published.values())


def test_a_protocol_without_a_source_or_with_a_choice_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no source is given for truth, video"):
        Protocol(name="x", meaning="", sources={}, truth="rtfm-ucf", video="max")
    with pytest.raises(ValueError, match="video is 'mean'"):
        Protocol(name="x", meaning="", sources={"video": "here"}, video="mean")
    with pytest.raises(ValueError, match="ap is 'auc'"):
        Protocol(name="x", meaning="", sources={"ap": "here"}, ap="auc")


def test_names_are_found_and_near_ones_told() -> None:
    assert find_protocol("lad") is PROTOCOLS["lad"]
    with pytest.raises(UsageError, match="did you mean rtfm-ucf or rtfm-shanghaitech or rtfm-xd"):
        find_protocol("rtfm")
    with pytest.raises(UsageError, match="did you mean deepmil"):
        find_protocol("deepml")
    with pytest.raises(UsageError, match="the protocols are vadx, deepmil"):
        find_protocol("quux")
    for name, reason in NO_PROTOCOL.items():
        with pytest.raises(UsageError, match=reason[:30]):
            find_protocol(name)


def test_a_protocol_is_written_with_the_source_of_each_choice() -> None:
    plain = json.loads(json.dumps(PROTOCOLS["deepmil"].as_mapping()))
    assert set(plain["choices"]) == set(CHOICES)
    assert plain["choices"]["truth"] == {
        "value": "sultani-ucf",
        "source": "WaqasSultani/AnomalyDetectionCVPR2018, Evaluate_Anomaly_Detector.m: "
        "counted from 1, the last frame included",
    }
    assert plain["choices"]["segment"]["source"].startswith("vadx")


def test_false_alarms_say_what_they_are_a_share_of() -> None:
    meanings = {name: one.meaning for name, one in FALSE_ALARMS.items()}
    assert meanings["deepmil"] == "share of the frames of normal videos above 0.5"
    assert meanings["arnet"] == "share of the frames of normal videos at or above 0.5"
    assert meanings["mist"] == "share of all normal frames above 0.5"
    assert meanings["wsstad"] == "share of normal videos above 0.2"
    assert len(set(meanings.values())) == len(meanings)


def test_the_top_one_tube_is_the_top_segment_where_there_are_no_tubes() -> None:
    found = evaluate_videos(
        [video("a", [0.3, 0.9], [(0, 1)], head=0.1), video("n", [0.4, 0.2], head=0.8)],
        PROTOCOLS["wsstad-st-ucf"],
        bootstrap=0,
    )
    assert found.metrics["video_auc"].value == 1
    assert found.metrics["vauc"].value is None
