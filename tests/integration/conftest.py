"""Real models, fitted once and logged to the suite's store, and the data they are for."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression


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
