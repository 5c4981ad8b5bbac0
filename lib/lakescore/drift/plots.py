"""The histograms of a batch and of its reference over each other, as small pictures without text for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lakescore.drift.page import drift_extra

if TYPE_CHECKING:
    from matplotlib.path import Path

# Both are seen on white and on black; the page's key has them too.
REFERENCE_COLOR, BATCH_COLOR = "#9aa4b1", "#2f7df6"
# In bins: what keeps underflow and overflow apart from the bins between them.
_GAP = 0.6


class OverlaidHistograms:
    """Draws one picture after the other on one figure: making a figure costs more than drawing on it."""

    def __init__(self) -> None:
        with drift_extra():
            from matplotlib.figure import Figure
        self._figure = Figure(figsize=(2.4, 0.62))
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()

    def draw(self, batch: Sequence[float], reference: Sequence[float], has_outer_bins: bool) -> str:
        """The reference as wide pale bars, the batch as narrow ones before them.

        Args:
            batch, reference: shares of the same bins, in [0, 1].
            has_outer_bins: the first and the last are underflow and overflow.

        Returns:
            An SVG image, as a ``data:`` URL.
        """
        from matplotlib.patches import PathPatch

        left = np.arange(len(batch), dtype=float)
        if has_outer_bins:
            left[1:] += _GAP
            left[-1] += _GAP
        self._axes.set(xlim=(-0.1, left[-1] + 1.1), ylim=(0, max(*batch, *reference) * 1.04))
        bars = [
            PathPatch(_bars(left + 0.04, 0.92, reference), facecolor=REFERENCE_COLOR, linewidth=0),
            PathPatch(_bars(left + 0.27, 0.46, batch), facecolor=BATCH_COLOR, linewidth=0),
        ]
        for patch in bars:
            self._axes.add_patch(patch)
        svg = io.StringIO()
        self._figure.savefig(svg, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        for patch in bars:
            patch.remove()
        text = svg.getvalue()
        return "data:image/svg+xml;base64," + base64.b64encode(text[text.index("<svg") :].encode()).decode("ascii")


def _bars(left: npt.NDArray[np.float64], width: float, heights: Sequence[float]) -> Path:
    """All bars as one path: it is drawn many times faster than they are one by one."""
    from matplotlib.path import Path

    top = np.asarray(heights, float)
    right, bottom = left + width, np.zeros_like(left)
    corners = np.array([[left, bottom], [left, top], [right, top], [right, bottom]])
    return Path.make_compound_path_from_polys(corners.transpose(2, 0, 1)[top > 0])
