"""The page of a report as values, and their one-file HTML: nothing is fetched, nothing of this machine stands in it.

What a page shows comes from strangers: ids, classes and paths are escaped wherever they stand, and the page's own rule
(a Content-Security-Policy) runs only the style and the script that stand in it, by their sha256.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import templates
from .curves import clock_text, downsample, step_curve, time_ticks
from .report_curves import Curve, TimeTable, points_text, seconds_text, time_table

if TYPE_CHECKING:
    from jinja2 import Environment
    from numpy.typing import NDArray

TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"

_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What HTML does not take even escaped, and halves of surrogates, which names that are not UTF-8 leave."""

LABEL_TEXTS: Mapping[int, str] = MappingProxyType({1: "anomalous", 0: "normal", -1: "label not known"})

MAX_POINTS, MIN_POINTS = 1000, 100
"""Points of a drawn curve: as many as the widest plot has pixels, fewer where `ALL_POINTS` are shared by many."""

ALL_POINTS = 290_000
"""Points of all curves of a page: those of UCF-Crime's test videos, at most 5 MB."""

MAX_ROWS = 40
"""Rows of a table that says what a curve shows."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is, as text."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts under a heading, such as a recipe."""

    heading: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts. The first cell of a row names it; columns in ``numbers`` are set to the right. One that is
    ``folded`` is opened by a click, and for printing.

    Raises
    ------
    ValueError
        if a row has not a cell for each header.
    """

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    note: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        if wrong := next((row for row in self.rows if len(row) != len(self.headers)), None):
            msg = f"table {self.caption!r} has {len(self.headers)} columns; got the row {wrong!r:.200}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A line in the unit square, such as a ROC: ``points (point, 2)``, x then y, both in [0, 1].

    Raises
    ------
    ValueError
        for other shapes or values.
    """

    title: str
    x_name: str
    y_name: str
    points: NDArray[np.float64]
    summary: str = ""
    diagonal: bool = False

    def __post_init__(self) -> None:
        points = self.points
        if (
            points.ndim != 2
            or points.shape[1] != 2
            or not len(points)
            or not bool(((points >= 0) & (points <= 1)).all())
        ):
            msg = f"plot {self.title!r} takes points (point, 2) in [0, 1]; got shape {points.shape}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG in the page, and what a reader who does not see it is told."""

    jpeg: bytes
    width: int
    height: int
    alternative: str
    caption: str

    @property
    def address(self) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a video's file is. ``url`` is relative to the page and percent-encoded, None where ``note`` says why."""

    url: str | None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredCard:
    """A video with its scores.

    ``scores (frame,)`` in [0, 1]; ``seconds (frame + 1,)``, not falling: frame i is shown from ``seconds[i]`` to
    ``seconds[i + 1]``, by the file's timestamps, which are its player's time too. ``truth (span, 2)`` are half-open
    anomalous frames, None where they are not known. ``others`` are further curves of that shape, by name.

    Raises
    ------
    ValueError
        if shapes disagree or values lie outside.
    """

    id: str
    scores: NDArray[np.float32]
    seconds: NDArray[np.float64]
    source: Source
    label: int = -1
    class_name: str = ""
    truth: NDArray[np.int64] | None = None
    facts: tuple[Fact, ...] = ()
    others: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        num_frames = len(self.scores)
        lines = [self.scores, *self.others.values()]
        right = num_frames > 0 and self.seconds.shape == (num_frames + 1,) and not (np.diff(self.seconds) < 0).any()
        right = right and bool(np.isfinite(self.seconds).all()) and self.seconds[-1] > self.seconds[0]
        if not right or not all(x.shape == (num_frames,) and ((x >= 0) & (x <= 1)).all() for x in lines):
            msg = (
                f"{self.id}: expected scores (frame,) in [0, 1] and rising seconds (frame + 1,); got shapes "
                f"{[x.shape for x in lines]} and {self.seconds.shape}"
            )
            raise ValueError(msg)
        if self.truth is not None and (
            self.truth.ndim != 2 or not ((self.truth >= 0) & (self.truth <= num_frames)).all()
        ):
            msg = f"{self.id}: spans lie in [0, {num_frames}]; got {self.truth.tolist()!r:.100}"
            raise ValueError(msg)


SCORE_CODE = "SCORE"
"""The code of a video that is stored and could not be scored."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What is missing of a video: a code of `vadx.errors.CODES` or `SCORE_CODE`, what was seen, and what helps."""

    id: str
    code: str
    cause: str
    evidence: str
    cure: str


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How many of what lie between edges: ``edges (bin + 1,)``, rising, and ``counts (bin,)``."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ReportPage:
    """All that a page shows, in order. Empty parts are left out, but for failures: that there are none is said."""

    title: str
    lead: str
    summary: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    videos: tuple[ScoredCard, ...] = ()
    pictures: tuple[Picture, ...] = ()
    listing: Table | None = None
    provenance: tuple[FactGroup, ...] = ()
    failures: tuple[Failure, ...] = ()


