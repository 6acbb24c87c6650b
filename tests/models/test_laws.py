"""Laws of VGN and IGN: a batch equals its items, gradients reach every weight, relations can be switched off."""

import numpy as np
import pytest
import torch

from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary
from relgrounding.modalities import ImageCollator, VideoCollator
from relgrounding.models import IGN, VGN, IGNConfig, VGNConfig
from relgrounding.nn import trained_embedding

SIZES = {"hidden": 5, "attention_dim": 6, "relation_dim": 8, "top_r": 2}
TEXTS = ["door", "the person opens the door", "a red box"]


class _Store(dict):
    dim = 4


def _queries(count: int) -> list[Query]:
    return [Query(str(i), str(i), TEXTS[i % 3], ((0.0, 1.0),)) for i in range(count)]


def _video(relation: str, lengths: list[int], **settings):
    generator = np.random.default_rng(0)
    store = _Store({str(i): generator.normal(size=(n, 4)).astype(np.float32) for i, n in enumerate(lengths)})
    vocabulary = Vocabulary.from_texts(TEXTS)
    collator = VideoCollator(_queries(len(lengths)), store, vocabulary, widths=[2, 3, 5], stride=1.0)
    model = VGN(
        VGNConfig(name="vgn", relation=relation, heads=2, **SIZES, **settings),
        4,
        trained_embedding(len(vocabulary), 6),
        6,
    )
    return model, collator


def _image(relation: str, counts: list[int], **settings):
    generator = np.random.default_rng(0)
    store = _Store()
    for i, n in enumerate(counts):
        corner = generator.integers(0, 50, (n, 2))
        boxes = np.concatenate([corner, corner + generator.integers(1, 40, (n, 2))], 1).astype(np.float32)
        store[str(i)] = Regions(generator.normal(size=(n, 4)).astype(np.float32), boxes, (100, 90))
    vocabulary = Vocabulary.from_texts(TEXTS)
    collator = ImageCollator(_queries(len(counts)), store, vocabulary)
    model = IGN(
        IGNConfig(relation=relation, fusion_dim=7, position_dim=3, **SIZES, **settings),
        4,
        trained_embedding(len(vocabulary), 6),
        6,
    )
    return model, collator


def _contrast(relation: str, lengths: list[int]):
    return _video(relation, lengths, clip_encoder="linear", pooling="mean", contrast=0.5)


def _product(relation: str, counts: list[int]):
    return _image(relation, counts, fusion="product")


MAKERS = [
    pytest.param(_video, [6, 1, 9], id="vgn"),
    pytest.param(_contrast, [6, 1, 9], id="vgn, contrast"),
    pytest.param(_image, [3, 1, 7], id="ign"),
    pytest.param(_product, [3, 1, 7], id="ign, product"),
]


@pytest.mark.parametrize("relation", ["graph", "none"])
@pytest.mark.parametrize(("make", "sizes"), MAKERS)
def test_a_batch_equals_its_items_also_one_clip_one_box_and_one_word(make, sizes, relation):
    model, collator = make(relation, sizes)
    batch = collator([0, 1, 2])
    together = model(batch).split(batch.structure.batch_num_nodes.tolist())
    for place, scores in enumerate(together):
        torch.testing.assert_close(model(collator([place])), scores, rtol=1e-4, atol=1e-5)
        assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize(("make", "sizes"), MAKERS)
def test_every_weight_of_the_whole_model_gets_a_gradient(make, sizes):
    model, collator = make("graph", sizes)
    batch = collator([0, 1, 2])
    model.align(batch.structure, model(batch)).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(("make", "sizes"), MAKERS)
def test_without_the_relation_module_a_proposal_does_not_see_its_neighbours(make, sizes):
    for relation, sees in (("graph", True), ("none", False)):
        model, collator = make(relation, sizes)
        batch = collator([2])
        proposals, words = model.encode(batch)
        changed = proposals.clone()
        changed[0] += 1
        before = model.pair(batch.structure, proposals, words, batch.word_lengths)
        after = model.pair(batch.structure, changed, words, batch.word_lengths)
        assert not torch.equal(before[0], after[0])
        assert torch.equal(before[1:], after[1:]) != sees
        for heard in ([False, True], [True, False], [False, False]):
            with model.relation.passing(heard):
                partly = model.pair(batch.structure, proposals, words, batch.word_lengths)
            assert torch.equal(partly, before) != sees


@pytest.mark.parametrize(("make", "sizes"), MAKERS)
def test_messages_of_one_layer_reach_neighbours_only(make, sizes):
    model, collator = make("graph", sizes)
    batch = collator([2])
    proposals, words = model.encode(batch)
    changed = proposals.clone()
    changed[0] += 1
    structure = batch.structure
    near = torch.zeros(structure.num_nodes, dtype=torch.bool)
    near[structure.destinations[structure.indices == 0]] = True
    near[structure.indices[structure.destinations == 0]] = True
    near[0] = True
    for heard in ([True, False], [False, True]):
        with model.relation.passing(heard):
            before, after = (model.pair(structure, p, words, batch.word_lengths) for p in (proposals, changed))
        assert torch.equal(before[~near], after[~near])


@pytest.mark.parametrize(("make", "sizes"), MAKERS)
def test_maps_made_before_the_pairing_give_what_maps_after_it_give(make, sizes):
    model, collator = make("graph", sizes)
    model, batch = model.double(), collator([0, 1, 2])
    for name in ("clips", "regions", "places"):
        if hasattr(batch, name):
            setattr(batch, name, getattr(batch, name).double())
    encoded, items, sentences = model.encode(batch), torch.tensor([2, 0, 1, 2]), torch.tensor([0, 0, 1, 2])
    structure, nodes = batch.structure.select(items), batch.structure.item_nodes(items)
    sentence = sentences[structure.node_item]
    early = model.score_pairs(structure, model.prepare(encoded).take(nodes), batch.word_lengths, sentence)
    proposals = encoded.proposals[nodes]
    contexts = model.interact(proposals, encoded.words, batch.word_lengths, sentence)
    late = model.reason(structure, proposals, model.fuse(proposals, contexts))
    torch.testing.assert_close(early, late, rtol=1e-11, atol=0)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found, expected = (torch.autograd.grad(k.sum(), weights, retain_graph=True) for k in (early, late))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_product_is_taken_of_what_the_factors_make_of_region_and_words():
    model, _ = _product("none", [1])
    proposals, contexts = torch.randn(3, 8), torch.randn(3, 10)
    factors = [
        x @ linear.weight.T + linear.bias for linear, x in zip(model.product, (proposals, contexts), strict=True)
    ]
    fused = torch.cat([proposals, contexts, factors[0] * factors[1]], 1) @ model.fusion.weight.T + model.fusion.bias
    torch.testing.assert_close(model.fuse(proposals, contexts), fused)
