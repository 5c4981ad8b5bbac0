PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint conf/constraints.txt
SUBMIT := $(BIN)/spark-submit jobs/score.py
# MLflow reports its use to its makers unless told not to; nothing here speaks to the outside.
export MLFLOW_DISABLE_TELEMETRY := true
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench chaos check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.demo-ready ## make .venv with Spark, Delta, MLflow and scikit-learn

demo: setup ## train and register a model on real flights, score two batches with spark-submit, show the result
	$(BIN)/python jobs/demo.py train
	$(BIN)/lakescore stats data/flights/training.parquet --model models:/flight_delay@champion --label arr_delay
	$(SUBMIT) run.batch_id=flights-2013-11 run.on_rerun=replace run.date=2013-11-30
	$(SUBMIT) run.batch_id=flights-2013-12 run.on_rerun=replace run.date=2013-12-31 source.path=data/flights/2013-12
	$(BIN)/python jobs/demo.py show

test: $(VENV)/.dev-ready ## set everything up and run the tests (ARGS="-k delta" for some)
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.dev-ready ## measure against a plain script and the machine's limit (ARGS="--rows 10000 --models linear" for less)
	$(BIN)/python tests/benchmarks $(ARGS)

chaos: $(VENV)/.dev-ready ## run the long tests, and inject 200 faults into running jobs (ARGS="--faults 20 --seed 3": only those faults)
	$(if $(ARGS),,$(BIN)/python -m pytest -m long)
	$(BIN)/python tests/chaos $(ARGS)

check: $(VENV)/.dev-ready ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --config-file setup.cfg lib
	$(BIN)/lint-imports --config setup.cfg

format: $(VENV)/.dev-ready ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, the demo's data and predictions, and caches; runs and models in mlflow.db stay
	rm -rf $(VENV) data/flights data/predictions data/predictions_drift .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.10 to 3.12 is needed, and $(PYTHON) is $$($(PYTHON) -V): make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@[ -n "$$JAVA_HOME" ] || command -v java >/dev/null \
	  || { echo "Java 17 or 21 is missing: apt-get install openjdk-17-jre-headless, or set JAVA_HOME" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint conf/constraints.txt uv
	@touch $@

$(VENV)/.demo-ready: $(VENV)/.made setup.cfg conf/constraints.txt
	$(INSTALL) --editable '.[spark,mlflow,sklearn,drift,serve,demo]'
	$(BIN)/lakescore setup-spark
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.made setup.cfg conf/constraints.txt
	$(INSTALL) --editable '.[all,dev]'
	$(BIN)/lakescore setup-spark --s3
	@touch $@ $(VENV)/.demo-ready
