"""Repeat the table of a run from its best checkpoint, or read it on other data.

    python tools/evaluate.py runs/demo
    python tools/evaluate.py runs/refcoco_ign --split testA
    python tools/evaluate.py runs/charades_vgn --data root=/data --data features=features/test.h5
    python tools/evaluate.py runs/charades_vgn --data dataset=activitynet_captions --data features=F.h5 --split val_1

Words, word vectors and weights are in the run: of the data only what the test splits ask about has to be there. Other
data needs features of the extractor that the run was trained on.
"""

import argparse
import contextlib
import sys

from relgrounding._names import check_name
from relgrounding._printing import printable, show
from relgrounding._signals import caught, ended, run_command
from relgrounding.config import ConfigError
from relgrounding.io import DataError
from relgrounding.runs import RunError, RunFolder, hold_run
from relgrounding.training import evaluate_run, make_test_task, with_data


@caught("the run is as it was")
def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run, such as runs/demo")
    parser.add_argument("--split", action="append", help="a split (may be given again); default: those of the run")
    parser.add_argument("--write", action="store_true", help="replace results.json and predictions.jsonl of the run")
    parser.add_argument(
        "--data",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="a setting of the section data to read the table with, such as root=/data (may be given again)",
    )
    arguments = parser.parse_args(words)
    try:
        for split in arguments.split or ():
            check_name(split, "--split")
        folder = RunFolder(arguments.run)
        config = folder.read_config()
        if arguments.data and arguments.write:
            raise ConfigError("--write is for the data of the run, whose results it replaces; leave it out with --data")
        own, config = config, with_data(config, arguments.data)
        with hold_run(folder) if arguments.write else contextlib.nullcontext():
            task = make_test_task(config, folder)
            if arguments.data:
                show(f"{own.name}, trained on {own.data.dataset}, read with {', '.join(arguments.data)}:\n")
            show(evaluate_run(task, folder, splits=arguments.split, write=arguments.write))
    except (ConfigError, DataError, RunError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    except OSError as error:
        show(f"error: {printable(error)}; the run is as it was", sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return ended(stop, "the run is as it was")
    return 0


if __name__ == "__main__":
    run_command(main)
