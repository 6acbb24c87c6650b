"""Train a model, select its best epoch on held-out training items, and print the table of the test splits.

    relgrounding train                                 generated scenes, no download
    relgrounding train charades_vgn                    a data set; `relgrounding configs` lists the configurations
    relgrounding train flickr30k_ign train.epochs=3 name=short
    relgrounding train --config own.yaml               a configuration of your own

    relgrounding train ccl.epochs=2                    stage 2, counterfactual contrastive learning, after MIL
    relgrounding train ccl.epochs=2 ccl.start_from=runs/demo name=demo_ccl      the same, from a trained run

Everything of a run is kept in runs/NAME/. Ctrl-C, and SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2, keep the state of the last
step; --resume continues from there. docs/using.md says what may be changed then, `relgrounding settings` explains every
setting.
"""

import argparse
import os
import signal
import threading

from relgrounding._printing import show
from relgrounding._ranks import joined, on_main
from relgrounding._settings import ConfigError
from relgrounding.cli import at_least, local

LEFT = "the same command with --resume goes on from the last checkpoint, if there is one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("words", nargs="*", metavar="NAME or key=value", help="a configuration, and settings")
    parser.add_argument("--config", metavar="FILE", help="YAML file, or a name (default: demo)")
    parser.add_argument("--runs", type=local, default="runs", help="folder of the runs (default: %(default)s)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", nargs="?", default=False, const=True, choices=["auto"], metavar="auto",
        help="continue the run of this name; auto: or start it, if there is none",
    )  # fmt: skip
    start.add_argument("--overwrite", action="store_true", help="replace the run of this name, once training can begin")
    parser.add_argument("--show", action="store_true", help="print every setting with its value, and stop")
    parser.add_argument(
        "--threads", type=at_least(int, 1), help="of the CPU (default: $OMP_NUM_THREADS, or one per core)"
    )
    # Of a program that starts this one: when it ends, standard input does, and the run stops and keeps its state.
    parser.add_argument("--stop-with-stdin", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Train."""
    if arguments.stop_with_stdin:
        threading.Thread(target=stop_with_stdin, daemon=True).start()
    arguments.left = lambda: _left(None)
    from relgrounding.config import config_to_yaml, load_config

    if arguments.show:
        show(config_to_yaml(load_config(*named(arguments))), end="")
        return
    import torch

    from relgrounding.runs import RunFolder
    from relgrounding.training import config_for_all, nothing_left, resumes, train_run

    config = config_for_all(lambda: load_config(*named(arguments)))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = RunFolder(arguments.runs / config.name)
    arguments.left = lambda: _left(folder)
    with joined(config.device, config.train.timeout):
        resume = on_main(resumes, folder, arguments.resume)
        if resume and (line := on_main(nothing_left, folder, config)):
            show(line)
            return
        show(train_run(config, folder, resume, arguments.overwrite).table)


def named(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the configuration that is named, and the settings."""
    names = [word for word in arguments.words if "=" not in word]
    if arguments.config is not None:
        names.append(arguments.config)
    if len(names) > 1:
        raise ConfigError(f"{names[0]!r} and {names[1]!r}: give one configuration, and settings as key=value")
    return (names or ["demo"])[0], [word for word in arguments.words if "=" in word]


def stop_with_stdin() -> None:
    """Interrupt this process, as Ctrl-C does, when standard input ends."""
    while os.read(0, 4096):
        pass
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in the background of a shell without job control
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)


def _left(folder) -> str:
    """What there is to go on from, as the end of a sentence."""
    return folder.progress() if folder and folder.started else "there is no checkpoint: the same command starts it"
