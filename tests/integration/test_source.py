"""The source: what it reads, exactly as it is there, and what it refuses, naming the file, table or key."""

from __future__ import annotations

import datetime as dt
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from pyspark.sql import DataFrame, SparkSession

from lakescore import score, source
from lakescore.config import SourceConfig
from lakescore.errors import ConfigError, InputError, LakescoreError
from lakescore.failures import translated
from lakescore.source import Source

Make = Callable[..., dict[str, Any]]
PEOPLE = [(1, 1.5, "a"), (2, 2.5, None)]


@pytest.fixture(scope="module")
def people(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(PEOPLE, "id long, x double, s string").coalesce(1)


@pytest.fixture(scope="module")
def many(spark: SparkSession) -> DataFrame:
    """Enough rows of random text that a file has pages to break."""
    return spark.range(0, 20_000, 1, 1).selectExpr("id", "rand(1) AS x", "uuid() AS s")


@pytest.fixture(scope="module")
def delta(people: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The people as a Delta table of one version, partitioned by ``id``."""
    path = tmp_path_factory.mktemp("delta") / "people"
    people.write.format("delta").partitionBy("id").save(str(path))
    return path


@pytest.fixture(scope="module")
def tables(spark: SparkSession, people: DataFrame) -> Iterator[None]:
    """Tables ``people`` (Delta, two versions) and ``sales.people`` (Parquet), and a view ``odd name``."""
    spark.sql("CREATE SCHEMA IF NOT EXISTS sales")
    people.write.format("delta").saveAsTable("people")
    people.write.format("delta").mode("append").saveAsTable("people")
    people.write.format("parquet").saveAsTable("sales.people")
    people.createOrReplaceTempView("`odd name`")
    yield
    for statement in ("TABLE people", "TABLE sales.people", "VIEW `odd name`", "SCHEMA sales"):
        spark.sql(f"DROP {statement}")


@pytest.fixture(scope="module")
def double_uri(store: str) -> str:
    """A model that doubles ``x``."""

    class Double(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["x"] * 2

    signature = ModelSignature(inputs=Schema([ColSpec("double", "x")]), outputs=Schema([ColSpec("double")]))
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=Double(), signature=signature, pip_requirements=[]).model_uri)


def open_source(spark: SparkSession, feature_names: Sequence[str] = (), **keys: Any) -> Source:
    config = SourceConfig.model_validate(keys)
    return source.read(spark, config, source.inspect(config), feature_names)


def rows_of(spark: SparkSession, feature_names: Sequence[str] = (), **keys: Any) -> list[tuple[Any, ...]]:
    """The rows of a source, read by tasks as a run reads them."""
    df = open_source(spark, feature_names, **keys).df
    with translated("scoring failed", LakescoreError):
        return sorted((tuple(row) for row in df.collect()), key=repr)


def refusal(spark: SparkSession, error: type[LakescoreError], feature_names: Sequence[str] = (), **keys: Any) -> str:
    """The one line with which a source is refused, at the latest by the tasks that read it."""
    with pytest.raises(error) as caught:
        rows_of(spark, feature_names, **keys)
    return str(caught.value)


def file_with(folder: Path, name: str, content: str | bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("part-*")
    return file


# What it reads


@pytest.mark.parametrize("format_", ["parquet", "delta", "orc", "avro"])
def test_files_give_their_rows_and_types(spark: SparkSession, people: DataFrame, tmp_path: Path, format_: str) -> None:
    people.write.format(format_).save(str(tmp_path / "data"))

    found = open_source(spark, path=str(tmp_path / "data"))

    assert found.df.dtypes == [("id", "bigint"), ("x", "double"), ("s", "string")]
    assert sorted(map(tuple, found.df.collect())) == PEOPLE


def test_json_lines_give_their_rows(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.jsonl", '{"id": 1, "code": "0123"}\n{"id": 2}\n')

    assert rows_of(spark, path=path) == [("0123", 1), (None, 2)]


def test_csv_values_are_text_exactly_as_in_the_file(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", '\ufeffid,code,text\r\n1,0123,"a, ""b"""\r\n2,1e5, 5" pipe \r\n3,NA,\r\n')

    found = open_source(spark, path=path)

    assert found.df.columns == ["id", "code", "text"]
    assert list(map(tuple, found.df.collect())) == [("1", "0123", 'a, "b"'), ("2", "1e5", ' 5" pipe '), ("3", "NA", None)]


def test_csv_without_a_header_has_columns_by_position(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "1,a\n2,b\n")

    found = open_source(spark, path=path, options={"header": False})

    assert found.df.columns == ["_c0", "_c1"]
    assert list(map(tuple, found.df.collect())) == [("1", "a"), ("2", "b")]


def test_csv_takes_the_types_of_the_given_schema(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "id,code\n1,0123\n")

    assert rows_of(spark, path=path, schema="id int, code string") == [(1, "0123")]


def test_values_in_a_tsv_file_are_separated_by_tabs(spark: SparkSession, tmp_path: Path) -> None:
    assert rows_of(spark, path=file_with(tmp_path, "a.tsv", "id\tt\n1\ta,b\n")) == [("1", "a,b")]


def test_csv_values_that_span_lines_are_one_value_with_multi_line(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", 'id,t\n1,"a\nb,c"\n')

    assert rows_of(spark, path=path, options={"multiLine": True}) == [("1", "a\nb,c")]


def test_an_encoding_other_than_utf8_is_an_option(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "id,t\n1,Größe\n".encode("latin-1"))

    assert rows_of(spark, path=path, options={"encoding": "ISO-8859-1"}) == [("1", "Größe")]


def test_lists_and_globs_give_the_rows_of_all_their_files_and_none_of_hidden_ones(
    spark: SparkSession, people: DataFrame, tmp_path: Path
) -> None:
    people.write.parquet(str(tmp_path / "a1"))
    people.write.parquet(str(tmp_path / "a2"))
    pq.write_table(pa.table({"id": [3], "x": [3.5], "s": ["c"]}), tmp_path / "b.parquet")

    read = rows_of(spark, path=[str(tmp_path / "a*" / "*"), str(tmp_path / "b.parquet")])

    assert [row[0] for row in read] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["a[1]", "a*b", "a{b}", "a b", "a%20b", "größe"])
def test_odd_names_of_folders_are_taken_literally(spark: SparkSession, tmp_path: Path, name: str) -> None:
    for folder, value in ((name, 1), ("a1", 2), ("axb", 3)):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"id": [value]}), tmp_path / folder / "f.parquet")

    assert rows_of(spark, path=str(tmp_path / name)) == [(1,)]


