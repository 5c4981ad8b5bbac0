"""One file instead of a table: JSON lines and `File: Prediction` lines, complete or not there, once per batch."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from pyspark.sql import SparkSession

from lakescore import read, score
from lakescore.errors import ConfigError, LakescoreError, OutputError
from lakescore.result import ScoreResult
from lakescore.sinks.rows import RowsSink

Make = Callable[..., dict[str, Any]]
Score = Callable[..., ScoreResult]
FILES = {"jsonl": "batch-infer-res.jsonl", "append_row": "parallel_run_step.txt"}


@pytest.fixture(params=sorted(FILES))
def output_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path, output_format: str) -> Score:
    """Score the diabetes data into the folder `out` of this test: ``run("run.batch_id=x")``."""
    settings = config(
        model={"uri": linear_uri},
        source={"path": str(diabetes_path)},
        columns={"keys": ["id"]},
        output={"path": str(tmp_path / "out"), "format": output_format, "columns": "keys"},
    )
    return lambda *overrides: score(settings, overrides=overrides, spark=spark)


@pytest.fixture
def file(tmp_path: Path, output_format: str) -> Path:
    return tmp_path / "out" / FILES[output_format]


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _ids(file: Path) -> list[int]:
    if file.suffix == ".jsonl":
        return sorted(json.loads(line)["id"] for line in file.read_text().splitlines())
    return sorted(int(line.split(":")[0]) for line in file.read_text().splitlines())


# --- what is in the file


def test_a_line_is_the_time_the_kept_columns_and_the_prediction(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, features: list[str], tmp_path: Path
) -> None:
    paths = [f"data/{i}.png" for i in range(len(diabetes))]
    diabetes.assign(path=paths).to_parquet(tmp_path / "one.parquet")
    settings = config(
        model={"uri": linear_uri},
        source={"path": str(tmp_path / "one.parquet")},
        output={"path": str(tmp_path / "out"), "format": "jsonl", "columns": ["path"], "fields": {"path": "image_filepath"}},
    )

    result = score(settings, spark=spark)

    assert result.location == str(tmp_path / "out" / "batch-infer-res.jsonl")
    rows = [json.loads(line) for line in Path(result.location).read_text(encoding="utf-8").splitlines()]
    assert {tuple(row) for row in rows} == {("time", "image_filepath", "prediction")}
    # One file is read, and written, in its order.
    assert [row["image_filepath"] for row in rows] == paths
    expected = mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features])
    np.testing.assert_array_equal([row["prediction"] for row in rows], expected)
    times = {dt.datetime.strptime(row["time"], "%Y-%m-%dT%H:%M:%S%z") for row in rows}
    assert len(times) == 1
    assert abs(times.pop() - dt.datetime.now(dt.timezone.utc)) < dt.timedelta(minutes=5)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000", row["time"]) for row in rows)
    assert (result.rows_read, result.rows_scored, result.rows_written) == (442, 442, 442)


def test_every_type_is_valid_json_and_comes_back(
    spark: SparkSession, config: Make, linear_uri: str, features: list[str], tmp_path: Path
) -> None:
    numbers = ", ".join(f"0.5D AS {name}" for name in features)
    query = f"""SELECT {numbers}, id, CASE id WHEN 0 THEN double('nan') WHEN 1 THEN double('inf') WHEN 2 THEN NULL ELSE 1e-5D END AS real,
        float(0.1) AS single, 9007199254740993L AS big, CAST(12.50 AS DECIMAL(38, 2)) AS exact, DATE'1999-12-31' AS day,
        TIMESTAMP'2026-03-08 07:30:00.123456 UTC' AS instant, TIMESTAMP_NTZ'2026-03-08 02:30:00.5' AS wall, unhex('00ff') AS bytes,
        map('k', named_struct('x', 'ü"\\n€', 'none', CAST(NULL AS INT))) AS nested, array(double('-inf'), 0.5D) AS many, true AS yes,
        'a b: "c" 日本' AS `odd name.`, CAST(NULL AS STRING) AS nothing FROM range(4)"""
    settings = config(
        model={"uri": linear_uri},
        source={"query": query},
        columns={"drop": []},
        output={"path": str(tmp_path / "out"), "format": "jsonl"},
    )

    result = score(settings, spark=spark)

    text = Path(result.location).read_text(encoding="utf-8")

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    rows = {row["id"]: row for row in (json.loads(line, parse_constant=refuse) for line in text.splitlines())}
    assert [rows[i]["real"] for i in range(4)] == ["NaN", "Infinity", None, 1e-5]
    assert "日本" in text
    first = rows[0]
    assert {key: first[key] for key in ("big", "exact", "day", "instant", "wall", "bytes", "nested", "many", "yes", "odd name.")} == {
        "big": 9007199254740993,
        "exact": 12.5,
        "day": "1999-12-31",
        "instant": "2026-03-08T07:30:00.123456Z",
        "wall": "2026-03-08T02:30:00.500000",
        "bytes": "AP8=",
        "nested": {"k": {"x": 'ü"\n€', "none": None}},
        "many": ["-Infinity", 0.5],
        "yes": True,
        "odd name.": 'a b: "c" 日本',
    }
    assert '"exact":12.50' in text
    assert "nothing" in first
    assert first["nothing"] is None
    as_spark = read(result, spark=spark).where("id < 3").orderBy("id").select("real", "exact", "day", "instant", "wall", "bytes", "many")
    original = spark.sql(query).where("id < 3").orderBy("id").select("real", "exact", "day", "instant", "wall", "bytes", "many")
    assert as_spark.schema.simpleString() == original.schema.simpleString()
    assert str(as_spark.collect()) == str(original.collect())


def test_plain_lines_are_read_by_pandas_as_the_users_of_parallel_run_step_do(
    spark: SparkSession, config: Make, features: list[str], store: str, tmp_path: Path
) -> None:
    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["answer"]

    frame = pd.DataFrame({"answer": ["3", 'say: "x"', "5", "two\nlines"]})
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="echo", python_model=Echo(), signature=infer_signature(frame, ["x"])).model_uri
    rows = {"path": ["a.png", "b:c.png", None, 'é".png'], "answer": frame["answer"].tolist()}
    settings = config(
        model={"uri": uri},
        source={"rows": rows},
        output={"path": str(tmp_path / "out"), "format": "append_row"},
        scoring={"partitions": 1},
    )

    result = score(settings, spark=spark)

    assert Path(result.location).name == "parallel_run_step.txt"
    lines = Path(result.location).read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(["a.png: 3", '"b:c.png":" say: ""x"""', ": 5", '"é"".png": two\\nlines'])
    found = pd.read_csv(result.location, delimiter=":", header=None).sort_values(0)
    assert dict(zip(found[0].fillna("nothing"), found[1].str.strip(), strict=True)) == {
        "a.png": "3",
        "b:c.png": 'say: "x"',
        "nothing": "5",
        'é".png': "two\\nlines",
    }
    back = read(result.run_id, tracking_uri=store).sort_values("path")
    assert back.columns.tolist() == ["path", "prediction"]
    assert back["path"].tolist() == ["a.png", "b:c.png", 'é".png', None]
    assert back["prediction"].tolist() == ["3", 'say: "x"', "two\\nlines", "5"]


