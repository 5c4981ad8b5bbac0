"""The statistics of a data set as a small JSON file: what a model's training data looked like, or what a batch did.

::

    {"lakescore_statistics": 1, "rows": 60000, "source": "...", "columns": {
       "distance": {"role": "feature", "type": "double", "count": 59990, "nulls": 10, "nan": 0, "negative_infinite": 0,
                    "positive_infinite": 0, "mean": ..., "std": ..., "min": ..., "max": ..., "distinct": 214,
                    "quantiles": {"0.01": ..., ...},
                    "histogram": {"edges": [21 numbers], "counts": [20 numbers], "underflow": 0, "overflow": 0}},
       "carrier":  {"role": "feature", "type": "string", "count": 60000, ...,
                    "categories": {"values": ["AA", ...], "counts": [...], "other": 0}},
       "tailnum":  {..., "not_analysed": "4,037 distinct values ..."}}}

``count`` is what is left of ``rows`` without nulls; NaN and infinities are in it. Mean, std (of a sample, n - 1), min and max are of the
finite values; of text and booleans there are none. Dates are days, timestamps seconds since 1970 (UTC), booleans ``false`` and ``true``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lakescore.drift.counting import Counts
from lakescore.errors import InputError

FORMAT = 1
MARK = "lakescore_statistics"
# What the file is called where it is kept with a model.
FILE = "lakescore_statistics.json"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
ROLES = ("feature", "label", "prediction")


@dataclass(frozen=True)
class Histogram:
    """Equal-width bins: ``edges`` are one more than ``counts``; a value on an edge counts above it, on the last one below."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    underflow: int = 0
    overflow: int = 0


@dataclass(frozen=True)
class Categories:
    """Values with their counts, texts the most frequent first, numbers in order; ``other`` counts all the rest."""

    values: tuple[str | int | bool, ...]
    counts: tuple[int, ...]
    other: int = 0


@dataclass(frozen=True)
class ColumnStatistics:
    """One column; see the module.

    Attributes:
        role: ``feature``, ``label`` or ``prediction``.
        type: Spark's name of its type.
        count: rows that are not null; nan, negative_infinite and positive_infinite are among them.
        distinct: distinct values, approximate where they are many; None: not counted.
        not_analysed: why it has neither histogram nor categories.
    """

    role: str
    type: str
    count: int
    nulls: int
    nan: int = 0
    negative_infinite: int = 0
    positive_infinite: int = 0
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    distinct: int | None = None
    quantiles: Mapping[str, float] = field(default_factory=dict)
    histogram: Histogram | None = None
    categories: Categories | None = None
    not_analysed: str | None = None

    @property
    def rows(self) -> int:
        return self.count + self.nulls


@dataclass(frozen=True)
class Statistics:
    """All columns of one data set, by name; ``source`` says what it was."""

    rows: int
    columns: Mapping[str, ColumnStatistics]
    source: str = ""

    def to_json(self) -> str:
        tree = {MARK: FORMAT, "rows": self.rows, "source": self.source, "columns": {k: _to_tree(v) for k, v in self.columns.items()}}
        return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def moments(counts: Counts) -> dict[str, Any]:
    """Mean, std, min and max of the finite values that were counted; None where there are none, or a double cannot hold them."""
    n = counts.rows - counts.missing - counts.negative_infinite - counts.positive_infinite
    if n == 0 or counts.least is None:
        return {"mean": None, "std": None, "min": None, "max": None}
    variance = max(counts.squares - counts.total * counts.total / n, 0.0) / (n - 1) if n > 1 else 0.0
    found = {"mean": counts.origin + counts.total / n, "std": math.sqrt(variance), "min": counts.least, "max": counts.greatest}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def quantiles_of(histogram: Histogram, least: float | None, greatest: float | None) -> dict[str, float]:
    """Quantiles as a histogram tells them: linear within a bin, so exact to its width.

    Args:
        histogram: with values below and above it, if there are any.
        least, greatest: the outermost values, between which the outer bins lie.
    """
    counts = np.array([histogram.underflow, *histogram.counts, histogram.overflow], float)
    if not counts.sum() or least is None or greatest is None:
        return {}
    edges = np.array([min(least, histogram.edges[0]), *histogram.edges, max(greatest, histogram.edges[-1])])
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    # The first bin that reaches a share has its quantile; it is not empty, as those before it do not reach it.
    at = np.minimum(np.searchsorted(below[1:], QUANTILES), len(counts) - 1)
    share = (np.array(QUANTILES) - below[at]) / (below[at + 1] - below[at])
    found = np.clip(edges[at] * (1 - share) + edges[at + 1] * share, least, greatest)
    return {str(q): float(value) for q, value in zip(QUANTILES, found, strict=True)}


