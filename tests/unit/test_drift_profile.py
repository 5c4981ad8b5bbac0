"""What columns of one type come to over the bins of a reference that had another."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pyspark.sql import types as T

from lakescore.drift import profile
from lakescore.drift.counting import Counter
from lakescore.drift.profile import Monitored
from lakescore.drift.statistics import Categories, ColumnStatistics, Histogram

NUMBERS = ColumnStatistics("feature", "double", 2, 0, histogram=Histogram((0.0, 1.0, 2.0), (1, 1)))
CODES = ColumnStatistics("feature", "int", 2, 0, categories=Categories((0, 1), (1, 1)))
TEXTS = ColumnStatistics("feature", "string", 2, 0, categories=Categories(("a", "b"), (1, 1)))


def _over(reference: ColumnStatistics, kind: T.DataType, values: list[Any]) -> ColumnStatistics:
    monitored = Monitored("x", "feature", kind, None)  # type: ignore[arg-type]  # Spark is not asked for the values
    bins = {"x": profile.bins_of(reference, monitored)}
    counter = Counter(bins)
    counter.update({"x": pd.Series(values)})
    return profile.from_counts(counter.counts, [monitored], bins, "a batch", len(values)).columns["x"]


def test_booleans_over_the_bins_of_numbers() -> None:
    found = _over(NUMBERS, T.BooleanType(), [True, False, None, True])
    assert found.histogram == Histogram((0.0, 1.0, 2.0), (1, 2))
    assert (found.nulls, found.mean, found.quantiles) == (1, None, {})


def test_booleans_and_doubles_over_the_categories_of_integers() -> None:
    assert _over(CODES, T.BooleanType(), [True, False, True]).categories == Categories((0, 1), (1, 2))
    assert _over(CODES, T.DoubleType(), [1.0, 0.5, None]).categories == Categories((0, 1), (0, 1), 1)


@pytest.mark.parametrize(("reference", "kind", "values"), [(TEXTS, T.DoubleType(), [1.0]), (NUMBERS, T.StringType(), ["a"])])
def test_text_and_numbers_are_not_compared(reference: ColumnStatistics, kind: T.DataType, values: list[Any]) -> None:
    found = _over(reference, kind, values)
    assert found.not_analysed == f"it is {kind.simpleString()}, which the reference has not"
    assert (found.count, found.nulls) == (1, 0)
