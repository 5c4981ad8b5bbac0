"""What Spark counts is what numpy counts, for every type and however the rows are spread."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakescore.drift import profile
from lakescore.drift.profile import Monitored
from lakescore.drift.statistics import ColumnStatistics
from lakescore.schema import column

ROWS = 5_000
EXPRESSIONS = {
    "integer": "cast(i as int)",
    "decimal": "cast(d * 100 as decimal(12, 3))",
    "day": "date_add(date'2020-02-01', cast(i as int))",
    "time": "timestamp_seconds(i * 3600)",
    "local": "timestamp_ntz'2020-01-01' + make_interval(0, 0, 0, i)",
    "boolean": "i % 3 = 0",
    "text": "concat('t', i % 7)",
    "small": "cast(i % 5 as int)",
    "gaps": "case when i % 10 = 0 then null when i % 10 = 1 then double('nan') when i % 10 = 2 then double('-inf') else d end",
    "array": "array(d)",
    "constant": "1.5d",
    "same": "'one'",
    "never": "cast(null as double)",
    "not_finite": "double('inf')",
    "words": "concat(d, uuid())",
}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    generator = np.random.default_rng(3)
    frame = pd.DataFrame({"d": generator.normal(size=ROWS), "i": generator.integers(0, 900, ROWS)})
    made = spark.createDataFrame(frame).select("*", *[F.expr(text).alias(name) for name, text in EXPRESSIONS.items()])
    return made.localCheckpoint()


def _monitored(df: DataFrame) -> list[Monitored]:
    return [Monitored(field.name, "feature", field.dataType, partial(column, field.name)) for field in df.schema.fields]


def _numbers(df: DataFrame, name: str) -> np.ndarray[Any, Any]:
    """A column as numpy has it: days and seconds since 1970."""
    values = df.select(name).toPandas()[name]
    if name == "day":
        return (pd.to_datetime(values) - pd.Timestamp("1970-01-01")).dt.days.to_numpy(float)
    if name in ("time", "local"):
        return pd.to_datetime(values).astype("datetime64[us]").astype("int64").to_numpy() / 1e6
    return values.astype(float).to_numpy()


@pytest.mark.parametrize("partitions", [1, 7])
def test_statistics_are_those_of_numpy(rows: DataFrame, partitions: int) -> None:
    df = rows.repartition(partitions)
    found = profile.statistics_of(df, _monitored(df), "rows")
    assert found.rows == ROWS
    for name in ("d", "i", "decimal", "day", "time", "local"):
        values, statistics = _numbers(rows, name), found.columns[name]
        counts, edges = np.histogram(values, bins=20)
        assert statistics.histogram is not None, name
        assert statistics.histogram.counts == tuple(counts), name
        assert statistics.histogram.edges == tuple(edges), name
        assert statistics.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-9), name
        assert statistics.std == pytest.approx(values.std(ddof=1), rel=1e-9), name
        assert (statistics.min, statistics.max) == (values.min(), values.max()), name
        assert statistics.quantiles["0.5"] == pytest.approx(np.quantile(values, 0.5), abs=np.ptp(values) / 100), name
    i = _numbers(rows, "i").astype(int)
    expected = {
        "boolean": {False: int((i % 3 != 0).sum()), True: int((i % 3 == 0).sum())},
        "small": {value: int((i % 5 == value).sum()) for value in range(5)},
        "text": {f"t{value}": int((i % 7 == value).sum()) for value in range(7)},
    }
    for name, counts_by_value in expected.items():
        categories = found.columns[name].categories
        assert categories is not None, name
        assert dict(zip(categories.values, categories.counts, strict=True)) == counts_by_value, name
        assert found.columns[name].distinct == len(counts_by_value)


@pytest.mark.parametrize("partitions", [1, 7])
def test_other_data_is_counted_over_the_same_bins(rows: DataFrame, partitions: int) -> None:
    reference = profile.statistics_of(rows.where("i < 600"), _monitored(rows), "reference")
    df = rows.repartition(partitions)
    found = profile.compared(df, _monitored(df), reference, "batch")
    for name in ("d", "i", "decimal", "day", "time", "local"):
        values, bins = _numbers(rows, name), reference.columns[name].histogram
        histogram = found.columns[name].histogram
        assert bins is not None
        assert histogram is not None
        assert histogram.edges == bins.edges
        assert histogram.counts == tuple(np.histogram(values, bins=np.array(bins.edges))[0]), name
        assert histogram.underflow == (values < bins.edges[0]).sum(), name
        assert histogram.overflow == (values > bins.edges[-1]).sum(), name
    assert found.columns["day"].histogram.overflow > 0  # type: ignore[union-attr]


def test_a_category_that_the_reference_has_not_is_another(rows: DataFrame) -> None:
    reference = profile.statistics_of(rows.where("i % 7 < 4 and i % 5 < 3"), _monitored(rows), "reference")
    found = profile.compared(rows, _monitored(rows), reference, "batch")
    i = _numbers(rows, "i").astype(int)
    assert found.columns["text"].categories.other == (i % 7 >= 4).sum()  # type: ignore[union-attr]
    assert found.columns["small"].categories.other == (i % 5 >= 3).sum()  # type: ignore[union-attr]


def test_null_nan_and_infinity_are_apart(rows: DataFrame) -> None:
    i = _numbers(rows, "i").astype(int)
    reference = profile.statistics_of(rows, _monitored(rows), "reference")
    for statistics in (reference, profile.compared(rows, _monitored(rows), reference, "batch")):
        gaps = statistics.columns["gaps"]
        assert gaps.nulls == (i % 10 == 0).sum()
        assert gaps.nan == (i % 10 == 1).sum()
        assert gaps.negative_infinite == (i % 10 == 2).sum()
        assert gaps.positive_infinite == 0
        assert gaps.histogram is not None
        assert sum(gaps.histogram.counts) == (i % 10 > 2).sum()
        assert gaps.count == ROWS - gaps.nulls


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("array", "array<double> is no single value"),
        ("constant", "constant (1.5)"),
        ("same", "constant ('one')"),
        ("never", "all values are null"),
        ("not_finite", "all values are NaN or infinite"),
        ("words", "different texts"),
    ],
)
def test_what_cannot_be_compared_says_why(rows: DataFrame, name: str, why: str) -> None:
    df = rows.select(name)
    found = profile.statistics_of(df, _monitored(df), "reference").columns[name]
    assert why in str(found.not_analysed)
    assert found.histogram is None
    assert found.categories is None


@pytest.mark.long
def test_many_columns_fit_into_the_memory_that_spark_has_by_default(spark: SparkSession) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 200)), columns=[f"c{i}" for i in range(200)])
    df = spark.createDataFrame(frame)
    found = profile.statistics_of(df, [Monitored(f.name, "feature", f.dataType, partial(column, f.name)) for f in df.schema.fields], "wide")
    assert found.rows == len(frame)
    assert {name: column.max for name, column in found.columns.items()} == frame.max().to_dict()
    assert all(column.distinct == pytest.approx(len(frame), rel=0.2) for column in found.columns.values())


def test_no_rows_and_one_row(rows: DataFrame) -> None:
    df = rows.select("d", "text", "boolean")
    nothing = profile.statistics_of(df.limit(0), _monitored(df), "nothing")
    assert nothing.rows == 0
    assert {column.not_analysed for column in nothing.columns.values()} == {"there are no rows"}
    one = profile.statistics_of(df.limit(1), _monitored(df), "one")
    assert all("constant" in str(column.not_analysed) for column in one.columns.values())


@pytest.mark.parametrize("values", [[5e-324, 1e-323], [-1.7e308, 1.7e308], [1.0, 1.0 + 2**-52]])
def test_ranges_that_have_no_room_for_bins(spark: SparkSession, values: list[float]) -> None:
    df = spark.createDataFrame(pd.DataFrame({"x": values}))
    found: ColumnStatistics = profile.statistics_of(df, _monitored(df), "odd").columns["x"]
    assert "cannot be divided into bins" in str(found.not_analysed)


def test_a_column_of_another_kind_is_not_analysed(spark: SparkSession, rows: DataFrame) -> None:
    reference = profile.statistics_of(rows.select("d", "text"), _monitored(rows.select("d", "text")), "reference")
    df = rows.select(F.col("d").cast("string").alias("d"), F.col("i").alias("text"))
    found = profile.compared(df, _monitored(df), reference, "batch")
    assert found.columns["d"].not_analysed == "it is string, which the reference has not"
    assert found.columns["text"].not_analysed == "it is bigint, which the reference has not"


def test_names_that_spark_would_parse(spark: SparkSession) -> None:
    df = spark.createDataFrame(pd.DataFrame({"a.b": [1.0, 2.0], "c`d": [1.0, 3.0], "c0": [0.0, 9.0]}))
    found = profile.statistics_of(df, _monitored(df), "odd")
    assert {name: one.max for name, one in found.columns.items()} == {"a.b": 2.0, "c`d": 3.0, "c0": 9.0}
