"""``lakescore drift`` and ``lakescore stats`` over two data sets, as they are typed and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from lakescore.drift.statistics import from_json
from lakescore.drift_cli import drift_main, stats_main


@pytest.fixture
def data(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands run in: `train.parquet`, and `today.parquet` with one of three columns elsewhere."""
    train = pd.DataFrame({"x": np.arange(100.0), "y": np.arange(100.0), "plan": ["basic", "pro"] * 50})
    train.to_parquet(tmp_path / "train.parquet", index=False)
    train.assign(x=train["x"] + 1000).to_parquet(tmp_path / "today.parquet", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_data_sets_are_compared_as_a_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift_main(["today.parquet", "--reference", "train.parquet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["column", "drift", "status"], ["x", "1.000", "detected"], ["y", "0.000", "none"], ["plan", "0.000", "none"],
    ]  # fmt: skip
    assert lines[4:] == ["drift: 0.333, none (worst: x 1.000, detected)", "report: drift/drift_table_plot.html"]
    assert (data / "drift" / "drift_results.json").is_file()


def test_drift_that_fails_says_so_in_one_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift_main(["today.parquet", "--reference", "train.parquet", "--drop", "y", "--drop", "plan", "--on-drift", "fail"]) == 6
    told = "today.parquet has drifted from train.parquet: 1.000, detected (worst: x 1.000, detected); see drift/drift_table_plot.html\n"
    assert capsys.readouterr().err == f"lakescore: --on-drift: fail, and {told}"


def test_statistics_in_a_file_are_a_reference(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats_main(["train.parquet", "--output", "train.json"]) == 0
    assert capsys.readouterr().out == "100 rows, 3 of 3 columns can be compared; written to train.json\n"
    assert from_json((data / "train.json").read_text(encoding="utf-8"), "train.json").columns["x"].distinct <= 100  # type: ignore[operator]
    assert drift_main(["train.parquet", "--reference", "train.json"]) == 0
    assert "drift: 0.000, none" in capsys.readouterr().out


def test_data_that_are_not_there_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats_main(["tran.parquet/", "--output", "train.json"]) == 4
    assert capsys.readouterr().err.startswith("lakescore: DATA: tran.parquet/")
