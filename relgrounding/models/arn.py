"""ARN: adaptive reconstruction network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from relgrounding._settings import number
from relgrounding.graphs import GraphStructure, nearest_structure
from relgrounding.modalities import ImageBatch
from relgrounding.models._coordinates import Standardise
from relgrounding.models._system import WIDEST, System, first_weight, register_model
from relgrounding.nn import pad_nodes
from relgrounding.nn._precision import precise_linear


@dataclass
class ARNConfig:
    """Settings of ARN; the defaults are those of its paper."""

    relation: ClassVar[str] = ""

    name: str = "arn"
    """Name of the system."""
    word_dim: int = number(300, least=1, most=WIDEST)
    """Width of word vectors trained from scratch; pretrained vectors keep theirs."""
    hidden: int = number(512, least=1, most=WIDEST)
    """LSTM units per direction."""
    match_dim: int = number(512, least=1, most=WIDEST)
    """Hidden units of the networks that match features and phrases."""
    decoder_dim: int = number(512, least=1, most=WIDEST)
    """LSTM units of the networks that reconstruct the sentence."""
    neighbours: int = number(5, least=0, most=1000)
    """Number k of nearest regions in location and context; 0: none."""
    scale: float = number(20.0, above=0)
    """Initial scale of the parts of a feature after their L2 normalisation."""
    phrase_scale: float = number(1.0, above=0)
    """Scale of a phrase embedding after its L2 normalisation."""
    standardise: bool = False
    """Coordinates, and the columns that `data.geometry_columns` counts, have mean 0 and deviation 1 over the regions of
    the training images before they are L2-normalised."""
    attributes: int = number(50, least=0, most=100_000)
    """Maximum number of attribute words that are classified, see `relgrounding.features.attribute_words`."""
    content: Literal["start", "words"] = "start"
    """Where the network that reconstructs the sentence reads the features: before the first word, as an input of its
    LSTM, or at every word, as a linear term of the logits."""
    content_start: Literal["random", "zero"] = "random"
    """Initial weights of the features in that network. From zero, no region is preferred before the network has learned
    what the features say; random ones prefer some from the first step, others with another seed."""
    least_weight: float = number(0.0, least=0, most=1 / 3)
    """Least weight of a part (subject, location, context); at 1/3, all weigh the same."""
    dropout: float = number(0.0, least=0, below=1)
    """Share of region features and word vectors set to zero in training."""


@dataclass
class Matched:
    """Regions of a batch matched with its sentences.

    Attributes:
        scores: (nodes,) score of each region, from 0 to 1; they sum to 1 in each image.
        features: subject, location and context feature of each region.
        words: (items, length, word_dim) vectors of the words.
        phrases: (items, 3, word_dim) phrase embedding of each part.
        weights: (items, 3) weight of each part; they sum to 1.
    """

    scores: Float[Tensor, " nodes"]
    features: tuple[Float[Tensor, "nodes _"], ...]
    words: Float[Tensor, "items length word_dim"]
    phrases: Float[Tensor, "items 3 word_dim"]
    weights: Float[Tensor, "items 3"]


class ScaledParts(nn.Module):
    """Concatenate parts of a feature, each L2-normalised and multiplied by a learned scale per column.

    Args:
        width: of all parts together.
        scale: initial scale.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, *parts: Float[Tensor, "*nodes _"]) -> Float[Tensor, "*nodes dim"]:
        """Return the feature; a part of zeros stays zero."""
        return self.scale * torch.cat([nn.functional.normalize(part, dim=-1) for part in parts], -1)