def from_json(text: str, where: str) -> Statistics:
    """Read and check a file of statistics.

    Args:
        text: what is in it.
        where: how an error names it.

    Raises:
        InputError: it is none, of a later version, or a column of it is malformed as a whole, naming the column. A histogram or categories
            that are malformed leave their column not analysed, with the reason.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(tree, dict) or MARK not in tree:
        raise InputError(f"{where} holds no statistics: {MARK!r} is not in it; make them with lakescore stats")
    if tree[MARK] != FORMAT:
        raise InputError(f"{where} has statistics of version {tree[MARK]!r}, and this Lakescore reads version {FORMAT}; make them anew")
    columns = tree.get("columns")
    if not isinstance(columns, dict) or not _is_count(tree.get("rows")):
        raise InputError(f"{where}: 'rows' must be a number of rows and 'columns' a mapping of column names")
    found = {name: _from_tree(column, f"{where}: column {name!r}") for name, column in columns.items()}
    return Statistics(tree["rows"], found, str(tree.get("source", "")))


_COUNTS = ("count", "nulls", "nan", "negative_infinite", "positive_infinite")
_NUMBERS = ("mean", "std", "min", "max")


def _to_tree(column: ColumnStatistics) -> dict[str, Any]:
    tree: dict[str, Any] = {"role": column.role, "type": column.type, **{name: getattr(column, name) for name in _COUNTS}}
    tree.update({name: value for name in (*_NUMBERS, "distinct") if (value := getattr(column, name)) is not None})
    if column.quantiles:
        tree["quantiles"] = dict(column.quantiles)
    if (histogram := column.histogram) is not None:
        sides = {"underflow": histogram.underflow, "overflow": histogram.overflow}
        tree["histogram"] = {"edges": list(histogram.edges), "counts": list(histogram.counts), **sides}
    if (categories := column.categories) is not None:
        tree["categories"] = {"values": list(categories.values), "counts": list(categories.counts), "other": categories.other}
    if column.not_analysed is not None:
        tree["not_analysed"] = column.not_analysed
    return tree


def _from_tree(tree: Any, where: str) -> ColumnStatistics:
    """A column that is badly formed as a whole is an error; one whose histogram is, is not analysed, and says why."""
    if not isinstance(tree, dict) or not all(_is_count(tree.get(name, 0)) for name in _COUNTS) or tree.get("role") not in ROLES:
        raise InputError(f"{where}: expected 'role' ({', '.join(ROLES)}), 'type' and the counts {', '.join(_COUNTS)}")
    why, histogram, categories = tree.get("not_analysed"), None, None
    quantiles: dict[str, float] = {}
    try:
        quantiles = {str(q): float(v) for q, v in _mapping(tree.get("quantiles", {})).items() if _is_number(v)}
        if why is None:
            histogram, categories = _histogram(tree.get("histogram")), _categories(tree.get("categories"))
            why = None if histogram or categories else "its statistics have neither histogram nor categories"
    except ValueError as error:
        why = f"its statistics are malformed: {error}"
    numbers = {name: float(tree[name]) for name in _NUMBERS if _is_number(tree.get(name))}
    return ColumnStatistics(
        role=tree["role"],
        type=str(tree.get("type", "")),
        **{name: tree.get(name, 0) for name in _COUNTS},
        mean=numbers.get("mean"),
        std=numbers.get("std"),
        min=numbers.get("min"),
        max=numbers.get("max"),
        distinct=tree["distinct"] if _is_count(tree.get("distinct")) else None,
        quantiles=quantiles,
        histogram=histogram,
        categories=categories,
        not_analysed=None if why is None else str(why),
    )


def _histogram(tree: Any) -> Histogram | None:
    if tree is None:
        return None
    tree = _mapping(tree)
    edges, counts = tree.get("edges"), tree.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1 or not counts:
        raise ValueError("a histogram has one edge more than counts")
    if not all(map(_is_number, edges)) or not (np.diff(edges := [float(edge) for edge in edges]) > 0).all():
        raise ValueError("the edges of a histogram are finite numbers that rise")
    if not np.allclose(np.diff(edges), (edges[-1] - edges[0]) / len(counts), rtol=1e-6):
        raise ValueError("the bins of a histogram have the same width")
    sides = [tree.get("underflow", 0), tree.get("overflow", 0)]
    _check_counts([*counts, *sides])
    return Histogram(tuple(edges), tuple(counts), *sides)


def _categories(tree: Any) -> Categories | None:
    if tree is None:
        return None
    tree = _mapping(tree)
    values, counts, other = tree.get("values"), tree.get("counts"), tree.get("other", 0)
    if not isinstance(values, list) or not isinstance(counts, list) or len(values) != len(counts) or not values:
        raise ValueError("categories have values and a count for each")
    kinds = {type(value) for value in values}
    if not (kinds in ({str}, {bool}) or (kinds == {int} and all(map(_is_exact, values)))) or len(set(values)) != len(values):
        raise ValueError("categories are distinct values, all texts, all booleans, or all whole numbers that a double holds")
    _check_counts([*counts, other])
    return Categories(tuple(values), tuple(counts), other)


def _check_counts(counts: list[Any]) -> None:
    if not all(map(_is_count, counts)):
        raise ValueError("counts are whole numbers from 0")
    if not sum(counts):
        raise ValueError("nothing was counted")


def _mapping(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError(f"expected a mapping, given {type(tree).__name__}")
    return tree


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    """Whether it is a number that a double can hold; NaN and infinity are none, and no JSON either."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_exact(value: Any) -> bool:
    """Whether the workers, which count categories of numbers and booleans as doubles, tell it from all others."""
    return isinstance(value, int) and abs(value) <= 2**53
