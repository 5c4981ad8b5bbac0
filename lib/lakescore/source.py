"""``config.source`` in, a DataFrame out, read strictly: what is broken stops the run and is named, nothing becomes null by itself.

``inspect`` looks at files before Spark starts; ``read`` makes the DataFrame and pins the version of what can be pinned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import delta_log, file_rows, frames, inline_rows, readers, storage, watermarks
from lakescore.catalog import did_you_mean_table, quote_table, table_version
from lakescore.config import ROW_PER_FILE, SourceConfig
from lakescore.errors import ConfigError, InputError, NeedsSparkError, did_you_mean, listing
from lakescore.failures import translate, translated
from lakescore.file_rows import rows_per_batch, runtime_conf
from lakescore.inspection import Inspection, inspect, list_files
from lakescore.offsets import Window
from lakescore.schema import is_same, quoted

__all__ = [
    "CHANGE",
    "NEW_ROWS",
    "Inspection",
    "Source",
    "count_changes",
    "inspect",
    "list_files",
    "of_files",
    "read",
    "rows_per_batch",
    "runtime_conf",
]

# Of a change feed: what happened to a row, and when it is one to score.
CHANGE = "_change_type"
NEW_ROWS = ("insert", "update_postimage")
_STATEMENT = re.compile(
    r"(?i)(?:ALTER|ANALYZE|CALL|CLEAR|COPY|CREATE|DELETE|DESC|DESCRIBE|DROP|EXECUTE|EXPLAIN|GRANT|INSERT|LOAD|MERGE|MSCK|OPTIMIZE|REFRESH"
    r"|REPLACE|RESET|REVOKE|SET|SHOW|TRUNCATE|UNCACHE|CACHE|UPDATE|USE|VACUUM)\b"
)


@dataclass(frozen=True)
class Source:
    """The data to score, and how the run's record names it.

    Attributes:
        schema: its columns.
        rows: as a DataFrame; None where there is no Spark.
        content: the column of what is in the files, where each row is one; it is what the model is for.
        window: what of an incremental source it is; None: everything.
    """

    schema: T.StructType
    rows: DataFrame | None
    description: str
    version: int | None
    content: str | None = None
    window: Window | None = None

    @property
    def df(self) -> DataFrame:
        """The rows.

        Raises:
            NeedsSparkError: there is no Spark.
        """
        if self.rows is None:
            raise NeedsSparkError("the source is wanted as a DataFrame")
        return self.rows


def of_files(config: SourceConfig, inspection: Inspection) -> Source:
    """The source as workers read it by themselves.

    Raises:
        NeedsSparkError: they cannot.
    """
    if inspection.parquet is None:
        raise NeedsSparkError(inspection.only_spark)
    return Source(inspection.parquet.schema, None, ",".join(inspection.paths), inspection.version, window=inspection.window)


def read(
    spark: SparkSession,
    config: SourceConfig,
    inspection: Inspection,
    feature_names: Sequence[str],
    data: Any = None,
    tolerant: bool = False,
) -> Source:
    """Make the DataFrame; nothing is computed yet.

    Args:
        spark: the session.
        config: the section ``source``.
        inspection: what ``inspect`` found.
        feature_names: names for rows that are plain lists.
        data: what the caller of ``score`` gave, where ``source.data`` is set.
        tolerant: whether files of which each is a row may be broken, as ``file_rows.read`` has it.

    Raises:
        InputError: it does not exist or cannot be read.
        ConfigError: a query, schema, option or filter that Spark does not understand.
    """
    if config.path is not None:
        df, version = _read_path(spark, config, inspection, tolerant)
        description = ",".join(inspection.paths)
    elif config.table is not None:
        df, version = _read_table(spark, config, inspection.window)
        description = config.table
    elif config.query is not None:
        df, version, description = _read_query(spark, config.query), None, "query"
    elif config.data is not None:
        df, version, description = frames.to_spark(spark, data), None, f"dataframe ({config.data})"
    else:
        df, version, description = _read_rows(spark, config, feature_names), None, "rows"
    if not df.columns:
        raise InputError(f"source: {description} has no column")
    if inspection.format == "csv":
        _refuse_other_separator(df.columns, config)
    if config.filter is not None:
        with translated(f"source.filter: {config.filter}", ConfigError):
            df = df.where(F.expr(config.filter))
            df.schema  # noqa: B018  a Connect client asks the server only now
    if inspection.window is not None and config.incremental is not None and config.incremental.column is not None:
        df = watermarks.inside(df, config.incremental.column, inspection.window)
    if config.limit is not None:
        df = df.limit(config.limit)
    return Source(df.schema, df, description, version, file_rows.CONTENT.get(config.format or ""), inspection.window)


def _refuse_other_separator(names: Sequence[str], config: SourceConfig) -> None:
    """A file with another separator than the reader's is one column whose name has it."""
    given = readers.option(config.options, "sep") or readers.option(config.options, "delimiter")
    found = next((sep for sep in (";", "\t", "|") if len(names) == 1 and sep in names[0]), None)
    if found is not None and given is None:
        raise InputError(
            f"source.path: {listing(config.path or ())} has one column, {names[0][:60]!r}; if {found!r} separates the values, set "
            f"source.options.sep={found!r}"
        )