def test_partition_folders_are_columns(spark: SparkSession, people: DataFrame, tmp_path: Path) -> None:
    people.write.partitionBy("s").parquet(str(tmp_path / "data"))

    assert rows_of(spark, path=str(tmp_path / "data")) == PEOPLE


def test_a_filter_and_a_limit_choose_rows(spark: SparkSession, people: DataFrame, tmp_path: Path) -> None:
    people.write.parquet(str(tmp_path / "data"))

    assert rows_of(spark, path=str(tmp_path / "data"), filter="x > 2 AND s IS NULL") == [PEOPLE[1]]
    assert len(rows_of(spark, path=str(tmp_path / "data"), limit=1)) == 1


def test_a_delta_table_is_read_at_the_version_that_it_had_when_it_was_inspected(
    spark: SparkSession, people: DataFrame, tmp_path: Path
) -> None:
    path = str(tmp_path / "data")
    people.write.format("delta").save(path)
    config = SourceConfig.model_validate({"path": path})
    inspection = source.inspect(config)
    people.write.format("delta").mode("append").save(path)

    found = source.read(spark, config, inspection, [])

    assert (found.version, found.df.count()) == (0, 2)


def test_a_delta_table_can_be_read_at_a_version_or_time(spark: SparkSession, people: DataFrame, tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    people.write.format("delta").save(path)
    first = spark.sql(f"DESCRIBE HISTORY delta.`{path}`").selectExpr("CAST(timestamp AS STRING) AS first").collect()[0]["first"]
    people.write.format("delta").mode("append").save(path)

    by_version = open_source(spark, path=path, version=0)
    by_time = open_source(spark, path=path, timestamp=first)

    assert (by_version.version, by_version.df.count()) == (0, 2)
    assert (by_time.version, by_time.df.count()) == (0, 2)


@pytest.mark.usefixtures("tables")
def test_tables_are_found_by_every_form_of_their_name(spark: SparkSession) -> None:
    names = {name: rows_of(spark, table=name) for name in ("sales.people", "spark_catalog.sales.people", "`sales`.`people`", "`odd name`")}

    assert names == dict.fromkeys(names, PEOPLE)


@pytest.mark.usefixtures("tables")
def test_a_delta_table_of_the_catalog_is_pinned_and_travels(spark: SparkSession) -> None:
    newest = open_source(spark, table="people")
    oldest = open_source(spark, table="default.people", version=0)

    assert (newest.version, newest.df.count()) == (1, 4)
    assert (oldest.version, oldest.df.count()) == (0, 2)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "query",
    [
        "SELECT id FROM people WHERE id > 1",
        "SELECT id FROM people WHERE id > 1 ;; \n",
        "WITH few AS (SELECT * FROM people) SELECT id FROM few WHERE id > 1 -- the last",
    ],
)
def test_a_query_gives_its_rows(spark: SparkSession, query: str) -> None:
    assert rows_of(spark, query=query) == [(2,), (2,)]


