"""The command line: ``lakescore score`` and what ``jobs/`` call. Errors become one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lakescore import console
from lakescore.errors import ConfigError, LakescoreError, did_you_mean, listing
from lakescore.redact import redact
from lakescore.version import __version__

if TYPE_CHECKING:
    from lakescore.pipeline import Plan, ScoreResult

DEFAULT_CONFIG = "conf/score.yaml"
_SCORE_HELP = """Score a source with an MLflow model and append the predictions to a Delta or Parquet table.

Every key of conf/score.yaml can be given as section.key=value, for example:
  lakescore score model.uri=models:/churn@champion source.path=data/2026-01-31 output.path=tables/churn
  lakescore score --config conf/score.yaml --config conf/local.yaml run.batch_id=2026-01-31 run.on_rerun=replace

Exit codes: 0 done or nothing to do, 1 the run failed, 2 configuration or usage, 3 model, 4 input data, 5 output."""


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore COMMAND``; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"score": score_main, "setup-spark": _setup_spark}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lakescore COMMAND ...\n\ncommands:\n  score        score a source with a model (see lakescore score --help)")
        print("  setup-spark  put Delta's and Avro's jars where this environment's Spark finds them\n\noptions:\n  --version")
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] == "--version":
        print(f"lakescore {__version__}")
        return 0
    command = commands.get(arguments[0])
    if command is None:
        known = listing(commands)
        return _failed(ConfigError(f"unknown command {arguments[0]!r}; known: {known}.{did_you_mean(arguments[0], commands)}"))
    return command(arguments[1:])


def score_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore score`` or ``jobs/score.py``; returns the exit code."""
    verbose = False
    try:
        options = _score_options(list(sys.argv[1:] if argv is None else argv))
        verbose = options.verbose
        _configure_logging(verbose)
        return _score(options)
    except LakescoreError as error:
        return _failed(error, verbose)
    except KeyboardInterrupt:
        console.complain("lakescore: interrupted; nothing was published")
        return 130
    except Exception as error:
        return _failed(LakescoreError(f"{type(error).__name__}: {error}"), verbose, error)


def _score_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="lakescore score", description=_SCORE_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="append", metavar="FILE", help=f"YAML file; may be repeated, later ones win (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would be done, write nothing")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="wins over the files")
    # Intermixed: `lakescore score a.b=1 --dry-run c.d=2`.
    return parser.parse_intermixed_args(argv)


def _score(options: argparse.Namespace) -> int:
    from lakescore.compose import compose

    config = compose(options.config or [DEFAULT_CONFIG], options.overrides)
    from lakescore import pipeline  # only a good configuration is worth the import of Spark and MLflow

    if options.dry_run:
        print(describe_plan(pipeline.dry_run(config)))
    else:
        print(describe_result(pipeline.score(config)))
    return 0


def _setup_spark(argv: Sequence[str]) -> int:
    from lakescore.setup_spark import main as setup_main

    try:
        return setup_main(argv)
    except LakescoreError as error:
        return _failed(error)


def _failed(error: LakescoreError, verbose: bool = False, cause: BaseException | None = None) -> int:
    if verbose:
        logging.getLogger(__name__).error("failed", exc_info=cause or error)
    console.complain(f"lakescore: {error}")
    return error.exit_code


class _Redacting(logging.Formatter):
    """No secret reaches a log, whoever logs it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _configure_logging(verbose: bool) -> None:
    """INFO lines in a log; on a terminal the bar and the summary say it, so only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    own = logging.getLogger("lakescore")
    own.handlers, own.propagate = [handler], False
    quiet = console.terminal() is not None and not verbose
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if not verbose:
        warnings.simplefilter("ignore")
        # MLflow warns of what the pipeline checks itself or does on purpose; it reads these when it is imported.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def describe_plan(plan: Plan) -> str:
    """What a dry run prints."""
    from lakescore import tracking
    from lakescore.pipeline import output_schema

    lines = ["# resolved configuration", tracking.as_yaml(plan.config).rstrip(), "", "# model"]
    given = plan.config.model.uri or plan.config.model.entry_script
    lines += [redact(f"{given} -> {plan.model.uri} (version {plan.model.version}, {plan.model.flavor})")]
    lines += [f"prediction: {plan.result_type.simpleString()}", "", "# features, in the model's order"]
    lines += [f"  {one}" for one in plan.alignment.inputs]
    lines += ["", redact(f"# columns that would be written to {plan.sink.location}")]
    lines += [f"  {field.name}: {field.dataType.simpleString()}" for field in output_schema(plan).fields]
    version = "" if plan.source.version is None else f", version {plan.source.version}"
    lines += ["", redact(f"source: {plan.source.description}{version}")]
    then = {"skip": "nothing would be done", "replace": "it would be replaced", "fail": "the run would fail"}[plan.config.run.on_rerun]
    state = f"is there already: {then}" if plan.published else "is new"
    lines += [f"batch:  {plan.config.run.batch_id}, {state}", "dry run: nothing was written"]
    return "\n".join(lines)


def describe_result(result: ScoreResult) -> str:
    """The closing summary."""
    if result.outcome == "skipped":
        return f"batch {result.batch_id} is in {result.location} already; nothing to do (run.on_rerun=skip)"
    if result.outcome == "reused":
        return redact(
            f"the same input, model and settings gave batch {result.batch_id} in {result.location} already (run {result.run_id}); nothing "
            "to do (scoring.allow_reuse)"
        )
    odd = ", ".join(f"{count:,} {name}" for name, count in result.counts.items() if count)
    rate = f", {result.rows_scored / result.total_seconds:,.0f} rows/s" if result.rows_scored and result.total_seconds else ""
    version = "" if result.version is None else f" (version {result.version})"
    rows: list[tuple[str, Any]] = [
        ("model", result.model_uri),
        ("rows", f"{result.rows_written:,}" + (f" (predictions: {odd})" if odd else "")),
        ("seconds", f"{result.total_seconds:.1f}{rate}"),
        ("batch", f"{result.batch_id}, date {result.score_date}"),
        ("written to", f"{result.location}{version}"),
        ("read them", _how_to_read(result)),
        ("run", f"{result.run_id} (mlflow ui, experiment {result.experiment_id})"),
    ]
    return redact("\n".join(f"{name + ':':<12}{value}" for name, value in rows))


def _how_to_read(result: ScoreResult) -> str:
    is_table = "/" not in result.location
    load = (
        f'spark.read.table("{result.location}")' if is_table else f'spark.read.format("{result.output_format}").load("{result.location}")'
    )
    return f"{load}.where(\"batch_id = '{result.batch_id}'\")"
