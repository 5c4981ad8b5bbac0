"""The run's record in every row: which model, run and batch made it, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.errors import ConfigError
from lakescore.failures import mark, translate
from lakescore.schema import BATCH, LINEAGE_COLUMNS, PARTITION

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Lineage:
    """What a run stamps: one value per column, the same in all its rows (but ``score_date`` where an expression makes it).

    Attributes:
        scored_at: when the run started (aware).
        score_date: the run's date in its time zone.
        partition_by: ``score_date``, or a SQL expression over the kept columns that gives a DATE.
    """

    model_uri: str
    model_version: str
    run_id: str
    batch_id: str
    scored_at: datetime
    score_date: date
    partition_by: str = PARTITION


def lineage_columns(lineage: Lineage) -> list[Column]:
    """The lineage columns in their order; ``score_date`` is a DATE and is never null."""
    micros = (lineage.scored_at - _EPOCH) // timedelta(microseconds=1)
    day = (
        F.lit(lineage.score_date.isoformat()).cast("date")
        if lineage.partition_by == PARTITION
        else F.coalesce(F.expr(lineage.partition_by), F.raise_error(F.lit(_NO_DATE.format(lineage.partition_by))))
    )
    return [
        F.lit(lineage.model_uri).alias("model_uri"),
        F.lit(lineage.model_version).alias("model_version"),
        F.lit(lineage.run_id).alias("run_id"),
        F.lit(lineage.batch_id).alias(BATCH),
        F.timestamp_micros(F.lit(micros)).alias("scored_at"),
        day.alias(PARTITION),
    ]


def lineage_types() -> dict[str, T.DataType]:
    """The lineage columns' types, in their order."""
    types: dict[str, T.DataType] = {name: T.StringType() for name in LINEAGE_COLUMNS}
    return {**types, "scored_at": T.TimestampType(), PARTITION: T.DateType()}


_NO_DATE = mark("input", "output.partition_by: {} is null for a row; every row needs a date")


def check_partition_by(df: DataFrame, expression: str) -> None:
    """Refuse an expression that is no date over the columns of ``df``.

    Raises:
        ConfigError: it does not parse, names an unknown column, or gives another type.
    """
    if expression == PARTITION:
        return
    try:
        # A condition, unlike a column, may neither aggregate nor make more rows.
        df.where(F.expr(expression).isNotNull()).schema  # noqa: B018  a Connect client asks the server only now
        kind = df.select(F.expr(expression).alias(PARTITION)).schema[PARTITION].dataType
    except Exception as error:
        raise translate(error, f"output.partition_by: {expression}", ConfigError) from error
    if not isinstance(kind, T.DateType):
        raise ConfigError(
            f"output.partition_by: {expression} gives {kind.simpleString()}; expected a date, for example to_date({expression})"
        )
