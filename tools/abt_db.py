"""Lets the scripts of this folder run in a checkout, where nothing of it is installed.

``python tools/vacuum.py`` looks for `abt_db` beside the script first, and so finds this file. The
package takes its place, with `schema` and `tools`, which stand beside it in a checkout and inside
it where it is installed. Imported as a module of the installed package, this does nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "abt_db":
    tools = Path(__file__).parent
    checkout = str(tools.parent)
    sys.path[sys.path.index(str(tools))] = checkout
    del sys.modules["abt_db"]
    import abt_db

    abt_db.__path__.append(checkout)
