"""The engine `fast` does what `spark_udf` does, and both what the loaded model does: bit for bit, whatever the batches are."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import xgboost
from mlflow.models import infer_signature
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from lakescore import score, session
from lakescore.drift.counting import COUNTED_FIELD, Bins, Watch, add_up
from lakescore.engine import bundle, fast, guard, spark_udf, threads
from lakescore.engine.bundle import Contract
from lakescore.engine.isolation import ERROR_FIELD, VALUE_FIELD
from lakescore.errors import ConfigError, ModelError

Make = Callable[..., dict[str, Any]]
ROWS = 1000
NAMES = [f"f{i}" for i in range(20)]
# Partitions, rows of Spark's batches, and rows that `fast` may join: small batches for each model, the others for one of each kind, of
# which a row's prediction hangs on its batch or does not.
WHOLE, SMALL, MANY = (1, 10_000, None), (7, 7, 100), (200, 10_000, None)
SPREADS = {"linear": [WHOLE, SMALL], "forest": [SMALL, MANY], "xgboost": [SMALL], "lightgbm": [WHOLE, SMALL], "torch": [SMALL]}


class Engines:
    """Calls a model with an engine over a DataFrame with an `id`, without the rest of a run."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self._spark, self._folder, self._made = spark, folder, 0

    def predict(
        self,
        engine: str,
        uri: str,
        df: DataFrame,
        result: str,
        batch: int = 10_000,
        rows: int | None = None,
        watch: Watch | None = None,
        **contract: Any,
    ) -> pa.Table:
        """Columns `id`, `part` and `p`, and what else the engine says, in the order of the partitions."""
        self._made += 1
        folder = self._folder / f"{engine}-{self._made}"
        kind = T.DataType.fromDDL(result)
        threads = 1 if engine == "fast" else None
        made = bundle.build(Path(_local(uri)), Contract(kind, threads=threads, **contract), False, folder / "bundle")
        with session.runtime_conf(self._spark, spark__sql__execution__arrow__maxRecordsPerBatch=str(batch)):
            if engine == "fast":
                predictor = fast.predictor(self._spark, made, {}, watch, rows, folder)
            else:
                predictor = spark_udf.predictor(self._spark, made, "local", {}, watch)
            features = F.struct(*[F.col(f"`{name}`") for name in df.columns if name != "id"])
            scored = spark_udf.with_predictions(df, predictor, features, "p", kind)
            if predictor.isolates:  # Arrow refuses a null struct of fields that are never null
                scored = scored.withColumn("p", F.to_json(F.struct("p")))
            more = [name for name in (ERROR_FIELD, COUNTED_FIELD) if name in scored.columns]
            return scored.select("id", F.spark_partition_id().alias("part"), "p", *more).toArrow()


def _local(uri: str) -> str:
    return str(mlflow.artifacts.download_artifacts(uri))


@pytest.fixture(scope="module")
def engines(spark: SparkSession, store: str, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return Engines(spark, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(ROWS, len(NAMES))), columns=NAMES)


@pytest.fixture(scope="module")
def spread(spark: SparkSession, numbers: pd.DataFrame) -> Iterator[Callable[[int], DataFrame]]:
    """The numbers with their `id`, in so many partitions."""
    df = spark.createDataFrame(numbers.assign(id=np.arange(ROWS))).cache()
    yield lambda partitions: df.coalesce(1) if partitions == 1 else df.repartition(partitions)
    df.unpersist()


def _log(log_model: Any, model: Any, x: Any, y: Any, **options: Any) -> str:
    with mlflow.start_run():
        return str(log_model(model, name="model", signature=infer_signature(x, y), **options).model_uri)


def _sklearn(model: Any, x: pd.DataFrame, y: Any) -> str:
    model.fit(x, y)
    return _log(mlflow.sklearn.log_model, model, x, model.predict(x), serialization_format="cloudpickle")


