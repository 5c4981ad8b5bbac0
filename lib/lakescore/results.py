"""A run, or an output's path, in; its rows out, as a pandas or a Spark DataFrame.

| output            | pandas, without Spark                                     | with a session           |
| ----------------- | --------------------------------------------------------- | ------------------------ |
| Delta by path     | by deltalake (by Spark where a table asks for more)       | Spark's Delta reader     |
| Parquet           | by pyarrow                                                | Spark's Parquet reader   |
| table             | by a session, which is opened                             | the catalog              |
| jsonl, append_row | line by line; the types are those that the run wrote      | the same, made Spark's   |
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any, overload

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pandas.errors import EmptyDataError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import delta_rows, session, storage, tracking
from lakescore.catalog import quote_table
from lakescore.config import ROW_FILES, SparkConfig, TrackingConfig
from lakescore.errors import ConfigError, InputError, did_you_mean
from lakescore.failures import translated
from lakescore.schema import BATCH, PARTITION, RUN
from lakescore.sinks import journal
from lakescore.sinks.row_text import SEPARATOR, TIME
from lakescore.sinks.rows import read_record
from lakescore.storage import Location

log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
}
# A Parquet file of a session that was there has times as INT96, unless it was told otherwise: as nanoseconds, far ones become others.
_FILES = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"))


@dataclass(frozen=True)
class _Output:
    """Where rows are: a location, its format, and which of them are meant (None: all)."""

    location: str
    format: str
    batch_id: str | None = None
    run_id: str | None = None

    @property
    def is_table(self) -> bool:
        return self.format == "delta" and "/" not in self.location

    @property
    def wanted(self) -> dict[str, str]:
        """Columns and the values that the rows have in them."""
        return {name: value for name, value in ((BATCH, self.batch_id), (RUN, self.run_id)) if value is not None}


@overload
def read(what: Any, *, limit: int | None = None, tracking_uri: str | None = None, spark: None = None) -> pd.DataFrame: ...
@overload
def read(what: Any, *, limit: int | None = None, tracking_uri: str | None = None, spark: SparkSession) -> DataFrame: ...
def read(what: Any, *, limit: int | None = None, tracking_uri: str | None = None, spark: SparkSession | None = None) -> Any:
    """The rows that a run wrote, or that are at an output's path.

    Args:
        what: an MLflow run's ID, a ``ScoreResult``, or the path of an output (a table's folder, a row file or its folder).
        limit: rows at most.
        tracking_uri: where the run is recorded; default: MLflow's own.
        spark: give a Spark DataFrame of this session, not a pandas one.

    Returns:
        Of a run, the rows of its batch; of a path, all rows. Order: a row file's own; tables have none.

    Raises:
        InputError: there is no such run or path, or the run's rows are not there any more.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ConfigError(f"limit: got {limit!r}; expected a number of rows")
    if getattr(what, "run_id", None) == "":
        raise InputError(f"read: the run found nothing new to score; read({str(what.location)!r}) gives all that is there")
    output = _find(getattr(what, "run_id", None) or str(what), tracking_uri)
    if spark is not None and output.format not in ROW_FILES:
        return _with_spark(spark, output, limit)
    with translated(f"read: {output.location}", InputError):
        if output.format in ROW_FILES:
            return _read_row_file(output, limit, spark)
        return _read_parquet(output, limit) if output.format == "parquet" else _read_delta(output, limit)


def _find(what: str, tracking_uri: str | None) -> _Output:
    what = storage.checked(what)
    try:
        location = Location.of(what)
        if location is not None and location.exists():
            return _at_path(storage.absolute(what), location)
    except OSError as error:
        raise InputError(f"read: {what} cannot be read: {error}") from error
    if not _RUN_ID.fullmatch(what):
        near = did_you_mean(location.name, [c.name for c in location.parent.children()]) if location and location.is_local else ""
        raise InputError(f"read: {what} is neither a path that exists nor an MLflow run's ID.{near}")
    client = tracking.client_for(TrackingConfig(tracking_uri=tracking_uri))
    try:
        run = client.get_run(what)
    except MlflowException as error:
        raise InputError(f"read: there is no run {what} in {client.tracking_uri}; give its --tracking-uri") from error
    return _of_run(run, client)


