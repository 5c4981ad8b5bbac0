"""Workers that read and write Parquet files on their own leave what Spark's own path leaves: values, types and errors."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakescore import ScoreResult, score
from lakescore.config import SourceConfig
from lakescore.engine import direct
from lakescore.engine.guard import GuardError
from lakescore.errors import InputError, LakescoreError
from lakescore.inspection import inspect

ROOT = Path(__file__).parents[2]
ROWS = 1_000
LINEAGE = ["run_id", "scored_at", "batch_id"]
UTC = dt.timezone.utc
Score = Callable[..., ScoreResult]


def _cycled(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([values[i % len(values)] for i in range(ROWS)], kind)


def rich_table() -> pa.Table:
    """Every type that is read without Spark, with nulls and extremes; the inputs of `Everything` among them."""
    numbers = np.random.default_rng(0).normal(size=ROWS)
    far = [dt.date(1, 1, 1), dt.date(1582, 10, 4), None, dt.date(1970, 1, 1), dt.date(9999, 12, 31)]
    times = [
        dt.datetime(1, 1, 1),
        dt.datetime(1582, 10, 4, 12),
        None,
        dt.datetime(2026, 3, 29, 1, 30, 0, 123456),
        dt.datetime(9999, 12, 31),
    ]
    aware = [None if time is None else time.replace(tzinfo=UTC) for time in times]
    columns: dict[str, pa.Array] = {
        "id": pa.array(range(ROWS), pa.int64()),
        "flag": _cycled([True, False], pa.bool_()),
        "maybe": _cycled([True, None, False], pa.bool_()),
        "tiny": _cycled([-128, 0, 127], pa.int8()),
        "small": _cycled([-(2**15), 7, 2**15 - 1], pa.int16()),
        "whole": _cycled([-(2**31), 5, 2**31 - 1], pa.int32()),
        "large": _cycled([-(2**53), 2**53, 3], pa.int64()),
        "long_null": _cycled([2**63 - 1, None, -(2**63)], pa.int64()),
        "single": pa.array(numbers.astype(np.float32), pa.float32()),
        "x": pa.array(numbers, pa.float64()),
        "odd": _cycled([float("nan"), None, float("inf"), -float("inf"), -0.0, 5e-324, 1.5], pa.float64()),
        "text": _cycled(["a", "Größe", None, "", "🙂"], pa.string()),
        "unique": pa.array([f"row {i} {numbers[i]}" for i in range(ROWS)], pa.large_string()),
        "kind": _cycled(["red", None, "green"], pa.string()).dictionary_encode(),
        "raw": _cycled([b"", b"\x00\xff", None], pa.binary()),
        "day": _cycled(far, pa.date32()),
        "at": _cycled(aware, pa.timestamp("us", "UTC")),
        "there": _cycled(aware, pa.timestamp("us", "Europe/Berlin")),
        "millis": _cycled([time and time.replace(microsecond=123000) for time in aware], pa.timestamp("ms", "UTC")),
        "local": _cycled(times, pa.timestamp("us")),
        "price": _cycled([Decimal("1.23"), None, Decimal("-9999999.99")], pa.decimal128(9, 2)),
        "wide": _cycled([Decimal("1.2345"), Decimal("-99999999999999.9999"), None], pa.decimal128(18, 4)),
        "huge": _cycled([Decimal("9" * 28 + ".9999999999"), None], pa.decimal128(38, 10)),
        "vector": pa.array([list(row) for row in np.random.default_rng(1).normal(size=(ROWS, 3))], pa.list_(pa.float64())),
        "words": _cycled([["a", None], [], None, ["b"]], pa.list_(pa.string())),
        "inside": _cycled([{"a": 1, "b": "x"}, None, {"a": None, "b": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        "pairs": _cycled([[("k", 1.5)], [], None], pa.map_(pa.string(), pa.float64())),
        "a.b c`": _cycled([1, 2], pa.int32()),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table in three files of several row groups each."""
    folder, table = tmp_path_factory.mktemp("rich"), rich_table()
    for i in range(3):
        pq.write_table(table.slice(i * 400, 400), folder / f"part-{i}.parquet", row_group_size=70 + 30 * i)
    return folder


