"""Runs on workers: pieces of Parquet files in, one Parquet file of predictions out. No row passes the JVM or the driver.

A process of ``pool.py`` calls ``run`` for each of its tasks. What is kept goes from file to file in Arrow; only the
model's inputs become pandas, as ``mlflow.pyfunc.spark_udf`` would give them to the model.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakescore.drift.counting import Counter, Watch, of_answer, to_bytes
from lakescore.engine import guard
from lakescore.engine.isolation import VALUE_FIELD

_SHOWN_CHARACTERS = 60
# Of a row group of the output: enough for its statistics to be worth it, little enough for the worker's memory.
_GROUP_ROWS = 100_000
_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """Row groups of one file, by their positions, and the values of the columns that are not in it."""

    path: str
    groups: tuple[int, ...]
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Input:
    """One input of the model: the column of the files that it is made of (None: all null), and the type that it is to have.

    ``explicit``: whether a double may be rounded to a float.
    """

    feature: str
    column: str | None
    type: pa.DataType
    explicit: bool = False


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share.

    Attributes:
        guarded: the folder of the model behind its guard.
        params: of ``predict``; None: there are none.
        inputs: the model's, in its order.
        keys: columns of the files by their names in messages.
        kept: columns of the files by their names in the output.
        constants: the same value in every row, by name.
        outputs: the prediction's columns by name; the field of a struct, or None for the whole.
        schema: of the file that is written, in order; metadata: what its footer says besides.
        columns: what is read; text of which much repeats is a dictionary here, which spares decoding it. partition: those that are not
            in the files.
        plain: columns of the output that are written without a dictionary, because few of their values repeat.
        compression: of the file.
        folder: where the file goes.
        batch_rows: rows that the model gets at once, at most.
        watch: what is counted; None: nothing. labels: columns of the files by the name that ``watch`` has for them, where they are no
            inputs; floats: by name in the statistics the column of which nulls are to be told from NaN.
    """

    guarded: str
    params: Mapping[str, Any] | None
    inputs: tuple[Input, ...]
    keys: Mapping[str, str]
    kept: Mapping[str, str]
    constants: Mapping[str, Any]
    outputs: Mapping[str, str | None]
    schema: pa.Schema
    metadata: Mapping[str, str]
    columns: pa.Schema
    partition: tuple[str, ...]
    plain: tuple[str, ...]
    compression: str
    folder: str
    batch_rows: int
    watch: Watch | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    floats: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What one task did.

    Attributes:
        file: the name of the file that it wrote; empty where there were no rows.
        rows: read, scored and written. null, nan, infinite: predictions.
        counted: the counts of what is watched, as ``counting.to_bytes`` has them; nulls: of ``Job.floats``, in their order.
        seconds: by what was done; load is the model's, which only the first task of a worker pays for.
    """

    file: str = ""
    rows: int = 0
    null: int = 0
    nan: int = 0
    infinite: int = 0
    counted: bytes = b""
    nulls: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class _Watcher:
    """Counts what is watched of the batches that pass."""

    def __init__(self, job: Job, watch: Watch) -> None:
        self._job, self._watch = job, watch
        self._features = Counter({name: bins for name, (bins, _) in watch.features.items()})
        self._predictions = Counter({name: bins for name, (bins, _, _) in watch.predictions.items()})
        self._nulls = [0] * len(job.floats)

    def see(self, batch: pa.RecordBatch, features: pd.DataFrame) -> None:
        """Count what goes into the model, before it may have changed it."""
        labels = {name: _to_pandas(batch.column(column)) for name, column in self._job.labels.items()}
        values = {name: labels[column] if column in labels else features[column] for name, (_, column) in self._watch.features.items()}
        self._features.update(values)
        for i, column in enumerate(self._job.floats.values()):
            self._nulls[i] += batch.column(column).null_count

    def hear(self, answer: pd.Series | pd.DataFrame) -> None:
        """Count what comes out."""
        frame = answer.to_frame(self._watch.value) if isinstance(answer, pd.Series) else answer
        self._predictions.update(of_answer(frame, self._watch))

    def tell(self, answer: Answer) -> None:
        answer.counted, answer.nulls = to_bytes({**self._features.counts, **self._predictions.counts}), self._nulls


def run(job: Job, pieces: Sequence[Piece], number: int) -> Answer:
    """Score the pieces and write one file.

    Args:
        job: the run.
        pieces: what this task reads.
        number: of the task, for the file's name.

    Raises:
        GuardError: a row cannot be read or scored; its text is for the driver.
    """
    answer, start = Answer(seconds={"load": 0.0, "read": 0.0, "predict": 0.0, "write": 0.0}), time.monotonic()
    model = guard._load_pyfunc(job.guarded)
    start = _lap(answer, "load", start)
    watcher = _Watcher(job, job.watch) if job.watch is not None else None
    name = f"part-{number:05d}-{uuid.uuid4()}.c000.{job.compression}.parquet"
    target = os.path.join(job.folder, name)
    params = dict(job.params) if job.params else None
    writer: pq.ParquetWriter | None = None
    group: list[pa.Table] = []
    try:
        for batch in _collected(_batches(job, pieces), job.batch_rows):
            features = _features(job, batch)
            start = _lap(answer, "read", start)
            if watcher is not None:
                watcher.see(batch, features)
            predicted = model.answer(features, params, partial(_keys, job, batch))
            if watcher is not None:
                watcher.hear(predicted)
            written = _written(job, batch, predicted, answer)
            start = _lap(answer, "predict", start)
            answer.rows += batch.num_rows
            group.append(written)
            if sum(part.num_rows for part in group) >= _GROUP_ROWS or sum(part.nbytes for part in group) >= _GROUP_BYTES:
                writer = _write(job, target, writer, group)
            start = _lap(answer, "write", start)
        if group:
            writer = _write(job, target, writer, group)
        if writer is not None:
            writer.add_key_value_metadata(dict(job.metadata))
            writer.close()
            answer.file = name
            _lap(answer, "write", start)
    except BaseException:
        with contextlib.suppress(Exception):
            if writer is not None:
                writer.close()
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise
    if watcher is not None and answer.rows:
        watcher.tell(answer)
    return answer


def _lap(answer: Answer, what: str, start: float) -> float:
    now = time.monotonic()
    answer.seconds[what] += now - start
    return now


def _batches(job: Job, pieces: Sequence[Piece]) -> Iterator[pa.RecordBatch]:
    """The rows with the columns that are needed, as many at once as the files have together."""
    inside = [name for name in job.columns.names if name not in job.partition]
    texts = [one.name for one in job.columns if pa.types.is_dictionary(one.type) and one.name in inside]
    for piece in pieces:
        constants = dict(zip(job.partition, piece.values, strict=True))
        try:
            # A damaged page may well be decoded, into other values; its checksum, where the writer left one, tells.
            with pq.ParquetFile(piece.path, pre_buffer=False, read_dictionary=texts, page_checksum_verification=True) as file:
                for batch in file.iter_batches(job.batch_rows, list(piece.groups), inside, use_threads=False):
                    if batch.num_rows:
                        arrays = [_column(batch, one, constants) for one in job.columns]
                        yield pa.RecordBatch.from_arrays(arrays, schema=job.columns)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise guard.GuardError("input", f"{piece.path}: cannot be read: {reason}") from error


def _column(batch: pa.RecordBatch, wanted: pa.Field, constants: Mapping[str, Any]) -> pa.Array:
    if wanted.name not in constants:
        return _cast(batch.column(wanted.name), wanted.type)
    return _cast(_repeated(constants[wanted.name], wanted.type, batch.num_rows), wanted.type)


def _repeated(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """The same value in every row."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if value is None:  # which no dictionary may hold
        return pa.nulls(rows, pa.dictionary(pa.int32(), plain))
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([value], plain))


