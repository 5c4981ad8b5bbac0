"""The contenders: each is a command that scores a folder of Parquet files with a saved model into a partitioned folder of Parquet."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SCORE_DATE = "2026-01-31"
SCRIPTS = Path(__file__).parent / "scripts"
LAKESCORE = str(Path(sys.executable).with_name("lakescore"))


@dataclass(frozen=True)
class Work:
    """What is to be done: a saved model, a folder of Parquet files, and a folder that is not there yet."""

    model: Path
    source: Path
    output: Path


def _script(name: str) -> Callable[[Work], list[str]]:
    def command(work: Work) -> list[str]:
        return [sys.executable, str(SCRIPTS / name), str(work.model), str(work.source), str(work.output), SCORE_DATE]

    return command


def _lakescore(*overrides: str) -> Callable[[Work], list[str]]:
    def command(work: Work) -> list[str]:
        folders = [f"model.uri={work.model}", f"source.path={work.source}", f"output.path={work.output}"]
        return [LAKESCORE, "score", "--config", str(SCRIPTS / "lakescore.yaml"), f"run.date={SCORE_DATE}", *folders, *overrides]

    return command


COMMANDS: dict[str, Callable[[Work], list[str]]] = {
    "plain": _script("plain_spark.py"),
    "lakescore": _lakescore(),
    "lakescore-spark": _lakescore("spark.backend=spark"),
    "lakescore-embedded": _lakescore("spark.backend=embedded"),
    "drift-off": _lakescore("drift.enabled=false"),
    # `true` and not the default: a run without a reference fails instead of watching nothing.
    "drift-on": _lakescore("drift.enabled=true"),
    "pyarrow": _script("pyarrow_loop.py"),
    "daft": _script("daft_class.py"),
    "limit": _script("limit.py"),
}
# What a contender needs that Lakescore does not bring.
_NEEDS = {"daft": "daft"}


def missing(names: Sequence[str]) -> dict[str, str]:
    """The contenders that cannot run here, and the package that each lacks."""
    return {name: _NEEDS[name] for name in names if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None}


def environment(folder: Path, contender: str | None = None) -> dict[str, str]:
    """What a contender gets: this environment, this Python for Spark's workers, and a tracking store in the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "MLFLOW_"))}
    added = {
        "PYSPARK_PYTHON": sys.executable,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if contender == "plain":
        # A folder without the spark-defaults.conf of `lakescore setup-spark`: the script has no use for Delta, and need not load it.
        added["SPARK_CONF_DIR"] = str(SCRIPTS)
    return {**kept, **added}
