"""What all faults share, made once: rows, a model, and for each format a table with two earlier batches and its tracking store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
FORMATS = ("delta", "parquet")
FEATURES = tuple(f"f{i}" for i in range(10))
DATE, DAY_BEFORE = "2026-01-31", "2026-01-30"
# The earlier batches and their dates: one has the partition of the batches that are hit.
EARLIER = {"earlier-1": DAY_BEFORE, "earlier-2": DATE}
EARLIER_ROWS = 2_000
FILES = 4
# Of doubles that do not compress: of each row the features, the ID and the prediction.
ROW_BYTES = 8 * (len(FEATURES) + 2)
# What all processes of a fault carry in their environment, by which those that are left are found.
MARK = "LAKESCORE_CHAOS"
_OTHERS = ("SPARK_", "PYSPARK_", "MLFLOW_", "LAKESCORE_")


@dataclass(frozen=True)
class World:
    """See the module.

    Attributes:
        folder: of everything.
        rows: of a batch.
    """

    folder: Path
    rows: int

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def template(self, format_: str) -> Path:
        """A folder with ``table`` and ``mlflow.db``."""
        return self.folder / f"template-{format_}"


def make(folder: Path, rows: int) -> World:
    """Make it all, with real runs; what was made in this folder before is used again."""
    world, made = World(folder, rows), folder / f"made-{rows}"
    if made.exists():
        return world
    for old in ("source", "earlier", "model", *(f"template-{name}" for name in FORMATS)):
        shutil.rmtree(folder / old, ignore_errors=True)
    for path in folder.glob("made-*"):
        path.unlink()
    _write_rows(world.source, rows, FILES)
    _write_rows(folder / "earlier", EARLIER_ROWS, 1)
    _save_model(world.model)

    def template(format_: str) -> None:
        world.template(format_).mkdir()
        for batch, date in EARLIER.items():
            _score(world, world.template(format_), format_, batch, date, folder / "earlier")

    with ThreadPoolExecutor(len(FORMATS)) as pool:
        list(pool.map(template, FORMATS))
    made.touch()
    return world


def expected(rows: int, ids: np.ndarray) -> np.ndarray:
    """The predictions of the rows with these ids."""
    values = _features(rows)
    return values["f0"][ids] * 2.0 + values["f1"][ids] * 3.0 - values["f2"][ids]


def environment(folder: Path, mark: str) -> dict[str, str]:
    """What the processes of a fault get: this environment without others' settings, and folders of the fault's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    own = {
        MARK: mark,
        "PYTHONPATH": str(ROOT / "lib"),
        "PYSPARK_PYTHON": sys.executable,
        "TMPDIR": str(folder / "tmp"),
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A server that is dead is given up in seconds and not in minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    return {**kept, **own}


def arguments(world: World, folder: Path, format_: str, batch: str, date: str = DATE, source: Path | None = None) -> list[str]:
    """What a job is told."""
    config = folder / "empty.yaml"
    config.write_text("{}", encoding="utf-8")
    return [
        "--config", str(config), f"model.uri={world.model}", f"source.path={source or world.source}",
        f"output.path={folder / 'table'}", f"output.format={format_}", "columns.keys=id", "scoring.batch_size=1000",
        f"run.batch_id={batch}", f"run.date={date}",
    ]  # fmt: skip


def _score(world: World, folder: Path, format_: str, batch: str, date: str, source: Path) -> None:
    for name in ("tmp", "local"):
        (folder / name).mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), *arguments(world, folder, format_, batch, date, source)]
    done = subprocess.run(command, cwd=folder, env=environment(folder, "template"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the batch {batch} could not be made:\n{done.stdout}{done.stderr}")


def _features(rows: int) -> dict[str, np.ndarray]:
    values = np.random.default_rng(0).normal(size=(len(FEATURES), rows))
    return dict(zip(FEATURES, values, strict=True))


def _write_rows(folder: Path, rows: int, files: int) -> None:
    folder.mkdir(parents=True)
    table = pa.table({"id": np.arange(rows), **_features(rows)})
    for i in range(files):
        first, end = rows * i // files, rows * (i + 1) // files
        pq.write_table(table.slice(first, end - first), folder / f"part-{i}.parquet")


def _save_model(path: Path) -> None:
    # In a process of its own: importing MLflow would slow all others of this one.
    code = f"""
import cloudpickle, mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from chaos import model
cloudpickle.register_pickle_by_value(model)
inputs = Schema([ColSpec(DataType.double, name) for name in {json.dumps(FEATURES)}])
signature = ModelSignature(inputs, Schema([ColSpec(DataType.double)]))
mlflow.pyfunc.save_model({str(path)!r}, python_model=model.Linear(), signature=signature, pip_requirements=["mlflow"])
"""
    environ = {**environment(path.parent, "model"), "PYTHONPATH": str(ROOT / "tests")}
    environ.pop("TMPDIR")
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True)
