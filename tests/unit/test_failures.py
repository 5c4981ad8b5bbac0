"""What Spark raises becomes one line of the right class."""

from __future__ import annotations

import pytest

from lakescore.errors import ConfigError, InputError, LakescoreError, ModelError, OutputError, PlatformError
from lakescore.failures import AVRO_MISSING, DELTA_MISSING, S3_MISSING, first_line, mark, translate, translated

ENDED = "Spark's driver has ended: it was stopped, killed, or out of memory (give it more: spark.driver.memory)"
STACK = "".join(f"\n\tat org.apache.spark.scheduler.Task{n}.run(Task.scala:{n})" for n in range(2_000))


@pytest.mark.parametrize(("kind", "error"), [("model", ModelError), ("input", InputError), ("output", OutputError)])
def test_a_marked_message_is_found_inside_a_long_stack_trace(kind: str, error: type[LakescoreError]) -> None:
    raised = Exception(f"Job aborted due to stage failure: lost task{STACK}\nGuardError: {mark(kind, 'column x: no')}{STACK}")

    found = translate(raised, "scoring", LakescoreError)

    assert (type(found), str(found)) == (error, "column x: no")


@pytest.mark.parametrize(("module", "error"), [("sklearn", PlatformError), ("no_such_module.at_all", ModelError)])
def test_a_module_that_a_model_misses_is_the_workers_fault_where_the_driver_has_it(module: str, error: type[LakescoreError]) -> None:
    text = f"model.uri: the model cannot be loaded on a worker: ModuleNotFoundError: No module named '{module}'"

    assert type(translate(Exception(f"task{STACK}\nGuardError: {mark('model', text)}{STACK}"), "scoring", LakescoreError)) is error


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("[DATA_SOURCE_NOT_FOUND] Failed to find the data source: delta.", PlatformError, DELTA_MISSING),
        ("[DELTA_CONFIGURE_SPARK_SESSION_WITH_EXTENSION_AND_CATALOG] x", PlatformError, DELTA_MISSING),
        ("Failed to find data source: avro. Avro is built-in but external data source module", PlatformError, AVRO_MISSING),
        ("Answer from Java side is empty", PlatformError, ENDED),
        (
            "java.lang.ClassNotFoundException: Class org.apache.hadoop.fs.s3a.S3AFileSystem not found",
            PlatformError,
            S3_MISSING,
        ),
        ('org.apache.hadoop.fs.UnsupportedFileSystemException: No FileSystem for scheme "s3"', PlatformError, S3_MISSING),
        (
            "ModuleNotFoundError: No module named 'sklearn'",
            PlatformError,
            "the workers' Python has no module 'sklearn': set PYSPARK_PYTHON to the environment that has it, "
            "or ship it with --py-files or --archives",
        ),
        (
            'java.io.IOException: Cannot run program "python9": error=2',
            PlatformError,
            "the workers' Python 'python9' cannot be started: set PYSPARK_PYTHON to a Python that every host has",
        ),
        (
            "java.io.IOException: No space left on device",
            OutputError,
            "no space is left on the disk: free some, or point spark.local.dir or output.path elsewhere",
        ),
        ("java.io.FileNotFoundException: /x (Permission denied)", OutputError, None),
        ("[PATH_NOT_FOUND] Path does not exist: file:/x. SQLSTATE: 42K03", InputError, "doing: Path does not exist: file:/x."),
        ("[UNABLE_TO_INFER_SCHEMA] Unable to infer schema", InputError, "doing: there is no file in it to read"),
        ("[TABLE_OR_VIEW_NOT_FOUND] The table or view `a`.`b` cannot", InputError, "doing: the table or view `a`.`b` does not exist"),
        ("[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column `x`;\n'Project", ConfigError, "doing: A column `x`"),
        (
            "[PARSE_SYNTAX_ERROR] Syntax error at or near 'x'. SQLSTATE: 42601\n\n== SQL ==",
            ConfigError,
            "doing: Syntax error at or near 'x'.",
        ),
        ("Python in worker has different version of Python", PlatformError, None),
        (
            "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///data/x%20y.parquet.\n\tat a.b(C.scala:1)"
            "\nCaused by: java.io.FileNotFoundException: /data/x y.parquet (Permission denied)",
            InputError,
            "/data/x y.parquet: cannot be read: /data/x y.parquet (Permission denied)",
        ),
        ("[CANNOT_INFER_EMPTY_SCHEMA] Can not infer schema", InputError, "doing: there is no file in it to read"),
        (
            "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10 than that in driver: 3.11",
            PlatformError,
            "the workers run another Python version than the driver: set PYSPARK_PYTHON (or spark.pyspark.python) to the driver's Python "
            "on every host: Python in worker has different version: 3.10 than that in driver: 3.11 [PYTHON_VERSION_MISMATCH]",
        ),
        ("java.io.IOException: Mkdirs failed to create file:/ro/x", OutputError, None),
        ("ValueError: schema version mismatch: 2", LakescoreError, "doing: ValueError: schema version mismatch: 2"),
    ],
)
def test_a_known_failure_has_its_class_and_its_remedy(text: str, error: type[LakescoreError], line: str | None) -> None:
    found = translate(Exception(text + STACK), "doing", LakescoreError)

    assert type(found) is error
    assert line is None or str(found) == line


