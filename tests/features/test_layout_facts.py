"""Facts of a recipe, and a recipe of facts: what is known comes back, what is not is never a fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vadx.errors import UsageError
from vadx.features.layouts import LAYOUTS
from vadx.features.layouts.facts import STAND_INS, facts_of, flat_facts, recipe_of_facts
from vadx.features.recipe import RECIPE_FACTS, Imported, Recipe

from .samples import make_recipe

TEN = make_recipe(crops="ten")
RELEASE = Imported(layout="rtfm", release="ucf")


def test_a_recipe_that_is_known_whole_comes_back() -> None:
    facts = facts_of(TEN)
    assert set(facts) == set(RECIPE_FACTS)
    made = recipe_of_facts(facts, RELEASE)
    assert replace(made, imported=None) == TEN
    assert made.imported == RELEASE
    kept = replace(RELEASE, crop="mean", segmentation="sultani")
    assert recipe_of_facts(facts, kept).imported == kept
    assert made.unknown == ()


@settings(max_examples=80, deadline=None)
@given(known=st.sets(st.sampled_from(RECIPE_FACTS)))
def test_whatever_is_known_makes_a_recipe_that_says_so(known: set[str]) -> None:
    whole = facts_of(TEN)
    facts = {fact: whole[fact] for fact in known}
    made = recipe_of_facts(facts, RELEASE)
    assert set(made.unknown) == set(RECIPE_FACTS) - known
    assert facts_of(made) == facts
    assert Recipe.from_mapping(made.to_mapping()) == made
    stated: Any = made.stated()
    for fact in made.unknown:
        part, _, name = fact.rpartition(".")
        assert (stated[part] if part else stated)[name] == "unknown"
    # What is said in print, and read again as what is known, is the same.
    assert flat_facts(made.stated()).items() <= facts_of(TEN).items()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_published_of_a_layout_makes_a_recipe(layout: str) -> None:
    knows = LAYOUTS[layout].knows
    made = recipe_of_facts(knows, replace(RELEASE, layout=layout))
    assert facts_of(made) == knows


def test_stand_ins_stand_for_facts() -> None:
    assert set(STAND_INS) <= set(RECIPE_FACTS)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sampling.clip_lenght": 16}, r"'sampling\.clip_lenght'; did you mean sampling\.clip_length"),
        ({"shutter": 1}, "does not state 'shutter'; it states sampling"),
        ({"sampling.clip_length": "16"}, r"expected int, got '16'\. Known are: sampling\.clip_length '16'"),
        ({"transform.crop": 300, "transform.resize": 256}, "must be at least 1 and fit into"),
    ],
)
def test_facts_that_cannot_be_are_refused(facts: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe_of_facts(facts, RELEASE)


def test_facts_are_read_in_dotted_names_and_in_parts() -> None:
    mapping = {
        "sampling": {"clip_length": 16, "tail": "unknown"},
        "network.layer": "fc6",
        "weights": "unknown",
        "imported": {"layout": "rtfm"},
    }
    assert flat_facts(mapping) == {"sampling.clip_length": 16, "network.layer": "fc6"}
    with pytest.raises(UsageError, match="did you mean"):
        flat_facts({"sampling": {"clip_strid": 8}})