def _collected(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer batches: files may have small row groups, and every call of a model costs."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        if sum(one.num_rows for one in waiting) + batch.num_rows > most:
            yield _joined(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]


def _features(job: Job, batch: pa.RecordBatch) -> pd.DataFrame:
    arrays = [_input(one, batch) for one in job.inputs]
    table = pa.Table.from_arrays(arrays, [f"f{i}" for i in range(len(arrays))])
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    frame.columns = pd.Index([one.feature for one in job.inputs], dtype=object)
    return frame


def _input(one: Input, batch: pa.RecordBatch) -> pa.Array:
    """The input in the model's type, exactly, or an error that names the value: as ``casts`` has it in Spark."""
    if one.column is None:
        return pa.nulls(batch.num_rows, one.type)
    values = batch.column(one.column)
    if values.type == one.type:
        return values
    cast = pc.cast(values, one.type, safe=False)
    if (
        pa.types.is_floating(one.type)
        and pa.types.is_integer(values.type)
        and values.type.bit_width > (32 if one.type.bit_width == 64 else 16)
    ):
        _refuse_changed(one, values, _differs(values, cast))
    elif pa.types.is_floating(values.type) and one.type.bit_width < values.type.bit_width:
        _refuse_changed(one, values, pc.and_(pc.is_inf(cast), pc.invert(pc.is_inf(values))))
    return cast


def _differs(values: pa.Array, cast: pa.Array) -> pa.Array:
    """Where a float does not hold the integer; those that round up to 2^31 or 2^63 have none to compare with."""
    beyond = pc.greater_equal(cast, pa.scalar(float(2 ** (values.type.bit_width - 1)), cast.type))
    back = pc.cast(pc.if_else(beyond, pa.scalar(0.0, cast.type), cast), values.type, safe=False)
    return pc.or_(beyond, pc.not_equal(back, values))


def _refuse_changed(one: Input, values: pa.Array, is_changed: pa.Array) -> None:
    changed = values.filter(pc.fill_null(is_changed, False))
    if len(changed):
        shown = str(changed[0].as_py())[:_SHOWN_CHARACTERS]
        wanted = "double" if one.type.bit_width == 64 else "float"
        raise guard.GuardError("input", f"column {one.column!r}: '{shown}' is not a value of type {wanted}, which is needed")


def _keys(job: Job, batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    return {name: _to_pandas(batch.column(column).slice(row, 1)).iloc[0] for name, column in job.keys.items()}


def _to_pandas(values: pa.Array) -> pd.Series:
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    frame: pd.DataFrame = pa.Table.from_arrays([values], ["value"]).to_pandas(use_threads=False)
    return frame["value"]


def _written(job: Job, batch: pa.RecordBatch, predicted: pd.Series | pd.DataFrame, answer: Answer) -> pa.Table:
    """What is written of a batch; the odd predictions are counted."""
    rows = batch.num_rows
    arrays = []
    for wanted in job.schema:
        if wanted.name in job.constants:
            arrays.append(_repeated(job.constants[wanted.name], wanted.type, rows))
        elif wanted.name in job.outputs:
            inside = job.outputs[wanted.name]
            arrays.append(_prediction(predicted, inside, wanted.type))
        else:
            arrays.append(batch.column(job.kept[wanted.name]))
    _count(job, arrays, answer)
    return pa.Table.from_arrays(arrays, [wanted.name for wanted in job.schema])


def _cast(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    if values.type == wanted:
        return values
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    return plain.dictionary_encode().cast(wanted) if pa.types.is_dictionary(wanted) else plain.cast(wanted)


def _prediction(predicted: pd.Series | pd.DataFrame, inside: str | None, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_struct(wanted) and inside is None:
        assert isinstance(predicted, pd.DataFrame), "the guard's form of a struct"
        return pa.StructArray.from_arrays([_values(predicted[f.name], f.type) for f in wanted], fields=list(wanted))
    if isinstance(predicted, pd.DataFrame):
        predicted = predicted[VALUE_FIELD if inside is None else inside]
    return _values(predicted, wanted)


def _values(values: pd.Series, wanted: pa.DataType) -> pa.Array:
    """A Series as Arrow; a float is never null, as ``spark_udf.with_predictions`` has it."""
    found = pa.array(values.to_numpy(), wanted, from_pandas=False)
    return _without_nulls(found)


def _without_nulls(values: pa.Array) -> pa.Array:
    if pa.types.is_floating(values.type):
        return pc.fill_null(values, float("nan")) if values.null_count else values
    if pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type) and values.values.null_count:
        return pa.ListArray.from_arrays(values.offsets, _without_nulls(values.values), type=values.type, mask=values.is_null())
    return values


def _count(job: Job, arrays: Sequence[pa.Array], answer: Answer) -> None:
    """Odd predictions, as ``spark_udf.nan_counts`` counts them: of one column; a struct's fields are not looked into."""
    if len(job.outputs) != 1 or next(iter(job.outputs.values())) is not None:
        return
    values = arrays[job.schema.get_field_index(next(iter(job.outputs)))]
    answer.null += values.null_count
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        answer.nan += int(np.count_nonzero(np.isnan(numbers)))
        answer.infinite += int(np.count_nonzero(np.isinf(numbers)))


def _write(job: Job, target: str, writer: pq.ParquetWriter | None, group: list[pa.Table]) -> pq.ParquetWriter:
    """Write and empty a row group, however many batches it took."""
    table = pa.concat_tables(group).unify_dictionaries() if len(group) > 1 else group[0]
    if writer is None:
        os.makedirs(job.folder, exist_ok=True)
        writer = _writer(job, target, table.schema)
    writer.write_table(table, row_group_size=table.num_rows)
    group.clear()
    return writer


def _writer(job: Job, target: str, found: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        target,
        found,
        compression=job.compression,
        use_dictionary=[name for name in found.names if name not in job.plain],
        # Arrow's least and greatest leave NaN out, which is greater than all for Spark: it would pass over files that have some.
        write_statistics=[one.name for one in job.schema if not pa.types.is_floating(one.type)],
        # Not Arrow's own schema: a reader need not know which columns were dictionaries here.
        store_schema=False,
        store_decimal_as_integer=True,
    )
