"""How videos are extracted for a model: by the recipe that stands in its folder, with the weights that it names."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import StoreError, UsageError, WeightsError
from ..extract.backbones import find_backbone
from ..extract.library import complete_recipe, weights_digest
from ..extract.weights import entries_of, record_of, require
from ..features.recipe import Recipe
from .plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def model_plan(facts: Mapping[str, Any], weights: str | None = None) -> Plan:
    """Give the plan by which a model's videos are extracted. ``weights`` is a file that holds those of the recipe.

    Raises
    ------
    UsageError
        if the model was trained on features that vadx did not compute and cannot, or does not know how it did.
    StoreError
        if ``model.json`` contradicts itself.
    WeightsError
        if the weights of the recipe are not on this machine, naming the line to type.
    """
    recipe = _recipe(facts)
    backbone = find_backbone(recipe.network.name).name
    source, name = _source(recipe, backbone, weights)
    return Plan(recipe, backbone, _preset(recipe) or f"the model's recipe of {backbone}", source, name)


def _recipe(facts: Mapping[str, Any]) -> Recipe:
    trained_on = facts.get("set_name") or f"recipe {str(facts['recipe_digest'])[:12]}"
    if facts.get("recipe") is None:
        msg = (
            f"the model was trained on {trained_on}, and its folder does not say how those features were made, so no "
            f"video can be: score stored ones instead, vadx score MODEL --set SET"
        )
        raise UsageError(msg)
    recipe = Recipe.from_mapping(facts["recipe"])
    if recipe.digest != facts["recipe_digest"]:
        msg = "model.json: the recipe and its digest disagree; restore the file from a copy, or train again: vadx train"
        raise StoreError(msg)
    return recipe.computed()


def _source(recipe: Recipe, backbone: str, given: str | None) -> tuple[str, str | None]:
    """Give what the recipe's weights are loaded from, and their name in the table."""
    wanted = recipe.weights
    if given is not None:
        digest, name = weights_digest(given)
        if digest != wanted:
            msg = (
                f"{given} has sha256 {digest[:12]}…, the model's features were computed with {wanted[:12]}…: "
                f"its numbers would mean other things; give that file, or leave --weights out"
            )
            raise WeightsError(msg)
        return given, name
    if wanted.startswith("random:"):
        return wanted, None
    entries = [entry for entry in entries_of(backbone) if entry.kind == "network"]
    for entry in entries:
        record = record_of(entry.name)
        if record is not None and record.published_sha256 == wanted:
            return entry.name, entry.name
    for entry in entries:
        # Takes them from torch's own cache, or says what to type.
        if entry.sha256 == wanted:
            require(entry.name)
            return entry.name, entry.name
    unsure = [entry.name for entry in entries if entry.sha256 is None and wanted.startswith(entry.sha256_prefix)]
    fetch = f"; if they are {' or '.join(unsure)}: vadx weights fetch {unsure[0]}" if unsure else ""
    msg = (
        f"the model's features were computed with weights of {backbone} of sha256 {wanted}, which are not on this "
        f"machine{fetch}; with their file: --weights FILE"
    )
    raise WeightsError(msg)


def _preset(recipe: Recipe) -> str | None:
    """Give the name of the preset that makes exactly this recipe, None for another."""
    for preset in find_backbone(recipe.network.name).presets:
        with suppress(UsageError, WeightsError):
            if complete_recipe(preset, recipe.weights).digest == recipe.digest:
                return preset.name
    return None
