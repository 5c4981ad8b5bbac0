"""Reading results back: a run's rows wherever it wrote them, all rows of a path, and what is said where there are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from lakescore import read, score, session
from lakescore.cli import main
from lakescore.config import OutputConfig
from lakescore.errors import InputError, LakescoreError
from lakescore.result import ScoreResult
from lakescore.sinks import open_sink
from lakescore.sinks.base import Batch, PublishedRows

Make = Callable[..., dict[str, Any]]
Score = Callable[..., ScoreResult]


@pytest.fixture
def run(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> Score:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"date": "2026-01-31"})
    return lambda *overrides: score(settings, overrides=overrides, spark=spark)


@pytest.fixture(params=["delta", "parquet", pytest.param("table", marks=pytest.mark.long)])
def table(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Any:
    """The overrides that write to one table of this test."""
    if request.param != "table":
        yield (f"output.format={request.param}", f"output.path={tmp_path / 'out'}")
        return
    yield ("output.table=default.results",)
    spark.sql("DROP TABLE IF EXISTS default.results")


def test_a_run_gives_the_rows_of_its_batch(spark: SparkSession, run: Score, table: Any, store: str) -> None:
    first = run(*table, "run.batch_id=at:2026-01-31T00:00+01", "source.filter=id < 5")
    run(*table, "run.batch_id=b", "source.filter=id >= 5")

    as_pandas, as_spark = read(first.run_id, tracking_uri=store), read(first.run_id, tracking_uri=store, spark=spark)

    for frame in (as_pandas, as_spark.toPandas()):
        assert sorted(frame["id"]) == list(range(5))
        assert frame["batch_id"].unique().tolist() == ["at:2026-01-31T00:00+01"]
        assert frame["score_date"].astype(str).unique().tolist() == ["2026-01-31"]
    assert len(read(first, limit=2)) == 2


def test_a_skipped_run_gives_the_batch_that_was_there(run: Score, table: Any) -> None:
    run(*table, "run.batch_id=a", "source.filter=id < 5")

    skipped = run(*table, "run.batch_id=a")

    assert skipped.outcome == "skipped"
    assert len(read(skipped)) == 5


def test_a_run_whose_batch_was_replaced_says_so(run: Score, table: Any) -> None:
    first = run(*table, "run.batch_id=a", "source.filter=id < 5")
    run(*table, "run.batch_id=a", "run.on_rerun=replace")

    with pytest.raises(InputError, match=rf"^read: the rows of the run {first.run_id} are not in .* any more: another run has replaced"):
        read(first)


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_a_path_gives_all_batches_also_those_with_other_columns(run: Score, tmp_path: Path, output_format: str) -> None:
    where = (f"output.format={output_format}", f"output.path={tmp_path / 'out'}")
    run(*where, "run.batch_id=a", "source.limit=5", "columns.drop=[target]")
    run(*where, "run.batch_id=b", "source.limit=7", "output.merge_schema=true")

    found = read(tmp_path / "out")

    assert found.groupby("batch_id")["target"].count().to_dict() == {"a": 0, "b": 7}
    assert found.groupby("batch_id").size().to_dict() == {"a": 5, "b": 7}


@pytest.mark.parametrize("output_format", ["jsonl", "append_row"])
def test_a_row_file_gives_its_rows_in_its_order(spark: SparkSession, run: Score, tmp_path: Path, output_format: str) -> None:
    where = (f"output.format={output_format}", f"output.path={tmp_path / 'out'}", "output.columns=[id]")
    result = run(*where, "source.limit=9")

    by_run, by_folder, by_file = read(result.run_id), read(tmp_path / "out"), read(result.location)

    assert by_run["id"].dtype == "int64"
    assert by_run["prediction"].dtype == "float64"
    assert by_run.equals(by_folder)
    assert by_run.equals(by_file)
    as_spark = read(result, spark=spark)
    assert dict(as_spark.dtypes)["prediction"] == "double"
    assert [row["id"] for row in as_spark.collect()] == by_run["id"].tolist()
    assert len(read(result, limit=4)) == as_spark.limit(4).count()


def test_large_whole_numbers_beside_nulls_come_back_exactly(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame
) -> None:
    rows = diabetes[:3].assign(id=pd.array([2**60 + 1, None, 3], dtype="Int64"))

    result = score(config(model={"uri": linear_uri}), data=rows, spark=spark)

    assert set(read(result)["id"].dropna()) == {2**60 + 1, 3}


def test_names_with_spaces_and_deleted_rows_are_read_without_spark(
    spark: SparkSession, run: Score, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = "columns.rename={id: 'patient (id)'}"
    first = run(renamed, "columns.keys=['patient (id)']", "run.batch_id=at=1", "source.filter=id < 5")
    second = run(renamed, "columns.keys=['patient (id)']", "run.batch_id=b", "source.filter=id >= 5", "source.limit=9")
    place = f"delta.`{first.location}`"
    spark.sql(f"ALTER TABLE {place} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    spark.sql(f"DELETE FROM {place} WHERE `patient (id)` = 3")
    sink = open_sink(OutputConfig(path=first.location), Batch("at=1", first.run_id, date(2026, 1, 31), "skip"))
    assert sink.rows_of(None, first.run_id) == PublishedRows(5, first.version)  # as it was then
    everything = spark.read.format("delta").load(first.location).toPandas().sort_values("patient (id)", ignore_index=True)
    monkeypatch.setattr(session, "open_session", None)

    by_path = read(first.location)

    assert sorted(read(first.run_id, tracking_uri=store)["patient (id)"]) == [0, 1, 2, 4]
    assert (len(read(second)), len(read(second, limit=2)), len(everything)) == (9, 2, 13)
    assert by_path["prediction"].notna().all()
    pd.testing.assert_frame_equal(by_path.sort_values("patient (id)", ignore_index=True), everything, check_dtype=False)


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_a_batch_with_a_long_id_is_read(run: Score, tmp_path: Path, output_format: str) -> None:
    """Delta's statistics have no text of more than 32 characters."""
    where = (f"output.format={output_format}", f"output.path={tmp_path / 'out'}")
    long = f"run.batch_id={'a' * 100}"
    run(*where, "run.batch_id=b", "source.limit=3")

    first, skipped = run(*where, long, "source.limit=5"), run(*where, long)

    assert skipped.outcome == "skipped"
    assert (len(read(first)), len(read(skipped)), len(read(first, limit=2))) == (5, 5, 2)
    assert len(read(tmp_path / "out")) == 8


