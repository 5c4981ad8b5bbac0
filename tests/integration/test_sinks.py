"""Batches: whole or nothing, never twice, on Delta, Parquet and catalog tables."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from delta.tables import DeltaTable as DeltaTableBuilder
from deltalake import DeltaTable
from pyspark import InheritableThread
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import score, session
from lakescore.errors import LakescoreError, OutputError
from lakescore.result import ScoreResult
from lakescore.sinks import delta, journal, parquet
from lakescore.sinks.base import attempt_name
from lakescore.storage import Location

Make = Callable[..., dict[str, Any]]
Score = Callable[..., ScoreResult]


@pytest.fixture(params=["delta", "parquet"])
def output_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path, output_format: str) -> Score:
    """Score the diabetes data into one table of this test: ``run("run.batch_id=x")``."""
    settings = config(
        model={"uri": linear_uri},
        source={"path": str(diabetes_path)},
        output={"path": str(tmp_path / "out"), "format": output_format},
        run={"date": "2026-01-31"},
    )
    return lambda *overrides: score(settings, overrides=overrides, spark=spark)


@pytest.fixture
def rows(spark: SparkSession, tmp_path: Path, output_format: str) -> Callable[[], pd.DataFrame]:
    """The table of this test as a plain Spark reader sees it."""
    return lambda: spark.read.format(output_format).load(str(tmp_path / "out")).toPandas()


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".crc")}


def test_a_second_batch_is_appended_and_the_first_is_untouched(run: Score, rows: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    run("run.batch_id=a")
    before = _files(tmp_path / "out")

    run("run.batch_id=b", "source.limit=10")

    assert rows().groupby("batch_id").size().to_dict() == {"a": 442, "b": 10}
    assert before <= _files(tmp_path / "out")


def test_skip_finds_the_batch_and_changes_nothing(run: Score, rows: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    run("run.batch_id=a")
    before = _files(tmp_path / "out")

    result = run("run.batch_id=a", "run.on_rerun=skip")

    assert (result.outcome, result.rows_written) == ("skipped", 0)
    assert _files(tmp_path / "out") == before


def test_fail_names_the_batch_and_changes_nothing(run: Score, tmp_path: Path) -> None:
    run("run.batch_id=a")
    before = _files(tmp_path / "out")

    with pytest.raises(OutputError) as error:
        run("run.batch_id=a", "run.on_rerun=fail")

    location = tmp_path / "out"
    assert str(error.value) == (
        f"run.batch_id: the batch a is in {location} already; set run.on_rerun=skip or replace, or give another batch_id"
    )
    assert error.value.exit_code == 5
    assert _files(tmp_path / "out") == before


def test_replace_swaps_exactly_that_batch(run: Score, rows: Callable[[], pd.DataFrame]) -> None:
    run("run.batch_id=a", "source.filter=id < 100")
    run("run.batch_id=b", "source.filter=id >= 400")

    run("run.batch_id=a", "run.on_rerun=replace", "source.filter=id < 7", "run.date=2026-02-01")

    found = rows()
    assert sorted(found.loc[found["batch_id"] == "a", "id"]) == list(range(7))
    assert sorted(found.loc[found["batch_id"] == "b", "id"]) == list(range(400, 442))
    assert found.loc[found["batch_id"] == "a", "score_date"].astype(str).unique().tolist() == ["2026-02-01"]


def test_a_replaced_batch_can_be_replaced_again_and_then_skipped(run: Score, rows: Callable[[], pd.DataFrame]) -> None:
    for limit in (5, 6, 7):
        run("run.batch_id=a", "run.on_rerun=replace", f"source.limit={limit}")

    assert run("run.batch_id=a").outcome == "skipped"
    assert len(rows()) == 7


def test_a_date_expression_partitions_each_row_by_its_own_date(run: Score, rows: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    run("run.batch_id=a", "output.partition_by=date_add(date'2026-01-01', cast(id % 3 as int))")

    found = rows()
    assert found.groupby(found["score_date"].astype(str)).size().to_dict() == {"2026-01-01": 148, "2026-01-02": 147, "2026-01-03": 147}
    assert (found["score_date"].astype("datetime64[ns]").dt.day == found["id"] % 3 + 1).all()


def test_a_batch_id_with_every_allowed_character_comes_back(run: Score, rows: Callable[[], pd.DataFrame]) -> None:
    batch = "scheduled__2026-01-31T00:00:00+00:00@a=b~c.d"

    run(f"run.batch_id={batch}", "source.limit=3")

    assert rows()["batch_id"].tolist() == [batch] * 3
    assert run(f"run.batch_id={batch}").outcome == "skipped"


def test_zero_rows_are_a_batch_too(run: Score, rows: Callable[[], pd.DataFrame]) -> None:
    result = run("run.batch_id=a", "source.filter=id < 0")

    assert (result.outcome, result.rows_read, result.rows_written) == ("scored", 0, 0)
    assert len(rows()) == 0
    assert "prediction" in rows().columns
    assert run("run.batch_id=a", "source.filter=id < 0").outcome == "skipped"


def test_a_column_of_another_type_is_refused_before_scoring(run: Score, tmp_path: Path) -> None:
    run("run.batch_id=a")
    before = _files(tmp_path / "out")

    with pytest.raises(OutputError) as error:
        run("run.batch_id=b", "columns.cast.id=string")

    assert str(error.value) == (
        f"output.path: {tmp_path / 'out'}: column 'id' is bigint in the table and string in this batch; cast it (columns.cast; a "
        "prediction: model.result_type) or write to another table"
    )
    assert _files(tmp_path / "out") == before


def test_a_new_column_is_refused_unless_merged(run: Score, rows: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    run("run.batch_id=a", "columns.drop=[target]", "source.limit=4")

    with pytest.raises(OutputError, match=r"column 'target' \(double\) is in this batch and absent in the table"):
        run("run.batch_id=b")
    run("run.batch_id=b", "output.merge_schema=true", "source.limit=4")

    if (tmp_path / "out" / "_delta_log").exists():
        assert rows().groupby("batch_id")["target"].count().to_dict() == {"a": 0, "b": 4}


def test_a_missing_column_is_refused_unless_merged(run: Score, rows: Callable[[], pd.DataFrame]) -> None:
    run("run.batch_id=a", "source.limit=4")

    with pytest.raises(OutputError, match=r"column 'target' \(double\) is in the table and absent in this batch"):
        run("run.batch_id=b", "columns.drop=[target]")
    run("run.batch_id=b", "columns.drop=[target]", "output.merge_schema=true", "source.limit=4")

    assert len(rows()) == 8


def test_a_failed_run_leaves_neither_table_nor_staging(run: Score, tmp_path: Path) -> None:
    with pytest.raises(LakescoreError):
        run("run.batch_id=a", "output.partition_by=if(id = 300, null, date'2026-01-01')")

    assert not (tmp_path / "out").exists()


def test_columns_with_odd_names_come_back_unchanged(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, tmp_path: Path, output_format: str
) -> None:
    odd = {"age of\tpatient": [1], "a.b": [2], "c`d": [3], "e/f": [4], "größe": [5], "x,y;z={()}": [6]}
    frame = diabetes.head(1).assign(**odd)
    frame.to_parquet(tmp_path / "in.parquet")
    settings = config(model={"uri": linear_uri}, source={"path": str(tmp_path / "in.parquet")})
    settings["output"] = {"path": str(tmp_path / "out"), "format": output_format}

    for _ in range(2):
        score(settings, spark=spark)

    found = spark.read.format(output_format).load(str(tmp_path / "out"))
    assert found.columns[: len(frame.columns)] == frame.columns.tolist()
    assert [list(row) for row in found.select(*[f"`{n.replace('`', '``')}`" for n in odd]).collect()] == [[1, 2, 3, 4, 5, 6]] * 2


def test_the_output_may_not_overlap_a_parquet_source(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    settings["output"] = {"path": str(diabetes_path), "format": "parquet"}

    with pytest.raises(OutputError, match="a run cannot write to what it reads"):
        score(settings, spark=spark)


def test_a_folder_with_other_files_is_no_table(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    for output_format, message in (("delta", "is no Delta table and not empty"), ("parquet", "holds what Lakescore did not write")):
        folder = Path(settings["output"]["path"])
        folder.mkdir(exist_ok=True)
        (folder / "notes.txt").write_text("mine")
        settings["output"]["format"] = output_format

        with pytest.raises(OutputError, match=message):
            score(settings, spark=spark)

        assert _files(folder) == {"notes.txt"}


def test_the_delta_table_that_is_read_is_read_at_its_version(
    spark: SparkSession, config: Make, linear_uri: str, tmp_path: Path, diabetes: pd.DataFrame
) -> None:
    spark.createDataFrame(diabetes.head(20)).selectExpr("*", "date'2026-01-01' AS day").write.format("delta").save(str(tmp_path / "in"))
    spark.read.format("delta").load(str(tmp_path / "in")).limit(5).write.format("delta").mode("append").save(str(tmp_path / "in"))

    result = score(config(model={"uri": linear_uri}, source={"path": str(tmp_path / "in"), "version": 0}), spark=spark)

    assert result.rows_written == 20


def _tables(spark: SparkSession) -> list[str]:
    """The tables of the schema `ml`, without the session's temporary views."""
    return [row["tableName"] for row in spark.sql("SHOW TABLES IN ml").collect() if not row["isTemporary"]]