def render(page: ReportPage) -> str:
    """Give the page's HTML. The same page gives the same text."""
    style, script = _asset(STYLE), _asset(SCRIPT)
    num_points = max(MIN_POINTS, min(MAX_POINTS, ALL_POINTS // max(1, len(page.videos))))
    text = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            page=page,
            cards=[_card_view(card, num_points) for card in sorted(page.videos, key=_order)],
            plots=[_plot_view(plot) for plot in page.plots],
            histograms=[_histogram_view(one) for one in page.histograms],
            style=_markup(style),
            script=_markup(script),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
        )
    )
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def _order(card: ScoredCard) -> tuple[str, float, str]:
    """Kinds of anomaly together, the highest score first; normal videos, and those of unknown label, after them."""
    return (card.class_name or f"\N{TILDE}{1 - card.label}", -float(card.scores.max()), card.id)


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    return Environment(
        loader=DictLoader({TEMPLATE: _asset(TEMPLATE)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return files(templates).joinpath(name).read_text(encoding="utf-8")


def _markup(text: str) -> Any:
    from markupsafe import Markup

    # Ours, not a stranger's, and without the only text that would end its element.
    if "</" in text:
        msg = "a style or script of a page holds '</', which may end its element"
        raise ValueError(msg)
    return Markup(text)  # a file of this package


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


@dataclass(frozen=True, slots=True, eq=False)
class CardView:
    """What the template shows of a `ScoredCard`: numbers as texts, and shares of the plot's width in per mille."""

    card: ScoredCard
    label: str
    start: float
    duration: float
    peak: float
    peak_seconds: float
    curves: tuple[Curve, ...]
    spans: tuple[tuple[str, str], ...]
    truth_text: str
    ticks: tuple[tuple[str, str], ...]
    table: TimeTable


def _card_view(card: ScoredCard, num_points: int) -> CardView:
    start = float(card.seconds[0])
    duration = float(card.seconds[-1]) - start
    lines = {"score": card.scores, **card.others}
    curves = []
    for name, values in lines.items():
        times, heights = downsample(*step_curve(values, card.seconds), num_points)
        curves.append(Curve(name, points_text(times - start, heights, duration)))
    truth = () if card.truth is None else card.truth
    spans = [(float(card.seconds[first]), float(card.seconds[stop])) for first, stop in truth]
    highest = int(np.argmax(card.scores))
    return CardView(
        card=card,
        label=card.class_name or LABEL_TEXTS[card.label],
        start=start,
        duration=duration,
        peak=float(card.scores[highest]),
        peak_seconds=float(card.seconds[highest]) - start,
        curves=tuple(curves),
        # However short, a span is seen.
        spans=tuple(
            (_per_mille(a - start, duration), _per_mille(max(b - a, duration / 1000), duration)) for a, b in spans
        ),
        truth_text=_truth_text(card, spans),
        ticks=_ticks(start, duration),
        table=time_table(card.scores, card.seconds, card.truth, MAX_ROWS),
    )


def _truth_text(card: ScoredCard, spans: Sequence[tuple[float, float]]) -> str:
    if card.truth is None:
        return "Which frames are anomalous is not known."
    if not spans:
        return "No frame is marked anomalous."
    return "Marked anomalous: " + ", ".join(f"{clock_text(a)} to {clock_text(b)}" for a, b in spans) + "."


def _per_mille(value: float, duration: float) -> str:
    return f"{1000 * value / duration:.1f}"


def _ticks(start: float, duration: float) -> tuple[tuple[str, str], ...]:
    """Give (per cent of the width, time) of at most seven round times, none so near the end that it would be cut."""
    shares = [((time - start) / duration, label) for time, label in time_ticks(start, start + duration, 7)]
    return tuple((f"{100 * share:.2f}", label) for share, label in shares if share < 0.97)


@dataclass(frozen=True, slots=True, eq=False)
class PlotView:
    plot: Plot
    points: str
    rows: tuple[tuple[str, str], ...]


def _plot_view(plot: Plot) -> PlotView:
    kept = _thinned(plot.points, MAX_POINTS)
    rows = _thinned(plot.points, 21)
    return PlotView(
        plot,
        " ".join(f"{1000 * x:.1f},{100 * (1 - y):.2f}" for x, y in kept),
        tuple((f"{x:.3f}", f"{y:.3f}") for x, y in rows),
    )


def _thinned(points: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Give at most ``number`` of the points, evenly along the line's length, with its ends."""
    if len(points) <= number:
        return points
    way = np.concatenate([[0.0], np.abs(np.diff(points, axis=0)).sum(axis=1).cumsum()])
    places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], number)).clip(0, len(points) - 1))
    kept: NDArray[np.float64] = points[places]
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class HistogramView:
    histogram: Histogram
    bars: tuple[tuple[str, str, str, str], ...]
    rows: tuple[tuple[str, str], ...]
    highest: int


def _histogram_view(one: Histogram) -> HistogramView:
    highest, number = max(one.counts, default=0), len(one.counts)
    bars, rows = [], []
    for at, count in enumerate(one.counts):
        height = 100 * count / max(1, highest)
        bars.append((f"{1000 * at / number:.1f}", f"{100 - height:.2f}", f"{1000 / number - 4:.1f}", f"{height:.2f}"))
        rows.append((f"{seconds_text(one.edges[at])} to {seconds_text(one.edges[at + 1])}", str(count)))
    return HistogramView(one, tuple(bars), tuple(rows), highest)
