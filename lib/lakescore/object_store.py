"""S3 as pyarrow, deltalake, boto3 and Spark are all to see it: one endpoint and one region in; and what their failures mean out.

Credentials come from each library's standard chain (``AWS_*`` in the environment, a profile, the machine's role) and pass through nothing
here. ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` name a server of one's own; it gets the bucket's name in the path.

boto3 does what pyarrow cannot: a file that is created only if there is none, and removing without leaving an empty folder's marker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from lakescore.errors import PlatformError

# Spark's Hadoop connectors have other names for the same store.
SCHEMES = ("s3", "s3a", "s3n")
_CONNECT_SECONDS = 5
# Of a request that asks; one that writes or copies may take longer.
_ANSWER_SECONDS = 10
_WORK_SECONDS = 120
_TRIES = 3
_MOST_KEYS = 1_000  # of one request to remove
_PART_BYTES = 1 << 30  # of one request to copy, which may be of 5 GB at most
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|Access Denied|Forbidden|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH"
    r"|SignatureDoesNotMatch|INVALID_SIGNATURE|InvalidToken|EXPIRED_TOKEN|ExpiredToken|UNRECOGNIZED_CLIENT",
    re.IGNORECASE,
)
_NO_CREDENTIALS = re.compile(
    r"Unable to locate credentials|NoAuthWithAWSException|Unable to load credentials|No AWS Credentials|NoCredentials|Error loading"
    r" credentials|failed to (?:load|get) credentials|Failed to connect to IMDS|InstanceMetadata",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|UnknownStoreException|specified bucket does not exist", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"NETWORK_CONNECTION|curlCode|Could not connect|Connection refused|ConnectionRefused|Connect(?:ion)? timed? ?out|ConnectTimeout"
    r"|EndpointConnectionError|UnknownHost|Unable to execute HTTP request|error sending request|Connection reset|dns error",
    re.IGNORECASE,
)
# So that the refusal of something else is not taken for the store's.
_OF_S3 = re.compile(
    r"\bs3[an]?://|AWS Error|S3A?Exception|S3 error|s3a\.|S3AFileSystem|botocore|ClientError|amazonaws|awssdk|object.?store", re.IGNORECASE
)
_CHAIN = "they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or this machine's role"


def endpoint() -> str | None:
    """The address of an S3 server of one's own; None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    """The region that the environment names."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def is_s3(fs: pafs.FileSystem) -> bool:
    """Whether pyarrow's file system is S3's."""
    return bool(fs.type_name == "s3")


def filesystem(bucket: str) -> pafs.S3FileSystem:
    """A bucket as pyarrow has it. Nothing is asked for with a server of one's own; of AWS the bucket's region."""
    return _filesystem(bucket, _environment())


def _environment() -> frozenset[tuple[str, str]]:
    """What clients are made of: another endpoint, region or key needs another client."""
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


@lru_cache(maxsize=16)
def _filesystem(bucket: str, environment: frozenset[tuple[str, str]]) -> pafs.S3FileSystem:
    options = {
        "connect_timeout": _CONNECT_SECONDS,
        "request_timeout": _ANSWER_SECONDS,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    }
    url = endpoint()
    if url is not None:
        parts = urlsplit(url)
        place = f"{parts.netloc}{parts.path.rstrip('/')}"
        return pafs.S3FileSystem(endpoint_override=place, scheme=parts.scheme, region=region() or "us-east-1", **options)
    try:
        place = pafs.resolve_s3_region(bucket)
    except OSError:  # the first thing that is asked for says why
        place = region() or "us-east-1"
    return pafs.S3FileSystem(region=place, **options)


@lru_cache(maxsize=16)
def _has_bucket(bucket: str, environment: frozenset[tuple[str, str]]) -> bool:
    found = bool(filesystem(bucket).get_file_info(bucket).type != pafs.FileType.NotFound)
    if not found:
        raise OSError(f"there is no bucket {bucket!r}{_at_endpoint()}; create it, or give another")
    return found


def require_bucket(bucket: str) -> None:
    """Look whether a bucket is there.

    Raises:
        OSError: it is not.
    """
    try:
        _has_bucket(bucket, _environment())
    except OSError as error:
        if "there is no bucket" in str(error):
            raise
        # Who may use a part of a bucket need not be allowed to ask for it as a whole.


def delta_options(bucket: str) -> dict[str, str]:
    """What the deltalake library is told; it takes credentials from the standard chain too.

    A commit is a file that is created only if there is none (``conditional_put``), so no lock is needed.
    """
    options = {
        "conditional_put": "etag",
        "aws_region": filesystem(bucket).region,
        "connect_timeout": f"{_CONNECT_SECONDS}s",
        "timeout": f"{_WORK_SECONDS}s",
        "max_retries": str(_TRIES),
    }
    url = endpoint()
    if url is not None:
        options |= {"aws_endpoint_url": url, "allow_http": str(url.startswith("http://")).lower()}
    return options


def spark_settings() -> dict[str, str]:
    """The same for a session of our own; a bucket's own settings (``fs.s3a.bucket.NAME.*``) win in Hadoop."""
    settings: dict[str, str] = {}
    url, place = endpoint(), region()
    if url is not None:
        settings |= {"spark.hadoop.fs.s3a.endpoint": url, "spark.hadoop.fs.s3a.path.style.access": "true"}
    if place is not None:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = place
    return settings


