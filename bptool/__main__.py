"""``python -m bptool``: the same as the ``bptool`` command."""

from __future__ import annotations

import sys

from bptool.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
