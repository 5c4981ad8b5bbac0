"""Files, values and overrides in, one checked configuration out: what wins, what is refused, and in which words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lakescore.compose import compose, parse_override
from lakescore.config import EXCLUSIVE_KEYS, ScoreConfig, Section, keys_of, section_of
from lakescore.errors import ConfigError
from lakescore.strict_yaml import parse_yaml

CONF = Path(__file__).parents[2] / "conf"
NEEDED = ("model.uri=m", "source.path=in", "output.path=out")
DEMO_KEYS = {"model.uri", "source.path", "output.path"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a YAML file: ``write("run: {name: a}")``."""

    def make(text: str | bytes, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def refused(files: Sequence[Path] = (), overrides: Sequence[str] = (), values: dict[str, Any] | None = None) -> str:
    """The one line with which a configuration is refused; what every run needs is given."""
    with pytest.raises(ConfigError) as caught:
        compose(files, [*NEEDED, *overrides], values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def named(text: str, write: Write) -> str:
    """The run's name as it arrives when a file says ``name: TEXT``."""
    return compose([write(f"run:\n  name: {text}\n")], NEEDED).run.name


# --- unknown keys and wrong types


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output.formt=parquet", "output.formt: unknown key. Did you mean 'format'? (command line)"),
        ("outptu.format=parquet", "outptu: unknown key. Did you mean 'output'? (command line)"),
        ("run.zzz=1", "run.zzz: unknown key. Known keys: name, batch_id, on_rerun, date, timezone. (command line)"),
        ("run.NAME=x", "run.NAME: unknown key. Did you mean 'name'? (command line)"),
        ("scoring.batch_size=ten", "scoring.batch_size: got 'ten' (text); expected a whole number (command line)"),
        ("scoring.batch_size=1.5", "scoring.batch_size: got 1.5 (a number); expected a whole number (command line)"),
        ("scoring.batch_size=true", "scoring.batch_size: got True (true/false); expected a whole number (command line)"),
        ("scoring.batch_size=0", "scoring.batch_size: got 0 (a number); must be greater than or equal to 1 (command line)"),
        ("output.merge_schema=yes", "output.merge_schema: got 'yes' (text); expected true or false (command line)"),
        (
            "output.format=delt",
            "output.format: got 'delt' (text); expected one of delta, parquet, jsonl, append_row, summary_only. Did you mean 'delta'? "
            "(command line)",
        ),
        ("columns.rename=[a]", "columns.rename: got ['a'] (a list); expected a mapping (key: value) (command line)"),
        ("columns.labels.x=1", "columns.labels: got {'x': 1} (a mapping); expected a name or a list (command line)"),
        ("run.name.x=1", "run.name: got {'x': 1} (a mapping); expected text (command line)"),
        ("run.name=''", "run.name: got '' (text); must not be empty (command line)"),
        ("run.timezone=Mars/X", "run.timezone: got 'Mars/X' (text); must be an IANA time zone such as UTC or Europe/Vienna (command line)"),
        ("run.date=31.1.2026", "run.date: got '31.1.2026' (text); must be a date like 2026-01-31 (command line)"),
        (
            "tracking.tags={lakescore.batch_id: x}",
            "tracking.tags: got {'lakescore.batch_id': 'x'} (a mapping); lakescore.batch_id is a tag that Lakescore sets itself; "
            "choose another name (command line)",
        ),
        (
            "tracking.tags={mlflow.runName: x}",
            "tracking.tags: got {'mlflow.runName': 'x'} (a mapping); mlflow.runName is run.name here (command line)",
        ),
        ("run.date=20260131", "run.date: got 20260131 (a number); expected a date like 2026-01-31 (command line)"),
    ],
)
def test_a_wrong_override_is_refused_with_key_value_and_origin(override: str, message: str) -> None:
    assert refused(overrides=[override]) == message


def test_a_wrong_value_in_a_file_names_the_file(write: Write) -> None:
    file = write("scoring:\n  batch_size: ten\n")

    assert refused([file]) == f"scoring.batch_size: got 'ten' (text); expected a whole number ({file})"


