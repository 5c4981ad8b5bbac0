"""The columns: which stay, which reach the model, by name and in its order, and what is refused with the nearest name."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from chispa import assert_df_equality
from deltalake import DeltaTable
from mlflow.models import ModelSignature, infer_signature
from mlflow.types.schema import ColSpec, Schema
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.linear_model import LinearRegression

from lakescore import columns, score
from lakescore.columns import Alignment
from lakescore.config import ColumnsConfig
from lakescore.errors import ConfigError, InputError, LakescoreError, ModelError, OutputError
from lakescore.schema import Feature, Signature

Make = Callable[..., dict[str, Any]]
Log = Callable[..., str]
TABLE = "id long, a double, b double, s string, target long"
ODD_NAMES = ["a.b", "c d", "e`f", "g/h", "größe", "x,y;{}()=", "i'j", 'k"l', "100%"]


def signature_of(ddl: str, optional: Sequence[str] = ()) -> Signature:
    return Signature(tuple(Feature(field.name, field.dataType, field.name not in optional) for field in T.StructType.fromDDL(ddl)))


def plan(spark: SparkSession, source: str, inputs: str | Signature, case_sensitive: bool = False, **keys: Any) -> Alignment:
    signature = signature_of(inputs) if isinstance(inputs, str) else inputs
    return columns.plan(T.StructType.fromDDL(source), ColumnsConfig.model_validate(keys), signature, case_sensitive)


def refusal(spark: SparkSession, error: type[LakescoreError], source: str, inputs: str | Signature, **keys: Any) -> str:
    with pytest.raises(error) as caught:
        plan(spark, source, inputs, **keys)
    return str(caught.value)


def transformed(df: DataFrame, inputs: str, **keys: Any) -> DataFrame:
    """The kept columns, and the model's inputs as the struct ``features``."""
    alignment = columns.plan(df.schema, ColumnsConfig.model_validate(keys), signature_of(inputs), False)
    return columns.transform(df, alignment).select("*", columns.features(alignment).alias("features"))


@pytest.fixture(scope="module")
def witness(store: str) -> Log:
    """Log a model that predicts, as JSON, what it was given: ``witness(a="double", o="string?")``; a ``?`` makes an input optional."""

    class Witness(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return [json.dumps({name: str(value) for name, value in row.items()}) for row in model_input.to_dict("records")]

    def log(**inputs: str) -> str:
        specs = [ColSpec(kind.rstrip("?"), name, required=not kind.endswith("?")) for name, kind in inputs.items()]
        signature = ModelSignature(inputs=Schema(specs), outputs=Schema([ColSpec("string")]))
        with mlflow.start_run():
            info = mlflow.pyfunc.log_model(name="model", python_model=Witness(), signature=signature, pip_requirements=[])
        return str(info.model_uri)

    return log


def seen(spark: SparkSession, settings: Mapping[str, Any], order: str) -> list[dict[str, str]]:
    """What the model was given, row by row in the order of a column."""
    result = score(settings, spark=spark)
    rows = spark.read.format(settings["output"].get("format", "delta")).load(result.location).orderBy(order).collect()
    return [json.loads(row["prediction"]) for row in rows]


# Which columns stay


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({}, ("id", "a", "b", "s", "target")),
        ({"select": ["b", "a"]}, ("a", "b")),
        ({"select": ["a", "b"], "keys": "id", "labels": "target"}, ("id", "a", "b", "target")),
        ({"select": [1, 2]}, ("a", "b")),
        ({"drop": ["s", "id"]}, ("a", "b", "target")),
        ({"drop": "s"}, ("id", "a", "b", "target")),
        ({"drop": [3, 0]}, ("a", "b", "target")),
        ({"drop": 3}, ("id", "a", "b", "target")),
        ({"rename": {"s": "text"}, "drop": ["text"]}, ("id", "a", "b", "target")),
        ({"rename": {"a": "b", "b": "a"}}, ("id", "b", "a", "s", "target")),
    ],
)
def test_select_drop_keys_labels_and_rename_say_which_columns_stay(
    spark: SparkSession, keys: dict[str, Any], kept: tuple[str, ...]
) -> None:
    assert plan(spark, TABLE, "b double, a double", **keys).kept == kept


