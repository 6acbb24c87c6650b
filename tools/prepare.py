"""Make feature files: from the formats that people have, or from annotations where there are no visual features.

    python tools/prepare.py features i3d_features/ features/i3d.h5 --float16
    python tools/prepare.py features trainval_36.tsv features/regions.h5 --pca 256
    python tools/prepare.py verify configs/refcoco_ign.yaml
    python tools/prepare.py charades-actions features/charades_actions.h5 --clips 32 --noise 0.1 --seed 0
    python tools/prepare.py coco-categories features/refcoco_categories.h5 --name refcoco
    python tools/prepare.py annotated-boxes features/flickr30k_boxes.h5 --dataset flickr30k

What charades-actions and coco-categories make are NOT visual features: they come from annotations made by people, stand
in for perfect recognition, and results on them must never be compared with published ones. docs/data.md describes
formats and files.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relgrounding._files import HDF5, check_output
from relgrounding._printing import printable, show
from relgrounding._signals import caught, ended, run_command
from relgrounding.config import ConfigError, load_config
from relgrounding.datasets import DATASETS
from relgrounding.datasets._boxes import write_annotated_boxes
from relgrounding.datasets._dataset import NOT_VISUAL
from relgrounding.datasets._verify import format_rows, verify
from relgrounding.datasets.charades_sta import charades_actions
from relgrounding.datasets.refcoco import coco_categories
from relgrounding.features.convert import FORMATS, convert_features
from relgrounding.features.convert._pca import number_or_file
from relgrounding.io import DataError, MissingFile
from relgrounding.io._regular import MAX_BYTES


def find_root(given: Path | None, folder: str) -> Path:
    """Return the folder that was given, or else the one below RELGROUNDING_DATA."""
    if given is not None:
        return given
    if not os.environ.get("RELGROUNDING_DATA"):
        raise MissingFile(f"where are the annotations? give --root, or set RELGROUNDING_DATA to what holds {folder}")
    return Path(os.environ["RELGROUNDING_DATA"]) / folder


def charades(args: argparse.Namespace) -> int:
    check_output(args.out, head=HDF5)
    print(f"note: {NOT_VISUAL}", file=sys.stderr)
    show(charades_actions(args.out, find_root(args.root, "charades_sta"), args.clips, args.noise, args.seed))
    return 0


def coco(args: argparse.Namespace) -> int:
    check_output(args.out, head=HDF5)
    print(f"note: {NOT_VISUAL}", file=sys.stderr)
    show(coco_categories(args.out, find_root(args.root, "refcoco"), args.name))
    return 0


def boxes(args: argparse.Namespace) -> int:
    check_output(args.out, head=HDF5)
    kind = DATASETS.get(args.dataset)
    dataset = kind(kind.Config(dataset=args.dataset, root=str(args.root or "")))
    show(write_annotated_boxes(args.out, dataset, args.splits))
    return 0


def features(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    made = convert_features(
        args.source,
        args.out,
        args.format,
        pca=args.pca,
        float16=args.float16,
        box_format=args.box_format,
        sizes=args.sizes,
        on_error=args.on_error,
        follow_links=args.follow_links,
        max_bytes=args.max_bytes,
        quiet=not sys.stderr.isatty(),
    )
    kinds = ("videos", "clips") if made.layout == "clips" else ("images", "regions")
    size = args.out.stat().st_size / 1e6
    show(
        f"{printable(args.out)}: {made.items} {kinds[0]}, {made.rows} {kinds[1]} x {made.dim}, {size:.1f} MB, "
        f"{time.perf_counter() - start:.1f} s"
        + (f", {made.variance:.1%} of the variance" if args.pca else "")
        + (f", {made.resumed} of them from before an interruption" if made.resumed else "")
        + (f", {made.skipped} skipped" if made.skipped else "")
        + (
            f", {made.boxes_left_out} {'box' if made.boxes_left_out == 1 else 'boxes'} left out"
            * bool(made.boxes_left_out)
        )
        + (f", with {made.images_left_out} images of no other box" if made.images_left_out else "")
    )
    return 0


def check(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.settings)
    if args.no_features:
        config.data.features = ""
    rows = verify(config.dataset, config.modality, quiet=not sys.stderr.isatty())
    show(format_rows(rows))
    return int(any(row.status == "DIFFERS" for row in rows))


def at_least(kind: type, least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not least <= (value := kind(text)) < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is less than {least} or not finite")
        return value

    return number


def make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)

    actions = commands.add_parser(
        "charades-actions",
        help="clip features of Charades-STA from the action intervals",
        description=f"Share of each clip covered by each of the 157 actions, plus noise. {NOT_VISUAL.capitalize()}.",
    )
    actions.add_argument("--clips", type=at_least(int, 1), default=32, help="clips a video (default: 32)")
    actions.add_argument(
        "--noise", type=at_least(float, 0), default=0.1, help="standard deviation of the noise (default: 0.1)"
    )
    actions.add_argument("--seed", type=at_least(int, 0), default=0, help="of the noise (default: 0)")
    actions.set_defaults(run=charades)

    categories = commands.add_parser(
        "coco-categories",
        help="region features of the RefCOCO family from categories and boxes",
        description=f"One-hot category and five numbers of geometry of every object. {NOT_VISUAL.capitalize()}.",
    )
    categories.add_argument("--name", choices=["refcoco", "refcoco+", "refcocog"], default="refcoco")
    categories.set_defaults(run=coco)

    for command, folder in ((actions, "charades_sta"), (categories, "refcoco")):
        command.add_argument("out", metavar="OUT", type=Path, help="HDF5 file to make or to replace")
        command.add_argument(
            "--root",
            type=Path,
            help=f"folder {folder} of the annotations (default: $RELGROUNDING_DATA/{folder})",
        )
    annotated = commands.add_parser(
        "annotated-boxes",
        help="the boxes of the annotations, of which extract images --boxes makes features",
        description="All annotated boxes of the images that queries ask about: the candidates, without features.",
    )
    annotated.add_argument("out", metavar="OUT", type=Path, help="HDF5 file to make or to replace")
    annotated.add_argument("--dataset", required=True, metavar="NAME", help="flickr30k, refcoco, refcoco+ or refcocog")
    annotated.add_argument("--splits", nargs="+", default=(), help="to read (default: all)")
    annotated.add_argument("--root", type=Path, help="folder of the annotations (default: $RELGROUNDING_DATA)")
    annotated.set_defaults(run=boxes)
    add_features(commands.add_parser("features", help="feature files from any of the usual formats"))
    add_verify(commands.add_parser("verify", help="check annotations and features against what they should be"))
    return parser


def add_verify(command: argparse.ArgumentParser) -> None:
    command.description = "Print a table: expected, found, meaning. Status: 0 as it should be, 1 differences, 2 errors."
    command.add_argument("config", metavar="CONFIG", type=Path, help="YAML file, such as configs/refcoco_ign.yaml")
    command.add_argument("settings", nargs="*", metavar="key=value", help="settings, such as data.root=/data")
    command.add_argument("--no-features", action="store_true", help="check the annotations alone")
    command.set_defaults(run=check)


def add_features(command: argparse.ArgumentParser) -> None:
    command.description = "Convert features; the same command goes on with what an interruption has left."
    command.add_argument(
        "source", metavar="IN", type=Path, nargs="+", help="file, or folder of files; several, such as one per split"
    )
    command.add_argument("out", metavar="OUT", type=Path, help="HDF5 file to make or to replace")
    command.add_argument("--format", choices=sorted(FORMATS), default="", help="of IN (default: found out by looking)")
    command.add_argument(
        "--pca",
        metavar="N|FILE",
        type=number_or_file,
        help="keep N principal components, or use those of another OUT.pca.npz",
    )
    command.add_argument("--float16", action="store_true", help="half the size, 11 significant bits")
    command.add_argument("--box-format", choices=["xyxy", "xywh"], default="", help="of the boxes in IN")
    command.add_argument("--sizes", type=Path, help="COCO's instances.json, where sizes of images are not in IN")
    command.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="items that cannot be used")
    command.add_argument(
        "--follow-links", action="store_true", help="read links out of a folder, such as the cache of a model hub"
    )
    command.add_argument(
        "--max-bytes",
        type=at_least(int, 1),
        default=MAX_BYTES,
        help=f"of one array in memory, whatever a file declares (default: {MAX_BYTES:,})",
    )
    command.set_defaults(run=features)


@caught("the same command goes on from here")
def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    try:
        return args.run(args)
    except (ConfigError, DataError) as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    except OSError as error:
        show(f"error: {printable(error)}; the same command goes on from here", sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return ended(stop, "the same command goes on from here")


if __name__ == "__main__":
    run_command(main)
