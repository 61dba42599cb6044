"""``vadx report``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.core import ParameterSource

from ...errors import StoreError, UsageError
from .common import DEFAULT_STORE, human_bytes, json_option, open_any_set, open_set, print_json

if TYPE_CHECKING:
    from ..model_folder import Model
    from ..report import ReportChoice, Say
    from ..report_page import ReportPage
    from ..tube_evaluation import TubeSets

_MODELS_OWN = ("set_name", "tubes", "boxes", "split", "protocol", "which", "bootstrap", "seed")


@click.command(context_settings={"show_default": True})
@click.argument("subject", metavar="MODEL|SET")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), help="The page."
)
@click.option("--videos", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where the videos lie.")
@click.option("--manifest", "-m", type=click.Path(path_type=Path), help="Labels and anomalous frames of the videos.")
@click.option("--sheets", type=click.IntRange(min=0), default=4, help="Draw tubes of so many videos.")
@click.option(
    "--store", type=click.Path(path_type=Path), envvar="VADX_STORE", default=Path(DEFAULT_STORE), help="The store."
)
@click.option("--set", "set_name", metavar="SET", help="What the model scores.  [default: the set of its own recipe]")
@click.option("--tubes", metavar="SET", help="mgpr: features of tubes.  [default: those it learned from]")
@click.option("--boxes", type=click.Path(path_type=Path), help="mgpr: annotated boxes, by which tubes are placed.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="The manifest's split.  [default: test, or all videos where it names none]",
)
@click.option("--protocol", default="vadx", help="Measure as a publication does: `vadx eval --protocols` lists them.")
@click.option("--which", type=click.Choice(["last", "best"]), default="last", help="Which of the model's networks.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, help="Draws of videos that intervals are of.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of these draws.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Say nothing on the way.")
@click.pass_context
def report(ctx: click.Context, /, **options: Any) -> int:
    """Write a page on a set, or on what a model says of one: a single file that any browser opens without a network.

    The page of a model has each video's scores over its time with the anomalous frames shaded; a click plays the video
    from there. The videos stay where they are: the page refers to them by relative paths.

    \b
    vadx report i3d -o set.html
    vadx report model/ --manifest ucf.csv --videos UCF-Crime/ -o report.html
    """
    from ..config import check_context
    from ..model_folder import MODEL_JSON
    from ..report import ReportChoice, report_on_set, write_report
    from ..report_page import SCORE_CODE
    from .extract import say

    check_context(ctx)
    quiet = options["quiet"] or options["as_json"]
    tell: Say = (lambda text: None) if quiet else say
    out, name = options["out"], options["subject"]
    choice = ReportChoice(
        page=out, videos=options["videos"], manifest=options["manifest"], num_sheets=options["sheets"]
    )
    if (Path(name) / MODEL_JSON).is_file():
        page = _model_page(Path(name), choice, options, tell)
    else:
        _refuse(ctx, name)
        page = report_on_set(open_any_set(name, options["store"]), choice, tell)
    _tell(out, page, write_report(out, page), as_json=options["as_json"], quiet=quiet)
    # What failed when the set was made is told in the page, and was told then.
    return 3 if any(one.code == SCORE_CODE for one in page.failures) else 0


def _refuse(ctx: click.Context, name: str) -> None:
    """Raise `UsageError` for options that mean nothing without a model."""
    given = [one for one in _MODELS_OWN if ctx.get_parameter_source(one) is ParameterSource.COMMANDLINE]
    if given:
        options = ", ".join("--set" if one == "set_name" else f"--{one}" for one in given)
        msg = f"{options} are for models, and {name} is no model's folder (no model.json is in it): leave them out"
        raise UsageError(msg)


def _model_page(folder: Path, choice: ReportChoice, options: dict[str, Any], tell: Say) -> ReportPage:
    from ...features.box_annotations import read_box_truth
    from ..model_evaluation import EvaluationChoice, set_of_model
    from ..model_folder import read_model
    from ..protocols import find_protocol
    from ..report_models import ModelChoice, report_on_model

    protocol = find_protocol(options["protocol"])
    model = read_model(folder, options["which"])
    store, name = options["store"], options["set_name"]
    tubes = _tube_sets(model, options["tubes"], store)
    if options["boxes"] is not None and tubes is None:
        msg = "--boxes place tubes, and none are scored: name their features too, --tubes SET"
        raise UsageError(msg)
    measured = EvaluationChoice(
        protocol=protocol,
        bootstrap=options["bootstrap"],
        seed=options["seed"],
        tubes=tubes,
        boxes=None if options["boxes"] is None else read_box_truth(options["boxes"]),
    )
    features = set_of_model(model, store) if name is None else open_set(name, store)
    judged = ModelChoice(folder=folder, which=options["which"], split=options["split"], measured=measured)
    return report_on_model(features, choice, judged, tell)


def _tube_sets(model: Model, name: str | None, store: Path) -> TubeSets | None:
    """Open sets of tubes: those that are named, or those that the model learned from if they are all there."""
    from ...features.stage_set import StageSet
    from ..report_models import tubes_of_model
    from ..tube_evaluation import TubeSets
    from ..tube_scoring import check_tubes

    if name is None:
        learned_from = tubes_of_model(model, store)
        with suppress(StoreError):
            return None if learned_from is None else TubeSets.of(learned_from)
        return None
    features = open_any_set(name, store)
    if not isinstance(features, StageSet):
        msg = f"{features.name} holds clip features, not those of tubes: give the last set that vadx tubes makes"
        raise UsageError(msg)
    check_tubes(model, features)
    return TubeSets.of(features)


def _tell(out: Path, page: ReportPage, size: int, *, as_json: bool, quiet: bool) -> None:
    from ..progress import printable
    from ..report_page import SCORE_CODE
    from .extract import say

    if as_json:
        told = {
            "page": str(out),
            "title": page.title,
            "bytes": size,
            "videos": len(page.videos) or (len(page.listing.rows) if page.listing is not None else 0),
            "failures": len(page.failures),
            "notes": list(page.notes),
        }
        print_json(told)
        return
    if not quiet:
        for note in page.notes:
            say(note)
        for one in page.failures:
            if one.code == SCORE_CODE:
                say(f"error[{one.code}] {one.evidence}")
        say(f"{human_bytes(size)} written; to see it, open {out} in any browser, where it lies")
    click.echo(printable(str(out)))
