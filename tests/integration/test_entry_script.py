"""Entry scripts over files and rows with real models, on Spark's workers."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

from lakescore import replay, score
from lakescore.cli import main
from lakescore.config import ModelConfig
from lakescore.engine import entry_script, script_runner
from lakescore.engine.entry_script import ERROR, FAILURE, Settings
from lakescore.errors import InputError, ModelError
from lakescore.models import script

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]

# The script of the Azure article, but for where it finds the model.
DIGITS = """
import os
import numpy as np
import joblib

def init():
    # Runs when the pipeline step is initialized
    global model

    # load the model
    model_path = os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pkl")
    model = joblib.load(model_path)
    print(os.getppid(), os.getpid(), file=open(os.environ["LAKESCORE_INPUT_LOG"] + "/init", "a"))

def run(mini_batch):
    # This runs for each batch
    resultList = []
    print(len(mini_batch), file=open(os.environ["LAKESCORE_INPUT_LOG"] + "/run", "a"))

    # process each file in the batch
    for f in mini_batch:
        # Read comma-delimited data into an array
        data = np.genfromtxt(f, delimiter=',')
        # Reshape into a 2-dimensional array for model input
        prediction = model.predict(data.reshape(1, -1))
        # Append prediction to results
        resultList.append("{}: {}".format(os.path.basename(f), prediction[0]))
    return resultList
"""

# The shape of Azure's example for rows: the batch with one more column.
IRIS = """
import argparse, os
import joblib

def init():
    global model, arguments
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-name")
    arguments, _ = parser.parse_known_args()
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], arguments.model_name))

