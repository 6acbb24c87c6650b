"""Repeat the table of a run from its best checkpoint, or evaluate it on other data.

    relgrounding evaluate runs/demo
    relgrounding evaluate runs/refcoco_ign --split testA
    relgrounding evaluate runs/charades_vgn --data root=/data --data features=features/test.h5
    relgrounding evaluate runs/charades_vgn --data dataset=activitynet_captions --data features=F.h5 --split val_1
    relgrounding evaluate runs/refcoco_ign --data dataset=refcoco+ --data features=F.h5 --out runs/refcoco_ign_on_plus

Words, word vectors and weights are in the run: of the data, only the annotations and features of the test splits are
needed. Other data needs features of the extractor that the run was trained on. A folder of --out is compared, drawn and
reported like a run: relgrounding compare, figures, report.
"""

import argparse

from relgrounding._names import check_name
from relgrounding._printing import show
from relgrounding._settings import ConfigError
from relgrounding.cli import local

LEFT = "the run is as it was"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("run", type=local, help="folder of the run, such as runs/demo")
    parser.add_argument("--split", action="append", help="a split (may be given again); default: those of the run")
    parser.add_argument("--write", action="store_true", help="replace results.json and predictions.jsonl of the run")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="with --write or --out: add to predictions.jsonl what each answer's score is made of",
    )
    parser.add_argument("--out", type=local, help="new folder for the results, readable like a run")
    parser.add_argument(
        "--data",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="a setting of the section data to evaluate with, such as root=/data (may be given again)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate."""
    for split in arguments.split or ():
        check_name(split, "--split")
    if arguments.data and arguments.write:
        raise ConfigError("--write is for the data of the run, whose results it replaces; with --data, give --out")
    if arguments.out and arguments.write:
        raise ConfigError("--write puts the results into the run, --out into another folder; give one of them")
    if arguments.explain and not (arguments.write or arguments.out):
        raise ConfigError("--explain adds to predictions.jsonl, which is written with --write or --out only")
    from relgrounding.runs import RunFolder
    from relgrounding.training import evaluate

    found = evaluate(
        arguments.run,
        arguments.split,
        arguments.data,
        arguments.write,
        explain=arguments.explain,
        out=arguments.out,
    )
    if arguments.data:
        own = RunFolder(arguments.run).read_config()
        show(f"{own.name}, trained on {own.data.dataset}, read with {', '.join(arguments.data)}:\n")
    show(found.table)
