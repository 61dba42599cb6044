"""``vadx errors``."""

from __future__ import annotations

import rich_click as click

from .common import json_option, print_json, print_table


@click.command()
@click.argument("name", required=False)
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print names only.")
@click.option("--markdown", is_flag=True, help="Print docs/errors.md.")
def errors(name: str | None, as_json: bool, quiet: bool, markdown: bool) -> int:
    """Say what an error means and what to do: every code of a video that fails, every error that ends a run.

    \b
    vadx errors VIDEO_TRUNCATED    one of them
    """
    from ..error_page import error_lines, find_error
    from ..error_page import markdown as as_markdown

    if markdown:
        click.echo(as_markdown(), nl=False)
        return 0
    lines = error_lines() if name is None else [find_error(name)]
    if as_json:
        print_json(lines)
    elif quiet:
        click.echo("\n".join(line.name for line in lines))
    elif name is None:
        print_table(["NAME", "EXIT", "CAUSE"], [[line.name, _exits(line.exit_codes), line.cause] for line in lines])
    else:
        (line,) = lines
        click.echo(f"{line.name} (exit code {_exits(line.exit_codes)})")
        for what, said in (
            ("cause", line.cause),
            ("then", line.consequence),
            ("do", line.cure),
            ("next run", line.again),
        ):
            if said is not None:
                click.echo(f"  {what:<9} {said}")
    return 0


def _exits(codes: list[int]) -> str:
    return " or ".join(map(str, codes))
