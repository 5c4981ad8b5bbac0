"""Real models, fitted once and logged to the suite's store, and the data they are for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from pyspark.sql import Column, DataFrame
from pyspark.sql import types as T
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression


@pytest.fixture(autouse=True, scope="session")
def _observes_what_spark_4_0_can() -> Iterator[None]:
    """Before 4.1 an observation gives back numbers and text alone: lists and structs fail when the job is done (SPARK-53544)."""
    real = DataFrame.observe

    def observe(self: DataFrame, observation: Any, *values: Column) -> DataFrame:
        kinds = {field.name: field.dataType for field in self.select(*values).schema}
        assert not [name for name, kind in kinds.items() if isinstance(kind, (T.ArrayType, T.MapType, T.StructType, T.BinaryType))], kinds
        return real(self, observation, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataFrame, "observe", observe)
        yield


@pytest.fixture(scope="session")
def diabetes() -> pd.DataFrame:
    """442 patients: ten measurements as doubles, `target`, and an integer `id`."""
    frame = load_diabetes(as_frame=True).frame
    return frame.assign(id=np.arange(len(frame)))


@pytest.fixture(scope="session")
def features(diabetes: pd.DataFrame) -> list[str]:
    return [name for name in diabetes.columns if name not in ("id", "target")]


@pytest.fixture(scope="session")
def linear_uri(store: str, diabetes: pd.DataFrame, features: list[str]) -> str:
    """A linear regression, registered as `diabetes` version 1 with the alias `champion`."""
    model = LinearRegression().fit(diabetes[features], diabetes["target"])
    signature = infer_signature(diabetes[features], model.predict(diabetes[features]))
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", signature=signature, registered_model_name="diabetes", serialization_format="cloudpickle"
        )
    mlflow.MlflowClient().set_registered_model_alias("diabetes", "champion", "1")
    return "models:/diabetes@champion"


@pytest.fixture(scope="session")
def diabetes_path(tmp_path_factory: pytest.TempPathFactory, diabetes: pd.DataFrame) -> Path:
    """The patients as three Parquet files."""
    folder = tmp_path_factory.mktemp("diabetes")
    for i, part in enumerate(np.array_split(np.arange(len(diabetes)), 3)):
        diabetes.iloc[part].to_parquet(folder / f"part-{i}.parquet", index=False)
    return folder
