"""The job on a real cluster, by spark-submit: executors have neither Lakescore nor the folders of the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import mlflow
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import infer_signature
from sklearn.tree import DecisionTreeRegressor

from lakescore import score
from support.cluster import Cluster, Job, ancestors, clean_environment, process_table, wait_for
from support.pythons import make_python, pack_python

ROOT = Path(__file__).parents[2]
LIB = ROOT / "lib"
JOB = ROOT / "jobs" / "score.py"
# What a driver needs that has Lakescore installed: here it is installed, or it is not, by this alone.
INSTALLED = {"PYTHONPATH": str(LIB)}
BAD = [7, 300]
ONE_EXECUTOR = ("--conf", "spark.cores.max=1")

# A fitted regression that says of each row where it was predicted: from which folder, by which Python, and whether Lakescore is there.
TELLING = """
import importlib.util
import sys

import joblib
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Telling(PythonModel):
    def load_context(self, context):
        self._path = context.artifacts["regression"]
        self._regression = joblib.load(self._path)

    def predict(self, context, model_input, params=None):
        if (model_input["bmi"] > 1).any():
            raise ValueError("there is no such bmi")
        found = importlib.util.find_spec("lakescore")
        return pd.DataFrame(
            {
                "prediction": self._regression.predict(model_input),
                "loaded_from": self._path,
                "python": sys.prefix,
                "lakescore": str(found.origin) if found else "",
            }
        )


set_model(Telling())
"""

# Each mini-batch leaves its size under the number of the process, and takes its time.
SLOW = """
import os
import sys
import time


def run(mini_batch):
    with open(os.path.join(sys.argv[1], str(os.getpid())), "a") as log:
        print(len(mini_batch), file=log, flush=True)
    time.sleep(0.2)
    return [f"{value:.6f}" for value in mini_batch["bmi"]]
"""


@pytest.fixture(scope="session")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``hosts``: what executors need, as the README has it; ``thin``: the same without the model's library; ``driver``: no Lakescore."""
    folder = tmp_path_factory.mktemp("pythons")
    make_python(folder / "hosts", "mlflow-skinny", "pandas", "pyarrow", "scikit-learn")
    make_python(folder / "thin", "mlflow-skinny", "pandas", "pyarrow")
    make_python(folder / "driver", "lakescore[mlflow,sklearn,drift]", without=["lakescore"])
    return folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, pythons: Path) -> Iterator[Cluster]:
    """A master and two workers of one core and 1 GB."""
    path = f"{pythons / 'hosts' / 'bin'}:{os.environ['PATH']}"
    with Cluster(tmp_path_factory.mktemp("cluster"), environment={"PATH": path}) as started:
        yield started


@pytest.fixture(scope="module")
def model_uri(store: str, diabetes: pd.DataFrame, features: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("telling")
    regression = DecisionTreeRegressor(random_state=0).fit(diabetes[features], diabetes["target"])
    joblib.dump(regression, folder / "regression.joblib")
    (folder / "telling.py").write_text(TELLING, encoding="utf-8")
    result = pd.DataFrame({"prediction": [1.0], "loaded_from": "", "python": "", "lakescore": ""})
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="telling",
            python_model=str(folder / "telling.py"),
            artifacts={"regression": str(folder / "regression.joblib")},
            signature=infer_signature(diabetes[features], result),
            pip_requirements=["scikit-learn", "joblib"],
        )
    return str(info.model_uri)


