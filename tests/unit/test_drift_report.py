"""The page of a drift analysis: what it says, in which order, and that no column's name can break it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lakescore.drift.analysis import Analysis, Thresholds, analyse
from lakescore.drift.page import number
from lakescore.drift.report import html
from lakescore.drift.statistics import Categories, ColumnStatistics, Histogram, Statistics
from lakescore.errors import PlatformError

HOSTILE = "<script>alert(1)</script>\" onmouseover='alert(2)' {{ 7 * 7 }} $x_\\frac{"
RANDOM = np.random.default_rng(7)
TRAINING = RANDOM.normal(50, 10, 4000)


def numbers(values: np.ndarray, edges: np.ndarray, **changes: Any) -> ColumnStatistics:
    counts, _ = np.histogram(values, edges)
    histogram = Histogram(
        tuple(map(float, edges)), tuple(map(int, counts)), int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    )
    found: dict[str, Any] = {"role": "feature", "type": "double", "count": len(values), "nulls": 0, "histogram": histogram}
    return ColumnStatistics(**{**found, "mean": float(values.mean()), "std": float(values.std(ddof=1)), **changes})


def categories(counts: dict[Any, int], other: int = 0, **changes: Any) -> ColumnStatistics:
    total = sum(counts.values()) + other
    found = {"role": "feature", "type": "string", "count": total, "nulls": 0, **changes}
    return ColumnStatistics(**found, categories=Categories(tuple(counts), tuple(counts.values()), other))


def shifted(by: float, **changes: Any) -> tuple[ColumnStatistics, ColumnStatistics]:
    """A batch that is so far away from its reference, and the reference."""
    edges = np.linspace(TRAINING.min(), TRAINING.max(), 21)
    return numbers(TRAINING[:500] + by, edges, **changes), numbers(TRAINING, edges, **changes)


def analysis(**columns: tuple[ColumnStatistics | None, ColumnStatistics | None]) -> Analysis:
    batch = {name: one for name, (one, _) in columns.items() if one is not None}
    reference = {name: one for name, (_, one) in columns.items() if one is not None}
    return analyse(Statistics(500, batch), Statistics(4000, reference), Thresholds())


@dataclass
class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, the texts, and the cells of the tables."""

    source: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    in_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(found: Analysis, **facts: str) -> Page:
    return Page(html(found, "Drift of flights", facts))


def test_the_top_says_drift_status_the_worst_column_and_the_facts() -> None:
    found = analysis(temp=shifted(40), wind=shifted(0), humid=shifted(0), visib=shifted(1), dewp=shifted(18), dest=(None, shifted(0)[1]))

    got = page(found, model="models:/flights/7", rows="5,000")

    assert found.drift is not None
    assert found.worst is not None
    assert f"{found.drift:.3f} none drift of the batch" in got.text
    assert f"Highest: temp , {found.worst.drift:.3f} detected" in got.text
    assert "1 detected 1 possible 3 none 1 not analysed" in got.text
    assert "model models:/flights/7 rows 5,000" in got.text


def test_the_rows_come_with_the_highest_drift_first_and_hold_every_measure() -> None:
    found = analysis(a=shifted(0), b=shifted(40), c=shifted(18, role="prediction"))

    got = page(found)

    assert [row[0] for row in got.rows] == ["Column", "b", "c", "a"]
    assert got.rows[0][5:] == ["TVD", "Hellinger", "KLD", "PSI", "JS", "KS", "Wasserstein", "Null or NaN", "Mean", "Std"]
    assert got.row("c")[1:3] == ["prediction", "possible"]
    assert got.row("c")[5:11] == [f"{value:.3f}" for value in list(found.columns[2].measures.values())[:-1]]
    assert got.row("c")[11] == f"{found.columns[2].measures['wasserstein']:.2f}"


def test_expected_and_actual_stand_beside_each_other() -> None:
    batch, reference = shifted(10)
    changed = ColumnStatistics(**{**vars(batch), "count": 500, "nulls": 500, "mean": 1234.5678, "std": 0.00001234})

    row = page(analysis(x=(changed, reference))).row("x")

    assert row[12:] == ["0% → 50.0%", f"{reference.mean:.2f} → 1,235", f"{reference.std:.3f} → 1.234e-05"]


def test_the_columns_that_sort_have_values_to_sort_by() -> None:
    got = page(analysis(a=shifted(3), b=(categories({"x": 1, "y": 0}), categories({"x": 2, "y": 5}))))

    start = next(i for i, (tag, _) in enumerate(got.elements) if tag == "tbody")
    heads = [one for tag, one in got.elements[:start] if "data-column" in one]
    cells = [one for tag, one in got.elements[start:] if tag in ("td", "th")]
    assert [head["aria-sort"] for head in heads] == ["none"] * 3 + ["descending"] + ["none"] * 10
    for line in (cells[:15], cells[15:30]):
        for head in heads:
            value = line[int(head["data-column"] or "")]["data-value"]
            assert value is not None
            assert "text" in (head.get("class") or "") or value == "" or np.isfinite(float(value))
    assert got.row("b")[11] == "–"
    assert cells[11 if got.rows[1][0] == "b" else 26]["data-value"] == "", "it stays below"


def test_what_is_not_analysed_is_listed_with_the_reason() -> None:
    batch, reference = shifted(0)
    constant = ColumnStatistics("feature", "int", 4000, 1000, not_analysed="it is constant (5)")

    got = page(analysis(x=(batch, reference), year=(batch, constant), gone=(None, reference)))

    assert got.rows[-2:] == [
        ["gone", "feature", "the batch has no such column", "0% → –"],
        ["year", "feature", "in the reference, it is constant (5)", "20.0% → 0%"],
    ]


