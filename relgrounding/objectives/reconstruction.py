"""Reconstruction: the proposal that a sentence selects must explain the words that are hidden from it.

Completing a sentence from the selected proposal is the objective of Lin et al., Weakly-Supervised Video Moment
Retrieval via Semantic Completion Network, AAAI 2020; reconstruction from a score-weighted mean of proposals that of
Rohrbach et al., Grounding of Textual Phrases in Images by Reconstruction, ECCV 2016.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._settings import ConfigError, number
from relgrounding.features.vocabulary import UNKNOWN
from relgrounding.modalities import Batch
from relgrounding.models import Encoded, GroundingModel, System, item_log_softmax, log_odds
from relgrounding.nn import pad_nodes
from relgrounding.nn._precision import widened, without_autocast
from relgrounding.objectives._objective import Objective, register_objective
from relgrounding.objectives._pairings import draw_messages
from relgrounding.objectives.scn import draw_masked


@dataclass
class ReconstructionConfig:
    """Settings of reconstruction, as in `train.objectives=[mil,reconstruction]`."""

    weight: float = number(1.0, least=0)
    """Weight of its loss."""
    hidden_share: float = number(0.34, above=0, most=1)
    """Share of the words of a sentence that are hidden and predicted, rounded down, at least one; 1: all of them."""
    width: int = number(256, least=1, most=65_536)
    """Width of the decoder."""
    temperature: float = number(1.0, above=0)
    """Temperature of the softmax over the scores of an item's proposals; below 1, fewer of them are mixed."""
    message_dropout: float = number(0.5, least=0, below=1)
    """Share of the steps in which a relation layer passes no messages, drawn independently per layer. With messages in
    all steps, every proposal knows what the others show, and any of them explains the words."""


class WordDecoder(nn.Module):
    """Predict a word from the state of its place in the sentence and the feature of the selected proposal.

        logits = E W_o ReLU(W_s s + W_v v + b) + a

    Args:
        language_dim: width of s.
        feature_dim: width of v.
        width: rows of W_s and W_v.
        embedding: of the words; its table E is shared with the model.
    """

    def __init__(self, language_dim: int, feature_dim: int, width: int, embedding: nn.Module) -> None:
        super().__init__()
        count = embedding.num_embeddings
        assert isinstance(count, int)  # narrows the type for mypy
        self.words = count
        self.sentence = nn.Linear(language_dim, width)
        self.proposal = nn.Linear(feature_dim, width, bias=False)
        dim = embedding(torch.tensor([[UNKNOWN]], device=next(embedding.parameters()).device)).shape[-1]
        self.output = nn.Linear(width, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(count))

    def forward(
        self,
        states: Float[Tensor, "places language_dim"],
        features: Float[Tensor, "places feature_dim"],
        embedding: nn.Module,
    ) -> Float[Tensor, "places words"]:
        """Return the logit of every word of the vocabulary at each place."""
        table = embedding(torch.arange(self.words, device=states.device)[None])[0]
        x = torch.relu(self.sentence(states) + self.proposal(features))
        return self.output(x) @ table.T + self.bias


@register_objective("reconstruction")
class Reconstruction(Objective):
    """Predict hidden words of a sentence from the proposals that the whole sentence selects.

    Words are drawn by importance (`relgrounding.features.word_importance`) and become the vector of unknown words, so
    that no feature of the model has seen them:

        a = softmax over the item's proposals of  log(k / (1 - k)) / T,   k from the whole sentence
        v = sum_t a_t p_t,   p = represent(graph, h, l) with l from the sentence with hidden words, states s'_n
        L = weight times the mean over sentences of the mean over hidden words n of  -log softmax(decoder(s'_n, v))_n

    p is computed after message passing, where it is on (`message_dropout`). No negatives are needed.
    """

    Config = ReconstructionConfig
    label = "reconstruction"
    model: GroundingModel

    def __init__(self, model: GroundingModel, settings: Mapping[str, Any], generator: torch.Generator) -> None:
        super().__init__(model, settings, generator)
        dims = model.language_dim, model.represented_dim
        self.decoder = WordDecoder(*dims, self.config.width, model.embedding)
        self.decoder.to(next(model.parameters()).device)

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        if not issubclass(system, GroundingModel):
            raise ConfigError(f"reconstruction needs a GroundingModel, whose steps it calls; {system.name} is not one")

    @classmethod
    def needs_negatives(cls, config: ReconstructionConfig) -> bool:
        return False

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.decoder.parameters()

    def state_dict(self) -> dict[str, Any]:
        return {"decoder": self.decoder.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.decoder.load_state_dict(state["decoder"])

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and the mean cross-entropy of a hidden word before it is weighted."""
        model, structure = self.model, batch.structure
        if not model.relation.has_graph:
            structure = structure.without_edges()
        # Unknown words have no vector of their own to predict.
        importance = batch.importance.masked_fill(batch.words == UNKNOWN, 0)
        drawn = draw_masked(importance, batch.word_lengths, self.config.hidden_share, self.generator)
        hidden = drawn & (importance > 0)
        partial = dataclasses.replace(batch, words=batch.words.masked_fill(hidden, UNKNOWN))
        whole, seen = model.encode(batch), model.encode(partial).words
        with model.relation.passing(draw_messages(model, self.config.message_dropout, self.generator)):
            scores = model.pair(structure, *whole, batch.word_lengths)
            features = self.represented(structure, Encoded(whole.proposals, seen), batch)
        odds = log_odds(scores) / self.config.temperature
        weights = item_log_softmax(odds, structure.batch_num_nodes).exp()
        selected = weighted_mean(weights, features, structure.batch_num_nodes)
        sentence, _ = hidden.nonzero(as_tuple=True)
        logits = self.decoder(seen[hidden], selected.index_select(0, sentence), model.embedding)
        loss = word_loss(logits, batch.words[hidden], hidden.sum(1))
        return self.config.weight * loss, {"reconstruction/cross_entropy": loss.detach()}

    def represented(self, structure: Any, encoded: Encoded, batch: Batch) -> Float[Tensor, "nodes represented_dim"]:
        """Return the feature of every proposal after message passing, for these sentences."""
        proposals, words = encoded
        contexts = self.model.interact(proposals, words, batch.word_lengths, structure.node_item)
        fused = self.model.fuse(proposals, contexts)
        return self.model.represent(structure, proposals, fused)


def weighted_mean(
    weights: Float[Tensor, " nodes"], features: Float[Tensor, "nodes dim"], batch_num_nodes: Int[Tensor, " items"]
) -> Float[Tensor, "items dim"]:
    """Return the sum of the features of each item's proposals times their weights."""
    padded, _ = pad_nodes(widened(features), batch_num_nodes)
    padded_weights, _ = pad_nodes(weights, batch_num_nodes)
    with without_autocast(features):
        return torch.einsum("bt,btd->bd", padded_weights, padded)


def word_loss(
    logits: Float[Tensor, "places words"], targets: Int[Tensor, " places"], counts: Int[Tensor, " items"]
) -> Float[Tensor, ""]:
    """Return the mean over sentences of the mean cross-entropy of their words; sentences without one do not count.

    Args:
        logits: of every word at each place, sentence by sentence.
        targets: the word at each place.
        counts: number of places of each sentence.
    """
    losses = nn.functional.cross_entropy(widened(logits), targets, reduction="none")
    weight = (1.0 / counts.clamp_min(1)).to(losses).repeat_interleave(counts)
    return (weight * losses).sum() / (counts > 0).sum().clamp_min(1)
