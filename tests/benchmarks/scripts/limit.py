"""The least that this machine needs: one process for each core reads its share of the row groups, predicts with the bare library on
one thread, and writes.

python limit.py MODEL SOURCE OUTPUT DATE
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before numpy and torch are imported, which read them then.
ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")


def main() -> int:
    processes = len(os.sched_getaffinity(0))
    commands = [[sys.executable, *sys.argv, str(i), str(processes)] for i in range(processes)]
    started = [subprocess.Popen(command, env={**os.environ, **ONE_THREAD}) for command in commands]
    return max([process.wait() for process in started], key=abs)


def work(model: str, source: str, output: str, date: str, share: int, processes: int) -> None:
    """Score every row group whose number gives ``share`` when divided by ``processes``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [pq.ParquetFile(path) for path in sorted(Path(source).glob("*.parquet"))]
    groups = [(file, i) for file in files for i in range(file.num_row_groups)][share::processes]
    if not groups:
        return
    features, predict = load(Path(model))
    folder = Path(output) / f"score_date={date}"
    folder.mkdir(parents=True, exist_ok=True)
    schema = files[0].schema_arrow.append(pa.field("prediction", pa.float64()))
    with pq.ParquetWriter(folder / f"part-{share}.parquet", schema) as writer:
        for file, i in groups:
            table = file.read_row_group(i, use_threads=False)
            prediction = predict(np.column_stack([table.column(name).to_numpy() for name in features]))
            writer.write_table(table.append_column("prediction", pa.array(prediction.astype(np.float64, copy=False))))


def load(model: Path) -> tuple[list[str], Callable[[Any], Any]]:
    """The names of a saved model's features, and the function of its library, on one thread, from their matrix to predictions."""
    import yaml

    description = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8"))
    flavors = description["flavors"]
    features = [column["name"] for column in json.loads(description["signature"]["inputs"])]
    if "xgboost" in flavors:
        return features, _xgboost(model / flavors["xgboost"]["data"])
    if "lightgbm" in flavors:
        return features, _lightgbm(model / flavors["lightgbm"]["data"])
    if "pytorch" in flavors:
        return features, _pytorch(model / flavors["pytorch"]["model_data"] / "model.pth")
    return features, _sklearn(model / flavors["sklearn"]["pickled_model"])


def _sklearn(path: Path) -> Callable[[Any], Any]:
    import pickle

    fitted = pickle.loads(path.read_bytes())
    if hasattr(fitted, "n_jobs"):
        fitted.n_jobs = 1
    # It was fitted on a DataFrame, and is given the same columns in the same order as a matrix.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return fitted.predict  # type: ignore[no-any-return]


def _xgboost(path: Path) -> Callable[[Any], Any]:
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=path)
    return lambda x: booster.inplace_predict(x, validate_features=False)


def _lightgbm(path: Path) -> Callable[[Any], Any]:
    import pickle

    booster = pickle.loads(path.read_bytes()).booster_
    return lambda x: booster.predict(x, num_threads=1)


def _pytorch(path: Path) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(1)
    module = torch.load(path, weights_only=False)

    def predict(x: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(x.astype("float32"))).numpy().ravel()

    return predict


if __name__ == "__main__":
    model, source, output, date, *share = sys.argv[1:]
    if not share:
        sys.exit(main())
    work(model, source, output, date, *map(int, share))
