"""Register a model file, an MLflow folder or a run's artifact.

python jobs/register.py MODEL --name NAME [--alias ALIAS] [--tag KEY=VALUE] [--sample FILE] ...
"""

import sys

from lakescore.cli import register_main

if __name__ == "__main__":
    sys.exit(register_main())
