"""What holds for any input, not only for the examples that somebody thought of: merging, alignment, dates, names, secrets, bounds."""

from __future__ import annotations

import datetime as dt
import json
import logging
import string
import tempfile
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import types as T

from lakescore import columns, direct
from lakescore.commands import _Redacting
from lakescore.compose import compose
from lakescore.config import ColumnsConfig, OutputConfig, RunConfig, ScoreConfig
from lakescore.engine import direct as worker
from lakescore.errors import ConfigError, LakescoreError, OutputError
from lakescore.redact import redact, redact_tree
from lakescore.schema import Feature, Signature
from lakescore.sinks import Batch, journal, open_sink
from lakescore.sinks.base import attempt_name, file_statistics
from lakescore.sinks.parquet import ParquetSink
from lakescore.sinks.rows import RowsSink, record_of
from lakescore.storage import Location

# The same examples in every run; none of them is slow, but the machine may be.
examples = settings(derandomize=True, deadline=None, max_examples=60)
many_examples = settings(examples, max_examples=200)
NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)
BASE = {"model": {"uri": "m"}, "source": {"path": "in"}, "output": {"path": "out"}}

# --- configuration

names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12).filter(
    lambda name: name.strip() and "$" not in name and "???" not in name
)
KEYS: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("run", "name"): names,
    ("run", "on_rerun"): st.just("skip"),
    ("run", "date"): st.dates().map(dt.date.isoformat),
    ("model", "params"): st.dictionaries(st.sampled_from("abc"), st.integers() | st.booleans() | names, max_size=2),
    ("source", "limit"): st.integers(0, 2**31 - 1),
    ("columns", "select"): st.lists(names, max_size=3),
    ("columns", "rename"): st.dictionaries(names, names, max_size=2),
    ("scoring", "batch_size"): st.integers(1, 1000),
    ("output", "prediction"): names,
    ("output", "merge_schema"): st.booleans(),
    ("drift", "enabled"): st.booleans(),
    ("tracking", "tags"): st.dictionaries(names, names, max_size=2),
    ("spark", "conf"): st.dictionaries(st.sampled_from(["spark.a", "spark.b.c"]), names, max_size=2),
}
# A mapping of a later layer is merged into the earlier one; all else is replaced.
MERGED = [("model", "params"), ("columns", "rename"), ("tracking", "tags"), ("spark", "conf")]


