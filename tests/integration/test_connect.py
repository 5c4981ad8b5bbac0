"""Spark Connect, which Databricks' serverless compute speaks: a session that is there, tables by three names, and no JVM to reach."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from mlflow.models import infer_signature
from pyspark.sql import SparkSession

from lakescore import score
from support.cluster import SPARK_SUBMIT, end_session, wait_for

CLIENT = Path(__file__).with_name("connect_client.py")
LIB = Path(__file__).parents[2] / "lib"
TESTS = Path(__file__).parents[1]
BAD = [7, 300]
# Of a run, whichever it was.
OF_A_RUN = ["run_id", "scored_at"]

FUSSY = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Fussy(PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["bmi"] > 1).any():
            raise ValueError("there is no such bmi")
        return model_input["bmi"] * 100


set_model(Fussy())
"""


@dataclass
class Client:
    """What the client has done: ``results`` by the name of its function, and the server's warehouse."""

    results: dict[str, Any]
    folder: Path
    warehouse: Path

    def __getitem__(self, name: str) -> Any:
        found = self.results[name]
        assert not (isinstance(found, dict) and "error" in found), found["error"]
        return found

    def table(self, name: str) -> DeltaTable:
        """A table of the server's catalog."""
        return DeltaTable(self.warehouse / "ml.db" / name)


