"""Ask a trained run about a video or an image of your own: the best five moments or boxes, a picture, and JSON.

    relgrounding ground --checkpoint runs/charades_vgn --video-features clips.npy --duration 31.2 \\
        --query "person opens the door"
    relgrounding ground --checkpoint runs/refcoco_ign --regions regions.h5 --image photo.jpg --query "the left dog"
    relgrounding ground --checkpoint runs/demo --image test-0-00000-a --query "the green square"
    relgrounding ground --checkpoint runs/charades_vgn --video-features clips.h5 --batch questions.jsonl --out DIR

The third command asks about a generated scene. A line of questions.jsonl is {"video": ID, "duration": 31.2, "query":
SENTENCE} or {"image": ID, "query": SENTENCE}; the features of all of them are in one HDF5 file, or (of videos) in a
folder of ID.npy.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relgrounding._files import check_output, check_output_folder, local_only, replacing
from relgrounding._names import check_name
from relgrounding._printing import brief, counted, note, printable, progress, show
from relgrounding.cli import local

if TYPE_CHECKING:
    import numpy as np

    from relgrounding.predictor import Answer, Explanation, Grounder, Neighbour

BLUE = "#123f96"
ERRORS = (ValueError, OSError, KeyError)
LEAST_WEIGHT = 0.005
"""Of messages that are shown with --explain."""
ANSWER, ANSWERS, PNG = (b'{\n  "image": ', b'{\n  "video": '), b'{"line": ', b"\x89PNG\r\n\x1a\n"
"""First bytes of an answer, of many answers, and of a picture; a file that begins otherwise is not replaced."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "--checkpoint", type=local, required=True, metavar="RUN", help="folder of a run, or a .pt file in it"
    )
    parser.add_argument("--video-features", help="(clips, dim) as .npy, .npz or .pt, HDF5, or a folder; or a URL")
    parser.add_argument("--regions", help="file of region features, in any format of docs/data.md; or a URL")
    parser.add_argument("--item", help="id of the video or image in a file or folder of several")
    parser.add_argument("--image", help="a picture, whose name is the id, or the id alone")
    parser.add_argument(
        "--duration", type=float, help="of the video, in seconds; files of `relgrounding extract` hold it"
    )
    parser.add_argument("--query", help="the sentence")
    parser.add_argument("--batch", metavar="JSONL", help="many questions, one per line; a file or a URL")
    parser.add_argument(
        "--out",
        type=local,
        help="name of the .png and .json (default: answer), or with --batch the folder (default: answers)",
    )
    parser.add_argument("--images", type=local, help="with --batch: folder of the pictures")
    parser.add_argument("--word-vectors", type=local, help="the run's file of word vectors, for words new to it")
    parser.add_argument("--select", choices=["score", "vote"], help="selection method of moments (default: the run's)")
    parser.add_argument("--explain", action="store_true", help="say which neighbours and words led to the best answer")
    parser.add_argument("--no-figures", action="store_true", help="write no pictures")
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="with --batch, at a line that cannot be answered: stop, or skip it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Answer."""
    from relgrounding.io._remote import local_path
    from relgrounding.predictor import Grounder

    for name in ("video_features", "regions", "batch"):
        given = getattr(arguments, name)
        setattr(arguments, name, local_path(given) if given else None)
    arguments.out = arguments.out or Path("answers" if arguments.batch else "answer")
    path = arguments.checkpoint
    folder, name = (path.parent, path.name) if path.suffix == ".pt" else (path, "best.pt")
    _check_outputs(arguments, folder)
    grounder = Grounder.from_run(folder, name, arguments.word_vectors)
    if (arguments.query is None) == (arguments.batch is None):
        raise ValueError("give either --query or --batch")
    answer = batch if arguments.batch else single
    answer(ASKERS[grounder.modality.item](grounder, arguments), arguments)


def _stem(out: Path) -> Path:
    return out.with_name(out.stem) if out.suffix in (".png", ".json") else out


