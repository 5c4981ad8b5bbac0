#!/usr/bin/env bash
# Make what the jobs of this folder run on, and put it into S3: the Python environment with Lakescore in it, the job and its configuration.
#
#   conf/deploy/emr/pack.sh s3://BUCKET/lakescore [PACKAGE ...]      # packages: what the models need, scikit-learn==1.9.1 for example
#   conf/deploy/emr/pack.sh build/emr [PACKAGE ...]                  # into a folder, without AWS
#
# The release is to be emr-spark-8.0.0 or a later one (Spark 4, Delta 4); EMR 7 has Spark 3.5, which is too old.
# The archive has the libraries, and a link to the Python of the machine that made it: make it where the system is the cluster's (Amazon
# Linux 2023; a container does), with a Python that the release has at the same place (PYTHON=/usr/bin/python3.11). pyspark and Delta are
# not in it: the cluster has its own. venv-pack makes the same archive; conda-pack, of a conda environment, one that brings its Python along.
#
# Then, with the bucket, the application, the role, the MLflow server and the model in the two files changed to yours:
#   aws emr add-steps --cluster-id j-XXXXXXXXXXXXX --steps file://conf/deploy/emr/step.json
#   aws emr-serverless start-job-run --cli-input-json file://conf/deploy/emr/serverless.json
# Both score one day. For every night, let a scheduler write the date (conf/deploy/airflow): whoever repeats a date scores nothing twice.
# The role needs to read and write the bucket's prefixes of source and output, to list them, and to delete below the output.
# emr-serverless: the application's subnets must reach the MLflow server.
set -euo pipefail
cd "$(dirname "$0")/../../.."
target=${1:?"where to: s3://BUCKET/PREFIX, or a folder"}
shift
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

"${PYTHON:-python3}" -m venv "$build/environment"
"$build/environment/bin/python" -m pip install --quiet --constraint conf/constraints.txt '.[drift,s3]' "$@"
tar -czf "$build/environment.tar.gz" -C "$build/environment" .

case $target in
  s3://*) copy=(aws s3 cp --only-show-errors) ;;
  *) mkdir -p "$target" && copy=(cp) ;;
esac
for file in "$build/environment.tar.gz" jobs/score.py conf/emr.yaml; do
  "${copy[@]}" "$file" "${target%/}/${file##*/}"
done
echo "in $target: environment.tar.gz, score.py, emr.yaml"
