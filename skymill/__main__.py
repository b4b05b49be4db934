"""``python -m skymill`` is the same as ``skymill``."""

import sys

from skymill.cli import main

if __name__ == "__main__":
    sys.exit(main())