def test_the_later_file_is_named_where_both_set_the_key(write: Write) -> None:
    first, second = write("scoring: {batch_size: 1}"), write("scoring: {batch_size: ten}", "b.yaml")

    assert refused([first, second]).endswith(f"({second})")


def test_a_wrong_value_from_python_names_the_values() -> None:
    assert refused(values={"run": "x"}) == "run: got 'x' (text); expected a section (key: value) (given values)"


def test_all_wrong_keys_are_named_in_one_line() -> None:
    message = refused(overrides=["scoring.batch_size=x", "scoring.partitions=y"])

    assert message == "scoring.batch_size: got 'x' (text); expected a whole number (command line); also wrong: scoring.partitions"


def test_an_unknown_key_is_named_before_a_missing_section(write: Write) -> None:
    file = write("modell:\n  uri: m\n")

    with pytest.raises(ConfigError, match=re.escape(f"modell: unknown key. Did you mean 'model'? ({file}); also wrong: model")):
        compose([file], ["source.path=a", "output.path=b"])


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^model: is required"):
        compose([], ["source.path=a", "output.path=b"])


@pytest.mark.parametrize(
    ("earlier", "override", "message"),
    [
        ({"spark": {"conf": {"a": "b"}}}, "spark.conf=[c]", "spark.conf: got ['c'] (a list); expected a mapping (key: value)"),
        ({"columns": {"labels": ["a"]}}, "columns.labels={b: c}", "columns.labels: got {'b': 'c'} (a mapping); expected a name or a list"),
        ({"run": {"name": "a"}}, "run=[b]", "run: got ['b'] (a list); expected a section (key: value)"),
    ],
)
def test_a_value_of_another_kind_than_an_earlier_layers_is_refused_by_its_key(earlier: dict[str, Any], override: str, message: str) -> None:
    assert refused(overrides=[override], values=earlier) == f"{message} (command line)"


def test_an_internal_name_of_a_key_is_unknown() -> None:
    assert refused(overrides=["source.ddl=a int"]).startswith("source.ddl: unknown key.")


def test_a_long_value_is_cut_after_its_secrets_are_taken_out() -> None:
    message = refused(overrides=[f"spark.conf=http://user:{'hunter2' * 20}@host/path"])

    assert message == "spark.conf: got 'http://***@host/path' (text); expected a mapping (key: value) (command line)"


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    message = refused(overrides=["tracking.tags.password=[hunter2]"])

    assert "hunter2" not in message


def test_a_batch_id_that_is_no_folder_name_is_refused() -> None:
    assert refused(overrides=["run.batch_id=../a"]).startswith("run.batch_id: got '../a' (text); must be 1 to 128 letters, digits")


def test_version_and_timestamp_exclude_each_other() -> None:
    overrides = ["source.table=t", "source.version=1", "source.timestamp=2026-01-01"]

    assert refused(overrides=overrides) == "source: version and timestamp exclude each other (command line)"


def test_parquet_as_a_catalog_table_is_refused() -> None:
    assert refused(overrides=["output.table=t", "output.format=parquet"]).startswith("output: format parquet needs output.path: ")


