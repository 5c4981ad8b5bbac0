"""How the JVM of a session of our own is started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lakescore import java

COLLECTOR = "-XX:+UseParallelGC"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SPARK_LAUNCHER_OPTS",
        "SPARK_SUBMIT_OPTS",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "PYSPARK_SUBMIT_ARGS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))


def test_this_java_takes_the_options_and_the_environment_is_as_before() -> None:
    with java.hurried({}, local=True):
        for name in ("SPARK_LAUNCHER_OPTS", "SPARK_SUBMIT_OPTS"):
            subprocess.run([java.require_file(), *os.environ[name].split(), "-version"], check=True, capture_output=True)

    assert not {"SPARK_LAUNCHER_OPTS", "SPARK_SUBMIT_OPTS"} & set(os.environ)


def test_a_driver_of_a_cluster_is_left_alone() -> None:
    with java.hurried({}, local=False):
        assert "SPARK_SUBMIT_OPTS" not in os.environ


def test_options_that_are_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", "-Xmx3g")
    with java.hurried({}, local=True):
        assert os.environ["SPARK_SUBMIT_OPTS"] == "-Xmx3g"
    assert os.environ["SPARK_SUBMIT_OPTS"] == "-Xmx3g"


@pytest.mark.parametrize("place", ["configuration", "environment", "arguments", "file"])
def test_who_chooses_a_garbage_collector_has_it(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    conf = (
        {"spark.driver.extraJavaOptions": "-Xss4m -XX:+UseG1GC"}
        if place == "configuration"
        else {"spark.driver.extraJavaOptions": "-Xss4m"}
    )
    if place == "environment":
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseZGC")
    if place == "arguments":
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--driver-java-options -XX:+UseG1GC pyspark-shell")
    if place == "file":
        (tmp_path / "spark-defaults.conf").write_text("spark.driver.defaultJavaOptions -XX:+UseSerialGC\n")

    with java.hurried(conf, local=True):
        assert COLLECTOR not in os.environ["SPARK_SUBMIT_OPTS"]
        # The launcher has Java's variables alone, and of two collectors takes none either.
        subprocess.run([java.require_file(), *os.environ["SPARK_LAUNCHER_OPTS"].split(), "-version"], check=True, capture_output=True)
    (tmp_path / "spark-defaults.conf").unlink(missing_ok=True)
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
    with java.hurried({"spark.driver.extraJavaOptions": "-Xss4m"}, local=True):
        assert COLLECTOR in os.environ["SPARK_SUBMIT_OPTS"]
