"""Faults at random moments of running jobs, then the same batch again, and a look at what is there.

make chaos                                             200 faults, seed 7
make chaos ARGS="--faults 50 --seed 3"                 fewer, others
make chaos ARGS="--only kill-driver signal"            of some kinds
make chaos ARGS="--repeat kill-driver:delta:udf:12"    one again, by the name that its line gives

Each fault has a fresh table with two earlier batches, and a reader that looks at it all the time. After each, the batch is run again;
then every row of it is there once with the right prediction, the earlier batches are what they were, the reader has never seen a part of
a batch, no staged file, temporary folder or process is left, and each MLflow run says what became of it. The exit code is 1 where
anything of that does not hold. Linux only; full disks and read-only outputs need root, and are left out without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import checking, disks, faults, world
from chaos.case import Case, Fault, shares
from chaos.faults import KINDS, WEIGHTS
from chaos.reading import Reader
from chaos.world import FORMATS, World

if TYPE_CHECKING:
    from support.cluster import Cluster

# The classes of what may go wrong, as the last lines have them.
CLASSES = {
    "lost": "rows or batches lost",
    "doubled": "rows twice",
    "partial": "partially visible",
    "unrecovered": "not recovered by the next run",
    "stale": "stale staging",
    "running": "MLflow runs left RUNNING",
    "other": "otherwise wrong",
}
# A fault whose moment never came is tried again with another seed, so often.
TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a fault."""

    fault: str
    kind: str
    said: str
    hit: bool
    seconds: float
    looks: int
    problems: list[tuple[str, str]] = field(default_factory=list)


