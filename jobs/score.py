"""Score a source with an MLflow model.

spark-submit jobs/score.py [--config FILE ...] [--dry-run] [--verbose] [section.key=value ...]
"""

import sys

from lakescore.cli import score_main

if __name__ == "__main__":
    sys.exit(score_main())
