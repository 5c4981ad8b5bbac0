"""A notebook on Databricks, as far as it can be had elsewhere: a Spark Connect session that is there, and neither Java nor a SparkContext.

python connect_client.py SETTINGS.json RESULTS.json

SETTINGS: ``remote`` (the server), ``data`` and ``reference`` (Parquet folders), ``linear`` and ``fussy`` (models; the latter breaks on two
rows), ``tracking`` and ``folder`` (of the outputs). RESULTS: by the name of each function below what it returns, or ``error``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
FOLDER = Path(SETTINGS["folder"])
# Three names, as in Unity Catalog.
PATIENTS, TABLE, DRIFT = (f"spark_catalog.ml.{name}" for name in ("patients", "predictions", "drift"))


def _config(model: str = "linear", **sections: Any) -> dict[str, Any]:
    return {
        "run": {"batch_id": "a", "date": "2026-01-31"},
        "model": {"uri": SETTINGS[model]},
        "source": {"path": SETTINGS["data"]},
        "columns": {"keys": ["id"]},
        "tracking": {"tracking_uri": SETTINGS["tracking"]},
        **sections,
    }


def _told(result: Any) -> dict[str, Any]:
    found = dataclasses.asdict(result)
    return {name: found[name] for name in ("outcome", "run_id", "location", "version", "rows_written", "engine", "backend", "quarantine")}


def path() -> Any:
    """To a folder, from a thread that has not made the session, as a web server's has not."""
    from lakescore import score

    found: list[Any] = []
    config = _config(output={"path": str(FOLDER / "path")}, drift={"reference": SETTINGS["reference"]})
    one = threading.Thread(target=lambda: found.append(score(config)))
    one.start()
    one.join()
    (result,) = found
    return {**_told(result), "drift": result.drift.value}


def spark_udf() -> Any:
    """With MLflow's own function, which it is on Databricks; then fewer rows in the place of these."""
    from lakescore import score

    config = _config(output={"path": str(FOLDER / "spark_udf")}, scoring={"engine": "spark_udf"})
    return [_told(score(config, overrides=more)) for more in ([], ["run.on_rerun=replace", "source.limit=7"])]


def table() -> Any:
    """Tables of the catalog by three names: a batch, the same again, and fewer rows in its place."""
    from lakescore import score

    config = _config(source={"table": PATIENTS}, output={"table": TABLE})
    first = score({**config, "drift": {"reference": SETTINGS["reference"], "table": DRIFT}})
    runs = [first, score(config), score(config, overrides=["run.on_rerun=replace", "source.filter=id < 100"])]
    TABLE_RUNS.extend(one.run_id for one in runs)
    assert first.drift is not None
    return [*map(_told, runs), first.drift.value]