class Lab:
    """What the faults share: the world, readers, and a cluster once one is needed, for one fault at a time."""

    def __init__(self, made: World, until: float) -> None:
        self.world, self.until = made, until
        self.before = {name: checking.digests(name, made.template(name) / "table", world.EARLIER) for name in FORMATS}
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._cluster_turn = threading.Lock()
        self._readers: list[Reader] = []
        self._lock = threading.Lock()
        self._count = 0

    def cluster(self) -> Cluster:
        if self._cluster is None:
            from support.cluster import Cluster

            own = world.environment(self.world.folder, "cluster")
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-", dir=self.world.folder)))
            made = Cluster(folder / "cluster", environment={"PATH": path, "PYTHONPATH": own["PYTHONPATH"]})
            self._cluster = self._stack.enter_context(made)
        return self._cluster

    def close(self) -> None:
        self._stack.close()
        for reader in self._readers:
            reader.close()

    def inject(self, fault: Fault) -> Outcome | None:
        """One fault, tried again while its moment does not come; None: there was no time left for it."""
        if time.monotonic() > self.until:
            return None
        for attempt in range(TRIES):
            tried = Fault(fault.kind, fault.format, fault.backend, fault.seed + 1_000_000 * attempt)
            if fault.backend == "cluster":
                with self._cluster_turn:
                    outcome = self._try(tried)
            else:
                outcome = self._try(tried)
            if outcome.hit or outcome.problems:
                break
        return outcome

    def _try(self, fault: Fault) -> Outcome:
        with self._lock:
            self._count += 1
            folder = self.world.folder / f"fault-{self._count:04d}-{os.getpid()}"
            reader = self._readers.pop() if self._readers else Reader()
        start = time.monotonic()
        case = Case(fault, self.world, folder, reader, self.cluster)
        try:
            faults.run(case, self.before[fault.format])
        except Exception as error:
            case.note("other", f"the check itself failed: {error!r} {traceback.format_exc()[-1500:]}")
        with self._lock:
            self._readers.append(reader)
        outcome = Outcome(fault.name, fault.kind, case.said, case.hit, time.monotonic() - start, case.seen.looks, case.problems)
        if case.problems:
            (self.world.folder / "failed").mkdir(exist_ok=True)
            said = "\n\n".join("\n".join(job.lines) for job in case.jobs)
            (self.world.folder / "failed" / f"{fault.name}.log").write_text(said, encoding="utf-8")
        case.clear()
        return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Inject the faults that the options name; returns the exit code."""
    options = _options(argv)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            # Jobs would inherit that they ignore it.
            signal.signal(number, lambda *_: sys.exit(130))
    start = time.monotonic()
    folder = options.folder.resolve() if options.folder else Path(tempfile.mkdtemp(prefix="lakescore-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    lab = None
    try:
        chosen = [_named(options.repeat)] if options.repeat else _schedule(options, folder)
        lab = Lab(world.make(folder, options.rows), start + 60 * options.minutes)
        print(f"{len(chosen)} faults, seed {options.seed}, {options.at_once} at once, {options.rows:,} rows in a batch", flush=True)
        with ThreadPoolExecutor(options.at_once) as pool:
            for future in as_completed([pool.submit(lab.inject, fault) for fault in chosen]):
                if (done := future.result()) is not None:
                    outcomes.append(done)
                    print(_line(len(outcomes), done), flush=True)
    finally:
        if lab is not None:
            lab.close()
        if not options.folder and not any(one.problems for one in outcomes):
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    if options.json:
        options.json.write_text(json.dumps([vars(one) for one in outcomes], indent=1) + "\n", encoding="utf-8")
    print(_summary(outcomes, seconds, options.seed))
    if any(one.problems for one in outcomes):
        print(f"what the jobs of failed faults said: {folder}/failed")
    return 1 if any(one.problems for one in outcomes) else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faults", type=int, default=200, metavar="N", help="how many (default: 200)")
    add("--seed", type=int, default=7, help="of kinds, moments and choices (default: 7)")
    add("--only", nargs="+", choices=list(KINDS), metavar="KIND", help="; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items()))
    add("--backends", nargs="+", metavar="NAME", help="embedded, spark, udf (rows pass Spark), submit, cluster; default: all")
    add("--repeat", metavar="KIND:FORMAT:BACKEND:SEED", help="one fault again")
    add("--rows", type=int, default=20_000, metavar="N", help="rows of a batch (default: 20000)")
    add("--at-once", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="faults at once (default: 2)")
    add(
        "--minutes", type=float, default=float("inf"), metavar="N", help="inject no more after so long; default: all, however long it takes"
    )
    add("--folder", type=Path, help="keep what all faults share there, and use it again; default: a temporary folder")
    add("--json", type=Path, metavar="FILE", help="every fault, as JSON")
    options = parser.parse_args(argv)
    if min(options.faults, options.rows, options.at_once) < 1:
        parser.error("--faults, --rows and --at-once must be at least 1")
    return options


def _named(name: str) -> Fault:
    kind, format_, backend, seed = name.split(":")
    return Fault(kind, format_, backend, int(seed))


def _schedule(options: argparse.Namespace, folder: Path) -> list[Fault]:
    """Kinds in proportion, on their backends in proportion, on both formats, in an order that the seed gives."""
    weights = {name: weight for name, weight in WEIGHTS.items() if not options.only or name in options.only}
    if (reason := disks.why_not(folder)) is not None:
        left_out = [name for name in weights if KINDS[name].needs_mounts]
        if left_out:
            print(f"left out are {', '.join(left_out)}: {reason}")
        weights = {name: weight for name, weight in weights.items() if name not in left_out}
    allowed = {name: _backends(name, options.backends) for name in weights}
    weights = {name: weight for name, weight in weights.items() if allowed[name]}
    dice, found = random.Random(options.seed), []
    for name, count in shares(weights, options.faults).items():
        backends = list(shares(allowed[name], count).elements())
        formats = [KINDS[name].formats[(i + options.seed) % len(KINDS[name].formats)] for i in range(count)]
        dice.shuffle(formats)
        found += [(name, format_, backend) for format_, backend in zip(formats, backends, strict=True)]
    dice.shuffle(found)
    return [Fault(*one, seed=options.seed * 1_000 + number) for number, one in enumerate(found)]


def _backends(kind: str, wanted: Sequence[str] | None) -> dict[str, int]:
    return {name: weight for name, weight in KINDS[kind].backends.items() if not wanted or name in wanted}


def _line(number: int, done: Outcome) -> str:
    end = "ok" if not done.problems else "; ".join(f"{kind.upper()}: {text}" for kind, text in done.problems)
    missed = "" if done.hit else " (its moment never came)"
    return f"{number:4} {done.fault:42} {done.seconds:5.1f} s  {done.said}{missed}: {end}"


def _summary(outcomes: Sequence[Outcome], seconds: float, seed: int) -> str:
    injected = Counter(one.kind for one in outcomes if one.hit)
    lines = ["", f"{sum(injected.values())} faults injected in {seconds / 60:.1f} min, seed {seed}; looks of readers: "]
    lines[-1] += f"{sum(one.looks for one in outcomes):,}"
    lines += [f"  {injected[name]:4}  {KINDS[name].about}" for name in KINDS if injected[name]]
    missed = sum(not one.hit for one in outcomes)
    lines += [f"  {missed:4}  whose moment never came"] if missed else []
    for kind, about in CLASSES.items():
        failed = [one.fault for one in outcomes if any(found == kind for found, _ in one.problems)]
        lines.append(f"{about}: {len(failed)}" + (f" ({', '.join(failed)})" if failed else ""))
    return "\n".join(lines)
