"""`relgrounding prepare` in a clone: `python tools/prepare.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relgrounding import _signals
from relgrounding.cli import tool

main = tool("prepare")

if __name__ == "__main__":
    _signals.run_command(main)