class PhraseEncoder(nn.Module):
    """Phrase embeddings of subject, location and context, and the weights of these parts.

    With e_n the vectors of the words and s_n the states of a Bi-LSTM over them,

        q_m = sum_n softmax_n(f_m . s_n) e_n
        w = c + (1 - 3 c) softmax(W [s_L of the forward LSTM; s_1 of the backward LSTM] + b)

    Args:
        word_dim: width of the word vectors.
        hidden: LSTM units per direction.
        least_weight: c, from 0 to 1/3.
    """

    def __init__(self, word_dim: int, hidden: int, least_weight: float = 0.0) -> None:
        super().__init__()
        self.least_weight = least_weight
        self.lstm = nn.LSTM(word_dim, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 3, bias=False)
        self.weight = nn.Linear(2 * hidden, 3)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(
        self, words: Float[Tensor, "items length word_dim"], lengths: Int[Tensor, " items"]
    ) -> tuple[Float[Tensor, "items 3 word_dim"], Float[Tensor, "items 3"]]:
        """Return phrase embeddings and weights; padding of the words is not read."""
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed, (last, _) = self.lstm(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=words.shape[1])
        padding = torch.arange(words.shape[1], device=words.device) >= lengths.unsqueeze(1)
        attention = precise_linear(self.attention, states).masked_fill(padding.unsqueeze(-1), -torch.inf).softmax(1)
        weights = precise_linear(self.weight, torch.cat([last[0], last[1]], -1)).softmax(-1)
        weights = self.least_weight + (1 - 3 * self.least_weight) * weights
        return attention.mT @ words.masked_fill(padding.unsqueeze(-1), 0), weights


class Match(nn.Module):
    """Match features and phrase embeddings: v . ReLU(W [feature; phrase] + b).

    Args:
        feature_dim: width of a feature.
        phrase_dim: width of a phrase embedding.
        dim: hidden units.
    """

    def __init__(self, feature_dim: int, phrase_dim: int, dim: int) -> None:
        super().__init__()
        # W in two parts, so that the phrase's is computed once per sentence.
        self.feature, self.phrase = nn.Linear(feature_dim, dim), nn.Linear(phrase_dim, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)
        # All regions start alike: a code that prefers some regardless of the sentence is hard to leave.
        nn.init.zeros_(self.score.weight)

    def forward(
        self,
        features: Float[Tensor, "nodes *neighbours feature_dim"],
        phrases: Float[Tensor, "items phrase_dim"],
        item: Int[Tensor, " nodes"],
    ) -> Float[Tensor, "nodes *neighbours"]:  # noqa: F821 - a shape, not a product
        """Return the match of each feature with the phrase of its item."""
        phrase = self.phrase(phrases)[item]
        if features.ndim == 3:
            phrase = phrase.unsqueeze(1)
        return precise_linear(self.score, torch.relu(self.feature(features) + phrase)).squeeze(-1)


class SentenceDecoder(nn.Module):
    """Predict each word of a sentence and its end from a content vector and the words before it.

        content "start":  y_n = LSTM(W_c content + b_c, e_1, ..., e_n),   logits_n = W y_n + b
        content "words":  y_n = LSTM(0, e_1, ..., e_n),   logits_n = W y_n + b + W_c content

    Args:
        content_dim: width of the content vector.
        word_dim: width of the word vectors.
        dim: LSTM units.
        num_words: size of the vocabulary; number 0, its padding, stands for the end of the sentence.
        content: "start" or "words".
        start: "random" or "zero": initial W_c.
    """

    def __init__(
        self, content_dim: int, word_dim: int, dim: int, num_words: int, content: str = "start", start: str = "random"
    ) -> None:
        super().__init__()
        self.at_words = content == "words"
        self.content = nn.Linear(content_dim, num_words if self.at_words else word_dim, bias=not self.at_words)
        if start == "zero":
            nn.init.zeros_(self.content.weight)
        self.lstm = nn.LSTM(word_dim, dim, batch_first=True)
        self.word = nn.Linear(dim, num_words)

    def forward(
        self,
        content: Float[Tensor, "items content_dim"],
        words: Float[Tensor, "items length word_dim"],
        lengths: Int[Tensor, " items"],
    ) -> Float[Tensor, "steps num_words"]:
        """Return the logits of the lengths + 1 steps of each sentence, one sentence after another."""
        term = self.content(content)
        first = torch.zeros_like(words[:, :1]) if self.at_words else term.unsqueeze(1)
        states, _ = self.lstm(torch.cat([first, words], 1))
        logits = self.word(states[torch.arange(states.shape[1], device=words.device) <= lengths.unsqueeze(1)])
        return logits + term.repeat_interleave(lengths + 1, 0) if self.at_words else logits


