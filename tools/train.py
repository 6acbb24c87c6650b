"""Train a model, choose its best epoch on held-out training items, and print the table of the test splits.

    python tools/train.py                                        the embedded default: generated scenes, no download
    python tools/train.py --config configs/charades_vgn.yaml     a data set
    python tools/train.py --config configs/flickr30k_ign.yaml train.epochs=3 name=short

    python tools/train.py ccl.epochs=2                           stage 2, counterfactual contrastive learning, after MIL
    python tools/train.py ccl.epochs=2 ccl.start_from=runs/demo name=demo_ccl      the same, from a trained run

Everything of a run is kept in runs/NAME/. Ctrl-C, and SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, keep the state of the last
step; --resume goes on from there. docs/using.md says what may be changed then.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from relgrounding._printing import printable, show
from relgrounding._signals import caught, ended, held, run_command
from relgrounding.config import ConfigError, config_to_yaml, load_config
from relgrounding.io import DataError
from relgrounding.runs import RunError, RunFolder, hold_run
from relgrounding.training import Trainer, evaluate_run, make_task, nothing_left, words_of_start

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"


@caught("the same command with --resume goes on from the last checkpoint, if there is one")
def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, such as train.epochs=3")
    parser.add_argument("--config", default=DEMO, help="YAML file (default: the embedded scenes, configs/demo.yaml)")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run of this name")
    again.add_argument("--overwrite", action="store_true", help="replace the run of this name, once training can begin")
    parser.add_argument("--show", action="store_true", help="print every setting with its value, and stop")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    # Of a program that starts this one: when it ends, standard input does, and the run stops and keeps its state.
    parser.add_argument("--stop-with-stdin", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args(words)
    if arguments.stop_with_stdin:
        threading.Thread(target=stop_with_stdin, daemon=True).start()
    folder: RunFolder | None = None
    try:
        config = load_config(arguments.config, arguments.settings)
        if arguments.show:
            show(config_to_yaml(config), end="")
            return 0
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        folder = RunFolder(Path(arguments.runs) / config.name)
        if arguments.resume and (line := nothing_left(folder, config)):
            show(line)
            return 0
        with hold_run(folder, arguments.overwrite) as settle:
            task = make_task(config, words_of_start(config, folder, arguments.resume))
            trainer = Trainer(task, folder, resume=arguments.resume)
            settle()
            trainer.run()
            with held(folder.progress):
                show(evaluate_run(trainer.task, folder))
    except (ConfigError, DataError, RunError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    except OSError as error:
        show(f"error: {printable(error)}; {_left(folder)}", sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return ended(stop, _left(folder))
    return 0


def stop_with_stdin() -> None:
    """Interrupt this process, as Ctrl-C does, when standard input ends."""
    while os.read(0, 4096):
        pass
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in the background of a shell without job control
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)


def _left(folder: RunFolder | None) -> str:
    """What there is to go on from, as the end of a sentence."""
    return folder.progress() if folder and folder.started else "there is no checkpoint: the same command starts it"


if __name__ == "__main__":
    run_command(main)
