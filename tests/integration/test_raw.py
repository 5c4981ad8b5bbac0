"""Raw model files: each kind scores as its own library does, bit for bit, and what is none is refused in one line."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import mlflow
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import skops.io
import torch
import xgboost
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from lakescore import score
from lakescore.config import ModelConfig
from lakescore.errors import ModelError
from lakescore.models.raw import wrap
from lakescore.models.resolve import ResolvedModel, resolve
from lakescore.registration import Registration, register

Make = Callable[..., dict[str, Any]]
FEATURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
NET = """
import torch
from layers import make_layers

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = make_layers()

    def forward(self, x):
        return self.layers(x) * {scale}

def needs_more(width):
    return Net()
"""
LAYERS = """
import torch

def make_layers():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))
"""


@dataclass(frozen=True)
class Raw:
    """A raw file, what its own library predicts, and the settings that scoring it needs."""

    file: Path
    expected: Any
    model: dict[str, Any] = field(default_factory=dict)
    select: bool = False


@pytest.fixture(scope="module")
def iris() -> pd.DataFrame:
    """150 real flowers, an integer `id`, and the species as `target`."""
    frame = load_iris(as_frame=True).frame.set_axis([*FEATURES, "target"], axis=1)
    return frame.assign(id=np.arange(len(frame)))


@pytest.fixture(scope="module")
def iris_path(tmp_path_factory: pytest.TempPathFactory, iris: pd.DataFrame) -> Path:
    path = tmp_path_factory.mktemp("iris") / "iris.parquet"
    iris.to_parquet(path, index=False)
    return path


def _forest(iris: pd.DataFrame) -> RandomForestClassifier:
    species = np.array(["setosa", "versicolor", "virginica"])[iris["target"]]
    return RandomForestClassifier(10, random_state=0).fit(iris[FEATURES], species)


def _pkl(iris: pd.DataFrame, folder: Path) -> Raw:
    model = _forest(iris)
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    return Raw(folder / "model.pkl", model.predict(iris[FEATURES]))


def _joblib(iris: pd.DataFrame, folder: Path) -> Raw:
    model = LinearRegression().fit(iris[FEATURES].to_numpy(), iris["target"])
    joblib.dump(model, folder / "model.joblib", compress=3)
    return Raw(folder / "model.joblib", model.predict(iris[FEATURES].to_numpy()), select=True)


def _skops(iris: pd.DataFrame, folder: Path) -> Raw:
    model = LogisticRegression(max_iter=500).fit(iris[FEATURES], iris["target"])
    skops.io.dump(model, folder / "model.skops")
    return Raw(folder / "model.skops", model.predict(iris[FEATURES]))


def _xgboost_json(iris: pd.DataFrame, folder: Path) -> Raw:
    model = xgboost.XGBClassifier(n_estimators=5).fit(iris[FEATURES], iris["target"])
    model.save_model(folder / "model.json")
    return Raw(folder / "model.json", model.predict(iris[FEATURES]))


def _xgboost_ubj(iris: pd.DataFrame, folder: Path) -> Raw:
    rows = xgboost.DMatrix(iris[FEATURES], label=iris["target"])
    model = xgboost.train({"objective": "multi:softprob", "num_class": 3}, rows, num_boost_round=5)
    model.save_model(folder / "model.ubj")
    return Raw(folder / "model.ubj", model.predict(rows))


def _lightgbm(iris: pd.DataFrame, folder: Path) -> Raw:
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(iris[FEATURES], iris["target"])
    model.booster_.save_model(folder / "model.txt")
    return Raw(folder / "model.txt", model.predict(iris[FEATURES]))


def _net(folder: Path, scale: float = 1.0) -> torch.nn.Module:
    """A module whose class lies in `net.py` beside the file, which imports another; nothing of it stays importable."""
    (folder / "net.py").write_text(NET.format(scale=scale), encoding="utf-8")
    (folder / "layers.py").write_text(LAYERS, encoding="utf-8")
    for name in ("net", "layers"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        import net  # type: ignore[import-not-found]

        torch.manual_seed(0)
        return net.Net().eval()  # type: ignore[no-any-return]
    finally:
        sys.path.remove(str(folder))


def _predicted(model: torch.nn.Module, iris: pd.DataFrame) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(iris[FEATURES].to_numpy(np.float32))).numpy()


def _forget() -> None:
    for name in ("net", "layers"):
        sys.modules.pop(name, None)


def _torchscript(iris: pd.DataFrame, folder: Path) -> Raw:
    model = torch.jit.trace(_net(folder), torch.zeros(2, 4))  # type: ignore[no-untyped-call]
    model.save(str(folder / "model.pt"))
    expected = _predicted(model, iris)
    _forget()
    for name in ("net.py", "layers.py"):
        (folder / name).unlink()
    return Raw(folder / "model.pt", expected, {"result_type": "array<float>"}, select=True)


def _torch_module(iris: pd.DataFrame, folder: Path) -> Raw:
    model = _net(folder)
    torch.save(model.train(), folder / "model.pth")
    expected = _predicted(model.eval(), iris)
    _forget()
    return Raw(folder / "model.pth", expected, {"result_type": "array<float>"}, select=True)


def _torch_state_dict(iris: pd.DataFrame, folder: Path) -> Raw:
    model = _net(folder)
    torch.save({"epoch": 3, "model_state_dict": model.state_dict()}, folder / "model.pt")
    expected = _predicted(model, iris)
    _forget()
    return Raw(folder / "model.pt", expected, {"python_class": "net:Net", "result_type": "array<float>"}, select=True)


def _onnx(iris: pd.DataFrame, folder: Path) -> Raw:
    rows = iris[FEATURES].to_numpy(np.float32)
    graph = to_onnx(LinearRegression().fit(rows, iris["target"]), rows[:1])
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return Raw(folder / "model.onnx", session.run(None, {session.get_inputs()[0].name: rows})[0].ravel(), select=True)


KINDS: dict[str, Callable[[pd.DataFrame, Path], Raw]] = {
    "pkl": _pkl,
    "joblib": _joblib,
    "skops": _skops,
    "xgboost-json": _xgboost_json,
    "xgboost-ubj": _xgboost_ubj,
    "lightgbm": _lightgbm,
    "torchscript": _torchscript,
    "torch-module": _torch_module,
    "torch-state-dict": _torch_state_dict,
    "onnx": _onnx,
}


@pytest.fixture(params=list(KINDS))
def made(request: pytest.FixtureRequest, iris: pd.DataFrame, tmp_path: Path) -> Raw:
    folder = tmp_path / "models"
    folder.mkdir()
    return KINDS[request.param](iris, folder)


def _scored(spark: SparkSession, settings: dict[str, Any]) -> tuple[Any, pd.DataFrame]:
    result = score(settings, spark=spark)
    return result, DeltaTable(result.location).to_pandas().sort_values("id")


def _assert_equal(written: pd.Series, expected: Any) -> None:
    actual = np.array(written.tolist()) if expected.ndim > 1 else written.to_numpy()
    np.testing.assert_array_equal(actual, expected)


def test_a_raw_file_scores_as_its_own_library_does(
    spark: SparkSession, config: Make, made: Raw, iris: pd.DataFrame, iris_path: Path
) -> None:
    settings = config(
        model={"uri": str(made.file), **made.model},
        source={"path": str(iris_path)},
        columns={"keys": ["id"], **({"select": FEATURES} if made.select else {})},
    )

    result, rows = _scored(spark, settings)

    _assert_equal(rows["prediction"], made.expected)
    assert result.model_uri == f"file://{made.file}"
    assert result.model_version.startswith("sha256:")


def test_a_raw_file_registers_and_scores_the_same(
    spark: SparkSession, config: Make, store: str, made: Raw, iris: pd.DataFrame, iris_path: Path, request: pytest.FixtureRequest
) -> None:
    name = f"raw-{request.node.callspec.id}"
    registered = register(
        Registration(
            str(made.file), name, aliases=("champion",), sample=str(iris_path), labels=("target", "id"),
            python_class=made.model.get("python_class"),
        )
    )  # fmt: skip
    settings = config(model={"uri": registered.uri}, source={"path": str(iris_path)}, columns={"keys": ["id"]})

    result, rows = _scored(spark, settings)

    _assert_equal(rows["prediction"], made.expected)
    assert (registered.uri, result.model_uri) == (f"models:/{name}@champion", f"models:/{name}/1")


class TestResolved:
    """What resolving a raw file tells and refuses, without Spark."""

    @pytest.fixture
    def resolved(self, store: str, tmp_path: Path) -> Callable[..., ResolvedModel]:
        client = mlflow.MlflowClient(store)
        count = iter(range(100))

        def make(uri: Any, **settings: Any) -> ResolvedModel:
            return resolve(ModelConfig(uri=str(uri), **settings), client, None, tmp_path / f"download-{next(count)}")

        return make

    def refused(self, resolved: Callable[..., ResolvedModel], uri: Path, **settings: Any) -> str:
        with pytest.raises(ModelError) as error:
            resolved(uri, **settings)
        message = str(error.value)
        assert "\n" not in message
        assert message.startswith(f"model.uri: {uri}")
        return message.removeprefix(f"model.uri: {uri}").lstrip(": ")

    def test_the_version_is_the_files_own_digest_and_stays(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        import hashlib

        made = _xgboost_json(iris, tmp_path)

        first, second = resolved(made.file), resolved(made.file)

        assert first.digest == second.digest == hashlib.sha256(made.file.read_bytes()).hexdigest()
        assert first.version == f"sha256:{first.digest[:16]}"

    def test_the_digest_covers_the_code_that_is_shipped(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        made = _torch_state_dict(iris, tmp_path)
        first = resolved(made.file, python_class="net:Net", result_type="array<float>")
        (tmp_path / "layers.py").write_text(LAYERS + "\n# another layer\n", encoding="utf-8")

        second = resolved(made.file, python_class="net:Net", result_type="array<float>")

        assert first.digest != second.digest
        assert sorted(path.name for path in (second.path / "code").iterdir()) == ["layers.py", "net.py"]
        assert "net" not in sys.modules

    def test_a_pickle_warns_that_it_runs_code(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = _pkl(iris, tmp_path)
        logging.getLogger("lakescore").propagate = True

        with caplog.at_level(logging.WARNING, "lakescore"):
            resolved(made.file)

        # A set: other tests may have left the logger with a way of its own to the capture.
        assert {record.getMessage() for record in caplog.records if record.name == "lakescore.models.raw"} == {
            f"model: {made.file} is a pickle, and loading it runs the code that is in it; load only what you trust "
            "(model.allowed_roots restricts where models may come from)"
        }

    def test_joblib_under_the_name_of_a_pickle_is_loaded(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        joblib.dump(_forest(iris), tmp_path / "model.pkl")

        model = resolved(tmp_path / "model.pkl")

        assert (model.flavor, model.signature.names) == ("sklearn", tuple(FEATURES))

    def test_the_path_of_an_mlflow_models_data_means_that_model(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        mlflow.sklearn.save_model(_forest(iris), tmp_path / "model", serialization_format="cloudpickle")

        model = resolved(tmp_path / "model" / "model.pkl", result_type="string")

        assert model.uri == f"file://{tmp_path}/model"

    def test_a_runs_raw_artifact_is_wrapped_with_the_module_beside_it(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        folder = tmp_path / "local"
        folder.mkdir()
        _torch_state_dict(iris, folder)
        (folder / "net.py").write_text((folder / "net.py").read_text().replace("from layers import make_layers", LAYERS), encoding="utf-8")
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder), "model")
        uri = f"runs:/{run.info.run_id}/model/model.pt"

        model = resolved(uri, python_class="net:Net", result_type="array<float>")

        assert (model.uri, model.flavor) == (uri, "pytorch")

    def test_onnx_with_several_inputs_and_outputs_names_them_all(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        model = LogisticRegression(max_iter=500).fit(iris[FEATURES].to_numpy(np.float32), iris["target"])
        graph = to_onnx(model, iris[FEATURES].to_numpy(np.float32)[:1], options={"zipmap": False})
        (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())

        signature = resolved(tmp_path / "m.onnx").signature

        assert signature.result is not None
        assert signature.result.simpleString() == "struct<label:bigint,probabilities:array<float>>"
        assert [kind.simpleString() for kind in signature.unnamed or ()] == ["double"] * 4

    def test_onnx_with_a_fixed_batch_is_refused(self, resolved: Callable[..., ResolvedModel], tmp_path: Path) -> None:
        tensor = onnx.TensorProto.FLOAT
        values = [onnx.helper.make_tensor_value_info(name, tensor, [1, 4]) for name in ("x", "y")]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")

        assert self.refused(resolved, tmp_path / "m.onnx") == (
            "takes batches of exactly 1 row(s) (input 'x' is [1, 4]); export it with a dynamic first axis"
        )

    def test_torch_needs_to_be_told_its_output(self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path) -> None:
        made = _torchscript(iris, tmp_path)

        with pytest.raises(ModelError, match=r"^model.result_type: is required"):
            resolved(made.file)

        signature = resolved(made.file, input_shape=(4,)).signature
        assert [kind.simpleString() for kind in signature.unnamed or ()] == ["float"] * 4
        assert signature.result is not None
        assert signature.result.simpleString() == "array<float>"

    def test_a_state_dict_without_its_class_is_refused(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        made = _torch_state_dict(iris, tmp_path)

        assert self.refused(resolved, made.file).startswith("is a state_dict, which has the weights and not the module: name its class as")
        for given, message in (
            ("nett:Net", "python_class nett:Net: there is no module 'nett'; put nett.py beside the file, or install it"),
            ("net:Nett", "python_class net:Nett: net has no 'Nett'. Did you mean 'Net'?"),
            ("net:torch", "python_class net:torch: net has no class or function 'torch', but a module."),
            (
                "net:needs_more",
                "python_class net:needs_more cannot be called without arguments: needs_more() missing 1 required positional",
            ),
            ("collections:OrderedDict", "python_class collections:OrderedDict makes an OrderedDict; expected a torch.nn.Module"),
            ("torch.nn:Identity", "its weights are not those of torch.nn:Identity: Unexpected key(s) in state_dict: "),
        ):
            assert self.refused(resolved, made.file, python_class=given).startswith(message)

    def test_a_checkpoint_of_unknown_keys_is_refused(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        torch.save({"net": _net(tmp_path).state_dict(), "epoch": 3}, tmp_path / "m.pt")

        assert self.refused(resolved, tmp_path / "m.pt") == (
            "holds a dict with the keys net, epoch, which is no state_dict; save the state_dict alone, or under the key state_dict or "
            "model_state_dict or model"
        )

    def test_onnx_with_a_mapping_for_each_row_is_refused(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        rows = iris[FEATURES].to_numpy(np.float32)
        graph = to_onnx(LogisticRegression(max_iter=500).fit(rows, iris["target"]), rows[:1])
        (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())

        assert self.refused(resolved, tmp_path / "m.onnx").endswith("skl2onnx's to_onnx(..., options={'zipmap': False})")

    def test_an_input_shape_that_does_not_fit_is_refused(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        made = _torchscript(iris, tmp_path)

        message = self.refused(resolved, made.file, input_shape=(5,))

        assert message.startswith("does not take rows of the shape [5] (model.input_shape): ")
        assert "mat1 and mat2 shapes cannot be multiplied" in message

    def test_skops_names_the_types_that_it_does_not_trust(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        model = make_pipeline(FunctionTransformer(np.save), LinearRegression()).set_output()
        skops.io.dump(model, tmp_path / "m.skops")

        assert self.refused(resolved, tmp_path / "m.skops").startswith("holds types that skops does not trust: ")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("m.json", b'{"trees": []}', "is no XGBoost model: it has no 'learner'; write it by booster.save_model(...), not dump_model"),
            ("m.json", b'{"learner": {}}', "cannot be loaded: XGBoostError: "),
            ("m.txt", b"a review, and no model\n", "is no LightGBM model: its first line is not 'tree'; write it by booster.save_model"),
            ("m.txt", b"tree\nversion=v4\nnum_class=1\n", "cannot be loaded: LightGBMError: "),
            ("m.onnx", b"hello", "is no ONNX model: its head is not that of a ModelProto"),
            ("m.pt", b"hello", "is no PyTorch file: it is neither a zip archive nor torch.save's older format"),
            ("m.pkl", b"", "is empty"),
            ("m.pkl", b"\x80\x04.", "cannot be loaded: "),
            ("m.pkl", pickle.dumps({"a": 1}), "holds a dict with the keys a; expected a fitted model with a method predict"),
            ("m.pkl", pickle.dumps(LinearRegression()), "holds a LinearRegression that is not fitted: fit it, and save it again"),
            ("m.pkl", b"cno_such_module\nModel\n.", "cannot be loaded: it needs the module 'no_such_module': install it, or put its file"),
            ("m.pt", pickle.dumps({"a": 1}), "holds a dict with the keys a; expected a fitted model with a method predict"),
            ("m.h5", b"\x89HDF\r\n\x1a\n", "is a Keras HDF5 file, which is not recognised: log it with mlflow.keras.log_model"),
            ("m.bin", b"weights", "is no model that is recognised; expected an MLflow folder, or one of .pkl, .pickle, .joblib, .skops, "),
            ("m.pkl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the model: fetch it by git lfs pull"),
        ],
    )
    def test_what_is_no_model_is_refused_in_one_line(
        self, resolved: Callable[..., ResolvedModel], tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)

        assert self.refused(resolved, tmp_path / name).startswith(message)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["a.csv"], "is a zip archive that is no model of TorchScript, torch.save or skops; it holds a.csv"),
            (["config.json", "metadata.json"], "is a Keras file, which is not recognised"),
            (["m/archive_format", "m/models/model.json"], "is an archive of torch.export, which is not recognised"),
            (["m/data.pkl", "m/constants.pkl", "m/code/a.py"], "cannot be loaded: RuntimeError: "),
        ],
    )
    def test_a_zip_that_is_no_model_is_refused_in_one_line(
        self, resolved: Callable[..., ResolvedModel], tmp_path: Path, names: list[str], message: str
    ) -> None:
        with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

        assert self.refused(resolved, tmp_path / "m.pt").startswith(message)

    def test_a_damaged_zip_is_refused(self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path) -> None:
        made = _torchscript(iris, tmp_path)
        made.file.write_bytes(made.file.read_bytes()[:2000])

        assert self.refused(resolved, made.file).startswith("is a damaged zip archive: ")

    def test_settings_of_torch_are_refused_for_other_kinds(
        self, resolved: Callable[..., ResolvedModel], iris: pd.DataFrame, tmp_path: Path
    ) -> None:
        made = _xgboost_json(iris, tmp_path)

        assert (
            self.refused(resolved, made.file, python_class="a:B") == "is of the kind xgboost; a python_class is for a state_dict of PyTorch"
        )


def test_a_later_model_does_not_get_the_earlier_ones_module(
    spark: SparkSession, config: Make, iris: pd.DataFrame, iris_path: Path, tmp_path: Path
) -> None:
    """Spark reuses its Python workers: `net` of the first run must not stand for `net` of the second."""
    written = []
    for scale in (1.0, 2.0):
        folder = tmp_path / str(scale)
        folder.mkdir()
        torch.save(_net(folder, scale).state_dict(), folder / "model.pt")
        _forget()
        settings = config(
            model={"uri": str(folder / "model.pt"), "python_class": "net:Net", "result_type": "array<float>"},
            source={"path": str(iris_path)},
            columns={"keys": ["id"], "select": FEATURES},
            output={"path": str(tmp_path / f"out-{scale}")},
        )
        _, rows = _scored(spark, settings)
        written.append(np.array(rows["prediction"].tolist()))

    np.testing.assert_array_equal(written[1], written[0] * 2)


def test_a_network_of_doubles_gets_doubles(spark: SparkSession, config: Make, iris: pd.DataFrame, iris_path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.jit.script(torch.nn.Linear(4, 3).double())  # type: ignore[no-untyped-call]
    model.save(str(tmp_path / "model.pt"))
    settings = config(
        model={"uri": str(tmp_path / "model.pt"), "input_shape": [4]},
        source={"path": str(iris_path)},
        columns={"keys": ["id"], "select": FEATURES},
    )

    _, rows = _scored(spark, settings)

    with torch.no_grad():
        _assert_equal(rows["prediction"], model(torch.from_numpy(iris[FEATURES].to_numpy())).numpy())


def test_torchscripts_own_reason_is_shown(spark: SparkSession, config: Make, iris: pd.DataFrame, iris_path: Path, tmp_path: Path) -> None:
    made = _torchscript(iris, tmp_path)
    model = {"uri": str(made.file), "result_type": "array<float>"}

    with pytest.raises(ModelError, match=r"^the model failed to predict: RuntimeError: .*shapes cannot be multiplied"):
        score(config(model=model, source={"path": str(iris_path)}, columns={"select": FEATURES[:3]}), spark=spark)


def test_columns_of_any_type_reach_a_model_that_knows_only_their_names(
    spark: SparkSession, config: Make, iris: pd.DataFrame, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"id": range(6), "kind": ["a", "b", "c"] * 2, "size": [1, 2, 3, 4, 5, 6], "y": [1.0, 4.0, 9.0, 2.0, 5.0, 8.0]})
    model = make_pipeline(make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"), LinearRegression())
    model.fit(frame[["kind", "size"]], frame["y"])
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    settings = config(model={"uri": str(tmp_path / "m.pkl")}, source={"path": str(tmp_path / "rows.parquet")}, columns={"keys": ["id"]})

    _, rows = _scored(spark, settings)

    np.testing.assert_array_equal(rows["prediction"], model.predict(frame[["kind", "size"]]))


def test_a_text_pipeline_gets_the_texts_and_not_the_frame(spark: SparkSession, config: Make, tmp_path: Path) -> None:
    texts = ["good film", "bad film", "very good", "very bad", "good", "bad"]
    labels = ["positive", "negative"] * 3
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    settings = config(
        model={"uri": str(tmp_path / "m.pkl")},
        source={"rows": [{"id": i, "review": text} for i, text in enumerate(texts)]},
        columns={"keys": ["id"]},
    )

    _, rows = _scored(spark, settings)

    assert rows["prediction"].tolist() == model.predict(texts).tolist()


def test_an_image_sized_input_takes_an_array_column(spark: SparkSession, config: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 10)).eval()
    torch.jit.trace(model, torch.zeros(2, 1, 8, 8)).save(str(tmp_path / "m.pt"))  # type: ignore[no-untyped-call]
    images = np.random.default_rng(0).random((5, 64), dtype=np.float32)
    pd.DataFrame({"id": range(5), "image": list(images)}).to_parquet(tmp_path / "rows.parquet", index=False)
    settings = config(
        model={"uri": str(tmp_path / "m.pt"), "input_shape": [1, 8, 8]},
        source={"path": str(tmp_path / "rows.parquet")},
        columns={"keys": ["id"], "select": ["image"]},
    )

    _, rows = _scored(spark, settings)

    with torch.no_grad():
        expected = model(torch.from_numpy(images.reshape(-1, 1, 8, 8))).numpy()
    _assert_equal(rows["prediction"], expected)


def test_a_pickled_class_of_a_script_says_where_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04\x8c\x08__main__\x8c\x0bNoSuchClass\x93.")

    with pytest.raises(ModelError, match=r"its class was defined in the script that saved it: put the class into a module beside the file"):
        wrap(tmp_path / "m.pkl", tmp_path / "out", "model.uri: m.pkl")


def test_the_input_names_are_in_the_metadata(iris: pd.DataFrame, tmp_path: Path) -> None:
    made = _pkl(iris, tmp_path)

    wrapped = wrap(made.file, tmp_path / "out", "model.uri: m.pkl")

    metadata = mlflow.models.Model.load(str(wrapped.path)).metadata
    assert json.loads(json.dumps(metadata)) == {"lakescore.input_names": FEATURES}
