"""What a Python caller has in hand, scored without a detour over files: pandas, Arrow and Spark DataFrames, and rows of any kind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakescore import frames, inline_rows, read, score
from lakescore.compose import compose
from lakescore.errors import ConfigError, InputError
from lakescore.pipeline import dry_run

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("kind", ["pandas", "arrow", "spark"])
def test_a_dataframe_is_scored_as_the_model_scores_it_itself(
    spark: SparkSession, config: Make, store: str, linear_uri: str, diabetes: pd.DataFrame, features: list[str], kind: str
) -> None:
    indexed = diabetes.set_index(pd.Index(range(1000, 1000 + len(diabetes)), name="no_column"))
    data: Any = {
        "pandas": lambda: indexed,
        "arrow": lambda: pa.Table.from_pandas(diabetes, preserve_index=False),
        "spark": lambda: spark.createDataFrame(diabetes),
    }[kind]()

    result = score(config(model={"uri": linear_uri}), data=data, spark=spark)

    found = read(result).sort_values("id")
    assert found.columns[: len(diabetes.columns) + 1].tolist() == [*diabetes.columns, "prediction"]
    np.testing.assert_array_equal(found["prediction"], mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features]))
    run = mlflow.MlflowClient(store).get_run(result.run_id)
    assert run.data.params["source"] == f"dataframe ({kind})"
    assert run.data.params.get("source.rows") == (None if kind == "spark" else "442")
    assert run.data.metrics["rows_read"] == 442


def test_data_replaces_the_configured_source_and_can_be_filtered(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, diabetes_path: Path
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path), "filter": "id < 9"})

    result = score(settings, data=diabetes.head(20), spark=spark)

    assert result.rows_read == 9


def test_a_composed_configuration_takes_data_too(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, diabetes_path: Path
) -> None:
    composed = compose(values=config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}))

    assert score(composed, data=diabetes.head(3)).rows_read == 3


def test_a_dry_run_of_data_shows_its_features(spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame) -> None:
    plan = dry_run(config(model={"uri": linear_uri}), data=diabetes)

    assert plan.source.description == "dataframe (pandas)"


def test_columns_without_names_are_dropped_by_position(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, features: list[str]
) -> None:
    rows = diabetes[["id", *features]].head(5)
    names = {f"_c{i}": name for i, name in enumerate(["id", *features])}
    settings = config(model={"uri": linear_uri}, source={"rows": rows.to_numpy().tolist()}, columns={"drop": [0], "rename": names})

    found = read(score(settings, spark=spark))

    assert found.columns[:-7].tolist() == features
    expected = mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features].head(5))
    # A few rows at a time: BLAS sums in another order.
    np.testing.assert_allclose(np.sort(found["prediction"]), np.sort(expected), rtol=1e-12)


def test_rows_that_json_cannot_hold_are_scored_and_not_recorded(
    spark: SparkSession, config: Make, store: str, linear_uri: str, features: list[str]
) -> None:
    rows = [{**dict.fromkeys(features, np.float32(0.5)), "id": np.int64(i), "bytes": b"\xff"} for i in range(3)]
    settings = config(model={"uri": linear_uri}, source={"rows": rows})

    result = score(compose(values=settings), overrides=["run.batch_id=a"], spark=spark)

    assert result.rows_read == 3
    text = mlflow.artifacts.load_text(f"runs:/{result.run_id}/config.yaml")
    assert "rows: <3 inline>" in text


# --- what is refused


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1, 2]], "data: got a list or mapping; give rows as source.rows, as in score({'source': {'rows': [...]}, ...})"),
        ("x.csv", "data: got str; expected a pandas DataFrame, an Arrow table or a Spark DataFrame"),
        (np.zeros((2, 2)), "data: got ndarray; expected a pandas DataFrame, an Arrow table or a Spark DataFrame"),
    ],
)
def test_what_is_no_dataframe_is_refused(config: Make, linear_uri: str, data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        score(config(model={"uri": linear_uri}), data=data)

    assert str(error.value) == message


def test_source_data_without_data_is_refused(config: Make, linear_uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source.data: says what score\(..., data=...\) was given in Python, and nothing was; set"):
        score(config(model={"uri": linear_uri}, source={"data": "pandas"}))


def test_a_dataframe_of_another_session_is_refused(spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame) -> None:
    other = spark.newSession()

    with pytest.raises(ConfigError) as error:
        score(config(model={"uri": linear_uri}), data=other.createDataFrame(diabetes), spark=spark)

    assert str(error.value) == "data: the DataFrame is of another Spark session than the one given as spark=; leave spark= out"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pd.DataFrame({"a": [1, "x"]}), "data: column 'a': Could not convert 'x' with type str: tried to convert to int64"),
        (pd.DataFrame(), "data: there is no column in it"),
        (
            pd.DataFrame({("a", "b"): [1]}),
            "data: its columns have several levels; give each one name, for example by frame.columns.map('_'.join)",
        ),
        (
            pd.DataFrame({"a": np.array([2**64 - 1], dtype="uint64")}),
            "data: column 'a': Integer value 18446744073709551615 not in range: 0 to 9223372036854775807",
        ),
        (
            pa.table({"a": pa.array([1], pa.timestamp("ns"))}),
            "data: column 'a': Casting from timestamp[ns] to timestamp[us] would lose data: 1",
        ),
        (
            pd.DataFrame({"a": pd.period_range("2026-01", periods=1, freq="M")}),
            "data: column 'a' is pandas.period, which Spark has no type for; make it text, or drop it",
        ),
    ],
)
def test_values_that_spark_has_no_place_for_are_refused_by_column(spark: SparkSession, data: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        frames.to_spark(spark, data)

    assert str(error.value) == message


# --- types


def test_the_types_of_pandas_become_sparks(spark: SparkSession) -> None:
    frame = pd.DataFrame(
        {
            "real": [1.0, np.nan],
            "category": pd.Categorical(["x", None]),
            "whole": pd.array([1, None], dtype="Int64"),
            "time": pd.to_datetime(["2026-01-31 01:02:03.123456", None]),
            "day": [dt.date(2026, 1, 31), None],
            "text": pd.array(["q", None], dtype="string"),
            "small": np.array([1, 255], dtype="uint8"),
            "half": np.array([1, 2], dtype="float16"),
            "flag": pd.array([True, None], dtype="boolean"),
            "exact": [Decimal("1.5"), None],
            "list": [np.array([1, 2]), None],
            3: ["a", "b"],
        },
        index=["z", "y"],
    )

    df = frames.to_spark(spark, frame)

    assert df.schema.simpleString() == (
        "struct<real:double,category:string,whole:bigint,time:timestamp,day:date,text:string,small:smallint,half:float,flag:boolean,"
        "exact:decimal(2,1),list:array<bigint>,3:string>"
    )
    first, second = df.collect()
    assert tuple(first) == (
        1.0, "x", 1, dt.datetime(2026, 1, 31, 1, 2, 3, 123456), dt.date(2026, 1, 31), "q", 1, 1.0, True, Decimal("1.5"), [1, 2], "a",
    )  # fmt: skip
    assert tuple(second) == (None, None, None, None, None, None, 255, 2.0, None, None, None, "b")


def test_sparse_columns_and_views_are_their_values(spark: SparkSession) -> None:
    sparse = frames.to_spark(spark, pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 7])}))
    views = frames.to_spark(
        spark, pa.table({"text": pa.array(["ä", None], pa.string_view()), "raw": pa.array([b"1", b""], pa.binary_view())})
    )

    assert [row.a for row in sparse.collect()] == [0, 0, 7]
    assert views.dtypes == [("text", "string"), ("raw", "binary")]
    assert [(row.text, bytes(row.raw)) for row in views.collect()] == [("ä", b"1"), (None, b"")]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([np.int8(1), np.int64(2**40)], pa.int64(), [1, 2**40]),
        ([np.float64(1.5), 1], pa.float64(), [1.5, 1.0]),
        ([np.uint8(7)], pa.int64(), [7]),
        ([np.bool_(True), False], pa.bool_(), [True, False]),
        ([np.str_("a"), "b"], pa.string(), ["a", "b"]),
        ([np.datetime64("2026-01-31T01:02"), None], pa.timestamp("us"), [dt.datetime(2026, 1, 31, 1, 2), None]),
        ([pd.Timestamp("2026-01-31"), pd.NaT], pa.timestamp("us"), [dt.datetime(2026, 1, 31), None]),
        ([1, pd.NA], pa.int64(), [1, None]),
        ([None, None], pa.null(), [None, None]),
        ([[1], [2.5]], pa.list_(pa.float64()), [[1.0], [2.5]]),
        ([np.array([1.0, 2.0])], pa.list_(pa.float64()), [[1.0, 2.0]]),
        ([b"\xff"], pa.binary(), [b"\xff"]),
        ([Decimal("1.5"), Decimal("10.25")], pa.decimal128(4, 2), [Decimal("1.50"), Decimal("10.25")]),
    ],
)
def test_inline_values_of_every_kind_keep_what_they_are(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    made = inline_rows.table({"a": values}, None, [])

    assert made.column("a").type == kind
    assert made.column("a").to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([None, dt.date(2026, 1, 31), dt.datetime(2026, 1, 31, 17, 30)], "dates and times without a zone"),
        ([dt.datetime(2026, 1, 31), dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)], "times with a zone and times without a zone"),
    ],
)
def test_a_column_of_objects_that_mixes_dates_and_times_is_refused(values: list[Any], kinds: str) -> None:
    frame = pd.DataFrame({"a": pd.Series(values, dtype=object, index=[7] * len(values))})

    with pytest.raises(InputError, match=rf"^data: column 'a' mixes {kinds}; give values of one kind$"):
        frames._from_pandas(frame)


def test_nan_among_inline_values_stays_nan_and_none_is_null() -> None:
    made = inline_rows.table({"a": [float("nan"), None]}, None, []).column("a")

    assert (made.null_count, np.isnan(made[0].as_py())) == (1, True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"a": [dt.date(2026, 1, 31), dt.datetime(2026, 1, 31, 5)]},
            "column 'a' mixes dates and times without a zone; give values of one kind",
        ),
        (
            {"a": [dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc), dt.datetime(2026, 1, 31)]},
            "column 'a' mixes times with a zone and times without a zone; give values of one kind",
        ),
        ([{1: "x", "1": "y"}], "the name '1' is there twice, as text and as a number"),
        ({1: ["x"], "1": ["y"]}, "the name '1' is there twice, as text and as a number"),
    ],
)
def test_inline_values_that_would_be_changed_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        inline_rows.table(rows, None, [])

    assert str(error.value) == f"source.rows: {message}"
