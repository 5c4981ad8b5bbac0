"""A DataFrame with a feature struct in, the same DataFrame with the predictions out, by ``mlflow.pyfunc.spark_udf``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlflow.pyfunc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from lakescore.drift.counting import COUNTED_FIELD, Watch, watched
from lakescore.engine.bundle import Bundle
from lakescore.engine.isolation import ERROR_FIELD, VALUE_FIELD
from lakescore.schema import column

_FLOATS = (T.DoubleType, T.FloatType)


@dataclass(frozen=True)
class Predictor:
    """The model as a Spark function from a struct of features to an answer.

    Attributes:
        udf: the function.
        has_value: whether the answer is a struct that holds the prediction in ``VALUE_FIELD``.
        isolates: whether it says why a row has no prediction, in ``ERROR_FIELD``.
        counts: whether what its tasks counted is in ``COUNTED_FIELD``.
    """

    udf: Any
    has_value: bool
    isolates: bool
    counts: bool


def predictor(spark: SparkSession, bundle: Bundle, env_manager: str, params: dict[str, Any], watch: Watch | None = None) -> Predictor:
    """The model, ready to be called.

    Args:
        spark: the session.
        bundle: the model behind its guard.
        env_manager, params: of ``mlflow.pyfunc.spark_udf``.
        watch: what is to be counted of the rows that pass it; None: nothing.
    """
    udf = mlflow.pyfunc.spark_udf(spark, str(bundle.path), result_type=bundle.udf_type, env_manager=env_manager, params=params or None)
    if watch is None:
        return Predictor(udf, bundle.wraps, bundle.isolates, False)
    inner = udf.__wrapped__
    is_struct = isinstance(inner.returnType, T.StructType)
    counting = pandas_udf(watched(inner.func, watch), counted_type(inner.returnType))  # type: ignore[call-overload]
    return Predictor(counting, bundle.wraps or not is_struct, bundle.isolates, True)


def counted_type(answer: T.DataType) -> T.StructType:
    """The type of an answer of which ``watched`` has also said what its task counted."""
    fields = answer.fields if isinstance(answer, T.StructType) else [T.StructField(VALUE_FIELD, answer)]
    return T.StructType([*fields, T.StructField(COUNTED_FIELD, T.BinaryType())])


def with_predictions(df: DataFrame, predictor: Predictor, features: Column, name: str, result: T.DataType) -> DataFrame:
    """Add the predictions of the ``features`` struct, of type ``result``, as the column ``name``.

    With a predictor that isolates also why a row has none, as the column ``ERROR_FIELD`` (text; null: it has one); with one that counts
    also what each task counted, as ``COUNTED_FIELD`` (binary; null but in one row of each task).
    """
    answer, more = F.col(name), {}
    value = answer
    if predictor.has_value:
        value = answer.getField(VALUE_FIELD)
    elif isinstance(result, T.StructType) and (predictor.isolates or predictor.counts):
        value = F.struct(*[answer.getField(field.name).alias(field.name) for field in result.fields])
    if predictor.isolates:
        more[ERROR_FIELD] = F.nullif(answer.getField(ERROR_FIELD), F.lit(""))
    if predictor.counts:
        more[COUNTED_FIELD] = answer.getField(COUNTED_FIELD)
    # The UDF's answer by itself first: two projections of it would call the model twice.
    predicted = df.select("*", predictor.udf(features).alias(name)).withColumns({**more, name: value})
    if _has_floats(result):
        predicted = predicted.withColumn(name, _restore_nan(F.col(name), result))
    return predicted.withColumn(name, F.when(F.col(ERROR_FIELD).isNull(), F.col(name))) if predictor.isolates else predicted


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
    value = column(name)
    counts = [F.count(F.lit(1)).alias("rows"), F.count_if(value.isNull()).alias("null")]
    if isinstance(df.schema[name].dataType, _FLOATS):
        infinite = value.isin(float("inf"), float("-inf"))
        counts += [F.count_if(F.isnan(value)).alias("nan"), F.count_if(infinite).alias("infinite")]
    return counts
