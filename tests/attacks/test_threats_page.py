"""docs/threats.md names a test for each threat, all of which exist, and the guards that `sabotage` removes."""

from __future__ import annotations

import re
from pathlib import Path

from sabotage import table

from ..test_sabotage import is_test

PAGE = (Path(__file__).parents[2] / "docs" / "threats.md").read_text()
NUM_THREATS = 23


def test_every_threat_has_a_row_with_tests_that_exist() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, NUM_THREATS + 1))
    for number, row in rows:
        named = re.findall(r"`(tests/[^`]+::[^`]+)`", row)
        assert named, f"threat {number} names no test"
        assert [one for one in named if not is_test(one)] == []


def test_the_guards_are_those_of_the_table() -> None:
    # Print it anew with: python tests/sabotage.py --table
    assert PAGE.endswith(f"\n\n{table()}")