def test_a_batch_that_is_not_analysed_says_why() -> None:
    batch, reference = shifted(0)

    got = page(analyse(Statistics(0, {"x": batch}), Statistics(4000, {"x": reference}), Thresholds()))

    assert "not analysed The batch is not analysed: the batch has no rows." in got.text
    assert len(got.all("table")) == 1
    assert got.all("img") == []


def test_an_analysis_without_columns_has_a_page() -> None:
    assert "no feature and no prediction could be compared" in page(analysis()).text


def test_a_hostile_name_is_a_name_and_nothing_else() -> None:
    batch, reference = shifted(40)
    words = {HOSTILE: 5, "b": 5}

    analysed, lost = (
        analysis(**{HOSTILE: (batch, reference), "words": (categories(words), categories(words))}),
        analysis(**{HOSTILE: (None, reference)}),
    )

    for found in (analysed, lost):
        got = Page(html(found, HOSTILE, {HOSTILE: HOSTILE}))
        assert len(got.all("script")) == 1
        assert not [name for _, attributes in got.elements for name in attributes if name.startswith("on")]
        assert got.row(HOSTILE)[0] == HOSTILE
        assert got.texts.count(HOSTILE) >= 4
    assert any(f"{HOSTILE}: 50.0% → 50.0%" in (figure["title"] or "") for figure in Page(html(analysed, "", {})).all("figure"))


def test_the_page_needs_no_network() -> None:
    source = html(analysis(a=shifted(3), b=shifted(9)), "Drift", {})

    got = Page(source)
    addresses = [
        value for _, attributes in got.elements for name, value in attributes.items() if name in ("src", "href", "action", "srcset")
    ]
    assert len(addresses) == 2
    assert all(value and value.startswith("data:image/svg+xml;base64,") for value in addresses)
    assert not re.search(r"@import|url\(|https?:|//\w+\.", re.sub(r'src="data:[^"]*"', "", source))


def bars(got: Page) -> list[list[tuple[str, int]]]:
    """The colours with their number of bars, of each picture."""
    found = []
    for image in got.all("img"):
        svg = ElementTree.fromstring(base64.b64decode((image["src"] or "").split(",")[1]))
        paths = [(one.get("style") or "", one.get("d") or "") for one in svg.iter("{http://www.w3.org/2000/svg}path")]
        found.append([(style.removeprefix("fill: "), d.count("M")) for style, d in paths if style.startswith("fill: #")])
    return found


def test_each_row_has_its_own_picture_with_a_bar_for_each_bin_that_is_not_empty() -> None:
    edges = np.linspace(0, 20, 21)
    low, high = numbers(np.array([0.5, 1.5, 1.5]), edges), numbers(np.array([-1.0, 0.5, 1.5, 2.5, 99.0]), edges)
    words = categories({"a": 1, "b": 0}, other=3), categories({"a": 2, "b": 1})

    got = page(analysis(number=(high, low), word=words))

    order = [row[0] for row in got.rows[1:]]
    assert dict(zip(order, bars(got), strict=True)) == {
        "number": [("#9aa4b1", 2), ("#2f7df6", 5)],
        "word": [("#9aa4b1", 2), ("#2f7df6", 2)],
    }
    assert "below 0: 0.0% → 20.0%; 0 to 1: 33.3% → 20.0%" in (got.all("img")[order.index("number")]["alt"] or "")
    assert (got.all("img")[order.index("word")]["alt"] or "").endswith("a: 66.7% → 25.0%; b: 33.3% → 0.0%; other: 0.0% → 75.0%")


def test_the_rare_of_many_categories_are_shown_as_one() -> None:
    reference = categories({f"c{i:02}": 200 - i for i in range(100)}, other=50)
    batch = categories({f"c{i:02}": 1000 if i == 99 else 0 for i in range(100)})

    got = page(analysis(word=(batch, reference)))

    names = [line.split(":")[0] for line in (got.all("figure")[0]["title"] or "").split("\n")[1:]]
    assert names == [*(f"c{i:02}" for i in range(19)), "c99", "other"]
    assert bars(got) == [[("#9aa4b1", 21), ("#2f7df6", 1)]]


def test_booleans_dates_and_timestamps_are_readable() -> None:
    days = np.arange(15706.0, 16071.0)
    seconds = np.arange(1356998400.0, 1356998400.0 + 86400 * 40, 3600)
    columns = {"date": (days, "date"), "timestamp": (seconds, "timestamp"), "timestamp_ntz": (seconds, "timestamp_ntz")}
    found = {name: numbers(x, np.linspace(x[0], x[-1], 21), type=type_) for name, (x, type_) in columns.items()}
    flag = categories({False: 5, True: 5}, type="boolean")

    got = page(analysis(**{name: (one, one) for name, one in found.items()}, flag=(flag, flag)))

    assert got.row("date")[13:] == ["2013-07-02", "105.5 d"]
    assert got.row("timestamp")[13:] == got.row("timestamp_ntz")[13:] == ["2013-01-20 23:30", "11.55 d"]
    assert got.row("date")[4] == "2013-01-01 2013-12-31"
    assert got.row("flag")[4] == "false true"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-20.0, "-20"),
        (0.5, "0.5000"),
        (0.0123456, "0.01235"),
        (-68.3, "-68.30"),
        (12345.6, "12,346"),
        (1e-9, "1.000e-09"),
        (-4e12, "-4.000e+12"),
    ],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("module", "package"), [("matplotlib.figure", "matplotlib"), ("jinja2", "jinja2")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(PlatformError, match=rf"^the drift report needs the package {package}: pip install 'lakescore\[drift\]'$"):
        html(analysis(x=shifted(0)), "Drift", {})


def test_what_draws_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, lakescore.drift.report, lakescore.drift.history; print({'matplotlib', 'jinja2', 'pyspark'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