class Everything(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Says of each row what it was given, type and value, as the result that is asked for."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        wanted = (params or {}).get("wanted", "text")
        total = (
            model_input["x"] + model_input["large"] / 3 + model_input["small"].astype("float64") + model_input["single"].astype("float64")
        )
        if wanted == "double":
            return np.where(model_input["flag"], total, model_input["odd"])
        if wanted == "float":
            return total.astype("float32")
        if wanted == "long":
            return model_input["whole"].astype("int64") * 7
        if wanted == "boolean":
            return (total > 0).to_numpy()
        if wanted == "array":
            return [np.array([v[0], np.nan, w]) for v, w in zip(model_input["vector"], model_input["odd"], strict=True)]
        if wanted == "struct":
            return pd.DataFrame({"a": total, "b": model_input["text"].fillna("none"), "c": model_input["odd"]})
        kinds = "|".join(f"{name}:{dtype}" for name, dtype in model_input.dtypes.items())
        return [
            kinds + "|" + "|".join(f"{type(value).__name__}={list(value) if isinstance(value, np.ndarray) else value!r}" for value in row)
            for row in zip(*(model_input[name] for name in model_input.columns), strict=True)
        ]


RESULTS = {
    "text": "string",
    "double": "double",
    "float": "float",
    "long": "long",
    "boolean": "boolean",
    "array": "array<double>",
    "struct": "struct<a: double, b: string, c: double>",
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`Everything` with a signature of many types, two inputs that the source has as narrower ones, and one that it has not."""
    path = tmp_path_factory.mktemp("model") / "everything"
    scalars = {
        "flag": DataType.boolean, "maybe": DataType.boolean, "whole": DataType.integer, "large": DataType.double,
        "small": DataType.long, "single": DataType.double, "x": DataType.double, "odd": DataType.double,
        "text": DataType.string, "unique": DataType.string, "kind": DataType.string,
    }  # fmt: skip
    inputs = [ColSpec(kind, name, required=name not in ("maybe", "odd", "text", "kind")) for name, kind in scalars.items()]
    inputs += [ColSpec(Array(DataType.double), "vector"), ColSpec(DataType.double, "absent", required=False)]
    text = Schema([ColSpec(DataType.string)])
    params = mlflow.types.ParamSchema([mlflow.types.ParamSpec("wanted", DataType.string, "text")])
    mlflow.pyfunc.save_model(path, python_model=Everything(), signature=ModelSignature(Schema(inputs), text, params))
    return str(path)


@pytest.fixture
def run(spark: SparkSession, store: str, tmp_path: Path) -> Score:
    def run(name: str, **sections: dict[str, Any]) -> ScoreResult:
        output = {"path": str(tmp_path / name), **sections.pop("output", {})}
        return score({"run": {"batch_id": f"b-{name}"}, "output": output, **sections}, spark=spark)

    return run


def _read(spark: SparkSession, result: ScoreResult) -> DataFrame:
    df = spark.read.format(result.output_format).load(result.location)
    return df.drop(*LINEAGE)


def _as_text(df: DataFrame) -> list[dict[str, Any]]:
    """All rows as JSON, in which NaN and -0.0 are themselves; JSON has no binary of its own."""
    rows = df.withColumn("raw", F.hex("raw")) if "raw" in df.columns else df
    return rows.sort("id").select(F.to_json(F.struct("*")).alias("row")).toArrow().to_pylist()


def _assert_same(spark: SparkSession, one: ScoreResult, other: ScoreResult) -> None:
    """Schema and values of both, bit for bit: as text, in which NaN and -0.0 are themselves."""
    first, second = _read(spark, one), _read(spark, other)
    assert first.schema == second.schema
    assert _as_text(first) == _as_text(second)
    assert (one.rows_read, one.rows_scored, one.rows_written) == (other.rows_read, other.rows_scored, other.rows_written)
    assert dict(one.counts) == dict(other.counts)


@pytest.mark.parametrize("wanted", RESULTS)
def test_direct_equals_spark_udf(spark: SparkSession, run: Score, rich: Path, everything: str, wanted: str) -> None:
    sections = {
        "model": {"uri": everything, "params": {"wanted": wanted}, "result_type": RESULTS[wanted]},
        "source": {"path": str(rich)},
        "columns": {"keys": ["id"], "rename": {"price": "cost"}, "drop": ["words"]},
    }
    format_ = "delta" if wanted in ("text", "array") else "parquet"
    fast = run("fast", **sections, scoring={"batch_size": 130}, output={"format": format_})
    slow = run("slow", **sections, scoring={"engine": "spark_udf"}, output={"format": format_})
    assert (fast.engine, slow.engine) == ("direct", "spark_udf")
    _assert_same(spark, fast, slow)


def _sections(model: str, path: Path, **more: Any) -> dict[str, Any]:
    return {"model": {"uri": model}, "source": {"path": str(path)}, "columns": {"keys": ["id"]}, **more}


def test_a_delta_table_partitioned_and_changed_is_read_as_spark_reads_it(
    spark: SparkSession, run: Score, rich: Path, everything: str, tmp_path: Path
) -> None:
    table = str(tmp_path / "table")
    df = (
        spark.read.parquet(str(rich))
        .drop("a.b c`")
        .withColumn("part", F.expr("if(id % 3 = 0, null, date_add(date'2026-01-01', int(id % 3)))"))
    )
    name = F.expr("if(id % 5 = 0, null, concat('x=', id % 2, '/ü'))")
    df.withColumn("name", name).write.format("delta").partitionBy("part", "name").save(table)
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id % 7 = 0")
    sections = _sections(everything, Path(table))
    fast, slow = run("fast", **sections), run("slow", **sections, scoring={"engine": "spark_udf"})
    assert fast.engine == "direct"
    assert fast.rows_read == len([i for i in range(ROWS) if i % 7])
    _assert_same(spark, fast, slow)
    old = run("old", **{**sections, "source": {"path": table, "version": 0}})
    assert (old.engine, old.rows_read) == ("direct", ROWS)


def test_a_delta_table_with_deletion_vectors_is_left_to_spark(
    spark: SparkSession, run: Score, diabetes_path: Path, linear_uri: str, tmp_path: Path
) -> None:
    table = str(tmp_path / "table")
    writer = spark.read.parquet(str(diabetes_path)).coalesce(1).write.format("delta").option("delta.enableDeletionVectors", "true")
    writer.save(table)
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id < 10")
    result = run("out", **_sections(linear_uri, Path(table)))
    assert result.engine != "direct"
    assert result.rows_read == 432


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array([1, 2], pa.uint32()), "uint32"),
        (pa.array([1, 2], pa.time64("us")), "time64[us]"),
        (pa.array([b"ab", b"cd"], pa.binary(2)), "fixed_size_binary[2]"),
    ],
)
def test_types_that_spark_reads_otherwise_are_left_to_it(column: pa.Array, why: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0], "odd": column}), tmp_path / "a.parquet")
    inspection = inspect(SourceConfig(path=str(tmp_path / "a.parquet")))
    assert inspection.parquet is None
    assert inspection.only_spark == f"column 'odd' is {why}"


def test_timestamps_of_int96_and_of_an_old_calendar_are_left_to_spark(tmp_path: Path) -> None:
    table = pa.table({"at": pa.array([dt.datetime(1500, 1, 1)], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "int96.parquet", use_deprecated_int96_timestamps=True)
    assert inspect(SourceConfig(path=str(tmp_path / "int96.parquet"))).only_spark == "column 'at' holds INT96 timestamps"
    pq.write_table(table.replace_schema_metadata({"org.apache.spark.legacyDateTime": ""}), tmp_path / "old.parquet")
    assert "old Spark" in inspect(SourceConfig(path=str(tmp_path / "old.parquet"))).only_spark


class Fails(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Breaks on one row, and dies on another."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        if (model_input["x"] == -1).any():
            raise ValueError("x is negative")
        if (model_input["x"] == -2).any():
            os.kill(os.getpid(), 9)
        return model_input["x"] * 2


@pytest.fixture(scope="module")
def fails(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fails") / "model"
    signature = ModelSignature(Schema([ColSpec(DataType.double, "x")]), Schema([ColSpec(DataType.double)]))
    mlflow.pyfunc.save_model(path, python_model=Fails(), signature=signature)
    return str(path)


def _numbers(path: Path, bad: float | None, kind: pa.DataType | None = None) -> Path:
    values = [1 if i == 777 and bad is None else bad if i == 777 else i for i in range(1000)]
    pq.write_table(pa.table({"id": pa.array(range(1000)), "x": pa.array(values, kind or pa.float64())}), path, row_group_size=100)
    return path


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (-1.0, pa.float64(), "the model failed to predict: ValueError: x is negative (row id=777)"),
        (2**53 + 1, pa.int64(), "column 'x': '9007199254740993' is not a value of type double, which is needed"),
        (2**63 - 1, pa.int64(), "column 'x': '9223372036854775807' is not a value of type double, which is needed"),
    ],
)
def test_errors_are_those_of_spark_udf(run: Score, fails: str, tmp_path: Path, bad: float, kind: pa.DataType, message: str) -> None:
    path = _numbers(tmp_path / "numbers.parquet", bad, kind)
    for engine in ("auto", "spark_udf"):
        with pytest.raises(LakescoreError) as raised:
            run("out", **_sections(fails, path, scoring={"engine": engine}))
        assert str(raised.value) == message
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_cut_behind_its_footer_is_named(run: Score, fails: str, tmp_path: Path) -> None:
    path = _numbers(tmp_path / "numbers.parquet", None)
    content = bytearray(path.read_bytes())
    content[2000:3000] = os.urandom(1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"numbers.parquet: cannot be read: "):
        run("out", **_sections(fails, path))
    assert not (tmp_path / "out").exists()


def _command(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`lakescore score` in a process of its own: there is no session yet."""
    (folder / "empty.yaml").write_text("{}")
    code = "import sys; from lakescore.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "score", "--config", str(folder / "empty.yaml"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}{os.pathsep}{ROOT}", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_spark_the_result_is_the_same(spark: SparkSession, run: Score, rich: Path, everything: str, tmp_path: Path) -> None:
    arguments = (
        f"model.uri={everything}", f"source.path={rich}", f"output.path={tmp_path / 'embedded'}", "columns.keys=id",
        "run.batch_id=b-embedded", "output.format=parquet", "spark.backend=embedded",
    )  # fmt: skip
    dry = _command(tmp_path, "--dry-run", *arguments, environment={"JAVA_HOME": "/nowhere", "PATH": ""})
    assert (dry.returncode, dry.stdout.splitlines()[-1:]) == (0, ["dry run: nothing was written"]), dry.stderr
    assert not (tmp_path / "embedded").exists()
    done = _command(tmp_path, *arguments, environment={"JAVA_HOME": "/nowhere", "PATH": ""})
    assert done.returncode == 0, done.stderr
    assert "the run needs Spark" not in done.stderr
    slow = run("slow", **_sections(everything, rich), scoring={"engine": "spark_udf"}, output={"format": "parquet"})
    first = spark.read.parquet(str(tmp_path / "embedded")).drop(*LINEAGE)
    second = _read(spark, slow)
    assert first.schema == second.schema
    assert _as_text(first) == _as_text(second)
    again = _command(
        tmp_path, f"model.uri={everything}", f"source.path={rich}", f"output.path={tmp_path / 'embedded'}", "columns.keys=id",
        "run.batch_id=second", "output.format=parquet", environment={"JAVA_HOME": "/nowhere", "PATH": ""},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert spark.read.parquet(str(tmp_path / "embedded")).count() == 2 * ROWS


def test_workers_find_no_other_modules_than_the_command(everything: str, rich: Path, tmp_path: Path) -> None:
    for name in ("random.py", "numpy.py", "lakescore.py"):
        (tmp_path / name).write_text("raise ImportError('from the current folder')")
    (tmp_path / "empty.yaml").write_text("{}")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lakescore"), "score", "--config", "empty.yaml", f"model.uri={everything}",
         f"source.path={rich}", "output.path=out", "output.format=parquet", "spark.backend=embedded"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_spark_errors_and_deaths_are_one_line(fails: str, tmp_path: Path) -> None:
    negative = "the model failed to predict: ValueError: x is negative (row id=777)"
    (tmp_path / "temporary").mkdir()
    own = {"TMPDIR": str(tmp_path / "temporary")}
    for bad, message, code in ((-1.0, negative, 3), (-2.0, "ended without a word", 1)):
        path = _numbers(tmp_path / "numbers.parquet", bad)
        done = _command(
            tmp_path, f"model.uri={fails}", f"source.path={path}", f"output.path={tmp_path / 'out'}", "columns.keys=id", environment=own
        )
        assert done.returncode == code, done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert not (tmp_path / "out").exists()
        assert not list((tmp_path / "temporary").glob("lakescore*"))


@pytest.mark.parametrize("override", ["source.filter=id > 1", "spark.conf={spark.sql.shuffle.partitions: 2}", "scoring.engine=spark_udf"])
def test_what_needs_spark_is_refused_where_spark_is_refused(fails: str, tmp_path: Path, override: str) -> None:
    path = _numbers(tmp_path / "numbers.parquet", None)
    done = _command(
        tmp_path, f"model.uri={fails}", f"source.path={path}", f"output.path={tmp_path / 'out'}", "spark.backend=embedded", override
    )
    assert done.returncode == 2
    assert "spark.backend: embedded is not possible, because" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("backend", ["embedded", "spark"])
def test_many_tasks_give_every_row_once(fails: str, tmp_path: Path, backend: str) -> None:
    rows = 5_000_000
    x = np.random.default_rng(0).random(rows)
    pq.write_table(pa.table({"id": pa.array(range(rows)), "x": x}), tmp_path / "numbers.parquet", row_group_size=400_000)
    arguments = (f"model.uri={fails}", f"source.path={tmp_path / 'numbers.parquet'}", f"output.path={tmp_path / 'out'}", "columns.keys=id")
    done = _command(tmp_path, *arguments, "output.format=parquet", f"spark.backend={backend}", "spark.master=local[3]")
    assert done.returncode == 0, done.stderr
    files = [str(path) for path in (tmp_path / "out").rglob("*.parquet")]
    assert len(files) > 3
    written = pa.concat_tables([pq.read_table(path, partitioning=None, columns=["id", "prediction"]) for path in files]).sort_by("id")
    assert written["id"].to_pylist() == list(range(rows))
    np.testing.assert_array_equal(written["prediction"].to_numpy(), x * 2)


@pytest.mark.long
def test_without_spark_a_batch_is_reused_and_found_again(fails: str, tmp_path: Path) -> None:
    path = _numbers(tmp_path / "numbers.parquet", None)
    arguments = (f"model.uri={fails}", f"source.path={path}", f"output.path={tmp_path / 'out'}", "scoring.allow_reuse=true")
    first, second, third = (_command(tmp_path, *arguments, f"run.batch_id={name}") for name in ("a", "b", "a"))
    assert [one.returncode for one in (first, second, third)] == [0, 0, 0], second.stderr + third.stderr
    assert "gave batch a" in second.stdout
    assert "nothing to do (run.on_rerun=skip)" in third.stdout


@pytest.mark.parametrize(("value", "kind", "wanted"), [(2**31 - 1, pa.int32(), pa.float32()), (-(2**24) - 1, pa.int32(), pa.float32())])
def test_an_integer_that_a_float_does_not_hold_is_named(value: int, kind: pa.DataType, wanted: pa.DataType) -> None:
    batch = pa.record_batch({"x": pa.array([1, value, None], kind)})
    with pytest.raises(GuardError, match=rf"column 'x': '{value}' is not a value of type float"):
        direct._input(direct.Input("x", "x", wanted), batch)
    assert direct._input(direct.Input("x", "x", wanted), batch.slice(0, 1)).to_pylist() == [1.0]