def quarantine() -> Any:
    """Two rows that break the model are set aside, and scored again with another one.

    Where no row can be cached, and only a few settings are a job's own, as on Databricks' serverless compute.
    """
    from pyspark.sql.connect.conf import RuntimeConf
    from pyspark.sql.connect.dataframe import DataFrame

    from lakescore import replay, score

    def closed(name: str) -> Callable[..., Any]:
        before = getattr(RuntimeConf, name)

        def call(self: RuntimeConf, key: str, *more: Any) -> Any:
            if not key.startswith(OPEN_SETTINGS):
                raise RuntimeError(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available. SQLSTATE: 42K0I")
            return before(self, key, *more)

        return call

    def refused(self: DataFrame, *more: Any) -> Any:
        raise RuntimeError("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported on serverless compute.")

    kept = [(kind, name, getattr(kind, name)) for kind, name in ((RuntimeConf, "get"), (RuntimeConf, "set"), (DataFrame, "persist"))]
    RuntimeConf.get, RuntimeConf.set = closed("get"), closed("set")  # type: ignore[method-assign]
    DataFrame.persist = refused  # type: ignore[method-assign]
    scoring = {"engine": "spark_udf", "batch_size": 100}
    config = _config("fussy", output={"path": str(FOLDER / "set_aside")}, errors={"on_row_error": "quarantine"}, scoring=scoring)
    try:
        return [_told(score(config)), _told(replay(config, overrides=[f"model.uri={SETTINGS['linear']}"]))]
    finally:
        for kind, name, old in kept:
            setattr(kind, name, old)


def forgotten() -> Any:
    """A server like those before 4.2, which tell nothing of what a writing command has counted."""
    from pyspark.sql.connect.client import SparkConnectClient

    from lakescore import score

    kept = SparkConnectClient.execute_command
    SparkConnectClient.execute_command = lambda self, command, *_: kept(self, command, {})  # type: ignore[method-assign]
    config = _config(output={"path": str(FOLDER / "forgotten")}, drift={"reference": SETTINGS["reference"]})
    try:
        result = score(config)
        aside = score(
            _config("fussy", output={"path": str(FOLDER / "forgotten_aside")}, errors={"on_row_error": "quarantine"}),
        )
    finally:
        SparkConnectClient.execute_command = kept  # type: ignore[method-assign]
    return {**_told(result), "drift": result.drift.value, "aside": [aside.rows_read, aside.rows_written, aside.rows_quarantined]}


def dataframe() -> Any:
    """A DataFrame of the session in, one out by ``lakescore.read``."""
    from pyspark.sql import SparkSession

    from lakescore import read, score

    spark = SparkSession.active()
    config = {name: section for name, section in _config(output={"path": str(FOLDER / "dataframe")}).items() if name != "source"}
    result = score(config, data=spark.read.parquet(SETTINGS["data"]).where("id < 20"))
    rows = read(result, tracking_uri=SETTINGS["tracking"], spark=spark)
    of_table = read(TABLE_RUNS[-1], tracking_uri=SETTINGS["tracking"])
    return {"module": type(rows).__module__, "rows": rows.count(), "of_table": len(of_table), **_told(result)}


def task() -> Any:
    """The wheel task of the bundle: good arguments, and then wrong ones."""
    from lakescore.cli import task_main

    given = [f"model.uri={SETTINGS['linear']}", f"source.table={PATIENTS}", f"tracking.tracking_uri={SETTINGS['tracking']}"]
    (FOLDER / "task.yaml").write_text("columns: {keys: [id]}\n", encoding="utf-8")
    command = ["lakescore", "score", "--config", str(FOLDER / "task.yaml"), *given, f"output.table={TABLE}"]
    raised = ""
    for more in (["run.batch_id=2026-01-31", "run.date=2026-01-31"], ["run.bacth_id=x"]):
        sys.argv = [*command, *more]
        try:
            task_main()
        except Exception as error:
            raised += f"{type(error).__name__}: {error}"
    return raised


# The settings of Spark that serverless compute lets a job have.
OPEN_SETTINGS = (
    "spark.databricks.execution.timeout",
    "spark.mlflow.",
    "spark.sql.ansi.enabled",
    "spark.sql.execution.pyspark.",  # which PySpark looks at
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.legacy.timeParserPolicy",
    "spark.sql.session.timeZone",
    "spark.sql.shuffle.partitions",
)
TABLE_RUNS: list[str] = []


def main() -> None:
    """Run all, in this order; what one raises is told, and the next goes on."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    target = Path(sys.argv[2])
    spark = SparkSession.builder.remote(SETTINGS["remote"]).getOrCreate()
    spark.sql("CREATE DATABASE ml")
    spark.read.parquet(SETTINGS["data"]).write.format("delta").saveAsTable(PATIENTS)
    results: dict[str, Any] = {"seconds": {}}
    everything: list[Callable[[], Any]] = [path, spark_udf, table, quarantine, forgotten, dataframe, task]
    for one in everything:
        start = time.monotonic()
        try:
            results[one.__name__] = one()
        except Exception:
            results[one.__name__] = {"error": traceback.format_exc()}
        results["seconds"][one.__name__] = round(time.monotonic() - start, 1)
    results["jvm"] = SparkContext._gateway is not None
    target.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
