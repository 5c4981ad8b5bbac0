"""Outputs as real runs leave them: the doctor finds nothing in them, and a batch is deleted and scored again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import infer_signature
from pyspark.sql import SparkSession

from lakescore import delete_batch, doctor, score
from lakescore.checkup import Checkup
from lakescore.errors import InputError, OutputError
from lakescore.result import ScoreResult
from lakescore.sinks.base import attempt_name
from lakescore.sinks.table import TableSink, staging

Make = Callable[..., dict[str, Any]]
Score = Callable[..., ScoreResult]
DATES = "output.partition_by=date_add(date'2026-01-01', cast(id % 3 as int))"


@pytest.fixture
def settings(config: Make, linear_uri: str, diabetes_path: Path) -> dict[str, Any]:
    return config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"date": "2026-01-31"})


@pytest.fixture
def run(spark: SparkSession, settings: dict[str, Any]) -> Score:
    return lambda batch_id, *overrides: score(settings, overrides=[f"run.batch_id={batch_id}", *overrides], spark=spark)


@pytest.fixture
def look(spark: SparkSession, settings: dict[str, Any]) -> Callable[..., Checkup]:
    """What the doctor finds in this test's output, with nothing young enough to be left alone."""
    return lambda *overrides, fix=False: doctor(config=settings, overrides=overrides, fix=fix, older_than=timedelta(0), spark=spark)


def _counts(spark: SparkSession, location: str, output_format: str = "delta") -> dict[str, int]:
    rows = spark.read.format(output_format).load(location).groupBy("batch_id").count().collect()
    return {str(row["batch_id"]): int(row["count"]) for row in rows}


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_a_batch_of_several_dates_is_deleted_and_scored_again(
    spark: SparkSession, run: Score, look: Callable[..., Checkup], output_format: str
) -> None:
    form = f"output.format={output_format}"
    location = run("a", form, DATES).location
    written = run("b", form, DATES)
    kept = spark.read.format(output_format).load(location).where("batch_id = 'a'").toPandas()
    assert look(form).findings == ()

    done = delete_batch(location, "b", spark=spark)

    assert (done.rows, done.dates, done.run_ids) == (442, ("2026-01-01", "2026-01-02", "2026-01-03"), (written.run_id,))
    assert look(form).findings == ()
    left = spark.read.format(output_format).load(location).toPandas()
    pd.testing.assert_frame_equal(left.sort_values("id", ignore_index=True), kept.sort_values("id", ignore_index=True))
    assert run("b", form, "source.limit=7").outcome == "scored"
    assert run("b", form, "source.limit=7").outcome == "skipped"
    assert _counts(spark, location, output_format) == {"a": 442, "b": 7}
    assert look(form).findings == ()


@pytest.mark.long
def test_after_optimize_only_its_rows_are_deleted(spark: SparkSession, run: Score, look: Callable[..., Checkup]) -> None:
    for batch_id in "abc":
        location = run(batch_id, "source.filter=id < 10").location
    spark.sql(f"OPTIMIZE delta.`{location}`")
    assert look().findings == ()

    done = delete_batch(location, "b", spark=spark)

    assert (done.rows, done.version) == (10, 4)
    assert _counts(spark, location) == {"a": 10, "c": 10}
    assert spark.read.format("delta").option("versionAsOf", 3).load(location).count() == 30
    assert run("b", "source.limit=4").outcome == "scored"
    assert _counts(spark, location) == {"a": 10, "b": 4, "c": 10}
    assert look().findings == ()


