"""A bundle in, a predictor out that gives the model larger batches and holds it to its task's cores; else as ``spark_udf`` does.

What runs on executors is shipped with the model (``fast_worker.py``, ``gathering.py``, ``threads.py``): they need no Lakescore.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model
from mlflow.models.utils import _enforce_params_schema
from mlflow.utils.databricks_utils import is_databricks_connect, is_in_databricks_runtime
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from lakescore import session
from lakescore.drift.counting import Watch, watched
from lakescore.engine import shipping
from lakescore.engine.bundle import Bundle
from lakescore.engine.spark_udf import Predictor, counted_type

# The model's batches, unless the configuration or Spark's says otherwise: rows, and bytes of them.
ROWS = 65_536
BYTES = 64 * 1024 * 1024
_SPARK_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_SPARK_DEFAULT = 10_000

_SCALARS = (T.IntegerType, T.LongType, T.FloatType, T.DoubleType, T.StringType, T.BooleanType)
# Spark gives these in what stands alone; spark_udf refuses them in a struct.
_ALONE = (T.TimestampType, T.BinaryType)


def unproven(spark: SparkSession, env_manager: str, result: T.DataType) -> str | None:
    """Why the engine is not known to do the same as ``spark_udf``; None where it is.

    Args:
        spark: the session.
        env_manager: of the model.
        result: the type of one row's prediction.
    """
    if env_manager != "local":
        return f"model.env_manager is {env_manager}, and only mlflow.pyfunc.spark_udf makes environments"
    if is_in_databricks_runtime() or is_databricks_connect(spark):  # type: ignore[no-untyped-call]
        return "Databricks ships models in ways of its own, which mlflow.pyfunc.spark_udf knows"
    fields = [field.dataType for field in result.fields] if isinstance(result, T.StructType) else [result]
    if not isinstance(result, _ALONE) and not all(isinstance(_element(field), _SCALARS) for field in fields):
        return f"predictions of type {result.simpleString()} are left to mlflow.pyfunc.spark_udf"
    return None


def _element(kind: T.DataType) -> T.DataType:
    return _element(kind.elementType) if isinstance(kind, T.ArrayType) else kind


def checked_params(model: Path, params: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters as ``predict`` gets them; by the driver, as spark_udf does it: on a worker it would seem to be a row's fault.

    Args:
        model: its folder.
        params: as configured.

    Raises:
        MlflowException: they are not of the types that the model declares.
    """
    checked: dict[str, Any] | None = _enforce_params_schema(params or None, Model.load(str(model)).get_params_schema())  # type: ignore[no-untyped-call]
    return checked


def threads_of(spark: SparkSession) -> int:
    """The cores of one task."""
    return int(spark.conf.get("spark.task.cpus", None) or 1)


def _rows(spark: SparkSession) -> int:
    """What somebody has set for Spark's batches is meant for the model."""
    rows = int(spark.conf.get(_SPARK_ROWS, None) or _SPARK_DEFAULT)
    return ROWS if rows in (_SPARK_DEFAULT, 0) or rows < 0 else rows


def predictor(
    spark: SparkSession, bundle: Bundle, params: dict[str, Any], watch: Watch | None, rows: int | None, folder: Path
) -> Predictor:
    """The model, ready to be called.

    Args:
        spark: the session.
        bundle: the model behind its guard.
        params: of ``predict``.
        watch: what is to be counted of the rows that pass it; None: nothing.
        rows: at most in one call; None: what Spark's batches are set to, else ``ROWS``.
        folder: of this run, for the archive where the workers do not read this machine's files.

    Raises:
        LakescoreError: Spark refuses the archive.
        MlflowException: the parameters are not of the types that the model declares.
    """
    checked = checked_params(bundle.path, params)
    local = str(bundle.path) if session.is_one_machine(spark) else None
    archive = folder / f"lakescore-model-{uuid.uuid4().hex[:12]}.zip"
    if local is None:
        shipping.ship(spark, archive, {"": bundle.path}, "model: Spark cannot ship the model's archive")
    task = _task(local, archive.name, rows or _rows(spark), checked, mlflow.get_tracking_uri(), watch)
    answer = bundle.answer_type if watch is None else counted_type(bundle.answer_type)
    has_value = bundle.wraps or (watch is not None and not isinstance(bundle.answer_type, T.StructType))
    return Predictor(pandas_udf(task, answer), has_value, bundle.isolates, watch is not None)  # type: ignore[call-overload]


def _task(
    local: str | None, archive: str, rows: int, params: dict[str, Any] | None, tracking_uri: str, watch: Watch | None
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function that Spark pickles by value, because it is nested: it may name nothing of this module."""
    size, count = BYTES, watched

    def task(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import importlib
        import os
        import sys

        from pyspark import SparkFiles

        folder = local or SparkFiles.get(archive)
        code = os.path.join(folder, "code")
        sys.path.insert(0, code)
        try:
            worker = importlib.import_module("lakescore_guard.fast_worker")
            gathering = importlib.import_module("lakescore_guard.gathering")
        finally:
            sys.path.remove(code)

        def answers(frames: Iterator[pd.DataFrame]) -> Iterator[Any]:
            return worker.answers(frames, folder, params, tracking_uri)  # type: ignore[no-any-return]

        frames = gathering.gathered(batches, rows, size)
        yield from answers(frames) if watch is None else count(answers, watch)(frames)

    return task
