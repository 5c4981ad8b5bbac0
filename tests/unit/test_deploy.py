"""The files of conf/deploy are what their platforms take, and what they give to Lakescore is what it takes."""

from __future__ import annotations

import configparser
import fnmatch
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
import zoneinfo
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.session
import kubernetes_validate
import pytest
import yaml
from botocore.validate import ParamValidator
from databricks.sdk.service.jobs import JobSettings

from lakescore.compose import compose
from lakescore.config import ScoreConfig
from lakescore.recurrence import parse_cron

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "conf" / "deploy"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
DAY = "2026-01-31"


def _composed(arguments: Sequence[str], folder: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ScoreConfig:
    """The configuration that a job's arguments come to; files lie in ``folder``."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    waiting, files, overrides = list(arguments), [], []
    while waiting:
        one = waiting.pop(0)
        if one == "--config":
            files.append(folder / waiting.pop(0))
        else:
            overrides.append(one)
    return compose(files, overrides)


# --- Databricks


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "databricks" / "databricks.yml").read_text(encoding="utf-8"))
    return loaded


def _job(bundle: dict[str, Any], target: str) -> dict[str, Any]:
    """The job of a target: the CLI merges tasks by their keys, and adds the rest."""
    common, own = (one["resources"]["jobs"]["score"] for one in (bundle, bundle["targets"][target]))
    (task,), (more,) = common["tasks"], own["tasks"]
    assert task["task_key"] == more["task_key"]
    return {**common, **own, "tasks": [{**task, **more}]}


TARGETS = pytest.mark.parametrize("target", ["serverless", "classic"])


@TARGETS
def test_the_job_of_the_bundle_has_only_fields_that_databricks_knows(bundle: dict[str, Any], target: str) -> None:
    job = _job(bundle, target)

    # What its classes do not know, or what is no value of an enumeration, is lost on the way.
    assert JobSettings.from_dict(job).as_dict() == job


def test_the_bundle_has_only_mappings_that_its_command_knows(bundle: dict[str, Any]) -> None:
    assert set(bundle) == {"bundle", "variables", "sync", "artifacts", "resources", "targets"}
    assert [set(one) for one in bundle["variables"].values()] == [{"description", "default"}] * len(bundle["variables"])
    assert [set(one) for one in bundle["targets"].values()] == [{"default", "resources"}, {"resources"}]
    used = re.findall(r"\$\{var\.(\w+)\}", json.dumps(bundle))
    assert set(used) == set(bundle["variables"])


@TARGETS
def test_each_target_has_the_one_compute_that_it_names(bundle: dict[str, Any], target: str) -> None:
    job = _job(bundle, target)
    (task,) = job["tasks"]

    assert [one["environment_key"] for one in job.get("environments", ())] == [task[key] for key in ("environment_key",) if key in task]
    assert [one["job_cluster_key"] for one in job.get("job_clusters", ())] == [task[key] for key in ("job_cluster_key",) if key in task]
    assert ("environment_key" in task) != ("job_cluster_key" in task)


def test_the_bundles_task_calls_a_function_of_the_wheel(bundle: dict[str, Any]) -> None:
    task = _job(bundle, "classic")["tasks"][0]["python_wheel_task"]
    scripts = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines())

    module, _, function = scripts[task["entry_point"]].partition(":")

    assert task["package_name"] == SETUP["metadata"]["name"]
    assert callable(getattr(importlib.import_module(module), function))


def test_the_bundles_parameters_are_keys_of_the_configuration(bundle: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(bundle, "serverless")
    (synced,) = ((DEPLOY / "databricks" / path).resolve() for path in bundle["sync"]["paths"])
    values = {f"job.parameters.{one['name']}": one["default"] for one in job["parameters"]}
    values |= {"job.trigger.time.iso_date": DAY}
    command, *given = job["tasks"][0]["python_wheel_task"]["parameters"]
    for _ in range(2):  # a parameter's default is a reference itself
        given = [re.sub(r"\{\{([\w.]+)\}\}", lambda found: values[found[1]], one) for one in given]
    assert synced == ROOT / "conf"

    # The synchronised files are below the folder that all paths have in common, which is the repository's.
    config = _composed([one.replace("${workspace.file_path}/", "") for one in given], ROOT, {}, monkeypatch)

    assert command == "score"
    assert (config.run.batch_id, str(config.run.date), config.run.on_rerun) == (DAY, DAY, "skip")
    assert (config.source.table, config.output.table) == ("main.flights.november", "main.flights.predictions")


def test_the_bundles_schedule_is_one(bundle: dict[str, Any]) -> None:
    schedule = bundle["resources"]["jobs"]["score"]["schedule"]
    seconds, *fields = schedule["quartz_cron_expression"].split()
    zone = bundle["variables"]["timezone"]["default"]

    assert (seconds, fields) == ("0", ["0", "3", "*", "*", "?"])
    assert parse_cron(" ".join(fields).replace("?", "*"))
    assert zoneinfo.ZoneInfo(zone)


def test_the_wheel_is_where_the_jobs_look_for_it(bundle: dict[str, Any]) -> None:
    artifact = bundle["artifacts"]["lakescore"]
    folder = (DEPLOY / "databricks" / artifact["path"]).resolve()
    wheels = [_job(bundle, "serverless")["environments"][0]["spec"]["dependencies"][0]]
    wheels.append(_job(bundle, "classic")["tasks"][0]["libraries"][0]["whl"])

    assert folder == ROOT
    assert shlex.split(artifact["build"])[-3:] == ["--wheel-dir", "dist", "."]
    assert {(DEPLOY / "databricks" / one).resolve() for one in wheels} == {ROOT / "dist" / "*.whl"}


# --- EMR


def _validate(service: str, operation: str, params: dict[str, Any]) -> str:
    """What AWS's own description of a request has against these parameters; names that it does not know are errors too."""
    shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
    return str(ParamValidator().validate(params, shape).generate_report())


def _submitted(words: Sequence[str], application: str) -> tuple[dict[str, str], list[str]]:
    """The ``--conf`` settings of a spark-submit line, and the arguments of its application."""
    at = next(i for i, word in enumerate(words) if word.endswith(application))
    settings = [words[i + 1] for i in range(at) if words[i] == "--conf"]
    return dict(one.split("=", 1) for one in settings), list(words[at + 1 :])


def _variables(conf: dict[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in conf.items() if key.startswith(prefix)}


def test_the_emr_step_is_one_and_its_job_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    (step,) = json.loads((DEPLOY / "emr" / "step.json").read_text(encoding="utf-8"))
    # What the AWS CLI makes of a step of this type.
    request = {
        "Name": step["Name"],
        "ActionOnFailure": step["ActionOnFailure"],
        "HadoopJarStep": {key: step[key] for key in ("Jar", "Args")},
    }
    conf, arguments = _submitted(step["Args"], "/score.py")

    config = _composed(arguments, ROOT / "conf", _variables(conf, "spark.yarn.appMasterEnv."), monkeypatch)

    assert _validate("emr", "AddJobFlowSteps", {"JobFlowId": "j-1", "Steps": [request]}) == ""
    assert (set(step), step["Type"]) == ({"Type", "Name", "ActionOnFailure", "Jar", "Args"}, "CUSTOM_JAR")
    assert (config.run.batch_id, config.source.path, config.spark.master) == (DAY, (f"s3://BUCKET/customers/{DAY}",), "yarn")


def test_the_serverless_request_is_one_and_its_job_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    request = json.loads((DEPLOY / "emr" / "serverless.json").read_text(encoding="utf-8"))
    job = request["jobDriver"]["sparkSubmit"]
    conf, _ = _submitted([*shlex.split(job["sparkSubmitParameters"]), job["entryPoint"]], "/score.py")

    config = _composed(job["entryPointArguments"], ROOT / "conf", _variables(conf, "spark.emr-serverless.driverEnv."), monkeypatch)

    # The client fills in the token.
    assert _validate("emr-serverless", "StartJobRun", {**request, "clientToken": "x"}) == ""
    assert (config.run.batch_id, config.output.path) == (DAY, "s3://BUCKET/predictions")


def test_what_the_emr_jobs_name_is_what_is_packed() -> None:
    script = DEPLOY / "emr" / "pack.sh"
    packed = {"environment.tar.gz", *(Path(one).name for one in re.findall(r"(?:jobs|conf)/\w+\.(?:py|yaml)\b", script.read_text()))}
    named = set()
    for file in ("emr/step.json", "emr/serverless.json"):
        named |= set(re.findall(r"s3://BUCKET/lakescore/([\w.]+)", (DEPLOY / file).read_text(encoding="utf-8")))
    dag = (DEPLOY / "airflow" / "lakescore_dag.py").read_text(encoding="utf-8")
    named |= set(re.findall(r"\{BUCKET\}/([\w.]+)", dag))

    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False).stderr == ""
    assert named == packed == {"environment.tar.gz", "score.py", "emr.yaml"}


# --- Airflow


class _Recorded:
    """Stands for a class of Airflow's: keeps what it is made with."""

    made: dict[str, dict[str, Any]]

    def __init__(self, *values: Any, **named: Any) -> None:
        self.values = values
        self.made[type(self).__name__] = named

    def __enter__(self) -> _Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the DAG makes of Airflow's classes, without Airflow."""
    made: dict[str, dict[str, Any]] = {}
    for module, names in {
        "airflow.sdk": ("DAG", "Param"),
        "airflow.providers.apache.spark.operators.spark_submit": ("SparkSubmitOperator",),
        "pendulum": (),
    }.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, type(name, (_Recorded,), {"made": made}))
        fake.datetime = lambda *parts, tz: zoneinfo.ZoneInfo(tz)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, fake)
    exec((DEPLOY / "airflow" / "lakescore_dag.py").read_text(encoding="utf-8"), {"__name__": "lakescore_dag"})
    return made


