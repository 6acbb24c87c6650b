"""Repeat the table of a run from its best checkpoint.

python tools/evaluate.py runs/demo
python tools/evaluate.py runs/refcoco_ign --split testA
"""

import argparse
import contextlib
import sys

from relgrounding._names import check_name
from relgrounding._printing import printable, show
from relgrounding.config import ConfigError
from relgrounding.data import DataError
from relgrounding.training import RunError, RunFolder, evaluate_run, hold_run, make_task


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run, such as runs/demo")
    parser.add_argument("--split", action="append", help="a split (may be given again); default: those of the run")
    parser.add_argument("--write", action="store_true", help="replace results.json and predictions.jsonl of the run")
    arguments = parser.parse_args(words)
    try:
        for split in arguments.split or ():
            check_name(split, "--split")
        folder = RunFolder(arguments.run)
        config = folder.read_config()
        words_of_run = folder.load("best.pt")["vocabulary"]
        with hold_run(folder) if arguments.write else contextlib.nullcontext():
            task = make_task(config, words_of_run)
            show(evaluate_run(task, folder, splits=arguments.split, write=arguments.write))
    except (ConfigError, DataError, RunError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