def _of_run(run: Run, client: MlflowClient) -> _Output:
    run_id, params, tags = run.info.run_id, run.data.params, run.data.tags
    outcome = tags.get("lakescore.outcome")
    if run.info.status != "FINISHED":
        reason = tags.get("lakescore.error")
        raise InputError(f"read: the run {run_id} is {run.info.status} and wrote nothing{f': {reason}' if reason else ''}")
    if outcome is None or "output" not in params:
        raise InputError(f"read: the run {run_id} of {client.tracking_uri} is no run of lakescore score")
    if params["output.format"] == "summary_only":
        raise InputError(f"read: the run {run_id} wrote no rows (output.format=summary_only); its counts are in the MLflow run")
    # A skipped run found its batch there: what it means are the rows of another run.
    rows = int(run.data.metrics.get("rows_written", 0))
    return _Output(params["output"], params["output.format"], params["batch_id"], run_id if outcome == "scored" and rows else None)


def _at_path(path: str, location: Location) -> _Output:
    if not location.is_dir():
        record = read_record(location)
        if record is None:
            raise InputError(f"read: {path} is no file that Lakescore wrote, or it was changed since")
        return _Output(path, str(record["format"]))
    if (location / "_delta_log").is_dir():
        return _Output(path, "delta")
    children = location.children()
    if any(child.name.startswith(f"{PARTITION}=") for child in children):
        return _Output(path, "parquet")
    files = [child for child in children if not storage.is_hidden(child.name) and not child.is_dir() and read_record(child)]
    if len(files) == 1:
        return _at_path(f"{path.rstrip('/')}/{files[0].name}", files[0])
    what = "several files; name one of them" if files else "nothing that Lakescore wrote"
    raise InputError(f"read: {path} holds {what}")


def _require(output: _Output) -> Location:
    location = Location.of(output.location)
    if location is None or not location.exists():
        raise InputError(f"read: {output.location}, where the run wrote, is not there any more, or not on this machine")
    return location


def _gone(output: _Output) -> InputError:
    return InputError(
        f"read: the rows of the run {output.run_id} are not in {output.location} any more: another run has replaced the batch "
        f"{output.batch_id}, or they were deleted; lakescore read {output.location} shows what is there"
    )


# --- tables


def _with_spark(spark: SparkSession, output: _Output, limit: int | None) -> DataFrame:
    with translated(f"read: {output.location}", InputError):
        if output.is_table:
            rows = spark.read.table(quote_table("output.table", output.location))
        else:
            root = _require(output)
            if output.format == "parquet":
                rows = journal.read_visible(spark, root, output.location)
            else:
                rows = spark.read.format(output.format).load(storage.for_spark_reader(output.location))
        if output.batch_id is not None:
            rows = rows.where(F.col(BATCH).cast("string") == output.batch_id)
        if output.run_id is not None:
            rows = rows.where(F.col("run_id") == output.run_id)
            if rows.limit(1).isEmpty():
                raise _gone(output)
        return _first(rows, limit)


def _first(rows: DataFrame, limit: int | None) -> DataFrame:
    return rows if limit is None else rows.limit(limit)


def _filter(output: _Output) -> Any:
    found = [ds.field(name) == value for name, value in output.wanted.items()]
    return None if not found else found[0] if len(found) == 1 else found[0] & found[1]


def _take(dataset: ds.Dataset, output: _Output, limit: int | None) -> pd.DataFrame:
    chosen = _filter(output)
    return _as_pandas(dataset.to_table(filter=chosen) if limit is None else dataset.head(limit, filter=chosen), output, limit)


def _as_pandas(table: pa.Table, output: _Output, limit: int | None) -> pd.DataFrame:
    if output.run_id is not None and limit != 0 and not table.num_rows:
        raise _gone(output)
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        column = table.column(field.name)
        # As doubles, which pandas takes beside nulls, large ones would be rounded.
        if pa.types.is_integer(field.type) and column.null_count:
            frame[field.name] = column.to_pandas(types_mapper=_NULLABLE.get)
        elif pa.types.is_nested(field.type) and any(map(_has_null_integers, column.chunks)):
            frame[field.name] = pd.Series(column.to_pylist(), index=frame.index, dtype=object)
    return frame