# --- what is no configuration at all


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:\n  name: a\n  name: b\n", ", line 3, column 3: the key 'name' is given twice"),
        (
            "run:\n  name: !!python/object/apply:os.system ['x']\n",
            ", line 2, column 9: the YAML tag !!python/object/apply:os.system is not allowed; write plain values only",
        ),
        ("run:\n  name: !x 5\n", ", line 2, column 9: the YAML tag !x is not allowed; write plain values only"),
        ("- a\n", ": expected sections at the top (model:, source:, ...); found a list"),
        ("text\n", ": expected sections at the top (model:, source:, ...); found text"),
        ("", ": is empty; expected sections such as model:, source: and output:"),
        ("# only a comment\n", ": is empty; expected sections such as model:, source: and output:"),
        ("<<: {a: 1}", ", line 1, column 1: merge keys (<<) are not supported"),
        ("? [a]\n: b", ", line 1, column 3: a key must be text"),
        ("a: 1\n---\nb: 2", ", line 2, column 1: expected a single document in the stream, but found another document"),
        ("run:\n\tname: a", ", line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: &a [*a]", ": the document unfolds to more than 200000 values or 64 levels"),
        ("a: " + "[" * 100 + "]" * 100, ": the document unfolds to more than 200000 values or 64 levels"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(text: str, message: str, write: Write) -> None:
    file = write(text)

    assert refused([file]) == f"{file}{message}"


def test_a_document_that_unfolds_without_end_is_refused(write: Write) -> None:
    names = "abcdefgh"
    lines = [f"{names[0]}: &{names[0]} [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{now}: &{now} [{','.join(['*' + before] * 10)}]" for before, now in itertools.pairwise(names)]

    assert "unfolds to more than 200000 values" in refused([write("\n".join(lines))])


def test_ten_thousand_nested_lists_are_refused_in_one_line(write: Write) -> None:
    assert "is not valid YAML" in refused([write("a: " + "[" * 10_000)])


def test_a_control_character_is_refused_in_one_line(write: Write) -> None:
    file = write("run:\n  name: \x07\n")

    assert refused([file]).startswith(f"{file}: is not valid YAML: unacceptable character #x0007")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run.name=caf\udce9", r"run.name: got 'caf\udce9' (text); it holds bytes that are no UTF-8 (command line)"),
        ('columns.keys=[a, "b\\0"]', r"columns.keys: got 'b\x00' (text); it holds a NUL (command line)"),
        ('tracking.tags={"a\\ud800": b}', r"tracking.tags.a\ud800: got 'a\ud800' (text); it holds bytes that are no UTF-8 (command line)"),
    ],
)
def test_characters_that_nothing_takes_are_refused(override: str, line: str) -> None:
    assert refused(overrides=[override]) == line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"values": 5}, "config: got int; expected a YAML file's path, several, or a mapping of sections"),
        (
            {"values": pd.DataFrame({"a": [1]})},
            "config: got DataFrame; expected a YAML file's path, several, or a mapping of sections; rows to score are data=",
        ),
        ({"files": [5]}, "config: got [5]; expected a YAML file's path, or several"),
        ({"overrides": "run.name=a"}, "overrides: got 'run.name=a'; expected ['section.key=value', ...]"),
        ({"overrides": [("a", "b")]}, "overrides: got [('a', 'b')]; expected ['section.key=value', ...]"),
    ],
)
def test_what_a_caller_in_python_mistakes_is_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(**given)
    assert str(caught.value) == line


def test_a_readers_option_may_be_a_nul() -> None:
    assert compose(overrides=[*NEEDED, "source.format=csv", 'source.options.quote="\\0"']).source.options == {"quote": "\0"}


def test_bytes_that_are_no_utf8_are_refused(write: Write) -> None:
    file = write(b"run:\n  name: \xff\n")

    assert refused([file]) == f"--config: {file} cannot be read: it is not UTF-8 text"


def test_a_missing_file_is_named_with_the_nearest_one_beside_it(write: Write) -> None:
    there = write("run: {name: a}", "score.yaml")
    missing = there.with_name("scores.yaml")

    assert refused([missing]) == f"--config: {missing} does not exist. Did you mean 'score.yaml'?"


def test_a_folder_as_a_file_is_refused(tmp_path: Path) -> None:
    assert refused([tmp_path]) == f"--config: {tmp_path} cannot be read: Is a directory"


def test_a_byte_order_mark_is_no_part_of_the_first_key(write: Write) -> None:
    file = write(b"\xef\xbb\xbfrun: {name: marked}")

    assert compose([file], NEEDED).run.name == "marked"


# --- overrides


