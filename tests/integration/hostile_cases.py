"""Inputs that somebody got wrong, or made on purpose, and what the command says of each: a table for ``test_hostile.py``.

A case makes what it needs in its folder and returns overrides of a run that would otherwise succeed.
"""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 50
SECRET = "Hunter2Hunter2"


@dataclass(frozen=True)
class Place:
    """Where a case may work.

    Attributes:
        folder: its own.
        model: a good model with the inputs x and y, whose code is ``code/hostile_model.py``.
        source: a good Parquet file.
        output: where the run writes.
        sink: ``delta`` or ``parquet``.
    """

    folder: Path
    model: Path
    source: Path
    output: Path
    sink: str

    def table(self, table: pa.Table, name: str = "in/part-0.parquet", **options: Any) -> Path:
        """A Parquet file in the folder; returns the folder or file to read."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return path.parent if path.parent != self.folder else path

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def copy_of_model(self) -> Path:
        return Path(shutil.copytree(self.model, self.folder / "model"))

    def model_that(self, body: str, at_load: str = "pass") -> str:
        """A model whose ``predict(frame)`` has this body."""
        folder = self.copy_of_model()
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        (folder / "code" / "hostile_model.py").write_text(
            "import os, sys\nimport numpy as np\n\n\nclass Model:\n    def predict(self, frame, params=None):\n"
            f"{lines}\n\n\ndef _load_pyfunc(path):\n    {at_load}\n    return Model()\n"
        )
        return f"model.uri={folder}"


Make = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        name: what is wrong.
        code: the exit code, by DESIGN's section 6; 0: it is right, however odd.
        says: what the line must hold, so that a newcomer knows where to look.
        make: makes it, and returns the overrides.
    """

    name: str
    code: int
    says: str
    make: Make


def rows(**columns: Any) -> pa.Table:
    """A good source, with other columns or more of them."""
    given = {"id": pa.array(range(ROWS)), "x": pa.array([float(i) for i in range(ROWS)]), "y": pa.array([1.0] * ROWS), **columns}
    return pa.table({name: values for name, values in given.items() if values is not None})


def fixed(*overrides: str) -> Make:
    """Overrides that need nothing to be made."""
    return lambda place: list(overrides)


def _yaml(content: bytes | str) -> Make:
    return lambda place: ["--config", str(place.file("hostile.yaml", content))]


# --- configuration

_BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)

