"""The script that one would write with Spark and MLflow alone.

python plain_spark.py MODEL SOURCE OUTPUT DATE
"""

import sys

import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import lit

model, source, output, date = sys.argv[1:]

spark = SparkSession.builder.master("local[*]").appName("plain").getOrCreate()
predict = mlflow.pyfunc.spark_udf(spark, model, result_type="double")
(
    spark.read.parquet(source)
    .withColumn("prediction", predict())
    .withColumn("score_date", lit(date))
    .write.mode("append")
    .partitionBy("score_date")
    .parquet(output)
)
spark.stop()
