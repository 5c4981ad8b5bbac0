"""The command line: ``lakescore score`` and what ``jobs/`` call. Errors become one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from lakescore import console, drift_cli, interruption, repair_cli
from lakescore.commands import Parser, failed, run_command
from lakescore.errors import ConfigError, LakescoreError, PlatformError, did_you_mean, listing
from lakescore.redact import redact
from lakescore.service import command as service
from lakescore.version import __version__

if TYPE_CHECKING:
    from lakescore.planning import Plan

DEFAULT_CONFIG = "conf/score.yaml"
_SCORE_HELP = """Score a source with an MLflow model and append the predictions to a Delta or Parquet table.

Every key of conf/score.yaml can be given as section.key=value, for example:
  lakescore score model.uri=models:/churn@champion source.path=data/2026-01-31 output.path=tables/churn
  lakescore score --config conf/score.yaml --config conf/local.yaml run.batch_id=2026-01-31 run.on_rerun=replace

Exit codes: 0 done or nothing to do, 1 the run failed, 2 configuration or usage, 3 model, 4 input data, 5 output,
6 drift with drift.on_drift=fail."""

_REPLAY_HELP = """Score the rows again that a run has quarantined, after the model or the configuration is mended.

The rows are those of run.batch_id in the quarantine, as the source had them; they become the batch BATCH.replay. For example:
  lakescore replay --config conf/score.yaml run.batch_id=2026-01-31 model.uri=models:/churn/4"""

_BACKFILL_HELP = """Score a range of dates, one batch for each: run.date is the date, and the batch NAME-DATE.

The source, or source.filter, must have ${run.date} in it. Dates whose batch is there are skipped, so that the same command goes on where
it stopped. --since D goes until yesterday in run.timezone. For example:
  lakescore backfill --from 2026-01-01 --to 2026-01-31 source.path='data/${run.date}'
  lakescore backfill --since 2026-01-01 --keep-going source.filter="day = '${run.date}'" """

_READ_HELP = """Print the results of a run, or of all batches in an output, as a table.

  lakescore read 0f4c...               the rows of one run, wherever it wrote them (Delta, Parquet, a table, jsonl, append_row)
  lakescore read outputs/2026-01-31    what is in a folder or file, all batches"""


_REGISTER_HELP = """Register a model file, an MLflow folder or a run's artifact as a version of a registered model.

Raw files are recognised by their content and wrapped: scikit-learn (.pkl, .joblib, .skops), XGBoost (.json, .ubj), LightGBM (.txt),
PyTorch (TorchScript, a saved module, a state_dict with --python-class) and ONNX (.onnx). For example:
  lakescore register models/churn.pkl --name churn --alias champion --sample data/customers.parquet --label churned
  lakescore register runs:/RUN_ID/artifacts/model.pt --name digits --python-class net:Net --input-shape 1,28,28

Exit codes: 0 done, 1 the tracking server does not answer, 2 usage, 3 model, 4 sample."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore COMMAND``; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "score": score_main,
        "replay": replay_main,
        "backfill": backfill_main,
        "read": read_main,
        "register": register_main,
        "stats": drift_cli.stats_main,
        "drift": drift_cli.drift_main,
        "doctor": repair_cli.doctor_main,
        "delete-batch": repair_cli.delete_main,
        "serve": service.serve_main,
        "trigger": service.trigger_main,
        "setup-spark": _setup_spark,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lakescore COMMAND ...\n\ncommands:\n  score        score a source with a model (see lakescore score --help)")
        print("  replay       score the quarantined rows of a batch again (see lakescore replay --help)")
        print("  backfill     score a range of dates, one batch for each (see lakescore backfill --help)")
        print("  read         print a run's results as a table (see lakescore read --help)")
        print("  register     register a model file, folder or run's artifact (see lakescore register --help)")
        print("  stats        count a data set, and keep that with the model for drift (see lakescore stats --help)")
        print("  drift        compare two data sets, or plot drift over time (see lakescore drift --help)")
        print("  doctor       find and mend what crashed runs left (see lakescore doctor --help)")
        print("  delete-batch delete one batch of an output (see lakescore delete-batch --help)")
        print("  serve        run pipelines by REST, by schedule and from a page (see lakescore serve --help)")
        print("  trigger      have a service run a pipeline (see lakescore trigger --help)")
        print("  setup-spark  put Delta's, Avro's and S3's jars where this environment's Spark finds them\n\noptions:\n  --version")
        return 0 if arguments else ConfigError.exit_code
    if arguments[0] == "--version":
        print(f"lakescore {__version__}")
        return 0
    command = commands.get(arguments[0])
    if command is None:
        known = listing(commands, len(commands))
        return failed(ConfigError(f"unknown command {arguments[0]!r}; known: {known}.{did_you_mean(arguments[0], commands)}"))
    return command(arguments[1:])


def task_main() -> None:
    """``lakescore`` for platforms that call a function and look at nothing but what it raises: Databricks' wheel tasks.

    Raises:
        LakescoreError: the command has failed; with its line.
    """
    code = main()
    if code:
        raise LakescoreError(f"{console.complaint().removeprefix('lakescore: ')} (exit code {code})")