def test_columns_dropped_by_position_leave_the_others_of_a_headerless_file(spark: SparkSession) -> None:
    df = spark.createDataFrame([("7", "1.5", "x")], "_c0 string, _c1 string, _c2 string")

    made = transformed(df, "_c1 double", drop=[0, 2])

    assert_df_equality(made, spark.createDataFrame([("1.5", (1.5,))], "_c1 string, features struct<_c1: double>"), ignore_nullable=True)


def test_swapped_names_take_their_own_values(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1.0, 2.0)], "a double, b double")

    made = transformed(df, "a double", rename={"a": "b", "b": "a"})

    assert_df_equality(
        made, spark.createDataFrame([(1.0, 2.0, (2.0,))], "b double, a double, features struct<a: double>"), ignore_nullable=True
    )


def test_a_cast_changes_the_kept_column_and_the_input(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1.5, 7)], "a double, id long")

    made = transformed(df, "a float", cast={"a": "float", "id": "string"})

    assert_df_equality(
        made, spark.createDataFrame([(1.5, "7", (1.5,))], "a float, id string, features struct<a: float>"), ignore_nullable=True
    )


def test_a_cast_of_all_features_changes_the_inputs_only(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1.5, 2.5, 3.5)], "a double, b double, other double")

    made = transformed(df, "a float, b float", cast={"*": "float"})

    expected = spark.createDataFrame([(1.5, 2.5, 3.5, (1.5, 2.5))], "a double, b double, other double, features struct<a: float, b: float>")
    assert_df_equality(made, expected, ignore_nullable=True)


# Unknown and contradictory names