@pytest.mark.parametrize(
    ("rows", "names", "expected"),
    [
        ([{"a": 1, "b": 1.5}, {"a": None, "b": 2}, {"b": None}], [], {"a": [1, None, None], "b": [1.5, 2.0, None]}),
        ([[1, "x"], [None, "y"]], ["u", "v"], {"u": [1, None], "v": ["x", "y"]}),
        ([[1, "x"]], ["u", "v", "w"], {"_c0": [1], "_c1": ["x"]}),
        ({"a": [1, 2.5], "b": [True, None]}, [], {"a": [1.0, 2.5], "b": [True, None]}),
        ([{1: "x"}], [], {"1": ["x"]}),
        ([], ["u"], {"u": []}),
    ],
)
def test_rows_of_the_configuration_keep_their_values(
    spark: SparkSession, rows: Any, names: list[str], expected: dict[str, list[Any]]
) -> None:
    found = open_source(spark, names, rows=rows).df.toArrow()

    assert found.to_pydict() == expected


def test_rows_take_the_names_and_types_of_the_given_schema(spark: SparkSession) -> None:
    from_lists = open_source(spark, ["u", "v"], rows=[[1, 2], [None, 2.5]], schema="a long, b double").df
    from_mappings = open_source(spark, rows=[{"day": "2026-01-31", "b": 1}], schema="b double, day date").df

    assert from_lists.collect() == [(1, 2.0), (None, 2.5)]
    assert from_lists.columns == ["a", "b"]
    assert from_mappings.collect() == [(1.0, dt.date(2026, 1, 31))]


# What it refuses before Spark


def test_a_missing_path_is_named_with_the_nearest_one(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "people.parquet").mkdir()
    path = str(tmp_path / "peple.parquet")

    assert refusal(spark, InputError, path=path) == (
        f"source.path: {path} does not exist (looked for {path}). Did you mean 'people.parquet'?"
    )


def test_a_glob_without_match_is_refused_also_beside_one_that_matches(spark: SparkSession, tmp_path: Path) -> None:
    file = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, InputError, path=[file, f"{tmp_path}/*.tsv"]) == f"source.path: no file matches {tmp_path}/*.tsv"


def test_a_folder_without_files_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    file_with(tmp_path, "_SUCCESS", "")

    assert refusal(spark, InputError, path=str(tmp_path)) == f"source.path: there is no file in {tmp_path}"


def test_files_that_would_be_read_twice_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    file = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, InputError, path=[str(tmp_path), file]) == (
        f"source.path: {file} would be read twice; list it, or what it is in, once"
    )


def test_files_in_subfolders_that_spark_would_leave_out_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    file_with(tmp_path, "a.csv", "id\n1\n")
    deep = file_with(tmp_path / "more", "b.csv", "id\n2\n")

    assert refusal(spark, InputError, path=str(tmp_path)) == (
        f"source.path: Spark would leave out {deep}, because it does not look into folders that are no partitions; set "
        "source.options.recursiveFileLookup=true, or list the folders"
    )
    assert rows_of(spark, path=str(tmp_path), options={"recursiveFileLookup": True}) == [("1",), ("2",)]


