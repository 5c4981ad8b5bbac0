"""What is known of a session before it starts."""

from __future__ import annotations

import os
import socket

import pytest
from pyspark.sql import SparkSession

from lakescore import session
from lakescore.config import SparkConfig
from lakescore.errors import PlatformError
from lakescore.session import _require_master


def test_of_several_masters_one_that_answers_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _require_master(f"spark://127.0.0.1:1,127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("master", "reason"),
    [
        ("spark://127.0.0.1:1", "Connection refused"),
        ("spark://127.0.0.1:1,[::1]:1", r"Connection refused|Cannot assign requested address|Address family .*"),
    ],
)
def test_a_master_that_does_not_answer_is_named_with_the_reason(master: str, reason: str) -> None:
    with pytest.raises(PlatformError, match=rf"the Spark master .* does not answer: ({reason}); start it, or give another"):
        _require_master(master)


def test_a_master_without_a_port_is_named() -> None:
    with pytest.raises(PlatformError, match=r"the Spark master spark://127.0.0.1 has no port; give one, as in spark://HOST:7077"):
        _require_master("spark://127.0.0.1")


@pytest.mark.parametrize("master", ["local[2]", "yarn", "k8s://https://127.0.0.1:1"])
def test_what_is_no_standalone_master_is_not_asked(master: str) -> None:
    _require_master(master)


def test_on_databricks_the_session_is_taken_as_it_is_and_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    monkeypatch.setattr(session, "existing", lambda: None)
    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", lambda builder: "the platform's")

    found = session.open_session(SparkConfig(master="local[2]", conf={"spark.sql.shuffle.partitions": "7"}), "lakescore")

    assert found == "the platform's"
    assert "PYSPARK_PYTHON" not in os.environ
