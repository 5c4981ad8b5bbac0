"""What a Python caller has in hand, a pandas, Arrow or Spark DataFrame, in; a Spark DataFrame out.

| given                                        | columns                                                                        |
| -------------------------------------------- | ------------------------------------------------------------------------------ |
| pandas                                       | without the index; NaN, NaT, None and NA are null, categories are their values |
| Arrow table or batch, or what exports one    | as they are; NaN stays NaN                                                     |
| Spark                                        | as they are, on the session that it is of                                      |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from lakescore.errors import ConfigError, InputError
from lakescore.failures import translated

_EXPORTS_ARROW = "__arrow_c_stream__"
# Spark has no unsigned integers: the next wider one holds all values.
_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}


def kind_of(data: Any) -> str:
    """What was given: ``pandas``, ``arrow`` or ``spark``.

    Raises:
        ConfigError: it is none of them.
    """
    if _is_spark(data):
        return "spark"
    if isinstance(data, pd.DataFrame):
        return "pandas"
    if isinstance(data, (pa.Table, pa.RecordBatch)) or hasattr(data, _EXPORTS_ARROW):
        return "arrow"
    if isinstance(data, (list, dict)):
        raise ConfigError("data: got a list or mapping; give rows as source.rows, as in score({'source': {'rows': [...]}, ...})")
    raise ConfigError(f"data: got {type(data).__name__}; expected a pandas DataFrame, an Arrow table or a Spark DataFrame")


def session_of(data: Any) -> SparkSession | None:
    """The session of a Spark DataFrame; None for what has none."""
    if not _is_spark(data):
        return None
    session: SparkSession = data.sparkSession
    return session


def count(data: Any) -> int | None:
    """The rows of a DataFrame or of ``source.rows``; None where only Spark can tell."""
    if isinstance(data, Mapping):
        return len(next(iter(data.values()), ()))
    if isinstance(data, Sequence):
        return len(data)
    if isinstance(data, (pd.DataFrame, pa.Table, pa.RecordBatch)):
        return int(data.shape[0])
    return None


def to_spark(spark: SparkSession, data: Any) -> DataFrame:
    """The rows as a Spark DataFrame.

    Raises:
        InputError: naming the column that Spark has no type for.
    """
    if _is_spark(data):
        frame: DataFrame = data
        return frame
    table = _from_pandas(data) if isinstance(data, pd.DataFrame) else _from_arrow(data)
    if not table.column_names:
        raise InputError("data: there is no column in it")
    with translated("data", InputError):
        return spark.createDataFrame(for_spark(table))


def for_spark(table: pa.Table, where: str = "data") -> pa.Table:
    """The same values in types that Spark has: categories as their values, unsigned integers as wider ones.

    Raises:
        InputError: a value has no place in them, naming the column.
    """
    kinds = {i: _plain(field.type) for i, field in enumerate(table.schema)}
    for i, kind in kinds.items():
        field = table.schema.field(i)
        if kind != field.type:
            try:
                table = table.set_column(i, field.name, table.column(i).cast(kind))
            except pa.ArrowException as error:
                raise InputError(f"{where}: column {field.name!r}: {str(error).splitlines()[0]}") from error
    for field in table.schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise InputError(
                f"{where}: column {field.name!r} is {field.type.extension_name}, which Spark has no type for; make it text, or drop it"
            )
    return table.replace_schema_metadata(None)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    # What newer Arrow writers, Polars among them, give for text and bytes.
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.string() if kind == pa.string_view() else pa.binary()
    if pa.types.is_uint64(kind):
        return pa.int64()  # a value that does not fit is refused by name
    if pa.types.is_float16(kind):
        return pa.float32()
    # Spark counts microseconds; what is finer is refused by name.
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return _SIGNED.get(kind, kind)


def _is_spark(data: Any) -> bool:
    """Classic, or over Spark Connect, whose DataFrame was no subclass before Spark 4."""
    return isinstance(data, DataFrame) or type(data).__module__.startswith("pyspark.sql.connect.")


def refuse_mixed_times(what: str, values: Iterable[Any]) -> None:
    """Arrow would cut times off where dates are among them, and take times without a zone for UTC.

    Raises:
        InputError: begins with ``what``.
    """
    kinds = {_kind_of_time(value) for value in values if isinstance(value, date)}
    if len(kinds) > 1:
        raise InputError(f"{what} mixes {' and '.join(sorted(kinds))}; give values of one kind")


def _kind_of_time(value: date) -> str:
    if not isinstance(value, datetime):
        return "dates"
    return "times without a zone" if value.tzinfo is None else "times with a zone"


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    if isinstance(frame.columns, pd.MultiIndex):
        raise InputError("data: its columns have several levels; give each one name, for example by frame.columns.map('_'.join)")
    arrays = []
    for position, name in enumerate(frame.columns):
        values = frame.iloc[:, position]
        if isinstance(values.dtype, pd.SparseDtype):
            values = values.astype(values.dtype.subtype)
        if values.dtype == object:
            present = values.dropna()
            if len(present) and isinstance(present.iloc[0], date):
                refuse_mixed_times(f"data: column {str(name)!r}", present)
        try:
            arrays.append(pa.Array.from_pandas(values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"data: column {str(name)!r}: {str(error).splitlines()[0]}") from error
    return pa.Table.from_arrays(arrays, names=[str(name) for name in frame.columns])


def _from_arrow(data: Any) -> pa.Table:
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    return data if isinstance(data, pa.Table) else pa.table(data)
