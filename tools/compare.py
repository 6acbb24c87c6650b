"""`relgrounding compare` in a clone: `python tools/compare.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relgrounding import _signals
from relgrounding.cli import tool

main = tool("compare")

if __name__ == "__main__":
    _signals.run_command(main)
