"""Daft: a class that loads the model once for each of its instances, and predicts batches.

python daft_class.py MODEL SOURCE OUTPUT DATE
"""

import sys
from typing import Any

import daft
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import get_model_info

model_path, source, output, date = sys.argv[1:]
BATCH_ROWS = 100_000
features = get_model_info(model_path).signature.inputs.input_names()


@daft.cls
class Predict:
    """The model, loaded where it predicts."""

    def __init__(self, path: str) -> None:
        self.model = mlflow.pyfunc.load_model(path)

    @daft.method.batch(return_dtype=daft.DataType.float64(), batch_size=BATCH_ROWS)
    def __call__(self, *columns: daft.Series) -> Any:
        frame = pd.DataFrame({name: column.to_arrow().to_numpy() for name, column in zip(features, columns, strict=True)})
        return np.asarray(self.model.predict(frame), np.float64).ravel()


predict = Predict(model_path)
(
    daft.read_parquet(f"{source}/*.parquet")
    .with_column("prediction", predict(*[daft.col(name) for name in features]))
    .with_column("score_date", daft.lit(date))
    .write_parquet(output, partition_cols=["score_date"])
)
