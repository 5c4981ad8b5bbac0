"""The rows of a drift table in, how drift went from batch to batch out: as a picture and as a page."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lakescore.drift.analysis import COUNTED_ROLES, STATUSES, Thresholds
from lakescore.drift.page import drift_extra, render
from lakescore.drift.table import last_runs
from lakescore.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_FEATURES = 40
# Values are written into the cells of so few batches.
_MOST_TOLD = 16
_MOST_TICKS = 24
_INK, _SOFT, _LINE, _BLUE = "#17202b", "#586474", "#d3d8de", "#1f6feb"
_POSSIBLE, _DETECTED, _MISSING = "#b97a00", "#c0362c", "#e9ecef"
# From 0 to possible, from there to detected, and from there to 1: each range has its own colour, and gets darker within.
_RANGES = (("#f2f7f4", "#a8d5ba"), ("#fde9b0", "#eeb13c"), ("#ee9a8f", "#a51f16"))


def plot(rows: pd.DataFrame, title: str, thresholds: Thresholds | None = None) -> tuple[bytes, str]:
    """Drift over time: of each batch, from the reference and from the batch before; and of each feature.

    Args:
        rows: of a drift table, one per batch and feature: ``scored_at`` (timestamp), ``batch_id``, ``score_date``, ``feature`` ('' for the
            batch as a whole), ``role``, ``drift`` (in [0, 1], NaN where not analysed), ``status`` and ``previous_drift`` (from the batch
            before, NaN for the first). Of a batch that was scored again, the latest rows count. In any order.
        title: of picture and page.
        thresholds: where the lines are; None: the default ones.

    Returns:
        A PNG image, and an HTML page that has it and a table of the batches.

    Raises:
        InputError: there are no rows.
        PlatformError: matplotlib or Jinja2 is missing.
    """
    if rows.empty:
        raise InputError(f"{title}: the drift table has no rows to plot")
    thresholds = thresholds or Thresholds()
    rows = last_runs(rows).astype({"drift": float, "previous_drift": float})
    batches = _batches(rows)
    features = _features(rows, batches.index)
    png = _picture(batches, features, title, thresholds)
    page = render(
        "history.html.jinja",
        title=title,
        picture="data:image/png;base64," + base64.b64encode(png).decode("ascii"),
        batches=_told(batches),
        shown=min(len(features), MOST_FEATURES),
        features=len(features),
        thresholds=thresholds,
    )
    return png, page


def _batches(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per batch, by batch_id, in order of date and time, with the column that drifted most and its drift."""
    order = rows["batch_id"].drop_duplicates()
    first = rows.drop_duplicates("batch_id").set_index("batch_id")[["scored_at", "score_date"]]
    whole = rows[rows["feature"] == ""].set_index("batch_id")[["drift", "status", "previous_drift"]]
    counted = rows[(rows["feature"] != "") & rows["role"].isin(COUNTED_ROLES) & rows["drift"].notna()]
    worst = counted.loc[counted.groupby("batch_id")["drift"].idxmax()].set_index("batch_id")[["feature", "drift"]]
    worst = worst.rename(columns={"feature": "worst", "drift": "worst_drift"})
    batches: pd.DataFrame = first.join(whole).join(worst).reindex(order)
    return batches


def _features(rows: pd.DataFrame, order: pd.Index) -> pd.DataFrame:
    """Drift by feature and batch, the feature with the highest drift first."""
    found = rows[rows["feature"] != ""].pivot(index="feature", columns="batch_id", values="drift").reindex(columns=order)
    rank = pd.DataFrame({"most": found.max(axis=1), "mean": found.mean(axis=1)})
    ordered: pd.DataFrame = found.reindex(rank.sort_values(["most", "mean"], ascending=False, kind="stable").index)
    return ordered


def _told(batches: pd.DataFrame) -> list[dict[str, Any]]:
    """The batches as the page's table has them, the latest first; None for what is missing."""
    table = batches.reset_index().iloc[::-1].astype(object)
    return [
        {**row, "time": time, "rank": STATUSES.index(row["status"]) if row["status"] in STATUSES else ""}
        for time, row in zip(range(len(table), 0, -1), table.where(table.notna(), None).to_dict("records"), strict=True)
    ]


