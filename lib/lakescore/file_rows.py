"""Files in, one row for each out: ``path``, ``modified_at``, ``size``, and what is in it as ``image``, ``text`` or ``content``.

Spark's ``binaryFile`` source lists and reads; the workers decode (``decoding``). Nothing is read for columns that nobody asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from lakescore import decoding, readers, session, storage
from lakescore.config import SourceConfig
from lakescore.errors import InputError, listing
from lakescore.failures import translated
from lakescore.inspection import Inspection
from lakescore.schema import UNREADABLE

# The column of what is in the file, by the source's format.
CONTENT = {"images": "image", "text_files": "text", "binary": "content"}
# What Spark adds to a file's bytes when it packs files into tasks. Its own 4 MB makes a task, and an output file, of 32 small files;
# with this one a task takes up to 512 of them, or 128 MB.
_OPEN_COST = 256 << 10
# A list of paths is looked up by a Spark job, of a task per path unless it is told otherwise.
_LISTING_TASKS = 32
_BATCH_BYTES = 64 << 20
_BATCH_ROWS = 10_000  # Spark's own
_TO_THE_END = 1 << 30
# Hadoop looks for `.a:b.png.crc` beside `a:b.png`, and takes what stands before the colon for a scheme; this one keeps no checksums.
_WITHOUT_CHECKSUMS = {"fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem", "fs.file.impl.disable.cache": "true"}


def read(spark: SparkSession, config: SourceConfig, inspection: Inspection, tolerant: bool = False) -> DataFrame:
    """Make the DataFrame; nothing is read yet but the folders.

    Args:
        spark: the session.
        config: the section ``source``, with one of the formats that give a row per file.
        inspection: what ``inspect`` found.
        tolerant: whether a broken file is a row too, with null for what is in it, and why as one more column, ``UNREADABLE``.

    Raises:
        InputError: there is no file.
    """
    format_ = str(config.format)
    options = {name: value for name, value in config.options.items() if name.casefold() != "encoding"}
    if inspection.colons:
        options = _WITHOUT_CHECKSUMS | options
    reader = spark.read.format("binaryFile").options(**readers.options(format_, options, tabs=False), recursiveFileLookup="true")
    where = f"source.path: {listing(config.path or ())}"
    # The settings hold for the schema too: a Connect client asks the server for it, which lists the files only then.
    with session.runtime_conf(spark, **runtime_conf(config)), translated(where, InputError):
        df = reader.load(list(inspection.inputs))
        df.schema  # noqa: B018
        if inspection.files is None and df.select("path").isEmpty():
            raise InputError(f"source.path: there is no file in {listing(config.path or ())}")
        if inspection.empty:
            df = df.unionByName(_empty(spark, config, inspection.empty))
    path = given_path(F.col("path"), config.path or (), inspection.paths)
    name, is_answer = CONTENT[format_], tolerant and format_ != "binary"
    df = df.select(
        path.alias("path"),
        F.col("modificationTime").alias("modified_at"),
        F.col("length").alias("size"),
        _content(config, path, is_answer).alias(name),
    )
    if not is_answer:
        return df
    answer = F.col(name)
    return df.select("path", "modified_at", "size", answer.getField("value").alias(name), answer.getField("problem").alias(UNREADABLE))


def _empty(spark: SparkSession, config: SourceConfig, files: Sequence[storage.File]) -> DataFrame:
    """Files of no bytes as Spark's reader would give them, if it did not leave them out."""
    rows = {
        "path": pa.array([f"file:{file.path}" for file in files], pa.string()),
        "modificationTime": pa.array([file.modified_ms for file in files], pa.timestamp("ms", "UTC")),
        "length": pa.array([0] * len(files), pa.int64()),
        "content": pa.array([b""] * len(files), pa.binary()),
    }
    df = spark.createDataFrame(pa.table(rows))
    after, before = readers.option(config.options, "modifiedAfter"), readers.option(config.options, "modifiedBefore")
    if after is not None:
        df = df.where(F.col("modificationTime") > F.lit(after).cast("timestamp"))
    return df if before is None else df.where(F.col("modificationTime") < F.lit(before).cast("timestamp"))


