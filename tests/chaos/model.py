"""A linear model that can be told to the last bit without it, and takes long enough to be hit while it scores."""

from __future__ import annotations

import time
from typing import Any

import mlflow
import pandas as pd

PAUSE_SECONDS = 0.01


class Linear(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Element by element, so that no bit depends on the size of a batch."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        time.sleep(PAUSE_SECONDS)
        return model_input["f0"] * 2.0 + model_input["f1"] * 3.0 - model_input["f2"]
