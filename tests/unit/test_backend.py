"""What runs a job, by the configuration and the environment alone."""

from __future__ import annotations

from typing import Any

import pytest

from lakescore import backend
from lakescore.compose import compose
from lakescore.config import ScoreConfig
from lakescore.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARK_REMOTE", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)


def _config(*overrides: str) -> ScoreConfig:
    sections: dict[str, Any] = {"model": {"uri": "m"}, "source": {"path": "data.parquet"}, "output": {"path": "out"}}
    return compose((), overrides, sections)


@pytest.mark.parametrize("override", ["output.format=parquet", "source.format=delta", "spark.master=local[4]", "columns.cast={'*': float}"])
def test_one_machine_does_it_alone(override: str) -> None:
    assert backend.why_spark(_config(override)) is None


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("source.filter=x > 1", "source.filter is set"),
        ("source.limit=5", "source.limit is set"),
        ("source.format=csv", "the source is no path of Parquet files"),
        ("source.options={mergeSchema: 'true'}", "source.options are set"),
        ("columns.cast={x: double}", "columns.cast is set"),
        ("scoring.engine=spark_udf", "scoring.engine is spark_udf"),
        ("scoring.partitions=4", "scoring.partitions is set"),
        ("errors.on_row_error=quarantine", "errors.on_row_error is quarantine"),
        ("output.partition_by=to_date(x)", "output.partition_by is an expression"),
        ("output.format=jsonl", "output.format is jsonl"),
        ("output.classes.labels=[a, b]", "output.classes is set"),
        ("model.env_manager=virtualenv", "model.env_manager is virtualenv"),
        ("spark.master=yarn", "spark.master is yarn"),
        ("spark.master='local-cluster[2,1,1024]'", "spark.master is local-cluster[2,1,1024]"),
        ("spark.master=sc://host", "it runs over Spark Connect"),
    ],
)
def test_rows_pass_spark_for_a_reason(override: str, reason: str) -> None:
    assert backend.why_spark_reads(_config(override)) == reason
    assert backend.why_spark(_config(override)) == reason
    with pytest.raises(ConfigError, match=r"spark.backend: embedded is not possible, because"):
        backend.why_spark(_config(override, "spark.backend=embedded"))


@pytest.mark.parametrize(("override", "reason"), [("spark.conf={a.b: c}", "spark.conf is set"), ("drift.table=a/b", "drift.table is set")])
def test_some_want_spark_and_no_rows_in_it(override: str, reason: str) -> None:
    assert backend.why_spark_reads(_config(override)) is None
    assert backend.why_spark(_config(override)) == reason


@pytest.mark.parametrize(
    ("name", "reason"), [("SPARK_REMOTE", "it runs over Spark Connect"), ("PYSPARK_GATEWAY_PORT", "spark-submit started it")]
)
def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.setenv(name, "1")
    assert backend.why_spark(_config()) == reason


def test_on_databricks_rows_pass_its_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")

    assert backend.why_spark_reads(_config()) == "it runs on Databricks"