def test_files_of_different_formats_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    csv, json = file_with(tmp_path, "a.csv", "id\n1\n"), file_with(tmp_path, "b.json", '{"id": 1}\n')

    assert refusal(spark, InputError, path=str(tmp_path)) == (
        f"source.path: the files are of different formats: {csv}, {json}; read one format, by a glob"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Parquet file size is 0 bytes"),
        (b"some notes\n" * 9, "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."),
    ],
)
def test_a_foreign_file_among_parquet_files_is_named(spark: SparkSession, tmp_path: Path, content: bytes, reason: str) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    bad = file_with(tmp_path, "b.parquet", content)

    assert refusal(spark, InputError, path=str(tmp_path)) == f"source.path: {bad} cannot be read as parquet: {reason}"


def test_a_truncated_parquet_file_is_named(spark: SparkSession, people: DataFrame, tmp_path: Path) -> None:
    people.write.parquet(str(tmp_path / "data"))
    bad = file_with(tmp_path / "data", "z.parquet", only_file(tmp_path / "data").read_bytes()[:-20])

    assert refusal(spark, InputError, path=str(tmp_path / "data")) == (
        f"source.path: {bad} cannot be read as parquet: Parquet magic bytes not found in footer. Either the file is corrupted or this is "
        "not a parquet file."
    )


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        ({"id": [1], "y": [1.5]}, "column 'x' is absent in the one and double in the other"),
        ({"id": [1], "x": ["a"]}, "column 'x' is string in the one and double in the other"),
    ],
)
def test_parquet_files_of_different_schemas_are_refused(
    spark: SparkSession, tmp_path: Path, second: dict[str, list[Any]], difference: str
) -> None:
    pq.write_table(pa.table({"id": [1], "x": [1.5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(second), tmp_path / "b.parquet")

    assert refusal(spark, InputError, path=str(tmp_path)) == (
        f"source.path: {tmp_path}/b.parquet and {tmp_path}/a.parquet have different schemas: {difference}; score them apart, or set "
        "source.options.mergeSchema=true to read what a file lacks as null"
    )


def test_parquet_files_of_different_schemas_are_read_where_that_is_asked_for(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [2], "x": [1.5]}), tmp_path / "b.parquet")

    assert rows_of(spark, path=str(tmp_path), options={"mergeSchema": True}) == [(1, None), (2, 1.5)]


@pytest.mark.parametrize(
    ("format_", "second", "difference"),
    [
        ("orc", "1L AS id, 'a' AS x", "column 'x' is string in the one and double in the other"),
        ("orc", "1L AS id, 2D AS y", "column 'x' is absent in the one and double in the other"),
        ("avro", "1L AS id, 2D AS y", "column 'x' is absent in the one and present in the other"),
    ],
)
def test_orc_and_avro_files_of_different_schemas_are_refused_and_nothing_becomes_null(
    spark: SparkSession, tmp_path: Path, format_: str, second: str, difference: str
) -> None:
    for name, columns in (("a", "1L AS id, 2D AS x"), ("b", second)):
        spark.sql(f"SELECT {columns}").write.format(format_).save(str(tmp_path / name))
        only_file(tmp_path / name).rename(tmp_path / f"{name}.{format_}")

    assert refusal(spark, InputError, path=f"{tmp_path}/*.{format_}") == (
        f"source.path: {tmp_path}/b.{format_} and {tmp_path}/a.{format_} have different schemas: {difference}; score them apart, or set "
        "source.options.mergeSchema=true to read what a file lacks as null"
    )


@pytest.mark.parametrize(
    ("format_", "reason"),
    [("orc", "Not an ORC file"), ("avro", "it is no Avro file, or cut off")],
)
def test_a_foreign_file_among_orc_or_avro_files_is_named(
    spark: SparkSession, people: DataFrame, tmp_path: Path, format_: str, reason: str
) -> None:
    people.write.format(format_).save(str(tmp_path / "data"))
    bad = file_with(tmp_path / "data", f"z.{format_}", "some notes\n" * 9)

    assert refusal(spark, InputError, path=str(tmp_path / "data")) == f"source.path: {bad} cannot be read as {format_}: {reason}"


def test_nanosecond_timestamps_are_refused_with_the_way_to_write_them(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"t": pa.array([dt.datetime(2026, 1, 31)], pa.timestamp("ns"))}), path)

    assert refusal(spark, InputError, path=path) == (
        f"source.path: {path} cannot be read as parquet: Spark has no nanosecond timestamps, which column 't' has; write it with "
        "microseconds (pandas: to_parquet(path, coerce_timestamps='us', allow_truncated_timestamps=True))"
    )


