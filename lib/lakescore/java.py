"""The Java that a session of our own is run by: whether it is there, and how it is started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyspark.find_spark_home import _find_spark_home

from lakescore.errors import PlatformError

VERSIONS = (17, 21)
_WANTED = " or ".join(map(str, VERSIONS))
_INSTALL = "install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
# Ten times the calls and loops after which HotSpot compiles a method once more, with all optimisations.
_LATE_COMPILER = (
    "-XX:Tier4InvocationThreshold=50000",
    "-XX:Tier4MinInvocationThreshold=6000",
    "-XX:Tier4CompileThreshold=150000",
    "-XX:Tier4BackEdgeThreshold=400000",
)
_COLLECTOR = re.compile(r"-XX:\+Use\w+GC\b")
_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


def require() -> None:
    """Check that a Java that Spark can use will be found.

    Raises:
        PlatformError: naming what was found and how to install what is needed.
    """
    java = require_file()
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if version and int(version.group(1)) < VERSIONS[0]:
        raise PlatformError(f"Spark needs Java {_WANTED}, and {java} is Java {version.group(1)}: {_INSTALL}")


def require_file() -> str:
    """The Java that Spark will start, whatever its version.

    Raises:
        PlatformError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no java on the PATH"
        raise PlatformError(f"Spark needs Java {_WANTED}, and {where}: {_INSTALL}")
    return java


@contextmanager
def hurried(conf: Mapping[str, str], local: bool) -> Iterator[None]:
    """Have the JVM that Spark starts in the block be there sooner, unless the environment has options for it.

    The driver's of a session on this machine compiles late and collects garbage in bulk: most runs end before the other ways pay.

    Args:
        conf: Spark's settings. Who chooses a collector there, in spark-defaults.conf, PYSPARK_SUBMIT_ARGS or Java's variables has it.
        local: whether the session is on this machine alone.
    """
    # The small program that puts Spark's own command line together need not be optimised at all.
    said = [os.environ.get(name, "") for name in _VARIABLES]
    options = {"SPARK_LAUNCHER_OPTS": " ".join(["-XX:TieredStopAtLevel=1", *_collector("Serial", said)])}
    if local:
        options["SPARK_SUBMIT_OPTS"] = " ".join([*_LATE_COMPILER, *_collector("Parallel", [*said, *_said_to_spark(conf)])])
    own = [name for name in options if name not in os.environ]
    os.environ.update({name: options[name] for name in own})
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _collector(name: str, said: Iterable[str]) -> list[str]:
    """The option for a garbage collector, where nobody has chosen one: of two the JVM takes none, and ends."""
    return [] if any(map(_COLLECTOR.search, said)) else [f"-XX:+Use{name}GC"]


def _said_to_spark(conf: Mapping[str, str]) -> Iterator[str]:
    """Whatever may hold options for the driver's JVM."""
    yield from (conf.get(f"spark.driver.{kind}JavaOptions", "") for kind in ("default", "extra"))
    yield os.environ.get("PYSPARK_SUBMIT_ARGS", "")
    folder = os.environ.get("SPARK_CONF_DIR") or os.path.join(_find_spark_home(), "conf")
    with contextlib.suppress(OSError):
        yield Path(folder, "spark-defaults.conf").read_text(encoding="utf-8", errors="replace")
