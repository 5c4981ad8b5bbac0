"""A DataFrame in, its statistics out: Spark counts, in one job what is compared with a reference, in a few a reference itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.drift import counting
from lakescore.drift.counting import COUNTED_FIELD, Bins, Counts, add_up
from lakescore.drift.statistics import QUANTILES, Categories, ColumnStatistics, Histogram, Statistics, moments, quantiles_of

# The workers need not have Lakescore: what runs there goes with the task.
cloudpickle.register_pickle_by_value(counting)  # type: ignore[no-untyped-call]

HISTOGRAM_BINS = 20
# Integers with so few distinct values are categories.
MOST_INTEGERS = 20
# The most frequent texts are told apart, the others are one.
MOST_CATEGORIES = 100
_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_FLOATS = (T.DoubleType, T.FloatType)
# What pandas has as it is counted.
PLAIN = (*_INTEGERS, *_FLOATS, T.BooleanType, T.StringType)
# Of a relative error of 1/10,000 of the ranks.
_ACCURACY = 10_000
# Columns whose ranges one job finds: what each task keeps of 200 at once is more than the 1 GB that Spark has by default.
_RANGES_AT_ONCE = 25


@dataclass(frozen=True)
class Monitored:
    """One column whose values are counted.

    Attributes:
        name: in the statistics.
        role: ``feature``, ``label`` or ``prediction``.
        type: what it is in Spark.
        values: makes the column of the values as they are; not called where Spark does not count them.
    """

    name: str
    role: str
    type: T.DataType
    values: Callable[[], Column]

    @property
    def kind(self) -> str | None:
        """``number``, ``integer``, ``boolean`` or ``text``; None for what is no single value."""
        if isinstance(self.type, _INTEGERS):
            return "integer"
        if isinstance(self.type, (*_FLOATS, T.DecimalType, T.DateType, T.TimestampType, T.TimestampNTZType)):
            return "number"
        return {T.BooleanType: "boolean", T.StringType: "text"}.get(type(self.type))

    @property
    def is_float(self) -> bool:
        """Whether it can be NaN."""
        return isinstance(self.type, _FLOATS)

    @property
    def is_plain(self) -> bool:
        """Whether pandas has its values as they are counted."""
        return isinstance(self.type, PLAIN)

    @property
    def value(self) -> Column:
        """What is counted: text as it is, all else as a double; dates in days, timestamps in seconds since 1970."""
        if isinstance(self.type, T.StringType):
            return self.values()
        if isinstance(self.type, T.DateType):
            return F.unix_date(self.values()).cast("double")
        if isinstance(self.type, T.TimestampType):
            return F.unix_micros(self.values()).cast("double") / 1e6
        if isinstance(self.type, T.TimestampNTZType):
            epoch = F.lit("1970-01-01").cast("timestamp_ntz")
            return F.timestamp_diff("MICROSECOND", epoch, self.values()).cast("double") / 1e6
        return self.values().cast("double")


def of_reference(name: str, role: str, found: T.DataType, wanted: T.DataType | None, values: Callable[[], Column]) -> Monitored:
    """A column of reference data, to be compared with one of type ``wanted``: text is read as that, all else counts as what it is.

    Args:
        name: in the statistics.
        role: of the column.
        found: its type.
        wanted: the type of the column of the batch; None where it has none.
        values: makes the column of its values.
    """
    is_text = isinstance(found, T.StringType)
    if wanted is None or not is_text or not isinstance(wanted, T.AtomicType) or isinstance(wanted, (T.StringType, T.BinaryType)):
        return Monitored(name, role, found, values)
    return Monitored(name, role, wanted, lambda: values().try_cast(wanted))


def bins_of(reference: ColumnStatistics, monitored: Monitored) -> Bins:
    """What a column is counted over so that it can be compared with the reference; nothing in particular where it cannot be."""
    is_text = monitored.kind == "text"
    if reference.histogram is not None and monitored.kind is not None and not is_text:
        edges = reference.histogram.edges
        return Bins(edges=(edges[0], edges[-1], len(edges) - 1))
    values = reference.categories.values if reference.categories is not None else ()
    if values and monitored.kind is not None and is_text == isinstance(values[0], str):
        return Bins(values=tuple(value if is_text else float(value) for value in values))
    return Bins()


def count(df: DataFrame, monitored: Sequence[Monitored], bins: Mapping[str, Bins]) -> dict[str, Counts]:
    """Count a DataFrame's columns, each task its own; one job, and a row for each task comes back.

    Args:
        df: what the columns are of.
        monitored: the columns, all of a known kind.
        bins: what each is counted over, by name.
    """
    wanted = columns_of(monitored, bins, "c")
    values = df.select(*[one.value.alias(wanted.aliases[one.name]) for one in monitored])
    parts = values.mapInArrow(counting.counter_of(wanted), f"{COUNTED_FIELD} binary").toArrow()
    return add_up(bins, parts.column(COUNTED_FIELD).to_pylist())


def columns_of(monitored: Sequence[Monitored], bins: Mapping[str, Bins], prefix: str) -> counting.Columns:
    """What the workers are told of the columns; Spark's mapInArrow would take a dot in a name for a field's."""
    aliases = {one.name: f"{prefix}{i}" for i, one in enumerate(monitored)}
    return counting.Columns({one.name: bins[one.name] for one in monitored}, aliases, tuple(one.name for one in monitored if one.is_float))


def statistics_of(df: DataFrame, monitored: Sequence[Monitored], source: str) -> Statistics:
    """The statistics that other data can be compared with: a job for the ranges of every 25 columns, then one over the bins.

    Args:
        df: what the columns are of; each is read twice.
        monitored: the columns.
        source: what it is, for people.
    """
    known = [one for one in monitored if one.kind is not None]
    rows, ranges = _ranges(df, known)
    found = count(df, known, {one.name: _first_bins(one, ranges[one.name]) for one in known})
    columns = {}
    for one in monitored:
        columns[one.name] = _of_column(one, ranges[one.name], found[one.name]) if one.kind is not None else _uncounted(one)
    return Statistics(rows, columns, source)


def compared(df: DataFrame, monitored: Sequence[Monitored], reference: Statistics, source: str) -> Statistics:
    """The statistics of data over a reference's bins, columns of the reference only; one job.

    Args:
        df: what the columns are of.
        monitored: the columns.
        reference: what they are to be compared with.
        source: what it is, for people.
    """
    known = [one for one in monitored if one.kind is not None and one.name in reference.columns]
    bins = {one.name: bins_of(reference.columns[one.name], one) for one in known}
    counts = count(df, known, bins)
    rows = max((one.rows for one in counts.values()), default=None)
    return from_counts(counts, monitored, bins, source, df.count() if rows is None else rows)


def from_counts(
    counts: Mapping[str, Counts], monitored: Sequence[Monitored], bins: Mapping[str, Bins], source: str, rows: int
) -> Statistics:
    """What was counted over a reference's bins, as statistics.

    Args:
        counts, bins: by column.
        monitored: the columns; those that were not counted are not analysed.
        source: what it is, for people.
        rows: of all of it.
    """
    found = {one.name: _over(bins[one.name], one, counts[one.name]) if one.name in counts else _uncounted(one) for one in monitored}
    return Statistics(rows, found, source)


def _uncounted(monitored: Monitored) -> ColumnStatistics:
    kind = monitored.type.simpleString()
    why = "the reference has no such column" if monitored.kind is not None else f"{kind[:60]} is no single value"
    return ColumnStatistics(monitored.role, kind, 0, 0, not_analysed=why)


def _over(bins: Bins, monitored: Monitored, counts: Counts) -> ColumnStatistics:
    histogram = categories = why = None
    quantiles: dict[str, float] = {}
    measured = moments(counts) if monitored.kind in ("number", "integer") else {}
    if bins.edges is not None:
        histogram = _histogram(bins.edges, counts)
        # Booleans are counted over the bins of a reference that had numbers, and have no least and greatest.
        quantiles = quantiles_of(histogram, measured.get("min"), measured.get("max"))
    elif bins.values is not None:
        values = tuple(_shown(monitored, value) for value in bins.values)
        categories = Categories(values, tuple(counts.bins[:-1]), counts.bins[-1])
    else:
        why = f"it is {monitored.type.simpleString()}, which the reference has not"
    return ColumnStatistics(
        monitored.role, monitored.type.simpleString(), **_plain_counts(monitored, counts), **measured, quantiles=quantiles,
        histogram=histogram, categories=categories, not_analysed=why,
    )  # fmt: skip


def _plain_counts(monitored: Monitored, counts: Counts) -> dict[str, Any]:
    """Nulls and NaN apart: what cannot be NaN is null."""
    nulls = counts.nulls if monitored.is_float else counts.missing
    infinite = {"negative_infinite": counts.negative_infinite, "positive_infinite": counts.positive_infinite}
    return {"count": counts.rows - nulls, "nulls": nulls, "nan": max(counts.missing - nulls, 0), **infinite}


def _ranges(df: DataFrame, monitored: Sequence[Monitored]) -> tuple[int, dict[str, dict[str, Any]]]:
    """The first jobs: the rows, and by column what histograms need to know before they count, and what they do not tell."""
    rows, found = 0, {}
    for start in range(0, max(len(monitored), 1), _RANGES_AT_ONCE):
        rows, some = _ranges_of_some(df, monitored[start : start + _RANGES_AT_ONCE])
        found.update(some)
    return rows, found


def _ranges_of_some(df: DataFrame, monitored: Sequence[Monitored]) -> tuple[int, dict[str, dict[str, Any]]]:
    aggregates = [F.count(F.lit(1)).alias("rows")]
    for i, one in enumerate(monitored):
        x = one.value
        # Its default error, 5%: 2% takes ten times as long to plan, and several times the memory.
        parts = [F.approx_count_distinct(x).alias("distinct")]
        if one.kind in ("number", "integer"):
            finite = F.when(~F.isnan(x) & (F.abs(x) < float("inf")), x)
            parts += [
                F.min(finite).alias("min"),
                F.max(finite).alias("max"),
                F.avg(finite).alias("mean"),
                F.stddev_samp(finite).alias("std"),
                F.percentile_approx(finite, list(QUANTILES), _ACCURACY).alias("quantiles"),
            ]
        aggregates.append(F.struct(*parts).alias(f"c{i}"))
    row = df.agg(*aggregates).toArrow().to_pylist()[0]
    return int(row["rows"]), {one.name: row[f"c{i}"] for i, one in enumerate(monitored)}


def _first_bins(monitored: Monitored, found: Mapping[str, Any]) -> Bins:
    if monitored.kind == "boolean":
        return Bins(values=(0.0, 1.0))
    few = found["distinct"] <= 2 * counting.MOST_VALUES
    if monitored.kind == "text":
        return Bins(discovers=few)
    edges = _edges(found["min"], found["max"])
    return Bins(edges=edges, discovers=monitored.kind == "integer" and found["distinct"] <= 2 * MOST_INTEGERS)


def _edges(low: float | None, high: float | None) -> tuple[float, float, int] | None:
    """Least, greatest and number of the bins; None where there is no range to divide."""
    if low is None or high is None or not low < high or not math.isfinite(high - low):
        return None
    return (low, high, HISTOGRAM_BINS) if (np.diff(np.linspace(low, high, HISTOGRAM_BINS + 1)) > 0).all() else None


def _of_column(monitored: Monitored, found: Mapping[str, Any], counts: Counts) -> ColumnStatistics:
    plain = _plain_counts(monitored, counts)
    histogram = categories = why = None
    # An estimate may be more than there are.
    distinct, values = min(int(found["distinct"]), plain["count"]), counts.found
    if monitored.kind == "boolean":
        values = {bool(i): counts.bins[i] for i in (0, 1) if counts.bins[i]}
    low, high = found.get("min"), found.get("max")
    if not plain["count"]:
        why = "all values are null" if plain["nulls"] else "there are no rows"
    elif monitored.kind in ("number", "integer") and low is None:
        why = "all values are NaN or infinite"
    elif low is not None and low == high:
        why = f"it is constant ({low:g})"
    elif values is not None and len(values) == 1:
        why = f"it is constant ({str(next(iter(values)))[:60]!r})"
    elif monitored.kind in ("text", "boolean") or (monitored.kind == "integer" and values is not None and len(values) <= MOST_INTEGERS):
        distinct = distinct if values is None else len(values)
        categories = None if values is None else _categories(monitored, values)
        why = None if values is not None else f"it has about {distinct:,} different texts, more than {counting.MOST_VALUES:,}"
    elif (edges := _edges(low, high)) is None:
        why = f"the range from {low:g} to {high:g} cannot be divided into bins"
    else:
        histogram = _histogram(edges, counts)
    numbers = {name: found[name] for name in ("mean", "std", "min", "max") if _is_finite(found.get(name))}
    quantiles = {str(q): float(v) for q, v in zip(QUANTILES, found.get("quantiles") or (), strict=False)}
    return ColumnStatistics(
        monitored.role, monitored.type.simpleString(), **plain, **numbers, distinct=distinct, quantiles=quantiles,
        histogram=histogram, categories=categories, not_analysed=why,
    )  # fmt: skip


def _histogram(edges: tuple[float, float, int], counts: Counts) -> Histogram:
    low, high, size = edges
    under, *inside, over = counts.bins
    return Histogram(tuple(map(float, np.linspace(low, high, size + 1))), tuple(inside), under, over)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _categories(monitored: Monitored, values: Mapping[Any, int]) -> Categories:
    if monitored.kind == "text":
        ordered = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    else:
        ordered = [(_shown(monitored, value), count) for value, count in sorted(values.items())]
    told, rest = ordered[:MOST_CATEGORIES], ordered[MOST_CATEGORIES:]
    return Categories(tuple(value for value, _ in told), tuple(count for _, count in told), sum(count for _, count in rest))


def _shown(monitored: Monitored, value: Any) -> Any:
    """A category as the statistics have it: numbers were counted as doubles."""
    return bool(value) if monitored.kind == "boolean" else int(value) if isinstance(value, float) else value