@pytest.mark.long
def test_a_table_with_deletion_vectors_is_counted_and_changed_by_spark(
    spark: SparkSession, run: Score, look: Callable[..., Checkup]
) -> None:
    for batch_id in "ab":
        location = run(batch_id, "source.filter=id < 10").location
    spark.sql(f"ALTER TABLE delta.`{location}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
    spark.sql(f"DELETE FROM delta.`{location}` WHERE batch_id = 'a' AND id = 3")

    (found,) = look().findings
    assert (found.kind, found.place) == ("damaged batch", f"{location} (a)")
    delete_batch(location, "a", spark=spark)

    assert _counts(spark, location) == {"b": 10}
    assert run("a", "source.filter=id < 10").outcome == "scored"
    assert _counts(spark, location) == {"a": 10, "b": 10}
    assert look().findings == ()


@pytest.mark.long
def test_a_batch_that_is_compacted_at_the_same_time_is_not_taken_for_deleted(
    spark: SparkSession, run: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch_id in "ab":
        location = run(batch_id, "source.filter=id < 10").location
    real = DeltaTable.create_write_transaction

    def late(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
        DeltaTable(location).optimize.compact()
        real(self, *args, **kwargs)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", late)
    delete_batch(location, "b", spark=spark)
    assert _counts(spark, location) == {"a": 10}

    run("b", "source.filter=id < 10")
    monkeypatch.setattr(DeltaTable, "create_write_transaction", late)
    run("b", "source.filter=id < 7", "run.on_rerun=replace")
    assert _counts(spark, location) == {"a": 10, "b": 7}


@pytest.mark.parametrize("output_format", ["jsonl", "append_row"])
def test_a_file_of_rows_is_deleted_and_written_again(
    run: Score, look: Callable[..., Checkup], tmp_path: Path, output_format: str, spark: SparkSession
) -> None:
    forms = (f"output.format={output_format}", "columns.keys=[id]", "output.columns=keys")
    file = Path(run("a", *forms, "source.limit=5").location)
    before = sorted(path.name for path in file.parent.rglob("*"))
    assert look(*forms).findings == ()

    with pytest.raises(OutputError, match=r"the batch 'b' is not in .*\. There are a\."):
        delete_batch(str(file.parent), "b")
    done = delete_batch(str(file.parent), "a")

    assert (done.rows, done.location) == (5, str(file))
    assert list(file.parent.rglob("*")) == []
    assert run("a", *forms, "source.limit=6").outcome == "scored"
    assert len(file.read_text(encoding="utf-8").splitlines()) == 6
    assert len(before) == len(list(file.parent.rglob("*")))

    (file.parent / ".lakescore").mkdir()
    (file.parent / ".lakescore" / "left.tmp").write_text("1\n", encoding="utf-8")
    file.unlink()
    assert [(one.kind, one.state) for one in look(*forms, fix=True).findings] == [
        ("stale staging", "mended"),
        ("orphaned file", "mended"),
        ("run without a batch", "left"),
    ]


@pytest.mark.long
def test_a_table_of_the_catalog(spark: SparkSession, settings: dict[str, Any], store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings["output"] = {"table": "default.repaired"}
    client, real, asked = mlflow.MlflowClient(store), TableSink._history, []

    def silent_after_the_commit(sink: TableSink, spark: SparkSession) -> list[str | None]:
        asked.append(sink)
        if len(asked) == 3:
            raise RuntimeError("the metastore does not answer")
        return real(sink, spark)

    used = staging(attempt_name("of another output"))
    experiment = client.get_experiment_by_name("lakescore").experiment_id
    tags = {"lakescore.batch_id": "of another output", "lakescore.output": "default.another"}
    at_work = client.create_run(experiment, tags=tags).info.run_id
    try:
        score(settings, overrides=["run.batch_id=a", "source.filter=id < 10"], spark=spark)
        monkeypatch.setattr(TableSink, "_history", silent_after_the_commit)
        assert score(settings, overrides=["run.batch_id=b", "source.filter=id < 4"], spark=spark).rows_written == 4
        monkeypatch.undo()
        assert len(asked) == 3
        for name in ("lakescore_staging_a_0123456789_0123456789ab", used):
            spark.sql(f"CREATE TABLE default.{name} USING delta AS SELECT 1 AS x")

        found = doctor("default.repaired", fix=True, older_than=timedelta(0), config=settings, spark=spark)
        assert [(one.kind, one.state) for one in found.findings] == [("stale staging", "mended")]
        assert spark.catalog.tableExists(f"default.{used}")
        assert delete_batch("default.repaired", "a", config=settings, spark=spark).rows == 10
        assert score(settings, overrides=["run.batch_id=a", "source.limit=3"], spark=spark).outcome == "scored"
        assert _counts_of_table(spark) == {"a": 3, "b": 4}
        assert doctor("default.repaired", older_than=timedelta(0), config=settings, spark=spark).findings == ()
        with pytest.raises(InputError, match=r"^OUTPUT: there is no table default\.repiared; .*give its --config$"):
            doctor("default.repiared", spark=spark)
    finally:
        client.set_terminated(at_work, "FAILED")
        for name in ("repaired", used):
            spark.sql(f"DROP TABLE IF EXISTS default.{name}")


@pytest.mark.long
def test_a_batch_of_the_catalog_is_deleted_twice_and_one_without_rows_too(spark: SparkSession, settings: dict[str, Any]) -> None:
    settings["output"] = {"table": "default.repaired"}
    try:
        for batch_id, rows in (("a", 10), ("empty", 0), ("b", 4)):
            score(settings, overrides=[f"run.batch_id={batch_id}", f"source.filter=id < {rows}"], spark=spark)
        for batch_id, rows in (("a", 10), ("empty", 0), ("a", 3)):
            assert delete_batch("default.repaired", batch_id, config=settings, spark=spark).rows == rows
            again = score(settings, overrides=[f"run.batch_id={batch_id}", "source.limit=3"], spark=spark)
            assert again.outcome == "scored"
        assert _counts_of_table(spark) == {"a": 3, "b": 4, "empty": 3}
        assert doctor("default.repaired", older_than=timedelta(0), config=settings, spark=spark).findings == ()
    finally:
        spark.sql("DROP TABLE IF EXISTS default.repaired")


def _counts_of_table(spark: SparkSession) -> dict[str, int]:
    return {row["batch_id"]: row["count"] for row in spark.read.table("default.repaired").groupBy("batch_id").count().collect()}


class _Fussy(mlflow.pyfunc.PythonModel):
    """Breaks on one row."""

    def predict(self, context: Any, model_input: pd.DataFrame) -> np.ndarray[Any, Any]:
        if (model_input["x"] == 3).any():
            raise ValueError("no such x")
        return model_input["x"].to_numpy()


def test_quarantine_and_drift_go_with_their_batch_where_that_is_asked_for(
    spark: SparkSession, config: Make, store: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"x": np.arange(30.0)})
    data = tmp_path / "data"
    data.mkdir()
    frame.to_parquet(data / "a.parquet", index=False)
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="m", python_model=_Fussy(), signature=infer_signature(frame, np.array([1.0]))).model_uri
    settings = config(
        model={"uri": uri},
        source={"path": str(data)},
        errors={"on_row_error": "quarantine"},
        drift={"reference": str(data), "table": str(tmp_path / "drift")},
        run={"date": "2026-01-31"},
    )
    for batch_id in "ab":
        location = score(settings, overrides=[f"run.batch_id={batch_id}"], spark=spark).location
    assert doctor(config=settings, older_than=timedelta(0), spark=spark).findings == ()

    done = delete_batch(None, "a", config=settings, quarantined=True, drift=True, spark=spark)

    assert (done.rows, done.beside) == (29, ("quarantine", "drift table", "reports"))
    for table in (location, f"{location}_quarantine", str(tmp_path / "drift")):
        assert set(_counts(spark, table)) == {"b"}
    assert [path.name for path in Path(f"{location}_drift").iterdir()] == ["b"]
    assert doctor(config=settings, older_than=timedelta(0), spark=spark).findings == ()


def test_a_parquet_folder_that_was_removed_by_hand_is_missed(run: Score, look: Callable[..., Checkup]) -> None:
    first = run("a", "output.format=parquet", "source.limit=3")
    run("b", "output.format=parquet", "source.limit=3")
    shutil.rmtree(Path(first.location) / "score_date=2026-01-31" / "batch_id=a")

    (found,) = look("output.format=parquet").findings

    assert (found.kind, found.place) == ("run without a batch", first.run_id)
    assert run("a", "output.format=parquet", "source.limit=3").outcome == "scored"
    assert look("output.format=parquet").findings == ()


def test_the_log_that_spark_and_the_library_write_has_the_deletion(spark: SparkSession, run: Score) -> None:
    location = run("a", "source.limit=3").location
    delete_batch(location, "a")

    newest = spark.sql(f"DESCRIBE HISTORY delta.`{location}`").first()
    assert newest is not None
    assert '"deleted": true' in newest["userMetadata"]
    assert DeltaTable(location).transaction_version("lakescore-deleted:a") == 2
    assert spark.read.format("delta").load(location).count() == 0
