"""Every flavour: predictions equal the loaded model's own, bit for bit, however the rows are spread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from mlflow.models import infer_signature
from pyspark.sql import SparkSession
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

from lakescore import read, score
from lakescore.errors import ConfigError, ModelError

Make = Callable[..., dict[str, Any]]
FEATURES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
SPECIES = np.array(["setosa", "versicolor", "virginica"])


@pytest.fixture(scope="module")
def iris() -> pd.DataFrame:
    """150 real flowers, ten times over with a shift, and an integer `id`."""
    frame = load_iris(as_frame=True).frame
    frame = pd.concat([frame.assign(**{f: frame[f] + i / 100 for f in FEATURES}) for i in range(10)], ignore_index=True)
    return frame.assign(id=np.arange(len(frame)))


@pytest.fixture(scope="module")
def iris_path(tmp_path_factory: pytest.TempPathFactory, iris: pd.DataFrame) -> Path:
    path = tmp_path_factory.mktemp("iris") / "iris.parquet"
    iris.to_parquet(path, index=False, row_group_size=300)
    return path


class Spread(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A custom model: the ratio of two columns, and the row's largest value."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        scale = (params or {}).get("scale", 1.0)
        ratio = model_input[FEATURES[0]] / model_input[FEATURES[1]] * scale
        return pd.DataFrame({"ratio": ratio, "largest": model_input[FEATURES].max(axis=1), "wide": ratio > 2})


class Linear(torch.nn.Module):
    """Four inputs, three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def _sklearn(iris: pd.DataFrame) -> str:
    model = RandomForestClassifier(20, random_state=0, n_jobs=-1).fit(iris[FEATURES], SPECIES[iris["target"]])
    signature = infer_signature(iris[FEATURES], pd.DataFrame({"species": model.predict(iris[FEATURES])}))
    return _log(mlflow.sklearn.log_model, model, signature, serialization_format="cloudpickle")


def _xgboost(iris: pd.DataFrame) -> str:
    model = xgboost.XGBClassifier(n_estimators=10).fit(iris[FEATURES], iris["target"])
    return _log(mlflow.xgboost.log_model, model, infer_signature(iris[FEATURES], model.predict(iris[FEATURES])))


def _lightgbm(iris: pd.DataFrame) -> str:
    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(iris[FEATURES], iris["target"])
    return _log(mlflow.lightgbm.log_model, model, infer_signature(iris[FEATURES], model.predict(iris[FEATURES])))


def _torch(iris: pd.DataFrame) -> str:
    torch.manual_seed(0)
    model = Linear().eval()
    x = iris[FEATURES].to_numpy(np.float32)
    with torch.no_grad():
        signature = infer_signature(x, model(torch.from_numpy(x)).numpy())
    return _log(mlflow.pytorch.log_model, model, signature, serialization_format="pickle")


def _pyfunc(iris: pd.DataFrame) -> str:
    model = Spread()
    signature = infer_signature(iris[FEATURES], model.predict(None, iris[FEATURES]), {"scale": 1.0})
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=model, signature=signature).model_uri)


def _log(log_model: Any, model: Any, signature: Any, **options: Any) -> str:
    with mlflow.start_run():
        return str(log_model(model, name="model", signature=signature, **options).model_uri)


MODELS = {"sklearn": _sklearn, "xgboost": _xgboost, "lightgbm": _lightgbm, "pytorch": _torch, "pyfunc": _pyfunc}


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest, store: str, iris: pd.DataFrame) -> str:
    """One fitted and logged model of each flavour."""
    return MODELS[request.param](iris)


# None: workers read the file on their own. Other flavours than these two have nothing to do with how many partitions there are.
@pytest.mark.parametrize(
    ("uri", "partitions"), [*((one, partitions) for one in MODELS for partitions in (None, 3)), ("sklearn", 1), ("pyfunc", 50)],
    indirect=["uri"],
)  # fmt: skip
def test_predictions_equal_the_loaded_models(
    spark: SparkSession, config: Make, uri: str, iris: pd.DataFrame, iris_path: Path, partitions: int | None
) -> None:
    settings = config(
        model={"uri": uri},
        source={"path": str(iris_path)},
        columns={"keys": ["id"], "labels": ["target"], "select": FEATURES, "cast": {"*": "float"}},
        scoring={"partitions": partitions},
    )
    settings["output"]["columns"] = ["id"]

    result = score(settings, spark=spark)

    rows = read(result).sort_values("id")
    model = mlflow.pyfunc.load_model(uri)
    inputs = iris[FEATURES].astype(np.float32).to_numpy() if model.metadata.get_input_schema().is_tensor_spec() else iris[FEATURES]
    expected = model.predict(inputs)
    assert rows["id"].tolist() == list(range(len(iris)))
    _assert_equal(rows["prediction"], expected)


