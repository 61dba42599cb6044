"""An evaluation as parts of a report's page: its headline, curves, tables, and what is said of each video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .evaluation_text import metric_label, number
from .protocol_choices import METRICS
from .report_page import Fact, Plot, Table

if TYPE_CHECKING:
    from .evaluate import TubeReport
    from .evaluation import Confusion, Evaluation, VideoRow
    from .frame_metrics import Curve, Estimate

_FIRST = ("frame_auc", "subset_auc", "frame_average_precision", "frame_pr_area", "video_auc")
"""Metrics that stand above all others, after the protocol's headline."""


def result_summary(evaluation: Evaluation) -> tuple[Fact, ...]:
    """Give the figures that stand above all, the protocol's headline first."""
    names = list(dict.fromkeys((evaluation.headline, *_FIRST)))
    measured = [name for name in names if evaluation.metrics[name].value is not None]
    published = evaluation.published
    said = () if published is None else (Fact(f"published {metric_label(evaluation.headline)}", f"{published:.4f}"),)
    return (*(Fact(metric_label(name), number(evaluation.metrics[name])) for name in measured), *said)


def result_plots(evaluation: Evaluation) -> tuple[Plot, ...]:
    """Give the ROC curve and that of precision and recall, where there are both kinds of frame."""
    plots = []
    frames = evaluation.metrics
    share = evaluation.counts.anomalous_frames / max(1, evaluation.counts.frames_compared)
    for title, curve, axes, summary in (
        (
            "ROC curve of frames",
            evaluation.roc,
            ("false positive rate", "true positive rate"),
            f"Area: {number(frames['frame_auc'])}. Dashed: chance, 0.5.",
        ),
        (
            "Precision and recall of frames",
            evaluation.pr,
            ("recall", "precision"),
            f"Average precision: {number(frames['frame_average_precision'])}. Chance: {share:.4f}.",
        ),
    ):
        if len(curve.x):
            plots.append(Plot(title, *axes, _points(curve), summary, diagonal=curve is evaluation.roc))
    return tuple(plots)


def _points(curve: Curve) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.stack([np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)], axis=1).clip(0, 1)


def result_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """Give every figure, kinds of anomaly, confusion, tubes, and what was compared."""
    tables: list[Table] = [*_class_table(evaluation)]
    if evaluation.confusion is not None:
        tables.append(_confusion_table(evaluation.confusion))
    if evaluation.tubes is not None:
        tables.append(_tube_table(evaluation.tubes))
    rows = tuple(
        (metric_label(name), number(one), METRICS.get(name, ""))
        for name, one in evaluation.metrics.items()
        if one.value is not None
    )
    without = [metric_label(name) for name, one in evaluation.metrics.items() if one.value is None]
    said = []
    if evaluation.draws:
        said.append(f"Between brackets: 95 % of {evaluation.draws} draws of videos, seed {evaluation.seed}.")
    if without:
        said.append(f"Not measured: {', '.join(without)}.")
    tables.append(Table("All figures", ("figure", "value", "what it is"), rows, note=" ".join(said), folded=True))
    return tuple(tables)


def _class_table(evaluation: Evaluation) -> Iterator[Table]:
    if not evaluation.classes:
        return
    rows = tuple(
        (
            row.name,
            f"{row.videos:,}",
            f"{row.frames:,}",
            f"{row.anomalous_frames:,}",
            *(_short(one) for one in (row.auc, row.average_precision, row.pr_area, row.subset_auc)),
        )
        for row in evaluation.classes
    )
    headers = ("kind", "videos", "frames", "anomalous", "AUC", "average precision", "PR area", "AUC within")
    note = "AUC, average precision and PR area: its videos with all normal ones. AUC within: its videos alone."
    yield Table("Kinds of anomaly", headers, rows, frozenset(range(1, 8)), note)


def _short(one: Estimate) -> str:
    return "none" if one.value is None else f"{one.value:.3f}"


def _confusion_table(confusion: Confusion) -> Table:
    rows = tuple((name, *map(str, row)) for name, row in zip(confusion.names, confusion.counts, strict=True))
    left = confusion.left_out
    note = f"{left} videos of kinds that the model does not know are left out." if left else ""
    headers = ("is \\ taken for", *confusion.names)
    return Table("Which kind was taken for which", headers, rows, frozenset(range(1, len(headers))), note)


def _tube_table(report: TubeReport) -> Table:
    epsilons = next((reading.method.iou_at for reading in report.localisation.values()), {})
    rows = []
    for reading, found in report.localisation.items():
        for tube, one in (("top-1", found.method), ("random", found.random), ("best", found.best)):
            rows.append((f"{tube}, {reading}", f"{one.miou:.4f}", *(f"{value:.4f}" for value in one.iou_at.values())))
    rate = report.false_alarm_rate
    alarms = f"{rate.value:.4f}" if rate.value is not None else f"none, {rate.reason}"
    counts = report.counts
    note = (
        f"Of {counts.videos} videos, {counts.abnormal} of them anomalous and {counts.without_tubes} without a tube. "
        f"False alarms of normal videos above {report.false_alarm_above:g}: {alarms}."
    )
    headers = ("tube", "MIoU", *(f"IoU@{epsilon}" for epsilon in epsilons))
    return Table("Where tubes are", headers, tuple(rows), frozenset(range(1, len(headers))), note)


def video_facts(row: VideoRow) -> tuple[Fact, ...]:
    """Say how one video was judged."""
    within = row.auc.value
    facts = [Fact("video score", f"{row.score:.3f}")]
    if within is not None:
        facts.append(Fact("AUC within it", f"{within:.3f}"))
    if row.top_class:
        facts.append(Fact("taken for", row.top_class))
    if row.num_dropped:
        facts.append(Fact("frames not compared", f"{row.num_dropped:,}"))
    return tuple(facts)
