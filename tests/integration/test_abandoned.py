"""MLflow runs that a crash left RUNNING are ended by the next run of their batch, with what became of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from pyspark.sql import SparkSession

from lakescore import ScoreResult, own_process, score, tracking
from lakescore.compose import compose

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(config: Make, linear_uri: str, diabetes_path: Path) -> dict[str, Any]:
    return config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"batch_id": "a", "date": "2026-01-31"})


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(store)


@pytest.fixture(scope="session")
def dead() -> str:
    """The pid of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    return str(ended.pid)


def _left_running(client: MlflowClient, run_id: str, pid: str) -> None:
    """As a kill -9 behind the commit leaves a run."""
    client.set_tag(run_id, own_process.PID, pid)
    client.update_run(run_id, "RUNNING")


def _begun(client: MlflowClient, settings: dict[str, Any], **changed: str) -> str:
    """As a kill -9 while scoring leaves a run."""
    experiment = client.get_experiment_by_name("lakescore")
    tags = {**tracking._tags(compose((), (), settings)), **changed}
    return str(client.create_run(experiment.experiment_id, tags=tags).info.run_id)


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_a_run_that_has_published_is_finished_with_its_rows(
    spark: SparkSession, settings: dict[str, Any], client: MlflowClient, dead: str, output_format: str
) -> None:
    settings["output"]["format"] = output_format
    first = score(settings, spark=spark)
    _left_running(client, first.run_id, dead)
    client.log_metric(first.run_id, "rows_written", 0)

    second = score(settings, spark=spark)

    run = client.get_run(first.run_id)
    assert second.outcome == "skipped"
    assert (run.info.status, run.data.metrics["rows_written"], run.data.tags["lakescore.outcome"]) == ("FINISHED", 442, "scored")
    assert run.data.tags["lakescore.ended"].endswith("ended without a word, after its batch was published")
    assert run.info.end_time is not None


def test_a_run_that_has_published_a_file_is_finished(
    spark: SparkSession, settings: dict[str, Any], client: MlflowClient, dead: str, tmp_path: Path
) -> None:
    settings["output"] = {"path": str(tmp_path / "lines"), "format": "jsonl"}
    first = score(settings, spark=spark)
    _left_running(client, first.run_id, dead)

    score(settings, spark=spark)

    assert client.get_run(first.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
def test_a_run_that_has_published_nothing_is_killed(
    spark: SparkSession, settings: dict[str, Any], client: MlflowClient, dead: str, output_format: str
) -> None:
    settings["output"]["format"] = output_format
    run_id = _begun(client, settings, **{own_process.PID: dead})

    result = score(settings, spark=spark)

    run = client.get_run(run_id)
    assert result.outcome == "scored"
    assert run.info.status == "KILLED"
    assert run.data.tags["lakescore.error"] == (
        f"the process {dead} on {own_process.tags()[own_process.HOST]} ended without a word; nothing was published"
    )


def _statuses(client: MlflowClient, run_ids: list[str]) -> list[str]:
    runs: list[Run] = [client.get_run(run_id) for run_id in run_ids]
    return [run.info.status for run in runs]


def test_runs_that_may_be_at_work_and_other_batches_are_left(
    spark: SparkSession, settings: dict[str, Any], client: MlflowClient, dead: str
) -> None:
    gone = {own_process.PID: dead}
    left = [
        _begun(client, settings),
        _begun(client, settings, **gone, **{own_process.HOST: "elsewhere"}),
        _begun(client, settings, **gone, **{tracking.BATCH_TAG: "b"}),
        _begun(client, settings, **gone, **{tracking.OUTPUT_TAG: "/elsewhere"}),
    ]

    score(settings, spark=spark)

    assert _statuses(client, left) == ["RUNNING"] * 4
    for run_id in left:
        client.set_terminated(run_id, "KILLED")


def test_a_batch_of_its_own_invention_costs_no_search(
    spark: SparkSession, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    real = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda self, *a, **k: searched.append(a[1]) or real(self, *a, **k))

    with_id: ScoreResult = score(settings, spark=spark)
    assert len([text for text in searched if "RUNNING" in text]) == 1
    del settings["run"]["batch_id"]
    without: ScoreResult = score(settings, spark=spark)

    assert (with_id.outcome, without.outcome) == ("scored", "scored")
    assert len([text for text in searched if "RUNNING" in text]) == 1