CONFIGURATION = [
    Case("a typo in a section", 2, "Did you mean 'output'?", fixed("outptu.path=x")),
    Case("a typo in a key", 2, "Did you mean 'on_rerun'?", fixed("run.on_rreun=skip")),
    Case("a batch that climbs", 2, "run.batch_id", fixed("run.batch_id=../../etc/cron.d/x")),
    Case("a batch with a slash", 2, "run.batch_id", fixed("run.batch_id=a/b")),
    Case("a batch of two dots", 2, "run.batch_id", fixed("run.batch_id=..")),
    Case("a batch with a line break", 2, "run.batch_id", fixed("run.batch_id='a\n'")),
    Case("a batch that ends a SQL text", 2, "run.batch_id", fixed("run.batch_id=a' OR '1'='1")),
    Case("a batch of many characters", 2, "run.batch_id", fixed(f"run.batch_id={'a' * 129}")),
    Case("a name of bytes that are no UTF-8", 2, "run.name", fixed("run.name=caf\udce9")),
    Case("a column of half a character", 2, "columns.select", fixed('columns.select=["\\ud83d"]')),
    Case("a file that climbs", 2, "output.file", fixed("output.format=jsonl", "output.file=../../x.jsonl")),
    Case("a file from the root", 2, "output.file", fixed("output.format=jsonl", "output.file=/etc/x.jsonl")),
    Case("a file with a terminal's command", 2, "output.file", fixed("output.format=jsonl", "output.file=a\x1b]0;owned\x07.jsonl")),
    Case("a file with too long a name", 2, "output.file", fixed("output.format=jsonl", f"output.file={'a' * 250}.jsonl")),
    Case("a zone that climbs", 2, "run.timezone", fixed("run.timezone=../../../etc/passwd")),
    Case("a zone that is a folder", 2, "run.timezone", fixed("run.timezone=Europe")),
    Case("a zone with a zero byte", 2, "run.timezone", fixed("run.timezone=UTC\x00")),
    Case("a date that is none", 2, "run.date", fixed("run.date=2026-02-30")),
    Case("a date before all", 2, "run.date", fixed("run.date=0000-01-01")),
    Case("a date of five digits", 2, "run.date", fixed("run.date=10000-01-01")),
    Case("a method that is an expression", 2, "model.predict_method", fixed("model.predict_method=__class__.__base__")),
    Case("a class that is an expression", 2, "model.python_class", fixed("model.python_class=os:system('x')")),
    Case("a variable that is not set", 2, "LAKESCORE_NO_SUCH", fixed("run.name=${oc.env:LAKESCORE_NO_SUCH}")),
    Case("a key that is itself", 2, "run.name", fixed("run.name=${run.name}")),
    Case(
        "keys that are each other",
        2,
        "Recursive interpolation",
        fixed("run.name=${tracking.experiment}", "tracking.experiment=${run.name}"),
    ),
    Case("a resolver that is none", 2, "run.name", fixed("run.name=${eval:1+1}")),
    Case("an expression that is not closed", 2, "run.name", fixed("run.name=${oc.env:HOME")),
    Case("a Python tag", 2, "!!python/object/apply", _yaml("run: {name: !!python/object/apply:os.system ['touch /tmp/owned']}")),
    Case("a Python name", 2, "!!python/name", _yaml("run: {name: !!python/name:os.system }")),
    Case("a billion laughs", 2, "unfolds", _yaml(_BOMB)),
    Case("an alias of itself", 2, "unfolds", _yaml("run: &a [*a]")),
    Case("a thousand levels", 2, "nested", _yaml("run: " + "[" * 5000)),
    Case("a key of a hundred thousand letters", 2, "hostile.yaml", _yaml("a" * 100_000 + ": 1")),
    Case("a number of ten thousand digits", 2, "hostile.yaml", _yaml("source: {limit: " + "1" * 10_000 + "}")),
    Case("a zero byte in YAML", 2, "hostile.yaml", _yaml(b"run: {name: a\x00b}")),
    Case("YAML in UTF-16", 2, "hostile.yaml", _yaml("run: {name: a}".encode("utf-16"))),
    Case("a key twice", 2, "given twice", _yaml("run: {name: a, name: b}")),
    Case("a mapping merged into another", 2, "merge keys", _yaml("a: &a {name: x}\nrun: {<<: *a}")),
    Case("a file that never ends", 2, "/dev/zero has more than", fixed("--config", "/dev/zero")),
    Case("data instead of a configuration", 2, "hostile.yaml", _yaml(b"PAR1" + bytes(range(256)) * 100)),
]


# --- models


def _pickled(value: Any) -> Make:
    return lambda place: [f"model.uri={place.file('model.pkl', pickle.dumps(value))}"]


class Exits:
    """What a pickle can do when it is loaded."""

    def __reduce__(self) -> Any:
        import sys

        return sys.exit, (0,)


def _pipe(key: str) -> Make:
    def make(place: Place) -> list[str]:
        os.mkfifo(place.folder / "pipe.parquet")
        return [f"{key}={place.folder / 'pipe.parquet'}"]

    return make


def _mlmodel(old: str, new: str) -> Make:
    """The good model with another text in its MLmodel."""

    def make(place: Place) -> list[str]:
        file = place.copy_of_model() / "MLmodel"
        text = file.read_text()
        assert old in text, text
        file.write_text(text.replace(old, new))
        return [f"model.uri={file.parent}"]

    return make


def _mlmodel_is(content: bytes | str) -> Make:
    return lambda place: [f"model.uri={place.file('model/MLmodel', content).parent}"]


def that(body: str, at_load: str = "pass") -> Make:
    return lambda place: [place.model_that(body, at_load)]


