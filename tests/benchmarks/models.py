"""The models: each is fitted once on 50,000 rows and saved by MLflow with a signature of double columns."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature

from benchmarks import contenders, data

FIT_ROWS = 50_000
# skops, MLflow's default, imports torch where that is installed, and takes seconds of every load.
PICKLED = "cloudpickle"


@dataclass(frozen=True)
class Model:
    """How a model is made, and how far its predictions may be apart.

    Attributes:
        save: fits on features and target, and saves to a path.
        tolerance: how far apart predictions may be, as a part of the largest prediction; 0: not a bit.
        reason: why they may be apart at all.
    """

    save: Callable[[pd.DataFrame, pd.Series, str], None]
    tolerance: float = 0.0
    reason: str = ""


def prepare(folder: Path, name: str, columns: int) -> Path:
    """The folder of the model for so many columns, fitted and saved where it is not there."""
    made = folder / f"{name}-columns-{columns}"
    if not made.exists():
        unfinished = folder / f"{made.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        MODELS[name].save(*_sample(columns), str(unfinished))
        unfinished.rename(made)
    return made


def with_statistics(model: Path, reference: Path, environment: dict[str, str]) -> Path:
    """A copy of a saved model that carries the statistics of a Parquet file, which switches drift on."""
    made = model.with_name(f"{model.name}-statistics")
    if not made.exists():
        unfinished = model.with_name(f"{made.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(model, unfinished)
        command = [contenders.LAKESCORE, "stats", str(reference), "--model", str(unfinished), "--drop", "id"]
        subprocess.run(command, cwd=model.parent, env=environment, check=True)
        unfinished.rename(made)
    return made


def _sample(columns: int) -> tuple[pd.DataFrame, pd.Series]:
    """Rows to fit on: none of those that are scored. The target has a linear part, an interaction, a step and noise."""
    x = data.features(FIT_ROWS, columns, (0,))
    noise = np.random.default_rng(2).normal(scale=0.1, size=FIT_ROWS)
    y = x @ np.linspace(1.0, 0.1, columns) + x[:, 0] * x[:, 1] + (x[:, 2] > 0.5) + noise
    return pd.DataFrame(x, columns=data.feature_names(columns)), pd.Series(y, name="target")


def _linear(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    from sklearn.linear_model import LinearRegression

    _save_sklearn(LinearRegression(), x, y, path)


def _forest(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    from sklearn.ensemble import RandomForestRegressor

    _save_sklearn(RandomForestRegressor(n_estimators=100, max_depth=8, random_state=0, n_jobs=-1), x, y, path)


def _save_sklearn(model: Any, x: pd.DataFrame, y: pd.Series, path: str) -> None:
    model.fit(x, y)
    mlflow.sklearn.save_model(model, path, serialization_format=PICKLED, **_described(x, model.predict(x[:5]), "scikit-learn"))


def _xgboost(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    import xgboost

    model = xgboost.XGBRegressor(n_estimators=200, random_state=0).fit(x, y)
    mlflow.xgboost.save_model(model, path, **_described(x, model.predict(x[:5]), "xgboost", "scikit-learn"))


def _lightgbm(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    import lightgbm

    model = lightgbm.LGBMRegressor(n_estimators=200, num_leaves=63, random_state=0, verbose=-1).fit(x, y)
    described = _described(x, model.predict(x[:5]), "lightgbm", "scikit-learn")
    mlflow.lightgbm.save_model(model, path, serialization_format=PICKLED, **described)


def _mlp(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)]
    model = torch.nn.Sequential(*layers)
    # MLflow gives a PyTorch model its columns as float32.
    inputs, targets = torch.from_numpy(x.to_numpy(np.float32)), torch.from_numpy(y.to_numpy(np.float32))[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        for rows in torch.randperm(len(inputs)).split(500):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        described = _described(x, model(inputs[:5]).numpy(), "torch")
    mlflow.pytorch.save_model(model, path, serialization_format="pickle", **described)


def _lookup(x: pd.DataFrame, y: pd.Series, path: str) -> None:
    import cloudpickle

    from benchmarks import lookup_model

    # The class travels with the model: workers have no benchmarks package.
    cloudpickle.register_pickle_by_value(lookup_model)
    model = lookup_model.Lookup()
    mlflow.pyfunc.save_model(path, python_model=model, **_described(x, model.predict(None, x[:5]), "numpy"))


def _described(x: pd.DataFrame, predictions: Any, *requirements: str) -> dict[str, Any]:
    """The model's signature and its requirements, which MLflow would else find out by loading it in a process of its own."""
    installed = ["mlflow", "cloudpickle", *requirements]
    return {
        "signature": infer_signature(x[:5], predictions),
        "pip_requirements": [f"{name}=={metadata.version(name)}" for name in installed],
    }


_BATCHES = "the last bits of a matrix product depend on the rows of the batch and their layout (BLAS)"
MODELS = {
    "linear": Model(_linear, 1e-14, _BATCHES),
    "forest": Model(_forest, 1e-14, "with n_jobs=-1 the trees are added up in the order in which threads finish them"),
    "xgboost": Model(_xgboost),
    "lightgbm": Model(_lightgbm),
    "mlp": Model(_mlp, 1e-6, f"float32: {_BATCHES}"),
    "lookup": Model(_lookup),
}
