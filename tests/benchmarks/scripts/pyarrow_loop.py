"""One process: pyarrow reads batches, the model as MLflow loads it predicts, pyarrow writes.

python pyarrow_loop.py MODEL SOURCE OUTPUT DATE
"""

import sys
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

model_path, source, output, date = sys.argv[1:]
BATCH_ROWS = 100_000

model = mlflow.pyfunc.load_model(model_path)
features = model.metadata.get_input_schema().input_names()
rows = ds.dataset(source)
folder = Path(output, f"score_date={date}")
folder.mkdir(parents=True, exist_ok=True)
with pq.ParquetWriter(folder / "part-0.parquet", rows.schema.append(pa.field("prediction", pa.float64()))) as writer:
    for batch in rows.to_batches(batch_size=BATCH_ROWS):
        prediction = np.asarray(model.predict(batch.select(features).to_pandas()), np.float64).ravel()
        writer.write_batch(batch.append_column("prediction", pa.array(prediction)))