def _assert_equal(written: pd.Series, expected: Any) -> None:
    if isinstance(expected, pd.DataFrame) and expected.shape[1] > 1:
        actual = pd.DataFrame(written.tolist())
        pd.testing.assert_frame_equal(actual, expected.reset_index(drop=True), check_exact=True)
    elif getattr(expected, "ndim", 1) == 2:
        np.testing.assert_array_equal(np.array(written.tolist()), np.asarray(expected))
    else:
        np.testing.assert_array_equal(written.to_numpy(), np.asarray(expected).ravel())


def test_outputs_of_a_multi_output_model_can_have_a_column_each(
    spark: SparkSession, config: Make, store: str, iris: pd.DataFrame, iris_path: Path
) -> None:
    settings = config(model={"uri": _pyfunc(iris), "params": {"scale": 10.0}}, source={"path": str(iris_path)})
    settings["output"]["prediction"] = ["ratio_x10", "largest", "is_wide"]

    result = score(settings, spark=spark)

    rows = read(result).sort_values("id")
    np.testing.assert_array_equal(rows["ratio_x10"], iris[FEATURES[0]] / iris[FEATURES[1]] * 10.0)
    assert rows["is_wide"].all()


def test_predict_proba_gives_an_array_of_one_probability_per_class(
    spark: SparkSession, config: Make, store: str, iris: pd.DataFrame, iris_path: Path
) -> None:
    uri = _sklearn(iris)
    settings = config(model={"uri": uri, "predict_method": "predict_proba"}, source={"path": str(iris_path)})

    result = score(settings, spark=spark)

    rows = read(result).sort_values("id")
    expected = mlflow.sklearn.load_model(uri).predict_proba(iris[FEATURES])
    np.testing.assert_array_equal(np.array(rows["prediction"].tolist()), expected)


class Broken(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Breaks its promise in the way that its parameter says."""

    def __init__(self, how: str) -> None:
        self.how = how

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        if self.how == "short":
            return np.zeros(max(len(model_input) - 1, 1))
        if self.how == "text":
            return ["a"] * len(model_input)
        if self.how == "raises":
            raise ValueError("no such flower")
        return np.zeros((len(model_input), 2))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("short", r"the model returned \d+ prediction\(s\) for a batch of \d+ row\(s\); it must return one for each"),
        ("text", "the model declares predictions of type double and returned str; log it with a signature that fits, "),
        ("raises", "the model failed to predict: ValueError: no such flower"),
        ("wide", r"the model declares one output of type double and returned 2 columns \(0, 1\); "),
    ],
)
def test_a_model_that_breaks_its_declaration_is_refused_and_nothing_is_written(
    spark: SparkSession, config: Make, store: str, iris: pd.DataFrame, iris_path: Path, how: str, message: str
) -> None:
    signature = infer_signature(iris[FEATURES], np.zeros(2))
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=Broken(how), signature=signature).model_uri
    settings = config(model={"uri": uri, "result_type": "double"}, source={"path": str(iris_path)})

    with pytest.raises(ModelError, match=message):
        score(settings, spark=spark)

    assert not Path(settings["output"]["path"]).exists()


def _on_device(config: Make, uri: str, iris_path: Path, device: str, **more: Any) -> dict[str, Any]:
    columns = {"keys": ["id"], "labels": ["target"], "select": FEATURES, "cast": {"*": "float"}}
    return config(model={"uri": uri, "device": device}, source={"path": str(iris_path)}, columns=columns, **more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("engine", ["auto", "spark_udf"])
def test_a_gpu_that_is_not_there_is_one_line(
    config: Make, spark: SparkSession, store: str, iris: pd.DataFrame, iris_path: Path, engine: str
) -> None:
    uri, scoring = _torch(iris), {"engine": engine}
    with pytest.raises(ModelError, match=r"model.device: cuda is wanted, and PyTorch finds 0 CUDA device\(s\) on a worker"):
        score(_on_device(config, uri, iris_path, "cuda", scoring=scoring), spark=spark)
    assert score(_on_device(config, uri, iris_path, "cpu", scoring=scoring), spark=spark).rows_scored == len(iris)


def test_a_device_is_for_pytorch(config: Make, spark: SparkSession, store: str, iris: pd.DataFrame, iris_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.device: is for PyTorch models, and .* is lightgbm"):
        score(_on_device(config, _lightgbm(iris), iris_path, "cpu"), spark=spark)
