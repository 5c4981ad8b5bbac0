"""Two statistics in, the drift of a batch from its reference out: per column the measures and a status, and one value for the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from lakescore.drift import measures
from lakescore.drift.statistics import ColumnStatistics, Histogram, Statistics

Status = Literal["none", "possible", "detected"]
# From the least drift to the most.
STATUSES: tuple[Status, ...] = ("none", "possible", "detected")

# A drifted label is shown, but it does not count for the batch: labels come late or never, and no model is fed with them.
COUNTED_ROLES = ("feature", "prediction")


@dataclass(frozen=True)
class Thresholds:
    """Drift from which it is possible, and from which it is detected; ValueError unless 0 < possible < detected < 1."""

    possible: float = 0.5
    detected: float = 0.7

    def __post_init__(self) -> None:
        measures.check_thresholds(self.possible, self.detected)

    def status(self, drift: float) -> Status:
        return cast(Status, measures.status(drift, self.possible, self.detected))


@dataclass(frozen=True)
class ColumnDrift:
    """One column of the batch or of the reference.

    Attributes:
        role: the reference's; the batch's where the reference has no such column.
        measures: by the names of ``measures.MEASURES``; none where it is not analysed, and without those of numbers for categories.
        drift: (TVD + Hellinger) / 2, in [0, 1]; None: not analysed.
        status: what the thresholds make of it; None: not analysed.
        not_analysed: why.
        batch, reference: what was counted; None: there is no such column.
    """

    name: str
    role: str
    measures: Mapping[str, float] = field(default_factory=dict)
    drift: float | None = None
    status: Status | None = None
    not_analysed: str | None = None
    batch: ColumnStatistics | None = None
    reference: ColumnStatistics | None = None


@dataclass(frozen=True)
class Analysis:
    """A batch against its reference.

    Attributes:
        columns: in the reference's order, then those that only the batch has.
        drift: (mean TVD + mean Hellinger) / 2 of the analysed features and predictions, in [0, 1]. Labels are left out of it: they are
            reported, but they are often absent and lag behind. None: not analysed.
        status: what the thresholds make of it; None: not analysed.
        worst: of the columns that count for ``drift``, the one with the highest; None: not analysed.
        not_analysed: why the batch as a whole is not.
    """

    columns: tuple[ColumnDrift, ...]
    drift: float | None
    status: Status | None
    worst: ColumnDrift | None
    not_analysed: str | None
    thresholds: Thresholds

    @property
    def analysed(self) -> list[ColumnDrift]:
        """The columns that were compared, those that drifted most first."""
        return sorted((column for column in self.columns if column.drift is not None), key=lambda column: -(column.drift or 0.0))

    @property
    def unanalysed(self) -> list[ColumnDrift]:
        """The columns that could not be compared, by name."""
        return sorted((column for column in self.columns if column.drift is None), key=lambda column: column.name)

    def __str__(self) -> str:
        """In one line: the drift and its status, and the worst column."""
        if self.drift is None or self.worst is None:
            return f"not analysed: {self.not_analysed}"
        return f"{self.drift:.3f}, {self.status} (worst: {self.worst.name} {self.worst.drift:.3f}, {self.worst.status})"


def analyse(batch: Statistics, reference: Statistics, thresholds: Thresholds) -> Analysis:
    """Compare a batch with its reference, column by column.

    The bins of a number are underflow, the reference's bins and overflow; for the Wasserstein distance each lies at its midpoint, and the
    two outer ones half a bin width outside the range. Those of categories are the reference's values and all others together; they have no
    order, and so neither Kolmogorov-Smirnov statistic nor Wasserstein distance. Shares are of what falls into a bin: nulls, NaN and
    infinities do not, see ``null_share``. What cannot be compared is 'not analysed', with the reason.

    Args:
        batch: counted over the reference's bins.
        reference: most often the training set's.
        thresholds: of the status.
    """
    names = dict.fromkeys([*reference.columns, *batch.columns])
    no_rows = None if batch.rows else "the batch has no rows"
    columns = tuple(_column(name, batch.columns.get(name), reference.columns.get(name), thresholds, no_rows) for name in names)
    counted = [column for column in columns if column.role in COUNTED_ROLES and column.drift is not None]
    if not counted:
        return Analysis(columns, None, None, None, no_rows or "no feature and no prediction could be compared", thresholds)
    drift = measures.batch_drift([one.measures["tvd"] for one in counted], [one.measures["hellinger"] for one in counted])
    worst = max(counted, key=lambda column: column.drift or 0.0)
    return Analysis(columns, drift, thresholds.status(drift), worst, None, thresholds)


def null_share(column: ColumnStatistics | None) -> float | None:
    """Share of the rows that are null or NaN, in [0, 1]; None without rows.

    Both together, because of what passes a model they cannot always be told apart.
    """
    return None if column is None or not column.rows else (column.nulls + column.nan) / column.rows


def to_results(analysis: Analysis) -> dict[str, Any]:
    """The tree of ``drift_results.json``; None where there is no number, never NaN."""
    return {
        "drift_metric": analysis.drift,
        "drift_status": analysis.status,
        "thresholds": {"possible": analysis.thresholds.possible, "detected": analysis.thresholds.detected},
        "worst": None if analysis.worst is None else analysis.worst.name,
        "not_analysed": analysis.not_analysed,
        "columns": {column.name: _result(column) for column in analysis.columns},
    }


def _result(column: ColumnDrift) -> dict[str, Any]:
    return {
        "role": column.role,
        "status": column.status,
        "drift": column.drift,
        "measures": dict(column.measures),
        "not_analysed": column.not_analysed,
        "null_share": {"batch": null_share(column.batch), "reference": null_share(column.reference)},
    }


def _column(
    name: str, batch: ColumnStatistics | None, reference: ColumnStatistics | None, thresholds: Thresholds, no_rows: str | None
) -> ColumnDrift:
    if reference is None:
        return ColumnDrift(name, batch.role if batch else "", not_analysed=no_rows or "the reference has no such column", batch=batch)
    why = no_rows or ("the batch has no such column" if batch is None else _why_not(batch, reference))
    if batch is None or why is not None:
        return ColumnDrift(name, reference.role, not_analysed=why, batch=batch, reference=reference)
    found = _measured(bin_counts(batch), bin_counts(reference), reference.histogram)
    drift = measures.feature_drift(found["tvd"], found["hellinger"])
    return ColumnDrift(name, reference.role, found, drift, thresholds.status(drift), None, batch, reference)


def _why_not(batch: ColumnStatistics, reference: ColumnStatistics) -> str | None:
    """Why two columns cannot be compared; None where they can."""
    if reference.not_analysed is not None:
        return f"in the reference, {reference.not_analysed}"
    if (why := _nothing_left(batch)) is not None:
        return f"in the batch, {why}"
    if batch.not_analysed is not None:
        return f"in the batch, {batch.not_analysed}"
    if _kind(batch) != _kind(reference):
        return f"the reference counted {_kind(reference)}, the batch {_kind(batch)}"
    if not _same_bins(batch, reference):
        return f"batch and reference were not counted over the same {_kind(batch)}"
    for where, column in (("batch", batch), ("reference", reference)):
        if not sum(bin_counts(column)):
            return f"in the {where}, nothing was counted"
    return None


def _nothing_left(column: ColumnStatistics) -> str | None:
    infinite = column.negative_infinite + column.positive_infinite
    if not column.rows or column.count > column.nan + infinite:
        return None
    missing = {"null": column.nulls, "NaN": column.nan, "infinite": infinite}
    kinds = [f"{count:,} {name}" for name, count in missing.items() if count]
    return f"all values are {kinds[0].split()[1]}" if len(kinds) == 1 else f"no value can be counted: {', '.join(kinds)}"


def _kind(column: ColumnStatistics) -> str:
    return "bins of numbers" if column.histogram is not None else "categories" if column.categories is not None else "nothing"


def _same_bins(batch: ColumnStatistics, reference: ColumnStatistics) -> bool:
    if batch.histogram is not None and reference.histogram is not None:
        edges, expected = np.asarray(batch.histogram.edges), np.asarray(reference.histogram.edges)
        # Edges made anew from the least and the greatest differ in their last digits.
        return edges.shape == expected.shape and np.allclose(edges, expected, rtol=0, atol=1e-9 * (expected[-1] - expected[0]))
    if batch.categories is not None and reference.categories is not None:
        return batch.categories.values == reference.categories.values
    return True


def bin_counts(column: ColumnStatistics) -> tuple[int, ...]:
    """Rows per bin: underflow, the bins, overflow; or the categories, and all others. Empty without either."""
    if (histogram := column.histogram) is not None:
        return (histogram.underflow, *histogram.counts, histogram.overflow)
    if (categories := column.categories) is not None:
        return (*categories.counts, categories.other)
    return ()


def _measured(p: Sequence[int], q: Sequence[int], histogram: Histogram | None) -> dict[str, float]:
    found = {
        "tvd": measures.total_variation(p, q),
        "hellinger": measures.hellinger(p, q),
        "kld": measures.kl_symmetric(p, q),
        "psi": measures.population_stability(p, q),
        "jensen_shannon": measures.jensen_shannon(p, q),
    }
    if histogram is not None:
        found["kolmogorov_smirnov"] = measures.kolmogorov_smirnov(p, q)
        # Doubles have no midpoints for bins at the end of their range or of their precision; the other measures need none.
        with contextlib.suppress(ValueError):
            found["wasserstein"] = measures.wasserstein(p, q, _positions(histogram))
    return found


def _positions(histogram: Histogram) -> npt.NDArray[np.float64]:
    """The midpoints of underflow, the bins and overflow."""
    edges = np.asarray(histogram.edges)
    half = (edges[-1] / 2 - edges[0] / 2) / len(histogram.counts)
    with np.errstate(over="ignore"):
        return np.concatenate([[edges[0] - half], edges[:-1] + half, [edges[-1] + half]])