def test_text_that_is_no_utf8_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "id,t\n1,Größe\n".encode("latin-1"))

    assert refusal(spark, InputError, path=path) == (
        f"source.path: {path} is no UTF-8 (byte 0xf6 near position 9); set source.options.encoding, for example ISO-8859-1"
    )


@pytest.mark.parametrize("line", ['2,"a\nb,c"', '2,"abc', '2,"a ""b""\n3,c'])
def test_a_quote_that_its_line_does_not_close_is_refused(spark: SparkSession, tmp_path: Path, line: str) -> None:
    path = file_with(tmp_path, "a.csv", f"id,t\n1,a\n{line}\n")

    assert refusal(spark, InputError, path=path) == (
        f"source.path: {path}, line 3: a quote is not closed in its line; if values span lines, set source.options.multiLine=true"
    )


@pytest.mark.parametrize("inside", ["", "/id=1", "/id=1/*.parquet"])
def test_a_delta_table_or_a_part_of_it_read_as_parquet_is_refused(spark: SparkSession, delta: Path, inside: str) -> None:
    message = refusal(spark, InputError, path=f"{delta}{inside}", format="parquet")

    assert message.startswith(f"source.format: {delta}")
    assert message.endswith(
        "a Delta table, and reading it as parquet would take removed rows too; use "
        f"source.path={delta} with source.format=delta, and source.filter for a part of it"
    )


def test_an_unknown_delta_version_is_refused(spark: SparkSession, delta: Path) -> None:
    assert refusal(spark, InputError, path=str(delta), version=7) == f"source.version: {delta} has the versions up to 0; got 7"


def test_a_file_beside_partition_folders_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("k=1/x.csv", "y.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        file_with(tmp_path, name, "id\n1\n")

    assert refusal(spark, InputError, path=str(tmp_path)) == (
        f"source.path: {tmp_path}/y.csv lies beside partition folders, or in others than the first file's (k); Spark would leave out one "
        "or the other. Read them apart"
    )


@pytest.mark.parametrize(("key", "value"), [("version", 1), ("timestamp", "2026-01-01")])
def test_only_a_delta_table_has_versions(spark: SparkSession, tmp_path: Path, key: str, value: Any) -> None:
    path = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, ConfigError, path=path, **{key: value}) == f"source.{key}: needs a Delta table, and {path} is csv"


def test_a_time_before_a_delta_table_began_is_refused(spark: SparkSession, delta: Path) -> None:
    message = refusal(spark, InputError, path=str(delta), timestamp="2001-01-01")

    assert message.startswith(
        "source.timestamp: 2001-01-01: The provided timestamp (2001-01-01 00:00:00.0) is before the earliest version available to this "
        "table"
    )


def test_a_folder_without_a_log_is_no_delta_table(spark: SparkSession, tmp_path: Path) -> None:
    file_with(tmp_path, "a.parquet", "")

    assert refusal(spark, InputError, path=str(tmp_path), format="delta") == (
        f"source.path: {tmp_path} is no Delta table (there is no _delta_log in it)"
    )


def test_a_schema_for_a_delta_table_is_refused(spark: SparkSession, delta: Path) -> None:
    assert refusal(spark, ConfigError, path=str(delta), schema="id long") == (
        "source.schema: a Delta table has its own; leave it out, and use columns.select and columns.cast"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heder": False}, "source.options: the csv reader has no option 'heder'. Did you mean 'header'?"),
        (
            {"mode": "FAILFST"},
            "source.options: got mode='FAILFST'; expected one of FAILFAST, PERMISSIVE, DROPMALFORMED. Did you mean 'FAILFAST'?",
        ),
        ({"versionAsOf": 1}, "source.options: versionAsOf is source.version here, so that the run records it"),
    ],
)
def test_an_option_that_the_reader_would_ignore_is_refused(
    spark: SparkSession, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, ConfigError, path=path, options=options) == message


# What it refuses when it plans


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("id >", "source.filter: id >: Syntax error at or near end of input. (line 1, pos 4)"),
        (
            "idd > 1",
            "source.filter: idd > 1: A column, variable, or function parameter with name `idd` cannot be resolved. Did you mean one of the "
            "following? [`id`].",
        ),
        (
            "id",
            'source.filter: id: Cannot resolve "id" due to data type mismatch: Filter expression "id" of type "STRING" is not a boolean. '
            "[DATATYPE_MISMATCH.FILTER_NOT_BOOLEAN]",
        ),
    ],
)
def test_a_filter_that_spark_does_not_understand_is_refused(spark: SparkSession, tmp_path: Path, expression: str, message: str) -> None:
    path = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, ConfigError, path=path, filter=expression) == message


