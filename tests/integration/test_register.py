"""``lakescore register``: what becomes a version, what is printed, and what is refused in one line."""

from __future__ import annotations

import pickle
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import infer_signature
from pyspark.sql import SparkSession
from sklearn.linear_model import LinearRegression

from lakescore import score
from lakescore.cli import register_main

Make = Callable[..., dict[str, Any]]
Streams = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows() -> pd.DataFrame:
    frame = pd.DataFrame({"rooms": [1.0, 2.0, 3.0, 4.0], "floor": [0.0, 1.0, 0.0, 3.0]})
    return frame.assign(rent=[500.0, 700.0, 900.0, 1300.0], id=range(4))


@pytest.fixture
def place(tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `rent.pkl` and `rows.parquet`, `.csv`, `.jsonl`."""
    model = LinearRegression().fit(rows[["rooms", "floor"]], rows["rent"])
    (tmp_path / "rent.pkl").write_bytes(pickle.dumps(model))
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _register(capsys: Streams, *arguments: str) -> tuple[int, list[str], str]:
    code = register_main(list(arguments))
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines() if line.startswith("lakescore: ")]
    return code, captured.out.splitlines(), "\n".join(complaints)


def test_a_file_becomes_a_version_with_all_that_was_said(place: Path, store: str, capsys: Streams) -> None:
    code, lines, _ = _register(
        capsys, "rent.pkl", "--name", "rent", "--alias", "champion", "--alias", "now", "--tag", "team=growth", "--tag", "a=b=c",
        "--description", "By rooms", "--sample", "rows.csv", "--label", "rent", "--label", "id", "--tracking-uri", store,
    )  # fmt: skip

    assert code == 0
    assert lines == [
        "registered: rent version 1 (@champion, @now), sklearn, from pickle",
        "inputs:",
        "  rooms: double",
        "  floor: double",
        "prediction: double",
        "score with it:",
        f"  lakescore score model.uri=models:/rent@champion source.path=rows.csv output.path=TABLE tracking.tracking_uri={store}",
    ]
    client = mlflow.MlflowClient(store)
    version = client.get_model_version_by_alias("rent", "champion")
    assert (str(version.version), version.description, version.tags) == ("1", "By rooms", {"team": "growth", "a": "b=c"})
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert (logged.status, logged.tags["lakescore.source"]) == ("READY", "rent.pkl")
    assert client.get_model_version_by_alias("rent", "now").version == version.version


def test_an_alias_moves_to_the_new_version(place: Path, store: str, capsys: Streams) -> None:
    for _ in range(2):
        assert _register(capsys, "rent.pkl", "--name", "moved", "--alias", "champion")[0] == 0

    assert str(mlflow.MlflowClient(store).get_model_version_by_alias("moved", "champion").version) == "2"


def test_without_a_sample_the_model_says_what_it_can(place: Path, store: str, capsys: Streams) -> None:
    _, lines, _ = _register(capsys, "rent.pkl", "--name", "unsampled")

    assert lines[1:] == [
        "inputs:",
        "  rooms: as the source has it",
        "  floor: as the source has it",
        "prediction: double",
        "score with it:",
        "  lakescore score model.uri=models:/unsampled/1 source.path=DATA output.path=TABLE",
    ]


def test_columns_as_text_are_the_signature(place: Path, store: str, capsys: Streams) -> None:
    _, lines, _ = _register(
        capsys, "rent.pkl", "--name", "described", "--columns", "rooms bigint, `floor no` float, x array<double>", "--result", "float"
    )

    assert lines[2:6] == ["  rooms: bigint", "  floor no: float", "  x: array<double>", "prediction: float"]


@pytest.mark.parametrize("sample", ["rows.parquet", "rows.jsonl"])
def test_a_sample_may_be_of_several_formats(place: Path, store: str, capsys: Streams, sample: str) -> None:
    _, lines, _ = _register(capsys, "rent.pkl", "--name", "formats", "--sample", sample, "--label", "rent")

    assert lines[3:5] == ["  floor: double" if sample.endswith("parquet") else "  floor: bigint", "prediction: double"]


def test_a_runs_raw_file_is_registered_from_that_run(place: Path, store: str, capsys: Streams) -> None:
    with mlflow.start_run() as run:
        mlflow.log_artifact("rent.pkl", "out")

    code, _, _ = _register(capsys, f"runs:/{run.info.run_id}/out/rent.pkl", "--name", "from-run")

    client = mlflow.MlflowClient(store)
    version = client.get_model_version("from-run", "1")
    assert (code, version.run_id) == (0, run.info.run_id)
    assert client.get_logged_model(version.source.removeprefix("models:/")).source_run_id == run.info.run_id


def test_a_runs_mlflow_model_is_registered_as_it_is(place: Path, store: str, rows: pd.DataFrame, capsys: Streams) -> None:
    model = LinearRegression().fit(rows[["rooms"]], rows["rent"])
    with mlflow.start_run() as run:
        signature = infer_signature(rows[["rooms"]], model.predict(rows[["rooms"]]))
        logged = mlflow.sklearn.log_model(model, name="model", signature=signature, serialization_format="cloudpickle")

    code, lines, _ = _register(capsys, f"runs:/{run.info.run_id}/model", "--name", "as-it-is")

    version = mlflow.MlflowClient(store).get_model_version("as-it-is", "1")
    assert (code, lines[2:4]) == (0, ["  rooms: double", "prediction: double"])
    assert (version.source, version.run_id) == (f"models:/{logged.model_id}", run.info.run_id)


def test_an_mlflow_folder_is_registered_and_left_as_it_is(place: Path, store: str, rows: pd.DataFrame, capsys: Streams) -> None:
    model = LinearRegression().fit(rows[["rooms"]].to_numpy(), rows["rent"])
    mlflow.sklearn.save_model(model, "saved", serialization_format="cloudpickle")
    before = Path("saved/MLmodel").read_text()

    code, lines, _ = _register(capsys, "saved", "--name", "folder", "--columns", "rooms double", "--result", "double")

    assert (code, lines[2:4], Path("saved/MLmodel").read_text()) == (0, ["  rooms: double", "prediction: double"], before)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["rent.pk", "--name", "x"], 3, "MODEL: rent.pk does not exist (looked for {place}/rent.pk). Did you mean 'rent.pkl'?"),
        (["rows.csv", "--name", "x"], 3, "MODEL: rows.csv is no model that is recognised; expected an MLflow folder, or one of "),
        (["runs:/0123456789abcdef/m", "--name", "x"], 3, "MODEL: runs:/0123456789abcdef/m: there is no run 0123456789abcdef in sqlite:"),
        ([".", "--name", "x"], 3, "MODEL: . is no MLflow model: an MLflow model is a folder with a file MLmodel; it holds rent.pkl, "),
        (["rent.pkl", "--name", "a/b"], 3, "--name: MLflow refuses 'a/b': Invalid model name 'a/b'. Names cannot contain '/' or ':'."),
        (["rent.pkl", "--name", "x", "--alias", "v1"], 3, "--alias: MLflow refuses 'v1': Version alias name 'v1' is reserved."),
        (["rent.pkl", "--name", "x", "--alias", "a b"], 3, "--alias: MLflow refuses 'a b': Invalid alias name: 'a b'. "),
        (["rent.pkl", "--name", "x", "--allowed-root", "/elsewhere"], 3, "MODEL: rent.pkl is outside of the folders that models may come "),
        (["rent.pkl", "--name", "x", "--sample", "row.csv"], 4, "--sample: row.csv does not exist. Did you mean 'rows.csv'?"),
        (["rent.pkl", "--name", "x", "--sample", "rent.pkl"], 4, "--sample: rent.pkl: expected a file that ends in .parquet, .csv, .json"),
        (["rent.pkl", "--name", "x", "--sample", "rows.csv", "--label", "rnt"], 4, "--label: --sample has no column 'rnt'. Did you mean"),
        (["rent.pkl", "--name", "x", "--sample", "rows.csv", "--label", "floor"], 4, "--sample: it has not the model's input(s) 'floor'; "),
        (["rent.pkl", "--name", "x", "--label", "rent"], 2, "--label: names columns of --sample or --training-set, and neither is given"),
        (["rent.pkl", "--name", "x", "--columns", "rooms dubble"], 2, "--columns: got the type 'dubble'; expected one of double, float,"),
        (["rent.pkl", "--name", "x", "--columns", "rooms double, rooms int"], 2, "--columns: 'rooms' is listed twice"),
        (["rent.pkl", "--name", "x", "--tag", "team"], 2, "--tag: got 'team'; expected KEY=VALUE"),
        (["rent.pkl", "--name", "x", "--python-class", "net"], 2, "--python-class: got 'net'; expected MODULE:CLASS"),
        (["rent.pkl", "--name", "x", "--input-shape", "1,a"], 2, "--input-shape: got '1,a'; expected positive numbers separated by commas"),
        (["rent.pkl", "--name", "x", "--python-class", "a:B"], 3, "MODEL: rent.pkl is of the kind pickle; a python_class is for a state_"),
        (["rent.pkl"], 2, "the following arguments are required: --name; see lakescore register --help"),
    ],
)
def test_what_cannot_be_registered_is_one_line(
    place: Path, store: str, capsys: Streams, arguments: list[str], code: int, line: str
) -> None:
    given, _, complaint = _register(capsys, *arguments)

    assert given == code
    assert complaint.startswith(f"lakescore: {line.format(place=place)}")
    assert "\n" not in complaint
    assert not mlflow.MlflowClient(store).search_registered_models("name='x'")


def test_a_server_that_is_not_there_is_one_line(place: Path, capsys: Streams) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    code, _, complaint = _register(capsys, "rent.pkl", "--name", "x", "--tracking-uri", f"http://127.0.0.1:{port}")

    assert code == 1
    assert complaint.startswith(f"lakescore: tracking.tracking_uri: the MLflow server http://127.0.0.1:{port} does not answer")


def test_the_printed_command_scores(place: Path, store: str, rows: pd.DataFrame) -> None:
    """Both as a user starts them, each in a process of its own."""
    answer = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "register.py"), "rent.pkl", "--name", "commanded", "--alias", "champion",
         "--sample", "rows.parquet", "--label", "rent", "--label", "id", "--tracking-uri", store],
        cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (place / "conf").mkdir()
    (place / "conf" / "score.yaml").write_text('spark: {master: "local[2]"}\n', encoding="utf-8")
    command = shlex.split(answer.stdout.splitlines()[-1])
    assert command[:2] == ["lakescore", "score"]

    scored = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "score.py"), *command[2:]],
        cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert scored.returncode == 0, scored.stderr
    written = DeltaTable(place / "TABLE").to_pandas().sort_values("id")
    expected = LinearRegression().fit(rows[["rooms", "floor"]], rows["rent"]).predict(rows[["rooms", "floor"]])
    np.testing.assert_array_equal(written["prediction"], expected)
    assert written["model_uri"].unique().tolist() == ["models:/commanded/1"]


def test_a_model_by_path_and_uuid_scores(
    spark: SparkSession, config: Make, place: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "models" / "4f1c" / "artifacts" / "model"
    folder.mkdir(parents=True)
    (place / "rent.pkl").rename(folder / "model.pkl")
    monkeypatch.setenv("PRED_MODEL_UUID", "4f1c")
    monkeypatch.setenv("PRED_MODEL_PATH", str(folder / "model.pkl"))
    written = []
    for uri in ("${oc.env:PRED_MODEL_PATH}", "models/${oc.env:PRED_MODEL_UUID}/artifacts/model/model.pkl"):
        settings = config(
            model={"uri": uri, "allowed_roots": [str(place / "models")]},
            source={"path": str(place / "rows.parquet")},
            columns={"keys": ["id"]},
            output={"path": str(place / f"out-{len(written)}")},
        )
        result = score(settings, spark=spark)
        assert result.model_uri == f"file://{folder}/model.pkl"
        written.append(DeltaTable(result.location).to_pandas().sort_values("id")["prediction"].tolist())

    expected = LinearRegression().fit(rows[["rooms", "floor"]], rows["rent"]).predict(rows[["rooms", "floor"]])
    assert written == [expected.tolist()] * 2
