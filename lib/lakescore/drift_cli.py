"""``lakescore stats`` and ``lakescore drift``: data sets as statistics, their drift, and drift over time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lakescore.commands import Parser, run_command
from lakescore.errors import ConfigError

_STATS_HELP = """Count a data set: nulls, ranges, quantiles and histograms of each column, as a small JSON file.

  lakescore stats data/train --model models:/churn@champion --label churned   kept with the model, where scoring finds it
  lakescore stats data/train --output train.json                              a file, for drift.reference or lakescore drift

With --model the columns are the model's features, the labels and the model's predictions; without, all columns.

Exit codes: 0 done, 1 the run failed, 2 usage, 3 model, 4 input data."""

_DRIFT_HELP = """Compare a data set with a reference, without scoring; or plot drift over time.

  lakescore drift data/today --reference data/train               two data sets: paths (with a / in them) or tables
  lakescore drift data/today --reference train.json               statistics: a file, runs:/ID/dataset_statistics.json, models:/NAME@ALIAS
  lakescore drift --history data/drift                            the drift table of scoring runs (drift.table)

Exit codes: 0 done, 1 failed, 2 usage, 4 input data, 6 drift with --on-drift fail."""


def stats_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore stats``; returns the exit code."""
    return run_command(_stats_options, _stats, argv)


def drift_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore drift``; returns the exit code."""
    return run_command(_drift_options, _drift, argv)


def _stats_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore stats", _STATS_HELP)
    add = parser.add_argument
    add("data", metavar="DATA", help="a path (with a / in it, or that is there) or a table's name")
    add("--model", metavar="URI", help="the model, as model.uri of a scoring run")
    add("--label", action="append", default=[], metavar="COLUMN", help="column that is a known outcome; may be repeated")
    add("--drop", action="append", default=[], metavar="COLUMN", help="column to leave out; may be repeated")
    add("--output", metavar="FILE", help="write the JSON there; default: keep it with the model")
    add("--config", action="append", default=[], metavar="FILE", help="YAML file, as for score; its source and model are not used")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    add("overrides", nargs="*", metavar="section.key=value", help="as for score, with --model")
    return parser.parse_intermixed_args(argv)


def _stats(options: argparse.Namespace) -> int:
    if options.model is None and options.output is None:
        raise ConfigError("--output: is required without --model: a file for the statistics")
    if options.model is None and (options.config or options.overrides):
        raise ConfigError("--config, section.key=value: belong to --model, which is not given")
    if options.output is not None:
        _check_file(Path(options.output))
    if options.model is None:
        from lakescore import comparing

        found, where = comparing.statistics(options.data, options.label, options.drop), options.output
    else:
        from lakescore import training

        config = training.configured(options.config, options.overrides, options.model, options.data, options.label, options.drop)
        found, pinned = training.statistics(config, "DATA")
        where = options.output or training.keep(found, pinned, config)
    if options.output is not None:
        Path(options.output).write_text(found.to_json(), encoding="utf-8")
    analysed = [column for column in found.columns.values() if column.not_analysed is None]
    print(f"{found.rows:,} rows, {len(analysed)} of {len(found.columns)} columns can be compared; written to {where}")
    for name, column in found.columns.items():
        if column.not_analysed is not None:
            print(f"  {name}: not analysed: {column.not_analysed}")
    return 0


def _check_file(file: Path) -> None:
    """Raise ConfigError where no file can be written: counting may take long, and would be lost."""
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--output: there is no folder {file.absolute().parent}")
    if file.is_dir():
        raise ConfigError(f"--output: {file} is a folder; give a file in it")


def _drift_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore drift", _DRIFT_HELP)
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", help="a path (with a / in it, or that is there) or a table's name")
    add("--reference", metavar="REFERENCE", help="what it is compared with")
    add("--history", metavar="TABLE", help="the drift table: a path (with a / in it) or a table's name")
    add("--label", action="append", default=[], metavar="COLUMN", help="column that does not count for the whole; may be repeated")
    add("--drop", action="append", default=[], metavar="COLUMN", help="column to leave out; may be repeated")
    add("--possible-threshold", type=float, default=0.5, metavar="X", help="drift from which it is possible (default: 0.5)")
    add("--detected-threshold", type=float, default=0.7, metavar="X", help="drift from which it is detected (default: 0.7)")
    add("--on-drift", choices=("warn", "fail"), default="warn", help="fail: exit code 6 where drift is detected")
    add("--output", metavar="FOLDER", default="drift", help="for the report (default: drift)")
    add("--tracking-uri", metavar="URI", help="where runs and models are (default: MLflow's own)")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser.parse_args(argv)


def _drift(options: argparse.Namespace) -> int:
    if (options.history is None) == (options.data is None) or (options.data is None) != (options.reference is None):
        raise ConfigError("drift: give DATA and --reference, or --history; see lakescore drift --help")
    if options.history is not None and (options.label or options.drop or options.tracking_uri or options.on_drift == "fail"):
        raise ConfigError("--history: shows what scoring runs have found; --label, --drop, --on-drift and --tracking-uri are for DATA")
    from lakescore import comparing

    limits, folder = comparing.thresholds(options.possible_threshold, options.detected_threshold), Path(options.output)
    if options.history is not None:
        print(comparing.plot_history(options.history, folder, limits))
        return 0
    print(
        comparing.report(
            options.data,
            options.reference,
            limits,
            folder,
            labels=options.label,
            drop=options.drop,
            tracking_uri=options.tracking_uri,
            fails=options.on_drift == "fail",
        )
    )
    return 0
