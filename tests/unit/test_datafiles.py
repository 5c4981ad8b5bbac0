"""Files are of one schema when they store the same, whatever wrote them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakescore.datafiles import stored_type


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int16(), pa.string())),
        (pa.large_string(), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.large_list(pa.large_string()), pa.list_(pa.string())),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Vienna")),
    ],
)
def test_the_same_stored_values_are_the_same_type(one: pa.DataType, other: pa.DataType) -> None:
    assert stored_type(one) == stored_type(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int32(), pa.int64()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.float32()), pa.list_(pa.float64())),
        (pa.string(), pa.binary()),
    ],
)
def test_other_stored_values_are_another_type(one: pa.DataType, other: pa.DataType) -> None:
    assert stored_type(one) != stored_type(other)
