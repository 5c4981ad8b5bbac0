"""What Spark, MLflow or Delta raised in, one of our one-line errors out.

What runs on executors marks its own messages (``[lakescore:KIND] text [/lakescore]``), because all that reaches the driver is a
text with a stack trace around it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from pyspark.version import __version__ as pyspark_version

from lakescore import object_store
from lakescore.errors import ConfigError, InputError, LakescoreError, ModelError, OutputError, PlatformError

_MARKED = re.compile(r"\[lakescore:(?P<kind>model|input|output)\] (?P<text>.*?) \[/lakescore\]", re.DOTALL)
_KINDS: dict[str, type[LakescoreError]] = {"model": ModelError, "input": InputError, "output": OutputError}
_FILE = re.compile(r"(?:reading file|[Rr]ead file:?|for file:?)\s+['\"]?(?P<path>[^\s'\",]+)")
_CONDITION = re.compile(r"\[(?P<condition>[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]\s*(?P<text>.*)", re.DOTALL)
_CONDITION_NAME = re.compile(r"^\[[A-Z][A-Z0-9_.]+\]\s*")
_CAUSE = re.compile(r"Caused by: (?P<cause>.*?)(?=\n\s+(?:at |\.\.\.)|\nCaused by: |\Z)", re.DOTALL)
# What follows the first paragraph of a message of Spark's: the plan, the query, a stack trace.
_REST = re.compile(r"(?:;\n|\n\s*(?:\n|==|at |Caused by|Parse Mode|Internal state)).*", re.DOTALL)
_CODE = re.compile(r"\s*SQLSTATE: \w{5}(?:;\s*line \d+ pos \d+;?|;)?")
# A cause that another one explains, or that has no message.
_SAYS_NOTHING = re.compile(r"Malformed records are detected.*|(?:[\w$]+\.)+(?!EOFException)[\w$]+|Job aborted.*|Task failed.*", re.DOTALL)
_SPANS_LINES = re.compile(r"end-of-input|Malformed CSV record: .*\"")
_CSV_NAMES = re.compile(r"Expected: (.*?) but found: ?(.*?)(?: ?CSV file|$)")
_CSV_SIZES = re.compile(r"Header length: (\d+), schema size: (\d+)")
# Jackson, which reads JSON, says that it hides the text.
# Thrift says what it has read so far as Java prints it.
_JAVA_STRUCT = re.compile(r"\s*!?\s*Struct: [\w.$@]+.*$", re.DOTALL)
_HIDDEN_SOURCE = re.compile(r"\s*(?:at )?\[Source: REDACTED [^\]]*\]")
_EXCEPTION = re.compile(r"^(?:[\w$]+\.)+[\w$]+(?:Exception|Error)(?:: | - )")
_PYTHON_ERROR = re.compile(r"^(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Warning)(?::[^\n]*)?)$", re.MULTILINE)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'")
_WORKER_GONE = re.compile(r"Python worker exited unexpectedly|Python worker .*\bcrashed\b|java\.io\.EOFException\s*\Z")
# What is said by the gateway to a JVM that is gone, and by a JVM that is shutting down.
END_OF_JVM = re.compile(
    r"Answer from Java side is empty|\AError while sending|trying to connect to the Java server|SparkContext was shut down|"
    r"\A\[Errno \d+\] Connection refused\Z|\AAn error occurred while calling [\w.$:]+\Z|Cannot call methods on a stopped SparkContext|"
    r"\Apy4j\.[\w.$]+ does not exist in the JVM\Z"
)
DELTA_MISSING = (
    "Delta Lake is not on Spark's classpath: run `lakescore setup-spark` once in this environment, or add "
    f"`--packages io.delta:delta-spark_{'.'.join(pyspark_version.split('.')[:2])}_2.13:4.4.0 "
    "--conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension "
    "--conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog` to spark-submit"
)
AVRO_MISSING = (
    "Avro is not on Spark's classpath: run `lakescore setup-spark` once in this environment, or add "
    "`--packages org.apache.spark:spark-avro_2.13:VERSION` (your Spark's version) to spark-submit"
)
S3_MISSING = (
    "hadoop-aws, by which Spark reads and writes S3, is not on its classpath: run `lakescore setup-spark --s3` once in this "
    "environment, or add `--packages org.apache.hadoop:hadoop-aws:VERSION` (the version of its hadoop-client-api jar) to spark-submit"
)


def mark(kind: str, text: str) -> str:
    """A message as executors raise it, for ``translate`` to find again."""
    return f"[lakescore:{kind}] {text} [/lakescore]"


@contextmanager
def translated(doing: str, default: type[LakescoreError]) -> Iterator[None]:
    """Turn what is raised inside into one of our errors.

    Args:
        doing: what was being done, for a message that nothing more exact is known of: ``source.path: cannot read x``.
        default: the error class where the failure itself does not tell.
    """
    try:
        yield
    except LakescoreError:
        raise
    except Exception as error:
        raise translate(error, doing, default) from error


def translate(error: BaseException, doing: str, default: type[LakescoreError]) -> LakescoreError:
    """The one-line error for an exception of Spark, MLflow, Delta or a task."""
    text = str(error)
    marked = _MARKED.search(text)
    if marked:
        return _missing_module(marked.group("text")) or _KINDS[marked.group("kind")](marked.group("text"))
    found = _platform_error(text) or _denied(text, doing, default)
    if found is None and (reason := object_store.reason(error)) is not None:
        return default(f"{doing}: {reason}")
    return found or _read_error(text, doing) or default(f"{doing}: {first_line(text)}")


def first_line(text: str) -> str:
    """The line of an exception's text that says most: the last Python error, the deepest cause, or the first line."""
    python = _PYTHON_ERROR.findall(text)
    if "Traceback (most recent call last)" in text and python:
        return str(python[-1])
    condition = _CONDITION.search(text)
    if condition:
        return f"{_paragraph(condition.group('text'))} [{condition.group('condition')}]"
    causes = _CAUSE.findall(text)
    lines = [line.lstrip(": ") for line in text.splitlines() if line.strip() and not line.startswith("An error occurred while calling")]
    return _reason(causes[-1]) if causes else (_reason(lines[0]) if lines else "no reason given")


