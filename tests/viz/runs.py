"""Run folders written by hand: what figures and reports read, without any training."""

import json
from pathlib import Path

from relgrounding.config import Config, load_config
from relgrounding.runs import RunFolder

HOSTILE = "<script>alert('x')</script> $\\frac{ \"quoted\" & \u2028 </textarea>"


def write_run(path: Path, shift: float, video: bool = True, queries: int = 30) -> Path:
    """A run whose answer to query i is off by shift * i: IoU falls with i."""
    words = ["data.dataset=charades_sta", "model.name=vgn"] if video else []
    config: Config = load_config(None, words)
    folder = RunFolder(path)
    folder.write_config(config)
    for step in range(1, 6):
        folder.log({"step": 10 * step, "epoch": step // 2, "seconds": 1.0 * step, "loss": 1 / step})
    metric = "R@1,IoU=0.5" if video else "Acc@0.5"
    for epoch in (1, 2):
        folder.log({"step": 20 * epoch, "epoch": epoch, "seconds": 3.0, f"validation/{metric}": 30.0 + epoch})
    lines = []
    for protocol in ("official, select=score", "official, select=vote") if video else ("single",):
        for i in range(queries):
            proposal = [10.0 + shift * i, 20.0 + shift * i] if video else [10 + shift * i, 10.0, 60.0 + shift * i, 60.0]
            target = [10.0, 20.0] if video else [10.0, 10.0, 60.0, 60.0]
            text = HOSTILE if i == 3 else f"person number {i} left of the {'very ' * (i % 9)}old door"
            top = [{"proposal": proposal, "score": 0.9}, {"proposal": target, "score": 0.1}]
            lines.append({"split": "test", "protocol": protocol, "id": f"q{i}", "item": f"v{i // 2}", "text": text,
                          "top": top, "targets": [target]})  # fmt: skip
    (path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = [
        {"dataset": config.data.dataset, "protocol": p, "split": "test", "model": config.model.name, "queries": queries,
         "metrics": {metric: 40.0}, "floors": {"random": {metric: 10.0}, "<b>": {metric: 12.0}},
         "oracle": {metric: 99.0}, "seed": 0, "seconds": 1.0}
        for p in dict.fromkeys(line["protocol"] for line in lines)
    ]  # fmt: skip
    (path / "results.json").write_text(json.dumps(entries))
    return path