def _read_path(spark: SparkSession, config: SourceConfig, inspection: Inspection, tolerant: bool) -> tuple[DataFrame, int | None]:
    if config.format in ROW_PER_FILE:
        return file_rows.read(spark, config, inspection, tolerant), None
    format_ = inspection.format or "parquet"
    reader = spark.read.format(format_).options(**readers.options(format_, config.options, inspection.tabs))
    if inspection.base is not None and readers.option(config.options, "basePath") is None:
        reader = reader.option("basePath", inspection.base)
    if format_ == "delta":
        return _read_delta(spark, config, inspection, reader)
    where, inputs = f"source.path: {listing(config.path or ())}", list(inspection.inputs)
    if config.ddl is None:
        return _load(reader, inputs, where, format_), None
    found = _load(reader, inputs, where, format_) if format_ in ("parquet", "orc", "avro") else None
    with translated(f"source.schema: {config.ddl}", ConfigError):
        reader = reader.schema(config.ddl)
    df = _load(reader, inputs, where, format_)
    if found is not None:
        _refuse_other_schema(found, df, exact=format_ == "orc")
    return df, None


def _read_delta(spark: SparkSession, config: SourceConfig, inspection: Inspection, reader: Any) -> tuple[DataFrame, int | None]:
    (path,), version = inspection.inputs, inspection.version
    if (rows := _read_window(spark, inspection.window, lambda reader: reader.format("delta").load(path))) is not None:
        return rows, version
    table = f"delta.{quoted(path)}"
    if config.timestamp is not None:
        with translated(f"source.timestamp: {config.timestamp}", InputError):
            df = reader.option("timestampAsOf", config.timestamp).load(path)
            df.schema  # noqa: B018  a Connect client asks the server only now
        return df, table_version(spark, table, config.timestamp)
    if version is None:
        version = table_version(spark, table)
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return _load(reader, path, f"source.path: {inspection.paths[0]}", "delta"), version


def _read_window(spark: SparkSession, window: Window | None, load: Callable[[Any], DataFrame]) -> DataFrame | None:
    """What came after a version of a Delta table; None where a version as a whole is read."""
    if window is None or window.by not in ("versions", "changes") or window.is_snapshot:
        return None
    if window.by == "changes":
        df = _changes(spark, window, load)
        return df.where(F.col(CHANGE).isin(*NEW_ROWS)).drop(CHANGE, "_commit_version", "_commit_timestamp")
    assert window.location is not None, "planned for a table"
    if window.scratch is None:  # a dry run, which wants the columns alone
        return load(spark.read.option("versionAsOf", str(window.to))).limit(0)
    version, folder = int(window.to or 0), storage.Location.of(window.scratch)
    assert folder is not None, "the state's folder is in reach"
    adds = delta_log.added(window.location, int(window.after or 0), version)
    view = delta_log.view_of(delta_log.open_table(window.location, version), window.location, adds)
    (folder / "_delta_log" / f"{0:020d}.json").write_text(view)
    return _load(spark.read.format("delta"), storage.for_spark(window.scratch), f"source: {window.location}", "delta")


def _changes(spark: SparkSession, window: Window, load: Callable[[Any], DataFrame]) -> DataFrame:
    reader = spark.read.option("readChangeFeed", "true").option("startingVersion", int(window.after or 0) + 1)
    with translated("source.incremental.by: changes", InputError):
        df = load(reader.option("endingVersion", str(window.to)))
        df.schema  # noqa: B018  a Connect client asks the server only now
    return df


