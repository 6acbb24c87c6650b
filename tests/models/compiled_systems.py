"""Training steps of compiled systems against eager ones; prints what agrees.

A program of its own: a compiler does not see through the shape checks that pytest puts around every function.
"""

import copy
import functools
import tempfile
from pathlib import Path

import torch

from relgrounding._settings import ConfigError
from relgrounding.models import IGN, compile_pieces
from relgrounding.objectives import CCL, MIL, CCLConfig, MILConfig, SemanticCompletion
from relgrounding.runs import RunFolder
from relgrounding.training import _trainer
from tests.models import test_laws, test_scn
from tests.training.tiny import train

COUNTS = [7, 9, 12, 5, 6, 8]
BATCHES = [[0, 1, 2], [1, 3, 4, 5, 0], [5, 2], [0, 1, 2, 3, 4, 5]]
SETTINGS = {
    "mil": MILConfig(loss="contrastive", negatives=2),
    "quiet": MILConfig(message_dropout=0.5),
    "ccl": CCLConfig(bank_size=50, edges="rewired"),
    "scn": SemanticCompletion.Config(),
}
SYSTEMS = {
    "ign graph": (lambda: test_laws._image("graph", COUNTS), [MIL, "quiet", CCL]),
    "vgn graph": (lambda: test_laws._video("graph", COUNTS), [MIL]),
    "vgn contrast": (lambda: test_laws._contrast("none", COUNTS), [MIL]),
    "scn": (lambda: test_scn.model_and_collator(lengths=COUNTS), [SemanticCompletion]),
}


def step(model, kind, batch):
    """Loss and gradients."""
    torch.manual_seed(0)
    settings = SETTINGS | ({"mil": SETTINGS["quiet"]} if kind == "quiet" else {})
    objective = (MIL if kind == "quiet" else kind)(model, settings, torch.Generator().manual_seed(len(batch)))
    if kind is CCL:
        objective(batch)  # fills the banks
    loss, _ = objective(batch)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(parameters, grads, strict=True)
    return loss, torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def graphs() -> int:
    assert not torch._dynamo.utils.counters["graph_break"]
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def agree(name: str, backend: str, kinds=None, autocast: bool = False) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(1)
    make, every = SYSTEMS[name]
    model, collator = make()
    model = model.float().train()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    compiled = copy.deepcopy(model)
    compile_pieces(compiled, backend)
    for kind in kinds or every:
        seen = []
        for rows in BATCHES:
            batch = collator(rows)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                (loss, grads), (found, found_grads) = (step(each, kind, batch) for each in (model, compiled))
            if not autocast:
                torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
                assert (found_grads - grads).norm() <= 1e-5 * grads.norm() + 1e-7, (name, kind)
            else:
                torch.testing.assert_close(found, loss, rtol=0.02, atol=0.02)
            seen.append(graphs())
        # Batches of other sizes run the same code. What is left: layers with and without messages, and sizes that are
        # equal by chance in the first batch.
        assert seen[-1] <= seen[0] + (6 if kind == "quiet" else 1), (name, kind, seen)
    batch = collator(BATCHES[0])
    assert torch.equal(compiled.eval()(batch), model.eval()(batch))  # evaluation is as before
    print(name, backend, seen[-1], flush=True)


class Counting(IGN):
    """A model whose step depends on a value."""

    def combine(self, proposals, words):
        return super().combine(proposals * float(proposals.sum() > 0), words)


def refuse() -> None:
    model, collator = test_laws._image("none", COUNTS)
    model.__class__ = Counting
    compile_pieces(model.train(), "aot_eager")
    try:
        step(model, MIL, collator(BATCHES[0]))
    except ConfigError as error:
        print("refused:", error)


def train_alike() -> None:
    """Both stages of a run, with averaged weights."""
    _trainer.compile_pieces = functools.partial(compile_pieces, backend="aot_eager")
    words = ["train.epochs=1", "ccl.epochs=1", "ccl.bank_size=50", "train.log_every=1", "train.ema=0.9"]
    losses = []
    with tempfile.TemporaryDirectory() as runs:
        for compiled in ("false", "true"):
            folder = RunFolder(Path(runs) / compiled)
            train(folder, *words, f"train.compile={compiled}")
            losses.append(torch.tensor([line["loss"] for line in folder.read_log() if "loss" in line]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    print("training aot_eager", len(losses[0]), flush=True)


for name in SYSTEMS:
    agree(name, "aot_eager")
agree("ign graph", "aot_eager", [MIL], autocast=True)
refuse()
train_alike()
agree("vgn contrast", "inductor")
