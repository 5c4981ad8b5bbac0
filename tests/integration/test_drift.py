"""Drift with every run: what is counted on the way, what is decided, and what is left to read."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from pyspark.sql import SparkSession
from sklearn.linear_model import LinearRegression, LogisticRegression

from lakescore import Registration, register, score, training
from lakescore.config import TrackingConfig
from lakescore.drift import measures
from lakescore.drift.statistics import FILE, Statistics, from_json
from lakescore.errors import ConfigError, DriftError, InputError, OutputError
from lakescore.pipeline import dry_run
from lakescore.result import ScoreResult
from lakescore.results import read
from lakescore.sinks.base import AlreadyPublishedError
from lakescore.sinks.delta import DeltaSink
from lakescore.verdict import DriftTable

Make = Callable[..., dict[str, Any]]
ROWS = 3_000


def _rows(seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Customers: an amount, an age (integers), a plan (text), a date, and whether they left."""
    generator = np.random.default_rng(seed)
    amount = generator.gamma(2.0, 50.0, ROWS) * (1 + shift)
    return pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "amount": amount,
            "age": generator.integers(18, 90, ROWS),
            "plan": generator.choice(["basic", "plus", "pro"], ROWS),
            "since": (pd.Timestamp("2020-01-01") + pd.to_timedelta(generator.integers(0, 1_000, ROWS), unit="D")).astype("M8[us]"),
            "left": (amount + generator.normal(0, 50, ROWS) > 100).astype("int64"),
        }
    )