@pytest.mark.parametrize(
    ("format_", "schema", "message"),
    [
        ("parquet", "id long, y double", "source.schema: the files have no column 'y'. They have id, x, s."),
        ("orc", "id long, y double", "source.schema: the files have no column 'y'. They have id, x, s."),
        ("avro", "id long, y double", "source.schema: the files have no column 'y'. They have id, x, s."),
        ("orc", "s double", "source.schema: column 's' is string in the files; read it so, and convert it with columns.cast"),
    ],
)
def test_a_schema_that_would_make_nulls_is_refused(
    spark: SparkSession, people: DataFrame, tmp_path: Path, format_: str, schema: str, message: str
) -> None:
    people.write.format(format_).save(str(tmp_path / "data"))

    assert refusal(spark, InputError, path=str(tmp_path / "data"), schema=schema) == message


def test_a_schema_that_does_not_parse_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "id\n1\n")

    assert refusal(spark, ConfigError, path=path, schema="id itn") == (
        'source.schema: id itn: Unsupported data type "ITN". (line 1, pos 3) [UNSUPPORTED_DATATYPE]'
    )


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("name", "hint"),
    [("peple", " Did you mean 'people'?"), ("sales.peple", " Did you mean 'people'?"), ("sale.people", " Did you mean 'sales'?")],
)
def test_an_unknown_table_is_named_with_the_nearest_one(spark: SparkSession, name: str, hint: str) -> None:
    assert refusal(spark, InputError, table=name) == f"source.table: {name} does not exist.{hint}"


@pytest.mark.usefixtures("tables")
def test_an_unknown_version_of_a_table_is_refused(spark: SparkSession) -> None:
    assert refusal(spark, InputError, table="people", version=9) == (
        "source.table: people: Cannot time travel Delta table to version 9. Available versions: [0, 1]. [DELTA_VERSION_NOT_FOUND]"
    )


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "name", ["people; DROP TABLE people", "odd name", "(SELECT 1)", "a.b.c.d", "`people", "sales.", "people WHERE true"]
)
def test_what_is_no_name_of_a_table_is_refused_and_not_executed(spark: SparkSession, name: str) -> None:
    assert refusal(spark, ConfigError, table=name) == (
        f"source.table: got {name!r}; expected table, schema.table or catalog.schema.table, odd names in backticks"
    )
    assert spark.catalog.tableExists("people")


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DROP TABLE people", "source.query: expected a query that reads, such as SELECT ...; got DROP ..."),
        ("insert into people values (3, 1.0, 'x')", "source.query: expected a query that reads, such as SELECT ...; got INSERT ..."),
        ("SELECT 1) t; DROP TABLE people; --", "source.query: Syntax error at or near 'DROP': extra input 'DROP'. (line 1, pos 13)"),
        ("/* x */ DROP TABLE people", "source.query: Syntax error at or near 'people': extra input 'people'. (line 1, pos 19)"),
    ],
)
def test_a_statement_that_is_no_query_is_refused_and_not_executed(spark: SparkSession, query: str, message: str) -> None:
    assert refusal(spark, ConfigError, query=query) == message
    assert spark.read.table("people").count() == 4


@pytest.mark.usefixtures("tables")
def test_a_query_over_an_unknown_table_or_column_is_refused(spark: SparkSession) -> None:
    assert refusal(spark, InputError, query="SELECT * FROM peple") == "source.query: the table or view `peple` does not exist"
    assert refusal(spark, ConfigError, query="SELECT idd FROM people") == (
        "source.query: A column, variable, or function parameter with name `idd` cannot be resolved. Did you mean one of the following? "
        "[`id`, `s`, `x`]."
    )


