"""YAML text becomes the values that are written, or is refused with its place; nothing changes on the way."""

from __future__ import annotations

from typing import Any

import pytest

from lakescore.errors import ConfigError
from lakescore.strict_yaml import parse_value, parse_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "here")
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T10:00:00Z",
        "0123",
        "007",
        "00",
        "no",
        "yes",
        "on",
        "y",
        "12:30",
        "1_000",
        "0x1F",
        "0o17",
        "0b1",
        "+5",
        "-0",
        "inf",
    ],
)
def test_what_yaml_would_convert_stays_text(text: str) -> None:
    assert parse_yaml(f"a: {text}", "here") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
    ],
)
def test_json_like_values_are_typed(text: str, value: Any) -> None:
    parsed = parse_yaml(f"a: {text}", "here")["a"]

    assert (parsed, type(parsed)) == (value, type(value))


def test_a_whole_number_of_any_length_is_exact() -> None:
    assert parse_yaml("a: 123456789012345678901234567890", "here") == {"a": 123456789012345678901234567890}


def test_a_number_beyond_all_doubles_is_refused_instead_of_infinite() -> None:
    assert refused("a: 1e400") == "here, line 1, column 4: the number 1e400 is too large"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a: !!python/name:os.system", "!!python/name:os.system"),
        ("a: !!int '5'", "!!int"),
        ("a: !!str 5", "!!str"),
        ("a: !!binary aGk=", "!!binary"),
        ("a: !!set {b}", "!!set"),
        ("a: !env X", "!env"),
        ("a: ! 5", "!"),
    ],
)
def test_every_tag_is_refused_by_its_name(text: str, tag: str) -> None:
    assert refused(text) == f"here, line 1, column 4: the YAML tag {tag} is not allowed; write plain values only"


def test_a_tag_inside_a_list_is_found() -> None:
    assert refused("a:\n  - b\n  - !!float 5\n") == "here, line 3, column 5: the YAML tag !!float is not allowed; write plain values only"


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{a: 1, a: 2}", "a: 1\n'a': 2", "1: x\n'1': y"])
def test_a_key_that_is_given_twice_is_refused(text: str) -> None:
    assert refused(text).endswith(" is given twice")


def test_the_same_key_in_two_mappings_is_no_duplicate() -> None:
    assert parse_yaml("{a: {x: 1}, b: {x: 2}}", "here") == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_number_that_is_a_key_by_its_alias_stays_a_number() -> None:
    assert parse_yaml("a: &x 5\n*x : b\n", "here") == {"a": 5, "5": "b"}


def test_nothing_parses_to_nothing() -> None:
    assert parse_yaml("# only a comment", "here") is None


def test_deep_nesting_is_refused_without_a_traceback() -> None:
    assert refused("a: " + "{a: " * 3_000) == "here: is not valid YAML: it is nested too deeply"


# --- Spark's settings and options are text


def test_a_version_number_among_spark_settings_keeps_its_zero() -> None:
    text = "spark: {conf: {spark.x: 1.10, spark.y: 1e5, spark.z: 0.50}}\nsource: {options: {nullValue: -999.00}}"

    assert parse_yaml(text, "here") == {
        "spark": {"conf": {"spark.x": "1.10", "spark.y": "1e5", "spark.z": "0.50"}},
        "source": {"options": {"nullValue": "-999.00"}},
    }


def test_the_same_number_elsewhere_is_a_number() -> None:
    assert parse_yaml("model: {params: {x: 1.10}, conf: {x: 1.10}}", "here") == {"model": {"params": {"x": 1.1}, "conf": {"x": 1.1}}}


@pytest.mark.parametrize(
    ("text", "at", "value"),
    [
        ("1.10", ("spark", "conf", "spark.x"), "1.10"),
        ("{spark.x: 1.10}", ("spark", "conf"), {"spark.x": "1.10"}),
        ("{conf: {spark.x: 1.10}}", ("spark",), {"conf": {"spark.x": "1.10"}}),
        ("1.10", ("model", "params", "x"), 1.1),
    ],
)
def test_a_value_knows_the_key_that_it_stands_under(text: str, at: tuple[str, ...], value: Any) -> None:
    assert parse_value(text, "here", at) == value


# --- the value of an override


@pytest.mark.parametrize(
    "text",
    [
        "a = 'x' # not a comment",
        "x #y",
        "#x",
        "a: b",
        "&a b",
        "*",
        "!x",
        "!!int 3",
        "--- a",
        "---",
        "- a",
        "|",
        "> 3",
        "%a",
        "@a",
        "`a` > 1",
        "two\nlines",
        "a\tb",
        "'a' = b",
        "'a' # 'b'",
        '"a" in (b)',
        "'unfinished",
        "a: [b",
        "token_count > 3",
    ],
)
def test_plain_text_is_taken_as_it_is_written(text: str) -> None:
    assert parse_value(text, "here") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'5'", "5"),
        ('"true"', "true"),
        ("'it''s'", "it's"),
        ("5", 5),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("0123", "0123"),
    ],
)
def test_quotes_are_taken_off_and_single_values_are_typed(text: str, value: Any) -> None:
    parsed = parse_value(text, "here")

    assert (parsed, type(parsed)) == (value, type(value))


def test_a_list_or_mapping_is_yaml() -> None:
    assert (parse_value("[a, 0123, 5]", "here"), parse_value("{a: b}", "here")) == (["a", "0123", 5], {"a": "b"})


def test_a_broken_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here, line 1, column 3: expected ',' or '\]', but got '<stream end>'$"):
        parse_value("[a", "here")