@pytest.mark.parametrize(
    ("error", "keys", "message"),
    [
        (InputError, {"select": ["targt"]}, "columns.select: there is no column 'targt'. Did you mean 'target'?"),
        (InputError, {"drop": ["ss"]}, "columns.drop: there is no column 'ss'. Did you mean 's'?"),
        (InputError, {"drop": ["ID"]}, "columns.drop: there is no column 'ID'. Did you mean 'id'?"),
        (InputError, {"drop": ["nothing"]}, "columns.drop: there is no column 'nothing'. The source has id, a, b, s, target."),
        (InputError, {"drop": [5]}, "columns.drop: position 5 is beyond the last column; the source has 5, counted from 0"),
        (InputError, {"keys": ["idd"]}, "columns.keys: there is no column 'idd'. Did you mean 'id'?"),
        (InputError, {"labels": ["targt"]}, "columns.labels: there is no column 'targt'. Did you mean 'target'?"),
        (InputError, {"rename": {"idd": "x"}}, "columns.rename: there is no column 'idd'. Did you mean 'id'?"),
        (InputError, {"cast": {"targt": "double"}}, "columns.cast: there is no column 'targt'. Did you mean 'target'?"),
        (
            ConfigError,
            {"cast": {"a": "duble"}},
            "columns.cast.a: got 'duble'; expected a Spark type such as double, long, string or date",
        ),
        (ConfigError, {"drop": ["s", 3]}, "columns.drop: 's' is listed twice"),
        (ConfigError, {"select": ["a", "b"], "drop": ["a"]}, "columns.select and columns.drop contradict each other: both list 'a'"),
        (ConfigError, {"select": ["a", "s"], "labels": ["s"]}, "columns.select and columns.labels contradict each other: both list 's'"),
        (ConfigError, {"drop": ["id"], "keys": ["id"]}, "columns.drop and columns.keys contradict each other: both list 'id'"),
        (ConfigError, {"drop": ["s"], "labels": ["s"]}, "columns.drop and columns.labels contradict each other: both list 's'"),
        (ConfigError, {"keys": ["id"], "labels": ["id"]}, "columns.keys and columns.labels contradict each other: both list 'id'"),
        (ConfigError, {"labels": ["a"]}, "columns.labels: 'a' is an input of the model and cannot be a label"),
        (InputError, {"drop": ["a"]}, "columns: 'a' is an input of the model, and columns.select or columns.drop leaves it out"),
        (InputError, {"select": ["a"]}, "columns: 'b' is an input of the model, and columns.select or columns.drop leaves it out"),
        (
            InputError,
            {"rename": {"s": "a"}},
            "columns.rename: the column 'a' is there twice, and Spark could not tell which is meant; rename one",
        ),
    ],
)
def test_names_that_are_unknown_or_contradict_each_other_are_refused(
    spark: SparkSession, error: type[LakescoreError], keys: dict[str, Any], message: str
) -> None:
    assert refusal(spark, error, TABLE, "b double, a double", **keys) == message


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        (
            "agee double, id long",
            "age double",
            "the source has no column 'age' (double), which the model needs. Did you mean 'agee'? If so: columns.rename={agee: age}.",
        ),
        (
            "age double, id long",
            "Age double",
            "the source has no column 'Age' (double), which the model needs. Did you mean 'age'? If so: columns.rename={age: Age}.",
        ),
        (
            "income1 double",
            "income1 double, income2 double",
            "the source has no column 'income2' (double), which the model needs. The source has income1.",
        ),
        (
            "`it's` double",
            "its double",
            "the source has no column 'its' (double), which the model needs. Did you mean \"it's\"? If so: columns.rename={it's: its}.",
        ),
        (
            "`petal length` double, `petal width` double, id long",
            "petal_length double, petal_width double",
            "the source has no column 'petal_length' (double), which the model needs. Did you mean 'petal length'? "
            "If so: columns.rename={petal length: petal_length, petal width: petal_width}.",
        ),
    ],
)
def test_a_missing_input_is_named_with_the_nearest_column_that_is_no_input_itself(
    spark: SparkSession, source: str, inputs: str, message: str
) -> None:
    assert refusal(spark, InputError, source, inputs) == message


def test_columns_that_differ_only_by_case_are_refused_unless_spark_tells_them_apart(spark: SparkSession) -> None:
    message = refusal(spark, InputError, "a double, A double", "a double")

    assert message == (
        "the source: the column 'A' is there as 'a' and 'A', and Spark could not tell which is meant; rename one, or set "
        "spark.conf.spark.sql.caseSensitive=true"
    )
    assert plan(spark, "a double, A double", "a double", case_sensitive=True).kept == ("a", "A")


def test_a_column_of_nulls_without_a_type_is_refused_unless_it_is_an_input(spark: SparkSession) -> None:
    df = spark.sql("SELECT NULL AS a, CAST(NULL AS ARRAY<VOID>) AS v")

    made = transformed(df, "a double, v array<double>")

    expected = spark.createDataFrame(
        [(None, None, (None, None))], "a double, v array<double>, features struct<a: double, v: array<double>>"
    )
    assert_df_equality(made, expected, ignore_nullable=True)
    assert refusal(spark, InputError, "a double, n void", "a double") == (
        "column 'n' has no type, because all its values are null: columns.cast={n: string}, or drop it"
    )


# What reaches the model


def test_inputs_are_the_models_in_its_order_whatever_the_sources_order(spark: SparkSession) -> None:
    df = spark.createDataFrame([("x", 1.0, 2.0)], "s string, a double, b double")

    made = transformed(df, "b double, a double").select("features")

    assert_df_equality(made, spark.createDataFrame([((2.0, 1.0),)], "features struct<b: double, a: double>"), ignore_nullable=True)