def reason(error: BaseException | str) -> str | None:
    """What a failure means, in one line without the server's own words, which may have keys in them; None of another kind of failure."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    if not _OF_S3.search(text) and not _OF_S3.search(type(error).__module__):
        return None
    if _NO_BUCKET.search(text):
        return f"there is no such bucket{_at_endpoint()}; create it, or give another"
    if _NO_CREDENTIALS.search(text):
        return f"S3 has no credentials; {_CHAIN}"
    if _REFUSED.search(text):
        return f"S3 refuses the credentials, or what is asked for with them (403); {_CHAIN}"
    if _NO_ANSWER.search(text):
        return f"S3 does not answer{_at_endpoint()}; check AWS_ENDPOINT_URL, the region and the network"
    return None


def line(error: BaseException) -> str:
    """A failure in one line: what it means, or its own first line."""
    return reason(error) or (str(error).splitlines() or [type(error).__name__])[0]


def _at_endpoint() -> str:
    url = endpoint()
    return f" at {urlsplit(url).hostname}:{urlsplit(url).port or ''}".rstrip(":") if url is not None else ""


@contextmanager
def explained() -> Iterator[None]:
    """An OSError that says in one line what pyarrow's or boto3's error means.

    Raises:
        OSError: FileNotFoundError or FileExistsError where there is no, or already a file of the name.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code in ("404", "NoSuchKey"):
            raise FileNotFoundError(str(error)) from error
        if code in ("412", "PreconditionFailed", "409", "ConditionalRequestConflict"):
            raise FileExistsError(str(error)) from error
        if isinstance(error, (OSError, PlatformError)) and reason(error) is None:
            raise
        raise OSError(reason(error) or f"S3: {error}") from error


def _code(error: BaseException) -> str:
    """The code of boto3's error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


# --- what is done by boto3; a path is BUCKET/KEY


def put(path: str, content: bytes) -> None:
    """Write a small file; it appears complete, in place of what is there."""
    with explained():
        _client().put_object(**_named(path), Body=content)


def create(path: str, content: bytes) -> None:
    """The same where there is no file of the name.

    Raises:
        FileExistsError: there is one.
    """
    with explained():
        _client().put_object(**_named(path), Body=content, IfNoneMatch="*")


def copy(source: str, target: str) -> None:
    """Copy a file inside the store, in place of what is there; it appears complete.

    Raises:
        FileNotFoundError: there is no source.
    """
    with explained():
        _client().copy(_named(source), *_named(target).values())


def copy_new(source: str, target: str) -> None:
    """The same where there is no file of the target's name: parts that are put together only then.

    Raises:
        FileExistsError: there is one.
    """
    with explained():
        client, given = _client(), _named(target)
        size = int(client.head_object(**_named(source))["ContentLength"])
        if not size:
            client.put_object(**given, Body=b"", IfNoneMatch="*")
            return
        upload = client.create_multipart_upload(**given)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, size, _PART_BYTES), 1):
                span = f"bytes={start}-{min(start + _PART_BYTES, size) - 1}"
                part = client.upload_part_copy(**given, CopySource=_named(source), CopySourceRange=span, PartNumber=number, UploadId=upload)
                parts.append({"ETag": part["CopyPartResult"]["ETag"], "PartNumber": number})
            client.complete_multipart_upload(**given, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            client.abort_multipart_upload(**given, UploadId=upload)
            raise


def remove(paths: Iterable[str]) -> None:
    """Remove files of one bucket; what is gone already is no error."""
    with explained():
        left = iter(paths)
        while some := list(islice(left, _MOST_KEYS)):
            keys = [{"Key": _named(path)["Key"]} for path in some]
            answer = _client().delete_objects(Bucket=_named(some[0])["Bucket"], Delete={"Objects": keys, "Quiet": True})
            for failure in answer.get("Errors", ()):
                raise OSError(reason(f"AWS Error {failure.get('Code')}") or f"S3: {failure.get('Key')}: {failure.get('Message')}")


def remove_below(path: str) -> None:
    """Remove a folder: all files below it, and the markers of folders."""
    given = _named(path.rstrip("/") + "/")
    with explained():
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=given["Bucket"], Prefix=given["Key"])
        remove(f"{given['Bucket']}/{found['Key']}" for page in pages for found in page.get("Contents", ()))


def _named(path: str) -> dict[str, str]:
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key}


def require_client() -> None:
    """Look whether boto3 is installed.

    Raises:
        PlatformError: it is not.
    """
    _client()


def _client() -> Any:
    return _boto3(_environment())


@lru_cache(maxsize=4)
def _boto3(environment: frozenset[tuple[str, str]]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise PlatformError("writing to S3 needs boto3: pip install 'lakescore[s3]'") from None
    own = endpoint() is not None
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_WORK_SECONDS,
        retries={"total_max_attempts": _TRIES, "mode": "standard"},
        max_pool_connections=32,
        s3={"addressing_style": "path"} if own else {},
    )
    place = region() or ("us-east-1" if own else None)
    return boto3.session.Session().client("s3", endpoint_url=endpoint(), region_name=place, config=config)
