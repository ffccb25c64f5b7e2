"""``python -m agesdk`` is the ``agesdk`` command."""

import sys

from agesdk.cli import main

if __name__ == "__main__":
    sys.exit(main())
