"""`lakescore stats` and `lakescore drift`: two data sets without a model, and the drift table over time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from lakescore import score
from lakescore.cli import main

Streams = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train`, `same` and `moved` rows: x, a text, and a label."""
    root = tmp_path_factory.mktemp("drift-commands")
    for seed, (name, shift) in enumerate([("train", 0.0), ("same", 0.0), ("moved", 9.0)]):
        generator = np.random.default_rng(seed)
        texts = generator.choice(["a", "b"], 2_000) if name != "moved" else np.full(2_000, "new")
        frame = pd.DataFrame({"x": generator.normal(size=2_000) + shift, "s": texts, "y": generator.random(2_000)})
        (root / name).mkdir()
        frame.to_parquet(root / name / "rows.parquet", index=False)
    return root


def test_two_data_sets(spark: SparkSession, folders: Path, capsys: Streams, tmp_path: Path) -> None:
    given = ["--reference", str(folders / "train"), "--label", "y", "--output", str(tmp_path)]
    assert main(["drift", str(folders / "same"), *given]) == 0
    said = capsys.readouterr().out
    assert "drift: 0.0" in said
    assert str(tmp_path / "drift_table_plot.html") in said
    results = json.loads((tmp_path / "drift_results.json").read_text(encoding="utf-8"))
    assert results["drift_status"] == "none"
    assert {name: one["role"] for name, one in results["columns"].items()} == {"x": "feature", "s": "feature", "y": "label"}


def test_a_reference_of_text_is_read_as_the_batch_and_other_kinds_are_not_compared(
    spark: SparkSession, folders: Path, tmp_path: Path
) -> None:
    train = pd.read_parquet(folders / "train").assign(y=pd.Timestamp("2026-01-01").date())
    train.drop(columns="y").to_csv(tmp_path / "train.csv", index=False)
    assert main(["drift", str(folders / "same"), "--reference", str(tmp_path / "train.csv"), "--output", str(tmp_path / "text")]) == 0
    columns = json.loads((tmp_path / "text" / "drift_results.json").read_text(encoding="utf-8"))["columns"]
    assert columns["x"]["drift"] < 0.1
    train.to_parquet(tmp_path / "train.parquet", index=False)
    given = ["--reference", str(tmp_path / "train.parquet"), "--output", str(tmp_path / "kinds")]
    assert main(["drift", str(folders / "same"), *given]) == 0
    columns = json.loads((tmp_path / "kinds" / "drift_results.json").read_text(encoding="utf-8"))["columns"]
    assert columns["y"]["not_analysed"] == "in the reference, it is constant (20454)"


def test_columns_of_one_side_alone_and_columns_left_out(spark: SparkSession, folders: Path, capsys: Streams, tmp_path: Path) -> None:
    part = tmp_path / "part.parquet"
    pd.read_parquet(folders / "same").drop(columns=["s", "y"]).assign(new=1.0).to_parquet(part, index=False)
    given = ["drift", str(part), "--reference", str(folders / "train"), "--output", str(tmp_path / "report")]
    assert main([*given, "--label", "y", "--drop", "s"]) == 0
    columns = json.loads((tmp_path / "report" / "drift_results.json").read_text(encoding="utf-8"))["columns"]
    assert {name: one["not_analysed"] for name, one in columns.items()} == {
        "x": None,
        "y": "the batch has no such column",
        "new": "the reference has no such column",
    }
    assert main([*given, "--drop", "z"]) == 4
    assert "--drop: there is no column 'z'" in capsys.readouterr().err


def test_data_that_has_moved_fails_where_it_is_to(spark: SparkSession, folders: Path, capsys: Streams, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    assert main(["stats", str(folders / "train"), "--output", str(file), "--label", "y"]) == 0
    capsys.readouterr()
    given = ["drift", str(folders / "moved"), "--reference", str(file), "--output", str(tmp_path / "report")]
    assert main([*given, "--on-drift", "fail"]) == 6
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lakescore: --on-drift: fail, and ")
    assert "detected" in line
    assert main(given) == 0
    assert (tmp_path / "report" / "drift_table_plot.html").exists()
    assert main(["stats", str(folders / "train"), "--output", str(file)]) == 0
    assert main([*given, "--label", "y"]) == 0
    columns = json.loads((tmp_path / "report" / "drift_results.json").read_text(encoding="utf-8"))["columns"]
    assert columns["y"]["role"] == "label"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["drift"], 2, "give DATA and --reference, or --history"),
        (["drift", "a"], 2, "give DATA and --reference, or --history"),
        (["drift", "./a", "--reference", "./b", "--possible-threshold", "0.8"], 2, "possible_threshold"),
        (["drift", "./a", "--reference", "./b"], 4, "DATA: ./a does not exist"),
        (["drift", "--history", "./nowhere"], 4, "--history: ./nowhere"),
        (["drift", "--history", "./nowhere", "--drop", "x"], 2, "--history: shows what scoring runs have found"),
        (["stats", "./a"], 2, "--output: is required without --model"),
        (["stats", "./nowhere", "--output", "out.json"], 4, "DATA: ./nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    spark: SparkSession, capsys: Streams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lakescore: ")
    assert told in line


def test_drift_over_time(spark: SparkSession, store: str, linear_uri: str, diabetes: pd.DataFrame, capsys: Streams, tmp_path: Path) -> None:
    diabetes.to_parquet(tmp_path / "train.parquet", index=False)
    for day, shift in (("2026-01-01", 0.0), ("2026-01-02", 0.5)):
        given = {
            "run": {"batch_id": day, "date": day},
            "model": {"uri": linear_uri},
            "output": {"path": str(tmp_path / "out")},
            "drift": {"reference": str(tmp_path / "train.parquet"), "table": str(tmp_path / "drift")},
            "tracking": {"tracking_uri": store},
        }
        score(given, spark=spark, data=diabetes.assign(bmi=diabetes["bmi"] + shift))
    assert main(["drift", "--history", str(tmp_path / "drift"), "--output", str(tmp_path / "plots")]) == 0
    assert capsys.readouterr().out.startswith("2 batches: ")
    assert (tmp_path / "plots" / "drift_history.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "plots" / "drift_history.html").read_text(encoding="utf-8")
    assert "2026-01-02" in page
    assert "bmi" in page
    assert main(["drift", "--history", str(tmp_path / "out")]) == 4
    assert "is no drift table" in capsys.readouterr().err
