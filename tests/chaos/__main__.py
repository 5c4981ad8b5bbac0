"""`python tests/chaos`: the folder itself is the command."""

from __future__ import annotations

import sys
from pathlib import Path

# The folder that holds the package, in place of the package's own.
sys.path[0] = str(Path(__file__).parents[1])

from chaos.main import main  # noqa: E402

if __name__ == "__main__":  # reader processes import this file again
    sys.exit(main())
