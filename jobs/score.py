"""Score a source with an MLflow model.

spark-submit jobs/score.py [--config FILE ...] [--dry-run] [--verbose] [section.key=value ...]
"""

import sys

try:
    from lakescore.cli import score_main
except ModuleNotFoundError as error:
    if error.name != "lakescore":
        raise
    sys.exit(f"lakescore is not installed for {sys.executable}: use .venv/bin/python or .venv/bin/spark-submit (make setup makes them)")

if __name__ == "__main__":
    sys.exit(score_main())