def test_a_merged_parquet_table_is_compared_with_all_its_batches(
    spark: SparkSession, config: Make, linear_uri: str, features: list[str], tmp_path: Path
) -> None:
    columns = ", ".join(f"0.5D AS {name}" for name in features)

    def run(date: str, extra: str) -> ScoreResult:
        output = {"path": str(tmp_path / "out"), "format": "parquet", "merge_schema": True}
        return score(
            config(run={"date": date}, model={"uri": linear_uri}, source={"query": f"SELECT {columns}{extra}"}, output=output), spark=spark
        )

    run("2026-01-01", ", 1.5D AS x")
    run("2026-01-02", "")

    with pytest.raises(OutputError, match="column 'x' is double in the table and string in this batch"):
        run("2026-01-03", ", 'text' AS x")


@pytest.mark.parametrize(("path", "text"), [("file/out", "is a file, so there can be no folder"), ("x" * 300, "is no path that can be")])
def test_an_output_that_cannot_be_made_is_refused(run: Score, tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(OutputError, match=text):
        run(f"output.path={tmp_path}/{path}")


class TestDeltaTablesOfOthers:
    """What another writer has put into the table, or asked of it, holds."""

    @pytest.fixture
    def output_format(self) -> str:
        return "delta"

    def test_rows_without_a_batch_survive_the_replacement_of_one(
        self, spark: SparkSession, run: Score, rows: Callable[[], pd.DataFrame], tmp_path: Path
    ) -> None:
        out = str(tmp_path / "out")
        run("run.batch_id=a")
        foreign = spark.read.format("delta").load(out).limit(5).withColumn("batch_id", F.lit(None).cast("string"))
        foreign.write.format("delta").mode("append").save(out)
        DeltaTable(out).optimize.compact()

        run("run.batch_id=a", "run.on_rerun=replace", "source.limit=10")

        assert rows()["batch_id"].fillna("none").value_counts().to_dict() == {"a": 10, "none": 5}

    def test_a_null_in_a_column_that_may_have_none_is_refused(
        self, spark: SparkSession, config: Make, linear_uri: str, features: list[str], tmp_path: Path
    ) -> None:
        source = {
            "rows": [{**dict.fromkeys(features, 0.5), "note": None}],
            "schema": ", ".join(f"{f} double" for f in features) + ", note int",
        }
        settings = config(model={"uri": linear_uri}, source=source)
        score({**settings, "source": {**source, "rows": [{**dict.fromkeys(features, 0.5), "note": 1}]}}, spark=spark)
        out = settings["output"]["path"]
        whole = spark.read.format("delta").load(out)
        strict = T.StructType([T.StructField(f.name, f.dataType, f.name != "note") for f in whole.schema.fields])
        settings["output"]["path"] = str(tmp_path / "strict")
        builder = DeltaTableBuilder.create(spark).location(settings["output"]["path"]).addColumns(strict).partitionedBy("score_date")
        builder.execute()

        with pytest.raises(OutputError, match="note"):
            score(settings, spark=spark)

        assert DeltaTable(settings["output"]["path"]).version() == 0

    def test_a_new_table_can_be_read_whatever_the_source_says_of_nulls(
        self, spark: SparkSession, config: Make, linear_uri: str, features: list[str]
    ) -> None:
        columns = ", ".join(f"0.5D AS {name}" for name in features)
        query = f"SELECT {columns}, named_struct('a', 1, 'b', array(2)) AS s, timestamp_ntz '2026-01-31 12:00:00' AS t"
        settings = config(model={"uri": linear_uri}, source={"query": query})

        result = score(settings, spark=spark)

        row = spark.read.format("delta").load(result.location).select("s.a", "s.b", "t").collect()[0]
        assert (row.a, row.b, str(row.t)) == (1, [2], "2026-01-31 12:00:00")

    def test_a_batch_of_an_append_only_table_cannot_be_replaced(self, spark: SparkSession, run: Score, tmp_path: Path) -> None:
        run("run.batch_id=a")
        spark.sql(f"ALTER TABLE delta.`{tmp_path}/out` SET TBLPROPERTIES (delta.appendOnly = true)")

        with pytest.raises(OutputError) as caught:
            run("run.batch_id=a", "run.on_rerun=replace")

        assert str(caught.value) == (
            f"run.on_rerun: {tmp_path}/out takes appends only (delta.appendOnly=true), so the batch a in it cannot be replaced; give "
            "another batch_id"
        )

    @pytest.mark.parametrize("odd", ["a%20b", "a[1]", "a|b", "a\\b"])
    def test_a_path_that_the_delta_library_takes_for_another_is_refused(self, run: Score, tmp_path: Path, odd: str) -> None:
        with pytest.raises(OutputError, match=re.escape(f"output.path: a Delta table cannot be at {tmp_path}/{odd}, because of ")):
            run(f"output.path={tmp_path}/{odd}")

    def test_far_dates_are_written(self, spark: SparkSession, config: Make, linear_uri: str, features: list[str]) -> None:
        columns = ", ".join(f"0.5D AS {name}" for name in features)
        settings = config(model={"uri": linear_uri}, source={"query": f"SELECT {columns}, date '+12000-01-01' AS far"})

        result = score(settings, spark=spark)

        assert spark.read.format("delta").load(result.location).where("far > '9999-12-31'").count() == 1


class TestCatalogTable:
    """The Delta sink of the catalog."""

    @pytest.fixture
    def table(self, spark: SparkSession) -> Any:
        spark.sql("CREATE DATABASE IF NOT EXISTS ml")
        yield "spark_catalog.ml.predictions"
        spark.sql("DROP TABLE IF EXISTS ml.predictions")

    @pytest.fixture
    def run(self, spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, table: str) -> Score:
        settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, output={"table": table})
        return lambda *overrides: score(settings, overrides=overrides, spark=spark)

    def test_batches_are_appended_skipped_and_replaced(self, run: Score, spark: SparkSession, table: str) -> None:
        first = run("run.batch_id=a")
        run("run.batch_id=b", "source.limit=3")

        skipped = run("run.batch_id=a")
        run("run.batch_id=b", "run.on_rerun=replace", "source.limit=5")

        counts = {row["batch_id"]: row["count"] for row in spark.read.table(table).groupBy("batch_id").count().collect()}
        assert counts == {"a": 442, "b": 5}
        assert (first.version, skipped.outcome) == (1, "skipped")
        assert _tables(spark) == ["predictions"]

    def test_the_commit_carries_the_batch(self, run: Score, spark: SparkSession, table: str) -> None:
        run("run.batch_id=a", "source.limit=3")

        newest = spark.sql(f"DESCRIBE HISTORY {table} LIMIT 1").first()
        assert newest is not None
        assert json.loads(newest["userMetadata"])["batch_id"] == "a"

    def test_a_failed_run_leaves_no_staging_table(self, run: Score, spark: SparkSession, table: str) -> None:
        with pytest.raises(LakescoreError):
            run("output.partition_by=if(id = 300, null, date'2026-01-01')")

        assert _tables(spark) == []


