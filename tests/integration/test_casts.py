"""Casts: the same values in another type, or an error that names the column and the value."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import Column, SparkSession
from pyspark.sql import types as T

from lakescore.casts import explicit_cast, safe_cast
from lakescore.errors import InputError, LakescoreError
from lakescore.failures import translated


def safely(name: str, found: T.DataType, wanted: T.DataType) -> Column:
    cast = safe_cast(name, found, wanted)
    assert cast is not None, f"there is no safe cast from {found.simpleString()} to {wanted.simpleString()}"
    return cast


def value_of(spark: SparkSession, expression: str, wanted: str, cast: Any) -> Any:
    """One SQL value, cast as a run would cast it."""
    df = spark.sql(f"SELECT {expression} AS c")
    made = df.select(cast("c", df.schema["c"].dataType, T.DataType.fromDDL(wanted)).alias("made"))
    assert made.schema["made"].dataType.simpleString() == wanted
    with translated("scoring failed", LakescoreError):
        return made.collect()[0]["made"]


def refusal(spark: SparkSession, expression: str, wanted: str, cast: Any) -> str:
    with pytest.raises(InputError) as caught:
        value_of(spark, expression, wanted, cast)
    return str(caught.value)


@pytest.mark.parametrize(
    ("expression", "wanted", "value"),
    [
        ("1.5D", "double", 1.5),
        ("NULL", "double", None),
        ("1Y", "smallint", 1),
        ("1S", "int", 1),
        ("1", "bigint", 1),
        ("2147483647", "double", 2147483647.0),
        ("9007199254740992L", "double", 9007199254740992.0),
        ("CAST(NULL AS BIGINT)", "double", None),
        ("16777216", "float", 16777216.0),
        ("CAST(1.5 AS FLOAT)", "double", 1.5),
        ("0.1BD", "double", 0.1),
        ("1.0BD", "bigint", 1),
        ("-9223372036854775808BD", "bigint", -(2**63)),
        ("DATE'2026-01-31'", "timestamp", dt.datetime(2026, 1, 31)),
        ("ARRAY(1, NULL)", "array<double>", [1.0, None]),
        ("ARRAY(1L, 2L)", "array<double>", [1.0, 2.0]),
        ("ARRAY('1.5', NULL)", "array<double>", [1.5, None]),
        ("ARRAY(ARRAY(1, 2), ARRAY(3))", "array<array<double>>", [[1.0, 2.0], [3.0]]),
        ("ARRAY()", "array<double>", []),
        ("1152921504606846976L", "double", 2.0**60),  # whose shortest text in Java is another number
        ("4611686018427387904L", "float", 2.0**62),
        ("-9223372036854775808L", "double", -(2.0**63)),
        ("NAMED_STRUCT('b', 's', 'a', 1)", "struct<a:double,b:string>", (1.0, "s")),
        ("CAST(NULL AS STRUCT<a: INT>)", "struct<a:double>", None),
    ],
)
def test_a_safe_cast_keeps_the_value(spark: SparkSession, expression: str, wanted: str, value: Any) -> None:
    assert value_of(spark, expression, wanted, safely) == value


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("1.5", "double", 1.5),
        (" 12 ", "double", 12.0),
        ("+.5e1", "double", 5.0),
        ("5.", "double", 5.0),
        ("-Infinity", "double", -math.inf),
        ("0.1", "float", 0.10000000149011612),
        (" 0123 ", "bigint", 123),
        ("-0", "int", 0),
        ("true", "boolean", True),
        ("FALSE", "boolean", False),
        ("0", "boolean", False),
        ("2026-1-31", "date", dt.date(2026, 1, 31)),
        ("2026-01-31", "timestamp", dt.datetime(2026, 1, 31)),
        ("2026-01-31 10:20:30.123456", "timestamp", dt.datetime(2026, 1, 31, 10, 20, 30, 123456)),
        ("1.25", "decimal(5,2)", Decimal("1.25")),
    ],
)
def test_text_is_parsed(spark: SparkSession, text: str, wanted: str, value: Any) -> None:
    assert value_of(spark, f"'{text}'", wanted, safely) == value


def test_text_can_say_that_it_is_no_number(spark: SparkSession) -> None:
    assert math.isnan(value_of(spark, "'NaN'", "double", safely))


def test_a_null_text_is_a_null(spark: SparkSession) -> None:
    assert value_of(spark, "CAST(NULL AS STRING)", "double", safely) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("abc", "double"),
        ("", "double"),
        ("1.5d", "double"),
        ("0.1f", "double"),
        ("0x1p3", "double"),
        ("1,5", "double"),
        ("1_000", "double"),
        ("1e400", "double"),
        ("-1e400", "double"),
        ("1e39", "float"),
        ("1.5", "bigint"),
        ("1.0", "bigint"),
        ("", "bigint"),
        ("12L", "bigint"),
        ("9223372036854775808", "bigint"),
        ("2147483648", "int"),
        ("2", "boolean"),
        ("maybe", "boolean"),
        ("", "boolean"),
        ("2026-02-30", "date"),
        ("2026", "date"),
        ("31.01.2026", "date"),
        ("2026-01-31 10:00", "date"),
        ("2026-02-30 00:00:00", "timestamp"),
        ("10:00", "timestamp"),
        ("2026", "timestamp"),
        ("", "timestamp"),
        ("1.256", "decimal(5,2)"),
        ("123456", "decimal(5,2)"),
    ],
)
def test_text_that_does_not_parse_is_refused_with_its_column(spark: SparkSession, text: str, wanted: str) -> None:
    assert refusal(spark, f"'{text}'", wanted, safely) == f"column 'c': '{text}' is not a value of type {wanted}, which is needed"


@pytest.mark.parametrize(
    ("expression", "wanted", "shown", "where"),
    [
        ("9007199254740993L", "double", "9007199254740993", "c"),
        ("-9007199254740993L", "double", "-9007199254740993", "c"),
        ("9223372036854775807L", "double", "9223372036854775807", "c"),
        ("16777217", "float", "16777217", "c"),
        ("9223372036854775807L", "float", "9223372036854775807", "c"),
        ("1.5BD", "bigint", "1.5", "c"),
        ("9223372036854775808BD", "bigint", "9223372036854775808", "c"),
        ("ARRAY(1L, 9007199254740993L)", "array<double>", "9007199254740993", "c"),
        ("ARRAY(ARRAY('x'))", "array<array<double>>", "x", "c"),
        ("NAMED_STRUCT('a', 'x')", "struct<a:double>", "x", "c.a"),
    ],
)
def test_a_value_that_the_wanted_type_cannot_hold_is_refused(
    spark: SparkSession, expression: str, wanted: str, shown: str, where: str
) -> None:
    kind = wanted.split("<")[-1].strip(">").removeprefix("a:")

    assert refusal(spark, expression, wanted, safely) == f"column '{where}': '{shown}' is not a value of type {kind}, which is needed"


def test_a_long_text_is_cut_in_the_message(spark: SparkSession) -> None:
    assert refusal(spark, f"'{'x' * 1000}'", "double", safely) == (
        f"column 'c': '{'x' * 60}' is not a value of type double, which is needed"
    )


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("double", "float"),
        ("double", "bigint"),
        ("bigint", "int"),
        ("boolean", "double"),
        ("int", "boolean"),
        ("int", "string"),
        ("timestamp", "date"),
        ("array<double>", "array<float>"),
        ("array<int>", "int"),
        ("struct<a:int>", "struct<a:int,b:int>"),
        ("map<string,int>", "map<string,double>"),
        ("binary", "string"),
    ],
)
def test_what_is_not_exact_has_no_safe_cast(spark: SparkSession, found: str, wanted: str) -> None:
    assert safe_cast("c", T.DataType.fromDDL(found), T.DataType.fromDDL(wanted)) is None


@pytest.mark.parametrize(
    ("expression", "wanted", "value"),
    [
        ("0.1D", "float", 0.10000000149011612),
        ("CAST('-inf' AS DOUBLE)", "float", -math.inf),
        ("0.1BD", "float", 0.10000000149011612),
        ("2D", "bigint", 2),
        ("-9.223372036854775808E18D", "bigint", -(2**63)),
        ("CAST(NULL AS DOUBLE)", "bigint", None),
        ("2147483647L", "int", 2147483647),
        ("1.25D", "decimal(5,2)", Decimal("1.25")),
        ("true", "double", 1.0),
        ("1", "boolean", True),
        ("1.5D", "string", "1.5"),
        ("DATE'2026-01-31'", "string", "2026-01-31"),
        ("TIMESTAMP'2026-01-31 10:00:00'", "date", dt.date(2026, 1, 31)),
        ("TIMESTAMP_NTZ'2026-01-31 10:00:00'", "timestamp", dt.datetime(2026, 1, 31, 10)),
        ("ARRAY(ARRAY(0.5D))", "array<array<float>>", [[0.5]]),
        ("NAMED_STRUCT('a', 0.5D)", "struct<a:float>", (0.5,)),
        ("'1.5'", "double", 1.5),
        ("NULL", "string", None),
    ],
)
def test_an_explicit_cast_does_what_it_is_asked_for(spark: SparkSession, expression: str, wanted: str, value: Any) -> None:
    assert value_of(spark, expression, wanted, explicit_cast) == value


@pytest.mark.parametrize(
    ("expression", "wanted", "shown"),
    [
        ("1.5D", "bigint", "1.5"),
        ("1e19D", "bigint", "1.0E19"),
        ("CAST('nan' AS DOUBLE)", "bigint", "NaN"),
        ("2147483648L", "int", "2147483648"),
        ("300", "tinyint", "300"),
        ("1e39D", "float", "1.0E39"),
        ("1.256BD", "decimal(5,2)", "1.256"),
        ("123456", "decimal(5,2)", "123456"),
        ("9007199254740993L", "double", "9007199254740993"),
        ("2", "boolean", "2"),
        ("ARRAY(1.5D)", "array<int>", "1.5"),
        ("ARRAY(1e39D)", "array<float>", "1.0E39"),
        ("ARRAY(3000000000L)", "array<int>", "3000000000"),
        ("ARRAY('x')", "array<int>", "x"),
    ],
)
def test_an_explicit_cast_that_loses_digits_is_refused(spark: SparkSession, expression: str, wanted: str, shown: str) -> None:
    kind = wanted.split("<")[-1].strip(">")

    assert refusal(spark, expression, wanted, explicit_cast) == f"column 'c': '{shown}' is not a value of type {kind}, which is needed"


@pytest.mark.parametrize(
    ("found", "wanted"), [("array<int>", "string"), ("binary", "int"), ("date", "int"), ("bigint", "timestamp"), ("struct<a:int>", "int")]
)
def test_an_explicit_cast_that_has_no_meaning_is_refused(spark: SparkSession, found: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        explicit_cast("c", T.DataType.fromDDL(found), T.DataType.fromDDL(wanted))

    assert str(caught.value) == f"columns.cast: column 'c' is {found} and cannot be cast to {wanted}"


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_casts_do_not_depend_on_the_ansi_mode(spark: SparkSession, ansi: str) -> None:
    before = spark.conf.get("spark.sql.ansi.enabled")
    spark.conf.set("spark.sql.ansi.enabled", ansi)
    try:
        message = refusal(spark, "ARRAY('x')", "array<int>", explicit_cast)
        overflow = refusal(spark, "3000000000L", "int", explicit_cast)
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)

    assert message == "column 'c': 'x' is not a value of type int, which is needed"
    assert overflow == "column 'c': '3000000000' is not a value of type int, which is needed"
