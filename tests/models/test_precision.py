"""Every system and objective under autocast: what bfloat16 rounds, and what stays in float32."""

import pytest
import torch

from relgrounding.models import log_odds
from relgrounding.objectives import CCL, MIL, ARNLoss, CCLConfig, MILConfig, SemanticCompletion
from relgrounding.objectives.reconstruction import Reconstruction, ReconstructionConfig
from tests.models import test_arn, test_laws, test_scn

COUNTS = [7, 9, 12, 5]
SYSTEMS = {
    "ign none": lambda: test_laws._image("none", COUNTS),
    "ign graph": lambda: test_laws._image("graph", COUNTS),
    "ign compare": lambda: test_laws._image("compare", COUNTS, fusion="product", relation_edges="soft"),
    "vgn graph": lambda: test_laws._video("graph", COUNTS),
    "vgn contrast": lambda: test_laws._contrast("none", COUNTS),
    "vgn compare": lambda: test_laws._video("compare", COUNTS, relation_edges="none"),
    "scn": lambda: test_scn.model_and_collator(),
    "arn": lambda: test_arn.make(COUNTS),
}


def drawn(system):
    """A model in float32 whose weights all matter, and a batch."""
    torch.manual_seed(0)
    model, collator = SYSTEMS[system]()
    batch = collator(range(4))
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(batch, name, value.float())
    with torch.no_grad():
        for weights in model.float().parameters():
            weights.add_(0.2 * torch.randn_like(weights))
    return model.eval(), batch


def autocast(on=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_and_gradients_are_close_to_those_of_float32(system):
    model, batch = drawn(system)
    results = []
    for on in (False, True):
        with autocast(on):
            scores = model(batch)
            odds = log_odds(scores)
        assert scores.dtype == torch.float32
        weights = torch.linspace(1, 2, len(odds))
        grads = torch.autograd.grad((weights * odds).mean(), list(model.parameters()), allow_unused=True)
        results.append((odds, [g for g in grads if g is not None]))
    (exact, exact_grads), (odds, grads) = results
    assert {g.dtype for g in grads} == {torch.float32}
    # Maps were rounded, the logits were not: near misses stay apart.
    assert not torch.equal(odds, exact)
    assert ((odds - odds.bfloat16()).abs() > 1e-5).float().mean() > 0.7
    torch.testing.assert_close(odds, exact, rtol=0.03, atol=0.03)
    flat, exact_flat = (torch.cat([g.flatten() for g in each]) for each in (grads, exact_grads))
    assert torch.cosine_similarity(flat, exact_flat, 0) > 0.99


def objectives(model):
    if isinstance(model, test_scn.SCN):
        return {"scn": SemanticCompletion(model, {"scn": SemanticCompletion.Config()}, torch.Generator())}
    if isinstance(model, test_arn.ARN):
        return {"arn": ARNLoss(model, {"arn": test_arn.ARNLossConfig()}, torch.Generator())}
    edges = CCLConfig.relation_weight if model.relation.has_graph else 0.0
    settings = {"mil": MILConfig(loss="contrastive"), "ccl": CCLConfig(bank_size=50, relation_weight=edges)}
    settings["reconstruction"] = ReconstructionConfig(width=8)
    kinds = {"mil": MIL, "ccl": CCL, "reconstruction": Reconstruction}
    return {name: kind(model, settings, torch.Generator()) for name, kind in kinds.items()}


@pytest.mark.parametrize("system", ["ign graph", "ign compare", "vgn contrast", "scn", "arn"])
def test_losses_are_in_float32_and_close(system):
    model, batch = drawn(system)
    for name, objective in objectives(model).items():
        losses = []
        for on in (False, True):
            objective.generator.manual_seed(3)
            torch.manual_seed(3)
            with autocast(on):
                loss, logged = objective(batch)
            assert loss.dtype == torch.float32, name
            assert {value.dtype for value in logged.values()} <= {torch.float32}, name
            losses.append(loss)
        torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02, msg=name)
