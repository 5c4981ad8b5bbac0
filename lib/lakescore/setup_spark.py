"""Make this environment's ``spark-submit`` work bare: Delta's, Avro's and S3's jars, its defaults, a quiet log, the right Python.

``spark.jars.packages`` in a session's builder comes too late under spark-submit (the JVM runs already), so the jars go where every
start of this pyspark looks: its ``jars`` folder. Spark's own Ivy resolves them, from Maven Central unless configured otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from lakescore.commands import Parser
from lakescore.errors import PlatformError

_SCALA = "2.13"
_DELTA_GROUP = "io.delta"
# Avro's jar belongs to Spark's own version; where a mirror lacks it, the one before reads and writes the same (tested with 4.2.0).
_AVRO_FALLBACK = "4.1.1"
# The AWS SDK that each Hadoop was built with (2.24.6 for 3.4.1, of which one part was never published). Its parts that hadoop-aws needs
# are some 15 MB, all of it in one jar is 600.
_AWS_GROUP = "software.amazon"
_AWS_SDK = {"3.4.0": "2.23.19", "3.4.1": "2.24.8", "3.4.2": "2.29.52", "3.5.0": "2.35.4"}
_AWS_MODULES = ("s3", "s3-transfer-manager", "sts")
_MARK = "# written by `lakescore setup-spark`"
_DEFAULTS = f"""{_MARK}; spark-submit --conf wins
spark.sql.extensions                       io.delta.sql.DeltaSparkSessionExtension
spark.sql.catalog.spark_catalog            org.apache.spark.sql.delta.catalog.DeltaCatalog
spark.ui.showConsoleProgress               false
"""
_S3_DEFAULTS = """spark.hadoop.fs.s3.impl                    org.apache.hadoop.fs.s3a.S3AFileSystem
spark.hadoop.fs.s3a.aws.credentials.provider  org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider,\
org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider,software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider
"""
_LOG4J = f"""{_MARK}
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{{yy/MM/dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
# A task's failure reaches the driver, which says it in one line.
logger.executor.name = org.apache.spark.executor.Executor
logger.executor.level = off
logger.tasks.name = org.apache.spark.scheduler.TaskSetManager
logger.tasks.level = off
logger.writers.name = org.apache.spark.sql.execution.datasources
logger.writers.level = off
logger.utils.name = org.apache.spark.util
logger.utils.level = off
"""
_WRAPPER = """#!/bin/sh
# written by `lakescore setup-spark`: this environment's own Spark and Python, whatever the PATH says
if [ -z "$JAVA_HOME" ] && ! command -v java >/dev/null 2>&1; then
  echo "lakescore: Spark needs Java 17 or 21, and there is no java on the PATH: install it (Debian, Ubuntu: apt-get install \
openjdk-17-jre-headless) or set JAVA_HOME" >&2
  exit 1
fi
SPARK_HOME='{home}'
PYSPARK_DRIVER_PYTHON="${{PYSPARK_DRIVER_PYTHON:-{python}}}"
export SPARK_HOME PYSPARK_DRIVER_PYTHON
exec "$SPARK_HOME/bin/{name}" "$@"
"""


def main(argv: Sequence[str]) -> int:
    """Run ``lakescore setup-spark``."""
    parser = Parser("lakescore setup-spark", (__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--force", action="store_true", help="resolve the jars again even if they are there")
    parser.add_argument("--ivy-settings", metavar="FILE", help="where to resolve them: an Ivy settings file (default: Maven Central)")
    parser.add_argument("--s3", action="store_true", help="hadoop-aws and the AWS SDK too, for s3a:// and s3://")
    options = parser.parse_args(argv)
    home = _spark_home()
    delta = _delta_coordinate()
    if options.force or not (home / "jars" / _file_name(delta)).exists():
        _install(home, delta, options.ivy_settings, required=True)
    if options.force or not _jars(home, "spark-avro"):
        _install_avro(home, options.ivy_settings)
    if options.s3:
        _install_s3(home, options.ivy_settings, options.force)
    s3 = _jars(home, "hadoop-aws")
    _write(home / "conf" / "spark-defaults.conf", _DEFAULTS + (_S3_DEFAULTS if s3 else ""))
    _write(home / "conf" / "log4j2.properties", _LOG4J)
    _wrap(home)
    names = [jar.name for jar in _jars(home, "delta-spark") + _jars(home, "spark-avro") + s3]
    print(f"Spark {metadata.version('pyspark')} in {home} is set up: {', '.join(names)}")
    return 0


def _spark_home() -> Path:
    try:
        import pyspark
    except ImportError:
        raise PlatformError("pyspark is not installed here: pip install 'lakescore[spark]'") from None
    home = Path(pyspark.__file__).parent
    if not (home / "jars").is_dir():
        raise PlatformError(f"{home} has no jars folder; setup-spark is for a pip-installed pyspark")
    return home


def _delta_coordinate() -> str:
    """Delta's artifact for this Spark; only since 4.1 is there one for each Spark."""
    try:
        delta = metadata.version("delta-spark")
    except metadata.PackageNotFoundError:
        raise PlatformError("delta-spark is not installed here: pip install 'lakescore[spark]'") from None
    spark = ".".join(metadata.version("pyspark").split(".")[:2])
    artifact = f"delta-spark_{_SCALA}" if Version(delta) < Version("4.1") else f"delta-spark_{spark}_{_SCALA}"
    return f"{_DELTA_GROUP}:{artifact}:{delta}"


def _install_avro(home: Path, ivy_settings: str | None) -> None:
    versions = dict.fromkeys([metadata.version("pyspark"), _AVRO_FALLBACK])
    for version in versions:
        if _install(home, f"org.apache.spark:spark-avro_{_SCALA}:{version}", ivy_settings, required=False):
            return
    print("lakescore: spark-avro could not be resolved; everything but source.format=avro works", file=sys.stderr)


def _install_s3(home: Path, ivy_settings: str | None, force: bool) -> None:
    """hadoop-aws of Spark's own Hadoop, with the parts of the AWS SDK that it needs instead of all of it."""
    hadoop = next((_version(jar.name) for jar in _jars(home, "hadoop-client-api")), "unknown")
    if hadoop not in _AWS_SDK:
        raise PlatformError(
            f"the AWS SDK for Hadoop {hadoop} is not known here: put hadoop-aws-{hadoop}.jar and its AWS SDK bundle into {home / 'jars'}"
        )
    own = f"org.apache.hadoop:hadoop-aws:{hadoop}"
    if force or not (home / "jars" / _file_name(own)).exists():
        parts = [f"software.amazon.awssdk:{name}:{_AWS_SDK[hadoop]}" for name in _AWS_MODULES]
        _install(home, ",".join([own, *parts]), ivy_settings, required=True, without="software.amazon.awssdk:bundle")


def _version(name: str) -> str:
    """The version in a jar's name: ``hadoop-client-api-3.5.0.jar`` -> ``3.5.0``."""
    found = re.search(r"-(\d[\w.+-]*)\.jar$", name)
    return found.group(1) if found else ""


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _jars(home: Path, artifact: str) -> list[Path]:
    return sorted(jar for jar in (home / "jars").glob(f"{artifact}*.jar") if _artifact(jar.name) == artifact)


def _install(home: Path, coordinate: str, ivy_settings: str | None, required: bool, without: str | None = None) -> bool:
    """Let Spark's Ivy resolve an artifact, or several, and copy what this pyspark has not yet into its jars folder."""
    from lakescore import java

    java.require()
    with tempfile.TemporaryDirectory(prefix="lakescore-ivy-") as folder:
        nothing = Path(folder, "nothing.py")
        nothing.write_text("", encoding="utf-8")
        environment = {**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable, "SPARK_CONF_DIR": folder}
        # An Ivy folder of its own for the result; downloads are shared through the user's Maven repository when there is one.
        command = [str(home / "bin" / "spark-submit"), "--master", "local[1]", "--packages", coordinate]
        command += ["--conf", f"spark.jars.ivy={folder}/ivy"]
        if without is not None:
            command += ["--exclude-packages", without]
        if ivy_settings is not None:
            command += ["--conf", f"spark.jars.ivySettings={os.path.abspath(ivy_settings)}"]
        command += [str(nothing)]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            if not required:
                return False
            reason = re.search(r"unresolved dependency: [^\]]*|Server access error[^\n]*|Exception[^\n]*", answer.stderr)
            raise PlatformError(
                f"{coordinate} could not be resolved from Maven: {reason.group(0) if reason else answer.stderr[-200:]}; behind "
                "a mirror: lakescore setup-spark --ivy-settings FILE"
            )
        _copy(list(Path(folder, "ivy", "jars").glob("*.jar")), home / "jars")
    return True


def _copy(resolved: Sequence[Path], jars: Path) -> None:
    """Put Ivy's jars (``GROUP_ARTIFACT-VERSION.jar``) among Spark's: what Spark brings stays, what an older set-up put there goes."""
    for jar in resolved:
        group, name = jar.name.split("_", 1)
        if group.startswith(_AWS_GROUP):
            name = jar.name  # the SDK's artifacts have names like `utils`, which others have too
        same = [old for old in jars.glob("*.jar") if _artifact(old.name) == _artifact(name)]
        if group == _DELTA_GROUP or group.startswith(_AWS_GROUP) or name.startswith(("spark-avro_", "hadoop-aws-")):
            for old in same:
                old.unlink()
        elif same:
            continue
        shutil.copyfile(jar, jars / name)


def _artifact(name: str) -> str:
    """A jar's name without versions: ``delta-spark_4.2_2.13-4.4.0.jar`` -> ``delta-spark``."""
    return re.sub(r"(?:_\d[\w.]*)*-\d[\w.+-]*\.jar$", "", name)


def _write(path: Path, text: str) -> None:
    """Write a configuration file, unless somebody else's is there."""
    if path.exists() and _MARK not in path.read_text(encoding="utf-8"):
        print(f"lakescore: {path} is not ours and stays as it is; it should hold:\n{text}", file=sys.stderr)
        return
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _wrap(home: Path) -> None:
    """Replace the environment's start scripts, which look for ``python3`` on the PATH and find another's pyspark."""
    folder = Path(sys.executable).parent
    if not (folder / "activate").exists():
        return  # not a virtual environment: those scripts belong to others
    for name in ("spark-submit", "pyspark"):
        script = folder / name
        script.unlink(missing_ok=True)
        script.write_text(_WRAPPER.format(home=home, python=sys.executable, name=name), encoding="utf-8")
        script.chmod(0o755)
