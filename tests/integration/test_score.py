"""The main job: every input row once, with the right prediction and the run's record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakescore import score

Make = Callable[..., dict[str, Any]]
LINEAGE = ["model_uri", "model_version", "run_id", "batch_id", "scored_at", "score_date"]


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_every_row_is_written_once_with_the_columns_of_the_contract(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, diabetes: pd.DataFrame, features: list[str], output_format: str
) -> None:
    settings = config(
        run={"batch_id": "2026-01-31", "date": "2026-01-31"},
        model={"uri": linear_uri},
        source={"path": str(diabetes_path)},
        columns={"labels": ["target"]},
    )
    settings["output"]["format"] = output_format

    result = score(settings, spark=spark)

    reader = spark.read.format(output_format).option("recursiveFileLookup", "false")
    table = reader.load(result.location)
    assert table.columns[: len(diabetes.columns) + 1] == [*diabetes.columns, "prediction"]
    assert sorted(table.columns[-6:]) == sorted(LINEAGE)
    rows = table.toPandas().sort_values("id").reset_index(drop=True)
    expected = mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features])
    np.testing.assert_array_equal(rows["prediction"], expected)
    pd.testing.assert_frame_equal(rows[diabetes.columns.tolist()], diabetes)
    assert rows["model_uri"].unique().tolist() == ["models:/diabetes/1"]
    assert rows["model_version"].unique().tolist() == ["1"]
    assert rows["run_id"].unique().tolist() == [result.run_id]
    assert rows["score_date"].astype(str).unique().tolist() == ["2026-01-31"]
    assert (result.rows_read, result.rows_scored, result.rows_written) == (442, 442, 442)


def test_delta_commit_carries_the_batch(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(run={"batch_id": "b-1"}, model={"uri": linear_uri}, source={"path": str(diabetes_path)})

    result = score(settings, spark=spark)

    table = DeltaTable(result.location)
    assert table.transaction_version("lakescore:b-1") == 1
    assert table.history(1)[0]["userMetadata"].startswith('{"batch_id": "b-1", "run_id": "')
    assert table.metadata().partition_columns == ["score_date"]
