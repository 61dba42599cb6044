"""Options that are a method's own: every field of its settings, once the arguments name the method."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import rich_click as click
from click.core import ParameterSource

from ...errors import UsageError
from ..methods import METHODS, PAPER, ChoiceError, find_method

if TYPE_CHECKING:
    from ..methods import MethodSpec


class WholeNumbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, as a tuple; none of them is written ``none``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).replace(",", " ").split()
        try:
            return () if words == ["none"] else tuple(int(word) for word in words)
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers; give some, as 512,128, or none", param, ctx)


class MethodCommand(click.RichCommand):
    """A command that has an option for every setting of the method which its arguments name."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        own = copy.copy(self)
        given = _given(args, parent, info_name or "")
        if given["method"] is not None:
            spec = nearest_method(given["method"])
            variant = given["variant"] or PAPER
            own.params = [*self.params, *setting_options(spec, variant)]
            own.epilog = describe(spec)
        try:
            return super(MethodCommand, own).make_context(info_name, args, parent, **extra)
        except click.NoSuchOption as error:
            if given["method"] is None:
                msg = f"there is no option {error.option_name}; settings are a method's: give --method as well"
                raise UsageError(msg) from error
            raise


def _given(args: Sequence[str], parent: click.Context | None, command: str) -> dict[str, str | None]:
    """Look for the method and its variant where click will: arguments, environment, settings file."""
    table = (parent.default_map or {}).get(command, {}) if parent is not None else {}
    found: dict[str, str | None] = {}
    for name in ("method", "variant"):
        found[name] = os.environ.get(f"VADX_{command}_{name}".upper()) or table.get(name)
        for place, word in enumerate(args):
            if word == f"--{name}" and place + 1 < len(args):
                found[name] = args[place + 1]
            elif word.startswith(f"--{name}="):
                found[name] = word.partition("=")[2]
    return found


def nearest_method(name: str) -> MethodSpec:
    """Give the method of a name. Raises `UsageError` that names the nearest."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        msg = f"there is no method {name!r}; {hint}there are: {', '.join(METHODS)}"
        raise UsageError(msg)
    return find_method(name)


def setting_options(spec: MethodSpec, variant: str) -> list[click.Option]:
    """Make an option of each setting, in a panel of its own; defaults are the variant's.

    Raises
    ------
    UsageError
        if there is no such variant.
    """
    method = spec.make(variant)
    types = get_type_hints(method.settings_class)
    meanings = choices_of(spec)
    panel = f"Settings of {spec.name}" + ("" if variant == PAPER else f", variant {variant}")
    return [
        _option(one.name, types[one.name], getattr(method.settings, one.name), meanings.get(one.name), panel)
        for one in dataclasses.fields(method.settings_class)
    ]


def _option(name: str, kind: Any, default: Any, meanings: Mapping[str, str] | None, panel: str) -> click.Option:
    flag = _flag(name)
    more: dict[str, Any] = {"panel": panel, "default": default, "show_default": True, "help": ""}
    if kind is bool:
        return click.RichOption([f"{flag}/--no-{flag[2:]}"], **more)
    if get_origin(kind) is tuple:
        return click.RichOption([flag], type=WholeNumbers(), **{**more, "show_default": _shown(default)})
    if meanings is not None:
        more["help"] = "; ".join(f"{choice}: {meaning}" for choice, meaning in meanings.items() if meaning)
        return click.RichOption([flag], type=click.Choice(list(meanings)), **more)
    return click.RichOption([flag], type=kind, **more)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) or "none"


def choices_of(spec: MethodSpec) -> dict[str, dict[str, str]]:
    """Give what each setting of a method that is a choice can be, and what that means, "" where it is not said."""
    method = spec.load()
    table = getattr(importlib.import_module(method.__module__), "CHOICES", {})
    found = {name: dict(meanings) for name, meanings in table.items()}
    for name, kind in get_type_hints(method.settings_class).items():
        if kind is str and name not in found:
            allowed = _refused_for(method.settings_class, name)
            if allowed:
                found[name] = dict.fromkeys(allowed, "")
    return found


def _refused_for(settings_class: Any, name: str) -> tuple[str, ...]:
    """Ask the settings themselves: what they refuse they say the choices of."""
    try:
        settings_class(**{name: ""})
    except ChoiceError as error:
        return error.allowed
    except UsageError:
        return ()
    return ()


def describe(spec: MethodSpec) -> str:
    """Say of a method what its settings are, and where from: the docstring of its settings, named as options."""
    method = spec.load()
    names = {one.name for one in dataclasses.fields(method.settings_class)}
    text = inspect.cleandoc(method.settings_class.__doc__ or "").partition("\nRaises\n")[0]
    variants = ", ".join([PAPER, *method.variants])
    plain = re.sub(r"``(\w+)``", lambda found: _flag(found[1]) if found[1] in names else found[1], text)
    plain = plain.replace("``", "").replace("`", "").strip()
    return f"{spec.name}: {spec.meaning} ({spec.source}). Rule: {method.rule}. Variants: {variants}.\n\n{plain}"


def changed_settings(ctx: click.Context, spec: MethodSpec) -> dict[str, Any]:
    """Give the settings that were given: as an option, in the environment or in a settings file."""
    names = [one.name for one in dataclasses.fields(spec.load().settings_class)]
    return {name: ctx.params[name] for name in names if was_given(ctx, name)}


def was_given(ctx: click.Context, name: str) -> bool:
    """Whether an option was given: on the command line, in the environment or in a settings file."""
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
