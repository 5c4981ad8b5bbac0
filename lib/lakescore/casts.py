"""A column of one type in, the same values in another type out, or an error: never a null or a number that was not there.

| found                     | wanted               | how                                                          |
| ------------------------- | -------------------- | ------------------------------------------------------------ |
| the same type             | the same             | as it is (``timestamp_ntz`` counts as ``timestamp``)         |
| no type (all null)        | any                  | null                                                         |
| integers                  | wider integers       | exact                                                        |
| integers                  | double, float        | exact; a value that the float cannot hold fails the run      |
| float                     | double               | exact                                                        |
| decimal                   | double               | nearest double                                               |
| decimal                   | integers             | exact; a fraction or an overflow fails the run               |
| text                      | numbers, boolean, date, timestamp | parsed; what does not parse, or overflows, fails the run |
| date                      | timestamp            | midnight in the session's time zone                          |
| array                     | array                | element by element, after this table                         |
| struct                    | struct               | field by field, by name                                      |

All else is refused when the job is planned; ``columns.cast`` asks for it explicitly (``double`` to ``float`` rounds; a fraction cut off
or an overflow fails the run).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore.errors import InputError
from lakescore.failures import mark
from lakescore.schema import TIMESTAMPS, column, is_same

# Where messages about rows go; None: the first one fails the run.
Problems = list[Column] | None
# The name that messages use, the value, its type, the wanted type; None where there is no way.
_Cast = Callable[[str, Column, T.DataType, T.DataType], Column | None]

# The name, the value, what it becomes, whether that is right, the wanted type.
_Fail = Callable[[str, Column, Column, Column, T.DataType], Column]

_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_RANK: dict[type[T.DataType], int] = {kind: rank for rank, kind in enumerate(_INTEGERS, 1)}
_FLOATS = (T.DoubleType, T.FloatType)
_NUMBERS = (*_INTEGERS, *_FLOATS, T.DecimalType)
_PARSED = (*_NUMBERS, T.BooleanType, T.DateType, *TIMESTAMPS)
# Spark's own parsers also take `1.5d`, `0x1p3`, an overflow as infinity, `10:00` as today and a year as its first day.
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_NOT_FINITE = r"(?i)^\s*([+-]?inf(inity)?|nan)\s*$"
_DATE = r"^\s*[+-]?\d{4,}-\d{1,2}-\d{1,2}\s*$"
_TIMESTAMP = r"^\s*[+-]?\d{4,}-\d{1,2}-\d{1,2}([ T].*)?\s*$"
# Spark's timestamps have microseconds, and its parser cuts off what is finer.
_NANOSECONDS = r"\.\d{6}\d*[1-9]"
_SHOWN_CHARACTERS = 60


def is_number_cast(found: T.DataType, wanted: T.DataType, explicit: bool = False) -> bool:
    """Whether there is a way from one type of numbers to another, by the types alone: a part of what the module's table has.

    Args:
        found, wanted: the types.
        explicit: whether a double may be rounded to a float.
    """
    from_rank, to_rank = _RANK.get(type(found)), _RANK.get(type(wanted))
    if from_rank:
        return isinstance(wanted, _FLOATS) or (to_rank is not None and from_rank < to_rank)
    return isinstance(found, _FLOATS) and (isinstance(wanted, T.DoubleType) or (explicit and isinstance(wanted, T.FloatType)))


def safe_cast(name: str, found: T.DataType, wanted: T.DataType, problems: Problems = None) -> Column | None:
    """The column in the wanted type, or None where the table of the module's docstring has no way.

    Args:
        name: the column.
        found: its type.
        wanted: the type to make.
        problems: where to put, instead of failing the run, a column that says what is wrong with a row's value (null: nothing); the
            value itself is null then. Values inside arrays and structs fail the run all the same.
    """
    return _safe(name, column(name), found, wanted, problems)


def explicit_cast(name: str, found: T.DataType, wanted: T.DataType, problems: Problems = None) -> Column:
    """The column as ``columns.cast`` asks for it; ``problems`` as in ``safe_cast``.

    Raises:
        InputError: there is no such cast.
    """
    cast = _explicit(name, column(name), found, wanted, problems)
    if cast is None:
        raise InputError(f"columns.cast: column {name!r} is {found.simpleString()} and cannot be cast to {wanted.simpleString()}")
    return cast


def _safe(name: str, value: Column, found: T.DataType, wanted: T.DataType, problems: Problems = None) -> Column | None:
    fail = partial(_or_fail, problems)
    if is_same(found, wanted):
        return value
    if isinstance(found, T.NullType):
        return value.cast(wanted)
    from_rank, to_rank = _RANK.get(type(found)), _RANK.get(type(wanted))
    if from_rank and to_rank:
        return value.cast(wanted) if from_rank < to_rank else None
    if from_rank and isinstance(wanted, _FLOATS):
        exact = from_rank <= (3 if isinstance(wanted, T.DoubleType) else 2)
        return value.cast(wanted) if exact else _checked(fail, name, value, value.cast(wanted), wanted, back_to=found)
    if isinstance(found, (T.FloatType, T.DecimalType)) and isinstance(wanted, T.DoubleType):
        return value.cast(wanted)
    if isinstance(found, T.DecimalType) and to_rank:
        return _checked(fail, name, value, value.try_cast(wanted), wanted, back_to=found)
    if isinstance(found, T.StringType) and isinstance(wanted, _PARSED):
        return _parsed(fail, name, value, wanted)
    if isinstance(found, T.DateType) and isinstance(wanted, TIMESTAMPS):
        return value.cast(wanted)
    return _nested(name, value, found, wanted, _safe)


def _explicit(name: str, value: Column, found: T.DataType, wanted: T.DataType, problems: Problems = None) -> Column | None:
    fail = partial(_or_fail, problems)
    if isinstance(found, TIMESTAMPS) and isinstance(wanted, (*TIMESTAMPS, T.DateType)):
        return value.cast(wanted)
    safe = _safe(name, value, found, wanted, problems)
    if safe is not None:
        return safe
    if isinstance(wanted, T.FloatType) and isinstance(found, (T.DoubleType, T.DecimalType)):
        return _checked(fail, name, value, value.cast(wanted), wanted, back_to=None)
    if isinstance(found, _NUMBERS) and isinstance(wanted, _NUMBERS):
        return _checked(fail, name, value, value.try_cast(wanted), wanted, back_to=found)
    if isinstance(found, _INTEGERS) and isinstance(wanted, T.BooleanType):
        return _checked(fail, name, value, value.cast(wanted), wanted, back_to=found)
    if isinstance(wanted, T.StringType) and isinstance(found, (*_NUMBERS, T.BooleanType, T.DateType, *TIMESTAMPS)):
        return value.cast(wanted)
    if isinstance(found, T.BooleanType) and isinstance(wanted, _NUMBERS):
        return value.cast(wanted)
    return _nested(name, value, found, wanted, _explicit)


def _nested(name: str, value: Column, found: T.DataType, wanted: T.DataType, cast: _Cast) -> Column | None:
    if isinstance(found, T.ArrayType) and isinstance(wanted, T.ArrayType):
        return _elements(name, value, found.elementType, wanted.elementType, cast)
    if isinstance(found, T.StructType) and isinstance(wanted, T.StructType):
        return _fields(name, value, found, wanted, cast)
    return None


def _elements(name: str, value: Column, found: T.DataType, wanted: T.DataType, cast: _Cast) -> Column | None:
    if _widens(found, wanted):
        return value.cast(T.ArrayType(wanted))  # in one go: a lambda for each element is slow
    if cast(name, value, found, wanted) is None:
        return None

    def element(item: Column) -> Column:
        made = cast(name, item, found, wanted)
        assert made is not None, "tried above"
        return made

    return F.transform(value, element)


def _fields(name: str, value: Column, found: T.StructType, wanted: T.StructType, cast: _Cast) -> Column | None:
    types = {field.name: field.dataType for field in found.fields}
    made = []
    for field in wanted.fields:
        if field.name not in types:
            return None
        one = cast(f"{name}.{field.name}", value.getField(field.name), types[field.name], field.dataType)
        if one is None:
            return None
        made.append(one.alias(field.name))
    return F.when(value.isNotNull(), F.struct(*made))


def _widens(found: T.DataType, wanted: T.DataType) -> bool:
    """Whether every value of the one type is one of the other, without a check."""
    if isinstance(found, T.ArrayType) and isinstance(wanted, T.ArrayType):
        return is_same(found, wanted) or _widens(found.elementType, wanted.elementType)
    from_rank, to_rank = _RANK.get(type(found), 0), _RANK.get(type(wanted), 0)
    if isinstance(wanted, T.DoubleType):
        return isinstance(found, T.FloatType) or 0 < from_rank <= 3
    return 0 < from_rank < to_rank


def _parsed(fail: _Fail, name: str, value: Column, wanted: T.DataType) -> Column:
    parsed = value.try_cast(wanted)
    if isinstance(wanted, _FLOATS):
        finite = value.rlike(_NUMBER) & ~parsed.isin(float("inf"), float("-inf"))
        parsed = F.when(finite | value.rlike(_NOT_FINITE), parsed)
    elif isinstance(wanted, T.DecimalType):
        # As many more digits after the point as there are, so that a rounded one shows.
        wide = T.DecimalType(38, 38 - (wanted.precision - wanted.scale))
        parsed = F.when(parsed.cast(wide) == value.try_cast(wide), parsed)
    elif isinstance(wanted, (T.DateType, *TIMESTAMPS)):
        parsed = F.when(value.rlike(_DATE if isinstance(wanted, T.DateType) else _TIMESTAMP) & ~value.rlike(_NANOSECONDS), parsed)
    return fail(name, value, parsed, value.isNull() | parsed.isNotNull(), wanted)


def _checked(fail: _Fail, name: str, value: Column, cast: Column, wanted: T.DataType, back_to: T.DataType | None) -> Column:
    """A cast that must lose nothing (``back_to``) or at least not overflow; NaN and infinities stay what they are."""
    if back_to is not None:
        wide = T.DecimalType(38, back_to.scale) if isinstance(back_to, T.DecimalType) else T.DecimalType(38, 0)
        if isinstance(back_to, _FLOATS):
            kept = cast.cast(back_to) == value
        elif isinstance(back_to, _INTEGERS) and isinstance(wanted, _FLOATS):
            # A float that rounds up to 2^63 casts back to the largest long. As decimals large floats are not what they are: Java takes
            # their shortest text.
            kept = (cast < F.lit(float(2**63))) & (cast.try_cast("bigint") == value)
        else:
            kept = cast.try_cast(wide) == value.try_cast(wide)
    else:
        infinite = cast.isin(float("inf"), float("-inf"))
        kept = ~infinite | value.cast("double").isin(float("inf"), float("-inf"))
    return fail(name, value, cast, value.isNull() | F.coalesce(kept, F.lit(False)), wanted)


def _or_fail(problems: Problems, name: str, value: Column, good: Column, is_good: Column, wanted: T.DataType) -> Column:
    text = f"column {name!r}: '\0' is not a value of type {wanted.simpleString()}, which is needed"
    before, after = (text if problems is not None else mark("input", text)).split("\0")
    message = F.concat(F.lit(before), F.substring(value.cast("string"), 1, _SHOWN_CHARACTERS), F.lit(after))
    if problems is None:
        return F.when(is_good, good).otherwise(F.raise_error(message))
    problems.append(F.when(~is_good, message))
    return F.when(is_good, good)