def test_the_dags_job_is_configured_and_may_be_tried_again(recorded: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    task, dag = recorded["SparkSubmitOperator"], recorded["DAG"]

    def rendered(text: str) -> str:
        return text.replace("{{ ds }}", DAY).replace("{{ params.on_rerun }}", "skip")

    variables = {key: rendered(value) for key, value in _variables(task["conf"], "spark.yarn.appMasterEnv.").items()}
    config = _composed([rendered(one) for one in task["application_args"]], ROOT / "conf", variables, monkeypatch)

    assert (config.run.batch_id, str(config.run.date), config.run.on_rerun) == (DAY, DAY, "skip")
    assert config.source.path == (f"s3://BUCKET/customers/{DAY}",)
    # Without it the operator refuses YARN's cluster mode at once (Spark provider 6.3).
    assert (task["deploy_mode"], task["durable"]) == ("cluster", False)
    assert all(jar.startswith("local:///") for jar in task["jars"].split(","))
    assert parse_cron(dag["schedule"])
    assert (dag["default_args"]["retries"], dag["default_args"]["retry_delay"]) == (2, timedelta(minutes=5))


def test_airflow_takes_the_dag() -> None:
    # Not among what is installed for tests: it is large, and has versions of its own. Airflow 3.3.2 with the Spark provider 6.3.4 takes it.
    dagbag = pytest.importorskip("airflow.dag_processing.dagbag")

    bag = dagbag.DagBag(dag_folder=str(DEPLOY / "airflow"))

    assert (bag.import_errors, list(bag.dags)) == ({}, ["lakescore"])


# --- Container image


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)]