@pytest.mark.parametrize("output_format", ["delta", "parquet", "jsonl"])
def test_far_times_large_numbers_and_nested_ones_come_back_exactly(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, tmp_path: Path, output_format: str
) -> None:
    extra = (
        "if(id = 0, null, 1152921504606846977) large",
        "cast(if(id = 0, null, 1234567) as int) small",
        "timestamp'9999-12-31 00:00:00' far",
        "named_struct('n', if(id = 0, null, 1152921504606846977), 'd', 12345678901234567890.123BD, 'x', 0.5d) nested",
    )
    rows = spark.createDataFrame(diabetes[:2]).selectExpr("*", *extra)
    settings = config(model={"uri": linear_uri}, output={"path": str(tmp_path / "out"), "format": output_format})
    kinds = ("TIMESTAMP_MICROS",) if output_format == "jsonl" else ("INT96", "TIMESTAMP_MICROS")
    try:
        for kind in kinds:  # INT96 is what a session writes that was not started by Lakescore
            spark.conf.set("spark.sql.parquet.outputTimestampType", kind)
            score(settings, overrides=[f"run.batch_id={kind}"], data=rows, spark=spark)
    finally:
        spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")

    found = read(tmp_path / "out").sort_values("id")

    expected = {
        "large": [None, 2**60 + 1],
        "small": [None, 1234567],
        "far": [pd.Timestamp(9999, 12, 31, tz="UTC").as_unit("us")] * 2,
        "nested": [{"n": n, "d": Decimal("12345678901234567890.123"), "x": 0.5} for n in (None, 2**60 + 1)],
    }
    for name, values in expected.items():
        present = [None if value is pd.NA else value for value in found[name]]
        assert present == [value for value in values for _ in kinds], name
    assert str(found["far"].dt.tz) == "UTC"
    assert str(found["large"].dtype) == "Int64"


# --- what is refused


def test_what_is_not_there_is_named(run: Score, tmp_path: Path, store: str) -> None:
    (tmp_path / "out").mkdir()
    for what, message in {
        str(tmp_path / "oot"): f"read: {tmp_path / 'oot'} is neither a path that exists nor an MLflow run's ID. Did you mean 'out'?",
        "0" * 32: f"read: there is no run {'0' * 32} in {store}; give its --tracking-uri",
        str(tmp_path / "out"): f"read: {tmp_path / 'out'} holds nothing that Lakescore wrote",
    }.items():
        with pytest.raises(InputError) as error:
            read(what)
        assert str(error.value) == message


def test_a_failed_run_tells_its_reason(run: Score, store: str) -> None:
    with pytest.raises(LakescoreError) as failure:
        run("source.filter=nope > 1")
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("lakescore")
    assert experiment is not None
    failed = client.search_runs([experiment.experiment_id], max_results=1)[0].info.run_id

    with pytest.raises(InputError) as error:
        read(failed)

    assert str(error.value) == f"read: the run {failed} is FAILED and wrote nothing: {failure.value}"


def test_a_run_of_something_else_is_refused(store: str) -> None:
    with mlflow.start_run() as other:
        pass

    with pytest.raises(InputError, match=r"is no run of lakescore score$"):
        read(other.info.run_id)


def test_a_changed_row_file_is_refused(run: Score, tmp_path: Path) -> None:
    result = run("output.format=jsonl", f"output.path={tmp_path / 'out'}", "source.limit=2")
    Path(result.location).write_text("{}\n")

    with pytest.raises(InputError, match=r"was changed since Lakescore wrote it$"):
        read(result)


# --- the command


def test_the_command_prints_a_table(run: Score, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("source.filter=id < 30", "output.columns=[id]")
    capsys.readouterr()

    code = main(["read", result.run_id, "--tracking-uri", store, "--limit", "3"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert re.match(r" *id +prediction +model_uri", lines[0])
    assert len(lines) == 4


def test_the_commands_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "nothing/here"]) == 4
    assert main(["read", "x", "--limit", "-1"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "lakescore: read: nothing/here is neither a path that exists nor an MLflow run's ID.",
        "lakescore: --limit: got -1; expected a number of rows, or 0 for all",
    ]
