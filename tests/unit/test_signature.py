"""An MLflow signature in Spark's types: the features by name, and what one row's prediction is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Map, Object, ParamSchema, ParamSpec, Property, Schema, TensorSpec
from pyspark.sql import types as T
from sklearn.linear_model import LogisticRegression

from lakescore.errors import ModelError
from lakescore.models.signature import convert
from lakescore.schema import Feature, Signature, Tensor

FLOAT = np.dtype("float32")
ANYTHING = Schema([ColSpec("double", "a")])


def inputs(*specs: Any) -> Signature:
    return convert(ModelSignature(inputs=Schema(list(specs))))


def result(*specs: Any) -> T.DataType | None:
    return convert(ModelSignature(inputs=ANYTHING, outputs=Schema(list(specs)))).result


def test_a_model_without_a_signature_declares_nothing() -> None:
    assert convert(None) == Signature(features=None, unnamed=None, result=None, params=())


def test_named_columns_become_features_in_their_order() -> None:
    found = inputs(ColSpec("double", "b"), ColSpec("string", "a", required=False))

    assert found.features == (Feature("b", T.DoubleType(), True), Feature("a", T.StringType(), False))
    assert found.unnamed is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (DataType.boolean, T.BooleanType()),
        (DataType.integer, T.IntegerType()),
        (DataType.long, T.LongType()),
        (DataType.float, T.FloatType()),
        (DataType.double, T.DoubleType()),
        (DataType.string, T.StringType()),
        (DataType.binary, T.BinaryType()),
        (DataType.datetime, T.TimestampType()),
        (Array(DataType.long), T.ArrayType(T.LongType())),
        (Array(Array(DataType.double)), T.ArrayType(T.ArrayType(T.DoubleType()))),
        (Map(DataType.double), T.MapType(T.StringType(), T.DoubleType())),
        (Object([Property("x", DataType.double)]), T.StructType([T.StructField("x", T.DoubleType())])),
    ],
)
def test_a_columns_type_is_the_same_as_input_and_as_prediction(kind: Any, expected: T.DataType) -> None:
    found = inputs(ColSpec(kind, "a"))

    assert found.features == (Feature("a", expected),)
    assert result(ColSpec(kind)) == expected


def test_columns_without_names_are_known_by_their_types() -> None:
    found = inputs(ColSpec("double"), ColSpec("string"))

    assert (found.features, found.unnamed) == (None, (T.DoubleType(), T.StringType()))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1,), (T.FloatType(),)),
        ((-1, 3), (T.FloatType(),) * 3),
        ((-1, -1), (T.ArrayType(T.FloatType()),)),
        ((-1, 28, 28), (T.ArrayType(T.FloatType()),)),
    ],
)
def test_a_tensor_without_a_name_is_columns_or_one_array(shape: tuple[int, ...], expected: tuple[T.DataType, ...]) -> None:
    assert inputs(TensorSpec(FLOAT, shape)).unnamed == expected


def test_named_tensors_are_scalars_and_flat_arrays() -> None:
    found = inputs(TensorSpec(FLOAT, (-1,), "age"), TensorSpec(np.dtype("int64"), (-1, 28, 28), "image"))

    image = Feature("image", T.ArrayType(T.LongType()), tensor=Tensor((28, 28), "int64"))
    assert found.features == (Feature("age", T.FloatType()), image)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1,), T.FloatType()),
        ((-1, 1), T.ArrayType(T.FloatType())),
        ((-1, 2, 2), T.ArrayType(T.ArrayType(T.FloatType()))),
    ],
)
def test_a_tensor_as_prediction_keeps_its_dimensions(shape: tuple[int, ...], expected: T.DataType) -> None:
    assert result(TensorSpec(FLOAT, shape)) == expected


def test_several_outputs_become_a_struct() -> None:
    expected = T.StructType([T.StructField("label", T.LongType()), T.StructField("scores", T.ArrayType(T.FloatType()))])

    assert result(TensorSpec(np.dtype("int64"), (-1,), "label"), TensorSpec(FLOAT, (-1, 3), "scores")) == expected


def test_several_outputs_without_names_are_numbered() -> None:
    assert result(ColSpec("double"), ColSpec("string")) == T.StructType(
        [T.StructField("0", T.DoubleType()), T.StructField("1", T.StringType())]
    )


def test_the_text_labels_of_a_real_classifier_are_text() -> None:
    features = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]})
    model = LogisticRegression().fit(features, pd.Series(["no", "no", "yes", "yes"]))

    assert convert(infer_signature(features, model.predict(features))).result == T.StringType()


def test_parameters_are_known_by_name() -> None:
    params = ParamSchema([ParamSpec("top_k", "long", 3), ParamSpec("temperature", "double", 0.5)])

    assert convert(ModelSignature(inputs=ANYTHING, params=params)).params == ("top_k", "temperature")


def test_a_signature_without_outputs_declares_no_prediction() -> None:
    assert convert(ModelSignature(inputs=ANYTHING)).result is None


@pytest.mark.parametrize("kind", ["float16", "int8", "uint64", "complex128"])
def test_a_tensor_that_spark_has_no_type_for_is_refused_by_its_type(kind: str) -> None:
    with pytest.raises(ModelError) as caught:
        inputs(TensorSpec(np.dtype(kind), (-1, 2)))

    assert str(caught.value) == (f"model.uri: the signature's tensor type {kind} has no counterpart in Spark; log the model with another")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("int8", T.IntegerType()),
        ("uint8", T.IntegerType()),
        ("uint16", T.IntegerType()),
        ("uint32", T.LongType()),
        ("float16", T.FloatType()),
    ],
)
def test_small_numbers_that_a_model_returns_are_taken_wider(kind: str, expected: T.DataType) -> None:
    assert result(TensorSpec(np.dtype(kind), (-1,))) == expected
    assert result(TensorSpec(np.dtype(kind), (-1, 3))) == T.ArrayType(expected)


def test_outputs_are_named_as_they_are_also_where_the_name_is_zero() -> None:
    found = result(ColSpec("double", 1), ColSpec("double", 0))

    assert isinstance(found, T.StructType)
    assert found.names == ["1", "0"]


def test_an_input_of_any_type_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        inputs(ColSpec(AnyType(), "a", required=False))

    assert str(caught.value) == "model.uri: the signature's type Any has no counterpart in Spark; log the model with another"