@pytest.mark.parametrize("text", ["run.name", "=x", ""])
def test_an_override_without_key_or_equals_sign_is_refused(text: str) -> None:
    assert refused(overrides=[text]) == f"override {text!r}: expected section.key=value"


@pytest.mark.parametrize("text", [".uri=x", "model.=x", "model..uri=x", "spark.conf.=x"])
def test_an_override_with_an_empty_part_in_its_key_is_refused(text: str) -> None:
    assert refused(overrides=[text]) == f"override {text!r}: expected section.key=value; a part of the key is empty"


def test_a_broken_list_in_an_override_is_refused_by_its_key() -> None:
    assert refused(overrides=["columns.labels=[a"]).startswith("override columns.labels, line 1, column 3: expected ',' or ']'")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("source.filter=a=b=c", {"source": {"filter": "a=b=c"}}),
        ("source.filter=a: b", {"source": {"filter": "a: b"}}),
        ("source.filter=#x", {"source": {"filter": "#x"}}),
        ("source.filter= x > 1 ", {"source": {"filter": "x > 1"}}),
        ("source.filter='5'", {"source": {"filter": "5"}}),
        ("source.limit=5", {"source": {"limit": 5}}),
        ("source.limit=null", {"source": {"limit": None}}),
        ("source.limit=", {"source": {"limit": None}}),
        ("output.merge_schema=true", {"output": {"merge_schema": True}}),
        ("columns.labels=[a, b]", {"columns": {"labels": ["a", "b"]}}),
        ("columns.rename={a: b}", {"columns": {"rename": {"a": "b"}}}),
        ("columns.rename.a.b=c", {"columns": {"rename": {"a.b": "c"}}}),
        ("spark.conf.spark.sql.shuffle.partitions=4", {"spark": {"conf": {"spark.sql.shuffle.partitions": 4}}}),
        ("run=null", {"run": None}),
    ],
)
def test_an_override_becomes_one_nested_value(text: str, tree: dict[str, Any]) -> None:
    assert parse_override(text) == tree


def test_a_spark_setting_keeps_the_digits_that_were_written(write: Write) -> None:
    file = write("spark: {conf: {a: 1.10}}")

    assert compose([file], [*NEEDED, "spark.conf.b=2.50"]).spark.conf == {"a": "1.10", "b": "2.50"}


def test_a_spark_setting_with_dots_is_one_key_and_text() -> None:
    config = compose([], [*NEEDED, "spark.conf.spark.sql.shuffle.partitions=4"])

    assert config.spark.conf == {"spark.sql.shuffle.partitions": "4"}


# --- YAML's traps


@pytest.mark.parametrize(
    "text", ["2026-01-31", "0123", "no", "Yes", "off", "12:30", "190:20:30", "1_000", "0x1F", "0o17", "+5", "-0", "-5", "12", "="]
)
def test_text_in_a_file_stays_as_it_is_written(text: str, write: Write) -> None:
    assert named(text, write) == text


@pytest.mark.parametrize("text", ["1e5", "1.10", ".5", "1.", ".nan", "true", "False"])
def test_a_value_that_text_could_not_give_back_is_refused(text: str, write: Write) -> None:
    message = refused([write(f"run:\n  name: {text}\n")])

    assert message.startswith("run.name: got ")
    assert "; expected text; put it in quotes to keep it as text (" in message


@pytest.mark.parametrize("text", ["'1e5'", '"true"', "'null'", "'1.10'"])
def test_quotes_keep_a_value_as_text(text: str, write: Write) -> None:
    assert named(text, write) == text[1:-1]


def test_null_where_text_is_meant_is_refused(write: Write) -> None:
    assert refused([write("run:\n  name: null\n")]).startswith("run.name: got None (nothing); expected text")


def test_labels_keep_names_that_look_like_values(write: Write) -> None:
    assert compose([write("columns:\n  labels: [no, 0123, 7]\n")], NEEDED).columns.labels == ("no", "0123", "7")


