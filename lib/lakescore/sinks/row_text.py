"""The columns of a row in, one line of text out, by Spark's own functions: JSON, or ``File: Prediction``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.schema import column

SEPARATOR = ":"
TIME = "time"
# Nulls are written, times are in UTC with all their digits. Spark writes NaN and infinities as the texts "NaN", "Infinity" and
# "-Infinity", which its own reader, and Python's float(), take back; JSON has no numbers for them.
_JSON = {
    "ignoreNullFields": "false",
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
_TIME = {"timeZone": "UTC", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ssxx"}
_NESTED = (T.StructType, T.ArrayType, T.MapType)


def json_line(names: Sequence[str], fields: Mapping[str, str], scored_at: str) -> Column:
    """A row as one JSON object: ``time`` (UTC, ``2022-01-06T06:40:27+0000``), then the columns in their order.

    Args:
        names: the columns to write.
        fields: what a column is called in the object, where not as it is.
        scored_at: the column with the time.
    """
    # By to_csv, because only Spark's writers take a time zone of their own: date_format speaks the session's.
    time = F.to_csv(F.struct(column(scored_at)), _TIME).alias(TIME)
    return F.to_json(F.struct(time, *[column(name).alias(fields.get(name, name)) for name in names]), _JSON)


def plain_line(columns: Sequence[tuple[str, T.DataType]]) -> Column:
    """A row as ``key: prediction``, more predictions each behind another colon; a single one without a key as it is.

    ``pandas.read_csv(file, delimiter=":", header=None)`` reads it back: what holds a colon or a quote stands in quotes, as CSV has it,
    a null is nothing at all, and line breaks are written as ``\\n``, so that a row is a line.

    Args:
        columns: the names and types of what stands in the line; the first is the key.
    """
    texts = [_text(name, of) for name, of in columns]
    if len(texts) == 1:
        return F.coalesce(texts[0], F.lit(""))
    return F.concat_ws(SEPARATOR, _cell(texts[0], ""), *[_cell(text, " ") for text in texts[1:]])


def _text(name: str, kind: T.DataType) -> Column:
    value = column(name)
    if isinstance(kind, _NESTED):
        text = F.to_json(value, _JSON)
    elif isinstance(kind, T.BinaryType):
        text = F.base64(value)
    elif isinstance(kind, T.TimestampType):
        text = F.to_csv(F.struct(value), {"timeZone": "UTC", "timestampFormat": _JSON["timestampFormat"]})
        text = F.when(value.isNotNull(), text)
    else:
        text = value.cast("string")
    return F.replace(F.replace(text, F.lit("\r"), F.lit(r"\r")), F.lit("\n"), F.lit(r"\n"))


def _cell(text: Column, before: str) -> Column:
    quoted = F.concat(F.lit(f'"{before}'), F.replace(text, F.lit('"'), F.lit('""')), F.lit('"'))
    plain = F.concat(F.lit(before), text)
    return F.coalesce(F.when(text.rlike('[:"]'), quoted).otherwise(plain), F.lit(""))
