"""A tracking server that does not answer stops the run soon, and no secret is recorded."""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import mlflow
import pytest
import yaml

from lakescore import mlflow_defaults, tracking
from lakescore.compose import compose
from lakescore.config import ScoreConfig, TrackingConfig
from lakescore.errors import PlatformError


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def config_for(port: int, *overrides: str) -> ScoreConfig:
    uri = f"tracking.tracking_uri=http://user:hunter2@127.0.0.1:{port}"
    return compose([], ["model.uri=m", "source.path=a", "output.path=b", uri, *overrides])


def test_a_server_that_is_not_there_is_named_without_its_password(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_defaults, "CONNECT_SECONDS", 1)
    start = time.monotonic()

    with pytest.raises(PlatformError) as caught:
        tracking.client_for(config_for(closed_port).tracking)

    assert str(caught.value) == (
        f"tracking.tracking_uri: the MLflow server http://***@127.0.0.1:{closed_port} does not answer: Connection refused; start it, or "
        "give another URI"
    )
    assert time.monotonic() - start < 6


def test_a_registry_that_is_not_there_is_named_by_its_own_key(closed_port: int, tmp_path: Path) -> None:
    config = TrackingConfig(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", registry_uri=f"http://user:hunter2@127.0.0.1:{closed_port}")

    with pytest.raises(PlatformError) as caught:
        tracking.client_for(config)

    assert str(caught.value).startswith(f"tracking.registry_uri: the MLflow server http://***@127.0.0.1:{closed_port} does not answer: ")


def test_a_store_that_cannot_be_made_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"tracking\.tracking_uri: sqlite:.*/no/folder/x\.db: there is no folder /.*/no/folder$"):
        tracking.client_for(TrackingConfig(tracking_uri=f"sqlite:///{tmp_path}/no/folder/x.db"))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:99999", "http://127.0.0.1:port"])
def test_a_port_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(PlatformError, match=re.escape(f"tracking.tracking_uri: the MLflow server {uri} does not answer: Port ")):
        tracking.client_for(TrackingConfig(tracking_uri=uri))


def test_a_server_that_is_there_is_accepted(silent_port: int) -> None:
    uri = f"http://127.0.0.1:{silent_port}"

    assert tracking.client_for(TrackingConfig(tracking_uri=uri)).tracking_uri == uri


def test_mlflows_own_timeouts_are_put_back(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(tracking, "REQUEST_RETRIES", 0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    config = config_for(silent_port)

    with pytest.raises(PlatformError), tracking.open_record(tracking.client_for(config.tracking), config):
        pass

    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_server_that_never_answers_is_given_up_soon(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "REQUEST_SECONDS", 1)
    config = config_for(silent_port)
    start = time.monotonic()

    with pytest.raises(PlatformError) as caught, tracking.open_record(tracking.client_for(config.tracking), config):
        pass

    assert str(caught.value).startswith(f"tracking.tracking_uri: http://***@127.0.0.1:{silent_port} cannot record the run: ")
    assert "hunter2" not in str(caught.value)
    assert time.monotonic() - start < 35


def test_a_run_that_cannot_be_recorded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_text", full)
    config = compose(overrides=["model.uri=m", "source.path=s", "output.path=o", f"tracking.tracking_uri=sqlite:///{tmp_path}/mlflow.db"])
    client = tracking.client_for(config.tracking)

    with pytest.raises(PlatformError) as caught, tracking.open_record(client, config):
        pass

    line = f"cannot record the run: [Errno 28] No space left on device (there, or in {tempfile.gettempdir()})"
    assert str(caught.value) == f"tracking.tracking_uri: sqlite:///{tmp_path}/mlflow.db {line}"
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.status, run.data.tags["lakescore.error"]) == ("FAILED", str(caught.value))


def test_the_versions_that_a_prediction_depends_on_are_recorded() -> None:
    versions = tracking.package_versions()

    assert versions["version.python"] == platform.python_version()
    assert versions["version.scikit-learn"] == metadata.version("scikit-learn")
    assert "version.no-such-package" not in versions


def test_the_seconds_of_a_stage_that_runs_twice_are_added(silent_port: int) -> None:
    record = tracking.Record(tracking.client_for(TrackingConfig(tracking_uri=f"http://127.0.0.1:{silent_port}")), "run", "experiment")

    for _ in range(2):
        with record.stage("plan"):
            time.sleep(0.02)

    assert 0.04 <= record.seconds["plan"] < 1


def test_the_recorded_configuration_is_read_back_as_it_was() -> None:
    config = config_for(5000, "columns.rename={no: 'ja'}", "source.schema=a int", "model.params.x=1.5")

    assert yaml.safe_load(tracking.as_yaml(config))["columns"]["rename"] == {"no": "ja"}
    assert yaml.safe_load(tracking.as_yaml(config))["source"]["schema"] == "a int"


def test_the_recorded_configuration_hides_secrets() -> None:
    text = tracking.as_yaml(config_for(5000, "spark.conf.fs.s3a.secret.key=hunter2", "tracking.tags.team=lakes"))

    assert "hunter2" not in text
    assert "fs.s3a.secret.key: '***'" in text
    assert "tracking_uri: http://***@127.0.0.1:5000" in text
    assert "team: lakes" in text


def test_looking_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()

    client = tracking.client_for_looking(TrackingConfig(tracking_uri="sqlite:///mlflow.db"), tmp_path / "scratch")

    assert list(client.search_registered_models()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


def test_a_server_behind_a_proxy_is_not_knocked_at(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "other")

    assert tracking.client_for(TrackingConfig(tracking_uri=f"http://127.0.0.1:{closed_port}"))
