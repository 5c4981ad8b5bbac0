"""A classifier's probabilities as a probability and a label, and what is refused because it is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import infer_signature
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lakescore import classes, score
from lakescore.config import ClassesConfig
from lakescore.errors import ConfigError, LakescoreError, ModelError
from lakescore.failures import translated

Make = Callable[..., dict[str, Any]]
NAMES = {"probability": "logit_prob", "label": "sentiment"}


def _fitted(data: Any, folder: Path) -> tuple[str, Any, pd.DataFrame]:
    """A logistic regression on the first four columns: its URI, itself, and the rows, also as Parquet in ``folder``."""
    frame = data.data.iloc[:, :4].rename(columns=lambda name: name.split()[0] + name.split()[1])
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, data.target)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(frame, model.predict(frame)), serialization_format="cloudpickle"
        )
    folder.mkdir(parents=True, exist_ok=True)
    frame.assign(id=np.arange(len(frame))).to_parquet(folder / "rows.parquet", index=False)
    return info.model_uri, model, frame


@pytest.fixture(scope="module")
def two(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, pd.DataFrame, str]:
    folder = tmp_path_factory.mktemp("cancer")
    return *_fitted(load_breast_cancer(as_frame=True), folder), str(folder / "rows.parquet")


@pytest.fixture(scope="module")
def three(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, pd.DataFrame, str]:
    folder = tmp_path_factory.mktemp("iris")
    return *_fitted(load_iris(as_frame=True), folder), str(folder / "rows.parquet")


@pytest.mark.parametrize("output_format", ["delta", "jsonl"])
def test_two_classes_give_the_second_ones_probability_and_its_label_from_the_threshold_on(
    spark: SparkSession, config: Make, two: Any, tmp_path: Path, output_format: str
) -> None:
    uri, model, frame, path = two
    settings = config(
        model={"uri": uri, "predict_method": "predict_proba"},
        source={"path": path},
        output={
            "path": str(tmp_path / "out"),
            "format": output_format,
            "columns": ["id"],
            "classes": {"labels": ["negative", "positive"], "threshold": 0.8, **NAMES},
        },
    )

    result = score(settings, spark=spark)

    if output_format == "delta":
        found = DeltaTable(result.location).to_pandas()
        assert found.columns[:3].tolist() == ["id", "logit_prob", "sentiment"]
    else:
        found = pd.DataFrame([json.loads(line) for line in Path(result.location).read_text().splitlines()])
        assert found.columns.tolist() == ["time", "id", "logit_prob", "sentiment"]
    found = found.sort_values("id")
    expected = model.predict_proba(frame)[:, 1]
    np.testing.assert_allclose(found["logit_prob"], expected, rtol=1e-12)
    assert found["sentiment"].tolist() == np.where(found["logit_prob"] >= 0.8, "positive", "negative").tolist()
    assert set(found["sentiment"]) == {"positive", "negative"}


def test_more_classes_give_the_largest_probability_and_its_label(spark: SparkSession, config: Make, three: Any, tmp_path: Path) -> None:
    uri, model, frame, path = three
    labels = ["setosa", "versicolor", "virginica"]
    settings = config(model={"uri": uri, "predict_method": "predict_proba"}, source={"path": path})
    settings["output"]["classes"] = {"labels": labels}

    result = score(settings, spark=spark)

    found = DeltaTable(result.location).to_pandas().sort_values("id")
    expected = model.predict_proba(frame)
    np.testing.assert_allclose(found["probability"], expected.max(axis=1), rtol=1e-12)
    assert found["label"].tolist() == [labels[i] for i in expected.argmax(axis=1)]


def test_another_number_of_classes_is_refused_before_the_job(spark: SparkSession, config: Make, three: Any, tmp_path: Path) -> None:
    uri, _, _, path = three
    settings = config(model={"uri": uri, "predict_method": "predict_proba"}, source={"path": path})
    settings["output"]["classes"] = {"labels": ["negative", "positive"]}

    with pytest.raises(ModelError) as error:
        score(settings, spark=spark)

    assert str(error.value) == "output.classes.labels: lists 2 (negative, positive), and the model gave 3 number(s) for a row"
    assert not (tmp_path / "out").exists()


def test_a_class_index_is_no_probability(spark: SparkSession, config: Make, three: Any) -> None:
    uri, _, _, path = three
    settings = config(model={"uri": uri}, source={"path": path})
    settings["output"]["classes"] = {"labels": ["a", "b", "c"]}

    with pytest.raises(ConfigError) as error:
        score(settings, spark=spark)

    assert str(error.value) == (
        "output.classes.labels: needs probabilities, and the prediction is bigint; set model.predict_method=predict_proba, or leave the "
        "labels out"
    )


def test_a_prediction_that_has_a_name_too_is_refused(spark: SparkSession, config: Make, three: Any) -> None:
    uri, _, _, path = three
    settings = config(model={"uri": uri, "predict_method": "predict_proba"}, source={"path": path})
    settings["output"].update(classes={"labels": ["a", "b", "c"]}, prediction="p")

    with pytest.raises(ConfigError, match=r"^output.prediction and output.classes contradict each other; "):
        score(settings, spark=spark)


def test_a_column_of_the_source_with_the_labels_name_is_refused(spark: SparkSession, config: Make, three: Any) -> None:
    uri, _, _, path = three
    settings = config(model={"uri": uri, "predict_method": "predict_proba"}, source={"path": path})
    settings["output"]["classes"] = {"labels": ["a", "b", "c"], "label": "id"}

    with pytest.raises(LakescoreError, match="the column 'id' would be both a source column and a prediction"):
        score(settings, spark=spark)


def test_a_regression_is_no_probability(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    settings["output"]["classes"] = {"labels": ["low", "high"]}

    with pytest.raises(ModelError, match=r"^output.classes.labels: needs probabilities, and the model gave \d+\.\d+; set "):
        score(settings, spark=spark)


# --- value by value

_DOUBLES, _PAIR = T.ArrayType(T.DoubleType()), T.StructType().add("no", "double").add("yes", "float")


@pytest.mark.parametrize(
    ("labels", "value", "kind", "expected"),
    [
        (["n", "y"], 0.5, T.DoubleType(), (0.5, "y")),
        (["n", "y"], 0.4999, T.DoubleType(), (0.4999, "n")),
        (["n", "y"], float("nan"), T.DoubleType(), ("NaN", None)),
        (["n", "y"], None, T.DoubleType(), (None, None)),
        (["n", "y"], [0.9, 0.1], _DOUBLES, (0.1, "n")),
        (["n", "y"], None, _DOUBLES, (None, None)),
        (["n", "y"], (0.25, 0.75), _PAIR, (0.75, "y")),
        (["a", "b", "c"], [0.4, 0.4, 0.2], _DOUBLES, (0.4, "a")),
        (["a", "b", "c"], [0.1, 0.2, 0.7], _DOUBLES, (0.7, "c")),
        (["a", "b", "c"], [0.1, None, 0.7], _DOUBLES, (None, None)),
        (["a", "b", "c"], [0.1, float("nan"), 0.7], _DOUBLES, ("NaN", None)),
    ],
)
def test_a_prediction_becomes_a_probability_and_a_label(
    spark: SparkSession, labels: list[str], value: Any, kind: T.DataType, expected: tuple[Any, Any]
) -> None:
    config = ClassesConfig(labels=tuple(labels))
    df = spark.createDataFrame([(value,)], T.StructType([T.StructField("p", kind)]))
    classes.check(config, kind)

    row = df.select(*classes.columns(config, F.col("p"), kind)).first()

    assert row is not None
    assert (("NaN" if row[0] is not None and np.isnan(row[0]) else row[0]), row[1]) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [([-3.5, 12.0, 4.0], "b"), ([-0.1, -2.0, float("-inf")], "a"), ([7.0, 7.0, 1.0], "a"), ([1.0, float("nan"), 2.0], None), (None, None)],
)
def test_scores_of_any_size_become_a_label_where_it_is_written_alone(spark: SparkSession, value: Any, expected: str | None) -> None:
    config = ClassesConfig(labels=("a", "b", "c"), probability=None, label="digit")
    df = spark.createDataFrame([(value,)], T.StructType([T.StructField("p", _DOUBLES)]))

    found = df.select(*classes.columns(config, F.col("p"), _DOUBLES))

    assert found.columns == ["digit"]
    assert found.collect()[0]["digit"] == expected


def test_scores_are_refused_with_the_setting_that_takes_them(spark: SparkSession) -> None:
    df = spark.createDataFrame([([-3.5, 12.0, 4.0],)], T.StructType([T.StructField("p", _DOUBLES)]))

    written = df.select(*classes.columns(ClassesConfig(labels=("a", "b", "c")), F.col("p"), _DOUBLES))

    hint = r"of scores take the largest one's label: output\.classes\.probability=null$"
    with pytest.raises(LakescoreError, match=hint), translated("score", LakescoreError):
        written.collect()


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (["a", "b", "c"], T.DoubleType(), "lists 3 (a, b, c), and the model gives one number for each row, which tells two classes apart"),
        (["a", "b", "c"], _PAIR, "lists 3 (a, b, c), and the model has 2 output(s) (no, yes)"),
        (["a", "b"], T.StringType(), "needs probabilities, and the prediction is string"),
        (["a", "b"], T.ArrayType(T.LongType()), "needs probabilities, and the prediction is array<bigint>"),
    ],
)
def test_a_type_that_holds_no_probability_for_each_label_is_refused(labels: list[str], kind: T.DataType, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        classes.check(ClassesConfig(labels=tuple(labels)), kind)

    assert str(error.value).startswith(f"output.classes.labels: {message}")
