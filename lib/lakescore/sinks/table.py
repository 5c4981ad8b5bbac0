"""A Delta table of the catalog: staged as a table of its own beside it, then appended by Spark's Delta writer in one commit.

A catalog (Unity Catalog, Glue) owns the table's files, so they are not staged in its folder; the rows are written twice.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
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
    compare_schemas,
    refuse_schema,
)
from lakescore.sinks.delta import needs_mapping, spark_options, was_made_by

log = logging.getLogger(__name__)


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
        return self._in_history(spark, self._batch.batch_id, "batch_id")

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        if spark is None or not self._in_history(spark, run_id, "run_id"):
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
        options = spark_options(self._batch, None, self._merges)
        if there:
            # A transaction version that is in the log already would be skipped silently, so a replacement carries none.
            options = {key: value for key, value in spark_options(self._batch, 1, self._merges).items() if not key.startswith("txn")}
        with translated(f"output.table: the commit to {self.location} failed", OutputError):
            rows = spark.read.table(handle.table)
            if not self._exists:
                self._create(spark, rows.schema)
            rows.write.format("delta").options(**options).mode("overwrite" if there else "append").saveAsTable(self._name)
        # Delta leaves out, and says nothing, what another run of the same batch has committed meanwhile.
        if not self._in_history(spark, self._batch.run_id, "run_id"):
            raise beaten("output.table", self._batch)
        self._drop(spark, handle)
        self._clear_other_attempts(spark)
        return Published(self.location, table_version(spark, self._name))

    def discard(self, staged: Staged | None) -> None:
        if staged is not None:
            handle, spark = staged.handle
            self._drop(spark, handle)

    def _in_history(self, spark: SparkSession, value: str, key: str) -> bool:
        try:
            entries = spark.sql(f"DESCRIBE HISTORY {self._name}").select("userMetadata").collect()
        except Exception:
            return False  # no Delta table: check says so
        return any(was_made_by(entry["userMetadata"], value, key) for entry in entries)

    def _create(self, spark: SparkSession, schema: T.StructType) -> None:
        """Make the table, empty: the commit that creates a table by a query would carry neither transaction nor metadata."""
        options = {"delta.columnMapping.mode": "name"} if needs_mapping(schema) else {}
        empty = spark.createDataFrame([], nullable(schema))
        empty.write.format("delta").options(**options).mode("ignore").partitionBy(PARTITION).saveAsTable(self._name)

    def _staging_name(self) -> str:
        name = quoted(_staging(attempt_name(self._batch.batch_id)))
        return f"{self._schema}.{name}" if self._schema else name

    @property
    def _schema(self) -> str:
        """The quoted name without its last part."""
        return self._name[: len(self._name) - len(split_table(self._name)[-1])].rstrip(".")

    def _clear_other_attempts(self, spark: SparkSession) -> None:
        """Drop what crashed attempts at this batch left; it is published, they cannot be."""
        with contextlib.suppress(Exception):
            where = f"IN {self._schema} " if self._schema else ""
            for row in spark.sql(f"SHOW TABLES {where}LIKE '{_staging(batch_prefix(self._batch.batch_id))}*'").collect():
                name = quoted(row["tableName"])
                self._drop(spark, _Handle(f"{self._schema}.{name}" if self._schema else name))

    def _drop(self, spark: SparkSession, handle: _Handle) -> None:
        with contextlib.suppress(Exception):
            spark.sql(f"DROP TABLE IF EXISTS {handle.table}")


def _staging(attempt: str) -> str:
    return f"lakescore_staging_{attempt}".replace("-", "_").lower()
