"""Names and types of columns as all stages speak of them."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.config import PARTITION as PARTITION

BATCH = "batch_id"
RUN = "run_id"
# What every row carries after the predictions, in this order.
LINEAGE_COLUMNS = ("model_uri", "model_version", RUN, BATCH, "scored_at", PARTITION)

# Beside the source's columns, where rows may be quarantined: why a file could not be decoded; null where it could.
UNREADABLE = "__lakescore_unreadable"

TIMESTAMPS = (T.TimestampType, T.TimestampNTZType)


@dataclass(frozen=True)
class Tensor:
    """One row's part of a tensor input: its shape, -1 where it may vary, and numpy's name of its type."""

    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Feature:
    """One input of the model: its name, its Spark type, whether it may be absent, and its tensor where it is an array of one."""

    name: str
    type: T.DataType
    required: bool = True
    tensor: Tensor | None = None


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        features: the named inputs in the model's order; None where the model does not name them.
        unnamed: the types of inputs without names, in order; None where there are none.
        tensor: the one tensor without a name that they are made of; None where they are columns.
        result: the Spark type of one row's prediction; None where the model does not say.
        params: the names of the parameters that ``predict`` takes.
        names: the inputs of a model that knows their names and not their types; it takes them as the source has them.
    """

    features: tuple[Feature, ...] | None = None
    unnamed: tuple[T.DataType, ...] | None = None
    result: T.DataType | None = None
    params: tuple[str, ...] = ()
    tensor: Tensor | None = None
    names: tuple[str, ...] = ()


def quoted(name: str) -> str:
    """A column's name as Spark parses it, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str) -> Column:
    """The top-level column of exactly this name."""
    return F.col(quoted(name))


def is_same(found: T.DataType, wanted: T.DataType) -> bool:
    """Whether two types hold the same values; nullability does not count."""
    if isinstance(found, TIMESTAMPS) and isinstance(wanted, TIMESTAMPS):
        return True
    return found.simpleString() == wanted.simpleString()


def nullable(schema: T.StructType) -> T.StructType:
    """The schema as a table's: all nullable, inside too (else it would be a constraint), and without Spark's private metadata."""
    return T.StructType([T.StructField(field.name, _nullable_inside(field.dataType), True) for field in schema.fields])


def _nullable_inside(kind: T.DataType) -> T.DataType:
    if isinstance(kind, T.StructType):
        return nullable(kind)
    if isinstance(kind, T.ArrayType):
        return T.ArrayType(_nullable_inside(kind.elementType), True)
    if isinstance(kind, T.MapType):
        return T.MapType(_nullable_inside(kind.keyType), _nullable_inside(kind.valueType), True)
    return kind