def test_a_dotted_column_is_not_a_field_of_a_struct(spark: SparkSession) -> None:
    df = spark.createDataFrame([((5.0,), 1.0)], "a struct<b: double>, `a.b` double")

    made = transformed(df, "`a.b` double")

    expected = spark.createDataFrame([((5.0,), 1.0, (1.0,))], "a struct<b: double>, `a.b` double, features struct<`a.b`: double>")
    assert_df_equality(made, expected, ignore_nullable=True)


def test_safe_conversions_are_made_and_listed(spark: SparkSession) -> None:
    inputs = "i double, f double, d double, day timestamp, t double, n long, flag boolean, at timestamp, v array<double>"
    df = spark.createDataFrame(
        [(1, 1.5, 2, dt.date(2026, 1, 31), "5", " 7 ", "true", "2026-01-31 10:00:00", [1, 2])],
        "i int, f float, d int, day date, t string, n string, flag string, at string, v array<int>",
    ).withColumn("d", F.col("d").cast("decimal(5,2)"))

    alignment = columns.plan(df.schema, ColumnsConfig(), signature_of(inputs), False)

    values = columns.transform(df, alignment).select(columns.features(alignment).alias("features")).collect()[0]["features"]
    midnight, ten = dt.datetime(2026, 1, 31), dt.datetime(2026, 1, 31, 10)
    assert tuple(values) == (1.0, 1.5, 2.0, midnight, 5.0, 7, True, ten, [1.0, 2.0])
    assert [str(one) for one in alignment.inputs] == [
        "i: int -> double",
        "f: float -> double",
        "d: decimal(5,2) -> double",
        "day: date -> timestamp",
        "t: string -> double",
        "n: string -> bigint",
        "flag: string -> boolean",
        "at: string -> timestamp",
        "v: array<int> -> array<double>",
    ]


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        (
            "a double",
            "a float",
            "column 'a' is double and the model needs float; there is no safe cast. If it is right to convert it: columns.cast={a: float} "
            "(or columns.cast={'*': float} for all features of this type)",
        ),
        (
            "a bigint",
            "a int",
            "column 'a' is bigint and the model needs int; there is no safe cast. If it is right to convert it: columns.cast={a: int} "
            "(or columns.cast={'*': int} for all features of this type)",
        ),
        (
            "a map<string,int>",
            "a double",
            "column 'a' is map<string,int> and the model needs double; there is no safe cast. Convert it before (source.query), or log the "
            "model with this input's type",
        ),
    ],
)
def test_a_conversion_that_is_not_safe_is_refused_with_the_way_to_ask_for_it(
    spark: SparkSession, source: str, inputs: str, message: str
) -> None:
    assert refusal(spark, InputError, source, inputs) == message


def test_a_cast_to_what_the_model_does_not_take_is_refused(spark: SparkSession) -> None:
    assert refusal(spark, InputError, "a float", "a float", cast={"a": "double"}).startswith(
        "column 'a' is double and the model needs float; there is no safe cast."
    )


def test_inputs_without_names_are_the_selected_or_all_other_columns_in_order(spark: SparkSession) -> None:
    signature = Signature(unnamed=(T.DoubleType(), T.DoubleType()))

    selected = plan(spark, "a double, b double, id long", signature, select=["b", "a"])
    others = plan(spark, "a double, b double, id long", signature, keys=["id"])

    assert [one.column for one in selected.inputs] == ["b", "a"]
    assert [one.column for one in others.inputs] == ["a", "b"]


