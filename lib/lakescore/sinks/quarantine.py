"""Rows that could not be scored in, a table beside the output out: their keys, why, and the source's row to score again after a fix.

The row is kept as JSON with its schema beside it: the table's columns stay the same whatever the source looks like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import storage
from lakescore.catalog import quote_table
from lakescore.config import ErrorsConfig, OutputConfig, SourceConfig
from lakescore.errors import ConfigError, InputError, OutputError
from lakescore.failures import translated
from lakescore.schema import BATCH, PARTITION, column
from lakescore.sinks import journal
from lakescore.sinks.base import Batch

# Written and read with the same options: microseconds, and no dependence on the session's time zone.
_JSON = {
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
    "dateFormat": "yyyy-MM-dd",
}
COLUMNS = ("error_class", "error_message", "payload", "payload_schema")


def output_of(output: OutputConfig, errors: ErrorsConfig) -> OutputConfig:
    """Where quarantined rows go: a path where the output is a path, else a table; the output's name with ``_quarantine`` by default.

    A Delta table, also beside files of rows; a Parquet one beside Parquet.
    """
    if output.table is not None:
        return OutputConfig(table=errors.quarantine or _beside(output.table), merge_schema=True)
    path = errors.quarantine or (_beside(output.path.rstrip("/")) if output.path else "outputs/quarantine")
    return OutputConfig(path=path, format="parquet" if output.format == "parquet" else "delta", merge_schema=True)


def refuse_overlap(key: str, beside: OutputConfig, output: OutputConfig, source: SourceConfig) -> None:
    """Raise ConfigError where a table beside the output is the output itself, or what is read; ``key`` is what configures it."""
    places = [("output.path", output.path), *(("source.path", path) for path in source.path or ())]
    for other, path in places:
        if beside.path is not None and path is not None and storage.overlap(beside.path, path):
            raise ConfigError(f"{key}: {beside.path} overlaps {other} {path}; give it a folder of its own")
    for other, table in (("output.table", output.table), ("source.table", source.table)):
        if beside.table is not None and table is not None and beside.table.casefold() == table.casefold():
            raise ConfigError(f"{key}: {beside.table} is {other}; give it a table of its own")


def batch_of(batch: Batch) -> Batch:
    """The same batch there: what a run that failed later, or is replaced now, has left of it is replaced."""
    return replace(batch, on_rerun="replace")


def refuse_clashes(keys: Sequence[str]) -> None:
    """Raise ConfigError where a key is called like a column of the quarantine's own."""
    for name in keys:
        if name.casefold() in COLUMNS:
            raise ConfigError(f"columns.keys: {name!r} is a column that the quarantine has itself; rename it (columns.rename)")


def rows(failed: DataFrame, keys: Sequence[str], row: str, error: str, lineage: Sequence[Column]) -> DataFrame:
    """The quarantine's rows.

    Args:
        failed: what could not be scored, with the columns ``row`` (struct: the source's row) and ``error`` (text: ``Class: message``).
        keys: the key columns.
        row: the column's name.
        error: the column's name.
        lineage: the run's columns.
    """
    kind = failed.schema[row].dataType
    return failed.select(
        *map(column, keys),
        F.substring_index(F.col(error), ": ", 1).alias("error_class"),
        F.expr(f"substring(`{error}`, instr(`{error}`, ': ') + 2)").alias("error_message"),
        F.to_json(F.col(row), _JSON).alias("payload"),
        F.lit(kind.json()).alias("payload_schema"),
        *lineage,
    )


def source_rows(spark: SparkSession, quarantine: OutputConfig, batch_id: str) -> tuple[DataFrame, str]:
    """The source's rows of a quarantined batch as they were read, and the batch's date (ISO).

    Raises:
        InputError: there is no such quarantine, or nothing of the batch in it.
    """
    where = quarantine.table or storage.absolute(quarantine.path or "")
    with translated(f"errors.quarantine: {where} cannot be read", InputError):
        batch = _open(spark, quarantine).where(F.col(BATCH) == F.lit(batch_id))
        kinds = batch.select("payload_schema", PARTITION).distinct().collect()
    if not kinds:
        raise InputError(f"run.batch_id: nothing of the batch {batch_id!r} is in the quarantine {where}")
    schema = T.StructType.fromJson(json.loads(kinds[0]["payload_schema"]))
    rows = batch.select(F.from_json("payload", schema, {**_JSON, "mode": "FAILFAST"}).alias("row")).select("row.*")
    return rows, str(kinds[0][PARTITION])


def replay_of(batch_id: str) -> str:
    """The batch that the quarantined rows of another become."""
    return f"{batch_id}.replay"


def refuse_replayed(spark: SparkSession, output: OutputConfig, batch: Batch) -> None:
    """Refuse to replace a batch whose quarantined rows were replayed: they would be there twice.

    Args:
        spark: the session.
        output: the section ``output``, whose table has the batch.
        batch: what is to be replaced.

    Raises:
        OutputError: rows of the replay are in the table.
    """
    replayed = replay_of(batch.batch_id)
    if output.is_row_file:
        return  # a file holds one batch, and the replay's is another
    where = output.table or storage.absolute(output.path or "")
    with translated(f"output: {where} cannot be read", OutputError):
        rows = _open(spark, output).where(F.col(BATCH) == F.lit(replayed)).limit(1).toArrow()
    if rows.num_rows:
        raise OutputError(
            f"run.on_rerun: the quarantined rows of the batch {batch.batch_id} were replayed as {replayed} and would be there twice; "
            f"remove those from {where} first ({BATCH} = '{replayed}')"
        )


def _open(spark: SparkSession, quarantine: OutputConfig) -> DataFrame:
    """A table of batches, the quarantine or the output."""
    if quarantine.table is not None:
        return spark.read.table(quote_table("errors.quarantine", quarantine.table))
    path = quarantine.path or ""
    if quarantine.format == "delta":
        return spark.read.format("delta").load(storage.for_spark(path))
    root = storage.Location.of(path)
    assert root is not None, "a sink has looked"
    return journal.read_visible(spark, root, storage.absolute(path))


def _beside(name: str) -> str:
    return f"{name[:-1]}_quarantine`" if name.endswith("`") else f"{name}_quarantine"
