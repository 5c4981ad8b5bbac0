"""Drift over time: what is drawn, what the page's table says, and that nothing in a drift table can break them."""

from __future__ import annotations

import datetime as dt
import io
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from lakescore.drift.analysis import Thresholds
from lakescore.drift.history import plot
from lakescore.drift.table import over_time
from lakescore.errors import InputError

START = dt.datetime(2026, 1, 1, 2, 30)
HOSTILE = "<script>alert(1)</script> $\\frac{$ 日本語"


def rows(batch: int, columns: dict[str, float], drift: float = 0.1, status: str | None = "none", **changes: Any) -> pd.DataFrame:
    """What one run leaves in a drift table."""
    time = START + dt.timedelta(days=batch)
    one = {"scored_at": time, "batch_id": f"night-{batch:02}", "score_date": time.date(), "role": "feature", "status": "none"}
    whole = {**one, "feature": "", "role": "", "drift": drift, "status": status, "previous_drift": np.nan if batch == 0 else 0.2}
    found = [whole, *({**one, "feature": name, "drift": value, "previous_drift": np.nan} for name, value in columns.items())]
    return pd.DataFrame(found).assign(**changes)


def table(page: str) -> list[list[str]]:
    """The texts of the table's cells."""
    body = page[page.index("<tbody") : page.index("</tbody>")]
    lines = re.findall(r"<tr.*?</tr>", body, re.S)
    return [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in re.findall(r"<t[hd] .*?</t[hd]>", line, re.S)] for line in lines]


def test_the_table_has_the_latest_batch_first_with_its_status_and_its_worst_column() -> None:
    history = [
        rows(1, {"a": 0.25, "b": 0.75}, drift=0.5, status="possible"),
        rows(0, {"a": 0.5, "b": 0.125}, drift=0.3125),
        rows(2, {"a": np.nan, "b": np.nan}, drift=np.nan, status=None),
    ]

    png, page = plot(pd.concat(history), "Drift of flights")

    assert png.startswith(b"\x89PNG")
    assert table(page) == [
        ["night-02", "2026-01-03", "not analysed", "–", "0.200", "–", "–"],
        ["night-01", "2026-01-02", "possible", "0.500", "0.200", "b", "0.750"],
        ["night-00", "2026-01-01", "none", "0.312", "–", "a", "0.500"],
    ]
    assert re.findall(r'data-label="Date" data-value="(\d+)"', page) == ["3", "2", "1"]
    assert re.findall(r'data-label="Its drift" data-value="([^"]*)"', page) == ["", "0.75", "0.5"]


def test_the_latest_rows_count_of_a_batch_that_was_scored_again() -> None:
    first = rows(0, {"a": 0.9, "dropped": 0.95}, drift=0.9, status="detected")
    again = rows(0, {"a": 0.25}, scored_at=START + dt.timedelta(days=9))

    _, page = plot(pd.concat([again, again, rows(1, {"a": 0.5}), first]), "Drift")

    assert [(row[0], row[5], row[6]) for row in table(page)] == [("night-01", "a", "0.500"), ("night-00", "a", "0.250")]


def test_the_batch_before_is_that_of_the_day_before_whenever_it_was_scored() -> None:
    """Night 0 was scored again after night 2, when all of its rows fell into the second bin."""

    def stored(batch: int, counts: list[int], scored_on: int) -> dict[str, Any]:
        day, time = (START + dt.timedelta(days=batch)).date(), START + dt.timedelta(days=scored_on)
        one = {"scored_at": time, "batch_id": f"night-{batch}", "score_date": day, "role": "feature", "status": "none", "value": 0.1}
        return {**one, "feature": "a", "counts": counts, "bins": "same"}

    found = over_time(pd.DataFrame([stored(0, [8, 0], 0), stored(1, [8, 0], 1), stored(2, [8, 0], 2), stored(0, [0, 8], 9)]))

    previous = found.set_index("batch_id")["previous_drift"]
    assert np.isnan(previous["night-0"])
    assert (previous["night-1"], previous["night-2"]) == (1.0, 0.0)


def test_a_label_is_not_the_worst_of_a_batch() -> None:
    found = rows(0, {"a": 0.25, "b": 0.75})
    found.loc[found["feature"] == "b", "role"] = "label"

    assert table(plot(found, "Drift")[1])[0][5] == "a"