def test_a_position_and_its_name_in_quotes_are_told_apart(write: Write) -> None:
    assert compose([write("columns:\n  drop: [1, '1']\n")], NEEDED).columns.drop == (1, "1")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("-1.5", -1.5), ("1e5", 1e5), ("2.5E-3", 0.0025), ("true", True), ("~", None), (".inf", float("inf"))]
)
def test_numbers_booleans_and_null_are_typed(text: str, value: Any) -> None:
    parsed = parse_yaml(text, "here")

    assert (parsed, type(parsed)) == (value, type(value))


def test_the_keys_of_a_mapping_stay_text() -> None:
    assert parse_yaml("{1: a, true: b, null: c, 2026-01-31: d}", "here") == {"1": "a", "true": "b", "null": "c", "2026-01-31": "d"}


def test_an_alias_repeats_a_value() -> None:
    assert parse_yaml("{a: &x [1], b: *x}", "here") == {"a": [1], "b": [1]}


# --- precedence


def test_a_later_file_wins_over_an_earlier_one(write: Write) -> None:
    files = [write("run: {name: first, timezone: Europe/Vienna}"), write("run: {name: second}", "b.yaml")]

    config = compose(files, NEEDED)

    assert (config.run.name, config.run.timezone) == ("second", "Europe/Vienna")


def test_values_win_over_files(write: Write) -> None:
    assert compose([write("run: {name: file}")], NEEDED, {"run": {"name": "value"}}).run.name == "value"


def test_overrides_win_over_values_and_the_last_one_wins() -> None:
    config = compose([], [*NEEDED, "run.name=first", "run.name=last"], {"run": {"name": "value"}})

    assert config.run.name == "last"


def test_what_no_layer_sets_is_the_default() -> None:
    assert compose([], NEEDED).run.name == "lakescore"


def test_a_list_of_a_later_layer_replaces_the_earlier_one(write: Write) -> None:
    assert compose([write("columns: {labels: [a, b]}")], [*NEEDED, "columns.labels=[c]"]).columns.labels == ("c",)


def test_a_mapping_of_a_later_layer_is_merged_into_the_earlier_one(write: Write) -> None:
    file = write("spark: {conf: {a: 1, b: 2}}")

    assert compose([file], [*NEEDED, "spark.conf.b=3"]).spark.conf == {"a": "1", "b": "3"}


@pytest.mark.parametrize("text", ["run:\ncolumns:\nspark:\n", "run: null", "tracking: ~"])
def test_a_null_section_means_its_defaults(text: str, write: Write) -> None:
    config = compose([write(text)], NEEDED)

    assert (config.run.name, config.columns.labels, config.tracking.experiment) == ("lakescore", (), "lakescore")


def test_a_null_section_keeps_what_an_earlier_file_set(write: Write) -> None:
    files = [write("run: {name: kept}"), write("run:\n", "b.yaml")]

    assert compose(files, NEEDED).run.name == "kept"


def test_what_says_how_the_path_is_read_goes_with_it(write: Write) -> None:
    file = write("model: {uri: m}\nsource: {path: a, format: csv, options: {header: true}, limit: 5}\noutput: {path: b}\n")

    table, other = (compose([file], [f"source.{override}"]).source for override in ("table=t", "path=c"))

    assert (table.format, table.options, table.limit) == (None, {}, 5)
    assert (other.format, other.options) == ("csv", {"header": "true"})


def test_a_later_table_unsets_an_earlier_path(write: Write) -> None:
    file = write("source: {path: a}")

    source = compose([file], ["model.uri=m", "output.path=b", "source.table=t"]).source

    assert (source.path, source.table) == (None, "t")


def test_a_later_output_path_unsets_an_earlier_table(write: Write) -> None:
    output = compose([write("output: {table: t}")], NEEDED).output

    assert (output.path, output.table) == ("out", None)


def test_two_sources_in_one_layer_are_refused(write: Write) -> None:
    file = write("source: {path: a, table: b}")

    with pytest.raises(
        ConfigError, match=re.escape(f"source: exactly one of path, table, query, rows, data must be set; found path and table ({file})")
    ):
        compose([file], ["model.uri=m", "output.path=b"])


