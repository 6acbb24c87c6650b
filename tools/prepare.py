"""Make feature files from annotations, for use where there are no visual features.

    python tools/prepare.py charades-actions features/charades_actions.h5 --clips 32 --noise 0.1 --seed 0
    python tools/prepare.py coco-categories features/refcoco_categories.h5 --name refcoco

What they hold are NOT visual features: they come from annotations made by people, stand in for perfect recognition,
and results on them must never be compared with published ones. docs/features.md describes the files.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relgrounding import data

NUM_ACTIONS = 157
WARNING = "annotation-derived, not visual features: results on them must not be compared with published ones"


def action_coverage(intervals: Sequence[data.ActionInterval], duration: float, clips: int) -> np.ndarray:
    """Return the share of each of a video's clips, all equally long, that each action covers.

    An action's intervals may overlap; their union counts. What lies outside the video is cut off.

    Args:
        intervals: actions with their start and end in seconds.
        duration: seconds of the video.
        clips: number of clips.

    Returns:
        (clips, 157) float64 from 0 to 1.
    """
    edges = np.linspace(0.0, duration, clips + 1)
    share = np.zeros((clips, NUM_ACTIONS))
    covered_until = np.zeros(NUM_ACTIONS)
    for action, start, end in sorted(intervals, key=lambda interval: interval.start):
        begin = max(start, covered_until[action])
        overlap = np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1])
        share[:, action] += np.clip(overlap, 0.0, None)
        covered_until[action] = max(end, covered_until[action])
    return np.clip(share * clips / duration, 0.0, 1.0)


def category_features(objects: data.ImageObjects, num_categories: int) -> np.ndarray:
    """Return one-hot category and geometry of each object: x1/w, y1/h, x2/w, y2/h, area / (w h).

    Args:
        objects: of one image.
        num_categories: of the data set.

    Returns:
        (objects, num_categories + 5) float64 from 0 to 1.
    """
    width, height = objects.size
    corners = objects.boxes / (width, height, width, height)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.concatenate([np.eye(num_categories)[objects.category], corners, area[:, None]], axis=1)


def charades_actions(args: argparse.Namespace) -> None:
    """Write the clip features of every video that has a sentence."""
    root = find_root(args.root, "charades_sta")
    queries = [query for split in ("train", "test") for query in data.load_charades(root, split)]
    videos = sorted({query.item for query in queries})
    durations, actions = data.load_durations(root), data.load_actions(root)

    def items() -> Iterator[tuple[str, np.ndarray]]:
        for video in tqdm(videos, unit="video", disable=None):
            # A generator of its own for each video: its noise depends neither on the others nor on their order.
            random = np.random.default_rng([args.seed, zlib.crc32(video.encode())])
            share = action_coverage(actions[video], durations[video], args.clips)
            yield video, share + args.noise * random.standard_normal(share.shape)

    attributes = {
        "description": "share of each clip that each of the 157 Charades actions covers, and Gaussian noise",
        "warning": WARNING,
        "clips": args.clips,
        "noise": args.noise,
        "seed": args.seed,
    }
    data.write_clip_features(args.out, items(), attributes)
    print(f"{args.out}: {len(videos)} videos x {args.clips} clips x {NUM_ACTIONS} actions, noise {args.noise:g}")


def coco_categories(args: argparse.Namespace) -> None:
    """Write category and geometry of every annotated object."""
    instances = data.load_instances(find_root(args.root, "refcoco"), args.name)

    def items() -> Iterator[tuple[str, data.Regions]]:
        for image in tqdm(instances.ids, unit="image", disable=None):
            objects = instances[image]
            if len(objects.boxes):
                features = category_features(objects, len(instances.categories)).astype(np.float32)
                yield image, data.Regions(features, objects.boxes.astype(np.float32), objects.size)

    attributes = {
        "description": "one-hot COCO category, then x1/w y1/h x2/w y2/h area/(w h), of every annotated object",
        "warning": WARNING,
        "name": args.name,
        "categories": list(instances.categories),
    }
    data.write_region_features(args.out, items(), attributes)
    print(f"{args.out}: {len(instances.boxes)} objects of {len(instances)} images of {args.name}")


def find_root(given: Path | None, folder: str) -> Path:
    if given is not None:
        return given
    if not os.environ.get("RELGROUNDING_DATA"):
        raise FileNotFoundError(
            f"where are the annotations? give --root, or set RELGROUNDING_DATA to what holds {folder}"
        )
    return Path(os.environ["RELGROUNDING_DATA"]) / folder


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
        description=f"Share of each clip covered by each of the 157 actions, plus noise. {WARNING.capitalize()}.",
    )
    actions.add_argument("--clips", type=at_least(int, 1), default=32, help="clips a video (default: 32)")
    actions.add_argument(
        "--noise", type=at_least(float, 0), default=0.1, help="standard deviation of the noise (default: 0.1)"
    )
    actions.add_argument("--seed", type=at_least(int, 0), default=0, help="of the noise (default: 0)")
    actions.set_defaults(run=charades_actions)

    categories = commands.add_parser(
        "coco-categories",
        help="region features of the RefCOCO family from categories and boxes",
        description=f"One-hot category and five numbers of geometry of every object. {WARNING.capitalize()}.",
    )
    categories.add_argument("--name", choices=["refcoco", "refcoco+", "refcocog"], default="refcoco")
    categories.set_defaults(run=coco_categories)

    for command, folder in ((actions, "charades_sta"), (categories, "refcoco")):
        command.add_argument("out", metavar="OUT", type=Path, help="HDF5 file to make or to replace")
        command.add_argument(
            "--root",
            type=Path,
            help=f"folder {folder} of the annotations (default: $RELGROUNDING_DATA/{folder})",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    print(f"note: {WARNING}", file=sys.stderr)
    try:
        args.run(args)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
