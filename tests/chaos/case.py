"""One fault and all that belongs to it: its folder, its jobs, the reader, what went wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import world
from chaos.jobs import Job, kill, marked
from chaos.reading import Reader, Seen
from chaos.watching import Watcher
from chaos.world import World

if TYPE_CHECKING:
    from support.cluster import Cluster

BATCH = "hit"
_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_SPARK = (
    "spark.backend=spark", "spark.master=local[2]", f"spark.conf.spark.driver.extraJavaOptions={_JAVA}",
    "spark.conf.spark.ui.enabled=false", "spark.conf.spark.driver.host=127.0.0.1",
)  # fmt: skip
BACKENDS: dict[str, tuple[str, ...]] = {
    "embedded": ("spark.backend=embedded",),
    # Spark runs the tasks, and rows do not pass it; then they do.
    "spark": _SPARK,
    "udf": (*_SPARK, "scoring.engine=spark_udf"),
    "submit": ("scoring.engine=spark_udf",),
    "cluster": ("scoring.engine=spark_udf",),
}
# When the driver is hit: a line that it says, a path that appears, and seconds after that, at most.
STAGES = ("before", "scoring", "staged", "publishing", "published")


@dataclass(frozen=True)
class Fault:
    """What is to be done; ``name`` repeats it."""

    kind: str
    format: str
    backend: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.format}:{self.backend}:{self.seed}"


@dataclass
class Case:
    """A fault while it is injected, and what became of it.

    Attributes:
        random: seeded by the fault.
        said: how it was injected, in words.
        hit: whether it was: a job may end before.
        problems: what went wrong, by class: lost, doubled, partial, unrecovered, stale, running, other.
        batches: that are hit; earlier: those that must stay as they are, with their rows; replaced: those that another one replaces.
        overrides: of the job, and of the next one of the same batch.
        mend: what makes the next one possible again; stack: what lasts until all is checked.
    """

    fault: Fault
    world: World
    folder: Path
    reader: Reader
    cluster: Callable[[], Cluster] | None = None
    said: str = ""
    hit: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)
    batches: list[str] = field(default_factory=lambda: [BATCH])
    earlier: dict[str, int] = field(default_factory=lambda: dict.fromkeys(world.EARLIER, world.EARLIER_ROWS))
    replaced: dict[str, int] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    mend: Callable[[], object] = lambda: None
    stack: ExitStack = field(default_factory=ExitStack)
    seen: Seen = field(default_factory=Seen)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.fault.name)
        self.table = self.folder / "table"
        shutil.copytree(self.world.template(self.fault.format), self.folder)
        for name in ("tmp", "local"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()

    @property
    def mark(self) -> str:
        return self.folder.name

    def note(self, kind: str, text: str) -> None:
        if (kind, text) not in self.problems:
            self.problems.append((kind, text))

    def begin_reading(self) -> None:
        self.reader.start(self.fault.format, self.table, self.earlier, self.world.rows, self.replaced)

    def replaces(self, batch: str) -> None:
        """An earlier batch is no more to stay: another one takes its place, as a whole."""
        self.replaced[batch] = self.earlier.pop(batch)
        self.read_anew()

    def without_table(self) -> None:
        """The jobs are to make the table."""
        shutil.rmtree(self.table)
        self.earlier.clear()
        self.read_anew()

    def read_anew(self) -> None:
        """Forget what the reader has seen so far: the table was made another one."""
        self.reader.stop()
        self.begin_reading()

    def end_reading(self) -> None:
        self.seen = self.reader.stop()
        for what in self.seen.wrong:
            self.note("partial", f"a reader saw: {what}")

    def start(self, *overrides: str, batch: str = BATCH, backend: str | None = None, environment: dict[str, str] | None = None) -> Job:
        """Start a job of this fault."""
        backend = backend or self.fault.backend
        given = [*world.arguments(self.world, self.folder, self.fault.format, batch), *BACKENDS[backend], *overrides]
        environ = {**world.environment(self.folder, self.mark), **(environment or {})}
        job = Job([*self._command(backend), *given], self.folder, environ, self.mark)
        self.jobs.append(job)
        return job

    def _command(self, backend: str) -> Sequence[str]:
        script = str(world.ROOT / "jobs" / "score.py")
        if backend not in ("submit", "cluster"):
            return [sys.executable, script]
        master = "local[2]"
        conf = ["--conf", "spark.ui.enabled=false", "--conf", "spark.driver.host=127.0.0.1", "--driver-java-options", _JAVA]
        if backend == "cluster":
            assert self.cluster is not None, "scheduled only where there is one"
            master = self.cluster().url
            conf += ["--conf", f"spark.executor.extraJavaOptions={_JAVA}", "--conf", "spark.pyspark.python=" + sys.executable]
        return [str(Path(sys.executable).with_name("spark-submit")), "--master", master, *conf, script]

    def driver(self, job: Job) -> int | None:
        """The pid of the driver's Python: spark-submit has it as its child."""
        if self.fault.backend not in ("submit", "cluster"):
            return job.pid
        return next((one.pid for one in marked(self.mark) if one.parent == job.pid and "score.py" in one.command), None)

    def at(self, job: Job, stage: str, act: Callable[[], bool]) -> None:
        """Act at a random moment of a stage; returns when that is done or the job is over. Sets ``hit``."""
        reached, delay = threading.Event(), 0.0
        watcher = None
        if stage == "before":
            reached.set()
            delay = self.random.uniform(0.05, 2.0 if self.fault.backend == "embedded" else 5.0)
        elif stage == "scoring":
            job.when(r" source: .* features", reached.set)
            delay = self.random.uniform(0.0, 0.4 if self.fault.backend in ("embedded", "spark") else 4.0)
        elif stage == "staged":
            delay = self.random.uniform(0.0, 0.004)
        elif stage == "publishing":
            delay = self.random.choice((0.0, self.random.uniform(0.0, 0.004)))
            watcher = Watcher(self.table, self._is_publication, reached.set)
        else:
            job.when(r" output: ", reached.set)
            delay = self.random.uniform(0.0, 0.1)
        if stage == "staged":
            job.when(r" score: \d+ rows", reached.set)
        self.said = f"{stage} + {delay:.3f} s"
        while not reached.wait(0.02) and not job.is_over:
            pass
        time.sleep(delay)
        if reached.is_set() and not job.is_over:
            self.hit = act()
        if watcher is not None:
            watcher.close()

    def _is_publication(self, path: str) -> bool:
        if self.fault.format == "delta":
            return path.startswith("_delta_log/")
        return path.startswith(("_lakescore/journal", "_lakescore/replaced")) or f"batch_id={BATCH}" in path.split("/")[1:2]

    def clear(self) -> None:
        """End what is left, and remove the folder."""
        for process in marked(self.mark):
            kill(process.pid)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)


def shares(weights: dict[str, int], total: int) -> Counter[str]:
    """So many of each, in proportion, at least one of each where there is room."""
    whole = sum(weights.values())
    found = Counter({name: total * weight // whole for name, weight in weights.items()})
    for name in sorted(weights, key=lambda name: (found[name], -(total * weights[name] % whole))):
        if sum(found.values()) < total:
            found[name] += 1
    return found
