"""What watching drift costs: the same scoring run with and without it, as whole processes, in turn.

python tests/benchmarks/drift.py [--rows 4000000] [--columns 20] [--repeat 3] [--output bench-results-drift.json]

Prints the least wall seconds of each and their ratio, and those of the scoring stage alone. Two cores and other work make single runs
differ by more than drift costs: the least of several, taken in turn, is what is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

FILES = 8
LAKESCORE = [str(Path(sys.executable).with_name("lakescore"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", default="bench-results-drift.json")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakescore-bench-"))
    try:
        prepare(folder, options.rows, options.columns)
        found = [measure(folder, watched) for _ in range(options.repeat) for watched in (False, True)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = summary(found, options)
    Path(options.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{options.rows:,} rows x {options.columns} columns     without     with   ratio")
    for name in ("process", "score"):
        without, with_ = report[f"{name}_without"], report[f"{name}_with"]
        print(f"  {name + ', seconds (least)':<36} {without:>7.1f} {with_:>8.1f} {with_ / without:>7.3f}")


def prepare(folder: Path, rows: int, columns: int) -> None:
    """The rows as Parquet files, and a linear model with the statistics of one of the files."""
    generator, names = np.random.default_rng(0), [f"f{i}" for i in range(columns)]
    (folder / "data").mkdir()
    for i in range(FILES):
        size = rows // FILES
        table = pa.table({"id": np.arange(size) + i * size, **{name: generator.normal(size=size) for name in names}})
        pq.write_table(table, folder / "data" / f"part-{i}.parquet")
    sample = pd.read_parquet(folder / "data" / "part-0.parquet", columns=names).head(50_000)
    model = LinearRegression().fit(sample, sample.sum(axis=1))
    signature = infer_signature(sample.head(), model.predict(sample.head()))
    mlflow.sklearn.save_model(model, folder / "model", signature=signature, serialization_format="cloudpickle")
    run(folder, "stats", str(folder / "data" / "part-0.parquet"), "--model", str(folder / "model"), "--drop", "id")


def measure(folder: Path, watched: bool) -> dict[str, Any]:
    """One process; its wall seconds, and those of its scoring stage."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "empty.yaml").write_text("run: {name: bench}\n", encoding="utf-8")
    start = time.monotonic()
    log = run(
        folder, "score", "--config", str(folder / "empty.yaml"), f"model.uri={folder / 'model'}", f"source.path={folder / 'data'}",
        f"output.path={folder / 'out'}", "columns.keys=id", f"drift.enabled={str(watched).lower()}",
    )  # fmt: skip
    seconds = time.monotonic() - start
    scored = re.search(r"score: \d+ rows, \d+ files, ([\d.]+) s", log)
    assert scored is not None, log
    assert ("drift: 0." in log) == watched, log
    return {"watched": watched, "process": round(seconds, 2), "score": float(scored.group(1))}


def run(folder: Path, *arguments: str) -> str:
    """A command of Lakescore with a store of its own; returns what it said."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([*LAKESCORE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr + done.stdout


def summary(found: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    least = {
        f"{name}_{'with' if watched else 'without'}": min(one[name] for one in found if one["watched"] is watched)
        for name in ("process", "score")
        for watched in (False, True)
    }
    return {"rows": options.rows, "columns": options.columns, **least, "runs": found}


if __name__ == "__main__":
    main()