def box_places(batch: ImageBatch) -> Float[Tensor, "nodes geometry_plus_5"]:
    """Return the columns of geometry of each region, then x1/W, y1/H, x2/W, y2/H and wh/WH of its box."""
    geometry, box = batch.places.tensor_split([-4], 1)
    x, y, w, h = box.unbind(-1)
    return torch.cat([geometry, torch.stack([x, y, x + w, y + h, w * h], -1)], -1)


def neighbour_slots(
    structure: GraphStructure, offset: Float[Tensor, "edges 5"], sizes: Float[Tensor, "nodes 2"], k: int
) -> tuple[Int[Tensor, "nodes k"], Float[Tensor, "nodes k 5"]]:
    """Put the in-edges of each region into k slots, those from nearer regions first.

    Args:
        structure: with at most k in-edges per region.
        offset: of each edge's source seen from its destination, see `relgrounding.graphs.nearest_graph`.
        sizes: width and height of each region in any one unit, such as pixels.
        k: number of slots.

    Returns:
        The source in each slot, N in empty ones; and its offset, zeros in empty ones.
    """
    edges, destination = structure.num_edges, structure.destinations
    centre = (offset[:, :2] + offset[:, 2:4]) / 2 * sizes[destination]
    order = centre.square().sum(-1).argsort(stable=True)
    order = order[destination[order].argsort(stable=True)]
    slot = torch.arange(edges, device=order.device) - structure.indptr[destination]
    table = destination.new_full((structure.num_nodes, k), edges).index_put((destination, slot), order)
    sources = nn.functional.pad(structure.indices, (0, 1), value=structure.num_nodes)
    return sources[table], nn.functional.pad(offset, (0, 0, 0, 1))[table]


