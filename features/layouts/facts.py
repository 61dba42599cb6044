"""A recipe as facts in dotted names, and a recipe made of the facts that are known of somebody else's features."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ...errors import RecipeError, UsageError
from ..recipe import RECIPE_FACTS, UNKNOWN, Imported, Recipe

STAND_INS: Mapping[str, object] = MappingProxyType(
    {
        "sampling.clip_length": 1,
        "sampling.clip_stride": 1,
        "sampling.tail": "drop",
        "transform.kernel": "pil",
        "transform.resize": 1,
        "transform.crop": 1,
        "transform.crops": "center",
        "transform.center_rounding": "floor",
        "network.name": UNKNOWN,
        "network.layer": UNKNOWN,
        "weights": UNKNOWN,
        "numerics": 0,
    }
)
"""Unknown fact -> what stands in its place where a recipe must hold something. Others get their implied values."""


def facts_of(recipe: Recipe) -> dict[str, object]:
    """Give what is known of a recipe: fact of `RECIPE_FACTS` -> its value in plain JSON types."""
    whole = recipe.stated()
    facts: dict[str, object] = {}
    for fact in RECIPE_FACTS:
        if fact not in recipe.unknown:
            part, _, name = fact.rpartition(".")
            holder: Any = getattr(recipe, part) if part else recipe
            # What is left out of the mapping has its implied value, which is plain.
            facts[fact] = (whole[part] if part else whole).get(name, getattr(holder, name))
    return facts


def recipe_of_facts(known: Mapping[str, object], imported: Imported) -> Recipe:
    """Make a recipe of ``known`` facts; all others are unknown. ``imported`` says the rest.

    Raises
    ------
    UsageError
        for a fact that is none, or a value that it cannot have.
    """
    check_facts(known)
    facts = {**STAND_INS, **known}
    if "transform.resize" not in known and "transform.crop" in known:
        facts["transform.resize"] = known["transform.crop"]
    # One crop has no order, and several have one.
    if "transform.crops" not in known and known.get("transform.crop_order") is not None:
        facts["transform.crops"] = "ten"
    elif known.get("transform.crops", "center") != "center" and "transform.crop_order" not in known:
        facts["transform.crop_order"] = "tv"
    mapping: dict[str, Any] = {"sampling": {}, "transform": {}, "network": {}}
    for fact, value in facts.items():
        part, _, name = fact.rpartition(".")
        (mapping[part] if part else mapping)[name] = value
    whole = set(known) >= set(RECIPE_FACTS)
    try:
        return replace(Recipe.from_mapping(mapping), imported=replace(imported, known=None if whole else tuple(known)))
    except RecipeError as error:
        stated = ", ".join(f"{fact} {known[fact]!r:.60}" for fact in known)
        msg = f"what is known of these features makes no recipe: {error}. Known are: {stated}"
        raise UsageError(msg) from error


def check_facts(names: Mapping[str, object]) -> None:
    """Raise `UsageError` that names the first fact that a recipe does not state, and one that is near."""
    for name in names:
        if name not in RECIPE_FACTS:
            near = difflib.get_close_matches(str(name), RECIPE_FACTS, 1)
            hint = f"did you mean {near[0]}?" if near else f"it states {', '.join(RECIPE_FACTS)}"
            msg = f"a recipe does not state {name!r:.100}; {hint}"
            raise UsageError(msg)


def flat_facts(mapping: Mapping[str, Any]) -> dict[str, object]:
    """Give facts of a mapping in dotted names, of one like a recipe's, or of a mixture.

    What it calls ``"unknown"`` is left out, and so is what it says of an import.

    Raises
    ------
    UsageError
        for a fact that a recipe does not state.
    """
    facts: dict[str, object] = {}
    for name, value in mapping.items():
        if name in {"sampling", "transform", "network"} and isinstance(value, dict):
            facts.update({f"{name}.{inner}": one for inner, one in value.items()})
        elif name != "imported":
            facts[name] = value
    check_facts(facts)
    return {fact: value for fact, value in facts.items() if value != UNKNOWN}
