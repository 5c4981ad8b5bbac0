"""Files are of one schema when they store the same, whatever wrote them; text that Spark would change silently is refused."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from lakescore import datafiles
from lakescore.datafiles import stored_type
from lakescore.errors import InputError
from lakescore.storage import Location


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int16(), pa.string())),
        (pa.large_string(), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.large_list(pa.large_string()), pa.list_(pa.string())),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Vienna")),
    ],
)
def test_the_same_stored_values_are_the_same_type(one: pa.DataType, other: pa.DataType) -> None:
    assert stored_type(one) == stored_type(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int32(), pa.int64()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.float32()), pa.list_(pa.float64())),
        (pa.string(), pa.binary()),
    ],
)
def test_other_stored_values_are_another_type(one: pa.DataType, other: pa.DataType) -> None:
    assert stored_type(one) != stored_type(other)


def _check(path: Path, **options: str) -> None:
    location = Location.of(str(path))
    assert location is not None
    format_ = next((name for name in ("json", "avro") if f".{name}" in path.name), "csv")
    datafiles.check([(location.fs, file) for file in location.files()], format_, options)


@pytest.mark.parametrize(
    ("name", "content", "options", "line"),
    [
        ("a.csv", b'id,x\n1,"a\nb"\n', {}, 2),
        ("a.csv", b'id;x\n1;"a\nb"\n', {"sep": ";"}, 2),
        ("a.csv", b'id\tx\n1\t"a\nb"\n', {"delimiter": r"\t"}, 2),
        ("a.csv", b'id,x\r\n1,2\r\n1,"a\rb"\r\n', {}, 3),
        ("a.csv", b"id,x\n" + b'1,"a"\n' * 300_000 + b'2,"b', {}, 300_002),
        ("a.csv", b"id,x\n1,'a\n2,b'\n", {"quote": "'"}, 2),
        ("a.csv", b'id,x\n1,"a\\"\n2,b"\n', {"escape": "\\"}, 2),
        ("a.tsv.gz", gzip.compress(b'id\tx\n1\t"a\nb"\n', mtime=0), {}, 2),
        ("a.csv.bz2", bz2.compress(b'id,x\n1,"a\nb"\n'), {}, 2),
    ],
)
def test_a_quote_that_its_line_does_not_close_is_refused(
    tmp_path: Path, name: str, content: bytes, options: dict[str, str], line: int
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError) as caught:
        _check(tmp_path / name, **options)

    assert str(caught.value) == (
        f"source.path: {tmp_path / name}, line {line}: a quote is not closed in its line; if values span lines, set "
        "source.options.multiLine=true"
    )


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b'id,x\r\n1,"a ""b"""\r\n2,5" pipe', {}),
        (b'id;x\n1;"a\nb"\n', {"sep": ";", "multiLine": "true"}),
        (b'id||x\n1||"a"\n', {"sep": "||"}),
        (b"id,x\n1,'a,b'\n", {"quote": "'"}),
        (b'id,x\n1,"a\\"b"\n', {"escape": "\\"}),
        (b"#x,'\nid,x\n", {"comment": "#", "quote": "'"}),
        (b"id,x\n1,'a\n", {"lineSep": ";"}),
        ("id,x\n1,é\n".encode("latin1"), {"encoding": "ISO-8859-1"}),
        (b"", {}),
    ],
)
def test_text_that_spark_reads_as_it_is_passes(tmp_path: Path, content: bytes, options: dict[str, str]) -> None:
    (tmp_path / "a.csv").write_bytes(content)

    _check(tmp_path / "a.csv", **options)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", "id,x\n1,é\n".encode("latin1"), {}),
        ("a.csv", "id,x\n1,é\n".encode("latin1"), {"encoding": "utf-8", "multiLine": "true"}),
        ("a.csv.gz", gzip.compress("id,x\n1,é\n".encode("latin1"), mtime=0), {}),
        ("a.json", "{\"a\": 'é'}\n".encode("latin1"), {}),
    ],
)
def test_text_that_is_no_utf8_is_refused(tmp_path: Path, name: str, content: bytes, options: dict[str, str]) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=r"is no UTF-8 \(byte 0xe9 near position 7\); set source.options.encoding"):
        _check(tmp_path / name, **options)


def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"id,x\n1,2\n")

    with pytest.raises(InputError, match=f"source.path: {tmp_path}/a.csv.gz cannot be read: "):
        _check(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    ("content", "options", "where"),
    [
        ('{"a": 1}\n{"a": 2} {"a": 3}\n', {}, ", line 2: something stands behind the JSON value"),
        ('{"a": 1} junk', {}, ", line 1: something stands behind the JSON value"),
        ('{"a": 1}\n{"a": 2}\n', {"multiLine": "true"}, ": something stands behind the first JSON value"),
    ],
)
def test_json_that_spark_would_leave_out_is_refused(tmp_path: Path, content: str, options: dict[str, str], where: str) -> None:
    (tmp_path / "a.json").write_text(content)

    with pytest.raises(InputError, match=f"source.path: {tmp_path}/a.json{where}"):
        _check(tmp_path / "a.json", **options)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ('{"a": 1}\n\n{"a": [1, 2]} \r\n', {}),
        ('[{"a": 1},\n{"a": 2}]\n', {"multiLine": "true"}),
        ("not json", {}),
        ('\ufeff{"a": 1}\n', {}),
    ],
)
def test_json_of_one_value_on_each_line_passes(tmp_path: Path, content: str, options: dict[str, str]) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")

    _check(tmp_path / "a.json", **options)


def test_a_header_with_a_name_twice_is_refused_and_one_that_is_no_header_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeff"x";y;x\n1;2;3\n', encoding="utf-8")

    with pytest.raises(InputError, match=f"^source.path: {tmp_path}/a.csv: its header has 'x' twice; give the columns names of their own$"):
        _check(tmp_path / "a.csv", sep=";")
    _check(tmp_path / "a.csv", sep=";", header="false")
    _check(tmp_path / "a.csv")


def _avro_header(schema: bytes, count: int = 2, length: bytes | None = None) -> bytes:
    """The magic, a map of one entry with the schema, its end, and the sync marker."""
    return b"Obj\x01" + bytes([count]) + b"\x16avro.schema" + (length or bytes([2 * len(schema)])) + schema + b"\x00" + b"s" * 16


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_avro_header(b'"string"'), "its schema is no record"),
        (_avro_header(b'["null"]'), "its schema is no record"),
        (_avro_header(b"{}", length=b"\xff" * 12 + b"\x01"), ""),
        (b"Obj\x01\x02", "it is cut off in its header"),
    ],
)
def test_an_avro_file_with_an_odd_header_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.avro").write_bytes(content)

    with pytest.raises(InputError, match=f"^source.path: {tmp_path}/a.avro cannot be read as avro: {reason}"):
        _check(tmp_path / "a.avro")


def test_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv.zip").write_bytes(b"PK")

    with pytest.raises(InputError, match=r"Spark cannot read .zip files; unpack it, or compress it with gzip, bzip2 or zstd"):
        _check(tmp_path / "a.csv.zip")


def test_a_long_line_of_quotes_that_does_not_fit_takes_no_long_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'"a""b",' * 20_000 + b'"')

    with pytest.raises(InputError, match="line 1: a quote is not closed"):
        _check(tmp_path / "a.csv")