_BROKEN_TEXT = """class Bad(Exception):
    def __str__(self):
        raise RuntimeError("no text")
raise Bad"""

MODELS = [
    Case("a name that climbs", 3, "model.uri: models:/../../etc/passwd@x", fixed("model.uri=models:/../../etc/passwd@x")),
    Case("a name with SQL", 3, "model.uri: models:/a' OR 1=1 --", fixed("model.uri=models:/a' OR 1=1 --/1")),
    Case("a run that climbs", 3, "is no run ..", fixed("model.uri=runs:/../../etc/passwd")),
    Case("a file that is no model", 3, "is no model that is recognised", fixed("model.uri=file:///etc/passwd")),
    Case("a page of the web", 3, "download the model", fixed("model.uri=https://127.0.0.1:9/model.pkl")),
    Case("a device", 3, "neither a file nor a folder", fixed("model.uri=/dev/zero")),
    Case("a pipe", 3, "neither a file nor a folder", _pipe("model.uri")),
    Case("an empty file", 3, "is empty", lambda place: [f"model.uri={place.file('model.pkl', b'')}"]),
    Case("a pickle that is cut", 3, "cannot be loaded", lambda place: [f"model.uri={place.file('m.pkl', pickle.dumps([1] * 99)[:50])}"]),
    Case("a pickle of no model", 3, "expected a fitted model", _pickled({"a": 1})),
    Case("a pickle that ends the process", 3, "its own code ends the process", _pickled(Exits())),
    Case("an MLmodel that is no YAML", 3, "its MLmodel file cannot be read", _mlmodel_is("a: [")),
    Case("an MLmodel that is a list", 3, "its MLmodel file cannot be read", _mlmodel_is("- a")),
    Case("an MLmodel with a Python tag", 3, "its MLmodel file cannot be read", _mlmodel_is("flavors: !!python/object/apply:os.getcwd []")),
    Case("an MLmodel of zero bytes", 3, "its MLmodel file cannot be read", _mlmodel_is(b"\x00" * 100)),
    Case("flavors that are a list", 3, "flavors must be a mapping", _mlmodel_is("flavors: [python_function]")),
    Case("a flavor that is null", 3, "flavors must be a mapping", _mlmodel_is("flavors: {python_function: null}")),
    Case("data that climb", 3, "outside of the model's folder", _mlmodel("data: data", "data: ../../other")),
    Case("code from the root", 3, "outside of the model's folder", _mlmodel("code: code", "code: /tmp")),
    Case("a module that is not there", 3, "cannot be loaded", _mlmodel("loader_module: hostile_model", "loader_module: no_such_module")),
    Case("a signature that is no JSON", 3, "its MLmodel file cannot be read", _mlmodel('[{"type"', '[{"type')),
    Case("a model that raises at load", 3, "cannot be loaded", that("return frame['x']", "raise ValueError('no weights')")),
    Case("a model that exits at load", 3, "cannot be loaded", that("return frame['x']", "sys.exit(0)")),
    Case("a model that raises", 3, "ValueError: too large", that("raise ValueError('too large')")),
    Case("a model that raises no Exception", 3, "Quit(go)", that("class Quit(BaseException): pass\nraise Quit('go')")),
    Case("a model whose error has no text", 3, "the model failed to predict: Bad: no reason given", that(_BROKEN_TEXT)),
    Case("a model that raises megabytes", 3, "xxxx", that("raise ValueError('x' * 3_000_000)")),
    Case("a model that says a password", 3, "password=***", that(f"raise ValueError('password={SECRET}')")),
    Case("a model that exits", 3, "SystemExit(0)", that("sys.exit(0)")),
    Case("a model that ends the process", 1, "ended without a word", that("os._exit(0)")),
    Case("a model that kills its process", 1, "ended without a word", that("os.kill(os.getpid(), 9)")),
    Case("a prediction too few", 3, "returned 49 prediction(s)", that("return frame['x'].to_numpy()[1:]")),
    Case("one prediction for all", 3, "returned 1 prediction(s)", that("return 1.0")),
    Case("None instead of predictions", 3, "the model", that("return None")),
    Case("a None among predictions", 3, "type double", that("return [None, 'a'] * 25")),
    Case("texts instead of numbers", 3, "type double", that("return ['1.5'] * len(frame)")),
    Case("two columns instead of one", 3, "the model", that("return frame")),
    Case("a model that forks", 0, "", that("os.fork()\nreturn frame['x'] * 2")),
    Case("a model that writes to its output", 0, "", that("os.write(1, b'noise')\nprint('noise')\nreturn frame['x'] * 2")),
    Case("a model that leaves the folder", 0, "", that("os.chdir('/')\nreturn frame['x'] * 2")),
    Case("predictions that are no numbers", 0, "", that("return np.where(frame['x'] > 3, np.nan, np.inf)")),
    Case("a model that changes what it is given", 0, "", that("y = frame['x'].to_numpy() * 2\nframe['x'] = -1.0\nreturn y")),
]