@pytest.fixture(scope="module")
def fussy_uri(store: str, diabetes: pd.DataFrame, features: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    script = tmp_path_factory.mktemp("fussy") / "fussy.py"
    script.write_text(FUSSY, encoding="utf-8")
    with mlflow.start_run():
        signature = infer_signature(diabetes[features], diabetes["bmi"])
        return str(mlflow.pyfunc.log_model(name="fussy", python_model=str(script), signature=signature, pip_requirements=[]).model_uri)


@pytest.fixture(scope="module")
def data(diabetes: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The patients, two of whom have a bmi that breaks a model."""
    folder = tmp_path_factory.mktemp("patients")
    marred = diabetes.assign(bmi=diabetes["bmi"].where(~diabetes["id"].isin(BAD), 10.0))
    marred[:200].to_parquet(folder / "a.parquet", index=False)
    marred[200:].to_parquet(folder / "b.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A Connect server: its address, and the folder of its tables."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": folder / "warehouse",
        "spark.sql.shuffle.partitions": 2,
        "spark.databricks.delta.snapshotPartitions": 2,
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.session.timeZone": "UTC",
        # As in the suite's own session.
        "spark.python.daemon.module": "support.warm",
        "spark.executorEnv.PYTHONPATH": TESTS,
    }
    options = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    command = [str(SPARK_SUBMIT), "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", "local[2]"]
    command += ["--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(TESTS)}
    log = folder / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, *options], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        wait_for(answers, f"the Connect server (log: {log})", 120)
        yield f"sc://127.0.0.1:{port}", folder / "warehouse"
    finally:
        end_session(process.pid)
        process.wait()


@pytest.fixture(scope="module")
def client(
    server: tuple[str, Path],
    store: str,
    linear_uri: str,
    fussy_uri: str,
    data: Path,
    diabetes_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Client:
    """What a process without Java has done on the server."""
    remote, warehouse = server
    folder = tmp_path_factory.mktemp("client")
    settings = {
        "remote": remote,
        "data": str(data),
        "reference": str(diabetes_path),
        "linear": linear_uri,
        "fussy": fussy_uri,
        "tracking": store,
        "folder": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK", "SPARK", "JAVA"))}
    environment = {**kept, "PATH": "/nowhere", "JAVA_HOME": "/nowhere", "PYTHONPATH": str(LIB)}
    command = [sys.executable, str(CLIENT), str(folder / "settings.json"), str(folder / "results.json")]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr
    return Client(json.loads((folder / "results.json").read_text(encoding="utf-8")), folder, warehouse)


@pytest.fixture(scope="module")
def classic(
    spark: SparkSession, store: str, linear_uri: str, data: Path, diabetes_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The result of the same run on classic Spark."""
    settings = {
        "run": {"batch_id": "a", "date": "2026-01-31"},
        "model": {"uri": linear_uri},
        "source": {"path": str(data)},
        "columns": {"keys": ["id"]},
        "output": {"path": str(tmp_path_factory.mktemp("classic") / "out")},
        "drift": {"reference": str(diabetes_path)},
        "tracking": {"tracking_uri": store},
        "scoring": {"engine": "spark_udf"},
    }
    return score(settings, spark=spark)


def _rows(table: DeltaTable) -> pa.Table:
    rows = table.to_pyarrow_table()
    return rows.drop_columns(OF_A_RUN).sort_by("id")


def _check_same(found: DeltaTable, expected: DeltaTable) -> None:
    """The same columns with the same types in the same order, and the same values in each; lineage too."""
    assert found.schema().to_json() == expected.schema().to_json()
    here, there = _rows(found), _rows(expected)
    assert here.num_rows == there.num_rows == 442
    for name in there.column_names:
        assert here.column(name).equals(there.column(name)), name
    assert found.metadata().partition_columns == expected.metadata().partition_columns == ["score_date"]


def test_the_client_has_no_jvm(client: Client) -> None:
    assert client["jvm"] is False


@pytest.mark.parametrize(("name", "engine"), [("path", "fast"), ("spark_udf", "spark_udf")])
def test_a_delta_table_by_path_is_the_one_that_classic_spark_writes(client: Client, classic: Any, name: str, engine: str) -> None:
    told = client[name] if name == "path" else client[name][0]

    assert (told["outcome"], told["rows_written"], told["engine"], told["backend"]) == ("scored", 442, engine, "spark")
    _check_same(DeltaTable(client.folder / name, version=told["version"]), DeltaTable(classic.location))


def test_drift_is_the_same_too(client: Client, classic: Any) -> None:
    assert client["path"]["drift"] == classic.drift.value > 0


def test_a_table_by_three_names_is_the_same_too(client: Client, classic: Any) -> None:
    first, again, replaced, drift = client["table"]

    assert [run["outcome"] for run in (first, again, replaced)] == ["scored", "skipped", "scored"]
    assert first["location"] == "spark_catalog.ml.predictions"
    table = client.table("predictions")
    table.load_as_version(first["version"])
    _check_same(table, DeltaTable(classic.location))
    assert drift == classic.drift.value


def test_a_batch_of_a_table_is_replaced_and_another_one_stands_beside_it(client: Client) -> None:
    _, _, replaced, _ = client["table"]
    raised = client["task"]

    rows = client.table("predictions").to_pandas()
    assert rows["batch_id"].value_counts().to_dict() == {"a": 100, "2026-01-31": 442}
    assert set(rows.loc[rows["batch_id"] == "a", "run_id"]) == {replaced["run_id"]}
    assert raised == "LakescoreError: run.bacth_id: unknown key. Did you mean 'batch_id'? (command line) (exit code 2)"
    assert [one.name for one in (client.warehouse / "ml.db").iterdir() if "staging" in one.name] == []


def test_the_drift_table_has_the_rows_of_the_batch(client: Client, features: list[str]) -> None:
    first, *_ = client["table"]
    rows = client.table("drift").to_pandas()

    assert set(rows["run_id"]) == {first["run_id"]}
    assert set(features) <= set(rows["feature"]), rows.columns


def test_a_batch_by_path_is_replaced(client: Client) -> None:
    _, replaced = client["spark_udf"]

    rows = DeltaTable(client.folder / "spark_udf").to_pandas()
    assert (len(rows), set(rows["run_id"])) == (7, {replaced["run_id"]})


def test_rows_that_break_the_model_are_set_aside_and_replayed_without_a_cache_or_settings(client: Client) -> None:
    scored, replayed = client["quarantine"]

    assert (scored["rows_written"], replayed["rows_written"]) == (440, 2)
    rows = DeltaTable(client.folder / "set_aside").to_pandas()
    assert sorted(rows["id"]) == list(range(442))
    assert sorted(rows.loc[rows["batch_id"] == "a.replay", "id"]) == BAD
    aside = DeltaTable(scored["quarantine"]).to_pandas()
    assert (sorted(aside["id"]), set(aside["error_message"])) == (BAD, {"there is no such bmi"})


def test_what_an_older_server_forgets_to_tell_is_counted_again(client: Client, classic: Any) -> None:
    told = client["forgotten"]

    _check_same(DeltaTable(client.folder / "forgotten"), DeltaTable(classic.location))
    assert told["drift"] == classic.drift.value
    assert told["aside"] == [442, 440, 2]


def test_a_dataframe_of_the_session_is_scored_and_read_back_as_one(client: Client) -> None:
    told = client["dataframe"]

    assert told["module"].startswith("pyspark.sql.connect")
    assert (told["rows"], told["rows_written"], told["of_table"]) == (20, 20, 100)