@pytest.mark.parametrize(
    ("rows", "schema", "message"),
    [
        ([{"a": 1}, {"a": "x"}], None, "source.rows: column 'a': Could not convert 'x' with type str: tried to convert to int64"),
        ([{"a": True}, {"a": 1}], None, "source.rows: column 'a': Could not convert 1 with type int: tried to convert to boolean"),
        ([{"a": 2**63}], None, "source.rows: column 'a': Python int too large to convert to C long"),
        ([[1, 2], [3]], None, "source.rows: the rows have different lengths: 1, 2"),
        ({"a": [1, 2], "b": [1]}, None, "source.rows: the columns have different lengths: a 2, b 1"),
        ([1, 2], None, "source.rows: expected a list of mappings, a list of lists or a mapping of lists"),
        ([{"a": 1}, [1]], None, "source.rows: expected a list of mappings, a list of lists or a mapping of lists"),
        ([{}], None, "source.rows: there is no column in it"),
        ([{"ab": 1}], "ab long, abc long", "source.schema: the rows have no column 'abc'. Did you mean 'ab'?"),
        ([{"a": 1, "b": 2}], "a long", "source.rows: the column 'b' is not in source.schema."),
        ([{"a": 1.5}], "a long", "source.rows: column 'a': Float value 1.500000 was truncated converting to int64"),
    ],
)
def test_rows_that_are_no_table_are_refused(spark: SparkSession, rows: Any, schema: str | None, message: str) -> None:
    assert refusal(spark, InputError, rows=rows, schema=schema) == message


