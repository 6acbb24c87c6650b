"""Run folders written by hand: what figures and reports read, without any training."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from relgrounding.config import Config, load_config
from relgrounding.runs import RunFolder

HOSTILE = "<script>alert('x')</script> $\\frac{ \"quoted\" & \u2028 </textarea>"


def write_run(
    path: Path,
    shift: float,
    video: bool = True,
    queries: int = 30,
    protocols: Sequence[str] = (),
    old: bool = False,
    explained: bool = False,
) -> Path:
    """Write a run whose answer to query i is off by shift * i: IoU falls with i.

    Args:
        path: of the folder.
        shift: see above, in seconds or pixels.
        video: about videos, else about images.
        queries: their number.
        protocols: none: the usual ones of the data set.
        old: without date, device, durations and sizes, as earlier versions wrote runs.
        explained: with what neighbours said to the answers.
    """
    config: Config = load_config(None, ["data.dataset=charades_sta", "model.name=vgn"] if video else [])
    folder = RunFolder(path)
    folder.write_config(config)
    if old:
        written = path / "config.yaml"
        written.write_text(re.sub(r"started:\n(  .*\n)+", "", written.read_text()))
    for step in range(1, 6):
        folder.log({"step": 10 * step, "epoch": step // 2, "seconds": 1.0 * step, "loss": 1 / step})
    metric = "R@1,IoU=0.5" if video else "Acc@0.5"
    for epoch in (1, 2):
        folder.log({"step": 20 * epoch, "epoch": epoch, "seconds": 3.0, f"validation/{metric}": 30.0 + epoch})
    protocols = protocols or (["official, select=score", "official, select=vote"] if video else ["single"])
    frame = {} if old else {"duration": 80.0} if video else {"size": [640, 480]}
    lines = []
    why = {"explanation": explanation(video)} if explained else {}
    for protocol in protocols:
        for i in range(queries):
            off = shift * i
            proposal = [10.0 + off, 20.0 + off] if video else [10.0 + off, 10.0, 60.0 + off, 60.0]
            target = [10.0, 20.0] if video else [10.0, 10.0, 60.0, 60.0]
            text = HOSTILE if i == 3 else f"person number {i} left of the {'very ' * (i % 9)}old door"
            top = [{"proposal": proposal, "score": 0.9}, {"proposal": target, "score": 0.1}]
            lines.append({"split": "test", "protocol": protocol, "id": f"q{i}", "item": f"v{i // 2}", "text": text,
                          "top": top, "targets": [target], **frame, **why})  # fmt: skip
    (path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = [
        {"dataset": config.data.dataset, "protocol": protocol, "split": "test", "model": config.model.name,
         "queries": queries, "metrics": {metric: 40.0}, "floors": {"random": {metric: 10.0}, "<b>": {metric: 12.0}},
         "oracle": {metric: 99.0}, "seed": 0, "seconds": 1.0}
        for protocol in protocols
    ]  # fmt: skip
    (path / "results.json").write_text(json.dumps(entries))
    return path


def explanation(video: bool = True) -> dict:
    """Return what one neighbour says, what the answer 0 says to itself, and what is too little to be drawn."""
    places = [[40.0, 60.0], [10.0, 20.0], [1.0, 2.0]]
    proposals = places if video else [[100.0, 20.0, 160.0, 80.0], [10.0, 10.0, 60.0, 60.0], [1.0, 2.0, 3.0, 4.0]]
    said = [
        {
            "proposal": p,
            "layer": "relation.0",
            "edge_type": "after $",
            "weight": w,
            "words": [["<b>left", w / 2], ["of", 0]],
        }
        for p, w in zip(proposals, (0.9, 0.5, 0.01), strict=True)
    ]
    return {"attention": [["<b>left", 0.7], ["of", 0.3]], "neighbours": said}


def change_lines(folder: Path, change) -> None:
    """Replace every line of predictions.jsonl by what `change` makes of it."""
    path = folder / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))