def _picture(batches: pd.DataFrame, features: pd.DataFrame, title: str, thresholds: Thresholds) -> bytes:
    with drift_extra():
        from matplotlib.figure import Figure
    features = features.iloc[:MOST_FEATURES]
    names = [_short(name, 34) for name in features.index]
    # All in inches, because the picture grows with what it shows.
    left, right, top, bottom, gap = 0.5 + 0.078 * max(map(len, names), default=4), 1.25, 0.95, 1.0, 0.5
    width, lines, cells = min(max(6.0, 0.3 * len(batches)), 16.0), 2.2, 0.25 * len(features)
    total_width, total_height = left + width + right, top + lines + gap + cells + bottom
    figure = Figure(figsize=(total_width, total_height), dpi=110, facecolor="white")

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / total_width, y / total_height, w / total_width, h / total_height))

    above = place(left, bottom + cells + gap, width, lines)
    figure.text(
        0.25 / total_width, 1 - 0.3 / total_height, _short(title, 90), size=14, weight="bold", color=_INK, va="center", parse_math=False
    )
    _draw_batches(above, batches, thresholds)
    last = above
    if len(features):
        last = place(left, bottom, width, cells)
        _draw_features(last, features, names, thresholds)
        _draw_scale(place(left + width + 0.25, bottom, 0.16, cells), thresholds)
        above.set_xticks([])
    _label_batches(last, batches)
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may have letters that the font has not; the page has them
        figure.savefig(png, format="png")
    return png.getvalue()


def _draw_batches(axes: Axes, batches: pd.DataFrame, thresholds: Thresholds) -> None:
    x = np.arange(len(batches))
    for value, name, color in ((thresholds.possible, "possible", _POSSIBLE), (thresholds.detected, "detected", _DETECTED)):
        axes.axhline(value, color=color, linewidth=1)
        axes.text(1.01, value, f"{name} {value:g}", color=color, size=9, va="center", transform=axes.get_yaxis_transform())
    # A batch between two that are not analysed is a point without a line.
    axes.plot(
        x,
        batches["previous_drift"],
        color=_SOFT,
        linestyle="--",
        linewidth=1.3,
        marker="o",
        markersize=3,
        label="from the batch before",
    )
    axes.plot(x, batches["drift"], color=_BLUE, linewidth=1.8, marker="o", markersize=4.5, label="from the reference")
    axes.set(xlim=(-0.5, len(batches) - 0.5), ylim=(0, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_title("Drift of the batch", loc="left", size=11, color=_INK)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9, reverse=True, borderaxespad=0.2)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _draw_features(axes: Axes, features: pd.DataFrame, names: list[str], thresholds: Thresholds) -> None:
    values = features.to_numpy(dtype=float)
    axes.patch.set(facecolor="white", hatch="//////", edgecolor="#c3cad2", linewidth=0)
    axes.imshow(_colors(values, thresholds), aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), names, size=9)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a column may be called $x$
    axes.set_title("Drift of its columns from the reference", loc="left", size=11, color=_INK)
    axes.set_xticks(np.arange(-0.5, values.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, values.shape[0]), minor=True)
    if values.shape[1] <= 120:
        axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if values.shape[1] <= _MOST_TOLD:
        dark = thresholds.detected + (1 - thresholds.detected) / 3
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                axes.text(column, row, f"{value:.2f}", size=8, ha="center", va="center", color="white" if value > dark else _INK)


def _draw_scale(axes: Axes, thresholds: Thresholds) -> None:
    axes.imshow(_colors(np.linspace(1, 0, 512)[:, None], thresholds), aspect="auto", extent=(0, 1, 0, 1))
    axes.yaxis.tick_right()
    axes.set_yticks(
        [0, thresholds.possible, thresholds.detected, 1], ["0", f"{thresholds.possible:g}", f"{thresholds.detected:g}", "1"], size=9
    )
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _colors(drift: npt.NDArray[np.float64], thresholds: Thresholds) -> npt.NDArray[np.float64]:
    """Red, green, blue and opacity; see-through where there is no drift. A colour map's steps would not lie on the thresholds."""
    from matplotlib.colors import to_rgb

    starts, ends = (np.array([to_rgb(colors[i]) for colors in _RANGES]) for i in (0, 1))
    limits = np.array([0.0, thresholds.possible, thresholds.detected, 1.0])
    known = np.nan_to_num(drift)
    which = np.digitize(known, limits[1:3])
    share = ((known - limits[which]) / (limits[which + 1] - limits[which]))[..., None]
    return np.concatenate([starts[which] * (1 - share) + ends[which] * share, ~np.isnan(drift)[..., None]], axis=-1)


def _label_batches(axes: Axes, batches: pd.DataFrame) -> None:
    dates = batches["score_date"].astype(str)
    if dates.duplicated().any():
        dates = dates + pd.to_datetime(batches["scored_at"]).dt.strftime(" %H:%M")
    ticks = np.unique(np.linspace(0, len(batches) - 1, min(len(batches), _MOST_TICKS)).round().astype(int))
    axes.set_xticks(ticks, dates.iloc[ticks], rotation=45, ha="right", rotation_mode="anchor", size=9)


def _short(name: str, most: int) -> str:
    text = " ".join(name.split())
    return text if len(text) <= most else text[: most - 1] + "…"
