"""How long one question takes, after loading: models of the library's default sizes with weights that are not trained.

    python -m benchmarks.latency --threads 2

Questions go from item to item, all of one size; what depends on the size alone is built for the first of them.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.timing import Quantiles, interleaved
from relgrounding import Grounder
from relgrounding.config import load_config
from relgrounding.features import Regions, Vocabulary
from relgrounding.graphs import window_proposals
from relgrounding.predictor import untrained

WORDS = ["a", "person", "opens", "the", "door", "and", "walks", "out", "of", "room"]
QUERY = "a person opens the door and walks out of the room"
DIM = 500
ITEMS, MOST_TURNS = 8, 1000
WIDTHS = [2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 96, 128]
SETTINGS = [f"data.widths={WIDTHS}", "data.stride=2", "data.max_clips=128"]


def grounder(kind: str) -> Grounder:
    """Return one with random weights."""
    words = [f"model.name={kind}", "data.dataset=own", "data.queries=questions.jsonl", *SETTINGS]
    vectors = torch.randn(len(Vocabulary.from_list(WORDS)), 300)
    config = load_config(None, words)
    model = untrained(config, DIM, len(vectors), vectors)
    return Grounder(config, {"model": model.state_dict(), "vocabulary": WORDS})


def regions(count: int, random: np.random.Generator) -> Regions:
    """Return boxes at random places of a photo of 640 x 480."""
    corner = random.uniform(0, [500, 350], (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 130, (count, 2))], 1).astype(np.float32)
    return Regions(random.standard_normal((count, DIM)).astype(np.float32), boxes, (640, 480))


def questions(kind: str, size: int, random: np.random.Generator) -> Callable[[], object]:
    """Return what asks the next question."""
    drawn, asked = [regions(size, random) for _ in range(ITEMS)], grounder(kind)
    if kind == "ign":
        items = itertools.cycle(drawn)
        return lambda: asked.ground(QUERY, next(items))
    videos = itertools.cycle(item.features for item in drawn)
    return lambda: asked.ground(QUERY, next(videos), duration=31.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row, on average")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random, rows = np.random.default_rng(0), []
    sizes = [("vgn", 32), ("vgn", 64), ("vgn", 128), ("ign", 10), ("ign", 36), ("ign", 100)]
    asked = {f"{kind}, {size}": {"ask": questions(kind, size, random)} for kind, size in sizes}
    times = interleaved(asked, torch.device("cpu"), MOST_TURNS, arguments.seconds * len(sizes))
    for (kind, size), (name, of) in zip(sizes, times.items(), strict=True):
        nodes = len(window_proposals(size, WIDTHS, 2)) if kind == "vgn" else size
        quantiles = Quantiles.of(of["ask"])
        rows.append([name, f"{nodes}", *(f"{ms:.1f}" for ms in (quantiles.p20, quantiles.p50, quantiles.p80))])
    print(
        tabulate(
            rows,
            headers=["model, clips or regions", "candidates", "20 %, ms", "median, ms", "80 %, ms"],
            disable_numparse=True,
        )
    )


if __name__ == "__main__":
    main()
