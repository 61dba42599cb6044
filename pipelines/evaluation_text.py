"""An evaluation as a person reads it: the headline first, then levels, false alarms, kinds of anomaly and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .frame_metrics import AREAS
from .protocol_choices import FALSE_ALARMS, LEVELS, Protocol

if TYPE_CHECKING:
    from .evaluate import TubeReport
    from .evaluation import Confusion, Evaluation
    from .frame_metrics import Estimate


def metric_label(name: str) -> str:
    """Give a metric's name as it is read: ``frame_auc`` is frame AUC."""
    level, _, area = name.partition("_")
    if level in LEVELS and area in AREAS:
        return f"{level} {AREAS[area].label}"
    return {"vauc": "VAUC"}.get(name, name.replace("_", " "))


def number(one: Estimate) -> str:
    """Give a number with its interval, ``-`` where there is none."""
    if one.value is None:
        return "-"
    return f"{one.value:.4f}" + ("" if one.low is None or one.high is None else f" ({one.low:.4f} to {one.high:.4f})")


def evaluation_lines(evaluation: Evaluation, protocol: Protocol) -> list[str]:
    """Give the lines that are printed of an evaluation."""
    return [
        *_headline(evaluation, protocol),
        "",
        *_levels(evaluation, protocol),
        "",
        *_shares(evaluation, protocol),
        *_classes(evaluation),
        *(_confusion(evaluation.confusion) if evaluation.confusion is not None else []),
        *(_tubes(evaluation.tubes) if evaluation.tubes is not None else []),
        "",
        *_compared(evaluation),
    ]


def _headline(evaluation: Evaluation, protocol: Protocol) -> list[str]:
    name = evaluation.headline
    one = evaluation.metrics[name]
    if one.value is None:
        lines = [f"{metric_label(name)}: none, {one.reason}"]
    else:
        of = f", 95 % of {evaluation.draws} draws of videos" if one.low is not None else ""
        lines = [f"{metric_label(name)}  {number(one)}{of}"]
    lines.append(f"protocol {evaluation.protocol}: {protocol.meaning}")
    if evaluation.published is not None:
        lines.append(f"published: {evaluation.published:.4f} ({protocol.source('published')}), of its own features")
    return lines


def _levels(evaluation: Evaluation, protocol: Protocol) -> list[str]:
    rows, reasons = [], []
    for level in LEVELS:
        found = [evaluation.metrics[f"{level}_{area}"] for area in AREAS]
        rows.append([level, *map(number, found)])
        if found[0].value is None:
            reasons.append(f"  {level}: {found[0].reason}")
    labels = [f"{one.label}*" if name == protocol.ap else one.label for name, one in AREAS.items()]
    marked = [f"* what {evaluation.protocol} calls AP"] if protocol.ap else []
    return [*table(["level", *labels], rows), *marked, *reasons]


def _shares(evaluation: Evaluation, protocol: Protocol) -> list[str]:
    rows = []
    for name, rate in FALSE_ALARMS.items():
        one = evaluation.metrics[f"false_alarm_{name}"]
        rows.append([f"{name}*" if name == protocol.false_alarm else name, number(one), one.reason or rate.meaning])
    lines = table(["false alarms", "rate", "what it is"], rows)
    accuracy = evaluation.metrics["class_accuracy"]
    if accuracy.value is not None:
        lines.append(f"class accuracy  {number(accuracy)}")
    if evaluation.metrics["vauc"].value is not None:
        lines.append(f"VAUC  {number(evaluation.metrics['vauc'])}")
    return lines


def _classes(evaluation: Evaluation) -> list[str]:
    if not evaluation.classes:
        return []
    rows = [
        [
            row.name,
            str(row.videos),
            f"{row.frames:,}",
            f"{row.anomalous_frames:,}",
            *(number(one) for one in (row.auc, row.average_precision, row.pr_area, row.subset_auc)),
        ]
        for row in evaluation.classes
    ]
    labels = [one.label for one in AREAS.values()]
    head = ["kind", "videos", "frames", "anomalous", *labels, "AUC within"]
    return ["", "each kind of anomaly with all normal videos, and within its own:", *table(head, rows)]


def _confusion(confusion: Confusion) -> list[str]:
    taken = sorted({place for row in confusion.counts for place, count in enumerate(row) if count})
    rows = [
        [name, *(str(row[place]) for place in taken)]
        for name, row in zip(confusion.names, confusion.counts, strict=True)
        if any(row)
    ]
    left = f"; {confusion.left_out} of no class that it knows" if confusion.left_out else ""
    head = ["", *(confusion.names[place] for place in taken)]
    return ["", f"videos of each class, and what they were taken for{left}:", *table(head, rows)]


def _tubes(report: TubeReport) -> list[str]:
    counts = report.counts
    lines = ["", f"tubes of {counts.videos} videos, {counts.abnormal} abnormal, {counts.without_tubes} without a tube:"]
    rows = []
    for reading, found in report.localisation.items():
        for name in ("method", "random", "best"):
            one = getattr(found, name)
            rows.append([reading, name, f"{one.miou:.4f}", *(f"{value:.4f}" for value in one.iou_at.values())])
    if rows:
        epsilons = next(iter(report.localisation.values())).method.iou_at
        lines += table(["frames", "tube", "MIoU", *(f"IoU@{name}" for name in epsilons)], rows)
    rate = report.false_alarm_rate
    told = f"{rate.value:.4f}" if rate.value is not None else f"none, {rate.reason}"
    return [*lines, f"false alarms of normal videos above {report.false_alarm_above:g}: {told}"]


def _compared(evaluation: Evaluation) -> list[str]:
    counts = evaluation.counts
    lines = [
        f"compared: {counts.frames_compared:,} frames of {counts.videos} videos ({counts.anomalous} anomalous, "
        f"{counts.normal} normal), {counts.anomalous_frames:,} anomalous; {counts.frames_dropped:,} dropped"
    ]
    for count, what in (
        (counts.frames_beyond, "labels are of frames past the end of their videos"),
        (counts.spans_cut, "spans reach past the labels and were cut"),
        (counts.spans_outside, "spans lie past the labels altogether"),
    ):
        if count:
            lines.append(f"{count:,} {what}")
    return [*lines, *(f"note: {note}" for note in evaluation.notes)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Give a table's lines, columns parted by two spaces."""
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[place]) for row in every) for place in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]
