"""What all commands share: options, logging, and errors as one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from lakescore import console
from lakescore.errors import ConfigError, LakescoreError
from lakescore.interruption import Interrupted, ends_by_signals
from lakescore.redact import redact


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, help as it is written, and no abbreviations.

    Args:
        prog: the command as it is typed.
        description: its help.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def run_command(
    parse: Callable[[Sequence[str]], argparse.Namespace], run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Parse and run; whatever goes wrong becomes one line and an exit code."""
    verbose = False
    try:
        with ends_by_signals(with_parent=console.under_spark_submit()):
            options = parse(list(sys.argv[1:] if argv is None else argv))
            verbose = options.verbose
            configure_logging(verbose)
            return _run_to_its_end(run, options)
    except Interrupted as interrupted:
        return _ended(interrupted)
    except KeyboardInterrupt:
        return _ended(Interrupted(signal.SIGINT))
    except LakescoreError as error:
        return failed(error, verbose)
    except Exception as error:
        return failed(LakescoreError(f"{type(error).__name__}: {error}"), verbose, error)


def _run_to_its_end(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """A library or a model's code that calls ``sys.exit`` would look like the end of the work."""
    try:
        return run(options)
    except SystemExit as error:
        raise LakescoreError(f"something ended the process before the work was done (SystemExit: {error})") from error


def _ended(interrupted: Interrupted) -> int:
    console.complain(f"lakescore: {interrupted}")
    return interrupted.exit_code


def failed(error: LakescoreError, verbose: bool = False, cause: BaseException | None = None) -> int:
    """Say an error on stderr; returns its exit code."""
    if verbose:
        logging.getLogger(__name__).error("failed", exc_info=cause or error)
    console.complain(f"lakescore: {error}")
    return error.exit_code


class _Redacting(logging.Formatter):
    """No secret reaches a log, whoever logs it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _is_no_gateway(record: logging.LogRecord) -> bool:
    """Py4J shows the traceback of a JVM that has ended on its way out, for whoever has to say it in one line."""
    return record.module != "java_gateway"


def configure_logging(verbose: bool) -> None:
    """INFO lines in a log; on a terminal the bar and the summary say it, so only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    own = logging.getLogger("lakescore")
    own.handlers, own.propagate = [handler], False
    quiet = console.terminal() is not None and not verbose
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if not verbose:
        logging.getLogger().addFilter(_is_no_gateway)
        warnings.simplefilter("ignore")
        # MLflow warns of what the pipeline checks itself or does on purpose; it reads these when it is imported.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
