"""What a run answers, as people read it."""

from __future__ import annotations

from IPython.lib.pretty import pretty

from lakescore.result import ScoreResult
from lakescore.verdict import Drift


def test_a_notebook_shows_a_result_as_its_summary() -> None:
    result = ScoreResult(
        "scored", "4f1c", "1", "night", "2026-01-31", "/data/out", "delta",
        model_uri="models:/churn/3", version=7, rows_read=1_005, rows_scored=1_000, rows_written=1_000, rows_quarantined=5,
        quarantine="/data/out_quarantine", counts={"null": 2, "nan": 0}, seconds={"score": 0.5, "publish": 0.25},
        drift=Drift("none", 0.1, "age", "0.100, none (worst: age 0.200, none)"),
    )  # fmt: skip

    assert pretty(result) == str(result)
    assert str(result).splitlines() == [
        "model:       models:/churn/3",
        "rows:        1,000 (predictions: 2 null)",
        "quarantined: 5 in /data/out_quarantine",
        "drift:       0.100, none (worst: age 0.200, none)",
        "seconds:     0.8 (2,000 rows/s while scoring)",
        "batch:       night, date 2026-01-31",
        "written to:  /data/out (version 7)",
        'read them:   spark.read.format("delta").load("/data/out").where("batch_id = \'night\'")',
        "run:         4f1c (mlflow ui, experiment 1)",
    ]