def test_the_fields_of_json_have_no_order_for_inputs_without_names(
    spark: SparkSession, config: Callable[..., dict[str, Any]], store: str, tmp_path: Path
) -> None:
    rows = np.array([[5.0, 1.0, 30.0], [6.0, 2.0, 40.0], [7.0, 1.0, 20.0], [8.0, 5.0, 10.0]])
    model = LinearRegression().fit(rows, rows @ [100.0, 10.0, 1.0])
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(model, name="m", signature=infer_signature(rows, rows[:, 0])).model_uri
    (tmp_path / "a.jsonl").write_text('{"sepal": 5.0, "petal": 1.0, "age": 30.0}\n')
    settings = config(model={"uri": uri}, source={"path": str(tmp_path / "a.jsonl")})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)
    with pytest.raises(ConfigError, match=r"^columns\.select: takes names here and no positions, because JSON objects have no order"):
        score(settings, overrides=["columns.select=[0, 1, 2]"], spark=spark)

    assert str(caught.value) == (
        "columns.select: is required, because the model takes 3 input(s) without names, and JSON objects have no order (Spark sorts their "
        "fields by name; source.schema gives them one); list the features in the model's order"
    )
    for batch_id, given in (("a", "columns.select=[sepal, petal, age]"), ("b", "source.schema='sepal double, petal double, age double'")):
        result = score(settings, overrides=[given, f"run.batch_id={batch_id}"], spark=spark)
        found = DeltaTable(result.location).to_pandas()
        assert found.loc[found["batch_id"] == batch_id, "prediction"].tolist() == pytest.approx([540.0])


def test_inputs_without_names_of_another_number_are_refused(spark: SparkSession) -> None:
    signature = Signature(unnamed=(T.DoubleType(),) * 3)

    assert refusal(spark, InputError, "a double, b double", signature) == (
        "the model takes 3 input(s) without names; without columns.select all remaining columns are taken, which are 2 (a, b). List the "
        "features in the model's order in columns.select"
    )


def test_a_model_without_a_signature_takes_what_is_selected_and_nothing_else(spark: SparkSession) -> None:
    assert refusal(spark, ModelError, "a double, b double", Signature()) == (
        "columns.select: is required, because the model's signature declares no inputs; list the features in the model's order"
    )
    assert [one.column for one in plan(spark, "a double, b double", Signature(), select=["b"]).inputs] == ["b"]


# Whole runs


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_odd_names_reach_the_model_and_come_back_unchanged(spark: SparkSession, config: Make, witness: Log, output_format: str) -> None:
    values = {name: float(i) for i, name in enumerate(ODD_NAMES)}
    fields = [T.StructField("a", T.StructType([T.StructField("b", T.DoubleType()), T.StructField("odd b", T.DoubleType())]))]
    schema = T.StructType([*fields, *(T.StructField(name, T.DoubleType()) for name in ODD_NAMES)])
    spark.createDataFrame([((99.0, 98.0), *values.values())], schema).createOrReplaceTempView("odd")
    settings = config(model={"uri": witness(**dict.fromkeys(ODD_NAMES, "double"))}, source={"table": "odd"})
    settings["output"]["format"] = output_format

    result = score(settings, spark=spark)

    written = spark.read.format(output_format).load(result.location)
    row = written.collect()[0].asDict(recursive=True)
    assert written.columns[: len(schema) + 1] == ["a", *ODD_NAMES, "prediction"]
    assert {name: row[name] for name in ("a", *ODD_NAMES)} == {"a": {"b": 99.0, "odd b": 98.0}, **values}
    assert json.loads(row["prediction"]) == {name: str(value) for name, value in values.items()}


def test_three_hundred_features_arrive_by_name_in_the_models_order_and_extra_columns_do_not(
    spark: SparkSession, config: Make, witness: Log, tmp_path: Path
) -> None:
    names = [f"f{i:03d}" for i in range(300)]
    reversed_columns = [f"CAST(id + {i} AS DOUBLE) AS {name}" for i, name in reversed(list(enumerate(names)))]
    spark.range(2).selectExpr("id", "'x' AS extra", *reversed_columns).write.parquet(str(tmp_path / "wide"))
    settings = config(model={"uri": witness(**dict.fromkeys(names, "double"))}, source={"path": str(tmp_path / "wide")})

    given = seen(spark, settings, order="id")

    assert [list(row.items()) for row in given] == [[(name, str(float(i + row))) for i, name in enumerate(names)] for row in (0, 1)]