# What only the tasks find


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "id,t\n1,a\n2\n", "Malformed CSV record: 2 (its number of values is not the header's)"),
        ("a.csv", "id,t\n1,a\n2,b,c\n", "Malformed CSV record: 2,b,c (its number of values is not the header's)"),
        (
            "a.csv",
            'id,t\n1,"a \\"b\\""\n',
            "a quote inside a quoted value is not doubled; for files that escape it with a backslash, set source.options.escape='\\'",
        ),
        (
            "a.csv",
            "id,ID\n1,2\n",
            "its header has 'id' where 'id0' is expected (from source.schema, or the first file; names must be unique and not empty)",
        ),
        (
            "a.jsonl",
            '{"id": 1}\n{"id": 2,\n',
            "Unexpected end-of-input within/between Object entries; if records span lines, set source.options.multiLine=true",
        ),
    ],
)
def test_a_broken_row_names_its_file(spark: SparkSession, tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = file_with(tmp_path / "data", name, content)

    assert refusal(spark, InputError, path=str(tmp_path / "data")) == f"{path}: cannot be read: {reason}"


def test_csv_files_with_different_headers_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    file_with(tmp_path, "a.csv", "id,t\n1,a\n" * 3)
    second = file_with(tmp_path, "b.csv", "t,id\nb,2\n")

    assert refusal(spark, InputError, path=str(tmp_path)) == (
        f"{second}: cannot be read: its header has 't' where 'id' is expected (from source.schema, or the first file; names must be unique "
        "and not empty)"
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "id\n1\nx\n", 'For input string: "x" is not of the type that source.schema says'),
        (
            "a.json",
            '{"id": 1}\n{"id": 2.5}\n',
            "Cannot parse the field name 'id' and the value 2.5 of the JSON token type VALUE_NUMBER_FLOAT to target Spark data type "
            '"BIGINT".',
        ),
    ],
)
def test_a_value_that_is_not_of_the_given_schema_names_its_file(
    spark: SparkSession, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    path = file_with(tmp_path, name, content)

    assert refusal(spark, InputError, path=path, schema="id long") == f"{path}: cannot be read: {reason}"


@pytest.mark.parametrize(
    ("format_", "reasons"),
    # Avro puts random sync markers between its blocks: what its reader stumbles over first differs from file to file.
    [("orc", ["Data corruption detected"]), ("avro", ["Checksum failure", "Invalid sync!", "FAILED_TO_UNCOMPRESS(5)"])],
)
def test_a_corrupt_orc_or_avro_file_is_named(
    spark: SparkSession, many: DataFrame, tmp_path: Path, format_: str, reasons: list[str]
) -> None:
    many.write.format(format_).save(str(tmp_path / "data"))
    bad = _corrupted(only_file(tmp_path / "data"))

    assert refusal(spark, InputError, path=str(tmp_path / "data")) in [f"{bad}: cannot be read: {reason}" for reason in reasons]


def _corrupted(file: Path) -> Path:
    """The file beside itself with a stretch of its data overwritten, and its footer whole."""
    content = bytearray(file.read_bytes())
    start = len(content) // 3
    content[start : start + 2000] = bytes(byte ^ 0x5A for byte in content[start : start + 2000])
    bad = file.with_name(f"z{file.suffix}")
    bad.write_bytes(content)
    return bad


# The whole run


@pytest.mark.parametrize(("engine", "reason"), [("auto", "Corrupt snappy compressed data."), ("spark_udf", "FAILED_TO_UNCOMPRESS(5)")])
def test_a_corrupt_file_that_only_tasks_find_fails_the_run_in_one_line_and_nothing_is_written(
    spark: SparkSession, config: Make, double_uri: str, many: DataFrame, tmp_path: Path, engine: str, reason: str
) -> None:
    # With checksums, which Spark writes, these would tell it.
    many.write.option("parquet.page.write-checksum.enabled", "false").parquet(str(tmp_path / "data"))
    bad = _corrupted(only_file(tmp_path / "data"))
    settings = config(model={"uri": double_uri}, source={"path": str(tmp_path / "data")}, scoring={"engine": engine})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == f"{bad}: cannot be read: {reason}"
    assert not Path(settings["output"]["path"]).exists()


@pytest.mark.parametrize("engine", ["auto", "spark_udf"])
def test_a_damaged_page_that_could_be_read_is_told_by_its_checksum(
    spark: SparkSession, config: Make, double_uri: str, tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": list(range(1000)), "x": [1.5] * 999 + [1234.5678]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False)
    value, other = struct.pack("<d", 1234.5678), struct.pack("<d", 4321.5678)
    assert path.read_bytes().count(value) == 1
    path.write_bytes(path.read_bytes().replace(value, other))
    settings = config(model={"uri": double_uri}, source={"path": str(path)}, scoring={"engine": engine})

    with pytest.raises(InputError, match=rf"{path}: cannot be read: .*(?i:crc|checksum)"):
        score(settings, spark=spark)

    assert not Path(settings["output"]["path"]).exists()


def test_a_broken_row_leaves_the_existing_table_as_it_was(spark: SparkSession, config: Make, double_uri: str, tmp_path: Path) -> None:
    good = file_with(tmp_path, "good.csv", "id,x\n1,1.5\n")
    bad = file_with(tmp_path, "bad.csv", "id,x\n" + "1,1.5\n" * 50 + "2\n")
    score(config(model={"uri": double_uri}, source={"path": good}), spark=spark)
    output = tmp_path / "out"
    before = sorted(str(path) for path in output.rglob("*.parquet"))

    with pytest.raises(InputError) as caught:
        score(config(model={"uri": double_uri}, source={"path": bad}), spark=spark)

    assert str(caught.value) == f"{bad}: cannot be read: Malformed CSV record: 2 (its number of values is not the header's)"
    assert DeltaTable(str(output)).version() == 0
    assert sorted(str(path) for path in output.rglob("*.parquet")) == before


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_no_rows_are_a_batch_too_which_a_rerun_skips(
    spark: SparkSession, config: Make, double_uri: str, tmp_path: Path, output_format: str
) -> None:
    path = file_with(tmp_path, "a.csv", "id,x\n")
    settings = config(run={"batch_id": "empty"}, model={"uri": double_uri}, source={"path": path})
    settings["output"]["format"] = output_format

    first, second = score(settings, spark=spark), score(settings, spark=spark)

    assert (first.outcome, first.rows_read, first.rows_written) == ("scored", 0, 0)
    assert second.outcome == "skipped"
    assert spark.read.format(output_format).load(first.location).where("batch_id = 'empty'").count() == 0


@pytest.mark.long
def test_the_command_line_prints_one_line_for_a_filter_over_an_unknown_column(store: str, double_uri: str, tmp_path: Path) -> None:
    path = file_with(tmp_path, "a.csv", "id,x\n1,1.5\n")
    settings = file_with(tmp_path, "score.yaml", f"model: {{uri: '{double_uri}'}}\nspark: {{master: 'local[1]'}}\n")
    keys = [f"source.path={path}", "source.filter=idd > 1", f"output.path={tmp_path}/out", f"tracking.tracking_uri={store}"]
    command = [sys.executable, "-c", "from lakescore.cli import main; raise SystemExit(main())", "score", "--config", settings, *keys]

    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))

    lines = [line for line in answer.stderr.splitlines() if " INFO " not in line]
    assert lines[-1:] == [
        "lakescore: source.filter: idd > 1: A column, variable, or function parameter with name `idd` cannot be resolved. Did you mean one "
        "of the following? [`id`, `x`]."
    ]
    assert not any('"logger"' in line or "\tat " in line for line in lines)
    assert answer.returncode == 2
