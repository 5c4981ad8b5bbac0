"""Secrets are taken out of whatever people read, and nothing else is touched."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lakescore.redact import hide, hide_parts, is_secret_key, redact, redact_tree


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host/x?a=1", "http://***@host/x?a=1"),
        ("see http://user:p%40ss@host/x.", "see http://***@host/x."),
        ("http://user:p@ss@host/x", "http://***@host/x"),
        ("http://user:p/w@host/x", "http://***@host/x"),
        ("https://host:8080 and http://user:8080@host", "https://host:8080 and http://***@host"),
        ("abfss://user:key@host/x", "abfss://***@host/x"),
        ("postgresql+psycopg2://:hunter2@host/db", "postgresql+psycopg2://***@host/db"),
        ("jdbc:postgresql://host/db?user=a&password=hunter2", "jdbc:postgresql://host/db?user=a&password=***"),
    ],
)
def test_a_uris_user_and_password_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_value_of_a_secret_option_is_hidden_in_a_list_and_in_a_line() -> None:
    arguments = ["--api-key", "abc123", "--rows", "5", "-p", "x", "--db-password", "hunter2", "--token", "--verbose"]
    shown = ["--api-key", "***", "--rows", "5", "-p", "x", "--db-password", "***", "--token", "--verbose"]

    assert redact_tree({"arguments": arguments}) == {"arguments": shown}
    assert redact("score --api-key abc123 --rows 5 --db-password hunter2") == "score --api-key *** --rows 5 --db-password ***"


@pytest.mark.parametrize("name", ["sig", "X-Amz-Security-Token", "access_token", "X-Amz-Signature", "api_key", "password"])
def test_a_secret_query_parameter_is_hidden_and_its_neighbours_stay(name: str) -> None:
    assert redact(f"https://host/x?a=1&{name}=hunter2&z=2") == f"https://host/x?a=1&{name}=***&z=2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2", "password=***"),
        ("db_password: hunter2", "db_password: ***"),
        ("PASSWORD = 'hunter 2'", "PASSWORD = ***"),
        ('secret="hunter 2", next', "secret=***, next"),
        ("{'token': 'hunter2', 'a': 1}", "{'token': ***, 'a': 1}"),
        ("api_key=hunter2;rest", "api_key=***;rest"),
        ("spark.hadoop.fs.s3a.secret.key=hunter2 next", "spark.hadoop.fs.s3a.secret.key=*** next"),
        ("fs.azure.account.key.x.dfs.core.windows.net=hunter2", "fs.azure.account.key.x.dfs.core.windows.net=***"),
        ("private_key=hunter2", "private_key=***"),
        ('{"password": "hunter 2", "n": 1}', '{"password": ***, "n": 1}'),
        ('{"token": 12345}', '{"token": ***}'),
        (r"{\"password\": \"hunter2\"}", r"{\"password\": ***}"),
        ("{'a': 1, 'password': 'hunter 2 and mo...", "{'a': 1, 'password': ***"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic aHVudGVyMg=='}", "{'authorization': 'Basic ***'}"),
        ("curl -H bearer eyJhbGciOi.J9.x-_1", "curl -H bearer ***"),
    ],
)
def test_an_assigned_secret_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "model.uri=models:/a",
        "models:/tokens@champion",
        "tokenizer: bert",
        "SELECT * FROM t WHERE token_count > 3",
        "token_count = 3",
        "max_tokens=5",
        "column 'password' is missing",
        "token: must be text",
        "token expired",
        "column 'token': 3 null value(s) in a batch",
        "output 'secret': the model declares",
        "tracking.password: unknown key.",
        "tracking.password: is required",
        "n_tokens: 5, eos_token=</s>",
        "bearer authentication",
        "abfss://container@account.dfs.core.windows.net/x",
        "wasbs://container@account.blob.core.windows.net/x",
        "http://host:5000/a@b",
        "user@example.com",
        "s3://bucket/a@b/c?versionId=1",
        "https://host:5000/path",
        "a=b; c: d",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", ["a." * 50_000, "x" * 100_000, "token" * 20_000, "http://" * 10_000])
def test_a_long_text_takes_no_time(text: str) -> None:
    start = time.monotonic()

    redact(text)

    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["http://u:p@h/?sig=x password=y", "{'token': 'a b'}", "PASSWORD = 'x y'"])
def test_what_is_redacted_stays_as_it_is_when_redacted_again(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "key",
    ["password", "db_passwd", "passphrase", "pass", "fs.s3a.secret.key", "fs.s3a.access.key", "API-KEY", "sas", "sas.token", "credentials"],
)
def test_a_secrets_key_is_recognised(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "tokenizer",
        "max_tokens",
        "n_tokens",
        "pad_token_id",
        "token_type_ids",
        "token_count",
        "passenger_count",
        "compass",
        "disaster",
        "sasl.mechanism",
        "uri",
    ],
)
def test_an_ordinary_key_is_not_taken_for_a_secrets(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    ("tree", "shown"),
    [
        ({"spark": {"conf": {"fs.s3a.secret.key": "x", "a": "b"}}}, {"spark": {"conf": {"fs.s3a.secret.key": "***", "a": "b"}}}),
        ({"password": ["a", "b"]}, {"password": ["***", "***"]}),
        ({"token": {"value": "x", "deep": {"er": 1}}}, {"token": {"value": "***", "deep": {"er": "***"}}}),
        ({"rows": [{"secret": 5}]}, {"rows": [{"secret": "***"}]}),
        ({"uri": "http://u:p@h"}, {"uri": "http://***@h"}),
        ({"cast": {"passenger_count": "double"}, "max_tokens": 5}, {"cast": {"passenger_count": "double"}, "max_tokens": 5}),
        ({"password": None, "n": 1, "b": True}, {"password": None, "n": 1, "b": True}),
    ],
)
def test_secrets_of_a_nested_configuration_are_hidden(tree: dict[str, Any], shown: dict[str, Any]) -> None:
    assert redact_tree(tree) == shown


def test_the_original_keeps_its_secrets() -> None:
    tree = {"a": {"password": "x"}}

    redact_tree(tree)

    assert tree == {"a": {"password": "x"}}


@pytest.mark.parametrize(
    "key",
    [
        "spark.hadoop.parquet.encryption.key.list", "spark.hadoop.fs.s3a.encryption.key", "spark.hadoop.fs.s3a.server-side-encryption.key",
        "spark.executorEnv.DB_PWD", "pwd", "passcode", "auth", "client_key",
    ],
)  # fmt: skip
def test_less_usual_names_of_secrets_are_known(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["author", "spark.authenticate", "keys", "primary_key", "pwdless"])
def test_names_that_only_look_like_them_are_not(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-Dmy.pwd=hunter2 -Xmx1g", "-Dmy.pwd=*** -Xmx1g"),
        ("run --password hunter2 now", "run --password *** now"),
        ("Basic dXNlcjpodW50ZXIy", "Basic ***"),
        ("a basic understanding", "a basic understanding"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "***"),
        ("https://hooks.slack.com/services/T000/B000/XXXX", "https://hooks.slack.com/services/***"),
    ],
)
def test_secrets_of_other_forms_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_what_is_known_to_be_secret_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakescore.redact._hidden", set())
    hide("correct horse/battery")
    hide("short")

    assert redact("s3://b/correct horse/battery, correct%20horse/battery and correct%20horse%2Fbattery") == "s3://b/***, *** and ***"
    assert redact("a short text") == "a short text"


def test_the_password_of_a_uri_is_hidden_where_a_library_quotes_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakescore.redact._hidden", set())
    hide_parts("s3://AKIA:hunter2hunter2@bucket/x and https://host/x?a=1&sig=abcdefgh%3D")

    assert redact('Invalid bucket name "AKIA:hunter2hunter2@bucket", signature abcdefgh%3D') == (
        'Invalid bucket name "AKIA:***@bucket", signature ***'
    )
