"""``vadx eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ...errors import StoreError, UsageError
from .common import json_option, open_any_set, open_set, print_json, print_table, store_option

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..model_evaluation import ChosenVideos, EvaluationChoice, ModelEvaluation
    from ..tube_evaluation import TubeSets

_OF_MODELS = {"set_name": "--set", "tubes": "--tubes", "boxes": "--boxes", "scores_out": "--scores-out"}
"""Options that mean nothing without a model -> how they are typed."""


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--manifest", "-m", type=click.Path(path_type=Path), help="Labels, splits and anomalous frames.")
@click.option("--set", "set_name", metavar="SET", help="What is scored.  [default: the set of the model's own recipe]")
@store_option
@click.option("--protocol", "-p", default="vadx", help="Measure as a publication does: `vadx eval --protocols`.")
@click.option("--which", type=click.Choice(["last", "best", "both"]), default="both", help="The model's networks.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="The manifest's split.  [default: test, or all videos where it names none]",
)
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, help="Draws of videos that intervals are of.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of these draws.")
@click.option("--tubes", metavar="SET", help="Score these features of tubes too, of `vadx tubes`; for mgpr.")
@click.option("--boxes", type=click.Path(path_type=Path), help="Annotated boxes, by which tubes are placed.")
@click.option("--scores", type=click.Path(path_type=Path), help="Evaluate these: ID.npy or ID.csv, a score a frame.")
@click.option("--scores-out", type=click.Path(path_type=Path), help="Write each frame's score: ID.npy of each video.")
@click.option("--protocols", "list_protocols", is_flag=True, help="Say what each protocol measures, and its sources.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the headline's number alone, one of each network.")
@click.pass_context
@click.option_panel("Videos", options=["--manifest", "--split", "--set", "--store", "--scores"])
@click.option_panel("Measurement", options=["--protocol", "--protocols", "--which", "--bootstrap", "--seed"])
@click.option_panel("Tubes", options=["--tubes", "--boxes"])
@click.option_panel("Options")
def eval(ctx: click.Context, /, **options: Any) -> int:
    """Measure how well a trained MODEL, a folder that vadx train wrote, finds what is anomalous in videos it never saw.

    The manifest's split test is scored and compared with its anomalous frames. The last and the best network are
    measured, both. Any number that cannot be measured is told with the reason, and is no failure.

    \b
    vadx eval model/ --manifest ucf.csv
    vadx eval model/ --manifest ucf.csv --protocol rtfm-ucf --json > numbers.json
    vadx eval --scores their-scores/ --manifest xd.csv --protocol xdviolence
    """
    from ..config import check_context

    check_context(ctx)
    if options["list_protocols"]:
        return _list_protocols(as_json=options["as_json"])
    if options["manifest"] is None:
        msg = "name the list of labels and anomalous frames, which vadx manifest makes: vadx eval MODEL --manifest FILE"
        raise UsageError(msg)
    if options["scores"] is not None:
        return _evaluate_scores(options)
    if options["model"] is None:
        msg = "name a model's folder, or scores of frames: vadx eval MODEL --manifest FILE, or --scores FOLDER"
        raise UsageError(msg)
    return _evaluate_model(options)


def _list_protocols(*, as_json: bool) -> int:
    from ..evaluation_text import metric_label
    from ..protocols import PROTOCOLS

    if as_json:
        print_json([one.as_mapping() for one in PROTOCOLS.values()])
        return 0
    rows = [
        [
            one.name,
            metric_label(one.headline),
            "-" if one.published is None else f"{one.published:.4f}",
            one.truth,
            one.expansion,
            one.meaning,
        ]
        for one in PROTOCOLS.values()
    ]
    print_table(["protocol", "headline", "published", "truth", "expansion", "meaning"], rows)
    click.echo("\nwhere each choice is read: vadx eval --protocols --json")
    return 0


def _choice(options: dict[str, Any], tubes: TubeSets | None = None) -> EvaluationChoice:
    from ...features.box_annotations import read_box_truth
    from ..model_evaluation import EvaluationChoice
    from ..protocols import find_protocol

    return EvaluationChoice(
        protocol=find_protocol(options["protocol"]),
        bootstrap=options["bootstrap"],
        seed=options["seed"],
        tubes=tubes,
        boxes=None if options["boxes"] is None else read_box_truth(options["boxes"]),
    )


def _evaluate_scores(options: dict[str, Any]) -> int:
    from ..manifests import read_labels
    from ..model_evaluation import choose_videos, evaluate_scores
    from ..score_files import read_score_folder

    given = [typed for name, typed in _OF_MODELS.items() if options[name] is not None]
    if options["model"] is not None or given:
        what = "MODEL" if options["model"] is not None else ", ".join(given)
        msg = f"--scores evaluates what somebody scored, so {what} means nothing beside it: leave one of both out"
        raise UsageError(msg)
    choice = _choice(options)
    videos = read_score_folder(options["scores"])
    chosen = choose_videos(read_labels(options["manifest"]), videos, options["split"])
    evaluation = evaluate_scores(videos, chosen, choice)
    told = {"scores": str(options["scores"]), "evaluations": {"scores": evaluation.as_mapping()}}
    if options["as_json"]:
        _tell_json(told, chosen, choice)
    else:
        _tell(f"scores of {options['scores']}", {"scores": evaluation}, {}, choice, quiet=options["quiet"])
    return 0


def _evaluate_model(options: dict[str, Any]) -> int:
    from ..manifests import read_labels
    from ..model_evaluation import choose_videos, evaluate_model, model_mapping, set_of_model, whiches
    from ..model_folder import read_model
    from ..scoring import check_set
    from .extract import say

    folder = options["model"]
    networks = whiches(folder, options["which"])
    model = read_model(folder, networks[0])
    name = options["set_name"]
    features = set_of_model(model, options["store"]) if name is None else open_set(name, options["store"])
    check_set(model, features)
    choice = _choice(options, _tube_sets(model, options))
    chosen = choose_videos(read_labels(options["manifest"]), features.summaries().ids, options["split"])
    quiet = options["quiet"] or options["as_json"]
    if options["which"] == "both" and len(networks) == 1 and not quiet:
        say(f"there is no best network beside the last ({model.facts.get('choice', 'none was chosen')})")
    results = {
        which: evaluate_model(folder, which, features, chosen, choice, say=(lambda text: None) if quiet else say)
        for which in networks
    }
    _refuse_nothing(results)
    _write_scores(options["scores_out"], results)
    told = {
        "model": str(folder),
        "method": model.facts["method"],
        "set": features.name,
        "evaluations": {which: model_mapping(one) for which, one in results.items()},
    }
    if options["as_json"]:
        _tell_json(told, chosen, choice)
    else:
        heads = {which: f"{which}, iteration {one.model.mark.iteration}" for which, one in results.items()}
        evaluations = {which: one.evaluation for which, one in results.items()}
        title = f"{model.facts['method']} on {features.name}"
        _tell(title, evaluations, heads, choice, quiet=options["quiet"])
    failed = {name: message for one in results.values() for name, message in one.failed.items()}
    if failed:
        say(f"{len(failed)} could not be scored:")
        for message in failed.values():
            say(f"  error[SCORE] {message}")
    return 3 if failed else 0


def _refuse_nothing(results: dict[Any, ModelEvaluation]) -> None:
    for one in results.values():
        if not one.scored:
            msg = f"none of the {len(one.failed)} videos could be scored; the first: {next(iter(one.failed.values()))}"
            raise StoreError(msg)


def _tube_sets(model: Any, options: dict[str, Any]) -> TubeSets | None:
    from ...features.stage_set import StageSet
    from ..tube_evaluation import TubeSets
    from ..tube_scoring import check_tubes

    if options["tubes"] is None:
        if options["boxes"] is not None:
            msg = "--boxes place tubes: name their features too, --tubes SET"
            raise UsageError(msg)
        return None
    features = open_any_set(options["tubes"], options["store"])
    if not isinstance(features, StageSet):
        msg = f"{features.name} holds clip features, not those of tubes: give the last set that vadx tubes makes"
        raise UsageError(msg)
    check_tubes(model, features)
    return TubeSets.of(features)


def _write_scores(folder: Path | None, results: dict[Any, ModelEvaluation]) -> None:
    from ..score_files import write_score_folder
    from .extract import say

    if folder is None:
        return
    for which, one in results.items():
        own = folder / which if len(results) > 1 else folder
        say(f"{write_score_folder(own, one.scored)} videos' scores of frames: {own}")


def _tell_json(told: dict[str, Any], chosen: ChosenVideos, choice: EvaluationChoice) -> None:
    videos = {
        "split": chosen.split,
        "not_stored": list(chosen.not_stored),
        "not_listed": list(chosen.not_listed),
        "ambiguous": list(chosen.ambiguous),
    }
    print_json({**told, "protocol": choice.protocol.as_mapping(), "videos": videos})


def _tell(
    title: str, evaluations: dict[Any, Evaluation], heads: dict[Any, str], choice: EvaluationChoice, *, quiet: bool
) -> None:
    from ..evaluation_text import evaluation_lines, metric_label, number
    from ..progress import printable

    headline = choice.protocol.headline
    if quiet:
        for which, one in evaluations.items():
            value = one.metrics[headline].value
            click.echo(f"{which} {'-' if value is None else f'{value:.6f}'}")
        return
    click.echo(printable(title))
    if len(evaluations) > 1:
        for which, one in evaluations.items():
            click.echo(f"  {which:<5} {metric_label(headline)}  {number(one.metrics[headline])}")
    for which, one in evaluations.items():
        click.echo(f"\n{heads.get(which, which)}")
        click.echo("\n".join(f"  {printable(line)}".rstrip() for line in evaluation_lines(one, choice.protocol)))