def _paragraph(text: str) -> str:
    """The first paragraph of a message, on one line, without Spark's code for machines."""
    return " ".join(_CODE.sub("", _REST.sub("", text)).split())


def _reason(text: str) -> str:
    """A Java exception's message without the class names and the condition before it."""
    text = _paragraph(text)
    while match := _EXCEPTION.match(text):
        text = text[match.end() :]
    return _CONDITION_NAME.sub("", text)


def _platform_error(text: str) -> LakescoreError | None:
    if "PYTHON_VERSION_MISMATCH" in text or "different version of Python" in text:
        return PlatformError(
            "the workers run another Python version than the driver: set PYSPARK_PYTHON (or spark.pyspark.python) to the "
            f"driver's Python on every host: {first_line(text)}"
        )
    missing = _NO_MODULE.search(text)
    if missing:
        return _no_module(missing.group("module"))
    if re.search(r"Cannot run program \"(?P<program>[^\"]+)\"", text):
        program = re.search(r"Cannot run program \"([^\"]+)\"", text)
        return PlatformError(
            f"the workers' Python {program.group(1) if program else ''!r} cannot be started: set PYSPARK_PYTHON to a Python "
            "that every host has"
        )
    if re.search(r"DATA_SOURCE_NOT_FOUND.*\bdelta\b|DELTA_CONFIGURE_SPARK_SESSION|DeltaCatalog.*ClassNotFound", text, re.DOTALL):
        return PlatformError(DELTA_MISSING)
    if re.search(r"AVRO_NOT_AVAILABLE|Avro is built-in but external|DATA_SOURCE_NOT_FOUND.*\bavro\b|AVRO_NOT_LOADED", text, re.DOTALL):
        return PlatformError(AVRO_MISSING)
    if re.search(r"S3AFileSystem not found|No FileSystem for scheme \"?s3|UnsupportedFileSystemException.*\bs3", text):
        return PlatformError(S3_MISSING)
    if _WORKER_GONE.search(text):
        return PlatformError(
            "a worker's Python ended without a word: out of memory (give executors more, or set scoring.batch_size lower), or a crash in "
            "the model's native code"
        )
    if END_OF_JVM.search(text):
        return PlatformError("Spark's driver has ended: it was stopped, killed, or out of memory (give it more: spark.driver.memory)")
    if "No space left on device" in text:
        return OutputError("no space is left on the disk: free some, or point spark.local.dir or output.path elsewhere")
    return None


