"""The machine and the versions that a benchmark ran on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "lakescore", "pyspark", "mlflow", "pyarrow", "pandas", "numpy", "scikit-learn", "xgboost", "lightgbm", "torch", "pysail", "daft",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The processor, its cores that are free to use, the memory in GB (10^9 bytes), and the versions of what is installed."""
    return {
        "cpu": _first(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8")) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": _java(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def as_text(machine: dict[str, Any]) -> str:
    """The same in three lines."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}\n"
        f"Python {machine['python']}, Java {machine['java']}, {packages}\n"
        f"load before the first run: {machine['load_before']} (of {machine['cores']}; anything above 0.1 disturbs)"
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    try:
        answer = subprocess.run([f"{home}/bin/java" if home else "java", "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return _first(r'version "([^"]+)"', answer.stderr + answer.stdout)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None
