"""`python -m abt_db.tools.bench`, the same as `abt-db bench`."""

import sys

from abt_db.tools.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
