"""python -m vivavoce.cli"""

from __future__ import annotations

import sys

from vivavoce.cli import main

if __name__ == "__main__":
    sys.exit(main())
