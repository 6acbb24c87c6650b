"""Inference with a trained model, on the queries of a data set or on any video or image."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from relgrounding._printing import get_logger, progress
from relgrounding._sharing import shared
from relgrounding._signals import look
from relgrounding._urls import is_url
from relgrounding.config import Config, ConfigError
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary, load_word_vectors, tokenize
from relgrounding.io._remote import fetched, local_path
from relgrounding.modalities import Modality, OrderedBatches, Scored, Stores, make_loader
from relgrounding.models import Committee, Recorded, System, first_member
from relgrounding.nn import WordEmbedding, trained_embedding
from relgrounding.runs import RunFolder

logger = get_logger("relgrounding.predictor")
MESSAGES = 5
"""Number of messages that an explanation lists."""
NOTICED = 0.005
"""Smallest change of a weight that is worth a mention."""


class Answer(NamedTuple):
    """A moment or a region with its score.

    Attributes:
        proposal: start and end in seconds, or x1, y1, x2, y2 in pixels.
        score: from 0 to 1.
    """

    proposal: tuple[float, ...]
    score: float


class Neighbour(NamedTuple):
    """A proposal that sent a message to an answer.

    Attributes:
        proposal: as in `Answer`; the answer itself if the edge is one to itself.
        layer: name of the layer in the model.
        edge_type: type of the edge; a message against its edge has " (reversed)" behind it.
        weight: of the message, from 0 to 1: attention (the mean of the heads), or how far its gate is open.
        words: each word of the sentence, with the weight minus the weight without that word; empty: a lone word.
    """

    proposal: tuple[float, ...]
    layer: str
    edge_type: str
    weight: float
    words: tuple[tuple[str, float], ...]

    def opened_by(self, most: int = 2) -> list[tuple[str, float]]:
        """Return the words without which the weight would be lower, the one with the largest share first."""
        return sorted((w for w in self.words if w[1] >= NOTICED), key=lambda word: -word[1])[:most]


class Explanation(NamedTuple):
    """An answer, and how it got its score.

    Attributes:
        answer: the answer.
        attention: each word of the sentence with its share of the answer's attention; empty: the model has none.
        neighbours: of the messages with the highest weights, highest first; empty: the model passes no messages.
    """

    answer: Answer
    attention: tuple[tuple[str, float], ...]
    neighbours: tuple[Neighbour, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all but the answer as JSON values, rounded to four digits."""
        return {
            "attention": _rounded(self.attention),
            "neighbours": [
                n._asdict() | {"weight": round(n.weight, 4), "words": _rounded(n.words)} for n in self.neighbours
            ],
        }


def _rounded(words: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(word, round(value, 4)) for word, value in words]