def test_no_source_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="source: exactly one of path, table, query, rows, data must be set; found none"):
        compose([write("source: {limit: 3}")], ["model.uri=m", "output.path=b"])


def test_the_callers_values_are_not_changed() -> None:
    values: dict[str, Any] = {"run": {"name": "a"}, "source": {"path": ["x"]}}

    compose([], NEEDED, values)

    assert values == {"run": {"name": "a"}, "source": {"path": ["x"]}}


# --- interpolation, and what is fixed at the start


def test_an_environment_variable_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_TEST_NAME", "from outside")

    assert compose([], [*NEEDED, "run.name=${oc.env:LAKESCORE_TEST_NAME}"]).run.name == "from outside"


def test_an_unset_environment_variable_may_have_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKESCORE_TEST_NAME", raising=False)

    assert compose([], [*NEEDED, "run.name=${oc.env:LAKESCORE_TEST_NAME,spare}"]).run.name == "spare"


@pytest.mark.parametrize("key", ["run.name", "run.date", "run.timezone", "run.batch_id", "model.uri", "spark.master"])
def test_an_unset_environment_variable_is_refused_by_key_and_name(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKESCORE_TEST_NAME", raising=False)

    assert refused(overrides=[f"{key}=${{oc.env:LAKESCORE_TEST_NAME}}"]) == (
        f"{key}: the environment variable LAKESCORE_TEST_NAME is not set; export it, or give a default: "
        "${oc.env:LAKESCORE_TEST_NAME,value} (command line)"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("${run.nope}", "Interpolation key 'run.nope' not found"),
        ("${run.name}", "Recursive interpolation detected"),
        ("${nope:1}", "Unsupported interpolation type nope"),
        ("${oops", "no viable alternative at input '${oops'"),
        ("???", "Missing mandatory value: name"),
    ],
)
def test_an_interpolation_that_cannot_be_resolved_is_refused_in_one_line(value: str, reason: str) -> None:
    assert refused(overrides=[f"run.name={value}"]) == f"run.name: {reason} (command line)"


def test_a_python_caller_may_give_a_date_paths_and_tuples() -> None:
    values = {
        "run": {"date": date(2026, 1, 31)},
        "source": {"path": (Path("a"), "b")},
        "output": {"path": Path("/out")},
        "model": {"uri": "m"},
    }

    config = compose(values=values)

    assert (config.run.date, config.source.path, config.output.path) == (date(2026, 1, 31), ("a", "b"), "/out")


@pytest.mark.parametrize("text", ["a", ""])
def test_keys_that_double_one_another_are_refused_before_they_fill_the_memory(text: str, write: Write) -> None:
    tags = "".join(f"    t{n}: '${{tracking.tags.t{n - 1}}}${{.t{n - 1}}}'\n" for n in range(1, 45))
    message = refused([write(f"tracking:\n  tags:\n    t0: '{text}'\n{tags}")])
    assert message.startswith("tracking.tags.t")
    assert ": what the keys in its ${...} stand for comes to more than 1,048,576 characters; name fewer (" in message


def test_a_chain_of_keys_that_never_ends_is_refused_as_configuration(write: Write) -> None:
    tags = "".join(f"    t{n}: '${{tracking.tags.t{n + 1}}}'\n" for n in range(3000))
    message = refused([write(f"tracking:\n  tags:\n{tags}    t3000: x\n")])
    assert message.startswith("tracking.tags.t51: more than 50 keys name one another (${...}) in a row (")


