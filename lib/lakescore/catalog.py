"""Tables of Spark's catalog: their names, checked and quoted, and their versions."""

from __future__ import annotations

import re

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakescore.errors import ConfigError, did_you_mean, listing
from lakescore.schema import quoted

_PART = re.compile(r"`(?:[^`]|``)+`|[\w-]+")


def quote_table(key: str, name: str) -> str:
    """A table's name, checked and quoted part by part.

    Raises:
        ConfigError: it is not one to three names with dots between.
    """
    parts = [match.group(0) for match in _PART.finditer(name)]
    if ".".join(parts) != name or not 1 <= len(parts) <= 3:
        raise ConfigError(f"{key}: got {name!r}; expected table, schema.table or catalog.schema.table, odd names in backticks")
    return ".".join(part if part.startswith("`") else quoted(part) for part in parts)


def split_table(quoted_name: str) -> list[str]:
    """The parts of a quoted table's name, still quoted."""
    return _PART.findall(quoted_name)


def table_version(spark: SparkSession, quoted_name: str, timestamp: str | None = None) -> int | None:
    """The newest version of a Delta table, or the newest at a time; None for tables without versions, or none at all."""
    try:
        history = spark.sql(f"DESCRIBE HISTORY {quoted_name}" + (" LIMIT 1" if timestamp is None else ""))
        if timestamp is not None:
            history = history.where(F.col("timestamp") <= F.lit(timestamp).cast("timestamp"))
        row = history.agg(F.max("version")).first()
    except Exception:
        return None
    return int(row[0]) if row is not None and row[0] is not None else None


def did_you_mean_table(spark: SparkSession, quoted_name: str) -> str:
    """The table, or else the schema, whose name is nearest to that of one that does not exist."""
    parts = [part.strip("`").replace("``", "`") for part in split_table(quoted_name)]
    try:
        schema = ".".join(map(quoted, parts[:-1])) or None
        return did_you_mean(parts[-1], [table.name for table in spark.catalog.listTables(schema)])
    except Exception:
        schemas = [database.name for database in spark.catalog.listDatabases()]
        return did_you_mean(parts[-2], schemas) or f" The schemas are {listing(schemas)}."