def _has_null_integers(array: pa.Array) -> bool:
    """Whether there are integers in nested values, and nulls among them."""
    if pa.types.is_integer(array.type):
        return bool(array.null_count)
    if pa.types.is_struct(array.type):
        return any(map(_has_null_integers, array.flatten()))
    if pa.types.is_map(array.type):
        return _has_null_integers(array.items)
    return hasattr(array, "flatten") and pa.types.is_nested(array.type) and _has_null_integers(array.flatten())


def _read_delta(output: _Output, limit: int | None) -> pd.DataFrame:
    if not output.is_table:
        _require(output)
        table = DeltaTable(output.location, storage_options=storage.delta_options(output.location))
        odd = delta_rows.refusal(table)
        if not odd:
            return _as_pandas(delta_rows.query(table, output.wanted, limit), output, limit)
        log.info("read: %s is read by Spark: %s", output.location, odd)
    spark = session.open_session(SparkConfig(), "lakescore-read")
    return _as_pandas(_with_spark(spark, output, limit).toArrow(), output, limit)


def _read_parquet(output: _Output, limit: int | None) -> pd.DataFrame:
    root = _require(output)
    for last in (False, False, True):
        try:
            return _take(_dataset(root, output), output, limit)
        except FileNotFoundError:  # a publication has moved a file meanwhile
            if last:
                raise
    raise AssertionError("the last turn returns or raises")


def _dataset(root: Location, output: _Output) -> ds.Dataset:
    partitioning = ds.partitioning(pa.schema([(PARTITION, pa.date32()), (BATCH, pa.string())]), flavor="hive")
    files = [(root / name).path for name in journal.visible(root) if name.endswith(".parquet")]
    if output.batch_id is not None:
        escaped = {f"{BATCH}={output.batch_id}", f"{BATCH}={output.batch_id.replace(':', '%3A').replace('=', '%3D')}"}
        files = [file for file in files if escaped & set(file.split("/"))]
    if not files:
        raise _gone(output) if output.run_id is not None else InputError(f"read: {output.location}: there is no batch that is complete")
    made = ds.FileSystemDatasetFactory(
        root.fs, files, _FILES, ds.FileSystemFactoryOptions(partition_base_dir=root.path, partitioning=partitioning)
    )
    # Batches may have columns that others have not (output.merge_schema).
    schemas = [_written(_FILES.make_fragment(file, root.fs)) for file in files]
    return made.finish(pa.unify_schemas([*schemas, partitioning.schema], promote_options="permissive"))


def _written(file: ds.ParquetFileFragment) -> pa.Schema:
    """The columns of a file; INT96, which says nothing of zones, is a moment for Spark."""
    schema, leaves = file.physical_schema, file.metadata.schema
    for leaf in map(leaves.column, range(len(leaves))):
        if leaf.physical_type == "INT96" and leaf.path in schema.names:
            schema = schema.set(schema.get_field_index(leaf.path), pa.field(leaf.path, pa.timestamp("us", "UTC")))
    return schema


# --- row files


def _read_row_file(output: _Output, limit: int | None, spark: SparkSession | None) -> Any:
    file = _require(output)
    record = read_record(file)
    if record is None:
        raise InputError(f"read: {output.location} was changed since Lakescore wrote it")
    if output.run_id is not None and record["run_id"] != output.run_id:
        raise _gone(output)
    schema = T.StructType.fromJson(record["schema"])
    if record["format"] == "jsonl":
        schema = T.StructType([T.StructField(TIME, T.TimestampType()), *schema.fields])
        if spark is not None:
            return _first(spark.read.schema(schema).json(storage.for_spark_reader(output.location), mode="FAILFAST"), limit)
    with file.fs.open_input_stream(file.path) as stream:
        frame = _json_lines(stream, schema, limit) if record["format"] == "jsonl" else _plain_lines(stream, schema, limit)
    frame = _typed(frame, schema)
    if spark is None:
        return frame
    flat = [field if not _is_text(field.dataType) else T.StructField(field.name, T.StringType()) for field in schema.fields]
    return spark.createDataFrame(frame, T.StructType(flat))