def _tree(layer: dict[tuple[str, str], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (section, key), value in layer.items():
        tree.setdefault(section, {})[key] = value
    return tree


layers = st.lists(st.fixed_dictionaries({}, optional=KEYS), min_size=1, max_size=4)


@examples
@given(layers)
def test_the_last_layer_that_sets_a_key_wins(given_layers: list[dict[tuple[str, str], Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.yaml") for i in range(len(given_layers))]
        for file, layer in zip(files, given_layers, strict=True):
            file.write_text(yaml.safe_dump(_tree(layer), allow_unicode=True), encoding="utf-8")
        found = compose(files, values=BASE, now=NOW).to_dict()
    defaults = compose(values=BASE, now=NOW).to_dict()
    for section, key in KEYS:
        said = [layer[section, key] for layer in given_layers if (section, key) in layer]
        if (section, key) in MERGED:
            expected = {name: value for one in said for name, value in one.items()}
        else:
            expected = said[-1] if said else defaults[section][key]
        assert found[section][key] == expected, (section, key)


@examples
@given(layers)
def test_a_configuration_is_the_same_after_a_round_trip(given_layers: list[dict[tuple[str, str], Any]]) -> None:
    values: dict[str, Any] = {name: dict(section) for name, section in BASE.items()}
    for name, section in _tree(given_layers[-1]).items():
        values.setdefault(name, {}).update(section)
    first = compose(values=values, now=NOW)
    assert compose(values=first.to_dict()) == first
    assert compose(values=yaml.safe_load(yaml.safe_dump(first.to_dict()))) == first
    assert ScoreConfig.model_validate(first.to_dict()) == first


SOURCES = {"path": ["a"], "table": "a.b", "query": "SELECT 1", "rows": [{"a": 1}]}


@examples
@given(st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=5), st.lists(st.sampled_from(["path", "table"]), max_size=4))
def test_of_exclusive_keys_the_last_layers_is_left(sources: list[str], outputs: list[str]) -> None:
    overrides = [f"source.{key}={json.dumps(SOURCES[key])}" for key in sources] + [f"output.{key}=x" for key in outputs]
    found = compose(values=BASE, overrides=overrides, now=NOW)
    assert [key for key in SOURCES if getattr(found.source, key) is not None] == [sources[-1]]
    assert [key for key in ("path", "table") if getattr(found.output, key) is not None] == [outputs[-1] if outputs else "path"]


anything = st.text(max_size=40) | st.text(st.sampled_from("${}[]&*!|>'\"%@`#:,?- \\\n\t~.0123eE_xnul<"), max_size=20)


@many_examples
@given(anything)
def test_any_text_is_taken_as_it_is_or_refused_in_one_line(text: str) -> None:
    for overrides, values in (([f"run.name={text}"], BASE), ([], {**BASE, "run": {"name": text}})):
        found, line = _name_or_error(values, overrides)
        assert line is None or (line.isprintable() and line.startswith(("run.name", "override run.name", "given values")))
        if line is None and "${" not in text and not (overrides and text.strip()[:1] in ("'", '"')):
            assert found == (text.strip() if overrides else text)


def _name_or_error(values: Any, overrides: Sequence[str]) -> tuple[str, str | None]:
    try:
        return compose(values=values, overrides=overrides, now=NOW).run.name, None
    except ConfigError as error:
        return "", str(error)


@examples
@given(names)
def test_quoted_text_is_what_stands_between_the_quotes(text: str) -> None:
    assert compose(values=BASE, overrides=[f"run.name={json.dumps(text, ensure_ascii=False)}"], now=NOW).run.name == text
    doubled = text.replace("'", "''")
    assert compose(values=BASE, overrides=[f"run.name='{doubled}'"], now=NOW).run.name == text


# --- columns

ROWS = 3
column_name = st.text(st.sampled_from("abcdé .`_x9"), min_size=1, max_size=4).filter(str.strip)
column_names = st.lists(column_name, min_size=2, max_size=7, unique_by=str.casefold)


def _alignment(source: Sequence[str], config: ColumnsConfig, features: Sequence[str]) -> columns.Alignment:
    schema = T.StructType([T.StructField(name, T.DoubleType()) for name in source])
    return columns.plan(schema, config, Signature(tuple(Feature(name, T.DoubleType()) for name in features)), case_sensitive=False)


def _job(**given: Any) -> worker.Job:
    """A job of which only a part is asked."""
    rest: dict[str, Any] = dict.fromkeys(worker.Job.__dataclass_fields__, ())
    return worker.Job(**{**rest, "params": None, "constants": {}, "compression": "snappy", **given})


def _values(name: str, source: Sequence[str]) -> list[float]:
    """The values of a column, which no other column has, wherever it stands."""
    return [sorted(source).index(name) * 100.0 + row for row in range(ROWS)]


@examples
@given(column_names, st.data())
def test_each_feature_has_its_own_values_in_any_order_of_the_source(source: list[str], data: st.DataObject) -> None:
    fresh = [f"new {i}" for i in range(len(source))]
    rename = {old: new for old, new in zip(source, fresh, strict=True) if data.draw(st.booleans())}
    called = [rename.get(name, name) for name in source]
    features = data.draw(st.permutations(called).flatmap(lambda some: st.integers(1, len(some)).map(lambda n: some[:n])))
    others = [name for name in called if name not in features]
    drop, labels = others[: len(others) // 2], others[len(others) // 2 :]
    keys = [name for name in features if data.draw(st.booleans())]
    config = ColumnsConfig(rename=rename, drop=tuple(drop), labels=tuple(labels), keys=tuple(keys))
    for order in (source, data.draw(st.permutations(source))):
        alignment = _alignment(order, config, features)
        old = {new: old for old, new in alignment.source if new is not None}
        batch = pa.record_batch({name: _values(name, source) for name in order})
        frame = worker._features(_job(inputs=tuple(direct._input(one, old) for one in alignment.inputs)), batch)
        expected = {new: _values(source[called.index(new)], source) for new in features}
        pd.testing.assert_frame_equal(frame, pd.DataFrame(expected), check_column_type=False)
        assert sorted(alignment.kept) == sorted(set(called) - set(drop))
        assert {name: old[name] for name in alignment.kept} == {name: source[called.index(name)] for name in alignment.kept}


@examples
@given(
    column_names,
    st.lists(st.text("abcdéAB .`_x9", min_size=1, max_size=4), max_size=3),
    st.sampled_from(["select", "drop", "keys", "labels"]),
)
def test_an_error_names_what_was_given_and_columns_that_exist(source: list[str], wanted: list[str], key: str) -> None:
    try:
        alignment = _alignment(source, ColumnsConfig.model_validate({key: [name for name in wanted if name.strip()]}), source[:1])
    except LakescoreError as error:
        line = str(error)
        assert line.startswith("columns") or "the model" in line
        if "Did you mean " in line:
            assert any(f"Did you mean {name!r}?" in line for name in source)
        elif "there is no column" in line:
            assert any(name in line for name in source)
    else:
        assert {one.column for one in alignment.inputs} == {source[0]}


# --- dates

zones = st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime", "Factory"}))
instants = st.datetimes(dt.datetime(1902, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.timezone.utc))


@many_examples
@given(zones, instants)
def test_the_runs_date_is_the_day_that_it_is_there(name: str, now: dt.datetime) -> None:
    found = compose(values={**BASE, "run": {"timezone": name}}, now=now).run.date
    assert found is not None
    zone = zoneinfo.ZoneInfo(name)
    # From the first moment of that day there until the first of the next one.
    begins, ends = (dt.datetime.combine(day, dt.time(), zone) for day in (found, found + dt.timedelta(days=1)))
    assert begins.astimezone(dt.timezone.utc) <= now < ends.astimezone(dt.timezone.utc) or _is_skipped(found, zone)


def _is_skipped(day: dt.date, zone: zoneinfo.ZoneInfo) -> bool:
    """Islands that crossed the date line left a day out, or had one twice; and where clocks go back at midnight it comes twice."""
    noon = [dt.datetime.combine(day + dt.timedelta(days=i), dt.time(12), zone).utcoffset() for i in (-1, 0, 1)]
    return len(set(noon)) > 1


@examples
@given(st.dates())
def test_a_date_that_is_given_is_that_day_in_every_zone(day: dt.date) -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "America/Los_Angeles"):
        assert compose(values=BASE, overrides=[f"run.date={day.isoformat()}", f"run.timezone={zone}"]).run.date == day


# --- names of batches and files

batch_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:+@=~-]{0,127}", fullmatch=True)


@many_examples
@given(batch_ids)
def test_an_accepted_batch_is_found_under_its_own_name_and_nowhere_else(batch_id: str) -> None:
    assert RunConfig(batch_id=batch_id).batch_id == batch_id
    batch = Batch(batch_id, "run", dt.date(2026, 1, 31), "skip")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table")
        try:
            sink = open_sink(OutputConfig(path=str(table), format="parquet"), batch)
        except OutputError:
            assert batch_id[0].isdigit() or batch_id.lower() in ("nan", "inf", "infinity")
            return
        assert isinstance(sink, ParquetSink)
        location = Location.of(str(table))
        assert location is not None
        place = Path(sink._own_partition(location).path)
        assert place.parent.parent == table
        place.mkdir(parents=True)
        (place / "part-0.parquet").touch()
        assert unquote(place.name) == f"batch_id={batch_id}"
        assert journal.files_of(location, batch_id) == [f"{place.parent.name}/{place.name}/part-0.parquet"]
        for other in (batch_id + "x", batch_id[:-1], batch_id.swapcase()):
            if other != batch_id and other:
                assert journal.files_of(location, other) == []
        assert set(attempt_name(batch_id)) <= set(string.ascii_letters + string.digits + "-_")


@many_examples
@given(anything | st.text(min_size=150, max_size=260))
def test_an_accepted_file_name_is_a_file_in_the_folder(name: str) -> None:
    try:
        config = OutputConfig(path="/tmp/outputs", format="jsonl", file=name)
    except ValueError:
        return
    sink = open_sink(config, Batch("a", "0" * 32, dt.date(2026, 1, 31), "skip"))
    assert isinstance(sink, RowsSink)
    assert Path(sink.location).parent == Path("/tmp/outputs")
    record = record_of(sink._file, "0" * 32)
    assert Path(record.path).parent == Path("/tmp/outputs")
    assert len(Path(record.path).name.encode()) + len(".12345678.tmp") <= 255


# --- secrets

# What people use in passwords, but for the characters that end a URI's part.
secrets = st.text(string.ascii_letters + string.digits + "!$*+-._~%^", min_size=8, max_size=30).map(lambda text: f"Zq{text}9")
TEMPLATES = (
    "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/path",
    "https://user:{}@host:8080/mlflow",
    "postgresql://user:{}@host/db?sslmode=require",
    "mysql+pymysql://{}@host/db",
    "https://account.blob.core.windows.net/c/f?sv=2024&sig={}&se=2027",
    "wasbs://c@account.blob.core.windows.net/f?sig={}",
    "s3://bucket/x?aws_access_key_id=a&aws_secret_access_key={}",
    "https://host/x?X-Amz-Credential={}&X-Amz-Signature=1",
    "https://host/x?access_token={}#there",
    "fs.s3a.secret.key={}",
    "spark.hadoop.fs.azure.account.key.x.dfs.core.windows.net={}",
    "AccountKey={};EndpointSuffix=core.windows.net",
    "password='{}'",
    '{{"token": "{}"}}',
    "Authorization: Bearer {}",
)


@many_examples
@given(secrets, st.sampled_from(TEMPLATES), names)
def test_no_secret_part_of_a_uri_is_left_wherever_it_is_shown(secret: str, template: str, around: str) -> None:
    text = template.format(secret)
    record = logging.LogRecord("lakescore", logging.INFO, "", 0, "reading %s", (text,), None)
    shown = [
        redact(text),
        redact(f"{around} cannot be read: {text}"),
        redact(repr({"uri": text})),
        redact(redact(text)),
        str(LakescoreError(f"source.path: {text}: no such place")),
        json.dumps(redact_tree({"source": {"path": [text]}, "x": (text,)})),
        _Redacting("%(message)s").format(record),
    ]
    assert [one for one in shown if secret in one] == []


@examples
@given(secrets, st.sampled_from(["password", "spark.hadoop.fs.s3a.secret.key", "API_TOKEN", "sas", "client-key"]))
def test_a_secret_under_its_key_is_hidden_in_any_tree(secret: str, key: str) -> None:
    tree = {"a": [{key: secret}, {key: {"deep": [secret]}}], "b": {key: [secret, secret]}}
    assert secret not in json.dumps(redact_tree(tree))


@examples
@given(secrets, st.sampled_from(["DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"]))
def test_what_a_secret_variable_holds_is_hidden_under_any_key(secret: str, variable: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, secret)
        patch.setattr("lakescore.redact._hidden", set())
        found = compose(values=BASE, overrides=[f"run.name=nightly ${{oc.env:{variable}}}", f"source.path=s3://b/${{oc.env:{variable}}}/x"])
        assert found.run.name == f"nightly {secret}"
        for shown in (redact(found.run.name), json.dumps(redact_tree(found.to_dict())), str(LakescoreError(quote(found.run.name)))):
            assert secret not in shown
            assert quote(secret) not in shown


# --- bounds

tables = st.fixed_dictionaries(
    {
        "tiny": st.lists(st.none() | st.integers(-128, 127), min_size=1, max_size=9).map(lambda values: pa.array(values, pa.int8())),
        "large": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9).map(
            lambda values: pa.array(values, pa.int64())
        ),
        "text": st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=9).map(
            lambda values: pa.array([None if v is None else v.encode("utf-8", "ignore").decode() for v in values], pa.string())
        ),
        "day": st.lists(st.none() | st.integers(-800_000, 3_000_000), min_size=1, max_size=9).map(
            lambda values: pa.array(values, pa.int32()).cast(pa.date32())
        ),
        "x": st.lists(st.none() | st.floats(), min_size=1, max_size=9).map(lambda values: pa.array(values, pa.float64())),
    }
)


@many_examples
@given(tables, st.integers(1, 4))
def test_the_bounds_of_a_staged_file_hold_for_every_value(arrays: dict[str, pa.Array], rows_per_group: int) -> None:
    rows = max(len(array) for array in arrays.values())
    table = pa.table({name: pa.concat_arrays([array] * rows).slice(0, rows) for name, array in arrays.items()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part.parquet")
        with worker._writer(_job(schema=table.schema), str(path), table.schema) as writer:
            writer.write_table(table, row_group_size=rows_per_group)
        found = json.loads(file_statistics(pq.read_metadata(path)))
    assert found["numRecords"] == rows
    for name in table.column_names:
        values = [value for value in table[name].cast(pa.int32() if name == "day" else table[name].type).to_pylist() if value is not None]
        if name in found["nullCount"]:
            assert found["nullCount"][name] == rows - len(values), name
        low, high = found["minValues"].get(name), found["maxValues"].get(name)
        assert (low is None) == (high is None)
        if low is None:
            continue
        if name == "day":
            low, high = ((dt.date.fromisoformat(one) - dt.date(1970, 1, 1)).days for one in (low, high))
        # As Spark compares them: texts by their bytes, and NaN greater than all.
        ordered = [value.encode() if isinstance(value, str) else value for value in (low, high, *values)]
        assert all(ordered[0] <= value <= ordered[1] for value in ordered[2:]), name


def test_dates_of_years_that_python_has_not_have_no_bounds_and_hide_no_row() -> None:
    table = pa.table({"day": pa.array([0, 3_000_000], pa.int32()).cast(pa.date32())})
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder, "part.parquet"))
        found = json.loads(file_statistics(pq.read_metadata(Path(folder, "part.parquet"))))
    assert found["maxValues"] == {}
