"""The losses of ARN: what the best-scored regions must be able to say again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._settings import ConfigError, number
from relgrounding.modalities import ImageBatch
from relgrounding.models import ARN, System
from relgrounding.models.arn import Matched, SentenceDecoder
from relgrounding.nn import pad_nodes
from relgrounding.nn._precision import widened, without_autocast
from relgrounding.objectives._objective import Objective, register_objective


@dataclass
class ARNLossConfig:
    """Weights of ARN's losses."""

    sentence: float = number(5.0, least=0)
    """Of the sentence, reconstructed from the features of all three parts."""
    phrase: float = number(0.01, least=0)
    """Of the phrase embeddings, each reconstructed from the feature of its part."""
    language: float = number(1.0, least=0)
    """Of the sentence, reconstructed from the three phrase embeddings."""
    attribute: float = number(1.0, least=0)
    """Of the sentence's attribute words, classified from the subject feature."""
    even: float = number(0.0, least=0, below=1)
    """Share of the plain mean of an image's regions in the features that are reconstructed from. Near 1, what the
    networks that reconstruct have learned does not depend on which regions have been preferred so far."""


@register_objective("arn")
class ARNLoss(Objective):
    """Reconstruct sentence, phrases and attribute words from the features of the regions that ARN scores highest.

    With k_i the scores of an image's N regions, which sum to 1, e the setting `even`, z_m = sum_i k'_i z_mi with
    k'_i = (1 - e) k_i + e / N the mean feature of part m, q_m the phrase embeddings and w_m their weights, the weighted
    sum of the means over items of

        sentence:  the sentence's mean cross-entropy per word and end, from [z_1; z_2; z_3]
        phrase:    sum_m w_m |A_m z_m + a_m - q_m|^2
        language:  as sentence, from [q_1; q_2; q_3]
        attribute: binary cross-entropy, mean over the attribute words, of C z_1 + c

    A term of weight 0 is not computed.

    Source: Liu et al., Adaptive Reconstruction Network for Weakly Supervised Referring Expression Grounding, ICCV 2019.
    """

    Config = ARNLossConfig
    model: ARN

    @classmethod
    def check(cls, settings: Mapping[str, Any], model: Any, system: type[System]) -> None:
        if not issubclass(system, ARN):
            raise ConfigError(f"arn reconstructs from the parts of ARN; {system.name} has no such parts")

    @classmethod
    def needs_negatives(cls, config: Any) -> bool:
        return False

    @classmethod
    def gathers(cls, config: Any) -> bool:
        return True  # means over items, without draws

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and those of its terms that count, without their weights."""
        model, matched = self.model, self.model.match(batch)
        counts, even = batch.structure.batch_num_nodes, self.config.even
        weights = (1 - even) * matched.scores + even / counts[batch.structure.node_item] if even else matched.scores
        means = score_means(matched.features, weights, counts)
        terms: dict[str, Callable[[], Tensor]] = {
            "sentence": lambda: self._reconstruct(model.sentence_decoder, torch.cat(means, -1), matched, batch),
            "phrase": lambda: self._phrase(means, matched),
            "language": lambda: self._reconstruct(model.language_decoder, matched.phrases.flatten(1), matched, batch),
            "attribute": lambda: attribute_loss(model.attribute(means[0]), batch.attributes),
        }
        losses = {name: term() for name, term in terms.items() if getattr(self.config, name)}
        total = sum((getattr(self.config, name) * loss for name, loss in losses.items()), batch.places.new_zeros(()))
        return total, {name: loss.detach() for name, loss in losses.items()}

    def _phrase(self, means: list[Tensor], matched: Matched) -> Tensor:
        found = [decoder(mean) for decoder, mean in zip(self.model.phrase_decoders, means, strict=True)]
        return phrase_loss(torch.stack(found, 1), matched.phrases, matched.weights)

    @staticmethod
    def _reconstruct(decoder: SentenceDecoder, content: Tensor, matched: Matched, batch: ImageBatch) -> Tensor:
        logits = decoder(content, matched.words, batch.word_lengths)
        return sentence_loss(logits, batch.words, batch.word_lengths)


def score_means(
    features: tuple[Float[Tensor, "nodes _"], ...], scores: Float[Tensor, " nodes"], counts: Int[Tensor, " items"]
) -> list[Float[Tensor, "items _"]]:
    """Return the sum of the features of each item's nodes, multiplied by their scores."""
    weights, _ = pad_nodes(scores, counts)
    with without_autocast(weights):
        return [(weights.unsqueeze(1) @ pad_nodes(feature.to(weights), counts)[0]).squeeze(1) for feature in features]


def sentence_loss(
    logits: Float[Tensor, "steps num_words"], words: Int[Tensor, "items length"], lengths: Int[Tensor, " items"]
) -> Float[Tensor, ""]:
    """Mean over sentences of the mean cross-entropy of their words and their end.

    Args:
        logits: of lengths + 1 steps per sentence, one sentence after another: of its words, then of number 0, its end.
        words: word numbers, 0 at padding.
        lengths: number of words of each sentence.
    """
    targets, steps = nn.functional.pad(words, (0, 1)), lengths + 1
    real = torch.arange(targets.shape[1], device=words.device) < steps.unsqueeze(1)
    weights = (1 / (steps * len(steps))).repeat_interleave(steps)
    return (nn.functional.cross_entropy(widened(logits), targets[real], reduction="none") * weights).sum()


def phrase_loss(
    found: Float[Tensor, "items 3 word_dim"],
    phrases: Float[Tensor, "items 3 word_dim"],
    weights: Float[Tensor, "items 3"],
) -> Float[Tensor, ""]:
    """Mean over items of sum_m w_m |found_m - q_m|^2."""
    return (weights * (widened(found) - phrases).square().sum(-1)).sum(-1).mean()


def attribute_loss(
    logits: Float[Tensor, "items attributes"], present: Float[Tensor, "items known"]
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of the attribute words that a vocabulary has: the first columns; 0 without any."""
    known = present.shape[1]
    if not known:
        return logits.new_zeros(())
    return nn.functional.binary_cross_entropy_with_logits(logits[:, :known], present)
