"""The environment of the commands that tests start."""

from __future__ import annotations

import os


def without(*prefixes: str) -> dict[str, str]:
    """This process's variables but those that begin so, as on a machine where nobody has set them; Java starts quickly all the same."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes) or name == "SPARK_SUBMIT_OPTS"}
