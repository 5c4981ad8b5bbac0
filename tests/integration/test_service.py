"""The service as users start it: a process of its own, real runs of a real model, and its client."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from deltalake import DeltaTable

from lakescore import read
from lakescore.drift.statistics import ColumnStatistics, Histogram, Statistics
from lakescore.service import processes
from lakescore.service.store import text_of
from serving import Site

LAKESCORE = [sys.executable, "-m", "lakescore"]
JOB = Path(__file__).parents[2] / "jobs" / "score.py"
Start = Callable[..., Site]


@pytest.fixture
def folder(tmp_path: Path, store: str, linear_uri: str, diabetes_path: Path) -> Path:
    """A pipeline `diabetes`, whose batches have all drifted, and a token."""
    histogram = Histogram((100.0, 101.0, 102.0), (5, 5), 0, 0)
    bmi = ColumnStatistics(role="feature", type="double", count=10, nulls=0, histogram=histogram, mean=101.0, std=0.5)
    (tmp_path / "reference.json").write_text(Statistics(10, {"bmi": bmi}).to_json(), encoding="utf-8")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "diabetes.yaml").write_text(
        f"""
model: {{uri: {linear_uri}}}
source: {{path: {diabetes_path}}}
output: {{path: {tmp_path}/out}}
tracking: {{tracking_uri: "{store}"}}
spark: {{backend: embedded}}
drift: {{reference: {tmp_path}/reference.json}}
service: {{allow: [run.date, source.path, columns]}}
""",
        encoding="utf-8",
    )
    answer = subprocess.run(
        [*LAKESCORE, "serve", "token", "--name", "tester", "--role", "run"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    (tmp_path / "token").write_text(answer.stdout)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start `lakescore serve` on a free port."""
    services: list[subprocess.Popen[str]] = []

    def make(*options: str) -> Site:
        command = [*LAKESCORE, "serve", "--pipelines", "pipelines", "--port", "0", *options]
        service = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        services.append(service)
        assert service.stdout is not None
        line = service.stdout.readline()
        assert line.startswith("lakescore serve: http://127.0.0.1:"), line

        def close() -> None:
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0

        return Site(int(line.rsplit(":", 1)[1]), (folder / "token").read_text().strip(), close=close)

    yield make
    for service in services:
        service.kill()
        service.wait()
    for run in folder.glob("service-state/runs/*/*"):
        if (process := processes.at_work(run)) is not None:
            process.end()


def test_a_pipeline_is_posted_runs_through_a_restart_and_its_predictions_are_read(
    start: Start, folder: Path, store: str, diabetes: pd.DataFrame, diabetes_path: Path
) -> None:
    site = start()
    run_id = site.run("diabetes", {"run.date": "2026-01-31", "source.path": f"{diabetes_path}/part-0.parquet"}).json["id"]
    waiting = site.run("diabetes", {"run.date": "2026-02-28"}).json["id"]
    site.until(run_id, lambda run: run["mlflow_run_id"] is not None)

    site.close()
    second = start()
    run, rest = second.until_ended(run_id), second.until_ended(waiting)

    assert (run["status"], run["attempt"], run["exit_code"]) == ("succeeded", 1, 0), run
    assert run["rows"] == {"read": 148, "scored": 148, "written": 148, "quarantined": 0}
    assert (run["model_uri"], run["model_version"], run["output"]) == ("models:/diabetes/1", "1", f"{folder}/out")
    assert {"model", "score", "publish"} <= set(run["stages"])
    rows = read(run["mlflow_run_id"], tracking_uri=store)
    assert len(rows) == 148
    assert set(rows["batch_id"]) == {run["batch_id"]}
    assert rows["score_date"].astype(str).unique().tolist() == ["2026-01-31"]
    assert (rest["status"], rest["rows"]["written"]) == ("succeeded", len(diabetes))
    assert len(DeltaTable(folder / "out").to_pandas()) == 148 + len(diabetes)
    assert (run["drift"]["status"], run["drift"]["worst"]) == ("detected", "bmi")
    left = folder / "service-state" / "runs" / run_id / "1"
    assert len((processes.read_json(left / "first_rows.json") or {})["rows"]) == 10
    # The page shows what there is.
    assert "bmi" in second.get(f"/ui/runs/{run_id}/drift").text
    page = second.get(f"/ui/runs/{run_id}")
    assert page.status == 200
    assert "<bdi>prediction</bdi>" in page.text
    assert " INFO lakescore.pipeline: score: 148 rows" in page.text


def _ask_state(folder: Path, sql: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "service-state" / "state.db")) as state, state:
        return state.execute(sql, values).fetchall()


