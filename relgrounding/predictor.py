"""From a run folder to answers on a video or an image that no data set knows."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from relgrounding.config import Config
from relgrounding.datasets import Query
from relgrounding.features import Regions, Vocabulary, load_word_vectors, tokenize
from relgrounding.modalities._inputs import Stores, check_duration, read_clips, read_regions
from relgrounding.nn import WordEmbedding
from relgrounding.training._evaluate import score_split, select_top
from relgrounding.training._runs import RunFolder
from relgrounding.training._task import Split, Task, build_model, feature_dim


class Answer(NamedTuple):
    """A moment or a region with its score.

    Attributes:
        proposal: start and end in seconds, or x1, y1, x2, y2 in pixels.
        score: from 0 to 1.
    """

    proposal: tuple[float, ...]
    score: float


class _OneItem(dict):
    """The features of the one item that is asked about; when empty, only their width."""

    def __init__(self, dim: int, items: dict | None = None) -> None:
        super().__init__(items or {})
        self.dim = dim


class Grounder:
    """A trained model that answers sentences about a video or an image; made by `Grounder.from_run`.

    >>> grounder = Grounder.from_run("runs/charades_vgn")  # doctest: +SKIP
    >>> answers = grounder.ground("person opens the door", "clips.npy", duration=31.2)  # doctest: +SKIP
    >>> answers[0].proposal, answers[0].score  # doctest: +SKIP
    ((7.8, 13.65), 0.93)
    """

    def __init__(self, config: Config, weights: dict[str, torch.Tensor], words: list[str]) -> None:
        dim = feature_dim(config, weights)
        empty = Split([], _OneItem(dim))
        self.task = Task(config, empty, empty, Vocabulary.from_list(words), weights.get("embedding.vectors"))
        self.model = build_model(self.task)
        self.model.load_state_dict(weights)
        self.model.to(config.device).eval()
        self._stores = Stores(self.video)
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
            word_vectors: the file of pretrained vectors that the run was trained with. A word that training never met
                then has its own vector; without the file all such words share the model's vector of unknown words, as
                they do in tools/evaluate.py.
            device: where to compute; None: where the run did if that exists here, else the CPU.

        Raises:
            RunError: no run, no checkpoint, or one that cannot be read.
            ValueError: word vectors for a run that trained its own, or not those of the run.
        """
        folder = RunFolder(path)
        config = folder.read_config()
        config.device = device or (config.device if torch.cuda.is_available() else "cpu")
        config.data.workers = 0
        saved = folder.load(checkpoint)
        try:
            grounder = cls(config, saved["model"], saved["vocabulary"])
        except (RuntimeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise folder.another_model(checkpoint, reason) from None
        if word_vectors is not None:
            grounder._use_vectors(Path(word_vectors))
        return grounder

    @property
    def video(self) -> bool:
        """Whether the model answers about videos; else about images."""
        return self.task.video

    @property
    def feature_dim(self) -> int:
        """Width of the features that the model reads."""
        return self.task.feature_dim

    def unknown_words(self, query: str) -> list[str]:
        """Return the words of a sentence that share the vector of unknown words."""
        self.learn_words([query])
        return [word for word in tokenize(query) if word not in self.task.vocabulary]

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
                All that tools/prepare.py converts is read as it is, docs/data.md has the formats.
            item: which video or image of a file or folder of many; may be left out where it holds one.
            duration: of the video, in seconds; may be left out where the HDF5 file says it (tools/extract.py).
            boxes: (regions, 4) x1, y1, x2, y2 in pixels.
            image_size: (width, height) in pixels.
            select: "score" or "vote" for moments; None: what chose the epoch of the run.

        Returns:
            At most five answers, best first.

        Raises:
            ValueError: features, boxes, duration or a sentence that cannot be used, or an unknown item.
            FileNotFoundError: no such file.
        """
        self.learn_words([query])
        content: np.ndarray | Regions
        if self.video:
            content = read_clips(features, item, self._stores, self.feature_dim)
            seconds = self.duration(features, item) if duration is None else duration
            self.task.durations = {"item": check_duration(seconds)}
        else:
            content = read_regions(features, boxes, image_size, item, self._stores, self.feature_dim)
        split = Split([Query("query", "item", query, ())], _OneItem(self.feature_dim, {"item": content}))
        scored = score_split(self.model, self.task, split, quiet=True)
        rows = select_top(self.task, split, scored, self.how(select))[0]
        proposals, scores = scored.proposals[0][rows].tolist(), scored.scores[0][rows].tolist()
        return [Answer(tuple(proposal), score) for proposal, score in zip(proposals, scores, strict=True)]

    def duration(self, features: object, item: str | None = None) -> float | None:
        """Return the seconds of a video that an HDF5 file of features says; None: it does not."""
        return self._stores.duration(features, item)

    def how(self, select: str | None = None) -> str:
        """Return how moments are chosen: as asked, or in the way that chose the epoch of the run."""
        how = select or self.task.config.eval.select[-1]
        if how not in ("score", "vote"):
            raise ValueError(f"select is '{how}'; it is 'score' or 'vote'")
        return how

    def ids(self, path: str | os.PathLike) -> list[str]:
        """Return the ids of the videos or images in an HDF5 file of features."""
        return self._stores.open(Path(path)).ids

    def regions(self, path: str | os.PathLike, item: str | None = None) -> Regions:
        """Return the regions of an image in an HDF5 file, of the only one where no id is given."""
        found = self._stores.read(Path(path), item)
        if not isinstance(found, Regions):
            raise ValueError("this run answers about videos, which have no regions")
        return found

    def learn_words(self, texts: list[str]) -> None:
        """Read the vectors of all new words of these sentences at once; without a file of vectors nothing happens."""
        if self._vector_file is None:
            return
        met = {word for text in texts for word in tokenize(text)}
        new = sorted(word for word in met - self._looked_up if word not in self.task.vocabulary)
        self._looked_up.update(new)
        if not new:
            return
        # A known word goes along, so that a file without any of the new ones is no error.
        known, table = load_word_vectors(self._vector_file, Vocabulary([self._anchor, *new]))
        embedding = self.model.embedding
        assert isinstance(embedding, WordEmbedding)  # narrows the type for mypy
        embedding.vectors = torch.cat([embedding.vectors, table[3:].to(embedding.vectors)])
        self.task.vocabulary = Vocabulary(self.task.vocabulary.to_list() + known.to_list()[1:])

    @property
    def _anchor(self) -> str:
        return self.task.vocabulary.to_list()[0]

    def _use_vectors(self, path: Path) -> None:
        embedding = self.model.embedding
        if not isinstance(embedding, WordEmbedding):
            raise ValueError(f"{path}: the run trained its word vectors from scratch and reads no file of them")
        _, table = load_word_vectors(path, Vocabulary([self._anchor]))
        if table.shape[1] != embedding.dim or not torch.equal(table[2], embedding.vectors[2].cpu()):
            raise ValueError(f"{path} is not the file of word vectors that the run was trained with")
        self._vector_file = path
