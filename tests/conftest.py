"""One Spark session, one MLflow store and a few fitted models for the whole suite: starting them is what costs."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ.pop("SPARK_REMOTE", None)
# Java for small jobs, of this process and of commands: without the second compiler, and threads that collect garbage side by side, it
# takes half the CPU time.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

import mlflow
import pytest
from pyspark.sql import SparkSession

from lakescore import redact
from support.warm import forked_pools

ROOT = Path(__file__).parents[1]


# Files of long tests, which are begun first: begun last, one would be waited for while the other process has nothing left to do.
_LONG = (
    "engines",
    "s3",
    "images",
    "cluster",
    "commands",
    "repair",
    "row_files",
    "hostile",
    "incremental_crashes",
    "chaos",
    "service",
    "connect",
    "notebooks",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = {f"test_{name}.py" for name in _LONG}
    items.sort(key=lambda item: item.path.name not in files)


@pytest.fixture(autouse=True, scope="session")
def _signals_as_in_a_terminal() -> None:
    """Started by nohup or in the background, a suite has signals ignored, and so would have what it starts."""
    for one, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(one) is signal.SIG_IGN:
            signal.signal(one, default)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command line configures logging for its own process, which here is everybody's."""
    own = logging.getLogger("lakescore")
    before = own.handlers, own.propagate, own.level
    yield
    own.handlers, own.propagate, own.level = before


@pytest.fixture(autouse=True)
def _secrets_as_they_were() -> Iterator[None]:
    """What one test has told to hide would be hidden in the texts of all others."""
    before = set(redact._hidden)
    yield
    redact._hidden.clear()
    redact._hidden.update(before)


@pytest.fixture(autouse=True, scope="session")
def _warm_workers() -> Iterator[None]:
    """Pools get a fork of a process that has imported already; only those of this process, not of commands that tests start."""
    with forked_pools():
        yield


@pytest.fixture(autouse=True, scope="session")
def _requirements_by_flavor() -> Iterator[None]:
    """MLflow would load each model that is logged in a process of its own, to see what it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.models, "infer_pip_requirements", lambda uri, flavor, fallback, **_: fallback)
        yield


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A local session with Delta, as `lakescore setup-spark` leaves the environment."""
    session = (
        SparkSession.builder.master("local[2]")
        .appName("lakescore-tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.databricks.delta.snapshotPartitions", "2")
        # What a session that Lakescore starts has too.
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.python.sql.dataFrameDebugging.enabled", "false")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        # Its Python workers are forks of a process that has imported already.
        .config("spark.python.daemon.module", "support.warm")
        .config("spark.executorEnv.PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")])))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking store and registry of the suite's own; also MLflow's default while the tests run."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    mlflow.set_experiment(experiment_id=client.create_experiment("models", artifact_location=str(folder / "models")))
    client.create_experiment("lakescore", artifact_location=str(folder / "runs"))
    return uri


@pytest.fixture
def config(store: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a configuration: ``config(model={...}, source={...}, output={...})``; output defaults to a new Delta path."""

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        made = {"output": {"path": str(tmp_path / "out")}, "tracking": {"tracking_uri": store}, **sections}
        made["tracking"] = {"tracking_uri": store, **sections.get("tracking", {})}
        return made

    return make
