"""Ask a trained run about a video or an image of your own: the best five moments or boxes, a picture, and JSON.

    python tools/ground.py --checkpoint runs/charades_vgn --video-features clips.npy --duration 31.2 \\
        --query "person opens the door"
    python tools/ground.py --checkpoint runs/refcoco_ign --regions regions.h5 --image photo.jpg --query "the left dog"
    python tools/ground.py --checkpoint runs/demo --image test-0-00000-a --query "the green square"
    python tools/ground.py --checkpoint runs/charades_vgn --video-features clips.h5 --batch questions.jsonl --out DIR

The last but one asks about a generated scene. A line of questions.jsonl is {"video": ID, "duration": 31.2, "query":
SENTENCE} or {"image": ID, "query": SENTENCE}; the features of all of them are in one HDF5 file, or (of videos) in a
folder of ID.npy.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from relgrounding import Grounder, viz
from relgrounding._files import check_output, check_output_folder, replacing
from relgrounding._names import check_name
from relgrounding._printing import brief, printable, show
from relgrounding.config import ConfigError
from relgrounding.io._regular import read_text
from relgrounding.io._values import check_text, parse_json
from relgrounding.predictor import Answer
from relgrounding.runs import RunError, run_files
from relgrounding.viz import Items, picture_ids, read_picture

BLUE = "#0060a8"
ERRORS = (ConfigError, RunError, ValueError, OSError, KeyError, ImportError)


def main(words: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(words)
    try:
        path = Path(arguments.checkpoint)
        folder, name = (path.parent, path.name) if path.suffix == ".pt" else (path, "best.pt")
        _check_outputs(arguments, folder)
        grounder = Grounder.from_run(folder, name, arguments.word_vectors)
        _check(arguments, grounder)
        asker = Asker(grounder, arguments)
        return batch(asker, arguments) if arguments.batch else single(asker, arguments)
    except ERRORS as error:
        show(f"error: {printable(error)}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="folder of a run, or a .pt file in it")
    parser.add_argument("--video-features", type=Path, help="(clips, dim) as .npy, .npz or .pt, HDF5, or a folder")
    parser.add_argument("--regions", type=Path, help="file of region features, in any format of docs/data.md")
    parser.add_argument("--item", help="id of the video or image in an HDF5 file")
    parser.add_argument("--image", help="a picture, whose name is the id, or the id alone")
    parser.add_argument("--duration", type=float, help="of the video, in seconds; files of tools/extract.py hold it")
    parser.add_argument("--query", help="the sentence")
    parser.add_argument("--batch", type=Path, metavar="JSONL", help="many questions, one a line")
    parser.add_argument("--out", type=Path, default=Path("answer"), help="name of the .png and .json, or the folder")
    parser.add_argument("--images", type=Path, help="batch: folder of the pictures")
    parser.add_argument("--word-vectors", type=Path, help="the run's file of word vectors, for words new to it")
    parser.add_argument("--select", choices=["score", "vote"], help="how moments are chosen (default: the run's way)")
    parser.add_argument("--no-figures", action="store_true", help="write no pictures")
    parser.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="batch: at a line of no use")
    return parser


def _stem(out: Path) -> Path:
    return out.with_name(out.stem) if out.suffix in (".png", ".json") else out


def _check_outputs(arguments: argparse.Namespace, run: Path) -> None:
    given = (arguments.video_features, arguments.regions, arguments.batch, arguments.word_vectors, arguments.images)
    read = [*run_files([run]), *filter(None, given), *([Path(arguments.image)] if arguments.image else [])]
    if arguments.batch:
        check_output(check_output_folder(arguments.out, read) / "answers.jsonl", read)
        return
    out = _stem(check_output(arguments.out))
    for ending in (".json", ".png"):
        check_output(out.with_name(out.name + ending), read)


def _check(arguments: argparse.Namespace, grounder: Grounder) -> None:
    if bool(arguments.query) == bool(arguments.batch):
        raise ValueError("give either --query or --batch")
    if grounder.modality.item == "video":
        if arguments.regions or arguments.image:
            raise ValueError("this run answers about videos: give --video-features and --duration")
        if not arguments.video_features:
            raise ValueError("--video-features is missing: a .npy file of (clips, dim), or an HDF5 file and --item")
    else:
        if arguments.video_features:
            raise ValueError("this run answers about images: give --regions and --image")
        if not arguments.regions and not grounder.config.dataset.generated:
            raise ValueError("--regions is missing: the HDF5 file of region features")
        if not (arguments.batch or arguments.image or arguments.item or arguments.regions):
            raise ValueError("--image is missing: the id of a generated scene, such as test-0-00000-a")


class Asker:
    """Finds what a question needs, and draws its answer."""

    def __init__(self, grounder: Grounder, arguments: argparse.Namespace) -> None:
        self.grounder, self.arguments = grounder, arguments
        self.items = Items(grounder.config, arguments.images)

    def ask(self, query: str, item: str | None, duration: float | None) -> tuple[list[Answer], dict[str, Any]]:
        """Return the answers, and what goes into the JSON with them."""
        select = self.arguments.select
        if self.grounder.modality.item == "video":
            features = _in_folder(self.arguments.video_features, item)
            duration = self.grounder.duration(features, item) if duration is None else duration
            answers = self.grounder.ground(query, features, item=item, duration=duration, select=select)
            about: dict[str, Any] = {"video": item or features.stem, "duration": duration}
        else:
            scenes = self.items.scenes(item or "")
            if self.arguments.regions:
                answers = self.grounder.ground(query, self.arguments.regions, item=item)
            elif scenes is not None:
                answers = self.grounder.ground(query, scenes[item or ""])
            else:
                raise ValueError(
                    f"'{item}' is no generated scene of this run; give --regions, or an id as test-0-00000-a"
                )
            about = {"image": item}
        unknown = self.grounder.unknown_words(query)
        listed = [{"proposal": list(a.proposal), "score": a.score} for a in answers]
        return answers, about | {"query": query, "answers": listed, "unknown_words": unknown}

    def draw(self, path: Path, answers: list[Answer], record: dict[str, Any], picture: np.ndarray | None) -> None:
        """Write the picture of an answer."""
        query, proposals = record["query"], [a.proposal for a in answers]
        if self.grounder.modality.item == "video":
            shown = [
                viz.Shown(f"{k}", [a.proposal], f"score {a.score:.2f}", colour=BLUE)
                for k, a in enumerate(answers, start=1)
            ]
            viz.save_figure(viz.moments_figure(query, record["duration"], shown), path)
            return
        item = record["image"] or ""
        found = picture if picture is not None else self.items.picture(item)
        regions = self.grounder.regions(self.arguments.regions, record["image"]) if self.arguments.regions else None
        size = regions.size if regions else self.items.size(item) or (1, 1)
        labels = [f"{k}: {a.score:.2f}" for k, a in enumerate(answers, start=1)]
        shown = [viz.Shown("best five" if len(answers) == 5 else "answers", proposals, labels=labels)]
        context = regions.boxes.tolist() if regions and found is None else ()
        viz.save_figure(viz.regions_figure(query, size, shown, found, context), path)


def single(asker: Asker, arguments: argparse.Namespace) -> int:
    item, picture = arguments.item, None
    if arguments.image:
        photo = Path(arguments.image)
        if photo.suffix:
            picture = read_picture(photo)
            names = picture_ids(photo)
            known = asker.grounder.ids(arguments.regions) if arguments.regions else []
            item = item or next((name for name in names if name in known), names[0] if len(known) != 1 else known[0])
        else:
            item = item or arguments.image
    answers, record = asker.ask(arguments.query, item, arguments.duration)
    print(_table(answers))
    if (asker.grounder.modality.item == "video") and asker.grounder.selection(arguments.select) == "vote":
        print("in the order of votes: how much a moment agrees with the well-scored ones")
    if record["unknown_words"]:
        show(f"note: words that the model never met: {', '.join(record['unknown_words'])}", sys.stderr)
    out = _stem(arguments.out)
    answer, drawn = (out.with_name(out.name + ending) for ending in (".json", ".png"))
    with replacing(answer) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    written = [str(answer)]
    if not arguments.no_figures:
        try:
            asker.draw(drawn, answers, record, picture)
            written.append(str(drawn))
        except ImportError as error:
            show(f"note: no picture was made: {printable(error)}", sys.stderr)
    show(f"written: {printable(', '.join(written))}")
    return 0


def batch(asker: Asker, arguments: argparse.Namespace) -> int:
    lines = read_text(arguments.batch, follow_links=True).split("\n")
    questions = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    skipped, path = 0, arguments.out / "answers.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link is replaced, not written through; what is answered stays when it is stopped
    with path.open("x", encoding="utf-8") as file:
        for number, line in tqdm(questions, desc="questions", unit="query"):
            try:
                query, item, duration = _question(line, (asker.grounder.modality.item == "video"))
                answers, record = asker.ask(query, item, duration)
                if not arguments.no_figures:
                    asker.draw(arguments.out / f"{number:05d}.png", answers, record, None)
            except ERRORS as error:
                message = f"{arguments.batch}, line {number}: {error}"
                if arguments.on_error == "stop":
                    raise ValueError(f"{message} (--on-error skip leaves such lines out)") from None
                tqdm.write(f"skipped: {printable(message)}", file=sys.stderr)
                skipped += 1
                continue
            file.write(json.dumps({"line": number} | record, ensure_ascii=False) + "\n")
    show(f"{len(questions) - skipped} answered, {skipped} skipped; written: {printable(path)}")
    return 0


def _question(line: str, video: bool) -> tuple[str, str, float | None]:
    asked = parse_json(line, "the question", "write one object a line")
    name = "video" if video else "image"
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str) or not isinstance(asked.get(name), str):
        raise ValueError(f'a question is {{"{name}": ID, "query": SENTENCE, ...}}, both in quotes')
    duration = asked.get("duration")
    if duration is not None and (isinstance(duration, bool) or not isinstance(duration, (int, float))):
        raise ValueError(f"duration is {brief(duration)}; give the length of the video in seconds")
    return check_text(asked["query"], "query", "the question"), asked[name], duration


def _in_folder(path: Path, item: str | None) -> Path:
    if not path.is_dir():
        return path
    if item is None:
        raise ValueError(f"{path} is a folder: give the id of a video in it with --item")
    check_name(item, f"the id of a video in {path}")
    return path / f"{item}.npy" if (path / f"{item}.npy").exists() else path


def _table(answers: list[Answer]) -> str:
    moments = len(answers[0].proposal) == 2
    names = ["start (s)", "end (s)"] if moments else ["x1", "y1", "x2", "y2"]
    digits = 2 if moments else 0
    rows = [
        [k, f"{a.score:.4f}", *(f"{value:.{digits}f}" for value in a.proposal)] for k, a in enumerate(answers, start=1)
    ]
    return tabulate(rows, headers=["", "score", *names], disable_numparse=True, colalign=["right"] * (2 + len(names)))


if __name__ == "__main__":
    sys.exit(main())
