"""Runs on executors: frames of features in, the guarded model's answers out, as ``mlflow.pyfunc.spark_udf`` gives them to Spark.

Shipped beside ``guard.py``; imports nothing of Lakescore.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from .guard import _load_pyfunc
from .isolation import NUMPY_TYPE, outputs


def answers(frames: Iterator[pd.DataFrame], folder: str, params: dict[str, Any] | None, tracking_uri: str) -> Iterator[Any]:
    """One answer for each frame: a frame where the answer's type is a struct, else a Series.

    Args:
        frames: the features, and what stands beside them.
        folder: the bundle.
        params: of ``predict``.
        tracking_uri: the driver's, for a model that asks MLflow for something.
    """
    mlflow.set_tracking_uri(tracking_uri)
    guard = _load_pyfunc(os.path.join(folder, "guarded"))
    arrays = {name: kind for name, kind in outputs(guard.result).items() if isinstance(kind, dict)}
    for frame in frames:
        found = guard.predict(frame, params)
        for name, kind in arrays.items():
            found[name] = pd.Series([_array(value, kind) for value in found[name]], dtype=object)
        yield found


def _array(value: Any, declared: dict[str, Any]) -> Any:
    """An array of the declared type; Spark would take the digits of the type that the model happens to return."""
    element = declared["elementType"]
    if isinstance(element, dict):
        return [_array(inner, element) for inner in value]
    missing = value is None or (isinstance(value, float) and value != value)
    return None if missing else np.asarray(value, dtype=NUMPY_TYPE.get(element, "str"))