class Net(torch.nn.Module):
    """Twenty inputs of a column each, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def _torch(x: pd.DataFrame) -> str:
    torch.manual_seed(0)
    model, values = Net().eval(), x.astype(np.float32)
    y = model(torch.from_numpy(values.to_numpy())).detach().numpy()
    return _log(mlflow.pytorch.log_model, model, values, y, serialization_format="pickle")


@pytest.fixture(scope="module", params=list(SPREADS))
def flavor(request: pytest.FixtureRequest, store: str, numbers: pd.DataFrame) -> tuple[str, str]:
    """A model's name and URI."""
    x, y = numbers, numbers["f0"] * numbers["f1"] + numbers["f2"]
    made: dict[str, Callable[[], str]] = {
        "linear": lambda: _sklearn(LinearRegression(), x, y),
        # One thread: several add up the trees in the order in which they happen to end.
        "forest": lambda: _sklearn(RandomForestRegressor(20, max_depth=8, random_state=0, n_jobs=1), x, y),
        "xgboost": lambda: _log(mlflow.xgboost.log_model, xgboost.XGBRegressor(n_estimators=20).fit(x, y), x, y.astype(np.float32)),
        "lightgbm": lambda: _log(mlflow.lightgbm.log_model, lightgbm.LGBMRegressor(n_estimators=20, verbose=-1).fit(x, y), x, y),
        "torch": lambda: _torch(x),
    }
    return request.param, made[request.param]()


def _by_hand(model: Any, frame: pd.DataFrame, found: pa.Table, rows: int) -> np.ndarray[Any, Any]:
    """The loaded model's predictions in the order of `found`, in batches of so many rows of a partition, as an engine makes them."""
    ids, parts = found["id"].to_numpy(), found["part"].to_numpy()
    batches = [ids[parts == part][i : i + rows] for part in np.unique(parts) for i in range(0, int((parts == part).sum()), rows)]
    threads.hold(1)  # as Spark has its workers do: PyTorch's products depend on it
    try:
        return np.concatenate([np.asarray(model.predict(frame.iloc[batch].reset_index(drop=True))).ravel() for batch in batches])
    finally:
        threads.hold(None)


