"""Features of your own videos and images, with pretrained models of torchvision (pip install 'relgrounding[extract]').

    relgrounding extract videos clip.mp4 folder/ clips.h5
    relgrounding extract images photo.jpg folder/ regions.h5 --regions 50
    relgrounding extract images photos/ regions.h5 --weights detector.pth --device cuda
    relgrounding extract videos folder/ store --shard 1/4
    torchrun --nproc-per-node 4 -m relgrounding extract videos folder/ store
    relgrounding extract images photos/ regions.h5 --boxes boxes.h5 --model resnet50 --pca 256

Features are comparable only with those of the same model, weights and settings, which the attribute `source` of the
file names: a run answers about features of the extractor that it was trained on. An interrupted command that is given
again continues where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relgrounding._files import HDF5, check_output
from relgrounding._printing import printable, show
from relgrounding._ranks import _own_cuda_device, world_size
from relgrounding.cli import at_least, local, own_shard, shard_number
from relgrounding.cli.prepare import pca

if TYPE_CHECKING:
    from relgrounding.features import extraction

ERRORS = (ValueError,)
LEFT = "the same command goes on from here"
CLIPS, REGIONS = ("clip_frames", "stride", "fps", "batch"), ("regions", "min_score", "boxes")
"""Options that the extractors of clips and of regions have for themselves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    from relgrounding.features import extraction

    commands = parser.add_subparsers(dest="command", required=True)
    videos = commands.add_parser("videos", help="features of the clips of videos")
    _common(videos, extraction.CLIP_MODELS, "KINETICS400_V1", size=112)
    videos.add_argument("--clip-frames", type=at_least(int, 1), default=16, help="frames of a clip (default: 16)")
    videos.add_argument("--stride", type=at_least(int, 1), default=8, help="frames from clip to clip (default: 8)")
    videos.add_argument("--fps", type=at_least(float, 0.01), help="frames per second that are sampled (default: all)")
    videos.add_argument("--batch", type=at_least(int, 1), default=4, help="clips computed at once (default: 4)")
    videos.set_defaults(clips=True)
    images = commands.add_parser("images", help="boxes of images and their features")
    _common(images, extraction.FASTER_RCNN, "", size=None)
    images.add_argument("--regions", type=at_least(int, 1), default=50, help="boxes of an image at most (default: 50)")
    images.add_argument("--min-score", type=at_least(float, 0), default=0.01, help="of a box (default: 0.01)")
    images.add_argument("--boxes", type=local, metavar="FILE.h5", help="take the boxes of this file, detect none")
    images.set_defaults(clips=False)


