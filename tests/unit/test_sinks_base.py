"""What all sinks share: names of attempts, staged files with their statistics, and the comparison of schemas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import types as T

from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.sinks import open_sink
from lakescore.sinks.base import (
    Batch,
    attempt_name,
    attempts,
    batch_prefix,
    compare_schemas,
    file_statistics,
    refuse_schema,
    staged_files,
)
from lakescore.storage import Location

Statistics = Callable[..., dict[str, Any]]


@pytest.fixture
def statistics(tmp_path: Path) -> Statistics:
    """The statistics of a Parquet file: ``statistics(a=[1, 2])``; ``rows_per_group`` splits it."""

    def make(rows_per_group: int = 100, **columns: Any) -> dict[str, Any]:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=rows_per_group)
        found: dict[str, Any] = json.loads(file_statistics(pq.read_metadata(tmp_path / "a.parquet")))
        return found

    return make


# --- attempts at a batch


def test_two_attempts_at_a_batch_share_its_prefix_and_nothing_else() -> None:
    first, second = attempt_name("2026-01-31"), attempt_name("2026-01-31")

    assert first != second
    assert first.startswith(batch_prefix("2026-01-31"))
    assert second.startswith(batch_prefix("2026-01-31"))


@pytest.mark.parametrize(("one", "other"), [("a.b", "a-b"), ("a", "a-b"), ("a", "A"), ("x" * 60 + "1", "x" * 60 + "2")])
def test_similar_batches_have_prefixes_that_do_not_cover_each_other(one: str, other: str) -> None:
    assert not attempt_name(one).startswith(batch_prefix(other))
    assert not attempt_name(other).startswith(batch_prefix(one))


def test_a_folders_name_holds_no_character_that_a_store_minds() -> None:
    assert batch_prefix("2026-01-31T10:00+01~a=b@c").replace("-", "").replace("_", "").isalnum()


def test_only_the_attempts_at_the_batch_are_found(tmp_path: Path) -> None:
    mine, others = attempt_name("a"), attempt_name("a-b")
    for name in (mine, others, "something"):
        (tmp_path / name).mkdir()
    folder = Location.of(str(tmp_path))
    assert folder is not None

    assert [found.name for found in attempts(folder, "a")] == [mine]


# --- staged files


def test_staged_files_have_their_partition_size_and_rows(tmp_path: Path) -> None:
    for day, rows in (("2026-01-31", 2), ("2026-02-01", 3)):
        folder = tmp_path / f"score_date={day}" / "note=a%20b"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": list(range(rows))}), folder / "part-0.parquet")
        (folder / ".part-0.parquet.crc").touch()
        (folder / "_SUCCESS").touch()
    location = Location.of(str(tmp_path))
    assert location is not None

    files = staged_files(location)

    assert [(file.path, dict(file.partition), file.footer.num_rows) for file in files] == [
        ("score_date=2026-01-31/note=a%20b/part-0.parquet", {"score_date": "2026-01-31", "note": "a b"}, 2),
        ("score_date=2026-02-01/note=a%20b/part-0.parquet", {"score_date": "2026-02-01", "note": "a b"}, 3),
    ]
    assert [file.size for file in files] == [(tmp_path / file.path).stat().st_size for file in files]


# --- statistics


def test_numbers_texts_and_dates_have_bounds_over_all_row_groups(statistics: Statistics) -> None:
    found = statistics(
        rows_per_group=1, i=[3, 1, 2], x=[1.5, -2.5, 0.0], s=["b", "a", "c"], d=[date(2026, 1, 31), date(2025, 1, 1), date(2026, 1, 1)]
    )

    assert found == {
        "numRecords": 3,
        "minValues": {"i": 1, "x": -2.5, "s": "a", "d": "2025-01-01"},
        "maxValues": {"i": 3, "x": 1.5, "s": "c", "d": "2026-01-31"},
        "nullCount": {"i": 0, "x": 0, "s": 0, "d": 0},
    }


def test_nulls_are_counted_over_all_row_groups(statistics: Statistics) -> None:
    assert statistics(rows_per_group=2, x=[None, 1, 2, None, None])["nullCount"] == {"x": 3}


def test_a_row_group_of_nulls_leaves_the_column_without_bounds(statistics: Statistics) -> None:
    found = statistics(rows_per_group=1, x=[1, None])

    assert (found["minValues"], found["maxValues"]) == ({}, {})


@pytest.mark.parametrize(
    "column",
    [
        [True, False],
        [datetime(2026, 1, 31, 10, 0, 0, 123456)],
        [Decimal("1.50")],
        [b"a"],
        ["x" * 33],
        [float("inf"), 1.0],
        [float("-inf"), 1.0],
    ],
)
def test_bounds_that_json_would_not_hold_exactly_are_left_out(column: list[Any], statistics: Statistics) -> None:
    found = statistics(a=column, b=[1] * len(column))

    assert (list(found["minValues"]), list(found["maxValues"]), list(found["nullCount"])) == (["b"], ["b"], ["a", "b"])


def test_nested_columns_have_no_statistics(statistics: Statistics) -> None:
    found = statistics(a=[[1, 2]], s=[{"x": 1}], b=[1])

    assert (found["minValues"], found["nullCount"]) == ({"b": 1}, {"b": 0})


def test_a_column_with_a_dot_in_its_name_is_not_taken_for_a_field(statistics: Statistics) -> None:
    assert statistics(**{"a.b": [1], "c": [1]})["minValues"] == {"c": 1}


def test_an_empty_file_has_no_rows(statistics: Statistics) -> None:
    assert statistics(x=pa.array([], pa.int64()))["numRecords"] == 0


# --- schemas


def refused(existing: str, new: str, merge: bool = False) -> str:
    with pytest.raises(OutputError) as caught:
        compare_schemas(schema(existing), schema(new), merge, "output.path: /t")
    return str(caught.value)


def schema(names_and_types: str) -> T.StructType:
    """``a double, b string`` as a schema, without a session."""
    kinds = {"double": T.DoubleType(), "long": T.LongType(), "string": T.StringType(), "doubles": T.ArrayType(T.DoubleType())}
    pairs = [pair.split() for pair in names_and_types.split(", ")]
    return T.StructType([T.StructField(name, kinds[kind]) for name, kind in pairs])


@pytest.mark.parametrize("merge", [True, False])
def test_the_same_columns_in_another_order_fit(merge: bool) -> None:
    assert compare_schemas(schema("a double, b string"), schema("b string, a double"), merge, "t") is False


def test_nullability_is_no_difference() -> None:
    strict = T.StructType([T.StructField("a", T.DoubleType(), nullable=False)])

    assert compare_schemas(schema("a double"), strict, False, "t") is False


@pytest.mark.parametrize("merge", [True, False])
def test_another_type_is_refused_with_both(merge: bool) -> None:
    assert refused("a double", "a long", merge) == (
        "output.path: /t: column 'a' is double in the table and bigint in this batch; cast it (columns.cast; a prediction: "
        "model.result_type) or write to another table"
    )


def test_another_element_type_is_refused() -> None:
    assert "column 'a' is double in the table and array<double> in this batch" in refused("a double", "a doubles")


def test_a_name_that_differs_by_case_is_refused() -> None:
    assert refused("a double", "A double", merge=True) == "output.path: /t: the table calls the column 'a' and this batch 'A'; rename it"


def test_a_new_column_is_refused_with_what_to_do() -> None:
    assert refused("a double", "a double, b string") == (
        "output.path: /t: column 'b' (string) is in this batch and absent in the table; rename or cast it, or set output.merge_schema=true "
        "to add new columns"
    )


def test_a_missing_column_is_refused_with_what_to_do() -> None:
    assert refused("a double, b string", "a double") == (
        "output.path: /t: column 'b' (string) is in the table and absent in this batch; keep it in output.columns, or set "
        "output.merge_schema=true to leave it null"
    )


@pytest.mark.parametrize(("existing", "new", "adds"), [("a double", "a double, b string", True), ("a double, b string", "a double", False)])
def test_merging_allows_new_and_missing_columns_and_tells_which(existing: str, new: str, adds: bool) -> None:
    assert compare_schemas(schema(existing), schema(new), True, "t") is adds


def test_columns_that_differ_only_by_case_are_refused_by_both_names() -> None:
    with pytest.raises(OutputError) as caught:
        refuse_schema(schema("b double, ID long, id long"), "output.path: /t")

    assert str(caught.value) == "output.path: /t: the columns 'ID' and 'id' differ only by case, which Delta does not allow; rename one"


def test_columns_that_differ_are_no_duplicates() -> None:
    refuse_schema(schema("a double, b double"), "t")


def test_names_inside_a_column_that_differ_only_by_case_are_refused_too() -> None:
    inside = T.StructType([T.StructField("a", T.LongType()), T.StructField("A", T.LongType())])

    with pytest.raises(OutputError) as caught:
        refuse_schema(T.StructType([T.StructField("s", T.ArrayType(inside))]), "t")

    assert str(caught.value) == "t: column 's': the columns 'a' and 'A' differ only by case, which Delta does not allow; rename one"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (T.DayTimeIntervalType(0, 0), "interval day"),
        (T.MapType(T.StringType(), T.YearMonthIntervalType(0, 0)), "interval year"),
        (T.NullType(), "void"),
    ],
)
def test_a_type_that_delta_cannot_hold_is_refused(kind: T.DataType, name: str) -> None:
    with pytest.raises(OutputError) as caught:
        refuse_schema(T.StructType([T.StructField("i", kind)]), "t")

    assert str(caught.value) == f"t: column 'i' is {name}, which Delta cannot hold; cast it (columns.cast) or drop it"


def test_a_folder_that_may_not_be_written_to_is_found_before_anything_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: place != str(tmp_path))  # root may write everywhere
    for kind in ("delta", "parquet"):
        sink = open_sink(OutputConfig(path=f"{tmp_path}/new/out", format=kind), Batch("a", "run", date(2026, 1, 31), "skip"))
        with pytest.raises(OutputError, match=f"^output.path: {tmp_path} may not be written to; check its permissions, and how "):
            sink.check(None, T.StructType([T.StructField("x", T.DoubleType())]))


def test_a_parquet_table_that_spark_could_not_read_is_not_made(tmp_path: Path) -> None:
    inside = T.StructType([T.StructField("x", T.LongType()), T.StructField("X", T.LongType())])
    sink = open_sink(OutputConfig(path=f"{tmp_path}/out", format="parquet"), Batch("a", "run", date(2026, 1, 31), "skip"))

    with pytest.raises(OutputError) as caught:
        sink.check(None, T.StructType([T.StructField("prediction", inside)]))

    assert str(caught.value) == (
        f"output.path: {tmp_path}/out: column 'prediction': the columns 'x' and 'X' differ only by case, and Spark could not read the "
        "table; rename one"
    )