def score_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore score`` or ``jobs/score.py``; returns the exit code."""
    return run_command(_score_options, _score, argv)


def read_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore read``; returns the exit code."""
    return run_command(_read_options, _read, argv)


def replay_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore replay``; returns the exit code."""
    return run_command(_replay_options, _replay, argv)


def backfill_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore backfill``; returns the exit code."""
    return run_command(_backfill_options, _backfill, argv)


def register_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore register`` or ``jobs/register.py``; returns the exit code."""
    return run_command(_register_options, _register, argv)


def _score_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore score", _SCORE_HELP)
    parser.add_argument(
        "--config", action="append", metavar="FILE", help=f"YAML file; may be repeated, later ones win (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would be done, write nothing")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    parser.add_argument("--result", metavar="FOLDER", help="leave result.json, the first rows and the drift report there")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="wins over the files")
    # Intermixed: `lakescore score a.b=1 --dry-run c.d=2`.
    return parser.parse_intermixed_args(argv)


def _score(options: argparse.Namespace) -> int:
    interruption.begin()  # the run that this process is there for, whatever it has to import first
    from lakescore.answer import Answer

    if options.dry_run and options.result is not None:
        raise ConfigError("--result: is what a run leaves, and --dry-run makes none")
    with Answer(options.result).told() as answer:
        from lakescore.compose import compose

        with _files(options) as files:
            config = compose(files, options.overrides)
        answer.of(config)
        from lakescore import warmup

        if not options.dry_run:
            warmup.begin(config, by_command=True)
        from lakescore import pipeline  # only a good configuration is worth the import of Spark and MLflow

        if options.dry_run:
            print(describe_plan(pipeline.dry_run(config)))
        else:
            result = pipeline.score(config)
            print(result)
            answer.leave(result)
    return 0


@contextlib.contextmanager
def _files(options: argparse.Namespace) -> Iterator[list[str]]:
    """The configuration's files. Without ``--config`` the default one, if it is there; else the keys may be all on the command line."""
    if options.config or os.path.exists(DEFAULT_CONFIG) or not options.overrides:
        yield options.config or [DEFAULT_CONFIG]
        return
    try:
        yield []
    except ConfigError as error:
        raise ConfigError(f"{error} (no --config was given, and {DEFAULT_CONFIG} is not here)") from error


def _replay_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore replay", _REPLAY_HELP)
    parser.add_argument("--config", action="append", metavar="FILE", help=f"YAML file, as for score (default: {DEFAULT_CONFIG})")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="wins over the files; run.batch_id=BATCH says which")
    return parser.parse_intermixed_args(argv)


def _replay(options: argparse.Namespace) -> int:
    if not any(override.startswith("run.batch_id=") for override in options.overrides):
        raise ConfigError("run.batch_id: is required, to say whose quarantined rows are meant: lakescore replay run.batch_id=BATCH")
    from lakescore.compose import compose

    with _files(options) as files:
        config = compose(files, options.overrides)
    from lakescore import pipeline

    print(pipeline.replay(config))
    return 0


def _backfill_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore backfill", _BACKFILL_HELP)
    parser.add_argument("--from", dest="first", type=_date, metavar="DATE", help="the first date, 2026-01-31 for example")
    parser.add_argument("--to", dest="last", type=_date, metavar="DATE", help="the last date, itself included")
    parser.add_argument("--since", type=_date, metavar="DATE", help="the first date; the last one is yesterday")
    parser.add_argument("--keep-going", action="store_true", help="go on after a date that failed")
    parser.add_argument("--config", action="append", metavar="FILE", help=f"YAML file, as for score (default: {DEFAULT_CONFIG})")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="wins over the files")
    return parser.parse_intermixed_args(argv)


def _date(text: str) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a date like 2026-01-31")
    return found


def _backfill(options: argparse.Namespace) -> int:
    is_range = options.first is not None and options.last is not None
    if is_range == (options.since is not None) or (options.since is not None and (options.first or options.last)):
        raise ConfigError("backfill: give --from DATE and --to DATE, or --since DATE; see lakescore backfill --help")
    if is_range and options.first > options.last:
        raise ConfigError(f"--from: {options.first} is after --to {options.last}")
    from lakescore import backfilling

    with _files(options) as files:
        found = backfilling.backfill(files, options.overrides, options.since or options.first, options.last, keep_going=options.keep_going)
    print(backfilling.describe(found) if found else f"no date from {options.since} until yesterday; nothing to do")
    error = backfilling.failure(found)
    if error is not None:
        raise error
    return 0


def _read_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore read", _READ_HELP)
    parser.add_argument("what", metavar="RUN_ID|OUTPUT_PATH", help="an MLflow run of lakescore score, or a folder or file that it wrote")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="rows at most (default: 20; 0: all)")
    parser.add_argument("--tracking-uri", metavar="URI", help="where the run is recorded (default: MLflow's own)")
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_args(argv)


