"""`vadx errors` and docs/errors.md: both are the tables of `vadx.errors`, and the tables leave nothing out."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable

import pytest

from support import REPOSITORY, Ran
from vadx import errors
from vadx.errors import CODES, EXIT_CODES, RUN_ERRORS, CodeInfo, Stopped, VadxError
from vadx.features.shard import DAMAGE
from vadx.pipelines.cli import cli
from vadx.pipelines.error_page import error_lines, markdown

Vadx = Callable[..., Ran]

CLASSES = {
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, VadxError) and kind is not VadxError
}


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """Give the table under a heading: first cell, without its quotes, -> the other cells."""
    part = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in cells[2:]}


def test_the_page_is_what_the_command_prints(vadx_here: Vadx) -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text()
    assert page == markdown()
    assert vadx_here("errors", "--markdown").out == page


def test_the_page_holds_every_code_every_class_and_every_exit_code() -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text()
    codes = rows_of(page, "A video that fails")
    assert set(codes) == set(CODES)
    for name, (cause, cure, again) in codes.items():
        assert (cause, cure) == (CODES[name].cause, CODES[name].cure)
        assert (again == "remembered") == CODES[name].remembered
        assert (again == "tried again") == CODES[name].retriable
    runs = rows_of(page, "An error that ends a command")
    assert set(runs) == {kind.__name__ for kind in CLASSES}
    for kind, info in RUN_ERRORS.items():
        exits, *told = runs[kind.__name__]
        assert told == [info.cause, info.consequence, info.cure]
        assert exits == ("130 or 143" if kind is Stopped else str(kind.exit_code))
    assert rows_of(page, "Kinds of damage") == {kind: [meaning] for kind, meaning in DAMAGE.items()}
    assert rows_of(page, "Exit codes") == {str(code): [meaning] for code, meaning in EXIT_CODES.items()}


def test_the_tables_leave_no_class_and_no_exit_code_out() -> None:
    assert set(RUN_ERRORS) == CLASSES
    assert {kind.exit_code for kind in CLASSES} | {Stopped(2).exit_code, Stopped(15).exit_code} <= set(EXIT_CODES)
    assert set(EXIT_CODES) == {0, 1, 2, 3, 4, 5, 6, 130, 143}
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)


def test_the_readme_and_the_help_name_the_same_exit_codes() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \|", readme, re.MULTILINE)
    assert {int(code) for row in rows for code in row.split(",")} == set(EXIT_CODES)
    told = (cli.help or "").partition("Exit codes:")[2]
    assert {int(code) for code in re.findall(r"\d+", told)} == set(EXIT_CODES)


def test_what_time_may_mend_is_not_remembered() -> None:
    assert not CodeInfo("cause", "cure", retriable=True).remembered
    assert not CodeInfo("cause", "cure", of_inputs=True).remembered
    assert CodeInfo("cause", "cure").remembered


def test_a_line_has_no_character_that_would_break_the_table() -> None:
    for line in error_lines():
        assert not set("|\n") & set(line.cause + line.consequence + line.cure)
        assert not (line.cause + line.cure).endswith(".")


@pytest.mark.parametrize(("name", "code"), [("video_truncated", "3"), ("ShardError", "4"), ("Stopped", "130 or 143")])
def test_one_error_is_told_in_full(name: str, code: str, vadx_here: Vadx) -> None:
    ran = vadx_here("errors", name)
    (line,) = json.loads(vadx_here("errors", name, "--json").out)
    assert ran.code == 0
    assert ran.out.startswith(f"{line['name']} (exit code {code})\n")
    told = " ".join(ran.out.split())
    assert all(line[what] in told for what in ("cause", "consequence", "cure"))


def test_all_are_listed_and_an_unknown_one_names_the_nearest(vadx_here: Vadx) -> None:
    names = [line.name for line in error_lines()]
    assert vadx_here("errors", "-q").out.split() == names
    assert [line.split()[0] for line in vadx_here("errors").out.splitlines()[1:]] == names
    unknown = vadx_here("errors", "VIDEO_TRUNCATE")
    assert unknown.code == 2
    assert "did you mean VIDEO_TRUNCATED?" in unknown.err
