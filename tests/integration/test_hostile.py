"""Whatever is wrong, or made to do harm: one line that names it, the right exit code, nothing written, and no secret anywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from itertools import cycle
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from integration import hostile_driver
from integration.hostile_cases import COLUMNS, CONFIGURATION, FILES, MODELS, OUTPUTS, ROWS, SECRET, TEXTS, Case, Place, rows
from lakescore import read, score
from lakescore.cli import main
from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.sinks import Batch
from lakescore.sinks.parquet import ParquetSink
from lakescore.storage import Location

ROOT = Path(__file__).parents[2]
SINKS = ("delta", "parquet")
CASES = {case.name: case for case in (*CONFIGURATION, *MODELS, *FILES, *COLUMNS, *OUTPUTS)}
# What cannot be told, or done, without Spark.
NEEDS_SPARK = [
    "a log of a Delta table that is cut",
    "a column twice",
    "columns that differ by case",
    "lists where numbers belong",
    "no rows",
]
# Of each kind of fault those that take another way there.
ON_SPARK = [
    *NEEDS_SPARK, "a model that raises", "a model that forks", "a model that writes to its output", "a model that raises no Exception",
    "a model whose error has no text", "a model that exits at load", "pages of zeros", "days and times far away", "names of all kinds",
]  # fmt: skip
# What depends on the sink goes into both; of all else every second one into each.
IN_BOTH = {case.name for case in OUTPUTS} | {
    "a model that raises",
    "a model that kills its process",
    "pages of zeros",
    "names of all kinds",
}
RUNS = [(name, sink) for i, name in enumerate(CASES) for j, sink in enumerate(SINKS)
        if name not in NEEDS_SPARK and (name in IN_BOTH or i % 2 == j)]  # fmt: skip
WAYS = (("fast", "delta"), ("spark_udf", "parquet"), ("fast", "parquet"), ("spark_udf", "delta"))
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+ (INFO|WARNING) lakescore")
NOISE = re.compile(r"Traceback|^\s+at |Py4J|java\.|org\.apache|\.scala|pyarrow\.lib|\[/?lakescore", re.MULTILINE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice x, by code of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_model.py").write_text(
        "class Model:\n    def predict(self, frame, params=None):\n        return frame['x'] * 2\n\n\n"
        "def _load_pyfunc(path):\n    return Model()\n"
    )
    (folder / "data").write_text("")
    signature = ModelSignature(Schema([ColSpec("double", "x"), ColSpec("double", "y")]), Schema([ColSpec("double")]))
    mlflow.pyfunc.save_model(
        folder / "model",
        loader_module="hostile_model",
        data_path=str(folder / "data"),
        code_paths=[str(folder / "hostile_model.py")],
        signature=signature,
        pip_requirements=[],
    )
    return folder / "model"


def _place(folder: Path, model: Path, sink: str) -> Place:
    folder.mkdir(parents=True)
    pq.write_table(rows(), folder / "good.parquet")
    return Place(folder, model, folder / "good.parquet", folder / "out", sink)


def _argv(place: Place, store: str, overrides: list[str], *more: str) -> list[str]:
    (place.folder / "empty.yaml").write_text("{}")
    given = dict(one.split("=", 1) for one in overrides if not one.startswith("-") and "=" in one)
    path = [] if "output.table" in given else [f"output.path={place.output}"]
    return [
        "score", "--config", str(place.folder / "empty.yaml"), f"model.uri={place.model}", f"source.path={place.source}", *path,
        f"output.format={place.sink}", f"tracking.tracking_uri={store}", f"run.batch_id={place.folder.name}", *more, *overrides,
    ]  # fmt: skip


def _run_all(folder: Path, commands: dict[str, Any], *how: str) -> dict[str, Any]:
    """What the driver says of commands, in a process of its own, in which there is no session."""
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    (folder / "cases.json").write_text(json.dumps(commands))
    driver = [sys.executable, hostile_driver.__file__, str(folder / "cases.json"), str(folder / "results.json"), *how]
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch), "LAKESCORE_TEST_PASSWORD": f"{SECRET}-env"}
    done = subprocess.run(driver, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def without_spark(tmp_path_factory: pytest.TempPathFactory, store: str, model: Path) -> dict[str, Any]:
    """What every case did, into both sinks."""
    folder, commands = tmp_path_factory.mktemp("cases"), {}
    for number, (name, sink) in enumerate(RUNS):
        place = _place(folder / f"{sink}-{number}", model, sink)
        overrides = CASES[name].make(place)
        output = next((one.partition("=")[2] for one in reversed(overrides) if one.startswith("output.path=")), str(place.output))
        commands[f"{sink}: {name}"] = {"argv": _argv(place, store, overrides, "spark.backend=embedded"), "output": output}
    return dict(_run_all(folder, commands, "warm")["runs"])


def _check(case: Case, done: dict[str, Any]) -> None:
    """What holds for every fault."""
    lines = done["err"].splitlines()
    assert done["code"] == case.code, done["err"]
    assert SECRET not in done["err"] + done["out"]
    ours = [line for line in lines if line.startswith("lakescore: ")]
    if case.code == 0:
        assert ours == []
        assert "noise" not in done["out"]
        return
    assert done["out"] == ""
    assert ours == lines[-1:], done["err"]
    assert case.says in ours[0].replace("`", "'")
    assert len(ours[0]) < 4_200
    assert ours[0].isprintable()
    assert not NOISE.search(done["err"]), done["err"]
    assert [line for line in lines[:-1] if not LOG_LINE.match(line)] == []
    assert done["after"] == done["before"], "something was written, or is left"
    assert done["left"] == []


@pytest.mark.parametrize(("name", "sink"), RUNS)
def test_without_spark(name: str, sink: str, without_spark: dict[str, Any]) -> None:
    done = without_spark[f"{sink}: {name}"]
    _check(CASES[name], done)
    if CASES[name].code == 0:
        assert re.search(rf"^rows: +{ROWS}\b", done["out"], re.MULTILINE), done["out"]


@pytest.fixture(scope="module", autouse=True)
def _without_pysparks_own_words() -> Iterator[None]:
    """What `session.py` does for a session of our own; here it is the suite's."""
    loggers = [PySparkLogger.getLogger(name) for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger")]
    before = [one.disabled for one in loggers]
    for one in loggers:
        one.disabled = True
    yield
    for one, disabled in zip(loggers, before, strict=True):
        one.disabled = disabled


def _in_process(case: Case, place: Place, store: str, capfd: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """The same with the session of the suite, whose JVM writes to another stderr."""
    overrides = case.make(place)
    before = hostile_driver.tree(str(place.output))
    capfd.readouterr()
    code = main(_argv(place, store, overrides, *more))
    streams = capfd.readouterr()
    return {
        "code": code,
        "out": streams.out,
        "err": streams.err,
        "before": before,
        "after": hostile_driver.tree(str(place.output)),
        "left": [],
    }


@pytest.mark.parametrize(("name", "engine", "sink"), [(name, *way) for name, way in zip(ON_SPARK, cycle(WAYS), strict=False)])
def test_where_rows_pass_spark(
    name: str, engine: str, sink: str, spark: SparkSession, store: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = _place(tmp_path / "case", model, sink)
    done = _in_process(CASES[name], place, store, capfd, f"scoring.engine={engine}", "scoring.partitions=1")
    _check(CASES[name], done)
    if done["code"] == 0:
        assert len(read(str(place.output))) == (0 if name == "no rows" else ROWS)


@pytest.mark.parametrize(("case", "sink"), zip(TEXTS, cycle(SINKS), strict=False), ids=lambda one: getattr(one, "name", one))
def test_what_only_spark_reads(
    case: Case, sink: str, spark: SparkSession, store: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _check(case, _in_process(case, _place(tmp_path / "case", model, sink), store, capfd))


# --- the run's record


def test_the_record_of_a_run_that_failed_has_its_line(without_spark: dict[str, Any], store: str) -> None:
    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'lakescore'")
    lines = {run.data.tags.get("lakescore.error") for run in client.search_runs([experiment.experiment_id], max_results=5000)}
    said = [done["err"].splitlines()[-1] for name, done in without_spark.items() if done["code"] in (3, 4, 5)]
    assert [line for line in said if line.removeprefix("lakescore: ") not in lines] == []


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("backend", ["embedded", "spark"])
def test_no_secret_is_left_anywhere(backend: str, model: Path, tmp_path: Path) -> None:
    """A run that succeeds, and two that fail, with secrets in every place where people put them."""
    place = _place(tmp_path / "case", model, "delta")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    everywhere = [
        "run.name=nightly ${oc.env:LAKESCORE_TEST_PASSWORD}",
        f"tracking.tags={{api_token: {SECRET}, note: 'see https://user:{SECRET}@host/x'}}",
        "columns.labels=[]",
        "run.batch_id=b",
    ]
    if backend == "spark":
        everywhere += [
            "spark.backend=spark", "spark.master=local[1]", f"spark.conf.spark.hadoop.fs.s3a.secret.key={SECRET}",
            f"spark.conf.spark.hadoop.x=https://user:{SECRET}@host", "spark.conf.spark.hadoop.y=${oc.env:LAKESCORE_TEST_PASSWORD}",
        ]  # fmt: skip
    runs = {
        "good": [],
        "model": [f"model.uri=s3://AKIA:{SECRET}@127.0.0.1:9/model", "run.batch_id=c"],
        "source": [f"source.path=https://host/x.parquet?sv=1&sig={SECRET}", "run.batch_id=d"],
        "raises": [place.model_that(f"raise ValueError('https://user:{SECRET}@host and token={SECRET}')"), "run.batch_id=e"],
    }
    commands = {name: {"argv": _argv(place, store, [*everywhere, *more]), "output": str(place.output)} for name, more in runs.items()}
    found = _run_all(tmp_path / "driver", commands)
    assert {name: done["code"] for name, done in found["runs"].items()} == {"good": 0, "model": 2, "source": 4, "raises": 3}, found["runs"]
    assert len(found["commands"]) > 1
    for done in found["runs"].values():
        assert SECRET not in done["out"] + done["err"]
    # The driver's own command line and its list of cases are ours; what its processes were started with is not.
    assert [command for command in found["commands"] if SECRET in command] == []
    assert SECRET.encode() not in _bytes_below(place.output)
    for path in [tmp_path / "mlflow.db", *(tmp_path / "driver").rglob("mlruns/**/*"), *tmp_path.rglob("artifacts/**/*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert any("nightly ***" in str(path.read_bytes()) for path in tmp_path.rglob("config.yaml"))


# --- dates

ZONES = ("Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu")


def _around_midnight() -> list[datetime]:
    """Moments around midnight and around each change of the clocks, in years when zones still had it at midnight."""
    days = [
        datetime(2018, 11, 4, tzinfo=timezone.utc),
        datetime(2011, 12, 30, tzinfo=timezone.utc),
        datetime(2026, 3, 29, tzinfo=timezone.utc),
        datetime(2026, 10, 25, tzinfo=timezone.utc),
        datetime(1, 1, 3, tzinfo=timezone.utc),
        datetime(9999, 12, 29, tzinfo=timezone.utc),
    ]
    offsets = [timedelta(hours=hours, microseconds=micro) for hours in range(-26, 26) for micro in (-1, 0, 1)]
    return [day + offset for day in days for offset in offsets]


@pytest.mark.parametrize(("zone", "sink"), zip(ZONES, cycle(SINKS), strict=False))
def test_a_date_expression_gives_the_day_that_it_was_there(
    zone: str, sink: str, spark: SparkSession, config: Callable[..., dict[str, Any]], model: Path, tmp_path: Path
) -> None:
    moments = [moment for moment in _around_midnight() if 1900 < moment.year < 2100]
    table = pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC")), "x": [1.0] * len(moments), "y": [1.0] * len(moments)})
    pq.write_table(table, tmp_path / "in.parquet")
    settings = config(model={"uri": str(model)}, source={"path": str(tmp_path / "in.parquet")})
    settings["output"] |= {"format": sink, "partition_by": f"to_date(from_utc_timestamp(at, '{zone}'))"}
    found = read(score(settings, spark=spark))
    there = zoneinfo.ZoneInfo(zone)
    at = found["at"].dt.tz_localize("UTC") if found["at"].dt.tz is None else found["at"]
    assert sorted(zip(at, found["score_date"], strict=True)) == sorted((one, one.astimezone(there).date()) for one in moments)


# --- batches in folders' names

TRICKY = [
    "2026-01", "2026-1-5", "2026-01-31", "2026-01-31T10", "2026-01-31Tx", "2026-13", "2026-01-32", "12026-01-31", "0.0001", "0.001",
    "1.5", "20260131.5", "1234567.5", "1.5e-07", "1e-07", "1E5", "20260131", "007", "1.0", "0x1p3", "7d", "1_000", "nan", "NaN",
    "Infinity", "inf", "1+1", "12:30", "2026-01-31T10:00:00Z", "99999999999999999999", "true", "null", "a=b",
    "111111111111111111111111111111111111111", "20260131T100000Z-0a1b2c3d", "2026-01-31@a", "1.", "1e400", "2026-W05", "2026-01-31-a",
]  # fmt: skip


def test_spark_reads_back_every_batch_that_a_parquet_table_takes(spark: SparkSession, tmp_path: Path) -> None:
    taken = []
    for number, batch_id in enumerate(TRICKY):
        output = OutputConfig(path=str(tmp_path / f"{number}"), format="parquet")
        try:
            sink = ParquetSink(output, Batch(batch_id, "run", date(2026, 1, 31), "skip"))
        except OutputError:
            continue
        root = Location.of(str(tmp_path / f"{number}"))
        assert root is not None
        folder = Path(sink._own_partition(root).path)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": [1]}), folder / "part-0.parquet")
        found = spark.read.parquet(str(tmp_path / f"{number}")).first()
        assert found is not None
        assert str(found["batch_id"]) == batch_id
        taken.append(batch_id)
    assert {"2026-01-31", "1.5", "20260131", "12:30", "true", "a=b", "20260131T100000Z-0a1b2c3d"} <= set(taken)


# --- memory


def test_what_compresses_well_does_not_fill_the_memory(model: Path, store: str, tmp_path: Path) -> None:
    """Row groups of one value, a few kilobytes in the file, that unfold to hundreds of megabytes."""
    place = _place(tmp_path / "case", model, "parquet")
    one = pa.array(["x" * 10_000])
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), one)
    numbers = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000_000, np.int32)), pa.array([1.5]))
    wide = place.table(pa.table({"x": [1.0] * 50_000, "y": [1.0] * 50_000, "text": text}), "text/a.parquet", row_group_size=50_000)
    long = place.table(pa.table({"x": numbers, "y": numbers, "z": numbers}), "long/a.parquet", row_group_size=10_000_000)
    commands = {path.name: {"argv": _argv(place, store, [f"source.path={path}", f"output.path={path}-out", "spark.backend=embedded"]),
                            "output": f"{path}-out"} for path in (wide, long)}  # fmt: skip
    found = _run_all(tmp_path / "driver", commands)
    assert [done["code"] for done in found["runs"].values()] == [0, 0], [done["err"][-600:] for done in found["runs"].values()]
    assert found["megabytes"] < 1_500
