"""Only what is new: Delta versions, the change feed, files and a column that grows, as Spark reads them and as a run records them."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from lakescore import increments, planning, read, score, source
from lakescore.cli import describe_plan
from lakescore.compose import compose
from lakescore.errors import ConfigError, InputError, LakescoreError
from lakescore.increments import Taken
from lakescore.pipeline import dry_run
from lakescore.sinks import FileSink
from lakescore.sinks.base import Layout

Make = Callable[..., dict[str, Any]]
SCHEMA = T.StructType([T.StructField("batch_id", T.StringType()), T.StructField("score_date", T.DateType())])


class Job:
    """A job over one source, batch by batch, as Spark reads them."""

    def __init__(self, spark: SparkSession, folder: Path, **keys: Any) -> None:
        self.spark = spark
        self.values = {"model": {"uri": "m"}, "source": keys, "output": {"path": str(folder / "out")}}

    def take(self) -> Taken | None:
        return increments.take(compose(values=self.values), self.spark, lambda: self.spark)

    def rows(self, taken: Taken) -> list[tuple[Any, ...]]:
        config = taken.config.source
        df = source.read(self.spark, config, source.inspect(config, window=taken.window), ()).df
        return sorted((tuple(row) for row in df.collect()), key=repr)

    def publish(self, taken: Taken) -> None:
        """Have the output know the batch."""
        run = taken.config.run
        sink = planning.output_sink(taken.config, uuid.uuid4().hex)
        assert isinstance(sink, FileSink)

        def write(layout: Layout) -> Collection[str]:
            Path(layout.folder).mkdir(parents=True)
            pq.write_table(pa.table({"batch_id": [str(run.batch_id)]}), Path(layout.folder, "part-0.parquet"))
            return {"part-0.parquet"}

        sink.check(None, SCHEMA)
        sink.publish(None, sink.stage_files(SCHEMA, write))

    def next(self) -> list[tuple[Any, ...]] | None:
        """The rows of the next batch, which is published; None where nothing is new."""
        taken = self.take()
        if taken is None:
            return None
        rows = self.rows(taken)
        self.publish(taken)
        return rows


# --- Delta versions


def test_added_rows_have_the_tables_types_partitions_and_columns(spark: SparkSession, tmp_path: Path) -> None:
    path, day = tmp_path / "a table", dt.date(2026, 1, 31)
    schema = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("site", pa.string()), ("n", pa.int32())])

    def add(rows: list[tuple[Any, ...]], *more: pa.Field) -> None:
        wider = pa.schema([*schema, *more])
        columns = dict(zip(wider.names, zip(*rows, strict=True), strict=True)) if rows else {name: [] for name in wider.names}
        table = pa.table({name: list(values) for name, values in columns.items()}, wider)
        write_deltalake(path, table, mode="append", partition_by=["day", "site", "n"], schema_mode="merge")

    add([])
    job = Job(spark, tmp_path, path=str(path), incremental={"by": "versions"})
    assert job.next() is None
    add([(1, day, "a b/ö", 7), (2, None, "0123", None)])
    first = job.next()
    add([(3, day, None, 7, 1.5)], pa.field("x", pa.float64()))
    add([(4, None, "5", 8, None)], pa.field("x", pa.float64()))
    DeltaTable(path).optimize.compact()

    assert first == [(1, day, "a b/ö", 7), (2, None, "0123", None)]
    assert job.next() == [(3, day, None, 7, 1.5), (4, None, "5", 8, None)]
    assert job.next() is None
    assert not (tmp_path / "out_incremental" / "reading").exists()


def test_renamed_columns_and_deletion_vectors_are_no_hindrance(spark: SparkSession, tmp_path: Path) -> None:
    place = f"delta.`{tmp_path / 'source'}`"
    mapped = "'delta.columnMapping.mode' = 'name', 'delta.enableDeletionVectors' = 'true'"
    columns = "id long, `a name` struct<`x y`: int>, day date"
    spark.sql(f"CREATE TABLE {place} ({columns}) USING delta PARTITIONED BY (day) TBLPROPERTIES ({mapped})")
    spark.sql(f"INSERT INTO {place} SELECT id, named_struct('x y', 1), DATE'2026-01-31' FROM range(10, 31)")
    spark.sql(f"DELETE FROM {place} WHERE id = 10")
    job = Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "versions"})
    first = job.next()
    spark.sql(f"ALTER TABLE {place} RENAME COLUMN `a name` TO b")
    spark.sql(f"INSERT INTO {place} SELECT 2, named_struct('x y', 5), DATE'2026-02-01'")

    assert first is not None
    assert len(first) == 20
    assert job.next() == [(2, (5,), dt.date(2026, 2, 1))]


def test_a_table_of_the_catalog_has_versions_too(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql("CREATE TABLE new_rows USING delta AS SELECT 1L AS id")
    try:
        job = Job(spark, tmp_path, table="new_rows", incremental={"by": "versions"})
        found = [job.next()]
        spark.sql("INSERT INTO new_rows VALUES (2), (3)")
        found += [job.next(), job.next()]
    finally:
        spark.sql("DROP TABLE new_rows")

    assert found == [[(1,)], [(2,), (3,)], None]


# --- Delta's change feed


def feed(folder: Path, *ids: int) -> DeltaTable:
    """Add rows to a table that keeps a change feed."""
    rows = pa.table({"id": pa.array(ids, pa.int64()), "x": pa.array([0] * len(ids), pa.int32())})
    write_deltalake(folder / "source", rows, mode="append", configuration={"delta.enableChangeDataFeed": "true"})
    return DeltaTable(folder / "source")


def test_the_change_feed_gives_inserts_and_updates_and_counts_deletes(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed(tmp_path, 1, 2, 3)
    job = Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "changes"})
    first = job.next()
    feed(tmp_path, 4).update(updates={"x": "5"}, predicate="id = 1")
    DeltaTable(tmp_path / "source").delete("id = 2")
    with caplog.at_level(logging.INFO, "lakescore.increments"):
        second = job.next()
    DeltaTable(tmp_path / "source").delete("id = 3")

    assert first == [(1, 0), (2, 0), (3, 0)]
    assert second == [(1, 5), (4, 0)]
    assert "source: the change feed has 1 delete, 1 insert, 1 update_postimage, 1 update_preimage" in caplog.messages
    assert job.next() is None
    assert (tmp_path / "out_incremental" / "000002.json").exists(), "the deletes are not counted again"


def test_the_change_feed_begins_where_start_says(spark: SparkSession, tmp_path: Path) -> None:
    for one in (1, 2, 3):
        feed(tmp_path, one)

    assert Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "changes", "start": "1"}).next() == [(2, 0), (3, 0)]


def test_a_table_without_a_change_feed_is_refused_with_what_to_set(spark: SparkSession, tmp_path: Path) -> None:
    _append(tmp_path / "source", pd.DataFrame({"id": [1]}))

    with pytest.raises(InputError, match=r"keeps no change feed; ALTER TABLE delta\.`file:.*` SET TBLPROPERTIES \(delta\.enableChange"):
        Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "changes"}).take()


def test_what_is_no_delta_table_has_no_changes(spark: SparkSession, tmp_path: Path) -> None:
    add = pa.table({"id": [1]})
    (tmp_path / "source").mkdir()
    pq.write_table(add, tmp_path / "source" / "f.parquet")

    with pytest.raises(InputError, match=r"source: .*/source is .*; take source\.incremental\.by=column or files|is no Delta table"):
        Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "changes"}).take()


# --- files


def test_new_files_in_partition_folders_keep_their_columns(spark: SparkSession, tmp_path: Path) -> None:
    job = Job(spark, tmp_path, path=str(tmp_path / "source"), incremental={"by": "files"})
    found = []
    for day, name in (("2026-01-30", "a"), ("2026-01-31", "b"), ("2026-01-31", "c d[1]")):
        (tmp_path / "source" / f"day={day}").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [name]}), tmp_path / "source" / f"day={day}" / f"{name}.parquet")
        found.append(job.next())

    assert found == [[("a", dt.date(2026, 1, 30))], [("b", dt.date(2026, 1, 31))], [("c d[1]", dt.date(2026, 1, 31))]]
    assert job.next() is None


def test_new_files_of_several_partitioned_folders_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "day=1").mkdir(parents=True)
        pq.write_table(pa.table({"id": [1]}), tmp_path / name / "day=1" / "f.parquet")
    job = Job(spark, tmp_path, path=[str(tmp_path / "a"), str(tmp_path / "b")], incremental={"by": "files"})

    with pytest.raises(InputError, match="have partition folders, which can be read below one folder only"):
        job.next()


def test_new_csv_and_text_files_are_read_as_always(spark: SparkSession, tmp_path: Path) -> None:
    csv = Job(spark, tmp_path / "csv", path=str(tmp_path / "*.csv"), incremental={"by": "files"})
    text = Job(spark, tmp_path / "text", path=str(tmp_path / "texts"), format="text_files", incremental={"by": "files"})
    (tmp_path / "texts" / "below").mkdir(parents=True)
    found: list[Any] = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,code\n{name},0123\n")
        (tmp_path / "texts" / "below" / f"{name}.txt").write_text("" if name == "b" else "hello")
        found += [csv.next(), [(path, size, content) for path, _, size, content in text.next() or ()]]

    below = f"{tmp_path}/texts/below"
    assert found == [[("a", "0123")], [(f"{below}/a.txt", 5, "hello")], [("b", "0123")], [(f"{below}/b.txt", 0, "")]]
    assert (csv.next(), text.next()) == (None, None)


# --- a column


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("long", ["1", "2", "9007199254740993"]),
        ("smallint", ["-1", "2", "3"]),
        ("date", ["DATE'2026-01-30'", "DATE'2026-01-31'", "DATE'2026-02-01'"]),
        (
            "timestamp",
            ["TIMESTAMP'2026-01-31T00:00:00.000001Z'", "TIMESTAMP'2026-01-31T00:00:00.000002Z'", "TIMESTAMP'2026-03-29T02:30:00Z'"],
        ),
        ("timestamp_ntz", [f"TIMESTAMP_NTZ'2026-01-31 00:00:00{fraction}'" for fraction in ("", ".12", ".123456")]),
        ("string", ["'2026-01-31'", "'B'", "'ö'"]),
    ],
)
def test_a_column_gives_the_rows_behind_the_largest_value(spark: SparkSession, tmp_path: Path, kind: str, values: list[str]) -> None:
    job = Job(spark, tmp_path, query="SELECT * FROM growing", incremental={"by": "column", "column": "at.x"})
    found, rows = [], []
    for number, value in enumerate(values):
        rows.append(f"SELECT {number} AS id, CAST({value} AS {kind}) AS `at.x`")
        spark.sql(" UNION ALL ".join(rows)).createOrReplaceTempView("growing")
        found.append([row[0] for row in job.next() or ()])

    assert found == [[0], [1], [2]]
    assert job.next() is None


def test_rows_without_a_value_are_counted_and_never_scored(spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    query = "SELECT id, IF(id = 2, NULL, id) AS n FROM range(5)"
    job = Job(spark, tmp_path, query=query, incremental={"by": "column", "column": "n", "start": "1"})

    with caplog.at_level(logging.WARNING, "lakescore.increments"):
        assert job.next() == [(1, 1), (3, 3), (4, 4)]
    assert caplog.messages == ["source: 1 row(s) have no n, and are never scored"]


def test_rows_that_come_while_a_batch_waits_are_the_next_ones(spark: SparkSession, tmp_path: Path) -> None:
    job = Job(spark, tmp_path, query="SELECT * FROM growing", incremental={"by": "column", "column": "id"})
    spark.range(1, 2).createOrReplaceTempView("growing")
    assert job.take() is not None
    spark.range(1, 3).createOrReplaceTempView("growing")

    assert [job.next(), job.next(), job.next()] == [[(1,)], [(2,)], None]


@pytest.mark.parametrize(
    ("keys", "error", "line"),
    [
        ({"column": "idd"}, InputError, "source.incremental.column: there is no column 'idd' in the source. Did you mean 'id'?"),
        (
            {"column": "x"},
            InputError,
            "source.incremental.column: 'x' is double; expected an integer, a date, a timestamp or a text that grows",
        ),
        (
            {"column": "id", "start": "soon"},
            ConfigError,
            "source.incremental.start: got 'soon'; expected a value of the column's type, bigint",
        ),
    ],
)
def test_a_column_that_is_no_watermark_is_refused(
    spark: SparkSession, tmp_path: Path, keys: dict[str, str], error: type[LakescoreError], line: str
) -> None:
    query = "SELECT id, double(id) AS x FROM range(3)"

    with pytest.raises(error) as caught:
        Job(spark, tmp_path, query=query, incremental={"by": "column", **keys}).take()

    assert str(caught.value) == line


# --- whole runs


def _append(path: Path, frame: pd.DataFrame) -> None:
    write_deltalake(path, pa.Table.from_pandas(frame, preserve_index=False), mode="append")


def _written(settings: dict[str, Any]) -> pd.DataFrame:
    frame = DeltaTable(settings["output"]["path"]).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    return frame.sort_values("id").reset_index(drop=True)


@pytest.fixture
def settings(config: Make, linear_uri: str, tmp_path: Path) -> dict[str, Any]:
    """A job that scores what is added to the Delta table `source`."""
    made = config(
        run={"name": "patients", "date": "2026-01-31"},
        model={"uri": linear_uri},
        source={"path": str(tmp_path / "source"), "incremental": {"by": "versions"}},
    )
    made["tracking"]["experiment"] = f"incremental-{tmp_path.name}"
    return made


@pytest.mark.parametrize("way", ["workers", "spark"])
def test_runs_score_each_row_once_and_record_what_they_read(
    spark: SparkSession, settings: dict[str, Any], diabetes: pd.DataFrame, features: list[str], linear_uri: str, tmp_path: Path, way: str
) -> None:
    if way == "spark":
        settings["source"]["filter"] = "id >= 0"
    results = []
    for part in np.array_split(diabetes, 3):
        _append(tmp_path / "source", part)
        results.append(score(settings, spark=spark))
    nothing = score(settings, spark=spark)

    rows = _written(settings)
    pd.testing.assert_frame_equal(rows[diabetes.columns.tolist()], diabetes)
    # A sum of products depends on how many rows are multiplied at once.
    expected = mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features])
    np.testing.assert_allclose(rows["prediction"], expected, rtol=1e-12)
    assert [result.rows_written for result in results] == [148, 147, 147]
    assert {result.engine for result in results} == {"direct" if way == "workers" else "fast"}
    assert (nothing.outcome, nothing.run_id, nothing.batch_id) == ("nothing_new", "", results[-1].batch_id)
    assert str(nothing) == (
        f"nothing new since the batch {results[-1].batch_id} in {results[-1].location}; nothing to do (source.incremental)"
    )
    with pytest.raises(InputError, match=r"^read: the run found nothing new to score; read\('.*'\) gives all that is there$"):
        read(nothing)
    client = mlflow.MlflowClient(settings["tracking"]["tracking_uri"])
    (experiment,) = client.search_experiments(filter_string=f"name = '{settings['tracking']['experiment']}'")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    recorded = [[run.data.params.get(f"source.incremental.{key}") for key in ("by", "from", "to")] for run in runs]
    assert recorded == [["versions", None, "0"], ["versions", "0", "1"], ["versions", "1", "2"]]
    assert len(read(results[1].run_id)) == 147


def test_a_run_scores_what_was_begun_first_and_then_what_came_since(
    spark: SparkSession, settings: dict[str, Any], diabetes: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _append(tmp_path / "source", diabetes[:100])
    begun = increments.take(compose(values=settings), None, lambda: spark)
    _append(tmp_path / "source", diabetes[100:])
    settings["run"]["date"] = "2026-02-01"

    with caplog.at_level(logging.WARNING, "lakescore.pipeline"):
        result = score(settings, spark=spark)

    assert begun is not None
    rows = _written(settings)
    assert rows["id"].tolist() == diabetes["id"].tolist()
    assert rows.groupby("batch_id").size().to_dict() == {begun.config.run.batch_id: 100, result.batch_id: 342}
    assert rows.groupby("batch_id")["score_date"].first().astype(str).tolist() == ["2026-01-31", "2026-02-01"]
    assert caplog.messages == [f"source: the batch {begun.config.run.batch_id}, which another run had begun, is scored; looking for more"]


def test_a_dry_run_shows_what_is_new_and_writes_nothing(
    spark: SparkSession, settings: dict[str, Any], diabetes: pd.DataFrame, tmp_path: Path
) -> None:
    settings["source"]["filter"] = "id >= 0"
    _append(tmp_path / "source", diabetes[:100])
    score(settings, spark=spark)
    _append(tmp_path / "source", diabetes[100:])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    shown = describe_plan(dry_run(settings, spark=spark))

    assert "what is new: rows added by the versions 1 to 1" in shown
    assert "batch:  patients-000001-" in shown
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_cannot_be_told_fails_the_run_with_its_line(
    spark: SparkSession, settings: dict[str, Any], diabetes: pd.DataFrame, tmp_path: Path
) -> None:
    _append(tmp_path / "source", diabetes)
    score(settings, spark=spark)
    DeltaTable(tmp_path / "source").delete("id = 1")

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    client = mlflow.MlflowClient(settings["tracking"]["tracking_uri"])
    (experiment,) = client.search_experiments(filter_string=f"name = '{settings['tracking']['experiment']}'")
    failed = client.search_runs([experiment.experiment_id], "attributes.status = 'FAILED'")
    assert [run.data.tags["lakescore.error"] for run in failed] == [str(caught.value)]


def test_quarantine_and_drift_work_batch_by_batch(
    spark: SparkSession, settings: dict[str, Any], diabetes: pd.DataFrame, features: list[str], tmp_path: Path
) -> None:
    reference = tmp_path / "reference" / "train.parquet"
    reference.parent.mkdir()
    diabetes.to_parquet(reference)
    settings |= {"errors": {"on_row_error": "quarantine"}, "drift": {"reference": str(reference)}, "columns": {"labels": ["target"]}}
    settings["columns"]["keys"] = ["id"]
    bad = diabetes.astype(dict.fromkeys(features, str))
    results = []
    for start in (0, 200):
        part = bad[start : start + 200].copy()
        part.iloc[3, part.columns.get_loc(features[0])] = "no number"
        _append(tmp_path / "source", part)
        results.append(score(settings, spark=spark))

    assert [(one.rows_written, one.rows_quarantined) for one in results] == [(199, 1), (199, 1)]
    quarantined = DeltaTable(tmp_path / "out_quarantine").to_pandas()
    assert sorted(quarantined["id"]) == [3, 203]
    assert set(quarantined["batch_id"]) == {one.batch_id for one in results}
    assert all((tmp_path / "out_drift" / one.batch_id / "drift_results.json").exists() for one in results)