def _json_lines(stream: Any, schema: T.StructType, limit: int | None) -> pd.DataFrame:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
    # A decimal keeps its digits; the floats beside it are made of theirs.
    exact = Decimal if _has_decimals(schema) else float
    rows = [json.loads(line, parse_float=exact) for line in islice(text, limit)]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=schema.names, dtype=object)
    return frame


def _plain_lines(stream: Any, schema: T.StructType, limit: int | None) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(columns=schema.names, dtype=object)
    first, *others = schema.names
    if not others:  # lines without a key are as they were given
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
        frame[first] = [line.removesuffix("\n") for line in islice(text, limit)]
    else:
        with contextlib.suppress(EmptyDataError):
            frame = pd.read_csv(stream, sep=SEPARATOR, header=None, names=schema.names, nrows=limit, dtype=str, keep_default_na=False)
    for name in others:  # the space behind the colon is no part of the value
        frame[name] = frame[name].map(lambda value: value.removeprefix(" "))
    filled: pd.DataFrame = frame.astype(object).where(frame != "", None)
    return filled


def _is_text(kind: T.DataType) -> bool:
    """Whether a line of plain text keeps the value as text."""
    return isinstance(kind, (T.StructType, T.ArrayType, T.MapType, T.BinaryType))


def _has_decimals(kind: T.DataType) -> bool:
    if isinstance(kind, T.StructType):
        return any(_has_decimals(field.dataType) for field in kind.fields)
    if isinstance(kind, T.MapType):
        return _has_decimals(kind.valueType)
    return _has_decimals(kind.elementType) if isinstance(kind, T.ArrayType) else isinstance(kind, T.DecimalType)


def _nested(value: Any, kind: T.DataType) -> Any:
    """A nested value of a JSON line whose numbers were taken for decimals: the floats among them as such."""
    if value is None:
        return None
    if isinstance(kind, T.StructType):
        kinds = {field.name: field.dataType for field in kind.fields}
        return {name: _nested(one, kinds[name]) for name, one in value.items()}
    if isinstance(kind, T.MapType):
        return {name: _nested(one, kind.valueType) for name, one in value.items()}
    if isinstance(kind, T.ArrayType):
        return [_nested(one, kind.elementType) for one in value]
    if isinstance(kind, T.DecimalType):
        return Decimal(value)
    return float(value) if isinstance(kind, (T.DoubleType, T.FloatType)) else value


def _moments(values: pd.Series, zone: str | None) -> pd.Series:
    """Texts as times; to the microsecond, which has years up to 9999, unlike pandas' own nanoseconds."""
    times = pa.array(values, pa.string(), from_pandas=True).cast(pa.timestamp("us", zone))
    found: pd.Series[Any] = times.to_pandas().set_axis(values.index)
    return found


def _typed(frame: pd.DataFrame, schema: T.StructType) -> pd.DataFrame:
    """Numbers, dates and times as such; all else stays the text or the nested value that the file has."""
    is_exact = _has_decimals(schema)
    for field in schema.fields:
        values, kind = frame[field.name], field.dataType
        if isinstance(kind, (T.DoubleType, T.FloatType)):
            frame[field.name] = values.map(lambda value: None if value is None else float(value)).astype("float64")
        elif isinstance(kind, (T.ByteType, T.ShortType, T.IntegerType, T.LongType)):
            whole = [None if value is None else int(value) for value in values]
            frame[field.name] = pd.Series(whole, index=values.index, dtype="Int64" if None in whole else "int64")
        elif isinstance(kind, T.DecimalType):
            frame[field.name] = values.map(lambda value: None if value is None else Decimal(value))
        elif isinstance(kind, T.BooleanType):
            frame[field.name] = values.map(lambda value: value == "true" if isinstance(value, str) else value)
        elif isinstance(kind, T.TimestampType):
            frame[field.name] = _moments(values, "UTC")
        elif isinstance(kind, T.TimestampNTZType):
            frame[field.name] = _moments(values, None)
        elif isinstance(kind, T.DateType):
            frame[field.name] = values.map(lambda value: None if value is None else date.fromisoformat(value))
        elif is_exact:
            frame[field.name] = values.map(lambda value: value if isinstance(value, str) else _nested(value, field.dataType))  # noqa: B023
    return frame