def count_changes(spark: SparkSession, config: SourceConfig, window: Window) -> dict[str, int]:
    """How many rows of a table's change feed there are of each kind; ``NEW_ROWS`` are to be scored.

    Raises:
        InputError: the feed cannot be read, because it was kept only later for example.
    """
    name = quote_table("source.table", config.table) if config.table is not None else None
    path = storage.for_spark((config.path or ("",))[0])
    df = _changes(spark, window, lambda reader: reader.table(name) if name is not None else reader.format("delta").load(path))
    with translated("source.incremental.by: changes", InputError):
        return {row[CHANGE]: int(row["count"]) for row in df.groupBy(CHANGE).count().collect()}


def _load(reader: Any, inputs: list[str] | str, where: str, format_: str) -> DataFrame:
    try:
        df: DataFrame = reader.load(inputs)
        df.schema  # noqa: B018
    except Exception as error:
        if format_ == "json" and "MALFORMED_" in str(error):
            # What infers the schema does not say in which file; what reads the rows, with any schema, does.
            with translated(where, InputError):
                reader.schema("_ string").load(inputs).agg(F.count("_")).collect()
        raise translate(error, where, InputError) from error
    return df


def _refuse_other_schema(found: DataFrame, wanted: DataFrame, exact: bool) -> None:
    """Spark fills with nulls what the files do not have; ORC's reader also what it cannot convert (``exact``)."""
    types = {field.name: field.dataType for field in found.schema.fields}
    for field in wanted.schema.fields:
        if field.name not in types:
            hint = did_you_mean(field.name, types) or f" They have {listing(types, 12)}."
            raise InputError(f"source.schema: the files have no column {field.name!r}.{hint}")
        there = types[field.name]
        if exact and not is_same(there, field.dataType):
            raise InputError(
                f"source.schema: column {field.name!r} is {there.simpleString()} in the files; read it so, and convert it with columns.cast"
            )


def _read_table(spark: SparkSession, config: SourceConfig, window: Window | None) -> tuple[DataFrame, int | None]:
    name = quote_table("source.table", config.table or "")
    if (rows := _read_window(spark, window, lambda reader: reader.table(name))) is not None:
        return rows, int(window.to or 0) if window is not None else None
    version, reader = config.version, spark.read
    if window is not None and window.is_snapshot:
        version = int(window.to or 0)
    if version is None:
        version = table_version(spark, name, config.timestamp)
    if config.timestamp is not None:
        reader = reader.option("timestampAsOf", config.timestamp)
    elif version is not None:
        reader = reader.option("versionAsOf", version)
    try:
        df = reader.table(name)
        df.schema  # noqa: B018
    except Exception as error:
        missing = "TABLE_OR_VIEW_NOT_FOUND" in str(error) or "SINGLE_PART_NAMESPACE" in str(error)
        if missing:
            raise InputError(f"source.table: {config.table} does not exist.{did_you_mean_table(spark, name)}") from error
        raise translate(error, f"source.table: {config.table}", InputError) from error
    return df, version


def _read_query(spark: SparkSession, query: str) -> DataFrame:
    """Only what can stand in a FROM clause: a statement that changes something does not parse there."""
    text = query.strip().rstrip("; \n\t\r")
    statement = _STATEMENT.match(text)
    if statement:
        raise ConfigError(f"source.query: expected a query that reads, such as SELECT ...; got {statement.group(0).upper()} ...")
    try:
        df = spark.sql(f"SELECT * FROM (\n{text}\n)")
        df.schema  # noqa: B018
    except Exception as error:
        failure = translate(error, "source.query", ConfigError)
        # Spark counts the line that stands before the query here.
        raise type(failure)(re.sub(r"\bline (\d+)", lambda found: f"line {int(found.group(1)) - 1}", str(failure))) from error
    return df


def _read_rows(spark: SparkSession, config: SourceConfig, feature_names: Sequence[str]) -> DataFrame:
    schema = None
    if config.ddl is not None:
        with translated(f"source.schema: {config.ddl}", ConfigError):
            schema = spark.createDataFrame([], config.ddl).toArrow().schema
    table = inline_rows.table(config.rows or [], schema, feature_names)
    with translated("source.rows", InputError):
        if not table.column_names:
            raise InputError("source.rows: there is no column in it")
        return spark.createDataFrame(table)