# --- files


def _bytes(name: str, content: Callable[[bytes], bytes]) -> Make:
    """The good file, changed."""
    return lambda place: [f"source.path={place.file(name, content(place.source.read_bytes()))}"]


def source(**columns: Any) -> Make:
    return lambda place: [f"source.path={place.table(rows(**columns))}"]


def _two(first: pa.Table, second: pa.Table) -> Make:
    def make(place: Place) -> list[str]:
        place.table(first)
        return [f"source.path={place.table(second, 'in/part-1.parquet')}"]

    return make


def _beside(content: bytes, name: str = "in/part-1.parquet") -> Make:
    """A good file with another one beside it."""

    def make(place: Place) -> list[str]:
        place.file(name, content)
        return [f"source.path={place.table(rows())}"]

    return make


def _link(target: str) -> Make:
    def make(place: Place) -> list[str]:
        folder = place.table(rows())
        os.symlink(target, folder / "part-1.parquet")
        return [f"source.path={folder}"]

    return make


def _encrypted(plain_footer: bool) -> Make:
    def make(place: Place) -> list[str]:
        import pyarrow.parquet.encryption as pe

        class Kms(pe.KmsClient):  # type: ignore[misc]
            def __init__(self, config: Any) -> None:
                super().__init__()

            def wrap_key(self, key: bytes, master: str) -> bytes:
                return key

            def unwrap_key(self, key: bytes, master: str) -> bytes:
                return key

        columns = {"k": ["x", "y"]}
        settings = pe.EncryptionConfiguration(footer_key="k", column_keys=columns, plaintext_footer=plain_footer, double_wrapping=False)
        properties = pe.CryptoFactory(lambda config: Kms(config)).file_encryption_properties(pe.KmsConnectionConfig(), settings)
        return [f"source.path={place.table(rows(), encryption_properties=properties)}"]

    return make


def _longer_footer(content: bytes) -> bytes:
    """A footer that says it has four gigabytes."""
    return content[:-8] + struct.pack("<I", 0xFFFFFFF0) + b"PAR1"


def _zeros_behind_the_footer(content: bytes) -> bytes:
    """The pages are gone; the footer tells of them all the same."""
    length = struct.unpack("<I", content[-8:-4])[0] + 8
    return b"PAR1" + b"\x00" * (len(content) - length - 4) + content[-length:]


def _foreign_footer(content: bytes) -> bytes:
    """The footer of a file with other pages and more rows."""
    buffer = pa.BufferOutputStream()
    table = pa.concat_tables([rows()] * 20)
    pq.write_table(table, buffer, use_dictionary=False, compression="none")
    other = buffer.getvalue().to_pybytes()
    length = struct.unpack("<I", other[-8:-4])[0] + 8
    return content + other[-length:]


def _climbs(place: Place) -> list[str]:
    log = '{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}\n{"add": {"path": "../../x"'
    return [f"source.path={place.file('t/_delta_log/00000000000000000000.json', log).parent.parent}"]


def _no_utf8(place: Place) -> list[str]:
    folder = place.table(rows())
    shutil.copy(folder / "part-0.parquet", os.fsencode(folder) + b"/part-\xff.parquet")
    return [f"source.path={folder}"]