def run(input_data):
    assert list(input_data.columns) == ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    input_data["variety"] = model.predict(input_data)
    return input_data
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a script into a folder of its own."""

    def make(text: str, **others: str) -> Path:
        folder = tmp_path / "batch_scripts"
        folder.mkdir(exist_ok=True)
        for name, content in others.items():
            (folder / f"{name}.py").write_text(content, encoding="utf-8")
        (folder / "score.py").write_text(text, encoding="utf-8")
        return folder / "score.py"

    return make


@pytest.fixture
def shipped(spark: SparkSession, write: Write, tmp_path: Path) -> Callable[..., entry_script.Shipped]:
    def make(text: str, **settings: Any) -> entry_script.Shipped:
        found = script.load(ModelConfig(entry_script=str(write(text))))
        return entry_script.ship(spark, Settings(found.name, found.files, **settings), tmp_path)

    return make


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """A fitted classifier as model.pkl, 60 digits as files of 64 numbers, and what it says of each."""
    folder = tmp_path_factory.mktemp("digits")
    data, target = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=5_000).fit(data[:1500], target[:1500])
    joblib.dump(model, folder / "model.pkl")
    (folder / "files").mkdir()
    for i in range(1500, 1560):
        (folder / "files" / f"{i}.csv").write_text(",".join(map(str, data[i])))
    expected = {f"{i}.csv": int(p) for i, p in zip(range(1500, 1560), model.predict(data[1500:1560]), strict=True)}
    return folder / "model.pkl", folder / "files", expected


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, pd.DataFrame]:
    """A fitted classifier, the flowers as Parquet with an id, and the same with what it says."""
    folder = tmp_path_factory.mktemp("iris")
    flowers = load_iris(as_frame=True)
    model = LogisticRegression(max_iter=5_000).fit(flowers.data, flowers.target_names[flowers.target])
    joblib.dump(model, folder / "iris.pkl")
    rows = flowers.data.assign(id=np.arange(150))
    (folder / "data").mkdir()
    rows.to_parquet(folder / "data" / "iris.parquet", index=False)
    return folder / "iris.pkl", folder / "data", rows.assign(variety=model.predict(flowers.data))


def paths(spark: SparkSession, files: Path, partitions: int = 1) -> DataFrame:
    found = sorted(str(file) for file in files.iterdir())
    return spark.createDataFrame([(path,) for path in found], "path string").repartition(partitions)


def ids(spark: SparkSession, count: int, partitions: int = 1) -> DataFrame:
    return spark.range(0, count, 1, partitions)


def _workers_that_started(log: Path) -> list[str]:
    """The Python worker behind each process of the script that was started."""
    return [line.split()[0] for line in (log / "init").read_text().splitlines()]


# --- seed: digit files


def test_digit_files_give_the_lines_of_the_article(
    spark: SparkSession, digits: tuple[Path, Path, dict[str, int]], shipped: Callable[..., entry_script.Shipped], tmp_path: Path
) -> None:
    model, files, expected = digits
    log = tmp_path / "log"
    log.mkdir()
    made = shipped(DIGITS, model=model.parent, side_inputs={"log": str(log)}, mini_batch=(5, None), partition_keys=())
    entry_script.try_out(spark, made)

    rows = entry_script.with_results(paths(spark, files, 2), made, "path", T.StringType(), "prediction").collect()

    assert sorted(row["prediction"] for row in rows) == sorted(f"{name}: {digit}" for name, digit in expected.items())
    assert all(row["prediction"].startswith(f"{os.path.basename(row['path'])}: ") for row in rows)
    assert {row[ERROR] for row in rows} == {None}
    sizes = [int(line) for line in (log / "run").read_text().split()]
    assert sum(sizes) == 60
    assert sum(size < 5 for size in sizes) <= 2  # at most the last one of each task
    workers = _workers_that_started(log)
    assert len(workers) == len(set(workers)) <= 3  # a worker for each core, and perhaps the one that it was tried out on


def test_many_small_files_take_few_processes(
    spark: SparkSession, digits: tuple[Path, Path, dict[str, int]], shipped: Callable[..., entry_script.Shipped], tmp_path: Path
) -> None:
    model, files, _ = digits
    log = tmp_path / "log"
    log.mkdir()
    made = shipped(DIGITS, model=model.parent, side_inputs={"log": str(log)}, mini_batch=(50, None))
    df = paths(spark, files).crossJoin(spark.range(50)).repartition(12)

    rows = entry_script.with_results(df, made, "path", T.StringType(), "prediction").where(f"{ERROR} IS NULL").count()

    assert rows == 3_000
    # One for each Python worker, however many tasks it is given; a session that other tests have used has more than two waiting.
    workers = _workers_that_started(log)
    assert len(workers) == len(set(workers)) < 12


# --- seed: iris rows, through the whole job


def test_iris_rows_are_scored_as_a_frame_and_read_back(
    spark: SparkSession, config: Make, iris: tuple[Path, Path, pd.DataFrame], write: Write
) -> None:
    model, data, expected = iris
    settings = config(
        model={"uri": str(model), "entry_script": str(write(IRIS)), "arguments": ["--model-name", "iris.pkl"]},
        source={"path": str(data)},
        columns={"keys": ["id"]},
        scoring={"mini_batch_size": "20"},
        output={"path": str(data.parent / "out"), "columns": "keys"},
    )

    result = score(settings, spark=spark)

    table = DeltaTable(result.location).to_pandas().sort_values("id")
    lines = expected.drop(columns="id").apply(lambda row: " ".join(map(str, row)), axis=1)
    assert table["prediction"].tolist() == lines.tolist()
    assert table["model_uri"].unique().tolist() == [f"file://{model}"]
    run = mlflow.get_run(result.run_id)
    assert (run.info.status, run.data.metrics["rows_scored"]) == ("FINISHED", 150)


def test_a_frames_columns_become_a_struct_where_one_is_declared(
    spark: SparkSession, config: Make, iris: tuple[Path, Path, pd.DataFrame], write: Write
) -> None:
    model, data, expected = iris
    text = IRIS.replace(
        "return input_data", "return input_data[['variety', 'petal width (cm)']].rename(columns={'petal width (cm)': 'width'})"
    )
    settings = config(
        model={
            "uri": str(model),
            "entry_script": str(write(text)),
            "arguments": ["--model-name", "iris.pkl"],
            "result_type": "struct<variety: string, width: double>",
        },
        source={"path": str(data)},
        columns={"keys": ["id"]},
    )
    settings["output"]["columns"] = "keys"
    settings["output"]["prediction"] = ["variety", "width"]

    result = score(settings, spark=spark)

    table = DeltaTable(result.location).to_pandas().sort_values("id")
    assert table["variety"].tolist() == expected["variety"].tolist()
    assert table["width"].tolist() == expected["petal width (cm)"].tolist()


def test_without_a_model_the_rows_are_stamped_with_the_script(spark: SparkSession, config: Make, write: Write) -> None:
    path = write("def run(rows):\n    return rows['a'] * 2\n")

    result = score(config(model={"entry_script": str(path), "result_type": "long"}, source={"rows": [{"a": 1}, {"a": 2}]}), spark=spark)

    table = DeltaTable(result.location).to_pandas().sort_values("a")
    assert table["prediction"].tolist() == [2, 4]
    assert result.model_uri == f"file://{path}"
    assert result.model_version.startswith("sha256:")


def test_a_registered_model_is_pinned_and_given_to_the_script(
    spark: SparkSession, config: Make, linear_uri: str, diabetes: pd.DataFrame, diabetes_path: Path, features: list[str], write: Write
) -> None:
    text = (
        "import os, mlflow\ndef init():\n    global model\n    model = mlflow.pyfunc.load_model(os.environ['LAKESCORE_MODEL_DIR'])\n"
        "def run(rows):\n    return model.predict(rows)\n"
    )
    settings = config(
        model={"uri": linear_uri, "entry_script": str(write(text)), "result_type": "double"},
        source={"path": str(diabetes_path)},
        columns={"labels": ["target"], "keys": ["id"]},
    )

    result = score(settings, spark=spark)

    table = DeltaTable(result.location).to_pandas().sort_values("id")
    np.testing.assert_allclose(table["prediction"], mlflow.pyfunc.load_model(linear_uri).predict(diabetes[features]), rtol=1e-12)
    assert table["model_uri"].unique().tolist() == ["models:/diabetes/1"]


# --- what fails


def test_a_failing_item_stops_the_job_with_the_scripts_own_line(
    spark: SparkSession, config: Make, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        "def run(rows):\n    for x in rows['a']:\n        if x == 7:\n            raise ValueError(f'cannot take {x}')\n"
        "    return rows['a']\n"
    )
    settings = config(
        model={"entry_script": str(path)},
        source={"rows": [{"a": i} for i in range(10)]},
        scoring={"mini_batch_size": "1", "partitions": 1},
    )

    with pytest.raises(ModelError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == "model.entry_script: score.py line 4: ValueError: cannot take 7 (a=7)"
    assert 'File "score.py", line 4, in run' in str(caught.value.__cause__)
    assert not list((tmp_path / "out").rglob("*.parquet"))
    (run,) = mlflow.MlflowClient(settings["tracking"]["tracking_uri"]).search_runs(
        [mlflow.get_experiment_by_name("lakescore").experiment_id], order_by=["attributes.start_time DESC"], max_results=1
    )
    assert (run.info.status, run.data.tags["lakescore.error"]) == ("FAILED", str(caught.value))


def test_the_traceback_is_shown_once_when_asked_for(
    write: Write, store: str, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("def run(rows):\n    raise KeyError('colour')\n")
    given = [
        f"model.entry_script={path}",
        "model.uri=null",
        "source.rows=[{a: 1}]",
        f"output.path={tmp_path}/out",
        f"tracking.tracking_uri={store}",
    ]

    code = main(["score", "--verbose", *given])

    shown = capsys.readouterr().err
    assert code == 3
    assert shown.count('File "score.py", line 2, in run') == 1
    assert shown.splitlines()[-1] == "lakescore: model.entry_script: score.py line 2: KeyError: 'colour' (a=1)"
    logging.getLogger("lakescore").handlers.clear()


def test_failed_items_are_counted_exactly_and_the_others_have_their_results(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped]
) -> None:
    made = shipped(
        "def run(rows):\n    if 13 in set(rows['id']): raise ValueError('13')\n    return rows['id'] + 1\n", mini_batch=(4, None)
    )

    df = entry_script.with_results(ids(spark, 20), made, ["id"], T.LongType(), "r")
    rows = {row["id"]: row for row in df.collect()}
    found = df.agg(*entry_script.summary(df, ["id"])).collect()[0].asDict()

    assert [i for i in range(20) if rows[i][ERROR] == "ValueError: 13"] == [12, 13, 14, 15]
    assert [rows[i]["r"] for i in range(20) if rows[i][ERROR] is None] == [i + 1 for i in range(20) if not 12 <= i <= 15]
    assert (found["failed"], found["fatal"]) == (4, 0)
    entry_script.refuse(found, "score.py", allowed=4)
    entry_script.refuse(found, "score.py", allowed=None)
    with pytest.raises(ModelError, match=r"score\.py line 2: ValueError: 13 \(id=12 and 3 more in its mini-batch\)$"):
        entry_script.refuse(found, "score.py", allowed=3)


def test_too_many_results_are_refused_whatever_may_fail(spark: SparkSession, config: Make, write: Write) -> None:
    path = write("def run(rows):\n    return [1] * (len(rows) + 1)\n")

    with pytest.raises(ModelError) as caught:
        score(config(model={"entry_script": str(path)}, source={"rows": [{"a": 1}, {"a": 2}]}, scoring={"partitions": 1}), spark=spark)

    assert str(caught.value) == (
        "model.entry_script: score.py: TooManyResults: run returned 3 result(s) for 2 item(s) (a=1 and 1 more in its mini-batch)"
    )


def test_a_hung_run_is_ended_and_the_job_goes_on(spark: SparkSession, shipped: Callable[..., entry_script.Shipped]) -> None:
    made = shipped(
        "import ctypes\ndef run(rows):\n    if 3 in set(rows['id']): ctypes.PyDLL(None).sleep(600)\n    return rows['id']\n",
        mini_batch=(1, None), timeout=1.0, max_try=2,
    )  # fmt: skip
    started = time.monotonic()

    rows = entry_script.with_results(ids(spark, 6), made, ["id"], T.LongType(), "r").collect()

    assert time.monotonic() - started < 40
    assert {row["id"]: row[ERROR] for row in rows if row[ERROR]} == {3: "TimeoutError: run took longer than 1 s"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_there\ndef run(x): pass\n", "score.py line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("def init():\n    1 / 0\ndef run(x): pass\n", "score.py line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_script_that_does_not_start_is_refused_before_any_row(
    spark: SparkSession, config: Make, write: Write, text: str, message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        score(config(model={"entry_script": str(write(text))}, source={"rows": [{"a": 1}]}), spark=spark)

    assert str(caught.value) == f"model.entry_script: {message}"


def test_a_script_without_run_is_refused_before_spark(config: Make, write: Write) -> None:
    with pytest.raises(ModelError, match=r"score\.py has no function run\(mini_batch\)"):
        score(config(model={"entry_script": str(write("def init(): pass"))}, source={"rows": [{"a": 1}]}))


def test_a_missing_side_input_is_refused(spark: SparkSession, config: Make, write: Write, tmp_path: Path) -> None:
    settings = config(
        model={"entry_script": str(write("def run(x): pass")), "side_inputs": {"ref": str(tmp_path / "ref")}}, source={"rows": [{"a": 1}]}
    )

    with pytest.raises(InputError, match=r"^model\.side_inputs\.ref: .*/ref does not exist$"):
        score(settings, spark=spark)


# --- partition keys, types, shipping


def test_all_rows_of_a_key_are_one_call_that_can_read_it(spark: SparkSession, shipped: Callable[..., entry_script.Shipped]) -> None:
    text = (
        "def run(rows, mini_batch_context):\n"
        "    key = mini_batch_context.partition_key_value\n"
        "    assert set(rows['store']) == {key['store']} and set(rows['brand']) == {key['brand']}\n"
        "    return [f\"{key['store']}/{key['brand']}: {len(rows)}\"] * len(rows)\n"
    )
    made = shipped(text, partition_keys=("store", "brand"))
    data = [(store, brand, i) for i, (store, brand) in enumerate([("a", 1)] * 5 + [("a", 2)] * 3 + [("b", 1)] * 4)]
    df = spark.createDataFrame(data, "store string, brand int, i int").repartition(3)

    rows = entry_script.with_results(df, made, ["store", "brand", "i"], T.StringType(), "r").collect()

    assert sorted({row["r"] for row in rows}) == ["a/1: 5", "a/2: 3", "b/1: 4"]
    assert sorted(row["i"] for row in rows) == list(range(12))
    assert {row[ERROR] for row in rows} == {None}


def test_times_pass_unchanged_by_key_in_a_session_of_another_zone(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped]
) -> None:
    df = spark.sql("SELECT id % 2 AS k, timestamp_seconds(1700000000 + id) AS at FROM range(4)")
    zone = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
        made = shipped("def run(rows):\n    return list(rows['at'].dt.strftime('%H:%M:%S'))\n", partition_keys=("k",))
        answered = entry_script.with_results(df, made, ["k", "at"], T.StringType(), "r")
        rows = answered.select(F.unix_seconds("at").alias("at"), "r").sort("at").collect()
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)

    assert [tuple(row) for row in rows] == [(1_700_000_000 + i, f"23:13:2{i}") for i in range(4)]


def test_a_replay_gives_the_script_the_files_again(spark: SparkSession, config: Make, write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i} é.txt").write_text(str(i) if i != 3 else "three")
    settings = config(
        run={"batch_id": "b"},
        model={"entry_script": str(write("def run(paths):\n    return [int(open(path).read()) * 2 for path in paths]\n"))},
        source={"path": str(folder), "format": "binary"},
        scoring={"mini_batch_size": 1, "run_max_try": 1},
        errors={"on_row_error": "quarantine"},
    )

    first = score(settings, spark=spark)
    (folder / "3 é.txt").write_text("3")
    second = replay(settings, spark=spark)

    assert (first.rows_scored, first.rows_quarantined) == (4, 1)
    assert (second.batch_id, second.rows_scored, second.rows_quarantined) == ("b.replay", 1, 0)
    rows = spark.read.format("delta").load(first.location).select("path", "prediction").sort("path").collect()
    assert [tuple(row) for row in rows] == [(f"{folder}/{i} é.txt", str(i * 2)) for i in range(5)]


def test_an_unknown_partition_key_is_refused(spark: SparkSession, shipped: Callable[..., entry_script.Shipped]) -> None:
    made = shipped("def run(x): pass", partition_keys=("ids",))

    with pytest.raises(ModelError, match=r"^scoring\.partition_keys: there is no column 'ids'\. Did you mean 'id'\?$"):
        entry_script.with_results(ids(spark, 1), made, ["id"], T.LongType(), "r")


def test_rows_pass_unchanged_and_the_script_sees_sparks_own_pandas_types(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped]
) -> None:
    sql = (
        "SELECT 1 AS a, CAST(NULL AS INT) AS b, 1.50 AS c, DATE'2026-01-31' AS d, TIMESTAMP'2026-01-31 12:00:00' AS e, ARRAY(1, 2) AS f, "
        "NAMED_STRUCT('g', 'x') AS h, CAST('z' AS BINARY) AS i, 'ä' AS `odd name`"
    )
    df = spark.sql(sql)
    made = shipped("def run(rows):\n    return [repr(list(rows.iloc[0])) + str(dict(rows.dtypes))]\n")

    (row,) = entry_script.with_results(df, made, df.columns, T.StringType(), "r").collect()

    assert row.asDict(recursive=True) == {**df.collect()[0].asDict(recursive=True), "r": row["r"], ERROR: None, FAILURE: None}
    for shown in ("datetime.date(2026, 1, 31)", "Decimal('1.50')", "Timestamp('2026-01-31 12:00:00')", "{'g': 'x'}", "b'z'", "dtype('<M8["):
        assert shown in row["r"]


@pytest.mark.parametrize("keys", [(), ("petal.width",)])
def test_columns_may_have_dots_and_backticks(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped], keys: tuple[str, ...]
) -> None:
    made = shipped("def run(rows):\n    return rows['petal.width'] + rows['a`b']\n", partition_keys=keys)
    df = spark.createDataFrame([(1.5, 2.0), (3.5, 4.0)], "`petal.width` double, `a``b` double")

    rows = entry_script.with_results(df, made, df.columns, T.DoubleType(), "r").collect()

    assert sorted((row["petal.width"], row["a`b"], row["r"], row[ERROR]) for row in rows) == [(1.5, 2.0, 3.5, None), (3.5, 4.0, 7.5, None)]


@pytest.mark.parametrize(
    ("columns", "lines"), [({}, ["2", "4"]), ({"columns": "keys"}, ["x: 2", "y: 4"]), ({"columns": ["a"]}, ["1: 2", "2: 4"])]
)
def test_append_row_has_what_run_returned_unless_columns_are_listed(
    spark: SparkSession, config: Make, write: Write, tmp_path: Path, columns: dict[str, Any], lines: list[str]
) -> None:
    settings = config(
        model={"entry_script": str(write("def run(rows):\n    return rows['a'] * 2\n"))},
        source={"rows": [{"id": "x", "a": 1}, {"id": "y", "a": 2}]},
        columns={"keys": ["id"]},
        output={"path": str(tmp_path / "lines"), "format": "append_row", **columns},
    )

    result = score(settings, spark=spark)

    assert sorted(Path(result.location).read_text().splitlines()) == lines


def test_the_workers_need_no_lakescore(shipped: Callable[..., entry_script.Shipped]) -> None:
    made = shipped("def run(rows):\n    return rows['id']\n")
    job = {
        **made.job, "names": ["id"],
        "path": None, "features": ["id"], "items": 2, "bytes": None, "result": "r", "error": "e", "failure": "f",
        "shape": "text", "result_name": "string", "result_type": pa.string(),
    }  # fmt: skip
    code = (
        "import pickle, sys\nsys.modules['lakescore'] = None\nimport pyarrow as pa\n"
        "task = pickle.loads(sys.stdin.buffer.read())\n"
        "print([b.to_pylist()[0]['r'] for b in task(iter([pa.RecordBatch.from_pydict({'id': [1, 2, 3]})]))])\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code], input=cloudpickle.dumps(entry_script._on_worker(job, "map_batches")), capture_output=True, check=False
    )

    assert answer.stdout.decode() == "['1', '3']\n", answer.stderr.decode()


def test_the_processes_end_after_the_job(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shipped("import os\ndef run(rows):\n    return [os.getpid()] * len(rows)\n")
    df = entry_script.with_results(ids(spark, 10, 2), made, ["id"], T.LongType(), "pid")
    found = {row["pid"] for row in df.collect()}

    end = time.monotonic() + script_runner.IDLE + 5
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in found):
        time.sleep(0.2)

    assert [pid for pid in found if Path(f"/proc/{pid}").exists()] == []


def test_no_more_processes_run_at_once_than_configured(
    spark: SparkSession, shipped: Callable[..., entry_script.Shipped], tmp_path: Path
) -> None:
    text = "import time\ndef run(rows):\n    start = time.time()\n    time.sleep(0.3)\n    return [[start, time.time()]] * len(rows)\n"
    made = shipped(text, processes=1, mini_batch=(1, None))

    rows = entry_script.with_results(ids(spark, 8, 4), made, ["id"], T.ArrayType(T.DoubleType()), "times").collect()

    times = sorted(tuple(row["times"]) for row in rows)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


# --- reuse


def test_a_cast_of_all_features_is_one_of_a_scripts_too(spark: SparkSession, config: Make, write: Write, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,a,b,c\n7,1,2,x\n")
    path = write("def run(rows):\n    return rows['a'] + rows['b']\n")
    settings = config(
        model={"entry_script": str(path), "result_type": "double"},
        source={"path": str(tmp_path / "in.csv")},
        columns={"keys": ["id"], "drop": ["c"], "cast": {"*": "double", "b": "int"}},
    )

    (row,) = DeltaTable(score(settings, spark=spark).location).to_pyarrow_table().to_pylist()

    assert {name: row[name] for name in ("id", "a", "b", "prediction")} == {"id": "7", "a": 1.0, "b": 2, "prediction": 3.0}


def test_the_same_input_script_and_settings_return_the_earlier_output(
    spark: SparkSession, config: Make, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "in" / "x.parquet")
    path = write("def run(rows):\n    open(__file__ + '.ran', 'a').write('x')\n    return rows['a']\n")
    settings = config(model={"entry_script": str(path)}, source={"path": str(tmp_path / "in")}, scoring={"allow_reuse": True})

    first, second = score(settings, spark=spark), score(settings, spark=spark)

    assert (first.outcome, second.outcome) == ("scored", "reused")
    assert (second.run_id, second.batch_id, second.rows_written) == (first.run_id, first.batch_id, 2)
    assert DeltaTable(first.location).to_pandas().shape[0] == 2
    write("def run(rows):\n    return rows['a'] + 1\n")
    assert score(settings, spark=spark).outcome == "scored"


def test_another_input_or_a_lost_output_is_scored_again(spark: SparkSession, config: Make, write: Write, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "in" / "x.parquet")
    path = write("def run(rows):\n    return rows['a']\n")
    settings = config(model={"entry_script": str(path)}, source={"path": str(tmp_path / "in")}, scoring={"allow_reuse": True})
    first = score(settings, spark=spark)

    shutil.rmtree(first.location)
    lost = score(settings, spark=spark)
    pd.DataFrame({"a": [3]}).to_parquet(tmp_path / "in" / "y.parquet")
    other = score(settings, overrides=[f"run.batch_id={lost.batch_id}", "run.on_rerun=replace"], spark=spark)
    (tmp_path / "in" / "y.parquet").unlink()
    replaced = score(settings, spark=spark)

    assert (lost.outcome, other.outcome, replaced.outcome) == ("scored", "scored", "scored")
    assert (other.rows_written, replaced.rows_written) == (3, 2)