def _read(options: argparse.Namespace) -> int:
    if options.limit < 0:
        raise ConfigError(f"--limit: got {options.limit}; expected a number of rows, or 0 for all")
    from lakescore import results

    frame = results.read(options.what, limit=options.limit or None, tracking_uri=options.tracking_uri)
    if frame.empty:
        print(f"no rows; the columns are {listing(frame.columns, 50)}")
    else:
        print(redact(frame.to_string(index=False, max_colwidth=60)))
    return 0


def _register_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore register", _REGISTER_HELP)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a file, a folder, runs:/ID/path, models:/m-ID or a URI of a store")
    add("--name", required=True, help="the registered model; made when it is not there")
    add("--alias", action="append", default=[], help="alias of the new version; may be repeated, and moves from the version that has it")
    add("--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the new version; may be repeated")
    add("--description", help="description of the new version")
    add("--sample", metavar="FILE", help="Parquet, CSV or JSON file; its columns and predictions give the signature")
    add("--label", action="append", default=[], metavar="COLUMN", help="column of sample or training set that is no input; repeatable")
    add("--training-set", metavar="DATA", help="path or table of the training data: its statistics are kept with the version, for drift")
    add("--columns", metavar="'a double, b string'", help="the inputs, where there is no sample")
    add("--result", metavar="TYPE", help="the type of one row's prediction, where there is no sample")
    add("--python-class", metavar="MODULE:CLASS", help="makes the PyTorch module of a state_dict; called without arguments")
    add("--input-shape", metavar="N,N", help="shape of one row's input to a raw PyTorch file")
    add("--allowed-root", action="append", default=[], metavar="FOLDER", help="folder that models may come from; may be repeated")
    add("--tracking-uri", help="default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here")
    add("--registry-uri", help="default: the tracking server")
    add("--experiment", default="lakescore", help="where a model that comes from no run is logged (default: lakescore)")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_args(argv)


def _register(options: argparse.Namespace) -> int:
    tags = {}
    for tag in options.tag:
        key, separator, value = tag.partition("=")
        if not separator or not key:
            raise ConfigError(f"--tag: got {tag!r}; expected KEY=VALUE")
        tags[key] = value
    shape = options.input_shape
    if shape is not None and not all(part.strip().isdigit() and int(part) > 0 for part in shape.split(",")):
        raise ConfigError(f"--input-shape: got {shape!r}; expected positive numbers separated by commas, as in 1,28,28")
    if options.python_class is not None and options.python_class.count(":") != 1:
        raise ConfigError(f"--python-class: got {options.python_class!r}; expected MODULE:CLASS")
    from lakescore import registration
    from lakescore.config import TrackingConfig
    from lakescore.models.register import Registration

    tracking = TrackingConfig(tracking_uri=options.tracking_uri, registry_uri=options.registry_uri, experiment=options.experiment)
    wanted = Registration(
        model=options.model,
        name=options.name,
        aliases=tuple(options.alias),
        tags=tags,
        description=options.description,
        sample=options.sample,
        training_set=options.training_set,
        labels=tuple(options.label),
        columns=options.columns,
        result=options.result,
        python_class=options.python_class,
        input_shape=tuple(int(part) for part in shape.split(",")) if shape is not None else None,
        allowed_roots=tuple(options.allowed_root),
    )
    print(registration.describe(registration.register(wanted, tracking), wanted, tracking))
    return 0


def _setup_spark(argv: Sequence[str]) -> int:
    from lakescore.setup_spark import main as setup_main

    try:
        return setup_main(argv)
    except LakescoreError as error:
        return failed(error)
    except OSError as error:  # Spark's folder is another user's, or the disk is full
        return failed(PlatformError(f"Spark cannot be set up: {error}"))


def describe_plan(plan: Plan) -> str:
    """What a dry run prints."""
    from lakescore import tracking
    from lakescore.planning import output_schema

    lines = ["# resolved configuration", tracking.as_yaml(plan.config).rstrip(), "", "# model"]
    given = plan.config.model.uri or plan.config.model.entry_script
    lines += [redact(f"{given} -> {plan.model.uri} (version {plan.model.version}, {plan.model.flavor})")]
    lines += [f"prediction: {plan.result_type.simpleString()}", "", "# features, in the model's order"]
    lines += [f"  {one}" for one in plan.alignment.inputs]
    lines += ["", redact(f"# columns that would be written to {plan.sink.location}")]
    lines += [f"  {field.name}: {field.dataType.simpleString()}" for field in output_schema(plan).fields]
    version = "" if plan.source.version is None else f", version {plan.source.version}"
    lines += ["", redact(f"source: {plan.source.description}{version}")]
    if plan.source.window is not None:
        lines.append(redact(f"what is new: {plan.source.window}"))
    then = {"skip": "nothing would be done", "replace": "it would be replaced", "fail": "the run would fail"}[plan.config.run.on_rerun]
    state = f"is there already: {then}" if plan.published else "is new"
    if plan.quarantine is not None:
        lines.append(redact(f"quarantine: {plan.quarantine.location}"))
    lines += [f"batch:  {plan.config.run.batch_id}, {state}", "dry run: nothing was written"]
    return "\n".join(lines)