def test_absent_optional_inputs_are_null_and_absent_optional_integers_are_left_out(spark: SparkSession, config: Make, witness: Log) -> None:
    uri = witness(a="double", s="string?", d="double?", flag="boolean?", at="datetime?", n="long?", i="integer?")
    settings = config(model={"uri": uri}, source={"rows": [{"id": 1, "a": 1.5}]})

    assert seen(spark, settings, order="id") == [{"a": "1.5", "s": "None", "d": "nan", "flag": "None", "at": "NaT"}]


def test_a_null_integer_is_refused_and_nothing_is_written(spark: SparkSession, config: Make, witness: Log) -> None:
    settings = config(model={"uri": witness(n="long")}, source={"rows": [{"id": 1, "n": 2**53 + 1}, {"id": 2, "n": None}]})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == (
        "column 'n': 1 null value(s) in a batch, and the model takes it as an integer, which cannot be null in pandas; fill it, filter "
        "those rows, or make it a double: by columns.cast for a model without a signature, else by logging the model with this input as "
        "double"
    )
    assert not Path(settings["output"]["path"]).exists()


def test_nulls_of_other_types_change_no_other_row(spark: SparkSession, config: Make, witness: Log) -> None:
    uri = witness(n="long", d="double", s="string", flag="boolean", at="datetime")
    rows = [
        {"id": 1, "n": 2**53 + 1, "d": 1.5, "s": "x", "flag": True, "at": "2026-01-31 10:00:00"},
        {"id": 2, "n": 0, "d": None, "s": None, "flag": None, "at": None},
    ]

    given = seen(spark, config(model={"uri": uri}, source={"rows": rows}), order="id")

    assert given == [
        {"n": "9007199254740993", "d": "1.5", "s": "x", "flag": "True", "at": "2026-01-31 10:00:00"},
        {"n": "0", "d": "nan", "s": "None", "flag": "None", "at": "NaT"},
    ]


def test_text_that_does_not_parse_fails_the_run_and_leaves_the_table_as_it_was(spark: SparkSession, config: Make, witness: Log) -> None:
    uri = witness(a="double")
    score(config(model={"uri": uri}, source={"rows": [{"a": " 12 "}]}), spark=spark)
    settings = config(model={"uri": uri}, source={"rows": [{"a": "1.5"}] * 50 + [{"a": "1.5d"}]})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == "column 'a': '1.5d' is not a value of type double, which is needed"
    assert DeltaTable(settings["output"]["path"]).version() == 0


@pytest.mark.parametrize(
    ("name", "what"),
    [("prediction", "a prediction"), ("Run_ID", "a column of the run's record"), ("score_date", "a column of the run's record")],
)
def test_a_source_column_that_the_output_needs_is_refused_by_name(
    spark: SparkSession, config: Make, linear_uri: str, features: list[str], name: str, what: str
) -> None:
    settings = config(model={"uri": linear_uri}, source={"rows": [{**dict.fromkeys(features, 0.5), name: 1}]})

    with pytest.raises(OutputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == (
        f"output: the column '{name}' would be both a source column and {what}; rename the source's column (columns.rename)"
        + (
            f", drop it (columns.drop=[{name}]), or set output.prediction"
            if what == "a prediction"
            else f" or drop it (columns.drop=[{name}])"
        )
    )
    assert not Path(settings["output"]["path"]).exists()


def test_a_source_column_that_the_pipeline_needs_is_refused_by_name(
    spark: SparkSession, config: Make, linear_uri: str, features: list[str]
) -> None:
    settings = config(model={"uri": linear_uri}, source={"rows": [{**dict.fromkeys(features, 0.5), "__lakescore_prediction": 1}]})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == (
        "the source: the column '__lakescore_prediction' has a name that Lakescore uses itself; rename (columns.rename) or drop it"
    )
