"""Score one day every night with Airflow 3: put this file into the folder of the DAGs.

Airflow's workers need ``apache-airflow-providers-apache-spark`` 6.3 or later, a ``spark-submit`` on their PATH that reads ``s3://``, the
Airflow connection ``spark_default`` (host ``yarn``, ``spark://HOST`` or ``k8s://...``), and on YARN HADOOP_CONF_DIR. What
``conf/deploy/emr/pack.sh`` makes is in BUCKET; on a cluster without S3 give other paths. ``airflow dags test lakescore 2026-01-31`` runs
one day here and now.

Each day is one batch, named by its date. So a retry, a task that is cleared and run again, and a backfill
(``airflow backfill create --dag-id lakescore --from-date 2026-01-01 --to-date 2026-02-01`` is January: the last date is a moment, its
midnight) score what is missing and nothing twice: a batch that is there is skipped, with exit code 0. To make days anew, add
``--reprocess-behavior completed --dag-run-conf '{"on_rerun": "replace"}'`` to a backfill of them.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param

BUCKET = "s3://BUCKET/lakescore"
SOURCE = "s3://BUCKET/customers"
OUTPUT = "s3://BUCKET/predictions"
MODEL = "models:/churn@champion"
MLFLOW = "https://mlflow.example.com"

# YARN in cluster mode. The driver's variables: elsewhere they are those of ``env_vars``.
ENVIRONMENT = {
    "PYSPARK_PYTHON": "./environment/bin/python",
    "LAKESCORE_SOURCE": SOURCE + "/{{ ds }}",
    "LAKESCORE_OUTPUT": OUTPUT,
    "MLFLOW_TRACKING_URI": MLFLOW,
}

with DAG(
    dag_id="lakescore",
    description="Score the day's customers with the champion",
    schedule="0 3 * * *",
    # `ds` is the date of the schedule's time in UTC: 3:00 in Vienna is the same day there.
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Vienna"),
    catchup=False,
    # Any number of batches may be appended at once; one at a time is easier to watch.
    max_active_runs=1,
    params={"on_rerun": Param("skip", enum=["skip", "replace", "fail"])},
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(hours=4),
    },
    tags=["lakescore"],
) as dag:
    SparkSubmitOperator(
        task_id="score",
        conn_id="spark_default",
        name="lakescore-{{ ds }}",
        application=f"{BUCKET}/score.py",
        application_args=[
            "--config",
            "emr.yaml",
            f"model.uri={MODEL}",
            "run.batch_id={{ ds }}",
            "run.date={{ ds }}",
            "run.on_rerun={{ params.on_rerun }}",
        ],
        archives=f"{BUCKET}/environment.tar.gz#environment",
        files=f"{BUCKET}/emr.yaml",
        deploy_mode="cluster",
        conf={
            "spark.executorEnv.PYSPARK_PYTHON": "./environment/bin/python",
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            **{f"spark.yarn.appMasterEnv.{name}": value for name, value in ENVIRONMENT.items()},
        },
        # On EMR's nodes, not on Airflow's worker.
        jars=",".join(f"local:///usr/share/aws/delta/lib/delta-{name}.jar" for name in ("spark", "storage")),
        # A worker that dies forgets the job; its retry is the same batch. To find the job again instead: yarn_track_via_rm_api=True, and
        # yarn_resourcemanager_webapp_address in the connection's extra.
        durable=False,
    )