@register_model("arn")
class ARN(System):
    """Score the regions of images by three parts of a sentence: subject, location and context.

    With e_n the vectors of the words, s_n the states of a Bi-LSTM over them and s its last states, for each part m

        q_m = sum_n softmax_n(f_m . s_n) e_n,   w = c + (1 - 3 c) softmax(W s + b)

    with c the setting `least_weight`. A region has the features, each L2-normalised and multiplied by learned scales,
    one per column:

        subject: its own feature,
        location: [x1/W, y1/H, x2/W, y2/H, wh/WH], and the offsets of the k nearest regions of its category, nearest
            first, zeros if there are fewer,
        context: for each of the k nearest regions, those of other categories first, its feature and its offset,

    where an offset is that of `relgrounding.graphs.nearest_graph`. Where categories are not known, neighbours are the
    nearest regions of any kind. With [;] for concatenation,

        match_m = v . ReLU(W [feature; q_m / |q_m|] + b), for the context the maximum over its k neighbours
        score = sum_m w_m softmax(match_m), the softmax over the regions of the image

    and the context feature is that of the neighbour with the maximum; a region without neighbours has one of zeros.

    Training reconstructs the sentence from features averaged with the score, see `relgrounding.objectives.ARNLoss`.

    Args:
        config: sizes.
        feature_dim: width of a region feature.
        embedding: maps word ids to vectors.
        word_dim: width of the word vectors.
        backend: not read, as no operator with backends is used.

    Source: Liu et al., Adaptive Reconstruction Network for Weakly Supervised Referring Expression Grounding, ICCV 2019.
    """

    Config = ARNConfig
    modality = "image"

    def __init__(
        self, config: ARNConfig, feature_dim: int, embedding: nn.Module, word_dim: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.config, self.embedding = config, embedding
        self.dropout = nn.Dropout(config.dropout)
        self.standardise = Standardise(feature_dim + 5) if config.standardise else None
        self.phrases = PhraseEncoder(word_dim, config.hidden, config.least_weight)
        widths = feature_dim, 5 + 5 * config.neighbours, feature_dim + 5
        self.features = nn.ModuleList(ScaledParts(width, config.scale) for width in widths)
        self.matches = nn.ModuleList(Match(width, word_dim, config.match_dim) for width in widths)
        num_words = int(embedding.num_embeddings)  # type: ignore[arg-type]  # of both kinds of embeddings
        decoder = word_dim, config.decoder_dim, num_words
        self.sentence_decoder = SentenceDecoder(sum(widths), *decoder, config.content, config.content_start)
        self.language_decoder = SentenceDecoder(3 * word_dim, *decoder)
        self.phrase_decoders = nn.ModuleList(nn.Linear(width, word_dim) for width in widths)
        self.attribute = nn.Linear(feature_dim, config.attributes)

    @classmethod
    def graph_options(cls, config: ARNConfig) -> dict[str, Any]:
        return {"edges": "none", "attributes": config.attributes}

    @classmethod
    def feature_dim(cls, config: ARNConfig, weights: Mapping[str, Tensor]) -> int:
        return first_weight(weights, "attribute.weight").shape[1]

    def forward(self, batch: ImageBatch) -> Float[Tensor, " nodes"]:
        """Return the score, from 0 to 1, of every region for the sentence of its image."""
        return self.match(batch).scores

    def match(self, batch: ImageBatch) -> Matched:
        """Match the regions of each image with its sentence."""
        item = batch.structure.node_item
        words = self.embedding(batch.words)
        phrases, weights = self.phrases(self.dropout(words), batch.word_lengths)
        queries = self.config.phrase_scale * nn.functional.normalize(phrases, dim=-1)
        regions, places = self.dropout(batch.regions), self._places(batch)
        geometry, box = places.tensor_split([-5], 1)
        subject = self.features[0](regions, geometry)
        offsets = self._nearest(batch, "same")[1].flatten(1)
        location = self.features[1](box, offsets[:, : 5 * self.config.neighbours])
        context, present = self._context(batch, regions, geometry)
        near = self.matches[2](context, queries[:, 2], item).masked_fill(~present, -torch.inf)
        match, best = near.max(1)
        features = subject, location, context[torch.arange(len(best), device=best.device), best]
        own = [self.matches[m](features[m], queries[:, m], item) for m in (0, 1)]
        padded, mask = pad_nodes(torch.stack([*own, match], -1), batch.structure.batch_num_nodes, fill=-torch.inf)
        scores = (padded.softmax(1)[mask] * weights[item]).sum(-1)
        return Matched(scores, features, words, phrases, weights)

    def fit(self, batches: Iterable[ImageBatch]) -> None:
        if self.standardise is not None:
            self.standardise.fit(box_places(batch) for batch in batches)

    def _places(self, batch: ImageBatch) -> Float[Tensor, "nodes geometry_plus_5"]:
        places = box_places(batch)
        return places if self.standardise is None else self.standardise(places)

    def _context(
        self, batch: ImageBatch, *own: Float[Tensor, "nodes _"]
    ) -> tuple[Float[Tensor, "nodes k dim"], Bool[Tensor, "nodes k"]]:
        """Return the context feature of each neighbour, and which neighbours there are: at least one, of zeros."""
        source, offset = self._nearest(batch, "different_first")
        rows = [nn.functional.pad(x, (0, 0, 0, 1))[source] for x in own]
        present = source < len(batch.boxes)
        present[:, 0] = True
        return self.features[2](*rows, offset), present

    def _nearest(self, batch: ImageBatch, among: str) -> tuple[Int[Tensor, "nodes k"], Float[Tensor, "nodes k 5"]]:
        counts = batch.structure.batch_num_nodes.tolist()
        known = bool((batch.categories >= 0).all())
        boxes, categories = batch.boxes.split(counts), batch.categories.split(counts)
        sizes, slots = batch.boxes[:, 2:] - batch.boxes[:, :2], max(1, self.config.neighbours)
        structure, offset = nearest_structure(list(boxes), slots, list(categories), among if known else "any")
        if not self.config.neighbours:
            structure, offset = structure.without_edges(), offset[:0]
        return neighbour_slots(structure, offset.to(sizes), sizes, slots)
