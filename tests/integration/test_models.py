"""The model: every kind of URI, pinned once; and what is wrong with one, in one line that says what exists."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.entities import LoggedModel
from mlflow.models import infer_signature
from pyspark.sql import SparkSession
from sklearn.linear_model import LinearRegression

from lakescore import LakescoreError, read, score
from lakescore.config import ModelConfig
from lakescore.errors import InputError, ModelError, PlatformError
from lakescore.models.resolve import ResolvedModel, resolve

Make = Callable[..., dict[str, Any]]
Resolve = Callable[[str], ResolvedModel]


@pytest.fixture
def resolved(store: str, linear_uri: str, tmp_path: Path) -> Resolve:
    client = mlflow.MlflowClient(store)
    return lambda uri: resolve(ModelConfig(uri=uri), client, None, tmp_path)


@pytest.fixture(scope="module")
def logged(store: str, linear_uri: str) -> LoggedModel:
    """The logged model behind the registered one."""
    client = mlflow.MlflowClient(store)
    return client.get_logged_model(client.get_model_version("diabetes", "1").source.removeprefix("models:/"))


@pytest.fixture
def model_path(store: str, linear_uri: str, tmp_path: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(linear_uri, dst_path=str(tmp_path / "model")))


@pytest.mark.parametrize("uri", ["models:/diabetes/1", "models:/diabetes@champion", "models:/diabetes/latest"])
def test_a_registered_model_is_pinned_to_its_version(resolved: Resolve, uri: str) -> None:
    model = resolved(uri)

    assert (model.uri, model.version, model.flavor) == ("models:/diabetes/1", "1", "sklearn")


def test_a_logged_model_is_pinned_to_its_id(resolved: Resolve, logged: LoggedModel) -> None:
    model = resolved(f"models:/{logged.model_id}")

    assert (model.uri, model.version) == (f"models:/{logged.model_id}", logged.model_id)


def test_a_runs_model_is_stamped_with_its_id(resolved: Resolve, logged: LoggedModel) -> None:
    model = resolved(f"runs:/{logged.source_run_id}/model")

    assert (model.uri, model.version) == (f"runs:/{logged.source_run_id}/model", logged.model_id)


def test_a_path_and_its_file_uri_are_the_same_model(resolved: Resolve, model_path: Path) -> None:
    by_path, by_uri = resolved(str(model_path)), resolved(model_path.as_uri())

    assert by_path.uri == by_uri.uri == f"file://{model_path}".rstrip("/")
    assert by_path.digest == by_uri.digest


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "models:/diabetes/7",
            "model.uri: models:/diabetes/7 does not exist: diabetes has the versions 1 and the aliases champion (version 1).",
        ),
        (
            "models:/diabetis/1",
            "model.uri: models:/diabetis/1 does not exist: no registered model is called 'diabetis'. Did you mean 'diabetes'? Registered: ",
        ),
        ("models:/a/b/c/d", "model.uri: models:/a/b/c/d is not models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID"),
        ("runs:/nothing", "model.uri: runs:/nothing is not runs:/RUN_ID/PATH"),
        ("runs:/0123456789abcdef/model", "model.uri: runs:/0123456789abcdef/model: there is no run 0123456789abcdef in sqlite:///"),
        ("/no/such/model", "model.uri: /no/such/model does not exist (looked for /no/such/model)."),
    ],
)
def test_a_wrong_uri_is_one_line_with_what_exists(resolved: Resolve, uri: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        resolved(uri)

    assert str(error.value).startswith(message)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_a_folder_with_one_raw_model_file_points_to_it(resolved: Resolve, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04.")

    with pytest.raises(ModelError) as error:
        resolved(str(tmp_path))

    assert str(error.value).endswith(f"; it holds model.pkl; for a raw model name the file itself: {tmp_path}/model.pkl")


def test_a_folder_without_a_model_says_what_it_holds(resolved: Resolve, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")

    with pytest.raises(ModelError, match=r"is no MLflow model: an MLflow model is a folder with a file MLmodel; it holds weights.bin"):
        resolved(str(tmp_path))


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("no-such-package==1.0", "no-such-package: wanted ==1.0, found nothing"),
        ("scikit-learn==0.21.3", "scikit-learn: wanted ==0.21.3, found "),
    ],
)
def test_a_requirement_that_is_not_met_is_found_before_any_task(
    resolved: Resolve, model_path: Path, requirement: str, message: str
) -> None:
    (model_path / "requirements.txt").write_text(f"{requirement}\n")

    with pytest.raises(ModelError) as error:
        resolved(str(model_path))

    assert str(error.value).startswith(f"model.uri: this Python does not have what the model needs: {message}")


def test_the_stamp_is_the_version_that_was_scored_even_if_the_alias_moves(
    spark: SparkSession, config: Make, store: str, diabetes: pd.DataFrame, features: list[str], diabetes_path: Path
) -> None:
    client = mlflow.MlflowClient(store)
    for constant in (1.0, 2.0):
        model = LinearRegression().fit(diabetes[features], np.full(len(diabetes), constant))
        with mlflow.start_run():
            mlflow.sklearn.log_model(
                model,
                name="model",
                signature=infer_signature(diabetes[features], model.predict(diabetes[features])),
                registered_model_name="moving",
                serialization_format="cloudpickle",
            )
    client.set_registered_model_alias("moving", "now", "1")
    settings = config(model={"uri": "models:/moving@now"}, source={"path": str(diabetes_path)})

    score(settings, spark=spark)
    client.set_registered_model_alias("moving", "now", "2")
    location = score(settings, spark=spark).location

    rows = spark.read.format("delta").load(location).select("model_uri", "model_version", "prediction").toPandas()
    assert rows.groupby(["model_uri", "model_version"])["prediction"].mean().round(6).to_dict() == {
        ("models:/moving/1", "1"): 1.0,
        ("models:/moving/2", "2"): 2.0,
    }


class TestWithoutSignature:
    """A model that was logged without a signature."""

    @pytest.fixture(scope="class")
    def uri(self, store: str, diabetes: pd.DataFrame, features: list[str]) -> str:
        with mlflow.start_run():
            model = LinearRegression().fit(diabetes[features], diabetes["target"])
            return str(mlflow.sklearn.log_model(model, name="model", serialization_format="cloudpickle").model_uri)

    def test_a_result_type_is_required(self, spark: SparkSession, config: Make, uri: str, diabetes_path: Path) -> None:
        with pytest.raises(ModelError) as error:
            score(config(model={"uri": uri}, source={"path": str(diabetes_path)}), spark=spark)

        assert str(error.value) == (
            "model.result_type: is required, because the model's signature declares no output; for example model.result_type=double, or "
            "log the model with a signature"
        )

    def test_the_features_are_required(self, spark: SparkSession, config: Make, uri: str, diabetes_path: Path) -> None:
        with pytest.raises(ModelError) as error:
            score(config(model={"uri": uri, "result_type": "double"}, source={"path": str(diabetes_path)}), spark=spark)

        assert str(error.value) == (
            "columns.select: is required, because the model's signature declares no inputs; list the features in the model's order"
        )

    def test_with_both_it_scores(
        self, spark: SparkSession, config: Make, uri: str, diabetes: pd.DataFrame, features: list[str], diabetes_path: Path
    ) -> None:
        settings = config(
            model={"uri": uri, "result_type": "double"},
            source={"path": str(diabetes_path)},
            columns={"select": features, "keys": ["id"]},
        )

        location = score(settings, spark=spark).location

        rows = DeltaTable(location).to_pandas().sort_values("id")
        np.testing.assert_array_equal(rows["prediction"], mlflow.pyfunc.load_model(uri).predict(diabetes[features]))


def test_a_null_in_an_integer_input_is_refused_by_name(spark: SparkSession, config: Make, store: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"rooms": [1, 2, 3]})
    model = LinearRegression().fit(frame, [1.0, 2.0, 3.0])
    with mlflow.start_run():
        signature = infer_signature(frame, model.predict(frame))
        uri = mlflow.sklearn.log_model(model, name="model", signature=signature, serialization_format="cloudpickle").model_uri
    rows = [{"rooms": 1}, {"rooms": None}, {"rooms": 3}]

    with pytest.raises(InputError) as error:
        score(config(model={"uri": uri}, source={"rows": rows}), spark=spark)

    assert str(error.value).startswith("column 'rooms': 1 null value(s) in a batch, and the model takes it as an integer")
    assert not (tmp_path / "out").exists()


def test_inputs_whose_names_are_numbers_are_found_and_given_as_such(spark: SparkSession, config: Make, store: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(np.arange(12.0).reshape(4, 3))
    model = LinearRegression().fit(frame, frame.sum(axis=1))
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(model, name="model", signature=infer_signature(frame, model.predict(frame))).model_uri
    frame.rename(columns=str).to_parquet(tmp_path / "rows.parquet", index=False)
    settings = config(model={"uri": uri}, source={"path": str(tmp_path / "rows.parquet")})

    for engine in ("fast", "spark_udf"):
        result = score(settings, overrides=[f"scoring.engine={engine}", f"run.batch_id={engine}"], spark=spark)
        found = read(result).sort_values("0")["prediction"]
        np.testing.assert_allclose(found, frame.sum(axis=1))


def test_predictions_by_group_go_to_their_rows(spark: SparkSession, config: Make, store: str) -> None:
    class ByGroup(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
            return pd.concat([group["x"] * {"a": 10.0, "b": 100.0}[name] for name, group in model_input.groupby("segment")])

    frame = pd.DataFrame({"segment": list("ababab"), "x": np.arange(6.0)})
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=ByGroup(), signature=infer_signature(frame, frame["x"])).model_uri
    settings = config(model={"uri": uri}, source={"rows": frame.to_dict("records")})

    for engine in ("fast", "spark_udf"):
        rows = read(score(settings, overrides=[f"scoring.engine={engine}", f"run.batch_id={engine}"], spark=spark))
        assert dict(zip(rows["x"], rows["prediction"], strict=True)) == {0.0: 0.0, 1.0: 100.0, 2.0: 20.0, 3.0: 300.0, 4.0: 40.0, 5.0: 500.0}


def test_the_run_is_recorded(spark: SparkSession, config: Make, store: str, linear_uri: str, diabetes_path: Path) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, run={"batch_id": "a", "name": "nightly"})
    settings["tracking"]["tags"] = {"team": "growth", "mlflow.source.name": "the nightly job"}

    result = score(settings, spark=spark)

    run = mlflow.MlflowClient(store).get_run(result.run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["team"]) == ("FINISHED", "nightly", "growth")
    assert run.data.tags["mlflow.source.name"] == "the nightly job"
    assert run.data.params["model.pinned_uri"] == "models:/diabetes/1"
    assert run.data.params["source"] == str(diabetes_path)
    assert run.data.params["version.python"].startswith("3.")
    assert {k: v for k, v in run.data.metrics.items() if k.startswith(("rows", "predictions"))} == {
        "rows_read": 442,
        "rows_scored": 442,
        "rows_written": 442,
        "rows_quarantined": 0,
        "predictions_null": 0,
        "predictions_nan": 0,
        "predictions_infinite": 0,
    }
    assert {"seconds.model", "seconds.plan", "seconds.score", "seconds.publish"} <= set(run.data.metrics)
    assert {f"worker_seconds.{what}" for what in ("load", "read", "predict", "write")} <= set(run.data.metrics)
    assert (run.data.params["scoring.engine"], run.data.params["spark.backend"]) == ("direct", "spark")
    assert run.data.metrics["output_version"] == 0
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert "uri: models:/diabetes@champion" in text


def test_a_failed_run_is_recorded_with_its_line(spark: SparkSession, config: Make, store: str, linear_uri: str) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": "/no/such/data"}, tracking={"experiment": "failures"})

    with pytest.raises(LakescoreError) as error:
        score(settings, spark=spark)

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("failures")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    assert (run.info.status, run.data.tags["lakescore.error"]) == ("FAILED", str(error.value))


def test_nan_and_infinite_predictions_are_written_and_counted(spark: SparkSession, config: Make, store: str) -> None:
    class Ratio(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
            return (model_input["a"] / model_input["b"]).to_numpy()

    frame = pd.DataFrame({"a": [1.0, 0.0, 3.0], "b": [0.0, 0.0, 2.0]})
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=Ratio(), signature=infer_signature(frame, np.zeros(3))).model_uri

    result = score(config(model={"uri": uri}, source={"rows": frame.to_dict("records")}), spark=spark)

    assert result.counts == {"null": 0, "nan": 1, "infinite": 1}
    rows = DeltaTable(result.location).to_pandas().sort_values(["a", "b"])
    np.testing.assert_array_equal(rows["prediction"], [np.nan, np.inf, 1.5])


def test_an_unreachable_tracking_server_is_named_without_its_password(config: Make, linear_uri: str) -> None:
    settings = config(model={"uri": linear_uri}, source={"path": "x"}, tracking={"tracking_uri": "http://me:hunter2@127.0.0.1:9"})

    with pytest.raises(PlatformError) as error:
        score(settings)

    assert str(error.value).startswith(
        "tracking.tracking_uri: the MLflow server http://***@127.0.0.1:9 does not answer: Connection refused"
    )


def test_a_broken_model_leaves_its_own_message(model_path: Path, spark: SparkSession, config: Make, diabetes_path: Path) -> None:
    (model_path / "model.pkl").write_bytes(b"not a pickle")

    with pytest.raises(ModelError, match=r"model.uri: the model cannot be loaded on a worker: \w+"):
        score(config(model={"uri": str(model_path)}, source={"path": str(diabetes_path)}), spark=spark)

    shutil.rmtree(model_path)


def test_nan_in_arrays_and_structs_stays_nan(spark: SparkSession, config: Make, store: str) -> None:
    class Both(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
            low = model_input["a"].where(model_input["a"] > 1)
            return pd.DataFrame({"low": low, "pair": [np.array([x, 1.0]) for x in low], "name": "n"})

    frame = pd.DataFrame({"a": [1.0, 2.0]})
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=Both(), signature=infer_signature(frame)).model_uri
    settings = config(model={"uri": uri, "result_type": "struct<low: double, pair: array<double>, name: string>"})
    settings["source"] = {"rows": frame.to_dict("records")}

    location = score(settings, spark=spark).location

    rows = spark.read.format("delta").load(location).orderBy("a").select("prediction.*").collect()
    assert [str(row["low"]) for row in rows] == ["nan", "2.0"]
    assert [str(row["pair"]) for row in rows] == ["[nan, 1.0]", "[2.0, 1.0]"]
    assert [row["name"] for row in rows] == ["n", "n"]
