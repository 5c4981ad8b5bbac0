"""The job as users start it: spark-submit, python, lakescore and Spark Connect, each in a process of its own."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from deltalake import DeltaTable

from support.environment import without

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
JOB = str(ROOT / "jobs" / "score.py")


def _run(
    command: list[str], folder: Path, environment: dict[str, str] | None = None, clean: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would: in another folder, without the virtual environment's variables."""
    inherited = without("PYSPARK", "SPARK", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT")
    if clean:
        inherited.pop("PATH")
    return subprocess.run(
        command, cwd=folder, env={**inherited, **(environment or {})}, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def workplace(tmp_path: Path, store: str, linear_uri: str, diabetes_path: Path) -> Path:
    """A folder with conf/score.yaml, as in a clone."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "score.yaml").write_text(
        f"""
model: {{uri: {linear_uri}}}
source: {{path: {diabetes_path}}}
output: {{path: out}}
tracking: {{tracking_uri: "{store}"}}
run: {{date: 2026-01-31}}
spark: {{master: "local[2]", conf: {{spark.sql.shuffle.partitions: 5}}}}
""",
        encoding="utf-8",
    )
    return tmp_path


def test_spark_submit_works_bare_and_its_own_options_win(workplace: Path, store: str) -> None:
    command = [str(BIN / "spark-submit"), "--master", "local[1]", "--conf", "spark.sql.shuffle.partitions=7", JOB]

    answer = _run(command, workplace)

    assert answer.returncode == 0, answer.stderr
    assert len(DeltaTable(workplace / "out").to_pandas()) == 442
    # spark-submit pours the job's stderr into its own stdout.
    assert "spark: --master local[1] of spark-submit wins over spark.master" in answer.stdout
    assert "spark: spark.sql.shuffle.partitions=7 of spark-submit wins over the configuration's 5" in answer.stdout
    lines = [line for line in answer.stdout.splitlines() if " INFO lakescore.pipeline: " in line or " INFO lakescore.job: " in line]
    assert [line.split(": ")[1] for line in lines] == ["model", "source", "score", "output", "time"]
    summary = dict(line.split(":", 1) for line in answer.stdout.splitlines() if " INFO " not in line)
    assert list(summary) == ["model", "rows", "seconds", "batch", "written to", "read them", "run"]
    assert summary["model"].strip() == "models:/diabetes/1"
    assert summary["rows"].strip() == "442"
    run = mlflow.MlflowClient(store).get_run(summary["run"].split()[0])
    assert (run.info.status, run.data.metrics["rows_written"]) == ("FINISHED", 442)


def test_a_log_that_spark_submit_is_redirected_to_is_not_cut_off(workplace: Path) -> None:
    log = workplace / "job.log"
    command = f"echo before > {log}; {BIN / 'spark-submit'} {JOB} run.nmae=x >> {log} 2>&1"

    answer = _run(["sh", "-c", command], workplace)

    assert answer.returncode == 2
    lines = [line for line in log.read_text().splitlines() if not line.startswith("WARNING: Using incubator modules")]
    assert lines == ["before", "lakescore: run.nmae: unknown key. Did you mean 'name'? (command line)"]


@pytest.mark.long
def test_python_on_spark_connect_gives_the_same_table(workplace: Path) -> None:
    command = [sys.executable, JOB, "source.limit=50", "run.batch_id=a"]

    answer = _run(command, workplace, {"SPARK_REMOTE": "local[1]"})

    assert answer.returncode == 0, answer.stderr
    rows = DeltaTable(workplace / "out").to_pandas()
    assert (len(rows), rows["prediction"].notna().all(), rows["batch_id"].unique().tolist()) == (50, True, ["a"])


def test_a_wrong_alias_under_spark_submit_is_one_line(workplace: Path) -> None:
    answer = _run([str(BIN / "spark-submit"), JOB, "model.uri=models:/diabetes@chmpion"], workplace)

    assert answer.returncode == 3
    own = [line for line in answer.stderr.splitlines() if line.startswith("lakescore: ")]
    assert own == [
        "lakescore: model.uri: models:/diabetes@chmpion does not exist: diabetes has the versions 1 and the aliases champion (version 1). "
        "Did you mean 'champion'?"
    ]
    assert "Traceback" not in answer.stderr
    assert not (workplace / "out").exists()


@pytest.mark.long
def test_a_workers_python_without_packages_is_one_line(workplace: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)

    answer = _run([str(BIN / "lakescore"), "score"], workplace, {"PYSPARK_PYTHON": str(bare / "bin" / "python")})

    assert answer.returncode == 1
    assert re.fullmatch(
        r"lakescore: the workers' Python has no module '\w+': set PYSPARK_PYTHON to the environment that has it, or ship it with "
        r"--py-files or --archives",
        answer.stderr.strip().splitlines()[-1],
    )
    assert not (workplace / "out").exists()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"JAVA_HOME": "/nowhere"}, "JAVA_HOME=/nowhere has no bin/java"),
        ({"JAVA_HOME": "", "PATH": "/nowhere"}, "there is no java on the PATH"),
    ],
)
def test_a_missing_java_is_one_line_with_the_install_line(workplace: Path, environment: dict[str, str], reason: str) -> None:
    answer = _run([str(BIN / "lakescore"), "score"], workplace, environment)

    assert answer.returncode == 1
    assert answer.stderr.strip().splitlines()[-1] == (
        f"lakescore: Spark needs Java 17 or 21, and {reason}: install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless) or "
        "set JAVA_HOME"
    )


def test_a_dry_run_prints_the_plan_and_writes_nothing(workplace: Path, store: str) -> None:
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("lakescore")
    assert experiment is not None
    before = len(client.search_runs([experiment.experiment_id]))

    answer = _run([str(BIN / "lakescore"), "score", "--dry-run", "run.batch_id=a"], workplace)

    assert answer.returncode == 0, answer.stderr
    for line in (
        "models:/diabetes@champion -> models:/diabetes/1 (version 1, sklearn)",
        "prediction: double",
        "  bmi: double",
        "  score_date: date",
        "batch:  a, is new",
        "dry run: nothing was written",
    ):
        assert line in answer.stdout.splitlines()
    assert not (workplace / "out").exists()
    assert not (workplace / "mlflow.db").exists()
    assert len(client.search_runs([experiment.experiment_id])) == before


@pytest.mark.long
def test_a_job_ends_in_order_when_spark_submit_is_killed(workplace: Path, store: str) -> None:
    """Its JVM, the parent, cannot say a word: the Python notices by itself."""
    command = [str(BIN / "spark-submit"), "--master", "local[1]", JOB, "scoring.engine=spark_udf", "run.batch_id=ended"]
    environment = {**without("PYSPARK", "SPARK", "MLFLOW"), "TMPDIR": str(workplace)}
    with (workplace / "said").open("w") as said:
        started = subprocess.Popen(command, cwd=workplace, env=environment, stdout=said, stderr=said)

    _wait_until(lambda: " source: " in (workplace / "said").read_text())
    started.kill()
    started.wait()

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("lakescore").experiment_id
    runs = functools.partial(client.search_runs, [experiment], "tags.`lakescore.batch_id` = 'ended'")
    _wait_until(lambda: runs()[0].info.status != "RUNNING")
    assert runs()[0].info.status == "KILLED", runs()[0].data.tags
    assert runs()[0].data.tags["lakescore.error"] == "ended because spark-submit has ended; nothing was published"
    _wait_until(lambda: not list(workplace.glob("lakescore-*")))
    assert not (workplace / "out").exists()


@pytest.mark.long
def test_a_signal_ends_the_job_with_its_number(workplace: Path, store: str) -> None:
    command = [str(BIN / "lakescore"), "score", "scoring.engine=spark_udf", "run.batch_id=signalled"]
    environment = without("PYSPARK", "SPARK", "MLFLOW")
    with (workplace / "said").open("w") as said:
        started = subprocess.Popen(command, cwd=workplace, env=environment, stdout=said, stderr=said)

    _wait_until(lambda: " source: " in (workplace / "said").read_text())
    started.terminate()

    assert started.wait(60) == 128 + signal.SIGTERM
    assert (workplace / "said").read_text().splitlines()[-1] == "lakescore: ended by SIGTERM; nothing was published"
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("lakescore").experiment_id
    (run,) = client.search_runs([experiment], "tags.`lakescore.batch_id` = 'signalled'")
    assert (run.info.status, run.data.tags["lakescore.error"]) == ("KILLED", "ended by SIGTERM; nothing was published")
    assert not (workplace / "out").exists()


def _wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)