def test_keys_may_name_one_another_as_often_as_anybody_would(write: Write) -> None:
    tags = "".join(f"    t{n}: '${{tracking.tags.t{n - 1}}}-{n}'\n" for n in range(1, 30))
    name = "run: {name: '${tracking.tags.t29}${tracking.tags.t29}'}"
    config = compose([write(f"{name}\ntracking:\n  tags:\n    t0: x\n{tags}")], NEEDED)
    assert config.run.name == 2 * ("x" + "".join(f"-{n}" for n in range(1, 30)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: '${run}'", "run: Recursive interpolation detected (a.yaml)"),
        ("run: '${columns}'\ncolumns: '${run}'", "Recursive interpolation detected (a.yaml)"),
        ("run: '${nowhere}'", "run: Interpolation key 'nowhere' not found (a.yaml)"),
    ],
)
def test_a_section_that_stands_for_itself_is_refused_as_configuration(text: str, message: str, write: Write) -> None:
    path = write(text)
    assert refused([path]).replace(str(path), "a.yaml").endswith(message)


def test_what_is_wrong_between_sections_begins_with_its_key_and_names_where_it_was_set(write: Write) -> None:
    path = write("run: {on_rerun: replace}")
    message = refused([path], ["source.incremental={by: files}"])
    assert message.replace(str(path), "a.yaml") == (
        "run.on_rerun: replace is not for source.incremental, which scores nothing twice; leave it at skip (a.yaml)"
    )
    assert refused([path], ["run.batch_id=a", "output.columns=keys"]) == (
        "output.columns: keys needs columns.keys, which is empty (command line)"
    )


def test_a_value_that_is_no_plain_value_is_refused_by_its_key() -> None:
    message = refused(values={"model": {"params": {"a": object()}}})

    assert message == "model.params.a: Value 'object' is not a supported primitive type (given values)"


def test_the_run_date_can_be_used_in_other_keys() -> None:
    config = compose([], [*NEEDED, "run.date=2026-01-31", "output.path=out/${run.date}"])

    assert config.output.path == "out/2026-01-31"


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("UTC", date(2026, 1, 31)), ("Europe/Vienna", date(2026, 2, 1)), ("America/New_York", date(2026, 1, 31))],
)
def test_the_date_is_today_in_the_runs_time_zone(zone: str, expected: date) -> None:
    half_past_eleven = datetime(2026, 1, 31, 23, 30, tzinfo=timezone.utc)

    assert compose([], [*NEEDED, f"run.timezone={zone}"], now=half_past_eleven).run.date == expected


def test_a_date_that_is_given_wins_over_today() -> None:
    assert compose([], [*NEEDED, "run.date=2013-11-30"]).run.date == date(2013, 11, 30)


def test_a_batch_without_an_id_gets_a_new_one_each_time() -> None:
    first, second = compose([], NEEDED).run.batch_id, compose([], NEEDED).run.batch_id

    assert first != second


def test_a_new_batch_id_tells_when_the_run_started_in_utc() -> None:
    start = datetime(2026, 1, 31, 23, 30, tzinfo=timezone.utc)

    batch_id = compose([], [*NEEDED, "run.timezone=Asia/Tokyo"], now=start).run.batch_id

    assert re.fullmatch(r"20260131T233000Z-[0-9a-f]{8}", str(batch_id))


@pytest.mark.parametrize(("zone", "expected"), [("UTC", "outputs/2026-01-31/23-30-05"), ("Europe/Vienna", "outputs/2026-02-01/00-30-05")])
def test_a_row_file_goes_into_the_runs_own_folder(zone: str, expected: str) -> None:
    now = datetime(2026, 1, 31, 23, 30, 5, tzinfo=timezone.utc)

    config = compose((), ["model.uri=m", "source.path=a", "output.format=jsonl", f"run.timezone={zone}"], now=now)

    assert config.output.path == expected


def test_a_row_file_goes_where_it_is_told_to() -> None:
    assert compose((), ["model.uri=m", "source.path=a", "output.format=append_row", "output.path=o"]).output.path == "o"