def _common(parser: argparse.ArgumentParser, models: Sequence[str], weights: str, size: int | None) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", type=local, help="files, or folders of them")
    parser.add_argument("out", metavar="OUT.h5", type=local, help="file to make; with --shard or torchrun, a folder")
    parser.add_argument(
        "--shard",
        metavar="i/n",
        type=shard_number,
        help="make the ith of n shards of the folder OUT, of every nth file; the last one makes the index",
    )
    kinds = "" if weights else f"{', '.join(models)}; with --boxes any classification network, such as resnet50 "
    choices = models if weights else None
    parser.add_argument("--model", choices=choices, default=models[0], help=f"{kinds}(default: {models[0]})")
    usual = weights or "COCO_V1 of detectors, IMAGENET1K_V1 of others"
    parser.add_argument(
        "--weights",
        default=weights,
        help=f"torchvision's name of them, a file of a state_dict, or random (default: {usual})",
    )
    parser.add_argument(
        "--pca", metavar="N|FILE", type=pca, help="keep N principal components, or use those of another OUT.pca.npz"
    )
    parser.add_argument("--seed", type=at_least(int, 0), default=0, help="of random weights (default: 0)")
    parser.add_argument(
        "--size",
        type=at_least(int, 16),
        default=size,
        help=f"side of the model's input in pixels (default: {size or 'the usual one'})",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--number-ids", action="store_true", help="ids are the numbers that end the names, as COCO's")
    parser.add_argument(
        "--on-error", choices=["stop", "skip"], default="stop", help="at a file that cannot be read: stop, or skip it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.h5, or a shard of other files")


def make_extractor(
    args: argparse.Namespace,
) -> "extraction.ClipExtractor | extraction.RegionExtractor | extraction.CropExtractor":
    """Return what computes the features."""
    import torch

    from relgrounding.features import extraction

    if args.device == "cuda" and not torch.cuda.is_available():
        raise extraction.ExtractionError("there is no CUDA device here; leave --device out")
    if args.device == "cuda" and world_size() > 1:
        torch.cuda.set_device(_own_cuda_device("cuda", torch.cuda.device_count()))
    common = {"seed": args.seed, "size": args.size, "device": args.device}
    if not args.clips and args.boxes is not None and args.model not in extraction.FASTER_RCNN:
        return extraction.CropExtractor(args.model, args.weights or "IMAGENET1K_V1", boxes=args.boxes, **common)
    kind, own = (extraction.ClipExtractor, CLIPS) if args.clips else (extraction.RegionExtractor, REGIONS)
    return kind(args.model, args.weights or "COCO_V1", **common, **{name: getattr(args, name) for name in own})


def run(args: argparse.Namespace) -> None:
    """Extract."""
    from relgrounding.features import extraction
    from relgrounding.features.shards import MADE_OF, sign

    suffixes = extraction.VIDEOS if args.clips else extraction.IMAGES
    inputs = extraction.find_inputs(args.inputs, suffixes, args.number_ids)
    own = own_shard(args.shard)
    if own is None:
        if args.out.exists() and not args.overwrite:
            raise extraction.ExtractionError(f"{args.out} exists; --overwrite replaces it")
        others = filter(None, (Path(args.weights), getattr(args, "boxes", None)))
        check_output(args.out, [*inputs.values(), *others], HDF5, (".pca.npz",) if isinstance(args.pca, int) else ())
    else:
        extraction.check_components(args.pca)
    extractor = make_extractor(args)
    given = getattr(extractor, "given", None)
    if given is not None:
        found = len(inputs)
        inputs = extraction.with_boxes(inputs, args.inputs, given)
        missing = len(set(given.ids) - set(inputs))
        show(f"{printable(args.boxes)}: boxes of {len(inputs)} of {found} files, no file for {missing} images")
    if args.weights == "random":
        print("WARNING: random weights: the features are MEANINGLESS, good for tests alone", file=sys.stderr)
    making, out = None, args.out
    if own is not None:
        making = extraction.begin_shards(args.out, own[1], inputs, extractor.source, args.pca, args.overwrite)
        out = making.path(own[0])
        if not making.begin(own[0]):
            if out.with_name(out.name + ".parts").exists():  # stopped between its last two steps
                extraction.Parts(out, extractor.source).remove()
            show(f"{printable(out)} is there already; {extraction.whats_left(making)}")
            return
        inputs = dict(list(inputs.items())[own[0] - 1 :: own[1]])
    parts = extraction.Parts(out, extractor.source)
    done = extraction.extract_all(inputs, extractor, parts, args.on_error == "skip")
    source = extractor.source
    if args.pca and done:
        source = source | {"pca": parts.reduce(done, args.pca, out.with_name(out.name + ".pca.npz"))}
    write = extraction.write_clips if args.clips else extraction.write_regions
    write(out, done, parts, source, {MADE_OF: making.made_of} if making else None)
    for key in done[:5] if args.clips else ():
        part = parts.get(key)
        show(f"{printable(key)}: {len(part['features'])} clips, --duration {part['duration']:.2f}")
    if making is not None:
        sign(out)
    parts.remove()
    show(f"written: {printable(out)}, {len(done)} {args.command}, {len(inputs) - len(done)} skipped")
    if making is not None:
        show(extraction.whats_left(making))
