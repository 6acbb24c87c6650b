"""Make one HTML page about runs: results with floors, curves, failures, every query, configuration.

    relgrounding report runs/refcoco_ign
    relgrounding report runs/charades_vgn runs/charades_vgn_ccl --out compare.html

The page needs no network and nothing beside it. With several runs, the last one is compared with the first.
"""

import argparse

from relgrounding._files import check_output, replacing
from relgrounding._printing import printable, show
from relgrounding.cli import local

HEAD = b"<!doctype html>"
"""First bytes of every page, and of a file that may be replaced by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("runs", nargs="+", type=local, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--out", type=local, help="the page (default: report.html in the last run)")


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from relgrounding.runs import run_files
    from relgrounding.viz import read_run, report_page

    out = check_output(arguments.out or arguments.runs[-1] / "report.html", run_files(arguments.runs), HEAD)
    page = report_page([read_run(path) for path in arguments.runs])
    with replacing(out) as beside:
        beside.write_text(page, encoding="utf-8")
    show(f"written: {printable(out)} ({out.stat().st_size / 1e3:,.0f} kB)")
