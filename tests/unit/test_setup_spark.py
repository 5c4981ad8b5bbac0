"""The pure parts of setting up Spark: artifacts, and files that may be somebody else's."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from lakescore import setup_spark
from lakescore.errors import PlatformError

Streams = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("name", "artifact"),
    [
        ("delta-spark_4.2_2.13-4.4.0.jar", "delta-spark"),
        ("delta-storage-4.4.0.jar", "delta-storage"),
        ("spark-avro_2.13-4.2.0.jar", "spark-avro"),
        ("antlr4-runtime-4.13.1.jar", "antlr4-runtime"),
        ("software.amazon.awssdk_utils-2.35.4.jar", "software.amazon.awssdk_utils"),
        ("a-1.0-rc1+build.jar", "a"),
        ("without-a-version.jar", "without-a-version.jar"),
    ],
)
def test_a_jar_is_known_by_its_name_without_versions(name: str, artifact: str) -> None:
    assert setup_spark._artifact(name) == artifact


@pytest.mark.parametrize(
    ("spark", "delta", "coordinate"),
    [
        ("4.2.0", "4.4.0", "io.delta:delta-spark_4.2_2.13:4.4.0"),
        ("4.0.2", "4.1.0", "io.delta:delta-spark_4.0_2.13:4.1.0"),
        ("4.0.2", "4.0.1", "io.delta:delta-spark_2.13:4.0.1"),
    ],
)
def test_deltas_artifact_is_the_one_for_this_spark(monkeypatch: pytest.MonkeyPatch, spark: str, delta: str, coordinate: str) -> None:
    versions = {"pyspark": spark, "delta-spark": delta}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)

    assert setup_spark._delta_coordinate() == coordinate


def test_the_jars_of_an_artifact_are_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()
    for name in ("delta-spark_4.2_2.13-4.4.0.jar", "delta-storage-4.4.0.jar", "spark-avro_2.13-4.2.0.jar"):
        (tmp_path / "jars" / name).touch()

    assert [jar.name for jar in setup_spark._jars(tmp_path, "delta-spark")] == ["delta-spark_4.2_2.13-4.4.0.jar"]


def test_new_jars_replace_an_older_set_ups_and_never_sparks_own(tmp_path: Path) -> None:
    ivy, jars = tmp_path / "ivy", tmp_path / "jars"
    for folder in (ivy, jars):
        folder.mkdir()
    for name in ("delta-spark_4.1_2.13-4.1.0.jar", "delta-storage-4.1.0.jar", "antlr4-runtime-4.13.1.jar", "spark-core_2.13-4.2.0.jar"):
        (jars / name).write_text("old")
    for name in ("io.delta_delta-spark_4.2_2.13-4.4.0.jar", "io.delta_delta-storage-4.4.0.jar", "org.antlr_antlr4-runtime-4.9.jar"):
        (ivy / name).write_text("new")

    setup_spark._copy(sorted(ivy.iterdir()), jars)

    assert {jar.name: jar.read_text() for jar in jars.iterdir()} == {
        "antlr4-runtime-4.13.1.jar": "old",
        "delta-spark_4.2_2.13-4.4.0.jar": "new",
        "delta-storage-4.4.0.jar": "new",
        "spark-core_2.13-4.2.0.jar": "old",
    }


def test_parts_of_the_aws_sdk_keep_their_group_in_their_names_and_replace_older_ones(tmp_path: Path) -> None:
    ivy, jars = tmp_path / "ivy", tmp_path / "jars"
    for folder in (ivy, jars):
        folder.mkdir()
    old = ("annotations-17.0.0.jar", "software.amazon.awssdk_annotations-2.29.52.jar", "hadoop-aws-3.4.2.jar", "netty-codec-4.2.13.jar")
    for name in old:
        (jars / name).write_text("old")
    for name in (
        "software.amazon.awssdk_annotations-2.35.4.jar",
        "org.apache.hadoop_hadoop-aws-3.5.0.jar",
        "io.netty_netty-codec-4.1.126.jar",
        "org.wildfly.openssl_wildfly-openssl-2.2.5.jar",
    ):
        (ivy / name).write_text("new")

    setup_spark._copy(sorted(ivy.iterdir()), jars)

    assert {jar.name: jar.read_text() for jar in jars.iterdir()} == {
        "annotations-17.0.0.jar": "old",
        "software.amazon.awssdk_annotations-2.35.4.jar": "new",
        "hadoop-aws-3.5.0.jar": "new",
        "netty-codec-4.2.13.jar": "old",
        "wildfly-openssl-2.2.5.jar": "new",
    }


def test_a_hadoop_whose_aws_sdk_is_not_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "hadoop-client-api-9.9.9.jar").touch()

    with pytest.raises(PlatformError, match=r"the AWS SDK for Hadoop 9.9.9 is not known here: put hadoop-aws-9.9.9.jar and its AWS SDK"):
        setup_spark._install_s3(tmp_path, None, force=False)


def test_a_file_of_our_own_is_written_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "spark-defaults.conf"

    setup_spark._write(file, f"{setup_spark._MARK}\nold")
    setup_spark._write(file, f"{setup_spark._MARK}\nnew")

    assert file.read_text(encoding="utf-8") == f"{setup_spark._MARK}\nnew"


def test_somebody_elses_file_stays_and_is_named_with_what_it_should_hold(tmp_path: Path, capsys: Streams) -> None:
    file = tmp_path / "spark-defaults.conf"
    file.write_text("spark.master yarn\n", encoding="utf-8")

    setup_spark._write(file, "wanted\n")

    assert file.read_text(encoding="utf-8") == "spark.master yarn\n"
    assert capsys.readouterr().err == f"lakescore: {file} is not ours and stays as it is; it should hold:\nwanted\n\n"


def test_what_we_write_carries_our_mark_and_names_deltas_classes() -> None:
    assert setup_spark._DEFAULTS.startswith(setup_spark._MARK)
    assert setup_spark._LOG4J.startswith(setup_spark._MARK)
    assert "io.delta.sql.DeltaSparkSessionExtension" in setup_spark._DEFAULTS
    assert "org.apache.spark.sql.delta.catalog.DeltaCatalog" in setup_spark._DEFAULTS


def test_the_start_script_runs_its_own_spark_with_its_own_python_and_passes_the_arguments_on(tmp_path: Path) -> None:
    started = tmp_path / "a home" / "bin" / "spark-submit"
    started.parent.mkdir(parents=True)
    started.write_text('#!/bin/sh\nprintf "%s|%s|" "$SPARK_HOME" "$PYSPARK_DRIVER_PYTHON"\nprintf "%s|" "$@"\n', encoding="utf-8")
    started.chmod(0o755)
    script = tmp_path / "spark-submit"
    script.write_text(
        setup_spark._WRAPPER.format(home=tmp_path / "a home", python="/venv/bin/python", name="spark-submit"), encoding="utf-8"
    )
    environment = {"PATH": os.environ["PATH"], "JAVA_HOME": "/any", "SPARK_HOME": "/another"}

    answer = subprocess.run(["sh", str(script), "a b", "c"], env=environment, capture_output=True, text=True, check=True)

    assert answer.stdout == f"{tmp_path}/a home|/venv/bin/python|a b|c|"


def test_the_start_script_says_that_java_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "spark-submit"
    script.write_text(setup_spark._WRAPPER.format(home=tmp_path, python="/venv/bin/python", name="spark-submit"), encoding="utf-8")

    answer = subprocess.run(["/bin/sh", str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert answer.stderr.startswith("lakescore: Spark needs Java 17 or 21, and there is no java on the PATH: install it")