@pytest.fixture(scope="module")
def sources(diabetes: pd.DataFrame, diabetes_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``good``: the patients in three files; ``marred``: the same in one, with two of whom the model breaks."""
    folder = tmp_path_factory.mktemp("sources")
    marred = diabetes.assign(bmi=diabetes["bmi"].where(~diabetes["id"].isin(BAD), 10.0))
    marred.to_parquet(folder / "marred.parquet", index=False)
    return {"good": diabetes_path, "marred": folder / "marred.parquet"}


@pytest.fixture(scope="module")
def local(store: str, model_uri: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.Series:
    """What a run on this machine predicts, by id."""
    settings = {
        "model": {"uri": model_uri},
        "source": {"path": str(sources["good"])},
        "output": {
            "path": str(tmp_path_factory.mktemp("local") / "out"),
            "prediction": ["prediction", "loaded_from", "python", "lakescore"],
        },
        "tracking": {"tracking_uri": store},
    }
    return DeltaTable(score(settings).location).to_pandas().set_index("id")["prediction"]


@pytest.fixture(scope="module")
def settings(store: str, model_uri: str, sources: dict[str, Path]) -> str:
    """The configuration of all jobs."""
    return f"""
run: {{batch_id: night, date: 2026-01-31}}
model: {{uri: "{model_uri}"}}
source: {{path: "{sources["good"]}"}}
output: {{path: out, prediction: [prediction, loaded_from, python, lakescore]}}
columns: {{keys: [id]}}
tracking: {{tracking_uri: "{store}"}}
"""


@pytest.fixture
def workplace(tmp_path: Path, settings: str) -> Path:
    """The folder that the driver works in, with its configuration and its own temporary files."""
    return _furnished(tmp_path, settings)


def _furnished(folder: Path, settings: str) -> Path:
    (folder / "tmp").mkdir()
    (folder / "conf").mkdir()
    (folder / "conf" / "score.yaml").write_text(settings, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def starving(cluster: Cluster, settings: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that no host has the memory for; it waits while other tests run."""
    folder = _furnished(tmp_path_factory.mktemp("starving"), settings)
    return cluster.start_job(["--conf", "spark.executor.memory=64g", JOB, "--verbose"], INSTALLED, folder)


@pytest.fixture
def submit(cluster: Cluster, workplace: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Submit with options and overrides; the driver's temporary files are where no executor looks."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return cluster.submit(arguments, {"TMPDIR": str(workplace / "tmp"), **environment}, workplace, timeout=300)

    return run


def _complaints(answer: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in answer.stderr.splitlines() if not line.startswith("WARNING: ")]


def _check_rows(rows: pd.DataFrame, local: pd.Series, without: list[int] = []) -> None:  # noqa: B006
    """Each row once, with the prediction of the local run."""
    assert sorted(rows["id"]) == [id_ for id_ in local.index.sort_values() if id_ not in without]
    assert rows.set_index("id")["prediction"].equals(local[rows["id"]])


def _record(store: str, answer: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Metrics, parameters and artifacts of the run that a summary names."""
    run_id = next(line.split()[1] for line in answer.stdout.splitlines() if line.startswith("run:"))
    client = mlflow.MlflowClient(store)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    return run.data.metrics, run.data.params, [one.path for one in client.list_artifacts(run_id)]


def test_executors_score_with_the_python_of_an_archive_and_without_lakescore(
    cluster: Cluster,
    submit: Callable[..., subprocess.CompletedProcess[str]],
    workplace: Path,
    pythons: Path,
    sources: dict[str, Path],
    store: str,
    local: pd.Series,
) -> None:
    archive = pack_python(pythons / "hosts", workplace / "environment.tar.gz")

    answer = submit(
        "--archives",
        f"{archive}#environment",
        *ONE_EXECUTOR,
        JOB,
        "errors.on_row_error=quarantine",
        "errors.error_threshold=5",
        f"source.path={sources['marred']}",
        f"drift.reference={sources['good']}",
        **INSTALLED,
        PYSPARK_PYTHON="./environment/bin/python",
    )

    assert (answer.returncode, _complaints(answer)) == (0, []), answer.stdout
    rows = DeltaTable(workplace / "out").to_pandas()
    _check_rows(rows, local, without=BAD)
    quarantined = DeltaTable(workplace / "out_quarantine").to_pandas()
    assert sorted(quarantined["id"]) == BAD
    assert set(quarantined["error_message"]) == {"there is no such bmi"}
    assert set(rows["lakescore"]) == {""}
    for column in ("loaded_from", "python"):
        assert all(Path(place).is_relative_to(cluster.folder) for place in rows[column]), rows[column].unique()
    metrics, params, _ = _record(store, answer)
    assert (metrics["rows_read"], metrics["rows_scored"], metrics["rows_quarantined"]) == (442, 440, 2)
    assert (params["scoring.engine"], params["spark.backend"]) == ("fast", "spark")
    assert 0 < metrics["drift_metric"] < 0.1


@pytest.mark.long
def test_a_driver_has_lakescore_from_py_files(
    cluster: Cluster,
    submit: Callable[..., subprocess.CompletedProcess[str]],
    workplace: Path,
    pythons: Path,
    sources: dict[str, Path],
    store: str,
    local: pd.Series,
) -> None:
    driver = pythons / "driver" / "bin" / "python"
    assert subprocess.run([driver, "-c", "import lakescore"], env=clean_environment(), capture_output=True, check=False).returncode == 1
    # The README's line.
    subprocess.run([sys.executable, "-m", "zipfile", "-c", workplace / "lakescore.zip", LIB / "lakescore"], check=True)

    overrides = ["scoring.engine=spark_udf", "output.format=parquet", f"drift.reference={sources['good']}"]
    answer = submit("--py-files", "lakescore.zip", JOB, *overrides, PYSPARK_DRIVER_PYTHON=str(driver))

    assert (answer.returncode, _complaints(answer)) == (0, []), answer.stdout
    rows = pd.read_parquet(workplace / "out")
    _check_rows(rows, local)
    assert all(Path(place).is_relative_to(cluster.folder) for place in rows["loaded_from"]), rows["loaded_from"].unique()
    assert set(rows["python"]) == {str(pythons / "hosts")}
    metrics, params, artifacts = _record(store, answer)
    assert (metrics["rows_read"], metrics["rows_written"], params["scoring.engine"]) == (442, 442, "spark_udf")
    assert metrics["drift_metric"] < 1e-6
    assert "drift_table_plot.html" in artifacts


@pytest.mark.long
def test_an_executor_that_is_killed_costs_no_row_and_doubles_none(cluster: Cluster, workplace: Path, diabetes: pd.DataFrame) -> None:
    (workplace / "slow.py").write_text(SLOW, encoding="utf-8")
    logs = workplace / "logs"
    logs.mkdir()
    overrides = ["model.entry_script=slow.py", "model.uri=null", f"model.arguments=[{logs}]", "scoring.mini_batch_size=20"]
    overrides += ["output.format=jsonl", "output.columns=[id]", "output.prediction=bmi", "scoring.partitions=4"]

    job = cluster.start_job([JOB, *overrides], INSTALLED, workplace)
    at_work = wait_for(lambda: [int(log.name) for log in logs.iterdir()], "a mini-batch", 240)
    before = cluster.executor_pids()
    killed = cluster.executor_of(at_work[0])
    assert killed in before
    os.kill(killed, signal.SIGKILL)
    answer = job.wait(300)

    assert (answer.returncode, _complaints(answer)) == (0, []), answer.stdout
    lines = [json.loads(line) for line in (workplace / "out" / "batch-infer-res.jsonl").read_text().splitlines()]
    assert {line["id"]: line["bmi"] for line in lines} == {
        id_: f"{bmi:.6f}" for id_, bmi in zip(diabetes["id"], diabetes["bmi"], strict=True)
    }
    assert len(lines) == len(diabetes)
    # Some were scored twice, or nothing was lost and the test shows nothing.
    assert sum(int(count) for log in logs.iterdir() for count in log.read_text().split()) > len(diabetes)
    assert wait_for(lambda: not set(at_work) & set(process_table()), "the killed executor's script to end", 30)


@pytest.mark.long
def test_a_library_that_executors_lack_is_one_line(
    submit: Callable[..., subprocess.CompletedProcess[str]], workplace: Path, pythons: Path, starving: Job
) -> None:
    thin = str(pythons / "thin" / "bin" / "python")

    answer = submit(*ONE_EXECUTOR, "--conf", "spark.task.maxFailures=1", JOB, **INSTALLED, PYSPARK_PYTHON=thin)

    assert (answer.returncode, _complaints(answer)) == (
        1,
        [
            "lakescore: the workers' Python has no module 'joblib': set PYSPARK_PYTHON to the environment that has it, or ship it with "
            "--py-files or --archives"
        ],
    )
    assert not (workplace / "out").exists()


@pytest.mark.long
def test_a_job_that_waits_for_executors_says_so(cluster: Cluster, starving: Job) -> None:
    said = (
        f"WARNING lakescore.session: spark: {cluster.url} has started no executor in 15 s; the job waits for one, which takes free cores "
        "and 64g of memory (spark.executor.memory)"
    )

    assert wait_for(lambda: said in starving.stdout.read_text(encoding="utf-8"), "the warning", 240)
    assert starving.process.poll() is None
    # It has no workers on the driver, which nobody would ask.
    assert "score: the rows pass Spark, because spark-submit runs the tasks on other machines" in starving.stdout.read_text(
        encoding="utf-8"
    )
    pools = [one.pid for one in process_table().values() if "lakescore.engine.nursery" in " ".join(one.command)]
    assert starving.jvm_pid not in [above.pid for pool in pools for above in ancestors(pool)]
    starving.kill()


def test_a_master_that_does_not_answer_is_one_line_soon(submit: Callable[..., subprocess.CompletedProcess[str]], workplace: Path) -> None:
    start = time.monotonic()

    answer = submit("--master", "spark://127.0.0.1:1", JOB, **INSTALLED)

    assert time.monotonic() - start < 60
    assert (answer.returncode, _complaints(answer)) == (
        1,
        [
            "lakescore: the Spark master spark://127.0.0.1:1 does not answer: Connection refused; start it, or give another (--master, "
            "spark.master)"
        ],
    )
    assert not (workplace / "out").exists()