class Churn(mlflow.pyfunc.PythonModel):
    """A logistic regression over what it can use of the columns."""

    def __init__(self, train: pd.DataFrame) -> None:
        self._model = LogisticRegression().fit(self._numbers(train), train["left"])

    @staticmethod
    def _numbers(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
        days = (frame["since"] - pd.Timestamp("2020-01-01")).dt.days
        return np.column_stack([frame["amount"].fillna(0), frame["age"], frame["plan"] == "pro", days]).astype(float)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        if (model_input["age"] < 0).any():
            raise ValueError("nobody is younger than 0")
        probabilities: np.ndarray[Any, Any] = self._model.predict_proba(self._numbers(model_input))[:, 1]
        return probabilities


class Ages(mlflow.pyfunc.PythonModel):
    """A regression over the age; a note may come along."""

    def __init__(self, model: LinearRegression) -> None:
        self._model = model

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        predicted: np.ndarray[Any, Any] = self._model.predict(model_input[["age"]])
        return predicted


FEATURES = ["amount", "age", "plan", "since"]


@pytest.fixture(scope="module")
def train_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    _rows(0).to_parquet(folder / "rows.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def model(spark: SparkSession, store: str, train_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Churn]:
    """A registered version that carries the statistics of its training data."""
    folder, fitted = tmp_path_factory.mktemp("model") / "churn", Churn(_rows(0))
    signature = infer_signature(_rows(0)[FEATURES], np.array([0.5]))
    mlflow.pyfunc.save_model(folder, python_model=fitted, signature=signature, pip_requirements=["scikit-learn"])
    registered = register(
        Registration(str(folder), "churn", aliases=("champion",), training_set=str(train_path), labels=("left",)),
        TrackingConfig(tracking_uri=store),
    )
    return registered.uri, fitted


@pytest.fixture
def run(config: Make, model: tuple[str, Churn], spark: SparkSession, tmp_path: Path) -> Callable[..., ScoreResult]:
    """Score rows with the model: ``run(frame, drift={...}, output={...})``."""

    def start(frame: pd.DataFrame, **sections: Any) -> ScoreResult:
        columns = {"labels": ["left"], "keys": ["id"]}
        given = {"model": {"uri": model[0]}, "columns": columns, **sections}
        given["output"] = {"path": str(tmp_path / "out"), **sections.get("output", {})}
        return score(config(**given), spark=spark, data=frame)

    return start


def _artifacts(run_id: str, store: str, folder: Path) -> dict[str, str]:
    client = mlflow.MlflowClient(store)
    names = [item.path for item in client.list_artifacts(run_id)]
    return {name: Path(client.download_artifacts(run_id, name, str(folder))).read_text(encoding="utf-8") for name in names}


def _kept(uri: str, store: str, folder: Path) -> Statistics:
    file = mlflow.artifacts.download_artifacts(f"{uri}/{FILE}", dst_path=str(folder), tracking_uri=store)
    return from_json(Path(file).read_text(encoding="utf-8"), "kept")


def test_registration_keeps_the_statistics_of_features_labels_and_predictions(model: tuple[str, Churn], store: str, tmp_path: Path) -> None:
    kept, rows = _kept(model[0], store, tmp_path), _rows(0)
    assert kept.rows == ROWS
    assert {name: column.role for name, column in kept.columns.items()} == {
        **dict.fromkeys(FEATURES, "feature"), "left": "label", "prediction": "prediction",
    }  # fmt: skip
    predicted = model[1].predict(None, rows)
    for name, values in (("amount", rows["amount"]), ("age", rows["age"]), ("prediction", predicted)):
        histogram = kept.columns[name].histogram
        assert histogram is not None
        assert histogram.counts == tuple(np.histogram(values, bins=20)[0]), name
    assert dict(zip(kept.columns["plan"].categories.values, kept.columns["plan"].categories.counts, strict=True)) == dict(  # type: ignore[union-attr]
        rows["plan"].value_counts()
    )
    assert kept.columns["left"].categories.values == (0, 1)  # type: ignore[union-attr]


def test_a_training_set_leaves_a_models_own_signature_alone(store: str, spark: SparkSession, tmp_path: Path) -> None:
    own = ModelSignature(Schema([ColSpec("double", "age"), ColSpec("string", "note", required=False)]), Schema([ColSpec("double")]))
    model = LinearRegression().fit(_rows(0)[["age"]].astype(float), _rows(0)["left"])
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Ages(model), signature=own, pip_requirements=["scikit-learn"])
    folder = tmp_path / "train"  # of CSV files, without the optional input, and with whole numbers where the model has doubles
    folder.mkdir()
    _rows(0)[["age", "left"]].to_csv(folder / "rows.csv", index=False)
    wanted = Registration(str(tmp_path / "model"), "ages", training_set=str(folder), labels=("left",))
    registered = register(wanted, TrackingConfig(tracking_uri=store))
    assert registered.signature == own
    assert set(_kept(registered.uri, store, tmp_path).columns) == {"age", "left", "prediction"}


@pytest.mark.parametrize(
    ("columns", "labels", "told"),
    [
        (["amount"], (), "--training-set: it has not the model's input(s) 'age'; it has amount"),
        (["age"], ("lft",), "--label: --training-set has no column 'lft'."),
        (None, (), "--training-set: {place} does not exist"),
    ],
)
def test_a_training_set_that_does_not_fit_is_named(
    store: str, spark: SparkSession, tmp_path: Path, columns: list[str] | None, labels: tuple[str, ...], told: str
) -> None:
    model, data = tmp_path / "model.pkl", tmp_path / "rows.parquet"
    model.write_bytes(pickle.dumps(LinearRegression().fit(_rows(0)[["age"]], _rows(0)["left"])))
    if columns is not None:
        _rows(0)[columns].to_parquet(data, index=False)
    wanted = Registration(str(model), "unfit", training_set=str(data), labels=labels)
    with pytest.raises(InputError, match=f"^{re.escape(told.format(place=data))}"):
        register(wanted, TrackingConfig(tracking_uri=store))


def test_a_batch_is_counted_while_it_is_scored(
    run: Callable[..., ScoreResult], model: tuple[str, Churn], store: str, tmp_path: Path
) -> None:
    rows, kept = _rows(1, shift=1.0), _kept(model[0], store, tmp_path)
    rows.loc[:99, "amount"] = None
    result = run(rows, scoring={"batch_size": 170, "partitions": 5})
    found = _artifacts(result.run_id, store, tmp_path)
    batch = from_json(found["dataset_statistics.json"], "batch")
    assert batch.rows == ROWS
    assert set(batch.columns) == set(kept.columns)
    values: dict[str, Any] = {
        "amount": rows["amount"].dropna(),
        "age": rows["age"],
        "since": (rows["since"] - pd.Timestamp("1970-01-01")).dt.total_seconds(),
        "prediction": model[1].predict(None, rows),
    }
    for name, numbers in values.items():
        bins, histogram = kept.columns[name].histogram, batch.columns[name].histogram
        assert bins is not None
        assert histogram is not None
        assert histogram.counts == tuple(np.histogram(numbers, bins=np.array(bins.edges))[0]), name
        assert histogram.overflow == (np.asarray(numbers) > bins.edges[-1]).sum(), name
        assert batch.columns[name].mean == pytest.approx(np.mean(numbers), rel=1e-9), name
    assert (batch.columns["amount"].nulls, batch.columns["amount"].nan) == (100, 0)
    results = json.loads(found["drift_results.json"])
    for name in ("amount", "plan", "left"):
        batch_counts, kept_counts = (_counts(one.columns[name]) for one in (batch, kept))
        expected = measures.feature_drift(
            measures.total_variation(batch_counts, kept_counts), measures.hellinger(batch_counts, kept_counts)
        )
        assert results["columns"][name]["drift"] == pytest.approx(expected, rel=1e-12)
    assert results["worst"] == "amount"
    assert results["columns"]["amount"]["null_share"] == {"batch": 100 / ROWS, "reference": 0.0}


def _counts(column: Any) -> list[int]:
    histogram, categories = column.histogram, column.categories
    if histogram is not None:
        return [histogram.underflow, *histogram.counts, histogram.overflow]
    return [*categories.counts, categories.other]


def test_what_a_run_leaves(run: Callable[..., ScoreResult], store: str, tmp_path: Path) -> None:
    result = run(_rows(2), run={"batch_id": "monday"})
    assert result.drift is not None
    assert result.drift.status == "none"
    assert 0 < float(result.drift.value or 0) < 0.1
    tracked = mlflow.MlflowClient(store).get_run(result.run_id).data
    assert tracked.metrics["drift_metric"] == pytest.approx(result.drift.value)
    assert tracked.metrics["drift_status"] == 0
    assert {f"drift.{name}" for name in (*FEATURES, "left", "prediction")} <= set(tracked.metrics)
    names = {"drift_table_plot.html", "drift_results.json", "dataset_statistics.json"}
    assert names <= set(_artifacts(result.run_id, store, tmp_path))
    beside = tmp_path / "out_drift" / "monday"
    assert {file.name for file in beside.iterdir()} == names
    page = (beside / "drift_table_plot.html").read_text(encoding="utf-8")
    assert "amount" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_drift_that_is_detected_is_not_published(run: Callable[..., ScoreResult], store: str, tmp_path: Path) -> None:
    drifted = _rows(3).assign(amount=9_999.0, age=17, plan="new", since=pd.Timestamp("2031-01-01"))
    settings = {"on_drift": "fail", "table": str(tmp_path / "drift")}
    with pytest.raises(DriftError, match=r"drift\.on_drift: fail.*worst: \w+ [01]\.\d+, detected.*nothing was published") as failure:
        run(drifted, drift=settings, run={"batch_id": "tuesday"})
    assert failure.value.exit_code == 6
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out_drift").exists()
    (failed,) = mlflow.search_runs(search_all_experiments=True, filter_string="tags.`lakescore.batch_id` = 'tuesday'", output_format="list")
    assert failed.info.status == "FAILED"
    assert failed.data.metrics["drift_status"] == 2
    assert "drift_table_plot.html" in _artifacts(failed.info.run_id, store, tmp_path)
    rows = read(str(tmp_path / "drift"))
    assert set(rows["decision"]) == {"refused"}
    assert set(rows["batch_id"]) == {"tuesday"}
    warned = run(drifted, drift={**settings, "on_drift": "warn"}, run={"batch_id": "tuesday"})
    assert warned.drift is not None
    assert warned.drift.status == "detected"
    assert warned.rows_written == ROWS
    rows = read(str(tmp_path / "drift"))
    assert set(rows["decision"]) == {"published"}
    with pytest.raises(DriftError):
        run(drifted, drift=settings, run={"batch_id": "tuesday", "on_rerun": "replace"})
    pd.testing.assert_frame_equal(read(str(tmp_path / "drift")), rows)  # those of the batch that stays
    assert not rows.duplicated(["feature", "measure"]).any()


def test_the_drift_table_has_each_batch_and_measure(run: Callable[..., ScoreResult], tmp_path: Path) -> None:
    settings = {"table": str(tmp_path / "drift"), "measures": ["psi"]}
    first = run(_rows(4), drift=settings, run={"batch_id": "a", "date": "2026-01-01"}, output={"format": "parquet"})
    run(_rows(5, shift=0.5), drift=settings, run={"batch_id": "b", "date": "2026-01-02"}, output={"format": "parquet"})
    rows = read(str(tmp_path / "drift"))
    assert set(rows["batch_id"]) == {"a", "b"}
    assert set(rows["measure"]) == {"drift", "null_share", "psi"}
    whole = rows[(rows["feature"] == "") & (rows["batch_id"] == "a")].iloc[0]
    assert whole["value"] == pytest.approx(first.drift.value if first.drift else None)
    assert whole["run_id"] == first.run_id
    assert len(rows[rows["measure"] == "drift"]) == 2 * (1 + len(FEATURES) + 2)


def test_a_drift_table_that_cannot_be_written_does_not_stop_a_batch(
    run: Callable[..., ScoreResult], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(DriftTable, "publish", fails)
    result = run(_rows(1), drift={"table": str(tmp_path / "drift")})
    assert (result.outcome, len(read(str(tmp_path / "out")))) == ("scored", ROWS)
    assert "the drift table could not be written: the disk is full" in caplog.text


def test_a_batch_that_is_not_published_leaves_no_rows_in_the_drift_table(
    run: Callable[..., ScoreResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comes_second(*_: Any) -> None:
        raise AlreadyPublishedError("by another run")

    with monkeypatch.context() as patched:
        patched.setattr(DeltaSink, "publish", comes_second)
        assert run(_rows(1), drift={"table": str(tmp_path / "drift")}).outcome == "skipped"
    assert not (tmp_path / "drift" / "_delta_log").exists()


@pytest.mark.parametrize("text", ["{", '{"lakescore_statistics": 2}'])
def test_statistics_of_a_model_that_cannot_be_read_are_warned_of(
    config: Make, spark: SparkSession, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    fitted = LinearRegression().fit(_rows(0)[["age"]], _rows(0)["left"])
    folder = tmp_path / "model"
    mlflow.sklearn.save_model(
        fitted, folder, signature=infer_signature(_rows(0)[["age"]], np.array([0.5])), serialization_format="cloudpickle"
    )
    (folder / FILE).write_text(text)
    sections = config(model={"uri": str(folder)})
    result = score(sections, spark=spark, data=_rows(1))
    assert (result.rows_written, result.drift) == (ROWS, None)
    assert "drift: the model's statistics cannot be used" in caplog.text
    with pytest.raises(InputError, match=FILE):
        score({**sections, "drift": {"on_drift": "fail"}}, spark=spark, data=_rows(1))


@pytest.mark.parametrize(
    ("drift", "told"),
    [
        ({"reference": "data/nothere"}, "drift.reference: data/nothere"),
        ({"enabled": True}, "drift.enabled: true needs something to compare with"),
    ],
)
def test_a_dry_run_says_that_there_is_no_reference(
    config: Make, linear_uri: str, diabetes_path: Path, spark: SparkSession, drift: dict[str, Any], told: str
) -> None:
    sections = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)}, drift=drift)
    with pytest.raises((ConfigError, InputError), match=f"^{re.escape(told)}"):
        dry_run(sections, spark=spark)


def test_a_null_integer_that_is_quarantined_is_counted_as_null(run: Callable[..., ScoreResult], store: str, tmp_path: Path) -> None:
    rows = _rows(1).astype({"age": "Int64"})
    rows.loc[:9, "age"] = pd.NA
    result = run(rows, errors={"on_row_error": "quarantine"})
    age = from_json(_artifacts(result.run_id, store, tmp_path)["dataset_statistics.json"], "batch").columns["age"]
    assert (result.rows_quarantined, age.nulls, age.count) == (10, 10, ROWS - 10)
    assert (age.min, age.histogram.underflow) == (rows["age"].min(), 0)  # type: ignore[union-attr]


def test_a_batch_without_rows_is_not_analysed(run: Callable[..., ScoreResult]) -> None:
    result = run(_rows(6).head(0), drift={"on_drift": "fail"})
    assert result.drift is not None
    assert result.drift.status is None
    assert result.drift.text == "not analysed: the batch has no rows"


def test_where_nothing_can_be_compared_nobody_can_say_that_nothing_has_drifted(run: Callable[..., ScoreResult], tmp_path: Path) -> None:
    pd.DataFrame({"other": [1.0, 2.0]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DriftError, match=r"^drift\.on_drift: fail, and drift cannot be told: not analysed: .*; nothing was published$"):
        run(_rows(6), drift={"on_drift": "fail", "reference": str(tmp_path / "other.parquet")})
    assert not (tmp_path / "out").exists()


def test_a_column_that_the_batch_has_lost_is_warned_of(run: Callable[..., ScoreResult], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="lakescore.verdict"):
        result = run(_rows(15).assign(amount=np.nan))
    assert result.drift is not None
    assert "the column 'amount' is not analysed: in the batch, all values are null" in caplog.text


def test_bad_rows_are_counted_as_features_and_not_as_predictions(run: Callable[..., ScoreResult], store: str, tmp_path: Path) -> None:
    rows = _rows(7)
    rows.loc[[5, 1_500, 2_999], "age"] = -1
    result = run(rows, errors={"on_row_error": "quarantine"}, scoring={"batch_size": 500})
    assert result.rows_quarantined == 3
    batch = from_json(_artifacts(result.run_id, store, tmp_path)["dataset_statistics.json"], "batch")
    assert batch.columns["age"].histogram.underflow == 3  # type: ignore[union-attr]
    assert batch.columns["prediction"].rows == ROWS - 3
    assert batch.columns["age"].rows == ROWS


def test_a_reference_that_is_data(run: Callable[..., ScoreResult], train_path: Path, store: str, tmp_path: Path) -> None:
    result = run(_rows(8), drift={"reference": str(train_path)})
    results = json.loads(_artifacts(result.run_id, store, tmp_path)["drift_results.json"])
    assert results["columns"]["amount"]["drift"] < 0.1
    assert results["columns"]["left"]["drift"] is not None
    assert results["columns"]["prediction"]["not_analysed"] == "the reference has no such column"


def test_the_batch_before_as_reference(run: Callable[..., ScoreResult], tmp_path: Path) -> None:
    before = run(_rows(9))
    after = run(_rows(10), drift={"reference": f"runs:/{before.run_id}/dataset_statistics.json"})
    assert after.drift is not None
    assert after.drift.status == "none"


def test_predictions_of_several_classes_are_watched_one_by_one(config: Make, spark: SparkSession, store: str, tmp_path: Path) -> None:
    rows = _rows(11)
    fitted = LogisticRegression().fit(rows[["amount", "age"]], rows["left"])
    signature = infer_signature(rows[["amount", "age"]].astype(float), fitted.predict(rows[["amount", "age"]]))
    mlflow.sklearn.save_model(fitted, tmp_path / "model", signature=signature, serialization_format="cloudpickle")
    data = tmp_path / "data"
    data.mkdir()
    rows[["amount", "age"]].astype(float).to_parquet(data / "rows.parquet", index=False)
    proba = ["model.predict_method=predict_proba", f"tracking.tracking_uri={store}"]
    configured = training.configured((), proba, str(tmp_path / "model"), str(data), ())
    found, pinned = training.statistics(configured, "DATA", spark)
    training.keep(found, pinned, configured)
    assert set(found.columns) == {"amount", "age", "prediction[0]", "prediction[1]"}
    given = config(model={"uri": str(tmp_path / "model"), "predict_method": "predict_proba"}, source={"path": str(data)})
    result = score(given, spark=spark)
    batch = from_json(_artifacts(result.run_id, store, tmp_path / "out")["dataset_statistics.json"], "batch")
    probabilities = fitted.predict_proba(rows[["amount", "age"]].astype(float))[:, 1]
    assert batch.columns["prediction[1]"].histogram.counts == tuple(np.histogram(probabilities, bins=20)[0])  # type: ignore[union-attr]
    assert result.drift is not None
    assert result.drift.value == pytest.approx(0.0, abs=1e-7)


def test_an_entry_scripts_rows_are_watched(config: Make, spark: SparkSession, train_path: Path, store: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("def run(batch):\n    return list(batch['amount'] * 2)\n")
    rows = _rows(12)
    given = config(
        model={"entry_script": str(tmp_path / "script.py"), "result_type": "double"},
        columns={"labels": ["left"], "keys": ["id"]},
        drift={"reference": str(train_path)},
    )
    result = score(given, spark=spark, data=rows)
    batch = from_json(_artifacts(result.run_id, store, tmp_path)["dataset_statistics.json"], "batch")
    bins, histogram = np.histogram(_rows(0)["amount"], bins=20)[1], batch.columns["amount"].histogram
    assert histogram is not None
    assert histogram.counts == tuple(np.histogram(rows["amount"], bins=bins)[0])


def test_nothing_is_watched_without_a_reference(config: Make, linear_uri: str, diabetes_path: Path, spark: SparkSession) -> None:
    given = config(model={"uri": linear_uri}, source={"path": str(diabetes_path)})
    assert score(given, spark=spark).drift is None
    for section in ({"enabled": True}, {"on_drift": "fail"}):
        with pytest.raises(ConfigError, match=r"carries no statistics; set drift\.reference"):
            score({**given, "drift": section}, spark=spark)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("./nowhere", "drift.reference: ./nowhere"),
        ("no_such_table", "drift.reference: no_such_table does not exist"),
        ("runs:/0123456789abcdef0123456789abcdef/x.json", "cannot be fetched"),
    ],
)
def test_a_reference_that_is_not_there(run: Callable[..., ScoreResult], reference: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(_rows(13).head(5), drift={"reference": reference})


def test_a_drift_table_that_cannot_be_one(run: Callable[..., ScoreResult], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"drift\.table: .* overlaps output\.path"):
        run(_rows(14).head(5), drift={"table": str(tmp_path / "out")})
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"drift\.table: "):
        run(_rows(14).head(5), drift={"table": str(tmp_path / "taken")})
