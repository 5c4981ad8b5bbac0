"""``python -m lakescore`` is ``lakescore``."""

import sys

from lakescore.cli import main

if __name__ == "__main__":
    sys.exit(main())
