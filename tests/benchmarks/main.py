"""Lakescore against a plain spark_udf script, its peers and the machine's limit, as whole processes, cold start included.

make bench                                            every model, 4,000,000 and 10,000 rows
make bench ARGS="--rows 10000 --models linear"        less of it
make bench ARGS="--part cores"                        another part; --part all: all of them

The contenders: `plain`, the script that one would write with Spark and MLflow alone; `lakescore-spark` and `lakescore-embedded`, the
same work as `lakescore score`; `lakescore`, with the backend that it chooses itself; `pyarrow`, one process that reads, predicts and
writes; `daft`, where it is installed; `limit`, one process for each core that does no more than must be done. Files, models and the
tracking store are made first and are not measured; the input is in the page cache. The exit code is 1 where a contender failed or
predictions differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cases, contenders, machine, models, report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that the options name; returns the exit code."""
    options = _options(argv)
    parts = list(cases.PARTS) if options.part == "all" else [options.part]
    absent = contenders.missing(options.contenders or [name for part in parts for name in cases.PARTS[part].contenders])
    described = machine.describe()
    print(machine.as_text(described))
    for name, package in absent.items():
        print(f"{name} is left out: {package} is not installed here")
    runs: list[cases.Run] = []
    with _workspace(options.folder) as folder:
        to = options.json or folder / "bench.json"
        _make_tracking_store(folder)
        for case in [case for part in parts for case in cases.of_part(part, options.rows, options.models, options.contenders, absent)]:
            for run in cases.run(case, folder, options.repeats, options.timeout):
                runs.append(run)
                print(_progress(run), file=sys.stderr)
                # After every run: what was measured is kept when the rest is interrupted.
                to.write_text(json.dumps(_as_json(described, options, runs), indent=1) + "\n", encoding="utf-8")
            print("\n" + report.table(case, runs), flush=True)
    print("\n".join(["", *report.growth(runs), f"every run: {to}"]))
    return 0 if all(run.good for run in runs) else 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    parts = "; ".join(f"{name}: {part.about}" for name, part in cases.PARTS.items())
    add("--part", choices=[*cases.PARTS, "all"], default="main", help=f"{parts} (default: main)")
    add("--rows", type=int, nargs="+", metavar="N", help="rows to score; default: the part's")
    add("--models", nargs="+", choices=list(models.MODELS), help="default: the part's")
    add("--contenders", nargs="+", choices=list(contenders.COMMANDS), help="default: the part's")
    add("--repeats", type=int, default=3, help="runs of each contender, taken in turn (default: 3)")
    add("--folder", type=Path, help="keep files and models there, and use them again; default: a temporary folder")
    add("--json", type=Path, help="every run, as JSON (default: bench.json in the folder)")
    add("--timeout", type=float, default=3600.0, metavar="SECONDS", help="a contender is ended after that (default: 3600)")
    options = parser.parse_args(argv)
    if options.repeats < 1 or min(options.rows or [1]) < 1:
        parser.error("--repeats and --rows must be at least 1")
    return options


@contextmanager
def _workspace(given: Path | None) -> Iterator[Path]:
    """The folder that is given, which stays; else a temporary one, of which only bench.json stays."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="lakescore-bench-"))
    try:
        yield folder
    finally:
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != "bench.json":
                entry.unlink()


def _make_tracking_store(folder: Path) -> None:
    """MLflow makes its database with the first use, which takes seconds once and for all."""
    from mlflow import MlflowClient

    MlflowClient(contenders.environment(folder)["MLFLOW_TRACKING_URI"]).search_experiments()


def _progress(run: cases.Run) -> str:
    case, measured = run.case, run.measured
    end = run.failure or f"{measured.wall_seconds:.1f} s, CPU {measured.cpu_seconds:.1f} s, {measured.peak_bytes / 1e6:,.0f} MB"
    return f"{case.part} {case.model} {case.rows:,} rows, {run.contender}, run {run.repeat}: {end}"


def _as_json(described: dict[str, Any], options: argparse.Namespace, runs: Sequence[cases.Run]) -> dict[str, Any]:
    return {
        "machine": described,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "summaries": [asdict(summary) for summary in report.summaries(runs)],
        "runs": [asdict(run) for run in runs],
    }