def _check_outputs(arguments: argparse.Namespace, run: Path) -> None:
    from relgrounding.runs import run_files

    given = (arguments.video_features, arguments.regions, arguments.batch, arguments.word_vectors, arguments.images)
    read = [
        *run_files([run]),
        *filter(None, given),
        *([local_only(arguments.image, "a picture")] if arguments.image else []),
    ]
    if arguments.batch:
        check_output(check_output_folder(arguments.out, read) / "answers.jsonl", read, ANSWERS)
        return
    out = _stem(check_output(arguments.out))
    check_output(out.with_name(out.name + ".json"), read, ANSWER)
    check_output(out.with_name(out.name + ".png"), read, PNG)


class Asker:
    """Finds what a question about one kind of item needs, and draws its answer."""

    item: str
    """What a question is about; also the name of its id in JSON."""
    explanation: "Explanation | None" = None
    """Of the last best answer, with --explain."""

    def __init__(self, grounder: "Grounder", arguments: argparse.Namespace) -> None:
        from relgrounding.viz import Items

        self.grounder, self.arguments = grounder, arguments
        self.items = Items(grounder.config, arguments.images)
        self.check()

    def check(self) -> None:
        """Raise ValueError where the options do not go with the run."""

    def source(self, item: str | None, duration: float | int | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Return the features and options for `Grounder.ground`, and what the JSON says of the item."""
        raise NotImplementedError

    def ask(self, query: str, item: str | None, duration: float | int | None) -> "tuple[list[Answer], dict[str, Any]]":
        """Return the answers, and what goes into the JSON with them."""
        features, options, about = self.source(item, duration)
        answers = self.grounder.ground(query, features, **options)
        unknown = self.grounder.unknown_words(query)
        listed = [{"proposal": list(a.proposal), "score": a.score} for a in answers]
        self.explanation = self.grounder.explain(query, features, **options) if self.arguments.explain else None
        why = {"explanation": self.explanation.to_json()} if self.explanation else {}
        return answers, about | {"query": query, "answers": listed, "unknown_words": unknown} | why

    @property
    def neighbours(self) -> "tuple[Neighbour, ...]":
        """Those of the last best answer; none unless asked for."""
        return self.explanation.neighbours if self.explanation else ()

    def draw(self, path: Path, answers: "list[Answer]", record: dict[str, Any], picture: "np.ndarray | None") -> None:
        """Write the picture of an answer."""
        raise NotImplementedError

    def order(self) -> str:
        """Return a line about the order of the answers, or nothing."""
        return ""

    def cut(self, query: str) -> str:
        """Return a line about words of a sentence that are not read, or nothing."""
        from relgrounding.features import tokenize

        words, most = len(tokenize(query)), self.grounder.config.data.max_words
        return f"only the first {most} of {words} words are read (data.max_words)" * (words > most)


class VideoAsker(Asker):
    """Questions about videos."""

    item = "video"

    def check(self) -> None:
        """Raise ValueError where the options are those of images, or the features are missing."""
        if self.arguments.regions or self.arguments.image:
            raise ValueError("this run answers about videos: give --video-features and --duration")
        if not self.arguments.video_features:
            raise ValueError("--video-features is missing: a .npy file of (clips, dim), or an HDF5 file and --item")

    def source(self, item: str | None, duration: float | int | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Take the features from a file or a folder."""
        features = _in_folder(self.arguments.video_features, item)
        if duration is None and (duration := self.grounder.duration(features, item)) is None:
            given = '"duration": 31.2 on the line' if self.arguments.batch else "--duration 31.2"
            raise ValueError(
                f"the length of the video in seconds is missing, which the features do not state: give {given}"
            )
        options = {"item": item, "duration": duration, "select": self.arguments.select}
        return features, options, {"video": item or features.stem, "duration": duration}

    def draw(self, path: Path, answers: "list[Answer]", record: dict[str, Any], picture: "np.ndarray | None") -> None:
        """Draw the moments on the time axis."""
        from relgrounding import viz

        shown = [
            viz.Shown(f"{k}", [a.proposal], f"score {a.score:.2f}", colour=BLUE) for k, a in enumerate(answers, start=1)
        ]
        shown[0] = replace(shown[0], neighbours=self.neighbours)
        viz.save_figure(viz.moments_figure(record["query"], record["duration"], shown), path)

    def order(self) -> str:
        """Votes order answers otherwise than scores."""
        votes = self.grounder.selection(self.arguments.select) == "vote"
        return "in the order of votes: how much a moment agrees with the well-scored ones" * votes


class ImageAsker(Asker):
    """Questions about images."""

    item = "image"

    def check(self) -> None:
        """Raise ValueError where the options are those of videos, or the regions are missing."""
        if self.arguments.video_features:
            raise ValueError("this run answers about images: give --regions and --image")
        if self.arguments.duration is not None or self.arguments.select:
            raise ValueError("--duration and --select are for runs on videos; this run answers about images")
        if not self.arguments.regions and not self.grounder.config.dataset.generated:
            raise ValueError("--regions is missing: the HDF5 file of region features")
        given = (self.arguments.batch, self.arguments.image, self.arguments.item, self.arguments.regions)
        if not any(given):
            raise ValueError(f"--image is missing: the id of a generated image, such as {self.items.example()}")

    def source(self, item: str | None, duration: float | int | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Take the regions from a file, or those of a generated image."""
        if self.arguments.regions:
            return self.arguments.regions, {"item": item}, {"image": item}
        regions = self.items.regions(item or "")
        if regions is None:
            some = self.items.example()
            raise ValueError(f"'{item}' is not a generated image of this run; give --regions, or an id such as {some}")
        return regions, {}, {"image": item}

    def draw(self, path: Path, answers: "list[Answer]", record: dict[str, Any], picture: "np.ndarray | None") -> None:
        """Draw the boxes in the picture or among the other regions."""
        from relgrounding import viz

        item = record["image"] or ""
        found = picture if picture is not None else self.items.picture(item)
        regions = self.grounder.regions(self.arguments.regions, record["image"]) if self.arguments.regions else None
        size = regions.size if regions else self.items.size(item) or (1, 1)
        labels = [f"{k}: {a.score:.2f}" for k, a in enumerate(answers, start=1)]
        title = "best five" if len(answers) == 5 else "answers"
        shown = [viz.Shown(title, [a.proposal for a in answers], labels=labels, neighbours=self.neighbours)]
        context = regions.boxes.tolist() if regions and found is None else ()
        viz.save_figure(viz.regions_figure(record["query"], size, shown, found, context), path)


ASKERS: dict[str, type[Asker]] = {kind.item: kind for kind in (VideoAsker, ImageAsker)}


def single(asker: Asker, arguments: argparse.Namespace) -> None:
    """Answer one question."""
    from relgrounding.viz import picture_ids, read_picture

    item, picture = arguments.item, None
    if arguments.image:
        photo = local_only(arguments.image, "a picture")
        if photo.suffix:
            if not photo.exists():
                raise ValueError(f"--image: {photo} does not exist; without a picture give the id, as in {photo.stem}")
            picture = read_picture(photo)
            names = picture_ids(photo)
            known = asker.grounder.ids(arguments.regions) if arguments.regions else []
            item = item or next((name for name in names if name in known), names[0] if len(known) != 1 else known[0])
        else:
            item = item or arguments.image
    answers, record = asker.ask(arguments.query, item, arguments.duration)
    print(_table(answers))
    if line := asker.order():
        print(line)
    if asker.explanation:
        print(_explained(asker.explanation))
    if line := asker.cut(arguments.query):
        show(f"note: {line}", sys.stderr)
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


def batch(asker: Asker, arguments: argparse.Namespace) -> None:
    """Answer the questions of a file."""
    from relgrounding.io._regular import read_text
    from relgrounding.runs import RunError

    lines = read_text(arguments.batch, follow_links=True).split("\n")
    questions = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    skipped, path = 0, arguments.out / "answers.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link is replaced, not written through; what is answered stays when it is stopped
    with path.open("x", encoding="utf-8") as file:
        for number, line in progress(questions, desc="questions", unit="query"):
            try:
                query, item, duration = _question(line, asker.item)
                answers, record = asker.ask(query, item, duration)
                if not arguments.no_figures:
                    asker.draw(arguments.out / f"{number:05d}.png", answers, record, None)
            except (*ERRORS, ImportError, RunError) as error:
                message = f"{arguments.batch}, line {number}: {error}"
                if arguments.on_error == "stop":
                    raise ValueError(f"{message} (--on-error skip leaves such lines out)") from None
                note(f"skipped: {message}", sys.stderr)
                skipped += 1
                continue
            if cut := asker.cut(query):
                note(f"note: {arguments.batch}, line {number}: {cut}", sys.stderr)
            file.write(json.dumps({"line": number} | record, ensure_ascii=False) + "\n")
    show(f"{len(questions) - skipped} answered, {skipped} skipped; written: {printable(path)}")


def _question(line: str, name: str) -> tuple[str, str, float | int | None]:
    from relgrounding.io._values import check_text, is_number, parse_json

    asked = parse_json(line, "the question", "write one object per line")
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str) or not isinstance(asked.get(name), str):
        raise ValueError(f'a question is {{"{name}": ID, "query": SENTENCE, ...}}, both in quotes')
    duration = asked.get("duration")
    if duration is not None and not is_number(duration):
        raise ValueError(f"duration is {brief(duration)}; give the length of the video in seconds")
    seconds = None if duration is None else float(duration)
    return check_text(asked["query"], "query", "the question"), asked[name], seconds


def _in_folder(path: Path, item: str | None) -> Path:
    if not path.is_dir():
        return path
    if item is None:
        raise ValueError(f"{path} is a folder: give the id of a video in it with --item")
    check_name(item, f"the id of a video in {path}")
    return path / f"{item}.npy" if (path / f"{item}.npy").exists() else path


def _table(answers: "list[Answer]") -> str:
    from tabulate import tabulate

    moments = len(answers[0].proposal) == 2
    names = ["start (s)", "end (s)"] if moments else ["x1", "y1", "x2", "y2"]
    digits = 2 if moments else 0
    rows = [
        [k, f"{a.score:.4f}", *(f"{value:.{digits}f}" for value in a.proposal)] for k, a in enumerate(answers, start=1)
    ]
    return tabulate(rows, headers=["", "score", *names], disable_numparse=True, colalign=["right"] * (2 + len(names)))


def _explained(found: "Explanation") -> str:
    """Return the attention of the best answer over the words, and the messages that it got, as a table."""
    from tabulate import tabulate

    digits = 2 if len(found.answer.proposal) == 2 else 0
    lines = []
    if found.attention:
        lines += ["", "the best answer attends to: " + ", ".join(f"{word} {w:.2f}" for word, w in found.attention)]
    if not found.neighbours:
        return "\n".join([*lines, "", "it got no messages: the model passes none, or keeps no weights of them"])
    rows, heard = [], [n for n in found.neighbours if n.weight >= LEAST_WEIGHT]
    if not heard:
        return "\n".join([*lines, "", f"messages to it: all of a weight below {LEAST_WEIGHT}"])
    for n in heard:
        itself = n.proposal == found.answer.proposal
        sender = "itself" if itself else " ".join(f"{value:.{digits}f}" for value in n.proposal)
        opened = ", ".join(f"{word} {change:+.2f}" for word, change in n.opened_by())
        rows.append([f"{n.weight:.2f}", n.edge_type, sender, n.layer, opened])
    head = ["weight", "edge", "from", "layer", "opened by"]
    others = len(found.neighbours) - len(heard)
    more = [f"and {counted(others, 'message')} of a weight below {LEAST_WEIGHT}"] if others else []
    return "\n".join([*lines, "", "messages to it:", tabulate(rows, headers=head, disable_numparse=True), *more])
