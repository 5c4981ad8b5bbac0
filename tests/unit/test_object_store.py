"""S3's settings from the environment, and what its failures mean."""

from __future__ import annotations

import os
import sys

import pytest

from lakescore import object_store, session, storage
from lakescore.errors import PlatformError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


def test_without_a_server_of_ones_own_nothing_is_set() -> None:
    assert object_store.spark_settings() == {}


def test_the_server_of_s3_alone_wins_over_the_one_of_all_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    assert object_store.spark_settings() == {
        "spark.hadoop.fs.s3a.endpoint": "http://127.0.0.1:2",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.endpoint.region": "eu-central-1",
    }
    options = storage.delta_options("s3a://bucket/table")
    assert options is not None
    assert (options["aws_endpoint_url"], options["allow_http"], options["aws_region"]) == ("http://127.0.0.1:2", "true", "eu-central-1")


def test_what_is_configured_for_spark_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    assert session._object_storage({"spark.hadoop.fs.s3a.endpoint": "http://other"}) == {}
    assert "spark.hadoop.fs.s3a.endpoint" in session._object_storage({"spark.master": "local"})


def test_a_local_table_has_no_options() -> None:
    assert storage.delta_options("/a/b") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("When listing: AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "S3 refuses the credentials"),
        ("s3a://b/k: getFileStatus: AccessDeniedException: (Service: S3, Status Code: 403): InvalidAccessKeyId AKIA123", "S3 refuses"),
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: gone", "there is no such bucket"),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", "S3 does not answer"),
        ("s3a://b: NoAuthWithAWSException: No AWS Credentials provided", "S3 has no credentials"),
    ],
)
def test_a_failure_is_said_without_the_servers_words(text: str, said: str) -> None:
    found = object_store.reason(text)

    assert found is not None
    assert found.startswith(said)
    assert "AKIA" not in found


@pytest.mark.parametrize("text", ["403 Forbidden", "/tmp/x: Connection refused", "AWS Error SLOW_DOWN during PutObject operation: later"])
def test_a_failure_of_something_else_is_not_taken_for_one(text: str) -> None:
    assert object_store.reason(text) is None


def test_a_missing_boto3_is_named_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "boto3", None)
    root = storage.Location.of("s3a://bucket/out")
    assert root is not None

    with pytest.raises(PlatformError, match=r"writing to S3 needs boto3: pip install 'lakescore\[s3\]'"):
        root.require_writer()


@pytest.mark.parametrize(("path", "found"), [("s3a://bucket/a%20b", "%20"), ("s3a://bucket/a b", None), ("s3a://bucket/a[1]", None)])
def test_a_path_that_the_delta_library_decodes_is_known(path: str, found: str | None) -> None:
    assert storage.closed_to_delta(path) == found
