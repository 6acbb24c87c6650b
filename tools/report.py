"""Make one HTML page about runs: results with floors, curves, failures, every query, configuration.

    python tools/report.py runs/refcoco_ign
    python tools/report.py runs/charades_vgn runs/charades_vgn_ccl --out compare.html

The page needs no network and nothing beside it. With several runs, the last one is compared with the first.
"""

import argparse
import sys
from pathlib import Path

from relgrounding._files import check_output, replacing
from relgrounding._printing import printable, show
from relgrounding.config import ConfigError
from relgrounding.runs import RunError, run_files
from relgrounding.viz import read_run, report_page


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the last run)")
    arguments = parser.parse_args(words)
    try:
        out = check_output(arguments.out or Path(arguments.runs[-1]) / "report.html", run_files(arguments.runs))
        page = report_page([read_run(path) for path in arguments.runs])
        with replacing(out) as beside:
            beside.write_text(page, encoding="utf-8")
    except (ConfigError, RunError, OSError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    show(f"written: {printable(out)} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
