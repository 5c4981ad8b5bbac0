"""A Delta table of the catalog: staged as a table of its own beside it, then appended by Spark's Delta writer in one commit.

A catalog (Unity Catalog, Glue) owns the table's files, so they are not staged in its folder; the rows are written twice.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import session
from lakescore.catalog import did_you_mean_table, quote_table, split_table, table_version
from lakescore.config import OutputConfig
from lakescore.errors import NeedsSparkError, OutputError, listing
from lakescore.failures import first_line, translated
from lakescore.schema import BATCH, PARTITION, RUN, nullable, quoted
from lakescore.sinks.base import (
    Batch,
    Published,
    PublishedRows,
    Staged,
    attempt_name,
    batch_prefix,
    beaten,
    changed,
    compare_schemas,
    gone,
    refuse_schema,
)
from lakescore.sinks.delta import empty_replacement, needs_mapping, only_rows_of, spark_options, was_made_by

log = logging.getLogger(__name__)

# Of one batch, each published again; where more are found, the table's history is closed to us.
_MOST_DELETIONS = 100
_ATTEMPT = re.compile(r"lakescore_staging_(?P<prefix>\w*_[0-9a-f]{10}_)[0-9a-f]{12}")


@dataclass
class _Handle:
    """A staged attempt: the quoted name of its table."""

    table: str


class TableSink:
    """See the module."""

    def __init__(self, config: OutputConfig, batch: Batch) -> None:
        self._config = config
        self._batch = batch
        self.location = config.table or ""
        self._name = quote_table("output.table", self.location)
        self._exists = False
        self._merges = False

    def recover(self, spark: SparkSession | None) -> None:
        """Nothing: a Delta commit is there or it is not."""

    def find(self, spark: SparkSession | None) -> bool | None:
        if spark is None:
            return None
        with translated(f"output.table: {self.location} cannot be read", OutputError):
            if not spark.catalog.tableExists(self._name):
                return False
            rows = spark.read.table(self._name)
            if BATCH in rows.columns and not rows.where(f"{BATCH} = '{self._batch.batch_id}'").limit(1).isEmpty():
                return True
        # A batch without rows is in the table's history only.
        return self._is_last_in_history(spark)

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        if spark is None or not any(was_made_by(entry, run_id) for entry in self._history(spark)):
            return None
        return PublishedRows(spark.read.table(self._name).where(f"{RUN} = '{run_id}'").count())

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        if spark is None:
            raise NeedsSparkError("the output is a table of the catalog")
        refuse_schema(schema, f"output.table: {self.location}")
        with translated(f"output.table: {self.location}", OutputError):
            self._exists = spark.catalog.tableExists(self._name)
            if not self._exists:
                self._refuse_missing_schema(spark)
                return
        try:
            detail = spark.sql(f"DESCRIBE DETAIL {self._name}").select("format", "partitionColumns").first()
        except Exception as error:
            raise OutputError(f"output.table: {self.location} is no Delta table: {first_line(str(error))}") from error
        if detail is None or detail["format"] != "delta":
            raise OutputError(f"output.table: {self.location} is a {detail['format'] if detail else 'foreign'} table; give a Delta table")
        if list(detail["partitionColumns"]) != [PARTITION]:
            raise OutputError(
                f"output.table: {self.location} is partitioned by {listing(detail['partitionColumns'])}; Lakescore writes tables "
                f"partitioned by {PARTITION}"
            )
        existing = spark.read.table(self._name).schema
        self._merges = compare_schemas(existing, schema, self._config.merge_schema, f"output.table: {self.location}")

    def _refuse_missing_schema(self, spark: SparkSession) -> None:
        if self._schema and not spark.catalog.databaseExists(self._schema):
            raise OutputError(f"output.table: the schema {self._schema} does not exist.{did_you_mean_table(spark, self._name)}")

    def stage(self, df: DataFrame) -> Staged:
        handle = _Handle(self._staging_name())
        spark = df.sparkSession
        try:
            options = {"delta.columnMapping.mode": "name"} if needs_mapping(df.schema) else {}
            # Made empty first: Delta runs CREATE TABLE AS SELECT where the observed counts do not reach the driver.
            empty = spark.createDataFrame([], nullable(df.schema))
            empty.write.format("delta").options(**options).mode("error").saveAsTable(handle.table)
            with session.interruptible(spark):
                df.write.format("delta").mode("append").saveAsTable(handle.table)
            rows = spark.read.table(handle.table).count()
        except BaseException:
            self._drop(spark, handle)
            raise
        return Staged(rows=rows, files=0, size=0, handle=(handle, spark))

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        handle: _Handle
        handle, spark = staged.handle
        there = self.find(spark)
        if there and self._batch.on_rerun != "replace":
            raise beaten("output.table", self._batch)
        with translated(f"output.table: the commit to {self.location} failed", OutputError):
            rows = spark.read.table(handle.table)
            if not self._exists:
                self._create(spark, rows.schema)
            self._commit(spark, rows, bool(there))
        self._drop(spark, handle)
        self._clear_other_attempts(spark)
        return Published(self.location, table_version(spark, self._name))

    def _commit(self, spark: SparkSession, rows: DataFrame, replaces: bool) -> None:
        """Append the rows, or put them in the batch's place; raises AlreadyPublishedError where another run was faster.

        Delta leaves out, and says nothing, what has a transaction version that is in the log already: because another run of the batch
        has committed it meanwhile, or because the batch was deleted since. A replacement therefore carries none.
        """
        versions: Iterable[int | None] = (None,) if replaces else range(1, _MOST_DELETIONS)
        for version in versions:
            options = spark_options(self._batch, version, self._merges, replaces)
            rows.write.format("delta").options(**options).mode("overwrite" if replaces else "append").saveAsTable(self._name)
            if self._is_committed(spark):
                return
            if self.find(spark):
                break
        raise beaten("output.table", self._batch)

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        session = spark()
        if not self.find(session):
            raise gone("output.table", self._batch)
        with translated(f"output.table: the batch {self._batch.batch_id} could not be deleted from {self.location}", OutputError):
            rows = session.read.table(self._name)
            before = self._runs(rows)
            for last in (False, False, False, True):
                try:
                    empty_replacement(session, rows.schema, self._batch).saveAsTable(self._name)
                    break
                except Exception as error:
                    # Another batch is appended or deleted at the same time; this one must be as it was.
                    if last or "concurrent" not in str(error).lower():
                        raise
                    if self._runs(session.read.table(self._name)) != before:
                        raise changed("output.table", self._batch, self.location) from error
        return table_version(session, self._name)

    def _runs(self, rows: DataFrame) -> set[str]:
        """The runs whose rows of this batch are in the table."""
        found = rows.where(only_rows_of(self._batch)).select("run_id").distinct().collect()
        return {str(row["run_id"]) for row in found}

    def discard(self, staged: Staged | None) -> None:
        if staged is not None:
            handle, spark = staged.handle
            self._drop(spark, handle)

    def _is_last_in_history(self, spark: SparkSession) -> bool:
        """Whether the last commit that names this batch has published it, and not deleted it."""
        last = next((entry for entry in self._history(spark) if was_made_by(entry, self._batch.batch_id, "batch_id")), None)
        return last is not None and not was_made_by(last, True, "deleted")

    def _history(self, spark: SparkSession) -> list[str | None]:
        """What the commits say of themselves, the newest first; of a table that is no Delta table nothing, which ``check`` says."""
        try:
            entries = spark.sql(f"DESCRIBE HISTORY {self._name}").select("userMetadata").collect()
        except Exception:
            if self._is_delta(spark):
                raise
            return []
        return [entry["userMetadata"] for entry in entries]

    def _is_delta(self, spark: SparkSession) -> bool:
        try:
            detail = spark.sql(f"DESCRIBE DETAIL {self._name}").select("format").first()
        except Exception:
            return False
        return detail is not None and detail["format"] == "delta"

    def _is_committed(self, spark: SparkSession) -> bool:
        """Whether this run's commit is in the table, by its history or else by its rows."""
        try:
            return any(was_made_by(entry, self._batch.run_id) for entry in self._history(spark))
        except Exception:
            return not spark.read.table(self._name).where(f"{RUN} = '{self._batch.run_id}'").isEmpty()

    def _create(self, spark: SparkSession, schema: T.StructType) -> None:
        """Make the table, empty: the commit that creates a table by a query would carry neither transaction nor metadata."""
        options = {"delta.columnMapping.mode": "name"} if needs_mapping(schema) else {}
        empty = spark.createDataFrame([], nullable(schema))
        empty.write.format("delta").options(**options).mode("ignore").partitionBy(PARTITION).saveAsTable(self._name)

    def _staging_name(self) -> str:
        name = quoted(staging(attempt_name(self._batch.batch_id)))
        return f"{self._schema}.{name}" if self._schema else name

    @property
    def _schema(self) -> str:
        """The quoted name without its last part."""
        return self._name[: len(self._name) - len(split_table(self._name)[-1])].rstrip(".")

    def _clear_other_attempts(self, spark: SparkSession) -> None:
        """Drop what crashed attempts at this batch left; it is published, they cannot be."""
        with contextlib.suppress(Exception):
            where = f"IN {self._schema} " if self._schema else ""
            for row in spark.sql(f"SHOW TABLES {where}LIKE '{staging(batch_prefix(self._batch.batch_id))}*'").collect():
                name = quoted(row["tableName"])
                self._drop(spark, _Handle(f"{self._schema}.{name}" if self._schema else name))

    def staged(self, spark: SparkSession) -> list[tuple[str, str, int]]:
        """The tables that attempts at any batch left: the quoted name, what attempts at its batch begin with, last change in ms."""
        where, found = f"IN {self._schema} " if self._schema else "", []
        for row in spark.sql(f"SHOW TABLES {where}LIKE '{staging('')}*'").collect():
            if attempt := _ATTEMPT.fullmatch(row["tableName"]):
                name = quoted(row["tableName"])
                full = f"{self._schema}.{name}" if self._schema else name
                modified = spark.sql(f"DESCRIBE DETAIL {full}").select(F.unix_millis("lastModified").alias("ms")).first()
                found.append((full, attempt["prefix"], int(modified["ms"] or 0) if modified else 0))
        return found

    def _drop(self, spark: SparkSession, handle: _Handle) -> None:
        with contextlib.suppress(Exception):
            drop(spark, handle.table)


def drop(spark: SparkSession, staged: str) -> None:
    """Drop a staged table, by its quoted name."""
    spark.sql(f"DROP TABLE IF EXISTS {staged}")


def staging(attempt: str) -> str:
    """What an attempt's table is called, without its schema."""
    return f"lakescore_staging_{attempt}".replace("-", "_").lower()
