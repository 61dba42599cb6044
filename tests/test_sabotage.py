"""The table of `sabotage` fits the sources, its tests exist, and removing a guard turns one of them red."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from sabotage import GUARDS, Guard, copied, run_tests, turns_red, without

REPOSITORY = Path(__file__).parent.parent
QUICK = ("videos with one id are told apart", "JSON: no name twice")
"""What is removed at every change: tests that import no torch."""


@cache
def names_in(file: str) -> frozenset[str]:
    """Give the names of a test module's tests, those of a class after ``Class::``."""
    found = set()
    for node in ast.parse((REPOSITORY / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return frozenset(found)


def is_test(node: str) -> bool:
    """Whether a node id names a test of this repository; what stands in brackets is not looked at."""
    file, _, name = node.partition("::")
    return (REPOSITORY / file).is_file() and re.sub(r"\[.*\]$", "", name, flags=re.DOTALL) in names_in(file)


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_what_is_removed_stands_there_and_its_test_exists(guard: Guard) -> None:
    ast.parse(without(guard))
    assert guard.old != guard.new
    assert is_test(guard.test)


def test_guards_are_many_and_have_names_of_their_own() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 80


def test_a_guard_that_is_no_longer_there_is_noticed() -> None:
    guard = Guard("gone", "features/keys.py", "what nobody wrote", "", "tests/features/test_keys.py::test_x")
    with pytest.raises(ValueError, match=r"stands 0 times in features/keys\.py"):
        without(guard)


def test_without_its_guard_a_test_turns_red() -> None:
    guards = [guard for guard in GUARDS if guard.name in QUICK]
    assert len(guards) == len(QUICK)
    with copied() as copy:
        assert run_tests(copy, [guard.test for guard in guards]) == 0
        assert all(turns_red(guard, copy) for guard in guards)
        assert (copy / guards[0].file).read_text() == (REPOSITORY / guards[0].file).read_text()
