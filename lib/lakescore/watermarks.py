"""A column that grows, as what divides a source into batches: its largest value, and the condition that gives the rows between two.

Values are kept as text or whole numbers, so that they can be written down; times as UTC with microseconds, whatever the session's zone.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.errors import ConfigError, InputError, did_you_mean
from lakescore.failures import translated
from lakescore.offsets import Window
from lakescore.schema import column as column_of

_KEY = "source.incremental.column"
_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_TYPES = (*_INTEGERS, T.DateType, T.TimestampType, T.TimestampNTZType, T.StringType)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def newest(df: DataFrame, name: str, window: Window) -> tuple[int | str | None, int]:
    """The largest value behind a window's beginning, None where there is none; and how many rows have no value.

    Raises:
        InputError: there is no such column, or it has no order that batches could go by.
        ConfigError: the window's beginning is no value of the column.
    """
    kind = _type_of(df, name)
    column = column_of(name)
    since = _since(column, kind, window)
    with translated(f"{_KEY}: {name}", InputError):
        largest = F.max(column if since is None else F.when(since, column))
        row = df.agg(_written(largest, kind).alias("largest"), F.count(F.when(column.isNull(), 1)).alias("nulls")).toArrow().to_pylist()[0]
    value = row["largest"]
    if isinstance(kind, T.TimestampType) and value is not None:
        try:
            value = (_EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds").replace("+00:00", "Z")
        except OverflowError:
            raise InputError(f"{_KEY}: {name} has times beyond the year 9999; leave them out by source.filter") from None
    return value, int(row["nulls"])


def inside(df: DataFrame, name: str, window: Window) -> DataFrame:
    """The rows of a window; never those without a value.

    Raises:
        InputError: as ``newest``.
    """
    kind, column = _type_of(df, name), column_of(name)
    since = _since(column, kind, window)
    until = column <= _literal(window.to, kind)
    return df.where(until if since is None else since & until)


def _type_of(df: DataFrame, name: str) -> T.DataType:
    found = next((field for field in df.schema.fields if field.name == name), None)
    if found is None:
        raise InputError(f"{_KEY}: there is no column {name!r} in the source.{did_you_mean(name, df.columns)}")
    if not isinstance(found.dataType, _TYPES):
        raise InputError(
            f"{_KEY}: {name!r} is {found.dataType.simpleString()}; expected an integer, a date, a timestamp or a text that grows"
        )
    return found.dataType


def _since(column: Column, kind: T.DataType, window: Window) -> Column | None:
    if window.after is not None:
        return column > _literal(window.after, kind)
    return None if window.start is None else column >= _literal(window.start, kind, "source.incremental.start")


def _written(value: Column, kind: T.DataType) -> Column:
    if isinstance(kind, T.TimestampType):
        return F.unix_micros(value)
    return value.cast("long" if isinstance(kind, _INTEGERS) else "string")


def _literal(value: Any, kind: T.DataType, key: str = _KEY) -> Column:
    """A value as it is written down, as one of the column's type."""
    try:
        if isinstance(kind, _INTEGERS):
            return F.lit(int(value)).cast("long")
        if isinstance(kind, T.StringType):
            return F.lit(str(value))
        if isinstance(kind, T.TimestampNTZType):
            return F.lit(str(value)).cast("timestamp_ntz")
        time = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(f"{key}: got {value!r}; expected a value of the column's type, {kind.simpleString()}") from None
    if isinstance(kind, T.DateType):
        return F.lit(time.date().isoformat()).cast("date")
    aware = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
    return F.timestamp_micros(F.lit((aware - _EPOCH) // timedelta(microseconds=1)))
