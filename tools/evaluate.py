"""Repeat the table of a run from its best checkpoint.

python tools/evaluate.py runs/demo
python tools/evaluate.py runs/refcoco_ign --split testA
"""

import argparse
import sys

from relgrounding._signals import caught, ended, run_command
from relgrounding.config import ConfigError
from relgrounding.data import DataError
from relgrounding.training import RunError, RunFolder, evaluate_run, make_task


@caught("the run is as it was")
def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run, such as runs/demo")
    parser.add_argument("--split", action="append", help="a split (may be given again); default: those of the run")
    parser.add_argument("--write", action="store_true", help="replace results.json and predictions.jsonl of the run")
    arguments = parser.parse_args(words)
    try:
        folder = RunFolder(arguments.run)
        config = folder.read_config()
        task = make_task(config, folder.load("best.pt")["vocabulary"])
        print(evaluate_run(task, folder, splits=arguments.split, write=arguments.write))
    except (ConfigError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; the run is as it was", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return ended(stop, "the run is as it was")
    return 0


if __name__ == "__main__":
    run_command(main)