def _twice(place: Place) -> list[str]:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array([3.0])], names=["x", "y", "x"])
    return [f"source.path={place.table(table)}"]


def _from_the_epoch(*micros: int) -> pa.Array:
    return pa.array([micros[i % len(micros)] for i in range(ROWS)], pa.int64()).cast(pa.timestamp("us", "UTC"))


FILES = [
    Case("no such path", 4, "does not exist", fixed("source.path=../../no/such/place")),
    Case("a device as source", 4, "source.path: /dev/zero", fixed("source.path=/dev/zero")),
    Case("a pipe as source", 4, "pipe.parquet", _pipe("source.path")),
    Case("a file of no bytes", 4, "part.parquet", _bytes("part.parquet", lambda content: b"")),
    Case("a file that is cut", 4, "part.parquet", _bytes("part.parquet", lambda content: content[: len(content) // 2])),
    Case("a footer without a file", 4, "part.parquet", _bytes("part.parquet", lambda content: content[-50:])),
    Case("only magic bytes", 4, "part.parquet", _bytes("part.parquet", lambda content: b"PAR1PAR1")),
    Case("a footer of four gigabytes", 4, "part.parquet", _bytes("part.parquet", _longer_footer)),
    Case("pages of zeros", 4, "part.parquet: cannot be read", _bytes("part.parquet", _zeros_behind_the_footer)),
    Case("a footer of another file", 4, "part.parquet: cannot be read", _bytes("part.parquet", _foreign_footer)),
    Case("text called Parquet", 4, "part.parquet", _bytes("part.parquet", lambda content: b"id,x,y\n1,2,3\n")),
    Case("a broken file beside a good one", 4, "part-1.parquet", _beside(b"PAR1 and nothing else")),
    Case("a CSV file beside Parquet", 4, "different formats", _beside(b"id,x,y\n1,2,3\n", "in/part-1.csv")),
    Case("another column in the second file", 4, "different schemas: column 'z'", _two(rows(), rows(z=pa.array([1] * ROWS)))),
    Case("another type in the second file", 4, "different schemas: column 'y'", _two(rows(), rows(y=pa.array(["a"] * ROWS)))),
    Case("a link that leads nowhere", 4, "part-1.parquet", _link("/no/such/place")),
    Case("a link to its own folder", 4, "source.path", _link(".")),
    Case("a file's name in no UTF-8", 4, "source.path", _no_utf8),
    Case("an encrypted file", 4, "encrypted", _encrypted(plain_footer=False)),
    Case("encrypted columns", 4, "part-0.parquet", _encrypted(plain_footer=True)),
    Case("a log of a Delta table that is cut", 4, "_delta_log", _climbs),
]

LOOKS_LIKE = "columns.drop=[pr\u0456ce]"  # with another alphabet's i

COLUMNS = [
    Case("a column that is missing", 4, "no column 'y'", source(y=None)),
    Case("a column that looks like another", 4, "They look alike", lambda place: [*source(price=pa.array([1] * ROWS))(place), LOOKS_LIKE]),
    Case("a column twice", 4, "'x'", _twice),
    Case("columns that differ by case", 4, "'x'", source(X=pa.array([1.0] * ROWS))),
    Case("a terminal's command in a name", 4, "\\x1b", source(**{"y": None, "a\x1b[2Jb": pa.array([1.0] * ROWS)})),
    Case("lists where numbers belong", 4, "column 'y'", source(y=pa.array([[1.0]] * ROWS))),
    Case("a column of the run's record", 5, "'batch_id' would be both", source(batch_id=pa.array(["x"] * ROWS))),
    Case("the same in other letters", 5, "'Run_ID' would be both", source(Run_ID=pa.array(["x"] * ROWS))),
    Case("a column called prediction", 5, "'prediction' would be both", source(prediction=pa.array([1] * ROWS))),
    Case("a prediction that is called like the run", 5, "give it another name by output.prediction", fixed("output.prediction=run_id")),
    Case("a column that is to be written twice", 2, "output.columns: 'x' is listed twice", fixed("output.columns=[x,x]")),
    Case("a column of Lakescore's own", 4, "a name that Lakescore uses itself", source(__lakescore_row=pa.array([1] * ROWS))),
    Case("a number of a column beyond the last", 4, "position 99", fixed("columns.drop=[99]")),
    Case("a column that is no name", 4, "columns.keys", fixed("columns.keys=['id; DROP TABLE x']")),
    Case("an integer that no double holds", 4, "'9007199254740993'", source(x=pa.array([2**53 + 1] * ROWS))),
    Case("a timestamp with nanoseconds", 4, "nanosecond", source(at=pa.array([1] * ROWS, pa.timestamp("ns")))),
    Case("no rows", 0, "", lambda place: [f"source.path={place.table(rows().slice(0, 0))}"]),
    Case("days and times far away", 0, "", source(day=pa.array([-719_162, 2_932_896] * 25, pa.int32()).cast(pa.date32()),
                                                  at=_from_the_epoch(-62_135_596_800_000_000, 253_402_300_799_999_999, 2**63 - 1))),
    Case("a timestamp that no calendar has", 0, "", source(at=_from_the_epoch(2**63 - 1, -(2**63) + 1))),
    Case("ten thousand columns", 0, "", source(**{f"c{i}": pa.array([i] * ROWS) for i in range(10_000)})),
    Case("a cell of ten megabytes", 0, "", source(text=pa.array(["x" * 10_000_000] + ["y"] * (ROWS - 1)))),
    Case("names of all kinds", 0, "", source(**{"Größe": pa.array([1] * ROWS), "日本": pa.array([1] * ROWS), "a.b": pa.array([1] * ROWS)})),
]  # fmt: skip


# --- texts, which Spark reads


def _text(content: bytes | str, name: str = "in.csv") -> Make:
    return lambda place: [f"source.path={place.file(name, content)}"]


_DEEP = "[" * 5000 + "]" * 5000

TEXTS = [
    Case("CSV of no bytes", 4, "in.csv", _text("")),
    Case("CSV of a header alone", 0, "", _text("id,x,y\n")),
    Case("CSV with a byte order mark", 0, "", _text("\ufeffid,x,y\n1,2,3\n")),
    Case("CSV in UTF-16", 4, "source.options.encoding", _text("id,x,y\n1,2,3\n".encode("utf-16"))),
    Case("CSV in Latin-1", 4, "source.options.encoding", _text("id,x,y\nä,2,3\n".encode("latin-1"))),
    Case("CSV with zero bytes", 4, "column 'x': '2\\x00'", _text(b"id,x,y\n1,2\x00,3\n")),
    Case("CSV with a value too many", 4, "in.csv", _text("id,x,y\n1,2,3,4\n")),
    Case("CSV with a value too few", 4, "in.csv", _text("id,x,y\n1,2\n")),
    Case("CSV with a name twice", 4, "x", _text("id,x,x\n1,2,3\n")),
    Case("CSV with a word for a number", 4, "column 'y': 'abc'", _text("id,x,y\n1,2,abc\n")),
    Case("CSV with a formula", 4, "column 'y': '=1+1'", _text("id,x,y\n1,2,=1+1\n")),
    Case("CSV with a number beyond all", 4, "column 'y': '1e999'", _text("id,x,y\n1,2,1e999\n")),
    Case("CSV with a field of a million letters", 4, "column 'y': 'aaaa", _text(f"id,x,y\n1,2,{'a' * 1_000_000}\n")),
    Case("CSV with a quote that never ends", 4, "in.csv", _text('id,x,y\n1,2,"3\n4,5,6\n')),
    Case("Parquet called CSV", 4, "in.csv", lambda place: [f"source.path={place.file('in.csv', place.source.read_bytes())}"]),
    Case("JSON of no bytes", 4, "in.json", _text("", "in.json")),
    Case("JSON that is cut", 4, "in.json", _text('{"id":1,"x":2.0,"y":', "in.json")),
    Case("JSON with a key twice", 4, "in.json", _text('{"id":1,"x":2.0,"y":1.0,"y":9.0}\n', "in.json")),
    Case("JSON with two values in a line", 4, "in.json", _text('{"id":1,"x":2.0,"y":1.0}{"id":2,"x":2.0,"y":1.0}\n', "in.json")),
    Case("JSON of five thousand levels", 4, "in.json", _text(f'{{"id":1,"x":2.0,"y":{_DEEP}}}\n', "in.json")),
    Case(
        "JSON of another type in the second line", 4, "column 'x': 'b'", _text('{"id":1,"x":2.0,"y":1.0}\n{"id":"a","x":"b"}\n', "in.json")
    ),
    Case("a table that ends its statement", 2, "output.table", fixed("output.format=delta", "output.table=t; DROP TABLE t")),
    Case("a source table that climbs", 2, "source.table", fixed("source.table=../../x")),
    Case("a filter that ends its statement", 2, "source.filter", fixed("source.filter=1=1; DROP TABLE x")),
    Case("a filter that closes its bracket", 2, "source.filter", fixed("source.filter=1=1) OR (1=1")),
    Case("a filter over another column", 2, "source.filter", fixed("source.filter=nope > 1")),
    Case("a filter that is not closed", 2, "source.filter", fixed("source.filter=x = 'a")),
    Case("a query that drops a table", 2, "source.query", fixed("source.path=null", "source.query=SELECT 1; DROP TABLE x")),
    Case("a query behind a comment", 2, "source.query", fixed("source.path=null", "source.query=/* a */ DROP TABLE x")),
    Case("a partition of two expressions", 2, "output.partition_by", fixed("output.partition_by=score_date, id")),
    Case("a partition that ends its statement", 2, "output.partition_by", fixed("output.partition_by=date'2026-01-01'; DROP TABLE x")),
    Case("a partition over all rows", 2, "output.partition_by", fixed("output.partition_by=max(date'2026-01-01')")),
    Case("a partition that is a text", 2, "output.partition_by", fixed("output.partition_by='../../etc'")),
    Case("a partition by a day that is none", 4, "output.partition_by", fixed("output.partition_by=to_date(concat('2026-02-', 30 + id))")),
    Case("a cast that ends its statement", 2, "columns.cast.id", fixed("columns.cast={id: 'int); DROP TABLE x --'}")),
    Case("a decimal of too many digits", 4, "Decimal precision 50", lambda place: [f"source.path={place.table(rows(d=_decimals()))}"]),
]


def _decimals() -> pa.Array:
    return pa.array([Decimal("9" * 50)] * ROWS, pa.decimal256(50, 0))


# --- outputs


def _output(make: Callable[[Place], Any]) -> Make:
    return lambda place: [f"output.path={make(place)}"]


def _around(place: Place) -> list[str]:
    """The source is below the output."""
    return [f"source.path={place.table(rows(), 'out/in/part-0.parquet')}"]


OUTPUTS = [
    Case("a file as output", 5, "is a file", _output(lambda place: place.file("notes.txt", "mine"))),
    Case("an output below a file", 5, "is a file", _output(lambda place: place.file("notes.txt", "mine") / "out")),
    Case("an output below a device", 5, "output.path", fixed("output.path=/dev/null/out")),
    Case("an output with a zero byte", 2, "output.path: got", fixed("output.path=/tmp/a\x00b")),
    Case("too long a name as output", 5, "output.path", _output(lambda place: place.folder / ("a" * 300))),
    Case("an output on an unknown system", 5, "output.path", fixed("output.path=gopher://host/out")),
    Case("a folder that is somebody else's", 5, "output.path", _output(lambda place: place.file("mine/notes.txt", "x").parent)),
    Case("the source as output", 5, "output.path", lambda place: [f"source.path={place.table(rows())}", f"output.path={place.folder}/in"]),
    Case(
        "an output in the source", 5, "overlaps", lambda place: [f"source.path={place.table(rows())}", f"output.path={place.folder}/in/a"]
    ),
    Case("the source in the output", 5, "overlaps", _around),
]