def test_spark_and_the_library_agree_on_the_table(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    location = score(settings, spark=spark).location

    spark.sql(f"INSERT INTO delta.`{location}` SELECT * FROM delta.`{location}` LIMIT 2")
    score(settings, spark=spark)
    spark.sql(f"OPTIMIZE delta.`{location}`")

    assert spark.read.format("delta").load(location).count() == 442 * 2 + 2
    assert len(DeltaTable(location).to_pandas()) == 442 * 2 + 2


def test_replace_after_optimize_keeps_the_other_batches(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    for batch in "ab":
        location = score(settings, overrides=[f"run.batch_id={batch}", "source.limit=10"], spark=spark).location
    spark.sql(f"OPTIMIZE delta.`{location}`")

    score(settings, overrides=["run.batch_id=a", "run.on_rerun=replace", "source.limit=4"], spark=spark)

    counts = {row["batch_id"]: row["count"] for row in spark.read.format("delta").load(location).groupBy("batch_id").count().collect()}
    assert counts == {"a": 4, "b": 10}


def test_a_table_with_a_constraint_goes_through_sparks_own_writer(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    location = score(settings, overrides=["run.batch_id=a"], spark=spark).location
    spark.sql(f"ALTER TABLE delta.`{location}` ADD CONSTRAINT sane CHECK (id >= 0)")

    score(settings, overrides=["run.batch_id=b"], spark=spark)
    score(settings, overrides=["run.batch_id=b"], spark=spark)

    assert spark.read.format("delta").load(location).count() == 884
    assert not (Path(location) / "lakescore" / "x").exists()


def test_an_interrupted_parquet_publication_is_finished_by_the_next_run(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"batch_id": "a"})
    settings["output"].update(format="parquet", partition_by="date_add(date'2026-01-01', cast(id % 3 as int))")
    from lakescore.storage import Location

    real, calls = Location.move_to, []

    def crash_at_the_second(self: Location, target: Location) -> None:
        calls.append(target.path)
        if len([path for path in calls if "score_date=" in path]) == 2:
            raise KeyboardInterrupt
        real(self, target)

    monkeypatch.setattr(Location, "move_to", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(settings, spark=spark)
    monkeypatch.setattr(Location, "move_to", real)

    result = score(settings, spark=spark)

    assert result.outcome == "skipped"
    assert spark.read.parquet(settings["output"]["path"]).count() == 442
    assert not os.path.exists(os.path.join(settings["output"]["path"], "_lakescore"))


def test_two_runs_of_one_batch_at_once_publish_it_once(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, output_format: str
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"batch_id": "a"})
    settings["output"]["format"] = output_format

    with ThreadPoolExecutor(2) as pool:
        outcomes = [future.outcome for future in pool.map(lambda _: score(settings, spark=spark), range(2))]

    assert sorted(outcomes) == ["scored", "skipped"]
    assert spark.read.format(output_format).load(settings["output"]["path"]).count() == 442


def test_a_delta_table_cannot_hold_names_that_differ_only_by_case(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, tmp_path: Path
) -> None:
    diabetes.head(2).assign(ID=1).to_parquet(tmp_path / "in.parquet")
    settings = config(model={"uri": linear_uri}, source={"path": str(tmp_path / "in.parquet")})
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        with pytest.raises(OutputError, match=r"the columns 'id' and 'ID' differ only by case, which Delta does not allow; rename one"):
            score(settings, spark=spark)
    finally:
        spark.conf.unset("spark.sql.caseSensitive")


def test_a_table_may_be_scored_again_into_another_with_its_keys_only(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path
) -> None:
    first = score(config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}), spark=spark).location
    settings = config(model={"uri": linear_uri}, source={"path": first}, columns={"keys": ["id"]})
    settings["output"] = {"path": str(tmp_path / "again"), "columns": "keys"}

    result = score(settings, spark=spark)

    rows = spark.read.format("delta").load(result.location)
    assert (rows.columns[:2], rows.select("run_id").distinct().first()[0]) == (["id", "prediction"], result.run_id)