def test_an_override_reaches_into_a_nested_section() -> None:
    config = compose((), [*NEEDED, "output.classes.labels=[a, b]", "output.classes.threshold=0.25"])

    assert config.output.classes.model_dump() == {"labels": ("a", "b"), "threshold": 0.25, "probability": "probability", "label": "label"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output.classes.lables=[a, b]", "output.classes.lables: unknown key. Did you mean 'labels'? (command line)"),
        ("output.classes.threshold=1.5", "output.classes.threshold: got 1.5 (a number); must be less than 1 (command line)"),
        (
            "output.classes.labels=[a]",
            "output.classes: labels must be at least two, in the order of the model's classes (command line)",
        ),
        ("output.classes=x", "output.classes: got 'x' (text); expected a section (key: value) (command line)"),
    ],
)
def test_a_wrong_key_of_a_nested_section_is_named_in_full(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose((), [*NEEDED, override])

    assert str(error.value) == message


def test_a_number_as_batch_id_is_its_text() -> None:
    assert compose([], [*NEEDED, "run.batch_id=20260131"]).run.batch_id == "20260131"


# --- the files under conf/


def _documented(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}


def _declared() -> dict[str, Any]:
    found = {}
    for name in keys_of(ScoreConfig):
        section = section_of(ScoreConfig, name)
        assert section is not None
        for field_name, field in section.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if isinstance(default, Section):
                default = {key: list(value) if isinstance(value, tuple) else value for key, value in default.model_dump().items()}
            found[f"{name}.{field.alias or field_name}"] = list(default) if isinstance(default, tuple) else default
    return found


def _score_yaml() -> dict[str, Any]:
    tree = parse_yaml((CONF / "score.yaml").read_text(encoding="utf-8"), "conf/score.yaml")
    assert isinstance(tree, dict)
    return tree


def test_score_yaml_documents_exactly_the_keys_that_exist() -> None:
    assert list(_documented(_score_yaml())) == list(_declared())


def test_score_yaml_shows_the_defaults() -> None:
    documented, declared = _documented(_score_yaml()), _declared()

    differing = {key for key in declared if documented[key] != declared[key]}

    assert differing == DEMO_KEYS


def test_every_key_of_score_yaml_has_a_comment() -> None:
    lines = (CONF / "score.yaml").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if line.startswith("  ") and "  # " not in line] == []


def test_score_yaml_is_read_alike_by_a_plain_yaml_reader() -> None:
    text = (CONF / "score.yaml").read_text(encoding="utf-8")

    assert yaml.safe_load(text) == _score_yaml()


@pytest.mark.parametrize("name", ["local.yaml", "databricks.yaml", "emr.yaml"])
def test_each_platforms_file_composes_on_top_of_score_yaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_SOURCE", "s3://bucket/in")
    monkeypatch.setenv("LAKESCORE_OUTPUT", "s3://bucket/out")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")

    config = compose([CONF / "score.yaml", CONF / name])

    expected = {"local.yaml": "data/predictions", "databricks.yaml": "main.flights.predictions", "emr.yaml": "s3://bucket/out"}
    assert (config.output.path or config.output.table) == expected[name]


def test_a_python_callers_rows_are_data_of_any_type() -> None:
    rows = [{"day": date(2026, 1, 31), "text": "${oc.env:NOPE}", "mark": "???"}]

    config = compose(values={"model": {"uri": "m"}, "source": {"rows": rows}, "output": {"path": "o"}})

    assert config.source.rows == rows


def test_the_configuration_cannot_be_changed_afterwards() -> None:
    config = compose([], NEEDED)

    with pytest.raises(ValueError, match="frozen"):
        config.run.name = "other"  # type: ignore[misc]


def test_a_configuration_survives_its_own_dictionary() -> None:
    config = compose([], [*NEEDED, "source.schema=a int", "columns.labels=[y]", "model.params.limit=.inf"])

    assert compose(values=config.to_dict()) == config


@pytest.mark.parametrize("section", sorted(EXCLUSIVE_KEYS))
def test_the_exclusive_keys_exist(section: str) -> None:
    model = section_of(ScoreConfig, section)

    assert issubclass(model or object, Section)
    assert set(EXCLUSIVE_KEYS[section]) <= set(keys_of(model or Section))