def test_a_cron_pipeline_ticks_twice_and_leaves_two_batches(start: Start, folder: Path) -> None:
    file = folder / "pipelines" / "diabetes.yaml"
    service = "service: {schedule: {cron: '* * * * *', catch_up: all, overlap: queue}}"
    file.write_text(file.read_text().replace("service: {allow: [run.date, source.path, columns]}", service))
    site = start()
    while not _ask_state(folder, "SELECT 1 FROM ticks"):
        time.sleep(0.05)
    site.close()
    # As if the service had been away for two ticks.
    now = datetime.now(timezone.utc).replace(second=0, microsecond=0)
    due = [now - timedelta(minutes=1), now]
    _ask_state(folder, "UPDATE ticks SET last = ?", text_of(due[0] - timedelta(seconds=1)))

    second = start("--concurrency", "2")
    deadline, runs = time.monotonic() + 180, []
    while len(runs) < 2 or not all(run["ended_at"] for run in runs):
        runs = second.get("/runs?pipeline=diabetes").json["runs"][-2:]
        assert time.monotonic() < deadline, runs
        time.sleep(0.1)

    batches = [f"diabetes-{tick:%Y%m%dT%H%M%SZ}" for tick in due]
    assert [(run["status"], run["batch_id"], run["trigger"]) for run in runs] == [("succeeded", one, "schedule") for one in batches[::-1]]
    # One after the other: overlap is queue.
    assert runs[1]["ended_at"] <= runs[0]["started_at"]
    rows = DeltaTable(folder / "out").to_pandas().groupby("batch_id").size()
    assert rows[batches].tolist() == [442, 442]


def test_the_client_ends_with_the_runs_exit_code_and_its_line(start: Start, folder: Path) -> None:
    site = start()
    environment = {**os.environ, "LAKESCORE_TOKEN": str(site.token)}

    def trigger(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*LAKESCORE, "trigger", site.url, "diabetes", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False)

    wrong = trigger("--wait", "columns.keys=[nobody]")
    refused = trigger("model.uri=x")

    assert wrong.returncode == 4, wrong.stderr
    assert "nobody" in wrong.stderr.strip().splitlines()[-1]
    assert (refused.returncode, refused.stderr) == (
        2,
        "lakescore: the service refuses with 403: model.uri: callers of the pipeline diabetes may not set it; service.allow has run.date, "
        "source.path, columns\n",
    )


def test_a_run_that_is_cancelled_publishes_nothing(start: Start, folder: Path) -> None:
    site = start("--end-runs", "--grace", "10")
    run_id = site.run("diabetes").json["id"]
    site.until(run_id, lambda run: run["mlflow_run_id"] is not None)

    assert site.ask("POST", f"/runs/{run_id}/cancel").status == 202
    run = site.until_ended(run_id)

    assert run["status"] == "cancelled", run
    assert not (folder / "out" / "_delta_log").exists()


@pytest.mark.long
def test_a_pipeline_is_submitted_to_spark_and_cancelled_with_it(start: Start, folder: Path, store: str) -> None:
    file = folder / "pipelines" / "diabetes.yaml"
    service = "service: {command: spark-submit, submit_options: [--master, 'local[1]', --name, nightly]}"
    text = file.read_text().replace("spark: {backend: embedded}\n", "")
    file.write_text(text.replace("service: {allow: [run.date, source.path, columns]}", service))
    site = start("--job", str(JOB), "--grace", "20")

    first = site.run("diabetes").json["id"]
    second = site.run("diabetes").json["id"]
    done = site.until_ended(first)
    site.until(second, lambda run: run["mlflow_run_id"] is not None)
    assert site.ask("POST", f"/runs/{second}/cancel").status == 202
    cancelled = site.until_ended(second)

    assert (done["status"], done["exit_code"], done["rows"]["written"]) == ("succeeded", 0, 442), done
    run = mlflow.MlflowClient(store).get_run(done["mlflow_run_id"])
    assert run.data.params["spark.backend"] == "spark"
    assert cancelled["status"] == "cancelled", cancelled
    assert mlflow.MlflowClient(store).get_run(cancelled["mlflow_run_id"]).info.status == "KILLED"
    assert DeltaTable(folder / "out").to_pandas()["batch_id"].unique().tolist() == [done["batch_id"]]
    process = processes.at_work(folder / "service-state" / "runs" / second / "1")
    assert process is not None
    assert not process.is_alive()


def _score(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAKESCORE, "score", "--config", "pipelines/diabetes.yaml", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_what_a_run_that_fails_answers_is_left_as_files(folder: Path) -> None:
    (folder / "b").mkdir()

    bad = _score(["--result", "b", "drift.on_drift=fail"], folder)
    nowhere = _score(["--result", "nowhere"], folder)
    dry = _score(["--result", "b", "--dry-run"], folder)

    error: dict[str, Any] = processes.read_json(folder / "b" / "result.json") or {}
    assert (bad.returncode, error["exit_code"], len(error["run_id"])) == (6, 6, 32)
    assert bad.stderr.strip().splitlines()[-1] == f"lakescore: {error['error']}"
    assert "bmi" in (folder / "b" / "drift_table_plot.html").read_text(encoding="utf-8")
    assert (nowhere.returncode, nowhere.stderr) == (2, "lakescore: --result: nowhere is no folder that exists\n")
    assert (dry.returncode, dry.stderr) == (2, "lakescore: --result: is what a run leaves, and --dry-run makes none\n")