def runtime_conf(config: SourceConfig) -> dict[str, str]:
    """Spark's settings for many small files, as ``session.runtime_conf`` takes them; none for other formats."""
    if config.format not in CONTENT:
        return {}
    return {
        "spark__sql__files__openCostInBytes": str(_OPEN_COST),
        "spark__sql__sources__parallelPartitionDiscovery__parallelism": str(_LISTING_TASKS),
    }


def rows_per_batch(config: SourceConfig) -> int | None:
    """How many decoded images make 64 MB, which Spark cannot know from their compressed bytes; None where it can."""
    if config.format != "images" or config.image is None or config.image.shape is None:
        return None
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (4 * math.prod(config.image.shape))))


def given_path(found: Column, given: Sequence[str], absolute: Sequence[str]) -> Column:
    """Spark's path of a file as the user would write it: below a path that was given relative, relative.

    Args:
        found: Spark's path: ``file:/home/me/data/in/x.png``, without any escapes, or a store's.
        given: the paths or globs as configured.
        absolute: the same, absolute.
    """
    local = [_fixed_part(one, other) for one, other in zip(given, absolute, strict=True) if storage.scheme_of(one) == "file"]
    plain = F.substring(found, len("file:") + 1, _TO_THE_END)
    moves = {_common_end_removed(*root) for root in local}
    if len(moves) == 1:
        result = _moved(plain, *moves.pop())
    else:
        result = plain
        # The longest wins: it is asked first, so it stands outermost.
        for mine, whole in sorted(set(local), key=lambda root: len(root[1])):
            is_below = (plain == whole) | F.startswith(plain, F.lit(whole.rstrip("/") + "/"))
            result = F.when(is_below, _moved(plain, *_common_end_removed(mine, whole))).otherwise(result)
    return F.when(F.startswith(found, F.lit("file:")), result).otherwise(found)


def _fixed_part(given: str, absolute: str) -> tuple[str, str]:
    """The leading folders without a glob, as given and absolute; all of a path that is no glob."""
    location = storage.Location.of(absolute)
    if not storage.has_glob(given) or (location is not None and location.exists()):
        return given, absolute
    parts = given.split("/")
    fixed = "/".join(parts[: next((i for i, part in enumerate(parts) if storage.has_glob(part)), None)])
    return fixed, storage.absolute(fixed or ("/" if given.startswith("/") else "."))


def _common_end_removed(given: str, absolute: str) -> tuple[str, str]:
    """What to put for what: nothing for ``/home/me/``, where ``data/in`` is given of ``/home/me/data/in``."""
    mine = given.rstrip("/").split("/") if given else []
    whole = absolute.rstrip("/").split("/")
    while mine and len(whole) > 1 and mine[-1] == whole[-1]:
        mine, whole = mine[:-1], whole[:-1]
    return "".join(f"{part}/" for part in mine), "".join(f"{part}/" for part in whole)


def _moved(path: Column, given: str, absolute: str) -> Column:
    """The path with the beginning ``absolute`` replaced by ``given``; both end with a slash, or are empty."""
    return F.concat(F.lit(given), F.substring(path, len(absolute) + 1, _TO_THE_END))


def _content(config: SourceConfig, path: Column, is_answer: bool) -> Column:
    """What is in the files; or as a struct of ``value`` and ``problem``, where they may be broken."""
    # By value: executors need not have Lakescore, and a function is otherwise pickled as the name of its module.
    cloudpickle.register_pickle_by_value(decoding)  # type: ignore[no-untyped-call]
    if config.format == "binary":
        return F.col("content")
    one: decoding.Decode
    if config.format == "text_files":
        one, returns = decoding.text_reader(readers.encoding(config.options)), "string"
    elif config.image is None or config.image.as_ == "bytes":
        one, returns = decoding.image_bytes, "binary"
    else:
        one, returns = decoding.image_reader(config.image.model_dump()), "array<float>"
    decode: Any = decoding.tolerant_decoder(one) if is_answer else decoding.decoder(one)
    returns = f"value {returns}, problem string" if is_answer else returns
    content: Column = pandas_udf(decode, returns)(path, F.col("content"))  # type: ignore[call-overload]
    return content