def test_without_a_kept_column_a_line_is_the_prediction_as_it_is(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path
) -> None:
    settings = config(
        model={"uri": linear_uri},
        source={"path": str(diabetes_path), "limit": 3},
        output={"path": str(tmp_path / "out"), "format": "append_row", "columns": [], "file": "results.txt"},
    )

    score(settings, spark=spark)

    assert len([float(line) for line in (tmp_path / "out" / "results.txt").read_text().splitlines()]) == 3


def test_the_runs_columns_are_in_every_line_if_they_are_wanted(run: Score, file: Path) -> None:
    result = run("output.lineage=true", "run.batch_id=a", "source.limit=2")

    rows = read(result)
    assert rows["model_uri"].tolist() == ["models:/diabetes/1"] * 2
    assert rows["run_id"].tolist() == [result.run_id] * 2
    assert rows["batch_id"].tolist() == ["a"] * 2


def test_without_a_path_the_file_is_in_the_runs_own_folder(
    run: Score, output_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = run("output.path=null", "source.limit=2")

    relative = Path(result.location).relative_to(tmp_path)
    assert re.fullmatch(rf"outputs/\d{{4}}-\d\d-\d\d/\d\d-\d\d-\d\d/{FILES[output_format]}", str(relative))


def test_the_model_sees_every_row_once(spark: SparkSession, config: Make, store: str, tmp_path: Path, output_format: str) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()

    class Counting(mlflow.pyfunc.PythonModel):
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import uuid

            Path(self.folder, uuid.uuid4().hex).write_text(" ".join(str(int(value)) for value in model_input["x"]))
            return model_input["x"] * 2

    example = pd.DataFrame({"x": [1.0]})
    with mlflow.start_run():
        model = mlflow.pyfunc.log_model(name="counting", python_model=Counting(str(seen)), signature=infer_signature(example, [2.0]))
    for other in seen.iterdir():
        other.unlink()
    settings = config(
        model={"uri": model.model_uri},
        source={"query": "SELECT double(id) AS x FROM range(1000)"},
        output={"path": str(tmp_path / "out"), "format": output_format},
    )

    score(settings, spark=spark)

    values = [int(value) for path in seen.iterdir() for value in path.read_text().split()]
    # The probe has scored the first row once more.
    assert sorted(values) == sorted([0, *range(1000)])


def test_summary_only_scores_and_counts_every_row_and_writes_none(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, store: str, tmp_path: Path
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    settings["output"] = {"format": "summary_only"}
    before = _files(tmp_path)

    result = score(settings, spark=spark)

    assert (result.rows_read, result.rows_scored, result.rows_written) == (442, 442, 0)
    metrics = mlflow.MlflowClient(store).get_run(result.run_id).data.metrics
    assert (metrics["rows_scored"], metrics["rows_written"], metrics["predictions_null"]) == (442, 0, 0)
    assert _files(tmp_path) == before
    with pytest.raises(LakescoreError, match=r"wrote no rows \(output.format=summary_only\)"):
        read(result)


# --- once per batch


def test_skip_finds_the_batch_and_changes_nothing(run: Score, file: Path, output_format: str) -> None:
    first = run("run.batch_id=a", "source.limit=5")
    before = {path: (file.parent / path).read_bytes() for path in _files(file.parent)}

    result = run("run.batch_id=a")

    assert (result.outcome, result.rows_written) == ("skipped", 0)
    assert {path: (file.parent / path).read_bytes() for path in _files(file.parent)} == before
    assert sorted(before) == [f".{file.name}.{first.run_id}.json", file.name]
    assert len(read(result)) == 5


def test_fail_names_the_batch(run: Score, file: Path) -> None:
    run("run.batch_id=a", "source.limit=5")

    with pytest.raises(OutputError) as error:
        run("run.batch_id=a", "run.on_rerun=fail")

    assert str(error.value) == (
        f"run.batch_id: the batch a is in {file} already; set run.on_rerun=skip or replace, or give another batch_id"
    )


def test_replace_swaps_the_file_and_its_record(run: Score, file: Path) -> None:
    first = run("run.batch_id=a", "source.filter=id < 5")

    second = run("run.batch_id=a", "run.on_rerun=replace", "source.filter=id >= 440")

    assert _ids(file) == [440, 441]
    assert _files(file.parent) == [f".{file.name}.{second.run_id}.json", file.name]
    assert len(read(second)) == 2
    with pytest.raises(LakescoreError) as error:
        read(first)
    assert str(error.value) == (
        f"read: the rows of the run {first.run_id} are not in {file} any more: another run has replaced the batch a, or they were "
        f"deleted; lakescore read {file} shows what is there"
    )


def test_another_batch_in_the_same_file_is_refused_before_scoring(run: Score, file: Path) -> None:
    run("run.batch_id=a", "source.limit=5")
    before = file.read_bytes()

    with pytest.raises(OutputError) as error:
        run("run.batch_id=b")

    assert str(error.value) == (
        f"output.path: {file} holds the batch a; a file holds one batch, so give each a folder of its own, for example "
        "output.path=outputs/${run.batch_id}"
    )
    assert file.read_bytes() == before


@pytest.mark.parametrize("changed", [True, False])
def test_a_file_that_lakescore_did_not_write_is_left_alone(run: Score, file: Path, changed: bool) -> None:
    if changed:
        run("run.batch_id=a", "source.limit=5")
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine\n")

    with pytest.raises(OutputError) as error:
        run("run.batch_id=a", "run.on_rerun=replace")

    assert str(error.value) == (
        f"output.file: {file} is there already, and not as Lakescore wrote it; move it away, or give another output.path"
    )
    assert file.read_text() == "mine\n"


def test_zero_rows_are_a_batch_too(run: Score, file: Path) -> None:
    result = run("run.batch_id=a", "source.filter=id < 0")

    assert (result.outcome, result.rows_written, file.read_bytes()) == ("scored", 0, b"")
    assert run("run.batch_id=a").outcome == "skipped"
    assert "prediction" in read(result).columns


# --- whole or nothing


def test_a_failure_between_write_and_rename_leaves_nothing(run: Score, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *_: Any) -> None:
        assert not file.exists()
        raise OutputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(RowsSink, "publish", fail)
        with pytest.raises(OutputError):
            run("run.batch_id=a")

    assert not file.parent.exists()
    assert run("run.batch_id=a").rows_written == 442


def test_a_failed_replacement_leaves_the_old_file(run: Score, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("run.batch_id=a", "source.limit=5")
    before = {path: (file.parent / path).read_bytes() for path in _files(file.parent)}

    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if target == str(file):
            raise OSError("no rename today")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="cannot be written: no rename today"):
            run("run.batch_id=a", "run.on_rerun=replace")

    assert {path: (file.parent / path).read_bytes() for path in _files(file.parent)} == before
    assert len(read(first)) == 5


def test_of_two_runs_of_a_batch_the_first_one_stays(run: Score, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = RowsSink.publish

    def late(self: RowsSink, spark: SparkSession, staged: Any) -> Any:
        monkeypatch.setattr(RowsSink, "publish", publish)
        run("run.batch_id=a", "source.limit=3")
        return publish(self, spark, staged)

    monkeypatch.setattr(RowsSink, "publish", late)

    result = run("run.batch_id=a")

    assert result.outcome == "skipped"
    assert len(_ids(file)) == 3
    assert len(_files(file.parent)) == 2


@pytest.mark.long
@pytest.mark.parametrize(("output_format", "at"), [("jsonl", "publish_as"), ("append_row", "_tidy")], indirect=["output_format"])
def test_a_killed_run_leaves_the_whole_file_or_none(
    run: Score, file: Path, store: str, linear_uri: str, diabetes_path: Path, tmp_path: Path, output_format: str, at: str
) -> None:
    owner = "lakescore.storage.Location" if at == "publish_as" else "lakescore.sinks.rows.RowsSink"
    module, name = owner.rsplit(".", 1)
    program = f"""
import os, signal
import {module}
from lakescore import score
setattr({module}.{name}, {at!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
score({{
    "model": {{"uri": {linear_uri!r}}}, "source": {{"path": {str(diabetes_path)!r}}}, "columns": {{"keys": ["id"]}},
    "output": {{"path": {str(file.parent)!r}, "format": {output_format!r}, "columns": "keys"}}, "run": {{"batch_id": "a"}},
    "tracking": {{"tracking_uri": {store!r}}}, "spark": {{"master": "local[1]", "conf": {{"spark.ui.enabled": "false"}}}},
}})
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)

    assert answer.returncode == -signal.SIGKILL, answer.stderr
    visible = [path for path in _files(file.parent) if not path.startswith(".")]
    assert visible == ([] if at == "publish_as" else [file.name])
    result = run("run.batch_id=a")
    assert result.outcome == ("scored" if at == "publish_as" else "skipped")
    assert _ids(file) == list(range(442))
    if at == "publish_as":
        assert len(_files(file.parent)) == 2


# --- what is refused before anything is scored


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"format": "append_row"},
            "output.columns: append_row writes one column before the prediction, and 12 are kept (age, sex, bmi, bp, s1, s2, s3, s4 and 4 "
            "more); choose one: output.columns=[NAME], or columns.keys=[NAME]",
        ),
        (
            {"format": "jsonl", "columns": ["id"], "fields": {"idd": "x"}},
            "output.fields: no column 'idd' is written. Did you mean 'id'? Written are id, prediction",
        ),
        (
            {"format": "jsonl", "columns": ["id"], "fields": {"id": "time"}},
            "output.fields: two fields of a line would be called 'time'; give the column 'id' another name: output.fields={id: NAME}",
        ),
    ],
)
def test_what_a_line_cannot_hold_is_refused(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, tmp_path: Path, output: dict[str, Any], message: str
) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, output={"path": str(tmp_path / "out"), **output})

    with pytest.raises(ConfigError) as error:
        score(settings, spark=spark)

    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_read_and_a_delta_table_are_refused(run: Score, diabetes_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a run cannot write to what it reads"):
        run(f"output.path={diabetes_path}")

    run("output.format=delta", f"output.path={tmp_path / 'table'}", "source.limit=1")
    with pytest.raises(OutputError, match=r"is a Delta table; give another folder, or output.path=null for outputs/DATE/TIME"):
        run(f"output.path={tmp_path / 'table'}")
