"""An analysis in, one self-contained HTML page out: what drifted, how far, and the histograms that show it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lakescore.drift.analysis import COUNTED_ROLES, STATUSES, Analysis, ColumnDrift, bin_counts, null_share
from lakescore.drift.measures import MEASURES, shares
from lakescore.drift.page import number, render
from lakescore.drift.plots import BATCH_COLOR, REFERENCE_COLOR, OverlaidHistograms
from lakescore.drift.statistics import ColumnStatistics

# More categories are not told apart in a picture of this size.
MOST_BARS = 20
_HEADS = {
    "tvd": "TVD",
    "hellinger": "Hellinger",
    "kld": "KLD",
    "psi": "PSI",
    "jensen_shannon": "JS",
    "kolmogorov_smirnov": "KS",
    "wasserstein": "Wasserstein",
}
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class _Bars:
    """What a picture shows: shares of the same bins, their names, and the texts at its two ends."""

    batch: Sequence[float]
    reference: Sequence[float]
    names: Sequence[str]
    ends: tuple[str, str]


def html(analysis: Analysis, title: str, facts: Mapping[str, str]) -> str:
    """The page, ``drift_table_plot.html``; it needs no network.

    Args:
        analysis: a batch against its reference.
        title: of the page.
        facts: what the run was, by name: model, batch, date, rows, reference.

    Raises:
        PlatformError: matplotlib or Jinja2 is missing.
    """
    analysed, others = analysis.analysed, analysis.unanalysed
    counts = {status: sum(column.status == status for column in analysed) for status in reversed(STATUSES)}
    picture = OverlaidHistograms()
    return render(
        "report.html.jinja",
        title=title,
        facts=facts,
        analysis=analysis,
        counts={**counts, "not analysed": len(others)},
        rows=[_row(column, picture) for column in analysed],
        others=[(column, _missing(column)) for column in others],
        measures={name: (_HEADS[name], measure.label, measure.range_text) for name, measure in MEASURES.items()},
        uncounted=any(column.role not in COUNTED_ROLES for column in analysed),
        colors={"reference": REFERENCE_COLOR, "batch": BATCH_COLOR},
        most_bars=MOST_BARS,
    )


def _row(column: ColumnDrift, picture: OverlaidHistograms) -> dict[str, Any]:
    batch, reference = column.batch, column.reference
    assert batch is not None and reference is not None and column.status is not None, "it is analysed"
    bars = _numbers(batch, reference) if reference.histogram is not None else _categories(batch, reference)
    texts = [f"{name}: {q:.1%} → {p:.1%}" for name, p, q in zip(bars.names, bars.batch, bars.reference, strict=True)]
    return {
        "column": column,
        "rank": STATUSES.index(column.status),
        "source": picture.draw(bars.batch, bars.reference, reference.histogram is not None),
        "shares": texts,
        "ends": bars.ends,
        "measures": {name: _measure(name, column.measures.get(name), reference.type) for name in MEASURES},
        "changes": {
            "Null or NaN": _missing(column),
            "Mean": _change(reference.mean, batch.mean, _value, reference.type),
            "Std": _change(reference.std, batch.std, _width, reference.type),
        },
    }


def _numbers(batch: ColumnStatistics, reference: ColumnStatistics) -> _Bars:
    assert reference.histogram is not None, "it counts numbers"
    edges = [_value(edge, reference.type) for edge in reference.histogram.edges]
    names = [f"below {edges[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(edges)), f"above {edges[-1]}"]
    return _Bars(shares(bin_counts(batch)).tolist(), shares(bin_counts(reference)).tolist(), names, (edges[0], edges[-1]))


def _categories(batch: ColumnStatistics, reference: ColumnStatistics) -> _Bars:
    """The categories that are frequent in either, in the reference's order, and all others as one."""
    assert reference.categories is not None, "it counts categories"
    p, q = shares(bin_counts(batch)), shares(bin_counts(reference))
    values = [str(value).lower() if isinstance(value, bool) else str(value) for value in reference.categories.values]
    shown = np.sort(np.argsort(-np.maximum(p, q)[:-1], kind="stable")[:MOST_BARS])
    names = [values[i] for i in shown]
    ends = (names[0], names[-1] if len(names) > 1 else "")
    rest = 1 - p[shown].sum(), 1 - q[shown].sum()
    return _Bars([*p[shown], max(rest[0], 0.0)], [*q[shown], max(rest[1], 0.0)], [*names, "other"], ends)


def _measure(name: str, value: float | None, type_: str) -> tuple[float | None, str]:
    return value, _width(value, type_) if value is None or name == "wasserstein" else f"{value:.3f}"


def _missing(column: ColumnDrift) -> dict[str, Any]:
    return _change(null_share(column.reference), null_share(column.batch), _share)


def _change(expected: float | None, actual: float | None, text: Callable[..., str], *type_: str) -> dict[str, Any]:
    return {"expected": text(expected, *type_), "actual": text(actual, *type_), "sort": "" if actual is None else actual}


def _share(value: float | None) -> str:
    return "–" if value is None else "0%" if value == 0 else f"{value:.1%}" if value >= 0.001 else "<0.1%"


def _value(value: float | None, type_: str) -> str:
    """A value of the column for a reader: dates are counted in days and timestamps in seconds since 1970."""
    if value is not None and abs(value) < 1e12:
        if type_ == "date":
            return str(np.datetime64(round(value), "D"))
        if type_.startswith("timestamp"):
            return str(np.datetime64(round(value / 60), "m")).replace("T", " ")
    return number(value)


def _width(value: float | None, type_: str) -> str:
    if value is not None and type_ == "date":
        return f"{number(value)} d"
    if value is not None and type_.startswith("timestamp"):
        return f"{number(value / _SECONDS_A_DAY)} d"
    return number(value)
