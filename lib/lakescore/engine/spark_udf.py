"""A DataFrame with a feature struct in, the same DataFrame with the predictions out, by ``mlflow.pyfunc.spark_udf``."""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.engine.bundle import Bundle
from lakescore.engine.isolation import ERROR_FIELD, VALUE_FIELD

_FLOATS = (T.DoubleType, T.FloatType)


def predictor(spark: SparkSession, bundle: Bundle, env_manager: str, params: dict[str, Any]) -> Any:
    """The model as a function from a struct column to a prediction column."""
    udf = mlflow.pyfunc.spark_udf(spark, str(bundle.path), result_type=bundle.udf_type, env_manager=env_manager, params=params or None)

    def predict(features: Column) -> Column:
        prediction: Column = udf(features)
        return prediction.getField(VALUE_FIELD) if bundle.wraps and not bundle.isolates else prediction

    return predict


def with_predictions(df: DataFrame, predict: Any, features: Column, name: str, result: T.DataType) -> DataFrame:
    """Add the predictions of the ``features`` struct, of type ``result``, as the column ``name``, last."""
    predicted = df.select("*", predict(features).alias(name))
    return predicted.withColumn(name, _restore_nan(F.col(name), result)) if _has_floats(result) else predicted


def with_predictions_or_errors(df: DataFrame, predict: Any, features: Column, name: str, result: T.DataType) -> DataFrame:
    """Add the predictions as ``with_predictions`` does, and why a row has none as the column ``ERROR_FIELD`` (text; null: it has one)."""
    answer = F.col(name)
    if isinstance(result, T.StructType):
        value = F.struct(*[answer.getField(field.name).alias(field.name) for field in result.fields])
    else:
        value = answer.getField(VALUE_FIELD)
    error = F.nullif(answer.getField(ERROR_FIELD), F.lit(""))
    # The UDF's struct by itself first: two projections of it would call the model twice.
    predicted = df.select("*", predict(features).alias(name)).withColumn(ERROR_FIELD, error).withColumn(name, value)
    restored = predicted.withColumn(name, _restore_nan(F.col(name), result)) if _has_floats(result) else predicted
    return restored.withColumn(name, F.when(F.col(ERROR_FIELD).isNull(), F.col(name)))


def _has_floats(kind: T.DataType) -> bool:
    if isinstance(kind, T.StructType):
        return any(_has_floats(field.dataType) for field in kind.fields)
    if isinstance(kind, T.MapType):
        return _has_floats(kind.valueType)
    return _has_floats(kind.elementType) if isinstance(kind, T.ArrayType) else isinstance(kind, _FLOATS)


def _restore_nan(value: Column, kind: T.DataType) -> Column:
    """Give NaN back what Spark took: it turns pandas' NaN into null, and a model's floats have no other null."""
    if isinstance(kind, _FLOATS):
        return F.coalesce(value, F.lit(float("nan")).cast(kind))
    if not _has_floats(kind):
        return value
    if isinstance(kind, T.ArrayType):
        element = kind.elementType
        return F.transform(value, lambda item: _restore_nan(item, element))
    if isinstance(kind, T.MapType):
        inside = kind.valueType
        return F.transform_values(value, lambda _, item: _restore_nan(item, inside))
    assert isinstance(kind, T.StructType), "_has_floats knows no other type"
    return F.struct(*[_restore_nan(value.getField(field.name), field.dataType).alias(field.name) for field in kind.fields])


def nan_counts(df: DataFrame, name: str) -> list[Column]:
    """Aggregates that count the rows, and the null, NaN and infinite predictions where the type can have them."""
    column, kind = F.col(f"`{name}`"), df.schema[name].dataType.typeName()
    counts = [F.count(F.lit(1)).alias("rows"), F.count_if(column.isNull()).alias("null")]
    if kind in ("double", "float"):
        infinite = column.isin(float("inf"), float("-inf"))
        counts += [F.count_if(F.isnan(column)).alias("nan"), F.count_if(infinite).alias("infinite")]
    return counts