def _denied(text: str, doing: str, default: type[LakescoreError]) -> LakescoreError | None:
    """What may not be done: whose fault it is, the caller knows but where rows are read and written at once."""
    denied = re.search(r"(?:Permission denied|Read-only file system|Mkdirs failed to create)[^\n]*", text)
    if denied is None or "FAILED_READ_FILE" in text:
        return None
    if default in (OutputError, LakescoreError):
        return OutputError(f"the output cannot be written: {denied.group(0)}; check the permissions of output.path")
    return default(f"{doing}: {denied.group(0)}")


def _missing_module(text: str) -> PlatformError | None:
    """What a model misses on a worker is the worker's fault where this Python has it, else the model's."""
    missing = _NO_MODULE.search(text)
    if missing is None:
        return None
    try:
        found = importlib.util.find_spec(missing.group("module"))
    except (ImportError, ValueError):
        return None
    return None if found is None else _no_module(missing.group("module"))


def _no_module(module: str) -> PlatformError:
    extra = " (Pillow, of the extra lakescore[images])" if module == "PIL" else ""
    return PlatformError(
        f"the workers' Python has no module {module!r}{extra}: set PYSPARK_PYTHON to the environment that has it, or ship it with "
        "--py-files or --archives"
    )


def _read_error(text: str, doing: str) -> LakescoreError | None:
    condition = _CONDITION.search(text)
    name, said = (condition.group("condition"), _paragraph(condition.group("text"))) if condition else ("", "")
    if name.startswith("FAILED_READ_FILE") or "MALFORMED_" in text or "is not a Parquet file" in text or "Could not read file: " in text:
        found = _FILE.search(text)
        return InputError(f"{_plain_path(found.group('path')) if found else doing}: cannot be read: {_read_cause(text)}")
    if name == "PATH_NOT_FOUND":
        return InputError(f"{doing}: {said}")
    if name in ("UNABLE_TO_INFER_SCHEMA", "CANNOT_INFER_EMPTY_SCHEMA"):
        return InputError(f"{doing}: there is no file in it to read")
    if name == "TABLE_OR_VIEW_NOT_FOUND":
        table = re.search(r"(?:`(?:[^`]|``)+`\.?)+", said)
        return InputError(f"{doing}: the table or view {table.group(0) if table else ''} does not exist")
    if name in ("CAST_INVALID_INPUT", "CANNOT_PARSE_TIMESTAMP", "CAST_OVERFLOW", "DIVIDE_BY_ZERO", "ARITHMETIC_OVERFLOW"):
        return InputError(f"{doing}: {said}")
    if name.startswith("UNRESOLVED_COLUMN") or name == "PARSE_SYNTAX_ERROR":
        return ConfigError(f"{doing}: {said}")
    return None


def _plain_path(uri: str) -> str:
    """A file as people write it: Spark names local ones as URIs, most of them with %20 for a space."""
    path = re.sub(r"^file:/+", "/", uri.rstrip("."))
    return unquote(path) if uri.startswith("file:///") else path


def _read_cause(text: str) -> str:
    """Why a file could not be read, in the words of the innermost cause that says something."""
    causes = [reason for cause in _CAUSE.findall(text) if (reason := _reason(cause)) and not _SAYS_NOTHING.fullmatch(reason)]
    reason = _HIDDEN_SOURCE.sub("", causes[-1] if causes else first_line(text))
    reason = _JAVA_STRUCT.sub("", reason)
    if "EOFException" in reason:
        reason = "it ends too early"
    if "Unescaped quote" in reason:
        return "a quote inside a quoted value is not doubled; for files that escape it with a backslash, set source.options.escape='\\'"
    if reason.startswith("Malformed CSV record"):
        reason += " (its number of values is not the header's)"
    if "CSV header" in reason:
        names, sizes = _CSV_NAMES.search(reason), _CSV_SIZES.search(reason)
        if names:
            reason = f"its header has {names.group(2)!r} where {names.group(1)!r} is expected"
        elif sizes:
            reason = f"its header has {sizes.group(1)} names where {sizes.group(2)} are expected"
        return f"{reason} (from source.schema, or the first file; names must be unique and not empty)"
    if reason.startswith("For input string"):
        reason += " is not of the type that source.schema says"
    if _SPANS_LINES.search(reason) and "_delta_log" not in text:
        reason += "; if records span lines, set source.options.multiLine=true"
    return reason
