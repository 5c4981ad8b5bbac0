"""Rows that cannot be scored: named, or set aside with what is needed to score them later; never lost, never counted twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import ModelSignature, infer_signature
from pyspark.sql import SparkSession

from lakescore import job, read, replay, score
from lakescore.config import OutputConfig
from lakescore.errors import ConfigError, InputError, ModelError, OutputError
from lakescore.result import ScoreResult
from lakescore.sinks.quarantine import source_rows

Make = Callable[..., dict[str, Any]]
BAD = (17, 4_321, 9_999)


class Fussy(mlflow.pyfunc.PythonModel):
    """Doubles x, and breaks on three of the rows."""

    def __init__(self, bad: tuple[int, ...]) -> None:
        self._bad = bad

    def predict(self, context: Any, model_input: pd.DataFrame) -> np.ndarray[Any, Any]:
        odd = model_input["x"].isin(self._bad)
        if odd.any():
            raise ValueError(f"no such x: {model_input['x'][odd].iloc[0]:g}")
        return (model_input["x"] * 2).to_numpy()


def _log(model: Any, signature: ModelSignature) -> str:
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=model, signature=signature).model_uri)


@pytest.fixture(scope="module")
def fussy_uri(store: str) -> str:
    return _log(Fussy(BAD), infer_signature(pd.DataFrame({"x": [1.0]}), np.array([1.0])))


@pytest.fixture(scope="module")
def good_uri(store: str) -> str:
    return _log(Fussy(()), infer_signature(pd.DataFrame({"x": [1.0]}), np.array([1.0])))


@pytest.fixture
def settings(config: Make, fussy_uri: str, tmp_path: Path) -> dict[str, Any]:
    """10,000 rows in two files, of which the model breaks on three."""
    data = tmp_path / "data"
    data.mkdir()
    rows = pd.DataFrame({"id": [f"row-{i}" for i in range(10_000)], "x": np.arange(10_000.0)})
    rows[:5_000].to_parquet(data / "a.parquet", index=False)
    rows[5_000:].to_parquet(data / "b.parquet", index=False)
    return config(
        run={"batch_id": "night", "date": "2026-01-31"}, model={"uri": fussy_uri}, source={"path": str(data)}, columns={"keys": ["id"]}
    )


def _run(spark: SparkSession, settings: dict[str, Any], *overrides: str) -> ScoreResult:
    return score(settings, overrides=overrides, spark=spark)


def _table(location: str, format_: str = "delta") -> pd.DataFrame:
    return DeltaTable(location).to_pandas() if format_ == "delta" else pd.read_parquet(location)


def test_a_row_that_breaks_the_model_is_named_by_its_key_and_nothing_is_written(spark: SparkSession, settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        _run(spark, settings)

    assert str(caught.value) in [f"the model failed to predict: ValueError: no such x: {bad} (row id=row-{bad})" for bad in BAD]
    assert not Path(settings["output"]["path"]).exists()


def test_without_keys_the_row_is_named_by_its_features(spark: SparkSession, settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        _run(spark, settings, "columns.keys=[]", "source.filter=x < 100")

    assert str(caught.value) == "the model failed to predict: ValueError: no such x: 17 (row x=17.0)"


@pytest.mark.parametrize("output_format", ["delta", "parquet"])
@pytest.mark.parametrize("batch_size", [100, 10_000])
def test_exactly_the_bad_rows_are_quarantined_and_all_others_scored(
    spark: SparkSession, settings: dict[str, Any], output_format: str, batch_size: int
) -> None:
    result = _run(spark, settings, "errors.on_row_error=quarantine", f"output.format={output_format}", f"scoring.batch_size={batch_size}")

    assert (result.rows_read, result.rows_scored, result.rows_written, result.rows_quarantined) == (10_000, 9_997, 9_997, 3)
    written = _table(result.location, output_format)
    assert sorted(written["x"]) == [float(x) for x in range(10_000) if x not in BAD]
    assert (written["prediction"] == written["x"] * 2).all()
    assert result.quarantine == f"{result.location}_quarantine"
    bad = _table(str(result.quarantine), output_format).sort_values("error_message").reset_index(drop=True)
    assert sorted(bad["id"]) == sorted(f"row-{x}" for x in BAD)
    assert set(bad["error_class"]) == {"ValueError"}
    assert sorted(bad["error_message"]) == sorted(f"no such x: {x}" for x in BAD)
    assert sorted(json.loads(row)["x"] for row in bad["payload"]) == list(BAD)
    assert set(bad["batch_id"]) == {"night"}
    assert set(bad["score_date"].astype(str)) == {"2026-01-31"}
    assert set(bad["run_id"]) == {result.run_id}


@pytest.mark.parametrize(
    ("limit", "most"), [("errors.error_threshold=2", 2), ("errors.max_failed_fraction=0.0002", 2), ("errors.error_threshold=0", 0)]
)
def test_over_the_threshold_nothing_is_published(spark: SparkSession, settings: dict[str, Any], limit: str, most: int) -> None:
    with pytest.raises(InputError) as caught:
        _run(spark, settings, "errors.on_row_error=quarantine", limit)

    assert str(caught.value) == (
        f"{limit.split('=')[0]}: 3 of 10000 rows could not be scored, and at most {most} may be quarantined; nothing was published. One of "
        "them: ValueError: no such x: 17"
    )
    output = Path(settings["output"]["path"])
    assert not output.exists()
    assert not output.with_name(f"{output.name}_quarantine").exists()


@pytest.mark.parametrize("limit", ["errors.error_threshold=3", "errors.max_failed_fraction=0.0003", "errors.error_threshold=-1"])
def test_up_to_the_threshold_the_batch_is_published(spark: SparkSession, settings: dict[str, Any], limit: str) -> None:
    assert _run(spark, settings, "errors.on_row_error=quarantine", limit).rows_quarantined == 3


def test_a_batch_of_which_every_row_fails_is_not_published_unless_any_number_may(spark: SparkSession, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"errors.on_row_error: 1 of 1 rows could not be scored, and at most 0 may be quarantined"):
        _run(spark, settings, "errors.on_row_error=quarantine", "source.filter=x = 17")

    result = _run(spark, settings, "errors.on_row_error=quarantine", "source.filter=x = 17", "errors.error_threshold=-1")

    assert (result.rows_scored, result.rows_quarantined) == (0, 1)


def test_a_replaced_batch_has_no_quarantine_of_the_one_before(spark: SparkSession, settings: dict[str, Any], good_uri: str) -> None:
    first = _run(spark, settings, "errors.on_row_error=quarantine")

    second = _run(spark, settings, "errors.on_row_error=quarantine", "run.on_rerun=replace", f"model.uri={good_uri}")

    assert (second.rows_scored, second.rows_quarantined, second.quarantine) == (10_000, 0, None)
    assert len(_table(str(first.quarantine))) == 0
    assert len(_table(second.location)) == 10_000


def test_a_run_that_comes_second_leaves_the_quarantine_of_the_first(
    spark: SparkSession, settings: dict[str, Any], good_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, first = job.audit, []

    def overtaken(work: job.Work) -> None:
        monkeypatch.setattr(job, "audit", real)
        first.append(_run(spark, settings, "errors.on_row_error=quarantine"))
        real(work)

    _run(spark, settings, "errors.on_row_error=quarantine", "run.batch_id=before")  # there is a quarantine
    monkeypatch.setattr(job, "audit", overtaken)
    second = _run(spark, settings, "errors.on_row_error=quarantine", f"model.uri={good_uri}")

    assert (first[0].outcome, first[0].rows_quarantined, second.outcome) == ("scored", 3, "skipped")
    bad = _table(str(first[0].quarantine))
    assert sorted(bad["run_id"]).count(first[0].run_id) == 3


def test_a_batch_of_another_output_in_the_same_quarantine_is_not_replaced(spark: SparkSession, settings: dict[str, Any]) -> None:
    given = ["errors.on_row_error=quarantine", "output.format=jsonl"]
    first = _run(spark, settings, *given, "output.file=a.jsonl")

    with pytest.raises(OutputError) as caught:
        _run(spark, settings, *given, "output.file=b.jsonl")

    folder = settings["output"]["path"]
    assert str(caught.value) == (
        f"errors.quarantine: {folder}_quarantine has rows of the batch night of another output, {folder}/a.jsonl, which would be replaced; "
        "give each output its own errors.quarantine, or each batch an ID of its own (run.batch_id)"
    )
    assert set(_table(f"{folder}_quarantine")["run_id"]) == {first.run_id}
    assert _run(spark, settings, *given, "output.file=a.jsonl", "run.on_rerun=replace").rows_quarantined == 3


def test_values_that_do_not_parse_and_null_integers_are_quarantined_and_change_no_other_row(
    spark: SparkSession, config: Make, store: str
) -> None:
    class Sum(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame) -> np.ndarray[Any, Any]:
            assert model_input["n"].dtype == "int64"
            return (model_input["n"] + model_input["x"].astype("int64")).to_numpy()

    uri = _log(Sum(), infer_signature(pd.DataFrame({"n": [1], "x": [1.0]}), np.array([1])))
    large = 2**62 + 1
    rows = [[1, "10", "a"], [None, "20", "b"], [3, "thirty", "c"], [large, "0", "d"]]
    settings = config(
        model={"uri": uri},
        source={"rows": rows, "schema": "n long, x string, id string"},
        columns={"keys": ["id"]},
        errors={"on_row_error": "quarantine"},
    )

    result = score(settings, spark=spark)

    written = spark.read.format("delta").load(result.location)
    assert {row["id"]: row["prediction"] for row in written.collect()} == {"a": 11, "d": large}
    bad = _table(str(result.quarantine)).set_index("id")["error_message"].to_dict()
    assert bad == {
        "b": "column 'n' is null, and the model takes it as an integer",
        "c": "column 'x': 'thirty' is not a value of type double, which is needed",
    }


class Picky(mlflow.pyfunc.PythonModel):
    """Breaks on negative numbers; otherwise answers in the shape that it was made for."""

    def __init__(self, shape: str) -> None:
        self._shape = shape

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        x = model_input["x"].to_numpy()
        if (x < 0).any():
            raise KeyError("negative")
        answers = {
            "text": [f"is {value:g}" for value in x],
            "array": [np.full(3, value) for value in x],
            "struct": pd.DataFrame({"a": x, "b": [str(value) for value in x]}),
            "boolean": x > 1,
            "nan": np.where(x > 1, np.nan, x),
        }
        return answers[self._shape]


@pytest.mark.parametrize(
    ("shape", "declared", "expected"),
    [
        ("text", "string", ["is 1", "is 2"]),
        ("array", "array<double>", [[1.0] * 3, [2.0] * 3]),
        ("struct", "struct<a:double,b:string>", [{"a": 1.0, "b": "1.0"}, {"a": 2.0, "b": "2.0"}]),
        ("boolean", "boolean", [False, True]),
        ("nan", "double", ["1.0", "nan"]),
    ],
)
def test_predictions_of_every_shape_stand_beside_errors(
    spark: SparkSession, config: Make, store: str, shape: str, declared: str, expected: list[Any]
) -> None:
    uri = _log(Picky(shape), infer_signature(pd.DataFrame({"x": [1.0]})))
    settings = config(
        model={"uri": uri, "result_type": declared},
        source={"rows": {"x": [1.0, -1.0, 2.0, -2.0]}},
        columns={"select": ["x"]},
        errors={"on_row_error": "quarantine"},
    )

    result = score(settings, spark=spark)

    rows = spark.read.format("delta").load(result.location).orderBy("x").collect()
    found = [row["prediction"] if shape != "struct" else row["prediction"].asDict() for row in rows]
    assert [str(value) for value in found] == expected if shape == "nan" else found == expected
    assert result.rows_quarantined == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["errors.error_threshold=1"], "errors: error_threshold needs on_row_error: quarantine (command line)"),
        (
            ["errors.on_row_error=quarantine", "errors.error_threshold=1", "errors.max_failed_fraction=0.5"],
            "errors: error_threshold and max_failed_fraction exclude each other (command line)",
        ),
        (
            ["errors.on_row_error=quarantene"],
            "errors.on_row_error: got 'quarantene' (text); expected one of fail, quarantine. Did you mean 'quarantine'? (command line)",
        ),
        (
            ["errors.on_row_error=quarantine", "output.path=/t/out", "errors.quarantine=/t/out/bad"],
            "errors.quarantine: /t/out/bad overlaps output.path /t/out; give it a folder of its own",
        ),
        (
            ["errors.on_row_error=quarantine", "columns.rename={id: payload}", "columns.keys=payload"],
            "columns.keys: 'payload' is a column that the quarantine has itself; rename it (columns.rename)",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    spark: SparkSession, settings: dict[str, Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _run(spark, settings, *overrides)

    assert str(caught.value) == message


@pytest.mark.parametrize("output_format", ["delta", pytest.param("parquet", marks=pytest.mark.long)])
def test_a_replay_after_the_fix_completes_the_batch_once(
    spark: SparkSession, settings: dict[str, Any], good_uri: str, output_format: str
) -> None:
    quarantining = ["errors.on_row_error=quarantine", f"output.format={output_format}"]
    first = _run(spark, settings, *quarantining)

    second = replay(settings, overrides=[*quarantining, f"model.uri={good_uri}"], spark=spark)
    third = replay(settings, overrides=[*quarantining, f"model.uri={good_uri}"], spark=spark)

    assert (second.batch_id, second.rows_scored, second.rows_quarantined, second.score_date) == ("night.replay", 3, 0, "2026-01-31")
    assert third.outcome == "skipped"
    written = _table(first.location, output_format)
    assert sorted(written["x"]) == [float(x) for x in range(10_000)]
    assert (written["prediction"] == written["x"] * 2).all()
    with pytest.raises(OutputError, match=r"run\.on_rerun: .* were replayed as night\.replay and would be there twice"):
        _run(spark, settings, *quarantining, f"model.uri={good_uri}", "run.on_rerun=replace")
    assert len(_table(first.location, output_format)) == 10_000


def test_a_replay_of_a_file_of_rows_is_a_file_beside_it(spark: SparkSession, settings: dict[str, Any], good_uri: str) -> None:
    quarantining = ["errors.on_row_error=quarantine", "output.format=jsonl"]
    first = _run(spark, settings, *quarantining)

    second = replay(settings, overrides=[*quarantining, f"model.uri={good_uri}"], spark=spark)
    third = replay(settings, overrides=[*quarantining, f"model.uri={good_uri}"], spark=spark)

    assert second.location == first.location.replace("batch-infer-res.jsonl", "batch-infer-res.replay.jsonl")
    assert third.outcome == "skipped"
    assert sorted([*read(first.location)["x"], *read(second.location)["x"]]) == [float(x) for x in range(10_000)]


def test_a_replay_gives_the_source_back_as_it_was(spark: SparkSession, config: Make, store: str) -> None:
    class Never(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
            raise ValueError("never")

    query = (
        "SELECT 1.5D AS x, 0.1F AS f, 9007199254740993L AS n, 12.340BD AS d, date '2026-01-31' AS day, true AS b, X'00FF' AS raw, "
        "timestamp '2026-01-31 12:34:56.123456' AS at, timestamp_ntz '2026-01-31 12:34:56.123456' AS local, 'ä \"q\"' AS `odd name`, "
        "array(1.5D, double('NaN')) AS a, named_struct('u', 1, 'v', cast(null AS string)) AS s, map('k', 2) AS m, double('NaN') AS nan"
    )
    uri = _log(Never(), infer_signature(pd.DataFrame({"x": [1.0]}), np.array([1.0])))
    errors = {"on_row_error": "quarantine", "error_threshold": -1}
    settings = config(run={"batch_id": "b"}, model={"uri": uri}, source={"query": query}, errors=errors)
    score(settings, spark=spark)

    rows, _ = source_rows(spark, OutputConfig(path=f"{settings['output']['path']}_quarantine"), "b")

    assert rows.dtypes == spark.sql(query).dtypes
    assert [str(value) for value in rows.collect()[0]] == [str(value) for value in spark.sql(query).collect()[0]]


def test_a_replay_of_what_was_not_quarantined_is_refused(spark: SparkSession, settings: dict[str, Any]) -> None:
    _run(spark, settings, "errors.on_row_error=quarantine")

    with pytest.raises(InputError) as caught:
        replay(settings, overrides=["run.batch_id=day"], spark=spark)

    assert str(caught.value) == f"run.batch_id: nothing of the batch 'day' is in the quarantine {settings['output']['path']}_quarantine"


def test_a_model_that_returns_one_prediction_for_a_batch_is_refused_and_not_asked_row_by_row(
    spark: SparkSession, config: Make, store: str
) -> None:
    class Mean(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame) -> list[float]:
            return [model_input["x"].mean()]

    uri = _log(Mean(), infer_signature(pd.DataFrame({"x": [1.0]}), np.array([1.0])))
    settings = config(model={"uri": uri}, source={"rows": {"x": [1.0, 2.0]}}, errors={"on_row_error": "quarantine"})
    settings["scoring"] = {"partitions": 1}

    with pytest.raises(ModelError, match=r"the model returned 1 prediction\(s\) for a batch of 2 row\(s\); it must return one for each"):
        score(settings, spark=spark)