def usable_device(name: str, fall_back: bool = False) -> torch.device:
    """Return the device of a run; "auto" is CUDA where it is available, else the CPU.

    Args:
        name: see `Config.device`.
        fall_back: use the CPU if the device is not available.

    Raises:
        ConfigError: the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if not fall_back:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device is {name}, which is not available here ({reason}); use device=cpu") from None
    logger.warning("device is %s, which is not available here; the CPU is used", name)
    return torch.device("cpu")


def untrained(config: Config, feature_dim: int, words: int, vectors: torch.Tensor | None = None) -> System:
    """Return an untrained model: a system, or a `Committee`.

    Weights are drawn from PyTorch's generator, those of further members of a committee from the seed of the run alone.

    Args:
        config: of the run.
        feature_dim: width of a clip or region feature.
        words: size of the vocabulary.
        vectors: (words, dim) pretrained word vectors; None: they are trained from scratch.
    """

    def system(model: Any) -> System:
        word_dim = model.word_dim if vectors is None else vectors.shape[1]
        embedding: nn.Module = trained_embedding(words, word_dim) if vectors is None else WordEmbedding(vectors)
        return config.system(model, feature_dim, embedding, word_dim, config.backend)

    plan = config.committee
    members = [system(plan.members[0])]
    with torch.random.fork_rng(devices=[]):
        for number, model in enumerate(plan.members[1:], start=1):
            torch.default_generator.manual_seed((config.seed * 1_000_003 + number) % 2**63)
            members.append(system(model))
    return members[0] if len(members) == 1 else Committee(members, plan)


class Predictor:
    """A model with its vocabulary and settings: scores candidates of queries and selects answers.

    Args:
        config: of the run.
        model: the trained model.
        vocabulary: of the model.
    """

    def __init__(self, config: Config, model: System, vocabulary: Vocabulary) -> None:
        self.config, self.model, self.vocabulary = config, model, vocabulary
        self.modality: Modality = config.modality

    @classmethod
    def restored(cls, config: Config, saved: Mapping[str, Any]) -> "Predictor":
        """Return the predictor of a checkpoint, which also holds the vocabulary and pretrained word vectors, if any.

        Raises:
            LookupError, RuntimeError: the weights belong to another model.
        """
        weights, vocabulary = saved["model"], Vocabulary.from_list(saved["vocabulary"])
        first = first_member(weights)
        width = config.system.feature_dim(config.model, first)
        model = untrained(config, width, len(vocabulary), first.get("embedding.vectors"))
        model.load_state_dict(weights)
        return cls(config, model, vocabulary)

    def words_read(self, text: str) -> list[str]:
        """Return the words of a sentence up to `data.max_words`; the model does not see the rest."""
        return tokenize(text)[: self.config.data.max_words]

    @torch.no_grad()
    def score(
        self,
        queries: Sequence[Query],
        store: Any,
        durations: Mapping[str, float],
        quiet: bool = False,
        desc: str = "scoring",
        together: bool = False,
    ) -> Scored:
        """Score every candidate of every query.

        Args:
            queries: of a split.
            store: their features, by item.
            durations: of the videos, in seconds.
            quiet: without progress.
            desc: what progress is called.
            together: the processes of a job share the batches; each must call this, and has all scores.
        """
        config = self.config
        self.model.eval()
        device = next(self.model.parameters()).device
        collator = self.modality.collator(queries, store, self.vocabulary, config.data, **config.graph_options)
        seconds = self.modality.seconds(queries, durations)

        def scored(batches: Sequence[list[int]]) -> Iterator[Scored]:
            loader = make_loader(collator, batches, config.data.workers)
            for batch in progress(loader, desc=desc, unit="batch", quiet=quiet):
                look()
                scores = self.model(batch.to(device)).cpu()
                proposals, candidates = self.modality.candidates(batch, seconds)
                yield Scored(proposals, list(scores.split(batch.structure.batch_num_nodes.tolist())), candidates)

        # Whole batches are shared: padding, and with it the last bits of a score, depends on what else is in one.
        batches = list(OrderedBatches(len(queries), config.eval.batch_size))
        result = Scored()
        for part in shared(batches, scored) if together else scored(batches):
            result.extend(part)
        return result

    def explain(
        self, query: Query, store: Any, durations: Mapping[str, float], proposals: Sequence[int], most: int = MESSAGES
    ) -> list[Explanation]:
        """Return how proposals of a query got their scores: attention over the words, and messages of neighbours.

        What a word does for a message is found by scoring the sentence without it.

        Args:
            query: of a split.
            store: features, by item.
            durations: of the videos, in seconds.
            proposals: numbers of the proposals.
            most: messages of each, those with the highest weights.
        """
        config = self.config
        words = self.words_read(query.text)
        without = [words[:n] + words[n + 1 :] for n in range(len(words))] if len(words) > 1 else []
        queries = [query, *(replace(query, text=" ".join(others)) for others in without)]
        collator = self.modality.collator(queries, store, self.vocabulary, config.data, **config.graph_options)
        batch = collator(range(len(queries)))
        found = self.modality.candidates(batch, self.modality.seconds(queries, durations))[0][0].tolist()
        self.model.eval()
        recorded = Recorded(self.model, batch.to(next(self.model.parameters()).device))
        explanations = []
        for number in proposals:
            answer = Answer(tuple(found[number]), recorded.scores[number].item())
            neighbours = [
                Neighbour(tuple(found[source]), layer, kind, weight, tuple(zip(words, changes, strict=False)))
                for layer, source, kind, weight, changes in recorded.messages(number)[:most]
            ]
            attention = zip(words, recorded.attention(number), strict=False)  # a model may have none
            explanations.append(Explanation(answer, tuple(attention), tuple(neighbours)))
        return explanations


class _OneItem(dict):
    """Feature store of a single item."""

    def __init__(self, dim: int, content: Any) -> None:
        super().__init__(item=content)
        self.dim = dim


def _local(features: object) -> object:
    """Return the copy of what a URL names; other features as they are."""
    return fetched(features) if isinstance(features, str) and is_url(features) else features


class Grounder:
    """A trained model that answers sentences about a video or an image; made by `Grounder.from_run`.

    >>> grounder = Grounder.from_run("runs/charades_vgn")  # doctest: +SKIP
    >>> answers = grounder.ground("person opens the door", "clips.npy", duration=31.2)  # doctest: +SKIP
    >>> answers[0].proposal, answers[0].score  # doctest: +SKIP
    ((7.8, 13.65), 0.93)

    Args:
        config: of the run.
        saved: a checkpoint: its weights and its vocabulary.
    """

    def __init__(self, config: Config, saved: Mapping[str, Any]) -> None:
        self.config = config
        self.predictor = Predictor.restored(config, saved)
        self.model, self.modality = self.predictor.model, self.predictor.modality
        self.model.to(usable_device(config.device)).eval()
        self.feature_dim: int = config.system.feature_dim(config.model, first_member(saved["model"]))
        """Feature width of the model."""
        self._stores = Stores(self.modality)
        self._vector_file: Path | None = None
        self._looked_up: set[str] = set()

    @classmethod
    def from_run(
        cls,
        path: str | os.PathLike,
        checkpoint: str = "best.pt",
        word_vectors: str | os.PathLike | None = None,
        device: str | None = None,
    ) -> "Grounder":
        """Restore the model of a run from its folder alone: configuration, vocabulary and weights.

        Args:
            path: run folder, with config.yaml and the checkpoint. The data set is not needed.
            checkpoint: file name in it.
            word_vectors: the file of pretrained vectors that the run was trained with. Words that are not in the
                training data then have their own vectors; without the file they share the vector of unknown words, as
                in relgrounding evaluate.
            device: to compute on; None: that of the run if CUDA is available, else the CPU.

        Raises:
            RunError: the folder is not a run, or the checkpoint is missing or cannot be read.
            ValueError: word vectors other than those of the run, or for a run that trained its own.
        """
        folder = RunFolder(path)
        config = folder.read_config()
        config.device = device or (config.device if torch.cuda.is_available() else "cpu")
        config.data.workers = 0
        saved = folder.load(checkpoint)
        try:
            grounder = cls(config, saved)
        except (RuntimeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise folder.another_model(checkpoint, reason) from None
        if word_vectors is not None:
            grounder._use_vectors(Path(word_vectors))
        return grounder

    @property
    def vocabulary(self) -> Vocabulary:
        """Words with their own vectors."""
        return self.predictor.vocabulary

    def unknown_words(self, query: str) -> list[str]:
        """Return the words of a sentence, among those that are read, that share the vector of unknown words."""
        self.learn_words([query])
        return [word for word in self.predictor.words_read(query) if word not in self.vocabulary]

    def ground(
        self,
        query: str,
        features: object,
        *,
        item: str | None = None,
        duration: float | int | None = None,
        boxes: object = None,
        image_size: object = None,
        select: str | None = None,
    ) -> list[Answer]:
        """Answer one sentence about one video or image.

        Args:
            query: the sentence.
            features: of a video: (clips, dim), or a file of it (.npy, .npz, .pt), or a file or folder of many videos.
                Of an image: (regions, dim) or a file of it, with `boxes` and `image_size`; a
                `relgrounding.features.Regions`; a .npz file with boxes and size; or a file or folder of many images.
                All formats that relgrounding prepare converts can be read, see docs/data.md; a URL names a file, too.
            item: id of the video or image in a file or folder of many; may be omitted if there is only one.
            duration: of the video, in seconds; may be omitted if the HDF5 file states it (relgrounding extract).
            boxes: (regions, 4) x1, y1, x2, y2 in pixels.
            image_size: (width, height) in pixels.
            select: "score" or "vote" for moments; None: the method that selected the epoch of the run.

        Returns:
            At most five answers, best first.

        Raises:
            ValueError: features, boxes, duration or a sentence that cannot be used, or an unknown item.
            FileNotFoundError: the file does not exist.
        """
        facts = {"duration": duration, "boxes": boxes, "image_size": image_size}
        scored, rows, _ = self._scored(query, features, item, select, facts)
        proposals, scores = scored.proposals[0][rows].tolist(), scored.scores[0][rows].tolist()
        return [Answer(tuple(proposal), score) for proposal, score in zip(proposals, scores, strict=True)]

    def explain(
        self,
        query: str,
        features: object,
        *,
        item: str | None = None,
        duration: float | int | None = None,
        boxes: object = None,
        image_size: object = None,
        select: str | None = None,
        most: int = MESSAGES,
    ) -> Explanation:
        """Return the best answer with the messages that it got: from which neighbours, opened by which words.

        Args:
            query: see `ground`, and the others.
            features: likewise.
            item: likewise.
            duration: likewise.
            boxes: likewise.
            image_size: likewise.
            select: likewise.
            most: number of messages, those with the highest weights.

        Raises:
            ValueError: as `ground`.
            FileNotFoundError: likewise.
        """
        facts = {"duration": duration, "boxes": boxes, "image_size": image_size}
        _, rows, about = self._scored(query, features, item, select, facts)
        return self.predictor.explain(*about, rows[:1], most)[0]

    def _scored(
        self, query: str, features: object, item: str | None, select: str | None, facts: dict[str, object]
    ) -> tuple[Scored, list[int], tuple[Query, _OneItem, dict[str, float]]]:
        """Return the scored candidates, the numbers of the best, and what the predictor needs to know of the query."""
        self.learn_words([query])
        content, durations = self.modality.read_item(_local(features), item, self._stores, self.feature_dim, **facts)
        store, asked = _OneItem(self.feature_dim, content), Query("query", "item", query, ())
        scored = self.predictor.score([asked], store, durations, quiet=True)
        return (
            scored,
            self.modality.select(scored, self.selection(select), self.config.eval)[0],
            (asked, store, durations),
        )

    def duration(self, features: object, item: str | None = None) -> float | None:
        """Return the duration of a video in seconds if its HDF5 file of features states it, else None."""
        return self._stores.duration(_local(features), item)

    def selection(self, select: str | None = None) -> str:
        """Return the requested selection method, or the one that selected the epoch of the run."""
        return self.modality.check_selection(select or self.modality.default_selection(self.config.eval))

    def ids(self, path: str | os.PathLike) -> list[str]:
        """Return the ids of the videos or images in an HDF5 file of features."""
        return self._stores.open(local_path(path)).ids

    def regions(self, path: str | os.PathLike, item: str | None = None) -> Regions:
        """Return the regions of an image in an HDF5 file; the id may be omitted if there is only one."""
        found = self._stores.read(local_path(path), item)
        if not isinstance(found, Regions):
            raise ValueError(f"this run answers about {self.modality.item}s, which have no regions")
        return found

    def learn_words(self, texts: list[str]) -> None:
        """Load the vectors of all new words of these sentences; do nothing without a file of vectors."""
        if self._vector_file is None:
            return
        met = {word for text in texts for word in tokenize(text)}
        new = sorted(word for word in met - self._looked_up if word not in self.vocabulary)
        self._looked_up.update(new)
        if not new:
            return
        # With a known word, so that a file without any of the new words is not an error.
        known, table = load_word_vectors(
            self._vector_file, Vocabulary([self._anchor, *new]), offset=self.config.data.word_offset
        )
        for system in self.model.systems:
            embedding = system.embedding
            assert isinstance(embedding, WordEmbedding)  # narrows the type for mypy
            embedding.vectors = torch.cat([embedding.vectors, table[3:].to(embedding.vectors)])
        self.predictor.vocabulary = Vocabulary(self.vocabulary.to_list() + known.to_list()[1:])

    @property
    def _anchor(self) -> str:
        return self.vocabulary.to_list()[0]

    def _use_vectors(self, path: Path) -> None:
        embedding = self.model.systems[0].embedding
        if not isinstance(embedding, WordEmbedding):
            raise ValueError(f"{path}: the run trained its word vectors from scratch and does not read a file")
        _, table = load_word_vectors(path, Vocabulary([self._anchor]), offset=self.config.data.word_offset)
        if table.shape[1] != embedding.dim or not torch.equal(table[2], embedding.vectors[2].cpu()):
            raise ValueError(f"{path} is not the file of word vectors that the run was trained with")
        self._vector_file = path