def _all(dockerfile: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in dockerfile if one == name]


def _copies(dockerfile: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Each source of the COPY instructions, with its target."""
    for rest in _all(dockerfile, "COPY"):
        *sources, target = rest.split()
        for source in sources:
            yield source, target


def test_the_linter_has_nothing_against_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    answer = subprocess.run([hadolint, DEPLOY / "docker" / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_what_the_image_copies_is_there_and_reaches_the_build(dockerfile: list[tuple[str, str]]) -> None:
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]

    assert "*" in ignored
    for source, _ in _copies(dockerfile):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept), source


def test_the_image_is_pinned_and_runs_without_root_and_secrets(dockerfile: list[tuple[str, str]]) -> None:
    declared = " ".join(_all(dockerfile, "ENV") + _all(dockerfile, "ARG"))

    assert _all(dockerfile, "FROM") == ["python:3.11.14-slim-bookworm"]
    assert any("--constraint conf/constraints.txt" in one for one in _all(dockerfile, "RUN"))
    assert _all(dockerfile, "USER") == ["10001:10001"]
    assert json.loads(_all(dockerfile, "VOLUME")[0]) == ["/data", "/output"]
    assert not re.search(r"(?i)key|token|secret|password", declared)


def test_the_images_pip_line_builds_a_whole_wheel_of_what_was_copied(dockerfile: list[tuple[str, str]], tmp_path: Path) -> None:
    (pip,) = [re.search(r'pip install (.*?) "\.\[\$\{EXTRAS\}\]"', one)[1] for one in _all(dockerfile, "RUN") if "pip install" in one]  # type: ignore[index]
    (extras,) = [one.partition("=")[2] for one in _all(dockerfile, "ARG") if one.startswith("EXTRAS=")]
    context, options = tmp_path / "context", shlex.split(pip)
    for source, target in _copies(dockerfile):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            (context / target).mkdir(parents=True, exist_ok=True) if target.endswith("/") else None
            shutil.copy(ROOT / source, context / target)

    command = [sys.executable, "-m", "pip", "wheel", *options, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path]
    answer = subprocess.run([*command, f".[{extras}]"], cwd=context, capture_output=True, text=True, check=False)

    assert answer.returncode == 0, answer.stderr
    assert "does not provide the extra" not in answer.stdout + answer.stderr
    with zipfile.ZipFile(next(tmp_path.glob("lakescore-*.whl"))) as wheel:
        names = set(wheel.namelist())
        scripts = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    data = {str(one.relative_to(ROOT / "lib")) for one in (ROOT / "lib" / "lakescore").rglob("*") if one.is_file()}
    assert {one for one in data if "__pycache__" not in one} <= names
    assert "lakescore-task = lakescore.cli:task_main" in scripts


@pytest.mark.parametrize(
    ("variables", "uri"),
    [
        ({"PRED_MODEL_UUID": "4f1c"}, "runs:/4f1c/model"),
        ({"PRED_MODEL_UUID": "4f1c", "PRED_MODEL_PATH": "/data/model.pkl"}, "/data/model.pkl"),
        ({"PRED_MODEL_UUID": "4f1c", "PRED_MODEL_PATH": "models:/churn@champion"}, "models:/churn@champion"),
    ],
)
def test_the_image_scores_data_to_output_with_the_model_of_its_build(
    dockerfile: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uri: str
) -> None:
    *command, option, file = json.loads(_all(dockerfile, "ENTRYPOINT")[0])
    (copied,) = [source for source, target in _copies(dockerfile) if f"/opt/lakescore/{target}" == file]

    config = _composed([option, str(ROOT / copied), "run.batch_id=a"], ROOT, variables, monkeypatch)

    assert command == ["lakescore", "score"]
    assert (config.model.uri, config.source.path, config.output.path) == (uri, ("/data",), "/output/predictions")
    # What a build is told is what a run may be told anew.
    assert [one.partition("=")[0] for one in _all(dockerfile, "ARG")] == ["EXTRAS", "PRED_MODEL_UUID"]
    assert "PRED_MODEL_UUID=${PRED_MODEL_UUID}" in _all(dockerfile, "ENV")


# --- Kubernetes


@pytest.fixture(scope="module")
def cronjob() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "cronjob.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_takes_the_cronjob(cronjob: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(cronjob, version, strict=True)

    assert parse_cron(cronjob["spec"]["schedule"])
    assert zoneinfo.ZoneInfo(cronjob["spec"]["timeZone"])
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_cronjobs_pod_fits_the_image(
    cronjob: dict[str, Any], dockerfile: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    arguments = [one.replace("$(BATCH)", "lakescore-29449560") for one in container["args"]]

    config = _composed(["--config", "docker/score.yaml", *arguments], DEPLOY, {"PRED_MODEL_UUID": "", **variables}, monkeypatch)

    assert (config.run.batch_id, config.model.uri, config.run.timezone) == ("lakescore-29449560", "models:/churn@champion", "Europe/Vienna")
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == _all(dockerfile, "USER")[0]
    assert {"/tmp", *json.loads(_all(dockerfile, "VOLUME")[0])} == {one["mountPath"] for one in container["volumeMounts"]}
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