@pytest.mark.parametrize(
    ("drift", "color"), [(0.0, "#f2f7f4"), (0.4999, "#a8d5ba"), (0.5, "#fde9b0"), (0.6999, "#eeb13c"), (0.7, "#ee9a8f"), (1.0, "#a51f16")]
)
def test_a_cell_has_the_colour_of_its_range(drift: float, color: str) -> None:
    # The scale beside the cells has all colours; the cell has by far the most pixels.
    cells = imread(io.BytesIO(plot(rows(0, {"a": drift}), "Drift")[0]))[..., :3].reshape(-1, 3)
    found, count = np.unique(cells.round(4), axis=0, return_counts=True)

    most = [tuple(found[i]) for i in np.argsort(-count)[:3]]

    assert any(np.allclose(one, to_rgb(color), atol=0.012) for one in most), most


def test_the_thresholds_are_drawn_and_told() -> None:
    default, strict = plot(rows(0, {}), "Drift"), plot(rows(0, {}), "Drift", Thresholds(0.1, 0.3))

    assert default[0] != strict[0]
    assert "Possible from 0.1 on, detected from 0.3 on" in strict[1]


def pixels(png: bytes, color: str) -> int:
    return int(np.isclose(imread(io.BytesIO(png))[..., :3], to_rgb(color), atol=0.012).all(axis=-1).sum())


def test_a_cell_that_is_not_analysed_has_no_colour() -> None:
    zero, nothing = plot(rows(0, {"a": 0.0}), "Drift")[0], plot(rows(0, {"a": np.nan}), "Drift")[0]

    assert pixels(zero, "#f2f7f4") > 10_000 > 1_000 > pixels(nothing, "#f2f7f4")


def test_both_lines_are_drawn_where_there_are_values() -> None:
    one, two = plot(rows(0, {}), "Drift")[0], plot(pd.concat([rows(0, {}), rows(1, {})]), "Drift")[0]
    none = plot(rows(0, {}, drift=np.nan, status=None), "Drift")[0]

    # The key has the colours too, and so what counts is how many pixels have them.
    blue, soft = "#1f6feb", "#586474"
    assert pixels(none, blue) < pixels(one, blue) < pixels(two, blue)
    assert pixels(none, soft) == pixels(one, soft) < pixels(two, soft)


def test_the_forty_worst_of_many_columns_are_shown() -> None:
    many = {f"c{i:02}": i / 100 for i in range(60)}

    png, page = plot(pd.concat([rows(i, many) for i in range(3)]), "Drift")

    assert "The 40 of 60 columns with the highest drift are shown." in page
    assert png == plot(pd.concat([rows(i, {k: v for k, v in many.items() if k >= "c20"}) for i in range(3)]), "Drift")[0]


def test_hostile_names_are_names_in_picture_and_page() -> None:
    found = rows(0, {HOSTILE: 0.75, "$\\frac{$": 0.2, "": 0.1, " ": 0.3}, batch_id=HOSTILE)[
        lambda all_: (all_["feature"] != "") | (all_["role"] == "")
    ]

    _, page = plot(found, HOSTILE)

    assert page.count("<script>") == 1
    assert [row[0] for row in table(page)] == [HOSTILE]
    assert table(page)[0][5] == HOSTILE
    assert plot(rows(0, {"a\nb": 0.5}), "Drift")[0] == plot(rows(0, {"a b": 0.5}), "Drift")[0]


@pytest.mark.parametrize("batches", [1, 40, 400])
def test_any_number_of_batches_makes_a_picture_of_bearable_size(batches: int) -> None:
    png, page = plot(pd.concat([rows(i, {"a": i / batches, "b": np.nan}) for i in range(batches)]), "Drift")

    height, width, _ = imread(io.BytesIO(png)).shape
    assert width <= 2400
    assert height <= 700
    assert len(table(page)) == batches


def test_a_table_without_a_row_for_the_whole_batch_or_without_columns_has_a_page() -> None:
    columns = rows(0, {"a": 0.5})[lambda all_: all_["feature"] != ""]

    assert table(plot(columns, "Drift")[1]) == [["night-00", "2026-01-01", "not analysed", "–", "–", "a", "0.500"]]
    assert table(plot(rows(0, {}), "Drift")[1]) == [["night-00", "2026-01-01", "none", "0.100", "–", "–", "–"]]


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"^Drift of flights: the drift table has no rows to plot$"):
        plot(rows(0, {}).iloc[:0], "Drift of flights")
