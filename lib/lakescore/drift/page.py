"""A template and its values in, one HTML page out that needs no network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lakescore.errors import PlatformError


@contextmanager
def drift_extra() -> Iterator[None]:
    """Around the imports of what only pages and plots need; they are slow, and a cluster may not have them.

    Raises:
        PlatformError: one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise PlatformError(f"the drift report needs the package {package}: pip install 'lakescore[drift]'") from None


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package; every value is escaped, whatever a column is called.

    Args:
        template: file name.
        values: what it names.
    """
    with drift_extra():
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("lakescore.drift", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def number(value: float | None) -> str:
    """Four significant digits for a reader, all of a whole number; a dash for None."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e9:
        return f"{value:,.0f}"
    if not 1e-3 <= abs(value) < 1e9:
        return f"{value:.3e}"
    return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
