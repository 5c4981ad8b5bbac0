"""The parts of the benchmark as cases: what is scored with which model by whom; and the runs of one case, taken in turn."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import checking, contenders, data, measuring, models

FIVE = ("linear", "forest", "xgboost", "lightgbm", "mlp")
MAIN = ("plain", "lakescore-spark", "lakescore-embedded", "pyarrow", "daft", "limit")
OURS = ("lakescore-spark", "lakescore-embedded")
# What is kept of a failed process's output: so many lines, of so many characters.
TAIL_LINES, LINE_LENGTH = 15, 300


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: each number of rows, with each model, at each number of cores (None: all) is a case."""

    about: str
    rows: tuple[int, ...]
    models: tuple[str, ...]
    contenders: tuple[str, ...]
    columns: int = 20
    cores: tuple[int | None, ...] = (None,)


PARTS = {
    "main": Part("every model, many rows and few", (4_000_000, 10_000), FIVE, MAIN),
    "cores": Part("growth from 1 to 2 cores", (4_000_000,), ("xgboost",), ("plain", *OURS, "limit"), cores=(1, 2)),
    "rows": Part("growth from 1 to 16 million rows", (1_000_000, 16_000_000), ("linear",), OURS),
    "memory": Part("a model of 500 MB, 2 workers", (1_000_000,), ("lookup",), ("plain", *OURS), cores=(2,)),
    "wide": Part("200 columns", (400_000,), ("linear",), MAIN, columns=200),
    "drift": Part("what watching drift costs", (4_000_000,), ("linear",), ("drift-off", "drift-on")),
}


@dataclass(frozen=True)
class Case:
    """What several contenders do, and so what can be compared; ``cores`` None: all."""

    part: str
    rows: int
    columns: int
    model: str
    cores: int | None
    contenders: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One process of one contender.

    Attributes:
        case: what it did.
        contender: its name in ``contenders.COMMANDS``.
        repeat: from 1.
        measured: what it took.
        scoring_seconds: of its scoring stage alone, where it tells.
        failure: why it failed; None: it did not.
        output_tail: the last lines of a failed run's output.
        reference: the contender whose predictions it was compared with; None where it is the reference itself.
        comparison: of their predictions.
    """

    case: Case
    contender: str
    repeat: int
    measured: measuring.Measured
    scoring_seconds: float | None = None
    failure: str | None = None
    output_tail: tuple[str, ...] = ()
    reference: str | None = None
    comparison: checking.Comparison | None = None

    @property
    def good(self) -> bool:
        return self.failure is None and (self.comparison is None or self.comparison.equal)


def of_part(
    name: str, rows: Sequence[int] | None, model_names: Sequence[str] | None, chosen: Sequence[str] | None, absent: Collection[str]
) -> list[Case]:
    """The cases of a part, with other rows, models or contenders than its own where they are given, and without those ``absent``."""
    part = PARTS[name]
    names = tuple(contender for contender in chosen or part.contenders if contender not in absent)
    return [
        Case(name, number, part.columns, model, cores, names)
        for number in rows or part.rows
        for model in model_names or part.models
        for cores in part.cores
    ]


def run(case: Case, folder: Path, repeats: int, timeout: float) -> Iterator[Run]:
    """Run the contenders of a case in turn, so many times; one that fails is not run again.

    The predictions of the first run that succeeds are the reference of all others.
    """
    source = data.prepare(folder / "data", case.rows, case.columns)
    model = models.prepare(folder / "models", case.model, case.columns)
    if "drift-on" in case.contenders:
        model = models.with_statistics(model, source / "part-0.parquet", contenders.environment(folder))
    work = contenders.Work(model, source, folder / "output")
    failed: set[str] = set()
    reference: tuple[str, np.ndarray] | None = None
    for repeat in range(1, repeats + 1):
        for contender in case.contenders:
            if contender in failed:
                continue
            done, predictions = _run(case, contender, repeat, work, folder, timeout, reference)
            if predictions is None:
                failed.add(contender)
            elif reference is None:
                reference = contender, predictions
            yield done


def _run(
    case: Case, contender: str, repeat: int, work: contenders.Work, folder: Path, timeout: float, reference: tuple[str, np.ndarray] | None
) -> tuple[Run, np.ndarray | None]:
    """One process, and its predictions where it succeeds."""
    shutil.rmtree(work.output, ignore_errors=True)
    # What an earlier process wrote is not written to the disk at this one's expense.
    os.sync()
    log = folder / "output.log"
    command, environment = contenders.COMMANDS[contender](work), contenders.environment(folder, contender)
    measured = measuring.measure(command, log, folder=folder, environment=environment, timeout=timeout, cores=case.cores)
    said = log.read_text(encoding="utf-8", errors="replace")
    failure, predictions = _outcome(case, work.output, measured)
    shutil.rmtree(work.output, ignore_errors=True)
    if predictions is None:
        tail = tuple(line[:LINE_LENGTH] for line in said.splitlines()[-TAIL_LINES:])
        return Run(case, contender, repeat, measured, failure=failure, output_tail=tail), None
    scored = re.search(r"score: \d+ rows, \d+ files, ([\d.]+) s", said)
    done = Run(
        case, contender, repeat, measured, float(scored.group(1)) if scored else None,
        reference=reference[0] if reference else None,
        comparison=checking.compare(predictions, reference[1], models.MODELS[case.model].tolerance) if reference else None,
    )  # fmt: skip
    return done, predictions


def _outcome(case: Case, output: Path, measured: measuring.Measured) -> tuple[str | None, np.ndarray | None]:
    """Why a run failed, or its predictions."""
    if measured.timed_out:
        return f"not done after {measured.wall_seconds:.0f} s", None
    if measured.returncode:
        return f"exit code {measured.returncode}", None
    try:
        return None, checking.predictions(output, case.rows, case.columns)
    except (checking.OutputError, OSError) as error:
        return str(error), None
