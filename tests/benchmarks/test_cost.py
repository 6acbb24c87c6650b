"""The cost model of docs/scaling.md against what a step does."""

import functools
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import Machine, Sizes, Workload, crossing, flops, gathered_bytes, gradient_bytes, products
from benchmarks.scaling import make_parser, rate
from benchmarks.scaling_report import tables, write_page
from benchmarks.step import CLIP_DIM, CLIPS, REGION_DIM, VOCABULARY, WORD_DIM, WORDS, draw_batch
from relgrounding.models import IGN, VGN, IGNConfig, VGNConfig
from relgrounding.nn import WordEmbedding
from relgrounding.objectives import MIL, MILConfig
from relgrounding.ops import gru

SMALL = {"hidden": 16, "attention_dim": 24, "relation_dim": 32, "top_r": 2}
MODELS = {
    "ign, product": ("ign", IGNConfig(relation="none", fusion="product", fusion_dim=40, **SMALL)),
    "ign, graph": ("ign", IGNConfig(relation="graph", fusion_dim=40, **SMALL)),
    "vgn, linear": ("vgn", VGNConfig(name="vgn", relation="none", clip_encoder="linear", pooling="mean", **SMALL)),
    "vgn, graph": ("vgn", VGNConfig(name="vgn", relation="graph", **SMALL)),
}


def _model(name: str, config) -> IGN | VGN:
    embedding = WordEmbedding(torch.randn(VOCABULARY, WORD_DIM))
    kind, width = (IGN, REGION_DIM) if name == "ign" else (VGN, CLIP_DIM)
    return kind(config, width, embedding, WORD_DIM, "naive" if name == "ign" else "auto")


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("negatives", [1, 9])
def test_the_matrix_products_of_a_step_are_those_that_pytorch_counts(case, negatives, monkeypatch):
    # Products in C++ are not counted.
    monkeypatch.setattr("relgrounding.nn._encoder.gru", functools.partial(gru, backend="packed"))
    name, config = MODELS[case]
    model, batch = _model(name, config), draw_batch(name, 3, WORDS, seed=0)
    structure = batch.structure
    sizes = Sizes(3, structure.num_nodes // 3, WORDS, negatives, CLIPS if name == "vgn" else 0)
    objective = MIL(model, {"mil": MILConfig(negatives=negatives)}, torch.Generator())
    with FlopCounterMode(display=False) as counter:
        objective(batch)[0].backward()
    assert sum(product.flops for product in products(model, sizes)) == counter.get_total_flops()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if "graph" in case:  # without messages, some parameters of the relation module are not used
        assert gradient_bytes(model) == sum(g.numel() * g.element_size() for g in gradients)
    encoded = model.encode(batch)
    assert gathered_bytes(model, sizes) == sum(x.numel() * x.element_size() for x in encoded)


def test_what_is_counted_grows_with_what_it_depends_on():
    model = _model(*MODELS["ign, graph"])
    usual = flops(model, Sizes(8, 10, 5, 1, edges=30))
    for changed, parts in {
        Sizes(8, 10, 5, 3, edges=30): {"pairs": 2, "words of pairs": 2, "messages": 2},
        Sizes(8, 10, 10, 1, edges=30): {"words": 2, "words of pairs": 2},
        Sizes(8, 20, 5, 1, edges=30): {"pairs": 2, "words of pairs": 2},
        Sizes(8, 10, 5, 1, edges=60): {"messages": 2},
        Sizes(16, 10, 5, 1, edges=30): dict.fromkeys(usual, 2),
    }.items():
        found = flops(model, changed)
        grown = {part: found[part] / usual[part] for part in usual}
        assert {part: grown[part] for part in usual if part not in ("attention", "fusion")} == {
            part: parts.get(part, 1) for part in usual if part not in ("attention", "fusion")
        }


def test_a_machine_by_hand():
    machine = Machine(peak=1e9, efficiency=0.5, calls=1e-6, inside=1e6, between=1e5, latency_inside=1e-3,
                      latency_between=1e-2, per_node=4)  # fmt: skip
    assert machine.collective(1000, 1) == 0
    assert machine.collective(1000, 4) == pytest.approx(2 * 3 / 4 * 1e-3 + 2 * 2 * 1e-3)
    assert machine.collective(1000, 8) == pytest.approx(
        2 * 3 / 4 * 1e-3 + 2 * 2 * 1e-3 + 2 * 1 / 2 * 250 / 1e5 + 2 * 1e-2
    )
    work = Workload("w", Sizes(4, 1, 1, 1), flops=1e7, gradients=1000, gathered=100, calls=1000)
    assert work.seconds(machine, 1) == pytest.approx(0.02)
    assert work.seconds(machine, 4) == pytest.approx(0.005 + 5.5e-3)
    assert work.speedup(machine, 4) == pytest.approx(0.02 / 0.0105)
    assert work.speedup(machine, 4, share=4.0) == pytest.approx(4 * 0.02 / 0.0255)
    # Less than a millisecond of calls is what is left when there is next to nothing to compute.
    assert work.times(machine, 64)["compute"] < work.times(machine, 64)["calls"] == 1e-3
    assert crossing(work, machine, "all-reduce") == 4
    assert crossing(work, machine, "all-reduce", weak=True) == 8


def test_the_speed_is_that_between_lines_of_the_log_after_the_first_steps():
    at = {5: 9.0, 10: 10.0, 15: 12.0, 20: 13.0, 25: 30.0, 30: 31.0}
    lines = [{"step": step, "seconds": seconds, "loss": 1.0} for step, seconds in at.items()]
    assert rate([*lines, {"step": 30, "seconds": 99.0, "epoch_loss": 1.0}], 40, 10) == pytest.approx(40 / 0.3)


def _efficiency(modelled, case):
    """The least and the most speed per GPU of the configurations, in percent, as text by number of GPUs."""
    by_number = {n: [round(100 * of[case][n] / int(n)) for of in modelled.values()] for n in ("64", "512")}
    return {n: f"{min(values)} to {max(values)}" for n, values in by_number.items()}


def test_the_page_holds_the_tables_of_the_published_figures(tmp_path):
    root = Path(__file__).parents[2]
    found = json.loads((root / "benchmarks" / "results" / "scaling.json").read_text())
    text = (root / "docs" / "scaling.md").read_text()
    assert all(content in text for content in tables(found).values())
    said = " ".join(text.split())
    each, gathered = (_efficiency(found["modelled"], case) for case in ("a batch each", "a batch each, gathered"))
    assert f"keeps {each['512']} % of the speed per GPU at 64 nodes" in said
    assert f"{gathered['64']} % of the speed per GPU at eight nodes, {gathered['512']} % at 64" in said
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("cost", "measured", "modelled")))
    write_page(page, found)
    once = page.read_text()
    write_page(page, found)
    assert page.read_text() == once
    assert all(content in once for content in tables(found).values())
    page.write_text("<!-- cost -->")
    with pytest.raises(ValueError, match="holds 0 times <!-- cost -->"):
        write_page(page, found)
    assumed = {key: of["value"] for key, of in found["assumed"].items()}
    usual = vars(make_parser().parse_args(["--data", "."]))
    assert assumed == {key: usual[key] for key in assumed}
