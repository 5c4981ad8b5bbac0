"""The models of the configuration by themselves: defaults, strict types, what excludes each other, what is not changed."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from lakescore.config import (
    EXCLUSIVE_KEYS,
    ROW_FILES,
    ClassesConfig,
    ColumnsConfig,
    DriftConfig,
    ErrorsConfig,
    Measure,
    ModelConfig,
    OutputConfig,
    RunConfig,
    ScoreConfig,
    ScoringConfig,
    Section,
    ServiceConfig,
    SourceConfig,
    SparkConfig,
    TrackingConfig,
    keys_of,
    mini_batch_limit,
    section_of,
)
from lakescore.drift.measures import MEASURES


def refused(section: type[Section], **values: Any) -> str:
    """What the only problem of a section says."""
    with pytest.raises(ValidationError) as caught:
        section(**values)
    (problem,) = caught.value.errors()
    return str(problem["msg"])


def all_sections() -> list[type[Section]]:
    found = [section_of(ScoreConfig, name) for name in keys_of(ScoreConfig)]
    return [section for section in found if section is not None]


# --- the whole


def test_every_key_of_the_top_is_a_section() -> None:
    assert all_sections() == [
        RunConfig,
        ModelConfig,
        SourceConfig,
        ColumnsConfig,
        ScoringConfig,
        ErrorsConfig,
        OutputConfig,
        DriftConfig,
        TrackingConfig,
        SparkConfig,
        ServiceConfig,
    ]


@pytest.mark.parametrize("section", all_sections())
def test_a_section_refuses_keys_that_it_does_not_have(section: type[Section]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section(no_such_key=1)


@pytest.mark.parametrize("section", all_sections())
def test_a_section_has_a_docstring_of_its_own(section: type[Section]) -> None:
    assert section.__doc__ not in (None, Section.__doc__)


def test_a_key_is_found_by_the_name_that_it_has_in_yaml() -> None:
    assert "schema" in keys_of(SourceConfig)
    assert "ddl" not in keys_of(SourceConfig)


def test_an_ordinary_value_is_no_section() -> None:
    assert section_of(RunConfig, "name") is None
    assert section_of(ScoreConfig, "nothing") is None


@pytest.mark.parametrize("section", sorted(EXCLUSIVE_KEYS))
def test_exclusive_keys_are_unset_by_default(section: str) -> None:
    model = section_of(ScoreConfig, section)
    assert model is not None

    assert {model.model_fields[key].default for key in EXCLUSIVE_KEYS[section]} == {None}


# --- run


@pytest.mark.parametrize("value", ["a", "2026-01-31", "2026-01-31T10:00:00+01:00", "a.b_c~d=e@f", "x" * 128])
def test_a_batch_id_that_every_store_can_hold_is_accepted(value: str) -> None:
    assert RunConfig(batch_id=value).batch_id == value


@pytest.mark.parametrize("value", ["a/b", "a b", ".a", "-a", "..", "a\nb", "ü", "x" * 129, "a'b", "a%b"])
def test_a_batch_id_that_a_store_could_not_hold_is_refused(value: str) -> None:
    assert refused(RunConfig, batch_id=value).endswith(
        "must be 1 to 128 letters, digits or any of . _ : + @ = ~ -, beginning with a letter or digit"
    )


@pytest.mark.parametrize("value", ["2026-01-31", date(2026, 1, 31)])
def test_a_date_is_a_day(value: Any) -> None:
    assert RunConfig(date=value).date == date(2026, 1, 31)


@pytest.mark.parametrize("value", ["2026-1-31", "31.01.2026", "2026-01-31T00:00:00", "20260131", "today", "2026-02-30", " 2026-01-31"])
def test_what_is_no_iso_date_is_refused(value: str) -> None:
    assert refused(RunConfig, date=value).endswith(("must be a date like 2026-01-31", "day is out of range for month"))


@pytest.mark.parametrize("value", ["Mars/Phobos", "Europe", "../../etc/passwd", "/etc/localtime", "+02:00"])
def test_what_is_no_time_zone_is_refused(value: str) -> None:
    assert refused(RunConfig, timezone=value).endswith("must be an IANA time zone such as UTC or Europe/Vienna")


# --- types


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (5, "5"), (-5, "-5")])
def test_a_whole_number_where_text_is_meant_is_its_text(value: Any, text: str) -> None:
    assert RunConfig(name=value).name == text


@pytest.mark.parametrize("value", [1.5, True, None, ["a"], {"a": 1}, b"a"])
def test_anything_else_is_no_text(value: Any) -> None:
    assert refused(RunConfig, name=value) == "Input should be a valid string"


@pytest.mark.parametrize("value", ["", "  ", "\t\n"])
def test_blank_text_is_refused(value: str) -> None:
    assert refused(RunConfig, name=value) == "Value error, must not be empty"


@pytest.mark.parametrize("value", ["true", 1, 0, "yes", None])
def test_only_true_and_false_are_booleans(value: Any) -> None:
    assert refused(OutputConfig, path="a", merge_schema=value) == "Input should be a valid boolean"


@pytest.mark.parametrize("value", ["5", 5.0, True])
def test_only_a_whole_number_is_one(value: Any) -> None:
    assert refused(ScoringConfig, batch_size=value) == "Input should be a valid integer"


@pytest.mark.parametrize(("value", "names"), [("a", ("a",)), (["a", "b"], ("a", "b")), (["a", 5], ("a", "5")), ([], ())])
def test_one_name_stands_for_a_list_of_one(value: Any, names: tuple[str, ...]) -> None:
    assert ColumnsConfig(labels=value).labels == names


def test_positions_stay_numbers_beside_names() -> None:
    assert ColumnsConfig(select=["a", 0, "1"]).select == ("a", 0, "1")


def test_sparks_settings_are_written_as_text() -> None:
    conf = SparkConfig(conf={"a": True, "b": 10, "c": 0.5, "d": "x"}).conf

    assert conf == {"a": "true", "b": "10", "c": "0.5", "d": "x"}


@pytest.mark.parametrize("value", [None, ["a"], {"b": 1}])
def test_a_spark_setting_that_is_no_single_value_is_refused(value: Any) -> None:
    assert refused(SparkConfig, conf={"a": value}) == "Input should be a valid string"


def test_parameters_keep_their_types() -> None:
    params = {"a": 1, "b": 1.5, "c": True, "d": None, "e": ["x", {"y": 2}]}

    assert ModelConfig(uri="m", params=params).params == params


@pytest.mark.parametrize("value", ["a.b", "1a", "a b", "predict()"])
def test_a_method_must_be_a_name(value: str) -> None:
    assert refused(ModelConfig, uri="m", predict_method=value).startswith("String should match pattern ")


# --- what excludes each other


@pytest.mark.parametrize("key", EXCLUSIVE_KEYS["source"])
def test_each_kind_of_source_is_enough(key: str) -> None:
    value: Any = {"rows": [{"a": 1}], "data": "pandas"}.get(key, "x")

    assert getattr(SourceConfig(**{key: value}), key) is not None


def test_two_sources_are_refused_by_their_names() -> None:
    assert refused(SourceConfig, path="a", query="b") == (
        "Value error, exactly one of path, table, query, rows, data must be set; found path and query"
    )


def test_no_output_is_refused() -> None:
    assert refused(OutputConfig) == "Value error, exactly one of path, table must be set; found none"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"table": "t", "format": "csv"}, "format belongs to source.path"),
        ({"table": "t", "options": {"a": "b"}}, "options belong to source.path"),
        ({"query": "q", "schema": "a int"}, "schema belongs to source.path or source.rows; a table and a query have their own"),
        ({"table": "t", "version": 1, "timestamp": "2026-01-31"}, "version and timestamp exclude each other"),
        (
            {"path": "a", "format": "csv", "version": 1},
            "version and timestamp need a Delta table: source.table, or source.path with format delta",
        ),
        ({"query": "q", "version": 0}, "version and timestamp need a Delta table: source.table, or source.path with format delta"),
    ],
)
def test_keys_of_the_source_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    assert refused(SourceConfig, **values) == f"Value error, {message}"


@pytest.mark.parametrize(
    "values", [{"table": "t", "version": 0}, {"path": "a", "version": 3}, {"path": "a", "format": "delta", "timestamp": "x"}]
)
def test_a_delta_table_may_be_read_as_it_was(values: dict[str, Any]) -> None:
    SourceConfig(**values)


@pytest.mark.parametrize(("key", "value"), [("limit", -1), ("version", -1)])
def test_a_negative_number_of_rows_or_version_is_refused(key: str, value: int) -> None:
    assert refused(SourceConfig, path="a", **{key: value}) == "Input should be greater than or equal to 0"


@pytest.mark.parametrize("output_format", ROW_FILES)
def test_a_row_file_needs_no_path(output_format: Any) -> None:
    assert OutputConfig(format=output_format).path is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"table": "t", "format": "jsonl"},
            "format jsonl makes a file; give output.path, or neither path nor table for outputs/DATE/TIME",
        ),
        ({"path": "o", "format": "append_row", "fields": {"a": "b"}}, "fields belong to format jsonl; got append_row"),
        ({"path": "o", "file": "x.txt"}, "file belongs to the formats that write one file (jsonl, append_row); got delta"),
        (
            {"path": "o", "format": "parquet", "fields": {"a": "b"}},
            "fields belongs to the formats that write one file (jsonl, append_row); got parquet",
        ),
    ],
)
def test_keys_of_the_output_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    assert refused(OutputConfig, **values) == f"Value error, {message}"


@pytest.mark.parametrize("name", ["a/b.txt", "../b", ".hidden", "_hidden", "a\\b"])
def test_a_file_must_be_a_plain_visible_name(name: str) -> None:
    assert refused(OutputConfig, path="o", format="jsonl", file=name).startswith("Value error, must be a file's name without a folder")


def test_one_label_and_the_same_label_twice_are_refused() -> None:
    assert refused(ClassesConfig, labels=["a"]) == "Value error, labels must be at least two, in the order of the model's classes"
    assert refused(ClassesConfig, labels=["a", "a"]) == "Value error, must be distinct"


def test_arrays_are_taken_for_lists_of_rows() -> None:
    by_row = SourceConfig(rows=np.array([[1, 2], [3, 4]])).rows
    by_column = SourceConfig(rows={"a": np.array([1, 2])}).rows

    assert by_row == [[1, 2], [3, 4]]
    assert by_column == {"a": [1, 2]}


def test_a_parquet_table_of_the_catalog_is_refused() -> None:
    assert refused(OutputConfig, table="t", format="parquet").startswith("Value error, format parquet needs output.path: ")


# --- nothing changes afterwards


@pytest.mark.parametrize("section", [RunConfig(), ColumnsConfig(), SparkConfig(), TrackingConfig()])
def test_a_section_is_frozen(section: Section) -> None:
    key = next(iter(type(section).model_fields))

    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, key, "x")


def test_a_dictionary_has_the_keys_of_yaml_and_plain_values() -> None:
    config = ScoreConfig(
        run=RunConfig(date="2026-01-31"),
        model=ModelConfig(uri="m"),
        source=SourceConfig(path="a", schema="b int"),
        output=OutputConfig(path="o"),
    )

    made = config.to_dict()

    assert (made["run"]["date"], made["source"]["path"], made["source"]["schema"]) == ("2026-01-31", ["a"], "b int")


def test_the_formats_of_the_output_are_named_by_its_type() -> None:
    assert get_args(OutputConfig.model_fields["format"].annotation) == (
        "delta",
        "parquet",
        *ROW_FILES,
    )


# --- entry scripts


@pytest.mark.parametrize(
    ("value", "limit"),
    [("5", (5, None)), (5, (5, None)), ("10KB", (None, 10_000)), ("1 MB", (None, 1_000_000)), ("1MiB", (None, 1_048_576))],
)
def test_a_mini_batch_is_so_many_items_or_bytes(value: Any, limit: tuple[int | None, int | None]) -> None:
    size = ScoringConfig(mini_batch_size=value).mini_batch_size

    assert size is not None
    assert mini_batch_limit(size) == limit


@pytest.mark.parametrize("value", ["0", "five", "-1", "1.5", "MB", "0KB"])
def test_a_mini_batch_that_is_neither_is_refused(value: str) -> None:
    assert re.search(r"must be (a number of items such as 5, or bytes|at least 1)", refused(ScoringConfig, mini_batch_size=value))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "uri must be set: the model that scores; or entry_script, a Python file with init() and run(mini_batch)"),
        ({"uri": "m", "arguments": ["a"]}, "arguments belongs to entry_script, which is not set"),
        (
            {"entry_script": "s.py", "predict_method": "predict"},
            "predict_method is for a model that Lakescore calls; with entry_script the script itself calls it",
        ),
        (
            {"entry_script": "s.py", "side_inputs": {"a b": "x"}},
            "side_inputs: 'a b' must be a name that can be an option (--a b PATH) of the script",
        ),
    ],
)
def test_keys_of_a_model_and_of_a_script_do_not_mix(values: dict[str, Any], message: str) -> None:
    assert refused(ModelConfig, **values) == f"Value error, {message}"


def test_mini_batches_are_cut_by_size_or_by_key() -> None:
    assert refused(ScoringConfig, mini_batch_size="5", partition_keys="a").startswith("Value error, mini_batch_size and partition_keys")


@pytest.mark.parametrize(
    ("model", "scoring", "message"),
    [
        ({"uri": "m"}, {"processes": 2}, "scoring.processes belongs to model.entry_script, which is not set"),
        ({"entry_script": "s.py"}, {"batch_size": 2}, "scoring.batch_size is for a model"),
        ({"entry_script": "s.py"}, {"engine": "fast"}, "scoring.engine: fast is not for an entry script, which has a process of its own"),
        ({"uri": "m", "env_manager": "conda"}, {"engine": "fast"}, "fast is not for model.env_manager: conda; leave it at auto"),
    ],
)
def test_scoring_keys_belong_to_what_scores(model: dict[str, Any], scoring: dict[str, Any], message: str) -> None:
    given = {"source": SourceConfig(path="a"), "output": OutputConfig(path="o")}

    assert message in refused(ScoreConfig, model=ModelConfig(**model), scoring=ScoringConfig(**scoring), **given)


# --- drift


@pytest.mark.parametrize(("possible", "detected"), [(0.7, 0.5), (0.5, 0.5), (0.0, 0.5), (-0.1, 0.5), (0.5, 1.0), (0.5, 1.5)])
def test_thresholds_that_contradict_each_other_are_refused_by_both_names(possible: float, detected: float) -> None:
    message = refused(DriftConfig, possible_threshold=possible, detected_threshold=detected)
    assert message.startswith("Value error, possible_threshold and detected_threshold must be 0 < possible_threshold < detected_threshold")
    assert f"got {possible:g} and {detected:g}" in message


def test_thresholds_beside_the_borders_are_taken() -> None:
    assert DriftConfig(possible_threshold=0.001, detected_threshold=0.999).detected_threshold == 0.999


def test_drift_that_is_not_watched_cannot_fail_a_run() -> None:
    assert refused(DriftConfig, enabled=False, on_drift="fail") == "Value error, on_drift: fail needs enabled: true, or null"


def test_measures_are_those_of_the_measures_module() -> None:
    assert set(get_args(Measure)) == set(MEASURES)
    assert refused(DriftConfig, measures=["tvd", "tvd"]) == "Value error, must be distinct"
