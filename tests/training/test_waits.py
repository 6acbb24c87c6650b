"""Steps of the shipped systems do not wait for a GPU."""

import json

import numpy as np
import pytest
import torch

from benchmarks.waits import PretendedGPU
from relgrounding.config import load_config
from relgrounding.features import Regions, write_clip_features, write_region_features
from relgrounding.modalities import Cut, Piece
from relgrounding.runs import RunError, RunFolder
from relgrounding.training import Trainer, make_task
from relgrounding.training._average import Average
from relgrounding.training._draws import Draws
from relgrounding.training._schedule import stages
from relgrounding.training._step import Step
from relgrounding.training._task import build_model
from tests.training.tiny import tiny_config

SMALL = {
    "model.hidden": 8,
    "model.attention_dim": 8,
    "model.relation_dim": 8,
    "data.word_vectors": "",
    "model.word_dim": 8,
    "data.batch_size": 4,
    "train.ema": 0.9,
}
COLOURS = ("red", "blue", "dark green", "grey")


def data(folder, video):
    """Items of different sizes, with sentences of different lengths."""
    random = np.random.default_rng(0)
    if video:
        clips = ((f"i{i}", random.standard_normal((9 + i % 3, 6))) for i in range(9))
        write_clip_features(folder / "features.h5", clips)
        answer = {"duration": 8.0, "segment": [2, 6]}
    else:
        corners = random.integers(0, 60, (9, 7, 2))
        boxes = np.concatenate([corners, corners + random.integers(5, 40, (9, 7, 2))], 2).astype(np.float32)
        features = random.standard_normal((9, 7, 6)).astype(np.float32)
        regions = ((f"i{i}", Regions(features[i, : 4 + i % 4], boxes[i, : 4 + i % 4], (100, 100))) for i in range(9))
        write_region_features(folder / "features.h5", regions)
        answer = {"box": [0, 0, 5, 5]}
    kind = "video" if video else "image"
    lines = [{kind: f"i{i}", "query": f"the {COLOURS[i % 4]} one"} | answer for i in range(9)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"data.dataset": "own", "data.queries": f"{folder}/{{split}}.jsonl", "data.features": folder / "features.h5"}


def waits_of_steps(config, gpu):
    """The waits of the second step of each stage, by line."""
    task = make_task(config)
    collator = task.collator(task.train)
    batches = [collator(rows) for rows in ([0, 1, 2, 3], [3, 4, 5, 0])]
    model, generator, found = build_model(task).to("cuda"), torch.Generator(), []
    for stage in stages(config):
        trained = model.begin(stage.member)
        whole = model if stage.member else trained
        objectives = {kind.name: kind(whole, config.sections, generator) for kind in stage.objectives}
        parameters = [*trained.parameters(), *(p for o in objectives.values() for p in o.parameters())]
        draws = Draws(generator, Cut(), 0, 0, torch.device("cpu"))
        average = Average(parameters, config.train.ema)
        step = Step(objectives, parameters, torch.optim.Adam(parameters), average, config.train, draws)
        model.train()
        for number, batch in enumerate(batches):
            gpu.reset()
            batch.block = torch.tensor([0, 0, 0, -1])
            step([(Piece(batch.queries, 1.0), batch.to("cuda"))], 1e-3, number)
        found.append({line.split()[1].rstrip(":"): number for line, number in gpu.lines.items()})
    return found


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("charades_vgn", {"cotrain.rounds": 1}, [{}, {}]),
        pytest.param("charades_vgn_paper", {}, [{}], marks=pytest.mark.slow),
        ("refcoco_ign", {"data.category_columns": 3, "data.geometry_columns": 1}, [{}, {}, {}]),
        # How many edges CCL leaves of a graph follows from gradients.
        ("refcoco_ign_paper", {"data.category_columns": 0, "data.geometry_columns": 0}, [{}, {"remove_edges": 1}]),
        ("flickr30k_ign", {}, [{}]),
    ],
)
def test_a_step_of_a_shipped_system_does_not_wait_for_the_device(name, words, expected, tmp_path):
    video = "vgn" in name
    own = data(tmp_path, video) | ({"data.widths": [2, 4], "model.heads": 2} if video else {"model.fusion_dim": 8})
    with PretendedGPU() as gpu:
        found = waits_of_steps(load_config(name, SMALL | own | words), gpu)
    assert found == expected


def trained(folder, *words):
    """A run, and of each checkpoint the losses so far and a weight."""
    trainer, saved = Trainer(make_task(tiny_config("train.epochs=1", *words)), RunFolder(folder), quiet=True), []

    def save(name, state):
        saved.append((name, list(state["state"]["losses"]), state["model"]["score.weight"].tolist()))

    trainer.folder.save = save
    return trainer, saved


def test_what_a_gpu_tells_late_is_known_before_it_is_logged_or_written(tmp_path):
    plain, expected = trained(tmp_path / "plain", "train.save_every=2")
    plain.run()
    with PretendedGPU() as gpu:
        other, found = trained(tmp_path / "other", "train.save_every=2", "device=cuda", "backend=csr")
        waits, step = [], other._step

        def counted(pieces):
            gpu.reset()
            done = step(pieces)
            waits.append(dict(gpu.lines))
            return done

        other._step = counted
        other.run()
    assert waits == [{}] * len(waits)
    assert len(waits) == other.steps_per_epoch > 2
    assert [name for name, *_ in found] == [name for name, *_ in expected]
    assert {len(losses) for _, losses, _ in found} >= {0, 2}
    for one, two in zip(found, expected, strict=True):
        assert one[1] == pytest.approx(two[1], rel=1e-4)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("plain", "other")]
    for lines in zip(*logs, strict=True):
        one, two = ({k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines)
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gradient_that_is_not_finite_ends_the_run_before_its_weights_are_written(device, tmp_path):
    with PretendedGPU():
        trainer, saved = trained(tmp_path / "run", f"device={device}", "train.save_every=2")
        step, number = trainer.step._loss, iter(range(100))
        trainer.step._loss = lambda batch: (step(batch)[0] * (torch.nan if next(number) == 1 else 1), {})
        with pytest.raises(RunError, match=r"the gradient at step 1 is not finite \(loss nan\)"):
            trainer.run()
    assert [(name, len(losses)) for name, losses, _ in saved] == [("last.pt", 0)]
