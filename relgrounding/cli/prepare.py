"""Make feature files, from other formats of features, or from annotations where there are no visual features.

    relgrounding prepare features i3d_features/ features/i3d.h5 --float16
    relgrounding prepare features trainval_36.tsv features/regions.h5 --pca 256
    relgrounding prepare features frames/ features/store --shards 16
    relgrounding prepare index features/store
    relgrounding prepare verify refcoco_ign
    relgrounding prepare charades-actions features/charades_actions.h5 --clips 32 --noise 0.1 --seed 0
    relgrounding prepare coco-categories features/refcoco_categories.h5 --name refcoco
    relgrounding prepare annotated-boxes features/flickr30k_boxes.h5 --dataset flickr30k

What charades-actions and coco-categories make are NOT visual features: they come from annotations made by people, stand
in for perfect recognition, and results on them must never be compared with published ones. docs/data.md describes
formats and files.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from relgrounding._files import HDF5, check_output
from relgrounding._printing import printable, show
from relgrounding._ranks import world_size
from relgrounding._settings import ConfigError
from relgrounding.cli import MOST_SHARDS, at_least, is_whole, local, own_shard, shard_number

LEFT = "the same command goes on from here"


def find_root(given: Path | None, folder: str) -> Path:
    """Return the folder that was given, or else the one below RELGROUNDING_DATA."""
    if given is not None:
        return given
    if not os.environ.get("RELGROUNDING_DATA"):
        raise ConfigError(f"where are the annotations? give --root, or set RELGROUNDING_DATA to what holds {folder}")
    return Path(os.environ["RELGROUNDING_DATA"]) / folder


def charades(args: argparse.Namespace) -> None:
    """Make clip features from action intervals."""
    from relgrounding.datasets._dataset import NOT_VISUAL
    from relgrounding.datasets.charades_sta import charades_actions

    check_output(args.out, head=HDF5)
    print(f"note: {NOT_VISUAL}", file=sys.stderr)
    show(charades_actions(args.out, find_root(args.root, "charades_sta"), args.clips, args.noise, args.seed))


def coco(args: argparse.Namespace) -> None:
    """Make region features from categories and boxes."""
    from relgrounding.datasets._dataset import NOT_VISUAL
    from relgrounding.datasets.refcoco import coco_categories

    check_output(args.out, head=HDF5)
    print(f"note: {NOT_VISUAL}", file=sys.stderr)
    show(coco_categories(args.out, find_root(args.root, "refcoco"), args.name))


def boxes(args: argparse.Namespace) -> None:
    """Write the boxes of a data set's annotations."""
    from relgrounding.datasets import DATASETS
    from relgrounding.datasets._boxes import write_annotated_boxes

    check_output(args.out, head=HDF5)
    kind = DATASETS.get(args.dataset)
    dataset = kind(kind.Config(dataset=args.dataset, root=str(args.root or "")))
    show(write_annotated_boxes(args.out, dataset, args.splits))


def features(args: argparse.Namespace) -> None:
    """Convert features."""
    from relgrounding.features.convert import convert_features
    from relgrounding.features.shards import shard_name

    start = time.perf_counter()
    shards, wanted = _shards(args)
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
        quiet=False,
        shards=shards,
        wanted=wanted,
        replace=args.shard is None,  # the processes of a job make all of them
    )
    kinds = ("videos", "clips") if made.layout == "clips" else ("images", "regions")
    files = [args.out] if not shards else [args.out / shard_name(n, shards) for n in wanted or range(1, shards + 1)]
    size = sum(file.stat().st_size for file in files) / 1e6
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
        + (f", {len(files)} of {shards} shards" if shards else "")
        + (", the others by other processes of the job" if shards and args.shard is None and world_size() > 1 else "")
        + ("; whichever shard is last makes the index" if not made.complete else "")
    )


def _shards(args: argparse.Namespace) -> tuple[int, list[int]]:
    """Return the number of shards, 0 for one file, and which of them this process makes; none: all."""
    if args.shard and args.shards and args.shards != args.shard[1]:
        raise ConfigError(f"--shard {args.shard[0]}/{args.shard[1]} is not one of --shards {args.shards}")
    own = own_shard(args.shard)
    if own is None:
        return args.shards, []
    if args.shard:
        return own[1], [own[0]]
    count = args.shards or own[1]
    if count < own[1]:
        raise ConfigError(f"{own[1]} processes for {count} shards; start at most {count}, or give --shards {own[1]}")
    return count, list(range(own[0], count + 1, own[1]))


def index(args: argparse.Namespace) -> None:
    """Make the index of a folder of shards."""
    from relgrounding.features import index_shards

    start = time.perf_counter()
    made = index_shards(args.folder, quiet=False)
    size = sum(shard.bytes for shard in made.shards) / 1e6
    items = f"{made.items:,} {'videos' if made.kind == 'clips' else 'images'}"
    show(
        f"{printable(args.folder)}: {len(made.shards):,} shards, {items}, width {made.dim}, {size:,.1f} MB, "
        f"{time.perf_counter() - start:.1f} s"
    )


def check(args: argparse.Namespace) -> int:
    """Verify annotations and features."""
    from relgrounding.config import load_config
    from relgrounding.datasets._verify import format_rows, verify

    config = load_config(args.config, args.settings)
    if args.no_features:
        config.data.features = ""
    rows = verify(config.dataset, config.modality, quiet=False)
    show(format_rows(rows))
    return int(any(row.status == "DIFFERS" for row in rows))