def test_both_engines_predict_what_the_loaded_model_predicts_bit_for_bit(
    engines: Engines, spread: Callable[[int], DataFrame], numbers: pd.DataFrame, flavor: tuple[str, str]
) -> None:
    name, uri = flavor
    model = mlflow.pyfunc.load_model(uri)
    is_float = name in ("xgboost", "torch")
    frame = numbers.astype(np.float32) if name == "torch" else numbers
    whole = np.asarray(model.predict(frame)).ravel()
    with_blas = name in ("linear", "torch")
    for partitions, batch, rows in SPREADS[name]:
        df = spread(partitions)
        if name == "torch":
            df = df.select("id", *[F.col(one).cast("float") for one in NAMES])
        asked = [("fast", max(batch, (rows or ROWS) // batch * batch))]
        if partitions < 200:
            asked.append(("spark_udf", batch))
        for engine, size in asked:
            found = engines.predict(engine, uri, df, "float" if is_float else "double", batch, rows)

            p = found["p"].to_numpy()
            assert p.dtype == (np.float32 if is_float else np.float64)
            assert sorted(found["id"].to_pylist()) == list(range(ROWS))
            if with_blas:
                # The last bit of a matrix product depends on the number of rows and a row's place among them; that is the model's own.
                assert p.tobytes() == _by_hand(model, frame, found, size).astype(p.dtype).tobytes(), (engine, partitions, batch)
                np.testing.assert_allclose(p, whole[found["id"].to_numpy()], rtol=1e-4 if is_float else 1e-9)
            else:
                assert p.tobytes() == whole[found["id"].to_numpy()].astype(p.dtype).tobytes(), (engine, partitions, batch)


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Says what it was given, each value with its type and all digits."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[str]:
        columns = [[_shown(value) for value in model_input[name]] for name in model_input.columns]
        kinds = " ".join(f"{name}:{kind}" for name, kind in model_input.dtypes.items())
        return [f"{kinds}; " + ", ".join(row) for row in zip(*columns, strict=True)]


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {[_shown(item) for item in value]}"
    if isinstance(value, (float, np.floating)):
        return f"{type(value).__name__} {float(value).hex()}"
    return f"{type(value).__name__} {value!r}"


def test_a_model_gets_every_value_and_type_as_from_spark_udf(spark: SparkSession, engines: Engines) -> None:
    """Nulls are in one batch of five only: beside them, integers are doubles and booleans objects, and nowhere else."""
    signature = infer_signature(pd.DataFrame({"x": [1.0]}), pd.DataFrame({"p": ["a"]}))
    signature.inputs = None
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=Echo(), signature=signature).model_uri
    utc = datetime.timezone.utc
    full = {
        "double": 0.1,
        "float": 0.1,
        "int": 2**31 - 1,
        "long": 2**53 + 1,
        "short": -3,
        "text": "ä\0b",
        "yes": True,
        "at": datetime.datetime(2026, 3, 29, 1, 30, tzinfo=utc),
        "local": datetime.datetime(2026, 3, 29, 2, 30),
        "day": datetime.date(2026, 1, 31),
        "exact": Decimal("123456789.10"),
        "raw": b"\x00\xff",
        "doubles": [1.5, None],
        "texts": ["a", None],
        "dotted.name": 1.0,
    }
    odd = {**full, "double": float("nan"), "float": float("-inf"), "doubles": [float("inf")], "texts": [], "yes": False}
    none = dict.fromkeys(full)
    schema = (
        "id long, double double, float float, int int, long long, short short, text string, yes boolean, at timestamp, "
        "local timestamp_ntz, day date, exact decimal(18,2), raw binary, doubles array<double>, texts array<string>, `dotted.name` double"
    )
    rows = [{"id": i, **(none if i == 12 else odd if i % 3 else full)} for i in range(25)]
    df = spark.createDataFrame([tuple(row.values()) for row in rows], schema).coalesce(1)

    expected = engines.predict("spark_udf", uri, df, "string", batch=5)
    found = engines.predict("fast", uri, df, "string", batch=5, rows=1000)

    assert found["p"].to_pylist() == expected["p"].to_pylist()
    assert len({text.split(";")[0] for text in found["p"].to_pylist()}) == 2


class Outputs(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A method for each type of predictions, made of the row's number."""

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        return self.double(context, model_input)

    def double(self, context: Any, model_input: pd.DataFrame) -> Any:
        x = model_input["x"].to_numpy()
        return np.select([x % 5 == 1, x % 5 == 2, x % 5 == 3], [np.nan, np.inf, -0.0], x / 3)

    def float(self, context: Any, model_input: pd.DataFrame) -> Any:
        return self.double(context, model_input).astype(np.float32)

    def long(self, context: Any, model_input: pd.DataFrame) -> Any:
        return model_input["x"].to_numpy().astype(np.int64) + 2**53 + 1

    def string(self, context: Any, model_input: pd.DataFrame) -> Any:
        return [f"é{x}\0" for x in model_input["x"]]

    def boolean(self, context: Any, model_input: pd.DataFrame) -> Any:
        return model_input["x"].to_numpy() % 2 == 0

    def timestamp(self, context: Any, model_input: pd.DataFrame) -> Any:
        return pd.Series(pd.Timestamp("2026-01-31 01:02:03.000004") + pd.to_timedelta(model_input["x"], unit="h"))

    def binary(self, context: Any, model_input: pd.DataFrame) -> Any:
        return [bytes([int(x)]) for x in model_input["x"]]

    def array(self, context: Any, model_input: pd.DataFrame) -> Any:
        # Rows of other lengths, none, one without an array, and values narrower than what is declared.
        return [None if x == 3 else np.full(int(x) % 4, x, np.float32) for x in model_input["x"]]

    def matrix(self, context: Any, model_input: pd.DataFrame) -> Any:
        return [[[x, 0.1]] * (int(x) % 3) for x in model_input["x"]]

    def struct(self, context: Any, model_input: pd.DataFrame) -> Any:
        return pd.DataFrame(
            {
                "d": self.double(context, model_input),
                "f": self.float(context, model_input),
                "i": self.long(context, model_input),
                "s": self.string(context, model_input),
                "b": self.boolean(context, model_input),
                "a": [[int(x), 2] for x in model_input["x"]],
                "m": self.matrix(context, model_input),
                "t": [["x\0", "y"][: int(x) % 3] for x in model_input["x"]],
            }
        )


OUTPUTS = {
    "double": "double",
    "string": "string",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "binary": "binary",
    "array": "array<double>",
    "struct": "struct<d:double,f:float,i:long,s:string,b:boolean,a:array<double>,m:array<array<double>>,t:array<string>>",
}


def test_every_type_of_predictions_leaves_as_from_spark_udf(spark: SparkSession, engines: Engines) -> None:
    x = pd.DataFrame({"x": np.arange(23.0)})
    uri = _log(mlflow.pyfunc.log_model, None, x, np.zeros(2), python_model=Outputs())
    df = spark.createDataFrame(x.assign(id=np.arange(23))).coalesce(1)

    for method, result in OUTPUTS.items():
        expected = engines.predict("spark_udf", uri, df, result, batch=5, method=method)
        found = engines.predict("fast", uri, df, result, batch=5, rows=1000, method=method)
        assert found["p"].type == expected["p"].type
        assert [repr(one) for one in found["p"].to_pylist()] == [repr(one) for one in expected["p"].to_pylist()], method


def test_every_type_that_can_be_quarantined_leaves_as_from_spark_udf(spark: SparkSession, engines: Engines) -> None:
    """Row 7 is refused before the model sees it; the model itself refuses 4 and 14."""
    x = pd.DataFrame({"x": np.arange(23.0)})
    uri = _log(mlflow.pyfunc.log_model, None, x, np.zeros(2), python_model=Picky())
    problem = F.when(F.col("id") == 7, F.lit("column 'x': too odd")).alias(guard.PROBLEM)
    df = spark.createDataFrame(x.assign(id=np.arange(23))).select("*", problem).coalesce(1)

    for method in ("double", "string", "array", "struct"):
        contract = {"method": method, "isolates": True}
        expected = engines.predict("spark_udf", uri, df, OUTPUTS[method], batch=5, **contract)
        found = engines.predict("fast", uri, df, OUTPUTS[method], batch=5, rows=1000, **contract)
        assert [repr(row) for row in found.to_pylist()] == [repr(row) for row in expected.to_pylist()], method
        failed = [(row["id"], row[ERROR_FIELD]) for row in found.to_pylist() if row[ERROR_FIELD]]
        assert failed == [(4, "ValueError: not 4.0"), (7, "InputError: column 'x': too odd"), (14, "ValueError: not 14.0")]


class Picky(Outputs):
    """Refuses two rows."""

    def _check(self, model_input: pd.DataFrame) -> None:
        for x in model_input["x"]:
            if x in (4.0, 14.0):
                raise ValueError(f"not {x}")

    def double(self, context: Any, model_input: pd.DataFrame) -> Any:
        self._check(model_input)
        return super().double(context, model_input)

    def string(self, context: Any, model_input: pd.DataFrame) -> Any:
        self._check(model_input)
        return super().string(context, model_input)

    def array(self, context: Any, model_input: pd.DataFrame) -> Any:
        self._check(model_input)
        return super().array(context, model_input)


class Categories(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """XGBoost and LightGBM over pandas' categoricals, which no Spark column is: the model makes them of texts."""

    def __init__(self, kinds: Sequence[str], models: dict[str, Any]) -> None:
        self.kind, self.models = pd.CategoricalDtype(list(kinds)), models

    def predict(self, context: Any, model_input: pd.DataFrame) -> pd.DataFrame:
        x = model_input.assign(kind=model_input["kind"].astype(self.kind))
        return pd.DataFrame({name: model.predict(x).astype(float) for name, model in self.models.items()})


def test_texts_and_categories_are_the_same_as_in_the_loaded_model(spark: SparkSession, engines: Engines) -> None:
    rng = np.random.default_rng(1)
    kinds = ["a", "b", "c d", "é"]
    x = pd.DataFrame({"x": rng.normal(size=300), "kind": rng.choice(kinds, 300)})
    y = x["x"] + x["kind"].map({kind: i for i, kind in enumerate(kinds)})
    with_kind = x.assign(kind=x["kind"].astype(pd.CategoricalDtype(kinds)))
    models = {
        "xgboost": xgboost.XGBRegressor(n_estimators=10, enable_categorical=True).fit(with_kind, y),
        "lightgbm": lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(with_kind, y),
    }
    categories = Categories(kinds, models)
    given = x.copy()
    given.loc[::17, "kind"] = "unheard of"
    df = spark.createDataFrame(given.assign(id=np.arange(300))).repartition(3)
    one_hot = make_pipeline(OneHotEncoder(handle_unknown="ignore"), RandomForestRegressor(10, random_state=0))
    cases = {
        "struct<xgboost:double,lightgbm:double>": _log(
            mlflow.pyfunc.log_model, None, x, categories.predict(None, x), python_model=categories
        ),
        "double": _sklearn(one_hot, x.assign(x=x["x"].round(1)), y),
    }

    for result, uri in cases.items():
        expected = mlflow.pyfunc.load_model(uri).predict(given)
        rows = expected.to_dict("records") if isinstance(expected, pd.DataFrame) else list(expected)
        for engine in ("spark_udf", "fast"):
            found = engines.predict(engine, uri, df, result, batch=40, rows=120)
            assert found["p"].to_pylist() == [rows[i] for i in found["id"].to_pylist()]


def test_what_is_counted_for_drift_is_the_same(spark: SparkSession, engines: Engines) -> None:
    x = pd.DataFrame({"x": np.arange(200) % 23 / 1.0})
    uri = _log(mlflow.pyfunc.log_model, None, x, np.zeros(2), python_model=Outputs())
    df = spark.createDataFrame(x.assign(id=np.arange(200))).repartition(3)
    bins = Bins(edges=(0.0, 20.0, 20))
    watch = Watch({"x": (bins, "x")}, {"p": (bins, None, None)}, VALUE_FIELD, ERROR_FIELD)

    counts = {}
    for engine in ("spark_udf", "fast"):
        found = engines.predict(engine, uri, df, "double", batch=7, rows=50, watch=watch)
        parts = [part for part in found[COUNTED_FIELD].to_pylist() if part is not None]
        assert len(parts) == 3
        counts[engine] = add_up({"x": bins, "p": bins}, parts)

    for name in ("x", "p"):
        one, other = counts["fast"][name], counts["spark_udf"][name]
        assert (one.rows, one.missing, one.positive_infinite, one.bins) == (other.rows, other.missing, other.positive_infinite, other.bins)
        # Sums of doubles depend on what is added first.
        assert (one.least, one.greatest, one.total) == (other.least, other.greatest, pytest.approx(other.total, rel=1e-12))


def test_the_model_gets_larger_batches_within_the_limits(spark: SparkSession, engines: Engines) -> None:
    class Counting(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return np.full(len(model_input), len(model_input))

    uri = _log(mlflow.pyfunc.log_model, None, pd.DataFrame({"x": [1.0]}), np.zeros(1, np.int64), python_model=Counting())
    df = spark.range(1000).withColumn("x", F.col("id").cast("double")).coalesce(1)

    joined = engines.predict("fast", uri, df, "long", batch=100, rows=500)["p"].to_pylist()
    all_at_once = engines.predict("fast", uri, df, "long", rows=None)["p"].to_pylist()
    as_spark_has_them = engines.predict("fast", uri, df, "long", batch=300, rows=None)["p"].to_pylist()

    assert (set(joined), set(all_at_once), set(as_spark_has_them)) == ({500}, {1000}, {300, 100})


def _config(config: Make, uri: str, path: Path, engine: str, **model: Any) -> dict[str, Any]:
    return config(model={"uri": uri, **model}, source={"path": str(path)}, columns={"labels": ["target"]}, scoring={"engine": engine})


class Refuses(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Cannot predict one patient."""

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        if (model_input["id"] == 300).any():
            raise ValueError("no such patient")
        return np.zeros(len(model_input))


def test_a_failing_row_is_named_in_the_same_words(
    spark: SparkSession, config: Make, store: str, diabetes: pd.DataFrame, diabetes_path: Path
) -> None:
    x = diabetes.drop(columns="target")
    uri = _log(mlflow.pyfunc.log_model, None, x, np.zeros(1), python_model=Refuses())
    said = {}
    through_spark = {"filter": "id >= 0"}
    for name, engine, source in (("direct", "fast", {}), ("fast", "fast", through_spark), ("spark_udf", "spark_udf", {})):
        settings = _config(config, uri, diabetes_path, engine)
        settings["columns"]["keys"] = ["id"]
        settings["source"].update(source)
        with pytest.raises(ModelError) as error:
            score(settings, spark=spark)
        said[name] = str(error.value)

    assert set(said.values()) == {"the model failed to predict: ValueError: no such patient (row id=300)"}, said


def test_the_runs_record_says_which_engine_it_was(
    spark: SparkSession, config: Make, linear_uri: str, diabetes_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sections = _config(config, linear_uri, diabetes_path, "auto")
    sections["source"] = {**sections["source"], "filter": "id >= 0"}  # so that the rows pass Spark
    run = score(sections, spark=spark)

    assert mlflow.get_run(run.run_id).data.params["scoring.engine"] == "fast"
    assert "(engine fast)" in caplog.text


class Mapping(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A mapping for each row."""

    def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
        return [{"a": 1.0} for _ in range(len(model_input))]


def test_what_is_not_proven_is_left_to_spark_udf_and_refused_where_fast_was_asked_for(
    spark: SparkSession, config: Make, store: str, diabetes_path: Path, features: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    x = pd.DataFrame(np.zeros((2, len(features))), columns=features)
    uri = _log(mlflow.pyfunc.log_model, None, x, np.zeros(1), python_model=Mapping())

    run = score(_config(config, uri, diabetes_path, "auto", result_type="map<string,double>"), spark=spark)

    assert mlflow.get_run(run.run_id).data.params["scoring.engine"] == "spark_udf"
    why = "predictions of type map<string,double> are left to mlflow.pyfunc.spark_udf"
    assert f"engine: spark_udf, because {why}" in caplog.text
    with pytest.raises(ConfigError, match=f"scoring.engine: fast is not possible: {why}; leave it at auto"):
        score(_config(config, uri, diabetes_path, "fast", result_type="map<string,double>"), spark=spark)


def test_a_workers_model_is_loaded_once_for_all_its_tasks(spark: SparkSession, engines: Engines) -> None:
    class Loaded(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context):  # type: ignore[no-untyped-def]
            import os
            import uuid

            self.name = f"{os.getpid()} {uuid.uuid4()}"

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return [self.name] * len(model_input)

    uri = _log(mlflow.pyfunc.log_model, None, pd.DataFrame({"x": [1.0]}), ["a"], python_model=Loaded())
    df = spark.range(40).withColumn("x", F.col("id").cast("double")).repartition(20)

    names = set(engines.predict("fast", uri, df, "string")["p"].to_pylist())

    assert len(names) == len({name.split()[0] for name in names})
