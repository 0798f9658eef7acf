"""`python -m abt_db.tools.bench`, and `python tools/bench` in a checkout: `abt-db bench`."""

import sys
from pathlib import Path

if not __package__:  # where the scripts of a checkout find the package, see `tools/abt_db.py`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from abt_db.tools.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