def shard_count(text: str) -> int:
    """Read the value of --shards."""
    if not is_whole(text) or not 1 <= int(text) <= MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"{text} is not a number of shards from 1 to {MOST_SHARDS:,}")
    return int(text)


def pca(text: str) -> int | Path:
    """Read the value of --pca."""
    if is_whole(text) and int(text) > 0:
        return int(text)
    if text.endswith(".npz"):
        return Path(text)
    raise argparse.ArgumentTypeError(f"{text} is neither a number of components above 0 nor a .npz file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    from relgrounding.datasets._dataset import NOT_VISUAL

    commands = parser.add_subparsers(dest="command", required=True)

    actions = commands.add_parser(
        "charades-actions",
        help="clip features of Charades-STA from the action intervals",
        description=f"Share of each clip covered by each of the 157 actions, plus noise. {NOT_VISUAL.capitalize()}.",
    )
    actions.add_argument("--clips", type=at_least(int, 1), default=32, help="clips per video (default: 32)")
    actions.add_argument(
        "--noise", type=at_least(float, 0), default=0.1, help="standard deviation of the noise (default: 0.1)"
    )
    actions.add_argument("--seed", type=at_least(int, 0), default=0, help="of the noise (default: 0)")
    actions.set_defaults(prepare=charades)

    categories = commands.add_parser(
        "coco-categories",
        help="region features of the RefCOCO family from categories and boxes",
        description=f"One-hot category and five numbers of geometry of every object. {NOT_VISUAL.capitalize()}.",
    )
    categories.add_argument("--name", choices=["refcoco", "refcoco+", "refcocog"], default="refcoco")
    categories.set_defaults(prepare=coco)

    for command, folder in ((actions, "charades_sta"), (categories, "refcoco")):
        command.add_argument("out", metavar="OUT", type=local, help="HDF5 file to make or to replace")
        command.add_argument(
            "--root",
            type=local,
            help=f"folder {folder} of the annotations (default: $RELGROUNDING_DATA/{folder})",
        )
    annotated = commands.add_parser(
        "annotated-boxes",
        help="the boxes of the annotations, of which extract images --boxes makes features",
        description="All annotated boxes of the images that queries ask about: the candidates, without features.",
    )
    annotated.add_argument("out", metavar="OUT", type=local, help="HDF5 file to make or to replace")
    annotated.add_argument("--dataset", required=True, metavar="NAME", help="flickr30k, refcoco, refcoco+ or refcocog")
    annotated.add_argument("--splits", nargs="+", default=(), help="splits to read (default: all)")
    annotated.add_argument("--root", type=local, help="folder of the annotations (default: $RELGROUNDING_DATA)")
    annotated.set_defaults(prepare=boxes)
    indexed = commands.add_parser(
        "index",
        help="the index of a folder of shards, which makes it a feature store",
        description="Make index.json, ids.txt and ids.idx of a folder of HDF5 files of one layout (docs/features.md).",
    )
    indexed.add_argument("folder", metavar="FOLDER", type=local, help="of the shards")
    indexed.set_defaults(prepare=index)
    add_features(commands.add_parser("features", help="feature files from any of the usual formats"))
    add_verify(commands.add_parser("verify", help="check annotations and features against what they should be"))


def add_verify(command: argparse.ArgumentParser) -> None:
    """Say what `verify` takes."""
    command.description = "Print a table: expected, found, meaning. Status: 0 as it should be, 1 differences, 2 errors."
    command.add_argument("config", metavar="CONFIG", help="a configuration that comes with the package, or a YAML file")
    command.add_argument("settings", nargs="*", metavar="key=value", help="settings, such as data.root=/data")
    command.add_argument("--no-features", action="store_true", help="check the annotations alone")
    command.set_defaults(prepare=check)


def add_features(command: argparse.ArgumentParser) -> None:
    """Say what `features` takes."""
    from relgrounding.features.convert import FORMATS
    from relgrounding.io._regular import MAX_BYTES

    command.description = "Convert features; the same command continues after an interruption."
    command.add_argument(
        "source", metavar="IN", type=local, nargs="+", help="file, or folder of files; several, such as one per split"
    )
    command.add_argument(
        "out", metavar="OUT", type=local, help="HDF5 file to make or to replace; with shards, a folder"
    )
    command.add_argument(
        "--shards",
        metavar="N",
        type=shard_count,
        default=0,
        help="make a folder of N files (under torchrun: shared out)",
    )
    command.add_argument(
        "--shard", metavar="i/n", type=shard_number, help="make the ith of n shards alone, in any order"
    )
    command.add_argument("--format", choices=sorted(FORMATS), default="", help="of IN (default: detected)")
    command.add_argument(
        "--pca", metavar="N|FILE", type=pca, help="keep N principal components, or use those of another OUT.pca.npz"
    )
    command.add_argument("--float16", action="store_true", help="half the size, 11 significant bits")
    command.add_argument("--box-format", choices=["xyxy", "xywh"], default="", help="of the boxes in IN")
    command.add_argument("--sizes", type=local, help="COCO's instances.json, where sizes of images are not in IN")
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
    command.set_defaults(prepare=features)


def run(args: argparse.Namespace) -> int | None:
    """Prepare."""
    logging.basicConfig(format="%(message)s")
    return args.prepare(args)