def test_what_a_run_has_left_that_was_killed_behind_its_publication_is_removed(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"batch_id": "a"})
    settings["output"].update(format="parquet")
    score(settings, spark=spark)
    hidden, attempt = tmp_path / "out" / "_lakescore", attempt_name("a")
    root = Location.of(str(tmp_path / "out"))
    assert root is not None
    journal.create(root, journal.Journal("a", attempt, tuple(journal.files_of(root, "a")), ()))
    (hidden / "staging" / attempt / "score_date=2026-01-31").mkdir(parents=True)
    (hidden / "replaced" / attempt).mkdir(parents=True)
    (hidden / "replaced" / attempt / "part-0.parquet").write_text("old")

    result = score(settings, spark=spark)

    assert result.outcome == "skipped"
    assert not hidden.exists()


def test_who_finds_its_staged_files_cleared_away_has_been_beaten(
    run: Score, rows: Callable[[], pd.DataFrame], output_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"delta": delta, "parquet": parquet}[output_format]
    real = module.staged_files

    def late(folder: Location) -> Any:
        monkeypatch.setattr(module, "staged_files", real)
        (kept, *_) = [file.path for file in folder.files()]
        content = Path(kept).read_bytes()
        assert run("run.batch_id=a", "scoring.engine=spark_udf").outcome == "scored"
        Path(kept).parent.mkdir(parents=True, exist_ok=True)
        Path(kept).write_bytes(content)  # which the other one had not come to yet
        return real(folder)

    monkeypatch.setattr(module, "staged_files", late)
    result = run("run.batch_id=a", "scoring.engine=spark_udf", "scoring.partitions=2")

    assert (result.outcome, len(rows())) == ("skipped", 442)
    assert [path for path in Path(result.location).rglob("*.parquet") if "batch_id=a" not in str(path) and output_format == "parquet"] == []


def test_who_is_interrupted_cancels_no_job_of_others(spark: SparkSession) -> None:
    done: list[int] = []
    failed: list[str] = []

    def work(seconds: float) -> None:
        def sleep(rows: Any) -> list[int]:
            time.sleep(seconds)
            return [1]

        try:
            done.append(spark.sparkContext.parallelize([0], 1).mapPartitions(sleep).count())
        except Exception as error:
            failed.append(str(error))

    other = InheritableThread(target=work, args=(4,))
    other.start()
    started: list[InheritableThread] = []

    def be_interrupted() -> None:
        with session.interruptible(spark):
            started.append(InheritableThread(target=work, args=(120,)))  # with this thread's tags
            started[0].start()
            until = time.monotonic() + 60
            while len(spark.sparkContext.statusTracker().getActiveJobsIds()) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    started[0].join(30)
    other.join(30)

    assert (done, len(failed)) == ([1], 1)
    assert "cancelled" in failed[0]