def test_what_may_not_be_read_is_the_fault_of_what_was_being_done() -> None:
    text = "o.a.h.security.AccessControlException: Permission denied: user=etl, access=READ_EXECUTE, inode=/secure"

    for kind in (InputError, ModelError):
        found = translate(Exception(text + STACK), "source.path: hdfs://nn/secure", kind)
        assert type(found) is kind
        assert str(found) == "source.path: hdfs://nn/secure: Permission denied: user=etl, access=READ_EXECUTE, inode=/secure"


def test_a_gateway_that_does_not_answer_is_that_of_a_spark_that_has_ended() -> None:
    assert str(translate(ConnectionRefusedError(111, "Connection refused"), "doing", LakescoreError)) == ENDED
    assert str(translate(Exception("An error occurred while calling o45.unset"), "doing", LakescoreError)) == ENDED
    assert str(translate(Exception("py4j.reflection.TypeUtil does not exist in the JVM"), "doing", InputError)) == ENDED
    other = Exception("HTTPConnectionPool(host='x', port=1): [Errno 111] Connection refused")
    assert "Spark" not in str(translate(other, "doing", LakescoreError))


def test_the_first_of_two_marked_messages_counts() -> None:
    raised = Exception(f"{mark('model', 'first')}{STACK}{mark('input', 'second')}")

    found = translate(raised, "scoring", LakescoreError)

    assert (type(found), str(found)) == (ModelError, "first")


def test_a_marked_message_of_several_lines_becomes_one() -> None:
    assert str(translate(Exception(mark("input", "column x:\n  no")), "scoring", LakescoreError)) == "column x: no"


def test_a_secret_in_a_failure_is_hidden() -> None:
    text = "[PATH_NOT_FOUND] Path does not exist: s3a://user:hunter2@bucket/x."

    assert str(translate(Exception(text), "source.path", LakescoreError)) == "source.path: Path does not exist: s3a://***@bucket/x."


def test_the_deepest_cause_is_said_without_its_java_class() -> None:
    text = f"An error occurred while calling o1.save.\n: org.apache.spark.SparkException: Job aborted{STACK}"
    text += f"\nCaused by: java.lang.IllegalStateException: the disk is on fire{STACK}"

    assert first_line(text) == "the disk is on fire"


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_failure_without_a_text_says_so(text: str) -> None:
    assert first_line(text) == "no reason given"


def test_an_unknown_failure_is_the_default_with_what_was_being_done() -> None:
    found = translate(Exception("odd thing\nmore"), "scoring failed", InputError)

    assert (type(found), str(found)) == (InputError, "scoring failed: odd thing")


def test_the_last_python_error_of_a_traceback_says_most() -> None:
    assert first_line("x\nTraceback (most recent call last):\n  File\nValueError: inner\n\nRuntimeError: outer") == "RuntimeError: outer"


def test_one_of_our_own_errors_passes_unchanged() -> None:
    own = ModelError("mine")

    with pytest.raises(ModelError) as caught, translated("doing", InputError):
        raise own

    assert caught.value is own
