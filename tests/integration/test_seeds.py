"""What users of Kapitan Hull, MLRun and Azure do today, done with conf/examples: equal to the native libraries' own results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from deltalake import DeltaTable
from PIL import Image
from pyspark.sql import SparkSession
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from lakescore import read, score
from lakescore.cli import main
from lakescore.errors import InputError, OutputError
from lakescore.registration import Registration, register
from lakescore.result import ScoreResult
from support.environment import without

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "conf" / "examples"
UUID = "4f1c7a52e0b94d0f8f6f1c2d3e4a5b6c"
OWN_FOLDER = r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000")


@pytest.fixture
def example(spark: SparkSession, store: str) -> Callable[..., ScoreResult]:
    """Score with a file of conf/examples: ``example("rows", "run.name=x")``."""

    def run(name: str, *overrides: str) -> ScoreResult:
        return score(EXAMPLES / f"{name}.yaml", overrides=[f"tracking.tracking_uri={store}", *overrides], spark=spark)

    return run


def command(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``lakescore ...`` as a user types it, in the folder that we are in."""
    inherited = without("PYSPARK", "SPARK", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT")
    return subprocess.run(
        [str(Path(sys.executable).parent / "lakescore"), *arguments],
        env={**inherited, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, whose times are checked to be one and as in the seeds."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    times = {line.pop("time") for line in lines}
    assert len(times) == 1
    assert TIME.fullmatch(times.pop())
    return lines


# --- Kapitan Hull: images

NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(288, 10)
        )

    def forward(self, x):
        return torch.nn.functional.log_softmax(self.layers(x), dim=1)
"""


def prepared(file: Path) -> torch.Tensor:
    """An image as Kapitan Hull's script gives it to the network: ToTensor, then Normalize((0.1307,), (0.3081,))."""
    pixels = torch.from_numpy(np.asarray(Image.open(file).convert("L"), np.float32))
    return (pixels / 255 - 0.1307)[None] / 0.3081


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project of Kapitan Hull's: digits as PNG files, a network trained on others, and what it says of each file."""
    project = tmp_path_factory.mktemp("kapitan-hull")
    digits, training = load_digits(), project / "training"
    folder, model = project / "data" / "batched-mnist-input-data", project / "models" / UUID / "artifacts" / "model"
    for one in (training, folder, model, project / "src"):
        one.mkdir(parents=True)
    for i, pixels in enumerate(digits.images):
        picture = Image.fromarray((pixels / 16 * 255).round().astype(np.uint8)).resize((28, 28), Image.Resampling.BILINEAR)
        picture.save((training if i < 1500 else folder) / f"{i:06}.png")
    (project / "src" / "__init__.py").touch()
    (project / "src" / "modelling.py").write_text(NETWORK, encoding="utf-8")
    sys.path.insert(0, str(project))
    try:
        from src.modelling import Net  # type: ignore[import-not-found]

        network = _trained(Net(), torch.stack([prepared(training / f"{i:06}.png") for i in range(1500)]), digits.target[:1500])
        torch.save(network, model / "model.pt")
    finally:
        sys.path.remove(str(project))
        for name in ("src", "src.modelling"):
            sys.modules.pop(name, None)
    files = sorted(folder.iterdir())
    with torch.no_grad():
        classes = network(torch.stack([prepared(file) for file in files])).argmax(dim=1)
    assert (classes.numpy() == digits.target[1500:]).mean() > 0.8
    return project, {str(file): str(int(found)) for file, found in zip(files, classes, strict=True)}


def _trained(network: torch.nn.Module, x: torch.Tensor, labels: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    y, optimizer = torch.from_numpy(labels), torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(4):
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.nll_loss(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return network.eval()


def test_a_folder_of_images_becomes_json_lines_with_the_classes(
    images: tuple[Path, dict[str, str]], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, expected = images
    monkeypatch.chdir(project)
    environment = {"PRED_MODEL_UUID": UUID, "PRED_MODEL_PATH": f"{project}/models/{UUID}/artifacts/model/model.pt"}

    answer = command(
        "score", "--config", str(EXAMPLES / "images.yaml"), f"source.path={project}/data/batched-mnist-input-data",
        f"tracking.tracking_uri={store}", environment=environment,
    )  # fmt: skip

    assert answer.returncode == 0, answer.stderr
    (written,) = re.findall(r"^written to: +(.*)$", answer.stdout, re.MULTILINE)
    assert re.fullmatch(OWN_FOLDER + r"/batch-infer-res\.jsonl", os.path.relpath(written))
    lines = lines_of(Path(written))
    assert [tuple(line) for line in lines] == [("image_filepath", "prediction")] * len(expected)
    assert {line["image_filepath"]: line["prediction"] for line in lines} == expected
    (run_id,) = re.findall(r"^run: +(\w+)", answer.stdout, re.MULTILINE)
    assert mlflow.get_run(run_id).data.tags["pred_model_uuid"] == UUID


def test_an_unset_variable_is_named(
    images: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images[0])
    monkeypatch.setenv("PRED_MODEL_UUID", UUID)
    monkeypatch.delenv("PRED_MODEL_PATH", raising=False)

    code = main(["score", "--config", str(EXAMPLES / "images.yaml")])

    assert code == 2
    assert "model.uri: the environment variable PRED_MODEL_PATH is not set" in capsys.readouterr().err


# --- Kapitan Hull: texts

GOOD = ["moving", "brilliant", "a joy", "warm", "funny", "superb", "touching", "clever", "grand", "delightful"]
BAD = ["dull", "a bore", "clumsy", "lifeless", "a mess", "tedious", "awful", "shallow", "noisy", "wooden"]
ABOUT = ["plot", "cast", "camera work", "score", "ending", "dialogue", "café scene", "first hour", "lead actor", "script"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline]:
    """A project of Kapitan Hull's: reviews as text files, and a pipeline fitted on half of them."""
    project = tmp_path_factory.mktemp("kapitan-hull-texts")
    folder, model = project / "data" / "batched-input-data", project / "models" / UUID / "artifacts" / "model" / "data"
    folder.mkdir(parents=True)
    model.mkdir(parents=True)
    random, reviews, labels = np.random.default_rng(0), [], []
    for i in range(300):
        words = [*GOOD, *BAD[:3]] if i % 2 else [*BAD, *GOOD[:3]]
        reviews.append("\n".join(f"The {random.choice(ABOUT)} was {random.choice(words)}." for _ in range(random.integers(1, 6))))
        labels.append(i % 2)
        (folder / f"{i}_{random.integers(1, 11)}.txt").write_text(reviews[-1], encoding="utf-8")
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(reviews[:150], labels[:150])
    joblib.dump(pipeline, model / "model")
    return project, pipeline


def test_a_folder_of_reviews_becomes_json_lines_with_probability_and_sentiment(
    spark: SparkSession,
    texts: tuple[Path, Pipeline],
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project, pipeline = texts
    monkeypatch.chdir(project)
    model = f"{project}/models/{UUID}/artifacts/model/data/model"
    monkeypatch.setenv("PRED_MODEL_UUID", UUID)
    monkeypatch.setenv("PRED_MODEL_PATH", model)

    # inference.model_path=$PRED_MODEL_PATH inference.input_data_dir="$PWD/data/batched-input-data"
    code = main(
        ["score", "--config", str(EXAMPLES / "texts.yaml"), f"model.uri={model}", f"source.path={project}/data/batched-input-data",
         f"tracking.tracking_uri={store}"]
    )  # fmt: skip

    shown = capsys.readouterr()
    assert code == 0, shown.err
    (written,) = re.findall(r"^written to: +(.*)$", shown.out, re.MULTILINE)
    assert re.fullmatch(OWN_FOLDER + r"/batch-infer-res\.jsonl", os.path.relpath(written))
    lines = lines_of(Path(written))
    files = sorted((project / "data" / "batched-input-data").iterdir())
    probabilities = pipeline.predict_proba([file.read_text(encoding="utf-8") for file in files])[:, 1]
    assert sorted(lines, key=lambda line: line["filepath"]) == [
        {"filepath": str(file), "logit_prob": probability, "sentiment": "positive" if probability >= 0.5 else "negative"}
        for file, probability in zip(files, probabilities, strict=True)
    ]
    assert {line["sentiment"] for line in lines} == {"positive", "negative"}


# --- MLRun

FEATURES = [f"feat_{i}" for i in range(5)]


@dataclass(frozen=True)
class Fitted:
    """A model that is registered, and what it says of the data set."""

    uri: str
    expected: list[int]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """569 real tumours: five measurements as doubles, and `labels`."""
    data = load_breast_cancer()
    return pd.DataFrame(data.data[:, :5], columns=FEATURES).assign(labels=data.target)


@pytest.fixture(scope="module")
def data_uri(tmp_path_factory: pytest.TempPathFactory, data_set: pd.DataFrame) -> str:
    path = tmp_path_factory.mktemp("mlrun") / "classifier-data.csv"
    data_set.to_csv(path, index=False)
    return f"file://{path}"


@pytest.fixture(scope="module", params=["sklearn", "xgboost", "lightgbm"])
def fitted(
    request: pytest.FixtureRequest, store: str, tmp_path_factory: pytest.TempPathFactory, data_set: pd.DataFrame, data_uri: str
) -> Fitted:
    """A classifier of the three features that the seed leaves, as model.pkl, registered as `MyModel-KIND@champion`."""
    models = {
        "sklearn": RandomForestClassifier(20, random_state=0),
        "xgboost": xgboost.XGBClassifier(n_estimators=10),
        "lightgbm": lightgbm.LGBMClassifier(n_estimators=10, verbose=-1),
    }
    features = ["feat_1", "feat_3", "feat_4"]
    model = models[request.param].fit(data_set[features], data_set["labels"])
    folder = tmp_path_factory.mktemp(request.param)
    joblib.dump(model, folder / "model.pkl")
    registered = register(
        Registration(str(folder / "model.pkl"), f"MyModel-{request.param}", aliases=("champion",), sample=data_uri.removeprefix("file://"),
                     labels=("labels", "feat_0", "feat_2"))
    )  # fmt: skip
    return Fitted(registered.uri, [int(label) for label in model.predict(data_set[features])])


@pytest.fixture(scope="module")
def data_table(spark: SparkSession, data_set: pd.DataFrame) -> Iterator[str]:
    spark.createDataFrame(data_set).write.saveAsTable("mlrun_data_set")
    yield "mlrun_data_set"
    spark.sql("DROP TABLE mlrun_data_set")


@pytest.mark.parametrize(("given", "drop"), [("uri", "0,2"), ("table", "feat_0,feat_2")])
def test_a_data_set_with_labels_gives_a_result_set(
    spark: SparkSession,
    example: Callable[..., ScoreResult],
    fitted: Fitted,
    data_set: pd.DataFrame,
    data_uri: str,
    data_table: str,
    given: str,
    drop: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"uri": f"source.path={data_uri}", "table": f"source.table={data_table}"}[given]

    result = example("rows", f"model.uri={fitted.uri}", source, f"columns.drop=[{drop}]", "run.name=my_result")

    assert result.location == str(tmp_path / "artifacts" / "my_result")
    rows = pd.read_parquet(result.location)
    assert rows.columns[:5].tolist() == ["feat_1", "feat_3", "feat_4", "labels", "prediction"]
    found = rows.astype({name: float for name in FEATURES if name in rows}).astype({"labels": int, "prediction": int})
    columns = ["feat_1", "feat_3", "feat_4", "labels", "prediction"]
    expected = data_set.assign(prediction=fitted.expected)[columns]
    order = columns[:4]
    pd.testing.assert_frame_equal(
        found[columns].sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True), check_dtype=False
    )


@pytest.mark.parametrize("shape", ["list", "dict"])
def test_a_list_or_dict_goes_by_positions_and_the_result_is_called_as_the_label(
    spark: SparkSession,
    example: Callable[..., ScoreResult],
    fitted: Fitted,
    data_set: pd.DataFrame,
    shape: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sample = data_set[FEATURES].head()
    rows = sample.to_numpy().tolist() if shape == "list" else sample.to_dict("list")

    result = example(
        "rows", f"model.uri={fitted.uri}", f"source.rows={json.dumps(rows)}", "columns.drop=[0,2]", "columns.labels=[]",
        "output.prediction=labels", "scoring.partitions=1",
    )  # fmt: skip

    found = pd.read_parquet(result.location)
    assert found.columns[:4].tolist() == ["feat_1", "feat_3", "feat_4", "labels"]
    assert found["labels"].tolist() == fitted.expected[:5]
    np.testing.assert_array_equal(found[["feat_1", "feat_3", "feat_4"]].to_numpy(), sample[["feat_1", "feat_3", "feat_4"]].to_numpy())


def test_a_result_set_is_read_by_its_run(
    spark: SparkSession,
    example: Callable[..., ScoreResult],
    fitted: Fitted,
    data_set: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = score(
        EXAMPLES / "rows.yaml", overrides=[f"tracking.tracking_uri={store}", f"model.uri={fitted.uri}"], data=data_set, spark=spark
    )

    found = read(result.run_id, tracking_uri=store)

    assert sorted(found["prediction"]) == sorted(fitted.expected)
    assert mlflow.get_run(result.run_id).info.run_name == "my_result"


# --- Azure: files

# The script of the article, its model found as azureml's own successor has it.
BATCH_SCORING_SCRIPT = """
import os
import numpy as np
import joblib

def init():
    # Runs when the pipeline step is initialized
    global model

    # load the model
    model_path = os.path.join(os.environ['AZUREML_MODEL_DIR'], 'model.pkl')
    model = joblib.load(model_path)

def run(mini_batch):
    # This runs for each batch
    resultList = []

    # process each file in the batch
    for f in mini_batch:
        # Read comma-delimited data into an array
        data = np.genfromtxt(f, delimiter=',')
        # Reshape into a 2-dimensional array for model input
        prediction = model.predict(data.reshape(1, -1))
        # Append prediction to results
        resultList.append("{}: {}".format(os.path.basename(f), prediction[0]))
    return resultList
"""


@pytest.fixture(scope="module")
def classification_model(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogisticRegression]:
    """A classifier of digits as model.pkl, registered as `classification_model`."""
    digits = load_digits()
    model = LogisticRegression(max_iter=5_000).fit(digits.data[:1500], digits.target[:1500])
    file = tmp_path_factory.mktemp("azure") / "model.pkl"
    joblib.dump(model, file)
    register(Registration(str(file), "classification_model", aliases=("champion",), description="A classification model"))
    return file, model


@pytest.fixture
def batch_data(classification_model: tuple[Path, LogisticRegression], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A folder with batch_scripts and 60 digits as CSV files in data/batch-data, in which we are; and the digit of each file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch_scripts").mkdir()
    (tmp_path / "batch_scripts" / "batch_scoring_script.py").write_text(BATCH_SCORING_SCRIPT, encoding="utf-8")
    folder, data = tmp_path / "data" / "batch-data", load_digits().data[1500:1560]
    folder.mkdir(parents=True)
    for i, values in enumerate(data):
        (folder / f"{i}.csv").write_text(",".join(map(str, values)), encoding="utf-8")
    return {f"{i}.csv": int(digit) for i, digit in enumerate(classification_model[1].predict(data))}


def break_files(count: int) -> None:
    for i in range(count):
        Path("data", "batch-data", f"{i}.csv").write_text("1,2,3", encoding="utf-8")


def as_in_the_article(results: str = "results") -> pd.DataFrame:
    """The article's own lines."""
    # Find the parallel_run_step.txt file
    for root, dirs, files in os.walk(results):  # noqa: B007
        for file in files:
            if file.endswith("parallel_run_step.txt"):
                result_file = os.path.join(root, file)

    # Load and display the results
    df = pd.read_csv(result_file, delimiter=":", header=None)
    df.columns = ["File", "Prediction"]
    return df


def test_an_entry_script_scores_digit_files_into_parallel_run_step_txt(batch_data: dict[str, int], store: str) -> None:
    given = ["--config", str(EXAMPLES / "digit_files_script.yaml"), "output.path=results", f"tracking.tracking_uri={store}"]
    answer = command("score", *given, environment={})

    assert answer.returncode == 0, answer.stderr
    df = as_in_the_article()
    assert dict(zip(df["File"], df["Prediction"], strict=True)) == batch_data


@pytest.mark.parametrize("output", ["output.path=results", "output.path=null"])
def test_allow_reuse_returns_the_earlier_output(
    example: Callable[..., ScoreResult], batch_data: dict[str, int], classification_model: tuple[Path, LogisticRegression], output: str
) -> None:
    given = [f"model.uri={classification_model[0]}", output]
    break_files(1)

    first, second = example("digit_files_script", *given), example("digit_files_script", *given)

    assert (first.outcome, second.outcome) == ("scored", "reused")
    assert (second.run_id, second.location) == (first.run_id, first.location)
    assert (second.rows_written, second.rows_quarantined) == (55, 5)
    break_files(2)
    if output == "output.path=null":
        assert example("digit_files_script", *given).outcome == "scored"
    else:
        with pytest.raises(OutputError, match=r"^output\.path: .*parallel_run_step\.txt holds the batch "):
            example("digit_files_script", *given)


def test_failed_files_up_to_the_threshold_are_counted_and_the_others_published(
    example: Callable[..., ScoreResult], batch_data: dict[str, int], spark: SparkSession, tmp_path: Path
) -> None:
    break_files(10)

    result = example("digit_files_script", "scoring.mini_batch_size=1", "output.path=results")

    assert (result.rows_read, result.rows_written, result.rows_quarantined) == (60, 50, 10)
    df = as_in_the_article()
    broken = {f"{i}.csv" for i in range(10)}
    assert dict(zip(df["File"], df["Prediction"], strict=True)) == {k: v for k, v in batch_data.items() if k not in broken}
    failed = DeltaTable(str(tmp_path / "results_quarantine")).to_pandas()
    assert {Path(json.loads(row)["path"]).name for row in failed["payload"]} == broken
    assert failed["error_message"].str.contains("X has 3 features, but LogisticRegression is expecting 64 features").all()


def test_a_file_takes_its_mini_batch_with_it(example: Callable[..., ScoreResult], batch_data: dict[str, int]) -> None:
    break_files(1)

    result = example("digit_files_script", "output.path=results")

    assert (result.rows_read, result.rows_written, result.rows_quarantined) == (60, 55, 5)
    df = as_in_the_article()
    assert {(file, digit) for file, digit in zip(df["File"], df["Prediction"], strict=True)} < set(batch_data.items())


def test_over_the_threshold_nothing_is_published(example: Callable[..., ScoreResult], batch_data: dict[str, int], tmp_path: Path) -> None:
    break_files(11)

    with pytest.raises(InputError) as caught:
        example("digit_files_script", "scoring.mini_batch_size=1", "output.path=results")

    assert str(caught.value).startswith(
        "errors.error_threshold: 11 of 60 rows could not be scored, and at most 10 may be quarantined; nothing was published. One of them: "
        "ValueError: X has 3 features"
    )
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "results_quarantine").exists()


def test_minus_one_ignores_every_failure(example: Callable[..., ScoreResult], batch_data: dict[str, int], tmp_path: Path) -> None:
    break_files(60)

    result = example("digit_files_script", "errors.error_threshold=-1", "output.path=results")

    assert (result.rows_read, result.rows_written, result.rows_quarantined) == (60, 0, 60)
    assert (tmp_path / "results" / "parallel_run_step.txt").read_text() == ""


@pytest.mark.long
def test_five_thousand_small_files_take_one_file_and_few_processes(
    example: Callable[..., ScoreResult], batch_data: dict[str, int], tmp_path: Path
) -> None:
    script, folder = Path("batch_scripts", "batch_scoring_script.py"), Path("data", "batch-data")
    noted = f"    print(os.getpid(), file=open({str(tmp_path / 'inits')!r}, 'a'))\n"
    script.write_text(BATCH_SCORING_SCRIPT.replace("    global model\n", f"    global model\n{noted}"), encoding="utf-8")
    for i in range(60, 5_000):
        os.link(folder / f"{i % 60}.csv", folder / f"{i}.csv")

    result = example("digit_files_script", "output.path=results")

    df = as_in_the_article()
    expected = {f"{i}.csv": batch_data[f"{i % 60}.csv"] for i in range(5_000)}
    assert dict(zip(df["File"], df["Prediction"], strict=True)) == expected
    assert (result.rows_read, result.rows_written) == (5_000, 5_000)
    assert [file.name for file in (tmp_path / "results").iterdir() if not file.name.startswith(".")] == ["parallel_run_step.txt"]
    # One for each of Spark's workers that had a task: two in a session of its own, here also those that earlier tests left idle.
    assert len((tmp_path / "inits").read_text().split()) <= 8


# --- Azure: rows

IRIS_SCORE = """
import argparse
import os
import joblib

def init():
    global iris_model
    parser = argparse.ArgumentParser(description="Iris model serving")
    parser.add_argument('--model_name', dest="model_name", required=True)
    args, unknown_args = parser.parse_known_args()
    iris_model = joblib.load(os.path.join(os.environ['AZUREML_MODEL_DIR'], args.model_name))

def run(input_data):
    # input_data is a pandas DataFrame
    num_rows, num_cols = input_data.shape
    pred = iris_model.predict(input_data).reshape((num_rows, 1))
    # cleanup output
    result = input_data.drop(input_data.columns[4:], axis=1)
    result['variety'] = pred
    return result
"""


@pytest.fixture
def iris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A folder with batch_scripts, model.pkl and data/iris.csv, in which we are; the flowers, and the variety of each."""
    monkeypatch.chdir(tmp_path)
    data = load_iris(as_frame=True)
    frame = data.data.set_axis(["sepal.length", "sepal.width", "petal.length", "petal.width"], axis=1)
    model = LogisticRegression(max_iter=5_000).fit(frame, data.target_names[data.target])
    joblib.dump(model, tmp_path / "model.pkl")
    for folder in ("batch_scripts", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "batch_scripts" / "iris_score.py").write_text(IRIS_SCORE, encoding="utf-8")
    frame.to_csv(tmp_path / "data" / "iris.csv", index=False)
    return frame.assign(variety=model.predict(frame))


@pytest.mark.parametrize("given", ["file", "frame"])
def test_an_entry_script_scores_iris_rows_as_frames(
    spark: SparkSession, store: str, example: Callable[..., ScoreResult], iris: pd.DataFrame, given: str
) -> None:
    if given == "file":
        result = example("iris_rows_script", "model.uri=model.pkl")
    else:
        overrides = ["model.uri=model.pkl", f"tracking.tracking_uri={store}"]
        result = score(EXAMPLES / "iris_rows_script.yaml", overrides=overrides, data=iris.drop(columns="variety"), spark=spark)

    assert (result.rows_read, result.rows_written) == (150, 150)
    assert re.fullmatch(OWN_FOLDER + r"/parallel_run_step\.txt", os.path.relpath(result.location))
    found = pd.read_csv(result.location, delimiter=" ", header=None, names=list(iris.columns))
    pd.testing.assert_frame_equal(found, iris)


def test_partition_keys_give_the_script_all_rows_of_a_key(example: Callable[..., ScoreResult], iris: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "batch_scripts" / "iris_score.py").write_text(
        "def run(rows, mini_batch_context):\n"
        "    assert set(rows['petal.width']) == {mini_batch_context.partition_key_value['petal.width']}\n"
        "    return [f\"{mini_batch_context.partition_key_value['petal.width']}: {len(rows)}\"] * len(rows)\n"
    )

    result = example("iris_rows_script", "model.uri=null", "scoring.mini_batch_size=null", "scoring.partition_keys=[petal.width]")

    found = pd.read_csv(result.location, delimiter=":", header=None)
    sizes = iris.groupby("petal.width").size()
    assert dict(zip(*found.drop_duplicates().to_numpy().T, strict=True)) == sizes.to_dict()
    assert len(found) == 150


def test_every_example_names_its_command_and_no_machine() -> None:
    for file in EXAMPLES.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        comment = text[: text.index("\n", text.index("lakescore score"))]
        assert all(line.startswith("#") for line in comment.splitlines()), file
        assert f"lakescore score --config conf/examples/{file.name}" in comment
        assert not re.search(r"[ \"'](/|~|[A-Z]:\\)", text), file
    assert shutil.which("lakescore", path=str(Path(sys.executable).parent))
